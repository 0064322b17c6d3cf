/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_REPORT_H
#define DEDUPSCAN_REPORT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "scanner/base/err.h"
#include "scanner/tally.h"

/* Reports: a tally written out for people (table, html) and for programs (csv*, json).
 *
 * A style is one .c file and one line in report_styles.  What the figures mean is said in scanner/tally.h and, for
 * users, in dedupscan-report(1).  Names and messages in a tally are bytes that somebody else chose: every style writes
 * them so that they break no line, no record and no terminal. */

enum report_sort {
	REPORT_SORT_STORED, /* largest first, like all the sizes */
	REPORT_SORT_EXCLUSIVE,
	REPORT_SORT_SHARE,
	REPORT_SORT_PATH,
};

/* How the table looks, and what of that is in a page; csv and json always hold every image, in order of path, in exact bytes.
 * All zero is a valid choice: plain ASCII, no limit of width, largest image first. */
struct report_options {
	enum report_sort sort;
	unsigned top;	/* only the first so many images, 0 = all */
	bool exact;	/* bytes instead of "12.3 GiB" */
	bool utf8;	/* the reader understands UTF-8; without effect unless LC_CTYPE is UTF-8 too */
	unsigned width; /* columns of the terminal, 0 = no limit */
};

/* Sets the process's LC_CTYPE from the environment, utf8 from that, and width from the terminal behind stdout (COLUMNS goes
 * first), 0 when it is none. */
void report_options_detect(struct report_options *o);

/* "stored", "exclusive", "share", "path"; ERR_USAGE for any other. */
int report_sort_by_name(const char *name, enum report_sort *ret, struct err *err);

struct report_style {
	const char *name; /* "table", as in --table */

	/* Writes the report to `out`, a stream in memory: what goes wrong is memory. */
	int (*write)(FILE *out, const struct tally *t, const struct report_options *o, struct err *err);
};

extern const struct report_style report_table, report_csv, report_csv_totals, report_csv_histogram, report_json, report_html;

/* All of them, NULL at the end; the first is the default. */
extern const struct report_style *const report_styles[];

/* NULL when there is none of that name. */
const struct report_style *report_style_by_name(const char *name);

/* Has `make` write to a stream in memory, then writes that to `output`, or to stdout when that is NULL.
 *
 * A regular file appears whole or not at all: temporary name beside it, sync, rename; an old one stays on failure and
 * a symbolic link is followed.  Terminals and pipes are written in place, block devices refused.
 *
 * A reader of stdout that went away is ERR_CANCELED with errnum EPIPE, so that `| head -1` can end quietly; for that
 * SIGPIPE must be ignored. */
int report_publish(const char *output, int (*make)(void *ctx, FILE *out, struct err *err), void *ctx, struct err *err);

/* The same for a report.  `o->width` counts for stdout only. */
int report_write(const struct report_style *style, const struct tally *t, const struct report_options *o,
		 const char *output, struct err *err);

/* Small figures that all styles share. */

/* Bytes of duplicates: not zero - distinct. */
uint64_t report_duplicates(const struct tally *t);

/* Bytes of duplicates that the file system does not share yet, never below 0.  False when it cannot say. */
bool report_left_to_save(const struct tally *t, uint64_t *ret);

/* Why an image has no figures; false when it has. */
static inline bool report_image_failed(const struct image_tally *img)
{
	return img->error != NULL;
}

/* "2026-11-21T02:24:51Z", or "" for 0 (never) and times that no calendar holds. */
#define REPORT_TIME_SIZE 32
void report_time(int64_t seconds, char ret[REPORT_TIME_SIZE]);

#endif
