/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include <stdio.h>

#include "compactor/pool/seal_notes.h"
#include "compactor/pool/view.h"
#include "scanner/base/file.h"
#include "scanner/image/qcow2_format.h"

/* Row C2. */

#define DISK ((uint64_t)64 << 30)
#define L1_AT (3 * 65536)
#define L1_BYTES 2048 /* 256 L2 tables of 256 MiB each */
#define L2_AT (4 * 65536)
#define LENGTH (6 * 65536)
#define NOTED 1795000000123456789u

static struct pool pool;
static int fd;
static struct name_disk disk;
static struct err err;

static void put_time_back(uint64_t ns)
{
	const struct timespec t = { .tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000) };

	assert_int_equal(futimens(fd, (struct timespec[]){ t, t }), 0);
}

/* A sealed overlay with one L2 table and one cluster of data, and what is noted of it. */
static int make(void **state)
{
	const struct slice backing = { .path = "/srv/.dedupscan-pool/views/a.qcow2", .size = 4096, .read_only = true };
	const struct overlay_options o = { .compat = false };
	char name[POOL_FILE_NAME_ROOM];
	struct stat st;

	if (tree_make(state) < 0)
		return -1;
	disk = (struct name_disk){ .sealed = { 1 } };
	pool.dirs[POOL_SEALED] = open(tree, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	fd = openat(pool.dirs[POOL_SEALED], pool_id_file_name(disk.sealed, name), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || overlay_write(fd, DISK, &backing, &o, NULL) < 0)
		return -1;
	assert_int_equal(pwrite(fd, "\x80\0\0\0\0\4\0\0", 8, L1_AT + 8), 8);
	assert_int_equal(ftruncate(fd, LENGTH), 0);
	put_time_back(NOTED);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(seal_describe(fd, &st, &disk, NULL), 0);
	assert_int_equal(disk.written, NOTED);
	assert_int_equal(disk.length, LENGTH);
	return 0;
}

static int unmake(void **state)
{
	close(fd);
	close(pool.dirs[POOL_SEALED]);
	return tree_remove(state);
}

/* NULL = it is whole. */
static const char *check(void)
{
	err = ERR_INIT;
	if (seal_check_in(&pool, &disk, &err) == 0)
		return NULL;
	assert_int_equal(err.kind, ERR_FORMAT);
	return err.text;
}

static void assert_said(const char *words)
{
	const char *said = check();

	if (!said || !strstr(said, words))
		fail_msg("'%s' was expected, not '%s'", words, said ? said : "");
}

static void flip(uint64_t at, uint8_t bits)
{
	uint8_t byte;

	assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
	byte ^= bits;
	assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
	put_time_back(NOTED);
}

#define AT(field) (offsetof(struct qcow2_header_disk, field) + sizeof(((struct qcow2_header_disk *)0)->field) - 1)

static void every_byte_that_leads_to_tables_counts(void **state)
{
	static const size_t fields[] = {
		AT(magic), AT(version), AT(cluster_bits), AT(size), AT(l1_size), AT(l1_table_offset) - 2, AT(incompatible_features),
	};

	(void)state;
	assert_null(check());
	for (size_t i = 0; i < sizeof(fields) / sizeof(*fields); i++) {
		flip(fields[i], 1);
		if (!check())
			fail_msg("byte %zu of the header may be another", fields[i]);
		flip(fields[i], 1);
		assert_null(check());
	}
	for (uint64_t at = L1_AT; at < L1_AT + L1_BYTES; at++) {
		flip(at, 0x80);
		if (!check())
			fail_msg("byte %d of the L1 table may be another", (int)(at - L1_AT));
		flip(at, 0x80);
	}
	assert_null(check());
}

/* Data and L2 tables are not noted, and what a repointed header has otherwise is no damage. */
static void the_rest_does_not_count(void **state)
{
	const struct slice other = { .path = "/mnt/elsewhere/.dedupscan-pool/views/a.qcow2", .size = 4096, .read_only = true };

	(void)state;
	flip(L2_AT, 1);
	flip(L2_AT + 65536, 1);
	assert_null(check());
	assert_int_equal(overlay_repoint(fd, &other, &err), 0);
	assert_null(check()); /* somebody wrote to it */
	put_time_back(NOTED);
	assert_null(check());
}

static void another_length_is_told(void **state)
{
	(void)state;
	assert_int_equal(ftruncate(fd, LENGTH - 1), 0);
	put_time_back(NOTED);
	assert_said("its file has 393215 bytes, and had 393216 when it was sealed");
	assert_int_equal(ftruncate(fd, LENGTH + 1), 0);
	put_time_back(NOTED);
	assert_said("its file has 393217 bytes");
	assert_int_equal(ftruncate(fd, 0), 0);
	put_time_back(NOTED);
	assert_said("its file has 0 bytes");
	assert_int_equal(unlinkat(pool.dirs[POOL_SEALED], "01000000-0000-0000-0000-000000000000.qcow2", 0), 0);
	assert_said("is missing");
}

/* What a guest wrote who came too late makes it longer, and gives it new tables, and is no damage. */
static void what_was_changed_is_what_it_is(void **state)
{
	(void)state;
	assert_int_equal(ftruncate(fd, LENGTH + 65536), 0);
	assert_int_equal(pwrite(fd, "\x80\0\0\0\0\5\0\0", 8, L1_AT + 16), 8);
	assert_null(check());
	assert_int_equal(pwrite(fd, "\x80\0\0\0\0\7\0\0", 8, L1_AT + 16), 8);
	assert_said("behind the end of its file");
	assert_int_equal(ftruncate(fd, LENGTH + 2 * 65536), 0);
	assert_null(check());
	assert_int_equal(pwrite(fd, "\x80\0\0\0\0\4\2\0", 8, L1_AT + 16), 8);
	assert_said("between clusters");
	assert_int_equal(pwrite(fd, "\0\0\0\0\0\0\0\0", 8, L1_AT + 16), 8);
	assert_int_equal(ftruncate(fd, LENGTH - 1), 0);
	assert_said("its file has 393215 bytes");
	assert_int_equal(ftruncate(fd, LENGTH), 0);
	assert_null(check());
	assert_int_equal(pwrite(fd, "\0\0\0\0", 4, 0), 4);
	assert_said("no qcow2 header");
}

/* Of earlier programs: what can be told of it by itself. */
static void what_nothing_is_noted_of_must_have_its_tables(void **state)
{
	(void)state;
	disk.length = 0;
	disk.l1 = 0;
	flip(L1_AT + 15, 1);
	flip(L1_AT + 15, 1);
	assert_null(check());
	assert_int_equal(ftruncate(fd, L2_AT + 65535), 0);
	put_time_back(NOTED);
	assert_said("behind the end of its file");
	assert_int_equal(ftruncate(fd, L1_AT + 8), 0);
	assert_said("what leads to its data cannot be read: L1 table");
	seal_forget(&disk);
	assert_said("what leads to its data cannot be read: L1 table");
}

/* A copy of whole seconds is as it was. */
static void a_copy_may_have_whole_seconds(void **state)
{
	(void)state;
	put_time_back(NOTED / 1000000000 * 1000000000);
	assert_null(check());
	assert_int_equal(ftruncate(fd, LENGTH + 1), 0);
	put_time_back(NOTED / 1000000000 * 1000000000);
	assert_said("its file has 393217 bytes");
}

#define overlay_test(f) cmocka_unit_test_setup_teardown(f, make, unmake)

int main(void)
{
	const struct CMUnitTest tests[] = {
		overlay_test(every_byte_that_leads_to_tables_counts),
		overlay_test(the_rest_does_not_count),
		overlay_test(another_length_is_told),
		overlay_test(what_was_changed_is_what_it_is),
		overlay_test(what_nothing_is_noted_of_must_have_its_tables),
		overlay_test(a_copy_may_have_whole_seconds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
