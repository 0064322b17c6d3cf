/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "compactor/clone.h"
#include "compactor/member.h"
#include "compactor/pool/feed.h"
#include "compactor/pool/import.h"
#include "compactor/pool_diff.h"
#include "compactor/versions.h"
#include "compactor/workshop.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/base/jail.h"
#include "scanner/roots.h"

/* Versions by hand, of a pool that pooltool makes.  Paths are absolute.
 *
 *	versiontool member POOL IMAGE			an overlay on a view becomes a member
 *	versiontool snapshot POOL LABEL IMAGE...	and with --file FILE
 *	versiontool rollback POOL IMAGE LABEL [--discard]
 *	versiontool clone POOL IMAGE LABEL NEW [COUNT]	LABEL - = as it is
 *	versiontool list POOL [IMAGE]
 *	versiontool delete POOL IMAGE LABEL
 *	versiontool prune POOL IMAGE LAST DAILY WEEKLY [apply]
 *	versiontool fold POOL				what is sealed
 *	versiontool repoint POOL ROOT
 *	versiontool diff POOL IMAGE LABEL IMAGE LABEL
 *	versiontool adopt POOL IMAGE
 *	versiontool forget POOL				those that are gone
 *	versiontool recover POOL */

static struct versions_how how;

static struct pool *open_pool(const char *path, struct err *err)
{
	CLEANUP(free) char *dir = strdup(path);
	const char *name = strrchr(path, '/') + 1;
	struct pool *p = NULL;
	int dirfd;

	dir[name - path - 1] = '\0';
	dirfd = file_open(AT_FDCWD, *dir ? dir : "/", O_RDONLY | O_DIRECTORY, 0, err);
	if (dirfd < 0)
		return NULL;
	if (pool_open(dirfd, name, path, true, &p, err) == 0 && !p)
		err_set(err, ERR_IO, "there is no pool at '%s'", path);
	file_close(dirfd, dir, NULL);
	return p;
}

static const char *label_of(const char *arg)
{
	return strcmp(arg, "-") == 0 ? NULL : arg;
}

static int run_member(struct pool *p, char **args, struct err *err)
{
	struct name n = { .kind = NAME_MEMBER };
	struct name_disk d = { .size = 0 };
	struct overlay_facts f;
	int fd = file_open(AT_FDCWD, args[0], O_RDONLY, 0, err);

	if (fd < 0 || overlay_look(fd, &f, err) < 0)
		return -1;
	file_close(fd, args[0], NULL);
	if (!view_of_backing(p, &f.backing, d.view))
		return err_set(err, ERR_USAGE, "it stands on no view");
	d.size = f.size;
	snprintf(d.path, sizeof(d.path), "%s", args[0]);
	if (vec_push(&n.disks, d) < 0 || names_publish(p, &n, true, err) < 0)
		return -1;
	name_release(&n);
	return 0;
}

static int run_snapshot(struct pool *p, char **args, struct err *err)
{
	const char *paths[64], *files[64];
	struct snapshot_options o = { .how = how, .label = args[0], .paths = paths, .files = files };
	struct snapshot_made made;

	for (args++; *args; args++)
		if (strcmp(*args, "--file") == 0)
			files[o.nr_files++] = *++args;
		else
			paths[o.nr_paths++] = *args;
	if (versions_snapshot(p, &o, &made, err) < 0)
		return -1;
	printf("%zu sealed, %zu unchanged\n", made.nr_sealed, made.nr_unchanged);
	return 0;
}

static int run_rollback(struct pool *p, char **args, struct err *err)
{
	struct rollback_options o = { .how = how, .path = args[0], .label = args[1], .discard = args[2] != NULL };
	char kept[256];

	if (versions_rollback(p, &o, kept, err) < 0)
		return -1;
	printf("%s\n", kept);
	return 0;
}

static int run_clone(struct pool *p, char **args, struct err *err)
{
	struct clone_options o = {
		.how = how,
		.path = args[0],
		.label = label_of(args[1]),
		.new_path = args[2],
		.count = args[3] ? (unsigned)atoi(args[3]) : 0,
	};
	struct timespec a, b;
	struct clones made;
	int rc;

	clock_gettime(CLOCK_MONOTONIC, &a);
	rc = clone_image(p, &o, &made, err);
	clock_gettime(CLOCK_MONOTONIC, &b);
	printf("%" PRIu64 " clones, %s, %.1f ms\n", made.nr, made.sealed ? "sealed" : "not sealed",
	       (double)(b.tv_sec - a.tv_sec) * 1e3 + (double)(b.tv_nsec - a.tv_nsec) / 1e6);
	return rc;
}

