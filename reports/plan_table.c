/* SPDX-License-Identifier: Apache-2.0 */
/* A plan for people: sentences with the totals, then tables whose first heading is their title, then what to do next.  Of a plan
 * that was carried out it is told what came of it, beside what was predicted.
 *
 * As in the report's table nothing is drawn or cut, and what somebody else named stands last on its line.  Here columns
 * have fixed widths, so that lines go out as they are made, however many there are. */
#include "reports/plan_report.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "reports/cell.h"
#include "scanner/base/checked.h"
#include "scanner/base/text.h"

/* What steps come to on one file system. */
struct fs_sums {
	uint64_t held, saved; /* by the steps up to here: taken by new files and originals in the trash, and free again */
	uint64_t needed;      /* free space that is needed at most: what is held by then, less what was saved before */
	uint64_t predicted;   /* of what was carried out */
	uint64_t trash;	      /* originals that were put there, less what they share with others */
};

struct page {
	FILE *out;
	const struct plan *p;
	const struct report_options *o;
	struct fs_sums *sums; /* of each file system */
	uint64_t needed, trash; /* of all */
	size_t states[PLAN_NR_STATES], methods[PLAN_NR_METHODS]; /* how many steps */
	bool compact; /* "12.3G", and columns closer together */
	bool bad;     /* memory ran out somewhere */
};

/* ---- quantities ---- */

static struct cell size(const struct page *p, uint64_t v)
{
	return cell_size(p->o, p->compact, v);
}

/* after - before, which may be negative */
static struct cell change(const struct page *p, uint64_t before, uint64_t after)
{
	struct cell c = size(p, after >= before ? after - before : before - after);

	if (after < before) {
		memmove(c.s + 1, c.s, sizeof(c.s) - 1);
		c.s[0] = '-';
		c.s[sizeof(c.s) - 1] = '\0';
	}
	return c;
}

static struct cell said(const struct page *p, uint64_t v)
{
	return cell_said(p->o, v);
}

/* "7 days"; in the largest unit that there is a whole number of. */
static struct cell period(uint64_t seconds)
{
	static const struct {
		uint64_t seconds;
		const char *name;
	} units[] = { { 86400, "day" }, { 3600, "hour" }, { 60, "minute" }, { 1, "second" } };
	struct cell c;
	size_t u = 0;

	while (u + 1 < ARRAY_SIZE(units) && (!seconds || seconds % units[u].seconds))
		u++;
	seconds /= units[u].seconds;
	snprintf(c.s, sizeof(c.s), "%" PRIu64 " %s%s", seconds, units[u].name, cell_plural(seconds));
	return c;
}

/* "45 s", "12 min", "3 h 20 min", "2 d 4 h": as exact as one wants to know. */
static struct cell duration(uint64_t s)
{
	struct cell c;

	if (s < 120)
		snprintf(c.s, sizeof(c.s), "%" PRIu64 " s", s);
	else if (s < 7200)
		snprintf(c.s, sizeof(c.s), "%" PRIu64 " min", s / 60);
	else if (s < 2 * 86400)
		snprintf(c.s, sizeof(c.s), "%" PRIu64 " h %" PRIu64 " min", s / 3600, s / 60 % 60);
	else
		snprintf(c.s, sizeof(c.s), "%" PRIu64 " d %" PRIu64 " h", s / 86400, s / 3600 % 24);
	return c;
}

static uint64_t sum(uint64_t a, uint64_t b)
{
	uint64_t ret;

	return add_fits(a, b, &ret) ? ret : UINT64_MAX;
}

/* ---- tables ---- */

static void put_text(struct page *p, const char *s)
{
	cell_put_text(p->out, p->o, s, &p->bad);
}

/* A column but the last, given as "<NAME" for words, ">NAME" for sizes, or "#NAME" for small numbers. */
static void put_cell(struct page *p, const char *column, const char *text)
{
	unsigned least = *column == '<' ? 8 : *column == '#' ? 4 : p->compact ? 6 : p->o->exact ? 14 : 8;
	int width = (int)max_u64(strlen(column + 1), least);

	fprintf(p->out, "%*s%s", *column == '<' ? -width : width, text, p->compact ? " " : "  ");
}

