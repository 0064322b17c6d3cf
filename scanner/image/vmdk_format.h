/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_VMDK_FORMAT_H
#define DEDUPSCAN_VMDK_FORMAT_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "scanner/base/bytes.h"
#include "scanner/base/cleanup.h"
#include "scanner/base/err.h"
#include "scanner/base/vec.h"

/* The VMDK format on disk, after VMware's "Virtual Disk Format 5.0" and, where that is silent, the documentation of
 * libvmdk (libyal).
 *
 *	descriptor (text) -> extents: flat files, sparse files, ranges of zeros
 *	sparse extent: header -> [descriptor]
 *		       -> grain directory -> grain tables -> grains
 *		       -> redundant grain directory -> copies of the grain tables -> the same grains
 *	stream-optimized: the same with a marker before each grain and table, which come as they were written; the
 *	grain directory is last, and a copy of the header behind it, the footer, says where it is
 *
 * All offsets and sizes on disk are in sectors of 512 bytes. */

#define VMDK_MAGIC "KDMV"
#define VMDK_COWD_MAGIC "COWD"			       /* vmfsSparse: redo logs of ESXi up to VMFS 5 */
#define VMDK_SESPARSE_MAGIC "\xbe\xba\xfe\xca\0\0\0\0" /* seSparse: snapshots of ESXi on VMFS 6 */
#define VMDK_DESCRIPTOR_MAGIC "# Disk DescriptorFile"  /* first line of a descriptor, in any case of letters */

#define VMDK_SECTOR ((uint64_t)512)
#define VMDK_SECTORS_MAX ((uint64_t)INT64_MAX / VMDK_SECTOR)

struct vmdk_header_disk {
	uint8_t magic[4];	/* "KDMV" */
	le32 version;		/* 1; 2 = may have zeroed grains; 3 = has had changed block tracking */
	le32 flags;		/* below */
	le64 capacity;		/* of the extent; 0 = it holds a descriptor and no data */
	le64 grain_size;	/* a power of two */
	le64 descriptor_offset; /* 0 = has none: the extent is one of several */
	le64 descriptor_size;	/* the text ends earlier at a zero byte */
	le32 nr_gtes;		/* entries of a grain table, 512 */
	le64 rgd_offset;	/* redundant grain directory */
	le64 gd_offset;		/* grain directory, or VMDK_GD_AT_END */
	le64 overhead;		/* before the first grain */
	uint8_t unclean;	/* 1 = open, or not closed properly */
	uint8_t newlines[4];	/* VMDK_NEWLINES, to notice text-mode transfers */
	le16 compression;	/* 0 none, 1 deflate */
	uint8_t padding[433];
};
static_assert(sizeof(struct vmdk_header_disk) == 512, "VMDK sparse extent header");
static_assert(offsetof(struct vmdk_header_disk, gd_offset) == 56, "VMDK sparse extent header");
static_assert(offsetof(struct vmdk_header_disk, compression) == 77, "VMDK sparse extent header");

#define VMDK_GD_AT_END UINT64_MAX
#define VMDK_NEWLINES "\n \r\n"

/* flags; readers must know those of the upper half */
#define VMDK_HAS_NEWLINES (1u << 0)  /* the field newlines is valid */
#define VMDK_HAS_REDUNDANT (1u << 1) /* the redundant grain directory is valid */
#define VMDK_HAS_ZEROED (1u << 2)    /* a grain table entry of 1 stands for a grain of zeros */
#define VMDK_COMPRESSED (1u << 16)
#define VMDK_MARKERS (1u << 17)
#define VMDK_FLAGS_NEEDED (0xffffu << 16)
#define VMDK_FLAGS_KNOWN (VMDK_COMPRESSED | VMDK_MARKERS)

/* Before each compressed grain; size 0 = metadata, whose kind then follows. */
struct vmdk_marker_disk {
	le64 value; /* of a grain: its first sector in the extent; of metadata: sectors that follow */
	le32 size;  /* of the compressed bytes that follow */
};
static_assert(sizeof(struct vmdk_marker_disk) == 12, "VMDK grain marker");

