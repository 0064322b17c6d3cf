/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_CELL_H
#define DEDUPSCAN_CELL_H

#include <stdio.h>

#include "reports/report.h"

/* What stands in tables and sentences for people.  A cell is returned by value, so that it lives until the end of the call it is an
 * argument of. */
struct cell {
	char s[48];
};

/* "12.3 GiB", "12.3G" where columns are `compact`, or "13207024435" as the options want it. */
struct cell cell_size(const struct report_options *o, bool compact, uint64_t v);

/* The same for sentences, where the unit is never left out. */
struct cell cell_said(const struct report_options *o, uint64_t v);

/* 65536: "64 KiB"; for round numbers.  What is no multiple of 1024 gets `unit`. */
struct cell cell_round(uint64_t v, const char *unit);

struct cell cell_number(uint64_t v);

/* scale * part / whole as the format of a double says, "-" where whole is 0. */
struct cell cell_quotient(const char *format, double scale, double part, uint64_t whole);

static inline struct cell cell_percent(double part, uint64_t whole)
{
	return cell_quotient("%.1f %%", 100, part, whole);
}

static inline const char *cell_plural(uint64_t n)
{
	return n == 1 ? "" : "s";
}

/* Text that somebody else chose, whole and harmless.  *bad is set when memory runs out, and nothing is written. */
void cell_put_text(FILE *out, const struct report_options *o, const char *s, bool *bad);

#endif
