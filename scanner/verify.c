/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/verify_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/worker.h"

/* What both ways to verify do: files are found as in a scan, and gone through in order of path, one at a time.  Whoever wants more
 * readers starts several, for different paths. */

#define WAIT_MS 100

const char *const verify_outcome_names[VERIFY_NR_OUTCOMES] = {
	[VERIFY_OK] = "ok",	      [VERIFY_DIFFERS] = "differs", [VERIFY_CHANGED] = "changed",
	[VERIFY_UNKNOWN] = "unknown", [VERIFY_MISSING] = "missing", [VERIFY_UNREAD] = "unread",
};

bool verify_all_well(const struct verify_totals *t)
{
	for (int i = VERIFY_OK + 1; i < VERIFY_NR_OUTCOMES; i++)
		if (t->nr[i])
			return false;
	return true;
}

/* ---- finding ---- */

static void tell_progress(struct verify *v, const char *stage, uint64_t done, uint64_t total)
{
	struct scan_progress p = { .stage = stage,
				   .done = done,
				   .total = total,
				   .bytes = total != 0,
				   .nr_images_done = v->images_done,
				   .nr_images = v->found.nr };

	if (v->o->watch)
		v->o->watch->progress(v->o->watch->ctx, &p);
}

static int wait_for_window(struct verify *v, struct err *err)
{
	while (schedule_now(&v->o->stopper->schedule, false) == SCHEDULE_WAIT) {
		if (atomic_load(&v->o->stopper->flag))
			return err_set(err, ERR_CANCELED, "stopped before the window opened");
		tell_progress(v, "waiting", 0, 0);
		nanosleep(&(struct timespec){ .tv_nsec = WAIT_MS * 1000000 }, NULL);
	}
	return 0;
}

static int found_file(void *ctx, const struct found *f, struct err *err)
{
	struct verify *v = ctx;
	struct found copy = *f;

	copy.path = strdup(f->path);
	if (!copy.path || vec_push(&v->found, copy) < 0) {
		free(copy.path);
		return err_set(err, ERR_MEMORY, "no memory for a list of files");
	}
	v->bytes_total += f->file_used;
	tell_progress(v, "finding", 0, 0);
	return 0;
}

struct walk {
	struct verify *v;
	bool named;
};

static int walk_file(void *ctx, const struct found *f, struct err *err)
{
	struct walk *w = ctx;

	return found_file(w->v, f, err);
}

static void walk_problem(void *ctx, const char *path, const struct err *why, bool listing)
{
	struct walk *w = ctx;

	if (listing || w->named)
		w->v->ret->nr[VERIFY_UNREAD]++;
	else
		w->v->ret->nr_not_images++;
	if (w->v->o->watch)
		w->v->o->watch->problem(w->v->o->watch->ctx, path, why);
}

static bool walk_stop(void *ctx)
{
	struct walk *w = ctx;

	return stopper_says(w->v->o->stopper);
}

/* One that was named before the same one met in a directory. */
static int by_path(const void *a, const void *b)
{
	const struct found *x = a, *y = b;
	int order = strcmp(x->path, y->path);

	return order ? order : y->named - x->named;
}

static void sort_found(struct verify *v)
{
	size_t nr = 0;

	if (v->found.nr)
		qsort(v->found.items, v->found.nr, sizeof(*v->found.items), by_path);
	for (size_t i = 0; i < v->found.nr; i++) {
		if (nr && strcmp(v->found.items[nr - 1].path, v->found.items[i].path) == 0) {
			v->bytes_total -= v->found.items[i].file_used;
			free(v->found.items[i].path);
		} else {
			v->found.items[nr++] = v->found.items[i];
		}
	}
	v->found.nr = nr;
}

int verify_begin(struct verify *v, const struct verify_options *o, struct verify_totals *ret, struct err *err)
{
	struct walk w = { .v = v };
	struct roots_visitor visitor = { walk_file, walk_problem, walk_stop, &w };

	*v = (struct verify){ .o = o, .ret = ret };
	*ret = (struct verify_totals){ 0 };
	if (wait_for_window(v, err) < 0)
		return -1;
	for (size_t i = 0; i < o->roots->list.nr; i++) {
		const struct root *root = &o->roots->list.items[i];

		w.named = root->file != NULL;
		if (root->walked && roots_walk(o->roots, root, &visitor, err) < 0)
			return -1;
	}
	sort_found(v);
	return 0;
}

void verify_end(struct verify *v)
{
	for (size_t i = 0; i < v->found.nr; i++)
		free(v->found.items[i].path);
	vec_release(&v->found);
	vec_release(&v->image.runs);
}