static void put_heads(struct page *p, const char *const *columns)
{
	fputc('\n', p->out);
	for (; columns[1]; columns++)
		put_cell(p, *columns, *columns + 1);
	fprintf(p->out, "%s\n", *columns + 1);
}

/* As many texts as there are columns but the last, which is `path`, and `why` unless that is NULL. */
static void put_row(struct page *p, const char *const *columns, const char *path, const char *why, ...)
{
	va_list ap;

	va_start(ap, why);
	for (; columns[1]; columns++)
		put_cell(p, *columns, va_arg(ap, const char *));
	va_end(ap);
	put_text(p, path ? path : "?");
	if (why) {
		fputs(": ", p->out);
		put_text(p, why);
	}
	fputc('\n', p->out);
}

/* A format, or a type of file system: of somebody else's choice, so it is kept short and plain. */
static struct cell word(const char *s)
{
	struct cell c;

	text_escape_terminal(s && *s ? s : "?", false, c.s, 16);
	return c;
}

/* ---- figures ---- */

static const struct plan_image *image_of(const struct page *p, const struct plan_step *s)
{
	return &p->p->images[s->image];
}

/* What a step was to save, as far as it was carried out. */
static uint64_t saving_begun(const struct plan_step *s)
{
	if (s->state == PLAN_DONE)
		return s->saving;
	if (s->state != PLAN_PARTLY || !s->work)
		return 0;
	return (uint64_t)((double)s->saving * ((double)min_u64(s->worked, s->work) / (double)s->work));
}

/* An image is rewritten once. */
static bool left_original(const struct page *p, const struct plan_step *s)
{
	return s->state == PLAN_DONE && p->p->keep_originals > 0 &&
	       (s->method == PLAN_RELAYOUT || s->method == PLAN_REBUILD || s->method == PLAN_POOL);
}

static void add_step(struct page *p, const struct plan_step *s)
{
	const struct plan_image *img = image_of(p, s);
	struct fs_sums *f = &p->sums[img->fs];
	uint64_t held = sum(f->held, s->space);

	f->needed = max_u64(f->needed, held - min_u64(f->saved, held));
	if (s->later)
		f->held = held;
	else
		f->saved = sum(f->saved, s->saving);
	f->predicted = sum(f->predicted, saving_begun(s));
	if (left_original(p, s))
		f->trash = sum(f->trash, img->used - min_u64(img->used, img->shared));
	p->states[s->state]++;
	p->methods[s->method]++;
}

static int add_steps(struct page *p)
{
	p->sums = calloc(p->p->nr_file_systems + 1, sizeof(*p->sums));
	if (!p->sums)
		return -1;
	for (size_t i = 0; i < p->p->nr_steps; i++)
		add_step(p, &p->p->steps[i]);
	for (size_t i = 0; i < p->p->nr_file_systems; i++) {
		p->needed = sum(p->needed, p->sums[i].needed);
		p->trash = sum(p->trash, p->sums[i].trash);
	}
	return 0;
}

/* ---- sentences ---- */

static void put_savings(struct page *p)
{
	uint64_t used = 0, later = min_u64(p->p->saving_later, p->p->saving);

	for (size_t i = 0; i < p->p->nr_images; i++)
		used = sum(used, p->p->images[i].used);
	fprintf(p->out, "%zu image%s %s of disk space; ", p->p->nr_images,
		p->p->nr_images == 1 ? " takes" : "s take", said(p, used).s);
	if (!p->p->nr_steps) {
		fputs("nothing is left to save.\n", p->out);
		return;
	}
	fprintf(p->out, "%s of it %s saved in %zu step%s:\n", said(p, p->p->saving).s,
		p->p->applied ? "was to be" : "can be", p->p->nr_steps, cell_plural(p->p->nr_steps));
	fprintf(p->out, "%s at once", said(p, p->p->saving - later).s);
	if (later)
		fprintf(p->out, ", %s when originals leave the trash", said(p, later).s);
	if (later && p->p->keep_originals > 0)
		fprintf(p->out, ", %s later", period((uint64_t)p->p->keep_originals).s);
	fputs(".\n", p->out);
}

