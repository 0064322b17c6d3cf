/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/attributes.h"

#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/xattr.h>

#include "scanner/base/file.h"
#include "scanner/noted.h"

/* How it works: everything is read by the original's descriptor and set by the new file's, no path is looked up twice.
 *
 * Order matters.  Before the first byte: flags, hints, project, btrfs.*.  After the last: owner (which takes
 * security.capability and mode bits away), mode, extended attributes (an ACL among them, which rewrites the mode's
 * group bits), times.
 *
 * A directory may have given the new file an ACL that the original has not (a default ACL of the root, inherited by the
 * workshop).  Removing an attribute is no call of the file seam, and need not be: an ACL that says no more than the
 * mode is dropped by the kernel when it is set. */

#define FLAGS_CARRIED                                                                                                  \
	(FS_SECRM_FL | FS_UNRM_FL | FS_COMPR_FL | FS_SYNC_FL | FS_NODUMP_FL | FS_NOATIME_FL | FS_NOCOMP_FL |           \
	 FS_JOURNAL_DATA_FL | FS_NOTAIL_FL | FS_NOCOW_FL | FS_DAX_FL)
#define HINTS_CARRIED                                                                                                  \
	(FS_XFLAG_REALTIME | FS_XFLAG_NODEFRAG | FS_XFLAG_FILESTREAM | FS_XFLAG_EXTSIZE | FS_XFLAG_COWEXTSIZE)

#define ACL "system.posix_acl_access"
#define TRIES 16
#define LIST_MAX (1u << 20)

static bool means_unknown(int e)
{
	return e == ENOTTY || e == EOPNOTSUPP || e == ENOSYS || e == EINVAL;
}

static int get_flags(int fd, bool *ret_has, unsigned *ret, struct err *err)
{
	long flags = 0; /* the kernel writes an int of it */

	*ret_has = file_ops->ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0;
	if (!*ret_has && !means_unknown(errno))
		return err_errno(err, "cannot read inode flags");
	memcpy(ret, &flags, sizeof(*ret));
	return 0;
}

static int get_hints(int fd, bool *ret_has, struct fsxattr *ret, struct err *err)
{
	*ret = (struct fsxattr){ 0 };
	*ret_has = file_ops->ioctl(fd, FS_IOC_FSGETXATTR, ret) == 0;
	if (!*ret_has && !means_unknown(errno))
		return err_errno(err, "cannot read the project id");
	return 0;
}

/* ---- reading ---- */

static int check_replaceable(const struct attributes *a, struct err *err)
{
	if (!S_ISREG(a->st.st_mode))
		return err_set(err, ERR_REFUSED, "not a regular file");
	if (a->st.st_mode & (S_ISUID | S_ISGID))
		return err_set(err, ERR_REFUSED, "it is set-uid or set-gid, so it is no image; chmod ug-s if it is");
	if (a->flags & (FS_IMMUTABLE_FL | FS_APPEND_FL))
		return err_set(err, ERR_REFUSED, "it is immutable or append-only; chattr -ia lets it be replaced");
	if (a->flags & (FS_VERITY_FL | FS_ENCRYPT_FL))
		return err_set(err, ERR_UNSUPPORTED, "it is under fs-verity or encrypted by its file system");
	return 0;
}

static int read_value(int fd, const char *name, void **ret, size_t *ret_len, struct err *err)
{
	for (int tries = 0; tries < TRIES; tries++) {
		ssize_t room = file_ops->fgetxattr(fd, name, NULL, 0), len;
		void *value = room < 0 ? NULL : malloc((size_t)room + 1);

		if (room < 0)
			break;
		if (!value)
			return err_set(err, ERR_MEMORY, "out of memory");
		len = room ? file_ops->fgetxattr(fd, name, value, (size_t)room) : 0;
		if (len >= 0) {
			*ret = value;
			*ret_len = (size_t)len;
			return 0;
		}
		free(value);
		if (errno != ERANGE)
			break;
	}
	return err_errno(err, "cannot read the attribute '%s'", name);
}

/* All names, each NUL-terminated; *ret is NULL when there are none. */
static ssize_t read_names(int fd, char **ret, struct err *err)
{
	for (int tries = 0; tries < TRIES; tries++) {
		ssize_t room = file_ops->flistxattr(fd, NULL, 0), len;
		char *names = room <= 0 || room > (ssize_t)LIST_MAX ? NULL : malloc((size_t)room);

		*ret = NULL;
		if (room == 0 || (room < 0 && means_unknown(errno)))
			return 0;
		if (room < 0)
			break;
		if (!names)
			return err_set(err, ERR_MEMORY, "out of memory");
		len = file_ops->flistxattr(fd, names, (size_t)room);
		if (len > 0 && names[len - 1] == '\0') {
			*ret = names;
			return len;
		}
		free(names);
		if (len < 0 && errno != ERANGE)
			break;
	}
	return err_errno(err, "cannot list extended attributes");
}

