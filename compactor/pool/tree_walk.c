/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "compactor/pool/tree.h"
#include "scanner/base/checked.h"

/* Going over trees.  A node of level k stands for 128^k segments; its number is that of its first segment / 128^k. */

#define FANOUT_BITS 7u
static_assert(1u << FANOUT_BITS == DIGEST_FANOUT, "fanout of a hash tree");

/* How many segments, as a power of two, and which child of its parent. */
static unsigned span_bits(unsigned level)
{
	return level * FANOUT_BITS;
}

static unsigned child_of(uint64_t number)
{
	return (unsigned)(number % DIGEST_FANOUT);
}

static int behind_the_end(uint64_t segment, struct err *err)
{
	return err_set(err, ERR_FORMAT, "a hash tree has segment %llu, behind the end of its disk", (unsigned long long)segment);
}

/* ---- one tree ---- */

struct tree_walk {
	struct nodes *nodes;
	unsigned height;
	uint64_t nr; /* segments */
	uint8_t root[DIGEST_SIZE];
	struct inner levels[DIGEST_LEVELS]; /* of level k the node that was read last at k - 1; a null digest = none yet */
};

struct tree_walk *tree_walk_new(struct nodes *nodes, const uint8_t root[DIGEST_SIZE], uint64_t size, struct err *err)
{
	struct tree_walk *w = calloc(1, sizeof(*w));

	if (!w)
		return err_null(err, ERR_MEMORY, "no memory for a walk over a hash tree");
	w->nodes = nodes;
	w->nr = div_up(size, SEGMENT_SIZE);
	w->height = digest_tree_height(size);
	memcpy(w->root, root, DIGEST_SIZE);
	return w;
}

void tree_walk_free(struct tree_walk *w)
{
	free(w);
}

/* The node of a digest that is not null, read unless it is the one at hand. */
static const struct inner *node_at(struct tree_walk *w, unsigned level, const uint8_t digest[DIGEST_SIZE], struct err *err)
{
	struct inner *i = &w->levels[level - 1];

	if (memcmp(i->digest, digest, DIGEST_SIZE) == 0)
		return i;
	memset(i->digest, 0, DIGEST_SIZE); /* half of it might be read */
	return nodes_get_inner(w->nodes, digest, level, i, err) < 0 ? NULL : i;
}

/* Goes down from the root to the first child at or behind *at that is there: 1 with *at where its segments begin, its level and
 * digest; 0 when the node above it has no more, and *at is where the next one begins. */
static int descend(struct tree_walk *w, uint64_t *at, const uint8_t **ret, struct err *err)
{
	const uint8_t *digest = w->root;

	for (unsigned level = w->height; level > 0; level--) {
		const struct inner *i = node_at(w, level, digest, err);
		uint64_t number = *at >> span_bits(level - 1);
		unsigned first = child_of(number), child = first;

		if (!i)
			return -1;
		while (child < DIGEST_FANOUT && digest_is_null(i->children[child]))
			child++;
		if (child > first)
			*at = (number - first + child) << span_bits(level - 1);
		if (child == DIGEST_FANOUT)
			return 0;
		digest = i->children[child];
	}
	*ret = digest;
	return 1;
}

int tree_walk_next(struct tree_walk *w, uint64_t from, uint64_t *ret_segment, uint8_t ret_digest[DIGEST_SIZE], struct err *err)
{
	const uint8_t *digest;
	uint64_t at = from;
	int rc = 0;

	if (digest_is_null(w->root))
		return 0;
	while (rc == 0 && at < w->nr)
		rc = descend(w, &at, &digest, err);
	if (rc <= 0)
		return rc;
	if (at >= w->nr)
		return behind_the_end(at, err);
	*ret_segment = at;
	memcpy(ret_digest, digest, DIGEST_SIZE);
	return 1;
}

bool tree_walk_node(struct tree_walk *w, unsigned level, uint64_t segment, uint8_t ret_digest[DIGEST_SIZE])
{
	const uint8_t *digest = w->root;

	for (unsigned at = w->height; at > level && !digest_is_null(digest); at--) {
		const struct inner *i = node_at(w, at, digest, NULL);

		if (!i)
			return false;
		digest = i->children[child_of(segment >> span_bits(at - 1))];
	}
	memcpy(ret_digest, digest, DIGEST_SIZE);
	return !digest_is_null(digest);
}

/* ---- two trees ---- */

/* The lower tree is lifted to the height of the other one: its root becomes child 0 of a node, and that of another, which need not
 * be stored.  Then equal subtrees have equal digests wherever they are. */
