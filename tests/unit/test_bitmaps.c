/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/image_help.h"
#include "tests/unit/tree_help.h"

#include "compactor/pool/bitmaps.h"
#include "compactor/pool/view.h"
#include "compactor/writer.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"

/* Persistent bitmaps of images that are made here, byte by byte, and of ones that QEMU made.  What was written is read by a reader
 * of the test's own, which looks up one bit at a time.  (tests/interop/pool_bitmaps.py has QEMU read them.) */

#define DISK (1536 * MIB + 3 * 512)
#define OUR_CLUSTER ((uint64_t)64 << 10)

/* ---- an image ---- */

static struct {
	int fd;
	unsigned cluster_bits;
	uint64_t cluster, end;
	uint8_t directory[BITMAPS_DIRECTORY_MOST + 4096];
	size_t directory_len;
	uint32_t nr;
	uint64_t last_table; /* of the bitmap added last */
	size_t last_entry;   /* its entry in the directory */
} image;

static uint64_t take(uint64_t len)
{
	uint64_t at = image.end;

	image.end += round_up(max_u64(len, 1), image.cluster);
	assert_int_equal(ftruncate(image.fd, (off_t)image.end), 0);
	return at;
}

static void put(const void *p, size_t len, uint64_t at)
{
	assert_int_equal(pwrite(image.fd, p, len, (off_t)at), len);
}

static void begin(unsigned cluster_bits)
{
	image.fd = file_of(NULL, 0);
	image.cluster_bits = cluster_bits;
	image.cluster = (uint64_t)1 << cluster_bits;
	image.end = image.directory_len = image.nr = 0;
	take(1);
}

static uint64_t bytes_needed(unsigned granularity_bits)
{
	return div_up(div_up(DISK, (uint64_t)1 << granularity_bits), 8);
}

static void add_entry(const char *name, uint32_t flags, unsigned granularity_bits, uint32_t entries, size_t extra)
{
	uint8_t *p = image.directory + image.directory_len;

	image.last_entry = image.directory_len;
	memset(p, 0, 24);
	be64_store(p, image.last_table);
	be32_store(p + 8, entries);
	be32_store(p + 12, flags);
	p[16] = 1;
	p[17] = (uint8_t)granularity_bits;
	be16_store(p + 18, (uint16_t)strlen(name));
	be32_store(p + 20, (uint32_t)extra);
	memset(p + 24, 'x', extra);
	memcpy(p + 24 + extra, name, strlen(name));
	memset(p + 24 + extra + strlen(name), 0, 8);
	image.directory_len += round_up(24 + extra + strlen(name), 8);
	image.nr++;
}

/* Which bits are set: some stretches, some alone, by a rule. */
static bool is_set(unsigned seed, uint64_t bit)
{
	uint64_t x = (bit >> 12) * 0x9e3779b97f4a7c15 + seed;

	x ^= x >> 29;
	return x % 5 < 2 ? false : x % 5 == 2 ? true : (bit * 2654435761u + seed) >> 7 & 1;
}

/* As many entries as there are; clusters of zeros and ones are not stored when `flags_used`. */
static void add_bits(uint64_t nr_bits, uint32_t entries, unsigned seed, bool flags_used)
{
	CLEANUP(free) uint8_t *p = malloc(image.cluster);
	uint64_t table = take((uint64_t)entries * 8);

	for (uint32_t i = 0; i < entries; i++) {
		uint64_t first = i * image.cluster * 8, set = 0;
		uint64_t nr = first < nr_bits ? min_u64(nr_bits - first, image.cluster * 8) : 0;
		be64 entry;

		memset(p, 0, image.cluster);
		for (uint64_t n = 0; n < nr; n++) {
			p[n / 8] |= (uint8_t)(is_set(seed, first + n) << n % 8);
			set += is_set(seed, first + n);
		}
		entry = be64_from(set && !(flags_used && set == nr) ? image.end : set ? 1 : 0);
		if (be64_get(entry) > 1)
			put(p, image.cluster, take(1));
		put(&entry, 8, table + 8 * (uint64_t)i);
	}
	image.last_table = table;
}

