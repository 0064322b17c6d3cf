/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/image_help.h"
#include "scanner/base/checked.h"
#include "scanner/image/vdi_format.h"

/* The VDI reader, with images made here: header, block map at 512, data at 4096.  Blocks are 4 KiB unless told
 * otherwise, and every byte of the n-th block of the file is n + 1. */

#define BLOCK 4096
#define MAP 512
#define DATA 4096
#define NR_MAX 64

struct disk {
	uint8_t p[DATA + NR_MAX * BLOCK];
	size_t len;
};

static struct vdi_header_disk *header(struct disk *d)
{
	return (void *)d->p;
}

static void set_entry(struct disk *d, unsigned block, uint32_t entry)
{
	le32_store(d->p + MAP + 4 * block, entry);
}

/* A disk of nr blocks, none of them in the file, with room for nr_file. */
static struct disk *disk_new(uint32_t nr, unsigned nr_file)
{
	struct disk *d = calloc(1, sizeof(*d));

	assert_non_null(d);
	*header(d) = (struct vdi_header_disk){
		.signature = le32_from(VDI_SIGNATURE),
		.version = le32_from(VDI_VERSION_1_1),
		.header_size = le32_from(400),
		.type = le32_from(VDI_DYNAMIC),
		.map_offset = le32_from(MAP),
		.data_offset = le32_from(DATA),
		.size = le64_from((uint64_t)nr * BLOCK),
		.block_size = le32_from(BLOCK),
		.nr_blocks = le32_from(nr),
		.id = { 0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66,
			0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff },
	};
	for (uint32_t i = 0; i < nr; i++)
		set_entry(d, i, VDI_FREE);
	for (unsigned i = 0; i < nr_file; i++)
		memset(d->p + DATA + i * BLOCK, (int)i + 1, BLOCK);
	d->len = DATA + (size_t)nr_file * BLOCK;
	return d;
}

static struct image *opened(struct disk *d)
{
	struct image *img = must_open(file_of(d->p, d->len), "vdi", NULL);

	free(d);
	return img;
}

static void expect_refused(struct disk *d, enum err_kind kind, const char *text)
{
	struct err err = ERR_INIT;
	struct image *img =
		image_open(file_of(d->p, d->len), "test.img", image_format_by_name("vdi"), NULL, NULL, &err);

	free(d);
	if (img)
		fail_msg("opened; wanted '%s'", text);
	expect_error(&err, kind, text);
}

#define expect_broken(text, ...)                                                                                       \
	do {                                                                                                           \
		struct disk *d = disk_new(4, 2);                                                                       \
		__VA_ARGS__;                                                                                           \
		expect_refused(d, ERR_FORMAT, text);                                                                   \
	} while (0)

static void blocks_are_where_the_map_says(void **state)
{
	struct disk *d = disk_new(4, 2);
	struct image *img;

	(void)state;
	set_entry(d, 1, 1);
	set_entry(d, 2, VDI_ZERO);
	set_entry(d, 3, 0);
	img = opened(d);
	expect_extent(img, 0, BLOCK, EXTENT_HOLE);
	expect_data(img, BLOCK, BLOCK, DATA + BLOCK);
	expect_extent(img, 2 * BLOCK, BLOCK, EXTENT_ZERO);
	expect_data(img, 3 * BLOCK, BLOCK, DATA);
	expect_guest_bytes(img, 0, BLOCK, 0);
	expect_guest_bytes(img, BLOCK, BLOCK, 2);
	expect_guest_bytes(img, 2 * BLOCK, BLOCK, 0);
	expect_guest_bytes(img, 3 * BLOCK, BLOCK, 1);
	image_close(img);
}

static void an_extent_begins_where_it_is_asked_for(void **state)
{
	struct disk *d = disk_new(2, 2);
	struct image *img;

	(void)state;
	set_entry(d, 0, 1);
	set_entry(d, 1, 0);
	img = opened(d);
	expect_data(img, 1000, BLOCK - 1000, DATA + BLOCK + 1000);
	expect_data(img, BLOCK + 8, BLOCK - 8, DATA + 8);
	image_close(img);
}

static void neighbours_are_one_extent(void **state)
{
	struct disk *d = disk_new(10, 6);
	struct image *img;

	(void)state;
	for (unsigned i = 2; i < 6; i++)
		set_entry(d, i, i);
	set_entry(d, 6, 1); /* contiguous on the disk only */
	set_entry(d, 7, VDI_ZERO);
	set_entry(d, 8, VDI_ZERO);
	img = opened(d);
	expect_extent(img, 0, 2 * BLOCK, EXTENT_HOLE);
	expect_data(img, 2 * BLOCK, 4 * BLOCK, DATA + 2 * BLOCK);
	expect_data(img, 6 * BLOCK, BLOCK, DATA + BLOCK);
	expect_extent(img, 7 * BLOCK, 2 * BLOCK, EXTENT_ZERO);
	expect_extent(img, 9 * BLOCK, BLOCK, EXTENT_HOLE);
	image_close(img);
}

