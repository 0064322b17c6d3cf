/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/image/image.h"

#include <errno.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "scanner/base/checked.h"
#include "scanner/base/file.h"

/* The common head of all formats: it probes, checks what callers ask and what formats answer, and makes the guest
 * view out of the stored views of a chain.
 *
 *	guest view	|   top   | base |zeros| top |  base   |
 *	top		|#########|      .     |#####|         .
 *	base		|##.......|######|           |#########|	(shorter than top: zeros after it)
 *
 * Each image keeps the extent it found last, so that small extents of a base do not make its overlays search again. */

extern const struct image_format image_format_qcow2, image_format_raw;

const struct image_format *const image_formats[] = { &image_format_qcow2, &image_format_raw, NULL };

/* What is recognised, so that it is not scanned as a raw disk, but not read. */
static const struct foreign {
	const char *name, *magic;
	size_t len;
	size_t offset; /* in the first bytes of the file, or in its last 512 */
	bool at_end;
} foreigns[] = {
	{ "qcow (version 1)", "QFI\xfb\0\0\0\1", 8, 0, false },
	{ "VMDK", "KDMV", 4, 0, false },
	{ "VMDK", "COWD", 4, 0, false },
	{ "VMDK descriptor", "# Disk DescriptorFile", 21, 0, false },
	{ "VHD", "conectix", 8, 0, false },
	{ "VHD", "conectix", 8, 0, true },
	{ "VHD", "conectix", 8, 1, true }, /* the 511-byte footer of Virtual PC before 2004 */
	{ "VHDX", "vhdxfile", 8, 0, false },
	{ "VDI", "\x7f\x10\xda\xbe", 4, 0x40, false },
	{ "QED", "QED\0", 4, 0, false },
	{ "Parallels", "WithoutFreeSpace", 16, 0, false },
	{ "Parallels", "WithouFreSpacExt", 16, 0, false },
	{ "Bochs", "Bochs Virtual HD Image", 22, 0, false },
	{ "cloop", "#!/bin/sh\n#V2.0 Format\n", 23, 0, false },
	{ "Apple disk image", "koly", 4, 0, true },
	{ "Expert Witness", "EVF\x09\x0d\x0a\xff\0", 8, 0, false },
};

const struct image_format *image_format_by_name(const char *name)
{
	for (size_t i = 0; image_formats[i]; i++)
		if (strcmp(image_formats[i]->name, name) == 0)
			return image_formats[i];
	return NULL;
}

int image_file_size(int fd, uint64_t *ret, struct err *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_errno(err, "cannot stat the image");
	if (S_ISREG(st.st_mode))
		*ret = (uint64_t)st.st_size;
	else if (!S_ISBLK(st.st_mode))
		return err_set(err, ERR_UNSUPPORTED, "neither a regular file nor a block device");
	else if (ioctl(fd, BLKGETSIZE64, ret) < 0)
		return err_errno(err, "cannot get the size of the block device");
	return 0;
}

static const char *foreign_name(const uint8_t *head, size_t len, const uint8_t *tail)
{
	for (size_t i = 0; i < ARRAY_SIZE(foreigns); i++) {
		const struct foreign *f = &foreigns[i];
		const uint8_t *p = f->at_end ? tail : head;
		size_t room = f->at_end ? 512 : len;

		if (p && range_within(f->offset, f->len, room) && memcmp(p + f->offset, f->magic, f->len) == 0)
			return f->name;
	}
	return NULL;
}

const struct image_format *image_probe(int fd, struct err *err)
{
	const struct image_format *best = NULL;
	uint8_t head[4096], end[512], *tail = NULL;
	uint64_t size;
	ssize_t len;
	int best_score = 0;

	if (image_file_size(fd, &size, err) < 0)
		return NULL;
	len = file_read_some(fd, head, sizeof(head), 0, err);
	if (len < 0)
		return NULL;
	if (size >= sizeof(end)) {
		if (file_read(fd, end, sizeof(end), size - sizeof(end), err) < 0)
			return NULL;
		tail = end;
	}
	for (size_t i = 0; image_formats[i]; i++) {
		int score = image_formats[i]->probe(head, (size_t)len, tail);

		if (score > best_score) {
			best_score = score;
			best = image_formats[i];
		}
	}
	if (best == &image_format_raw && foreign_name(head, (size_t)len, tail))
		return err_null(err, ERR_UNSUPPORTED, "%s images are not read", foreign_name(head, (size_t)len, tail));
	return best;
}

