/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_TREE_H
#define DEDUPSCAN_TREE_H

#include "compactor/pool/clusters.h"
#include "compactor/pool/nodes.h"

/* Hash trees over disks: what a version of an image is (scanner/chunk/digest.h says how they are made).  A null root is a disk of
 * zeros.  Heights follow from the disk's size, so that belongs to every root. */

/* ---- making one ---- */

/* Of a disk of `size` bytes; segments ascend, those left out are zeros.  Inner nodes go to `nodes` as they are complete.  `base` is
 * the root of a tree there, of a disk of base_size bytes, from which this one differs a little: then only that is stored.  NULL =
 * none. */
struct tree_maker;
struct tree_maker *tree_maker_new(struct nodes *nodes, uint64_t size, const uint8_t *base, uint64_t base_size, struct err *err);
int tree_maker_add(struct tree_maker *m, uint64_t segment, const uint8_t digest[DIGEST_SIZE], struct err *err);
int tree_maker_end(struct tree_maker *m, uint8_t ret[DIGEST_SIZE], struct err *err);
void tree_maker_free(struct tree_maker *m);
CLEANUP_DEFINE(struct tree_maker *, tree_maker_free)

/* ---- walking ---- */

/* Goes over the segments of a tree that are not zeros, in order; holds one node per level. */
struct tree_walk;
struct tree_walk *tree_walk_new(struct nodes *nodes, const uint8_t root[DIGEST_SIZE], uint64_t size, struct err *err);
/* The first one at or behind `from` that is not zeros: 1, 0 at the end, -1. */
int tree_walk_next(struct tree_walk *w, uint64_t from, uint64_t *ret_segment, uint8_t ret_digest[DIGEST_SIZE], struct err *err);
/* The node of a level, from the root's down to 1, that has a segment; false where it is not there or cannot be read. */
bool tree_walk_node(struct tree_walk *w, unsigned level, uint64_t segment, uint8_t ret_digest[DIGEST_SIZE]);
void tree_walk_free(struct tree_walk *w);
CLEANUP_DEFINE(struct tree_walk *, tree_walk_free)

/* Each node and each segment's map is there, so that tables can be made from it.  What the data are is not read. */
bool tree_is_whole(struct nodes *nodes, const uint8_t root[DIGEST_SIZE], uint64_t size);

/* Calls for each segment in which two disks differ; equal subtrees are not entered.  A null digest is zeros (or behind the end). */
int tree_diff(struct nodes *nodes, const uint8_t a[DIGEST_SIZE], uint64_t a_size, const uint8_t b[DIGEST_SIZE], uint64_t b_size,
	      int (*call)(void *ctx, uint64_t segment, const uint8_t in_a[DIGEST_SIZE], const uint8_t in_b[DIGEST_SIZE],
			  struct err *err),
	      void *ctx, struct err *err);

/* ---- reading ---- */

/* The bytes of one segment, proven by its digest; a null digest gives zeros.  ERR_IO when they are damaged: never wrong bytes. */
int tree_read_segment(struct nodes *nodes, struct clusters *clusters, const uint8_t digest[DIGEST_SIZE], void *buf,
		      struct err *err);
/* The same of two segments, which takes less time than one after the other. */
int tree_read_two(struct nodes *nodes, struct clusters *clusters, const uint8_t digests[2][DIGEST_SIZE], void *const bufs[2],
		  struct err *err);
/* The bytes of one from a map at hand, not proven. */
int tree_read_leaf(struct clusters *clusters, const struct leaf *leaf, void *buf, struct err *err);

#endif
