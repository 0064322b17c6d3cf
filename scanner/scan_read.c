/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "scanner/base/checked.h"
#include "scanner/base/memory.h"
#include "scanner/cache_loan.h"
#include "scanner/image/codec_zstd.h"
#include "scanner/leash.h"
#include "scanner/noted.h"
#include "scanner/opening.h"
#include "scanner/scan_parts.h"

/* Reading: the parent's side of the conversation in worker.h.
 *
 * A worker may be in the hands of the image that it reads: nothing that it says or shares is believed, and one that does not make
 * sense is ended and costs the image.  What it shares is copied before it is looked at, for it may write there at any time.
 *
 * The parent opens files, answers its workers and appends their frames to spool files.  All that a kill can lose is frames not
 * yet handed over, which frame_data() bounds. */

#define LOST_MAX (224 * MIB) /* of image data may have to be read again after a kill */
#define RUNS_MAX(segments) (64 + (segments) / 512)

/* A time stamp younger than that says nothing: a write of the same moment would bear it too.  File systems that keep
 * fractions of a second have them from the kernel's tick. */
#define FRESH_NS 100000000ll
#define FRESH_COARSE_NS 2000000000ll

#define STOP_PATIENCE_NS 5000000000ull /* that a reader is given to stop by itself */

int (*scan_worker_run)(int sock, void *shared, void *arg) = worker_run;

/* One worker and what it is reading. */
struct reading {
	struct proc proc;
	const struct jail *jail;
	struct leash leash;
	bool busy;
	int fd;
	char *path;
	char name[32]; /* of the spool file: the image's id */
	int64_t id;
	bool named;
	uint64_t file_used; /* for progress */
	bool have_header;
	struct stat st; /* of the file when it was opened */
	struct scan_files files;
	struct spool_image image;
	struct spool_writer spool;
	char backing_path[PATH_MAX];
	struct worker_image says;
};

struct scan_workers {
	unsigned nr;
	struct reading *items;
	struct jail jail;
	uint64_t stop_at; /* ns: when readers that did not stop yet are ended */
	uint8_t frame[SPOOL_FRAME_MAX]; /* out of their reach */
};

/* ---- workers ---- */

static struct worker_shared *shared_of(const struct reading *r)
{
	return r->proc.shared;
}

static int start_worker(struct reading *r, struct err *err)
{
	codec_zstd_prepare();
	return proc_start(&r->proc, sizeof(struct worker_shared), r->jail, scan_worker_run, NULL, err);
}

unsigned scan_workers_count(const struct scan_workers *w)
{
	return w->nr;
}

struct scan_workers *scan_workers_new(unsigned nr, const struct jail *jail, struct err *err)
{
	CLEANUP(scan_workers_free) struct scan_workers *w = calloc(1, sizeof(*w));

	if (!w || !(w->items = calloc(nr, sizeof(*w->items))))
		return err_null(err, ERR_MEMORY, "no memory for workers");
	w->jail = *jail;
	for (w->nr = 0; w->nr < nr; w->nr++) {
		w->items[w->nr].jail = &w->jail;
		w->items[w->nr].fd = w->items[w->nr].spool.fd = -1;
		if (start_worker(&w->items[w->nr], err) < 0)
			return NULL;
	}
	return STEAL(w);
}

void scan_workers_free(struct scan_workers *w)
{
	if (!w)
		return;
	for (unsigned i = 0; i < w->nr; i++)
		proc_end(&w->items[i].proc, 1, NULL, 0);
	free(w->items);
	free(w);
}

/* ---- progress and stop ---- */

static uint64_t bytes_counted(struct scan *s)
{
	uint64_t done = s->bytes_done;

	for (unsigned i = 0; i < s->w->nr; i++) {
		struct reading *r = &s->w->items[i];

		if (r->busy && r->image.span) {
			double at = (double)atomic_load_explicit(&shared_of(r)->address, memory_order_relaxed);

			done += (uint64_t)((double)r->file_used *
					   (at < (double)r->image.span ? at / (double)r->image.span : 1));
		}
	}
	return done;
}

void scan_look_at_clock(struct scan *s)
{
	if (s->stopping || !stopper_says(s->o->stopper))
		return;
	s->stopping = true;
	for (unsigned i = 0; i < s->w->nr; i++)
		if (s->w->items[i].busy)
			atomic_store(&shared_of(&s->w->items[i])->stop, 1);
}

