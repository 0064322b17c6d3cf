/* SPDX-License-Identifier: Apache-2.0 */
/* timeout: 600 */
#include "tests/unit/tree_help.h"

#include "compactor/pool/clusters.h"
#include "compactor/pool/finder.h"
#include "compactor/pool/nodes.h"
#include "compactor/pool/pool.h"
#include "scanner/base/checked.h"
#include "scanner/base/crc32c.h"
#include "scanner/base/file.h"
#include "tests/crash/crash.h"

/* The parts of a pool under kills, errors and power cuts: making one, clusters and the headers that lead to them, the tables to
 * find by, and all of it together with the nodes.
 *
 * A header that is in its slot leads to what it should; what a sync returned for is there; nothing is given out twice. */

static const uint8_t uuid[POOL_ID_SIZE] = { 1, 2, 3 };

static int open_dir(struct sim *s, const char *name, struct err *err)
{
	return file_open(sim_root(s), name, O_RDONLY | O_DIRECTORY, 0, err);
}

static void assert_passes(const struct crash_workflow *w)
{
	assert_survives(CRASH_THOROUGH ? crash_try : crash_try_kills, w);
}

/* A sync of that kind, the n-th, does nothing and says "done". */
struct lie {
	enum sim_call kind;
	unsigned at;
};

static struct lie lie;

static void tell_lie(void *ctx, struct sim *s)
{
	(void)ctx;
	sim_set_fault_of(s, lie.kind, (struct sim_fault){ .at = lie.at, .how = SIM_LIE });
}

/* ---- making a pool ---- */

struct making {
	bool made_again; /* recover() found none */
	char damaged[200];
};

static void set_up_nothing(void *ctx, struct sim *s)
{
	(void)ctx;
	assert_int_equal(file_mkdir(sim_root(s), "r", 0755, NULL), 0);
}

static int make_pool(void *ctx, struct sim *s, struct err *err)
{
	int dir = open_dir(s, "r", err), rc;

	(void)ctx;
	if (dir < 0)
		return -1;
	rc = pool_create(dir, "p", err);
	file_ops->close(dir);
	return rc;
}

/* There is a whole one or none. */
static int find_pool(void *ctx, struct sim *s, struct err *err)
{
	int dir = open_dir(s, "r", err), rc;
	struct err why = ERR_INIT;
	struct making *m = ctx;
	struct pool *p = NULL;

	if (dir < 0)
		return -1;
	rc = pool_open(dir, "p", "/r/p", true, &p, &why);
	m->made_again = rc == 0 && !p;
	*m->damaged = 0;
	if (rc < 0 && why.kind == ERR_FORMAT)
		snprintf(m->damaged, sizeof(m->damaged), "%s", why.text);
	if (rc < 0)
		rc = why.kind == ERR_FORMAT ? 0 : err_set(err, why.kind, "%s", why.text);
	else if (!p) /* and is opened, as by whoever makes one */
		rc = pool_create(dir, "p", err) < 0 ? -1 : pool_open(dir, "p", "/r/p", true, &p, err);
	pool_close(p);
	file_ops->close(dir);
	return rc;
}

static int check_pool(void *ctx, struct sim *s, struct crash_moment moment, struct err *err)
{
	const struct making *m = ctx;
	struct stat st;

	if (moment.lied)
		return 0;
	if (*m->damaged)
		return err_set(err, ERR_FORMAT, "it is there but not whole: %s", m->damaged);
	if (moment.done && m->made_again)
		return err_set(err, ERR_FORMAT, "it was made, and is not there");
	if (sim_stat(s, "/r/p/views", &st) < 0 || st.st_mode != (S_IFDIR | 0711) || sim_stat(s, "/r/p", &st) < 0 ||
	    st.st_mode != (S_IFDIR | 0711))
		return err_set(err, ERR_FORMAT, "a directory has another mode");
	return 0;
}

static bool is_in_pool(void *ctx, const char *path, const struct stat *st)
{
	(void)ctx;
	(void)st;
	return strcmp(path, "/r") == 0 || strcmp(path, "/r/p") == 0 || strncmp(path, "/r/p/", 5) == 0;
}

