/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include <time.h>

#include "compactor/pool/feed.h"
#include "scanner/base/checked.h"
#include "scanner/base/proc.h"
#include "tests/unit/image_help.h"

/* Raw disks, read by an honest process and by ones that lie.  tests/interop/pool_import.py has other formats and backing files. */

#define NR 21 /* more than the ring holds */

static struct roots roots;
static struct jail jail;
static struct stopper stopper;
static struct feed feed;
static struct err err;

static struct {
	unsigned nr_sizes, nr, nr_progress;
	uint64_t size, segments[NR], address;
	uint8_t bytes[NR]; /* the first of each */
	bool alike;	   /* all bytes of each are the same, up to the end of the disk */
	unsigned slow_ms;
	unsigned fails_at; /* the n-th call of segment() */
	struct sectors own; /* of the last one */
} seen;

static int take_size(void *ctx, uint64_t size, struct err *e)
{
	(void)ctx;
	(void)e;
	seen.nr_sizes++;
	seen.size = size;
	return 0;
}

static int take_segment(void *ctx, uint64_t segment, const void *bytes, struct err *e)
{
	const uint8_t *p = bytes;
	uint64_t inside = min_u64(seen.size - segment * SEGMENT_SIZE, SEGMENT_SIZE);

	(void)ctx;
	assert_true(seen.nr < NR);
	seen.segments[seen.nr] = segment;
	seen.bytes[seen.nr++] = p[0];
	if (seen.slow_ms)
		nanosleep(&(struct timespec){ .tv_nsec = seen.slow_ms * 1000000l }, NULL);
	for (uint64_t i = 0; i < SEGMENT_SIZE; i++)
		seen.alike &= p[i] == (i < inside ? seen.bytes[seen.nr - 1] : 0);
	return seen.nr == seen.fails_at ? err_set(e, ERR_FULL, "as told") : 0;
}

static int take_own(void *ctx, uint64_t segment, const void *bytes, const struct sectors *own, struct err *e)
{
	seen.own = *own;
	return take_segment(ctx, segment, bytes, e);
}

static int take_progress(void *ctx, uint64_t address, uint64_t size, struct err *e)
{
	(void)ctx;
	(void)e;
	assert_true(address <= size && size == seen.size);
	seen.nr_progress++;
	seen.address = address;
	return 0;
}

static int make(void **state)
{
	roots = (struct roots){ 0 };
	stopper = (struct stopper){ 0 };
	memset(&seen, 0, sizeof(seen));
	seen.alike = true;
	err = ERR_INIT;
	alarm(60); /* who waits for ever is ended */
	if (jail_plan(&jail, JAIL_BEST, NULL) < 0 || tree_make(state) < 0)
		return -1;
	feed = (struct feed){ .roots = &roots, .jail = &jail, .stopper = &stopper, .format = "raw", .size = take_size,
			      .segment = take_segment, .progress = take_progress };
	return roots_add(&roots, tree, false, NULL);
}

static int unmake(void **state)
{
	alarm(0);
	feed_process = feed_worker;
	roots_release(&roots);
	return tree_remove(state);
}

#define feed_test(f) cmocka_unit_test_setup_teardown(f, make, unmake)

/* A disk of holes. */
static void disk(uint64_t size)
{
	int fd = open(in_tree("disk"), O_WRONLY | O_CREAT, 0600);

	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	close(fd);
}

static void fill(uint64_t offset, uint64_t len, uint8_t byte)
{
	CLEANUP(free) uint8_t *p = malloc(len);
	int fd = open(in_tree("disk"), O_WRONLY);

	memset(p, byte, len);
	assert_int_equal(pwrite(fd, p, len, (off_t)offset), len);
	close(fd);
}

static int run_with(int flags)
{
	int fd = open(in_tree("disk"), flags | O_CLOEXEC), rc = feed_run(&feed, fd, in_tree("disk"), &err);

	assert_true(fcntl(fd, F_GETFD) >= 0);
	close(fd);
	return rc;
}

static int run(void)
{
	return run_with(O_RDONLY);
}

static void must_run(void)
{
	if (run() < 0)
		fail_msg("%s", err.text);
}

/* ---- an honest process ---- */

