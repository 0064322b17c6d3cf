/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/internal_snapshots.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compactor/pool/clusters.h"
#include "compactor/pool/tree.h"
#include "compactor/versions.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"

/* A snapshot is read twice, each time by a process of its own in a jail: once to be imported, and once, when the pool is synced, to
 * be compared with what the disk has of it.  Both readings go through the chain of backing files, as a guest would have read. */

#define PASS ((uint64_t)1 << 20) /* one reading, for whoever shows progress */
#define LABELS_MAX 1000

struct entering {
	const struct snapshots_entering *e;
	struct entered_snapshot *s; /* at hand */
	unsigned pass;
	struct import *import;

	/* the proof */
	struct tree_walk *walk;
	uint64_t next; /* segment */
	uint8_t *buf;
};

void entered_snapshots_release(struct entered_snapshots *s)
{
	vec_release(&s->list);
}

static int take_progress(void *ctx, uint64_t address, uint64_t size, struct err *err)
{
	const struct entering *x = ctx;
	uint64_t of_pass = size ? (uint64_t)((double)PASS * ((double)address / (double)size)) : PASS;

	if (!x->e->check)
		return 0;
	return x->e->check(x->e->check_ctx, x->pass * PASS + of_pass, 2 * (uint64_t)x->e->nr * PASS, err);
}

static int read_snapshot(struct entering *x, unsigned nr, int (*size)(void *ctx, uint64_t size, struct err *err),
			 int (*segment)(void *ctx, uint64_t segment, const void *bytes, struct err *err), struct err *err)
{
	struct feed f = *x->e->how;

	f.snapshot = nr;
	f.ret_snapshot = &x->s->told;
	f.size = size;
	f.segment = segment;
	f.progress = take_progress;
	f.ctx = x;
	return feed_run(&f, x->e->fd, x->e->path, err);
}

/* ---- entering ---- */

static int begin_import(void *ctx, uint64_t size, struct err *err)
{
	struct entering *x = ctx;

	if (x->s->told.vm_state_size)
		return err_set(err, ERR_UNSUPPORTED,
			       "its internal snapshot '%s' holds the state of a running machine, which no version has",
			       x->s->told.name);
	if (!size)
		return err_set(err, ERR_UNSUPPORTED, "its internal snapshot '%s' is of a disk without any bytes", x->s->told.name);
	x->s->size = size;
	x->import = import_new(x->e->pool, size, &x->e->import, NULL, 0, err);
	return x->import ? 0 : -1;
}

static int import_segment_of(void *ctx, uint64_t segment, const void *bytes, struct err *err)
{
	struct entering *x = ctx;

	return import_segment(x->import, segment, bytes, err);
}

static int import_snapshot(struct entering *x, unsigned nr, struct err *err)
{
	struct import_stats stats;
	int rc = read_snapshot(x, nr, begin_import, import_segment_of, err);

	if (rc == 0)
		rc = import_end(x->import, x->s->root, &stats, err);
	import_free(STEAL(x->import));
	return rc;
}

/* ---- the proof ---- */

static int differs(const struct entering *x, uint64_t segment, struct err *err)
{
	return err_set(err, ERR_IO, "the internal snapshot '%s' differs from what the pool has of it, in the 2 MiB at offset %llu",
		       x->s->told.name, (unsigned long long)(segment * SEGMENT_SIZE));
}

static int begin_proof(void *ctx, uint64_t size, struct err *err)
{
	struct entering *x = ctx;

	if (size != x->s->size)
		return err_set(err, ERR_STALE, "it has changed while it was read");
	x->next = 0;
	x->walk = tree_walk_new(x->e->pool->nodes, x->s->root, size, err);
	return x->walk ? 0 : -1;
}

static int prove_segment(void *ctx, uint64_t segment, const void *bytes, struct err *err)
{
	struct entering *x = ctx;
	uint8_t digest[DIGEST_SIZE];
	uint64_t has;
	int rc = tree_walk_next(x->walk, x->next, &has, digest, err);

	if (rc < 0)
		return -1;
	if (rc == 0 || has != segment)
		return differs(x, rc ? min_u64(has, segment) : segment, err);
	x->next = segment + 1;
	if (tree_read_segment(x->e->pool->nodes, x->e->pool->clusters, digest, x->buf, err) < 0)
		return -1;
	return memcmp(x->buf, bytes, SEGMENT_SIZE) == 0 ? 0 : differs(x, segment, err);
}

/* What is left of the tree, the image does not have. */
static int end_proof(struct entering *x, struct err *err)
{
	uint8_t digest[DIGEST_SIZE];
	uint64_t has;
	int rc = tree_walk_next(x->walk, x->next, &has, digest, err);

	return rc > 0 ? differs(x, has, err) : rc;
}

static int prove_snapshot(struct entering *x, unsigned nr, struct err *err)
{
	int rc = read_snapshot(x, nr, begin_proof, prove_segment, err);

	if (rc == 0)
		rc = end_proof(x, err);
	tree_walk_free(STEAL(x->walk));
	return rc;
}

