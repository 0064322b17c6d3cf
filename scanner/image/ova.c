/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "scanner/base/checked.h"
#include "scanner/base/vec.h"
#include "scanner/image/image.h"
#include "scanner/image/ovf.h"
#include "scanner/image/tar_format.h"

/* The OVA reader: a tar archive with an OVF descriptor (DMTF DSP0243) and disk images, read in place.
 *
 *	file		| a.ovf | a.mf | disk1.vmdk | disk2.qcow2 |
 *	stored view	| layer 0: disk1 | layer 1: disk2 | layer 2: snapshot in disk2 | ...
 *
 * The disks are those that the descriptor lists, in its order, and after them every other member that has the header of
 * an image: who packs an archive may forget to list one, and its bytes are there all the same.  A disk that the
 * descriptor lists must be there, once.
 *
 * Only one of the disks is open at a time, for each takes memory and there may be many.  Extents lead to a file that
 * the archive owns, so they outlive the disk that told them.
 *
 * Left out on purpose: the checksums of the manifest are not compared. */

#define MEMBERS_MAX 4096
#define DISKS_MAX OVF_DISKS_MAX

struct member {
	char *name;
	uint64_t offset, size;
	bool is_disk;
};

struct disk {
	struct image_file file; /* its bytes; fd is the archive's, the path its own */
	uint64_t size, span, layer;
	uint64_t first_layer, nr_layers; /* of the archive's stored view */
};

struct contents {
	VEC(struct member) members; /* regular files */
	const struct member *descriptor;
	bool manifest;
	char *text;
	struct ovf ovf;
};

struct ova {
	struct image img;
	VEC(struct disk) disks;
	struct image *open; /* the disk that is open ... */
	size_t open_index;  /* ... is this one */
};

static struct ova *ova_of(struct image *img)
{
	return (struct ova *)img;
}

static void contents_release(struct contents *c)
{
	for (size_t i = 0; i < c->members.nr; i++)
		free(c->members.items[i].name);
	vec_release(&c->members);
	free(c->text);
	ovf_release(&c->ovf);
}
CLEANUP_DEFINE_RELEASE(struct contents, contents_release)

/* ---- members ---- */

static bool ends_in(const char *name, const char *end)
{
	size_t len = strlen(name), n = strlen(end);

	return len > n && strcasecmp(name + len - n, end) == 0;
}

static const char *plain_name(const char *name)
{
	while (strncmp(name, "./", 2) == 0)
		name += 2;
	return name;
}

static int take_member(struct contents *c, const struct tar_member *t, struct err *err)
{
	struct member m = { .name = strdup(plain_name(t->name)), .offset = t->offset, .size = t->size };

	if (!m.name || vec_push(&c->members, m) < 0) {
		free(m.name);
		return err_set(err, ERR_MEMORY, "no memory for the members of the archive");
	}
	if (c->members.nr > MEMBERS_MAX)
		return err_set(err, ERR_UNSUPPORTED, "the archive has more than %d members", MEMBERS_MAX);
	c->manifest |= ends_in(m.name, ".mf");
	return 0;
}

static int read_members(const struct image *img, struct contents *c, struct err *err)
{
	struct tar_walk w = { .file = &img->file, .size = img->file.size };
	struct tar_member t;
	int more;

	while ((more = tar_next(&w, &t, err)) > 0)
		if (t.regular && take_member(c, &t, err) < 0)
			return -1;
	for (size_t i = 0; i < c->members.nr && !c->descriptor; i++)
		if (ends_in(c->members.items[i].name, ".ovf"))
			c->descriptor = &c->members.items[i];
	if (more == 0 && !c->descriptor)
		return err_set(err, ERR_FORMAT, "the archive has no OVF descriptor");
	return more;
}

