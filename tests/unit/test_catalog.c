/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/catalog_help.h"

#include <signal.h>
#include <sys/wait.h>


static void image_by_path(const char *path, struct catalog_image *ret, int wanted)
{
	*ret = (struct catalog_image){ 0 };
	assert_int_equal(catalog_image_by_path(catalog, path, ret, NULL), wanted);
}

static void images_are_kept_by_path_and_by_number(void **state)
{
	struct catalog_image i;
	int64_t a = image_add("/a"), b = image_add("/b");

	(void)state;
	assert_int_not_equal(a, b);
	catalog_reopen();
	image_by_path("/b", &i, 1);
	assert_int_equal(i.id, b);
	assert_true(i.racy);
	assert_null(i.error);
	assert_int_equal(i.scanned_at, 0);
	assert_int_equal(catalog_image_by_id(catalog, a, &i, NULL), 1);
	assert_string_equal(i.path, "/a");
	catalog_image_release(&i);
	image_by_path("/c", &i, 0);
	assert_int_equal(catalog_image_remove(catalog, a, NULL), 0);
	image_by_path("/a", &i, 0);
}

static void names_of_any_bytes_are_kept(void **state)
{
	static const char *const names[] = { "/a'b\"c%_*?[", "/\xff\xfe", "/new\nline", "/ä", "/A", "/a" };
	struct catalog_image i;

	(void)state;
	for (size_t n = 0; n < ARRAY_SIZE(names); n++)
		image_add(names[n]);
	for (size_t n = 0; n < ARRAY_SIZE(names); n++) {
		image_by_path(names[n], &i, 1);
		assert_string_equal(i.path, names[n]);
		catalog_image_release(&i);
	}
}

static void what_a_spool_file_says_is_taken_over(void **state)
{
	uint64_t contents[SEGMENT_BLOCKS * 2 + 10] = { 1, 2, 0, 3 }, nr_live;
	CLEANUP(spool_close) struct spool *s = NULL;
	int64_t id = image_add("/a");
	struct catalog_image i;
	char name[32];

	(void)state;
	spool_image(id, 0, contents, ARRAY_SIZE(contents), NULL);
	snprintf(name, sizeof(name), "%lld", (long long)id);
	s = spool_open(catalog_spool_dirfd(catalog), name, true, NULL);
	assert_int_equal(catalog_begin(catalog, NULL), 0);
	assert_int_equal(catalog_take_spool(catalog, id, s, 100, NULL), 0);
	assert_int_equal(catalog_commit(catalog, NULL), 0);
	catalog_reopen();
	image_by_path("/a", &i, 1);
	assert_int_equal(i.base, 1);
	assert_int_equal(i.nr_stored, ARRAY_SIZE(contents));
	assert_int_equal(i.nr_zero, ARRAY_SIZE(contents) - 3);
	assert_string_equal(i.format, "raw");
	assert_int_equal(i.identity.size, ARRAY_SIZE(contents) * BLOCK_SIZE);
	assert_int_equal(i.identity.ctime, 6);
	assert_true(i.scanned_at > 0);
	assert_null(i.warning);
	catalog_image_release(&i);
	assert_int_equal(catalog_live_blocks(catalog, &nr_live, NULL), 0);
	assert_int_equal(nr_live, 3);
}

static void an_image_that_fails_loses_what_was_known_of_it(void **state)
{
	static const struct spool_image image = { .identity = { 1, 2, 3, -4, 5 }, .racy = 1 };
	struct err why = ERR_INIT;
	struct catalog_image i;
	int64_t id = image_add("/a");

	(void)state;
	err_set(&why, ERR_FORMAT, "L1 table 'x' is off");
	assert_int_equal(catalog_image_failed(catalog, id, &image, "qcow2", &why, NULL), 0);
	catalog_reopen();
	image_by_path("/a", &i, 1);
	assert_string_equal(i.error_kind, "format");
	assert_string_equal(i.error, "L1 table 'x' is off");
	assert_true(spool_identity_equal(&i.identity, &image.identity));
	assert_true(i.racy);
	assert_int_equal(i.base, 1);
	catalog_image_release(&i);
}

static void find(const char *path, uint64_t ino)
{
	struct found f = { .path = (char *)(uintptr_t)path, .identity = { .dev = 1, .ino = ino } };

	assert_int_equal(catalog_found_add(catalog, &f, NULL), 1);
}

/* An image with content, so that its inode is known. */
static int64_t known_image(const char *path, uint64_t ino)
{
	struct spool_image image = { .identity = { .dev = 1, .ino = ino } };
	struct err why = ERR_INIT;
	int64_t id = image_add(path);

	err_set(&why, ERR_IO, "x");
	assert_int_equal(catalog_image_failed(catalog, id, &image, "raw", &why, NULL), 0);
	return id;
}

