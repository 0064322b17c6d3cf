/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_COMPACT_PARTS_H
#define DEDUPSCAN_COMPACT_PARTS_H

#include "compactor/compact.h"
#include "compactor/moves.h"
#include "compactor/pool/pool.h"
#include "compactor/pool_estimate.h"
#include "compactor/proof.h"
#include "compactor/replace.h"

/* What the parts of compaction share: compact.c plans and carries out, each method_*.c knows one way to save, rewrite.c helps those
 * that write a new file.  Nobody else includes this. */

/* A file that was replaced, and whose replacement has to be settled (replace.h, step 9). */
struct replaced {
	struct workshop *workshop;
	uint64_t number; /* of the replacement */
	size_t step, file;
	struct spool_identity scanned; /* of the image, as the catalog knew it */
	uint64_t ino;		       /* of the new file */
	bool relayout;		       /* the image was to be laid out anew */
};

struct compaction {
	struct catalog *catalog;
	struct store store;
	struct moves *moves;
	struct compact_options o;
	struct plan *plan;
	struct workshop **workshops; /* of roots, where opened; roots in one directory have that of the first */
	struct pool *pool;	     /* where opened */
	struct pool_cost *costs;     /* by image, with method pool */
	uint64_t pool_room;	     /* bytes that a cluster file of the pool can have */
	uint64_t file_size, file_left; /* after which another one begins, and those until then */
	uint64_t total, done; /* bytes of work, of all steps */
	uint64_t began;	      /* ns */
	struct plan_step *step; /* at hand */
	size_t file;		/* of its image: being rewritten */
	VEC(struct replaced) replaced; /* not settled yet */
};

struct method {
	enum plan_method id;

	/* What can be had of one image, into the step, whose image and method are set: 1, or 0 = nothing.  The reason, if there is
	 * one to tell, goes to compact_leave(). */
	int (*plan)(struct compaction *c, struct plan_step *step, struct err *err);

	/* Does c->step.  ERR_BUSY, _STALE, _REFUSED and _UNSUPPORTED: it could not be done now; the image is as it was. */
	int (*apply)(struct compaction *c, struct err *err);
};

extern const struct method method_reflink, method_holes, method_relayout, method_rebuild, method_pool;

/* ---- compact.c ---- */

/* Records why nothing is done with an image, unless there is a reason already. */
void compact_leave(struct compaction *c, size_t image, const char *why);

/* Counts bytes of work, shows progress, keeps to the limit; ERR_CANCELED when it is time to stop.  For callbacks: ctx is the
 * compaction. */
int compact_worked(void *ctx, uint64_t bytes, struct err *err);

/* A step that was done turned out not to stand. */
void compact_undone(struct compaction *c, struct plan_step *step, const struct err *why);

/* Counts and shows only, for where nobody may be kept waiting; the next step waits for it. */
void compact_count(struct compaction *c, uint64_t bytes);

/* Bytes of the image that the disk shares, as was looked at last. */
uint64_t compact_shared(const struct compaction *c, size_t image);
/* Looks again and records what c->step brought. */
void compact_measure(struct compaction *c, uint64_t shared_before);

/* ---- compact_turns.c ---- */

/* The workshop of a root, in which nothing is in the middle: 0 and *ret, which is NULL where there is none and `create` is not
 * asked for; or -1. */
int compact_workshop(struct compaction *c, size_t root, bool create, struct workshop **ret, struct err *err);
/* Opens the pool for writing, made if it is not there and `create`; else c->pool stays NULL. */
int compact_open_pool(struct compaction *c, bool create, struct err *err);

/* Opens all workshops that are there; what an earlier run left in the middle is finished.  ERR_BUSY when another process is still
 * in one at `until` (CLOCK_MONOTONIC, ns). */
int turn_begin(struct compaction *c, uint64_t until, struct err *err);
/* Closes them, and the pool. */
void turn_end(struct compaction *c);
/* Whether other processes wait for a workshop or the pool. */
bool turn_is_wanted(void *compaction);
/* Between two steps: lets them in, and waits until they are done.  -1 also when it is time to stop; nothing is open then. */
int turn_give(struct compaction *c, struct err *err);

/* As lock_file_try_again(), and it is shown. */
bool turn_try_again(struct compaction *c, uint64_t until, struct err *err);

/* ---- method_holes.c ---- */

/* Bytes of an image that are stored, take space, and are zeros. */
int compact_zeros(struct compaction *c, size_t image, uint64_t *ret, struct err *err);

/* ---- pool_entrants.c ---- */

/* Notes in the costs of images who stands on them. */
void compact_pool_find_children(struct compaction *c);
/* Why an image cannot enter the pool, NULL = it can; the text may lie in `room`. */
const char *compact_pool_why_not(struct compaction *c, size_t image, char *room, size_t size);
/* What is to be known of one that does, into its step. */
int compact_pool_note(const struct compaction *c, struct plan_step *step, struct err *err);

/* ---- method_pool.c ---- */

/* What all images would cost in a pool, before any is planned for. */
int compact_pool_prepare(struct compaction *c, struct err *err);
/* Says in the plan whether its steps take several cluster files. */
void compact_pool_count_files(struct compaction *c);
/* Before the steps: what snapshots sealed enters the pool, if there is one. */
int compact_fold(struct compaction *c, struct err *err);

/* ---- rewrite.c ---- */

typedef int rewrite_call(void *ctx, int old_fd, int new_fd, proof_check *check, void *check_ctx, struct err *err);

/* Replaces a file by what `make` writes, when `prove` agrees (replace.h; ctx is the compaction); afterwards store and catalog know
 * the new file. */
int rewrite_file(struct compaction *c, size_t file, rewrite_call *make, rewrite_call *prove, struct err *err);

/* Settles what was replaced: what is due by now, or all of it, which may take a second.  The first only while the store has no
 * files open: they would pass for used.  What does not stand is told as the outcome of its step, and store and catalog know the
 * original again. */
void rewrite_settle(struct compaction *c);
void rewrite_settle_all(struct compaction *c);

/* True unless somebody uses one of the image's files; then that is recorded. */
bool rewrite_idle(struct compaction *c, size_t image);

/* Opens a file for changing it, and its directory: the only descriptor of it in this process. */
int rewrite_open(struct compaction *c, size_t file, int *ret_dirfd, const char **ret_name, struct err *err);

#endif
