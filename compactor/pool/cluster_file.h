/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_CLUSTER_FILE_H
#define DEDUPSCAN_CLUSTER_FILE_H

#include <stdbool.h>
#include <sys/stat.h>

#include "compactor/pool/pool_format.h"
#include "scanner/base/cleanup.h"

/* One cluster file of a pool: superblock, header slots, tables and clusters (pool_format.h).  clusters.h has all of them.
 *
 * Appended to through a buffer in large writes; never written in place but for header slots and holes.  All offsets and slots are
 * those in the file. */

struct cluster_file;

/* What a superblock says. */
struct cluster_file_id {
	uint8_t uuid[POOL_ID_SIZE];
	uint8_t pool[POOL_ID_SIZE]; /* of the first file the same */
	uint32_t number;	    /* 0 = the first */
};

/* Creates dirfd/name with its superblock, synced; the directory is the caller's to sync.  The first one of a pool; one more, with
 * owner, group and mode of another. */
int cluster_file_create(int dirfd, const char *name, const uint8_t uuid[POOL_ID_SIZE], struct err *err);
int cluster_file_create_further(int dirfd, const char *name, const struct cluster_file_id *id, const struct stat *like,
				struct err *err);
/* Opens and checks it; ERR_FORMAT when nothing says what it is.  Where the last process died, what it appended stays as it is,
 * reached by nothing.  dirfd stays open as long. */
struct cluster_file *cluster_file_open(int dirfd, const char *name, bool writing, struct err *err);
void cluster_file_close(struct cluster_file *f);
CLEANUP_DEFINE(struct cluster_file *, cluster_file_close)

const struct cluster_file_id *cluster_file_id(const struct cluster_file *f);
uint64_t cluster_file_end(const struct cluster_file *f); /* bytes, what is buffered included */
int cluster_file_fd(const struct cluster_file *f);	 /* its own, for reading */
/* Bytes that it may still grow, on this file system.  No offset is given out twice, so this only shrinks. */
uint64_t cluster_file_room(const struct cluster_file *f);
/* Bytes that any file of a pool can have there. */
uint64_t cluster_file_max(const struct cluster_file *f);

/* The superblock is there twice; it was opened by the first one that is whole.  What is wrong with the other, which names the file;
 * false = nothing, or an older dedupscan made the file, which wrote one only. */
bool cluster_file_other_is_damaged(const struct cluster_file *f, struct err *ret_why);
bool cluster_file_lacks_copy(const struct cluster_file *f);
/* Writes the other one anew from this, synced and read back. */
int cluster_file_write_other(struct cluster_file *f, struct err *err);

/* Something of its end is gone: it ends before its data begin, or the caller knows.  Nothing is appended to it any more and nothing
 * published in it, for offsets and slots would be given out again; there is no room in it, and no slot left. */
bool cluster_file_is_cut(const struct cluster_file *f);
void cluster_file_set_cut(struct cluster_file *f);
uint64_t cluster_file_written(const struct cluster_file *f); /* bytes; what waits is not among them */
const char *cluster_file_name(const struct cluster_file *f);

/* Lifts its immutable flag, as whatever writes to it does; whether that was done and it had one. */
int cluster_file_lift(struct cluster_file *f, struct err *err);
bool cluster_file_was_lifted(const struct cluster_file *f);

/* Appends len bytes at the next multiple of `align` (a power of two, at most 64 KiB); *ret is where.  ERR_FULL when the file would
 * grow past its room. */
int cluster_file_append(struct cluster_file *f, const void *buf, size_t len, uint64_t align, uint64_t *ret, struct err *err);
/* Writes what is buffered. */
int cluster_file_flush(struct cluster_file *f, struct err *err);
int cluster_file_sync(struct cluster_file *f, struct err *err);
/* Nothing more is to be written for now: after a sync, it is open for reading only, and a lease tells who else has it open. */
void cluster_file_rest(struct cluster_file *f);

/* Exactly len bytes at offset, in the data area; what is buffered is seen.  Past the end is ERR_FORMAT. */
int cluster_file_read(struct cluster_file *f, void *buf, size_t len, uint64_t offset, struct err *err);

/* ---- header slots, 1 to POOL_NR_SLOTS - 1 ---- */

/* The first slot behind all that were ever published; ERR_FULL when there is none. */
int cluster_file_next_slot(struct cluster_file *f, uint32_t *ret, struct err *err);
uint32_t cluster_file_slots_left(const struct cluster_file *f);
/* Writes the first 4 KiB of a slot and syncs.  What the header leads to has been synced before. */
int cluster_file_publish(struct cluster_file *f, uint32_t slot, const uint8_t header[BLOCK_SIZE], struct err *err);
int cluster_file_read_slot(struct cluster_file *f, uint32_t slot, uint8_t ret[BLOCK_SIZE], struct err *err);
/* Makes a slot a hole, but for the last published one (and where the file system makes no holes), which becomes a tombstone so
 * that it is not given out again.  Not synced. */
int cluster_file_bury(struct cluster_file *f, uint32_t slot, struct err *err);
/* Calls for every slot that holds anything but a tombstone, ascending, until a call returns other than 0; that is returned then. */
int cluster_file_each_slot(struct cluster_file *f,
			   int (*call)(void *ctx, uint32_t slot, const uint8_t header[BLOCK_SIZE], struct err *err),
			   void *ctx, struct err *err);

/* Makes [offset, offset + len) of the data area a hole; both are multiples of 4096.  Not synced. */
int cluster_file_punch(struct cluster_file *f, uint64_t offset, uint64_t len, struct err *err);

/* For tests and fuzzing. */
int superblock_decode(const uint8_t p[POOL_SUPERBLOCK_ROOM], bool writing, struct cluster_file_id *ret, struct err *err);
/* Which of two counts, 0 or 1: the first, unless that is damaged; -1 when both are, or either is of a newer dedupscan.  whys[i]
 * says what is wrong with them; who could not read one says so before. */
int superblock_choose(const uint8_t *const two[2], bool writing, struct cluster_file_id *ret, struct err whys[2], struct err *err);

#endif