static void segments_come_in_order_without_zeros(void **state)
{
	(void)state;
	disk(6 * SEGMENT_SIZE + 1536);
	fill(0, SEGMENT_SIZE, 1);
	fill(2 * SEGMENT_SIZE, SEGMENT_SIZE, 0);
	fill(3 * SEGMENT_SIZE, SEGMENT_SIZE, 3);
	fill(6 * SEGMENT_SIZE, 1536, 6);
	must_run();
	assert_int_equal(seen.nr_sizes, 1);
	assert_int_equal(seen.size, 6 * SEGMENT_SIZE + 1536);
	assert_int_equal(seen.nr, 3);
	assert_true(seen.alike);
	assert_int_equal(seen.segments[1], 3);
	assert_int_equal(seen.segments[2], 6);
	assert_int_equal(seen.bytes[0] << 16 | seen.bytes[1] << 8 | seen.bytes[2], 0x010306);
	assert_true(seen.nr_progress >= 3);
	assert_int_equal(seen.address, seen.size);
}

static void what_is_beside_data_is_zeros(void **state)
{
	(void)state;
	disk(NR * SEGMENT_SIZE);
	for (unsigned i = 0; i < NR; i++) /* slots are used again */
		fill(i * SEGMENT_SIZE, i % 2 ? SEGMENT_SIZE : 4096, (uint8_t)(i + 1));
	must_run();
	assert_int_equal(seen.nr, NR);
	assert_false(seen.alike);
	seen.nr = 0;
	seen.alike = true;
	for (unsigned i = 0; i < NR; i += 2)
		fill(i * SEGMENT_SIZE, SEGMENT_SIZE, (uint8_t)(i + 1));
	must_run();
	assert_true(seen.alike);
}

static void a_slow_taker_gets_each_segment(void **state)
{
	(void)state;
	disk(NR * SEGMENT_SIZE);
	for (unsigned i = 0; i < NR; i++)
		fill(i * SEGMENT_SIZE, SEGMENT_SIZE, (uint8_t)(i + 1));
	seen.slow_ms = 10;
	must_run();
	assert_int_equal(seen.nr, NR);
	assert_true(seen.alike);
	for (unsigned i = 0; i < NR; i++) {
		assert_int_equal(seen.segments[i], i);
		assert_int_equal(seen.bytes[i], i + 1);
	}
}

static void an_empty_disk_has_a_size(void **state)
{
	(void)state;
	disk(5 * GIB);
	must_run();
	assert_int_equal(seen.nr_sizes, 1);
	assert_int_equal(seen.nr, 0);
	assert_int_equal(seen.address, 5 * GIB);
}

static void own_zeros_are_told_of(void **state)
{
	(void)state;
	disk(4 * SEGMENT_SIZE);
	fill(SEGMENT_SIZE, SEGMENT_SIZE, 0);
	feed.own = take_own;
	must_run();
	assert_int_equal(seen.nr, 1);
	assert_int_equal(seen.segments[0], 1);
	assert_int_equal(seen.bytes[0], 0);
	assert_true(sectors_have(&seen.own, 0));
	assert_int_equal(sectors_end(&seen.own, 0), SEGMENT_SECTORS);
}

/* Slots are used again: none has sectors of the segment before. */
static void own_sectors_are_told(void **state)
{
	(void)state;
	disk(NR * SEGMENT_SIZE);
	for (unsigned i = 0; i < NR; i++)
		fill(i * SEGMENT_SIZE + (i < NR - 1 ? 0 : 64 * KIB), i < NR - 1 ? SEGMENT_SIZE : 128 * KIB, 7);
	feed.own = take_own;
	must_run();
	assert_int_equal(seen.nr, NR);
	assert_false(sectors_have(&seen.own, 0));
	assert_int_equal(sectors_end(&seen.own, 0), 128);
	assert_int_equal(sectors_end(&seen.own, 128), 384);
	assert_int_equal(sectors_end(&seen.own, 384), SEGMENT_SECTORS);
}

/* Whoever replaces an image has it open for writing. */
static void a_file_open_for_writing_is_read_in_the_jail(void **state)
{
	(void)state;
	disk(2 * SEGMENT_SIZE);
	fill(0, SEGMENT_SIZE, 1);
	feed.keep_cache = true;
	assert_int_equal(run_with(O_RDWR), 0);
	assert_int_equal(run_with(O_RDONLY), 0);
	assert_int_equal(seen.nr, 2);
}

