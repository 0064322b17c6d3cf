/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_PROOF_H
#define DEDUPSCAN_PROOF_H

#include <stdbool.h>
#include <stdint.h>

#include "scanner/base/err.h"

struct image;
struct jail;
struct roots;

/* Proofs that a new file says what the original says.  `check` is called as they go, NULL = none.
 *
 * A hole counts where the file system says so twice, in two ways (image_doubt_holes()); else it is read like anything else, and in
 * proof_same_bytes() always.  A difference is ERR_IO, as what was written is not what is read; its text says where. */

/* Called often by what takes long, which gives up with its error when it fails: `done` of `total` bytes are done (0, 0 = who
 * knows).  Neither is to be trusted: they may come from a process in a jail. */
typedef int proof_check(void *ctx, uint64_t done, uint64_t total, struct err *err);

/* Byte by byte: equal sizes, equal bytes (holes read as zeros).  What was read leaves the page cache again.  `check` is called at
 * least for every MiB. */
int proof_same_bytes(int old_fd, int new_fd, proof_check *check, void *check_ctx, struct err *err);

/* Both are images of one format: as their stored views say (scanner/image/image.h), in all layers: the same sizes, the same bytes,
 * and a hole (through which a backing file shows) is a hole in both.  What they say of themselves is the same: kind, ids, backing
 * file, how many snapshots and bitmaps.  Read by a process in a jail; `check` is called ten times a second.
 *
 * Both are opened as `format` at `path`, so names inside them lead to the same files. */
int proof_same_image(int old_fd, int new_fd, const char *path, const char *format, const struct roots *roots,
		     const struct jail *jail, proof_check *check, void *check_ctx, struct err *err);

/* What that process does. */
int proof_compare(struct image *old, struct image *copy, proof_check *check, void *check_ctx, struct err *err);

#endif
