/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_POOL_HELP_H
#define DEDUPSCAN_POOL_HELP_H

#include "tests/unit/tree_help.h"

#include "compactor/pool/cluster_file.h"
#include "compactor/pool/immutable.h"
#include "compactor/pool/import.h"
#include "compactor/pool/names.h"
#include "compactor/pool/tree.h"
#include "compactor/pool/view.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"

/* A pool with small disks in it, on any file system: pool_dirfd and pool_path say where.  A disk's content follows from numbers. */

static struct pool *pool;
static int pool_dirfd = -1;
static const char *pool_path;

static inline void open_pool_for(bool writing)
{
	struct err err = ERR_INIT;

	if (pool_open(pool_dirfd, "pool", pool_path, writing, &pool, &err) < 0 || !pool)
		fail_msg("%s", err.text);
}

static inline void open_pool(void)
{
	open_pool_for(true);
}

static inline void close_pool(void)
{
	pool_close(pool);
	pool = NULL;
}

static inline void again(void)
{
	close_pool();
	open_pool();
}

/* In a directory of the test's own.  Its files may be damaged: those of test_immutable.c are immutable. */
static inline int pool_make(void **state)
{
	if (tree_make(state) < 0 || digest_prepare(NULL) < 0)
		return -1;
	pool_dirfd = open(tree, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	pool_path = strdup(in_tree("pool"));
	if (pool_create(pool_dirfd, "pool", NULL) < 0)
		return -1;
	open_pool();
	return immutable_tell(pool, POOL_IMMUTABLE_NEVER, NULL);
}

static inline int pool_unmake(void **state)
{
	file_ops = &file_ops_os;
	close_pool();
	close(pool_dirfd);
	free((char *)pool_path);
	return tree_remove(state);
}

#define pool_test(f) cmocka_unit_test_setup_teardown(f, pool_make, pool_unmake)

/* ---- disks ---- */

#define DISK_MAX (3 * SEGMENT_SIZE)

/* Pieces of it, each of which a number makes; the rest is zeros. */
struct disk {
	uint64_t size;
	struct { uint64_t at, len; unsigned number; } pieces[9];
	uint8_t root[DIGEST_SIZE]; /* once it is imported */
};

static inline void make_bytes(uint8_t *p, uint64_t len, unsigned number)
{
	uint64_t x = (number + 1) * 0x9e3779b97f4a7c15;

	for (uint64_t i = 0; i < len; i++) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		p[i] = (uint8_t)(x >> 56) | 1;
	}
}

/* The bytes of a segment; false if they are all zeros. */
static inline bool render(const struct disk *d, uint64_t segment, uint8_t *p)
{
	uint64_t begin = segment * SEGMENT_SIZE, end = begin + SEGMENT_SIZE;
	bool any = false;

	memset(p, 0, SEGMENT_SIZE);
	for (size_t i = 0; i < ARRAY_SIZE(d->pieces) && d->pieces[i].len; i++) {
		uint64_t at = d->pieces[i].at, len = d->pieces[i].len;

		if (at < begin || at + len > end) /* pieces do not cross segments */
			continue;
		make_bytes(p + (at - begin), len, d->pieces[i].number);
		any = true;
	}
	return any;
}

/* `base` = an imported one whose nodes its own may be deltas of, or NULL. */
static inline int import_based(struct disk *d, const struct disk *base, unsigned unit_bits, struct import_stats *ret_stats,
			       struct err *err)
{
	const struct import_options o = { .unit_bits = unit_bits, .min_run = (uint64_t)1 << unit_bits };
	CLEANUP(import_free) struct import *i =
		import_new(pool, d->size, &o, base ? base->root : NULL, base ? base->size : 0, err);
	CLEANUP(free) uint8_t *p = malloc(SEGMENT_SIZE);

	if (!i || !p)
		return -1;
	for (uint64_t s = 0; s < div_up(d->size, SEGMENT_SIZE); s++)
		if (render(d, s, p) && import_segment(i, s, p, err) < 0)
			return -1;
	return import_end(i, d->root, ret_stats, err) < 0 ? -1 : pool_sync(pool, err);
}

static inline int import_as(struct disk *d, unsigned unit_bits, struct import_stats *ret_stats, struct err *err)
{
	return import_based(d, NULL, unit_bits, ret_stats, err);
}

static inline struct import_stats import_on(struct disk *d, const struct disk *base)
{
	struct import_stats stats = { 0 };
	struct err err = ERR_INIT;

	if (import_based(d, base, POOL_UNIT_BITS_MIN, &stats, &err) < 0)
		fail_msg("%s", err.text);
	return stats;
}

