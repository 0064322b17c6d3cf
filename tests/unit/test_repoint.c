/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/late_guest.h"

#include <limits.h>

#include "compactor/member.h"
#include "compactor/pool/qcow2_writer.h"
#include "compactor/repoint.h"
#include "compactor/versions.h"

/* Names of backing files written in place, and members that follow images; what QEMU sees of it is tried in
 * tests/interop/pool_moved.py, power cuts in tests/crash/test_repoint_cuts.c. */

static struct err err;

/* ---- paths of files of a pool ---- */

static enum pool_dir dir_of(const char *path, const char *pool_is)
{
	uint8_t id[POOL_ID_SIZE] = { 0 };
	size_t len = 0;
	enum pool_dir dir = pool_file_parse(path, id, &len);

	if (dir != POOL_NR_DIRS) {
		assert_int_equal(id[0], 0x12);
		assert_int_equal(len, strlen(pool_is));
		assert_memory_equal(path, pool_is, len);
	}
	return dir;
}

#define ID "12345678-1234-4234-8234-123456789abc"

static void paths_tell_files_of_pools(void **state)
{
	(void)state;
	assert_int_equal(dir_of("/a/b/views/" ID ".qcow2", "/a/b"), POOL_VIEWS);
	assert_int_equal(dir_of("/a/b/sealed/" ID ".qcow2", "/a/b"), POOL_SEALED);
	assert_int_equal(dir_of("/a/b/" ID ".qcow2", "/a/b"), POOL_TOP);
	assert_int_equal(dir_of("/views/" ID ".qcow2", ""), POOL_VIEWS);
	assert_int_equal(dir_of("/" ID ".qcow2", ""), POOL_TOP);
	assert_int_equal(dir_of("/a/xviews/" ID ".qcow2", "/a/xviews"), POOL_TOP);
	assert_int_equal(dir_of("/a/views/" ID ".qcow", NULL), POOL_NR_DIRS);
	assert_int_equal(dir_of("/a/views/" ID ".qcow2x", NULL), POOL_NR_DIRS);
	assert_int_equal(dir_of("/a/views/x" ID ".qcow2", NULL), POOL_NR_DIRS);
	assert_int_equal(dir_of("/a/views/12345678-1234-4234-8234-123456789ABC.qcow2", NULL), POOL_NR_DIRS);
	assert_int_equal(dir_of("/a/views/", NULL), POOL_NR_DIRS);
	assert_int_equal(dir_of("", NULL), POOL_NR_DIRS);
}

/* ---- headers ---- */

static int make_overlay(const char *name, bool compat, const char *backing)
{
	struct slice s = { .size = 24576, .read_only = true };
	struct overlay_options o = { .compat = compat };
	int fd = open(in_tree(name), O_RDWR | O_CREAT | O_TRUNC, 0600);

	snprintf(s.path, sizeof(s.path), "%s", backing);
	if (overlay_write(fd, 5 << 20, &s, &o, &err) < 0)
		fail_msg("%s", err.text);
	return fd;
}

static const char *backing_of(int fd)
{
	static struct slice s;
	uint64_t size;

	assert_int_equal(overlay_backing(fd, &s, &size, &err), 1);
	assert_int_equal(size, 5 << 20);
	return s.path;
}

static int repoint_to(int fd, const char *path)
{
	struct slice s = { .size = 24576, .read_only = true };

	snprintf(s.path, sizeof(s.path), "%s", path);
	err = (struct err)ERR_INIT;
	return overlay_repoint(fd, &s, &err);
}

/* The longest name that fits. */
static const char *long_path(char c)
{
	static char path[1024];

	memset(path, c, 900);
	path[0] = '/';
	path[900] = '\0';
	return path;
}

