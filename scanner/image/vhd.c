/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "scanner/base/checked.h"
#include "scanner/image/guid.h"
#include "scanner/image/image.h"
#include "scanner/image/vhd_format.h"

/* The VHD reader.
 *
 *	stored view, fixed		all bytes before the footer
 *	stored view, dynamic and	what the allocation table maps: up to the current size, which is more than the
 *	  differencing			guest sees where the size goes by the geometry
 *
 * The footer at the end counts, as the specification says; where it is broken, its copy at the beginning.  Two that are
 * whole and contradict each other are refused: QEMU takes the first, the specification the last.
 *
 * Neither the allocation table nor bitmaps are held whole: a walk looks through one piece of each.
 *
 * Sector bitmaps are read in differencing disks only.  In dynamic ones a sector whose bit is clear holds zeros on disk,
 * so its bytes are right as they are; QEMU reads them too.  Where a writer broke that rule, programs differ (libvhdi
 * shows zeros), and bytes that some guest may see are not dropped here.
 *
 * Left out on purpose: split images of Virtual PC before 2005 (.v01, .v02, ...), whose blocks end past the first file;
 * the parent's time stamp is told but not compared, for a copy of the parent is as good. */

#define TABLE_PIECE ((uint64_t)64 << 10)
#define BITMAP_PIECE ((uint64_t)4 << 10)
#define WORK_MAX (1u << 16) /* pieces read in one next_extent() before it is content with what it has */

struct vhd {
	struct image img;
	struct vhd_footer footer;
	struct vhd_header h;
	uint64_t data_end; /* where the footer begins; without one the end of the file */
	uint64_t table_size;
	unsigned block_bits;

	uint8_t *table;	     /* a piece of the allocation table ... */
	uint64_t table_tag;  /* ... from this byte of the file on, plus 1; 0 = none */
	uint8_t *bitmap;     /* a piece of a sector bitmap ... */
	uint64_t bitmap_tag; /* ... from this byte of the file on, plus 1; 0 = none */
	unsigned work;
};

static struct vhd *vhd_of(struct image *img)
{
	return (struct vhd *)img;
}

/* ---- tables ---- */

/* Reads len bytes at `offset` into buf unless they are there already. */
static int load_piece(struct vhd *v, uint8_t *buf, uint64_t *tag, uint64_t offset, uint64_t len, struct err *err)
{
	if (*tag == offset + 1)
		return 0;
	*tag = 0;
	v->work++;
	if (image_file_read(&v->img.file, buf, (size_t)len, offset, err) < 0)
		return -1;
	*tag = offset + 1;
	return 0;
}

static bool overlaps(uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len)
{
	return a < b + b_len && b < a + a_len;
}

/* Whether [offset, offset + len), which lies in the file, meets the footer's copy, the header or the table. */
static bool meets_metadata(const struct vhd *v, uint64_t offset, uint64_t len)
{
	return offset < VHD_FOOTER_SIZE || overlaps(offset, len, v->footer.header_offset, VHD_HEADER_SIZE) ||
	       overlaps(offset, len, v->h.table_offset, v->table_size);
}

/* A block must be in the file as far as the disk uses it. */
static int check_block(const struct vhd *v, uint64_t index, uint64_t offset, struct err *err)
{
	uint64_t used = min_u64(v->h.block_size, v->img.span - (index << v->block_bits));
	uint64_t len = v->h.bitmap_size + used;

	if (!range_within(offset, len, v->data_end))
		return err_set(err, ERR_FORMAT, "block %llu at offset %llu ends past the end of the data",
			       (unsigned long long)index, (unsigned long long)offset);
	if (meets_metadata(v, offset, len))
		return err_set(err, ERR_FORMAT, "block %llu at offset %llu lies over the header or the table",
			       (unsigned long long)index, (unsigned long long)offset);
	return 0;
}

/* Where the bitmap of a block begins; 0 = there is no such block. */
static int block_offset(struct vhd *v, uint64_t index, uint64_t *ret, struct err *err)
{
	uint64_t at = index * 4, piece = round_down(at, TABLE_PIECE);
	uint64_t len = min_u64(TABLE_PIECE, v->table_size - piece);
	uint32_t entry;

	if (load_piece(v, v->table, &v->table_tag, v->h.table_offset + piece, len, err) < 0)
		return -1;
	entry = be32_load(v->table + (at - piece));
	*ret = entry == VHD_NO_BLOCK ? 0 : (uint64_t)entry * VHD_SECTOR;
	return entry == VHD_NO_BLOCK ? 0 : check_block(v, index, *ret, err);
}

