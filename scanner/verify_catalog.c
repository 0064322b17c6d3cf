/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/chunk/fingerprint.h"
#include "scanner/verify_parts.h"
#include "scanner/worker.h"

/*
 * Verifying against the catalog.
 *
 * The readers are those of a scan, which hand over the digest of each segment that they find; the catalog's are beside them, both
 * in order:
 *
 *	catalog	| 0 | 1 | 2 |   | 4 |		segment 1 has another digest,
 *	reader	| 0 | x | 2 | 3 |   |		3 came to be, 4 is gone: [1] and [3, 4] differ
 *
 * A segment that is stored but all zeros and one that is not stored are alike, unless a backing file shows through the latter.
 *
 * Readers may be in the hands of their image, as in a scan (scan_read.c): what they say is copied, then checked.
 */

#define KNOWN_AT_ONCE 512

/* The catalog's digests of one image, from a file without a name. */
struct known {
	int fd;
	uint64_t at;
	size_t nr, next;
	struct spool_digest items[KNOWN_AT_ONCE];
};

/* Which row the file at hand has, by its path or else by what file it is. */
struct file_row {
	uint64_t dev, ino;
	int64_t id;
	bool met;
};

struct catalog_verify {
	struct verify v;
	struct catalog *c;
	VEC(struct file_row) rows; /* beneath the roots, in order of dev and ino */
	uint8_t zeros[16];	   /* the digest of a segment of zeros */

	/* the image at hand */
	const struct catalog_image *row;
	struct verify_files files;
	struct known known;
	struct leash frames; /* what a reader may hand over */
	bool have_header;
	uint64_t span, layer;
	char header[256]; /* what it says of itself that it did not say before */
	bool lied;
	struct err lie;
	uint8_t frame[SPOOL_FRAME_MAX];
};

/* ---- segments ---- */

static int next_known(struct catalog_verify *w, const struct spool_digest **ret, struct err *err)
{
	struct known *k = &w->known;

	if (k->next == k->nr) {
		ssize_t n = file_read_some(k->fd, k->items, sizeof(k->items), k->at, err);

		if (n < 0)
			return -1;
		k->at += (uint64_t)n;
		k->nr = (size_t)n / sizeof(k->items[0]);
		k->next = 0;
	}
	*ret = k->next < k->nr ? &k->items[k->next] : NULL;
	return 0;
}

static bool has_backing(const struct catalog_verify *w)
{
	return w->row->backing && w->row->backing[0];
}

/* Is a segment of this digest as good as none? */
static bool as_none(const struct catalog_verify *w, const uint8_t digest[16])
{
	static const uint8_t vanished[16];

	return memcmp(digest, vanished, 16) == 0 || (!has_backing(w) && memcmp(digest, w->zeros, 16) == 0);
}

static int add_run(struct catalog_verify *w, uint64_t segment, struct err *err)
{
	struct verify_image *i = &w->v.image;
	uint64_t address = segment * SEGMENT_SIZE, end = max_u64(w->span, w->row->span);
	struct verify_run run = { address / w->layer, address % w->layer, SEGMENT_SIZE };
	struct verify_run *last = i->runs.nr ? &i->runs.items[i->runs.nr - 1] : NULL;

	if (address < end)
		run.len = min_u64(SEGMENT_SIZE, end - address);
	i->differs += run.len;
	if (last && i->nr_runs == i->runs.nr && last->layer == run.layer && last->offset + last->len == run.offset) {
		last->len += run.len;
		return 0;
	}
	i->nr_runs++;
	if (i->runs.nr == VERIFY_RUNS_MAX || vec_push(&i->runs, run) == 0)
		return 0;
	return err_set(err, ERR_MEMORY, "no memory for a list of differences");
}

/* Of the catalog's segments up to `segment`, those before it were not found again; 1 = it is the catalog's next. */
static int catch_up(struct catalog_verify *w, uint64_t segment, const struct spool_digest **ret, struct err *err)
{
	while (next_known(w, ret, err) == 0) {
		if (!*ret || (*ret)->segment > segment)
			return 0;
		if ((*ret)->segment == segment)
			return 1;
		if (!as_none(w, (*ret)->digest) && add_run(w, (*ret)->segment, err) < 0)
			return -1;
		w->known.next++;
	}
	return -1;
}

