/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/pool/pool_check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compactor/pool/clusters.h"
#include "compactor/pool/names.h"
#include "compactor/pool/reindex.h"
#include "compactor/pool/seal_notes.h"
#include "compactor/pool/tree.h"
#include "compactor/pool/view.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/index/judymap.h"

/* How it works: what names and views keep is gone through from the top, each node once; leaves that are found are a set of records
 * (Judy1 of their offsets), whose data is read in the order of the file of nodes.  Where something is damaged, a second walk over
 * all disks finds which of them it hits, and where. */

#define CHECKED "checked"
#define CIRCLE ((uint64_t)1 << 32)

const char *const pool_part_names[POOL_NR_PARTS] = {
	[POOL_CLUSTER_FILE] = "cluster file", [POOL_SUPERBLOCK] = "superblock",
	[POOL_SLOT] = "header of a view", [POOL_TABLES] = "tables of a view", [POOL_STUB] = "stub", [POOL_NODE] = "node",
	[POOL_DATA] = "data", [POOL_NAME_FILE] = "name", [POOL_FINDER] = "index", [POOL_SEALED_FILE] = "sealed overlay",
	[POOL_DIRECTORY] = "directory",
};

/* A disk that is kept. */
struct kept {
	uint8_t root[DIGEST_SIZE];
	uint64_t size;
	char *path; /* of an image, or IMAGE@VERSION; "" = no name has it */
	bool viewed; /* a view has it, from whose tables its tree may be made again */
};

struct bad {
	uint8_t digest[DIGEST_SIZE];
	unsigned level;
	struct err why;
};

/* What is kept and has no data leads so far into a cluster file. */
struct reach {
	uint64_t number, end;
};

struct checked_view {
	struct view view;
	bool named;
};

struct checking {
	struct pool *p;
	const struct pool_check_options *o;
	struct pool_checked *ret;
	VEC(struct checked_view) views; /* of each id the last one */
	VEC(struct view) older;		/* the others */
	VEC(struct kept) kept;
	VEC(struct bad) bad;	 /* nodes, and leaves whose data is damaged */
	VEC(struct reach) reaches; /* one of a file */
	struct judyset seen;	 /* records: offset / 8 */
	uint8_t *buf;		 /* a segment */
	uint64_t nr_leaves, nr_read;
	uint32_t sector; /* of the data that is read */
	uint64_t sector_size;
};

static int no_memory(struct err *err)
{
	return err_set(err, ERR_MEMORY, "no memory to check a pool");
}

static int stopped(const struct checking *c, struct err *err)
{
	return c->o->stopper && stopper_says(c->o->stopper) ? err_set(err, ERR_CANCELED, "stopped") : 0;
}

static void tell_progress(const struct checking *c, const char *stage, uint64_t done, uint64_t total)
{
	if (c->o->progress)
		c->o->progress(c->o->ctx, stage, done, total);
}

/* Damage is told; what keeps the check from being made is not damage. */
static bool is_damage(const struct err *why)
{
	return why->kind == ERR_FORMAT || why->kind == ERR_IO || why->kind == ERR_STALE || why->kind == ERR_REFUSED ||
	       why->kind == ERR_UNSUPPORTED;
}

static int give(struct checking *c, const struct pool_damage *d, struct err *err)
{
	if (!is_damage(&d->what)) {
		if (err)
			*err = d->what;
		return -1;
	}
	c->ret->nr_damages++;
	return c->o->damage(c->o->ctx, d, err);
}

static int tell(struct checking *c, enum pool_part part, const char *path, uint64_t offset, uint64_t len, const struct err *why,
		enum repairable repairable, struct err *err)
{
	struct pool_damage d = { .part = part, .offset = offset, .len = len, .what = *why, .repairable = repairable };

	snprintf(d.path, sizeof(d.path), "%s", path ? path : "");
	return give(c, &d, err);
}

