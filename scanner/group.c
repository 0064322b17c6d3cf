/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/group.h"

#include <stdlib.h>
#include <string.h>

#include "scanner/base/block.h"
#include "scanner/base/checked.h"
#include "scanner/base/cleanup.h"
#include "scanner/base/vec.h"
#include "scanner/index/judymap.h"

/*
 * Of a group with R blocks in I images at D different guest offsets, R - 1 are duplicates; I - 1 of them are between images
 * and R - I within; R - D of them are same-offset and D - 1 other-offset.  What no sum gives is how the two divisions
 * cross: a block that is between images is the first of its image, so for each image one needs to know whether an earlier image
 * has the group at that block's offset.
 */

#define WINDOW_BITS ((uint64_t)1 << 25)

static void count_group(struct count *c, uint64_t nr)
{
	struct histogram_bucket *b = &c->histogram[63 - __builtin_clzll(nr)];

	c->nr_groups++;
	b->nr_distinct++;
	b->nr_blocks += nr;
}

static uint64_t guest_offset(const struct count *c, uint64_t position)
{
	return POSITION_BLOCK(position) % c->layer[POSITION_RANK(position)];
}

/* The crossed figures follow from the sums and from how many duplicates are both between and same-offset. */
static void count_split(struct count *c, uint64_t nr, uint64_t nr_images, uint64_t nr_offsets, uint64_t between_same)
{
	uint64_t same = nr - nr_offsets;

	c->between_same += between_same;
	c->between_other += nr_images - 1 - between_same;
	c->within_same += same - between_same;
	c->within_other += nr - nr_images - (same - between_same);
}

static void count_image(struct count *c, uint32_t rank, uint64_t nr_here, uint64_t nr, bool first, bool alone)
{
	struct image_count *i = &c->images[rank];

	i->nr_grouped += nr_here;
	i->nr_within += nr_here - 1;
	i->nr_between += !first;
	i->nr_shared += alone ? 0 : nr_here;
	i->nr_own_groups += alone;
	i->share += ((share_t)BLOCK_SIZE << 64) / nr * nr_here;
}

/* ---- groups in memory ---- */

static int compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void sort(uint64_t *p, size_t nr)
{
	if (nr > 24) {
		qsort(p, nr, sizeof(*p), compare_u64);
		return;
	}
	for (size_t i = 1; i < nr; i++) {
		uint64_t v = p[i];
		size_t k = i;

		for (; k > 0 && p[k - 1] > v; k--)
			p[k] = p[k - 1];
		p[k] = v;
	}
}

static int compare_by_offset(const void *a, const void *b, void *arg)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	uint64_t x_offset = guest_offset(arg, x), y_offset = guest_offset(arg, y);

	if (x_offset != y_offset)
		return x_offset < y_offset ? -1 : 1;
	return x < y ? -1 : x > y;
}

static uint64_t count_offsets_of(const struct count *c, const uint64_t *by_offset, size_t nr)
{
	uint64_t nr_offsets = 1;

	for (size_t i = 1; i < nr; i++)
		nr_offsets += guest_offset(c, by_offset[i]) != guest_offset(c, by_offset[i - 1]);
	return nr_offsets;
}

/* True when an image before that of `position` has a block at the same offset: the first one there is the lowest. */
static bool offset_seen_before(const struct count *c, const uint64_t *by_offset, size_t nr, uint64_t position)
{
	uint64_t offset = guest_offset(c, position);
	size_t low = 0, high = nr;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (guest_offset(c, by_offset[mid]) < offset)
			low = mid + 1;
		else
			high = mid;
	}
	return POSITION_RANK(by_offset[low]) < POSITION_RANK(position);
}

/* Counts by image; returns how many there are and how many have their first block where an earlier one has one too. */
static uint64_t count_images(struct count *c, const uint64_t *p, const uint64_t *by_offset, size_t nr,
			     uint64_t *ret_between_same)
{
	bool alone = POSITION_RANK(p[0]) == POSITION_RANK(p[nr - 1]);
	uint64_t nr_images = 0, between_same = 0;

	for (size_t from = 0, to; from < nr; from = to) {
		uint32_t rank = POSITION_RANK(p[from]);

		for (to = from + 1; to < nr && POSITION_RANK(p[to]) == rank; to++)
			;
		count_image(c, rank, to - from, nr, from == 0, alone);
		between_same += offset_seen_before(c, by_offset, nr, p[from]);
		nr_images++;
	}
	*ret_between_same = between_same;
	return nr_images;
}

/* Two blocks, as most groups have: what the general way gives, without its sorting. */
static void count_pair(struct count *c, const uint64_t *p)
{
	bool alone = POSITION_RANK(p[0]) == POSITION_RANK(p[1]);
	bool same = guest_offset(c, p[0]) == guest_offset(c, p[1]);

	if (alone) {
		count_image(c, POSITION_RANK(p[0]), 2, 2, true, true);
	} else {
		count_image(c, POSITION_RANK(p[0]), 1, 2, true, false);
		count_image(c, POSITION_RANK(p[1]), 1, 2, false, false);
	}
	count_split(c, 2, alone ? 1 : 2, same ? 1 : 2, same && !alone);
}

int group_count(struct count *c, uint64_t *p, uint64_t *scratch, size_t nr, struct err *err)
{
	uint64_t nr_images, between_same;

	count_group(c, nr);
	if (nr == 1)
		return 0;
	sort(p, nr);
	if (nr == 2) {
		count_pair(c, p);
	} else {
		memcpy(scratch, p, nr * sizeof(*p));
		qsort_r(scratch, nr, sizeof(*p), compare_by_offset, c);
		nr_images = count_images(c, p, scratch, nr, &between_same);
		count_split(c, nr, nr_images, count_offsets_of(c, scratch, nr), between_same);
	}
	for (size_t i = 1; c->duplicate && i < nr; i++)
		if (c->duplicate(c->ctx, p[i], p[0], err) < 0)
			return -1;
	return 0;
}

