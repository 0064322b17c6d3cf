/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_SCAN_H
#define DEDUPSCAN_SCAN_H

#include "scanner/base/jail.h"
#include "scanner/base/schedule.h"
#include "scanner/catalog.h"
#include "scanner/roots.h"

/* The scan: finds images, has worker processes read what changed, and brings the index up to date.  It never writes to an image. */

struct scan_progress {
	const char *stage; /* "finding", "waiting", "reading", "indexing" */
	uint64_t done, total; /* bytes of image files, or requests; total 0 = not known */
	bool bytes;
	uint64_t nr_images_done, nr_images;
};

struct scan_watch {
	void (*progress)(void *ctx, const struct scan_progress *p); /* several times a second */
	/* Something about one path that the user should know, at once. */
	void (*problem)(void *ctx, const char *path, const struct err *why);
	void *ctx;
};

struct cache_loan;

struct scan_options {
	const struct roots *roots;
	const char *format;	/* NULL = as probed */
	uint64_t memory;	/* bytes, all processes together */
	uint64_t limit;		/* bytes a second, 0 = none */
	bool keep_cache;	/* leave the page cache as it was found ... */
	struct cache_loan *loan; /* ... but for what may stay by this: may be NULL */
	struct stopper *stopper;
	const struct scan_watch *watch;
};

struct scan_result {
	uint64_t nr_images, nr_read, nr_unchanged, nr_failed, nr_not_images, nr_renamed, nr_removed;
	uint64_t bytes_read;	    /* of image data */
	uint64_t reading_memory;    /* peak while workers ran, of all processes together */
	int64_t started;
};

/* The reading processes.  They are to be started before anything large is in memory: each begins as a copy of it.
 * They work in the jail. */
struct scan_workers;
struct scan_workers *scan_workers_new(unsigned nr, const struct jail *jail, struct err *err);
void scan_workers_free(struct scan_workers *w);
CLEANUP_DEFINE(struct scan_workers *, scan_workers_free)

/* Least that `memory` can be with so many workers. */
uint64_t scan_memory_least(unsigned nr_workers);

/* Runs or goes on with a scan; ERR_CANCELED when it was stopped or its time was up: what is done stays done.  Failed images
 * are recorded in the catalog, told to the watch, and no failure of the scan. */
int scan_run(struct catalog *c, struct scan_workers *w, const struct scan_options *o, struct scan_result *ret,
	     struct err *err);

/* Finishes a merge that an earlier scan left; reads no image. */
int scan_finish_merge(struct catalog *c, const struct scan_options *o, unsigned nr_threads, struct err *err);

#endif
