/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <limits.h>

#include "tests/unit/vhdx_help.h"

/* The VHDX reader, but for its log (test_vhdx_log.c). */

static const struct vhdx_guid strange = VHDX_GUID(0x01234567u, 0x89ab, 0xcdef, 0x0123, 0x456789abcdef);
#define STRANGE "01234567-89ab-cdef-0123-456789abcdef"

#define HEADER_FIELD(at, field) ((at) + offsetof(struct vhdx_header_disk, field))

/* ---- what is there ---- */

static void shows_what_each_state_of_a_block_reads_as(void **state)
{
	struct disk d = disk_new();
	struct image *img;
	struct extent ext;
	struct err err;

	(void)state;
	set_bat(&d, 0, VHDX_NOT_PRESENT | 9 * MIB);
	set_bat(&d, 1, in_mib(6));
	set_bat(&d, 2, VHDX_ZERO);
	set_bat(&d, 3, in_mib(8));
	set_bat(&d, 4, VHDX_UNDEFINED | 9 * MIB);
	set_bat(&d, 5, VHDX_UNMAPPED);
	set_bat(&d, 6, VHDX_UNMAPPED_095);
	img = opened(d);
	expect_extent(img, 0, MIB, EXTENT_HOLE);
	expect_extent(img, MIB, MIB, EXTENT_DATA);
	assert_int_equal(image_next_extent(img, MIB + 5, &ext, &err), 0);
	assert_int_equal(ext.file_offset, 6 * MIB + 5);
	expect_extent(img, 2 * MIB, MIB, EXTENT_ZERO);
	expect_extent(img, 3 * MIB, MIB, EXTENT_DATA);
	expect_extent(img, 4 * MIB, 3 * MIB, EXTENT_ZERO);
	expect_extent(img, 7 * MIB, MIB, EXTENT_HOLE);
	expect_guest_bytes(img, MIB - 10, 10, 0);
	expect_guest_bytes(img, MIB, MIB, 6);
	expect_guest_bytes(img, 2 * MIB, MIB, 0);
	expect_guest_bytes(img, 3 * MIB, MIB, 8);
	expect_guest_bytes(img, 4 * MIB, 4 * MIB, 0);
	image_close(img);
}

static void joins_blocks_that_follow_each_other_in_the_file_only(void **state)
{
	struct disk d = disk_new();
	struct image *img;

	(void)state;
	set_bat(&d, 0, in_mib(6));
	set_bat(&d, 1, in_mib(7));
	set_bat(&d, 2, in_mib(9));
	set_bat(&d, 3, in_mib(8));
	img = opened(d);
	expect_extent(img, 0, 2 * MIB, EXTENT_DATA);
	expect_extent(img, 2 * MIB, MIB, EXTENT_DATA);
	expect_extent(img, 3 * MIB, MIB, EXTENT_DATA);
	expect_extent(img, MIB + 512, MIB - 512, EXTENT_DATA);
	expect_extent(img, 4 * MIB, 4 * MIB, EXTENT_HOLE);
	image_close(img);
}

static void tells_what_it_knows_of_an_image(void **state)
{
	struct disk d = with32(disk_new(), METADATA_AT + ITEM_AT(VHDX_PARAMETERS) + 4, VHDX_LEAVE_BLOCKS_ALLOCATED);
	struct image *img;

	(void)state;
	put32(&d, METADATA_AT + ITEM_AT(VHDX_LOGICAL_SECTOR), 4096);
	img = opened(d);
	assert_int_equal(img->size, 8 * MIB);
	assert_int_equal(img->span, 8 * MIB);
	assert_int_equal(img->layer, 8 * MIB);
	assert_int_equal(img->info.version, 1);
	assert_int_equal(img->info.cluster_size, MIB);
	assert_string_equal(img->info.kind, "fixed");
	assert_string_equal(img->info.id, "a3a2a1a0-a5a4-a7a6-a8a9-aaabacadaeaf");
	assert_string_equal(img->info.backing_name, "");
	assert_string_equal(img->info.features, "sectors of 4096 bytes");
	assert_false(img->info.dirty);
	image_close(img);
	img = opened(disk_new());
	assert_string_equal(img->info.kind, "dynamic");
	assert_string_equal(img->info.features, "");
	image_close(img);
}

static void is_recognised_by_its_header(void **state)
{
	struct disk d = disk_new();
	struct err err = ERR_INIT;
	struct image *img = image_open(disk_file(&d), "disk.avhdx", NULL, NULL, NULL, &err);

	(void)state;
	assert_non_null(img);
	assert_string_equal(img->format->name, "vhdx");
	image_close(img);
	d = disk_new();
	d.p[3] = 'X';
	expect_refused(d, "no VHDX signature");
}

static void the_last_block_needs_to_be_there_as_far_as_the_disk_goes(void **state)
{
	struct disk d = with64(disk_new(), METADATA_AT + ITEM_AT(VHDX_DISK_SIZE), 2 * MIB + 1536);
	struct image *img;

	(void)state;
	set_bat(&d, 2, in_mib(11));
	d.len = 11 * MIB + 1536;
	img = opened(d);
	expect_extent(img, 2 * MIB, 1536, EXTENT_DATA);
	expect_guest_bytes(img, 2 * MIB, 1536, 11);
	image_close(img);
	d = with64(disk_new(), METADATA_AT + ITEM_AT(VHDX_DISK_SIZE), 2 * MIB + 1536);
	set_bat(&d, 2, in_mib(11));
	d.len = 11 * MIB + 1535;
	expect_broken_at(d, 2 * MIB, "block 2: it lies at offset 11534336, past the end of the file");
}

static void a_disk_may_have_no_bytes(void **state)
{
	struct image *img = opened(with64(disk_new(), METADATA_AT + ITEM_AT(VHDX_DISK_SIZE), 0));

	(void)state;
	assert_int_equal(img->size, 0);
	assert_int_equal(img->layer, IMAGE_LAYER_UNIT);
	image_close(img);
}

