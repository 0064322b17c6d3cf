/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scanner/base/checked.h"
#include "scanner/image/image.h"
#include "scanner/image/vhdx_format.h"

/* The VHDX reader.
 *
 *	BAT	| block 0 | block 1 | ... | bitmap of chunk 0 | block r | block r + 1 | ... | bitmap of chunk 1 | ...
 *
 * An image that was not closed is read as if its log had been replayed: whatever is read of the file passes through
 * what vhdx_log.c made of it.  Payload that the log overwrites (which no writer does: the log is for metadata, but one
 * that grows over old blocks may) is EXTENT_PACKED, so that it comes through read_packed().
 *
 * The BAT is never held whole: a walk looks through a window, a piece of it.  So are the sector bitmaps, which tell of
 * the blocks of a differencing image that are partially present which sectors this file has.
 *
 * Two BAT entries must not share space.  With no memory of the blocks seen, only their number is checked: more blocks
 * than the file has room for are too many. */

#define PIECE ((uint64_t)64 << 10)	 /* of the BAT */
#define BITMAP_PIECE ((uint64_t)4 << 10) /* of a sector bitmap */

struct vhdx {
	struct image img;
	struct vhdx_disk disk;
	struct vhdx_log log;
	struct vhdx_regions regions;
	unsigned block_bits, sector_bits, ratio_bits; /* 1 << ratio_bits payload blocks are a chunk */
	uint64_t nr_entries;			      /* that the BAT region has room for */

	uint8_t *piece;	     /* of the BAT ... */
	uint64_t first, end; /* ... with these entries; empty = nothing loaded */

	uint64_t chunk, bitmap; /* the chunk whose bitmap is used, plus 1, and where that lies */
	uint8_t *bits;		/* a piece of a bitmap ... */
	uint64_t bits_offset;	/* ... from there on; 0 = none */

	uint64_t counted, nr_present; /* of the blocks before `counted`, those that are in the file */
};

static struct vhdx *vhdx_of(struct image *img)
{
	return (struct vhdx *)img;
}

/* ---- the BAT ---- */

static int bat_entry(struct vhdx *v, uint64_t index, uint64_t *ret, struct err *err)
{
	uint64_t first = round_down(index, PIECE / 8), nr = min_u64(PIECE / 8, v->nr_entries - first);

	if (index < v->first || index >= v->end) {
		v->first = v->end = 0;
		if (vhdx_log_read(&v->img.file, &v->log, v->piece, nr * 8, v->regions.bat.begin + first * 8, err) < 0)
			return err_add(err, "BAT");
		v->first = first;
		v->end = first + nr;
	}
	*ret = le64_load(v->piece + (index - v->first) * 8);
	return 0;
}

/* Checks an entry that says that something of `size` bytes is in the file. */
static int check_place(const struct vhdx *v, uint64_t entry, uint64_t size, struct err *err)
{
	uint64_t offset = entry & VHDX_BAT_OFFSET;

	if (entry & VHDX_BAT_RESERVED)
		return err_set(err, ERR_FORMAT, "BAT entry 0x%016llx has reserved bits set", (unsigned long long)entry);
	if (!range_within(offset, size, v->log.file_size))
		return err_set(err, ERR_FORMAT, "it lies at offset %llu, past the end of the file",
			       (unsigned long long)offset);
	if (!vhdx_regions_spare(&v->regions, offset, offset + size))
		return err_set(err, ERR_FORMAT, "it lies at offset %llu, over a header, the log or a region",
			       (unsigned long long)offset);
	return 0;
}

/* Counts a block that is in the file, once. */
static int count_block(struct vhdx *v, uint64_t block, uint64_t offset, struct err *err)
{
	if (block < v->counted || offset >= v->img.file.size)
		return 0;
	if (v->nr_present == div_up(v->img.file.size, v->disk.block_size))
		return err_set(err, ERR_FORMAT, "with it, more blocks are present than the file has room for");
	v->counted = block + 1;
	v->nr_present++;
	return 0;
}

/* Of the last block the file needs to have only what the disk has: QEMU ends fixed images there. */
static int check_payload(struct vhdx *v, uint64_t block, uint64_t entry, struct err *err)
{
	uint64_t size = min_u64(v->disk.block_size, v->disk.size - (block << v->block_bits));

	switch ((enum vhdx_payload_state)(entry & VHDX_BAT_STATE)) {
	case VHDX_NOT_PRESENT:
	case VHDX_UNDEFINED:
	case VHDX_ZERO:
	case VHDX_UNMAPPED:
	case VHDX_UNMAPPED_095:
		return 0;
	case VHDX_PARTIALLY_PRESENT:
		if (!v->disk.has_parent)
			return err_set(err, ERR_FORMAT, "it is partially present in an image without a parent");
		/* fall through */
	case VHDX_FULLY_PRESENT:
		if (check_place(v, entry, size, err) < 0)
			return -1;
		return count_block(v, block, entry & VHDX_BAT_OFFSET, err);
	}
	return err_set(err, ERR_FORMAT, "its state %u is not known", (unsigned)(entry & VHDX_BAT_STATE));
}

