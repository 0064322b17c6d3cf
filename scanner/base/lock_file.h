/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_LOCK_FILE_H
#define DEDUPSCAN_LOCK_FILE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "scanner/base/err.h"
#include "scanner/base/schedule.h"

/* A file whose lock (OFD) says who is at work in its directory.  The kernel drops the lock with its holder: no stale one can be
 * left. */

struct lock_file {
	int fd;
	int ears; /* inotify(7), -1 = nobody listens */
};

#define LOCK_FILE_INIT { .fd = -1, .ears = -1 }

/* Opens dirfd/name, for writing as `flags` say (O_RDONLY: it is shared with other readers), and locks it: 1; 0 = another process
 * has it; -1. */
int lock_file_take(struct lock_file *l, int dirfd, const char *name, int flags, mode_t mode, struct err *err);
void lock_file_release(struct lock_file *l);

/* From now on whoever comes to it is heard; where the kernel cannot tell, nobody is. */
void lock_file_listen(struct lock_file *l);
/* Whether anybody opened it since it was asked last, or since lock_file_listen(): those who wait try again and again. */
bool lock_file_was_tried(struct lock_file *l);

/* Notes that an ERR_BUSY (may be NULL) is another process that has a lock, and will be done one day; returns -1. */
int lock_file_held(struct err *err);
bool lock_file_is_held(const struct err *err);

/* For who wants a lock: when his patience of so many seconds ends (CLOCK_MONOTONIC, ns), ... */
uint64_t lock_file_patience(int64_t seconds);
/* ... and after an error, whether he is to try again: if somebody has the lock and it is not `until` yet; then the error goes, and
 * he has slept for a moment.  A stop makes ERR_CANCELED of it.  Who sleeps should hold nothing: others would wait for him. */
bool lock_file_try_again(struct err *err, uint64_t until, struct stopper *s);
#define LOCK_FILE_TRY_NS 20000000

#endif