/* A node, or a segment's data; of a disk, NULL = nobody's. */
static int tell_one_bad(struct checking *c, const struct bad *b, const struct kept *k, uint64_t index, struct err *err)
{
	uint64_t len = SEGMENT_SIZE << 7 * b->level, at = index * len;
	struct pool_damage d = { .part = b->why.kind == ERR_IO ? POOL_DATA : POOL_NODE, .what = b->why };

	memcpy(d.digest, b->digest, DIGEST_SIZE);
	if (k) {
		snprintf(d.path, sizeof(d.path), "%s", k->path);
		d.offset = at;
		d.len = min_u64(len, k->size - min_u64(at, k->size));
		d.repairable = d.part == POOL_NODE && k->viewed ? REPAIR_MAY : REPAIR_CANNOT;
	}
	return give(c, &d, err);
}

/* ---- what there is ---- */

static struct checked_view *find_view(const struct checking *c, const uint8_t id[POOL_ID_SIZE])
{
	for (size_t i = c->views.nr; i-- > 0;)
		if (memcmp(c->views.items[i].view.id, id, POOL_ID_SIZE) == 0)
			return &c->views.items[i];
	return NULL;
}

/* What is made from a tree.  Where that is damaged, too, it may be made from the tables of a view. */
static enum repairable from_tree(const struct checking *c, const uint8_t root[DIGEST_SIZE], uint64_t size)
{
	return tree_is_whole(c->p->nodes, root, size) ? REPAIR_CAN : REPAIR_MAY;
}

static int take_slot(void *ctx, uint32_t slot, const uint8_t header[BLOCK_SIZE], struct err *err)
{
	struct checking *c = ctx;
	struct err why = ERR_INIT;
	struct checked_view v = { .named = false }, *other;

	if (view_decode(header, slot, &v.view, &why) < 0)
		return tell(c, POOL_SLOT, NULL, 0, 0, &why, REPAIR_CAN, err);
	other = find_view(c, v.view.id);
	if (other) {
		struct view older = other->view.generation < v.view.generation ? other->view : v.view;

		if (other->view.generation < v.view.generation)
			*other = v;
		return vec_push(&c->older, older) < 0 ? no_memory(err) : 0;
	}
	return vec_push(&c->views, v) < 0 ? no_memory(err) : 0;
}

static int keep(struct checking *c, const uint8_t root[DIGEST_SIZE], uint64_t size, const char *path, bool viewed, struct err *err)
{
	struct kept k = { .size = size, .path = strdup(path), .viewed = viewed };

	memcpy(k.root, root, DIGEST_SIZE);
	if (k.path && vec_push(&c->kept, k) == 0)
		return 0;
	free(k.path);
	return no_memory(err);
}

/* That is all: it is a version's own, whose notes tell whether it is whole. */
static int check_below(struct checking *c, const struct name_disk *d, struct err *err)
{
	char name[POOL_FILE_NAME_ROOM];
	struct err why = ERR_INIT;
	struct stat st;

	if (name_id_is_null(d->below) || file_ops->fstatat(c->p->dirs[POOL_SEALED], pool_id_file_name(d->below, name), &st, 0) == 0)
		return 0;
	err_set(&why, ERR_FORMAT, "'%s' is missing", name);
	return tell(c, POOL_SEALED_FILE, d->path, 0, 0, &why, REPAIR_CANNOT, err);
}

/* Where it was folded in others may stand on it still. */
static int check_sealed(struct checking *c, const struct name_disk *d, struct err *err)
{
	char name[POOL_FILE_NAME_ROOM];
	struct err why = ERR_INIT;
	struct stat st;

	if (name_id_is_null(d->sealed) || d->inode ||
	    (d->folded && file_ops->fstatat(c->p->dirs[POOL_SEALED], pool_id_file_name(d->sealed, name), &st, 0) < 0))
		return 0;
	return seal_check_in(c->p, d, &why) < 0 ? tell(c, POOL_SEALED_FILE, d->path, 0, 0, &why, REPAIR_CANNOT, err) : 0;
}

/* IMAGE, or IMAGE@VERSION. */
static const char *disk_text(const struct name *n, const struct name_disk *d, char *ret, size_t room)
{
	snprintf(ret, room, "%s%s%s", d->path, n->label[0] ? "@" : "", n->label);
	return ret;
}

