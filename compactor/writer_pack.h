/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_WRITER_PACK_H
#define DEDUPSCAN_WRITER_PACK_H

#include <stddef.h>
#include <stdint.h>

#include "scanner/base/cleanup.h"
#include "scanner/base/err.h"

/* Compresses clusters for the writers of images, on all processors.
 *
 * Bytes come in order and are gathered; what is not put is zeros.  Clusters are told in order, whole; those of zeros are not.  A
 * compressed one was decompressed and compared before it is told: ERR_IO where it differs. */

enum pack_method {
	PACK_NOTHING,
	PACK_ZLIB, /* with header and checksum, as in VMDK */
	PACK_DEFLATE, /* without, and with a small window, as in qcow2 */
	PACK_ZSTD,
};

struct packer_options {
	enum pack_method method;
	const char *name; /* of the image, for errors */
	size_t cluster_size;
	size_t room; /* a cluster that becomes longer is told as it is */

	/* `packed` has len bytes; len 0 = it would be longer than `room`. */
	int (*take)(void *ctx, uint64_t offset, const void *cluster, const void *packed, size_t len, struct err *err);
	void *ctx;
};

struct packer;
struct packer *packer_new(const struct packer_options *o, struct err *err);
int packer_put(struct packer *p, uint64_t offset, const void *buf, size_t len, struct err *err);
/* Tells what is gathered. */
int packer_flush(struct packer *p, struct err *err);
void packer_free(struct packer *p);
CLEANUP_DEFINE(struct packer *, packer_free)

#endif
