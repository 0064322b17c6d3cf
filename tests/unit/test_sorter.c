/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/index_help.h"
#include "tests/unit/sanitized.h"

#include <errno.h>
#include <sys/wait.h>
#include <time.h>

#define SMALLEST (64 * KIB)

/* ---- kinds of keys ---- */

static struct key key_anything(void)
{
	return (struct key){ random_u64(), random_u64() };
}

static struct key key_of_few(void)
{
	return (struct key){ random_below(3) << 62, random_below(4) };
}

static struct key key_with_a_long_common_start(void)
{
	return (struct key){ 0x1234567890abcdef, 0xfedc000000000000 | random_below(1 << 20) };
}

static struct key key_across_the_words(void)
{
	return (struct key){ random_below(4), random_below(4) << 62 };
}

static struct key key_hot(void)
{
	return random_below(10) ? (struct key){ 42, 42 } : random_key();
}

static struct key key_lowest_or_highest(void)
{
	return random_below(2) ? (struct key){ 0, 0 } : (struct key){ UINT64_MAX, UINT64_MAX };
}

static struct key (*const kinds[])(void) = {
	key_anything, key_of_few, key_with_a_long_common_start, key_across_the_words, key_hot, key_lowest_or_highest,
};

/* Values count up, so that sorting by key and value is what a stable sort gives. */
static struct record *records_new(size_t nr, struct key (*kind)(void))
{
	struct record *r = calloc(nr + 1, sizeof(*r));

	assert_non_null(r);
	for (size_t i = 0; i < nr; i++)
		r[i] = (struct record){ kind(), i };
	return r;
}

static void sorter_put(struct sorter *s, const struct record *r, size_t nr)
{
	struct err err = ERR_INIT;
	size_t room;

	for (size_t done = 0, take; done < nr; done += take) {
		struct record *to = sorter_room(s, nr - done, &room, &err);

		assert_non_null(to);
		assert_in_range(room, 1, nr - done);
		take = 1 + random_below(room);
		memcpy(to, r + done, take * sizeof(*r));
		sorter_commit(s, take);
	}
	assert_int_equal(sorter_finish(s, &err), 0);
}

static void sorter_expect(struct sorter *s, const struct record *want, size_t nr)
{
	struct err err = ERR_INIT;
	const struct record *r;
	ssize_t got;
	size_t done = 0;

	for (; (got = sorter_next(s, &r, &err)) > 0; done += (size_t)got) {
		assert_in_range(got, 1, nr - done);
		assert_memory_equal(r, want + done, (size_t)got * sizeof(*r));
	}
	assert_int_equal(got, 0);
	assert_int_equal(done, nr);
	assert_int_equal(sorter_next(s, &r, &err), 0);
}

/* Sorts nr records of a kind within `memory`; returns the bytes that were spilled. */
static uint64_t sort_and_compare(size_t memory, size_t nr, struct key (*kind)(void))
{
	struct sorter *s = sorter_new(memory, scratch, NULL);
	struct record *r = records_new(nr, kind);
	uint64_t spilled;

	assert_non_null(s);
	sorter_put(s, r, nr);
	qsort(r, nr, sizeof(*r), record_cmp);
	sorter_expect(s, r, nr);
	spilled = sorter_spilled(s);
	sorter_free(s);
	free(r);
	return spilled;
}

/* ---- tests ---- */

static void sorts_like_qsort_in_memory(void **state)
{
	const size_t sizes[] = { 0, 1, 2, 3, 23, 24, 25, 26, 100, 1000, 5000, 40000 };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		for (size_t k = 0; k < ARRAY_SIZE(kinds); k++)
			assert_int_equal(sort_and_compare(4 * MIB, sizes[i], kinds[k]), 0);
	}
}

static void sorts_like_qsort_when_it_spills(void **state)
{
	const size_t room = SMALLEST / 2 / sizeof(struct record);
	const size_t sizes[] = { room + 1, 2 * room, 2 * room + 1, 7 * room + 5, 13 * room };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		for (size_t k = 0; k < ARRAY_SIZE(kinds); k++)
			assert_int_equal(sort_and_compare(SMALLEST, sizes[i], kinds[k]),
					 sizes[i] * sizeof(struct record));
	}
}

static void touches_no_disk_when_memory_is_just_enough(void **state)
{
	const size_t room = SMALLEST / 2 / sizeof(struct record);

	(void)state;
	assert_int_equal(sort_and_compare(SMALLEST, room, key_anything), 0);
	assert_int_not_equal(sort_and_compare(SMALLEST, room + 1, key_anything), 0);
}

