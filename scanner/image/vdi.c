/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scanner/base/checked.h"
#include "scanner/image/image.h"
#include "scanner/image/vdi_format.h"

/* The VDI reader.
 *
 *	block map	|  2  | free |  0  |  1  | zero | ...		one entry per block of the disk
 *	file		| header | map |x| block 0 |x| block 1 |x| block 2 | ...	x: extra bytes of a block
 *
 * The map is looked at through a *window*, 64 KiB of it.  Opening looks at the whole of it once, for a block of the
 * file belongs to one block of the disk at most: no map can make more data than there are bytes in the file.
 *
 * A differencing image knows its parent by UUID only, and VirtualBox keeps the names elsewhere.  So its stored view can
 * be read, its guest view cannot.
 *
 * Left out on purpose: images of version 0.2, which VirtualBox stopped writing in 2006, and undo images, which it has
 * never written. */

#define WINDOW_ENTRIES ((uint32_t)16 << 10)
#define WINDOWS_MAX 64 /* looked through in one next_extent() before it is content with what it has */

struct vdi {
	struct image img;
	struct vdi_header h;
	le32 *window; /* entries [window_begin, window_end) of the map */
	uint32_t window_begin, window_end;
	unsigned nr_loaded; /* windows, in this next_extent() */
};

static struct vdi *vdi_of(struct image *img)
{
	return (struct vdi *)img;
}

/* ---- the header ---- */

static int check_type(const struct vdi_header *h, struct err *err)
{
	if (h->type == VDI_UNDO)
		return err_set(err, ERR_UNSUPPORTED, "VDI undo images are not read");
	if (h->type < VDI_DYNAMIC || h->type > VDI_DIFFERENCING)
		return err_set(err, ERR_FORMAT, "VDI image type %u is not known", (unsigned)h->type);
	if (h->type == VDI_DIFFERENCING && !h->parent[0])
		return err_set(err, ERR_FORMAT, "a differencing VDI image does not say what it was made on");
	return 0;
}

static int check_sizes(const struct vdi_header *h, struct err *err)
{
	if (!is_pow2(h->block_size) || h->block_size < 512)
		return err_set(err, ERR_FORMAT, "blocks of %u bytes, which is no power of 2 from 512 on",
			       h->block_size);
	if (h->block_extra && !is_pow2(h->block_extra))
		return err_set(err, ERR_FORMAT, "blocks with %u extra bytes, which is no power of 2", h->block_extra);
	if (div_up(h->size, h->block_size) > h->nr_blocks)
		return err_set(err, ERR_FORMAT, "a disk of %llu bytes has more than %u blocks of %u bytes",
			       (unsigned long long)h->size, h->nr_blocks, h->block_size);
	if (h->map_offset < sizeof(struct vdi_header_disk))
		return err_set(err, ERR_FORMAT, "the block map at offset %llu overlaps the VDI header",
			       (unsigned long long)h->map_offset);
	if (h->data_offset < h->map_offset + (uint64_t)h->nr_blocks * sizeof(le32))
		return err_set(err, ERR_FORMAT, "the data at offset %llu overlap the block map of %u entries",
			       (unsigned long long)h->data_offset, h->nr_blocks);
	return 0;
}

int vdi_header_decode(const struct vdi_header_disk *d, struct vdi_header *ret, struct err *err)
{
	uint32_t version = le32_get(d->version);
	struct vdi_header h = {
		.type = le32_get(d->type),
		.map_offset = le32_get(d->map_offset),
		.data_offset = le32_get(d->data_offset),
		.size = le64_get(d->size),
		.block_size = le32_get(d->block_size),
		.block_extra = le32_get(d->block_extra),
		.nr_blocks = le32_get(d->nr_blocks),
	};

	if (le32_get(d->signature) != VDI_SIGNATURE)
		return err_set(err, ERR_FORMAT, "no VDI header found");
	if (version != VDI_VERSION_1_1)
		return err_set(err, ERR_UNSUPPORTED, "VDI version %u.%u is not read", version >> 16, version & 0xffff);
	if (le32_get(d->header_size) < VDI_HEADER_SIZE_MIN)
		return err_set(err, ERR_FORMAT, "a VDI header of %u bytes is too short", le32_get(d->header_size));
	guid_text_or_none(d->id, true, h.id);
	guid_text_or_none(d->parent, true, h.parent);
	if (check_type(&h, err) < 0 || check_sizes(&h, err) < 0)
		return -1;
	*ret = h;
	return 0;
}

/* ---- the block map ---- */

/* Bytes from one block of the file to the next. */
static uint64_t stride(const struct vdi *v)
{
	return (uint64_t)v->h.block_extra + v->h.block_size;
}

/* How many blocks begin in the file, as it was when it was opened. */
static uint64_t blocks_of_file(const struct vdi *v)
{
	uint64_t first = v->h.data_offset + v->h.block_extra;

	return v->img.file.size > first ? div_up(v->img.file.size - first, stride(v)) : 0;
}

static int check_window(const struct vdi *v, struct err *err)
{
	uint64_t room = blocks_of_file(v);

	for (uint32_t i = 0; i < v->window_end - v->window_begin; i++) {
		uint32_t entry = le32_get(v->window[i]);

		if (entry < VDI_ZERO && entry >= room)
			return err_set(err, ERR_FORMAT,
				       "block %u of the disk is said to be block %u of the file, which has only %llu",
				       v->window_begin + i, entry, (unsigned long long)room);
	}
	return 0;
}

