/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/store.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/statfs.h>

#include "compactor/copies.h"
#include "compactor/hold.h"
#include "compactor/mapper.h"
#include "compactor/relayout.h"
#include "scanner/base/block.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"

#define EXTENTS_AT_ONCE 512

static int no_memory(struct err *err)
{
	return err_set(err, ERR_MEMORY, "no memory to look at the store");
}

static char *copy(const char *s)
{
	return strdup(s ? s : "");
}

static int stopped(const struct store *s, struct err *err)
{
	return s->stopper && stopper_says(s->stopper) ? err_set(err, ERR_CANCELED, "stopped while the store was looked at") : 0;
}

/* Nothing is done with the image; the first reason stays. */
static int leave_alone(struct store *s, size_t image, const char *why)
{
	struct plan_image *p = &s->plan->images[image];

	if (!p->why_not)
		p->why_not = strdup(why);
	return p->why_not ? 0 : -1;
}

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

static int add_file(struct store *s, size_t image, const char *path, bool joined, int fd, struct err *err)
{
	struct store_file f = { .path = copy(path), .joined = joined, .image = image };
	struct plan_image *p = &s->plan->images[image];
	struct stat st;

	if (!f.path)
		return no_memory(err);
	if (file_ops->fstat(fd, &st) < 0) {
		free(f.path);
		return err_errno(err, "cannot look at '%s'", path);
	}
	f.identity = spool_identity_of(&st);
	f.size = (uint64_t)st.st_size;
	f.used = (uint64_t)st.st_blocks * 512;
	if (vec_push(&s->files, f) < 0) {
		free(f.path);
		return no_memory(err);
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

	while (stopped(s, err) == 0) {
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
		return no_memory(err);
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
	if (type == BTRFS_SUPER_MAGIC && file_ops->ioctl(fd, BTRFS_IOC_FS_INFO, &info) == 0) /* subvolumes have devices of their own */
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

const char *store_fs_name(int64_t type)
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
		return no_memory(err);
	}
	p->file_systems = more;
	more[p->nr_file_systems++] = (struct plan_fs){
		.path = copy(path), .type = copy(store_fs_name(fs->type)), .dev = st->st_dev,
		.size = (uint64_t)sf->f_blocks * (uint64_t)sf->f_bsize, .free = (uint64_t)sf->f_bavail * (uint64_t)sf->f_bsize,
	};
	if (!fs->dedupes) {
		snprintf(why, sizeof(why), "%s cannot share blocks between files in place", store_fs_name(fs->type));
		more[p->nr_file_systems - 1].why_not = strdup(why);
	}
	return 0;
}

static int find_fs(struct store *s, int fd, const char *path, bool nocow, size_t *ret, struct err *err)
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

/* ---- one image ---- */

struct looking {
	struct store *s;
	size_t image;
	bool misaligned; /* stretches of it are */
};

static bool is_file(const struct store_file *f, uint64_t dev, uint64_t ino)
{
	return f->identity.dev == dev && f->identity.ino == ino;
}

static int take_part(void *ctx, const char *path, int fd, struct err *err)
{
	struct looking *l = ctx;
	struct store_image *i = &l->s->images.items[l->image];
	struct stat st;
	size_t fs;

	if (file_ops->fstat(fd, &st) < 0)
		return err_errno(err, "cannot look at '%s'", path);
	if (find_fs(l->s, fd, path, l->s->file_systems.items[i->fs].nocow, &fs, err) < 0)
		return -1;
	if (fs != i->fs) {
		i->out = true;
		if (leave_alone(l->s, l->image, "it lies on several file systems") < 0)
			return no_memory(err);
	}
	for (size_t n = 0; n < i->nr_files; n++)
		if (is_file(&l->s->files.items[i->first_file + n], st.st_dev, st.st_ino))
			return 0;
	if (l->s->files.nr != i->first_file + i->nr_files) /* it is looked at again */
		return err_set(err, ERR_REFUSED, "it lies in another file than before");
	return add_file(l->s, l->image, path, true, fd, err);
}

static int take_mapped(void *ctx, const struct mapped *m, struct err *err)
{
	struct looking *l = ctx;
	const struct store_image *i = &l->s->images.items[l->image];
	const struct store_fs *fs = &l->s->file_systems.items[i->fs];
	struct range r = { .from = m->address, .len = m->len, .to = m->offset };
	size_t n = 0;

	while (n < i->nr_files && !is_file(&l->s->files.items[i->first_file + n], m->dev, m->ino))
		n++;
	if (n == i->nr_files)
		return err_set(err, ERR_REFUSED, "the process that read the image named a file that is none of its");
	r.tag = (uint32_t)(i->first_file + n);
	if (m->offset % fs->block) {
		r.flags = STORE_MISALIGNED;
		l->misaligned = true;
	}
	return rangemap_add(l->s->blocks, &r, err);
}

static int map_image(struct store *s, size_t image, int fd, struct mapped_image *ret, struct err *err)
{
	struct looking l = { .s = s, .image = image };
	struct mapper m = {
		.roots = s->roots, .format = s->format, .jail = s->jail, .stopper = s->stopper, .mapped = take_mapped,
		.part = take_part, .ctx = &l,
	};
	struct store_image *i = &s->images.items[image];
	struct err why = ERR_INIT;
	int rc;

	if (rangemap_begin(s->blocks, image, err) < 0)
		return -1;
	rc = mapper_run(&m, fd, i->path, ret, &why, err);
	if (rc < 0)
		return -1;
	i = &s->images.items[image];
	if (rc == 0) {
		i->out = true;
		s->plan->complete = false;
		if (s->problem)
			s->problem(s->ctx, i->path, &why);
		return leave_alone(s, image, why.text) < 0 ? no_memory(err) : 0;
	}
	i->certain = ret->certainty != IMAGE_GUESSED && !ret->dirty && !ret->corrupt;
	i->packed = ret->packed;
	i->mixed = l.misaligned || ret->packed || ret->misaligned;
	s->plan->images[image].misaligned = ret->misaligned + ret->packed;
	return 0;
}

/* What of a file forbids to change it. */
static const char *why_fixed(int fd, const struct stat *st, bool *ret_nocow)
{
	int flags = 0;

	*ret_nocow = false;
	if (file_ops->ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0) {
		*ret_nocow = flags & FS_NOCOW_FL;
		if (flags & FS_IMMUTABLE_FL)
			return "it is immutable (chattr +i); others can share with it";
	}
	if (geteuid() != 0 && st->st_uid != geteuid())
		return "it belongs to another user";
	return NULL;
}

static int look_at_file(struct store *s, size_t image, int fd, struct err *err)
{
	struct store_image *i = &s->images.items[image];
	const char *why;
	struct stat st;
	bool nocow;

	if (file_ops->fstat(fd, &st) < 0)
		return err_errno(err, "cannot look at '%s'", i->path);
	why = why_fixed(fd, &st, &nocow);
	if (why) {
		i->fixed = true;
		if (leave_alone(s, image, why) < 0)
			return no_memory(err);
	}
	if (find_fs(s, fd, i->path, nocow, &i->fs, err) < 0 || add_file(s, image, i->path, false, fd, err) < 0)
		return -1;
	s->plan->images[image].fs = s->images.items[image].fs;
	return 0;
}

/* It has to be laid out anew before anything can be shared with it: can that be? */
static int look_whether_idle(struct store *s, size_t image, int fd, bool assume_idle, struct err *err)
{
	struct store_image *i = &s->images.items[image];
	const char *name;
	struct err why = ERR_INIT;
	CLEANUP(close_fd) int dirfd = -1;

	if (!i->certain)
		return leave_alone(s, image, "it would have to be rewritten, but its format is not certain, or it was not closed "
					     "properly; --format NAME says what it is") < 0 ? no_memory(err) : 0;
	dirfd = roots_open_dir_of(s->roots, i->path, &name, err);
	if (dirfd < 0)
		return -1;
	if (hold_look(fd, dirfd, name, &why) < 0 && !(assume_idle && why.kind == ERR_UNSUPPORTED)) {
		err_add(&why, "it would have to be rewritten");
		return leave_alone(s, image, why.text) < 0 ? no_memory(err) : 0;
	}
	i->relayout = true;
	return 0;
}

static int look_at_image(struct store *s, size_t image, const struct store_options *o, struct err *err)
{
	struct store_image *i = &s->images.items[image];
	struct mapped_image m = { 0 };
	struct err why = ERR_INIT;
	CLEANUP(close_fd) int fd = roots_open_again(s->roots, i->path, &why);
	struct stat st;

	i->first_file = s->files.nr;
	if (fd >= 0 && (file_ops->fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)))
		err_set(&why, ERR_UNSUPPORTED, "it is no regular file");
	if (why.kind) {
		i->out = true;
		return leave_alone(s, image, why.text) < 0 ? no_memory(err) : 0;
	}
	if (look_at_file(s, image, fd, err) < 0)
		return -1;
	if (map_image(s, image, fd, &m, err) < 0)
		return -1;
	i = &s->images.items[image];
	if (o->wanted && !o->wanted(o->wanted_ctx, i->path))
		i->fixed = true;
	if (o->relayout && !i->fixed && !i->out && m.misaligned && i->nr_files == 1 && !m.has_backing &&
	    relayout_applies(m.format, m.kind))
		return look_whether_idle(s, image, fd, o->assume_idle, err);
	return 0;
}

