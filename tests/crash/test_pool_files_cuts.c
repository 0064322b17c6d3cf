/* SPDX-License-Identifier: Apache-2.0 */
/* timeout: 900 */
#include "tests/unit/pool_help.h"

#include <malloc.h>

#include "compactor/collect.h"
#include "compactor/pool/clusters.h"
#include "compactor/pool/gather.h"
#include "compactor/pool/growth.h"
#include "compactor/pool/pool_check.h"
#include "compactor/stubs.h"
#include "tests/crash/crash.h"

/* Another cluster file, and a view of what lies in the old one; then the old one is evacuated and goes; or what is damaged in the new
 * one heals from the old one: under kills, errors and power cuts.  What names keep reads the same at every moment, in trees and by the tables of views. */

static struct disk dead = { .size = SEGMENT_SIZE, .pieces = { { 4096, 1024 * KIB, 1 } } };
static struct disk kept = { .size = SEGMENT_SIZE, .pieces = { { 0, 64 * KIB, 2 }, { 256 * KIB, 64 * KIB, 3 } } };
static struct disk version = { .size = SEGMENT_SIZE, .pieces = { { 0, 64 * KIB, 2 }, { 512 * KIB, 64 * KIB, 4 } } };
static struct disk late = { .size = SEGMENT_SIZE, .pieces = { { 4096, 64 * KIB, 5 }, { 128 * KIB, 32 * KIB, 3 } } };
static struct view kept_view;
static uint8_t first_file[POOL_ID_SIZE];

static int use_pool(struct sim *s, bool writing, struct err *err)
{
	pool_dirfd = sim_root(s);
	pool_path = "/pool";
	return pool_open(pool_dirfd, "pool", pool_path, writing, &pool, err) < 0 || !pool ? -1 : 0;
}

static unsigned evacuate_at; /* percent */

static int collect_once(struct collected *ret, struct err *err)
{
	const struct collect_options o = { .memory = MIB, .evacuate = evacuate_at };

	return pool_collect(pool, &o, ret, err);
}

static void set_up(void *ctx, struct sim *s)
{
	struct err err = ERR_INIT;

	(void)ctx;
	assert_int_equal(pool_create(sim_root(s), "pool", &err), 0);
	assert_int_equal(use_pool(s, true, &err), 0);
	import(&dead);
	import(&kept);
	import(&version);
	memcpy(first_file, pool->uuid, POOL_ID_SIZE);
	kept_view = view_of(&kept);
	member_of("kept", &kept, &kept_view);
	version_of("version", &version);
	close_pool();
}

static int import_late(struct err *err)
{
	struct import_stats stats;
	struct view v;

	return import_as(&late, POOL_UNIT_BITS_MIN, &stats, err) < 0 ||
	       view_write(pool, version.root, version.size, POOL_UNIT_BITS_MIN, &v, err) < 0 ? -1 : 0;
}

/* What was there is in the old file, and comes into the new one with the view. */
static int grow(void *ctx, struct sim *s, struct err *err)
{
	int rc;

	(void)ctx;
	rc = use_pool(s, true, err) < 0 || growth_begin(pool, err) < 0 ? -1 : import_late(err);
	close_pool();
	return rc;
}

/* Disks have one segment; no digests, for this is called for each of thousands of states. */
static int compare_map(const struct disk *d, const struct leaf *map, struct err *err)
{
	static uint8_t is[SEGMENT_SIZE], should[2][SEGMENT_SIZE];
	uint8_t *bytes = should[d == &version];

	if (tree_read_leaf(pool->clusters, map, is, err) < 0)
		return -1;
	if (!bytes[0])
		render(d, 0, bytes);
	return memcmp(is, bytes, SEGMENT_SIZE) == 0 ? 0 : err_set(err, ERR_FORMAT, "other bytes");
}

/* Its clusters by the view's own tables, as a guest reads them. */
static int read_map(void *ctx, uint64_t segment, struct leaf *map, struct err *err)
{
	return segment ? err_set(err, ERR_FORMAT, "a segment more") : compare_map(ctx, map, err);
}

static int compare(const struct disk *d, struct err *err)
{
	CLEANUP(tree_walk_free) struct tree_walk *w = tree_walk_new(pool->nodes, d->root, d->size, err);
	uint8_t digest[DIGEST_SIZE];
	struct leaf leaf;
	uint64_t segment;

	if (!w || tree_walk_next(w, 0, &segment, digest, err) < 0)
		return -1;
	if (nodes_find_leaf(pool->nodes, digest, POOL_UNIT_BITS_MIN, &leaf, err) <= 0)
		return err_set(err, ERR_FORMAT, "a leaf is missing");
	return compare_map(d, &leaf, err);
}

