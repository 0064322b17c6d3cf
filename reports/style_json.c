/* SPDX-License-Identifier: Apache-2.0 */
/* One JSON object, its members named as in scanner/tally.h; dedupscan-report(1) describes it.
 *
 * The output is ASCII, all else is \uNNNN, so that looking at it in a terminal is safe.  JSON holds no bytes that are not
 * UTF-8: such a text is given in its escaped form (scanner/base/text.h) and a second member NAME_bytes has it in hex.
 *
 * Version 1 may gain members; when one changes its meaning or goes, the version does too. */
#include "reports/report.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "scanner/base/block.h"
#include "scanner/base/checked.h"
#include "scanner/base/cleanup.h"
#include "scanner/base/text.h"

CLEANUP_DEFINE(json_t *, json_decref)

/* Jansson's setters take NULL values and say so with -1: `*bad` gathers that, to be looked at once. */
static void set(json_t *obj, const char *key, json_t *value, bool *bad)
{
	if (json_object_set_new(obj, key, value) < 0)
		*bad = true;
}

static void append(json_t *array, json_t *value, bool *bad)
{
	if (json_array_append_new(array, value) < 0)
		*bad = true;
}

static void set_size(json_t *obj, const char *key, uint64_t v, bool *bad)
{
	set(obj, key, json_integer((json_int_t)min_u64(v, INT64_MAX)), bad);
}

static void set_maybe(json_t *obj, const char *key, bool known, uint64_t v, bool *bad)
{
	set(obj, key, known ? json_integer((json_int_t)min_u64(v, INT64_MAX)) : json_null(), bad);
}

static void set_time(json_t *obj, const char *key, int64_t seconds, bool *bad)
{
	char when[REPORT_TIME_SIZE];

	report_time(seconds, when);
	set(obj, key, *when ? json_string(when) : json_null(), bad);
}

static json_t *hex_string(const char *s)
{
	size_t len = strlen(s);
	CLEANUP(free) char *hex = malloc(2 * len + 1);

	if (!hex)
		return NULL;
	for (size_t i = 0; i < len; i++)
		snprintf(hex + 2 * i, 3, "%02x", (unsigned)(unsigned char)s[i]);
	return json_stringn(hex, 2 * len);
}

static void set_text(json_t *obj, const char *key, const char *s, bool *bad)
{
	CLEANUP(free) char *safe = NULL;
	char key_bytes[64];

	if (!s || text_is_utf8(s)) {
		set(obj, key, s ? json_string(s) : json_null(), bad);
		return;
	}
	safe = text_escape_new(s, true);
	snprintf(key_bytes, sizeof(key_bytes), "%s_bytes", key);
	set(obj, key, safe ? json_string(safe) : NULL, bad);
	set(obj, key_bytes, hex_string(s), bad);
}

static json_t *totals(const struct tally *t, bool *bad)
{
	json_t *obj = json_object();
	uint64_t left = 0;
	bool known = report_left_to_save(t, &left);

	set_size(obj, "nr_images", t->nr_images, bad);
	set_size(obj, "nr_failed", t->nr_failed, bad);
	set_size(obj, "nr_not_images", t->nr_not_images, bad);
	set_size(obj, "file_size", t->file_size, bad);
	set_size(obj, "file_used", t->file_used, bad);
	set_size(obj, "virtual_size", t->virtual_size, bad);
	set_size(obj, "stored", t->stored, bad);
	set_size(obj, "nonzero", t->nonzero, bad);
	set_size(obj, "distinct", t->distinct, bad);
	set_size(obj, "duplicates", report_duplicates(t), bad);
	set_size(obj, "within_same", t->within_same, bad);
	set_size(obj, "within_other", t->within_other, bad);
	set_size(obj, "between_same", t->between_same, bad);
	set_size(obj, "between_other", t->between_other, bad);
	set_maybe(obj, "fs_shared", known, (uint64_t)t->fs_shared, bad);
	set_maybe(obj, "left_to_save", known, left, bad);
	return obj;
}

