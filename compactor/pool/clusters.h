/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_CLUSTERS_H
#define DEDUPSCAN_CLUSTERS_H

#include "compactor/pool/cluster_file.h"

/* The clusters of a pool: its cluster files as one row of addresses and slots (pool_format.h).
 *
 *	| file 0 ...   | file 2 ...      | file 3, which grows ... ->
 *	0	       2 << 50		 3 << 50
 *
 * What is appended goes to the file with the highest number.  A view lies in one file, with all that it leads to, as QEMU opens a
 * slice of one; maps of trees lead to any of them.  Errors are those of cluster_file.h. */

struct clusters;

/* Opens all of the directory, which stays open as long.  One of several files of which no superblock is whole is passed over, as if
 * it were not there. */
struct clusters *clusters_open(int dirfd, bool writing, struct err *err);
void clusters_close(struct clusters *c);
CLEANUP_DEFINE(struct clusters *, clusters_close)

const uint8_t *clusters_pool(const struct clusters *c); /* the pool's id */

/* Begins another file, empty, with a number above all others; its directory is synced.  ERR_FULL when there are no more numbers.
 * When this fails no other one begins until they are opened again. */
int clusters_add(struct clusters *c, uint32_t number, struct err *err);
/* Removes the file `number`, which is not the one that grows; nobody has an address or a slot of it any more. */
int clusters_remove(struct clusters *c, uint32_t number, struct err *err);

/* What is wrong with those that were passed over, with their names. */
size_t clusters_nr_passed_over(const struct clusters *c);
const struct err *clusters_passed_over(const struct clusters *c, size_t i);

/* ---- the files ---- */

struct cluster_span {
	struct cluster_file *file;
	uint32_t number;
	uint64_t begin, end; /* addresses of its data: the first one, and the one behind the last one that was given out */
};
size_t clusters_nr(const struct clusters *c);
struct cluster_span clusters_span(const struct clusters *c, size_t i); /* numbers ascend: the last one grows */
struct cluster_span clusters_growing(const struct clusters *c);
/* The one that an address, or a slot, lies in; the one with this id: false = there is none. */
bool clusters_of_address(const struct clusters *c, uint64_t address, struct cluster_span *ret);
bool clusters_of_slot(const struct clusters *c, uint32_t slot, struct cluster_span *ret);
bool clusters_of_id(const struct clusters *c, const uint8_t uuid[POOL_ID_SIZE], struct cluster_span *ret);

/* The slot of the view that begins at an offset of the file with this id, or 0. */
uint32_t clusters_slot_at(const struct clusters *c, const uint8_t uuid[POOL_ID_SIZE], uint64_t offset);

/* All of [address, address + len) is data of one file. */
bool clusters_have(const struct clusters *c, uint64_t address, uint64_t len);

static inline uint64_t cluster_offset(uint64_t address) /* in its file */
{
	return address & (POOL_FILE_MAX - 1);
}

static inline uint64_t slot_offset(uint32_t slot)
{
	return slot % POOL_NR_SLOTS * POOL_SLOT_SIZE;
}

/* The address that offsets in a slot's view count from. */
static inline uint64_t slot_address(uint32_t slot)
{
	return (slot / POOL_NR_SLOTS << POOL_FILE_BITS) + slot_offset(slot);
}

/* ---- data ---- */

int clusters_append(struct clusters *c, const void *buf, size_t len, uint64_t align, uint64_t *ret, struct err *err);
int clusters_flush(struct clusters *c, struct err *err);
int clusters_sync(struct clusters *c, struct err *err);
int clusters_read(struct clusters *c, void *buf, size_t len, uint64_t address, struct err *err);
int clusters_punch(struct clusters *c, uint64_t address, uint64_t len, struct err *err);
uint64_t clusters_end(const struct clusters *c); /* the address behind all data */
/* Drops what the page cache has of it. */
int clusters_drop_cache(const struct clusters *c, struct err *err);

/* ---- slots ---- */

int clusters_next_slot(struct clusters *c, uint32_t *ret, struct err *err);
int clusters_publish(struct clusters *c, uint32_t slot, const uint8_t header[BLOCK_SIZE], struct err *err);
int clusters_read_slot(struct clusters *c, uint32_t slot, uint8_t ret[BLOCK_SIZE], struct err *err); /* no such file: ERR_FORMAT */
int clusters_bury(struct clusters *c, uint32_t slot, struct err *err);
int clusters_each_slot(struct clusters *c, int (*call)(void *ctx, uint32_t slot, const uint8_t header[BLOCK_SIZE], struct err *err),
		       void *ctx, struct err *err);

#endif
