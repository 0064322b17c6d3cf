/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/base/proc.h"
#include "tests/unit/sanitized.h"

static struct jail jail; /* the whole of it */

/* The kernel as it is but for its Landlock and seccomp. */
static int pretended_abi;
static bool pretended_seccomp;

static int pretend_abi(void)
{
	return pretended_abi;
}

static bool pretend_seccomp(void)
{
	return pretended_seccomp;
}

static const struct jail_kernel pretended = { pretend_abi, pretend_seccomp };

static struct jail plan(enum jail_mode mode, int abi, bool seccomp)
{
	struct err err = ERR_INIT;
	struct jail j;

	pretended_abi = abi;
	pretended_seccomp = seccomp;
	jail_kernel = &pretended;
	if (jail_plan(&j, mode, &err) < 0)
		fail_msg("%s", err.text);
	jail_kernel = &jail_kernel_real;
	return j;
}

static int make(void **state)
{
	struct err err = ERR_INIT;

	if (jail_plan(&jail, JAIL_REQUIRE, &err) < 0) {
		printf("%s\n", err.text);
		skip();
	}
	alarm(60);
	return tree_make(state);
}

static int unmake(void **state)
{
	alarm(0);
	return tree_remove(state);
}

#define jail_test(f) cmocka_unit_test_setup_teardown(f, make, unmake)

/* Runs a child, hands it `fd` unless that is -1, and says how it ended. */
static const char *end_of(const struct jail *j, int (*run)(int, void *, void *), void *arg, int fd)
{
	static char how[PROC_HOW_ROOM];
	struct err err = ERR_INIT;
	struct proc p;

	if (proc_start(&p, 65536, j, run, arg, &err) < 0)
		fail_msg("%s", err.text);
	if (fd >= 0)
		assert_int_equal(proc_send(p.sock, "f", 1, fd, &err), 0);
	/* until it hangs up */
	for (char c; proc_recv(p.sock, &c, 1, &fd, NULL) > 0;)
		;
	proc_end(&p, 0, how, sizeof(how));
	return how;
}

/* ---- what a worker does ---- */

#define TRY(condition)                                                                                                 \
	do {                                                                                                           \
		if (!(condition))                                                                                      \
			return __LINE__ % 250 + 1;                                                                     \
	} while (0)

static int work(int sock, void *shared, void *arg)
{
	unsigned char page, buf[4096];
	struct err err = ERR_INIT;
	struct stat st;
	struct tm tm;
	uint64_t size;
	char *memory;
	void *map;
	int fd, copy;

	(void)arg;
	TRY(proc_recv(sock, buf, sizeof(buf), &fd, NULL) == 1 && fd >= 0);
	TRY(file_read_some(fd, buf, sizeof(buf), 0, NULL) == 4);
	TRY(file_stat(fd, &st) == 0 && st.st_size == 4 && S_ISREG(st.st_mode));
	TRY(lseek(fd, 0, SEEK_DATA) == 0 && lseek(fd, 0, SEEK_HOLE) == 4);
	TRY(ioctl(fd, BLKGETSIZE64, &size) < 0 && errno == ENOTTY);
	file_is_unmapped(fd, 0, 4);
	map = mmap(NULL, 4, PROT_READ, MAP_SHARED, fd, 0);
	TRY(map != MAP_FAILED && mincore(map, 4, &page) == 0);
	TRY(munmap(map, 4) == 0);
	TRY(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0);
	TRY((copy = fcntl(fd, F_DUPFD_CLOEXEC, 0)) >= 0 && close(copy) == 0 && close(fd) == 0);
	for (size_t len = 16; len <= 64 * MIB; len *= 4) {
		TRY((memory = malloc(len)) != NULL);
		memset(memory, 1, len);
		TRY((memory = realloc(memory, 2 * len)) != NULL);
		free(memory);
	}
	TRY(clock_gettime(CLOCK_MONOTONIC, &(struct timespec){ 0 }) == 0);
	TRY(gmtime_r(&(time_t){ 86400 }, &tm) && tm.tm_mday == 2);
	errno = ENOENT;
	TRY(err_errno(&err, "%d", 1) < 0 && strcmp(err.text, "1: No such file or directory") == 0);
	TRY(nanosleep(&(struct timespec){ .tv_nsec = 1000 }, NULL) == 0);
	memcpy(shared, buf, 4);
	return proc_send(sock, "d", 1, -1, NULL) < 0;
}

static void what_a_worker_does_is_let_through(void **state)
{
	int fd;

	(void)state;
	tree_write("f", "data", 4);
	fd = open(in_tree("f"), O_RDONLY);
	assert_string_equal(end_of(&jail, work, NULL, fd), "exit status 0");
	close(fd);
}

/* ---- what it does not do ---- */

#define FD -1000 /* in the place of an argument: the descriptor that was handed over, of a file that it may write to */
#define SOCK -1001 /* ... the parent's socket */
#define PID -1002  /* ... its own number */