static void add(const char *name, uint32_t flags, unsigned granularity_bits, unsigned seed)
{
	uint32_t entries = (uint32_t)div_up(bytes_needed(granularity_bits), image.cluster);

	add_bits(div_up(DISK, (uint64_t)1 << granularity_bits), entries, seed, true);
	add_entry(name, flags, granularity_bits, entries, 0);
}

static int end_with(uint64_t autoclear, uint64_t directory_bytes)
{
	struct qcow2_header_disk h = {
		.magic = { 'Q', 'F', 'I', 0xfb }, .version = be32_from(3), .cluster_bits = be32_from(image.cluster_bits),
		.size = be64_from(DISK), .refcount_table_offset = be64_from(image.cluster), .refcount_table_clusters = be32_from(1),
		.autoclear_features = be64_from(autoclear), .refcount_order = be32_from(4), .header_length = be32_from(104),
	};
	uint64_t at = take(image.directory_len);
	uint8_t more[40] = { 0x23, 0x85, 0x28, 0x75, 0, 0, 0, 24 };

	be32_store(more + 8, image.nr);
	be64_store(more + 16, directory_bytes);
	be64_store(more + 24, at);
	put(&h, 104, 0);
	put(more, sizeof(more), 104);
	put(image.directory, image.directory_len, at);
	return image.fd;
}

static int end(void)
{
	return end_with(1, image.directory_len);
}

/* ---- what was written ---- */

static uint64_t be_at(int fd, uint64_t at, size_t len)
{
	uint8_t p[8] = { 0 };

	assert_int_equal(pread(fd, p + 8 - len, len, (off_t)at), len);
	return be64_load(p);
}

/* Where the entry of a bitmap is in the directory; fails if there is none. */
static uint64_t find_entry(int fd, const char *name)
{
	uint64_t at = be_at(fd, 100, 4), dir, i;
	char text[1024];

	assert_int_equal(be_at(fd, 88, 8) & 1, 1);
	for (; be_at(fd, at, 4) != 0x23852875; at += 8 + round_up(be_at(fd, at + 4, 4), 8))
		assert_int_not_equal(be_at(fd, at, 4), 0);
	dir = be_at(fd, at + 24, 8);
	assert_int_equal(dir % OUR_CLUSTER, 0);
	for (i = be_at(fd, at + 8, 4); i; i--) {
		uint64_t len = be_at(fd, dir + 18, 2), extra = be_at(fd, dir + 20, 4);

		assert_int_equal(pread(fd, text, len, (off_t)(dir + 24 + extra)), len);
		if (len == strlen(name) && memcmp(text, name, len) == 0)
			return dir;
		dir += round_up(24 + extra + len, 8);
	}
	fail_msg("there is no bitmap '%s'", name);
	return 0;
}

static uint64_t entry_at(int fd, const char *name, uint64_t i)
{
	return be_at(fd, be_at(fd, find_entry(fd, name), 8) + 8 * i, 8);
}

static bool bit_of(int fd, const char *name, uint64_t bit)
{
	uint64_t entry = entry_at(fd, name, bit / (OUR_CLUSTER * 8));

	if (entry < 2)
		return entry;
	return be_at(fd, entry + bit / 8 % OUR_CLUSTER, 1) >> bit % 8 & 1;
}

static void expect_bits(int fd, const char *name, unsigned granularity_bits, unsigned seed)
{
	uint64_t nr = div_up(DISK, (uint64_t)1 << granularity_bits);

	for (uint64_t bit = 0; bit < nr; bit += bit < 100 || nr - bit < 100 ? 1 : 61)
		if (bit_of(fd, name, bit) != is_set(seed, bit))
			fail_msg("bit %llu of '%s'", (unsigned long long)bit, name);
}

/* Each cluster is counted once, and that is all. */
static void expect_refcounts(int fd, uint64_t from)
{
	uint64_t table = be_at(fd, 48, 8), end = (uint64_t)lseek(fd, 0, SEEK_END);

	assert_int_equal(end % OUR_CLUSTER, 0);
	for (uint64_t i = from / OUR_CLUSTER; i <= end / OUR_CLUSTER; i++) {
		uint64_t block = be_at(fd, table + i / 32768 * 8, 8);

		assert_true(block || i == end / OUR_CLUSTER);
		if (block)
			assert_int_equal(be_at(fd, block + i % 32768 * 2, 2), i < end / OUR_CLUSTER);
	}
}