static void names_change_as_often_as_they_are_to(void **state)
{
	struct stat before, after;

	(void)state;
	for (int compat = 0; compat < 2; compat++) {
		int fd = make_overlay("img", compat, "/old");

		fstat(fd, &before);
		for (unsigned i = 0; i < 100; i++) {
			char path[100];

			snprintf(path, sizeof(path), "/pool-%u", i);
			if (repoint_to(fd, i % 3 ? path : long_path('a')) < 0)
				fail_msg("%s", err.text);
			assert_string_equal(backing_of(fd), i % 3 ? path : long_path('a'));
		}
		fstat(fd, &after);
		assert_int_equal(before.st_size, after.st_size);
		assert_in_range(after.st_blocks, before.st_blocks, before.st_blocks + 16);
		close(fd);
	}
}

static void set_header(int fd, size_t offset, uint64_t value, unsigned bytes)
{
	be64 x = be64_from(value);

	assert_int_equal(pwrite(fd, (uint8_t *)&x + 8 - bytes, bytes, (off_t)offset), bytes);
}

static void what_is_not_known_is_left_alone(void **state)
{
	static const struct {
		size_t offset;
		uint64_t value;
		unsigned bytes;
		enum err_kind kind;
	} all[] = {
		{ 72, QCOW2_CORRUPT, 8, ERR_UNSUPPORTED },	       /* incompatible features */
		{ 72, (uint64_t)1 << 20, 8, ERR_UNSUPPORTED },	       /* the same, one that is not known */
		{ 88, QCOW2_LOCKED, 8, ERR_UNSUPPORTED },	       /* autoclear features: it is a stub */
		{ 112 + 16 + 392, 0x12345678, 4, ERR_UNSUPPORTED },    /* no end of extensions before the name */
		{ 0, 0, 4, ERR_FORMAT },
	};
	uint8_t before[65536], after[65536];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
		int fd = make_overlay("img", true, "/old");

		set_header(fd, all[i].offset, all[i].value, all[i].bytes);
		assert_int_equal(pread(fd, before, sizeof(before), 0), sizeof(before));
		assert_int_equal(repoint_to(fd, "/new"), -1);
		assert_int_equal(err.kind, all[i].kind);
		assert_int_equal(pread(fd, after, sizeof(after), 0), sizeof(after));
		assert_memory_equal(before, after, sizeof(before));
		close(fd);
	}
}

/* With clusters of 2 KiB as another program may have made them there is room for two short names, not for two long ones. */
static void small_clusters_may_have_no_room(void **state)
{
	int fd = make_overlay("img", true, "/old");

	(void)state;
	set_header(fd, 20, 11, 4);
	if (repoint_to(fd, "/new") < 0)
		fail_msg("%s", err.text);
	assert_int_equal(repoint_to(fd, long_path('b')), -1);
	assert_int_equal(err.kind, ERR_UNSUPPORTED);
	assert_non_null(strstr(err.text, "qemu-img rebase -u"));
	assert_string_equal(backing_of(fd), "/new");
	close(fd);
}

static void plain_names_are_seen(void **state)
{
	int fd = make_overlay("img", true, "/old");
	struct slice s;
	uint64_t size, at;
	be64 offset;

	(void)state;
	assert_int_equal(overlay_names(fd, &s, &size, &err), 1);
	assert_int_equal(s.size, 24576);
	assert_int_equal(pread(fd, &offset, 8, 8), 8);
	at = be64_get(offset);
	assert_int_equal(pwrite(fd, "/plain/name", 11, (off_t)at), 11);
	set_header(fd, 16, 11, 4);
	assert_int_equal(overlay_backing(fd, &s, &size, &err), 0);
	assert_int_equal(overlay_names(fd, &s, &size, &err), 1);
	assert_string_equal(s.path, "/plain/name");
	assert_true(s.size == 0 && !s.read_only);
	assert_int_equal(pwrite(fd, "plain//name", 11, (off_t)at), 11);
	assert_int_equal(overlay_names(fd, &s, &size, &err), 0);
	close(fd);
}

/* ---- members ---- */

