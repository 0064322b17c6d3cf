/* SPDX-License-Identifier: Apache-2.0 */
/* timeout: 600 */
#include "tests/unit/tree_help.h"

#include "compactor/clone.h"
#include "compactor/pool/bitmaps.h"
#include "compactor/seal.h"
#include "compactor/versions.h"
#include "scanner/base/file.h"
#include "tests/crash/bare_pool.h"
#include "tests/crash/crash.h"

/* Snapshots, clones and rollbacks through kills, errors, visits and power cuts: the invariants S1 to S6 at the top of seal.c,
 * and those of clone.c.
 *
 * The images have a bitmap, which goes with what is at the path as long as the disk stays the same. */

#define DATA (7 * 65536) /* before it lie bits, their table and directory */
#define LEN 5000
#define NR_MANY 16 /* that share one sync of the file system */

enum job { SNAPSHOT, CLONE, MANY_CLONES, ROLLBACK, DISCARD };
enum how {
	RIGHT,
	NO_RECOVERY,
	FORGETS_PENDING,   /* a recovery that removes what is not a version yet */
	TAKES_IT_FOR_DONE, /* one that believes that all was sealed */
};

struct work {
	enum job job;
	enum how how;
	bool visited; /* what versions say may have been changed by a visitor */
};

/* ---- a pool without clusters ---- */

/* From a file that has just enough of an image. */
static void add_bitmap(struct sim *s, int fd)
{
	struct bitmaps b = { .cluster_bits = 16, .size = DISK_SIZE, .file_size = 3 * 65536 };
	const struct bitmap m = {
		.name = "day", .extra = (const uint8_t *)"day", .name_len = 3, .flags = QCOW2_BITMAP_AUTO, .granularity_bits = 16,
		.table_offset = 65536, .table_size = 1, .nr_bits = DISK_SIZE >> 16,
	};

	b.fd = file_open(sim_root(s), "bits", O_RDWR | O_CREAT, 0600, NULL);
	assert_int_equal(file_ops->pwrite(b.fd, "\0\0\0\0\0\2\0\0", 8, 65536), 8);
	assert_int_equal(file_ops->pwrite(b.fd, "some bits", 9, 2 * 65536), 9);
	assert_int_equal(file_truncate(b.fd, b.file_size, NULL), 0);
	assert_int_equal(vec_push(&b.list, m), 0);
	assert_int_equal(bitmaps_append(&b, fd, NULL, NULL, NULL), 0);
	file_ops->close(b.fd);
	bitmaps_release(&b);
	assert_int_equal(file_unlink(sim_root(s), "bits", NULL), 0);
}

static void make_image(struct sim *s, struct pool *p, const char *path, char c)
{
	const struct overlay_options o = { .compat = false };
	int fd = make_member(s, p, path, &o);

	add_bitmap(s, fd);
	guest_writes(fd, c, DATA, LEN);
	file_ops->close(fd);
}

static int snapshot(struct pool *p, const char *label, struct err *err)
{
	static const char *const paths[] = { "/d/img", "/d/other" };
	struct snapshot_options o = { .label = label, .paths = paths, .nr_paths = 2, .how.sealed_max = 3 };
	struct snapshot_made made;

	return versions_snapshot(p, &o, &made, err);
}

static void set_up(void *ctx, struct sim *s)
{
	const struct work *k = ctx;
	struct err err = ERR_INIT;
	struct pool p;

	make_pool(s);
	assert_int_equal(file_mkdir(sim_root(s), "d", 0755, NULL), 0);
	assert_int_equal(open_pool(s, &p, &err), 0);
	make_image(s, &p, "/d/img", 'd');
	make_image(s, &p, "/d/other", 'o');
	if (k->job >= ROLLBACK) {
		int fd;

		if (snapshot(&p, "old", &err) < 0)
			fail_msg("%s", err.text);
		fd = file_open(sim_root(s), "d/img", O_RDWR, 0, &err);
		guest_writes(fd, 'e', DATA, LEN);
		file_ops->close(fd);
	}
	close_pool(&p);
}

