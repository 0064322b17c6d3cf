/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/rebuild.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "compactor/sparse_copy.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"

/*
 *	moves	      |--------|     |------|--|
 *	new	|copy |clone   |copy |clone |  |copy		cut to whole blocks, the last one of both files but for that
 *
 * Cloned first and compared then: what the new file holds is nobody else's, while a source may be written to between a comparison
 * and a clone.  Where they differ the original's bytes are written over the clone. */

#define PIECE SPARSE_PIECE
#define CLONE_MAX ((uint64_t)16 << 20) /* cloned and compared at once */
#define UNIT_MIN 4096

struct building {
	const struct rebuild *r;
	int old_fd, new_fd;
	uint64_t size, unit; /* of the file; of what can be cloned */
	struct sparse_copy copy;
	uint8_t *old, *got; /* PIECE bytes each */
	struct rebuild_result result;
};

static uint64_t unit_of(int fd)
{
	struct statfs st;

	if (file_ops->fstatfs(fd, &st) < 0 || !is_pow2((uint64_t)st.f_bsize))
		return UNIT_MIN;
	return max_u64((uint64_t)st.f_bsize, UNIT_MIN);
}

static int copy_to(struct building *b, uint64_t from, uint64_t to, struct err *err)
{
	return from < to ? sparse_copy(&b->copy, from, from, to - from, err) : 0;
}

/* ---- clones ---- */

/* How far [0, len) of the two buffers is alike, or differs, from `from` on, in whole blocks. */
static size_t run_of(const struct building *b, size_t from, size_t len, bool *ret_same)
{
	size_t at = from;

	do {
		size_t n = (size_t)min_u64(b->unit, len - at);
		bool same = memcmp(b->old + at, b->got + at, n) == 0;

		if (at == from)
			*ret_same = same;
		else if (same != *ret_same)
			break;
		at += n;
	} while (at < len);
	return at - from;
}

/* What was cloned, or written over where that was something else. */
static int compare_piece(struct building *b, uint64_t at, size_t len, struct err *err)
{
	size_t n;
	bool same = false;

	if (file_read(b->old_fd, b->old, len, at, err) < 0 || file_read(b->new_fd, b->got, len, at, err) < 0)
		return -1;
	for (size_t i = 0; i < len; i += n) {
		n = run_of(b, i, len, &same);
		if (same) {
			b->result.cloned += n;
			continue;
		}
		b->result.differed += n;
		b->copy.written += n;
		if (file_write(b->new_fd, b->old + i, n, at + i, err) < 0)
			return -1;
	}
	return 0;
}

static int compare_clone(struct building *b, uint64_t at, uint64_t end, struct err *err)
{
	size_t n;

	for (; at < end; at += n) {
		n = (size_t)min_u64(PIECE, end - at);
		if (b->r->check && b->r->check(b->r->check_ctx, at, b->size, err) < 0)
			return -1;
		if (compare_piece(b, at, n, err) < 0)
			return -1;
	}
	return 0;
}

/* The file system or these two files are not made for it, and nothing was cloned. */
static bool cannot_clone(int errnum)
{
	return errnum == EOPNOTSUPP || errnum == EINVAL || errnum == EXDEV || errnum == ENOTTY || errnum == ETXTBSY ||
	       errnum == EPERM;
}

static int clone_or_copy(struct building *b, const struct rebuild_move *m, uint64_t at, uint64_t len, struct err *err)
{
	struct err why = ERR_INIT;

	if (file_clone(m->src_fd, m->src_offset + (at - m->offset), len, b->new_fd, at, &why) == 0)
		return compare_clone(b, at, at + len, err);
	if (!cannot_clone(why.errnum)) {
		if (err)
			*err = why;
		return -1;
	}
	b->result.refused += len;
	return copy_to(b, at, at + len, err);
}

/* ---- moves ---- */

static bool ends_with(const struct building *b, const struct rebuild_move *m)
{
	struct stat st;

	return m->offset + m->len == b->size && file_ops->fstat(m->src_fd, &st) == 0 &&
	       (uint64_t)st.st_size == m->src_offset + m->len;
}

/* From the original's own place to the same place of the new file; false = that is not there yet. */
static bool turn_inward(const struct building *b, struct rebuild_move *m)
{
	if (m->src_fd != b->old_fd)
		return true;
	m->src_fd = b->new_fd;
	return m->src_offset + m->len <= m->offset;
}

/* Cuts a move to what can be cloned and is not there yet; false = nothing is left. */
static bool cut_move(const struct building *b, uint64_t done, struct rebuild_move *m)
{
	uint64_t begin = round_up(max_u64(m->offset, done), b->unit), end;

	if (m->offset >= b->size || (m->offset ^ m->src_offset) % b->unit)
		return false;
	m->len = min_u64(m->len, b->size - m->offset);
	end = m->offset + m->len;
	if (!ends_with(b, m))
		end = round_down(end, b->unit);
	if (end <= begin)
		return false;
	m->src_offset += begin - m->offset;
	m->offset = begin;
	m->len = end - begin;
	return true;
}

static int make_move(struct building *b, const struct rebuild_move *m, struct err *err)
{
	uint64_t n, end = m->offset + m->len;

	for (uint64_t at = m->offset; at < end; at += n) {
		n = min_u64(CLONE_MAX, end - at);
		if (clone_or_copy(b, m, at, n, err) < 0)
			return -1;
	}
	return 0;
}

static int make_moves(struct building *b, struct err *err)
{
	struct rebuild_move m;
	uint64_t done = 0;
	int rc;

	while ((rc = b->r->next_move(b->r->ctx, &m, err)) > 0) {
		if (!cut_move(b, done, &m) || !turn_inward(b, &m))
			continue;
		if (copy_to(b, done, m.offset, err) < 0 || make_move(b, &m, err) < 0)
			return -1;
		done = m.offset + m.len;
	}
	return rc < 0 ? -1 : copy_to(b, done, b->size, err);
}

int rebuild_make(int old_fd, int new_fd, const struct rebuild *r, struct rebuild_result *ret, struct err *err)
{
	CLEANUP(free) uint8_t *buf = malloc(3 * PIECE);
	struct building b = { .r = r, .old_fd = old_fd, .new_fd = new_fd, .unit = unit_of(new_fd) };
	struct stat st;

	if (!buf)
		return err_set(err, ERR_MEMORY, "no memory to rebuild a file");
	if (file_ops->fstat(old_fd, &st) < 0)
		return err_errno(err, "cannot look at the original");
	b.size = (uint64_t)st.st_size;
	b.old = buf;
	b.got = buf + PIECE;
	b.copy = (struct sparse_copy){
		.from = old_fd, .to = new_fd, .drop_zeros = r->drop_zeros, .buf = buf + 2 * PIECE,
		.size = b.size, .check = r->check, .check_ctx = r->check_ctx,
	};
	if (file_truncate(new_fd, b.size, err) < 0 || make_moves(&b, err) < 0)
		return -1;
	b.result.copied = b.copy.written;
	*ret = b.result;
	return 0;
}
