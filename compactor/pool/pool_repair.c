/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compactor/pool/clusters.h"
#include "compactor/pool/heal.h"
#include "compactor/pool/import.h"
#include "compactor/pool/names.h"
#include "compactor/pool/pool_check.h"
#include "compactor/pool/reindex.h"
#include "compactor/pool/tree.h"
#include "compactor/pool/view.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"

/* How it works: from the bottom up, as each is made from what lies below it: trees, from views whose tables are good; data, from
 * whatever has it; slots and tables, from trees; stubs, from slots.  Behind that the file of nodes loses what is none, and the
 * index, which takes long, and which nothing needs to be read, comes last.
 *
 * A view that is written anew takes a new slot, and its stub takes the place of the old one, which goes to quarantine/.  Guests may
 * have that open, and the old tables with it: so the old slot stays until a collection finds that nobody has.  Of a slot whose
 * header says nothing any more nobody knows whose it is: it is buried, with a copy in quarantine/, when nobody has a stub open that
 * it may belong to. */

struct bad_slot {
	uint32_t slot;
	uint8_t header[BLOCK_SIZE];
};

struct whole_view {
	struct view view;
	bool named;
	bool rebuilt; /* its tree, or that could be done */
};

struct repairing {
	struct pool *p;
	const struct pool_repair_options *o;
	uint64_t repaired, left;
	bool nodes_left; /* some of the damage is of nodes */
	VEC(struct whole_view) views; /* of each id the last one */
	VEC(struct bad_slot) slots;
	VEC(struct view) lost; /* that names want, and that no slot has: id, root, disk_size */
	VEC(struct view) roots; /* of names: root, disk_size */
	bool wait;	       /* a stub is open whose view is in none of the slots that are whole */
	struct err index;      /* how it was damaged */
};

static int no_memory(struct err *err)
{
	return err_set(err, ERR_MEMORY, "no memory to repair a pool");
}

/* `why` has no kind when it is, or in a dry run could be, repaired; else `what` may be NULL. */
static int tell(struct repairing *r, enum pool_part part, const char *what, const struct err *why, struct err *err)
{
	struct pool_damage d = { .part = part };
	bool good = why->kind == ERR_NONE;

	if (why->kind == ERR_MEMORY || why->kind == ERR_CANCELED) {
		if (err)
			*err = *why;
		return -1;
	}
	if (good)
		err_set(&d.what, ERR_FORMAT, "%s", what);
	else if (!what)
		d.what = *why;
	else
		err_set(&d.what, why->kind, "%s: %s", what, why->text);
	*(good ? &r->repaired : &r->left) += 1;
	r->nodes_left |= part == POOL_NODE && !good;
	return r->o->tell ? r->o->tell(r->o->ctx, &d, good, err) : 0;
}

/* ---- what there is ---- */

static struct whole_view *find_view(const struct repairing *r, const uint8_t id[POOL_ID_SIZE])
{
	for (size_t i = r->views.nr; i-- > 0;)
		if (memcmp(r->views.items[i].view.id, id, POOL_ID_SIZE) == 0)
			return &r->views.items[i];
	return NULL;
}

static int take_slot(void *ctx, uint32_t slot, const uint8_t header[BLOCK_SIZE], struct err *err)
{
	struct repairing *r = ctx;
	struct bad_slot bad = { .slot = slot };
	struct whole_view v = { .named = false }, *other;

	if (view_decode(header, slot, &v.view, NULL) < 0) {
		memcpy(bad.header, header, BLOCK_SIZE);
		return vec_push(&r->slots, bad) < 0 ? no_memory(err) : 0;
	}
	other = find_view(r, v.view.id);
	if (other && other->view.generation < v.view.generation)
		*other = v;
	return !other && vec_push(&r->views, v) < 0 ? no_memory(err) : 0;
}

static bool is_lost(const struct repairing *r, const uint8_t id[POOL_ID_SIZE])
{
	for (size_t i = 0; i < r->lost.nr; i++)
		if (memcmp(r->lost.items[i].id, id, POOL_ID_SIZE) == 0)
			return true;
	return false;
}