static void put_work(struct page *p)
{
	fprintf(p->out, "%s are to be compared or copied", said(p, p->p->work).s);
	if (p->p->rate)
		fprintf(p->out, ", in about %s", duration(p->p->work / p->p->rate).s);
	if (p->needed)
		fprintf(p->out, ".\nAt most %s of free space are needed meanwhile.\n", said(p, p->needed).s);
	else
		fputs("; no free space is needed.\n", p->out);
}

static void put_outcome(struct page *p)
{
	static const struct {
		enum plan_state state;
		const char *what;
	} states[] = {
		{ PLAN_PARTLY, "stopped in the middle" },
		{ PLAN_SKIPPED, "skipped" },
		{ PLAN_FAILED, "failed" },
		{ PLAN_PENDING, "not begun" },
	};

	fprintf(p->out, "%zu of %zu step%s done", p->states[PLAN_DONE], p->p->nr_steps, cell_plural(p->p->nr_steps));
	for (size_t i = 0; i < ARRAY_SIZE(states); i++) {
		size_t nr = p->states[states[i].state];

		if (nr)
			fprintf(p->out, ", %zu %s", nr, states[i].what);
	}
	fprintf(p->out, ".\nThat took %s", duration(p->p->nr_seconds).s);
	if (p->p->peak_memory)
		fprintf(p->out, " and %s of memory", said(p, p->p->peak_memory).s);
	fputs(".\n", p->out);
}

static void put_folded(struct page *p)
{
	if (p->p->nr_folded)
		fprintf(p->out, "%" PRIu64 " sealed overlay%s entered the pool, which stored %s of %s.\n", p->p->nr_folded,
			cell_plural(p->p->nr_folded), said(p, p->p->folded).s, p->p->nr_folded == 1 ? "it" : "them");
	if (p->p->pool_in_use)
		fputs("The pool was in use: what versions sealed was not folded into it.\n", p->out);
	if (p->p->unfolded)
		fputs("Some of what versions sealed was NOT folded into the pool, and stays sealed.\n", p->out);
}

static void put_headline(struct page *p)
{
	if (p->p->nr_images) {
		put_savings(p);
		if (p->p->several_files)
			fputs("LESS comes back: the pool begins another cluster file meanwhile (see --file-size), and images in\n"
			      "different ones share nothing.\n",
			      p->out);
		if (p->p->nr_steps && p->p->applied)
			put_outcome(p);
		else if (p->p->nr_steps)
			put_work(p);
	} else {
		fputs("No disk images found.\n", p->out);
	}
	put_folded(p);
	if (!p->p->complete)
		fputs("INCOMPLETE: a scan was stopped, or images could not be read; this is not all.\n", p->out);
}

/* ---- file systems ---- */

static void put_file_systems(struct page *p)
{
	static const char *const columns[] = { "<FILE SYSTEM", ">SIZE", ">FREE", ">NEEDED", ">SAVING", "<PATH", NULL };
	bool tight = false;

	put_heads(p, columns);
	for (size_t i = 0; i < p->p->nr_file_systems; i++) {
		const struct plan_fs *fs = &p->p->file_systems[i];
		uint64_t needed = p->sums[i].needed;

		put_row(p, columns, fs->path, fs->why_not, word(fs->type).s, size(p, fs->size).s, size(p, fs->free).s,
			size(p, needed).s, size(p, fs->saving).s);
		tight = tight || needed > fs->free;
	}
	if (tight)
		fputs("More free space is NEEDED than there is: steps that do not fit will be skipped.\n", p->out);
}