/* ---- one image: its end ---- */

static void forget(struct scan *s, struct reading *r)
{
	if (r->fd >= 0)
		file_close(r->fd, r->path, NULL);
	spool_writer_release(&r->spool);
	free(r->path);
	scan_files_release(&r->files);
	r->path = NULL;
	r->fd = -1;
	r->busy = false;
	s->bytes_done += r->file_used;
	s->images_done++;
}

static int64_t realtime_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static uint64_t monotonic_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static bool too_fresh(const struct spool_identity *i, int64_t now)
{
	return now - i->ctime < (i->ctime % 1000000000 ? FRESH_NS : FRESH_COARSE_NS);
}

static int drop_part(struct scan *s, const struct reading *r, struct err *err)
{
	char part[40];

	snprintf(part, sizeof(part), "%s.part", r->name);
	return file_unlink(catalog_spool_dirfd(s->c), part, err);
}

static int image_failed(struct scan *s, struct reading *r, const struct err *why, struct err *err)
{
	int rc = drop_part(s, r, err);

	r->image.racy |= r->files.list.nr != 0; /* whatever it is, another file may be the reason */
	s->ret->nr_failed++;
	scan_tell_problem(s, r->path, why);
	if (rc == 0)
		rc = catalog_begin(s->c, err);
	if (rc == 0 && ((rc = catalog_image_failed(s->c, r->id, &r->image, r->says.format, why, err)) < 0 ||
			(rc = catalog_image_set_used(s->c, r->id, r->file_used, err)) < 0))
		catalog_rollback(s->c);
	if (rc == 0)
		rc = catalog_commit(s->c, err);
	forget(s, r);
	return rc;
}

/* A file met in a directory that no format claims and that cannot be a disk either, or that is a part of another image. */
static int not_an_image(struct scan *s, struct reading *r, bool is_part, struct err *err)
{
	int rc = drop_part(s, r, err);

	if (rc == 0 && is_part)
		rc = scan_files_add(&s->strays, &r->image.identity, r->path, err);
	s->ret->nr_not_images++;
	s->ret->nr_images--;
	if (rc == 0 && vec_push(&s->not_images, r->id) < 0)
		rc = err_set(err, ERR_MEMORY, "no memory for a list of files");
	forget(s, r);
	return rc;
}

static void set_texts(struct reading *r)
{
	const char *texts[SPOOL_NR_TEXTS] = {
		[SPOOL_PATH] = r->path,
		[SPOOL_FORMAT] = r->says.format,
		[SPOOL_BACKING] = r->says.backing,
		[SPOOL_BACKING_PATH] = r->backing_path,
		[SPOOL_FEATURES] = r->says.features,
		[SPOOL_WARNING] = r->says.warning,
	};

	spool_set_texts(&r->image, texts);
}

static int image_done(struct scan *s, struct reading *r, struct err *err)
{
	struct spool_identity now = { 0 };
	struct err why = ERR_INIT;
	struct stat st;

	if (!r->have_header) {
		err_set(&why, ERR_IO, "the reader said nothing about the image");
		return image_failed(s, r, &why, err);
	}
	if (fstat(r->fd, &st) == 0)
		now = spool_identity_of(&st);
	if (!spool_identity_equal(&now, &r->image.identity) || !scan_files_unchanged(s, &r->files)) {
		r->image.racy = 1;
		snprintf(r->says.warning, sizeof(r->says.warning),
			 "it changed while it was read; it will be read again next time");
	}
	set_texts(r);
	if (r->says.warning[0]) {
		err_set(&why, ERR_STALE, "%s", r->says.warning);
		scan_tell_problem(s, r->path, &why);
	}
	s->ret->nr_read++;
	if (spool_commit(&r->spool, catalog_spool_dirfd(s->c), r->name, &r->image, err) < 0)
		return -1;
	if (vec_push(&s->own.images, r->id) < 0)
		return err_set(err, ERR_MEMORY, "no memory for a list of images");
	syncer_add(s->own.syncer, STEAL_FD(r->spool.fd), r->name);
	forget(s, r);
	return 0;
}

static int worker_died(struct scan *s, struct reading *r, struct err *err)
{
	char how[128];
	struct err why = ERR_INIT;

	proc_end(&r->proc, 1, how, sizeof(how));
	if (start_worker(r, err) < 0)
		return -1;
	if (!r->busy)
		return 0;
	err_set(&why, ERR_IO, "the process that read it died (%s)", how);
	return image_failed(s, r, &why, err);
}