/* ---- the work ---- */

static int run_in(const struct work *k, struct pool *p, struct err *err)
{
	struct clone_options c = { .path = "/d/img", .new_path = "/d/c%d", .count = k->job == CLONE ? 2 : NR_MANY, .how.now = 1 };
	struct rollback_options r = { .path = "/d/img", .label = "old", .discard = k->job == DISCARD };
	struct clones made;
	char kept[256];

	if (versions_recover(p, err) < 0)
		return -1;
	if (k->job == SNAPSHOT)
		return snapshot(p, "new", err);
	if (k->job == CLONE || k->job == MANY_CLONES)
		return clone_image(p, &c, &made, err);
	return versions_rollback(p, &r, kept, err);
}

static int run(void *ctx, struct sim *s, struct err *err)
{
	struct pool p;
	int rc = open_pool(s, &p, err);

	if (rc < 0)
		return -1;
	rc = run_in(ctx, &p, err);
	close_pool(&p);
	return rc;
}

/* What a careless recovery does with a version that is pending. */
static int mistreat(void *ctx, const struct name *n, struct err *err)
{
	struct pool *p = ctx;
	struct name copy;
	int rc;

	if (name_is_settled(n))
		return 0;
	if (p->lock.fd == FORGETS_PENDING)
		return names_remove(p, n->number, err);
	assert_int_equal(name_copy(n, &copy, err), 0);
	for (size_t i = 0; i < copy.disks.nr; i++)
		copy.disks.items[i].inode = 0;
	rc = names_replace(p, n->number, &copy, err);
	name_release(&copy);
	return rc;
}

static int recover(void *ctx, struct sim *s, struct err *err)
{
	const struct work *k = ctx;
	struct pool p;
	int rc;

	if (k->how == NO_RECOVERY)
		return 0;
	rc = open_pool(s, &p, err);
	if (rc < 0)
		return -1;
	p.lock.fd = (int)k->how;
	if (k->how >= FORGETS_PENDING)
		rc = names_each(&p, mistreat, &p, err);
	if (rc == 0)
		rc = versions_recover(&p, err);
	close_pool(&p);
	return rc;
}

/* ---- what a guest sees ---- */

/* 1 = it has its bitmap, 0 = it has none, -1 = something else. */
static int look_at_bitmap(struct sim *s, const char *path, struct err *err)
{
	CLEANUP(bitmaps_release) struct bitmaps b = BITMAPS_INIT;
	CLEANUP(free) uint8_t *bits = malloc(BITMAPS_PIECE);
	int fd = file_open(sim_root(s), path + 1, O_RDONLY, 0, err), rc;

	if (fd < 0)
		return -1;
	rc = bitmaps_read(fd, &b, err);
	if (rc == 0 && b.list.nr)
		rc = bitmaps_bits(&b, &b.list.items[0], 0, bits, err) < 0 ? -1 : 1;
	if (rc > 0 && (memcmp(bits, "some bits", 10) != 0 || b.list.items[0].flags != QCOW2_BITMAP_AUTO))
		rc = err_set(err, ERR_FORMAT, "the bitmap of '%s' has other bits", path);
	file_ops->close(fd);
	return rc;
}

static int view(void *ctx, struct sim *s, const char *path, uint64_t *ret, struct err *err)
{
	uint64_t h = 1;
	char text[LEN];
	int rc;

	(void)ctx;
	if (guest_reads(s, path, DATA, text, LEN, err) < 0)
		return -1;
	rc = look_at_bitmap(s, path, err);
	if (rc <= 0)
		return rc < 0 ? -1 : err_set(err, ERR_FORMAT, "'%s' has no bitmap any more", path);
	for (size_t i = 0; i < LEN; i++)
		h = (h ^ (uint8_t)text[i]) * UINT64_C(0x100000001b3);
	*ret = h;
	return 0;
}

