/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "compactor/writer.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/image/vhd_format.h"

/*
 *	fixed	| the disk | footer |
 *	dynamic	| copy of the footer | header | table |  b| block |  b| block |  b| block | footer |
 *	                                                  ^ 4096 k    ^ 4096 k    ^ 4096 k
 *
 * b is the bitmap of the sectors.  All bits are set, as QEMU sets them: programs differ in what they make of clear ones.
 *
 * The size of the disk is what the footer says, not the geometry, which rounds it down.  Readers that know both ways choose by the
 * creator; the one named here is that of Hyper-V, whose images they take as they are meant. */

#define CREATOR "win "
#define CREATOR_VERSION 0x000a0000u
#define DISK_MAX ((uint64_t)2040 << 30) /* Microsoft's limit, and QEMU's */
#define BLOCK_DEFAULT ((uint64_t)2 << 20)
#define TABLE_OFFSET (VHD_FOOTER_SIZE + VHD_HEADER_SIZE)

struct vhd_writer {
	struct writer w;
	be32 *table;
	size_t nr_blocks, table_size; /* bytes, whole sectors */
	uint8_t *bitmap;
	uint32_t bitmap_size;
};

static struct vhd_writer *vhd_of(struct writer *w)
{
	return (struct vhd_writer *)w;
}

/* ---- beginning ---- */

static int vhd_begin(struct writer *w, struct err *err)
{
	struct vhd_writer *v = vhd_of(w);

	if (!w->cluster_size)
		w->cluster_size = BLOCK_DEFAULT;
	v->nr_blocks = (size_t)div_up(w->size, w->cluster_size);
	v->table_size = (size_t)round_up(v->nr_blocks * sizeof(*v->table), VHD_SECTOR);
	if (v->table_size > WRITER_TABLE_MAX)
		return err_set(err, ERR_UNSUPPORTED, "blocks of %llu bytes are too small for a VHD image of this size",
			       (unsigned long long)w->cluster_size);
	v->bitmap_size = (uint32_t)round_up(div_up(w->cluster_size / VHD_SECTOR, 8), VHD_SECTOR);
	v->table = malloc(v->table_size);
	v->bitmap = malloc(v->bitmap_size);
	if (!v->table || !v->bitmap)
		return err_set(err, ERR_MEMORY, "no memory for a table of %zu blocks", v->nr_blocks);
	memset(v->table, 0xff, v->table_size);
	memset(v->bitmap, 0xff, v->bitmap_size);
	w->file_end = TABLE_OFFSET + v->table_size;
	return 0;
}

static int fixed_begin(struct writer *w, struct err *err)
{
	(void)err;
	w->file_end = w->size;
	return 0;
}

static void vhd_release(struct writer *w)
{
	free(vhd_of(w)->table);
	free(vhd_of(w)->bitmap);
}

/* ---- blocks ---- */

static int add_block(struct vhd_writer *v, size_t block, struct err *err)
{
	struct writer *w = &v->w;
	uint64_t at = round_up(w->file_end + v->bitmap_size, WRITER_ALIGN) - v->bitmap_size;

	if (at / VHD_SECTOR >= VHD_NO_BLOCK)
		return err_set(err, ERR_UNSUPPORTED, "the file would be larger than a VHD image can be");
	if (file_write(w->fd, v->bitmap, v->bitmap_size, at, err) < 0)
		return -1;
	v->table[block] = be32_from((uint32_t)(at / VHD_SECTOR));
	w->file_end = at + v->bitmap_size + w->cluster_size;
	return 0;
}

static int vhd_place(struct writer *w, uint64_t offset, struct writer_place *ret, struct err *err)
{
	struct vhd_writer *v = vhd_of(w);
	uint64_t inside = offset % w->cluster_size;
	size_t block = (size_t)(offset / w->cluster_size);

	if (be32_get(v->table[block]) == VHD_NO_BLOCK && add_block(v, block, err) < 0)
		return -1;
	ret->at = (uint64_t)be32_get(v->table[block]) * VHD_SECTOR + v->bitmap_size + inside;
	ret->len = w->cluster_size - inside;
	return 0;
}

static int fixed_place(struct writer *w, uint64_t offset, struct writer_place *ret, struct err *err)
{
	(void)err;
	ret->at = offset;
	ret->len = w->size - offset;
	return 0;
}

/* ---- ending ---- */

