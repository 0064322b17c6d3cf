/* SPDX-License-Identifier: Apache-2.0 */
#include "reports/commands/commands.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "compactor/clone.h"
#include "compactor/live_guest.h"
#include "compactor/pool_diff.h"
#include "compactor/versions.h"
#include "reports/commands/pool_job.h"
#include "reports/commands/terminal.h"

static struct versions_how how_of(const struct pool_job *j)
{
	return (struct versions_how){
		.hold = { .assume_idle = j->assume_idle }, .settle_ns = SETTLE_NS, .now = time(NULL),
	};
}

/* ---- clone ---- */

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

	o.path = pool_job_version(j, j->words[0], &o.label, err);
	if (!o.path || pool_job_new_path(j->words[1], path, err) < 0 || pool_job_open_of(j, o.path, true, &p, err) < 0)
		return -1;
	return clone_image(p, &o, &made, err) < 0 ? -1 : EXIT_DONE;
}

int run_clone(int argc, char **argv)
{
	static const struct option options[] = {
		{ "count", required_argument, NULL, OPT_COUNT },
		{ "compat", no_argument, NULL, OPT_COMPAT },
		{ "assume-idle", no_argument, NULL, OPT_ASSUME_IDLE },
		POOL_OPTIONS,
		{ 0 },
	};

	return pool_job_run(argc, argv, &(struct pool_verb){ clone_help, options, 2, 2, act_clone });
}

/* ---- snapshot ---- */

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
		if (!(paths[i] = pool_job_image(j, j->words[i + 1], err)))
			return -1;
	if (j->quiesce && !j->live)
		return err_set(err, ERR_USAGE, "--quiesce says how a machine is treated that runs; it needs --live");
	if (pool_job_open_recovered(j, paths[0], true, &p, err) < 0)
		return -1;
	for (size_t i = 0; i < nr; i++) /* before any is noted */
		if (versions_check_names(p, paths[i], err) < 0)
			return -1;
	for (size_t i = 0; i < nr; i++)
		if (pool_job_know(p, paths[i], true, err) < 0)
			return -1;
	if ((j->live ? live_snapshot(p, &o, j->quiesce, &made, err) : versions_snapshot(p, &o, &made, err)) < 0)
		return -1;
	printf("version '%s': %zu disks sealed, %zu unchanged\n", o.label, made.nr_sealed, made.nr_unchanged);
	return EXIT_DONE;
}

int run_snapshot(int argc, char **argv)
{
	static const struct option options[] = {
		{ "live", no_argument, NULL, OPT_LIVE },
		{ "quiesce", no_argument, NULL, OPT_QUIESCE },
		{ "file", required_argument, NULL, OPT_FILE },
		{ "assume-idle", no_argument, NULL, OPT_ASSUME_IDLE },
		POOL_OPTIONS,
		{ 0 },
	};

	return pool_job_run(argc, argv, &(struct pool_verb){ snapshot_help, options, 2, INT_MAX, act_snapshot });
}

/* ---- rollback ---- */

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

	o.path = pool_job_version(j, j->words[0], &o.label, err);
	if (!o.path || needs_version(o.label, err) < 0 || pool_job_open_of(j, o.path, true, &p, err) < 0 ||
	    versions_rollback(p, &o, kept, err) < 0)
		return -1;
	if (kept[0])
		printf("what it was is kept as version '%s'\n", kept);
	return EXIT_DONE;
}

int run_rollback(int argc, char **argv)
{
	static const struct option options[] = {
		{ "discard", no_argument, NULL, OPT_DISCARD },
		{ "assume-idle", no_argument, NULL, OPT_ASSUME_IDLE },
		POOL_OPTIONS,
		{ 0 },
	};

	return pool_job_run(argc, argv, &(struct pool_verb){ rollback_help, options, 1, 1, act_rollback });
}

/* ---- list ---- */

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

struct list {
	bool begun, damaged;
};

static void begin_list(struct list *l)
{
	if (!l->begun)
		printf("%-16s  %10s  %10s  %s\n", "MADE", "DISK", "OWN", "IMAGE");
	l->begun = true;
}

