/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>

#include "tests/unit/image_help.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/image/vhd_format.h"

/* The VHD reader, with images made here:
 *
 *	0 copy of the footer, 512 header, 1536 data of parent locators, 2048 allocation table, 4096 on: blocks, footer
 *
 * Blocks have 4 KiB behind a bitmap of 512 bytes, in which all bits are set.  Every byte of the n-th block of the file
 * is n + 1. */

#define BLOCK 4096
#define HEADER 512
#define LOCATOR 1536
#define TABLE 2048
#define BLOCKS 4096
#define STEP (VHD_SECTOR + BLOCK)
#define NR_MAX 12
#define BITMAP_AT(n) (BLOCKS + (n)*STEP)
#define DATA_AT(n) (BITMAP_AT(n) + VHD_SECTOR)

struct disk {
	uint8_t p[BLOCKS + NR_MAX * STEP + VHD_FOOTER_SIZE];
	size_t len; /* without the footer */
};

static struct vhd_footer_disk *copy_of(struct disk *d)
{
	return (void *)d->p;
}

static struct vhd_footer_disk *footer_of(struct disk *d)
{
	return (void *)(d->p + d->len);
}

static struct vhd_header_disk *header_of(struct disk *d)
{
	return (void *)(d->p + HEADER);
}

static void seal(void *p, size_t len, size_t at)
{
	be32_store((uint8_t *)p + at, vhd_checksum(p, len, at));
}

static void seal_footer(struct vhd_footer_disk *f)
{
	seal(f, sizeof(*f), offsetof(struct vhd_footer_disk, checksum));
}

/* The copy becomes the footer, and all checksums are right. */
static void finish(struct disk *d)
{
	seal_footer(copy_of(d));
	seal(header_of(d), VHD_HEADER_SIZE, offsetof(struct vhd_header_disk, checksum));
	memcpy(footer_of(d), d->p, VHD_FOOTER_SIZE);
}

static void set_entry(struct disk *d, unsigned block, uint32_t entry)
{
	be32_store(d->p + TABLE + 4 * block, entry);
}

static void put_block(struct disk *d, unsigned block, unsigned n)
{
	set_entry(d, block, BITMAP_AT(n) / VHD_SECTOR);
}

static void set_bits(struct disk *d, unsigned n, uint8_t bits)
{
	d->p[BITMAP_AT(n)] = bits;
}

static void set_size(struct disk *d, uint64_t size)
{
	copy_of(d)->original_size = copy_of(d)->current_size = be64_from(size);
}

/* nr blocks, none of them in the file, which has room for nr_file. */
static struct disk *disk_new(enum vhd_type type, uint32_t nr, unsigned nr_file)
{
	struct disk *d = calloc(1, sizeof(*d));

	assert_non_null(d);
	*copy_of(d) = (struct vhd_footer_disk){
		.features = be32_from(VHD_RESERVED),
		.version = be32_from(0x10000),
		.header_offset = be64_from(HEADER),
		.time = be32_from(500000000),
		.cylinders = be16_from(65535),
		.heads = 16,
		.sectors = 255,
		.type = be32_from(type),
	};
	memcpy(copy_of(d)->cookie, VHD_FOOTER_COOKIE, 8);
	memcpy(copy_of(d)->creator, "win ", 4);
	memcpy(copy_of(d)->id, "\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff", 16);
	set_size(d, (uint64_t)nr * BLOCK);
	*header_of(d) = (struct vhd_header_disk){
		.data_offset = be64_from(UINT64_MAX),
		.table_offset = be64_from(TABLE),
		.version = be32_from(0x10000),
		.table_entries = be32_from(nr),
		.block_size = be32_from(BLOCK),
	};
	memcpy(header_of(d)->cookie, VHD_HEADER_COOKIE, 8);
	memset(d->p + TABLE, 0xff, BLOCKS - TABLE);
	for (unsigned n = 0; n < nr_file; n++) {
		memset(d->p + BITMAP_AT(n), 0xff, VHD_SECTOR);
		memset(d->p + DATA_AT(n), (int)n + 1, BLOCK);
	}
	d->len = BITMAP_AT(nr_file);
	return d;
}

static struct disk *dynamic(uint32_t nr, unsigned nr_file)
{
	return disk_new(VHD_DYNAMIC, nr, nr_file);
}

/* A child of "p.vhd". */
static struct disk *child(uint32_t nr, unsigned nr_file)
{
	struct disk *d = disk_new(VHD_DIFFERENCING, nr, nr_file);

	memset(header_of(d)->parent_id, 0xab, 16);
	memcpy(header_of(d)->parent_name, "\0p\0.\0v\0h\0d", 10);
	return d;
}

/* 8 blocks of data and the footer, and nothing else. */
static struct disk *fixed(void)
{
	struct disk *d = disk_new(VHD_FIXED, 0, 0);

	memmove(d->p + 8 * BLOCK, d->p, VHD_FOOTER_SIZE);
	for (int i = 0; i < 8; i++)
		memset(d->p + i * BLOCK, i + 1, BLOCK);
	d->len = 8 * BLOCK;
	footer_of(d)->header_offset = be64_from(UINT64_MAX);
	footer_of(d)->current_size = be64_from(d->len);
	seal_footer(footer_of(d));
	return d;
}

static struct image *open_bytes(struct disk *d, size_t len)
{
	struct image *img = must_open(file_of(d->p, len), "vhd", NULL);

	free(d);
	return img;
}

static struct image *opened(struct disk *d)
{
	finish(d);
	return open_bytes(d, d->len + VHD_FOOTER_SIZE);
}

static void expect_bytes_refused(struct disk *d, size_t len, enum err_kind kind, const char *text)
{
	struct err err = ERR_INIT;
	struct image *img = image_open(file_of(d->p, len), "test.img", image_format_by_name("vhd"), NULL, NULL, &err);

	free(d);
	if (img)
		fail_msg("opened; wanted '%s'", text);
	expect_error(&err, kind, text);
}

static void expect_refused(struct disk *d, enum err_kind kind, const char *text)
{
	finish(d);
	expect_bytes_refused(d, d->len + VHD_FOOTER_SIZE, kind, text);
}

#define expect_broken(text, ...)                                                                                       \
	do {                                                                                                           \
		struct disk *d = dynamic(4, 2);                                                                        \
		__VA_ARGS__;                                                                                           \
		expect_refused(d, ERR_FORMAT, text);                                                                   \
	} while (0)

static void expect_broken_at(struct image *img, uint64_t at, const char *text)
{
	struct err err = ERR_INIT;
	struct extent ext;

	assert_int_equal(image_next_extent(img, at, &ext, &err), -1);
	expect_error(&err, ERR_FORMAT, text);
}

/* ---- blocks ---- */

static void blocks_are_where_the_table_says(void **state)
{
	struct disk *d = dynamic(5, 3);
	struct image *img;

	(void)state;
	put_block(d, 1, 2);
	put_block(d, 2, 0);
	put_block(d, 3, 1);
	img = opened(d);
	assert_int_equal(img->size, 5 * BLOCK);
	assert_int_equal(img->span, 5 * BLOCK);
	assert_int_equal(img->layer, 2 * MIB);
	assert_string_equal(img->info.kind, "dynamic");
	assert_int_equal(img->info.cluster_size, BLOCK);
	assert_int_equal(img->info.version, 1);
	assert_string_equal(img->info.features, "");
	expect_extent(img, 0, BLOCK, EXTENT_HOLE);
	expect_data(img, BLOCK, BLOCK, DATA_AT(2));
	expect_data(img, 2 * BLOCK, BLOCK, DATA_AT(0)); /* its neighbour in the file, but for the bitmap */
	expect_data(img, 3 * BLOCK, BLOCK, DATA_AT(1));
	expect_extent(img, 4 * BLOCK, BLOCK, EXTENT_HOLE);
	expect_guest_bytes(img, 0, BLOCK, 0);
	expect_guest_bytes(img, BLOCK, BLOCK, 3);
	expect_guest_bytes(img, 2 * BLOCK, BLOCK, 1);
	image_close(img);
}