static void put_given_back(struct page *p)
{
	static const char *const columns[] = {
		"<FILE SYSTEM", ">PREDICTED", ">GIVEN BACK", ">IN TRASH", "#OF PREDICTED", "<PATH", NULL,
	};

	put_heads(p, columns);
	for (size_t i = 0; i < p->p->nr_file_systems; i++) {
		const struct plan_fs *fs = &p->p->file_systems[i];
		uint64_t expected = p->sums[i].predicted, trash = p->sums[i].trash;
		bool known = fs->free_before || fs->free_after;
		double got = (double)fs->free_after - (double)fs->free_before + (double)trash;

		put_row(p, columns, fs->path, fs->why_not, word(fs->type).s, size(p, expected).s,
			known ? change(p, fs->free_before, fs->free_after).s : "-", size(p, trash).s,
			known ? cell_percent(got, expected).s : "-");
	}
	fputs("PREDICTED is for what was done; GIVEN BACK is what is free now and was not\n"
	      "before, whoever else wrote or removed files meanwhile.\n", p->out);
	if (p->trash)
		fprintf(p->out,
			"IN TRASH are originals of rewritten images, whose space comes back in %s;\n"
			"OF PREDICTED counts it as given back.\n", period((uint64_t)p->p->keep_originals).s);
}

/* ---- steps ---- */

static void put_methods(struct page *p)
{
	static const char *const what[PLAN_NR_METHODS] = {
		[PLAN_REFLINK] = "the kernel shares equal extents in place; others may use it meanwhile",
		[PLAN_HOLES] = "stored zeros are punched out in place",
		[PLAN_RELAYOUT] = "rewritten so that its data can be shared; only while nobody uses it",
		[PLAN_REBUILD] = "rewritten from what others hold already; only while nobody uses it",
		[PLAN_POOL] = "its data goes into the pool, and an overlay takes its place; only while nobody uses it",
	};

	for (unsigned m = 0; m < PLAN_NR_METHODS; m++) {
		if (p->methods[m])
			fprintf(p->out, "%-8s  %s\n", plan_method_names[m], what[m]);
	}
}

static void put_planned_steps(struct page *p)
{
	static const char *const columns[] = { "#STEP", "<METHOD", ">SAVING", "<WHEN", ">WORK", "#OF WORK", "<IMAGE", NULL };

	put_heads(p, columns);
	for (size_t i = 0; i < p->p->nr_steps; i++) {
		const struct plan_step *s = &p->p->steps[i];

		put_row(p, columns, image_of(p, s)->path, s->why, cell_number(i + 1).s, plan_method_names[s->method],
			size(p, s->saving).s, s->later ? "later" : "at once", size(p, s->work).s,
			cell_percent(s->saving, s->work).s);
	}
}

static void put_applied_steps(struct page *p)
{
	static const char *const columns[] = {
		"#STEP", "<METHOD", "<STATE", ">PREDICTED", ">SHARED", "#DIFFERED", "<IMAGE", NULL,
	};
	bool differed = false;

	put_heads(p, columns);
	for (size_t i = 0; i < p->p->nr_steps; i++) {
		const struct plan_step *s = &p->p->steps[i];

		put_row(p, columns, image_of(p, s)->path, s->why, cell_number(i + 1).s, plan_method_names[s->method],
			plan_state_names[s->state], size(p, s->saving).s, size(p, s->shared).s,
			cell_number(s->nr_differed).s);
		differed = differed || s->nr_differed;
	}
	fputs("SHARED is what the file system says is shared or punched now and was not before.\n", p->out);
	if (differed)
		fputs("DIFFERED counts stretches that changed since the scan; they were left alone.\n", p->out);
}

/* ---- images ---- */

static void put_left_alone(struct page *p)
{
	static const char *const columns[] = { "<LEFT ALONE", ">ON DISK", ">DUPLICATE", "<IMAGE", NULL };
	bool any = false;

	for (size_t i = 0; i < p->p->nr_images; i++) {
		const struct plan_image *img = &p->p->images[i];

		if (!img->why_not)
			continue;
		if (!any)
			put_heads(p, columns);
		any = true;
		put_row(p, columns, img->path, img->why_not, word(img->format).s, size(p, img->used).s,
			size(p, img->duplicate).s);
	}
}

