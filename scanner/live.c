/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/live.h"

struct load {
	struct live *live;
	bool (*rank_of)(void *ctx, int64_t image, uint32_t *ret);
	void *ctx;
};

static int add_run(void *ctx, const struct segment_run *r, struct err *err)
{
	struct load *load = ctx;
	struct live_run run = { .first = r->generation + r->first, .last = r->generation + r->last,
				.generation = r->generation };
	uint64_t *slot;

	if (load->rank_of && !load->rank_of(load->ctx, r->image, &run.rank))
		return 0;
	if (vec_push(&load->live->runs, run) < 0)
		return err_set(err, ERR_MEMORY, "no memory for the map of segments");
	slot = judymap_put(&load->live->by_id, run.first);
	if (!slot)
		return err_set(err, ERR_MEMORY, "no memory for the map of segments");
	*slot = load->live->runs.nr;
	return 0;
}

int live_load(struct live *l, struct catalog *c, bool (*rank_of)(void *, int64_t, uint32_t *), void *ctx, struct err *err)
{
	struct load load = { l, rank_of, ctx };

	*l = (struct live){ 0 };
	return catalog_each_run(c, add_run, &load, err);
}

void live_release(struct live *l)
{
	vec_release(&l->runs);
	judymap_release(&l->by_id);
}
