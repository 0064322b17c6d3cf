/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_WORKSHOP_H
#define DEDUPSCAN_WORKSHOP_H

#include <stdbool.h>
#include <stdint.h>

#include "scanner/base/cleanup.h"
#include "scanner/base/err.h"

/* The workshop: the directory `.dedupscan` at the top of a root, on the file system of its images, where new files are
 * made, the journal is kept and originals wait until they may go.
 *
 *	.dedupscan/	  mode 0700, owned by who made it
 *	  lock		  held (OFD lock) by the process that works there
 *	  journal	  what is under way and what can be undone (compactor/journal.h)
 *	  <n>.new	  the new file of replacement n, being written; after the exchange: the original of it
 *	  trash/<n>	  originals that are proven to be replaced, kept until the journal says
 */

#define WORKSHOP_NAME ".dedupscan"

struct lock_file;
struct root;
struct workshop;

/* Opens the workshop of the directory `dirfd` (not an O_PATH one; it is duplicated); ERR_BUSY when another process is
 * in it.  It is made if missing and `create`; else *ret is NULL, which is no error.  One that others than its owner
 * can write to, or that belongs to somebody else, is ERR_REFUSED.  `path` is for messages. */
int workshop_open(int dirfd, const char *path, bool create, struct workshop **ret, struct err *err);
/* The workshop of a root: in it, or for a file in the nearest directory above that has one; else *ret is NULL.  *ret_name is the
 * file from there on. */
int workshop_open_above(const struct root *root, struct workshop **ret, const char **ret_name, struct err *err);
void workshop_close(struct workshop *w);
struct lock_file *workshop_lock(struct workshop *w);
/* How long recovery and undo wait for openers who are on their way; a second unless set, tests less. */
void workshop_set_settle(struct workshop *w, uint64_t ns);
CLEANUP_DEFINE(struct workshop *, workshop_close)

struct recovery {
	uint64_t nr_finished;  /* replacements that were finished */
	uint64_t nr_undone;    /* that were rolled back */
	uint64_t nr_removed;   /* originals whose time was over */
	uint64_t bytes_removed;
	uint64_t nr_kept;      /* originals in the trash */
	uint64_t bytes_kept;
	uint64_t nr_unclear;   /* that need the user: both files are there, and `tell` said which */
};

/* Finishes or rolls back what a kill or a power cut left, then removes originals whose time is over (and files that
 * never got a name).  Doing it twice changes nothing.  `tell` gets what needs the user's eyes; may be NULL.  The
 * clock only decides when an original that was proven may go. */
int workshop_recover(struct workshop *w, void (*tell)(void *ctx, const char *path, const struct err *what), void *ctx,
		     struct recovery *ret, struct err *err);

/* Who is asked when an original stands on a file that is not there any more: to have it say, in place, where that is now.
 * Unless set it stays in the trash. */
void workshop_set_mender(struct workshop *w, int (*mend)(void *ctx, int fd, struct err *err), void *ctx);

/* Puts originals back that are still in the trash: of the image at `path` (as root-relative name), NULL = all.  The
 * image must not have changed since, or ERR_STALE. */
int workshop_undo(struct workshop *w, const char *path, uint64_t *ret_nr, struct err *err);

/* Whether there is a file of this inode number in the workshop in a directory, where originals are kept: 1, 0, -1.  Nobody needs to
 * have the workshop: an original that goes back meanwhile is at its path before it is told that it is not there. */
int workshop_has(int dirfd, uint64_t ino, struct err *err);

/* Removes all originals in the trash at once, whatever their time. */
int workshop_purge(struct workshop *w, uint64_t *ret_bytes, struct err *err);

#endif
