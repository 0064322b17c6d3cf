/* SPDX-License-Identifier: Apache-2.0 */
/* Images that were verified, for people: a line for each, which begins with how it went and ends with its path, and lines beneath
 * it for what there is to say.  Offsets and lengths are exact: they are for dd(1) and its like. */
#include "reports/verify_report.h"

#include <inttypes.h>

#include "scanner/base/text.h"
#include "scanner/base/units.h"

#define INDENT "         "

static void write_runs(FILE *out, const struct verify_image *i)
{
	for (size_t n = 0; n < i->runs.nr; n++) {
		const struct verify_run *r = &i->runs.items[n];

		fprintf(out, INDENT "offset %" PRIu64 ", length %" PRIu64, r->offset, r->len);
		if (r->layer)
			fprintf(out, ", of snapshot %" PRIu64, r->layer);
		fputc('\n', out);
	}
	if (i->nr_runs > i->runs.nr)
		fprintf(out, INDENT "and %" PRIu64 " more\n", i->nr_runs - i->runs.nr);
}

int verify_write_image(FILE *out, const struct verify_image *i, const struct report_options *o, struct err *err)
{
	CLEANUP(free) char *path = text_escape_new(i->path, o->utf8);
	CLEANUP(free) char *why = text_escape_new(i->why, o->utf8);

	if (!path || !why)
		return err_set(err, ERR_MEMORY, "no memory for a line");
	fprintf(out, "%-8s %s\n", verify_outcome_names[i->outcome], path);
	if (*why)
		fprintf(out, INDENT "%s\n", why);
	write_runs(out, i);
	return 0;
}

void verify_write_totals(FILE *out, const struct verify_totals *t)
{
	char read[UNITS_SIZE_ROOM];
	const char *before = ": ";
	uint64_t nr = 0;

	for (int i = 0; i < VERIFY_NR_OUTCOMES; i++)
		nr += t->nr[i];
	fprintf(out, "%" PRIu64 " images", nr);
	for (int i = 0; i < VERIFY_NR_OUTCOMES; i++) {
		if (!t->nr[i])
			continue;
		fprintf(out, "%s%" PRIu64 " %s", before, t->nr[i], verify_outcome_names[i]);
		before = ", ";
	}
	fprintf(out, "; %s read\n", units_size(t->bytes_read, read, sizeof(read)));
}
