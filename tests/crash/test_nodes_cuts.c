/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include "scanner/base/file.h"
#include "tests/crash/crash.h"
#include "tests/unit/nodes_help.h"

/* The file of nodes under kills, errors and power cuts: what nodes_sync() returned for is there, whatever comes later, and no node
 * is ever a wrong one. */

#define FILE_NAME "nodes"
#define NR_TRANSACTIONS 3

struct work {
	unsigned nr_done; /* transactions that were synced */
	unsigned ends[NR_TRANSACTIONS + 1]; /* the log's length at each */
};

/* ---- what is in it ---- */

/* The first transaction is larger than the buffer, so that the first of its two writes may be lost. */
#define NR_INNER 70

static struct inner inner_in(unsigned i)
{
	return inner_of(i, 1, 128);
}

/* Its base is in the write that may be lost. */
static struct inner delta(void)
{
	struct inner i = inner_in(3);

	digest_of(1000, i.children[7]);
	digest_bytes(i.children, sizeof(i.children), i.digest);
	return i;
}

static struct leaf old_map(void)
{
	return leaf_of(100, 12, 5, 0);
}

static struct leaf new_map(void)
{
	return leaf_of(100, 12, 9, 1);
}

static int put_all_inner(struct nodes *n, struct err *err)
{
	for (unsigned i = 0; i < NR_INNER; i++) {
		struct inner inner = inner_in(i);

		if (nodes_put_inner(n, &inner, NULL, err) < 0)
			return -1;
	}
	return 0;
}

static int put_second(struct nodes *n, struct err *err)
{
	struct inner base = inner_in(3), inner = delta();
	struct leaf other = leaf_of(101, 16, 3, 0);

	return nodes_put_inner(n, &inner, base.digest, err) < 0 ? -1 : nodes_put_leaf(n, &other, err);
}

static int transaction(struct nodes *n, unsigned number, struct err *err)
{
	struct leaf old = old_map(), new = new_map();

	switch (number) {
	case 0:
		return put_all_inner(n, err) < 0 ? -1 : nodes_put_leaf(n, &old, err);
	case 1:
		return put_second(n, err);
	default:
		return nodes_replace_leaf(n, &new, err);
	}
}

static int expect(bool is, const char *what, struct err *err)
{
	return is ? 0 : err_set(err, ERR_IO, "%s", what);
}

/* What the first nr transactions put is there, and nothing is wrong. */
static int look(struct nodes *n, unsigned nr, struct err *err)
{
	struct leaf old = old_map(), new = new_map(), other = leaf_of(101, 16, 3, 0), got;
	struct inner on_another = delta();

	for (unsigned i = 0; nr > 0 && i < NR_INNER; i++) {
		struct inner inner = inner_in(i);

		if (expect(has_inner(n, &inner), "an inner node is lost", err) < 0)
			return -1;
	}
	if ((nr > 0 && expect(has_leaf(n, &old) || has_leaf(n, &new), "the leaf is lost", err) < 0) ||
	    (nr > 1 && expect(has_leaf(n, &other) && has_inner(n, &on_another), "a leaf or a delta is lost", err) < 0) ||
	    (nr > 2 && expect(has_leaf(n, &new), "the new map is lost", err) < 0))
		return -1;
	if (nodes_get_leaf(n, old.digest, 12, &got, NULL) == 0)
		return expect(same_leaf(&got, &old) || same_leaf(&got, &new), "a leaf is wrong", err);
	return 0;
}

/* ---- the work ---- */

static struct nodes *open_nodes(struct sim *s, bool writing, struct err *err)
{
	int dir = file_open(sim_root(s), "p", O_RDONLY | O_DIRECTORY, 0, err);
	uint64_t damaged;
	struct nodes *n = dir < 0 ? NULL : nodes_open(dir, FILE_NAME, NULL, NULL, writing, &damaged, err);

	if (dir >= 0)
		file_ops->close(dir);
	return n;
}