static int expect_kept(struct err *err)
{
	struct view v;

	if (compare(&kept, err) < 0 || compare(&version, err) < 0)
		return err_add(err, "what is kept cannot be read");
	/* A guest has what the stub leads to. */
	if (view_find(pool, kept_view.id, &v, err) <= 0)
		return err_add(err, "the view that is kept is not there");
	if (view_check_stub(pool, &v, POOL_VIEWS, err) < 0)
		v = kept_view;
	if (view_check_layout(pool, &v, err) < 0 || view_check_stub(pool, &v, POOL_VIEWS, err) < 0)
		return err_add(err, "the view that is kept is damaged");
	return view_each_map(pool, &v, read_map, &kept, err);
}

static int damaged(void *ctx, const struct pool_damage *d, struct err *err)
{
	(void)ctx;
	if (d->part == POOL_FINDER) /* it may have been damaged, which costs space */
		return 0;
	return err_set(err, ERR_FORMAT, "%s: %s", pool_part_names[d->part], d->what.text);
}

/* A header that was half written is cleared away by repair; an index that was damaged says so once. */
static int collect_or_repair(struct collected *ret, struct err *err)
{
	const struct pool_repair_options o = { .dry_run = false };
	struct err why = ERR_INIT;
	uint64_t repaired, left;

	if (collect_once(ret, &why) == 0)
		return 0;
	if (why.kind != ERR_FORMAT || !strstr(why.text, "header in slot"))
		return err_set(err, why.kind, "%s", why.text);
	if (pool_repair(pool, &o, &repaired, &left, err) < 0)
		return -1;
	return left ? err_set(err, ERR_FORMAT, "%d are left after a repair", (int)left) : collect_once(ret, err);
}

/* What is kept is there at once.  Then until nothing more changes. */
static int go_on(void *ctx, struct sim *s, struct err *err)
{
	struct collected ret;
	int rc;

	(void)ctx;
	rc = use_pool(s, false, err) < 0 ? -1 : expect_kept(err);
	close_pool();
	for (int i = 0; i < 3 && rc == 0; i++) {
		struct err why = ERR_INIT;

		rc = use_pool(s, true, err) < 0 ? -1 : collect_or_repair(&ret, &why);
		close_pool();
		if (rc < 0 && i == 0 && strstr(why.text, "built anew when"))
			rc = 0;
		else if (rc < 0 && why.kind)
			err_set(err, why.kind, "%s", why.text);
	}
	return rc;
}

static int check(void *ctx, struct sim *s, struct crash_moment m, struct err *err)
{
	const struct pool_check_options o = { .damage = damaged };
	struct immutable_state is;
	struct pool_checked c;
	int rc;

	(void)m;
	rc = use_pool(s, false, err) < 0 || expect_kept(err) < 0 || pool_check(pool, &o, &c, err) < 0 ||
	     immutable_look(pool, &is, err) < 0 ? -1 : 0;
	if (rc == 0 && is.why)
		rc = err_set(err, ERR_FORMAT, "not all files are immutable: %s", is.why);
	if (rc == 0 && ctx && clusters_nr(pool->clusters) != 1)
		rc = err_set(err, ERR_FORMAT, "%d files are left", (int)clusters_nr(pool->clusters));
	close_pool();
	return rc;
}

static bool is_of_pool(void *ctx, const char *path, const struct stat *st)
{
	(void)ctx;
	(void)st;
	return !(strstr(path, ".tmp") && !strstr(path, "quarantine")) && !strstr(path, "nodes.new") &&
	       (!strstr(path, ".new") || !strstr(path, ".qcow2"));
}

static struct crash_workflow growing(void)
{
	return (struct crash_workflow){
		.name = "grow",
		.setup = set_up,
		.run = grow,
		.recover = go_on,
		.check = check,
		.belongs = is_of_pool,
		.root = "/pool",
		.nested = getenv("LONG") ? 13 : 997,
		.cut_again = getenv("LONG") ? 29 : 0,
		.cuts.pairs_max = getenv("LONG") ? 50 : 2,
	};
}

static void try_all(const struct crash_workflow *w)
{
	assert_survives(crash_try_kills, w);
	if (CRASH_THOROUGH)
		assert_survives(crash_try_cuts, w);
	if (CRASH_THOROUGH && getenv("LONG"))
		assert_survives(crash_try_errors, w);
}

static void what_is_kept_survives_that_another_file_begins(void **state)
{
	struct crash_workflow w = growing();

	(void)state;
	evacuate_at = 0;
	try_all(&w);
}

