/* SPDX-License-Identifier: Apache-2.0 */

#include "compactor/compact_parts.h"
#include "compactor/rebuild.h"
#include "scanner/base/block.h"
#include "scanner/base/checked.h"
#include "scanner/base/memory.h"
#include "scanner/index/sorter.h"

/* A new file of clones and copies, where sharing parts of extents in place frees nothing.
 *
 * Originals go first, in the order of ranks: a clone of an image that is itself rebuilt later would keep its old extents.  Pieces
 * of moves come by address and are needed by offset in the file; between them goes a sorter. */

#define WORTH 20 /* it pays when one byte in so many is saved */
#define BLOCKS_MAX ((uint64_t)1 << 31) /* of one piece in the sorter; sparse files may be longer */

struct rebuilding {
	struct compaction *c;
	size_t file; /* in the store */
	struct sorter *pieces; /* key: offset, offset of the source; value: source file << 32 | blocks */
	const struct record *next;
	size_t nr_next;
	int old_fd;
	int (*check)(void *ctx, struct err *err);
	void *check_ctx;
};

/* An image that stores all of its guest's disk keeps its zeros, unless it was asked for. */
static bool drops_zeros(const struct compaction *c, size_t image)
{
	return c->o.preallocated || !c->store.images.items[image].full;
}

static int plan(struct compaction *c, struct plan_step *s, struct err *err)
{
	const struct store_image *i = &c->store.images.items[s->image];
	const struct plan_image *p = &c->plan->images[s->image];
	uint64_t zero = 0;

	if (!c->store.file_systems.items[i->fs].whole_extents)
		return 0;
	/* A new layout has left them out. */
	if (!i->relayout && drops_zeros(c, s->image) && compact_zeros(c, s->image, &zero, err) < 0)
		return -1;
	if (!(p->saving + zero))
		return 0;
	if ((p->saving + zero) * WORTH < p->used) {
		compact_leave(c, s->image, "too little of it would be saved to write it anew");
		return 0;
	}
	if ((i->relayout && !i->planned) || !rewrite_idle(c, s->image))
		return 0;
	s->saving = p->saving + zero;
	s->later = c->o.keep_originals;
	s->nr_runs = moves_count(c->moves, s->image, &s->work);
	s->work = 2 * p->used;
	s->space = p->used - min_u64(p->used, s->saving);
	return 1;
}

/* ---- pieces in the order of the file ---- */

static int add_piece(void *ctx, const struct piece *p, struct err *err)
{
	struct rebuilding *b = ctx;
	uint64_t nr;

	if (p->file != b->file)
		return 0;
	for (uint64_t at = 0; p->len - at >= BLOCK_SIZE; at += nr * BLOCK_SIZE) {
		size_t room;
		struct record *r = sorter_room(b->pieces, 1, &room, err);

		if (!r)
			return -1;
		nr = min_u64((p->len - at) / BLOCK_SIZE, BLOCKS_MAX);
		r->key = (struct key){ .hi = p->offset + at, .lo = p->from + at };
		r->value = (uint64_t)p->from_file << 32 | nr;
		sorter_commit(b->pieces, 1);
	}
	return 0;
}

static int add_pieces(struct rebuilding *b, struct err *err)
{
	struct compaction *c = b->c;
	uint64_t bytes, nr = moves_count(c->moves, c->step->image, &bytes);
	struct move v;

	for (uint64_t i = 0; i < nr; i++) {
		if (moves_get(c->moves, c->step->image, i, &v, err) < 0)
			return -1;
		if (!c->store.images.items[v.origin].relayout && move_each_piece(&c->store, &v, add_piece, b, err) < 0)
			return -1;
	}
	return sorter_finish(b->pieces, err);
}

#define FOUND 1

static int find_piece(void *ctx, const struct piece *p, struct err *err)
{
	(void)err;
	return p->file == *(const size_t *)ctx ? FOUND : 0;
}

/* 1 = there is something to share in the file. */
static int has_pieces(struct compaction *c, size_t file, struct err *err)
{
	uint64_t bytes, nr = moves_count(c->moves, c->step->image, &bytes);
	struct move v;
	int rc = 0;

	for (uint64_t i = 0; rc == 0 && i < nr; i++) {
		rc = moves_get(c->moves, c->step->image, i, &v, err);
		if (rc == 0 && !c->store.images.items[v.origin].relayout)
			rc = move_each_piece(&c->store, &v, find_piece, &file, err);
	}
	return rc;
}

static int next_record(struct rebuilding *b, const struct record **ret, struct err *err)
{
	if (!b->nr_next) {
		ssize_t nr = sorter_next(b->pieces, &b->next, err);

		if (nr <= 0)
			return (int)nr;
		b->nr_next = (size_t)nr;
	}
	*ret = b->next++;
	b->nr_next--;
	return 1;
}

static int next_move(void *ctx, struct rebuild_move *ret, struct err *err)
{
	struct rebuilding *b = ctx;
	const struct record *r = NULL;
	int rc;

	while ((rc = next_record(b, &r, err)) > 0) {
		size_t file = r->value >> 32;
		int fd = file == b->file ? b->old_fd : store_open(&b->c->store, file, NULL);

		if (fd < 0) /* it is gone, and what it had is copied */
			continue;
		*ret = (struct rebuild_move){
			.offset = r->key.hi, .src_fd = fd, .src_offset = r->key.lo,
			.len = (uint64_t)(uint32_t)r->value * BLOCK_SIZE,
		};
		break;
	}
	return rc;
}

/* ---- the new file ---- */

static int make(void *ctx, int old_fd, int new_fd, proof_check *check, void *check_ctx, struct err *err)
{
	struct compaction *c = ctx;
	struct rebuilding b = { .c = c, .old_fd = old_fd, .file = c->file };
	struct rebuild r = {
		.next_move = next_move, .ctx = &b, .drop_zeros = drops_zeros(c, c->step->image), .check = check,
		.check_ctx = check_ctx,
	};
	struct rebuild_result result = { 0 };
	CLEANUP(sorter_free) struct sorter *pieces = sorter_new(memory_left(c->o.memory) / 8, catalog_spool_dirfd(c->catalog), err);

	b.pieces = pieces;
	if (!pieces || add_pieces(&b, err) < 0 || rebuild_make(old_fd, new_fd, &r, &result, err) < 0)
		return -1;
	c->step->shared += result.cloned;
	return 0;
}

static int prove(void *ctx, int old_fd, int new_fd, proof_check *check, void *check_ctx, struct err *err)
{
	(void)ctx;
	return proof_same_bytes(old_fd, new_fd, check, check_ctx, err);
}

static int apply(struct compaction *c, struct err *err)
{
	const struct store_image *i = &c->store.images.items[c->step->image];

	if (i->relayout)
		return err_set(err, ERR_STALE, "it was not laid out anew, so nothing can share with it");
	c->step->shared = 0;
	for (size_t n = 0; n < i->nr_files; n++) {
		int rc;

		c->file = i->first_file + n;
		rc = has_pieces(c, c->file, err);
		if (rc < 0)
			return -1;
		if (rc == 0 && i->nr_files > 1)
			continue;
		if (rewrite_file(c, c->file, make, prove, err) < 0)
			return -1;
	}
	return 0;
}

const struct method method_rebuild = { .id = PLAN_REBUILD, .plan = plan, .apply = apply };
