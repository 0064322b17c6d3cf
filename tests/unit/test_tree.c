/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include "compactor/pool/node_record.h"
#include "compactor/pool/pool_id.h"
#include "compactor/pool/tree.h"
#include "scanner/base/file.h"
#include "tests/unit/nodes_help.h"

/* Trees over segments whose digests are made up, and at the end over some that have bytes. */

static const uint8_t null[DIGEST_SIZE];
static struct nodes *nodes;
static int dir = -1;

/* ---- counting reads, failing writes ---- */

static struct file_ops ops;
static unsigned nr_reads;
static bool full;

static ssize_t counted_read(int fd, void *buf, size_t len, off_t offset)
{
	nr_reads++;
	return file_ops_os.pread(fd, buf, len, offset);
}

static ssize_t full_write(int fd, const void *buf, size_t len, off_t offset)
{
	if (!full)
		return file_ops_os.pwrite(fd, buf, len, offset);
	errno = ENOSPC;
	return -1;
}

static int make(void **state)
{
	uint64_t damaged;

	if (tree_make(state) < 0)
		return -1;
	ops = file_ops_os;
	ops.pread = counted_read;
	ops.pwrite = full_write;
	full = false;
	file_ops = &ops;
	dir = open(tree, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	nodes = nodes_open(dir, "nodes", NULL, NULL, true, &damaged, NULL);
	return nodes ? 0 : -1;
}

static int unmake(void **state)
{
	nodes_close(nodes);
	nodes = NULL;
	close(dir);
	file_ops = &file_ops_os;
	return tree_remove(state);
}

#define nodes_test(f) cmocka_unit_test_setup_teardown(f, make, unmake)

/* So that all is read from the file. */
static void flush(void)
{
	sync_nodes(nodes);
	nr_reads = 0;
}

/* ---- disks ---- */

/* A sparse disk: some segments, and what is in them (a number for its digest). */
#define PLACES_MAX 600

struct disk {
	uint64_t size;
	unsigned nr;
	uint64_t segments[PLACES_MAX], contents[PLACES_MAX];
	uint8_t root[DIGEST_SIZE];
};

static int ascending(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

/* Segments here and there: in a bunch at the beginning, one at the end, the rest anywhere. */
static struct disk disk_of(uint64_t number, uint64_t size, unsigned nr)
{
	static struct disk d;
	uint64_t last = div_up(size, SEGMENT_SIZE);
	unsigned kept = 0;

	d = (struct disk){ .size = size };
	for (unsigned i = 0; i < nr; i++)
		d.segments[i] = i == 1 ? last - 1 : (i % 4 ? mixed(number * 1000 + i) : i) % last;
	qsort(d.segments, nr, sizeof(d.segments[0]), ascending);
	for (unsigned i = 0; i < nr; i++)
		if (!i || d.segments[i] != d.segments[i - 1])
			d.segments[kept++] = d.segments[i];
	d.nr = kept;
	for (unsigned i = 0; i < kept; i++)
		d.contents[i] = mixed(number) + i % 50;
	return d;
}

static uint64_t content_of(const struct disk *d, uint64_t segment)
{
	const uint64_t *at = bsearch(&segment, d->segments, d->nr, sizeof(segment), ascending);

	return at ? d->contents[at - d->segments] : 0;
}

static void put_disk(struct disk *d)
{
	CLEANUP(tree_maker_free) struct tree_maker *m = tree_maker_new(nodes, d->size, NULL, 0, NULL);
	uint8_t digest[DIGEST_SIZE];

	assert_non_null(m);
	for (unsigned i = 0; i < d->nr; i++) {
		digest_of(d->contents[i], digest);
		assert_int_equal(tree_maker_add(m, d->segments[i], digest, NULL), 0);
	}
	assert_int_equal(tree_maker_end(m, d->root, NULL), 0);
}

static const uint64_t sizes[] = { 1,
				  SEGMENT_SIZE,
				  SEGMENT_SIZE + 1,
				  127 * SEGMENT_SIZE,
				  128 * SEGMENT_SIZE,
				  128 * SEGMENT_SIZE + 1,
				  700 * SEGMENT_SIZE,
				  128 * 128 * SEGMENT_SIZE,
				  (128 * 128 + 1) * SEGMENT_SIZE,
				  64 * TIB,
				  UINT64_MAX };

/* ---- making ---- */

static void a_root_is_that_of_the_digests_alone(void **state)
{
	static struct digest_tree t;
	uint8_t digest[DIGEST_SIZE], root[DIGEST_SIZE];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct disk d = disk_of(i, sizes[i], 300);

		put_disk(&d);
		digest_tree_begin(&t, d.size);
		for (unsigned k = 0; k < d.nr; k++) {
			digest_of(d.contents[k], digest);
			digest_tree_add(&t, d.segments[k], digest);
		}
		digest_tree_end(&t, root);
		assert_memory_equal(root, d.root, DIGEST_SIZE);
	}
}

static void zeros_are_null_and_store_nothing(void **state)
{
	uint8_t root[DIGEST_SIZE] = { 1 };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct tree_maker *m = tree_maker_new(nodes, sizes[i], NULL, 0, NULL);

		assert_int_equal(tree_maker_add(m, 0, null, NULL), 0);
		assert_int_equal(tree_maker_end(m, root, NULL), 0);
		assert_memory_equal(root, null, DIGEST_SIZE);
		tree_maker_free(m);
	}
	assert_int_equal(nodes_bytes(nodes), 0);
}