static int print_row(void *ctx, const struct version_row *row, struct err *err)
{
	(void)ctx, (void)err;
	printf("%" PRIu64 " %s %s %s%s\n", row->name->number, row->name->kind == NAME_MEMBER ? "member" : "version",
	       row->disk->path, row->name->kind == NAME_MEMBER ? (row->there ? "there" : "gone") : row->name->label,
	       row->name->kind == NAME_MEMBER ? ""
	       : row->disk->folded	      ? " folded"
	       : row->changed		      ? " changed"
					      : " sealed");
	return 0;
}

static int run_list(struct pool *p, char **args, struct err *err)
{
	return versions_list(p, args[0], print_row, NULL, NULL, err);
}

static int run_delete(struct pool *p, char **args, struct err *err)
{
	return versions_delete(p, args[0], args[1], err);
}

static int print_kept(void *ctx, const struct name *n, const char *by, struct err *err)
{
	(void)ctx, (void)err;
	printf("%s %s\n", n->label, by ? by : "-");
	return 0;
}

static int run_prune(struct pool *p, char **args, struct err *err)
{
	struct prune_options o = { .path = args[0],
				   .keep_last = (unsigned)atoi(args[1]),
				   .keep_daily = (unsigned)atoi(args[2]),
				   .keep_weekly = (unsigned)atoi(args[3]),
				   .apply = args[4] != NULL };

	return versions_prune(p, &o, print_kept, NULL, err);
}

/* ---- folding ---- */

struct folding {
	struct pool *pool;
	const struct sealed_disk *disk;
	struct import *import;
	uint64_t size;
};

static int take_size(void *ctx, uint64_t size, struct err *err)
{
	const struct import_options o = { .unit_bits = 12, .min_run = 16 * KIB };
	struct folding *f = ctx;

	f->size = size;
	f->import = import_new(f->pool, size, &o, f->disk->has_base ? f->disk->base_root : NULL, f->disk->base_size, err);
	return f->import ? 0 : -1;
}

static int take_segment(void *ctx, uint64_t segment, const void *bytes, struct err *err)
{
	struct folding *f = ctx;

	return import_segment(f->import, segment, bytes, err);
}

static int take_own(void *ctx, uint64_t segment, const void *bytes, const struct sectors *own, struct err *err)
{
	struct folding *f = ctx;

	return import_own(f->import, segment, bytes, own, err);
}

static int fold(void *ctx, const struct sealed_disk *d, int fd, struct err *err)
{
	struct folding f = { .pool = ctx, .disk = d };
	struct roots roots = { 0 };
	struct jail jail;
	struct feed feed = {
		.roots = &roots, .jail = &jail, .size = take_size, .segment = take_segment,
		.own = d->has_base ? take_own : NULL, .ctx = &f
	};
	struct import_stats stats;
	uint8_t root[DIGEST_SIZE];
	char path[PATH_MAX], name[POOL_FILE_NAME_ROOM];
	struct view v;
	int rc;

	snprintf(path, sizeof(path), "%s/sealed/%s", f.pool->path, pool_id_file_name(d->id, name));
	if (jail_plan(&jail, JAIL_BEST, err) < 0 || roots_add_pool(&roots, f.pool->path, err) < 0)
		return -1;
	rc = feed_run(&feed, fd, path, err);
	if (rc == 0 && d->has_base)
		rc = import_same(f.import, div_up(f.size, SEGMENT_SIZE), err);
	if (rc == 0)
		rc = import_end(f.import, root, &stats, err);
	import_free(f.import);
	close(fd);
	roots_release(&roots);
	if (rc < 0 || pool_sync(f.pool, err) < 0 || view_write(f.pool, root, f.size, 12, &v, err) < 0)
		return -1;
	printf("folded %s\n", d->path);
	return versions_fold(f.pool, d->id, root, &v, err);
}

static void say_busy(void *ctx, const struct sealed_disk *d, const struct err *why)
{
	(void)ctx;
	printf("busy %s: %s\n", d->path, why->text);
}

