/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/image/image_file.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "scanner/base/checked.h"
#include "scanner/image/slice.h"

/* The common head of all formats: it opens, checks what callers ask and what formats answer, and makes the guest
 * view out of the stored views of a chain.
 *
 *	guest view	|   top   | base |zeros| top |  base   |
 *	top		|#########|      .     |#####|         .
 *	base		|##.......|######|           |#########|	(shorter than top: zeros after it)
 *
 * Each image keeps the extent it found last, so that small extents of a base do not make its overlays search again. */

/* ---- opening ---- */

static int check_opened(const struct image *img, struct err *err)
{
	if (img->span >= IMAGE_SPAN_MAX || img->layer > IMAGE_SPAN_MAX)
		return err_set(err, ERR_UNSUPPORTED, "the disk and its snapshots span 4 PiB or more");
	if (img->layer < img->size || img->layer == 0 || img->layer % IMAGE_LAYER_UNIT != 0 || img->span < img->size)
		return err_set(err, ERR_FORMAT, "the %s reader gives an impossible size", img->format->name);
	return 0;
}

static void image_free(struct image *img)
{
	if (!img)
		return;
	if (img->format->release)
		img->format->release(img);
	for (unsigned i = 0; i < img->nr_parts; i++)
		image_part_free(img->parts[i]);
	free(img->parts);
	if (img->file.fd >= 0)
		close(img->file.fd);
	free(img->file.path);
	free(img);
}
CLEANUP_DEFINE(struct image *, image_free)

void image_close(struct image *img)
{
	while (img) {
		struct image *backing = img->backing;

		image_free(img);
		img = backing;
	}
}

/* Opens what lies in *file, whose descriptor and path it takes over, on failure too. */
static struct image *open_file(struct image_file *file, const struct image_format *format,
			       const struct image_opener *opener, struct err *err)
{
	CLEANUP(image_free) struct image *img = calloc(1, format->instance);

	if (!img) {
		close(file->fd);
		free(file->path);
		return err_null(err, ERR_MEMORY, "no memory to open an image");
	}
	img->format = format;
	img->file = *file;
	if (format->open(img, opener, err) < 0 || check_opened(img, err) < 0)
		return NULL;
	return STEAL(img);
}

static struct image *choose_and_open(struct image_file *file, const struct image_format *format,
				     const struct image_opener *opener, struct image_choice *ret_choice,
				     struct err *err)
{
	struct image_choice choice = { .format = format, .certainty = IMAGE_TOLD };
	struct image *img;

	if (!file->path)
		err_set(err, ERR_MEMORY, "no memory to open an image");
	if (!file->path || (!format && image_choose(file, &choice, err) < 0)) {
		close(file->fd);
		free(file->path);
		return NULL;
	}
	img = open_file(file, choice.format, opener, err);
	if (img && ret_choice)
		*ret_choice = choice;
	return img;
}

struct image *image_open(int fd, const char *path, const struct image_format *format, const struct image_opener *opener,
			 struct image_choice *ret_choice, struct err *err)
{
	struct image_file file = { .fd = fd };

	if (image_file_look(&file, err) < 0) {
		close(fd);
		return NULL;
	}
	file.path = strdup(path);
	return choose_and_open(&file, format, opener, ret_choice, err);
}

int image_show_snapshot(struct image *img, unsigned nr, struct image_snapshot *ret, struct err *err)
{
	if (!img->format->show_snapshot || nr == 0 || nr > img->info.nr_snapshots)
		return err_set(err, ERR_USAGE, "it has no internal snapshot %u", nr);
	if (img->format->show_snapshot(img, nr, ret, err) < 0 || check_opened(img, err) < 0)
		return -1;
	img->last = (struct extent){ 0 };
	return 0;
}

struct image *image_open_inside(const struct image *img, const char *name, uint64_t base, uint64_t size,
				struct err *err)
{
	struct image_file file = img->file;
	struct image *inner;

