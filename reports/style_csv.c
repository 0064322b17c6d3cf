/* SPDX-License-Identifier: Apache-2.0 */
/* Comma separated values after RFC 4180, one rectangular table per file, in UTF-8 whatever the locale.
 *
 * Spreadsheets run cells that look like formulas, and those set to a language with decimal commas split cells at
 * semicolons, quoted or not.  So text is escaped as on a terminal (scanner/base/text.h), a semicolon is \x3b, and a cell
 * that would be taken for a formula has a single quote in front; so has one that begins with a single quote, which
 * keeps this reversible.
 *
 * Failed images have empty cells, not zeros, for what is not known. */
#include "reports/report.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "scanner/base/block.h"
#include "scanner/base/cleanup.h"
#include "scanner/base/text.h"

static bool looks_like_formula(const char *s)
{
	static const char *const wide[] = { "\uff1d", "\uff0b", "\uff0d", "\uff20" };

	s += strspn(s, " ");
	for (size_t i = 0; i < sizeof(wide) / sizeof(wide[0]); i++) {
		if (strncmp(s, wide[i], strlen(wide[i])) == 0)
			return true;
	}
	return *s && strchr("=+-@'", *s);
}

static int put_text(FILE *out, const char *s, const char *end, struct err *err)
{
	CLEANUP(free) char *safe = text_escape_new(s ? s : "", true);

	if (!safe)
		return err_set(err, ERR_MEMORY, "no memory for the report");
	fputs(looks_like_formula(safe) ? "\"'" : "\"", out);
	for (const char *p = safe; *p; p++) {
		if (*p == '"')
			fputs("\"\"", out);
		else if (*p == ';')
			fputs("\\x3b", out);
		else
			fputc(*p, out);
	}
	fprintf(out, "\"%s", end);
	return 0;
}

static void put_figures(FILE *out, const struct image_tally *img)
{
	const uint64_t figures[] = {
		img->virtual_size,
		img->stored,
		img->zero,
		img->exclusive,
		img->shared,
		img->share,
		img->duplicate_within,
		img->duplicate_between,
	};

	for (size_t i = 0; i < sizeof(figures) / sizeof(figures[0]); i++) {
		if (report_image_failed(img))
			fputc(',', out);
		else
			fprintf(out, ",%" PRIu64, figures[i]);
	}
}

static int put_image(FILE *out, const struct image_tally *img, struct err *err)
{
	const char *texts[] = {
		img->path, img->format, img->error_kind, img->error, img->warning, img->backing, img->features,
	};
	char when[REPORT_TIME_SIZE];

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		if (put_text(out, texts[i], ",", err) < 0)
			return -1;
	}
	report_time(img->scanned_at, when);
	fprintf(out, "%" PRId64 ",%u,%s,%" PRIu64 ",%" PRIu64, img->id, img->nr_snapshots, when, img->file_size,
		img->file_used);
	put_figures(out, img);
	fputs("\r\n", out);
	return 0;
}

static int csv_write(FILE *out, const struct tally *t, const struct report_options *o, struct err *err)
{
	(void)o;
	fputs("path,format,error_kind,error,warning,backing,features,id,nr_snapshots,scanned_at,file_size,file_used,"
	      "virtual_size,stored,zero,exclusive,shared,share,duplicate_within,duplicate_between\r\n",
	      out);
	for (size_t i = 0; i < t->nr_images; i++) {
		if (put_image(out, &t->images[i], err) < 0)
			return -1;
	}
	return 0;
}

static void put_total(FILE *out, const char *key, uint64_t value)
{
	fprintf(out, "%s,%" PRIu64 "\r\n", key, value);
}

static void put_maybe(FILE *out, const char *key, bool known, uint64_t value)
{
	if (known)
		put_total(out, key, value);
	else
		fprintf(out, "%s,\r\n", key);
}

static void put_runs(FILE *out, const struct tally *t)
{
	for (size_t i = 0; i < RUN_CLASSES; i++) {
		const struct run_tally *r = &t->runs[i];

		fprintf(out, "runs_%" PRIu64 "_nr,%" PRIu64 "\r\n", r->min_length, r->nr_runs);
		fprintf(out, "runs_%" PRIu64 "_saved,%" PRIu64 "\r\n", r->min_length, r->saved);
	}
}

static void put_duplicates(FILE *out, const struct tally *t)
{
	uint64_t left = 0;
	bool known = report_left_to_save(t, &left);

	put_total(out, "duplicates", report_duplicates(t));
	put_total(out, "within_same", t->within_same);
	put_total(out, "within_other", t->within_other);
	put_total(out, "between_same", t->between_same);
	put_total(out, "between_other", t->between_other);
	put_maybe(out, "fs_shared", known, (uint64_t)t->fs_shared);
	put_maybe(out, "left_to_save", known, left);
}

static void put_pools(FILE *out, const struct tally *t)
{
	uint64_t nr_images = 0, used = 0;

	for (size_t i = 0; i < t->nr_pools; i++) {
		nr_images += t->pools[i].nr_images;
		used += t->pools[i].file_used;
	}
	put_total(out, "nr_pooled", nr_images);
	put_total(out, "pools_file_used", used);
	put_total(out, "originals_file_used", t->originals_used);
}

static int totals_write(FILE *out, const struct tally *t, const struct report_options *o, struct err *err)
{
	char when[REPORT_TIME_SIZE];

	(void)o;
	(void)err;
	report_time(t->taken_at, when);
	fprintf(out, "key,value\r\ntaken_at,%s\r\ncomplete,%s\r\n", when, t->complete ? "true" : "false");
	put_total(out, "nr_images", t->nr_images);
	put_total(out, "nr_failed", t->nr_failed);
	put_total(out, "nr_not_images", t->nr_not_images);
	put_total(out, "file_size", t->file_size);
	put_total(out, "file_used", t->file_used);
	put_total(out, "virtual_size", t->virtual_size);
	put_total(out, "stored", t->stored);
	put_total(out, "nonzero", t->nonzero);
	put_total(out, "distinct", t->distinct);
	put_duplicates(out, t);
	put_runs(out, t);
	put_total(out, "index_bytes", t->index_bytes);
	put_total(out, "catalog_bytes", t->catalog_bytes);
	put_total(out, "nr_keys", t->nr_keys);
	put_total(out, "nr_places", t->nr_places);
	put_maybe(out, "peak_memory", t->peak_memory > 0, t->peak_memory);
	put_pools(out, t);
	return 0;
}

static int histogram_write(FILE *out, const struct tally *t, const struct report_options *o, struct err *err)
{
	(void)o;
	(void)err;
	fputs("references,nr_distinct,distinct,nr_blocks,referenced\r\n", out);
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
		const struct histogram_bucket *b = &t->histogram[i];

		if (b->nr_distinct)
			fprintf(out, "%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 "\r\n",
				(uint64_t)1 << i, b->nr_distinct, b->nr_distinct * BLOCK_SIZE, b->nr_blocks,
				b->nr_blocks * BLOCK_SIZE);
	}
	return 0;
}

const struct report_style report_csv = { .name = "csv", .write = csv_write };
const struct report_style report_csv_totals = { .name = "csv-totals", .write = totals_write };
const struct report_style report_csv_histogram = { .name = "csv-histogram", .write = histogram_write };
