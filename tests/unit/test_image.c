/* SPDX-License-Identifier: Apache-2.0 */
#include <limits.h>

#include "tests/unit/image_help.h"
#include "scanner/base/bytes.h"

/* The common head: probing, chains and the guest view, with small version 2 qcow2 images of one byte each. */

#define CLUSTER 512
#define DISK (8 * CLUSTER)

/* An overlay of `size` bytes whose guest cluster `at` holds `byte`; -1 = none. */
static int overlay(const char *backing, const char *format, uint64_t size, int at, uint8_t byte)
{
	uint8_t p[5 * CLUSTER] = "QFI\xfb";
	size_t ext = 72;

	be32_store(p + 4, 2);
	be32_store(p + 20, 9);
	be64_store(p + 24, size);
	be32_store(p + 36, 1);
	be64_store(p + 40, CLUSTER);
	be64_store(p + 48, 2 * CLUSTER);
	be32_store(p + 56, 1);
	if (*format) {
		be32_store(p + ext, 0xe2792aca);
		be32_store(p + ext + 4, (uint32_t)strlen(format));
		memcpy(p + ext + 8, format, strlen(format));
	}
	if (*backing) {
		be64_store(p + 8, 256);
		be32_store(p + 16, (uint32_t)strlen(backing));
		memcpy(p + 256, backing, strlen(backing));
	}
	be64_store(p + CLUSTER, 3 * CLUSTER);
	if (at >= 0)
		be64_store(p + 3 * CLUSTER + at * 8, 4 * CLUSTER);
	memset(p + 4 * CLUSTER, byte, CLUSTER);
	return file_of(p, sizeof(p));
}

/* Opens any name as a copy of the descriptor of that number: "0", "1", ... */
struct shelf {
	int fds[4];
};

static int open_from_shelf(void *ctx, enum image_role role, const char *name, const char *from, char *ret_path,
			   struct err *err)
{
	struct shelf *shelf = ctx;
	int i = atoi(name);

	(void)from;
	assert_int_equal(role, IMAGE_BACKING);
	if (i < 0 || i > 3 || shelf->fds[i] < 0)
		return err_set(err, ERR_REFUSED, "policy says no");
	snprintf(ret_path, PATH_MAX, "dir/%s", name);
	return dup(shelf->fds[i]);
}

static struct image *open_chain(struct shelf *shelf, struct err *err)
{
	struct image_opener opener = { .open = open_from_shelf, .ctx = shelf };
	struct image *img = must_open(dup(shelf->fds[0]), NULL, &opener);

	*err = ERR_INIT;
	if (image_open_chain(img, &opener, err) == 0)
		return img;
	expect_extent(img, 0, CLUSTER, EXTENT_HOLE); /* still usable */
	image_close(img);
	return NULL;
}

static void empty_shelf(struct shelf *shelf)
{
	for (int i = 0; i < 4; i++)
		if (shelf->fds[i] >= 0)
			close(shelf->fds[i]);
}

static void holes_show_the_backing_file(void **state)
{
	struct shelf s = { { overlay("1", "qcow2", DISK, 1, 'a'), overlay("2", "", DISK, 2, 'b'),
			     overlay("", "", DISK, 3, 'c'), -1 } };
	struct err err;
	struct image *img = open_chain(&s, &err);
	struct extent ext;

	(void)state;
	assert_non_null(img);
	expect_guest_bytes(img, 0, CLUSTER, 0);
	expect_guest_bytes(img, CLUSTER, CLUSTER, 'a');
	expect_guest_bytes(img, 2 * CLUSTER, CLUSTER, 'b');
	expect_guest_bytes(img, 3 * CLUSTER, CLUSTER, 'c');
	expect_guest_bytes(img, 4 * CLUSTER, 4 * CLUSTER, 0);
	assert_int_equal(image_next_guest_extent(img, 2 * CLUSTER + 5, &ext, &err), 0);
	assert_ptr_equal(ext.owner, img->backing);
	assert_int_equal(ext.len, CLUSTER - 5);
	assert_string_equal(img->backing->file.path, "dir/1");
	image_close(img);
	empty_shelf(&s);
}

