/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_VHD_FORMAT_H
#define DEDUPSCAN_VHD_FORMAT_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "scanner/base/bytes.h"
#include "scanner/base/err.h"

/* The VHD format on disk, after "Virtual Hard Disk Image Format Specification", version 1.0 (Microsoft, 2006).
 *
 *	fixed		| the disk | footer |
 *	dynamic,	| copy of the footer | header | block allocation table | blocks | footer |
 *	differencing	  a block: | bitmap of its sectors | its data |
 *
 * In a dynamic disk a bit that is clear says that its sector was never written: it "must contain 512 bytes of zero on
 * disk", and programs may or may not read it.  In a differencing disk it says that the sector is the parent's. */

#define VHD_SECTOR 512
#define VHD_FOOTER_SIZE 512
#define VHD_OLD_FOOTER_SIZE 511 /* before Virtual PC 2004 */
#define VHD_HEADER_SIZE 1024
#define VHD_FOOTER_COOKIE "conectix"
#define VHD_HEADER_COOKIE "cxsparse"

struct vhd_footer_disk {
	uint8_t cookie[8];     /* "conectix" */
	be32 features;	       /* VHD_TEMPORARY, VHD_RESERVED */
	be32 version;	       /* major and minor, 16 bits each: 1.0 */
	be64 header_offset;    /* of the header, from the beginning of the file; of no meaning in a fixed disk */
	be32 time;	       /* seconds since 2000-01-01 UTC */
	uint8_t creator[4];    /* application, left-justified text */
	be32 creator_version;  /* major and minor */
	uint8_t creator_os[4]; /* "Wi2k", "Mac " */
	be64 original_size;    /* bytes of the disk when it was made */
	be64 current_size;     /* bytes of the disk now */
	be16 cylinders;
	uint8_t heads;
	uint8_t sectors; /* per track */
	be32 type;	 /* enum vhd_type */
	be32 checksum;	 /* one's complement of the sum of all bytes of the footer but these */
	uint8_t id[16];	 /* UUID, big-endian */
	uint8_t saved_state;
	uint8_t reserved[427];
};
static_assert(sizeof(struct vhd_footer_disk) == VHD_FOOTER_SIZE, "VHD footer");

#define VHD_TEMPORARY ((uint32_t)1) /* may be deleted on shutdown */
#define VHD_RESERVED ((uint32_t)2)  /* always set */
#define VHD_TIME_BASE 946684800	    /* 2000-01-01 in seconds since 1970 */

/* The largest geometry that can be told; such a disk is as large as current_size says. */
#define VHD_GEOMETRY_MAX ((uint64_t)65535 * 16 * 255)

enum vhd_type { VHD_FIXED = 2, VHD_DYNAMIC = 3, VHD_DIFFERENCING = 4 };

struct vhd_locator_disk {
	be32 platform; /* enum vhd_platform; 0 = none */
	be32 space;    /* room for the data: sectors, says the specification; Virtual PC writes bytes */
	be32 length;   /* bytes of the data */
	be32 reserved;
	be64 offset; /* of the data, from the beginning of the file */
};
static_assert(sizeof(struct vhd_locator_disk) == 24, "VHD parent locator");

/* What is read here; besides there are Wi2r and Wi2k (deprecated) and Mac (an alias as a blob). */
enum vhd_platform {
	VHD_W2RU = 0x57327275, /* Windows path relative to this file, UTF-16 little-endian */
	VHD_W2KU = 0x57326b75, /* absolute Windows path, the same */
	VHD_MACX = 0x4d616358, /* file URL, UTF-8 */
};

#define VHD_NR_LOCATORS 8
#define VHD_LOCATOR_MAX 4096 /* bytes of data that are read */

struct vhd_header_disk {
	uint8_t cookie[8];  /* "cxsparse" */
	be64 data_offset;   /* unused, all ones */
	be64 table_offset;  /* of the block allocation table, from the beginning of the file */
	be32 version;	    /* major and minor: 1.0 */
	be32 table_entries; /* in the table; blocks of the disk */
	be32 block_size;    /* bytes of data, a power of two of sectors, 2 MiB by default */
	be32 checksum;	    /* as in the footer */
	uint8_t parent_id[16];
	be32 parent_time; /* when the parent was modified, seconds since 2000-01-01 UTC */
	be32 reserved;
	uint8_t parent_name[512]; /* UTF-16 big-endian */
	struct vhd_locator_disk locators[VHD_NR_LOCATORS];
	uint8_t reserved2[256];
};
static_assert(sizeof(struct vhd_header_disk) == VHD_HEADER_SIZE, "VHD dynamic disk header");

/* An entry of the block allocation table: the sector of the file where the bitmap begins. */
#define VHD_NO_BLOCK UINT32_MAX

struct vhd_footer {
	enum vhd_type type;
	uint32_t features;
	uint64_t header_offset; /* 0 in a fixed disk */
	uint64_t size;		/* bytes that the guest sees: the geometry's or current_size, as QEMU decides */
	uint64_t current_size;	/* whole sectors */
	uint8_t id[16];
	bool saved_state;
};

struct vhd_locator {
	uint32_t platform, length;
	uint64_t offset;
};

struct vhd_header {
	uint64_t table_offset;
	uint32_t nr_blocks;
	uint32_t block_size;
	uint32_t bitmap_size; /* bytes of a sector bitmap, whole sectors; QEMU takes blocks below 4 KiB to have none */
	uint32_t parent_time;
	uint8_t parent_id[16];
	uint8_t parent_name[512]; /* as on disk: vhd_parent_name() */
	struct vhd_locator locators[VHD_NR_LOCATORS];
};

/* The checksum of len bytes, in which it is stored at offset `at` itself. */
uint32_t vhd_checksum(const uint8_t *p, size_t len, size_t at);

/* Finds the footer in the last 512 bytes of a file by its cookie: 511 bytes are made whole.  Returns its length in the
 * file, 0 = there is none. */
size_t vhd_footer_find(const uint8_t tail[VHD_FOOTER_SIZE], uint8_t ret[VHD_FOOTER_SIZE]);

/* Checksum, version and type are checked.  ERR_FORMAT: broken; ERR_UNSUPPORTED: whole, but nothing we know. */
int vhd_footer_decode(const uint8_t p[VHD_FOOTER_SIZE], struct vhd_footer *ret, struct err *err);

/* Fields are checked by themselves; that they fit the file is checked by the reader. */
int vhd_header_decode(const uint8_t p[VHD_HEADER_SIZE], struct vhd_header *ret, struct err *err);

/* The parent's name as a path on this system, UTF-8: from the data of a locator, or from the header.  Backslashes
 * become slashes, and of absolute Windows paths only the last part is left: such a parent is looked for beside the
 * image. */
int vhd_locator_path(uint32_t platform, const uint8_t *p, size_t len, char *ret, size_t room, struct err *err);
int vhd_parent_name(const struct vhd_header *h, char *ret, size_t room, struct err *err);

#endif
