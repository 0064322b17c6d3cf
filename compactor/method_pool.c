/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "compactor/compact_parts.h"
#include "compactor/fold.h"
#include "compactor/foreign.h"
#include "compactor/guest_proof.h"
#include "compactor/pool/cluster_file.h"
#include "compactor/pool/feed.h"
#include "compactor/pool/finder.h"
#include "compactor/pool/import.h"
#include "compactor/pool/names.h"
#include "compactor/pool/view.h"
#include "compactor/pool_estimate.h"
#include "compactor/pool_home.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/base/memory.h"

/* An image enters the pool, and an overlay takes its place:
 *
 *	make	the guest's disk is imported; synced; a view of it is written, with its stub; the member's name is published; the
 *		new file is an overlay on the stub
 *	prove	what a guest sees through overlay, stub and view is read from the disk and compared with the original
 *	then	the two change places, as for any rewrite (replace.h)
 *
 * The name comes before the exchange, so that a collection that runs between two steps takes nothing that the image needs.  What an
 * import that was stopped has brought into the pool is found again by the next one. */

#define SETTLE_NS 1000000000ull
#define WORTH 20 /* it pays when one byte in so many is saved */

/* Why an image cannot enter, NULL = it can. */
static const char *why_not(const struct compaction *c, size_t image)
{
	const struct store_image *i = &c->store.images.items[image];

	if (strcmp(i->format, "qcow2") != 0)
		return "only qcow2 images enter the pool";
	if (!i->certain)
		return "its format is not certain, or it was not closed properly; --format NAME says what it is";
	if (i->encrypted)
		return "it is encrypted: equal data looks different in every image";
	if (i->nr_files > 1)
		return "its data lies in an external file";
	if (i->nr_snapshots)
		return "it has internal snapshots";
	if (i->nr_bitmaps)
		return "it has persistent bitmaps";
	return foreign_keeper(i->path, FOREIGN_PROXMOX_STORAGES);
}

/* What the pool has in its index, for a moment: NULL where there is no pool, or somebody changes it. */
static struct finder *look_into_pool(struct compaction *c, struct pool **ret)
{
	bool whole;

	if (pool_home_open(c->o.roots, c->o.pool, false, false, POOL_MEMORY, ret, NULL) < 0 || !*ret)
		return NULL;
	return finder_open((*ret)->dirs[POOL_INDEX], (*ret)->uuid, POOL_MEMORY, false, &whole, NULL);
}

static int estimate(struct compaction *c, struct pool_estimate *how, struct err *err)
{
	CLEANUP(pool_close) struct pool *pool = NULL;
	CLEANUP(finder_close) struct finder *finder = look_into_pool(c, &pool);

	how->finder = finder;
	return pool_estimate(&c->store, how, c->costs, err);
}

int compact_pool_prepare(struct compaction *c, struct err *err)
{
	struct pool_estimate how = {
		.memory = c->o.memory, .nr_threads = c->o.nr_threads, .min_run = c->o.min_run, .cluster_bits = c->o.cluster_bits,
	};

	if (!c->o.methods[PLAN_POOL])
		return 0;
	c->costs = calloc(c->store.images.nr + 1, sizeof(*c->costs));
	if (!c->costs)
		return err_set(err, ERR_MEMORY, "no memory for a plan");
	for (size_t n = 0; n < c->store.images.nr; n++) {
		const struct store_image *i = &c->store.images.items[n];

		c->costs[n].wanted = !i->out && !i->fixed && !i->pooled && !why_not(c, n);
		if (c->costs[n].wanted)
			free(STEAL(c->plan->file_systems[i->fs].why_not)); /* it need not share anything */
	}
	return estimate(c, &how, err);
}

static int plan(struct compaction *c, struct plan_step *s, struct err *err)
{
	const struct store_image *i = &c->store.images.items[s->image];
	const struct plan_image *p = &c->plan->images[s->image];
	const struct pool_cost *cost = &c->costs[s->image];
	uint64_t takes = cost->fresh + cost->overhead, saving;

	(void)err;
	if (i->pooled)
		return 0;
	if (!cost->wanted) {
		compact_leave(c, s->image, why_not(c, s->image));
		return 0;
	}
	saving = p->used - min_u64(takes, p->used);
	if ((saving + cost->given) * WORTH < p->used) {
		compact_leave(c, s->image, i->packed && takes > p->used ? "it is compressed, and would be larger in the pool" :
									  "too little of it would be saved in the pool");
		return 0;
	}
	if (!rewrite_idle(c, s->image))
		return 0;
	s->saving = saving;
	s->later = c->o.keep_originals;
	s->work = p->stored * 2;
	s->space = takes;
	return 1;
}

