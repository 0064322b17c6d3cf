/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/index/spool.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scanner/base/vec.h"
#include "scanner/index/checksum.h"

/*
 *	header, 8 KiB + 512   frame: {spool_frame | segments | 257 ends of slices | requests}   frame ...   end frame
 *
 * The header has a fixed length because its last words (warning, racy) are known only at the end, when it is written again.  A
 * torn rewrite shows in its checksum, and the image is read again.
 */

#define SPOOL_VERSION 1u

struct spool_header {
	uint8_t magic[8]; /* "DDSPOOL\n" */
	le32 version, slices;
	le64 dev, ino, size, mtime, ctime;
	uint8_t parts[16], unused[24];
	le64 base, virtual_size, span, layer, file_used, cluster_size;
	le32 nr_snapshots, racy, told;
	uint8_t reserved[352];
	le32 checksum; /* of all else, as if it were 0 */
	char texts[SPOOL_TEXT_MAX];
};

_Static_assert(sizeof(struct spool_header) == 512 + SPOOL_TEXT_MAX, "spool header");
_Static_assert(sizeof(struct spool_segment) == 32, "spool segment");
_Static_assert(sizeof(struct spool_request) == 18, "spool request");
_Static_assert(sizeof(struct spool_frame) == 48, "spool frame");

