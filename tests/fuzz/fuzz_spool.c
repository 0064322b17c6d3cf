/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "scanner/base/checked.h"
#include "scanner/index/checksum.h"
#include "scanner/index/spool.h"

/* The frames of a spool file behind a good header.  They are tried as they are, and once more as frames with lengths that
 * fit, segments that ascend, requests that belong to them and right checksums, each only as far as bits of the input say so.
 * What is accepted must be in order; a beginning that is accepted must be one to go on from. */

#define HEADER (512 + SPOOL_TEXT_MAX)

static char dir_path[32];
static int dir = -1;

static void must(int what)
{
	if (!what)
		abort();
}

static void remove_dir(void)
{
	unlinkat(dir, "1.req", 0);
	unlinkat(dir, "1.part", 0);
	rmdir(dir_path);
}

static void make_dir(void)
{
	strcpy(dir_path, "/dev/shm/fuzz_spool-XXXXXX");
	must(mkdtemp(dir_path) != NULL);
	dir = open(dir_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	must(dir >= 0);
	atexit(remove_dir);
}

static struct spool_image image(void)
{
	const uint64_t span = (uint64_t)1 << 40;

	return (struct spool_image){ .identity = { 1, 2, 3, 4, 5 }, .base = 6, .span = span, .layer = span };
}

/* 1.req, with these bytes for frames and an end frame; or 1.part, without one. */
static void write_file(const uint8_t *data, size_t size, bool whole)
{
	struct spool_image i = image();
	struct spool_writer w;

	must(spool_create(&w, dir, "1", &i, NULL) == 0);
	must(pwrite(w.fd, data, size, HEADER) == (ssize_t)size);
	w.offset = HEADER + size;
	if (whole)
		must(spool_commit(&w, dir, "1", &i, NULL) == 0);
	spool_writer_release(&w);
}

/* ---- what is accepted ---- */

static uint64_t count_segments(struct spool *s, bool full)
{
	static struct spool_segment g[SPOOL_FRAME_SEGMENTS];
	uint64_t nr = 0, next = 0;

	for (size_t i = 0; i < s->nr_frames; i++) {
		ssize_t n = spool_segments(s, i, g, NULL);

		must(n >= 0 || !full);
		for (ssize_t k = 0; k < n; k++, nr++) {
			must(le64_get(g[k].segment) >= next || (!full && k == 0));
			must(le16_get(g[k].stored) <= SEGMENT_BLOCKS && le16_get(g[k].zero) <= le16_get(g[k].stored));
			next = le64_get(g[k].segment) + 1;
		}
	}
	return nr;
}

static uint64_t count_requests(struct spool *s, unsigned first, unsigned last, bool full)
{
	struct sorter *sorter = sorter_new(1 << 20, dir, NULL);
	const struct record *r;
	uint64_t count = 0;
	ssize_t nr;
	int rc;

	must(sorter != NULL);
	rc = spool_requests(s, first, last, 1000, sorter, NULL);
	must(rc == 0 || !full);
	must(sorter_finish(sorter, NULL) == 0);
	while ((nr = sorter_next(sorter, &r, NULL)) > 0) {
		for (ssize_t i = 0; i < nr; i++, count++) {
			unsigned slice = (unsigned)(r[i].key.hi >> 56);

			must(!full || (slice >= first && slice <= last));
			must(r[i].value >= 1000 && r[i].value < 1000 + ((uint64_t)1 << 40));
		}
	}
	sorter_free(sorter);
	return count;
}

static void read_whole(bool full)
{
	struct spool *s = spool_open(dir, "1", full, NULL);
	uint64_t counts[SPOOL_SLICES] = { 0 }, sum = 0;
	int rc;

	if (!s)
		return;
	rc = spool_count_slices(s, counts, NULL);
	must(rc == 0 || !full);
	for (unsigned i = 0; i < SPOOL_SLICES; i++)
		sum += counts[i];
	must(count_segments(s, full) == s->totals.nr_segments || !full);
	must(count_requests(s, 0, 255, full) == sum || !full);
	must(count_requests(s, 7, 93, full) <= sum || !full);
	must(sum == s->totals.nr_requests || !full);
	spool_close(s);
}

/* The good beginning of a file that was not finished; what is then finished must be good as a whole. */
static void go_on(void)
{
	struct spool_image i = image(), got;
	struct spool_writer w;
	struct spool *s;

	must(spool_resume(&w, dir, "1", &i.identity, i.base, &got, NULL) == 1);
	must(spool_commit(&w, dir, "1", &got, NULL) == 0);
	spool_writer_release(&w);
	s = spool_open(dir, "1", true, NULL);
	must(s != NULL);
	must(s->totals.nr_requests == w.totals.nr_requests && s->totals.nr_stored == w.totals.nr_stored);
	spool_close(s);
}

static void try_bytes(const uint8_t *data, size_t size)
{
	if (size >= sizeof(struct spool_frame))
		spool_frame_check(data, size, NULL);
	write_file(data, size, true);
	read_whole(true);
	read_whole(false);
	write_file(data, size, false);
	go_on();
}

/* ---- frames that fit ---- */

static void fix_segments(struct spool_segment *s, uint32_t nr, uint64_t *next)
{
	for (uint32_t i = 0; i < nr; i++) {
		*next += le64_get(s[i].segment) & 3;
		s[i].segment = le64_from((*next)++);
		s[i].stored = le16_from(le16_get(s[i].stored) % 513);
		s[i].zero = le16_from(le16_get(s[i].stored) ? le16_get(s[i].zero) % le16_get(s[i].stored) : 0);
	}
}

/* Each slice has as many requests as a byte of its old end says, as long as there are some left. */
static void fix_slices(uint8_t *ends, uint32_t nr)
{
	uint32_t end = 0;

	for (unsigned i = 0; i <= SPOOL_SLICES; i++) {
		if (i)
			end += (uint32_t)min_u64(ends[i * 4] % 5, nr - end);
		le32_store(ends + i * 4, i == SPOOL_SLICES ? nr : end);
	}
}

static void fix_requests(struct spool_request *r, const uint8_t *ends, const struct spool_segment *s, uint32_t nr_segments)
{
	for (unsigned slice = 0; slice < SPOOL_SLICES; slice++) {
		uint32_t from = le32_load(ends + slice * 4), to = le32_load(ends + slice * 4 + 4);

		for (uint32_t i = from; i < to; i++) {
			uint64_t segment = le64_get(s[(uint64_t)(i - from) * nr_segments / (to - from)].segment);
			uint64_t block = segment * SEGMENT_BLOCKS + (i - from) % SEGMENT_BLOCKS;

			r[i].hi = le64_from((le64_get(r[i].hi) & ~(0xffull << 56)) | (uint64_t)slice << 56);
			r[i].mid = le64_from((le64_get(r[i].mid) & KEY_LO_MASK) | (block & ~KEY_LO_MASK));
			r[i].block_hi = le16_from((uint16_t)(block >> 24));
		}
	}
}

/* Makes a frame of the bytes at p, of which there are `left`; returns its length, 0 if they are too few. */
static size_t fix_frame(uint8_t *p, size_t left, uint64_t *next)
{
	struct spool_frame *f = (struct spool_frame *)p;
	struct spool_segment *s = (struct spool_segment *)(f + 1);
	uint32_t nr_segments, nr_requests;
	uint8_t what, *ends;
	size_t len;

	if (left < sizeof(*f) + 1028)
		return 0;
	what = p[0];
	nr_segments = (uint32_t)min_u64(le32_get(f->nr_segments) % 8, (left - sizeof(*f) - 1028) / sizeof(*s));
	ends = (uint8_t *)(s + nr_segments);
	nr_requests = (uint32_t)min_u64(le32_get(f->nr_requests) % 600, (left - (size_t)(ends + 1028 - p)) / 18);
	if (!nr_segments)
		nr_requests = 0;
	len = (size_t)(ends + 1028 - p) + nr_requests * 18;
	if (!(what & 1))
		fix_segments(s, nr_segments, next);
	if (!(what & 2))
		fix_slices(ends, nr_requests);
	if (!(what & 4) && !(what & 2) && nr_requests)
		fix_requests((void *)(ends + 1028), ends, s, nr_segments);
	memcpy(f->magic, "DDSF", 4);
	f->kind = le32_from((what & 0xf0) == 0xf0 ? SPOOL_FRAME_END : SPOOL_FRAME_DATA);
	f->payload_len = le64_from(what & 8 ? le64_get(f->payload_len) : len - sizeof(*f));
	f->nr_segments = le32_from(nr_segments);
	f->nr_requests = le32_from(nr_requests);
	f->checksum = le32_from(checksum32(p + sizeof(*f), len - sizeof(*f), 0));
	f->header_checksum = le32_from(checksum32(f, offsetof(struct spool_frame, header_checksum), 0));
	return len;
}

static size_t fix(uint8_t *p, size_t size)
{
	uint64_t next = 0;
	size_t at = 0, len;

	while ((len = fix_frame(p + at, size - at, &next)))
		at += len;
	return at;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t least = 3000; /* an input of nothing is a frame as well */
	uint8_t *p = calloc(1, max_u64(size, least));

	must(p != NULL);
	if (dir < 0)
		make_dir();
	memcpy(p, data, size);
	try_bytes(p, size);
	size = fix(p, max_u64(size, least));
	try_bytes(p, size);
	free(p);
	return 0;
}