/* ---- groups of any size ---- */

struct stream_image {
	uint32_t rank;
	uint64_t nr, first; /* its blocks, the first one's number */
};

struct stream {
	struct count *c;
	const struct group_stream *s;
	struct judymap by_rank; /* rank -> index in images, + 1 */
	VEC(struct stream_image) images;
	struct judymap first_at; /* offset of an image's first block -> lowest rank with a block there, + 1 */
	uint64_t nr, origin;
};

static int no_memory(struct err *err)
{
	return err_set(err, ERR_MEMORY, "no memory to count blocks that occur very often");
}

static int add_position(struct stream *st, uint64_t position, struct err *err)
{
	uint32_t rank = POSITION_RANK(position);
	uint64_t *slot = judymap_put(&st->by_rank, rank);
	struct stream_image *i;

	if (!slot)
		return no_memory(err);
	if (!*slot) {
		if (vec_push(&st->images, (struct stream_image){ rank, 0, POSITION_BLOCK(position) }) < 0)
			return no_memory(err);
		*slot = st->images.nr;
	}
	i = &st->images.items[*slot - 1];
	i->nr++;
	i->first = min_u64(i->first, POSITION_BLOCK(position));
	st->nr++;
	st->origin = min_u64(st->origin, position);
	return 0;
}

/* Calls for every position of the group. */
static int each_position(struct stream *st, int (*call)(struct stream *, uint64_t, struct err *), struct err *err)
{
	uint64_t position;
	int rc = st->s->rewind(st->s->ctx, err);

	while (rc == 0 && (rc = st->s->next(st->s->ctx, &position, err)) > 0)
		rc = call(st, position, err);
	return rc;
}

static int note_rank(struct stream *st, uint64_t position, struct err *err)
{
	uint64_t *slot = judymap_get(&st->first_at, guest_offset(st->c, position));

	(void)err;
	if (slot && (!*slot || *slot - 1 > POSITION_RANK(position)))
		*slot = POSITION_RANK(position) + 1;
	return 0;
}

static int count_between_same(struct stream *st, uint64_t *ret, struct err *err)
{
	*ret = 0;
	for (size_t i = 0; i < st->images.nr; i++)
		if (!judymap_put(&st->first_at, guest_offset(st->c, POSITION(st->images.items[i].rank, st->images.items[i].first))))
			return no_memory(err);
	if (each_position(st, note_rank, err) < 0)
		return -1;
	for (size_t i = 0; i < st->images.nr; i++) {
		struct stream_image *im = &st->images.items[i];

		*ret += *judymap_get(&st->first_at, guest_offset(st->c, POSITION(im->rank, im->first))) - 1 < im->rank;
	}
	return 0;
}

/* Different offsets, by a bitmap over one window of them after the other; what is empty between windows is skipped. */
static int count_offsets(struct stream *st, uint64_t *ret, struct err *err)
{
	CLEANUP(free) uint8_t *bits = malloc(WINDOW_BITS / 8);

	*ret = 0;
	if (!bits)
		return no_memory(err);
	for (uint64_t from = 0, beyond; from != UINT64_MAX; from = beyond) {
		uint64_t position;
		int rc = st->s->rewind(st->s->ctx, err);

		beyond = UINT64_MAX;
		memset(bits, 0, WINDOW_BITS / 8);
		while (rc == 0 && (rc = st->s->next(st->s->ctx, &position, err)) > 0) {
			uint64_t offset = guest_offset(st->c, position), at = offset - from;

			rc = 0;
			if (offset >= from + WINDOW_BITS)
				beyond = min_u64(beyond, offset);
			if (at >= WINDOW_BITS || bits[at / 8] >> (at % 8) & 1)
				continue;
			bits[at / 8] |= (uint8_t)(1u << (at % 8));
			(*ret)++;
		}
		if (rc < 0)
			return -1;
	}
	return 0;
}

static int tell_duplicate(struct stream *st, uint64_t position, struct err *err)
{
	return position == st->origin ? 0 : st->c->duplicate(st->c->ctx, position, st->origin, err);
}

static int count_stream(struct stream *st, struct err *err)
{
	uint64_t between_same, nr_offsets;

	if (each_position(st, add_position, err) < 0)
		return -1;
	if (st->nr == 0)
		return 0;
	if (count_between_same(st, &between_same, err) < 0 || count_offsets(st, &nr_offsets, err) < 0)
		return -1;
	count_group(st->c, st->nr);
	for (size_t i = 0; i < st->images.nr && st->nr > 1; i++)
		count_image(st->c, st->images.items[i].rank, st->images.items[i].nr, st->nr,
			    st->images.items[i].rank == POSITION_RANK(st->origin), st->images.nr == 1);
	count_split(st->c, st->nr, st->images.nr, nr_offsets, between_same);
	return st->c->duplicate ? each_position(st, tell_duplicate, err) : 0;
}

int group_count_stream(struct count *c, const struct group_stream *s, struct err *err)
{
	struct stream st = { .c = c, .s = s, .origin = UINT64_MAX };
	int rc = count_stream(&st, err);

	judymap_release(&st.by_rank);
	judymap_release(&st.first_at);
	vec_release(&st.images);
	return rc;
}
