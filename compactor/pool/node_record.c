/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/pool/node_record.h"

#include <string.h>

#include "scanner/base/checked.h"
#include "scanner/base/crc32c.h"
#include "scanner/base/varint.h"

#define BITMAP_SIZE (DIGEST_FANOUT / 8)

/* ---- the head ---- */

static bool unit_is_known(unsigned bits)
{
	return bits >= POOL_UNIT_BITS_MIN && bits <= POOL_UNIT_BITS_MAX && bits % 2 == 0;
}

static size_t whole_len(size_t payload)
{
	return round_up(sizeof(struct pool_node_disk) + payload, NODE_ALIGN);
}

bool node_record_is_delta(const uint8_t *p)
{
	return le32_load(p) == POOL_DELTA_MAGIC;
}

/* What its checksum covers. */
static size_t delta_len(unsigned nr)
{
	return sizeof(struct pool_delta_disk) + nr * (1 + DIGEST_SIZE);
}

static size_t delta_record_len(const uint8_t *p)
{
	const struct pool_delta_disk *d = (const void *)p;

	if (d->level == 0 || d->level > DIGEST_LEVELS || d->nr == 0 || d->nr > DIGEST_FANOUT || d->zero[0] || d->zero[1])
		return 0;
	return round_up(delta_len(d->nr), NODE_ALIGN);
}

size_t node_record_len(const uint8_t *p)
{
	const struct pool_node_disk *d = (const void *)p;
	uint32_t len = le32_get(d->len);

	if (node_record_is_delta(p))
		return delta_record_len(p);
	if (le32_get(d->magic) != POOL_NODE_MAGIC || d->level > DIGEST_LEVELS || d->zero[0] || d->zero[1])
		return 0;
	if (d->level == 0 ? !unit_is_known(d->unit_bits) : d->unit_bits || le64_get(d->hint_hi) || le64_get(d->hint_lo))
		return 0;
	if (len > (d->level == 0 ? POOL_NODE_PAYLOAD_MAX : NODE_INNER_MAX - sizeof(*d)))
		return 0;
	return whole_len(len);
}

static uint32_t delta_checksum(const uint8_t *p)
{
	struct pool_delta_disk d;

	memcpy(&d, p, sizeof(d));
	d.crc = le32_from(0);
	return crc32c(crc32c(0, &d, sizeof(d)), p + sizeof(d), delta_len(d.nr) - sizeof(d));
}

static uint32_t checksum(const uint8_t *p)
{
	struct pool_node_disk d;

	memcpy(&d, p, sizeof(d));
	d.crc = le32_from(0);
	return crc32c(crc32c(0, &d, sizeof(d)), p + sizeof(d), le32_get(d.len));
}

size_t node_record_check(const uint8_t *p, size_t room)
{
	const struct pool_delta_disk *delta = (const void *)p;
	const struct pool_node_disk *d = (const void *)p;
	size_t len = room < NODE_HEAD ? 0 : node_record_len(p);

	if (!len || len > room)
		return 0;
	if (node_record_is_delta(p))
		return delta_checksum(p) == le32_get(delta->crc) ? len : 0;
	return checksum(p) == le32_get(d->crc) ? len : 0;
}

struct node_id node_record_id(const uint8_t *p)
{
	const struct pool_delta_disk *delta = (const void *)p;
	const struct pool_node_disk *d = (const void *)p;

	if (node_record_is_delta(p))
		return (struct node_id){ delta->digest, delta->level, 0, true };
	return (struct node_id){ d->digest, d->level, d->unit_bits, false };
}

struct fingerprint node_record_hint(const uint8_t *p)
{
	const struct pool_node_disk *d = (const void *)p;

	if (node_record_is_delta(p))
		return (struct fingerprint){ 0 };
	return (struct fingerprint){ le64_get(d->hint_hi), le64_get(d->hint_lo) };
}

/* Head and padding of a record whose payload is there. */
static size_t finish(struct node_id id, struct fingerprint hint, size_t payload, uint8_t *p)
{
	struct pool_node_disk d = {
		.magic = le32_from(POOL_NODE_MAGIC),
		.level = (uint8_t)id.level,
		.unit_bits = (uint8_t)id.unit_bits,
		.len = le32_from((uint32_t)payload),
		.hint_hi = le64_from(hint.hi),
		.hint_lo = le64_from(hint.lo),
	};
	size_t len = whole_len(payload);

	memcpy(d.digest, id.digest, DIGEST_SIZE);
	memcpy(p, &d, sizeof(d));
	le32_store(p + offsetof(struct pool_node_disk, crc), checksum(p));
	memset(p + sizeof(d) + payload, 0, len - sizeof(d) - payload);
	return len;
}

/* ---- leaves ---- */

