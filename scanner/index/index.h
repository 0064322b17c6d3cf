/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_INDEX_H
#define DEDUPSCAN_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "scanner/base/block.h"
#include "scanner/base/cleanup.h"
#include "scanner/base/err.h"

/* The fingerprint index: which fingerprint occurs where.
 *
 * A *key* is the first 104 bits of a fingerprint.  A *place* is a block: segment id * 512 + block within the segment.  Segment
 * ids are given out by the catalog, ascending and never twice; a segment that changed gets a new id, so that old places
 * go stale and fall out at the next merge.
 *
 * A *table* is an immutable sorted file of 4 KiB pages: every key once, in order, with its places in ascending order.  A
 * *partition* holds the keys that share its leading bits: a base table and a few small tables (deltas) of later scans, whose
 * places are all greater.  dedupscan-catalog(5) shows the bytes. */

struct key {
	uint64_t hi; /* the first 64 bits */
	uint64_t lo; /* the next 40, in the upper bits; the rest is zero */
};

#define KEY_BYTES 13
#define KEY_LO_MASK 0xffffffffff000000ull

static inline int key_cmp(struct key a, struct key b)
{
	if (a.hi != b.hi)
		return a.hi < b.hi ? -1 : 1;
	return a.lo < b.lo ? -1 : a.lo > b.lo;
}

/* The first `bits` bits of a key as a number; 0 <= bits <= 32. */
static inline uint32_t key_prefix(struct key k, unsigned bits)
{
	return bits ? (uint32_t)(k.hi >> (64 - bits)) : 0;
}

#endif