/* It lies or takes more than its image is worth: out with it. */
static int put_out(struct scan *s, struct reading *r, const struct err *why, struct err *err)
{
	proc_end(&r->proc, 1, NULL, 0);
	if (start_worker(r, err) < 0)
		return -1;
	return r->busy ? image_failed(s, r, why, err) : 0;
}

static int put_out_liar(struct scan *s, struct reading *r, const char *what, struct err *err)
{
	struct err why = ERR_INIT;

	err_set(&why, ERR_REFUSED, "the process that read it was stopped: it %s", what);
	return put_out(s, r, &why, err);
}

/* ---- one image: messages ---- */

/* Another file that the image lies in: what changes it changes the image, and so does a symbolic link on the way to it: the path
 * is as the image names it. */
static int take_file(struct reading *r, int fd, const char *path, struct err *err)
{
	struct spool_identity identity;
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_errno(err, "cannot look at '%s'", path);
	identity = spool_identity_of(&st);
	if (scan_files_have(&r->files, &identity))
		return 0;
	r->image.file_used += (uint64_t)st.st_blocks * 512;
	r->image.racy |= too_fresh(&identity, realtime_ns()) || scan_open_for_writing(fd);
	return scan_files_add(&r->files, &identity, path, err);
}

static int answer_open(struct scan *s, struct reading *r, struct err *err)
{
	char joined[ROOTS_JOINED_MAX];
	struct err why = ERR_INIT;
	struct opening o;
	int rc = 0;

	if (opening_answer(r->proc.sock, &s->m, s->o->roots, &r->st, &r->leash, &o, &why) < 0)
		return why.kind == ERR_REFUSED ? put_out(s, r, &why, err) : put_out_liar(s, r, "does not listen", err);
	if (o.fd >= 0 && o.role != IMAGE_BACKING && strcmp(o.from, r->path) == 0 &&
	    (rc = roots_join_named(o.role, o.name, o.from, joined, err)) == 0)
		rc = take_file(r, o.fd, joined, err);
	if (o.fd >= 0)
		file_close(o.fd, o.path, NULL);
	return rc;
}

/* Also that there are none: files that it lay in before are no longer its own. */
static int record_files(struct scan *s, struct reading *r, struct err *err)
{
	bool had_some;

	if (catalog_has_parts(s->c, r->id, &had_some, err) < 0)
		return -1;
	if (!had_some && !r->files.list.nr)
		return 0;
	if (catalog_begin(s->c, err) < 0)
		return -1;
	if (catalog_set_parts(s->c, r->id, r->files.list.items, r->files.list.nr, err) < 0) {
		catalog_rollback(s->c);
		return -1;
	}
	return catalog_commit(s->c, err);
}

/* What an earlier run began is gone on with, if it was of the same files. */
static int go_on(struct scan *s, struct reading *r, struct err *err)
{
	struct fingerprint f = scan_files_digest(&r->files);
	struct err why = ERR_INIT;

	if (f.hi == r->image.parts.hi && f.lo == r->image.parts.lo)
		return 0;
	err_set(&why, ERR_STALE, "a file that it lies in was replaced while it was opened");
	proc_end(&r->proc, 1, NULL, 0);
	return start_worker(r, err) < 0 ? -1 : image_failed(s, r, &why, err);
}

/* As image_open() leaves it, and not less than what an earlier run read of it. */
static bool header_can_be(const struct reading *r, const struct worker_image *i)
{
	return image_format_by_name(i->format) && i->span < IMAGE_SPAN_MAX && i->layer && i->layer <= IMAGE_SPAN_MAX &&
	       i->layer % IMAGE_LAYER_UNIT == 0 && i->virtual_size <= INT64_MAX / 2 && i->cluster_size <= IMAGE_SPAN_MAX &&
	       r->leash.next_segment <= div_up(i->span, SEGMENT_SIZE);
}

