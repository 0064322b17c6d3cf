/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/workshop_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/openat2.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "compactor/hold.h"
#include "scanner/base/file.h"
#include "scanner/roots.h"

/* How it works: the directory is reached by its name in the root, without following anything, and used by its
 * descriptor from then on. Who may write to it could put other files at our names, so nobody else may; its own name
 * lies in a directory that may be an enemy's, who can move it away but not make one that passes.
 *
 * An original is removed in one place only, workshop_dispose(), and only when the journal says DONE of it and the
 * file is it: same inode number, size and mtime.  (Not the device, whose number is another after a reboot; that all
 * is on one file system is checked when the workshop is opened.) */

#define BLOCK 512

/* ---- places ---- */

int store_dirfd(const struct workshop *w, enum store store)
{
	return store == STORE_TRASH ? w->trash_fd : w->dirfd;
}

void store_name(enum store store, uint64_t number, char ret[WORKSHOP_NAME_ROOM])
{
	snprintf(ret, WORKSHOP_NAME_ROOM, store == STORE_TRASH ? "%" PRIu64 : "%" PRIu64 ".new", number);
}

int workshop_look(int dirfd, const char *name, struct stat *ret, struct err *err)
{
	if (file_ops->fstatat(dirfd, name, ret, AT_SYMLINK_NOFOLLOW) == 0)
		return 1;
	return errno == ENOENT ? 0 : err_errno(err, "cannot look at '%s'", name);
}

int workshop_find(const struct workshop *w, uint64_t number, uint64_t ino, enum store *ret, struct err *err)
{
	for (enum store s = STORE_NEW; s <= STORE_TRASH; s++) {
		char name[WORKSHOP_NAME_ROOM];
		struct stat st;
		int rc;

		store_name(s, number, name);
		rc = workshop_look(store_dirfd(w, s), name, &st, err);
		if (rc < 0)
			return -1;
		if (rc > 0 && st.st_ino == ino) {
			*ret = s;
			return 1;
		}
	}
	return 0;
}

int workshop_open_dir(const struct workshop *w, const char *path, const char **ret_name, struct err *err)
{
	const char *slash = strrchr(path, '/');
	CLEANUP(free) char *dir = slash ? strndup(path, (size_t)(slash - path)) : strdup(".");

	*ret_name = file_last_part(path);
	if (!dir)
		return err_set(err, ERR_MEMORY, "out of memory");
	return file_open_beneath(w->root_fd, dir, O_RDONLY | O_DIRECTORY, RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV, err);
}

int workshop_open_file(int dirfd, const char *name, struct err *err)
{
	int flags = O_RDWR | O_NOFOLLOW | O_NONBLOCK;
	uint64_t resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV;
	struct err why = ERR_INIT;
	int fd = file_open_beneath(dirfd, name, flags | O_NOATIME, resolve, &why);

	if (fd < 0 && why.errnum == EPERM) /* O_NOATIME is for owners */
		fd = file_open_beneath(dirfd, name, flags, resolve, &why);
	if (fd < 0 && why.errnum == EXDEV)
		return err_set(err, ERR_REFUSED, "a mount lies on it");
	if (fd < 0 && (why.errnum == ELOOP || why.errnum == ENXIO))
		return err_set(err, ERR_REFUSED, "not a regular file");
	if (fd < 0 && why.errnum == EPERM)
		return err_set(err, ERR_REFUSED,
			       "not to be written to, even by its owner: immutable or append-only (lsattr tells) or sealed");
	if (fd < 0 && err)
		*err = why;
	return fd;
}

bool workshop_same(const struct spool_identity *a, const struct spool_identity *b)
{
	bool any = a->mtime == WORKSHOP_ANY_TIME || b->mtime == WORKSHOP_ANY_TIME;

	return a->ino == b->ino && a->size == b->size && (any || a->mtime == b->mtime);
}

int64_t workshop_clock(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return now.tv_sec;
}

int workshop_note(struct workshop *w, const struct journal_entry *e, enum journal_state state, struct err *err)
{
	struct journal_entry next = *e;

	/* What is gone for whoever looks may still be there on the disk, and nobody would know it then. */
	if (state == JOURNAL_REMOVED && (file_sync_dir(w->dirfd, err) < 0 || file_sync_dir(w->trash_fd, err) < 0))
		return -1;
	next.state = state;
	return journal_append(&w->journal, &next, err);
}

