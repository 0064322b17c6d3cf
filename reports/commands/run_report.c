/* SPDX-License-Identifier: Apache-2.0 */
#include "reports/commands/commands.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "reports/commands/scan_job.h"
#include "reports/commands/terminal.h"
#include "reports/report.h"

static const char report_help[] =
	"usage: dedupscan report [OPTION]... PATH...\n"
	"\n"
	"Scans the disk images at and beneath each PATH and reports what they store twice.\n"
	"\n"
	"  --no-scan             report what the catalog knows; read no image\n"
	"  --table[=FILE] --html[=FILE] --json[=FILE] --csv[=FILE] --csv-totals[=FILE]\n"
	"  --csv-histogram[=FILE]\n"
	"                        style of the report (default table) and where it goes (default\n"
	"                        standard output); several at once, one of them to standard output\n"
	"  --output FILE         where the last style named goes; written whole or not at all\n"
	"  --sort KEY            stored, exclusive, share or path\n"
	"  --top N               only the first N images in the table\n"
	"  --bytes               exact bytes in the table\n";

static int check_outputs(const struct settings *s, struct err *err)
{
	unsigned to_stdout = 0;

	for (size_t i = 0; i < s->nr_styles; i++)
		to_stdout += !s->styles[i].output || strcmp(s->styles[i].output, "-") == 0;
	return to_stdout <= 1 ? 0 :
	       err_set(err, ERR_USAGE, "only one report can go to standard output; name a file for the others");
}

static int write_reports(const struct scan_job *j, struct err *err)
{
	for (size_t i = 0; i < j->s.nr_styles; i++) {
		const char *output = j->s.styles[i].output;

		if (output && strcmp(output, "-") == 0)
			output = NULL;
		if (report_write(j->s.styles[i].style, &j->tally, &j->s.report, output, err) < 0)
			return -1;
	}
	return 0;
}

static int report(struct scan_job *j, struct err *err)
{
	if (scan_job_run(j, err) < 0)
		return term_fail(err);
	term_clear();
	if (write_reports(j, err) == 0)
		return scan_job_status(j);
	if (err->kind == ERR_CANCELED && err->errnum == EPIPE)
		return EXIT_DONE; /* the reader has seen enough */
	term_complain(err);
	return EXIT_FAILED;
}

int run_report(int argc, char **argv)
{
	static const struct option options[] = {
		SCAN_OPTIONS,
		{ "no-scan", no_argument, NULL, OPT_NO_SCAN },
		{ "table", optional_argument, NULL, OPT_STYLE },
		{ "csv", optional_argument, NULL, OPT_STYLE },
		{ "csv-totals", optional_argument, NULL, OPT_STYLE },
		{ "csv-histogram", optional_argument, NULL, OPT_STYLE },
		{ "json", optional_argument, NULL, OPT_STYLE },
		{ "html", optional_argument, NULL, OPT_STYLE },
		{ "output", required_argument, NULL, OPT_OUTPUT },
		{ "sort", required_argument, NULL, OPT_SORT },
		{ "top", required_argument, NULL, OPT_TOP },
		{ "bytes", no_argument, NULL, OPT_BYTES },
		{ 0 },
	};
	struct scan_job j = { .catalog = NULL };
	struct err err = ERR_INIT;
	int status;

	if (settings_parse(&j.s, argc, argv, options, &err) < 0 || (!j.s.help && check_outputs(&j.s, &err) < 0)) {
		roots_release(&j.s.roots);
		return term_cannot_begin(&err);
	}
	if (j.s.help) {
		printf("%s%s", report_help, settings_help);
		return term_printed(EXIT_DONE);
	}
	if (j.s.nr_styles == 0)
		settings_add_style(&j.s, "table", NULL, &err);
	status = report(&j, &err);
	scan_job_release(&j);
	return status;
}
