/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/image_help.h"
#include "tests/unit/tree_help.h"

#include <errno.h>

#include "compactor/pool/clusters.h"
#include "compactor/pool/immutable.h"
#include "compactor/pool/import.h"
#include "compactor/pool/qcow2_writer.h"
#include "compactor/pool/view.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"

/* Views, stubs and overlays of small disks, read back by the reader of images.  (tests/interop/pool_views.py has QEMU read
 * them.) */

#define SIZE (7 * MIB + 3 * BLOCK_SIZE)

static struct pool *pool;
static int dirfd = -1;
static uint8_t *bytes; /* of the disk */
static uint8_t root[DIGEST_SIZE];

static void open_pool(void)
{
	struct err err = ERR_INIT;

	if (pool_open(dirfd, "pool", in_tree("pool"), true, &pool, &err) < 0 || !pool)
		fail_msg("%s", err.text);
}

static void close_pool(void)
{
	pool_close(pool);
	pool = NULL;
}

static int make(void **state)
{
	if (tree_make(state) < 0 || digest_prepare(NULL) < 0)
		return -1;
	dirfd = open(tree, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bytes = calloc(1, SIZE);
	if (!bytes || pool_create(dirfd, "pool", NULL) < 0)
		return -1;
	open_pool();
	if (immutable_tell(pool, POOL_IMMUTABLE_NEVER, NULL) < 0) /* stubs are taken away here */
		return -1;
	return 0;
}

static int unmake(void **state)
{
	file_ops = &file_ops_os;
	close_pool();
	close(dirfd);
	free(bytes);
	return tree_remove(state);
}

#define view_test(f) cmocka_unit_test_setup_teardown(f, make, unmake)

/* ---- disks ---- */

static void put(uint64_t at, uint64_t len, unsigned number)
{
	uint64_t x = number * 0x9e3779b97f4a7c15;

	for (uint64_t i = 0; i < len; i++) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		bytes[at + i] = (uint8_t)(x >> 56) | 1;
	}
}

/* Data at odd places, the same twice, holes of all sizes, and a last segment that is not whole. */
static void put_all(void)
{
	put(0, 100 * KIB, 1);
	put(400 * KIB, 4 * KIB, 2);
	put(MIB, 64 * KIB, 3);
	put(MIB + 128 * KIB, 64 * KIB, 3);
	put(2 * MIB - 8 * KIB, 24 * KIB, 4);
	put(6 * MIB + 12 * KIB, SIZE - 6 * MIB - 12 * KIB, 5);
}

static void import(unsigned unit_bits)
{
	const struct import_options o = { .unit_bits = unit_bits, .min_run = (uint64_t)1 << unit_bits };
	CLEANUP(import_free) struct import *i = import_new(pool, SIZE, &o, NULL, 0, NULL);
	CLEANUP(free) uint8_t *segment = malloc(SEGMENT_SIZE);
	struct import_stats stats;

	assert_non_null(i);
	for (uint64_t s = 0; s * SEGMENT_SIZE < SIZE; s++) {
		memset(segment, 0, SEGMENT_SIZE);
		memcpy(segment, bytes + s * SEGMENT_SIZE, min_u64(SEGMENT_SIZE, SIZE - s * SEGMENT_SIZE));
		if (segment[0] || memcmp(segment, segment + 1, SEGMENT_SIZE - 1) != 0)
			assert_int_equal(import_segment(i, s, segment, NULL), 0);
	}
	assert_int_equal(import_end(i, root, &stats, NULL), 0);
}

static struct view write_view(unsigned cluster_bits)
{
	struct err err = ERR_INIT;
	struct view v;

	if (view_write(pool, root, SIZE, cluster_bits, &v, &err) < 0)
		fail_msg("%s", err.text);
	return v;
}

static struct view a_view(void)
{
	put_all();
	import(12);
	return write_view(12);
}

static int write_overlay(const struct view *v, bool compat)
{
	const struct overlay_options o = { .compat = compat };
	int fd = memfd_create("overlay", MFD_CLOEXEC);
	struct slice s;

	assert_int_equal(view_backing(pool, v, &s, NULL), 0);
	assert_int_equal(overlay_write(fd, SIZE, &s, &o, NULL), 0);
	return fd;
}

