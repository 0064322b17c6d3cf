/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/xattr.h>

#include "compactor/attributes.h"
#include "scanner/base/file.h"

#define ACL "system.posix_acl_access"
#define DEFAULT_ACL "system.posix_acl_default"

/* user::rw-, user:1005:rw-, group::r--, mask::rw-, other::--- */
static const struct {
	uint32_t version;
	struct {
		uint16_t tag, perm;
		uint32_t id;
	} entries[5];
} acl = { 2, { { 1, 6, 0xffffffff }, { 2, 6, 1005 }, { 4, 4, 0xffffffff }, { 0x10, 6, 0xffffffff }, { 0x20, 0, 0xffffffff } } };

/* cap_net_raw, permitted and effective: what setcap(8) writes */
static const uint32_t capability[5] = { 0x02000001, 1u << 13, 0, 0, 0 };

static bool is_root(void)
{
	return geteuid() == 0;
}

static int open_file(const char *name, int flags)
{
	int fd = open(in_tree(name), flags | O_CLOEXEC, 0600);

	if (fd < 0)
		fail_msg("%s: %s", name, strerror(errno));
	return fd;
}

/* ---- a file with many attributes ---- */

enum { OWNER = 1, WITH_ACL = 2, XATTRS = 4, FLAGS = 8, INHERITED = 16, NR_COMBINATIONS = 32 };

static void set(int fd, const char *name, const void *value, size_t len)
{
	if (fsetxattr(fd, name, value, len, 0) < 0)
		fail_msg("cannot set %s: %s", name, strerror(errno));
}

static void change_flags(int fd, unsigned set_these, unsigned clear_these)
{
	long has = 0;

	assert_int_equal(ioctl(fd, FS_IOC_GETFLAGS, &has), 0);
	has = (has | set_these) & ~(long)clear_these;
	assert_int_equal(ioctl(fd, FS_IOC_SETFLAGS, &has), 0);
}

static unsigned get_flags(int fd)
{
	long has = 0;

	assert_int_equal(ioctl(fd, FS_IOC_GETFLAGS, &has), 0);
	return (unsigned)has & (FS_NODUMP_FL | FS_NOATIME_FL | FS_NOCOW_FL | FS_NOCOMP_FL);
}

static struct fsxattr get_hints(int fd)
{
	struct fsxattr h = { 0 };

	assert_int_equal(ioctl(fd, FS_IOC_FSGETXATTR, &h), 0);
	return h;
}

/* Project 42 and extents of 64 KiB, where they are known. */
static void set_hints(int fd)
{
	struct fsxattr h = get_hints(fd);

	h.fsx_projid = 42;
	if (ioctl(fd, FS_IOC_FSSETXATTR, &h) < 0)
		return;
	h.fsx_xflags |= FS_XFLAG_EXTSIZE;
	h.fsx_extsize = 65536;
	ioctl(fd, FS_IOC_FSSETXATTR, &h);
}

static int make_original(unsigned combination, unsigned flags)
{
	static const mode_t modes[] = { 0600, 0644, 0660, 0440 };
	struct timespec times[2] = { { 1600000000 + combination, 111111111 }, { 1500000000 - combination, 987654321 } };
	int fd = open_file("original", O_RDWR | O_CREAT);

	if (combination & FLAGS) {
		change_flags(fd, flags, 0);
		if (is_root())
			set_hints(fd);
	}
	assert_int_equal(pwrite(fd, "data", 4, 1 << 20), 4);
	if (combination & OWNER && is_root())
		assert_int_equal(fchown(fd, 1000, 1001), 0);
	assert_int_equal(fchmod(fd, modes[combination % 4]), 0);
	if (combination & WITH_ACL)
		set(fd, ACL, &acl, sizeof(acl));
	if (combination & XATTRS) {
		set(fd, "user.comment", "a comment", 9);
		set(fd, "user.empty", "", 0);
		if (is_root()) {
			set(fd, "trusted.thing", "\0\1\2", 3);
			set(fd, "security.capability", capability, sizeof(capability));
		}
	}
	assert_int_equal(futimens(fd, times), 0);
	return fd;
}

static int carry(int old, struct err *err)
{
	CLEANUP(attributes_release) struct attributes a = ATTRIBUTES_INIT;
	int new = open_file("new", O_RDWR | O_CREAT | O_EXCL);

	if (attributes_read(old, &a, err) < 0 || attributes_set_empty(&a, new, err) < 0)
		return -1;
	assert_int_equal(pwrite(new, "data", 4, 1 << 20), 4);
	if (attributes_set(&a, new, err) < 0 || attributes_compare(&a, new, err) < 0)
		return -1;
	return new;
}

