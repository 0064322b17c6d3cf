/* SPDX-License-Identifier: Apache-2.0 */

/* The front door: the table of commands, their options, the exit statuses, and every word on the terminal. */

#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <getopt.h>
#include <libgen.h>
#include <linux/ioprio.h>
#include <locale.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "compactor/compact.h"
#include "compactor/clone.h"
#include "compactor/collect.h"
#include "compactor/expand.h"
#include "compactor/live_guest.h"
#include "compactor/pool/pool_check.h"
#include "compactor/pool_home.h"
#include "compactor/pool_diff.h"
#include "compactor/pool_status.h"
#include "compactor/repoint.h"
#include "compactor/restore.h"
#include "compactor/versions.h"
#include "compactor/workshop.h"
#include "reports/info.h"
#include "reports/json_tree.h"
#include "reports/plan_report.h"
#include "reports/report.h"
#include "reports/verify_report.h"
#include "scanner/base/checked.h"
#include "scanner/base/memory.h"
#include "scanner/base/progress.h"
#include "scanner/base/text.h"
#include "scanner/base/units.h"
#include "scanner/chunk/fingerprint.h"
#include "scanner/image/image.h"
#include "scanner/roots.h"
#include "scanner/scan.h"
#include "scanner/tally.h"
#include "scanner/verify.h"

#define VERSION "0.1"

/* One table for all commands; dedupscan(1) documents it. */
enum exit_status {
	EXIT_DONE = 0,
	EXIT_SKIPS = 1,	   /* done, but some images could not be read, or are not what they were */
	EXIT_USAGE = 2,	   /* the command line is wrong; nothing was done */
	EXIT_FAILED = 3,   /* it could not be done; what was there before is as it was */
	EXIT_BUSY = 4,	   /* another dedupscan has the catalog, or the pool */
	EXIT_STOPPED = 75, /* by a signal or the end of its time; run it again to go on */
};

struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *what;
};

/* ---- speaking ---- */

static const char *safe(const char *s, char *buf, size_t room)
{
	text_escape_terminal(s, true, buf, room);
	return buf;
}

static struct {
	struct progress progress;
	bool terminal, line; /* stderr is one; a line of progress stands on it */
	volatile sig_atomic_t wanted;
	uint64_t begun, last; /* ns */
} shown;

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void clear_progress(void)
{
	if (shown.line)
		fputs("\r\033[K", stderr);
	shown.line = false;
}

static void complain(const struct err *err)
{
	char text[4 * sizeof(err->text)];

	clear_progress();
	fprintf(stderr, "dedupscan: %s\n", safe(err->text, text, sizeof(text)));
}

static int usage_error(const struct err *err)
{
	if (err->text[0])
		complain(err);
	fprintf(stderr, "dedupscan: try 'dedupscan --help'\n");
	return EXIT_USAGE;
}

static int status_of(const struct err *err)
{
	switch (err->kind) {
	case ERR_CANCELED:
		return EXIT_STOPPED;
	case ERR_USAGE:
		return EXIT_USAGE;
	case ERR_BUSY:
		return EXIT_BUSY;
	default:
		return EXIT_FAILED;
	}
}

static void show_problem(void *ctx, const char *path, const struct err *why)
{
	char name[4 * PATH_MAX], text[4 * sizeof(why->text)];

	(void)ctx;
	clear_progress();
	fprintf(stderr, "dedupscan: '%s': %s\n", safe(path, name, sizeof(name)), safe(why->text, text, sizeof(text)));
}

static void show_progress(void *ctx, const struct scan_progress *p)
{
	struct progress_state state = { p->stage, p->done, p->total, p->bytes, p->nr_images_done, p->bytes ? p->nr_images : 0,
					"images" };
	uint64_t now = now_ns();
	char line[256];

	(void)ctx;
	progress_line(&shown.progress, &state, now, line, sizeof(line));
	if (!shown.wanted && (!shown.terminal || now - shown.last < 200000000 || now - shown.begun < 1000000000))
		return;
	shown.wanted = 0;
	shown.last = now;
	fprintf(stderr, shown.terminal ? "\r%s\033[K" : "%s\n", line);
	shown.line = shown.terminal;
	fflush(stderr);
}

/* ---- signals ---- */

static struct stopper stopper;

static void on_stop(int sig)
{
	(void)sig;
	atomic_store(&stopper.flag, 1);
}

static void on_usr1(int sig)
{
	(void)sig;
	shown.wanted = 1;
}

static void set_signals(void)
{
	struct sigaction stop = { .sa_handler = on_stop }, usr1 = { .sa_handler = on_usr1 }, ignore = { .sa_handler = SIG_IGN };

	sigaction(SIGINT, &stop, NULL);
	sigaction(SIGTERM, &stop, NULL);
	sigaction(SIGHUP, &stop, NULL);
	sigaction(SIGUSR1, &usr1, NULL);
	sigaction(SIGPIPE, &ignore, NULL);
	sigaction(SIGXFSZ, &ignore, NULL); /* a limit of file sizes is an error, not the end */
	shown.terminal = isatty(STDERR_FILENO);
	shown.begun = now_ns();
}

/* ---- options of scan and report ---- */

enum {
	OPT_CATALOG = 256, OPT_EXCLUDE, OPT_FORMAT, OPT_ALLOW_BACKING, OPT_FILES_FROM, OPT_MEMORY, OPT_JOBS, OPT_LIMIT, OPT_WINDOW,
	OPT_FOR, OPT_UNTIL, OPT_NO_IDLE, OPT_KEEP_CACHE, OPT_NO_SCAN, OPT_STYLE, OPT_OUTPUT, OPT_SORT, OPT_TOP, OPT_BYTES,
	OPT_HELP, OPT_SANDBOX, OPT_GUEST, OPT_APPLY, OPT_PLAN, OPT_PLAN_OUT, OPT_METHOD, OPT_MIN_RUN, OPT_ONLY, OPT_SHARERS,
	OPT_KEEP_ORIGINALS, OPT_ASSUME_IDLE, OPT_PREALLOCATED, OPT_UNDO, OPT_PURGE, OPT_POOL, OPT_CLUSTER_SIZE, OPT_L2_CACHE,
	OPT_HOST_CACHE, OPT_CROSS_OWNER, OPT_IMMUTABLE, OPT_COMPAT, OPT_TO_QCOW2, OPT_SNAPSHOTS,
};

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

static int parse_count(const char *s, unsigned most, unsigned *ret, struct err *err)
{
	char *end;
	unsigned long v = strtoul(s, &end, 10);

	if (*s < '0' || *s > '9' || *end || v > most)
		return err_set(err, ERR_USAGE, "'%s' is not a number from 0 to %u", s, most);
	*ret = (unsigned)v;
	return 0;
}

static int set_catalog(struct settings *s, const char *dir, struct err *err)
{
	if (strlen(dir) >= sizeof(s->catalog) - 64 || !*dir)
		return err_set(err, ERR_USAGE, "the catalog's path is empty or too long");
	snprintf(s->catalog, sizeof(s->catalog), "%s", dir);
	return 0;
}

static int set_format(struct settings *s, const char *name, struct err *err)
{
	if (!image_format_by_name(name))
		return err_set(err, ERR_USAGE, "'%s' is not a format that is read; raw and qcow2 are", name);
	s->scan.format = name;
	return 0;
}

static int set_for(const char *arg, struct err *err)
{
	uint64_t seconds;

	if (units_parse_duration(arg, &seconds, err) < 0)
		return -1;
	schedule_set_for(&stopper.schedule, seconds);
	return 0;
}

static int scan_option(struct settings *s, int opt, const char *arg, struct err *err)
{
	switch (opt) {
	case OPT_CATALOG:
		return set_catalog(s, arg, err);
	case OPT_EXCLUDE:
		return roots_exclude(&s->roots, arg, err);
	case OPT_FORMAT:
		return set_format(s, arg, err);
	case OPT_ALLOW_BACKING:
		return roots_add(&s->roots, arg, false, err);
	case OPT_FILES_FROM:
		s->files_from = arg;
		return 0;
	case '0':
		s->nul = true;
		return 0;
	case OPT_MEMORY:
		return units_parse_size(arg, &s->scan.memory, err);
	case OPT_JOBS:
		return parse_count(arg, 256, &s->jobs, err);
	case OPT_LIMIT:
		return units_parse_size(arg, &s->scan.limit, err);
	case OPT_WINDOW:
		return schedule_set_window(&stopper.schedule, arg, err);
	case OPT_FOR:
		return set_for(arg, err);
	case OPT_UNTIL:
		return schedule_set_until(&stopper.schedule, arg, err);
	case OPT_NO_IDLE:
		s->idle = false;
		return 0;
	case OPT_KEEP_CACHE:
		s->scan.keep_cache = false;
		return 0;
	case OPT_SANDBOX:
		return jail_mode_by_name(arg, &s->sandbox, err);
	case OPT_HELP:
		s->help = true;
		return 0;
	default: /* getopt_long() has told the user */
		return err_set(err, ERR_USAGE, "%s", "");
	}
}

static int add_style(struct settings *s, const char *name, const char *output, struct err *err)
{
	const struct report_style *style = report_style_by_name(name);

	if (!style)
		return err_set(err, ERR_USAGE, "there is no style of report '%s'", name);
	if (s->nr_styles == ARRAY_SIZE(s->styles))
		return err_set(err, ERR_USAGE, "more than %zu reports at once", ARRAY_SIZE(s->styles));
	s->styles[s->nr_styles].style = style;
	s->styles[s->nr_styles++].output = output;
	return 0;
}

static int report_option(struct settings *s, int opt, const char *arg, const char *long_name, struct err *err)
{
	switch (opt) {
	case OPT_NO_SCAN:
		s->no_scan = true;
		return 0;
	case OPT_STYLE:
		return add_style(s, long_name, arg, err);
	case OPT_OUTPUT:
		if (s->nr_styles == 0 && add_style(s, "table", NULL, err) < 0)
			return -1;
		s->styles[s->nr_styles - 1].output = arg;
		return 0;
	case OPT_SORT:
		return report_sort_by_name(arg, &s->report.sort, err);
	case OPT_TOP:
		return parse_count(arg, 1000000000, &s->report.top, err);
	case OPT_BYTES:
		s->report.exact = true;
		return 0;
	default:
		return scan_option(s, opt, arg, err);
	}
}

static int read_file_list(struct settings *s, struct err *err)
{
	FILE *f = strcmp(s->files_from, "-") == 0 ? stdin : fopen(s->files_from, "re");
	char *line = NULL;
	size_t room = 0;
	ssize_t n;
	int rc = 0;

	if (!f)
		return err_errno(err, "cannot open '%s'", s->files_from);
	while (rc == 0 && (n = getdelim(&line, &room, s->nul ? '\0' : '\n', f)) > 0) {
		if (!s->nul && line[n - 1] == '\n')
			line[n - 1] = '\0';
		if (line[0])
			rc = roots_add(&s->roots, line, true, err);
	}
	free(line);
	if (rc == 0 && ferror(f))
		rc = err_errno(err, "cannot read '%s'", s->files_from);
	if (f != stdin)
		fclose(f);
	return rc;
}

static int add_paths(struct settings *s, int argc, char **argv, struct err *err)
{
	struct rlimit files;

	/* Every root is held open. */
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	for (int i = 0; i < argc; i++)
		if (roots_add(&s->roots, argv[i], true, err) < 0)
			return -1;
	if (s->files_from && read_file_list(s, err) < 0)
		return -1;
	for (size_t i = 0; i < s->roots.list.nr; i++)
		if (s->roots.list.items[i].walked)
			return pool_home_register(&s->roots, NULL, err);
	return err_set(err, ERR_USAGE, "no PATH is given; name directories or image files");
}

static void init_settings(struct settings *s)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	*s = (struct settings){ .idle = true, .jobs = cpus > 0 ? (unsigned)min_u64((uint64_t)cpus, 256) : 1 };
	s->scan.memory = 256 * MIB;
	s->scan.keep_cache = true;
	s->scan.roots = &s->roots;
	s->scan.stopper = &stopper;
	report_options_detect(&s->report);
}

static int check_settings(struct settings *s, struct err *err)
{
	char size[UNITS_SIZE_ROOM];

	if (!s->catalog[0] && catalog_default_dir(s->catalog, sizeof(s->catalog), err) < 0)
		return -1;
	if (!s->jobs)
		return err_set(err, ERR_USAGE, "at least one job is needed");
	while (s->jobs > 1 && s->scan.memory < scan_memory_least(s->jobs))
		s->jobs--;
	if (s->scan.memory < scan_memory_least(1))
		return err_set(err, ERR_USAGE, "--memory must be at least %s",
			       units_size(scan_memory_least(1), size, sizeof(size)));
	return 0;
}

static int parse(struct settings *s, int argc, char **argv, const struct option *options, struct err *err)
{
	int opt, which = 0;

	init_settings(s);
	argv[0] = (char *)"dedupscan"; /* not the command: getopt_long() begins its messages with it */
	while ((opt = getopt_long(argc, argv, "0", options, &which)) != -1)
		if (report_option(s, opt, optarg, opt >= 256 ? options[which].name : "", err) < 0)
			return -1;
	if (s->help)
		return 0;
	if (check_settings(s, err) < 0)
		return -1;
	return add_paths(s, argc - optind, argv + optind, err);
}

