/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_MOVES_H
#define DEDUPSCAN_MOVES_H

#include "compactor/store.h"

/* Moves: which stretches of which image are to share with which stretch of another one, or of itself.
 *
 * The original of a content is its block in the image of the lowest rank that a file system can share; so stretches line up
 * by themselves.  A stretch goes on over a short gap when what follows lies as far from its originals as what was before:
 * the gap holds zeros, or blocks whose originals lie elsewhere, or something else; it has to be compared first. */

struct move {
	size_t image, origin;	       /* in store->images */
	uint64_t address, from, len;   /* bytes: [address, address + len) of `image` is like [from, from + len) of `origin` */
	uint32_t has_gaps;	       /* but for gaps in it */
	uint32_t of_files;	       /* these are offsets in the files: a copy as a whole (copies.h) */
	uint64_t first_gap, nr_gaps;   /* for moves_gap(); none though it has_gaps: nobody knows where they are */
};

/* What may differ: bytes from the beginning of the move. */
struct move_gap {
	uint64_t at, len;
};

/* A part of a move that is contiguous in both files. */
struct piece {
	size_t file, from_file; /* in store->files */
	uint64_t offset, from, len;
	bool has_gaps;
	uint64_t at; /* in the move */
};

/* Calls for all pieces of a move, in order of address; what cannot be shared has none.  A call that returns other than 0 ends it,
 * and that is returned. */
int move_each_piece(struct store *s, const struct move *v, int (*call)(void *ctx, const struct piece *p, struct err *err),
		    void *ctx, struct err *err);

#define MOVES_GAP ((uint64_t)64 << 10) /* longest gap */

struct moves;

struct moves_options {
	uint64_t memory; /* bytes that this process may take */
	unsigned nr_threads;
	uint64_t min_run; /* bytes; shorter stretches are not worth their extents */
	uint64_t sharers; /* of one place; 0 = any number */
};

/* Finds them, and fills what follows from them in s->plan->images: duplicate, shared, short_runs, pinned and saving, the disk space
 * that comes back when all are made. */
struct moves *moves_find(struct store *s, const struct moves_options *o, struct err *err);
void moves_free(struct moves *m);
CLEANUP_DEFINE(struct moves *, moves_free)

/* Of one image: how many there are and how many bytes they have; the nth of them. */
uint64_t moves_count(const struct moves *m, size_t image, uint64_t *ret_bytes);
int moves_get(struct moves *m, size_t image, uint64_t n, struct move *ret, struct err *err);

/* The nth gap of a move, in order. */
int moves_gap(struct moves *m, const struct move *v, uint64_t n, struct move_gap *ret, struct err *err);

#endif