/* Of what stands on it no root is known. */
static int tell_lost_view(struct repairing *r, const struct name_disk *d, struct err *err)
{
	struct pool_damage told = { .part = POOL_SLOT };
	char text[POOL_ID_TEXT_ROOM];

	snprintf(told.path, sizeof(told.path), "%s", d->path);
	err_set(&told.what, ERR_FORMAT, "view %s is missing, and nothing says what was in it", pool_id_text(d->view, text));
	r->left++;
	return r->o->tell ? r->o->tell(r->o->ctx, &told, false, err) : 0;
}

static int take_disk(struct repairing *r, const struct name_disk *d, struct err *err)
{
	struct whole_view *found = name_id_is_null(d->view) ? NULL : find_view(r, d->view);
	struct view v = { .disk_size = d->size, .cluster_bits = POOL_UNIT_BITS_MIN };

	if (found)
		found->named = true;
	if (!d->folded && !found && !name_id_is_null(d->view))
		return tell_lost_view(r, d, err);
	if (!d->folded)
		return 0;
	memcpy(v.id, d->view, POOL_ID_SIZE);
	memcpy(v.root, d->root, DIGEST_SIZE);
	if (vec_push(&r->roots, v) < 0)
		return no_memory(err);
	return !found && !name_id_is_null(d->view) && !is_lost(r, d->view) && vec_push(&r->lost, v) < 0 ? no_memory(err) : 0;
}

static int take_name(void *ctx, const struct name *n, struct err *err)
{
	for (size_t i = 0; i < n->disks.nr; i++)
		if (take_disk(ctx, &n->disks.items[i], err) < 0)
			return -1;
	return 0;
}

static int bad_name(void *ctx, uint64_t number, const struct err *why, struct err *err)
{
	struct err told = ERR_INIT;

	(void)number;
	err_set(&told, why->kind, "%s; put it back from a backup, or move it away, and what it kept may go", why->text);
	return tell(ctx, POOL_NAME_FILE, NULL, &told, err);
}

/* ---- quarantine ---- */

static int keep_header(struct repairing *r, uint32_t slot, const uint8_t header[BLOCK_SIZE], struct err *err)
{
	char name[64];

	snprintf(name, sizeof(name), "slot-%u.header", slot);
	return file_write_atomic(r->p->dirs[POOL_QUARANTINE], name, header, BLOCK_SIZE, 0600, err);
}

/* ---- who has a stub open ---- */

/* A write lease is had only while nobody else has the file open.  Where there are no leases, somebody may. */
static bool has_lease(int fd)
{
	if (file_ops->fcntl(fd, F_SETSIG, (void *)(intptr_t)SIGURG) < 0 ||
	    file_ops->fcntl(fd, F_SETLEASE, (void *)(intptr_t)F_WRLCK) < 0)
		return false;
	file_ops->fcntl(fd, F_SETLEASE, (void *)(intptr_t)F_UNLCK);
	return true;
}

static bool is_open(const struct repairing *r, enum pool_dir dir, const char *name)
{
	struct err why = ERR_INIT;
	int fd = file_open(r->p->dirs[dir], name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, &why);
	bool free;

	if (fd < 0)
		return why.errnum != ENOENT;
	free = r->o->assume_idle || has_lease(fd);
	file_close(fd, name, NULL);
	return !free;
}

struct kept_stubs {
	const struct repairing *r;
	const char *kept;
	bool open;
};

/* KEPT, KEPT.1 ... (stub.c) */
static int look_at_kept(void *ctx, const char *name, struct err *err)
{
	struct kept_stubs *k = ctx;
	size_t len = strlen(k->kept);

	(void)err;
	if (strncmp(name, k->kept, len) == 0 && (!name[len] || name[len] == '.'))
		k->open |= is_open(k->r, POOL_QUARANTINE, name);
	return 0;
}

static bool any_kept_is_open(const struct repairing *r, const char *kept)
{
	struct kept_stubs k = { r, kept, false };

	return file_each_name(r->p->dirs[POOL_QUARANTINE], look_at_kept, &k, NULL) < 0 || k.open;
}