/* ---- opening ---- */

static int check_opened(const struct image *img, struct err *err)
{
	if (img->span >= IMAGE_SPAN_MAX || img->layer > IMAGE_SPAN_MAX)
		return err_set(err, ERR_UNSUPPORTED, "the disk and its snapshots span 4 PiB or more");
	if (img->layer < img->size || img->layer == 0 || img->layer % IMAGE_LAYER_UNIT != 0 || img->span < img->size)
		return err_set(err, ERR_FORMAT, "the %s reader gives an impossible size", img->format->name);
	return 0;
}

/* The format's part of opening; the descriptor stays the caller's. */
static struct image *open_with(int fd, const char *path, const struct image_format *format,
			       const struct image_opener *opener, struct err *err)
{
	struct image *img = format->open(fd, path, opener, err);

	if (!img)
		return NULL;
	img->format = format;
	img->fd = fd;
	img->path = strdup(path);
	if (img->path && check_opened(img, err) == 0)
		return img;
	if (!img->path)
		err_set(err, ERR_MEMORY, "no memory to open an image");
	free(img->path);
	format->close(img);
	return NULL;
}

struct image *image_open(int fd, const char *path, const struct image_format *format, const struct image_opener *opener,
			 struct err *err)
{
	CLEANUP(close_fd) int own = fd;
	struct image *img;
	uint64_t size;

	if (image_file_size(fd, &size, err) < 0)
		return NULL;
	if (!format)
		format = image_probe(fd, err);
	if (!format)
		return NULL;
	img = open_with(fd, path, format, opener, err);
	if (img)
		own = -1;
	return img;
}

static void close_one(struct image *img)
{
	int fd = img->fd;

	free(img->path);
	img->format->close(img);
	close(fd);
}

void image_close(struct image *img)
{
	while (img) {
		struct image *backing = img->backing;

		close_one(img);
		img = backing;
	}
}