static void behind_a_short_backing_file_are_zeros_not_what_is_deeper(void **state)
{
	struct shelf s = { { overlay("1", "", DISK, 0, 'a'), overlay("2", "", 2 * CLUSTER, 1, 'b'),
			     overlay("", "", DISK, 3, 'c'), -1 } };
	struct err err;
	struct image *img = open_chain(&s, &err);

	(void)state;
	assert_non_null(img);
	expect_guest_bytes(img, CLUSTER, CLUSTER, 'b');
	expect_guest_bytes(img, 2 * CLUSTER, 6 * CLUSTER, 0);
	image_close(img);
	empty_shelf(&s);
}

static void the_stored_view_is_only_of_the_file_itself(void **state)
{
	struct shelf s = { { overlay("1", "", DISK, 1, 'a'), overlay("", "", DISK, 0, 'b'), -1, -1 } };
	struct err err;
	struct image *img = open_chain(&s, &err);

	(void)state;
	assert_non_null(img);
	expect_extent(img, 0, CLUSTER, EXTENT_HOLE);
	expect_extent(img, CLUSTER, CLUSTER, EXTENT_DATA);
	expect_extent(img, 2 * CLUSTER, 6 * CLUSTER, EXTENT_HOLE);
	image_close(img);
	empty_shelf(&s);
}

static void expect_chain_refused(struct shelf *s, enum err_kind kind, const char *text)
{
	struct err err;

	assert_null(open_chain(s, &err));
	expect_error(&err, kind, text);
	empty_shelf(s);
}

static void refuses_an_image_that_backs_itself(void **state)
{
	struct shelf s = { { overlay("0", "", DISK, 1, 'a'), -1, -1, -1 } };

	(void)state;
	expect_chain_refused(&s, ERR_FORMAT, "backing file '0' of 'test.img': the backing chain loops back to 'dir/0'");
}

static void refuses_a_chain_that_comes_back(void **state)
{
	struct shelf s = { { overlay("1", "", DISK, 1, 'a'), overlay("2", "", DISK, 1, 'b'),
			     overlay("1", "", DISK, 1, 'c'), -1 } };

	(void)state;
	expect_chain_refused(&s, ERR_FORMAT, "backing file '1' of 'dir/2': the backing chain loops back");
}

static void names_the_backing_file_that_policy_refuses(void **state)
{
	struct shelf s = { { overlay("1", "", DISK, 1, 'a'), overlay("3", "", DISK, 1, 'b'), -1, -1 } };

	(void)state;
	expect_chain_refused(&s, ERR_REFUSED, "backing file '3' of 'dir/1': policy says no");
}

static void refuses_a_backing_format_that_is_not_read(void **state)
{
	struct shelf s = { { overlay("1", "qed", DISK, 1, 'a'), overlay("", "", DISK, 1, 'b'), -1, -1 } };

	(void)state;
	expect_chain_refused(&s, ERR_UNSUPPORTED, "backing file '1' of 'test.img': format 'qed' is not read");
}

static void a_stated_raw_backing_file_is_not_probed(void **state)
{
	struct shelf s = { { overlay("1", "raw", DISK, 1, 'a'), overlay("0", "", DISK, 1, 'b'), -1, -1 } };
	struct err err;
	struct image *img = open_chain(&s, &err);

	(void)state;
	assert_non_null(img);
	assert_string_equal(img->backing->format->name, "raw");
	expect_guest_bytes(img, 0, 1, 'Q');
	image_close(img);
	empty_shelf(&s);
}

