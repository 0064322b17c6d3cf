/* SPDX-License-Identifier: Apache-2.0 */
#include "reports/commands/commands.h"

#include <stdio.h>

#include "reports/commands/scan_job.h"
#include "reports/commands/terminal.h"
#include "scanner/base/units.h"

static void print_scan_summary(const struct scan_job *j)
{
	const struct scan_result *r = &j->result;
	char read[UNITS_SIZE_ROOM], nonzero[UNITS_SIZE_ROOM], distinct[UNITS_SIZE_ROOM], disk[UNITS_SIZE_ROOM];
	uint64_t nr_blocks = j->tally.nonzero / 4096;

	printf("%llu images: %llu read, %llu unchanged, %llu failed", (unsigned long long)r->nr_images,
	       (unsigned long long)r->nr_read, (unsigned long long)r->nr_unchanged, (unsigned long long)r->nr_failed);
	if (r->nr_renamed)
		printf(", %llu renamed", (unsigned long long)r->nr_renamed);
	if (r->nr_removed)
		printf(", %llu gone", (unsigned long long)r->nr_removed);
	printf("; %s read\n", units_size(r->bytes_read, read, sizeof(read)));
	printf("%s not zero, %s of it distinct", units_size(j->tally.nonzero, nonzero, sizeof(nonzero)),
	       units_size(j->tally.distinct, distinct, sizeof(distinct)));
	printf("; catalog %s", units_size(j->tally.catalog_bytes, disk, sizeof(disk)));
	if (nr_blocks)
		printf(", %.1f bytes a block", (double)j->tally.catalog_bytes / (double)nr_blocks);
	printf("; peak memory %s\n", units_size(j->tally.peak_memory, disk, sizeof(disk)));
}

static const char scan_help[] =
	"usage: dedupscan scan [OPTION]... PATH...\n"
	"\n"
	"Reads the disk images at and beneath each PATH, as far as they changed since the last\n"
	"scan, and brings the catalog up to date.  Images are never written to.\n";

int run_scan(int argc, char **argv)
{
	static const struct option options[] = { SCAN_OPTIONS, { 0 } };
	struct scan_job j = { .catalog = NULL };
	struct err err = ERR_INIT;
	int status;

	if (settings_parse(&j.s, argc, argv, options, &err) < 0) {
		roots_release(&j.s.roots);
		return term_cannot_begin(&err);
	}
	if (j.s.help) {
		printf("%s%s", scan_help, settings_help);
		return term_printed(EXIT_DONE);
	}
	if (scan_job_run(&j, &err) < 0) {
		status = term_fail(&err);
	} else {
		term_clear();
		print_scan_summary(&j);
		status = scan_job_status(&j);
	}
	scan_job_release(&j);
	return term_printed(status);
}
