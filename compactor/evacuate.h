/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_EVACUATE_H
#define DEDUPSCAN_EVACUATE_H

#include "compactor/pool/pool.h"

/* Evacuation of a cluster file: all segments that trees have in it are stored in the file that grows, which another one becomes
 * where it is that file itself, or where there is no room.  Trees lead there from then on.  Views are not touched: those in the
 * file have its clusters as before, until they are written anew (view_write_as()).
 *
 * What is moved is durable from time to time, and what is stopped is gone on with by doing it again. */

struct evacuation {
	struct pool *p; /* nothing is buffered */
	uint32_t file;
	uint64_t lives; /* bytes in it, for progress and room */
	int (*check)(void *ctx, uint64_t done, uint64_t total, struct err *err); /* other than 0 ends it */
	void *ctx;
};

/* *moved grows by the bytes of clusters that were stored, *damaged by the segments that cannot be read, which stay where they are.
 *  */
int evacuate_segments(const struct evacuation *e, uint64_t *moved, uint64_t *damaged, struct err *err);

#endif
