/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/pool_help.h"

#include <sys/wait.h>

#include "compactor/collect.h"
#include "compactor/pool/pool_check.h"
#include "compactor/pool_home.h"

static struct disk disks[] = {
	{ .size = 2 * SEGMENT_SIZE, .pieces = { { 0, 256 * KIB, 1 }, { SEGMENT_SIZE, 8 * KIB, 2 } } },
	{ .size = 2 * SEGMENT_SIZE, .pieces = { { 0, 256 * KIB, 1 }, { SEGMENT_SIZE, 8 * KIB, 3 } } },
};
static struct view views[ARRAY_SIZE(disks)];
static uint64_t names[ARRAY_SIZE(disks)];
static struct file_ops hooked;
static unsigned nr_set;
static int refusal;

/* ---- looking ---- */

static bool has_flag(const char *path)
{
	int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK), flags = 0;

	assert_true(fd >= 0);
	assert_int_equal(ioctl(fd, FS_IOC_GETFLAGS, &flags), 0);
	close(fd);
	return flags & FS_IMMUTABLE_FL;
}

static const char *path_of(enum pool_dir dir, const uint8_t id[POOL_ID_SIZE])
{
	static const char *const folders[] = { [POOL_TOP] = "", [POOL_VIEWS] = "views/", [POOL_TRASH] = "trash/" };
	char name[POOL_FILE_NAME_ROOM], path[128];

	snprintf(path, sizeof(path), "pool/%s%s", folders[dir], pool_id_file_name(id, name));
	return in_tree(path);
}

static uint8_t uuid[POOL_ID_SIZE];

static const char *clusters(void)
{
	return path_of(POOL_TOP, uuid);
}

static const char *stub(unsigned i)
{
	return path_of(POOL_VIEWS, views[i].id);
}

/* Everything in the pool has the flag or not, as it is to be at rest. */
static int check_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
	const char *rest = path + strlen(in_tree("pool")), *end = strrchr(path, '.');
	bool wanted = kind == FTW_F && end && strcmp(end, ".qcow2") == 0 &&
		      (strncmp(rest, "/views/", 7) == 0 || (at->level == 1 && strchr(rest + 1, '/') == NULL));

	(void)st;
	if (has_flag(path) == wanted)
		return 0;
	print_message("'%s' %s\n", rest, wanted ? "is not immutable" : "is immutable");
	return 1;
}

static void expect_at_rest(void)
{
	close_pool();
	assert_int_equal(nftw(in_tree("pool"), check_one, 16, FTW_PHYS), 0);
	open_pool();
}

static void expect_flags(bool of_clusters, bool of_first_stub)
{
	close_pool();
	assert_int_equal(has_flag(clusters()), of_clusters);
	assert_int_equal(has_flag(stub(0)), of_first_stub);
	open_pool();
}

static void expect_state(unsigned nr, const char *why)
{
	struct immutable_state s;

	again();
	assert_int_equal(immutable_look(pool, &s, NULL), 0);
	assert_int_equal(s.nr_immutable, nr);
	if (!why)
		assert_null(s.why);
	else if (!s.why || !strstr(s.why, why))
		fail_msg("%s instead of %s", s.why ? s.why : "nothing", why);
}

/* ---- a pool with two images ---- */

static bool is_refused(void)
{
	tree_file("probe");
	if (tree_set_immutable(in_tree("probe"), true) == 0)
		return tree_set_immutable(in_tree("probe"), false) != 0;
	print_message("no file can be immutable here: %s\n", strerror(errno));
	return true;
}

static int setup(void **state)
{
	if (pool_make(state) < 0)
		return -1;
	memcpy(uuid, pool->uuid, sizeof(uuid));
	return immutable_tell(pool, POOL_IMMUTABLE_AUTO, NULL);
}

static int teardown(void **state)
{
	immutable_selinux = "/sys/fs/selinux/enforce";
	return pool_unmake(state);
}

