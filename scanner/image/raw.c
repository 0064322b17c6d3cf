/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "scanner/base/checked.h"
#include "scanner/image/image.h"

/* Raw images: the file or block device is the disk.
 *
 * Holes of the file are a hint of the file system that spares reading zeros.  Where it gives none, all is data. */

static int probe_raw(const uint8_t *head, size_t len, const uint8_t *tail)
{
	(void)head, (void)len, (void)tail;
	return 1;
}

static struct image *open_raw(int fd, const char *path, const struct image_opener *opener, struct err *err)
{
	struct image *img;
	uint64_t size;

	(void)path, (void)opener;
	if (image_file_size(fd, &size, err) < 0)
		return NULL;
	img = calloc(1, sizeof(*img));
	if (!img)
		return err_null(err, ERR_MEMORY, "no memory to open an image");
	img->size = img->span = size;
	img->layer = max_u64(round_up(size, IMAGE_LAYER_UNIT), IMAGE_LAYER_UNIT);
	img->info.file_size = size;
	return img;
}

static int next_raw_extent(struct image *img, uint64_t from, struct extent *ret, struct err *err)
{
	uint64_t end = img->size;

	*ret = (struct extent){ .offset = from, .kind = EXTENT_DATA, .fd = img->fd, .file_offset = from };
	if (image_hole_at(img, img->fd, from, &end))
		ret->kind = EXTENT_HOLE;
	ret->len = min_u64(end - from, IMAGE_EXTENT_MAX);
	(void)err;
	return 0;
}

static void close_raw(struct image *img)
{
	free(img);
}

extern const struct image_format image_format_raw;
const struct image_format image_format_raw = {
	.name = "raw",
	.probe = probe_raw,
	.open = open_raw,
	.next_extent = next_raw_extent,
	.close = close_raw,
};
