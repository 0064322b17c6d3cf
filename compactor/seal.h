/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_SEAL_H
#define DEDUPSCAN_SEAL_H

#include "compactor/attributes.h"
#include "compactor/member.h"
#include "compactor/pool/bitmaps.h"
#include "compactor/pool/seal_notes.h"
#include "scanner/base/sync_all.h"

/* Sealing: overlays leave their paths for sealed/, fresh ones take their places, all of a set or none.
 *
 * For a snapshot or a clone the fresh overlay stands on the sealed one, so that its guest sees what it saw.  For a rollback it
 * stands on an earlier version. */

struct seal {
	struct member *member;		  /* the caller's, open and held */
	const struct standing *target;	  /* what the fresh overlay stands on; NULL = the sealed one */
	bool touch;			  /* the image's time of modification becomes now */
	bool live;			  /* a guest writes to another file on it (live_guest.h): */
	int aside_fd;			  /* this one */

	/* set here */
	uint8_t id[POOL_ID_SIZE]; /* of the sealed overlay; one that is set before stays */
	int fresh_fd;
	struct hold fresh_hold;
	struct attributes attributes;
	struct bitmaps bitmaps;
	uint32_t sum; /* of what was written */
	bool written, moved, tried;
};
#define SEAL_INIT { .aside_fd = -1, .fresh_fd = -1, .fresh_hold = HOLD_INIT, \
		    .attributes = ATTRIBUTES_INIT, .bitmaps = BITMAPS_INIT }

/* Writes the fresh overlay as sealed/<id>.qcow2, with the attributes of the image; synced.  Nothing of the image has changed then.
 * ERR_UNSUPPORTED or ERR_REFUSED: it cannot be replaced. */
int seal_write(struct pool *p, struct seal *s, const struct hold_options *o, struct err *err);
/* The same in parts, for who has other things to sync: fresh_fd and the directory sealed/ have to be between the two. */
int seal_begin(struct pool *p, struct seal *s, struct err *err);
int seal_prove(struct pool *p, struct seal *s, const struct hold_options *o, struct err *err);

/* Changes the places of all, syncs that and what was sealed, and sees that nobody came between; who found an image before, and
 * opens it only now, has `settle_ns` to show (S7 in seal.c says what is left to him then).  Before it a version is published in
 * which the disks have the inode numbers of their images, and seal_note() follows whatever came of it: on failure most are as they
 * were before, and one that somebody has opened meanwhile may have been sealed (it stands on what is sealed, so nothing is
 * lost). */
int seal_exchange(struct pool *p, struct seal *seals, size_t nr, uint64_t settle_ns, struct err *err);

/* The same for an image that a guest only reads from now on, as it writes to another file: its member is open, and not held.
 * ERR_BUSY while somebody writes to it.  Nothing turns round on failure. */
int seal_exchange_live(struct pool *p, struct seal *s, struct err *err);

/* Closes what it has, and removes the fresh overlay if no exchange was tried. */
void seal_release(struct pool *p, struct seal *s);

enum seal_end {
	SEAL_AS_FOUND, /* the version is published if all its disks were sealed, without a label if some were, not if none was */
	SEAL_FAILED,   /* without a label in any case */
	SEAL_DISCARD,  /* what was sealed is removed, and the version with it, if all were */
};
/* Makes of the version that was published before seal_exchange() what it came to: notes its members as they are, disposes of fresh
 * overlays that are not at their paths, and publishes the version.  *ret_sealed: all its disks were sealed. */
int seal_note(struct pool *p, uint64_t number, enum seal_end end, bool *ret_sealed, struct err *err);

/* A file in sealed/ that nothing needs goes; one that holds something, or that somebody has, to the quarantine. */
int sealed_dispose(struct pool *p, const char *name, struct err *err);

/* 1 = the disk's old overlay is what lies at sealed/<id>; 0 = it is not, and nothing lies there any more. */
int seal_was_done(struct pool *p, const struct name_disk *d, struct err *err);

/* Removes fresh overlays of which no name knows: power or process died before the version was published.
 * *ret_all: all went that were there; who has one open, or what was written to one, keeps it. */
int seal_sweep(struct pool *p, bool *ret_all, struct err *err);

/* The sealed overlay's file, for reading: ERR_BUSY while somebody has it open for writing (he found it before it was sealed, and
 * came too late to be seen). */
int sealed_open(struct pool *p, const uint8_t id[POOL_ID_SIZE], struct err *err);

#endif
