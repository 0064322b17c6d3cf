/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_HOLES_H
#define DEDUPSCAN_HOLES_H

#include "compactor/proof.h"

/* Holes: stored zeros are punched out of a file in place.  What a file says never changes, nor how long it is.
 *
 * Only whole blocks of the file system, and only what is stored: space that is preallocated and was never written counts as a hole
 * already (SEEK_DATA) and stays reserved. */

enum holes_how {
	/* FIDEDUPERANGE against a hole of another file: the kernel compares and punches, so it is safe whoever else writes to the
	 * file, and times stay.  XFS and btrfs.  On btrfs an extent that is punched in part stays allocated as a whole: space comes
	 * back when its last byte goes. */
	HOLES_COMPARED,
	/* Looked at and punched; nobody else has the file open, as the caller knows.  Any file system that punches, but for btrfs
	 * with the same limit; the time of modification changes. */
	HOLES_HELD,
};

struct holes {
	int fd; /* open for reading and writing */
	enum holes_how how;
	int hole_fd;	    /* HOLES_COMPARED: what holes_open() gave */
	uint64_t min_len;   /* shorter runs of zeros stay */
	proof_check *check; /* called for every MiB looked at and before every 16 MiB are punched; may be NULL */
	void *check_ctx;
};

struct holes_result {
	uint64_t bytes;	     /* that were stored zeros and are holes now; if others share them, no space comes back for these */
	uint64_t nr;	     /* runs of them */
	uint64_t nr_differed; /* runs that were something else by the time they were to go: left alone from there on */
};

/* A file without a name that is all hole, in a directory of the same file system; alike as to NOCOW, which two files have to be.
 * Returns a descriptor, or -1. */
int holes_open(int dirfd, int like_fd, struct err *err);

/* Punches what is zero of [from, to).  What is done is added to *ret, on failure too. */
int holes_punch(const struct holes *h, uint64_t from, uint64_t to, struct holes_result *ret, struct err *err);

#endif