static int compare_segment(struct catalog_verify *w, const struct spool_segment *s, struct err *err)
{
	const struct spool_digest *was;
	int there = catch_up(w, le64_get(s->segment), &was, err);
	bool same;

	if (there < 0)
		return -1;
	same = there ? memcmp(was->digest, s->digest, 16) == 0 || (as_none(w, was->digest) && as_none(w, s->digest)) :
		       as_none(w, s->digest);
	w->known.next += (size_t)there;
	return same ? 0 : add_run(w, le64_get(s->segment), err);
}

static int compare_rest(struct catalog_verify *w, struct err *err)
{
	const struct spool_digest *was;

	return catch_up(w, UINT64_MAX, &was, err) < 0 ? -1 : 0;
}

/* ---- the reader ---- */

/* Ends the errand, and costs the image. */
static int caught(struct catalog_verify *w, const char *what, struct err *err)
{
	w->lied = true;
	err_set(&w->lie, ERR_REFUSED, "the process that read it was stopped: it %s", what);
	return err_set(err, ERR_REFUSED, "%s", w->lie.text);
}

static void note_size(struct catalog_verify *w, const char *what, uint64_t now, uint64_t was)
{
	if (now != was && !w->header[0])
		snprintf(w->header, sizeof(w->header), "%s is %llu, was %llu", what, (unsigned long long)now,
			 (unsigned long long)was);
}

static void note_text(struct catalog_verify *w, const char *what, const char *now, const char *was)
{
	if (strcmp(now, was ? was : "") != 0 && !w->header[0])
		snprintf(w->header, sizeof(w->header), "%s is '%.80s', was '%.80s'", what, now, was ? was : "");
}

/* As in a scan: what image_open() cannot have left is a lie. */
static bool header_can_be(const struct worker_image *i)
{
	return image_format_by_name(i->format) && i->span < IMAGE_SPAN_MAX && i->layer && i->layer <= IMAGE_SPAN_MAX &&
	       i->layer % IMAGE_LAYER_UNIT == 0 && i->virtual_size <= INT64_MAX / 2;
}

static int take_header(struct catalog_verify *w, struct worker_message *m, struct worker_shared *shared, struct err *err)
{
	struct worker_image *i = &m->image;

	i->format[sizeof(i->format) - 1] = i->backing[sizeof(i->backing) - 1] = '\0';
	if (w->have_header || !header_can_be(i))
		return caught(w, "told of an image that cannot be", err);
	w->have_header = true;
	w->span = i->span;
	w->layer = i->layer;
	w->v.image.size = i->virtual_size;
	note_text(w, "its format", i->format, w->row->format);
	note_size(w, "its virtual size", i->virtual_size, w->row->virtual_size);
	note_size(w, "the number of its snapshots", i->nr_snapshots, w->row->nr_snapshots);
	note_size(w, "its cluster size", i->cluster_size, w->row->cluster_size);
	note_text(w, "its backing file", i->backing, w->row->backing);
	atomic_store(&shared->limit, w->v.o->limit);
	return 0;
}

static int take_frame(struct catalog_verify *w, struct worker_message *m, int sock, struct worker_shared *shared,
		      struct err *err)
{
	uint32_t slot = m->slot, len = slot < WORKER_SLOTS ? *(volatile uint32_t *)&shared->slots[slot].len : 0;
	const struct spool_frame *frame = (const void *)w->frame;
	const struct spool_segment *s = (const void *)(w->frame + sizeof(*frame));

