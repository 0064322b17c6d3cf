/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "compactor/pool/feed.h"
#include "compactor/pool/import.h"
#include "compactor/pool/tree.h"
#include "compactor/pool/view.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/base/jail.h"
#include "scanner/roots.h"

/* A pool by hand:
 *
 *	pooltool create POOL
 *	pooltool import POOL [--unit BITS] [--min-run BYTES] [--beneath DIR] [--base ROOT SIZE] IMAGE...
 *	pooltool export POOL ROOT SIZE FILE	raw, sparse
 *	pooltool view POOL ROOT SIZE BITS	prints its id
 *	pooltool overlay POOL ID FILE		an empty image on that view
 *
 * Importing reads the images in the jail and prints an object of JSON for each; files that one names must lie beneath DIR, or in
 * its directory.  With --base only what an image's own file holds is read, the rest is as in that tree, which is its backing
 * file's. */

struct importing {
	struct pool *pool;
	struct import_options options;
	const char *beneath;
	const uint8_t *base; /* NULL = none */
	uint64_t base_size;
	struct import *import;
	uint64_t size;
};

/* The directory that a path's last name is in, and that name. */
static int open_parent(const char *path, const char **ret_name, struct err *err)
{
	CLEANUP(free) char *dir = strdup(path);
	char *slash = dir ? strrchr(dir, '/') : NULL;

	if (slash)
		*slash = '\0';
	*ret_name = slash ? path + (slash - dir) + 1 : path;
	return file_open(AT_FDCWD, !slash ? "." : *dir ? dir : "/", O_RDONLY | O_DIRECTORY, 0, err);
}

static int create_pool(const char *path, struct err *err)
{
	const char *name;
	int dirfd = open_parent(path, &name, err), rc;

	if (dirfd < 0)
		return -1;
	rc = pool_create(dirfd, name, err);
	file_close(dirfd, path, NULL);
	return rc;
}

static int open_pool(const char *path, bool writing, struct pool **ret, struct err *err)
{
	CLEANUP(free) char *real = realpath(path, NULL);
	const char *name;
	int dirfd, rc;

	if (!real)
		return err_errno(err, "'%s'", path);
	dirfd = open_parent(real, &name, err);
	if (dirfd < 0)
		return -1;
	rc = pool_open(dirfd, name, real, writing, ret, err);
	file_close(dirfd, real, NULL);
	return rc == 0 && !*ret ? err_set(err, ERR_IO, "there is no pool at '%s'", path) : rc;
}

static int parse_root(char **args, uint8_t ret[DIGEST_SIZE], uint64_t *ret_size, struct err *err)
{
	if (!digest_parse(args[0], ret))
		return err_set(err, ERR_USAGE, "'%s' is no digest", args[0]);
	*ret_size = strtoull(args[1], NULL, 10);
	return 0;
}

/* ---- import ---- */

static int take_size(void *ctx, uint64_t size, struct err *err)
{
	struct importing *g = ctx;

	g->size = size;
	g->import = import_new(g->pool, size, &g->options, g->base, g->base_size, err);
	return g->import ? 0 : -1;
}

static int take_segment(void *ctx, uint64_t segment, const void *bytes, struct err *err)
{
	struct importing *g = ctx;

	return import_segment(g->import, segment, bytes, err);
}

static int take_own(void *ctx, uint64_t segment, const void *bytes, const struct sectors *own, struct err *err)
{
	struct importing *g = ctx;

	return import_own(g->import, segment, bytes, own, err);
}

static int feed_image(struct importing *g, const char *path, struct err *err)
{
	struct roots roots = { 0 };
	struct jail jail;
	struct feed f = {
		.roots = &roots, .jail = &jail, .size = take_size, .segment = take_segment,
		.own = g->base ? take_own : NULL, .ctx = g,
	};
	char dir[4096];
	int fd, rc;

	snprintf(dir, sizeof(dir), "%s", path);
	if (strrchr(dir, '/'))
		*strrchr(dir, '/') = '\0';
	else
		strcpy(dir, ".");
	fd = file_open(AT_FDCWD, path, O_RDONLY, 0, err);
	if (fd < 0 || jail_plan(&jail, JAIL_BEST, err) < 0 || roots_add(&roots, g->beneath ? g->beneath : dir, false, err) < 0 ||
	    roots_add_pool(&roots, g->pool->path, err) < 0)
		return -1;
	rc = feed_run(&f, fd, path, err);
	file_close(fd, path, NULL);
	roots_release(&roots);
	return rc;
}

static int import_image(struct importing *g, const char *path, struct err *err)
{
	char text[DIGEST_TEXT_ROOM];
	uint8_t root[DIGEST_SIZE];
	struct import_stats s;
	int rc = feed_image(g, path, err);

	if (rc == 0 && g->base)
		rc = import_same(g->import, div_up(g->size, SEGMENT_SIZE), err);
	if (rc == 0)
		rc = import_end(g->import, root, &s, err);
	import_free(STEAL(g->import));
	if (rc < 0 || pool_sync(g->pool, err) < 0)
		return err_add(err, "'%s'", path);
	printf("{\"root\": \"%s\", \"size\": %" PRIu64 ", \"bytes\": %" PRIu64 ", \"zeros\": %" PRIu64
	       ", \"shared_segments\": %" PRIu64 ", \"shared_runs\": %" PRIu64
	       ", \"stored\": %" PRIu64 ", \"short_matches\": %" PRIu64 ", \"forged\": %" PRIu64
	       ", \"damaged\": %" PRIu64 "}\n",
	       digest_text(root, text), g->size, s.bytes, s.zeros, s.shared_segments, s.shared_runs, s.stored, s.short_matches,
	       s.forged, s.damaged);
	return 0;
}

