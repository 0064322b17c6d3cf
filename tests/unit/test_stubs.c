/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/late_guest.h"

#include "compactor/stubs.h"

/* How QEMU reads what is in a pool already: all stubs say it, and guests keep those that they have open. */

static struct disk disks[2] = {
	{ .size = SEGMENT_SIZE, .pieces = { { 0, 64 * KIB, 1 } } },
	{ .size = SEGMENT_SIZE, .pieces = { { 64 * KIB, 64 * KIB, 2 } } },
};
static struct view views[2];
static unsigned nr_problems;

static void problem(void *ctx, const char *stub, const struct err *why)
{
	(void)ctx;
	print_message("%s: %s\n", stub, why->text);
	nr_problems++;
}

static void begin(void)
{
	for (unsigned i = 0; i < 2; i++) {
		import(&disks[i]);
		views[i] = view_of(&disks[i]);
		member_of(i ? "b" : "a", &disks[i], &views[i]);
	}
	nr_problems = 0;
}

static struct stubs_set set(const struct stub_wish *w, bool dry_run)
{
	const struct stubs_options o = { .wish = *w, .dry_run = dry_run, .problem = problem };
	struct stubs_set done = { 0 };
	struct err err = ERR_INIT;

	if (stubs_set(pool, &o, &done, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(done.nr_left, nr_problems);
	return done;
}

static void expect_reading(unsigned i, uint64_t l2, bool host)
{
	const struct slice_reading wanted = { l2, host, false };
	struct slice_reading is;

	assert_int_equal(view_stub_reading(pool, &views[i], &is, NULL), 0);
	assert_true(slice_same_reading(&is, &wanted));
	expect_view(&views[i]);
}

static unsigned nr_kept(void)
{
	unsigned nr = 0;
	struct stat st;

	for (unsigned i = 0; i < 2; i++) {
		char kept[VIEW_KEPT_STUB_ROOM];

		nr += fstatat(pool->dirs[POOL_QUARANTINE], view_kept_stub(&views[i], kept), &st, 0) == 0;
	}
	return nr;
}

static void all_stubs_say_what_is_wished(void **state)
{
	const struct stub_wish tables = { .as = { .l2 = MIB }, .l2 = true }, host = { .as = { .host = true }, .host = true };

	(void)state;
	begin();
	assert_int_equal(set(&tables, true).nr_set, 2); /* dry */
	expect_reading(0, 0, false);
	assert_int_equal(pool->reading.l2, 0);
	assert_int_equal(set(&tables, false).nr_set, 2);
	expect_reading(0, MIB, false);
	expect_reading(1, MIB, false);
	assert_int_equal(stub_told(pool).l2, MIB); /* for those to come */
	assert_int_equal(set(&host, false).nr_set, 2);
	expect_reading(1, MIB, true); /* what is not wished stays */
	assert_int_equal(set(&host, false).nr_right, 2);
	assert_int_equal(set(&(struct stub_wish){ .l2 = true, .host = true }, false).nr_set, 2);
	expect_reading(0, 0, false);
	assert_int_equal(nr_kept(), 0);
}

static void guests_keep_the_stub_that_they_have_open(void **state)
{
	char name[POOL_FILE_NAME_ROOM], kept[VIEW_KEPT_STUB_ROOM];
	struct stat was, is;
	int guest;

	(void)state;
	begin();
	guest = openat(pool->dirs[POOL_VIEWS], pool_id_file_name(views[1].id, name), O_RDONLY | O_CLOEXEC);
	assert_int_equal(fstat(guest, &was), 0);
	assert_int_equal(set(&(struct stub_wish){ .as = { .l2 = MIB }, .l2 = true }, false).nr_set, 2);
	expect_reading(1, MIB, false);
	assert_int_equal(nr_kept(), 1);
	assert_int_equal(fstatat(pool->dirs[POOL_QUARANTINE], view_kept_stub(&views[1], kept), &is, 0), 0);
	assert_int_equal(is.st_ino, was.st_ino);
	close(guest);
}

static void a_guest_that_starts_meanwhile_keeps_it_too(void **state)
{
	(void)state;
	begin();
	late_guest_begin(&views[1]);
	set(&(struct stub_wish){ .as = { .l2 = MIB }, .l2 = true }, false);
	late_guest_is_found(&views[1]);
	expect_reading(1, MIB, false);
	assert_int_equal(nr_kept(), 1);
}

static void a_damaged_stub_is_left_to_repair(void **state)
{
	char name[POOL_FILE_NAME_ROOM];
	int fd;

	(void)state;
	begin();
	fchmodat(pool->dirs[POOL_VIEWS], pool_id_file_name(views[0].id, name), 0600, 0);
	fd = openat(pool->dirs[POOL_VIEWS], name, O_RDWR | O_CLOEXEC);
	assert_int_equal(pwrite(fd, "?", 1, 200), 1);
	close(fd);
	assert_int_equal(set(&(struct stub_wish){ .as = { .l2 = MIB }, .l2 = true }, false).nr_set, 1);
	assert_int_equal(nr_problems, 1);
	expect_reading(1, MIB, false);
}

/* As when the cluster file that it is in is away, and may come back. */
static void a_stub_of_which_the_view_is_missing_is_told(void **state)
{
	char name[POOL_FILE_NAME_ROOM];
	const uint8_t id[POOL_ID_SIZE] = { 1 };

	(void)state;
	begin();
	close(openat(pool->dirs[POOL_VIEWS], pool_id_file_name(id, name), O_WRONLY | O_CREAT | O_CLOEXEC, 0444));
	assert_int_equal(set(&(struct stub_wish){ .as = { .l2 = MIB }, .l2 = true }, false).nr_left, 1);
}

static void a_stopped_one_goes_on(void **state)
{
	const struct stub_wish tables = { .as = { .l2 = MIB }, .l2 = true };
	struct stopper stopper = { .flag = 1 };
	const struct stubs_options o = { .wish = tables, .stopper = &stopper, .problem = problem };
	struct stubs_set done = { 0 };
	struct err err = ERR_INIT;

	(void)state;
	begin();
	assert_int_equal(stubs_set(pool, &o, &done, &err), -1);
	assert_int_equal(err.kind, ERR_CANCELED);
	assert_int_equal(done.nr_set, 0);
	assert_int_equal(set(&tables, false).nr_set, 2);
}

static void nothing_is_told_that_no_stub_has_room_for(void **state)
{
	const struct stub_wish host = { .as = { .host = true }, .host = true };
	struct stubs_options o = { .wish = host, .problem = problem };
	struct stubs_set done = { 0 };
	struct err errs[2] = { ERR_INIT, ERR_INIT };
	int rc[2];
	char path[832] = "/", *own = pool->path;

	(void)state;
	begin();
	memset(path + 1, 'p', sizeof(path) - 2);
	pool->path = path;
	for (unsigned dry = 0; dry < 2; dry++) {
		o.dry_run = dry;
		rc[dry] = stubs_set(pool, &o, &done, &errs[dry]);
	}
	pool->path = own;
	for (unsigned dry = 0; dry < 2; dry++)
		assert_true(rc[dry] == -1 && errs[dry].kind == ERR_UNSUPPORTED);
	assert_false(pool->reading.host || stub_told(pool).host); /* else a stub that is lost could not be written again */
	assert_int_equal(set(&host, false).nr_set, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		pool_test(all_stubs_say_what_is_wished),
		pool_test(guests_keep_the_stub_that_they_have_open),
		pool_test(a_guest_that_starts_meanwhile_keeps_it_too),
		pool_test(a_damaged_stub_is_left_to_repair),
		pool_test(a_stub_of_which_the_view_is_missing_is_told),
		pool_test(a_stopped_one_goes_on),
		pool_test(nothing_is_told_that_no_stub_has_room_for),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
