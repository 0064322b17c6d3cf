/* SPDX-License-Identifier: Apache-2.0 */
#include "reports/commands/commands.h"

#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compactor/compact.h"
#include "compactor/pool/pool_format.h"
#include "compactor/pool_home.h"
#include "reports/commands/scan_job.h"
#include "reports/commands/terminal.h"
#include "reports/plan_report.h"
#include "scanner/base/checked.h"
#include "scanner/base/memory.h"
#include "scanner/base/units.h"
#include "scanner/base/vec.h"

#define FILE_SIZE_MIN MIB

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
	"  --wait TIME           wait so long for another dedupscan that is at work there (10s)\n"
	"  --preallocated        free the zeros of preallocated images too\n"
	"  --pool DIR            where the pool is (.dedupscan-pool in the first PATH)\n"
	"  --cluster-size SIZE   share clusters of 4K, 16K or 64K in the pool (4K)\n"
	"  --file-size SIZE      the pool begins another cluster file when one has so much (0: when it must)\n"
	"  --l2-cache SIZE       of tables QEMU may keep in memory for an image that enters the pool\n"
	"  --host-cache YES      guests with cache=none too read what enters the pool through the page cache: yes, no\n"
	"  --aio HOW             QEMU reads what enters the pool by threads, as it is used to, or io_uring\n"
	"  --cross-owner         images with other readers than the pool's may enter it too\n"
	"  --immutable WHEN      the pool's files are immutable: auto, never, always; the pool keeps that\n"
	"  --compat              overlays on the pool without extended L2 entries\n"
	"  --to-qcow2            raw, VMDK, VHD, VHDX and VDI images become qcow2 images in the pool\n"
	"  --snapshots WHAT      internal snapshots: skip such images (default), or to-versions\n"
	"  --json                for programs\n"
	"  --bytes               exact bytes in the table\n";

struct compact {
	struct scan_job j;
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

static int set_file_size(struct compact_options *o, const char *arg, struct err *err)
{
	uint64_t size = 0;

	if (strcmp(arg, "0") != 0 && units_parse_size(arg, &size, err) < 0)
		return -1;
	if (size && size < FILE_SIZE_MIN)
		return err_set(err, ERR_USAGE, "--file-size must be 1M or more, or 0");
	o->file_size = size;
	o->tell_file_size = true;
	return 0;
}

static int set_sharers(struct compact *c, const char *arg, struct err *err)
{
	unsigned nr;

	if (option_count(arg, 1000000000, &nr, err) < 0)
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
		return option_seconds(&c->o.keep_originals, arg, err);
	case OPT_ASSUME_IDLE:
		c->o.assume_idle = true;
		return 0;
	case OPT_WAIT:
		return option_seconds(&c->o.wait, arg, err);
	case OPT_PREALLOCATED:
		c->o.preallocated = true;
		return 0;
	case OPT_POOL:
		c->o.pool = arg;
		return 0;
	case OPT_CLUSTER_SIZE:
		return set_cluster_size(c, arg, err);
	case OPT_FILE_SIZE:
		return set_file_size(&c->o, arg, err);
	case OPT_L2_CACHE: case OPT_HOST_CACHE: case OPT_AIO:
		return option_stub(&c->o.stubs, opt, arg, err);
	case OPT_CROSS_OWNER:
		c->o.cross_owner = true;
		return 0;
	case OPT_IMMUTABLE:
		return option_immutable(&c->o.immutable, &c->o.tell_immutable, arg, err);
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
		return settings_report_option(&c->j.s, opt, arg, long_name, err);
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
		{ "wait", required_argument, NULL, OPT_WAIT },
		{ "preallocated", no_argument, NULL, OPT_PREALLOCATED },
		{ "pool", required_argument, NULL, OPT_POOL },
		{ "cluster-size", required_argument, NULL, OPT_CLUSTER_SIZE },
		{ "file-size", required_argument, NULL, OPT_FILE_SIZE },
		STUB_OPTIONS,
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

	settings_init_to_report(s);
	c->o.min_run = COMPACT_MIN_RUN;
	c->o.cluster_bits = POOL_UNIT_BITS_MIN;
	c->o.keep_originals = COMPACT_KEEP_ORIGINALS;
	c->o.wait = SETTINGS_WAIT;
	for (int m = 0; m < PLAN_NR_METHODS; m++)
		c->o.methods[m] = m != PLAN_POOL; /* that is asked for */
	while ((opt = getopt_long(argc, argv, "0", options, &which)) != -1)
		if (compact_option(c, opt, optarg, opt >= 256 ? options[which].name : "", err) < 0)
			return -1;
	if (s->help)
		return 0;
	if (settings_check(s, err) < 0)
		return -1;
	if (settings_add_paths(s, argc - optind, argv + optind, err) < 0)
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

static struct compaction *plan_compaction(struct compact *c, struct err *err)
{
	c->o.roots = &c->j.s.roots;
	c->o.format = c->j.s.scan.format;
	c->o.jail = &c->jail;
	c->o.memory = c->j.s.scan.memory;
	c->o.nr_threads = c->j.s.jobs;
	c->o.limit = c->j.s.scan.limit;
	c->o.stopper = &term_stopper;
	c->o.watch = &term_watch;
	c->o.apply = c->apply;
	c->o.wanted = is_wanted;
	c->o.ctx = c;
	if (settings_plan_jail(c->j.s.sandbox, &c->jail, err) < 0 || borrow_cache(c, err) < 0 || scan_job_open(&c->j, err) < 0 ||
	    scan_job_scan(&c->j, err) < 0)
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
		return err_named(err, "cannot open '%s'", c->plan_file);
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
	return c->plan.complete && !c->plan.unfolded ? scan_job_status(&c->j) : EXIT_SKIPS;
}

static int print_plan(struct compact *c, struct err *err)
{
	term_clear();
	if (c->json)
		return plan_write_json(stdout, &c->plan, err);
	return plan_write_table(stdout, &c->plan, &c->j.s.report, err);
}

static int compact(struct compact *c, struct err *err)
{
	CLEANUP(compact_free) struct compaction *work = read_plan(c, err) < 0 ? NULL : plan_compaction(c, err);
	struct err stop = ERR_INIT;

	if (!work || (c->plan_file && compact_restrict(work, &c->told, err) < 0))
		return term_fail(err);
	if (c->apply && compact_apply(work, &stop) < 0 && stop.kind != ERR_CANCELED)
		return term_fail(&stop);
	if (c->plan_out && plan_write_file(c->plan_out, &c->plan, err) < 0)
		return term_fail(err);
	if (print_plan(c, err) < 0)
		return term_fail(err);
	if (stop.kind)
		return term_fail(&stop);
	return term_printed(compact_status(c));
}

int run_compact(int argc, char **argv)
{
	struct compact c = { .apply = false };
	struct err err = ERR_INIT;
	int status;

	if (parse_compact(&c, argc, argv, &err) < 0) {
		status = term_cannot_begin(&err);
	} else if (c.j.s.help) {
		printf("%s%s", compact_help, settings_help);
		status = term_printed(EXIT_DONE);
	} else {
		status = compact(&c, &err);
	}
	plan_release(&c.plan);
	plan_release(&c.told);
	cache_loan_free(c.loan);
	vec_release(&c.only);
	scan_job_release(&c.j);
	return status;
}
