/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/collect.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "compactor/hold.h"
#include "compactor/pool/cluster_file.h"
#include "compactor/pool/names.h"
#include "compactor/pool/nodes.h"
#include "compactor/pool/view.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/index/judymap.h"

/* How it works: what lives is a set of records in the file of nodes (Judy1 of their offsets) and a bitmap of clusters, of as much of the
 * cluster file at a time as memory allows.  Trees are entered where they are not marked yet, so that what many versions share is walked
 * once.
 *
 * States of a view that no name keeps, by where its stub is:
 *
 *	views/ and in use	lives: a guest runs on an overlay that the pool does not know
 *	views/			its stub goes to trash/: it is dying
 *	trash/, now		dying
 *	trash/, from before	in use: back to views/.  Else the stub goes, then the slot is buried
 *	nowhere			its stub was never published: the slot is buried
 *
 * A view of which a name is found again comes back from trash/.  Views that live or are dying keep their trees and tables.  Sealed
 * overlays die in the same two steps. */

#define MIN_RUN ((uint64_t)64 << 10)
#define BITMAP_SHARE 4 /* of the memory */
#define BITMAP_MIN ((uint64_t)1 << 20)

enum fate { LIVES, DYING, REMOVED };

struct collected_view {
	struct view view;
	bool named;
	enum fate fate;
};

struct id {
	uint8_t bytes[POOL_ID_SIZE];
};

struct collecting {
	struct pool *p;
	const struct collect_options *o;
	struct collected *ret;
	VEC(struct collected_view) views;
	VEC(struct id) sealed;	 /* that names keep */
	VEC(struct id) overlays; /* sealed ones of a directory */
	struct judyset live;   /* records of nodes: offset / 8 */
	uint64_t nr_dead_nodes;
	uint8_t *bitmap; /* a bit for each block in [begin, end) of the cluster file */
	uint64_t begin, end, size;
};

static int no_memory(struct err *err)
{
	return err_set(err, ERR_MEMORY, "no memory to collect a pool");
}

static int stopped(const struct collecting *c, struct err *err)
{
	return c->o->stopper && stopper_says(c->o->stopper) ? err_set(err, ERR_CANCELED, "stopped; run it again to go on") : 0;
}

static void tell(const struct collecting *c, const char *stage, uint64_t done, uint64_t total)
{
	if (c->o->progress)
		c->o->progress(c->o->ctx, stage, done, total);
}

/* ---- views and names ---- */

static int take_slot(void *ctx, uint32_t slot, const uint8_t header[BLOCK_SIZE], struct err *err)
{
	struct collecting *c = ctx;
	struct collected_view v = { .fate = LIVES };

	if (view_decode(header, slot, &v.view, err) < 0)
		return -1;
	return vec_push(&c->views, v) < 0 ? no_memory(err) : 0;
}

static int keep_view(struct collecting *c, const uint8_t id[POOL_ID_SIZE], const char *path, struct err *err)
{
	char text[POOL_ID_TEXT_ROOM];

	if (name_id_is_null(id))
		return 0;
	for (size_t i = 0; i < c->views.nr; i++)
		if (memcmp(c->views.items[i].view.id, id, POOL_ID_SIZE) == 0) {
			c->views.items[i].named = true;
			return 0;
		}
	return err_set(err, ERR_FORMAT, "view %s, which '%s' needs, is missing; nothing is removed", pool_id_text(id, text), path);
}

static int keep_sealed(struct collecting *c, const uint8_t id[POOL_ID_SIZE], struct err *err)
{
	struct id s;

	if (name_id_is_null(id))
		return 0;
	memcpy(s.bytes, id, POOL_ID_SIZE);
	return vec_push(&c->sealed, s) < 0 ? no_memory(err) : 0;
}

static int take_name(void *ctx, const struct name *n, struct err *err)
{
	struct collecting *c = ctx;

	for (size_t i = 0; i < n->disks.nr; i++) {
		const struct name_disk *d = &n->disks.items[i];

		if (keep_view(c, d->view, d->path, err) < 0 || keep_sealed(c, d->sealed, err) < 0 || keep_sealed(c, d->below, err) < 0)
			return -1;
	}
	c->ret->nr_names++;
	return 0;
}