/* ---- reading back ---- */

static int open_slice(void *ctx, enum image_role role, const char *name, const char *from, char *ret_path, struct err *err)
{
	struct slice s;

	(void)ctx;
	(void)from;
	assert_int_equal(role, IMAGE_BACKING);
	assert_int_equal(slice_parse(name, &s), 1);
	assert_true(s.read_only);
	snprintf(ret_path, PATH_MAX, "%s", s.path);
	return file_open(AT_FDCWD, s.path, O_RDONLY, 0, err);
}

static const struct image_opener opener = { open_slice, NULL };

static struct image *open_chain(int overlay)
{
	struct image *img = must_open(overlay, "qcow2", &opener);
	struct err err = ERR_INIT;

	if (image_open_chain(img, &opener, &err) < 0)
		fail_msg("%s", err.text);
	return img;
}

static void expect_disk(int overlay)
{
	CLEANUP(image_close) struct image *img = open_chain(overlay);
	CLEANUP(free) uint8_t *got = malloc(SIZE);
	struct err err = ERR_INIT;

	assert_int_equal(img->size, SIZE);
	if (image_read_guest(img, 0, got, SIZE, &err) < 0)
		fail_msg("%s", err.text);
	assert_memory_equal(got, bytes, SIZE);
}

static void expect_all(unsigned unit_bits, unsigned cluster_bits)
{
	struct err err = ERR_INIT;
	struct view v;

	put_all();
	import(unit_bits);
	v = write_view(cluster_bits);
	if (view_check(pool, &v, &err) < 0)
		fail_msg("%s", err.text);
	expect_disk(write_overlay(&v, false));
	expect_disk(write_overlay(&v, true));
}

static void an_overlay_shows_the_disk_with_clusters_of_4_kib(void **state)
{
	(void)state;
	expect_all(12, 12);
}

static void an_overlay_shows_the_disk_with_clusters_of_16_kib(void **state)
{
	(void)state;
	expect_all(14, 14);
}

static void an_overlay_shows_the_disk_with_clusters_of_64_kib(void **state)
{
	(void)state;
	expect_all(16, 16);
}

static void clusters_may_be_smaller_than_units(void **state)
{
	(void)state;
	expect_all(16, 12);
}

static void clusters_larger_than_units_are_refused(void **state)
{
	struct err err = ERR_INIT;
	struct view v;

	(void)state;
	put_all();
	import(12);
	assert_int_equal(view_write(pool, root, SIZE, 16, &v, &err), -1);
	expect_error(&err, ERR_UNSUPPORTED, "it is stored in clusters of 4 KiB");
	assert_int_equal(view_find_root(pool, root, SIZE, 16, &v, NULL), 0);
}

static void a_disk_of_zeros_has_a_view(void **state)
{
	struct view v;

	(void)state;
	import(12);
	v = write_view(12);
	assert_int_equal(view_check(pool, &v, NULL), 0);
	expect_disk(write_overlay(&v, false));
}

static void stub_and_view_are_as_large_as_their_l1_tables(void **state)
{
	struct view v = a_view();
	CLEANUP(image_close) struct image *img = open_chain(write_overlay(&v, false));

	(void)state;
	assert_int_equal(img->backing->size, 8 * MIB);
	assert_int_equal(img->backing->backing->size, 8 * MIB);
	v = write_view(12);
	assert_int_equal(v.slice_size % (4 * KIB), 0);
	assert_int_equal(img->backing->info.cluster_size, 4 * KIB);
}