static int take_disk(struct checking *c, const struct name *n, const struct name_disk *d, struct err *err)
{
	struct checked_view *v = name_id_is_null(d->view) ? NULL : find_view(c, d->view);
	char text[POOL_ID_TEXT_ROOM], who[PATH_MAX + sizeof(n->label) + 1];
	struct err why = ERR_INIT;

	if (v)
		v->named = true;
	if (!v && !name_id_is_null(d->view)) {
		err_set(&why, ERR_FORMAT, "view %s is missing", pool_id_text(d->view, text));
		if (tell(c, POOL_SLOT, d->path, 0, 0, &why, d->folded ? from_tree(c, d->root, d->size) : REPAIR_CANNOT, err) < 0)
			return -1;
	}
	if (check_below(c, d, err) < 0 || check_sealed(c, d, err) < 0)
		return -1;
	disk_text(n, d, who, sizeof(who));
	if (d->folded)
		return keep(c, d->root, d->size, who, v, err);
	return v ? keep(c, v->view.root, v->view.disk_size, who, true, err) : 0; /* what it stands on shows through */
}

static int take_name(void *ctx, const struct name *n, struct err *err)
{
	struct checking *c = ctx;

	c->ret->nr_names++;
	for (size_t i = 0; i < n->disks.nr; i++)
		if (take_disk(c, n, &n->disks.items[i], err) < 0)
			return -1;
	return 0;
}

static int bad_name(void *ctx, uint64_t number, const struct err *why, struct err *err)
{
	(void)number;
	return tell(ctx, POOL_NAME_FILE, NULL, 0, 0, why, REPAIR_CANNOT, err);
}

/* The images and versions that stand on a view; of one that is folded in, the tree is what counts. */
struct view_hits {
	struct checking *c;
	enum pool_part part;
	const struct view *view;
	const struct err *why;
	enum repairable repairable;
	bool any;
};

static int tell_hit(void *ctx, const struct name *n, struct err *err)
{
	char who[PATH_MAX + sizeof(n->label) + 1];
	struct view_hits *h = ctx;

	for (size_t i = 0; i < n->disks.nr; i++) {
		const struct name_disk *d = &n->disks.items[i];

		if (memcmp(d->view, h->view->id, POOL_ID_SIZE) != 0 || (n->kind == NAME_VERSION && d->folded))
			continue;
		h->any = true;
		if (tell(h->c, h->part, disk_text(n, d, who, sizeof(who)), 0, 0, h->why, h->repairable, err) < 0)
			return -1;
	}
	return 0;
}

static int ignore_name(void *ctx, uint64_t number, const struct err *why, struct err *err)
{
	(void)ctx;
	(void)number;
	(void)why;
	(void)err;
	return 0;
}

static int tell_of_view(struct checking *c, enum pool_part part, const struct view *v, const struct err *why, struct err *err)
{
	struct view_hits h = { c, part, v, why, from_tree(c, v->root, v->disk_size), false };

	if (names_each_or(c->p, tell_hit, ignore_name, &h, err) < 0)
		return -1;
	return h.any ? 0 : tell(c, part, NULL, 0, 0, why, h.repairable, err);
}

static int check_finder(struct checking *c, struct err *err)
{
	struct err why = ERR_INIT;
	int rc = pool_prove_index(c->p, c->o->stopper, &why, err);
	bool lacks;

	if (rc <= 0)
		return rc < 0 ? -1 : tell(c, POOL_FINDER, NULL, 0, 0, &why, REPAIR_CAN, err);
	if (pool_lacks_keys(c->p, &lacks, err) < 0)
		return -1;
	err_set(&why, ERR_FORMAT, "keys of blocks are missing, so what enters the pool shares whole segments only");
	return lacks ? tell(c, POOL_FINDER, NULL, 0, 0, &why, REPAIR_CAN, err) : 0;
}

/* ---- cluster files ---- */

static int reaches(struct checking *c, uint64_t address, uint64_t len, struct err *err)
{
	struct reach new = { address >> POOL_FILE_BITS, cluster_offset(address) + len };

	for (size_t i = 0; i < c->reaches.nr; i++) {
		struct reach *r = &c->reaches.items[i];

		if (r->number == new.number)
			return r->end = max_u64(r->end, new.end), 0;
	}
	return vec_push(&c->reaches, new) < 0 ? no_memory(err) : 0;
}

