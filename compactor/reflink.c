/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/reflink.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "scanner/base/block.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"

/*
 *	move	a stretch of an image and its original, by addresses; gaps in it may differ
 *	piece	a part of it that is contiguous in both files
 *	call	at most 16 MiB of a piece that are not shared yet
 *
 * A call whose bytes differ anywhere shares nothing.  So the gaps of a move, and all of it where a call found a difference, are
 * compared here first, and blocks that differ end a piece.  What lies between gaps only the kernel compares: that copies nothing.
 */

#define COMPARE ((uint64_t)256 << 10)
#define FETCH ((uint64_t)128 << 10) /* fadvise(2) reads ahead by no more than the device's window, and passes over the rest */

const char *reflink_kernel_fault(const char *release, const char *fs_type)
{
	unsigned major = 0, minor = 0;

	if (sscanf(release, "%u.%u", &major, &minor) != 2)
		return "";
	if (major < 4 || (major == 4 && minor < 20))
		return "Linux before 4.20 can lose bytes at the end of a file when blocks are shared";
	if (strcmp(fs_type, "btrfs") == 0 && (major < 5 || (major == 5 && minor < 6)))
		return "btrfs before Linux 5.6 can lose bytes when blocks are shared while they are written out";
	return "";
}

/* ---- calls ---- */

static bool is_fatal(int e)
{
	return e == EIO || e == ENOSPC || e == EDQUOT || e == EUCLEAN;
}

/* 1 = done or refused for good, 0 = the bytes differ, or the files are shorter than they were: compare them. */
static int call(struct reflink *r, const struct piece *p, int from_fd, int fd, struct err *err)
{
	int rc = file_dedupe(from_fd, p->from, p->len, fd, p->offset, NULL);

	r->nr_calls++;
	r->bytes_asked += p->len;
	if (rc < 0 && is_fatal(errno))
		return err_errno(err, "'%s': cannot share %llu bytes at offset %llu", r->store->files.items[p->file].path,
				 (unsigned long long)p->len, (unsigned long long)p->offset);
	r->nr_differed += rc == 0;
	if (rc < 0) {
		r->nr_refused++;
		r->refused_errno = errno;
	}
	return rc == 0 || (rc < 0 && r->refused_errno == EINVAL) ? 0 : 1;
}

/* ---- comparing ---- */

/* How much of [offset, offset + len) is alike, or not, from its beginning: in whole blocks. */
static int compare(struct reflink *r, const struct piece *p, int from_fd, int fd, bool *ret_same, uint64_t *ret_len,
		   struct err *err)
{
	uint64_t len = min_u64(p->len, COMPARE), n;
	uint8_t *a = r->buf, *b = r->buf + COMPARE;
	ssize_t got = file_read_some(fd, a, len, p->offset, err), of = got < 0 ? -1 : file_read_some(from_fd, b, len, p->from, err);

	if (of < 0)
		return err_add(err, "'%s'", r->store->files.items[got < 0 ? p->file : p->from_file].path);
	len = min_u64((uint64_t)got, (uint64_t)of) / r->block * r->block;
	if (!len) { /* shorter than it was */
		*ret_same = false;
		*ret_len = p->len;
		return 0;
	}
	*ret_same = memcmp(a, b, r->block) == 0;
	for (n = r->block; n < len && (memcmp(a + n, b + n, r->block) == 0) == *ret_same;)
		n += r->block;
	*ret_len = n;
	return 0;
}

/* Shares a run that was found alike, if it is long enough; what changed just now stays as it is. */
static int share_run(struct reflink *r, const struct piece *run, uint64_t least, int from_fd, int fd, struct err *err)
{
	return run->len && run->len >= least ? call(r, run, from_fd, fd, err) : 0;
}