static void a_file_that_shrinks_is_told(void **state)
{
	struct disk d = with_bat(disk_new(), 0, in_mib(11));
	int fd = disk_file(&d);
	struct image *img = must_open(fd, "vhdx", NULL);
	struct err err = ERR_INIT;
	uint8_t buf[4096];

	(void)state;
	assert_int_equal(ftruncate(fd, 11 * MIB + 100), 0);
	assert_int_equal(image_read_guest(img, 0, buf, sizeof(buf), &err), -1);
	expect_error(&err, ERR_STALE, "was cut");
	image_close(img);
}

/* The whole image as a member of a larger file. */
static void is_read_from_within_a_file(void **state)
{
	struct disk d = with_bat(disk_new(), 1, in_mib(11));
	size_t len = d.len, base = 3 * 512;
	int inner = disk_file(&d), fd = memfd_create("outer", MFD_CLOEXEC);
	uint8_t *bytes = malloc(len);
	struct err err = ERR_INIT;
	struct image *outer, *img;
	struct extent ext;

	(void)state;
	assert_int_equal(pread(inner, bytes, len, 0), len);
	assert_int_equal(pwrite(fd, bytes, len, (off_t)base), len);
	assert_int_equal(pwrite(fd, "behind it", 9, (off_t)(base + len)), 9);
	outer = must_open(fd, "raw", NULL);
	img = image_open_inside(outer, "disk.vhdx", base, len, &err);
	assert_non_null(img);
	assert_string_equal(img->format->name, "vhdx");
	expect_extent(img, 0, MIB, EXTENT_HOLE);
	assert_int_equal(image_next_extent(img, MIB, &ext, &err), 0);
	assert_int_equal(ext.file_offset, 11 * MIB + base);
	expect_guest_bytes(img, MIB, MIB, 11);
	image_close(img);
	img = image_open_inside(outer, "disk.vhdx", base, len - 1, &err);
	assert_non_null(img);
	assert_int_equal(image_next_extent(img, MIB, &ext, &err), -1);
	expect_error(&err, ERR_FORMAT, "past the end of the file");
	image_close(img);
	image_close(outer);
	close(inner);
	free(bytes);
}

/* 64 TiB in blocks of 1 MiB: a BAT of 2^26 entries and their bitmaps', which are zeros. */
static void a_giant_is_passed_in_great_steps(void **state)
{
	uint64_t bat = 513 * MIB, size = 64 * TIB;
	struct disk d = with64(disk_new(), METADATA_AT + ITEM_AT(VHDX_DISK_SIZE), size);
	struct image *img;
	int fd;

	(void)state;
	put_region(&d, 1, &vhdx_guid_bat, 16 * MIB, bat, VHDX_REQUIRED);
	fd = disk_file(&d);
	assert_int_equal(ftruncate(fd, (off_t)(16 * MIB + bat)), 0);
	img = must_open(fd, "vhdx", NULL);
	for (uint64_t at = 0; at < size; at += 4 * TIB)
		expect_extent(img, at + 5 * MIB, GIB, EXTENT_HOLE);
	expect_extent(img, size - MIB - 1, MIB + 1, EXTENT_HOLE);
	image_close(img);
}

/* ---- headers ---- */

static void the_header_with_the_greater_number_counts(void **state)
{
	struct image *img;
	struct disk d;

	(void)state;
	for (uint64_t first = 1; first <= 3; first += 2) {
		d = with64(disk_new(), HEADER_FIELD(VHDX_HEADER_1, sequence), first);
		d.p[HEADER_FIELD(VHDX_HEADER_1, data_write)] = 0x11;
		d.p[HEADER_FIELD(VHDX_HEADER_2, data_write)] = 0x22;
		img = opened(d);
		assert_int_equal(strncmp(img->info.id, first == 3 ? "a3a2a111-" : "a3a2a122-", 9), 0);
		image_close(img);
	}
}

static void one_valid_header_is_enough(void **state)
{
	struct disk d = disk_new();
	struct image *img;

	(void)state;
	memset(d.p + VHDX_HEADER_2, 0, VHDX_HEADER_SIZE);
	image_close(opened(d));
	d = with64(disk_new(), HEADER_FIELD(VHDX_HEADER_1, sequence), 9); /* the greater number, but not valid */
	d.p[VHDX_HEADER_1] = 'H';
	d.p[HEADER_FIELD(VHDX_HEADER_1, data_write)] = 0x11;
	img = opened(d);
	assert_int_equal(strncmp(img->info.id, "a3a2a1a0-", 9), 0);
	image_close(img);
	d = disk_new();
	d.unsummed = true;
	sum_up(d.p + VHDX_HEADER_1, VHDX_HEADER_SIZE);
	sum_up(d.p + VHDX_HEADER_2, VHDX_HEADER_SIZE);
	sum_up(d.p + VHDX_REGIONS_1, VHDX_TABLE_SIZE);
	d.p[VHDX_HEADER_2 + 4095] ^= 1;
	d.p[HEADER_FIELD(VHDX_HEADER_1, data_write)] = 0x11;
	sum_up(d.p + VHDX_HEADER_1, VHDX_HEADER_SIZE);
	img = opened(d);
	assert_int_equal(strncmp(img->info.id, "a3a2a111-", 9), 0);
	image_close(img);
}

static void headers_that_contradict_each_other_or_are_not_valid_are_refused(void **state)
{
	struct disk d = with64(disk_new(), HEADER_FIELD(VHDX_HEADER_1, sequence), 2);

	(void)state;
	image_close(opened(d));
	d = with64(disk_new(), HEADER_FIELD(VHDX_HEADER_1, sequence), 2);
	d.p[HEADER_FIELD(VHDX_HEADER_1, data_write)] = 1;
	expect_refused(d, "both VHDX headers have sequence number 2, but differ");
	d = disk_new();
	d.p[VHDX_HEADER_1] = d.p[VHDX_HEADER_2] = 'H';
	expect_refused(d, "neither of the two VHDX headers is valid");
	d = disk_new();
	d.len = 130 * KIB;
	d.unsummed = true;
	expect_refused(d, "VHDX headers: ");
}

