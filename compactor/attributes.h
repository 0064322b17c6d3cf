/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_ATTRIBUTES_H
#define DEDUPSCAN_ATTRIBUTES_H

#include <linux/fs.h>
#include <stdbool.h>
#include <sys/stat.h>

#include "scanner/base/cleanup.h"
#include "scanner/base/err.h"
#include "scanner/base/vec.h"

/* All that a file is besides its bytes and its name, carried from an image to the file that replaces it: owner, group,
 * mode, ACL, all extended attributes that we are shown (user.*, trusted.*, security.selinux, security.capability, ...),
 * inode flags (chattr(1)), extent size hints, project id, and the times of access and modification.
 *
 * Not carried: the inode number, ctime and birth time, which nobody can set.  Files are refused whose attributes
 * forbid a replacement or speak of their very bytes: set-uid and set-gid programs, immutable and append-only files,
 * files under fs-verity, fscrypt, IMA or EVM.
 *
 * Only root sees trusted.*: run as the owner of the images, it is left behind. */

struct attribute {
	char *name;
	void *value;
	size_t len;
};

struct attributes {
	struct stat st;
	bool has_flags, has_hints; /* the file system knows them */
	unsigned flags;		   /* FS_IOC_GETFLAGS */
	struct fsxattr hints;	   /* FS_IOC_FSGETXATTR: project id and extent sizes */
	VEC(struct attribute) list;
};
#define ATTRIBUTES_INIT { .has_flags = false }

/* Reads them, and fails with ERR_REFUSED or ERR_UNSUPPORTED for a file that must not be replaced. */
int attributes_read(int fd, struct attributes *ret, struct err *err);
void attributes_release(struct attributes *a);
CLEANUP_DEFINE_RELEASE(struct attributes, attributes_release)

/* Sets on an empty file what can only be set there: flags as chattr +C, extent sizes, the project (so that what is
 * written is counted to it), compression of btrfs. */
int attributes_set_empty(const struct attributes *a, int fd, struct err *err);

/* Sets all the rest; the last thing to do before the file is synced, for writing to a file takes some of it back. */
int attributes_set(const struct attributes *a, int fd, struct err *err);

/* Does the file have them, neither less nor more (but for what scanner/noted.h notes)?  ERR_UNSUPPORTED names the first that
 * differs.  The time of access is not compared: reading moves it. */
int attributes_compare(const struct attributes *a, int fd, struct err *err);

/* Can a file with these attributes be moved into the directory?  ERR_UNSUPPORTED when it is of another project, whose
 * files only that project's directories take. */
int attributes_may_enter(const struct attributes *a, int dirfd, struct err *err);

#endif