static void a_failure_of_the_taker_ends_it(void **state)
{
	(void)state;
	disk(NR * SEGMENT_SIZE);
	for (unsigned i = 0; i < NR; i++)
		fill(i * SEGMENT_SIZE, 512, 1);
	seen.fails_at = 7;
	assert_int_equal(run(), -1);
	expect_error(&err, ERR_FULL, "as told");
	assert_int_equal(seen.nr, 7);
}

static void a_stop_ends_it(void **state)
{
	(void)state;
	disk(SEGMENT_SIZE);
	fill(0, 512, 1);
	stopper.flag = 1;
	assert_int_equal(run(), -1);
	assert_int_equal(err.kind, ERR_CANCELED);
}

static void an_image_of_another_format_is_told(void **state)
{
	(void)state;
	disk(SEGMENT_SIZE);
	fill(0, SEGMENT_SIZE, 1);
	feed.format = "qcow2";
	assert_int_equal(run(), -1);
	expect_error(&err, ERR_FORMAT, "no qcow2 header found");
	assert_int_equal(seen.nr_sizes, 0);
}

/* ---- ones that lie ---- */

struct liar {
	struct errand_side side;
	struct feed_shared *shared;
};

static void (*lie)(struct liar *l);

static int liar(int sock, void *shared, void *arg)
{
	struct liar l = { .shared = shared };

	(void)arg;
	if (errand_begin(&l.side, sock, false) < 0)
		return 1;
	lie(&l);
	return errand_end(&l.side, NULL);
}

static void say(struct liar *l, uint32_t kind)
{
	l->side.m->kind = kind;
	worker_send(l->side.sock, l->side.m, -1, NULL);
}

static void say_size(struct liar *l, uint64_t size)
{
	memset(l->side.m, 0xff, sizeof(*l->side.m));
	l->side.m->image.virtual_size = size;
	say(l, WORKER_IMAGE);
}

static void say_segment(struct liar *l, uint32_t slot, uint64_t segment)
{
	l->side.m->slot = slot;
	if (slot < FEED_SLOTS)
		l->shared->segments[slot] = segment;
	say(l, WORKER_FRAME);
}

static void wait_for_answer(struct liar *l)
{
	int fd;

	assert_true(proc_recv(l->side.sock, l->side.m, sizeof(*l->side.m), &fd, NULL) > 0);
}

static void says_names_without_end(struct liar *l)
{
	memset(&l->shared->snapshot, 'x', sizeof(l->shared->snapshot));
	say_size(l, SEGMENT_SIZE);
}

static void says_no_size(struct liar *l)
{
	(void)l;
}

static void says_segments_first(struct liar *l)
{
	say_segment(l, 0, 0);
}

static void says_two_sizes(struct liar *l)
{
	say_size(l, 3 * SEGMENT_SIZE);
	say_size(l, 4 * SEGMENT_SIZE);
}

static void says_too_large_a_size(struct liar *l)
{
	say_size(l, IMAGE_SPAN_MAX + 1);
}

static void has_another_slot(struct liar *l)
{
	say_size(l, 3 * SEGMENT_SIZE);
	say_segment(l, FEED_SLOTS, 0);
}

static void goes_back(struct liar *l)
{
	say_size(l, 3 * SEGMENT_SIZE);
	memset(l->shared->bytes, 1, sizeof(l->shared->bytes));
	say_segment(l, 0, 1);
	wait_for_answer(l);
	say_segment(l, 1, 1);
}

static void goes_behind_the_end(struct liar *l)
{
	say_size(l, 2 * SEGMENT_SIZE + 1);
	say_segment(l, 0, 3);
}

static void says_something_else(struct liar *l)
{
	say_size(l, SEGMENT_SIZE);
	say(l, WORKER_STOPPED);
}

static void what_cannot_be_is_not_believed(void **state)
{
	static void (*const lies[])(struct liar *) = { says_no_size, says_segments_first, says_two_sizes, says_too_large_a_size,
						       has_another_slot, goes_back, goes_behind_the_end, says_something_else };

	(void)state;
	disk(SEGMENT_SIZE);
	feed_process = liar;
	for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
		lie = lies[i];
		seen.nr = 0;
		err = ERR_INIT;
		assert_int_equal(run(), -1);
		expect_error(&err, ERR_FORMAT, "what cannot be");
		assert_int_equal(seen.nr, lies[i] == goes_back);
	}
}