static void other_versions_are_not_read(void **state)
{
	struct disk d = disk_new();

	(void)state;
	le16_store(d.p + HEADER_FIELD(VHDX_HEADER_2, version), 2);
	expect_unsupported(d, "VHDX header version 2 is not known");
	d = disk_new();
	le16_store(d.p + HEADER_FIELD(VHDX_HEADER_2, log_version), 1);
	image_close(opened(d)); /* no log: it does not matter */
	d = disk_new();
	le16_store(d.p + HEADER_FIELD(VHDX_HEADER_2, log_version), 1);
	d.p[HEADER_FIELD(VHDX_HEADER_2, log)] = 1;
	expect_unsupported(d, "VHDX log version 1 is not known");
}

/* ---- regions ---- */

static void the_second_region_table_stands_in_for_the_first(void **state)
{
	struct disk d = with_bat(disk_new(), 0, in_mib(5));
	struct image *img;

	(void)state;
	d.p[VHDX_REGIONS_1] = 'R';
	img = opened(d);
	expect_guest_bytes(img, 0, MIB, 5);
	image_close(img);
	d = disk_new();
	d.p[VHDX_REGIONS_1] = d.p[VHDX_REGIONS_2] = 'R';
	expect_refused(d, "neither of the two region tables is valid");
	d = with32(disk_new(), VHDX_REGIONS_1 + 8, 2048);
	put32(&d, VHDX_REGIONS_2 + 8, 2048);
	expect_refused(d, "neither of the two region tables is valid");
	d = disk_new();
	sum_up(d.p + VHDX_HEADER_1, VHDX_HEADER_SIZE);
	d.unsummed = true;
	expect_refused(d, "neither of the two region tables is valid");
}

static struct disk with_region(uint64_t offset, uint64_t length, uint32_t flags)
{
	struct disk d = disk_new();

	put_region(&d, 2, &strange, offset, length, flags);
	return d;
}

static void regions_that_are_not_known_are_passed_unless_they_are_needed(void **state)
{
	(void)state;
	image_close(opened(with_region(6 * MIB, MIB, 0)));
	expect_unsupported(with_region(6 * MIB, MIB, VHDX_REQUIRED), "the image needs region '" STRANGE "', which is");
}

static void regions_must_not_overlap_anything(void **state)
{
	(void)state;
	expect_refused(with_region(0, MIB, 0), "overlap at offset 0");
	expect_refused(with_region(LOG_AT, MIB, 0), "overlap at offset 1048576");
	expect_refused(with_region(6 * MIB, MIB + 1, 0),
		       "region '" STRANGE "' at offset 6291456, of 1048577 bytes, is not");
	expect_refused(with_region(6 * MIB + 512, MIB, 0), "is not in whole MiB");
	expect_refused(with_region(6 * MIB, 0, 0), "is not in whole MiB");
	expect_refused(with_region(UINT64_MAX - MIB + 1, MIB, 0), "lies past the largest file offset");
	expect_refused(with_region((uint64_t)INT64_MAX + 1 - MIB, MIB, 0), "lies past the largest file offset");
	expect_refused(with_region(LOG_AT, 4 * MIB, 0), "overlap at offset 1048576");
	expect_refused(with_region(BAT_AT, MIB, 0), "overlap at offset 3145728");
}

static void the_log_must_lie_in_whole_mib_of_its_own(void **state)
{
	(void)state;
	expect_refused(with64(disk_new(), HEADER_FIELD(VHDX_HEADER_2, log_offset), LOG_AT + 4096),
		       "the log at offset 1052672, of 1048576 bytes, is not in whole MiB");
	expect_refused(with32(disk_new(), HEADER_FIELD(VHDX_HEADER_2, log_length), 4096), "is not in whole MiB");
	expect_refused(with64(disk_new(), HEADER_FIELD(VHDX_HEADER_2, log_offset), UINT64_MAX - MIB + 1),
		       "the log lies past the largest file offset");
	expect_refused(with64(disk_new(), HEADER_FIELD(VHDX_HEADER_2, log_offset), 0), "overlap at offset 0");
	expect_refused(with64(disk_new(), HEADER_FIELD(VHDX_HEADER_2, log_offset), METADATA_AT), "overlap at offset");
	image_close(opened(with32(disk_new(), HEADER_FIELD(VHDX_HEADER_2, log_length), 0)));
}

static void needs_one_bat_and_one_metadata_region(void **state)
{
	struct disk d = disk_new();

	(void)state;
	put_region(&d, 1, &strange, BAT_AT, MIB, 0);
	expect_refused(d, "the image has no BAT region");
	d = disk_new();
	put_region(&d, 0, &strange, METADATA_AT, MIB, 0);
	put32(&d, VHDX_REGIONS_1 + 8, 2);
	expect_refused(d, "the image has no metadata region");
	d = disk_new();
	put_region(&d, 2, &vhdx_guid_bat, 6 * MIB, MIB, 0);
	expect_refused(d, "region '2dc27766-f623-4200-9d64-115e9bfd4a08' is there twice");
	d = disk_new();
	put_region(&d, 1, &vhdx_guid_bat, 12 * MIB, MIB, 0);
	expect_refused(d, "the BAT ends past the end of the file");
	d = disk_new();
	put_region(&d, 0, &vhdx_guid_metadata, 12 * MIB, MIB, 0);
	put32(&d, VHDX_REGIONS_1 + 8, 2);
	expect_refused(d, "metadata: offset 12582912 is past the end of the file");
}

/* ---- metadata ---- */