/* ---- scan ---- */

/* The idle classes of CPU and disk: whatever else wants them goes first. */
static void be_idle(void)
{
	sched_setscheduler(0, SCHED_IDLE, &(struct sched_param){ 0 });
	syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0));
}

static uint64_t own_peak_memory(void)
{
	struct rusage r;

	return getrusage(RUSAGE_SELF, &r) == 0 ? (uint64_t)r.ru_maxrss * KIB : 0;
}

struct job {
	struct settings s;
	struct scan_workers *workers;
	struct catalog *catalog;
	struct scan_result result;
	struct tally tally;
};

static int plan_jail(enum jail_mode mode, struct jail *ret, struct err *err)
{
	struct err lacking = ERR_INIT;

	if (jail_plan(ret, mode, err) < 0)
		return -1;
	if (mode == JAIL_BEST && jail_missing(ret)[0]) {
		err_set(&lacking, ERR_UNSUPPORTED, "the sandbox is not whole: the kernel lacks %s", jail_missing(ret));
		complain(&lacking);
	}
	return 0;
}

static int start_workers(struct job *j, struct err *err)
{
	struct jail jail;

	if (plan_jail(j->s.sandbox, &jail, err) < 0)
		return -1;
	j->workers = scan_workers_new(j->s.jobs, &jail, err);
	return j->workers ? 0 : -1;
}

static int open_catalog(struct job *j, struct err *err)
{
	static const struct scan_watch watch = { show_progress, show_problem, NULL };

	j->s.scan.watch = &watch;
	if (j->s.idle)
		be_idle();
	if (!j->s.no_scan && start_workers(j, err) < 0)
		return -1;
	j->catalog = catalog_open(j->s.catalog, !j->s.no_scan, err);
	if (!j->catalog)
		return -1;
	j->s.roots.leave_out = catalog_identity(j->catalog);
	return 0;
}

static int tally(struct job *j, struct err *err)
{
	struct tally_options o = { .memory = j->s.scan.memory, .nr_threads = j->s.jobs, .stopper = &stopper };

	if (tally_run(j->catalog, &j->s.roots, &o, &j->tally, err) < 0)
		return -1;
	j->tally.nr_not_images = j->result.nr_not_images;
	j->tally.peak_memory = max_u64(own_peak_memory(), j->result.reading_memory);
	return 0;
}

static int add_history(struct job *j, const char *result, struct err *err)
{
	struct catalog_scan scan = {
		.started = j->result.started,
		.ended = time(NULL),
		.result = result,
		.nr_images = j->result.nr_images,
		.nr_read = j->result.nr_read,
		.nr_failed = j->result.nr_failed,
		.bytes_read = j->result.bytes_read,
		.virtual_size = j->tally.virtual_size,
		.stored = j->tally.stored,
		.nonzero = j->tally.nonzero,
		.distinct = j->tally.distinct,
	};

	return catalog_add_scan(j->catalog, &scan, err);
}

/* Scans, unless told not to, and counts.  A scan that was stopped is remembered as such. */
static int scan_and_tally(struct job *j, struct err *err)
{
	if (open_catalog(j, err) < 0)
		return -1;
	if (j->s.no_scan)
		stopper.schedule = (struct schedule){ 0 }; /* it reads no image: nothing to spare anybody */
	if (j->s.no_scan)
		return scan_finish_merge(j->catalog, &j->s.scan, j->s.jobs, err) < 0 ? -1 : tally(j, err);
	if (scan_run(j->catalog, j->workers, &j->s.scan, &j->result, err) < 0) {
		if (err->kind == ERR_CANCELED)
			add_history(j, "stopped", NULL);
		return -1;
	}
	return tally(j, err) < 0 ? -1 : add_history(j, "complete", err);
}

static void job_release(struct job *j)
{
	scan_workers_free(j->workers);
	catalog_close(j->catalog);
	roots_release(&j->s.roots);
	tally_release(&j->tally);
	clear_progress();
}

static int end_status(const struct job *j)
{
	return j->result.nr_failed || j->tally.nr_failed ? EXIT_SKIPS : EXIT_DONE;
}

static int fail(const struct err *err)
{
	complain(err);
	return status_of(err);
}

/* For what is printed, not written as a report: the exit status, or EXIT_FAILED if it could not be printed. */
static int printed(int status)
{
	struct err err = ERR_INIT;

	if (fflush(stdout) == 0 && !ferror(stdout))
		return status;
	if (errno == EPIPE) /* the reader has seen enough */
		return status;
	err_errno(&err, "cannot write to standard output");
	return fail(&err);
}

static void print_scan_summary(const struct job *j)
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

static const char scan_options_help[] =
	"\n"
	"  --catalog DIR         where results are kept (/var/lib/dedupscan, or for others than root\n"
	"                        ~/.local/state/dedupscan)\n"
	"  --exclude PATTERN     leave out files and directories of that name, or path if it has a '/'\n"
	"  --format NAME         take every file for this format: raw, qcow2, ...\n"
	"  --allow-backing DIR   backing and data files may be opened beneath DIR too\n"
	"  --files-from FILE     more PATHs, one a line ('-' is standard input)\n"
	"  -0, --null            the PATHs in FILE are ended by zero bytes\n"
	"  --memory SIZE         limit for all processes together (256M; 35M will do)\n"
	"  --jobs N              reading processes (one a processor)\n"
	"  --limit SIZE          read at most so many bytes a second\n"
	"  --window FROM-TO      work only within this time of the day: 01:00-05:00\n"
	"  --for TIME            stop after 90s, 30m, 2h\n"
	"  --until HH:MM         stop at this time of the day\n"
	"  --no-idle             do not run in the idle classes of CPU and disk\n"
	"  --fill-cache          let what is read stay in the page cache\n"
	"  --sandbox MODE        require (the default), best, or off: see dedupscan(1)\n"
	"\n"
	"Exit status: 0 done; 1 done, some images could not be read; 2 usage; 3 failed;\n"
	"4 catalog in use; 75 stopped, run it again to go on.\n";

static int run_scan(int argc, char **argv)
{
	static const struct option options[] = { SCAN_OPTIONS, { 0 } };
	struct job j = { .catalog = NULL };
	struct err err = ERR_INIT;
	int status;

	if (parse(&j.s, argc, argv, options, &err) < 0) {
		roots_release(&j.s.roots);
		return err.kind == ERR_USAGE ? usage_error(&err) : fail(&err);
	}
	if (j.s.help) {
		printf("%s%s", scan_help, scan_options_help);
		return printed(EXIT_DONE);
	}
	if (scan_and_tally(&j, &err) < 0) {
		status = fail(&err);
	} else {
		clear_progress();
		print_scan_summary(&j);
		status = end_status(&j);
	}
	job_release(&j);
	return printed(status);
}

/* ---- report ---- */

static int check_outputs(const struct settings *s, struct err *err)
{
	unsigned to_stdout = 0;

	for (size_t i = 0; i < s->nr_styles; i++)
		to_stdout += !s->styles[i].output || strcmp(s->styles[i].output, "-") == 0;
	return to_stdout <= 1 ? 0 :
	       err_set(err, ERR_USAGE, "only one report can go to standard output; name a file for the others");
}

static int write_reports(const struct job *j, struct err *err)
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

static int report(struct job *j, struct err *err)
{
	if (scan_and_tally(j, err) < 0)
		return fail(err);
	clear_progress();
	if (write_reports(j, err) == 0)
		return end_status(j);
	if (err->kind == ERR_CANCELED && err->errnum == EPIPE)
		return EXIT_DONE; /* the reader has seen enough */
	complain(err);
	return EXIT_FAILED;
}

static int run_report(int argc, char **argv)
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
	struct job j = { .catalog = NULL };
	struct err err = ERR_INIT;
	int status;

	if (parse(&j.s, argc, argv, options, &err) < 0 || (!j.s.help && check_outputs(&j.s, &err) < 0)) {
		roots_release(&j.s.roots);
		return err.kind == ERR_USAGE ? usage_error(&err) : fail(&err);
	}
	if (j.s.help) {
		printf("%s%s", report_help, scan_options_help);
		return printed(EXIT_DONE);
	}
	if (j.s.nr_styles == 0)
		add_style(&j.s, "table", NULL, &err);
	status = report(&j, &err);
	job_release(&j);
	return status;
}

/* ---- compact ---- */

static const char compact_help[] =
	"usage: dedupscan compact [OPTION]... PATH...\n"
	"\n"
	"Scans the disk images at and beneath each PATH and plans how to store each piece of their\n"
	"data once.  Nothing is changed unless --apply is given, but for what an interrupted\n"
	"--apply left: that is finished or rolled back first.\n"
	"\n"
	"  --apply               carry the plan out\n"
	"  --plan FILE           carry out no more than what this plan says\n"
	"  --plan-out FILE       write the plan to FILE, for --plan\n"
	"  --no-scan             plan from what the catalog knows; read no image\n"
	"  --method NAME,...     only these: reflink, holes, relayout, rebuild, or pool\n"
	"  --min-run SIZE        share only runs of at least so many bytes (16K)\n"
	"  --sharers N           let at most N stretches share one place (0: as the file system likes)\n"
	"  --only PATTERN        change only images of that name, or path if it has a '/'\n"
	"  --keep-originals TIME keep originals of rewritten images so long (7d; 0: not at all)\n"
	"  --assume-idle         nobody uses the images, where the file system cannot tell\n"
	"  --preallocated        free the zeros of preallocated images too\n"
	"  --pool DIR            where the pool is (.dedupscan-pool in the first PATH)\n"
	"  --cluster-size SIZE   share clusters of 4K, 16K or 64K in the pool (4K)\n"
	"  --l2-cache SIZE       of tables QEMU may keep in memory for an image that enters the pool\n"
	"  --host-cache YES      guests with cache=none too read what enters the pool through the page cache: yes, no\n"
	"  --cross-owner         images with other readers than the pool's may enter it too\n"
	"  --immutable WHEN      the pool's files are immutable: auto, never, always; the pool keeps that\n"
	"  --compat              overlays on the pool without extended L2 entries\n"
	"  --to-qcow2            raw, VMDK, VHD, VHDX and VDI images become qcow2 images in the pool\n"
	"  --snapshots WHAT      internal snapshots: skip such images (default), or to-versions\n"
	"  --json                for programs\n"
	"  --bytes               exact bytes in the table\n";

struct compact {
	struct job j;
	struct compact_options o;
	VEC(const char *) only;
	const char *plan_file, *plan_out;
	bool apply, json, methods_told;
	struct jail jail;
	struct cache_loan *loan;
	struct plan plan, told; /* told: of plan_file */
};

static int set_methods(struct compact *c, const char *arg, struct err *err)
{
	CLEANUP(free) char *names = strdup(arg);
	char *rest = names;

	memset(c->o.methods, 0, sizeof(c->o.methods));
	c->methods_told = true;
	for (char *name = strsep(&rest, ","); name; name = strsep(&rest, ",")) {
		int found = 0;

		for (int m = 0; m < PLAN_NR_METHODS; m++)
			if (strcmp(plan_method_names[m], name) == 0)
				found = c->o.methods[m] = true;
		if (!found)
			return err_set(err, ERR_USAGE,
				       "there is no method '%s'; there are reflink, holes, relayout, rebuild and pool", name);
	}
	return 0;
}

static int set_min_run(struct compact *c, const char *arg, struct err *err)
{
	if (units_parse_size(arg, &c->o.min_run, err) < 0)
		return -1;
	if (c->o.min_run < 4 * KIB || c->o.min_run > GIB || c->o.min_run % (4 * KIB))
		return err_set(err, ERR_USAGE, "--min-run must be a multiple of 4K, 1G at most");
	return 0;
}

static int set_cluster_size(struct compact *c, const char *arg, struct err *err)
{
	uint64_t size;

	if (units_parse_size(arg, &size, err) < 0)
		return -1;
	for (unsigned bits = POOL_UNIT_BITS_MIN; bits <= POOL_UNIT_BITS_MAX; bits += 2)
		if (size == (uint64_t)1 << bits) {
			c->o.cluster_bits = bits;
			return 0;
		}
	return err_set(err, ERR_USAGE, "--cluster-size must be 4K, 16K or 64K");
}

static int set_l2_cache(struct compact_options *o, const char *arg, struct err *err)
{
	uint64_t size = 0;

	if (strcmp(arg, "0") != 0 && units_parse_size(arg, &size, err) < 0)
		return -1;
	if (size && (size < MIB || size > SLICE_L2_CACHE_MAX))
		return err_set(err, ERR_USAGE, "--l2-cache must be from 1M to 1G, or 0");
	o->stub_cache.l2 = size;
	o->tell_l2_cache = true;
	return 0;
}

