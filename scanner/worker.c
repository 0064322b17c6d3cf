/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/worker.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "scanner/base/checked.h"
#include "scanner/base/proc.h"
#include "scanner/cache_keeper.h"
#include "scanner/chunk/fingerprint.h"
#include "scanner/opening.h"

/*
 * An image is read in pieces of 256 KiB into one buffer that stays in the level 2 cache.  Extents need not respect blocks (a
 * cluster may have 512 bytes), so a piece is assembled first: a block of which any byte is stored counts as stored, and the
 * rest of it is zeros.  Eight pieces make a segment, whose digest decides whether its requests are new.
 */

#define PIECE_SIZE ((uint64_t)256 * 1024)
#define PIECE_BLOCKS (PIECE_SIZE / BLOCK_SIZE)
#define DIGESTS_AT_ONCE 512
#define CREDIT_NS 1000000000ull /* a reader may be so far behind its limit and catch up */

struct worker {
	int sock;
	struct worker_shared *shared;
	const struct fingerprint_isa *isa;
	bool slot_busy[WORKER_SLOTS];
	unsigned slot;

	struct worker_job job;
	struct cache_keeper keeper;
	uint64_t pace_from; /* ns: when bytes began to be counted against the limit */
	uint64_t pace_bytes, pace_limit;

	/* the piece being assembled */
	uint8_t *buf;
	uint64_t piece; /* its number, UINT64_MAX = none */
	uint64_t stored; /* bit per block */

	/* the segment being gathered */
	uint64_t segment; /* its number, UINT64_MAX = none */
	unsigned nr_stored, nr_data;
	struct fingerprint fingerprints[SEGMENT_BLOCKS];

	/* digests of the last scan */
	int digests_fd;
	uint64_t digests_at;
	size_t digests_nr, digests_next;
	struct spool_digest digests[DIGESTS_AT_ONCE];

	struct spool_pending *pending;
};

/* Receives the next message but FREE, which it deals with.  The parent's end is ours. */
static int receive(struct worker *w, struct worker_message *ret, int *ret_fd, bool free_will_do, struct err *err)
{
	for (;;) {
		ssize_t n = proc_recv(w->sock, ret, sizeof(*ret), ret_fd, err);

		if (n < 0)
			return -1;
		if (n == 0)
			return err_set(err, ERR_STALE, "the parent is gone");
		if (ret->kind != WORKER_FREE)
			return 0;
		if (ret->slot < WORKER_SLOTS)
			w->slot_busy[ret->slot] = false;
		if (free_will_do)
			return 0;
	}
}

static int ask_for_file(void *ctx, enum image_role role, const char *name, const char *from_path, char *ret_path,
			struct err *err)
{
	struct worker *w = ctx;
	struct worker_message m;
	int fd;

	opening_request(&m, role, name, from_path);
	if (worker_send(w->sock, &m, -1, err) < 0 || receive(w, &m, &fd, false, err) < 0)
		return -1;
	return opening_result(&m, fd, name, ret_path, err);
}

/* ---- pace ---- */

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static bool stopped(const struct worker *w)
{
	return atomic_load_explicit(&w->shared->stop, memory_order_relaxed);
}

/* Sleeps while this worker is ahead of its limit, 50 ms at most at once so that it can be stopped. */
static void keep_pace(struct worker *w, uint64_t bytes)
{
	uint64_t limit = atomic_load_explicit(&w->shared->limit, memory_order_relaxed);

	atomic_fetch_add_explicit(&w->shared->bytes_read, bytes, memory_order_relaxed);
	if (!limit)
		return;
	if (limit != w->pace_limit) {
		w->pace_limit = limit;
		w->pace_from = now_ns();
		w->pace_bytes = 0;
	}
	w->pace_bytes += bytes;
	while (!stopped(w)) {
		uint64_t due = w->pace_from + (uint64_t)((double)w->pace_bytes * 1e9 / (double)limit), now = now_ns();
		uint64_t wait = due > now ? min_u64(due - now, 50000000) : 0;

		if (now > due + CREDIT_NS) { /* it was idle or blocked: that is not saved up */
			w->pace_from = now;
			w->pace_bytes = 0;
		}

		if (!wait)
			return;
		nanosleep(&(struct timespec){ .tv_nsec = (long)wait }, NULL);
	}
}

/* ---- frames ---- */