/* ---- sector bitmaps ---- */

/* The first of bits [from, end) that is not `set`; end = all are.  The first bit of a byte is its highest. */
static uint64_t end_of_run(const uint8_t *bits, uint64_t from, uint64_t end, bool set)
{
	for (uint64_t at = from; at < end; at = round_down(at, 64) + 64) {
		uint64_t word = be64_load(bits + at / 64 * 8);
		uint64_t others = (set ? ~word : word) << at % 64;

		if (others)
			return min_u64(end, at + (unsigned)__builtin_clzll(others));
	}
	return end;
}

/* Whether this file holds a sector of a block, and up to which sector it is so: at most to the end of a piece. */
static int sector_run(struct vhd *v, uint64_t block, uint64_t sector, bool *ret, uint64_t *ret_end, struct err *err)
{
	uint64_t piece = round_down(sector / 8, BITMAP_PIECE), first = piece * 8;
	uint64_t len = min_u64(BITMAP_PIECE, v->h.bitmap_size - piece);
	uint64_t end = min_u64(v->h.block_size / VHD_SECTOR - first, len * 8);

	if (load_piece(v, v->bitmap, &v->bitmap_tag, block + piece, len, err) < 0)
		return -1;
	sector -= first;
	*ret = v->bitmap[sector / 8] & (0x80 >> sector % 8);
	*ret_end = first + end_of_run(v->bitmap, sector, end, *ret);
	return 0;
}

/* ---- extents ---- */

/* What is alike from addr on, up to the end of its block at most. */
static int extent_at(struct image *img, uint64_t addr, struct extent *ret, struct err *err)
{
	struct vhd *v = vhd_of(img);
	uint64_t index = addr >> v->block_bits, in = addr & (v->h.block_size - 1), end = v->h.block_size, block;
	bool held;

	if (block_offset(v, index, &block, err) < 0)
		return -1;
	held = block;
	if (block && v->footer.type == VHD_DIFFERENCING) {
		if (sector_run(v, block, in / VHD_SECTOR, &held, &end, err) < 0)
			return -1;
		end *= VHD_SECTOR;
	}
	image_extent_init(ret, held ? EXTENT_DATA : EXTENT_HOLE, addr, end - in);
	if (held) {
		ret->file = &v->img.file;
		ret->file_offset = block + v->h.bitmap_size + in;
	}
	return 0;
}

static int next_vhd_extent(struct image *img, uint64_t from, struct extent *ret, struct err *err)
{
	struct vhd *v = vhd_of(img);
	uint64_t end = img->span;

	if (v->footer.type != VHD_FIXED)
		return image_merge_extents(img, from, extent_at, &v->work, WORK_MAX, ret, err);
	if (image_hole_at(img, &img->file, from, &end))
		image_extent_init(ret, EXTENT_HOLE, from, 0);
	else
		*ret = (struct extent){ .offset = from, .kind = EXTENT_DATA, .file = &img->file, .file_offset = from };
	ret->len = min_u64(end - from, IMAGE_EXTENT_MAX);
	return 0;
}

/* ---- opening ---- */

/* Footers that decide differently what the disk is. */
static bool contradict(const struct vhd_footer *a, const struct vhd_footer *b)
{
	return a->type != b->type || a->size != b->size || a->current_size != b->current_size ||
	       a->header_offset != b->header_offset;
}

/* The footer at the end is broken or lost.  A copy that says fixed is none: fixed disks have no copy. */
static int take_copy(struct vhd *v, bool whole, const struct vhd_footer *copy, const struct err *why, struct err *err)
{
	if (!whole || copy->type == VHD_FIXED)
		return err_set(err, why->kind, "%s", why->text);
	v->footer = *copy;
	image_info_add(&v->img.info, true, "footer broken, its copy used");
	return 0;
}

/* The footer at the end is whole. */
static int check_copy(struct vhd *v, bool whole, const struct vhd_footer *copy, struct err *err)
{
	bool fixed = v->footer.type == VHD_FIXED;

	if (fixed && whole && copy->type != VHD_FIXED)
		return err_set(err, ERR_AMBIGUOUS, "the file ends as a fixed VHD disk, but begins as one with blocks");
	if (!fixed && whole && contradict(&v->footer, copy))
		return err_set(err, ERR_FORMAT, "the VHD footer and its copy contradict each other");
	image_info_add(&v->img.info, !fixed && !whole, "copy of the footer broken");
	return 0;
}