	if (!w->have_header || len > sizeof(w->frame))
		return caught(w, "handed over what cannot be", err);
	memcpy(w->frame, shared->slots[slot % WORKER_SLOTS].frame, len);
	if (spool_frame_check(w->frame, len, NULL) < 0)
		return caught(w, "handed over what cannot be", err);
	if (leash_take_frame(&w->frames, w->frame, w->span, &w->lie) < 0) {
		w->lied = true;
		return err_set(err, ERR_REFUSED, "%s", w->lie.text);
	}
	for (uint32_t i = 0; i < le32_get(frame->nr_segments); i++)
		if (compare_segment(w, &s[i], err) < 0)
			return -1;
	w->v.image.read += min_u64(le64_get(frame->bytes_read), (le32_get(frame->nr_segments) + 1) * SEGMENT_SIZE);
	verify_progress(&w->v, le64_get(frame->next_address), w->span);
	*m = (struct worker_message){ .kind = WORKER_FREE, .slot = slot };
	worker_send(sock, m, -1, NULL); /* one that is gone shows in the next poll */
	return 0;
}

static int take_message(void *ctx, struct worker_message *m, int sock, void *shared, struct err *err)
{
	if (m->kind == WORKER_IMAGE)
		return take_header(ctx, m, shared, err);
	if (m->kind == WORKER_FRAME)
		return take_frame(ctx, m, sock, shared, err);
	return caught(ctx, "spoke out of turn", err);
}

static int take_file(void *ctx, const struct opening *o, struct err *err)
{
	struct catalog_verify *w = ctx;

	if (o->role == IMAGE_BACKING || strcmp(o->from, w->v.image.path) != 0)
		return 0;
	leash_add_file(&w->frames, o->fd);
	return verify_files_add(&w->files, o, err);
}

static int show(void *ctx, void *shared, struct err *err)
{
	struct catalog_verify *w = ctx;
	struct worker_shared *s = shared;

	(void)err;
	verify_progress(&w->v, atomic_load(&s->address), w->span);
	return 0;
}

static uint64_t delivered(void *ctx, void *shared)
{
	const struct catalog_verify *w = ctx;

	(void)shared;
	return w->frames.delivered;
}

/* ---- one image ---- */

static bool same_files(const struct catalog_verify *w, const struct spool_identity *identity)
{
	struct fingerprint parts = catalog_parts_digest(w->files.list.items, w->files.list.nr);

	return spool_identity_equal(identity, &w->row->identity) && parts.hi == w->row->parts.hi &&
	       parts.lo == w->row->parts.lo;
}

static void judge(struct catalog_verify *w, const struct found *f, int fd, const struct spool_identity *identity)
{
	bool same = !w->v.image.nr_runs && !w->header[0], told = w->header[0];
	const char *more = told ? "; " : "";

	if (!verify_unchanged(&w->v, &w->files, fd, identity))
		verify_say(&w->v, VERIFY_CHANGED, "it changed while it was read%s%s", more, w->header);
	else if (same && f->block_device)
		verify_say(&w->v, VERIFY_OK, "%s", "");
	else if (same)
		verify_say(&w->v, VERIFY_OK, "%s", same_files(w, identity) ? "" : "its time stamps changed, its bytes did not");
	else if (f->block_device)
		verify_say(&w->v, VERIFY_CHANGED, "nothing tells when a block device changed%s%s", more, w->header);
	else if (!same_files(w, identity))
		verify_say(&w->v, VERIFY_CHANGED, "it was changed since the scan%s%s", more, w->header);
	else if (w->row->racy)
		verify_say(&w->v, VERIFY_CHANGED, "somebody could write to it when it was scanned%s%s", more, w->header);
	else
		verify_say(&w->v, VERIFY_DIFFERS, "by its time stamps it did not change since the scan%s%s", more, w->header);
}

static int read_image(struct catalog_verify *w, const struct found *f, int fd, const struct spool_identity *identity,
		      struct err *err)
{
	const struct verify_options *o = w->v.o;
	struct errand e = {
		.roots = o->roots, .jail = o->jail, .stopper = o->stopper,
		.format = o->format ? o->format : w->row->told ? w->row->format : NULL,
		.run = o->run ? o->run : worker_run, .shared_len = sizeof(struct worker_shared), .second_fd = -1,
		.keep_cache = o->keep_cache, .message = take_message, .opened = take_file, .tick = show,
		.delivered = delivered, .ctx = w,
	};
	struct err why = ERR_INIT;
	int rc;