static void merges_in_several_passes_when_runs_are_many(void **state)
{
	const size_t room = SMALLEST / 2 / sizeof(struct record);

	(void)state;
	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++)
		assert_true(sort_and_compare(SMALLEST, 50 * room + 3, kinds[k]) >
			    50 * room * sizeof(struct record) * 3 / 2);
	assert_true(sort_and_compare(SMALLEST, 300 * room, key_anything) > 300 * room * sizeof(struct record) * 5 / 2);
}

static void merges_200_runs_in_one_pass(void **state)
{
	const size_t nr = 200 * (MIB / 2 / sizeof(struct record));
	struct sorter *s = sorter_new(MIB, scratch, NULL);
	struct record *r = records_new(nr, key_anything);
	struct key last = { 0, 0 };
	const struct record *batch;
	ssize_t got;

	(void)state;
	sorter_put(s, r, nr);
	free(r);
	while ((got = sorter_next(s, &batch, NULL)) > 0) {
		for (ssize_t i = 0; i < got; i++) {
			assert_true(key_cmp(last, batch[i].key) <= 0);
			last = batch[i].key;
		}
	}
	assert_int_equal(sorter_spilled(s), nr * sizeof(struct record));
	sorter_free(s);
}

static void gives_all_in_one_batch_from_memory(void **state)
{
	struct sorter *s = sorter_new(16 * MIB, scratch, NULL);
	struct record *r = records_new(300000, key_anything);
	const struct record *batch;

	(void)state;
	sorter_put(s, r, 300000);
	assert_int_equal(sorter_next(s, &batch, NULL), 300000);
	assert_int_equal(sorter_next(s, &batch, NULL), 0);
	sorter_free(s);
	free(r);
}

/* Quadratic time would be hours. */
static void a_hot_key_costs_linear_time(void **state)
{
	const size_t nr = 3000000;
	struct record *r = records_new(nr, key_hot), *scratch_records = records_new(nr, key_hot);
	clock_t start = clock();

	(void)state;
	record_sort(r, scratch_records, nr);
	assert_true((double)(clock() - start) / CLOCKS_PER_SEC < 10);
	for (size_t i = 1; i < nr; i++)
		assert_true(record_cmp(&r[i - 1], &r[i]) < 0);
	free(r);
	free(scratch_records);
}

static void can_be_used_again_after_reset(void **state)
{
	const size_t sizes[] = { 5000, 10, 4000, 0, 100, 7 };
	struct sorter *s = sorter_new(SMALLEST, scratch, NULL);

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct record *r = records_new(sizes[i], key_anything);

		sorter_put(s, r, sizes[i]);
		if (i != 2) { /* which is not read */
			qsort(r, sizes[i], sizeof(*r), record_cmp);
			sorter_expect(s, r, sizes[i]);
		}
		sorter_reset(s);
		free(r);
	}
	sorter_free(s);
}

static void leaves_no_file_behind(void **state)
{
	struct sorter *s = sorter_new(SMALLEST, scratch, NULL);
	struct record *r = records_new(5000, key_anything);

	(void)state;
	sorter_put(s, r, 5000);
	assert_int_not_equal(sorter_spilled(s), 0);
	assert_int_equal(scratch_empty(), 0);
	sorter_free(s);
	free(r);
}

/* A name that an earlier process with our number left is passed over. */
static int occupied_left;

static int openat_occupied(int dirfd, const char *name, int flags, mode_t mode)
{
	if (!occupied_left)
		return file_ops_os.openat(dirfd, name, flags, mode);
	occupied_left--;
	errno = EEXIST;
	return -1;
}

static void passes_over_names_in_use(void **state)
{
	struct file_ops ops = file_ops_os;

	(void)state;
	ops.openat = openat_occupied;
	file_ops = &ops;
	occupied_left = 5;
	sort_and_compare(SMALLEST, 3000, key_anything);
	assert_int_equal(occupied_left, 0);
}

static ssize_t pwrite_full(int fd, const void *buf, size_t len, off_t offset)
{
	if (offset < 100000)
		return file_ops_os.pwrite(fd, buf, len, offset);
	errno = ENOSPC;
	return -1;
}

