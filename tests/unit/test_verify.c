/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/catalog_help.h"

#include <pthread.h>
#include <sys/socket.h>
#include <time.h>

#include "scanner/leash.h"
#include "scanner/scan_parts.h"
#include "scanner/verify.h"

/* Verifying with readers that lie, die or find other bytes than are there; what honest ones find is the business of
 * tests/cli/verify.sh. */

#define IMAGE_SIZE (4 * MIB)

struct evil {
	int sock;
	struct worker_shared *shared;
	struct worker_message m; /* its job; and for what it says */
	struct spool_pending *pending;
};

static void (*evil_deed)(struct evil *e);
static struct stopper stopper;
static struct jail jail;
static struct verify_totals totals;

/* What was told, in order. */
static struct told {
	char name[64], why[512];
	enum verify_outcome outcome;
	uint64_t nr_runs, differs;
	struct verify_run first;
} told[8];
static size_t nr_told;

/* ---- readers ---- */

static void say(struct evil *e, uint32_t kind)
{
	e->m.kind = kind;
	worker_send(e->sock, &e->m, -1, NULL);
}

static void say_image(struct evil *e, uint64_t span, uint64_t layer, const char *format)
{
	e->m.image = (struct worker_image){
		.virtual_size = IMAGE_SIZE, .span = span, .layer = layer, .file_size = IMAGE_SIZE
	};
	snprintf(e->m.image.format, sizeof(e->m.image.format), "%s", format);
	say(e, WORKER_IMAGE);
}

static void good_image(struct evil *e)
{
	say_image(e, IMAGE_SIZE, IMAGE_SIZE, "raw");
}

static uint8_t evil_digest = 1;

static void say_frame(struct evil *e, unsigned slot, uint64_t first, unsigned nr)
{
	e->pending->nr_segments = nr;
	for (unsigned i = 0; i < nr; i++)
		e->pending->segments[i] = (struct spool_segment){ .segment = le64_from(first + i),
								  .digest = { evil_digest, 2, 3 },
								  .stored = le16_from(SEGMENT_BLOCKS),
								  .zero = le16_from(SEGMENT_BLOCKS) };
	e->shared->slots[slot % WORKER_SLOTS].len = (uint32_t)spool_frame_make(
		e->pending, (first + nr) * SEGMENT_SIZE, e->shared->slots[slot % WORKER_SLOTS].frame);
	e->m.slot = slot;
	say(e, WORKER_FRAME);
}

/* The first image has it; others have an honest one. */
static int evil_run(int sock, void *shared, void *arg)
{
	struct evil *e = calloc(1, sizeof(*e));
	struct worker_message peeked;
	struct iovec iov = { &peeked, sizeof(peeked) };
	struct msghdr header = { .msg_iov = &iov, .msg_iovlen = 1 };
	int fd;

	(void)arg;
	e->sock = sock;
	e->shared = shared;
	e->pending = calloc(1, sizeof(*e->pending));
	while (recvmsg(sock, &header, MSG_PEEK) > 0) {
		if (peeked.kind == WORKER_JOB && !strstr(peeked.job.path, "1.raw"))
			return worker_run(sock, shared, NULL);
		if (proc_recv(sock, &e->m, sizeof(e->m), &fd, NULL) <= 0)
			break;
		if (e->m.kind == WORKER_JOB)
			evil_deed(e);
	}
	return 1;
}

/* ---- around ---- */

static void no_progress(void *ctx, const struct scan_progress *p)
{
	(void)ctx;
	(void)p;
}

static void no_problem(void *ctx, const char *path, const struct err *why)
{
	(void)ctx;
	(void)path;
	(void)why;
}

static const struct scan_watch watch = { no_progress, no_problem, NULL };

/* Readers of a scan end with it. */
static void scan_with(int (*run)(int, void *, void *))
{
	struct roots roots = { 0 };
	struct scan_options o = { .roots = &roots, .memory = 64 * MIB, .stopper = &stopper, .watch = &watch };
	struct scan_workers *workers;
	struct scan_result result;
	struct err err = ERR_INIT;

	scan_worker_run = run;
	assert_int_equal(roots_add(&roots, in_tree("store"), true, &err), 0);
	workers = scan_workers_new(1, &jail, &err);
	assert_non_null(workers);
	if (scan_run(catalog, workers, &o, &result, &err) < 0)
		fail_msg("%s", err.text);
	scan_workers_free(workers);
	roots_release(&roots);
	scan_worker_run = worker_run;
}

