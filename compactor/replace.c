/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/replace.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <time.h>

#include "compactor/attributes.h"
#include "compactor/exchange.h"
#include "scanner/base/file.h"

/* How it works: here are steps 1 to 4, during which nothing but files of our own changes; exchange.c has the rest.
 * Each step is a function.  What fails before the journal says SWAP is undone by removing <n>.new.
 *
 * The original is opened once, and by that descriptor it is held, read, compared and looked at again; the new file
 * likewise (also held from step 4 on: who opens the path once it is there must not be forgotten either, should the
 * exchange be turned round).  Both descriptors have O_NOATIME where allowed, so that reading leaves no trace. */

struct job {
	const struct replacing *r;
	struct exchange x;
	struct attributes attributes;
	char new_name[WORKSHOP_NAME_ROOM];
	unsigned nr_checks;
};

#define WRITE_OUT_EVERY 16 /* checks; some MiB lie between two of them */

/* What make() and prove() call while they work.  Now and then it has the disk begin with what was written, which would otherwise
 * all be left to one long sync in the end. */
static int check(void *ctx, uint64_t done, uint64_t total, struct err *err)
{
	struct job *job = ctx;

	(void)done;
	(void)total;
	if (++job->nr_checks % WRITE_OUT_EVERY == 0)
		file_drop_cache(job->x.arriving.fd, NULL);
	if (job->r->stopper && stopper_says(job->r->stopper))
		return err_set(err, ERR_CANCELED, "stopped; the image is as it was");
	return hold_whole(&job->x.leaving.hold, err);
}

/* ---- 1. the original ---- */

static int on_another(const struct job *job, struct err *err)
{
	return err_set(err, ERR_UNSUPPORTED,
		       "it lies on another file system, or btrfs subvolume, than '%s/" WORKSHOP_NAME "'; "
		       "name a directory of its own",
		       job->r->workshop->path);
}

/* Recovery reaches the image by its path, so that must lead where the descriptor is. */
static int check_path(const struct job *job, struct err *err)
{
	const struct replacing *r = job->r;
	struct stat ours, theirs;
	const char *name;
	struct err why = ERR_INIT;
	int fd = workshop_open_dir(r->workshop, r->path, &name, &why), rc = 0;

	if (fd < 0 && why.errnum == EXDEV)
		return on_another(job, err);
	if (fd < 0) {
		if (err)
			*err = why;
		return -1;
	}
	if (file_ops->fstat(fd, &ours) < 0 || file_ops->fstat(r->dirfd, &theirs) < 0)
		rc = err_errno(err, "cannot stat its directory");
	else if (ours.st_ino != theirs.st_ino || ours.st_dev != theirs.st_dev || strcmp(name, r->name) != 0)
		rc = err_set(err, ERR_STALE, "its directory was moved");
	file_ops->close(fd);
	return rc;
}

/* A replacement of it that has no end yet must get one first. */
static int check_nothing_open(const struct job *job, struct err *err)
{
	const struct journal *j = &job->r->workshop->journal;

	for (size_t i = 0; i < j->live.nr; i++)
		if (j->live.items[i].state != JOURNAL_DONE && strcmp(j->live.items[i].path, job->r->path) == 0)
			return err_set(err, ERR_STALE, "it was being replaced before, and how that ended is open; run dedupscan "
						       "recover");
	return 0;
}

/* Only regular files are opened: a FIFO or a device may do something then. */
static int check_kind(const struct job *job, struct err *err)
{
	struct stat st;
	int rc = workshop_look(job->r->dirfd, job->r->name, &st, err);

	if (rc <= 0)
		return rc < 0 ? -1 : err_set(err, ERR_STALE, "it is not there any more");
	if (S_ISLNK(st.st_mode))
		return err_set(err, ERR_REFUSED, "a symbolic link; name the file that it leads to");
	if (!S_ISREG(st.st_mode))
		return err_set(err, ERR_REFUSED, "not a regular file");
	if (st.st_nlink != 1)
		return err_set(err, ERR_REFUSED, "it has %u names (hard links), of which only one would be replaced",
			       (unsigned)st.st_nlink);
	if (st.st_dev != job->r->workshop->dev)
		return on_another(job, err);
	return 0;
}