/* Of what was not done there is nothing to know. */
static void put_notes(struct page *p)
{
	static const char *const columns[] = { "#STEP", "<NOTE", "<IMAGE", NULL };
	bool any = false;

	for (size_t i = 0; i < p->p->nr_steps; i++) {
		const struct plan_step *s = &p->p->steps[i];

		if (!s->note || (p->p->applied && s->state != PLAN_DONE))
			continue;
		if (!any)
			put_heads(p, columns);
		any = true;
		put_row(p, columns, image_of(p, s)->path, s->note, cell_number(i + 1).s, word(image_of(p, s)->format).s);
	}
}

static void put_lost(struct page *p)
{
	static const char *const columns[] = { "<NOT SAVED", ">MISALIGNED", ">SHORT RUNS", ">PINNED", "<IMAGE", NULL };
	struct plan_image all = { .path = NULL };
	bool any = false;

	for (size_t i = 0; i < p->p->nr_images; i++) {
		const struct plan_image *img = &p->p->images[i];

		if (!img->misaligned && !img->short_runs && !img->pinned)
			continue;
		if (!any)
			put_heads(p, columns);
		any = true;
		put_row(p, columns, img->path, NULL, word(img->format).s, size(p, img->misaligned).s,
			size(p, img->short_runs).s, size(p, img->pinned).s);
		all.misaligned = sum(all.misaligned, img->misaligned);
		all.short_runs = sum(all.short_runs, img->short_runs);
		all.pinned = sum(all.pinned, img->pinned);
	}
	if (all.misaligned)
		fputs("MISALIGNED data is compressed, or lies where no file system can share it.\n", p->out);
	if (all.short_runs)
		fprintf(p->out, "SHORT RUNS are duplicates in pieces of less than %s; --min-run sets that.\n",
			cell_round(p->p->min_run, " bytes").s);
	if (all.pinned)
		fputs("PINNED duplicates stay on disk for somebody else: a snapshot of the file system,\n"
		      "or a copy outside of these images.  Their space comes back when that goes.\n", p->out);
}

/* ---- what next ---- */

static void put_next(struct page *p)
{
	bool left = p->states[PLAN_PENDING] || p->states[PLAN_PARTLY] || p->states[PLAN_SKIPPED];

	if (!p->p->nr_steps || (p->p->applied && !left && !p->trash))
		return;
	fputc('\n', p->out);
	if (!p->p->applied)
		fputs("This is a plan, no image was changed.  With --apply it is carried out;\n"
		      "--plan-out FILE keeps it, and --apply --plan FILE carries out what was kept.\n", p->out);
	else if (left)
		fputs("The same command goes on with what is left.\n", p->out);
	if (p->p->applied && p->trash)
		fputs("'dedupscan recover --undo PATH' puts originals back; --purge removes them now.\n", p->out);
}

/* True when the names would run over at full size. */
static bool is_narrow(const struct page *p)
{
	const size_t columns = 60;
	size_t longest = 0;

	for (size_t i = 0; i < p->p->nr_images; i++)
		longest = max_u64(longest, strlen(p->p->images[i].path));
	return p->o->width && p->o->width < columns + longest;
}

static void put_tables(struct page *p)
{
	p->compact = is_narrow(p);
	if (p->p->nr_file_systems && p->p->applied)
		put_given_back(p);
	else if (p->p->nr_file_systems)
		put_file_systems(p);
	if (p->p->nr_steps) {
		if (p->p->applied)
			put_applied_steps(p);
		else
			put_planned_steps(p);
		put_methods(p);
	}
	put_notes(p);
	put_left_alone(p);
	put_lost(p);
	p->compact = false;
}

int plan_write_table(FILE *out, const struct plan *p, const struct report_options *o, struct err *err)
{
	struct page page = { .out = out, .p = p, .o = o };
	char when[REPORT_TIME_SIZE];

	if (add_steps(&page) < 0)
		return err_set(err, ERR_MEMORY, "no memory for the plan");
	report_time(p->taken_at, when);
	put_headline(&page);
	put_tables(&page);
	if (*when)
		fprintf(out, "\nPLANNED  %s\n", when);
	put_next(&page);
	free(page.sums);
	return page.bad ? err_set(err, ERR_MEMORY, "no memory for the plan") : 0;
}
