/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_VERIFY_REPORT_H
#define DEDUPSCAN_VERIFY_REPORT_H

#include <stdio.h>

#include "reports/report.h"
#include "scanner/verify.h"

/* What verifying found, for people and for programs; dedupscan-verify(1) describes both. */

/* One image: a line, then what differs.  `utf8` of the options counts. */
int verify_write_image(FILE *out, const struct verify_image *i, const struct report_options *o, struct err *err);
/* The last line. */
void verify_write_totals(FILE *out, const struct verify_totals *t);

/* One document for all images, with tree_print() and tree_free() of json_tree.h. */
struct json_t *verify_json_new(struct err *err);
int verify_json_add(struct json_t *doc, const struct verify_image *i, struct err *err);
int verify_json_end(struct json_t *doc, const struct verify_totals *t, struct err *err);

#endif
