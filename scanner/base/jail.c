/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/base/jail.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "scanner/base/checked.h"
#include "scanner/base/late.h"

/*
 * Why a forbidden call is trapped (SECCOMP_RET_TRAP) and the process not killed at once: nobody but the process itself
 * learns which call it was.  The call is not made either way.  The handler notes its number and makes another one while
 * SIGSYS is blocked, which the kernel answers by killing: with or without the handler, there is no second call.
 *
 * Left out on purpose, though glibc or a shorter list would have it:
 *  - newfstatat, which glibc's fstat() uses up to 2.38: it takes paths, and Landlock lets everybody stat.  Hence
 *    file_stat();
 *  - read, futex, rt_sigreturn, readv, ...: nobody here calls them;
 *  - all of open: malloc() looks at /proc and /sys for the arenas of threads only.
 */

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#define SANITIZED
#endif

/* ---- system calls ---- */

#define CALLS(X)													\
	X(seccomp_rule_add_array) X(seccomp_rule_add) X(seccomp_syscall_priority) X(seccomp_init)			\
	X(seccomp_attr_set) X(seccomp_load) X(seccomp_release) X(seccomp_syscall_resolve_num_arch)
LATE_LIBRARY("libseccomp.so.2", "libseccomp, which restricts processes,", "libseccomp2", CALLS);

struct rule {
	int call;
	unsigned nr_args;
	struct scmp_arg_cmp args[2];
};

#define ANY(name)                                                                                                      \
	{                                                                                                              \
		SCMP_SYS(name), 0,                                                                                     \
		{                                                                                                      \
			{                                                                                              \
				0                                                                                      \
			}                                                                                              \
		}                                                                                                      \
	}
#define ONLY(name, arg, value)                                                                                         \
	{                                                                                                              \
		SCMP_SYS(name), 1,                                                                                     \
		{                                                                                                      \
			{                                                                                              \
				arg, SCMP_CMP_EQ, value, 0                                                             \
			}                                                                                              \
		}                                                                                                      \
	}
#define WITHOUT(name, arg, bits)                                                                                       \
	{                                                                                                              \
		SCMP_SYS(name), 1,                                                                                     \
		{                                                                                                      \
			{                                                                                              \
				arg, SCMP_CMP_MASKED_EQ, bits, 0                                                       \
			}                                                                                              \
		}                                                                                                      \
	}

#define BUT(name, arg, value)                                                                                          \
	{                                                                                                              \
		SCMP_SYS(name), 1,                                                                                     \
		{                                                                                                      \
			{                                                                                              \
				arg, SCMP_CMP_NE, value, 0                                                             \
			}                                                                                              \
		}                                                                                                      \
	}

static const struct rule rules[] = {
	/* the files that it holds; most frequent first */
	ANY(pread64),
	ANY(lseek),
	ANY(fstat),
	ANY(close),
	ANY(fadvise64),
	ANY(mincore),
	ONLY(fcntl, 1, F_DUPFD_CLOEXEC),
	ONLY(ioctl, 1, BLKGETSIZE64),
	ONLY(ioctl, 1, FS_IOC_FIEMAP),
	/* its parent */
	ONLY(sendmsg, 0, JAIL_SOCKET),
	ONLY(recvmsg, 0, JAIL_SOCKET),
	/* memory, none that could be run */
	WITHOUT(mmap, 2, PROT_EXEC),
	WITHOUT(mprotect, 2, PROT_EXEC),
	ANY(munmap),
	ANY(mremap),
	ANY(brk),
	ONLY(madvise, 2, MADV_DONTNEED),
	ONLY(madvise, 2, MADV_FREE),
	ONLY(madvise, 2, MADV_HUGEPAGE),
	ANY(getrandom),
	ANY(sysinfo), /* qsort() asks how much memory there is */
	/* time */
	ANY(clock_gettime),
	ANY(nanosleep),
	ANY(clock_nanosleep),
	ANY(restart_syscall),
	/* its end: exit, and abort() with a last word */
	ANY(exit_group),
	ONLY(write, 0, STDERR_FILENO),
	ONLY(writev, 0, STDERR_FILENO),
	ANY(getpid),
	ANY(gettid),
	ANY(rt_sigprocmask),
/* tgkill: see load_filter() */
#ifdef SANITIZED
	/* Shadow memory, locks, leak lists; handlers of signals and their stack; sizes and names for reports of
	 * errors. */
	ANY(madvise),
	ANY(futex),
	ANY(sched_yield),
	ANY(rt_sigaction),
	ANY(rt_sigreturn),
	ANY(sigaltstack),
	ANY(getrlimit),
	ANY(prlimit64),
	ONLY(ioctl, 1, 0x5401 /* TCGETS */),
#endif
};