static void begin(void)
{
	if (is_refused())
		skip();
	for (unsigned i = 0; i < ARRAY_SIZE(disks); i++) {
		import(&disks[i]);
		views[i] = view_of(&disks[i]);
		names[i] = member_of(i ? "b" : "a", &disks[i], &views[i]);
	}
	expect_at_rest();
}

static int counting_ioctl(int fd, unsigned long request, void *arg)
{
	nr_set += request == FS_IOC_SETFLAGS;
	return file_ops_os.ioctl(fd, request, arg);
}

static int refusing_ioctl(int fd, unsigned long request, void *arg)
{
	if (request != FS_IOC_SETFLAGS && (request != FS_IOC_GETFLAGS || refusal == EPERM))
		return file_ops_os.ioctl(fd, request, arg);
	errno = refusal;
	return -1;
}

static void hook(int (*f)(int fd, unsigned long request, void *arg))
{
	hooked = file_ops_os;
	hooked.ioctl = f;
	file_ops = &hooked;
}

static struct collected collect(void)
{
	struct collect_options o = { .memory = MIB };
	struct collected c;
	struct err err = ERR_INIT;

	if (pool_collect(pool, &o, &c, &err) < 0)
		fail_msg("%s", err.text);
	return c;
}

static uint64_t repair(void)
{
	struct pool_repair_options o = { .assume_idle = true };
	uint64_t repaired, left;
	struct err err = ERR_INIT;

	if (pool_repair(pool, &o, &repaired, &left, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(left, 0);
	return repaired;
}

/* ---- at rest ---- */

static void at_rest_clusters_and_stubs_are_immutable(void **state)
{
	(void)state;
	begin();
	expect_disk(&disks[0]);
	expect_view(&views[1]);
}

static void who_writes_no_clusters_leaves_them_alone(void **state)
{
	uint64_t nr;

	(void)state;
	begin();
	hook(counting_ioctl);
	nr_set = 0;
	again();
	nr = member_of("clone", &disks[0], &views[0]);
	again();
	forget(nr);
	again();
	assert_int_equal(nr_set, 0);
	import(&(struct disk){ .size = SEGMENT_SIZE, .pieces = { { 0, 4 * KIB, 9 } } });
	again();
	assert_int_equal(nr_set, 2);
}

static void nobody_can_change_them(void **state)
{
	(void)state;
	begin();
	close_pool();
	for (unsigned i = 0; i < 2; i++) {
		const char *path = i ? stub(0) : clusters();

		errno = 0;
		assert_int_equal(open(path, O_RDWR), -1);
		assert_int_equal(errno, EPERM);
		assert_int_equal(unlink(path), -1);
		assert_int_equal(truncate(path, 0), -1);
		assert_int_equal(rename(path, in_tree("away")), -1);
		assert_int_equal(rename(in_tree("probe"), path), -1);
		assert_int_equal(chmod(path, 0644), -1);
		assert_int_equal(chown(path, 1, 1), -1);
		assert_int_equal(errno, EPERM);
	}
	open_pool();
	expect_view(&views[0]);
}

/* ---- what commands do ---- */

static void collections_move_stubs_and_bring_them_back(void **state)
{
	(void)state;
	begin();
	forget(names[0]);
	collect();
	close_pool();
	assert_false(has_flag(path_of(POOL_TRASH, views[0].id)));
	assert_true(has_flag(stub(1)));
	open_pool();
	member_of("a", &disks[0], &views[0]);
	collect();
	expect_at_rest();
	expect_view(&views[0]);
}

static void collections_remove_what_was_immutable(void **state)
{
	(void)state;
	begin();
	forget(names[0]);
	collect();
	again();
	tree_set_immutable(path_of(POOL_TRASH, views[0].id), true); /* as a power cut may leave it */
	assert_int_equal(collect().nr_removed, 1);
	expect_at_rest();
	assert_int_equal(access(path_of(POOL_TRASH, views[0].id), F_OK), -1);
	expect_disk(&disks[1]);
}

static void repairs_replace_stubs(void **state)
{
	char kept[VIEW_KEPT_STUB_ROOM], path[64];
	int fd;

	(void)state;
	begin();
	close_pool();
	tree_set_immutable(stub(0), false);
	fd = open(stub(0), O_RDWR);
	assert_int_equal(pwrite(fd, "?", 1, 200), 1);
	close(fd);
	tree_set_immutable(stub(0), true);
	open_pool();
	assert_int_equal(repair(), 1);
	expect_at_rest();
	expect_view(&views[0]);
	snprintf(path, sizeof(path), "pool/quarantine/%s", view_kept_stub(&views[0], kept));
	assert_false(has_flag(in_tree(path)));
}

static void who_may_read_can_change(void **state)
{
	struct stat member = { .st_mode = S_IFREG | 0640, .st_uid = 1, .st_gid = 2 }, is;
	struct err err = ERR_INIT;

	(void)state;
	begin();
	close_pool();
	tree_set_immutable(clusters(), false);
	assert_int_equal(chmod(clusters(), 0400), 0);
	assert_int_equal(chown(stub(0), 1, 1), -1);
	open_pool();
	if (pool_home_admit(pool, &member, true, &err) < 0)
		fail_msg("%s", err.text);
	expect_at_rest();
	assert_int_equal(stat(stub(1), &is), 0);
	assert_int_equal(is.st_mode & 07777, 0444);
	assert_int_equal(stat(clusters(), &is), 0);
	assert_int_equal(is.st_mode & 07777, 0444);
}

/* ---- who did not come to an end ---- */

static void a_killed_process_is_made_good_by_the_next(void **state)
{
	int status;
	pid_t pid;

	(void)state;
	begin();
	close_pool();
	pid = fork();
	if (pid == 0) {
		open_pool();
		import(&(struct disk){ .size = SEGMENT_SIZE, .pieces = { { 0, 4 * KIB, 7 } } });
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_false(has_flag(clusters()));
	tree_set_immutable(stub(1), false); /* it died here, say */
	open_pool();
	expect_disk(&disks[0]);
	expect_at_rest();
}

static void a_copy_gets_its_flags_from_who_writes_to_it(void **state)
{
	(void)state;
	begin();
	close_pool();
	tree_set_immutable(clusters(), false);
	tree_set_immutable(stub(0), false);
	tree_set_immutable(stub(1), false);
	open_pool_for(false);
	close_pool();
	assert_false(has_flag(clusters()));
	open_pool();
	member_of("clone", &disks[0], &views[0]);
	expect_at_rest();
}

static void a_stub_that_was_being_written_is_no_hindrance(void **state)
{
	char name[POOL_FILE_NAME_ROOM], path[128];

	(void)state;
	begin();
	snprintf(path, sizeof(path), "pool/views/.%s.tmp", pool_id_file_name(views[0].id, name));
	tree_file(path);
	tree_set_immutable(in_tree(path), true);
	assert_int_equal(view_write_stub(pool, &views[0], NULL, NULL), 0);
	expect_at_rest();
	tree_file(path);
	tree_set_immutable(in_tree(path), true);
	collect();
	expect_at_rest();
}

/* ---- where ---- */

static void it_is_as_the_pool_was_told(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	begin();
	assert_int_equal(immutable_tell(pool, POOL_IMMUTABLE_NEVER, &err), 0);
	expect_flags(false, false);
	import(&(struct disk){ .size = SEGMENT_SIZE, .pieces = { { 0, 4 * KIB, 9 } } });
	expect_flags(false, false);
	expect_state(0, "--immutable=never");
	assert_int_equal(immutable_tell(pool, POOL_IMMUTABLE_AUTO, &err), 0);
	expect_flags(true, true);
	expect_state(3, NULL);
	tree_write("pool/immutable", "perhaps\n", 8);
	again();
	expect_flags(false, false);
}

static void not_where_libvirt_has_to_change_them(void **state)
{
	(void)state;
	begin();
	tree_file("enforce");
	immutable_selinux = in_tree("enforce");
	again();
	expect_flags(false, false);
	expect_state(0, "SELinux");
	assert_int_equal(immutable_tell(pool, POOL_IMMUTABLE_ALWAYS, NULL), 0);
	expect_flags(true, true);
	assert_int_equal(immutable_tell(pool, POOL_IMMUTABLE_AUTO, NULL), 0);
	immutable_selinux = "/nowhere";
	expect_flags(true, true);
	close_pool();
	tree_set_immutable(clusters(), false);
	assert_int_equal(chmod(clusters(), 0440), 0);
	open_pool();
	expect_flags(false, true);
	expect_state(2, "not everybody may read");
	assert_int_equal(immutable_tell(pool, POOL_IMMUTABLE_ALWAYS, NULL), 0);
	expect_flags(true, true);
}

static void where_it_is_refused_all_goes_on_without(void **state)
{
	static const struct { int e; const char *why; } refusals[] = {
		{ EPERM, "the next command" }, { ENOTTY, "no such flag" }, { EOPNOTSUPP, "no such flag" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(refusals); i++) {
		struct disk d = { .size = SEGMENT_SIZE, .pieces = { { 0, 4 * KIB, 20 + (unsigned)i } } };
		struct view v;

		refusal = refusals[i].e;
		hook(refusing_ioctl);
		again();
		import(&d);
		v = view_of(&d);
		forget(member_of("x", &d, &v));
		collect();
		again();
		assert_int_equal(collect().nr_removed, 1);
		assert_int_equal(repair(), 0);
		again();
		if (geteuid() == 0)
			expect_state(0, refusals[i].why);
	}
}

static void what_cannot_be_lifted_is_told(void **state)
{
	struct disk d = { .size = SEGMENT_SIZE, .pieces = { { 0, 4 * KIB, 30 } } };
	struct import_stats stats;
	struct err err = ERR_INIT;

	(void)state;
	begin();
	refusal = EPERM;
	hook(refusing_ioctl);
	again();
	assert_int_equal(import_as(&d, POOL_UNIT_BITS_MIN, &stats, &err), -1);
	assert_non_null(strstr(err.text, "it is immutable, and stays so (chattr -i)"));
	file_ops = &file_ops_os;
	again();
	import(&d);
	expect_at_rest();
}

/* Power went before the name was durable, and after the flags were. */
static void a_pool_that_was_not_finished_is_removed(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	begin();
	close_pool();
	assert_int_equal(rename(in_tree("pool"), in_tree("pool.new")), 0);
	if (pool_create(pool_dirfd, "pool", &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(access(in_tree("pool.new"), F_OK), -1);
	open_pool();
}

int main(void)
{
#define immutable_test(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		immutable_test(at_rest_clusters_and_stubs_are_immutable),
		immutable_test(who_writes_no_clusters_leaves_them_alone),
		immutable_test(nobody_can_change_them),
		immutable_test(collections_move_stubs_and_bring_them_back),
		immutable_test(collections_remove_what_was_immutable),
		immutable_test(repairs_replace_stubs),
		immutable_test(who_may_read_can_change),
		immutable_test(a_killed_process_is_made_good_by_the_next),
		immutable_test(a_copy_gets_its_flags_from_who_writes_to_it),
		immutable_test(a_stub_that_was_being_written_is_no_hindrance),
		immutable_test(it_is_as_the_pool_was_told),
		immutable_test(not_where_libvirt_has_to_change_them),
		immutable_test(where_it_is_refused_all_goes_on_without),
		immutable_test(what_cannot_be_lifted_is_told),
		immutable_test(a_pool_that_was_not_finished_is_removed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
