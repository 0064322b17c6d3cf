/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_TESTS_WALK_HELP_H
#define DEDUPSCAN_TESTS_WALK_HELP_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "scanner/base/checked.h"
#include "scanner/image/image.h"

/* For fuzz targets of image readers: opens bytes as an image and walks both views of it. */

#define NR_EXTENTS 512

static inline void must(int what)
{
	if (!what)
		abort();
}

static inline int file_of(const uint8_t *data, size_t size)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);

	must(fd >= 0 && write(fd, data, size) == (ssize_t)size);
	return fd;
}

/* Reads the first and the last bytes; what two reads give must be the same. */
static inline void read_some(const struct extent *ext)
{
	uint8_t once[700], again[700];
	size_t len = (size_t)min_u64(ext->len, sizeof(once));
	uint64_t last = ext->offset + ext->len - len;
	struct err err = ERR_INIT;

	if (image_read_extent(ext, ext->offset, once, len, &err) < 0)
		must(err.kind != ERR_NONE && err.text[0]);
	if (image_read_extent(ext, last, once, len, &err) == 0 && image_read_extent(ext, last, again, len, &err) == 0)
		must(memcmp(once, again, len) == 0);
}

static inline void walk_view(struct image *img, bool guest)
{
	uint64_t end = guest ? img->size : img->span, at = 0;
	struct err err = ERR_INIT;
	struct extent ext;

	for (unsigned i = 0; i < NR_EXTENTS && at < end; i++, at += ext.len) {
		if ((guest ? image_next_guest_extent : image_next_extent)(img, at, &ext, &err) < 0) {
			must(err.kind != ERR_NONE && err.text[0]);
			return;
		}
		must(ext.offset == at && ext.len && ext.len <= end - at);
		must(guest || (ext.owner == img && at / img->layer == (at + ext.len - 1) / img->layer));
		must(ext.kind != EXTENT_DATA || (ext.file && ext.file_offset >= ext.file->base));
		read_some(&ext);
	}
}

/* An image that names nothing outside; told to be of this format. */
static inline void walk_image(const uint8_t *data, size_t size, const char *format)
{
	struct err err = ERR_INIT;
	struct image *img = image_open(file_of(data, size), "input", image_format_by_name(format), NULL, NULL, &err);

	if (!img) {
		must(err.kind != ERR_NONE && err.text[0]);
		return;
	}
	walk_view(img, false);
	if (!img->info.encrypted && image_open_chain(img, NULL, &err) == 0)
		walk_view(img, true);
	image_close(img);
}

#endif
