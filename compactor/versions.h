/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_VERSIONS_H
#define DEDUPSCAN_VERSIONS_H

#include "compactor/hold.h"
#include "compactor/pool/names.h"
#include "compactor/pool/view.h"
#include "scanner/base/vec.h"

struct workshop;
struct standing; /* compactor/member.h */

/* Versions of the images of a pool: making them (snapshot), going back to one (rollback), listing and deleting them, and folding
 * into the pool what they sealed.
 *
 * All take an open pool (for writing, but for lists) in which versions_recover() was called before, and absolute paths without
 * symbolic links.  Of the images that they change nobody else may have one open: ERR_BUSY names who has. */

/* How images are changed. */
struct versions_how {
	struct hold_options hold;
	uint64_t settle_ns;  /* how long to wait for openers who are on their way, where something would be lost: a second, tests
			      * less */
	unsigned sealed_max; /* sealed overlays on each other; 0 = 1, so that chains are at most 4 deep */
	int64_t now;	     /* seconds since 1970 */
};

/* Finishes what a kill or a power cut left of the calls below and of clone.h.  Doing it twice changes nothing. */
int versions_recover(struct pool *p, struct err *err);

/* ---- making ---- */

struct snapshot_options {
	struct versions_how how;
	const char *label;
	const char *const *paths; /* of all disks of a VM, say */
	size_t nr_paths;
	const char *const *files; /* small files to keep with them */
	size_t nr_files;
};

struct snapshot_made {
	uint64_t number;
	size_t nr_sealed, nr_unchanged; /* disks; of the latter nothing was written since the version that they stand on */
};

/* Keeps all disks as they are, as one version: each overlay is sealed as it is, and a fresh one stands on it.  No data is read or
 * written.  ERR_USAGE: there is such a version of one of them.  ERR_REFUSED: a disk's last version has to be folded in first. */
int versions_snapshot(struct pool *p, const struct snapshot_options *o, struct snapshot_made *ret, struct err *err);

/* 0 when a label may be one: 1 to 255 bytes without '@', '/' and control characters, not beginning with '-'. */
int versions_check_label(const char *label, struct err *err);

/* ---- going back ---- */

struct rollback_options {
	struct versions_how how;
	const char *path, *label;
	bool discard; /* what the image holds now is not kept */
};

/* The image is as the version says, on a fresh overlay.  What it was is kept as version `ret_kept`, before-rollback-TIME ("" =
 * nothing had to be kept). */
int versions_rollback(struct pool *p, const struct rollback_options *o, char ret_kept[256], struct err *err);

/* ---- listing ---- */

struct version_row {
	const struct name *name;      /* a member, or a version */
	const struct name_disk *disk; /* of it */
	bool there;		      /* member: a file is at its path */
	bool changed;		      /* version: somebody wrote to it after it was sealed; it is not what it was */
	uint64_t own_bytes; /* of disk space: member, its overlay; version, the sealed overlay that waits to be folded in */
};

/* Members and versions with a label, in order of number, each disk a row; those at `path` only, unless NULL: none there is
 * ERR_USAGE.  Until a call returns other than 0; that is returned then.  `damaged` gets names that cannot be read; NULL = they are
 * an error. */
int versions_list(struct pool *p, const char *path, int (*call)(void *ctx, const struct version_row *row, struct err *err),
		  int (*damaged)(void *ctx, uint64_t number, const struct err *why, struct err *err), void *ctx, struct err *err);

/* ---- deleting ---- */

/* All disks of the newest version of that label which has one at `path`.  Its space comes back by a collection.  ERR_USAGE:
 * there is none. */
int versions_delete(struct pool *p, const char *path, const char *label, struct err *err);

struct prune_options {
	const char *path;
	unsigned keep_last, keep_daily, keep_weekly, keep_monthly, keep_yearly; /* how many of each */
	bool apply;								/* else only told */
};

/* Goes through the versions that have a disk at the path, newest first, and deletes those that no rule keeps: of each of the
 * last N days (weeks from Monday on, months, years, in local time) that have a version, the last one is kept; where a clock was
 * wrong, by either order, that of numbers or of times.  `tell` gets each, and which rule keeps it ("daily", NULL = none).  All
 * rules 0 is ERR_USAGE, and so is a path that is no member's and has no versions. */
int versions_prune(struct pool *p, const struct prune_options *o,
		   int (*tell)(void *ctx, const struct name *n, const char *kept_by, struct err *err), void *ctx, struct err *err);

/* ---- folding in ---- */

