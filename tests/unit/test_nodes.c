/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include "compactor/pool/node_record.h"
#include "compactor/pool/pool_id.h"
#include "scanner/base/crc32c.h"
#include "tests/unit/nodes_help.h"

#define FILE_NAME "nodes"

/* ---- opening and closing ---- */

static const uint8_t uuid[POOL_ID_SIZE] = { 1, 2, 3 };
static bool with_finder;
static struct finder *finder;
static int dir = -1, finder_dir = -1;
static uint64_t damaged;
static int clusters_dir;
static struct clusters *clusters; /* NULL = maps may lead anywhere */

static struct nodes *open_as(bool finding, bool writing)
{
	struct err err = ERR_INIT;
	struct nodes *n;
	bool whole;

	dir = open(tree, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	mkdir(in_tree("finder"), 0700);
	finder_dir = open(in_tree("finder"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	finder = finding ? finder_open(finder_dir, uuid, 1 << 20, writing, &whole, &err) : NULL;
	assert_true(!finding || finder);
	n = nodes_open(dir, FILE_NAME, clusters, finder, writing, &damaged, &err);
	if (!n)
		fail_msg("%s", err.text);
	return n;
}

static struct nodes *open_writing(void)
{
	return open_as(with_finder, true);
}

static struct nodes *open_reading(void)
{
	return open_as(false, false);
}

static void close_nodes(struct nodes *n)
{
	nodes_close(n);
	finder_close(finder);
	finder = NULL;
	close(finder_dir);
	close(dir);
}

static void sync_all(struct nodes *n)
{
	uint64_t end;

	sync_nodes(n);
	assert_int_equal(nodes_sync(n, &end, NULL), 0);
	if (finder)
		assert_int_equal(finder_sync(finder, end, NULL), 0);
}

static uint8_t *slurp(size_t *ret_len)
{
	uint8_t *p = malloc(4 << 20);
	int fd = open(in_tree(FILE_NAME), O_RDONLY);
	ssize_t n = read(fd, p, 4 << 20);

	assert_true(fd >= 0 && n >= 0 && n < 4 << 20);
	close(fd);
	*ret_len = (size_t)n;
	return p;
}

static void spill(const uint8_t *p, size_t len)
{
	unlink(in_tree(FILE_NAME));
	tree_write(FILE_NAME, p, len);
}

/* Where the records are. */
static uint64_t offsets[64];
static unsigned nr_offsets;

static int note(void *ctx, uint64_t offset, const struct leaf *leaf, const struct inner *inner, struct err *err)
{
	(void)ctx;
	(void)err;
	assert_true(!leaf || !inner);
	offsets[nr_offsets++] = offset;
	return 0;
}

static unsigned count(struct nodes *n)
{
	nr_offsets = 0;
	assert_int_equal(nodes_each(n, note, NULL, NULL), 0);
	return nr_offsets;
}

/* ---- maps as bytes ---- */

static void a_map_is_decoded_as_it_was_encoded(void **state)
{
	uint8_t buf[POOL_NODE_PAYLOAD_MAX];
	static struct leaf leaf, got;

	(void)state;
	for (unsigned bits = 12; bits <= 16; bits += 2) {
		for (unsigned i = 0; i < 3000; i++) {
			leaf = leaf_of(i, bits, 1 + i % (i % 7 ? 6 : 512), 0);
			assert_int_equal(leaf_decode(buf, leaf_encode(&leaf, buf), bits, &got, NULL), 0);
			memcpy(got.digest, leaf.digest, DIGEST_SIZE);
			got.hint = leaf.hint;
			assert_true(same_leaf(&got, &leaf));
		}
	}
}

static void the_longest_map_fits(void **state)
{
	const uint64_t begin = POOL_DATA_BEGIN / BLOCK_SIZE, end = POOL_FILE_MAX / BLOCK_SIZE;
	static struct leaf leaf = { .unit_bits = 12, .nr_runs = SEGMENT_BLOCKS }, got;
	uint8_t buf[POOL_NODE_PAYLOAD_MAX];

	(void)state;
	for (unsigned i = 0; i < SEGMENT_BLOCKS; i++)
		leaf.runs[i] = (struct run){ i, 1, i % 2 ? begin : end - 1 };
	assert_int_equal(leaf_decode(buf, leaf_encode(&leaf, buf), 12, &got, NULL), 0);
	assert_true(same_leaf(&got, &leaf));
}

static int decode_runs(unsigned bits, unsigned nr, const struct run *runs)
{
	static struct leaf leaf, got;
	uint8_t buf[POOL_NODE_PAYLOAD_MAX];

	leaf = (struct leaf){ .unit_bits = bits, .nr_runs = nr };
	for (unsigned i = 0; i < nr; i++)
		leaf.runs[i] = runs[i];
	return leaf_decode(buf, leaf_encode(&leaf, buf), bits, &got, NULL);
}

static void maps_that_cannot_be_are_refused(void **state)
{
	const uint64_t b = POOL_DATA_BEGIN >> 14, e = POOL_FILE_MAX >> 14;

	(void)state;
	assert_int_equal(decode_runs(14, 1, (struct run[]){ { 0, 128, b } }), 0);
	assert_int_equal(decode_runs(14, 1, (struct run[]){ { 0, 129, b } }), -1);
	assert_int_equal(decode_runs(14, 1, (struct run[]){ { 127, 1, b } }), 0);
	assert_int_equal(decode_runs(14, 1, (struct run[]){ { 128, 1, b } }), -1);
	assert_int_equal(decode_runs(14, 1, (struct run[]){ { 127, 2, b } }), -1);
	assert_int_equal(decode_runs(14, 1, (struct run[]){ { 5, 0, b } }), -1);
	assert_int_equal(decode_runs(14, 1, (struct run[]){ { 0, 1, b - 1 } }), -1);
	assert_int_equal(decode_runs(14, 1, (struct run[]){ { 0, 2, e - 2 } }), 0);
	assert_int_equal(decode_runs(14, 1, (struct run[]){ { 0, 3, e - 2 } }), -1);
	assert_int_equal(decode_runs(14, 1, (struct run[]){ { 0, 1, UINT64_MAX } }), -1);
	assert_int_equal(decode_runs(14, 2, (struct run[]){ { 0, 2, b }, { 2, 1, b + 3 } }), 0);
	assert_int_equal(decode_runs(14, 2, (struct run[]){ { 0, 2, b }, { 3, 1, b + 2 } }), 0);
	assert_int_equal(decode_runs(14, 2, (struct run[]){ { 0, 2, b }, { 2, 1, b + 2 } }), -1);
	assert_int_equal(decode_runs(14, 2, (struct run[]){ { 0, 2, b }, { 2, 1, 0 } }), -1);
	assert_int_equal(decode_runs(14, 2, (struct run[]){ { 0, 128, b }, { 128, 1, b } }), -1);
	assert_int_equal(decode_runs(14, 0, NULL), -1);
	assert_int_equal(decode_runs(13, 1, (struct run[]){ { 0, 1, b * 2 } }), -1);
	assert_int_equal(decode_runs(18, 1, (struct run[]){ { 0, 1, b } }), -1);
}

static void a_map_that_is_cut_has_fewer_runs_or_is_refused(void **state)
{
	static struct leaf leaf, got;
	uint8_t buf[POOL_NODE_PAYLOAD_MAX];
	unsigned nr = 0;
	size_t len;

	(void)state;
	leaf = leaf_of(7, 12, 20, 0);
	len = leaf_encode(&leaf, buf);
	for (size_t cut = 0; cut < len; cut++) {
		if (leaf_decode(buf, cut, 12, &got, NULL) < 0)
			continue;
		assert_int_equal(got.nr_runs, ++nr);
		assert_memory_equal(got.runs, leaf.runs, nr * sizeof(struct run));
	}
	assert_int_equal(nr, leaf.nr_runs - 1);
}

/* ---- finding what was put ---- */

static void nodes_are_found_before_and_after_a_sync(void **state)
{
	struct nodes *n = open_writing();
	struct leaf leaf = leaf_of(1, 12, 5, 0), none = leaf_of(2, 12, 5, 0);
	struct inner inner = inner_of(1, 1, 128);

	(void)state;
	put_leaf(n, leaf);
	put_inner(n, inner);
	for (int i = 0; i < 4; i++) {
		assert_true(has_leaf(n, &leaf));
		assert_true(has_inner(n, &inner));
		assert_false(has_leaf(n, &none));
		if (i == 0)
			sync_all(n);
		if (i > 0)
			close_nodes(n);
		n = i == 1 ? open_reading() : i == 2 ? open_writing() : n;
	}
}

static void many_nodes_are_all_found(void **state)
{
	struct nodes *n = open_writing();
	const unsigned nr = 20000; /* many times the buffer */

	(void)state;
	for (unsigned i = 0; i < nr; i++) {
		put_leaf(n, leaf_of(i, 12, 1 + i % 6, 0));
		if (i % 128 == 0)
			put_inner(n, inner_of(i, 1 + i % 3, i % 129 + !(i % 129)));
	}
	sync_all(n);
	for (int again = 0; again < 3; again++) {
		for (unsigned i = 0; i < nr; i++) {
			struct leaf l = leaf_of(i, 12, 1 + i % 6, 0);
			struct inner in = inner_of(i, 1 + i % 3, i % 129 + !(i % 129));

			assert_true(has_leaf(n, &l));
			assert_true(i % 128 || has_inner(n, &in));
		}
		close_nodes(n);
		if (again < 2)
			n = again ? open_writing() : open_reading();
		assert_int_equal(damaged, 0);
	}
}

static void equal_nodes_are_stored_once(void **state)
{
	struct nodes *n = open_writing();
	uint64_t bytes;

	(void)state;
	for (int i = 0; i < 3; i++) {
		put_leaf(n, leaf_of(1, 12, 5, 0));
		put_leaf(n, leaf_of(1, 12, 5, 9)); /* another map of the same segment */
		put_inner(n, inner_of(1, 1, 3));
		if (i == 0) {
			bytes = nodes_bytes(n);
		} else {
			assert_int_equal(nodes_bytes(n), bytes);
		}
		if (i == 1) {
			sync_all(n);
			close_nodes(n);
			n = open_writing();
		}
	}
	assert_int_equal(count(n), 2);
	close_nodes(n);
}

static void a_newer_map_is_found_instead_of_the_old_one(void **state)
{
	struct nodes *n = open_writing();
	struct leaf old = leaf_of(1, 12, 5, 0), new = leaf_of(1, 12, 5, 1), got;
	struct err err = ERR_INIT;

	(void)state;
	put_leaf(n, old);
	sync_all(n);
	assert_int_equal(nodes_replace_leaf(n, &new, &err), 0);
	for (int i = 0; i < 3; i++) {
		assert_true(has_leaf(n, &new));
		if (with_finder && i < 2) {
			assert_int_equal(nodes_find_segment(n, new.hint, 12, &got, &err), 1);
			assert_true(same_leaf(&got, &new));
		}
		if (i == 0)
			sync_nodes(n); /* and the finder not, so that it is told again */
		close_nodes(n);
		n = i ? open_reading() : open_writing();
	}
	assert_int_equal(count(n), 2);
	close_nodes(n);
}

static void units_are_told_apart(void **state)
{
	struct nodes *n = open_writing();
	struct leaf fine = leaf_of(1, 12, 5, 0), coarse = leaf_of(1, 16, 5, 0), got;

	(void)state;
	put_leaf(n, coarse);
	assert_int_equal(nodes_find_leaf(n, fine.digest, 12, &got, NULL), 1);
	assert_true(same_leaf(&got, &coarse));
	assert_false(has_leaf(n, &fine));
	put_leaf(n, fine);
	assert_true(has_leaf(n, &fine) && has_leaf(n, &coarse));
	assert_int_equal(nodes_find_leaf(n, fine.digest, 12, &got, NULL), 1);
	assert_true(same_leaf(&got, &fine));
	assert_int_equal(nodes_find_leaf(n, fine.digest, 14, &got, NULL), 1);
	assert_true(same_leaf(&got, &coarse));
	put_leaf(n, leaf_of(2, 12, 5, 0));
	digest_of(2, fine.digest);
	assert_int_equal(nodes_find_leaf(n, fine.digest, 14, &got, NULL), 0);
	close_nodes(n);
}

static void a_segment_is_found_by_its_fingerprint(void **state)
{
	struct nodes *n = open_as(true, true);
	struct leaf leaf = leaf_of(1, 12, 5, 0), nameless = leaf_of(2, 12, 5, 0), got;
	struct fingerprint other = { 1, 1 }, null = { 0, 0 };

	(void)state;
	nameless.hint = null;
	put_leaf(n, leaf);
	put_leaf(n, nameless);
	assert_int_equal(nodes_find_segment(n, leaf.hint, 12, &got, NULL), 1);
	assert_true(same_leaf(&got, &leaf));
	assert_int_equal(nodes_find_segment(n, leaf.hint, 16, &got, NULL), 0);
	assert_int_equal(nodes_find_segment(n, other, 12, &got, NULL), 0);
	assert_int_equal(nodes_find_segment(n, null, 12, &got, NULL), 0);
	/* a finder that is wrong */
	assert_int_equal(finder_add(finder, FINDER_SEGMENT, 12, other.hi, other.lo, 0, true, NULL), 0);
	assert_int_equal(nodes_find_segment(n, other, 12, &got, NULL), 0);
	assert_int_equal(finder_add(finder, FINDER_SEGMENT, 12, other.hi, other.lo, UINT64_MAX / 8, true, NULL), 0);
	assert_int_equal(nodes_find_segment(n, other, 12, &got, NULL), 0);
	close_nodes(n);
}

static void a_level_belongs_to_an_inner_node(void **state)
{
	struct nodes *n = open_writing();
	struct inner inner = inner_of(1, 2, 10), lie = inner, got;
	struct leaf leaf;

	(void)state;
	put_inner(n, inner);
	assert_int_equal(nodes_get_inner(n, inner.digest, 2, &got, NULL), 0);
	lie.level = 4; /* hides nothing */
	put_inner(n, lie);
	assert_true(has_inner(n, &inner) && has_inner(n, &lie));
	assert_int_equal(nodes_get_inner(n, inner.digest, 1, &got, NULL), -1);
	assert_int_equal(nodes_get_inner(n, inner.digest, 3, &got, NULL), -1);
	assert_int_equal(nodes_find_leaf(n, inner.digest, 12, &leaf, NULL), 0);
	close_nodes(n);
}

static void digests_that_begin_alike_are_told_apart(void **state)
{
	struct nodes *n = open_writing();
	struct leaf leaves[6];

	(void)state;
	for (unsigned i = 0; i < 6; i++) {
		leaves[i] = leaf_of(i, 12, 3, 0);
		memset(leaves[i].digest, 7, with_finder ? 15 : 24);
		put_leaf(n, leaves[i]);
	}
	sync_all(n);
	for (int again = 0; again < 2; again++) {
		for (unsigned i = 0; i < 6; i++)
			assert_true(has_leaf(n, &leaves[i]));
		close_nodes(n);
		n = open_reading();
	}
	close_nodes(n);
}

/* In the map each is looked for where the one before ends up. */
static void a_unit_is_not_taken_for_another_on_the_way(void **state)
{
	struct nodes *n = open_as(false, true);
	struct leaf coarse = leaf_of(1, 14, 3, 0), other = leaf_of(2, 12, 3, 0), third = leaf_of(3, 12, 3, 0), got;

	(void)state;
	le64_store(coarse.digest, 0); /* at 14 */
	le64_store(other.digest, 0);  /* at 12 */
	le64_store(third.digest, 1);  /* at 13 */
	put_leaf(n, coarse);
	put_leaf(n, other);
	put_leaf(n, third);
	assert_int_equal(nodes_get_leaf(n, coarse.digest, 12, &got, NULL), -1);
	assert_true(has_leaf(n, &coarse) && has_leaf(n, &other) && has_leaf(n, &third));
	close_nodes(n);
}

/* Digests that are alike as far as the finder looks take more tries than anybody has; still nothing must be wrong then. */
static void a_node_that_hides_another_in_the_finder_does_no_harm(void **state)
{
	struct nodes *n = open_as(true, true);
	struct leaf a = leaf_of(1, 12, 3, 0), b = leaf_of(2, 12, 3, 0);

	(void)state;
	memset(a.digest, 7, 16);
	memset(b.digest, 7, 16);
	put_leaf(n, a);
	put_leaf(n, b);
	assert_true(has_leaf(n, &b) && !has_leaf(n, &a));
	put_leaf(n, a);
	assert_true(has_leaf(n, &a));
	close_nodes(n);
}

static void maps_lie_inside_the_cluster_file(void **state)
{
	static const uint64_t outside[] = { -1, 1, (POOL_FILE_MAX >> 12) };
	static const uint8_t bytes[2 * BLOCK_SIZE] = { 1 };
	char name[POOL_FILE_NAME_ROOM];
	struct err err = ERR_INIT;
	struct leaf leaf, got;
	struct nodes *n;
	uint64_t at;

	(void)state;
	mkdir(in_tree("clusters"), 0700);
	clusters_dir = open(in_tree("clusters"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(cluster_file_create(clusters_dir, pool_id_file_name(uuid, name), uuid, NULL), 0);
	clusters = clusters_open(clusters_dir, true, NULL);
	assert_int_equal(clusters_append(clusters, bytes, sizeof(bytes), BLOCK_SIZE, &at, NULL), 0);
	assert_int_equal(at, POOL_DATA_BEGIN);
	n = open_writing();
	leaf = leaf_of(1, 12, 1, 0);
	leaf.runs[0] = (struct run){ 0, 2, at >> 12 };
	put_leaf(n, leaf);
	assert_true(has_leaf(n, &leaf));
	for (size_t i = 0; i < sizeof(outside) / sizeof(*outside); i++) {
		leaf = leaf_of(2 + i, 12, 1, 0);
		leaf.runs[0] = (struct run){ 0, 2, (at >> 12) + outside[i] };
		assert_int_equal(nodes_replace_leaf(n, &leaf, NULL), 0);
		assert_int_equal(nodes_get_leaf(n, leaf.digest, 12, &got, &err), -1);
		assert_int_equal(err.kind, ERR_FORMAT);
		assert_int_equal(nodes_find_leaf(n, leaf.digest, 12, &got, NULL), 0);
		assert_int_equal(nodes_find_segment(n, leaf.hint, 12, &got, NULL), 0);
	}
	close_nodes(n);
	clusters_close(clusters);
	clusters = NULL;
	close(clusters_dir);
}

static void what_is_not_there_is_named(void **state)
{
	struct nodes *n = open_writing();
	struct leaf leaf = leaf_of(1, 12, 1, 0);
	struct inner inner = inner_of(1, 1, 1);
	char text[DIGEST_TEXT_ROOM];
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(nodes_get_leaf(n, leaf.digest, 12, &leaf, &err), -1);
	assert_int_equal(err.kind, ERR_FORMAT);
	assert_non_null(strstr(err.text, digest_text(leaf.digest, text)));
	assert_int_equal(nodes_get_inner(n, inner.digest, 1, &inner, &err), -1);
	assert_non_null(strstr(err.text, digest_text(inner.digest, text)));
	close_nodes(n);
}

/* ---- the file ---- */

static void what_is_not_synced_is_dropped(void **state)
{
	struct nodes *n = open_writing();
	struct leaf leaf = leaf_of(1, 12, 1, 0);

	(void)state;
	put_leaf(n, leaf);
	close_nodes(n);
	n = open_writing();
	assert_false(has_leaf(n, &leaf));
	put_leaf(n, leaf);
	assert_true(has_leaf(n, &leaf));
	sync_all(n);
	close_nodes(n);
	n = open_reading();
	assert_true(has_leaf(n, &leaf));
	close_nodes(n);
}

static void a_transaction_begins_on_a_page_of_its_own(void **state)
{
	struct nodes *n = open_writing();

	(void)state;
	put_leaf(n, leaf_of(1, 12, 1, 0));
	put_leaf(n, leaf_of(2, 12, 1, 0));
	sync_all(n);
	sync_all(n); /* nothing new: no page */
	put_leaf(n, leaf_of(3, 12, 1, 0));
	sync_all(n);
	close_nodes(n);
	n = open_writing();
	put_leaf(n, leaf_of(4, 12, 1, 0));
	assert_int_equal(count(n), 4);
	assert_int_equal(offsets[0], 0);
	assert_in_range(offsets[1], 72, 96);
	assert_int_equal(offsets[2], 4096);
	assert_int_equal(offsets[3], 8192);
	close_nodes(n);
}

/* Three leaves and an inner node, in two transactions; returns the file's length. */
static size_t make_file(struct leaf leaves[3], struct inner *inner)
{
	struct nodes *n = open_as(false, true);
	uint8_t *p;
	size_t len;

	for (unsigned i = 0; i < 3; i++)
		leaves[i] = leaf_of(i, 12 + 2 * i, 3, 0);
	*inner = inner_of(1, 1, 3);
	put_leaf(n, leaves[0]);
	put_inner(n, *inner);
	put_leaf(n, leaves[1]);
	sync_nodes(n);
	put_leaf(n, leaves[2]);
	sync_nodes(n);
	assert_int_equal(count(n), 4);
	close_nodes(n);
	p = slurp(&len);
	free(p);
	return len;
}

static unsigned nr_whole(struct nodes *n, const struct leaf leaves[3], const struct inner *inner)
{
	return (unsigned)has_leaf(n, &leaves[0]) + has_leaf(n, &leaves[1]) + has_leaf(n, &leaves[2]) + has_inner(n, inner);
}

static bool is_padding(const uint8_t *file, uint64_t at)
{
	for (unsigned i = nr_offsets; i-- > 0;)
		if (offsets[i] <= at)
			return at >= offsets[i] + sizeof(struct pool_node_disk) +
					     le32_load(file + offsets[i] + offsetof(struct pool_node_disk, len));
	return true;
}

static void a_flipped_bit_costs_one_record(void **state)
{
	struct leaf leaves[3];
	struct inner inner;
	size_t len = make_file(leaves, &inner), same;
	uint8_t *p = slurp(&same);

	(void)state;
	assert_int_equal(len, same);
	for (size_t bit = 0; bit < len * 8; bit++) {
		struct nodes *n;

		if (is_padding(p, bit / 8))
			continue;
		p[bit / 8] ^= (uint8_t)(1u << bit % 8);
		spill(p, len);
		n = open_reading();
		assert_int_equal(nr_whole(n, leaves, &inner), 3);
		assert_int_equal(damaged, bit / 8 < offsets[3]);
		close_nodes(n);
		p[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	free(p);
}

static void damage_that_comes_later_is_noticed(void **state)
{
	struct leaf leaf = leaf_of(1, 12, 5, 0), coarse = leaf_of(1, 14, 5, 0), got;
	struct inner inner = inner_of(1, 1, 5), got_inner;
	struct nodes *n = open_writing();
	int fd;

	(void)state;
	put_leaf(n, leaf);
	put_inner(n, inner);
	sync_all(n);
	count(n);
	fd = open(in_tree(FILE_NAME), O_RDWR);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(pwrite(fd, "x", 1, (off_t)offsets[i] + 80), 1);
	close(fd);
	assert_int_equal(nodes_get_leaf(n, leaf.digest, 12, &got, NULL), -1);
	assert_int_equal(nodes_get_inner(n, inner.digest, 1, &got_inner, NULL), -1);
	assert_int_equal(nodes_find_leaf(n, leaf.digest, 12, &got, NULL), 0);
	assert_int_equal(nodes_find_segment(n, leaf.hint, 12, &got, NULL), 0);
	put_leaf(n, coarse);
	assert_int_equal(nodes_find_leaf(n, leaf.digest, 12, &got, NULL), 1);
	/* putting it again heals */
	put_leaf(n, leaf);
	put_inner(n, inner);
	assert_true(has_leaf(n, &leaf) && has_inner(n, &inner));
	if (with_finder)
		assert_int_equal(nodes_find_segment(n, leaf.hint, 12, &got, NULL), 1);
	sync_all(n);
	close_nodes(n);
	n = open_reading();
	assert_int_equal(damaged, 1); /* two that touch */
	assert_true(has_leaf(n, &leaf) && has_inner(n, &inner) && has_leaf(n, &coarse));
	close_nodes(n);
}

static void a_torn_end_is_passed_over(void **state)
{
	struct leaf leaves[3], more = leaf_of(9, 12, 3, 0);
	struct inner inner;
	size_t len = make_file(leaves, &inner), same;
	uint8_t *p = slurp(&same);
	size_t end = offsets[2] + node_record_len(p + offsets[2]);

	(void)state;
	for (size_t cut = 0; cut < len; cut += 1 + cut / 512) {
		unsigned whole = (cut >= offsets[1]) + (cut >= offsets[2]) + (cut >= end);
		struct nodes *n;

		if (is_padding(p, cut) && (cut < end || cut > 4096)) /* zeros that will be there again */
			continue;
		spill(p, cut);
		n = open_as(false, true);
		assert_int_equal(damaged, 0);
		assert_int_equal(nr_whole(n, leaves, &inner), whole);
		put_leaf(n, more);
		assert_int_equal(nodes_bytes(n) / 4096, div_up(cut, 4096));
		sync_nodes(n);
		close_nodes(n);
		n = open_reading();
		assert_true(has_leaf(n, &more));
		assert_int_equal(nr_whole(n, leaves, &inner), whole);
		assert_true(damaged <= 1);
		close_nodes(n);
	}
	free(p);
}

static void a_record_is_believed_for_its_checksum_only_if_it_makes_sense(void **state)
{
	uint8_t p[NODE_RECORD_MAX];
	struct inner inner = inner_of(1, 1, 3), wrong = inner;
	struct leaf leaf = leaf_of(1, 12, 3, 0);
	struct nodes *n;
	size_t len;

	(void)state;
	wrong.digest[3] ^= 1;
	len = node_record_of_inner(&wrong, p);
	leaf.runs[0].place = 1;
	len += node_record_of_leaf(&leaf, p + len);
	leaf.runs[0].place = POOL_DATA_BEGIN;
	leaf.unit_bits = 13;
	len += node_record_of_leaf(&leaf, p + len);
	inner.level = DIGEST_LEVELS + 1;
	len += node_record_of_inner(&inner, p + len);
	inner.level = 1;
	len += node_record_of_inner(&inner, p + len);
	spill(p, len);
	n = open_reading();
	assert_int_equal(count(n), 1);
	assert_int_equal(damaged, 1);
	assert_true(has_inner(n, &inner));
	assert_false(has_inner(n, &wrong));
	close_nodes(n);
}

static void a_finder_of_another_time_is_told_everything_again(void **state)
{
	struct leaf leaves[3];
	struct inner inner;
	struct nodes *n;
	bool whole;

	(void)state;
	make_file(leaves, &inner);
	n = open_as(true, true);
	close_nodes(n);
	n = open_as(false, true);
	finder = finder_open(finder_dir, uuid, 1 << 20, true, &whole, NULL);
	assert_int_equal(finder_clear(finder, NULL), 0);
	assert_int_equal(finder_sync(finder, 8192, NULL), 0);
	close_nodes(n);
	for (int again = 0; again < 2; again++) {
		n = open_as(true, true);
		assert_int_equal(nr_whole(n, leaves, &inner), 4);
		put_leaf(n, leaf_of(7, 12, 3, 0));
		sync_nodes(n); /* the file grows past 8192, and the finder is not told */
		assert_true(nodes_bytes(n) > 8192);
		close_nodes(n);
	}
}

static int stop_at_two(void *ctx, uint64_t offset, const struct leaf *leaf, const struct inner *inner, struct err *err)
{
	(void)offset;
	(void)leaf;
	(void)inner;
	(void)err;
	return ++*(int *)ctx == 2 ? 5 : 0;
}

static void going_through_sees_what_is_buffered_and_can_be_stopped(void **state)
{
	struct nodes *n = open_writing();
	int nr = 0;

	(void)state;
	for (unsigned i = 0; i < 3; i++)
		put_leaf(n, leaf_of(i, 12, 1, 0));
	assert_int_equal(count(n), 3);
	assert_int_equal(nodes_each(n, stop_at_two, &nr, NULL), 5);
	assert_int_equal(nr, 2);
	close_nodes(n);
}

/* ---- deltas ---- */

/* The children of another that are changed: `nr` of them. */
static struct inner changed(const struct inner *from, unsigned nr, uint64_t number)
{
	struct inner i = *from;

	for (unsigned k = 0; k < nr; k++)
		digest_of(mixed(number) + k, i.children[(number + k * 37) % DIGEST_FANOUT]);
	digest_bytes(i.children, sizeof(i.children), i.digest);
	return i;
}

static uint64_t put_on(struct nodes *n, const struct inner *inner, const struct inner *base)
{
	uint64_t before = nodes_bytes(n);
	struct err err = ERR_INIT;

	if (nodes_put_inner(n, inner, base->digest, &err) < 0)
		fail_msg("%s", err.text);
	return nodes_bytes(n) - before;
}

static void of_an_inner_node_with_a_base_the_changes_are_stored(void **state)
{
	struct inner base = inner_of(1, 2, 128), one = changed(&base, 1, 3), more = changed(&one, 3, 5), less = one,
		     half = changed(&base, 64, 7), most = changed(&base, 120, 9),
		     other = inner_of(2, 2, 128), none = inner_of(77, 2, 5);
	struct nodes *n = open_writing();

	(void)state;
	memset(less.children[17], 0, DIGEST_SIZE);
	digest_bytes(less.children, sizeof(less.children), less.digest);
	put_inner(n, base);
	assert_int_equal(put_on(n, &one, &base), 80);
	assert_int_equal(put_on(n, &more, &one), 144);
	assert_int_equal(put_on(n, &less, &one), 80);
	assert_int_equal(put_on(n, &half, &base), 44 + 64 * 33 + 4);
	assert_in_range(put_on(n, &most, &base), 4096, 4200);
	assert_in_range(put_on(n, &other, &none), 4096, 4200); /* which is not there */
	assert_int_equal(put_on(n, &one, &base), 0);
	for (int again = 0; again < 2; again++) {
		assert_true(has_inner(n, &base) && has_inner(n, &one) && has_inner(n, &more) && has_inner(n, &less));
		assert_true(has_inner(n, &half) && has_inner(n, &most) && has_inner(n, &other));
		assert_int_equal(count(n), 7);
		assert_int_equal(nodes_damaged(n), 0);
		if (again)
			break;
		sync_all(n);
		close_nodes(n);
		n = open_writing();
	}
	close_nodes(n);
}

static void a_base_is_of_the_same_level(void **state)
{
	struct inner base = inner_of(1, 2, 128), upper = changed(&base, 1, 3);
	struct nodes *n = open_writing();

	(void)state;
	put_inner(n, base);
	upper.level = 3;
	assert_in_range(put_on(n, &upper, &base), 4096, 4200);
	assert_true(has_inner(n, &upper));
	close_nodes(n);
}

static void a_chain_of_deltas_ends(void **state)
{
	struct nodes *n = open_writing();
	struct inner chain[150];
	unsigned nr_whole_ones = 0;

	(void)state;
	chain[0] = inner_of(1, 1, 128);
	put_inner(n, chain[0]);
	for (unsigned i = 1; i < ARRAY_SIZE(chain); i++) {
		chain[i] = changed(&chain[i - 1], 2, i);
		nr_whole_ones += put_on(n, &chain[i], &chain[i - 1]) > 1000;
		assert_int_equal(nr_whole_ones, i / (POOL_DELTA_DEPTH_MAX + 1));
	}
	sync_all(n);
	close_nodes(n);
	n = open_reading();
	for (unsigned i = 0; i < ARRAY_SIZE(chain); i++)
		assert_true(has_inner(n, &chain[i]));
	close_nodes(n);
}

/* A base, what stands on it, and what stands on that. */
static struct nodes *open_three(struct inner ret[3])
{
	struct nodes *n = open_writing();

	ret[0] = inner_of(1, 1, 128);
	ret[1] = changed(&ret[0], 2, 3);
	ret[2] = changed(&ret[1], 2, 90);
	put_inner(n, ret[0]);
	put_on(n, &ret[1], &ret[0]);
	put_on(n, &ret[2], &ret[1]);
	sync_all(n);
	assert_int_equal(count(n), 3);
	return n;
}

static void a_damaged_base_is_told_by_all_that_stand_on_it(void **state)
{
	struct inner three[3], is;
	struct nodes *n = open_three(three);
	struct err err = ERR_INIT;
	char text[DIGEST_TEXT_ROOM];
	uint64_t at;
	int fd = open(in_tree(FILE_NAME), O_RDWR);

	(void)state;
	assert_int_equal(pwrite(fd, "x", 1, (off_t)offsets[0] + 100), 1);
	close(fd);
	assert_int_equal(nodes_get_inner(n, three[2].digest, 1, &is, &err), -1);
	assert_int_equal(err.kind, ERR_FORMAT);
	digest_text(three[0].digest, text);
	text[DIGEST_SIZE] = '\0';
	assert_non_null(strstr(err.text, text));
	assert_non_null(strstr(err.text, digest_text(three[2].digest, text)));
	assert_int_equal(nodes_locate(n, three[1].digest, 1, 0, &at, NULL), 0);
	/* what is put again stands on nothing that is not whole */
	assert_in_range(put_on(n, &three[2], &three[1]), 4096, 8300);
	assert_true(has_inner(n, &three[2]) && !has_inner(n, &three[1]));
	put_inner(n, three[0]);
	for (unsigned i = 0; i < 3; i++)
		assert_true(has_inner(n, &three[i]));
	sync_all(n);
	close_nodes(n);
	n = open_reading();
	for (unsigned i = 0; i < 3; i++)
		assert_true(has_inner(n, &three[i]));
	close_nodes(n);
}

/* Others may stand on it, each deeper than its base: also one that it would stand on itself, if that can be read the next time. */
static void what_was_damaged_is_put_again_as_it_is(void **state)
{
	struct inner three[3], other, later;
	struct nodes *n = open_three(three);
	int fd = open(in_tree(FILE_NAME), O_RDWR);
	char was;

	(void)state;
	other = changed(&three[0], 3, 9);
	later = changed(&other, 1, 5);
	put_inner(n, other);
	put_on(n, &later, &other);
	sync_all(n);
	assert_int_equal(pread(fd, &was, 1, (off_t)offsets[0] + 100), 1);
	assert_int_equal(pwrite(fd, "x", 1, (off_t)offsets[0] + 100), 1);
	put_on(n, &three[0], &later);
	for (unsigned i = 0; i < 3; i++)
		assert_true(has_inner(n, &three[i]));
	assert_int_equal(pwrite(fd, &was, 1, (off_t)offsets[0] + 100), 1);
	close(fd);
	sync_all(n);
	close_nodes(n);
	n = open_reading();
	for (unsigned i = 0; i < 3; i++)
		assert_true(has_inner(n, &three[i]));
	close_nodes(n);
}

/* Nobody knows any more that it was there. */
static void what_was_lost_may_come_again_as_a_delta(void **state)
{
	struct inner three[3], other;
	struct nodes *n;
	int fd;

	(void)state;
	with_finder = false;
	n = open_three(three);
	fd = open(in_tree(FILE_NAME), O_RDWR);
	assert_int_equal(pwrite(fd, "x", 1, (off_t)offsets[0] + 100), 1);
	close(fd);
	close_nodes(n);
	n = open_writing();
	assert_int_equal(damaged, 1);
	other = inner_of(1, 1, 128);
	for (unsigned i = 0; i < 5; i++) {
		struct inner next = changed(&other, 1, 40 + i);

		put_on(n, &next, &other);
		other = next;
	}
	assert_true(put_on(n, &three[0], &other) < 300);
	for (unsigned i = 0; i < 3; i++)
		assert_true(has_inner(n, &three[i]));
	close_nodes(n);
}

static void a_flipped_bit_costs_what_stands_on_it(void **state)
{
	struct inner three[3];
	struct nodes *n = open_three(three);
	size_t len;
	uint8_t *p = slurp(&len);

	(void)state;
	close_nodes(n);
	for (size_t bit = 0; bit < len * 8; bit += bit / 8 < offsets[1] ? 101 : 1) {
		unsigned first = bit / 8 < offsets[1] ? 0 : bit / 8 < offsets[2] ? 1 : 2;

		if (first && (bit / 8 - offsets[first]) >= 44 + 2 * 33) /* zeros behind it */
			continue;
		p[bit / 8] ^= (uint8_t)(1u << bit % 8);
		spill(p, len);
		n = open_reading();
		for (unsigned i = 0; i < 3; i++)
			assert_int_equal(has_inner(n, &three[i]), i < first);
		close_nodes(n);
		p[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	free(p);
}

/* A record of a delta after a byte of it was changed, with a right checksum. */
static size_t forged(const struct inner *inner, const struct inner *base, size_t at, uint8_t byte, uint8_t *ret)
{
	size_t len = node_record_of_delta(inner, base, ret);
	struct pool_delta_disk d;

	ret[at] = byte;
	le32_store(ret + offsetof(struct pool_delta_disk, crc), 0);
	memcpy(&d, ret, sizeof(d));
	le32_store(ret + offsetof(struct pool_delta_disk, crc), crc32c(0, ret, sizeof(d) + d.nr * (1 + DIGEST_SIZE)));
	return len;
}

static void a_delta_is_believed_for_its_checksum_only_if_it_makes_sense(void **state)
{
	static const struct {
		size_t at;
		uint8_t byte;
	} wrong[] = {
		{ offsetof(struct pool_delta_disk, level), 0 },
		{ offsetof(struct pool_delta_disk, level), DIGEST_LEVELS + 1 },
		{ offsetof(struct pool_delta_disk, nr), 0 },
		{ offsetof(struct pool_delta_disk, nr), DIGEST_FANOUT + 1 },
		{ offsetof(struct pool_delta_disk, zero), 1 },
		{ offsetof(struct pool_delta_disk, zero) + 1, 1 },
		{ sizeof(struct pool_delta_disk), 127 },     /* not ascending */
		{ sizeof(struct pool_delta_disk) + 1, 128 }, /* there is no such child */
		{ sizeof(struct pool_delta_disk) + 1, 3 },   /* twice */
	};
	struct inner base = inner_of(1, 1, 128), inner = changed(&base, 2, 3);
	uint8_t p[2 * NODE_RECORD_MAX] = { 0 };
	struct nodes *n;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		size_t len = node_record_of_inner(&base, p);

		forged(&inner, &base, wrong[i].at, wrong[i].byte, p + len);
		spill(p, len + 2000);
		n = open_reading();
		assert_int_equal(count(n), 1);
		assert_false(has_inner(n, &inner));
		assert_true(has_inner(n, &base));
		close_nodes(n);
	}
}

/* Children that are none of its digest's, and bases that go round. */
static void a_delta_is_believed_for_its_digest(void **state)
{
	struct inner base = inner_of(1, 1, 128), a = changed(&base, 2, 3), b = changed(&base, 2, 50), got;
	struct err err = ERR_INIT;
	uint8_t p[2 * NODE_RECORD_MAX];
	struct nodes *n;
	size_t len = node_record_of_inner(&base, p);

	(void)state;
	len += forged(&a, &base, sizeof(struct pool_delta_disk), 2, p + len);
	spill(p, len);
	n = open_reading();
	assert_int_equal(nodes_get_inner(n, a.digest, 1, &got, &err), -1);
	assert_int_equal(err.kind, ERR_FORMAT);
	close_nodes(n);

	len = node_record_of_delta(&a, &b, p);
	len += node_record_of_delta(&b, &a, p + len);
	spill(p, len);
	n = open_reading();
	assert_int_equal(nodes_get_inner(n, a.digest, 1, &got, &err), -1);
	assert_int_equal(nodes_get_inner(n, b.digest, 1, &got, &err), -1);
	assert_int_equal(err.kind, ERR_FORMAT);
	close_nodes(n);
}

static uint64_t left_out;

static bool keep_others(void *ctx, uint64_t offset)
{
	(void)ctx;
	return offset != left_out;
}

static void a_node_is_kept_with_its_base(void **state)
{
	struct inner three[3];
	struct nodes *n = open_three(three);
	struct err err = ERR_INIT;
	uint64_t at;

	(void)state;
	assert_int_equal(nodes_locate_base(n, offsets[0], &at, NULL), 0);
	for (unsigned i = 1; i < 3; i++) {
		assert_int_equal(nodes_locate_base(n, offsets[i], &at, NULL), 1);
		assert_int_equal(at, offsets[i - 1]);
	}
	for (unsigned i = 0; i < 2; i++) {
		left_out = offsets[i];
		assert_int_equal(nodes_keep(n, dir, keep_others, NULL, 2, &err), -1);
		assert_int_equal(err.kind, ERR_FORMAT);
		for (unsigned k = 0; k < 3; k++)
			assert_true(has_inner(n, &three[k]));
	}
	left_out = offsets[2];
	assert_int_equal(nodes_keep(n, dir, keep_others, NULL, 2, NULL), 0);
	assert_true(has_inner(n, &three[0]) && has_inner(n, &three[1]) && !has_inner(n, &three[2]));
	close_nodes(n);
}

/* ---- both ways of finding ---- */

static int make_without(void **state)
{
	with_finder = false;
	return tree_make(state);
}

static int make_with(void **state)
{
	with_finder = true;
	return tree_make(state);
}

#define both_ways(f)                                                                                                               \
	{ #f, f, make_without, tree_remove, NULL }, { #f "_with_a_finder", f, make_with, tree_remove, NULL }

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_map_is_decoded_as_it_was_encoded),
		cmocka_unit_test(the_longest_map_fits),
		cmocka_unit_test(maps_that_cannot_be_are_refused),
		cmocka_unit_test(a_map_that_is_cut_has_fewer_runs_or_is_refused),
		both_ways(nodes_are_found_before_and_after_a_sync),
		both_ways(many_nodes_are_all_found),
		both_ways(equal_nodes_are_stored_once),
		both_ways(a_newer_map_is_found_instead_of_the_old_one),
		both_ways(units_are_told_apart),
		tree_test(a_segment_is_found_by_its_fingerprint),
		both_ways(a_level_belongs_to_an_inner_node),
		both_ways(digests_that_begin_alike_are_told_apart),
		tree_test(a_unit_is_not_taken_for_another_on_the_way),
		tree_test(a_node_that_hides_another_in_the_finder_does_no_harm),
		both_ways(maps_lie_inside_the_cluster_file),
		both_ways(what_is_not_there_is_named),
		both_ways(what_is_not_synced_is_dropped),
		both_ways(a_transaction_begins_on_a_page_of_its_own),
		tree_test(a_flipped_bit_costs_one_record),
		both_ways(damage_that_comes_later_is_noticed),
		tree_test(a_torn_end_is_passed_over),
		tree_test(a_record_is_believed_for_its_checksum_only_if_it_makes_sense),
		tree_test(a_finder_of_another_time_is_told_everything_again),
		both_ways(going_through_sees_what_is_buffered_and_can_be_stopped),
		both_ways(of_an_inner_node_with_a_base_the_changes_are_stored),
		both_ways(a_base_is_of_the_same_level),
		both_ways(a_chain_of_deltas_ends),
		both_ways(a_damaged_base_is_told_by_all_that_stand_on_it),
		both_ways(what_was_damaged_is_put_again_as_it_is),
		tree_test(what_was_lost_may_come_again_as_a_delta),
		tree_test(a_flipped_bit_costs_what_stands_on_it),
		tree_test(a_delta_is_believed_for_its_checksum_only_if_it_makes_sense),
		tree_test(a_delta_is_believed_for_its_digest),
		both_ways(a_node_is_kept_with_its_base),
	};

	if (digest_prepare(NULL) < 0)
		return 0;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
