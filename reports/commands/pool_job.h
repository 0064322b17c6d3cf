/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_POOL_JOB_H
#define DEDUPSCAN_POOL_JOB_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "compactor/pool/pool.h"
#include "reports/commands/settings.h"
#include "scanner/base/vec.h"

/* What commands on pools share: their options, the images and files that are named, and the pool of these. */

enum {
	OPT_COUNT = 600, OPT_DRY_RUN, OPT_DROP_MISSING, OPT_READ_DATA, OPT_KIND, OPT_DISCARD, OPT_FILE, OPT_LIVE, OPT_QUIESCE,
	OPT_EVACUATE, OPT_KEEP
};

/* What all of them take that open one pool. */
#define POOL_OPTIONS                                                                                                   \
	{ "pool", required_argument, NULL, OPT_POOL }, { "wait", required_argument, NULL, OPT_WAIT },                  \
	{ "help", no_argument, NULL, OPT_HELP }

/* What all commands on pools share; each takes some of the options. */
struct pool_job {
	struct settings s; /* its roots are the images named, and their directories */
	struct jail jail;
	const char *pool, *kind, *format;
	uint64_t cluster_size;
	int64_t keep_originals, wait; /* seconds */
	bool apply, dry_run, drop_missing, read_data, assume_idle, discard, compat, live, quiesce, tell_immutable;
	enum pool_immutable immutable;
	struct stub_wish stubs;
	double percent; /* of the data that is read */
	unsigned evacuate; /* percent */
	unsigned count, keep[5]; /* last, daily, weekly, monthly, yearly */
	VEC(char *) files; /* real paths, to be freed */
	uint32_t given; /* which of the options, by their place in the table */
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

int pool_job_run(int argc, char **argv, const struct pool_verb *v);

/* An image that was named, at its real path; or one that may be gone. */
const char *pool_job_image(struct pool_job *j, const char *word, struct err *err);
const char *pool_job_image_or_gone(struct pool_job *j, const char *word, struct err *err);
/* IMAGE or IMAGE@VERSION: the image's real path, and the label or NULL; the word is cut. */
const char *pool_job_version(struct pool_job *j, char *word, const char **ret_label, struct err *err);
/* Where a new file is to be: its directory must be there. */
int pool_job_new_path(const char *word, char ret[PATH_MAX], struct err *err);

enum pool_use { POOL_READ, POOL_REPAIR, POOL_CHANGE_RECOVERED };

/* The pool that a command is about: the word's, --pool's, or that of the directory at hand.  _RECOVERED: what stands in the middle
 * in the workshops of the directories named is finished. */
int pool_job_open(struct pool_job *j, const char *word, enum pool_use use, struct pool **ret, struct err *err);
/* The pool of an image, and what was left there in the middle is finished; the second one knows the image afterwards, wherever
 * it is now. */
int pool_job_open_recovered(struct pool_job *j, const char *path, bool writing, struct pool **ret, struct err *err);
int pool_job_open_of(struct pool_job *j, const char *path, bool writing, struct pool **ret, struct err *err);
int pool_job_know(struct pool *p, const char *path, bool writing, struct err *err);

#endif