/* ---- evacuating ---- */

static void set_up_two(void *ctx, struct sim *s)
{
	struct err err = ERR_INIT;

	set_up(ctx, s);
	assert_int_equal(use_pool(s, true, &err), 0);
	assert_int_equal(growth_begin(pool, &err), 0);
	import(&late);
	version_of("late", &late);
	close_pool();
}

/* In the first one little is in use; the second one removes it. */
static int evacuate(void *ctx, struct sim *s, struct err *err)
{
	struct collected ret;
	int rc = 0;

	(void)ctx;
	for (int i = 0; i < 2 && rc == 0; i++) {
		rc = use_pool(s, true, err) < 0 ? -1 : collect_once(&ret, err);
		close_pool();
	}
	return rc;
}

static struct crash_workflow evacuating(void)
{
	struct crash_workflow w = growing();

	evacuate_at = 50; /* more than what is in use of the first file */
	w.name = "evacuate";
	w.setup = set_up_two;
	w.run = evacuate;
	w.ctx = &w; /* other than NULL: one file is left in the end */
	return w;
}

static void what_is_kept_survives_an_evacuation(void **state)
{
	struct crash_workflow w = evacuating();
	struct err err = ERR_INIT;
	struct sim *s;

	(void)state;
	if (!CRASH_THOROUGH) {
		print_message("it takes sanitizers minutes, and they see evacuations in unit/pool_files\n");
		skip();
	}
	s = sim_new(NULL);
	sim_use(s);
	set_up_two(NULL, s);
	assert_int_equal(evacuate(NULL, s, &err), 0);
	assert_int_equal(use_pool(s, true, &err), 0);
	assert_int_equal(clusters_nr(pool->clusters), 1); /* or nothing would be tried here */
	close_pool();
	sim_use(NULL);
	sim_free(s);
	w.ctx = &w;
	try_all(&w);
}

/* ---- healing ---- */

/* What is kept lies in both files, and trees and another view lead to the newer copy, in which a byte is wrong. */
static void set_up_damage(void *ctx, struct sim *s)
{
	CLEANUP(free) uint8_t *p = malloc(SEGMENT_SIZE);
	uint8_t digest[DIGEST_SIZE], byte;
	char name[POOL_FILE_NAME_ROOM], path[80];
	struct cluster_span grows;
	struct err err = ERR_INIT;
	struct leaf leaf;
	struct view v;
	uint64_t at;
	int fd;

	set_up(ctx, s);
	assert_int_equal(use_pool(s, true, &err), 0);
	assert_int_equal(growth_begin(pool, &err), 0);
	v = view_of(&kept);
	member_of("twin", &kept, &v);
	render(&kept, 0, p);
	digest_bytes(p, SEGMENT_SIZE, digest);
	assert_int_equal(nodes_find_leaf(pool->nodes, digest, POOL_UNIT_BITS_MIN, &leaf, &err), 1);
	grows = clusters_growing(pool->clusters);
	assert_true(leaf_lies_in(&leaf, 1) && grows.number == 1);
	at = cluster_offset(leaf.runs[0].place << POOL_UNIT_BITS_MIN) + 5000;
	snprintf(path, sizeof(path), "pool/%s", pool_id_file_name(cluster_file_id(grows.file)->uuid, name));
	close_pool();
	fd = file_open(sim_root(s), path, O_RDONLY, 0, &err);
	assert_int_equal(immutable_lift(fd, &err) < 0, 0);
	file_ops->close(fd);
	fd = file_open(sim_root(s), path, O_RDWR, 0, &err);
	assert_int_equal(file_ops->pread(fd, &byte, 1, (off_t)at), 1);
	byte ^= 1;
	assert_int_equal(file_ops->pwrite(fd, &byte, 1, (off_t)at), 1);
	assert_int_equal(file_ops->fsync(fd), 0);
	file_ops->close(fd);
}

static int repair_data(struct err *err)
{
	const struct pool_repair_options o = { .read_data = true };
	uint64_t repaired, left;

	if (pool_repair(pool, &o, &repaired, &left, err) < 0)
		return -1;
	return left ? err_set(err, ERR_FORMAT, "%d are left after a repair", (int)left) : 0;
}

static int heal(void *ctx, struct sim *s, struct err *err)
{
	int rc;

	(void)ctx;
	rc = use_pool(s, true, err) < 0 ? -1 : repair_data(err);
	close_pool();
	return rc;
}

