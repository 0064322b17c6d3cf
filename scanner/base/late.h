/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_LATE_H
#define DEDUPSCAN_LATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "scanner/base/err.h"

/* Libraries that many commands do without, loaded when they are needed: linked, they took a third of the time in which dedupscan
 * starts.
 *
 *	#define CALLS(X) X(ZSTD_createDCtx) X(ZSTD_freeDCtx)
 *	LATE_LIBRARY("libzstd.so.1", "libzstd, which unpacks clusters,", "libzstd1", CALLS);
 *
 *	if (late_load(&library, err) == 0)
 *		lib.ZSTD_freeDCtx(lib.ZSTD_createDCtx());
 *
 * One for a .c file, the one that includes the library's header: the compiler checks the calls by its prototypes. */

enum late_state { LATE_NOT_TRIED, LATE_LOADED, LATE_FAILED };

struct late_call {
	const char *name;
	void *ret; /* the pointer in lib */
};

struct late {
	const char *soname, *what, *package; /* the latter of Debian */
	const struct late_call *calls;	     /* up to the one without a name */
	_Atomic enum late_state state;
	char fault[256];
};

/* Loads it, unless that was tried before; it stays.  From any thread; for the first time not in a jail.
 * ERR_IO: it is not there, or lacks a call. */
int late_load(struct late *l, struct err *err);

#define LATE_POINTER(name) __typeof__(name) *name;
#define LATE_CALL(name) { #name, &lib.name },
#define LATE_LIBRARY(soname_, what_, package_, CALLS)                                                                      \
	LATE_NOTE("[{\"soname\":[\"" soname_ "\"],\"priority\":\"required\"}]");                                           \
	static struct {                                                                                                    \
		CALLS(LATE_POINTER)                                                                                        \
	} lib;                                                                                                             \
	static const struct late_call lib_calls[] = { CALLS(LATE_CALL){ NULL, NULL } };                                    \
	static struct late library = { .soname = soname_, .what = what_, .package = package_, .calls = lib_calls }

/* Tells those who make packages, and see only what is linked (https://uapi-group.org/specifications/specs/elf_dlopen_metadata). */
#define LATE_NOTE(json)                                                                                                    \
	static const struct {                                                                                              \
		unsigned name_len, len, type;                                                                              \
		char name[4], text[(sizeof(json) + 3) / 4 * 4];                                                            \
	} late_note __attribute__((used, aligned(4), section(".note.dlopen"))) = { 4, sizeof(json), 0x407c0c0a, "FDO", json }

#endif
