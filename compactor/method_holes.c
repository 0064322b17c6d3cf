/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/compact_parts.h"
#include "compactor/hold.h"
#include "compactor/holes.h"
#include "scanner/base/block.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"

/* Punching out stored zeros.  The catalog knows in which segments there are some; where exactly is found by reading these.
 *
 * An image that stores all of its guest's disk was made so that its space is there when it is needed; that is given up only when
 * asked. */

struct punching {
	struct compaction *c;
	struct holes h;
	struct holes_result result;
	size_t file; /* in the store, whose descriptor h.fd is */
};

static int plan(struct compaction *c, struct plan_step *s, struct err *err)
{
	const struct store_image *i = &c->store.images.items[s->image];
	const struct plan_image *p = &c->plan->images[s->image];

	(void)err;
	if (!p->zero || i->relayout || c->store.file_systems.items[i->fs].whole_extents)
		return 0; /* a rewrite leaves zeros out */
	if (!c->o.preallocated && i->full) {
		compact_leave(c, s->image, "its zeros are left alone, for all of its space is allocated; --preallocated frees them");
		return 0;
	}
	s->saving = s->work = p->zero;
	return 1;
}

static int check(void *ctx, struct err *err)
{
	return compact_worked(ctx, 0, err);
}

static int punch_range(struct punching *p, const struct range *r, struct err *err)
{
	int fd = p->h.fd;

	if (r->tag != p->file) {
		p->h.fd = fd = store_open(&p->c->store, r->tag, err);
		p->file = r->tag;
	}
	if (fd < 0)
		return -1;
	return holes_punch(&p->h, r->to, r->to + r->len, &p->result, err);
}

static int punch_segments(void *ctx, uint64_t first, uint64_t last, struct err *err)
{
	struct punching *p = ctx;
	uint64_t at = first * SEGMENT_SIZE, end = (last + 1) * SEGMENT_SIZE;
	struct range r;
	int rc = 0;

	while (at < end && (rc = rangemap_find(p->c->store.blocks, p->c->step->image, at, &r, err)) > 0) {
		if (r.from < at) {
			r.to += at - r.from;
			r.len -= at - r.from;
			r.from = at;
		}
		if (r.from >= end)
			break;
		r.len = min_u64(r.len, end - r.from);
		at = r.from + r.len;
		if (punch_range(p, &r, err) < 0)
			return -1;
	}
	return rc < 0 ? -1 : 0;
}

static int punch(struct punching *p, struct err *err)
{
	struct compaction *c = p->c;
	int rc = catalog_each_zero_run(c->catalog, c->store.images.items[c->step->image].id, punch_segments, p, err);

	c->step->shared = p->result.bytes;
	c->step->nr_runs = p->result.nr;
	c->step->nr_differed = p->result.nr_differed;
	return rc < 0 ? -1 : compact_worked(c, c->step->work, err);
}

/* Beside whoever uses it: the kernel compares. */
static int punch_compared(struct punching *p, struct err *err)
{
	const struct store_image *i = &p->c->store.images.items[p->c->step->image];
	const char *name;
	CLEANUP(close_fd) int dirfd = roots_open_dir_of(p->c->o.roots, i->path, &name, err);
	int rc;

	p->h.fd = dirfd < 0 ? -1 : store_open(&p->c->store, p->file, err);
	if (p->h.fd < 0)
		return -1;
	p->h.how = HOLES_COMPARED;
	p->h.hole_fd = holes_open(dirfd, p->h.fd, err);
	if (p->h.hole_fd < 0)
		return -1;
	rc = punch(p, err);
	file_close(p->h.hole_fd, "a hole", NULL);
	return rc;
}

static int punch_held(struct punching *p, struct err *err)
{
	struct compaction *c = p->c;
	const struct store_image *i = &c->store.images.items[c->step->image];
	struct hold_options o = { .assume_idle = c->o.assume_idle };
	CLEANUP(hold_release) struct hold hold = HOLD_INIT;
	CLEANUP(close_fd) int dirfd = -1, fd = -1;
	struct timespec times[2];
	const char *name;
	struct stat st;
	int rc;

	if (i->nr_files != 1)
		return err_set(err, ERR_UNSUPPORTED, "it lies in several files, whose users cannot be kept out");
	fd = rewrite_open(c, i->first_file, &dirfd, &name, err);
	if (fd < 0 || hold_take(&hold, fd, dirfd, name, &o, err) < 0)
		return -1;
	if (file_ops->fstat(fd, &st) < 0)
		return err_errno(err, "cannot look at '%s'", i->path);
	p->h.fd = fd;
	p->h.how = HOLES_HELD;
	rc = punch(p, err);
	times[0] = st.st_atim;
	times[1] = st.st_mtim;
	if (rc == 0 && file_ops->futimens(fd, times) < 0) /* what it says did not change, and backups look at times */
		return err_errno(err, "cannot set the time of '%s'", i->path);
	return rc == 0 ? file_sync(fd, i->path, err) : rc;
}

static int apply(struct compaction *c, struct err *err)
{
	const struct store_image *i = &c->store.images.items[c->step->image];
	struct punching p = {
		.c = c, .file = i->first_file, .h = { .hole_fd = -1, .min_len = 4 * KIB, .check = check, .check_ctx = c },
	};

	return c->store.file_systems.items[i->fs].dedupes ? punch_compared(&p, err) : punch_held(&p, err);
}

const struct method method_holes = { .id = PLAN_HOLES, .plan = plan, .apply = apply };
