/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/sparse_copy.h"

#include <string.h>

#include "scanner/base/checked.h"
#include "scanner/base/file.h"

/* Pieces end at multiples of SPARSE_PIECE of the new file, and blocks of zeros are blocks of the new file:
 *
 *	from	    |..####0000####|		0 zeros, . hole
 *	to	|....####....####|		in units of the new file, whatever the old one's were */

bool sparse_is_zero(const void *p, size_t len)
{
	const uint8_t *b = p;

	return len == 0 || (b[0] == 0 && memcmp(b, b + 1, len - 1) == 0);
}

static size_t to_boundary(uint64_t at, size_t unit, uint64_t left)
{
	return (size_t)min_u64(unit - at % unit, left);
}

static int write_bytes(struct sparse_copy *c, const uint8_t *p, size_t len, uint64_t at, struct err *err)
{
	if (len && file_write(c->to, p, len, at, err) < 0)
		return -1;
	c->written += len;
	return 0;
}

/* What is between blocks of zeros. */
static int write_runs(struct sparse_copy *c, uint64_t to, size_t len, struct err *err)
{
	size_t run = 0, n; /* where the run that is not written yet begins */

	for (size_t at = 0; at < len; at += n) {
		n = to_boundary(to + at, SPARSE_BLOCK, len - at);
		if (!sparse_is_zero(c->buf + at, n))
			continue;
		if (write_bytes(c, c->buf + run, at - run, to + run, err) < 0)
			return -1;
		run = at + n;
	}
	return write_bytes(c, c->buf + run, len - run, to + run, err);
}

static int copy_data(struct sparse_copy *c, uint64_t from, uint64_t to, uint64_t len, struct err *err)
{
	size_t n;

	for (; len; from += n, to += n, len -= n) {
		n = to_boundary(to, SPARSE_PIECE, len);
		if (c->check && c->check(c->check_ctx, to, c->size, err) < 0)
			return -1;
		if (file_read(c->from, c->buf, n, from, err) < 0)
			return -1;
		if ((c->drop_zeros ? write_runs(c, to, n, err) : write_bytes(c, c->buf, n, to, err)) < 0)
			return -1;
	}
	return 0;
}

int sparse_copy(struct sparse_copy *c, uint64_t from_offset, uint64_t to_offset, uint64_t len, struct err *err)
{
	uint64_t end = from_offset + len, begin, stop;
	int rc = 0;

	for (uint64_t at = from_offset; at < end; at = stop) {
		rc = file_next_data(c->from, at, end, &begin, &stop, err);
		if (rc <= 0)
			break;
		if (copy_data(c, begin, to_offset + (begin - from_offset), stop - begin, err) < 0)
			return -1;
	}
	return rc < 0 ? -1 : 0;
}