/* ---- copies ---- */

static const struct slice backing = { .path = "/pool/views/x.qcow2", .offset = 65536, .size = MIB, .read_only = true };

static int fresh(void)
{
	const struct overlay_options o = { .compat = false };
	int fd = file_of(NULL, 0);

	assert_int_equal(overlay_write(fd, DISK, &backing, &o, NULL), 0);
	return fd;
}

static struct bitmaps must_read(int fd)
{
	struct bitmaps b = BITMAPS_INIT;
	struct err err = ERR_INIT;

	if (bitmaps_read(fd, &b, &err) < 0)
		fail_msg("not read: %s", err.text);
	return b;
}

static void must_append(const struct bitmaps *b, int fd)
{
	struct err err = ERR_INIT;

	if (bitmaps_append(b, fd, NULL, NULL, &err) < 0 || bitmaps_prove(b, fd, NULL, NULL, &err) < 0)
		fail_msg("%s", err.text);
}

/* A fresh overlay with the bitmaps of the image. */
static int copy_of(int fd)
{
	CLEANUP(bitmaps_release) struct bitmaps b = must_read(fd);
	int copy = fresh();

	must_append(&b, copy);
	return copy;
}

static void bits_come_into_clusters_of_another_size(void **state)
{
	static const unsigned sizes[] = { 9, 12, 16, 21 };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		int copy;

		begin(sizes[i]);
		add("fine", 2, 9, 1);
		add("coarse", 0, 16, 2);
		add("one bit", 2, 31, 3);
		copy = copy_of(end());
		expect_bits(copy, "fine", 9, 1);
		expect_bits(copy, "coarse", 16, 2);
		expect_bits(copy, "one bit", 31, 3);
		expect_refcounts(copy, 0);
		close(copy);
		close(image.fd);
	}
}

static void the_overlay_stays_what_it_was(void **state)
{
	struct slice s;
	uint64_t size;
	int copy;

	(void)state;
	begin(16);
	add("b", 2, 16, 1);
	copy = copy_of(end());
	assert_int_equal(overlay_backing(copy, &s, &size, NULL), 1);
	assert_int_equal(size, DISK);
	assert_string_equal(s.path, backing.path);
	assert_int_equal(s.size, backing.size);
	close(copy);
	close(image.fd);
}

static void flags_and_extra_data_and_names_stay(void **state)
{
	char longest[QCOW2_NAME_MAX + 1] = { 0 };
	uint64_t at;
	int copy;

	(void)state;
	memset(longest, 'n', QCOW2_NAME_MAX);
	begin(12);
	add("idle", 0, 20, 1);
	add(longest, 2, 10, 2);
	add_bits(div_up(DISK, MIB), (uint32_t)div_up(bytes_needed(20), image.cluster), 3, true);
	add_entry("\xc3\xa4", 4, 20, (uint32_t)div_up(bytes_needed(20), image.cluster), 13);
	copy = copy_of(end());
	assert_int_equal(be_at(copy, find_entry(copy, "idle") + 12, 4), 0);
	assert_int_equal(be_at(copy, find_entry(copy, "idle") + 17, 1), 20);
	assert_int_equal(be_at(copy, find_entry(copy, longest) + 12, 4), 2);
	at = find_entry(copy, "\xc3\xa4");
	assert_int_equal(be_at(copy, at + 12, 4), 4);
	assert_int_equal(be_at(copy, at + 20, 4), 13);
	assert_int_equal(be_at(copy, at + 24 + 5, 8), 0x7878787878787878);
	expect_bits(copy, longest, 10, 2);
	expect_bits(copy, "\xc3\xa4", 20, 3);
	close(copy);
	close(image.fd);
}

