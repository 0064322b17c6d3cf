/* SPDX-License-Identifier: Apache-2.0 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "scanner/base/checked.h"
#include "scanner/scan_parts.h"

/*
 * A scan walks the roots (scan_find.c), goes through what was found in order of path and has read what changed (scan_read.c),
 * and merges what reading gave into the index (merge.c).  An image that did not change costs the stat of the walk and
 * a look for writers.
 */

#define WORKER_MEMORY (6 * MIB)
#define PARENT_MEMORY (14 * MIB)

/* ---- memory, progress, the clock ---- */

uint64_t scan_memory_least(unsigned nr_workers)
{
	return PARENT_MEMORY + nr_workers * WORKER_MEMORY + 2 * MIB;
}

static int wait_for_window(struct scan *s, struct err *err)
{
	while (schedule_now(&s->o->stopper->schedule, false) == SCHEDULE_WAIT) {
		if (atomic_load(&s->o->stopper->flag))
			return err_set(err, ERR_CANCELED, "stopped before the window opened");
		scan_tell_progress(s, "waiting", 0, 0);
		nanosleep(&(struct timespec){ .tv_nsec = SCAN_POLL_MS * 1000000 }, NULL);
	}
	return 0;
}

/* ---- what is to be read ---- */

/* The rank of an image hangs on where its backing file is, which may come, go or move without a change of the image. */
static bool backing_moved(const char *name, const char *image, const char *was)
{
	char path[PATH_MAX];

	scan_resolve_backing(name, image, path);
	return strcmp(path, was ? was : "") != 0;
}

/* Errors that another look could not mend while the file stays the same. */
static bool lasting_error(const char *kind)
{
	return strcmp(kind, err_kind_name(ERR_FORMAT)) == 0 || strcmp(kind, err_kind_name(ERR_UNSUPPORTED)) == 0;
}

static bool writer_has_it(struct scan *s, const struct found *f)
{
	CLEANUP(close_fd) int fd = roots_open_found(s->o->roots, f, NULL);

	return fd >= 0 && scan_open_for_writing(fd);
}

/* Opens the backing file of an image at a path, as a reader would have it opened, to see whether it can. */
static bool backing_opens(const struct roots *roots, const char *path, const char *name, char ret[PATH_MAX])
{
	CLEANUP(close_fd) int fd = roots_open_again(roots, path, NULL), backing = -1;
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return false;
	backing = roots_open_named(roots, IMAGE_BACKING, name, path, &st, ret, NULL);
	return backing >= 0;
}

/* A warning may be about a backing file that was refused: its directory or its pool was not given, say, and is now.  1 = nothing
 * that is known of the chain keeps it from being opened; 0, -1. */
static int chain_opens(struct scan *s, const struct catalog_image *i, struct err *err)
{
	CLEANUP(catalog_image_release) struct catalog_image below = { 0 };
	CLEANUP(free) char *backing = i->backing ? strdup(i->backing) : NULL;
	char path[PATH_MAX], next[PATH_MAX];
	int rc;

	snprintf(path, sizeof(path), "%s", i->path);
	for (unsigned depth = 0; depth < IMAGE_CHAIN_MAX; depth++) {
		if (!backing || !*backing)
			return depth > 0;
		if (!backing_opens(s->o->roots, path, backing, next))
			return 0;
		rc = catalog_image_by_path(s->c, next, &below, err);
		if (rc <= 0)
			return rc < 0 ? -1 : 1;
		if (below.error && lasting_error(below.error_kind))
			return 0;
		free(backing);
		backing = STEAL(below.backing);
		memcpy(path, next, sizeof(path));
	}
	return 0;
}

static bool unchanged(struct scan *s, const struct found *f, const struct catalog_image *i)
{
	if (!i->scanned_at || i->racy || !spool_identity_equal(&f->identity, &i->identity))
		return false;
	if (f->block_device) /* it has no time stamps that tell */
		return false;
	if (!scan_files_as_known(s, i->id, i->parts))
		return false;
	if (!scan_told_the_same(s, i->told, i->format))
		return false;
	if (i->warning && chain_opens(s, i, NULL) != 0)
		return false;
	if (backing_moved(i->backing, f->path, i->backing_path))
		return false;
	return (!i->error || lasting_error(i->error_kind)) && !writer_has_it(s, f);
}

/* A spool file that an earlier run completed and that is still true. */
static bool read_already(struct scan *s, const struct found *f, const struct catalog_image *i)
{
	CLEANUP(spool_close) struct spool *sp = NULL;
	char name[32];

	snprintf(name, sizeof(name), "%lld", (long long)i->id);
	sp = spool_open(catalog_spool_dirfd(s->c), name, false, NULL);
	if (!sp || f->block_device || !scan_files_as_known(s, i->id, sp->image->parts))
		return false;
	return !sp->image->racy && scan_told_the_same(s, sp->image->told, spool_text(sp->image, SPOOL_FORMAT)) &&
	       sp->image->base == i->base && spool_identity_equal(&sp->image->identity, &f->identity) &&
	       !backing_moved(spool_text(sp->image, SPOOL_BACKING), f->path,
			      spool_text(sp->image, SPOOL_BACKING_PATH));
}

/* It is some image's data file or extent, and still the very file. */
static bool is_known_part(const struct found *f, const struct catalog_image *i)
{
	return i->part_of && f->identity.dev == i->identity.dev && f->identity.ino == i->identity.ino;
}

