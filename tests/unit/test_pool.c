/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include <dirent.h>

#include "compactor/pool/clusters.h"
#include "compactor/pool/nodes.h"
#include "compactor/pool/pool.h"
#include "scanner/base/checked.h"

#define NOBODY 65534

static int dir = -1;

/* In memory where there is a /dev/shm: syncs cost nothing there. */
static int setup(void **state)
{
	char made[] = "/dev/shm/tree-XXXXXX";

	umask(0022);
	if (!mkdtemp(made) || !realpath(made, tree))
		if (tree_make(state) < 0)
			return -1;
	dir = open(tree, O_RDONLY | O_DIRECTORY);
	return dir < 0;
}

static int teardown(void **state)
{
	close(dir);
	return tree_remove(state);
}

#define pool_test(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

static void create(void)
{
	struct err err = ERR_INIT;

	if (pool_create(dir, "pool", &err) < 0)
		fail_msg("%s", err.text);
}

static struct pool *open_it(bool writing)
{
	struct err err = ERR_INIT;
	struct pool *p = NULL;

	if (pool_open(dir, "pool", in_tree("pool"), writing, &p, &err) < 0)
		fail_msg("%s", err.text);
	return p;
}

static void expect_refused(bool writing, enum err_kind kind, const char *text)
{
	struct err err = ERR_INIT;
	struct pool *p = NULL;
	int rc = pool_open(dir, "pool", in_tree("pool"), writing, &p, &err);

	assert_null(p);
	if (rc == 0 || err.kind != kind || !strstr(err.text, text))
		fail_msg("'%s' (%s) instead of '%s'", rc == 0 ? "opened" : err.text, err_kind_name(err.kind), text);
}

static void expect_not_made(const char *text)
{
	struct err err = ERR_INIT;

	if (pool_create(dir, "pool", &err) == 0 || err.kind != ERR_REFUSED || !strstr(err.text, text))
		fail_msg("'%s' instead of '%s'", err.text, text);
}

static char *in_pool(const char *name)
{
	static char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/pool/%s", tree, name);
	return path;
}

static unsigned nr_names(const char *path)
{
	DIR *d = opendir(path);
	unsigned nr = 0;

	assert_non_null(d);
	while (readdir(d))
		nr++;
	closedir(d);
	return nr - 2;
}

/* The path of what ends so in a directory of the pool. */
static char *find(const char *in, const char *suffix)
{
	static char path[PATH_MAX];
	DIR *d = opendir(in_pool(in));

	assert_non_null(d);
	*path = 0;
	for (struct dirent *e; (e = readdir(d));)
		if (strlen(e->d_name) > strlen(suffix) && strcmp(e->d_name + strlen(e->d_name) - strlen(suffix), suffix) == 0)
			snprintf(path, sizeof(path), "%.1000s/%s", in_pool(in), e->d_name);
	closedir(d);
	return path;
}

/* ---- ids ---- */

static void ids_are_random_and_of_version_4(void **state)
{
	uint8_t a[POOL_ID_SIZE], b[POOL_ID_SIZE];

	(void)state;
	for (int i = 0; i < 100; i++) {
		assert_int_equal(pool_new_id(a, NULL) | pool_new_id(b, NULL), 0);
		assert_memory_not_equal(a, b, sizeof(a));
		assert_int_equal(a[6] >> 4, 4);
		assert_int_equal(a[8] >> 6, 2);
	}
}

static void ids_have_one_text(void **state)
{
	static const char *const wrong[] = {
		"", "-", "01234567-89ab-cdef-0123-456789abcde", "01234567-89ab-cdef-0123-456789abcdef0",
		"01234567-89AB-cdef-0123-456789abcdef", "0123456789abcdef0123456789abcdef", "01234567-89ab-cdef-0123-456789abcdeg",
		" 1234567-89ab-cdef-0123-456789abcdef", "012345678-9ab-cdef-0123-456789abcdef",
		"01234567--89ab-cdef-0123-456789abcde",
		"01234567-89ab-cdef-0123-456789abcdef.qcow2", "-01234567-89ab-cdef-0123456789abcdef",
	};
	static const uint8_t id[] = { 1, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 1, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef };
	char text[POOL_ID_TEXT_ROOM], name[POOL_FILE_NAME_ROOM];
	uint8_t back[POOL_ID_SIZE] = { 0 };

	(void)state;
	assert_string_equal(pool_id_text(id, text), "01234567-89ab-cdef-0123-456789abcdef");
	assert_string_equal(pool_id_file_name(id, name), "01234567-89ab-cdef-0123-456789abcdef.qcow2");
	assert_true(pool_id_parse(text, back));
	assert_memory_equal(id, back, sizeof(id));
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
		if (pool_id_parse(wrong[i], back))
			fail_msg("'%s' was taken", wrong[i]);
	assert_memory_equal(id, back, sizeof(id)); /* untouched */
}

