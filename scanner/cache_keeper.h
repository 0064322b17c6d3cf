/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_CACHE_KEEPER_H
#define DEDUPSCAN_CACHE_KEEPER_H

#include <stdbool.h>
#include <stdint.h>

/* Leaves the page cache as it was found.
 *
 * Before a window of a file is read, mincore(2) says which of its pages are there already; after it was read, the others are
 * dropped.  The look is one window ahead of the reading, so that what the kernel reads ahead for us is not mistaken for
 * somebody else's. */

#define CACHE_WINDOW ((uint64_t)8 << 20)

struct cache_window {
	uint64_t number; /* offset / CACHE_WINDOW */
	bool known;
	uint8_t resident[CACHE_WINDOW / 4096 / 8]; /* bit per page */
};

struct cache_keeper {
	bool on;
	int fd; /* of the windows, -1 = none */
	struct cache_window at, ahead;
};

void cache_keeper_begin(struct cache_keeper *k, bool on);

/* To be called before [offset, offset + len) of fd is read. */
void cache_keeper_before(struct cache_keeper *k, int fd, uint64_t offset, uint64_t len);

/* Drops what is left to drop. */
void cache_keeper_end(struct cache_keeper *k);

#endif
