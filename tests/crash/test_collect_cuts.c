/* SPDX-License-Identifier: Apache-2.0 */
/* timeout: 900 */
#include "tests/unit/pool_help.h"

#include <malloc.h>

#include "compactor/collect.h"
#include "compactor/pool/pool_check.h"
#include "tests/crash/crash.h"

/* Collection and repair under kills, errors and power cuts: what a name keeps reads the same afterwards, and a collection that
 * comes later ends well.  And under guests that open a stub at any moment. */

/* kept by names; a view's that nobody names, in use or not; dying since before; dead. */
static struct disk kept = { .size = SEGMENT_SIZE, .pieces = { { 0, 64 * KIB, 1 }, { 256 * KIB, 64 * KIB, 2 } } };
static struct disk version = { .size = SEGMENT_SIZE, .pieces = { { 0, 64 * KIB, 1 }, { 512 * KIB, 64 * KIB, 3 } } };
static struct disk unnamed = { .size = SEGMENT_SIZE, .pieces = { { 0, 64 * KIB, 4 }, { 256 * KIB, 64 * KIB, 2 } } };
static struct disk dying = { .size = SEGMENT_SIZE, .pieces = { { 4096, 64 * KIB, 5 } } };
static struct disk dead = { .size = SEGMENT_SIZE, .pieces = { { 4096, 64 * KIB, 6 } } };
/* Their clusters lie in a stretch that is mostly dead, between others that live. */
static struct disk bulk = { .size = SEGMENT_SIZE, .pieces = { { 4096, 700 * KIB, 7 } } };
static struct disk scattered[2] = { { .size = SEGMENT_SIZE, .pieces = { { 0, 12 * KIB, 8 } } },
				    { .size = SEGMENT_SIZE, .pieces = { { 0, 8 * KIB, 9 } } } };
static struct disk between = { .size = SEGMENT_SIZE, .pieces = { { 0, 4 * KIB, 10 } } };
/* Versions of a disk of two segments, whose roots are deltas, one of the other; the last is kept. */
static struct disk two[3] = { { .size = 2 * SEGMENT_SIZE, .pieces = { { 0, 8 * KIB, 11 }, { SEGMENT_SIZE, 8 * KIB, 12 } } },
			      { .size = 2 * SEGMENT_SIZE, .pieces = { { 0, 8 * KIB, 11 }, { SEGMENT_SIZE, 8 * KIB, 13 } } },
			      { .size = 2 * SEGMENT_SIZE, .pieces = { { 0, 8 * KIB, 14 }, { SEGMENT_SIZE, 8 * KIB, 13 } } } };
static struct view kept_view, unnamed_view, dying_view;

static const uint8_t sealed_ids[2][POOL_ID_SIZE] = { { 0xa }, { 0xb } };

static int use_pool(struct sim *s, bool writing, struct err *err)
{
	pool_dirfd = sim_root(s);
	pool_path = "/pool";
	return pool_open(pool_dirfd, "pool", pool_path, writing, &pool, err) < 0 || !pool ? -1 : 0;
}

static void seal(const uint8_t id[POOL_ID_SIZE])
{
	const struct overlay_options o = { 0 };
	char name[POOL_FILE_NAME_ROOM];
	struct slice s;
	int fd = file_open(pool->dirs[POOL_SEALED], pool_id_file_name(id, name), O_RDWR | O_CREAT, 0600, NULL);

	assert_int_equal(view_backing(pool, &kept_view, &s, NULL), 0);
	assert_int_equal(overlay_write(fd, kept.size, &s, &o, NULL), 0);
	file_close(fd, name, NULL);
}

static struct collected collected;

static int collect_once(struct err *err)
{
	const struct collect_options o = { .memory = MIB };

	return pool_collect(pool, &o, &collected, err);
}