/* ---- making ---- */

static void a_new_pool_is_whole_whatever_the_umask(void **state)
{
	static const struct { const char *name; mode_t mode; } all[] = {
		{ ".", 0711 }, { "views", 0711 }, { "sealed", 0711 }, { "trees", 0700 }, { "names", 0700 }, { "index", 0700 },
		{ "trash", 0700 }, { "quarantine", 0700 },
	};
	static const mode_t masks[] = { 0, 022, 077 };
	struct stat st;

	(void)state;
	for (size_t m = 0; m < ARRAY_SIZE(masks); m++) {
		umask(masks[m]);
		create();
		for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
			assert_int_equal(stat(in_pool(all[i].name), &st), 0);
			assert_int_equal(st.st_mode, S_IFDIR | all[i].mode);
		}
		assert_int_equal(stat(find(".", ".qcow2"), &st), 0);
		assert_int_equal(st.st_mode, S_IFREG | 0444);
		assert_int_equal(nr_names(tree), 1);
		pool_close(open_it(false));
		pool_close(open_it(true));
		assert_int_equal(nr_names(in_pool(".")), 9);
		tree_set_immutable(find(".", ".qcow2"), false);
		assert_int_equal(rename(in_tree("pool"), in_tree("old")), 0);
		assert_int_equal(system(strcat(strcpy((char[PATH_MAX + 20]){ 0 }, "rm -r "), in_tree("old"))), 0);
	}
}

static void only_an_empty_directory_gives_way(void **state)
{
	(void)state;
	tree_file("pool");
	expect_not_made("there already");
	assert_int_equal(unlink(in_tree("pool")), 0);
	assert_int_equal(symlink("elsewhere", in_tree("pool")), 0);
	expect_not_made("there already");
	assert_int_equal(unlink(in_tree("pool")), 0);
	tree_dir("pool");
	tree_file("pool/image");
	expect_not_made("there already");
	assert_int_equal(nr_names(tree), 1);
	assert_int_equal(unlink(in_tree("pool/image")), 0);
	create();
	pool_close(open_it(true));
	expect_not_made("there already");
	assert_int_equal(nr_names(tree), 1);
}

static void what_a_power_cut_left_is_no_hindrance(void **state)
{
	(void)state;
	create();
	assert_int_equal(rename(in_tree("pool"), in_tree("pool.new")), 0);
	create();
	assert_int_equal(nr_names(tree), 1);
	pool_close(open_it(true));
}

static void what_is_not_ours_is_not_removed(void **state)
{
	(void)state;
	tree_dir("elsewhere");
	tree_file("elsewhere/image");
	assert_int_equal(symlink("elsewhere", in_tree("pool.new")), 0);
	assert_int_equal(pool_create(dir, "pool", NULL), -1);
	assert_int_equal(access(in_tree("elsewhere/image"), F_OK), 0);
	assert_int_equal(unlink(in_tree("pool.new")), 0);
	if (geteuid() == 0) {
		assert_int_equal(rename(in_tree("elsewhere"), in_tree("pool.new")), 0);
		assert_int_equal(chown(in_tree("pool.new"), NOBODY, NOBODY), 0);
		expect_not_made("in the way");
		assert_int_equal(access(in_tree("pool.new/image"), F_OK), 0);
	}
}

/* ---- opening ---- */

static void no_pool_is_no_error(void **state)
{
	struct pool *p = (void *)1;

	(void)state;
	assert_int_equal(pool_open(dir, "pool", "/pool", true, &p, NULL), 0);
	assert_null(p);
}

static void what_is_no_pool_is_refused(void **state)
{
	(void)state;
	tree_dir("pool");
	expect_refused(true, ERR_FORMAT, "no whole pool");
	assert_int_equal(nr_names(in_tree("pool")), 0);
	assert_int_equal(rmdir(in_tree("pool")), 0);
	tree_file("pool");
	expect_refused(true, ERR_REFUSED, "Not a directory");
	assert_int_equal(unlink(in_tree("pool")), 0);
	create();
	assert_int_equal(rename(in_tree("pool"), in_tree("real")), 0);
	assert_int_equal(symlink("real", in_tree("pool")), 0);
	expect_refused(true, ERR_REFUSED, "'pool'");
}