/* Of which view a stub is that no slot has. */
static int look_for_strangers(void *ctx, const char *name, struct err *err)
{
	struct repairing *r = ctx;
	char text[POOL_ID_TEXT_ROOM] = "", again[POOL_FILE_NAME_ROOM];
	uint8_t id[POOL_ID_SIZE];

	(void)err;
	snprintf(text, sizeof(text), "%s", name);
	if (pool_id_parse(text, id) && strcmp(pool_id_file_name(id, again), name) == 0 && !find_view(r, id) && !is_lost(r, id))
		r->wait |= is_open(r, POOL_VIEWS, name);
	return 0;
}

/* ---- cluster files ---- */

static int repair_superblock(struct repairing *r, struct cluster_file *f, struct err *err)
{
	struct err what = ERR_INIT, why = ERR_INIT;
	bool damaged = cluster_file_other_is_damaged(f, &what);

	if (!r->o->dry_run && (damaged || cluster_file_lacks_copy(f)))
		cluster_file_write_other(f, &why);
	return damaged || why.kind != ERR_NONE ? tell(r, POOL_SUPERBLOCK, damaged ? what.text : NULL, &why, err) : 0;
}

/* Nothing says of these what they are. */
static int tell_passed_over(struct repairing *r, struct err *err)
{
	for (size_t i = 0; i < clusters_nr_passed_over(r->p->clusters); i++)
		if (tell(r, POOL_CLUSTER_FILE, NULL, clusters_passed_over(r->p->clusters, i), err) < 0)
			return -1;
	return 0;
}

static int repair_superblocks(struct repairing *r, struct err *err)
{
	for (size_t i = 0; i < clusters_nr(r->p->clusters); i++)
		if (repair_superblock(r, clusters_span(r->p->clusters, i).file, err) < 0)
			return -1;
	return 0;
}

/* ---- directories ---- */

/* They were made when the pool was opened. */
static int tell_missing_dirs(struct repairing *r, struct err *err)
{
	const struct err good = ERR_INIT;
	char what[64];

	for (enum pool_dir i = 0; i < POOL_NR_DIRS; i++) {
		if (!(r->p->dirs_missing & 1u << i))
			continue;
		snprintf(what, sizeof(what), "'%s' was missing", pool_dir_name(i));
		if (tell(r, POOL_DIRECTORY, what, &good, err) < 0)
			return -1;
	}
	return 0;
}

/* ---- the file of nodes ---- */

/* Which versions are lost with it is told when trees are gone through. */
static int repair_missing_nodes(struct repairing *r, struct err *err)
{
	const struct err good = ERR_INIT;

	if (!r->p->nodes_missing)
		return 0;
	if (!r->o->dry_run && pool_new_nodes(r->p, err) < 0)
		return -1;
	return tell(r, POOL_NODE, "the file of nodes is missing; a new one gets the trees that views have", &good, err);
}

/* ---- trees ---- */

struct rebuilding {
	struct nodes *nodes;
	struct tree_maker *maker;
};

static int take_map(void *ctx, uint64_t segment, struct leaf *map, const void *bytes, struct err *err)
{
	struct rebuilding *b = ctx;
	struct leaf is;

	map->hint = import_hint(bytes);
	if (nodes_get_leaf(b->nodes, map->digest, map->unit_bits, &is, NULL) < 0 && nodes_replace_leaf(b->nodes, map, err) < 0)
		return -1;
	return tree_maker_add(b->maker, segment, map->digest, err);
}

/* From what its tables lead to, which is proven before anything is written.  Where the file of nodes is missing, a dry run makes the
 * tree, too, to see what follows from it. */
static int rebuild(struct repairing *r, const struct view *v, struct err *err)
{
	CLEANUP(tree_maker_free) struct tree_maker *maker = NULL;
	uint8_t root[DIGEST_SIZE];

	if (view_read(r->p, v, r->o->stopper, NULL, NULL, err) < 0)
		return -1;
	if (r->o->dry_run && !r->p->nodes_missing)
		return 0;
	maker = tree_maker_new(r->p->nodes, v->disk_size, NULL, 0, err);
	if (!maker || view_read(r->p, v, r->o->stopper, take_map, &(struct rebuilding){ r->p->nodes, maker }, err) < 0 ||
	    tree_maker_end(maker, root, err) < 0)
		return -1;
	return r->o->dry_run ? 0 : pool_sync(r->p, err);
}