struct attempt {
	const char *name;
	long nr;
	long args[6];
	int enough;	    /* an errno which shows that the call was let through, too */
	bool sanitized_may; /* AddressSanitizer makes that call, or it fails there with no harm */
};

static char path[PATH_MAX], other_path[PATH_MAX];
static char zeros[8192] __attribute__((aligned(4096)));
static char *no_strings[] = { path, NULL };
static uint64_t how_to_open[3]; /* struct open_how */
static uint64_t clone_args[8] = { [4] = SIGCHLD };
static struct iovec iov = { zeros, 1 };
static struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };
static struct sockaddr_in address = { .sin_family = AF_INET };
static struct rlimit rlimit = { 1 << 20, 1 << 20 };

#define P(p) (long)(p)

static const struct attempt attempts[] = {
#ifdef SYS_open
	{ "open", SYS_open, { P(path), O_RDONLY }, .sanitized_may = true },
	{ "creat", SYS_creat, { P(other_path), 0600 } },
	{ "stat", SYS_stat, { P(path), P(zeros) }, .sanitized_may = true },
	{ "access", SYS_access, { P(path), R_OK } },
	{ "chmod", SYS_chmod, { P(path), 0600 } },
	{ "chown", SYS_chown, { P(path), -1, -1 } },
	{ "unlink", SYS_unlink, { P(path) } },
	{ "rename", SYS_rename, { P(path), P(other_path) } },
	{ "link", SYS_link, { P(path), P(other_path) } },
	{ "symlink", SYS_symlink, { P(path), P(other_path) } },
	{ "mkdir", SYS_mkdir, { P(other_path), 0700 } },
	{ "rmdir", SYS_rmdir, { P(path) }, ENOTDIR },
	{ "mknod", SYS_mknod, { P(other_path), S_IFIFO | 0600, 0 } },
	{ "fork", SYS_fork },
	{ "getppid", SYS_getppid },
	{ "dup2", SYS_dup2, { FD, 9 } },
	{ "pipe", SYS_pipe, { P(zeros) } },
	{ "epoll_create", SYS_epoll_create, { 1 } },
	{ "inotify_init", SYS_inotify_init },
	{ "time of access", SYS_utime, { P(path), 0 } },
#endif
	{ "openat", SYS_openat, { AT_FDCWD, P(path), O_RDONLY }, .sanitized_may = true },
	{ "openat to write", SYS_openat, { AT_FDCWD, P(path), O_WRONLY }, .sanitized_may = true },
	{ "openat2", SYS_openat2, { AT_FDCWD, P(path), P(how_to_open), sizeof(how_to_open) } },
	{ "fstatat", SYS_newfstatat, { AT_FDCWD, P(path), P(zeros), 0 }, .sanitized_may = true },
	{ "statx", SYS_statx, { AT_FDCWD, P(path), 0, 0, P(zeros) } },
	{ "faccessat", SYS_faccessat, { AT_FDCWD, P(path), R_OK } },
	{ "readlinkat", SYS_readlinkat, { AT_FDCWD, P(path), P(zeros), 10 }, EINVAL },
	{ "getcwd", SYS_getcwd, { P(zeros), sizeof(zeros) } },
	{ "chdir", SYS_chdir, { P("/") } },
	{ "chroot", SYS_chroot, { P("/") }, EPERM },
	{ "name_to_handle_at", SYS_name_to_handle_at, { AT_FDCWD, P(path), P(zeros), P(zeros + 64), 0 }, EOVERFLOW },
	{ "open_by_handle_at", SYS_open_by_handle_at, { -1, P(zeros), 0 }, -1 },
	{ "execve", SYS_execve, { P("/bin/true"), P(no_strings), 0 } },
	{ "execveat", SYS_execveat, { AT_FDCWD, P("/bin/true"), P(no_strings), 0, 0 } },
	{ "clone", SYS_clone, { SIGCHLD } },
	{ "clone as vfork", SYS_clone, { CLONE_VFORK | SIGCHLD } },
	{ "clone3", SYS_clone3, { P(clone_args), 64 } },
	{ "unshare", SYS_unshare, { CLONE_FILES } },
	{ "unshare users", SYS_unshare, { CLONE_NEWUSER }, EPERM },
	{ "setns", SYS_setns, { FD, 0 }, EINVAL },
	{ "socket", SYS_socket, { AF_UNIX, SOCK_STREAM, 0 } },
	{ "socket to the network", SYS_socket, { AF_INET, SOCK_STREAM, 0 }, EAFNOSUPPORT },
	{ "socketpair", SYS_socketpair, { AF_UNIX, SOCK_STREAM, 0, P(zeros) } },
	{ "connect", SYS_connect, { SOCK, P(&address), sizeof(address) }, EINVAL },
	{ "bind", SYS_bind, { SOCK, P(&address), sizeof(address) }, EINVAL },
	{ "listen", SYS_listen, { SOCK, 1 }, EINVAL },
	{ "sendto", SYS_sendto, { SOCK, P(zeros), 1, 0, 0, 0 } },
	{ "sendmsg elsewhere", SYS_sendmsg, { FD, P(&message), 0 }, ENOTSOCK },
	{ "recvmsg elsewhere", SYS_recvmsg, { FD, P(&message), 0 }, ENOTSOCK },
	{ "ptrace", SYS_ptrace, { PTRACE_TRACEME, 0, 0, 0 } },
	{ "process_vm_readv", SYS_process_vm_readv, { PID, P(&iov), 1, P(&iov), 1, 0 } },
	{ "process_vm_writev", SYS_process_vm_writev, { PID, P(&iov), 1, P(&iov), 1, 0 } },
	{ "kill", SYS_kill, { PID, 0 } },
	{ "kill of all", SYS_kill, { 0, 0 } },
	{ "tkill", SYS_tkill, { PID, 0 } },
	{ "tgkill with another signal", SYS_tgkill, { PID, PID, 0 } },
	{ "tgkill of another", SYS_tgkill, { 1, 1, SIGABRT }, EPERM },
	{ "pidfd_open", SYS_pidfd_open, { PID, 0 } },
	{ "write", SYS_write, { FD, P(zeros), 1 } },
	{ "writev", SYS_writev, { FD, P(&iov), 1 } },
	{ "pwrite", SYS_pwrite64, { FD, P(zeros), 1, 0 } },
	{ "read", SYS_read, { FD, P(zeros), 1 } },
	{ "truncate", SYS_truncate, { P(path), 0 } },
	{ "ftruncate", SYS_ftruncate, { FD, 0 } },
	{ "fallocate", SYS_fallocate, { FD, 0, 0, 4096 }, EOPNOTSUPP },
	{ "fsync", SYS_fsync, { FD } },
	{ "copy_file_range", SYS_copy_file_range, { FD, 0, FD, 0, 0, 0 }, EINVAL },
	{ "sendfile", SYS_sendfile, { FD, FD, P(zeros), 0 }, EINVAL },
	{ "fchmod", SYS_fchmod, { FD, 0600 } },
	{ "fchmodat", SYS_fchmodat, { AT_FDCWD, P(path), 0600 } },
	{ "fchown", SYS_fchown, { FD, -1, -1 } },
	{ "fchownat", SYS_fchownat, { AT_FDCWD, P(path), -1, -1, 0 } },
	{ "utimensat", SYS_utimensat, { AT_FDCWD, P(path), 0, 0 } },
	{ "fsetxattr", SYS_fsetxattr, { FD, P("user.x"), P(zeros), 1, 0 }, EOPNOTSUPP },
	{ "flock", SYS_flock, { FD, 1 } },
	{ "F_SETFL", SYS_fcntl, { FD, F_SETFL, O_APPEND } },
	{ "F_GETFL", SYS_fcntl, { FD, F_GETFL } },
	{ "FS_IOC_GETFLAGS", SYS_ioctl, { FD, P(FS_IOC_GETFLAGS), P(zeros) }, ENOTTY },
	{ "unlinkat", SYS_unlinkat, { AT_FDCWD, P(path), 0 } },
	{ "renameat2", SYS_renameat2, { AT_FDCWD, P(path), AT_FDCWD, P(other_path), 0 } },
	{ "linkat", SYS_linkat, { AT_FDCWD, P(path), AT_FDCWD, P(other_path), 0 } },
	{ "symlinkat", SYS_symlinkat, { P(path), AT_FDCWD, P(other_path) } },
	{ "mkdirat", SYS_mkdirat, { AT_FDCWD, P(other_path), 0700 } },
	{ "mknodat", SYS_mknodat, { AT_FDCWD, P(other_path), S_IFIFO | 0600, 0 } },
	{ "mount", SYS_mount, { P("none"), P(path), P("tmpfs"), 0, 0 }, -1 },
	{ "umount2", SYS_umount2, { P(path), 0 }, -1 },
	{ "pivot_root", SYS_pivot_root, { P(path), P(path) }, -1 },
	{ "fsopen", SYS_fsopen, { P("no such type"), 0 }, -1 },
	{ "quotactl", SYS_quotactl, { -1, P(path), 0, 0 }, -1 },
	{ "swapon", SYS_swapon, { P(other_path), 0 }, -1 },
	{ "reboot", SYS_reboot, { 0, 0, 0, 0 }, -1 },
	{ "init_module", SYS_init_module, { 0, 0, 0 }, -1 },
	{ "acct", SYS_acct, { P(other_path) }, -1 },
	{ "keyctl", SYS_keyctl, { 0, -3, 0 }, ENOSYS },
	{ "add_key", SYS_add_key, { P("user"), P("x"), P(zeros), 1, -3 }, ENOSYS },
	{ "bpf", SYS_bpf, { -1, 0, 0 }, -1 },
	{ "perf_event_open", SYS_perf_event_open, { P(zeros), 0, -1, -1, 0 }, -1 },
	{ "userfaultfd", SYS_userfaultfd, { 0 }, -1 },
	{ "io_uring_setup", SYS_io_uring_setup, { 1, P(zeros) }, -1 },
	{ "memfd_create", SYS_memfd_create, { P("x"), 0 } },
	{ "prctl", SYS_prctl, { PR_GET_DUMPABLE } },
	{ "personality", SYS_personality, { -1 } },
	{ "seccomp", SYS_seccomp, { 99, 0, 0 }, -1 },
	{ "landlock", 444 /* its first call */, { 0, 0, 1 }, -1 },
	{ "setuid", SYS_setuid, { 0 }, EPERM },
	{ "capset", SYS_capset, { P(zeros), 0 }, -1 },
	{ "prlimit64", SYS_prlimit64, { 0, RLIMIT_FSIZE, P(&rlimit), 0 }, EPERM, .sanitized_may = true },
	{ "sched_setaffinity", SYS_sched_setaffinity, { 0, 8, P(zeros) }, EINVAL },
	{ "setpriority", SYS_setpriority, { PRIO_PROCESS, 0, 19 } },
	{ "rt_sigaction", SYS_rt_sigaction, { SIGSYS, 0, P(zeros), 8 }, .sanitized_may = true },
	{ "timer_create", SYS_timer_create, { CLOCK_MONOTONIC, 0, P(zeros) } },
	{ "signalfd4", SYS_signalfd4, { -1, P(zeros), 8, 0 } },
	{ "shmget", SYS_shmget, { 0, 4096, 0600 }, ENOSYS },
	{ "mq_unlink", SYS_mq_unlink, { P("no such") }, ENOENT },
	{ "mmap of memory to run", SYS_mmap, { 0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0 } },
	{ "mmap of a file to run", SYS_mmap, { 0, 4096, PROT_EXEC, MAP_PRIVATE, FD, 0 } },
	{ "mprotect to run", SYS_mprotect, { P(zeros), 4096, PROT_READ | PROT_EXEC } },
	{ "pkey_mprotect", SYS_pkey_mprotect, { P(zeros), 4096, PROT_READ | PROT_WRITE, -1 } },
	{ "mlock", SYS_mlock, { P(zeros), 1 }, ENOMEM },
	{ "no such call", 100000, { 0 }, ENOSYS },
};

