/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/pool/nodes.h"

#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "compactor/pool/node_record.h"
#include "scanner/base/checked.h"
#include "scanner/base/crc32c.h"
#include "scanner/base/file.h"
#include "scanner/chunk/fingerprint.h"
#include "scanner/index/judymap.h"

/*
 *	| records | zeros | records                    | torn | zeros | records ...
 *	^ 0               ^ 4096 n: next transaction           ^ 4096 m
 *
 * Records are appended through a buffer.  A transaction ends with nodes_sync(), and the next begins on a page of its own, so that a
 * write which power cuts short tears nothing that was durable before.  A file that is opened for writing goes on behind its last
 * page, whatever that holds: what a dead process left is used where it is whole.
 *
 * Where a node lies is what the finder says, or a map from 64 bits of its digest to its record.  Both are hints: a record is taken
 * when its checksum is right and it is of the node that was asked for.  In the map the next free key is taken when there is a
 * record of another node at a key; in the finder, whose keys are longer, the newer one hides the older, which is written again when
 * it is put.
 *
 * An inner node of which a version changes few children is written as a delta: what they are now, and the digest of its base.  So a
 * version costs what it changes, not 4 KiB for each node above that.  A chain of them ends after POOL_DELTA_DEPTH_MAX, or nodes
 * would be slow to read, and one damaged place would hit ever more versions.  What is put together is believed when it has its
 * digest.  A node that was there and cannot be read is written whole: its base may stand on it, when that can be read the next time.
 *
 * A page that is lost in the middle of a transaction, or damaged later, costs the records in it only: behind it the next record is
 * looked for at every multiple of 8.  Bytes of a payload could be taken for a record then, which an attacker can bring about for
 * leaves of his own at best: a leaf is believed when its segment has its digest.
 */

#define BUFFER_SIZE ((size_t)256 << 10)
#define NEW_NODES "nodes.new"
#define LEAF_GUESS 512u /* most leaves are shorter */
#define BASES_MAX (4 * POOL_DELTA_DEPTH_MAX)

struct nodes {
	int fd;
	char name[64];
	const struct clusters *clusters; /* NULL = maps may lead anywhere */
	struct finder *finder;
	struct judymap map; /* without a finder: key -> offset / 8 + 1 */
	bool writing, dirty, broken;
	bool begun; /* a transaction */
	uint64_t end; /* what is buffered included */
	uint64_t damaged; /* places, when all was gone through last */
	uint64_t reach;
	size_t used;	/* of the buffer, which is the file's end */
	uint8_t *buf;
	int (*before)(void *ctx, struct err *err);
	void *before_ctx;
	uint8_t record[NODE_RECORD_MAX];
};

/* ---- reading records ---- */

static uint64_t on_disk(const struct nodes *n)
{
	return n->end - n->used;
}

/* Returns how many bytes are there. */
static size_t read_at(struct nodes *n, uint64_t offset, size_t len)
{
	ssize_t got = file_read_some(n->fd, n->record, min_u64(len, on_disk(n) - offset), offset, NULL);

	return got < 0 ? 0 : (size_t)got;
}

/* The whole record at an offset, or NULL; good until the next call. */
static const uint8_t *record_at(struct nodes *n, uint64_t offset, size_t guess)
{
	size_t got, len;

	if (offset >= n->end || n->end - offset < NODE_HEAD)
		return NULL;
	if (offset >= on_disk(n)) {
		const uint8_t *p = n->buf + (offset - on_disk(n));

		return node_record_check(p, n->end - offset) ? p : NULL;
	}
	got = read_at(n, offset, guess);
	if (got < NODE_HEAD)
		return NULL;
	len = node_record_len(n->record);
	if (len > got)
		got = read_at(n, offset, len);
	return node_record_check(n->record, got) ? n->record : NULL;
}

static bool is_node(const uint8_t *record, struct node_id id)
{
	struct node_id is = node_record_id(record);
	size_t len = is.half || id.half ? DIGEST_SIZE / 2 : DIGEST_SIZE;

	return is.level == id.level && is.unit_bits == id.unit_bits && memcmp(is.digest, id.digest, len) == 0;
}

static const uint8_t *record_of(struct nodes *n, uint64_t offset, struct node_id id)
{
	const uint8_t *p = record_at(n, offset, id.level ? NODE_INNER_MAX : LEAF_GUESS);

	return p && is_node(p, id) ? p : NULL;
}

