/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_VDI_FORMAT_H
#define DEDUPSCAN_VDI_FORMAT_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "scanner/base/bytes.h"
#include "scanner/base/err.h"
#include "scanner/image/guid.h"

/* The VDI format of VirtualBox on disk, version 1.1, after VDICore.h and VDI.cpp of VirtualBox 7 (there is no other
 * specification); all numbers are little-endian.
 *
 *	header -> block map, one per block of the disk -> blocks of the file, each with `block_extra` bytes before it */

#define VDI_SIGNATURE 0xbeda107fu
#define VDI_SIGNATURE_OFFSET 64
#define VDI_VERSION_1_1 0x00010001u

struct vdi_header_disk {
	char text[64];	  /* "<<< Oracle VM VirtualBox Disk Image >>>\n", for eyes only */
	le32 signature;	  /* 0xbeda107f */
	le32 version;	  /* major << 16 | minor; 0.2 was laid out otherwise from here on */
	le32 header_size; /* from this field on: 384, or 400 with the geometry at the end */
	le32 type;
	le32 flags;
	char comment[256];
	le32 map_offset;
	le32 data_offset;	 /* behind the map */
	le32 legacy_geometry[4]; /* cylinders, heads, sectors, bytes per sector */
	le32 unused;		 /* was the BIOS translation mode */
	le64 size;		 /* of the disk in bytes */
	le32 block_size;	 /* a power of 2: 1 MiB unless told otherwise at creation */
	le32 block_extra;	 /* bytes before the data of every block: 0 or a power of 2 */
	le32 nr_blocks;		 /* of the disk, and so entries of the map */
	le32 nr_allocated;	 /* blocks of the file */
	uint8_t id[16];		 /* UUID of the image */
	uint8_t modified[16];	 /* of its last change */
	uint8_t parent[16];	 /* id of the image that a differencing one was made on, else zeros */
	uint8_t parent_modified[16];
};
static_assert(sizeof(struct vdi_header_disk) == 72 + 384, "VDI header");
static_assert(offsetof(struct vdi_header_disk, size) == 368, "VDI header, disk size");

#define VDI_HEADER_SIZE_MIN 384

enum vdi_type { VDI_DYNAMIC = 1, VDI_FIXED, VDI_UNDO, VDI_DIFFERENCING };

/* Entries of the block map; any other is the number of a block of the file. */
#define VDI_FREE 0xffffffffu /* not in this file: the parent's, or zeros */
#define VDI_ZERO 0xfffffffeu /* reads as zeros */

/* The header, decoded. */
struct vdi_header {
	enum vdi_type type;
	uint64_t map_offset, data_offset;
	uint64_t size;
	uint32_t block_size, block_extra, nr_blocks;
	char id[GUID_TEXT], parent[GUID_TEXT];
};

int vdi_header_decode(const struct vdi_header_disk *d, struct vdi_header *ret, struct err *err);

#endif
