/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_IMPORT_PARTS_H
#define DEDUPSCAN_IMPORT_PARTS_H

#include "compactor/pool/clusters.h"
#include "compactor/pool/import.h"
#include "compactor/pool/nodes.h"
#include "compactor/pool/tree.h"
#include "scanner/chunk/fingerprint.h"

/* What the parts of importing share: import.c takes segments as a whole, import_match.c unit by unit.  Nobody else includes this.
 *
 * Places are addresses of clusters (clusters.h), and multiples of the unit.  Runs are shared in the file that grows. */

#define IMPORT_PIECE ((size_t)128 << 10) /* clusters are read so many bytes at a time */

/* One that came, and is in no leaf as a whole as far as is known. */
struct segment {
	uint64_t number;
	const uint8_t *bytes;
	struct fingerprint hint;
	uint8_t digest[DIGEST_SIZE];
	uint8_t bad[DIGEST_SIZE]; /* of a leaf that has its hint and other bytes; null = none */
	unsigned nr;		  /* units of it that are not zeros */
	uint16_t units[SEGMENT_BLOCKS];
	struct fingerprint prints[SEGMENT_BLOCKS]; /* of each, too */
};

struct import {
	struct pool *pool;
	const struct fingerprint_isa *isa;
	size_t unit;	  /* bytes */
	unsigned min_run; /* units, at least 1 */
	uint64_t size, nr_segments, next; /* of the disk; the first segment that is not decided */
	bool storing;	     /* something of it is new, and the file that grows has room */
	uint32_t file;	     /* number of the one that grows */
	uint64_t data_begin; /* the first place in it */
	struct tree_maker *maker; /* NULL = segments are moved, and make no tree */
	struct tree_walk *base;
	uint64_t base_size;
	struct import_stats stats;
	uint8_t *piece; /* clusters to compare with */

	/* Where the next unit lies if it is as in what was shared last; 0 = nobody knows.  `goes_on`: nothing was stored since;
	 * `guesses`: how often it may still be tried. */
	uint64_t follows;
	bool goes_on;
	unsigned guesses;

	/* The segment at hand, and one before it that waits so that two can be digested at once, or NULL.  `room`: its bytes. */
	struct segment segments[2], *at, *waits;
	uint8_t *room;

	bool wrong[SEGMENT_BLOCKS]; /* what the finder said of a unit has other bytes */
	bool heals;		    /* the clusters that its digest has are damaged, or in another file */
	unsigned done;		    /* so many of the segment's units are decided */

	/* Units of the segment at hand that are stored, but not appended yet: nr from `first` on, all in a row, at `place`. */
	struct {
		unsigned first, nr;
		uint64_t place;
	} late;
	struct leaf *moved; /* where segments that are moved lie now, if that can be proven; NULL = none are moved */
	size_t nr_moved;
	uint8_t moving[DIGEST_SIZE]; /* of the last one */
	struct leaf leaf; /* the one being made */
	struct leaf found, twin; /* ones that are there: of the hint, of the digest */
};

/* The leaf that was made waits to be proven. */
void import_moved(struct import *i);

/* One without a disk. */
struct import *import_new_any(struct pool *pool, const struct import_options *o, struct err *err);
/* No segment waits to be digested together with another one. */
int import_take_waiting(struct import *i, struct err *err);

/* Whether the segment at hand has the bytes that the leaf's map says. */
bool import_same_bytes(struct import *i, const struct leaf *leaf);

/* What was shared last ends at `end`. */
void import_shared_to(struct import *i, uint64_t end);

/* Takes prints of the blocks of the segment at hand, and its hint of them. */
void import_take_hint(struct import *i);

/* Takes prints of its units, behind that. */
void import_take_units(struct import *i);

/* Makes the map of the segment at hand: shares what is there, stores the rest. */
int import_match(struct import *i, struct err *err);

#endif