static uint64_t zigzag(uint64_t distance)
{
	return distance << 1 ^ (distance >> 63 ? UINT64_MAX : 0);
}

static uint64_t unzigzag(uint64_t v)
{
	return v >> 1 ^ (v & 1 ? UINT64_MAX : 0);
}

size_t leaf_encode(const struct leaf *leaf, uint8_t ret[POOL_NODE_PAYLOAD_MAX])
{
	uint64_t place = 0;
	uint32_t at = 0;
	uint8_t *p = ret;

	for (unsigned i = 0; i < leaf->nr_runs; i++) {
		const struct run *r = &leaf->runs[i];

		p = varint_put(p, r->first - at);
		p = varint_put(p, r->nr);
		p = varint_put(p, i ? zigzag(r->place - place) : r->place);
		at = r->first + r->nr;
		place = r->place + r->nr;
	}
	return (size_t)(p - ret);
}

/* In the data area of one file. */
static bool place_is_possible(uint64_t place, uint64_t nr, unsigned unit_bits)
{
	const uint64_t in_file = POOL_FILE_MAX >> unit_bits, at = place % in_file;

	return place / in_file < POOL_NR_FILES && at >= POOL_DATA_BEGIN >> unit_bits && range_within(at, nr, in_file);
}

/* One run, which must have something and lie behind the one before (NULL for the first), in the segment and in the data area. */
static const uint8_t *run_decode(const uint8_t *p, const uint8_t *end, unsigned unit_bits, const struct run *before,
				 struct run *ret, struct err *err)
{
	const uint64_t units = SEGMENT_SIZE >> unit_bits;
	uint64_t at = before ? before->first + before->nr : 0, skip, nr, place;

	p = varint_get(p, end, &skip);
	p = p ? varint_get(p, end, &nr) : NULL;
	p = p ? varint_get(p, end, &place) : NULL;
	if (!p)
		return err_null(err, ERR_FORMAT, "the map of a segment is cut short");
	if (before)
		place = before->place + before->nr + unzigzag(place);
	if (skip > units - at || nr == 0 || nr > units - at - skip)
		return err_null(err, ERR_FORMAT, "the map of a segment goes past its end");
	if (!place_is_possible(place, nr, unit_bits))
		return err_null(err, ERR_FORMAT, "the map of a segment points outside the data of the pool");
	if (before && skip == 0 && place == before->place + before->nr)
		return err_null(err, ERR_FORMAT, "the map of a segment has one run in two pieces");
	*ret = (struct run){ (uint32_t)(at + skip), (uint32_t)nr, place };
	return p;
}

int leaf_decode(const uint8_t *p, size_t len, unsigned unit_bits, struct leaf *ret, struct err *err)
{
	const uint8_t *end = p + len;
	unsigned nr = 0;

	if (!unit_is_known(unit_bits))
		return err_set(err, ERR_FORMAT, "the map of a segment has units of 2^%u bytes", unit_bits);
	if (len == 0)
		return err_set(err, ERR_FORMAT, "the map of a segment is empty");
	for (; p < end; nr++) { /* ends in time: a run takes a unit, and those of a segment fit */
		p = run_decode(p, end, unit_bits, nr ? &ret->runs[nr - 1] : NULL, &ret->runs[nr < SEGMENT_BLOCKS ? nr : 0], err);
		if (!p)
			return -1;
	}
	ret->unit_bits = unit_bits;
	ret->nr_runs = nr;
	return 0;
}

int node_record_leaf(const uint8_t *p, struct leaf *ret, struct err *err)
{
	const struct pool_node_disk *d = (const void *)p;

	if (leaf_decode(p + sizeof(*d), le32_get(d->len), d->unit_bits, ret, err) < 0)
		return -1;
	memcpy(ret->digest, d->digest, DIGEST_SIZE);
	ret->hint = node_record_hint(p);
	return 0;
}

size_t node_record_of_leaf(const struct leaf *leaf, uint8_t ret[NODE_RECORD_MAX])
{
	size_t payload = leaf_encode(leaf, ret + sizeof(struct pool_node_disk));

	return finish((struct node_id){ leaf->digest, 0, leaf->unit_bits, false }, leaf->hint, payload, ret);
}

/* ---- inner nodes ---- */

/* The children that the bitmap has, whose digests are at `from`; returns what follows, or NULL. */
static const uint8_t *children_decode(const uint8_t *bitmap, const uint8_t *from, const uint8_t *end,
				      uint8_t ret[DIGEST_FANOUT][DIGEST_SIZE])
{
	memset(ret, 0, DIGEST_FANOUT * DIGEST_SIZE);
	for (unsigned i = 0; i < DIGEST_FANOUT; i++) {
		if (!(bitmap[i / 8] >> i % 8 & 1))
			continue;
		if (end - from < DIGEST_SIZE || digest_is_null(from))
			return NULL;
		memcpy(ret[i], from, DIGEST_SIZE);
		from += DIGEST_SIZE;
	}
	return from;
}

