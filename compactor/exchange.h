/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_EXCHANGE_H
#define DEDUPSCAN_EXCHANGE_H

#include "compactor/hold.h"
#include "compactor/workshop_parts.h"

/* Two files change places: one leaves an image's path for the workshop, the other arrives there.  Replacing an image
 * is that (the original leaves, the new file arrives), and undoing it is that again, the other way round. */

struct exchange_file {
	int fd;			     /* the only one that is open; -1: it cannot be opened, which counts as in use */
	struct spool_identity known; /* as it is, if nobody has touched it */
	struct hold hold;
};

struct exchange {
	struct workshop *workshop;
	struct journal_entry entry; /* the path is the caller's */
	bool back;		    /* the original arrives */
	int dirfd;		    /* of the image's directory */
	const char *name;	    /* of the image in it */
	enum store store;	    /* where the other file lies */
	struct exchange_file leaving, arriving;
};
#define EXCHANGE_INIT { .dirfd = -1, .leaving = { .fd = -1, .hold = HOLD_INIT }, .arriving = { .fd = -1, .hold = HOLD_INIT } }

enum exchange_outcome {
	EXCHANGE_FINISHED,    /* arriving is at the path, and nobody had the other one */
	EXCHANGE_ROLLED_BACK, /* leaving is at the path, as before */
	EXCHANGE_UNCLEAR,     /* both may have been changed: both are kept where they are */
};

/* Step 5 of replace.h: both files are held, proven and synced.  On failure nothing has moved, and the caller cleans
 * up. */
int exchange_begin(struct exchange *x, struct err *err);

/* Steps 6 to 8.  On failure `leaving` is at the path again and all is cleaned up, but for an ERR_STALE whose text says that both
 * files are kept.  What is left to do exchange_recover() does, a settling time later at least. */
int exchange_change(struct exchange *x, uint64_t settle_ns, struct err *err);

/* Steps 6 to 10.  Returns 0 when it is finished, journaled and cleaned up; failures are as above. */
int exchange_run(struct exchange *x, uint64_t settle_ns, struct err *err);

/* Finds out how an exchange ended of which the journal says no end; takes what is right further, and journals it.
 * `*ret` is EXCHANGE_UNCLEAR unless told, and then `why` says so, as why it was rolled back.  -1 when it could not be found out. */
int exchange_recover(struct exchange *x, uint64_t settle_ns, enum exchange_outcome *ret, struct err *why);

/* Closes both files and the image's directory, if `own_dir`. */
void exchange_release(struct exchange *x, bool own_dir);

void exchange_wait(uint64_t ns);

#endif
