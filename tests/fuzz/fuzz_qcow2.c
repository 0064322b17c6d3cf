/* SPDX-License-Identifier: Apache-2.0 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "scanner/base/checked.h"
#include "scanner/image/image.h"

/* The bytes of a qcow2 image, opened and walked in both views.  The first files that it names are copies of itself,
 * so that chains and data files are tried too; further names are refused. */

#define NR_EXTENTS 512
#define NR_FILES 2

struct files {
	const uint8_t *data;
	size_t size;
	unsigned nr_opened;
};

static void must(int what)
{
	if (!what)
		abort();
}

static int file_of(const uint8_t *data, size_t size)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);

	must(fd >= 0 && write(fd, data, size) == (ssize_t)size);
	return fd;
}

static int open_copy(void *ctx, enum image_role role, const char *name, const char *from, char *ret_path,
		     struct err *err)
{
	struct files *files = ctx;

	must(role == IMAGE_BACKING || role == IMAGE_DATA_FILE);
	must(*name && strlen(name) < IMAGE_NAME_MAX && *from);
	if (files->nr_opened++ >= NR_FILES)
		return err_set(err, ERR_REFUSED, "no more files");
	snprintf(ret_path, PATH_MAX, "copy %u", files->nr_opened);
	return file_of(files->data, files->size);
}

/* Reads the first and the last bytes; what two reads give must be the same. */
static void read_some(const struct extent *ext)
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

static void walk_stored(struct image *img)
{
	struct err err = ERR_INIT;
	struct extent ext;
	uint64_t at = 0;

	for (unsigned i = 0; i < NR_EXTENTS && at < img->span; i++, at += ext.len) {
		if (image_next_extent(img, at, &ext, &err) < 0) {
			must(err.kind != ERR_NONE && err.text[0]);
			return;
		}
		must(ext.offset == at && ext.len && ext.len <= img->span - at && ext.owner == img);
		must(at / img->layer == (at + ext.len - 1) / img->layer);
		read_some(&ext);
	}
}

static void walk_guest(struct image *img)
{
	struct err err = ERR_INIT;
	struct extent ext;
	uint64_t at = 0;

	for (unsigned i = 0; i < NR_EXTENTS && at < img->size; i++, at += ext.len) {
		if (image_next_guest_extent(img, at, &ext, &err) < 0) {
			must(err.kind != ERR_NONE && err.text[0]);
			return;
		}
		must(ext.offset == at && ext.len && ext.len <= img->size - at);
		read_some(&ext);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct files files = { .data = data, .size = size };
	struct image_opener opener = { .open = open_copy, .ctx = &files };
	struct err err = ERR_INIT;
	struct image *img = image_open(file_of(data, size), "input", image_format_by_name("qcow2"), &opener, NULL, &err);

	if (!img) {
		must(err.kind != ERR_NONE && err.text[0]);
		return 0;
	}
	walk_stored(img);
	if (image_open_chain(img, &opener, &err) == 0)
		walk_guest(img);
	image_close(img);
	return 0;
}