static int set_host_cache(struct compact_options *o, const char *arg, struct err *err)
{
	o->stub_cache.host = strcmp(arg, "yes") == 0;
	o->tell_host_cache = true;
	return o->stub_cache.host || strcmp(arg, "no") == 0 ? 0 : err_set(err, ERR_USAGE, "--host-cache is yes or no, not '%s'", arg);
}

static int set_immutable(enum pool_immutable *ret, bool *ret_told, const char *arg, struct err *err)
{
	for (unsigned i = 0; i < POOL_NR_IMMUTABLE; i++)
		if (strcmp(arg, pool_immutable_names[i]) == 0) {
			*ret = i;
			*ret_told = true;
			return 0;
		}
	return err_set(err, ERR_USAGE, "--immutable is auto, never or always, not '%s'", arg);
}

static int set_seconds(int64_t *ret, const char *arg, struct err *err)
{
	uint64_t seconds = 0;

	if (strcmp(arg, "0") != 0 && units_parse_duration(arg, &seconds, err) < 0)
		return -1;
	*ret = (int64_t)seconds;
	return 0;
}

static int set_sharers(struct compact *c, const char *arg, struct err *err)
{
	unsigned nr;

	if (parse_count(arg, 1000000000, &nr, err) < 0)
		return -1;
	c->o.sharers = nr;
	return nr == 1 ? err_set(err, ERR_USAGE, "--sharers 1 would share nothing") : 0;
}

static int set_snapshots(struct compact *c, const char *arg, struct err *err)
{
	c->o.to_versions = strcmp(arg, "to-versions") == 0;
	if (c->o.to_versions || strcmp(arg, "skip") == 0)
		return 0;
	return err_set(err, ERR_USAGE, "--snapshots is skip or to-versions, not '%s'", arg);
}

static int compact_option(struct compact *c, int opt, const char *arg, const char *long_name, struct err *err)
{
	switch (opt) {
	case OPT_APPLY:
		c->apply = true;
		return 0;
	case OPT_PLAN:
		c->plan_file = arg;
		return 0;
	case OPT_PLAN_OUT:
		c->plan_out = arg;
		return 0;
	case OPT_METHOD:
		return set_methods(c, arg, err);
	case OPT_MIN_RUN:
		return set_min_run(c, arg, err);
	case OPT_SHARERS:
		return set_sharers(c, arg, err);
	case OPT_ONLY:
		return vec_push(&c->only, arg) < 0 ? err_set(err, ERR_MEMORY, "no memory for an option") : 0;
	case OPT_KEEP_ORIGINALS:
		return set_seconds(&c->o.keep_originals, arg, err);
	case OPT_ASSUME_IDLE:
		c->o.assume_idle = true;
		return 0;
	case OPT_PREALLOCATED:
		c->o.preallocated = true;
		return 0;
	case OPT_POOL:
		c->o.pool = arg;
		return 0;
	case OPT_CLUSTER_SIZE:
		return set_cluster_size(c, arg, err);
	case OPT_L2_CACHE:
		return set_l2_cache(&c->o, arg, err);
	case OPT_HOST_CACHE:
		return set_host_cache(&c->o, arg, err);
	case OPT_CROSS_OWNER:
		c->o.cross_owner = true;
		return 0;
	case OPT_IMMUTABLE:
		return set_immutable(&c->o.immutable, &c->o.tell_immutable, arg, err);
	case OPT_COMPAT:
		c->o.compat = true;
		return 0;
	case OPT_TO_QCOW2:
		c->o.to_qcow2 = true;
		return 0;
	case OPT_SNAPSHOTS:
		return set_snapshots(c, arg, err);
	case OPT_STYLE:
		c->json = true;
		return 0;
	default:
		return report_option(&c->j.s, opt, arg, long_name, err);
	}
}

static int parse_compact(struct compact *c, int argc, char **argv, struct err *err)
{
	static const struct option options[] = {
		SCAN_OPTIONS,
		{ "no-scan", no_argument, NULL, OPT_NO_SCAN },
		{ "apply", no_argument, NULL, OPT_APPLY },
		{ "plan", required_argument, NULL, OPT_PLAN },
		{ "plan-out", required_argument, NULL, OPT_PLAN_OUT },
		{ "method", required_argument, NULL, OPT_METHOD },
		{ "min-run", required_argument, NULL, OPT_MIN_RUN },
		{ "sharers", required_argument, NULL, OPT_SHARERS },
		{ "only", required_argument, NULL, OPT_ONLY },
		{ "keep-originals", required_argument, NULL, OPT_KEEP_ORIGINALS },
		{ "assume-idle", no_argument, NULL, OPT_ASSUME_IDLE },
		{ "preallocated", no_argument, NULL, OPT_PREALLOCATED },
		{ "pool", required_argument, NULL, OPT_POOL },
		{ "cluster-size", required_argument, NULL, OPT_CLUSTER_SIZE },
		{ "l2-cache", required_argument, NULL, OPT_L2_CACHE },
		{ "host-cache", required_argument, NULL, OPT_HOST_CACHE },
		{ "cross-owner", no_argument, NULL, OPT_CROSS_OWNER },
		{ "immutable", required_argument, NULL, OPT_IMMUTABLE },
		{ "compat", no_argument, NULL, OPT_COMPAT },
		{ "to-qcow2", no_argument, NULL, OPT_TO_QCOW2 },
		{ "snapshots", required_argument, NULL, OPT_SNAPSHOTS },
		{ "json", no_argument, NULL, OPT_STYLE },
		{ "bytes", no_argument, NULL, OPT_BYTES },
		{ 0 },
	};
	struct settings *s = &c->j.s;
	int opt, which = 0;

	init_settings(s);
	c->o.min_run = COMPACT_MIN_RUN;
	c->o.cluster_bits = POOL_UNIT_BITS_MIN;
	c->o.keep_originals = COMPACT_KEEP_ORIGINALS;
	for (int m = 0; m < PLAN_NR_METHODS; m++)
		c->o.methods[m] = m != PLAN_POOL; /* that is asked for */
	argv[0] = (char *)"dedupscan"; /* not the command: getopt_long() begins its messages with it */
	while ((opt = getopt_long(argc, argv, "0", options, &which)) != -1)
		if (compact_option(c, opt, optarg, opt >= 256 ? options[which].name : "", err) < 0)
			return -1;
	if (s->help)
		return 0;
	if (check_settings(s, err) < 0)
		return -1;
	if (add_paths(s, argc - optind, argv + optind, err) < 0)
		return -1;
	return c->o.pool ? pool_home_register(&s->roots, c->o.pool, err) : 0;
}

/* By base name, or by path where the pattern has a '/': as --exclude. */
static bool is_wanted(void *ctx, const char *path)
{
	const struct compact *c = ctx;
	const char *base = strrchr(path, '/');

	for (size_t i = 0; i < c->only.nr; i++)
		if (fnmatch(c->only.items[i], strchr(c->only.items[i], '/') || !base ? path : base + 1, 0) == 0)
			return true;
	return !c->only.nr;
}

/* What the scan reads the kernel compares soon after: it stays in the cache until then, as far as half of the memory goes that
 * nobody needs now. */
static int borrow_cache(struct compact *c, struct err *err)
{
	if (!c->apply || !c->j.s.scan.keep_cache)
		return 0;
	c->loan = c->j.s.scan.loan = c->o.loan = cache_loan_new(memory_available() / 2, err);
	return c->loan ? 0 : -1;
}

static int scan_before(struct compact *c, struct err *err)
{
	struct job *j = &c->j;

	if (borrow_cache(c, err) < 0)
		return -1;
	if (open_catalog(j, err) < 0)
		return -1;
	if (j->s.no_scan)
		return scan_finish_merge(j->catalog, &j->s.scan, j->s.jobs, err);
	if (scan_run(j->catalog, j->workers, &j->s.scan, &j->result, err) < 0) {
		if (err->kind == ERR_CANCELED)
			add_history(j, "stopped", NULL);
		return -1;
	}
	return 0;
}

static struct compaction *plan_compaction(struct compact *c, struct err *err)
{
	static const struct scan_watch watch = { show_progress, show_problem, NULL };

	c->o.roots = &c->j.s.roots;
	c->o.format = c->j.s.scan.format;
	c->o.jail = &c->jail;
	c->o.memory = c->j.s.scan.memory;
	c->o.nr_threads = c->j.s.jobs;
	c->o.limit = c->j.s.scan.limit;
	c->o.stopper = &stopper;
	c->o.watch = &watch;
	c->o.wanted = is_wanted;
	c->o.ctx = c;
	if (plan_jail(c->j.s.sandbox, &c->jail, err) < 0 || scan_before(c, err) < 0)
		return NULL;
	return compact_plan(c->j.catalog, &c->o, &c->plan, err);
}

/* A plan made before decides about its runs, too, and about the methods, unless these are told. */
static int read_plan(struct compact *c, struct err *err)
{
	FILE *f;
	int rc;

	if (!c->plan_file)
		return 0;
	f = fopen(c->plan_file, "re");
	if (!f)
		return err_errno(err, "cannot open '%s'", c->plan_file);
	rc = plan_read(f, c->plan_file, &c->told, err);
	fclose(f);
	c->o.min_run = c->told.min_run;
	for (size_t i = 0; i < c->told.nr_steps && !c->methods_told; i++)
		c->o.methods[c->told.steps[i].method] = true;
	return rc;
}

static int compact_status(const struct compact *c)
{
	for (size_t i = 0; i < c->plan.nr_steps; i++)
		if (c->plan.applied && c->plan.steps[i].state != PLAN_DONE)
			return EXIT_SKIPS;
	if (c->plan.pool_in_use)
		return EXIT_BUSY;
	return c->plan.complete ? end_status(&c->j) : EXIT_SKIPS;
}

static int print_plan(struct compact *c, struct err *err)
{
	clear_progress();
	if (c->json)
		return plan_write_json(stdout, &c->plan, err);
	return plan_write_table(stdout, &c->plan, &c->j.s.report, err);
}

static int compact(struct compact *c, struct err *err)
{
	CLEANUP(compact_free) struct compaction *work = read_plan(c, err) < 0 ? NULL : plan_compaction(c, err);
	struct err stop = ERR_INIT;

	if (!work || (c->plan_file && compact_restrict(work, &c->told, err) < 0))
		return fail(err);
	if (c->apply && compact_apply(work, &stop) < 0 && stop.kind != ERR_CANCELED)
		return fail(&stop);
	if (c->plan_out && plan_write_file(c->plan_out, &c->plan, err) < 0)
		return fail(err);
	if (print_plan(c, err) < 0)
		return fail(err);
	if (stop.kind)
		return fail(&stop);
	return printed(compact_status(c));
}

static int run_compact(int argc, char **argv)
{
	struct compact c = { .apply = false };
	struct err err = ERR_INIT;
	int status;

	if (parse_compact(&c, argc, argv, &err) < 0) {
		status = err.kind == ERR_USAGE ? usage_error(&err) : fail(&err);
	} else if (c.j.s.help) {
		printf("%s%s", compact_help, scan_options_help);
		status = printed(EXIT_DONE);
	} else {
		status = compact(&c, &err);
	}
	plan_release(&c.plan);
	plan_release(&c.told);
	cache_loan_free(c.loan);
	vec_release(&c.only);
	job_release(&c.j);
	return status;
}

/* ---- recover ---- */

static const char recover_help[] =
	"usage: dedupscan recover [OPTION]... PATH...\n"
	"\n"
	"Finishes or rolls back what an interrupted compaction of each PATH, or change of its pool,\n"
	"left, and removes originals of rewritten images whose time is over.\n"
	"\n"
	"  --undo                put kept originals back; of one image, when PATH is an image\n"
	"  --pool DIR            where the pool is, when it was moved and is not above PATH\n"
	"  --purge               remove all kept originals now\n"
	"\n"
	"Exit status: 0 done; 1 done, but something needs your eyes; 2 usage; 3 failed; 4 in use.\n";

struct recover {
	struct roots roots;
	const char *pool;
	const struct root *root; /* at hand */
	bool undo, purge, help, unclear;
};

static void tell_unclear(void *ctx, const char *path, const struct err *why)
{
	struct recover *r = ctx;

	r->unclear = true;
	show_problem(NULL, path, why);
}

/* The workshop of a root: in it, or for a file in the nearest directory above that has one.  *ret_name is the file from there
 * on. */
static int find_workshop(const struct root *root, struct workshop **ret, const char **ret_name, struct err *err)
{
	CLEANUP(free) char *dir = strdup(root->path);
	char *slash = dir ? strrchr(dir, '/') : NULL;

	*ret = NULL;
	*ret_name = NULL;
	if (!root->file)
		return workshop_open(root->dirfd, root->path, false, ret, err);
	for (; slash && !*ret; slash = strrchr(dir, '/')) {
		CLEANUP(close_fd) int fd = -1;

		*slash = '\0';
		*ret_name = root->path + (slash - dir) + 1;
		fd = open(*dir ? dir : "/", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd >= 0 && workshop_open(fd, *dir ? dir : "/", false, ret, err) < 0)
			return -1;
	}
	return 0;
}

