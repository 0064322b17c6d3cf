/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_REBUILD_H
#define DEDUPSCAN_REBUILD_H

#include "compactor/proof.h"

/* Rebuilding: a new file of the same bytes, made of clones of what other files hold and of copies of what they do not.
 *
 * For file systems where sharing a part of an extent frees nothing (btrfs): all of the original's extents go when it goes.  Holes
 * stay holes, and space that was only preallocated becomes one.  Nothing is parsed here, and nothing taken on trust: what was
 * cloned is read back from the new file and compared with the original.  Nobody may write to the original meanwhile; to the
 * sources anybody may. */

/* [offset, offset + len) of the new file can be had by cloning from there. */
struct rebuild_move {
	uint64_t offset;
	int src_fd; /* on the same file system, good until the next call.  The original's own descriptor: from what was built of the
		     * new file, so that nothing hangs on the original; what is not built by then is copied */
	uint64_t src_offset, len;
};

struct rebuild {
	/* The next move: 1 and *ret, 0 = there are no more, -1.  In order of `offset`; of two that overlap the first counts.  What
	 * no move covers, and ends of moves that are no whole blocks of the file system, are copied. */
	int (*next_move)(void *ctx, struct rebuild_move *ret, struct err *err);
	void *ctx;
	bool drop_zeros;    /* blocks of 4 KiB of zeros that are copied become holes */
	proof_check *check; /* called at least for every 16 MiB; may be NULL */
	void *check_ctx;
};

struct rebuild_result {
	uint64_t cloned;   /* bytes that are shared now, holes of the sources included */
	uint64_t copied;   /* bytes that were written */
	uint64_t differed; /* of these, bytes of moves whose source is something else by now ... */
	uint64_t refused;  /* ... and of moves that the file system would not clone */
};

/* Fills `new_fd`, which is empty and open for reading and writing; attributes that have to be there before its data, like NOCOW,
 * are there.  Syncing and times are the caller's. */
int rebuild_make(int old_fd, int new_fd, const struct rebuild *r, struct rebuild_result *ret, struct err *err);

#endif