static void set_up(void *ctx, struct sim *s)
{
	struct err err = ERR_INIT;
	uint64_t names[2], of_two[3];

	(void)ctx;
	assert_int_equal(pool_create(sim_root(s), "pool", &err), 0);
	assert_int_equal(use_pool(s, true, &err), 0);
	import(&bulk);
	import(&scattered[0]);
	import(&between);
	import(&scattered[1]);
	import(&dead);
	import(&kept);
	import(&dying);
	import(&version);
	kept_view = view_of(&kept);
	member_of("kept", &kept, &kept_view);
	version_of("version", &version);
	for (int i = 0; i < 2; i++)
		names[i] = version_of("scattered", &scattered[i]);
	version_of("between", &between);
	for (int i = 0; i < 3; i++) {
		import_on(&two[i], i ? &two[i - 1] : NULL);
		of_two[i] = version_of("two", &two[i]);
	}
	dying_view = view_of(&dying);
	seal(sealed_ids[0]);
	if (collect_once(&err) < 0)
		fail_msg("%s", err.text);
	for (int i = 0; i < 2; i++) {
		forget(names[i]);
		forget(of_two[i]);
	}
	import(&dead);
	import(&unnamed);
	unnamed_view = view_of(&unnamed);
	seal(sealed_ids[1]);
	close_pool();
}

static int collect(void *ctx, struct sim *s, struct err *err)
{
	int rc;

	(void)ctx;
	rc = use_pool(s, true, err) < 0 ? -1 : collect_once(err);
	close_pool();
	return rc;
}

/* The same as compare_disk() for disks of one segment, without digests: it is called for each of thousands of states. */
static int compare(const struct disk *d, struct err *err)
{
	CLEANUP(tree_walk_free) struct tree_walk *w = tree_walk_new(pool->nodes, d->root, d->size, err);
	static uint8_t is[SEGMENT_SIZE], should[3][SEGMENT_SIZE];
	uint8_t digest[DIGEST_SIZE], *bytes = should[d == &version ? 1 : d == &between ? 2 : 0];
	uint64_t segment;
	struct leaf leaf;

	if (!w || tree_walk_next(w, 0, &segment, digest, err) < 0)
		return -1;
	if (nodes_find_leaf(pool->nodes, digest, POOL_UNIT_BITS_MIN, &leaf, err) <= 0)
		return err_set(err, ERR_FORMAT, "a leaf is missing");
	if (tree_read_leaf(pool->clusters, &leaf, is, err) < 0)
		return -1;
	if (!bytes[0])
		render(d, 0, bytes);
	return memcmp(is, bytes, SEGMENT_SIZE) == 0 ? 0 : err_set(err, ERR_FORMAT, "other bytes");
}

static int expect_two(struct err *err)
{
	CLEANUP(tree_walk_free) struct tree_walk *w = tree_walk_new(pool->nodes, two[2].root, two[2].size, err);
	static uint8_t is[SEGMENT_SIZE], should[2][SEGMENT_SIZE];
	uint8_t digest[DIGEST_SIZE];
	struct leaf leaf;

	for (uint64_t i = 0, at = 0; i < 2; i++, at++) {
		if (!w || tree_walk_next(w, i, &at, digest, err) <= 0 || at != i)
			return -1;
		if (nodes_get_leaf(pool->nodes, digest, POOL_UNIT_BITS_MIN, &leaf, err) < 0 ||
		    tree_read_leaf(pool->clusters, &leaf, is, err) < 0)
			return -1;
		if (!should[i][0])
			render(&two[2], i, should[i]);
		if (memcmp(is, should[i], SEGMENT_SIZE) != 0)
			return err_set(err, ERR_FORMAT, "other bytes");
	}
	return 0;
}

static int expect_kept(struct err *err)
{
	if (expect_two(err) < 0)
		return err_add(err, "a disk whose nodes are deltas cannot be read");
	if (compare(&kept, err) < 0 || compare(&version, err) < 0 || compare(&between, err) < 0)
		return err_add(err, "what is kept cannot be read");
	return view_check(pool, &kept_view, err) < 0 || view_check_stub(pool, &kept_view, POOL_VIEWS, err) < 0 ?
		       err_add(err, "the view that is kept is damaged") : 0;
}

static unsigned nr_repaired;