static void set_up(void *ctx, struct sim *s)
{
	(void)ctx;
	assert_int_equal(file_mkdir(sim_root(s), "p", 0700, NULL), 0);
}

static int append(void *ctx, struct sim *s, struct err *err)
{
	CLEANUP(nodes_close) struct nodes *n = open_nodes(s, true, err);
	struct work *w = ctx;
	uint64_t end;

	w->nr_done = 0;
	if (!n)
		return -1;
	for (unsigned i = 0; i < NR_TRANSACTIONS; i++) {
		if (transaction(n, i, err) < 0 || nodes_sync(n, &end, err) < 0)
			return -1;
		w->ends[++w->nr_done] = sim_log_len(s);
	}
	return 0;
}

/* The next process puts a node of its own. */
static int append_more(void *ctx, struct sim *s, struct err *err)
{
	CLEANUP(nodes_close) struct nodes *n = open_nodes(s, true, err);
	struct leaf more = leaf_of(200, 12, 2, 0);
	uint64_t end;

	(void)ctx;
	return !n || nodes_put_leaf(n, &more, err) < 0 ? -1 : nodes_sync(n, &end, err);
}

static int check(void *ctx, struct sim *s, struct crash_moment m, struct err *err)
{
	CLEANUP(nodes_close) struct nodes *n = open_nodes(s, false, err);
	struct leaf more = leaf_of(200, 12, 2, 0);

	(void)ctx;
	if (!n || (!m.lied && expect(has_leaf(n, &more), "what was appended after it is lost", err) < 0))
		return -1;
	return look(n, m.done && !m.lied ? NR_TRANSACTIONS : 0, err);
}

static struct crash_workflow workflow(struct work *w)
{
	return (struct crash_workflow){ .name = "append nodes",
					.setup = set_up,
					.run = append,
					.recover = append_more,
					.check = check,
					.ctx = w,
					.cuts = { .every_point = true },
					.cut_again = 7 };
}

static void nodes_survive_all_that_can_go_wrong(void **state)
{
	struct work work = { 0 };
	struct crash_workflow w = workflow(&work);
	struct crash_report r = assert_survives(crash_try, &w);

	(void)state;
	assert_true(r.nr_kills > 5 && r.nr_cuts > 30 && r.nr_errors > 20);
}

static void forget_a_sync(void *ctx, struct sim *s)
{
	(void)ctx;
	sim_set_fault_of(s, SIM_FDATASYNC, (struct sim_fault){ .at = 3, .how = SIM_LIE });
}

static void a_sync_that_is_forgotten_is_caught(void **state)
{
	struct work work = { 0 };
	struct crash_workflow w = workflow(&work);

	(void)state;
	w.mistake = forget_a_sync;
	assert_caught(crash_try_cuts, &w, "lost");
}

/* ---- each transaction by itself ---- */

static unsigned nr_states[NR_TRANSACTIONS + 1];

static int look_at_state(void *ctx, struct sim *s, const struct sim_cut *cut)
{
	const struct work *w = ctx;
	struct err err = ERR_INIT;
	unsigned nr = 0;

	while (nr < NR_TRANSACTIONS && cut->at >= w->ends[nr + 1])
		nr++;
	nr_states[nr]++;
	sim_use(s);
	for (int again = 0; again < 2; again++) { /* as it is, and when another process has appended to it */
		struct nodes *n = open_nodes(s, false, NULL);

		if ((!n && nr > 0) || (n && look(n, nr, &err) < 0))
			fail_msg("after %u transactions, power cut after %u (%s): %s", nr, cut->at, cut->what, err.text);
		nodes_close(n);
		assert_int_equal(append_more(NULL, s, NULL), 0);
	}
	return 0;
}