static uint64_t reach_into(const struct checking *c, uint64_t number)
{
	for (size_t i = 0; i < c->reaches.nr; i++)
		if (c->reaches.items[i].number == number)
			return c->reaches.items[i].end;
	return 0;
}

static int check_end(struct checking *c, const struct cluster_span *s, struct err *err)
{
	uint64_t end = cluster_file_end(s->file), wanted = reach_into(c, s->number);
	struct err why = ERR_INIT;

	if (wanted > end)
		err_set(&why, ERR_FORMAT, "'%s' was cut, or is of another time: its data end at offset %llu, and have to go on to "
			"%llu; put it back from a backup", cluster_file_name(s->file), (unsigned long long)end,
			(unsigned long long)wanted);
	else if (cluster_file_is_cut(s->file))
		err_set(&why, ERR_FORMAT, "'%s' was cut before its data; put it back from a backup", cluster_file_name(s->file));
	else
		return 0;
	return tell(c, POOL_CLUSTER_FILE, NULL, 0, 0, &why, REPAIR_CANNOT, err);
}

/* After all that is kept was looked at. */
static int check_ends(struct checking *c, struct err *err)
{
	struct cluster_span s;

	for (size_t i = 0; i < clusters_nr(c->p->clusters); i++) {
		s = clusters_span(c->p->clusters, i);
		if (check_end(c, &s, err) < 0)
			return -1;
	}
	for (size_t i = 0; i < c->reaches.nr; i++) {
		struct err why = ERR_INIT;

		if (clusters_of_address(c->p->clusters, c->reaches.items[i].number << POOL_FILE_BITS, &s))
			continue;
		err_set(&why, ERR_FORMAT, "the one with the number %llu is missing; put it back from a backup",
			(unsigned long long)c->reaches.items[i].number);
		if (tell(c, POOL_CLUSTER_FILE, NULL, 0, 0, &why, REPAIR_CANNOT, err) < 0)
			return -1;
	}
	return 0;
}

static int check_passed_over_files(struct checking *c, struct err *err)
{
	for (size_t i = 0; i < clusters_nr_passed_over(c->p->clusters); i++)
		if (tell(c, POOL_CLUSTER_FILE, NULL, 0, 0, clusters_passed_over(c->p->clusters, i), REPAIR_CANNOT, err) < 0)
			return -1;
	return 0;
}

static int check_superblocks(struct checking *c, struct err *err)
{
	for (size_t i = 0; i < clusters_nr(c->p->clusters); i++) {
		struct err why = ERR_INIT;

		if (cluster_file_other_is_damaged(clusters_span(c->p->clusters, i).file, &why) &&
		    tell(c, POOL_SUPERBLOCK, NULL, 0, 0, &why, REPAIR_CAN, err) < 0)
			return -1;
	}
	return 0;
}

/* ---- views ---- */

/* Who writes a view anew may have died before the stub led to the new one: then it leads to an older one, which is no damage as
 * long as that is whole. */
static const struct view *older_that_counts(const struct checking *c, const struct view *v)
{
	for (size_t i = 0; i < c->older.nr; i++)
		if (memcmp(c->older.items[i].id, v->id, POOL_ID_SIZE) == 0 && view_stub_leads_to(c->p, &c->older.items[i]))
			return &c->older.items[i];
	return NULL;
}

static int check_view(struct checking *c, const struct view *v, struct err *err)
{
	struct err why = ERR_INIT, other = ERR_INIT;
	bool stub = view_check_stub(c->p, v, POOL_VIEWS, &why) == 0 || view_check_stub(c->p, v, POOL_TRASH, &other) == 0;
	const struct view *older = stub ? NULL : older_that_counts(c, v);
	struct err tables = ERR_INIT;
	int (*check)(struct pool *, const struct view *, struct err *) = c->o->read_data ? view_check : view_check_layout;
	bool good = check(c->p, v, &tables) == 0 && (!older || check(c->p, older, &tables) == 0);

	/* A pool that was moved after it began to die: it is written anew if it comes back. */
	stub = stub || older || other.kind == ERR_STALE;
	c->ret->nr_views++;
	if (stub && good)
		return 0;
	if (!stub && tell_of_view(c, POOL_STUB, v, why.errnum == ENOENT && other.errnum != ENOENT ? &other : &why, err) < 0)
		return -1;
	if (good)
		return 0;
	if (reaches(c, slot_address(v->slot), v->slice_size, err) < 0)
		return -1;
	return tell_of_view(c, POOL_TABLES, v, &tables, err);
}

