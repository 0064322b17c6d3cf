/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/exchange.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "compactor/pool/view.h"
#include "scanner/base/file.h"

/* How it works: the same exchange as that of a replacement, the other way round: the original arrives, the new file
 * leaves.  The newest replacement of an image goes back first, so that one that was replaced twice comes to its first
 * original.
 *
 * An original that stands on a pool which was moved since is told first where that is now.  It keeps its mtime, by which it is
 * known; while it may have another one the journal knows it by none, and has that where its ctime was. */

#define NS INT64_C(1000000000)

/* The image must be the file that was put there, as it was then. */
static int check_new(const struct exchange *x, struct err *err)
{
	struct spool_identity is;
	struct stat st;

	if (file_ops->fstat(x->leaving.fd, &st) < 0)
		return err_errno(err, "cannot stat it");
	is = spool_identity_of(&st);
	if (workshop_same(&is, &x->entry.replacement) && is.ctime == x->entry.replacement.ctime)
		return 0;
	return err_set(err, ERR_STALE,
		       "it has changed since it was replaced, which an undo would lose; its original stays in the trash");
}

/* ---- what the original stands on ---- */

/* It has its time again, and is known by it. */
static int end_mending(struct exchange *x, struct err *err)
{
	struct spool_identity *is = &x->entry.original;
	int64_t s = is->ctime / NS - (is->ctime % NS < 0), ns = is->ctime - s * NS;
	const struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_sec = s, .tv_nsec = ns } };

	if (file_ops->futimens(x->arriving.fd, times) < 0)
		return err_errno(err, "cannot give its original its time again");
	if (file_ops->fsync(x->arriving.fd) < 0) /* the time, too */
		return err_errno(err, "cannot sync its original");
	is->mtime = is->ctime;
	return journal_append(&x->workshop->journal, &x->entry, err);
}

static int mend(struct exchange *x, struct err *err)
{
	struct workshop *w = x->workshop;
	int rc;

	x->entry.original.ctime = x->entry.original.mtime;
	x->entry.original.mtime = WORKSHOP_ANY_TIME;
	if (journal_append(&w->journal, &x->entry, err) < 0)
		return -1;
	rc = w->mend(w->mend_ctx, x->arriving.fd, err);
	return end_mending(x, rc < 0 ? NULL : err) < 0 ? -1 : rc;
}

/* 1 = what it stands on, if that is a pool, is there; 0, and its path; -1. */
static int has_backing(int fd, char ret[PATH_MAX], struct err *err)
{
	struct err why = ERR_INIT;
	struct slice s;
	struct stat st;
	uint64_t size;
	int rc = overlay_backing(fd, &s, &size, &why);

	if (rc < 0 && why.errnum) /* else it is something else than qcow2 */
		return err_set(err, why.kind, "its original: %s", why.text);
	if (rc <= 0 || file_ops->fstatat(AT_FDCWD, s.path, &st, 0) == 0)
		return 1;
	snprintf(ret, PATH_MAX, "%s", s.path);
	return 0;
}

/* An overlay on a pool can be read only as long as the pool has what it stands on. */
static int check_backing(struct exchange *x, struct err *err)
{
	struct err why = ERR_INIT;
	char path[PATH_MAX];
	int rc = has_backing(x->arriving.fd, path, err);

	if (rc == 0 && x->workshop->mend && mend(x, &why) == 0)
		rc = has_backing(x->arriving.fd, path, err);
	if (rc)
		return rc < 0 ? -1 : 0;
	return err_set(err, ERR_STALE, "its original stands on '%s', which is not there any more%s%s; the image stays as it is",
		       path, why.kind ? ", and " : "", why.text);
}

static int check_original(struct exchange *x, struct err *err)
{
	struct spool_identity is;
	struct stat st;

	if (file_ops->fstat(x->arriving.fd, &st) < 0)
		return err_errno(err, "cannot stat its original");
	is = spool_identity_of(&st);
	if (!workshop_same(&is, &x->entry.original))
		return err_set(err, ERR_STALE, "its original in the trash has changed; see what it is");
	if (x->entry.original.mtime == WORKSHOP_ANY_TIME && end_mending(x, err) < 0)
		return -1;
	return check_backing(x, err);
}

/* ---- one ---- */

static int open_both(struct exchange *x, struct err *err)
{
	char name[WORKSHOP_NAME_ROOM];
	int rc = workshop_find(x->workshop, x->entry.number, x->entry.original.ino, &x->store, err);

	if (rc <= 0)
		return rc < 0 ? -1 : err_set(err, ERR_STALE, "its original is not in the trash any more");
	x->dirfd = workshop_open_dir(x->workshop, x->entry.path, &x->name, err);
	if (x->dirfd < 0)
		return -1;
	x->leaving.fd = workshop_open_file(x->dirfd, x->name, err);
	if (x->leaving.fd < 0)
		return -1;
	store_name(x->store, x->entry.number, name);
	x->arriving.fd = workshop_open_file(store_dirfd(x->workshop, x->store), name, err);
	return x->arriving.fd < 0 ? -1 : 0;
}

/* Held first, looked at then. */
static int hold_both(struct exchange *x, struct err *err)
{
	struct hold_options o = { .assume_idle = x->entry.assume_idle };
	char name[WORKSHOP_NAME_ROOM];

	store_name(x->store, x->entry.number, name);
	if (hold_take(&x->leaving.hold, x->leaving.fd, x->dirfd, x->name, &o, err) < 0 || check_new(x, err) < 0)
		return -1;
	if (hold_take(&x->arriving.hold, x->arriving.fd, store_dirfd(x->workshop, x->store), name, &o, err) < 0)
		return err_add(err, "its original");
	return check_original(x, err);
}

static int undo_one(struct workshop *w, const struct journal_entry *e, struct err *err)
{
	struct exchange x = EXCHANGE_INIT;
	int rc;

	x.workshop = w;
	x.entry = *e;
	x.back = true;
	rc = open_both(&x, err);
	if (rc == 0)
		rc = hold_both(&x, err);
	if (rc == 0)
		rc = exchange_begin(&x, err);
	if (rc == 0)
		rc = exchange_run(&x, w->settle_ns, err);
	exchange_release(&x, true);
	return rc < 0 ? err_add(err, "'%s'", e->path) : 0;
}

/* The newest that can be undone, of a number below `before`. */
static const struct journal_entry *newest(const struct journal *j, const char *path, uint64_t before)
{
	for (size_t i = j->live.nr; i-- > 0;) {
		const struct journal_entry *e = &j->live.items[i];

		if (e->number < before && e->state == JOURNAL_DONE && (!path || strcmp(e->path, path) == 0))
			return e;
	}
	return NULL;
}

int workshop_undo(struct workshop *w, const char *path, uint64_t *ret_nr, struct err *err)
{
	const struct journal_entry *next;
	uint64_t before = UINT64_MAX, nr_failed = 0;
	struct err first = ERR_INIT;

	*ret_nr = 0;
	while ((next = newest(&w->journal, path, before)) && !w->journal.broken) {
		CLEANUP(free) char *copy = strdup(next->path);
		struct journal_entry e = *next;
		struct err why = ERR_INIT;

		if (!copy)
			return err_set(err, ERR_MEMORY, "out of memory");
		e.path = copy;
		before = e.number;
		if (undo_one(w, &e, &why) == 0)
			++*ret_nr;
		else if (!nr_failed++)
			first = why;
	}
	if (nr_failed && err)
		*err = first;
	if (nr_failed > 1)
		err_add(err, "%llu originals stay, one of them", (unsigned long long)nr_failed);
	return nr_failed ? -1 : 0;
}