static void an_extent_begins_where_it_is_asked_for(void **state)
{
	struct disk *d = dynamic(2, 1);
	struct image *img;

	(void)state;
	put_block(d, 1, 0);
	img = opened(d);
	expect_data(img, BLOCK + 1001, BLOCK - 1001, DATA_AT(0) + 1001);
	expect_extent(img, 77, BLOCK - 77, EXTENT_HOLE);
	image_close(img);

	d = child(2, 1);
	put_block(d, 1, 0);
	set_bits(d, 0, 0x3f);
	img = opened(d);
	expect_data(img, BLOCK + 1100, BLOCK - 1100, DATA_AT(0) + 1100);
	expect_extent(img, 77, BLOCK + 1024 - 77, EXTENT_HOLE);
	image_close(img);
}

static void a_disk_may_end_inside_its_last_block(void **state)
{
	struct disk *d = dynamic(2, 1);
	struct image *img;

	(void)state;
	put_block(d, 1, 0);
	set_size(d, BLOCK + 1024 + 100);
	d->len -= BLOCK - 1024; /* what no disk uses need not be there */
	img = opened(d);
	assert_int_equal(img->size, BLOCK + 1024);
	expect_data(img, BLOCK, 1024, DATA_AT(0));
	image_close(img);
}

/* A file of any length that is mostly hole: this disk's first bytes, and the footer at the end. */
static int sparse_file_of(struct disk *d, uint64_t len)
{
	int fd;

	finish(d);
	fd = file_of(d->p, d->len);
	assert_int_equal(pwrite(fd, d->p, VHD_FOOTER_SIZE, (off_t)len - VHD_FOOTER_SIZE), VHD_FOOTER_SIZE);
	free(d);
	return fd;
}

static void holes_are_passed_at_once_and_tables_read_in_pieces(void **state)
{
	uint32_t nr = 40000, last = 36000, entry = 2048;
	struct disk *d = dynamic(nr, 0);
	struct image *img;
	uint8_t *table = malloc(4 * nr);
	int fd;

	(void)state;
	assert_non_null(table);
	memset(table, 0xff, 4 * nr);
	be32_store(table + 4 * last, entry);
	header_of(d)->table_offset = be64_from(3000); /* nothing says that it is aligned */
	d->len = 2048;
	fd = sparse_file_of(d, 2 * MIB);
	assert_int_equal(pwrite(fd, table, 4 * nr, 3000), 4 * nr);
	free(table);
	img = must_open(fd, "vhd", NULL);
	expect_extent(img, 0, (uint64_t)last * BLOCK, EXTENT_HOLE);
	expect_data(img, (uint64_t)last * BLOCK, BLOCK, MIB + VHD_SECTOR);
	expect_extent(img, (uint64_t)(last + 1) * BLOCK, (uint64_t)(nr - last - 1) * BLOCK, EXTENT_HOLE);
	image_close(img);
}

static void blocks_lie_up_to_two_tib_into_the_file(void **state)
{
	struct disk *d = dynamic(4, 0);
	struct image *img;
	struct err err = ERR_INIT;
	struct extent ext;
	char byte;
	int fd;

	(void)state;
	header_of(d)->block_size = be32_from(2 * MIB);
	set_size(d, 8 * MIB);
	set_entry(d, 2, 0xfffffffe);
	set_entry(d, 3, 0xfffffff0 - 4096);
	fd = sparse_file_of(d, 0xfffffffeull * 512 + 512 + 2 * MIB + 512);
	assert_int_equal(pwrite(fd, "x", 1, (off_t)(0xfffffffeull * 512 + 512)), 1);
	img = must_open(fd, "vhd", NULL);
	assert_int_equal(image_next_extent(img, 4 * MIB, &ext, &err), 0);
	assert_int_equal(ext.kind, EXTENT_DATA);
	assert_int_equal(ext.file_offset, 0xfffffffeull * 512 + 512);
	assert_int_equal(image_read_guest(img, 4 * MIB, &byte, 1, &err), 0);
	assert_int_equal(byte, 'x');
	image_close(img);
}

static void the_bits_of_a_dynamic_disk_do_not_hide_what_lies_there(void **state)
{
	struct disk *d = dynamic(1, 1);
	struct image *img;

	(void)state;
	put_block(d, 0, 0);
	memset(d->p + BITMAP_AT(0), 0, VHD_SECTOR);
	img = opened(d);
	expect_data(img, 0, BLOCK, DATA_AT(0));
	expect_guest_bytes(img, 0, BLOCK, 1);
	image_close(img);
}

/* ---- differencing disks ---- */

static void bits_say_which_sectors_are_the_parents(void **state)
{
	struct disk *d = child(3, 2);
	struct image *img;

	(void)state;
	put_block(d, 0, 0);
	put_block(d, 1, 1);
	set_bits(d, 0, 0xb0); /* 1011 0000 */
	set_bits(d, 1, 0x01);
	img = opened(d);
	assert_string_equal(img->info.kind, "differencing");
	expect_data(img, 0, 512, DATA_AT(0));
	expect_extent(img, 512, 512, EXTENT_HOLE);
	expect_data(img, 1024, 1024, DATA_AT(0) + 1024);
	expect_extent(img, 2048, BLOCK - 2048 + 7 * 512, EXTENT_HOLE); /* over the end of the block */
	expect_data(img, BLOCK + 7 * 512, 512, DATA_AT(1) + 7 * 512);
	expect_extent(img, 2 * BLOCK, BLOCK, EXTENT_HOLE);
	image_close(img);
}

static void bits_behind_the_sectors_of_a_block_count_for_nothing(void **state)
{
	struct disk *d = child(8, 2);
	struct image *img;

	(void)state;
	header_of(d)->block_size = be32_from(512);
	set_size(d, 8 * 512);
	put_block(d, 0, 0);
	put_block(d, 2, 1);
	set_bits(d, 0, 0x80);
	set_bits(d, 1, 0x7f);
	d->len = BITMAP_AT(1) + 2 * VHD_SECTOR;
	img = opened(d);
	expect_data(img, 0, 512, DATA_AT(0));
	expect_extent(img, 512, 7 * 512, EXTENT_HOLE);
	image_close(img);
}

static void large_bitmaps_are_read_in_pieces(void **state)
{
	struct disk *d = child(2, 0);
	uint64_t block = 64 * MIB, bitmap = 16384, at = 8192 * VHD_SECTOR;
	uint8_t bits[16384];
	struct image *img;
	int fd;

	(void)state;
	header_of(d)->block_size = be32_from((uint32_t)block);
	set_size(d, 2 * block);
	set_entry(d, 1, 8192);
	fd = sparse_file_of(d, at + bitmap + block + 512);
	memset(bits, 0xff, sizeof(bits));
	bits[0] = 0x7f;
	bits[4096] = 0xfe; /* sector 32775 is the parent's */
	assert_int_equal(pwrite(fd, bits, sizeof(bits), (off_t)at), sizeof(bits));
	for (uint64_t i = 0; i < bitmap + block; i += 65536) /* so that it is no hole of the file */
		assert_int_equal(pwrite(fd, "x", 1, (off_t)(at + bitmap + i)), 1);
	img = must_open(fd, "vhd", NULL);
	expect_extent(img, 0, block + 512, EXTENT_HOLE);
	expect_extent(img, block + 32775 * 512, 512, EXTENT_HOLE);
	expect_data(img, block + 32776 * 512, block - 32776 * 512, at + bitmap + 32776 * 512);
	image_close(img);
}

