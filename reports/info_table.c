/* SPDX-License-Identifier: Apache-2.0 */
/* One image for people: the path, lines that begin with what they tell, then a small table for each thing there are
 * several of.
 *
 * As in the report's table nothing is drawn or cut, and what somebody else named stands last on its line. */
#include "reports/info.h"

#include <inttypes.h>
#include <string.h>

#include "reports/cell.h"
#include "scanner/base/checked.h"
#include "scanner/base/text.h"

struct page {
	FILE *out;
	const struct inspection *i;
	const struct report_options *o;
	bool bad; /* memory ran out somewhere */
};

static struct cell amount(const struct page *p, uint64_t v)
{
	return cell_size(p->o, false, v);
}

static struct cell said(const struct page *p, uint64_t v)
{
	return cell_said(p->o, v);
}

static void put_text(struct page *p, const char *s)
{
	cell_put_text(p->out, p->o, s, &p->bad);
}

static void put_name(struct page *p, const char *name)
{
	fprintf(p->out, "%-13s ", name);
}

static void put_line(struct page *p, const char *name, const char *text)
{
	if (!*text)
		return;
	put_name(p, name);
	put_text(p, text);
	fputc('\n', p->out);
}

const char *info_certainty(const struct inspection *i)
{
	static const char *const names[] = {
		[IMAGE_GUESSED] = "guessed", [IMAGE_AGREED] = "agreed", [IMAGE_TOLD] = "told"
	};

	return names[i->certainty];
}

uint64_t info_alignment(const struct inspection *i, unsigned share)
{
	uint64_t all = i->extents[INSPECT_DATA].bytes, ret = 0;

	for (unsigned n = 0; n < INSPECT_ALIGNMENTS; n++)
		if ((double)i->aligned[n] * 100 >= (double)all * share)
			ret = INSPECT_ALIGNMENT(n);
	return ret;
}

/* ---- lines ---- */

static void put_format(struct page *p)
{
	static const char *const sure[] = {
		[IMAGE_GUESSED] = "guessed: only its name or only its content says so",
		[IMAGE_AGREED] = "its name and its content agree",
		[IMAGE_TOLD] = "as told",
	};

	put_name(p, "format");
	put_text(p, p->i->format);
	if (p->i->version)
		fprintf(p->out, " version %u", p->i->version);
	if (p->i->kind[0]) {
		fputs(", ", p->out);
		put_text(p, p->i->kind);
	}
	fprintf(p->out, " (%s)\n", sure[p->i->certainty]);
}

static void put_sizes(struct page *p)
{
	const struct inspection *i = p->i;

	put_name(p, "virtual size");
	fprintf(p->out, "%s\n", said(p, i->virtual_size).s);
	put_name(p, "file");
	fprintf(p->out, "%s long, ", said(p, i->file_size).s);
	fprintf(p->out, "%s on disk\n", said(p, i->file_used).s);
	if (i->nr_parts) {
		put_name(p, "parts");
		fprintf(p->out, "%u, together %s long, ", i->nr_parts, said(p, i->parts_size).s);
		fprintf(p->out, "%s on disk\n", said(p, i->parts_used).s);
	}
	if (i->cluster_size) {
		put_name(p, "cluster size");
		fprintf(p->out, "%s\n", cell_round(i->cluster_size, "").s);
	}
}

static void put_backing(struct page *p)
{
	if (!p->i->backing_name[0])
		return;
	put_name(p, "backing file");
	put_text(p, p->i->backing_name);
	if (p->i->backing_format[0]) {
		fputs(" (", p->out);
		put_text(p, p->i->backing_format);
		fputc(')', p->out);
	}
	fputc('\n', p->out);
}

static void put_alignment(struct page *p)
{
	uint64_t data = p->i->extents[INSPECT_DATA].bytes;
	uint64_t all = info_alignment(p->i, 100), most = info_alignment(p->i, 90);

	if (!data)
		return;
	put_name(p, "alignment");
	if (all)
		fprintf(p->out, "all data to %s", cell_round(all, "").s);
	else
		fprintf(p->out, "not all data to 512");
	if (most > all)
		fprintf(p->out, ", 90 %% of it to %s", cell_round(most, "").s);
	fputc('\n', p->out);
	put_name(p, "shareable");
	fprintf(p->out, "%s of it", cell_percent(p->i->aligned_blocks, data).s);
	fprintf(p->out, " (%s) in blocks of 4 KiB of the disk that are blocks of the file\n",
		said(p, p->i->aligned_blocks).s);
}

/* ---- tables ---- */

