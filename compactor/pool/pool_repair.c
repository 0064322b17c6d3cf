/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compactor/pool/cluster_file.h"
#include "compactor/pool/names.h"
#include "compactor/pool/pool_check.h"
#include "compactor/pool/tree.h"
#include "compactor/pool/view.h"
#include "scanner/base/file.h"
#include "scanner/chunk/fingerprint.h"

/* How it works: from the bottom up, as each is made from what lies below it: the guard; trees, from views whose tables are good; slots and
 * tables, from trees; stubs, from slots.  A view that is written anew takes a new slot; the old header is kept in quarantine/ and its
 * slot is buried, so that there is one header of an id. */

struct bad_slot {
	uint32_t slot;
	uint8_t header[BLOCK_SIZE];
};

struct repairing {
	struct pool *p;
	const struct pool_repair_options *o;
	uint64_t repaired, left;
	VEC(struct view) views;
	VEC(struct bad_slot) slots;
	VEC(struct view) lost; /* that names want, and that no slot has: id, root, disk_size */
	uint8_t *buf;
};

static int no_memory(struct err *err)
{
	return err_set(err, ERR_MEMORY, "no memory to repair a pool");
}

/* `why` has no kind when it is, or in a dry run could be, repaired. */
static int tell(struct repairing *r, enum pool_part part, const char *what, const struct err *why, struct err *err)
{
	struct pool_damage d = { .part = part, .repairable = why->kind == ERR_NONE };

	if (why->kind == ERR_MEMORY || why->kind == ERR_CANCELED) {
		if (err)
			*err = *why;
		return -1;
	}
	if (why->kind == ERR_NONE)
		err_set(&d.what, ERR_FORMAT, "%s", what);
	else
		err_set(&d.what, why->kind, "%s: %s", what, why->text);
	*(d.repairable ? &r->repaired : &r->left) += 1;
	return r->o->tell ? r->o->tell(r->o->ctx, &d, d.repairable, err) : 0;
}

/* ---- the guard ---- */

static bool guard_is_good(struct repairing *r)
{
	size_t i = 0;

	if (cluster_file_read(r->p->clusters, r->buf, POOL_GUARD_SIZE, POOL_DATA_BEGIN, NULL) < 0)
		return false;
	while (i < POOL_GUARD_SIZE && r->buf[i] == 0xff)
		i++;
	return i == POOL_GUARD_SIZE;
}

static int repair_guard(struct repairing *r, struct err *err)
{
	struct err why = ERR_INIT;

	if (guard_is_good(r))
		return 0;
	memset(r->buf, 0xff, POOL_GUARD_SIZE);
	if (!r->o->dry_run && file_write(cluster_file_fd(r->p->clusters), r->buf, POOL_GUARD_SIZE, POOL_DATA_BEGIN, &why) == 0)
		cluster_file_sync(r->p->clusters, &why);
	return tell(r, POOL_SUPERBLOCK, "the guard behind the slots", &why, err);
}

/* ---- what there is ---- */

static int take_slot(void *ctx, uint32_t slot, const uint8_t header[BLOCK_SIZE], struct err *err)
{
	struct repairing *r = ctx;
	struct bad_slot bad = { .slot = slot };
	struct view v;

	if (view_decode(header, slot, &v, NULL) == 0)
		return vec_push(&r->views, v) < 0 ? no_memory(err) : 0;
	memcpy(bad.header, header, BLOCK_SIZE);
	return vec_push(&r->slots, bad) < 0 ? no_memory(err) : 0;
}

static bool has(const struct view *list, size_t nr, const uint8_t id[POOL_ID_SIZE])
{
	for (size_t i = 0; i < nr; i++)
		if (memcmp(list[i].id, id, POOL_ID_SIZE) == 0)
			return true;
	return false;
}

static int take_name(void *ctx, const struct name *n, struct err *err)
{
	struct repairing *r = ctx;

	for (size_t i = 0; i < n->disks.nr; i++) {
		const struct name_disk *d = &n->disks.items[i];
		struct view v = { .disk_size = d->size, .cluster_bits = POOL_UNIT_BITS_MIN };

		if (!d->folded || name_id_is_null(d->view) || has(r->views.items, r->views.nr, d->view) ||
		    has(r->lost.items, r->lost.nr, d->view))
			continue;
		memcpy(v.id, d->view, POOL_ID_SIZE);
		memcpy(v.root, d->root, DIGEST_SIZE);
		if (vec_push(&r->lost, v) < 0)
			return no_memory(err);
	}
	return 0;
}

