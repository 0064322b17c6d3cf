/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_WORKSHOP_PARTS_H
#define DEDUPSCAN_WORKSHOP_PARTS_H

#include <sys/stat.h>

#include "compactor/journal.h"
#include "compactor/workshop.h"
#include "scanner/base/lock_file.h"

/* What those share who work in a workshop: workshop.c opens it, replace.c makes new files there, exchange.c puts them
 * in their places, recovery.c and undo.c look after what is left.  Nobody else includes this. */

/* A replacement of this process that is SWAPPED, and since when (CLOCK_MONOTONIC). */
struct unsettled {
	uint64_t number, since;
};

struct workshop {
	int root_fd, dirfd, trash_fd;
	struct lock_file lock;
	dev_t dev;
	char *path;
	uint64_t settle_ns;
	int (*mend)(void *ctx, int fd, struct err *err);
	void *mend_ctx;
	bool can_exchange; /* the file system was seen to */
	struct journal journal;
	VEC(struct unsettled) unsettled; /* oldest first */
};

#define WORKSHOP_NAME_ROOM 32

/* The two places in a workshop where a file of replacement n can be. */
enum store { STORE_NEW, STORE_TRASH };

int store_dirfd(const struct workshop *w, enum store store);
void store_name(enum store store, uint64_t number, char ret[WORKSHOP_NAME_ROOM]);

/* What lies at a name, not followed: 1, 0 = nothing, -1. */
int workshop_look(int dirfd, const char *name, struct stat *ret, struct err *err);

/* Where the file with that inode lies, of replacement n: 1, 0 = in neither place, -1. */
int workshop_find(const struct workshop *w, uint64_t number, uint64_t ino, enum store *ret, struct err *err);

/* The directory of the image at a root-relative path, beneath the root, and the image's name in it.  Returns a
 * descriptor. */
int workshop_open_dir(const struct workshop *w, const char *path, const char **ret_name, struct err *err);

/* Opens an image or what replaces it, for hold_take().  Never waits. */
int workshop_open_file(int dirfd, const char *name, struct err *err);

/* Journals that the entry is in a state.  REMOVED, only after both places were synced. */
int workshop_note(struct workshop *w, const struct journal_entry *e, enum journal_state state, struct err *err);

/* Does what is left to do after DONE (the original goes to the trash, or altogether when its time is over or `now`) or
 * UNDONE (the new file goes).  *ret_bytes, if not NULL, is what was removed; *ret_kept what is in the trash. */
int workshop_dispose(struct workshop *w, uint64_t number, bool now, uint64_t *ret_bytes, uint64_t *ret_kept, struct err *err);

/* The same file, by all that survives a move and a reboot: inode number, size and mtime.  While an original is being changed
 * (undo.c) its mtime is WORKSHOP_ANY_TIME, which all are. */
#define WORKSHOP_ANY_TIME INT64_MIN
bool workshop_same(const struct spool_identity *a, const struct spool_identity *b);

int64_t workshop_clock(void); /* seconds since 1970 */

#endif