static int seek_window(struct vdi *v, uint32_t block, struct err *err)
{
	uint32_t begin = block - block % WINDOW_ENTRIES, end = v->h.nr_blocks;

	if (block >= v->window_begin && block < v->window_end)
		return 0;
	if (end - begin > WINDOW_ENTRIES)
		end = begin + WINDOW_ENTRIES;
	v->nr_loaded++;
	v->window_begin = v->window_end = 0;
	if (image_file_read(&v->img.file, v->window, (end - begin) * sizeof(le32),
			    v->h.map_offset + begin * (uint64_t)sizeof(le32), err) < 0)
		return err_add(err, "block map");
	v->window_begin = begin;
	v->window_end = end;
	if (check_window(v, err) == 0)
		return 0;
	v->window_begin = v->window_end = 0;
	return -1;
}

static int check_map(struct vdi *v, struct err *err)
{
	uint64_t nr_data = 0, room = blocks_of_file(v);

	for (uint64_t block = 0; block < v->h.nr_blocks; block = v->window_end) {
		if (seek_window(v, (uint32_t)block, err) < 0)
			return -1;
		for (uint32_t i = 0; i < v->window_end - v->window_begin; i++)
			nr_data += le32_get(v->window[i]) < VDI_ZERO;
		if (nr_data > room)
			return err_set(err, ERR_FORMAT, "the block map uses %llu blocks, but the file has only %llu",
				       (unsigned long long)nr_data, (unsigned long long)room);
	}
	return 0;
}

/* ---- extents ---- */

/* What is at addr, up to the end of its block. */
static int extent_at(struct image *img, uint64_t addr, struct extent *ret, struct err *err)
{
	struct vdi *v = vdi_of(img);
	uint32_t block = (uint32_t)(addr / v->h.block_size), in = (uint32_t)(addr % v->h.block_size), entry;

	if (seek_window(v, block, err) < 0)
		return -1;
	entry = le32_get(v->window[block - v->window_begin]);
	image_extent_init(ret, EXTENT_HOLE, addr, v->h.block_size - in);
	if (entry == VDI_ZERO) {
		ret->kind = EXTENT_ZERO;
	} else if (entry != VDI_FREE) {
		ret->kind = EXTENT_DATA;
		ret->file = &v->img.file;
		ret->file_offset = v->h.data_offset + entry * stride(v) + v->h.block_extra + in;
	}
	return 0;
}

static int next_vdi_extent(struct image *img, uint64_t from, struct extent *ret, struct err *err)
{
	return image_merge_extents(img, from, extent_at, &vdi_of(img)->nr_loaded, WINDOWS_MAX, ret, err);
}

/* ---- opening ---- */

static enum image_claim probe_vdi(const struct image_look *look)
{
	if (look->len < VDI_SIGNATURE_OFFSET + 4 || le32_load(look->head + VDI_SIGNATURE_OFFSET) != VDI_SIGNATURE)
		return IMAGE_NOT_MINE;
	return IMAGE_HEADER;
}

static int read_header(struct vdi *v, struct err *err)
{
	struct vdi_header_disk d;
	ssize_t len = image_file_read_some(&v->img.file, &d, sizeof(d), 0, err);

	if (len < 0)
		return -1;
	if ((size_t)len < sizeof(d))
		return err_set(err, ERR_FORMAT, "the file ends inside the VDI header");
	return vdi_header_decode(&d, &v->h, err);
}

/* QEMU rounds an odd size up and VirtualBox down; a block has the bytes in any case, so nothing is left out. */
static int set_sizes(struct vdi *v, struct err *err)
{
	struct image *img = &v->img;

	if (v->h.size >= IMAGE_SPAN_MAX)
		return err_set(err, ERR_UNSUPPORTED, "a disk of %llu bytes is too large",
			       (unsigned long long)v->h.size);
	img->size = img->span = round_up(v->h.size, 512);
	img->layer = max_u64(round_up(img->size, IMAGE_LAYER_UNIT), IMAGE_LAYER_UNIT);
	return 0;
}

static void set_info(struct vdi *v)
{
	static const char *const kinds[] = {
		[VDI_DYNAMIC] = "dynamic", [VDI_FIXED] = "fixed", [VDI_DIFFERENCING] = "differencing"
	};
	struct image_info *info = &v->img.info;

	info->version = 1;
	info->cluster_size = v->h.block_size;
	snprintf(info->kind, sizeof(info->kind), "%s", kinds[v->h.type]);
	snprintf(info->id, sizeof(info->id), "%s", v->h.id);
	snprintf(info->backing_id, sizeof(info->backing_id), "%s", v->h.parent);
	if (v->h.parent[0])
		snprintf(info->features, sizeof(info->features), "parent %s", v->h.parent);
}

static int open_vdi(struct image *img, const struct image_opener *opener, struct err *err)
{
	struct vdi *v = vdi_of(img);

	(void)opener;
	if (read_header(v, err) < 0 || set_sizes(v, err) < 0)
		return -1;
	v->window = malloc(WINDOW_ENTRIES * sizeof(le32));
	if (!v->window)
		return err_set(err, ERR_MEMORY, "no memory for the block map");
	if (check_map(v, err) < 0)
		return -1;
	set_info(v);
	return 0;
}

static void release_vdi(struct image *img)
{
	free(vdi_of(img)->window);
}

extern const struct image_format image_format_vdi;
const struct image_format image_format_vdi = {
	.name = "vdi",
	.extensions = (const char *const[]){ "vdi", NULL },
	.instance = sizeof(struct vdi),
	.probe = probe_vdi,
	.open = open_vdi,
	.next_extent = next_vdi_extent,
	.release = release_vdi,
};