static void settle(const char *root, bool remove, uint64_t renamed, uint64_t removed)
{
	uint64_t nr_renamed = 0, nr_removed = 0;

	assert_int_equal(catalog_settle_missing(catalog, root, remove, &nr_renamed, &nr_removed, NULL), 0);
	assert_int_equal(nr_renamed, renamed);
	assert_int_equal(nr_removed, removed);
}

static void a_file_is_found_once_under_its_first_name(void **state)
{
	struct found again = { .path = (char[]){ "/s/hard" }, .identity = { .dev = 1, .ino = 7 } };

	(void)state;
	find("/s/a", 7);
	assert_int_equal(catalog_found_add(catalog, &again, NULL), 0);
	again.path = (char[]){ "/s/a" };
	again.identity.ino = 8;
	assert_int_equal(catalog_found_add(catalog, &again, NULL), 0);
	assert_int_equal(catalog_found_clear(catalog, NULL), 0);
	find("/s/a", 8);
}

static void what_is_gone_is_removed_beneath_its_root_only(void **state)
{
	struct catalog_image i;

	(void)state;
	known_image("/s/a", 1);
	known_image("/s/b", 2);
	known_image("/s2/c", 3);
	known_image("/s", 4);
	known_image("/S/d", 5);
	find("/s/a", 1);
	settle("/s", false, 0, 0);
	settle("/s", true, 0, 2);
	image_by_path("/s/a", &i, 1);
	catalog_image_release(&i);
	image_by_path("/s/b", &i, 0);
	image_by_path("/s", &i, 0);
	image_by_path("/s2/c", &i, 1);
	catalog_image_release(&i);
	image_by_path("/S/d", &i, 1);
	catalog_image_release(&i);
	settle("/", true, 0, 2);
}

static void a_moved_file_keeps_its_row(void **state)
{
	int64_t a = known_image("/s/a", 1), b = known_image("/s/b", 2);
	struct catalog_image i;

	(void)state;
	find("/s/new", 1);
	find("/s/b", 2);
	settle("/s", true, 1, 0);
	image_by_path("/s/new", &i, 1);
	assert_int_equal(i.id, a);
	catalog_image_release(&i);
	image_by_path("/s/b", &i, 1);
	assert_int_equal(i.id, b);
	catalog_image_release(&i);
}

static void two_files_that_swap_names_stay_two_images(void **state)
{
	(void)state;
	known_image("/s/a", 1);
	known_image("/s/b", 2);
	find("/s/a", 2);
	find("/s/b", 1);
	settle("/s", true, 0, 0);
}

static int add_run(void *ctx, const struct segment_run *r, struct err *err)
{
	char *text = ctx;

	(void)err;
	sprintf(text + strlen(text), "%lld:%llu+%llu-%llu ", (long long)r->image, (unsigned long long)r->generation,
		(unsigned long long)r->first, (unsigned long long)r->last);
	return 0;
}

static void take(int64_t id, uint64_t base, size_t nr_segments, const bool *same, uint64_t generation)
{
	uint64_t *contents = calloc(nr_segments * SEGMENT_BLOCKS, sizeof(*contents));
	CLEANUP(spool_close) struct spool *s = NULL;
	char name[32];

	for (size_t i = 0; i < nr_segments; i++)
		contents[i * SEGMENT_BLOCKS] = i + 1;
	spool_image(id, base, contents, nr_segments * SEGMENT_BLOCKS, same);
	free(contents);
	snprintf(name, sizeof(name), "%lld", (long long)id);
	s = spool_open(catalog_spool_dirfd(catalog), name, true, NULL);
	assert_int_equal(catalog_take_spool(catalog, id, s, generation, NULL), 0);
}