/* Whose tree was told of, or is rebuilt in a run that is not dry. */
static bool has_whole_view(const struct repairing *r, const struct view *root)
{
	for (size_t i = 0; i < r->views.nr; i++)
		if (memcmp(r->views.items[i].view.root, root->root, DIGEST_SIZE) == 0 &&
		    r->views.items[i].view.disk_size == root->disk_size)
			return true;
	return false;
}

/* Before and after the data: what cannot be rebuilt from a view may be whole when the data is. */
static int repair_trees(struct repairing *r, bool again, struct err *err)
{
	for (size_t i = 0; i < r->views.nr; i++) {
		struct whole_view *w = &r->views.items[i];
		const struct view *v = &w->view;
		char text[DIGEST_TEXT_ROOM];
		struct err why = ERR_INIT;

		if (w->rebuilt || tree_is_whole(r->p->nodes, v->root, v->disk_size))
			continue;
		w->rebuilt = rebuild(r, v, &why) == 0;
		if (!w->rebuilt && !again && why.kind != ERR_MEMORY && why.kind != ERR_CANCELED)
			continue;
		if (tell(r, POOL_NODE, digest_text(v->root, text), &why, err) < 0)
			return -1;
	}
	return 0;
}

/* Trees that no view has, or whose view was no help. */
static int tell_lost_trees(struct repairing *r, struct err *err)
{
	for (size_t i = 0; i < r->roots.nr; i++) {
		const struct view *v = &r->roots.items[i];
		char text[DIGEST_TEXT_ROOM];
		struct err why = ERR_INIT;

		if (tree_is_whole(r->p->nodes, v->root, v->disk_size) || has_whole_view(r, v))
			continue;
		err_set(&why, ERR_FORMAT, "a node of it is missing or damaged, and no view has it");
		if (tell(r, POOL_NODE, digest_text(v->root, text), &why, err) < 0)
			return -1;
	}
	return 0;
}

/* ---- data, and what can only be told ---- */

struct looking {
	struct repairing *r;
	struct heal *heal;
};

static int take_damage(void *ctx, const struct pool_damage *d, struct err *err)
{
	struct looking *l = ctx;

	if (d->part == POOL_DATA)
		return heal_add(l->heal, d->digest, d->path, d->offset, err);
	if (d->part != POOL_SEALED_FILE)
		return 0;
	l->r->left++;
	return l->r->o->tell ? l->r->o->tell(l->r->o->ctx, d, false, err) : 0;
}

static int tell_segment(void *ctx, const uint8_t digest[DIGEST_SIZE], const char *path, uint64_t offset, bool healed,
			struct err *err)
{
	char text[DIGEST_TEXT_ROOM], what[DIGEST_TEXT_ROOM + 64];
	struct pool_damage d = { .part = POOL_DATA, .offset = offset, .len = path[0] ? SEGMENT_SIZE : 0 };
	struct repairing *r = ctx;

	snprintf(d.path, sizeof(d.path), "%s", path);
	snprintf(what, sizeof(what), "segment %s%s", digest_text(digest, text),
		 healed ? "" : ": the pool has it nowhere else");
	err_set(&d.what, ERR_IO, "%s", what);
	*(healed ? &r->repaired : &r->left) += 1;
	return r->o->tell ? r->o->tell(r->o->ctx, &d, healed, err) : 0;
}

static int heal(struct repairing *r, struct heal *h, struct err *err)
{
	if (heal_begin(h, err) < 0 || heal_from_maps(h, err) < 0)
		return -1;
	for (size_t i = 0; i < r->views.nr; i++)
		if (heal_from_view(h, &r->views.items[i].view, err) < 0)
			return -1;
	return heal_from_moved(h, err) < 0 || heal_end(h, err) < 0 ? -1 : heal_each(h, tell_segment, r, err);
}

static void take_progress(void *ctx, const char *stage, uint64_t done, uint64_t total)
{
	const struct looking *l = ctx;

	if (l->r->o->progress)
		l->r->o->progress(l->r->o->ctx, stage, done, total);
}

