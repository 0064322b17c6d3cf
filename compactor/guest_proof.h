/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_GUEST_PROOF_H
#define DEDUPSCAN_GUEST_PROOF_H

#include "compactor/proof.h"

/* Proof that a guest sees the same disk in both: equal sizes, equal bytes, each read through its chain of backing files, by a
 * process in a jail.  The formats may differ; NULL for the original's = as probed.  What is not stored anywhere counts as zeros.
 *
 * A difference is ERR_IO whose text says where.  `check` as for the other proofs. */
int proof_same_guest(int old_fd, const char *old_format, int new_fd, const char *new_format, const char *path,
		     const struct roots *roots, const struct jail *jail, proof_check *check, void *check_ctx, struct err *err);

/* What that process does, on images whose chains are open. */
int proof_compare_guests(struct image *old, struct image *copy, proof_check *check, void *check_ctx, struct err *err);

#endif