/* The appendix "CHS Calculation" of the specification. */
static void set_geometry(struct vhd_footer_disk *d, uint64_t size)
{
	uint64_t total = min_u64(size / VHD_SECTOR, VHD_GEOMETRY_MAX);
	uint64_t sectors = 255, heads = 16;

	if (total < (uint64_t)65535 * 16 * 63) {
		sectors = 17;
		heads = max_u64(div_up(total / sectors, 1024), 4);
		if (heads > 16 || total / sectors >= heads * 1024) {
			sectors = 31;
			heads = 16;
		}
		if (total / sectors >= heads * 1024)
			sectors = 63;
	}
	d->cylinders = be16_from((uint16_t)(total / sectors / heads));
	d->heads = (uint8_t)heads;
	d->sectors = (uint8_t)sectors;
}

static int make_footer(const struct writer *w, struct vhd_footer_disk *ret, struct err *err)
{
	bool fixed = w->format == &writer_vhd_fixed;
	time_t now = time(NULL);

	*ret = (struct vhd_footer_disk){
		.cookie = VHD_FOOTER_COOKIE,
		.features = be32_from(VHD_RESERVED),
		.version = be32_from(0x10000),
		.header_offset = be64_from(fixed ? UINT64_MAX : VHD_FOOTER_SIZE),
		.time = be32_from(now > VHD_TIME_BASE ? (uint32_t)(now - VHD_TIME_BASE) : 0),
		.creator = CREATOR,
		.creator_version = be32_from(CREATOR_VERSION),
		.creator_os = "Wi2k",
		.original_size = be64_from(w->size),
		.current_size = be64_from(w->size),
		.type = be32_from(fixed ? VHD_FIXED : VHD_DYNAMIC),
	};
	set_geometry(ret, w->size);
	if (writer_make_guid(ret->id, false, err) < 0)
		return -1;
	ret->checksum = be32_from(vhd_checksum((const void *)ret, sizeof(*ret), offsetof(struct vhd_footer_disk, checksum)));
	return 0;
}

static int write_tables(struct vhd_writer *v, const struct vhd_footer_disk *footer, struct err *err)
{
	struct vhd_header_disk header = {
		.cookie = VHD_HEADER_COOKIE,
		.data_offset = be64_from(UINT64_MAX),
		.table_offset = be64_from(TABLE_OFFSET),
		.version = be32_from(0x10000),
		.table_entries = be32_from((uint32_t)v->nr_blocks),
		.block_size = be32_from((uint32_t)v->w.cluster_size),
	};

	header.checksum =
		be32_from(vhd_checksum((const void *)&header, sizeof(header), offsetof(struct vhd_header_disk, checksum)));
	if (file_write(v->w.fd, footer, sizeof(*footer), 0, err) < 0 ||
	    file_write(v->w.fd, &header, sizeof(header), VHD_FOOTER_SIZE, err) < 0)
		return -1;
	return file_write(v->w.fd, v->table, v->table_size, TABLE_OFFSET, err);
}

static int write_footer(struct writer *w, const struct vhd_footer_disk *footer, struct err *err)
{
	w->file_end += sizeof(*footer);
	return file_write(w->fd, footer, sizeof(*footer), w->file_end - sizeof(*footer), err);
}

static int vhd_end(struct writer *w, struct err *err)
{
	struct vhd_footer_disk footer;

	if (make_footer(w, &footer, err) < 0 || write_tables(vhd_of(w), &footer, err) < 0)
		return -1;
	return write_footer(w, &footer, err);
}

static int fixed_end(struct writer *w, struct err *err)
{
	struct vhd_footer_disk footer;

	return make_footer(w, &footer, err) < 0 ? -1 : write_footer(w, &footer, err);
}

const struct writer_format writer_vhd = {
	.name = "vhd",
	.kind = "dynamic",
	.instance = sizeof(struct vhd_writer),
	.unit = VHD_SECTOR,
	.size_min = 1,
	.size_max = DISK_MAX,
	.cluster_min = WRITER_ALIGN, /* QEMU takes smaller blocks to have no bitmap */
	.cluster_max = (uint64_t)256 << 20,
	.begin = vhd_begin,
	.place = vhd_place,
	.end = vhd_end,
	.release = vhd_release,
};

const struct writer_format writer_vhd_fixed = {
	.name = "vhd",
	.kind = "fixed",
	.instance = sizeof(struct writer),
	.unit = VHD_SECTOR,
	.size_min = 1,
	.size_max = DISK_MAX,
	.begin = fixed_begin,
	.place = fixed_place,
	.end = fixed_end,
};
