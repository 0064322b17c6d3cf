/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/pool_home.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "compactor/pool/clusters.h"
#include "compactor/pool/immutable.h"
#include "compactor/pool/view.h"
#include "scanner/base/file.h"

/* ---- where it is ---- */

static const struct root *first_walked(const struct roots *roots)
{
	for (size_t i = 0; i < roots->list.nr; i++)
		if (roots->list.items[i].walked)
			return &roots->list.items[i];
	return NULL;
}

static bool lies_in(const char *path, const char *dir)
{
	size_t len = strlen(dir);

	return strncmp(path, dir, len) == 0 && (path[len] == '\0' || path[len] == '/' || strcmp(dir, "/") == 0);
}

static int too_long(struct err *err)
{
	return err_set(err, ERR_UNSUPPORTED, "the pool's path is too long");
}

/* The directory that `path` is or would be in, resolved, and its own name behind it. */
static int resolve_told(const char *path, char *ret, struct err *err)
{
	CLEANUP(free) char *copy = strdup(path);
	CLEANUP(free) char *dir = NULL;
	size_t len = strlen(path);
	char *name;

	if (!copy)
		return err_set(err, ERR_MEMORY, "no memory for a path");
	while (len > 1 && copy[len - 1] == '/')
		copy[--len] = '\0';
	name = strrchr(copy, '/');
	dir = name == copy ? strdup("/") : realpath(name ? (*name = '\0', copy) : ".", NULL);
	if (!dir)
		return err_named(err, "cannot find the directory of the pool '%s'", path);
	name = name ? name + 1 : copy;
	if (!*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return err_set(err, ERR_USAGE, "'%s' cannot be a pool: name a directory of its own", path);
	if (snprintf(ret, PATH_MAX, "%s/%s", strcmp(dir, "/") == 0 ? "" : dir, name) >= PATH_MAX)
		return too_long(err);
	return 0;
}

/* Its path, absolute, without symbolic links, in PATH_MAX bytes. */
static int home_path(const struct roots *roots, const char *told, char *ret, struct err *err)
{
	const struct root *first = first_walked(roots);

	if (told) {
		if (resolve_told(told, ret, err) < 0)
			return -1;
	} else {
		size_t len;

		if (!first)
			return err_set(err, ERR_USAGE, "which pool? --pool DIR says");
		len = strlen(first->path) - (first->file ? strlen(first->file) + 1 : 0);
		if (snprintf(ret, PATH_MAX, "%.*s/" POOL_NAME, (int)(len == 1 ? 0 : len), first->path) >= PATH_MAX)
			return too_long(err);
	}
	for (size_t i = 0; i < roots->list.nr; i++)
		if (roots->list.items[i].walked && lies_in(roots->list.items[i].path, ret))
			return err_set(err, ERR_USAGE, "'%s' lies in the pool '%s'", roots->list.items[i].path, ret);
	return 0;
}

/* ---- opening ---- */

/* A link in the place of the pool is not followed: what overlays name must be where it is. */
static int open_at(struct roots *roots, const char *path, enum pool_access access, bool create, size_t memory, struct pool **ret,
		   struct err *err)
{
	const char *name = strrchr(path, '/') + 1;
	CLEANUP(free) char *dir = strndup(path, name - path > 1 ? (size_t)(name - path) - 1 : 1);
	CLEANUP(close_fd) int dirfd = dir ? file_open(AT_FDCWD, dir, O_RDONLY | O_DIRECTORY, 0, err) : -1;

	if (dirfd < 0)
		return -1;
	if (pool_open_with(dirfd, name, path, access, memory, ret, err) < 0)
		return -1;
	if (!*ret && create &&
	    (pool_create(dirfd, name, err) < 0 || pool_open_with(dirfd, name, path, access, memory, ret, err) < 0))
		return -1;
	if (!*ret || roots_add_pool(roots, path, err) == 0)
		return 0;
	pool_close(*ret);
	*ret = NULL;
	return -1;
}

int pool_home_open(struct roots *roots, const char *told, enum pool_access access, bool create, size_t memory, struct pool **ret,
		   struct err *err)
{
	char path[PATH_MAX];

	return home_path(roots, told, path, err) < 0 ? -1 : open_at(roots, path, access, create, memory, ret, err);
}

static bool is_there(const char *path, struct stat *ret)
{
	return file_ops->fstatat(AT_FDCWD, path, ret, AT_SYMLINK_NOFOLLOW) == 0;
}

/* The nearest in a directory above. */
static bool find_above(const char *path, char ret[PATH_MAX])
{
	struct stat st;
	char *slash;

	if (snprintf(ret, PATH_MAX - sizeof(POOL_NAME), "%s", path) >= (int)(PATH_MAX - sizeof(POOL_NAME)))
		return false;
	while ((slash = strrchr(ret, '/'))) {
		strcpy(slash + 1, POOL_NAME);
		if (is_there(ret, &st))
			return true;
		*slash = '\0';
	}
	return false;
}

/* Only an image has told of it. */
static bool is_trusted(const char *pool)
{
	struct stat st;

	return is_there(pool, &st) && S_ISDIR(st.st_mode) && !(st.st_mode & (S_IWGRP | S_IWOTH)) &&
	       (st.st_uid == 0 || st.st_uid == geteuid());
}

/* The pool that an image names.  Where the pool above has what it stands on, they were copied or moved together. */
static bool find_named(const char *path, const char *above, char ret[PATH_MAX])
{
	CLEANUP(close_fd) int fd = file_open(AT_FDCWD, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, NULL);
	char own[PATH_MAX], pool[PATH_MAX];
	uint64_t disk_size;
	struct stat st;
	struct slice s;

	if (fd < 0 || file_ops->fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || overlay_names(fd, &s, &disk_size, NULL) <= 0 ||
	    !roots_pool_of(s.path, pool) || !is_trusted(pool))
		return false;
	if (above && snprintf(own, sizeof(own), "%s%s", above, s.path + strlen(pool)) < (int)sizeof(own) && is_there(own, &st))
		return false;
	strcpy(ret, pool);
	return true;
}

/* The image is opened only while no other process is at work with the pool above: it may hold that image, which ends when somebody
 * opens it. */
static int open_of_image(struct roots *roots, const char *path, enum pool_access access, struct pool **ret, struct err *err)
{
	CLEANUP(pool_close) struct pool *p = NULL;
	struct err why = ERR_INIT;
	char above[PATH_MAX], named[PATH_MAX];
	bool any = find_above(path, above);
	int rc = any ? open_at(roots, above, access, false, POOL_MEMORY, &p, &why) : 0;

	if (rc == 0 || why.kind != ERR_BUSY) {
		if (find_named(path, any ? above : NULL, named)) {
			pool_close(STEAL(p)); /* it may be the same one, whose stub is missing */
			return open_at(roots, named, access, false, POOL_MEMORY, ret, err);
		}
		*ret = STEAL(p);
	}
	if (rc < 0 && err)
		*err = why;
	return rc;
}

/* A directory is told as PATH/., as if that was an image in it. */
static int no_pool_of(const char *path, struct err *err)
{
	size_t len = strlen(path);

	if (len > 2 && strcmp(path + len - 2, "/.") == 0)
		len -= 2;
	return err_set(err, ERR_USAGE, "'%.*s' names no pool, and no directory above holds one; --pool DIR says where it is",
		       (int)len, path);
}

int pool_home_of(struct roots *roots, const char *path, const char *told, enum pool_access access, struct pool **ret,
		 struct err *err)
{
	char at[PATH_MAX];

	if (told ? resolve_told(told, at, err) < 0 || open_at(roots, at, access, false, POOL_MEMORY, ret, err) < 0 :
		   open_of_image(roots, path, access, ret, err) < 0)
		return -1;
	if (*ret)
		return 0;
	return told ? err_set(err, ERR_USAGE, "there is no pool at '%s'", at) : no_pool_of(path, err);
}

/* In the directory at `at`, whose length is `len`, and those above. */
static void register_above(struct roots *roots, const char *at, size_t len)
{
	char path[PATH_MAX];
	struct stat st;

	for (;;) {
		if (snprintf(path, sizeof(path), "%.*s/" POOL_NAME, (int)len, at) < (int)sizeof(path) &&
		    file_ops->fstatat(AT_FDCWD, path, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode))
			roots_add_pool(roots, path, NULL);
		if (!len)
			return;
		while (len && at[--len] != '/')
			;
	}
}

int pool_home_register(struct roots *roots, const char *told, struct err *err)
{
	char path[PATH_MAX];
	struct stat st;

	if (told && resolve_told(told, path, err) < 0)
		return -1;
	if (told && file_ops->fstatat(AT_FDCWD, path, &st, AT_SYMLINK_NOFOLLOW) == 0 && roots_add_pool(roots, path, err) < 0)
		return -1;
	for (size_t i = 0; i < roots->list.nr; i++) {
		const struct root *r = &roots->list.items[i];
		size_t len = strlen(r->path) - (r->file ? strlen(r->file) + 1 : 0);

		register_above(roots, r->path, len == 1 ? 0 : len);
	}
	return 0;
}

/* ---- who may read ---- */

#define READERS (S_IRUSR | S_IRGRP | S_IROTH)

static bool same_readers(const struct stat *pool, const struct stat *member)
{
	if (pool->st_mode & member->st_mode & S_IROTH)
		return true;
	if ((pool->st_mode ^ member->st_mode) & (S_IRGRP | S_IROTH))
		return false;
	return pool->st_uid == member->st_uid && (!(pool->st_mode & S_IRGRP) || pool->st_gid == member->st_gid);
}

struct readers {
	mode_t mode;
	uid_t uid;
	gid_t gid;
	struct pool *p;
};

static int set_readers(int fd, const struct readers *r, struct err *err)
{
	struct stat st;

	if (file_ops->fstat(fd, &st) < 0)
		return err_errno(err, "cannot look at a file of the pool");
	if (st.st_uid == r->uid && st.st_gid == r->gid && (st.st_mode & 07777) == r->mode)
		return 0;
	r->p->restless = true;
	if (immutable_lift_in(r->p, fd, err) < 0)
		return -1;
	if ((st.st_uid != r->uid || st.st_gid != r->gid) && file_ops->fchown(fd, r->uid, r->gid) < 0)
		return err_errno(err, "cannot give a file of the pool to its readers");
	if ((st.st_mode & 07777) != r->mode && file_ops->fchmod(fd, r->mode) < 0)
		return err_errno(err, "cannot say who may read a file of the pool");
	return 0;
}

static int set_stub(void *ctx, const char *name, struct err *err)
{
	const struct readers *r = ctx;
	CLEANUP(close_fd) int fd = file_open(r->p->dirs[POOL_VIEWS], name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, err);

	return fd < 0 ? -1 : set_readers(fd, r, err);
}

int pool_home_admit(struct pool *p, const struct stat *member, bool cross_owner, struct err *err)
{
	struct readers r = { .mode = member->st_mode & READERS, .uid = member->st_uid, .gid = member->st_gid, .p = p };
	struct cluster_span grows = clusters_growing(p->clusters);
	bool used = grows.number > 0 || cluster_file_slots_left(grows.file) < POOL_NR_SLOTS - 1;
	struct stat st;

	if (file_ops->fstat(cluster_file_fd(grows.file), &st) < 0)
		return err_errno(err, "cannot look at the pool");
	if (used && same_readers(&st, member))
		return 0;
	if (used && !cross_owner)
		return err_set(err, ERR_REFUSED,
			       "not everybody who can read the pool can read it, or the other way round: "
			       "owner and mode differ from those of the pool's members; --cross-owner has it enter, "
			       "and everybody can read the pool then");
	if (used)
		r.mode = READERS;
	if (r.mode & S_IROTH) { /* then nobody has to own it, who could change what is others' */
		r.uid = st.st_uid;
		r.gid = st.st_gid;
	}
	for (size_t i = 0; i < clusters_nr(p->clusters); i++)
		if (set_readers(cluster_file_fd(clusters_span(p->clusters, i).file), &r, err) < 0)
			return -1;
	return file_each_name(p->dirs[POOL_VIEWS], set_stub, &r, err);
}