static void a_tree_that_changed_in_one_place_shares_the_rest(void **state)
{
	struct disk d = disk_of(1, 128 * 128 * SEGMENT_SIZE, 600);
	uint64_t first;

	(void)state;
	put_disk(&d);
	first = nodes_bytes(nodes);
	put_disk(&d);
	assert_int_equal(nodes_bytes(nodes), first);
	d.contents[300]++;
	put_disk(&d);
	assert_in_range(nodes_bytes(nodes) - first, 1, 2 * 4200); /* a node of each level */
}

static void a_node_that_cannot_be_written_fails_the_tree(void **state)
{
	struct tree_maker *m = tree_maker_new(nodes, 64 * TIB, NULL, 0, NULL);
	struct err err = ERR_INIT;
	uint8_t digest[DIGEST_SIZE];
	int rc = 0;

	(void)state;
	full = true;
	for (uint64_t i = 0; i < 20000 && rc == 0; i++) {
		digest_of(i, digest);
		rc = tree_maker_add(m, i, digest, &err);
	}
	assert_int_equal(rc, -1);
	assert_int_equal(err.kind, ERR_FULL);
	full = false;
	assert_int_equal(tree_maker_end(m, digest, &err), -1);
	tree_maker_free(m);
}

/* ---- versions of one disk ---- */

#define VERSION_SEGMENTS (128 * 512) /* of 128 GiB */
#define VERSION_SIZE ((uint64_t)VERSION_SEGMENTS * SEGMENT_SIZE)
static uint64_t version[VERSION_SEGMENTS]; /* what is in each segment; 0 = zeros */

/* As it is now; returns the bytes that it takes. */
static uint64_t put_version(const uint8_t *base, uint64_t base_size, uint8_t ret[DIGEST_SIZE])
{
	CLEANUP(tree_maker_free) struct tree_maker *m = tree_maker_new(nodes, VERSION_SIZE, base, base_size, NULL);
	uint64_t before = nodes_bytes(nodes);
	uint8_t digest[DIGEST_SIZE];

	assert_non_null(m);
	for (uint64_t i = 0; i < VERSION_SEGMENTS; i++) {
		if (!version[i])
			continue;
		put_leaf(nodes, leaf_of(version[i], 12, 1, 0));
		digest_of(version[i], digest);
		assert_int_equal(tree_maker_add(m, i, digest, NULL), 0);
	}
	assert_int_equal(tree_maker_end(m, ret, NULL), 0);
	return nodes_bytes(nodes) - before;
}

