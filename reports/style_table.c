/* SPDX-License-Identifier: Apache-2.0 */
/* The report for people: a sentence, then tables whose first heading is their title.
 *
 * No lines are drawn and no colours used.  Paths stand last and are never cut: one that is too long for the terminal
 * runs over, and can be copied whole.  libsmartcols would escape text too, but differently; it gets text that is
 * escaped already and is told to leave it alone. */
#include "reports/report.h"

#include <inttypes.h>
#include <langinfo.h>
#include <libsmartcols.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "reports/overview.h"
#include "scanner/base/block.h"
#include "scanner/base/checked.h"
#include "scanner/base/cleanup.h"
#include "scanner/base/late.h"
#include "scanner/base/text.h"

#define CALLS(X)													\
	X(scols_new_table) X(scols_table_set_stream) X(scols_table_enable_noencoding)					\
	X(scols_table_set_column_separator) X(scols_table_set_termforce) X(scols_table_new_column)			\
	X(scols_table_new_line) X(scols_table_get_ncols) X(scols_line_set_data) X(scols_print_table)			\
	X(scols_unref_table)
LATE_LIBRARY("libsmartcols.so.1", "libsmartcols, which writes tables,", "libsmartcols1", CALLS);

/* Everything that writing one report needs. */
struct page {
	FILE *out;
	const struct tally *t;
	const struct report_options *o;
	bool compact; /* "12.3G", and columns closer together */
	bool bad;     /* memory ran out somewhere */
};

static struct cell size(const struct page *p, uint64_t v)
{
	return cell_size(p->o, p->compact, v);
}

static struct cell said(const struct page *p, uint64_t v)
{
	return cell_said(p->o, v);
}

/* Columns are given as "<NAME" or ">NAME", for left and right. */
static struct libscols_table *grid_new(struct page *p, const char *const *columns)
{
	struct libscols_table *grid = lib.scols_new_table();

	if (!grid || lib.scols_table_set_stream(grid, p->out) || lib.scols_table_enable_noencoding(grid, 1) ||
	    lib.scols_table_set_column_separator(grid, p->compact ? " " : "  ") ||
	    lib.scols_table_set_termforce(grid, SCOLS_TERMFORCE_NEVER))
		p->bad = true;
	for (; grid && *columns; columns++) {
		if (!lib.scols_table_new_column(grid, *columns + 1, 0, **columns == '>' ? SCOLS_FL_RIGHT : 0))
			p->bad = true;
	}
	return grid;
}

/* As many texts as there are columns. */
static void grid_row(struct page *p, struct libscols_table *grid, ...)
{
	struct libscols_line *line = p->bad ? NULL : lib.scols_table_new_line(grid, NULL);
	va_list ap;

	if (!line) {
		p->bad = true;
		return;
	}
	va_start(ap, grid);
	for (size_t i = 0; i < lib.scols_table_get_ncols(grid); i++) {
		if (lib.scols_line_set_data(line, i, va_arg(ap, const char *)))
			p->bad = true;
	}
	va_end(ap);
}

static void grid_print(struct page *p, struct libscols_table *grid)
{
	if (!p->bad) {
		fputc('\n', p->out);
		if (lib.scols_print_table(grid))
			p->bad = true;
	}
	if (grid)
		lib.scols_unref_table(grid);
}

static void put_text(struct page *p, const char *s)
{
	cell_put_text(p->out, p->o, s, &p->bad);
}

static void put_pool(struct page *p, const struct pool_tally *pool)
{
	fprintf(p->out, "%" PRIu64 " of them stand%s on a pool, which takes %s more: ", pool->nr_images,
		pool->nr_images == 1 ? "s" : "", said(p, pool->file_used).s);
	put_text(p, pool->path);
	fputc('\n', p->out);
}

static void put_funnel(struct page *p)
{
	static const char *const columns[] = { "<SPACE", ">SIZE", ">OF PREVIOUS", ">OF VIRTUAL", ">RATIO", NULL };
	static const char *const names[] = { "virtual", "stored", "not zero", "distinct" };
	const uint64_t steps[] = { p->t->virtual_size, p->t->stored, p->t->nonzero, p->t->distinct };
	struct libscols_table *grid = grid_new(p, columns);

	for (size_t i = 0; i < ARRAY_SIZE(steps); i++)
		grid_row(p, grid, names[i], size(p, steps[i]).s, i ? cell_percent(steps[i], steps[i - 1]).s : "-",
			 cell_percent(steps[i], steps[0]).s, i ? overview_ratio(steps[i - 1], steps[i]).s : "-");
	grid_print(p, grid);
	fprintf(p->out, "The image files are %s long and take ", said(p, p->t->file_size).s);
	fprintf(p->out, "%s of disk space.\n", said(p, p->t->file_used).s);
	for (size_t i = 0; i < p->t->nr_pools; i++)
		put_pool(p, &p->t->pools[i]);
	if (p->t->originals_used)
		fprintf(p->out, "Originals that a compaction keeps take %s more.\n", said(p, p->t->originals_used).s);
}