	leash_begin(&w->frames, 0, 0);
	leash_add_file(&w->frames, fd);
	rc = errand_run(&e, fd, f->path, &why, err);
	if (rc < 0 && !w->lied)
		return -1;
	if (rc > 0 && !w->have_header)
		err_set(&why, ERR_IO, "the reader said nothing about the image");
	if (rc > 0 && w->have_header) {
		if (compare_rest(w, err) < 0)
			return -1;
		judge(w, f, fd, identity);
	} else {
		verify_say(&w->v, VERIFY_UNREAD, "%s", w->lied ? w->lie.text : why.text);
	}
	return 0;
}

static int write_known(struct catalog_verify *w, struct err *err)
{
	int dirfd = catalog_spool_dirfd(w->c);

	w->known = (struct known){ .fd = file_open(dirfd, "digests", O_RDWR | O_CREAT | O_TRUNC, 0600, err) };
	if (w->known.fd < 0 || file_unlink(dirfd, "digests", err) < 0)
		return -1;
	return catalog_write_digests(w->c, w->row->id, w->known.fd, err) < 0 ? -1 : 0;
}

static int compare_image(struct catalog_verify *w, const struct found *f, struct err *err)
{
	struct spool_identity identity;
	int fd = verify_open(&w->v, f, &identity), rc = 0;

	if (fd < 0)
		return 0;
	w->have_header = w->lied = false;
	w->header[0] = '\0';
	w->lie = ERR_INIT;
	w->span = w->layer = 0;
	w->files = (struct verify_files){ 0 };
	rc = write_known(w, err);
	if (rc == 0)
		rc = read_image(w, f, fd, &identity, err);
	if (w->known.fd >= 0)
		file_close(w->known.fd, "digests", NULL);
	verify_files_release(&w->files);
	file_close(fd, f->path, NULL);
	return rc;
}

/* ---- all images ---- */

static int by_file(const void *a, const void *b)
{
	const struct file_row *x = a, *y = b;

	if (x->dev != y->dev)
		return x->dev < y->dev ? -1 : 1;
	return x->ino == y->ino ? 0 : x->ino < y->ino ? -1 : 1;
}

static struct file_row *row_of_file(struct catalog_verify *w, const struct spool_identity *i)
{
	struct file_row key = { .dev = i->dev, .ino = i->ino };

	return w->rows.nr ? bsearch(&key, w->rows.items, w->rows.nr, sizeof(key), by_file) : NULL;
}

static int take_row(void *ctx, const struct catalog_image *i, struct err *err)
{
	struct catalog_verify *w = ctx;
	struct file_row row = { i->identity.dev, i->identity.ino, i->id, i->part_of != 0 };

	if (!roots_cover(w->v.o->roots, i->path) || vec_push(&w->rows, row) == 0)
		return 0;
	return err_set(err, ERR_MEMORY, "no memory for a list of images");
}

static void mark(struct catalog_verify *w, const struct catalog_image *image)
{
	struct file_row *row = row_of_file(w, &image->identity);

	if (row && row->id == image->id) {
		row->met = true;
		return;
	}
	for (size_t i = 0; i < w->rows.nr; i++) /* a file with several rows */
		if (w->rows.items[i].id == image->id)
			w->rows.items[i].met = true;
}

/* A file under a new name that has not changed otherwise; a new file may have the number of one that is gone. */
static bool is_moved(const struct found *f, const struct catalog_image *i)
{
	return f->identity.dev == i->identity.dev && f->identity.ino == i->identity.ino &&
	       f->identity.size == i->identity.size && f->identity.mtime == i->identity.mtime;
}

/* The row for a found file.  1 = there is one, 0 = there is none, 2 = it is that of another name of the file, which is still
 * there. */