struct spool_identity spool_identity_of(const struct stat *st)
{
	return (struct spool_identity){
		.dev = st->st_dev,
		.ino = st->st_ino,
		.size = (uint64_t)st->st_size,
		.mtime = (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec,
		.ctime = (int64_t)st->st_ctim.tv_sec * 1000000000 + st->st_ctim.tv_nsec,
	};
}

const char *spool_text(const struct spool_image *image, enum spool_text which)
{
	const char *p = image->texts, *end = image->texts + sizeof(image->texts);

	for (unsigned i = 0; i < which && p < end; i++)
		p += strnlen(p, (size_t)(end - p)) + 1;
	return p < end ? p : "";
}

void spool_set_texts(struct spool_image *image, const char *const texts[SPOOL_NR_TEXTS])
{
	char *p = image->texts, *end = image->texts + sizeof(image->texts);

	memset(image->texts, 0, sizeof(image->texts));
	for (unsigned i = 0; i < SPOOL_NR_TEXTS; i++) {
		size_t room = (size_t)(end - p) - (SPOOL_NR_TEXTS - i);
		size_t len = strnlen(texts[i], room);

		memcpy(p, texts[i], len);
		p += len + 1;
	}
}

/* ---- frames ---- */

static uint32_t frame_header_checksum(const struct spool_frame *f)
{
	return checksum32(f, offsetof(struct spool_frame, header_checksum), 0);
}

static void put_request(struct spool_request *r, struct fingerprint f, uint64_t block)
{
	r->hi = le64_from(f.hi);
	r->mid = le64_from((f.lo & KEY_LO_MASK) | (block & ~KEY_LO_MASK));
	r->block_hi = le16_from((uint16_t)(block >> 24));
}

static uint8_t *put_requests(const struct spool_pending *p, uint8_t *at)
{
	uint32_t next[SPOOL_SLICES + 1] = { 0 };
	struct spool_request *requests = (void *)(at + sizeof(next));

	for (uint32_t i = 0; i < p->nr_requests; i++)
		next[(p->requests[i].f.hi >> 56) + 1]++;
	for (unsigned i = 0; i < SPOOL_SLICES; i++)
		next[i + 1] += next[i];
	for (unsigned i = 0; i <= SPOOL_SLICES; i++)
		le32_store(at + i * sizeof(le32), next[i]);
	for (uint32_t i = 0; i < p->nr_requests; i++)
		put_request(&requests[next[p->requests[i].f.hi >> 56]++], p->requests[i].f, p->requests[i].block);
	return (uint8_t *)(requests + p->nr_requests);
}

size_t spool_frame_make(struct spool_pending *p, uint64_t next_address, uint8_t *ret)
{
	struct spool_frame *f = (void *)ret;
	uint8_t *payload = ret + sizeof(*f), *at = payload;
	size_t len;

	memcpy(at, p->segments, p->nr_segments * sizeof(p->segments[0]));
	at = put_requests(p, at + p->nr_segments * sizeof(p->segments[0]));
	len = (size_t)(at - payload);
	*f = (struct spool_frame){
		.magic = "DDSF",
		.kind = le32_from(SPOOL_FRAME_DATA),
		.payload_len = le64_from(len),
		.next_address = le64_from(next_address),
		.bytes_read = le64_from(p->bytes_read),
		.nr_segments = le32_from(p->nr_segments),
		.nr_requests = le32_from(p->nr_requests),
		.checksum = le32_from(checksum32(payload, len, 0)),
	};
	f->header_checksum = le32_from(frame_header_checksum(f));
	p->nr_segments = p->nr_requests = 0;
	p->bytes_read = 0;
	return sizeof(*f) + len;
}

static int frame_header_check(const struct spool_frame *f, struct err *err)
{
	uint64_t segments = le32_get(f->nr_segments), requests = le32_get(f->nr_requests);
	uint64_t len = segments * sizeof(struct spool_segment) + (SPOOL_SLICES + 1) * sizeof(le32) +
		       requests * sizeof(struct spool_request);

	if (memcmp(f->magic, "DDSF", 4) != 0 || le32_get(f->header_checksum) != frame_header_checksum(f))
		return err_set(err, ERR_FORMAT, "a spool frame is damaged");
	if (le32_get(f->kind) == SPOOL_FRAME_END && !segments && !requests && !le64_get(f->payload_len))
		return 0;
	if (le32_get(f->kind) != SPOOL_FRAME_DATA || segments > SPOOL_FRAME_SEGMENTS || requests > SPOOL_FRAME_REQUESTS ||
	    le64_get(f->payload_len) != len)
		return err_set(err, ERR_FORMAT, "a spool frame has lengths that cannot be");
	return 0;
}

static int segments_check(const struct spool_segment *s, uint32_t nr, struct err *err)
{
	for (uint32_t i = 0; i < nr; i++) {
		if (le16_get(s[i].stored) > SEGMENT_BLOCKS || le16_get(s[i].zero) > le16_get(s[i].stored) ||
		    le64_get(s[i].segment) >= (uint64_t)1 << 31)
			return err_set(err, ERR_FORMAT, "a spool frame has a segment that cannot be");
		if (i > 0 && le64_get(s[i].segment) <= le64_get(s[i - 1].segment))
			return err_set(err, ERR_FORMAT, "the segments of a spool frame are out of order");
	}
	return 0;
}

static int slices_check(const uint8_t *ends, uint32_t nr_requests, struct err *err)
{
	uint32_t last = 0;

	for (unsigned i = 0; i <= SPOOL_SLICES; i++) {
		uint32_t end = le32_load(ends + i * sizeof(le32));

		if (end < last || (i == 0 && end != 0))
			return err_set(err, ERR_FORMAT, "the slices of a spool frame are out of order");
		last = end;
	}
	return last == nr_requests ? 0 : err_set(err, ERR_FORMAT, "the slices of a spool frame do not add up");
}

static uint64_t request_block(const struct spool_request *r)
{
	return (le64_get(r->mid) & ~KEY_LO_MASK) | (uint64_t)le16_get(r->block_hi) << 24;
}

/* The requests of one slice: they belong there, ascend, and lie in segments of this frame that changed. */
static int slice_check(const struct spool_request *r, uint32_t nr, unsigned slice, const struct spool_segment *s,
		       uint32_t nr_segments, struct err *err)
{
	uint64_t next = 0;

	for (uint32_t i = 0; i < nr; i++) {
		uint64_t block = request_block(&r[i]), segment = block / SEGMENT_BLOCKS;

		for (; nr_segments && le64_get(s->segment) < segment; s++)
			nr_segments--;
		if (!nr_segments || le64_get(s->segment) != segment || (le16_get(s->flags) & SPOOL_SAME) || block < next ||
		    le64_get(r[i].hi) >> 56 != slice)
			return err_set(err, ERR_FORMAT, "a spool frame has a request that cannot be");
		next = block + 1;
	}
	return 0;
}

/* What a scan of a new image gives: segments without a gap, all changed.  Their requests are checked without looking for the
 * segment of each. */
static bool segments_are_plain(const struct spool_segment *s, uint32_t nr)
{
	uint32_t flags = 0;

	for (uint32_t i = 0; i < nr; i++)
		flags |= le16_get(s[i].flags);
	return nr && !flags && le64_get(s[nr - 1].segment) - le64_get(s[0].segment) == nr - 1;
}

static int plain_slice_check(const struct spool_request *r, uint32_t nr, unsigned slice, const struct spool_segment *s,
			     uint32_t nr_segments, struct err *err)
{
	uint64_t first = le64_get(s[0].segment) * SEGMENT_BLOCKS, next = first, wrong = 0;

	for (uint32_t i = 0; i < nr; i++) {
		uint64_t block = request_block(&r[i]);

		wrong |= (le64_get(r[i].hi) >> 56 ^ slice) | (block < next);
		next = block + 1;
	}
	if (wrong || next > first + (uint64_t)nr_segments * SEGMENT_BLOCKS)
		return err_set(err, ERR_FORMAT, "a spool frame has a request that cannot be");
	return 0;
}

static int requests_check(const struct spool_segment *segments, uint32_t nr_segments, const uint8_t *ends, struct err *err)
{
	const struct spool_request *requests = (const void *)(ends + (SPOOL_SLICES + 1) * sizeof(le32));
	bool plain = segments_are_plain(segments, nr_segments);

	for (unsigned i = 0; i < SPOOL_SLICES; i++) {
		uint32_t from = le32_load(ends + i * sizeof(le32)), to = le32_load(ends + (i + 1) * sizeof(le32));

		if ((plain ? plain_slice_check : slice_check)(requests + from, to - from, i, segments, nr_segments, err) < 0)
			return -1;
	}
	return 0;
}

int spool_frame_check(const uint8_t *frame, size_t len, struct err *err)
{
	const struct spool_frame *f = (const void *)frame;
	const struct spool_segment *segments = (const void *)(frame + sizeof(*f));
	const uint8_t *ends;

	if (len < sizeof(*f))
		return err_set(err, ERR_FORMAT, "a spool frame is cut short");
	if (frame_header_check(f, err) < 0)
		return -1;
	if (len != sizeof(*f) + le64_get(f->payload_len))
		return err_set(err, ERR_FORMAT, "a spool frame is cut short");
	if (le32_get(f->kind) == SPOOL_FRAME_END)
		return 0;
	ends = (const uint8_t *)(segments + le32_get(f->nr_segments));
	if (segments_check(segments, le32_get(f->nr_segments), err) < 0 || slices_check(ends, le32_get(f->nr_requests), err) < 0)
		return -1;
	return requests_check(segments, le32_get(f->nr_segments), ends, err);
}

/* ---- the header ---- */

static uint32_t header_checksum(struct spool_header *h)
{
	h->checksum = le32_from(0);
	return checksum32(h, sizeof(*h), 0);
}

static void header_encode(const struct spool_image *i, struct spool_header *h)
{
	*h = (struct spool_header){
		.magic = "DDSPOOL",
		.version = le32_from(SPOOL_VERSION),
		.slices = le32_from(SPOOL_SLICES),
		.dev = le64_from(i->identity.dev),
		.ino = le64_from(i->identity.ino),
		.size = le64_from(i->identity.size),
		.mtime = le64_from((uint64_t)i->identity.mtime),
		.ctime = le64_from((uint64_t)i->identity.ctime),
		.base = le64_from(i->base),
		.virtual_size = le64_from(i->virtual_size),
		.span = le64_from(i->span),
		.layer = le64_from(i->layer),
		.file_used = le64_from(i->file_used),
		.cluster_size = le64_from(i->cluster_size),
		.nr_snapshots = le32_from(i->nr_snapshots),
		.racy = le32_from(i->racy),
		.told = le32_from(i->told),
	};
	h->magic[7] = '\n';
	le64_store(h->parts, i->parts.hi);
	le64_store(h->parts + 8, i->parts.lo);
	memcpy(h->texts, i->texts, sizeof(h->texts));
	h->checksum = le32_from(header_checksum(h));
}

static int header_decode(struct spool_header *h, struct spool_image *ret, struct err *err)
{
	uint32_t sum = le32_get(h->checksum);

	if (memcmp(h->magic, "DDSPOOL\n", 8) != 0)
		return err_set(err, ERR_FORMAT, "not a spool file");
	if (le32_get(h->version) > SPOOL_VERSION)
		return err_set(err, ERR_UNSUPPORTED, "the spool file was written by a newer dedupscan");
	if (header_checksum(h) != sum || le32_get(h->slices) != SPOOL_SLICES)
		return err_set(err, ERR_FORMAT, "the spool file's header is damaged");
	*ret = (struct spool_image){
		.identity = { le64_get(h->dev), le64_get(h->ino), le64_get(h->size), (int64_t)le64_get(h->mtime),
			      (int64_t)le64_get(h->ctime) },
		.parts = { .hi = le64_load(h->parts), .lo = le64_load(h->parts + 8) },
		.base = le64_get(h->base),
		.virtual_size = le64_get(h->virtual_size),
		.span = le64_get(h->span),
		.layer = le64_get(h->layer),
		.file_used = le64_get(h->file_used),
		.cluster_size = le64_get(h->cluster_size),
		.nr_snapshots = le32_get(h->nr_snapshots),
		.racy = le32_get(h->racy),
		.told = le32_get(h->told),
	};
	memcpy(ret->texts, h->texts, sizeof(ret->texts));
	ret->texts[sizeof(ret->texts) - 1] = '\0';
	return 0;
}

static int header_write(int fd, const struct spool_image *image, struct err *err)
{
	struct spool_header h;

	header_encode(image, &h);
	return file_write(fd, &h, sizeof(h), 0, err);
}

static int header_read(int fd, struct spool_image *ret, struct err *err)
{
	struct spool_header h;

	if (file_read(fd, &h, sizeof(h), 0, err) < 0)
		return err_set(err, ERR_FORMAT, "the spool file's header is cut short");
	return header_decode(&h, ret, err);
}

/* ---- walking the frames ---- */

struct spool_walk {
	int fd;
	uint64_t offset; /* of the frame to come */
	uint8_t *buf;	 /* SPOOL_FRAME_MAX bytes: the whole frame is read and checked; NULL = its header only */
	uint64_t next_segment; /* the least that may come, as far as whole frames are read */
	struct spool_frame frame;
};

/* Segments ascend from frame to frame, too. */
static int order_check(struct spool_walk *w, struct err *err)
{
	const struct spool_segment *s = (const void *)(w->buf + sizeof(w->frame));
	uint32_t nr = le32_get(w->frame.nr_segments);

	if (nr && le64_get(s[0].segment) < w->next_segment)
		return err_set(err, ERR_FORMAT, "the frames of a spool file are out of order");
	if (nr)
		w->next_segment = le64_get(s[nr - 1].segment) + 1;
	return 0;
}

static void add_frame(struct spool_totals *t, const struct spool_frame *f, const struct spool_segment *s)
{
	for (uint32_t i = 0; s && i < le32_get(f->nr_segments); i++) {
		t->nr_stored += le16_get(s[i].stored);
		t->nr_zero += le16_get(s[i].zero);
	}
	t->nr_segments += le32_get(f->nr_segments);
	t->nr_requests += le32_get(f->nr_requests);
	t->bytes_read += le64_get(f->bytes_read);
}

/* 1 = a frame, which the walk then stands behind; 0 = the file ends here; -1 = damage. */
static int walk_next(struct spool_walk *w, struct err *err)
{
	uint64_t len;
	ssize_t n = file_read_some(w->fd, &w->frame, sizeof(w->frame), w->offset, err);

	if (n < 0)
		return -1;
	if (n == 0)
		return 0;
	if ((size_t)n < sizeof(w->frame))
		return err_set(err, ERR_FORMAT, "a spool frame is cut short");
	if (frame_header_check(&w->frame, err) < 0)
		return -1;
	len = sizeof(w->frame) + le64_get(w->frame.payload_len);
	if (w->buf) {
		n = file_read_some(w->fd, w->buf, len, w->offset, err);
		if (n < 0)
			return -1;
		if ((uint64_t)n < len)
			return err_set(err, ERR_FORMAT, "a spool frame is cut short");
		if (spool_frame_check(w->buf, len, err) < 0)
			return -1;
		if (checksum32(w->buf + sizeof(w->frame), len - sizeof(w->frame), 0) != le32_get(w->frame.checksum))
			return err_set(err, ERR_FORMAT, "a spool frame's checksum does not match");
		if (order_check(w, err) < 0)
			return -1;
	}
	w->offset += len;
	return 1;
}

/* ---- writing ---- */

static void part_name(char ret[64], const char *name, const char *suffix)
{
	snprintf(ret, 64, "%s.%s", name, suffix);
}

int spool_create(struct spool_writer *w, int dirfd, const char *name, const struct spool_image *image, struct err *err)
{
	char part[64];

	part_name(part, name, "part");
	*w = (struct spool_writer){ .fd = -1, .offset = sizeof(struct spool_header) };
	w->fd = file_open(dirfd, part, O_RDWR | O_CREAT | O_TRUNC, 0600, err);
	if (w->fd < 0)
		return -1;
	return header_write(w->fd, image, err);
}

/* Reads the good frames at the beginning; what follows them is cut off. */
static int resume_frames(struct spool_writer *w, struct err *err)
{
	CLEANUP(free) uint8_t *buf = malloc(SPOOL_FRAME_MAX);
	struct spool_walk walk = { .fd = w->fd, .offset = sizeof(struct spool_header), .buf = buf };

	if (!buf)
		return err_set(err, ERR_MEMORY, "no memory for a spool frame");
	w->offset = walk.offset;
	while (walk_next(&walk, NULL) == 1 && le32_get(walk.frame.kind) == SPOOL_FRAME_DATA) {
		add_frame(&w->totals, &walk.frame, (const void *)(buf + sizeof(walk.frame)));
		w->next_address = le64_get(walk.frame.next_address);
		w->offset = walk.offset;
	}
	return file_truncate(w->fd, w->offset, err);
}

int spool_resume(struct spool_writer *w, int dirfd, const char *name, const struct spool_identity *identity, uint64_t base,
		 struct spool_image *ret_image, struct err *err)
{
	char part[64];

