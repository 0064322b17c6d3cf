/* SPDX-License-Identifier: Apache-2.0 */
#include "reports/commands/commands.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "compactor/pool_home.h"
#include "compactor/repoint.h"
#include "compactor/versions.h"
#include "compactor/workshop.h"
#include "reports/commands/settings.h"
#include "reports/commands/terminal.h"
#include "scanner/base/lock_file.h"
#include "scanner/base/units.h"

static const char recover_help[] =
	"usage: dedupscan recover [OPTION]... PATH...\n"
	"\n"
	"Finishes or rolls back what an interrupted compaction of each PATH, or change of its pool,\n"
	"left, and removes originals of rewritten images whose time is over.\n"
	"\n"
	"  --undo                put kept originals back; of one image, when PATH is an image\n"
	"  --pool DIR            where the pool is, when it was moved and is not above PATH\n"
	"  --wait TIME           wait so long for another dedupscan that is at work there (10s)\n"
	"  --purge               remove all kept originals now\n"
	"\n"
	"Exit status: 0 done; 1 done, but something needs your eyes; 2 usage; 3 failed; 4 in use.\n";

struct recover {
	struct roots roots;
	const char *pool;
	const struct root *root; /* at hand */
	int64_t wait;		 /* seconds */
	bool undo, purge, help, unclear;
};

static void tell_unclear(void *ctx, const char *path, const struct err *why)
{
	struct recover *r = ctx;

	r->unclear = true;
	term_problem(NULL, path, why);
}

static int open_recovered(struct recover *r, bool writing, struct pool **ret, struct err *err)
{
	char at[PATH_MAX + 2];

	snprintf(at, sizeof(at), "%s%s", r->root->path, r->root->file ? "" : "/.");
	return pool_home_of(&r->roots, at, r->pool, writing ? POOL_TO_WRITE : POOL_TO_READ, ret, err);
}

/* An original stands on a pool that was moved. */
static int mend_original(void *ctx, int fd, struct err *err)
{
	CLEANUP(pool_close) struct pool *p = NULL;

	return open_recovered(ctx, false, &p, err) < 0 ? -1 : repoint_file(p, fd, err);
}

static int open_workshop(const struct recover *r, const struct root *root, struct workshop **ret, const char **ret_name,
			 struct err *err)
{
	uint64_t until = lock_file_patience(r->wait);
	int rc;

	do {
		rc = workshop_open_above(root, ret, ret_name, err);
	} while (rc < 0 && term_try_again(err, until));
	term_clear();
	return rc;
}

static int recover_root(struct recover *r, const struct root *root, struct err *err)
{
	CLEANUP(workshop_close) struct workshop *w = NULL;
	char size[UNITS_SIZE_ROOM], path[4 * PATH_MAX];
	struct recovery done = { 0 };
	struct err why = ERR_INIT;
	uint64_t nr = 0, bytes = 0;
	const char *name;

	if (open_workshop(r, root, &w, &name, err) < 0)
		return -1;
	term_safe(root->path, path, sizeof(path));
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
		{ "wait", required_argument, NULL, OPT_WAIT },
		{ "purge", no_argument, NULL, OPT_PURGE },
		{ "help", no_argument, NULL, OPT_HELP },
		{ 0 },
	};
	int opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		r->undo |= opt == OPT_UNDO;
		r->pool = opt == OPT_POOL ? optarg : r->pool;
		r->purge |= opt == OPT_PURGE;
		r->help |= opt == OPT_HELP;
		if (opt == '?')
			return err_set(err, ERR_USAGE, "%s", "");
		if (opt == OPT_WAIT && option_seconds(&r->wait, optarg, err) < 0)
			return -1;
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
	uint64_t until = lock_file_patience(r->wait);
	struct err why = ERR_INIT;
	int rc;

	do {
		rc = open_recovered(r, true, &p, &why);
	} while (rc < 0 && term_try_again(&why, until));
	term_clear();
	if (rc == 0)
		return versions_recover(p, err);
	if (why.kind == ERR_USAGE && !r->pool)
		return 0;
	*err = why;
	return -1;
}

int run_recover(int argc, char **argv)
{
	struct recover r = { .wait = SETTINGS_WAIT };
	struct err err = ERR_INIT;
	int status = EXIT_DONE;

	if (parse_recover(&r, argc, argv, &err) < 0) {
		status = term_cannot_begin(&err);
	} else if (r.help) {
		fputs(recover_help, stdout);
		status = term_printed(EXIT_DONE);
	} else {
		for (size_t i = 0; i < r.roots.list.nr && status == EXIT_DONE; i++) {
			r.root = &r.roots.list.items[i];
			if (recover_root(&r, r.root, &err) < 0 || recover_pool(&r, &err) < 0)
				status = term_fail(&err);
		}
		status = term_printed(status == EXIT_DONE && r.unclear ? EXIT_SKIPS : status);
	}
	roots_release(&r.roots);
	return status;
}
