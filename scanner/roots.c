/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/roots.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "scanner/base/checked.h"
#include "scanner/image/slice.h"

#define DEPTH_MAX 256

static int open_root(struct root *root, struct err *err)
{
	char dir[PATH_MAX];
	struct stat st;

	if (stat(root->path, &st) < 0)
		return err_errno(err, "cannot look at '%s'", root->path);
	snprintf(dir, sizeof(dir), "%s", root->path);
	if (!S_ISDIR(st.st_mode)) {
		root->file = strdup(file_last_part(root->path));
		if (!root->file)
			return err_set(err, ERR_MEMORY, "no memory for a root");
		dir[strlen(dir) - strlen(root->file)] = '\0';
	}
	root->dirfd = file_open(AT_FDCWD, dir, O_RDONLY | O_DIRECTORY, 0, err);
	return root->dirfd < 0 ? -1 : 0;
}

static bool is_ours(const char *name, size_t len)
{
	return (len == sizeof(ROOTS_WORKSHOP) - 1 && memcmp(name, ROOTS_WORKSHOP, len) == 0) ||
	       (len == sizeof(ROOTS_POOL) - 1 && memcmp(name, ROOTS_POOL, len) == 0);
}

bool roots_are_ours(const char *path)
{
	for (const char *p = path; (p = strchr(p, '/'));)
		if (p++, is_ours(p, strcspn(p, "/")))
			return true;
	return false;
}

int roots_add(struct roots *r, const char *path, bool walked, struct err *err)
{
	struct root root = { .dirfd = -1, .walked = walked };

	root.path = realpath(path, NULL);
	if (!root.path)
		return err_named(err, "cannot find '%s'", path);
	if (roots_are_ours(root.path)) {
		free(root.path);
		return err_set(err, ERR_USAGE, "'%s' holds files of dedupscan's own; name the directory above", path);
	}
	if (open_root(&root, err) < 0 || vec_push(&r->list, root) < 0) {
		free(root.path);
		free(root.file);
		if (root.dirfd >= 0)
			return err_set(err, ERR_MEMORY, "no memory for a root");
		return -1;
	}
	return 0;
}

int roots_exclude(struct roots *r, const char *pattern, struct err *err)
{
	char *copy = strdup(pattern);

	if (copy && vec_push(&r->excludes, copy) == 0)
		return 0;
	free(copy);
	return err_set(err, ERR_MEMORY, "no memory for a pattern");
}

static int check_pool(int fd, const char *path, struct err *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_errno(err, "cannot look at '%s'", path);
	if (st.st_mode & (S_IWGRP | S_IWOTH))
		return err_set(err, ERR_REFUSED, "others than the owner of pool '%s' can write to it", path);
	return 0;
}

int roots_add_pool(struct roots *r, const char *path, struct err *err)
{
	struct roots_pool pool = { .dirfd = -1 };

	for (size_t i = 0; i < r->pools.nr; i++)
		if (strcmp(r->pools.items[i].path, path) == 0)
			return 0;
	pool.dirfd = file_open(AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, err);
	if (pool.dirfd < 0)
		return -1;
	pool.path = strdup(path);
	if (check_pool(pool.dirfd, path, err) == 0) {
		if (pool.path && vec_push(&r->pools, pool) == 0)
			return 0;
		err_set(err, ERR_MEMORY, "no memory for a pool");
	}
	free(pool.path);
	return file_close(pool.dirfd, path, NULL), -1;
}

void roots_release(struct roots *r)
{
	for (size_t i = 0; i < r->pools.nr; i++) {
		free(r->pools.items[i].path);
		close(r->pools.items[i].dirfd);
	}
	vec_release(&r->pools);
	for (size_t i = 0; i < r->list.nr; i++) {
		free(r->list.items[i].path);
		free(r->list.items[i].file);
		close(r->list.items[i].dirfd);
	}
	for (size_t i = 0; i < r->excludes.nr; i++)
		free(r->excludes.items[i]);
	vec_release(&r->list);
	vec_release(&r->excludes);
}

