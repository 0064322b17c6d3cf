/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/pool/immutable.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "compactor/pool/clusters.h"
#include "scanner/base/file.h"

/* The kernel refuses to open such a file for writing, to rename, remove and link it, and to change its owner, mode, times and
 * attributes: EPERM each.  So things are tried, and the flag is looked at only where that fails.
 *
 * ext4 writes what is dirty of a file before it makes it immutable: what we leave was synced.
 *
 * What libvirt 9.0 does: a chown(2) that fails with EPERM is noted in its log, and the guest starts if its QEMU may read the
 * file (tests/interop/pool_libvirt_long.py).  That where SELinux is enforced a label that cannot be set keeps it from starting is
 * assumed, not tried. */

#define TOLD "immutable" /* in the pool */
#define TOLD_ROOM 16

const char *const pool_immutable_names[POOL_NR_IMMUTABLE] = { "auto", "never", "always" };
const char *immutable_selinux = "/sys/fs/selinux/enforce";

/* ---- what it was told ---- */

/* What cannot be read is taken as what keeps no guest from starting. */
enum pool_immutable immutable_told(const struct pool *p)
{
	struct err why = ERR_INIT;
	int fd = file_open(p->dirs[POOL_TOP], TOLD, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, &why);
	char text[TOLD_ROOM] = "";
	ssize_t len;

	if (fd < 0)
		return why.errnum == ENOENT ? POOL_IMMUTABLE_AUTO : POOL_IMMUTABLE_NEVER;
	len = file_read_some(fd, text, sizeof(text) - 1, 0, NULL);
	file_ops->close(fd);
	for (unsigned i = 0; len > 0 && i < POOL_NR_IMMUTABLE; i++)
		if (text[len - 1] == '\n' && strncmp(text, pool_immutable_names[i], (size_t)len - 1) == 0 &&
		    strlen(pool_immutable_names[i]) == (size_t)len - 1)
			return i;
	return POOL_IMMUTABLE_NEVER;
}

int immutable_tell(struct pool *p, enum pool_immutable how, struct err *err)
{
	char text[TOLD_ROOM];
	int len = snprintf(text, sizeof(text), "%s\n", pool_immutable_names[how]);

	p->restless = true;
	if (p->immutable == how)
		return 0;
	if (file_write_atomic(p->dirs[POOL_TOP], TOLD, text, (size_t)len, 0600, err) < 0)
		return err_add(err, "what is to be immutable cannot be noted");
	p->immutable = how;
	return 0;
}

/* ---- the flag ---- */

/* The kernel has a long in the names of these calls, and an int in what it does. */
static int get_flags(int fd, unsigned *ret)
{
	long flags = 0;

	if (file_ops->ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0)
		return -1;
	memcpy(ret, &flags, sizeof(*ret));
	return 0;
}

static int set_flags(int fd, unsigned set)
{
	long flags = 0;

	memcpy(&flags, &set, sizeof(set));
	return file_ops->ioctl(fd, FS_IOC_SETFLAGS, &flags);
}

static bool selinux_is_enabled(void)
{
	struct stat st;

	return file_ops->fstatat(AT_FDCWD, immutable_selinux, &st, 0) == 0;
}

static bool is_wanted(const struct pool *p, const struct stat *st)
{
	if (p->immutable != POOL_IMMUTABLE_AUTO)
		return p->immutable == POOL_IMMUTABLE_ALWAYS;
	return st->st_mode & S_IROTH && !selinux_is_enabled();
}

int immutable_lift(int fd, struct err *err)
{
	unsigned flags;

	if (get_flags(fd, &flags) < 0 || !(flags & FS_IMMUTABLE_FL))
		return 0;
	if (set_flags(fd, flags & ~(unsigned)FS_IMMUTABLE_FL) == 0)
		return 1;
	return err_errno(err, "it is immutable, and stays so (chattr -i)");
}

/* ---- lifting it ---- */

int immutable_lift_in(struct pool *p, int fd, struct err *err)
{
	if (p->clusters && cluster_file_lift(clusters_growing(p->clusters).file, err) < 0)
		return -1;
	return immutable_lift(fd, err) < 0 ? -1 : 0;
}

/* p may be NULL: of a pool that is not open. */
static int lift_name(struct pool *p, int dirfd, const char *name, struct err *err)
{
	struct err why = ERR_INIT;
	int fd = file_open(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, &why), rc;

	if (fd < 0)
		return why.errnum == ENOENT ? 0 : err_set(err, why.kind, "%s", why.text);
	rc = p ? immutable_lift_in(p, fd, err) : immutable_lift(fd, err);
	file_ops->close(fd);
	return rc < 0 ? err_add(err, "'%s'", name) : 0;
}

/* 0 = it was not that; what failed may be tried again. */
static int lift_after(struct pool *p, const struct err *why, int dirfd, const char *name, struct err *err)
{
	if (why->errnum == EPERM)
		return lift_name(p, dirfd, name, err);
	if (err)
		*err = *why;
	return -1;
}

int immutable_rename(struct pool *p, enum pool_dir from, const char *name, enum pool_dir to, const char *as, unsigned flags,
		     struct err *err)
{
	struct err why = ERR_INIT;

	if (file_rename_to(p->dirs[from], name, p->dirs[to], as, flags, &why) == 0)
		return 0;
	if (lift_after(p, &why, p->dirs[from], name, err) < 0 || lift_after(p, &why, p->dirs[to], as, err) < 0)
		return -1;
	return file_rename_to(p->dirs[from], name, p->dirs[to], as, flags, err);
}