/* In the place of those of the same calls.  A descriptor that is open for writing can be written through a shared mapping,
 * even one that was made for reading. */
static const struct rule writable_rules[] = {
	{ SCMP_SYS(mmap), 2, { { 2, SCMP_CMP_MASKED_EQ, PROT_EXEC, 0 }, { 3, SCMP_CMP_MASKED_EQ, MAP_TYPE, MAP_PRIVATE } } },
};

/* That descriptor cannot become another file's: it is never closed, and nobody can duplicate onto it. */
static const struct rule writes_rules[] = {
	ONLY(pwrite64, 0, JAIL_WRITTEN),
	ONLY(ftruncate, 0, JAIL_WRITTEN),
	ONLY(fallocate, 0, JAIL_WRITTEN),
	BUT(close, 0, JAIL_WRITTEN),
};

#ifdef SANITIZED
/* A report of an error looks for symbols; it does without. */
static const int failing_calls[] = { SCMP_SYS(openat), SCMP_SYS(open), SCMP_SYS(readlink) };
#endif

static unsigned nr_calls(void)
{
	unsigned nr = 1; /* tgkill */

	for (size_t i = 0; i < ARRAY_SIZE(rules); i++)
		nr += i == 0 || rules[i].call != rules[i - 1].call;
	return nr;
}

static int add_all(scmp_filter_ctx filter, const struct rule *r, size_t nr)
{
	int rc = 0;

	for (; rc == 0 && nr; r++, nr--)
		rc = lib.seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, r->call, r->nr_args, r->args);
	return rc;
}

static bool replaced(const struct jail *j, int call)
{
	return (call == SCMP_SYS(mmap) && (j->writable || j->writes)) || (call == SCMP_SYS(close) && j->writes);
}

static int add_rules(const struct jail *j, scmp_filter_ctx filter)
{
	int rc = lib.seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 2,
				      SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid()), SCMP_A2(SCMP_CMP_EQ, SIGABRT));

	for (size_t i = 0; rc == 0 && i < ARRAY_SIZE(rules); i++)
		if (!replaced(j, rules[i].call))
			rc = add_all(filter, &rules[i], 1);
	if (rc == 0 && (j->writable || j->writes))
		rc = add_all(filter, writable_rules, ARRAY_SIZE(writable_rules));
	if (rc == 0 && j->writes)
		rc = add_all(filter, writes_rules, ARRAY_SIZE(writes_rules));
#ifdef SANITIZED
	for (size_t i = 0; rc == 0 && i < ARRAY_SIZE(failing_calls); i++)
		rc = lib.seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), failing_calls[i], 0);
#endif
	if (rc == 0)
		rc = lib.seccomp_syscall_priority(filter, SCMP_SYS(pread64), 255);
	return rc;
}

static _Atomic uint32_t *forbidden_call;

static void on_forbidden(int sig, siginfo_t *info, void *ctx)
{
	(void)sig;
	(void)ctx;
	if (info->si_code == 1 /* SYS_SECCOMP */)
		atomic_store(forbidden_call, (uint32_t)info->si_syscall + 1);
	syscall(SYS_execve, NULL, NULL, NULL); /* forbidden too; see the top */
	__builtin_trap();
}

