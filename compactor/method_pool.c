/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "compactor/compact_parts.h"
#include "compactor/fold.h"
#include "compactor/guest_proof.h"
#include "compactor/internal_snapshots.h"
#include "compactor/pool/bitmaps.h"
#include "compactor/pool/clusters.h"
#include "compactor/pool/feed.h"
#include "compactor/pool/finder.h"
#include "compactor/pool/growth.h"
#include "compactor/pool/import.h"
#include "compactor/pool/names.h"
#include "compactor/pool/view.h"
#include "compactor/pool_estimate.h"
#include "compactor/pool_home.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/noted.h"

/* An image enters the pool, and an overlay takes its place:
 *
 *	make	the guest's disk is imported, and synced; so are its internal snapshots, and they are proven; a view of the disk is
 *		written, with its stub; names of the snapshots and of the member are published; the new file is an overlay on the
 *		stub
 *	prove	what a guest sees through overlay, stub and view is read from the disk and compared with the original
 *	then	the two change places, as for any rewrite (replace.h)
 *
 * Names come before the exchange, so that a collection that runs between two steps takes nothing that the image needs.  What an
 * import that was stopped has brought into the pool is found again by the next one, and names that came too early are its own
 * again: a member's is replaced, versions are forgotten while the image has its snapshots itself (forget_early()). */

#define WORTH 20 /* it pays when one byte in so many is saved */
#define PASS 1e6 /* a reading of a disk, for whoever shows progress */

static void left(void *ctx, const char *path, const struct err *why)
{
	const struct compaction *c = ctx;

	if (c->o.watch)
		c->o.watch->problem(c->o.watch->ctx, path, why);
}

/* What the pool has in its index, for a moment: NULL where there is no pool, or somebody changes it, or nothing of it will be
 * shared. */
static struct finder *look_into_pool(struct compaction *c, struct pool **ret)
{
	bool whole;

	if (pool_home_open(c->o.roots, c->o.pool, POOL_TO_READ, false, POOL_MEMORY, ret, NULL) < 0 || !*ret)
		return NULL;
	if (c->o.tell_file_size)
		(*ret)->file_size = c->o.file_size;
	if (growth_is_due(*ret))
		return NULL;
	return finder_open((*ret)->dirs[POOL_INDEX], cluster_file_id(clusters_growing((*ret)->clusters).file)->uuid, POOL_MEMORY,
			   false, &whole, NULL);
}

static int estimate(struct compaction *c, struct pool_estimate *how, struct err *err)
{
	CLEANUP(pool_close) struct pool *pool = NULL;
	CLEANUP(finder_close) struct finder *finder = look_into_pool(c, &pool);

	how->finder = finder;
	c->pool_room = (pool ? cluster_file_max(clusters_growing(pool->clusters).file) : POOL_FILE_MAX) - POOL_DATA_BEGIN;
	c->file_size = pool ? pool->file_size : c->o.file_size;
	if (!c->file_size || c->file_size > c->pool_room)
		c->file_size = c->pool_room;
	c->file_left = pool && !growth_is_due(pool) ? growth_room(pool) : c->file_size;
	return pool_estimate(&c->store, how, c->costs, err);
}

/* Who enters after another file began shares only with those that are in that one. */
void compact_pool_count_files(struct compaction *c)
{
	uint64_t left = c->file_left;
	bool another = false;

	c->plan->several_files = false;
	for (size_t i = 0; i < c->plan->nr_steps; i++) {
		const struct plan_step *s = &c->plan->steps[i];
		const struct pool_cost *cost = s->method == PLAN_POOL ? &c->costs[s->image] : NULL;

		if (!cost)
			continue;
		another = another || !left;
		left = left ? left : c->file_size;
		left -= min_u64(cost->fresh + cost->overhead, left);
		c->plan->several_files |= another && cost->shared;
	}
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
	compact_pool_find_children(c);
	for (size_t n = 0; n < c->store.images.nr; n++) {
		const struct store_image *i = &c->store.images.items[n];
		char room[PATH_MAX + 128];

		c->costs[n].wanted = !i->out && !i->fixed && !i->pooled &&
				      !compact_pool_why_not(c, n, room, sizeof(room));
		if (c->costs[n].wanted)
			free(STEAL(c->plan->file_systems[i->fs].why_not)); /* it need not share anything */
	}
	return estimate(c, &how, err);
}