static int run_fold(struct pool *p, char **args, struct err *err)
{
	CLEANUP(pool_ids_release) struct pool_ids done = { .items = VEC_INIT };

	(void)args;
	return versions_each_sealed(p, &done, fold, say_busy, p, err) < 0 ? -1 : versions_tidy(p, err);
}

struct repointing {
	struct pool *pool;
	struct workshop *workshop;
	const char *root;
};

static int repoint(void *ctx, const char *path, struct err *err)
{
	struct repointing *r = ctx;
	struct err why = ERR_INIT;

	(void)err;
	if (versions_repoint(r->pool, r->workshop, r->root, path, &how, NULL, &why) < 0)
		printf("left %s: %s\n", path, why.text);
	else
		printf("repointed %s\n", path);
	return 0;
}

static int run_repoint(struct pool *p, char **args, struct err *err)
{
	struct repointing r = { .pool = p, .root = args[0] };
	int dirfd = file_open(AT_FDCWD, args[0], O_RDONLY | O_DIRECTORY, 0, err), rc;

	if (dirfd < 0 || workshop_open(dirfd, args[0], true, &r.workshop, err) < 0)
		return -1;
	rc = versions_each_to_repoint(p, repoint, &r, err) < 0 ? -1 : versions_tidy(p, err);
	workshop_close(r.workshop);
	file_close(dirfd, args[0], NULL);
	return rc;
}

/* ---- differences ---- */

static int print_range(void *ctx, uint64_t offset, uint64_t len, struct err *err)
{
	(void)ctx, (void)err;
	printf("%" PRIu64 " %" PRIu64 "\n", offset, len);
	return 0;
}

static int run_diff(struct pool *p, char **args, struct err *err)
{
	struct pool_disk a, b;
	struct pool_diff_sum sum;

	if (pool_disk_find(p, args[0], label_of(args[1]), &a, err) < 0 ||
	    pool_disk_find(p, args[2], label_of(args[3]), &b, err) < 0)
		return -1;
	return pool_diff(p, &a, &b, print_range, NULL, &sum, err);
}

static int run_adopt(struct pool *p, char **args, struct err *err)
{
	int rc = versions_adopt(p, args[0], err);

	printf("%d\n", rc);
	return rc < 0 ? -1 : 0;
}

static int forget(void *ctx, const struct name *n, struct err *err)
{
	printf("gone %s\n", n->disks.items[0].path);
	return names_remove(ctx, n->number, err);
}

static int run_forget(struct pool *p, char **args, struct err *err)
{
	(void)args;
	if (versions_each_gone(p, forget, p, err) < 0)
		return -1;
	return versions_tidy(p, err);
}

static int run_nothing(struct pool *p, char **args, struct err *err)
{
	(void)p, (void)args, (void)err;
	return 0;
}

/* ---- all ---- */

static const struct {
	const char *name;
	int nr_args; /* at least, behind POOL */
	int (*run)(struct pool *p, char **args, struct err *err);
} verbs[] = {
	{ "member", 1, run_member },   { "snapshot", 2, run_snapshot }, { "rollback", 2, run_rollback }, { "clone", 3, run_clone },
	{ "list", 0, run_list },       { "delete", 2, run_delete },	{ "prune", 4, run_prune },	 { "fold", 0, run_fold },
	{ "repoint", 1, run_repoint }, { "adopt", 1, run_adopt },	{ "forget", 0, run_forget },	 { "diff", 4, run_diff },
	{ "recover", 0, run_nothing },
};

int main(int argc, char **argv)
{
	CLEANUP(pool_close) struct pool *p = NULL;
	struct err err = ERR_INIT;
	int rc = -1;

	how.now = getenv("NOW") ? atoll(getenv("NOW")) : time(NULL);
	how.settle_ns = getenv("SETTLE_NS") ? strtoull(getenv("SETTLE_NS"), NULL, 10) : 0;
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++) {
		if (argc < 3 + verbs[i].nr_args || strcmp(argv[1], verbs[i].name) != 0)
			continue;
		p = open_pool(argv[2], &err);
		rc = p && versions_recover(p, &err) == 0 && verbs[i].run(p, argv + 3, &err) == 0 ? 0 : -1;
	}
	if (rc < 0)
		fprintf(stderr, "versiontool: %s: %s\n", err_kind_name(err.kind), err.text);
	return rc < 0;
}