static int decode_leaf(const struct nodes *n, const uint8_t *record, struct leaf *ret, struct err *err)
{
	if (node_record_leaf(record, ret, err) < 0)
		return -1;
	for (unsigned i = 0; n->clusters && i < ret->nr_runs; i++)
		if (!clusters_have(n->clusters, ret->runs[i].place << ret->unit_bits, (uint64_t)ret->runs[i].nr << ret->unit_bits))
			return err_set(err, ERR_FORMAT, "the map of a segment leads to where the pool has no data");
	return 0;
}

/* ---- finding them ---- */

/* The finder may leave off lower bits. */
static struct fingerprint finder_key(struct node_id id)
{
	return (struct fingerprint){ le64_load(id.digest), le64_load(id.digest + 8) ^ (uint64_t)id.level << 56 };
}

static uint64_t map_key(struct node_id id)
{
	return le64_load(id.digest) ^ (uint64_t)id.level << 8 ^ id.unit_bits;
}

static int find_in_finder(struct nodes *n, struct node_id id, const uint8_t **ret, uint64_t *ret_offset, struct err *err)
{
	struct fingerprint key = finder_key(id);
	uint64_t number;
	int rc = finder_get(n->finder, FINDER_NODE, id.unit_bits, key.hi, key.lo, &number, err);

	if (rc <= 0)
		return rc;
	*ret_offset = number * NODE_ALIGN;
	*ret = record_of(n, *ret_offset, id);
	return *ret != NULL;
}

/* The record of a node, and where it is: 1, 0 = it is not there or damaged, -1. */
static int locate(struct nodes *n, struct node_id id, const uint8_t **ret, uint64_t *ret_offset, struct err *err)
{
	uint64_t *slot;

	*ret = NULL;
	if (digest_prepare(err) < 0) /* or a node would look damaged */
		return -1;
	if (n->finder)
		return find_in_finder(n, id, ret, ret_offset, err);
	for (uint64_t key = map_key(id); !*ret && (slot = judymap_get(&n->map, key)); key++) {
		*ret_offset = (*slot - 1) * NODE_ALIGN;
		*ret = record_of(n, *ret_offset, id);
	}
	return *ret != NULL;
}

static int find(struct nodes *n, struct node_id id, const uint8_t **ret, struct err *err)
{
	uint64_t offset;

	return locate(n, id, ret, &offset, err);
}

static int add_to_map(struct nodes *n, struct node_id id, uint64_t offset, struct err *err)
{
	for (uint64_t key = map_key(id);; key++) {
		uint64_t *slot = judymap_put(&n->map, key);

		if (!slot)
			return err_set(err, ERR_MEMORY, "no memory for a map of the pool's nodes");
		if (*slot && !record_of(n, (*slot - 1) * NODE_ALIGN, id))
			continue;
		*slot = offset / NODE_ALIGN + 1;
		return 0;
	}
}

/* From now on the node is found at this offset. */
static int remember(struct nodes *n, struct node_id id, struct fingerprint hint, uint64_t offset, struct err *err)
{
	struct fingerprint key = finder_key(id);

	if (!n->finder)
		return add_to_map(n, id, offset, err);
	if (finder_add(n->finder, FINDER_NODE, id.unit_bits, key.hi, key.lo, offset / NODE_ALIGN, true, err) < 0)
		return -1;
	if (fingerprint_is_null(hint))
		return 0;
	return finder_add(n->finder, FINDER_SEGMENT, id.unit_bits, hint.hi, hint.lo, offset / NODE_ALIGN, true, err);
}

static int not_there(struct node_id id, struct err *err)
{
	size_t len = id.half ? DIGEST_SIZE / 2 : DIGEST_SIZE;
	uint8_t digest[DIGEST_SIZE] = { 0 };
	char text[DIGEST_TEXT_ROOM];

	memcpy(digest, id.digest, len);
	return err_set(err, ERR_FORMAT, "the pool has no whole node %.*s of level %u", (int)(2 * len), digest_text(digest, text),
		       id.level);
}

static int of_node(struct node_id id, struct err *err)
{
	char text[DIGEST_TEXT_ROOM];

	return err_add(err, "node %s of a pool", digest_text(id.digest, text));
}

/* ---- putting inner nodes together ---- */

/* A node as far as it is known: what a delta says of a child stands, whatever its bases say. */
struct assembly {
	uint8_t (*children)[DIGEST_SIZE];
	bool known[DIGEST_FANOUT];
	unsigned depth; /* bases that were taken */
	uint8_t base[DIGEST_SIZE / 2];
};

