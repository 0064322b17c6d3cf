/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/compact_parts.h"
#include "compactor/relayout.h"

/* VHD and VDI images, written anew so that file systems can share their blocks.  It saves nothing by itself (but for zeros, which
 * are left out): the steps after it do. */

#define WORTH 20 /* it pays when one byte in so many is saved, by it or by others */

static int plan(struct compaction *c, struct plan_step *s, struct err *err)
{
	struct store_image *i = &c->store.images.items[s->image];
	const struct plan_image *p = &c->plan->images[s->image];

	if (!i->relayout)
		return 0;
	if (compact_zeros(c, s->image, &s->saving, err) < 0)
		return -1;
	if ((p->saving + i->gives + s->saving) * WORTH < p->used) {
		compact_leave(c, s->image, "too little of it would be saved to write it anew");
		return 0;
	}
	s->later = c->o.keep_originals;
	s->work = 2 * p->used;
	i->planned = true;
	s->space = relayout_size(p->format, p->used, i->cluster_size);
	return 1;
}

static int make(void *ctx, int old_fd, int new_fd, proof_check *check, void *check_ctx, struct err *err)
{
	struct compaction *c = ctx;
	const struct store_image *i = &c->store.images.items[c->step->image];

	return relayout_make(old_fd, new_fd, i->path, i->format, c->o.roots, c->o.jail, check, check_ctx, err);
}

static int prove(void *ctx, int old_fd, int new_fd, proof_check *check, void *check_ctx, struct err *err)
{
	struct compaction *c = ctx;
	const struct store_image *i = &c->store.images.items[c->step->image];

	return proof_same_image(old_fd, new_fd, i->path, i->format, c->o.roots, c->o.jail, check, check_ctx, err);
}

static int apply(struct compaction *c, struct err *err)
{
	return rewrite_file(c, c->store.images.items[c->step->image].first_file, make, prove, err);
}

const struct method method_relayout = { .id = PLAN_RELAYOUT, .plan = plan, .apply = apply };