static int payload_entry(struct vhdx *v, uint64_t block, uint64_t *ret, struct err *err)
{
	if (bat_entry(v, block + (block >> v->ratio_bits), ret, err) < 0)
		return -1;
	if (check_payload(v, block, *ret, err) < 0)
		return err_add(err, "block %llu", (unsigned long long)block);
	return 0;
}

/* ---- sector bitmaps ---- */

static int find_bitmap(struct vhdx *v, uint64_t chunk, struct err *err)
{
	uint64_t index = ((chunk + 1) << v->ratio_bits) + chunk, entry;

	if (v->chunk == chunk + 1)
		return 0;
	if (index >= v->nr_entries)
		return err_set(err, ERR_FORMAT, "the BAT ends before its entry");
	if (bat_entry(v, index, &entry, err) < 0)
		return -1;
	if ((entry & VHDX_BAT_STATE) != VHDX_BITMAP_PRESENT)
		return err_set(err, ERR_FORMAT, "it is not there (state %u), but a block is partially present",
			       (unsigned)(entry & VHDX_BAT_STATE));
	if (check_place(v, entry, VHDX_BITMAP_SIZE, err) < 0)
		return -1;
	v->chunk = chunk + 1;
	v->bitmap = entry & VHDX_BAT_OFFSET;
	return 0;
}

/* How many of the bits from `first` on, but not from `end` on, are like the first. */
static uint64_t count_alike(const uint8_t *bits, uint64_t first, uint64_t end)
{
	uint64_t flip = bits[first / 8] >> first % 8 & 1 ? UINT64_MAX : 0, at = first;

	while (at < end) {
		uint64_t word = le64_load(bits + at / 64 * 8) ^ flip;
		unsigned skip = at % 64;

		word >>= skip;
		if (word)
			return min_u64(at + (unsigned)__builtin_ctzll(word), end) - first;
		at += 64 - skip;
	}
	return end - first;
}

/* Whether this file has the sector at `addr`; *len is cut to where this changes, or to what is easily said. */
static int has_sectors(struct vhdx *v, uint64_t addr, bool *ret, uint64_t *len, struct err *err)
{
	uint64_t sector = addr >> v->sector_bits, chunk = sector / VHDX_CHUNK_SECTORS, offset, bit, nr;

	if (find_bitmap(v, chunk, err) < 0)
		return err_add(err, "sector bitmap %llu", (unsigned long long)chunk);
	bit = sector % VHDX_CHUNK_SECTORS;
	offset = v->bitmap + round_down(bit / 8, BITMAP_PIECE);
	if (v->bits_offset != offset) {
		v->bits_offset = 0;
		if (vhdx_log_read(&v->img.file, &v->log, v->bits, BITMAP_PIECE, offset, err) < 0)
			return err_add(err, "sector bitmap %llu", (unsigned long long)chunk);
		v->bits_offset = offset;
	}
	bit %= BITMAP_PIECE * 8;
	*ret = v->bits[bit / 8] >> bit % 8 & 1;
	nr = count_alike(v->bits, bit, BITMAP_PIECE * 8);
	*len = min_u64(*len, (nr << v->sector_bits) - addr % v->disk.logical_sector);
	return 0;
}

/* ---- extents ---- */

/* Makes *ret, of which offset and len are set, what lies at `offset` of the file, as far as it is alike. */
static void place_extent(const struct vhdx *v, uint64_t offset, struct extent *ret)
{
	const struct vhdx_update *u = vhdx_log_find(&v->log, offset);
	const struct image_file *f = &v->img.file;

	if (u && u->begin <= offset) {
		ret->len = min_u64(ret->len, u->end - offset);
		ret->kind = u->sector == VHDX_LOG_ZEROS ? EXTENT_ZERO : EXTENT_PACKED;
		ret->preallocated = ret->kind == EXTENT_ZERO;
		return;
	}
	if (u)
		ret->len = min_u64(ret->len, u->begin - offset);
	if (offset >= f->size) { /* only the log says that the file is so long */
		ret->kind = EXTENT_ZERO;
		return;
	}
	ret->len = min_u64(ret->len, f->size - offset);
	ret->kind = EXTENT_DATA;
	ret->file = f;
	ret->file_offset = offset;
}