static int send_frame(struct worker *w, uint64_t next_address, struct err *err)
{
	struct worker_message m = { .kind = WORKER_FRAME, .slot = w->slot };
	struct worker_message reply;
	int fd;

	w->shared->slots[w->slot].len =
		(uint32_t)spool_frame_make(w->pending, next_address, w->shared->slots[w->slot].frame);
	w->slot_busy[w->slot] = true;
	if (worker_send(w->sock, &m, -1, err) < 0)
		return -1;
	w->slot = (w->slot + 1) % WORKER_SLOTS;
	while (w->slot_busy[w->slot]) {
		if (receive(w, &reply, &fd, true, err) < 0)
			return -1;
	}
	return 0;
}

static bool frame_is_full(const struct worker *w)
{
	return w->pending->nr_segments >= SPOOL_FRAME_SEGMENTS ||
	       w->pending->nr_requests + SEGMENT_BLOCKS > SPOOL_FRAME_REQUESTS ||
	       w->pending->bytes_read + SEGMENT_SIZE > w->job.frame_data;
}

/* ---- segments ---- */

/* The last scan's digest of a segment, or NULL.  Asked for in ascending order. */
static const uint8_t *old_digest(struct worker *w, uint64_t segment)
{
	while (w->digests_fd >= 0) {
		while (w->digests_next < w->digests_nr && w->digests[w->digests_next].segment < segment)
			w->digests_next++;
		if (w->digests_next < w->digests_nr)
			return w->digests[w->digests_next].segment == segment ? w->digests[w->digests_next].digest : NULL;

		ssize_t n = file_read_some(w->digests_fd, w->digests, sizeof(w->digests), w->digests_at, NULL);

		if (n < (ssize_t)sizeof(w->digests[0]))
			return NULL;
		w->digests_at += (uint64_t)n;
		w->digests_nr = (size_t)n / sizeof(w->digests[0]);
		w->digests_next = 0;
	}
	return NULL;
}

static void add_requests(struct worker *w)
{
	struct spool_pending *p = w->pending;

	for (unsigned i = 0; i < SEGMENT_BLOCKS; i++) {
		if (fingerprint_is_null(w->fingerprints[i]))
			continue;
		p->requests[p->nr_requests].f = w->fingerprints[i];
		p->requests[p->nr_requests++].block = w->segment * SEGMENT_BLOCKS + i;
	}
}

static int finish_segment(struct worker *w, struct err *err)
{
	struct spool_pending *p = w->pending;
	struct spool_segment *s = &p->segments[p->nr_segments];
	struct fingerprint digest;
	const uint8_t *old;

	if (w->segment == UINT64_MAX || w->nr_stored == 0)
		return 0;
	digest = w->isa->bytes(w->fingerprints, sizeof(w->fingerprints));
	*s = (struct spool_segment){
		.segment = le64_from(w->segment),
		.stored = le16_from((uint16_t)w->nr_stored),
		.zero = le16_from((uint16_t)(w->nr_stored - w->nr_data)),
	};
	le64_store(s->digest, digest.hi);
	le64_store(s->digest + 8, digest.lo);
	old = old_digest(w, w->segment);
	if (old && memcmp(old, s->digest, sizeof(s->digest)) == 0)
		s->flags = le16_from(SPOOL_SAME);
	else
		add_requests(w);
	p->nr_segments++;
	return frame_is_full(w) ? send_frame(w, (w->segment + 1) * SEGMENT_SIZE, err) : 0;
}

static int begin_segment(struct worker *w, uint64_t segment, struct err *err)
{
	if (finish_segment(w, err) < 0)
		return -1;
	w->segment = segment;
	w->nr_stored = w->nr_data = 0;
	memset(w->fingerprints, 0, sizeof(w->fingerprints));
	return 0;
}

/* ---- pieces ---- */

/* Fingerprints the stored blocks of the piece, run by run. */
static int finish_piece(struct worker *w, struct err *err)
{
	uint64_t segment = w->piece / (SEGMENT_SIZE / PIECE_SIZE);
	unsigned first = (unsigned)(w->piece % (SEGMENT_SIZE / PIECE_SIZE) * PIECE_BLOCKS);
	uint64_t left = w->stored;

	if (w->piece == UINT64_MAX || !left)
		return 0;
	if (segment != w->segment && begin_segment(w, segment, err) < 0)
		return -1;
	while (left) {
		unsigned from = (unsigned)__builtin_ctzll(left);
		uint64_t beyond = ~(left >> from);
		unsigned nr = beyond ? (unsigned)__builtin_ctzll(beyond) : 64;

		if (nr > PIECE_BLOCKS - from)
			nr = (unsigned)PIECE_BLOCKS - from;
		w->nr_data += (unsigned)w->isa->blocks(w->buf + (size_t)from * BLOCK_SIZE, nr, &w->fingerprints[first + from]);
		w->nr_stored += nr;
		left = from + nr >= 64 ? 0 : left & (~0ull << (from + nr));
	}
	return 0;
}