static void tells_when_the_disk_is_full(void **state)
{
	struct sorter *s = sorter_new(SMALLEST, scratch, NULL);
	struct file_ops ops = file_ops_os;
	struct err err = ERR_INIT;
	struct record *r;
	size_t room, nr = 0;

	(void)state;
	ops.pwrite = pwrite_full;
	file_ops = &ops;
	for (; nr < 100000 && (r = sorter_room(s, 1000, &room, &err)); nr += room) {
		memset(r, 0, room * sizeof(*r));
		sorter_commit(s, room);
	}
	assert_in_range(nr, 1, 99999);
	assert_int_equal(err.kind, ERR_FULL);
	sorter_free(s);
}

static ssize_t pread_bad(int fd, void *buf, size_t len, off_t offset)
{
	if (offset < 100000)
		return file_ops_os.pread(fd, buf, len, offset);
	errno = EIO;
	return -1;
}

static void tells_when_a_run_cannot_be_read_back(void **state)
{
	struct sorter *s = sorter_new(SMALLEST, scratch, NULL);
	struct record *r = records_new(4 * SMALLEST / sizeof(*r), key_anything);
	struct file_ops ops = file_ops_os;
	struct err err = ERR_INIT;
	const struct record *batch;
	ssize_t got = 1;

	(void)state;
	sorter_put(s, r, 4 * SMALLEST / sizeof(*r));
	ops.pread = pread_bad;
	file_ops = &ops;
	while (got > 0)
		got = sorter_next(s, &batch, &err);
	assert_int_equal(got, -1);
	assert_int_equal(err.kind, ERR_IO);
	sorter_free(s);
	free(r);
}

static void refuses_too_little_memory(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	assert_null(sorter_new(SMALLEST - 1, scratch, &err));
	assert_int_equal(err.kind, ERR_MEMORY);
}

static long resident_peak_kib(void)
{
	char line[128];
	long kib = 0;
	FILE *f = fopen("/proc/self/status", "r");

	while (f && fgets(line, sizeof(line), f) && sscanf(line, "VmHWM: %ld", &kib) != 1)
		;
	if (f)
		fclose(f);
	return kib;
}

static bool memory_means_nothing(void)
{
	const char *preload = getenv("LD_PRELOAD");

	return SANITIZED || (preload && strstr(preload, "vgpreload"));
}

/* In a process of its own: returns by how many KiB its memory grew. */
static long growth_in_child(size_t memory, size_t nr)
{
	struct sorter *s = sorter_new(memory, scratch, NULL);
	long before = resident_peak_kib();
	const struct record *batch;
	struct record *r;
	size_t room;

	for (size_t done = 0; s && done < nr; done += room) {
		r = sorter_room(s, min_u64(nr - done, 1000), &room, NULL);
		if (!r)
			return -1;
		for (size_t i = 0; i < room; i++)
			r[i] = (struct record){ random_key(), done + i };
		sorter_commit(s, room);
	}
	if (!s || sorter_finish(s, NULL) < 0)
		return -1;
	while (sorter_next(s, &batch, NULL) > 0)
		;
	return resident_peak_kib() - before;
}

static void stays_within_its_memory(void **state)
{
	const size_t memory = 8 * MIB, slack = 512 * KIB, sizes[] = { 160000, 2000000 };

	(void)state;
	if (memory_means_nothing()) {
		print_message("the memory of a sanitizer or of valgrind is not the sorter's\n");
		skip();
	}
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		int status;
		pid_t pid = fork();

		if (pid == 0) {
			long grown = growth_in_child(memory, sizes[i]);

			_exit(grown < 0 ? 254 : (int)min_u64((uint64_t)grown / 64, 253));
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFEXITED(status));
		assert_in_range(WEXITSTATUS(status), memory / 2 / KIB / 64, (memory + slack) / KIB / 64);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		index_test(sorts_like_qsort_in_memory),
		index_test(sorts_like_qsort_when_it_spills),
		index_test(touches_no_disk_when_memory_is_just_enough),
		index_test(merges_in_several_passes_when_runs_are_many),
		index_test(merges_200_runs_in_one_pass),
		index_test(gives_all_in_one_batch_from_memory),
		index_test(a_hot_key_costs_linear_time),
		index_test(can_be_used_again_after_reset),
		index_test(leaves_no_file_behind),
		index_test(passes_over_names_in_use),
		index_test(tells_when_the_disk_is_full),
		index_test(tells_when_a_run_cannot_be_read_back),
		index_test(refuses_too_little_memory),
		index_test(stays_within_its_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
