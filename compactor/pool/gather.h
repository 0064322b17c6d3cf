/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_GATHER_H
#define DEDUPSCAN_GATHER_H

#include "compactor/pool/pool.h"

/* Has all segments of a tree lie in the cluster file that grows, as a view of it needs: those that lie in other files are stored
 * again, and their leaves lead there from then on.  Where there is one file alone there is nothing to do.  What has no map in
 * clusters of `unit_bits` or more stays as it is.  ERR_FULL before anything is written where there is no space for it, ERR_FORMAT
 * where a segment cannot be read, ERR_CANCELED when the pool's stopper says so.  Nothing is durable before pool_sync(). */
int gather(struct pool *p, const uint8_t root[DIGEST_SIZE], uint64_t size, unsigned unit_bits, struct err *err);

#endif