bool verify_is_at(const char *path, const struct spool_identity *file)
{
	struct stat st;

	if (file_ops->fstatat(AT_FDCWD, path, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return !file && errno != ENOENT && errno != ENOTDIR;
	return !file || ((uint64_t)st.st_dev == file->dev && (uint64_t)st.st_ino == file->ino);
}

/* ---- the image at hand ---- */

void verify_take(struct verify *v, const char *path, uint64_t file_used)
{
	vec_release(&v->image.runs);
	v->image = (struct verify_image){ .path = path };
	v->file_used = file_used;
}

void verify_say(struct verify *v, enum verify_outcome outcome, const char *fmt, ...)
{
	va_list args;

	v->image.outcome = outcome;
	va_start(args, fmt);
	vsnprintf(v->image.why, sizeof(v->image.why), fmt, args);
	va_end(args);
}

int verify_tell(struct verify *v, struct err *err)
{
	v->ret->nr[v->image.outcome]++;
	v->ret->bytes_read += v->image.read;
	return v->o->tell ? v->o->tell(v->o->ctx, &v->image, err) : 0;
}

void verify_progress(struct verify *v, uint64_t part, uint64_t whole)
{
	double share = whole ? (double)min_u64(part, whole) / (double)whole : 0;

	tell_progress(v, "reading", v->bytes_done + (uint64_t)((double)v->file_used * share), v->bytes_total);
}

int verify_open(struct verify *v, const struct found *f, struct spool_identity *ret)
{
	struct err why = ERR_INIT;
	struct stat st;
	int fd = roots_open_found(v->o->roots, f, &why);

	if (fd >= 0 && file_stat(fd, &st) < 0) {
		err_errno(&why, "cannot look at it");
		file_close(fd, f->path, NULL);
		fd = -1;
	}
	if (fd < 0)
		verify_say(v, VERIFY_UNREAD, "%s", why.text);
	else
		*ret = spool_identity_of(&st);
	return fd;
}

/* ---- the files of an image ---- */

int verify_files_add(struct verify_files *l, const struct opening *o, struct err *err)
{
	struct catalog_part p = { 0 };
	struct stat st;

	if (file_stat(o->fd, &st) < 0)
		return err_errno(err, "cannot look at '%s'", o->path);
	p.identity = spool_identity_of(&st);
	for (size_t i = 0; i < l->list.nr; i++)
		if (spool_identity_equal(&l->list.items[i].identity, &p.identity))
			return 0;
	p.path = strdup(o->path);
	if (p.path && vec_push(&l->list, p) == 0)
		return 0;
	free(p.path);
	return err_set(err, ERR_MEMORY, "no memory for the files of an image");
}

void verify_files_release(struct verify_files *l)
{
	for (size_t i = 0; i < l->list.nr; i++)
		free(l->list.items[i].path);
	vec_release(&l->list);
}

static bool still(int fd, const struct spool_identity *was)
{
	struct spool_identity now;
	struct stat st;

	if (fd < 0 || file_stat(fd, &st) < 0)
		return false;
	now = spool_identity_of(&st);
	return spool_identity_equal(&now, was);
}

bool verify_unchanged(const struct verify *v, const struct verify_files *l, int fd, const struct spool_identity *was)
{
	for (size_t i = 0; i < l->list.nr; i++) {
		CLEANUP(close_fd) int part = roots_open_again(v->o->roots, l->list.items[i].path, NULL);

		if (!still(part, &l->list.items[i].identity))
			return false;
	}
	return still(fd, was);
}

/* ---- is it an image? ---- */

struct look {
	bool is_one, enough;
};

/* The first message of a reader says what image it is: more is not wanted. */
static int look_message(void *ctx, struct worker_message *m, int sock, void *shared, struct err *err)
{
	struct look *l = ctx;

	(void)sock;
	(void)shared;
	l->enough = true;
	l->is_one = m->kind == WORKER_IMAGE;
	return err_set(err, ERR_CANCELED, "enough is known");
}

int verify_is_image(struct verify *v, const struct found *f, struct err *err)
{
	struct spool_identity identity;
	struct look l = { .enough = false };
	struct errand e = {
		.roots = v->o->roots, .format = v->o->format, .jail = v->o->jail, .stopper = v->o->stopper,
		.run = v->o->run ? v->o->run : worker_run, .shared_len = sizeof(struct worker_shared), .second_fd = -1,
		.met = !f->named, .keep_cache = v->o->keep_cache, .message = look_message, .ctx = &l,
	};
	struct err why = ERR_INIT;
	int fd = verify_open(v, f, &identity), rc;

	if (fd < 0) /* it was said; as far as can be known it is one */
		return 1;
	rc = errand_run(&e, fd, f->path, &why, err);
	file_close(fd, f->path, NULL);
	if (rc < 0 && !l.enough)
		return -1;
	if (l.is_one || (rc == 0 && why.text[0] && (f->named || why.kind != ERR_PART)))
		return 1;
	v->ret->nr_not_images++;
	return 0;
}