static bool same_file(int a, int b)
{
	struct stat x, y;

	return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static int check_chain(const struct image *top, int fd, const char *path, struct err *err)
{
	unsigned nr = 1;

	for (const struct image *m = top; m; m = m->backing, nr++)
		if (same_file(m->fd, fd))
			return err_set(err, ERR_FORMAT, "the backing chain loops back to '%s'", path);
	if (nr > IMAGE_CHAIN_MAX)
		return err_set(err, ERR_UNSUPPORTED, "the backing chain has more than %d members", IMAGE_CHAIN_MAX);
	return 0;
}

/* The format that an image states for its backing file; *ret NULL = it states none.  Protocol names stand for raw. */
static int stated_format(const char *name, const struct image_format **ret, struct err *err)
{
	if (strcmp(name, "file") == 0 || strcmp(name, "host_device") == 0)
		name = "raw";
	*ret = image_format_by_name(name);
	if (*name && !*ret)
		return err_set(err, ERR_UNSUPPORTED, "format '%s' is not read", name);
	return 0;
}

static struct image *open_backing(const struct image *top, const struct image *img, const struct image_opener *opener,
				  struct err *err)
{
	const struct image_format *format;
	char path[PATH_MAX] = "";
	int fd;

	if (!opener)
		return err_null(err, ERR_REFUSED, "backing files are not followed");
	if (stated_format(img->info.backing_format, &format, err) < 0)
		return NULL;
	fd = opener->open(opener->ctx, IMAGE_BACKING, img->info.backing_name, img->path, path, err);
	if (fd < 0)
		return NULL;
	if (check_chain(top, fd, path, err) < 0) {
		close(fd);
		return NULL;
	}
	return image_open(fd, path, format, opener, err);
}

int image_open_chain(struct image *img, const struct image_opener *opener, struct err *err)
{
	for (struct image *m = img; m->info.backing_name[0]; m = m->backing) {
		if (!m->backing)
			m->backing = open_backing(img, m, opener, err);
		if (!m->backing) {
			err_add(err, "backing file '%s' of '%s'", m->info.backing_name, m->path);
			image_close(img->backing);
			img->backing = NULL;
			return -1;
		}
	}
	return 0;
}

/* ---- the stored view ---- */

static int check_extent(const struct image *img, uint64_t from, const struct extent *ext, struct err *err)
{
	uint64_t room = min_u64(img->span - from, img->layer - from % img->layer);
	bool data = ext->kind == EXTENT_DATA;

	if (ext->offset != from || ext->len == 0 || ext->len > min_u64(room, IMAGE_EXTENT_MAX))
		return err_set(err, ERR_FORMAT, "the %s reader gives an extent out of range", img->format->name);
	if (data && (ext->fd < 0 || !range_within(ext->file_offset, ext->len, INT64_MAX)))
		return err_set(err, ERR_FORMAT, "an extent lies past the largest file offset");
	if (ext->kind == EXTENT_PACKED && !img->format->read_packed)
		return err_set(err, ERR_FORMAT, "the %s reader cannot decode its own extent", img->format->name);
	return 0;
}

bool image_hole_at(struct image *img, int fd, uint64_t at, uint64_t *end)
{
	off_t data, hole;

	if (at < img->solid_begin || at >= img->solid_end) {
		data = lseek(fd, (off_t)at, SEEK_DATA);
		if (data < 0)
			return errno == ENXIO;
		if ((uint64_t)data > at) {
			*end = min_u64(*end, (uint64_t)data);
			return true;
		}
		hole = lseek(fd, data, SEEK_HOLE);
		img->solid_begin = at;
		img->solid_end = hole > data ? (uint64_t)hole : UINT64_MAX;
	}
	*end = min_u64(*end, img->solid_end);
	return false;
}

/* Long data extents are asked of the file system: preallocated images are mostly holes, which read as zeros fast
 * when they need not be read.  Only whole units count, so that a scan meets no odd boundaries. */
#define HOLE_UNIT ((uint64_t)64 << 10)
#define HOLE_WORTH ((uint64_t)1 << 20)

static void trim_to_holes(struct image *img, struct extent *ext)
{
	uint64_t at = ext->file_offset, end = at + ext->len;
	bool hole = image_hole_at(img, ext->fd, at, &end);
	uint64_t len = end - at;

	if (hole && len < HOLE_UNIT)
		return;
	if (!hole) {
		ext->len = min_u64(ext->len, round_up(len, HOLE_UNIT));
		return;
	}
	if (len < ext->len)
		len = round_down(len, HOLE_UNIT);
	*ext = (struct extent){
		.offset = ext->offset, .len = len, .kind = EXTENT_ZERO, .fd = -1, .preallocated = true
	};
}

/* Shortens an extent to begin at `from`, which lies in it, and to at most max bytes. */
static void trim_extent(struct extent *ext, uint64_t from, uint64_t max)
{
	uint64_t skip = from - ext->offset;

	ext->offset = from;
	ext->len = min_u64(ext->len - skip, max);
	if (ext->kind == EXTENT_DATA)
		ext->file_offset += skip;
}

int image_next_extent(struct image *img, uint64_t from, struct extent *ret, struct err *err)
{
	struct extent ext = { .fd = -1 };

	if (from >= img->span)
		return err_set(err, ERR_USAGE, "offset %llu is past the end of the image", (unsigned long long)from);
	if (from < img->last.offset || from - img->last.offset >= img->last.len) {
		if (img->format->next_extent(img, from, &ext, err) < 0 || check_extent(img, from, &ext, err) < 0)
			return -1;
		if (ext.kind == EXTENT_DATA && ext.len >= HOLE_WORTH && img->format != &image_format_raw)
			trim_to_holes(img, &ext);
		ext.owner = img;
		img->last = ext;
	}
	*ret = img->last;
	trim_extent(ret, from, IMAGE_EXTENT_MAX);
	return 0;
}

/* After a read that met the end of the file: fine where the file always ended there, not where it shrank. */
static int check_not_cut(const struct extent *ext, uint64_t end, struct err *err)
{
	const struct image_info *info = &ext->owner->info;
	uint64_t size = ext->fd == ext->owner->fd ? info->file_size : info->data_file_size;

	if (end < size)
		return err_set(err, ERR_STALE, "the file was cut to %llu bytes while it was read",
			       (unsigned long long)end);
	return 0;
}

static int read_data(const struct extent *ext, uint64_t offset, void *buf, size_t len, struct err *err)
{
	uint64_t at = ext->file_offset + (offset - ext->offset);
	ssize_t n = file_read_some(ext->fd, buf, len, at, err);

	if (n < 0)
		return -1;
	if ((size_t)n == len)
		return 0;
	memset((uint8_t *)buf + n, 0, len - (size_t)n);
	return check_not_cut(ext, at + (uint64_t)n, err);
}

int image_read_extent(const struct extent *ext, uint64_t offset, void *buf, size_t len, struct err *err)
{
	if (offset < ext->offset || !range_within(offset - ext->offset, len, ext->len))
		return err_set(err, ERR_USAGE, "a read of %zu bytes at offset %llu leaves its extent", len,
			       (unsigned long long)offset);
	if (ext->kind == EXTENT_DATA)
		return read_data(ext, offset, buf, len, err);
	if (ext->kind == EXTENT_PACKED)
		return ext->owner->format->read_packed((struct image *)(uintptr_t)ext->owner, offset, buf, len, err);
	memset(buf, 0, len);
	return 0;
}

/* ---- the guest view ---- */

/* One step: what `m` has at `from`, as zeros where it is too short. */
static int member_extent(struct image *m, uint64_t from, uint64_t max, struct extent *ret, struct err *err)
{
	if (from >= m->size) {
		*ret = (struct extent){ .offset = from, .len = max, .kind = EXTENT_HOLE, .owner = m, .fd = -1 };
		return 0;
	}
	if (m->info.encrypted)
		return err_set(err, ERR_UNSUPPORTED, "'%s' is encrypted: only its stored bytes can be read", m->path);
	if (image_next_extent(m, from, ret, err) < 0)
		return err_add(err, "'%s'", m->path);
	trim_extent(ret, from, min_u64(max, m->size - from));
	return 0;
}

int image_next_guest_extent(struct image *img, uint64_t from, struct extent *ret, struct err *err)
{
	struct extent ext;
	uint64_t max;

	if (from >= img->size)
		return err_set(err, ERR_USAGE, "offset %llu is past the end of the disk", (unsigned long long)from);
	max = min_u64(img->size - from, IMAGE_EXTENT_MAX);
	for (struct image *m = img; m; m = m->backing) {
		if (m->info.backing_name[0] && !m->backing)
			return err_set(err, ERR_USAGE, "the backing chain of '%s' is not open", m->path);
		if (member_extent(m, from, max, &ext, err) < 0)
			return -1;
		max = ext.len;
		if (ext.kind != EXTENT_HOLE || from >= m->size)
			break;
	}
	*ret = ext;
	return 0;
}

int image_read_guest(struct image *img, uint64_t offset, void *buf, size_t len, struct err *err)
{
	uint8_t *p = buf;
	struct extent ext;

	if (!range_within(offset, len, img->size))
		return err_set(err, ERR_USAGE, "a read of %zu bytes at offset %llu is past the end of the disk", len,
			       (unsigned long long)offset);
	for (size_t n; len; p += n, offset += n, len -= n) {
		if (image_next_guest_extent(img, offset, &ext, err) < 0)
			return -1;
		n = (size_t)min_u64(len, ext.len);
		if (image_read_extent(&ext, offset, p, n, err) < 0)
			return -1;
	}
	return 0;
}
