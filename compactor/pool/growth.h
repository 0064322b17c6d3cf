/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_GROWTH_H
#define DEDUPSCAN_GROWTH_H

#include "compactor/pool/pool.h"

/* When a pool begins another cluster file (clusters.h), and what that takes.
 *
 * A view lies in one file, with all that it leads to, and runs are shared in the file that grows alone: so another one begins only
 * when it must, as the file system lets the file grow no more, or its slots are used up, or it was cut; or when the pool was told
 * to, after so many bytes.
 *
 * Whoever appends has called one of growth_for_...() before, which find out whether the file was cut. */

/* Bytes of clusters and tables after which another file begins, which is kept in the pool; 0 = as many as the file system lets it
 * have.  The image that is entering then goes into the old file as a whole.  It is no more than a wish: there are at most 64 files
 * at a time for it. */
uint64_t growth_told(const struct pool *p);
int growth_tell(struct pool *p, uint64_t file_size, struct err *err);

/* Bytes that the file that grows may still take. */
uint64_t growth_room(const struct pool *p);
/* Another one begins before the next image, whatever that is. */
bool growth_is_due(const struct pool *p);

/* Begins another file if the one that grows has the size that was told, or if it may not take `bytes` more, or has no slot left. */
int growth_for_image(struct pool *p, uint64_t bytes, struct err *err);
/* The same, but whatever was told, for what belongs into the file that grows: so many bytes of clusters, and the tables of a view
 * of a disk of `disk_size` bytes.  ERR_FULL when no file can take so much. */
int growth_for_view(struct pool *p, uint64_t bytes, uint64_t disk_size, struct err *err);
/* ERR_FULL when the file system has not the space to store so many bytes again, and what comes with them.  To write until it is
 * full would trouble the guests on it. */
int growth_check_space(const struct pool *p, uint64_t bytes, struct err *err);

/* Begins another one.  What is in the pool is found by its digests as before; its blocks are not shared any more. */
int growth_begin(struct pool *p, struct err *err);

#endif
