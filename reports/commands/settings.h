/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_SETTINGS_H
#define DEDUPSCAN_SETTINGS_H

#include <getopt.h>
#include <limits.h>
#include <stdbool.h>

#include "compactor/pool/immutable.h"
#include "compactor/pool/view.h"
#include "reports/report.h"
#include "scanner/base/err.h"
#include "scanner/base/jail.h"
#include "scanner/roots.h"
#include "scanner/scan.h"

/* Options that more than one command takes, and what they set. */

enum {
	OPT_CATALOG = 256, OPT_EXCLUDE, OPT_FORMAT, OPT_ALLOW_BACKING, OPT_FILES_FROM, OPT_MEMORY, OPT_JOBS, OPT_LIMIT, OPT_WINDOW,
	OPT_FOR, OPT_UNTIL, OPT_NO_IDLE, OPT_KEEP_CACHE, OPT_NO_SCAN, OPT_STYLE, OPT_OUTPUT, OPT_SORT, OPT_TOP, OPT_BYTES,
	OPT_HELP, OPT_SANDBOX, OPT_GUEST, OPT_APPLY, OPT_PLAN, OPT_PLAN_OUT, OPT_METHOD, OPT_MIN_RUN, OPT_ONLY, OPT_SHARERS,
	OPT_KEEP_ORIGINALS, OPT_ASSUME_IDLE, OPT_PREALLOCATED, OPT_UNDO, OPT_PURGE, OPT_POOL, OPT_CLUSTER_SIZE, OPT_FILE_SIZE,
	OPT_L2_CACHE, OPT_HOST_CACHE, OPT_AIO, OPT_CROSS_OWNER, OPT_IMMUTABLE, OPT_COMPAT, OPT_TO_QCOW2, OPT_SNAPSHOTS, OPT_WAIT,
};

#define SETTINGS_WAIT 10 /* seconds for another process at work in the same place; nearly all are done in a moment */

/* What is read, and when. */
#define READING_OPTIONS                                                                                                \
	{ "catalog", required_argument, NULL, OPT_CATALOG }, { "exclude", required_argument, NULL, OPT_EXCLUDE },      \
	{ "format", required_argument, NULL, OPT_FORMAT },                                                             \
	{ "allow-backing", required_argument, NULL, OPT_ALLOW_BACKING },                                               \
	{ "files-from", required_argument, NULL, OPT_FILES_FROM }, { "null", no_argument, NULL, '0' },                 \
	{ "limit", required_argument, NULL, OPT_LIMIT }, { "window", required_argument, NULL, OPT_WINDOW },            \
	{ "for", required_argument, NULL, OPT_FOR }, { "until", required_argument, NULL, OPT_UNTIL },                  \
	{ "no-idle", no_argument, NULL, OPT_NO_IDLE }, { "fill-cache", no_argument, NULL, OPT_KEEP_CACHE },            \
	{ "sandbox", required_argument, NULL, OPT_SANDBOX }, { "help", no_argument, NULL, OPT_HELP }

#define SCAN_OPTIONS                                                                                                   \
	READING_OPTIONS, { "memory", required_argument, NULL, OPT_MEMORY }, { "jobs", required_argument, NULL, OPT_JOBS }

struct settings {
	struct scan_options scan;
	struct roots roots;
	char catalog[PATH_MAX];
	const char *files_from;
	bool nul, idle, no_scan, help;
	enum jail_mode sandbox;
	unsigned jobs;
	/* report */
	struct report_options report;
	struct {
		const struct report_style *style;
		const char *output;
	} styles[8];
	size_t nr_styles;
};

/* What scan, report and compact take of them, as --help tells it, with exit statuses. */
extern const char settings_help[];

void settings_init(struct settings *s);
/* Who writes a report or a plan wants to know the locale and the terminal, too. */
void settings_init_to_report(struct settings *s);
/* Sets what `opt` says, as getopt_long() found it; of any other option, too, that getopt_long() has complained about. */
int settings_option(struct settings *s, int opt, const char *arg, struct err *err);
int settings_report_option(struct settings *s, int opt, const char *arg, const char *long_name, struct err *err);
int settings_add_style(struct settings *s, const char *name, const char *output, struct err *err);
/* Fills in what was not told. */
int settings_check(struct settings *s, struct err *err);
/* All of these, for commands that take nothing else. */
int settings_parse(struct settings *s, int argc, char **argv, const struct option *options, struct err *err);

/* Adds roots: directories and files that are walked, and those that --files-from names. */
int settings_add_paths(struct settings *s, int argc, char **argv, struct err *err);
/* Each image is a root, and so is its directory, which is not walked. */
int settings_add_image(struct roots *roots, const char *path, struct err *err);

/* The idle classes of CPU and disk: whatever else wants them goes first. */
void settings_be_idle(void);
/* Says what the kernel lacks when the sandbox need not be whole. */
int settings_plan_jail(enum jail_mode mode, struct jail *ret, struct err *err);

/* Values of options; what is wrong with them is ERR_USAGE. */
int option_count(const char *arg, unsigned most, unsigned *ret, struct err *err);
int option_seconds(int64_t *ret, const char *arg, struct err *err);
int option_immutable(enum pool_immutable *ret, bool *ret_told, const char *arg, struct err *err);

/* How QEMU reads what is in a pool: three options, and the value of one. */
#define STUB_OPTIONS                                                                                                   \
	{ "l2-cache", required_argument, NULL, OPT_L2_CACHE }, { "host-cache", required_argument, NULL, OPT_HOST_CACHE }, \
	{ "aio", required_argument, NULL, OPT_AIO }
int option_stub(struct stub_wish *ret, int opt, const char *arg, struct err *err);

#endif
