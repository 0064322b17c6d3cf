/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_WRITER_H
#define DEDUPSCAN_WRITER_H

#include <stdint.h>

#include "scanner/base/cleanup.h"
#include "scanner/base/err.h"

/* Writers of disk images: a new file of a format, from guest bytes that come in order.  What is never written reads as zeros and takes no
 * space, as far as the format can.  One file per format, like the readers. */

struct writer;

struct writer_options {
	uint64_t cluster_size; /* qcow2 cluster, VMDK grain, VHD or VHDX block; 0 = the format's default */
	const char *kind;      /* NULL = the default: VMDK "monolithicSparse" | "monolithicFlat" | "streamOptimized"; VHD "dynamic" |
				* "fixed"; qcow2 "3" | "2" */
};

struct writer_format {
	const char *name; /* "qcow2", as --format */
	size_t instance;  /* bytes of its subclass of struct writer */

	/* Of an empty file open for writing, and a disk of `size` bytes; `name` is the file's base name, for formats that say it.  Refuses
	 * (ERR_UNSUPPORTED) sizes and options that the format cannot have. */
	int (*begin)(struct writer *w, const struct writer_options *o, struct err *err);
	/* len bytes at offset; both are multiples of 512, offsets ascend; not behind the disk's end rounded up to 512. */
	int (*put)(struct writer *w, uint64_t offset, const void *buf, size_t len, struct err *err);
	/* Tables, headers, footers.  Not synced. */
	int (*end)(struct writer *w, struct err *err);
	void (*release)(struct writer *w);
};

struct writer {
	const struct writer_format *format;
	int fd;
	uint64_t size;
	char name[256];
};

extern const struct writer_format *const writer_formats[]; /* raw, qcow2, vmdk, vhd, vhdx, NULL */
const struct writer_format *writer_format_by_name(const char *name);

struct writer *writer_new(const struct writer_format *format, int fd, const char *name, uint64_t size, const struct writer_options *o,
			  struct err *err);
int writer_put(struct writer *w, uint64_t offset, const void *buf, size_t len, struct err *err);
int writer_end(struct writer *w, struct err *err);
void writer_free(struct writer *w);
CLEANUP_DEFINE(struct writer *, writer_free)

#endif
