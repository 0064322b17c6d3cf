/* SPDX-License-Identifier: Apache-2.0 */
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/image/image.h"

/* Which format is it?  Three things speak: the file's name, its header, and what only its end says.
 *
 * A guest owns every byte of a raw disk, so it can write any header into sector 0 and any footer into the last one; and
 * in any format its data may come to lie at the end of the file.  So the end alone counts only for a file that is also
 * named that way, and a file that is named as raw is raw.  What a guest gains by the rest is nothing: whatever the
 * format, names inside an image are opened beneath the roots only, and nothing is rewritten on a guess. */

extern const struct image_format image_format_ova, image_format_qcow2, image_format_raw, image_format_vhd,
	image_format_vdi, image_format_vhdx, image_format_vmdk;

const struct image_format *const image_formats[] = { &image_format_qcow2, &image_format_ova,
						     &image_format_vdi,	  &image_format_vhd,
						     &image_format_vhdx,  &image_format_vmdk,
						     &image_format_raw,	  NULL };

/* What is recognised, so that it is not scanned as a raw disk, but not read. */
static const struct foreign {
	const char *name, *magic;
	size_t len;
	const char *extension; /* NULL: the magic is at the beginning; else at the end, of files named so */
} foreigns[] = {
	{ "qcow (version 1)", "QFI\xfb\0\0\0\1", 8, NULL }, { "QED", "QED\0", 4, NULL },
	{ "Parallels", "WithoutFreeSpace", 16, NULL },	    { "Parallels", "WithouFreSpacExt", 16, NULL },
	{ "Bochs", "Bochs Virtual HD Image", 22, NULL },    { "cloop", "#!/bin/sh\n#V2.0 Format\n", 23, NULL },
	{ "Apple disk image", "koly", 4, "dmg" },	    { "Expert Witness", "EVF\x09\x0d\x0a\xff\0", 8, NULL },
};

const struct image_format *image_format_by_name(const char *name)
{
	for (size_t i = 0; image_formats[i]; i++) {
		const struct image_format *f = image_formats[i];

		if (strcmp(f->name, name) == 0 || (f->alias && strcmp(f->alias, name) == 0))
			return f;
	}
	return NULL;
}

static bool has_extension(const char *path, const char *extension)
{
	const char *dot = strrchr(path, '.');

	return dot && strcasecmp(dot + 1, extension) == 0;
}

static bool named_as(const struct image_format *f, const char *path)
{
	for (size_t i = 0; f->extensions && f->extensions[i]; i++)
		if (has_extension(path, f->extensions[i]))
			return true;
	return false;
}

static const struct image_format *by_extension(const char *path)
{
	for (size_t i = 0; image_formats[i]; i++)
		if (named_as(image_formats[i], path))
			return image_formats[i];
	return NULL;
}

static const struct image_format *part_of(const char *path)
{
	for (size_t i = 0; image_formats[i]; i++) {
		const char *const *patterns = image_formats[i]->part_names;

		for (size_t k = 0; patterns && patterns[k]; k++)
			if (fnmatch(patterns[k], file_last_part(path), FNM_CASEFOLD) == 0)
				return image_formats[i];
	}
	return NULL;
}

static const char *foreign_name(const struct image_look *look, const char *path)
{
	for (size_t i = 0; i < ARRAY_SIZE(foreigns); i++) {
		const struct foreign *f = &foreigns[i];
		const uint8_t *p = f->extension ? look->tail : look->head;
		size_t room = f->extension ? 512 : look->len;

		if (f->extension && !has_extension(path, f->extension))
			continue;
		if (p && f->len <= room && memcmp(p, f->magic, f->len) == 0)
			return f->name;
	}
	return NULL;
}

static int look_at(const struct image_file *f, uint8_t head[IMAGE_HEAD], uint8_t tail[512], struct image_look *ret,
		   struct err *err)
{
	ssize_t len = image_file_read_some(f, head, IMAGE_HEAD, 0, err);

	if (len < 0)
		return -1;
	*ret = (struct image_look){ .head = head, .len = (size_t)len, .size = f->size };
	if (f->size < 512)
		return 0;
	ret->tail = tail;
	return image_file_read(f, tail, 512, f->size - 512, err);
}