static void expect_version(const uint8_t root[DIGEST_SIZE])
{
	CLEANUP(tree_walk_free) struct tree_walk *w = tree_walk_new(nodes, root, VERSION_SIZE, NULL);
	uint8_t digest[DIGEST_SIZE], expected[DIGEST_SIZE];
	struct err err = ERR_INIT;
	uint64_t at = 0;

	for (uint64_t i = 0; i < VERSION_SEGMENTS; i++) {
		if (!version[i])
			continue;
		if (tree_walk_next(w, at, &at, digest, &err) != 1)
			fail_msg("%s", err.text);
		assert_int_equal(at++, i);
		digest_of(version[i], expected);
		assert_memory_equal(digest, expected, DIGEST_SIZE);
	}
	assert_int_equal(tree_walk_next(w, at, &at, digest, NULL), 0);
}

/* 1 %, one by one all over the disk or in a row. */
static void change_version(uint64_t number, bool in_a_row)
{
	for (uint64_t i = 0; i < VERSION_SEGMENTS / 100; i++)
		version[in_a_row ? number % 64 * 1000 + i : mixed(number * 1000 + i) % VERSION_SEGMENTS] = (number + 1) << 32 | i;
}

static void a_version_adds_little_more_than_it_changes(void **state)
{
	uint8_t roots[2][DIGEST_SIZE];
	uint64_t whole, added, sum = 0;

	(void)state;
	for (uint64_t i = 0; i < VERSION_SEGMENTS; i++)
		version[i] = i + 1;
	whole = put_version(NULL, 0, roots[0]);
	for (unsigned n = 1; n <= 100; n++) {
		change_version(n, n % 20 == 0);
		added = put_version(roots[0], VERSION_SIZE, roots[1]);
		if (n <= 50)
			assert_in_range(added * 10000 / whole, 90, 149); /* 0.9 to 1.5 % of a tree */
		sum += added;
		memcpy(roots[0], roots[1], DIGEST_SIZE);
		if (n % 10 == 0)
			expect_version(roots[0]);
	}
	assert_in_range(sum * 100 / whole, 100, 180); /* of a hundred, among which chains of deltas end: 1.8 % each */
}

/* Every kind of change: to zeros and from zeros, of one node and of all below it. */
static void versions_with_a_base_are_what_they_are_without(void **state)
{
	uint8_t root[DIGEST_SIZE], base[DIGEST_SIZE] = { 0 }, alone[DIGEST_SIZE];
	uint64_t sizes_of_base[] = { VERSION_SIZE, VERSION_SIZE - 1, 128 * 128 * SEGMENT_SIZE, 64 * TIB };

	(void)state;
	memset(version, 0, sizeof(version));
	for (unsigned n = 0; n < 60; n++) {
		for (uint64_t i = 0; i < 5u << n % 11; i++) {
			uint64_t at = mixed(n) % (VERSION_SEGMENTS - 10000) + (n % 3 ? i * (1 + n % 5) : mixed(i) % 10000);

			version[at % VERSION_SEGMENTS] = n % 4 == 3 ? 0 : n * 100000 + i % 7 + 1;
		}
		put_version(base, sizes_of_base[n % ARRAY_SIZE(sizes_of_base)], root);
		expect_version(root);
		put_version(NULL, 0, alone);
		assert_memory_equal(root, alone, DIGEST_SIZE);
		memcpy(base, root, DIGEST_SIZE);
	}
}

/* ---- walking ---- */

static void a_walk_meets_every_segment_in_order(void **state)
{
	uint8_t digest[DIGEST_SIZE], expected[DIGEST_SIZE];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct disk d = disk_of(i, sizes[i], 600);
		struct tree_walk *w;
		uint64_t at = 0;

		put_disk(&d);
		w = tree_walk_new(nodes, d.root, d.size, NULL);
		for (unsigned k = 0; k < d.nr; k++, at++) {
			assert_int_equal(tree_walk_next(w, at, &at, digest, NULL), 1);
			assert_int_equal(at, d.segments[k]);
			digest_of(d.contents[k], expected);
			assert_memory_equal(digest, expected, DIGEST_SIZE);
		}
		assert_int_equal(tree_walk_next(w, at, &at, digest, NULL), 0);
		assert_int_equal(tree_walk_next(w, UINT64_MAX, &at, digest, NULL), 0);
		tree_walk_free(w);
	}
}

