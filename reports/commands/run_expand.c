/* SPDX-License-Identifier: Apache-2.0 */
#include "reports/commands/commands.h"

#include <stdlib.h>

#include "compactor/expand.h"
#include "reports/commands/pool_job.h"
#include "reports/commands/terminal.h"
#include "scanner/base/checked.h"

static const char expand_help[] =
	"usage: dedupscan expand [OPTION]... IMAGE...\n"
	"\n"
	"Makes each IMAGE independent of its pool again, in place: a qcow2 image with all its data.\n"
	"\n"
	"  --pool DIR            where its pool is, if the image cannot tell\n"
	"  --wait TIME           how long to wait while another dedupscan changes the pool (10s)\n"
	"  --keep-originals TIME keep what was there so long (7d; 0: not at all)\n"
	"  --assume-idle         nobody uses the images, where the file system cannot tell\n"
	"  --sandbox MODE        require (the default), best, or off: see dedupscan(1)\n"
	"\n"
	"Exit status: 0 done; 1 some images could not be expanded, or are in use; 2 usage; 3 failed;\n"
	"75 stopped.\n";

static void show_expanding(void *ctx, uint64_t done, uint64_t total)
{
	term_stage(ctx, "expanding", done, total);
}

/* Somebody may come into the workshop between its recovery and the expansion. */
static int expand(struct pool_job *j, const struct expand_options *o, const char *path, struct err *err)
{
	CLEANUP(pool_close) struct pool *p = NULL;

	return pool_job_open_recovered(j, path, true, &p, err) < 0 ? -1 : expand_image(p, o, path, err);
}

/* Each at its real path.  When one is not there nothing is done. */
static const char **find_images(struct pool_job *j, struct err *err)
{
	CLEANUP(free) const char **paths = calloc((size_t)j->nr_words, sizeof(*paths));

	if (!paths)
		return err_null(err, ERR_MEMORY, "no memory for paths");
	for (int i = 0; i < j->nr_words; i++)
		if (!(paths[i] = pool_job_image(j, j->words[i], err)))
			return NULL;
	return STEAL(paths);
}

static int act_expand(struct pool_job *j, struct err *err)
{
	CLEANUP(free) const char **paths = find_images(j, err);
	struct expand_options o = {
		.roots = &j->s.roots, .jail = &j->jail, .stopper = &term_stopper,
		.keep_originals = j->keep_originals, .assume_idle = j->assume_idle, .progress = show_expanding, .problem = term_problem,
	};
	int status = EXIT_DONE;

	if (!paths)
		return -1;
	for (int i = 0; i < j->nr_words; i++) {
		uint64_t until = lock_file_patience(j->wait);
		struct err why = ERR_INIT;
		int rc;

		do {
			rc = expand(j, &o, paths[i], &why);
		} while (rc < 0 && term_try_again(&why, until));
		if (rc == 0)
			continue;
		if (why.kind == ERR_CANCELED || (why.kind == ERR_USAGE && i == 0)) {
			*err = why;
			return -1;
		}
		term_problem(NULL, j->words[i], &why);
		status = EXIT_SKIPS;
	}
	return status;
}

int run_expand(int argc, char **argv)
{
	static const struct option options[] = {
		{ "keep-originals", required_argument, NULL, OPT_KEEP_ORIGINALS },
		{ "assume-idle", no_argument, NULL, OPT_ASSUME_IDLE },
		{ "sandbox", required_argument, NULL, OPT_SANDBOX },
		POOL_OPTIONS,
		{ 0 },
	};

	return pool_job_run(argc, argv, &(struct pool_verb){ expand_help, options, 1, INT_MAX, act_expand });
}