static int look_at_disk(struct store *s, size_t image, struct err *err)
{
	const struct store_image *i = &s->images.items[image];
	struct err why = ERR_INIT;

	for (size_t n = 0; n < i->nr_files; n++) { /* also of one that takes no part: it has references */
		if (store_map_disk(s, i->first_file + n, &why) < 0) {
			if (why.kind == ERR_CANCELED)
				return stopped(s, err);
			s->images.items[image].out = true;
			return leave_alone(s, image, why.text) < 0 ? no_memory(err) : 0;
		}
		s->plan->images[image].nr_extents += rangemap_count(s->disk, i->first_file + n);
	}
	return 0;
}

/* ---- the whole ---- */

static int take_image(void *ctx, const struct catalog_image *c, struct err *err)
{
	struct store *s = ctx;
	struct plan *p = s->plan;
	struct store_image i = {
		.id = c->id, .layer = max_u64(c->layer / BLOCK_SIZE, 1), .cluster_size = c->cluster_size, .identity = c->identity,
		.copy_of = STORE_NO_COPY,
	};
	struct plan_image *more;

	if (!roots_cover(s->roots, c->path) || c->part_of)
		return 0;
	if (!c->scanned_at && !c->error) {
		p->complete = false;
		return 0;
	}
	more = reallocarray(p->images, p->nr_images + 1, sizeof(*more));
	if (!more)
		return no_memory(err);
	p->images = more;
	p->images[p->nr_images++] = (struct plan_image){
		.id = c->id, .path = copy(c->path), .format = copy(c->format), .identity = c->identity,
		.stored = (c->nr_stored - c->nr_zero) * BLOCK_SIZE, .zero = c->nr_zero * BLOCK_SIZE,
		.why_not = c->error ? strdup(c->error) : NULL,
	};
	i.out = c->error != NULL;
	i.full = c->nr_stored * BLOCK_SIZE >= round_down(c->virtual_size, BLOCK_SIZE);
	i.path = copy(c->path);
	i.format = copy(c->format);
	i.backing_path = copy(c->backing_path);
	return i.path && i.format && i.backing_path && vec_push(&s->images, i) == 0 ? 0 : no_memory(err);
}