static int load_filter(const struct jail *j, _Atomic uint32_t *forbidden, struct err *err)
{
	struct sigaction action = { .sa_sigaction = on_forbidden, .sa_flags = SA_SIGINFO };
	scmp_filter_ctx filter = lib.seccomp_init(SCMP_ACT_TRAP);
	sigset_t sigsys;
	int rc;

	if (!filter)
		return err_set(err, ERR_MEMORY, "no memory for a seccomp filter");
	forbidden_call = forbidden;
	sigaction(SIGSYS, &action, NULL);
	sigemptyset(&sigsys);
	sigaddset(&sigsys, SIGSYS);
	sigprocmask(SIG_UNBLOCK, &sigsys, NULL);
	rc = lib.seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
	if (rc == 0)
		rc = add_rules(j, filter);
	if (rc == 0) {
		lib.seccomp_attr_set(filter, SCMP_FLTATR_CTL_LOG, 1); /* where the kernel can */
		rc = lib.seccomp_load(filter);
	}
	lib.seccomp_release(filter);
	errno = -rc;
	return rc == 0 ? 0 : err_errno(err, "cannot restrict system calls");
}

const char *jail_call(int nr, char *buf, size_t room)
{
	char *name = late_load(&library, NULL) < 0 ? NULL : lib.seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, nr);

	snprintf(buf, room, name ? "system call %d, %s" : "system call %d", nr, name);
	free(name);
	return buf;
}

/* ---- Landlock ---- */

/* As in linux/landlock.h of Linux 6.12; older headers lack some of it. */
struct ruleset {
	uint64_t handled_access_fs, handled_access_net, scoped;
};

#define NR_create_ruleset 444
#define NR_restrict_self 446
#define CREATE_RULESET_VERSION 1u

static int landlock_abi(void)
{
	long abi = syscall(NR_create_ruleset, NULL, (size_t)0, CREATE_RULESET_VERSION);

	return abi > 0 ? (int)abi : 0;
}

/* All that an ABI can handle, and no rule that allows any of it.  What a kernel does not know it takes as long as it
 * is 0. */
static struct ruleset ruleset_of(int abi)
{
	static const int fs_rights[] = { [1] = 13, [2] = 14, [3] = 15, [4] = 15, [5] = 16 };
	int known = abi < (int)ARRAY_SIZE(fs_rights) ? abi : (int)ARRAY_SIZE(fs_rights) - 1;

	return (struct ruleset){
		.handled_access_fs = ((uint64_t)1 << fs_rights[known]) - 1,
		.handled_access_net = abi >= 4 ? 3 : 0, /* bind and connect TCP */
		.scoped = abi >= 6 ? 3 : 0,		/* abstract sockets, signals */
	};
}

static int restrict_paths(int abi, struct err *err)
{
	struct ruleset r = ruleset_of(abi);
	size_t len = abi >= 6 ? sizeof(r) : abi >= 4 ? 2 * sizeof(uint64_t) : sizeof(uint64_t);
	int fd = (int)syscall(NR_create_ruleset, &r, len, 0u), rc;

	if (fd < 0)
		return err_errno(err, "cannot make a Landlock ruleset");
	rc = (int)syscall(NR_restrict_self, fd, 0u);
	if (rc < 0)
		err_errno(err, "cannot restrict itself by Landlock");
	close(fd);
	return rc;
}

/* ---- capabilities and limits ---- */

static int drop_capabilities(struct err *err)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct caps[_LINUX_CAPABILITY_U32S_3] = { 0 };

	if (syscall(SYS_capget, &header, caps) < 0)
		return err_errno(err, "cannot ask for capabilities");
	for (int cap = 0; prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) == 0; cap++)
		; /* to the last that the kernel has; to none unless CAP_SETPCAP is held */
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	for (size_t i = 0; i < ARRAY_SIZE(caps); i++) {
		caps[i].permitted &= i == 0 ? 1u << CAP_FOWNER : 0;
		caps[i].effective = caps[i].permitted;
		caps[i].inheritable = 0;
	}
	if (syscall(SYS_capset, &header, caps) < 0)
		return err_errno(err, "cannot drop capabilities");
	return 0;
}

/* No more than `most`, for good. */
static void limit(int what, uint64_t most)
{
	struct rlimit r;

	if (getrlimit(what, &r) < 0)
		return;
	r.rlim_max = min_u64(r.rlim_max, most);
	r.rlim_cur = what == RLIMIT_NOFILE ? r.rlim_max : min_u64(r.rlim_cur, r.rlim_max);
	setrlimit(what, &r);
}