static int note(void *ctx, const struct verify_image *i, struct err *err)
{
	struct told *t = &told[nr_told++];

	(void)ctx;
	(void)err;
	assert_true(nr_told < ARRAY_SIZE(told));
	*t = (struct told){ .outcome = i->outcome, .nr_runs = i->nr_runs, .differs = i->differs };
	snprintf(t->name, sizeof(t->name), "%s", strrchr(i->path, '/') + 1);
	snprintf(t->why, sizeof(t->why), "%s", i->why);
	if (i->nr_runs)
		t->first = i->runs.items[0];
	return 0;
}

/* `file` NULL: against the catalog. */
static int verify_with(int (*run)(int, void *, void *), const char *file, struct err *err)
{
	struct roots roots = { 0 };
	struct verify_options o = {
		.roots = &roots, .jail = &jail, .stopper = &stopper, .watch = &watch, .tell = note, .run = run,
	};
	int rc;

	nr_told = 0;
	assert_int_equal(roots_add(&roots, in_tree("store"), true, err), 0);
	rc = file ? verify_check(file, &o, &totals, err) : verify_catalog(catalog, &o, &totals, err);
	roots_release(&roots);
	return rc;
}

static void verify(void)
{
	struct err err = ERR_INIT;

	if (verify_with(NULL, NULL, &err) < 0)
		fail_msg("%s", err.text);
}

static void expect_told(size_t n, const char *name, enum verify_outcome outcome, const char *why)
{
	assert_true(n < nr_told);
	assert_string_equal(told[n].name, name);
	if (told[n].outcome != outcome || !strstr(told[n].why, why))
		fail_msg("%s is %s: '%s'; wanted %s: '%s'", name, verify_outcome_names[told[n].outcome], told[n].why,
			 verify_outcome_names[outcome], why);
}

/* Until time stamps are old enough to be believed. */
static void settle(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 250000000 }, NULL);
}

static int make(void **state)
{
	static char data[IMAGE_SIZE];

	if (catalog_make(state) < 0 || jail_plan(&jail, JAIL_BEST, NULL) < 0 || digest_prepare(NULL) < 0)
		return -1;
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (char)(i / 4096 + i / 1048576);
	tree_dir("store");
	tree_write("store/1.raw", data, sizeof(data));
	tree_write("store/2.raw", data, sizeof(data));
	stopper = (struct stopper){ 0 };
	alarm(100);
	settle();
	return 0;
}

static int unmake(void **state)
{
	alarm(0);
	leash_clock = leash_clock_real;
	return catalog_remove(state);
}

#define verify_test(f) cmocka_unit_test_setup_teardown(f, make, unmake)

/* ---- what the catalog says ---- */

static void knows_nothing_without_a_scan(void **state)
{
	(void)state;
	verify();
	assert_int_equal(nr_told, 2);
	expect_told(0, "1.raw", VERIFY_UNKNOWN, "no scan has seen it");
	assert_false(verify_all_well(&totals));
}

static void finds_what_the_scan_found(void **state)
{
	(void)state;
	scan_with(worker_run);
	verify();
	assert_int_equal(nr_told, 2);
	expect_told(0, "1.raw", VERIFY_OK, "");
	assert_string_equal(told[0].why, "");
	expect_told(1, "2.raw", VERIFY_OK, "");
	assert_true(verify_all_well(&totals));
	assert_int_equal(totals.bytes_read, 2 * IMAGE_SIZE);
}

/* A scan to which other bytes were shown leaves a catalog that other bytes have a right to. */
static void finds_other_bytes(struct evil *e)
{
	good_image(e);
	say_frame(e, 0, 0, 2);
	say(e, WORKER_DONE);
}