static void the_metadata_table_must_be_one(void **state)
{
	struct disk d = disk_new();

	(void)state;
	d.p[METADATA_AT] = 'M';
	expect_refused(d, "no VHDX metadata table found");
	d = disk_new();
	le16_store(d.p + METADATA_AT + 10, 2048);
	expect_refused(d, "the metadata table counts 2048 entries");
}

static void each_item_is_needed_once(void **state)
{
	static const char *const names[] = { "file parameters", "virtual disk size", "virtual disk ID",
					     "logical sector size", "physical sector size" };
	char text[100];

	(void)state;
	for (unsigned i = 0; i < 5; i++) {
		struct disk d = disk_new();

		put_item(&d, i, &strange, ITEM_AT(i), 8, 0);
		le16_store(d.p + METADATA_AT + 10, 5);
		snprintf(text, sizeof(text), "metadata item '%s' is missing", names[i]);
		expect_refused(d, text);
		d = disk_new();
		put_item(&d, 5, &vhdx_guid_items[i], ITEM_AT(i), 16, 0);
		snprintf(text, sizeof(text), "metadata item '%s' is there twice", names[i]);
		expect_refused(d, text);
	}
}

static struct disk with_size_item(uint64_t offset, uint32_t length)
{
	struct disk d = disk_new();

	put_item(&d, 1, &vhdx_guid_items[VHDX_DISK_SIZE], offset, length, VHDX_ITEM_REQUIRED);
	le16_store(d.p + METADATA_AT + 10, 5);
	return d;
}

static void items_must_lie_in_their_region(void **state)
{
	(void)state;
	image_close(opened(with_size_item(MIB - 8, 8)));
	expect_refused(with_size_item(MIB - 7, 8),
		       "'virtual disk size' at offset 1048569, of 8 bytes, leaves its region");
	expect_refused(with_size_item(UINT32_MAX - 3, 8), "leaves its region");
	expect_refused(with_size_item(64 * KIB - 8, 8), "leaves its region");
	expect_refused(with_size_item(ITEM_AT(1), 7), "metadata item 'virtual disk size' has 7 bytes");
	expect_refused(with_size_item(ITEM_AT(1), MIB + 1), "metadata item 'virtual disk size' has 1048577 bytes");
}

static void items_that_are_not_known_are_passed_unless_they_are_needed(void **state)
{
	struct disk d = disk_new();

	(void)state;
	put_item(&d, 5, &strange, 0, 0, 0);
	put_item(&d, 6, &vhdx_guid_items[VHDX_DISK_SIZE], 64 * KIB, 8, VHDX_ITEM_USER); /* another name space */
	image_close(opened(d));
	d = disk_new();
	put_item(&d, 5, &strange, ITEM_AT(5), 8, VHDX_ITEM_REQUIRED);
	expect_unsupported(d, "the image needs metadata item '" STRANGE "', which is not known");
	d = disk_new();
	for (unsigned i = 0; i < 1024; i++)
		put_item(&d, 5 + i, &strange, 0, 0, VHDX_ITEM_USER);
	image_close(opened(d));
	d = disk_new();
	for (unsigned i = 0; i < 1025; i++)
		put_item(&d, 5 + i, &strange, 0, 0, VHDX_ITEM_USER);
	expect_refused(d, "the metadata table has 1025 items of users");
}

static void refuses_sizes_that_make_no_sense(void **state)
{
	static const uint32_t blocks[] = { 0, 512 * KIB, 3 * MIB, 512 * MIB, MIB + 1 };
	uint64_t parameters = METADATA_AT + ITEM_AT(VHDX_PARAMETERS), size = METADATA_AT + ITEM_AT(VHDX_DISK_SIZE);

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(blocks); i++)
		expect_refused(with32(disk_new(), parameters, blocks[i]),
			       "is not a power of two from 1 MiB to 256 MiB");
	image_close(opened(with32(disk_new(), parameters, 256 * MIB)));
	expect_refused(with64(disk_new(), size, 64 * TIB + 512), "is not a whole number of sectors up to 64 TiB");
	expect_refused(with64(disk_new(), size, 8 * MIB + 256), "disk size 8388864 is not a whole number of sectors");
	expect_refused(with64(disk_new(), size, UINT64_MAX - 511), "is not a whole number of sectors up to 64 TiB");
	expect_refused(with64(disk_new(), size, 64 * TIB), "the BAT has 131072 entries, but the disk needs 67125247");
	expect_refused(with32(disk_new(), METADATA_AT + ITEM_AT(VHDX_LOGICAL_SECTOR), 1024), "sectors of 1024 bytes");
	expect_refused(with32(disk_new(), METADATA_AT + ITEM_AT(VHDX_PHYSICAL_SECTOR), 0), "physically of 0, are not");
}

static void the_bat_must_have_an_entry_for_each_block(void **state)
{
	uint64_t size = METADATA_AT + ITEM_AT(VHDX_DISK_SIZE);

	(void)state;
	/* 131072 entries: 31 of them for bitmaps before the last block's */
	image_close(opened(with64(disk_new(), size, (131072 - 31) * MIB)));
	expect_refused(with64(disk_new(), size, (131072 - 31) * MIB + 512), "but the disk needs 131073");
}

/* ---- BAT entries ---- */

static void refuses_blocks_in_impossible_places(void **state)
{
	(void)state;
	expect_broken_at(with_bat(disk_new(), 2, in_mib(12)), 2 * MIB,
			 "block 2: it lies at offset 12582912, past the end of the file");
	expect_broken_at(with_bat(disk_new(), 2, VHDX_BAT_OFFSET | VHDX_FULLY_PRESENT), 2 * MIB, "past the end");
	expect_broken_at(with_bat(disk_new(), 0, in_mib(0)), 5, "block 0: it lies at offset 0, over a header");
	expect_broken_at(with_bat(disk_new(), 0, in_mib(1)), 5, "it lies at offset 1048576, over a header, the log");
	expect_broken_at(with_bat(disk_new(), 0, in_mib(2)), 5, "it lies at offset 2097152, over a header, the log");
	expect_broken_at(with_bat(disk_new(), 0, in_mib(3)), 5, "it lies at offset 3145728, over a header, the log");
	expect_broken_at(with_bat(disk_new(), 0, in_mib(5) | 8), 5, "entry 0x000000000050000e has reserved bits set");
	expect_broken_at(with_bat(disk_new(), 0, in_mib(5) | 1 << 19), 5, "has reserved bits set");
	expect_broken_at(with_bat(disk_new(), 0, 4), 5, "block 0: its state 4 is not known");
	expect_broken_at(with_bat(disk_new(), 0, 5 * MIB | VHDX_PARTIALLY_PRESENT), 5, "in an image without a parent");
}

