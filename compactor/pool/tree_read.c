/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "compactor/pool/tree.h"

/* Reading segments.  There may be several maps of one segment, in different units: each that is good will do. */

int tree_read_leaf(struct clusters *clusters, const struct leaf *leaf, void *buf, struct err *err)
{
	const unsigned bits = leaf->unit_bits;
	uint8_t *to = buf;
	size_t done = 0;

	for (unsigned i = 0; i < leaf->nr_runs; i++) {
		const struct run *r = &leaf->runs[i];
		size_t at = (size_t)r->first << bits, len = (size_t)r->nr << bits;

		memset(to + done, 0, at - done);
		if (clusters_read(clusters, to + at, len, r->place << bits, err) < 0)
			return -1;
		done = at + len;
	}
	memset(to + done, 0, SEGMENT_SIZE - done);
	return 0;
}

static int read_proven(struct nodes *nodes, struct clusters *clusters, const uint8_t digest[DIGEST_SIZE], unsigned unit_bits,
		       void *buf, struct err *err)
{
	uint8_t got[DIGEST_SIZE];
	struct leaf leaf;

	if (nodes_get_leaf(nodes, digest, unit_bits, &leaf, err) < 0 || tree_read_leaf(clusters, &leaf, buf, err) < 0)
		return -1;
	digest_bytes(buf, SEGMENT_SIZE, got);
	return memcmp(got, digest, DIGEST_SIZE) == 0 ? 0 : err_set(err, ERR_IO, "its bytes are not those of its digest");
}

int tree_read_segment(struct nodes *nodes, struct clusters *clusters, const uint8_t digest[DIGEST_SIZE], void *buf,
		      struct err *err)
{
	struct err why = ERR_INIT, other = ERR_INIT;
	char text[DIGEST_TEXT_ROOM];

	if (digest_is_null(digest)) {
		memset(buf, 0, SEGMENT_SIZE);
		return 0;
	}
	for (unsigned bits = POOL_UNIT_BITS_MIN; bits <= POOL_UNIT_BITS_MAX; bits += 2) {
		if (read_proven(nodes, clusters, digest, bits, buf, &other) == 0)
			return 0;
		if (why.kind == ERR_NONE || other.kind != ERR_FORMAT) /* a map that is not there says least */
			why = other;
		if (other.kind == ERR_MEMORY)
			break;
	}
	return err_set(err, why.kind == ERR_MEMORY ? ERR_MEMORY : ERR_IO, "segment %s of a pool cannot be read: %s",
		       digest_text(digest, text), why.text);
}

/* From whatever map there is. */
static bool read_any(struct nodes *nodes, struct clusters *clusters, const uint8_t digest[DIGEST_SIZE], void *buf)
{
	struct leaf leaf;

	return nodes_find_leaf(nodes, digest, POOL_UNIT_BITS_MIN, &leaf, NULL) > 0 &&
	       tree_read_leaf(clusters, &leaf, buf, NULL) == 0;
}

int tree_read_two(struct nodes *nodes, struct clusters *clusters, const uint8_t digests[2][DIGEST_SIZE], void *const bufs[2],
		  struct err *err)
{
	uint8_t got[2][DIGEST_SIZE] = { 0 };

	if (read_any(nodes, clusters, digests[0], bufs[0]) && read_any(nodes, clusters, digests[1], bufs[1]))
		digest_two(bufs[0], bufs[1], SEGMENT_SIZE, got[0], got[1]);
	for (int i = 0; i < 2; i++)
		if (memcmp(got[i], digests[i], DIGEST_SIZE) != 0 &&
		    tree_read_segment(nodes, clusters, digests[i], bufs[i], err) < 0)
			return -1;
	return 0;
}
