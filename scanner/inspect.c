/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/inspect.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/base/proc.h"
#include "scanner/leash.h"
#include "scanner/opening.h"

/* The parent's side: it opens, answers, and takes over what was found.
 *
 * Each image has a process of its own, so what one does to its reader is no other's business. */

#define POLL_MS 100

const char *const inspect_extent_names[INSPECT_NR_EXTENTS] = {
	[INSPECT_DATA] = "data", [INSPECT_PACKED] = "compressed",
	[INSPECT_ZERO] = "zero", [INSPECT_PREALLOCATED] = "preallocated",
	[INSPECT_HOLE] = "hole",
};

const char *const inspect_problem_names[INSPECT_NR_PROBLEMS] = {
	[INSPECT_UNREAD] = "unread", [INSPECT_DOUBT] = "doubt",	    [INSPECT_CHAIN] = "chain",
	[INSPECT_DIRTY] = "dirty",   [INSPECT_CORRUPT] = "corrupt", [INSPECT_EXTRAS] = "extras",
	[INSPECT_GUEST] = "guest",
};

bool inspect_failed(const struct inspection *i)
{
	for (uint32_t n = 0; n < i->nr_problems; n++)
		if (i->problems[n].kind == INSPECT_UNREAD)
			return true;
	return false;
}

/* ---- nothing is taken on trust ---- */

#define END_TEXT(text) ((text)[sizeof(text) - 1] = '\0')

static void limit(uint32_t *v, uint64_t most)
{
	*v = (uint32_t)min_u64(*v, most);
}

static void check_lists(struct inspection *i)
{
	for (uint32_t n = 0; n < i->nr_problems; n++) {
		limit(&i->problems[n].kind, INSPECT_NR_PROBLEMS - 1);
		limit(&i->problems[n].err_kind, ERR_USAGE);
		END_TEXT(i->problems[n].text);
	}
	for (uint32_t n = 0; n < i->nr_members; n++) {
		END_TEXT(i->members[n].path);
		END_TEXT(i->members[n].format);
		END_TEXT(i->members[n].kind);
		END_TEXT(i->members[n].id);
		END_TEXT(i->members[n].error);
	}
	for (uint32_t n = 0; n < i->parts_listed; n++)
		END_TEXT(i->parts[n].path);
	for (uint32_t n = 0; n < i->snapshots_listed; n++) {
		END_TEXT(i->snapshots[n].id);
		END_TEXT(i->snapshots[n].name);
	}
	for (uint32_t n = 0; n < i->bitmaps_listed; n++)
		END_TEXT(i->bitmaps[n].name);
}

/* Makes a struct that anybody could have written one that anybody can read. */
static void check(struct inspection *i)
{
	limit(&i->certainty, IMAGE_TOLD);
	limit(&i->nr_problems, INSPECT_PROBLEMS_MAX);
	limit(&i->nr_members, IMAGE_CHAIN_MAX);
	limit(&i->parts_listed, min_u64(i->nr_parts, INSPECT_PARTS_MAX));
	limit(&i->snapshots_listed, min_u64(i->nr_snapshots, INSPECT_SNAPSHOTS_MAX));
	limit(&i->bitmaps_listed, min_u64(i->nr_bitmaps, INSPECT_BITMAPS_MAX));
	END_TEXT(i->format);
	END_TEXT(i->kind);
	END_TEXT(i->id);
	END_TEXT(i->backing_id);
	END_TEXT(i->backing_name);
	END_TEXT(i->backing_format);
	END_TEXT(i->features);
	check_lists(i);
}

/* ---- the conversation ---- */

struct talk {
	const struct inspect_options *o;
	const struct root *image;
	struct stat st;
	struct proc proc;
	struct leash leash;
	struct err why; /* why the reader was put out; no kind: it was not */
	struct worker_message m;
};

static int send_job(struct talk *t, int fd, struct err *err)
{
	t->m = (struct worker_message){ .kind = WORKER_JOB };
	t->m.job.named = 1;
	snprintf(t->m.job.format, sizeof(t->m.job.format), "%s", t->o->format ? t->o->format : "");
	snprintf(t->m.job.path, sizeof(t->m.job.path), "%s", t->image->path);
	return worker_send(t->proc.sock, &t->m, fd, err);
}

/* The next message of the reader: 1 = it is there, 0 = there is none that makes sense, -1 = the user wants to stop. */
static int receive(struct talk *t, struct err *err)
{
	struct pollfd p = { .fd = t->proc.sock, .events = POLLIN };
	int fd = -1, rc;
	ssize_t n;

	while ((rc = poll(&p, 1, POLL_MS)) <= 0) {
		if (t->o->stopper && stopper_says(t->o->stopper))
			return err_set(err, ERR_CANCELED, "stopped");
		if (rc < 0 && errno != EINTR)
			return err_errno(err, "cannot wait for a worker");
		if (leash_check(&t->leash, &t->why) < 0)
			return 0;
	}
	n = proc_recv(t->proc.sock, &t->m, sizeof(t->m), &fd, NULL);
	if (fd >= 0)
		file_close(fd, "a worker's file", NULL);
	return n >= (ssize_t)sizeof(t->m.kind) && (size_t)n >= worker_message_len(t->m.kind);
}

/* 1 = it is done, 0 = the reader is gone or was put out, -1 = ours to give up. */
static int converse(struct talk *t, struct err *err)
{
	struct opening opened;
	int rc;

	while ((rc = receive(t, err)) > 0) {
		if (t->m.kind == WORKER_DONE)
			return 1;
		if (t->m.kind != WORKER_OPEN ||
		    opening_answer(t->proc.sock, &t->m, t->o->roots, &t->st, &t->leash, &opened, &t->why) < 0)
			return 0;
		if (opened.fd >= 0)
			file_close(opened.fd, opened.path, NULL);
	}
	return rc;
}

static int inspect_file(struct talk *t, int fd, struct inspection *ret, struct err *err)
{
	char how[PROC_HOW_ROOM];
	int rc;

	if (proc_start(&t->proc, sizeof(*ret), t->o->jail, t->o->run ? t->o->run : inspect_run, NULL, err) < 0)
		return -1;
	leash_begin(&t->leash, t->proc.pid, 0);
	leash_add_file(&t->leash, fd);
	rc = send_job(t, fd, NULL) < 0 ? 0 : converse(t, err);
	if (rc > 0) {
		memcpy(ret, t->proc.shared, sizeof(*ret)); /* once: what is looked at is not what can still change */
		check(ret);
	}
	proc_end(&t->proc, 1, how, sizeof(how));
	if (rc == 0) {
		if (t->why.kind != ERR_REFUSED)
			err_set(&t->why, ERR_IO, "the process that read it died (%s)", how);
		inspect_add_problem(ret, INSPECT_UNREAD, &t->why);
	}
	return rc < 0 ? -1 : 0;
}

int inspect_image(const struct root *image, const struct inspect_options *o, struct inspection *ret, struct err *err)
{
	struct talk t = { .o = o, .image = image };
	struct err why = ERR_INIT;
	int fd = roots_open_root(image, &why), rc = 0;

	memset(ret, 0, sizeof(*ret));
	if (fd >= 0 && file_stat(fd, &t.st) == 0)
		rc = inspect_file(&t, fd, ret, err);
	else
		inspect_add_problem(ret, INSPECT_UNREAD, &why);
	if (fd >= 0)
		file_close(fd, image->path, NULL);
	snprintf(ret->path, sizeof(ret->path), "%s", image->path);
	return rc;
}
