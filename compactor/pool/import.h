/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_IMPORT_H
#define DEDUPSCAN_IMPORT_H

#include "compactor/pool/nodes.h"
#include "compactor/pool/pool.h"
#include "compactor/pool/sectors.h"

/* Importing: the bytes of a disk enter a pool and become a hash tree.
 *
 * Segments come in order.  For each: is the whole segment there already (found by its fingerprint, compared byte by byte)?  Else
 * its units are looked up one by one; hits are anchors, extended both ways by comparing bytes; runs of at least `min_run` are
 * shared, the rest is appended in the order of the disk, so that a disk lies as whole as sharing allows.  Zeros are not stored.  A
 * fingerprint never decides: bytes are compared with those of the clusters.
 *
 * Segments are shared wherever they lie, runs of units in the cluster file that grows alone.  A view needs all in one file, and
 * brings it there (gather.h). */

struct import_options {
	unsigned unit_bits;	/* 12, 14, 16 */
	uint64_t min_run;	/* bytes; shorter matches are stored again */
};

struct import_stats {
	uint64_t bytes;	       /* of segments that were given */
	uint64_t zeros;	       /* of them, in units */
	uint64_t shared_segments, shared_runs; /* bytes that were there already */
	uint64_t stored;       /* bytes of clusters appended */
	uint64_t short_matches; /* of them, what was there (by its fingerprint) but not in long enough a run */
	uint64_t forged;       /* units whose fingerprint was there with other bytes */
	uint64_t damaged;      /* units of the pool that could not be read when they should be compared */
};

struct import;

/* What a segment is found by: XXH3-128 of the fingerprints of its 512 blocks, the very one that scans have in their catalogs
 * (scanner/index/spool.h). */
struct fingerprint import_hint(const void *segment);

/* What units of `unit` bytes are found by; null for zeros. */
void import_prints(const void *bytes, size_t unit, unsigned nr, struct fingerprint *ret);

/* Of a disk of `size` bytes.  Where the pool holds a version of which this one differs a little, `base` is that root and
 * `base_size` the size of its disk: import_same() takes segments from it, in whatever file they are.  NULL = none.
 *
 * With the first segment that is new another cluster file begins when it is time (growth.h). */
struct import *import_new(struct pool *pool, uint64_t size, const struct import_options *o, const uint8_t *base, uint64_t base_size,
			  struct err *err);

/* The next segment that is not all zeros: SEGMENT_SIZE bytes, behind the disk's end zeros.  Segments ascend.  What fails may be the
 * segment before. */
int import_segment(struct import *i, uint64_t segment, const void *bytes, struct err *err);
/* The same of a disk with a base of which only these sectors are given: the others, and all segments before, are as in the base,
 * whose bytes are proven.  ERR_FORMAT where those are damaged. */
int import_own(struct import *i, uint64_t segment, const void *bytes, const struct sectors *own, struct err *err);
/* All segments up to `segment` exclusive are as in the base. */
int import_same(struct import *i, uint64_t segment, struct err *err);

/* The root.  Nothing is durable before pool_sync(). */
int import_end(struct import *i, uint8_t ret[DIGEST_SIZE], struct import_stats *ret_stats, struct err *err);
void import_free(struct import *i);
CLEANUP_DEFINE(struct import *, import_free)

/* Moving segments into the file that grows, one by one: import_move() for any leaf that is elsewhere.  Its bytes are proven first:
 * 1 when they cannot be had, as *err says; it stays where it is, then.  Else 0 or -1.  What is moved is synced, read back from the
 * disk and proven, in rounds, and only then do trees lead there; ERR_IO when that fails, and these stay where they were, too. */
struct import *import_new_moving(struct pool *pool, unsigned unit_bits, struct err *err);
int import_move(struct import *i, const struct leaf *leaf, struct err *err);
/* The same for bytes at hand, which are those of the digest: where clusters have others, they get new ones. */
int import_store(struct import *i, const uint8_t digest[DIGEST_SIZE], const void *bytes, struct err *err);
int import_end_moving(struct import *i, struct import_stats *ret_stats, struct err *err);

/* One for each unit that is needed; all zeros = none yet. */
struct import_movers {
	struct import *of[POOL_UNIT_BITS_MAX + 1];
};
struct import *import_mover(struct import_movers *m, struct pool *pool, unsigned unit_bits, struct err *err);
int import_end_movers(struct import_movers *m, struct err *err);
void import_free_movers(struct import_movers *m);

#endif
