/* SPDX-License-Identifier: Apache-2.0 */
#include "reports/commands/settings.h"

#include <getopt.h>
#include <libgen.h>
#include <linux/ioprio.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "compactor/pool_home.h"
#include "reports/commands/terminal.h"
#include "scanner/base/checked.h"
#include "scanner/base/units.h"
#include "scanner/image/image.h"

const char settings_help[] =
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

/* ---- values ---- */

int option_count(const char *s, unsigned most, unsigned *ret, struct err *err)
{
	char *end;
	unsigned long v = strtoul(s, &end, 10);

	if (*s < '0' || *s > '9' || *end || v > most)
		return err_set(err, ERR_USAGE, "'%s' is not a number from 0 to %u", s, most);
	*ret = (unsigned)v;
	return 0;
}

int option_seconds(int64_t *ret, const char *arg, struct err *err)
{
	uint64_t seconds = 0;

	if (strcmp(arg, "0") != 0 && units_parse_duration(arg, &seconds, err) < 0)
		return -1;
	*ret = (int64_t)seconds;
	return 0;
}

static int stub_l2_cache(struct stub_wish *w, const char *arg, struct err *err)
{
	w->l2 = true;
	w->as.l2 = 0;
	if (strcmp(arg, "0") != 0 && units_parse_size(arg, &w->as.l2, err) < 0)
		return -1;
	if (w->as.l2 && (w->as.l2 < MIB || w->as.l2 > SLICE_L2_CACHE_MAX))
		return err_set(err, ERR_USAGE, "--l2-cache must be from 1M to 1G, or 0");
	return 0;
}

/* One of two words: true = the second one. */
static int stub_choice(bool *ret_told, bool *ret, const char *option, const char *first, const char *second, const char *arg,
		       struct err *err)
{
	*ret_told = true;
	*ret = strcmp(arg, second) == 0;
	if (*ret || strcmp(arg, first) == 0)
		return 0;
	return err_set(err, ERR_USAGE, "--%s is %s or %s, not '%s'", option, second, first, arg);
}

int option_stub(struct stub_wish *ret, int opt, const char *arg, struct err *err)
{
	switch (opt) {
	case OPT_L2_CACHE:
		return stub_l2_cache(ret, arg, err);
	case OPT_HOST_CACHE:
		return stub_choice(&ret->host, &ret->as.host, "host-cache", "no", "yes", arg, err);
	default:
		return stub_choice(&ret->aio, &ret->as.io_uring, "aio", "threads", "io_uring", arg, err) < 0 ? -1 :
		       stub_check_machine(ret, err);
	}
}

int option_immutable(enum pool_immutable *ret, bool *ret_told, const char *arg, struct err *err)
{
	for (unsigned i = 0; i < POOL_NR_IMMUTABLE; i++)
		if (strcmp(arg, pool_immutable_names[i]) == 0) {
			*ret = i;
			*ret_told = true;
			return 0;
		}
	return err_set(err, ERR_USAGE, "--immutable is auto, never or always, not '%s'", arg);
}

/* ---- options ---- */

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
	schedule_set_for(&term_stopper.schedule, seconds);
	return 0;
}

int settings_option(struct settings *s, int opt, const char *arg, struct err *err)
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
		return option_count(arg, 256, &s->jobs, err);
	case OPT_LIMIT:
		return units_parse_size(arg, &s->scan.limit, err);
	case OPT_WINDOW:
		return schedule_set_window(&term_stopper.schedule, arg, err);
	case OPT_FOR:
		return set_for(arg, err);
	case OPT_UNTIL:
		return schedule_set_until(&term_stopper.schedule, arg, err);
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

int settings_add_style(struct settings *s, const char *name, const char *output, struct err *err)
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

int settings_report_option(struct settings *s, int opt, const char *arg, const char *long_name, struct err *err)
{
	switch (opt) {
	case OPT_NO_SCAN:
		s->no_scan = true;
		return 0;
	case OPT_STYLE:
		return settings_add_style(s, long_name, arg, err);
	case OPT_OUTPUT:
		if (s->nr_styles == 0 && settings_add_style(s, "table", NULL, err) < 0)
			return -1;
		s->styles[s->nr_styles - 1].output = arg;
		return 0;
	case OPT_SORT:
		return report_sort_by_name(arg, &s->report.sort, err);
	case OPT_TOP:
		return option_count(arg, 1000000000, &s->report.top, err);
	case OPT_BYTES:
		s->report.exact = true;
		return 0;
	default:
		return settings_option(s, opt, arg, err);
	}
}

/* ---- images ---- */

static int read_file_list(struct settings *s, struct err *err)
{
	FILE *f = strcmp(s->files_from, "-") == 0 ? stdin : fopen(s->files_from, "re");
	char *line = NULL;
	size_t room = 0;
	ssize_t n;
	int rc = 0;

	if (!f)
		return err_named(err, "cannot open '%s'", s->files_from);
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

int settings_add_paths(struct settings *s, int argc, char **argv, struct err *err)
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

int settings_add_image(struct roots *roots, const char *path, struct err *err)
{
	CLEANUP(free) char *dir = NULL;

	if (roots_add(roots, path, true, err) < 0)
		return -1;
	dir = strdup(roots->list.items[roots->list.nr - 1].path);
	if (!dir)
		return err_set(err, ERR_MEMORY, "no memory for a path");
	return roots_add(roots, dirname(dir), false, err);
}

/* ---- all of them ---- */

void settings_init(struct settings *s)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	*s = (struct settings){ .idle = true, .jobs = cpus > 0 ? (unsigned)min_u64((uint64_t)cpus, 256) : 1 };
	s->scan.memory = 256 * MIB;
	s->scan.keep_cache = true;
	s->scan.roots = &s->roots;
	s->scan.stopper = &term_stopper;
}

void settings_init_to_report(struct settings *s)
{
	settings_init(s);
	report_options_detect(&s->report);
}

int settings_check(struct settings *s, struct err *err)
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

int settings_parse(struct settings *s, int argc, char **argv, const struct option *options, struct err *err)
{
	int opt, which = 0;

	settings_init_to_report(s);
	while ((opt = getopt_long(argc, argv, "0", options, &which)) != -1)
		if (settings_report_option(s, opt, optarg, opt >= 256 ? options[which].name : "", err) < 0)
			return -1;
	if (s->help)
		return 0;
	if (settings_check(s, err) < 0)
		return -1;
	return settings_add_paths(s, argc - optind, argv + optind, err);
}

void settings_be_idle(void)
{
	sched_setscheduler(0, SCHED_IDLE, &(struct sched_param){ 0 });
	syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0));
}

int settings_plan_jail(enum jail_mode mode, struct jail *ret, struct err *err)
{
	struct err lacking = ERR_INIT;

	if (jail_plan(ret, mode, err) < 0)
		return -1;
	if (mode == JAIL_BEST && jail_missing(ret)[0]) {
		err_set(&lacking, ERR_UNSUPPORTED, "the sandbox is not whole: the kernel lacks %s", jail_missing(ret));
		term_complain(&lacking);
	}
	return 0;
}
