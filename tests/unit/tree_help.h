/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_TREE_HELP_H
#define DEDUPSCAN_TREE_HELP_H

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <linux/fs.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* A directory of a test's own, with whatever tree in it. */

static char tree[PATH_MAX];

/* The absolute path of a name in the tree; good until the fourth call after it. */
static inline const char *in_tree(const char *name)
{
	static char paths[4][PATH_MAX + 512];
	static unsigned next;
	char *p = paths[next++ % 4];

	snprintf(p, sizeof(paths[0]), "%s/%s", tree, name);
	return p;
}

static inline void tree_write(const char *name, const void *data, size_t len)
{
	int fd = open(in_tree(name), O_WRONLY | O_CREAT, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, len), len);
	close(fd);
}

static inline void tree_file(const char *name)
{
	tree_write(name, name, strlen(name));
}

static inline void tree_dir(const char *name)
{
	assert_int_equal(mkdir(in_tree(name), 0700), 0);
}

static inline int tree_make(void **state)
{
	char made[64];

	(void)state;
	snprintf(made, sizeof(made), "%.40s/tree-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
	return mkdtemp(made) && realpath(made, tree) ? 0 : -1;
}

/* Sets or takes the immutable flag: 0, -1. */
static inline int tree_set_immutable(const char *path, bool on)
{
	int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK), flags = 0, rc;

	if (fd < 0)
		return -1;
	rc = ioctl(fd, FS_IOC_GETFLAGS, &flags);
	flags = on ? flags | FS_IMMUTABLE_FL : flags & ~FS_IMMUTABLE_FL;
	rc = rc < 0 ? rc : ioctl(fd, FS_IOC_SETFLAGS, &flags);
	close(fd);
	return rc;
}

static inline int tree_remove_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
	(void)st;
	(void)kind;
	(void)at;
	if (remove(path) == 0)
		return 0;
	return errno == EPERM && tree_set_immutable(path, false) == 0 ? remove(path) : -1;
}

static inline int tree_remove(void **state)
{
	(void)state;
	return nftw(tree, tree_remove_one, 64, FTW_DEPTH | FTW_PHYS);
}

#define tree_test(f) cmocka_unit_test_setup_teardown(f, tree_make, tree_remove)

#endif