/* 1 = its base is wanted, too, 0 = that was all, -1. */
static int take_record(struct assembly *a, const uint8_t *record, struct err *err)
{
	uint8_t whole[DIGEST_FANOUT][DIGEST_SIZE];
	struct node_delta d;

	if (node_record_is_delta(record)) {
		if (node_record_delta(record, &d, err) < 0)
			return -1;
		for (unsigned i = 0; i < d.nr; i++) {
			if (!a->known[d.which[i]])
				memcpy(a->children[d.which[i]], d.digests + (size_t)i * DIGEST_SIZE, DIGEST_SIZE);
			a->known[d.which[i]] = true;
		}
		memcpy(a->base, d.base.digest, sizeof(a->base));
		return 1;
	}
	if (node_record_children(record, whole, err) < 0)
		return -1;
	for (unsigned i = 0; i < DIGEST_FANOUT; i++)
		if (!a->known[i])
			memcpy(a->children[i], whole[i], DIGEST_SIZE);
	return 0;
}

/* Bases that were lost and came again may stand on others than they did; but whatever records say, this ends. */
static int take_bases(struct nodes *n, struct assembly *a, unsigned level, struct err *err)
{
	int more = 1;

	while (more > 0) {
		const struct node_id base = { a->base, level, 0, true };
		const uint8_t *record;
		int rc = find(n, base, &record, err);

		if (rc <= 0)
			return rc == 0 ? not_there(base, err) : -1;
		if (a->depth++ == BASES_MAX)
			return err_set(err, ERR_FORMAT, "the bases of an inner node go round in circles");
		more = take_record(a, record, err);
	}
	return more;
}

/* What begins with a record of it, and is believed when it has the digest. */
static int assemble(struct nodes *n, const uint8_t *record, struct node_id id, struct inner *ret, unsigned *ret_depth,
		    struct err *err)
{
	struct assembly a = { .children = ret->children };
	uint8_t digest[DIGEST_SIZE];
	int rc = take_record(&a, record, err);

	if (rc < 0 || (rc > 0 && take_bases(n, &a, id.level, err) < 0))
		return -1;
	digest_bytes(ret->children, sizeof(ret->children), digest);
	if (memcmp(digest, id.digest, DIGEST_SIZE) != 0)
		return err_set(err, ERR_FORMAT, "the children of an inner node are not those of its digest");
	memcpy(ret->digest, digest, DIGEST_SIZE);
	ret->level = id.level;
	*ret_depth = a.depth;
	return 0;
}

/* 1, 0 = it is not there or not whole, -1. */
static int find_inner(struct nodes *n, struct node_id id, struct inner *ret, unsigned *ret_depth, struct err *err)
{
	const uint8_t *record;
	struct err why = ERR_INIT;
	int rc = find(n, id, &record, err);

	if (rc <= 0)
		return rc;
	if (assemble(n, record, id, ret, ret_depth, &why) == 0)
		return 1;
	return why.kind == ERR_FORMAT ? 0 : err_set(err, why.kind, "%s", why.text);
}

/* ---- the whole file ---- */

struct pass {
	const struct nodes *n;
	int fd;
	uint64_t at, end;
	uint64_t begin; /* buf holds [begin, begin + len) of the file */
	size_t len;
	uint8_t *buf;
	uint64_t damaged;
	struct leaf leaf;
	struct inner inner;
};

static void pass_free(struct pass *p)
{
	if (p)
		free(p->buf);
	free(p);
}
CLEANUP_DEFINE(struct pass *, pass_free)

static struct pass *pass_new(const struct nodes *n, int fd, uint64_t from, uint64_t end, struct err *err)
{
	struct pass *p = calloc(1, sizeof(*p));

	if (p)
		p->buf = malloc(BUFFER_SIZE);
	if (!p || !p->buf) {
		pass_free(p);
		return err_null(err, ERR_MEMORY, "no memory to go through the pool's nodes");
	}
	p->n = n;
	p->fd = fd;
	p->at = p->begin = from;
	p->end = end;
	return p;
}

/* The bytes at p->at: as many as a record may have, or all there are. */
static const uint8_t *pass_look(struct pass *p, size_t *ret_room, struct err *err)
{
	size_t want = min_u64(NODE_RECORD_MAX, p->end - p->at);

	if (p->at + want > p->begin + p->len) {
		p->begin = p->at;
		p->len = min_u64(BUFFER_SIZE, p->end - p->at);
		if (file_read(p->fd, p->buf, p->len, p->begin, err) < 0) {
			err_add(err, "'%s'", p->n->name);
			return NULL;
		}
	}
	*ret_room = want;
	return p->buf + (p->at - p->begin);
}

