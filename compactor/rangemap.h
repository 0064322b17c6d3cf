/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_RANGEMAP_H
#define DEDUPSCAN_RANGEMAP_H

#include <stddef.h>
#include <stdint.h>

#include "scanner/base/cleanup.h"
#include "scanner/base/err.h"

/* Maps from ranges to places, one for each of many owners: where the blocks of an image lie in its files, where the bytes of a
 * file lie on the disk.  They are kept in an unlinked file; memory is 16 bytes an owner and a cache of 1 MiB. */

struct range {
	uint64_t from, len; /* bytes */
	uint64_t to;	    /* where byte `from` is */
	uint32_t tag, flags; /* the user's */
};

struct rangemap;

struct rangemap *rangemap_new(int dirfd, struct err *err);
void rangemap_free(struct rangemap *m);
CLEANUP_DEFINE(struct rangemap *, rangemap_free)

/* Begins the ranges of an owner; what it had before is forgotten. */
int rangemap_begin(struct rangemap *m, size_t owner, struct err *err);
/* Adds to the owner begun last; `from` ascends, ranges do not overlap.  One that goes on where the last one ended, in both worlds
 * and with equal tag and flags, becomes one with it. */
int rangemap_add(struct rangemap *m, const struct range *r, struct err *err);
/* To be called before several threads look things up, and after more was added; a look-up does it, too. */
int rangemap_end(struct rangemap *m, struct err *err);

uint64_t rangemap_count(const struct rangemap *m, size_t owner);

/* The range that holds `at`, or else the first one after it: 1, or 0 = there is none.  Near look-ups are cheap.  Several threads
 * may ask. */
int rangemap_find(struct rangemap *m, size_t owner, uint64_t at, struct range *ret, struct err *err);

#endif