/* Its bitmaps come along, if they can. */
static bool can_carry(struct compaction *c, size_t image, uint64_t *ret_bytes)
{
	const struct store_image *i = &c->store.images.items[image];
	CLEANUP(bitmaps_release) struct bitmaps b = BITMAPS_INIT;
	struct err why = ERR_INIT;
	int fd = i->nr_bitmaps && strcmp(i->format, "qcow2") == 0 ? store_open(&c->store, i->first_file, &why) : -1;

	if (fd >= 0 && bitmaps_read(fd, &b, &why) == 0)
		*ret_bytes = b.stored;
	if (why.kind)
		compact_leave(c, image, why.text);
	return !why.kind;
}

static int plan(struct compaction *c, struct plan_step *s, struct err *err)
{
	const struct store_image *i = &c->store.images.items[s->image];
	const struct plan_image *p = &c->plan->images[s->image];
	const struct pool_cost *cost = &c->costs[s->image];
	uint64_t takes, bitmaps = 0, saving;
	char room[PATH_MAX + 128];

	if (i->pooled)
		return 0;
	if (!cost->wanted) {
		compact_leave(c, s->image, compact_pool_why_not(c, s->image, room, sizeof(room)));
		return 0;
	}
	if (!can_carry(c, s->image, &bitmaps))
		return 0;
	takes = cost->fresh + cost->overhead + bitmaps;
	saving = p->used - min_u64(takes, p->used);
	if ((saving + cost->given) * WORTH < p->used) {
		compact_leave(c, s->image, i->packed && takes > p->used ? "it is compressed, and would be larger in the pool" :
									  "too little of it would be saved in the pool");
		return 0;
	}
	if (cost->fresh + cost->overhead > c->pool_room) {
		compact_leave(c, s->image, "it is larger than a cluster file of the pool can be on this file system");
		return 0;
	}
	if (!rewrite_idle(c, s->image))
		return 0;
	s->saving = saving;
	s->later = c->o.keep_originals;
	s->work = p->stored * 2 * (1 + (uint64_t)i->nr_snapshots);
	s->space = takes;
	return compact_pool_note(c, s, err) < 0 ? -1 : 1;
}

/* ---- the new file ---- */

struct entering {
	struct compaction *c;
	struct import *import;
	struct import_options options;
	struct pool *pool;
	uint64_t size;	/* of the disk */
	unsigned pass, nr_passes; /* readings of a disk: at hand, of all */
	proof_check *check;
	void *check_ctx;
};

static int take_size(void *ctx, uint64_t size, struct err *err)
{
	struct entering *e = ctx;

	if (size % 512)
		return err_set(err, ERR_UNSUPPORTED,
			       "the size of its disk is no multiple of 512 bytes, as that of a qcow2 image's is");
	e->size = size;
	e->import = import_new(e->pool, size, &e->options, NULL, 0, err);
	return e->import ? 0 : -1;
}

static int take_segment(void *ctx, uint64_t segment, const void *bytes, struct err *err)
{
	struct entering *e = ctx;

	return import_segment(e->import, segment, bytes, err);
}

/* Some of the passes, of which so much is done. */
static int check_passes(const struct entering *e, unsigned nr, uint64_t done, uint64_t total, struct err *err)
{
	double of = total ? (double)min_u64(done, total) / (double)total : 0;

	return e->check(e->check_ctx, (uint64_t)(PASS * (e->pass + nr * of)), (uint64_t)(PASS * e->nr_passes), err);
}

static int take_progress(void *ctx, uint64_t address, uint64_t size, struct err *err)
{
	return check_passes(ctx, 1, address, size, err);
}

static int check_snapshots(void *ctx, uint64_t done, uint64_t total, struct err *err)
{
	const struct entering *e = ctx;

	return check_passes(e, e->nr_passes - e->pass, done, total, err);
}

static const struct store_image *image_of(const struct compaction *c)
{
	return &c->store.images.items[c->step->image];
}

static struct feed feed_of(const struct compaction *c)
{
	return (struct feed){
		.roots = c->o.roots, .jail = c->o.jail, .stopper = c->o.stopper, .format = image_of(c)->format, .writable = true,
	};
}

static int import_disk(struct entering *e, int old_fd, uint8_t ret_root[DIGEST_SIZE], struct err *err)
{
	struct feed f = feed_of(e->c);
	struct import_stats stats;

	f.size = take_size;
	f.segment = take_segment;
	f.progress = take_progress;
	f.ctx = e;
	if (feed_run(&f, old_fd, image_of(e->c)->path, err) < 0)
		return -1;
	return import_end(e->import, ret_root, &stats, err);
}

