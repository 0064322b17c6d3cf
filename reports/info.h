/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_INFO_H
#define DEDUPSCAN_INFO_H

#include <stdio.h>

#include "reports/report.h"
#include "scanner/guests.h"
#include "scanner/inspect.h"

/* What an image is, for people and for programs; dedupscan-info(1) says what the figures mean. */

/* Writes one image, with what is inside unless that is NULL.  `exact` and `utf8` of the options count. */
int info_write_table(FILE *out, const struct inspection *i, const struct guest *guest, const struct report_options *o,
		     struct err *err);

/* One document for all images, with tree_print() and tree_free() of json_tree.h. */
struct json_t *info_json_new(struct err *err);
int info_json_add(struct json_t *doc, const struct inspection *i, const struct guest *guest, struct err *err);

/* Small figures that both share. */

/* The largest alignment, in bytes, that at least `percent` of the plain data has; 0 when that is less than 512. */
uint64_t info_alignment(const struct inspection *i, unsigned percent);

/* "guessed", "agreed", "told" */
const char *info_certainty(const struct inspection *i);

#endif
