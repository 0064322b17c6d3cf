/* SPDX-License-Identifier: Apache-2.0 */
#include <limits.h>

#include "tests/fuzz/walk_help.h"

/* The bytes of a qcow2 image, opened and walked in both views; then its snapshots and bitmaps are told, and one of the snapshots is
 * walked as the disk.  The first files that it names are copies of itself, so that chains and data files are tried too; further
 * names are refused. */

#define NR_FILES 2

struct files {
	const uint8_t *data;
	size_t size;
	unsigned nr_opened;
};

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

static void tell_snapshots(struct image *img)
{
	struct image_snapshot s;
	struct err err = ERR_INIT;
	uint64_t at = 0;

	for (unsigned i = 0; i < img->info.nr_snapshots && i < NR_EXTENTS; i++) {
		if (img->format->next_snapshot(img, &at, &s, &err) < 0) {
			must(err.kind != ERR_NONE && err.text[0]);
			return;
		}
		must(strnlen(s.id, sizeof(s.id)) < sizeof(s.id) && strnlen(s.name, sizeof(s.name)) < sizeof(s.name));
	}
}

static void tell_bitmaps(struct image *img)
{
	struct image_bitmap b;
	struct err err = ERR_INIT;
	uint64_t at = 0;

	for (unsigned i = 0; i < img->info.nr_bitmaps && i < NR_EXTENTS; i++) {
		if (img->format->next_bitmap(img, &at, &b, &err) < 0) {
			must(err.kind != ERR_NONE && err.text[0]);
			return;
		}
		must(b.granularity && strnlen(b.name, sizeof(b.name)) < sizeof(b.name));
	}
}

/* One of them becomes the disk. */
static void show_snapshot(struct image *img, unsigned any, bool chained)
{
	struct image_snapshot s;
	struct err err = ERR_INIT;

	if (!img->info.nr_snapshots)
		return;
	if (image_show_snapshot(img, 1 + any % min_u64(img->info.nr_snapshots, 16), &s, &err) < 0) {
		must(err.kind != ERR_NONE && err.text[0]);
		return;
	}
	must(img->size <= s.disk_size && img->span == img->size);
	walk_view(img, false);
	if (chained)
		walk_view(img, true);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct files files = { .data = data, .size = size };
	struct image_opener opener = { .open = open_copy, .ctx = &files };
	struct err err = ERR_INIT;
	struct image *img =
		image_open(file_of(data, size), "input", image_format_by_name("qcow2"), &opener, NULL, &err);
	bool chained;

	if (!img) {
		must(err.kind != ERR_NONE && err.text[0]);
		return 0;
	}
	walk_view(img, false);
	chained = image_open_chain(img, &opener, &err) == 0;
	if (chained)
		walk_view(img, true);
	tell_snapshots(img);
	tell_bitmaps(img);
	show_snapshot(img, size ? data[size - 1] : 0, chained);
	image_close(img);
	return 0;
}