static int repair_data(struct repairing *r, struct err *err)
{
	CLEANUP(heal_free) struct heal *h = heal_new(r->p, r->o->dry_run, r->o->stopper, err);
	struct looking looking = { r, h };
	const struct pool_check_options o = {
		.read_data = r->o->read_data, .percent = 100, .stopper = r->o->stopper, .damage = take_damage,
		.progress = take_progress, .ctx = &looking,
	};
	struct pool_checked checked;

	return !h || pool_check(r->p, &o, &checked, err) < 0 ? -1 : heal(r, h, err);
}

/* ---- views ---- */

static int write_anew(struct repairing *r, const struct view *v, const char *kept_stub, struct err *err)
{
	struct view again = *v;
	struct view made;

	while (again.cluster_bits < POOL_UNIT_BITS_MAX && again.disk_size >> (2 * again.cluster_bits - 3) > (4u << 20))
		again.cluster_bits += 2;
	if (r->o->dry_run)
		return tree_is_whole(r->p->nodes, v->root, v->disk_size) ? 0 : err_set(err, ERR_FORMAT, "its tree is not whole");
	return view_write_as(r->p, &again, kept_stub, &made, err);
}

static int repair_view(struct repairing *r, const struct whole_view *w, struct err *err)
{
	const struct view *v = &w->view;
	char text[POOL_ID_TEXT_ROOM], name[POOL_FILE_NAME_ROOM], kept[VIEW_KEPT_STUB_ROOM], what[POOL_ID_TEXT_ROOM + 48],
		old[PATH_MAX];
	struct err why = ERR_INIT;
	bool there, dying;

	pool_id_text(v->id, text);
	pool_id_file_name(v->id, name);
	view_kept_stub(v, kept);
	there = view_check_stub(r->p, v, POOL_VIEWS, &why) == 0 || why.errnum != ENOENT;
	dying = view_check_stub(r->p, v, POOL_TRASH, &why) == 0 || why.errnum != ENOENT;
	if (!there && !dying && !w->named) /* it does not exist any more, or not yet */
		return 0;
	why = ERR_INIT;
	if (view_check(r->p, v, NULL) < 0) {
		write_anew(r, v, kept, &why);
		return tell(r, POOL_TABLES, text, &why, err);
	}
	if (view_check_stub(r->p, v, POOL_VIEWS, NULL) == 0 || (!there && view_check_stub(r->p, v, POOL_TRASH, NULL) == 0))
		return 0;
	snprintf(what, sizeof(what), "%s%s", text, view_stub_elsewhere(r->p, v, old) ? ": it names the pool by another path" : "");
	if (!r->o->dry_run)
		view_write_stub(r->p, v, kept, &why);
	return tell(r, POOL_STUB, what, &why, err);
}

/* Where guests have its old stub open, they have its old tables, too, and nobody knows any more where those are. */
static int repair_lost(struct repairing *r, const struct view *v, struct err *err)
{
	char text[POOL_ID_TEXT_ROOM], name[POOL_FILE_NAME_ROOM], kept[POOL_ID_TEXT_ROOM + 8];
	struct err why = ERR_INIT;

	pool_id_file_name(v->id, name);
	snprintf(kept, sizeof(kept), "%s.stub", pool_id_text(v->id, text));
	if (is_open(r, POOL_VIEWS, name)) {
		r->wait = true;
		err_set(&why, ERR_BUSY, "somebody has it open, or the file system does not tell; stop the guests first");
	} else {
		write_anew(r, v, kept, &why);
		r->wait |= why.kind != ERR_NONE || any_kept_is_open(r, kept);
	}
	return tell(r, POOL_SLOT, text, &why, err);
}

static int repair_slot(struct repairing *r, const struct bad_slot *s, struct err *err)
{
	struct view lost = { .slot = s->slot };
	char what[32], kept[VIEW_KEPT_STUB_ROOM];
	struct err why = ERR_INIT;

	snprintf(what, sizeof(what), "slot %u", s->slot);
	if (r->wait || any_kept_is_open(r, view_kept_stub(&lost, kept)))
		err_set(&why, ERR_BUSY, "a view is in use, or not whole, that it may belong to");
	else if (!r->o->dry_run && keep_header(r, s->slot, s->header, &why) == 0)
		clusters_bury(r->p->clusters, s->slot, &why);
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
	if (r->slots.nr && file_each_name(r->p->dirs[POOL_VIEWS], look_for_strangers, r, err) < 0)
		return -1;
	for (size_t i = 0; i < r->slots.nr; i++)
		if (repair_slot(r, &r->slots.items[i], err) < 0)
			return -1;
	view_forget(r->p);
	return 0;
}