static long argument(long a, int fd)
{
	return a == FD ? fd : a == SOCK ? JAIL_SOCKET : a == PID ? getpid() : a;
}

/* Exit status 0 when the call was made. */
static int attempt(int sock, void *shared, void *arg)
{
	const struct attempt *a = arg;
	long v[6], rc;
	char c;
	int fd;

	(void)shared;
	if (proc_recv(sock, &c, 1, &fd, NULL) != 1)
		return 9;
	for (size_t i = 0; i < ARRAY_SIZE(v); i++)
		v[i] = argument(a->args[i], fd);
	rc = syscall(a->nr, v[0], v[1], v[2], v[3], v[4], v[5]);
	if (rc < 0)
		return a->enough != -1 && errno != a->enough;
	return 0;
}

static const char *attempt_end(const struct jail *j, const struct attempt *a)
{
	const char *how;
	int fd;

	remove(in_tree("other"));
	fd = open(in_tree("f"), O_RDWR | O_CREAT | O_TRUNC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, zeros, sizeof(zeros)), sizeof(zeros));
	snprintf(path, sizeof(path), "%s", in_tree("f"));
	snprintf(other_path, sizeof(other_path), "%s", in_tree("other"));
	how = end_of(j, attempt, (void *)(uintptr_t)a, fd);
	close(fd);
	return how;
}