/* A header that was half written is not taken for nothing: repair clears it away. */
static int collect_or_repair(struct err *err)
{
	const struct pool_repair_options o = { .dry_run = false };
	struct err why = ERR_INIT;
	uint64_t repaired, left;

	if (collect_once(&why) == 0)
		return 0;
	if (why.kind != ERR_FORMAT || !strstr(why.text, "header in slot"))
		return err_set(err, why.kind, "%s", why.text);
	nr_repaired++;
	if (pool_repair(pool, &o, &repaired, &left, err) < 0)
		return -1;
	return left ? err_set(err, ERR_FORMAT, "%d are left after a repair of: %s", (int)left, why.text) : collect_once(err);
}

/* What is kept is there at once.  Then until nothing more changes. */
static int go_on(void *ctx, struct sim *s, struct err *err)
{
	struct err why = ERR_INIT;
	int rc;

	(void)ctx;
	rc = use_pool(s, false, err) < 0 ? -1 : expect_kept(err);
	close_pool();
	for (int i = 0; i < 3 && rc == 0; i++) {
		rc = use_pool(s, true, err) < 0 ? -1 : collect_or_repair(&why);
		close_pool();
		if (rc < 0 && i == 0 && strstr(why.text, "built anew when")) /* the index was damaged */
			rc = 0;
		else if (rc < 0)
			err_set(err, why.kind, "%s", why.text);
	}
	return rc;
}

/* Whatever was lifted for a moment is so again. */
static int expect_immutable(struct err *err)
{
	struct immutable_state is;

	if (immutable_look(pool, &is, err) < 0)
		return -1;
	return is.why ? err_set(err, ERR_FORMAT, "%d of %d files are immutable: %s", (int)is.nr_immutable, (int)is.nr_files, is.why)
		      : 0;
}

static int check(void *ctx, struct sim *s, struct crash_moment m, struct err *err)
{
	uint64_t nodes;
	int rc;

	(void)ctx;
	(void)m;
	rc = use_pool(s, true, err) < 0 || expect_immutable(err) < 0 ? -1 : expect_kept(err);
	if (rc == 0 && (is_in(POOL_TRASH, unnamed_view.id) || is_in(POOL_TRASH, dying_view.id) || is_in(POOL_TRASH, sealed_ids[0])))
		rc = err_set(err, ERR_FORMAT, "something is dying for ever");
	nodes = rc == 0 ? nodes_bytes(pool->nodes) : 0;
	if (rc == 0 && collect_once(err) < 0)
		rc = -1;
	if (rc == 0 && nodes_bytes(pool->nodes) != nodes)
		rc = err_set(err, ERR_FORMAT, "another collection finds more");
	if (rc == 0 && (collected.freed || collected.small > 64 * KIB))
		rc = err_set(err, ERR_FORMAT, "%d bytes were left to free, %d stay", (int)collected.freed, (int)collected.small);
	close_pool();
	return rc;
}

static bool is_of_pool(void *ctx, const char *path, const struct stat *st)
{
	(void)ctx;
	(void)st;
	return !(strstr(path, ".tmp") && !strstr(path, "quarantine")) && !strstr(path, "nodes.new");
}

static struct crash_workflow collecting(void)
{
	return (struct crash_workflow){
		.name = "collect",
		.setup = set_up,
		.run = collect,
		.recover = go_on,
		.check = check,
		.belongs = is_of_pool,
		.root = "/pool",
		.nested = getenv("LONG") ? 7 : 997,
		.cut_again = getenv("LONG") ? 7 : 0,
		.cuts.pairs_max = getenv("LONG") ? 100 : 2,
	};
}

/* Kills, cuts, and errors if there are to be `more`. */
static void try_all(const struct crash_workflow *w, bool more)
{
	assert_survives(crash_try_kills, w);
	if (CRASH_THOROUGH)
		assert_survives(crash_try_cuts, w);
	if (CRASH_THOROUGH && (more || getenv("LONG")))
		assert_survives(crash_try_errors, w);
}

static void what_is_kept_survives_a_collection_that_is_cut_short(void **state)
{
	struct crash_workflow w = collecting();

	(void)state;
	try_all(&w, true);
}

/* ---- mistakes ---- */

static void rename_first(void *ctx, struct sim *s)
{
	unsigned from = sim_log_find(s, "rename /pool/trees/nodes.new", 0),
		 to = sim_log_find(s, "datasync /pool/trees/nodes.new", 0);

	(void)ctx;
	assert_true(from != UINT_MAX && to < from);
	sim_log_move(s, from, to);
}