static struct crash_workflow making(struct making *m)
{
	return (struct crash_workflow){
		.name = "make a pool",
		.setup = set_up_nothing,
		.run = make_pool,
		.recover = find_pool,
		.check = check_pool,
		.ctx = m,
		.belongs = is_in_pool,
		.root = "/r",
		.nested = getenv("LONG") ? 5 : 97,
		.cut_again = getenv("LONG") ? 1 : 97,
		.cuts.pairs_max = getenv("LONG") ? 500 : 10,
	};
}

static void a_pool_is_whole_or_not_there(void **state)
{
	struct making m = { 0 };
	struct crash_workflow w = making(&m);

	(void)state;
	assert_passes(&w);
}

static void syncs_that_are_missing_in_a_new_pool_are_caught(void **state)
{
	struct making m = { 0 };
	struct crash_workflow w = making(&m);

	(void)state;
	w.mistake = tell_lie;
	lie = (struct lie){ SIM_FSYNC, 1 }; /* the cluster file */
	assert_caught(crash_try_cuts, &w, "c: it is there but not whole");
	lie = (struct lie){ SIM_FSYNC, 11 }; /* the new directory */
	assert_caught(crash_try_cuts, &w, "c: it is there but not whole");
	lie = (struct lie){ SIM_FSYNC, 12 }; /* the one that it is in */
	assert_caught(crash_try_cuts, &w, "c: it was made, and is not there");
}

/* ---- clusters and headers ---- */

#define CLUSTER 4096u

/* A header says where its clusters are and what is in them. */
struct header {
	char magic[4];
	uint32_t slot;
	uint64_t offsets[3];
	uint32_t crc;
};

static void fill(uint8_t *cluster, uint32_t slot, unsigned i)
{
	memset(cluster, (int)(slot * 16 + i + 1), CLUSTER);
}

static int publish_one(struct cluster_file *f, struct err *err)
{
	union {
		struct header h;
		uint8_t bytes[BLOCK_SIZE];
	} u = { .bytes = { 0 } };
	uint8_t cluster[CLUSTER];

	memcpy(u.h.magic, "head", 4);
	if (cluster_file_next_slot(f, &u.h.slot, err) < 0)
		return -1;
	for (unsigned i = 0; i < ARRAY_SIZE(u.h.offsets); i++) {
		fill(cluster, u.h.slot, i);
		if (cluster_file_append(f, cluster, CLUSTER, i == 2 ? 65536 : CLUSTER, &u.h.offsets[i], err) < 0)
			return -1;
	}
	u.h.crc = crc32c(0, &u.h, offsetof(struct header, crc));
	return cluster_file_publish(f, u.h.slot, u.bytes, err);
}

static struct cluster_file *open_clusters(struct sim *s, bool writing, struct err *err)
{
	return cluster_file_open(sim_root(s), "r/c", writing, err);
}

static void set_up_clusters(void *ctx, struct sim *s)
{
	struct cluster_file *f;
	int dir;

	(void)ctx;
	assert_int_equal(file_mkdir(sim_root(s), "r", 0755, NULL), 0);
	dir = open_dir(s, "r", NULL);
	assert_int_equal(cluster_file_create(dir, "c", uuid, NULL), 0);
	file_ops->close(dir);
	f = open_clusters(s, true, NULL);
	assert_non_null(f);
	for (int i = 0; i < 3; i++)
		assert_int_equal(publish_one(f, NULL), 0);
	cluster_file_close(f);
}

/* Slots 1 to 3 are there; 2 and 3 are buried, 4 and 5 published. */
static int publish_and_bury(void *ctx, struct sim *s, struct err *err)
{
	struct cluster_file *f = open_clusters(s, true, err);
	int rc = f ? 0 : -1;

	(void)ctx;
	if (rc == 0)
		rc = cluster_file_bury(f, 3, err);
	if (rc == 0)
		rc = publish_one(f, err);
	if (rc == 0)
		rc = cluster_file_bury(f, 2, err);
	if (rc == 0)
		rc = publish_one(f, err);
	cluster_file_close(f);
	return rc;
}

static int open_for_writing(void *ctx, struct sim *s, struct err *err)
{
	struct cluster_file *f = open_clusters(s, true, err);

	(void)ctx;
	cluster_file_close(f);
	return f ? 0 : -1;
}

struct seen {
	struct cluster_file *file;
	unsigned slots; /* bit n: slot n has a whole header */
	uint64_t end;	/* of what headers lead to */
};

