/* SPDX-License-Identifier: Apache-2.0 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "compactor/pool/tree.h"
#include "scanner/base/checked.h"

/* Making trees: digest_tree makes the digests, so that a root here is a root there; each inner node it completes is put down.  Of a
 * tree with a base each may be stored as what it is not as in the base at the same place. */

struct tree_maker {
	struct nodes *nodes;
	struct digest_tree tree;
	uint64_t last, next, nr; /* segments: that was added last, and may be the next */
	struct tree_walk *base;	 /* NULL = none, or one of another height */
	struct err err;	   /* the first failure of a node, which says it as soon as a call returns */
	struct inner inner;
};

static void put_inner(void *ctx, unsigned level, const uint8_t children[DIGEST_FANOUT][DIGEST_SIZE],
		      const uint8_t digest[DIGEST_SIZE])
{
	struct tree_maker *m = ctx;
	uint8_t base[DIGEST_SIZE];
	bool any;

	if (m->err.kind != ERR_NONE)
		return;
	any = m->base && tree_walk_node(m->base, level, m->last, base);
	m->inner.level = level;
	memcpy(m->inner.digest, digest, DIGEST_SIZE);
	memcpy(m->inner.children, children, sizeof(m->inner.children));
	nodes_put_inner(m->nodes, &m->inner, any ? base : NULL, &m->err);
}

static int outcome(const struct tree_maker *m, struct err *err)
{
	if (m->err.kind == ERR_NONE)
		return 0;
	if (err)
		*err = m->err;
	return -1;
}

struct tree_maker *tree_maker_new(struct nodes *nodes, uint64_t size, const uint8_t *base, uint64_t base_size, struct err *err)
{
	CLEANUP(tree_maker_free) struct tree_maker *m = calloc(1, sizeof(*m));

	if (!m)
		return err_null(err, ERR_MEMORY, "no memory for a hash tree");
	if (base && digest_tree_height(base_size) == digest_tree_height(size) &&
	    !(m->base = tree_walk_new(nodes, base, base_size, err)))
		return NULL;
	m->nodes = nodes;
	m->nr = div_up(size, SEGMENT_SIZE);
	digest_tree_begin(&m->tree, size);
	m->tree.emit = put_inner;
	m->tree.ctx = m;
	return STEAL(m);
}

int tree_maker_add(struct tree_maker *m, uint64_t segment, const uint8_t digest[DIGEST_SIZE], struct err *err)
{
	assert(segment >= m->next && segment < m->nr);
	m->next = segment + 1;
	if (!digest_is_null(digest)) {
		digest_tree_add(&m->tree, segment, digest); /* completes what `last` is in */
		m->last = segment;
	}
	return outcome(m, err);
}

int tree_maker_end(struct tree_maker *m, uint8_t ret[DIGEST_SIZE], struct err *err)
{
	uint8_t root[DIGEST_SIZE];

	digest_tree_end(&m->tree, root);
	if (outcome(m, err) < 0)
		return -1;
	memcpy(ret, root, DIGEST_SIZE);
	return 0;
}

void tree_maker_free(struct tree_maker *m)
{
	if (m)
		tree_walk_free(m->base);
	free(m);
}
