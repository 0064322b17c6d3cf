/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include <time.h>

#include "scanner/base/bytes.h"
#include "scanner/base/checked.h"
#include "scanner/base/proc.h"
#include "scanner/inspect.h"
#include "scanner/leash.h"
#include "scanner/worker.h"
#include "tests/unit/image_help.h"

static struct roots roots;
static struct inspection found;
static struct jail jail;

static int make(void **state)
{
	roots = (struct roots){ 0 };
	if (jail_plan(&jail, JAIL_BEST, NULL) < 0)
		return -1;
	return tree_make(state);
}

static int unmake(void **state)
{
	roots_release(&roots);
	return tree_remove(state);
}

#define inspect_test(f) cmocka_unit_test_setup_teardown(f, make, unmake)

/* What there is to know of a file in the tree, whose directory is a root. */
static void inspect_with(const char *name, struct inspect_options o)
{
	struct err err = ERR_INIT;

	assert_int_equal(roots_add(&roots, in_tree(name), true, &err), 0);
	assert_int_equal(roots_add(&roots, tree, false, &err), 0);
	o.roots = &roots;
	o.jail = &jail;
	if (inspect_image(&roots.list.items[0], &o, &found, &err) < 0)
		fail_msg("not inspected: %s", err.text);
}

static void inspect(const char *name)
{
	inspect_with(name, (struct inspect_options){ .roots = NULL });
}

static void expect_problem(enum inspect_problem_kind kind, const char *text)
{
	for (uint32_t i = 0; i < found.nr_problems; i++)
		if (found.problems[i].kind == kind && strstr(found.problems[i].text, text))
			return;
	fail_msg("no problem says '%s', the first: '%s'", text, found.nr_problems ? found.problems[0].text : "");
}

static void expect_count(enum inspect_extent kind, uint64_t nr, uint64_t bytes)
{
	assert_int_equal(found.extents[kind].nr, nr);
	assert_int_equal(found.extents[kind].bytes, bytes);
}

/* ---- qcow2 images by hand: a header, an L1 table, one L2 table, then what the entries say ---- */

#define CLUSTER 512
#define DISK (64 * CLUSTER) /* as much as an L2 table maps */
#define FIRST_DATA (4 * CLUSTER)

static uint8_t image[32 * CLUSTER];

static void begin_image(const char *backing, const char *format)
{
	memset(image, 0, sizeof(image));
	memcpy(image, "QFI\xfb", 4);
	be32_store(image + 4, 3);
	be32_store(image + 20, 9);
	be64_store(image + 24, DISK);
	be32_store(image + 36, 1);
	be64_store(image + 40, 2 * CLUSTER);
	be64_store(image + 48, CLUSTER);
	be32_store(image + 56, 1);
	be32_store(image + 96, 4);
	be32_store(image + 100, 104);
	be64_store(image + 2 * CLUSTER, 3 * CLUSTER);
	if (*format) {
		be32_store(image + 104, 0xe2792aca);
		be32_store(image + 108, (uint32_t)strlen(format));
		memcpy(image + 112, format, strlen(format));
	}
	if (*backing) {
		be64_store(image + 8, 256);
		be32_store(image + 16, (uint32_t)strlen(backing));
		memcpy(image + 256, backing, strlen(backing));
	}
}

static void map_cluster(unsigned at, uint64_t entry)
{
	be64_store(image + 3 * CLUSTER + at * 8, entry);
}

static void write_image(const char *name)
{
	tree_write(name, image, sizeof(image));
}

static void tells_sizes_and_holes_of_a_raw_file(void **state)
{
	char block[8192];

	(void)state;
	memset(block, 'x', sizeof(block));
	tree_write("disk.raw", block, sizeof(block));
	assert_int_equal(truncate(in_tree("disk.raw"), (off_t)(5 * GIB)), 0);
	inspect("disk.raw");
	assert_string_equal(found.path, in_tree("disk.raw"));
	assert_string_equal(found.format, "raw");
	assert_int_equal(found.certainty, IMAGE_AGREED);
	assert_int_equal(found.virtual_size, 5 * GIB);
	assert_int_equal(found.file_size, 5 * GIB);
	assert_in_range(found.file_used, 8192, 65536);
	assert_int_equal(found.walked, 5 * GIB);
	assert_int_equal(found.nr_problems, 0);
	assert_false(inspect_failed(&found));
	/* readers end an extent after 1 GiB */
	assert_int_equal(found.extents[INSPECT_HOLE].nr, 1);
	assert_int_equal(found.extents[INSPECT_DATA].nr, 1);
	assert_int_equal(found.extents[INSPECT_DATA].bytes + found.extents[INSPECT_HOLE].bytes, 5 * GIB);
}