static int look_at_slot(void *ctx, uint32_t slot, const uint8_t header[BLOCK_SIZE], struct err *err)
{
	const struct header *h = (const void *)header;
	uint8_t cluster[CLUSTER], expected[CLUSTER];
	struct seen *seen = ctx;

	if (memcmp(h->magic, "head", 4) != 0 || h->crc != crc32c(0, h, offsetof(struct header, crc)))
		return 0; /* torn */
	if (h->slot != slot)
		return err_set(err, ERR_FORMAT, "slot %u has the header of slot %u", slot, h->slot);
	for (unsigned i = 0; i < ARRAY_SIZE(h->offsets); i++) {
		fill(expected, slot, i);
		if (cluster_file_read(seen->file, cluster, CLUSTER, h->offsets[i], err) < 0)
			return err_add(err, "slot %u leads nowhere", slot);
		if (memcmp(cluster, expected, CLUSTER) != 0)
			return err_set(err, ERR_FORMAT, "slot %u leads to something else", slot);
		seen->end = max_u64(seen->end, h->offsets[i] + CLUSTER);
	}
	seen->slots |= 1u << slot;
	return 0;
}

static int look_at_slots(struct sim *s, struct seen *seen, struct err *err)
{
	int rc;

	*seen = (struct seen){ .file = open_clusters(s, false, err) };
	if (!seen->file)
		return -1;
	rc = cluster_file_each_slot(seen->file, look_at_slot, seen, err);
	cluster_file_close(seen->file);
	return rc;
}

/* Whoever comes next publishes another one, and disturbs none of those that are there. */
static int check_clusters(void *ctx, struct sim *s, struct crash_moment m, struct err *err)
{
	struct cluster_file *f;
	struct seen was, is;
	uint32_t slot;
	int rc;

	(void)ctx;
	if (m.lied)
		return 0;
	if (look_at_slots(s, &was, err) < 0)
		return -1;
	if (m.done && was.slots != (1 << 1 | 1 << 4 | 1 << 5))
		return err_set(err, ERR_FORMAT, "done, and the slots are 0x%x", was.slots);
	if (m.untouched && was.slots != (1 << 1 | 1 << 2 | 1 << 3))
		return err_set(err, ERR_FORMAT, "untouched, and the slots are 0x%x", was.slots);
	if (!(was.slots & 1 << 1))
		return err_set(err, ERR_FORMAT, "slot 1 is lost");
	f = open_clusters(s, true, err);
	if (!f)
		return -1;
	rc = cluster_file_next_slot(f, &slot, err);
	if (rc == 0 && (slot < 4 || was.slots >> slot))
		rc = err_set(err, ERR_FORMAT, "slot %u would be given out again", slot);
	if (rc == 0 && cluster_file_end(f) < was.end)
		rc = err_set(err, ERR_FORMAT, "offset %llu would be given out again", (unsigned long long)cluster_file_end(f));
	if (rc == 0)
		rc = publish_one(f, err);
	cluster_file_close(f);
	if (rc == 0)
		rc = look_at_slots(s, &is, err);
	return rc == 0 && is.slots != (was.slots | 1u << slot) ? err_set(err, ERR_FORMAT, "the slots are 0x%x", is.slots) : rc;
}

static bool is_cluster_file(void *ctx, const char *path, const struct stat *st)
{
	(void)ctx;
	return strcmp(path, "/r") == 0 || (strcmp(path, "/r/c") == 0 && st->st_mode == (S_IFREG | 0444));
}

static struct crash_workflow publishing(void)
{
	return (struct crash_workflow){
		.name = "publish and bury",
		.setup = set_up_clusters,
		.run = publish_and_bury,
		.recover = open_for_writing,
		.check = check_clusters,
		.belongs = is_cluster_file,
		.root = "/r",
		.cut_again = 3,
		.cuts.pairs_max = getenv("LONG") ? 2000 : 60,
	};
}

static void headers_lead_to_what_they_should(void **state)
{
	struct crash_workflow w = publishing();

	(void)state;
	assert_passes(&w);
}

static void syncs_that_are_missing_before_or_behind_headers_are_caught(void **state)
{
	struct crash_workflow w = publishing();

	(void)state;
	w.mistake = tell_lie;
	lie = (struct lie){ SIM_FDATASYNC, 1 };
	assert_caught(crash_try_cuts, &w, "c: slot 4 leads");
	lie = (struct lie){ SIM_FDATASYNC, 4 };
	assert_caught(crash_try_cuts, &w, "c: done, and the slots are");
}

