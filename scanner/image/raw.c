/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/base/checked.h"
#include "scanner/image/image.h"

/* Raw images: the file or block device is the disk.
 *
 * Holes of the file are a hint of the file system that spares reading zeros.  Where it gives none, all is data. */

static enum image_claim probe_raw(const struct image_look *look)
{
	(void)look;
	return IMAGE_MAYBE;
}

static int open_raw(struct image *img, const struct image_opener *opener, struct err *err)
{
	(void)opener, (void)err;
	img->size = img->span = img->file.size;
	img->layer = max_u64(round_up(img->size, IMAGE_LAYER_UNIT), IMAGE_LAYER_UNIT);
	return 0;
}

static int next_raw_extent(struct image *img, uint64_t from, struct extent *ret, struct err *err)
{
	uint64_t end = img->size;

	*ret = (struct extent){ .offset = from, .kind = EXTENT_DATA, .file = &img->file, .file_offset = from };
	if (image_hole_at(img, &img->file, from, &end))
		ret->kind = EXTENT_HOLE;
	ret->len = min_u64(end - from, IMAGE_EXTENT_MAX);
	(void)err;
	return 0;
}

extern const struct image_format image_format_raw;
const struct image_format image_format_raw = {
	.name = "raw",
	.extensions = (const char *const[]){ "raw", "dd", NULL },
	.instance = sizeof(struct image),
	.probe = probe_raw,
	.open = open_raw,
	.next_extent = next_raw_extent,
};