	part_name(part, name, "part");
	*w = (struct spool_writer){ .fd = file_open(dirfd, part, O_RDWR, 0, NULL) };
	if (w->fd < 0)
		return 0;
	if (header_read(w->fd, ret_image, NULL) < 0 || !spool_identity_equal(identity, &ret_image->identity) ||
	    ret_image->base != base || ret_image->racy) {
		spool_writer_release(w);
		return 0;
	}
	if (resume_frames(w, err) < 0) {
		spool_writer_release(w);
		return -1;
	}
	return 1;
}

int spool_append(struct spool_writer *w, const uint8_t *frame, size_t len, struct err *err)
{
	const struct spool_frame *f = (const void *)frame;

	if (file_write(w->fd, frame, len, w->offset, err) < 0)
		return err_add(err, "spool file");
	w->offset += len;
	w->next_address = le64_get(f->next_address);
	add_frame(&w->totals, f, (const void *)(frame + sizeof(*f)));
	return 0;
}

int spool_commit(struct spool_writer *w, int dirfd, const char *name, const struct spool_image *image, struct err *err)
{
	struct spool_frame end = { .magic = "DDSF", .kind = le32_from(SPOOL_FRAME_END),
				   .checksum = le32_from(checksum32("", 0, 0)) };
	char part[64], whole[64];

	part_name(part, name, "part");
	part_name(whole, name, "req");
	end.header_checksum = le32_from(frame_header_checksum(&end));
	if (header_write(w->fd, image, err) < 0 || file_write(w->fd, &end, sizeof(end), w->offset, err) < 0)
		return err_add(err, "spool file");
	return file_rename(dirfd, part, whole, err);
}

void spool_writer_release(struct spool_writer *w)
{
	if (w->fd >= 0)
		file_close(w->fd, "spool file", NULL);
	w->fd = -1;
}

/* ---- reading ---- */

static int index_frames(struct spool *s, bool full_check, struct err *err)
{
	CLEANUP(free) uint8_t *buf = full_check ? malloc(SPOOL_FRAME_MAX) : NULL;
	struct spool_walk walk = { .fd = s->fd, .offset = sizeof(struct spool_header), .buf = buf };
	size_t room = 0;

	if (full_check && !buf)
		return err_set(err, ERR_MEMORY, "no memory for a spool frame");
	for (;;) {
		uint64_t at = walk.offset;
		int rc = walk_next(&walk, err);

		if (rc < 0)
			return -1;
		if (rc == 0)
			return err_set(err, ERR_FORMAT, "the spool file has no end");
		if (le32_get(walk.frame.kind) == SPOOL_FRAME_END)
			return 0;
		if (s->nr_frames == room && vec_grow_((void **)&s->frames, &room, sizeof(*s->frames)) < 0)
			return err_set(err, ERR_MEMORY, "no memory for a list of spool frames");
		s->frames[s->nr_frames++] = at;
		add_frame(&s->totals, &walk.frame, buf ? (const void *)(buf + sizeof(walk.frame)) : NULL);
	}
}

struct spool *spool_open(int dirfd, const char *name, bool full_check, struct err *err)
{
	CLEANUP(spool_close) struct spool *s = calloc(1, sizeof(*s));

