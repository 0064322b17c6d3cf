/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_JAIL_H
#define DEDUPSCAN_JAIL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "scanner/base/err.h"

/* The jail: what a process that reads hostile bytes gives up before it sees the first of them.
 *
 * It keeps the descriptors that it has and those that it is handed, one socket, and memory of a limited size.
 * It loses:
 *
 *  - by seccomp (libseccomp), every system call but those in the table in jail.c: it opens, makes and runs nothing, has
 *    no threads and no children.  The first other call ends it with SIGSYS, as does any of another ABI (32 bits, x32);
 *  - by Landlock, all paths, TCP, and signals and abstract sockets to others, as far as the kernel's Landlock goes;
 *  - the ways to gain privileges (no_new_privs), and all capabilities but CAP_FOWNER, without which mincore(2) tells
 *    nothing about files of others;
 *  - core dumps, writing to files, processes, more address space than it has and JAIL_MEMORY, more descriptors than
 *    JAIL_FILES.
 *
 * It is meant for descriptors that are open for reading.  One that is handed others says so in its plan, by `writable`, or by
 * `writes` if it is to write.
 *
 * Programs with AddressSanitizer keep their address space, and a few more calls are let through; see jail.c.  valgrind
 * makes calls of its own in the name of its program, which the jail ends: without a jail, then. */

#define JAIL_MEMORY ((size_t)224 << 20)
#define JAIL_FILES 16384
#define JAIL_SOCKET 3 /* the descriptor of the one socket */
#define JAIL_WRITTEN 60 /* the descriptor that may be written to, if any: duplicated to there by the process itself */

enum jail_mode {
	JAIL_REQUIRE, /* all of it, or fail; of Landlock at least JAIL_LANDLOCK_MIN */
	JAIL_BEST,    /* as much as the kernel has */
	JAIL_OFF,
};

#define JAIL_LANDLOCK_MIN 2 /* Linux 5.19 */

struct jail {
	enum jail_mode mode;
	int landlock; /* the ABI that is used, 0 = none */
	bool seccomp;

	/* What jail_plan() leaves at none, and who enters may set. */
	bool writable;	 /* descriptors may be open for writing: files are mapped privately only */
	uint64_t writes; /* besides, pwrite, ftruncate and fallocate go to JAIL_WRITTEN, which is never closed, and make
			  * it no longer than so many bytes; 0 = none do */
};

/* "require", "best", "off"; ERR_USAGE for anything else. */
int jail_mode_by_name(const char *name, enum jail_mode *ret, struct err *err);

/* Decides what the jail will be here.  JAIL_REQUIRE fails with ERR_UNSUPPORTED when the kernel lacks something. */
int jail_plan(struct jail *ret, enum jail_mode mode, struct err *err);

/* What the kernel lacks for JAIL_REQUIRE, in words; "" = nothing. */
const char *jail_missing(const struct jail *j);

/* "Landlock ABI 7, seccomp (25 calls allowed), no_new_privs", and what is missing. */
const char *jail_describe(const struct jail *j, char *buf, size_t room);

/* Loads libseccomp, if that is used.  To be called in the process that forks: not each of its children does it again. */
int jail_prepare(const struct jail *j, struct err *err);

/* Enters it, for good.  A forbidden call leaves its number plus one in *forbidden, which another process shall see. */
int jail_enter(const struct jail *j, _Atomic uint32_t *forbidden, struct err *err);

/* "system call 257, openat" */
const char *jail_call(int nr, char *buf, size_t room);

/* What the kernel has: tests point it elsewhere, and back to &jail_kernel_real. */
struct jail_kernel {
	int (*landlock_abi)(void); /* 0 = none */
	bool (*seccomp)(void);
};
extern const struct jail_kernel *jail_kernel;
extern const struct jail_kernel jail_kernel_real;

#endif
