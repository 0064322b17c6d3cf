/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/pool_help.h"

#include "compactor/collect.h"
#include "compactor/pool/pool_check.h"
#include "tests/crash/crash.h"

/* Collection and repair under kills, errors and power cuts: what a name keeps reads the same afterwards, and a collection that comes later
 * ends well.  And under guests that open a stub at any moment. */

/* kept by names; a view's that nobody names, in use or not; dying since before; dead. */
static struct disk kept = { .size = SEGMENT_SIZE, .pieces = { { 0, 64 * KIB, 1 }, { 256 * KIB, 64 * KIB, 2 } } };
static struct disk version = { .size = SEGMENT_SIZE, .pieces = { { 0, 64 * KIB, 1 }, { 512 * KIB, 64 * KIB, 3 } } };
static struct disk unnamed = { .size = SEGMENT_SIZE, .pieces = { { 0, 64 * KIB, 4 }, { 256 * KIB, 64 * KIB, 2 } } };
static struct disk dying = { .size = SEGMENT_SIZE, .pieces = { { 4096, 64 * KIB, 5 } } };
static struct disk dead = { .size = SEGMENT_SIZE, .pieces = { { 4096, 64 * KIB, 6 } } };
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

	assert_int_equal(view_backing(pool, &kept_view, false, &s, NULL), 0);
	assert_int_equal(overlay_write(fd, kept.size, &s, &o, NULL), 0);
	file_close(fd, name, NULL);
}

static int collect_once(struct err *err)
{
	const struct collect_options o = { .memory = MIB };
	struct collected c;

	return pool_collect(pool, &o, &c, err);
}

static void set_up(void *ctx, struct sim *s)
{
	struct err err = ERR_INIT;

	(void)ctx;
	assert_int_equal(pool_create(sim_root(s), "pool", &err), 0);
	assert_int_equal(use_pool(s, true, &err), 0);
	import(&dead);
	import(&kept);
	import(&dying);
	import(&version);
	kept_view = view_of(&kept);
	member_of("kept", &kept, &kept_view);
	version_of("version", &version);
	dying_view = view_of(&dying);
	seal(sealed_ids[0]);
	if (collect_once(&err) < 0)
		fail_msg("%s", err.text);
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

static int expect_kept(struct err *err)
{
	if (compare_disk(&kept, false, err) < 0 || compare_disk(&version, false, err) < 0)
		return err_add(err, "what is kept cannot be read");
	return view_check(pool, &kept_view, err) < 0 || view_check_stub(pool, &kept_view, POOL_VIEWS, err) < 0 ?
		       err_add(err, "the view that is kept is damaged") : 0;
}

/* Until nothing more changes. */
static int go_on(void *ctx, struct sim *s, struct err *err)
{
	int rc;

	(void)ctx;
	rc = use_pool(s, true, err);
	for (int i = 0; i < 3 && rc == 0; i++)
		rc = collect_once(err);
	close_pool();
	return rc;
}

static int check(void *ctx, struct sim *s, struct crash_moment m, struct err *err)
{
	uint64_t nodes;
	int rc;

	(void)ctx;
	(void)m;
	rc = use_pool(s, true, err) < 0 ? -1 : expect_kept(err);
	if (rc == 0 && (is_in(POOL_TRASH, unnamed_view.id) || is_in(POOL_TRASH, dying_view.id) || is_in(POOL_TRASH, sealed_ids[0])))
		rc = err_set(err, ERR_FORMAT, "something is dying for ever");
	nodes = rc == 0 ? nodes_bytes(pool->nodes) : 0;
	if (rc == 0 && collect_once(err) < 0)
		rc = -1;
	if (rc == 0 && nodes_bytes(pool->nodes) != nodes)
		rc = err_set(err, ERR_FORMAT, "another collection finds more");
	close_pool();
	return rc;
}

static bool is_of_pool(void *ctx, const char *path, const struct stat *st)
{
	(void)ctx;
	(void)st;
	return !strstr(path, ".tmp") && !strstr(path, "nodes.new");
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
		.nested = getenv("LONG") ? 3 : 31,
		.cut_again = getenv("LONG") ? 3 : 61,
		.cuts.pairs_max = getenv("LONG") ? 500 : 4,
	};
}

static void report_of(const char *name, struct crash_report *r)
{
	print_message("%s: %llu calls, %llu changes; %llu kills and %llu in what followed, %llu errors, %llu cuts, %llu after errors, %llu and "
		      "%llu in what followed\n",
		      name, (unsigned long long)r->nr_calls, (unsigned long long)r->nr_changes, (unsigned long long)r->nr_kills,
		      (unsigned long long)r->nr_nested, (unsigned long long)r->nr_errors, (unsigned long long)r->nr_cuts,
		      (unsigned long long)r->nr_cuts_after_errors, (unsigned long long)r->nr_cuts_again,
		      (unsigned long long)r->nr_cuts_after_kills);
}

static void what_is_kept_survives_a_collection_that_is_cut_short(void **state)
{
	struct crash_workflow w = collecting();
	struct crash_report r;

	(void)state;
	if (crash_try(&w, &r) < 0)
		fail_msg("%.3000s", r.text);
	report_of(w.name, &r);
	crash_report_release(&r);
}

/* ---- mistakes ---- */

static const char *moved, *before;

static void move_in_log(void *ctx, struct sim *s)
{
	(void)ctx;
	sim_log_move(s, sim_log_find(s, moved, 0), sim_log_find(s, before, 0));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_kept_survives_a_collection_that_is_cut_short),
	};
	(void)move_in_log;

	if (digest_prepare(NULL) < 0)
		return 0;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