/* ---- finding ---- */

#define MEMORY ((size_t)64 << 10) /* tables are written after 768 keys */
#define NR_BEFORE 300u
#define NR_LARGE 800u
#define NR_SMALL 20u
enum { COVERED_BEFORE = 100, COVERED_LARGE = 200, COVERED_SMALL = 300 };

struct finding {
	bool may_be_lost; /* it was said that it is */
	bool was_lost;	  /* recover() found so */
};

static uint64_t hi_of(unsigned key)
{
	return key * UINT64_C(0x9e3779b97f4a7c15);
}

static uint64_t lo_of(unsigned key)
{
	return key * UINT64_C(0xc2b2ae3d27d4eb4f);
}

static int add_keys(struct finder *f, unsigned from, unsigned nr, uint64_t number, struct err *err)
{
	for (unsigned i = from; i < from + nr; i++)
		if (finder_add(f, FINDER_NODE, 12, hi_of(i), lo_of(i), number + i, true, err) < 0)
			return -1;
	return 0;
}

static struct finder *open_finder(struct sim *s, bool writing, bool *ret_whole, int *ret_dir, struct err *err)
{
	*ret_dir = open_dir(s, "r", err);
	return *ret_dir < 0 ? NULL : finder_open(*ret_dir, uuid, MEMORY, writing, ret_whole, err);
}

static void close_finder(struct finder *f, int dir)
{
	finder_close(f);
	if (dir >= 0)
		file_ops->close(dir);
}

static void set_up_tables(void *ctx, struct sim *s)
{
	struct finder *f;
	bool whole;
	int dir;

	(void)ctx;
	assert_int_equal(file_mkdir(sim_root(s), "r", 0755, NULL), 0);
	f = open_finder(s, true, &whole, &dir, NULL);
	assert_true(f && whole);
	assert_int_equal(add_keys(f, 0, NR_BEFORE, 1000, NULL), 0);
	assert_int_equal(finder_sync(f, COVERED_BEFORE, NULL), 0);
	close_finder(f, dir);
}

/* Writes a table when memory is full, which takes in the one that is there; syncs; then a little table, which some keys are in
 * again. */
static int add_and_sync(struct finder *f, struct err *err)
{
	if (add_keys(f, NR_BEFORE, NR_LARGE, 1000, err) < 0 || finder_sync(f, COVERED_LARGE, err) < 0 ||
	    add_keys(f, 0, NR_SMALL, 5000, err) < 0)
		return -1;
	return finder_sync(f, COVERED_SMALL, err);
}

static int use_finder(void *ctx, struct sim *s, struct err *err)
{
	struct finding *k = ctx;
	bool whole = true;
	int dir, rc = -1;
	struct finder *f = open_finder(s, true, &whole, &dir, err);

	k->may_be_lost = !whole;
	if (f && !whole && finder_clear(f, err) == 0)
		err_set(err, ERR_FORMAT, "it was not whole");
	if (f && whole)
		rc = add_and_sync(f, err);
	if (rc < 0 && err && strstr(err->text, "built anew when"))
		k->may_be_lost = true;
	close_finder(f, dir);
	return rc;
}

static int clear_what_is_lost(void *ctx, struct sim *s, struct err *err)
{
	struct finding *k = ctx;
	bool whole = true;
	int dir;
	struct finder *f = open_finder(s, true, &whole, &dir, err);
	int rc = f ? 0 : -1;

	if (f && !whole)
		rc = finder_clear(f, err);
	k->was_lost = k->was_lost || !whole;
	close_finder(f, dir);
	return rc;
}

static int expect_keys(struct finder *f, unsigned from, unsigned nr, uint64_t number, struct err *err)
{
	uint64_t is;
	int rc;

	for (unsigned i = from; i < from + nr; i++) {
		rc = finder_get(f, FINDER_NODE, 12, hi_of(i), lo_of(i), &is, err);
		if (rc < 0)
			return -1;
		if (rc == 0)
			return err_set(err, ERR_FORMAT, "key %u is not there", i);
		if (is != number + i)
			return err_set(err, ERR_FORMAT, "key %u has number %llu", i, (unsigned long long)is);
	}
	return 0;
}