/* The length of the good record at p, decoded, or 0. */
static size_t pass_decode(struct pass *p, const uint8_t *bytes, size_t room)
{
	size_t len = node_record_check(bytes, room);
	struct node_delta d;

	if (!len)
		return 0;
	if (node_record_is_delta(bytes))
		return node_record_delta(bytes, &d, NULL) < 0 ? 0 : len;
	if (node_record_id(bytes).level == 0)
		return node_record_leaf(bytes, &p->leaf, NULL) < 0 ? 0 : len;
	return node_record_inner(bytes, &p->inner, NULL) < 0 ? 0 : len;
}

/* The next record: 1 with its bytes and offset, 0 at the end, -1. */
static int pass_next(struct pass *p, const uint8_t **ret, uint64_t *ret_offset, struct err *err)
{
	static const uint8_t zeros[NODE_ALIGN];
	bool torn = false;

	for (; p->end - p->at >= NODE_ALIGN; p->at += NODE_ALIGN) {
		size_t room, len;
		const uint8_t *bytes = digest_prepare(err) < 0 ? NULL : pass_look(p, &room, err);

		if (!bytes)
			return -1;
		len = pass_decode(p, bytes, room);
		if (len) {
			p->damaged += torn;
			*ret = bytes;
			*ret_offset = p->at;
			p->at += len;
			return 1;
		}
		torn = torn || memcmp(bytes, zeros, NODE_ALIGN) != 0;
	}
	return 0;
}

/* A segment of an image that enters is shared where it lies in the file that grows. */
static bool can_be_shared(const struct nodes *n, const struct leaf *leaf)
{
	return !n->clusters || leaf_lies_in(leaf, clusters_growing(n->clusters).number);
}

static void note_reach(struct nodes *n, const struct leaf *leaf)
{
	uint32_t grows = n->clusters ? clusters_growing(n->clusters).number : 0;

	for (unsigned i = 0; i < leaf->nr_runs; i++) {
		const struct run *r = &leaf->runs[i];

		if (r->place << leaf->unit_bits >> POOL_FILE_BITS == grows)
			n->reach = max_u64(n->reach, cluster_offset((r->place + r->nr) << leaf->unit_bits));
	}
}

uint64_t nodes_reach(const struct nodes *n)
{
	return n->reach;
}

static int remember_from(struct nodes *n, uint64_t from, uint64_t *ret_damaged, struct err *err)
{
	CLEANUP(pass_free) struct pass *p = pass_new(n, n->fd, from, on_disk(n), err);
	const uint8_t *record;
	uint64_t offset;
	int rc = -1;

	while (p && (rc = pass_next(p, &record, &offset, err)) > 0) {
		struct node_id id = node_record_id(record);
		struct fingerprint hint = node_record_hint(record);

		if (id.level == 0 && !can_be_shared(n, &p->leaf))
			hint = (struct fingerprint){ 0 };
		if (id.level == 0)
			note_reach(n, &p->leaf);
		if (remember(n, id, hint, offset, err) < 0)
			return -1;
	}
	if (rc == 0)
		*ret_damaged = p->damaged;
	return rc;
}

int nodes_remember_all(struct nodes *n, struct err *err)
{
	uint64_t damaged;

	assert(n->finder && !n->used);
	n->reach = 0;
	return remember_from(n, 0, &damaged, err);
}

static int flush(struct nodes *n, struct err *err)
{
	if (n->used && n->before && n->before(n->before_ctx, err) < 0)
		return -1;
	if (n->used && file_write(n->fd, n->buf, n->used, on_disk(n), err) < 0)
		return err_add(err, "'%s'", n->name);
	n->used = 0;
	return 0;
}

int nodes_each(struct nodes *n,
	       int (*call)(void *ctx, uint64_t offset, const struct leaf *leaf, const struct inner *inner, struct err *err),
	       void *ctx, struct err *err)
{
	CLEANUP(pass_free) struct pass *p = NULL;
	const uint8_t *record;
	uint64_t offset;
	int rc;

	if (flush(n, err) < 0)
		return -1;
	p = pass_new(n, n->fd, 0, on_disk(n), err);
	if (!p)
		return -1;
	while ((rc = pass_next(p, &record, &offset, err)) > 0) {
		bool leaf = node_record_id(record).level == 0;

		rc = call(ctx, offset, leaf ? &p->leaf : NULL, leaf || node_record_is_delta(record) ? NULL : &p->inner, err);
		if (rc != 0)
			return rc;
	}
	if (rc == 0)
		n->damaged = p->damaged;
	return rc;
}