struct side {
	unsigned height;
	uint64_t nr;
	uint8_t lifted[DIGEST_LEVELS + 1][DIGEST_SIZE]; /* by level, from the tree's own height on */
	struct inner levels[DIGEST_LEVELS];
};

struct diff {
	struct nodes *nodes;
	struct side a, b;
	int (*call)(void *ctx, uint64_t segment, const uint8_t in_a[DIGEST_SIZE], const uint8_t in_b[DIGEST_SIZE], struct err *err);
	void *ctx;
};

static void side_begin(struct side *s, const uint8_t root[DIGEST_SIZE], uint64_t size, unsigned height)
{
	uint8_t children[DIGEST_FANOUT][DIGEST_SIZE] = { 0 };

	s->height = digest_tree_height(size);
	s->nr = div_up(size, SEGMENT_SIZE);
	memcpy(s->lifted[s->height], root, DIGEST_SIZE);
	for (unsigned level = s->height; level < height && !digest_is_null(root); level++) {
		memcpy(children[0], s->lifted[level], DIGEST_SIZE);
		digest_bytes(children, sizeof(children), s->lifted[level + 1]);
	}
}

static int side_read(struct diff *d, struct side *s, unsigned level, const uint8_t digest[DIGEST_SIZE], struct err *err)
{
	struct inner *i = &s->levels[level - 1];

	if (level <= s->height && !digest_is_null(digest))
		return nodes_get_inner(d->nodes, digest, level, i, err);
	memset(i->children, 0, sizeof(i->children));
	if (level > s->height && !digest_is_null(digest))
		memcpy(i->children[0], s->lifted[level - 1], DIGEST_SIZE);
	return 0;
}

static int diff_segment(struct diff *d, uint64_t segment, const uint8_t *in_a, const uint8_t *in_b, struct err *err)
{
	if ((segment >= d->a.nr && !digest_is_null(in_a)) || (segment >= d->b.nr && !digest_is_null(in_b)))
		return behind_the_end(segment, err);
	return d->call(d->ctx, segment, in_a, in_b, err);
}

static int diff_node(struct diff *d, unsigned level, uint64_t number, const uint8_t *in_a, const uint8_t *in_b, struct err *err)
{
	int rc = 0;

	if (memcmp(in_a, in_b, DIGEST_SIZE) == 0)
		return 0;
	if (level == 0)
		return diff_segment(d, number, in_a, in_b, err);
	if (side_read(d, &d->a, level, in_a, err) < 0 || side_read(d, &d->b, level, in_b, err) < 0)
		return -1;
	for (unsigned i = 0; i < DIGEST_FANOUT && rc == 0; i++)
		rc = diff_node(d, level - 1, number * DIGEST_FANOUT + i, d->a.levels[level - 1].children[i],
			       d->b.levels[level - 1].children[i], err);
	return rc;
}

int tree_diff(struct nodes *nodes, const uint8_t a[DIGEST_SIZE], uint64_t a_size, const uint8_t b[DIGEST_SIZE], uint64_t b_size,
	      int (*call)(void *ctx, uint64_t segment, const uint8_t in_a[DIGEST_SIZE], const uint8_t in_b[DIGEST_SIZE],
			  struct err *err),
	      void *ctx, struct err *err)
{
	CLEANUP(free) struct diff *d = calloc(1, sizeof(*d));
	unsigned height = digest_tree_height(a_size > b_size ? a_size : b_size);

	if (!d)
		return err_set(err, ERR_MEMORY, "no memory to compare hash trees");
	d->nodes = nodes;
	d->call = call;
	d->ctx = ctx;
	side_begin(&d->a, a, a_size, height);
	side_begin(&d->b, b, b_size, height);
	return diff_node(d, height, 0, d->a.lifted[height], d->b.lifted[height], err);
}

bool tree_is_whole(struct nodes *nodes, const uint8_t root[DIGEST_SIZE], uint64_t size)
{
	CLEANUP(tree_walk_free) struct tree_walk *w = tree_walk_new(nodes, root, size, NULL);
	uint8_t digest[DIGEST_SIZE];
	uint64_t segment, at = 0;
	struct leaf leaf;
	int rc = -1;

	while (w && (rc = tree_walk_next(w, at, &segment, digest, NULL)) > 0) {
		if (nodes_find_leaf(nodes, digest, POOL_UNIT_BITS_MIN, &leaf, NULL) <= 0)
			return false;
		at = segment + 1;
	}
	return rc == 0;
}