static int open_recovered(struct recover *r, bool writing, struct pool **ret, struct err *err)
{
	char at[PATH_MAX + 2];

	snprintf(at, sizeof(at), "%s%s", r->root->path, r->root->file ? "" : "/.");
	return pool_home_of(&r->roots, at, r->pool, writing, ret, err);
}

/* An original stands on a pool that was moved. */
static int mend_original(void *ctx, int fd, struct err *err)
{
	CLEANUP(pool_close) struct pool *p = NULL;

	return open_recovered(ctx, false, &p, err) < 0 ? -1 : repoint_file(p, fd, err);
}

static int recover_root(struct recover *r, const struct root *root, struct err *err)
{
	CLEANUP(workshop_close) struct workshop *w = NULL;
	char size[UNITS_SIZE_ROOM], path[4 * PATH_MAX];
	struct recovery done = { 0 };
	struct err why = ERR_INIT;
	uint64_t nr = 0, bytes = 0;
	const char *name;

	if (find_workshop(root, &w, &name, err) < 0)
		return -1;
	safe(root->path, path, sizeof(path));
	if (!w) {
		printf("%s: nothing to recover\n", path);
		return 0;
	}
	if (workshop_recover(w, tell_unclear, r, &done, err) < 0 || (r->purge && workshop_purge(w, &bytes, err) < 0))
		return -1;
	workshop_set_mender(w, mend_original, r);
	if (r->undo && workshop_undo(w, name, &nr, &why) < 0) {
		if (why.kind != ERR_STALE && why.kind != ERR_BUSY && why.kind != ERR_REFUSED && why.errnum != ENOENT) {
			*err = why;
			return -1;
		}
		tell_unclear(r, root->path, &why);
	}
	printf("%s: %llu finished, %llu rolled back", path, (unsigned long long)done.nr_finished,
	       (unsigned long long)done.nr_undone);
	if (r->undo)
		printf(", %llu put back", (unsigned long long)nr);
	bytes += done.bytes_removed;
	printf("; originals: %s removed", units_size(bytes, size, sizeof(size)));
	printf(r->purge || r->undo ? "\n" : ", %s kept\n", units_size(done.bytes_kept, size, sizeof(size)));
	return 0;
}

static int parse_recover(struct recover *r, int argc, char **argv, struct err *err)
{
	static const struct option options[] = {
		{ "undo", no_argument, NULL, OPT_UNDO },
		{ "pool", required_argument, NULL, OPT_POOL },
		{ "purge", no_argument, NULL, OPT_PURGE },
		{ "help", no_argument, NULL, OPT_HELP },
		{ 0 },
	};
	int opt;

	argv[0] = (char *)"dedupscan"; /* not the command: getopt_long() begins its messages with it */
	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		r->undo |= opt == OPT_UNDO;
		r->pool = opt == OPT_POOL ? optarg : r->pool;
		r->purge |= opt == OPT_PURGE;
		r->help |= opt == OPT_HELP;
		if (opt == '?')
			return err_set(err, ERR_USAGE, "%s", "");
	}
	if (r->help)
		return 0;
	if (r->undo && r->purge)
		return err_set(err, ERR_USAGE, "--undo needs what --purge removes; give one of them");
	if (optind == argc)
		return err_set(err, ERR_USAGE, "no PATH is given");
	for (int i = optind; i < argc; i++)
		if (roots_add(&r->roots, argv[i], true, err) < 0)
			return -1;
	for (size_t i = 0; r->purge && i < r->roots.list.nr; i++)
		if (r->roots.list.items[i].file)
			return err_set(err, ERR_USAGE,
				       "--purge removes the originals of all images of a directory; name that, not '%s'",
				       r->roots.list.items[i].path);
	return 0;
}

/* What was interrupted in the pool of its images, if they have one. */
static int recover_pool(struct recover *r, struct err *err)
{
	CLEANUP(pool_close) struct pool *p = NULL;
	struct err why = ERR_INIT;

	if (open_recovered(r, true, &p, &why) == 0)
		return versions_recover(p, err);
	if (why.kind == ERR_USAGE && !r->pool)
		return 0;
	*err = why;
	return -1;
}

static int run_recover(int argc, char **argv)
{
	struct recover r = { .undo = false };
	struct err err = ERR_INIT;
	int status = EXIT_DONE;

	if (parse_recover(&r, argc, argv, &err) < 0) {
		status = err.kind == ERR_USAGE ? usage_error(&err) : fail(&err);
	} else if (r.help) {
		fputs(recover_help, stdout);
		status = printed(EXIT_DONE);
	} else {
		for (size_t i = 0; i < r.roots.list.nr && status == EXIT_DONE; i++) {
			r.root = &r.roots.list.items[i];
			if (recover_root(&r, r.root, &err) < 0 || recover_pool(&r, &err) < 0)
				status = fail(&err);
		}
		status = printed(status == EXIT_DONE && r.unclear ? EXIT_SKIPS : status);
	}
	roots_release(&r.roots);
	return status;
}

/* ---- info ---- */

static const char info_help[] =
	"usage: dedupscan info [OPTION]... IMAGE...\n"
	"\n"
	"Tells what each IMAGE is: its format, sizes, backing chain, and where its data lies.\n"
	"Nothing of its data is read, and no catalog is needed.\n"
	"\n"
	"  --guest               look inside too: operating systems, partitions, file systems\n"
	"  --json                for programs\n"
	"  --bytes               exact bytes in the table\n"
	"  --format NAME         take every IMAGE for this format: raw, qcow2, ...\n"
	"  --allow-backing DIR   backing and data files may be opened beneath DIR too\n"
	"  --sandbox MODE        require (the default), best, or off: see dedupscan(1)\n"
	"\n"
	"Exit status: 0 done; 1 done, some images could not be read; 2 usage; 3 failed;\n"
	"75 stopped.\n";

/* Its settings are few, and it shares those that scan has too. */
struct info {
	struct settings s;
	struct inspect_options o;
	struct jail jail;
	struct inspection *found;
	struct json_t *json;
	bool guest, failed;
};

static int info_option(struct info *f, int opt, const char *arg, struct err *err)
{
	switch (opt) {
	case OPT_GUEST:
		f->guest = true;
		return 0;
	case OPT_STYLE:
		f->json = f->json ? f->json : info_json_new(err);
		return f->json ? 0 : -1;
	case OPT_BYTES:
		f->s.report.exact = true;
		return 0;
	default:
		return scan_option(&f->s, opt, arg, err);
	}
}

/* Each image is a root, and so is its directory, which is not walked. */
static int add_image(struct roots *roots, const char *path, struct err *err)
{
	CLEANUP(free) char *dir = NULL;

	if (roots_add(roots, path, true, err) < 0)
		return -1;
	dir = strdup(roots->list.items[roots->list.nr - 1].path);
	if (!dir)
		return err_set(err, ERR_MEMORY, "no memory for a path");
	return roots_add(roots, dirname(dir), false, err);
}

static int parse_info(struct info *f, int argc, char **argv, struct err *err)
{
	static const struct option options[] = {
		{ "guest", no_argument, NULL, OPT_GUEST },
		{ "json", no_argument, NULL, OPT_STYLE },
		{ "bytes", no_argument, NULL, OPT_BYTES },
		{ "format", required_argument, NULL, OPT_FORMAT },
		{ "allow-backing", required_argument, NULL, OPT_ALLOW_BACKING },
		{ "sandbox", required_argument, NULL, OPT_SANDBOX },
		{ "help", no_argument, NULL, OPT_HELP },
		{ 0 },
	};
	int opt;

	init_settings(&f->s);
	argv[0] = (char *)"dedupscan"; /* not the command: getopt_long() begins its messages with it */
	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1)
		if (info_option(f, opt, optarg, err) < 0)
			return -1;
	if (optind == argc && !f->s.help)
		return err_set(err, ERR_USAGE, "no IMAGE is given");
	for (int i = optind; i < argc && !f->s.help; i++)
		if (add_image(&f->s.roots, argv[i], err) < 0)
			return -1;
	return pool_home_register(&f->s.roots, NULL, err);
}

/* 1 = there is something to tell, 0 = what kept it is one of the image's problems now. */
static int look_inside(struct info *f, struct guest *ret, struct err *err)
{
	if (!f->guest || guest_look(f->found, &stopper, ret, err) == 0)
		return f->guest;
	if (err->kind == ERR_CANCELED)
		return -1;
	inspect_add_problem(f->found, INSPECT_GUEST, err);
	f->failed = true;
	return 0;
}

static int tell_image(struct info *f, const struct root *image, bool first, struct err *err)
{
	struct guest guest = { .text = NULL };
	int rc = inspect_image(image, &f->o, f->found, err), inside;

	if (rc < 0)
		return -1;
	f->failed = f->failed || inspect_failed(f->found);
	inside = look_inside(f, &guest, err);
	if (inside >= 0 && !f->json && !first)
		putchar('\n');
	if (inside < 0)
		rc = -1;
	else if (f->json)
		rc = info_json_add(f->json, f->found, inside ? &guest : NULL, err);
	else
		rc = info_write_table(stdout, f->found, inside ? &guest : NULL, &f->s.report, err);
	guest_release(&guest);
	return rc;
}

static int info(struct info *f, struct err *err)
{
	char program[PATH_MAX];
	bool first = true;

	f->found = malloc(sizeof(*f->found));
	if (!f->found)
		return err_set(err, ERR_MEMORY, "no memory to inspect an image");
	if (f->guest && !guest_program(program))
		return err_set(err, ERR_UNSUPPORTED, "--guest needs dedupscan-guest, which is built where libguestfs is found");
	if (plan_jail(f->s.sandbox, &f->jail, err) < 0)
		return -1;
	f->o = (struct inspect_options){
		.roots = &f->s.roots, .format = f->s.scan.format, .jail = &f->jail, .stopper = &stopper
	};
	for (size_t i = 0; i < f->s.roots.list.nr; i++) {
		if (!f->s.roots.list.items[i].walked)
			continue;
		if (tell_image(f, &f->s.roots.list.items[i], first, err) < 0)
			return -1;
		first = false;
	}
	if (f->json)
		tree_print(stdout, f->json); /* printed() looks whether that went well */
	return f->failed ? EXIT_SKIPS : EXIT_DONE;
}

static int run_info(int argc, char **argv)
{
	struct info f = { .json = NULL };
	struct err err = ERR_INIT;
	int status;

	if (parse_info(&f, argc, argv, &err) < 0) {
		status = err.kind == ERR_USAGE ? usage_error(&err) : fail(&err);
	} else if (f.s.help) {
		fputs(info_help, stdout);
		status = printed(EXIT_DONE);
	} else {
		status = info(&f, &err);
		status = printed(status < 0 ? fail(&err) : status);
	}
	roots_release(&f.s.roots);
	tree_free(f.json);
	free(f.found);
	return status;
}

/* ---- verify ---- */

enum { OPT_RECORD = 512, OPT_CHECK };

static const char verify_help[] =
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
		return scan_option(&f->s, opt, arg, err);
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

	init_settings(&f->s);
	argv[0] = (char *)"dedupscan"; /* not the command: getopt_long() begins its messages with it */
	while ((opt = getopt_long(argc, argv, "0", options, NULL)) != -1)
		if (verify_option(f, opt, optarg, err) < 0)
			return -1;
	if (f->s.help)
		return 0;
	if (f->record && f->check)
		return err_set(err, ERR_USAGE, "--record and --check exclude each other");
	if (check_settings(&f->s, err) < 0)
		return -1;
	return add_paths(&f->s, argc - optind, argv + optind, err);
}

static int tell_verified(void *ctx, const struct verify_image *i, struct err *err)
{
	struct verification *f = ctx;

	if (f->json)
		return verify_json_add(f->json, i, err);
	clear_progress();
	if (verify_write_image(stdout, i, &f->s.report, err) < 0)
		return -1;
	fflush(stdout); /* the next one may take hours; printed() looks whether that went well */
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
	static const struct scan_watch watch = { show_progress, show_problem, NULL };
	struct verify_totals totals = { 0 };
	struct jail jail;
	struct verify_options o = {
		.roots = &f->s.roots, .format = f->s.scan.format, .jail = &jail, .stopper = &stopper,
		.limit = f->s.scan.limit, .keep_cache = f->s.scan.keep_cache, .watch = &watch,
		.tell = tell_verified, .ctx = f,
	};

	if (plan_jail(f->s.sandbox, &jail, err) < 0)
		return -1;
	if (f->s.idle)
		be_idle();
	if (verify_with(f, &o, &totals, err) < 0)
		return -1;
	clear_progress();
	if (!f->json)
		verify_write_totals(stdout, &totals);
	else if (verify_json_end(f->json, &totals, err) < 0)
		return -1;
	else
		tree_print(stdout, f->json); /* printed() looks whether that went well */
	return verify_all_well(&totals) ? EXIT_DONE : EXIT_SKIPS;
}

static int run_verify_pool(int argc, char **argv);

/* It has other options then. */
static bool is_about_pool(int argc, char **argv)
{
	for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
		if (strcmp(argv[i], "--pool") == 0 || strncmp(argv[i], "--pool=", 7) == 0 ||
		    strncmp(argv[i], "--read-data", 11) == 0)
			return true;
	return false;
}

