/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_HOLD_H
#define DEDUPSCAN_HOLD_H

#include <stdbool.h>
#include <stddef.h>

#include "scanner/base/cleanup.h"
#include "scanner/base/err.h"

/* Who uses an image?  And keeping others out while it is changed.
 *
 * A hold is a write lease (granted only while nobody else has the file open: any process, any QEMU with or without
 * its locks, loop devices, mappings whose descriptor is closed) and write locks on the bytes that QEMU locks, 100-103
 * and 200-203, so that a QEMU that gets past the lease fails at once with a message of its own.  Whoever else opens
 * the file waits in the kernel, at most /proc/sys/fs/lease-break-time seconds, until the hold is let go; hold_whole()
 * tells, and work is to be given up within a second then.
 *
 * The file must be open once, by the descriptor given and its duplicates (also those sent to other processes).
 * Opening it again by name while it is held would wait for ourselves.  Open it with O_RDWR | O_NONBLOCK: where
 * another process holds it, that fails with EAGAIN instead of waiting (and takes the hold of the other away, so:
 * workshop.h first).
 *
 * Nothing of this changes the process: a lease that breaks sends it SIGURG, which is ignored unless somebody handles
 * it, and no other signal.  A lease ends with the last duplicate of the descriptor, or by hold_release(). */

/* Nanoseconds after which whoever was opening the file when it was let go has it open. */
#define SETTLE_NS 1000000000ull

struct hold {
	int fd;	     /* the caller's; -1 = nothing is held */
	bool lease;  /* false: the file system has none, and the user said that nobody is there */
	bool locks;
};
#define HOLD_INIT { .fd = -1 }

struct hold_options {
	bool assume_idle; /* file systems that cannot tell (NFS, CIFS, FUSE, clusters) are taken at the user's word */
};

/* Takes it, or fails: ERR_BUSY, naming the holder where the system tells; ERR_UNSUPPORTED where nobody can tell;
 * ERR_REFUSED where this user may not (not the owner, nor root) or where it is no regular file.  `fd` is open for
 * writing.
 *
 * `dirfd` and `name` are where the file lies.  VMware's locks beside it count as use: NAME.lck/ with files *.lck in
 * it, for an extent also that of its descriptor, and .lck-INODE, which ESXi makes over NFS.  They may be stale, and
 * the message says how to be rid of them.
 *
 * With `assume_idle` only what cannot be seen is taken for idle: a holder on this host, a lock of another one, and
 * libvirt's trusted.libvirt.security.* attributes (there while a guest runs, and after a crash) still are ERR_BUSY.
 * With a lease these attributes say nothing: no guest of this host has the file open. */
int hold_take(struct hold *h, int fd, int dirfd, const char *name, const struct hold_options *o, struct err *err);

/* ERR_BUSY once somebody has tried to open the file since; it stays so. */
int hold_whole(const struct hold *h, struct err *err);

/* Lets go, locks first: a QEMU that waited behind the lease finds none.  For all duplicates of the descriptor, so
 * never in another process than that which took it. */
void hold_release(struct hold *h);
CLEANUP_DEFINE_RELEASE(struct hold, hold_release)

/* A look, for plans: 0 = nobody is seen to use the file, ERR_BUSY as above.  `fd` may be open for reading only.  A
 * lease is had for a moment; where none is to be had, or not by this user, what /proc and locks show must do, and
 * where hold_fs_is_shared() that is little. */
int hold_look(int fd, int dirfd, const char *name, struct err *err);
/* The same, by name: false = nobody has it open, or the user says so where that cannot be told. */
bool hold_may_be_open(int dirfd, const char *name, bool assume_idle);

/* Who else has the file open, mapped or locked: "pid 123 (qemu-system-x86)", "loop device /dev/loop3", the first
 * three of them; "" = not known.  Processes of others show themselves to root only. */
const char *hold_holder(int fd, char *buf, size_t room);

/* True for file systems where leases and locks say nothing of other hosts, or that are not known not to be such;
 * *ret_type, of 32 bytes, is its name. */
bool hold_fs_is_shared(int fd, char *ret_type);

#endif