static bool excluded(const struct roots *r, const char *path)
{
	for (size_t i = 0; i < r->excludes.nr; i++) {
		const char *pattern = r->excludes.items[i];

		if (fnmatch(pattern, strchr(pattern, '/') ? path : file_last_part(path), 0) == 0)
			return true;
	}
	return false;
}

/* ---- walking ---- */

struct walk {
	const struct roots *roots;
	const struct roots_visitor *v;
	char path[PATH_MAX];
	size_t len;
	unsigned depth;
};

static const char *kind_of(mode_t mode)
{
	return S_ISFIFO(mode)  ? "a FIFO"
	       : S_ISSOCK(mode) ? "a socket"
	       : S_ISCHR(mode)	? "a character device"
	       : S_ISBLK(mode)	? "a block device"
	       : S_ISLNK(mode)	? "a symbolic link"
	       : S_ISDIR(mode)	? "a directory"
				: "not a regular file";
}

static void report(struct walk *w, bool listing, const char *what)
{
	struct err why = ERR_INIT;

	err_errno(&why, "%s", what);
	w->v->problem(w->v->ctx, w->path, &why, listing);
}

static int visit_file(struct walk *w, const struct stat *st, bool named, struct err *err)
{
	struct found f = { .path = w->path, .identity = spool_identity_of(st), .file_used = (uint64_t)st->st_blocks * 512,
			   .named = named, .block_device = S_ISBLK(st->st_mode) };

	return w->v->file(w->v->ctx, &f, err);
}

/* In a directory it is passed by; what the user named is missed. */
static void not_an_image(struct walk *w, mode_t mode, bool named)
{
	struct err why = ERR_INIT;

	err_set(&why, ERR_UNSUPPORTED, "it is %s, not an image file", kind_of(mode));
	w->v->problem(w->v->ctx, w->path, &why, named);
}

static bool left_out(const struct roots *r, const struct stat *st)
{
	return st->st_dev == r->leave_out.dev && st->st_ino == r->leave_out.ino;
}

bool roots_is_pool(int dirfd)
{
	static const char *const has[] = { "lock", "trees", "views", "names", "sealed", "index", "trash", "quarantine" };

	for (size_t i = 0; i < ARRAY_SIZE(has); i++)
		if (faccessat(dirfd, has[i], F_OK, AT_SYMLINK_NOFOLLOW) < 0)
			return false;
	return true;
}

static int walk_dir(struct walk *w, int dirfd, dev_t dev, struct err *err);

static int enter(struct walk *w, int dirfd, const char *name, const struct stat *st, dev_t dev, struct err *err)
{
	struct err why = ERR_INIT;
	int fd, rc;

	if (st->st_dev != dev || left_out(w->roots, st) || is_ours(name, strlen(name)))
		return 0;
	if (w->depth == DEPTH_MAX) {
		err_set(&why, ERR_UNSUPPORTED, "directories are nested more than %d deep here", DEPTH_MAX);
		w->v->problem(w->v->ctx, w->path, &why, true);
		return 0;
	}
	fd = file_open_beneath(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV, &why);
	if (fd < 0) { /* EXDEV: a mount of the same file system; ENOENT: gone since it was looked at */
		if (why.errnum != EXDEV && why.errnum != ENOENT)
			w->v->problem(w->v->ctx, w->path, &why, true);
		return 0;
	}
	if (roots_is_pool(fd)) {
		file_close(fd, w->path, NULL);
		return 0;
	}
	w->depth++;
	rc = walk_dir(w, fd, dev, err); /* closes fd */
	w->depth--;
	return rc;
}

static int visit(struct walk *w, int dirfd, const char *name, dev_t dev, struct err *err)
{
	struct stat st;

	if (excluded(w->roots, w->path))
		return 0;
	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
		if (errno != ENOENT) /* gone since it was listed */
			report(w, true, "cannot look at it");
		return 0;
	}
	if (S_ISDIR(st.st_mode))
		return enter(w, dirfd, name, &st, dev, err);
	if (S_ISREG(st.st_mode))
		return visit_file(w, &st, false, err);
	if (!S_ISLNK(st.st_mode))
		not_an_image(w, st.st_mode, false);
	return 0;
}