static void put_extents(struct page *p)
{
	const struct inspection *i = p->i;
	const struct inspect_count *data = &i->extents[INSPECT_DATA];

	fprintf(p->out, "\n%-13s %12s %15s %9s\n", "EXTENTS", "NUMBER", "SIZE", "OF ALL");
	for (unsigned n = 0; n < INSPECT_NR_EXTENTS; n++) {
		const struct inspect_count *c = &i->extents[n];

		if (c->nr || n == INSPECT_DATA)
			fprintf(p->out, "%-13s %12" PRIu64 " %15s %9s\n", inspect_extent_names[n], c->nr,
				amount(p, c->bytes).s, cell_percent(c->bytes, i->walked).s);
	}
	if (data->nr)
		fprintf(p->out, "The mean run of data is %s long.\n", said(p, data->bytes / data->nr).s);
}

static void put_member(struct page *p, const struct inspect_member *m)
{
	char format[80], safe[4 * sizeof(format)];

	if (m->error[0]) {
		fprintf(p->out, "cannot be opened, see PROBLEMS:                        ");
	} else {
		snprintf(format, sizeof(format), "%s%s%s", m->format, m->kind[0] ? ", " : "", m->kind);
		text_escape_terminal(format, p->o->utf8, safe, sizeof(safe));
		fprintf(p->out, "%-20s %11s ", safe, amount(p, m->virtual_size).s);
		fprintf(p->out, "%11s ", amount(p, m->file_size).s);
		fprintf(p->out, "%11s  ", amount(p, m->file_used).s);
	}
	put_text(p, m->path);
	fputc('\n', p->out);
}

static void put_chain(struct page *p)
{
	if (p->i->nr_members)
		fprintf(p->out, "\n%-20s %11s %11s %11s  %s\n", "BACKING CHAIN", "VIRTUAL", "LONG", "ON DISK", "PATH");
	for (uint32_t n = 0; n < p->i->nr_members; n++)
		put_member(p, &p->i->members[n]);
}

static void put_rest(struct page *p, uint32_t all, uint32_t listed)
{
	if (listed < all)
		fprintf(p->out, "and %u more\n", all - listed);
}

static void put_parts(struct page *p)
{
	const struct inspection *i = p->i;

	if (i->parts_listed)
		fprintf(p->out, "\n%-13s %11s  %s\n", "PARTS LONG", "ON DISK", "PATH");
	for (uint32_t n = 0; n < i->parts_listed; n++) {
		fprintf(p->out, "%-13s ", amount(p, i->parts[n].file_size).s);
		fprintf(p->out, "%11s  ", amount(p, i->parts[n].file_used).s);
		put_text(p, i->parts[n].path);
		fputc('\n', p->out);
	}
	put_rest(p, i->nr_parts, i->parts_listed);
}

static void put_snapshots(struct page *p)
{
	const struct inspection *i = p->i;
	char when[REPORT_TIME_SIZE], id[4 * sizeof(i->snapshots->id)];

	if (i->snapshots_listed)
		fprintf(p->out, "\n%-13s %-20s %11s %11s  %s\n", "SNAPSHOT", "TAKEN", "DISK", "VM STATE", "NAME");
	for (uint32_t n = 0; n < i->snapshots_listed; n++) {
		const struct image_snapshot *s = &i->snapshots[n];

		report_time(s->date, when);
		text_escape_terminal(s->id, p->o->utf8, id, sizeof(id));
		fprintf(p->out, "%-13s %-20s %11s ", id, *when ? when : "-", amount(p, s->disk_size).s);
		fprintf(p->out, "%11s  ", amount(p, s->vm_state_size).s);
		put_text(p, s->name);
		fputc('\n', p->out);
	}
	put_rest(p, i->nr_snapshots, i->snapshots_listed);
}

static void put_bitmaps(struct page *p)
{
	const struct inspection *i = p->i;

	if (i->bitmaps_listed)
		fprintf(p->out, "\n%-13s %-20s  %s\n", "BITMAP GRAIN", "STATE", "NAME");
	for (uint32_t n = 0; n < i->bitmaps_listed; n++) {
		const struct image_bitmap *b = &i->bitmaps[n];

		fprintf(p->out, "%-13s %-20s  ", cell_round(b->granularity, "").s,
			b->inconsistent ? "inconsistent"
			: b->automatic	? "recording"
					: "idle");
		put_text(p, b->name);
		fputc('\n', p->out);
	}
	put_rest(p, i->nr_bitmaps, i->bitmaps_listed);
}

/* ---- the guest ---- */

/* For numbers that may not be known. */
static struct cell maybe(const struct page *p, uint64_t v)
{
	return v == GUEST_UNKNOWN ? (struct cell){ "-" } : amount(p, v);
}