static void blocks_that_lie_over_a_region_with_their_end_are_refused(void **state)
{
	struct disk d = with32(disk_new(), METADATA_AT + ITEM_AT(VHDX_PARAMETERS), 2 * MIB);

	(void)state;
	put_region(&d, 2, &strange, 9 * MIB, MIB, 0);
	set_bat(&d, 0, in_mib(8));
	expect_broken_at(d, 0, "it lies at offset 8388608, over a header, the log or a region");
	d = with32(disk_new(), METADATA_AT + ITEM_AT(VHDX_PARAMETERS), 2 * MIB);
	put_region(&d, 2, &strange, 9 * MIB, MIB, 0);
	set_bat(&d, 0, in_mib(7));
	set_bat(&d, 1, in_mib(10));
	image_close(opened(d));
}

static void what_breaks_ahead_is_left_for_later(void **state)
{
	struct disk d = with_bat(disk_new(), 0, in_mib(5));
	struct err err = ERR_INIT;
	struct image *img;
	struct extent ext;

	(void)state;
	set_bat(&d, 1, in_mib(6));
	set_bat(&d, 2, in_mib(7) | 8);
	img = opened(d);
	expect_extent(img, 0, 2 * MIB, EXTENT_DATA);
	assert_int_equal(image_next_extent(img, 2 * MIB, &ext, &err), -1);
	expect_error(&err, ERR_FORMAT, "block 2: BAT entry");
	image_close(img);
}

/* All entries the same: a small file that would be read for ever. */
static void more_blocks_than_the_file_has_room_for_are_refused(void **state)
{
	struct disk d = with64(disk_new(), METADATA_AT + ITEM_AT(VHDX_DISK_SIZE), 4000 * MIB);
	struct err err = ERR_INIT;
	struct image *img;
	struct extent ext;

	(void)state;
	for (unsigned i = 0; i < 4000; i++)
		set_bat(&d, i, in_mib(7));
	img = opened(d);
	for (unsigned k = 0; k < 2; k++) /* walking twice counts once */
		for (unsigned i = 0; i < NR_MIB; i++)
			expect_extent(img, i * MIB, MIB, EXTENT_DATA);
	for (unsigned k = 0; k < 2; k++) {
		assert_int_equal(image_next_extent(img, NR_MIB * MIB, &ext, &err), -1);
		expect_error(&err, ERR_FORMAT, "block 12: with it, more blocks are present than the file has room for");
	}
	image_close(img);
}

/* ---- parents ---- */

struct pair {
	const char *key, *value;
};

static size_t put_utf16(uint8_t *p, const char *text)
{
	size_t n = 0;

	for (; text[n]; n++)
		le16_store(p + 2 * n, (uint8_t)text[n]);
	return 2 * n;
}

#define LOCATOR_AT (METADATA_AT + ITEM_AT(VHDX_PARENT_LOCATOR))
#define LINKAGE                                                                                                        \
	{                                                                                                              \
		"parent_linkage", "{A3A2A1A0-A5A4-a7a6-A8A9-AAABACADAEAF}"                                             \
	}

static void put_parent(struct disk *d, const struct pair *pairs, size_t nr)
{
	uint8_t *p = d->p + LOCATOR_AT;
	size_t at = 20 + 12 * nr;

	put32(d, METADATA_AT + ITEM_AT(VHDX_PARAMETERS) + 4, VHDX_HAS_PARENT | VHDX_LEAVE_BLOCKS_ALLOCATED);
	memcpy(p, &vhdx_guid_locator, 16);
	le16_store(p + 18, (uint16_t)nr);
	for (size_t i = 0; i < nr; i++) {
		size_t key = put_utf16(p + at, pairs[i].key), value = put_utf16(p + at + key, pairs[i].value);
		struct vhdx_pair_disk pair = { le32_from((uint32_t)at), le32_from((uint32_t)(at + key)),
					       le16_from((uint16_t)key), le16_from((uint16_t)value) };

		memcpy(p + 20 + 12 * i, &pair, sizeof(pair));
		at += key + value;
	}
	put_item(d, 5, &vhdx_guid_items[VHDX_PARENT_LOCATOR], ITEM_AT(VHDX_PARENT_LOCATOR), (uint32_t)at,
		 VHDX_ITEM_REQUIRED);
}

static struct disk child_of(const char *key, const char *value)
{
	struct pair pairs[] = { { key, value }, LINKAGE };
	struct disk d = disk_new();

	put_parent(&d, pairs, 2);
	return d;
}

static struct disk child_new(void)
{
	return child_of("relative_path", "parent.vhdx");
}

static void expect_parent(struct disk d, const char *name)
{
	struct image *img = opened(d);

	assert_string_equal(img->info.backing_name, name);
	assert_string_equal(img->info.backing_id, "a3a2a1a0-a5a4-a7a6-a8a9-aaabacadaeaf");
	assert_string_equal(img->info.backing_format, "vhdx");
	assert_string_equal(img->info.kind, "differencing");
	image_close(img);
}