static int walk_dir(struct walk *w, int dirfd, dev_t dev, struct err *err)
{
	DIR *d = fdopendir(dirfd);
	size_t len = w->len;
	struct dirent *e;
	int rc = 0;

	if (!d) {
		report(w, true, "cannot list it");
		close(dirfd);
		return 0;
	}
	while (rc == 0 && (errno = 0, e = readdir(d))) {
		int n;

		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		if (w->v->stop(w->v->ctx))
			rc = err_set(err, ERR_CANCELED, "stopped");
		n = snprintf(w->path + len, sizeof(w->path) - len, "%s%s", len > 1 ? "/" : "", e->d_name);
		if ((size_t)n >= sizeof(w->path) - len) {
			w->path[len] = '\0';
			errno = ENAMETOOLONG;
			report(w, true, "cannot look at a file in it");
			continue;
		}
		w->len = len + (size_t)n;
		if (rc == 0)
			rc = visit(w, dirfd, e->d_name, dev, err);
	}
	w->path[len] = '\0';
	w->len = len;
	if (rc == 0 && errno)
		report(w, true, "cannot list it");
	closedir(d);
	return rc;
}

int roots_walk(const struct roots *r, const struct root *root, const struct roots_visitor *v, struct err *err)
{
	struct walk w = { .roots = r, .v = v, .len = strlen(root->path) };
	struct stat st;
	int fd;

	memcpy(w.path, root->path, w.len + 1);
	if (root->file) {
		if (fstatat(root->dirfd, root->file, &st, AT_SYMLINK_NOFOLLOW) < 0)
			return err_errno(err, "cannot look at '%s'", root->path);
		if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
			not_an_image(&w, st.st_mode, true);
			return 0;
		}
		return visit_file(&w, &st, true, err);
	}
	fd = file_open(root->dirfd, ".", O_RDONLY | O_DIRECTORY, 0, err);
	if (fd < 0 || fstat(fd, &st) < 0)
		return fd < 0 ? -1 : err_errno(err, "cannot look at '%s'", root->path);
	if (left_out(r, &st)) {
		file_close(fd, root->path, NULL);
		return 0;
	}
	return walk_dir(&w, fd, st.st_dev, err);
}

/* ---- opening ---- */

/* The part of an absolute path that lies beneath the root, or NULL. */
static const char *beneath(const struct root *root, const char *path)
{
	size_t len = strlen(root->path);

	if (root->file)
		return strcmp(path, root->path) == 0 ? root->file : NULL;
	if (len == 1)
		return path[1] ? path + 1 : NULL;
	return strncmp(path, root->path, len) == 0 && path[len] == '/' && path[len + 1] ? path + len + 1 : NULL;
}

bool roots_cover(const struct roots *r, const char *path)
{
	for (size_t i = 0; i < r->list.nr; i++)
		if (r->list.items[i].walked && beneath(&r->list.items[i], path))
			return true;
	return false;
}

/* Looks before it opens, so that a FIFO or a tape is never opened, and looks again at what was opened. */
static int open_regular(int dirfd, const char *name, uint64_t resolve, bool block_too, struct err *err)
{
	CLEANUP(close_fd) int look =
		file_open_beneath(dirfd, name, O_PATH | O_NOFOLLOW, resolve | RESOLVE_NO_SYMLINKS, err);
	struct stat st, opened;
	int fd;

	if (look < 0 && errno == EXDEV)
		return err_set(err, ERR_REFUSED, "'%s' is mounted from elsewhere; it is read when it is named itself", name);
	if (look < 0)
		return -1;
	if (fstat(look, &st) < 0)
		return err_errno(err, "cannot look at '%s'", name);
	if (!S_ISREG(st.st_mode) && !(block_too && S_ISBLK(st.st_mode)))
		return err_set(err, ERR_REFUSED, "'%s' is %s, not an image file", name, kind_of(st.st_mode));
	fd = file_open_beneath(dirfd, name, O_RDONLY | O_NONBLOCK | O_NOFOLLOW, resolve | RESOLVE_NO_SYMLINKS, err);
	if (fd < 0)
		return -1;
	if (fstat(fd, &opened) < 0 || opened.st_dev != st.st_dev || opened.st_ino != st.st_ino) {
		file_close(fd, name, NULL);
		return err_set(err, ERR_STALE, "'%s' was replaced while it was opened", name);
	}
	return fd;
}

