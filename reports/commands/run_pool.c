/* SPDX-License-Identifier: Apache-2.0 */
#include "reports/commands/commands.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "compactor/collect.h"
#include "compactor/pool/immutable.h"
#include "compactor/pool/pool_check.h"
#include "compactor/pool_status.h"
#include "compactor/repoint.h"
#include "compactor/stubs.h"
#include "compactor/versions.h"
#include "reports/commands/pool_job.h"
#include "reports/commands/terminal.h"
#include "scanner/base/checked.h"
#include "scanner/base/units.h"
#include "scanner/roots.h"

static const char pool_help[] =
	"usage: dedupscan pool status|collect|check|repair|set [OPTION]... [DIR]\n"
	"\n"
	"Looks after the pool of the images in DIR (the current directory), or at DIR, when that is\n"
	"a .dedupscan-pool.\n"
	"\n"
	"  status                what it holds, and what that takes\n"
	"  collect               give back space that nothing needs any more\n"
	"  check                 is it whole?\n"
	"  repair                rebuild what is damaged from what is whole\n"
	"  set                   have QEMU read otherwise what is in it: --aio, --l2-cache, --host-cache\n"
	"\n"
	"  --dry-run             collect, repair, set: only say what would be done\n"
	"  --drop-missing        collect: forget members whose image is not there any more\n"
	"  --evacuate PERCENT    collect: empty cluster files of which at most so much is in use (25; 0: none)\n"
	"  --read-data[=SHARE%]  check, repair: read and prove all data, too (check: or a share of it)\n"
	"  --immutable WHEN      repair: its files are immutable from now on: auto, never, always\n"
	"  --aio HOW             set: by threads, or by io_uring\n"
	"  --l2-cache SIZE       set: of tables QEMU may keep in memory for an image\n"
	"  --host-cache YES      set: guests with cache=none too read it through the page cache: yes, no\n"
	"  --assume-idle         set: nobody uses the images, where the file system cannot tell\n"
	"  --pool DIR            where the pool is, whatever it is called\n"
	"  --wait TIME           how long to wait while another dedupscan changes the pool (10s)\n"
	"  --memory SIZE         collect: at most so much memory (256M)\n"
	"\n"
	"Exit status: 0 done, it is whole; 1 there is damage; 2 usage; 3 failed; 4 in use; 75 stopped.\n";

static double percent(uint64_t part, uint64_t whole)
{
	return whole ? 100.0 * (double)part / (double)whole : 0;
}

/* Only where the pool was told something. */
static void tell_reading(const struct pool *p)
{
	const struct slice_reading r = stub_told(p), nothing = { 0 };

	if (slice_same_reading(&r, &nothing))
		return;
	printf("reading    %10s  by QEMU, of what enters", r.io_uring ? "io_uring" : "threads");
	if (r.l2)
		printf("; %s of tables in memory", term_size(r.l2));
	printf("%s\n", r.host ? "; through the host's page cache" : "");
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
	printf("%s: %llu images, %llu versions, %llu views\n", term_safe(p->path, path, sizeof(path)),
	       (unsigned long long)s.nr_members, (unsigned long long)s.nr_versions, (unsigned long long)s.nr_views);
	printf("disks      %10s  that are not zeros\n", term_size(s.logical));
	printf("distinct   %10s  of clusters hold them: %.1f : 1\n", term_size(s.distinct),
	       s.distinct ? (double)s.logical / (double)s.distinct : 1.0);
	printf("metadata   %10s  %.2f %% of that: tables %s, trees %s, index %s, stubs %s, names %s\n", term_size(metadata),
	       percent(metadata, s.distinct), term_size(s.tables), term_size(s.nodes), term_size(s.finder), term_size(s.stubs),
	       term_size(s.names));
	printf("sealed     %10s  in %llu overlays that wait to be folded in\n", term_size(s.sealed),
	       (unsigned long long)s.nr_sealed);
	if (s.nr_folded)
		printf("folded     %10s  in %llu overlays that were folded in; a collection removes them when nothing stands on them\n",
		       term_size(s.folded), (unsigned long long)s.nr_folded);
	printf("unreached  %10s  that a collection frees\n", term_size(s.unreached));
	printf("on disk    %10s  in %llu cluster file%s\n", term_size(s.on_disk), (unsigned long long)s.nr_files,
	       s.nr_files == 1 ? "" : "s");
	printf("room       %10s  and %llu views, until another cluster file begins\n", term_size(s.room),
	       (unsigned long long)s.nr_slots_left);
	tell_reading(p);
	printf("immutable  %10llu  of %llu files that nobody else is to change%s%s\n", (unsigned long long)s.immutable.nr_immutable,
	       (unsigned long long)s.immutable.nr_files, s.immutable.why ? ": " : "", s.immutable.why ? s.immutable.why : "");
	if (s.nr_given_away)
		printf("owners     %10llu  of these belong to another user than the pool, as libvirt does while guests run\n",
		       (unsigned long long)s.nr_given_away);
	return EXIT_DONE;
}

