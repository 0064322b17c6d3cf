/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_PARALLEL_H
#define DEDUPSCAN_PARALLEL_H

#include <stddef.h>

#include "scanner/base/err.h"

/* A loop whose rounds run on several threads.
 *
 * run(ctx, thread, item, err) is called once for every item 0..nr_items-1, items in ascending order of their beginning,
 * `thread` (0..nr_threads-1) naming whose scratch memory to use.  The first failure ends the loop: no new item is begun, and
 * its error is the loop's. */
int parallel_run(unsigned nr_threads, size_t nr_items, int (*run)(void *ctx, unsigned thread, size_t item, struct err *err),
	     void *ctx, struct err *err);

#define PARALLEL_THREADS_MAX 256

#endif
