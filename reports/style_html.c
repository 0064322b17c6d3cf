/* SPDX-License-Identifier: Apache-2.0 */
/* The report as one page for browsers: the figures of the table, and bars.
 *
 * It needs nothing but itself (no script, no font, no picture from elsewhere), and a policy in it forbids browsers to load or run
 * anything, whatever a name says.  It is well-formed XML, too. */
#include "reports/overview.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "scanner/base/block.h"
#include "scanner/base/checked.h"
#include "scanner/base/cleanup.h"
#include "scanner/base/text.h"

struct page {
	FILE *out;
	const struct tally *t;
	const struct report_options *o;
	bool bad; /* memory ran out somewhere */
};

static const char style[] =
	":root { color-scheme: light dark }\n"
	"body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem }\n"
	"h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem }\n"
	".lead { font-size: 1.15rem; white-space: pre-line }\n"
	".wide { overflow-x: auto }\n"
	"table { border-collapse: collapse }\n"
	"th, td { padding: .2rem .8rem .2rem 0; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap }\n"
	"th { font-weight: 600 } td { font-variant-numeric: tabular-nums }\n"
	".text { text-align: left }\n"
	".bar { display: flex; width: 14rem; height: .8rem }\n"
	".key { display: inline-block; width: .8rem; height: .8rem; margin: 0 .3rem 0 1rem }\n"
	".own { background: #2a78d6 } .common { background: #7fb2ea } .twice { background: #e39a2d } .zero { background: #9996 }\n"
	".small { opacity: .7; font-size: .85rem }\n";

/* ---- text and cells ---- */

static void put_escaped(FILE *out, const char *s)
{
	for (; *s; s++)
		switch (*s) {
		case '&': fputs("&amp;", out); break;
		case '<': fputs("&lt;", out); break;
		case '>': fputs("&gt;", out); break;
		case '"': fputs("&quot;", out); break;
		case '\'': fputs("&#39;", out); break;
		default: fputc(*s, out);
		}
}

/* Text that somebody else chose: one line, as in the table, and no markup. */
static void put_text(struct page *p, const char *s)
{
	CLEANUP(free) char *safe = text_escape_new(s, true);

	if (safe)
		put_escaped(p->out, safe);
	else
		p->bad = true;
}

static void put_cell(struct page *p, const char *s)
{
	fprintf(p->out, "<td>%s</td>", s);
}

static void put_size(struct page *p, uint64_t v)
{
	put_cell(p, cell_size(p->o, false, v).s);
}

/* Columns are given as "<NAME" or ">NAME", for left and right. */
static void begin_table(struct page *p, const char *title, const char *const *columns)
{
	fprintf(p->out, "<h2>%s</h2>\n<div class=\"wide\"><table>\n<tr>", title);
	for (; *columns; columns++)
		fprintf(p->out, "<th%s>%s</th>", **columns == '<' ? " class=\"text\"" : "", *columns + 1);
	fputs("</tr>\n", p->out);
}

static void begin_row(struct page *p, const char *name)
{
	fprintf(p->out, "<tr><td class=\"text\">%s</td>", name);
}

static void end_row(struct page *p)
{
	fputs("</tr>\n", p->out);
}

static void end_table(struct page *p)
{
	fputs("</table></div>\n", p->out);
}

/* ---- bars ---- */

struct part {
	const char *class;
	uint64_t size;
};

/* Parts of `whole`, which is as wide as bars are. */
static void put_bar(struct page *p, const struct part *parts, size_t nr, uint64_t whole)
{
	fputs("<td><div class=\"bar\">", p->out);
	for (size_t i = 0; i < nr; i++)
		if (parts[i].size && whole)
			fprintf(p->out, "<div class=\"%s\" style=\"width: %.2f%%\"></div>", parts[i].class,
				100 * (double)parts[i].size / (double)whole);
	fputs("</div></td>", p->out);
}

static void put_simple_bar(struct page *p, const char *class, uint64_t size, uint64_t whole)
{
	put_bar(p, &(struct part){ class, size }, 1, whole);
}

/* ---- the tables ---- */

static void put_funnel(struct page *p)
{
	static const char *const columns[] = { "<", ">Size", ">Of previous", ">Of virtual", ">Ratio", "<", NULL };
	static const char *const names[] = { "virtual", "stored", "not zero", "distinct" };
	const struct tally *t = p->t;
	const uint64_t steps[] = { t->virtual_size, t->stored, t->nonzero, t->distinct };

	begin_table(p, "Space", columns);
	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		begin_row(p, names[i]);
		put_size(p, steps[i]);
		put_cell(p, i ? cell_percent(steps[i], steps[i - 1]).s : "-");
		put_cell(p, cell_percent(steps[i], steps[0]).s);
		put_cell(p, i ? overview_ratio(steps[i - 1], steps[i]).s : "-");
		put_simple_bar(p, "own", steps[i], steps[0]);
		end_row(p);
	}
	end_table(p);
}

