/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/hold.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "scanner/base/file.h"

/* How it works: first the lease, then the locks, then a look at what others leave beside a file.  In this order,
 * because from the lease on whoever opens the file breaks it: what is not seen afterwards came too late, and
 * hold_whole() tells.
 *
 * A write lease is granted on a descriptor of any mode while the kernel counts no other open file of the inode
 * (closed descriptors with mappings, loop devices and swap files are open files; O_PATH descriptors are none).  When
 * it breaks F_GETLEASE tells what it is to become, and never F_WRLCK again.  Rename, link and unlink do not break it.
 *
 * SIGIO, which a broken lease sends, would end a process that does not expect it.  F_SETSIG makes it SIGURG, for this
 * open file only: no handler, no mask, and a signal that is ignored interrupts nothing.  (Not a real-time signal:
 * where its queue is full the kernel falls back on SIGIO.) */

#define LIBVIRT_PREFIX "trusted.libvirt.security."
#define LCK_ROOM (NAME_MAX + 16)

static const struct {
	off_t start, len;
} qemu_bytes[] = { { 100, 4 }, { 200, 4 } }; /* QEMU's block/file-posix.c: RAW_LOCK_PERM_BASE, RAW_LOCK_SHARED_BASE */

static const struct {
	uint32_t magic;
	bool shared;
	char name[12];
} fs_types[] = {
	{ 0x0000EF53, false, "ext4" },	   { 0x58465342, false, "xfs" },     { 0x9123683E, false, "btrfs" },
	{ 0xF2F52010, false, "f2fs" },	   { 0xCA451A4E, false, "bcachefs" }, { 0x2FC12FC1, false, "zfs" },
	{ 0x01021994, false, "tmpfs" },	   { 0x858458F6, false, "ramfs" },   { 0x3153464A, false, "jfs" },
	{ 0x52654973, false, "reiserfs" }, { 0x00003434, false, "nilfs2" },  { 0x794C7630, false, "overlay" },
	{ 0x00004D44, false, "vfat" },	   { 0x2011BAB0, false, "exfat" },   { 0x7366746E, false, "ntfs3" },
	{ 0x15013346, false, "udf" },

	{ 0x00006969, true, "nfs" },	   { 0xFF534D42, true, "cifs" },     { 0xFE534D42, true, "smb2" },
	{ 0x0000517B, true, "smb" },	   { 0x65735546, true, "fuse" },     { 0x01161970, true, "gfs2" },
	{ 0x7461636F, true, "ocfs2" },	   { 0x00C36400, true, "ceph" },     { 0x01021997, true, "9p" },
	{ 0x5346414F, true, "afs" },	   { 0x6B414653, true, "afs" },	     { 0x73757245, true, "coda" },
	{ 0x0BD00BD0, true, "lustre" },	   { 0x47504653, true, "gpfs" },     { 0x20030528, true, "orangefs" },
	{ 0x19830326, true, "beegfs" },	   { 0xAAD7AAEA, true, "panfs" },    { 0x786F4256, true, "vboxsf" },
	{ 0xBACBACBC, true, "vmhgfs" },	   { 0x7C7C6673, true, "prl_fs" },   { 0xBEEFDEAD, true, "snfs" },
	{ 0x61636673, true, "acfs" },
};

bool hold_fs_is_shared(int fd, char *ret_type)
{
	struct statfs fs;

	if (file_ops->fstatfs(fd, &fs) < 0) {
		snprintf(ret_type, 32, "unknown");
		return true;
	}
	for (size_t i = 0; i < sizeof(fs_types) / sizeof(*fs_types); i++)
		if (fs_types[i].magic == (uint32_t)fs.f_type) {
			snprintf(ret_type, 32, "%s", fs_types[i].name);
			return fs_types[i].shared;
		}
	snprintf(ret_type, 32, "unknown (0x%08x)", (unsigned)fs.f_type);
	return true;
}

/* ---- the lease and the locks ---- */

static int fcntl_number(int fd, int cmd, int number)
{
	return file_ops->fcntl(fd, cmd, (void *)(intptr_t)number);
}

/* 0, or an errno: EAGAIN = somebody else has the file open, EACCES = this user may not. */
static int try_lease(int fd)
{
	if (fcntl_number(fd, F_SETSIG, SIGURG) < 0 || fcntl_number(fd, F_SETLEASE, F_WRLCK) < 0)
		return errno;
	return 0;
}

static bool means_no_leases(int e)
{
	return e == EINVAL || e == EOPNOTSUPP || e == ENOSYS || e == ENOLCK;
}

static int busy(int fd, struct err *err)
{
	char holder[200];

	if (*hold_holder(fd, holder, sizeof(holder)))
		return err_set(err, ERR_BUSY, "in use by %s; stop that, or try again later", holder);
	return err_set(err, ERR_BUSY,
		       "in use by somebody whom the system does not name%s; stop the guest, or try again later",
		       geteuid() ? " to this user" : "");
}