static int read_descriptor(const struct image *img, struct contents *c, struct err *err)
{
	const struct member *d = c->descriptor;

	if (d->size > OVF_SIZE_MAX)
		return err_set(err, ERR_UNSUPPORTED, "descriptor '%s' of %llu bytes is too large", d->name,
			       (unsigned long long)d->size);
	c->text = calloc(1, d->size + 1);
	if (!c->text)
		return err_set(err, ERR_MEMORY, "no memory for the OVF descriptor");
	if (image_file_read(&img->file, c->text, d->size, d->offset, err) < 0 ||
	    ovf_parse(c->text, d->size, &c->ovf, err) < 0)
		return err_add(err, "descriptor '%s'", d->name);
	return 0;
}

/* Names in the descriptor are relative to where it is.  0 = there is none of that name, or one. */
static int find_member(struct contents *c, const char *name, struct member **ret, struct err *err)
{
	const char *slash = strrchr(c->descriptor->name, '/');
	size_t folder = slash ? (size_t)(slash + 1 - c->descriptor->name) : 0;

	*ret = NULL;
	for (size_t i = 0; i < c->members.nr; i++) {
		struct member *m = &c->members.items[i];

		if (strncmp(m->name, c->descriptor->name, folder) != 0 ||
		    strcmp(m->name + folder, plain_name(name)) != 0)
			continue;
		if (*ret)
			return err_set(err, ERR_FORMAT, "the archive has two members '%s'", m->name);
		*ret = m;
	}
	return 0;
}

static int hex(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
}

/* A name in a descriptor is a URI: "%20" is a blank.  Not all programs know. */
static bool decode_percents(const char *name, char ret[IMAGE_NAME_MAX])
{
	size_t len = 0;

	for (; *name && len < IMAGE_NAME_MAX - 1; len++, name++) {
		bool coded = name[0] == '%' && hex(name[1]) >= 0 && hex(name[2]) >= 0;

		ret[len] = coded ? (char)(hex(name[1]) << 4 | hex(name[2])) : *name;
		name += coded ? 2 : 0;
	}
	ret[len] = '\0';
	return !*name;
}

static int find_listed(struct contents *c, const struct ovf_file *f, struct member **ret, struct err *err)
{
	char name[IMAGE_NAME_MAX];

	if (find_member(c, f->href, ret, err) < 0)
		return -1;
	if (!*ret && decode_percents(f->href, name) && find_member(c, name, ret, err) < 0)
		return -1;
	if (*ret)
		return 0;
	if (f->chunked)
		return err_set(err, ERR_UNSUPPORTED, "disk '%s' is split into chunks", f->href);
	return err_set(err, ERR_FORMAT, "disk '%s' is listed in the descriptor, but not in the archive", f->href);
}

/* ---- disks ---- */

static int add_disk(struct ova *o, struct member *m, struct err *err)
{
	struct disk d = { .file = o->img.file };

	if (m->is_disk)
		return 0;
	if (o->disks.nr >= DISKS_MAX)
		return err_set(err, ERR_UNSUPPORTED, "the archive has more than %d disks", DISKS_MAX);
	d.file.inside = true;
	d.file.base += m->offset;
	d.file.size = m->size;
	d.file.path = strdup(m->name);
	if (!d.file.path || vec_push(&o->disks, d) < 0) {
		free(d.file.path);
		return err_set(err, ERR_MEMORY, "no memory for the disks of the archive");
	}
	m->is_disk = true;
	return 0;
}

static const struct ovf_file *file_of_disk(const struct contents *c, const char *id)
{
	for (size_t i = 0; i < c->ovf.files.nr; i++)
		if (strcmp(c->ovf.files.items[i].id, id) == 0)
			return &c->ovf.files.items[i];
	return NULL;
}

static int add_listed_disk(struct ova *o, struct contents *c, const char *id, struct err *err)
{
	const struct ovf_file *f = file_of_disk(c, id);
	struct member *m;

	if (!*id) /* a disk that was never written has no file */
		return 0;
	if (!f)
		return err_set(err, ERR_FORMAT, "a disk is in file '%s', which the descriptor does not list", id);
	if (*f->compression && strcmp(f->compression, "identity") != 0)
		return err_set(err, ERR_UNSUPPORTED, "disk '%s' is compressed as a whole (%s)", f->href,
			       f->compression);
	if (find_listed(c, f, &m, err) < 0)
		return -1;
	return add_disk(o, m, err);
}