static int take_header(struct scan *s, struct reading *r, struct err *err)
{
	struct worker_image *i = &s->m.image;
	char *texts[] = { i->format, i->backing, i->features, i->warning };
	size_t rooms[] = { sizeof(i->format), sizeof(i->backing), sizeof(i->features), sizeof(i->warning) };

	for (size_t n = 0; n < ARRAY_SIZE(texts); n++)
		texts[n][rooms[n] - 1] = '\0';
	if (r->have_header || !header_can_be(r, i))
		return put_out_liar(s, r, "told of an image that cannot be", err);
	r->says = *i;
	r->image.virtual_size = i->virtual_size;
	r->image.span = i->span;
	r->image.layer = i->layer;
	r->image.cluster_size = i->cluster_size;
	r->image.nr_snapshots = i->nr_snapshots;
	r->have_header = true;
	scan_resolve_backing(i->backing, r->path, r->backing_path);
	set_texts(r);
	if (r->spool.fd >= 0)
		return go_on(s, r, err);
	r->image.parts = scan_files_digest(&r->files);
	if (record_files(s, r, err) < 0)
		return -1;
	return spool_create(&r->spool, catalog_spool_dirfd(s->c), r->name, &r->image, err);
}

static int take_frame(struct scan *s, struct reading *r, struct err *err)
{
	struct worker_shared *shared = shared_of(r);
	uint32_t slot = s->m.slot, len = slot < WORKER_SLOTS ? *(volatile uint32_t *)&shared->slots[slot].len : 0;
	const struct spool_frame *frame = (const void *)s->w->frame;
	struct err why = ERR_INIT;

	if (!r->have_header || len > sizeof(s->w->frame))
		return put_out_liar(s, r, "handed over what cannot be", err);
	memcpy(s->w->frame, shared->slots[slot % WORKER_SLOTS].frame, len);
	if (spool_frame_check(s->w->frame, len, &why) < 0)
		return put_out_liar(s, r, "handed over what cannot be", err);
	if (leash_take_frame(&r->leash, s->w->frame, r->image.span, &why) < 0)
		return put_out(s, r, &why, err);
	if (spool_append(&r->spool, s->w->frame, len, err) < 0)
		return -1;
	s->ret->bytes_read += min_u64(le64_get(frame->bytes_read), (le32_get(frame->nr_segments) + 1) * SEGMENT_SIZE);
	s->m.kind = WORKER_FREE;
	if (worker_send(r->proc.sock, &s->m, -1, &why) < 0 && why.kind != ERR_STALE)
		return put_out_liar(s, r, "does not listen", err);
	return 0; /* one that is gone shows in the next poll */
}

static int stopped_reading(struct scan *s, struct reading *r)
{
	forget(s, r);
	return 0;
}

static int handle(struct scan *s, struct reading *r, struct err *err)
{
	int fd = -1;
	ssize_t n = proc_recv(r->proc.sock, &s->m, sizeof(s->m), &fd, NULL);

	if (fd >= 0)
		file_close(fd, "a worker's file", NULL);
	if (n <= 0)
		return worker_died(s, r, err);
	if (!r->busy || (size_t)n < sizeof(s->m.kind) || (size_t)n < worker_message_len(s->m.kind))
		return put_out_liar(s, r, "spoke out of turn", err);
	switch (s->m.kind) {
	case WORKER_OPEN:
		return answer_open(s, r, err);
	case WORKER_IMAGE:
		return take_header(s, r, err);
	case WORKER_FRAME:
		return take_frame(s, r, err);
	case WORKER_DONE:
		return image_done(s, r, err);
	case WORKER_STOPPED:
		return s->stopping ? stopped_reading(s, r) : put_out_liar(s, r, "stopped unasked", err);
	case WORKER_FAILED:
		s->m.err.text[sizeof(s->m.err.text) - 1] = '\0';
		if ((unsigned)s->m.err.kind > ERR_USAGE)
			s->m.err.kind = ERR_IO;
		if (s->m.err.kind == ERR_NONE || (s->m.err.kind == ERR_PART && !r->named))
			return not_an_image(s, r, s->m.err.kind == ERR_PART, err);
		struct err why = s->m.err;

		return image_failed(s, r, &why, err);
	default:
		return put_out_liar(s, r, "spoke out of turn", err);
	}
}

/* Those that read share the limit. */
static void share_limit(struct scan *s)
{
	unsigned nr_busy = 0;

	for (unsigned i = 0; i < s->w->nr; i++)
		nr_busy += s->w->items[i].busy;
	for (unsigned i = 0; s->o->limit && i < s->w->nr; i++)
		if (s->w->items[i].busy)
			atomic_store(&shared_of(&s->w->items[i])->limit, max_u64(s->o->limit / nr_busy, 1));
}