/* An index that was damaged says so once. */
static int heal_again(void *ctx, struct sim *s, struct err *err)
{
	struct err why = ERR_INIT;

	if (heal(ctx, s, &why) == 0)
		return 0;
	if (strstr(why.text, "built anew when"))
		return heal(ctx, s, err);
	return err_set(err, why.kind, "%s", why.text);
}

static int check_healed(void *ctx, struct sim *s, struct crash_moment m, struct err *err)
{
	const struct pool_check_options o = { .damage = damaged, .read_data = true, .percent = 100 };
	struct pool_checked c;
	int rc;

	(void)ctx;
	(void)m;
	rc = use_pool(s, false, err) < 0 || expect_kept(err) < 0 || pool_check(pool, &o, &c, err) < 0 ? -1 : 0;
	close_pool();
	return rc;
}

static void what_heals_is_healed_by_the_next_repair_at_the_latest(void **state)
{
	struct crash_workflow w = growing();

	(void)state;
	w.name = "heal";
	w.setup = set_up_damage;
	w.run = heal;
	w.recover = heal_again;
	w.check = check_healed;
	try_all(&w);
}

/* ---- setting how QEMU reads ---- */

#define TABLES ((uint64_t)64 << 20)

static bool guest_runs; /* and has the old stub open */

static void not_set(void *ctx, const char *stub, const struct err *why)
{
	(void)stub;
	*(struct err *)ctx = *why;
}

static int set_it(struct err *err)
{
	const struct stubs_options o = { .wish = { .as = { .l2 = TABLES }, .l2 = true }, .problem = not_set, .ctx = err };
	char name[POOL_FILE_NAME_ROOM];
	struct stubs_set done = { 0 };
	int guest = -1, rc;

	if (guest_runs)
		guest = file_open(pool->dirs[POOL_VIEWS], pool_id_file_name(kept_view.id, name), O_RDONLY, 0, NULL);
	rc = stubs_set(pool, &o, &done, err);
	if (guest >= 0)
		file_ops->close(guest);
	return rc < 0 || done.nr_set != 1 ? -1 : 0;
}

static int set_tables(void *ctx, struct sim *s, struct err *err)
{
	int rc;

	(void)ctx;
	rc = use_pool(s, true, err) < 0 ? -1 : set_it(err);
	close_pool();
	return rc;
}

static int check_set(void *ctx, struct sim *s, struct crash_moment m, struct err *err)
{
	struct slice_reading is;
	int rc = use_pool(s, true, err) < 0 ? -1 : view_stub_reading(pool, &kept_view, &is, err);

	close_pool();
	if (rc == 0 && is.l2 != TABLES && (is.l2 || (m.done && !m.lied)))
		rc = err_set(err, ERR_FORMAT, "QEMU is to keep %d bytes of tables", (int)is.l2);
	return rc < 0 ? -1 : check(ctx, s, m, err);
}

static void a_stub_says_what_it_did_or_what_it_is_to_say(void **state)
{
	struct crash_workflow w = growing();

	(void)state;
	evacuate_at = 0;
	w.name = "set";
	w.run = set_tables;
	w.check = check_set;
	for (int i = 0; i < 2; i++) {
		guest_runs = i;
		try_all(&w);
	}
}

/* ---- mistakes ---- */

/* The old file goes before the trees lead to the new one. */
static void remove_first(void *ctx, struct sim *s)
{
	char name[POOL_FILE_NAME_ROOM], text[100];
	unsigned from, to;

	(void)ctx;
	snprintf(text, sizeof(text), "unlink /pool/%s", pool_id_file_name(first_file, name));
	from = sim_log_find(s, text, 0);
	to = sim_log_find(s, "datasync /pool/trees/", 0);
	assert_true(from != UINT_MAX && to < from);
	sim_log_move(s, from, to);
}

static void a_file_that_goes_too_early_is_caught(void **state)
{
	struct crash_workflow w = evacuating();

	(void)state;
	if (!CRASH_THOROUGH) {
		print_message("what it would catch is not looked for here\n");
		skip();
	}
	w.mistake_in_log = remove_first;
	assert_caught(crash_try_cuts, &w, "cannot be read");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_kept_survives_that_another_file_begins),
		cmocka_unit_test(what_is_kept_survives_an_evacuation),
		cmocka_unit_test(a_stub_says_what_it_did_or_what_it_is_to_say),
		cmocka_unit_test(what_heals_is_healed_by_the_next_repair_at_the_latest),
		cmocka_unit_test(a_file_that_goes_too_early_is_caught),
	};

	if (digest_prepare(NULL) < 0)
		return 0;
	mallopt(M_MMAP_THRESHOLD, 1 << 28); /* buffers come and go for each state */
	mallopt(M_TRIM_THRESHOLD, 1 << 28);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