/* ---- disposing ---- */

static int move_to_trash(struct workshop *w, uint64_t number, struct err *err)
{
	char from[WORKSHOP_NAME_ROOM], to[WORKSHOP_NAME_ROOM];

	store_name(STORE_NEW, number, from);
	store_name(STORE_TRASH, number, to);
	if (file_rename_to(w->dirfd, from, w->trash_fd, to, 0, err) < 0)
		return -1;
	if (file_sync_dir(w->trash_fd, err) < 0)
		return -1;
	return file_sync_dir(w->dirfd, err);
}

static int remove_from(struct workshop *w, enum store store, uint64_t number, struct err *err)
{
	char name[WORKSHOP_NAME_ROOM];

	store_name(store, number, name);
	return file_unlink(store_dirfd(w, store), name, err);
}

/* What lies at the names of replacement n, and is not the file that is to go, is nobody's to remove. */
static int check_nothing_else(const struct workshop *w, const struct journal_entry *e, const struct spool_identity *known,
			      struct err *err)
{
	for (enum store s = STORE_NEW; s <= STORE_TRASH; s++) {
		char name[WORKSHOP_NAME_ROOM];
		struct spool_identity is;
		struct stat st;
		int rc;

		store_name(s, e->number, name);
		rc = workshop_look(store_dirfd(w, s), name, &st, err);
		if (rc < 0)
			return -1;
		is = rc ? spool_identity_of(&st) : *known;
		if (!workshop_same(&is, known))
			return err_set(err, ERR_STALE,
				       "'%s/" WORKSHOP_NAME "/%s%s' is not what the journal says, or has changed; it is kept: "
				       "see what it is, then remove it",
				       w->path, s == STORE_TRASH ? "trash/" : "", name);
	}
	return 0;
}

int workshop_dispose(struct workshop *w, uint64_t number, bool now, uint64_t *ret_bytes, uint64_t *ret_kept, struct err *err)
{
	const struct journal_entry *e = journal_find(&w->journal, number);
	const struct spool_identity *known = e->state == JOURNAL_DONE ? &e->original : &e->replacement;
	bool keep = e->state == JOURNAL_DONE && !now && workshop_clock() < e->keep_until;
	char name[WORKSHOP_NAME_ROOM];
	struct stat st = { 0 };
	enum store at;
	int rc;

	if (check_nothing_else(w, e, known, err) < 0)
		return -1;
	rc = workshop_find(w, number, known->ino, &at, err);
	if (rc < 0)
		return -1;
	if (rc == 0)
		return workshop_note(w, e, JOURNAL_REMOVED, err);
	store_name(at, number, name);
	if (workshop_look(store_dirfd(w, at), name, &st, err) < 0)
		return -1;
	if (keep && ret_kept)
		*ret_kept = (uint64_t)st.st_blocks * BLOCK;
	if (keep)
		return at == STORE_NEW ? move_to_trash(w, number, err) : 0;
	if (remove_from(w, at, number, err) < 0)
		return -1;
	if (ret_bytes)
		*ret_bytes = (uint64_t)st.st_blocks * BLOCK;
	return workshop_note(w, e, JOURNAL_REMOVED, err);
}

/* ---- opening ---- */

static int check_ours(int fd, dev_t dev, const char *name, struct err *err)
{
	struct stat st;

	if (file_ops->fstat(fd, &st) < 0)
		return err_errno(err, "cannot stat '%s'", name);
	if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid())
		return err_set(err, ERR_REFUSED, "'%s' belongs to user %u, not to who runs this; remove it, or run as that user",
			       name, st.st_uid);
	if (st.st_mode & 077)
		return err_set(err, ERR_REFUSED, "'%s' is open to others (mode %04o); see what is in it, then chmod 700", name,
			       st.st_mode & 07777);
	if (st.st_dev != dev)
		return err_set(err, ERR_REFUSED, "'%s' is a file system of its own; it must be a plain directory", name);
	return 0;
}