static void damage_is_not_taken_for_change(void **state)
{
	const struct timespec times[2] = { { .tv_sec = 1 }, { .tv_sec = 1 } };

	(void)state;
	evil_deed = finds_other_bytes;
	scan_with(evil_run);
	verify();
	expect_told(0, "1.raw", VERIFY_DIFFERS, "by its time stamps it did not change since the scan");
	assert_int_equal(told[0].nr_runs, 1);
	assert_int_equal(told[0].first.offset, 0);
	assert_int_equal(told[0].first.len, IMAGE_SIZE);
	assert_int_equal(told[0].differs, IMAGE_SIZE);
	expect_told(1, "2.raw", VERIFY_OK, "");
	assert_false(verify_all_well(&totals));

	assert_int_equal(utimensat(AT_FDCWD, in_tree("store/1.raw"), times, 0), 0);
	assert_int_equal(utimensat(AT_FDCWD, in_tree("store/2.raw"), times, 0), 0);
	verify();
	expect_told(0, "1.raw", VERIFY_CHANGED, "it was changed since the scan");
	assert_int_equal(told[0].nr_runs, 1);
	expect_told(1, "2.raw", VERIFY_OK, "its time stamps changed, its bytes did not");
}

/* ---- what readers say ---- */

static void is_done_at_once(struct evil *e)
{
	good_image(e);
	say(e, WORKER_DONE);
}

static void what_is_not_delivered_differs(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	scan_with(worker_run);
	evil_deed = is_done_at_once;
	assert_int_equal(verify_with(evil_run, NULL, &err), 0);
	expect_told(0, "1.raw", VERIFY_DIFFERS, "");
	assert_int_equal(told[0].nr_runs, 1);
	assert_int_equal(told[0].differs, IMAGE_SIZE);
	expect_told(1, "2.raw", VERIFY_OK, "");
}

static void delivers_one_of_two(struct evil *e)
{
	good_image(e);
	say_frame(e, 0, 1, 1);
	say(e, WORKER_DONE);
}

static void another_size_is_a_difference(struct evil *e)
{
	say_image(e, 2 * IMAGE_SIZE, 2 * IMAGE_SIZE, "raw");
	say(e, WORKER_DONE);
}

static void another_format_is_a_difference(struct evil *e)
{
	say_image(e, IMAGE_SIZE, IMAGE_SIZE, "vdi");
	say(e, WORKER_DONE);
}

static void gaps_and_headers_differ(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	scan_with(worker_run);
	evil_deed = delivers_one_of_two;
	assert_int_equal(verify_with(evil_run, NULL, &err), 0);
	expect_told(0, "1.raw", VERIFY_DIFFERS, "");
	assert_int_equal(told[0].nr_runs, 1); /* one is gone, the next is another: they are one run */
	assert_int_equal(told[0].differs, IMAGE_SIZE);
	evil_deed = another_format_is_a_difference;
	assert_int_equal(verify_with(evil_run, NULL, &err), 0);
	expect_told(0, "1.raw", VERIFY_DIFFERS, "its format is 'vdi', was 'raw'");
	evil_deed = another_size_is_a_difference;
	assert_int_equal(verify_with(evil_run, NULL, &err), 0);
	assert_int_equal(told[0].outcome, VERIFY_DIFFERS);
}

/* A snapshot came to be; in it the second segment, on the disk the first one is another. */
static void differs_in_two_layers(struct evil *e)
{
	say_image(e, 2 * IMAGE_SIZE, IMAGE_SIZE, "raw");
	evil_digest = 2;
	say_frame(e, 0, 0, 1);
	evil_digest = 1;
	say_frame(e, 1, 1, 1);
	while (proc_recv(e->sock, &e->m, sizeof(e->m), &(int){ -1 }, NULL) > 0 && e->m.slot != 0) /* FREE */
		;
	evil_digest = 2;
	say_frame(e, 0, 3, 1);
	say(e, WORKER_DONE);
}