static void put_duplicates(struct page *p)
{
	static const char *const columns[] = { "<DUPLICATES", ">SAME OFFSET", ">OTHER OFFSET", ">TOTAL", NULL };
	const struct tally *t = p->t;
	struct libscols_table *grid = grid_new(p, columns);
	uint64_t left = 0;
	bool known = report_left_to_save(t, &left);

	grid_row(p, grid, "within an image", size(p, t->within_same).s, size(p, t->within_other).s,
		 size(p, t->within_same + t->within_other).s);
	grid_row(p, grid, "between images", size(p, t->between_same).s, size(p, t->between_other).s,
		 size(p, t->between_same + t->between_other).s);
	grid_row(p, grid, "all", size(p, t->within_same + t->between_same).s,
		 size(p, t->within_other + t->between_other).s, size(p, report_duplicates(t)).s);
	grid_row(p, grid, "shared by the file system", "", "",
		 known ? size(p, (uint64_t)t->fs_shared).s : "cannot say");
	if (known)
		grid_row(p, grid, "left to save", "", "", size(p, left).s);
	grid_print(p, grid);
}

static void put_runs(struct page *p)
{
	static const char *const columns[] = {
		"<RUNS OF AT LEAST", ">WOULD SAVE", ">OF DUPLICATES", ">RUNS", ">MEAN RUN", NULL,
	};
	struct libscols_table *grid = grid_new(p, columns);

	for (size_t i = 0; i < RUN_CLASSES; i++) {
		const struct run_tally *r = &p->t->runs[i];

		grid_row(p, grid, cell_round(r->min_length, "").s, size(p, r->saved).s,
			 cell_percent(r->saved, report_duplicates(p->t)).s, cell_number(r->nr_runs).s,
			 r->nr_runs ? size(p, r->saved / r->nr_runs).s : "-");
	}
	grid_print(p, grid);
}

static void put_bucket(struct page *p, struct libscols_table *grid, const char *name, const struct histogram_bucket *b)
{
	grid_row(p, grid, name, cell_number(b->nr_distinct).s, size(p, b->nr_distinct * BLOCK_SIZE).s,
		 cell_number(b->nr_blocks).s, size(p, b->nr_blocks * BLOCK_SIZE).s);
}

static void put_histogram(struct page *p)
{
	static const char *const columns[] = {
		">REFERENCES", ">DISTINCT BLOCKS", ">SIZE", ">REFERENCED BLOCKS", ">SIZE", NULL,
	};
	struct libscols_table *grid = grid_new(p, columns);
	struct histogram_bucket total = { 0, 0 };

	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
		const struct histogram_bucket *b = &p->t->histogram[i];

		if (b->nr_distinct)
			put_bucket(p, grid, overview_references(i).s, b);
		total.nr_distinct += b->nr_distinct;
		total.nr_blocks += b->nr_blocks;
	}
	put_bucket(p, grid, "Total", &total);
	grid_print(p, grid);
	fprintf(p->out, "dedup = %s\n", cell_quotient("%.2f", 1, total.nr_blocks, total.nr_distinct).s);
}

/* Length of the directory, with its slash, that all paths have in common; 0 when that is not worth leaving out. */
static size_t common_directory(const struct image_tally **list, size_t nr)
{
	size_t len = 0, slash = 0;

	if (nr < 2)
		return 0;
	for (;; len++) {
		for (size_t i = 0; i < nr; i++) {
			if (!list[i]->path[len] || list[i]->path[len] != list[0]->path[len])
				return slash > 1 ? slash : 0;
		}
		if (list[0]->path[len] == '/')
			slash = len + 1;
	}
}

static void put_image(struct page *p, struct libscols_table *grid, const struct image_tally *img, size_t skip)
{
	CLEANUP(free) char *path = text_escape_new(img->path + skip, p->o->utf8);
	char format[24];

	if (!path) {
		p->bad = true;
		return;
	}
	text_escape_terminal(img->format && *img->format ? img->format : "?", p->o->utf8, format, sizeof(format));
	grid_row(p, grid, format, size(p, img->virtual_size).s, size(p, img->stored).s,
		 size(p, img->zero).s, size(p, img->exclusive).s, size(p, img->shared).s,
		 size(p, img->share).s, path);
}