static int check_unchanged(const struct job *job, const struct spool_identity *expected, struct err *err)
{
	struct spool_identity is;
	struct stat st, named;
	int rc;

	if (file_ops->fstat(job->x.leaving.fd, &st) < 0)
		return err_errno(err, "cannot stat it");
	is = spool_identity_of(&st);
	if (!spool_identity_equal(&is, expected))
		return err_set(err, ERR_STALE, "it changed meanwhile; try again later");
	if (st.st_nlink != 1)
		return err_set(err, ERR_REFUSED, "it has %u names (hard links), of which only one would be replaced",
			       (unsigned)st.st_nlink);
	rc = workshop_look(job->r->dirfd, job->r->name, &named, err);
	if (rc < 0)
		return -1;
	if (rc == 0 || named.st_ino != st.st_ino || named.st_dev != st.st_dev)
		return err_set(err, ERR_STALE, "another file has its name by now");
	return 0;
}

static int check_places(const struct job *job, struct err *err)
{
	const struct workshop *w = job->r->workshop;

	if (attributes_may_enter(&job->attributes, w->dirfd, err) < 0 ||
	    attributes_may_enter(&job->attributes, w->trash_fd, err) < 0)
		return -1;
	return attributes_may_enter(&job->attributes, job->r->dirfd, err);
}

static int look_at_original(struct job *job, struct err *err)
{
	const struct replacing *r = job->r;
	struct exchange_file *old = &job->x.leaving;

	if (check_path(job, err) < 0 || check_nothing_open(job, err) < 0 || check_kind(job, err) < 0)
		return -1;
	old->fd = workshop_open_file(r->dirfd, r->name, err);
	if (old->fd < 0 || hold_take(&old->hold, old->fd, r->dirfd, r->name, &r->hold, err) < 0 ||
	    check_unchanged(job, &r->expected, err) < 0)
		return -1;
	if (attributes_read(old->fd, &job->attributes, err) < 0)
		return -1;
	return check_places(job, err);
}

/* ---- 2. the new file ---- */

static int create(struct workshop *w, const char *name, int flags, struct err *err)
{
	return file_open(w->dirfd, name, flags | O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0600, err);
}

/* Two files of our own change places, so that it is known before hours of work whether files can. */
static int probe_exchange(struct workshop *w, struct err *err)
{
	int a = -1, b = -1, rc = -1;

	if (w->can_exchange)
		return 0;
	if (file_unlink(w->dirfd, "probe-a", err) == 0 && file_unlink(w->dirfd, "probe-b", err) == 0 &&
	    (a = create(w, "probe-a", 0, err)) >= 0 && (b = create(w, "probe-b", 0, err)) >= 0)
		rc = file_rename_to(w->dirfd, "probe-a", w->dirfd, "probe-b", RENAME_EXCHANGE, err);
	if (rc < 0 && b >= 0 && err && (err->errnum == EINVAL || err->errnum == ENOSYS || err->errnum == EOPNOTSUPP))
		err_set(err, ERR_UNSUPPORTED, "its file system cannot exchange two files, so none can be replaced safely");
	if (a >= 0)
		file_ops->close(a);
	if (b >= 0)
		file_ops->close(b);
	if (file_unlink(w->dirfd, "probe-a", NULL) < 0 || file_unlink(w->dirfd, "probe-b", NULL) < 0)
		return rc < 0 ? -1 : err_set(err, ERR_IO, "cannot remove a file in the workshop");
	w->can_exchange = rc == 0;
	return rc;
}

static int begin(struct job *job, struct err *err)
{
	struct workshop *w = job->r->workshop;
	struct exchange *x = &job->x;
	struct err why = ERR_INIT;

	if (probe_exchange(w, err) < 0)
		return -1;
	x->entry.number = journal_new_number(&w->journal);
	x->entry.state = JOURNAL_BEGIN;
	store_name(STORE_NEW, x->entry.number, job->new_name);
	if (journal_append(&w->journal, &x->entry, err) < 0)
		return -1;
	x->arriving.fd = create(w, job->new_name, O_NOATIME, &why);
	if (x->arriving.fd < 0 && err)
		*err = why;
	return x->arriving.fd < 0 ? -1 : 0;
}

