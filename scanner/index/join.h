/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_JOIN_H
#define DEDUPSCAN_JOIN_H

#include "scanner/index/sorter.h"
#include "scanner/index/table.h"

/* Several sorted sources as one: the tables of a partition, oldest first, and at last the sorted requests of a scan.
 * Every key comes once, in order, with the places of all sources, oldest source first.
 *
 * The places of one key ascend from source to source and within each; requests must have been put into the sorter
 * that way.  If they do not, join_next_place() fails with ERR_FORMAT, so what it returns can go straight to
 * table_writer_add(). */

struct join;

/* Does not own the tables (at most 1000) or the sorter; `requests` may be NULL, and must have been finished. */
struct join *join_new(struct table *const *tables, size_t nr, struct sorter *requests, struct err *err);

/* The requests come in pieces, one after the other: more() is called when those in the sorter are at an end.  1 = it has
 * reset, filled and finished the sorter again, with keys all greater than those before; 0 = there are no more. */
void join_set_more(struct join *j, int (*more)(void *ctx, struct err *err), void *ctx);

/* As table_next_key(), table_next_place(). */
int join_next_key(struct join *j, struct key *ret, struct err *err);
int join_next_place(struct join *j, uint64_t *ret, struct err *err);

/* As table_rewind_places(); only without requests. */
int join_rewind_places(struct join *j, struct err *err);

void join_free(struct join *j);
CLEANUP_DEFINE(struct join *, join_free)

#endif
