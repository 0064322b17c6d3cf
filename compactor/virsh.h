/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_VIRSH_H
#define DEDUPSCAN_VIRSH_H

#include <limits.h>
#include <stdbool.h>

#include "scanner/base/cleanup.h"
#include "scanner/base/err.h"
#include "scanner/base/vec.h"

/* libvirt, as its administrator uses it: by the program virsh(1), with the connection that it takes by itself
 * (LIBVIRT_DEFAULT_URI, or qemu:///system for root).
 *
 * ERR_UNSUPPORTED where there is no virsh or nobody answers it; what virsh says when it fails is ERR_REFUSED. */

#define VIRSH_UUID_ROOM 37

/* A disk of a machine that is a file. */
struct virsh_disk {
	char uuid[VIRSH_UUID_ROOM];
	char target[64]; /* "vda" */
	char source[PATH_MAX];
};

struct virsh_disks {
	VEC(struct virsh_disk) items;
};
void virsh_disks_release(struct virsh_disks *l);
CLEANUP_DEFINE_RELEASE(struct virsh_disks, virsh_disks_release)

/* All disks of all machines: of those that run, as they are now; or as the machines are configured to be when they start. */
int virsh_disks(bool running, struct virsh_disks *ret, struct err *err);

/* One of a machine's disks, for a snapshot. */
struct virsh_aside {
	const char *target, *path; /* of the new file: it is not there yet */
};
/* What a running machine writes from one moment on goes to new files, one for each of these disks; its other disks stay as
 * they are.  All or none.  Its configuration names the new files then.  With `quiesce` the guest's agent freezes its file
 * systems for that moment. */
int virsh_snapshot(const char *uuid, const struct virsh_aside *asides, size_t nr, bool quiesce, struct err *err);

/* 1 = what libvirt knows of a machine that runs has this text in it: the name of a file of a chain, say. */
int virsh_mentions(const char *uuid, const char *text, struct err *err);

/* What a disk's topmost file holds goes to another overlay, which is there, at `path`, and stands on what holds the same as
 * what that file stands on.  The machine changes over to it, and its configuration does. */
int virsh_copy(const char *uuid, const char *target, const char *path, struct err *err);
/* The same, into the file `below` that the topmost one, `top`, stands on; both by the names that libvirt has for them. */
int virsh_commit(const char *uuid, const char *target, const char *top, const char *below, struct err *err);
/* Ends what an earlier virsh_copy() or virsh_commit() left running, if any. */
void virsh_abort(const char *uuid, const char *target);

/* A machine that does not run: 1 = it goes on from what was saved when it starts. */
int virsh_is_saved(const char *uuid, struct err *err);
/* Changes a file's name in the configuration of a machine that does not run. */
int virsh_rename(const char *uuid, const char *from, const char *to, struct err *err);

#endif
