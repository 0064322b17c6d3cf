/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/store_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/statfs.h>

#include "scanner/base/block.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"

#define EXTENTS_AT_ONCE 512

/* ---- files ---- */

void store_close_files(struct store *s)
{
	for (size_t i = 0; i < STORE_OPEN; i++) {
		if (s->open[i].fd >= 0 && s->open[i].used)
			file_close(s->open[i].fd, "an image", NULL);
		s->open[i].fd = -1;
		s->open[i].used = 0;
	}
}

static int open_file(struct store *s, size_t number, struct err *err)
{
	const struct store_file *f = &s->files.items[number];
	CLEANUP(close_fd) int fd = f->joined ? roots_open_joined(s->roots, f->path, err) :
					       roots_open_again(s->roots, f->path, err);
	struct stat st;

	if (fd < 0)
		return -1;
	if (file_ops->fstat(fd, &st) < 0)
		return err_errno(err, "cannot look at '%s'", f->path);
	if (!S_ISREG(st.st_mode))
		return err_set(err, ERR_UNSUPPORTED, "'%s' is no regular file", f->path);
	if (f->identity.ino && (st.st_dev != f->identity.dev || st.st_ino != f->identity.ino))
		return err_set(err, ERR_STALE, "'%s' is another file by now", f->path);
	return STEAL_FD(fd);
}

int store_open(struct store *s, size_t number, struct err *err)
{
	size_t oldest = 0;
	int fd;

	for (size_t i = 0; i < STORE_OPEN; i++) {
		if (s->open[i].used && s->open[i].file == number) {
			s->open[i].used = ++s->clock;
			return s->open[i].fd;
		}
		if (s->open[i].used < s->open[oldest].used)
			oldest = i;
	}
	fd = open_file(s, number, err);
	if (fd < 0)
		return -1;
	if (s->open[oldest].used)
		file_close(s->open[oldest].fd, "an image", NULL);
	s->open[oldest].file = number;
	s->open[oldest].fd = fd;
	s->open[oldest].used = ++s->clock;
	return fd;
}

int store_add_file(struct store *s, size_t image, const char *path, bool joined, int fd, struct err *err)
{
	struct store_file f = { .path = store_copy(path), .joined = joined, .image = image };
	struct plan_image *p = &s->plan->images[image];
	struct stat st;

	if (!f.path)
		return store_no_memory(err);
	if (file_ops->fstat(fd, &st) < 0) {
		free(f.path);
		return err_errno(err, "cannot look at '%s'", path);
	}
	f.identity = spool_identity_of(&st);
	f.size = (uint64_t)st.st_size;
	f.used = (uint64_t)st.st_blocks * 512;
	if (vec_push(&s->files, f) < 0) {
		free(f.path);
		return store_no_memory(err);
	}
	s->images.items[image].nr_files++;
	p->size += f.size;
	p->used += f.used;
	return 0;
}

/* ---- the disk ---- */

static int add_extents(struct store *s, struct store_file *f, const struct fiemap *map, struct err *err)
{
	for (uint32_t i = 0; i < map->fm_mapped_extents; i++) {
		const struct fiemap_extent *e = &map->fm_extents[i];
		struct range r = { .from = e->fe_logical, .len = e->fe_length, .to = e->fe_physical, .flags = e->fe_flags };

		if (e->fe_flags & FIEMAP_EXTENT_UNWRITTEN)
			continue;
		r.flags &= ~(uint32_t)(FIEMAP_EXTENT_LAST | FIEMAP_EXTENT_MERGED);
		if (r.flags & FIEMAP_EXTENT_SHARED)
			f->shared += r.len;
		if (rangemap_add(s->disk, &r, err) < 0)
			return -1;
	}
	return 0;
}

static int map_extents(struct store *s, struct store_file *f, int fd, struct fiemap *map, struct err *err)
{
	uint64_t at = 0;
	const struct fiemap_extent *last;

	while (store_stopped(s, err) == 0) {
		*map = (struct fiemap){
			.fm_start = at, .fm_length = FIEMAP_MAX_OFFSET - at, .fm_flags = FIEMAP_FLAG_SYNC,
			.fm_extent_count = EXTENTS_AT_ONCE,
		};
		if (file_ops->ioctl(fd, FS_IOC_FIEMAP, map) < 0)
			return errno == EOPNOTSUPP || errno == ENOTTY ? 0 : err_errno(err, "cannot see where '%s' lies", f->path);
		if (!map->fm_mapped_extents)
			return 0;
		if (add_extents(s, f, map, err) < 0)
			return -1;
		last = &map->fm_extents[map->fm_mapped_extents - 1];
		if ((last->fe_flags & FIEMAP_EXTENT_LAST) || last->fe_logical + last->fe_length <= at)
			return 0;
		at = last->fe_logical + last->fe_length;
	}
	return -1;
}