extern const struct image_format image_format_ova;

static bool has_image_header(const struct ova *o, struct member *m)
{
	struct image_file f = o->img.file;
	struct image_choice choice;

	f.inside = true;
	f.base += m->offset;
	f.size = m->size;
	f.path = m->name;
	return image_choose(&f, &choice, NULL) == 0 && choice.format != &image_format_ova &&
	       strcmp(choice.format->name, "raw") != 0;
}

static int find_disks(struct ova *o, struct contents *c, struct err *err)
{
	for (size_t i = 0; i < c->ovf.disks.nr; i++)
		if (add_listed_disk(o, c, c->ovf.disks.items[i].file, err) < 0)
			return -1;
	for (size_t i = 0; i < c->members.nr; i++) {
		struct member *m = &c->members.items[i];

		if (!m->is_disk && has_image_header(o, m) && add_disk(o, m, err) < 0)
			return -1;
	}
	return 0;
}

static int open_disk(struct ova *o, size_t index, struct err *err)
{
	const struct disk *d = &o->disks.items[index];

	if (o->open && o->open_index == index)
		return 0;
	image_close(o->open);
	o->open = image_open_inside(&o->img, d->file.path, d->file.base - o->img.file.base, d->file.size, err);
	o->open_index = index;
	return o->open ? 0 : -1;
}

/* The disk that a layer is of, open. */
static struct disk *disk_of_layer(struct ova *o, uint64_t layer, struct err *err)
{
	size_t i = 0;

	while (layer - o->disks.items[i].first_layer >= o->disks.items[i].nr_layers)
		i++;
	if (open_disk(o, i, err) < 0)
		return NULL;
	if (o->open->span == o->disks.items[i].span && o->open->layer == o->disks.items[i].layer)
		return &o->disks.items[i];
	return err_null(err, ERR_STALE, "'%s' was changed while it was read", o->disks.items[i].file.path);
}

/* ---- extents ---- */

/* The disk that is at `addr`, open, and the address there: past its layer where the disk is smaller than others. */
static struct disk *disk_at(struct ova *o, uint64_t addr, uint64_t *ret_at, struct err *err)
{
	uint64_t layer = addr / o->img.layer;
	struct disk *d = disk_of_layer(o, layer, err);

	if (d)
		*ret_at = (layer - d->first_layer) * d->layer + addr % o->img.layer;
	return d;
}

static int next_ova_extent(struct image *img, uint64_t from, struct extent *ret, struct err *err)
{
	struct ova *o = ova_of(img);
	uint64_t at, in = from % img->layer;
	struct disk *d = disk_at(o, from, &at, err);
	struct extent ext;

	if (!d)
		return -1;
	if (in >= min_u64(d->layer, d->span)) {
		image_extent_init(ret, EXTENT_HOLE, from, min_u64(img->layer - in, IMAGE_EXTENT_MAX));
		return 0;
	}
	if (image_next_extent(o->open, at, &ext, err) < 0)
		return err_add(err, "'%s'", d->file.path);
	if (ext.kind == EXTENT_DATA && ext.file != &o->open->file)
		return err_set(err, ERR_UNSUPPORTED, "'%s' lies in several files", d->file.path);
	ext.offset = from;
	if (ext.kind == EXTENT_DATA) {
		ext.file = &d->file;
		ext.file_offset -= d->file.base;
	}
	*ret = ext;
	return 0;
}

static int read_packed(struct image *img, uint64_t offset, void *buf, size_t len, struct err *err)
{
	struct ova *o = ova_of(img);
	uint64_t at;
	struct disk *d = disk_at(o, offset, &at, err);

	if (!d)
		return -1;
	if (!o->open->format->read_packed)
		return err_set(err, ERR_STALE, "'%s' was changed while it was read", d->file.path);
	if (o->open->format->read_packed(o->open, at, buf, len, err) < 0)
		return err_add(err, "'%s'", d->file.path);
	return 0;
}

