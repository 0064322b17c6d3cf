/* SPDX-License-Identifier: Apache-2.0 */
/* One JSON object, its members named as in scanner/tally.h; dedupscan-report(1) describes it.
 *
 * Version 1 may gain members; when one changes its meaning or goes, the version does too. */
#include "reports/json_tree.h"
#include "reports/report.h"

#include "scanner/base/block.h"

static struct json_t *totals(const struct tally *t, bool *bad)
{
	struct json_t *obj = tree_object();
	uint64_t left = 0;
	bool known = report_left_to_save(t, &left);

	tree_size(obj, "nr_images", t->nr_images, bad);
	tree_size(obj, "nr_failed", t->nr_failed, bad);
	tree_size(obj, "nr_not_images", t->nr_not_images, bad);
	tree_size(obj, "file_size", t->file_size, bad);
	tree_size(obj, "file_used", t->file_used, bad);
	tree_size(obj, "virtual_size", t->virtual_size, bad);
	tree_size(obj, "stored", t->stored, bad);
	tree_size(obj, "nonzero", t->nonzero, bad);
	tree_size(obj, "distinct", t->distinct, bad);
	tree_size(obj, "duplicates", report_duplicates(t), bad);
	tree_size(obj, "within_same", t->within_same, bad);
	tree_size(obj, "within_other", t->within_other, bad);
	tree_size(obj, "between_same", t->between_same, bad);
	tree_size(obj, "between_other", t->between_other, bad);
	tree_maybe(obj, "fs_shared", known, (uint64_t)t->fs_shared, bad);
	tree_maybe(obj, "left_to_save", known, left, bad);
	tree_size(obj, "originals_file_used", t->originals_used, bad);
	return obj;
}

static struct json_t *runs(const struct tally *t, bool *bad)
{
	struct json_t *array = tree_array();

	for (size_t i = 0; i < RUN_CLASSES; i++) {
		struct json_t *obj = tree_object();

		tree_size(obj, "min_length", t->runs[i].min_length, bad);
		tree_size(obj, "nr_runs", t->runs[i].nr_runs, bad);
		tree_size(obj, "saved", t->runs[i].saved, bad);
		tree_append(array, obj, bad);
	}
	return array;
}

static struct json_t *histogram(const struct tally *t, bool *bad)
{
	struct json_t *array = tree_array();

	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
		const struct histogram_bucket *b = &t->histogram[i];
		struct json_t *obj;

		if (!b->nr_distinct)
			continue;
		obj = tree_object();
		tree_size(obj, "references", (uint64_t)1 << i, bad);
		tree_size(obj, "nr_distinct", b->nr_distinct, bad);
		tree_size(obj, "nr_blocks", b->nr_blocks, bad);
		tree_append(array, obj, bad);
	}
	return array;
}

static struct json_t *cost(const struct tally *t, bool *bad)
{
	struct json_t *obj = tree_object();

	tree_size(obj, "index_bytes", t->index_bytes, bad);
	tree_size(obj, "catalog_bytes", t->catalog_bytes, bad);
	tree_size(obj, "nr_keys", t->nr_keys, bad);
	tree_size(obj, "nr_places", t->nr_places, bad);
	tree_maybe(obj, "peak_memory", t->peak_memory > 0, t->peak_memory, bad);
	return obj;
}

static void set_figures(struct json_t *obj, const struct image_tally *img, bool *bad)
{
	bool known = !report_image_failed(img);

	tree_maybe(obj, "virtual_size", known, img->virtual_size, bad);
	tree_maybe(obj, "stored", known, img->stored, bad);
	tree_maybe(obj, "zero", known, img->zero, bad);
	tree_maybe(obj, "exclusive", known, img->exclusive, bad);
	tree_maybe(obj, "shared", known, img->shared, bad);
	tree_maybe(obj, "share", known, img->share, bad);
	tree_maybe(obj, "duplicate_within", known, img->duplicate_within, bad);
	tree_maybe(obj, "duplicate_between", known, img->duplicate_between, bad);
}

static struct json_t *image(const struct image_tally *img, bool *bad)
{
	struct json_t *obj = tree_object();

	tree_text(obj, "path", img->path ? img->path : "", bad);
	tree_int(obj, "id", img->id, bad);
	tree_text(obj, "format", img->format ? img->format : "", bad);
	tree_text(obj, "error_kind", img->error_kind, bad);
	tree_text(obj, "error", img->error, bad);
	tree_text(obj, "warning", img->warning, bad);
	tree_text(obj, "backing", img->backing ? img->backing : "", bad);
	tree_text(obj, "features", img->features ? img->features : "", bad);
	tree_size(obj, "nr_snapshots", img->nr_snapshots, bad);
	tree_time(obj, "scanned_at", img->scanned_at, bad);
	tree_size(obj, "file_size", img->file_size, bad);
	tree_size(obj, "file_used", img->file_used, bad);
	set_figures(obj, img, bad);
	return obj;
}

static struct json_t *images(const struct tally *t, bool *bad)
{
	struct json_t *array = tree_array();

	for (size_t i = 0; i < t->nr_images && !*bad; i++)
		tree_append(array, image(&t->images[i], bad), bad);
	return array;
}

static struct json_t *pools(const struct tally *t, bool *bad)
{
	struct json_t *array = tree_array();

	for (size_t i = 0; i < t->nr_pools && !*bad; i++) {
		struct json_t *obj = tree_object();

		tree_text(obj, "path", t->pools[i].path, bad);
		tree_size(obj, "nr_images", t->pools[i].nr_images, bad);
		tree_size(obj, "file_used", t->pools[i].file_used, bad);
		tree_append(array, obj, bad);
	}
	return array;
}

static int json_write(FILE *out, const struct tally *t, const struct report_options *o, struct err *err)
{
	CLEANUP(tree_free) struct json_t *root = tree_object();
	bool bad = false;

	(void)o;
	tree_int(root, "dedupscan_report", 1, &bad);
	tree_time(root, "taken_at", t->taken_at, &bad);
	tree_bool(root, "complete", t->complete, &bad);
	tree_size(root, "block_size", BLOCK_SIZE, &bad);
	tree_set(root, "totals", totals(t, &bad), &bad);
	tree_set(root, "runs", runs(t, &bad), &bad);
	tree_set(root, "histogram", histogram(t, &bad), &bad);
	tree_set(root, "cost", cost(t, &bad), &bad);
	tree_set(root, "pools", pools(t, &bad), &bad);
	tree_set(root, "images", images(t, &bad), &bad);
	if (bad || tree_print(out, root) < 0)
		return err_set(err, ERR_MEMORY, "no memory for the report");
	return 0;
}

const struct report_style report_json = { .name = "json", .write = json_write };