static void what_was_synced_is_there_whatever_comes_later(void **state)
{
	struct sim *s = sim_new(NULL);
	struct sim_cuts cuts = { .every_point = true };
	struct work work = { 0 };

	(void)state;
	sim_use(s);
	set_up(NULL, s);
	sim_settle(s);
	assert_int_equal(append(&work, s, NULL), 0);
	assert_int_equal(sim_states(s, &cuts, look_at_state, &work, NULL), 0);
	for (unsigned i = 0; i <= NR_TRANSACTIONS; i++)
		assert_true(nr_states[i] > 0);
	sim_use(NULL);
	sim_free(s);
}

static int ignore(void *ctx, uint64_t offset, const struct leaf *leaf, const struct inner *inner, struct err *err)
{
	(void)ctx;
	(void)offset;
	(void)leaf;
	(void)inner;
	(void)err;
	return 0;
}

static int leaf_is_there(void *ctx, struct sim *s, const struct sim_cut *cut)
{
	struct leaf leaf = leaf_of(1, 12, 1, 0);
	struct nodes *n;

	(void)ctx;
	sim_use(s);
	n = open_nodes(s, false, NULL);
	if (cut->at_end && (!n || !has_leaf(n, &leaf)))
		fail_msg("it is lost (%s)", cut->what);
	nodes_close(n);
	return 0;
}

/* A process that dies has written, but not synced: the next one finds the node there. */
static void what_a_dead_process_wrote_is_synced_before_it_is_relied_on(void **state)
{
	struct leaf leaf = leaf_of(1, 12, 1, 0);
	struct sim *s = sim_new(NULL);
	struct nodes *n;

	(void)state;
	sim_use(s);
	set_up(NULL, s);
	sim_settle(s);
	n = open_nodes(s, true, NULL);
	put_leaf(n, leaf);
	assert_int_equal(nodes_each(n, ignore, NULL, NULL), 0); /* writes what is buffered */
	nodes_close(n);
	n = open_nodes(s, true, NULL);
	put_leaf(n, leaf);
	assert_in_range(nodes_bytes(n), 1, 4095);
	sync_nodes(n);
	nodes_close(n);
	assert_int_equal(sim_states(s, NULL, leaf_is_there, NULL, NULL), 0);
	sim_use(NULL);
	sim_free(s);
}

/* ---- leaving out ---- */

static struct finder *finder;

static struct nodes *open_both(struct sim *s)
{
	static const uint8_t uuid[POOL_ID_SIZE] = { 1 };
	int p = file_open(sim_root(s), "p", O_RDONLY | O_DIRECTORY, 0, NULL),
	    f = file_open(sim_root(s), "f", O_RDONLY | O_DIRECTORY, 0, NULL);
	uint64_t damaged;
	struct nodes *n;
	bool whole;

	finder = finder_open(f, uuid, 1 << 20, true, &whole, NULL);
	assert_non_null(finder);
	n = nodes_open(p, FILE_NAME, NULL, finder, true, &damaged, NULL);
	assert_non_null(n);
	return n;
}

static void close_both(struct nodes *n)
{
	nodes_close(n);
	finder_close(finder);
}

static bool keep_from(void *ctx, uint64_t offset)
{
	return offset >= *(uint64_t *)ctx;
}

/* Leaves out the first half, dies before its n-th change, is opened again, grows, and dies before the finder knows; true when it
 * did not die any more. */
static bool leave_out(struct sim *s, unsigned kill_at)
{
	uint64_t from = 0, end;
	struct nodes *n = open_both(s);
	bool killed;
	int rc;

	for (unsigned i = 0; i < 100; i++) {
		from = i == 50 ? nodes_bytes(n) : from;
		put_leaf(n, leaf_of(i, 12, 3, 0));
		if (i == 10 && kill_at % 2) { /* it may cover less than what is kept */
			assert_int_equal(nodes_sync(n, &end, NULL), 0);
			assert_int_equal(finder_sync(finder, end, NULL), 0);
		}
	}
	assert_int_equal(nodes_sync(n, &end, NULL), 0);
	if (kill_at % 2 == 0)
		assert_int_equal(finder_sync(finder, end, NULL), 0);
	sim_settle(s);
	sim_kill_at(s, kill_at);
	rc = nodes_keep(n, file_open(sim_root(s), "p", O_RDONLY | O_DIRECTORY, 0, NULL), keep_from, &from, 50, NULL);
	killed = sim_killed(s);
	assert_true(killed || rc == 0);
	close_both(n);
	sim_restart(s);
	n = open_both(s);
	for (unsigned i = 0; nodes_bytes(n) <= end; i++)
		put_inner(n, inner_in(i));
	sync_nodes(n);
	close_both(n);
	return !killed;
}

