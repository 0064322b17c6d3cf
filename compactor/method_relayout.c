/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/compact_parts.h"
#include "compactor/relayout.h"

/* VHD and VDI images, written anew so that file systems can share their blocks.  It saves nothing by itself (but for zeros, which
 * are left out): the steps after it do. */

static int plan(struct compaction *c, struct plan_step *s, struct err *err)
{
	const struct store_image *i = &c->store.images.items[s->image];
	const struct plan_image *p = &c->plan->images[s->image];

	(void)err;
	if (!i->relayout || !rewrite_allowed(c, s->image))
		return 0;
	s->saving = p->zero;
	s->later = c->o.keep_originals;
	s->work = 2 * p->used;
	s->space = relayout_size(p->format, p->used, 0);
	return 1;
}

static int make(void *ctx, int old_fd, int new_fd, int (*check)(void *, struct err *), void *check_ctx, struct err *err)
{
	struct compaction *c = ctx;
	const struct store_image *i = &c->store.images.items[c->step->image];

	return relayout_make(old_fd, new_fd, i->path, i->format, c->o.roots, c->o.jail, check, check_ctx, err) < 0 ?
		       -1 : compact_worked(c, c->step->work / 2, err);
}

static int prove(void *ctx, int old_fd, int new_fd, int (*check)(void *, struct err *), void *check_ctx, struct err *err)
{
	struct compaction *c = ctx;
	const struct store_image *i = &c->store.images.items[c->step->image];

	return proof_same_image(old_fd, new_fd, i->path, i->format, c->o.roots, c->o.jail, check, check_ctx, err) < 0 ?
		       -1 : compact_worked(c, c->step->work - c->step->work / 2, err);
}

static int apply(struct compaction *c, struct err *err)
{
	return rewrite_image(c, make, prove, err);
}

const struct method method_relayout = { .id = PLAN_RELAYOUT, .plan = plan, .apply = apply };
