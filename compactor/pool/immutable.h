/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_IMMUTABLE_H
#define DEDUPSCAN_IMMUTABLE_H

#include "compactor/pool/pool.h"

/* The immutable flag (chattr +i) of a pool's files: what has it nobody can write to, rename, remove, chmod or chown, root
 * neither, but who lifts it first.  At rest these have it:
 *
 *	<uuid>.qcow2	all data of all images, which is there once
 *	views/		stubs: who removes one takes the disk from all that stand on it
 *
 * for guests read both, and both are changed by us alone, and seldom.  The others stay without:
 *
 *	sealed/		these were images: libvirt still notes owners on them, recovery puts them back, repoint writes to
 *			them; and whoever wrote to one is found out (seal.h)
 *	names/ trees/	written to, replaced or removed by most commands; no guest reads them, and nobody but the pool's
 *			owner gets there (0700)
 *	index/ lock	the same, and made anew when they are lost
 *	trash/		what is on its way out; quarantine/, too
 *	directories	files come and go, and a pool may be moved
 *
 * Who changes a file lifts its flag, and the cluster file's flag before that of a stub; pool_close() sets all again, the cluster
 * file's last.  So a process that died shows: the next one that closes a pool it could write to finds the cluster file without,
 * and looks at all stubs.  Where the system refuses the flag (no such file system, no CAP_LINUX_IMMUTABLE) that is no error:
 * nothing depends on it. */

/* What the pool was told, which is kept in it. */
enum pool_immutable {
	/* Where that keeps no guest from starting: libvirt gives what it opens to the user of its guests, and goes on where it may
	 * not; then the file must be one that everybody may read.  Where it cannot change a label it may not go on: so not with
	 * SELinux. */
	POOL_IMMUTABLE_AUTO,
	POOL_IMMUTABLE_NEVER,
	POOL_IMMUTABLE_ALWAYS, /* QEMU runs as a user who may read the pool, with labels that need no change */
	POOL_NR_IMMUTABLE
};
extern const char *const pool_immutable_names[POOL_NR_IMMUTABLE];

enum pool_immutable immutable_told(const struct pool *p);
/* Keeps it; flags follow when the pool is closed. */
int immutable_tell(struct pool *p, enum pool_immutable how, struct err *err);

/* 1 = it was immutable, and is not any more; 0; -1 = it stays so. */
int immutable_lift(int fd, struct err *err);

/* file_rename_to() and file_unlink() of files in the pool's directories, immutable or not. */
int immutable_rename(struct pool *p, enum pool_dir from, const char *name, enum pool_dir to, const char *as, unsigned flags,
		     struct err *err);
int immutable_unlink(struct pool *p, enum pool_dir dir, const char *name, struct err *err);
/* The same in a directory of a pool that is not open. */
int immutable_unlink_closed(int dirfd, const char *name, struct err *err);
/* Before anything else of a file is changed, in fd. */
int immutable_lift_in(struct pool *p, int fd, struct err *err);

/* Sets the flag as it is to be at rest: of one file that is in its place, of all. */
void immutable_settle(const struct pool *p, int fd);
void immutable_rest(struct pool *p);

/* How many are immutable. */
struct immutable_state {
	uint64_t nr_files, nr_immutable;
	const char *why; /* not all are; NULL = they are */
};
int immutable_look(struct pool *p, struct immutable_state *ret, struct err *err);

extern const char *immutable_selinux; /* is there where SELinux is enabled; for tests */

#endif
