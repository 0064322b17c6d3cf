/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "compactor/writer.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/image/vhdx_format.h"

/*
 *	0					   1M	 2M	    3M
 *	| ident | headers, region tables, two each | log | metadata | BAT | block | block | ...
 *
 * The log is empty.  A block that was never put is of the state "zero": of one that is "not present" the specification does not
 * promise what is read.  The blocks of a fixed image are all there and lie in the order of the disk, but the file has holes.
 *
 * Blocks are sized as QEMU does it, up to the 32 MiB that Microsoft's tools take.  Holes within a block cost nothing here, but what
 * a guest writes to a block that is not there makes it be there as a whole. */

#define LOG_OFFSET VHDX_UNIT
#define METADATA_OFFSET (2 * VHDX_UNIT)
#define BAT_OFFSET (3 * VHDX_UNIT)

#define LOGICAL_SECTOR 512
#define PHYSICAL_SECTOR 4096 /* Microsoft's default */
#define NR_ITEMS 5	     /* all but the parent locator */

struct vhdx_writer {
	struct writer w;
	le64 *bat;
	uint64_t nr_blocks, chunk; /* blocks in front of each entry of a sector bitmap */
	size_t bat_size;	   /* bytes */
};

static struct vhdx_writer *vhdx_of(struct writer *w)
{
	return (struct vhdx_writer *)w;
}

static bool is_fixed(const struct vhdx_writer *v)
{
	return v->w.format == &writer_vhdx_fixed;
}

static uint64_t default_block(uint64_t size)
{
	return (size <= GIB ? 8 : size <= 100 * GIB ? 16 : 32) * MIB;
}

static le64 *bat_entry(const struct vhdx_writer *v, uint64_t block)
{
	return &v->bat[block + block / v->chunk];
}

/* ---- blocks ---- */

static void add_block(struct vhdx_writer *v, uint64_t block)
{
	*bat_entry(v, block) = le64_from(v->w.file_end | VHDX_FULLY_PRESENT);
	v->w.file_end += v->w.cluster_size;
}

static int vhdx_begin(struct writer *w, struct err *err)
{
	struct vhdx_writer *v = vhdx_of(w);

	if (!w->cluster_size)
		w->cluster_size = default_block(w->size);
	v->nr_blocks = div_up(w->size, w->cluster_size);
	v->chunk = VHDX_CHUNK_SECTORS * LOGICAL_SECTOR / w->cluster_size;
	v->bat_size = (size_t)(v->nr_blocks + (v->nr_blocks - 1) / v->chunk) * sizeof(*v->bat);
	if (v->bat_size > WRITER_TABLE_MAX)
		return err_set(err, ERR_UNSUPPORTED, "blocks of %llu bytes are too small for a VHDX image of this size",
			       (unsigned long long)w->cluster_size);
	v->bat = calloc(1, v->bat_size);
	if (!v->bat)
		return err_set(err, ERR_MEMORY, "no memory for a table of %llu blocks", (unsigned long long)v->nr_blocks);
	w->file_end = BAT_OFFSET + round_up(v->bat_size, VHDX_UNIT);
	for (uint64_t i = 0; i < v->nr_blocks; i++)
		if (is_fixed(v))
			add_block(v, i);
		else
			*bat_entry(v, i) = le64_from(VHDX_ZERO);
	return 0;
}

static void vhdx_release(struct writer *w)
{
	free(vhdx_of(w)->bat);
}

static int vhdx_place(struct writer *w, uint64_t offset, struct writer_place *ret, struct err *err)
{
	struct vhdx_writer *v = vhdx_of(w);
	uint64_t block = offset / w->cluster_size, inside = offset % w->cluster_size;

	(void)err;
	if (le64_get(*bat_entry(v, block)) == VHDX_ZERO)
		add_block(v, block);
	ret->at = (le64_get(*bat_entry(v, block)) & VHDX_BAT_OFFSET) + inside;
	ret->len = w->cluster_size - inside;
	return 0;
}

/* ---- what leads to them ---- */

static int write_identifier(struct writer *w, struct err *err)
{
	static const char creator[] = "dedupscan";
	uint8_t ident[8 + 2 * sizeof(creator)] = VHDX_SIGNATURE; /* and UTF-16 */

	for (size_t i = 0; i < sizeof(creator); i++)
		ident[8 + 2 * i] = (uint8_t)creator[i];
	return file_write(w->fd, ident, sizeof(ident), 0, err);
}

/* Two, of which the second one is newer, but says the same. */
static int write_headers(struct writer *w, struct err *err)
{
	struct vhdx_header_disk h = {
		.signature = VHDX_HEADER_SIGNATURE,
		.version = le16_from(1),
		.log_length = le32_from(VHDX_UNIT),
		.log_offset = le64_from(LOG_OFFSET),
	};

	if (writer_make_guid(h.file_write.b, true, err) < 0 || writer_make_guid(h.data_write.b, true, err) < 0)
		return -1;
	for (uint64_t i = 0; i < 2; i++) {
		h.sequence = le64_from(i + 1);
		h.checksum = le32_from(vhdx_checksum((const void *)&h, sizeof(h)));
		if (file_write(w->fd, &h, sizeof(h), i ? VHDX_HEADER_2 : VHDX_HEADER_1, err) < 0)
			return -1;
	}
	return 0;
}