static int cannot_tell(const char *fs, struct err *err)
{
	return err_set(err, ERR_UNSUPPORTED,
		       "its file system, %s, cannot tell who else uses the file; if you know that nobody does, on no host, "
		       "say --assume-idle",
		       fs);
}

/* 1 = the attributes are there. */
static int libvirt_remembers(int fd, struct err *err)
{
	ssize_t room = file_ops->flistxattr(fd, NULL, 0), len = 0;
	CLEANUP(free) char *list = calloc(1, room > 0 ? (size_t)room + 1 : 1);

	if (!list)
		return err_set(err, ERR_MEMORY, "out of memory");
	if (room > 0)
		len = file_ops->flistxattr(fd, list, (size_t)room);
	if (room < 0 || len < 0)
		return errno == EOPNOTSUPP || errno == ENOSYS ? 0 : err_errno(err, "cannot list extended attributes");
	for (const char *name = list; name < list + len; name += strlen(name) + 1)
		if (strncmp(name, LIBVIRT_PREFIX, strlen(LIBVIRT_PREFIX)) == 0)
			return 1;
	return 0;
}

/* Where no lease tells: what is seen of users all the same. */
static int nobody_seen(int fd, struct err *err)
{
	char holder[8];
	int rc;

	if (*hold_holder(fd, holder, sizeof(holder)))
		return busy(fd, err);
	rc = libvirt_remembers(fd, err);
	if (rc > 0)
		return err_set(err, ERR_BUSY,
			       "libvirt says that a guest uses it; if none does, on no host, remove its attributes "
			       LIBVIRT_PREFIX "* with setfattr -x");
	return rc;
}

static int set_locks(int fd, short type)
{
	int rc = 0;

	for (size_t i = 0; i < sizeof(qemu_bytes) / sizeof(*qemu_bytes); i++) {
		struct flock l = { .l_type = type, .l_start = qemu_bytes[i].start, .l_len = qemu_bytes[i].len };

		if (file_ops->fcntl(fd, F_OFD_SETLK, &l) < 0)
			rc = -1;
		if (rc < 0 && type != F_UNLCK)
			break;
	}
	return rc;
}

static int take_lease(struct hold *h, const char *fs, bool shared, bool assume_idle, struct err *err)
{
	int e = try_lease(h->fd);

	h->lease = e == 0;
	if (h->lease)
		return 0;
	if (e == EAGAIN && !shared)
		return busy(h->fd, err);
	/* A server that makes no promise now says EAGAIN too. */
	if (e == EAGAIN || means_no_leases(e))
		return assume_idle ? nobody_seen(h->fd, err) : cannot_tell(fs, err);
	if (e == EACCES || e == EPERM)
		return err_set(err, ERR_REFUSED,
			       "only its owner or root can keep others from opening it while it is changed: run as one of them");
	errno = e;
	return err_errno(err, "cannot get a lease");
}

static int take_locks(struct hold *h, struct err *err)
{
	int e;

	h->locks = set_locks(h->fd, F_WRLCK) == 0;
	if (h->locks)
		return 0;
	e = errno;
	set_locks(h->fd, F_UNLCK);
	if (e == EAGAIN || e == EACCES)
		return busy(h->fd, err);
	if (!h->lease && means_no_leases(e)) /* the user's word must do for locks, too */
		return 0;
	errno = e;
	return err_errno(err, "cannot lock the bytes that QEMU locks");
}

/* ---- what VMware leaves beside a file ---- */

static int is_lck(void *ctx, const char *name, struct err *err)
{
	size_t len = strlen(name);

	(void)ctx, (void)err;
	return len > 4 && strcmp(name + len - 4, ".lck") == 0;
}

static int vmware_says(const char *lck, struct err *err)
{
	return err_set(err, ERR_BUSY,
		       "VMware's lock '%.120s' lies beside it; stop the virtual machine, or, if none uses the image on any host, "
		       "remove that lock",
		       lck);
}

/* The directory NAME.lck, if there is one with a lock in it. */
static int check_lck_dir(int dirfd, const char *name, struct err *err)
{
	char lck[LCK_ROOM];
	struct err why = ERR_INIT;
	int fd, rc;

	snprintf(lck, sizeof(lck), "%s.lck", name);
	fd = file_open(dirfd, lck, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NONBLOCK, 0, &why);
	if (fd < 0 && (why.errnum == ENOENT || why.errnum == ENOTDIR || why.errnum == ELOOP || why.errnum == ENAMETOOLONG))
		return 0;
	rc = fd < 0 ? -1 : file_each_name(fd, is_lck, NULL, &why);
	if (fd >= 0)
		file_ops->close(fd);
	if (rc > 0)
		return vmware_says(lck, err);
	if (rc < 0 && err)
		*err = why;
	return rc;
}

