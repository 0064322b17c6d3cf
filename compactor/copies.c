/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/copies.h"

#include <string.h>

/* Candidates are sorted so that copies are neighbours, the lowest rank first. */

struct candidate {
	uint32_t image;
	struct fingerprint content;
};

static bool may_be(const struct store *s, const struct store_image *i)
{
	return i->mixed && !i->out && !i->relayout && i->nr_files == 1 && s->file_systems.items[i->fs].dedupes;
}

static int compare_content(const struct store *s, const struct candidate *a, const struct candidate *b)
{
	const struct store_image *x = &s->images.items[a->image], *y = &s->images.items[b->image];
	uint64_t x_size = s->files.items[x->first_file].size, y_size = s->files.items[y->first_file].size;

	if (x->fs != y->fs)
		return x->fs < y->fs ? -1 : 1;
	if (x_size != y_size)
		return x_size < y_size ? -1 : 1;
	if (a->content.hi != b->content.hi)
		return a->content.hi < b->content.hi ? -1 : 1;
	if (a->content.lo != b->content.lo)
		return a->content.lo < b->content.lo ? -1 : 1;
	return strcmp(x->format, y->format);
}

static int compare(const void *a, const void *b, void *ctx)
{
	const struct candidate *x = a, *y = b;
	const struct store *s = ctx;
	int order = compare_content(s, x, y);
	uint32_t x_rank = s->images.items[x->image].rank, y_rank = s->images.items[y->image].rank;

	return order ? order : x_rank < y_rank ? -1 : x_rank > y_rank;
}

int copies_find(struct store *s, struct err *err)
{
	VEC(struct candidate) list = VEC_INIT;
	size_t first = 0;
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < s->images.nr; i++) {
		struct candidate c = { .image = (uint32_t)i };

		if (!may_be(s, &s->images.items[i]))
			continue;
		rc = catalog_content_digest(s->c, s->images.items[i].id, &c.content, err);
		if (rc == 0 && vec_push(&list, c) < 0)
			rc = err_set(err, ERR_MEMORY, "no memory to look for copies");
	}
	if (rc == 0 && list.nr)
		qsort_r(list.items, list.nr, sizeof(list.items[0]), compare, s);
	for (size_t i = 1; rc == 0 && i < list.nr; i++) {
		if (compare_content(s, &list.items[first], &list.items[i]) != 0)
			first = i;
		else if (!s->images.items[list.items[i].image].fixed)
			s->images.items[list.items[i].image].copy_of = list.items[first].image;
	}
	vec_release(&list);
	return rc;
}
