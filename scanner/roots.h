/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_ROOTS_H
#define DEDUPSCAN_ROOTS_H

#include <limits.h>
#include <stdbool.h>

#include "scanner/base/vec.h"
#include "scanner/catalog.h"
#include "scanner/image/image.h"

/* The roots of a scan: the files and directories that the user named, and the only places in which anything is opened.
 *
 * A root is resolved once and held by descriptor; what is beneath it is reached by openat2 from there, so that no symbolic
 * link, no "..", no mount and no racing rename leads outside. */

/* Directories of these names are not entered: files of ours lie there (compactor/workshop.h, compactor/pool/pool.h).  Nor is a pool
 * of another name, which is known by what is in it. */
#define ROOTS_WORKSHOP ".dedupscan"
#define ROOTS_POOL ".dedupscan-pool"

struct root {
	char *path;   /* absolute, without symbolic links */
	int dirfd;    /* the directory, or the directory of the file */
	char *file;   /* the file's name in it; NULL for a directory */
	bool walked;  /* false: only backing and data files may be opened beneath it */
};

/* A pool, of which images name files by slices (scanner/image/slice.h). */
struct roots_pool {
	char *path; /* absolute, without symbolic links */
	int dirfd;
};

struct roots {
	VEC(struct root) list;
	VEC(struct roots_pool) pools;
	VEC(char *) excludes; /* shell patterns on a base name, or on a whole path when they hold a '/' */
	struct spool_identity leave_out; /* a directory that is not entered: the catalog */
};

/* Adds what the user named. */
int roots_add(struct roots *r, const char *path, bool walked, struct err *err);
int roots_exclude(struct roots *r, const char *pattern, struct err *err);
/* A pool that may be read through images that stand on it; `path` is absolute and resolved.  Refused where others than its owner
 * could put files there.  One that is there already is no error. */
int roots_add_pool(struct roots *r, const char *path, struct err *err);
void roots_release(struct roots *r);

struct roots_visitor {
	/* A regular file, or a block device that was named. */
	int (*file)(void *ctx, const struct found *f, struct err *err);
	/* Something that is no image, or cannot be looked at.  `listing` = files may have been missed. */
	void (*problem)(void *ctx, const char *path, const struct err *why, bool listing);
	bool (*stop)(void *ctx);
	void *ctx;
};

/* Finds the files of one root.  Symbolic links are not followed, other file systems not entered. */
int roots_walk(const struct roots *r, const struct root *root, const struct roots_visitor *v, struct err *err);

/* Opens for reading a file that a walk found; fails with ERR_STALE when it is another file by now. */
int roots_open_found(const struct roots *r, const struct found *f, struct err *err);

/* Opens for reading the file that a root is. */
int roots_open_root(const struct root *root, struct err *err);

#define ROOTS_JOINED_MAX (2 * PATH_MAX)

/* The path of what the image at from_path calls `name`, as it stands there: symbolic links are not followed. */
int roots_join_named(enum image_role role, const char *name, const char *from_path, char ret[ROOTS_JOINED_MAX],
		     struct err *err);

/* Where that is what the image at from_path calls `name`, inside a root or not; fails when it is not there.  Relative names are
 * relative to the image's directory.  Writes the resolved path to ret_path (PATH_MAX bytes). */
int roots_resolve_named(enum image_role role, const char *name, const char *from_path, char *ret_path, struct err *err);

/* Opens what the image at from_path, whose file is `image`, calls `name`: beneath a root (an extent also beside an image that
 * was itself named), a regular file, no other user's than the image's or root's, or not at all (ERR_REFUSED).  A backing file that
 * is named by a slice is a file of a pool that was added or lies beneath a root, and nothing else. */
int roots_open_named(const struct roots *r, enum image_role role, const char *name, const char *from_path,
		     const struct stat *image, char *ret_path, struct err *err);

/* Whether a path is at or beneath a directory of files of ours (absolute, and none that the user called something else). */
bool roots_are_ours(const char *path);

/* A directory that is a pool itself, whatever it is called. */
bool roots_is_pool(int dirfd);
/* Whether the path is that of a stub, a sealed overlay or the cluster file of a pool, and the pool's, which is shorter. */
bool roots_pool_of(const char *path, char *ret);
/* Whether images that stand on the pool at a path can be read: it was added, or lies beneath a root. */
bool roots_have_pool(const struct roots *r, const char *path);

/* Opens a file by the absolute path at which one of the above found it before. */
int roots_open_again(const struct roots *r, const char *path, struct err *err);
/* The same by the path that roots_join_named() gave. */
int roots_open_joined(const struct roots *r, const char *path, struct err *err);

/* The walked root that the path is or lies beneath, NULL = none; *ret_name is the path from there on. */
const struct root *roots_find(const struct roots *r, const char *path, const char **ret_name);

/* Opens the directory of a file at or beneath a walked root, as strictly as the file itself would be; *ret_name is its name there.
 * For who wants to replace it. */
int roots_open_dir_of(const struct roots *r, const char *path, const char **ret_name, struct err *err);

/* True when the path is a root's or beneath one that is walked. */
bool roots_cover(const struct roots *r, const char *path);

#endif
