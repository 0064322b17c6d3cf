/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include <signal.h>
#include <sys/wait.h>

#include "scanner/base/checked.h"
#include "scanner/index/checksum.h"
#include "scanner/leash.h"

static uint64_t cpu;

static uint64_t pretended_clock(pid_t pid)
{
	assert_int_equal(pid, 42);
	return cpu;
}

static int pretend(void **state)
{
	(void)state;
	cpu = 1000;
	leash_clock = pretended_clock;
	return 0;
}

static int stop_pretending(void **state)
{
	(void)state;
	leash_clock = leash_clock_real;
	return 0;
}

#define leash_test(f) cmocka_unit_test_setup_teardown(f, pretend, stop_pretending)

#define S_NS 1000000000ull

static struct spool_pending pending;
static uint8_t frame[SPOOL_FRAME_MAX];

static uint8_t *make_frame(uint64_t first, unsigned nr, unsigned stored)
{
	pending.nr_segments = nr;
	for (unsigned i = 0; i < nr; i++)
		pending.segments[i] = (struct spool_segment){ .segment = le64_from(first + i),
							      .stored = le16_from((uint16_t)stored),
							      .zero = le16_from((uint16_t)stored) };
	spool_frame_make(&pending, 0, frame);
	return frame;
}

static void the_budget_grows_with_what_files_hold_and_what_comes_of_them(void **state)
{
	struct leash l;

	(void)state;
	leash_begin(&l, 42, 0);
	assert_int_equal(leash_budget(&l), LEASH_CPU_BASE_S * S_NS);
	l.held = 80 * MIB;
	assert_int_equal(leash_budget(&l), (LEASH_CPU_BASE_S + 10) * S_NS);
	l.delivered = GIB;
	assert_int_equal(leash_budget(&l), (LEASH_CPU_BASE_S + 10 + 4) * S_NS);
	l.delivered = UINT64_MAX; /* a lie */
	assert_int_equal(leash_budget(&l), (LEASH_CPU_BASE_S + 10 + 80 * 4) * S_NS);
	l.held = UINT64_MAX;
	assert_true(leash_budget(&l) > UINT64_MAX / 2);
}

/* What a hostile file of 1 MiB may cost, whatever is told of it. */
static void a_small_file_costs_no_more_than_ten_seconds(void **state)
{
	struct leash l;

	(void)state;
	leash_begin(&l, 42, 0);
	l.held = MIB;
	l.delivered = UINT64_MAX;
	assert_true(leash_budget(&l) <= 10 * S_NS);
}

static void an_image_over_its_budget_is_refused_with_figures(void **state)
{
	struct err err = ERR_INIT;
	struct leash l;

	(void)state;
	leash_begin(&l, 42, 0);
	l.held = 16 * MIB;
	cpu += 7 * S_NS;
	assert_int_equal(leash_check(&l, &err), 0);
	cpu++;
	assert_int_equal(leash_check(&l, &err), -1);
	assert_int_equal(err.kind, ERR_REFUSED);
	assert_string_equal(err.text,
			    "reading it took 7 s of CPU for 16 MiB of file: it was stopped as hostile or broken");
	leash_begin(&l, 42, 0); /* what the last one cost is not the next one's */
	assert_int_equal(leash_check(&l, &err), 0);
	cpu = 0; /* nobody knows */
	assert_int_equal(leash_check(&l, &err), 0);
}

static void time_is_that_of_the_process_it_is_about(void **state)
{
	uint64_t begun = 0;
	pid_t child = fork();

	(void)state;
	if (child == 0)
		for (;;)
			;
	for (unsigned i = 0; i < 1000 && begun < 50000000; i++) {
		usleep(10000);
		begun = leash_clock_real(child);
	}
	assert_true(begun >= 50000000);
	kill(child, SIGSTOP);
	waitpid(child, NULL, WUNTRACED);
	begun = leash_clock_real(child);
	usleep(50000);
	assert_int_equal(leash_clock_real(child), begun);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	assert_int_equal(leash_clock_real(child), 0);
}

