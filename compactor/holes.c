/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/holes.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>

#include "compactor/sparse_copy.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"

/*
 *	stored	|####0000|00000000|00##.....|0000|		0 zeros, . hole
 *	run	     |---------------|      |----|		gathered over pieces, up to data or a hole
 *
 * Long runs are punched by the call, each looked at once more right before. */

#define PIECE SPARSE_PIECE
#define CALL_MAX ((uint64_t)16 << 20)
#define UNIT_MIN 4096

struct punching {
	const struct holes *h;
	uint64_t unit;
	uint64_t begin, end; /* the run */
	uint8_t *piece, *again; /* PIECE bytes each: what is looked at, and what is looked at once more */
	struct holes_result *result;
};

static int check(const struct punching *p, struct err *err)
{
	return p->h->check ? p->h->check(p->h->check_ctx, 0, 0, err) : 0;
}

/* ---- two ways ---- */

/* 1 = they are a hole now, 0 = they are not zeros. */
static int punch_compared(struct punching *p, uint64_t at, uint64_t len, struct err *err)
{
	for (uint64_t done; len; at += done, len -= done) {
		int same = file_dedupe(p->h->hole_fd, 0, len, p->h->fd, at, &done);

		if (same < 0)
			return err_errno(err, "cannot share a hole at offset %llu", (unsigned long long)at);
		done = round_down(min_u64(done, len), p->unit);
		if (!same || done == 0)
			return 0;
		p->result->bytes += done;
	}
	return 1;
}

static int punch_held(struct punching *p, uint64_t at, uint64_t len, struct err *err)
{
	size_t n;

	for (uint64_t seen = 0; seen < len; seen += n) {
		n = (size_t)min_u64(PIECE, len - seen);
		if (file_read(p->h->fd, p->again, n, at + seen, err) < 0)
			return -1;
		if (!sparse_is_zero(p->again, n))
			return 0;
	}
	if (check(p, err) < 0) /* to read it may have taken long */
		return -1;
	if (file_punch(p->h->fd, at, len, err) < 0)
		return -1;
	p->result->bytes += len;
	return 1;
}

/* ---- runs ---- */

static int end_run(struct punching *p, struct err *err)
{
	uint64_t n, at = p->begin, end = p->end;
	int rc = 1;

	p->begin = p->end = 0;
	if (end == at || end - at < p->h->min_len)
		return 0;
	for (; at < end && rc > 0; at += n) {
		n = min_u64(CALL_MAX, end - at);
		if (check(p, err) < 0)
			return -1;
		rc = (p->h->how == HOLES_HELD ? punch_held : punch_compared)(p, at, n, err);
	}
	p->result->nr += rc > 0;
	p->result->nr_differed += rc == 0;
	return rc < 0 ? -1 : 0;
}

/* Ends with a run that may go on. */
static int look_at_piece(struct punching *p, uint64_t at, size_t len, struct err *err)
{
	for (size_t i = 0; i < len; i += p->unit) {
		if (!sparse_is_zero(p->piece + i, p->unit)) {
			if (end_run(p, err) < 0)
				return -1;
			continue;
		}
		if (p->end != at + i || p->begin == p->end)
			p->begin = at + i;
		p->end = at + i + p->unit;
	}
	return 0;
}

/* Stored bytes [from, to), in whole blocks. */
static int look_at_data(struct punching *p, uint64_t from, uint64_t to, struct err *err)
{
	size_t n;

	for (; from < to; from += n) {
		n = (size_t)min_u64(PIECE, to - from);
		if (check(p, err) < 0 || file_read(p->h->fd, p->piece, n, from, err) < 0 ||
		    look_at_piece(p, from, n, err) < 0)
			return -1;
	}
	return end_run(p, err);
}

static uint64_t unit_of(int fd)
{
	struct statfs st;

	if (file_ops->fstatfs(fd, &st) < 0 || !is_pow2((uint64_t)st.f_bsize) || (uint64_t)st.f_bsize > PIECE)
		return UNIT_MIN;
	return max_u64((uint64_t)st.f_bsize, UNIT_MIN);
}

int holes_punch(const struct holes *h, uint64_t from, uint64_t to, struct holes_result *ret, struct err *err)
{
	CLEANUP(free) uint8_t *buf = malloc(2 * PIECE);
	struct punching p = { .h = h, .unit = unit_of(h->fd), .piece = buf, .result = ret };
	uint64_t begin, end;
	struct stat st;
	int rc = 0;

	if (!buf)
		return err_set(err, ERR_MEMORY, "no memory to look for zeros");
	p.again = buf + PIECE;
	if (file_ops->fstat(h->fd, &st) < 0)
		return err_errno(err, "cannot look at a file to be punched");
	to = min_u64(to, (uint64_t)st.st_size);
	for (; from < to; from = end) {
		rc = file_next_data(h->fd, from, to, &begin, &end, err);
		if (rc <= 0)
			break;
		if (look_at_data(&p, round_up(begin, p.unit), round_down(end, p.unit), err) < 0)
			return -1;
	}
	return rc < 0 ? -1 : 0;
}

/* ---- the hole ---- */

static int set_like(int fd, int like_fd, struct err *err)
{
	int flags = 0, own = 0;

	if (file_ops->ioctl(like_fd, FS_IOC_GETFLAGS, &flags) < 0 || file_ops->ioctl(fd, FS_IOC_GETFLAGS, &own) < 0)
		return 0; /* a file system without flags */
	if (!((flags ^ own) & FS_NOCOW_FL))
		return 0;
	own ^= FS_NOCOW_FL;
	if (file_ops->ioctl(fd, FS_IOC_SETFLAGS, &own) < 0)
		return err_errno(err, "cannot make a file alike as to copy on write");
	return 0;
}

int holes_open(int dirfd, int like_fd, struct err *err)
{
	int fd = file_open(dirfd, ".", O_TMPFILE | O_RDWR, 0600, err);

	if (fd < 0)
		return -1;
	if (set_like(fd, like_fd, err) == 0 && file_truncate(fd, CALL_MAX, err) == 0)
		return fd;
	file_close(fd, "a file without a name", NULL);
	return -1;
}