static void visit(void *ctx, struct sim *s, int fd)
{
	struct work *k = ctx;

	(void)s;
	k->visited = true;
	guest_writes(fd, '#', DATA + 7, 1);
}

/* ---- what must be there ---- */

struct checking {
	const struct work *k;
	struct sim *s;
	struct pool *pool;
	struct crash_moment m;
	unsigned nr_versions, nr_kept, nr_members;
};

static int check_text(struct checking *c, const char *path, char want, struct err *err)
{
	char text[LEN];

	if (guest_reads(c->s, path, DATA, text, LEN, err) < 0)
		return -1;
	for (size_t i = 0; i < LEN; i++)
		if (text[i] != want && !c->k->visited)
			return err_set(err, ERR_FORMAT, "'%s' says '%c' instead of '%c'", path, text[i], want);
	return 0;
}

static int check_member(struct checking *c, const struct name_disk *d, struct err *err)
{
	char next[PATH_ROOM] = "", noted[PATH_ROOM] = "";
	struct stat st;

	c->nr_members++;
	if (sim_stat(c->s, d->path, &st) < 0)
		return err_set(err, ERR_FORMAT, "member '%s' is not there", d->path);
	if (next_in_chain(c->s, d->path, next, err) < 0)
		return -1;
	if (!name_id_is_null(d->below))
		path_of_sealed(d->below, noted);
	if (strcmp(next, noted) != 0)
		return err_set(err, ERR_FORMAT, "'%s' is noted as on '%s', and is on '%s'", d->path, noted, next);
	return 0;
}

static int check_version_disk(struct checking *c, const struct name *n, const struct name_disk *d, struct err *err)
{
	char path[PATH_ROOM], want = strstr(d->path, "other") ? 'o' : 'd';
	struct stat st;

	if (strncmp(n->label, "before", 6) == 0)
		want = 'e';
	path_of_sealed(d->sealed, path);
	if (d->inode)
		return err_set(err, ERR_FORMAT, "'%s' is pending still", d->path);
	if (sim_stat(c->s, path, &st) < 0)
		return err_set(err, ERR_FORMAT, "sealed '%s' is not there", path);
	if (st.st_mode & 0222)
		return err_set(err, ERR_FORMAT, "sealed '%s' may be written to", path);
	if (!d->written || !d->length || (!c->k->visited && seal_was_written(c->pool, d)) || seal_check_in(c->pool, d, err) < 0)
		return err_add(err, "sealed '%s' is not as noted", path);
	return check_text(c, path, want, err);
}

static int check_name(void *ctx, const struct name *n, struct err *err)
{
	struct checking *c = ctx;

	if (n->kind == NAME_MEMBER)
		return check_member(c, &n->disks.items[0], err);
	c->nr_versions += strcmp(n->label, "new") == 0 && n->disks.nr == 2;
	c->nr_kept += strncmp(n->label, "before", 6) == 0;
	if (*n->label && strcmp(n->label, "old") != 0 && n->disks.nr != (c->k->job == SNAPSHOT ? 2 : 1))
		return err_set(err, ERR_FORMAT, "version '%s' has %zu disks", n->label, n->disks.nr);
	for (size_t i = 0; i < n->disks.nr; i++)
		if (check_version_disk(c, n, &n->disks.items[i], err) < 0)
			return -1;
	return 0;
}

static bool is_there(struct sim *s, const char *path)
{
	struct stat st;

	return sim_stat(s, path, &st) == 0;
}

static int check_clones(struct checking *c, struct err *err)
{
	unsigned nr = 0, all = c->k->job == CLONE ? 2 : NR_MANY;

	for (unsigned i = 1; i <= all; i++) {
		char path[16];

		snprintf(path, sizeof(path), "/d/c%u", i);
		if (!is_there(c->s, path))
			continue;
		nr++;
		if (check_text(c, path, 'd', err) < 0)
			return -1;
	}
	if (c->nr_members != nr + 2)
		return err_set(err, ERR_FORMAT, "%u clones, and %u members", nr, c->nr_members);
	if (c->m.done && nr != all)
		return err_set(err, ERR_FORMAT, "done, and %u clones are there", nr);
	return 0;
}

