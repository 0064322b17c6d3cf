/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_FEED_H
#define DEDUPSCAN_FEED_H

#include <stdatomic.h>

#include "compactor/pool/sectors.h"
#include "scanner/base/block.h"
#include "scanner/errand.h"

/* The guest bytes of an image, segment by segment, read by a process in a jail (scanner/errand.h).
 *
 * What the process says is taken for the image's content, as it is; nothing else it says is believed. */

struct feed {
	const struct roots *roots;
	const struct jail *jail; /* NULL = none */
	struct stopper *stopper;
	const char *format; /* as errand.h */
	unsigned snapshot; /* the disk as it was at this internal snapshot, from 1 on; 0 = as it is now.  Not with own() */
	struct image_snapshot *ret_snapshot; /* with that: which it is, as the image says; there before size() is called */
	bool writable;	 /* the image's descriptor is open for writing, as who replaces an image has it (jail.writable) */
	bool keep_cache; /* leave the page cache as it was found; not of a file that is open for writing */

	/* The disk's size, once, before any segment. */
	int (*size)(void *ctx, uint64_t size, struct err *err);
	/* SEGMENT_SIZE bytes, out of the process's reach, behind the disk's end zeros; not called for segments of zeros.
	 * Ascending. */
	int (*segment)(void *ctx, uint64_t segment, const void *bytes, struct err *err);
	/* Instead of it, where that is not NULL: only segments of which the image's own file holds something, be it zeros, and of
	 * their bytes only `own`: the others, which may be anything, are as in its backing file, and that is not opened. */
	int (*own)(void *ctx, uint64_t segment, const void *bytes, const struct sectors *own, struct err *err);
	/* Ten times a second and for each segment: bytes of the disk's address space that are done.  May be NULL. */
	int (*progress)(void *ctx, uint64_t address, uint64_t size, struct err *err);
	void *ctx;
};

/* Reads all of the image in `fd` (which stays the caller's).  Encrypted images and containers of several disks are ERR_UNSUPPORTED;
 * an image with wrong bytes or whose process failed is ERR_FORMAT or as it says; -1 with the callback's error when that failed. */
int feed_run(const struct feed *f, int fd, const char *path, struct err *err);

/* The process, for proc_start(); arg points to what it is told besides. */
struct feed_told {
	bool own;
	unsigned snapshot;
};
int feed_worker(int sock, void *shared, void *arg);
/* What feed_run() starts: tests put a liar in its place, and feed_worker back. */
extern int (*feed_process)(int sock, void *shared, void *arg);

/* What it shares: a ring of segments, so that it reads ahead while the last ones are dealt with.  It says WORKER_IMAGE (of which
 * only the size counts), then WORKER_FRAME for each slot that is full, which it gets back by WORKER_FREE. */
#define FEED_SLOTS 4
struct feed_shared {
	uint8_t bytes[FEED_SLOTS][SEGMENT_SIZE];
	struct sectors own[FEED_SLOTS];
	_Atomic uint64_t segments[FEED_SLOTS]; /* their numbers */
	_Atomic uint64_t bytes_read, address;
	struct image_snapshot snapshot; /* when WORKER_IMAGE is said */
};

#endif