static json_t *runs(const struct tally *t, bool *bad)
{
	json_t *array = json_array();

	for (size_t i = 0; i < RUN_CLASSES; i++) {
		json_t *obj = json_object();

		set_size(obj, "min_length", t->runs[i].min_length, bad);
		set_size(obj, "nr_runs", t->runs[i].nr_runs, bad);
		set_size(obj, "saved", t->runs[i].saved, bad);
		append(array, obj, bad);
	}
	return array;
}

static json_t *histogram(const struct tally *t, bool *bad)
{
	json_t *array = json_array();

	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
		const struct histogram_bucket *b = &t->histogram[i];
		json_t *obj;

		if (!b->nr_distinct)
			continue;
		obj = json_object();
		set_size(obj, "references", (uint64_t)1 << i, bad);
		set_size(obj, "nr_distinct", b->nr_distinct, bad);
		set_size(obj, "nr_blocks", b->nr_blocks, bad);
		append(array, obj, bad);
	}
	return array;
}

static json_t *cost(const struct tally *t, bool *bad)
{
	json_t *obj = json_object();

	set_size(obj, "index_bytes", t->index_bytes, bad);
	set_size(obj, "catalog_bytes", t->catalog_bytes, bad);
	set_size(obj, "nr_keys", t->nr_keys, bad);
	set_size(obj, "nr_places", t->nr_places, bad);
	set_maybe(obj, "peak_memory", t->peak_memory > 0, t->peak_memory, bad);
	return obj;
}

static void set_figures(json_t *obj, const struct image_tally *img, bool *bad)
{
	bool known = !report_image_failed(img);

	set_maybe(obj, "virtual_size", known, img->virtual_size, bad);
	set_maybe(obj, "stored", known, img->stored, bad);
	set_maybe(obj, "zero", known, img->zero, bad);
	set_maybe(obj, "exclusive", known, img->exclusive, bad);
	set_maybe(obj, "shared", known, img->shared, bad);
	set_maybe(obj, "share", known, img->share, bad);
	set_maybe(obj, "duplicate_within", known, img->duplicate_within, bad);
	set_maybe(obj, "duplicate_between", known, img->duplicate_between, bad);
}

static json_t *image(const struct image_tally *img, bool *bad)
{
	json_t *obj = json_object();

	set_text(obj, "path", img->path ? img->path : "", bad);
	set(obj, "id", json_integer(img->id), bad);
	set_text(obj, "format", img->format ? img->format : "", bad);
	set_text(obj, "error_kind", img->error_kind, bad);
	set_text(obj, "error", img->error, bad);
	set_text(obj, "warning", img->warning, bad);
	set_text(obj, "backing", img->backing ? img->backing : "", bad);
	set_text(obj, "features", img->features ? img->features : "", bad);
	set_size(obj, "nr_snapshots", img->nr_snapshots, bad);
	set_time(obj, "scanned_at", img->scanned_at, bad);
	set_size(obj, "file_size", img->file_size, bad);
	set_size(obj, "file_used", img->file_used, bad);
	set_figures(obj, img, bad);
	return obj;
}

static json_t *images(const struct tally *t, bool *bad)
{
	json_t *array = json_array();

	for (size_t i = 0; i < t->nr_images && !*bad; i++)
		append(array, image(&t->images[i], bad), bad);
	return array;
}

static int json_write(FILE *out, const struct tally *t, const struct report_options *o, struct err *err)
{
	CLEANUP(json_decref) json_t *root = json_object();
	bool bad = false;

	(void)o;
	set(root, "dedupscan_report", json_integer(1), &bad);
	set_time(root, "taken_at", t->taken_at, &bad);
	set(root, "complete", json_boolean(t->complete), &bad);
	set_size(root, "block_size", BLOCK_SIZE, &bad);
	set(root, "totals", totals(t, &bad), &bad);
	set(root, "runs", runs(t, &bad), &bad);
	set(root, "histogram", histogram(t, &bad), &bad);
	set(root, "cost", cost(t, &bad), &bad);
	set(root, "images", images(t, &bad), &bad);
	if (bad || json_dumpf(root, out, JSON_INDENT(2) | JSON_ENSURE_ASCII) < 0 || fputc('\n', out) == EOF)
		return err_set(err, ERR_MEMORY, "no memory for the report");
	return 0;
}

const struct report_style report_json = { .name = "json", .write = json_write };