/* A directory of ours at a name; 0 = it is not there and not to be made. */
static int open_ours(struct workshop *w, int at, const char *name, bool create, int *ret_fd, struct err *err)
{
	uint64_t resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV;
	struct err why = ERR_INIT;
	int fd = file_open_beneath(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, resolve, &why);

	if (fd < 0 && why.errnum == ENOENT && !create)
		return 0;
	if (fd < 0 && why.errnum == ENOENT) {
		if (file_mkdir(at, name, 0700, err) < 0 || file_sync_dir(at, err) < 0)
			return -1;
		fd = file_open_beneath(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, resolve, &why);
	}
	if (fd < 0)
		return err_set(err, why.errnum == ELOOP || why.errnum == ENOTDIR || why.errnum == EXDEV ? ERR_REFUSED : why.kind,
			       "%s", why.text);
	*ret_fd = fd;
	return check_ours(fd, w->dev, name, err) < 0 ? -1 : 1;
}

static int lock(struct workshop *w, struct err *err)
{
	int rc = lock_file_take(&w->lock, w->dirfd, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK, 0600, err);

	if (rc < 0)
		return err_add(err, "'%s/" WORKSHOP_NAME "'", w->path);
	if (rc)
		return 0;
	err_set(err, ERR_BUSY, "another dedupscan compacts '%s'; wait for it", w->path);
	return lock_file_held(err);
}

static int is_work(void *ctx, const char *name, struct err *err)
{
	size_t len = strlen(name);

	(void)ctx;
	(void)err;
	return len > 4 && strcmp(name + len - 4, ".new") == 0;
}

static int is_any(void *ctx, const char *name, struct err *err)
{
	(void)ctx;
	(void)name;
	(void)err;
	return 1;
}

/* A workshop in which there is work was not just made: its journal must be there. */
static int check_journal_not_lost(struct workshop *w, struct err *err)
{
	struct stat st;
	int rc = workshop_look(w->dirfd, "journal", &st, err);

	if (rc != 0)
		return rc < 0 ? -1 : 0;
	rc = file_each_name(w->dirfd, is_work, NULL, err);
	if (rc == 0)
		rc = file_each_name(w->trash_fd, is_any, NULL, err);
	if (rc > 0)
		return err_set(err, ERR_FORMAT, "the journal is gone, and there are files that may be originals; "
						"look at them before you remove them");
	return rc;
}

/* 0 = there is none. */
static int open_all(struct workshop *w, bool create, struct err *err)
{
	int rc = open_ours(w, w->root_fd, WORKSHOP_NAME, create, &w->dirfd, err);

	if (rc <= 0)
		return rc < 0 ? err_add(err, "'%s'", w->path) : 0;
	if (lock(w, err) < 0)
		return -1;
	if (open_ours(w, w->dirfd, "trash", true, &w->trash_fd, err) < 0 || check_journal_not_lost(w, err) < 0 ||
	    journal_open(&w->journal, w->dirfd, err) < 0)
		return err_add(err, "'%s/" WORKSHOP_NAME "'", w->path);
	return 1;
}

int workshop_open(int dirfd, const char *path, bool create, struct workshop **ret, struct err *err)
{
	CLEANUP(workshop_close) struct workshop *w = malloc(sizeof(*w));
	struct stat st;
	int rc;

	if (!w)
		return err_set(err, ERR_MEMORY, "out of memory");
	*w = (struct workshop){
		.root_fd = -1, .dirfd = -1, .trash_fd = -1, .lock = LOCK_FILE_INIT, .settle_ns = SETTLE_NS, .journal = JOURNAL_INIT
	};
	signal(SIGXFSZ, SIG_IGN); /* a file size limit is an error, EFBIG, and no death */
	w->path = strdup(path);
	if (!w->path)
		return err_set(err, ERR_MEMORY, "out of memory");
	w->root_fd = file_open(dirfd, ".", O_RDONLY | O_DIRECTORY, 0, err);
	if (w->root_fd < 0)
		return err_add(err, "'%s'", path);
	if (file_ops->fstat(w->root_fd, &st) < 0)
		return err_errno(err, "cannot stat '%s'", path);
	w->dev = st.st_dev;
	rc = open_all(w, create, err);
	*ret = rc > 0 ? STEAL(w) : rc == 0 ? NULL : *ret;
	return rc < 0 ? -1 : 0;
}