static void finds_the_name_of_the_parent(void **state)
{
	const struct pair all[] = { { "absolute_win32_path", "\\\\?\\d:\\a\\one.vhdx" },
				    { "volume_path", "\\\\?\\Volume{26A21BDA}\\b\\two.vhdx" },
				    { "relative_path", "..\\c\\three.vhdx" },
				    { "another key", "x" },
				    LINKAGE,
				    { "parent_linkage2", "{00000000-0000-0000-0000-000000000000}" } };
	struct disk d = disk_new();

	(void)state;
	put_parent(&d, all, 6);
	expect_parent(d, "../c/three.vhdx");
	expect_parent(child_of("relative_path", ".\\parent.vhdx"), "./parent.vhdx");
	expect_parent(child_of("absolute_win32_path", all[0].value), "one.vhdx");
	expect_parent(child_of("volume_path", all[1].value), "two.vhdx");
	expect_parent(child_of("volume_path", "just a name"), "just a name");
}

static void names_become_utf8(void **state)
{
	struct disk d = child_of("relative_path", "abcdefg");
	uint8_t *text = d.p + LOCATOR_AT + le32_load(d.p + LOCATOR_AT + 24);

	(void)state;
	le16_store(text, 0xe4);
	le16_store(text + 2, 0x20ac);
	le16_store(text + 4, 0xd83d);
	le16_store(text + 6, 0xdcbe);
	le16_store(text + 8, 0x7ff);
	le16_store(text + 10, 0xffff);
	expect_parent(d, "\u00e4\u20ac\U0001f4be\u07ff\xef\xbf\xbfg");
}

static void refuses_names_that_are_no_text(void **state)
{
	static const uint16_t broken[][2] = { { 'a', 0 },	 { 'a', 0xd800 },    { 0xdc00, 'a' },
					      { 0xd800, 'a' },	 { 0xd800, 0xd800 }, { 0xd800, 0xe000 },
					      { 0xdc00, 0xdc00 } };
	char longer[IMAGE_NAME_MAX + 1];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(broken); i++) {
		struct disk d = child_of("relative_path", "ab");
		uint8_t *text = d.p + LOCATOR_AT + le32_load(d.p + LOCATOR_AT + 24);

		le16_store(text, broken[i][0]);
		le16_store(text + 2, broken[i][1]);
		expect_refused(d, "parent locator: 'relative_path' is not UTF-16 text");
	}
	{ /* half a character at the end, the other half behind it */
		const struct pair pairs[] = { { "relative_path", "ab" }, { "x", "y" }, LINKAGE };
		struct disk d = disk_new();
		uint8_t *text;

		put_parent(&d, pairs, 3);
		text = d.p + LOCATOR_AT + le32_load(d.p + LOCATOR_AT + 24);
		le16_store(text + 2, 0xd800);
		le16_store(text + 4, 0xdc00);
		expect_refused(d, "parent locator: 'relative_path' is not UTF-16 text");
	}
	memset(longer, 'x', IMAGE_NAME_MAX);
	longer[IMAGE_NAME_MAX] = '\0';
	expect_refused(child_of("relative_path", longer), "'relative_path' of 2048 bytes is too long");
	longer[IMAGE_NAME_MAX - 1] = '\0';
	expect_parent(child_of("relative_path", longer), longer);
	expect_refused(child_of("volume_path", "x\\"), "parent locator: 'volume_path' names no file");
}

static void refuses_a_locator_that_does_not_say_enough(void **state)
{
	const struct pair relative = { "relative_path", "p" }, linkage = LINKAGE;
	const struct pair twice[] = { relative, linkage, relative };
	struct disk d = disk_new();

	(void)state;
	put_parent(&d, &relative, 1);
	expect_refused(d, "parent locator: 'parent_linkage' is missing");
	d = disk_new();
	put_parent(&d, &linkage, 1);
	expect_refused(d, "parent locator: no path leads to the parent");
	expect_refused(child_of("Relative_path", "p"), "no path leads to the parent");
	d = disk_new();
	put_parent(&d, twice, 3);
	expect_refused(d, "parent locator: 'relative_path' is there twice");
	d = child_new();
	put_item(&d, 5, &strange, 0, 0, 0);
	expect_refused(d, "the image has a parent, but no parent locator");
	d = child_new();
	d.p[LOCATOR_AT] ^= 1;
	expect_unsupported(d, "the parent locator is of type 'b04aefb6-d19e-4a81-b789-25b8e9445913', which is not");
}

static void refuses_a_locator_that_breaks_its_bounds(void **state)
{
	struct disk d = child_new();

	(void)state;
	le16_store(d.p + LOCATOR_AT + 18, 1000);
	expect_refused(d, "parent locator: 1000 pairs do not fit into");
	expect_refused(with32(child_new(), LOCATOR_AT + 20, UINT32_MAX),
		       "parent locator: a key or value leaves the item");
	expect_refused(with32(child_new(), LOCATOR_AT + 24, 5000), "parent locator: a key or value leaves the item");
	d = child_new();
	le16_store(d.p + LOCATOR_AT + 30, 3);
	expect_refused(d, "parent locator: 'relative_path' has 3 bytes");
	d = child_new();
	le16_store(d.p + LOCATOR_AT + 30, 0);
	expect_refused(d, "parent locator: 'relative_path' has 0 bytes");
}

static void refuses_a_linkage_that_is_no_guid(void **state)
{
	static const char *const broken[] = {
		"A3A2A1A0-A5A4-a7a6-A8A9-AAABACADAEAF",	  "{}",
		"{A3A2A1A0-A5A4-a7a6-A8A9-AAABACADAEAG}", "{A3A2A1A0-A5A4-a7a6-A8A90AAABACADAEAF}",
		"{A3A2A1A0-A5A4-a7a6-A8A9-AAABACADAEAF",  "{A3A2A1A0-A5A4-a7a6-A8A9-AAABACADAEAF}}"
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(broken); i++) {
		struct pair pairs[] = { { "parent_linkage", broken[i] }, { "relative_path", "p" } };
		struct disk d = disk_new();

		put_parent(&d, pairs, 2);
		expect_refused(d, "parent locator: 'parent_linkage' ");
	}
}