static int begin_piece(struct worker *w, uint64_t piece, struct err *err)
{
	if (finish_piece(w, err) < 0)
		return -1;
	w->piece = piece;
	w->stored = 0;
	return 0;
}

/* Marks the blocks of [offset, offset + len) of the piece as stored; those only partly covered are zeroed first. */
static void claim_blocks(struct worker *w, uint64_t offset, uint64_t len)
{
	uint64_t first = offset / BLOCK_SIZE, last = (offset + len - 1) / BLOCK_SIZE;

	for (uint64_t i = first; i <= last; i++) {
		uint64_t bit = 1ull << i;

		if (!(w->stored & bit) && (offset > i * BLOCK_SIZE || offset + len < (i + 1) * BLOCK_SIZE))
			memset(w->buf + i * BLOCK_SIZE, 0, BLOCK_SIZE);
		w->stored |= bit;
	}
}

/* Once the room for it is used up, nothing more stays in the cache. */
static bool may_stay(struct worker *w, uint64_t len)
{
	uint64_t taken = min_u64(w->job.cache_room, len);

	w->job.cache_room -= taken;
	return taken == len;
}

static int read_part(struct worker *w, const struct extent *ext, uint64_t offset, uint64_t len, struct err *err)
{
	uint64_t within = offset % PIECE_SIZE;

	claim_blocks(w, within, len);
	if (ext->kind == EXTENT_DATA && !may_stay(w, len))
		cache_keeper_before(&w->keeper, ext->file->fd, ext->file_offset + (offset - ext->offset), len);
	if (image_read_extent(ext, offset, w->buf + within, len, err) < 0)
		return -1;
	w->pending->bytes_read += len;
	keep_pace(w, len);
	return 0;
}

/* Reads the stored extent piece by piece.  1 = all of it, 0 = stopped. */
static int read_extent(struct worker *w, const struct extent *ext, struct err *err)
{
	uint64_t offset = ext->offset, end = ext->offset + ext->len;

	while (offset < end) {
		uint64_t piece = offset / PIECE_SIZE;
		uint64_t len = min_u64(end, (piece + 1) * PIECE_SIZE) - offset;

		if (stopped(w))
			return 0;
		if (piece != w->piece && begin_piece(w, piece, err) < 0)
			return -1;
		if (read_part(w, ext, offset, len, err) < 0)
			return -1;
		offset += len;
		atomic_store_explicit(&w->shared->address, offset, memory_order_relaxed);
	}
	return 1;
}

/* ---- images ---- */

/* Everything that is stored from the job's start on.  1 = done, 0 = stopped. */
static int read_image(struct worker *w, struct image *img, struct err *err)
{
	uint64_t at = w->job.start;
	int going = 1;

	w->piece = w->segment = UINT64_MAX;
	while (going > 0 && at < img->span) {
		struct extent ext;

		if (stopped(w))
			going = 0;
		else if (image_next_extent(img, at, &ext, err) < 0)
			return -1;
		else if (ext.kind == EXTENT_DATA || ext.kind == EXTENT_PACKED)
			going = read_extent(w, &ext, err);
		if (going < 0)
			return -1;
		if (going > 0)
			at = ext.offset + ext.len;
		atomic_store_explicit(&w->shared->address, at, memory_order_relaxed);
	}
	if (!going) /* the segment that is being gathered is read again next time */
		return w->pending->nr_segments &&
				       send_frame(w, (le64_get(w->pending->segments[w->pending->nr_segments - 1].segment) + 1) *
							     SEGMENT_SIZE, err) < 0
			       ? -1
			       : 0;
	if (finish_piece(w, err) < 0 || finish_segment(w, err) < 0 || send_frame(w, img->span, err) < 0)
		return -1;
	return 1;
}