static void a_walk_goes_to_any_place(void **state)
{
	uint8_t digest[DIGEST_SIZE];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct disk d = disk_of(i, sizes[i], 40);
		struct tree_walk *w;

		put_disk(&d);
		w = tree_walk_new(nodes, d.root, d.size, NULL);
		for (unsigned k = 0; k < 2000; k++) {
			uint64_t from = mixed(k) % (k % 2 ? 200 : div_up(sizes[i], SEGMENT_SIZE) + 1), got = 77;
			unsigned next = 0;

			if (k % 5 == 0)
				from = d.segments[k % d.nr] + k % 3 - (d.segments[k % d.nr] ? 1 : 0);
			while (next < d.nr && d.segments[next] < from)
				next++;
			assert_int_equal(tree_walk_next(w, from, &got, digest, NULL), next < d.nr);
			assert_int_equal(got, next < d.nr ? d.segments[next] : 77);
		}
		tree_walk_free(w);
	}
}

static void a_walk_reads_each_node_once_and_none_for_zeros(void **state)
{
	struct disk d = disk_of(1, 64 * TIB, 2); /* the first segment and the last: 4 levels each, of which they share the root */
	uint8_t digest[DIGEST_SIZE];
	struct tree_walk *w;
	uint64_t at = 0;

	(void)state;
	put_disk(&d);
	w = tree_walk_new(nodes, d.root, d.size, NULL);
	flush();
	for (; tree_walk_next(w, at, &at, digest, NULL) == 1; at++)
		;
	assert_int_equal(nr_reads, 7);
	tree_walk_free(w);
}

static void a_walk_says_what_is_missing(void **state)
{
	struct inner inner = inner_of(1, 2, 5);
	char text[DIGEST_TEXT_ROOM];
	uint8_t digest[DIGEST_SIZE];
	struct err err = ERR_INIT;
	struct tree_walk *w;
	uint64_t at;

	(void)state;
	put_inner(nodes, inner);
	w = tree_walk_new(nodes, inner.digest, 128 * 128 * SEGMENT_SIZE, NULL);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(tree_walk_next(w, 0, &at, digest, &err), -1);
		assert_int_equal(err.kind, ERR_FORMAT);
	}
	for (unsigned i = 0, nr = 0; i < DIGEST_FANOUT; i++)
		if (!digest_is_null(inner.children[i]) && nr++ == 0)
			assert_non_null(strstr(err.text, digest_text(inner.children[i], text)));
	tree_walk_free(w);
}

static uint64_t found;

static int find_offset(void *ctx, uint64_t offset, const struct leaf *leaf, const struct inner *inner, struct err *err)
{
	(void)err;
	if (!leaf && memcmp(inner->digest, ctx, DIGEST_SIZE) == 0)
		found = offset;
	return 0;
}

/* A node that is damaged with a right checksum must not be mixed up with the one that was at hand. */
static void a_walk_goes_on_beside_a_damaged_node(void **state)
{
	struct inner first = inner_of(1, 1, 3), second = inner_of(2, 1, 128), root = { .level = 2 };
	uint8_t record[NODE_RECORD_MAX], digest[DIGEST_SIZE];
	struct tree_walk *w;
	uint64_t at;
	size_t len;
	int fd;

	(void)state;
	memcpy(root.children[0], first.digest, DIGEST_SIZE);
	memcpy(root.children[1], second.digest, DIGEST_SIZE);
	digest_bytes(root.children, sizeof(root.children), root.digest);
	put_inner(nodes, first);
	put_inner(nodes, second);
	put_inner(nodes, root);
	flush();
	assert_int_equal(nodes_each(nodes, find_offset, second.digest, NULL), 0);
	second.children[5][0] ^= 1;
	len = node_record_of_inner(&second, record);
	fd = open(in_tree("nodes"), O_RDWR);
	assert_int_equal(pwrite(fd, record, len, (off_t)found), len);
	close(fd);
	w = tree_walk_new(nodes, root.digest, 256 * SEGMENT_SIZE, NULL);
	assert_int_equal(tree_walk_next(w, 0, &at, digest, NULL), 1);
	assert_memory_equal(digest, first.children[at], DIGEST_SIZE);
	assert_int_equal(tree_walk_next(w, 128, &at, digest, NULL), -1);
	assert_int_equal(tree_walk_next(w, 0, &at, digest, NULL), 1);
	assert_memory_equal(digest, first.children[at], DIGEST_SIZE);
	tree_walk_free(w);
}