static void put_beside(struct page *p)
{
	const struct tally *t = p->t;

	fprintf(p->out, "<p>The image files are %s long and take ", cell_said(p->o, t->file_size).s);
	fprintf(p->out, "%s of disk space.", cell_said(p->o, t->file_used).s);
	for (size_t i = 0; i < t->nr_pools; i++) {
		fprintf(p->out, "<br/>\n%" PRIu64 " of them stand%s on a pool, which takes %s more: ", t->pools[i].nr_images,
			t->pools[i].nr_images == 1 ? "s" : "", cell_said(p->o, t->pools[i].file_used).s);
		put_text(p, t->pools[i].path);
	}
	if (t->originals_used)
		fprintf(p->out, "<br/>\nOriginals that a compaction keeps take %s more.", cell_said(p->o, t->originals_used).s);
	fputs("</p>\n", p->out);
}

static void put_duplicate_row(struct page *p, const char *name, uint64_t same, uint64_t other)
{
	begin_row(p, name);
	put_size(p, same);
	put_size(p, other);
	put_size(p, same + other);
	put_bar(p, (const struct part[]){ { "own", same }, { "common", other } }, 2, report_duplicates(p->t));
	end_row(p);
}

static void put_duplicates(struct page *p)
{
	static const char *const columns[] = { "<", ">Same offset", ">Other offset", ">Total", "<", NULL };
	const struct tally *t = p->t;
	uint64_t left = 0;
	bool known = report_left_to_save(t, &left);

	begin_table(p, "Duplicates", columns);
	put_duplicate_row(p, "within an image", t->within_same, t->within_other);
	put_duplicate_row(p, "between images", t->between_same, t->between_other);
	put_duplicate_row(p, "all", t->within_same + t->between_same, t->within_other + t->between_other);
	fprintf(p->out, "<tr><td class=\"text\" colspan=\"3\">shared by the file system</td><td>%s</td><td></td></tr>\n",
		known ? cell_size(p->o, false, (uint64_t)t->fs_shared).s : "cannot say");
	if (known) {
		fprintf(p->out, "<tr><td class=\"text\" colspan=\"3\">left to save</td><td>%s</td>", cell_size(p->o, false, left).s);
		put_simple_bar(p, "twice", left, report_duplicates(t));
		end_row(p);
	}
	end_table(p);
}

static void put_runs(struct page *p)
{
	static const char *const columns[] = { "<Runs of at least", ">Would save", ">Of duplicates", ">Runs", ">Mean run", "<", NULL };

	begin_table(p, "Runs", columns);
	for (size_t i = 0; i < RUN_CLASSES; i++) {
		const struct run_tally *r = &p->t->runs[i];

		begin_row(p, cell_round(r->min_length, "").s);
		put_size(p, r->saved);
		put_cell(p, cell_percent(r->saved, report_duplicates(p->t)).s);
		put_cell(p, cell_number(r->nr_runs).s);
		put_cell(p, r->nr_runs ? cell_size(p->o, false, r->saved / r->nr_runs).s : "-");
		put_simple_bar(p, "twice", r->saved, report_duplicates(p->t));
		end_row(p);
	}
	end_table(p);
}

static void put_histogram(struct page *p)
{
	static const char *const columns[] = {
		"<References", ">Distinct blocks", ">Size", ">Referenced blocks", ">Size", "<", NULL,
	};

	begin_table(p, "How often contents occur", columns);
	for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
		const struct histogram_bucket *b = &p->t->histogram[i];

		if (!b->nr_distinct)
			continue;
		begin_row(p, overview_references(i).s);
		put_cell(p, cell_number(b->nr_distinct).s);
		put_size(p, b->nr_distinct * BLOCK_SIZE);
		put_cell(p, cell_number(b->nr_blocks).s);
		put_size(p, b->nr_blocks * BLOCK_SIZE);
		put_simple_bar(p, "common", b->nr_blocks * BLOCK_SIZE, p->t->nonzero);
		end_row(p);
	}
	end_table(p);
}

/* What an image stores: what only it has, its part of what it has in common with others, what others have anyway, zeros. */
static void put_image(struct page *p, const struct image_tally *i, uint64_t whole)
{
	uint64_t own = min_u64(i->exclusive, i->share), nonzero = i->stored - min_u64(i->zero, i->stored);
	const struct part parts[] = {
		{ "own", own }, { "common", i->share - own }, { "twice", nonzero - min_u64(i->share, nonzero) }, { "zero", i->zero },
	};

	fputs("<tr><td class=\"text\">", p->out);
	put_text(p, i->format && *i->format ? i->format : "?");
	fputs("</td>", p->out);
	put_size(p, i->virtual_size);
	put_size(p, i->stored);
	put_size(p, i->zero);
	put_size(p, i->exclusive);
	put_size(p, i->shared);
	put_size(p, i->share);
	put_bar(p, parts, ARRAY_SIZE(parts), whole);
	fputs("<td class=\"text\">", p->out);
	put_text(p, i->path);
	fputs("</td></tr>\n", p->out);
}