static void nodes_that_are_not_synced_before_they_count_are_caught(void **state)
{
	struct crash_workflow w = collecting();

	(void)state;
	w.mistake_in_log = rename_first;
	assert_caught(crash_try_cuts, &w, "cannot be read");
}

/* ---- guests that come at any moment (D11) ---- */

static int guest; /* its descriptor of a stub, -1 = it found none */
static const struct view *wanted;

static void let_in(void *ctx, struct sim *s, int fd)
{
	(void)ctx;
	(void)s;
	guest = fd;
}

/* A stub, then the cluster file: an overlay that the pool does not know stands on it. */
static void come(void *ctx, struct sim *s)
{
	char path[100], name[POOL_FILE_NAME_ROOM];

	(void)ctx;
	snprintf(path, sizeof(path), "/pool/views/%s", pool_id_file_name(wanted->id, name));
	sim_visit(s, path, O_RDONLY, let_in, NULL);
}

/* Guest bytes, as the view's own tables lead to them. */
static int read_map(void *ctx, uint64_t segment, struct leaf *map, struct err *err)
{
	uint8_t *is = malloc(SEGMENT_SIZE), *should = malloc(SEGMENT_SIZE);

	assert_int_equal(tree_read_leaf(pool->clusters, map, is, err), 0);
	render(ctx, segment, should);
	assert_memory_equal(is, should, SEGMENT_SIZE);
	free(is);
	free(should);
	return 0;
}

static unsigned one_guest(unsigned at, const struct view *v, struct disk *d)
{
	struct sim *s = sim_new(NULL);
	struct err err = ERR_INIT;
	unsigned nr;

	sim_use(s);
	set_up(NULL, s);
	sim_settle(s);
	sim_restart(s);
	wanted = v;
	guest = -1;
	sim_before(s, at, come, NULL);
	if (collect(NULL, s, &err) < 0)
		fail_msg("a guest before call %u: %s", at, err.text);
	nr = sim_nr_calls(s);
	for (int i = 0; i < 2; i++)
		if (collect(NULL, s, &err) < 0)
			fail_msg("a guest before call %u: %s", at, err.text);
	assert_int_equal(use_pool(s, true, &err), 0);
	if (guest >= 0) {
		bool outside = sim_outside(s, true);

		expect_view(v);
		assert_int_equal(view_each_map(pool, v, read_map, d, NULL), 0);
		file_ops->close(guest);
		sim_outside(s, outside);
	} else {
		assert_false(is_in(POOL_VIEWS, v->id));
	}
	if (expect_kept(&err) < 0)
		fail_msg("%s", err.text);
	close_pool();
	sim_use(NULL);
	sim_free(s);
	return nr;
}

static void a_guest_that_got_hold_of_a_view_keeps_it(void **state)
{
	unsigned nr_calls = 1, nr_got = 0, nr_late = 0;

	(void)state;
	for (unsigned at = 1; at <= nr_calls; at += !CRASH_THOROUGH ? 9 : getenv("LONG") ? 1 : 3) {
		nr_calls = one_guest(at, &unnamed_view, &unnamed);
		nr_got += guest >= 0;
		nr_late += guest < 0;
	}
	print_message("%u calls: %u got it, %u came too late\n", nr_calls, nr_got, nr_late);
	assert_true(nr_got > 20 && nr_late > 10);
}

/* ---- repair (C6) ---- */

static void flip_in_file(struct sim *s, const char *path, uint64_t at)
{
	int fd = file_open(sim_root(s), path, O_RDONLY, 0, NULL);
	uint8_t byte;

	assert_true(fd >= 0 && immutable_lift(fd, NULL) >= 0);
	file_close(fd, path, NULL);
	fd = file_open(sim_root(s), path, O_RDWR, 0, NULL);
	assert_true(fd >= 0);
	assert_int_equal(file_read(fd, &byte, 1, at, NULL), 0);
	byte ^= 4;
	assert_int_equal(file_write(fd, &byte, 1, at, NULL), 0);
	file_close(fd, path, NULL);
}