int snapshots_enter(const struct snapshots_entering *e, struct entered_snapshots *ret, struct err *err)
{
	CLEANUP(free) uint8_t *buf = malloc(SEGMENT_SIZE);
	struct entering x = { .e = e, .buf = buf };

	if (!buf)
		return err_set(err, ERR_MEMORY, "no memory for an internal snapshot");
	for (unsigned i = 0; i < e->nr; i++, x.pass++) {
		if (vec_push(&ret->list, (struct entered_snapshot){ .size = 0 }) < 0)
			return err_set(err, ERR_MEMORY, "no memory for an internal snapshot");
		x.s = &ret->list.items[i];
		if (import_snapshot(&x, i + 1, err) < 0)
			return -1;
	}
	if (pool_sync(e->pool, err) < 0 || clusters_drop_cache(e->pool->clusters, err) < 0)
		return -1;
	for (unsigned i = 0; i < e->nr; i++, x.pass++) {
		x.s = &ret->list.items[i];
		if (prove_snapshot(&x, i + 1, err) < 0)
			return -1;
	}
	return 0;
}

/* ---- names ---- */

/* What the version of a snapshot, the nr-th of its image, may be called, the best first; false when that can be no label. */
static bool label_of(const struct image_snapshot *s, unsigned nr, unsigned try, char ret[256])
{
	char number[16];
	const char *id = s->id;
	int len;

	snprintf(number, sizeof(number), "%u", nr);
	if (versions_check_label(id, NULL) < 0)
		id = number;
	if (try == 0)
		len = snprintf(ret, 256, "%s", s->name);
	else if (try == 1)
		len = snprintf(ret, 256, "%s-%s", s->name, id);
	else if (try == 2)
		len = snprintf(ret, 256, "snapshot-%s", id);
	else
		len = snprintf(ret, 256, "snapshot-%s-%u", id, try - 1);
	return len < 256 && versions_check_label(ret, NULL) == 0;
}

/* All of a version but its label and what is in it is what one made of that snapshot has. */
static bool is_like(const struct name *n, const struct image_snapshot *s, uint64_t size)
{
	const struct name_disk *d = n->disks.items;

	return n->made == s->date && n->disks.nr == 1 && n->files.nr == 0 && d->folded && d->size == size &&
	       name_id_is_null(d->view) && name_id_is_null(d->sealed);
}

/* 1 = the version is there already, 0 = *ret is free. */
static int find_label(struct pool *p, const char *path, const struct entered_snapshot *s, unsigned nr, char ret[256],
		      struct err *err)
{
	for (unsigned try = 0; try < LABELS_MAX; try++) {
		CLEANUP(name_release) struct name old = { .number = 0 };
		int rc;

		if (!label_of(&s->told, nr, try, ret))
			continue;
		rc = names_find_version(p, path, ret, &old, err);
		if (rc <= 0)
			return rc;
		if (is_like(&old, &s->told, s->size) && memcmp(old.disks.items[0].root, s->root, DIGEST_SIZE) == 0)
			return 1;
	}
	return err_set(err, ERR_UNSUPPORTED, "there are too many versions like its internal snapshot '%s'", s->told.name);
}

static int publish(struct pool *p, const char *path, const struct entered_snapshot *s, unsigned nr, struct err *err)
{
	CLEANUP(name_release) struct name n = { .kind = NAME_VERSION, .made = s->told.date };
	struct name_disk d = { .size = s->size, .folded = true };
	int rc = find_label(p, path, s, nr, n.label, err);

	if (rc)
		return rc < 0 ? -1 : 0;
	if (strlen(path) >= sizeof(d.path))
		return err_set(err, ERR_UNSUPPORTED, "its path is too long");
	strcpy(d.path, path);
	memcpy(d.root, s->root, DIGEST_SIZE);
	if (vec_push(&n.disks, d) < 0)
		return err_set(err, ERR_MEMORY, "no memory for a name");
	return names_publish(p, &n, true, err);
}

int snapshots_publish(struct pool *p, const char *path, const struct entered_snapshots *s, struct err *err)
{
	for (size_t i = 0; i < s->list.nr; i++)
		if (publish(p, path, &s->list.items[i], (unsigned)i + 1, err) < 0)
			return -1;
	return 0;
}

/* ---- versions that are there in vain ---- */

struct looking {
	uint64_t size;
	bool seen;
};

static int look_only(void *ctx, uint64_t size, struct err *err)
{
	struct looking *l = ctx;

	l->size = size;
	l->seen = true;
	return err_set(err, ERR_CANCELED, "that was all");
}

static int remove_made_of(struct pool *p, const char *path, const struct image_snapshot *s, uint64_t size, unsigned nr,
			  struct err *err)
{
	for (unsigned try = 0; try < LABELS_MAX; try++) {
		CLEANUP(name_release) struct name n = { .number = 0 };
		char label[256];
		int rc;

		if (!label_of(s, nr, try, label))
			continue;
		rc = names_find_version(p, path, label, &n, err);
		if (rc <= 0 && try >= 2)
			return rc;
		if (rc < 0 || (rc > 0 && is_like(&n, s, size) && names_remove(p, n.number, err) < 0))
			return -1;
	}
	return 0;
}

int snapshots_forget(struct pool *p, const struct feed *how, int fd, const char *path, unsigned nr, struct err *err)
{
	for (unsigned i = 1; i <= nr && i <= SNAPSHOTS_MOST; i++) {
		struct looking l = { .seen = false };
		struct image_snapshot s;
		struct err why = ERR_INIT;
		struct feed f = *how;

		f.snapshot = i;
		f.ret_snapshot = &s;
		f.size = look_only;
		f.progress = NULL;
		f.ctx = &l;
		if (feed_run(&f, fd, path, &why) < 0 && !l.seen) {
			if (why.kind != ERR_CANCELED && why.kind != ERR_MEMORY)
				continue; /* what cannot be read now may be next time */
			return err_set(err, why.kind, "%s", why.text);
		}
		if (remove_made_of(p, path, &s, l.size, i, err) < 0)
			return -1;
	}
	return 0;
}