/* Its table is that of a disk which was smaller once. */
static void what_is_in_use_stays_that(void **state)
{
	int copy;

	(void)state;
	begin(9);
	add_bits(300 * 512 * 8, 300, 5, true);
	add_entry("lost", 3, 16, 300, 0);
	add("good", 2, 16, 6);
	copy = copy_of(end());
	assert_int_equal(be_at(copy, find_entry(copy, "lost") + 12, 4), 3);
	assert_int_equal(be_at(copy, find_entry(copy, "lost") + 8, 4), 3); /* 150 KiB of bits */
	for (uint64_t bit = 0; bit < 300 * 512 * 8; bit += 7)
		assert_int_equal(bit_of(copy, "lost", bit), is_set(5, bit));
	expect_bits(copy, "good", 16, 6);
	close(copy);
	close(image.fd);
}

static void zeros_and_ones_take_no_room(void **state)
{
	uint32_t entries = (uint32_t)div_up(bytes_needed(9), 512);
	int copy;

	(void)state;
	begin(9);
	image.last_table = take(entries * 8);
	for (uint32_t i = 0; i < entries; i++)
		put("\0\0\0\0\0\0\0\1", 8, image.last_table + 8 * (uint64_t)i);
	add_entry("ones", 2, 9, entries, 0);
	image.last_table = take(entries * 8);
	add_entry("zeros", 2, 9, entries, 0);
	copy = copy_of(end());
	for (uint64_t i = 0; i < bytes_needed(9) / OUR_CLUSTER; i++)
		assert_int_equal(entry_at(copy, "ones", i), 1);
	for (uint64_t i = 0; i < div_up(bytes_needed(9), OUR_CLUSTER); i++)
		assert_int_equal(entry_at(copy, "zeros", i), 0);
	/* the last cluster of ones has bits that are none */
	assert_true(entry_at(copy, "ones", bytes_needed(9) / OUR_CLUSTER) > 1);
	assert_true(bit_of(copy, "ones", DISK / 512 - 1));
	assert_false(bit_of(copy, "ones", DISK / 512));
	assert_int_equal(lseek(copy, 0, SEEK_END), 8 * OUR_CLUSTER);
	close(copy);
	close(image.fd);
}

static void what_a_program_ignored_is_left_behind(void **state)
{
	CLEANUP(bitmaps_release) struct bitmaps b = BITMAPS_INIT;
	struct err note = ERR_INIT;
	int copy = fresh();
	off_t size = lseek(copy, 0, SEEK_END);

	(void)state;
	begin(16);
	add("a", 2, 16, 1);
	add("b", 2, 16, 2);
	image.directory[8] = 0xff; /* whatever is there by now */
	b = must_read(end_with(0, image.directory_len));
	assert_int_equal(b.list.nr, 0);
	assert_true(bitmaps_left_behind(&b, &note));
	expect_error(&note, ERR_STALE, "persistent bitmaps, 2 of them, are left behind");
	must_append(&b, copy);
	assert_int_equal(lseek(copy, 0, SEEK_END), size);
	assert_int_equal(be_at(copy, 88, 8), 0);
	close(copy);
	close(image.fd);
}

/* All that an overlay has lies in one refcount block; bitmaps may need the next one, which then is counted in itself. */
static void refcounts_go_on_in_another_block(void **state)
{
	uint64_t block = 32768 * OUR_CLUSTER;

	(void)state;
	for (uint64_t room = 0; room < 5; room++) {
		CLEANUP(bitmaps_release) struct bitmaps b = BITMAPS_INIT;
		int copy = fresh();

		begin(16);
		add("a", 2, 16, 1);
		b = must_read(end());
		assert_int_equal(ftruncate(copy, (off_t)(block - room * OUR_CLUSTER)), 0);
		must_append(&b, copy);
		expect_refcounts(copy, block - room * OUR_CLUSTER);
		expect_bits(copy, "a", 16, 1);
		close(copy);
		close(image.fd);
	}
}

/* ---- proof ---- */

static void expect_differs(const struct bitmaps *b, int copy, const char *text)
{
	struct err err = ERR_INIT;

	assert_int_equal(bitmaps_prove(b, copy, NULL, NULL, &err), -1);
	expect_error(&err, ERR_IO, text);
}