static int check_lck_file(int dirfd, uint64_t inode, struct err *err)
{
	char lck[LCK_ROOM];
	struct stat st;

	snprintf(lck, sizeof(lck), ".lck-%016llx", (unsigned long long)inode);
	if (file_ops->fstatat(dirfd, lck, &st, AT_SYMLINK_NOFOLLOW) == 0)
		return vmware_says(lck, err);
	return errno == ENOENT ? 0 : err_errno(err, "cannot look for '%s'", lck);
}

static int check_vmware(int dirfd, const char *name, uint64_t inode, struct err *err)
{
	const char *dot = strrchr(name, '.'), *dash = strrchr(name, '-');
	char descriptor[LCK_ROOM];

	if (check_lck_dir(dirfd, name, err) < 0)
		return -1;
	/* disk-flat.vmdk, disk-s001.vmdk: the lock is at disk.vmdk. */
	if (dot && dash && dash < dot && strcasecmp(dot, ".vmdk") == 0) {
		snprintf(descriptor, sizeof(descriptor), "%.*s%s", (int)(dash - name), name, dot);
		if (check_lck_dir(dirfd, descriptor, err) < 0)
			return -1;
	}
	/* Tools of both byte orders have been seen to write the number. */
	if (check_lck_file(dirfd, inode, err) < 0)
		return -1;
	return check_lck_file(dirfd, __builtin_bswap64(inode), err);
}

/* ---- the hold ---- */

static int inode_of(int fd, uint64_t *ret, struct err *err)
{
	struct stat st;

	if (file_ops->fstat(fd, &st) < 0)
		return err_errno(err, "cannot stat it");
	if (!S_ISREG(st.st_mode))
		return err_set(err, ERR_REFUSED, "it is not a regular file");
	*ret = st.st_ino;
	return 0;
}

int hold_take(struct hold *h, int fd, int dirfd, const char *name, const struct hold_options *o, struct err *err)
{
	char fs[32];
	bool shared = hold_fs_is_shared(fd, fs);
	struct hold taken = { .fd = fd };
	uint64_t inode;

	if (inode_of(fd, &inode, err) < 0)
		return -1;
	if (shared && !o->assume_idle)
		return cannot_tell(fs, err);
	if (take_lease(&taken, fs, shared, o->assume_idle, err) < 0 || take_locks(&taken, err) < 0 ||
	    check_vmware(dirfd, name, inode, err) < 0) {
		hold_release(&taken);
		return -1;
	}
	*h = taken;
	return 0;
}

int hold_whole(const struct hold *h, struct err *err)
{
	int lease = h->lease ? file_ops->fcntl(h->fd, F_GETLEASE, NULL) : F_WRLCK;

	if (lease < 0)
		return err_errno(err, "cannot look at a lease");
	if (lease != F_WRLCK)
		return err_set(err, ERR_BUSY, "somebody opens the image; try again later");
	return 0;
}

void hold_release(struct hold *h)
{
	if (h->fd >= 0 && h->locks)
		set_locks(h->fd, F_UNLCK);
	if (h->fd >= 0 && h->lease)
		fcntl_number(h->fd, F_SETLEASE, F_UNLCK);
	*h = (struct hold)HOLD_INIT;
}

/* Where we hold a lease already it is not taken again: it would be dropped with this one. */
static int try_lease_for_a_moment(int fd)
{
	int had = file_ops->fcntl(fd, F_GETLEASE, NULL), e;

	if (had == F_WRLCK)
		return 0;
	if (had == F_RDLCK)
		return EAGAIN;
	e = try_lease(fd);
	if (e == 0)
		fcntl_number(fd, F_SETLEASE, F_UNLCK);
	return e;
}

int hold_look(int fd, int dirfd, const char *name, struct err *err)
{
	char fs[32];
	bool shared = hold_fs_is_shared(fd, fs);
	uint64_t inode;
	int e;

	if (inode_of(fd, &inode, err) < 0)
		return -1;
	e = try_lease_for_a_moment(fd);
	if (e == EAGAIN && !shared)
		return busy(fd, err);
	if ((e || shared) && nobody_seen(fd, err) < 0)
		return -1;
	return check_vmware(dirfd, name, inode, err);
}

bool hold_may_be_open(int dirfd, const char *name, bool assume_idle)
{
	int fd = file_open(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, NULL);
	char fs[32];
	bool open;

	if (fd < 0)
		return true;
	open = (!assume_idle && hold_fs_is_shared(fd, fs)) || hold_look(fd, dirfd, name, NULL) < 0;
	file_ops->close(fd);
	return open;
}