static int no_room(const struct job *job, struct err *err)
{
	uint64_t space = job->r->space ? job->r->space : (uint64_t)job->attributes.st.st_size;

	if (err && err->kind == ERR_FULL && err->errnum) /* the system says so */
		err_add(err, "the new file did not fit: up to %llu bytes must be free, by quota and file size limit, too",
			(unsigned long long)space);
	return -1;
}

/* With attributes and times, which is why it is no fdatasync(2). */
static int sync_new(struct job *job, struct err *err)
{
	if (file_ops->fsync(job->x.arriving.fd) < 0)
		return err_errno(err, "cannot sync the new file");
	return file_sync_dir(job->r->workshop->dirfd, err);
}

static int make_new(struct job *job, struct err *err)
{
	const struct replacing *r = job->r;
	int old_fd = job->x.leaving.fd, new_fd = job->x.arriving.fd;

	if (attributes_set_empty(&job->attributes, new_fd, err) < 0 ||
	    r->make(r->ctx, old_fd, new_fd, check, job, err) < 0)
		return no_room(job, err);
	if (attributes_set(&job->attributes, new_fd, err) < 0 || sync_new(job, err) < 0)
		return no_room(job, err);
	return attributes_compare(&job->attributes, new_fd, err);
}

/* ---- 3. and 4. ---- */

static int prove_new(struct job *job, struct err *err)
{
	const struct replacing *r = job->r;

	if (file_drop_cache(job->x.arriving.fd, err) < 0)
		return -1;
	return r->prove(r->ctx, job->x.leaving.fd, job->x.arriving.fd, check, job, err);
}

static int look_again(struct job *job, struct err *err)
{
	const struct replacing *r = job->r;
	struct exchange_file *new = &job->x.arriving;

	if (hold_take(&new->hold, new->fd, r->workshop->dirfd, job->new_name, &r->hold, err) < 0)
		return err_add(err, "the new file");
	if (check_unchanged(job, &r->expected, err) < 0 || check_path(job, err) < 0)
		return -1;
	return check(job, 0, 0, err);
}

/* ---- all of it ---- */

/* Nothing has moved: the new file goes, and then what the journal has of it. */
static void abandon(struct job *job)
{
	struct workshop *w = job->r->workshop;
	struct exchange *x = &job->x;

	if (!x->entry.state)
		return;
	exchange_release(x, false);
	if (file_unlink(w->dirfd, job->new_name, NULL) == 0 && journal_find(&w->journal, x->entry.number))
		workshop_note(w, &x->entry, JOURNAL_REMOVED, NULL);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static int swap(struct job *job, struct err *err)
{
	struct workshop *w = job->r->workshop;
	bool later = job->r->later && vec_reserve(&w->unsettled) == 0;

	if (job->r->later)
		*job->r->later = later ? job->x.entry.number : 0;
	if (!later)
		return exchange_run(&job->x, job->r->settle_ns, err);
	if (exchange_change(&job->x, job->r->settle_ns, err) < 0)
		return -1;
	w->unsettled.items[w->unsettled.nr++] = (struct unsettled){ job->x.entry.number, now_ns() };
	return 0;
}

static int run(struct job *job, struct spool_identity *ret_new, struct err *err)
{
	if (look_at_original(job, err) < 0 || begin(job, err) < 0 || make_new(job, err) < 0 || prove_new(job, err) < 0 ||
	    look_again(job, err) < 0 || exchange_begin(&job->x, err) < 0) {
		abandon(job);
		return -1;
	}
	if (swap(job, err) < 0)
		return -1;
	if (ret_new)
		*ret_new = job->x.entry.replacement;
	return 0;
}

int replace_image(const struct replacing *r, struct spool_identity *ret_new, struct err *err)
{
	struct job job = { .r = r, .x = EXCHANGE_INIT, .attributes = ATTRIBUTES_INIT };
	int rc;

	job.x.workshop = r->workshop;
	job.x.dirfd = r->dirfd;
	job.x.name = r->name;
	job.x.entry = (struct journal_entry){
		.assume_idle = r->hold.assume_idle, .keep = r->keep, .original = r->expected, .path = (char *)r->path
	};
	rc = run(&job, ret_new, err);
	exchange_release(&job.x, false);
	attributes_release(&job.attributes);
	return rc < 0 ? err_add(err, "image '%s'", r->path) : 0;
}