static void a_broken_backing_file_is_named(void **state)
{
	struct shelf s = { { overlay("1", "qcow2", DISK, 1, 'a'), file_of("QFI\xfb", 4), -1, -1 } };

	(void)state;
	expect_chain_refused(&s, ERR_FORMAT, "backing file '1' of 'test.img': the file ends inside");
}

static int open_another(void *ctx, enum image_role role, const char *name, const char *from, char *ret_path,
			struct err *err)
{
	int *left = ctx;

	(void)role, (void)name, (void)from, (void)err;
	snprintf(ret_path, PATH_MAX, "next");
	return overlay(--*left ? "next" : "", "", DISK, -1, 0);
}

static int open_long_chain(int nr, struct err *err)
{
	struct image_opener opener = { .open = open_another, .ctx = &nr };
	struct image *img = must_open(overlay("next", "", DISK, -1, 0), NULL, NULL);
	int rc;

	nr--;
	rc = image_open_chain(img, &opener, err);
	if (rc == 0)
		expect_guest_bytes(img, 0, DISK, 0);
	image_close(img);
	return rc;
}

static void chains_end_at_the_limit(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(open_long_chain(IMAGE_CHAIN_MAX, &err), 0);
	assert_int_equal(open_long_chain(IMAGE_CHAIN_MAX + 1, &err), -1);
	expect_error(&err, ERR_UNSUPPORTED, "the backing chain has more than 200 members");
}

static void the_guest_view_wants_its_chain_open(void **state)
{
	struct image *img = must_open(overlay("1", "", DISK, 1, 'a'), NULL, NULL);
	struct err err = ERR_INIT;
	uint8_t byte;

	(void)state;
	assert_int_equal(image_read_guest(img, 0, &byte, 1, &err), -1);
	expect_error(&err, ERR_USAGE, "not open");
	assert_int_equal(image_open_chain(img, NULL, &err), -1);
	expect_error(&err, ERR_REFUSED, "backing files are not followed");
	image_close(img);
}

static void what_nothing_claims_is_raw(void **state)
{
	uint8_t p[8192] = "KDM";
	struct image *img;

	(void)state;
	memcpy(p + 4096, "conectix", 8); /* neither head nor tail */
	img = must_open(file_of(p, sizeof(p)), NULL, NULL);
	assert_string_equal(img->format->name, "raw");
	image_close(img);
}

/* ---- work in proportion to what is held: E12 ---- */

/* A made-up format whose tables claim what the test likes: 64 KiB extents of one kind, all of the same place. */
struct liar {
	struct image img;
	enum extent_kind kind, other; /* alternating */
};

static enum extent_kind liar_kind, liar_other;

static int open_liar(struct image *img, const struct image_opener *opener, struct err *err)
{
	(void)opener, (void)err;
	img->size = img->span = img->layer = (uint64_t)64 << 40;
	return 0;
}

static int next_liar_extent(struct image *img, uint64_t from, struct extent *ret, struct err *err)
{
	(void)err;
	image_extent_init(ret, from / 65536 % 2 ? liar_other : liar_kind, from, 65536 - from % 65536);
	if (ret->kind == EXTENT_DATA)
		ret->file = &img->file;
	return 0;
}

static int read_liar(struct image *img, uint64_t offset, void *buf, size_t len, struct err *err)
{
	(void)img, (void)offset, (void)err;
	memset(buf, 1, len);
	return 0;
}

static const struct image_format liar = {
	.name = "liar",
	.instance = sizeof(struct liar),
	.open = open_liar,
	.next_extent = next_liar_extent,
	.read_packed = read_liar,
};

/* Walks up to `most` bytes; returns how far it came. */
static uint64_t walk_liar(enum extent_kind kind, enum extent_kind other, size_t file_size, uint64_t most,
			  struct err *err)
{
	CLEANUP(free) uint8_t *bytes = calloc(1, file_size);
	struct image *img = image_open(file_of(bytes, file_size), "liar", &liar, NULL, NULL, err);
	struct extent ext;
	uint64_t at = 0;