static int take_reach(void *ctx, uint64_t offset, const struct leaf *leaf, const struct inner *inner, struct err *err)
{
	(void)offset;
	(void)inner;
	(void)err;
	if (leaf)
		note_reach(ctx, leaf);
	return 0;
}

int nodes_find_reach(struct nodes *n, struct err *err)
{
	return nodes_each(n, take_reach, n, err);
}

/* ---- opening ---- */

/* The name is synced while the file is empty: who died before that did not write to it either. */
static int open_file(struct nodes *n, int dirfd, struct err *err)
{
	struct stat st;

	n->fd = file_open(dirfd, n->name, n->writing ? O_RDWR | O_CREAT | O_NOFOLLOW : O_RDONLY | O_NOFOLLOW, 0600, err);
	if (n->fd < 0)
		return -1;
	if (file_ops->fstat(n->fd, &st) < 0)
		return err_errno(err, "cannot stat '%s'", n->name);
	n->end = (uint64_t)st.st_size;
	return n->writing && n->end == 0 ? file_sync_dir(dirfd, err) : 0;
}

#define TAIL 256u

/* What lies before an offset; 0 = that cannot be told. */
static uint32_t tail_of(const struct nodes *n, uint64_t end)
{
	uint8_t bytes[TAIL];
	size_t len = (size_t)min_u64(end, TAIL);

	return len && file_read(n->fd, bytes, len, end - len, NULL) == 0 ? crc32c(0, bytes, len) : 0;
}

/* The file that the finder covers as far as this is another one, of another time, or was put back. */
static bool is_another(const struct nodes *n, uint64_t covered)
{
	uint32_t tail = finder_tail(n->finder);

	return covered > n->end || covered % NODE_ALIGN || (tail && tail != tail_of(n, covered));
}

struct nodes *nodes_open(int dirfd, const char *name, const struct clusters *clusters, struct finder *finder, bool writing,
			 uint64_t *ret_damaged, struct err *err)
{
	CLEANUP(nodes_close) struct nodes *n = calloc(1, sizeof(*n));
	uint64_t from = finder ? finder_covered(finder) : 0, damaged = 0;

	if (n)
		*n = (struct nodes){ .fd = -1, .clusters = clusters, .finder = finder, .writing = writing, .dirty = writing };
	if (n && writing)
		n->buf = malloc(BUFFER_SIZE);
	if (!n || (writing && !n->buf))
		return err_null(err, ERR_MEMORY, "no memory for the nodes of a pool");
	snprintf(n->name, sizeof(n->name), "%s", name ? name : NEW_NODES);
	if (writing && file_unlink(dirfd, NEW_NODES, err) < 0)
		return NULL;
	if (open_file(n, dirfd, err) < 0 || (!name && file_unlink(dirfd, NEW_NODES, err) < 0))
		return NULL;
	if (from && is_another(n, from)) { /* what covers it must not look right when it has grown */
		from = 0;
		if (writing && finder_sync(finder, 0, err) < 0)
			return NULL;
	}
	if (remember_from(n, from, &damaged, err) < 0)
		return NULL;
	*ret_damaged = damaged;
	return STEAL(n);
}

void nodes_close(struct nodes *n)
{
	if (!n)
		return;
	if (n->fd >= 0)
		file_close(n->fd, n->name, NULL);
	judymap_release(&n->map);
	free(n->buf);
	free(n);
}

/* ---- writing ---- */

static int usable(const struct nodes *n, struct err *err)
{
	return n->broken ? err_set(err, ERR_IO, "'%s' could not be synced before", n->name) : 0;
}

int nodes_sync(struct nodes *n, uint64_t *ret_end, struct err *err)
{
	if (usable(n, err) < 0 || flush(n, err) < 0)
		return -1;
	if (n->dirty && file_sync(n->fd, n->name, err) < 0) {
		n->broken = true;
		return -1;
	}
	n->begun = n->dirty = false;
	if (n->finder)
		finder_set_tail(n->finder, tail_of(n, n->end));
	*ret_end = n->end;
	return 0;
}

/* Room for the largest record at the file's end. */
static uint8_t *room_for_one(struct nodes *n, struct err *err)
{
	assert(n->writing);
	if (usable(n, err) < 0 || (BUFFER_SIZE - n->used < NODE_RECORD_MAX && flush(n, err) < 0))
		return NULL;
	if (!n->begun)
		n->end = round_up(n->end, BLOCK_SIZE);
	n->begun = n->dirty = true;
	return n->buf + n->used;
}