/* ---- stubs ---- */

/* Of a file that may be in views/ or trash/: 1 = it is there, 0, -1. */
static int look(int dirfd, const char *name, struct err *err)
{
	struct stat st;

	if (file_ops->fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
		return 1;
	return errno == ENOENT ? 0 : err_errno(err, "cannot look at '%s'", name);
}

/* 1 = somebody has it open, or that cannot be told; 0, -1. */
static int in_use(int dirfd, const char *name, struct err *err)
{
	struct err why = ERR_INIT;
	int fd = file_open(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, err), rc;

	if (fd < 0)
		return -1;
	rc = hold_look(fd, dirfd, name, &why);
	file_close(fd, name, NULL);
	return rc < 0;
}

static int move(const struct collecting *c, enum pool_dir from, enum pool_dir to, const char *name, struct err *err)
{
	if (c->o->dry_run)
		return 0;
	if (file_rename_to(c->p->dirs[from], name, c->p->dirs[to], name, RENAME_NOREPLACE, err) < 0 ||
	    file_sync_dir(c->p->dirs[to], err) < 0)
		return -1;
	return file_sync_dir(c->p->dirs[from], err);
}

/* What becomes of a file that lies in `home` while it lives; by whether a name keeps it. */
static int decide(const struct collecting *c, enum pool_dir home, const char *name, bool named, enum fate *ret, struct err *err)
{
	int at_home = look(c->p->dirs[home], name, err), in_trash = at_home < 0 ? -1 : look(c->p->dirs[POOL_TRASH], name, err), used = 0;

	if (in_trash < 0)
		return -1;
	if (!at_home && !in_trash && named)
		return err_set(err, ERR_FORMAT, "'%s' is missing, and needed; nothing is removed", name);
	if (!named && (at_home || in_trash))
		used = in_use(c->p->dirs[at_home ? home : POOL_TRASH], name, err);
	if (used < 0)
		return -1;
	*ret = named || used ? LIVES : at_home ? DYING : REMOVED;
	if (!at_home && in_trash && *ret == LIVES)
		return move(c, POOL_TRASH, home, name, err);
	return *ret == DYING ? move(c, home, POOL_TRASH, name, err) : 0;
}

static int decide_views(struct collecting *c, struct err *err)
{
	for (size_t i = 0; i < c->views.nr; i++) {
		struct collected_view *v = &c->views.items[i];
		char name[POOL_FILE_NAME_ROOM];

		if (decide(c, POOL_VIEWS, pool_id_file_name(v->view.id, name), v->named, &v->fate, err) < 0)
			return -1;
		c->ret->nr_views += v->fate == LIVES;
		c->ret->nr_dying += v->fate == DYING;
		c->ret->nr_removed += v->fate == REMOVED;
	}
	return 0;
}

/* A stub that is gone before its slot is buried is one that was never published. */
static int remove_views(struct collecting *c, struct err *err)
{
	char name[POOL_FILE_NAME_ROOM];

	for (size_t i = 0; i < c->views.nr; i++)
		if (c->views.items[i].fate == REMOVED &&
		    file_unlink(c->p->dirs[POOL_TRASH], pool_id_file_name(c->views.items[i].view.id, name), err) < 0)
			return -1;
	if (c->ret->nr_removed && file_sync_dir(c->p->dirs[POOL_TRASH], err) < 0)
		return -1;
	for (size_t i = 0; i < c->views.nr; i++)
		if (c->views.items[i].fate == REMOVED && cluster_file_bury(c->p->clusters, c->views.items[i].view.slot, err) < 0)
			return -1;
	view_forget(c->p);
	return 0;
}

static bool is_kept(const struct collecting *c, const uint8_t id[POOL_ID_SIZE])
{
	for (size_t i = 0; i < c->sealed.nr; i++)
		if (memcmp(c->sealed.items[i].bytes, id, POOL_ID_SIZE) == 0)
			return true;
	return false;
}

static bool parse_file_name(const char *name, uint8_t ret[POOL_ID_SIZE])
{
	char text[POOL_ID_TEXT_ROOM] = "";

	if (strlen(name) != POOL_FILE_NAME_ROOM - 1 || strcmp(name + POOL_ID_TEXT_ROOM - 1, ".qcow2") != 0)
		return false;
	memcpy(text, name, POOL_ID_TEXT_ROOM - 1);
	return pool_id_parse(text, ret);
}

static bool is_view(const struct collecting *c, const uint8_t id[POOL_ID_SIZE])
{
	for (size_t i = 0; i < c->views.nr; i++)
		if (memcmp(c->views.items[i].view.id, id, POOL_ID_SIZE) == 0)
			return true;
	return false;
}

static int list_sealed(void *ctx, const char *name, struct err *err)
{
	struct collecting *c = ctx;
	struct id id;

	if (!parse_file_name(name, id.bytes) || is_view(c, id.bytes))
		return 0;
	return vec_push(&c->overlays, id) < 0 ? no_memory(err) : 0;
}

/* Those that were in trash/ before are decided first; of the others, some come there. */
static int decide_sealed(struct collecting *c, enum pool_dir dir, struct err *err)
{
	c->overlays.nr = 0;
	if (file_each_name(c->p->dirs[dir], list_sealed, c, err) < 0)
		return -1;
	for (size_t i = 0; i < c->overlays.nr; i++) {
		const uint8_t *id = c->overlays.items[i].bytes;
		char name[POOL_FILE_NAME_ROOM];
		enum fate fate;

		if (decide(c, POOL_SEALED, pool_id_file_name(id, name), is_kept(c, id), &fate, err) < 0)
			return -1;
		if (fate == REMOVED && !c->o->dry_run && file_unlink(c->p->dirs[POOL_TRASH], name, err) < 0)
			return -1;
		c->ret->nr_sealed += fate == LIVES && dir == POOL_SEALED;
	}
	return 0;
}

/* ---- what lives: nodes ---- */

static int missing(const uint8_t digest[DIGEST_SIZE], unsigned level, struct err *err)
{
	char text[DIGEST_TEXT_ROOM];

	return err_set(err, ERR_FORMAT, "node %s of level %u is missing or damaged; nothing is removed", digest_text(digest, text), level);
}

/* 1 = it was not marked before. */
static int mark_record(struct collecting *c, uint64_t offset, struct err *err)
{
	int rc = judyset_add(&c->live, offset / 8);

	return rc < 0 ? no_memory(err) : rc;
}

/* In whatever units its maps are: views may use any of them. */
static int mark_leaf(struct collecting *c, const uint8_t digest[DIGEST_SIZE], struct err *err)
{
	bool any = false;

	for (unsigned bits = POOL_UNIT_BITS_MIN; bits <= POOL_UNIT_BITS_MAX; bits += 2) {
		uint64_t at;
		int rc = nodes_locate(c->p->nodes, digest, 0, bits, &at, err);

		if (rc < 0 || (rc > 0 && mark_record(c, at, err) < 0))
			return -1;
		any |= rc > 0;
	}
	return any ? 0 : missing(digest, 0, err);
}

static int mark_tree(struct collecting *c, const uint8_t digest[DIGEST_SIZE], unsigned level, struct err *err)
{
	static const uint8_t null[DIGEST_SIZE];
	struct inner *node;
	uint64_t at;
	int rc;

	if (memcmp(digest, null, DIGEST_SIZE) == 0)
		return 0;
	if (level == 0)
		return mark_leaf(c, digest, err);
	rc = nodes_locate(c->p->nodes, digest, level, 0, &at, err);
	if (rc <= 0)
		return rc < 0 ? -1 : missing(digest, level, err);
	rc = mark_record(c, at, err);
	if (rc <= 0)
		return rc;
	node = malloc(sizeof(*node));
	if (!node)
		return no_memory(err);
	rc = stopped(c, err) < 0 ? -1 : nodes_get_inner(c->p->nodes, digest, level, node, err);
	for (unsigned i = 0; rc == 0 && i < DIGEST_FANOUT; i++)
		rc = mark_tree(c, node->children[i], level - 1, err);
	free(node);
	return rc;
}

static int mark_root(struct collecting *c, const uint8_t root[DIGEST_SIZE], uint64_t size, struct err *err)
{
	return mark_tree(c, root, digest_tree_height(size), err);
}

static int mark_name(void *ctx, const struct name *n, struct err *err)
{
	struct collecting *c = ctx;

	for (size_t i = 0; i < n->disks.nr; i++)
		if (n->disks.items[i].folded && mark_root(c, n->disks.items[i].root, n->disks.items[i].size, err) < 0)
			return -1;
	return 0;
}

static int mark_nodes(struct collecting *c, struct err *err)
{
	tell(c, "marking", 0, 0);
	if (names_each(c->p, mark_name, c, err) < 0)
		return -1;
	for (size_t i = 0; i < c->views.nr; i++)
		if (c->views.items[i].fate != REMOVED &&
		    mark_root(c, c->views.items[i].view.root, c->views.items[i].view.disk_size, err) < 0)
			return -1;
	return 0;
}

static bool keep_record(void *ctx, uint64_t offset)
{
	const struct collecting *c = ctx;

	return judyset_has(&c->live, offset / 8);
}

static int count_dead(void *ctx, uint64_t offset, const struct leaf *leaf, const struct inner *inner, struct err *err)
{
	struct collecting *c = ctx;

	(void)leaf;
	(void)inner;
	(void)err;
	c->nr_dead_nodes += !keep_record(c, offset);
	return 0;
}

/* Offsets are new afterwards, so all is marked again. */
static int sweep_nodes(struct collecting *c, struct err *err)
{
	uint64_t end;

	c->ret->nodes_before = c->ret->nodes_after = nodes_bytes(c->p->nodes);
	if (nodes_sync(c->p->nodes, &end, err) < 0 || nodes_each(c->p->nodes, count_dead, c, err) < 0)
		return -1;
	if (!c->nr_dead_nodes || c->o->dry_run)
		return 0;
	if (nodes_keep(c->p->nodes, c->p->dirs[POOL_TREES], keep_record, c, err) < 0)
		return -1;
	c->ret->nodes_after = nodes_bytes(c->p->nodes);
	judyset_release(&c->live);
	return mark_nodes(c, err);
}

/* ---- what lives: clusters ---- */

static void mark_range(struct collecting *c, uint64_t offset, uint64_t len)
{
	uint64_t from = max_u64(offset, c->begin), to = min_u64(offset + len, c->end);

	for (uint64_t at = from; at < to; at += BLOCK_SIZE) {
		uint64_t bit = (at - c->begin) / BLOCK_SIZE;

		c->bitmap[bit / 8] |= (uint8_t)(1u << bit % 8);
	}
}

static int mark_table(void *ctx, uint64_t offset, uint64_t len, struct err *err)
{
	(void)err;
	mark_range(ctx, offset, len);
	return 0;
}

static int mark_runs(void *ctx, uint64_t offset, const struct leaf *leaf, const struct inner *inner, struct err *err)
{
	struct collecting *c = ctx;

	(void)inner;
	if (!leaf || !keep_record(c, offset))
		return stopped(c, err);
	for (unsigned i = 0; i < leaf->nr_runs; i++)
		mark_range(c, leaf->runs[i].place << leaf->unit_bits, (uint64_t)leaf->runs[i].nr << leaf->unit_bits);
	return 0;
}

static int mark_clusters(struct collecting *c, struct err *err)
{
	memset(c->bitmap, 0, (c->end - c->begin) / BLOCK_SIZE / 8 + 1);
	mark_range(c, POOL_DATA_BEGIN, POOL_GUARD_SIZE);
	for (size_t i = 0; i < c->views.nr; i++)
		if (c->views.items[i].fate != REMOVED && view_each_table(c->p, &c->views.items[i].view, mark_table, c, err) < 0)
			return -1;
	return nodes_each(c->p->nodes, mark_runs, c, err);
}

/* ---- sweeping ---- */

static bool is_marked(const struct collecting *c, uint64_t at)
{
	uint64_t bit = (at - c->begin) / BLOCK_SIZE;

	return c->bitmap[bit / 8] >> bit % 8 & 1;
}

static int free_run(struct collecting *c, uint64_t at, uint64_t len, struct err *err)
{
	c->ret->dead += len;
	if (len < (c->o->min_run ? c->o->min_run : MIN_RUN)) {
		c->ret->small += len;
		return 0;
	}
	c->ret->freed += len;
	if (c->o->dry_run)
		return 0;
	return stopped(c, err) < 0 ? -1 : cluster_file_punch(c->p->clusters, at, len, err);
}

/* A stretch that is on the disk. */
static int sweep_stretch(struct collecting *c, uint64_t at, uint64_t end, struct err *err)
{
	while (at < end) {
		uint64_t from = at;
		bool marked = is_marked(c, at);

		while (at < end && is_marked(c, at) == marked)
			at += BLOCK_SIZE;
		if (marked)
			c->ret->live += at - from;
		else if (free_run(c, from, at - from, err) < 0)
			return -1;
	}
	return 0;
}

static int sweep_part(struct collecting *c, struct err *err)
{
	uint64_t at = c->begin, begin, end;
	int rc;

	if (mark_clusters(c, err) < 0)
		return -1;
	while (at < c->end && (rc = file_next_data(cluster_file_fd(c->p->clusters), at, c->end, &begin, &end, err)) != 0) {
		if (rc < 0 || sweep_stretch(c, round_down(begin, BLOCK_SIZE), min_u64(round_up(end, BLOCK_SIZE), c->end), err) < 0)
			return -1;
		at = end;
		tell(c, "sweeping", at - POOL_DATA_BEGIN, c->size - POOL_DATA_BEGIN);
	}
	return 0;
}

static int sweep_clusters(struct collecting *c, struct err *err)
{
	uint64_t bytes = max_u64(c->o->memory / BITMAP_SHARE, BITMAP_MIN), part = bytes * 8 * BLOCK_SIZE;

	c->size = round_up(cluster_file_end(c->p->clusters), BLOCK_SIZE);
	c->bitmap = malloc(min_u64(bytes, (c->size - POOL_DATA_BEGIN) / BLOCK_SIZE / 8 + 1) + 1);
	if (!c->bitmap)
		return no_memory(err);
	for (c->begin = POOL_DATA_BEGIN; c->begin < c->size; c->begin = c->end) {
		c->end = min_u64(c->begin + part, c->size);
		if (sweep_part(c, err) < 0)
			return -1;
	}
	return 0;
}

/* ---- the whole ---- */

/* All is marked before anything is moved, so that what is missing shows. */
static int collect(struct collecting *c, struct err *err)
{
	if (cluster_file_each_slot(c->p->clusters, take_slot, c, err) < 0 || names_each(c->p, take_name, c, err) < 0 ||
	    mark_nodes(c, err) < 0)
		return -1;
	if (decide_views(c, err) < 0 || decide_sealed(c, POOL_TRASH, err) < 0 ||
	    decide_sealed(c, POOL_SEALED, err) < 0)
		return -1;
	judyset_release(&c->live);
	if (mark_nodes(c, err) < 0 || (!c->o->dry_run && remove_views(c, err) < 0))
		return -1;
	return sweep_nodes(c, err) < 0 ? -1 : sweep_clusters(c, err);
}

int pool_collect(struct pool *p, const struct collect_options *o, struct collected *ret, struct err *err)
{
	struct collecting c = { .p = p, .o = o, .ret = ret };
	int rc;

	*ret = (struct collected){ 0 };
	rc = collect(&c, err);
	vec_release(&c.views);
	vec_release(&c.sealed);
	vec_release(&c.overlays);
	judyset_release(&c.live);
	free(c.bitmap);
	return rc < 0 ? err_add(err, "pool '%s'", p->path) : 0;
}
