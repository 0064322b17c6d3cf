/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "compactor/pool/tree.h"
#include "compactor/pool/view.h"
#include "scanner/base/checked.h"

struct reading {
	struct pool *pool;
	struct stopper *stopper;
	struct digest_tree tree;
	uint64_t nr; /* segments of the disk */
	uint8_t *bytes; /* of one */
	int (*call)(void *ctx, uint64_t segment, struct leaf *map, const void *bytes, struct err *err);
	void *ctx;
};

static int read_segment(void *ctx, uint64_t segment, struct leaf *map, struct err *err)
{
	struct reading *r = ctx;

	if (r->stopper && stopper_says(r->stopper))
		return err_set(err, ERR_CANCELED, "stopped");
	if (segment >= r->nr)
		return err_set(err, ERR_FORMAT, "its tables map what is behind the end of the disk");
	if (tree_read_leaf(r->pool->clusters, map, r->bytes, err) < 0)
		return -1;
	digest_bytes(r->bytes, SEGMENT_SIZE, map->digest);
	digest_tree_add(&r->tree, segment, map->digest);
	return r->call ? r->call(r->ctx, segment, map, r->bytes, err) : 0;
}

int view_read(struct pool *p, const struct view *v, struct stopper *stopper,
	      int (*call)(void *ctx, uint64_t segment, struct leaf *map, const void *bytes, struct err *err), void *ctx,
	      struct err *err)
{
	CLEANUP(free) struct reading *r = malloc(sizeof(*r));
	CLEANUP(free) uint8_t *bytes = malloc(SEGMENT_SIZE);
	uint8_t root[DIGEST_SIZE];

	if (!r || !bytes)
		return err_set(err, ERR_MEMORY, "no memory to read a view");
	*r = (struct reading){
		.pool = p, .stopper = stopper, .nr = div_up(v->disk_size, SEGMENT_SIZE), .bytes = bytes, .call = call, .ctx = ctx,
	};
	digest_tree_begin(&r->tree, v->disk_size);
	if (digest_prepare(err) < 0 || view_each_map(p, v, read_segment, r, err) < 0)
		return -1;
	digest_tree_end(&r->tree, root);
	return memcmp(root, v->root, DIGEST_SIZE) == 0 ? 0 : err_set(err, ERR_FORMAT, "its view leads to other data");
}
