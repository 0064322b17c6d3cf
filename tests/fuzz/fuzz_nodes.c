/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "compactor/pool/node_record.h"
#include "compactor/pool/tree.h"
#include "scanner/base/checked.h"
#include "scanner/base/crc32c.h"

/* Row F13.
 *
 * The bytes of a file of nodes.  They are tried as they are, and once more as records one after the other whose heads make sense,
 * whose checksums are right and whose inner nodes have the digests of their children, deltas those that they and the inner node
 * before them have, so that what lies behind these is reached.  Whatever is taken for a node must be in order, must be found, and
 * must be found when the file was appended to. */

#define WALK_MAX 1000

static char dir_path[32];
static int dir = -1;

static void must(int what)
{
	if (!what)
		abort();
}

static void remove_dir(void)
{
	unlinkat(dir, "nodes", 0);
	rmdir(dir_path);
}

static void make_dir(void)
{
	strcpy(dir_path, "/dev/shm/fuzz_nodes-XXXXXX");
	must(digest_prepare(NULL) == 0 && mkdtemp(dir_path) != NULL);
	dir = open(dir_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	must(dir >= 0);
	atexit(remove_dir);
}

static void write_file(const uint8_t *data, size_t size)
{
	int fd = openat(dir, "nodes", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	must(fd >= 0 && write(fd, data, size) == (ssize_t)size);
	close(fd);
}

/* ---- what is accepted ---- */

static void look_at_map(const struct leaf *l)
{
	static uint8_t buf[POOL_NODE_PAYLOAD_MAX];
	static struct leaf again;
	const uint64_t in_file = POOL_FILE_MAX >> l->unit_bits;
	uint64_t at = 0;

	must(l->nr_runs > 0 && l->nr_runs <= SEGMENT_BLOCKS);
	for (unsigned i = 0; i < l->nr_runs; i++) {
		const struct run *r = &l->runs[i];

		must(r->nr > 0 && r->first >= at);
		must((r->place % in_file) << l->unit_bits >= POOL_DATA_BEGIN && r->place % in_file + r->nr <= in_file);
		must(r->place / in_file < POOL_NR_FILES);
		at = r->first + r->nr;
	}
	must(at << l->unit_bits <= SEGMENT_SIZE);
	must(leaf_decode(buf, leaf_encode(l, buf), l->unit_bits, &again, NULL) == 0 && again.nr_runs == l->nr_runs);
	for (unsigned i = 0; i < l->nr_runs; i++)
		must(again.runs[i].first == l->runs[i].first && again.runs[i].nr == l->runs[i].nr &&
		     again.runs[i].place == l->runs[i].place);
}

static void walk(struct nodes *n, const struct inner *root)
{
	uint64_t size = SEGMENT_SIZE << 7 * min_u64(root->level, 6), at = 0, nr = 0;
	struct tree_walk *w = tree_walk_new(n, root->digest, size, NULL);
	uint8_t digest[DIGEST_SIZE];

	must(w != NULL);
	while (nr++ < WALK_MAX && tree_walk_next(w, at, &at, digest, NULL) > 0) {
		must(at < size / SEGMENT_SIZE && !digest_is_null(digest));
		at++;
	}
	tree_walk_free(w);
}

static int no_more(void *ctx, uint64_t segment, const uint8_t in_a[DIGEST_SIZE], const uint8_t in_b[DIGEST_SIZE], struct err *err)
{
	unsigned *nr = ctx;

	(void)segment;
	(void)err;
	must(memcmp(in_a, in_b, DIGEST_SIZE) != 0);
	return ++*nr == WALK_MAX;
}

struct seen {
	struct nodes *n;
	uint64_t nr, next;
	struct inner last;
};

static int look_at_node(void *ctx, uint64_t offset, const struct leaf *leaf, const struct inner *inner, struct err *err)
{
	static struct leaf got;
	static struct inner got_inner;
	struct seen *s = ctx;
	unsigned calls = 0;
	uint64_t base;

	(void)err;
	must(offset >= s->next && offset % NODE_ALIGN == 0);
	s->next = offset + sizeof(struct pool_node_disk);
	s->nr++;
	if (leaf) {
		look_at_map(leaf);
		must(nodes_get_leaf(s->n, leaf->digest, leaf->unit_bits, &got, NULL) == 0);
		look_at_map(&got);
		return 0;
	}
	nodes_locate_base(s->n, offset, &base, NULL);
	if (!inner)
		return 0;
	must(nodes_get_inner(s->n, inner->digest, inner->level, &got_inner, NULL) == 0);
	must(memcmp(inner->children, got_inner.children, sizeof(got_inner.children)) == 0);
	walk(s->n, inner);
	tree_diff(s->n, inner->digest, SEGMENT_SIZE << 7 * min_u64(inner->level, 6), s->last.digest,
		  SEGMENT_SIZE << 7 * min_u64(s->last.level, 6), no_more, &calls, NULL);
	s->last = *inner;
	return 0;
}

static uint64_t look_at_file(struct nodes *n)
{
	struct seen s = { .n = n };

	must(nodes_each(n, look_at_node, &s, NULL) == 0);
	return s.nr;
}

static struct nodes *open_file(bool writing)
{
	uint64_t damaged;
	struct nodes *n = nodes_open(dir, "nodes", NULL, NULL, writing, &damaged, NULL);

	must(n != NULL);
	return n;
}

/* The inner node that was fixed last, and how many deltas lead to it. */
static struct inner last;
static unsigned depth;
static uint64_t nr_deltas;

static void try_bytes(const uint8_t *data, size_t size)
{
	static struct leaf mine = { .digest = "mine", .unit_bits = 16, .nr_runs = 1, .runs = { { 3, 4, POOL_FILE_MAX >> 17 } } };
	static struct inner got;
	struct nodes *n;
	uint64_t nr, end;

	write_file(data, size);
	n = open_file(false);
	nr = look_at_file(n);
	if (last.level) {
		must(nodes_get_inner(n, last.digest, last.level, &got, NULL) == 0);
		must(memcmp(got.children, last.children, sizeof(got.children)) == 0);
		walk(n, &last);
	}
	nodes_close(n);
	n = open_file(true);
	must(nodes_replace_leaf(n, &mine, NULL) == 0 && look_at_file(n) == nr + 1);
	must(nodes_sync(n, &end, NULL) == 0);
	nodes_close(n);
	n = open_file(false);
	must(look_at_file(n) == nr + 1);
	nodes_close(n);
}

/* ---- records that fit ---- */

/* Returns its length, 0 = there is no room for it. */
static size_t fix_delta(uint8_t *p, size_t left)
{
	struct pool_delta_disk d;
	size_t len;

	memcpy(&d, p, sizeof(d));
	d.nr = (uint8_t)(1 + d.nr % 5);
	len = sizeof(d) + d.nr * (1u + DIGEST_SIZE);
	if (round_up(len, NODE_ALIGN) > left)
		return 0;
	d.magic = le32_from(POOL_DELTA_MAGIC);
	d.level = (uint8_t)last.level;
	memset(d.zero, 0, sizeof(d.zero));
	depth++;
	memcpy(d.base, last.digest, sizeof(d.base));
	for (unsigned i = 0; i < d.nr; i++) {
		uint8_t *which = p + sizeof(d) + i;

		*which = (uint8_t)(*which % 25 + i * 25);
		le64_store(p + sizeof(d) + d.nr + i * DIGEST_SIZE, ++nr_deltas); /* no node comes twice */
		memcpy(last.children[*which], p + sizeof(d) + d.nr + i * DIGEST_SIZE, DIGEST_SIZE);
	}
	digest_bytes(last.children, sizeof(last.children), last.digest);
	memcpy(d.digest, last.digest, sizeof(d.digest));
	d.crc = le32_from(0);
	memcpy(p, &d, sizeof(d));
	le32_store(p + offsetof(struct pool_delta_disk, crc), crc32c(0, p, len));
	return round_up(len, NODE_ALIGN);
}

static void fix_inner(uint8_t *p, uint32_t len, size_t left)
{
	const uint32_t bitmap = DIGEST_FANOUT / 8;
	uint8_t children[DIGEST_FANOUT][DIGEST_SIZE] = { 0 };
	uint32_t at = bitmap;
	bool sound = true;

	for (unsigned i = 0; i < DIGEST_FANOUT && len >= bitmap; i++) {
		if (!(p[sizeof(struct pool_node_disk) + i / 8] >> i % 8 & 1))
			continue;
		sound = sound && at + DIGEST_SIZE <= len;
		if (at + DIGEST_SIZE > len)
			break;
		memcpy(children[i], p + sizeof(struct pool_node_disk) + at, DIGEST_SIZE);
		sound = sound && !digest_is_null(children[i]);
		at += DIGEST_SIZE;
	}
	digest_bytes(children, sizeof(children), p + offsetof(struct pool_node_disk, digest));
	if (sound && at > bitmap && at == len && round_up(sizeof(struct pool_node_disk) + len, NODE_ALIGN) <= left) {
		memcpy(last.children, children, sizeof(children));
		memcpy(last.digest, p + offsetof(struct pool_node_disk, digest), DIGEST_SIZE);
		last.level = p[offsetof(struct pool_node_disk, level)];
		depth = 0;
	}
}

/* Makes a record of the bytes at p, of which there are `left`; returns its length, or 0 at the end. */
static size_t fix_record(uint8_t *p, size_t left)
{
	struct pool_node_disk d;
	uint32_t len;

	if (left < sizeof(d))
		return 0;
	memcpy(&d, p, sizeof(d));
	if (last.level && depth < POOL_DELTA_DEPTH_MAX && (node_record_is_delta(p) || p[0] % 2)) {
		size_t delta = fix_delta(p, left);

		if (delta)
			return delta;
	}
	len = (uint32_t)min_u64(le32_get(d.len) % (POOL_NODE_PAYLOAD_MAX + 1), left - sizeof(d));
	d.magic = le32_from(POOL_NODE_MAGIC);
	d.level %= DIGEST_LEVELS + 1;
	d.unit_bits = d.level ? 0 : (uint8_t)(12 + d.unit_bits % 3 * 2);
	memset(d.zero, 0, sizeof(d.zero));
	d.len = le32_from(len);
	d.crc = le32_from(0);
	if (d.level)
		d.hint_hi = d.hint_lo = le64_from(0);
	memcpy(p, &d, sizeof(d));
	if (d.level)
		fix_inner(p, len, left);
	le32_store(p + offsetof(struct pool_node_disk, crc), crc32c(0, p, sizeof(d) + len));
	return min_u64(round_up(sizeof(d) + len, NODE_ALIGN), left);
}

static void try_map(const uint8_t *data, size_t size)
{
	static struct leaf leaf;

	for (unsigned bits = 10; bits <= 18; bits++)
		if (leaf_decode(data, size, bits, &leaf, NULL) == 0)
			look_at_map(&leaf);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *p = malloc(size + 1);
	size_t len;

	if (dir < 0)
		make_dir();
	must(p != NULL);
	memcpy(p, data, size);
	last.level = 0;
	try_map(p, size);
	try_bytes(p, size);
	for (size_t at = 0; (len = fix_record(p + at, size - at)) > 0;)
		at += len;
	try_bytes(p, size);
	free(p);
	return 0;
}