static int import_snapshots(struct entering *e, int old_fd, struct entered_snapshots *ret, struct err *err)
{
	const struct store_image *i = image_of(e->c);
	struct feed how = feed_of(e->c);
	const struct snapshots_entering s = {
		.pool = e->pool, .how = &how, .import = e->options, .fd = old_fd, .path = i->path, .nr = i->nr_snapshots,
		.check = check_snapshots, .check_ctx = e,
	};

	e->pass = 1;
	return i->nr_snapshots ? snapshots_enter(&s, ret, err) : 0;
}

/* One that leads to what was damaged before this image brought it again is written anew, for all that stand on it. */
static int find_view(struct entering *e, const uint8_t root[DIGEST_SIZE], struct view *ret, struct err *err)
{
	int rc = view_find_root(e->pool, root, e->size, e->options.unit_bits, ret, err);
	char kept[VIEW_KEPT_STUB_ROOM];
	struct err why = ERR_INIT;
	struct view old;

	if (rc < 0)
		return -1;
	if (rc == 0)
		return view_write(e->pool, root, e->size, e->options.unit_bits, ret, err);
	if (view_check(e->pool, ret, &why) == 0)
		return 0;
	if (why.kind == ERR_MEMORY)
		return err_set(err, why.kind, "%s", why.text);
	old = *ret;
	return view_write_as(e->pool, &old, view_kept_stub(&old, kept), ret, err);
}