struct sealed_disk {
	uint8_t id[POOL_ID_SIZE];
	char path[PATH_MAX]; /* of the image once */
	uint64_t size;	     /* of the disk, bytes */
	bool has_base;	     /* what it stands on has this root: of all that it does not hold itself, that says what it is */
	uint8_t base_root[DIGEST_SIZE];
	uint64_t base_size;
};

/* Sealed overlays that wait to be folded in, those that others stand on first, but for those in `done`, to which each is added.
 * `fd` is open for reading and the caller's: the call has to import what is seen through it, and then calls versions_fold().  What
 * a call returns ends it, unless it is 0.  One that somebody still writes to, or that is damaged, is passed over (`left` gets it;
 * may be NULL). */
int versions_each_sealed(struct pool *p, struct pool_ids *done,
			 int (*call)(void *ctx, const struct sealed_disk *d, int fd, struct err *err),
			 void (*left)(void *ctx, const struct sealed_disk *d, const struct err *why), void *ctx, struct err *err);

/* Notes in every version that has it that it is folded in: its root, of which `view` is one (NULL = there is none).  The pool
 * was synced before.  Members that stand on it still do; versions_repoint() ends that, and then versions_tidy() forgets it. */
int versions_fold(struct pool *p, const uint8_t sealed[POOL_ID_SIZE], const uint8_t root[DIGEST_SIZE], const struct view *view,
		  struct err *err);

/* Members that stand on a sealed overlay which is folded in. */
int versions_each_to_repoint(struct pool *p, int (*call)(void *ctx, const char *path, struct err *err), void *ctx, struct err *err);
/* Has such a member stand on a view instead: its overlay is copied with another backing file's name, compared, and takes its place
 * (replace.h, in workshop w, whose root is at `root_path`).  Only while nobody has it open.  `later` (not NULL) is as there: when
 * it is not 0, member_note() has to follow on replace_settle(). */
int versions_repoint(struct pool *p, struct workshop *w, const char *root_path, const char *path, const struct versions_how *how,
		     uint64_t *later, struct err *err);

/* ---- images that came and went ---- */

/* ERR_REFUSED for an image that is to be noted before it is changed, and cannot be changed: it has several names. */
int versions_check_names(struct pool *p, const char *path, struct err *err);
/* Notes the image at a path as a member, if it is an overlay on this pool that no member is: it was copied or moved there.  When of
 * the members that stand on the same exactly one is gone from its path, or one of the gone ones had the same name in another
 * directory, then that was moved: it, and its versions, are at the new path from then on.  1 = done now, 0 = it is one already, or
 * stands on no pool; -1. */
int versions_adopt(struct pool *p, const char *path, struct err *err);
/* The same for one that no member is and whose standing is known: its backing file's name may be wrong.  *ret_was is where it was,
 * "" = it is new. */
int versions_adopt_as(struct pool *p, const char *path, const struct standing *standing, char ret_was[PATH_MAX], struct err *err);
/* Only where it was: 1, 0 = it would be new; -1. */
int versions_was_at(struct pool *p, const char *path, const struct standing *standing, char ret_was[PATH_MAX], struct err *err);
/* Where the image at a path was when the pool knew it last: 1, 0 = it knows it at that path, or not at all; -1.  For who only
 * reads. */
int versions_moved_from(struct pool *p, const char *path, char ret[PATH_MAX], struct err *err);

/* Has disks of versions, and then members, be known by other paths: `renamed` says which, NULL = the path stays. */
int versions_rename(struct pool *p, const char *(*renamed)(void *ctx, const char *path), void *ctx, struct err *err);

/* Notes in all versions that wait for a sealed overlay to be folded in when it was last written to: for who changes its header,
 * which is no change of the version.  0 = that is not noted, so nobody takes offence meanwhile.  What else is noted of it does not
 * depend on what is changed there. */
int versions_note_written(struct pool *p, const uint8_t sealed[POOL_ID_SIZE], uint64_t written, struct err *err);

/* Members at whose paths nothing is, for certain, or whose paths others have by now; but for those whose overlays a workshop keeps,
 * which were expanded.  Who forgets them (names_remove()) has to
 * know that they were not moved: whoever is adopted first is safe. */
int versions_each_gone(struct pool *p, int (*call)(void *ctx, const struct name *n, struct err *err), void *ctx, struct err *err);

/* Members that were expanded, and whose overlays were not kept, or are not any more, where the files are that took their places.
 * They can be forgotten. */
int versions_each_expanded(struct pool *p, int (*call)(void *ctx, const struct name *n, struct err *err), void *ctx,
			   struct err *err);

/* Forgets sealed overlays that are folded in and on which nobody stands any more, and versions without a label that nobody
 * needs.  A collection removes the files. */
int versions_tidy(struct pool *p, struct err *err);

#endif
