/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/seal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>

#include "compactor/exchange.h"
#include "compactor/pool/bitmaps.h"
#include "compactor/sparse_copy.h"
#include "scanner/base/bytes.h"
#include "scanner/base/checked.h"
#include "scanner/base/crc32c.h"
#include "scanner/base/file.h"

/* Crash safety.  What holds at every instant, with the tests that break it in brackets; "crash" is tests/crash/test_versions.c.
 *
 *  S1. The image's path names the old overlay or the fresh one, whole, never nothing: they change places by one
 *      RENAME_EXCHANGE [crash].
 *  S2. The fresh overlay is written under the very name that it stands on, sealed/<id>.qcow2.  While it lies there nobody opens
 *      it; from the exchange on that name is the old overlay.  So there is no instant at which a guest sees other bytes [crash].
 *  S3. Before places change, the fresh overlay was read back from the disk, its name and its attributes are synced, and a version
 *      is published, or promised, that says which inode is to be sealed [crash: a_wrong_order_is_caught].
 *  S4. What was sealed is told from what was not by content: the fresh overlay stands on the name under which it was written, or
 *  has
 *      it in its header (POOL_EXT_FRESH), and nothing else does.  So it is told in a copy of the store, too, where all inode
 *      numbers are others [crash, tests/interop/pool_clones.py: copied].
 *  S5. A version has its label and no inode numbers only after all its disks were sealed, both directories synced, and nobody was
 *      found to write to what was sealed [crash: mistakes_of_a_recovery_are_caught].
 *  S6. What somebody wrote to either file is seen at the path: the fresh one stands on the old one.  So nothing is turned round but
 *      while both are held, and a recovery never turns anything round [crash: visits; tests/crash/seal_openers.py].  (A rollback's
 *      fresh overlay stands on something else; it is what the user wants at the path, and what was written to the old one is in the
 *      version that is kept.  One that discards waits, and keeps it after all when somebody came.)
 *  S7. Who found the old file before places changed, and opens it only after it was let go, is seen by nobody: nothing of his is
 *  lost
 *      (S6), but the version has what he writes.  So a version notes when what was sealed was last written to, and is what it says
 *      only while that is so: else it is not gone back to, and becomes NAME.changed when it is folded in [pool_clones.py:
 *      latecomer].  It is not folded in while he has it open.
 *  S8. Until it is folded in, a version notes the length of what was sealed, and a checksum of its L1 table, as they are when it is
 *      settled, or were before places changed; what is damaged since then is not folded in [crash; tests/unit/test_seal_notes.c].
 *
 *	version      sealed/<id>        at the path        decision
 *	-----------  -----------------  -----------------  -----------------------------------------------------------------
 *	none         fresh              old                nothing reaches it: a recovery removes it
 *	pending      fresh, or nothing  old                the version goes, then the fresh overlay (to the quarantine if it
 *	                                                   holds something, or somebody has it); the old one is as it was, but
 *	                                                   may be read-only: it gets its mode back from the fresh one
 *	pending      old                fresh, or other    sealed.  When all of the set are: the version is published.
 *	                                                   Else it loses its label, and keeps what was sealed
 *	settled      old                anything           done
 *
 * Left out: a power cut that leaves half of a RENAME_EXCHANGE, which no journalling file system does. */

#define PIECE ((size_t)64 << 10)
#define LIBVIRT_PREFIX "trusted.libvirt.security."

/* ---- writing the fresh one ---- */

static int create(struct pool *p, struct seal *s, struct err *err)
{
	char name[POOL_FILE_NAME_ROOM];

	if (name_id_is_null(s->id) && pool_new_id(s->id, err) < 0)
		return -1;
	names_will_change(p);
	s->fresh_fd =
		file_open(p->dirs[POOL_SEALED], pool_id_file_name(s->id, name), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0600, err);
	s->written = s->fresh_fd >= 0;
	return s->written ? 0 : -1;
}

static int check_hold(void *ctx, uint64_t done, uint64_t total, struct err *err)
{
	const struct seal *s = ctx;

	(void)done;
	(void)total;
	return hold_whole(&s->member->hold, err);
}