static void what_it_does_not_do_ends_it(void **state)
{
	unsigned nr = 0;

	(void)state;
	for (const struct attempt *a = attempts; a < attempts + ARRAY_SIZE(attempts); a++) {
		char wanted[64];
		const char *how;

		if (SANITIZED && a->sanitized_may)
			continue;
		how = attempt_end(NULL, a);
		if (strcmp(how, "exit status 0") != 0)
			fail_msg("without a jail, %s: %s", a->name, how);
		how = attempt_end(&jail, a);
		snprintf(wanted, sizeof(wanted), "stopped by the sandbox: system call %ld", a->nr);
		if (strncmp(how, wanted, strlen(wanted)) != 0)
			fail_msg("in the jail, %s: %s", a->name, how);
		nr++;
	}
	assert_in_range(nr, 100, 200);
}

static void the_call_is_named(void **state)
{
	char text[64];

	(void)state;
	assert_string_equal(jail_call(SYS_openat2, text, sizeof(text)),
			    SYS_openat2 == 437 ? "system call 437, openat2" : "");
	assert_string_equal(jail_call(-7, text, sizeof(text)), "system call -7");
	assert_string_equal(jail_call(INT_MIN, text, sizeof(text)), "system call -2147483648");
}

#ifdef __x86_64__
static int call_of_32_bits(int sock, void *shared, void *arg)
{
	long rc = 20; /* getpid */

	(void)sock;
	(void)shared;
	(void)arg;
	__asm__ volatile("int $0x80" : "+a"(rc) : : "memory", "r8", "r9", "r10", "r11");
	return rc != getpid();
}

