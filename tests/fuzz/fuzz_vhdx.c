/* SPDX-License-Identifier: Apache-2.0 */
#include <limits.h>
#include <stdio.h>

#include "scanner/base/crc32c.h"
#include "scanner/image/vhdx_format.h"
#include "tests/fuzz/walk_help.h"

/* A VHDX image, opened and walked in both views.
 *
 * The smallest image has 4 MiB, almost all of them zeros, so an input is a list of pieces, each of a fixed length, that
 * are laid out where an image commonly has them; the rest is the log's.  Then the checksums are made right, unless the
 * first byte is odd, so that what lies behind them is reached.  A parent is the same image without a parent. */

#define FILE_MAX (24 * MIB)
#define LOG_AT MIB
#define LOG_MAX (32 * VHDX_LOG_SECTOR)
#define METADATA_AT (2 * MIB)
#define BAT_AT (3 * MIB)
#define BITMAP_AT (4 * MIB)

#define HEAD 8 /* flags; from byte 4 on the file's length */
static const struct {
	uint64_t at;
	size_t len;
} pieces[] = {
	{ VHDX_HEADER_1, 80 },	 { VHDX_HEADER_2, 80 }, { VHDX_REGIONS_1, 144 },
	{ VHDX_REGIONS_2, 144 }, { METADATA_AT, 288 },	{ METADATA_AT + 64 * KIB, 512 },
	{ BAT_AT, 256 },	 { BITMAP_AT, 256 },	{ BITMAP_AT + 2048, 64 },
};
#define NR_BAT_ENTRIES 4 /* an le32 where, an le64 what */

static uint8_t log_bytes[MIB];

static void put(int fd, const void *p, size_t len, uint64_t at)
{
	must(pwrite(fd, p, len, (off_t)at) == (ssize_t)len);
}

/* Makes a checksum right that is over `len` bytes of which the file has all. */
static void sum_up(int fd, uint64_t at, size_t len)
{
	uint8_t p[VHDX_TABLE_SIZE];

	must(len <= sizeof(p) && pread(fd, p, len, (off_t)at) == (ssize_t)len);
	le32_store(p + 4, vhdx_checksum(p, len));
	put(fd, p + 4, 4, at + 4);
}

/* Sums up the log's entries, the last one first: an entry may hold those behind it. */
static void sum_up_log(size_t len)
{
	for (size_t at = len / VHDX_LOG_SECTOR * VHDX_LOG_SECTOR; at > 0;) {
		size_t length, first;
		uint32_t crc;

		at -= VHDX_LOG_SECTOR;
		length = le32_load(log_bytes + at + 8);
		if (memcmp(log_bytes + at, VHDX_LOG_ENTRY_SIGNATURE, 4) != 0 || length < 64 || length > MIB)
			continue;
		first = (size_t)min_u64(length, MIB - at);
		crc = vhdx_checksum(log_bytes + at, first);
		le32_store(log_bytes + at + 4, crc32c(crc, log_bytes, length - first));
	}
}

static void put_log(int fd, const uint8_t *data, size_t size)
{
	size_t len = (size_t)min_u64(size, LOG_MAX);

	memcpy(log_bytes, data, len);
	sum_up_log(len);
	put(fd, log_bytes, len, LOG_AT);
	memset(log_bytes, 0, len);
}

static int layout(const uint8_t *data, size_t size, bool with_parent)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);
	const uint8_t *p = data + HEAD;
	uint8_t flags;

	must(fd >= 0 && ftruncate(fd, FILE_MAX) == 0);
	put(fd, VHDX_SIGNATURE, 8, 0);
	for (size_t i = 0; i < ARRAY_SIZE(pieces); p += pieces[i++].len)
		put(fd, p, pieces[i].len, pieces[i].at);
	for (unsigned i = 0; i < NR_BAT_ENTRIES; i++, p += 12)
		put(fd, p + 4, 8, BAT_AT + le32_load(p) % (MIB / 8) * 8);
	put_log(fd, p, (size_t)(data + size - p));
	must(pread(fd, &flags, 1, METADATA_AT + 64 * KIB + 4) == 1);
	flags &= with_parent ? 0xff : (uint8_t)~VHDX_HAS_PARENT;
	put(fd, &flags, 1, METADATA_AT + 64 * KIB + 4);
	if (!(data[0] & 1)) {
		sum_up(fd, VHDX_HEADER_1, VHDX_HEADER_SIZE);
		sum_up(fd, VHDX_HEADER_2, VHDX_HEADER_SIZE);
		sum_up(fd, VHDX_REGIONS_1, VHDX_TABLE_SIZE);
		sum_up(fd, VHDX_REGIONS_2, VHDX_TABLE_SIZE);
	}
	must(ftruncate(fd, (off_t)(le32_load(data + 4) % FILE_MAX)) == 0);
	return fd;
}

struct input {
	const uint8_t *data;
	size_t size;
};

static int open_parent(void *ctx, enum image_role role, const char *name, const char *from, char *ret_path,
		       struct err *err)
{
	const struct input *input = ctx;

	(void)err;
	must(role == IMAGE_BACKING && *name && strlen(name) < IMAGE_NAME_MAX && *from);
	snprintf(ret_path, PATH_MAX, "parent");
	return layout(input->data, input->size, false);
}

/* As walk_view(), but goes on behind what is damaged. */
static void walk_stored(struct image *img)
{
	struct err err = ERR_INIT;
	struct extent ext;
	uint64_t at = 0;

	for (unsigned i = 0; i < NR_EXTENTS && at < img->span; i++, at += ext.len) {
		if (image_next_extent(img, at, &ext, &err) < 0) {
			must(err.kind != ERR_NONE && err.text[0]);
			at += img->info.cluster_size;
			ext.len = 0;
			continue;
		}
		must(ext.offset == at && ext.len && ext.len <= img->span - at && ext.owner == img);
		read_some(&ext);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = { data, size };
	struct image_opener opener = { .open = open_parent, .ctx = &input };
	struct err err = ERR_INIT;
	size_t least = HEAD + NR_BAT_ENTRIES * 12;
	struct image *img;

	for (size_t i = 0; i < ARRAY_SIZE(pieces); i++)
		least += pieces[i].len;
	if (size < least)
		return 0;
	img = image_open(layout(data, size, true), "input", image_format_by_name("vhdx"), &opener, NULL, &err);
	if (!img) {
		must(err.kind != ERR_NONE && err.text[0]);
		return 0;
	}
	walk_stored(img);
	if (image_open_chain(img, &opener, &err) == 0)
		walk_view(img, true);
	image_close(img);
	return 0;
}