static void what_lacks_a_part_is_refused(void **state)
{
	static const char *const parts[] = { "lock", "views", "sealed", "trees", "names", "index", "trash", "quarantine" };

	(void)state;
	create();
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		char from[PATH_MAX];

		strcpy(from, in_pool(parts[i]));
		assert_int_equal(rename(from, in_tree("away")), 0);
		expect_refused(true, ERR_FORMAT, parts[i]);
		expect_refused(false, ERR_FORMAT, parts[i]);
		assert_int_equal(symlink("../away", from), 0); /* not followed, either */
		expect_refused(true, ERR_REFUSED, parts[i]);
		assert_int_equal(unlink(from), 0);
		assert_int_equal(rename(in_tree("away"), from), 0);
		pool_close(open_it(true));
	}
	tree_set_immutable(find(".", ".qcow2"), false);
	assert_int_equal(rename(find(".", ".qcow2"), in_tree("away")), 0);
	expect_refused(false, ERR_FORMAT, "cluster file is missing");
	assert_int_equal(rename(in_tree("away"), in_pool("01234567-89ab-cdef-0123-456789abcdef.qcow2")), 0);
	expect_refused(false, ERR_FORMAT, "another id than its name");
}

static void lost_nodes_are_told_not_made_anew(void **state)
{
	(void)state;
	create();
	assert_int_equal(unlink(find("trees", ".nodes")), 0);
	expect_refused(true, ERR_FORMAT, ".nodes' is missing");
	expect_refused(false, ERR_FORMAT, ".nodes' is missing");
	expect_refused(false, ERR_FORMAT, "dedupscan pool repair");
	assert_int_equal(nr_names(in_pool("trees")), 0);
}

static void cluster_files_are_of_one_pool(void **state)
{
	static const uint8_t uuid[POOL_ID_SIZE] = { 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef,
						    0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef };
	const char *name = "01234567-89ab-cdef-0123-456789abcdef.qcow2";
	struct cluster_file_id id = { .number = 1 };
	int fd;

	(void)state;
	create();
	assert_int_equal(symlink("nothing", in_pool(name)), 0);
	expect_refused(false, ERR_REFUSED, "symbolic link");
	assert_int_equal(unlink(in_pool(name)), 0);
	fd = open(in_pool("."), O_RDONLY | O_DIRECTORY);
	assert_int_equal(cluster_file_create(fd, name, uuid, NULL), 0);
	expect_refused(false, ERR_FORMAT, "is of another pool than the others");
	assert_int_equal(unlink(in_pool(name)), 0);
	memcpy(id.uuid, uuid, POOL_ID_SIZE);
	memcpy(id.pool, uuid, POOL_ID_SIZE);
	assert_int_equal(cluster_file_create_further(fd, name, &id, &(struct stat){ .st_mode = 0444 }, NULL), 0);
	expect_refused(true, ERR_FORMAT, "is of another pool than the others");
	assert_int_equal(unlink(in_pool(name)), 0);
	close(fd);
	tree_file("pool/other.qcow2");
	tree_file("pool/01234567-89ab-cdef-0123-456789abcde.qcow2");
	tree_file("pool/01234567-89ab-cdef-0123-456789abcdeX.qcow2");
	pool_close(open_it(true));
}

/* F8 */
static void others_may_not_be_able_to_write_there(void **state)
{
	static const char *const parts[] = { ".", "views", "sealed", "trees", "names", "index", "trash", "quarantine" };
	struct stat st;

	(void)state;
	create();
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		assert_int_equal(stat(in_pool(parts[i]), &st), 0);
		for (mode_t bit = 02; bit <= 020; bit *= 8) {
			assert_int_equal(chmod(in_pool(parts[i]), st.st_mode | bit), 0);
			expect_refused(false, ERR_REFUSED, parts[i]);
			expect_refused(true, ERR_REFUSED, "can write to");
			assert_int_equal(chmod(in_pool(parts[i]), st.st_mode & 07777), 0);
		}
		if (geteuid() != 0)
			continue;
		assert_int_equal(chown(in_pool(parts[i]), NOBODY, st.st_gid), 0);
		expect_refused(false, ERR_REFUSED, "belongs to user 65534");
		assert_int_equal(chown(in_pool(parts[i]), 0, st.st_gid), 0);
	}
	pool_close(open_it(true));
}

