/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_MAPPER_H
#define DEDUPSCAN_MAPPER_H

#include <stdbool.h>

#include "scanner/errand.h"

/* Where the data of an image lies in its files, told by a process in a jail that opens the image and walks its extents.
 *
 * Tables may claim anything, and whoever keeps the stretches pays for them: there may be no more of them than MAPPER_TIMES the
 * blocks that the files hold, and MAPPER_SPARE besides. */
#define MAPPER_TIMES 2
#define MAPPER_SPARE ((uint64_t)1 << 16)

/* A stretch of whole blocks of 4 KiB of the stored view, and where it lies. */
struct mapped {
	uint64_t address, len;
	uint64_t offset;   /* in the file, before its end; what is no multiple of 4 KiB no file system can share */
	uint64_t dev, ino; /* of the file: the image's own, or one that was told of before */
};

/* What is known of the image as a whole, after the walk. */
struct mapped_image {
	uint64_t size, span;	/* bytes */
	uint64_t misaligned;	/* bytes of data at offsets that are no multiple of 4 KiB */
	uint64_t packed;	/* bytes of compressed data, which is not mapped */
	uint64_t cluster_size;
	uint32_t encrypted, dirty, corrupt, has_backing;
	uint32_t certainty;	/* enum image_certainty */
	uint32_t nr_snapshots, nr_bitmaps;
	uint32_t pooled; /* its backing name is one of a pool */
	uint32_t vm_state; /* some internal snapshot holds the state of a running machine */
	char format[32], kind[32];
};

struct mapper {
	const struct roots *roots;
	const char *format; /* NULL = find out */
	const struct jail *jail;
	struct stopper *stopper;
	/* Stretches ascend by address and do not overlap. */
	int (*mapped)(void *ctx, const struct mapped *m, struct err *err);
	/* A file of the image besides its own; before any stretch that lies in it. */
	int (*part)(void *ctx, const char *path, int fd, struct err *err);
	void *ctx;
};

/* 1 = *ret tells, 0 = the image could not be read: `why`; -1. */
int mapper_run(const struct mapper *m, int fd, const char *path, struct mapped_image *ret, struct err *why, struct err *err);

/* The process; for proc_start(). */
int mapper_worker(int sock, void *shared, void *arg);
/* What mapper_run() starts: tests put a liar in its place, and mapper_worker back. */
extern int (*mapper_process)(int sock, void *shared, void *arg);

/* What it shares. */
#define MAPPER_AT_ONCE 4096
struct mapper_shared {
	uint32_t nr;
	struct mapped items[MAPPER_AT_ONCE];
	struct mapped_image image;
};

#endif