/* Whatever the path was a member for before, it is one for this view now. */
static int publish(struct compaction *c, const struct view *v, struct err *err)
{
	CLEANUP(name_release) struct name n = { .kind = NAME_MEMBER, .made = time(NULL) };
	CLEANUP(name_release) struct name old = { 0 };
	struct name_disk d = { .size = v->disk_size, .folded = true };
	const char *path = image_of(c)->path;
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

static bool is_qcow2(const struct compaction *c)
{
	return strcmp(image_of(c)->format, "qcow2") == 0;
}

/* A new qcow2 image where something else was: names of other formats do not hide its header, that of a raw disk does. */
static int note_format(const struct compaction *c, int new_fd, struct err *err)
{
	struct err why = ERR_INIT;

	if (is_qcow2(c) || noted_set_qcow2(new_fd, &why) == 0 || strcmp(image_of(c)->format, "raw") != 0)
		return 0;
	return err_set(err, why.kind, "%s", why.text);
}

static int read_bitmaps(const struct compaction *c, int fd, struct bitmaps *ret, struct err *err)
{
	return is_qcow2(c) ? bitmaps_read(fd, ret, err) : 0;
}

static int make(void *ctx, int old_fd, int new_fd, proof_check *check, void *check_ctx, struct err *err)
{
	struct compaction *c = ctx;
	struct entering e = {
		.c = c, .pool = c->pool, .check = check,
		.options = { .unit_bits = c->o.cluster_bits, .min_run = c->o.min_run },
		.check_ctx = check_ctx, .nr_passes = 1 + 2 * image_of(c)->nr_snapshots,
	};
	struct overlay_options how = { .compat = c->o.compat };
	CLEANUP(bitmaps_release) struct bitmaps bitmaps = BITMAPS_INIT;
	CLEANUP(entered_snapshots_release) struct entered_snapshots snapshots = { .list = VEC_INIT };
	uint8_t root[DIGEST_SIZE];
	struct slice backing;
	struct err note = ERR_INIT;
	struct view v;
	int rc = read_bitmaps(c, old_fd, &bitmaps, err);

	if (rc < 0)
		return -1;
	if (bitmaps_left_behind(&bitmaps, &note))
		left(c, image_of(c)->path, &note);
	rc = import_disk(&e, old_fd, root, err);
	import_free(e.import);
	if (rc < 0) {
		pool_sync(c->pool, NULL); /* what there is of it need not be written again */
		return -1;
	}
	if (pool_sync(c->pool, err) < 0 || import_snapshots(&e, old_fd, &snapshots, err) < 0 || find_view(&e, root, &v, err) < 0 ||
	    view_backing(c->pool, &v, &backing, err) < 0)
		return -1;
	if (snapshots_publish(c->pool, image_of(c)->path, &snapshots, err) < 0 || publish(c, &v, err) < 0 ||
	    note_format(c, new_fd, err) < 0)
		return -1;
	if (overlay_write(new_fd, v.disk_size, &backing, &how, err) < 0)
		return -1;
	return bitmaps_append(&bitmaps, new_fd, check, check_ctx, err);
}

static int prove_bitmaps(const struct compaction *c, int old_fd, int new_fd, proof_check *check, void *check_ctx, struct err *err)
{
	CLEANUP(bitmaps_release) struct bitmaps bitmaps = BITMAPS_INIT;

	return read_bitmaps(c, old_fd, &bitmaps, err) < 0 ? -1 : bitmaps_prove(&bitmaps, new_fd, check, check_ctx, err);
}

static int prove(void *ctx, int old_fd, int new_fd, proof_check *check, void *check_ctx, struct err *err)
{
	struct compaction *c = ctx;
	const struct store_image *i = image_of(c);

	if (clusters_drop_cache(c->pool->clusters, err) < 0 ||
	    proof_same_guest(old_fd, i->format, new_fd, "qcow2", i->path, c->o.roots, c->o.jail, check, check_ctx, err) < 0)
		return -1;
	return prove_bitmaps(c, old_fd, new_fd, check, check_ctx, err);
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
	const struct store_image *i = image_of(c);
	struct stat st;
	int fd = store_open(&c->store, i->first_file, err);

	if (fd < 0)
		return -1;
	if (file_ops->fstat(fd, &st) < 0)
		return err_errno(err, "cannot look at it");
	if (compact_open_pool(c, true, err) < 0)
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

/* Versions that were made of the internal snapshots of images which still have those, or have them again: something came between,
 * or the original was put back. */
static int forget_early(struct compaction *c, struct err *err)
{
	for (size_t n = 0; n < c->store.images.nr; n++) {
		const struct store_image *i = &c->store.images.items[n];
		CLEANUP(name_release) struct name version = { .number = 0 };
		struct feed how = {
			.roots = c->o.roots, .jail = c->o.jail, .stopper = c->o.stopper, .format = i->format,
		};
		int rc = i->pooled || i->out || !i->nr_snapshots ? 0 :
			 names_find_version(c->pool, i->path, NULL, &version, err), fd;

		if (rc < 0)
			return -1;
		fd = rc ? store_open(&c->store, i->first_file, NULL) : -1;
		if (fd >= 0 && snapshots_forget(c->pool, &how, fd, i->path, i->nr_snapshots, err) < 0)
			return -1;
	}
	return 0;
}

static int fold(struct compaction *c, const struct fold_options *o, struct err *err)
{
	CLEANUP(folded_release) struct folded folded = { .nr_folded = 0 };
	int rc = adopt(c, err) < 0 || forget_early(c, err) < 0 ? -1 : 1;

	store_close_files(&c->store);
	while (rc > 0 && c->pool) {
		rc = fold_sealed(c->pool, o, &folded, err);
		if (rc > 0 && turn_give(c, err) < 0)
			rc = -1;
	}
	c->plan->nr_folded = folded.nr_folded;
	c->plan->folded = folded.bytes_stored;
	c->plan->unfolded = folded.nr_left > 0;
	return rc < 0 ? -1 : 0;
}

int compact_fold(struct compaction *c, struct err *err)
{
	struct fold_options o = {
		.roots = c->o.roots, .jail = c->o.jail, .stopper = c->o.stopper, .unit_bits = c->o.cluster_bits,
		.min_run = c->o.min_run, .cross_owner = c->o.cross_owner,
		.how = { .hold = { .assume_idle = c->o.assume_idle }, .settle_ns = SETTLE_NS, .now = time(NULL) },
		.workshop = workshop_for, .problem = left, .enough = turn_is_wanted, .ctx = c,
	};
	uint64_t until = lock_file_patience(c->o.wait);
	struct err why = ERR_INIT;
	int rc;

	do {
		rc = compact_open_pool(c, false, &why);
	} while (rc < 0 && turn_try_again(c, until, &why));
	if (rc < 0 && why.kind == ERR_CANCELED)
		return err_set(err, why.kind, "%s", why.text);
	if (rc < 0) {
		left(c, c->o.roots->list.items[0].path, &why); /* others use it, say; what is done in place can be done all the
								* same */
		c->plan->pool_in_use = why.kind == ERR_BUSY;
		c->plan->unfolded = !c->plan->pool_in_use;
		return 0;
	}
	store_close_files(&c->store);
	return c->pool ? fold(c, &o, err) : 0;
}

const struct method method_pool = { .id = PLAN_POOL, .plan = plan, .apply = apply };