static int run_verify(int argc, char **argv)
{
	struct verification f = { .json = NULL };
	struct err err = ERR_INIT;
	int status;

	if (is_about_pool(argc, argv))
		return run_verify_pool(argc, argv);
	if (parse_verify(&f, argc, argv, &err) < 0) {
		status = err.kind == ERR_USAGE ? usage_error(&err) : fail(&err);
	} else if (f.s.help) {
		fputs(verify_help, stdout);
		status = printed(EXIT_DONE);
	} else {
		status = verify(&f, &err);
		status = printed(status < 0 ? fail(&err) : status);
	}
	roots_release(&f.s.roots);
	tree_free(f.json);
	return status;
}

/* ---- images in a pool ---- */

enum {
	OPT_COUNT = 600, OPT_DRY_RUN, OPT_DROP_MISSING, OPT_READ_DATA, OPT_KIND, OPT_DISCARD, OPT_FILE, OPT_LIVE, OPT_QUIESCE,
	OPT_WAIT, OPT_KEEP
};

/* What all of them take that open one pool. */
#define POOL_OPTIONS                                                                                                   \
	{ "pool", required_argument, NULL, OPT_POOL }, { "wait", required_argument, NULL, OPT_WAIT },                  \
	{ "help", no_argument, NULL, OPT_HELP }

#define WAIT_SECONDS 10

/* What all commands on pools share; each takes some of the options. */
struct pool_job {
	struct settings s; /* its roots are the images named, and their directories */
	struct jail jail;
	const char *pool, *kind, *format;
	uint64_t cluster_size;
	int64_t keep_originals, wait; /* seconds */
	bool apply, dry_run, drop_missing, read_data, assume_idle, discard, compat, live, quiesce, tell_immutable;
	enum pool_immutable immutable;
	double percent; /* of the data that is read */
	unsigned count, keep[5]; /* last, daily, weekly, monthly, yearly */
	VEC(char *) files; /* real paths, to be freed */
	char **words;
	int nr_words;
	char gone[2][PATH_MAX]; /* paths of images that are not there any more */
	size_t nr_gone;
};

struct pool_verb {
	const char *help;
	const struct option *options;
	int least, most; /* words after the options */
	int (*act)(struct pool_job *j, struct err *err); /* an exit status, or -1 */
};

static int add_kept_file(struct pool_job *j, const char *arg, struct err *err)
{
	char *path = realpath(arg, NULL);

	if (!path)
		return err_errno(err, "cannot find '%s'", arg);
	if (vec_push(&j->files, path) == 0)
		return 0;
	free(path);
	return err_set(err, ERR_MEMORY, "no memory for an option");
}

static int set_read_data(struct pool_job *j, const char *arg, struct err *err)
{
	char *end = NULL;

	j->read_data = true;
	if (!arg)
		return 0;
	j->percent = *arg >= '0' && *arg <= '9' ? strtod(arg, &end) : 0;
	if (j->percent > 0 && j->percent <= 100 && (!*end || strcmp(end, "%") == 0))
		return 0;
	return err_set(err, ERR_USAGE, "'%s' is no share of the data; 5%% is, for example", arg);
}

static int pool_option(struct pool_job *j, int opt, const char *arg, struct err *err)
{
	switch (opt) {
	case OPT_POOL:
		j->pool = arg;
		return 0;
	case OPT_KEEP_ORIGINALS:
		return set_seconds(&j->keep_originals, arg, err);
	case OPT_WAIT:
		return set_seconds(&j->wait, arg, err);
	case OPT_ASSUME_IDLE:
		j->assume_idle = true;
		return 0;
	case OPT_FORMAT:
		j->format = arg;
		return 0;
	case OPT_KIND:
		j->kind = arg;
		return 0;
	case OPT_CLUSTER_SIZE:
		return units_parse_size(arg, &j->cluster_size, err);
	case OPT_DRY_RUN:
		j->dry_run = true;
		return 0;
	case OPT_DROP_MISSING:
		j->drop_missing = true;
		return 0;
	case OPT_READ_DATA:
		return set_read_data(j, arg, err);
	case OPT_APPLY:
		j->apply = true;
		return 0;
	case OPT_COUNT:
		return parse_count(arg, CLONE_COUNT_MAX, &j->count, err);
	case OPT_COMPAT:
		j->compat = true;
		return 0;
	case OPT_DISCARD:
		j->discard = true;
		return 0;
	case OPT_FILE:
		return add_kept_file(j, arg, err);
	case OPT_LIVE:
		j->live = true;
		return 0;
	case OPT_QUIESCE:
		j->quiesce = true;
		return 0;
	case OPT_IMMUTABLE:
		return set_immutable(&j->immutable, &j->tell_immutable, arg, err);
	case OPT_KEEP: case OPT_KEEP + 1: case OPT_KEEP + 2: case OPT_KEEP + 3: case OPT_KEEP + 4:
		return parse_count(arg, 1000000, &j->keep[opt - OPT_KEEP], err);
	default:
		return scan_option(&j->s, opt, arg, err);
	}
}

static int parse_pool_job(struct pool_job *j, const struct pool_verb *v, int argc, char **argv, struct err *err)
{
	int opt;

	init_settings(&j->s);
	j->keep_originals = COMPACT_KEEP_ORIGINALS;
	j->wait = WAIT_SECONDS;
	j->percent = 100;
	argv[0] = (char *)"dedupscan"; /* not the command: getopt_long() begins its messages with it */
	while ((opt = getopt_long(argc, argv, "", v->options, NULL)) != -1)
		if (pool_option(j, opt, optarg, err) < 0)
			return -1;
	j->words = argv + optind;
	j->nr_words = argc - optind;
	if (j->s.help)
		return 0;
	if (j->nr_words < v->least)
		return err_set(err, ERR_USAGE, "too few arguments");
	if (j->nr_words > v->most)
		return err_set(err, ERR_USAGE, "too many arguments, from '%s' on", j->words[v->most]);
	return plan_jail(j->s.sandbox, &j->jail, err);
}

static int run_pool_verb(int argc, char **argv, const struct pool_verb *v)
{
	struct pool_job j = { .nr_words = 0 };
	struct err err = ERR_INIT;
	int status;

	if (parse_pool_job(&j, v, argc, argv, &err) < 0) {
		status = err.kind == ERR_USAGE ? usage_error(&err) : fail(&err);
	} else if (j.s.help) {
		fputs(v->help, stdout);
		status = printed(EXIT_DONE);
	} else {
		status = v->act(&j, &err);
		clear_progress();
		status = printed(status < 0 ? fail(&err) : status);
	}
	for (size_t i = 0; i < j.files.nr; i++)
		free(j.files.items[i]);
	vec_release(&j.files);
	roots_release(&j.s.roots);
	return status;
}

/* An image that was named, at its real path. */
static const char *named_image(struct pool_job *j, const char *word, struct err *err)
{
	size_t nr = j->s.roots.list.nr;

	return add_image(&j->s.roots, word, err) < 0 ? NULL : j->s.roots.list.items[nr].path;
}

static void show_stage(void *ctx, const char *stage, uint64_t done, uint64_t total)
{
	struct scan_progress p = { .stage = stage, .done = done, .total = total, .bytes = true };

	(void)ctx;
	show_progress(NULL, &p);
}

static void show_expanding(void *ctx, uint64_t done, uint64_t total)
{
	show_stage(ctx, "expanding", done, total);
}