static void extra_bytes_before_blocks_are_no_data(void **state)
{
	struct disk *d = disk_new(2, 3);
	struct image *img;

	(void)state;
	header(d)->block_extra = le32_from(512);
	set_entry(d, 0, 0);
	set_entry(d, 1, 1);
	img = opened(d);
	expect_data(img, 0, BLOCK, DATA + 512);
	expect_data(img, BLOCK, BLOCK, DATA + BLOCK + 1024);
	image_close(img);
}

static void other_block_sizes_are_read(void **state)
{
	struct disk *d = disk_new(16, 2);
	struct image *img;

	(void)state;
	header(d)->block_size = le32_from(512);
	header(d)->size = le64_from(16 * 512);
	for (unsigned i = 0; i < 16; i++)
		set_entry(d, i, 15 - i);
	img = opened(d);
	assert_int_equal(img->info.cluster_size, 512);
	expect_data(img, 0, 512, DATA + 15 * 512);
	expect_guest_bytes(img, 0, 8 * 512, 2);
	expect_guest_bytes(img, 8 * 512, 8 * 512, 1);
	image_close(img);
}

/* QEMU rounds up; VirtualBox, which rounds down, would hide bytes that are in the file. */
static void an_odd_size_is_rounded_up_to_sectors(void **state)
{
	struct disk *d = disk_new(2, 2);
	struct image *img;

	(void)state;
	header(d)->size = le64_from(BLOCK + 1);
	set_entry(d, 1, 0);
	img = opened(d);
	assert_int_equal(img->size, BLOCK + 512);
	assert_int_equal(img->span, BLOCK + 512);
	assert_int_equal(img->layer, 2 * MIB);
	expect_data(img, BLOCK, 512, DATA);
	image_close(img);
}

static void the_end_of_a_last_block_that_was_cut_reads_as_zeros(void **state)
{
	struct disk *d = disk_new(2, 2);
	struct image *img;

	(void)state;
	set_entry(d, 1, 1);
	d->len -= 1000;
	img = opened(d);
	expect_guest_bytes(img, BLOCK, BLOCK - 1000, 2);
	expect_guest_bytes(img, 2 * BLOCK - 1000, 1000, 0);
	image_close(img);
}

static void an_empty_disk_is_read(void **state)
{
	struct image *img = opened(disk_new(0, 0));

	(void)state;
	assert_int_equal(img->span, 0);
	assert_int_equal(img->layer, 2 * MIB);
	image_close(img);
}

/* More entries than are looked through at once, and more than a window. */
static void long_maps_are_read_to_the_end(void **state)
{
	uint32_t nr = 3000000;
	uint64_t data = 12 * MIB;
	struct disk *d = disk_new(0, 0);
	struct image *img;
	uint8_t *entries = malloc(4ull * nr);
	int fd;

	(void)state;
	assert_non_null(entries);
	header(d)->nr_blocks = le32_from(nr);
	header(d)->size = le64_from((uint64_t)nr * BLOCK);
	header(d)->data_offset = le32_from((uint32_t)data);
	fd = file_of(d->p, DATA);
	free(d);
	memset(entries, 0xff, 4ull * nr);
	le32_store(entries + 4ull * (nr - 1), 0);
	assert_int_equal(pwrite(fd, entries, 4ull * nr, MAP), 4ll * nr);
	free(entries);
	assert_int_equal(ftruncate(fd, (off_t)(data + BLOCK)), 0);
	img = must_open(fd, NULL, NULL);
	expect_extent(img, 0, GIB, EXTENT_HOLE);
	expect_extent(img, (uint64_t)(nr - 2) * BLOCK, BLOCK, EXTENT_HOLE);
	expect_data(img, (uint64_t)(nr - 1) * BLOCK, BLOCK, data);
	image_close(img);
}

