/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_WORKER_H
#define DEDUPSCAN_WORKER_H

#include <stdatomic.h>
#include <stdint.h>

#include "scanner/index/spool.h"
#include "scanner/worker_message.h"

/* The reading side of a scan: one process a core that turns images into spool frames.
 *
 * A worker holds the descriptors it is handed and two frames of shared memory, nothing else: it opens nothing, writes nothing.
 * Names it finds inside an image it asks its parent for; worker_message.h has the conversation. */

#define WORKER_SLOTS 2

/* Memory shared by a worker and its parent. */
struct worker_shared {
	_Atomic uint32_t stop;	     /* parent: end at the next block */
	_Atomic uint64_t limit;	     /* parent: bytes a second this worker may read, 0 = no limit */
	_Atomic uint64_t bytes_read; /* worker: of image data since it started */
	_Atomic uint64_t address;    /* worker: where in the image it is */
	struct {
		uint32_t len;
		uint8_t frame[SPOOL_FRAME_MAX];
	} slots[WORKER_SLOTS];
};

/* The main function of a worker process, for proc_start(); arg is unused. */
int worker_run(int sock, void *shared, void *arg);

#endif