static void put_legend(struct page *p)
{
	fputs("<p class=\"small\">Exclusive is what deleting that image alone would free; share adds its part of what it has in "
	      "common with others.  All shares add up to what is distinct.<br/>\n"
	      "<span class=\"key own\"></span>exclusive <span class=\"key common\"></span>its part of what is common "
	      "<span class=\"key twice\"></span>the part of others in that <span class=\"key zero\"></span>zeros</p>\n",
	      p->out);
}

static void put_images(struct page *p)
{
	static const char *const columns[] = {
		"<Format", ">Virtual", ">Stored", ">Zero", ">Exclusive", ">Shared", ">Share", "<", "<Path", NULL,
	};
	size_t nr = 0, shown;
	CLEANUP(free) const struct image_tally **list = overview_images(p->t, p->o->sort, &nr);
	uint64_t most = 0;

	p->bad = p->bad || !list;
	if (!list)
		return;
	shown = p->o->top ? min_u64(p->o->top, nr) : nr;
	for (size_t i = 0; i < shown; i++)
		most = max_u64(most, list[i]->stored);
	begin_table(p, "Images", columns);
	for (size_t i = 0; i < shown; i++)
		put_image(p, list[i], most);
	end_table(p);
	if (shown < nr)
		fprintf(p->out, "<p>and %zu more image%s</p>\n", nr - shown, cell_plural(nr - shown));
	put_legend(p);
}

static void put_problem(struct page *p, const char *kind, const char *path, const char *text)
{
	if (!text)
		return;
	fprintf(p->out, "<li><strong>%s</strong> ", kind);
	put_text(p, path);
	fputs(": ", p->out);
	put_text(p, text);
	fputs("</li>\n", p->out);
}

static void put_problems(struct page *p)
{
	const struct tally *t = p->t;
	bool any = false;

	for (size_t i = 0; i < t->nr_images; i++)
		any = any || t->images[i].error || t->images[i].warning;
	if (!any)
		return;
	fputs("<h2>Problems</h2>\n<ul>\n", p->out);
	for (size_t i = 0; i < t->nr_images; i++) {
		put_problem(p, "failed", t->images[i].path, t->images[i].error);
		put_problem(p, "warning", t->images[i].path, t->images[i].warning);
	}
	fputs("</ul>\n", p->out);
}

static void put_footer(struct page *p)
{
	const struct tally *t = p->t;
	char when[REPORT_TIME_SIZE];

	report_time(t->taken_at, when);
	fprintf(p->out, "<p class=\"small\">Index %s on disk, %s bytes per block scanned", cell_said(p->o, t->index_bytes).s,
		cell_quotient("%.1f", BLOCK_SIZE, t->index_bytes, t->stored).s);
	fprintf(p->out, "; catalog %s", cell_said(p->o, t->catalog_bytes).s);
	if (t->peak_memory)
		fprintf(p->out, "; memory %s at most", cell_said(p->o, t->peak_memory).s);
	if (t->nr_not_images)
		fprintf(p->out, "; %" PRIu64 " file%s ignored that %s no disk image%s", t->nr_not_images, cell_plural(t->nr_not_images),
			t->nr_not_images == 1 ? "is" : "are", cell_plural(t->nr_not_images));
	fprintf(p->out, ".  Taken %s by dedupscan.</p>\n", when);
}

static int html_write(FILE *out, const struct tally *t, const struct report_options *o, struct err *err)
{
	struct page p = { .out = out, .t = t, .o = o };

	fprintf(out, "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\n"
		     "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\n"
		     "<meta name=\"viewport\" content=\"width=device-width\"/>\n"
		     "<title>What is stored twice</title>\n<style>\n%s</style></head><body>\n"
		     "<h1>What is stored twice</h1>\n<p class=\"lead\">", style);
	overview_headline(out, t, o);
	fputs("</p>\n", out);
	if (t->nr_images > t->nr_failed) {
		put_funnel(&p);
		put_beside(&p);
		put_duplicates(&p);
		put_runs(&p);
		put_histogram(&p);
		put_images(&p);
	}
	put_problems(&p);
	put_footer(&p);
	fputs("</body></html>\n", out);
	return p.bad ? err_set(err, ERR_MEMORY, "no memory for the report") : 0;
}

const struct report_style report_html = { .name = "html", .write = html_write };