/* With blocks so small, the map of 1 GiB is long: an extent may be shorter, but not the work without bound. */
static void looking_ahead_ends(void **state)
{
	uint32_t nr = 2u << 20;
	struct disk *d = disk_new(0, 0);
	struct err err = ERR_INIT;
	struct extent ext;
	struct image *img;
	uint8_t *entries = malloc(4ull * nr);
	int fd;

	(void)state;
	assert_non_null(entries);
	header(d)->nr_blocks = le32_from(nr);
	header(d)->block_size = le32_from(512);
	header(d)->size = le64_from((uint64_t)nr * 512);
	header(d)->data_offset = le32_from((uint32_t)(16 * MIB));
	fd = file_of(d->p, DATA);
	free(d);
	memset(entries, 0xff, 4ull * nr);
	assert_int_equal(pwrite(fd, entries, 4ull * nr, MAP), 4ll * nr);
	free(entries);
	img = must_open(fd, "vdi", NULL);
	assert_int_equal(image_next_extent(img, 0, &ext, &err), 0);
	assert_true(ext.len >= 256 * MIB && ext.len < GIB);
	image_close(img);
}

static void tells_what_it_is(void **state)
{
	static const struct {
		enum vdi_type type;
		const char *kind;
	} kinds[] = { { VDI_DYNAMIC, "dynamic" }, { VDI_FIXED, "fixed" } };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		struct disk *d = disk_new(1, 0);
		struct image *img;

		header(d)->type = le32_from(kinds[i].type);
		img = opened(d);
		assert_string_equal(img->info.kind, kinds[i].kind);
		assert_string_equal(img->info.features, "");
		assert_string_equal(img->info.id, "00112233-4455-6677-8899-aabbccddeeff");
		assert_string_equal(img->info.backing_id, "");
		assert_int_equal(img->info.cluster_size, BLOCK);
		image_close(img);
	}
}

static struct disk *differencing(void)
{
	struct disk *d = disk_new(3, 1);

	header(d)->type = le32_from(VDI_DIFFERENCING);
	memcpy(&header(d)->parent, "\1\2\3\4\5\6\7\10\11\12\13\14\15\16\17\20", 16);
	set_entry(d, 0, 0);
	set_entry(d, 1, VDI_ZERO);
	return d;
}

static void a_differencing_image_shows_what_it_holds(void **state)
{
	struct image *img = opened(differencing());

	(void)state;
	assert_string_equal(img->info.kind, "differencing");
	assert_string_equal(img->info.backing_id, "04030201-0605-0807-090a-0b0c0d0e0f10");
	assert_string_equal(img->info.features, "parent 04030201-0605-0807-090a-0b0c0d0e0f10");
	assert_string_equal(img->info.backing_name, "");
	expect_data(img, 0, BLOCK, DATA);
	expect_extent(img, BLOCK, BLOCK, EXTENT_ZERO);
	expect_extent(img, 2 * BLOCK, BLOCK, EXTENT_HOLE);
	image_close(img);
}

static void a_differencing_image_has_no_guest_view(void **state)
{
	struct image *img = opened(differencing());
	struct err err = ERR_INIT;
	uint8_t byte;

	(void)state;
	assert_int_equal(image_read_guest(img, 0, &byte, 1, &err), -1);
	expect_error(&err, ERR_USAGE, "the backing chain of 'test.img' is not open");
	assert_int_equal(image_open_chain(img, NULL, &err), -1);
	expect_error(&err, ERR_UNSUPPORTED,
		     "backing file '04030201-0605-0807-090a-0b0c0d0e0f10' of 'test.img': the image does not say where");
	assert_int_equal(image_read_guest(img, 0, &byte, 1, &err), -1);
	image_close(img);
}

static void it_is_recognised_by_its_signature(void **state)
{
	struct disk *d = disk_new(1, 0);
	struct image *img = must_open(file_of(d->p, d->len), NULL, NULL);

	(void)state;
	assert_string_equal(img->format->name, "vdi");
	image_close(img);
	d->p[VDI_SIGNATURE_OFFSET] ^= 1;
	img = must_open(file_of(d->p, d->len), NULL, NULL);
	assert_string_equal(img->format->name, "raw");
	image_close(img);
	free(d);
}

static void other_versions_are_refused_by_number(void **state)
{
	static const struct {
		uint32_t version;
		const char *text;
	} versions[] = { { 0x00000002, "VDI version 0.2 is not read" },
			 { 0x00010000, "VDI version 1.0 is not read" },
			 { 0x00020001, "VDI version 2.1 is not read" } };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(versions); i++) {
		struct disk *d = disk_new(4, 2);

		header(d)->version = le32_from(versions[i].version);
		expect_refused(d, ERR_UNSUPPORTED, versions[i].text);
	}
}

static void undo_images_are_refused(void **state)
{
	struct disk *d = disk_new(4, 2);

	(void)state;
	header(d)->type = le32_from(VDI_UNDO);
	expect_refused(d, ERR_UNSUPPORTED, "undo images are not read");
}

