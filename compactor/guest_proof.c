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
	for (struct image *m = s->img; m; m = m->backing)
		image_doubt_holes(m);
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

static int compare_stretch(struct side *a, struct side *b, uint64_t at, uint64_t len, struct err *err)
{
	size_t n;

	if (is_zero(a) && is_zero(b))
		return 0;
	for (; len; at += n, len -= n) {
		size_t i = 0;

		n = (size_t)min_u64(len, PIECE);
		if (read_piece(a, at, n, err) < 0 || read_piece(b, at, n, err) < 0)
			return -1;
		if (memcmp(a->buf, b->buf, n) == 0)
			continue;
		while (a->buf[i] == b->buf[i])
			i++;
		return err_set(err, ERR_IO, "the guest's disk differs from the original at offset %llu", (unsigned long long)(at + i));
	}
	return 0;
}

int proof_compare_guests(struct image *old, struct image *copy, proof_check *check, void *check_ctx, struct err *err)
{
	CLEANUP(free) uint8_t *buf = malloc(2 * PIECE);
	struct side a = { .name = "the original", .img = old, .buf = buf };
	struct side b = { .name = "the new image", .img = copy, .buf = buf + PIECE };
	uint64_t len;

	if (!buf)
		return err_set(err, ERR_MEMORY, "no memory to compare images");
	if (old->size != copy->size)
		return err_set(err, ERR_IO, "the disk of the new image has %llu bytes, that of the original %llu",
			       (unsigned long long)copy->size, (unsigned long long)old->size);
	for (uint64_t at = 0; at < old->size; at += len) {
		if (step(&a, at, err) < 0 || step(&b, at, err) < 0)
			return -1;
		len = min_u64(min_u64(a.ext.offset + a.ext.len, b.ext.offset + b.ext.len), old->size) - at;
		if (compare_stretch(&a, &b, at, len, err) < 0 || (check && check(check_ctx, at + len, old->size, err) < 0))
			return -1;
	}
	return 0;
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

int proof_same_guest(int old_fd, const char *old_format, int new_fd, const char *new_format, const char *path, const struct roots *roots,
		     const struct jail *jail, proof_check *check, void *check_ctx, struct err *err)
{
	const struct pair p = {
		.format = old_format, .roots = roots, .jail = jail, .reads_backing = true, .check = check, .check_ctx = check_ctx,
		.work = compare_files, .arg = new_format,
	};

	return pair_run(&p, old_fd, new_fd, path, err);
}