/* ---- looked at by other means than theirs ---- */

static void assert_same_value(int a, int b, const char *name)
{
	char x[256], y[256];
	ssize_t n = fgetxattr(a, name, x, sizeof(x)), m = fgetxattr(b, name, y, sizeof(y));

	if (n != m || (n > 0 && memcmp(x, y, (size_t)n) != 0))
		fail_msg("'%s' differs (%zd and %zd bytes)", name, n, m);
}

static void assert_same(int a, int b)
{
	static const char *const names[] = { ACL, "user.comment", "user.empty", "trusted.thing", "security.capability" };
	struct stat x, y;

	assert_int_equal(fstat(a, &x), 0);
	assert_int_equal(fstat(b, &y), 0);
	assert_int_equal(x.st_uid, y.st_uid);
	assert_int_equal(x.st_gid, y.st_gid);
	assert_int_equal(x.st_mode, y.st_mode);
	assert_int_equal(x.st_mtim.tv_sec, y.st_mtim.tv_sec);
	assert_int_equal(x.st_mtim.tv_nsec, y.st_mtim.tv_nsec);
	assert_int_equal(x.st_atim.tv_sec, y.st_atim.tv_sec);
	assert_int_equal(x.st_atim.tv_nsec, y.st_atim.tv_nsec);
	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		assert_same_value(a, b, names[i]);
	assert_int_equal(flistxattr(a, NULL, 0), flistxattr(b, NULL, 0));
	assert_int_equal(get_flags(a), get_flags(b));
	assert_int_equal(get_hints(a).fsx_projid, get_hints(b).fsx_projid);
	assert_int_equal(get_hints(a).fsx_extsize, get_hints(b).fsx_extsize);
	assert_true(y.st_blocks < 512); /* 1 MiB of it is a hole */
}

static void try_combinations(unsigned flags)
{
	for (unsigned c = 0; c < NR_COMBINATIONS; c++) {
		struct err err = ERR_INIT;
		int old, new;

		unlink(in_tree("original"));
		unlink(in_tree("new"));
		removexattr(tree, DEFAULT_ACL);
		old = make_original(c, flags);
		if (c & INHERITED) /* the new file's directory gives what the original has not */
			assert_int_equal(setxattr(tree, DEFAULT_ACL, &acl, sizeof(acl), 0), 0);
		new = carry(old, &err);
		if (new < 0)
			fail_msg("combination %u: %s", c, err.text);
		assert_same(old, new);
		close(old);
		close(new);
	}
}

/* ---- the file systems ---- */

static char mounted[128];

/* Makes one in a file and has `tree` be in it. */
static void enter(const char *type, const char *mkfs)
{
	char command[600];

	if (!is_root()) {
		print_message("only root makes file systems\n");
		skip();
	}
	snprintf(mounted, sizeof(mounted), "%.100s", tree);
	snprintf(command, sizeof(command),
		 "(truncate -s 320M %s.img && %s %s.img && mount -t %s -o loop %s.img %s) >/dev/null 2>&1", tree, mkfs, tree,
		 type, tree, tree);
	if (system(command) != 0) {
		snprintf(command, sizeof(command), "%s.img", tree);
		unlink(command);
		*mounted = '\0';
		print_message("no %s on a loop device here\n", type);
		skip();
	}
}

static int leave(void **state)
{
	char image[160];

	if (*mounted) {
		umount2(mounted, MNT_DETACH);
		snprintf(image, sizeof(image), "%s.img", mounted);
		unlink(image);
		*mounted = '\0';
	}
	return tree_remove(state);
}

static void require_plain_fs(void)
{
	int fd = open_file("probe", O_RDWR | O_CREAT);
	long flags = 0;
	bool good = ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0 && fsetxattr(fd, ACL, &acl, sizeof(acl), 0) == 0 &&
		    fsetxattr(fd, "user.a", "b", 1, 0) == 0;

	close(fd);
	unlink(in_tree("probe"));
	if (!good) {
		print_message("no attributes on the file system of temporary files\n");
		skip();
	}
}

/* F5 */
static void f5_matrix_here(void **state)
{
	(void)state;
	require_plain_fs();
	try_combinations(FS_NODUMP_FL | FS_NOATIME_FL);
}

static void f5_matrix_on_xfs(void **state)
{
	(void)state;
	enter("xfs", "mkfs.xfs -q -f");
	try_combinations(FS_NODUMP_FL | FS_NOATIME_FL);
}