static int check_keys(struct finder *f, struct crash_moment m, struct err *err)
{
	uint64_t covered = finder_covered(f);

	if (m.done && covered != COVERED_SMALL)
		return err_set(err, ERR_FORMAT, "done, and covered is %u", (unsigned)covered);
	if (covered != COVERED_BEFORE && covered != COVERED_LARGE && covered != COVERED_SMALL)
		return err_set(err, ERR_FORMAT, "covered is %u", (unsigned)covered);
	if (expect_keys(f, 0, NR_SMALL, covered == COVERED_SMALL ? 5000 : 1000, err) < 0 ||
	    expect_keys(f, NR_SMALL, NR_BEFORE - NR_SMALL, 1000, err) < 0)
		return -1;
	return covered > COVERED_BEFORE ? expect_keys(f, NR_BEFORE, NR_LARGE, 1000, err) : 0;
}

static int check_finder(void *ctx, struct sim *s, struct crash_moment m, struct err *err)
{
	struct finding *k = ctx;
	bool whole = true, was_lost = k->was_lost;
	struct finder *f;
	int dir, rc = -1;

	k->was_lost = false;
	if (m.lied)
		return 0;
	if (was_lost && !(k->may_be_lost && !m.done))
		return err_set(err, ERR_FORMAT, "it was not whole");
	f = open_finder(s, false, &whole, &dir, err);
	if (f && !whole)
		err_set(err, ERR_FORMAT, "it is not whole");
	else if (f)
		rc = was_lost || (k->may_be_lost && !m.done && finder_covered(f) == 0) ? 0 : check_keys(f, m, err);
	close_finder(f, dir);
	return rc;
}

static bool is_of_finder(void *ctx, const char *path, const struct stat *st)
{
	(void)ctx;
	(void)st;
	return strcmp(path, "/r") == 0 || (strncmp(path, "/r/", 3) == 0 && !strstr(path, ".tmp"));
}

static struct crash_workflow finding(struct finding *k)
{
	return (struct crash_workflow){
		.name = "add, sync and merge",
		.setup = set_up_tables,
		.run = use_finder,
		.recover = clear_what_is_lost,
		.check = check_finder,
		.ctx = k,
		.belongs = is_of_finder,
		.root = "/r",
		.cut_again = getenv("LONG") ? 1 : 29,
		.cuts.pairs_max = getenv("LONG") ? 2000 : 10,
	};
}

static void tables_have_what_was_synced(void **state)
{
	struct finding k = { 0 };
	struct crash_workflow w = finding(&k);

	(void)state;
	assert_passes(&w);
}

static void syncs_that_are_missing_in_a_finder_are_caught(void **state)
{
	struct finding k = { 0 };
	struct crash_workflow w = finding(&k);

	(void)state;
	w.mistake = tell_lie;
	for (unsigned at = 4; at <= 6; at++) { /* tables, the list; filters come before them */
		lie = (struct lie){ SIM_FDATASYNC, at };
		k = (struct finding){ 0 };
		assert_caught(crash_try_cuts, &w, "c: ");
	}
	k = (struct finding){ 0 };
	lie = (struct lie){ SIM_FSYNC, 1 };
	assert_caught(crash_try_cuts, &w, "c: it was not whole");
}

/* ---- all of it ---- */

#define NR_LEAVES 200u /* more than the buffer of the nodes holds: some are written before any sync */

static struct pool *open_pool(struct sim *s, bool writing, struct err *err)
{
	int dir = open_dir(s, "r", err);
	struct pool *p = NULL;

	if (dir < 0)
		return NULL;
	if (pool_open(dir, "p", "/r/p", writing, &p, err) == 0 && !p)
		err_set(err, ERR_FORMAT, "there is no pool");
	file_ops->close(dir);
	return p;
}

static void leaf_digest(unsigned i, uint8_t ret[DIGEST_SIZE])
{
	memset(ret, (int)(i % 251 + 1), DIGEST_SIZE);
	le32_store(ret, i * 0x9e3779b9u);
}