/* The name of what lies in the same directory as a root that is a file. */
static const char *beside(const struct root *root, const char *path)
{
	size_t len = root->file ? strlen(root->path) - strlen(root->file) : 0;

	return len && strncmp(path, root->path, len) == 0 && !strchr(path + len, '/') ? path + len : NULL;
}

static int open_beside_roots(const struct roots *r, const char *path, struct err *err)
{
	for (size_t i = 0; i < r->list.nr; i++) {
		const char *name = beside(&r->list.items[i], path);

		if (name)
			return open_regular(r->list.items[i].dirfd, name, RESOLVE_NO_XDEV, false, err);
	}
	return err_set(err, ERR_REFUSED, "'%s' lies outside the directories given; --allow-backing DIR would admit it", path);
}

/* The root that the path is or lies beneath, the innermost where they lie in each other; NULL = none. */
static const struct root *root_of(const struct roots *r, const char *path, bool walked, const char **ret_name)
{
	const struct root *best = NULL;

	for (size_t i = 0; i < r->list.nr; i++) {
		const struct root *root = &r->list.items[i];
		const char *name = beneath(root, path);

		if (!name || (walked && !root->walked) || (best && strlen(root->path) <= strlen(best->path)))
			continue;
		best = root;
		*ret_name = name;
	}
	return best;
}

/* What is mounted beneath a root is not beneath it, as in a walk; a file that was named may be a mount itself. */
static int open_beneath_roots(const struct roots *r, const char *path, bool block_too, struct err *err)
{
	const char *name;
	const struct root *root = root_of(r, path, false, &name);

	if (!root)
		return err_set(err, ERR_REFUSED, "'%s' lies outside the directories given; --allow-backing DIR would admit it",
			       path);
	return open_regular(root->dirfd, name, root->file ? 0 : RESOLVE_NO_XDEV, block_too, err);
}

int roots_open_found(const struct roots *r, const struct found *f, struct err *err)
{
	int fd = open_beneath_roots(r, f->path, f->block_device && f->named, err);
	struct stat st;

	if (fd < 0)
		return -1;
	if (fstat(fd, &st) == 0 && (uint64_t)st.st_dev == f->identity.dev && (uint64_t)st.st_ino == f->identity.ino)
		return fd;
	file_close(fd, f->path, NULL);
	return err_set(err, ERR_STALE, "it was replaced by another file meanwhile");
}

int roots_open_root(const struct root *root, struct err *err)
{
	if (!root->file)
		return err_set(err, ERR_UNSUPPORTED, "it is a directory, not an image file");
	return open_regular(root->dirfd, root->file, 0, true, err);
}

/* As QEMU sees it: "nbd:...", "json:{...}" and their like are protocols; a colon after a slash is part of a name. */
static bool has_protocol(const char *name)
{
	return name[strcspn(name, ":/")] == ':';
}

static int plain_name(const char **name, const char *what, struct err *err)
{
	if (strncmp(*name, "file:", 5) == 0)
		*name += 5;
	if (has_protocol(*name))
		return err_set(err, ERR_REFUSED, "the %s '%s' is not a plain file name", what, *name);
	if (!**name)
		return err_set(err, ERR_REFUSED, "the %s's name is empty", what);
	return 0;
}