/* Without a pool it is only told. */
static int drop(struct pool *p, const struct name *n, const char *why, struct err *err)
{
	char path[4 * PATH_MAX];

	printf("'%s' %s\n", term_safe(n->disks.items[0].path, path, sizeof(path)), why);
	return p ? names_remove(p, n->number, err) : 0;
}

static int drop_member(void *ctx, const struct name *n, struct err *err)
{
	struct stat st;

	return drop(ctx, n, lstat(n->disks.items[0].path, &st) == 0 ? "is another image by now" : "is not there any more", err);
}

static int drop_expanded(void *ctx, const struct name *n, struct err *err)
{
	return drop(ctx, n, "was expanded, and what it was is not kept any more", err);
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

/* Names and stubs are of the path that it has. */
static int check_not_moved(struct pool *p, const char *what, struct err *err)
{
	char old[PATH_MAX];
	int rc = repoint_old_path(p, old, err);

	if (rc <= 0)
		return rc;
	return err_set(err, ERR_REFUSED, "the pool was at '%s'; dedupscan repoint has to come before %s", old, what);
}

static int drop_missing(struct pool_job *j, struct pool *p, struct err *err)
{
	return check_not_moved(p, "--drop-missing", err) < 0 ? -1 : /* else all would be missing */
	       versions_each_gone(p, drop_member, j->dry_run ? NULL : p, err);
}

static void tell_files(const struct pool_job *j, const struct collected *c)
{
	if (c->nr_files_removed)
		printf("%llu cluster files, in which nothing was in use any more, %s\n", (unsigned long long)c->nr_files_removed,
		       j->dry_run ? "would go" : "removed");
	if (c->nr_files_evacuated)
		printf("%llu cluster files %s: %s %s; the next collection removes them\n",
		       (unsigned long long)c->nr_files_evacuated, j->dry_run ? "would be evacuated" : "evacuated",
		       term_size(c->moved), j->dry_run ? "would be stored again" : "stored again");
	if (c->nr_not_moved)
		printf("%llu segments cannot be read and stay where they are; dedupscan pool check --read-data tells whom that hits\n",
		       (unsigned long long)c->nr_not_moved);
	if (c->nr_files_no_space)
		printf("%llu cluster files are to be evacuated, but the file system has no space for what is in use\n",
		       (unsigned long long)c->nr_files_no_space);
}

static int collect_among(struct pool_job *j, struct pool *p, const char **dirs, size_t nr_dirs, struct err *err)
{
	struct collect_options o = {
		.dirs = dirs, .nr_dirs = nr_dirs, .dry_run = j->dry_run, .memory = j->s.scan.memory, .evacuate = j->evacuate,
		.stopper = &term_stopper, .progress = term_stage,
	};
	struct collected c = { 0 };

	if ((!j->dry_run && versions_recover(p, err) < 0) ||
	    versions_each_expanded(p, drop_expanded, j->dry_run ? NULL : p, err) < 0 ||
	    (j->drop_missing && drop_missing(j, p, err) < 0) ||
	    pool_collect(p, &o, &c, err) < 0)
		return -1;
	term_clear();
	printf("%s %s; %s is in use\n", j->dry_run ? "a collection would free" : "freed", term_size(c.freed), term_size(c.live));
	if (c.small)
		printf("%s that nothing needs stays, in small pieces among what is in use\n", term_size(c.small));
	printf("%llu views removed, %llu go with the next collection\n", (unsigned long long)c.nr_removed,
	       (unsigned long long)c.nr_dying);
	tell_files(j, &c);
	return c.nr_not_moved ? EXIT_SKIPS : EXIT_DONE;
}

static int act_collect(struct pool_job *j, struct pool *p, struct err *err)
{
	size_t nr;
	const char **dirs = image_dirs(j, p, &nr, err);
	int rc = dirs ? collect_among(j, p, dirs, nr, err) : -1;

	if (dirs)
		free((char *)dirs[0]);
	free(dirs);
	return rc;
}

static int tell_damage(void *ctx, const struct pool_damage *d, struct err *err)
{
	static const char *const repair[] = { [REPAIR_MAY] = "; repair may rebuild it", [REPAIR_CAN] = "; repair can rebuild it" };
	char path[4 * PATH_MAX], text[4 * sizeof(d->what.text)];

	(void)ctx;
	(void)err;
	term_clear();
	printf("%s: %s", pool_part_names[d->part], term_safe(d->what.text, text, sizeof(text)));
	if (d->path[0])
		printf("; hits '%s'", term_safe(d->path, path, sizeof(path)));
	if (d->len)
		printf(" at %llu, %llu bytes", (unsigned long long)d->offset, (unsigned long long)d->len);
	puts(d->repairable ? repair[d->repairable] : "");
	return 0;
}

static int act_check(struct pool_job *j, struct pool *p, struct err *err)
{
	struct pool_check_options o = {
		.read_data = j->read_data, .percent = j->percent, .stopper = &term_stopper, .damage = tell_damage,
		.progress = term_stage,
	};
	struct pool_checked c = { 0 };

	if (pool_check(p, &o, &c, err) < 0)
		return -1;
	term_clear();
	printf("%llu names, %llu views, %llu nodes, %llu segments looked at, %s of data read: %llu damages\n",
	       (unsigned long long)c.nr_names, (unsigned long long)c.nr_views, (unsigned long long)c.nr_nodes,
	       (unsigned long long)c.nr_segments, term_size(c.bytes_read), (unsigned long long)c.nr_damages);
	return c.nr_damages ? EXIT_SKIPS : EXIT_DONE;
}

/* A directory that is a pool itself, whatever it is called. */
static bool is_pool(const char *dir)
{
	CLEANUP(close_fd) int fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);

	return fd >= 0 && roots_is_pool(fd);
}

