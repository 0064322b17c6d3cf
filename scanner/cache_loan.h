/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_CACHE_LOAN_H
#define DEDUPSCAN_CACHE_LOAN_H

#include <stdint.h>

#include "scanner/base/cleanup.h"
#include "scanner/base/err.h"

/* Room in the page cache, borrowed for a while: what is read once stays there for the work that follows, which need not
 * fetch it from the disk again, and is dropped when that is done.  Pages that were in the cache before stay. */

struct cache_loan;

/* So many bytes may stay. */
struct cache_loan *cache_loan_new(uint64_t room, struct err *err);
void cache_loan_free(struct cache_loan *l);
CLEANUP_DEFINE(struct cache_loan *, cache_loan_free)

/* To be called before a file is read, the first time: sees which of its pages are in the cache.  Returns how many of the `wanted`
 * bytes may stay there.  Takes NULL, which is 0. */
uint64_t cache_loan_take(struct cache_loan *l, int fd, uint64_t wanted);

/* Drops what came into the cache since; of a file that is not known, nothing.  Takes NULL. */
void cache_loan_return(struct cache_loan *l, int fd);

#endif
