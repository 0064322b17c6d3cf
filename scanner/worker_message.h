/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_WORKER_MESSAGE_H
#define DEDUPSCAN_WORKER_MESSAGE_H

#include <limits.h>
#include <stddef.h>
#include <stdint.h>

#include "scanner/base/err.h"
#include "scanner/image/image.h"

/* What processes that read images and their parent say to each other.  A scan's conversation, one image at a time:
 *
 *	parent                          worker
 *	JOB (fd: the image)
 *	DIGESTS (fd: struct spool_digest ...)           if the catalog has seen the image before
 *	                                OPEN role, name                 any number of times
 *	FILE (fd) or REFUSED text
 *	                                IMAGE                           what the image says of itself
 *	                                FRAME slot                      shared slot is full; it belongs to the parent until
 *	FREE slot
 *	                                DONE, or STOPPED, or FAILED error; with no kind of error: it is no image
 */

enum worker_message_kind {
	WORKER_JOB = 1,
	WORKER_DIGESTS,
	WORKER_FILE,
	WORKER_REFUSED,
	WORKER_FREE,
	WORKER_OPEN,
	WORKER_IMAGE,
	WORKER_FRAME,
	WORKER_DONE,
	WORKER_STOPPED,
	WORKER_FAILED,
};

struct worker_job {
	uint64_t start;	     /* address to go on from */
	uint64_t frame_data; /* make a frame of at most so many bytes of image data */
	uint64_t cache_room; /* bytes of the image that may stay in the page cache; for the others: */
	uint32_t keep_cache; /* leave the page cache as it was found */
	uint32_t has_digests;
	uint32_t named;	     /* the user named this file: it is raw when no format claims it */
	char format[32]; /* "" = probe */
	char path[PATH_MAX];
};

/* What an image says of itself, and what is wrong with it although it can be read. */
struct worker_image {
	uint64_t virtual_size, span, layer, cluster_size, file_size;
	uint32_t nr_snapshots;
	char format[32];
	char backing[IMAGE_NAME_MAX];
	char features[256];
	char warning[512];
};

struct worker_message {
	uint32_t kind;
	union {
		uint32_t slot;
		struct {
			uint32_t role;
			char name[IMAGE_NAME_MAX];
			char from[PATH_MAX];
		} open;
		char path[PATH_MAX]; /* FILE: where it was found */
		struct err err;	     /* REFUSED, FAILED */
		struct worker_job job;
		struct worker_image image;
	};
};

_Static_assert(sizeof(struct worker_message) <= 16384, "a message fits into one datagram");

/* Messages are no longer than their kind needs. */
size_t worker_message_len(uint32_t kind);
int worker_send(int sock, const struct worker_message *m, int fd, struct err *err);

#endif
