/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_NODES_H
#define DEDUPSCAN_NODES_H

#include <stdbool.h>

#include "compactor/pool/clusters.h"
#include "compactor/pool/finder.h"

/* The nodes of all hash trees of a pool: trees/<uuid>.nodes, append-only, each record with its own checksum.
 *
 * A leaf stands for one segment of 2 MiB and says which clusters hold its bytes.  An inner node stands for 128 children.  Both are
 * known by their digest (scanner/chunk/digest.h), so equal ones are stored once. */

/* nr units of clusters from `place` (in units) on hold the segment's units from `first` on. */
struct run {
	uint32_t first, nr;
	uint64_t place;
};

struct leaf {
	uint8_t digest[DIGEST_SIZE];
	struct fingerprint hint;
	unsigned unit_bits; /* 12, 14 or 16 */
	unsigned nr_runs;
	struct run runs[SEGMENT_BLOCKS]; /* ascending, not touching unless the places jump; what no run covers is zeros */
};

struct inner {
	uint8_t digest[DIGEST_SIZE];
	unsigned level; /* of its children, plus 1 */
	uint8_t children[DIGEST_FANOUT][DIGEST_SIZE];
};

struct nodes;

/* Opens or (writing) creates dirfd/name; NULL = (writing) an empty one of which nothing is left.  Maps of leaves lie inside the
 * clusters, which are the caller's; NULL = anywhere.  The finder is the caller's, too; NULL = there is none, and the file is read
 * through once to find its nodes (for readers).  Nodes behind what the finder covers are added to it.  What is no whole record is
 * passed over, and the next one is looked for by magic and checksum: *ret_damaged counts such places, but for the file's end.  A
 * transaction that a power cut tore may leave some; whether anything is missing says a walk from the names. */
struct nodes *nodes_open(int dirfd, const char *name, const struct clusters *clusters, struct finder *finder, bool writing,
			 uint64_t *ret_damaged, struct err *err);
void nodes_close(struct nodes *n);
CLEANUP_DEFINE(struct nodes *, nodes_close)

/* Adds one unless it is there, whole.  Its digest is the caller's word for a leaf, and asserted for an inner node.  Nothing is
 * durable before nodes_sync(); nodes_close() drops what is buffered.
 *
 * `base` is the digest of another node of that level of which most children are the same: then only the others are stored, and that
 * node with them.  NULL = none.  One that was there and is damaged is stored as a whole. */
int nodes_put_leaf(struct nodes *n, const struct leaf *leaf, struct err *err);
int nodes_put_inner(struct nodes *n, const struct inner *inner, const uint8_t *base, struct err *err);
/* A newer map of a leaf that is there: found instead of the old one from now on (data was moved, or healed). */
int nodes_replace_leaf(struct nodes *n, const struct leaf *leaf, struct err *err);

/* The node of a digest: ERR_FORMAT when it is not there or damaged, and the message has the digest.  A leaf's map lies inside the
 * clusters; an inner node's children hash to its digest. */
int nodes_get_leaf(struct nodes *n, const uint8_t digest[DIGEST_SIZE], unsigned unit_bits, struct leaf *ret, struct err *err);
int nodes_get_inner(struct nodes *n, const uint8_t digest[DIGEST_SIZE], unsigned level, struct inner *ret, struct err *err);
/* The leaf of a digest wherever its map leads, and if that is to where no data is. */
int nodes_get_map(struct nodes *n, const uint8_t digest[DIGEST_SIZE], unsigned unit_bits, struct leaf *ret, struct err *err);
/* Any leaf of a digest, of the unit asked for or larger: 1, 0, -1.  The same, but one that leads to one cluster file alone. */
int nodes_find_leaf(struct nodes *n, const uint8_t digest[DIGEST_SIZE], unsigned unit_bits, struct leaf *ret, struct err *err);
int nodes_find_leaf_in(struct nodes *n, uint32_t file, const uint8_t digest[DIGEST_SIZE], unsigned unit_bits, struct leaf *ret,
		       struct err *err);
/* A leaf in the file that grows that may be of a segment with this hint (compactor/pool/import.h): 1, 0, -1.  Its bytes have to be
 * compared.  Without a finder there is none. */
int nodes_find_segment(struct nodes *n, struct fingerprint hint, unsigned unit_bits, struct leaf *ret, struct err *err);
/* Called before any record is written: clusters have to be durable before the maps that lead to them. */
void nodes_set_before_write(struct nodes *n, int (*call)(void *ctx, struct err *err), void *ctx);
/* The offset in the cluster file that grows behind all that those nodes lead to which were read since it was opened, or added. */
uint64_t nodes_reach(const struct nodes *n);
int nodes_find_reach(struct nodes *n, struct err *err); /* reads all */
/* Adds all nodes to the finder, which has none. */
int nodes_remember_all(struct nodes *n, struct err *err);

/* Bytes of clusters that it leads to. */
uint64_t leaf_bytes(const struct leaf *leaf);
/* All that the leaf leads to is in the cluster file with this number. */
bool leaf_lies_in(const struct leaf *leaf, uint32_t file);

/* Where the record of a node is that is found by its digest, and whole: 1 and *ret, 0, -1. */
int nodes_locate(struct nodes *n, const uint8_t digest[DIGEST_SIZE], unsigned level, unsigned unit_bits, uint64_t *ret,
		 struct err *err);

/* Where the record is without which the one at `offset` says little, its base: 1 and *ret, 0 = it has none, or that is not there,
 * -1.  The base may have one, too. */
int nodes_locate_base(struct nodes *n, uint64_t offset, uint64_t *ret, struct err *err);

/* Leaves out all records but those that keep() says, by their offsets, which are `nr`, with the bases of all that are kept: a new
 * file is written in dirfd, synced, read back, and takes the place of the old one by a rename; offsets are new then, and the finder
 * knows them.  When it finds other than `nr`, or a base is left out, it is ERR_FORMAT, and nothing has changed.  Nothing may be
 * buffered: after nodes_sync(). */
int nodes_keep(struct nodes *n, int dirfd, bool (*keep)(void *ctx, uint64_t offset), void *ctx, uint64_t nr, struct err *err);

/* Flushes and syncs; *ret_end is the end of what is durable now. */
int nodes_sync(struct nodes *n, uint64_t *ret_end, struct err *err);

/* Calls for every whole record in the order of the file, until a call returns other than 0; that is returned then.  One of leaf and
 * inner is NULL, both are of an inner node that has a base.  Replaced ones are called, too. */
int nodes_each(struct nodes *n,
	       int (*call)(void *ctx, uint64_t offset, const struct leaf *leaf, const struct inner *inner, struct err *err),
	       void *ctx, struct err *err);
uint64_t nodes_bytes(const struct nodes *n);
int nodes_drop_cache(struct nodes *n, struct err *err); /* what is read next comes from the disk */
uint64_t nodes_damaged(const struct nodes *n); /* places that the last whole nodes_each() passed over */

/* Encoding, for tests and fuzzing.  Payload of at most POOL_NODE_PAYLOAD_MAX bytes; returns its length.  Decoding checks
 * everything, and that clusters lie in the data area; after a failure *ret is undefined. */
size_t leaf_encode(const struct leaf *leaf, uint8_t ret[POOL_NODE_PAYLOAD_MAX]);
int leaf_decode(const uint8_t *p, size_t len, unsigned unit_bits, struct leaf *ret, struct err *err);

#endif
