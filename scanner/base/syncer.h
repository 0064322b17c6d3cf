/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_SYNCER_H
#define DEDUPSCAN_SYNCER_H

#include "scanner/base/file.h"

/* Waits for the disk in place of whoever writes files, who goes on meanwhile: threads of its own sync and close what
 * they are handed.
 *
 *	struct syncer *s = syncer_new(2, err);
 *	syncer_add(s, fd, name);	any number of times, by any thread
 *	if (syncer_wait(s, err) < 0)	all that was handed over is durable, or some of it failed
 *	syncer_free(s);
 *
 * Nothing may rely on a file before syncer_wait() has returned 0. */

struct syncer;

/* nr_threads = files that are synced at the same time.  Threads are started when there is something to do. */
struct syncer *syncer_new(unsigned nr_threads, struct err *err);

/* Takes the descriptor over.  Waits while too many of them are open. */
void syncer_add(struct syncer *s, int fd, const char *name);

/* The same without the sync.  For files that were removed: with the last descriptor go their blocks, which takes a disk's
 * time as well. */
void syncer_add_removed(struct syncer *s, int fd);

/* Waits until everything is synced and closed.  The first failure of all is told, and told again by every later call: who
 * meets one gives up on what it wrote. */
int syncer_wait(struct syncer *s, struct err *err);

/* Waits, too, but tells nobody how it went.  Takes NULL. */
void syncer_free(struct syncer *s);
CLEANUP_DEFINE(struct syncer *, syncer_free)

#endif
