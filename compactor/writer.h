/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_WRITER_H
#define DEDUPSCAN_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "scanner/base/cleanup.h"
#include "scanner/base/err.h"

/* Writers of disk images: a new file of a format, from guest bytes that come in order.  What is never put, and what is all zeros,
 * reads as zeros and takes no space.  One file per format, like the readers.
 *
 * Left out: VMDK of several files (monolithicFlat), for there is one descriptor here, and stream-optimized, for nothing compresses
 * here. */

#define WRITER_SECTOR 512
#define WRITER_ALIGN 4096 /* guest bytes keep their place in such a block, but for smaller clusters, so that files can share them */
#define WRITER_TABLE_MAX ((uint64_t)64 << 20) /* bytes of a table that is held in memory */

struct writer;

struct writer_options {
	uint64_t cluster_size; /* qcow2 cluster, VMDK grain, VHD or VHDX block; 0 = the format's default */
	const char *kind;      /* one of the format's; NULL = its default */
};

struct writer_format {
	const char *name;	  /* "qcow2", as --format */
	const char *const *kinds; /* "3", "2", NULL; the default first.  NULL = it has none */
	size_t instance;	  /* bytes of its subclass of struct writer */
	uint64_t unit;		  /* disks are multiples of it, a power of two */
	uint64_t size_min, size_max;
	uint64_t cluster_min, cluster_max; /* powers of two; 0 = it has no clusters */

	/* Of a disk whose size, kind and cluster size (0: to be set) are within the bounds above.  file_end is to be set. */
	int (*begin)(struct writer *w, struct err *err);
	/* Where in the file the bytes at `offset` of the disk go, and how many from there on lie together.  Offsets ascend; a
	 * cluster is placed only when there is something to write to it. */
	int (*place)(struct writer *w, uint64_t offset, uint64_t *ret_at, uint64_t *ret_len, struct err *err);
	/* Tables, headers, footers; file_end is then the file's size. */
	int (*end)(struct writer *w, struct err *err);
	void (*release)(struct writer *w); /* NULL = there is nothing to release */
};

struct writer {
	const struct writer_format *format;
	int fd;		/* the caller's */
	uint64_t size;	/* of the disk: what was asked for, rounded up to the format's unit */
	char name[256]; /* of the file */
	unsigned kind;	/* index of format->kinds */
	uint64_t cluster_size;
	uint64_t file_end; /* where the next cluster goes */
	uint64_t next;	   /* what was put ends here */
};

extern const struct writer_format writer_raw, writer_qcow2, writer_vmdk, writer_vhd, writer_vhdx;
extern const struct writer_format *const writer_formats[]; /* these, NULL */
const struct writer_format *writer_format_by_name(const char *name);

/* For an empty file open for writing, and a disk of `size` bytes; `name` is the file's base name, for formats that say it.
 * ERR_UNSUPPORTED: sizes and options that the format cannot have. */
struct writer *writer_new(const struct writer_format *format, int fd, const char *name, uint64_t size,
			  const struct writer_options *o, struct err *err);
/* len bytes at offset; both are multiples of 512, offsets ascend; not behind the disk's end rounded up to 512.  Best called with a
 * MiB or more: nothing is gathered from several calls.  After a failure the file is to be thrown away. */
int writer_put(struct writer *w, uint64_t offset, const void *buf, size_t len, struct err *err);
/* Completes the file; what remains to be done is to sync it.  To be called once. */
int writer_end(struct writer *w, struct err *err);
void writer_free(struct writer *w);
CLEANUP_DEFINE(struct writer *, writer_free)

/* ---- for the formats ---- */

/* Writes a table to where nothing is yet; blocks of zeros stay holes. */
int writer_write_table(struct writer *w, const void *table, size_t len, uint64_t at, struct err *err);

/* A random GUID, with the first three groups little-endian or not: what makes this file another than all others. */
int writer_make_guid(uint8_t ret[16], bool little, struct err *err);

#endif