	if (s) {
		s->dirfd = dirfd;
		s->fd = -1;
		s->image = malloc(sizeof(*s->image));
	}
	if (!s || !s->image)
		return err_null(err, ERR_MEMORY, "no memory for a spool file");
	part_name(s->file, name, "req");
	s->fd = file_open(dirfd, s->file, O_RDWR, 0, err);
	if (s->fd < 0)
		return NULL;
	if (header_read(s->fd, s->image, err) < 0 || index_frames(s, full_check, err) < 0) {
		err_add(err, "spool file '%s'", s->file);
		return NULL;
	}
	return STEAL(s);
}

void spool_let_go(struct spool *s)
{
	if (s->fd >= 0)
		file_close(s->fd, s->file, NULL);
	s->fd = -1;
	free(s->image);
	s->image = NULL;
}

void spool_close(struct spool *s)
{
	if (!s)
		return;
	spool_let_go(s);
	free(s->frames);
	free(s);
}

int spool_sync(struct spool *s, struct err *err)
{
	return file_sync(s->fd, "spool file", err);
}

ssize_t spool_segments(struct spool *s, size_t frame, struct spool_segment *ret, struct err *err)
{
	struct spool_frame f;
	uint32_t nr;

	if (file_read(s->fd, &f, sizeof(f), s->frames[frame], err) < 0 || frame_header_check(&f, err) < 0)
		return -1;
	nr = le32_get(f.nr_segments);
	if (file_read(s->fd, ret, nr * sizeof(*ret), s->frames[frame] + sizeof(f), err) < 0)
		return -1;
	return segments_check(ret, nr, err) < 0 ? -1 : (ssize_t)nr;
}

/* A frame's head, its segments and the ends of its slices, if it has not very many segments. */
#define SPOOL_HEAD_READ 4096

/* Where in the file the requests of a frame's slices [first, last] lie. */
static int slice_range(int fd, uint64_t frame, unsigned first, unsigned last, uint64_t *ret_at, uint32_t *ret_nr,
		       struct err *err)
{
	uint8_t head[SPOOL_HEAD_READ], other[(SPOOL_SLICES + 1) * sizeof(le32)];
	const struct spool_frame *f = (const void *)head;
	size_t ends_at, ends_len = sizeof(other);
	const uint8_t *ends = other;
	uint32_t from, to;
	ssize_t got = file_read_some(fd, head, sizeof(head), frame, err);