struct vmdk_metadata_marker_disk {
	struct vmdk_marker_disk marker;
	le32 type;
	uint8_t padding[496];
};
static_assert(sizeof(struct vmdk_metadata_marker_disk) == 512, "VMDK metadata marker");

enum vmdk_marker { VMDK_MARKER_END, VMDK_MARKER_GT, VMDK_MARKER_GD, VMDK_MARKER_FOOTER };

/* How a stream ends. */
struct vmdk_footer_disk {
	struct vmdk_metadata_marker_disk marker;
	struct vmdk_header_disk header;
	struct vmdk_metadata_marker_disk end;
};
static_assert(sizeof(struct vmdk_footer_disk) == 1536, "VMDK footer");

/* Grain directory and grain table entries are le32 sectors in the file; 0 = there is none. */

/* What is read; VMware itself uses grains of 64 KiB and tables of 512 entries. */
#define VMDK_GRAIN_MAX ((uint64_t)1 << 30)	  /* bytes; QEMU's limit */
#define VMDK_PACKED_GRAIN_MAX ((uint64_t)2 << 20) /* a compressed one, which must fit into memory */
#define VMDK_NR_GTES_MAX 4096
#define VMDK_NR_GDES_MAX ((uint64_t)8 << 20)	/* of all extents together */
#define VMDK_DESCRIPTOR_MAX ((uint64_t)2 << 20) /* bytes */
#define VMDK_NR_EXTENTS_MAX 8192

/* The header of a sparse extent, decoded; sizes and offsets in bytes. */
struct vmdk_header {
	unsigned version;
	uint32_t flags;
	uint64_t capacity, grain_size;
	uint64_t descriptor_offset, descriptor_size;
	uint32_t nr_gtes;
	uint64_t rgd_offset, gd_offset; /* gd_offset: or VMDK_GD_AT_END */
	uint64_t overhead;
	bool unclean, compressed;
};

/* Decodes and checks the first sector of a sparse extent.  Of one without capacity what concerns grains is not looked
 * at.  ERR_UNSUPPORTED names what is valid but not read, other kinds of sparse extents among it. */
int vmdk_header_decode(const uint8_t p[512], struct vmdk_header *ret, struct err *err);

/* Decodes the last three sectors of a stream-optimized extent, whose footer must say the same as the header but for
 * where tables are. */
int vmdk_footer_decode(const struct vmdk_footer_disk *d, const struct vmdk_header *header, struct vmdk_header *ret,
		       struct err *err);

enum vmdk_extent_kind { VMDK_FLAT, VMDK_SPARSE, VMDK_ZERO };

/* A line that describes an extent. */
struct vmdk_extent {
	enum vmdk_extent_kind kind;
	uint64_t size;	  /* bytes */
	const char *name; /* of the file; NULL for VMDK_ZERO */
	uint64_t offset;  /* VMDK_FLAT: where in the file it begins */
};

struct vmdk_descriptor {
	unsigned version;
	char cid[9], parent_cid[9]; /* 8 hex digits, "" = not said */
	const char *create_type;    /* as VMware spells it, NULL = not said */
	const char *parent_name;    /* NULL = none */
	const char *adapter;	    /* NULL = not said */
	bool change_tracking, encrypted;
	VEC(struct vmdk_extent) extents;
};
#define VMDK_DESCRIPTOR_INIT ((struct vmdk_descriptor){ .version = 0 })

#define VMDK_NO_PARENT "ffffffff" /* as parent_cid */

/* Whether text begins as a descriptor does; of a byte order mark, blank lines and comments before it nothing is
 * made. */
bool vmdk_descriptor_probe(const uint8_t *p, size_t len);

/* Parses a descriptor of len bytes, behind which is room for one more.  *ret points into the text, which is changed;
 * release it after failure too.  ERR_UNSUPPORTED names disks that are not read, those on devices among them. */
int vmdk_descriptor_parse(char *text, size_t len, struct vmdk_descriptor *ret, struct err *err);
void vmdk_descriptor_release(struct vmdk_descriptor *d);
CLEANUP_DEFINE_RELEASE(struct vmdk_descriptor, vmdk_descriptor_release)

#endif
