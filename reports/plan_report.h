/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_PLAN_REPORT_H
#define DEDUPSCAN_PLAN_REPORT_H

#include <stdio.h>

#include "reports/report.h"
#include "scanner/plan.h"

/* Plans, and what came of them, for people and for programs; dedupscan-compact(1) says what the figures mean. */

/* `exact`, `utf8` and `width` of the options count. */
int plan_write_table(FILE *out, const struct plan *p, const struct report_options *o, struct err *err);

/* Everything that is in a plan: plan_read() makes it again. */
int plan_write_json(FILE *out, const struct plan *p, struct err *err);

/* The same to a file as report_write() writes one, whole or not at all; NULL is stdout. */
int plan_write_file(const char *path, const struct plan *p, struct err *err);

/* Reads a plan that plan_write_json() wrote, or somebody who wants to harm: every member must be there, of its type and in
 * its range, steps and images point at what is there, images are in order of path.  `name` is the file's, for messages.
 * What breaks that is ERR_FORMAT and named with its line; a plan of a newer version, or with a method or state that is not
 * known, is ERR_UNSUPPORTED.  *ret is set on success only, for plan_release().
 *
 * That the plan fits the images as they are now is not known here: paths lead anywhere until they are opened beneath roots. */
int plan_read(FILE *in, const char *name, struct plan *ret, struct err *err);

/* ---- what plan_json.c writes and plan_read.c reads alike ---- */

#define PLAN_JSON_VERSION 1

/* A member that is a plain number. */
struct plan_figure {
	const char *name;
	size_t offset; /* of its uint64_t in the struct */
	bool maybe;    /* 0 is null: not known */
	bool later;    /* plans of older programs do not have it */
};

/* Each ends with a name of NULL. */
extern const struct plan_figure plan_figures[], plan_fs_figures[], plan_image_figures[], plan_step_figures[];

#endif