static void proves_each_bit_and_all_that_is_said_of_it(void **state)
{
	CLEANUP(bitmaps_release) struct bitmaps b = BITMAPS_INIT, none = BITMAPS_INIT;
	uint64_t entry = 0;
	uint8_t byte;
	int copy;

	(void)state;
	begin(9);
	add("a", 2, 9, 1);
	copy = copy_of(end());
	b = must_read(image.fd);
	for (uint64_t i = 0; entry < 2; i++)
		entry = entry_at(copy, "a", i);
	byte = (uint8_t)be_at(copy, entry + 777, 1) ^ 0x10;
	pwrite(copy, &byte, 1, (off_t)entry + 777);
	expect_differs(&b, copy, "the new image: bitmap 'a' differs");
	byte ^= 0x10;
	pwrite(copy, &byte, 1, (off_t)entry + 777);
	assert_int_equal(bitmaps_prove(&b, copy, NULL, NULL, NULL), 0);
	entry = find_entry(copy, "a");
	pwrite(copy, "\0", 1, (off_t)entry + 15);
	expect_differs(&b, copy, "differs");
	pwrite(copy, "\2", 1, (off_t)entry + 15);
	pwrite(copy, "b", 1, (off_t)entry + 24);
	expect_differs(&b, copy, "differs");
	expect_differs(&none, copy, "it has 1 persistent bitmaps, the original 0");
	expect_differs(&b, fresh(), "it has 0 persistent bitmaps, the original 1");
	close(copy);
	close(image.fd);
}

/* ---- refusals ---- */

static void expect_refused(enum err_kind kind, const char *text)
{
	struct bitmaps b = BITMAPS_INIT;
	struct err err = ERR_INIT;

	assert_int_equal(bitmaps_read(image.fd, &b, &err), -1);
	expect_error(&err, kind, text);
	close(image.fd);
}

static void a_bitmap(void)
{
	begin(12);
	add("a", 2, 16, 1);
}

static uint8_t *entry(void)
{
	return image.directory + image.last_entry;
}

static void refuses_entries_that_cannot_be(void **state)
{
	static const struct { unsigned at, value; enum err_kind kind; const char *text; } wrong[] = {
		{ 0, 0x80, ERR_FORMAT, "bitmap 'a': its table of 1 entries cannot lie at offset" },
		{ 7, 1, ERR_FORMAT, "cannot lie at offset" },
		{ 8, 1, ERR_FORMAT, "cannot lie at offset" },
		{ 11, 0, ERR_FORMAT, "cannot lie at offset 4096" },
		{ 11, 2, ERR_FORMAT, "its table has 2 entries, and the disk needs 1" },
		{ 15, 8, ERR_UNSUPPORTED, "flags 0x8 are not known" },
		{ 16, 2, ERR_UNSUPPORTED, "type 2 is not known" },
		{ 17, 8, ERR_UNSUPPORTED, "granularity 2^8" },
		{ 17, 32, ERR_UNSUPPORTED, "granularity 2^32" },
		{ 17, 9, ERR_FORMAT, "has 1 entries, and the disk needs 97" },
		{ 19, 0, ERR_FORMAT, "name has 0 bytes" },
		{ 18, 4, ERR_FORMAT, "directory is too short" },
		{ 20, 0xff, ERR_FORMAT, "directory is too short" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		a_bitmap();
		entry()[wrong[i].at] = (uint8_t)wrong[i].value;
		end();
		expect_refused(wrong[i].kind, wrong[i].text);
	}
}

static void refuses_tables_that_cannot_be(void **state)
{
	static const uint64_t wrong[] = { 2, 512, (uint64_t)1 << 56, 4096 | 1, (uint64_t)1 << 40, (uint64_t)1 << 63 };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		be64 e = be64_from(wrong[i]);

		a_bitmap();
		put(&e, 8, image.last_table);
		end();
		expect_refused(ERR_FORMAT, "leads nowhere");
	}
}