static void a_call_of_32_bits_ends_it(void **state)
{
	(void)state;
	if (strcmp(end_of(NULL, call_of_32_bits, NULL, -1), "exit status 0") != 0) {
		printf("the kernel has no calls of 32 bits\n");
		skip();
	}
	assert_string_equal(end_of(&jail, call_of_32_bits, NULL, -1), "stopped by the sandbox: a foreign system call");
}

static int call_of_x32(int sock, void *shared, void *arg)
{
	(void)sock;
	(void)shared;
	(void)arg;
	return syscall(0x40000000 | SYS_getpid) < 0 && errno != ENOSYS;
}

static void a_call_of_x32_ends_it(void **state)
{
	(void)state;
	assert_string_equal(end_of(NULL, call_of_x32, NULL, -1), "exit status 0");
	assert_string_equal(end_of(&jail, call_of_x32, NULL, -1), "stopped by the sandbox: a foreign system call");
}
#endif

/* It blocks the signal and takes the handler away: that changes nothing.  (Ignoring it takes a forbidden call.) */
static int with_signals_blocked(int sock, void *shared, void *arg)
{
	sigset_t all;

	(void)sock;
	(void)shared;
	(void)arg;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	syscall(SYS_execve, NULL, NULL, NULL);
	return 0;
}

static void blocked_signals_do_not_help(void **state)
{
	(void)state;
	assert_string_equal(end_of(NULL, with_signals_blocked, NULL, -1), "exit status 0");
	assert_memory_equal(end_of(&jail, with_signals_blocked, NULL, -1), "stopped by the sandbox", 22);
}

/* ---- Landlock alone ---- */

/* In shared memory: the errno of what it tried, 0 = it was let through. */
struct tried {
	int open, create, truncate, connect, kill;
	uint16_t port; /* in: of a socket that listens */
	pid_t parent;
};

static int errno_of(long rc)
{
	return rc < 0 ? errno : 0;
}

static int try_paths(int sock, void *shared, void *arg)
{
	struct tried *t = shared, *in = arg;
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = in->port, .sin_addr = { htonl(INADDR_LOOPBACK) } };

	t->open = errno_of(open(path, O_RDONLY));
	t->create = errno_of(open(other_path, O_WRONLY | O_CREAT, 0600));
	t->truncate = errno_of(truncate(path, 1));
	t->connect = errno_of(connect(socket(AF_INET, SOCK_STREAM, 0), (void *)&to, sizeof(to)));
	t->kill = errno_of(kill(in->parent, 0));
	return proc_send(sock, "d", 1, -1, NULL) < 0;
}