static int show_row(void *ctx, const struct version_row *r, struct err *err)
{
	char path[4 * PATH_MAX], label[4 * 256], when[32] = "";
	struct tm tm;
	time_t made = (time_t)r->name->made;

	(void)err;
	begin_list(ctx);
	if (r->name->kind == NAME_VERSION && localtime_r(&made, &tm))
		strftime(when, sizeof(when), "%Y-%m-%d %H:%M", &tm);
	printf("%-16s  %10s  %10s  %s%s%s%s\n", when, term_size(r->disk->size), term_size(r->own_bytes),
	       term_safe(r->disk->path, path, sizeof(path)), r->name->kind == NAME_VERSION ? "@" : "",
	       r->name->kind == NAME_VERSION ? term_safe(r->name->label, label, sizeof(label)) : "", remark_on(r));
	return 0;
}

static int show_damaged_name(void *ctx, uint64_t number, const struct err *why, struct err *err)
{
	struct err told = ERR_INIT;
	struct list *l = ctx;

	(void)number;
	(void)err;
	err_set(&told, why->kind, "%s; dedupscan pool repair tells what to do", why->text);
	term_complain(&told);
	l->damaged = true;
	return 0;
}

static int act_list(struct pool_job *j, struct err *err)
{
	const char *word = j->nr_words ? j->words[0] : NULL, *path = NULL;
	CLEANUP(pool_close) struct pool *p = NULL;
	struct list l = { .begun = false };
	struct stat st;

	if (word && (stat(word, &st) < 0 || S_ISREG(st.st_mode))) {
		path = pool_job_image_or_gone(j, word, err);
		if (!path || pool_job_open_of(j, path, false, &p, err) < 0)
			return -1;
	} else if (pool_job_open(j, word, POOL_READ, &p, err) < 0) {
		return -1;
	}
	if (versions_list(p, path, show_row, show_damaged_name, &l, err) < 0)
		return -1;
	begin_list(&l);
	return l.damaged ? EXIT_SKIPS : EXIT_DONE;
}

int run_list(int argc, char **argv)
{
	static const struct option options[] = {
		POOL_OPTIONS, { 0 },
	};

	return pool_job_run(argc, argv, &(struct pool_verb){ list_help, options, 0, 1, act_list });
}

/* ---- diff ---- */

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
		const char *label, *path = pool_job_version(j, j->words[i], &label, err);

		if (!path || (!p && pool_job_open_of(j, path, false, &p, err) < 0) ||
		    pool_disk_find(p, path, label, &disks[i], err) < 0)
			return -1;
	}
	if (pool_diff(p, &disks[0], &disks[1], show_range, NULL, &sum, err) < 0)
		return -1;
	return sum.nr_ranges ? EXIT_SKIPS : EXIT_DONE;
}

int run_diff(int argc, char **argv)
{
	static const struct option options[] = {
		POOL_OPTIONS, { 0 },
	};

	return pool_job_run(argc, argv, &(struct pool_verb){ diff_help, options, 2, 2, act_diff });
}

/* ---- delete, prune ---- */

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
	const char *label, *path = pool_job_version(j, j->words[0], &label, err);
	CLEANUP(pool_close) struct pool *p = NULL;

	if (!path || needs_version(label, err) < 0 || pool_job_open_of(j, path, true, &p, err) < 0)
		return -1;
	return versions_delete(p, path, label, err) < 0 ? -1 : EXIT_DONE;
}

int run_delete(int argc, char **argv)
{
	static const struct option options[] = {
		POOL_OPTIONS, { 0 },
	};

	return pool_job_run(argc, argv, &(struct pool_verb){ delete_help, options, 1, 1, act_delete });
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
	printf("%-8s  %s\n", kept_by ? kept_by : j->apply ? "deleted" : "delete", term_safe(n->label, label, sizeof(label)));
	return 0;
}

static int act_prune(struct pool_job *j, struct err *err)
{
	struct prune_options o = {
		.keep_last = j->keep[0], .keep_daily = j->keep[1], .keep_weekly = j->keep[2], .keep_monthly = j->keep[3],
		.keep_yearly = j->keep[4], .apply = j->apply,
	};
	CLEANUP(pool_close) struct pool *p = NULL;

	o.path = pool_job_image_or_gone(j, j->words[0], err);
	if (!o.path || pool_job_open_of(j, o.path, true, &p, err) < 0)
		return -1;
	return versions_prune(p, &o, show_pruned, j, err) < 0 ? -1 : EXIT_DONE;
}

int run_prune(int argc, char **argv)
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

	return pool_job_run(argc, argv, &(struct pool_verb){ prune_help, options, 1, 1, act_prune });
}
