/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_QCOW2_FORMAT_H
#define DEDUPSCAN_QCOW2_FORMAT_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "scanner/base/bytes.h"
#include "scanner/base/err.h"

/* The qcow2 format on disk, versions 2 and 3, after docs/interop/qcow2.rst of QEMU.
 *
 *	header -> L1 table -> L2 tables (one cluster each) -> data clusters
 *	       -> snapshot table -> L1 table of each snapshot -> L2 tables, shared where nothing changed
 *	       -> refcount table -> refcount blocks (one cluster each)
 *	       -> bitmap directory -> bitmap tables -> bitmap clusters */

#define QCOW2_MAGIC "QFI\xfb"

struct qcow2_header_disk {
	uint8_t magic[4];	    /* "QFI\xfb" */
	be32 version;		    /* 2 or 3 */
	be64 backing_file_offset;   /* of the name, which is not terminated; 0 = no backing file */
	be32 backing_file_size;	    /* bytes of the name, at most 1023 */
	be32 cluster_bits;	    /* 1 << cluster_bits is the cluster size; at least 9, QEMU takes up to 21 */
	be64 size;		    /* virtual disk size in bytes */
	be32 crypt_method;	    /* 0 none, 1 AES, 2 LUKS */
	be32 l1_size;		    /* entries in the active L1 table */
	be64 l1_table_offset;	    /* cluster aligned */
	be64 refcount_table_offset; /* cluster aligned */
	be32 refcount_table_clusters;
	be32 nb_snapshots;
	be64 snapshots_offset; /* cluster aligned */
	/* version 3 */
	be64 incompatible_features; /* an unknown bit: refuse to open */
	be64 compatible_features;   /* unknown bits can be ignored */
	be64 autoclear_features;    /* unknown bits must be cleared by writers */
	be32 refcount_order;	    /* refcounts are 1 << refcount_order bits wide; at most 6; 4 in version 2 */
	be32 header_length;	    /* at least 104, a multiple of 8 */
	/* additional fields, present when header_length is larger than their offset */
	uint8_t compression_type; /* 0 zlib, 1 zstd */
	uint8_t padding[7];
};
static_assert(sizeof(struct qcow2_header_disk) == 112, "qcow2 header");
static_assert(offsetof(struct qcow2_header_disk, incompatible_features) == 72, "qcow2 header, version 2");
static_assert(offsetof(struct qcow2_header_disk, compression_type) == 104, "qcow2 header, version 3");

#define QCOW2_V2_LENGTH 72
#define QCOW2_V3_LENGTH 104

#define QCOW2_CLUSTER_BITS_MIN 9
#define QCOW2_CLUSTER_BITS_MAX 21
#define QCOW2_EXTENDED_CLUSTER_BITS_MIN 14 /* a subcluster is at least 512 bytes */

/* QEMU's limits, which the specification mentions as notes. */
#define QCOW2_L1_BYTES_MAX ((uint64_t)32 << 20)
#define QCOW2_REFTABLE_BYTES_MAX ((uint64_t)8 << 20)
#define QCOW2_SNAPSHOTS_MAX 65536
#define QCOW2_SNAPSHOT_TABLE_MAX ((uint64_t)1024 * QCOW2_SNAPSHOTS_MAX)
#define QCOW2_SNAPSHOT_EXTRA_MAX 1024
#define QCOW2_BITMAPS_MAX 65535
#define QCOW2_NAME_MAX 1023

enum qcow2_crypt { QCOW2_CRYPT_NONE, QCOW2_CRYPT_AES, QCOW2_CRYPT_LUKS };
enum qcow2_compression { QCOW2_ZLIB, QCOW2_ZSTD };

/* incompatible_features */
#define QCOW2_DIRTY ((uint64_t)1 << 0)	     /* refcounts may be inconsistent */
#define QCOW2_CORRUPT ((uint64_t)1 << 1)     /* any structure may be corrupt; not to be written to */
#define QCOW2_DATA_FILE ((uint64_t)1 << 2)   /* guest clusters are in an external file, at their guest offsets */
#define QCOW2_COMPRESSION ((uint64_t)1 << 3) /* compression_type is there and not zero */
#define QCOW2_EXTENDED_L2 ((uint64_t)1 << 4) /* L2 entries of 128 bits, with subclusters */
#define QCOW2_INCOMPATIBLE_KNOWN (QCOW2_DIRTY | QCOW2_CORRUPT | QCOW2_DATA_FILE | QCOW2_COMPRESSION | QCOW2_EXTENDED_L2)

/* compatible_features */
#define QCOW2_LAZY_REFCOUNTS ((uint64_t)1 << 0)

/* autoclear_features */
#define QCOW2_BITMAPS_VALID ((uint64_t)1 << 0) /* the bitmaps extension is consistent */
#define QCOW2_DATA_FILE_RAW ((uint64_t)1 << 1) /* the data file by itself is a raw image */

struct qcow2_extension_disk {
	be32 type;
	be32 length; /* of the data that follow, which are padded to a multiple of 8 */
};
static_assert(sizeof(struct qcow2_extension_disk) == 8, "qcow2 header extension");

