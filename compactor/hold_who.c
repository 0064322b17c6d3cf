/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "compactor/hold.h"
#include "scanner/base/file.h"

/* The kernel does not say who stands in the way of a lease.  So the descriptors of all processes are compared with
 * the file by device and inode, and the loop devices; if that finds nobody, what processes have mapped without a
 * descriptor; then locks, which can be seen where their owners cannot.  Duplicates of our own descriptor do not
 * count, whoever has them.
 *
 * Nothing is opened but directories and files of /proc and /sys.  The rest is asked of what the kernel has in memory
 * (AT_STATX_DONT_SYNC): a server that is gone, behind a descriptor of some process, must not stop us. */

#define NAMED_MAX 3

struct search {
	int fd;
	struct stat st;
	char *buf;
	size_t room;
	unsigned nr;
};

__attribute__((format(printf, 2, 3))) static void found(struct search *s, const char *fmt, ...)
{
	size_t len = strlen(s->buf);
	va_list ap;

	if (++s->nr > NAMED_MAX + 1)
		return;
	if (s->nr > NAMED_MAX) {
		snprintf(s->buf + len, s->room - len, " and more");
		return;
	}
	if (s->nr > 1) {
		snprintf(s->buf + len, s->room - len, ", ");
		len = strlen(s->buf);
	}
	va_start(ap, fmt);
	vsnprintf(s->buf + len, s->room - len, fmt, ap);
	va_end(ap);
}

/* The first line of a small file; "" where there is none. */
static void read_line(int dirfd, const char *name, char *ret, size_t room)
{
	CLEANUP(close_fd) int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC);
	ssize_t len = fd < 0 ? 0 : read(fd, ret, room - 1);

	ret[len < 0 ? 0 : len] = '\0';
	ret[strcspn(ret, "\n")] = '\0';
}

static void found_process(struct search *s, int pid)
{
	char path[40], comm[32];

	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	read_line(AT_FDCWD, path, comm, sizeof(comm));
	found(s, "pid %d (%s)", pid, *comm ? comm : "?");
}

static bool is_the_file(const struct search *s, int dirfd, const char *name)
{
	struct statx x;

	return statx(dirfd, name, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_INO, &x) == 0 && x.stx_ino == s->st.st_ino &&
	       makedev(x.stx_dev_major, x.stx_dev_minor) == s->st.st_dev;
}

/* Is it our very open file, by whatever descriptor?  (Some kernels have no kcmp(2), some containers forbid it.) */
static bool is_ours(const struct search *s, int pid, int fd)
{
	return (pid == getpid() && fd == s->fd) ||
	       syscall(SYS_kcmp, getpid(), pid, KCMP_FILE, (unsigned long)s->fd, (unsigned long)fd) == 0;
}

static bool has_descriptor(const struct search *s, int pid, int dirfd, const char *name)
{
	return is_the_file(s, dirfd, name) && !is_ours(s, pid, atoi(name));
}

static bool has_mapping(const struct search *s, int pid, int dirfd, const char *name)
{
	return pid != getpid() && is_the_file(s, dirfd, name);
}

/* Calls for what is listed in /proc/PID/WHAT, of all processes. */
static void each_process(struct search *s, const char *what,
			 bool (*has)(const struct search *s, int pid, int dirfd, const char *name))
{
	DIR *proc = opendir("/proc"), *d;
	struct dirent *p, *e;
	char path[NAME_MAX + 32];

	while (proc && (p = readdir(proc))) {
		snprintf(path, sizeof(path), "/proc/%s/%s", p->d_name, what);
		d = p->d_name[0] >= '1' && p->d_name[0] <= '9' ? opendir(path) : NULL;
		while (d && (e = readdir(d)))
			if (e->d_name[0] != '.' && has(s, atoi(p->d_name), dirfd(d), e->d_name)) {
				found_process(s, atoi(p->d_name));
				break;
			}
		if (d)
			closedir(d);
	}
	if (proc)
		closedir(proc);
}

static void each_loop_device(struct search *s)
{
	DIR *d = opendir("/sys/block");
	char name[NAME_MAX + 32], file[PATH_MAX];
	struct dirent *e;

	while (d && (e = readdir(d))) {
		if (strncmp(e->d_name, "loop", 4) != 0)
			continue;
		snprintf(name, sizeof(name), "%s/loop/backing_file", e->d_name);
		read_line(dirfd(d), name, file, sizeof(file));
		if (*file && is_the_file(s, AT_FDCWD, file))
			found(s, "loop device /dev/%s", e->d_name);
	}
	if (d)
		closedir(d);
}

/* Locks and leases that have a process: not those of QEMU. */
static void each_lock(struct search *s)
{
	FILE *f = fopen("/proc/locks", "re");
	char line[256];

	while (f && fgets(line, sizeof(line), f)) {
		unsigned major, minor;
		unsigned long long inode;
		int pid;

		if (sscanf(line, "%*d: %*s %*s %*s %d %x:%x:%llu", &pid, &major, &minor, &inode) == 4 && pid > 0 &&
		    pid != getpid() && inode == s->st.st_ino && makedev(major, minor) == s->st.st_dev)
			found_process(s, pid);
	}
	if (f)
		fclose(f);
}

static void qemu_lock(struct search *s)
{
	struct flock l = { .l_type = F_WRLCK, .l_start = 100, .l_len = 104 };

	if (file_ops->fcntl(s->fd, F_OFD_GETLK, &l) == 0 && l.l_type != F_UNLCK)
		found(s, "a QEMU that shows nothing but its locks");
}

const char *hold_holder(int fd, char *buf, size_t room)
{
	struct search s = { .fd = fd, .buf = buf, .room = room };

	*buf = '\0';
	if (file_ops != &file_ops_os && file_ops->fstat != file_ops_os.fstat) /* /proc knows nothing of files that are not real */
		return buf;
	if (file_ops->fstat(fd, &s.st) < 0)
		return buf;
	each_process(&s, "fd", has_descriptor);
	each_loop_device(&s);
	if (s.nr == 0)
		each_process(&s, "map_files", has_mapping);
	if (s.nr == 0)
		each_lock(&s);
	if (s.nr == 0)
		qemu_lock(&s);
	return buf;
}