static inline struct import_stats import(struct disk *d)
{
	return import_on(d, NULL);
}

/* 0 when the pool says exactly these bytes of it, -1 when a part cannot be read; fails, or with `may_differ` says 1, when a byte is
 * wrong. */
static inline int compare_disk(const struct disk *d, bool may_differ, struct err *err)
{
	CLEANUP(tree_walk_free) struct tree_walk *w = tree_walk_new(pool->nodes, d->root, d->size, err);
	CLEANUP(free) uint8_t *is = malloc(SEGMENT_SIZE), *should = malloc(SEGMENT_SIZE);
	uint8_t digest[DIGEST_SIZE];
	int worst = w ? 0 : -1;

	for (uint64_t s = 0, at = 0; w && s < div_up(d->size, SEGMENT_SIZE); s++) {
		int rc = tree_walk_next(w, s, &at, digest, err);

		if (rc < 0)
			worst = -1;
		if (rc < 0)
			break;
		if (rc == 0 || at > s)
			memset(digest, 0, sizeof(digest));
		if (tree_read_segment(pool->nodes, pool->clusters, digest, is, err) < 0) {
			worst = -1;
			continue;
		}
		render(d, s, should);
		if (memcmp(is, should, SEGMENT_SIZE) == 0)
			continue;
		if (!may_differ)
			fail_msg("segment %d has other bytes", (int)s);
		return 1;
	}
	return worst;
}

static inline void expect_disk(const struct disk *d)
{
	struct err err = ERR_INIT;

	if (compare_disk(d, false, &err) < 0)
		fail_msg("%s", err.text);
}

/* ---- views and names ---- */

static inline struct view view_of(const struct disk *d)
{
	struct err err = ERR_INIT;
	struct view v;

	if (view_write(pool, d->root, d->size, POOL_UNIT_BITS_MIN, &v, &err) < 0)
		fail_msg("%s", err.text);
	return v;
}

static inline void expect_view(const struct view *v)
{
	struct err err = ERR_INIT;

	if (view_check(pool, v, &err) < 0 || view_check_stub(pool, v, POOL_VIEWS, &err) < 0)
		fail_msg("%s", err.text);
}

/* Returns the number.  NULL = there is no view. */
static inline uint64_t name_it(const char *path, const struct disk *d, const struct view *v, enum name_kind kind)
{
	CLEANUP(name_release) struct name n = { .kind = kind, .made = 1 };
	struct name_disk *nd = calloc(1, sizeof(*nd));
	struct err err = ERR_INIT;

	nd->size = d->size;
	nd->folded = true;
	snprintf(nd->path, sizeof(nd->path), "/images/%s", path);
	memcpy(nd->root, d->root, DIGEST_SIZE);
	if (v)
		memcpy(nd->view, v->id, POOL_ID_SIZE);
	if (kind == NAME_VERSION)
		snprintf(n.label, sizeof(n.label), "%s", path);
	assert_int_equal(vec_push(&n.disks, *nd), 0);
	free(nd);
	if (names_publish(pool, &n, true, &err) < 0)
		fail_msg("%s", err.text);
	return n.number;
}

static inline uint64_t member_of(const char *path, const struct disk *d, const struct view *v)
{
	return name_it(path, d, v, NAME_MEMBER);
}

static inline uint64_t version_of(const char *label, const struct disk *d)
{
	return name_it(label, d, NULL, NAME_VERSION);
}

static inline void forget(uint64_t number)
{
	struct err err = ERR_INIT;

	if (names_remove(pool, number, &err) < 0)
		fail_msg("%s", err.text);
}

/* ---- files ---- */

static inline bool is_in(enum pool_dir dir, const uint8_t id[POOL_ID_SIZE])
{
	char name[POOL_FILE_NAME_ROOM];
	struct stat st;

	return file_ops->fstatat(pool->dirs[dir], pool_id_file_name(id, name), &st, AT_SYMLINK_NOFOLLOW) == 0;
}

/* Open for reading, as a guest has it. */
static inline int open_file_in(enum pool_dir dir, const uint8_t id[POOL_ID_SIZE])
{
	char name[POOL_FILE_NAME_ROOM];
	int fd = file_open(pool->dirs[dir], pool_id_file_name(id, name), O_RDONLY, 0, NULL);

	assert_true(fd >= 0);
	return fd;
}

#endif
