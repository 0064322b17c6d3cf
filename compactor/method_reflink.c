/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "compactor/compact_parts.h"
#include "compactor/reflink.h"
#include "scanner/base/checked.h"

/* Sharing in place.  On file systems where sharing a part of an extent frees nothing, what is expected is what whole extents
 * give. */

static int plan(struct compaction *c, struct plan_step *s, struct err *err)
{
	const struct store_image *i = &c->store.images.items[s->image];
	const struct store_fs *fs = &c->store.file_systems.items[i->fs];
	const struct plan_image *p = &c->plan->images[s->image];

	(void)err;
	if (!fs->dedupes) {
		compact_leave(c, s->image, c->plan->file_systems[i->fs].why_not);
		return 0;
	}
	if ((fs->whole_extents && c->o.methods[PLAN_REBUILD]) || (i->relayout && !i->planned))
		return 0;
	s->saving = fs->whole_extents ? i->whole : p->saving;
	s->later = i->relayout && c->o.keep_originals;
	s->nr_runs = moves_count(c->moves, s->image, &s->work);
	s->work -= min_u64(p->shared, s->work);
	return s->saving > 0;
}

/* No call is under way: files may be closed. */
static int worked(void *ctx, uint64_t bytes, struct err *err)
{
	rewrite_settle(ctx);
	return compact_worked(ctx, bytes, err);
}

static int apply(struct compaction *c, struct err *err)
{
	size_t image = c->step->image;
	CLEANUP(reflink_release) struct reflink r = {
		.store = &c->store, .moves = c->moves, .min_run = c->o.min_run,
		.block = c->store.file_systems.items[c->store.images.items[image].fs].block, .worked = worked, .ctx = c,
	};
	uint64_t before = compact_shared(c, image);
	int rc;

	if (c->store.images.items[image].relayout)
		return err_set(err, ERR_STALE, "it was not rewritten, so nothing can share with it");
	rc = reflink_image(&r, image, err);
	c->step->nr_differed = r.nr_differed;
	compact_measure(c, before);
	if (rc == 0 && r.nr_refused && r.nr_refused == r.nr_calls)
		return err_set(err, ERR_REFUSED, "the kernel refused to share its blocks: %s", strerror(r.refused_errno));
	return rc;
}

const struct method method_reflink = { .id = PLAN_REFLINK, .plan = plan, .apply = apply };
