/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_TERMINAL_H
#define DEDUPSCAN_TERMINAL_H

#include <stddef.h>
#include <stdint.h>

#include "scanner/base/err.h"
#include "scanner/base/schedule.h"
#include "scanner/scan.h"

/* Every word on the terminal but reports, the exit statuses, and the signals. */

/* One table for all commands; dedupscan(1) documents it. */
enum exit_status {
	EXIT_DONE = 0,
	EXIT_SKIPS = 1,	   /* done, but some images could not be read, or are not what they were */
	EXIT_USAGE = 2,	   /* the command line is wrong; nothing was done */
	EXIT_FAILED = 3,   /* it could not be done; what was there before is as it was */
	EXIT_BUSY = 4,	   /* another dedupscan has the catalog, or the pool */
	EXIT_STOPPED = 75, /* by a signal or the end of its time; run it again to go on */
};

/* Set by signals, and by --for, --until and --window. */
extern struct stopper term_stopper;

/* Shows progress and problems; for whoever works. */
extern const struct scan_watch term_watch;

/* First of all. */
void term_begin(void);

/* In `buf`, so that it can do nothing to a terminal; four times the room does for all of it. */
const char *term_safe(const char *s, char *buf, size_t room);
/* "12.3 GiB"; good for the next seven calls. */
char *term_size(uint64_t bytes);

/* Progress stands on one line of stderr, where that is a terminal. */
void term_progress(void *ctx, const struct scan_progress *p);
void term_stage(void *ctx, const char *stage, uint64_t done, uint64_t total); /* of bytes */
void term_clear(void);

/* As lock_file_try_again(), and it is shown. */
bool term_try_again(struct err *err, uint64_t until);

void term_problem(void *ctx, const char *path, const struct err *why);
void term_complain(const struct err *err);

/* What a command ends with; they return its exit status. */
int term_fail(const struct err *err);
int term_cannot_begin(const struct err *err); /* its command line, say, is wrong */
/* For what is printed, not written as a report: `status`, or EXIT_FAILED if it could not be printed. */
int term_printed(int status);

#endif