static void refuses_directories_that_cannot_be(void **state)
{
	(void)state;
	a_bitmap();
	end_with(1, image.directory_len + 8);
	expect_refused(ERR_FORMAT, "too long");
	a_bitmap();
	end_with(1, image.directory_len - 8);
	expect_refused(ERR_FORMAT, "too short");
	a_bitmap();
	end_with(1, 0);
	expect_refused(ERR_FORMAT, "too short");
	a_bitmap();
	end_with(1, BITMAPS_DIRECTORY_MOST);
	expect_refused(ERR_FORMAT, "cannot lie at offset");
	a_bitmap();
	end_with(1, BITMAPS_DIRECTORY_MOST + 1);
	expect_refused(ERR_UNSUPPORTED, "more than can be carried");
	a_bitmap();
	add("a", 0, 20, 2);
	end();
	expect_refused(ERR_FORMAT, "two bitmaps have the name 'a'");
}

static void refuses_bits_behind_the_disk(void **state)
{
	uint64_t bits = div_up(DISK, 65536);
	uint8_t byte = (uint8_t)(1 << bits % 8);

	(void)state;
	a_bitmap();
	end();
	byte |= (uint8_t)be_at(image.fd, be_at(image.fd, image.last_table, 8) + bits / 8, 1);
	put(&byte, 1, be_at(image.fd, image.last_table, 8) + bits / 8);
	expect_refused(ERR_FORMAT, "bitmap 'a': it has bits behind the end of the disk");
	a_bitmap();
	end();
	put("\1", 1, be_at(image.fd, image.last_table, 8) + 4095);
	expect_refused(ERR_FORMAT, "behind the end of the disk");
}

static void refuses_more_than_it_can_carry(void **state)
{
	char name[16];

	(void)state;
	begin(12);
	for (unsigned i = 0; i <= BITMAPS_MOST; i++) {
		snprintf(name, sizeof(name), "b%u", i);
		image.last_table = i ? image.last_table : take(4096);
		add_entry(name, 0, 16, 1, 0);
	}
	end();
	expect_refused(ERR_UNSUPPORTED, "1025 persistent bitmaps");
	begin(21);
	image.last_table = take(4096);
	for (unsigned i = 0; i < 3; i++) {
		snprintf(name, sizeof(name), "b%u", i);
		add_entry(name, 1, 16, 256, 0);
	}
	end();
	expect_refused(ERR_UNSUPPORTED, "more than 1 GiB of bits");
	begin(21);
	image.last_table = take(4096);
	add_entry("b", 1, 16, 257, 0);
	end();
	expect_refused(ERR_FORMAT, "its table of 257 entries is too large");
}

/* What is written to would be damaged. */
static void refuses_images_that_are_not_fresh(void **state)
{
	CLEANUP(bitmaps_release) struct bitmaps b = BITMAPS_INIT;
	struct err err = ERR_INIT;
	int copy;

	(void)state;
	a_bitmap();
	b = must_read(end());
	copy = copy_of(image.fd);
	assert_int_equal(bitmaps_append(&b, copy, NULL, NULL, &err), -1);
	expect_error(&err, ERR_UNSUPPORTED, "not written to such an image");
	b.list.items[0].nr_bits++;
	assert_int_equal(bitmaps_append(&b, fresh(), NULL, NULL, &err), -1);
	expect_error(&err, ERR_UNSUPPORTED, "of a disk of another size");
	close(copy);
	close(image.fd);
}

static int stop(void *ctx, uint64_t done, uint64_t total, struct err *err)
{
	unsigned *left = ctx;

	(void)done;
	(void)total;
	return (*left)-- ? 0 : err_set(err, ERR_CANCELED, "stopped");
}

static void stops_when_it_is_told_to(void **state)
{
	CLEANUP(bitmaps_release) struct bitmaps b = BITMAPS_INIT;
	struct err err = ERR_INIT;
	unsigned left = 2;
	int copy;

	(void)state;
	begin(12);
	add("a", 2, 9, 1);
	b = must_read(end());
	assert_int_equal(bitmaps_append(&b, fresh(), stop, &left, &err), -1);
	expect_error(&err, ERR_CANCELED, "stopped");
	copy = copy_of(image.fd);
	left = 2;
	assert_int_equal(bitmaps_prove(&b, copy, stop, &left, &err), -1);
	expect_error(&err, ERR_CANCELED, "stopped");
	close(copy);
	close(image.fd);
}

