/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_RESTORE_H
#define DEDUPSCAN_RESTORE_H

#include "compactor/pool/pool.h"
#include "compactor/writer.h"
#include "scanner/base/schedule.h"

/* Restoring: a disk of a pool becomes an image of any format that we write. */

struct restore_options {
	const struct writer_format *format;
	struct writer_options how; /* but for create() */
	struct stopper *stopper;   /* may be NULL, as what follows */
	/* Bytes of data; total 0 = nobody knows how long it takes (a sync). */
	void (*progress)(void *ctx, const char *stage, uint64_t done, uint64_t total);
	/* A file was removed that a restore left which was killed. */
	void (*removed)(void *ctx, const char *name);
	void *ctx;
};

/* Writes the disk that a root stands for to dirfd/name, where nothing may be (ERR_USAGE), nor where other files of the image are
 * to be: beside it first, synced, renamed, the image's own file last.  Every byte was proven by its digest before it was written.
 * ERR_BUSY while another process does the same. */
int restore_disk(struct pool *p, const uint8_t root[DIGEST_SIZE], uint64_t size, int dirfd, const char *name,
		 const struct restore_options *o, struct err *err);

#endif