int store_map_disk(struct store *s, size_t number, struct err *err)
{
	CLEANUP(free) struct fiemap *map = malloc(sizeof(*map) + EXTENTS_AT_ONCE * sizeof(struct fiemap_extent));
	struct store_file *f = &s->files.items[number];
	int fd = store_open(s, number, err);

	if (!map)
		return store_no_memory(err);
	f->shared = 0;
	if (fd < 0 || rangemap_begin(s->disk, number, err) < 0)
		return -1;
	return map_extents(s, f, fd, map, err);
}

/* ---- file systems ---- */

static void identify(int fd, const struct stat *st, int64_t type, uint64_t ret[2])
{
	struct btrfs_ioctl_fs_info_args info = { 0 };

	ret[0] = st->st_dev;
	ret[1] = 0;
	/* Subvolumes have devices of their own. */
	if (type == BTRFS_SUPER_MAGIC && file_ops->ioctl(fd, BTRFS_IOC_FS_INFO, &info) == 0)
		memcpy(ret, info.fsid, sizeof(info.fsid));
}

/* Tries it: two equal blocks of a file without a name.  Where none can be made its type has to do. */
static bool can_dedupe(const struct store *s, const char *path, const struct store_fs *fs)
{
	const char *name;
	const struct root *root = roots_find(s->roots, path, &name);
	CLEANUP(close_fd) int fd = root ? file_ops->openat(root->dirfd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600) : -1;
	uint8_t *block = fd < 0 ? NULL : calloc(2, fs->block);
	bool can = fs->type == XFS_SUPER_MAGIC || fs->type == BTRFS_SUPER_MAGIC;

	if (!block)
		return can;
	memset(block, 0x5a, 2 * fs->block);
	if (file_write(fd, block, 2 * fs->block, 0, NULL) == 0) {
		int same = file_dedupe(fd, 0, fs->block, fd, fs->block, NULL);

		if (same >= 0 || (errno != ENOSPC && errno != EDQUOT))
			can = same == 1;
	}
	free(block);
	return can;
}

static const char *fs_name(int64_t type)
{
	static const struct {
		int64_t type;
		const char *name;
	} names[] = {
		{ XFS_SUPER_MAGIC, "xfs" }, { BTRFS_SUPER_MAGIC, "btrfs" }, { EXT4_SUPER_MAGIC, "ext4" },
		{ TMPFS_MAGIC, "tmpfs" }, { NFS_SUPER_MAGIC, "nfs" }, { OVERLAYFS_SUPER_MAGIC, "overlay" },
		{ 0xca451a4e, "bcachefs" }, { OCFS2_SUPER_MAGIC, "ocfs2" }, { FUSE_SUPER_MAGIC, "fuse" },
		{ 0x2fc12fc1, "zfs" }, { F2FS_SUPER_MAGIC, "f2fs" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (names[i].type == type)
			return names[i].name;
	return "unknown";
}

static int add_fs(struct store *s, const struct store_fs *fs, const char *path, const struct stat *st,
		  const struct statfs *sf, struct err *err)
{
	struct plan *p = s->plan;
	struct plan_fs *more = reallocarray(p->file_systems, p->nr_file_systems + 1, sizeof(*more));
	char why[128];

	if (!more || vec_push(&s->file_systems, *fs) < 0) {
		p->file_systems = more ? more : p->file_systems;
		return store_no_memory(err);
	}
	p->file_systems = more;
	more[p->nr_file_systems++] = (struct plan_fs){
		.path = store_copy(path), .type = store_copy(fs_name(fs->type)), .dev = st->st_dev,
		.size = (uint64_t)sf->f_blocks * (uint64_t)sf->f_bsize, .free = (uint64_t)sf->f_bavail * (uint64_t)sf->f_bsize,
	};
	if (!fs->dedupes) {
		snprintf(why, sizeof(why), "%s cannot share blocks between files in place", fs_name(fs->type));
		more[p->nr_file_systems - 1].why_not = strdup(why);
	}
	return 0;
}

int store_find_fs(struct store *s, int fd, const char *path, bool nocow, size_t *ret, struct err *err)
{
	struct store_fs fs = { .nocow = nocow };
	struct statfs sf;
	struct stat st;

	if (file_ops->fstatfs(fd, &sf) < 0 || file_ops->fstat(fd, &st) < 0)
		return err_errno(err, "cannot look at the file system of '%s'", path);
	fs.type = (int64_t)(uint32_t)sf.f_type;
	fs.block = max_u64((uint64_t)sf.f_bsize, BLOCK_SIZE);
	fs.whole_extents = fs.type == BTRFS_SUPER_MAGIC;
	identify(fd, &st, fs.type, fs.id);
	for (size_t i = 0; i < s->file_systems.nr; i++) {
		const struct store_fs *have = &s->file_systems.items[i];

		if (have->id[0] == fs.id[0] && have->id[1] == fs.id[1] && have->nocow == nocow) {
			*ret = i;
			return 0;
		}
	}
	fs.dedupes = can_dedupe(s, path, &fs);
	*ret = s->file_systems.nr;
	return add_fs(s, &fs, path, &st, &sf, err);
}
