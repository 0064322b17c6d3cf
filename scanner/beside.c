/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/beside.h"

#include <fts.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scanner/image/slice.h"

#define TRASH "/" ROOTS_WORKSHOP "/trash" /* compactor/workshop.h */

/* Of all files in it.  What cannot be looked at takes no space that could be told. */
static uint64_t disk_space(char *dir)
{
	FTS *fts = fts_open((char *[]){ dir, NULL }, FTS_PHYSICAL | FTS_XDEV | FTS_NOCHDIR, NULL);
	uint64_t sum = 0;

	for (FTSENT *e = fts ? fts_read(fts) : NULL; e; e = fts_read(fts))
		if (e->fts_info == FTS_F)
			sum += (uint64_t)e->fts_statp->st_blocks * 512;
	if (fts)
		fts_close(fts);
	return sum;
}

/* ---- pools ---- */

static int no_memory(struct err *err)
{
	return err_set(err, ERR_MEMORY, "no memory to count pools");
}

static int new_pool(struct tally *t, const char *path, struct err *err)
{
	struct pool_tally *more = reallocarray(t->pools, t->nr_pools + 1, sizeof(*more));
	struct pool_tally pool = { .path = strdup(path), .nr_images = 1 };

	t->pools = more ? more : t->pools;
	if (!more || !pool.path) {
		free(pool.path);
		return no_memory(err);
	}
	t->pools[t->nr_pools++] = pool;
	return 0;
}

/* The one that an image says it stands on: of one that is not there, or not among these directories, nothing is told. */
static int add_pool(const struct roots *roots, struct tally *t, const struct image_tally *i, struct err *err)
{
	struct slice s;

	if (i->error || slice_parse(i->backing, &s) <= 0 || !roots_pool_of(s.path, s.path))
		return 0;
	for (size_t k = 0; k < t->nr_pools; k++)
		if (strcmp(t->pools[k].path, s.path) == 0) {
			t->pools[k].nr_images++;
			return 0;
		}
	return roots_have_pool(roots, s.path) ? new_pool(t, s.path, err) : 0;
}

static int compare_pools(const void *a, const void *b)
{
	return strcmp(((const struct pool_tally *)a)->path, ((const struct pool_tally *)b)->path);
}

static void measure_pools(struct tally *t)
{
	if (t->nr_pools)
		qsort(t->pools, t->nr_pools, sizeof(t->pools[0]), compare_pools);
	for (size_t i = 0; i < t->nr_pools; i++)
		t->pools[i].file_used = disk_space(t->pools[i].path);
}

/* ---- originals ---- */

static size_t common_length(const char *a, const char *b)
{
	size_t len = 0;

	while (a[len] && a[len] == b[len])
		len++;
	return len;
}

/* The directories of an image, from that of its root on, which are not those of the image before. */
static void add_originals(const struct roots *roots, struct tally *t, const char *path, const char *before)
{
	size_t known = common_length(path, before);
	const char *name;
	const struct root *root = roots_find(roots, path, &name);
	const char *slash = !root ? NULL : root->file ? strrchr(path, '/') : path + strlen(root->path) - (root->path[1] == '\0');
	char dir[PATH_MAX + sizeof(TRASH)];

	for (; slash; slash = strchr(slash + 1, '/'))
		if ((size_t)(slash - path) >= known) {
			snprintf(dir, sizeof(dir), "%.*s" TRASH, (int)(slash - path), path);
			t->originals_used += disk_space(dir);
		}
}

int beside_tally(const struct roots *roots, struct tally *t, struct err *err)
{
	for (size_t i = 0; i < t->nr_images; i++) {
		if (add_pool(roots, t, &t->images[i], err) < 0)
			return -1;
		add_originals(roots, t, t->images[i].path, i ? t->images[i - 1].path : "");
	}
	measure_pools(t);
	return 0;
}