static void changed_segments_get_a_generation_and_runs_fall_apart(void **state)
{
	const bool same[] = { true, true, false, true, true };
	char runs[256] = "", wanted[256];
	int64_t a = image_add("/a"), b = image_add("/b");
	long long x = (long long)a, y = (long long)b;
	uint64_t nr;

	(void)state;
	take(a, 0, 5, NULL, 100);
	take(b, 0, 2, NULL, 200);
	assert_int_equal(catalog_each_run(catalog, add_run, runs, NULL), 0);
	snprintf(wanted, sizeof(wanted), "%lld:100+0-4 %lld:200+0-1 ", x, y);
	assert_string_equal(runs, wanted);
	take(a, 1, 5, same, 300);
	runs[0] = '\0';
	assert_int_equal(catalog_each_run(catalog, add_run, runs, NULL), 0);
	snprintf(wanted, sizeof(wanted), "%lld:100+0-1 %lld:300+2-2 %lld:100+3-4 %lld:200+0-1 ", x, x, x, y);
	assert_string_equal(runs, wanted);
	assert_int_equal(catalog_count_runs(catalog, a, &nr, NULL), 0);
	assert_int_equal(nr, 3);
	/* segments 3 and 4 vanish: they belong to no run of the old generation any more */
	take(a, 2, 3, same, 400);
	runs[0] = '\0';
	assert_int_equal(catalog_each_run(catalog, add_run, runs, NULL), 0);
	assert_null(strstr(runs, "100+3"));
	assert_null(strstr(runs, "100+0-2"));
}

static void digests_are_written_in_order(void **state)
{
	struct spool_digest d[600];
	int64_t id = image_add("/a");
	int fd = open(in_tree("digests"), O_RDWR | O_CREAT, 0600);

	(void)state;
	take(id, 0, 600, NULL, 1);
	assert_int_equal(catalog_write_digests(catalog, id, fd, NULL), 600);
	assert_int_equal(pread(fd, d, sizeof(d), 0), sizeof(d));
	close(fd);
	for (unsigned i = 0; i < 600; i++) {
		assert_int_equal(d[i].segment, i);
		assert_int_equal(d[i].digest[0], (uint8_t)(i + 2));
	}
}

static void a_rollback_undoes_and_a_commit_stays(void **state)
{
	uint64_t v = 5;

	(void)state;
	assert_int_equal(catalog_number(catalog, "x", &v, NULL), 0);
	assert_int_equal(v, 0);
	assert_int_equal(catalog_begin(catalog, NULL), 0);
	assert_int_equal(catalog_set_number(catalog, "x", 7, NULL), 0);
	catalog_rollback(catalog);
	assert_int_equal(catalog_number(catalog, "x", &v, NULL), 0);
	assert_int_equal(v, 0);
	assert_int_equal(catalog_begin(catalog, NULL), 0);
	assert_int_equal(catalog_set_number(catalog, "x", INT64_MAX, NULL), 0);
	assert_int_equal(catalog_commit(catalog, NULL), 0);
	catalog_reopen();
	assert_int_equal(catalog_number(catalog, "x", &v, NULL), 0);
	assert_int_equal(v, INT64_MAX);
}

static void a_kill_within_a_transaction_leaves_what_was_committed(void **state)
{
	uint64_t v = 0;
	int status;
	pid_t pid;

	(void)state;
	assert_int_equal(catalog_set_number(catalog, "x", 1, NULL), 0);
	catalog_close(catalog);
	catalog = NULL;
	pid = fork();
	if (pid == 0) {
		struct catalog *c = catalog_open(in_tree("catalog"), true, NULL);

		if (!c || catalog_begin(c, NULL) < 0 || catalog_set_number(c, "x", 2, NULL) < 0)
			_exit(1);
		raise(SIGKILL);
	}
	waitpid(pid, &status, 0);
	assert_true(WIFSIGNALED(status));
	catalog_reopen();
	assert_int_equal(catalog_number(catalog, "x", &v, NULL), 0);
	assert_int_equal(v, 1);
}

static void a_second_one_is_told_that_it_is_busy(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	assert_null(catalog_open(in_tree("catalog"), true, &err));
	assert_int_equal(err.kind, ERR_BUSY);
	catalog_close(catalog);
	catalog = NULL;
	catalog_reopen();
}

static void a_newer_one_is_refused(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(catalog_set_number(catalog, "version", 1000, NULL), 0);
	catalog_close(catalog);
	catalog = catalog_open(in_tree("catalog"), true, &err);
	assert_null(catalog);
	assert_int_equal(err.kind, ERR_UNSUPPORTED);
	assert_non_null(strstr(err.text, "newer dedupscan"));
}

static void a_damaged_one_is_told_with_its_name(void **state)
{
	struct err err = ERR_INIT;
	static char junk[65536];

	(void)state;
	catalog_close(catalog);
	memset(junk, 'j', sizeof(junk));
	assert_int_equal(unlink(in_tree("catalog/catalog.db")), 0);
	tree_write("catalog/catalog.db", junk, sizeof(junk));
	catalog = catalog_open(in_tree("catalog"), true, &err);
	assert_null(catalog);
	assert_int_equal(err.kind, ERR_FORMAT);
	assert_non_null(strstr(err.text, in_tree("catalog")));
}

