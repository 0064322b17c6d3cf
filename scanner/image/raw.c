/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

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
	off_t data = lseek(img->fd, (off_t)from, SEEK_DATA), hole = -1;
	uint64_t end = img->size;

	(void)err;
	*ret = (struct extent){ .offset = from, .kind = EXTENT_DATA, .fd = img->fd, .file_offset = from };
	if (data == (off_t)from)
		hole = lseek(img->fd, (off_t)from, SEEK_HOLE);
	if (data > (off_t)from || (data < 0 && errno == ENXIO))
		ret->kind = EXTENT_HOLE;
	if (data > (off_t)from)
		end = min_u64(end, (uint64_t)data);
	if (hole > (off_t)from)
		end = min_u64(end, (uint64_t)hole);
	ret->len = min_u64(end - from, IMAGE_EXTENT_MAX);
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
