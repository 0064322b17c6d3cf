/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/proof.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "compactor/pair.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"

/* Two walks side by side, each ahead of the place of comparison by what is left of its extent:
 *
 *	old	|####|########|....|##|
 *	new	|######|##|##......|####|	compared: the shorter rest of both, time and again */

#define PIECE ((size_t)1 << 20)
#define DROP ((uint64_t)64 << 20) /* what is read stays in the page cache for so long */

/* ---- bytes ---- */

static int differ(uint64_t offset, struct err *err)
{
	return err_set(err, ERR_IO, "the new file differs from the original at offset %llu", (unsigned long long)offset);
}

static size_t first_difference(const uint8_t *a, const uint8_t *b, size_t len)
{
	size_t i = 0;

	while (i < len && a[i] == b[i])
		i++;
	return i;
}

static void drop_behind(int old_fd, int new_fd, uint64_t at)
{
	uint64_t from = at > DROP ? at - DROP : 0;

	file_ops->fadvise(old_fd, (off_t)from, (off_t)(at - from), POSIX_FADV_DONTNEED);
	file_ops->fadvise(new_fd, (off_t)from, (off_t)(at - from), POSIX_FADV_DONTNEED);
}

static int compare_bytes(int old_fd, int new_fd, uint64_t size, uint8_t *a, proof_check *check, void *check_ctx,
			 struct err *err)
{
	uint8_t *b = a + PIECE;
	size_t n;

	for (uint64_t at = 0; at < size; at += n) {
		n = (size_t)min_u64(PIECE, size - at);
		if (check && check(check_ctx, at, size, err) < 0)
			return -1;
		if (file_read(old_fd, a, n, at, err) < 0)
			return err_add(err, "the original");
		if (file_read(new_fd, b, n, at, err) < 0)
			return err_add(err, "the new file");
		if (memcmp(a, b, n) != 0)
			return differ(at + first_difference(a, b, n), err);
		if ((at + n) % DROP == 0 || at + n == size)
			drop_behind(old_fd, new_fd, at + n);
	}
	return 0;
}

int proof_same_bytes(int old_fd, int new_fd, proof_check *check, void *check_ctx, struct err *err)
{
	CLEANUP(free) uint8_t *buf = malloc(2 * PIECE);
	struct stat old, copy;

	if (!buf)
		return err_set(err, ERR_MEMORY, "no memory to compare files");
	if (file_ops->fstat(old_fd, &old) < 0 || file_ops->fstat(new_fd, &copy) < 0)
		return err_errno(err, "cannot look at a file to be compared");
	if (old.st_size != copy.st_size)
		return err_set(err, ERR_IO, "the new file has %lld bytes, the original %lld", (long long)copy.st_size,
			       (long long)old.st_size);
	return compare_bytes(old_fd, new_fd, (uint64_t)old.st_size, buf, check, check_ctx, err);
}

/* ---- what images say of themselves ---- */

