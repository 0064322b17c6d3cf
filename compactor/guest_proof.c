/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/guest_proof.h"

#include <stdlib.h>
#include <string.h>

#include "compactor/pair.h"
#include "scanner/base/checked.h"

/* As in proof.c two walks go side by side, here over what the guests see. */

#define PIECE ((size_t)1 << 20)

struct side {
	const char *name;
	struct image *img;
	struct extent ext;
	uint8_t *buf;
};

static int step(struct side *s, uint64_t at, struct err *err)
{
	if (s->ext.len && at - s->ext.offset < s->ext.len)
		return 0;
	return image_next_guest_extent(s->img, at, &s->ext, err) < 0 ? err_add(err, "%s", s->name) : 0;
}

static bool is_zero(const struct side *s)
{
	return s->ext.kind == EXTENT_HOLE || s->ext.kind == EXTENT_ZERO;
}

static int read_piece(struct side *s, uint64_t at, size_t len, struct err *err)
{
	if (is_zero(s)) {
		memset(s->buf, 0, len);
		return 0;
	}
	return image_read_extent(&s->ext, at, s->buf, len, err) < 0 ? err_add(err, "%s", s->name) : 0;
}

struct comparison {
	struct side old, copy;
	proof_check *check;
	void *check_ctx;
};

static int tell_done(const struct comparison *c, uint64_t done, struct err *err)
{
	return c->check ? c->check(c->check_ctx, done, c->old.img->size, err) : 0;
}

static int compare_piece(struct comparison *c, uint64_t at, size_t len, struct err *err)
{
	size_t i = 0;

	if (read_piece(&c->old, at, len, err) < 0 || read_piece(&c->copy, at, len, err) < 0)
		return -1;
	if (memcmp(c->old.buf, c->copy.buf, len) == 0)
		return 0;
	while (c->old.buf[i] == c->copy.buf[i])
		i++;
	return err_set(err, ERR_IO, "the guest's disk differs from the original at offset %llu", (unsigned long long)(at + i));
}

static int compare_stretch(struct comparison *c, uint64_t at, uint64_t len, struct err *err)
{
	size_t n;

	if (is_zero(&c->old) && is_zero(&c->copy))
		return tell_done(c, at + len, err);
	for (; len; at += n, len -= n) {
		n = (size_t)min_u64(len, PIECE);
		if (compare_piece(c, at, n, err) < 0 || tell_done(c, at + n, err) < 0)
			return -1;
	}
	return 0;
}

static void doubt_holes(struct image *img)
{
	for (; img; img = img->backing)
		image_doubt_holes(img);
}

static int walk(struct comparison *c, struct err *err)
{
	const struct extent *a = &c->old.ext, *b = &c->copy.ext;
	uint64_t size = c->old.img->size, len;

	for (uint64_t at = 0; at < size; at += len) {
		if (step(&c->old, at, err) < 0 || step(&c->copy, at, err) < 0)
			return -1;
		len = min_u64(min_u64(a->offset + a->len, b->offset + b->len), size) - at;
		if (compare_stretch(c, at, len, err) < 0)
			return -1;
	}
	return 0;
}

int proof_compare_guests(struct image *old, struct image *copy, proof_check *check, void *check_ctx, struct err *err)
{
	CLEANUP(free) uint8_t *buf = malloc(2 * PIECE);
	struct comparison c = {
		.old = { .name = "the original", .img = old, .buf = buf }, .copy = { .name = "the new image", .img = copy },
		.check = check, .check_ctx = check_ctx,
	};

	if (!buf)
		return err_set(err, ERR_MEMORY, "no memory to compare images");
	if (old->size != copy->size)
		return err_set(err, ERR_IO, "the disk of the new image has %llu bytes, that of the original %llu",
			       (unsigned long long)copy->size, (unsigned long long)old->size);
	c.copy.buf = buf + PIECE;
	doubt_holes(old);
	doubt_holes(copy);
	return walk(&c, err);
}

/* ---- the process ---- */

static int compare_files(struct errand_side *s, const void *new_format, proof_check *check, void *check_ctx, struct err *err)
{
	int fd = STEAL_FD(s->second_fd);
	CLEANUP(image_close) struct image *old = errand_open_image(s, err);
	CLEANUP(image_close) struct image *copy =
		image_open(fd, s->job.path, image_format_by_name(new_format), &s->opener, NULL, old ? err : NULL);

	if (!old || image_open_chain(old, &s->opener, err) < 0)
		return err_add(err, "the original");
	if (!copy || image_open_chain(copy, &s->opener, err) < 0)
		return err_add(err, "the new image");
	return proof_compare_guests(old, copy, check, check_ctx, err);
}

int proof_same_guest(int old_fd, const char *old_format, int new_fd, const char *new_format, const char *path,
		     const struct roots *roots, const struct jail *jail, proof_check *check, void *check_ctx, struct err *err)
{
	const struct pair p = {
		.format = old_format, .roots = roots, .jail = jail, .reads_backing = true, .check = check, .check_ctx = check_ctx,
		.work = compare_files, .arg = new_format,
	};

	return pair_run(&p, old_fd, new_fd, path, err);
}
