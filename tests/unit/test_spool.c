/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/index_help.h"

#include <errno.h>
#include <sys/stat.h>

#include "scanner/index/checksum.h"
#include "scanner/index/spool.h"

#define HEADER (512 + SPOOL_TEXT_MAX)

static const struct spool_identity identity = { 5, 77, 1234567, 1111111111111, 2222222222222 };

static struct spool_image image_make(void)
{
	static const char *const texts[SPOOL_NR_TEXTS] = { "/store/a.qcow2", "qcow2", "base.qcow2", "/store/base.qcow2",
							   "zstd", "" };
	struct spool_image i = {
		.identity = identity, .parts = { 1, 2 }, .base = 9, .virtual_size = 80 * MIB, .span = 80 * MIB,
		.layer = 80 * MIB, .file_used = 4096, .cluster_size = 65536, .nr_snapshots = 3,
	};

	spool_set_texts(&i, texts);
	return i;
}

static struct spool_pending *pending;
static uint8_t *frame;

static int buffers_make(void **state)
{
	pending = calloc(1, sizeof(*pending));
	frame = malloc(SPOOL_FRAME_MAX);
	return pending && frame ? scratch_make(state) : -1;
}

static int buffers_remove(void **state)
{
	free(pending);
	free(frame);
	return scratch_remove(state);
}

#define spool_test(f) cmocka_unit_test_setup_teardown(f, buffers_make, buffers_remove)

static void add_segment(uint64_t segment, unsigned stored, unsigned zero, unsigned flags)
{
	struct spool_segment *s = &pending->segments[pending->nr_segments++];

	*s = (struct spool_segment){ .segment = le64_from(segment), .stored = le16_from((uint16_t)stored),
				     .zero = le16_from((uint16_t)zero), .flags = le16_from((uint16_t)flags) };
	memset(s->digest, (int)(segment & 0xff) + 1, sizeof(s->digest));
}

static void add_request(struct fingerprint f, uint64_t block)
{
	pending->requests[pending->nr_requests].f = f;
	pending->requests[pending->nr_requests++].block = block;
}

/* What went in, as what should come out: kept by the tests to compare with. */
static struct record wanted[4096];
static size_t nr_wanted;

static void add_random_request(uint64_t block)
{
	struct fingerprint f = { random_u64(), random_u64() };

	add_request(f, block);
	wanted[nr_wanted++] = (struct record){ { f.hi, f.lo & KEY_LO_MASK }, block };
}

/* `nr` frames of two segments with a handful of requests each. */
static void append_frames(struct spool_writer *w, unsigned first, unsigned nr)
{
	struct err err = ERR_INIT;

	for (unsigned i = first; i < first + nr; i++) {
		size_t len;

		add_segment(2 * i, 6, 1, 0);
		for (unsigned k = 0; k < 5; k++)
			add_random_request(2 * i * SEGMENT_BLOCKS + k);
		add_segment(2 * i + 1, 512, 0, SPOOL_SAME);
		pending->bytes_read = 1000 + i;
		len = spool_frame_make(pending, (2 * i + 2) * SEGMENT_SIZE, frame);
		assert_int_equal(spool_frame_check(frame, len, &err), 0);
		assert_int_equal(spool_append(w, frame, len, &err), 0);
	}
}

static void write_spool(unsigned nr_frames, bool commit)
{
	struct spool_image image = image_make();
	struct spool_writer w;
	struct err err = ERR_INIT;

	nr_wanted = 0;
	assert_int_equal(spool_create(&w, scratch, "7", &image, &err), 0);
	append_frames(&w, 0, nr_frames);
	if (commit)
		assert_int_equal(spool_commit(&w, scratch, "7", &image, &err), 0);
	spool_writer_release(&w);
}

static size_t sorted_requests(struct spool *s, unsigned first, unsigned last, uint64_t shift, struct record *ret)
{
	CLEANUP(sorter_free) struct sorter *sorter = sorter_new(4 * MIB, scratch, NULL);
	const struct record *r;
	size_t nr = 0;
	ssize_t n;

	assert_int_equal(spool_requests(s, first, last, shift, sorter, NULL), 0);
	assert_int_equal(sorter_finish(sorter, NULL), 0);
	while ((n = sorter_next(sorter, &r, NULL)) > 0) {
		memcpy(ret + nr, r, (size_t)n * sizeof(*r));
		nr += (size_t)n;
	}
	assert_int_equal(n, 0);
	return nr;
}

