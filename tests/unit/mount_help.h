/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_MOUNT_HELP_H
#define DEDUPSCAN_MOUNT_HELP_H

#include "tests/unit/tree_help.h"

#include <stdbool.h>
#include <sys/mount.h>
#include <sys/vfs.h>

/* For tests that need a file system of some type: one in a file, mounted at "mnt" in the test's tree by a loop device. */

static inline bool mount_command(const char *format, const char *a, const char *b)
{
	char command[2 * PATH_MAX];

	snprintf(command, sizeof(command), format, a, b);
	return system(command) == 0;
}

/* Skips the test where there is no root, no mkfs.TYPE, or nothing to mount with. */
static inline void mount_make(const char *type)
{
	const char *how =
		strcmp(type, "xfs") == 0 ? "mkfs.xfs -q -m reflink=1 %s >/dev/null 2>&1" : "mkfs.%2$s -q %1$s >/dev/null 2>&1";

	if (geteuid() != 0) {
		printf("needs root\n");
		skip();
	}
	tree_dir("mnt");
	assert_true(mount_command("truncate -s 400M %s", in_tree("fs"), NULL));
	if (!mount_command(how, in_tree("fs"), type) ||
	    !mount_command("mount -o loop %s %s 2>/dev/null", in_tree("fs"), in_tree("mnt"))) {
		printf("cannot make and mount %s here\n", type);
		skip();
	}
}

static inline int mount_remove(void **state)
{
	umount2(in_tree("mnt"), MNT_DETACH);
	return tree_remove(state);
}

#define mount_test(f) cmocka_unit_test_setup_teardown(f, tree_make, mount_remove)

static inline int mount_file(const char *name)
{
	int fd = open(in_tree(name), O_RDWR | O_CREAT, 0600);

	assert_true(fd >= 0);
	return fd;
}

/* Bytes that are in use, all that was written and freed being so. */
static inline uint64_t mount_used(void)
{
	struct statfs st;
	int fd = open(in_tree("mnt"), O_RDONLY);

	assert_true(fd >= 0);
	for (int i = 0; i < 2; i++) /* btrfs frees with the next commit */
		assert_int_equal(syncfs(fd), 0);
	assert_int_equal(fstatfs(fd, &st), 0);
	close(fd);
	return (uint64_t)(st.f_blocks - st.f_bfree) * (uint64_t)st.f_bsize;
}

#endif
