/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_PLAN_H
#define DEDUPSCAN_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "scanner/index/spool.h"

/* A plan: what compaction would do to a store, step by step, and what it would save; and, once it was carried out, what
 * came of it.  The compactor makes it, reports print it.  All sizes are bytes; bytes of disk unless said otherwise. */

enum plan_method {
	PLAN_REFLINK,	/* the kernel shares equal extents in place */
	PLAN_HOLES,	/* stored zeros are punched out in place */
	PLAN_RELAYOUT,	/* rewritten once, its data at offsets that file systems can share */
	PLAN_REBUILD,	/* rewritten from clones of what others hold and copies of what they do not */
	PLAN_POOL,	/* its data goes into a pool that it shares with others, and an overlay takes its place */
	PLAN_NR_METHODS,
};
extern const char *const plan_method_names[PLAN_NR_METHODS]; /* "reflink", "holes", ... */

enum plan_state {
	PLAN_PENDING,	/* not begun: only planned, or time was over before */
	PLAN_DONE,
	PLAN_PARTLY,	/* begun, and stopped in the middle: what is done stays done */
	PLAN_SKIPPED,	/* could not be done now: `why` */
	PLAN_FAILED,	/* went wrong: `why`; the image is as it was */
	PLAN_NR_STATES,
};
extern const char *const plan_state_names[PLAN_NR_STATES]; /* "pending", ... */

/* One thing to do with one image. */
struct plan_step {
	size_t image; /* in plan->images */
	enum plan_method method;
	uint64_t saving;      /* expected */
	uint64_t work;	      /* bytes to be compared or copied */
	uint64_t space;	      /* free space that it needs while it runs */
	uint64_t nr_runs;     /* stretches to be shared or punched */
	bool later;	      /* the saving becomes real only when the original leaves the trash */
	char *note;	      /* what one has to know of the image when it is done; NULL = nothing */

	/* what came of it */
	enum plan_state state;
	char *why;	      /* NULL = nothing to say */
	bool full;	      /* while it is carried out: there was no room for it */
	uint64_t worked;      /* bytes that were compared or copied */
	uint64_t shared;      /* bytes that are shared or punched now and were not before, as FIEMAP says */
	uint64_t nr_differed; /* stretches that changed since the scan: left alone */
};

struct plan_image {
	int64_t id;	   /* in the catalog */
	char *path, *format;
	struct spool_identity identity; /* of the file, when the catalog saw it */
	size_t fs;	   /* in plan->file_systems */
	uint64_t size;	   /* length of its files together */
	uint64_t used;	   /* disk space that they take (st_blocks) */
	uint64_t stored;   /* bytes of its data that are not zero */
	uint64_t duplicate; /* of these, bytes that a lower-ranking image or place holds too, at the granularity of 4 KiB */
	uint64_t shared;   /* bytes of it that are shared with another place of these images already */
	uint64_t misaligned; /* bytes whose place in the file no file system can share (VHD, VDI, compressed) */
	uint64_t short_runs; /* bytes of duplicates in runs shorter than min_run */
	uint64_t pinned;   /* bytes of duplicates whose space stays taken by somebody else: a snapshot, a copy elsewhere */
	uint64_t zero;	   /* bytes of stored zeros */
	uint64_t saving;   /* of all its steps */
	uint64_t nr_extents; /* of its files on disk, before */
	char *why_not;	   /* nothing is done with it, and why; NULL = there are steps, or there is nothing to save */
};

struct plan_fs {
	char *path;	   /* of an image on it, or where it is mounted if that is known */
	char *type;	   /* "xfs", "btrfs", ... */
	uint64_t dev;
	uint64_t size, free;	/* when it was planned */
	uint64_t free_before, free_after; /* around the carrying out, synced, with what is kept for root; 0 = it was not */
	uint64_t saving;
	char *why_not;	   /* nothing can be done on it, and why */
};

struct plan {
	struct plan_image *images; /* in order of path */
	size_t nr_images;
	struct plan_step *steps; /* in the order in which they are done: most saving for a byte of work first */
	size_t nr_steps;
	struct plan_fs *file_systems;
	size_t nr_file_systems;

	uint64_t min_run;
	int64_t keep_originals; /* seconds that originals of rewritten images stay in the trash */
	uint64_t saving, saving_later; /* of all steps; of these, only when originals go */
	uint64_t work;
	uint64_t rate;	   /* bytes of work a second that is reckoned with; 0 = not known */
	int64_t taken_at;  /* seconds since 1970 */
	bool complete;	   /* false: a scan was stopped, or images could not be read */
	bool applied;	   /* it was carried out, as far as the states of its steps say */
	uint64_t nr_seconds; /* how long that took */
	uint64_t peak_memory;
	uint64_t nr_folded, folded; /* sealed overlays that entered the pool when it was carried out, and the bytes it stored of
				     * them */
	bool pool_in_use;  /* by somebody else, so that none could */
	bool several_files; /* the pool begins another cluster file meanwhile, so less comes back than it says */
	bool unfolded;	   /* some could not; messages say which */
};

void plan_release(struct plan *p);
CLEANUP_DEFINE_RELEASE(struct plan, plan_release)

#endif