static void too_large_disks_are_refused(void **state)
{
	struct disk *d = disk_new(4, 2);

	(void)state;
	header(d)->block_size = le32_from(1u << 31);
	header(d)->nr_blocks = le32_from(1u << 22);
	header(d)->size = le64_from(IMAGE_SPAN_MAX);
	header(d)->data_offset = le32_from(1u << 25);
	expect_refused(d, ERR_UNSUPPORTED, "4503599627370496 bytes is too large");
}

static void broken_headers_are_refused(void **state)
{
	(void)state;
	expect_broken("no VDI header found", d->p[VDI_SIGNATURE_OFFSET] ^= 1);
	expect_broken("the file ends inside the VDI header", d->len = 455);
	expect_broken("a VDI header of 383 bytes is too short", header(d)->header_size = le32_from(383));
	expect_broken("image type 0 is not known", header(d)->type = le32_from(0));
	expect_broken("image type 5 is not known", header(d)->type = le32_from(5));
	expect_broken("does not say what it was made on", header(d)->type = le32_from(VDI_DIFFERENCING));
	expect_broken("blocks of 0 bytes, which", header(d)->block_size = le32_from(0));
	expect_broken("blocks of 256 bytes, which", header(d)->block_size = le32_from(256));
	expect_broken("blocks of 4097 bytes, which", header(d)->block_size = le32_from(4097));
	expect_broken("blocks with 513 extra bytes", header(d)->block_extra = le32_from(513));
	expect_broken("a disk of 16385 bytes has more than 4 blocks", header(d)->size = le64_from(4 * BLOCK + 1));
	expect_broken("a disk of 18446744073709551615 bytes", header(d)->size = le64_from(UINT64_MAX));
	expect_broken("the block map at offset 455 overlaps", header(d)->map_offset = le32_from(455));
	expect_broken("the data at offset 527 overlap the block map of 4",
		      header(d)->data_offset = le32_from(MAP + 15));
	expect_broken("the data at offset 4096 overlap the block map of 4294967295",
		      header(d)->nr_blocks = le32_from(UINT32_MAX));
	expect_broken("the data at offset 4096 overlap the block map of 1073741824",
		      header(d)->nr_blocks = le32_from(1u << 30));
	expect_broken("block map: ", d->len = MAP + 15);
}

static void the_map_may_begin_right_behind_the_header(void **state)
{
	struct disk *d = disk_new(1, 0);

	(void)state;
	header(d)->map_offset = le32_from(456);
	le32_store(d->p + 456, VDI_ZERO);
	header(d)->data_offset = le32_from(460);
	header(d)->header_size = le32_from(384);
	image_close(opened(d));
}

static void blocks_past_the_end_of_the_file_are_refused(void **state)
{
	(void)state;
	expect_broken("block 3 of the disk is said to be block 2 of the file, which has only 2", set_entry(d, 3, 2));
	expect_broken("said to be block 4294967293 of the file", set_entry(d, 0, VDI_ZERO - 1));
	expect_broken("which has only 0", d->len = DATA; set_entry(d, 0, 0));
}

/* Else a small file could make a huge disk of data. */
static void no_block_of_the_file_is_used_twice_over(void **state)
{
	(void)state;
	expect_broken("the block map uses 3 blocks, but the file has only 2",
		      for (unsigned i = 0; i < 3; i++) set_entry(d, i, 1));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(blocks_are_where_the_map_says),
		cmocka_unit_test(an_extent_begins_where_it_is_asked_for),
		cmocka_unit_test(neighbours_are_one_extent),
		cmocka_unit_test(extra_bytes_before_blocks_are_no_data),
		cmocka_unit_test(other_block_sizes_are_read),
		cmocka_unit_test(an_odd_size_is_rounded_up_to_sectors),
		cmocka_unit_test(the_end_of_a_last_block_that_was_cut_reads_as_zeros),
		cmocka_unit_test(an_empty_disk_is_read),
		cmocka_unit_test(long_maps_are_read_to_the_end),
		cmocka_unit_test(looking_ahead_ends),
		cmocka_unit_test(tells_what_it_is),
		cmocka_unit_test(a_differencing_image_shows_what_it_holds),
		cmocka_unit_test(a_differencing_image_has_no_guest_view),
		cmocka_unit_test(it_is_recognised_by_its_signature),
		cmocka_unit_test(other_versions_are_refused_by_number),
		cmocka_unit_test(undo_images_are_refused),
		cmocka_unit_test(too_large_disks_are_refused),
		cmocka_unit_test(broken_headers_are_refused),
		cmocka_unit_test(the_map_may_begin_right_behind_the_header),
		cmocka_unit_test(blocks_past_the_end_of_the_file_are_refused),
		cmocka_unit_test(no_block_of_the_file_is_used_twice_over),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
