/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_PROOF_H
#define DEDUPSCAN_PROOF_H

#include "scanner/base/jail.h"
#include "scanner/roots.h"

/* Proofs that a new file says what the original says.  `check` as in replace.h. */

typedef int proof_check(void *ctx, struct err *err);

/* Byte by byte: equal sizes, equal bytes (holes read as zeros). */
int proof_same_bytes(int old_fd, int new_fd, proof_check *check, void *check_ctx, struct err *err);

/* Both are images of one format: as their stored views say (scanner/image/image.h), in all layers: the same sizes, the same bytes,
 * and a hole (through which a backing file shows) is a hole in both.  Read by a process in a jail. */
int proof_same_image(int old_fd, int new_fd, const char *path, const char *format, const struct roots *roots,
		     const struct jail *jail, proof_check *check, void *check_ctx, struct err *err);

#endif