static const char *last_part(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* Most others are done with the pool, or with the directory of an image, in a moment. */
static bool wait_for_others(const struct pool_job *j, struct err *err)
{
	if (err->kind != ERR_BUSY || now_ns() - shown.begun >= (uint64_t)j->wait * 1000000000)
		return false;
	*err = (struct err)ERR_INIT;
	if (stopper_says(&stopper)) {
		err_set(err, ERR_CANCELED, "stopped while another dedupscan was at work");
		return false;
	}
	show_progress(NULL, &(struct scan_progress){ .stage = "waiting for another dedupscan" });
	nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
	return true;
}

/* The pool that a command is about: the word's, --pool's, or that of the directory at hand. */
static int open_pool(struct pool_job *j, const char *word, bool writing, struct pool **ret, struct err *err)
{
	const char *told;
	struct stat st;
	int rc;

	if (!word && !j->pool)
		word = ".";
	if (j->pool && word && word != j->pool && roots_add(&j->s.roots, word, true, err) < 0)
		return -1;
	told = j->pool ? j->pool :
	       stat(word, &st) == 0 && S_ISDIR(st.st_mode) && strcmp(last_part(word), POOL_NAME) == 0 ? word : NULL;
	if (!told && roots_add(&j->s.roots, word, true, err) < 0)
		return -1;
	do {
		rc = told ? pool_home_of(&j->s.roots, "/", told, writing, ret, err) :
			    pool_home_open(&j->s.roots, NULL, writing, false, POOL_MEMORY, ret, err);
	} while (rc < 0 && wait_for_others(j, err));
	clear_progress();
	return rc < 0 ? -1 : *ret ? 0 : err_set(err, ERR_USAGE, "'%s' holds no pool", word);
}

/* ---- expand ---- */

static const char expand_help[] =
	"usage: dedupscan expand [OPTION]... IMAGE...\n"
	"\n"
	"Makes each IMAGE independent of its pool again, in place: a qcow2 image with all its data.\n"
	"\n"
	"  --pool DIR            where its pool is, if the image cannot tell\n"
	"  --keep-originals TIME keep what was there so long (7d; 0: not at all)\n"
	"  --assume-idle         nobody uses the images, where the file system cannot tell\n"
	"  --sandbox MODE        require (the default), best, or off: see dedupscan(1)\n"
	"\n"
	"Exit status: 0 done; 1 some images could not be expanded, or are in use; 2 usage; 3 failed;\n"
	"75 stopped.\n";

static int act_expand(struct pool_job *j, struct err *err)
{
	struct expand_options o = {
		.roots = &j->s.roots, .jail = &j->jail, .stopper = &stopper, .pool = j->pool, .keep_originals = j->keep_originals,
		.assume_idle = j->assume_idle, .progress = show_expanding, .problem = show_problem,
	};
	int status = EXIT_DONE;

	for (int i = 0; i < j->nr_words; i++) {
		struct err why = ERR_INIT;
		const char *path = named_image(j, j->words[i], &why);

		if (path && expand_image(&o, path, &why) == 0)
			continue;
		if (why.kind == ERR_CANCELED || (why.kind == ERR_USAGE && i == 0)) {
			*err = why;
			return -1;
		}
		show_problem(NULL, j->words[i], &why);
		status = EXIT_SKIPS;
	}
	return status;
}

static int run_expand(int argc, char **argv)
{
	static const struct option options[] = {
		{ "pool", required_argument, NULL, OPT_POOL },
		{ "keep-originals", required_argument, NULL, OPT_KEEP_ORIGINALS },
		{ "assume-idle", no_argument, NULL, OPT_ASSUME_IDLE },
		{ "sandbox", required_argument, NULL, OPT_SANDBOX },
		{ "help", no_argument, NULL, OPT_HELP },
		{ 0 },
	};

	return run_pool_verb(argc, argv, &(struct pool_verb){ expand_help, options, 1, INT_MAX, act_expand });
}

/* ---- pool ---- */

static const char pool_help[] =
	"usage: dedupscan pool status|collect|check|repair [OPTION]... [DIR]\n"
	"\n"
	"Looks after the pool of the images in DIR (the current directory), or at DIR, when that is\n"
	"a .dedupscan-pool.\n"
	"\n"
	"  status                what it holds, and what that takes\n"
	"  collect               give back space that nothing needs any more\n"
	"  check                 is it whole?\n"
	"  repair                rebuild what is damaged from what is whole\n"
	"\n"
	"  --dry-run             collect, repair: only say what would be done\n"
	"  --drop-missing        collect: forget members whose image is not there any more\n"
	"  --read-data[=SHARE%]  check: read and prove all data, too, or another share each time\n"
	"  --immutable WHEN      repair: its files are immutable from now on: auto, never, always\n"
	"  --pool DIR            where the pool is, whatever it is called\n"
	"  --wait TIME           how long to wait while another dedupscan changes the pool (10s)\n"
	"  --memory SIZE         collect: at most so much memory (256M)\n"
	"\n"
	"Exit status: 0 done, it is whole; 1 there is damage; 2 usage; 3 failed; 4 in use; 75 stopped.\n";

static char *size_of(uint64_t bytes)
{
	static char room[8][UNITS_SIZE_ROOM];
	static unsigned turn;

	turn = (turn + 1) % 8;
	return units_size(bytes, room[turn], sizeof(room[turn]));
}

static double percent(uint64_t part, uint64_t whole)
{
	return whole ? 100.0 * (double)part / (double)whole : 0;
}

static int act_status(struct pool_job *j, struct pool *p, struct err *err)
{
	char path[4 * PATH_MAX];
	struct pool_status s;
	uint64_t metadata;

	(void)j;
	if (pool_status(p, &s, err) < 0)
		return -1;
	metadata = s.tables + s.nodes + s.finder + s.stubs + s.names;
	printf("%s: %llu images, %llu versions, %llu views\n", safe(p->path, path, sizeof(path)), (unsigned long long)s.nr_members,
	       (unsigned long long)s.nr_versions, (unsigned long long)s.nr_views);
	printf("disks      %10s  that are not zeros\n", size_of(s.logical));
	printf("distinct   %10s  of clusters hold them: %.1f : 1\n", size_of(s.distinct),
	       s.distinct ? (double)s.logical / (double)s.distinct : 1.0);
	printf("metadata   %10s  %.2f %% of that: tables %s, trees %s, index %s, stubs %s, names %s\n", size_of(metadata),
	       percent(metadata, s.distinct), size_of(s.tables), size_of(s.nodes), size_of(s.finder), size_of(s.stubs),
	       size_of(s.names));
	printf("sealed     %10s  in %llu overlays that wait to be folded in\n", size_of(s.sealed), (unsigned long long)s.nr_sealed);
	printf("unreached  %10s  that a collection frees\n", size_of(s.unreached));
	printf("on disk    %10s\n", size_of(s.on_disk));
	printf("room       %10s  that the pool can still be written, and %llu views\n", size_of(s.room),
	       (unsigned long long)s.nr_slots_left);
	printf("immutable  %10llu  of %llu files that nobody else is to change%s%s\n", (unsigned long long)s.immutable.nr_immutable,
	       (unsigned long long)s.immutable.nr_files, s.immutable.why ? ": " : "", s.immutable.why ? s.immutable.why : "");
	if (s.nr_given_away)
		printf("owners     %10llu  of these belong to another user than the pool, as libvirt does while guests run\n",
		       (unsigned long long)s.nr_given_away);
	return EXIT_DONE;
}

/* Without a pool it is only told. */
static int drop_member(void *ctx, const struct name *n, struct err *err)
{
	char path[4 * PATH_MAX];

	printf("'%s' is not there any more\n", safe(n->disks.items[0].path, path, sizeof(path)));
	return ctx ? names_remove(ctx, n->number, err) : 0;
}

/* What stands in the middle in the workshops of the directories named. */
static int recover_workshops(struct pool_job *j, struct err *err)
{
	for (size_t i = 0; i < j->s.roots.list.nr; i++) {
		CLEANUP(workshop_close) struct workshop *w = NULL;
		struct recovery done;
		const char *name;

		if (!j->s.roots.list.items[i].walked || find_workshop(&j->s.roots.list.items[i], &w, &name, err) < 0 ||
		    (w && workshop_recover(w, show_problem, NULL, &done, err) < 0)) {
			if (j->s.roots.list.items[i].walked)
				return -1;
		}
	}
	return 0;
}

/* Images are where the pool is, unless the user says where else. */
static const char **image_dirs(struct pool_job *j, const struct pool *p, size_t *ret_nr, struct err *err)
{
	const char **dirs = calloc(j->s.roots.list.nr + 1, sizeof(*dirs));
	char *slash;

	if (!dirs || !(dirs[0] = strdup(p->path))) {
		free(dirs);
		return err_null(err, ERR_MEMORY, "no memory for paths");
	}
	slash = strrchr(dirs[0], '/');
	slash[slash == dirs[0]] = '\0';
	*ret_nr = 1;
	for (size_t i = 0; i < j->s.roots.list.nr; i++)
		if (j->s.roots.list.items[i].walked && strcmp(j->s.roots.list.items[i].path, dirs[0]) != 0)
			dirs[(*ret_nr)++] = j->s.roots.list.items[i].path;
	return dirs;
}

/* After it was moved all would be missing. */
static int drop_missing(struct pool_job *j, struct pool *p, struct err *err)
{
	char old[PATH_MAX];
	int rc = repoint_old_path(p, old, err);

	if (rc > 0)
		return err_set(err, ERR_REFUSED,
			       "the pool was at '%s'; dedupscan repoint finds its images, and has to come before --drop-missing",
			       old);
	return rc < 0 ? -1 : versions_each_gone(p, drop_member, j->dry_run ? NULL : p, err);
}

static int collect_among(struct pool_job *j, struct pool *p, const char **dirs, size_t nr_dirs, struct err *err)
{
	struct collect_options o = {
		.dirs = dirs, .nr_dirs = nr_dirs, .dry_run = j->dry_run, .memory = j->s.scan.memory, .stopper = &stopper,
		.progress = show_stage,
	};
	struct collected c = { 0 };

	if (versions_recover(p, err) < 0 || (j->drop_missing && drop_missing(j, p, err) < 0) || pool_collect(p, &o, &c, err) < 0)
		return -1;
	clear_progress();
	printf("%s %s; %s is in use\n", j->dry_run ? "a collection would free" : "freed", size_of(c.freed), size_of(c.live));
	if (c.small)
		printf("%s that nothing needs stays, in small pieces among what is in use\n", size_of(c.small));
	printf("%llu views removed, %llu go with the next collection\n", (unsigned long long)c.nr_removed,
	       (unsigned long long)c.nr_dying);
	return EXIT_DONE;
}

static int act_collect(struct pool_job *j, struct pool *p, struct err *err)
{
	size_t nr;
	const char **dirs = recover_workshops(j, err) < 0 ? NULL : image_dirs(j, p, &nr, err);
	int rc = dirs ? collect_among(j, p, dirs, nr, err) : -1;

	if (dirs)
		free((char *)dirs[0]);
	free(dirs);
	return rc;
}

static int tell_damage(void *ctx, const struct pool_damage *d, struct err *err)
{
	char path[4 * PATH_MAX], text[4 * sizeof(d->what.text)];

	(void)ctx;
	(void)err;
	clear_progress();
	printf("%s: %s", pool_part_names[d->part], safe(d->what.text, text, sizeof(text)));
	if (d->path[0])
		printf("; hits '%s'", safe(d->path, path, sizeof(path)));
	if (d->len)
		printf(" at %llu, %llu bytes", (unsigned long long)d->offset, (unsigned long long)d->len);
	printf(d->repairable ? "; repair can rebuild it\n" : "\n");
	return 0;
}

static int act_check(struct pool_job *j, struct pool *p, struct err *err)
{
	struct pool_check_options o = {
		.read_data = j->read_data, .percent = j->percent, .stopper = &stopper, .damage = tell_damage,
		.progress = show_stage,
	};
	struct pool_checked c = { 0 };

	if (pool_check(p, &o, &c, err) < 0)
		return -1;
	clear_progress();
	printf("%llu names, %llu views, %llu nodes, %llu segments looked at, %s of data read: %llu damages\n",
	       (unsigned long long)c.nr_names, (unsigned long long)c.nr_views, (unsigned long long)c.nr_nodes,
	       (unsigned long long)c.nr_segments, size_of(c.bytes_read), (unsigned long long)c.nr_damages);
	return c.nr_damages ? EXIT_SKIPS : EXIT_DONE;
}

/* A directory that is a pool itself, whatever it is called. */
static bool is_pool(const char *dir)
{
	static const char *const parts[] = { "names", "trees", "views" };
	char path[PATH_MAX];
	struct stat st;

	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		snprintf(path, sizeof(path), "%.*s/%s", PATH_MAX - 16, dir, parts[i]);
		if (stat(path, &st) < 0 || !S_ISDIR(st.st_mode))
			return false;
	}
	return true;
}

static int act_verify_pool(struct pool_job *j, struct err *err)
{
	const char *word = j->nr_words ? j->words[0] : NULL;
	CLEANUP(pool_close) struct pool *p = NULL;

	if (!j->pool && word && is_pool(word))
		j->pool = word;
	if (j->s.idle)
		be_idle();
	return open_pool(j, word, false, &p, err) < 0 ? -1 : act_check(j, p, err);
}

static int run_verify_pool(int argc, char **argv)
{
	static const struct option options[] = {
		{ "pool", optional_argument, NULL, OPT_POOL },
		{ "read-data", optional_argument, NULL, OPT_READ_DATA },
		{ "window", required_argument, NULL, OPT_WINDOW },
		{ "for", required_argument, NULL, OPT_FOR },
		{ "until", required_argument, NULL, OPT_UNTIL },
		{ "no-idle", no_argument, NULL, OPT_NO_IDLE },
		{ "help", no_argument, NULL, OPT_HELP },
		{ 0 },
	};

	return run_pool_verb(argc, argv, &(struct pool_verb){ verify_help, options, 0, 1, act_verify_pool });
}

static int tell_repaired(void *ctx, const struct pool_damage *d, bool repaired, struct err *err)
{
	const struct pool_job *j = ctx;
	struct pool_damage told = *d;

	told.repairable = false; /* it is told how that went */
	tell_damage(NULL, &told, err);
	printf(!repaired ? "\tleft as it is\n" : j->dry_run ? "\tcan be repaired\n" : "\trepaired\n");
	return 0;
}

static int act_repair(struct pool_job *j, struct pool *p, struct err *err)
{
	struct pool_repair_options o = {
		.dry_run = j->dry_run, .stopper = &stopper, .tell = tell_repaired, .progress = show_stage, .ctx = j,
	};
	char old[PATH_MAX], path[4 * PATH_MAX];
	uint64_t repaired = 0, left = 0;
	int rc;

	if (j->tell_immutable && !j->dry_run && immutable_tell(p, j->immutable, err) < 0)
		return -1;
	rc = repoint_old_path(p, old, err);
	if (rc < 0 || pool_repair(p, &o, &repaired, &left, err) < 0)
		return -1;
	clear_progress();
	printf("%llu damages %s, %llu left\n", (unsigned long long)repaired, j->dry_run ? "could be repaired" : "repaired",
	       (unsigned long long)left);
	if (rc > 0)
		printf("the pool was at '%s'; images that name it there are not changed by this, but by dedupscan repoint\n",
		       safe(old, path, sizeof(path)));
	return left ? EXIT_SKIPS : EXIT_DONE;
}

static int act_pool(struct pool_job *j, struct err *err)
{
	static const struct {
		const char *name;
		bool writing;
		int (*act)(struct pool_job *j, struct pool *p, struct err *err);
	} verbs[] = {
		{ "status", false, act_status }, { "collect", true, act_collect }, { "check", false, act_check },
		{ "repair", true, act_repair },
	};
	CLEANUP(pool_close) struct pool *p = NULL;

	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++) {
		if (strcmp(j->words[0], verbs[i].name) != 0)
			continue;
		if (open_pool(j, j->nr_words > 1 ? j->words[1] : NULL, verbs[i].writing, &p, err) < 0)
			return -1;
		return verbs[i].act(j, p, err);
	}
	return err_set(err, ERR_USAGE, "'%s' is nothing that can be done with a pool", j->words[0]);
}

static int run_pool(int argc, char **argv)
{
	static const struct option options[] = {
		{ "dry-run", no_argument, NULL, OPT_DRY_RUN },
		{ "drop-missing", no_argument, NULL, OPT_DROP_MISSING },
		{ "read-data", optional_argument, NULL, OPT_READ_DATA },
		{ "immutable", required_argument, NULL, OPT_IMMUTABLE },
		{ "memory", required_argument, NULL, OPT_MEMORY },
		POOL_OPTIONS,
		{ 0 },
	};

	return run_pool_verb(argc, argv, &(struct pool_verb){ pool_help, options, 1, 2, act_pool });
}

/* ---- versions ---- */

/* Where a new file is to be: its directory must be there. */
static int new_path(const char *word, char ret[PATH_MAX], struct err *err)
{
	CLEANUP(free) char *copy = strdup(word);
	CLEANUP(free) char *dir = copy ? realpath(dirname(copy), NULL) : NULL;

	if (!dir)
		return err_errno(err, "cannot find the directory of '%s'", word);
	if (snprintf(ret, PATH_MAX, "%s/%s", strcmp(dir, "/") == 0 ? "" : dir, last_part(word)) >= PATH_MAX)
		return err_set(err, ERR_USAGE, "the path '%s' is too long", word);
	if (roots_are_ours(ret))
		return err_set(err, ERR_USAGE, "'%s' would lie among files of dedupscan's own; name another directory", word);
	return *last_part(word) ? 0 : err_set(err, ERR_USAGE, "'%s' names no file", word);
}

/* An image of which versions are wanted: it may be gone. */
static const char *named_or_gone(struct pool_job *j, const char *word, struct err *err)
{
	struct stat st;

	if (lstat(word, &st) == 0 || errno != ENOENT || j->nr_gone == ARRAY_SIZE(j->gone))
		return named_image(j, word, err);
	return new_path(word, j->gone[j->nr_gone++], err) < 0 ? NULL : j->gone[j->nr_gone - 1];
}

/* IMAGE or IMAGE@VERSION: the image's real path, and the label or NULL; the word is cut. */
static const char *named_version(struct pool_job *j, char *word, const char **ret_label, struct err *err)
{
	char *at = strrchr(word, '@');
	struct stat st;

	*ret_label = NULL;
	if (at && stat(word, &st) < 0) { /* it is no name with a '@' in it */
		*at = '\0';
		*ret_label = at + 1;
		return named_or_gone(j, word, err);
	}
	return named_image(j, word, err);
}