/* Two clusters that take turns, with another between them, so that its map is long. */
static int put_leaf(struct pool *p, unsigned i, struct err *err)
{
	struct leaf leaf = { .unit_bits = 12, .nr_runs = SEGMENT_BLOCKS };
	uint8_t cluster[3 * CLUSTER] = { 0 };
	uint64_t at;

	leaf_digest(i, leaf.digest);
	memset(cluster, (int)(i % 255 + 1), CLUSTER);
	memset(cluster + 2 * CLUSTER, (int)(i % 13 + 1), CLUSTER);
	if (clusters_append(p->clusters, cluster, sizeof(cluster), CLUSTER, &at, err) < 0)
		return -1;
	for (uint32_t run = 0; run < SEGMENT_BLOCKS; run++)
		leaf.runs[run] = (struct run){ run, 1, at / CLUSTER + (run % 2 ? 0 : 2) };
	return nodes_put_leaf(p->nodes, &leaf, err);
}

static int expect_leaf(struct pool *p, unsigned i, struct err *err)
{
	uint8_t digest[DIGEST_SIZE], cluster[CLUSTER];
	struct leaf leaf;

	leaf_digest(i, digest);
	if (nodes_get_leaf(p->nodes, digest, 12, &leaf, err) < 0)
		return -1;
	for (unsigned run = 0; run < 2; run++) {
		uint8_t should = (uint8_t)(run ? i % 255 + 1 : i % 13 + 1);

		if (clusters_read(p->clusters, cluster, CLUSTER, leaf.runs[run].place * CLUSTER, err) < 0)
			return err_add(err, "leaf %u", i);
		if (cluster[0] != should || cluster[CLUSTER - 1] != should)
			return err_set(err, ERR_FORMAT, "leaf %u has other clusters", i);
	}
	return 0;
}

static void set_up_pool(void *ctx, struct sim *s)
{
	struct pool *p;

	set_up_nothing(ctx, s);
	assert_int_equal(make_pool(ctx, s, NULL), 0);
	p = open_pool(s, true, NULL);
	assert_non_null(p);
	assert_int_equal(put_leaf(p, NR_LEAVES, NULL), 0);
	assert_int_equal(pool_sync(p, NULL), 0);
	pool_close(p);
}

static int put_leaves(void *ctx, struct sim *s, struct err *err)
{
	struct pool *p = open_pool(s, true, err);
	int rc = p ? 0 : -1;

	(void)ctx;
	for (unsigned i = 0; i < NR_LEAVES && rc == 0; i++)
		rc = put_leaf(p, i, err);
	if (rc == 0)
		rc = pool_sync(p, err);
	pool_close(p);
	return rc;
}

static int expect_leaves(struct sim *s, unsigned from, bool writing, struct err *err)
{
	struct pool *p = open_pool(s, writing, err);
	int rc = p ? 0 : -1;

	for (unsigned i = from; i <= NR_LEAVES && rc == 0; i++)
		rc = expect_leaf(p, i, err);
	pool_close(p);
	return rc;
}

/* What was synced is there, and who imports the same again can rely on what he finds. */
static int check_leaves(void *ctx, struct sim *s, struct crash_moment m, struct err *err)
{
	if (m.lied)
		return 0;
	if (expect_leaves(s, m.done ? 0 : NR_LEAVES, false, err) < 0 || put_leaves(ctx, s, err) < 0)
		return -1;
	return expect_leaves(s, 0, true, err);
}

static int open_and_close(void *ctx, struct sim *s, struct err *err)
{
	struct pool *p = open_pool(s, true, err);

	(void)ctx;
	pool_close(p);
	return p ? 0 : -1;
}

static void what_a_dead_process_imported_can_be_imported_again(void **state)
{
	struct crash_workflow w = { .name = "import", .setup = set_up_pool, .run = put_leaves, .recover = open_and_close,
				    .check = check_leaves, .belongs = is_in_pool, .root = "/r", .cuts.pairs_max = 5 };

	(void)state;
	assert_survives(crash_try_kills, &w);
	assert_survives(crash_try_cuts, &w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_pool_is_whole_or_not_there),
		cmocka_unit_test(syncs_that_are_missing_in_a_new_pool_are_caught),
		cmocka_unit_test(headers_lead_to_what_they_should),
		cmocka_unit_test(syncs_that_are_missing_before_or_behind_headers_are_caught),
		cmocka_unit_test(tables_have_what_was_synced),
		cmocka_unit_test(syncs_that_are_missing_in_a_finder_are_caught),
		cmocka_unit_test(what_a_dead_process_imported_can_be_imported_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
