/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_SCAN_JOB_H
#define DEDUPSCAN_SCAN_JOB_H

#include "reports/commands/settings.h"
#include "scanner/catalog.h"
#include "scanner/scan.h"
#include "scanner/tally.h"

/* A scan into a catalog: what scan, report and compact begin with. */

struct scan_job {
	struct settings s;
	struct scan_workers *workers;
	struct catalog *catalog;
	struct scan_result result;
	struct tally tally;
};

/* Opens the catalog, and starts workers unless nothing is to be read. */
int scan_job_open(struct scan_job *j, struct err *err);
/* Scans, unless told not to.  A scan that was stopped is remembered as such. */
int scan_job_scan(struct scan_job *j, struct err *err);
/* Both, and counts. */
int scan_job_run(struct scan_job *j, struct err *err);
/* The exit status, as far as images could be read. */
int scan_job_status(const struct scan_job *j);
void scan_job_release(struct scan_job *j);

#endif