/* 1, 0 = neither in its place nor dying: a view that no name has either does not exist any more, or not yet; -1. */
static int has_stub(const struct checking *c, const struct view *v, struct err *err)
{
	static const enum pool_dir dirs[] = { POOL_VIEWS, POOL_TRASH };
	char name[POOL_FILE_NAME_ROOM];
	struct stat st;

	pool_id_file_name(v->id, name);
	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
		if (file_ops->fstatat(c->p->dirs[dirs[i]], name, &st, AT_SYMLINK_NOFOLLOW) == 0)
			return 1;
		if (errno != ENOENT)
			return err_errno(err, "cannot look at '%s'", name);
	}
	return 0;
}

static int check_views(struct checking *c, struct err *err)
{
	for (size_t i = 0; i < c->views.nr; i++) {
		const struct checked_view *v = &c->views.items[i];
		int rc;

		tell_progress(c, "checking views", i, c->views.nr);
		rc = stopped(c, err) < 0 ? -1 : v->named ? 1 : has_stub(c, &v->view, err);
		if (rc < 0 ||
		    (rc > 0 && (check_view(c, &v->view, err) < 0 || keep(c, v->view.root, v->view.disk_size, "", true, err) < 0)))
			return -1;
	}
	return 0;
}

/* ---- nodes ---- */

static int add_bad(struct checking *c, const uint8_t digest[DIGEST_SIZE], unsigned level, const struct err *why, struct err *err)
{
	struct bad b = { .level = level, .why = *why };

	memcpy(b.digest, digest, DIGEST_SIZE);
	for (size_t i = 0; i < c->bad.nr; i++)
		if (c->bad.items[i].level == level && memcmp(c->bad.items[i].digest, digest, DIGEST_SIZE) == 0)
			return 0;
	return vec_push(&c->bad, b) < 0 ? no_memory(err) : 0;
}

static int bad_node(struct checking *c, const uint8_t digest[DIGEST_SIZE], unsigned level, struct err *err)
{
	char text[DIGEST_TEXT_ROOM];
	struct err why = ERR_INIT;

	err_set(&why, ERR_FORMAT, "node %s of level %u is missing or damaged", digest_text(digest, text), level);
	return add_bad(c, digest, level, &why, err);
}

/* 1 = it was not seen before. */
static int see(struct checking *c, uint64_t offset, struct err *err)
{
	int rc = judyset_add(&c->seen, offset / 8);

	c->ret->nr_nodes += rc > 0;
	return rc < 0 ? no_memory(err) : rc;
}

/* Its map may be there, and lead to where there is no data. */
static int bad_leaf(struct checking *c, const uint8_t digest[DIGEST_SIZE], struct err *err)
{
	char text[DIGEST_TEXT_ROOM];
	struct err why = ERR_INIT;
	struct leaf leaf;

	for (unsigned bits = POOL_UNIT_BITS_MIN; bits <= POOL_UNIT_BITS_MAX; bits += 2) {
		if (nodes_get_map(c->p->nodes, digest, bits, &leaf, NULL) < 0)
			continue;
		for (unsigned i = 0; i < leaf.nr_runs; i++)
			if (reaches(c, leaf.runs[i].place << bits, (uint64_t)leaf.runs[i].nr << bits, err) < 0)
				return -1;
		err_set(&why, ERR_IO, "segment %s lies in what is gone of a cluster file", digest_text(digest, text));
		return add_bad(c, digest, 0, &why, err);
	}
	return bad_node(c, digest, 0, err);
}

static int check_leaf(struct checking *c, const uint8_t digest[DIGEST_SIZE], struct err *err)
{
	bool any = false;
	struct leaf leaf;

	for (unsigned bits = POOL_UNIT_BITS_MIN; bits <= POOL_UNIT_BITS_MAX; bits += 2) {
		uint64_t at;
		int rc = nodes_locate(c->p->nodes, digest, 0, bits, &at, err);

		if (rc == 0 || (rc > 0 && nodes_get_leaf(c->p->nodes, digest, bits, &leaf, NULL) < 0))
			continue;
		if (rc < 0)
			return -1;
		rc = see(c, at, err);
		if (rc < 0)
			return -1;
		c->nr_leaves += rc > 0;
		any = true;
	}
	return any ? 0 : bad_leaf(c, digest, err);
}

