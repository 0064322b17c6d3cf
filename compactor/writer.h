/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_WRITER_H
#define DEDUPSCAN_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "compactor/writer_pack.h"
#include "scanner/base/cleanup.h"
#include "scanner/base/err.h"

/* Writers of disk images: a new image of a format, from guest bytes that come in order.  What is never put, and what is all zeros,
 * reads as zeros and takes no space.  One file per format, like the readers; what a format knows several of are its kinds.
 *
 * An image lies in one file, but for some kinds of VMDK, which have it described there and its bytes in others beside it. */

#define WRITER_SECTOR 512
#define WRITER_ALIGN 4096 /* guest bytes keep their place in such a block, but for smaller clusters, so that files can share them */
#define WRITER_TABLE_MAX ((uint64_t)64 << 20) /* bytes of a table that is held in memory */

struct writer;

struct writer_options {
	uint64_t cluster_size; /* qcow2 cluster, VMDK grain, VHD or VHDX block; 0 = the format's default */
	const char *kind;      /* one of the format's; NULL = its default */

	/* Creates `name`, another file of the image, empty and open for writing.  The descriptor stays the caller's; the file is
	 * complete when the next one is created, or the image is.  NULL: kinds that need it are ERR_UNSUPPORTED. */
	int (*create)(void *ctx, const char *name, struct err *err);
	void *ctx;
};

/* Where bytes of the disk go, and how many from there on lie together. */
struct writer_place {
	int fd;
	uint64_t at, len;
};

/* A kind of a format. */
struct writer_format {
	const char *name; /* "qcow2", as --format */
	const char *kind; /* "dynamic", as --kind; NULL = there are no kinds */
	size_t instance;  /* bytes of its subclass of struct writer */
	uint64_t unit;	  /* disks are multiples of it, a power of two */
	uint64_t size_min, size_max;
	uint64_t cluster_min, cluster_max; /* powers of two; 0 = it has no clusters */

	/* Of a disk whose size and cluster size (0: to be set) are within the bounds above.  file_end is to be set. */
	int (*begin)(struct writer *w, struct err *err);
	/* Where the bytes at `offset` of the disk go.  Offsets ascend; a cluster is placed only when there is something to write to
	 * it.  ret->fd is w->fd to begin with. */
	int (*place)(struct writer *w, uint64_t offset, struct writer_place *ret, struct err *err);
	/* A cluster was compressed to len bytes: less than it has, but for formats without place(), whose clusters all are.  Those
	 * that do not become smaller are placed. */
	int (*add)(struct writer *w, uint64_t offset, const void *packed, size_t len, struct err *err);
	enum pack_method method; /* PACK_NOTHING: add() is never called */
	/* Tables, headers, footers; file_end is then the size of the image's own file. */
	int (*end)(struct writer *w, struct err *err);
	void (*release)(struct writer *w); /* NULL = there is nothing to release */
};

struct writer {
	const struct writer_format *format;
	int fd;		/* the caller's */
	uint64_t size;	/* of the disk: what was asked for, rounded up to the format's unit */
	char name[256]; /* of the file */
	uint64_t cluster_size;
	uint64_t file_end; /* where the next cluster goes */
	uint64_t next;	   /* what was put ends here */
	uint64_t part_size; /* bytes of the disk in each file of its own; 0 = there is one file */
	struct packer *packer; /* NULL = nothing is compressed */

	int (*create)(void *ctx, const char *name, struct err *err);
	void *ctx;
};

extern const struct writer_format writer_raw, writer_qcow2, writer_qcow2_old, writer_qcow2_zlib, writer_qcow2_zstd, writer_vmdk,
	writer_vmdk_flat, writer_vmdk_split, writer_vmdk_split_flat, writer_vmdk_stream, writer_vhd, writer_vhd_fixed, writer_vhdx,
	writer_vhdx_fixed;
extern const struct writer_format *const writer_formats[]; /* these, NULL; of a format the default kind comes first */
/* The default kind, or NULL. */
const struct writer_format *writer_format_by_name(const char *name);

/* For an empty file open for writing, and a disk of `size` bytes; `name` is the file's base name, for formats that say it.
 * `format` may be any kind of it.  ERR_USAGE: kinds and cluster sizes that it has not;
 * ERR_UNSUPPORTED: disks that it cannot have. */
struct writer *writer_new(const struct writer_format *format, int fd, const char *name, uint64_t size,
			  const struct writer_options *o, struct err *err);
/* len bytes at offset; both are multiples of 512, offsets ascend; not behind the disk's end rounded up to 512.  Best called with a
 * MiB or more: but for compression, nothing is gathered from several calls.  After a failure the files are to be thrown away. */
int writer_put(struct writer *w, uint64_t offset, const void *buf, size_t len, struct err *err);
/* Completes the files; what remains to be done is to sync them.  To be called once. */
int writer_end(struct writer *w, struct err *err);
void writer_free(struct writer *w);
CLEANUP_DEFINE(struct writer *, writer_free)

/* ---- for the formats ---- */

/* Writes a table to where nothing is yet; blocks of zeros stay holes. */
int writer_write_table(int fd, const void *table, size_t len, uint64_t at, struct err *err);

/* A random GUID, with the first three groups little-endian or not: what makes this file another than all others. */
int writer_make_guid(uint8_t ret[16], bool little, struct err *err);

#endif