static int find_row(struct catalog_verify *w, const struct found *f, struct catalog_image *ret, struct err *err)
{
	struct file_row *same;
	int rc = catalog_image_by_path(w->c, f->path, ret, err);

	if (rc)
		return rc;
	same = row_of_file(w, &f->identity);
	if (!same || (rc = catalog_image_by_id(w->c, same->id, ret, err)) <= 0)
		return rc;
	if (verify_is_at(ret->path, &f->identity))
		return 2;
	return is_moved(f, ret);
}

static int consider(struct catalog_verify *w, const struct found *f, struct err *err)
{
	CLEANUP(catalog_image_release) struct catalog_image row = { 0 };
	int rc = find_row(w, f, &row, err);

	verify_take(&w->v, f->path, f->file_used);
	if (rc < 0)
		return -1;
	if (rc == 2 || (rc == 1 && row.part_of)) /* it is or was seen to with another */
		return 0;
	if (rc == 0) {
		verify_say(&w->v, VERIFY_UNKNOWN, "no scan has seen it");
		rc = verify_is_image(&w->v, f, err);
		return rc <= 0 ? rc : verify_tell(&w->v, err);
	}
	mark(w, &row);
	w->row = &row;
	if (row.error)
		verify_say(&w->v, VERIFY_UNKNOWN, "the scan could not read it: %s", row.error);
	else if (!row.scanned_at)
		verify_say(&w->v, VERIFY_UNKNOWN, "no scan has read it to its end");
	else if (compare_image(w, f, err) < 0)
		return -1;
	return verify_tell(&w->v, err);
}

static int tell_missing(struct catalog_verify *w, struct err *err)
{
	for (size_t i = 0; i < w->rows.nr; i++) {
		CLEANUP(catalog_image_release) struct catalog_image row = { 0 };
		int rc;

		if (w->rows.items[i].met)
			continue;
		rc = catalog_image_by_id(w->c, w->rows.items[i].id, &row, err);
		if (rc < 0)
			return -1;
		if (rc == 0 || verify_is_at(row.path, NULL))
			continue;
		verify_take(&w->v, row.path, 0);
		verify_say(&w->v, VERIFY_MISSING, "it is gone");
		if (verify_tell(&w->v, err) < 0)
			return -1;
	}
	return 0;
}

static int by_id(const void *a, const void *b)
{
	const struct file_row *x = a, *y = b;

	return x->id == y->id ? 0 : x->id < y->id ? -1 : 1;
}

static int verify_all(struct catalog_verify *w, struct err *err)
{
	const struct fingerprint none[SEGMENT_BLOCKS] = { 0 };
	struct fingerprint zeros = fingerprint_best()->bytes(none, sizeof(none));

	le64_store(w->zeros, zeros.hi);
	le64_store(w->zeros + 8, zeros.lo);
	if (catalog_each_image(w->c, take_row, w, err) < 0)
		return -1;
	if (w->rows.nr)
		qsort(w->rows.items, w->rows.nr, sizeof(*w->rows.items), by_file);
	for (size_t i = 0; i < w->v.found.nr; i++) {
		if (stopper_says(w->v.o->stopper))
			return err_set(err, ERR_CANCELED, "stopped");
		if (consider(w, &w->v.found.items[i], err) < 0)
			return -1;
		w->v.bytes_done += w->v.found.items[i].file_used;
		w->v.images_done++;
	}
	if (w->rows.nr)
		qsort(w->rows.items, w->rows.nr, sizeof(*w->rows.items), by_id);
	return tell_missing(w, err);
}

int verify_catalog(struct catalog *c, const struct verify_options *o, struct verify_totals *ret, struct err *err)
{
	CLEANUP(free) struct catalog_verify *w = calloc(1, sizeof(*w));
	int rc;

	if (!w)
		return err_set(err, ERR_MEMORY, "no memory to verify images");
	w->c = c;
	rc = verify_begin(&w->v, o, ret, err);
	if (rc == 0)
		rc = verify_all(w, err);
	verify_end(&w->v);
	vec_release(&w->rows);
	return rc;
}
