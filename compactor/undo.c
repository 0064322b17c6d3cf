/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/exchange.h"

#include <fcntl.h>
#include <string.h>

#include "compactor/pool/view.h"
#include "scanner/base/file.h"

/* How it works: the same exchange as that of a replacement, the other way round: the original arrives, the new file
 * leaves.  The newest replacement of an image goes back first, so that one that was replaced twice comes to its first
 * original. */

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
	return err_set(err, ERR_STALE, "it has changed since it was replaced, which an undo would lose; its original stays in the trash");
}

/* An overlay on a pool can be read only as long as the pool has what it stands on. */
static int check_backing(int fd, struct err *err)
{
	struct slice s;
	struct stat st;
	uint64_t size;

	if (overlay_backing(fd, &s, &size, NULL) <= 0 || file_ops->fstatat(AT_FDCWD, s.path, &st, 0) == 0)
		return 0;
	return err_set(err, ERR_STALE, "its original stands on '%s', which is not there any more; the image stays as it is", s.path);
}

static int check_original(const struct exchange *x, struct err *err)
{
	struct spool_identity is;
	struct stat st;

	if (file_ops->fstat(x->arriving.fd, &st) < 0)
		return err_errno(err, "cannot stat its original");
	is = spool_identity_of(&st);
	if (workshop_same(&is, &x->entry.original))
		return check_backing(x->arriving.fd, err);
	return err_set(err, ERR_STALE, "its original in the trash has changed; see what it is");
}

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
	uint64_t before = UINT64_MAX;
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
		else if (!first.kind)
			first = why;
	}
	if (first.kind && err)
		*err = first;
	return first.kind ? -1 : 0;
}