static int act_verify_pool(struct pool_job *j, struct err *err)
{
	const char *word = j->nr_words ? j->words[0] : NULL;
	CLEANUP(pool_close) struct pool *p = NULL;

	if (!j->pool && word && is_pool(word))
		j->pool = word;
	if (j->s.idle)
		settings_be_idle();
	return pool_job_open(j, word, POOL_READ, &p, err) < 0 ? -1 : act_check(j, p, err);
}

int run_verify_pool(int argc, char **argv)
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

	return pool_job_run(argc, argv, &(struct pool_verb){ verify_help, options, 0, 1, act_verify_pool });
}

static int tell_repaired(void *ctx, const struct pool_damage *d, bool repaired, struct err *err)
{
	const struct pool_job *j = ctx;
	struct pool_damage told = *d;

	told.repairable = REPAIR_CANNOT; /* it is told how that went */
	tell_damage(NULL, &told, err);
	printf(!repaired ? "\tleft as it is\n" : j->dry_run ? "\tcan be repaired\n" : "\trepaired\n");
	return 0;
}

static int act_repair(struct pool_job *j, struct pool *p, struct err *err)
{
	struct pool_repair_options o = {
		.dry_run = j->dry_run, .read_data = j->read_data, .stopper = &term_stopper, .tell = tell_repaired,
		.progress = term_stage, .ctx = j,
	};
	char old[PATH_MAX], path[4 * PATH_MAX];
	uint64_t repaired = 0, left = 0;
	struct err why = ERR_INIT;
	int rc;

	if (j->tell_immutable && !j->dry_run && immutable_tell(p, j->immutable, err) < 0)
		return -1;
	rc = repoint_old_path(p, old, &why);
	if (rc < 0 && why.kind != ERR_FORMAT) /* else that is what is to be repaired */
		return err_set(err, why.kind, "%s", why.text);
	if (pool_repair(p, &o, &repaired, &left, err) < 0)
		return -1;
	term_clear();
	printf("%llu damages %s, %llu left%s\n", (unsigned long long)repaired, j->dry_run ? "could be repaired" : "repaired",
	       (unsigned long long)left, j->read_data ? "" : "; the data was not read (--read-data)");
	if (rc > 0)
		printf("the pool was at '%s'; images that name it there are not changed by this, but by dedupscan repoint\n",
		       term_safe(old, path, sizeof(path)));
	return left ? EXIT_SKIPS : EXIT_DONE;
}

