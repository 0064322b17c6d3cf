/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "scanner/base/checked.h"
#include "scanner/cache_keeper.h"
#include "scanner/errand.h"
#include "scanner/verify.h"

/* The process that computes the digest of one disk.
 *
 * The guest view is walked from extent to extent.  What is stored of a segment is gathered in a buffer of zeros; a segment of which
 * nothing is stored costs no look at it. */

#define PIECE_SIZE (256 * KIB)

struct reader {
	struct errand_side side;
	struct verify_shared *shared;
	struct cache_keeper keeper;
	struct digest_tree tree;
	uint8_t *buf;	  /* a segment */
	uint64_t segment; /* its number, UINT64_MAX = none */
	uint64_t limit, began, paced; /* bytes a second, 0 = none; ns; bytes since */
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* Sleeps while it is ahead of its limit.  It need not look up: who wants it to stop ends it. */
static void keep_pace(struct reader *r, uint64_t bytes)
{
	uint64_t now, due;

	atomic_fetch_add(&r->shared->bytes_read, bytes);
	if (!r->limit)
		return;
	r->paced += bytes;
	now = now_ns();
	due = r->began + (uint64_t)((double)r->paced * 1e9 / (double)r->limit);
	if (due > now)
		nanosleep(&(struct timespec){ (time_t)((due - now) / 1000000000), (long)((due - now) % 1000000000) }, NULL);
}

static bool all_zero(const uint8_t *p, size_t len)
{
	return !p[0] && memcmp(p, p + 1, len - 1) == 0;
}

static void finish_segment(struct reader *r)
{
	uint8_t digest[DIGEST_SIZE];

	if (r->segment == UINT64_MAX || all_zero(r->buf, SEGMENT_SIZE))
		return;
	digest_bytes(r->buf, SEGMENT_SIZE, digest);
	digest_tree_add(&r->tree, r->segment, digest);
}

static void begin_segment(struct reader *r, uint64_t segment)
{
	finish_segment(r);
	memset(r->buf, 0, SEGMENT_SIZE);
	r->segment = segment;
}

static int read_extent(struct reader *r, const struct extent *ext, uint64_t size, struct err *err)
{
	uint64_t at = ext->offset, end = min_u64(ext->offset + ext->len, size);

	while (at < end) {
		uint64_t segment = at / SEGMENT_SIZE, len = min_u64(end, (at / PIECE_SIZE + 1) * PIECE_SIZE) - at;

		if (segment != r->segment)
			begin_segment(r, segment);
		if (ext->kind == EXTENT_DATA)
			cache_keeper_before(&r->keeper, ext->file->fd, ext->file_offset + (at - ext->offset), len);
		if (image_read_extent(ext, at, r->buf + at % SEGMENT_SIZE, len, err) < 0)
			return -1;
		at += len;
		atomic_store(&r->shared->address, at);
		keep_pace(r, len);
	}
	return 0;
}

static int read_disk(struct reader *r, struct image *img, struct err *err)
{
	struct extent ext;

	r->segment = UINT64_MAX;
	atomic_store(&r->shared->size, img->size);
	digest_tree_begin(&r->tree, img->size);
	for (uint64_t at = 0; at < img->size; at = ext.offset + ext.len) {
		if (image_next_guest_extent(img, at, &ext, err) < 0)
			return -1;
		if ((ext.kind == EXTENT_DATA || ext.kind == EXTENT_PACKED) && read_extent(r, &ext, img->size, err) < 0)
			return -1;
		atomic_store(&r->shared->address, ext.offset + ext.len);
	}
	finish_segment(r);
	digest_tree_end(&r->tree, r->shared->digest);
	return 0;
}

static int digest_image(struct reader *r, struct err *err)
{
	CLEANUP(image_close) struct image *img = errand_open_image(&r->side, err);
	int rc;

	if (!img)
		return -1;
	if (img->info.encrypted)
		return err_set(err, ERR_UNSUPPORTED, "it is encrypted: what the guest sees cannot be read");
	if (img->info.total_size > img->size)
		return err_set(err, ERR_UNSUPPORTED, "it holds several disks: a digest is of one");
	if (image_open_chain(img, &r->side.opener, err) < 0)
		return -1;
	cache_keeper_begin(&r->keeper, r->side.job.keep_cache);
	rc = read_disk(r, img, err);
	cache_keeper_end(&r->keeper); /* before its descriptors go */
	return rc;
}

int verify_worker_run(int sock, void *shared, void *arg)
{
	struct reader *r = calloc(1, sizeof(*r));
	struct err err = ERR_INIT;

	if (!r || !(r->buf = aligned_alloc(BLOCK_SIZE, SEGMENT_SIZE)) || errand_begin(&r->side, sock, false) < 0)
		return 1;
	r->shared = shared;
	r->limit = *(const uint64_t *)arg;
	r->began = now_ns();
	return errand_end(&r->side, digest_image(r, &err) < 0 ? &err : NULL);
}
