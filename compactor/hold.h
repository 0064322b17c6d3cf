/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_HOLD_H
#define DEDUPSCAN_HOLD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "scanner/base/cleanup.h"
#include "scanner/base/err.h"

/* Who uses an image?  And keeping others out while it is changed.
 *
 * A hold is a write lease (granted only while nobody else has the file open: any process, any QEMU with or without its
 * locks, loop devices) and write locks on the bytes that QEMU locks, 100-103 and 200-203, so that a QEMU that starts
 * meanwhile fails at once with a message of its own.  Whoever else opens the file waits in the kernel, at most
 * /proc/sys/fs/lease-break-time seconds, until the hold is let go; hold_whole() tells, and work is to be given up within
 * a second then.
 *
 * The file must be open once, by the descriptor given and its duplicates (also those sent to other processes).  Opening
 * it again by name while it is held would wait for ourselves. */

struct hold {
	int fd;	     /* the caller's; -1 = nothing is held */
	bool lease;  /* false: the file system has none, and the user said that nobody is there */
	bool locks;
};
#define HOLD_INIT { .fd = -1 }

struct hold_options {
	bool assume_idle; /* file systems that cannot tell (NFS, CIFS, FUSE, clusters) are taken at the user's word */
};

/* Takes it, or fails: ERR_BUSY, naming the holder where the system tells; ERR_UNSUPPORTED where nobody can tell.
 * `dirfd` and `name` are where the file lies: VMware's NAME.lck beside it (or EXTENT's) counts as use. */
int hold_take(struct hold *h, int fd, int dirfd, const char *name, const struct hold_options *o, struct err *err);

/* ERR_BUSY once somebody has tried to open the file since. */
int hold_whole(const struct hold *h, struct err *err);

void hold_release(struct hold *h);
CLEANUP_DEFINE_RELEASE(struct hold, hold_release)

/* A look without taking anything: 0 = nobody is seen to use the file, ERR_BUSY as above.  For plans. */
int hold_look(int fd, int dirfd, const char *name, struct err *err);

/* Who has the file open or locked, as /proc tells: "pid 123 (qemu-system-x86)", "loop device /dev/loop3"; "" = not known. */
const char *hold_holder(int fd, char *buf, size_t room);

/* True for file systems where leases and locks say nothing of other hosts; *ret_type, of 32 bytes, is its name. */
bool hold_fs_is_shared(int fd, char *ret_type);

#endif