static int read_footers(struct vhd *v, struct err *err)
{
	const struct image_file *f = &v->img.file;
	uint8_t head[VHD_FOOTER_SIZE], tail[VHD_FOOTER_SIZE], footer[VHD_FOOTER_SIZE] = "";
	struct vhd_footer copy;
	struct err head_err = ERR_INIT, end_err = ERR_INIT;
	size_t len;
	bool whole;

	if (f->size < VHD_FOOTER_SIZE)
		return err_set(err, ERR_FORMAT, "the file is too small for a VHD footer");
	if (image_file_read(f, head, sizeof(head), 0, err) < 0 ||
	    image_file_read(f, tail, sizeof(tail), f->size - sizeof(tail), err) < 0)
		return -1;
	len = vhd_footer_find(tail, footer);
	v->data_end = f->size - len;
	image_info_add(&v->img.info, len == VHD_OLD_FOOTER_SIZE, "footer of 511 bytes");
	whole = vhd_footer_decode(head, &copy, &head_err) == 0;
	if (vhd_footer_decode(footer, &v->footer, &end_err) == 0)
		return check_copy(v, whole, &copy, err);
	if (end_err.kind == ERR_UNSUPPORTED)
		return err_set(err, end_err.kind, "%s", end_err.text);
	return take_copy(v, whole, &copy, len || whole ? &end_err : &head_err, err);
}

static int read_header(struct vhd *v, struct err *err)
{
	uint64_t at = v->footer.header_offset;
	uint8_t header[VHD_HEADER_SIZE];

	if (at < VHD_FOOTER_SIZE || !range_within(at, VHD_HEADER_SIZE, v->data_end))
		return err_set(err, ERR_FORMAT, "the dynamic disk header at offset %llu is not inside the file",
			       (unsigned long long)at);
	if (image_file_read(&v->img.file, header, sizeof(header), at, err) < 0 ||
	    vhd_header_decode(header, &v->h, err) < 0)
		return -1;
	v->table_size = (uint64_t)v->h.nr_blocks * 4;
	v->block_bits = (unsigned)__builtin_ctz(v->h.block_size);
	at = v->h.table_offset;
	if (at < VHD_FOOTER_SIZE || !range_within(at, v->table_size, v->data_end))
		return err_set(err, ERR_FORMAT, "the block allocation table at offset %llu is not inside the file",
			       (unsigned long long)at);
	if (overlaps(at, v->table_size, v->footer.header_offset, VHD_HEADER_SIZE))
		return err_set(err, ERR_FORMAT, "the block allocation table lies over the dynamic disk header");
	return 0;
}

/* ---- the parent ---- */

/* The first locator of a kind, as a path; 0 = there is none, 1 = there is. */
static int locate_parent(struct vhd *v, enum vhd_platform platform, struct err *err)
{
	struct image_info *info = &v->img.info;
	uint8_t data[VHD_LOCATOR_MAX];

	for (int i = 0; i < VHD_NR_LOCATORS; i++) {
		const struct vhd_locator *l = &v->h.locators[i];

		if (l->platform != (uint32_t)platform || l->length == 0)
			continue;
		if (l->length > sizeof(data))
			return err_set(err, ERR_FORMAT, "parent locator %d of %u bytes is too long", i, l->length);
		if (image_file_read(&v->img.file, data, l->length, l->offset, err) < 0 ||
		    vhd_locator_path(platform, data, l->length, info->backing_name, sizeof(info->backing_name), err) <
			    0)
			return err_add(err, "parent locator %d", i);
		return 1;
	}
	return 0;
}

static void tell_parent_time(struct vhd *v)
{
	time_t at = (time_t)VHD_TIME_BASE + v->h.parent_time;
	struct tm tm;
	char words[64];

	if (gmtime_r(&at, &tm) && strftime(words, sizeof(words), "parent of %Y-%m-%d %H:%M:%S", &tm))
		image_info_add(&v->img.info, v->h.parent_time, words);
}

/* A parent without an id need not be VHD: XenServer makes differencing disks on raw ones so.  Its format is chosen as
 * that of any file. */
