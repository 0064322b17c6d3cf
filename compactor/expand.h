/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_EXPAND_H
#define DEDUPSCAN_EXPAND_H

#include "scanner/base/jail.h"
#include "scanner/base/schedule.h"
#include "scanner/roots.h"

/* Making an image independent of its pool again, in place: it is rewritten as a qcow2 image that holds all of its guest's disk,
 * proven and exchanged like any rewrite (compactor/replace.h). */

struct expand_options {
	struct roots *roots; /* the image is one of them, or lies beneath */
	const struct jail *jail;
	struct stopper *stopper;
	int64_t keep_originals; /* seconds */
	bool assume_idle;
	/* Bytes of the disk's address space; may be NULL. */
	void (*progress)(void *ctx, uint64_t done, uint64_t total);
	/* What the image will not have any more: bitmaps that are not valid.  May be NULL. */
	void (*problem)(void *ctx, const char *path, const struct err *why);
	void *ctx;
};

struct pool;

/* `path` is absolute and resolved, its pool recovered (versions.h).  ERR_UNSUPPORTED when it has no backing file, ERR_FORMAT when
 * what the pool has of it is not what its digests say. */
int expand_image(struct pool *p, const struct expand_options *o, const char *path, struct err *err);

#endif
