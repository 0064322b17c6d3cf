/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/repeats.h"

#include <stdlib.h>

#include "scanner/base/bytes.h"
#include "scanner/base/checked.h"
#include "scanner/group.h"
#include "scanner/index/sorter.h"

/* Sorted by digest, and of each digest all but the first by position: a stream that goes along with that of blocks. */

#define MEMORY ((size_t)1 << 20) /* of each of the two sorters: 20,000 segments, 40 GiB, without the disk */

struct repeats {
	struct sorter *sorted; /* by position, which is the key */
	const struct record *next; /* of them, not passed yet */
	ssize_t nr; /* at next; 0 and at_end: no more */
	bool at_end;
};

static int put(struct sorter *s, struct key key, uint64_t value, struct err *err)
{
	size_t room;
	struct record *to = sorter_room(s, 1, &room, err);

	if (!to)
		return -1;
	*to = (struct record){ .key = key, .value = value };
	sorter_commit(s, 1);
	return 0;
}

struct of_image {
	struct sorter *by_digest;
	uint32_t rank;
	uint64_t nr_segments; /* of the guest's disk */
};

static int put_segment(void *ctx, uint64_t segment, const uint8_t digest[16], unsigned stored, unsigned zero, struct err *err)
{
	const struct of_image *i = ctx;
	struct key key = { le64_load(digest), le64_load(digest + 8) };

	if (segment >= i->nr_segments || stored == zero)
		return 0;
	return put(i->by_digest, key, POSITION(i->rank, segment * SEGMENT_BLOCKS), err);
}

static int put_all(const struct store *s, const uint32_t *images, size_t nr, struct sorter *by_digest, struct err *err)
{
	for (size_t rank = 0; rank < nr; rank++) {
		const struct store_image *image = &s->images.items[images[rank]];
		struct of_image i = { by_digest, (uint32_t)rank, div_up(image->layer, SEGMENT_BLOCKS) };

		if (image->depth == 0 && catalog_each_segment(s->c, image->id, put_segment, &i, err) < 0)
			return -1;
	}
	return sorter_finish(by_digest, err);
}

/* Equal ones come in the order in which they were put. */
static int keep_later_ones(struct repeats *r, struct sorter *by_digest, struct err *err)
{
	const struct record *batch;
	struct key last = { 0 };
	bool any = false;
	ssize_t nr;

	while ((nr = sorter_next(by_digest, &batch, err)) > 0) {
		for (ssize_t i = 0; i < nr; i++, any = true) {
			bool again = any && batch[i].key.hi == last.hi && batch[i].key.lo == last.lo;

			last = batch[i].key;
			if (again && put(r->sorted, (struct key){ .hi = batch[i].value }, 0, err) < 0)
				return -1;
		}
	}
	return nr < 0 ? -1 : sorter_finish(r->sorted, err);
}

struct repeats *repeats_find(const struct store *s, const uint32_t *images, size_t nr, struct err *err)
{
	CLEANUP(sorter_free) struct sorter *by_digest = sorter_new(MEMORY, catalog_spool_dirfd(s->c), err);
	CLEANUP(repeats_free) struct repeats *r = calloc(1, sizeof(*r));

	if (!r)
		return err_null(err, ERR_MEMORY, "no memory to look for segments that come again");
	r->sorted = by_digest ? sorter_new(MEMORY, catalog_spool_dirfd(s->c), err) : NULL;
	if (!r->sorted || put_all(s, images, nr, by_digest, err) < 0 || keep_later_ones(r, by_digest, err) < 0)
		return NULL;
	return STEAL(r);
}

int repeats_has(struct repeats *r, uint64_t position, struct err *err)
{
	for (; !r->at_end; r->next++, r->nr--) {
		if (r->nr == 0)
			r->nr = sorter_next(r->sorted, &r->next, err);
		if (r->nr < 0)
			return -1;
		r->at_end = r->nr == 0;
		if (r->at_end || position < r->next->key.hi)
			return 0;
		if (position < r->next->key.hi + SEGMENT_BLOCKS)
			return 1;
	}
	return 0;
}

void repeats_free(struct repeats *r)
{
	if (!r)
		return;
	sorter_free(r->sorted);
	free(r);
}
