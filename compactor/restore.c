/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/restore.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "compactor/pool/tree.h"
#include "compactor/read_ahead.h"
#include "compactor/room.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/base/thread.h"
#include "scanner/base/vec.h"

/*
 *	.web.vmdk.part  .web-flat.vmdk.part	locked while they are written; removed when it fails
 *	 web-flat.vmdk   web.vmdk		in the end, in this order, when all are synced
 *
 * Who dies leaves what he wrote under names that mean nothing, without a lock: the next one removes it.  Only one who dies between
 * two renames leaves a part of an image under its own name. */

#define LOOK_NS 100000000 /* how often to look around during a sync */

struct new_file {
	char name[NAME_MAX + 1], part[NAME_MAX + 1];
	int fd; /* -1 = it is complete and synced */
	bool named;
};

struct restoring {
	const struct restore_options *o;
	int dirfd;
	VEC(struct new_file) files; /* the image's own first */
};

static void tell(const struct restoring *r, const char *stage, uint64_t done, uint64_t total)
{
	if (r->o->progress)
		r->o->progress(r->o->ctx, stage, done, total);
}

static bool stopped(const struct restoring *r)
{
	return r->o->stopper && stopper_says(r->o->stopper);
}

/* ---- new files ---- */

static int check_free(const struct restoring *r, const char *name, struct err *err)
{
	struct stat st;

	if (file_ops->fstatat(r->dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
		return err_set(err, ERR_USAGE, "'%s' is there already", name);
	return errno == ENOENT ? 0 : err_errno(err, "cannot look for '%s'", name);
}

static int lock(int fd)
{
	struct flock whole = { .l_type = F_WRLCK };

	return file_ops->fcntl(fd, F_OFD_SETLK, &whole);
}

static int is_busy(const char *part, struct err *err)
{
	return err_set(err, ERR_BUSY, "another dedupscan writes '%s'; wait for it", part);
}

static int remove_left(const struct restoring *r, const char *part, struct err *err)
{
	CLEANUP(close_fd) int fd = file_open(r->dirfd, part, O_RDWR | O_NOFOLLOW | O_NONBLOCK, 0, err);
	struct stat st, now;

	if (fd < 0)
		return -1;
	if (file_ops->fstat(fd, &st) < 0)
		return err_errno(err, "cannot look at '%s'", part);
	if (!S_ISREG(st.st_mode) || st.st_uid != geteuid())
		return err_set(err, ERR_REFUSED, "'%s' is there, and not what this user left; see what it is", part);
	if (lock(fd) < 0)
		return errno == EAGAIN || errno == EACCES ? is_busy(part, err)
							  : err_errno(err, "cannot lock '%s'; remove it", part);
	if (file_ops->fstatat(r->dirfd, part, &now, AT_SYMLINK_NOFOLLOW) < 0 || now.st_dev != st.st_dev || now.st_ino != st.st_ino)
		return is_busy(part, err);
	if (file_unlink(r->dirfd, part, err) < 0)
		return -1;
	if (r->o->removed)
		r->o->removed(r->o->ctx, part);
	return 0;
}

/* Where a file system has no locks it goes without. */
static int create_part(const struct restoring *r, const char *part, struct err *err)
{
	const int flags = O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW;
	struct err why = ERR_INIT;
	int fd = file_open(r->dirfd, part, flags, 0600, &why);

	if (fd < 0 && why.errnum == EEXIST) {
		if (remove_left(r, part, err) < 0)
			return -1;
		fd = file_open(r->dirfd, part, flags, 0600, &why);
	}
	if (fd < 0) {
		if (err)
			*err = why;
		return -1;
	}
	if (lock(fd) == 0 || (errno != EAGAIN && errno != EACCES))
		return fd;
	file_ops->close(fd);
	return is_busy(part, err);
}

static int begin_file(struct restoring *r, const char *name, struct err *err)
{
	struct new_file f;

	if (snprintf(f.part, sizeof(f.part), ".%s.part", name) >= (int)sizeof(f.part))
		return err_set(err, ERR_USAGE, "the name '%s' is too long", name);
	snprintf(f.name, sizeof(f.name), "%s", name);
	f.named = false;
	if (check_free(r, name, err) < 0)
		return -1;
	if (vec_reserve(&r->files) < 0)
		return err_set(err, ERR_MEMORY, "no memory for the files of an image");
	f.fd = create_part(r, f.part, err);
	if (f.fd < 0)
		return -1;
	r->files.items[r->files.nr++] = f;
	return f.fd;
}

/* ---- syncing ---- */

struct sync {
	const struct new_file *f;
	int rc;
	struct err err;
};

static void *run_sync(void *arg)
{
	struct sync *s = arg;

	s->rc = file_sync(s->f->fd, s->f->part, &s->err);
	return NULL;
}

static bool joined(pthread_t thread)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += LOOK_NS;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	return pthread_clockjoin_np(thread, NULL, CLOCK_MONOTONIC, &until) == 0;
}

/* May take minutes, and nothing ends it but that there is nothing left to write. */
static int sync_file(const struct restoring *r, const struct new_file *f, struct err *err)
{
	struct sync s = { .f = f, .err = ERR_INIT };
	bool given_up = false;
	pthread_t thread;

	if (thread_start(&thread, run_sync, &s) != 0)
		return file_sync(f->fd, f->part, err);
	while (!joined(thread)) {
		tell(r, "syncing", 0, 0);
		if (!given_up && stopped(r)) {
			given_up = true;
			file_truncate(f->fd, 0, NULL);
		}
	}
	if (given_up)
		return err_set(err, ERR_CANCELED, "stopped");
	if (s.rc < 0 && err)
		*err = s.err;
	return s.rc;
}

/* The file that was begun last is complete, unless it is the image's own. */
static int end_file(struct restoring *r, struct err *err)
{
	struct new_file *f = &r->files.items[r->files.nr - 1];
	int fd = f->fd;

	if (r->files.nr == 1)
		return 0;
	if (sync_file(r, f, err) < 0)
		return -1;
	f->fd = -1;
	return file_close(fd, f->part, err);
}

static int next_file(void *ctx, const char *name, struct err *err)
{
	struct restoring *r = ctx;

	return end_file(r, err) < 0 ? -1 : begin_file(r, name, err);
}

/* ---- the disk ---- */

/* Segments that are not zeros, and of them what is stored, bytes.  What is missing shows when it is read. */
static int count_data(const struct restoring *r, struct pool *p, const uint8_t root[DIGEST_SIZE], uint64_t size, uint64_t *ret,
		      uint64_t *ret_stored, struct err *err)
{
	CLEANUP(tree_walk_free) struct tree_walk *walk = tree_walk_new(p->nodes, root, size, err);
	uint64_t segment, next = 0, nr = 0;
	uint8_t digest[DIGEST_SIZE];
	struct leaf leaf;
	int rc = -1;

	*ret_stored = 0;
	while (walk && (rc = tree_walk_next(walk, next, &segment, digest, err)) > 0) {
		next = segment + 1;
		if (nodes_find_leaf(p->nodes, digest, POOL_UNIT_BITS_MIN, &leaf, NULL) > 0)
			*ret_stored += leaf_bytes(&leaf);
		if (++nr % 4096 == 0 && stopped(r))
			return err_set(err, ERR_CANCELED, "stopped");
	}
	*ret = nr * SEGMENT_SIZE;
	return rc;
}

static int write_disk(const struct restoring *r, struct read_ahead *disk, uint64_t total, struct writer *w, struct err *err)
{
	uint64_t segment, done = 0, since = 0;
	const void *bytes;
	int rc;

	while ((rc = read_ahead_next(disk, &segment, &bytes, err)) > 0) {
		uint64_t at = segment * SEGMENT_SIZE;

		if (stopped(r))
			return err_set(err, ERR_CANCELED, "stopped");
		if (at >= w->size)
			return err_set(err, ERR_FORMAT, "its tree goes on behind the end of the disk");
		if (room_keep(w->fd, SEGMENT_SIZE, &since, err) < 0)
			return -1;
		if (writer_put(w, at, bytes, (size_t)min_u64(SEGMENT_SIZE, round_up(w->size - at, WRITER_SECTOR)), err) < 0)
			return -1;
		tell(r, "restoring", done += SEGMENT_SIZE, total);
	}
	return rc < 0 ? -1 : writer_end(w, err);
}

static int write_image(struct restoring *r, struct pool *p, const uint8_t root[DIGEST_SIZE], uint64_t size, struct err *err)
{
	CLEANUP(read_ahead_free) struct read_ahead *disk = NULL;
	CLEANUP(writer_free) struct writer *w = NULL;
	struct writer_options how = r->o->how;
	uint64_t total = 0, stored = 0;

	how.create = next_file;
	how.ctx = r;
	w = writer_new(r->o->format, r->files.items[0].fd, r->files.items[0].name, size, &how, err);
	if (!w || count_data(r, p, root, size, &total, &stored, err) < 0)
		return -1;
	if (!w->packer && room_check(r->dirfd, stored, err) < 0) /* what compression leaves nobody knows */
		return -1;
	disk = read_ahead_new(p, root, size, err);
	return disk ? write_disk(r, disk, total, w, err) : -1;
}

/* ---- names ---- */

/* Not every file system can refuse to replace. */
static int name_file(const struct restoring *r, struct new_file *f, struct err *err)
{
	struct err why = ERR_INIT;
	int rc = file_rename_to(r->dirfd, f->part, r->dirfd, f->name, RENAME_NOREPLACE, &why);

	if (rc < 0 && why.errnum != EINVAL) {
		if (err)
			*err = why;
		return -1;
	}
	if (rc < 0 && (check_free(r, f->name, err) < 0 || file_rename(r->dirfd, f->part, f->name, err) < 0))
		return -1;
	f->named = true;
	return 0;
}

static int name_files(struct restoring *r, struct err *err)
{
	for (size_t i = 1; i < r->files.nr; i++)
		if (name_file(r, &r->files.items[i], err) < 0)
			return -1;
	return name_file(r, &r->files.items[0], err) < 0 ? -1 : file_sync_dir(r->dirfd, err);
}

static void end(struct restoring *r, bool well)
{
	for (size_t i = 0; i < r->files.nr; i++) {
		struct new_file *f = &r->files.items[i];

		if (!well)
			file_unlink(r->dirfd, f->named ? f->name : f->part, NULL);
		if (f->fd >= 0)
			file_ops->close(f->fd);
	}
	vec_release(&r->files);
}

int restore_disk(struct pool *p, const uint8_t root[DIGEST_SIZE], uint64_t size, int dirfd, const char *name,
		 const struct restore_options *o, struct err *err)
{
	struct restoring r = { .o = o, .dirfd = dirfd, .files = VEC_INIT };
	bool well = begin_file(&r, name, err) >= 0 && write_image(&r, p, root, size, err) == 0 && end_file(&r, err) == 0 &&
		    sync_file(&r, &r.files.items[0], err) == 0 && name_files(&r, err) == 0;

	end(&r, well);
	return well ? 0 : -1;
}