	liar_kind = kind;
	liar_other = other;
	assert_non_null(img);
	while (at < most && image_next_extent(img, at, &ext, err) == 0)
		at += ext.len;
	image_close(img);
	return at;
}

static void e12_data_that_is_referred_to_many_times_over_is_refused(void **state)
{
	uint64_t held = 1 << 20, bound = IMAGE_DATA_SPARE + IMAGE_DATA_TIMES * held, at;
	struct err err = ERR_INIT;

	(void)state;
	at = walk_liar(EXTENT_DATA, EXTENT_DATA, held, (uint64_t)1 << 40, &err);
	expect_error(&err, ERR_REFUSED, "MiB of a file of 1024 KiB: the same data many times over");
	assert_in_range(at, bound, bound + IMAGE_DATA_TIMES * 65536);
	assert_int_equal(walk_liar(EXTENT_DATA, EXTENT_DATA, 2 * held, bound, &err), bound);
}

static void e12_packed_data_that_is_referred_to_many_times_over_is_refused(void **state)
{
	uint64_t held = 65536, bound = IMAGE_PACKED_SPARE + IMAGE_PACKED_TIMES * held, at;
	struct err err = ERR_INIT;

	(void)state;
	at = walk_liar(EXTENT_PACKED, EXTENT_PACKED, held, (uint64_t)1 << 40, &err);
	expect_error(&err, ERR_REFUSED, "the same data many times over");
	assert_in_range(at, bound, bound + IMAGE_PACKED_TIMES * 65536);
}

static void e12_tables_that_are_referred_to_many_times_over_are_refused(void **state)
{
	struct err err = ERR_INIT;
	uint64_t at = walk_liar(EXTENT_ZERO, EXTENT_HOLE, 4096, (uint64_t)64 << 40, &err);

	(void)state;
	expect_error(&err, ERR_REFUSED, "extents of a file of 4 KiB: the same table many times over");
	assert_in_range(at / 65536, IMAGE_EXTENTS_SPARE, IMAGE_EXTENTS_SPARE + 3 * 4096);
}

/* What was met before costs nothing: several passes over an honest image are as good as one. */
static void only_what_is_met_for_the_first_time_counts(void **state)
{
	struct image *img = image_open(file_of("x", 1), "liar", &liar, NULL, NULL, NULL);
	struct extent ext;

	(void)state;
	liar_kind = liar_other = EXTENT_DATA;
	for (unsigned i = 0; i < 3000; i++)
		for (uint64_t at = 0; at < 2 * 65536; at += 65536)
			assert_int_equal(image_next_extent(img, at, &ext, NULL), 0);
	image_close(img);
}

/* ---- holes of the file ---- */

static int next_plain_extent(struct image *img, uint64_t from, struct extent *ret, struct err *err)
{
	(void)err;
	image_extent_init(ret, EXTENT_DATA, from, img->size - from);
	ret->file = &img->file;
	ret->file_offset = from;
	return 0;
}

static int open_plain(struct image *img, const struct image_opener *opener, struct err *err)
{
	(void)opener, (void)err;
	img->size = img->span = img->file.size;
	img->layer = (uint64_t)8 << 20;
	return 0;
}

/* A hole of 4 KiB, data, a hole of 2 MiB, data: only the large hole is worth an extent of its own. */
static void long_holes_of_the_file_are_zeros_and_short_ones_data(void **state)
{
	static const struct image_format plain = {
		.name = "plain", .instance = sizeof(struct image), .open = open_plain, .next_extent = next_plain_extent
	};
	const uint64_t mib = 1 << 20;
	int fd = file_of("", 0);
	struct image *img;

	(void)state;
	assert_int_equal(ftruncate(fd, (off_t)(5 * mib)), 0);
	for (uint64_t at = 4096; at < 5 * mib; at += 4096)
		if (at < mib + 4096 || at >= 3 * mib + 4096)
			assert_int_equal(pwrite(fd, "x", 1, (off_t)at), 1);
	img = image_open(fd, "plain", &plain, NULL, NULL, NULL);
	assert_non_null(img);
	expect_extent(img, 0, mib + 65536, EXTENT_DATA);
	expect_extent(img, mib + 65536, 2 * mib - 65536, EXTENT_ZERO);
	expect_extent(img, 3 * mib, 2 * mib, EXTENT_DATA);
	image_close(img);
}