static const uint8_t view_a[POOL_ID_SIZE] = { 0xa }, view_b[POOL_ID_SIZE] = { 0xb };

static void add(enum name_kind kind, const char *label, const char *path, const uint8_t view[POOL_ID_SIZE])
{
	struct name n = { .kind = kind };
	struct name_disk d = { .size = 1 << 20, .folded = kind == NAME_VERSION };

	snprintf(n.label, sizeof(n.label), "%s", label);
	snprintf(d.path, sizeof(d.path), "%s/%s", tree, path);
	memcpy(d.view, view, POOL_ID_SIZE);
	assert_int_equal(vec_push(&n.disks, d), 0);
	if (names_publish(pool, &n, true, &err) < 0)
		fail_msg("%s", err.text);
	name_release(&n);
}

static int add_to_text(void *ctx, const struct name *n, struct err *e)
{
	char *text = ctx;

	(void)e;
	for (size_t i = 0; i < n->disks.nr; i++)
		sprintf(text + strlen(text), "%s%s%s ", n->disks.items[i].path + strlen(tree) + 1,
			n->kind == NAME_VERSION ? "@" : "", n->label);
	return 0;
}

static const char *all(void)
{
	static char text[4096];

	*text = '\0';
	assert_int_equal(names_each(pool, add_to_text, text, NULL), 0);
	return text;
}

/* Where it was. */
static const char *adopt(const char *name, const uint8_t view[POOL_ID_SIZE])
{
	struct standing s = { .size = 1 << 20 };
	static char was[PATH_MAX];
	char path[PATH_MAX];

	memcpy(s.view, view, POOL_ID_SIZE);
	snprintf(path, sizeof(path), "%s/%s", tree, name);
	if (versions_adopt_as(pool, path, &s, was, &err) < 0)
		fail_msg("%s", err.text);
	return *was ? was + strlen(tree) + 1 : "";
}

static void the_only_one_that_is_gone_was_moved(void **state)
{
	(void)state;
	tree_file("there");
	add(NAME_MEMBER, "", "there", view_a);
	add(NAME_MEMBER, "", "old", view_a);
	add(NAME_MEMBER, "", "other", view_b);
	add(NAME_VERSION, "v", "old", view_a);
	add(NAME_VERSION, "v", "there", view_a);
	assert_string_equal(adopt("new", view_a), "old");
	assert_string_equal(all(), "there new other new@v there@v ");
}

static void of_several_the_one_of_the_same_name_was_moved(void **state)
{
	(void)state;
	add(NAME_MEMBER, "", "x/a", view_a);
	add(NAME_MEMBER, "", "x/b", view_a);
	add(NAME_VERSION, "v", "x/b", view_a);
	assert_string_equal(adopt("b", view_a), "x/b");
	assert_string_equal(all(), "x/a b b@v ");
}

static void who_may_be_several_is_new(void **state)
{
	(void)state;
	add(NAME_MEMBER, "", "x/a", view_a);
	add(NAME_MEMBER, "", "x/b", view_a);
	add(NAME_MEMBER, "", "y/b", view_a);
	assert_string_equal(adopt("c", view_a), "");
	assert_string_equal(adopt("b", view_a), "");
	assert_string_equal(all(), "x/a x/b y/b c b ");
}

static void a_copy_is_new(void **state)
{
	(void)state;
	tree_file("a");
	add(NAME_MEMBER, "", "a", view_a);
	add(NAME_VERSION, "v", "a", view_a);
	add(NAME_MEMBER, "", "gone", view_b);
	assert_string_equal(adopt("b", view_a), "");
	assert_string_equal(all(), "a a@v gone b ");
}

/* ---- a store that was moved ---- */

static void nothing_told(void *ctx, const char *path, const char *was_pool, const char *was)
{
	sprintf((char *)ctx + strlen(ctx), "%s%s%s ", path + strlen(tree) + 1, was_pool ? "!" : "", was ? *was ? "<" : "+" : "");
}

