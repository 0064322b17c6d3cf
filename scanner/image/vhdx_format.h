/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_VHDX_FORMAT_H
#define DEDUPSCAN_VHDX_FORMAT_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "scanner/base/bytes.h"
#include "scanner/base/err.h"
#include "scanner/image/guid.h"
#include "scanner/image/image.h"

/* The VHDX format on disk, after [MS-VHDX] "Virtual Hard Disk v2 (VHDX) File Format", revision of 2024-04-23.
 *
 *	0	64K	    128K	192K		256K		320K	1M
 *	| ident | header 1 | header 2 | region table 1 | region table 2 |	| log, BAT, metadata, blocks anywhere
 *
 * All that lies behind the first MiB is placed and sized in whole MiB.  Everything but the headers and the payload is
 * updated through the log. */

#define VHDX_SIGNATURE "vhdxfile"
#define VHDX_UNIT ((uint64_t)1 << 20) /* what all offsets are multiples of */

struct vhdx_guid {
	uint8_t b[16]; /* the first three groups little-endian */
};
#define VHDX_GUID(a, b, c, d, e)                                                                                       \
	{                                                                                                              \
		{                                                                                                      \
			(a) & 0xff, (a) >> 8 & 0xff, (a) >> 16 & 0xff, (a) >> 24, (b)&0xff, (b) >> 8, (c)&0xff,        \
				(c) >> 8, (d) >> 8, (d)&0xff, (e) >> 40 & 0xff, (e) >> 32 & 0xff, (e) >> 24 & 0xff,    \
				(e) >> 16 & 0xff, (e) >> 8 & 0xff, (e)&0xff                                            \
		}                                                                                                      \
	}

/* ---- headers ---- */

#define VHDX_HEADER_1 ((uint64_t)64 << 10)
#define VHDX_HEADER_2 ((uint64_t)128 << 10)
#define VHDX_HEADER_SIZE 4096
#define VHDX_HEADER_SIGNATURE "head"

struct vhdx_header_disk {
	uint8_t signature[4]; /* "head" */
	le32 checksum;	      /* CRC-32C over the 4 KiB, this field taken as 0 */
	le64 sequence;	      /* of two valid headers the one with the greater number is current */
	struct vhdx_guid file_write, data_write;
	struct vhdx_guid log; /* of the entries to replay; zero = nothing to replay */
	le16 log_version;     /* 0 */
	le16 version;	      /* 1 */
	le32 log_length;      /* whole MiB */
	le64 log_offset;      /* whole MiB */
	uint8_t reserved[4016];
};
static_assert(sizeof(struct vhdx_header_disk) == VHDX_HEADER_SIZE, "VHDX header");

/* ---- region table ---- */

#define VHDX_REGIONS_1 ((uint64_t)192 << 10)
#define VHDX_REGIONS_2 ((uint64_t)256 << 10)
#define VHDX_TABLE_SIZE ((size_t)64 << 10) /* region table, and metadata table too */
#define VHDX_REGIONS_SIGNATURE "regi"
#define VHDX_ENTRIES_MAX 2047 /* of either table */

struct vhdx_regions_disk {
	uint8_t signature[4]; /* "regi" */
	le32 checksum;	      /* CRC-32C over the 64 KiB, this field taken as 0 */
	le32 nr_entries;      /* at most 2047; they follow at once */
	le32 reserved;
};
static_assert(sizeof(struct vhdx_regions_disk) == 16, "VHDX region table header");

struct vhdx_region_disk {
	struct vhdx_guid guid;
	le64 offset; /* whole MiB, at least 1 */
	le32 length; /* whole MiB */
	le32 flags;  /* bit 0: refuse the file if this region is not known */
};
static_assert(sizeof(struct vhdx_region_disk) == 32, "VHDX region table entry");

#define VHDX_REQUIRED 1u

/* ---- metadata region ---- */

#define VHDX_METADATA_SIGNATURE "metadata"

struct vhdx_metadata_disk {
	uint8_t signature[8]; /* "metadata" */
	uint8_t reserved[2];
	le16 nr_entries; /* at most 2047; they follow at once */
	uint8_t reserved2[20];
};
static_assert(sizeof(struct vhdx_metadata_disk) == 32, "VHDX metadata table header");

struct vhdx_item_disk {
	struct vhdx_guid guid;
	le32 offset; /* from the beginning of the region, at least 64 KiB; 0 if the length is 0 */
	le32 length; /* at most 1 MiB */
	le32 flags;
	le32 reserved;
};
static_assert(sizeof(struct vhdx_item_disk) == 32, "VHDX metadata table entry");

#define VHDX_ITEM_USER 1u
#define VHDX_ITEM_VIRTUAL_DISK 2u
#define VHDX_ITEM_REQUIRED 4u
#define VHDX_ITEM_MAX ((uint32_t)1 << 20)
#define VHDX_USER_ITEMS_MAX 1024

