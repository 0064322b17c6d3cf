/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_NODE_RECORD_H
#define DEDUPSCAN_NODE_RECORD_H

#include "compactor/pool/nodes.h"

/* One node as bytes: head, payload, zeros up to a multiple of 8 (pool_format.h).  An inner node may be a delta: what its children
 * are that are not those of another node, its base. */

#define NODE_ALIGN 8u
#define NODE_RECORD_MAX (sizeof(struct pool_node_disk) + POOL_NODE_PAYLOAD_MAX)
#define NODE_INNER_MAX (sizeof(struct pool_node_disk) + DIGEST_FANOUT / 8 + DIGEST_FANOUT * DIGEST_SIZE)
static_assert(sizeof(struct pool_delta_disk) + 1 + DIGEST_SIZE > sizeof(struct pool_node_disk), "a head is always there");
static_assert(NODE_RECORD_MAX % NODE_ALIGN == 0 && NODE_INNER_MAX <= NODE_RECORD_MAX, "records of nodes");

/* What a node is known by.  A digest alone is not enough only because records may lie: bytes of different length never have the
 * same one, so a true node's digest gives its level, too. */
struct node_id {
	const uint8_t *digest;
	unsigned level;	    /* 0 = leaf */
	unsigned unit_bits; /* of a leaf; else 0 */
	bool half;	    /* only the first half of the digest is there */
};

/* In the record. */
struct node_delta {
	unsigned nr;
	const uint8_t *which, *digests; /* of the children that are not the base's */
	struct node_id base;
};

/* The length of a record by its first NODE_HEAD bytes, 0 when that is none. */
#define NODE_HEAD sizeof(struct pool_node_disk)
size_t node_record_len(const uint8_t *p);
/* The length of the record in the `room` bytes at p if it is there as a whole and its checksum is right, else 0. */
size_t node_record_check(const uint8_t *p, size_t room);

/* Of checked records: */
struct node_id node_record_id(const uint8_t *p);
bool node_record_is_delta(const uint8_t *p);
struct fingerprint node_record_hint(const uint8_t *p);
int node_record_leaf(const uint8_t *p, struct leaf *ret, struct err *err);
int node_record_inner(const uint8_t *p, struct inner *ret, struct err *err); /* proves the digest, too */
int node_record_children(const uint8_t *p, uint8_t ret[DIGEST_FANOUT][DIGEST_SIZE], struct err *err); /* does not */
int node_record_delta(const uint8_t *p, struct node_delta *ret, struct err *err);

/* Return the length. */
size_t node_record_of_leaf(const struct leaf *leaf, uint8_t ret[NODE_RECORD_MAX]);
size_t node_record_of_inner(const struct inner *inner, uint8_t ret[NODE_RECORD_MAX]);
/* `base` is another node of that level.  0 = that would not be much shorter. */
size_t node_record_of_delta(const struct inner *inner, const struct inner *base, uint8_t ret[NODE_RECORD_MAX]);

#endif