static int act_set(struct pool_job *j, struct pool *p, struct err *err)
{
	struct stubs_options o = {
		.wish = j->stubs, .dry_run = j->dry_run, .assume_idle = j->assume_idle, .stopper = &term_stopper,
		.problem = term_problem,
	};
	struct stubs_set done = { 0 };
	int rc;

	if (check_not_moved(p, "pool set", err) < 0)
		return -1;
	rc = stubs_set(p, &o, &done, err);
	term_clear();
	printf("%llu views %s, %llu were right, %llu left as they are\n", (unsigned long long)done.nr_set,
	       j->dry_run ? "would be set" : "set", (unsigned long long)done.nr_right, (unsigned long long)done.nr_left);
	return rc < 0 ? -1 : done.nr_left ? EXIT_SKIPS : EXIT_DONE;
}

static const struct option pool_options[] = {
	{ "dry-run", no_argument, NULL, OPT_DRY_RUN },
	{ "drop-missing", no_argument, NULL, OPT_DROP_MISSING },
	{ "evacuate", required_argument, NULL, OPT_EVACUATE },
	{ "read-data", optional_argument, NULL, OPT_READ_DATA },
	{ "immutable", required_argument, NULL, OPT_IMMUTABLE },
	{ "memory", required_argument, NULL, OPT_MEMORY },
	{ "assume-idle", no_argument, NULL, OPT_ASSUME_IDLE },
	STUB_OPTIONS,
	POOL_OPTIONS,
	{ 0 },
};

struct verb {
	const char *name;
	enum pool_use use, dry_use; /* of --dry-run */
	int (*act)(struct pool_job *j, struct pool *p, struct err *err);
	int takes[5]; /* of the options, beside those that all take */
};

static bool takes(const struct verb *v, int opt)
{
	bool any = opt == OPT_POOL || opt == OPT_WAIT;

	for (size_t i = 0; i < ARRAY_SIZE(v->takes); i++)
		any = any || v->takes[i] == opt;
	return any;
}

static int check_options(const struct pool_job *j, const struct verb *v, struct err *err)
{
	char size[UNITS_SIZE_ROOM];

	for (size_t i = 0; pool_options[i].name; i++)
		if (j->given & 1u << i && !takes(v, pool_options[i].val))
			return err_set(err, ERR_USAGE, "pool %s has no option --%s", v->name, pool_options[i].name);
	if (j->s.scan.memory < COLLECT_MEMORY_MIN)
		return err_set(err, ERR_USAGE, "--memory must be at least %s",
			       units_size(COLLECT_MEMORY_MIN, size, sizeof(size)));
	if (v->act == act_repair && j->percent < 100)
		return err_set(err, ERR_USAGE, "pool repair reads all data, or none: --read-data");
	if (v->act == act_set && !j->stubs.l2 && !j->stubs.host && !j->stubs.aio)
		return err_set(err, ERR_USAGE, "pool set sets --aio, --l2-cache or --host-cache, and none is given");
	return 0;
}

static int act_pool(struct pool_job *j, struct err *err)
{
	static const struct verb verbs[] = {
		{ "status", POOL_READ, POOL_READ, act_status, { 0 } },
		{ "check", POOL_READ, POOL_READ, act_check, { OPT_READ_DATA } },
		{ "collect", POOL_CHANGE_RECOVERED, POOL_READ, act_collect,
		  { OPT_DRY_RUN, OPT_DROP_MISSING, OPT_EVACUATE, OPT_MEMORY } },
		{ "repair", POOL_REPAIR, POOL_REPAIR, act_repair, { OPT_DRY_RUN, OPT_READ_DATA, OPT_IMMUTABLE } },
		{ "set", POOL_CHANGE_RECOVERED, POOL_READ, act_set,
		  { OPT_DRY_RUN, OPT_ASSUME_IDLE, OPT_L2_CACHE, OPT_HOST_CACHE, OPT_AIO } },
	};
	CLEANUP(pool_close) struct pool *p = NULL;

	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++) {
		if (strcmp(j->words[0], verbs[i].name) != 0)
			continue;
		if (check_options(j, &verbs[i], err) < 0)
			return -1;
		if (pool_job_open(j, j->nr_words > 1 ? j->words[1] : NULL, j->dry_run ? verbs[i].dry_use : verbs[i].use,
				  &p, err) < 0)
			return -1;
		return verbs[i].act(j, p, err);
	}
	return err_set(err, ERR_USAGE, "'%s' is nothing that can be done with a pool", j->words[0]);
}

int run_pool(int argc, char **argv)
{
	return pool_job_run(argc, argv, &(struct pool_verb){ pool_help, pool_options, 1, 2, act_pool });
}