/* True when the names would run over at full size. */
static bool is_narrow(const struct page *p, const struct image_tally **list, size_t nr, size_t skip)
{
	const size_t columns = 72;
	size_t longest = 0;

	for (size_t i = 0; i < nr; i++)
		longest = max_u64(longest, strlen(list[i]->path + skip));
	return p->o->width && p->o->width < columns + longest;
}

/* Without a line end: the grid begins with one. */
static void put_images_title(struct page *p, const char *path, size_t skip)
{
	CLEANUP(free) char *directory = strndup(path, skip);

	fprintf(p->out, "\nIMAGES by %s", overview_order(p->o->sort));
	if (skip && directory) {
		fprintf(p->out, ", paths below ");
		put_text(p, directory);
	}
	p->bad = p->bad || !directory;
}

static void put_images(struct page *p)
{
	static const char *const columns[] = {
		"<FORMAT", ">VIRTUAL", ">STORED", ">ZERO", ">EXCLUSIVE", ">SHARED", ">SHARE", "<PATH", NULL,
	};
	size_t nr = 0, shown, skip;
	CLEANUP(free) const struct image_tally **list = overview_images(p->t, p->o->sort, &nr);
	struct libscols_table *grid;

	p->bad = p->bad || !list;
	if (!list || !nr)
		return;
	shown = p->o->top ? min_u64(p->o->top, nr) : nr;
	skip = common_directory(list, shown);
	p->compact = is_narrow(p, list, shown, skip);
	grid = grid_new(p, columns);
	for (size_t i = 0; i < shown; i++)
		put_image(p, grid, list[i], skip);
	put_images_title(p, list[0]->path, skip);
	grid_print(p, grid);
	if (shown < nr)
		fprintf(p->out, "and %zu more image%s\n", nr - shown, cell_plural(nr - shown));
	fprintf(p->out, "EXCLUSIVE is what deleting that image alone would free; SHARE adds its part of\n"
			"what it has in common with others.  All shares add up to what is distinct.\n");
	p->compact = false;
}

static void put_problem(struct page *p, const char *kind, const struct image_tally *img, const char *text)
{
	fprintf(p->out, "%-7s  ", kind);
	put_text(p, img->path);
	fputs(": ", p->out);
	put_text(p, text);
	fputc('\n', p->out);
}

static void put_problems(struct page *p)
{
	bool any = false;

	for (size_t i = 0; i < p->t->nr_images; i++) {
		const struct image_tally *img = &p->t->images[i];

		if (!any && (img->error || img->warning))
			fprintf(p->out, "\nPROBLEMS\n");
		any = any || img->error || img->warning;
		if (img->error)
			put_problem(p, "failed", img, img->error);
		if (img->warning)
			put_problem(p, "warning", img, img->warning);
	}
}

static void put_cost(struct page *p)
{
	const struct tally *t = p->t;

	fprintf(p->out, "\nINDEX    %s on disk, %s bytes per block scanned\n", said(p, t->index_bytes).s,
		cell_quotient("%.1f", BLOCK_SIZE, t->index_bytes, t->stored).s);
	fprintf(p->out, "         %" PRIu64 " keys, %" PRIu64 " places\n", t->nr_keys, t->nr_places);
	fprintf(p->out, "CATALOG  %s\n", said(p, t->catalog_bytes).s);
	if (t->peak_memory)
		fprintf(p->out, "MEMORY   %s at most\n", said(p, t->peak_memory).s);
}

static void put_footer(struct page *p)
{
	uint64_t others = p->t->nr_not_images;
	char when[REPORT_TIME_SIZE];

	report_time(p->t->taken_at, when);
	if (others)
		fprintf(p->out, "IGNORED  %" PRIu64 " file%s that %s no disk image%s\n", others, cell_plural(others),
			others == 1 ? "is" : "are", cell_plural(others));
	if (*when)
		fprintf(p->out, "TAKEN    %s\n", when);
}

static int table_write(FILE *out, const struct tally *t, const struct report_options *o, struct err *err)
{
	struct report_options safe = *o;
	struct page p = { .out = out, .t = t, .o = &safe };

	if (late_load(&library, err) < 0)
		return -1;
	/* Text that is no text of the process's locale makes libsmartcols 2.38 loop forever. */
	safe.utf8 = o->utf8 && strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
	overview_headline(out, t, &safe);
	if (t->nr_images > t->nr_failed) {
		put_funnel(&p);
		put_duplicates(&p);
		put_runs(&p);
		put_histogram(&p);
		put_images(&p);
	}
	put_problems(&p);
	put_cost(&p);
	put_footer(&p);
	return p.bad ? err_set(err, ERR_MEMORY, "no memory for the report") : 0;
}

const struct report_style report_table = { .name = "table", .write = table_write };