/* What is alike from addr on, up to the end of its block. */
static int extent_at(struct image *img, uint64_t addr, struct extent *ret, struct err *err)
{
	struct vhdx *v = vhdx_of(img);
	uint64_t in = addr & (v->disk.block_size - 1), entry;
	enum vhdx_payload_state state;
	bool here;

	if (payload_entry(v, addr >> v->block_bits, &entry, err) < 0)
		return -1;
	state = (enum vhdx_payload_state)(entry & VHDX_BAT_STATE);
	image_extent_init(ret, EXTENT_ZERO, addr, v->disk.block_size - in);
	here = state == VHDX_FULLY_PRESENT;
	if (state == VHDX_PARTIALLY_PRESENT && has_sectors(v, addr, &here, &ret->len, err) < 0)
		return -1;
	if (here)
		place_extent(v, (entry & VHDX_BAT_OFFSET) + in, ret);
	else if (state == VHDX_NOT_PRESENT || state == VHDX_PARTIALLY_PRESENT)
		ret->kind = EXTENT_HOLE;
	return 0;
}

static int next_vhdx_extent(struct image *img, uint64_t from, struct extent *ret, struct err *err)
{
	return image_merge_extents(img, from, extent_at, NULL, 0, ret, err);
}

/* Payload that the log overwrites. */
static int read_packed(struct image *img, uint64_t offset, void *buf, size_t len, struct err *err)
{
	struct vhdx *v = vhdx_of(img);

	for (uint8_t *p = buf; len;) {
		uint64_t in = offset & (v->disk.block_size - 1), entry;
		size_t n = (size_t)min_u64(len, v->disk.block_size - in);

		if (payload_entry(v, offset >> v->block_bits, &entry, err) < 0 ||
		    vhdx_log_read(&img->file, &v->log, p, n, (entry & VHDX_BAT_OFFSET) + in, err) < 0)
			return -1;
		p += n;
		offset += n;
		len -= n;
	}
	return 0;
}

/* ---- opening ---- */

static int read_header(struct vhdx *v, struct vhdx_header *ret, struct err *err)
{
	uint8_t signature[8], *first = v->piece, *second = v->piece + VHDX_HEADER_SIZE;
	const struct image_file *f = &v->img.file;

	if (image_file_read(f, signature, sizeof(signature), 0, err) < 0)
		return -1;
	if (memcmp(signature, VHDX_SIGNATURE, sizeof(signature)) != 0)
		return err_set(err, ERR_FORMAT, "no VHDX signature found");
	if (image_file_read(f, first, VHDX_HEADER_SIZE, VHDX_HEADER_1, err) < 0 ||
	    image_file_read(f, second, VHDX_HEADER_SIZE, VHDX_HEADER_2, err) < 0)
		return err_add(err, "VHDX headers");
	return vhdx_header_decode(first, second, ret, err);
}

static int read_regions(struct vhdx *v, const struct vhdx_header *h, struct err *err)
{
	static const uint64_t offsets[] = { VHDX_REGIONS_1, VHDX_REGIONS_2 };

	for (size_t i = 0; i < ARRAY_SIZE(offsets); i++) {
		if (vhdx_log_read(&v->img.file, &v->log, v->piece, VHDX_TABLE_SIZE, offsets[i], err) < 0)
			return err_add(err, "region tables");
		if (vhdx_regions_valid(v->piece))
			return vhdx_regions_decode(v->piece, h, &v->regions, err);
	}
	return err_set(err, ERR_FORMAT, "neither of the two region tables is valid");
}

static int read_item(struct vhdx *v, const struct vhdx_item *item, void *ret, size_t len, struct err *err)
{
	return vhdx_log_read(&v->img.file, &v->log, ret, len, v->regions.metadata.begin + item->offset, err);
}

static int read_parent(struct vhdx *v, const struct vhdx_item *item, struct err *err)
{
	CLEANUP(free) uint8_t *p = malloc(item->length);
	struct image_info *info = &v->img.info;
	struct vhdx_parent parent;

	if (!item->length)
		return err_set(err, ERR_FORMAT, "the image has a parent, but no parent locator");
	if (!p)
		return err_set(err, ERR_MEMORY, "no memory for a parent locator");
	if (read_item(v, item, p, item->length, err) < 0 || vhdx_parent_decode(p, item->length, &parent, err) < 0)
		return -1;
	memcpy(info->backing_name, parent.name, sizeof(parent.name));
	memcpy(info->backing_id, parent.id, sizeof(parent.id));
	snprintf(info->backing_format, sizeof(info->backing_format), "vhdx");
	return 0;
}