/* True when the spool file opens and gives exactly what was put in. */
static bool gives_what_went_in(void)
{
	CLEANUP(spool_close) struct spool *s = spool_open(scratch, "7", true, NULL);
	struct spool_image image = image_make();
	static struct record got[4096], sorted[4096];
	size_t nr;

	if (!s || memcmp(s->image, &image, sizeof(image)) != 0)
		return false;
	nr = sorted_requests(s, 0, SPOOL_SLICES - 1, 0, got);
	memcpy(sorted, wanted, nr_wanted * sizeof(*wanted));
	qsort(sorted, nr_wanted, sizeof(*sorted), record_cmp);
	qsort(got, nr, sizeof(*got), record_cmp);
	return nr == nr_wanted && memcmp(got, sorted, nr * sizeof(*got)) == 0;
}

static size_t file_len(const char *name)
{
	struct stat st;

	return fstatat(scratch, name, &st, 0) == 0 ? (size_t)st.st_size : 0;
}

static uint8_t *slurp(const char *name, size_t *ret)
{
	int fd = openat(scratch, name, O_RDONLY);
	uint8_t *p;

	*ret = file_len(name);
	p = malloc(*ret);
	assert_non_null(p);
	assert_int_equal(pread(fd, p, *ret, 0), *ret);
	close(fd);
	return p;
}

static void spit(const char *name, const uint8_t *p, size_t len)
{
	int fd;

	unlinkat(scratch, name, 0); /* truncating would have the file system write it out */
	fd = openat(scratch, name, O_RDWR | O_CREAT, 0600);
	assert_int_equal(pwrite(fd, p, len, 0), len);
	close(fd);
}

/* ---- tests ---- */

static void gives_back_image_segments_and_requests(void **state)
{
	CLEANUP(spool_close) struct spool *s = NULL;
	struct spool_segment segments[SPOOL_FRAME_SEGMENTS];

	(void)state;
	write_spool(3, true);
	assert_true(gives_what_went_in());
	s = spool_open(scratch, "7", true, NULL);
	assert_string_equal(spool_text(s->image, SPOOL_BACKING_PATH), "/store/base.qcow2");
	assert_string_equal(spool_text(s->image, SPOOL_WARNING), "");
	assert_int_equal(s->nr_frames, 3);
	assert_int_equal(s->totals.nr_stored, 3 * (6 + 512));
	assert_int_equal(s->totals.nr_zero, 3);
	assert_int_equal(s->totals.nr_segments, 6);
	assert_int_equal(s->totals.nr_requests, 15);
	assert_int_equal(s->totals.bytes_read, 3003);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(spool_segments(s, i, segments, NULL), 2);
		assert_int_equal(le64_get(segments[1].segment), 2 * i + 1);
		assert_int_equal(le16_get(segments[1].flags), SPOOL_SAME);
		assert_int_equal(segments[0].digest[15], 2 * i + 1);
	}
	assert_int_equal(file_len("7.part"), 0);
}

static void goes_on_where_the_last_whole_frame_ended_whatever_the_length(void **state)
{
	CLEANUP(free) uint8_t *whole = NULL;
	size_t len, ends[4] = { HEADER };

	(void)state;
	for (unsigned nr = 1; nr <= 3; nr++) {
		write_spool(nr, false);
		ends[nr] = file_len("7.part");
	}
	whole = slurp("7.part", &len);
	for (size_t cut = 0; cut <= len; cut++) {
		struct spool_image image;
		struct spool_writer w;
		unsigned frames = 0;
		int rc;

		while (frames < 3 && ends[frames + 1] <= cut)
			frames++;
		spit("7.part", whole, cut);
		rc = spool_resume(&w, scratch, "7", &identity, 9, &image, NULL);
		assert_int_equal(rc, cut >= HEADER);
		if (rc) {
			assert_int_equal(w.next_address, frames * 2 * SEGMENT_SIZE);
			assert_int_equal(w.totals.nr_requests, frames * 5);
			assert_int_equal(w.totals.nr_stored, frames * 518);
			assert_int_equal(file_len("7.part"), ends[frames]);
		}
		spool_writer_release(&w);
	}
}

