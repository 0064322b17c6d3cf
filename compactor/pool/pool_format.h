/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_POOL_FORMAT_H
#define DEDUPSCAN_POOL_FORMAT_H

#include <assert.h>
#include <stdint.h>

#include "scanner/base/block.h"
#include "scanner/base/bytes.h"
#include "scanner/base/err.h"
#include "scanner/chunk/digest.h"

/* The pool on disk.  dedupscan-pool(5) shows the bytes.
 *
 *	DIR/.dedupscan-pool/	  mode 0711, of its owner
 *	  lock			  held (OFD lock) by the process that changes the pool; readers hold it shared
 *	  <uuid>.qcow2		  cluster files: superblock | header slots | tables and clusters
 *	  views/<id>.qcow2	  stubs: what overlays name as backing file
 *	  sealed/<id>.qcow2	  overlays that wait to be folded in
 *	  trees/<uuid>.nodes	  nodes of hash trees, with the maps of segments to clusters
 *	  names/		  names and versions: what is kept
 *	  index/		  tables to find by content; rebuilt when lost
 *	  trash/ quarantine/	  what was taken out of the way
 *
 * A cluster file only grows, at its end; what is dead becomes a hole.  Neither an offset nor a slot that was ever published is
 * used again.  Order of writing, each synced before the next: clusters, nodes, tables of the view, its header in the slot, stub,
 * name.  What is not reached from a name does not exist.
 *
 * When a cluster file has grown as far as it may, another one begins, with the next number.  The one with the highest number is the
 * one that grows, and never goes; the others go when nothing in them lives any more.  So numbers are not used again, either.  A map
 * or a slot has the file's number in front: all files together are one row of addresses.
 *
 *	address of a cluster	number << 50 | offset in the file
 *	slot			number << 20 | slot in the file */

/* The cluster file: slot 0 is the superblock, twice, the others take one header of a view each.  Slots are a sparse area below all
 * data, as offsets in a view count from its slot on and cannot be negative. */
#define POOL_SLOT_SIZE ((uint64_t)64 << 10)
#define POOL_NR_SLOTS ((uint64_t)1 << 20)
#define POOL_DATA_BEGIN (POOL_SLOT_SIZE * POOL_NR_SLOTS) /* 64 GiB */
#define POOL_FILE_BITS 50
#define POOL_FILE_MAX ((uint64_t)1 << POOL_FILE_BITS)
#define POOL_NR_FILES 4096 /* numbers that files can have */
#define POOL_FILE_MAX_EXT4 ((uint64_t)12 << 40) /* where the file system ends its files below that, ext4 at 16 TiB */
#define POOL_FILE_MAX_LEAST ((uint64_t)192 << 30) /* a quarter, a sixteenth and so on, where it ends them earlier yet */

/* Clusters of views, and the unit of the maps of segments that serve them: 4, 16 or 64 KiB. */
#define POOL_UNIT_BITS_MIN 12
#define POOL_UNIT_BITS_MAX 16

#define POOL_ID_SIZE 16
#define POOL_ID_TEXT_ROOM 37 /* 8-4-4-4-12 hex digits */

struct pool_superblock_disk {
	uint8_t magic[8]; /* POOL_MAGIC */
	le32 version;	  /* POOL_VERSION; a newer one is not touched */
	le32 incompatible; /* features without which nobody may even read; 0 so far */
	le32 read_only;	   /* features without which nobody may write; 0 so far */
	uint8_t uuid[POOL_ID_SIZE];
	uint8_t reserved[4];
	le64 slot_size, nr_slots, data_begin;
	le32 crc; /* CRC-32C of all before */
	uint8_t padding[4];
};
static_assert(sizeof(struct pool_superblock_disk) == 72, "superblock of a pool");
#define POOL_MAGIC "ddspool\n" /* must not be qcow2's: libvirt looks at the beginning of the file */
#define POOL_VERSION 2
#define POOL_COPY_AT (POOL_SLOT_SIZE / 2) /* the same bytes again; older files have zeros there */
#define POOL_VERSION_FIRST 1 /* a pool's first file: its id is the pool's */