static int run_import(struct pool *pool, char **args, struct err *err)
{
	struct importing g = { .pool = pool, .options = { .unit_bits = 12, .min_run = 16 * KIB } };
	uint8_t base[DIGEST_SIZE];

	for (; *args && strncmp(*args, "--", 2) == 0; args += 2) {
		if (!args[1])
			return err_set(err, ERR_USAGE, "%s needs a value", *args);
		if (strcmp(*args, "--unit") == 0) {
			g.options.unit_bits = (unsigned)atoi(args[1]);
		} else if (strcmp(*args, "--min-run") == 0) {
			g.options.min_run = strtoull(args[1], NULL, 10);
		} else if (strcmp(*args, "--beneath") == 0) {
			g.beneath = args[1];
		} else if (strcmp(*args, "--base") == 0 && args[2]) {
			if (parse_root(args + 1, base, &g.base_size, err) < 0)
				return -1;
			g.base = base;
			args++;
		} else {
			return err_set(err, ERR_USAGE, "unknown option %s", *args);
		}
	}
	for (; *args; args++)
		if (import_image(&g, *args, err) < 0)
			return -1;
	return 0;
}

/* ---- export ---- */

static int export_segments(struct pool *pool, struct tree_walk *w, uint64_t size, int fd, uint8_t *buf, struct err *err)
{
	uint8_t digest[DIGEST_SIZE];
	uint64_t at;
	int rc;

	for (uint64_t next = 0; (rc = tree_walk_next(w, next, &at, digest, err)) > 0; next = at + 1) {
		if (tree_read_segment(pool->nodes, pool->clusters, digest, buf, err) < 0 ||
		    file_write(fd, buf, min_u64(SEGMENT_SIZE, size - at * SEGMENT_SIZE), at * SEGMENT_SIZE, err) < 0)
			return -1;
	}
	return rc;
}

static int run_export(struct pool *pool, char **args, struct err *err)
{
	CLEANUP(free) uint8_t *buf = malloc(SEGMENT_SIZE);
	CLEANUP(tree_walk_free) struct tree_walk *w = NULL;
	uint8_t root[DIGEST_SIZE];
	uint64_t size = 0;
	int fd, rc;

	if (!buf || parse_root(args, root, &size, err) < 0 || !(w = tree_walk_new(pool->nodes, root, size, err)))
		return -1;
	fd = file_open(AT_FDCWD, args[2], O_WRONLY | O_CREAT | O_TRUNC, 0600, err);
	if (fd < 0)
		return -1;
	rc = file_truncate(fd, size, err) < 0 ? -1 : export_segments(pool, w, size, fd, buf, err);
	file_close(fd, args[2], NULL);
	return rc;
}

/* ---- views ---- */

static int run_view(struct pool *pool, char **args, struct err *err)
{
	char text[POOL_ID_TEXT_ROOM];
	uint8_t root[DIGEST_SIZE];
	struct view v;
	uint64_t size = 0;

	if (parse_root(args, root, &size, err) < 0 || view_write(pool, root, size, (unsigned)atoi(args[2]), &v, err) < 0)
		return -1;
	printf("%s\n", pool_id_text(v.id, text));
	return 0;
}

static int run_overlay(struct pool *pool, char **args, struct err *err)
{
	const struct overlay_options o = { 0 };
	uint8_t id[POOL_ID_SIZE];
	struct slice backing;
	struct view v;
	int fd, rc;

	if (!pool_id_parse(args[0], id))
		return err_set(err, ERR_USAGE, "'%s' is no id", args[0]);
	rc = view_find(pool, id, &v, err);
	if (rc <= 0)
		return rc < 0 ? -1 : err_set(err, ERR_IO, "there is no view %s", args[0]);
	if (view_backing(pool, &v, &backing, err) < 0)
		return -1;
	fd = file_open(AT_FDCWD, args[1], O_RDWR | O_CREAT | O_EXCL, 0600, err);
	if (fd < 0)
		return -1;
	rc = overlay_write(fd, v.disk_size, &backing, &o, err);
	file_close(fd, args[1], NULL);
	return rc;
}

/* ---- all ---- */

static const struct {
	const char *name;
	int nr_args; /* at least, behind POOL */
	bool writing;
	int (*run)(struct pool *pool, char **args, struct err *err);
} verbs[] = {
	{ "import", 1, true, run_import },
	{ "export", 3, false, run_export },
	{ "view", 3, true, run_view },
	{ "overlay", 2, false, run_overlay },
};

static int run(int argc, char **argv, struct err *err)
{
	CLEANUP(pool_close) struct pool *pool = NULL;

	if (argc == 3 && strcmp(argv[1], "create") == 0)
		return create_pool(argv[2], err);
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++) {
		if (argc < 3 + verbs[i].nr_args || strcmp(argv[1], verbs[i].name) != 0)
			continue;
		if (open_pool(argv[2], verbs[i].writing, &pool, err) < 0)
			return -1;
		return verbs[i].run(pool, argv + 3, err);
	}
	return err_set(err, ERR_USAGE, "pooltool create|import|export|view|overlay POOL ...");
}

int main(int argc, char **argv)
{
	struct err err = ERR_INIT;

	if (run(argc, argv, &err) == 0)
		return 0;
	fprintf(stderr, "%s: %s\n", err_kind_name(err.kind), err.text);
	return err.kind == ERR_USAGE ? 2 : 1;
}
