/* SPDX-License-Identifier: Apache-2.0 */
#include "reports/commands/commands.h"

#include <stdio.h>

#include "compactor/repoint.h"
#include "reports/commands/pool_job.h"
#include "reports/commands/terminal.h"

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
	term_clear();
	printf("'%s'", term_safe(path, image, sizeof(image)));
	if (pool)
		printf(" named the pool at '%s'", term_safe(pool, other, sizeof(other)));
	if (was && pool)
		printf("; it");
	if (was && *was)
		printf(" was '%s'", term_safe(was, other, sizeof(other)));
	else if (was)
		printf(" is new to the pool");
	putchar('\n');
}

static int act_repoint(struct pool_job *j, struct err *err)
{
	struct repoint_options o = {
		.roots = &j->s.roots, .hold = { .assume_idle = j->assume_idle }, .dry_run = j->dry_run, .stopper = &term_stopper,
		.told = tell_repointed, .problem = term_problem, .ctx = j,
	};
	CLEANUP(pool_close) struct pool *p = NULL;
	struct repointed done = { 0 };
	char at[PATH_MAX + 2];
	int rc;

	for (int i = 0; i < j->nr_words; i++)
		if (roots_add(&j->s.roots, j->words[i], true, err) < 0)
			return -1;
	snprintf(at, sizeof(at), "%s%s", j->s.roots.list.items[0].path, j->s.roots.list.items[0].file ? "" : "/.");
	if (pool_job_open_recovered(j, at, true, &p, err) < 0)
		return -1;
	rc = pool_repoint(p, &o, &done, err);
	term_clear();
	printf("%s: %llu images, %llu sealed overlays and %llu stubs; %llu images noted, %llu left as they are\n",
	       j->dry_run ? "would be repointed" : "repointed", (unsigned long long)done.nr_images,
	       (unsigned long long)done.nr_sealed, (unsigned long long)done.nr_stubs, (unsigned long long)done.nr_noted,
	       (unsigned long long)done.nr_left);
	return rc < 0 ? -1 : done.nr_left ? EXIT_SKIPS : EXIT_DONE;
}

int run_repoint(int argc, char **argv)
{
	static const struct option options[] = {
		{ "dry-run", no_argument, NULL, OPT_DRY_RUN },
		{ "assume-idle", no_argument, NULL, OPT_ASSUME_IDLE },
		POOL_OPTIONS,
		{ 0 },
	};

	return pool_job_run(argc, argv, &(struct pool_verb){ repoint_help, options, 1, INT_MAX, act_repoint });
}