int node_record_children(const uint8_t *p, uint8_t ret[DIGEST_FANOUT][DIGEST_SIZE], struct err *err)
{
	const struct pool_node_disk *d = (const void *)p;
	const uint8_t *bitmap = p + sizeof(*d), *from = bitmap + BITMAP_SIZE, *end = bitmap + le32_get(d->len);

	if (end <= from || children_decode(bitmap, from, end, ret) != end)
		return err_set(err, ERR_FORMAT, "an inner node has not the children that it says");
	return 0;
}

int node_record_inner(const uint8_t *p, struct inner *ret, struct err *err)
{
	const struct pool_node_disk *d = (const void *)p;
	uint8_t digest[DIGEST_SIZE];

	if (node_record_children(p, ret->children, err) < 0)
		return -1;
	digest_bytes(ret->children, sizeof(ret->children), digest);
	if (memcmp(digest, d->digest, DIGEST_SIZE) != 0)
		return err_set(err, ERR_FORMAT, "the children of an inner node are not those of its digest");
	memcpy(ret->digest, digest, DIGEST_SIZE);
	ret->level = d->level;
	return 0;
}

size_t node_record_of_inner(const struct inner *inner, uint8_t ret[NODE_RECORD_MAX])
{
	uint8_t *bitmap = ret + sizeof(struct pool_node_disk), *p = bitmap + BITMAP_SIZE;

	memset(bitmap, 0, BITMAP_SIZE);
	for (unsigned i = 0; i < DIGEST_FANOUT; i++) {
		if (digest_is_null(inner->children[i]))
			continue;
		bitmap[i / 8] |= (uint8_t)(1u << i % 8);
		memcpy(p, inner->children[i], DIGEST_SIZE);
		p += DIGEST_SIZE;
	}
	return finish((struct node_id){ inner->digest, inner->level, 0, false }, (struct fingerprint){ 0 }, (size_t)(p - bitmap),
		      ret);
}

/* ---- inner nodes by their base ---- */

int node_record_delta(const uint8_t *p, struct node_delta *ret, struct err *err)
{
	const struct pool_delta_disk *d = (const void *)p;
	const uint8_t *which = p + sizeof(*d);

	for (unsigned i = 0; i < d->nr; i++)
		if (which[i] >= DIGEST_FANOUT || (i && which[i] <= which[i - 1]))
			return err_set(err, ERR_FORMAT, "an inner node has not the children that it says");
	*ret = (struct node_delta){
		.nr = d->nr, .which = which, .digests = which + d->nr, .base = { d->base, d->level, 0, true },
	};
	return 0;
}

static unsigned nr_children(const struct inner *inner)
{
	unsigned nr = 0;

	for (unsigned i = 0; i < DIGEST_FANOUT; i++)
		nr += !digest_is_null(inner->children[i]);
	return nr;
}

/* Which are not the same; returns how many. */
static unsigned compare_children(const struct inner *a, const struct inner *b, uint8_t ret[DIGEST_FANOUT])
{
	unsigned nr = 0;

	for (unsigned i = 0; i < DIGEST_FANOUT; i++)
		if (memcmp(a->children[i], b->children[i], DIGEST_SIZE) != 0)
			ret[nr++] = (uint8_t)i;
	return nr;
}

size_t node_record_of_delta(const struct inner *inner, const struct inner *base, uint8_t ret[NODE_RECORD_MAX])
{
	const size_t whole = whole_len(BITMAP_SIZE + nr_children(inner) * DIGEST_SIZE);
	struct pool_delta_disk d = { .magic = le32_from(POOL_DELTA_MAGIC), .level = (uint8_t)inner->level };
	uint8_t which[DIGEST_FANOUT], *p = ret + sizeof(d);
	unsigned nr = compare_children(inner, base, which);
	size_t len = round_up(delta_len(nr), NODE_ALIGN);

	if (nr == 0 || len > whole / 8 * 7)
		return 0;
	d.nr = (uint8_t)nr;
	memcpy(d.digest, inner->digest, sizeof(d.digest));
	memcpy(d.base, base->digest, sizeof(d.base));
	memset(ret, 0, len);
	memcpy(ret, &d, sizeof(d));
	memcpy(p, which, nr);
	p += nr;
	for (unsigned i = 0; i < nr; i++, p += DIGEST_SIZE)
		memcpy(p, inner->children[which[i]], DIGEST_SIZE);
	le32_store(ret + offsetof(struct pool_delta_disk, crc), delta_checksum(ret));
	return len;
}