static struct cell word(const struct page *p, const char *s)
{
	struct cell c;

	text_escape_terminal(*s ? s : "-", p->o->utf8, c.s, 32);
	return c;
}

static void put_systems(struct page *p, const struct guest *g)
{
	for (size_t n = 0; n < g->systems.nr; n++) {
		const struct guest_system *s = &g->systems.items[n];
		const char *texts[] = { s->product, s->type, s->distro, s->version, s->arch };

		fprintf(p->out, "%-13s ", n ? "" : "system");
		for (size_t k = 0; k < ARRAY_SIZE(texts); k++) {
			put_text(p, *texts[k] ? texts[k] : "unknown");
			fputs(k + 1 < ARRAY_SIZE(texts) ? ", " : "\n", p->out);
		}
		put_line(p, "  host name", s->hostname);
		put_line(p, "  on", s->root);
	}
}

static void put_partitions(struct page *p, const struct guest *g)
{
	if (g->partitions.nr)
		fprintf(p->out, "\n%-13s %6s %11s %11s  %-36s  %s\n", "PARTITION OF", "NUMBER", "START", "SIZE", "TYPE",
			"NAME");
	for (size_t n = 0; n < g->partitions.nr; n++) {
		const struct guest_partition *q = &g->partitions.items[n];

		fprintf(p->out, "%-13s %6" PRIu64 " %11s ", word(p, q->device).s, q->number, maybe(p, q->start).s);
		fprintf(p->out, "%11s  ", maybe(p, q->size).s);
		put_text(p, q->type);
		fprintf(p->out, "%*s  ", (int)(36 - min_u64(strlen(q->type), 36)), "");
		put_text(p, q->name);
		fputc('\n', p->out);
	}
}

static void put_file_systems(struct page *p, const struct guest *g)
{
	if (g->file_systems.nr)
		fprintf(p->out, "\n%-13s %11s %11s %11s  %-24s  %s\n", "FILE SYSTEM", "SIZE", "USED", "AVAILABLE", "ON",
			"LABEL");
	for (size_t n = 0; n < g->file_systems.nr; n++) {
		const struct guest_file_system *f = &g->file_systems.items[n];

		fprintf(p->out, "%-13s %11s ", word(p, f->type).s, maybe(p, f->size).s);
		fprintf(p->out, "%11s ", maybe(p, f->used).s);
		fprintf(p->out, "%11s  ", maybe(p, f->available).s);
		fprintf(p->out, "%-24s  ", word(p, f->device).s);
		put_text(p, f->label);
		fputc('\n', p->out);
	}
}

static void put_volumes(struct page *p, const struct guest *g)
{
	if (g->volumes.nr)
		fprintf(p->out, "\n%-13s  %s\n", "VOLUME SIZE", "NAME");
	for (size_t n = 0; n < g->volumes.nr; n++) {
		fprintf(p->out, "%-13s  ", maybe(p, g->volumes.items[n].size).s);
		put_text(p, g->volumes.items[n].name);
		fputc('\n', p->out);
	}
}

static void put_guest(struct page *p, const struct guest *g)
{
	fputs("\nINSIDE\n", p->out);
	if (!g->systems.nr)
		fputs("no operating system that is known\n", p->out);
	put_systems(p, g);
	put_partitions(p, g);
	put_volumes(p, g);
	put_file_systems(p, g);
}

static void put_problems(struct page *p)
{
	for (uint32_t n = 0; n < p->i->nr_problems; n++) {
		if (n == 0)
			fprintf(p->out, "\nPROBLEMS\n");
		fprintf(p->out, "%-13s ", inspect_problem_names[p->i->problems[n].kind]);
		put_text(p, p->i->problems[n].text);
		fputc('\n', p->out);
	}
}

int info_write_table(FILE *out, const struct inspection *i, const struct guest *guest, const struct report_options *o,
		     struct err *err)
{
	struct page p = { .out = out, .i = i, .o = o };

	put_text(&p, i->path);
	fputc('\n', out);
	if (i->format[0])
		put_format(&p);
	if (i->opened) {
		put_sizes(&p);
		put_line(&p, "features", i->features);
		put_line(&p, "id", i->id);
		put_backing(&p);
		put_line(&p, "backing id", i->backing_id);
		put_alignment(&p);
		put_extents(&p);
		put_chain(&p);
		put_parts(&p);
		put_snapshots(&p);
		put_bitmaps(&p);
	}
	if (guest)
		put_guest(&p, guest);
	put_problems(&p);
	return p.bad ? err_set(err, ERR_MEMORY, "no memory for the report") : 0;
}