	if (!range_within(base, size, img->file.size))
		return err_null(err, ERR_FORMAT, "'%s' ends past the end of the file", name);
	file.fd = fcntl(img->file.fd, F_DUPFD_CLOEXEC, 0);
	if (file.fd < 0) {
		err_errno(err, "cannot open '%s' again", img->file.path);
		return NULL;
	}
	file.inside = true;
	file.base += base;
	file.size = size;
	file.path = strdup(name);
	inner = choose_and_open(&file, NULL, NULL, NULL, err);
	if (!inner)
		err_add(err, "'%s'", name);
	return inner;
}

static int check_chain(const struct image *top, int fd, const char *path, struct err *err)
{
	struct image_file file = { .fd = fd };
	unsigned nr = 1;

	if (image_file_look(&file, err) < 0)
		return -1;
	for (const struct image *m = top; m; m = m->backing, nr++)
		if (image_file_same(&m->file, &file))
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

/* A parent that changed, or another file of that name, would show through as wrong data. */
static struct image *check_identity(const struct image *img, struct image *backing, struct err *err)
{
	if (!backing || !img->info.backing_id[0] || strcmp(img->info.backing_id, backing->info.id) == 0)
		return backing;
	err_set(err, ERR_STALE, "the image was made on %s, but this is %s: it was changed or replaced since",
		img->info.backing_id, backing->info.id[0] ? backing->info.id : "something without such a mark");
	image_close(backing);
	return NULL;
}

/* Some images know no more of their backing file than which it is: VDI, and what lies in an archive. */
static bool has_backing(const struct image *img)
{
	return img->info.backing_name[0] || img->info.backing_id[0];
}

/* Slices are in whole sectors, files need not be: QEMU has the rest of the last one as zeros. */
static int look_at_slice(struct image_file *file, const struct slice *s, const char *path, struct err *err)
{
	if (image_file_look(file, err) < 0)
		return -1;
	if (!range_within(s->offset, s->size, round_up(file->size, 512)))
		return err_set(err, ERR_FORMAT, "the slice of %llu bytes at offset %llu ends past the end of '%s'",
			       (unsigned long long)s->size, (unsigned long long)s->offset, path);
	file->inside = true;
	file->base = s->offset;
	if (s->size)
		file->size = s->offset > file->size ? 0 : min_u64(s->size, file->size - s->offset);
	return 0;
}

/* The image in a slice of a file; takes over fd.  Such images name no parts. */
static struct image *open_slice(int fd, const char *path, const struct slice *s, struct err *err)
{
	struct image_file file = { .fd = fd };

	if (look_at_slice(&file, s, path, err) < 0) {
		close(fd);
		return NULL;
	}
	file.path = strdup(path);
	return choose_and_open(&file, image_format_by_name("qcow2"), NULL, NULL, err);
}

static struct image *open_backing(const struct image *top, const struct image *img, const struct image_opener *opener,
				  struct err *err)
{
	const struct image_format *format;
	char path[PATH_MAX] = "";
	struct slice slice;
	bool sliced;
	int fd;

	if (!img->info.backing_name[0])
		return err_null(err, ERR_UNSUPPORTED, "the image does not say where that is");
	if (!opener)
		return err_null(err, ERR_REFUSED, "backing files are not followed");
	if (stated_format(img->info.backing_format, &format, err) < 0)
		return NULL;
	sliced = slice_parse(img->info.backing_name, &slice);
	if (sliced && format && format != image_format_by_name("qcow2"))
		return err_null(err, ERR_UNSUPPORTED, "a slice of a file is only read as qcow2");
	fd = opener->open(opener->ctx, IMAGE_BACKING, img->info.backing_name, img->file.path, path, err);
	if (fd < 0)
		return NULL;
	if (check_chain(top, fd, path, err) < 0) {
		close(fd);
		return NULL;
	}
	return check_identity(img, sliced ? open_slice(fd, path, &slice, err) : image_open(fd, path, format, opener, NULL, err),
			      err);
}

int image_open_chain(struct image *img, const struct image_opener *opener, struct err *err)
{
	for (struct image *m = img; has_backing(m); m = m->backing) {
		if (!m->backing)
			m->backing = open_backing(img, m, opener, err);
		if (!m->backing) {
			err_add(err, "backing file '%s' of '%s'",
				m->info.backing_name[0] ? m->info.backing_name : m->info.backing_id, m->file.path);
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
	if (data && (!ext->file || !range_within(ext->file_offset, ext->len, (uint64_t)INT64_MAX - ext->file->base)))
		return err_set(err, ERR_FORMAT, "an extent lies past the largest file offset");
	if (ext->kind == EXTENT_PACKED && !img->format->read_packed)
		return err_set(err, ERR_FORMAT, "the %s reader cannot decode its own extent", img->format->name);
	return 0;
}

static uint64_t bytes_held(const struct image *img)
{
	uint64_t held = img->file.size;

	for (unsigned i = 0; i < img->nr_parts; i++)
		if (__builtin_add_overflow(held, img->parts[i]->size, &held))
			return UINT64_MAX;
	return held;
}

static bool out_of_proportion(uint64_t work, uint64_t spare, uint64_t times, uint64_t held)
{
	return work > spare && (work - spare) / times > held;
}

/* Counts what a walk meets for the first time. */
static int count_work(struct image *img, const struct extent *ext, struct err *err)
{
	struct image_work *w = &img->work;
	uint64_t held, bytes;

	if (ext->offset < w->walked)
		return 0;
	w->walked = ext->offset + ext->len;
	w->nr_extents++;
	w->data += ext->kind == EXTENT_DATA ? ext->len : 0;
	w->packed += ext->kind == EXTENT_PACKED ? ext->len : 0;
	if (w->nr_extents <= IMAGE_EXTENTS_SPARE && w->data <= IMAGE_DATA_SPARE && w->packed <= IMAGE_PACKED_SPARE)
		return 0;
	held = bytes_held(img);
	bytes = w->data + w->packed;
	if (out_of_proportion(w->data, IMAGE_DATA_SPARE, IMAGE_DATA_TIMES, held) ||
	    out_of_proportion(w->packed, IMAGE_PACKED_SPARE, IMAGE_PACKED_TIMES, held))
		return err_set(err, ERR_REFUSED,
			       "its tables make %llu MiB of a file of %llu KiB: the same data many times over",
			       (unsigned long long)(bytes >> 20), (unsigned long long)(held >> 10));
	if (out_of_proportion(w->nr_extents, IMAGE_EXTENTS_SPARE, IMAGE_EXTENTS_TIMES, held))
		return err_set(err, ERR_REFUSED,
			       "its tables make %llu extents of a file of %llu KiB: the same table many times over",
			       (unsigned long long)w->nr_extents, (unsigned long long)(held >> 10));
	return 0;
}

/* Long data extents are asked of the file system: preallocated images are mostly holes, which read as zeros fast
 * when they need not be read.  Only whole units count, so that a scan meets no odd boundaries. */
#define HOLE_UNIT ((uint64_t)64 << 10)
#define HOLE_WORTH ((uint64_t)1 << 20)

static void trim_to_holes(struct image *img, struct extent *ext)
{
	uint64_t begin = ext->file_offset, stop = begin + ext->len, at = begin, end = stop;

	while (at < stop && (!image_hole_at(img, ext->file, at, &end) || end - at < HOLE_UNIT)) {
		at = end; /* data, or a hole not worth an extent */
		end = stop;
	}
	if (at > begin) {
		ext->len = min_u64(ext->len, round_up(at - begin, HOLE_UNIT));
		return;
	}
	*ext = (struct extent){ .offset = ext->offset,
				.len = end < stop ? round_down(end - begin, HOLE_UNIT) : ext->len,
				.kind = EXTENT_ZERO,
				.preallocated = true };
}

void image_extent_init(struct extent *ret, enum extent_kind kind, uint64_t offset, uint64_t len)
{
	*ret = (struct extent){ .kind = kind, .offset = offset, .len = len };
}

static bool continues(const struct extent *a, const struct extent *b)
{
	if (a->kind != b->kind || a->preallocated != b->preallocated)
		return false;
	return a->kind != EXTENT_DATA || (a->file == b->file && a->file_offset + a->len == b->file_offset);
}

/* What breaks while looking ahead is left for the next call to report. */
int image_merge_extents(struct image *img, uint64_t from,
			int (*extent_at)(struct image *img, uint64_t addr, struct extent *ret, struct err *err),
			unsigned *work, unsigned work_max, struct extent *ret, struct err *err)
{
	uint64_t max = min_u64(min_u64(img->span - from, img->layer - from % img->layer), IMAGE_EXTENT_MAX);
	struct extent ext, more;

	if (work)
		*work = 0;
	if (extent_at(img, from, &ext, err) < 0)
		return -1;
	while (ext.len < max && (!work || *work < work_max)) {
		if (extent_at(img, from + ext.len, &more, NULL) < 0 || !continues(&ext, &more))
			break;
		ext.len += more.len;
	}
	ext.len = min_u64(ext.len, max);
	*ret = ext;
	return 0;
}

void image_info_add(struct image_info *info, bool there, const char *words)
{
	char *p = info->features;
	size_t used = strlen(p), room = sizeof(info->features);

	if (!there || (used >= 3 && strcmp(p + used - 3, "...") == 0))
		return;
	if (used + strlen(words) + strlen(", , ...") >= room)
		words = "...";
	snprintf(p + used, room - used, "%s%s", used ? ", " : "", words);
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
	struct extent ext = { 0 };

	if (from >= img->span)
		return err_set(err, ERR_USAGE, "offset %llu is past the end of the image", (unsigned long long)from);
	if (from < img->last.offset || from - img->last.offset >= img->last.len) {
		if (img->format->next_extent(img, from, &ext, err) < 0 || check_extent(img, from, &ext, err) < 0 ||
		    count_work(img, &ext, err) < 0)
			return -1;
		if (ext.kind == EXTENT_DATA && ext.len >= HOLE_WORTH)
			trim_to_holes(img, &ext);
		if (ext.kind == EXTENT_DATA)
			ext.file_offset += ext.file->base;
		ext.owner = img;
		img->last = ext;
	}
	*ret = img->last;
	trim_extent(ret, from, IMAGE_EXTENT_MAX);
	return 0;
}

static int read_data(const struct extent *ext, uint64_t offset, void *buf, size_t len, struct err *err)
{
	const struct image_file *f = ext->file;
	uint64_t at = ext->file_offset + (offset - ext->offset) - f->base;
	ssize_t n = image_file_read_some(f, buf, len, at, err);

	if (n < 0)
		return -1;
	if ((size_t)n == len)
		return 0;
	if (at + (uint64_t)n < f->size) /* fine where the file always ended there, not where it shrank */
		return err_set(err, ERR_STALE, "the file was cut to %llu bytes while it was read",
			       (unsigned long long)(f->base + at + (uint64_t)n));
	memset((uint8_t *)buf + n, 0, len - (size_t)n);
	return 0;
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
		*ret = (struct extent){ .offset = from, .len = max, .kind = EXTENT_HOLE, .owner = m };
		return 0;
	}
	if (m->info.encrypted)
		return err_set(err, ERR_UNSUPPORTED, "'%s' is encrypted: only its stored bytes can be read",
			       m->file.path);
	if (image_next_extent(m, from, ret, err) < 0)
		return err_add(err, "'%s'", m->file.path);
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
		if (has_backing(m) && !m->backing)
			return err_set(err, ERR_USAGE, "the backing chain of '%s' is not open", m->file.path);
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