static int check_rollback(struct checking *c, struct err *err)
{
	struct err why = ERR_INIT;
	bool before = check_text(c, "/d/img", 'e', &why) == 0;
	int bitmap = look_at_bitmap(c->s, "/d/img", err);

	if (bitmap < 0 || (!before && check_text(c, "/d/img", 'd', err) < 0))
		return -1;
	if (bitmap != before)
		return err_set(err, ERR_FORMAT, "the image %s a bitmap",
			       bitmap ? "was rolled back, with" : "is as before, without");
	if (check_text(c, "/d/other", 'o', err) < 0)
		return -1;
	if (c->m.done && before)
		return err_set(err, ERR_FORMAT, "done, and the image is as before");
	if (c->m.untouched && !before)
		return err_set(err, ERR_FORMAT, "untouched, and the image was rolled back");
	if (c->k->job == ROLLBACK && c->nr_kept != !before)
		return err_set(err, ERR_FORMAT, "%u versions are kept", c->nr_kept);
	return 0;
}

static int check(void *ctx, struct sim *s, struct crash_moment m, struct err *err)
{
	struct checking c = { .k = ctx, .s = s, .m = m };
	struct pool p;
	int rc;

	if (m.lied) /* the images are well; what the pool has may be damaged, and says so */
		return 0;
	if (open_pool(s, &p, err) < 0)
		return -1;
	c.pool = &p;
	rc = names_each(&p, check_name, &c, err);
	close_pool(&p);
	if (rc < 0)
		return -1;
	if (c.k->job == CLONE || c.k->job == MANY_CLONES)
		return check_clones(&c, err);
	if (c.k->job >= ROLLBACK)
		return check_rollback(&c, err);
	if (m.done && c.nr_versions != 1)
		return err_set(err, ERR_FORMAT, "done, and there is no version");
	if (m.untouched && c.nr_versions)
		return err_set(err, ERR_FORMAT, "untouched, and there is a version");
	return 0;
}

/* In the quarantine only what somebody wrote to. */
static bool belongs(void *ctx, const char *path, const struct stat *st)
{
	const char *base = strrchr(path, '/') + 1;
	size_t len = strlen(base);

	(void)ctx;
	if (S_ISDIR(st->st_mode))
		return true;
	if (strncmp(path, "/d/", 3) == 0)
		return strcmp(base, "img") == 0 || strcmp(base, "other") == 0 || (*base == 'c' && len <= 3);
	if (strncmp(path, POOL "/names/", 9) == 0)
		return len < 5 || strcmp(base + len - 5, ".gone") == 0 ? strchr(base, '.') == NULL || strstr(base, ".gone") : false;
	if (strncmp(path, POOL "/sealed/", 10) == 0 || strncmp(path, POOL "/quarantine/", 14) == 0)
		return len > 6 && strcmp(base + len - 6, ".qcow2") == 0;
	return false;
}

static const char *const images[] = { "/d/img", "/d/other", NULL };

static struct crash_workflow workflow(const char *name, struct work *k)
{
	return (struct crash_workflow){
		.name = name,
		.setup = set_up,
		.run = run,
		.recover = recover,
		.check = check,
		.ctx = k,
		.images = k->job >= ROLLBACK ? NULL : images, /* what they say changes */
		.view = view,
		.visit = k->job >= ROLLBACK ? NULL : visit,
		.belongs = belongs,
		.nested = getenv("LONG") ? 5 : 97,
		.cut_again = getenv("LONG") ? 1 : 7,
		.cuts.pairs_max = getenv("LONG") ? 2000 : 20,
	};
}

