/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_JOURNAL_H
#define DEDUPSCAN_JOURNAL_H

#include "scanner/base/cleanup.h"
#include "scanner/base/err.h"
#include "scanner/base/vec.h"
#include "scanner/index/spool.h"

/* The journal of a workshop: which replacements are under way, and which can be undone.  Records are appended, each
 * says all that is known of its replacement, and the last one of a number counts.  The format, and what each state
 * means, is in dedupscan-workshop(5). */

enum journal_state {
	JOURNAL_BEGIN = 1, /* <n>.new is being made */
	JOURNAL_SWAP,	   /* it is proven; the files may have changed places */
	JOURNAL_SWAPPED,   /* they have, and nobody had come between */
	JOURNAL_DONE,	   /* nobody had the original open later; it is kept until keep_until */
	JOURNAL_BACK,	   /* an undo: the files may have changed places again */
	JOURNAL_BACKED,	   /* they have */
	JOURNAL_UNDONE,	   /* the original is at its path for good, the new file goes */
	JOURNAL_REMOVED,   /* nothing is left of the replacement but the image */
};

struct journal_entry {
	uint64_t number;
	enum journal_state state;
	bool assume_idle;   /* the user said that nobody uses the image where the file system cannot tell */
	int64_t keep;	    /* seconds to keep the original after DONE */
	int64_t keep_until; /* since 1970; from DONE on */
	struct spool_identity original, replacement; /* the latter from SWAP on */
	char *path; /* of the image, relative to the workshop's root */
};

#define JOURNAL_PATH_MAX 4095

struct journal {
	int dirfd; /* the caller's */
	int fd;
	uint64_t end;  /* where the next record goes */
	uint64_t next; /* the next number */
	bool unsynced; /* the last record may be in memory only, and says REMOVED */
	bool broken;   /* an append failed in a way that leaves open what the disk has: nothing more is written */
	VEC(struct journal_entry) live; /* the last record of each number that is not REMOVED, by number */
};
#define JOURNAL_INIT { .dirfd = -1, .fd = -1 }

/* Opens dirfd/journal; makes an empty one when there is none.  A record at the end that was not written in full is
 * cut off. ERR_UNSUPPORTED: of a newer program.  ERR_FORMAT: damaged, which a crash does not do. */
int journal_open(struct journal *j, int dirfd, struct err *err);
void journal_release(struct journal *j);
CLEANUP_DEFINE_RELEASE(struct journal, journal_release)

/* Appends a record and syncs; j->live follows.  The entry's path is copied.  On failure the entry is as it was in
 * memory, and on disk as it was or as it was to be. */
int journal_append(struct journal *j, const struct journal_entry *e, struct err *err);

/* A number that was never used in this workshop. */
uint64_t journal_new_number(struct journal *j);

/* NULL = there is none.  Good until the next append. */
const struct journal_entry *journal_find(const struct journal *j, uint64_t number);

/* Writes the journal anew with the live records only, when nothing is under way and it has grown.  A failure leaves
 * the old one in use. */
int journal_shrink(struct journal *j, struct err *err);

#endif