static void f5_matrix_on_btrfs(void **state)
{
	(void)state;
	enter("btrfs", "mkfs.btrfs -q -f");
	try_combinations(FS_NODUMP_FL | FS_NOATIME_FL | FS_NOCOW_FL);
}

static void btrfs_compression_is_carried(void **state)
{
	struct err err = ERR_INIT;
	char value[16] = "";
	int old, new;

	(void)state;
	enter("btrfs", "mkfs.btrfs -q -f");
	old = open_file("original", O_RDWR | O_CREAT);
	set(old, "btrfs.compression", "zstd", 4);
	new = carry(old, &err);
	if (new < 0)
		fail_msg("%s", err.text);
	assert_int_equal(fgetxattr(new, "btrfs.compression", value, sizeof(value)), 4);
	assert_string_equal(value, "zstd");
	close(old);
	close(new);
}

/* ---- what differs is named ---- */

static void assert_differs(const struct attributes *a, int fd, const char *words)
{
	struct err err = ERR_INIT;

	if (attributes_compare(a, fd, &err) == 0)
		fail_msg("not noticed: %s", words);
	assert_int_equal(err.kind, ERR_UNSUPPORTED);
	if (!strstr(err.text, words))
		fail_msg("'%s' does not say '%s'", err.text, words);
}

static void f5_every_difference_is_noticed(void **state)
{
	CLEANUP(attributes_release) struct attributes a = ATTRIBUTES_INIT;
	struct timespec times[2] = { { 0, UTIME_OMIT }, { 0, 0 } };
	int old, new;

	(void)state;
	require_plain_fs();
	old = make_original(WITH_ACL | XATTRS | FLAGS, FS_NODUMP_FL);
	new = carry(old, NULL);
	assert_true(new >= 0);
	assert_int_equal(attributes_read(old, &a, NULL), 0);
	assert_int_equal(attributes_compare(&a, new, NULL), 0);

	times[1] = a.st.st_mtim;
	times[1].tv_nsec++;
	futimens(new, times);
	assert_differs(&a, new, "time of modification");
	times[1].tv_nsec--;
	futimens(new, times);

	set(new, "user.comment", "A comment", 9);
	assert_differs(&a, new, "'user.comment'");
	set(new, "user.comment", "a commen", 8);
	assert_differs(&a, new, "'user.comment'");
	set(new, "user.comment", "a comment", 9);
	set(new, "user.more", "", 0);
	assert_differs(&a, new, "'user.more'");
	assert_int_equal(fremovexattr(new, "user.more"), 0);
	assert_int_equal(fremovexattr(new, "user.empty"), 0);
	assert_differs(&a, new, "'user.empty'");
	set(new, "user.empty", "", 0);

	change_flags(new, 0, FS_NODUMP_FL);
	assert_differs(&a, new, "inode flags");
	change_flags(new, FS_NODUMP_FL, 0);
	assert_int_equal(attributes_compare(&a, new, NULL), 0);

	fchmod(new, 0600);
	assert_differs(&a, new, "mode");
	assert_int_equal(attributes_set(&a, new, NULL), 0);
	if (is_root()) {
		assert_int_equal(fchown(new, 7, 7), 0);
		assert_differs(&a, new, "owner");
		assert_int_equal(fchown(new, 0, 0), 0);
		assert_differs(&a, new, "'security.capability'"); /* which a change of owner takes away */
	}
	close(old);
	close(new);
}

/* ---- what is refused ---- */

static enum err_kind read_kind(int fd)
{
	CLEANUP(attributes_release) struct attributes a = ATTRIBUTES_INIT;
	struct err err = ERR_INIT;

	return attributes_read(fd, &a, &err) == 0 ? ERR_NONE : err.kind;
}

static ssize_t ima_list(int fd, char *list, size_t room)
{
	(void)fd;
	if (room >= 13)
		memcpy(list, "security.ima", 13);
	return 13;
}

static ssize_t ima_get(int fd, const char *name, void *value, size_t room)
{
	(void)fd;
	(void)name;
	if (room)
		memcpy(value, "digest", 6);
	return 6;
}

