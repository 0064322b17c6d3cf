/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_SORTER_H
#define DEDUPSCAN_SORTER_H

#include "scanner/base/file.h"
#include "scanner/index/index.h"

/* An external sorter of 24-byte records under a memory limit.
 *
 * Records come out in order of key; records with equal keys come out in the order they went in (the sort is stable).  What
 * fits into `memory` is radix-sorted there (a buffer and its scratch are both counted) and touches no disk; else
 * sorted runs go to one unlinked temporary file in dirfd and are merged. */

struct record {
	struct key key; /* all 128 bits are compared: other users of the sorter need not be fingerprints */
	uint64_t value;
};

struct sorter;

/* At least 64 KiB; what is not touched is not used. */
struct sorter *sorter_new(size_t memory, int dirfd, struct err *err);

/* Room for at least one and at most `want` records to be written in place: *ret_room says how many.  sorter_commit() then
 * says how many were.  This spares a copy per record. */
struct record *sorter_room(struct sorter *s, size_t want, size_t *ret_room, struct err *err);
void sorter_commit(struct sorter *s, size_t nr);

/* Ends the input. */
int sorter_finish(struct sorter *s, struct err *err);

/* The next batch in order: returns the number of records at *ret (valid until the next call), 0 at the end, -1 on error. */
ssize_t sorter_next(struct sorter *s, const struct record **ret, struct err *err);

/* Empties it for another input, keeping its memory. */
void sorter_reset(struct sorter *s);
uint64_t sorter_spilled(const struct sorter *s); /* bytes that went to disk since it was made */
void sorter_free(struct sorter *s);
CLEANUP_DEFINE(struct sorter *, sorter_free)

/* Sorts nr records in place, stable, using scratch of the same size. */
void record_sort(struct record *r, struct record *scratch, size_t nr);

#endif
