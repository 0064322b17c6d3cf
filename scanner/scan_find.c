/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "scanner/scan_parts.h"

/* Finding: the walk of the roots, and what its result says about images that the catalog knows. */

static int found_file(void *ctx, const struct found *f, struct err *err)
{
	struct scan *s = ctx;

	if (catalog_found_add(s->c, f, err) < 0)
		return -1;
	scan_tell_progress(s, "finding", 0, 0);
	return 0;
}

static void found_problem(void *ctx, const char *path, const struct err *why, bool listing)
{
	struct scan *s = ctx;

	s->listing_failed |= listing;
	s->ret->nr_not_images += !listing && !s->named;
	s->ret->nr_failed += listing || s->named;
	scan_tell_problem(s, path, why);
}

static bool found_stop(void *ctx)
{
	struct scan *s = ctx;

	return stopper_says(s->o->stopper);
}

static int add_new_image(void *ctx, const struct found *f, struct err *err)
{
	struct scan *s = ctx;
	CLEANUP(catalog_image_release) struct catalog_image image = { 0 };
	int rc = catalog_image_by_path(s->c, f->path, &image, err);
	int64_t id;

	s->images_total++;
	s->bytes_total += f->file_used;
	return rc ? (rc < 0 ? -1 : 0) : catalog_image_add(s->c, f->path, &id, err);
}

/* A root whose listing failed somewhere says nothing about what is gone. */
static int find_beneath(struct scan *s, const struct root *root, struct err *err)
{
	struct roots_visitor v = { found_file, found_problem, found_stop, s };

	s->listing_failed = false;
	s->named = root->file != NULL;
	if (roots_walk(s->o->roots, root, &v, err) < 0)
		return -1;
	if (catalog_add_root(s->c, root->path, err) < 0)
		return -1;
	return 0;
}

static int settle_roots(struct scan *s, const bool *failed, struct err *err)
{
	for (size_t i = 0; i < s->o->roots->list.nr; i++) {
		const struct root *root = &s->o->roots->list.items[i];

		if (root->walked && catalog_settle_missing(s->c, root->path, !failed[i], &s->ret->nr_renamed,
							   &s->ret->nr_removed, err) < 0)
			return -1;
	}
	return 0;
}

static int find_all(struct scan *s, struct err *err)
{
	CLEANUP(free) bool *failed = calloc(s->o->roots->list.nr + 1, sizeof(bool));

	if (!failed)
		return err_set(err, ERR_MEMORY, "no memory for the roots");
	if (catalog_found_clear(s->c, err) < 0 || catalog_set_number(s->c, "scan_unfinished", 1, err) < 0)
		return -1;
	/* Named files first: met again in a directory they stay named. */
	for (size_t n = 0; n < 2 * s->o->roots->list.nr; n++) {
		size_t i = n % s->o->roots->list.nr;
		const struct root *root = &s->o->roots->list.items[i];

		if (!root->walked || (root->file != NULL) != (n < s->o->roots->list.nr))
			continue;
		if (find_beneath(s, root, err) < 0)
			return -1;
		failed[i] = s->listing_failed;
	}
	if (settle_roots(s, failed, err) < 0)
		return -1;
	return catalog_each_found(s->c, add_new_image, s, err);
}

int scan_find(struct scan *s, struct err *err)
{
	if (catalog_begin(s->c, err) < 0)
		return -1;
	if (find_all(s, err) < 0) {
		catalog_rollback(s->c);
		return -1;
	}
	return catalog_commit(s->c, err);
}