static size_t image_by_path(const struct store *s, const char *path)
{
	size_t low = 0, high = s->images.nr;

	while (low < high) {
		size_t mid = low + (high - low) / 2;
		int order = strcmp(s->images.items[mid].path, path);

		if (order == 0)
			return mid;
		if (order < 0)
			low = mid + 1;
		else
			high = mid;
	}
	return SIZE_MAX;
}

static unsigned depth_of(const struct store *s, const struct store_image *i)
{
	unsigned depth = 0;

	while (i->backing_path[0] && depth < IMAGE_CHAIN_MAX) {
		size_t n = image_by_path(s, i->backing_path);

		if (n == SIZE_MAX)
			break;
		i = &s->images.items[n];
		depth++;
	}
	return depth;
}

static int class_of(const struct store_image *i)
{
	return i->relayout ? 2 : !i->fixed;
}

/* Most of it is shared: who comes new joins, so that what was done before stays. */
static bool settled(const struct store *s, const struct store_image *i)
{
	uint64_t shared = 0, used = 0;

	for (size_t n = 0; n < i->nr_files; n++) {
		shared += s->files.items[i->first_file + n].shared;
		used += s->files.items[i->first_file + n].used;
	}
	return 2 * shared >= used && shared;
}

static int compare_ranks(const void *a, const void *b, void *ctx)
{
	const struct store *s = ctx;
	uint32_t m = *(const uint32_t *)a, n = *(const uint32_t *)b;
	const struct store_image *x = &s->images.items[m], *y = &s->images.items[n];

	if (class_of(x) != class_of(y))
		return class_of(x) < class_of(y) ? -1 : 1;
	if (x->settled != y->settled)
		return x->settled ? -1 : 1;
	if (x->depth != y->depth)
		return x->depth < y->depth ? -1 : 1;
	return m < n ? -1 : m > n;
}

