/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/image/image_file.h"

#include <errno.h>
#include <limits.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "scanner/base/checked.h"
#include "scanner/base/file.h"

/* The files that an image lies in: its own, a stretch of a larger one, and the parts that it names. */

const char *const image_role_names[IMAGE_NR_ROLES] = {
	[IMAGE_BACKING] = "backing file", [IMAGE_DATA_FILE] = "external data file", [IMAGE_EXTENT] = "extent"
};

int image_file_size(int fd, uint64_t *ret, struct err *err)
{
	struct stat st;

	if (file_stat(fd, &st) < 0)
		return err_errno(err, "cannot stat the image");
	if (S_ISREG(st.st_mode))
		*ret = (uint64_t)st.st_size;
	else if (!S_ISBLK(st.st_mode))
		return err_set(err, ERR_UNSUPPORTED, "neither a regular file nor a block device");
	else if (ioctl(fd, BLKGETSIZE64, ret) < 0)
		return err_errno(err, "cannot get the size of the block device");
	return 0;
}

/* How many of len bytes at `offset` may be looked for. */
static size_t within_file(const struct image_file *f, size_t len, uint64_t offset)
{
	return f->inside ? (size_t)min_u64(len, f->size - min_u64(offset, f->size)) : len;
}

ssize_t image_file_read_some(const struct image_file *f, void *buf, size_t len, uint64_t offset, struct err *err)
{
	uint64_t at;

	if (__builtin_add_overflow(f->base, offset, &at) || at > INT64_MAX)
		return err_set(err, ERR_FORMAT, "offset %llu is past the largest file offset",
			       (unsigned long long)offset);
	return file_read_some(f->fd, buf, within_file(f, len, offset), at, err);
}

int image_file_read(const struct image_file *f, void *buf, size_t len, uint64_t offset, struct err *err)
{
	if (!range_within(offset, len, f->size))
		return err_set(err, ERR_FORMAT, "%zu bytes at offset %llu end past the end of the file", len,
			       (unsigned long long)offset);
	return file_read(f->fd, buf, len, f->base + offset, err);
}

int image_file_look(struct image_file *f, struct err *err)
{
	struct stat st;

	if (file_stat(f->fd, &st) < 0)
		return err_errno(err, "cannot stat the image");
	f->dev = st.st_dev;
	f->ino = st.st_ino;
	return image_file_size(f->fd, &f->size, err);
}

bool image_file_same(const struct image_file *a, const struct image_file *b)
{
	return a->dev == b->dev && a->ino == b->ino;
}

void image_part_free(struct image_file *f)
{
	if (!f)
		return;
	if (f->fd >= 0)
		close(f->fd);
	free(f->path);
	free(f);
}

/* Room for one more: the list doubles when it is full. */
static int grow_parts(struct image *img, struct err *err)
{
	size_t room = img->nr_parts ? 2 * (size_t)img->nr_parts : 1;
	void *grown;

	if (img->nr_parts & (img->nr_parts - 1))
		return 0;
	grown = realloc(img->parts, room * sizeof(*img->parts));
	if (!grown)
		return err_set(err, ERR_MEMORY, "no memory for the parts of an image");
	img->parts = grown;
	return 0;
}

static int check_part(const struct image *img, const struct image_file *f, struct err *err)
{
	return image_file_same(f, &img->file) ? err_set(err, ERR_FORMAT, "it is the image itself") : 0;
}

struct image_file *image_open_part(struct image *img, enum image_role role, const char *name,
				   const struct image_opener *opener, struct err *err)
{
	CLEANUP(image_part_free) struct image_file *f = calloc(1, sizeof(*f));
	char path[PATH_MAX] = "";

	if (!f || grow_parts(img, err) < 0)
		return err_null(err, ERR_MEMORY, "no memory for the parts of an image");
	f->fd = opener ? opener->open(opener->ctx, role, name, img->file.path, path, err)
		       : err_set(err, ERR_REFUSED, "names inside the image are not followed");
	if (f->fd < 0 || image_file_look(f, err) < 0 || check_part(img, f, err) < 0) {
		err_add(err, "%s '%s'", image_role_names[role], name);
		return NULL;
	}
	for (unsigned i = 0; i < img->nr_parts; i++)
		if (image_file_same(img->parts[i], f))
			return img->parts[i];
	f->path = strdup(path);
	if (!f->path)
		return err_null(err, ERR_MEMORY, "no memory for the parts of an image");
	return img->parts[img->nr_parts++] = STEAL(f);
}

static void note_solid(struct image *img, const struct image_file *f, uint64_t begin, uint64_t end)
{
	img->solid = f;
	img->solid_begin = begin;
	img->solid_end = end;
}

/* Whether there is a hole up to `end`, as the file system says. */
static bool is_hole(const struct image *img, const struct image_file *f, uint64_t at, uint64_t end)
{
	return !img->doubts_holes || file_is_unmapped(f->fd, f->base + at, f->base + end);
}

bool image_hole_at(struct image *img, const struct image_file *f, uint64_t at, uint64_t *end)
{
	off_t data, hole;

	if (img->solid != f || at < img->solid_begin || at >= img->solid_end) {
		data = lseek(f->fd, (off_t)(f->base + at), SEEK_DATA);
		if (data < 0 && errno != ENXIO)
			return false;
		if (data < 0 || (uint64_t)data > f->base + at) {
			*end = data < 0 ? *end : min_u64(*end, (uint64_t)data - f->base);
			if (is_hole(img, f, at, *end))
				return true;
			note_solid(img, f, at, *end);
			return false;
		}
		hole = lseek(f->fd, data, SEEK_HOLE);
		note_solid(img, f, at, hole > data ? (uint64_t)hole - f->base : UINT64_MAX);
	}
	*end = min_u64(*end, img->solid_end);
	return false;
}
