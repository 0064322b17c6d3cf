/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_MEMBER_H
#define DEDUPSCAN_MEMBER_H

#include "compactor/hold.h"
#include "compactor/pool/names.h"
#include "compactor/pool/view.h"
#include "scanner/index/spool.h"

/* The members of a pool: overlays at their users' paths, found by name, opened, and held by who changes them.
 *
 * What an overlay stands on is read from itself.  When the pool has noted something else of it, that is noted anew. */

/* What an overlay says. */
struct overlay_facts {
	struct slice backing;
	uint64_t size; /* of the disk */
	uint32_t nr_snapshots, nr_bitmaps; /* internal ones */
	bool empty;    /* it holds nothing of its own to see: neither clusters nor snapshots */
	struct overlay_options options; /* as which it was made */
};

/* ERR_REFUSED for what is no qcow2 image over a slice; ERR_UNSUPPORTED for one that is encrypted, corrupt, or has a data file. */
int overlay_look(int fd, struct overlay_facts *ret, struct err *err);
/* Any overlay: 1 = it holds nothing, 0, -1. */
int overlay_is_empty(int fd, struct err *err);
/* ERR_UNSUPPORTED for one with internal snapshots: it is not to be sealed or written anew. */
int overlay_check_plain(const struct overlay_facts *f, struct err *err);

/* What an overlay stands on. */
struct standing {
	uint8_t view[POOL_ID_SIZE];  /* at the bottom */
	uint8_t below[POOL_ID_SIZE]; /* the sealed overlay between; null = none */
	uint64_t size;		     /* of the disk, bytes */
	struct slice backing;	     /* which says so */
};

/* The slice that is a whole sealed overlay of the pool. */
int sealed_backing(const struct pool *p, const uint8_t id[POOL_ID_SIZE], struct slice *ret, struct err *err);
/* Whether a slice is one: true, and its id. */
bool sealed_of_backing(const struct pool *p, const struct slice *s, uint8_t ret_id[POOL_ID_SIZE]);

struct member {
	struct name name; /* as the pool has it */
	int dirfd;	  /* of its directory */
	char base[NAME_MAX + 1];
	int fd;		  /* for reading and writing; its only one */
	struct hold hold;
	struct stat st;
	struct overlay_facts facts;
	struct standing standing;
};
#define MEMBER_INIT { .dirfd = -1, .fd = -1, .hold = HOLD_INIT }

static inline const struct name_disk *member_disk(const struct member *m)
{
	return &m->name.disks.items[0];
}

/* Opens and holds the member at a path: ERR_BUSY names who has it open, ERR_USAGE: there is none at that path, ERR_STALE: it
 * does not stand on what the pool has. */
int member_open(struct pool *p, const char *path, const struct hold_options *o, struct member *ret, struct err *err);
/* The same beside a guest that has it open: for reading only, and not held. */
int member_open_beside(struct pool *p, const char *path, struct member *ret, struct err *err);
void member_release(struct member *m);
CLEANUP_DEFINE_RELEASE(struct member, member_release)

/* Opens the directory of a file at an absolute path without symbolic links; *ret_base, of NAME_MAX + 1 bytes, is its name there.
 * Who is to change places with files of the pool must lie on its file system: else ERR_UNSUPPORTED. */
int member_open_dir(const struct pool *p, const char *path, char *ret_base, struct err *err);
/* The same wherever it lies. */
int member_open_any_dir(const struct pool *p, const char *path, char *ret_base, struct err *err);

/* Notes of the member at a path what its overlay says.  Where no overlay on this pool is there, it is noted as standing on
 * `assumed` (a sealed overlay), unless NULL. */
int member_note(struct pool *p, const char *path, const uint8_t *assumed, struct err *err);
/* What the overlay at a path stands on, as it says itself: 1, 0 = for certain there is none on this pool, -1. */
int member_look(struct pool *p, const char *path, struct standing *ret, struct err *err);
/* Sets in *d what a member that stands so is noted with. */
int member_describe(struct pool *p, const struct standing *s, struct name_disk *d, struct err *err);
/* The name of a number: 1, 0, -1. */
int member_find_number(struct pool *p, uint64_t number, struct name *ret, struct err *err);

/* ---- the layers below ---- */

/* What the pool knows of a sealed overlay: 1 and *ret, 0, -1.  Of several versions the first says it. */
int layer_find(struct pool *p, const uint8_t sealed[POOL_ID_SIZE], struct name_disk *ret, struct err *err);
/* How many sealed overlays lie from this one on down; more than a hundred are ERR_FORMAT. */
int layer_depth(struct pool *p, const uint8_t sealed[POOL_ID_SIZE], unsigned *ret, struct err *err);
/* What an overlay on this disk of a version stands on: the sealed overlay while it is not folded in, else a view, which is
 * written if there is none. */
int layer_stand_on(struct pool *p, const struct name_disk *d, struct standing *ret, struct err *err);

#endif