/* ---- the new file ---- */

struct entering {
	struct compaction *c;
	struct import *import;
	struct import_options options;
	struct pool *pool;
	uint64_t size;	/* of the disk */
	uint64_t fed;	/* bytes that were counted as work */
	proof_check *check;
	void *check_ctx;
};

/* Feeding takes some, in another process, too. */
static size_t finder_memory(const struct compaction *c)
{
	return memory_left(c->o.memory) / 2;
}

static int take_size(void *ctx, uint64_t size, struct err *err)
{
	struct entering *e = ctx;

	e->size = size;
	e->import = import_new(e->pool, size, &e->options, NULL, 0, err);
	return e->import ? 0 : -1;
}

static int take_segment(void *ctx, uint64_t segment, const void *bytes, struct err *err)
{
	struct entering *e = ctx;

	return import_segment(e->import, segment, bytes, err);
}

static int take_progress(void *ctx, uint64_t address, uint64_t size, struct err *err)
{
	struct entering *e = ctx;
	uint64_t half = e->c->step->work / 2, done = size ? (uint64_t)((double)half * (double)address / (double)size) : half;

	if (done > e->fed) {
		compact_count(e->c, done - e->fed);
		e->fed = done;
	}
	return e->check(e->check_ctx, err);
}

static int import_disk(struct entering *e, int old_fd, uint8_t ret_root[DIGEST_SIZE], struct err *err)
{
	struct compaction *c = e->c;
	const struct store_image *i = &c->store.images.items[c->step->image];
	struct feed f = {
		.roots = c->o.roots, .jail = c->o.jail, .stopper = c->o.stopper, .format = i->format, .writable = true, .size = take_size,
		.segment = take_segment, .progress = take_progress, .ctx = e,
	};
	struct import_stats stats;

	if (feed_run(&f, old_fd, i->path, err) < 0)
		return -1;
	return import_end(e->import, ret_root, &stats, err);
}

static int find_view(struct entering *e, const uint8_t root[DIGEST_SIZE], struct view *ret, struct err *err)
{
	int rc = view_find_root(e->pool, root, e->size, e->options.unit_bits, ret, err);

	return rc ? rc : view_write(e->pool, root, e->size, e->options.unit_bits, ret, err);
}

/* Whatever the path was a member for before, it is one for this view now. */
static int publish(struct compaction *c, const struct view *v, struct err *err)
{
	CLEANUP(name_release) struct name n = { .kind = NAME_MEMBER, .made = time(NULL) };
	CLEANUP(name_release) struct name old = { 0 };
	struct name_disk d = { .size = v->disk_size, .folded = true };
	const char *path = c->store.images.items[c->step->image].path;
	int rc;

	if (strlen(path) >= sizeof(d.path))
		return err_set(err, ERR_UNSUPPORTED, "its path is too long");
	strcpy(d.path, path);
	memcpy(d.root, v->root, DIGEST_SIZE);
	memcpy(d.view, v->id, POOL_ID_SIZE);
	if (vec_push(&n.disks, d) < 0)
		return err_set(err, ERR_MEMORY, "no memory for a name");
	rc = names_find_member(c->pool, path, &old, err);
	if (rc < 0)
		return -1;
	return rc ? names_replace(c->pool, old.number, &n, err) : names_publish(c->pool, &n, true, err);
}

static int make(void *ctx, int old_fd, int new_fd, proof_check *check, void *check_ctx, struct err *err)
{
	struct compaction *c = ctx;
	struct entering e = {
		.c = c, .pool = c->pool, .options = { .unit_bits = c->o.cluster_bits, .min_run = c->o.min_run }, .check = check,
		.check_ctx = check_ctx,
	};
	struct overlay_options how = { .compat = c->o.compat };
	uint8_t root[DIGEST_SIZE];
	struct slice backing;
	struct view v;
	int rc = import_disk(&e, old_fd, root, err);

	import_free(e.import);
	if (rc < 0) {
		pool_sync(c->pool, NULL); /* what there is of it need not be written again */
		return -1;
	}
	if (pool_sync(c->pool, err) < 0 || find_view(&e, root, &v, err) < 0 || view_backing(c->pool, &v, false, &backing, err) < 0 ||
	    publish(c, &v, err) < 0)
		return -1;
	return overlay_write(new_fd, v.disk_size, &backing, &how, err);
}

