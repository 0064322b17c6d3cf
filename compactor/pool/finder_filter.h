/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_FINDER_FILTER_H
#define DEDUPSCAN_FINDER_FILTER_H

#include "scanner/index/index.h"

/* Tells at the cost of one cache line that a key is not in a table: most keys that are looked for are in none.
 *
 * A split block Bloom filter (Putze, Sanders, Singler: Cache-, Hash- and Space-Efficient Bloom Filters; as in Apache Parquet), in a
 * file beside its table.  It is made for speed only: without one, the table is asked. */

struct filter;

/* For up to nr_keys keys in at most `room` bytes.  NULL when so few would tell nothing, or memory is out. */
struct filter *filter_new(uint64_t nr_keys, uint64_t room);
void filter_add(struct filter *f, struct key key);
bool filter_has(const struct filter *f, struct key key);
uint64_t filter_bytes(const struct filter *f); /* 0 for NULL */
void filter_free(struct filter *f);
CLEANUP_DEFINE(struct filter *, filter_free)

/* Writes dirfd/name, synced; its directory is the caller's to sync. */
int filter_write(const struct filter *f, int dirfd, const char *name, struct err *err);
/* NULL when it is not there, damaged, or larger than `room`. */
struct filter *filter_load(int dirfd, const char *name, uint64_t room);

#endif