static int compare_numbers(const struct image *a, const struct image *b, struct err *err)
{
	const struct {
		const char *name;
		uint64_t old, copy;
	} rows[] = {
		{ "the size", a->size, b->size },
		{ "the span", a->span, b->span },
		{ "the layer size", a->layer, b->layer },
		{ "the size of all disks", a->info.total_size, b->info.total_size },
		{ "the number of snapshots", a->info.nr_snapshots, b->info.nr_snapshots },
		{ "the number of bitmaps", a->info.nr_bitmaps, b->info.nr_bitmaps },
		{ "encryption", a->info.encrypted, b->info.encrypted },
		{ "the dirty mark", a->info.dirty, b->info.dirty },
		{ "the corrupt mark", a->info.corrupt, b->info.corrupt },
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		if (rows[i].old != rows[i].copy)
			return err_set(err, ERR_IO, "%s of the new image is %llu, of the original %llu", rows[i].name,
				       (unsigned long long)rows[i].copy, (unsigned long long)rows[i].old);
	return 0;
}

static int compare_words(const struct image *a, const struct image *b, struct err *err)
{
	const struct {
		const char *name, *old, *copy;
	} rows[] = {
		{ "kind", a->info.kind, b->info.kind },
		{ "id", a->info.id, b->info.id },
		{ "backing file", a->info.backing_name, b->info.backing_name },
		{ "format of the backing file", a->info.backing_format, b->info.backing_format },
		{ "id of the backing file", a->info.backing_id, b->info.backing_id },
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		if (strcmp(rows[i].old, rows[i].copy) != 0)
			return err_set(err, ERR_IO, "the %s of the new image is '%s', of the original '%s'", rows[i].name,
				       rows[i].copy, rows[i].old);
	return 0;
}

/* ---- what they hold ---- */

struct side {
	const char *name;
	struct image *img;
	struct extent ext;
	uint8_t *buf;
};

struct comparison {
	struct side old, copy;
	bool backed; /* a hole says something else than zeros */
	proof_check *check;
	void *check_ctx;
};

/* The extent at `at`, if it is not the one that is at hand. */
static int step(struct side *s, uint64_t at, struct err *err)
{
	if (s->ext.len && at - s->ext.offset < s->ext.len)
		return 0;
	return image_next_extent(s->img, at, &s->ext, err) < 0 ? err_add(err, "%s", s->name) : 0;
}

static bool is_zero(const struct side *s)
{
	return s->ext.kind == EXTENT_HOLE || s->ext.kind == EXTENT_ZERO;
}

static int compare_piece(struct comparison *c, uint64_t at, size_t len, struct err *err)
{
	struct side *sides[] = { &c->old, &c->copy };

	for (int i = 0; i < 2; i++)
		if (image_read_extent(&sides[i]->ext, at, sides[i]->buf, len, err) < 0)
			return err_add(err, "%s", sides[i]->name);
	if (memcmp(c->old.buf, c->copy.buf, len) != 0)
		return differ(at + first_difference(c->old.buf, c->copy.buf, len), err);
	return 0;
}

static int compare_stretch(struct comparison *c, uint64_t at, uint64_t len, struct err *err)
{
	size_t n;

	if (c->backed && (c->old.ext.kind == EXTENT_HOLE) != (c->copy.ext.kind == EXTENT_HOLE))
		return err_set(err, ERR_IO, "the backing file shows through at offset %llu in only one of new file and original",
			       (unsigned long long)at);
	if (is_zero(&c->old) && is_zero(&c->copy))
		return 0;
	for (; len; at += n, len -= n) {
		n = (size_t)min_u64(len, PIECE);
		if (compare_piece(c, at, n, err) < 0 || (c->check && c->check(c->check_ctx, at + n, c->old.img->span, err) < 0))
			return -1;
	}
	return 0;
}

static int walk(struct comparison *c, struct err *err)
{
	uint64_t len;

	for (uint64_t at = 0; at < c->old.img->span; at += len) {
		const struct extent *a = &c->old.ext, *b = &c->copy.ext;

		if (step(&c->old, at, err) < 0 || step(&c->copy, at, err) < 0)
			return -1;
		len = min_u64(a->offset + a->len, b->offset + b->len) - at;
		if (compare_stretch(c, at, len, err) < 0)
			return -1;
	}
	return 0;
}

int proof_compare(struct image *old, struct image *copy, proof_check *check, void *check_ctx, struct err *err)
{
	CLEANUP(free) uint8_t *buf = malloc(2 * PIECE);
	struct comparison c = {
		.old = { .name = "the original", .img = old },
		.copy = { .name = "the new file", .img = copy },
		.backed = old->info.backing_name[0] || old->info.backing_id[0],
		.check = check,
		.check_ctx = check_ctx,
	};

	if (!buf)
		return err_set(err, ERR_MEMORY, "no memory to compare images");
	c.old.buf = buf;
	c.copy.buf = buf + PIECE;
	if (compare_numbers(old, copy, err) < 0 || compare_words(old, copy, err) < 0)
		return -1;
	image_doubt_holes(old);
	image_doubt_holes(copy);
	return walk(&c, err);
}

/* ---- the process ---- */

static int compare_files(struct errand_side *s, const void *arg, proof_check *check, void *check_ctx, struct err *err)
{
	int fd = STEAL_FD(s->second_fd);
	CLEANUP(image_close) struct image *old = errand_open_image(s, err);
	CLEANUP(image_close) struct image *copy =
		image_open(fd, s->job.path, image_format_by_name(s->job.format), &s->opener, NULL, old ? err : NULL);

	(void)arg;
	if (!old)
		return err_add(err, "the original");
	return copy ? proof_compare(old, copy, check, check_ctx, err) : err_add(err, "the new file");
}

int proof_same_image(int old_fd, int new_fd, const char *path, const char *format, const struct roots *roots,
		     const struct jail *jail, proof_check *check, void *check_ctx, struct err *err)
{
	const struct pair p = {
		.format = format, .roots = roots, .jail = jail, .check = check, .check_ctx = check_ctx, .work = compare_files,
	};

	if (!image_format_by_name(format))
		return err_set(err, ERR_USAGE, "'%s' is no format of images", format);
	return pair_run(&p, old_fd, new_fd, path, err);
}