/* The record in the room becomes the file's end. */
static int add(struct nodes *n, const uint8_t *record, size_t len, struct err *err)
{
	uint64_t offset = n->end;

	n->used += len;
	n->end += len;
	return remember(n, node_record_id(record), node_record_hint(record), offset, err);
}

static void assert_leaf(const struct leaf *leaf)
{
	uint64_t units = SEGMENT_SIZE >> leaf->unit_bits, at = 0;

	assert(leaf->nr_runs > 0 && !digest_is_null(leaf->digest));
	for (unsigned i = 0; i < leaf->nr_runs; i++) {
		assert(leaf->runs[i].nr > 0 && leaf->runs[i].first >= at);
		at = leaf->runs[i].first + leaf->runs[i].nr;
		assert(at <= units);
	}
}

int nodes_replace_leaf(struct nodes *n, const struct leaf *leaf, struct err *err)
{
	uint8_t *room;

	assert_leaf(leaf);
	room = room_for_one(n, err);
	note_reach(n, leaf);
	return room ? add(n, room, node_record_of_leaf(leaf, room), err) : -1;
}

int nodes_put_leaf(struct nodes *n, const struct leaf *leaf, struct err *err)
{
	const uint8_t *old;
	struct leaf is;
	int rc = find(n, (struct node_id){ leaf->digest, 0, leaf->unit_bits }, &old, err);

	if (rc < 0)
		return -1;
	return rc == 0 || decode_leaf(n, old, &is, NULL) < 0 ? nodes_replace_leaf(n, leaf, err) : 0;
}

/* There was a record of it once, or one of another node has its key. */
static int was_there(struct nodes *n, struct node_id id, struct err *err)
{
	struct fingerprint key = finder_key(id);
	uint64_t number;

	if (!n->finder)
		return judymap_get(&n->map, map_key(id)) != NULL;
	return finder_get(n->finder, FINDER_NODE, id.unit_bits, key.hi, key.lo, &number, err);
}

/* As a delta where that is worth it.  A base that is not there or damaged is none. */
static int add_inner(struct nodes *n, const struct inner *inner, const uint8_t *base, struct err *err)
{
	uint8_t record[NODE_RECORD_MAX], *room;
	struct inner was;
	unsigned depth;
	size_t len = 0;
	int rc = base ? find_inner(n, (struct node_id){ base, inner->level }, &was, &depth, err) : 0;

	if (rc < 0)
		return -1;
	if (rc > 0)
		len = depth < POOL_DELTA_DEPTH_MAX ? node_record_of_delta(inner, &was, record) : 0;
	room = room_for_one(n, err);
	if (!room)
		return -1;
	if (len)
		memcpy(room, record, len);
	return add(n, room, len ? len : node_record_of_inner(inner, room), err);
}

int nodes_put_inner(struct nodes *n, const struct inner *inner, const uint8_t *base, struct err *err)
{
	const struct node_id id = { inner->digest, inner->level };
	uint8_t digest[DIGEST_SIZE];
	struct inner is;
	unsigned depth;
	int rc;

	if (digest_prepare(err) < 0)
		return -1;
	digest_bytes(inner->children, sizeof(inner->children), digest);
	assert(inner->level > 0 && inner->level <= DIGEST_LEVELS && memcmp(digest, inner->digest, DIGEST_SIZE) == 0);
	rc = find_inner(n, id, &is, &depth, err);
	if (rc != 0)
		return rc < 0 ? -1 : 0;
	rc = was_there(n, id, err);
	return rc < 0 ? -1 : add_inner(n, inner, rc ? NULL : base, err);
}

/* ---- leaving out ---- */

/* All that is to be kept, or nothing: what was whole a moment ago may not be so now. */
static int copy_kept(struct nodes *n, struct file_writer *w, bool (*keep)(void *ctx, uint64_t offset), void *ctx, uint64_t nr,
		     struct err *err)
{
	CLEANUP(pass_free) struct pass *p = pass_new(n, n->fd, 0, on_disk(n), err);
	const uint8_t *record;
	uint64_t offset;
	int rc = -1;

	while (p && (rc = pass_next(p, &record, &offset, err)) > 0) {
		uint64_t base;

		if (!keep(ctx, offset))
			continue;
		nr--;
		rc = node_record_is_delta(record) ? nodes_locate_base(n, offset, &base, err) : 0;
		if (rc < 0)
			return -1;
		if (rc > 0 && !keep(ctx, base))
			return err_set(err, ERR_FORMAT, "a node of '%s' would lose its base", n->name);
		if (file_writer_append(w, record, node_record_len(record), err) < 0)
			return -1;
	}
	return rc == 0 && nr ? err_set(err, ERR_FORMAT, "'%s' is not as it was a moment ago", n->name) : rc;
}