/* ---- QEMU's ---- */

static bool run(const char *format, const char *a, const char *b)
{
	char command[3 * PATH_MAX];

	snprintf(command, sizeof(command), format, a, b);
	return system(command) == 0;
}

static int written_anew(const struct bitmaps *b, const char *path, uint64_t size)
{
	int fd = open(path, O_RDWR | O_CREAT, 0600);
	CLEANUP(writer_free) struct writer *w = writer_new(writer_format_by_name("qcow2"), fd, "x", size, NULL, NULL);

	assert_non_null(w);
	assert_int_equal(writer_end(w, NULL), 0);
	must_append(b, fd);
	return fd;
}

/* Bits that QEMU set as it wrote; what it thinks of the copy it says itself. */
static void real_ones_come_over(void **state)
{
	const char *old = strdup(in_tree("old.qcow2")), *new = strdup(in_tree("new.qcow2"));
	struct bitmaps b;
	int fd, copy;

	(void)state;
	if (!run("qemu-img create -q -f qcow2 -o cluster_size=4k %s 3G >/dev/null 2>&1", old, "")) {
		print_message("needs qemu-img\n");
		skip();
	}
	assert_true(run("qemu-img bitmap --add -g 64k %s day && qemu-img bitmap --add -g 512 --disable %s idle", old, old));
	assert_true(run("qemu-io -c 'write 1M 64k' -c 'write 2G 100k' -c 'write 3221225000 472' %s >/dev/null", old, ""));
	assert_true(run("qemu-img bitmap --add -g 1M %s hour && qemu-io -c 'write 700M 1' %s >/dev/null", old, old));
	assert_true(run("qemu-img bitmap --add -g 4k %s both && qemu-img bitmap --merge day --merge hour %s both", old, old));
	fd = open(old, O_RDONLY);
	b = must_read(fd);
	copy = written_anew(&b, new, 3 * GIB);
	assert_int_equal(b.list.nr, 4);
	for (uint64_t bit = 0; bit < 3 * GIB / 65536; bit++) {
		bool day = bit == 16 || bit == 32768 || bit == 32769 || bit == 11200 || bit == 3 * GIB / 65536 - 1;

		assert_int_equal(bit_of(copy, "day", bit), day);
		assert_int_equal(bit_of(copy, "both", bit * 16 + 7), day || bit / 16 == 700);
		assert_false(bit_of(copy, "idle", bit * 128));
	}
	for (uint64_t bit = 0; bit < 3 * KIB; bit++)
		assert_int_equal(bit_of(copy, "hour", bit), bit == 700);
	assert_true(run("qemu-img check -q %s && qemu-img info %s | grep -q 'name: both'", new, new));
	bitmaps_release(&b);
	close(fd);
	close(copy);
	free((char *)old);
	free((char *)new);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bits_come_into_clusters_of_another_size),
		cmocka_unit_test(the_overlay_stays_what_it_was),
		cmocka_unit_test(flags_and_extra_data_and_names_stay),
		cmocka_unit_test(what_is_in_use_stays_that),
		cmocka_unit_test(zeros_and_ones_take_no_room),
		cmocka_unit_test(what_a_program_ignored_is_left_behind),
		cmocka_unit_test(refcounts_go_on_in_another_block),
		cmocka_unit_test(proves_each_bit_and_all_that_is_said_of_it),
		cmocka_unit_test(refuses_entries_that_cannot_be),
		cmocka_unit_test(refuses_tables_that_cannot_be),
		cmocka_unit_test(refuses_directories_that_cannot_be),
		cmocka_unit_test(refuses_bits_behind_the_disk),
		cmocka_unit_test(refuses_more_than_it_can_carry),
		cmocka_unit_test(refuses_images_that_are_not_fresh),
		cmocka_unit_test(stops_when_it_is_told_to),
		tree_test(real_ones_come_over),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
