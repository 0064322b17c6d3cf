/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_SPARSE_COPY_H
#define DEDUPSCAN_SPARSE_COPY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "compactor/proof.h"

/* Copying bytes into a new file in which holes stay holes: the pieces that rewriting is made of. */

#define SPARSE_PIECE ((size_t)1 << 20) /* bytes that are read and written at once, at most */
#define SPARSE_BLOCK ((size_t)4096)    /* the unit of holes that are made of zeros */

struct sparse_copy {
	int from, to;	      /* `to` has only holes where something is copied to */
	bool drop_zeros;      /* blocks of the new file that would be all zeros are left holes, too */
	uint8_t *buf;	      /* of SPARSE_PIECE bytes */
	uint64_t size;	      /* of the new file, about: what check is told that all is */
	proof_check *check;   /* called for every piece; may be NULL */
	void *check_ctx;
	uint64_t written;     /* bytes, so far */
};

/* Copies len bytes; what the file system says is a hole of `from` is one of `to`.  Preallocated space counts as a hole. */
int sparse_copy(struct sparse_copy *c, uint64_t from_offset, uint64_t to_offset, uint64_t len, struct err *err);

bool sparse_is_zero(const void *p, size_t len);

#endif