static int no_call(void *ctx, uint64_t segment, const uint8_t in_a[DIGEST_SIZE], const uint8_t in_b[DIGEST_SIZE], struct err *err)
{
	(void)ctx;
	(void)segment;
	(void)in_a;
	(void)in_b;
	return err_set(err, ERR_CANCELED, "no call was expected");
}

static void a_tree_of_a_larger_disk_is_refused(void **state)
{
	struct disk d = disk_of(1, 128 * SEGMENT_SIZE, 2);
	uint8_t digest[DIGEST_SIZE];
	struct err err = ERR_INIT;
	struct tree_walk *w;
	uint64_t at;

	(void)state;
	put_disk(&d);
	w = tree_walk_new(nodes, d.root, 127 * SEGMENT_SIZE, NULL);
	assert_int_equal(tree_walk_next(w, 1, &at, digest, &err), -1);
	assert_int_equal(err.kind, ERR_FORMAT);
	tree_walk_free(w);
	d.nr = 1;
	memcpy(digest, d.root, DIGEST_SIZE);
	put_disk(&d);
	err = ERR_INIT;
	assert_int_equal(tree_diff(nodes, digest, 127 * SEGMENT_SIZE, d.root, d.size, no_call, NULL, &err), -1);
	assert_int_equal(err.kind, ERR_FORMAT);
}

/* ---- differences ---- */

struct differences {
	const struct disk *a, *b;
	uint64_t next;
	unsigned nr, stop_at;
};

static void expect_content(const uint8_t digest[DIGEST_SIZE], uint64_t content)
{
	uint8_t expected[DIGEST_SIZE] = { 0 };

	if (content)
		digest_of(content, expected);
	assert_memory_equal(digest, expected, DIGEST_SIZE);
}

static int note(void *ctx, uint64_t segment, const uint8_t in_a[DIGEST_SIZE], const uint8_t in_b[DIGEST_SIZE], struct err *err)
{
	struct differences *d = ctx;

	(void)err;
	assert_true(segment >= d->next);
	d->next = segment + 1;
	expect_content(in_a, content_of(d->a, segment));
	expect_content(in_b, content_of(d->b, segment));
	assert_memory_not_equal(in_a, in_b, DIGEST_SIZE);
	return ++d->nr == d->stop_at ? 5 : 0;
}

static unsigned nr_different(const struct disk *a, const struct disk *b)
{
	unsigned nr = 0;

	for (unsigned i = 0; i < a->nr; i++)
		nr += a->contents[i] != content_of(b, a->segments[i]);
	for (unsigned i = 0; i < b->nr; i++)
		nr += !content_of(a, b->segments[i]);
	return nr;
}

static unsigned compare(const struct disk *a, const struct disk *b)
{
	struct differences d = { .a = a, .b = b };

	assert_int_equal(tree_diff(nodes, a->root, a->size, b->root, b->size, note, &d, NULL), 0);
	return d.nr;
}

/* As large a part as the new size lets, and a few changes. */
static struct disk changed(const struct disk *old, uint64_t size, unsigned changes)
{
	static struct disk d;

	d = *old;
	d.size = size;
	while (d.nr && d.segments[d.nr - 1] >= div_up(size, SEGMENT_SIZE))
		d.nr--;
	for (unsigned i = 0; i < changes && d.nr; i++)
		d.contents[mixed(i + size) % d.nr] += 1000;
	if (d.nr && changes > 3)
		d.nr--;
	return d;
}

