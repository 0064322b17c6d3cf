/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/store_parts.h"

#include <linux/fs.h>
#include <string.h>

#include "compactor/copies.h"
#include "compactor/hold.h"
#include "compactor/mapper.h"
#include "compactor/relayout.h"
#include "scanner/base/block.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"

/* Nothing is done with the image; the first reason stays. */
static int leave_alone(struct store *s, size_t image, const char *why)
{
	struct plan_image *p = &s->plan->images[image];

	if (!p->why_not)
		p->why_not = strdup(why);
	return p->why_not ? 0 : -1;
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
	if (store_find_fs(l->s, fd, path, l->s->file_systems.items[i->fs].nocow, &fs, err) < 0)
		return -1;
	if (fs != i->fs) {
		i->out = true;
		if (leave_alone(l->s, l->image, "it lies on several file systems") < 0)
			return store_no_memory(err);
	}
	for (size_t n = 0; n < i->nr_files; n++)
		if (is_file(&l->s->files.items[i->first_file + n], st.st_dev, st.st_ino))
			return 0;
	if (l->s->files.nr != i->first_file + i->nr_files) /* it is looked at again */
		return err_set(err, ERR_REFUSED, "it lies in another file than before");
	return store_add_file(l->s, l->image, path, true, fd, err);
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
		return leave_alone(s, image, why.text) < 0 ? store_no_memory(err) : 0;
	}
	i->certain = ret->certainty != IMAGE_GUESSED && !ret->dirty && !ret->corrupt;
	i->packed = ret->packed;
	i->encrypted = ret->encrypted;
	i->pooled = ret->pooled;
	i->nr_snapshots = ret->nr_snapshots;
	i->nr_bitmaps = ret->nr_bitmaps;
	i->vm_state = ret->vm_state;
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
			return store_no_memory(err);
	}
	if (store_find_fs(s, fd, i->path, nocow, &i->fs, err) < 0 || store_add_file(s, image, i->path, false, fd, err) < 0)
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
					     "properly; --format NAME says what it is") < 0 ? store_no_memory(err) : 0;
	dirfd = roots_open_dir_of(s->roots, i->path, &name, err);
	if (dirfd < 0)
		return -1;
	if (hold_look(fd, dirfd, name, &why) < 0 && !(assume_idle && why.kind == ERR_UNSUPPORTED)) {
		err_add(&why, "it would have to be rewritten");
		return leave_alone(s, image, why.text) < 0 ? store_no_memory(err) : 0;
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
		return leave_alone(s, image, why.text) < 0 ? store_no_memory(err) : 0;
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
				return store_stopped(s, err);
			s->images.items[image].out = true;
			return leave_alone(s, image, why.text) < 0 ? store_no_memory(err) : 0;
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
		return store_no_memory(err);
	p->images = more;
	p->images[p->nr_images++] = (struct plan_image){
		.id = c->id, .path = store_copy(c->path), .format = store_copy(c->format), .identity = c->identity,
		.stored = (c->nr_stored - c->nr_zero) * BLOCK_SIZE, .zero = c->nr_zero * BLOCK_SIZE,
		.why_not = c->error ? strdup(c->error) : NULL,
	};
	i.out = c->error != NULL;
	i.no_disk = !c->virtual_size;
	i.full = c->nr_stored * BLOCK_SIZE >= round_down(c->virtual_size, BLOCK_SIZE);
	i.path = store_copy(c->path);
	i.format = store_copy(c->format);
	i.backing_path = store_copy(c->backing_path);
	return i.path && i.format && i.backing_path && vec_push(&s->images, i) == 0 ? 0 : store_no_memory(err);
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
			return store_no_memory(err);
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
		if (store_stopped(s, err) < 0)
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