static int read_metadata(struct vhdx *v, struct err *err)
{
	const struct vhdx_range *region = &v->regions.metadata;
	struct vhdx_item items[VHDX_NR_ITEMS];
	struct vhdx_parameters_disk parameters;
	le32 logical, physical;
	le64 size;

	if (vhdx_log_read(&v->img.file, &v->log, v->piece, VHDX_TABLE_SIZE, region->begin, err) < 0)
		return err_add(err, "metadata");
	if (vhdx_items_decode(v->piece, region->end - region->begin, items, err) < 0)
		return -1;
	if (read_item(v, &items[VHDX_PARAMETERS], &parameters, sizeof(parameters), err) < 0 ||
	    read_item(v, &items[VHDX_DISK_SIZE], &size, sizeof(size), err) < 0 ||
	    read_item(v, &items[VHDX_LOGICAL_SECTOR], &logical, sizeof(logical), err) < 0 ||
	    read_item(v, &items[VHDX_PHYSICAL_SECTOR], &physical, sizeof(physical), err) < 0)
		return err_add(err, "metadata");
	if (vhdx_disk_decode(&parameters, size, logical, physical, &v->disk, err) < 0)
		return -1;
	return v->disk.has_parent ? read_parent(v, &items[VHDX_PARENT_LOCATOR], err) : 0;
}

static int set_geometry(struct vhdx *v, struct err *err)
{
	uint64_t nr_blocks, nr;

	v->block_bits = (unsigned)__builtin_ctz(v->disk.block_size);
	v->sector_bits = (unsigned)__builtin_ctz(v->disk.logical_sector);
	v->ratio_bits = 23 + v->sector_bits - v->block_bits;
	v->nr_entries = (v->regions.bat.end - v->regions.bat.begin) / 8;
	nr_blocks = div_up(v->disk.size, v->disk.block_size);
	nr = nr_blocks ? nr_blocks + ((nr_blocks - 1) >> v->ratio_bits) : 0;
	if (nr > v->nr_entries)
		return err_set(err, ERR_FORMAT, "the BAT has %llu entries, but the disk needs %llu",
			       (unsigned long long)v->nr_entries, (unsigned long long)nr);
	if (v->regions.bat.end > v->log.file_size)
		return err_set(err, ERR_FORMAT, "the BAT ends past the end of the file");
	v->img.size = v->img.span = v->disk.size;
	v->img.layer = max_u64(round_up(v->disk.size, IMAGE_LAYER_UNIT), IMAGE_LAYER_UNIT);
	return 0;
}

static void set_info(struct vhdx *v, const struct vhdx_header *h)
{
	struct image_info *info = &v->img.info;
	const char *kind = v->disk.has_parent ? "differencing" : v->disk.fixed ? "fixed" : "dynamic";
	char words[64];

	info->version = 1;
	snprintf(info->kind, sizeof(info->kind), "%s", kind);
	info->cluster_size = v->disk.block_size;
	guid_text(h->data_write.b, true, info->id);
	info->dirty = v->log.nr_entries != 0;
	image_info_add(info, v->disk.logical_sector != 512, "sectors of 4096 bytes");
	snprintf(words, sizeof(words), "log replayed in memory (%u %s)", v->log.nr_entries,
		 v->log.nr_entries == 1 ? "entry" : "entries");
	image_info_add(info, info->dirty, words);
}

static int open_vhdx(struct image *img, const struct image_opener *opener, struct err *err)
{
	struct vhdx *v = vhdx_of(img);
	struct vhdx_header h;

	(void)opener;
	v->piece = malloc(PIECE);
	v->bits = malloc(BITMAP_PIECE);
	if (!v->piece || !v->bits)
		return err_set(err, ERR_MEMORY, "no memory for the tables of a VHDX image");
	if (read_header(v, &h, err) < 0 || vhdx_log_replay(&img->file, &h, &v->log, err) < 0 ||
	    read_regions(v, &h, err) < 0 || read_metadata(v, err) < 0 || set_geometry(v, err) < 0)
		return -1;
	set_info(v, &h);
	return 0;
}

static void release_vhdx(struct image *img)
{
	struct vhdx *v = vhdx_of(img);

	vhdx_log_release(&v->log);
	free(v->piece);
	free(v->bits);
}

static enum image_claim probe_vhdx(const struct image_look *look)
{
	return look->len >= 8 && memcmp(look->head, VHDX_SIGNATURE, 8) == 0 ? IMAGE_HEADER : IMAGE_NOT_MINE;
}

static const char *const extensions[] = { "vhdx", "avhdx", NULL };

extern const struct image_format image_format_vhdx;
const struct image_format image_format_vhdx = {
	.name = "vhdx",
	.extensions = extensions,
	.instance = sizeof(struct vhdx),
	.probe = probe_vhdx,
	.open = open_vhdx,
	.next_extent = next_vhdx_extent,
	.read_packed = read_packed,
	.release = release_vhdx,
};
static_assert(PIECE >= VHDX_TABLE_SIZE && PIECE >= 2 * VHDX_HEADER_SIZE, "what is decoded passes through the piece");