static int prove(void *ctx, int old_fd, int new_fd, proof_check *check, void *check_ctx, struct err *err)
{
	struct compaction *c = ctx;
	const struct store_image *i = &c->store.images.items[c->step->image];

	if (file_drop_cache(cluster_file_fd(c->pool->clusters), err) < 0 ||
	    proof_same_guest(old_fd, i->format, new_fd, "qcow2", i->path, c->o.roots, c->o.jail, check, check_ctx, err) < 0)
		return -1;
	compact_count(c, c->step->work - c->step->work / 2);
	return 0;
}

/* ---- */

/* What shows through it enters, too. */
static int admit_backing(struct compaction *c, const struct store_image *i, struct err *err)
{
	for (unsigned depth = 0; i && i->backing_path[0] && depth < IMAGE_CHAIN_MAX; depth++) {
		const struct store_image *below = NULL;
		struct stat st;
		int fd, rc;

		for (size_t n = 0; n < c->store.images.nr && !below; n++)
			if (strcmp(c->store.images.items[n].path, i->backing_path) == 0)
				below = &c->store.images.items[n];
		fd = below ? roots_open_again(c->o.roots, below->path, err) : -1;
		if (!below)
			return err_set(err, ERR_REFUSED, "its backing file '%s' is not among the images", i->backing_path);
		if (fd < 0)
			return -1;
		rc = file_ops->fstat(fd, &st);
		file_close(fd, below->path, NULL);
		if (rc < 0)
			return err_errno(err, "cannot look at '%s'", below->path);
		if (!below->pooled && pool_home_admit(c->pool, &st, c->o.cross_owner, err) < 0)
			return err_add(err, "its backing file '%s'", below->path);
		i = below;
	}
	return 0;
}

static int apply(struct compaction *c, struct err *err)
{
	const struct store_image *i = &c->store.images.items[c->step->image];
	struct stat st;
	int fd = store_open(&c->store, i->first_file, err);

	if (fd < 0)
		return -1;
	if (file_ops->fstat(fd, &st) < 0)
		return err_errno(err, "cannot look at it");
	if (!c->pool && pool_home_open(c->o.roots, c->o.pool, true, true, finder_memory(c), &c->pool, err) < 0)
		return -1;
	if (pool_home_admit(c->pool, &st, c->o.cross_owner, err) < 0 || admit_backing(c, i, err) < 0)
		return -1;
	return rewrite_file(c, i->first_file, make, prove, err);
}

/* ---- what snapshots sealed ---- */

static int workshop_for(void *ctx, const char *path, struct workshop **ret, const char **ret_root, struct err *err)
{
	struct compaction *c = ctx;
	const char *name;
	const struct root *root = roots_find(c->o.roots, path, &name);

	if (!root)
		return 0;
	*ret_root = root->path;
	return compact_workshop(c, (size_t)(root - c->o.roots->list.items), true, ret, err) < 0 ? -1 : 1;
}

static void left(void *ctx, const char *path, const struct err *why)
{
	const struct compaction *c = ctx;

	if (c->o.watch)
		c->o.watch->problem(c->o.watch->ctx, path, why);
}

/* Images that were copied or moved to where they are become members. */
static int adopt(struct compaction *c, struct err *err)
{
	if (versions_recover(c->pool, err) < 0)
		return -1;
	for (size_t i = 0; i < c->store.images.nr; i++)
		if (c->store.images.items[i].pooled && versions_adopt(c->pool, c->store.images.items[i].path, err) < 0)
			return -1;
	return 0;
}

int compact_fold(struct compaction *c, struct err *err)
{
	struct fold_options o = {
		.roots = c->o.roots, .jail = c->o.jail, .stopper = c->o.stopper, .unit_bits = c->o.cluster_bits, .min_run = c->o.min_run,
		.cross_owner = c->o.cross_owner, .how = { .hold = { .assume_idle = c->o.assume_idle }, .settle_ns = SETTLE_NS, .now = time(NULL) },
		.workshop = workshop_for, .problem = left, .ctx = c,
	};
	struct err why = ERR_INIT;
	struct folded folded;

	if (!c->pool && pool_home_open(c->o.roots, c->o.pool, true, false, finder_memory(c), &c->pool, &why) < 0) {
		left(c, c->o.roots->list.items[0].path, &why); /* others use it, say; what is done in place can be done all the same */
		return 0;
	}
	store_close_files(&c->store);
	if (!c->pool)
		return 0;
	return adopt(c, err) < 0 ? -1 : fold_sealed(c->pool, &o, &folded, err);
}

const struct method method_pool = { .id = PLAN_POOL, .plan = plan, .apply = apply };
