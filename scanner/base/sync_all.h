/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_SYNC_ALL_H
#define DEDUPSCAN_SYNC_ALL_H

#include <stdbool.h>

#include "scanner/base/file.h"
#include "scanner/base/vec.h"

/* Files and directories that are to be on the disk before something else is done, in any order among themselves: they are synced at
 * the same time, so that a journalling file system commits once, and the disk is flushed once.
 *
 * With owner, mode and times: as fsync(2). */

struct to_sync {
	VEC(struct {
		int fd; /* the caller's */
		bool small;
	}) list;
};

/* A directory or a file; `small`: a file that was written just now, and of which nothing needs to stay in memory. */
int to_sync_add(struct to_sync *s, int fd, bool small, struct err *err);
/* The first failure of all is told.  Empties the list. */
int sync_all(struct to_sync *s, struct err *err);
void to_sync_release(struct to_sync *s);
CLEANUP_DEFINE_RELEASE(struct to_sync, to_sync_release)

#endif
