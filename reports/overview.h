/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_OVERVIEW_H
#define DEDUPSCAN_OVERVIEW_H

#include "reports/cell.h"

/* What all reports for people say alike, table and HTML. */

/* How much there is, how much of it twice, what could be saved, and what is missing: plain lines without anybody else's text. */
void overview_headline(FILE *out, const struct tally *t, const struct report_options *o);

/* The images that were read, in the order asked for; to be freed.  NULL when memory is out. */
const struct image_tally **overview_images(const struct tally *t, enum report_sort sort, size_t *ret_nr);
/* "STORED" and the like: what they are in order of. */
const char *overview_order(enum report_sort sort);

/* The lower end of a bucket of the histogram, as in zdb -S: 512, 1K, 2K, ... */
struct cell overview_references(unsigned bucket);

struct cell overview_ratio(uint64_t before, uint64_t after);

#endif