static void a_resumed_file_is_as_if_written_at_once(void **state)
{
	struct spool_image image;
	struct spool_writer w;
	int fd;

	(void)state;
	write_spool(2, false);
	fd = openat(scratch, "7.part", O_RDWR | O_APPEND);
	assert_int_equal(write(fd, "torn", 4), 4);
	close(fd);
	assert_int_equal(spool_resume(&w, scratch, "7", &identity, 9, &image, NULL), 1);
	append_frames(&w, 2, 2);
	assert_int_equal(spool_commit(&w, scratch, "7", &image, NULL), 0);
	spool_writer_release(&w);
	assert_true(gives_what_went_in());
}

static void every_flipped_bit_is_noticed(void **state)
{
	CLEANUP(free) uint8_t *p = NULL;
	size_t len;

	(void)state;
	write_spool(1, true);
	p = slurp("7.req", &len);
	for (size_t bit = 0; bit < len * 8; bit++) {
		/* of the long texts, which lie under one checksum, not every bit */
		if (bit / 8 >= 600 && bit / 8 < HEADER - 8 && bit % 97)
			continue;
		p[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		spit("7.req", p, len);
		if (spool_open(scratch, "7", true, NULL))
			fail_msg("bit %zu of byte %zu may be flipped", bit % 8, bit / 8);
		p[bit / 8] ^= (uint8_t)(1u << (bit % 8));
	}
	spit("7.req", p, len);
	assert_true(gives_what_went_in());
}

static void a_flipped_bit_ends_what_is_resumed_there(void **state)
{
	CLEANUP(free) uint8_t *p = NULL;
	size_t len, first;

	(void)state;
	write_spool(1, false);
	first = file_len("7.part");
	write_spool(2, false);
	p = slurp("7.part", &len);
	for (size_t bit = first * 8; bit < len * 8; bit++) {
		struct spool_image image;
		struct spool_writer w;

		p[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		spit("7.part", p, len);
		assert_int_equal(spool_resume(&w, scratch, "7", &identity, 9, &image, NULL), 1);
		assert_int_equal(w.next_address, 2 * SEGMENT_SIZE);
		spool_writer_release(&w);
		p[bit / 8] ^= (uint8_t)(1u << (bit % 8));
	}
}

static void a_file_without_its_end_is_refused_at_every_length(void **state)
{
	CLEANUP(free) uint8_t *p = NULL;
	size_t len;

	(void)state;
	write_spool(2, true);
	p = slurp("7.req", &len);
	for (size_t cut = HEADER - 2; cut < len; cut++) {
		struct err err = ERR_INIT;

		spit("7.req", p, cut);
		assert_null(spool_open(scratch, "7", cut % 2, &err));
		assert_true(err.kind == ERR_FORMAT || err.kind == ERR_STALE);
	}
}

static void refuses_a_newer_version(void **state)
{
	CLEANUP(free) uint8_t *p = NULL;
	struct err err = ERR_INIT;
	struct spool_image image;
	struct spool_writer w;
	size_t len;

	(void)state;
	write_spool(1, true);
	p = slurp("7.req", &len);
	le32_store(p + 8, 2);
	spit("7.req", p, len);
	spit("7.part", p, len);
	assert_null(spool_open(scratch, "7", true, &err));
	assert_int_equal(err.kind, ERR_UNSUPPORTED);
	assert_int_equal(spool_resume(&w, scratch, "7", &identity, 9, &image, &err), 0);
}

/* Everything but what is asked for: any of it wrong, and nothing is resumed. */
static void resumes_only_the_same_state_of_the_same_image(void **state)
{
	(void)state;
	for (unsigned wrong = 0; wrong <= 6; wrong++) {
		struct spool_identity other = identity;
		struct spool_image image;
		struct spool_writer w;

		other.dev += wrong == 1;
		other.ino += wrong == 2;
		other.size += wrong == 3;
		other.mtime += wrong == 4;
		other.ctime += wrong == 5;
		write_spool(1, false);
		assert_int_equal(spool_resume(&w, scratch, "7", &other, wrong == 6 ? 8 : 9, &image, NULL), wrong == 0);
		assert_int_equal(w.fd >= 0, wrong == 0);
		spool_writer_release(&w);
	}
}

static void an_image_that_may_have_changed_is_not_resumed(void **state)
{
	struct spool_image image = image_make();
	struct spool_writer w;

	(void)state;
	image.racy = 1;
	assert_int_equal(spool_create(&w, scratch, "7", &image, NULL), 0);
	append_frames(&w, 0, 1);
	spool_writer_release(&w);
	assert_int_equal(spool_resume(&w, scratch, "7", &identity, 9, &image, NULL), 0);
}

static void nothing_there_is_nothing_to_resume(void **state)
{
	struct err err = ERR_INIT;
	struct spool_image image;
	struct spool_writer w;

	(void)state;
	assert_int_equal(spool_resume(&w, scratch, "7", &identity, 9, &image, &err), 0);
	assert_int_equal(err.kind, ERR_NONE);
}

static void the_header_written_at_the_end_is_the_one_that_counts(void **state)
{
	CLEANUP(spool_close) struct spool *s = NULL;
	struct spool_image image = image_make();
	struct spool_writer w;
	const char *texts[SPOOL_NR_TEXTS] = { "p", "raw", "", "", "", "it changed" };

	(void)state;
	assert_int_equal(spool_create(&w, scratch, "7", &image, NULL), 0);
	image.racy = 1;
	spool_set_texts(&image, texts);
	assert_int_equal(spool_commit(&w, scratch, "7", &image, NULL), 0);
	spool_writer_release(&w);
	s = spool_open(scratch, "7", true, NULL);
	assert_non_null(s);
	assert_int_equal(s->image->racy, 1);
	assert_string_equal(spool_text(s->image, SPOOL_WARNING), "it changed");
	assert_int_equal(s->nr_frames, 0);
}

static void every_slice_gives_the_keys_of_its_first_byte(void **state)
{
	CLEANUP(spool_close) struct spool *s = NULL;
	struct spool_image image = image_make();
	struct spool_writer w;
	uint64_t counts[SPOOL_SLICES] = { 0 };
	struct record got[512];
	size_t len;

	(void)state;
	assert_int_equal(spool_create(&w, scratch, "7", &image, NULL), 0);
	/* slice i has i % 3 requests, in two frames */
	for (unsigned f = 0; f < 2; f++) {
		add_segment(f, 512, 0, 0);
		for (unsigned i = 0; i < SPOOL_SLICES; i++)
			if (f < i % 3)
				add_request((struct fingerprint){ (uint64_t)(255 - i) << 56 | i, i }, f * SEGMENT_BLOCKS + i);
		len = spool_frame_make(pending, (f + 1) * SEGMENT_SIZE, frame);
		assert_int_equal(spool_append(&w, frame, len, NULL), 0);
	}
	assert_int_equal(spool_commit(&w, scratch, "7", &image, NULL), 0);
	spool_writer_release(&w);
	s = spool_open(scratch, "7", true, NULL);
	assert_int_equal(spool_count_slices(s, counts, NULL), 0);
	assert_int_equal(spool_count_slices(s, counts, NULL), 0); /* added, not set */
	for (unsigned i = 0; i < SPOOL_SLICES; i++) {
		size_t nr = sorted_requests(s, 255 - i, 255 - i, 1000, got);

		assert_int_equal(nr, i % 3);
		assert_int_equal(counts[255 - i], 2 * nr);
		for (size_t k = 0; k < nr; k++) {
			assert_int_equal(got[k].key.hi >> 56, 255 - i);
			assert_int_equal(got[k].value, k * SEGMENT_BLOCKS + i + 1000);
		}
	}
	for (unsigned first = 0; first < SPOOL_SLICES; first += 19) {
		unsigned last = (unsigned)min_u64(first + 18, 255);
		size_t sum = 0;

		for (unsigned i = first; i <= last; i++)
			sum += counts[i] / 2;
		assert_int_equal(sorted_requests(s, first, last, 0, got), sum);
	}
}

static void block_numbers_keep_all_their_forty_bits(void **state)
{
	static const uint64_t blocks[] = {
		0, 1, 0xffffff, 0x1000000, 0x1000001, 0xffffffff, 0x100000000, 0xfedcba9876, 0xffffffffff,
	};
	CLEANUP(spool_close) struct spool *s = NULL;
	struct spool_image image = image_make();
	struct record got[ARRAY_SIZE(blocks)];
	struct spool_writer w;
	size_t len;

	(void)state;
	assert_int_equal(spool_create(&w, scratch, "7", &image, NULL), 0);
	for (size_t i = 0; i < ARRAY_SIZE(blocks); i++) {
		if (i == 0 || blocks[i] / SEGMENT_BLOCKS != blocks[i - 1] / SEGMENT_BLOCKS)
			add_segment(blocks[i] / SEGMENT_BLOCKS, 512, 0, 0);
		add_request((struct fingerprint){ i, UINT64_MAX }, blocks[i]);
	}
	len = spool_frame_make(pending, 0, frame);
	assert_int_equal(spool_frame_check(frame, len, NULL), 0);
	assert_int_equal(spool_append(&w, frame, len, NULL), 0);
	assert_int_equal(spool_commit(&w, scratch, "7", &image, NULL), 0);
	spool_writer_release(&w);
	s = spool_open(scratch, "7", true, NULL);
	assert_int_equal(sorted_requests(s, 0, 255, (uint64_t)1 << 61, got), ARRAY_SIZE(blocks));
	for (size_t i = 0; i < ARRAY_SIZE(blocks); i++) {
		assert_int_equal(got[i].key.hi, i);
		assert_int_equal(got[i].key.lo, KEY_LO_MASK);
		assert_int_equal(got[i].value, blocks[i] + ((uint64_t)1 << 61));
	}
}

static void a_full_frame_fits_its_buffer(void **state)
{
	struct err err = ERR_INIT;
	size_t len;

	(void)state;
	for (unsigned i = 0; i < SPOOL_FRAME_SEGMENTS; i++)
		add_segment(i, 512, 0, 0);
	for (unsigned i = 0; i < SPOOL_FRAME_REQUESTS; i++)
		add_request((struct fingerprint){ random_u64(), 0 }, i);
	len = spool_frame_make(pending, 1, frame);
	assert_int_equal(len, SPOOL_FRAME_MAX);
	assert_int_equal(spool_frame_check(frame, len, &err), 0);
	assert_int_equal(pending->nr_segments + pending->nr_requests + pending->bytes_read, 0);
}

/* A frame comes from another process: everything in it may be a lie.  The sum is made right after each change. */
static void refuse_changed(size_t at, size_t width, uint64_t value)
{
	uint8_t copy[4096];
	struct spool_frame *f = (void *)copy;
	struct err err = ERR_INIT;
	size_t len;

	add_segment(3, 5, 2, 0);
	add_segment(4, 5, 0, SPOOL_SAME);
	add_request((struct fingerprint){ 1, 1 }, 3 * SEGMENT_BLOCKS + 1);
	add_request((struct fingerprint){ 1, 1 }, 3 * SEGMENT_BLOCKS + 2);
	len = spool_frame_make(pending, 5 * SEGMENT_SIZE, frame);
	memcpy(copy, frame, len);
	memcpy(copy + at, &value, width);
	f->header_checksum = le32_from(checksum32(f, offsetof(struct spool_frame, header_checksum), 0));
	if (spool_frame_check(copy, len, &err) == 0)
		fail_msg("%zu bytes at %zu may be %llu", width, at, (unsigned long long)value);
	assert_int_equal(err.kind, ERR_FORMAT);
}

static void refuses_frames_that_lie(void **state)
{
	size_t segments = sizeof(struct spool_frame), ends = segments + 2 * sizeof(struct spool_segment);
	size_t requests = ends + (SPOOL_SLICES + 1) * sizeof(le32);

	(void)state;
	refuse_changed(0, 1, 'X');
	refuse_changed(offsetof(struct spool_frame, kind), 4, 3);
	refuse_changed(offsetof(struct spool_frame, payload_len), 8, UINT64_MAX);
	refuse_changed(offsetof(struct spool_frame, kind), 4, SPOOL_FRAME_END); /* an end with a payload */
	refuse_changed(offsetof(struct spool_frame, nr_segments), 4, UINT32_MAX);
	refuse_changed(offsetof(struct spool_frame, nr_segments), 4, 1);
	refuse_changed(offsetof(struct spool_frame, nr_requests), 4, 3);
	refuse_changed(segments + offsetof(struct spool_segment, segment), 8, 4);
	refuse_changed(segments + offsetof(struct spool_segment, segment), 8, (uint64_t)1 << 31);
	refuse_changed(segments + offsetof(struct spool_segment, stored), 2, 513);
	refuse_changed(segments + offsetof(struct spool_segment, stored), 2, 1); /* fewer than are zero */
	refuse_changed(ends, 4, 1);
	refuse_changed(ends + 4, 4, 3);
	refuse_changed(ends + 256 * 4, 4, 0);
	refuse_changed(requests + 7, 1, 1);			  /* another slice's */
	refuse_changed(requests + 8, 3, 2 * SEGMENT_BLOCKS + 1);  /* in a segment that is not here */
	refuse_changed(requests + 18 + 8, 3, 4 * SEGMENT_BLOCKS); /* in one that did not change */
	refuse_changed(requests + 18 + 8, 3, 3 * SEGMENT_BLOCKS); /* before the request before it */
}

static void refuses_a_frame_cut_anywhere(void **state)
{
	size_t len;

	(void)state;
	add_segment(3, 5, 2, 0);
	add_request((struct fingerprint){ 1, 1 }, 3 * SEGMENT_BLOCKS);
	len = spool_frame_make(pending, 0, frame);
	assert_int_equal(spool_frame_check(frame, len, NULL), 0);
	for (size_t cut = 0; cut < len; cut++) {
		uint8_t *exact = malloc(cut + 1);

		memcpy(exact, frame, cut);
		assert_int_equal(spool_frame_check(exact, cut, NULL), -1);
		free(exact);
	}
}

static void refuses_an_end_frame_that_counts_something(void **state)
{
	struct spool_frame f = { .magic = "DDSF", .kind = le32_from(SPOOL_FRAME_END) };

	(void)state;
	for (unsigned nr = 0; nr < 2; nr++) {
		f.nr_segments = le32_from(nr);
		f.header_checksum = le32_from(checksum32(&f, offsetof(struct spool_frame, header_checksum), 0));
		assert_int_equal(spool_frame_check((const void *)&f, sizeof(f), NULL), nr ? -1 : 0);
	}
}

static void refuses_frames_that_go_back(void **state)
{
	struct spool_image image = image_make();
	struct spool_writer w;
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(spool_create(&w, scratch, "7", &image, &err), 0);
	append_frames(&w, 2, 1);
	append_frames(&w, 0, 1);
	assert_int_equal(spool_commit(&w, scratch, "7", &image, &err), 0);
	spool_writer_release(&w);
	assert_null(spool_open(scratch, "7", true, &err));
	assert_int_equal(err.kind, ERR_FORMAT);
}

/* The ends of a frame's slices lie behind its segments, be these few or many. */
static void slices_are_found_behind_any_number_of_segments(void **state)
{
	static const unsigned numbers[] = { 1, 93, 94, 95, 96, 120, 126, SPOOL_FRAME_SEGMENTS };
	struct record got[4];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
		CLEANUP(spool_close) struct spool *s = NULL;
		struct spool_image image = image_make();
		struct spool_writer w;

		assert_int_equal(spool_create(&w, scratch, "7", &image, NULL), 0);
		for (unsigned k = 0; k < numbers[i]; k++)
			add_segment(k, 512, 0, 0);
		add_request((struct fingerprint){ 0, 1 }, 0);
		add_request((struct fingerprint){ (uint64_t)200 << 56, 1 }, 1);
		add_request((struct fingerprint){ UINT64_MAX, 1 }, 2);
		assert_int_equal(spool_append(&w, frame, spool_frame_make(pending, SEGMENT_SIZE, frame), NULL), 0);
		assert_int_equal(spool_commit(&w, scratch, "7", &image, NULL), 0);
		spool_writer_release(&w);
		s = spool_open(scratch, "7", true, NULL);
		assert_non_null(s);
		assert_int_equal(sorted_requests(s, 0, 255, 0, got), 3);
		assert_int_equal(sorted_requests(s, 200, 200, 0, got), 1);
		assert_int_equal(got[0].value, 1);
		assert_int_equal(sorted_requests(s, 201, 255, 0, got), 1);
		assert_int_equal(got[0].value, 2);
	}
}

static void texts_too_long_are_cut_and_the_rest_stays_apart(void **state)
{
	char big[2 * SPOOL_TEXT_MAX];
	const char *texts[SPOOL_NR_TEXTS] = { "path", "raw", big, "behind", "x", "y" };
	struct spool_image image;

	(void)state;
	memset(big, 'b', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	spool_set_texts(&image, texts);
	assert_string_equal(spool_text(&image, SPOOL_PATH), "path");
	assert_in_range(strlen(spool_text(&image, SPOOL_BACKING)), SPOOL_TEXT_MAX - 64, SPOOL_TEXT_MAX);
	assert_string_equal(spool_text(&image, SPOOL_BACKING_PATH), "");
	assert_string_equal(spool_text(&image, SPOOL_WARNING), "");
}

/* ---- a disk that is full ---- */

static struct file_ops faulty;
static int writes_left;

static ssize_t pwrite_until_full(int fd, const void *buf, size_t len, off_t offset)
{
	if (writes_left-- > 0)
		return pwrite(fd, buf, len, offset);
	errno = ENOSPC;
	return -1;
}

static void a_full_disk_is_told_at_every_step(void **state)
{
	struct spool_image image = image_make();
	int step;

	(void)state;
	faulty = file_ops_os;
	faulty.pwrite = pwrite_until_full;
	for (step = 0; step < 5; step++) {
		struct err err = ERR_INIT;
		struct spool_writer w;
		size_t len;
		int rc;

		file_ops = &faulty;
		writes_left = step;
		add_segment(0, 1, 0, 0);
		len = spool_frame_make(pending, SEGMENT_SIZE, frame);
		rc = spool_create(&w, scratch, "7", &image, &err);
		if (rc == 0)
			rc = spool_append(&w, frame, len, &err);
		if (rc == 0)
			rc = spool_commit(&w, scratch, "7", &image, &err);
		file_ops = &file_ops_os;
		spool_writer_release(&w);
		if (rc == 0)
			break;
		assert_int_equal(err.kind, ERR_FULL);
		assert_int_equal(file_len("7.req"), 0);
	}
	assert_int_equal(step, 4); /* header, frame, header again, end */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		spool_test(gives_back_image_segments_and_requests),
		spool_test(goes_on_where_the_last_whole_frame_ended_whatever_the_length),
		spool_test(a_resumed_file_is_as_if_written_at_once),
		spool_test(every_flipped_bit_is_noticed),
		spool_test(a_flipped_bit_ends_what_is_resumed_there),
		spool_test(a_file_without_its_end_is_refused_at_every_length),
		spool_test(refuses_a_newer_version),
		spool_test(resumes_only_the_same_state_of_the_same_image),
		spool_test(an_image_that_may_have_changed_is_not_resumed),
		spool_test(nothing_there_is_nothing_to_resume),
		spool_test(the_header_written_at_the_end_is_the_one_that_counts),
		spool_test(every_slice_gives_the_keys_of_its_first_byte),
		spool_test(block_numbers_keep_all_their_forty_bits),
		spool_test(a_full_frame_fits_its_buffer),
		spool_test(refuses_frames_that_lie),
		spool_test(refuses_a_frame_cut_anywhere),
		spool_test(refuses_an_end_frame_that_counts_something),
		spool_test(refuses_frames_that_go_back),
		spool_test(texts_too_long_are_cut_and_the_rest_stays_apart),
		spool_test(slices_are_found_behind_any_number_of_segments),
		spool_test(a_full_disk_is_told_at_every_step),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