static void all_differences_are_found(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		for (size_t k = 0; k < ARRAY_SIZE(sizes); k++) {
			struct disk a = disk_of(i, sizes[i], 200), b = changed(&a, sizes[k], k % 3 * 3),
				    c = disk_of(k + 50, sizes[k], 100);

			put_disk(&a);
			put_disk(&b);
			put_disk(&c);
			assert_int_equal(compare(&a, &b), nr_different(&a, &b));
			assert_int_equal(compare(&b, &a), nr_different(&a, &b));
			assert_int_equal(compare(&a, &c), nr_different(&a, &c));
			assert_int_equal(compare(&a, &a), 0);
		}
	}
}

static void all_of_it_differs_from_zeros(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct disk a = disk_of(i, sizes[i], 200), none = { .size = 1 }, larger = { .size = UINT64_MAX };

		put_disk(&a);
		assert_int_equal(compare(&a, &none), a.nr);
		assert_int_equal(compare(&larger, &a), a.nr);
		assert_int_equal(compare(&larger, &none), 0);
	}
}

static void equal_subtrees_are_not_read(void **state)
{
	struct disk a = disk_of(1, 128 * 128 * SEGMENT_SIZE, 600), b, grown;

	(void)state;
	put_disk(&a);
	b = changed(&a, a.size, 1);
	put_disk(&b);
	grown = changed(&a, 64 * TIB, 0);
	put_disk(&grown);
	flush();
	assert_int_equal(compare(&a, &b), 1);
	assert_int_equal(nr_reads, 4); /* a node of each level of both */
	flush();
	assert_int_equal(compare(&a, &a), 0);
	assert_int_equal(compare(&a, &grown), 0);
	assert_int_equal(nr_reads, 0);
	assert_int_equal(compare(&b, &grown), 1);
	assert_int_equal(nr_reads, 2 + 4);
}

static void the_first_call_that_says_so_ends_it(void **state)
{
	struct disk a = disk_of(1, 700 * SEGMENT_SIZE, 200), b = disk_of(2, 700 * SEGMENT_SIZE, 100);
	struct differences d = { .a = &a, .b = &b, .stop_at = 3 };

	(void)state;
	put_disk(&a);
	put_disk(&b);
	assert_int_equal(tree_diff(nodes, a.root, a.size, b.root, b.size, note, &d, NULL), 5);
	assert_int_equal(d.nr, 3);
}

/* ---- reading ---- */

static const uint8_t uuid[POOL_ID_SIZE] = { 1 };
static char name[POOL_FILE_NAME_ROOM];
static struct clusters *clusters;
static uint8_t segment[SEGMENT_SIZE], got[SEGMENT_SIZE];

static void open_clusters(void)
{
	struct err err = ERR_INIT;

	if (cluster_file_create(dir, pool_id_file_name(uuid, name), uuid, &err) < 0 || !(clusters = clusters_open(dir, true, &err)))
		fail_msg("%s", err.text);
}

/* Fills the segment with runs of a leaf, the rest with zeros, and stores both. */
static struct leaf put_segment(uint64_t number, unsigned unit_bits, unsigned nr_runs)
{
	struct leaf l = leaf_of(number, unit_bits, nr_runs, 0);

	memset(segment, 0, sizeof(segment));
	for (unsigned i = 0; i < l.nr_runs; i++) {
		struct run *r = &l.runs[i];
		uint8_t *at = segment + ((size_t)r->first << unit_bits);
		size_t len = (size_t)r->nr << unit_bits;
		uint64_t place;

		for (size_t k = 0; k < len; k += 8)
			le64_store(at + k, mixed(number * 10 + i) + k);
		assert_int_equal(clusters_append(clusters, at, len, 1u << unit_bits, &place, NULL), 0);
		r->place = place >> unit_bits;
		if (i && r->first == r[-1].first + r[-1].nr) { /* so that they do not touch */
			assert_int_equal(clusters_append(clusters, at, len, 1u << unit_bits, &place, NULL), 0);
			r->place = place >> unit_bits;
		}
	}
	digest_bytes(segment, sizeof(segment), l.digest);
	put_leaf(nodes, l);
	return l;
}