#define QCOW2_EXT_END 0x00000000u
#define QCOW2_EXT_BACKING_FORMAT 0xe2792acau
#define QCOW2_EXT_FEATURE_NAMES 0x6803f857u
#define QCOW2_EXT_BITMAPS 0x23852875u
#define QCOW2_EXT_CRYPTO 0x0537be77u
#define QCOW2_EXT_DATA_FILE 0x44415441u

struct qcow2_feature_name_disk {
	uint8_t type; /* 0 incompatible, 1 compatible, 2 autoclear */
	uint8_t bit;
	char name[46]; /* padded with zeros */
};
static_assert(sizeof(struct qcow2_feature_name_disk) == 48, "qcow2 feature name");

struct qcow2_bitmaps_disk {
	be32 nb_bitmaps; /* at least 1 */
	be32 reserved;	 /* 0 */
	be64 bitmap_directory_size;
	be64 bitmap_directory_offset; /* cluster aligned */
};
static_assert(sizeof(struct qcow2_bitmaps_disk) == 24, "qcow2 bitmaps extension");

struct qcow2_crypto_disk {
	be64 offset; /* of the encryption header, cluster aligned */
	be64 length;
};
static_assert(sizeof(struct qcow2_crypto_disk) == 16, "qcow2 encryption header pointer");

/* L1 entry: bits 9-55 are the offset of the L2 table, 0 = none; bit 63 says that its refcount is one.
 * L2 entry of a standard cluster: bit 0 reads as zeros, bits 9-55 offset of the host cluster, bits 62 and 63 as below.
 * L2 entry of a compressed cluster, x = 70 - cluster_bits: bits 0 to x-1 byte offset of the data, bits x to 61 the
 * number of 512-byte sectors beyond the one that the offset is in.
 * Extended L2: a second word; bit n = subcluster n is allocated, bit 32+n = it reads as zeros. */
#define QCOW2_OFFSET_MASK 0x00fffffffffffe00u
#define QCOW2_COPIED ((uint64_t)1 << 63)
#define QCOW2_COMPRESSED ((uint64_t)1 << 62)
#define QCOW2_ZERO ((uint64_t)1 << 0)
#define QCOW2_SUBCLUSTERS 32

struct qcow2_snapshot_disk {
	be64 l1_table_offset; /* cluster aligned */
	be32 l1_size;	      /* entries */
	be16 id_size, name_size;
	be32 date_seconds, date_nanoseconds;
	be64 vm_clock_nanoseconds;
	be32 vm_state_size; /* 0 = no VM state; superseded by the extra data */
	be32 extra_size;    /* of the extra data that follow, then id, name, padding to a multiple of 8 */
};
static_assert(sizeof(struct qcow2_snapshot_disk) == 40, "qcow2 snapshot table entry");

struct qcow2_snapshot_extra_disk {
	be64 vm_state_size; /* VM state begins with the first L1 entry that is not needed for the disk */
	be64 disk_size;
};
static_assert(sizeof(struct qcow2_snapshot_extra_disk) == 16, "qcow2 snapshot extra data");

struct qcow2_bitmap_disk {
	be64 bitmap_table_offset; /* cluster aligned */
	be32 bitmap_table_size;	  /* entries */
	be32 flags;
	uint8_t type;		  /* 1 = dirty tracking bitmap */
	uint8_t granularity_bits; /* 1 << granularity_bits bytes of the disk for each bit; at most 63 */
	be16 name_size;		  /* at most 1023 */
	be32 extra_data_size;	  /* of the extra data that follow, then name, padding to a multiple of 8 */
};
static_assert(sizeof(struct qcow2_bitmap_disk) == 24, "qcow2 bitmap directory entry");

#define QCOW2_BITMAP_IN_USE 1u /* was not saved properly */
#define QCOW2_BITMAP_AUTO 2u   /* records all writes */
#define QCOW2_BITMAP_EXTRA_COMPATIBLE 4u /* may be used without knowing its extra data */
#define QCOW2_BITMAP_DIRECTORY_MAX ((uint64_t)64 << 20)

/* The header and its extensions, decoded. */
struct qcow2_header {
	unsigned version, cluster_bits;
	uint64_t size;
	enum qcow2_crypt crypt_method;
	uint32_t l1_size;
	uint64_t l1_offset;
	uint64_t refcount_offset;
	uint32_t refcount_clusters;
	unsigned refcount_order;
	uint32_t nr_snapshots;
	uint64_t snapshots_offset;
	uint64_t incompatible, compatible, autoclear;
	uint32_t header_length;
	enum qcow2_compression compression;
	uint32_t nr_bitmaps;
	uint64_t bitmaps_offset, bitmaps_size;
	uint64_t crypto_offset, crypto_length;
	char backing_name[QCOW2_NAME_MAX + 1], data_file[QCOW2_NAME_MAX + 1];
	char backing_format[32];
};

/* Decodes and checks the first cluster of an image, of which the file has len bytes (at least 72). */
int qcow2_header_decode(const uint8_t *p, size_t len, struct qcow2_header *ret, struct err *err);

/* "lazy refcounts, zstd, extended L2": what people may want to know of an image. */
void qcow2_header_describe(const struct qcow2_header *h, char *ret, size_t len);

#endif