static void counts_each_kind_of_extent(void **state)
{
	(void)state;
	begin_image("", "");
	map_cluster(0, FIRST_DATA);
	map_cluster(1, FIRST_DATA + CLUSTER);	  /* goes on */
	map_cluster(2, FIRST_DATA + 8 * CLUSTER); /* lies elsewhere */
	map_cluster(3, 1);
	map_cluster(4, 1);
	map_cluster(5, (FIRST_DATA + 16 * CLUSTER) | 1);
	map_cluster(10, (uint64_t)1 << 62 | (FIRST_DATA + 20 * CLUSTER));
	write_image("disk.qcow2");
	inspect("disk.qcow2");
	expect_count(INSPECT_DATA, 2, 3 * CLUSTER);
	expect_count(INSPECT_ZERO, 1, 2 * CLUSTER);
	expect_count(INSPECT_PREALLOCATED, 1, CLUSTER);
	expect_count(INSPECT_PACKED, 1, CLUSTER);
	expect_count(INSPECT_HOLE, 2, DISK - 7 * CLUSTER);
	assert_int_equal(found.span, DISK);
	assert_int_equal(found.walked, DISK);
	assert_int_equal(found.cluster_size, CLUSTER);
	assert_int_equal(found.version, 3);
}

static void counts_how_data_is_aligned(void **state)
{
	(void)state;
	begin_image("", "");
	for (unsigned i = 0; i < 12; i++)
		map_cluster(8 + i, (8 + i) * CLUSTER); /* where it is on the disk */
	map_cluster(32, FIRST_DATA);		       /* 0x800 in the file, 0x4000 on the disk */
	map_cluster(40, FIRST_DATA + CLUSTER);
	write_image("disk.qcow2");
	inspect("disk.qcow2");
	assert_int_equal(found.extents[INSPECT_DATA].bytes, 14 * CLUSTER);
	assert_int_equal(found.aligned[0], 14 * CLUSTER);
	assert_int_equal(found.aligned[1], 13 * CLUSTER); /* 1 KiB: not the last */
	assert_int_equal(found.aligned[2], 13 * CLUSTER);
	assert_int_equal(found.aligned[3], 12 * CLUSTER); /* 4 KiB */
	assert_int_equal(found.aligned[11], 12 * CLUSTER);
	/* of twelve clusters from 4 KiB on, eight make a whole block */
	assert_int_equal(found.aligned_blocks, 4096);
}

static void names_the_members_of_the_chain(void **state)
{
	(void)state;
	begin_image("middle.qcow2", "qcow2");
	write_image("top.qcow2");
	begin_image("base", "raw");
	write_image("middle.qcow2");
	begin_image("", "");
	write_image("base");
	inspect("top.qcow2");
	assert_int_equal(found.nr_members, 2);
	assert_string_equal(found.members[0].path, in_tree("middle.qcow2"));
	assert_string_equal(found.members[0].format, "qcow2");
	assert_int_equal(found.members[0].virtual_size, DISK);
	assert_int_equal(found.members[0].file_size, sizeof(image));
	assert_int_equal(found.members[0].format_stated, 1);
	assert_string_equal(found.members[1].path, in_tree("base"));
	assert_string_equal(found.members[1].format, "raw");
	assert_int_equal(found.members[1].virtual_size, sizeof(image));
	assert_string_equal(found.backing_name, "middle.qcow2");
	assert_string_equal(found.backing_format, "qcow2");
	assert_int_equal(found.nr_problems, 0);
}

static void whether_the_format_is_stated_is_told_of_each_member(void **state)
{
	(void)state;
	begin_image("middle.qcow2", "qcow2");
	write_image("top.qcow2");
	begin_image("base.qcow2", "");
	write_image("middle.qcow2");
	begin_image("", "");
	write_image("base.qcow2");
	inspect("top.qcow2");
	assert_int_equal(found.nr_members, 2);
	assert_int_equal(found.members[0].format_stated, 1);
	assert_int_equal(found.members[1].format_stated, 0);
	assert_string_equal(found.members[1].format, "qcow2");
}