struct vhdx_parameters_disk {
	le32 block_size; /* 1 MiB to 256 MiB, a power of two */
	le32 flags;
};
static_assert(sizeof(struct vhdx_parameters_disk) == 8, "VHDX file parameters");

#define VHDX_LEAVE_BLOCKS_ALLOCATED 1u /* a fixed image, unless it has a parent */
#define VHDX_HAS_PARENT 2u

#define VHDX_BLOCK_SIZE_MIN ((uint32_t)1 << 20)
#define VHDX_BLOCK_SIZE_MAX ((uint32_t)256 << 20)
#define VHDX_DISK_SIZE_MAX ((uint64_t)64 << 40)

struct vhdx_locator_disk {
	struct vhdx_guid type;
	le16 reserved;
	le16 nr_pairs; /* they follow at once */
};
static_assert(sizeof(struct vhdx_locator_disk) == 20, "VHDX parent locator header");

struct vhdx_pair_disk {
	le32 key_offset, value_offset; /* in the metadata item, never 0 */
	le16 key_length, value_length; /* in bytes, never 0; UTF-16, little-endian, without a final zero */
};
static_assert(sizeof(struct vhdx_pair_disk) == 12, "VHDX parent locator entry");

/* ---- BAT ---- */

/* An array of le64: bits 0-2 state, bits 20-63 file offset, the bits between zero.  Behind the entries of each chunk of
 * payload blocks, which together have 2^23 sectors, stands the entry of the chunk's sector bitmap. */
#define VHDX_BAT_STATE 7u
#define VHDX_BAT_RESERVED 0x00000000000ffff8u
#define VHDX_BAT_OFFSET 0xfffffffffff00000u

enum vhdx_payload_state {
	VHDX_NOT_PRESENT, /* nothing, or what the parent has */
	VHDX_UNDEFINED,	  /* anything; read as zeros here, as QEMU does, and so the next two */
	VHDX_ZERO,
	VHDX_UNMAPPED,
	VHDX_UNMAPPED_095 = 5, /* the same in version 0.95 of the specification; reserved since */
	VHDX_FULLY_PRESENT = 6,
	VHDX_PARTIALLY_PRESENT = 7, /* the sector bitmap tells which sectors; the others are the parent's */
};
#define VHDX_BITMAP_NOT_PRESENT 0u
#define VHDX_BITMAP_PRESENT 6u

#define VHDX_BITMAP_SIZE VHDX_UNIT			    /* of a sector bitmap block ... */
#define VHDX_CHUNK_SECTORS ((uint64_t)VHDX_BITMAP_SIZE * 8) /* ... and what it has bits for */

/* ---- log ---- */

/* A ring of 4 KiB sectors.  An entry is a header with its descriptors, 126 in the first sector and 128 in each that
 * follows, and then one data sector for each data descriptor, in their order. */
#define VHDX_LOG_SECTOR 4096u
#define VHDX_LOG_ENTRY_SIGNATURE "loge"
#define VHDX_LOG_ZERO_SIGNATURE "zero"
#define VHDX_LOG_DESC_SIGNATURE "desc"
#define VHDX_LOG_DATA_SIGNATURE "data"

struct vhdx_log_entry_disk {
	uint8_t signature[4]; /* "loge" */
	le32 checksum;	      /* CRC-32C over the entry, this field taken as 0 */
	le32 length;	      /* of the entry, whole sectors */
	le32 tail;	      /* where in the log the oldest entry lies that must be replayed with this one */
	le64 sequence;	      /* never 0; one greater than that of the entry before */
	le32 nr_descriptors;
	le32 reserved;
	struct vhdx_guid log;
	le64 flushed_file_offset; /* the file must have this size at least, or it was cut */
	le64 last_file_offset;	  /* what the file's size must be made, at least */
};
static_assert(sizeof(struct vhdx_log_entry_disk) == 64, "VHDX log entry header");

struct vhdx_log_descriptor_disk {
	uint8_t signature[4]; /* "zero" or "desc" */
	uint8_t trailing[4];  /* desc: the last 4 bytes of the sector to write */
	union {
		le64 zero_length;   /* zero: bytes to write zeros to, whole sectors */
		uint8_t leading[8]; /* desc: the first 8 bytes of the sector to write */
	};
	le64 file_offset; /* whole sectors */
	le64 sequence;	  /* of the entry */
};
static_assert(sizeof(struct vhdx_log_descriptor_disk) == 32, "VHDX log descriptor");

struct vhdx_log_data_disk {
	uint8_t signature[4]; /* "data" */
	le32 sequence_high;
	uint8_t data[4084]; /* bytes 8 to 4091 of the sector to write */
	le32 sequence_low;
};
static_assert(sizeof(struct vhdx_log_data_disk) == VHDX_LOG_SECTOR, "VHDX log data sector");