static void one_writes_or_many_read(void **state)
{
	struct pool *a, *b;

	(void)state;
	create();
	a = open_it(false);
	b = open_it(false);
	expect_refused(true, ERR_BUSY, "uses it");
	pool_close(b);
	expect_refused(true, ERR_BUSY, "uses it");
	pool_close(a);
	a = open_it(true);
	expect_refused(true, ERR_BUSY, "uses it");
	expect_refused(false, ERR_BUSY, "changes it");
	pool_close(a);
	pool_close(open_it(true));
}

/* ---- using ---- */

static void put_leaf(struct pool *p, uint8_t n)
{
	struct leaf leaf = { .digest = { 9, n }, .hint = { n, n }, .unit_bits = 12, .nr_runs = 1 };
	static uint8_t unit[4096];
	struct err err = ERR_INIT;
	uint64_t at;

	memset(unit, n, sizeof(unit));
	if (clusters_append(p->clusters, unit, sizeof(unit), sizeof(unit), &at, &err) < 0)
		fail_msg("%s", err.text);
	leaf.runs[0] = (struct run){ 3, 1, at / sizeof(unit) };
	if (nodes_put_leaf(p->nodes, &leaf, &err) < 0)
		fail_msg("%s", err.text);
}

static void expect_leaf(struct pool *p, uint8_t n)
{
	const uint8_t digest[DIGEST_SIZE] = { 9, n };
	struct leaf leaf = { .nr_runs = 0 };
	struct err err = ERR_INIT;
	uint8_t unit[4096];

	if (nodes_get_leaf(p->nodes, digest, 12, &leaf, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(leaf.nr_runs, 1);
	assert_int_equal(clusters_read(p->clusters, unit, sizeof(unit), leaf.runs[0].place * 4096, NULL), 0);
	assert_int_equal(unit[4095], n);
}

static void what_was_synced_is_there_again(void **state)
{
	struct pool *p;

	(void)state;
	create();
	for (uint8_t n = 1; n < 5; n++) {
		p = open_it(true);
		put_leaf(p, n);
		expect_leaf(p, n);
		assert_int_equal(pool_sync(p, NULL), 0);
		expect_leaf(p, n);
		assert_true(finder_covered(p->finder) > 0);
		pool_close(p);
		for (int writing = 0; writing < 2; writing++) {
			p = open_it(writing);
			for (uint8_t i = 1; i <= n; i++)
				expect_leaf(p, i);
			assert_int_equal(p->nr_damaged, 0);
			pool_close(p);
		}
	}
}

/* The index is lost, or a part of it, or damaged: it is made anew from the nodes. */
static void a_lost_index_is_no_loss(void **state)
{
	struct pool *p;

	(void)state;
	create();
	p = open_it(true);
	for (uint8_t n = 1; n < 50; n++)
		put_leaf(p, n);
	assert_int_equal(pool_sync(p, NULL), 0);
	pool_close(p);
	for (int i = 0; i < 3; i++) {
		if (i == 0)
			assert_int_equal(unlink(in_pool("index/finder")), 0);
		if (i == 1)
			assert_int_equal(unlink(find("index", ".table")), 0);
		if (i == 2)
			assert_int_equal(truncate(find("index", ".table"), 100), 0);
		p = open_it(true);
		for (uint8_t n = 1; n < 50; n++)
			expect_leaf(p, n);
		assert_int_equal(pool_sync(p, NULL), 0);
		pool_close(p);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		pool_test(ids_are_random_and_of_version_4),
		pool_test(ids_have_one_text),
		pool_test(a_new_pool_is_whole_whatever_the_umask),
		pool_test(only_an_empty_directory_gives_way),
		pool_test(what_a_power_cut_left_is_no_hindrance),
		pool_test(what_is_not_ours_is_not_removed),
		pool_test(no_pool_is_no_error),
		pool_test(what_is_no_pool_is_refused),
		pool_test(what_lacks_a_part_is_refused),
		pool_test(lost_nodes_are_told_not_made_anew),
		pool_test(cluster_files_are_of_one_pool),
		pool_test(others_may_not_be_able_to_write_there),
		pool_test(one_writes_or_many_read),
		pool_test(what_was_synced_is_there_again),
		pool_test(a_lost_index_is_no_loss),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
