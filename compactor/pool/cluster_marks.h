/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_CLUSTER_MARKS_H
#define DEDUPSCAN_CLUSTER_MARKS_H

#include "compactor/pool/nodes.h"

/* Marks on the data of a cluster file, one for each 4 KiB, of as much of it at a time as memory allows: whoever marks goes through
 * everything again for each part.  Offsets are addresses (clusters.h). */

struct cluster_marks {
	uint8_t *bits;
	uint64_t begin, end; /* the part at hand; both are multiples of CLUSTER_MARKS_ALIGN, but for the last end */
	uint64_t size, part;
};
#define CLUSTER_MARKS_ALIGN ((uint64_t)2 << 20)
#define CLUSTER_MARKS_MIN ((size_t)1 << 20) /* bytes of memory: 32 GiB of data */

/* Of [from, end) in one file, which begins at a multiple of CLUSTER_MARKS_ALIGN; with at most `memory` bytes; nothing is marked. */
int cluster_marks_init(struct cluster_marks *m, uint64_t from, uint64_t end, uint64_t memory, struct err *err);
void cluster_marks_release(struct cluster_marks *m);
CLEANUP_DEFINE_RELEASE(struct cluster_marks, cluster_marks_release)

/* Goes on to the next part; false at the end. */
bool cluster_marks_next(struct cluster_marks *m);
void cluster_marks_clear(struct cluster_marks *m);

/* What is outside the part is passed over. */
void cluster_marks_add(struct cluster_marks *m, uint64_t offset, uint64_t len);
void cluster_marks_add_leaf(struct cluster_marks *m, const struct leaf *leaf);

/* The offset lies in the part. */
static inline bool cluster_marks_has(const struct cluster_marks *m, uint64_t offset)
{
	uint64_t bit = (offset - m->begin) / BLOCK_SIZE;

	return m->bits[bit / 8] >> bit % 8 & 1;
}

/* Bytes that are marked in [from, to) of the part; both are multiples of 32 KiB, or the part's end. */
uint64_t cluster_marks_count(const struct cluster_marks *m, uint64_t from, uint64_t to);

#endif
