/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/pool_status.h"

#include <fcntl.h>
#include <string.h>

#include "compactor/collect.h"
#include "compactor/pool/clusters.h"
#include "compactor/pool/finder.h"
#include "compactor/pool/growth.h"
#include "compactor/pool/names.h"
#include "compactor/pool/tree.h"
#include "compactor/versions.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"

/* What lives is counted by a collection that removes nothing. */

#define MEMORY ((uint64_t)64 << 20)

struct root {
	uint8_t digest[DIGEST_SIZE];
	uint64_t size, logical;
};

struct counting {
	struct pool *p;
	struct pool_status *ret;
	VEC(struct root) roots; /* that were walked */
	struct pool_ids waiting; /* sealed overlays to be folded in */
	int dirfd;
};

static int walk(struct counting *c, struct root *r, struct err *err)
{
	CLEANUP(tree_walk_free) struct tree_walk *w = tree_walk_new(c->p->nodes, r->digest, r->size, err);
	uint8_t digest[DIGEST_SIZE];
	uint64_t segment, at = 0;
	struct leaf leaf;
	int rc = -1;

	while (w && (rc = tree_walk_next(w, at, &segment, digest, err)) > 0) {
		at = segment + 1;
		rc = nodes_find_leaf(c->p->nodes, digest, POOL_UNIT_BITS_MIN, &leaf, err);
		if (rc <= 0)
			return rc < 0 ? -1 : err_set(err, ERR_FORMAT, "a node is missing; see dedupscan pool check");
		r->logical += leaf_bytes(&leaf);
	}
	return rc;
}

/* Clones of one version are walked once. */
static int add_disk(struct counting *c, const struct name_disk *d, struct err *err)
{
	struct root r = { .size = d->size };

	memcpy(r.digest, d->root, DIGEST_SIZE);
	for (size_t i = c->roots.nr; i-- > 0;)
		if (c->roots.items[i].size == d->size && memcmp(c->roots.items[i].digest, d->root, DIGEST_SIZE) == 0) {
			c->ret->logical += c->roots.items[i].logical;
			return 0;
		}
	if (walk(c, &r, err) < 0)
		return -1;
	c->ret->logical += r.logical;
	return vec_push(&c->roots, r) < 0 ? err_set(err, ERR_MEMORY, "no memory for the status of a pool") : 0;
}

static int take_name(void *ctx, const struct name *n, struct err *err)
{
	struct counting *c = ctx;

	c->ret->nr_members += n->kind == NAME_MEMBER;
	c->ret->nr_versions += n->kind == NAME_VERSION;
	for (size_t i = 0; i < n->disks.nr; i++) {
		const struct name_disk *d = &n->disks.items[i];

		if (d->folded && add_disk(c, d, err) < 0)
			return -1;
		if (!d->folded && !name_id_is_null(d->sealed) && pool_ids_add(&c->waiting, d->sealed, err) < 0)
			return -1;
	}
	return 0;
}

/* Slots come in order: the last one is in the file that grows, or in none. */
static int take_slot(void *ctx, uint32_t slot, const uint8_t header[BLOCK_SIZE], struct err *err)
{
	struct counting *c = ctx;
	struct pool_status *s = c->ret;

	(void)header;
	(void)err;
	s->tables += BLOCK_SIZE;
	if (slot / POOL_NR_SLOTS == clusters_growing(c->p->clusters).number)
		s->nr_slots_left = POOL_NR_SLOTS - 1 - slot % POOL_NR_SLOTS;
	return 0;
}

static int look_at_clusters(const struct counting *c, uid_t owner, struct err *err)
{
	struct pool_status *s = c->ret;

	s->nr_files = clusters_nr(c->p->clusters);
	s->room = growth_room(c->p);
	for (size_t i = 0; i < s->nr_files; i++) {
		struct stat st;

		if (file_ops->fstat(cluster_file_fd(clusters_span(c->p->clusters, i).file), &st) < 0)
			return err_errno(err, "cannot look at a cluster file");
		s->nr_given_away += st.st_uid != owner;
		s->file_size += (uint64_t)st.st_size;
		s->on_disk += (uint64_t)st.st_blocks * 512;
	}
	return 0;
}

/* The files of a directory, or those of them that are meant. */
struct files {
	int dirfd;
	const struct pool_ids *but; /* not these overlays */
	uid_t owner; /* the pool's */
	uint64_t bytes, nr, nr_of_others;
};

static int add_file(void *ctx, const char *name, struct err *err)
{
	struct files *s = ctx;
	uint8_t id[POOL_ID_SIZE];
	struct stat st;

	if (s->but && pool_id_parse_file_name(name, id) && pool_ids_has(s->but, id))
		return 0;
	if (file_ops->fstatat(s->dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return err_errno(err, "cannot look at '%s'", name);
	s->bytes += (uint64_t)st.st_blocks * 512;
	s->nr++;
	s->nr_of_others += st.st_uid != s->owner;
	return 0;
}

static int look_into(const struct counting *c, enum pool_dir dir, const struct pool_ids *but, struct files *ret, struct err *err)
{
	struct stat st;

	if (file_ops->fstat(c->p->dirs[POOL_TOP], &st) < 0)
		return err_errno(err, "cannot look at it");
	*ret = (struct files){ .dirfd = c->p->dirs[dir], .but = but, .owner = st.st_uid };
	return file_each_name(ret->dirfd, add_file, ret, err);
}

static int count(struct counting *c, struct err *err)
{
	struct collect_options o = { .dry_run = true, .memory = MEMORY };
	struct pool_status *s = c->ret;
	struct files views, names, finder, sealed, rest;
	struct collected live;

	if (names_each(c->p, take_name, c, err) < 0 || clusters_each_slot(c->p->clusters, take_slot, c, err) < 0 ||
	    pool_collect(c->p, &o, &live, err) < 0)
		return -1;
	pool_ids_sort(&c->waiting);
	if (look_into(c, POOL_VIEWS, NULL, &views, err) < 0 || look_into(c, POOL_NAMES, NULL, &names, err) < 0 ||
	    look_into(c, POOL_INDEX, NULL, &finder, err) < 0 || look_into(c, POOL_SEALED, NULL, &sealed, err) < 0 ||
	    look_into(c, POOL_SEALED, &c->waiting, &rest, err) < 0)
		return -1;
	if (look_at_clusters(c, views.owner, err) < 0 || immutable_look(c->p, &s->immutable, err) < 0)
		return -1;
	s->stubs = views.bytes;
	s->names = names.bytes;
	s->finder = finder.bytes;
	s->sealed = sealed.bytes - min_u64(rest.bytes, sealed.bytes);
	s->nr_sealed = sealed.nr - min_u64(rest.nr, sealed.nr);
	s->folded = rest.bytes;
	s->nr_folded = rest.nr;
	s->nr_given_away += views.nr_of_others;
	s->nr_views = live.nr_views + live.nr_dying;
	s->nodes = nodes_bytes(c->p->nodes);
	s->unreached = live.freed;
	s->tables += live.tables;
	s->distinct = live.live - min_u64(live.tables, live.live);
	return 0;
}

int pool_status(struct pool *p, struct pool_status *ret, struct err *err)
{
	struct counting c = { .p = p, .ret = ret };
	int rc;

	*ret = (struct pool_status){ .nr_slots_left = POOL_NR_SLOTS - 1 };
	rc = count(&c, err);
	vec_release(&c.roots);
	pool_ids_release(&c.waiting);
	return rc < 0 ? pool_err(p, err) : 0;
}