static void assert_passes(const struct crash_workflow *w)
{
	struct work *k = w->ctx;

	assert_survives(crash_try_kills, w);
	if (!CRASH_THOROUGH)
		return;
	assert_survives(crash_try_errors, w);
	assert_survives(crash_try_cuts, w);
	k->visited = true;
	if (w->visit)
		assert_survives(crash_try_visits, w);
}

static void a_snapshot_of_two_disks_passes(void **state)
{
	struct work k = { .job = SNAPSHOT };
	struct crash_workflow w = workflow("snapshot", &k);

	(void)state;
	assert_passes(&w);
}

static void clones_of_a_changed_image_pass(void **state)
{
	struct work k = { .job = CLONE };
	struct crash_workflow w = workflow("clone", &k);

	(void)state;
	assert_passes(&w);
}

/* Each error and cut would take minutes, and so would kills under a sanitizer, which sees the same code in the test before. */
static void many_clones_pass_kills(void **state)
{
	struct work k = { .job = MANY_CLONES };
	struct crash_workflow w = workflow("many clones", &k);

	(void)state;
	w.cut_again = 0;
	if (CRASH_THOROUGH)
		assert_survives(crash_try_kills, &w);
}

static void a_rollback_passes(void **state)
{
	struct work k = { .job = ROLLBACK };
	struct crash_workflow w = workflow("rollback", &k);

	(void)state;
	assert_passes(&w);
}

static void a_rollback_that_discards_passes(void **state)
{
	struct work k = { .job = DISCARD };
	struct crash_workflow w = workflow("rollback, discard", &k);

	(void)state;
	assert_passes(&w);
}

/* ---- who was on his way ---- */

static void remember_fd(void *ctx, struct sim *s, int fd)
{
	(void)s;
	*(int *)ctx = fd;
}

static int find_new(void *ctx, const struct name *n, struct err *err)
{
	(void)err;
	if (n->kind != NAME_VERSION || strcmp(n->label, "new") != 0)
		return 0;
	path_of_sealed(n->disks.items[0].sealed, ctx);
	return 1;
}

/* The call by which it is looked whether somebody writes to the first disk: a lease, the second last of those that are taken; to
 * each belong a call before, and one that lets go of it. */
static unsigned call_that_looks(struct sim *s)
{
	unsigned nr = 0;

	for (unsigned i = sim_nr_calls(s); i > 0; i--)
		if (sim_call_kind(s, i) == SIM_FCNTL && ++nr == 5)
			return i;
	return 0;
}

/* S7: he came too late to be seen, and writes. */
static bool is_told_as_changed(struct sim *s, int fd)
{
	struct pool p;
	struct name n;
	bool told;

	guest_writes(fd, '#', DATA + 7, 1);
	assert_int_equal(open_pool(s, &p, NULL), 0);
	assert_int_equal(names_find_version(&p, "/d/img", "new", &n, NULL), 1);
	told = seal_was_written(&p, &n.disks.items[0]) && !seal_was_written(&p, &n.disks.items[1]);
	name_release(&n);
	close_pool(&p);
	return told;
}