static void what_is_kept_is_found_wherever_it_stops(void **state)
{
	unsigned nr = 0;

	(void)state;
	for (bool done = false; !done;) {
		struct sim *s = sim_new(NULL);
		struct nodes *n;

		sim_use(s);
		set_up(NULL, s);
		assert_int_equal(file_mkdir(sim_root(s), "f", 0700, NULL), 0);
		done = leave_out(s, ++nr);
		n = open_both(s);
		for (unsigned i = 50; i < 100; i++) {
			struct leaf leaf = leaf_of(i, 12, 3, 0);

			assert_true(has_leaf(n, &leaf));
		}
		close_both(n);
		sim_use(NULL);
		sim_free(s);
	}
	assert_true(nr > 5);
}

static void after_a_failed_sync_nothing_is_written(void **state)
{
	struct leaf leaf = leaf_of(1, 12, 1, 0);
	struct sim *s = sim_new(NULL);
	struct nodes *n;
	uint64_t end = 7;
	unsigned len;

	(void)state;
	sim_use(s);
	set_up(NULL, s);
	n = open_nodes(s, true, NULL);
	assert_non_null(n);
	put_leaf(n, leaf);
	sim_set_fault_of(s, SIM_FDATASYNC, (struct sim_fault){ .at = 1, .how = SIM_FAIL, .errnum = EIO });
	assert_int_equal(nodes_sync(n, &end, NULL), -1);
	len = sim_log_len(s);
	assert_int_equal(nodes_sync(n, &end, NULL), -1);
	leaf = leaf_of(2, 12, 1, 0);
	assert_int_equal(nodes_put_leaf(n, &leaf, NULL), -1);
	assert_int_equal(end, 7);
	assert_int_equal(sim_log_len(s), len);
	nodes_close(n);
	sim_use(NULL);
	sim_free(s);
}

static void a_full_disk_may_have_room_again(void **state)
{
	struct leaf leaf = leaf_of(1, 12, 1, 0);
	struct sim *s = sim_new(NULL);
	struct err err = ERR_INIT;
	struct nodes *n;
	uint64_t end;

	(void)state;
	sim_use(s);
	set_up(NULL, s);
	n = open_nodes(s, true, NULL);
	put_leaf(n, leaf);
	sim_set_fault_of(s, SIM_WRITE, (struct sim_fault){ .at = 1, .how = SIM_FAIL, .errnum = ENOSPC });
	assert_int_equal(nodes_sync(n, &end, &err), -1);
	assert_int_equal(err.kind, ERR_FULL);
	assert_true(has_leaf(n, &leaf));
	sync_nodes(n);
	nodes_close(n);
	n = open_nodes(s, false, NULL);
	assert_true(has_leaf(n, &leaf));
	nodes_close(n);
	sim_use(NULL);
	sim_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nodes_survive_all_that_can_go_wrong),
		cmocka_unit_test(a_sync_that_is_forgotten_is_caught),
		cmocka_unit_test(what_was_synced_is_there_whatever_comes_later),
		cmocka_unit_test(what_a_dead_process_wrote_is_synced_before_it_is_relied_on),
		cmocka_unit_test(what_is_kept_is_found_wherever_it_stops),
		cmocka_unit_test(after_a_failed_sync_nothing_is_written),
		cmocka_unit_test(a_full_disk_may_have_room_again),
	};

	if (digest_prepare(NULL) < 0)
		return 0;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