static void names_of_snapshots_end_somewhere(void **state)
{
	struct image_snapshot s;

	(void)state;
	disk(SEGMENT_SIZE);
	feed_process = liar;
	lie = says_names_without_end;
	feed.snapshot = 1;
	feed.ret_snapshot = &s;
	must_run();
	assert_int_equal(strlen(s.id), sizeof(s.id) - 1);
	assert_int_equal(strlen(s.name), sizeof(s.name) - 1);
}

static void a_disk_without_snapshots_shows_none(void **state)
{
	struct image_snapshot s;

	(void)state;
	disk(SEGMENT_SIZE);
	feed.snapshot = 1;
	feed.ret_snapshot = &s;
	assert_int_equal(run(), -1);
	assert_non_null(strstr(err.text, "no internal snapshot 1"));
	assert_int_equal(seen.nr_sizes, 0);
}

static void fills_it_all(struct liar *l)
{
	say_size(l, SEGMENT_SIZE - 512);
	memset(l->shared->bytes[0], 1, SEGMENT_SIZE);
	say_segment(l, 0, 0);
	wait_for_answer(l);
}

static void what_lies_behind_the_end_is_zeros(void **state)
{
	(void)state;
	disk(SEGMENT_SIZE);
	feed_process = liar;
	lie = fills_it_all;
	must_run();
	assert_int_equal(seen.nr, 1);
	assert_true(seen.alike);
}

static void changes_it_at_once(struct liar *l)
{
	say_size(l, SEGMENT_SIZE);
	memset(l->shared->bytes[0], 1, SEGMENT_SIZE);
	say_segment(l, 0, 0);
	nanosleep(&(struct timespec){ .tv_nsec = 100000000 }, NULL); /* the taker has it, and takes its time */
	memset(l->shared->bytes[0], 2, SEGMENT_SIZE);
	wait_for_answer(l);
}

static void bytes_are_out_of_its_reach(void **state)
{
	(void)state;
	disk(SEGMENT_SIZE);
	feed_process = liar;
	lie = changes_it_at_once;
	seen.slow_ms = 400;
	must_run();
	assert_int_equal(seen.bytes[0], 1);
	assert_true(seen.alike);
}

static void says_zeros(struct liar *l)
{
	say_size(l, SEGMENT_SIZE);
	say_segment(l, 0, 0);
	wait_for_answer(l);
}

static void zeros_are_not_passed_on(void **state)
{
	(void)state;
	disk(SEGMENT_SIZE);
	feed_process = liar;
	lie = says_zeros;
	must_run();
	assert_int_equal(seen.nr, 0);
}

/* Through such a mapping a file that is open for writing can be written to. */
static void maps_it_shared(struct liar *l)
{
	say_size(l, SEGMENT_SIZE);
	mmap(NULL, BLOCK_SIZE, PROT_READ, MAP_SHARED, l->side.fd, 0);
}

static void a_file_open_for_writing_is_not_written_to(void **state)
{
	(void)state;
	if (!jail.seccomp)
		skip();
	disk(SEGMENT_SIZE);
	feed_process = liar;
	lie = maps_it_shared;
	assert_int_equal(run_with(O_RDONLY), 0);
	assert_int_equal(run_with(O_RDWR), -1);
	expect_error(&err, ERR_IO, "mmap");
}

static void dies(struct liar *l)
{
	say_size(l, SEGMENT_SIZE);
	abort();
}

static void who_dies_is_told_of(void **state)
{
	(void)state;
	disk(SEGMENT_SIZE);
	feed_process = liar;
	lie = dies;
	assert_int_equal(run(), -1);
	expect_error(&err, ERR_IO, "died");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		feed_test(segments_come_in_order_without_zeros),
		feed_test(what_is_beside_data_is_zeros),
		feed_test(a_slow_taker_gets_each_segment),
		feed_test(an_empty_disk_has_a_size),
		feed_test(own_zeros_are_told_of),
		feed_test(own_sectors_are_told),
		feed_test(a_file_open_for_writing_is_read_in_the_jail),
		feed_test(a_failure_of_the_taker_ends_it),
		feed_test(a_stop_ends_it),
		feed_test(an_image_of_another_format_is_told),
		feed_test(what_cannot_be_is_not_believed),
		feed_test(names_of_snapshots_end_somewhere),
		feed_test(a_disk_without_snapshots_shows_none),
		feed_test(what_lies_behind_the_end_is_zeros),
		feed_test(bytes_are_out_of_its_reach),
		feed_test(zeros_are_not_passed_on),
		feed_test(a_file_open_for_writing_is_not_written_to),
		feed_test(who_dies_is_told_of),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