	if (got < (ssize_t)sizeof(*f))
		return got < 0 ? -1 : err_set(err, ERR_FORMAT, "a spool frame is cut short");
	ends_at = sizeof(*f) + le32_get(f->nr_segments) * sizeof(struct spool_segment);
	if (ends_at + ends_len <= (size_t)got)
		ends = head + ends_at;
	else if (file_read(fd, other, ends_len, frame + ends_at, err) < 0)
		return -1;
	from = le32_load(ends + first * sizeof(le32));
	to = le32_load(ends + (last + 1) * sizeof(le32));
	if (from > to || to > SPOOL_FRAME_REQUESTS)
		return err_set(err, ERR_FORMAT, "the slices of a spool frame are damaged");
	*ret_at = frame + ends_at + ends_len + from * sizeof(struct spool_request);
	*ret_nr = to - from;
	return 0;
}

static void decode_request(const struct spool_request *r, uint64_t shift, struct record *ret)
{
	ret->key.hi = le64_get(r->hi);
	ret->key.lo = le64_get(r->mid) & KEY_LO_MASK;
	ret->value = request_block(r) + shift;
}

static int add_requests(const struct spool_request *r, size_t nr, uint64_t shift, struct sorter *sorter, struct err *err)
{
	while (nr > 0) {
		size_t room;
		struct record *to = sorter_room(sorter, nr, &room, err);

		if (!to)
			return -1;
		if (room > nr)
			room = nr;
		for (size_t i = 0; i < room; i++)
			decode_request(&r[i], shift, &to[i]);
		sorter_commit(sorter, room);
		r += room;
		nr -= room;
	}
	return 0;
}

int spool_requests(struct spool *s, unsigned first, unsigned last, uint64_t shift, struct sorter *sorter, struct err *err)
{
	CLEANUP(free) struct spool_request *buf = malloc(SPOOL_FRAME_REQUESTS * sizeof(*buf));
	CLEANUP(close_fd) int fd = -1; /* of this call: several threads read from one spool file */

	if (!buf)
		return err_set(err, ERR_MEMORY, "no memory for spool requests");
	fd = file_open(s->dirfd, s->file, O_RDONLY, 0, err);
	if (fd < 0)
		return -1;
	for (size_t i = 0; i < s->nr_frames; i++) {
		uint64_t at;
		uint32_t nr;

		if (slice_range(fd, s->frames[i], first, last, &at, &nr, err) < 0)
			return -1;
		if (nr && file_read(fd, buf, nr * sizeof(*buf), at, err) < 0)
			return -1;
		if (add_requests(buf, nr, shift, sorter, err) < 0)
			return -1;
	}
	return 0;
}

int spool_count_slices(struct spool *s, uint64_t *counts, struct err *err)
{
	uint8_t ends[(SPOOL_SLICES + 1) * sizeof(le32)];

	for (size_t i = 0; i < s->nr_frames; i++) {
		struct spool_frame f;

		if (file_read(s->fd, &f, sizeof(f), s->frames[i], err) < 0 ||
		    file_read(s->fd, ends, sizeof(ends),
			      s->frames[i] + sizeof(f) + le32_get(f.nr_segments) * sizeof(struct spool_segment), err) < 0 ||
		    slices_check(ends, le32_get(f.nr_requests), err) < 0)
			return -1;
		for (unsigned k = 0; k < SPOOL_SLICES; k++)
			counts[k] += le32_load(ends + (k + 1) * sizeof(le32)) - le32_load(ends + k * sizeof(le32));
	}
	return 0;
}