/* Compares at most a call's worth and shares what is alike in it. */
static int share_alike(struct reflink *r, const struct piece *p, int from_fd, int fd, struct err *err)
{
	struct piece rest = *p, run = { .len = 0 };
	uint64_t len = 0, least = min_u64(r->min_run, p->len);
	bool same = false;

	for (; rest.len; rest.offset += len, rest.from += len, rest.len -= len) {
		if (compare(r, &rest, from_fd, fd, &same, &len, err) < 0)
			return -1;
		if (same && !run.len)
			run = (struct piece){ p->file, p->from_file, rest.offset, rest.from, 0, false, 0 };
		if (same)
			run.len += len;
		else if (share_run(r, &run, least, from_fd, fd, err) < 0)
			return -1;
		else
			run.len = 0;
	}
	return share_run(r, &run, least, from_fd, fd, err) < 0 ? -1 : 0;
}

/* The gap that [at, ...) is in or comes before; its len is 0 when there is none. */
static int gap_from(struct reflink *r, uint64_t at, struct move_gap *ret, struct err *err)
{
	for (; r->gap < r->move->nr_gaps; r->gap++) {
		if (moves_gap(r->moves, r->move, r->gap, ret, err) < 0)
			return -1;
		if (ret->at + ret->len > at)
			return 0;
	}
	*ret = (struct move_gap){ .len = 0 };
	return 0;
}

/* How much of a piece is alike, or not, from its beginning: as the fingerprints say, or in a gap as the bytes do. */
static int alike_or_not(struct reflink *r, const struct piece *p, int from_fd, int fd, bool *ret_same, uint64_t *ret_len,
			struct err *err)
{
	struct piece part = *p;
	struct move_gap gap;

	if (gap_from(r, p->at, &gap, err) < 0)
		return -1;
	if (gap.len && gap.at <= p->at) {
		part.len = min_u64(p->len, gap.at + gap.len - p->at);
		return compare(r, &part, from_fd, fd, ret_same, ret_len, err);
	}
	*ret_same = true;
	*ret_len = gap.len ? min_u64(p->len, gap.at - p->at) : p->len;
	return 0;
}

static int share_or_compare(struct reflink *r, const struct piece *run, uint64_t least, int from_fd, int fd, struct err *err)
{
	int rc = run->len && run->len >= least ? call(r, run, from_fd, fd, err) : 1;

	return rc == 0 ? share_alike(r, run, from_fd, fd, err) : rc;
}

/* The same for a piece whose gaps are known. */
static int share_around_gaps(struct reflink *r, const struct piece *p, int from_fd, int fd, struct err *err)
{
	struct piece rest = *p, run = { .len = 0 };
	uint64_t len = 0, least = min_u64(r->min_run, p->len);
	bool same = false;

	for (; rest.len; rest.offset += len, rest.from += len, rest.at += len, rest.len -= len) {
		if (alike_or_not(r, &rest, from_fd, fd, &same, &len, err) < 0)
			return -1;
		if (same && !run.len)
			run = (struct piece){ p->file, p->from_file, rest.offset, rest.from, 0, false, 0 };
		if (same)
			run.len += len;
		else if (share_or_compare(r, &run, least, from_fd, fd, err) < 0)
			return -1;
		else
			run.len = 0;
	}
	return share_or_compare(r, &run, least, from_fd, fd, err) < 0 ? -1 : 0;
}

/* Gaps are made of our blocks. */
static bool knows_gaps(const struct reflink *r)
{
	return r->move->nr_gaps && r->block == BLOCK_SIZE;
}

static void fetch_bytes(int fd, uint64_t offset, uint64_t len)
{
	uint64_t n;

	for (; len; offset += n, len -= n) {
		n = min_u64(len, FETCH);
		file_ops->fadvise(fd, (off_t)offset, (off_t)n, POSIX_FADV_WILLNEED);
	}
}

/* The kernel compares page by page, and reads a page that is not in the cache all by itself: a hundred times slower than the disk
 * is.  So all of it is asked for before. */
static void fetch(struct reflink *r, const struct piece *p)
{
	int fd = store_open(r->store, p->file, NULL), from_fd = store_open(r->store, p->from_file, NULL);

	if (fd < 0 || from_fd < 0)
		return;
	fetch_bytes(from_fd, p->from, p->len);
	fetch_bytes(fd, p->offset, p->len);
}

