/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "compactor/pool/feed.h"
#include "scanner/base/checked.h"
#include "scanner/base/proc.h"
#include "scanner/cache_keeper.h"

/* The process that reads the disk.
 *
 * One walk looks for the next segment that counts, over the guest view or over what the image itself holds; another one reads that
 * segment's bytes.  Segments are read straight into the ring. */

struct reader {
	struct errand_side side;
	struct feed_shared *shared;
	struct cache_keeper keeper;
	struct feed_told told;
	bool busy[FEED_SLOTS]; /* the parent has it */
	uint32_t slot;	       /* to be filled next, free */
};

static bool all_zero(const uint8_t *p, size_t len)
{
	return !p[0] && memcmp(p, p + 1, len - 1) == 0;
}

/* ---- the ring ---- */

static int wait_for_slot(struct reader *r, uint32_t slot, struct err *err)
{
	struct worker_message *m = r->side.m;

	while (r->busy[slot]) {
		int fd = -1;
		ssize_t n = proc_recv(r->side.sock, m, sizeof(*m), &fd, err);

		if (n <= 0 || m->kind != WORKER_FREE || m->slot >= FEED_SLOTS)
			return n < 0 ? -1 : err_set(err, ERR_STALE, "the parent is gone");
		r->busy[m->slot] = false;
	}
	return 0;
}

static int send_slot(struct reader *r, uint64_t segment, struct err *err)
{
	*r->side.m = (struct worker_message){ .kind = WORKER_FRAME, .slot = r->slot };
	atomic_store(&r->shared->segments[r->slot], segment);
	if (worker_send(r->side.sock, r->side.m, -1, err) < 0)
		return -1;
	r->busy[r->slot] = true;
	r->slot = (r->slot + 1) % FEED_SLOTS;
	return wait_for_slot(r, r->slot, err);
}

/* Who leaves with messages unread makes the other side lose what was said last. */
static void wait_for_all(struct reader *r)
{
	for (uint32_t slot = 0; slot < FEED_SLOTS; slot++)
		if (wait_for_slot(r, slot, NULL) < 0)
			return;
}

/* ---- segments ---- */

/* The next one at or behind `from`, which begins one, that counts: 1, 0 = there is none, -1. */
static int find_segment(struct reader *r, struct image *img, uint64_t from, uint64_t *ret, struct err *err)
{
	struct extent ext;

	for (uint64_t at = from; at < img->size; at = ext.offset + ext.len) {
		if ((r->told.own ? image_next_extent : image_next_guest_extent)(img, at, &ext, err) < 0)
			return -1;
		if (ext.kind == EXTENT_DATA || ext.kind == EXTENT_PACKED || (ext.kind == EXTENT_ZERO && r->told.own)) {
			*ret = at / SEGMENT_SIZE;
			return 1;
		}
		atomic_store(&r->shared->address, ext.offset + ext.len);
	}
	return 0;
}

static int read_piece(struct reader *r, const struct extent *ext, uint64_t at, uint8_t *buf, size_t len, struct err *err)
{
	if (ext->kind == EXTENT_DATA)
		cache_keeper_before(&r->keeper, ext->file->fd, ext->file_offset + (at - ext->offset), len);
	if (ext->kind == EXTENT_DATA || ext->kind == EXTENT_PACKED)
		atomic_fetch_add(&r->shared->bytes_read, len);
	return image_read_extent(ext, at, buf, len, err);
}

static int read_segment(struct reader *r, struct image *img, uint64_t segment, uint8_t *buf, struct err *err)
{
	uint64_t begin = segment * SEGMENT_SIZE, end = min_u64(begin + SEGMENT_SIZE, img->size), len;
	struct sectors own = { 0 };
	struct extent ext;

	for (uint64_t at = begin; at < end; at += len) {
		if ((r->told.own ? image_next_extent : image_next_guest_extent)(img, at, &ext, err) < 0)
			return -1;
		len = min_u64(end - at, ext.len);
		if (r->told.own && ext.kind == EXTENT_HOLE)
			continue;
		if (read_piece(r, &ext, at, buf + (at - begin), len, err) < 0)
			return -1;
		sectors_add(&own, (unsigned)((at - begin) / SECTOR_SIZE), (unsigned)div_up(at - begin + len, SECTOR_SIZE));
	}
	r->shared->own[r->slot] = own;
	memset(buf + (end - begin), 0, SEGMENT_SIZE - (end - begin));
	atomic_store(&r->shared->address, end);
	return 0;
}

/* ---- the disk ---- */

static int read_disk(struct reader *r, struct image *img, struct err *err)
{
	uint64_t segment;
	int rc;

	*r->side.m = (struct worker_message){ .kind = WORKER_IMAGE, .image.virtual_size = img->size };
	if (worker_send(r->side.sock, r->side.m, -1, err) < 0)
		return -1;
	for (uint64_t at = 0; (rc = find_segment(r, img, at, &segment, err)) > 0; at = (segment + 1) * SEGMENT_SIZE) {
		uint8_t *buf = r->shared->bytes[r->slot];

		if (read_segment(r, img, segment, buf, err) < 0)
			return -1;
		if ((r->told.own || !all_zero(buf, SEGMENT_SIZE)) && send_slot(r, segment, err) < 0)
			return -1;
	}
	return rc;
}

static int read_image(struct reader *r, struct err *err)
{
	CLEANUP(image_close) struct image *img = errand_open_image(&r->side, err);
	int rc;

	if (!img)
		return -1;
	if (img->info.encrypted)
		return err_set(err, ERR_UNSUPPORTED, "it is encrypted: what the guest sees cannot be read");
	if (img->info.total_size > img->size)
		return err_set(err, ERR_UNSUPPORTED, "it holds several disks");
	if (r->told.snapshot && image_show_snapshot(img, r->told.snapshot, &r->shared->snapshot, err) < 0)
		return -1;
	if (!r->told.own && image_open_chain(img, &r->side.opener, err) < 0)
		return -1;
	cache_keeper_begin(&r->keeper, r->side.job.keep_cache);
	rc = read_disk(r, img, err);
	cache_keeper_end(&r->keeper); /* before its descriptors go */
	return rc;
}

int feed_worker(int sock, void *shared, void *arg)
{
	struct reader *r = calloc(1, sizeof(*r));
	struct err why = ERR_INIT;
	int rc;

	if (!r || errand_begin(&r->side, sock, false) < 0)
		return 1;
	r->shared = shared;
	r->told = *(const struct feed_told *)arg;
	rc = read_image(r, &why);
	wait_for_all(r);
	return errand_end(&r->side, rc < 0 ? &why : NULL);
}