static int bad_name(void *ctx, uint64_t number, const struct err *why, struct err *err)
{
	char what[64];

	snprintf(what, sizeof(what), "names/%llu", (unsigned long long)number);
	return tell(ctx, POOL_NAME_FILE, what, why, err);
}

/* ---- quarantine ---- */

static int keep_header(struct repairing *r, uint32_t slot, const uint8_t header[BLOCK_SIZE], struct err *err)
{
	char name[64];

	snprintf(name, sizeof(name), "slot-%u.header", slot);
	return file_write_atomic(r->p->dirs[POOL_QUARANTINE], name, header, BLOCK_SIZE, 0600, err);
}

static int keep_stub(struct repairing *r, const struct view *v, struct err *err)
{
	char name[POOL_FILE_NAME_ROOM];
	struct stat st;

	pool_id_file_name(v->id, name);
	if (file_ops->fstatat(r->p->dirs[POOL_VIEWS], name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : err_errno(err, "cannot look at '%s'", name);
	return file_rename_to(r->p->dirs[POOL_VIEWS], name, r->p->dirs[POOL_QUARANTINE], name, 0, err);
}

/* ---- trees ---- */

struct rebuilding {
	struct repairing *r;
	struct tree_maker *maker;
};

static int take_map(void *ctx, uint64_t segment, struct leaf *map, struct err *err)
{
	struct rebuilding *b = ctx;
	struct nodes *n = b->r->p->nodes;
	struct leaf is;

	if (b->r->o->stopper && stopper_says(b->r->o->stopper))
		return err_set(err, ERR_CANCELED, "stopped");
	if (tree_read_leaf(b->r->p->clusters, map, b->r->buf, err) < 0)
		return -1;
	digest_bytes(b->r->buf, SEGMENT_SIZE, map->digest);
	map->hint = fingerprint_best()->bytes(b->r->buf, SEGMENT_SIZE);
	if (!b->r->o->dry_run && nodes_get_leaf(n, map->digest, map->unit_bits, &is, NULL) < 0 && nodes_replace_leaf(n, map, err) < 0)
		return -1;
	return b->maker ? tree_maker_add(b->maker, segment, map->digest, err) : 0;
}

/* The tree that the view's tables and data give; it is the right one if its root is. */
static int rebuild(struct repairing *r, const struct view *v, struct err *err)
{
	CLEANUP(tree_maker_free) struct tree_maker *maker = r->o->dry_run ? NULL : tree_maker_new(r->p->nodes, v->disk_size, err);
	struct rebuilding b = { .r = r, .maker = maker };
	uint8_t root[DIGEST_SIZE];

	if (!r->o->dry_run && !maker)
		return -1;
	if (view_each_map(r->p, v, take_map, &b, err) < 0)
		return -1;
	if (r->o->dry_run)
		return 0;
	if (tree_maker_end(maker, root, err) < 0 || pool_sync(r->p, err) < 0)
		return -1;
	return memcmp(root, v->root, DIGEST_SIZE) == 0 ? 0 : err_set(err, ERR_FORMAT, "its view leads to other data");
}

/* Every node and leaf is there.  What its data is does not matter here. */
static int walk(struct repairing *r, const uint8_t root[DIGEST_SIZE], uint64_t size)
{
	CLEANUP(tree_walk_free) struct tree_walk *w = tree_walk_new(r->p->nodes, root, size, NULL);
	uint8_t digest[DIGEST_SIZE];
	uint64_t segment, at = 0;
	struct leaf leaf;
	int rc = -1;

	while (w && (rc = tree_walk_next(w, at, &segment, digest, NULL)) > 0) {
		at = segment + 1;
		if (nodes_find_leaf(r->p->nodes, digest, POOL_UNIT_BITS_MIN, &leaf, NULL) <= 0)
			return -1;
	}
	return rc;
}

static int repair_trees(struct repairing *r, struct err *err)
{
	for (size_t i = 0; i < r->views.nr; i++) {
		const struct view *v = &r->views.items[i];
		char text[DIGEST_TEXT_ROOM];
		struct err why = ERR_INIT;

		if (walk(r, v->root, v->disk_size) == 0)
			continue;
		rebuild(r, v, &why);
		if (tell(r, POOL_NODE, digest_text(v->root, text), &why, err) < 0)
			return -1;
	}
	return 0;
}

/* ---- views ---- */

static int write_anew(struct repairing *r, const struct view *v, struct err *err)
{
	struct view again = *v;
	struct view made;

	while (again.cluster_bits < POOL_UNIT_BITS_MAX && again.disk_size >> (2 * again.cluster_bits - 3) > (4u << 20))
		again.cluster_bits += 2;
	if (r->o->dry_run)
		return walk(r, v->root, v->disk_size) == 0 ? 0 : err_set(err, ERR_FORMAT, "its tree is not whole");
	return keep_stub(r, v, err) < 0 ? -1 : view_write_as(r->p, &again, NULL, &made, err);
}

/* The old header goes once the new one is there. */
static int repair_tables(struct repairing *r, const struct view *v, struct err *err)
{
	uint8_t header[BLOCK_SIZE];

	if (cluster_file_read_slot(r->p->clusters, v->slot, header, err) < 0)
		return -1;
	if (r->o->dry_run)
		return write_anew(r, v, err);
	if (keep_header(r, v->slot, header, err) < 0 || write_anew(r, v, err) < 0)
		return -1;
	return cluster_file_bury(r->p->clusters, v->slot, err);
}

static int repair_view(struct repairing *r, const struct view *v, struct err *err)
{
	char text[POOL_ID_TEXT_ROOM];
	struct err why = ERR_INIT;

	pool_id_text(v->id, text);
	if (view_check(r->p, v, NULL) < 0) {
		repair_tables(r, v, &why);
		return tell(r, POOL_TABLES, text, &why, err);
	}
	if (view_check_stub(r->p, v, POOL_VIEWS, NULL) == 0 || view_check_stub(r->p, v, POOL_TRASH, NULL) == 0)
		return 0;
	if (!r->o->dry_run && keep_stub(r, v, &why) == 0)
		view_write_stub(r->p, v, NULL, &why);
	return tell(r, POOL_STUB, text, &why, err);
}

static int repair_lost(struct repairing *r, const struct view *v, struct err *err)
{
	char text[POOL_ID_TEXT_ROOM];
	struct err why = ERR_INIT;

	write_anew(r, v, &why);
	return tell(r, POOL_SLOT, pool_id_text(v->id, text), &why, err);
}

/* A header that says nothing any more; who was wanted has another one by now. */
static int repair_slot(struct repairing *r, const struct bad_slot *s, struct err *err)
{
	struct err why = ERR_INIT;
	char what[32];

	snprintf(what, sizeof(what), "slot %u", s->slot);
	if (!r->o->dry_run && keep_header(r, s->slot, s->header, &why) == 0)
		cluster_file_bury(r->p->clusters, s->slot, &why);
	return tell(r, POOL_SLOT, what, &why, err);
}

static int repair_views(struct repairing *r, struct err *err)
{
	for (size_t i = 0; i < r->views.nr; i++)
		if (repair_view(r, &r->views.items[i], err) < 0)
			return -1;
	for (size_t i = 0; i < r->lost.nr; i++)
		if (repair_lost(r, &r->lost.items[i], err) < 0)
			return -1;
	for (size_t i = 0; i < r->slots.nr; i++)
		if (repair_slot(r, &r->slots.items[i], err) < 0)
			return -1;
	view_forget(r->p);
	return 0;
}

/* ---- the whole ---- */

static int repair(struct repairing *r, struct err *err)
{
	if (repair_guard(r, err) < 0 || cluster_file_each_slot(r->p->clusters, take_slot, r, err) < 0 ||
	    names_each_or(r->p, take_name, bad_name, r, err) < 0 || repair_trees(r, err) < 0 || repair_views(r, err) < 0)
		return -1;
	return r->o->dry_run ? 0 : pool_sync(r->p, err);
}

int pool_repair(struct pool *p, const struct pool_repair_options *o, uint64_t *ret_repaired, uint64_t *ret_left, struct err *err)
{
	struct repairing r = { .p = p, .o = o, .buf = malloc(SEGMENT_SIZE) };
	int rc;

	rc = !r.buf ? no_memory(err) : digest_prepare(err) < 0 ? -1 : repair(&r, err);
	*ret_repaired = r.repaired;
	*ret_left = r.left;
	vec_release(&r.views);
	vec_release(&r.slots);
	vec_release(&r.lost);
	free(r.buf);
	return rc < 0 ? err_add(err, "pool '%s'", p->path) : 0;
}