static void files_count_by_their_blocks(void **state)
{
	struct stat st;
	struct leash l;
	int fd;

	(void)state;
	tree_write("f", frame, sizeof(frame));
	fd = open(in_tree("f"), O_RDWR);
	assert_int_equal(fsync(fd), 0);
	assert_int_equal(ftruncate(fd, (off_t)TIB), 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_true(st.st_blocks > 0);
	leash_begin(&l, 42, 0);
	leash_add_file(&l, fd);
	assert_int_equal(l.held, st.st_blocks * 512);
	leash_add_file(&l, fd);
	assert_int_equal(l.held, 2 * st.st_blocks * 512);
	close(fd);
	leash_add_file(&l, -1);
	assert_int_equal(l.held, 2 * st.st_blocks * 512);
	/* nothing but a hole looks like a file whose blocks nobody counts */
	fd = open(in_tree("g"), O_RDWR | O_CREAT, 0600);
	assert_int_equal(ftruncate(fd, 12345), 0);
	leash_begin(&l, 42, 0);
	leash_add_file(&l, fd);
	assert_int_equal(l.held, 12345);
	close(fd);
}

static void opens_are_counted(void **state)
{
	struct err err = ERR_INIT;
	struct leash l;

	(void)state;
	leash_begin(&l, 42, 0);
	for (unsigned i = 0; i < LEASH_OPENS; i++)
		assert_int_equal(leash_take_open(&l, &err), 0);
	assert_int_equal(leash_take_open(&l, &err), -1);
	assert_int_equal(err.kind, ERR_REFUSED);
}

static void frames_go_forward_within_the_span(void **state)
{
	uint64_t span = 10 * SEGMENT_SIZE + 1; /* eleven segments */
	struct leash l;

	(void)state;
	leash_begin(&l, 42, 2 * SEGMENT_SIZE);
	assert_int_equal(leash_take_frame(&l, make_frame(1, 3, 1), span, NULL), -1);
	assert_int_equal(leash_take_frame(&l, make_frame(2, 3, 1), span, NULL), 0);
	assert_int_equal(l.delivered, 3 * BLOCK_SIZE);
	assert_int_equal(leash_take_frame(&l, make_frame(4, 1, 1), span, NULL), -1);
	assert_int_equal(leash_take_frame(&l, make_frame(8, 4, 1), span, NULL), -1);
	assert_int_equal(leash_take_frame(&l, make_frame(8, 3, 1), span, NULL), 0);
	assert_int_equal(leash_take_frame(&l, make_frame(0, 0, 0), span, NULL), 0);
	assert_int_equal(leash_take_frame(&l, make_frame(0, 0, 0), span, NULL), -1);
}

static void nothing_follows_a_frame_without_segments(void **state)
{
	struct leash l;

	(void)state;
	leash_begin(&l, 42, 0);
	assert_int_equal(leash_take_frame(&l, make_frame(0, 0, 0), GIB, NULL), 0);
	assert_int_equal(leash_take_frame(&l, make_frame(0, 1, 1), GIB, NULL), -1);
}

static void an_end_frame_is_not_the_reader_s(void **state)
{
	struct spool_frame end = { .magic = "DDSF",
				   .kind = le32_from(SPOOL_FRAME_END),
				   .checksum = le32_from(checksum32("", 0, 0)) };
	struct leash l;

	(void)state;
	leash_begin(&l, 42, 0);
	assert_int_equal(leash_take_frame(&l, (void *)&end, GIB, NULL), -1);
}

static void a_frame_with_another_sum_is_refused(void **state)
{
	struct err err = ERR_INIT;
	struct leash l;

	(void)state;
	leash_begin(&l, 42, 0);
	make_frame(0, 1, 1)[sizeof(struct spool_frame) + 8] ^= 1; /* in the digest */
	assert_int_equal(leash_take_frame(&l, frame, GIB, &err), -1);
	assert_non_null(strstr(err.text, "damaged"));
}

/* One segment a frame: as much as can be had for a block. */
static void frames_do_not_fill_the_disk(void **state)
{
	uint64_t most = LEASH_SPOOL_BASE + LEASH_SPOOL_RATIO * MIB, spooled = 0, segment = 0;
	struct err err = ERR_INIT;
	struct leash l;

	(void)state;
	leash_begin(&l, 42, 0);
	l.held = MIB;
	for (;; segment++) {
		size_t len = sizeof(struct spool_frame) +
			     le64_get(((struct spool_frame *)make_frame(segment, 1, 1))->payload_len);

		if (leash_take_frame(&l, frame, UINT64_MAX / 2, &err) < 0)
			break;
		spooled += len;
		assert_true(spooled <= most + LEASH_SPOOL_RATIO);
	}
	assert_true(spooled > most - 4096);
	assert_string_equal(err.text,
			    "more came of it than can be in 1 MiB of file: it was stopped as hostile or broken");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		leash_test(the_budget_grows_with_what_files_hold_and_what_comes_of_them),
		leash_test(a_small_file_costs_no_more_than_ten_seconds),
		leash_test(an_image_over_its_budget_is_refused_with_figures),
		cmocka_unit_test(time_is_that_of_the_process_it_is_about),
		leash_test(opens_are_counted),
		leash_test(frames_go_forward_within_the_span),
		leash_test(nothing_follows_a_frame_without_segments),
		leash_test(an_end_frame_is_not_the_reader_s),
		leash_test(a_frame_with_another_sum_is_refused),
		leash_test(frames_do_not_fill_the_disk),
		tree_test(files_count_by_their_blocks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
