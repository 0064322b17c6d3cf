/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_TESTS_LATE_GUEST_H
#define DEDUPSCAN_TESTS_LATE_GUEST_H

#include "tests/unit/pool_help.h"

/* A guest that starts in the last moment before the stub that it stands on gets another one in its place. */

static struct {
	char name[POOL_FILE_NAME_ROOM];
	int fd;
	struct file_ops ops;
} late_guest;

static int open_before_rename(int from_dirfd, const char *from, int to_dirfd, const char *to, unsigned flags)
{
	if (late_guest.fd < 0 && strcmp(to, late_guest.name) == 0)
		late_guest.fd = openat(to_dirfd, to, O_RDONLY | O_CLOEXEC);
	return file_ops_os.renameat2(from_dirfd, from, to_dirfd, to, flags);
}

static void late_guest_begin(const struct view *v)
{
	pool_id_file_name(v->id, late_guest.name);
	late_guest.fd = -1;
	late_guest.ops = file_ops_os;
	late_guest.ops.renameat2 = open_before_rename;
	file_ops = &late_guest.ops;
}

/* A collection looks for those who have the stub of a view open, and finds them by its name only. */
static void late_guest_is_found(const struct view *v)
{
	char kept[VIEW_KEPT_STUB_ROOM];
	struct stat was, is;

	file_ops = &file_ops_os;
	assert_int_equal(fstat(late_guest.fd, &was), 0);
	assert_int_equal(fstatat(pool->dirs[POOL_QUARANTINE], view_kept_stub(v, kept), &is, 0), 0);
	assert_int_equal(is.st_ino, was.st_ino);
	close(late_guest.fd);
}

#endif