#define VHDX_LOG_DESCRIPTORS_FIRST 126
#define VHDX_LOG_DESCRIPTORS 128

/* ---- decoded (vhdx_header.c) ---- */

struct vhdx_range {
	uint64_t begin, end; /* offsets in the file */
};

struct vhdx_header {
	uint64_t sequence;
	struct vhdx_guid data_write, log;
	struct vhdx_range log_range;
};

/* What lies behind the headers and is no block: sorted, without overlaps, the header section and the log included. */
struct vhdx_regions {
	struct vhdx_range all[VHDX_ENTRIES_MAX + 2];
	unsigned nr;
	struct vhdx_range bat, metadata;
};

enum vhdx_item_kind {
	VHDX_PARAMETERS,
	VHDX_DISK_SIZE,
	VHDX_DISK_ID,
	VHDX_LOGICAL_SECTOR,
	VHDX_PHYSICAL_SECTOR,
	VHDX_PARENT_LOCATOR,
	VHDX_NR_ITEMS
};

struct vhdx_item {
	uint32_t offset, length; /* in the metadata region; length 0 = not there */
};

struct vhdx_disk {
	uint64_t size;
	uint32_t block_size, logical_sector, physical_sector;
	bool fixed, has_parent; /* with a parent `fixed` means nothing */
};

struct vhdx_parent {
	char id[GUID_TEXT]; /* what the parent's data_write must be */
	char name[IMAGE_NAME_MAX];
};

extern const struct vhdx_guid vhdx_guid_bat, vhdx_guid_metadata, vhdx_guid_locator, vhdx_guid_items[VHDX_NR_ITEMS];

bool vhdx_guid_equal(const struct vhdx_guid *a, const struct vhdx_guid *b);

/* The checksum of a header, region table or log entry, which in all of them is the second le32; for those that come in
 * pieces, of the first piece: crc32c() goes on with the others. */
uint32_t vhdx_checksum(const uint8_t *p, size_t len);

/* Finds the current one of the two headers, of VHDX_HEADER_SIZE bytes each, and checks it. */
int vhdx_header_decode(const uint8_t *first, const uint8_t *second, struct vhdx_header *ret, struct err *err);

/* Whether a region table (VHDX_TABLE_SIZE bytes) is one: the first of the two that is counts. */
bool vhdx_regions_valid(const uint8_t *p);

/* Decodes such a table. */
int vhdx_regions_decode(const uint8_t *p, const struct vhdx_header *h, struct vhdx_regions *ret, struct err *err);

/* Whether [begin, end) meets none of the regions. */
bool vhdx_regions_spare(const struct vhdx_regions *regions, uint64_t begin, uint64_t end);

/* Finds the known items in the metadata table (VHDX_TABLE_SIZE bytes) of a region of `size` bytes. */
int vhdx_items_decode(const uint8_t *p, uint64_t size, struct vhdx_item ret[VHDX_NR_ITEMS], struct err *err);

/* Decodes the file parameters, the disk's size and its sectors' sizes, as the items have them. */
int vhdx_disk_decode(const struct vhdx_parameters_disk *parameters, le64 size, le32 logical, le32 physical,
		     struct vhdx_disk *ret, struct err *err);

/* Decodes a parent locator. */
int vhdx_parent_decode(const uint8_t *p, size_t len, struct vhdx_parent *ret, struct err *err);

/* ---- the log, replayed in memory (vhdx_log.c) ---- */

/* A range of the file that the log overwrites. */
struct vhdx_update {
	uint64_t begin, end;
	uint32_t sector; /* of the log, with the data; VHDX_LOG_ZEROS = none, they are zeros */
	uint8_t trailing[4], leading[8];
};
#define VHDX_LOG_ZEROS UINT32_MAX

/* What the log makes of the file; zeroed, but for file_size, when there is nothing to replay. */
struct vhdx_log {
	struct vhdx_update *updates; /* sorted, without overlaps */
	size_t nr_updates;
	unsigned nr_entries; /* that were replayed */
	uint64_t offset;     /* of the log */
	uint64_t file_size;  /* that of the file, or what the log makes it; what lies between is zeros */
};

/* Finds the active sequence of the log of a file whose current header is `h` and notes what it writes, without
 * writing.  ERR_FORMAT when there is something to replay but no valid sequence. */
int vhdx_log_replay(const struct image_file *f, const struct vhdx_header *h, struct vhdx_log *ret, struct err *err);

void vhdx_log_release(struct vhdx_log *log);

/* The update that holds `offset`, or else the first one behind it; NULL = none. */
const struct vhdx_update *vhdx_log_find(const struct vhdx_log *log, uint64_t offset);

/* Reads what the file holds once the log is replayed; past log->file_size is ERR_FORMAT. */
int vhdx_log_read(const struct image_file *f, const struct vhdx_log *log, void *buf, size_t len, uint64_t offset,
		  struct err *err);

#endif