/* Its disk is that of the sealed one, so the bitmaps say of it what they said; where it goes back to a version they would be
 * wrong. */
static int write_overlay(struct pool *p, struct seal *s, struct err *err)
{
	struct member *m = s->member;
	struct overlay_options o = m->facts.options;
	struct slice backing;

	o.beside = s->id;
	if (s->target)
		return overlay_write(s->fresh_fd, s->target->size, &s->target->backing, &o, err);
	if (sealed_backing(p, s->id, &backing, err) < 0 ||
	    overlay_write(s->fresh_fd, m->facts.size, &backing, &o, err) < 0)
		return -1;
	return bitmaps_append(&s->bitmaps, s->fresh_fd, check_hold, s, err);
}

/* Blocks that are not all zero, and where they lie. */
static int sum_of(int fd, uint64_t begin, uint64_t end, uint8_t *buf, uint32_t *sum, struct err *err)
{
	for (uint64_t at = begin; at < end; at += PIECE) {
		size_t len = (size_t)min_u64(end - at, PIECE);

		if (file_read(fd, buf, len, at, err) < 0)
			return -1;
		for (size_t i = 0; i < len; i += SPARSE_BLOCK) {
			size_t n = (size_t)min_u64(len - i, SPARSE_BLOCK);
			le64 where = le64_from(at + i);

			if (!sparse_is_zero(buf + i, n))
				*sum = crc32c(crc32c(*sum, &where, sizeof(where)), buf + i, n);
		}
	}
	return 0;
}

/* A checksum of all its bytes; holes, which it nearly consists of, are not read. */
static int sum_up(int fd, uint32_t *ret, struct err *err)
{
	CLEANUP(free) uint8_t *buf = malloc(PIECE);
	uint64_t at = 0, begin, end;
	uint32_t sum;
	struct stat st;
	le64 size;
	int rc;

	if (!buf)
		return err_set(err, ERR_MEMORY, "out of memory");
	if (file_ops->fstat(fd, &st) < 0)
		return err_errno(err, "cannot look at a fresh overlay");
	size = le64_from((uint64_t)st.st_size);
	sum = crc32c(0, &size, sizeof(size));
	while ((rc = file_next_data(fd, at, (uint64_t)st.st_size, &begin, &end, err)) > 0) {
		begin = max_u64(at, round_down(begin, SPARSE_BLOCK));
		at = min_u64(round_up(end, SPARSE_BLOCK), (uint64_t)st.st_size);
		if (sum_of(fd, begin, at, buf, &sum, err) < 0)
			return -1;
	}
	*ret = sum;
	return rc;
}

/* What was written is what the disk has. */
static int check_fresh(struct seal *s, struct err *err)
{
	struct overlay_facts facts;
	uint32_t sum;

	if (file_drop_cache(s->fresh_fd, err) < 0 || sum_up(s->fresh_fd, &sum, err) < 0 ||
	    overlay_look(s->fresh_fd, &facts, err) < 0 || bitmaps_prove(&s->bitmaps, s->fresh_fd, check_hold, s, err) < 0)
		return -1;
	return sum == s->sum ? 0 : err_set(err, ERR_IO, "a fresh overlay reads back otherwise than it was written");
}

static int set_attributes(struct seal *s, struct err *err)
{
	static const struct timespec now[2] = { { .tv_nsec = UTIME_NOW }, { .tv_nsec = UTIME_NOW } };

	if (attributes_set(&s->attributes, s->fresh_fd, err) < 0 || attributes_compare(&s->attributes, s->fresh_fd, err) < 0)
		return -1;
	if (s->touch && file_ops->futimens(s->fresh_fd, now) < 0)
		return err_errno(err, "cannot set its time");
	return 0;
}

/* "+UID:+GID" */
static void take_owner(struct attributes *a, const void *text, size_t len)
{
	char owner[32];
	unsigned uid, gid;

	snprintf(owner, sizeof(owner), "%.*s", (int)len, (const char *)text);
	if (sscanf(owner, "+%u:+%u", &uid, &gid) != 2)
		return;
	a->st.st_uid = uid;
	a->st.st_gid = gid;
}