/* A piece of at most a call's worth. */
static int share_call(struct reflink *r, const struct piece *p, struct err *err)
{
	struct err gone = ERR_INIT;
	int fd = store_open(r->store, p->file, err), from_fd = fd < 0 ? -1 : store_open(r->store, p->from_file, &gone);
	int rc;

	if (fd < 0)
		return -1;
	if (from_fd < 0) { /* other originals may be there */
		r->nr_calls++;
		r->nr_refused++;
		r->refused_errno = gone.errnum ? gone.errnum : ESTALE;
		return r->worked(r->ctx, p->len, err);
	}
	if (p->has_gaps && knows_gaps(r))
		rc = share_around_gaps(r, p, from_fd, fd, err) < 0 ? -1 : 1;
	else
		rc = p->has_gaps && !r->move->of_files ? 0 : call(r, p, from_fd, fd, err); /* of a copy all may be alike */
	if (rc == 0)
		rc = share_alike(r, p, from_fd, fd, err);
	return rc < 0 ? -1 : r->worked(r->ctx, p->len, err);
}

/* ---- moves ---- */

/* Is it the same place on the disk? */
static int already_shared(struct reflink *r, const struct piece *p, uint64_t *ret_len, struct err *err)
{
	struct range to, of;
	int rc = rangemap_find(r->store->disk, p->file, p->offset, &to, err);

	*ret_len = p->len;
	if (rc > 0 && to.from <= p->offset)
		rc = rangemap_find(r->store->disk, p->from_file, p->from, &of, err);
	else
		return rc < 0 ? -1 : 0;
	if (rc <= 0 || of.from > p->from || of.to + (p->from - of.from) != to.to + (p->offset - to.from))
		return rc < 0 ? -1 : 0;
	*ret_len = min_u64(p->len, min_u64(to.len - (p->offset - to.from), of.len - (p->from - of.from)));
	return 1;
}

/* Of a piece, what is made of blocks of the file system, which may be larger than ours. */
static struct piece whole_blocks(const struct reflink *r, const struct piece *p)
{
	uint64_t head = min_u64((r->block - p->offset % r->block) % r->block, p->len);
	struct piece ret = *p;

	ret.offset += head;
	ret.from += head;
	ret.at += head;
	ret.len = ret.from % r->block ? 0 : (p->len - head) / r->block * r->block;
	return ret;
}

static int share_fetched(struct reflink *r, struct err *err)
{
	struct piece p = r->fetched;

	r->fetched.len = 0;
	return p.len ? share_call(r, &p, err) : 0;
}

/* Shares what is not shared yet, always one call behind what is fetched. */
static int share_piece(void *ctx, const struct piece *whole, struct err *err)
{
	struct reflink *r = ctx;
	struct piece p = whole_blocks(r, whole);
	uint64_t n;

	for (; p.len; p.offset += n, p.from += n, p.at += n, p.len -= n) {
		struct piece next = p;
		int rc;

		next.len = min_u64(next.len, REFLINK_CALL);
		rc = already_shared(r, &next, &n, err);
		if (rc < 0)
			return -1;
		if (rc > 0)
			continue;
		fetch(r, &next);
		if (share_fetched(r, err) < 0)
			return -1;
		r->fetched = next;
	}
	return 0;
}

int reflink_image(struct reflink *r, size_t image, struct err *err)
{
	uint64_t bytes, nr = moves_count(r->moves, image, &bytes);
	struct move v;

	if (!r->buf && !(r->buf = malloc(2 * COMPARE)))
		return err_set(err, ERR_MEMORY, "no memory to compare files");
	for (uint64_t i = 0; i < nr; i++) {
		if (moves_get(r->moves, image, i, &v, err) < 0)
			return -1;
		if (r->store->images.items[v.origin].relayout || r->store->images.items[v.image].relayout)
			continue; /* what was to be rewritten was not: nothing lies where it should */
		r->move = &v;
		r->gap = 0;
		r->fetched.len = 0;
		if (move_each_piece(r->store, &v, share_piece, r, err) < 0 || share_fetched(r, err) < 0 ||
		    r->worked(r->ctx, 0, err) < 0)
			return -1;
	}
	return 0;
}

void reflink_release(struct reflink *r)
{
	free(r->buf);
	r->buf = NULL;
}
