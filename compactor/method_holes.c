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
	const struct hold *hold; /* HOLES_HELD */
};

/* ---- segments ---- */

/* Calls for the stretches of files in which a segment lies. */
static int each_range(struct compaction *c, size_t image, uint64_t segment,
		      int (*call)(void *ctx, const struct range *r, struct err *err), void *ctx, struct err *err)
{
	uint64_t at = segment * SEGMENT_SIZE, end = at + SEGMENT_SIZE;
	struct range r;
	int rc = 0;

	while (at < end && (rc = rangemap_find(c->store.blocks, image, at, &r, err)) > 0 && r.from < end) {
		uint64_t skip = at > r.from ? at - r.from : 0;

		r.from += skip;
		r.to += skip;
		r.len = min_u64(r.len - skip, end - r.from);
		at = r.from + r.len;
		rc = call(ctx, &r, err);
		if (rc < 0)
			return -1;
	}
	return rc < 0 ? -1 : 0;
}

/* ---- the plan ---- */

struct counting {
	struct compaction *c;
	size_t image;
	uint64_t on_disk; /* of the segment at hand */
	uint64_t zero;	  /* of all, as far as they take space */
};

static int add_on_disk(void *ctx, const struct range *r, struct err *err)
{
	struct counting *n = ctx;
	uint64_t at = r->to, end = r->to + r->len;
	struct range d;
	int rc = 0;

	while (at < end && (rc = rangemap_find(n->c->store.disk, r->tag, at, &d, err)) > 0 && d.from < end) {
		uint64_t from = max_u64(at, d.from);

		at = min_u64(end, d.from + d.len);
		n->on_disk += at - from;
	}
	return rc < 0 ? -1 : 0;
}

/* What is on the disk beyond what is not zero. */
static int count_segment(void *ctx, uint64_t segment, unsigned stored, unsigned zero, struct err *err)
{
	struct counting *n = ctx;
	uint64_t data = (uint64_t)(stored - zero) * BLOCK_SIZE;

	n->on_disk = 0;
	if (each_range(n->c, n->image, segment, add_on_disk, n, err) < 0)
		return -1;
	n->zero += min_u64(n->on_disk - min_u64(n->on_disk, data), (uint64_t)zero * BLOCK_SIZE);
	return 0;
}

int compact_zeros(struct compaction *c, size_t image, uint64_t *ret, struct err *err)
{
	struct counting n = { .c = c, .image = image };

	*ret = 0;
	if (!c->plan->images[image].zero || c->store.images.items[image].packed) /* compressed zeros take no space */
		return 0;
	if (catalog_each_zero_segment(c->catalog, c->store.images.items[image].id, count_segment, &n, err) < 0)
		return -1;
	*ret = n.zero;
	return 0;
}

static int plan(struct compaction *c, struct plan_step *s, struct err *err)
{
	const struct store_image *i = &c->store.images.items[s->image];
	uint64_t zero;

	if (i->relayout || c->store.file_systems.items[i->fs].whole_extents)
		return 0; /* a rewrite leaves them out */
	if (compact_zeros(c, s->image, &zero, err) < 0)
		return -1;
	if (zero && !c->o.preallocated && i->full) {
		compact_leave(c, s->image,
			      "its zeros are left alone, for all of its space is allocated; --preallocated frees them");
		return 0;
	}
	s->saving = s->work = zero;
	return zero > 0;
}

/* ---- punching ---- */

static int check(void *ctx, uint64_t done, uint64_t total, struct err *err)
{
	const struct punching *p = ctx;

	(void)done;
	(void)total;
	if (!p->hold)
		return compact_worked(p->c, 0, err);
	if (stopper_says(p->c->o.stopper)) /* no sleep to keep the pace: whoever opens it waits for this */
		return err_set(err, ERR_CANCELED, "stopped; run it again to go on");
	return hold_whole(p->hold, err);
}

static int punch_range(void *ctx, const struct range *r, struct err *err)
{
	struct punching *p = ctx;

	if (r->tag != p->file) {
		p->h.fd = store_open(&p->c->store, r->tag, err);
		p->file = r->tag;
	}
	if (p->h.fd < 0)
		return -1;
	return holes_punch(&p->h, r->to, r->to + r->len, &p->result, err);
}

static int punch_segment(void *ctx, uint64_t segment, unsigned stored, unsigned zero, struct err *err)
{
	struct punching *p = ctx;

	(void)stored;
	(void)zero;
	return each_range(p->c, p->c->step->image, segment, punch_range, p, err);
}

static int punch(struct punching *p, struct err *err)
{
	struct compaction *c = p->c;
	int rc = catalog_each_zero_segment(c->catalog, c->store.images.items[c->step->image].id, punch_segment, p, err);

	c->step->shared = p->result.bytes;
	c->step->nr_runs = p->result.nr;
	c->step->nr_differed = p->result.nr_differed;
	if (rc == 0)
		compact_count(c, c->step->work);
	return rc;
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
	CLEANUP(close_fd) int dirfd = -1, fd = -1;
	CLEANUP(hold_release) struct hold hold = HOLD_INIT; /* is let go before the descriptor is closed */
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
	p->hold = &hold;
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
		.c = c, .file = i->first_file, .h = { .hole_fd = -1, .min_len = 4 * KIB, .check = check, .check_ctx = &p },
	};

	return c->store.file_systems.items[i->fs].dedupes ? punch_compared(&p, err) : punch_held(&p, err);
}

const struct method method_holes = { .id = PLAN_HOLES, .plan = plan, .apply = apply };