static int look_at_leashes(struct scan *s, struct err *err)
{
	for (unsigned i = 0; i < s->w->nr; i++) {
		struct reading *r = &s->w->items[i];
		struct err why = ERR_INIT;

		if (r->busy && leash_check(&r->leash, &why) < 0 && put_out(s, r, &why, err) < 0)
			return -1;
	}
	return 0;
}

/* What the others handed over so far is kept as if they had stopped. */
static void end_those_that_do_not_stop(struct scan *s)
{
	uint64_t now = monotonic_ns();

	if (s->stopping && !s->w->stop_at)
		s->w->stop_at = now + STOP_PATIENCE_NS;
	for (unsigned i = 0; i < s->w->nr && s->stopping && now > s->w->stop_at; i++) {
		if (s->w->items[i].busy) {
			proc_end(&s->w->items[i].proc, 1, NULL, 0);
			stopped_reading(s, &s->w->items[i]);
		}
	}
}

/* Deals with what workers say; waits for it at most `ms`. */
static int pump(struct scan *s, int ms, struct err *err)
{
	CLEANUP(free) struct pollfd *fds = calloc(s->w->nr, sizeof(*fds));

	if (!fds)
		return err_set(err, ERR_MEMORY, "no memory to poll workers");
	for (unsigned i = 0; i < s->w->nr; i++)
		fds[i] = (struct pollfd){ .fd = s->w->items[i].proc.sock, .events = POLLIN };
	if (poll(fds, s->w->nr, ms) < 0 && errno != EINTR)
		return err_errno(err, "cannot wait for workers");
	for (unsigned i = 0; i < s->w->nr; i++)
		if (fds[i].revents && handle(s, &s->w->items[i], err) < 0)
			return -1;
	if (look_at_leashes(s, err) < 0)
		return -1;
	scan_look_at_clock(s);
	end_those_that_do_not_stop(s);
	share_limit(s);
	scan_tell_progress(s, "reading", bytes_counted(s), s->bytes_total);
	return 0;
}

static struct reading *idle_worker(struct scan *s)
{
	for (unsigned i = 0; i < s->w->nr; i++)
		if (!s->w->items[i].busy)
			return &s->w->items[i];
	return NULL;
}

/* ---- one image: its beginning ---- */

/* A file of its own for what the catalog knows of the segments; -1 with no error when a fresh start is better. */
static int make_digests(struct scan *s, const struct catalog_image *image, struct err *err)
{
	uint64_t nr_runs;
	ssize_t nr;
	int fd;

	if (!image->scanned_at || image->error)
		return -1;
	if (catalog_count_runs(s->c, image->id, &nr_runs, err) < 0)
		return -2;
	if (!nr_runs || nr_runs > RUNS_MAX(image->span / SEGMENT_SIZE))
		return -1;
	fd = file_open(catalog_spool_dirfd(s->c), "digests", O_RDWR | O_CREAT | O_TRUNC, 0600, err);
	if (fd < 0)
		return -2;
	nr = catalog_write_digests(s->c, image->id, fd, err);
	if (file_unlink(catalog_spool_dirfd(s->c), "digests", err) < 0 || nr < 0) {
		file_close(fd, "digests", NULL);
		return -2;
	}
	return fd;
}

static uint64_t frame_data(const struct scan *s)
{
	return max_u64(LOST_MAX / (s->w->nr * (WORKER_SLOTS + 1)), 2 * SEGMENT_SIZE);
}

static int send_job(struct scan *s, struct reading *r, int digests_fd, struct err *err)
{
	const char *format = s->o->format ? s->o->format : noted_format(r->fd);
	struct worker_message *m = &s->m;

	*m = (struct worker_message){ .kind = WORKER_JOB };
	m->job.start = r->spool.next_address;
	m->job.frame_data = frame_data(s);
	m->job.keep_cache = s->o->keep_cache;
	m->job.cache_room = cache_loan_take(s->o->loan, r->fd, r->file_used);
	m->job.has_digests = digests_fd >= 0;
	m->job.named = r->named;
	snprintf(m->job.format, sizeof(m->job.format), "%s", format ? format : "");
	snprintf(m->job.path, sizeof(m->job.path), "%s", r->path);
	atomic_store(&shared_of(r)->stop, 0);
	atomic_store(&shared_of(r)->address, 0);
	atomic_store(&shared_of(r)->limit, s->o->limit ? max_u64(s->o->limit / s->w->nr, 1) : 0);
	if (worker_send(r->proc.sock, m, r->fd, err) < 0)
		return -1;
	m->kind = WORKER_DIGESTS;
	return digests_fd >= 0 ? worker_send(r->proc.sock, m, digests_fd, err) : 0;
}

