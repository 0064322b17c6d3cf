/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/fold.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compactor/pool/clusters.h"
#include "compactor/pool/feed.h"
#include "compactor/pool/import.h"
#include "compactor/pool/tree.h"
#include "compactor/member.h"
#include "compactor/pool_home.h"
#include "compactor/replace.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"

/* How it works, for one sealed overlay after the other:
 *
 *	enter	it is read by a process in a jail.  Where it stands on a disk whose root is known, the base, only what it holds
 *		itself is read.  The rest is the base's, whose bytes are proven by their digests: so damage does not get a digest
 *		under which it is right
 *	prove	what is not as in the base is read back from the disk, by its digests
 *	note	the versions that have it get its root (versions_fold.c has the states)
 *
 * What cannot be read stays sealed and holds up no other.  In the end the images that stood on what entered are made to stand on a
 * view.  Whoever is stopped anywhere leaves what is done, and the next one does the rest. */

/* One that stands on a view now, if nobody turns up who opened it before (replace.h, step 9). */
struct unsettled_image {
	struct workshop *workshop;
	uint64_t number;
	const char *path;
};

struct folding {
	struct pool *p;
	const struct fold_options *o;
	struct folded *ret;
	const struct sealed_disk *disk;
	struct import *import;
	uint64_t size;
	uint8_t *buf; /* a segment */
	VEC(struct unsettled_image) unsettled;
};

/* ---- entering ---- */

static int take_size(void *ctx, uint64_t size, struct err *err)
{
	struct folding *f = ctx;
	struct import_options o = { .unit_bits = f->o->unit_bits, .min_run = f->o->min_run };

	f->size = size;
	f->import = import_new(f->p, size, &o, f->disk->has_base ? f->disk->base_root : NULL, f->disk->base_size, err);
	return f->import ? 0 : -1;
}

static int take_segment(void *ctx, uint64_t segment, const void *bytes, struct err *err)
{
	struct folding *f = ctx;

	return import_segment(f->import, segment, bytes, err);
}

static int take_own(void *ctx, uint64_t segment, const void *bytes, const struct sectors *own, struct err *err)
{
	struct folding *f = ctx;

	return import_own(f->import, segment, bytes, own, err);
}

static int take_progress(void *ctx, uint64_t address, uint64_t size, struct err *err)
{
	struct folding *f = ctx;

	(void)err;
	if (f->o->progress)
		f->o->progress(f->o->ctx, address, size);
	return 0;
}

static int import_disk(struct folding *f, int fd, uint8_t ret_root[DIGEST_SIZE], struct err *err)
{
	struct feed feed = {
		.roots = f->o->roots, .jail = f->o->jail, .stopper = f->o->stopper, .format = "qcow2",
		.size = take_size, .segment = take_segment, .own = f->disk->has_base ? take_own : NULL,
		.progress = take_progress, .ctx = f,
	};
	char path[PATH_MAX], name[POOL_FILE_NAME_ROOM];
	struct import_stats stats;
	struct stat st;

	if (file_ops->fstat(fd, &st) < 0)
		return err_errno(err, "cannot look at it");
	if (pool_home_admit(f->p, &st, f->o->cross_owner, err) < 0)
		return -1;
	if (snprintf(path, sizeof(path), "%s/sealed/%s", f->p->path, pool_id_file_name(f->disk->id, name)) >= (int)sizeof(path))
		return err_set(err, ERR_UNSUPPORTED, "the pool's path is too long");
	if (feed_run(&feed, fd, path, err) < 0)
		return -1;
	if (f->disk->has_base && import_same(f->import, div_up(f->size, SEGMENT_SIZE), err) < 0)
		return -1;
	if (import_end(f->import, ret_root, &stats, err) < 0)
		return -1;
	f->ret->bytes_read += stats.bytes;
	f->ret->bytes_stored += stats.stored;
	return pool_sync(f->p, err);
}

/* ---- the proof ---- */

static int prove_segment(void *ctx, uint64_t segment, const uint8_t in_base[DIGEST_SIZE], const uint8_t digest[DIGEST_SIZE],
			 struct err *err)
{
	struct folding *f = ctx;

	(void)segment;
	(void)in_base;
	return tree_read_segment(f->p->nodes, f->p->clusters, digest, f->buf, err);
}

/* What is not as in the base is read from the disk. */
static int prove(struct folding *f, const uint8_t root[DIGEST_SIZE], struct err *err)
{
	static const uint8_t null[DIGEST_SIZE];

	if (clusters_drop_cache(f->p->clusters, err) < 0)
		return -1;
	return tree_diff(f->p->nodes, f->disk->has_base ? f->disk->base_root : null,
			 f->disk->has_base ? f->disk->base_size : f->size, root, f->size, prove_segment, f, err);
}

static void leave_sealed(struct folding *f, const struct sealed_disk *d, const struct err *why)
{
	f->ret->nr_left++;
	if (f->o->problem)
		f->o->problem(f->o->ctx, d->path, why);
}

