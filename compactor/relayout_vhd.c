/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "compactor/relayout_parts.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/image/vhd_format.h"

/*
 *	old	| copy, header, table, ... |b| block |b| block |b| block | footer |		b: bitmap of the sectors
 *	new	| copy, header, table, ... |  b| block  |  b| block  |  b| block | footer |
 *	                                       ^ 4096 k      ^ 4096 k     ^ 4096 k
 *
 * All up to the first block of the file stays where it is, known or not: parent locators, a batmap.  In the table every entry of a
 * block changes, in header and footer nothing.  The footer follows the last block, where QEMU and others put their next one.
 *
 * Bytes that belong to nothing would be lost; there are none in a plain image, and where there are some it is left alone. */

#define TABLE_MAX (1u << 22) /* entries: four times those of the largest disk in blocks of 2 MiB */

struct place {
	uint32_t sector; /* of the file, as in the table: where the bitmap begins */
	uint32_t block;
};

struct vhd_layout {
	const struct image_file *old;
	struct sparse_copy *copy;
	struct vhd_footer footer;
	struct vhd_header h;
	uint8_t ending[VHD_FOOTER_SIZE]; /* the footer as it is, ending_len bytes of it at data_end */
	size_t ending_len;
	uint64_t data_end;
	be32 *table;
	struct place *places; /* of the blocks that there are, in the order of the file */
	size_t nr_places;
};

static void layout_release(struct vhd_layout *l)
{
	free(l->table);
	free(l->places);
}
CLEANUP_DEFINE_RELEASE(struct vhd_layout, layout_release)

/* ---- what there is ---- */

static int read_footers(struct vhd_layout *l, struct err *err)
{
	uint8_t head[VHD_FOOTER_SIZE], tail[VHD_FOOTER_SIZE];
	struct vhd_footer copy;

	if (l->old->size < sizeof(tail))
		return err_set(err, ERR_FORMAT, "the file is too small for a VHD footer");
	if (image_file_read(l->old, head, sizeof(head), 0, err) < 0 ||
	    image_file_read(l->old, tail, sizeof(tail), l->old->size - sizeof(tail), err) < 0)
		return -1;
	l->ending_len = vhd_footer_find(tail, l->ending);
	if (!l->ending_len || vhd_footer_decode(l->ending, &l->footer, NULL) < 0 || vhd_footer_decode(head, &copy, NULL) < 0)
		return err_set(err, ERR_UNSUPPORTED, "the VHD footer or its copy is broken, and what is broken is not rewritten");
	if (l->footer.type != VHD_DYNAMIC)
		return err_set(err, ERR_UNSUPPORTED, "only dynamic VHD disks are rewritten");
	l->data_end = l->old->size - l->ending_len;
	return 0;
}

static int read_header(struct vhd_layout *l, struct err *err)
{
	uint8_t header[VHD_HEADER_SIZE];

	if (image_file_read(l->old, header, sizeof(header), l->footer.header_offset, err) < 0 ||
	    vhd_header_decode(header, &l->h, err) < 0)
		return -1;
	if (l->h.block_size < RELAYOUT_UNIT)
		return err_set(err, ERR_UNSUPPORTED, "blocks of %u bytes cannot be aligned", l->h.block_size);
	if (l->h.nr_blocks > TABLE_MAX)
		return err_set(err, ERR_UNSUPPORTED, "a table of %u blocks is too large to be rewritten", l->h.nr_blocks);
	return 0;
}

static int by_sector(const void *a, const void *b)
{
	const struct place *p = a, *q = b;

	return (p->sector > q->sector) - (p->sector < q->sector);
}

static int read_table(struct vhd_layout *l, struct err *err)
{
	size_t nr = l->h.nr_blocks;

	l->table = malloc(nr * sizeof(*l->table) + 1);
	l->places = malloc(nr * sizeof(*l->places) + 1);
	if (!l->table || !l->places)
		return err_set(err, ERR_MEMORY, "no memory for a table of %zu blocks", nr);
	if (image_file_read(l->old, l->table, nr * sizeof(*l->table), l->h.table_offset, err) < 0)
		return err_add(err, "block allocation table");
	for (size_t i = 0; i < nr; i++)
		if (be32_get(l->table[i]) != VHD_NO_BLOCK)
			l->places[l->nr_places++] = (struct place){ be32_get(l->table[i]), (uint32_t)i };
	if (l->nr_places)
		qsort(l->places, l->nr_places, sizeof(*l->places), by_sector);
	return 0;
}

/* ---- is it plain? ---- */

static uint64_t stride(const struct vhd_layout *l)
{
	return (uint64_t)l->h.bitmap_size + l->h.block_size;
}