static void segments_are_read_and_proven(void **state)
{
	(void)state;
	open_clusters();
	for (unsigned i = 0; i < 60; i++) {
		struct leaf l = put_segment(i, 12 + i % 3 * 2, 1 + i % 7 * 5);

		memset(got, 0xee, sizeof(got));
		assert_int_equal(tree_read_segment(nodes, clusters, l.digest, got, NULL), 0);
		assert_memory_equal(got, segment, sizeof(got));
	}
	memset(got, 0xee, sizeof(got));
	memset(segment, 0, sizeof(segment));
	assert_int_equal(tree_read_segment(nodes, clusters, null, got, NULL), 0);
	assert_memory_equal(got, segment, sizeof(got));
	clusters_close(clusters);
}

static void expect_damage(const uint8_t digest[DIGEST_SIZE])
{
	char text[DIGEST_TEXT_ROOM];
	struct err err = ERR_INIT;

	assert_int_equal(tree_read_segment(nodes, clusters, digest, got, &err), -1);
	assert_int_equal(err.kind, ERR_IO);
	assert_non_null(strstr(err.text, digest_text(digest, text)));
}

static void wrong_bytes_are_never_given(void **state)
{
	struct leaf l, healed, past;
	uint64_t place;
	int fd;

	(void)state;
	open_clusters();
	l = put_segment(1, 12, 5);
	assert_int_equal(clusters_sync(clusters, NULL), 0);
	fd = open(in_tree(name), O_RDWR);
	assert_int_equal(pwrite(fd, "damaged", 7, (off_t)(l.runs[0].place << 12)), 7);
	close(fd);
	expect_damage(l.digest);
	assert_int_equal(tree_read_leaf(clusters, &l, got, NULL), 0); /* which proves nothing */
	assert_memory_not_equal(got, segment, sizeof(got));

	/* a map that cannot be read, one that can */
	past = l;
	past.unit_bits = 14;
	past.nr_runs = 1;
	past.runs[0] = (struct run){ 0, 1, (clusters_end(clusters) >> 14) + 10 };
	put_leaf(nodes, past);
	expect_damage(l.digest);
	healed = l;
	healed.unit_bits = 16;
	healed.nr_runs = 1;
	assert_int_equal(clusters_append(clusters, segment, sizeof(segment), 1 << 16, &place, NULL), 0);
	healed.runs[0] = (struct run){ 0, 32, place >> 16 };
	put_leaf(nodes, healed);
	assert_int_equal(tree_read_segment(nodes, clusters, l.digest, got, NULL), 0);
	assert_memory_equal(got, segment, sizeof(got));

	digest_of(5, l.digest);
	expect_damage(l.digest); /* no leaf at all */
	clusters_close(clusters);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		nodes_test(a_root_is_that_of_the_digests_alone),
		nodes_test(zeros_are_null_and_store_nothing),
		nodes_test(a_tree_that_changed_in_one_place_shares_the_rest),
		nodes_test(a_node_that_cannot_be_written_fails_the_tree),
		nodes_test(a_version_adds_little_more_than_it_changes),
		nodes_test(versions_with_a_base_are_what_they_are_without),
		nodes_test(a_walk_meets_every_segment_in_order),
		nodes_test(a_walk_goes_to_any_place),
		nodes_test(a_walk_reads_each_node_once_and_none_for_zeros),
		nodes_test(a_walk_says_what_is_missing),
		nodes_test(a_walk_goes_on_beside_a_damaged_node),
		nodes_test(a_tree_of_a_larger_disk_is_refused),
		nodes_test(all_differences_are_found),
		nodes_test(all_of_it_differs_from_zeros),
		nodes_test(equal_subtrees_are_not_read),
		nodes_test(the_first_call_that_says_so_ends_it),
		nodes_test(segments_are_read_and_proven),
		nodes_test(wrong_bytes_are_never_given),
	};

	if (digest_prepare(NULL) < 0)
		return 0;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
