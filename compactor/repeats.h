/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_REPEATS_H
#define DEDUPSCAN_REPEATS_H

#include "compactor/store.h"

/* Segments that come again: by their digests in the catalog, as a whole, after the first one in the order of images and addresses.
 * Only of images without parent, and not of their snapshots: of the others the catalog knows a part of each segment. */

struct repeats;

/* images[rank] is the number in store->images, nr of them. */
struct repeats *repeats_find(const struct store *s, const uint32_t *images, size_t nr, struct err *err);

/* Whether the block at POSITION(rank, block) (scanner/group.h) is in one of them: 1, 0, -1.  Positions ascend from call to call. */
int repeats_has(struct repeats *r, uint64_t position, struct err *err);

void repeats_free(struct repeats *r);
CLEANUP_DEFINE(struct repeats *, repeats_free)

#endif