#ifndef SANITIZED
/* What is in use: the program, its libraries, what it shares with its parent and what it began with. */
static uint64_t address_space(void)
{
	unsigned long long pages = 16384; /* without /proc */
	int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
	char line[128] = "";

	if (fd >= 0) {
		if (read(fd, line, sizeof(line) - 1) > 0)
			sscanf(line, "%llu", &pages);
		close(fd);
	}
	return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}
#endif

static void set_limits(const struct jail *j)
{
	tzset(); /* or gmtime_r() looks for /etc/localtime */
	limit(RLIMIT_NOFILE, JAIL_FILES);
	limit(RLIMIT_CORE, 0);
	limit(RLIMIT_NPROC, 0);
	(void)j; /* AddressSanitizer writes reports */
#ifndef SANITIZED
	limit(RLIMIT_FSIZE, j->writes);
	signal(SIGXFSZ, SIG_IGN); /* a last word to a file is lost, and not its end */
	limit(RLIMIT_AS, address_space() + JAIL_MEMORY);
#endif
}

/* ---- the whole ---- */

static bool seccomp_there(void)
{
	uint32_t action = SECCOMP_RET_KILL_PROCESS;

	return syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0;
}

const struct jail_kernel jail_kernel_real = { landlock_abi, seccomp_there };
const struct jail_kernel *jail_kernel = &jail_kernel_real;

int jail_mode_by_name(const char *name, enum jail_mode *ret, struct err *err)
{
	static const char *const names[] = { [JAIL_REQUIRE] = "require", [JAIL_BEST] = "best", [JAIL_OFF] = "off" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (strcmp(name, names[i]) == 0) {
			*ret = (enum jail_mode)i;
			return 0;
		}
	}
	return err_set(err, ERR_USAGE, "'%s' is no sandbox; require, best and off are", name);
}

const char *jail_missing(const struct jail *j)
{
	bool landlock = j->landlock >= JAIL_LANDLOCK_MIN;

	if (landlock)
		return j->seccomp ? "" : "seccomp";
	return j->seccomp ? "Landlock ABI 2 (Linux 5.19)" : "Landlock ABI 2 (Linux 5.19) and seccomp";
}

int jail_plan(struct jail *ret, enum jail_mode mode, struct err *err)
{
	struct jail j = { .mode = mode };

	if (mode != JAIL_OFF) {
		j.landlock = jail_kernel->landlock_abi();
		j.seccomp = jail_kernel->seccomp();
	}
	if (mode == JAIL_REQUIRE && jail_missing(&j)[0])
		return err_set(err, ERR_UNSUPPORTED,
			       "images cannot be read in a sandbox here: the kernel lacks %s; --sandbox=best does with "
			       "what there is",
			       jail_missing(&j));
	*ret = j;
	return 0;
}

const char *jail_describe(const struct jail *j, char *buf, size_t room)
{
	char landlock[32] = "no Landlock", seccomp[48] = "no seccomp";

	if (j->landlock)
		snprintf(landlock, sizeof(landlock), "Landlock ABI %d", j->landlock);
	if (j->seccomp)
		snprintf(seccomp, sizeof(seccomp), "seccomp (%u calls allowed)", nr_calls());
	snprintf(buf, room, j->mode == JAIL_OFF ? "none" : "%s, %s, no_new_privs", landlock, seccomp);
	return buf;
}

int jail_prepare(const struct jail *j, struct err *err)
{
	return j->seccomp ? late_load(&library, err) : 0;
}

int jail_enter(const struct jail *j, _Atomic uint32_t *forbidden, struct err *err)
{
	if (j->mode == JAIL_OFF)
		return 0;
	if (jail_prepare(j, err) < 0)
		return -1;
	set_limits(j);
	if (drop_capabilities(err) < 0)
		return -1;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return err_errno(err, "cannot give up new privileges");
	if (j->landlock && restrict_paths(j->landlock, err) < 0 && j->mode == JAIL_REQUIRE)
		return -1;
	if (j->seccomp && load_filter(j, forbidden, err) < 0 && j->mode == JAIL_REQUIRE)
		return -1;
	return 0;
}