static int skip_unchanged(struct scan *s, const struct found *f, const struct catalog_image *i, struct err *err)
{
	struct err why = ERR_INIT;

	s->ret->nr_unchanged++;
	s->images_done++;
	s->bytes_total -= min_u64(f->file_used, s->bytes_total);
	if (i->error) {
		s->ret->nr_failed++;
		err_set(&why, ERR_FORMAT, "%s", i->error);
		scan_tell_problem(s, f->path, &why);
	} else if (i->warning) {
		err_set(&why, ERR_FORMAT, "%s", i->warning);
		scan_tell_problem(s, f->path, &why);
	}
	if (f->file_used == i->file_used || !fingerprint_is_null(i->parts))
		return 0;
	return catalog_image_set_used(s->c, i->id, f->file_used, err);
}

static int consider(void *ctx, const struct found *f, struct err *err)
{
	struct scan *s = ctx;
	CLEANUP(catalog_image_release) struct catalog_image image = { 0 };
	int rc = catalog_image_by_path(s->c, f->path, &image, err);

	if (rc <= 0)
		return rc;
	scan_look_at_clock(s);
	if (s->stopping)
		return 1;
	s->ret->nr_images++;
	if (is_known_part(f, &image) || unchanged(s, f, &image))
		return skip_unchanged(s, f, &image, err);
	if (read_already(s, f, &image)) {
		s->ret->nr_read++;
		s->images_done++;
		s->bytes_done += f->file_used;
		return 0;
	}
	return scan_read(s, f, &image, err);
}

/* If it was passed by, then as a part of an image that turned out not to name it any more. */
static int read_released(void *ctx, const struct found *f, struct err *err)
{
	struct scan *s = ctx;
	CLEANUP(catalog_image_release) struct catalog_image image = { 0 };
	int rc = catalog_image_by_path(s->c, f->path, &image, err);

	if (rc <= 0 || catalog_release_part(s->c, f->path, err) < 0)
		return rc ? -1 : 0;
	if (!is_known_part(f, &image))
		return 0;
	s->ret->nr_images--;
	s->ret->nr_unchanged--;
	s->images_done--;
	s->bytes_total += f->file_used;
	return consider(s, f, err);
}

static int drop_not_images(struct scan *s, struct err *err)
{
	if (catalog_begin(s->c, err) < 0)
		return -1;
	for (size_t i = 0; i < s->not_images.nr; i++) {
		if (catalog_image_remove(s->c, s->not_images.items[i], err) < 0) {
			catalog_rollback(s->c);
			return -1;
		}
	}
	return catalog_commit(s->c, err);
}

static int read_images(struct scan *s, struct err *err)
{
	int rc = catalog_each_found(s->c, consider, s, err);

	if (rc >= 0)
		rc = scan_read_rest(s, err);
	if (rc >= 0 && !s->stopping && (rc = catalog_each_released(s->c, read_released, s, err)) >= 0)
		rc = scan_read_rest(s, err);
	if (rc < 0 || drop_not_images(s, err) < 0)
		return -1;
	return s->stopping ? err_set(err, ERR_CANCELED, "stopped; the next scan goes on from here") : 0;
}

/* ---- the whole ---- */

static void merge_progress(void *ctx, uint64_t done, uint64_t total)
{
	scan_tell_progress(ctx, "indexing", done, total);
}

static int merge(struct scan *s, unsigned nr_threads, struct err *err)
{
	struct merge_options o = { .memory = s->o->memory,
				   .nr_threads = nr_threads,
				   .stopper = s->o->stopper,
				   .progress = merge_progress,
				   .ctx = s };

	return merge_run(s->c, &o, err);
}

int scan_finish_merge(struct catalog *c, const struct scan_options *o, unsigned nr_threads, struct err *err)
{
	struct scan_result ret = { 0 };
	struct scan s = { .c = c, .o = o, .ret = &ret };
	bool pending;

	if (merge_pending(c, &pending, err) < 0)
		return -1;
	return pending ? merge(&s, nr_threads, err) : 0;
}

static int run(struct scan *s, struct err *err)
{
	unsigned nr_threads = scan_workers_count(s->w);

	if (wait_for_window(s, err) < 0 || scan_finish_merge(s->c, s->o, nr_threads, err) < 0)
		return -1;
	if (scan_find(s, err) < 0 || read_images(s, err) < 0 || scan_tell_strays(s, err) < 0)
		return -1;
	scan_end_workers(s);
	if (merge_prepare(s->c, &s->own, s->o->stopper, nr_threads, err) < 0)
		return -1;
	if (merge(s, nr_threads, err) < 0)
		return -1;
	return catalog_set_number(s->c, "scan_unfinished", 0, err);
}

int scan_run(struct catalog *c, struct scan_workers *w, const struct scan_options *o, struct scan_result *ret,
	     struct err *err)
{
	CLEANUP(free) struct scan *s = calloc(1, sizeof(*s));
	int rc;

	*ret = (struct scan_result){ .started = time(NULL) };
	if (!s)
		return err_set(err, ERR_MEMORY, "no memory for a scan");
	signal(SIGIO, SIG_IGN); /* a lease of ours, held for a moment, that somebody breaks */
	s->c = c;
	s->w = w;
	s->o = o;
	s->ret = ret;
	s->own.syncer = syncer_new(scan_workers_count(w), err);
	rc = s->own.syncer ? run(s, err) : -1;
	scan_end_workers(s);
	syncer_free(s->own.syncer);
	vec_release(&s->own.images);
	vec_release(&s->not_images);
	scan_files_release(&s->strays);
	return rc;
}
