/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_REPOINT_H
#define DEDUPSCAN_REPOINT_H

#include "compactor/hold.h"
#include "compactor/pool/pool.h"
#include "scanner/base/schedule.h"
#include "scanner/roots.h"

/* Pointing again at a pool that was moved, or copied.
 *
 * Stubs, sealed overlays and images name files of their pool by absolute paths, and its names have those of images.  Ids are what
 * counts: where a pool has the view or the sealed overlay of an id, and it is as large as the image says, the image is told by
 * which path.  So is one whose backing file's name has lost its "read-only", or became a plain one.
 *
 * Images are changed in place (overlay_repoint()) while nobody has them open.  What is stopped halfway is done again. */

struct repoint_options {
	const struct roots *roots; /* images and directories: those that are walked */
	struct hold_options hold;
	bool dry_run;
	struct stopper *stopper;
	/* An image is right now, or would be: `pool` is the path by which it named the pool, NULL = that was right; `was` is where
	 * the pool knew it, NULL = at its path, "" = not at all. */
	void (*told)(void *ctx, const char *path, const char *pool, const char *was);
	void (*problem)(void *ctx, const char *path, const struct err *why); /* what was left as it is */
	void *ctx;
};

struct repointed {
	uint64_t nr_stubs, nr_sealed, nr_images; /* that name the pool by its path now */
	uint64_t nr_noted;			 /* images that the pool knows by their paths now */
	uint64_t nr_left;			 /* problems */
};

/* The pool is open for writing, and versions_recover() was called. */
int pool_repoint(struct pool *p, const struct repoint_options *o, struct repointed *ret, struct err *err);

/* ERR_REFUSED when the image at an absolute path names this pool by another path, and what to do.  0 also when none is there. */
int repoint_check(struct pool *p, const char *path, struct err *err);

/* By which other path stubs name the pool: 1, 0 = all by its own, -1; ERR_FORMAT = so do those whose view is not damaged. */
int repoint_old_path(struct pool *p, char ret[PATH_MAX], struct err *err);

/* Has an overlay that nobody uses, open for writing, say where this pool is.  ERR_REFUSED: this pool has nothing that it stands
 * on, or its own files name it by another path yet. */
int repoint_file(struct pool *p, int fd, struct err *err);

#endif
