/* SPDX-License-Identifier: Apache-2.0 */
#include "reports/commands/commands.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "reports/commands/settings.h"
#include "reports/commands/terminal.h"
#include "reports/json_tree.h"
#include "reports/verify_report.h"
#include "scanner/catalog.h"
#include "scanner/verify.h"

enum { OPT_RECORD = 512, OPT_CHECK };

const char verify_help[] =
	"usage: dedupscan verify [OPTION]... PATH...\n"
	"       dedupscan verify --pool [--read-data[=SHARE%]] [DIR]\n"
	"\n"
	"Reads the disk images at and beneath each PATH in full and tells which of them are not\n"
	"what the last scan found, and where.  Neither images nor what the catalog knows is changed.\n"
	"With --pool it is the pool of DIR that is looked at, as by dedupscan pool check.\n"
	"\n"
	"  --pool                look at a pool; of the others --read-data, --window, --for, --until\n"
	"                        and --no-idle go with it\n"
	"  --read-data[=SHARE%]  read all its data, too, or another share each time\n"
	"  --record FILE         write a digest of each image to FILE instead of comparing\n"
	"  --check FILE          compare with the digests in FILE, not with the catalog\n"
	"  --json                for programs\n"
	"  --catalog DIR         where the results of scans are\n"
	"  --exclude PATTERN     leave out files and directories of that name, or path if it has a '/'\n"
	"  --format NAME         take every file for this format: raw, qcow2, ...\n"
	"  --allow-backing DIR   backing and data files may be opened beneath DIR too\n"
	"  --files-from FILE     more PATHs, one a line ('-' is standard input)\n"
	"  -0, --null            the PATHs in FILE are ended by zero bytes\n"
	"  --limit SIZE          read at most so many bytes a second\n"
	"  --window FROM-TO      work only within this time of the day: 01:00-05:00\n"
	"  --for TIME            stop after 90s, 30m, 2h\n"
	"  --until HH:MM         stop at this time of the day\n"
	"  --no-idle             do not run in the idle classes of CPU and disk\n"
	"  --fill-cache          let what is read stay in the page cache\n"
	"  --sandbox MODE        require (the default), best, or off: see dedupscan(1)\n"
	"\n"
	"Exit status: 0 every image is what it was; 1 some are not, or nothing tells; 2 usage;\n"
	"3 failed; 4 catalog in use; 75 stopped.\n";

/* Its settings are some of scan's and where digests are. */
struct verification {
	struct settings s;
	struct json_t *json;
	const char *record, *check;
};

static int verify_option(struct verification *f, int opt, const char *arg, struct err *err)
{
	switch (opt) {
	case OPT_RECORD:
		f->record = arg;
		return 0;
	case OPT_CHECK:
		f->check = arg;
		return 0;
	case OPT_STYLE:
		f->json = f->json ? f->json : verify_json_new(err);
		return f->json ? 0 : -1;
	default:
		return settings_option(&f->s, opt, arg, err);
	}
}

static int parse_verify(struct verification *f, int argc, char **argv, struct err *err)
{
	static const struct option options[] = {
		READING_OPTIONS,
		{ "record", required_argument, NULL, OPT_RECORD },
		{ "check", required_argument, NULL, OPT_CHECK },
		{ "json", no_argument, NULL, OPT_STYLE },
		{ 0 },
	};
	int opt;

	settings_init_to_report(&f->s);
	while ((opt = getopt_long(argc, argv, "0", options, NULL)) != -1)
		if (verify_option(f, opt, optarg, err) < 0)
			return -1;
	if (f->s.help)
		return 0;
	if (f->record && f->check)
		return err_set(err, ERR_USAGE, "--record and --check exclude each other");
	if (settings_check(&f->s, err) < 0)
		return -1;
	return settings_add_paths(&f->s, argc - optind, argv + optind, err);
}

static int tell_verified(void *ctx, const struct verify_image *i, struct err *err)
{
	struct verification *f = ctx;

	if (f->json)
		return verify_json_add(f->json, i, err);
	term_clear();
	if (verify_write_image(stdout, i, &f->s.report, err) < 0)
		return -1;
	fflush(stdout); /* the next one may take hours; term_printed() looks whether that went well */
	return 0;
}

/* A catalog holds no images, whether it is used or not. */
static void leave_out_catalog(struct verification *f)
{
	struct stat st;

	if (stat(f->s.catalog, &st) == 0)
		f->s.roots.leave_out = spool_identity_of(&st);
}

static int verify_with(struct verification *f, const struct verify_options *o, struct verify_totals *ret, struct err *err)
{
	CLEANUP(catalog_close) struct catalog *catalog = NULL;

	leave_out_catalog(f);
	if (f->record)
		return verify_record(f->record, o, ret, err);
	if (f->check)
		return verify_check(f->check, o, ret, err);
	catalog = catalog_open(f->s.catalog, false, err);
	return catalog ? verify_catalog(catalog, o, ret, err) : -1;
}

static int verify(struct verification *f, struct err *err)
{
	struct verify_totals totals = { 0 };
	struct jail jail;
	struct verify_options o = {
		.roots = &f->s.roots, .format = f->s.scan.format, .jail = &jail, .stopper = &term_stopper,
		.limit = f->s.scan.limit, .keep_cache = f->s.scan.keep_cache, .watch = &term_watch,
		.tell = tell_verified, .ctx = f,
	};

	if (settings_plan_jail(f->s.sandbox, &jail, err) < 0)
		return -1;
	if (f->s.idle)
		settings_be_idle();
	if (verify_with(f, &o, &totals, err) < 0)
		return -1;
	term_clear();
	if (!f->json)
		verify_write_totals(stdout, &totals);
	else if (verify_json_end(f->json, &totals, err) < 0)
		return -1;
	else
		tree_print(stdout, f->json); /* term_printed() looks whether that went well */
	return verify_all_well(&totals) ? EXIT_DONE : EXIT_SKIPS;
}

/* It has other options then. */
static bool is_about_pool(int argc, char **argv)
{
	for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
		if (strcmp(argv[i], "--pool") == 0 || strncmp(argv[i], "--pool=", 7) == 0 ||
		    strncmp(argv[i], "--read-data", 11) == 0)
			return true;
	return false;
}

int run_verify(int argc, char **argv)
{
	struct verification f = { .json = NULL };
	struct err err = ERR_INIT;
	int status;

	if (is_about_pool(argc, argv))
		return run_verify_pool(argc, argv);
	if (parse_verify(&f, argc, argv, &err) < 0) {
		status = term_cannot_begin(&err);
	} else if (f.s.help) {
		fputs(verify_help, stdout);
		status = term_printed(EXIT_DONE);
	} else {
		status = verify(&f, &err);
		status = term_printed(status < 0 ? term_fail(&err) : status);
	}
	roots_release(&f.s.roots);
	tree_free(f.json);
	return status;
}