static void no_problem(void *ctx, const char *path, const struct err *why)
{
	(void)ctx;
	fail_msg("%s: %s", path, why->text);
}

static struct repointed run_repoint(char *text, bool dry_run)
{
	struct roots roots = { 0 };
	struct repoint_options o = {
		.roots = &roots, .dry_run = dry_run, .told = nothing_told, .problem = no_problem, .ctx = text
	};
	struct repointed done = { 0 };

	*text = '\0';
	if (roots_add(&roots, tree, true, &err) < 0 || pool_repoint(pool, &o, &done, &err) < 0)
		fail_msg("%s", err.text);
	roots_release(&roots);
	return done;
}

static void images_are_told_where_the_pool_is(void **state)
{
	struct disk d = { .size = SEGMENT_SIZE, .pieces = { { 0, 64 * KIB, 1 } } };
	struct overlay_options o = { .compat = true };
	struct slice backing, is;
	struct repointed done;
	char text[PATH_MAX], *old_path = (char *)pool_path;
	struct view v;
	uint64_t size;
	int fd = open(in_tree("img"), O_RDWR | O_CREAT, 0600);

	(void)state;
	import(&d);
	v = view_of(&d);
	assert_int_equal(view_backing(pool, &v, &backing, NULL), 0);
	assert_int_equal(overlay_write(fd, d.size, &backing, &o, NULL), 0);
	close(fd);
	add(NAME_MEMBER, "", "img", v.id);
	close_pool();
	assert_int_equal(mkdirat(pool_dirfd, "to", 0700), 0);
	assert_int_equal(renameat(pool_dirfd, "pool", pool_dirfd, "to/pool"), 0);
	close(pool_dirfd);
	pool_dirfd = open(in_tree("to"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	pool_path = strdup(in_tree("to/pool"));
	open_pool();

	assert_int_equal(repoint_check(pool, in_tree("img"), &err), -1);
	assert_non_null(strstr(err.text, "dedupscan repoint mends that"));
	assert_int_equal(repoint_old_path(pool, text, &err), 1);
	assert_string_equal(text, old_path);
	done = run_repoint(text, true);
	assert_true(done.nr_stubs == 1 && done.nr_images == 1);
	assert_int_equal(view_check_stub(pool, &v, POOL_VIEWS, &err), -1);
	assert_int_equal(err.kind, ERR_STALE);
	late_guest_begin(&v); /* the old path may lead here, too */
	done = run_repoint(text, false);
	late_guest_is_found(&v);
	assert_true(done.nr_stubs == 1 && done.nr_images == 1 && done.nr_noted == 0 && done.nr_left == 0);
	assert_string_equal(text, "img! ");
	expect_view(&v);
	fd = open(in_tree("img"), O_RDONLY);
	assert_int_equal(overlay_backing(fd, &is, &size, NULL), 1);
	close(fd);
	assert_int_equal(view_backing(pool, &v, &backing, NULL), 0);
	assert_string_equal(is.path, backing.path);
	assert_int_equal(repoint_check(pool, in_tree("img"), &err), 0);
	assert_int_equal(repoint_old_path(pool, text, &err), 0);
	done = run_repoint(text, false);
	assert_true(done.nr_stubs == 0 && done.nr_images == 0);
	assert_string_equal(text, "");
	free(old_path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(paths_tell_files_of_pools),
		tree_test(names_change_as_often_as_they_are_to),
		tree_test(what_is_not_known_is_left_alone),
		tree_test(small_clusters_may_have_no_room),
		tree_test(plain_names_are_seen),
		pool_test(the_only_one_that_is_gone_was_moved),
		pool_test(of_several_the_one_of_the_same_name_was_moved),
		pool_test(who_may_be_several_is_new),
		pool_test(a_copy_is_new),
		pool_test(images_are_told_where_the_pool_is),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
