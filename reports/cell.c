/* SPDX-License-Identifier: Apache-2.0 */
#include "reports/cell.h"

#include <inttypes.h>
#include <string.h>

#include "scanner/base/cleanup.h"
#include "scanner/base/text.h"
#include "scanner/base/units.h"

struct cell cell_size(const struct report_options *o, bool compact, uint64_t v)
{
	struct cell c;
	char *space;

	if (o->exact)
		return cell_number(v);
	units_size(v, c.s, sizeof(c.s));
	space = strchr(c.s, ' ');
	if (compact && space) {
		space[0] = space[1];
		space[1] = '\0';
	}
	return c;
}

struct cell cell_said(const struct report_options *o, uint64_t v)
{
	struct cell c = cell_size(o, false, v);

	if (o->exact)
		strcat(c.s, " bytes");
	return c;
}

struct cell cell_round(uint64_t v, const char *unit)
{
	const char *const units[] = { unit, " KiB", " MiB", " GiB" };
	struct cell c;
	unsigned u = 0;

	for (; u < 3 && v && v % 1024 == 0; u++)
		v /= 1024;
	snprintf(c.s, sizeof(c.s), "%" PRIu64 "%s", v, units[u]);
	return c;
}

struct cell cell_number(uint64_t v)
{
	struct cell c;

	snprintf(c.s, sizeof(c.s), "%" PRIu64, v);
	return c;
}

struct cell cell_quotient(const char *format, double scale, double part, uint64_t whole)
{
	struct cell c = { "-" };

	if (whole)
		snprintf(c.s, sizeof(c.s), format, scale * part / (double)whole);
	return c;
}

void cell_put_text(FILE *out, const struct report_options *o, const char *s, bool *bad)
{
	CLEANUP(free) char *safe = text_escape_new(s, o->utf8);

	if (safe)
		fputs(safe, out);
	else
		*bad = true;
}