/* buf is VHDX_TABLE_SIZE bytes of zeros. */
static int write_regions(const struct vhdx_writer *v, uint8_t *buf, struct err *err)
{
	struct vhdx_regions_disk *d = (void *)buf;
	struct vhdx_region_disk *entries = (void *)(d + 1);

	*d = (struct vhdx_regions_disk){ .signature = VHDX_REGIONS_SIGNATURE, .nr_entries = le32_from(2) };
	entries[0] = (struct vhdx_region_disk){ vhdx_guid_bat, le64_from(BAT_OFFSET),
						le32_from((uint32_t)round_up(v->bat_size, VHDX_UNIT)), le32_from(VHDX_REQUIRED) };
	entries[1] = (struct vhdx_region_disk){ vhdx_guid_metadata, le64_from(METADATA_OFFSET), le32_from(VHDX_UNIT),
						le32_from(VHDX_REQUIRED) };
	d->checksum = le32_from(vhdx_checksum(buf, VHDX_TABLE_SIZE));
	if (file_write(v->w.fd, buf, VHDX_TABLE_SIZE, VHDX_REGIONS_1, err) < 0)
		return -1;
	return file_write(v->w.fd, buf, VHDX_TABLE_SIZE, VHDX_REGIONS_2, err);
}

/* The items stand one behind the other, at once behind the table. */
static int write_metadata(const struct vhdx_writer *v, uint8_t *buf, struct err *err)
{
	struct {
		struct vhdx_parameters_disk parameters;
		le64 size;
		struct vhdx_guid id;
		le32 logical, physical;
	} values = {
		.parameters = { le32_from((uint32_t)v->w.cluster_size),
				le32_from(is_fixed(v) ? VHDX_LEAVE_BLOCKS_ALLOCATED : 0) },
		.size = le64_from(v->w.size),
		.logical = le32_from(LOGICAL_SECTOR),
		.physical = le32_from(PHYSICAL_SECTOR),
	};
	static const uint32_t lengths[NR_ITEMS] = {
		[VHDX_PARAMETERS] = sizeof(values.parameters),
		[VHDX_DISK_SIZE] = sizeof(values.size),
		[VHDX_DISK_ID] = sizeof(values.id),
		[VHDX_LOGICAL_SECTOR] = sizeof(values.logical),
		[VHDX_PHYSICAL_SECTOR] = sizeof(values.physical),
	};
	struct vhdx_metadata_disk *d = (void *)buf;
	struct vhdx_item_disk *entries = (void *)(d + 1);
	uint32_t at = VHDX_TABLE_SIZE;

	if (writer_make_guid(values.id.b, true, err) < 0)
		return -1;
	*d = (struct vhdx_metadata_disk){ .signature = VHDX_METADATA_SIGNATURE, .nr_entries = le16_from(NR_ITEMS) };
	for (int i = 0; i < NR_ITEMS; at += lengths[i++])
		entries[i] = (struct vhdx_item_disk){
			.guid = vhdx_guid_items[i],
			.offset = le32_from(at),
			.length = le32_from(lengths[i]),
			.flags = le32_from(VHDX_ITEM_REQUIRED | (i == VHDX_PARAMETERS ? 0 : VHDX_ITEM_VIRTUAL_DISK)),
		};
	if (file_write(v->w.fd, buf, VHDX_TABLE_SIZE, METADATA_OFFSET, err) < 0)
		return -1;
	return file_write(v->w.fd, &values, sizeof(values), METADATA_OFFSET + VHDX_TABLE_SIZE, err);
}

static int vhdx_end(struct writer *w, struct err *err)
{
	struct vhdx_writer *v = vhdx_of(w);
	CLEANUP(free) uint8_t *buf = calloc(2, VHDX_TABLE_SIZE);

	if (!buf)
		return err_set(err, ERR_MEMORY, "no memory for the tables of a VHDX image");
	if (writer_write_table(w->fd, v->bat, v->bat_size, BAT_OFFSET, err) < 0)
		return -1;
	if (write_metadata(v, buf, err) < 0 || write_regions(v, buf + VHDX_TABLE_SIZE, err) < 0 || write_headers(w, err) < 0)
		return -1;
	return write_identifier(w, err);
}

#define VHDX_WRITER                                                                                                    \
	.name = "vhdx", .instance = sizeof(struct vhdx_writer), .unit = LOGICAL_SECTOR, .size_min = 1,                 \
	.size_max = VHDX_DISK_SIZE_MAX, .cluster_min = VHDX_BLOCK_SIZE_MIN, .cluster_max = VHDX_BLOCK_SIZE_MAX,        \
	.begin = vhdx_begin, .place = vhdx_place, .end = vhdx_end, .release = vhdx_release

const struct writer_format writer_vhdx = { VHDX_WRITER, .kind = "dynamic" };
const struct writer_format writer_vhdx_fixed = { VHDX_WRITER, .kind = "fixed" };