struct family {
	struct disk *parent;
	const char *asked;
};

static int open_parent(void *ctx, enum image_role role, const char *name, const char *from, char *ret_path,
		       struct err *err)
{
	struct family *f = ctx;

	(void)err;
	assert_int_equal(role, IMAGE_BACKING);
	assert_string_equal(from, "test.img");
	assert_string_equal(name, f->asked);
	snprintf(ret_path, PATH_MAX, "%s", name);
	finish(f->parent);
	return file_of(f->parent->p, f->parent->len + VHD_FOOTER_SIZE);
}

static struct disk *parent_of_p(void)
{
	struct disk *d = dynamic(2, 2);

	put_block(d, 0, 1);
	memset(copy_of(d)->id, 0xab, 16);
	return d;
}

static void the_guest_sees_the_parent_through_clear_bits(void **state)
{
	struct disk *d = child(3, 1);
	struct family f = { parent_of_p(), "p.vhd" };
	struct image_opener opener = { .open = open_parent, .ctx = &f };
	struct err err = ERR_INIT;
	struct image *img;

	(void)state;
	put_block(d, 0, 0);
	set_bits(d, 0, 0x0f);
	img = opened(d);
	assert_string_equal(img->info.backing_format, "vhd");
	assert_string_equal(img->info.backing_id, "abababab-abab-abab-abab-abababababab");
	assert_string_equal(img->info.id, "00112233-4455-6677-8899-aabbccddeeff");
	assert_int_equal(image_open_chain(img, &opener, &err), 0);
	expect_guest_bytes(img, 0, BLOCK / 2, 2);
	expect_guest_bytes(img, BLOCK / 2, BLOCK / 2, 1);
	expect_guest_bytes(img, BLOCK, 2 * BLOCK, 0);
	image_close(img);
	free(f.parent);
}

static void a_parent_of_another_id_is_not_taken(void **state)
{
	struct family f = { parent_of_p(), "p.vhd" };
	struct image_opener opener = { .open = open_parent, .ctx = &f };
	struct err err = ERR_INIT;
	struct image *img = opened(child(3, 1));

	(void)state;
	copy_of(f.parent)->id[15] = 1;
	assert_int_equal(image_open_chain(img, &opener, &err), -1);
	expect_error(&err, ERR_STALE, "made on abababab-abab-abab-abab-abababababab, but this is abababab-abab-");
	image_close(img);
	free(f.parent);
}

static void a_parent_without_an_id_may_be_of_any_format(void **state)
{
	struct disk *d = child(1, 0);
	struct image *img;

	(void)state;
	memset(header_of(d)->parent_id, 0, 16);
	img = opened(d);
	assert_string_equal(img->info.backing_name, "p.vhd");
	assert_string_equal(img->info.backing_format, "");
	assert_string_equal(img->info.backing_id, "");
	image_close(img);
}

/* ---- the parent's name ---- */

static void add_locator(struct disk *d, unsigned i, uint32_t platform, const void *data, size_t len, uint32_t space)
{
	uint64_t at = LOCATOR + 100 * i;

	header_of(d)->locators[i] = (struct vhd_locator_disk){ be32_from(platform), be32_from(space),
							       be32_from((uint32_t)len), be32_from(0), be64_from(at) };
	memcpy(d->p + at, data, len);
}

static void add_utf16(struct disk *d, unsigned i, uint32_t platform, const char *text)
{
	uint8_t units[512];
	size_t len = strlen(text);

	for (size_t k = 0; k < len; k++)
		le16_store(units + 2 * k, (uint8_t)text[k]);
	add_locator(d, i, platform, units, 2 * len, 1);
}

static void expect_parent(struct disk *d, const char *name)
{
	struct image *img = opened(d);

	assert_string_equal(img->info.backing_name, name);
	image_close(img);
}