/* Behind it in all others (version 2). */
struct pool_further_disk {
	uint8_t pool[POOL_ID_SIZE]; /* the pool's id */
	le32 number;		    /* from 1 on */
	le32 crc;		    /* CRC-32C of the superblock, then of this before here */
};
static_assert(sizeof(struct pool_further_disk) == 24, "superblock of a further cluster file");
#define POOL_SUPERBLOCK_ROOM (sizeof(struct pool_superblock_disk) + sizeof(struct pool_further_disk))

/* Header extension of a view, beside its qcow2 header: whose it is.  The same, of another type, is in its stub.  What follows in
 * the extension is zeros, as many as make the header's cluster full. */
#define POOL_EXT_VIEW 0x64647376u /* "ddsv" */
#define POOL_EXT_STUB 0x64647373u /* "ddss" */
/* And of an overlay that was written for the path of one that is being sealed: the id under which that is to be.  So the two are
 * told apart, wherever they are, and also in a copy. */
#define POOL_EXT_FRESH 0x64647366u /* "ddsf" */
struct pool_view_disk {
	uint8_t id[POOL_ID_SIZE]; /* of view and stub */
	uint8_t root[DIGEST_SIZE];
	le64 disk_size;	 /* bytes of the disk; the view's own size is rounded up */
	le64 slice_size; /* bytes from the slot on that the view needs: the exact end of its last cluster */
	le64 generation; /* ascending in one cluster file */
	le32 crc;	 /* CRC-32C of the qcow2 header (104 bytes), then of this before here */
	uint8_t padding[4];
};
static_assert(sizeof(struct pool_view_disk) == 80, "header extension of a view");

/* A node of a hash tree in trees/<uuid>.nodes, at an offset of 8: this, then the payload, then zeros up to a multiple of 8.  What
 * one transaction appends begins at a multiple of 4096.
 *
 * Payload of a leaf: runs in order of block, each as varints (scanner/base/varint.h): units of zeros before it, units, and where
 * they lie in the cluster file, in units: for the first run as it is, then as the distance from the end of the run before, zigzag.
 * Payload of an inner node: 16 bytes of which bit i says that child i is there (least significant bit of the first byte first),
 * then the digests of those that are. */
struct pool_node_disk {
	le32 magic;   /* POOL_NODE_MAGIC */
	uint8_t level; /* 0 = leaf; an inner node of level k has children of level k - 1 */
	uint8_t unit_bits; /* of a leaf's map; 0 in inner nodes */
	uint8_t zero[2];
	le32 len;     /* of the payload */
	le32 crc;     /* CRC-32C of this with crc = 0, then of the payload */
	uint8_t digest[DIGEST_SIZE];
	le64 hint_hi, hint_lo; /* leaf: XXH3-128 of the fingerprints of its blocks, to find it by; else 0 */
};
static_assert(sizeof(struct pool_node_disk) == 64, "node of a hash tree");
#define POOL_NODE_MAGIC 0x6e736464u /* "ddsn" */

/* An inner node of which few children are others than those of another one of its level, its base.  Behind this: which children, a
 * byte each, ascending; then their digests, those of zeros being zeros; then zeros up to a multiple of 8.  The rest is as the base
 * has it, which may be such a record, too. */
struct pool_delta_disk {
	le32 magic;    /* POOL_DELTA_MAGIC */
	uint8_t level; /* from 1 on */
	uint8_t nr;    /* 1 to 128 */
	uint8_t zero[2];
	le32 crc; /* CRC-32C of this with crc = 0, then of what follows but for the zeros */
	uint8_t digest[DIGEST_SIZE / 2], base[DIGEST_SIZE / 2]; /* the first half of the node's and the base's */
};
static_assert(sizeof(struct pool_delta_disk) == 44, "an inner node by its base");
#define POOL_DELTA_MAGIC 0x64736464u /* "ddsd" */
#define POOL_DELTA_DEPTH_MAX 64 /* none is written on so many that stand on each other */
#define POOL_NODE_PAYLOAD_MAX (SEGMENT_BLOCKS * 3 * 10)

#endif
