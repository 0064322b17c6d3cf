/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_REPLACE_H
#define DEDUPSCAN_REPLACE_H

#include <sys/stat.h>

#include "compactor/hold.h"
#include "compactor/proof.h"
#include "compactor/workshop.h"
#include "scanner/base/schedule.h"
#include "scanner/index/spool.h"

/* Replacing an image by a new file with the same content: write beside, sync, read back, compare, swap, settle.
 *
 *  1. the image is opened once, held (hold.h), and looked at: it is what the plan saw, a regular file with one name,
 *     not immutable, append-only or set-uid
 *  2. make() writes the new file in the workshop; it gets owner, mode, ACL, extended attributes, labels, flags,
 *     project and times of the original; all of it is synced
 *  3. its pages are dropped from the cache and prove() compares what it says with the original
 *  4. the original is looked at again: unchanged, and the hold is whole
 *  5. the journal says SWAP; synced
 *  6. RENAME_EXCHANGE; both directories are synced
 *  7. the hold must still be whole, else the exchange is undone before it is let go, and the journal says so
 *  8. the journal says SWAPPED; the hold is let go
 *  9. a second later nobody may have the original open (an opener who waited behind the lease gets the old file):
 *     both files are held again and unchanged, else the exchange is undone if that loses nothing
 * 10. the journal says DONE, with the time until which the original is kept in trash/
 */

struct replacing {
	struct workshop *workshop;
	int dirfd;		/* of the image's directory, reached beneath a root */
	const char *name;	/* in that directory */
	const char *path;	/* for messages and the journal: relative to the workshop's root */
	struct spool_identity expected; /* what the plan saw; changed since = ERR_STALE */
	struct hold_options hold;
	int64_t keep;		/* seconds that the original is kept; 0 = it goes when all is settled */
	uint64_t settle_ns;	/* how long to wait at step 9: a second, tests less */
	/* Not NULL: steps 9 and 10 are left to replace_settle(), which tells of them by this number; 0 = they are done. */
	uint64_t *later;
	struct stopper *stopper;
	uint64_t space;		/* bytes that it takes to write the new file, for a message; 0 = at most the old one's length */

	/* Writes the new file.  Called with the original's only descriptor and an empty new file open for reading and
	 * writing.  Calls *check often (within a second): when that fails it gives up with that error. */
	int (*make)(void *ctx, int old_fd, int new_fd, proof_check *check, void *check_ctx, struct err *err);
	/* Compares what both files say, the new one read from the disk. */
	int (*prove)(void *ctx, int old_fd, int new_fd, proof_check *check, void *check_ctx, struct err *err);
	void *ctx;
};

/* Does it all.  On failure the image is as it was (the same inode, at its path), but for an ERR_STALE whose text says
 * that both files are kept. */
int replace_image(const struct replacing *r, struct spool_identity *ret_new, struct err *err);

/* How a replacement that was left for later ended: why->kind is ERR_NONE when it stands.  Else the image is as it was
 * but for an ERR_STALE, as above, and what could not be found out, which is left to recovery. */
typedef void replace_settled(void *ctx, uint64_t number, const struct err *why);

/* Steps 9 and 10, through recovery's code: of the first one whose settling time is over, if there is one, or of all that
 * were left for later, after waiting for that.  This process must not have the images open, or the files pass for used. */
enum replace_settle { REPLACE_SETTLE_FIRST, REPLACE_SETTLE_ALL };
void replace_settle(struct workshop *w, enum replace_settle how, replace_settled *settled, void *ctx);

/* True when replace_settle() has something to do, of one at least. */
bool replace_due(const struct workshop *w);

#endif