static void a_locator_names_the_parent(void **state)
{
	static const struct {
		uint32_t platform;
		const char *text, *name;
	} cases[] = {
		{ VHD_W2RU, ".\\a.vhd", "./a.vhd" },
		{ VHD_W2RU, "..\\sub\\a.vhd", "../sub/a.vhd" },
		{ VHD_W2RU, "./sub/a b.vhd", "./sub/a b.vhd" },
		{ VHD_W2RU, "\\sub\\a.vhd", "a.vhd" },
		{ VHD_W2RU,
		  "gr\xf6\xdf"
		  "e.vhd",
		  "gr\xc3\xb6\xc3\x9f"
		  "e.vhd" },
		{ VHD_W2KU, "C:\\dir\\a.vhd", "a.vhd" },
		{ VHD_W2KU, "c:a.vhd", "a.vhd" },
		{ VHD_W2KU, "z:/dir/a.vhd", "a.vhd" },
		{ VHD_W2KU, "\\\\server\\share\\a.vhd", "a.vhd" },
		{ VHD_W2KU, "\\\\?\\C:\\dir\\a.vhd", "a.vhd" },
		{ VHD_W2KU, "/images/a.vhd", "/images/a.vhd" },
		{ VHD_W2KU, "1:\\a.vhd", "1:/a.vhd" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct disk *d = child(1, 0);

		add_utf16(d, 0, cases[i].platform, cases[i].text);
		expect_parent(d, cases[i].name);
	}
}

static void a_url_names_the_parent(void **state)
{
	static const char *const cases[][2] = {
		{ "file://localhost/dir/a.vhd", "/dir/a.vhd" },
		{ "file:///dir/a.vhd", "/dir/a.vhd" },
		{ "FILE://my.host.org/a.vhd", "/a.vhd" },
		{ "file://./a.vhd", "./a.vhd" },
		{ "file://../a.vhd", "../a.vhd" },
		{ "a.vhd", "a.vhd" },
		{ "file:///a%20b%2Dc%c3%A4.vhd", "/a b-c\xc3\xa4.vhd" },
		{ "file:///100%25.vhd", "/100%.vhd" },
		{ "file:///a\\b.vhd", "/a\\b.vhd" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct disk *d = child(1, 0);

		add_locator(d, 3, VHD_MACX, cases[i][0], strlen(cases[i][0]), 512);
		expect_parent(d, cases[i][1]);
	}
}

static void relative_locators_go_before_absolute_ones_and_names(void **state)
{
	struct disk *d = child(1, 0);

	(void)state;
	add_locator(d, 0, 0x4d616320, "\1\2\3", 3, 1); /* Mac: an alias */
	add_locator(d, 1, VHD_MACX, "file:///m.vhd", 13, 1);
	add_utf16(d, 2, VHD_W2KU, "C:\\k.vhd");
	add_utf16(d, 3, VHD_W2RU, "r.vhd");
	expect_parent(d, "r.vhd");

	d = child(1, 0);
	add_locator(d, 1, VHD_MACX, "file:///m.vhd", 13, 1);
	add_utf16(d, 2, VHD_W2KU, "C:\\k.vhd");
	expect_parent(d, "k.vhd");

	d = child(1, 0);
	add_locator(d, 0, 0x57693272, "old.vhd", 7, 1); /* Wi2r */
	add_locator(d, 1, VHD_W2RU, "", 0, 0);
	add_locator(d, 2, VHD_MACX, "file:///m.vhd", 13, 1);
	expect_parent(d, "/m.vhd");
}

static void the_name_in_the_header_is_the_last_resort(void **state)
{
	char name[257] = "";
	static const char path[] = "\0C\0:\0\\\0d\0\\\xd8\x34\xdd\x1e\0.\0v\0h\0d";
	struct disk *d = child(1, 0);

	(void)state;
	add_locator(d, 0, 0x57693272, "old.vhd", 7, 1);
	expect_parent(d, "p.vhd");
	d = child(1, 0);
	memcpy(header_of(d)->parent_name, path, sizeof(path));
	expect_parent(d, "\xf0\x9d\x84\x9e.vhd");
	d = child(1, 0);
	for (int i = 0; i < 256; i++) /* not terminated */
		be16_store(header_of(d)->parent_name + 2 * i, 'n');
	memset(name, 'n', 256);
	expect_parent(d, name);
}

static void names_end_at_a_zero_and_may_have_a_byte_order_mark(void **state)
{
	struct disk *d = child(1, 0);

	(void)state;
	add_locator(d, 0, VHD_W2RU, "a\0b\0\0\0c\0", 8, 1);
	expect_parent(d, "ab");
	d = child(1, 0);
	add_locator(d, 0, VHD_W2RU,
		    "\xff\xfe"
		    "a\0b\0",
		    6, 1);
	expect_parent(d, "ab");
	d = child(1, 0);
	add_locator(d, 0, VHD_W2RU, "\xfe\xff\0a\0b", 6, 1);
	expect_parent(d, "ab");
	d = child(1, 0);
	add_locator(d, 0, VHD_W2RU, "a\0b\0c", 5, 1);
	expect_parent(d, "ab");
}

static void room_for_a_locator_is_told_in_sectors_or_bytes(void **state)
{
	struct disk *d = child(1, 0);

	(void)state;
	add_locator(d, 0, VHD_W2RU, "a\0", 2, 1);
	expect_parent(d, "a");
	d = child(1, 0);
	add_locator(d, 0, VHD_W2RU, "a\0", 2, 512);
	expect_parent(d, "a");
	d = child(1, 0);
	add_locator(d, 0, VHD_W2RU, "a\0", 2, 0);
	expect_parent(d, "a");
	d = child(1, 0);
	add_locator(d, 2, VHD_W2RU, "a\0", 2, 1);
	header_of(d)->locators[2].length = be32_from(513);
	expect_refused(d, ERR_FORMAT, "parent locator 2 has 513 bytes in room for 512");
}

#define expect_name_refused(text, ...)                                                                                 \
	do {                                                                                                           \
		struct disk *d = child(1, 0);                                                                          \
		__VA_ARGS__;                                                                                           \
		expect_refused(d, ERR_FORMAT, text);                                                                   \
	} while (0)

static void refuses_names_that_make_no_sense(void **state)
{
	(void)state;
	expect_name_refused("the parent's name: the parent's name '' is not that of a file",
			    memset(header_of(d)->parent_name, 0, 10));
	expect_name_refused("parent locator 0: the parent's name '' is", add_utf16(d, 0, VHD_W2KU, "C:\\dir\\"));
	expect_name_refused("'..' is not that of a file", add_utf16(d, 0, VHD_W2RU, ".."));
	expect_name_refused("'a/.' is not that of a file", add_utf16(d, 0, VHD_W2RU, "a\\."));
	expect_name_refused("'' is not that of a file", add_locator(d, 0, VHD_W2RU, "\0\0a\0", 4, 1));
	expect_name_refused("'' is not that", add_locator(d, 0, VHD_MACX, "file://host", 11, 1));
	expect_name_refused("not valid UTF-16", add_locator(d, 0, VHD_W2RU, "\x34\xd8", 2, 1));
	expect_name_refused("not valid UTF-16", add_locator(d, 0, VHD_W2RU,
							    "\x34\xd8"
							    "a\0",
							    4, 1));
	expect_name_refused("not valid UTF-16", add_locator(d, 0, VHD_W2RU, "\x1e\xdd\x34\xd8", 4, 1));
	expect_name_refused("not a valid URL", add_locator(d, 0, VHD_MACX, "file:///a%2", 11, 1));
	expect_name_refused("not valid UTF-16", add_locator(d, 0, VHD_W2RU, "\x1e\xdd\x1e\xdd", 4, 1));
	expect_name_refused("not a valid URL", add_locator(d, 0, VHD_MACX, "file:///a%2g", 12, 1));
	expect_name_refused("not a valid URL", add_locator(d, 0, VHD_MACX, "file:///a%g2", 12, 1));
	expect_name_refused("not a valid URL", add_locator(d, 0, VHD_MACX, "file:///a%00b", 13, 1));
}

static void refuses_locators_that_point_nowhere(void **state)
{
	(void)state;
	expect_name_refused("parent locator 1: 4 bytes at offset 4607 end past the end of the file",
			    add_locator(d, 1, VHD_W2RU, "a\0b\0", 4, 1);
			    header_of(d)->locators[1].offset = be64_from(d->len + 511));
	expect_name_refused("past the end of the file", add_locator(d, 1, VHD_W2RU, "a\0b\0", 4, 1);
			    header_of(d)->locators[1].offset = be64_from(UINT64_MAX - 1));
	expect_name_refused("parent locator 7 of 4097 bytes is too long", add_locator(d, 7, VHD_MACX, "a", 1, 4097);
			    header_of(d)->locators[7].length = be32_from(4097));
	expect_name_refused("parent locator 7 of 4294967295 bytes is too long",
			    add_locator(d, 7, VHD_MACX, "a", 1, UINT32_MAX);
			    header_of(d)->locators[7].length = be32_from(UINT32_MAX));
}

static void refuses_names_that_are_too_long(void **state)
{
	char name[IMAGE_NAME_MAX];
	uint8_t data[4096];
	struct err err = ERR_INIT;

	(void)state;
	memset(data, 'a', sizeof(data));
	assert_int_equal(vhd_locator_path(VHD_MACX, data, IMAGE_NAME_MAX - 1, name, sizeof(name), &err), 0);
	assert_int_equal(strlen(name), IMAGE_NAME_MAX - 1);
	assert_int_equal(vhd_locator_path(VHD_MACX, data, IMAGE_NAME_MAX, name, sizeof(name), &err), -1);
	expect_error(&err, ERR_FORMAT, "the parent's name is too long");
	for (int i = 0; i < 2048; i++)
		le16_store(data + 2 * i, 0x20ac); /* three bytes in UTF-8 */
	assert_int_equal(vhd_locator_path(VHD_W2RU, data, 341 * 2, name, sizeof(name), &err), 0);
	assert_int_equal(strlen(name), 1023);
	assert_int_equal(vhd_locator_path(VHD_W2RU, data, 342 * 2, name, sizeof(name), &err), -1);
	expect_error(&err, ERR_FORMAT, "the parent's name is too long");
	for (int i = 0; i < 2048; i++)
		le16_store(data + 2 * i, 'a');
	assert_int_equal(vhd_locator_path(VHD_W2RU, data, 1023 * 2, name, sizeof(name), &err), 0);
	assert_int_equal(vhd_locator_path(VHD_W2RU, data, 1024 * 2, name, sizeof(name), &err), -1);
	memset(data + 2, 0, sizeof(data) - 2); /* what follows the end does not count */
	assert_int_equal(vhd_locator_path(VHD_W2RU, data, sizeof(data), name, sizeof(name), &err), 0);
	assert_int_equal(vhd_locator_path(VHD_MACX, data, sizeof(data), name, sizeof(name), &err), 0);
	assert_string_equal(name, "a");
}

static void tells_of_what_age_the_parent_is(void **state)
{
	struct disk *d = child(1, 0);
	struct image *img;

	(void)state;
	header_of(d)->parent_time = be32_from(86400 * 366 + 3661);
	copy_of(d)->features = be32_from(VHD_RESERVED | VHD_TEMPORARY);
	copy_of(d)->saved_state = 1;
	img = opened(d);
	assert_string_equal(img->info.features, "temporary, saved state, parent of 2001-01-01 01:01:01");
	image_close(img);
}

/* ---- fixed disks ---- */

static void a_fixed_disk_is_all_before_the_footer(void **state)
{
	struct image *img = open_bytes(fixed(), 8 * BLOCK + 512);

	(void)state;
	assert_string_equal(img->info.kind, "fixed");
	assert_int_equal(img->size, 8 * BLOCK);
	assert_int_equal(img->span, 8 * BLOCK);
	assert_int_equal(img->info.cluster_size, 0);
	assert_string_equal(img->info.id, "00112233-4455-6677-8899-aabbccddeeff");
	expect_data(img, 0, 8 * BLOCK, 0);
	expect_data(img, 5000, 8 * BLOCK - 5000, 5000);
	expect_guest_bytes(img, 7 * BLOCK, BLOCK, 8);
	image_close(img);
}

static void holes_of_a_fixed_disk_are_not_read(void **state)
{
	struct disk *d = fixed();
	int fd = file_of(NULL, 0);
	struct image *img;

	(void)state;
	footer_of(d)->current_size = be64_from(64 * BLOCK);
	seal_footer(footer_of(d));
	assert_int_equal(pwrite(fd, "x", 1, 16 * BLOCK), 1);
	assert_int_equal(pwrite(fd, footer_of(d), 512, 64 * BLOCK), 512);
	free(d);
	img = must_open(fd, "vhd", NULL);
	expect_extent(img, 0, 16 * BLOCK, EXTENT_HOLE);
	expect_data(img, 16 * BLOCK, BLOCK, 16 * BLOCK);
	expect_extent(img, 17 * BLOCK, 47 * BLOCK, EXTENT_HOLE);
	image_close(img);
}

static void what_the_guest_does_not_see_of_a_fixed_disk_is_stored_all_the_same(void **state)
{
	struct disk *d = fixed();
	struct image *img;

	(void)state;
	footer_of(d)->current_size = be64_from(BLOCK + 511);
	seal_footer(footer_of(d));
	img = open_bytes(d, 8 * BLOCK + 512);
	assert_int_equal(img->size, BLOCK);
	assert_int_equal(img->span, 8 * BLOCK);
	expect_data(img, 0, 8 * BLOCK, 0);
	image_close(img);
}

static void refuses_a_fixed_disk_that_is_cut(void **state)
{
	struct disk *d = fixed();

	(void)state;
	footer_of(d)->current_size = be64_from(8 * BLOCK + 512);
	seal_footer(footer_of(d));
	expect_bytes_refused(d, 8 * BLOCK + 512, ERR_FORMAT, "a fixed disk of 33280 bytes in a file with only 32768");
}

/* ---- the size ---- */

static void the_creator_decides_between_geometry_and_size(void **state)
{
	static const struct {
		char creator[5];
		bool exact;
	} cases[] = {
		{ "vpc ", false },  { "vs  ", false }, { "qemu", false }, { "vbox", false },  { "win\0", false },
		{ "tapx", false },  { "tap ", false }, { "win ", true },  { "qem2", true },   { "d2v ", true },
		{ "d2v\0", false }, { "tap\0", true }, { "CTXS", true },  { "wa\0\0", true },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct disk *d = dynamic(8, 0);
		struct image *img;

		memcpy(copy_of(d)->creator, cases[i].creator, 4);
		copy_of(d)->cylinders = be16_from(2);
		copy_of(d)->heads = 3;
		copy_of(d)->sectors = 7;
		img = opened(d);
		assert_int_equal(img->size, cases[i].exact ? 8 * BLOCK : 42 * 512);
		assert_int_equal(img->span, 8 * BLOCK); /* what lies behind the geometry is stored */
		image_close(img);
	}
}

static void no_geometry_and_the_largest_one_mean_the_size(void **state)
{
	(void)state;
	for (int heads = 0; heads <= 16; heads += 16) {
		struct disk *d = dynamic(8, 0);
		struct image *img;

		memcpy(copy_of(d)->creator, "vpc ", 4);
		copy_of(d)->heads = (uint8_t)heads;
		img = opened(d);
		assert_int_equal(img->size, 8 * BLOCK);
		image_close(img);
	}
}

static void the_stored_view_ends_where_the_table_does(void **state)
{
	struct disk *d = dynamic(8, 0);
	struct image *img;

	(void)state;
	memcpy(copy_of(d)->creator, "vpc ", 4);
	copy_of(d)->cylinders = be16_from(1);
	copy_of(d)->heads = 1;
	copy_of(d)->sectors = 9;
	set_size(d, INT64_MAX);
	img = opened(d);
	assert_int_equal(img->size, 9 * 512);
	assert_int_equal(img->span, 8 * BLOCK);
	image_close(img);
}

static void refuses_sizes_that_make_no_sense(void **state)
{
	(void)state;
	expect_broken("the block allocation table is too small for a disk of 16896 bytes",
		      set_size(d, 4 * BLOCK + 512));
	expect_broken("too small for a disk of 9223372036854775296 bytes", set_size(d, INT64_MAX));
	expect_broken("a disk of 9223372036854775808 bytes is too large", set_size(d, (uint64_t)INT64_MAX + 1));
	expect_broken("too large", set_size(d, UINT64_MAX));
}

/* ---- footers ---- */

static void the_copy_stands_in_for_a_broken_footer(void **state)
{
	struct disk *d = dynamic(2, 1);
	struct image *img;

	(void)state;
	put_block(d, 1, 0);
	finish(d);
	footer_of(d)->id[0] ^= 1;
	img = open_bytes(d, d->len + 512);
	assert_string_equal(img->info.features, "footer broken, its copy used");
	assert_string_equal(img->info.id, "00112233-4455-6677-8899-aabbccddeeff");
	expect_guest_bytes(img, BLOCK, BLOCK, 1);
	image_close(img);
}

static void the_copy_stands_in_for_a_lost_footer(void **state)
{
	struct disk *d = dynamic(2, 1);
	struct image *img;

	(void)state;
	put_block(d, 1, 0);
	finish(d);
	img = open_bytes(d, d->len);
	assert_string_equal(img->info.features, "footer broken, its copy used");
	expect_guest_bytes(img, BLOCK, BLOCK, 1);
	image_close(img);
}

static void a_broken_copy_is_told(void **state)
{
	struct disk *d = dynamic(2, 0);
	struct image *img;

	(void)state;
	finish(d);
	copy_of(d)->time.b[0] ^= 1;
	img = open_bytes(d, d->len + 512);
	assert_string_equal(img->info.features, "copy of the footer broken");
	image_close(img);
}

static void footers_of_511_bytes_are_read(void **state)
{
	struct disk *d = dynamic(2, 1);
	uint8_t tail[VHD_FOOTER_SIZE];
	struct image *img;

	(void)state;
	put_block(d, 0, 0);
	finish(d);
	img = open_bytes(d, d->len + 511);
	assert_string_equal(img->info.features, "footer of 511 bytes");
	expect_guest_bytes(img, 0, BLOCK, 1);
	image_close(img);

	memset(tail, 0xff, sizeof(tail));
	d = fixed();
	assert_int_equal(vhd_footer_find(d->p + d->len - 1, tail), 511);
	assert_int_equal(tail[511], 0);
	free(d);
	img = open_bytes(fixed(), 8 * BLOCK + 511);
	assert_string_equal(img->info.features, "footer of 511 bytes");
	assert_int_equal(img->span, 8 * BLOCK);
	image_close(img);
}

static void refuses_what_no_footer_tells(void **state)
{
	struct disk *d = dynamic(2, 0);

	(void)state;
	finish(d);
	copy_of(d)->reserved[9] = footer_of(d)->reserved[9] = 1;
	expect_bytes_refused(d, d->len + 512, ERR_FORMAT, "the checksum of the VHD footer does not match");
	d = fixed();
	footer_of(d)->heads = 1;
	expect_bytes_refused(d, d->len + 512, ERR_FORMAT, "the checksum of the VHD footer does not match");
	d = fixed();
	expect_bytes_refused(d, d->len, ERR_FORMAT, "no VHD footer found");
	d = fixed();
	expect_bytes_refused(d, 511, ERR_FORMAT, "the file is too small for a VHD footer");
	d = dynamic(2, 0); /* a copy that says fixed is none */
	copy_of(d)->type = be32_from(VHD_FIXED);
	finish(d);
	expect_bytes_refused(d, d->len, ERR_FORMAT, "no VHD footer found");
}

static void refuses_a_footer_and_a_copy_that_contradict_each_other(void **state)
{
	for (int i = 0; i < 5; i++) {
		struct disk *d = child(4, 0);

		if (i == 4)
			memcpy(copy_of(d)->creator, "vpc ", 4), copy_of(d)->cylinders = be16_from(1),
								copy_of(d)->sectors = 1;
		finish(d);
		if (i == 0 || i == 4) /* the geometry may say the same */
			copy_of(d)->current_size = be64_from(512);
		else if (i == 1)
			copy_of(d)->type = be32_from(VHD_DYNAMIC);
		else if (i == 2)
			copy_of(d)->header_offset = be64_from(1024);
		else
			memcpy(copy_of(d)->creator, "vpc ", 4), copy_of(d)->heads = 1;
		seal_footer(copy_of(d));
		expect_bytes_refused(d, d->len + 512, ERR_FORMAT, "the VHD footer and its copy contradict each other");
	}
	(void)state;
}

static void a_fixed_disk_that_begins_as_one_with_blocks_is_ambiguous(void **state)
{
	struct disk *d = dynamic(2, 0);

	(void)state;
	finish(d);
	footer_of(d)->type = be32_from(VHD_FIXED);
	seal_footer(footer_of(d));
	expect_bytes_refused(d, d->len + 512, ERR_AMBIGUOUS, "ends as a fixed VHD disk, but begins as one with blocks");
}

static void a_guest_may_write_half_a_footer_into_its_fixed_disk(void **state)
{
	struct disk *d = fixed();
	struct image *img;

	(void)state;
	memcpy(d->p, VHD_FOOTER_COOKIE, 8);
	img = open_bytes(d, d->len + 512);
	assert_string_equal(img->info.features, "");
	expect_data(img, 0, 8 * BLOCK, 0);
	image_close(img);
}

#define expect_unknown(text, ...)                                                                                      \
	do {                                                                                                           \
		struct disk *d = dynamic(4, 2);                                                                        \
		__VA_ARGS__;                                                                                           \
		expect_refused(d, ERR_UNSUPPORTED, text);                                                              \
	} while (0)

static void refuses_what_is_not_known(void **state)
{
	(void)state;
	expect_unknown("VHD disk type 0 is not known", copy_of(d)->type = be32_from(0));
	expect_unknown("VHD disk type 1 is not known", copy_of(d)->type = be32_from(1));
	expect_unknown("VHD disk type 5 is not known", copy_of(d)->type = be32_from(5));
	expect_unknown("version 2.3 of the VHD format is not known", copy_of(d)->version = be32_from(0x20003));
	expect_unknown("version 0.9 of the VHD dynamic disk header", header_of(d)->version = be32_from(9));
}

static void minor_versions_are_compatible(void **state)
{
	struct disk *d = dynamic(1, 0);

	(void)state;
	copy_of(d)->version = be32_from(0x10007);
	header_of(d)->version = be32_from(0x10001);
	image_close(opened(d));
}

static void the_copy_does_not_stand_in_for_an_unknown_footer(void **state)
{
	struct disk *d = dynamic(1, 0);

	(void)state;
	finish(d);
	footer_of(d)->version = be32_from(0x20000);
	seal_footer(footer_of(d));
	expect_bytes_refused(d, d->len + 512, ERR_UNSUPPORTED, "version 2.0 of the VHD format is not known");
}

/* ---- headers and tables ---- */

static void refuses_headers_that_make_no_sense(void **state)
{
	static const char outside[] = "the dynamic disk header at offset ";
	struct disk *sum = dynamic(2, 0);

	(void)state;
	expect_broken("no VHD dynamic disk header found", header_of(d)->cookie[7] = 'x');
	expect_broken("block size 0 is not a power of two", header_of(d)->block_size = be32_from(0));
	expect_broken("block size 256 is not a power of two from 512 up", header_of(d)->block_size = be32_from(256));
	expect_broken("block size 12288 is", header_of(d)->block_size = be32_from(3 * BLOCK));
	expect_broken(outside, copy_of(d)->header_offset = be64_from(0));
	expect_broken(outside, copy_of(d)->header_offset = be64_from(511));
	expect_broken(outside,
		      copy_of(d)->header_offset = be64_from(d->len - 1023)); /* it would reach into the footer */
	expect_broken(outside, copy_of(d)->header_offset = be64_from(UINT64_MAX));
	expect_broken("no VHD dynamic disk header found", copy_of(d)->header_offset = be64_from(d->len - 1024));
	finish(sum);
	header_of(sum)->reserved2[255] = 1;
	expect_bytes_refused(sum, sum->len + 512, ERR_FORMAT, "checksum of the VHD dynamic disk header does not match");
}

static void refuses_tables_that_make_no_sense(void **state)
{
	static const char outside[] = "the block allocation table at offset ";
	static const char over[] = "the block allocation table lies over the dynamic disk header";

	(void)state;
	expect_broken(outside, header_of(d)->table_offset = be64_from(0));
	expect_broken(outside, header_of(d)->table_offset = be64_from(511));
	expect_broken(outside, header_of(d)->table_offset = be64_from(d->len - 15));
	expect_broken(outside, header_of(d)->table_offset = be64_from(UINT64_MAX - 3));
	expect_broken(outside, header_of(d)->table_entries = be32_from(UINT32_MAX));
	expect_broken(outside, header_of(d)->table_entries = be32_from((uint32_t)(d->len - TABLE) / 4 + 1));
	expect_broken(over, header_of(d)->table_offset = be64_from(512));
	expect_broken(over, header_of(d)->table_offset = be64_from(1535));
	expect_broken(over, copy_of(d)->header_offset = be64_from(TABLE - 1023);
		      memmove(d->p + TABLE - 1023, header_of(d), 1024);
		      seal(d->p + TABLE - 1023, 1024, offsetof(struct vhd_header_disk, checksum)));
}

static void refuses_blocks_that_point_nowhere(void **state)
{
	struct disk *d = dynamic(8, 2);
	struct image *img;

	(void)state;
	put_block(d, 0, 0);
	set_entry(d, 1, 0);			       /* the copy of the footer */
	set_entry(d, 2, 2);			       /* the header */
	set_entry(d, 3, 4);			       /* the table */
	set_entry(d, 4, BITMAP_AT(1) / 512 + 1);       /* reaches into the footer */
	set_entry(d, 5, (uint32_t)(d->len / 512) + 1); /* behind it */
	set_entry(d, 6, UINT32_MAX - 1);
	put_block(d, 7, 1);
	img = opened(d);
	expect_data(img, 0, BLOCK, DATA_AT(0));
	expect_broken_at(img, BLOCK, "block 1 at offset 0 lies over the header or the table");
	expect_broken_at(img, 2 * BLOCK, "block 2 at offset 1024 lies over the header or the table");
	expect_broken_at(img, 3 * BLOCK, "block 3 at offset 2048 lies over the header or the table");
	expect_broken_at(img, 4 * BLOCK, "block 4 at offset 9216 ends past the end of the data");
	expect_broken_at(img, 5 * BLOCK + 9, "block 5 at offset 13824 ends past the end of the data");
	expect_broken_at(img, 6 * BLOCK, "block 6 at offset 2199023254528 ends past the end of the data");
	expect_data(img, 7 * BLOCK, BLOCK, DATA_AT(1));
	image_close(img);
}

static void blocks_may_touch_the_metadata_but_not_lie_over_it(void **state)
{
	struct disk *d = dynamic(5, 0);
	struct image *img;

	(void)state;
	memmove(d->p + 3072, header_of(d), VHD_HEADER_SIZE);
	copy_of(d)->header_offset = be64_from(3072);
	((struct vhd_header_disk *)(d->p + 3072))->block_size = be32_from(512);
	seal(d->p + 3072, VHD_HEADER_SIZE, offsetof(struct vhd_header_disk, checksum));
	set_size(d, 5 * 512);
	for (uint32_t i = 0; i < 5; i++)
		set_entry(d, i, (uint32_t[]){ 0, 2, 8, 7, 5 }[i]);
	d->len = 5120;
	img = opened(d);
	expect_broken_at(img, 0, "block 0 at offset 0 lies over");	 /* the copy of the footer only */
	expect_data(img, 512, 512, 1536);				 /* up to the table */
	expect_data(img, 1024, 512, 4608);				 /* from the header on */
	expect_broken_at(img, 1536, "block 3 at offset 3584 lies over"); /* the header only */
	expect_broken_at(img, 2048, "block 4 at offset 2560 lies over");
	image_close(img);
}

static void what_is_broken_further_on_does_not_hide_what_is_before(void **state)
{
	struct disk *d = dynamic(3, 0);
	struct image *img;

	(void)state;
	set_entry(d, 2, 0);
	img = opened(d);
	expect_extent(img, 0, 2 * BLOCK, EXTENT_HOLE);
	expect_broken_at(img, 2 * BLOCK, "block 2");
	image_close(img);
}

/* ---- inside files ---- */

static void an_image_inside_a_file_counts_from_its_own_beginning(void **state)
{
	struct disk *d = dynamic(3, 2);
	size_t base = 1000, len = d->len + 512;
	uint8_t *bytes = calloc(1, base + len + 9000);
	struct image *outer, *img;
	struct err err = ERR_INIT;

	(void)state;
	assert_non_null(bytes);
	put_block(d, 0, 1);
	set_entry(d, 2, (uint32_t)(d->len / 512)); /* there are bytes in the file, but they are not the image's */
	finish(d);
	memcpy(bytes + base, d->p, len);
	outer = must_open(file_of(bytes, base + len + 9000), "raw", NULL);
	img = image_open_inside(outer, "disk.vhd", base, len, &err);
	assert_non_null(img);
	assert_string_equal(img->format->name, "vhd");
	expect_data(img, 0, BLOCK, base + DATA_AT(1));
	expect_guest_bytes(img, 0, BLOCK, 2);
	expect_broken_at(img, 2 * BLOCK, "block 2");
	image_close(img);
	image_close(outer);
	free(bytes);
	free(d);
}

static void a_fixed_disk_inside_a_file_ends_before_its_footer(void **state)
{
	struct disk *d = fixed();
	size_t base = 700, len = d->len + 512;
	uint8_t *bytes = calloc(1, base + len + 900);
	struct image *outer, *img;
	struct err err = ERR_INIT;

	(void)state;
	assert_non_null(bytes);
	memcpy(bytes + base, d->p, len);
	outer = must_open(file_of(bytes, base + len + 900), "raw", NULL);
	img = image_open_inside(outer, "disk.vhd", base, len, &err);
	assert_non_null(img);
	expect_data(img, 0, 8 * BLOCK, base);
	expect_guest_bytes(img, 7 * BLOCK, BLOCK, 8);
	image_close(img);
	image_close(outer);
	free(bytes);
	free(d);
}

/* ---- recognised ---- */

static void expect_chosen(struct disk *d, size_t len, const char *path, const char *format)
{
	struct image_file f = { .fd = file_of(d->p, len), .size = len, .path = (char *)(uintptr_t)path };
	struct image_choice choice;
	struct err err = ERR_INIT;

	free(d);
	if (image_choose(&f, &choice, &err) < 0)
		fail_msg("%s: %s", path, err.text);
	assert_string_equal(choice.format->name, format);
	close(f.fd);
}

static struct disk *finished(struct disk *d)
{
	finish(d);
	return d;
}

static void a_disk_with_blocks_is_known_by_its_header(void **state)
{
	struct disk *broken = finished(dynamic(1, 0));

	(void)state;
	expect_chosen(finished(dynamic(1, 0)), BLOCKS + 512, "a.vhd", "vhd");
	expect_chosen(finished(dynamic(1, 0)), BLOCKS, "a", "vhd");
	copy_of(broken)->heads ^= 1; /* so that it is refused by its name, and not read as a raw disk */
	expect_chosen(broken, BLOCKS, "a", "vhd");
}

static void a_fixed_disk_is_known_by_its_end_and_its_name(void **state)
{
	(void)state;
	expect_chosen(fixed(), 8 * BLOCK + 512, "a.vhd", "vhd");
	expect_chosen(fixed(), 8 * BLOCK + 511, "a.VPC", "vhd");
	expect_chosen(fixed(), 8 * BLOCK + 512, "a.img", "raw");
	expect_chosen(fixed(), 8 * BLOCK + 512, "a.raw", "raw");
	expect_chosen(fixed(), 8 * BLOCK + 510, "a.vhd", "raw");
	assert_ptr_equal(image_format_by_name("vpc"), image_format_by_name("vhd"));
}

/* ---- damage ---- */

static struct disk *full_child(void)
{
	struct disk *d = child(3, 2);

	put_block(d, 0, 1);
	put_block(d, 2, 0);
	set_bits(d, 0, 0xa5);
	set_bits(d, 1, 0x0f);
	add_utf16(d, 0, VHD_W2RU, ".\\p.vhd");
	finish(d);
	return d;
}

static void a_read_that_fails_is_told_and_never_taken_for_zeros(void **state)
{
	struct disk *d = full_child();
	int nr = 0;

	(void)state;
	while (!try_reads(d->p, d->len + VHD_FOOTER_SIZE, nr))
		nr++;
	assert_in_range(nr, 8, 40);
	free(d);
}

static ssize_t spoiling_pread(int fd, void *buf, size_t len, off_t offset)
{
	(void)fd, (void)offset;
	memset(buf, 0, len);
	errno = EIO;
	return -1;
}

static void a_piece_that_was_read_in_part_is_read_again(void **state)
{
	uint32_t nr = 20000;
	struct disk *d = dynamic(nr, 0);
	struct file_ops ops = file_ops_os;
	struct err err = ERR_INIT;
	struct extent ext;
	struct image *img;
	int fd;

	(void)state;
	fd = sparse_file_of(d, 2 * MIB);
	for (uint32_t i = 0; i < nr; i++)
		assert_int_equal(pwrite(fd, "\0\0\x08\0", 4, TABLE + 4 * (off_t)i), 4); /* all at 1 MiB */
	img = must_open(fd, "vhd", NULL);
	expect_data(img, 0, BLOCK, MIB + VHD_SECTOR);
	ops.pread = spoiling_pread;
	file_ops = &ops;
	assert_int_equal(image_next_extent(img, (uint64_t)(nr - 1) * BLOCK, &ext, &err), -1);
	file_ops = &file_ops_os;
	expect_error(&err, ERR_IO, "Input/output error");
	expect_data(img, BLOCK, BLOCK, MIB + VHD_SECTOR);
	image_close(img);
}

static void a_file_that_shrinks_is_told(void **state)
{
	struct disk *d = full_child();
	int fd = file_of(d->p, d->len + 512);
	struct image *img = must_open(fd, "vhd", NULL);
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(ftruncate(fd, BITMAP_AT(1)), 0);
	assert_int_equal(walk_image(img, &err), -1);
	expect_error(&err, ERR_STALE, "the file ends at offset 8704");
	image_close(img);
	free(d);
}

static void any_damaged_byte_of_the_metadata_is_survived(void **state)
{
	static const uint8_t flips[] = { 0x01, 0x10, 0x80, 0xff };
	struct disk *d = full_child();

	(void)state;
	for (size_t at = 0; at < BLOCKS + 8; at += at % 512 < 200 ? 1 : 31) {
		for (size_t i = 0; i < sizeof(flips); i++) {
			struct disk copy = *d;

			copy.p[at] ^= flips[i];
			finish(&copy);
			try_damaged(copy.p, copy.len + VHD_FOOTER_SIZE);
		}
	}
	free(d);
}

static void one_flipped_bit_of_the_footer_or_header_is_told(void **state)
{
	struct disk *d = full_child();

	(void)state;
	for (size_t bit = 0; bit < 8 * (HEADER + VHD_HEADER_SIZE); bit += 7) {
		struct err err = ERR_INIT;
		struct image *img;

		d->p[bit / 8] ^= 1 << bit % 8;
		img = image_open(file_of(d->p, d->len), "a.vhd", image_format_by_name("vhd"), NULL, NULL, &err);
		if (img)
			fail_msg("bit %zu", bit);
		assert_int_equal(err.kind, ERR_FORMAT);
		d->p[bit / 8] ^= 1 << bit % 8;
	}
	free(d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(blocks_are_where_the_table_says),
		cmocka_unit_test(an_extent_begins_where_it_is_asked_for),
		cmocka_unit_test(a_disk_may_end_inside_its_last_block),
		cmocka_unit_test(holes_are_passed_at_once_and_tables_read_in_pieces),
		cmocka_unit_test(blocks_lie_up_to_two_tib_into_the_file),
		cmocka_unit_test(the_bits_of_a_dynamic_disk_do_not_hide_what_lies_there),
		cmocka_unit_test(bits_say_which_sectors_are_the_parents),
		cmocka_unit_test(bits_behind_the_sectors_of_a_block_count_for_nothing),
		cmocka_unit_test(large_bitmaps_are_read_in_pieces),
		cmocka_unit_test(the_guest_sees_the_parent_through_clear_bits),
		cmocka_unit_test(a_parent_of_another_id_is_not_taken),
		cmocka_unit_test(a_parent_without_an_id_may_be_of_any_format),
		cmocka_unit_test(a_locator_names_the_parent),
		cmocka_unit_test(a_url_names_the_parent),
		cmocka_unit_test(relative_locators_go_before_absolute_ones_and_names),
		cmocka_unit_test(the_name_in_the_header_is_the_last_resort),
		cmocka_unit_test(names_end_at_a_zero_and_may_have_a_byte_order_mark),
		cmocka_unit_test(room_for_a_locator_is_told_in_sectors_or_bytes),
		cmocka_unit_test(refuses_names_that_make_no_sense),
		cmocka_unit_test(refuses_locators_that_point_nowhere),
		cmocka_unit_test(refuses_names_that_are_too_long),
		cmocka_unit_test(tells_of_what_age_the_parent_is),
		cmocka_unit_test(a_fixed_disk_is_all_before_the_footer),
		cmocka_unit_test(holes_of_a_fixed_disk_are_not_read),
		cmocka_unit_test(what_the_guest_does_not_see_of_a_fixed_disk_is_stored_all_the_same),
		cmocka_unit_test(refuses_a_fixed_disk_that_is_cut),
		cmocka_unit_test(the_creator_decides_between_geometry_and_size),
		cmocka_unit_test(no_geometry_and_the_largest_one_mean_the_size),
		cmocka_unit_test(the_stored_view_ends_where_the_table_does),
		cmocka_unit_test(refuses_sizes_that_make_no_sense),
		cmocka_unit_test(the_copy_stands_in_for_a_broken_footer),
		cmocka_unit_test(the_copy_stands_in_for_a_lost_footer),
		cmocka_unit_test(a_broken_copy_is_told),
		cmocka_unit_test(footers_of_511_bytes_are_read),
		cmocka_unit_test(refuses_what_no_footer_tells),
		cmocka_unit_test(refuses_a_footer_and_a_copy_that_contradict_each_other),
		cmocka_unit_test(a_fixed_disk_that_begins_as_one_with_blocks_is_ambiguous),
		cmocka_unit_test(a_guest_may_write_half_a_footer_into_its_fixed_disk),
		cmocka_unit_test(refuses_what_is_not_known),
		cmocka_unit_test(minor_versions_are_compatible),
		cmocka_unit_test(the_copy_does_not_stand_in_for_an_unknown_footer),
		cmocka_unit_test(refuses_headers_that_make_no_sense),
		cmocka_unit_test(refuses_tables_that_make_no_sense),
		cmocka_unit_test(refuses_blocks_that_point_nowhere),
		cmocka_unit_test(blocks_may_touch_the_metadata_but_not_lie_over_it),
		cmocka_unit_test(what_is_broken_further_on_does_not_hide_what_is_before),
		cmocka_unit_test(an_image_inside_a_file_counts_from_its_own_beginning),
		cmocka_unit_test(a_fixed_disk_inside_a_file_ends_before_its_footer),
		cmocka_unit_test(a_disk_with_blocks_is_known_by_its_header),
		cmocka_unit_test(a_fixed_disk_is_known_by_its_end_and_its_name),
		cmocka_unit_test(a_read_that_fails_is_told_and_never_taken_for_zeros),
		cmocka_unit_test(a_piece_that_was_read_in_part_is_read_again),
		cmocka_unit_test(a_file_that_shrinks_is_told),
		cmocka_unit_test(any_damaged_byte_of_the_metadata_is_survived),
		cmocka_unit_test(one_flipped_bit_of_the_footer_or_header_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