static int check_tree(struct checking *c, const uint8_t digest[DIGEST_SIZE], unsigned level, struct err *err)
{
	CLEANUP(free) struct inner *node = NULL;
	uint64_t at;
	int rc;

	if (digest_is_null(digest))
		return 0;
	if (level == 0)
		return check_leaf(c, digest, err);
	rc = nodes_locate(c->p->nodes, digest, level, 0, &at, err);
	if (rc < 0 || stopped(c, err) < 0)
		return -1;
	if (rc > 0) {
		rc = see(c, at, err);
		if (rc <= 0)
			return rc;
	}
	node = malloc(sizeof(*node));
	if (!node)
		return no_memory(err);
	if (!rc || nodes_get_inner(c->p->nodes, digest, level, node, NULL) < 0)
		return bad_node(c, digest, level, err);
	for (unsigned i = 0; i < DIGEST_FANOUT; i++)
		if (check_tree(c, node->children[i], level - 1, err) < 0)
			return -1;
	return 0;
}

static int check_trees(struct checking *c, struct err *err)
{
	for (size_t i = 0; i < c->kept.nr; i++) {
		tell_progress(c, "checking trees", i, c->kept.nr);
		if (check_tree(c, c->kept.items[i].root, digest_tree_height(c->kept.items[i].size), err) < 0)
			return -1;
	}
	return 0;
}

/* ---- data ---- */

/* Segments lie on a circle, at the first 32 bits of their digests, which are as good as random.  A check reads those in a sector of
 * it, which begins where the one before ended. */

static uint32_t read_sector(const struct checking *c)
{
	int fd = file_open(c->p->dirs[POOL_TOP], CHECKED, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, NULL);
	char text[16] = "";
	ssize_t len = fd < 0 ? -1 : file_read_some(fd, text, sizeof(text) - 1, 0, NULL);

	if (fd >= 0)
		file_ops->close(fd);
	return len == 9 ? (uint32_t)strtoul(text, NULL, 16) : 0;
}

static int write_sector(const struct checking *c, struct err *err)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%08x\n", (unsigned)(c->sector + c->sector_size));

	if (file_write_atomic(c->p->dirs[POOL_TOP], CHECKED, text, (size_t)len, 0600, err) < 0)
		return err_add(err, "how far the data was read cannot be noted");
	return 0;
}

static bool is_chosen(const struct checking *c, const struct leaf *leaf)
{
	return (uint32_t)(le32_load(leaf->digest) - c->sector) < c->sector_size;
}

static int read_leaf(void *ctx, uint64_t offset, const struct leaf *leaf, const struct inner *inner, struct err *err)
{
	struct checking *c = ctx;
	uint8_t digest[DIGEST_SIZE];
	struct err why = ERR_INIT;

	(void)inner;
	if (!leaf || !judyset_has(&c->seen, offset / 8))
		return 0;
	tell_progress(c, "reading", c->nr_read++ * SEGMENT_SIZE, c->nr_leaves * SEGMENT_SIZE);
	if (!is_chosen(c, leaf))
		return stopped(c, err);
	c->ret->nr_segments++;
	c->ret->bytes_read += leaf_bytes(leaf);
	if (tree_read_leaf(c->p->clusters, leaf, c->buf, &why) == 0) {
		digest_bytes(c->buf, SEGMENT_SIZE, digest);
		if (memcmp(digest, leaf->digest, DIGEST_SIZE) == 0)
			return stopped(c, err);
		err_set(&why, ERR_IO, "bytes of a segment are not those of its digest");
	}
	return is_damage(&why) ? add_bad(c, leaf->digest, 0, &why, err) : (*err = why, -1);
}

/* ---- whom it hits ---- */

struct hits {
	struct checking *c;
	const struct kept *kept;
	bool *hit; /* by bad */
};