/* ---- opening ---- */

static enum image_claim probe_ova(const struct image_look *look)
{
	struct tar_walk w = { .head = look->head, .head_len = look->len, .size = look->size };
	struct tar_member m = { .directory = true };

	if (!tar_looks_like(look->head, look->len))
		return IMAGE_NOT_MINE;
	while (m.directory)
		if (tar_next(&w, &m, NULL) <= 0)
			return IMAGE_NOT_MINE;
	return m.regular && ends_in(m.name, ".ovf") ? IMAGE_HEADER : IMAGE_NOT_MINE;
}

static void take_disk_info(struct ova *o, const struct disk *d)
{
	const struct image_info *of = &o->open->info;
	struct image_info *info = &o->img.info;
	char words[IMAGE_NAME_MAX + 64];

	info->total_size += d->size;
	info->nr_snapshots += of->nr_snapshots;
	info->nr_bitmaps += of->nr_bitmaps;
	info->encrypted |= of->encrypted;
	info->compressed |= of->compressed;
	info->dirty |= of->dirty;
	info->corrupt |= of->corrupt;
	info->extended_l2 |= of->extended_l2;
	snprintf(words, sizeof(words), "%s (%s)", d->file.path, o->open->format->name);
	image_info_add(info, true, words);
	if (d != o->disks.items)
		return;
	info->cluster_size = of->cluster_size;
	snprintf(info->backing_id, sizeof(info->backing_id), "%s",
		 of->backing_id[0] ? of->backing_id : of->backing_name);
}

/* Opens one disk after the other for what is to be known of it. */
static int measure_disks(struct ova *o, struct err *err)
{
	struct image *img = &o->img;
	uint64_t nr_layers = 0;

	for (size_t i = 0; i < o->disks.nr; i++) {
		struct disk *d = &o->disks.items[i];

		if (open_disk(o, i, err) < 0)
			return -1;
		d->size = o->open->size;
		d->span = o->open->span;
		d->layer = o->open->layer;
		d->first_layer = nr_layers;
		d->nr_layers = max_u64(div_up(d->span, d->layer), 1);
		nr_layers += d->nr_layers;
		img->layer = max_u64(img->layer, d->layer);
		take_disk_info(o, d);
	}
	img->layer = max_u64(img->layer, IMAGE_LAYER_UNIT);
	img->size = o->disks.nr ? o->disks.items[0].size : 0;
	if (nr_layers <= 1)
		img->span = o->disks.nr ? o->disks.items[0].span : 0;
	else if (!mul_fits(img->layer, nr_layers, &img->span))
		img->span = UINT64_MAX;
	return 0;
}

static int open_ova(struct image *img, const struct image_opener *opener, struct err *err)
{
	CLEANUP(contents_release) struct contents c = { .members = VEC_INIT };
	struct ova *o = ova_of(img);

	(void)opener;
	if (img->file.inside)
		return err_set(err, ERR_UNSUPPORTED, "an archive in an archive is not read");
	if (read_members(img, &c, err) < 0 || read_descriptor(img, &c, err) < 0)
		return -1;
	image_info_add(&img->info, c.manifest, "manifest not compared");
	if (find_disks(o, &c, err) < 0 || measure_disks(o, err) < 0)
		return -1;
	snprintf(img->info.kind, sizeof(img->info.kind), "%zu disk%s", o->disks.nr, o->disks.nr == 1 ? "" : "s");
	return 0;
}

static void release_ova(struct image *img)
{
	struct ova *o = ova_of(img);

	image_close(o->open);
	for (size_t i = 0; i < o->disks.nr; i++)
		free(o->disks.items[i].file.path);
	vec_release(&o->disks);
}

const struct image_format image_format_ova = {
	.name = "ova",
	.extensions = (const char *const[]){ "ova", NULL },
	.instance = sizeof(struct ova),
	.probe = probe_ova,
	.open = open_ova,
	.next_extent = next_ova_extent,
	.read_packed = read_packed,
	.release = release_ova,
};