/* Somebody finds the image before it is sealed and opens it before call `at`.  1 = there were fewer calls. */
static int try_late(struct work *k, unsigned at, unsigned *ret_nr_kept_out, unsigned *ret_nr_too_late)
{
	struct sim *s = sim_new(NULL);
	struct err err = ERR_INIT;
	char sealed[PATH_ROOM] = "";
	struct stat a, b;
	struct pool p;
	int fd = -1, rc;

	sim_use(s);
	sim_outside(s, true);
	set_up(k, s);
	sim_settle(s);
	sim_visit_late(s, "/d/img", at, O_RDWR, remember_fd, &fd);
	sim_outside(s, false);
	rc = run(k, s, &err);
	sim_outside(s, true);
	if (rc == 0 && at == 1)
		assert_true(call_that_looks(s) > 100);
	assert_int_equal(open_pool(s, &p, NULL), 0);
	names_each(&p, find_new, sealed, NULL);
	close_pool(&p);
	assert_int_equal(rc == 0, *sealed != '\0');
	if (rc < 0 && err.kind != ERR_BUSY)
		fail_msg("%s", err.text);
	*ret_nr_kept_out += rc < 0;
	if (*sealed && fd >= 0 && file_ops->fstat(fd, &a) == 0 && sim_stat(s, sealed, &b) == 0 && a.st_ino == b.st_ino) {
		if (at <= call_that_looks(s))
			fail_msg("before call %u: it is a version, and somebody has it open", at);
		if (!is_told_as_changed(s, fd))
			fail_msg("before call %u: somebody wrote to a version, and nothing tells", at);
		++*ret_nr_too_late;
	}
	rc = sim_nr_calls(s) < at;
	sim_use(NULL);
	sim_free(s);
	return rc;
}

/* S5, S7 */
static void what_somebody_has_open_becomes_no_version(void **state)
{
	struct work k = { .job = SNAPSHOT };
	unsigned nr = 0, nr_too_late = 0;

	(void)state;
	for (unsigned at = 1; try_late(&k, at, &nr, &nr_too_late) == 0; at++)
		;
	assert_true(nr > 10);
	assert_true(nr_too_late > 1);
}

/* ---- mistakes ---- */

static void mistakes_of_a_recovery_are_caught(void **state)
{
	static const struct {
		enum how how;
		const char *words;
	} all[] = {
		{ NO_RECOVERY, "e: '/p/" },
		{ FORGETS_PENDING, "is noted as on" },
		{ TAKES_IT_FOR_DONE, "c: " },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
		struct work k = { .job = SNAPSHOT, .how = all[i].how };
		struct crash_workflow w = workflow("careless recovery", &k);

		assert_caught(crash_try_kills, &w, all[i].words);
	}
}

/* The first entry of the log that begins so comes in front of the n-th of another. */
static const struct order {
	enum job job;
	const char *what, *before;
	unsigned n;
	const char *words;
} orders[] = {
	{ SNAPSHOT, "sync /p/sealed/", "sync /d", 0, "b: image '/d/img'" }, /* the fresh overlay is synced after the exchange */
	{ SNAPSHOT, "exchange /d/img", "sync /p/names/3.made", 0, "is noted as on" },
	{ SNAPSHOT, "rename /p/names/3.made /p/names/3", "sync /p/names/3.made", 0, "no name of dedupscan" },
	{ CLONE, "rename /p/sealed/4-", "sync /p/names/4.made", 0, "1 clones, and 2 members" },
	{ CLONE, "rename /p/sealed/4-", "sync /p/sealed/4-", 0, "c1' is no" },
}, *order;

static void move_in_log(void *ctx, struct sim *s)
{
	unsigned from = sim_log_find(s, order->what, 0), to = sim_log_find(s, order->before, order->n);

	(void)ctx;
	assert_true(from != UINT_MAX && to != UINT_MAX);
	sim_log_move(s, from, to);
}

static void a_wrong_order_is_caught(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(orders) / sizeof(*orders); i++) {
		struct work k = { .job = orders[i].job };
		struct crash_workflow w = workflow(orders[i].what, &k);

		order = &orders[i];
		w.mistake_in_log = move_in_log;
		assert_caught(crash_try_cuts, &w, order->words);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_snapshot_of_two_disks_passes),
		cmocka_unit_test(clones_of_a_changed_image_pass),
		cmocka_unit_test(many_clones_pass_kills),
		cmocka_unit_test(a_rollback_passes),
		cmocka_unit_test(a_rollback_that_discards_passes),
		cmocka_unit_test(what_somebody_has_open_becomes_no_version),
		cmocka_unit_test(mistakes_of_a_recovery_are_caught),
		cmocka_unit_test(a_wrong_order_is_caught),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