/* A node that a view's tables can make again; a table of another view; a stub; a header; keys of blocks. */
static void set_up_damage(void *ctx, struct sim *s)
{
	char name[POOL_FILE_NAME_ROOM], path[100], clusters[100];
	struct view other;
	struct err err = ERR_INIT;

	set_up(ctx, s);
	assert_int_equal(use_pool(s, true, &err), 0);
	other = view_of(&version);
	member_of("other", &version, &other);
	snprintf(clusters, sizeof(clusters), "pool/%s", pool_id_file_name(pool->uuid, name));
	snprintf(path, sizeof(path), "pool/views/%s", pool_id_file_name(kept_view.id, name));
	assert_int_equal(file_unlink(pool->dirs[POOL_INDEX], "finder", NULL), 0);
	close_pool();
	flip_in_file(s, path, 60);
	flip_in_file(s, clusters, other.slot * POOL_SLOT_SIZE + other.slice_size - 2 * BLOCK_SIZE + 5); /* the L1 table */
	flip_in_file(s, clusters, unnamed_view.slot * POOL_SLOT_SIZE + 50);
}

static int repair(void *ctx, struct sim *s, struct err *err)
{
	const struct pool_repair_options o = { .dry_run = false };
	uint64_t repaired, left = 0;
	int rc;

	(void)ctx;
	rc = use_pool(s, true, err) < 0 ? -1 : pool_repair(pool, &o, &repaired, &left, err);
	if (rc == 0 && left)
		rc = err_set(err, ERR_FORMAT, "%d damages are left", (int)left);
	close_pool();
	return rc;
}

static int no_damage(void *ctx, const struct pool_damage *d, struct err *err)
{
	(void)ctx;
	return err_set(err, ERR_FORMAT, "still damaged: %s: %s", pool_part_names[d->part], d->what.text);
}

static int repair_and_collect(void *ctx, struct sim *s, struct err *err)
{
	struct err why = ERR_INIT;
	int rc = repair(ctx, s, &why);

	/* The index may have been written wrong: it says so once. */
	if (rc < 0 && strstr(why.text, "built anew when the pool is opened again")) {
		why = (struct err)ERR_INIT;
		rc = repair(ctx, s, &why);
	}
	if (rc < 0)
		return err_set(err, why.kind, "%s", why.text);
	rc = use_pool(s, true, err);
	for (int i = 0; i < 3 && rc == 0; i++)
		rc = collect_once(err);
	close_pool();
	return rc;
}

static int check_repaired(void *ctx, struct sim *s, struct crash_moment m, struct err *err)
{
	const struct pool_check_options o = { .read_data = true, .percent = 100, .damage = no_damage };
	struct pool_checked c;
	int rc;

	(void)ctx;
	(void)m;
	rc = use_pool(s, false, err) < 0 || expect_immutable(err) < 0 || compare_disk(&kept, false, err) < 0 ||
	     compare_disk(&version, false, err) < 0 ? -1 : pool_check(pool, &o, &c, err);
	if (rc == 0 && c.nr_views != 2)
		rc = err_set(err, ERR_FORMAT, "%d views are there", (int)c.nr_views);
	close_pool();
	return rc;
}

static void a_repair_that_is_cut_short_can_be_repeated(void **state)
{
	struct crash_workflow w = collecting();

	(void)state;
	if (!CRASH_THOROUGH) {
		print_message("it takes sanitizers minutes, and they see repairs in unit/pool_damage\n");
		skip();
	}
	w.name = "repair";
	w.setup = set_up_damage;
	w.run = repair;
	w.recover = repair_and_collect;
	w.check = check_repaired;
	if (getenv("LONG"))
		w.nested = 23; /* to recover is a repair and three collections */
	try_all(&w, false);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_kept_survives_a_collection_that_is_cut_short),
		cmocka_unit_test(nodes_that_are_not_synced_before_they_count_are_caught),
		cmocka_unit_test(a_guest_that_got_hold_of_a_view_keeps_it),
		cmocka_unit_test(a_repair_that_is_cut_short_can_be_repeated),
	};

	if (digest_prepare(NULL) < 0)
		return 0;
	mallopt(M_MMAP_THRESHOLD, 1 << 28); /* buffers come and go for each state */
	mallopt(M_TRIM_THRESHOLD, 1 << 28);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