/* ---- parts ---- */

static int open_part_from_shelf(void *ctx, enum image_role role, const char *name, const char *from, char *ret_path,
				struct err *err)
{
	assert_int_equal(role, IMAGE_EXTENT);
	return open_from_shelf(ctx, IMAGE_BACKING, name, from, ret_path, err);
}

static void a_file_is_a_part_once_and_never_of_itself(void **state)
{
	struct shelf s = { { file_of("0", 1), file_of("11", 2), -1, -1 } };
	struct image_opener opener = { open_part_from_shelf, &s };
	struct image *img = must_open(dup(s.fds[0]), "raw", NULL);
	struct image_file *part = image_open_part(img, IMAGE_EXTENT, "1", &opener, NULL);
	struct err err = ERR_INIT;

	(void)state;
	assert_non_null(part);
	assert_int_equal(part->size, 2);
	assert_string_equal(part->path, "dir/1");
	assert_ptr_equal(image_open_part(img, IMAGE_EXTENT, "1", &opener, NULL), part);
	assert_int_equal(img->nr_parts, 1);
	assert_null(image_open_part(img, IMAGE_EXTENT, "0", &opener, &err));
	expect_error(&err, ERR_FORMAT, "extent '0': it is the image itself");
	assert_null(image_open_part(img, IMAGE_EXTENT, "3", &opener, &err));
	expect_error(&err, ERR_REFUSED, "extent '3': policy says no");
	assert_null(image_open_part(img, IMAGE_EXTENT, "1", NULL, &err));
	image_close(img);
	close(s.fds[0]);
	close(s.fds[1]);
}

/* ---- images inside files ---- */

static void an_image_inside_a_file_ends_where_it_ends(void **state)
{
	uint8_t bytes[5 * 4096], buf[4096];
	struct image *outer, *img;
	struct err err = ERR_INIT;
	struct extent ext;

	(void)state;
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)('a' + i / 4096);
	outer = must_open(file_of(bytes, sizeof(bytes)), "raw", NULL);
	img = image_open_inside(outer, "disk", 4096, 2 * 4096 + 100, &err);
	assert_non_null(img);
	assert_int_equal(img->size, 2 * 4096 + 100);
	expect_guest_bytes(img, 0, 4096, 'b');
	expect_guest_bytes(img, 4096, 4096, 'c');
	expect_guest_bytes(img, 8192, 100, 'd');
	assert_int_equal(image_next_extent(img, 4096, &ext, &err), 0);
	assert_int_equal(ext.file_offset, 2 * 4096);
	assert_int_equal(image_file_read_some(&img->file, buf, sizeof(buf), 8192, &err), 100);
	assert_int_equal(image_file_read(&img->file, buf, 101, 8192, &err), -1);
	expect_error(&err, ERR_FORMAT, "101 bytes at offset 8192 end past the end of the file");
	image_close(img);
	assert_null(image_open_inside(outer, "disk", 4096, 4 * 4096 + 1, &err));
	expect_error(&err, ERR_FORMAT, "'disk' ends past the end of the file");
	image_close(outer);
}

/* ---- the identity of backing files ---- */