int roots_join_named(enum image_role role, const char *name, const char *from_path, char ret[ROOTS_JOINED_MAX],
		     struct err *err)
{
	if (plain_name(&name, image_role_names[role], err) < 0)
		return -1;
	if (name[0] == '/')
		snprintf(ret, ROOTS_JOINED_MAX, "%s", name);
	else
		snprintf(ret, ROOTS_JOINED_MAX, "%.*s%s", (int)(file_last_part(from_path) - from_path), from_path, name);
	return 0;
}

int roots_resolve_named(enum image_role role, const char *name, const char *from_path, char *ret_path, struct err *err)
{
	CLEANUP(free) char *real = NULL;
	char joined[ROOTS_JOINED_MAX];

	if (roots_join_named(role, name, from_path, joined, err) < 0)
		return -1;
	real = realpath(joined, NULL);
	if (!real)
		return err_errno(err, "cannot find the %s '%s'", image_role_names[role], joined);
	snprintf(ret_path, PATH_MAX, "%s", real);
	return 0;
}

const struct root *roots_find(const struct roots *r, const char *path, const char **ret_name)
{
	return root_of(r, path, true, ret_name);
}

int roots_open_dir_of(const struct roots *r, const char *path, const char **ret_name, struct err *err)
{
	const char *name, *slash;
	const struct root *root = root_of(r, path, true, &name);
	char dir[PATH_MAX];

	if (!root)
		return err_set(err, ERR_REFUSED, "'%s' lies outside the directories given", path);
	slash = strrchr(name, '/');
	snprintf(dir, sizeof(dir), "%.*s", slash ? (int)(slash - name) : 1, slash ? name : ".");
	*ret_name = slash ? path + strlen(path) - strlen(slash + 1) : path + strlen(path) - strlen(name);
	return file_open_beneath(root->dirfd, dir, O_RDONLY | O_DIRECTORY, RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV, err);
}

int roots_open_again(const struct roots *r, const char *path, struct err *err)
{
	struct err why = ERR_INIT;
	const char *name;
	int fd = open_beneath_roots(r, path, false, &why);

	if (fd < 0)
		fd = open_beside_roots(r, path, err);
	if (fd < 0 && err && root_of(r, path, false, &name)) /* it is inside, but gone or forbidden */
		*err = why;
	return fd;
}

int roots_open_joined(const struct roots *r, const char *path, struct err *err)
{
	CLEANUP(free) char *real = realpath(path, NULL);

	return real ? roots_open_again(r, real, err) : err_errno(err, "cannot find '%s'", path);
}

/* The catalog is no part of an image; closing a file of its database would even end the locks on that. */
static int check_not_catalog(const struct roots *r, const char *path, struct err *err)
{
	char dir[PATH_MAX], *slash;
	struct stat st;

	snprintf(dir, sizeof(dir), "%s", path);
	while ((slash = strrchr(dir, '/'))) {
		*slash = '\0';
		if (stat(*dir ? dir : "/", &st) == 0 && left_out(r, &st))
			return err_set(err, ERR_REFUSED, "'%s' belongs to the catalog", path);
	}
	return 0;
}

/* Who may write an image must not make another user's file a part of it. */
static int check_owner(int fd, const char *path, const struct stat *image, struct err *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_errno(err, "cannot look at '%s'", path);
	if (st.st_uid == image->st_uid || st.st_uid == 0 || image->st_uid == 0 || image->st_uid == geteuid())
		return 0;
	return err_set(err, ERR_REFUSED, "'%s' belongs to user %u, the image to user %u", path, (unsigned)st.st_uid,
		       (unsigned)image->st_uid);
}

/* A stub, a sealed overlay or the cluster file: views/<uuid>.qcow2, sealed/<uuid>.qcow2 or <uuid>.qcow2. */
static bool is_pool_file(const char *name)
{
	const char *id = strncmp(name, "views/", 6) == 0 ? name + 6 : strncmp(name, "sealed/", 7) == 0 ? name + 7 : name;
	size_t len = strspn(id, "0123456789abcdef-");

	return len == 36 && strcmp(id + len, ".qcow2") == 0;
}