/* ---- differencing images ---- */

static void set_bits(struct disk *d, uint64_t first, uint64_t nr)
{
	for (uint64_t i = first; i < first + nr; i++)
		d->p[BITMAP_AT + i / 8] |= (uint8_t)(1 << i % 8);
}

static void the_sector_bitmap_tells_whose_a_sector_is(void **state)
{
	struct disk d = child_new();
	struct image *img;

	(void)state;
	set_bat(&d, 1, 7 * MIB | VHDX_PARTIALLY_PRESENT);
	set_bat(&d, 2, in_mib(8));
	set_bat(&d, 3, VHDX_UNMAPPED);
	set_bat(&d, 4096, BITMAP_AT | VHDX_BITMAP_PRESENT);
	set_bits(&d, 2048 + 0, 3);
	set_bits(&d, 2048 + 70, 1);
	set_bits(&d, 2048 + 128, 1000);
	set_bits(&d, 2048 + 2040, 8);
	img = opened(d);
	expect_extent(img, 0, MIB, EXTENT_HOLE);
	expect_extent(img, MIB + 700, 3 * 512 - 700, EXTENT_DATA);
	expect_extent(img, MIB, 3 * 512, EXTENT_DATA);
	expect_extent(img, MIB + 3 * 512, 67 * 512, EXTENT_HOLE);
	expect_extent(img, MIB + 70 * 512, 512, EXTENT_DATA);
	expect_extent(img, MIB + 71 * 512, 57 * 512, EXTENT_HOLE);
	expect_extent(img, MIB + 128 * 512, 1000 * 512, EXTENT_DATA);
	expect_extent(img, MIB + 1128 * 512, 912 * 512, EXTENT_HOLE);
	expect_extent(img, MIB + 2040 * 512, 8 * 512 + MIB, EXTENT_DATA); /* on into the next block */
	expect_extent(img, 3 * MIB, MIB, EXTENT_ZERO);
	expect_extent(img, 4 * MIB, 4 * MIB, EXTENT_HOLE);
	image_close(img);
}

static void bitmaps_of_sectors_of_4096_bytes_are_shorter(void **state)
{
	struct disk d = with32(child_new(), METADATA_AT + ITEM_AT(VHDX_LOGICAL_SECTOR), 4096);
	struct image *img;

	(void)state;
	set_bat(&d, 1, 7 * MIB | VHDX_PARTIALLY_PRESENT);
	set_bat(&d, 32768, BITMAP_AT | VHDX_BITMAP_PRESENT);
	set_bits(&d, 256 + 10, 2);
	img = opened(d);
	expect_extent(img, 0, MIB + 10 * 4096, EXTENT_HOLE);
	expect_extent(img, MIB + 10 * 4096, 2 * 4096, EXTENT_DATA);
	expect_extent(img, MIB + 11 * 4096 + 100, 4096 - 100, EXTENT_DATA);
	expect_extent(img, MIB + 12 * 4096, 7 * MIB - 12 * 4096, EXTENT_HOLE);
	image_close(img);
}

/* Chunks of 4 GiB: blocks of 8 MiB, of which 512 make a chunk. */
static void each_chunk_has_its_own_bitmap(void **state)
{
	struct disk d = with32(child_new(), METADATA_AT + ITEM_AT(VHDX_PARAMETERS), 8 * MIB);
	uint64_t second = 4 * GIB + 8 * MIB;
	struct image *img;
	int fd;

	(void)state;
	put64(&d, METADATA_AT + ITEM_AT(VHDX_DISK_SIZE), 5 * GIB);
	set_bat(&d, 3, 16 * MIB | VHDX_PARTIALLY_PRESENT);
	set_bat(&d, 512, BITMAP_AT | VHDX_BITMAP_PRESENT);
	set_bat(&d, 513 + 1, 24 * MIB | VHDX_PARTIALLY_PRESENT);
	set_bat(&d, 513 + 512, 5 * MIB | VHDX_BITMAP_PRESENT);
	set_bits(&d, 3 * 16384 + 16383, 1);
	memset(d.p + 5 * MIB, 0, MIB);
	memset(d.p + 5 * MIB + 2048, 0xff, 1024); /* the first half of the block */
	fd = disk_file(&d);
	assert_int_equal(ftruncate(fd, 32 * MIB), 0);
	img = must_open(fd, "vhdx", NULL);
	expect_extent(img, 0, 32 * MIB - 512, EXTENT_HOLE);
	expect_extent(img, 32 * MIB - 512, 512, EXTENT_DATA);
	expect_extent(img, 32 * MIB, GIB, EXTENT_HOLE);
	expect_extent(img, second - 512, 512, EXTENT_HOLE);
	expect_extent(img, second, 4 * MIB, EXTENT_ZERO); /* a hole of the file */
	expect_extent(img, second + 4 * MIB, 5 * GIB - second - 4 * MIB, EXTENT_HOLE);
	image_close(img);
}

static void a_block_partially_present_needs_a_bitmap(void **state)
{
	struct disk d = with_bat(child_new(), 0, 7 * MIB | VHDX_PARTIALLY_PRESENT);

	(void)state;
	expect_broken_at(d, 0, "sector bitmap 0: it is not there (state 0), but a block is partially present");
	d = with_bat(child_new(), 0, 7 * MIB | VHDX_PARTIALLY_PRESENT);
	set_bat(&d, 4096, 12 * MIB | VHDX_BITMAP_PRESENT);
	expect_broken_at(d, 0, "sector bitmap 0: it lies at offset 12582912, past the end of the file");
	d = with_bat(child_new(), 0, 7 * MIB | VHDX_PARTIALLY_PRESENT);
	set_bat(&d, 4096, BAT_AT | VHDX_BITMAP_PRESENT);
	expect_broken_at(d, 0, "sector bitmap 0: it lies at offset 3145728, over a header, the log or a region");
	/* 131072 entries, of which the last is a block's of chunk 31 */
	d = with64(child_new(), METADATA_AT + ITEM_AT(VHDX_DISK_SIZE), (131072 - 31) * MIB);
	set_bat(&d, 131071, 7 * MIB | VHDX_PARTIALLY_PRESENT);
	expect_broken_at(d, (131072 - 32) * MIB, "sector bitmap 31: the BAT ends before its entry");
}