static struct versions_how how_of(const struct pool_job *j)
{
	return (struct versions_how){
		.hold = { .assume_idle = j->assume_idle }, .settle_ns = SETTLE_NS, .now = time(NULL),
	};
}

/* One that was moved is noted where it is. */
static int know_image(struct pool *p, const char *path, bool writing, struct err *err)
{
	return repoint_check(p, path, err) < 0 || (writing && versions_adopt(p, path, err) < 0) ? -1 : 0;
}

static int try_pool_of(struct pool_job *j, const char *path, bool writing, struct pool **ret, struct err *err)
{
	CLEANUP(pool_close) struct pool *p = NULL;

	if (pool_home_of(&j->s.roots, path, j->pool, writing, &p, err) < 0 || (writing && recover_workshops(j, err) < 0))
		return -1;
	*ret = STEAL(p);
	return 0;
}

/* The pool of an image, and what was left there in the middle is finished. */
static int open_recovered_pool(struct pool_job *j, const char *path, bool writing, struct pool **ret, struct err *err)
{
	int rc;

	do {
		rc = try_pool_of(j, path, writing, ret, err);
	} while (rc < 0 && wait_for_others(j, err));
	clear_progress();
	return rc < 0 || (writing && versions_recover(*ret, err) < 0) ? -1 : 0;
}

static int open_pool_of(struct pool_job *j, const char *path, bool writing, struct pool **ret, struct err *err)
{
	return open_recovered_pool(j, path, writing, ret, err) < 0 ? -1 : know_image(*ret, path, writing, err);
}

static const char clone_help[] =
	"usage: dedupscan clone [OPTION]... IMAGE[@VERSION] NEW\n"
	"\n"
	"Makes NEW a copy of IMAGE, which is in a pool, as it is now or was in VERSION.  No data is\n"
	"copied.\n"
	"\n"
	"  --count N             make N of them; %d or %03d in NEW's name is the number\n"
	"  --compat              overlays without extended L2 entries\n"
	"  --assume-idle         nobody uses IMAGE, where the file system cannot tell\n"
	"  --pool DIR            where its pool is, if the image cannot tell\n"
	"  --wait TIME           how long to wait while another dedupscan changes the pool (10s)\n"
	"\n"
	"Exit status: 0 done; 2 usage; 3 failed; 4 in use.\n";

static int act_clone(struct pool_job *j, struct err *err)
{
	char path[PATH_MAX];
	struct clone_options o = {
		.how = how_of(j), .count = j->count, .new_path = path, .overlay = { .compat = j->compat },
	};
	CLEANUP(pool_close) struct pool *p = NULL;
	struct clones made;

	o.path = named_version(j, j->words[0], &o.label, err);
	if (!o.path || new_path(j->words[1], path, err) < 0 || open_pool_of(j, o.path, true, &p, err) < 0)
		return -1;
	return clone_image(p, &o, &made, err) < 0 ? -1 : EXIT_DONE;
}

static int run_clone(int argc, char **argv)
{
	static const struct option options[] = {
		{ "count", required_argument, NULL, OPT_COUNT },
		{ "compat", no_argument, NULL, OPT_COMPAT },
		{ "assume-idle", no_argument, NULL, OPT_ASSUME_IDLE },
		POOL_OPTIONS,
		{ 0 },
	};

	return run_pool_verb(argc, argv, &(struct pool_verb){ clone_help, options, 2, 2, act_clone });
}

static const char snapshot_help[] =
	"usage: dedupscan snapshot [OPTION]... NAME IMAGE...\n"
	"\n"
	"Keeps all IMAGEs, the disks of one virtual machine say, as version NAME.  The machine is off,\n"
	"and no data is read or written; or --live is given.\n"
	"\n"
	"  --live                of a machine of libvirt's that runs, all disks as of one moment\n"
	"  --quiesce             its guest's agent freezes the file systems for that moment\n"
	"  --file FILE           keep this file of at most 1 MiB with them (again for more)\n"
	"  --assume-idle         nobody uses them, where the file system cannot tell\n"
	"  --pool DIR            where their pool is, if the first one cannot tell\n"
	"  --wait TIME           how long to wait while another dedupscan changes the pool (10s)\n"
	"\n"
	"Exit status: 0 done; 2 usage; 3 failed; 4 in use.\n";

static int act_snapshot(struct pool_job *j, struct err *err)
{
	size_t nr = (size_t)j->nr_words - 1;
	CLEANUP(free) const char **paths = calloc(nr, sizeof(*paths));
	struct snapshot_options o = {
		.how = how_of(j), .label = j->words[0], .paths = paths, .nr_paths = nr,
		.files = (const char *const *)j->files.items, .nr_files = j->files.nr,
	};
	CLEANUP(pool_close) struct pool *p = NULL;
	struct snapshot_made made;

	if (!paths)
		return err_set(err, ERR_MEMORY, "no memory for paths");
	for (size_t i = 0; i < nr; i++)
		if (!(paths[i] = named_image(j, j->words[i + 1], err)))
			return -1;
	if (j->quiesce && !j->live)
		return err_set(err, ERR_USAGE, "--quiesce says how a machine is treated that runs; it needs --live");
	if (open_pool_of(j, paths[0], true, &p, err) < 0)
		return -1;
	for (size_t i = 1; i < nr; i++)
		if (know_image(p, paths[i], true, err) < 0)
			return -1;
	if ((j->live ? live_snapshot(p, &o, j->quiesce, &made, err) : versions_snapshot(p, &o, &made, err)) < 0)
		return -1;
	printf("version '%s': %zu disks sealed, %zu unchanged\n", o.label, made.nr_sealed, made.nr_unchanged);
	return EXIT_DONE;
}

static int run_snapshot(int argc, char **argv)
{
	static const struct option options[] = {
		{ "live", no_argument, NULL, OPT_LIVE },
		{ "quiesce", no_argument, NULL, OPT_QUIESCE },
		{ "file", required_argument, NULL, OPT_FILE },
		{ "assume-idle", no_argument, NULL, OPT_ASSUME_IDLE },
		POOL_OPTIONS,
		{ 0 },
	};

	return run_pool_verb(argc, argv, &(struct pool_verb){ snapshot_help, options, 2, INT_MAX, act_snapshot });
}

static int needs_version(const char *label, struct err *err)
{
	return label ? 0 : err_set(err, ERR_USAGE, "which version? name it as IMAGE@VERSION; dedupscan list IMAGE tells them");
}

static const char rollback_help[] =
	"usage: dedupscan rollback [OPTION]... IMAGE@VERSION\n"
	"\n"
	"Makes IMAGE what it was in VERSION.  What it is now is kept as another version.\n"
	"\n"
	"  --discard             it is not kept\n"
	"  --assume-idle         nobody uses IMAGE, where the file system cannot tell\n"
	"  --pool DIR            where its pool is, if the image cannot tell\n"
	"  --wait TIME           how long to wait while another dedupscan changes the pool (10s)\n"
	"\n"
	"Exit status: 0 done; 2 usage; 3 failed; 4 in use.\n";

static int act_rollback(struct pool_job *j, struct err *err)
{
	struct rollback_options o = { .how = how_of(j), .discard = j->discard };
	CLEANUP(pool_close) struct pool *p = NULL;
	char kept[256];

	o.path = named_version(j, j->words[0], &o.label, err);
	if (!o.path || needs_version(o.label, err) < 0 || open_pool_of(j, o.path, true, &p, err) < 0 ||
	    versions_rollback(p, &o, kept, err) < 0)
		return -1;
	if (kept[0])
		printf("what it was is kept as version '%s'\n", kept);
	return EXIT_DONE;
}

static int run_rollback(int argc, char **argv)
{
	static const struct option options[] = {
		{ "discard", no_argument, NULL, OPT_DISCARD },
		{ "assume-idle", no_argument, NULL, OPT_ASSUME_IDLE },
		POOL_OPTIONS,
		{ 0 },
	};

	return run_pool_verb(argc, argv, &(struct pool_verb){ rollback_help, options, 1, 1, act_rollback });
}

static const char list_help[] =
	"usage: dedupscan list [OPTION]... [DIR|IMAGE]\n"
	"\n"
	"Lists images and versions of the pool of DIR (the current directory), or those of IMAGE.\n"
	"\n"
	"  --pool DIR            where the pool is\n"
	"  --wait TIME           how long to wait while another dedupscan changes the pool (10s)\n"
	"\n"
	"Exit status: 0 done; 1 done, but not all can be read; 2 usage; 3 failed; 4 in use.\n";

static const char *remark_on(const struct version_row *r)
{
	if (r->name->kind == NAME_MEMBER)
		return r->there ? "" : " (gone)";
	if (r->disk->folded)
		return "";
	return r->changed ? " (sealed, changed)" : " (sealed)";
}

static int show_row(void *ctx, const struct version_row *r, struct err *err)
{
	char path[4 * PATH_MAX], label[4 * 256], when[32] = "";
	struct tm tm;
	time_t made = (time_t)r->name->made;

	(void)ctx;
	(void)err;
	if (r->name->kind == NAME_VERSION && localtime_r(&made, &tm))
		strftime(when, sizeof(when), "%Y-%m-%d %H:%M", &tm);
	printf("%-16s  %10s  %10s  %s%s%s%s\n", when, size_of(r->disk->size), size_of(r->own_bytes),
	       safe(r->disk->path, path, sizeof(path)), r->name->kind == NAME_VERSION ? "@" : "",
	       r->name->kind == NAME_VERSION ? safe(r->name->label, label, sizeof(label)) : "", remark_on(r));
	return 0;
}

static int show_damaged_name(void *ctx, uint64_t number, const struct err *why, struct err *err)
{
	struct err told = ERR_INIT;

	(void)number;
	(void)err;
	err_set(&told, why->kind, "%s; dedupscan pool repair tells what to do", why->text);
	complain(&told);
	*(bool *)ctx = true;
	return 0;
}

static int act_list(struct pool_job *j, struct err *err)
{
	const char *word = j->nr_words ? j->words[0] : NULL, *path = NULL;
	CLEANUP(pool_close) struct pool *p = NULL;
	bool damaged = false;
	struct stat st;

	if (word && (stat(word, &st) < 0 || S_ISREG(st.st_mode))) {
		path = named_or_gone(j, word, err);
		if (!path || open_pool_of(j, path, false, &p, err) < 0)
			return -1;
	} else if (open_pool(j, word, false, &p, err) < 0) {
		return -1;
	}
	printf("%-16s  %10s  %10s  %s\n", "MADE", "DISK", "OWN", "IMAGE");
	if (versions_list(p, path, show_row, show_damaged_name, &damaged, err) < 0)
		return -1;
	return damaged ? EXIT_SKIPS : EXIT_DONE;
}

static int run_list(int argc, char **argv)
{
	static const struct option options[] = {
		POOL_OPTIONS, { 0 },
	};

	return run_pool_verb(argc, argv, &(struct pool_verb){ list_help, options, 0, 1, act_list });
}

static const char diff_help[] =
	"usage: dedupscan diff [OPTION]... IMAGE[@VERSION] IMAGE[@VERSION]\n"
	"\n"
	"Tells in which ranges two disks of a pool differ: offset and length in bytes, one a line.\n"
	"Images are as they were when the pool knew them last.\n"
	"\n"
	"  --pool DIR            where the pool is, if the first one cannot tell\n"
	"  --wait TIME           how long to wait while another dedupscan changes the pool (10s)\n"
	"\n"
	"Exit status: 0 they are equal; 1 they differ; 2 usage; 3 failed; 4 in use.\n";

static int show_range(void *ctx, uint64_t offset, uint64_t len, struct err *err)
{
	(void)ctx;
	(void)err;
	printf("%llu %llu\n", (unsigned long long)offset, (unsigned long long)len);
	return 0;
}

static int act_diff(struct pool_job *j, struct err *err)
{
	CLEANUP(pool_close) struct pool *p = NULL;
	struct pool_disk disks[2];
	struct pool_diff_sum sum;

	for (int i = 0; i < 2; i++) {
		const char *label, *path = named_version(j, j->words[i], &label, err);

		if (!path || (!p && open_pool_of(j, path, false, &p, err) < 0) ||
		    pool_disk_find(p, path, label, &disks[i], err) < 0)
			return -1;
	}
	if (pool_diff(p, &disks[0], &disks[1], show_range, NULL, &sum, err) < 0)
		return -1;
	return sum.nr_ranges ? EXIT_SKIPS : EXIT_DONE;
}

static int run_diff(int argc, char **argv)
{
	static const struct option options[] = {
		POOL_OPTIONS, { 0 },
	};

	return run_pool_verb(argc, argv, &(struct pool_verb){ diff_help, options, 2, 2, act_diff });
}

static const char delete_help[] =
	"usage: dedupscan delete [OPTION]... IMAGE@VERSION\n"
	"\n"
	"Forgets a version, of all disks that it has.  Its space comes back by dedupscan pool\n"
	"collect.\n"
	"\n"
	"  --pool DIR            where its pool is, if the image cannot tell\n"
	"  --wait TIME           how long to wait while another dedupscan changes the pool (10s)\n"
	"\n"
	"Exit status: 0 done; 2 usage; 3 failed; 4 in use.\n";