struct lock_file *workshop_lock(struct workshop *w)
{
	return &w->lock;
}

void workshop_set_settle(struct workshop *w, uint64_t ns)
{
	w->settle_ns = ns;
}

void workshop_set_mender(struct workshop *w, int (*mend)(void *ctx, int fd, struct err *err), void *ctx)
{
	w->mend = mend;
	w->mend_ctx = ctx;
}

int workshop_open_above(const struct root *root, struct workshop **ret, const char **ret_name, struct err *err)
{
	CLEANUP(free) char *dir = strdup(root->path);
	char *slash = dir ? strrchr(dir, '/') : NULL;

	*ret = NULL;
	*ret_name = NULL;
	if (!root->file)
		return workshop_open(root->dirfd, root->path, false, ret, err);
	for (; slash && !*ret; slash = strrchr(dir, '/')) {
		CLEANUP(close_fd) int fd = -1;

		*slash = '\0';
		*ret_name = root->path + (slash - dir) + 1;
		fd = file_open(AT_FDCWD, *dir ? dir : "/", O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, NULL);
		if (fd >= 0 && workshop_open(fd, *dir ? dir : "/", false, ret, err) < 0)
			return -1;
	}
	return 0;
}

void workshop_close(struct workshop *w)
{
	if (!w)
		return;
	journal_release(&w->journal);
	vec_release(&w->unsettled);
	const int fds[] = { w->trash_fd, w->dirfd, w->root_fd };

	for (size_t i = 0; i < sizeof(fds) / sizeof(*fds); i++)
		if (fds[i] >= 0)
			file_ops->close(fds[i]);
	lock_file_release(&w->lock); /* last */
	free(w->path);
	free(w);
}

/* ---- looking from outside ---- */

struct look {
	int dirfd;
	uint64_t ino;
};

static int is_file(void *ctx, const char *name, struct err *err)
{
	const struct look *l = ctx;
	struct stat st;
	int rc = workshop_look(l->dirfd, name, &st, err);

	return rc > 0 ? st.st_ino == l->ino : rc;
}

static int open_dir(int dirfd, const char *name, int *ret, struct err *err)
{
	struct err why = ERR_INIT;

	*ret = file_open_beneath(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV, &why);
	if (*ret >= 0)
		return 1;
	return why.errnum == ENOENT ? 0 : err_set(err, why.kind, "%s", why.text);
}

/* Originals go from the workshop to its trash. */
int workshop_has(int dirfd, uint64_t ino, struct err *err)
{
	CLEANUP(close_fd) int fd = -1, trash_fd = -1;
	int rc = open_dir(dirfd, WORKSHOP_NAME, &fd, err);

	if (rc > 0)
		rc = file_each_name(fd, is_file, &(struct look){ fd, ino }, err);
	if (rc == 0 && fd >= 0)
		rc = open_dir(fd, "trash", &trash_fd, err);
	if (rc > 0 && trash_fd >= 0)
		rc = file_each_name(trash_fd, is_file, &(struct look){ trash_fd, ino }, err);
	return rc;
}

/* ---- purging ---- */

int workshop_purge(struct workshop *w, uint64_t *ret_bytes, struct err *err)
{
	uint64_t total = 0, after = 0;
	int rc = 0;

	/* The list shrinks while it is walked. */
	while (rc == 0) {
		const struct journal_entry *e = NULL;
		uint64_t bytes = 0;

		for (size_t i = 0; i < w->journal.live.nr && !e; i++)
			if (w->journal.live.items[i].state == JOURNAL_DONE && w->journal.live.items[i].number > after)
				e = &w->journal.live.items[i];
		if (!e)
			break;
		after = e->number;
		rc = workshop_dispose(w, after, true, &bytes, NULL, err);
		total += bytes;
	}
	*ret_bytes = total;
	return rc < 0 ? err_add(err, "'%s/" WORKSHOP_NAME "'", w->path) : 0;
}