struct claims {
	const struct image_format *header[2]; /* whose header it has */
	unsigned nr_headers;
	const struct image_format *tail; /* whose end it has */
};

static struct claims collect_claims(const struct image_look *look)
{
	struct claims c = { .nr_headers = 0 };

	for (size_t i = 0; image_formats[i]; i++) {
		enum image_claim claim = image_formats[i]->probe(look);

		if (claim == IMAGE_HEADER && c.nr_headers < 2)
			c.header[c.nr_headers++] = image_formats[i];
		if (claim == IMAGE_TAIL)
			c.tail = image_formats[i];
	}
	return c;
}

/* A file that is named as a raw disk: what else it looks like is the guest's doing, or the name is wrong. */
static int choose_raw(const struct claims *c, const char *foreign, struct image_choice *ret)
{
	const char *looks = c->nr_headers ? c->header[0]->name : c->tail ? c->tail->name : foreign;

	*ret = (struct image_choice){ .format = &image_format_raw, .certainty = looks ? IMAGE_GUESSED : IMAGE_AGREED };
	if (looks)
		snprintf(ret->doubt, sizeof(ret->doubt),
			 "it is named as a raw disk, but begins or ends as %s: read as raw; --format tells otherwise",
			 looks);
	return 0;
}

static int choose_by_header(const struct claims *c, const struct image_format *named, struct image_choice *ret)
{
	*ret = (struct image_choice){ .format = c->header[0],
				      .certainty = named == c->header[0] ? IMAGE_AGREED : IMAGE_GUESSED };
	if (named && named != c->header[0])
		snprintf(ret->doubt, sizeof(ret->doubt), "it is named as %s, but is %s", named->name,
			 c->header[0]->name);
	return 0;
}

static int ambiguous(const struct image_format *a, const struct image_format *b, struct err *err)
{
	return err_set(err, ERR_AMBIGUOUS, "it can be taken for %s and for %s; --format tells which it is", a->name,
		       b->name);
}

/* At most the end or the name says something. */
static int choose_without_header(const struct claims *c, const struct image_format *named, struct image_choice *ret)
{
	if (c->tail && named == c->tail) {
		*ret = (struct image_choice){ .format = named, .certainty = IMAGE_AGREED };
		return 0;
	}
	*ret = (struct image_choice){ .format = &image_format_raw };
	if (c->tail)
		snprintf(ret->doubt, sizeof(ret->doubt),
			 "it ends as %s, but is not named so: read as raw; --format tells otherwise", c->tail->name);
	else if (named)
		snprintf(ret->doubt, sizeof(ret->doubt),
			 "it is named as %s, but nothing in it is: read as raw; --format tells otherwise", named->name);
	return 0;
}

static int choose(const struct image_look *look, const char *path, struct image_choice *ret, struct err *err)
{
	const struct image_format *named = by_extension(path), *whole = part_of(path);
	const char *foreign = foreign_name(look, path);
	struct claims c = collect_claims(look);

	if (named == &image_format_raw)
		return choose_raw(&c, foreign, ret);
	if (whole) /* what is in a flat extent is the guest's, from its first sector on */
		return err_set(err, ERR_PART, "its name says that it is a part of a %s image; --format raw reads it",
			       whole->name);
	if (c.nr_headers > 1)
		return ambiguous(c.header[0], c.header[1], err);
	if (c.nr_headers && c.tail && named != c.header[0])
		return ambiguous(c.header[0], c.tail, err);
	if (c.nr_headers)
		return choose_by_header(&c, named, ret);
	if (foreign)
		return err_set(err, ERR_UNSUPPORTED, "%s images are not read", foreign);
	return choose_without_header(&c, named, ret);
}

int image_choose(const struct image_file *f, struct image_choice *ret, struct err *err)
{
	uint8_t head[IMAGE_HEAD], tail[512];
	struct image_look look;

	if (look_at(f, head, tail, &look, err) < 0)
		return -1;
	return choose(&look, f->path, ret, err);
}