static void begin_reading(struct scan *s, struct reading *r, const struct found *f, const struct catalog_image *image)
{
	r->busy = true;
	r->fd = -1;
	r->id = image->id;
	r->named = f->named;
	r->file_used = f->file_used;
	r->have_header = false;
	r->backing_path[0] = '\0';
	r->says = (struct worker_image){ 0 };
	r->spool = (struct spool_writer){ .fd = -1 };
	r->image = (struct spool_image){ .identity = f->identity, .base = image->base, .file_used = f->file_used };
	r->image.told = s->o->format != NULL;
	snprintf(r->name, sizeof(r->name), "%lld", (long long)image->id);
}

static int resume_or_not(struct scan *s, struct reading *r, bool block_device, struct err *err)
{
	struct spool_image old;
	int rc = spool_resume(&r->spool, catalog_spool_dirfd(s->c), r->name, &r->image.identity, r->image.base, &old,
			      err);

	/* Of a device the time stamps do not tell whether it is the same still. */
	if (rc > 0 && (block_device || !scan_files_as_known(s, r->id, old.parts) ||
		       !scan_told_the_same(s, old.told, spool_text(&old, SPOOL_FORMAT)))) {
		spool_writer_release(&r->spool);
		rc = 0;
	}
	if (rc > 0) {
		r->image = old;
		r->image.file_used = r->file_used;
	}
	if (rc == 0)
		r->spool = (struct spool_writer){ .fd = -1 };
	return rc < 0 ? -1 : 0;
}

static int begin_image(struct scan *s, const struct found *f, const struct catalog_image *image, struct err *err)
{
	struct reading *r = idle_worker(s);
	struct err why = ERR_INIT;
	int digests_fd, rc;

	begin_reading(s, r, f, image);
	r->path = strdup(f->path);
	if (!r->path)
		return err_set(err, ERR_MEMORY, "no memory for a path");
	r->fd = roots_open_found(s->o->roots, f, &why);
	if (r->fd < 0)
		return image_failed(s, r, &why, err);
	if (fstat(r->fd, &r->st) == 0)
		r->image.identity = spool_identity_of(&r->st);
	if (resume_or_not(s, r, f->block_device, err) < 0)
		return -1;
	r->image.racy = too_fresh(&r->image.identity, realtime_ns()) || scan_open_for_writing(r->fd);
	digests_fd = make_digests(s, image, err);
	if (digests_fd == -2)
		return -1;
	leash_begin(&r->leash, r->proc.pid, r->spool.next_address);
	leash_add_file(&r->leash, r->fd);
	rc = send_job(s, r, digests_fd, &why);
	if (digests_fd >= 0)
		file_close(digests_fd, "digests", NULL);
	if (rc < 0 && why.kind != ERR_STALE) /* a worker that is gone shows in the next poll */
		return put_out_liar(s, r, "does not listen", err);
	return 0;
}

int scan_read(struct scan *s, const struct found *f, const struct catalog_image *image, struct err *err)
{
	do {
		if (pump(s, idle_worker(s) ? 0 : SCAN_POLL_MS, err) < 0)
			return -1;
	} while (!s->stopping && !idle_worker(s));
	return s->stopping ? 1 : begin_image(s, f, image, err);
}

static bool any_busy(const struct scan *s)
{
	for (unsigned i = 0; i < s->w->nr; i++)
		if (s->w->items[i].busy)
			return true;
	return false;
}

int scan_read_rest(struct scan *s, struct err *err)
{
	while (any_busy(s))
		if (pump(s, SCAN_POLL_MS, err) < 0)
			return -1;
	return 0;
}

void scan_end_workers(struct scan *s)
{
	uint64_t memory = memory_of(getpid(), "VmHWM");

	for (unsigned i = 0; i < s->w->nr; i++) {
		if (s->w->items[i].proc.pid)
			memory += memory_of(s->w->items[i].proc.pid, "VmHWM");
		proc_end(&s->w->items[i].proc, 1, NULL, 0);
		if (s->w->items[i].path)
			forget(s, &s->w->items[i]);
	}
	s->ret->reading_memory = max_u64(s->ret->reading_memory, memory);
}