static int read_parent(struct vhd *v, struct err *err)
{
	static const enum vhd_platform platforms[] = { VHD_W2RU, VHD_W2KU, VHD_MACX };
	struct image_info *info = &v->img.info;
	int found = 0;

	for (size_t i = 0; i < ARRAY_SIZE(platforms) && !found; i++)
		found = locate_parent(v, platforms[i], err);
	if (found < 0)
		return -1;
	if (!found && vhd_parent_name(&v->h, info->backing_name, sizeof(info->backing_name), err) < 0)
		return err_add(err, "the parent's name");
	guid_text_or_none(v->h.parent_id, false, info->backing_id);
	if (info->backing_id[0])
		snprintf(info->backing_format, sizeof(info->backing_format), "vhd");
	tell_parent_time(v);
	return 0;
}

/* ---- the whole ---- */

static int open_fixed(struct vhd *v, struct err *err)
{
	struct image *img = &v->img;

	img->span = v->data_end;
	if (img->size > img->span)
		return err_set(err, ERR_FORMAT, "a fixed disk of %llu bytes in a file with only %llu before the footer",
			       (unsigned long long)img->size, (unsigned long long)img->span);
	return 0;
}

static int open_blocks(struct vhd *v, struct err *err)
{
	struct image *img = &v->img;
	uint64_t mapped;

	if (read_header(v, err) < 0)
		return -1;
	mapped = (uint64_t)v->h.nr_blocks << v->block_bits;
	if (img->size > mapped)
		return err_set(err, ERR_FORMAT, "the block allocation table is too small for a disk of %llu bytes",
			       (unsigned long long)img->size);
	img->span = max_u64(img->size, min_u64(v->footer.current_size, mapped));
	img->info.cluster_size = v->h.block_size;
	v->table = malloc(TABLE_PIECE);
	v->bitmap = malloc(BITMAP_PIECE);
	if (!v->table || !v->bitmap)
		return err_set(err, ERR_MEMORY, "no memory for the tables of a VHD image");
	return v->footer.type == VHD_DIFFERENCING ? read_parent(v, err) : 0;
}

static void tell_footer(struct vhd *v)
{
	static const char *const kinds[] = {
		[VHD_FIXED] = "fixed", [VHD_DYNAMIC] = "dynamic", [VHD_DIFFERENCING] = "differencing"
	};
	struct image_info *info = &v->img.info;

	info->version = 1;
	snprintf(info->kind, sizeof(info->kind), "%s", kinds[v->footer.type]);
	guid_text_or_none(v->footer.id, false, info->id);
	image_info_add(info, v->footer.features & VHD_TEMPORARY, "temporary");
	image_info_add(info, v->footer.saved_state, "saved state");
}

static int open_vhd(struct image *img, const struct image_opener *opener, struct err *err)
{
	struct vhd *v = vhd_of(img);

	(void)opener;
	if (read_footers(v, err) < 0)
		return -1;
	tell_footer(v);
	img->size = v->footer.size;
	if ((v->footer.type == VHD_FIXED ? open_fixed : open_blocks)(v, err) < 0)
		return -1;
	img->layer = max_u64(round_up(img->span, IMAGE_LAYER_UNIT), IMAGE_LAYER_UNIT);
	return 0;
}

static void release_vhd(struct image *img)
{
	struct vhd *v = vhd_of(img);

	free(v->table);
	free(v->bitmap);
}

/* By the cookies alone, so that an image with a broken checksum is told to be one and not read as a raw disk. */
static enum image_claim probe_vhd(const struct image_look *look)
{
	uint8_t footer[VHD_FOOTER_SIZE];

	if (look->len >= VHD_FOOTER_SIZE && memcmp(look->head, VHD_FOOTER_COOKIE, 8) == 0)
		return IMAGE_HEADER;
	return look->tail && vhd_footer_find(look->tail, footer) ? IMAGE_TAIL : IMAGE_NOT_MINE;
}

extern const struct image_format image_format_vhd;
const struct image_format image_format_vhd = {
	.name = "vhd",
	.alias = "vpc",
	.extensions = (const char *const[]){ "vhd", "vpc", "avhd", NULL },
	.instance = sizeof(struct vhd),
	.probe = probe_vhd,
	.open = open_vhd,
	.next_extent = next_vhd_extent,
	.release = release_vhd,
};