/* What cannot be read stays sealed, and holds up no other. */
static int fold_one(void *ctx, const struct sealed_disk *d, int fd, struct err *err)
{
	struct folding *f = ctx;
	uint8_t root[DIGEST_SIZE];
	struct err why = ERR_INIT;
	int rc;

	f->disk = d;
	rc = import_disk(f, fd, root, &why);
	import_free(f->import);
	f->import = NULL;
	if (rc == 0 && prove(f, root, &why) == 0) {
		f->ret->nr_folded++;
		if (versions_fold(f->p, d->id, root, NULL, err) < 0)
			return -1;
		return f->o->enough && f->o->enough(f->o->ctx);
	}
	err_add(&why, "what was sealed of it");
	if (why.kind == ERR_FORMAT || why.kind == ERR_UNSUPPORTED || why.kind == ERR_REFUSED || why.kind == ERR_STALE) {
		leave_sealed(f, d, &why);
		return 0;
	}
	if (err)
		*err = why;
	return -1;
}

static void is_left(void *ctx, const struct sealed_disk *d, const struct err *why)
{
	leave_sealed(ctx, d, why);
}

/* ---- images that stand on it ---- */

struct paths {
	VEC(char *) list;
};

static int take_path(void *ctx, const char *path, struct err *err)
{
	struct paths *p = ctx;
	char *copy = strdup(path);

	if (copy && vec_push(&p->list, copy) == 0)
		return 0;
	free(copy);
	return err_set(err, ERR_MEMORY, "no memory for the images of a pool");
}

/* What cannot be made to stand on a view now stays as it is. */
static int left_as_it_is(const struct folding *f, const char *path, const struct err *why, struct err *err)
{
	if (why->kind == ERR_CANCELED || why->kind == ERR_MEMORY) {
		if (err)
			*err = *why;
		return -1;
	}
	if (f->o->problem)
		f->o->problem(f->o->ctx, path, why);
	return 0;
}

struct settling {
	struct folding *f;
	struct workshop *workshop;
	struct err why; /* it cannot be noted */
};

static void settled(void *ctx, uint64_t number, const struct err *why)
{
	struct settling *s = ctx;
	struct folding *f = s->f;
	const char *path;
	size_t n = 0;

	while (n < f->unsettled.nr && (f->unsettled.items[n].number != number || f->unsettled.items[n].workshop != s->workshop))
		n++;
	if (n == f->unsettled.nr)
		return;
	path = f->unsettled.items[n].path;
	f->unsettled.items[n] = f->unsettled.items[--f->unsettled.nr];
	if (!why->kind)
		member_note(f->p, path, NULL, s->why.kind ? NULL : &s->why);
	else if (f->o->problem)
		f->o->problem(f->o->ctx, path, why);
}

static int settle(struct folding *f, struct workshop *w, enum replace_settle how, struct err *err)
{
	struct settling s = { .f = f, .workshop = w };

	replace_settle(w, how, settled, &s);
	return s.why.kind ? err_set(err, s.why.kind, "%s", s.why.text) : 0;
}

static int settle_all(struct folding *f, struct err *err)
{
	int rc = 0;

	while (f->unsettled.nr) {
		size_t nr = f->unsettled.nr;

		if (settle(f, f->unsettled.items[0].workshop, REPLACE_SETTLE_ALL, rc < 0 ? NULL : err) < 0)
			rc = -1;
		if (f->unsettled.nr == nr) /* its workshop knows nothing of it */
			f->unsettled.nr--;
	}
	return rc;
}

/* Others settle meanwhile. */
static int repoint(struct folding *f, const char *path, struct err *err)
{
	struct unsettled_image x = { .path = path };
	const char *root = NULL;
	struct err why = ERR_INIT;
	int rc;

	if (stopper_says(f->o->stopper))
		return err_set(err, ERR_CANCELED, "stopped; run it again to go on");
	rc = f->o->workshop(f->o->ctx, path, &x.workshop, &root, err);
	if (rc <= 0)
		return rc;
	if (vec_reserve(&f->unsettled) < 0)
		return err_set(err, ERR_MEMORY, "no memory for the images of a pool");
	if (versions_repoint(f->p, x.workshop, root, path, &f->o->how, &x.number, &why) < 0)
		rc = left_as_it_is(f, path, &why, err);
	else if (x.number)
		f->unsettled.items[f->unsettled.nr++] = x;
	while (rc >= 0 && replace_due(x.workshop))
		rc = settle(f, x.workshop, REPLACE_SETTLE_FIRST, err);
	return rc < 0 ? -1 : 0;
}

static int repoint_all(struct folding *f, struct err *err)
{
	struct paths paths = { 0 };
	int rc = versions_each_to_repoint(f->p, take_path, &paths, err);

	for (size_t i = 0; rc == 0 && i < paths.list.nr; i++)
		rc = repoint(f, paths.list.items[i], err);
	if (settle_all(f, rc < 0 ? NULL : err) < 0)
		rc = -1;
	for (size_t i = 0; i < paths.list.nr; i++)
		free(paths.list.items[i]);
	vec_release(&paths.list);
	return rc;
}

void folded_release(struct folded *f)
{
	pool_ids_release(&f->done);
}

int fold_sealed(struct pool *p, const struct fold_options *o, struct folded *ret, struct err *err)
{
	struct folding f = { .p = p, .o = o, .ret = ret, .buf = malloc(SEGMENT_SIZE) };
	int rc;

	if (!f.buf)
		return err_set(err, ERR_MEMORY, "no memory to fold images into a pool");
	rc = versions_recover(p, err);
	if (rc == 0)
		rc = versions_each_sealed(p, &ret->done, fold_one, is_left, &f, err);
	if (rc == 0)
		rc = repoint_all(&f, err) < 0 || versions_tidy(p, err) < 0 ? -1 : 0;
	vec_release(&f.unsettled);
	free(f.buf);
	return rc;
}