/* While a guest runs libvirt has the file, and notes whose it was, and is to be again, at the topmost one of its chain. */
static void forget_guest(struct attributes *a, int aside_fd)
{
	size_t nr = 0;
	char owner[32];
	ssize_t len = file_ops->fgetxattr(aside_fd, LIBVIRT_PREFIX "dac", owner, sizeof(owner));

	if (len > 0)
		take_owner(a, owner, (size_t)len);
	for (size_t i = 0; i < a->list.nr; i++) {
		struct attribute x = a->list.items[i];

		if (strncmp(x.name, LIBVIRT_PREFIX, strlen(LIBVIRT_PREFIX)) != 0) {
			a->list.items[nr++] = x;
			continue;
		}
		if (strcmp(x.name, LIBVIRT_PREFIX "dac") == 0)
			take_owner(a, x.value, x.len);
		free(x.name);
		free(x.value);
	}
	a->list.nr = nr;
}

static int read_attributes(struct seal *s, struct err *err)
{
	if (attributes_read(s->member->fd, &s->attributes, err) < 0)
		return -1;
	if (s->live)
		forget_guest(&s->attributes, s->aside_fd);
	return 0;
}

static int write_fresh(struct pool *p, struct seal *s, struct err *err)
{
	if (!s->target && !s->live && bitmaps_read(s->member->fd, &s->bitmaps, err) < 0)
		return -1;
	if (read_attributes(s, err) < 0 ||
	    attributes_may_enter(&s->attributes, p->dirs[POOL_SEALED], err) < 0 ||
	    attributes_may_enter(&s->attributes, s->member->dirfd, err) < 0)
		return -1;
	if (create(p, s, err) < 0 || attributes_set_empty(&s->attributes, s->fresh_fd, err) < 0 || write_overlay(p, s, err) < 0 ||
	    sum_up(s->fresh_fd, &s->sum, err) < 0)
		return -1;
	return set_attributes(s, err);
}

static int of_image(const struct seal *s, struct err *err)
{
	return err_add(err, "image '%s'", member_disk(s->member)->path);
}

int seal_begin(struct pool *p, struct seal *s, struct err *err)
{
	return write_fresh(p, s, err) < 0 ? of_image(s, err) : 0;
}

int seal_prove(struct pool *p, struct seal *s, const struct hold_options *o, struct err *err)
{
	char name[POOL_FILE_NAME_ROOM];

	if (check_fresh(s, err) < 0 ||
	    hold_take(&s->fresh_hold, s->fresh_fd, p->dirs[POOL_SEALED], pool_id_file_name(s->id, name), o, err) < 0)
		return of_image(s, err);
	return 0;
}

int seal_write(struct pool *p, struct seal *s, const struct hold_options *o, struct err *err)
{
	CLEANUP(to_sync_release) struct to_sync sync = { 0 };

	if (seal_begin(p, s, err) < 0 || to_sync_add(&sync, s->fresh_fd, true, err) < 0 ||
	    to_sync_add(&sync, p->dirs[POOL_SEALED], false, err) < 0)
		return -1;
	return sync_all(&sync, err) < 0 ? of_image(s, err) : seal_prove(p, s, o, err);
}

/* ---- changing places ---- */

static int change_places(struct pool *p, struct seal *s, struct err *err)
{
	char name[POOL_FILE_NAME_ROOM];
	struct err why = ERR_INIT;

	if (file_rename_to(s->member->dirfd, s->member->base, p->dirs[POOL_SEALED], pool_id_file_name(s->id, name), RENAME_EXCHANGE,
			   &why) == 0) {
		s->moved = !s->moved;
		return 0;
	}
	if (why.errnum == EINVAL || why.errnum == ENOSYS || why.errnum == EOPNOTSUPP)
		return err_set(err, ERR_UNSUPPORTED, "its file system cannot exchange two files, so none can be sealed safely");
	if (why.errnum == EXDEV)
		return err_set(err, ERR_UNSUPPORTED, "its directory and the pool '%s' do not take each other's files", p->path);
	if (err)
		*err = why;
	return -1;
}

