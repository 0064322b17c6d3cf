/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_SCAN_PARTS_H
#define DEDUPSCAN_SCAN_PARTS_H

#include "scanner/base/proc.h"
#include "scanner/base/vec.h"
#include "scanner/chunk/fingerprint.h"
#include "scanner/merge.h"
#include "scanner/scan.h"
#include "scanner/worker.h"

/* What the parts of a scan share: scan.c decides, scan_find.c finds, scan_read.c has images read, scan_files.c knows
 * the other files of images, scan_parts.c helps them all.  Nobody else includes this. */

#define SCAN_POLL_MS 100

struct reading; /* one worker and what it is reading */

/* The other files that an image lies in: what they were when it was opened. */
struct scan_files {
	VEC(struct catalog_part) list;
};

struct scan {
	struct catalog *c;
	const struct scan_options *o;
	struct scan_workers *w;
	struct scan_result *ret;
	bool stopping;
	bool listing_failed; /* in the root being walked ... */
	bool named;	     /* ... which is a file, not a directory */
	VEC(int64_t) not_images; /* rows to be dropped: their files turned out to be none */
	struct scan_files strays; /* that can only be parts of images */
	struct merge_own own; /* what was read, for the merge */
	uint64_t bytes_done, bytes_total, images_done, images_total; /* for progress; bytes of image files */
	struct worker_message m;
};

/* ---- scan_parts.c ---- */

void scan_tell_progress(struct scan *s, const char *stage, uint64_t done, uint64_t total);
void scan_tell_problem(struct scan *s, const char *path, const struct err *why);

/* Where the backing file lies that an image names; "" when it names none or none is there. */
void scan_resolve_backing(const char *name, const char *image, char ret[PATH_MAX]);

/* True when what was read with a format told by the user, or without, is what the user wants now. */
bool scan_told_the_same(const struct scan *s, bool told, const char *format);

/* ---- scan_files.c ---- */

/* True while somebody could be writing to the file: a lease that wants to be alone with readers is not to be had. */
bool scan_open_for_writing(int fd);

bool scan_files_have(const struct scan_files *l, const struct spool_identity *identity);
int scan_files_add(struct scan_files *l, const struct spool_identity *identity, const char *path, struct err *err);
void scan_files_release(struct scan_files *l);
struct fingerprint scan_files_digest(const struct scan_files *l);

/* True when they are still the same, and nobody could be writing to them. */
bool scan_files_unchanged(const struct scan *s, const struct scan_files *l);
/* The same of the files that the catalog knows for an image, if they are those that the digest stands for. */
bool scan_files_as_known(const struct scan *s, int64_t image, struct fingerprint digest);

/* Tells which parts of images were met that no image has. */
int scan_tell_strays(struct scan *s, struct err *err);

/* ---- scan_find.c ---- */

/* Walks the roots into the catalog's `found`, settles what vanished or moved and makes rows for what is new: all at once. */
int scan_find(struct scan *s, struct err *err);

/* ---- scan_read.c ---- */

unsigned scan_workers_count(const struct scan_workers *w);

/* What workers run: tests put something worse in its place. */
extern int (*scan_worker_run)(int sock, void *shared, void *arg);

/* Hands an image to a worker, waiting for an idle one.  1 = the scan is stopping, nothing was begun. */
int scan_read(struct scan *s, const struct found *f, const struct catalog_image *image, struct err *err);

/* Waits for all that is being read. */
int scan_read_rest(struct scan *s, struct err *err);

/* Tells the readers to stop when the time is over or the user says so; sets s->stopping then. */
void scan_look_at_clock(struct scan *s);

/* Ends the workers; what they were at is left for the next scan. */
void scan_end_workers(struct scan *s);

#endif