static int act_delete(struct pool_job *j, struct err *err)
{
	const char *label, *path = named_version(j, j->words[0], &label, err);
	CLEANUP(pool_close) struct pool *p = NULL;

	if (!path || needs_version(label, err) < 0 || open_pool_of(j, path, true, &p, err) < 0)
		return -1;
	return versions_delete(p, path, label, err) < 0 ? -1 : EXIT_DONE;
}

static int run_delete(int argc, char **argv)
{
	static const struct option options[] = {
		POOL_OPTIONS, { 0 },
	};

	return run_pool_verb(argc, argv, &(struct pool_verb){ delete_help, options, 1, 1, act_delete });
}

static const char prune_help[] =
	"usage: dedupscan prune [OPTION]... IMAGE\n"
	"\n"
	"Tells which versions of IMAGE no rule keeps; with --apply they are deleted.\n"
	"\n"
	"  --keep-last N         keep the newest N\n"
	"  --keep-daily N        keep the last one of each of the last N days that have one\n"
	"  --keep-weekly N       the same of weeks,\n"
	"  --keep-monthly N      of months,\n"
	"  --keep-yearly N       of years\n"
	"  --apply               delete them\n"
	"  --pool DIR            where its pool is, if the image cannot tell\n"
	"  --wait TIME           how long to wait while another dedupscan changes the pool (10s)\n"
	"\n"
	"Exit status: 0 done; 2 usage; 3 failed; 4 in use.\n";

static int show_pruned(void *ctx, const struct name *n, const char *kept_by, struct err *err)
{
	const struct pool_job *j = ctx;
	char label[4 * 256];

	(void)err;
	printf("%-8s  %s\n", kept_by ? kept_by : j->apply ? "deleted" : "delete", safe(n->label, label, sizeof(label)));
	return 0;
}

static int act_prune(struct pool_job *j, struct err *err)
{
	struct prune_options o = {
		.keep_last = j->keep[0], .keep_daily = j->keep[1], .keep_weekly = j->keep[2], .keep_monthly = j->keep[3],
		.keep_yearly = j->keep[4], .apply = j->apply,
	};
	CLEANUP(pool_close) struct pool *p = NULL;

	o.path = named_or_gone(j, j->words[0], err);
	if (!o.path || open_pool_of(j, o.path, true, &p, err) < 0)
		return -1;
	return versions_prune(p, &o, show_pruned, j, err) < 0 ? -1 : EXIT_DONE;
}

static int run_prune(int argc, char **argv)
{
	static const struct option options[] = {
		{ "keep-last", required_argument, NULL, OPT_KEEP },
		{ "keep-daily", required_argument, NULL, OPT_KEEP + 1 },
		{ "keep-weekly", required_argument, NULL, OPT_KEEP + 2 },
		{ "keep-monthly", required_argument, NULL, OPT_KEEP + 3 },
		{ "keep-yearly", required_argument, NULL, OPT_KEEP + 4 },
		{ "apply", no_argument, NULL, OPT_APPLY },
		POOL_OPTIONS,
		{ 0 },
	};

	return run_pool_verb(argc, argv, &(struct pool_verb){ prune_help, options, 1, 1, act_prune });
}

/* ---- repoint ---- */

static const char repoint_help[] =
	"usage: dedupscan repoint [OPTION]... PATH...\n"
	"\n"
	"After a pool was moved or copied: tells it, and the images that PATHs are or hold, where it\n"
	"is.  Notes where images are that were moved, so that their versions are found.\n"
	"\n"
	"  --dry-run             only say what would be done\n"
	"  --assume-idle         nobody uses the images, where the file system cannot tell\n"
	"  --pool DIR            where the pool is now (at or above the first PATH)\n"
	"  --wait TIME           how long to wait while another dedupscan changes the pool (10s)\n"
	"\n"
	"Exit status: 0 done; 1 some images were left as they are, or are in use; 2 usage; 3 failed;\n"
	"4 the pool is in use; 75 stopped.\n";

/* "'IMAGE' named the pool at 'OLD'; it was 'PATH'", or "... is new to the pool" */
static void tell_repointed(void *ctx, const char *path, const char *pool, const char *was)
{
	char image[4 * PATH_MAX], other[4 * PATH_MAX];

	(void)ctx;
	clear_progress();
	printf("'%s'", safe(path, image, sizeof(image)));
	if (pool)
		printf(" named the pool at '%s'", safe(pool, other, sizeof(other)));
	if (was && pool)
		printf("; it");
	if (was && *was)
		printf(" was '%s'", safe(was, other, sizeof(other)));
	else if (was)
		printf(" is new to the pool");
	putchar('\n');
}

static int act_repoint(struct pool_job *j, struct err *err)
{
	struct repoint_options o = {
		.roots = &j->s.roots, .hold = { .assume_idle = j->assume_idle }, .dry_run = j->dry_run, .stopper = &stopper,
		.told = tell_repointed, .problem = show_problem, .ctx = j,
	};
	CLEANUP(pool_close) struct pool *p = NULL;
	struct repointed done = { 0 };
	char at[PATH_MAX + 2];
	int rc;

	for (int i = 0; i < j->nr_words; i++)
		if (roots_add(&j->s.roots, j->words[i], true, err) < 0)
			return -1;
	snprintf(at, sizeof(at), "%s%s", j->s.roots.list.items[0].path, j->s.roots.list.items[0].file ? "" : "/.");
	if (open_recovered_pool(j, at, true, &p, err) < 0)
		return -1;
	rc = pool_repoint(p, &o, &done, err);
	clear_progress();
	printf("%s: %llu images, %llu sealed overlays and %llu stubs; %llu images noted, %llu left as they are\n",
	       j->dry_run ? "would be repointed" : "repointed", (unsigned long long)done.nr_images,
	       (unsigned long long)done.nr_sealed, (unsigned long long)done.nr_stubs, (unsigned long long)done.nr_noted,
	       (unsigned long long)done.nr_left);
	return rc < 0 ? -1 : done.nr_left ? EXIT_SKIPS : EXIT_DONE;
}

static int run_repoint(int argc, char **argv)
{
	static const struct option options[] = {
		{ "dry-run", no_argument, NULL, OPT_DRY_RUN },
		{ "assume-idle", no_argument, NULL, OPT_ASSUME_IDLE },
		POOL_OPTIONS,
		{ 0 },
	};

	return run_pool_verb(argc, argv, &(struct pool_verb){ repoint_help, options, 1, INT_MAX, act_repoint });
}

/* ---- restore ---- */

static const char restore_help[] =
	"usage: dedupscan restore [OPTION]... IMAGE[@VERSION] FILE\n"
	"\n"
	"Writes a disk of a pool to FILE, which must not be there, as an image of any format.\n"
	"\n"
	"  --format NAME         raw, qcow2, vmdk, vhd or vhdx (by FILE's name; raw without one)\n"
	"  --kind KIND           of it (the first is what there is without this option):\n"
	"                        vmdk: monolithicSparse, monolithicFlat, streamOptimized,\n"
	"                              twoGbMaxExtentSparse, twoGbMaxExtentFlat\n"
	"                        vhd, vhdx: dynamic, fixed\n"
	"                        qcow2: 3, 2 (its version); zlib, zstd (3, compressed)\n"
	"  --cluster-size SIZE   of its clusters, grains or blocks\n"
	"  --pool DIR            where the pool is, if the image cannot tell\n"
	"  --wait TIME           how long to wait while another dedupscan changes the pool (10s)\n"
	"\n"
	"Exit status: 0 done; 2 usage; 3 failed; 4 in use; 75 stopped.\n";

static const struct writer_format *format_of(const struct pool_job *j, const char *file, struct err *err)
{
	const char *dot = strrchr(last_part(file), '.'), *name = j->format ? j->format : dot ? dot + 1 : "raw";
	const struct writer_format *f = writer_format_by_name(strcmp(name, "img") == 0 ? "raw" : name);

	return f ? f : err_null(err, ERR_USAGE, "there is no format '%s' to write; --format takes raw, qcow2, vmdk, vhd and vhdx",
				name);
}

static void tell_removed(void *ctx, const char *name)
{
	char text[4 * PATH_MAX];

	(void)ctx;
	clear_progress();
	fprintf(stderr, "dedupscan: removed '%s', which a restore left that was killed\n", safe(name, text, sizeof(text)));
}

static int act_restore(struct pool_job *j, struct err *err)
{
	const char *label, *path = named_version(j, j->words[0], &label, err);
	struct restore_options o = {
		.how = { .cluster_size = j->cluster_size, .kind = j->kind }, .stopper = &stopper, .progress = show_stage,
		.removed = tell_removed,
	};
	CLEANUP(pool_close) struct pool *p = NULL;
	CLEANUP(close_fd) int dirfd = -1;
	char to[PATH_MAX];
	struct pool_disk disk;

	if (!path || new_path(j->words[1], to, err) < 0 || !(o.format = format_of(j, to, err)))
		return -1;
	if (open_pool_of(j, path, false, &p, err) < 0 || pool_disk_find(p, path, label, &disk, err) < 0)
		return -1;
	*strrchr(to, '/') = '\0';
	dirfd = file_open(AT_FDCWD, to[0] ? to : "/", O_RDONLY | O_DIRECTORY, 0, err);
	if (dirfd < 0)
		return -1;
	return restore_disk(p, disk.root, disk.size, dirfd, last_part(j->words[1]), &o, err) < 0 ? -1 : EXIT_DONE;
}

static int run_restore(int argc, char **argv)
{
	static const struct option options[] = {
		{ "format", required_argument, NULL, OPT_FORMAT },
		{ "kind", required_argument, NULL, OPT_KIND },
		{ "cluster-size", required_argument, NULL, OPT_CLUSTER_SIZE },
		POOL_OPTIONS,
		{ 0 },
	};

	return run_pool_verb(argc, argv, &(struct pool_verb){ restore_help, options, 2, 2, act_restore });
}

/* ---- the door ---- */

static const struct command commands[] = {
	{ "report", run_report, "scan images and report what is stored twice" },
	{ "scan", run_scan, "scan images into the catalog" },
	{ "compact", run_compact, "store what is stored twice once" },
	{ "recover", run_recover, "finish or undo what a compaction left" },
	{ "info", run_info, "tell what images are" },
	{ "verify", run_verify, "tell whether images are what they were" },
	{ "clone", run_clone, "copy an image of a pool without copying data" },
	{ "snapshot", run_snapshot, "keep images of a pool as they are" },
	{ "rollback", run_rollback, "make an image what it was" },
	{ "list", run_list, "list images and versions of a pool" },
	{ "diff", run_diff, "tell in what two disks of a pool differ" },
	{ "delete", run_delete, "forget a version" },
	{ "prune", run_prune, "forget versions by rules" },
	{ "restore", run_restore, "write a disk of a pool as an image of any format" },
	{ "expand", run_expand, "make images independent of their pool again" },
	{ "repoint", run_repoint, "tell images where their pool is after it was moved" },
	{ "pool", run_pool, "look after a pool" },
};

static int help(void)
{
	printf("usage: dedupscan COMMAND [OPTION]... PATH...\n\n");
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		printf("  %-10s %s\n", commands[i].name, commands[i].what);
	printf("\n'dedupscan COMMAND --help' tells its options; dedupscan(1) tells the rest.\n");
	return printed(EXIT_DONE);
}

static int version(void)
{
	char sandbox[128], program[PATH_MAX];
	struct jail jail;

	jail_plan(&jail, JAIL_BEST, NULL);
	printf("dedupscan " VERSION "\nformats:");
	for (const struct image_format *const *f = image_formats; *f; f++)
		printf(" %s", (*f)->name);
	printf("\nfingerprints: XXH3-128, %s\n", fingerprint_best()->name);
	printf("sandbox: %s\n", jail_describe(&jail, sandbox, sizeof(sandbox)));
	printf("guest: %s\n", guest_program(program) ? "yes" : "no");
	return printed(EXIT_DONE);
}

/* Were one of the standard descriptors closed, a file of ours would get its number, and what is printed would go there.
 * Now to print there fails, as it should: it is open the wrong way around. */
static void open_standard(void)
{
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0 && errno == EBADF)
			(void)!open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
}

int main(int argc, char **argv)
{
	struct err err = ERR_INIT;
	char name[256];

	if (getauxval(AT_SECURE)) {
		err_set(&err, ERR_REFUSED, "it must not be installed setuid or setgid");
		return fail(&err);
	}
	open_standard();
	setlocale(LC_CTYPE, ""); /* for the styles of reports */
	set_signals();
	if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0)
		return help();
	if (strcmp(argv[1], "--version") == 0)
		return version();
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (strcmp(argv[1], commands[i].name) == 0)
			return commands[i].run(argc - 1, argv + 1);
	err_set(&err, ERR_USAGE, "there is no command '%s'", safe(argv[1], name, sizeof(name)));
	return usage_error(&err);
}
