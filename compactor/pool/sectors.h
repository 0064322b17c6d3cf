/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_SECTORS_H
#define DEDUPSCAN_SECTORS_H

#include <stdbool.h>
#include <stdint.h>

#include "scanner/base/block.h"

/* Some sectors of a segment: those of its bytes that an image holds itself, where the others are its backing file's.  Clusters and
 * subclusters of qcow2 have no fewer bytes than a sector. */

#define SECTOR_SIZE 512u
#define SEGMENT_SECTORS ((unsigned)(SEGMENT_SIZE / SECTOR_SIZE))

struct sectors {
	uint64_t bits[SEGMENT_SECTORS / 64];
};

static inline void sectors_add(struct sectors *s, unsigned begin, unsigned end)
{
	for (; begin < end; begin++)
		s->bits[begin / 64] |= (uint64_t)1 << begin % 64;
}

static inline bool sectors_have(const struct sectors *s, unsigned sector)
{
	return s->bits[sector / 64] >> sector % 64 & 1;
}

/* The first one from `begin` on that is not as that one is. */
static inline unsigned sectors_end(const struct sectors *s, unsigned begin)
{
	unsigned end = begin + 1;

	while (end < SEGMENT_SECTORS && sectors_have(s, end) == sectors_have(s, begin))
		end++;
	return end;
}

#endif
