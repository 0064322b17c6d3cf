/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_READ_AHEAD_H
#define DEDUPSCAN_READ_AHEAD_H

#include "compactor/pool/pool.h"
#include "scanner/chunk/digest.h"

/* Reads a disk of a pool in a thread of its own, which also proves what it reads: that takes as long as writing it elsewhere.  The
 * pool is the thread's until read_ahead_free(). */

struct read_ahead;

struct read_ahead *read_ahead_new(struct pool *p, const uint8_t root[DIGEST_SIZE], uint64_t size, struct err *err);
/* The next segment that is not zeros: 1 with its number and SEGMENT_SIZE bytes, good until the next call; 0 at the end, -1. */
int read_ahead_next(struct read_ahead *r, uint64_t *ret_segment, const void **ret, struct err *err);
void read_ahead_free(struct read_ahead *r);
CLEANUP_DEFINE(struct read_ahead *, read_ahead_free)

#endif
