/* SPDX-License-Identifier: Apache-2.0 */
#include "reports/overview.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct cell overview_references(unsigned bucket)
{
	static const char units[] = " KMGT";
	struct cell c;

	snprintf(c.s, sizeof(c.s), "%u%.*s", 1u << bucket % 10, bucket >= 10, &units[bucket / 10]);
	return c;
}

struct cell overview_ratio(uint64_t before, uint64_t after)
{
	return cell_quotient("%.2fx", 1, before, after);
}

/* ---- the headline ---- */

static void put_savings(FILE *out, const struct tally *t, const struct report_options *o)
{
	uint64_t duplicates = report_duplicates(t), left = duplicates;
	bool known = report_left_to_save(t, &left);

	if (!duplicates) {
		fprintf(out, ", no duplicates: nothing to save.\n");
		return;
	}
	fprintf(out, ", %s of it duplicate (%s):\n", cell_quotient("%.0f %%", 100, duplicates, t->nonzero).s,
		overview_ratio(t->nonzero, t->distinct).s);
	if (known && !left)
		fprintf(out, "the file system shares them already, nothing is left to save.\n");
	else
		fprintf(out, "%s could be saved%s.\n", cell_said(o, left).s,
			known ? t->fs_shared ? ", on top of what the file system shares already" : ""
			      : ", less what the file system shares already (it cannot say)");
}

void overview_headline(FILE *out, const struct tally *t, const struct report_options *o)
{
	uint64_t good = t->nr_images - t->nr_failed;

	if (!t->nr_images)
		fprintf(out, "No disk images found.\n");
	else if (!good)
		fprintf(out, "No image could be read.\n");
	else if (!t->nonzero)
		fprintf(out, "%" PRIu64 " image%s without %s.\n", good, cell_plural(good),
			!t->nr_pools ? "any data" : good == 1 ? "data of its own" : "data of their own");
	else {
		fprintf(out, "%" PRIu64 " image%s with %s of data", good, cell_plural(good),
			cell_said(o, t->nonzero).s);
		put_savings(out, t, o);
	}
	if (!t->complete)
		fprintf(out, "INCOMPLETE: a scan was stopped; some images are missing or as they were before.\n");
	if (t->nr_failed)
		fprintf(out, "%zu image%s could not be read and %s not counted, see PROBLEMS.\n", t->nr_failed,
			cell_plural(t->nr_failed), t->nr_failed == 1 ? "is" : "are");
}

/* ---- images ---- */

static uint64_t sort_figure(const struct image_tally *img, enum report_sort sort)
{
	switch (sort) {
	case REPORT_SORT_STORED:
		return img->stored;
	case REPORT_SORT_EXCLUSIVE:
		return img->exclusive;
	case REPORT_SORT_SHARE:
		return img->share;
	case REPORT_SORT_PATH:
		break;
	}
	return 0;
}

static int compare_images(const void *a, const void *b, void *arg)
{
	const struct image_tally *x = *(const struct image_tally *const *)a, *y = *(const struct image_tally *const *)b;
	enum report_sort sort = *(const enum report_sort *)arg;
	uint64_t fx = sort_figure(x, sort), fy = sort_figure(y, sort);

	return fx != fy ? (fx < fy ? 1 : -1) : strcmp(x->path, y->path);
}

const struct image_tally **overview_images(const struct tally *t, enum report_sort sort, size_t *ret_nr)
{
	const struct image_tally **list = calloc(t->nr_images + 1, sizeof(*list));

	if (!list)
		return NULL;
	*ret_nr = 0;
	for (size_t i = 0; i < t->nr_images; i++)
		if (!report_image_failed(&t->images[i]))
			list[(*ret_nr)++] = &t->images[i];
	qsort_r(list, *ret_nr, sizeof(*list), compare_images, &sort);
	return list;
}

const char *overview_order(enum report_sort sort)
{
	static const char *const orders[] = {
		[REPORT_SORT_STORED] = "STORED",
		[REPORT_SORT_EXCLUSIVE] = "EXCLUSIVE",
		[REPORT_SORT_SHARE] = "SHARE",
		[REPORT_SORT_PATH] = "PATH",
	};

	return orders[sort];
}