static int unlink_in(struct pool *p, int dirfd, const char *name, struct err *err)
{
	struct err why = ERR_INIT;

	if (file_unlink(dirfd, name, &why) == 0)
		return 0;
	return lift_after(p, &why, dirfd, name, err) < 0 ? -1 : file_unlink(dirfd, name, err);
}

int immutable_unlink(struct pool *p, enum pool_dir dir, const char *name, struct err *err)
{
	return unlink_in(p, p->dirs[dir], name, err);
}

int immutable_unlink_closed(int dirfd, const char *name, struct err *err)
{
	return unlink_in(NULL, dirfd, name, err);
}

/* ---- at rest ---- */

/* 1 = the system refuses. */
static int settle(const struct pool *p, int fd)
{
	unsigned flags, set;
	struct stat st;

	if (file_ops->fstat(fd, &st) < 0 || get_flags(fd, &flags) < 0)
		return 1;
	set = is_wanted(p, &st) ? flags | FS_IMMUTABLE_FL : flags & ~(unsigned)FS_IMMUTABLE_FL;
	return set != flags && set_flags(fd, set) < 0;
}

void immutable_settle(const struct pool *p, int fd)
{
	settle(p, fd);
}

static bool is_in_place(const char *name)
{
	return *name != '.';
}

static int open_stub(const struct pool *p, const char *name)
{
	return file_open(p->dirs[POOL_VIEWS], name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, NULL);
}

static int settle_stub(void *ctx, const char *name, struct err *err)
{
	const struct pool *p = ctx;
	int fd = is_in_place(name) ? open_stub(p, name) : -1, rc;

	(void)err;
	if (fd < 0)
		return 0;
	rc = settle(p, fd);
	file_ops->close(fd);
	return rc;
}

/* All stubs, and the other cluster files, are as they are to be while the one that grows is. */
void immutable_rest(struct pool *p)
{
	struct cluster_span grows = clusters_growing(p->clusters);
	int fd = cluster_file_fd(grows.file);
	bool lifted = cluster_file_was_lifted(grows.file), wanted;
	unsigned flags;
	struct stat st;

	if (file_ops->fstat(fd, &st) < 0 || get_flags(fd, &flags) < 0)
		return;
	wanted = is_wanted(p, &st);
	p->restless |= wanted != (lifted || flags & FS_IMMUTABLE_FL);
	if (p->restless && file_each_name(p->dirs[POOL_VIEWS], settle_stub, p, NULL) != 0)
		return;
	for (size_t i = 0; i + 1 < clusters_nr(p->clusters); i++)
		settle(p, cluster_file_fd(clusters_span(p->clusters, i).file));
	if (wanted != !!(flags & FS_IMMUTABLE_FL))
		settle(p, fd);
}

/* ---- for people ---- */

struct looking {
	struct pool *p;
	struct immutable_state *ret;
	bool no_flags; /* of a file that lacks it: it cannot have it */
	bool wanted;   /* it is to have it */
};

static bool can_set(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct caps[_LINUX_CAPABILITY_U32S_3] = { 0 };

	return syscall(SYS_capget, &header, caps) == 0 && caps[0].effective & 1u << CAP_LINUX_IMMUTABLE;
}

static int look_at(struct looking *l, int fd, struct err *err)
{
	unsigned flags = 0;
	struct stat st;

	if (file_ops->fstat(fd, &st) < 0)
		return err_errno(err, "cannot look at a file of the pool");
	l->ret->nr_files++;
	if (get_flags(fd, &flags) < 0)
		l->no_flags = true;
	else if (flags & FS_IMMUTABLE_FL)
		l->ret->nr_immutable++;
	else
		l->wanted |= is_wanted(l->p, &st);
	return 0;
}

static int look_at_stub(void *ctx, const char *name, struct err *err)
{
	struct looking *l = ctx;
	int fd = is_in_place(name) ? open_stub(l->p, name) : -1, rc;

	if (fd < 0) /* a check tells of such */
		return 0;
	rc = look_at(l, fd, err);
	file_ops->close(fd);
	return rc;
}

static const char *why_not(const struct looking *l)
{
	if (l->ret->nr_immutable == l->ret->nr_files)
		return NULL;
	if (l->p->immutable == POOL_IMMUTABLE_NEVER)
		return "as --immutable=never said";
	if (l->p->immutable == POOL_IMMUTABLE_AUTO && selinux_is_enabled())
		return "SELinux is enabled, and libvirt has to change labels";
	if (l->no_flags)
		return "the file system has no such flag";
	if (!l->wanted)
		return "not everybody may read them, so libvirt has to change owners";
	return can_set() ? "the next command that changes the pool sets it" : "it takes CAP_LINUX_IMMUTABLE";
}

int immutable_look(struct pool *p, struct immutable_state *ret, struct err *err)
{
	struct looking l = { .p = p, .ret = ret };

	*ret = (struct immutable_state){ 0 };
	p->immutable = immutable_told(p);
	for (size_t i = 0; i < clusters_nr(p->clusters); i++)
		if (look_at(&l, cluster_file_fd(clusters_span(p->clusters, i).file), err) < 0)
			return -1;
	if (file_each_name(p->dirs[POOL_VIEWS], look_at_stub, &l, err) < 0)
		return -1;
	ret->why = why_not(&l);
	return 0;
}