static void a_member_that_is_missing_is_named_and_those_before_it_are_told(void **state)
{
	(void)state;
	begin_image("middle.qcow2", "");
	write_image("top.qcow2");
	begin_image("gone", "raw");
	write_image("middle.qcow2");
	inspect("top.qcow2");
	assert_int_equal(found.nr_members, 2);
	assert_string_equal(found.members[0].error, "");
	assert_int_equal(found.members[0].format_stated, 0);
	assert_string_equal(found.members[1].path, "gone");
	assert_non_null(strstr(found.members[1].error, "No such file"));
	expect_problem(INSPECT_CHAIN, "backing file 'gone'");
	assert_false(inspect_failed(&found)); /* what it holds itself can be read */
}

static void a_backing_file_outside_is_refused(void **state)
{
	(void)state;
	begin_image("/etc/passwd", "raw");
	write_image("top.qcow2");
	inspect("top.qcow2");
	expect_problem(INSPECT_CHAIN, "lies outside the directories given");
	assert_int_equal(found.problems[0].err_kind, ERR_REFUSED);
}

static void an_image_that_cannot_be_opened_is_its_own_problem(void **state)
{
	(void)state;
	begin_image("", "");
	be32_store(image + 4, 99);
	write_image("disk.qcow2");
	inspect("disk.qcow2");
	assert_true(inspect_failed(&found));
	assert_false(found.opened);
	assert_string_equal(found.format, "qcow2"); /* that much is known */
	expect_problem(INSPECT_UNREAD, "version 99");
}

static void a_walk_that_breaks_says_where(void **state)
{
	(void)state;
	begin_image("", "");
	be32_store(image + 4, 2); /* in which there are no zero clusters */
	map_cluster(0, FIRST_DATA);
	map_cluster(5, 1);
	write_image("broken.qcow2");
	inspect("broken.qcow2");
	assert_true(found.opened);
	assert_true(inspect_failed(&found));
	expect_problem(INSPECT_UNREAD, "from offset 2560 on");
	assert_int_equal(found.walked, 5 * CLUSTER);
	expect_count(INSPECT_DATA, 1, CLUSTER);
}

static void a_format_may_be_told(void **state)
{
	(void)state;
	begin_image("", "");
	write_image("disk.raw");
	inspect_with("disk.raw", (struct inspect_options){ .format = "qcow2" });
	assert_string_equal(found.format, "qcow2");
	assert_int_equal(found.certainty, IMAGE_TOLD);
	assert_int_equal(found.nr_problems, 0);
}

#define DIRECTORY (20 * CLUSTER)

static void put_bitmap(size_t at, uint32_t flags, unsigned granularity_bits, unsigned extra, const char *name)
{
	uint8_t *p = image + DIRECTORY + at;

	be32_store(p + 8, 1);
	be32_store(p + 12, flags);
	p[16] = 1;
	p[17] = (uint8_t)granularity_bits;
	be16_store(p + 18, (uint16_t)strlen(name));
	be32_store(p + 20, extra);
	memset(p + 24, 'x', extra);
	memcpy(p + 24 + extra, name, strlen(name));
}

/* Three bitmaps; the second one has extra data. */
static void begin_bitmaps(uint64_t directory_size)
{
	begin_image("", "");
	be64_store(image + 88, 1); /* they are consistent */
	be32_store(image + 104, 0x23852875);
	be32_store(image + 108, 24);
	be32_store(image + 112, 3);
	be64_store(image + 120, directory_size);
	be64_store(image + 128, DIRECTORY);
	put_bitmap(0, 2, 16, 0, "recording");
	put_bitmap(40, 1, 12, 4, "lost");
	put_bitmap(72, 0, 9, 0, "idle");
}

static void bitmaps_that_were_not_saved_properly_are_told(void **state)
{
	(void)state;
	begin_bitmaps(104);
	write_image("disk.qcow2");
	inspect("disk.qcow2");
	assert_int_equal(found.nr_problems, 0);
	assert_int_equal(found.bitmaps_listed, 3);
	assert_string_equal(found.bitmaps[0].name, "recording");
	assert_int_equal(found.bitmaps[0].granularity, 65536);
	assert_true(found.bitmaps[0].automatic && !found.bitmaps[0].inconsistent);
	assert_string_equal(found.bitmaps[1].name, "lost");
	assert_int_equal(found.bitmaps[1].granularity, 4096);
	assert_true(!found.bitmaps[1].automatic && found.bitmaps[1].inconsistent);
	assert_string_equal(found.bitmaps[2].name, "idle");
	assert_true(!found.bitmaps[2].automatic && !found.bitmaps[2].inconsistent);
}

static void bitmaps_that_somebody_ignored_are_all_inconsistent(void **state)
{
	(void)state;
	begin_bitmaps(104);
	be64_store(image + 88, 0);
	write_image("disk.qcow2");
	inspect("disk.qcow2");
	assert_int_equal(found.bitmaps_listed, 3);
	for (unsigned i = 0; i < 3; i++)
		assert_true(found.bitmaps[i].inconsistent);
}