/* The file at the path is still the one that is held. */
static int check_there(const struct seal *s, struct err *err)
{
	const struct member *m = s->member;
	struct stat st;

	if (file_ops->fstatat(m->dirfd, m->base, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return err_errno(err, "cannot look at it");
	if (st.st_ino != m->st.st_ino || st.st_dev != m->st.st_dev)
		return err_set(err, ERR_STALE, "another file has its name by now");
	return 0;
}

/* Both directories, and what is sealed: the user's data, which his guest may not have synced. */
static int sync_places(struct pool *p, struct seal *seals, size_t nr, struct err *err)
{
	CLEANUP(to_sync_release) struct to_sync sync = { 0 };

	for (size_t i = 0; i < nr; i++)
		if (to_sync_add(&sync, seals[i].member->dirfd, false, err) < 0 ||
		    to_sync_add(&sync, seals[i].member->fd, false, err) < 0)
			return -1;
	return to_sync_add(&sync, p->dirs[POOL_SEALED], false, err) < 0 ? -1 : sync_all(&sync, err);
}

/* Nobody writes to it any more; who may read it is as it was. */
static mode_t sealed_mode(const struct stat *st)
{
	return st->st_mode & 0444;
}

static int lock_all(struct seal *seals, size_t nr, struct err *err)
{
	for (size_t i = 0; i < nr; i++)
		if (file_ops->fchmod(seals[i].member->fd, sealed_mode(&seals[i].member->st)) < 0)
			return err_errno(err, "cannot make what is sealed read-only");
	return 0;
}

static int all_whole(struct seal *seals, size_t nr, struct err *err)
{
	for (size_t i = 0; i < nr; i++)
		if (hold_whole(&seals[i].member->hold, err) < 0)
			return err_add(err, "image '%s'", member_disk(seals[i].member)->path);
	return 0;
}

static int change_all(struct pool *p, struct seal *seals, size_t nr, struct err *err)
{
	if (all_whole(seals, nr, err) < 0)
		return -1;
	for (size_t i = 0; i < nr; i++)
		if (check_there(&seals[i], err) < 0 || change_places(p, &seals[i], err) < 0)
			return err_add(err, "image '%s'", member_disk(seals[i].member)->path);
	if (all_whole(seals, nr, err) < 0 || lock_all(seals, nr, err) < 0 || sync_places(p, seals, nr, err) < 0)
		return -1;
	return all_whole(seals, nr, err);
}

/* Back, unless somebody waits for the fresh one: what he will write must be at the path. */
static void turn_round(struct pool *p, struct seal *seals, size_t nr)
{
	for (size_t i = 0; i < nr; i++) {
		struct seal *s = &seals[i];

		if (!s->moved || hold_whole(&s->fresh_hold, NULL) < 0)
			continue;
		file_ops->fchmod(s->member->fd, s->member->st.st_mode & 07777);
		if (change_places(p, s, NULL) < 0)
			continue;
		if (hold_whole(&s->fresh_hold, NULL) < 0)
			change_places(p, s, NULL);
	}
	sync_places(p, seals, nr, NULL);
}

/* ---- afterwards ---- */

/* 0 = nobody has it open for writing, as far as the file system tells.  Who only reads it may: it is somebody's backing file. */
static int check_no_writer(int fd, struct err *err)
{
	char holder[200];

	/* SIGURG, which nobody minds, as in hold.c: what a broken lease sends else would end the process. */
	if (file_ops->fcntl(fd, F_SETSIG, (void *)(intptr_t)SIGURG) < 0)
		return err_errno(err, "cannot look for who writes to it");
	if (file_ops->fcntl(fd, F_SETLEASE, (void *)(intptr_t)F_RDLCK) == 0) {
		file_ops->fcntl(fd, F_SETLEASE, (void *)(intptr_t)F_UNLCK);
		return 0;
	}
	if (errno != EAGAIN)
		return 0;
	hold_holder(fd, holder, sizeof(holder));
	return err_set(err, ERR_BUSY, "%s%s had opened it before it was sealed", *holder ? holder : "somebody",
		       *holder ? "" : " whom the system does not name");
}

int sealed_open(struct pool *p, const uint8_t id[POOL_ID_SIZE], struct err *err)
{
	char name[POOL_FILE_NAME_ROOM];
	int fd = file_open_beneath(p->dirs[POOL_SEALED], pool_id_file_name(id, name), O_RDONLY | O_NOFOLLOW | O_NONBLOCK,
				   RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV, err);

	if (fd >= 0 && check_no_writer(fd, err) == 0)
		return fd;
	if (fd >= 0)
		file_ops->close(fd);
	return err_add(err, "sealed overlay '%s'", name);
}

static bool same_content(const struct stat *a, const struct stat *b)
{
	return a->st_ino == b->st_ino && a->st_size == b->st_size && a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
	       a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

/* The holds go: a guest may start on the fresh one from here on. */
static void let_go(struct seal *s)
{
	hold_release(&s->member->hold);
	hold_release(&s->fresh_hold);
	file_ops->close(STEAL_FD(s->member->fd));
	file_ops->close(STEAL_FD(s->fresh_fd));
}

static int check_sealed(struct pool *p, struct seal *s, struct err *err)
{
	struct stat st;
	int fd = sealed_open(p, s->id, err), rc;

	if (fd < 0)
		return -1;
	rc = file_ops->fstat(fd, &st) < 0 ? err_errno(err, "cannot stat it") : 0;
	if (rc == 0 && !same_content(&st, &s->member->st))
		rc = err_set(err, ERR_BUSY, "somebody wrote to it while it was sealed");
	if (rc == 0 && st.st_mode & 0222 && (file_ops->fchmod(fd, sealed_mode(&st)) < 0 || file_ops->fsync(fd) < 0))
		rc = err_errno(err, "cannot make it read-only");
	file_ops->close(fd);
	return rc;
}

/* Who found the old file before places changed, and opened it only now, had so long to do it. */
static int settle(struct pool *p, struct seal *seals, size_t nr, uint64_t settle_ns, struct err *err)
{
	for (size_t i = 0; i < nr; i++)
		let_go(&seals[i]);
	if (settle_ns)
		exchange_wait(settle_ns);
	for (size_t i = 0; i < nr; i++)
		if (check_sealed(p, &seals[i], err) < 0)
			return err_add(err, "image '%s' (it may have been sealed; nothing of it is lost)",
				       member_disk(seals[i].member)->path);
	return 0;
}

int seal_exchange(struct pool *p, struct seal *seals, size_t nr, uint64_t settle_ns, struct err *err)
{
	for (size_t i = 0; i < nr; i++)
		seals[i].tried = true;
	if (change_all(p, seals, nr, err) < 0) {
		turn_round(p, seals, nr);
		for (size_t i = 0; i < nr; i++)
			let_go(&seals[i]);
		return -1;
	}
	return settle(p, seals, nr, settle_ns, err);
}

int seal_exchange_live(struct pool *p, struct seal *s, struct err *err)
{
	if (check_no_writer(s->member->fd, err) < 0 || check_there(s, err) < 0)
		return err_add(err, "image '%s'", member_disk(s->member)->path);
	s->tried = true;
	if (change_places(p, s, err) < 0 || sync_places(p, s, 1, err) < 0)
		return err_add(err, "image '%s'", member_disk(s->member)->path);
	return settle(p, s, 1, 0, err);
}

void seal_release(struct pool *p, struct seal *s)
{
	char name[POOL_FILE_NAME_ROOM];

	hold_release(&s->fresh_hold);
	if (s->fresh_fd >= 0)
		file_ops->close(s->fresh_fd);
	if (s->written && !s->tried)
		file_unlink(p->dirs[POOL_SEALED], pool_id_file_name(s->id, name), NULL);
	attributes_release(&s->attributes);
	bitmaps_release(&s->bitmaps);
	*s = (struct seal)SEAL_INIT;
}

/* ---- what it came to ---- */

enum lying { LIES_EMPTY, LIES_WRITTEN, LIES_IN_USE };

/* What lies there: empty and nobody's; with something in it; somebody's, or nobody can tell. */
static enum lying look_what_lies(struct pool *p, const char *name)
{
	struct hold_options o = { .assume_idle = true };
	enum lying ret = LIES_IN_USE;
	struct hold hold = HOLD_INIT;
	struct overlay_facts facts;
	int fd = file_open_beneath(p->dirs[POOL_SEALED], name, O_RDWR | O_NOFOLLOW | O_NONBLOCK,
				   RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV, NULL);

	if (fd < 0)
		return LIES_IN_USE;
	if (overlay_look(fd, &facts, NULL) == 0 && !facts.empty)
		ret = LIES_WRITTEN;
	else if (hold_take(&hold, fd, p->dirs[POOL_SEALED], name, &o, NULL) == 0 && overlay_look(fd, &facts, NULL) == 0)
		ret = facts.empty ? LIES_EMPTY : LIES_WRITTEN;
	hold_release(&hold);
	file_ops->close(fd);
	return ret;
}

int sealed_dispose(struct pool *p, const char *name, struct err *err)
{
	if (look_what_lies(p, name) == LIES_EMPTY)
		return file_unlink(p->dirs[POOL_SEALED], name, err);
	return file_rename_to(p->dirs[POOL_SEALED], name, p->dirs[POOL_QUARANTINE], name, 0, err);
}

/* 1 = it was written for the path, not found there; 0; -1 = what lies there does not tell. */
static int is_fresh(struct pool *p, const struct name_disk *d, const char *name)
{
	int fd = file_open_beneath(p->dirs[POOL_SEALED], name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK,
				   RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV, NULL), rc = -1;
	uint8_t below[POOL_ID_SIZE];
	struct overlay_facts f;

	if (fd < 0)
		return -1;
	if (overlay_look(fd, &f, NULL) == 0)
		rc = overlay_was_beside(fd, d->sealed) ||
		     (sealed_of_backing(p, &f.backing, below) && memcmp(below, d->sealed, POOL_ID_SIZE) == 0);
	file_ops->close(fd);
	return rc;
}

/* The image at the path stands on what was, or is to be, sealed. */
static bool path_stands_on(struct pool *p, const struct name_disk *d)
{
	struct standing s;

	return member_look(p, d->path, &s, NULL) > 0 && memcmp(s.below, d->sealed, POOL_ID_SIZE) == 0;
}

static bool path_is_old(struct pool *p, const struct name_disk *d)
{
	char base[NAME_MAX + 1];
	int dirfd = member_open_dir(p, d->path, base, NULL);
	struct stat st;
	bool old = dirfd >= 0 && file_ops->fstatat(dirfd, base, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_ino == d->inode;

	if (dirfd >= 0)
		file_ops->close(dirfd);
	return old;
}

/* S4.  Fresh overlays of earlier programs have no mark, and what was torn says nothing: there inode numbers do. */
static bool lies_there(struct pool *p, const struct name_disk *d, const char *name, const struct stat *st)
{
	int fresh = is_fresh(p, d, name);

	if (fresh > 0)
		return false;
	if (st->st_ino == d->inode)
		return true;
	return fresh == 0 ? !path_is_old(p, d) : path_stands_on(p, d);
}

/* What was to be sealed, and was not, gets its mode back, also where it seems to have it: a sync may have failed, or a power cut
 * kept less than was done. */
static int unlock(struct pool *p, const struct name_disk *d, const struct stat *fresh, struct err *err)
{
	char base[NAME_MAX + 1];
	int dirfd = member_open_dir(p, d->path, base, NULL), fd, rc = 0;
	struct standing s;
	struct stat st;

	if (dirfd < 0 || !(fresh->st_mode & 0222) || file_ops->fstatat(dirfd, base, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
	    !S_ISREG(st.st_mode) || sealed_mode(&st) != sealed_mode(fresh) || member_look(p, d->path, &s, NULL) <= 0 ||
	    memcmp(s.below, d->below, POOL_ID_SIZE) != 0 || memcmp(s.view, d->view, POOL_ID_SIZE) != 0) {
		if (dirfd >= 0)
			file_ops->close(dirfd);
		return 0;
	}
	fd = file_open(dirfd, base, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, err);
	if (fd < 0 || file_ops->fchmod(fd, fresh->st_mode & 07777) < 0 || file_ops->fsync(fd) < 0)
		rc = fd < 0 ? -1 : err_errno(err, "cannot set the mode of '%s'", d->path);
	if (fd >= 0)
		file_ops->close(fd);
	file_ops->close(dirfd);
	return rc;
}

int seal_was_done(struct pool *p, const struct name_disk *d, struct err *err)
{
	char name[POOL_FILE_NAME_ROOM];
	struct stat st;

	pool_id_file_name(d->sealed, name);
	if (file_ops->fstatat(p->dirs[POOL_SEALED], name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : err_errno(err, "cannot look at '%s'", name);
	if (lies_there(p, d, name, &st))
		return 1;
	return unlock(p, d, &st, err) < 0 ? -1 : sealed_dispose(p, name, err);
}

/* What it is when its version is settled is what is meant: power may have failed before all was on the disk, and what is sealed
 * while a guest runs has no notes yet.  One that somebody wrote to keeps those that say so. */
static void note_as_it_is(struct pool *p, int fd, const struct stat *st, struct name_disk *d)
{
	if (!seal_was_written(p, d))
		seal_describe(fd, st, d, NULL);
}

/* Where a process died before it had done so. */
static int make_read_only(struct pool *p, struct name_disk *d, struct err *err)
{
	char name[POOL_FILE_NAME_ROOM];
	int fd = file_open_beneath(p->dirs[POOL_SEALED], pool_id_file_name(d->sealed, name), O_RDONLY | O_NOFOLLOW | O_NONBLOCK,
				   RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV, err);
	struct stat st;
	int rc = 0;

	if (fd < 0)
		return -1;
	if (file_ops->fstat(fd, &st) < 0)
		rc = err_errno(err, "cannot stat '%s'", name);
	else if ((st.st_mode & 0222 && file_ops->fchmod(fd, sealed_mode(&st)) < 0) || file_ops->fsync(fd) < 0)
		rc = err_errno(err, "cannot make '%s' read-only", name);
	else
		note_as_it_is(p, fd, &st, d);
	file_ops->close(fd);
	return rc;
}

/* Leaves in n what was sealed; *ret_all = that is all. */
static int keep_sealed(struct pool *p, struct name *n, bool *ret_all, struct err *err)
{
	size_t nr_kept = 0, nr_pending = 0, nr_sealed = 0;

	for (size_t i = 0; i < n->disks.nr; i++) {
		struct name_disk *d = &n->disks.items[i];
		int rc = d->inode ? seal_was_done(p, d, err) : 1;

		if (rc < 0 || (rc > 0 && d->inode && make_read_only(p, d, err) < 0))
			return -1;
		nr_pending += d->inode != 0;
		nr_sealed += d->inode && rc > 0;
		if (rc > 0)
			n->disks.items[nr_kept++] = *d;
	}
	n->disks.nr = nr_sealed ? nr_kept : 0;
	*ret_all = nr_sealed == nr_pending;
	return file_sync_dir(p->dirs[POOL_SEALED], err);
}

static int note_members(struct pool *p, const struct name *before, const struct name *n, struct err *err)
{
	for (size_t i = 0; i < before->disks.nr; i++) {
		const struct name_disk *d = &before->disks.items[i], *sealed = name_find_disk(n, d->path);

		if (d->inode && member_note(p, d->path, sealed ? sealed->sealed : NULL, err) < 0)
			return -1;
	}
	return 0;
}

static int discard_sealed(struct pool *p, const struct name *n, struct err *err)
{
	char name[POOL_FILE_NAME_ROOM];

	for (size_t i = 0; i < n->disks.nr; i++)
		if (n->disks.items[i].inode &&
		    file_unlink(p->dirs[POOL_SEALED], pool_id_file_name(n->disks.items[i].sealed, name), err) < 0)
			return -1;
	return file_sync_dir(p->dirs[POOL_SEALED], err);
}

static int publish(struct pool *p, struct name *n, bool all, struct err *err)
{
	if (n->disks.nr == 0)
		return names_remove(p, n->number, err);
	if (!all)
		*n->label = '\0';
	for (size_t i = 0; i < n->disks.nr; i++)
		n->disks.items[i].inode = 0;
	return names_replace(p, n->number, n, err);
}

int seal_note(struct pool *p, uint64_t number, enum seal_end end, bool *ret_sealed, struct err *err)
{
	CLEANUP(name_release) struct name before = { .number = 0 }, n = { .number = 0 };
	int rc = member_find_number(p, number, &before, err);

	if (rc <= 0)
		return rc < 0 ? -1
			      : err_set(err, ERR_STALE, "name %llu of the pool '%s' is gone", (unsigned long long)number, p->path);
	if (name_copy(&before, &n, err) < 0 || keep_sealed(p, &n, ret_sealed, err) < 0 || note_members(p, &before, &n, err) < 0)
		return -1;
	if (end != SEAL_DISCARD || !*ret_sealed)
		return publish(p, &n, *ret_sealed && end != SEAL_FAILED, err);
	return discard_sealed(p, &n, err) < 0 ? -1 : names_remove(p, number, err);
}

/* ---- sweeping ---- */

struct swept {
	uint8_t id[POOL_ID_SIZE];
	bool known;
};

struct sweep {
	VEC(struct swept) found; /* in sealed/ */
};

static int find_sealed(void *ctx, const char *file, struct err *err)
{
	struct sweep *s = ctx;
	struct swept x = { .known = false };
	char text[POOL_ID_TEXT_ROOM], name[POOL_FILE_NAME_ROOM];

	snprintf(text, sizeof(text), "%s", file);
	if (!pool_id_parse(text, x.id) || strcmp(pool_id_file_name(x.id, name), file) != 0)
		return 0;
	return vec_push(&s->found, x) < 0 ? err_set(err, ERR_MEMORY, "out of memory") : 0;
}

static int compare_swept(const void *a, const void *b)
{
	return memcmp(((const struct swept *)a)->id, ((const struct swept *)b)->id, POOL_ID_SIZE);
}

static void know(struct sweep *s, const uint8_t id[POOL_ID_SIZE])
{
	struct swept key = { .known = false }, *found;

	memcpy(key.id, id, POOL_ID_SIZE);
	found = bsearch(&key, s->found.items, s->found.nr, sizeof(key), compare_swept);
	if (found)
		found->known = true;
}

static int know_named(struct pool *p, struct sweep *s, struct err *err)
{
	const struct name_row *rows;
	size_t nr;

	if (names_rows(p, &rows, &nr, err) < 0)
		return -1;
	for (size_t i = 0; i < nr; i++) {
		know(s, rows[i].sealed);
		know(s, rows[i].below);
	}
	return 0;
}

/* What is not empty belongs to a version that was deleted or folded: that is for a collection. */
static int remove_unknown(struct pool *p, const struct sweep *s, bool *ret_all, struct err *err)
{
	char name[POOL_FILE_NAME_ROOM];

	for (size_t i = 0; i < s->found.nr; i++) {
		enum lying lies = LIES_WRITTEN;

		if (!s->found.items[i].known)
			lies = look_what_lies(p, pool_id_file_name(s->found.items[i].id, name));
		if (lies == LIES_IN_USE)
			*ret_all = false;
		if (lies == LIES_EMPTY && file_unlink(p->dirs[POOL_SEALED], name, err) < 0)
			return -1;
	}
	return 0;
}

int seal_sweep(struct pool *p, bool *ret_all, struct err *err)
{
	struct sweep s = { .found = VEC_INIT };
	int rc = file_each_name(p->dirs[POOL_SEALED], find_sealed, &s, err);

	*ret_all = true;
	if (rc == 0 && s.found.nr) {
		qsort(s.found.items, s.found.nr, sizeof(*s.found.items), compare_swept);
		rc = know_named(p, &s, err);
		if (rc == 0)
			rc = remove_unknown(p, &s, ret_all, err);
	}
	vec_release(&s.found);
	return rc;
}