static int add_attribute(int fd, const char *name, struct attributes *a, struct err *err)
{
	struct attribute one = { .name = strdup(name) };

	if (!one.name || vec_push(&a->list, one) < 0) {
		free(one.name);
		return err_set(err, ERR_MEMORY, "out of memory");
	}
	return read_value(fd, name, &a->list.items[a->list.nr - 1].value, &a->list.items[a->list.nr - 1].len, err);
}

static int read_list(int fd, struct attributes *a, struct err *err)
{
	CLEANUP(free) char *names = NULL;
	ssize_t len = read_names(fd, &names, err);

	for (const char *p = names; p && p < names + len; p += strlen(p) + 1)
		if (add_attribute(fd, p, a, err) < 0)
			return -1;
	return len < 0 ? -1 : 0;
}

static const struct attribute *find(const struct attributes *a, const char *name)
{
	for (size_t i = 0; i < a->list.nr; i++)
		if (strcmp(a->list.items[i].name, name) == 0)
			return &a->list.items[i];
	return NULL;
}

static int read_all(int fd, struct attributes *a, struct err *err)
{
	if (file_ops->fstat(fd, &a->st) < 0)
		return err_errno(err, "cannot stat it");
	if (get_flags(fd, &a->has_flags, &a->flags, err) < 0 || get_hints(fd, &a->has_hints, &a->hints, err) < 0)
		return -1;
	return read_list(fd, a, err);
}

int attributes_read(int fd, struct attributes *ret, struct err *err)
{
	struct attributes a = ATTRIBUTES_INIT;
	int rc = read_all(fd, &a, err);

	if (rc == 0)
		rc = check_replaceable(&a, err);
	if (rc == 0 && (find(&a, "security.ima") || find(&a, "security.evm")))
		rc = err_set(err, ERR_UNSUPPORTED, "it is measured by IMA or EVM, which a new file would not pass");
	if (rc < 0) {
		attributes_release(&a);
		return -1;
	}
	*ret = a;
	return 0;
}

void attributes_release(struct attributes *a)
{
	for (size_t i = 0; i < a->list.nr; i++) {
		free(a->list.items[i].name);
		free(a->list.items[i].value);
	}
	vec_release(&a->list);
}

/* ---- setting ---- */

static int set_flags(const struct attributes *a, int fd, struct err *err)
{
	unsigned has, want;
	bool knows;
	long flags = 0;

	if (!a->has_flags || get_flags(fd, &knows, &has, err) < 0)
		return a->has_flags ? -1 : 0;
	want = (has & ~(unsigned)FLAGS_CARRIED) | (a->flags & FLAGS_CARRIED);
	memcpy(&flags, &want, sizeof(want));
	if (want != has && file_ops->ioctl(fd, FS_IOC_SETFLAGS, &flags) < 0)
		return err_errno(err, "cannot give the new file the original's inode flags (lsattr shows them)");
	return 0;
}

static int set_hints(const struct attributes *a, int fd, struct err *err)
{
	struct fsxattr has, want;
	bool knows;

	if (!a->has_hints || get_hints(fd, &knows, &has, err) < 0)
		return a->has_hints ? -1 : 0;
	want = has;
	want.fsx_xflags = (has.fsx_xflags & ~(unsigned)HINTS_CARRIED) | (a->hints.fsx_xflags & HINTS_CARRIED);
	want.fsx_extsize = a->hints.fsx_xflags & FS_XFLAG_EXTSIZE ? a->hints.fsx_extsize : 0;
	want.fsx_cowextsize = a->hints.fsx_xflags & FS_XFLAG_COWEXTSIZE ? a->hints.fsx_cowextsize : 0;
	want.fsx_projid = a->hints.fsx_projid;
	if (memcmp(&want, &has, sizeof(has)) != 0 && file_ops->ioctl(fd, FS_IOC_FSSETXATTR, &want) < 0)
		return err_errno(err, "cannot give the new file the original's project id and extent sizes");
	return 0;
}

static bool is_for_empty(const struct attribute *x)
{
	return strncmp(x->name, "btrfs.", 6) == 0;
}

static int set_list(const struct attributes *a, int fd, bool empty, struct err *err)
{
	for (size_t i = 0; i < a->list.nr; i++) {
		const struct attribute *x = &a->list.items[i];

		if (is_for_empty(x) == empty && file_ops->fsetxattr(fd, x->name, x->value, x->len, 0) < 0)
			return err_errno(err, "cannot give the new file the original's attribute '%s'", x->name);
	}
	return 0;
}

int attributes_set_empty(const struct attributes *a, int fd, struct err *err)
{
	if (set_flags(a, fd, err) < 0 || set_hints(a, fd, err) < 0)
		return -1;
	return set_list(a, fd, true, err);
}