static void too_large_disks_are_told_which_clusters_would_do(void **state)
{
	const uint8_t null[DIGEST_SIZE] = { 0 };
	struct err err = ERR_INIT;
	struct view v;

	(void)state;
	if (view_write(pool, null, 8 * TIB, 12, &v, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(view_write(pool, null, 8 * TIB + 1, 12, &v, &err), -1);
	expect_error(&err, ERR_UNSUPPORTED, "16 KiB would do");
	assert_int_equal(view_write(pool, null, 128 * TIB + 1, 14, &v, &err), -1);
	expect_error(&err, ERR_UNSUPPORTED, "64 KiB would do");
	assert_int_equal(view_write(pool, null, 128 * TIB + 1, 16, &v, &err), -1);
	expect_error(&err, ERR_UNSUPPORTED, "too large for a view");
	assert_int_equal(view_write(pool, null, TIB, 13, &v, &err), -1);
	assert_int_equal(view_write(pool, null, 128 * TIB, 14, &v, NULL), 0);
}

/* ---- finding ---- */

static void views_are_found_by_id_and_by_root(void **state)
{
	struct view first = a_view(), second = write_view(12), v;
	const uint8_t other[POOL_ID_SIZE] = { 1 };

	(void)state;
	assert_int_equal(first.slot, 1);
	assert_int_equal(second.slot, 2);
	assert_true(second.generation > first.generation);
	for (int round = 0; round < 2; round++) {
		assert_int_equal(view_find(pool, first.id, &v, NULL), 1);
		assert_memory_equal(&v, &first, sizeof(v));
		assert_int_equal(view_find_root(pool, root, SIZE, 12, &v, NULL), 1);
		assert_memory_equal(v.id, second.id, sizeof(v.id));
		assert_int_equal(view_find(pool, other, &v, NULL), 0);
		assert_int_equal(view_find_root(pool, root, SIZE + 512, 12, &v, NULL), 0);
		assert_int_equal(view_find_root(pool, root, SIZE, 14, &v, NULL), 0);
		close_pool();
		open_pool();
	}
	assert_int_equal(clusters_bury(pool->clusters, second.slot, NULL), 0);
	view_forget(pool);
	assert_int_equal(view_find(pool, second.id, &v, NULL), 0);
	assert_int_equal(view_find_root(pool, root, SIZE, 12, &v, NULL), 1);
	assert_memory_equal(v.id, first.id, sizeof(v.id));
	v = write_view(12);
	assert_int_equal(v.slot, 3);
	assert_true(v.generation > second.generation);
}

static void any_flipped_bit_of_a_header_is_noticed(void **state)
{
	uint8_t header[BLOCK_SIZE];
	struct err err = ERR_INIT;
	struct view v = a_view(), got;

	(void)state;
	assert_int_equal(clusters_read_slot(pool->clusters, v.slot, header, NULL), 0);
	assert_int_equal(view_decode(header, v.slot, &got, NULL), 0);
	assert_memory_equal(&got, &v, sizeof(v));
	for (size_t bit = 0; bit < sizeof(header) * 8; bit++) {
		header[bit / 8] ^= (uint8_t)(1 << bit % 8);
		if (view_decode(header, v.slot, &got, &err) == 0)
			fail_msg("bit %zu", bit);
		header[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	expect_error(&err, ERR_FORMAT, "header in slot 1: the header is damaged");
}

static int cluster_file_by_hand(void)
{
	char name[POOL_FILE_NAME_ROOM], path[200];
	int fd;

	snprintf(path, sizeof(path), "pool/%s", pool_id_file_name(pool->uuid, name));
	fd = openat(dirfd, path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static void flip(int fd, uint64_t at)
{
	uint8_t byte;

	assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
	byte ^= 0x20;
	assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
}

static void a_damaged_slot_hides_no_other_view(void **state)
{
	struct view v = a_view(), second = write_view(12), got;
	struct err err = ERR_INIT;
	int fd = cluster_file_by_hand();

	(void)state;
	flip(fd, v.slot * POOL_SLOT_SIZE + 200);
	close(fd);
	close_pool();
	open_pool();
	assert_int_equal(view_find(pool, second.id, &got, NULL), 1);
	assert_int_equal(view_find(pool, v.id, &got, &err), -1);
	expect_error(&err, ERR_FORMAT, "the header in slot 1 is damaged");
}

static void tables_are_compared_with_the_tree(void **state)
{
	struct err err = ERR_INIT;
	struct view v = a_view();
	uint64_t end = v.slice_size + v.slot * POOL_SLOT_SIZE;
	uint64_t refcounts = end - 4 * KIB, l1 = refcounts - 4 * KIB, l2 = l1 - 3 * 4 * KIB; /* segment 2 has none */
	const struct {
		uint64_t at;
		const char *text;
	} cases[] = {
		{ refcounts + 9, "its refcount table is damaged" },
		{ l1 + 6, "another map than the tree at offset 0 of the disk" },
		{ l1 + 8 + 2, "L2 table 1 is not in the slice" },
		{ l1 + 2 * 8 + 6, "where the tree has none, at offset 4194304 of the disk" },
		{ l2 + 6, "another map than the tree at offset 0 of the disk" },
		{ l2 + 40 * 8 + 6, "another map than the tree at offset 163840 of the disk" },
		{ v.slot * POOL_SLOT_SIZE + 0x20, "the header is damaged" },
	};
	int fd = cluster_file_by_hand();

	(void)state;
	assert_int_equal(view_check(pool, &v, NULL), 0);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		flip(fd, cases[i].at);
		assert_int_equal(view_check(pool, &v, &err), -1);
		expect_error(&err, ERR_FORMAT, cases[i].text);
		flip(fd, cases[i].at);
	}
	assert_int_equal(view_check(pool, &v, NULL), 0);
	close(fd);
}

/* ---- locked headers ---- */

/* That QEMU's next version of the header, longer by 8 bytes, does not fit. */
static void expect_locked(const uint8_t *cluster, size_t size)
{
	const struct qcow2_header_disk *d = (const void *)cluster;
	size_t end = be64_get(d->backing_file_offset), at = QCOW2_V3_LENGTH;
	struct qcow2_extension_disk e;

	assert_int_equal(be32_get(d->header_length), QCOW2_V3_LENGTH);
	assert_int_equal(be64_get(d->autoclear_features), QCOW2_LOCKED);
	for (;; at += sizeof(e) + round_up(be32_get(e.length), 8)) {
		assert_true(at + sizeof(e) <= size);
		memcpy(&e, cluster + at, sizeof(e));
		if (be32_get(e.type) == QCOW2_EXT_END)
			break;
	}
	at += sizeof(e);
	if (end)
		assert_int_equal(at, end);
	assert_true(at + be32_get(d->backing_file_size) > size - 8);
	assert_true(at + be32_get(d->backing_file_size) <= size);
}

static void headers_have_no_room_to_be_written_anew(void **state)
{
	CLEANUP(free) uint8_t *cluster = calloc(1, 64 * KIB);
	char name[POOL_FILE_NAME_ROOM];
	struct view v;
	int fd;

	(void)state;
	put_all();
	import(16);
	for (unsigned bits = 12; bits <= 16; bits += 2) {
		v = write_view(bits);
		memset(cluster, 0, 64 * KIB);
		assert_int_equal(clusters_read_slot(pool->clusters, v.slot, cluster, NULL), 0);
		expect_locked(cluster, (size_t)1 << bits);
		fd = openat(pool->dirs[POOL_VIEWS], pool_id_file_name(v.id, name), O_RDONLY | O_CLOEXEC);
		assert_int_equal(pread(fd, cluster, 4 * KIB, 0), 4 * KIB);
		expect_locked(cluster, 4 * KIB);
		close(fd);
	}
}

/* ---- order, and what fails ---- */

static struct file_ops ops;
static char events[64];
static int fail_at;

static int counted(char c)
{
	size_t len = strlen(events);

	if (fail_at && --fail_at == 0) {
		errno = ENOSPC;
		return -1;
	}
	if ((!len || events[len - 1] != c) && len + 1 < sizeof(events))
		events[len] = c;
	return 0;
}

/* The cluster file's data area, a slot of it, or another file. */
static ssize_t note_write(int fd, const void *buf, size_t len, off_t offset)
{
	struct stat st, ours;
	bool pooled = fstat(fd, &st) == 0 && fstat(cluster_file_fd(clusters_growing(pool->clusters).file), &ours) == 0 && st.st_ino == ours.st_ino;

	if (counted(!pooled ? 's' : (uint64_t)offset < POOL_DATA_BEGIN ? 'h' : 't') < 0)
		return -1;
	return file_ops_os.pwrite(fd, buf, len, offset);
}

static int note_fsync(int fd)
{
	return counted('.') < 0 ? -1 : file_ops_os.fsync(fd);
}

static int note_fdatasync(int fd)
{
	return counted('.') < 0 ? -1 : file_ops_os.fdatasync(fd);
}

static int note_rename(int from_dirfd, const char *from, int to_dirfd, const char *to, unsigned flags)
{
	return counted('r') < 0 ? -1 : file_ops_os.renameat2(from_dirfd, from, to_dirfd, to, flags);
}

static void watch(int fail)
{
	ops = file_ops_os;
	ops.pwrite = note_write;
	ops.fsync = note_fsync;
	ops.fdatasync = note_fdatasync;
	ops.renameat2 = note_rename;
	memset(events, 0, sizeof(events));
	fail_at = fail;
	file_ops = &ops;
}

static void tables_header_and_stub_are_synced_in_this_order(void **state)
{
	struct view v;

	(void)state;
	put_all();
	import(12);
	assert_int_equal(pool_sync(pool, NULL), 0);
	watch(0);
	v = write_view(12);
	file_ops = &file_ops_os;
	if (!strstr(events, "t.h.s.r."))
		fail_msg("order was %s", events);
	assert_string_equal(strstr(events, "t.h.s.r."), "t.h.s.r.");
	(void)v;
}

static int no_temporary(void *ctx, const char *name, struct err *err)
{
	(void)ctx;
	(void)err;
	assert_null(strstr(name, ".tmp"));
	return 0;
}

static void what_fails_on_the_way_leaves_no_half_view(void **state)
{
	struct view v, got;
	int fails = 0;

	(void)state;
	put_all();
	import(12);
	assert_int_equal(pool_sync(pool, NULL), 0);
	for (int i = 1, rc = -1; rc < 0; i++, fails++) {
		struct err err = ERR_INIT;

		watch(i);
		rc = view_write(pool, root, SIZE, 12, &v, &err);
		file_ops = &file_ops_os;
		if (rc < 0)
			assert_int_equal(err.kind, ERR_FULL);
		assert_int_equal(file_each_name(pool->dirs[POOL_VIEWS], no_temporary, NULL, NULL), 0);
		close_pool(); /* an error of a sync is final for that file */
		open_pool();
		if (view_find_root(pool, root, SIZE, 12, &got, NULL))
			assert_int_equal(view_check(pool, &got, NULL), 0);
	}
	assert_true(fails > 6);
	expect_disk(write_overlay(&v, false));
}

static void a_lost_stub_is_written_again(void **state)
{
	struct view v = a_view();
	char name[POOL_FILE_NAME_ROOM], wanted[16384], got[16384];
	ssize_t len;
	int fd = openat(pool->dirs[POOL_VIEWS], pool_id_file_name(v.id, name), O_RDONLY | O_CLOEXEC);
	struct stat st;

	(void)state;
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0444);
	assert_true(st.st_blocks * 512 <= (off_t)(12 * KIB));
	len = read(fd, wanted, sizeof(wanted));
	close(fd);
	assert_int_equal(unlinkat(pool->dirs[POOL_VIEWS], name, 0), 0);
	assert_int_equal(view_write_stub(pool, &v, NULL, NULL), 0);
	fd = openat(pool->dirs[POOL_VIEWS], name, O_RDONLY | O_CLOEXEC);
	assert_int_equal(read(fd, got, sizeof(got)), len);
	assert_memory_equal(got, wanted, len);
	close(fd);
}

static struct slice backing_of_stub(const struct view *v)
{
	char name[POOL_FILE_NAME_ROOM];
	int fd = openat(pool->dirs[POOL_VIEWS], pool_id_file_name(v->id, name), O_RDONLY | O_CLOEXEC);
	struct slice s = { 0 };
	uint64_t size;

	assert_int_equal(overlay_backing(fd, &s, &size, NULL), 1);
	close(fd);
	return s;
}

static void a_stub_keeps_what_it_was_made_with(void **state)
{
	char name[POOL_FILE_NAME_ROOM];
	struct view v, again;

	(void)state;
	pool->reading = (struct slice_reading){ 64 << 20, true, true };
	v = a_view();
	assert_int_equal(backing_of_stub(&v).reading.l2, 64 << 20);
	assert_true(backing_of_stub(&v).reading.host);
	pool->reading = (struct slice_reading){ 128 << 20, false }; /* told something else meanwhile */
	assert_int_equal(view_check_stub(pool, &v, POOL_VIEWS, NULL), 0);
	assert_int_equal(view_write_stub(pool, &v, NULL, NULL), 0);
	assert_int_equal(view_write_as(pool, &v, NULL, &again, NULL), 0);
	assert_int_equal(backing_of_stub(&again).reading.l2, 64 << 20);
	assert_true(backing_of_stub(&again).reading.host && backing_of_stub(&again).reading.io_uring);
	assert_int_equal(view_check_stub(pool, &again, POOL_VIEWS, NULL), 0);
	pool->reading.l2 = 0;
	assert_int_equal(unlinkat(pool->dirs[POOL_VIEWS], pool_id_file_name(v.id, name), 0), 0);
	assert_int_equal(view_write_stub(pool, &again, NULL, NULL), 0); /* lost, and what it had with it */
	assert_int_equal(backing_of_stub(&again).reading.l2, 0);
	assert_int_equal(view_check_stub(pool, &again, POOL_VIEWS, NULL), 0);
	expect_disk(write_overlay(&again, false));
}

static void expect_told(uint64_t l2, bool host, bool io_uring)
{
	const struct slice_reading is = stub_told(pool), wanted = { l2, host, io_uring };

	assert_true(slice_same_reading(&is, &wanted));
}

static void tell(const struct stub_wish *w)
{
	struct err err = ERR_INIT;

	if (stub_tell(pool, w, &err) < 0)
		fail_msg("%s", err.text);
}

static void the_pool_keeps_what_it_was_told(void **state)
{
	static const char *const damaged[] = { "", "l2 1", "l2 1048576\nhost 2\n", "l2 1048576\nhost 1\nx", "l2 -1\nhost 1\n",
					       "l2 1073741825\nhost 1\n", "l2 1048576\nhost 1\naio threads\n",
					       "l2 1048576\nhost 1\naio io_uringx\n" };

	(void)state;
	expect_told(0, false, false);
	tell(&(struct stub_wish){ .as = { MIB, true, true }, .l2 = true, .host = true });
	assert_true(pool->reading.l2 == MIB && pool->reading.host && !pool->reading.io_uring);
	expect_told(MIB, true, false);
	tell(&(struct stub_wish){ .l2 = true }); /* and nothing else */
	expect_told(0, true, false);
	for (size_t i = 0; i < ARRAY_SIZE(damaged); i++) {
		assert_int_equal(file_write_atomic(pool->dirs[POOL_TOP], "cache", damaged[i], strlen(damaged[i]), 0600, NULL), 0);
		expect_told(0, false, false);
	}
}

static void the_pool_keeps_that_it_was_told_io_uring(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	if (stub_tell(pool, &(struct stub_wish){ .as = { .io_uring = true }, .aio = true }, &err) < 0) {
		assert_int_equal(err.kind, ERR_REFUSED);
		expect_told(0, false, false);
		print_message("%s\n", err.text);
		skip();
	}
	assert_true(pool->reading.io_uring);
	expect_told(0, false, true);
	tell(&(struct stub_wish){ .as = { MIB }, .l2 = true });
	expect_told(MIB, false, true);
	tell(&(struct stub_wish){ .aio = true });
	expect_told(MIB, false, false);
}

/* ---- names ---- */

static void backing_names_tell_the_view(void **state)
{
	struct view v = a_view();
	uint8_t id[POOL_ID_SIZE];
	struct slice s, other;

	(void)state;
	assert_int_equal(view_backing(pool, &v, &s, NULL), 0);
	assert_true(s.read_only && s.offset == 0);
	assert_true(view_of_backing(pool, &s, id));
	assert_memory_equal(id, v.id, sizeof(id));
	other = s;
	snprintf(other.path, sizeof(other.path), "%.900s/", s.path);
	assert_false(view_of_backing(pool, &other, id));
	snprintf(other.path, sizeof(other.path), "/x%.900s", s.path);
	assert_false(view_of_backing(pool, &other, id));
	snprintf(other.path, sizeof(other.path), "%.900s/views/x.qcow2", pool->path);
	assert_false(view_of_backing(pool, &other, id));
	snprintf(other.path, sizeof(other.path), "%.900s/views/", pool->path);
	assert_false(view_of_backing(pool, &other, id));
	assert_false(view_of_backing(pool, &(struct slice){ 0 }, id));
}

static void a_pool_with_a_long_path_gets_no_views(void **state)
{
	struct err err = ERR_INIT;
	char path[1000] = "/", *own = pool->path;
	struct view v;

	(void)state;
	put_all();
	import(12);
	memset(path + 1, 'p', 860);
	pool->path = path;
	assert_int_equal(view_write(pool, root, SIZE, 12, &v, &err), -1);
	expect_error(&err, ERR_UNSUPPORTED, "is too long to be");
	memset(path + 1, 'p', sizeof(path) - 2);
	assert_int_equal(view_write(pool, root, SIZE, 12, &v, &err), -1);
	expect_error(&err, ERR_UNSUPPORTED, "is too long to be");
	pool->path = own;
	assert_int_equal(view_find_root(pool, root, SIZE, 12, &v, NULL), 0);
	assert_int_equal(view_write(pool, root, SIZE, 12, &v, NULL), 0);
}

/* ---- overlays ---- */

static void overlays_tell_what_they_stand_on(void **state)
{
	struct view v = a_view();
	int fd = write_overlay(&v, false);
	struct err err = ERR_INIT;
	struct slice s, wanted;
	uint64_t size;
	struct stat st;

	(void)state;
	assert_int_equal(view_backing(pool, &v, &wanted, NULL), 0);
	assert_int_equal(overlay_backing(fd, &s, &size, NULL), 1);
	assert_string_equal(s.path, wanted.path);
	assert_true(s.size == wanted.size && s.offset == 0 && s.read_only && !s.reading.host);
	assert_int_equal(size, SIZE);
	assert_int_equal(fstat(fd, &st), 0);
	assert_true(st.st_blocks * 512 <= (off_t)(16 * KIB));
	assert_int_equal(pwrite(fd, "x", 1, be64_get((be64){ { 0, 0, 0, 0, 0, 0, 0, 8 } })), 1); /* the name's offset */
	assert_int_equal(overlay_backing(fd, &s, &size, &err), -1);
	assert_int_equal(err.kind, ERR_FORMAT);
	close(fd);
	fd = file_of("no image", 8);
	assert_int_equal(overlay_backing(fd, &s, &size, &err), -1);
	close(fd);
}

static void slices_that_leave_their_file_are_refused(void **state)
{
	struct view v = a_view();
	int fd = write_overlay(&v, false), clusters = cluster_file_by_hand();
	struct image *img = must_open(dup(fd), "qcow2", &opener);
	struct err err = ERR_INIT;
	struct stat st;

	(void)state;
	assert_int_equal(fstat(clusters, &st), 0);
	assert_int_equal(ftruncate(clusters, (off_t)(v.slice_size + v.slot * POOL_SLOT_SIZE) - 512), 0);
	assert_int_equal(image_open_chain(img, &opener, &err), -1);
	expect_error(&err, ERR_FORMAT, "ends past the end of");
	image_close(img);
	assert_int_equal(ftruncate(clusters, st.st_size), 0);
	expect_disk(fd);
	close(clusters);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		view_test(an_overlay_shows_the_disk_with_clusters_of_4_kib),
		view_test(an_overlay_shows_the_disk_with_clusters_of_16_kib),
		view_test(an_overlay_shows_the_disk_with_clusters_of_64_kib),
		view_test(clusters_may_be_smaller_than_units),
		view_test(clusters_larger_than_units_are_refused),
		view_test(a_disk_of_zeros_has_a_view),
		view_test(stub_and_view_are_as_large_as_their_l1_tables),
		view_test(too_large_disks_are_told_which_clusters_would_do),
		view_test(views_are_found_by_id_and_by_root),
		view_test(any_flipped_bit_of_a_header_is_noticed),
		view_test(a_damaged_slot_hides_no_other_view),
		view_test(tables_are_compared_with_the_tree),
		view_test(headers_have_no_room_to_be_written_anew),
		view_test(tables_header_and_stub_are_synced_in_this_order),
		view_test(what_fails_on_the_way_leaves_no_half_view),
		view_test(a_lost_stub_is_written_again),
		view_test(a_stub_keeps_what_it_was_made_with),
		view_test(the_pool_keeps_what_it_was_told),
		view_test(the_pool_keeps_that_it_was_told_io_uring),
		view_test(backing_names_tell_the_view),
		view_test(a_pool_with_a_long_path_gets_no_views),
		view_test(overlays_tell_what_they_stand_on),
		view_test(slices_that_leave_their_file_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