/* The disk has all of them: without the old file nothing else has. */
static int check_new(struct nodes *n, int fd, uint64_t size, uint64_t nr, struct err *err)
{
	CLEANUP(pass_free) struct pass *p = pass_new(n, fd, 0, size, err);
	const uint8_t *record;
	uint64_t offset;
	int rc = -1;

	if (!p || file_drop_cache(fd, err) < 0)
		return -1;
	while ((rc = pass_next(p, &record, &offset, err)) > 0)
		nr--;
	return rc == 0 && nr ? err_set(err, ERR_IO, "'%s' reads back otherwise than it was written", NEW_NODES) : rc;
}

/* The new file is the one that is read from here on.  The finder covered nothing before, so whoever opens it after a kill adds them
 * all. */
static int change_files(struct nodes *n, int dirfd, int fd, uint64_t size, struct err *err)
{
	uint64_t damaged;

	if (file_rename(dirfd, NEW_NODES, n->name, err) < 0 || file_sync_dir(dirfd, err) < 0) {
		file_close(fd, NEW_NODES, NULL);
		n->broken = true;
		return -1;
	}
	file_close(n->fd, n->name, NULL);
	n->fd = fd;
	n->end = size;
	judymap_release(&n->map);
	if (remember_from(n, 0, &damaged, err) < 0)
		return -1;
	if (!n->finder)
		return 0;
	finder_set_reach(n->finder, max_u64(finder_reach(n->finder), n->reach)); /* as it covers them now */
	finder_set_tail(n->finder, tail_of(n, n->end));
	return finder_sync(n->finder, n->end, err);
}

/* Opens the new file, whole and on the disk, and forgets what the old one is found by. */
static int open_new(struct nodes *n, int dirfd, uint64_t size, uint64_t nr, struct err *err)
{
	int fd = file_open(dirfd, NEW_NODES, O_RDWR | O_NOFOLLOW, 0, err);

	if (fd >= 0 && check_new(n, fd, size, nr, err) == 0 && (!n->finder || finder_sync(n->finder, 0, err) == 0))
		return fd;
	if (fd >= 0)
		file_close(fd, NEW_NODES, NULL);
	return -1;
}

int nodes_keep(struct nodes *n, int dirfd, bool (*keep)(void *ctx, uint64_t offset), void *ctx, uint64_t nr, struct err *err)
{
	CLEANUP(file_writer_release) struct file_writer w = { .fd = -1 };
	uint64_t size;
	int fd = -1;

	assert(n->writing && !n->used);
	if (usable(n, err) < 0 || file_writer_open(&w, dirfd, NEW_NODES, BUFFER_SIZE, err) < 0)
		return -1;
	if (copy_kept(n, &w, keep, ctx, nr, err) == 0) {
		size = w.offset;
		if (file_writer_close(&w, 1, err) == 0)
			fd = open_new(n, dirfd, size, nr, err);
	}
	if (fd >= 0)
		return change_files(n, dirfd, fd, size, err);
	file_unlink(dirfd, NEW_NODES, NULL);
	return -1;
}

/* ---- looking up ---- */

void nodes_set_before_write(struct nodes *n, int (*call)(void *ctx, struct err *err), void *ctx)
{
	n->before = call;
	n->before_ctx = ctx;
}

uint64_t nodes_bytes(const struct nodes *n)
{
	return n->end;
}

int nodes_drop_cache(struct nodes *n, struct err *err)
{
	return file_drop_cache(n->fd, err);
}

uint64_t nodes_damaged(const struct nodes *n)
{
	return n->damaged;
}

uint64_t leaf_bytes(const struct leaf *leaf)
{
	uint64_t ret = 0;

	for (unsigned i = 0; i < leaf->nr_runs; i++)
		ret += (uint64_t)leaf->runs[i].nr << leaf->unit_bits;
	return ret;
}

bool leaf_lies_in(const struct leaf *leaf, uint32_t file)
{
	for (unsigned i = 0; i < leaf->nr_runs; i++)
		if (leaf->runs[i].place << leaf->unit_bits >> POOL_FILE_BITS != file)
			return false;
	return true;
}