/* An ACL that says what the mode says (linux/posix_acl_xattr.h): setting it removes another. */
static int drop_inherited_acl(const struct attributes *a, int fd, struct err *err)
{
	uint16_t mode = (uint16_t)a->st.st_mode;
	const struct {
		uint32_t version;
		struct {
			uint16_t tag, perm;
			uint32_t id;
		} entries[3];
	} acl = { htole32(2),
		  { { htole16(0x01), htole16(mode >> 6 & 7), 0xffffffff },
		    { htole16(0x04), htole16(mode >> 3 & 7), 0xffffffff },
		    { htole16(0x20), htole16(mode & 7), 0xffffffff } } };

	if (find(a, ACL) || file_ops->fgetxattr(fd, ACL, NULL, 0) < 0)
		return 0;
	if (file_ops->fsetxattr(fd, ACL, &acl, sizeof(acl), 0) < 0)
		return err_errno(err, "cannot take an inherited ACL from the new file");
	return 0;
}

static int set_owner_and_mode(const struct attributes *a, int fd, struct err *err)
{
	struct stat st;

	if (file_ops->fstat(fd, &st) < 0)
		return err_errno(err, "cannot stat the new file");
	if ((st.st_uid != a->st.st_uid || st.st_gid != a->st.st_gid) &&
	    file_ops->fchown(fd, a->st.st_uid, a->st.st_gid) < 0)
		return err_errno(err, "cannot give the new file to user %u and group %u", a->st.st_uid, a->st.st_gid);
	if (drop_inherited_acl(a, fd, err) < 0)
		return -1;
	if (file_ops->fchmod(fd, a->st.st_mode & 07777) < 0)
		return err_errno(err, "cannot give the new file the mode %04o", a->st.st_mode & 07777);
	return 0;
}

int attributes_set(const struct attributes *a, int fd, struct err *err)
{
	const struct timespec times[2] = { a->st.st_atim, a->st.st_mtim };

	if (set_owner_and_mode(a, fd, err) < 0 || set_list(a, fd, false, err) < 0)
		return -1;
	if (file_ops->futimens(fd, times) < 0)
		return err_errno(err, "cannot give the new file the original's times");
	return 0;
}

/* ---- comparing ---- */

static int differs(const char *what, struct err *err)
{
	return err_set(err, ERR_UNSUPPORTED, "the new file did not take the original's %s", what);
}

static int compare_lists(const struct attributes *a, const struct attributes *b, struct err *err)
{
	for (size_t i = 0; i < a->list.nr; i++) {
		const struct attribute *x = &a->list.items[i], *y = find(b, x->name);

		if (!y || y->len != x->len || memcmp(x->value, y->value, x->len) != 0)
			return err_set(err, ERR_UNSUPPORTED, "the new file did not take the original's attribute '%s'",
				       x->name);
	}
	for (size_t i = 0; i < b->list.nr; i++)
		if (!find(a, b->list.items[i].name) && strcmp(b->list.items[i].name, NOTED_FORMAT) != 0)
			return err_set(err, ERR_UNSUPPORTED, "the new file has an attribute '%s' that the original has not",
				       b->list.items[i].name);
	return 0;
}

static int compare(const struct attributes *a, const struct attributes *b, struct err *err)
{
	if (a->st.st_uid != b->st.st_uid || a->st.st_gid != b->st.st_gid)
		return differs("owner", err);
	if (a->st.st_mode != b->st.st_mode)
		return differs("mode", err);
	if (a->st.st_mtim.tv_sec != b->st.st_mtim.tv_sec || a->st.st_mtim.tv_nsec != b->st.st_mtim.tv_nsec)
		return differs("time of modification", err);
	if (a->has_flags != b->has_flags || ((a->flags ^ b->flags) & FLAGS_CARRIED))
		return differs("inode flags (lsattr shows them)", err);
	if (a->has_hints != b->has_hints || a->hints.fsx_projid != b->hints.fsx_projid)
		return differs("project id", err);
	if (((a->hints.fsx_xflags ^ b->hints.fsx_xflags) & HINTS_CARRIED) ||
	    (a->hints.fsx_xflags & FS_XFLAG_EXTSIZE && a->hints.fsx_extsize != b->hints.fsx_extsize) ||
	    (a->hints.fsx_xflags & FS_XFLAG_COWEXTSIZE && a->hints.fsx_cowextsize != b->hints.fsx_cowextsize))
		return differs("extent sizes", err);
	return compare_lists(a, b, err);
}

int attributes_compare(const struct attributes *a, int fd, struct err *err)
{
	CLEANUP(attributes_release) struct attributes b = ATTRIBUTES_INIT;

	if (read_all(fd, &b, err) < 0)
		return -1;
	return compare(a, &b, err);
}

int attributes_may_enter(const struct attributes *a, int dirfd, struct err *err)
{
	struct fsxattr dir;
	bool knows;

	if (!a->has_hints)
		return 0;
	if (get_hints(dirfd, &knows, &dir, err) < 0)
		return -1;
	if (knows && dir.fsx_xflags & FS_XFLAG_PROJINHERIT && dir.fsx_projid != a->hints.fsx_projid)
		return err_set(err, ERR_UNSUPPORTED,
			       "it is of project %u, and a directory that it would have to enter takes files of project %u only; "
			       "compact the project's own directory",
			       a->hints.fsx_projid, dir.fsx_projid);
	return 0;
}