static void where_there_is_none_none_is_made_unasked(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	assert_null(catalog_open(in_tree("none"), false, &err));
	assert_non_null(strstr(err.text, "no catalog in"));
	tree_dir("empty");
	assert_null(catalog_open(in_tree("empty"), false, &err));
	assert_int_equal(rmdir(in_tree("empty")), 0); /* it is empty still */
}

static int note_partition(void *ctx, const struct partition *p, struct err *err)
{
	char *text = ctx;

	(void)err;
	sprintf(text + strlen(text), "%u/%x:%u ", p->bits, p->prefix, p->nr_tables);
	return 0;
}

static void assert_partitions(const char *wanted)
{
	char text[256] = "";

	assert_int_equal(catalog_each_partition(catalog, note_partition, text, NULL), 0);
	assert_string_equal(text, wanted);
}

static void partitions_split_in_order_of_key(void **state)
{
	struct index_table t = { "t1", { 1, 2, 3 } }, got[PARTITION_TABLES];
	bool known;

	(void)state;
	assert_partitions("0/0:0 ");
	assert_int_equal(catalog_drop_partitions(catalog, 0, 0, NULL), 0);
	assert_int_equal(catalog_add_partition(catalog, 1, 1, NULL), 0);
	assert_int_equal(catalog_add_partition(catalog, 2, 1, NULL), 0);
	assert_int_equal(catalog_add_partition(catalog, 2, 0, NULL), 0);
	assert_int_equal(catalog_add_table(catalog, 2, 1, &t, NULL), 0);
	strcpy(t.name, "t2");
	assert_int_equal(catalog_add_table(catalog, 2, 1, &t, NULL), 0);
	assert_partitions("2/0:0 2/1:2 1/1:0 ");
	assert_int_equal(catalog_tables(catalog, 2, 1, got, NULL), 2);
	assert_string_equal(got[0].name, "t1");
	assert_string_equal(got[1].name, "t2");
	assert_int_equal(got[1].stats.nr_places, 2);
	assert_int_equal(catalog_knows_table(catalog, "t1", &known, NULL), 0);
	assert_true(known);
	assert_int_equal(catalog_drop_partitions(catalog, 1, 0, NULL), 0);
	assert_partitions("1/1:0 ");
	assert_int_equal(catalog_knows_table(catalog, "t1", &known, NULL), 0);
	assert_false(known);
}

static unsigned nr_open(void)
{
	unsigned nr = 0;

	for (int fd = 0; fd < 1000; fd++)
		nr += fcntl(fd, F_GETFD) >= 0;
	return nr;
}

static int slow_close(int fd)
{
	usleep(20000);
	return close(fd);
}

static void removed_files_are_gone_and_none_stays_open(void **state)
{
	struct file_ops slow = file_ops_os;
	unsigned before = nr_open();

	(void)state;
	slow.close = slow_close;
	file_ops = &slow;
	for (int i = 0; i < 20; i++) {
		tree_file("catalog/spool/1.req");
		assert_int_equal(catalog_remove_file(catalog, catalog_spool_dirfd(catalog), "1.req", NULL), 0);
		assert_int_not_equal(access(in_tree("catalog/spool/1.req"), F_OK), 0);
	}
	assert_int_equal(catalog_remove_file(catalog, catalog_spool_dirfd(catalog), "1.req", NULL), 0);
	catalog_reopen();
	file_ops = &file_ops_os;
	assert_int_equal(nr_open(), before);
	assert_int_equal(catalog_remove_file(catalog, catalog_dirfd(catalog), "spool", NULL), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		catalog_test(images_are_kept_by_path_and_by_number),
		catalog_test(removed_files_are_gone_and_none_stays_open),
		catalog_test(names_of_any_bytes_are_kept),
		catalog_test(what_a_spool_file_says_is_taken_over),
		catalog_test(an_image_that_fails_loses_what_was_known_of_it),
		catalog_test(a_file_is_found_once_under_its_first_name),
		catalog_test(what_is_gone_is_removed_beneath_its_root_only),
		catalog_test(a_moved_file_keeps_its_row),
		catalog_test(two_files_that_swap_names_stay_two_images),
		catalog_test(changed_segments_get_a_generation_and_runs_fall_apart),
		catalog_test(digests_are_written_in_order),
		catalog_test(a_rollback_undoes_and_a_commit_stays),
		catalog_test(a_kill_within_a_transaction_leaves_what_was_committed),
		catalog_test(a_second_one_is_told_that_it_is_busy),
		catalog_test(a_newer_one_is_refused),
		catalog_test(a_damaged_one_is_told_with_its_name),
		catalog_test(where_there_is_none_none_is_made_unasked),
		catalog_test(partitions_split_in_order_of_key),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