static struct tried tried_with(const struct jail *j)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	struct tried ret = { .parent = getpid() };
	int listener = socket(AF_INET, SOCK_STREAM, 0), fd;
	struct err err = ERR_INIT;
	socklen_t len = sizeof(at);
	struct proc p;
	char c;

	snprintf(path, sizeof(path), "%s", in_tree("f"));
	snprintf(other_path, sizeof(other_path), "%s", in_tree("other"));
	unlink(path);
	unlink(other_path);
	tree_file("f");
	assert_int_equal(bind(listener, (void *)&at, sizeof(at)), 0);
	assert_int_equal(listen(listener, 1), 0);
	assert_int_equal(getsockname(listener, (void *)&at, &len), 0);
	ret.port = at.sin_port;
	if (proc_start(&p, sizeof(ret), j, try_paths, &ret, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(proc_recv(p.sock, &c, 1, &fd, NULL), 1);
	ret = *(struct tried *)p.shared;
	proc_end(&p, 0, NULL, 0);
	close(listener);
	return ret;
}

static void landlock_of_every_abi_denies_what_it_can(void **state)
{
	struct tried free = tried_with(NULL);

	(void)state;
	assert_true(free.open == 0 && free.create == 0 && free.truncate == 0 && free.connect == 0 && free.kill == 0);
	for (int abi = 1; abi <= jail_kernel_real.landlock_abi(); abi++) {
		struct jail j = plan(JAIL_BEST, abi, false);
		struct tried t = tried_with(&j);

		assert_int_equal(t.open, EACCES);
		assert_int_equal(t.create, EACCES);
		assert_int_equal(t.truncate, abi >= 3 ? EACCES : 0);
		assert_int_equal(t.connect, abi >= 4 ? EACCES : 0);
		assert_int_equal(t.kill, abi >= 6 ? EPERM : 0);
	}
}

static void what_landlock_2_cannot_do_seccomp_does(void **state)
{
	static const struct attempt cut = { "truncate", SYS_truncate, { P(path), 0 } };
	struct jail j = plan(JAIL_REQUIRE, 2, true);

	(void)state;
	assert_int_equal(j.landlock, 2);
	assert_memory_equal(attempt_end(&j, &cut), "stopped by the sandbox: system call", 35);
}

/* ---- what the kernel has ---- */

static void require_wants_all_of_it(void **state)
{
	static const struct {
		int abi;
		bool seccomp;
		const char *lacking;
	} kernels[] = {
		{ 0, true, "the kernel lacks Landlock ABI 2 (Linux 5.19); --sandbox=best does" },
		{ 1, true, "the kernel lacks Landlock ABI 2 (Linux 5.19); --sandbox=best does" },
		{ 7, false, "the kernel lacks seccomp; --sandbox=best does" },
		{ 0, false, "the kernel lacks Landlock ABI 2 (Linux 5.19) and seccomp; --sandbox=best does" },
	};

	(void)state;
	jail_kernel = &pretended;
	for (size_t i = 0; i < ARRAY_SIZE(kernels); i++) {
		struct err err = ERR_INIT;
		struct jail j;

		pretended_abi = kernels[i].abi;
		pretended_seccomp = kernels[i].seccomp;
		assert_int_equal(jail_plan(&j, JAIL_REQUIRE, &err), -1);
		assert_int_equal(err.kind, ERR_UNSUPPORTED);
		assert_non_null(strstr(err.text, kernels[i].lacking));
		assert_int_equal(jail_plan(&j, JAIL_BEST, &err), 0);
		assert_non_null(strstr(err.text, jail_missing(&j)));
		assert_true(jail_missing(&j)[0]);
		assert_int_equal(jail_plan(&j, JAIL_OFF, &err), 0);
	}
	pretended_abi = 2;
	pretended_seccomp = true;
	assert_int_equal(jail_plan(&(struct jail){ 0 }, JAIL_REQUIRE, NULL), 0);
	jail_kernel = &jail_kernel_real;
}

static void best_takes_what_there_is(void **state)
{
	static const struct attempt look = { "openat2",
					     SYS_openat2,
					     { AT_FDCWD, P(path), P(how_to_open), sizeof(how_to_open) } };
	struct jail no_landlock = plan(JAIL_BEST, 0, true), no_seccomp = plan(JAIL_BEST, 2, false),
		    none = plan(JAIL_OFF, 7, true);

	(void)state;
	assert_memory_equal(attempt_end(&no_landlock, &look), "stopped by the sandbox", 22);
	assert_string_equal(attempt_end(&no_seccomp, &look), "exit status 1");
	assert_string_equal(attempt_end(&none, &look), "exit status 0");
}

static void it_is_described(void **state)
{
	struct jail whole = plan(JAIL_BEST, 7, true), half = plan(JAIL_BEST, 0, true), off = plan(JAIL_OFF, 7, true);
	char text[128];

	(void)state;
	jail_describe(&whole, text, sizeof(text));
	assert_memory_equal(text, "Landlock ABI 7, seccomp (", 25);
	assert_non_null(strstr(text, " calls allowed), no_new_privs"));
	assert_memory_equal(jail_describe(&half, text, sizeof(text)), "no Landlock, seccomp (", 22);
	half.seccomp = false;
	assert_string_equal(jail_describe(&half, text, sizeof(text)), "no Landlock, no seccomp, no_new_privs");
	assert_string_equal(jail_describe(&off, text, sizeof(text)), "none");
}

static void modes_have_names(void **state)
{
	struct err err = ERR_INIT;
	enum jail_mode mode;

	(void)state;
	assert_int_equal(jail_mode_by_name("require", &mode, &err), 0);
	assert_int_equal(mode, JAIL_REQUIRE);
	assert_int_equal(jail_mode_by_name("best", &mode, &err), 0);
	assert_int_equal(mode, JAIL_BEST);
	assert_int_equal(jail_mode_by_name("off", &mode, &err), 0);
	assert_int_equal(mode, JAIL_OFF);
	assert_int_equal(jail_mode_by_name("on", &mode, &err), -1);
	assert_int_equal(err.kind, ERR_USAGE);
	assert_int_equal(mode, JAIL_OFF);
}

/* ---- entering ---- */

static int nothing(int sock, void *shared, void *arg)
{
	(void)sock;
	(void)shared;
	(void)arg;
	return 0;
}

/* A kernel that has Landlock and will not have this process restricted. */
static void refuse_landlock(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 446 /* landlock_restrict_self */, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | E2BIG),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { ARRAY_SIZE(code), code };

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	assert_int_equal(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

/* A jail that cannot be had whole is none; with `best` it is what can be had. */
static int try_to_enter(int sock, void *shared, void *arg)
{
	struct err err = ERR_INIT;
	struct jail best = jail;
	struct proc p;

	(void)sock;
	(void)arg;
	refuse_landlock();
	if (proc_start(&p, 4096, &jail, nothing, NULL, &err) == 0 || p.pid != 0)
		return 2;
	snprintf(shared, 500, "%s", err.text);
	best.mode = JAIL_BEST;
	if (proc_start(&p, 4096, &best, nothing, NULL, &err) < 0)
		return 3;
	proc_end(&p, 0, NULL, 0);
	return 0;
}

static void a_jail_that_cannot_be_entered_is_an_error(void **state)
{
	char how[PROC_HOW_ROOM], text[500], c;
	struct proc p;
	int fd;

	(void)state;
	assert_int_equal(proc_start(&p, 4096, NULL, try_to_enter, NULL, NULL), 0);
	proc_recv(p.sock, &c, 1, &fd, NULL);
	memcpy(text, p.shared, sizeof(text));
	proc_end(&p, 0, how, sizeof(how));
	assert_string_equal(how, "exit status 0");
	assert_string_equal(text, "a worker process: cannot restrict itself by Landlock: Argument list too long");
}

/* ---- limits ---- */

static int wait_for_the_end(int sock, void *shared, void *arg)
{
	char c;
	int fd;

	(void)shared;
	(void)arg;
	return proc_recv(sock, &c, 1, &fd, NULL) != 0;
}

/* The value of a line of /proc/PID/status. */
static unsigned long long status_of(pid_t pid, const char *name, int base)
{
	unsigned long long v = ~0ull;
	char line[256];
	FILE *f;

	snprintf(line, sizeof(line), "/proc/%d/status", (int)pid);
	f = fopen(line, "r");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		if (strncmp(line, name, strlen(name)) == 0 && line[strlen(name)] == ':')
			v = strtoull(line + strlen(name) + 1, NULL, base);
	fclose(f);
	return v;
}

static rlim_t hard_limit(pid_t pid, int what)
{
	struct rlimit r;

	assert_int_equal(prlimit(pid, what, NULL, &r), 0);
	assert_true(r.rlim_cur == r.rlim_max || what == RLIMIT_NPROC);
	return r.rlim_max;
}

static void it_has_no_capability_that_matters_and_no_way_to_one(void **state)
{
	struct jail off = { .mode = JAIL_OFF };
	struct proc p, outside;

	(void)state;
	assert_int_equal(proc_start(&outside, 4096, &off, wait_for_the_end, NULL, NULL), 0);
	assert_int_equal(proc_start(&p, 4096, &jail, wait_for_the_end, NULL, NULL), 0);
	if (geteuid() == 0) {
		assert_true(status_of(outside.pid, "CapEff", 16) & ~(1ull << 3));
		assert_true(status_of(outside.pid, "CapBnd", 16) != 0);
		assert_int_equal(status_of(p.pid, "CapBnd", 16), 0);
	}
	assert_int_equal(status_of(p.pid, "CapEff", 16) & ~(1ull << 3), 0); /* CAP_FOWNER */
	assert_int_equal(status_of(p.pid, "CapPrm", 16) & ~(1ull << 3), 0);
	assert_int_equal(status_of(p.pid, "CapInh", 16), 0);
	assert_int_equal(status_of(p.pid, "CapAmb", 16), 0);
	assert_int_equal(status_of(p.pid, "NoNewPrivs", 10), 1);
	assert_int_equal(status_of(p.pid, "Seccomp", 10), 2);
	assert_int_equal(status_of(outside.pid, "NoNewPrivs", 10), 0);
	proc_end(&p, 0, NULL, 0);
	proc_end(&outside, 0, NULL, 0);
}

static void it_has_limits(void **state)
{
	struct proc p;

	(void)state;
	assert_int_equal(proc_start(&p, 4096, &jail, wait_for_the_end, NULL, NULL), 0);
	assert_int_equal(hard_limit(p.pid, RLIMIT_CORE), 0);
	assert_int_equal(hard_limit(p.pid, RLIMIT_NPROC), 0);
	assert_in_range(hard_limit(p.pid, RLIMIT_NOFILE), 16, JAIL_FILES);
	if (!SANITIZED) {
		assert_int_equal(hard_limit(p.pid, RLIMIT_FSIZE), 0);
		assert_in_range(hard_limit(p.pid, RLIMIT_AS), JAIL_MEMORY, JAIL_MEMORY + 256 * MIB);
	}
	proc_end(&p, 0, NULL, 0);
}

/* As many descriptors as the parent may have at most. */
static void descriptors_are_not_short(void **state)
{
	struct rlimit old, few;
	struct proc p;

	(void)state;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	few = (struct rlimit){ 64, old.rlim_max };
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
	assert_int_equal(proc_start(&p, 4096, &jail, wait_for_the_end, NULL, NULL), 0);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	assert_int_equal(hard_limit(p.pid, RLIMIT_NOFILE), min_u64(old.rlim_max, JAIL_FILES));
	proc_end(&p, 0, NULL, 0);
}

/* Takes all the memory that it gets, in pieces of *arg bytes. */
static int take_all(int sock, void *shared, void *arg)
{
	size_t len = *(size_t *)arg;
	uint64_t *taken = shared;
	char *p;

	(void)sock;
	while ((p = malloc(len))) {
		memset(p, 1, len);
		if ((*taken += len) > GIB)
			return 1;
	}
	return malloc(len) != NULL;
}

static void memory_ends_before_256_mib_and_it_lives(void **state)
{
	static size_t pieces[] = { 64, 4096, 100000, MIB, 32 * MIB };

	(void)state;
	if (SANITIZED) {
		printf("AddressSanitizer takes address space\n");
		skip();
	}
	for (size_t i = 0; i < ARRAY_SIZE(pieces); i++) {
		char how[PROC_HOW_ROOM], c;
		struct proc p;
		int fd;

		assert_int_equal(proc_start(&p, 4096, &jail, take_all, &pieces[i], NULL), 0);
		proc_recv(p.sock, &c, 1, &fd, NULL);
		assert_in_range(*(uint64_t *)p.shared, 130 * MIB, 256 * MIB);
		assert_true(status_of(p.pid, "VmHWM", 10) * KIB < 256 * MIB || status_of(p.pid, "VmHWM", 10) == ~0ull);
		proc_end(&p, 0, how, sizeof(how));
		assert_string_equal(how, "exit status 0");
	}
}

static int take_too_much(int sock, void *shared, void *arg)
{
	(void)sock;
	(void)shared;
	(void)arg;
	for (unsigned i = 0; i < 100; i++) {
		void *volatile p[] = { malloc(300 * MIB), calloc(300, MIB), aligned_alloc(4096, 300 * MIB) };

		TRY(!p[0] && !p[1] && !p[2]);
	}
	return 0;
}

static void *no_work(void *arg)
{
	return arg;
}

/* glibc tries other arenas for a process that has threads, and the parent may have had some; to count arenas it opens
 * files. */
static void memory_that_cannot_be_had_is_not_looked_for_elsewhere(void **state)
{
	pthread_t thread;

	(void)state;
	if (SANITIZED) {
		printf("AddressSanitizer takes address space\n");
		skip();
	}
	assert_int_equal(pthread_create(&thread, NULL, no_work, NULL), 0);
	pthread_join(thread, NULL);
	assert_string_equal(end_of(&jail, take_too_much, NULL, -1), "exit status 0");
}

/* ---- the end ---- */

static int free_twice(int sock, void *shared, void *arg)
{
	char *volatile p = malloc(100);

	(void)sock;
	(void)shared;
	(void)arg;
	free(p);
	free(p);
	return 0;
}

static void a_crash_is_told_as_such(void **state)
{
	int pair[2], old = dup(STDERR_FILENO);
	char said[200] = "";
	const char *how;

	(void)state;
	if (SANITIZED) {
		printf("AddressSanitizer reports that\n");
		skip();
	}
	assert_int_equal(pipe(pair), 0);
	dup2(pair[1], STDERR_FILENO);
	how = end_of(&jail, free_twice, NULL, -1);
	dup2(old, STDERR_FILENO);
	close(old);
	close(pair[1]);
	assert_true(read(pair[0], said, sizeof(said) - 1) > 0);
	close(pair[0]);
	assert_string_equal(how, "killed by signal 6 (Aborted)");
	assert_non_null(strstr(said, "free()"));
}

static void a_prisoner_dies_with_its_parent(void **state)
{
	int ready[2];
	pid_t middle, child = 0;

	(void)state;
	assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
	assert_int_equal(pipe(ready), 0);
	middle = fork();
	if (middle == 0) {
		struct proc p;

		if (proc_start(&p, 4096, &jail, wait_for_the_end, NULL, NULL) < 0 || fcntl(p.sock, F_SETFD, 0) < 0 ||
		    write(ready[1], &p.pid, sizeof(p.pid)) < 0)
			_exit(1);
		pause();
	}
	assert_int_equal(read(ready[0], &child, sizeof(child)), sizeof(child));
	assert_int_equal(kill(child, 0), 0);
	kill(middle, SIGKILL);
	assert_int_equal(waitpid(middle, NULL, 0), middle);
	assert_int_equal(waitpid(child, NULL, 0), child); /* or the alarm goes */
	prctl(PR_SET_CHILD_SUBREAPER, 0);
	close(ready[0]);
	close(ready[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		jail_test(what_a_worker_does_is_let_through),
		jail_test(what_it_does_not_do_ends_it),
		jail_test(the_call_is_named),
#ifdef __x86_64__
		jail_test(a_call_of_32_bits_ends_it),
		jail_test(a_call_of_x32_ends_it),
#endif
		jail_test(blocked_signals_do_not_help),
		jail_test(landlock_of_every_abi_denies_what_it_can),
		jail_test(what_landlock_2_cannot_do_seccomp_does),
		jail_test(require_wants_all_of_it),
		jail_test(best_takes_what_there_is),
		jail_test(it_is_described),
		jail_test(modes_have_names),
		jail_test(a_jail_that_cannot_be_entered_is_an_error),
		jail_test(it_has_no_capability_that_matters_and_no_way_to_one),
		jail_test(it_has_limits),
		jail_test(descriptors_are_not_short),
		jail_test(memory_ends_before_256_mib_and_it_lives),
		jail_test(memory_that_cannot_be_had_is_not_looked_for_elsewhere),
		jail_test(a_crash_is_told_as_such),
		jail_test(a_prisoner_dies_with_its_parent),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