static void broken_bitmap_directories_leave_the_rest_readable(void **state)
{
	static const struct {
		uint64_t size, offset;
		unsigned listed;
		const char *why;
	} broken[] = {
		{ 96, DIRECTORY, 2, "bitmap 3: the bitmap directory is too short" },
		{ 30, DIRECTORY, 0, "bitmap 1: the bitmap directory is too short" },
		{ 104, sizeof(image), 0, "ends past the end of the file" },
		{ UINT64_MAX, DIRECTORY, 0, "is too large" },
		{ 104, UINT64_MAX - 511, 0, "ends past the end of the file" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(broken); i++) {
		begin_bitmaps(broken[i].size);
		be64_store(image + 128, broken[i].offset);
		write_image("disk.qcow2");
		inspect("disk.qcow2");
		roots_release(&roots);
		expect_problem(INSPECT_EXTRAS, broken[i].why);
		assert_int_equal(found.bitmaps_listed, broken[i].listed);
		assert_false(inspect_failed(&found));
	}
	begin_bitmaps(104);
	put_bitmap(40, 1, 64, 4, "lost");
	write_image("disk.qcow2");
	inspect("disk.qcow2");
	expect_problem(INSPECT_EXTRAS, "bitmap 2: a bitmap has granularity 2^64");
}

static void dirty_and_corrupt_images_are_told(void **state)
{
	(void)state;
	begin_image("", "");
	be64_store(image + 72, 3);
	write_image("disk.qcow2");
	inspect("disk.qcow2");
	expect_problem(INSPECT_DIRTY, "not closed");
	expect_problem(INSPECT_CORRUPT, "marked corrupt");
	assert_false(inspect_failed(&found));
}

static void a_format_that_its_name_contradicts_is_a_doubt(void **state)
{
	(void)state;
	begin_image("", "");
	write_image("disk.raw");
	inspect("disk.raw");
	assert_string_equal(found.format, "raw");
	assert_int_equal(found.certainty, IMAGE_GUESSED);
	expect_problem(INSPECT_DOUBT, "qcow2");
}

static void a_directory_is_no_image(void **state)
{
	(void)state;
	tree_dir("dir.raw");
	inspect("dir.raw");
	expect_problem(INSPECT_UNREAD, "a directory");
}

/* ---- processes that lie ---- */

static int lie(int sock, void *shared, void *arg)
{
	struct worker_message *m = calloc(1, sizeof(*m));
	int fd;

	(void)arg;
	if (!m || proc_recv(sock, m, sizeof(*m), &fd, NULL) <= 0)
		return 1;
	memset(shared, 0xff, sizeof(struct inspection));
	m->kind = WORKER_DONE;
	worker_send(sock, m, -1, NULL);
	return 0;
}

static void what_the_reader_says_is_not_taken_on_trust(void **state)
{
	(void)state;
	tree_file("disk.raw");
	inspect_with("disk.raw", (struct inspect_options){ .run = lie });
	assert_int_equal(found.certainty, IMAGE_TOLD);
	assert_int_equal(found.nr_problems, INSPECT_PROBLEMS_MAX);
	assert_int_equal(found.nr_members, IMAGE_CHAIN_MAX);
	assert_int_equal(found.parts_listed, INSPECT_PARTS_MAX);
	assert_int_equal(found.snapshots_listed, INSPECT_SNAPSHOTS_MAX);
	assert_int_equal(found.bitmaps_listed, INSPECT_BITMAPS_MAX);
	assert_string_equal(found.path, in_tree("disk.raw"));
	assert_int_equal(strlen(found.format), sizeof(found.format) - 1);
	assert_int_equal(strlen(found.kind), sizeof(found.kind) - 1);
	assert_int_equal(strlen(found.id), sizeof(found.id) - 1);
	assert_int_equal(strlen(found.backing_id), sizeof(found.backing_id) - 1);
	assert_int_equal(strlen(found.backing_name), sizeof(found.backing_name) - 1);
	assert_int_equal(strlen(found.backing_format), sizeof(found.backing_format) - 1);
	assert_int_equal(strlen(found.features), sizeof(found.features) - 1);
	assert_int_equal(strlen(found.problems[7].text), sizeof(found.problems[7].text) - 1);
	assert_int_equal(found.problems[7].kind, INSPECT_NR_PROBLEMS - 1);
	assert_int_equal(found.problems[7].err_kind, ERR_USAGE);
	assert_int_equal(strlen(found.members[199].path), PATH_MAX - 1);
	assert_int_equal(strlen(found.members[199].format), 31);
	assert_int_equal(strlen(found.members[199].kind), 31);
	assert_int_equal(strlen(found.members[199].id), 63);
	assert_int_equal(strlen(found.members[199].error), 495);
	assert_int_equal(strlen(found.parts[1023].path), PATH_MAX - 1);
	assert_int_equal(strlen(found.snapshots[1023].id), 127);
	assert_int_equal(strlen(found.snapshots[1023].name), IMAGE_NAME_MAX - 1);
	assert_int_equal(strlen(found.bitmaps[1023].name), IMAGE_NAME_MAX - 1);
}

static int die(int sock, void *shared, void *arg)
{
	(void)sock, (void)shared, (void)arg;
	return 7;
}

static void a_reader_that_dies_is_the_images_problem(void **state)
{
	(void)state;
	tree_file("disk.raw");
	inspect_with("disk.raw", (struct inspect_options){ .run = die });
	expect_problem(INSPECT_UNREAD, "died (exit status 7)");
}

static int talk_nonsense(int sock, void *shared, void *arg)
{
	struct worker_message *m = calloc(1, sizeof(*m));

	(void)shared, (void)arg;
	m->kind = WORKER_FRAME;
	worker_send(sock, m, -1, NULL);
	nanosleep(&(struct timespec){ .tv_sec = 1000 }, NULL);
	return 0;
}

static void a_reader_that_talks_nonsense_is_ended(void **state)
{
	(void)state;
	tree_file("disk.raw");
	inspect_with("disk.raw", (struct inspect_options){ .run = talk_nonsense });
	expect_problem(INSPECT_UNREAD, "died");
}

static uint64_t a_clock_that_runs(pid_t pid)
{
	static uint64_t ns;

	(void)pid;
	return ns += 100000000000ull;
}

static int sleep_on(int sock, void *shared, void *arg);

static void a_reader_that_takes_too_much_time_is_put_out(void **state)
{
	(void)state;
	tree_file("disk.raw");
	leash_clock = a_clock_that_runs;
	inspect_with("disk.raw", (struct inspect_options){ .run = sleep_on });
	leash_clock = leash_clock_real;
	expect_problem(INSPECT_UNREAD, "s of CPU");
	assert_true(inspect_failed(&found));
}

static int sleep_on(int sock, void *shared, void *arg)
{
	(void)sock, (void)shared, (void)arg;
	nanosleep(&(struct timespec){ .tv_sec = 1000 }, NULL);
	return 0;
}

static void the_user_can_stop_it(void **state)
{
	struct stopper stopper = { .flag = 1 };
	struct inspect_options o = { .roots = &roots, .jail = &jail, .stopper = &stopper, .run = sleep_on };
	struct err err = ERR_INIT;

	(void)state;
	tree_file("disk.raw");
	assert_int_equal(roots_add(&roots, in_tree("disk.raw"), true, &err), 0);
	assert_int_equal(inspect_image(&roots.list.items[0], &o, &found, &err), -1);
	assert_int_equal(err.kind, ERR_CANCELED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		inspect_test(tells_sizes_and_holes_of_a_raw_file),
		inspect_test(counts_each_kind_of_extent),
		inspect_test(counts_how_data_is_aligned),
		inspect_test(names_the_members_of_the_chain),
		inspect_test(whether_the_format_is_stated_is_told_of_each_member),
		inspect_test(a_member_that_is_missing_is_named_and_those_before_it_are_told),
		inspect_test(a_backing_file_outside_is_refused),
		inspect_test(an_image_that_cannot_be_opened_is_its_own_problem),
		inspect_test(a_walk_that_breaks_says_where),
		inspect_test(a_format_may_be_told),
		inspect_test(bitmaps_that_were_not_saved_properly_are_told),
		inspect_test(bitmaps_that_somebody_ignored_are_all_inconsistent),
		inspect_test(broken_bitmap_directories_leave_the_rest_readable),
		inspect_test(dirty_and_corrupt_images_are_told),
		inspect_test(a_format_that_its_name_contradicts_is_a_doubt),
		inspect_test(a_directory_is_no_image),
		inspect_test(what_the_reader_says_is_not_taken_on_trust),
		inspect_test(a_reader_that_dies_is_the_images_problem),
		inspect_test(a_reader_that_talks_nonsense_is_ended),
		inspect_test(a_reader_that_takes_too_much_time_is_put_out),
		inspect_test(the_user_can_stop_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