int nodes_get_map(struct nodes *n, const uint8_t digest[DIGEST_SIZE], unsigned unit_bits, struct leaf *ret, struct err *err)
{
	struct node_id id = { digest, 0, unit_bits };
	const uint8_t *record;
	int rc = find(n, id, &record, err);

	if (rc <= 0)
		return rc == 0 ? not_there(id, err) : -1;
	return node_record_leaf(record, ret, err) < 0 ? of_node(id, err) : 0;
}

int nodes_get_leaf(struct nodes *n, const uint8_t digest[DIGEST_SIZE], unsigned unit_bits, struct leaf *ret, struct err *err)
{
	struct node_id id = { digest, 0, unit_bits };
	const uint8_t *record;
	int rc = find(n, id, &record, err);

	if (rc <= 0)
		return rc == 0 ? not_there(id, err) : -1;
	return decode_leaf(n, record, ret, err) < 0 ? of_node(id, err) : 0;
}

int nodes_get_inner(struct nodes *n, const uint8_t digest[DIGEST_SIZE], unsigned level, struct inner *ret, struct err *err)
{
	struct node_id id = { digest, level };
	const uint8_t *record;
	unsigned depth;
	int rc = find(n, id, &record, err);

	if (rc <= 0)
		return rc == 0 ? not_there(id, err) : -1;
	return assemble(n, record, id, ret, &depth, err) < 0 ? of_node(id, err) : 0;
}

int nodes_locate(struct nodes *n, const uint8_t digest[DIGEST_SIZE], unsigned level, unsigned unit_bits, uint64_t *ret,
		 struct err *err)
{
	struct node_id id = { digest, level, unit_bits };
	const uint8_t *record;
	struct inner inner;
	struct leaf leaf;
	unsigned depth;
	uint64_t at = 0;
	int rc = locate(n, id, &record, &at, err);

	if (rc <= 0)
		return rc;
	if ((level ? assemble(n, record, id, &inner, &depth, NULL) : decode_leaf(n, record, &leaf, NULL)) < 0)
		return 0;
	*ret = at;
	return 1;
}

int nodes_locate_base(struct nodes *n, uint64_t offset, uint64_t *ret, struct err *err)
{
	const uint8_t *record = record_at(n, offset, LEAF_GUESS);
	uint8_t base[DIGEST_SIZE / 2];
	struct node_delta d;

	if (!record || !node_record_is_delta(record) || node_record_delta(record, &d, NULL) < 0)
		return 0;
	memcpy(base, d.base.digest, sizeof(base)); /* the record goes as the next one is read */
	d.base.digest = base;
	return locate(n, d.base, &record, ret, err);
}

static int find_leaf(struct nodes *n, const uint32_t *file, const uint8_t digest[DIGEST_SIZE], unsigned unit_bits,
		     struct leaf *ret, struct err *err)
{
	for (; unit_bits <= POOL_UNIT_BITS_MAX; unit_bits += 2) {
		const uint8_t *record;
		int rc = find(n, (struct node_id){ digest, 0, unit_bits }, &record, err);

		if (rc < 0)
			return -1;
		if (rc > 0 && decode_leaf(n, record, ret, NULL) == 0 && (!file || leaf_lies_in(ret, *file)))
			return 1;
	}
	return 0;
}

int nodes_find_leaf(struct nodes *n, const uint8_t digest[DIGEST_SIZE], unsigned unit_bits, struct leaf *ret, struct err *err)
{
	return find_leaf(n, NULL, digest, unit_bits, ret, err);
}

int nodes_find_leaf_in(struct nodes *n, uint32_t file, const uint8_t digest[DIGEST_SIZE], unsigned unit_bits, struct leaf *ret,
		       struct err *err)
{
	return find_leaf(n, &file, digest, unit_bits, ret, err);
}

int nodes_find_segment(struct nodes *n, struct fingerprint hint, unsigned unit_bits, struct leaf *ret, struct err *err)
{
	const uint8_t *record;
	struct fingerprint is;
	uint64_t number;
	int rc = n->finder ? finder_get(n->finder, FINDER_SEGMENT, unit_bits, hint.hi, hint.lo, &number, err) : 0;

	if (rc <= 0)
		return rc;
	record = record_at(n, number * NODE_ALIGN, LEAF_GUESS);
	if (!record || node_record_id(record).level != 0 || node_record_id(record).unit_bits != unit_bits)
		return 0;
	is = node_record_hint(record);
	return is.hi == hint.hi && is.lo == hint.lo && decode_leaf(n, record, ret, NULL) == 0 && can_be_shared(n, ret);
}