/* ---- the file of nodes ---- */

static int count_record(void *ctx, uint64_t offset, const struct leaf *leaf, const struct inner *inner, struct err *err)
{
	uint64_t *nr = ctx;

	(void)offset;
	(void)leaf;
	(void)inner;
	(void)err;
	++*nr;
	return 0;
}

static bool keep_record(void *ctx, uint64_t offset)
{
	(void)ctx;
	(void)offset;
	return true;
}

/* What is no record goes, unless a node is missing that somebody may know how to read from there. */
static int repair_damaged_nodes(struct repairing *r, struct err *err)
{
	char what[96];
	struct err why = ERR_INIT;
	uint64_t nr = 0;

	if (nodes_each(r->p->nodes, count_record, &nr, err) < 0)
		return -1;
	if (!nodes_damaged(r->p->nodes) || r->nodes_left)
		return 0;
	snprintf(what, sizeof(what), "%llu places in the file of nodes are damaged",
		 (unsigned long long)nodes_damaged(r->p->nodes));
	if (!r->o->dry_run && pool_sync(r->p, &why) == 0)
		nodes_keep(r->p->nodes, r->p->dirs[POOL_TREES], keep_record, NULL, nr, &why);
	return tell(r, POOL_NODE, what, &why, err);
}

/* ---- the index ---- */

/* First of all, as everything else uses it.  In a dry run, too: opening does the same where it notices. */
static int prove_index(struct repairing *r, struct err *err)
{
	int rc = pool_prove_index(r->p, r->o->stopper, &r->index, err);

	return rc == 0 ? pool_forget_index(r->p, err) : rc < 0 ? -1 : 0;
}

static int repair_index(struct repairing *r, struct err *err)
{
	const struct reindex_options o = { .stopper = r->o->stopper, .progress = r->o->progress, .ctx = r->o->ctx };
	struct err why = ERR_INIT;
	bool lacks;

	if (pool_lacks_keys(r->p, &lacks, err) < 0)
		return -1;
	if (!lacks)
		return 0;
	if (!r->o->dry_run)
		pool_reindex(r->p, &o, &why);
	return tell(r, POOL_FINDER, r->index.kind ? r->index.text : "keys of blocks are missing", &why, err);
}

/* ---- the whole ---- */

static int repair(struct repairing *r, struct err *err)
{
	if (tell_missing_dirs(r, err) < 0 || prove_index(r, err) < 0 || tell_passed_over(r, err) < 0 || repair_superblocks(r, err) < 0 ||
	    repair_missing_nodes(r, err) < 0)
		return -1;
	if (clusters_each_slot(r->p->clusters, take_slot, r, err) < 0 ||
	    names_each_or(r->p, take_name, bad_name, r, err) < 0 || repair_trees(r, false, err) < 0 ||
	    repair_data(r, err) < 0 || repair_trees(r, true, err) < 0 || tell_lost_trees(r, err) < 0 || repair_views(r, err) < 0)
		return -1;
	if ((!r->o->dry_run && pool_sync(r->p, err) < 0) || repair_damaged_nodes(r, err) < 0)
		return -1;
	return repair_index(r, err);
}

int pool_repair(struct pool *p, const struct pool_repair_options *o, uint64_t *ret_repaired, uint64_t *ret_left, struct err *err)
{
	struct repairing r = { .p = p, .o = o };
	int rc;

	p->restless |= !o->dry_run;
	rc = digest_prepare(err) < 0 ? -1 : repair(&r, err);
	*ret_repaired = r.repaired;
	*ret_left = r.left;
	vec_release(&r.views);
	vec_release(&r.slots);
	vec_release(&r.lost);
	vec_release(&r.roots);
	return rc < 0 ? pool_err(p, err) : 0;
}