static void runs_end_with_their_layer(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	evil_deed = finds_other_bytes;
	scan_with(evil_run);
	evil_deed = differs_in_two_layers;
	assert_int_equal(verify_with(evil_run, NULL, &err), 0);
	expect_told(0, "1.raw", VERIFY_DIFFERS, "");
	assert_int_equal(told[0].nr_runs, 2);
	assert_int_equal(told[0].first.len, SEGMENT_SIZE);
	assert_int_equal(told[0].differs, 2 * SEGMENT_SIZE);
}

static void frame_first(struct evil *e)
{
	say_frame(e, 0, 0, 1);
}

static void no_such_slot(struct evil *e)
{
	good_image(e);
	say_frame(e, 7, 0, 1);
}

static void says_it_twice(struct evil *e)
{
	good_image(e);
	good_image(e);
}

static void impossible_image(struct evil *e)
{
	say_image(e, (uint64_t)1 << 60, MIB, "raw");
}

static void unknown_format(struct evil *e)
{
	say_image(e, IMAGE_SIZE, IMAGE_SIZE, "nonsense");
}

static void no_frame_at_all(struct evil *e)
{
	good_image(e);
	memset(e->shared->slots[0].frame, 0xff, SPOOL_FRAME_MAX);
	e->shared->slots[0].len = 4096;
	e->m.slot = 0;
	say(e, WORKER_FRAME);
}

static void too_long_a_frame(struct evil *e)
{
	good_image(e);
	e->shared->slots[0].len = UINT32_MAX;
	e->m.slot = 0;
	say(e, WORKER_FRAME);
}

static void goes_backwards(struct evil *e)
{
	good_image(e);
	say_frame(e, 0, 1, 1);
	say_frame(e, 1, 0, 1);
}

static void behind_the_end(struct evil *e)
{
	good_image(e);
	say_frame(e, 0, 2, 1);
}

static void stops_unasked(struct evil *e)
{
	good_image(e);
	say(e, WORKER_STOPPED);
}

static void says_done_and_nothing_else(struct evil *e)
{
	say(e, WORKER_DONE);
}

static void dies(struct evil *e)
{
	good_image(e);
	(void)e;
	abort();
}

static void liars_cost_their_image_only(void **state)
{
	static const struct {
		void (*deed)(struct evil *e);
		const char *words;
	} lies[] = {
		{ frame_first, "handed over what cannot be" },
		{ no_such_slot, "handed over what cannot be" },
		{ says_it_twice, "told of an image that cannot be" },
		{ impossible_image, "told of an image that cannot be" },
		{ unknown_format, "told of an image that cannot be" },
		{ no_frame_at_all, "handed over what cannot be" },
		{ too_long_a_frame, "handed over what cannot be" },
		{ goes_backwards, "told of places that cannot be" },
		{ behind_the_end, "told of places that cannot be" },
		{ stops_unasked, "spoke out of turn" },
		{ says_done_and_nothing_else, "the reader said nothing about the image" },
		{ dies, "the process that read it died (killed by signal 6" },
	};

	(void)state;
	scan_with(worker_run);
	for (unsigned i = 0; i < ARRAY_SIZE(lies); i++) {
		struct err err = ERR_INIT;

		evil_deed = lies[i].deed;
		if (verify_with(evil_run, NULL, &err) < 0)
			fail_msg("lie %u ended it: %s", i, err.text);
		assert_int_equal(nr_told, 2);
		expect_told(0, "1.raw", VERIFY_UNREAD, lies[i].words);
		expect_told(1, "2.raw", VERIFY_OK, "");
	}
}

static void talks_on(struct evil *e)
{
	for (;;) {
		e->m = (struct worker_message){ .kind = WORKER_OPEN };
		worker_send(e->sock, &e->m, -1, NULL);
		proc_recv(e->sock, &e->m, sizeof(e->m), &(int){ -1 }, NULL);
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL); /* there is a limit to how many */
	}
}

static void falls_silent(struct evil *e)
{
	good_image(e);
}

static void *stop_soon(void *arg)
{
	settle();
	atomic_store(&stopper.flag, 1);
	return arg;
}