static uint64_t old_offset(const struct vhd_layout *l, size_t i)
{
	return i < l->nr_places ? (uint64_t)l->places[i].sector * VHD_SECTOR : l->data_end;
}

/* Where what is kept in place ends, as far as it is known. */
static uint64_t end_of_tables(const struct vhd_layout *l)
{
	uint64_t end = max_u64(VHD_FOOTER_SIZE, l->footer.header_offset + VHD_HEADER_SIZE);

	end = max_u64(end, l->h.table_offset + (uint64_t)l->h.nr_blocks * sizeof(be32));
	for (int i = 0; i < VHD_NR_LOCATORS; i++) {
		const struct vhd_locator *p = &l->h.locators[i];

		if (p->platform && p->length)
			end = max_u64(end, p->offset <= l->data_end ? p->offset + p->length : UINT64_MAX);
	}
	return end;
}

static int check_gap(struct vhd_layout *l, uint64_t from, uint64_t to, struct err *err)
{
	uint64_t begin, end;
	int rc = 0;

	for (; from < to; from = end) {
		rc = file_next_data(l->old->fd, from, to, &begin, &end, err);
		if (rc <= 0)
			break;
		end = min_u64(end, begin + SPARSE_PIECE);
		if (file_read(l->old->fd, l->copy->buf, (size_t)(end - begin), begin, err) < 0)
			return -1;
		if (!sparse_is_zero(l->copy->buf, (size_t)(end - begin)))
			return err_set(err, ERR_UNSUPPORTED,
				       "there are bytes behind offset %llu that belong to no block; nobody knows what they are",
				       (unsigned long long)begin);
	}
	return rc < 0 ? -1 : 0;
}

static int check_places(struct vhd_layout *l, struct err *err)
{
	if (end_of_tables(l) > old_offset(l, 0))
		return err_set(err, ERR_UNSUPPORTED, "the first block, at offset %llu, is not behind all tables",
			       (unsigned long long)old_offset(l, 0));
	for (size_t i = 0; i < l->nr_places; i++)
		if (old_offset(l, i) + stride(l) > old_offset(l, i + 1))
			return err_set(err, ERR_UNSUPPORTED, "block %u at offset %llu runs into the next one or past the end",
				       l->places[i].block, (unsigned long long)old_offset(l, i));
	return 0;
}

static int check_gaps(struct vhd_layout *l, struct err *err)
{
	for (size_t i = 0; i < l->nr_places; i++)
		if (check_gap(l, old_offset(l, i) + stride(l), old_offset(l, i + 1), err) < 0)
			return -1;
	return 0;
}

/* ---- what becomes of it ---- */

/* The bitmap and the data of a block, which lie one behind the other in both files.  Moves *end on. */
static int move_block(struct vhd_layout *l, size_t i, uint64_t *end, struct err *err)
{
	uint64_t at = round_up(*end + l->h.bitmap_size, RELAYOUT_UNIT) - l->h.bitmap_size;

	if (at / VHD_SECTOR >= VHD_NO_BLOCK)
		return err_set(err, ERR_UNSUPPORTED, "the new file would be larger than a VHD image can be");
	if (sparse_copy(l->copy, old_offset(l, i), at, stride(l), err) < 0)
		return -1;
	l->table[l->places[i].block] = be32_from((uint32_t)(at / VHD_SECTOR));
	*end = at + stride(l);
	return 0;
}

static int write_image(struct vhd_layout *l, uint64_t *ret_size, struct err *err)
{
	uint64_t end = old_offset(l, 0);

	if (sparse_copy(l->copy, 0, 0, end, err) < 0)
		return -1;
	for (size_t i = 0; i < l->nr_places; i++)
		if (move_block(l, i, &end, err) < 0)
			return -1;
	if (file_write(l->copy->to, l->table, l->h.nr_blocks * sizeof(*l->table), l->h.table_offset, err) < 0 ||
	    file_write(l->copy->to, l->ending, l->ending_len, end, err) < 0)
		return -1;
	*ret_size = end + l->ending_len;
	return 0;
}

int relayout_vhd(const struct image_file *old, struct sparse_copy *c, uint64_t *ret_size, struct err *err)
{
	CLEANUP(layout_release) struct vhd_layout l = { .old = old, .copy = c };

	if (read_footers(&l, err) < 0 || read_header(&l, err) < 0 || read_table(&l, err) < 0)
		return -1;
	if (check_places(&l, err) < 0 || check_gaps(&l, err) < 0)
		return -1;
	return write_image(&l, ret_size, err);
}
