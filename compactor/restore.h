/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_RESTORE_H
#define DEDUPSCAN_RESTORE_H

#include "compactor/pool/pool.h"
#include "compactor/writer.h"
#include "scanner/base/schedule.h"

/* Restoring: a disk of a pool becomes an image of any format that we write. */

struct restore_options {
	const struct writer_format *format;
	struct writer_options how;
	struct stopper *stopper;
	/* Bytes of the disk's address space; may be NULL. */
	void (*progress)(void *ctx, uint64_t done, uint64_t total);
	void *ctx;
};

/* Writes the disk that a root stands for to dirfd/name, where nothing may be (ERR_REFUSED): beside it first, synced, renamed.  Every byte
 * was proven by its digest before it was written. */
int restore_disk(struct pool *p, const uint8_t root[DIGEST_SIZE], uint64_t size, int dirfd, const char *name, const struct restore_options *o,
		 struct err *err);

#endif