static int find_hits(struct hits *h, const uint8_t digest[DIGEST_SIZE], unsigned level, uint64_t index, struct err *err)
{
	struct checking *c = h->c;
	CLEANUP(free) struct inner *node = NULL;

	if (digest_is_null(digest))
		return 0;
	for (size_t i = 0; i < c->bad.nr; i++) {
		const struct bad *b = &c->bad.items[i];

		if (b->level != level || memcmp(b->digest, digest, DIGEST_SIZE) != 0)
			continue;
		h->hit[i] = true;
		return tell_one_bad(c, b, h->kept, index, err);
	}
	if (level == 0)
		return 0;
	node = malloc(sizeof(*node));
	if (!node)
		return no_memory(err);
	if (nodes_get_inner(c->p->nodes, digest, level, node, err) < 0)
		return -1;
	for (unsigned i = 0; i < DIGEST_FANOUT; i++)
		if (find_hits(h, node->children[i], level - 1, index * DIGEST_FANOUT + i, err) < 0)
			return -1;
	return 0;
}

/* Those that no name has are told of without a path. */
static int tell_bad(struct checking *c, struct err *err)
{
	CLEANUP(free) bool *hit = calloc(c->bad.nr + 1, sizeof(*hit));
	struct hits h = { .c = c, .hit = hit };

	if (!hit)
		return no_memory(err);
	for (size_t i = 0; i < c->kept.nr && c->bad.nr; i++) {
		h.kept = &c->kept.items[i];
		if (h.kept->path[0] && find_hits(&h, h.kept->root, digest_tree_height(h.kept->size), 0, err) < 0)
			return -1;
	}
	for (size_t i = 0; i < c->bad.nr; i++)
		if (!hit[i] && tell_one_bad(c, &c->bad.items[i], NULL, 0, err) < 0)
			return -1;
	return 0;
}

/* ---- the whole ---- */

static int check_data(struct checking *c, struct err *err)
{
	bool all = c->o->percent >= 100;

	c->sector = all ? 0 : read_sector(c);
	c->sector_size = all ? CIRCLE : (uint64_t)(c->o->percent / 100 * (double)CIRCLE) + 1;
	if (nodes_each(c->p->nodes, read_leaf, c, err) < 0)
		return -1;
	return all ? 0 : write_sector(c, err);
}

/* Damage that nothing which is kept has to do with. */
static int check_passed_over(struct checking *c, struct err *err)
{
	struct err why = ERR_INIT;

	if (!c->p->nr_damaged || c->bad.nr)
		return 0;
	err_set(&why, ERR_FORMAT,
		"%llu places in the file of nodes are damaged, of which nothing is needed; a collection leaves them out",
		(unsigned long long)c->p->nr_damaged);
	return tell(c, POOL_NODE, NULL, 0, 0, &why, REPAIR_CANNOT, err);
}

static int check(struct checking *c, struct err *err)
{
	if (check_passed_over_files(c, err) < 0 || check_superblocks(c, err) < 0)
		return -1;
	if (clusters_each_slot(c->p->clusters, take_slot, c, err) < 0 ||
	    names_each_or(c->p, take_name, bad_name, c, err) < 0 || check_views(c, err) < 0 || check_trees(c, err) < 0 ||
	    check_ends(c, err) < 0)
		return -1;
	if (c->o->read_data && check_data(c, err) < 0)
		return -1;
	return tell_bad(c, err) < 0 || check_passed_over(c, err) < 0 ? -1 : check_finder(c, err);
}

int pool_check(struct pool *p, const struct pool_check_options *o, struct pool_checked *ret, struct err *err)
{
	struct checking c = { .p = p, .o = o, .ret = ret, .buf = malloc(SEGMENT_SIZE) };
	int rc;

	*ret = (struct pool_checked){ 0 };
	view_forget(p); /* and what was proven before */
	rc = !c.buf ? no_memory(err) : digest_prepare(err) < 0 ? -1 : check(&c, err);
	for (size_t i = 0; i < c.kept.nr; i++)
		free(c.kept.items[i].path);
	vec_release(&c.kept);
	vec_release(&c.views);
	vec_release(&c.older);
	vec_release(&c.bad);
	vec_release(&c.reaches);
	judyset_release(&c.seen);
	free(c.buf);
	return rc < 0 ? pool_err(p, err) : 0;
}
