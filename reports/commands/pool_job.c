/* SPDX-License-Identifier: Apache-2.0 */
#include "reports/commands/pool_job.h"

#include <errno.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "compactor/clone.h"
#include "compactor/collect.h"
#include "compactor/compact.h"
#include "compactor/pool_home.h"
#include "compactor/repoint.h"
#include "compactor/versions.h"
#include "compactor/workshop.h"
#include "reports/commands/terminal.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/base/lock_file.h"
#include "scanner/base/units.h"

/* ---- options ---- */

static int add_kept_file(struct pool_job *j, const char *arg, struct err *err)
{
	char *path = realpath(arg, NULL);

	if (!path)
		return err_named(err, "cannot find '%s'", arg);
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

static int set_count(struct pool_job *j, const char *arg, struct err *err)
{
	if (option_count(arg, CLONE_COUNT_MAX, &j->count, err) < 0)
		return -1;
	return j->count ? 0 : err_set(err, ERR_USAGE, "--count 0 would make no clone");
}

static int pool_option(struct pool_job *j, int opt, const char *arg, struct err *err)
{
	switch (opt) {
	case OPT_POOL:
		j->pool = arg;
		return 0;
	case OPT_KEEP_ORIGINALS:
		return option_seconds(&j->keep_originals, arg, err);
	case OPT_WAIT:
		return option_seconds(&j->wait, arg, err);
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
	case OPT_EVACUATE:
		return option_count(arg, 100, &j->evacuate, err);
	case OPT_READ_DATA:
		return set_read_data(j, arg, err);
	case OPT_APPLY:
		j->apply = true;
		return 0;
	case OPT_COUNT:
		return set_count(j, arg, err);
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
	case OPT_L2_CACHE: case OPT_HOST_CACHE: case OPT_AIO:
		return option_stub(&j->stubs, opt, arg, err);
	case OPT_IMMUTABLE:
		return option_immutable(&j->immutable, &j->tell_immutable, arg, err);
	case OPT_KEEP: case OPT_KEEP + 1: case OPT_KEEP + 2: case OPT_KEEP + 3: case OPT_KEEP + 4:
		return option_count(arg, 1000000, &j->keep[opt - OPT_KEEP], err);
	default:
		return settings_option(&j->s, opt, arg, err);
	}
}

static int parse_pool_job(struct pool_job *j, const struct pool_verb *v, int argc, char **argv, struct err *err)
{
	int opt, which = 0;

	settings_init(&j->s);
	j->keep_originals = COMPACT_KEEP_ORIGINALS;
	j->wait = SETTINGS_WAIT;
	j->percent = 100;
	j->evacuate = COLLECT_EVACUATE;
	while ((opt = getopt_long(argc, argv, "", v->options, &which)) != -1) {
		if (pool_option(j, opt, optarg, err) < 0)
			return -1;
		j->given |= 1u << which;
	}
	j->words = argv + optind;
	j->nr_words = argc - optind;
	if (j->s.help)
		return 0;
	if (j->nr_words < v->least)
		return err_set(err, ERR_USAGE, "too few arguments");
	if (j->nr_words > v->most)
		return err_set(err, ERR_USAGE, "too many arguments, from '%s' on", j->words[v->most]);
	return settings_plan_jail(j->s.sandbox, &j->jail, err);
}

int pool_job_run(int argc, char **argv, const struct pool_verb *v)
{
	struct pool_job j = { .nr_words = 0 };
	struct err err = ERR_INIT;
	int status;

	if (parse_pool_job(&j, v, argc, argv, &err) < 0) {
		status = term_cannot_begin(&err);
	} else if (j.s.help) {
		fputs(v->help, stdout);
		status = term_printed(EXIT_DONE);
	} else {
		status = v->act(&j, &err);
		term_clear();
		status = term_printed(status < 0 ? term_fail(&err) : status);
	}
	for (size_t i = 0; i < j.files.nr; i++)
		free(j.files.items[i]);
	vec_release(&j.files);
	roots_release(&j.s.roots);
	return status;
}

/* ---- what is named ---- */

int pool_job_new_path(const char *word, char ret[PATH_MAX], struct err *err)
{
	CLEANUP(free) char *copy = strdup(word);
	CLEANUP(free) char *dir = copy ? realpath(dirname(copy), NULL) : NULL;

	if (!dir)
		return err_named(err, "cannot find the directory of '%s'", word);
	if (snprintf(ret, PATH_MAX, "%s/%s", strcmp(dir, "/") == 0 ? "" : dir, file_last_part(word)) >= PATH_MAX)
		return err_set(err, ERR_USAGE, "the path '%s' is too long", word);
	if (roots_are_ours(ret))
		return err_set(err, ERR_USAGE, "'%s' would lie among files of dedupscan's own; name another directory", word);
	return *file_last_part(word) ? 0 : err_set(err, ERR_USAGE, "'%s' names no file", word);
}

const char *pool_job_image(struct pool_job *j, const char *word, struct err *err)
{
	size_t nr = j->s.roots.list.nr;

	return settings_add_image(&j->s.roots, word, err) < 0 ? NULL : j->s.roots.list.items[nr].path;
}

/* An image of which versions are wanted: it may be gone. */
const char *pool_job_image_or_gone(struct pool_job *j, const char *word, struct err *err)
{
	struct stat st;

	if (lstat(word, &st) == 0 || errno != ENOENT || j->nr_gone == ARRAY_SIZE(j->gone))
		return pool_job_image(j, word, err);
	return pool_job_new_path(word, j->gone[j->nr_gone++], err) < 0 ? NULL : j->gone[j->nr_gone - 1];
}

const char *pool_job_version(struct pool_job *j, char *word, const char **ret_label, struct err *err)
{
	char *at = strrchr(word, '@');
	struct stat st;

	*ret_label = NULL;
	if (at && stat(word, &st) < 0) { /* it is no name with a '@' in it */
		*at = '\0';
		*ret_label = at + 1;
		return pool_job_image_or_gone(j, word, err);
	}
	return pool_job_image(j, word, err);
}

/* ---- the pool ---- */

/* Finishes what stands in the middle in the workshops of the directories named. */
static int recover_workshops(struct pool_job *j, struct err *err)
{
	for (size_t i = 0; i < j->s.roots.list.nr; i++) {
		CLEANUP(workshop_close) struct workshop *w = NULL;
		struct recovery done;
		const char *name;

		if (!j->s.roots.list.items[i].walked || workshop_open_above(&j->s.roots.list.items[i], &w, &name, err) < 0 ||
		    (w && workshop_recover(w, term_problem, NULL, &done, err) < 0)) {
			if (j->s.roots.list.items[i].walked)
				return -1;
		}
	}
	return 0;
}

static int try_pool(struct pool_job *j, const char *told, enum pool_use use, struct pool **ret, struct err *err)
{
	CLEANUP(pool_close) struct pool *p = NULL;
	enum pool_access access = use == POOL_READ ? POOL_TO_READ : use == POOL_REPAIR ? POOL_TO_REPAIR : POOL_TO_WRITE;
	int rc = told ? pool_home_of(&j->s.roots, "/", told, access, &p, err) :
			pool_home_open(&j->s.roots, NULL, access, false, POOL_MEMORY, &p, err);

	if (rc < 0 || (use == POOL_CHANGE_RECOVERED && recover_workshops(j, err) < 0))
		return -1;
	if (p)
		p->stopper = &term_stopper;
	*ret = STEAL(p);
	return 0;
}

int pool_job_open(struct pool_job *j, const char *word, enum pool_use use, struct pool **ret, struct err *err)
{
	uint64_t until = lock_file_patience(j->wait);
	const char *told;
	struct stat st;
	int rc;

	if (!word && !j->pool)
		word = ".";
	if (j->pool && word && word != j->pool && roots_add(&j->s.roots, word, true, err) < 0)
		return -1;
	told = j->pool ? j->pool :
	       stat(word, &st) == 0 && S_ISDIR(st.st_mode) && strcmp(file_last_part(word), POOL_NAME) == 0 ? word : NULL;
	if (!told && roots_add(&j->s.roots, word, true, err) < 0)
		return -1;
	do {
		rc = try_pool(j, told, use, ret, err);
	} while (rc < 0 && term_try_again(err, until));
	term_clear();
	return rc < 0 ? -1 : *ret ? 0 : err_set(err, ERR_USAGE, "'%s' holds no pool", word);
}

static int try_pool_of(struct pool_job *j, const char *path, bool writing, struct pool **ret, struct err *err)
{
	CLEANUP(pool_close) struct pool *p = NULL;

	if (pool_home_of(&j->s.roots, path, j->pool, writing ? POOL_TO_WRITE : POOL_TO_READ, &p, err) < 0 ||
	    (writing && recover_workshops(j, err) < 0))
		return -1;
	p->stopper = &term_stopper;
	*ret = STEAL(p);
	return 0;
}

int pool_job_open_recovered(struct pool_job *j, const char *path, bool writing, struct pool **ret, struct err *err)
{
	uint64_t until = lock_file_patience(j->wait);
	int rc;

	do {
		rc = try_pool_of(j, path, writing, ret, err);
	} while (rc < 0 && term_try_again(err, until));
	term_clear();
	return rc < 0 || (writing && versions_recover(*ret, err) < 0) ? -1 : 0;
}

/* One that was moved is noted where it is. */
int pool_job_know(struct pool *p, const char *path, bool writing, struct err *err)
{
	if (repoint_check(p, path, err) < 0)
		return -1;
	return writing && (versions_check_names(p, path, err) < 0 || versions_adopt(p, path, err) < 0) ? -1 : 0;
}

int pool_job_open_of(struct pool_job *j, const char *path, bool writing, struct pool **ret, struct err *err)
{
	return pool_job_open_recovered(j, path, writing, ret, err) < 0 ? -1 : pool_job_know(*ret, path, writing, err);
}