struct parent {
	uint8_t first; /* of its GUID */
};

static int open_parent(void *ctx, enum image_role role, const char *name, const char *from, char *ret_path,
		       struct err *err)
{
	const struct parent *parent = ctx;
	struct disk d = disk_new();

	(void)from, (void)err;
	assert_int_equal(role, IMAGE_BACKING);
	assert_string_equal(name, "parent.vhdx");
	snprintf(ret_path, PATH_MAX, "/store/parent.vhdx");
	d.p[HEADER_FIELD(VHDX_HEADER_2, data_write)] = parent->first;
	for (unsigned i = 0; i < 6; i++)
		set_bat(&d, i, in_mib(5 + i));
	return disk_file(&d);
}

static void a_chain_is_read_through(void **state)
{
	struct parent parent = { 0xa0 };
	struct image_opener opener = { .open = open_parent, .ctx = &parent };
	struct disk d = child_new();
	struct err err = ERR_INIT;
	struct image *img;

	(void)state;
	set_bat(&d, 0, VHDX_ZERO);
	set_bat(&d, 1, 11 * MIB | VHDX_PARTIALLY_PRESENT);
	set_bat(&d, 3, VHDX_UNDEFINED);
	set_bat(&d, 4096, BITMAP_AT | VHDX_BITMAP_PRESENT);
	set_bits(&d, 2048 + 8, 16);
	img = must_open(disk_file(&d), "vhdx", &opener);
	if (image_open_chain(img, &opener, &err) < 0)
		fail_msg("%s", err.text);
	expect_guest_bytes(img, 0, MIB, 0);
	expect_guest_bytes(img, MIB, 8 * 512, 6);
	expect_guest_bytes(img, MIB + 8 * 512, 16 * 512, 11);
	expect_guest_bytes(img, MIB + 24 * 512, MIB - 24 * 512, 6);
	expect_guest_bytes(img, 2 * MIB, MIB, 7);
	expect_guest_bytes(img, 3 * MIB, MIB, 0);
	expect_guest_bytes(img, 4 * MIB, MIB, 9);
	expect_guest_bytes(img, 6 * MIB, 2 * MIB, 0);
	image_close(img);
}

static void another_parent_is_refused(void **state)
{
	struct parent parent = { 0xa1 };
	struct image_opener opener = { .open = open_parent, .ctx = &parent };
	struct disk d = child_new();
	struct image *img = must_open(disk_file(&d), "vhdx", &opener);
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(image_open_chain(img, &opener, &err), -1);
	expect_error(&err, ERR_STALE, "a3a2a1a0-a5a4-a7a6-a8a9-aaabacadaeaf");
	image_close(img);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(shows_what_each_state_of_a_block_reads_as),
		cmocka_unit_test(joins_blocks_that_follow_each_other_in_the_file_only),
		cmocka_unit_test(tells_what_it_knows_of_an_image),
		cmocka_unit_test(is_recognised_by_its_header),
		cmocka_unit_test(the_last_block_needs_to_be_there_as_far_as_the_disk_goes),
		cmocka_unit_test(a_disk_may_have_no_bytes),
		cmocka_unit_test(a_file_that_shrinks_is_told),
		cmocka_unit_test(is_read_from_within_a_file),
		cmocka_unit_test(a_giant_is_passed_in_great_steps),
		cmocka_unit_test(the_header_with_the_greater_number_counts),
		cmocka_unit_test(one_valid_header_is_enough),
		cmocka_unit_test(headers_that_contradict_each_other_or_are_not_valid_are_refused),
		cmocka_unit_test(other_versions_are_not_read),
		cmocka_unit_test(the_second_region_table_stands_in_for_the_first),
		cmocka_unit_test(regions_that_are_not_known_are_passed_unless_they_are_needed),
		cmocka_unit_test(regions_must_not_overlap_anything),
		cmocka_unit_test(the_log_must_lie_in_whole_mib_of_its_own),
		cmocka_unit_test(needs_one_bat_and_one_metadata_region),
		cmocka_unit_test(the_metadata_table_must_be_one),
		cmocka_unit_test(each_item_is_needed_once),
		cmocka_unit_test(items_must_lie_in_their_region),
		cmocka_unit_test(items_that_are_not_known_are_passed_unless_they_are_needed),
		cmocka_unit_test(refuses_sizes_that_make_no_sense),
		cmocka_unit_test(the_bat_must_have_an_entry_for_each_block),
		cmocka_unit_test(refuses_blocks_in_impossible_places),
		cmocka_unit_test(blocks_that_lie_over_a_region_with_their_end_are_refused),
		cmocka_unit_test(what_breaks_ahead_is_left_for_later),
		cmocka_unit_test(more_blocks_than_the_file_has_room_for_are_refused),
		cmocka_unit_test(finds_the_name_of_the_parent),
		cmocka_unit_test(names_become_utf8),
		cmocka_unit_test(refuses_names_that_are_no_text),
		cmocka_unit_test(refuses_a_locator_that_does_not_say_enough),
		cmocka_unit_test(refuses_a_locator_that_breaks_its_bounds),
		cmocka_unit_test(refuses_a_linkage_that_is_no_guid),
		cmocka_unit_test(the_sector_bitmap_tells_whose_a_sector_is),
		cmocka_unit_test(bitmaps_of_sectors_of_4096_bytes_are_shorter),
		cmocka_unit_test(each_chunk_has_its_own_bitmap),
		cmocka_unit_test(a_block_partially_present_needs_a_bitmap),
		cmocka_unit_test(a_chain_is_read_through),
		cmocka_unit_test(another_parent_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
