/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_ERRAND_H
#define DEDUPSCAN_ERRAND_H

#include <sys/stat.h>

#include "scanner/base/jail.h"
#include "scanner/base/schedule.h"
#include "scanner/opening.h"
#include "scanner/roots.h"

/* An errand: one image, and a process of its own that does one thing with it, in a jail.
 *
 * The conversation is that of scanner/worker_message.h from JOB to DONE or FAILED; files that the image names are
 * opened by the parent as it goes.  Bulk data goes through the memory that both share: nothing in it, and nothing that
 * the process says, is taken on trust. */

struct errand {
	const struct roots *roots; /* where files that the image names may be opened */
	const char *format;	   /* NULL = find out */
	const struct jail *jail;   /* NULL = none */
	struct stopper *stopper;   /* may be NULL */

	/* The process: its main function, for proc_start(), and the memory it shares. */
	int (*run)(int sock, void *shared, void *arg);
	void *arg;
	size_t shared_len;
	bool met;	    /* in a directory, not named: what no format claims may be no image */
	bool keep_cache;    /* leave the page cache as it was found, if the process does such things */
	bool reads_backing; /* backing files count for what it may cost, as their data is read too */
	/* Another file for it, which it gets with its first WORKER_FILE before it asks for any; -1 = none. */
	int second_fd;

	/* Called for every message but OPEN, DONE and FAILED, for every file that was opened for it, and ten times a second; each
	 * may be NULL.  A failure ends the errand and is its failure. */
	int (*message)(void *ctx, struct worker_message *m, int sock, void *shared, struct err *err);
	int (*opened)(void *ctx, const struct opening *o, struct err *err);
	int (*tick)(void *ctx, void *shared, struct err *err);
	/* Bytes of image data that came of it so far, which may be a lie: more of them may cost more CPU time.  May be NULL. */
	uint64_t (*delivered)(void *ctx, void *shared);
	/* Called once when the process said DONE. */
	int (*done)(void *ctx, void *shared, struct err *err);
	void *ctx;
};

/* Runs it on the image in the open file `fd`, which stays the caller's.  1 = the process said DONE, 0 = it failed, died or was
 * put out, for which `why` gives the reason; -1 = a failure of ours, or ERR_CANCELED. */
int errand_run(const struct errand *e, int fd, const char *path, struct err *why, struct err *err);

/* ---- for the process ---- */

struct errand_side {
	int sock;
	struct worker_message *m;
	struct worker_job job;
	int fd, second_fd; /* of the image; -1 once given away; second_fd -1 = there is none */
	struct image_opener opener; /* has the parent open files */
};

/* Takes the job; `second`: whether there is a second file.  0 or -1. */
int errand_begin(struct errand_side *s, int sock, bool second);
/* Opens the image of the job for its stored view; gives s->fd away. */
struct image *errand_open_image(struct errand_side *s, struct err *err);
/* Says how it went: DONE, or FAILED with `why` unless that is NULL.  Returns what run() returns. */
int errand_end(struct errand_side *s, const struct err *why);

#endif