bool roots_pool_of(const char *path, char *ret)
{
	const char *name = file_last_part(path), *dir = name - path > 1 ? memrchr(path, '/', (size_t)(name - path) - 1) : NULL;

	if (dir && dir > path && is_pool_file(dir + 1))
		name = dir + 1;
	if (name - path < 2 || !is_pool_file(name))
		return false;
	memmove(ret, path, (size_t)(name - path) - 1);
	ret[name - path - 1] = '\0';
	return true;
}

/* One that nobody named. */
static int open_pool_beneath(const struct roots *r, const char *path, struct err *err)
{
	const char *name;
	const struct root *root = root_of(r, path, false, &name);
	int fd = root ? file_open_beneath(root->dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW,
					  RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV, NULL)
		      : -1;

	if (fd >= 0 && roots_is_pool(fd))
		return fd;
	if (fd >= 0)
		file_close(fd, path, NULL);
	return err_set(err, ERR_REFUSED, "there is no pool at '%s', or none that was given; if it was moved, see dedupscan repoint",
		       path);
}

bool roots_have_pool(const struct roots *r, const char *path)
{
	CLEANUP(close_fd) int fd = -1;

	for (size_t i = 0; i < r->pools.nr; i++)
		if (strcmp(r->pools.items[i].path, path) == 0)
			return true;
	fd = open_pool_beneath(r, path, NULL);
	return fd >= 0;
}

/* It has to be of who the image may be made of, for nobody named it. */
static int open_in_pool_beneath(const struct roots *r, const struct slice *s, const struct stat *image, struct err *err)
{
	CLEANUP(close_fd) int dirfd = -1;
	char pool[sizeof(s->path)];

	if (!roots_pool_of(s->path, pool))
		return err_set(err, ERR_REFUSED, "'%s' is no file of a pool", s->path);
	dirfd = open_pool_beneath(r, pool, err);
	if (dirfd < 0 || check_pool(dirfd, pool, err) < 0 || check_owner(dirfd, pool, image, err) < 0)
		return -1;
	return open_regular(dirfd, s->path + strlen(pool) + 1, RESOLVE_NO_XDEV, false, err);
}

/* Only a pool's owner can put files there.  To whom they belong does not matter: libvirt gives them to the user of its virtual
 * machines. */
static int open_in_pool(const struct roots *r, const struct slice *s, const struct stat *image, char *ret_path, struct err *err)
{
	snprintf(ret_path, PATH_MAX, "%s", s->path);
	for (size_t i = 0; i < r->pools.nr; i++) {
		const struct roots_pool *pool = &r->pools.items[i];
		size_t len = strlen(pool->path);

		if (strncmp(s->path, pool->path, len) == 0 && s->path[len] == '/' && is_pool_file(s->path + len + 1))
			return open_regular(pool->dirfd, s->path + len + 1, RESOLVE_NO_XDEV, false, err);
	}
	return open_in_pool_beneath(r, s, image, err);
}

int roots_open_named(const struct roots *r, enum image_role role, const char *name, const char *from_path,
		     const struct stat *image, char *ret_path, struct err *err)
{
	struct slice slice;
	int fd;

	if (role == IMAGE_BACKING && slice_parse(name, &slice)) {
		fd = open_in_pool(r, &slice, image, ret_path, err);
		return fd < 0 ? err_add(err, "%s", image_role_names[role]) : fd;
	}
	if (roots_resolve_named(role, name, from_path, ret_path, err) < 0)
		return -1;
	if (check_not_catalog(r, ret_path, err) < 0)
		return err_add(err, "%s", image_role_names[role]);
	fd = role == IMAGE_EXTENT ? roots_open_again(r, ret_path, err) : open_beneath_roots(r, ret_path, false, err);
	if (fd >= 0 && check_owner(fd, ret_path, image, err) < 0) {
		file_close(fd, ret_path, NULL);
		fd = -1;
	}
	return fd < 0 ? err_add(err, "%s", image_role_names[role]) : fd;
}