static void f5_what_must_not_be_replaced(void **state)
{
	struct file_ops ops = file_ops_os;
	int fd = open_file("file", O_RDWR | O_CREAT), dir = open(tree, O_RDONLY);

	(void)state;
	assert_int_equal(read_kind(fd), ERR_NONE);
	assert_int_equal(read_kind(dir), ERR_REFUSED);
	fchmod(fd, 04700);
	assert_int_equal(read_kind(fd), ERR_REFUSED);
	fchmod(fd, 02700);
	assert_int_equal(read_kind(fd), ERR_REFUSED);
	fchmod(fd, 0700);
	ops.flistxattr = ima_list;
	ops.fgetxattr = ima_get;
	file_ops = &ops;
	assert_int_equal(read_kind(fd), ERR_UNSUPPORTED);
	file_ops = &file_ops_os;
	close(fd);
	close(dir);
}

static void another_project_is_told_before(void **state)
{
	CLEANUP(attributes_release) struct attributes a = ATTRIBUTES_INIT;
	struct fsxattr h;
	struct err err = ERR_INIT;
	int fd, dir;

	(void)state;
	enter("xfs", "mkfs.xfs -q -f");
	fd = open_file("file", O_RDWR | O_CREAT);
	tree_dir("dir");
	dir = open(in_tree("dir"), O_RDONLY | O_DIRECTORY);
	set_hints(fd);
	assert_int_equal(attributes_read(fd, &a, NULL), 0);
	assert_int_equal(attributes_may_enter(&a, dir, NULL), 0);
	h = get_hints(dir);
	h.fsx_projid = 7;
	h.fsx_xflags |= FS_XFLAG_PROJINHERIT;
	assert_int_equal(ioctl(dir, FS_IOC_FSSETXATTR, &h), 0);
	assert_int_equal(attributes_may_enter(&a, dir, &err), -1);
	assert_int_equal(err.kind, ERR_UNSUPPORTED);
	assert_int_equal(rename(in_tree("file"), in_tree("dir/file")), -1); /* so says the kernel */
	assert_int_equal(errno, EXDEV);
	close(fd);
	close(dir);
}

/* B10: each call that fails is an error with words. */
static unsigned calls, fail_at;

static bool fails(void)
{
	errno = EIO;
	return ++calls == fail_at;
}

static int bad_ioctl(int fd, unsigned long request, void *arg)
{
	return fails() ? -1 : file_ops_os.ioctl(fd, request, arg);
}

static int bad_fstat(int fd, struct stat *st)
{
	return fails() ? -1 : file_ops_os.fstat(fd, st);
}

static int bad_fchmod(int fd, mode_t mode)
{
	return fails() ? -1 : fchmod(fd, mode);
}

static int bad_futimens(int fd, const struct timespec times[2])
{
	return fails() ? -1 : futimens(fd, times);
}

static ssize_t bad_flistxattr(int fd, char *list, size_t room)
{
	return fails() ? -1 : flistxattr(fd, list, room);
}

static int bad_fsetxattr(int fd, const char *name, const void *value, size_t len, int flags)
{
	return fails() ? -1 : fsetxattr(fd, name, value, len, flags);
}

static void every_failing_call_is_an_error(void **state)
{
	struct file_ops ops = file_ops_os;
	unsigned nr;
	int old, new;

	(void)state;
	require_plain_fs();
	old = make_original(WITH_ACL | XATTRS, 0);
	ops.ioctl = bad_ioctl, ops.fstat = bad_fstat, ops.fchmod = bad_fchmod, ops.futimens = bad_futimens;
	ops.flistxattr = bad_flistxattr, ops.fsetxattr = bad_fsetxattr;
	file_ops = &ops;
	for (fail_at = nr = 0; fail_at <= nr; fail_at++) {
		struct err err = ERR_INIT;

		calls = 0;
		new = carry(old, &err);
		unlink(in_tree("new"));
		if (fail_at == 0)
			nr = calls;
		if ((new < 0) != (fail_at > 0) || (new < 0 && !*err.text))
			fail_msg("call %u of %u: %d, %s", fail_at, nr, new, err.text);
		if (new >= 0)
			close(new);
	}
	file_ops = &file_ops_os;
	assert_true(nr > 12);
	close(old);
}

#define fs_test(f) cmocka_unit_test_setup_teardown(f, tree_make, leave)

int main(void)
{
	const struct CMUnitTest tests[] = {
		fs_test(f5_matrix_here),
		fs_test(f5_matrix_on_xfs),
		fs_test(f5_matrix_on_btrfs),
		fs_test(btrfs_compression_is_carried),
		fs_test(f5_every_difference_is_noticed),
		fs_test(f5_what_must_not_be_replaced),
		fs_test(another_project_is_told_before),
		fs_test(every_failing_call_is_an_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