static int rank(struct store *s, struct err *err)
{
	for (size_t i = 0; i < s->images.nr; i++) {
		s->images.items[i].depth = depth_of(s, &s->images.items[i]);
		s->images.items[i].settled = settled(s, &s->images.items[i]);
		if (vec_push(&s->ranks, (uint32_t)i) < 0)
			return no_memory(err);
	}
	if (s->ranks.nr)
		qsort_r(s->ranks.items, s->ranks.nr, sizeof(uint32_t), compare_ranks, s);
	for (size_t i = 0; i < s->ranks.nr; i++)
		s->images.items[s->ranks.items[i]].rank = (uint32_t)i;
	return 0;
}

int store_look(struct store *s, const struct store_options *o, struct plan *plan, struct err *err)
{
	s->plan = plan;
	s->problem = o->problem;
	s->ctx = o->ctx;
	s->blocks = rangemap_new(catalog_spool_dirfd(s->c), err);
	s->disk = s->blocks ? rangemap_new(catalog_spool_dirfd(s->c), err) : NULL;
	if (!s->disk || catalog_each_image(s->c, take_image, s, err) < 0)
		return -1;
	for (size_t i = 0; i < s->images.nr; i++) {
		if (stopped(s, err) < 0)
			return -1;
		if (!s->images.items[i].out && (look_at_image(s, i, o, err) < 0 || look_at_disk(s, i, err) < 0))
			return -1;
		if (o->progress)
			o->progress(o->ctx, i + 1, s->images.nr);
	}
	if (rangemap_end(s->blocks, err) < 0 || rangemap_end(s->disk, err) < 0)
		return -1;
	return rank(s, err) < 0 ? -1 : copies_find(s, err);
}

int store_look_again(struct store *s, size_t file, struct err *err)
{
	struct store_file *f = &s->files.items[file];
	size_t image = f->image;
	const struct store_image *i = &s->images.items[image];
	struct mapped_image m = { 0 };
	struct stat st;
	int fd;

	store_close_files(s);
	f->identity.ino = 0; /* it is another file now */
	fd = store_open(s, file, err);
	if (fd < 0)
		return -1;
	if (file_ops->fstat(fd, &st) < 0)
		return err_errno(err, "cannot look at '%s'", f->path);
	f->identity = spool_identity_of(&st);
	f->size = f->identity.size;
	fd = store_open(s, i->first_file, err);
	if (fd < 0 || map_image(s, image, fd, &m, err) < 0 || rangemap_end(s->blocks, err) < 0)
		return -1;
	s->images.items[image].relayout = false;
	if (store_map_disk(s, file, err) < 0)
		return -1;
	return rangemap_end(s->disk, err);
}

int store_find(struct store *s, size_t image, uint64_t address, struct range *ret, struct err *err)
{
	const struct store_image *i = &s->images.items[image];
	struct range r;
	int rc = rangemap_find(s->blocks, image, address, &r, err);

	if (rc <= 0)
		return rc;
	if (r.from > address || ((r.flags & STORE_MISALIGNED) && !i->relayout))
		return 0;
	ret->from = address;
	ret->len = r.len - (address - r.from);
	ret->to = r.to + (address - r.from);
	ret->tag = r.tag;
	ret->flags = r.flags;
	return 1;
}

void store_release(struct store *s)
{
	store_close_files(s);
	for (size_t i = 0; i < s->files.nr; i++)
		free(s->files.items[i].path);
	for (size_t i = 0; i < s->images.nr; i++) {
		free(s->images.items[i].path);
		free(s->images.items[i].format);
		free(s->images.items[i].backing_path);
	}
	vec_release(&s->files);
	vec_release(&s->images);
	vec_release(&s->ranks);
	vec_release(&s->file_systems);
	rangemap_free(s->blocks);
	rangemap_free(s->disk);
}