static int open_marked(struct image *img, const struct image_opener *opener, struct err *err)
{
	char byte;

	(void)opener;
	img->size = img->span = 4096;
	img->layer = IMAGE_LAYER_UNIT;
	if (image_file_read(&img->file, &byte, 1, 0, err) < 0)
		return -1;
	snprintf(img->info.id, sizeof(img->info.id), "id %c", byte);
	if (byte == 'c') { /* a child that wants a parent "id p" */
		snprintf(img->info.backing_id, sizeof(img->info.backing_id), "id p");
		snprintf(img->info.backing_name, sizeof(img->info.backing_name), "1");
	}
	return 0;
}

static void a_backing_file_that_is_another_one_by_now_is_refused(void **state)
{
	static const struct image_format marked = {
		.name = "marked", .instance = sizeof(struct image), .open = open_marked, .next_extent = next_liar_extent
	};
	struct shelf s = { { file_of("c", 1), file_of("q", 1), -1, -1 } };
	struct image_opener opener = { open_from_shelf, &s };
	struct image *img = image_open(s.fds[0], "child", &marked, &opener, NULL, NULL);
	struct err err = ERR_INIT;

	(void)state;
	assert_non_null(img);
	assert_int_equal(image_open_chain(img, &opener, &err), -1);
	expect_error(&err, ERR_STALE, "the image was made on id p, but this is something without such a mark");
	assert_null(img->backing);
	image_close(img);
	close(s.fds[1]);
}

static void features_that_do_not_fit_end_in_one_ellipsis(void **state)
{
	char word[101], whole[208];

	(void)state;
	for (int len = 1; len <= 100; len++) {
		struct image_info info = { .features = "" };
		size_t used;

		snprintf(word, sizeof(word), "%.*d", len, 0);
		snprintf(whole, sizeof(whole), "%s, %s", word, word);
		image_info_add(&info, false, word);
		assert_string_equal(info.features, "");
		image_info_add(&info, true, word);
		assert_string_equal(info.features, word);
		image_info_add(&info, true, word);
		assert_string_equal(info.features, whole);
		for (int i = 0; i < 300; i++)
			image_info_add(&info, true, word);
		used = strlen(info.features);
		assert_true(used + (size_t)len + 2 >= sizeof(info.features)); /* not one word too early */
		assert_string_equal(info.features + used - 5, ", ...");
		assert_int_equal((used - 3) % ((size_t)len + 2), 0); /* whole words */
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(holes_show_the_backing_file),
		cmocka_unit_test(behind_a_short_backing_file_are_zeros_not_what_is_deeper),
		cmocka_unit_test(the_stored_view_is_only_of_the_file_itself),
		cmocka_unit_test(refuses_an_image_that_backs_itself),
		cmocka_unit_test(refuses_a_chain_that_comes_back),
		cmocka_unit_test(names_the_backing_file_that_policy_refuses),
		cmocka_unit_test(refuses_a_backing_format_that_is_not_read),
		cmocka_unit_test(a_stated_raw_backing_file_is_not_probed),
		cmocka_unit_test(a_broken_backing_file_is_named),
		cmocka_unit_test(chains_end_at_the_limit),
		cmocka_unit_test(the_guest_view_wants_its_chain_open),
		cmocka_unit_test(what_nothing_claims_is_raw),
		cmocka_unit_test(e12_data_that_is_referred_to_many_times_over_is_refused),
		cmocka_unit_test(e12_packed_data_that_is_referred_to_many_times_over_is_refused),
		cmocka_unit_test(e12_tables_that_are_referred_to_many_times_over_are_refused),
		cmocka_unit_test(only_what_is_met_for_the_first_time_counts),
		cmocka_unit_test(long_holes_of_the_file_are_zeros_and_short_ones_data),
		cmocka_unit_test(a_file_is_a_part_once_and_never_of_itself),
		cmocka_unit_test(an_image_inside_a_file_ends_where_it_ends),
		cmocka_unit_test(a_backing_file_that_is_another_one_by_now_is_refused),
		cmocka_unit_test(features_that_do_not_fit_end_in_one_ellipsis),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