static int check_unshrunk(const struct image *img, struct err *err)
{
	struct stat st;

	if (file_stat(img->file.fd, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size < img->file.size)
		return err_set(err, ERR_STALE, "the file was cut from %llu to %llu bytes while it was read",
			       (unsigned long long)img->file.size, (unsigned long long)st.st_size);
	return 0;
}

static int send_image(struct worker *w, const struct image *img, const char *warning, struct err *err)
{
	struct worker_message m = { .kind = WORKER_IMAGE };

	m.image.virtual_size = max_u64(img->size, img->info.total_size);
	m.image.span = img->span;
	m.image.layer = img->layer;
	m.image.cluster_size = img->info.cluster_size;
	m.image.file_size = img->file.size;
	m.image.nr_snapshots = img->info.nr_snapshots;
	snprintf(m.image.format, sizeof(m.image.format), "%s", img->format->name);
	snprintf(m.image.backing, sizeof(m.image.backing), "%s", img->info.backing_name);
	snprintf(m.image.features, sizeof(m.image.features), "%s", img->info.features);
	snprintf(m.image.warning, sizeof(m.image.warning), "%s", warning);
	return worker_send(w->sock, &m, -1, err);
}

static int scan_image(struct worker *w, int fd, struct err *err)
{
	struct image_opener opener = { .open = ask_for_file, .ctx = w };
	const struct image_format *format = w->job.format[0] ? image_format_by_name(w->job.format) : NULL;
	struct image_choice choice = { .doubt = "" };
	CLEANUP(image_close) struct image *img = image_open(fd, w->job.path, format, &opener, &choice, err);
	struct err chain = ERR_INIT;
	int rc;

	if (!img)
		return -1;
	if (!img->info.encrypted && image_open_chain(img, &opener, &chain) == 0)
		chain.text[0] = '\0';
	if (img->info.corrupt && !chain.text[0])
		err_set(&chain, ERR_FORMAT, "the image is marked corrupt by whoever wrote it last");
	if (choice.doubt[0] && !chain.text[0])
		err_set(&chain, ERR_FORMAT, "%s", choice.doubt);
	if (send_image(w, img, chain.text, err) < 0)
		return -1;
	rc = read_image(w, img, err);
	cache_keeper_end(&w->keeper); /* before its descriptors go */
	if (rc < 0 || check_unshrunk(img, err) < 0)
		return -1;
	return rc;
}

/* A file that was met, not named, and that no format claims: a disk has whole sectors and is not small. */
static bool may_be_raw(const struct worker *w, int fd)
{
	const char *dot = strrchr(w->job.path, '.');
	struct stat st;

	if (w->job.named || w->job.format[0] || file_stat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return true;
	if (dot && (strcasecmp(dot, ".raw") == 0 || strcasecmp(dot, ".img") == 0))
		return true;
	return st.st_size >= (off_t)MIB && st.st_size % 512 == 0;
}

/* True when the file is none of ours, which is no error. */
static bool is_no_image(const struct worker *w, int fd)
{
	struct image_file file = { .fd = fd, .path = (char *)(uintptr_t)w->job.path };
	struct image_choice choice;

	if (may_be_raw(w, fd) || image_file_size(fd, &file.size, NULL) < 0 || image_choose(&file, &choice, NULL) < 0)
		return false;
	return strcmp(choice.format->name, "raw") == 0;
}

static int serve(struct worker *w, struct worker_message *m, int fd)
{
	struct err err = ERR_INIT, lost = ERR_INIT;
	int rc;

	w->job = m->job;
	w->digests_fd = -1;
	w->digests_at = w->digests_nr = w->digests_next = 0;
	w->pending->nr_segments = w->pending->nr_requests = 0;
	w->pending->bytes_read = 0;
	if (w->job.has_digests && (receive(w, m, &w->digests_fd, false, &err) < 0 || m->kind != WORKER_DIGESTS))
		return -1;
	cache_keeper_begin(&w->keeper, w->job.keep_cache);
	if (!w->job.cache_room)
		cache_keeper_before(&w->keeper, fd, 0, 1);
	if (is_no_image(w, fd)) {
		file_close(fd, w->job.path, NULL);
		rc = -1;
	} else {
		rc = scan_image(w, fd, &err);
	}
	if (w->digests_fd >= 0)
		file_close(w->digests_fd, "digests", NULL);
	*m = (struct worker_message){ .kind = rc < 0 ? WORKER_FAILED : rc ? WORKER_DONE : WORKER_STOPPED };
	if (rc < 0)
		m->err = err;
	return worker_send(w->sock, m, -1, &lost);
}

int worker_run(int sock, void *shared, void *arg)
{
	struct worker *w = calloc(1, sizeof(*w));
	struct worker_message *m = malloc(sizeof(*m));
	struct err err = ERR_INIT;
	int fd;

	(void)arg;
	if (!w || !m)
		return 1;
	w->sock = sock;
	w->shared = shared;
	w->isa = fingerprint_best();
	w->pending = calloc(1, sizeof(*w->pending));
	w->buf = aligned_alloc(BLOCK_SIZE, PIECE_SIZE);
	if (!w->pending || !w->buf)
		return 1;
	while (receive(w, m, &fd, false, &err) == 0) {
		if (m->kind != WORKER_JOB || fd < 0 || serve(w, m, fd) < 0)
			return 1;
	}
	return 0; /* the parent hung up: no more work */
}