static void stops_whatever_the_reader_does(void **state)
{
	void (*const deeds[])(struct evil *) = { talks_on, falls_silent };

	(void)state;
	scan_with(worker_run);
	for (unsigned i = 0; i < ARRAY_SIZE(deeds); i++) {
		struct err err = ERR_INIT;
		pthread_t thread;

		evil_deed = deeds[i];
		atomic_store(&stopper.flag, 0);
		assert_int_equal(pthread_create(&thread, NULL, stop_soon, NULL), 0);
		assert_int_equal(verify_with(evil_run, NULL, &err), -1);
		assert_int_equal(err.kind, ERR_CANCELED);
		assert_int_equal(nr_told, 0);
		pthread_join(thread, NULL);
	}
}

/* ---- recorded digests ---- */

#define HEADER "# dedupscan digests 1: \n"
#define NULLS "0000000000000000000000000000000000000000000000000000000000000000"

static void refuse_digests(const char *text, size_t len, const char *words)
{
	struct err err = ERR_INIT;

	unlink(in_tree("digests"));
	tree_write("digests", text, len);
	assert_int_equal(verify_with(NULL, in_tree("digests"), &err), -1);
	if (!strstr(err.text, words))
		fail_msg("wanted '%s', got '%s'", words, err.text);
	assert_int_equal(nr_told, 0);
}

static void files_that_are_not_ours_are_refused(void **state)
{
	static const struct {
		const char *text, *words;
	} bad[] = {
		{ "", "no file of recorded digests" },
		{ NULLS "  1  /a\n", "no file of recorded digests" },
		{ "# dedupscan digests 2: \n", "a newer dedupscan" },
		{ "# dedupscan digests 1: ", "line 1 is cut off" },
		{ HEADER NULLS "  1  /a", "line 2 is cut off" },
		{ HEADER NULLS "  1  /a\n" NULLS "  1 /b\n", "line 3: it is not a digest" },
		{ HEADER NULLS " 1  /a\n", "line 2: it is not a digest" },
		{ HEADER NULLS "  -1  /a\n", "line 2: it is not a digest" },
		{ HEADER NULLS "  99999999999999999999  /a\n", "line 2: it is not a digest" },
		{ HEADER NULLS "  1  a\n", "line 2: it is not a digest" },
		{ HEADER NULLS "  1  \n", "line 2: it is not a digest" },
		{ HEADER "g000000000000000000000000000000000000000000000000000000000000000  1  /a\n",
		  "line 2: it is not a digest" },
		{ HEADER "x" NULLS "  1  /a\n", "line 2: it is not a digest" },
		{ HEADER "\\" NULLS "  1  /a\\x\n", "line 2: it is not a digest" },
		{ HEADER "\\" NULLS "  1  /a\\\n", "line 2: it is not a digest" },
		{ HEADER NULLS "  1  /a\n# x\n\n" NULLS "  2  /a\n", "'/a' is in it twice" },
	};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		refuse_digests(bad[i].text, strlen(bad[i].text), bad[i].words);
	refuse_digests(HEADER NULLS "  1  /a\0b\n", sizeof(HEADER NULLS "  1  /a\0b\n") - 1, "line 2: it is not a digest");
}

static void a_process_that_says_something_else_is_ended(void **state)
{
	struct err err = ERR_INIT;
	char line[PATH_MAX];

	(void)state;
	snprintf(line, sizeof(line), HEADER NULLS "  1  %s\n", in_tree("store/1.raw"));
	tree_write("digests", line, strlen(line));
	evil_deed = good_image;
	assert_int_equal(verify_with(evil_run, in_tree("digests"), &err), 0);
	expect_told(0, "1.raw", VERIFY_UNREAD, "died");
	assert_true(totals.nr[VERIFY_OK] == 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		verify_test(knows_nothing_without_a_scan),
		verify_test(finds_what_the_scan_found),
		verify_test(damage_is_not_taken_for_change),
		verify_test(what_is_not_delivered_differs),
		verify_test(gaps_and_headers_differ),
		verify_test(runs_end_with_their_layer),
		verify_test(liars_cost_their_image_only),
		verify_test(stops_whatever_the_reader_does),
		verify_test(files_that_are_not_ours_are_refused),
		verify_test(a_process_that_says_something_else_is_ended),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
