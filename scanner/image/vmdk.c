/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/image/codec_zlib.h"
#include "scanner/image/image.h"
#include "scanner/image/vmdk_format.h"

/* The VMDK reader.
 *
 *	disk	|    stretch 0     |    stretch 1     |  zeros  |  2  |		one for each extent of the descriptor
 *		     a-s001.vmdk	a-s002.vmdk		b-flat.vmdk
 *
 * An image is opened from its descriptor, which is a file of its own or embedded in the only extent.  The descriptor
 * says where an extent lies in the disk; of a sparse extent whose header has another capacity only what both have is
 * shown.
 *
 * Tables are never held whole.  A walk looks through a *window*: one grain table, or, where the directory has none,
 * the space that it would map.  Directories are read through a piece of 4 KiB, and once when the image is opened: where
 * an entry points nowhere, the redundant directory with its copies of all tables takes over.
 *
 * What lies past the end of a file reads as zeros, as QEMU has it.  Markers are read in front of compressed grains
 * only; the tables say where these are.
 *
 * Left out on purpose: COWD and seSparse extents, devices, changed block tracking. */

#define GD_PIECE ((uint64_t)4 << 10)
#define WORK_MAX (1u << 16) /* tables looked at in one next_extent() before it is content with what it has */

struct stretch {
	uint64_t begin, end; /* of the disk */
	enum vmdk_extent_kind kind;
	const struct image_file *file;
	uint64_t offset; /* VMDK_FLAT: in the file */

	/* VMDK_SPARSE */
	uint64_t capacity; /* bytes, at least end - begin */
	uint64_t gd_offset;
	unsigned grain_shift;
	uint32_t nr_gtes;
	uint64_t mapped; /* bytes, by a grain table */
	bool compressed, zeroed;
};

struct window {
	const struct stretch *s;
	uint64_t begin, end; /* of the disk; empty = nothing loaded */
	bool absent;	     /* no grain table */
	le32 gtes[VMDK_NR_GTES_MAX];
};

struct vmdk {
	struct image img;
	struct stretch *stretches;
	size_t nr_stretches, last; /* last: which was found last */
	uint64_t nr_gdes;	   /* of all extents */

	uint8_t gd_piece[GD_PIECE];
	const struct image_file *gd_file; /* what is in the piece; NULL = nothing */
	uint64_t gd_at;

	struct window w;
	unsigned work;

	bool redundant_used, other_capacity, cut_short; /* of any extent */

	uint64_t packed_max; /* bytes, of the largest compressed grain */
	uint8_t *decoded, *packed;
	const struct image_file *decoded_file; /* which grain is in `decoded`; NULL = none */
	uint32_t decoded_gte;
};

static struct vmdk *vmdk_of(struct image *img)
{
	return (struct vmdk *)img;
}

/* ---- tables ---- */

static int read_gde(struct vmdk *v, const struct stretch *s, uint64_t index, uint32_t *ret, struct err *err)
{
	uint64_t at = s->gd_offset + index * sizeof(le32), base = round_down(at, GD_PIECE);

	if (v->gd_file != s->file || v->gd_at != base) {
		v->gd_file = NULL;
		if (image_file_read(s->file, v->gd_piece, (size_t)min_u64(GD_PIECE, s->file->size - base), base, err) <
		    0)
			return -1;
		v->gd_file = s->file;
		v->gd_at = base;
	}
	*ret = le32_load(v->gd_piece + (at - base));
	return 0;
}

/* How many entries the index-th grain table has; the last may have fewer. */
static size_t nr_gtes(const struct stretch *s, uint64_t index)
{
	uint64_t nr = div_up(s->capacity, (uint64_t)1 << s->grain_shift);

	return (size_t)min_u64(s->nr_gtes, nr - index * s->nr_gtes);
}

/* The offset of the index-th grain table; 0 = none. */
static int gt_offset(struct vmdk *v, const struct stretch *s, uint64_t index, uint64_t *ret, struct err *err)
{
	uint32_t gde;

	v->work++;
	if (read_gde(v, s, index, &gde, err) < 0)
		return -1;
	if (gde && !range_within(gde * VMDK_SECTOR, nr_gtes(s, index) * sizeof(le32), s->file->size))
		return err_set(err, ERR_FORMAT, "grain table at offset %llu ends past the end of the file",
			       (unsigned long long)(gde * VMDK_SECTOR));
	*ret = gde * VMDK_SECTOR;
	return 0;
}

/* ---- the window ---- */

/* Loads what maps address `addr` of the disk, which lies in sparse stretch s. */
static int load_window(struct vmdk *v, const struct stretch *s, uint64_t addr, struct err *err)
{
	struct window *w = &v->w;
	uint64_t index = (addr - s->begin) / s->mapped, offset;

	w->begin = w->end = 0;
	if (gt_offset(v, s, index, &offset, err) < 0)
		return -1;
	w->absent = offset == 0;
	if (offset && image_file_read(s->file, w->gtes, nr_gtes(s, index) * sizeof(le32), offset, err) < 0)
		return -1;
	w->s = s;
	w->begin = s->begin + index * s->mapped;
	w->end = min_u64(w->begin + s->mapped, s->end);
	return 0;
}

static int seek_window(struct vmdk *v, const struct stretch *s, uint64_t addr, struct err *err)
{
	return addr >= v->w.begin && addr < v->w.end ? 0 : load_window(v, s, addr, err);
}

static uint32_t window_gte(const struct window *w, uint64_t i)
{
	return le32_get(w->gtes[i]);
}

/* ---- extents ---- */

static const struct stretch *find_stretch(struct vmdk *v, uint64_t addr)
{
	size_t lo = 0, hi = v->nr_stretches;
	const struct stretch *s = &v->stretches[v->last];

	if (addr >= s->begin && addr < s->end)
		return s;
	while (hi - lo > 1) {
		size_t mid = lo + (hi - lo) / 2;

		if (v->stretches[mid].begin <= addr)
			lo = mid;
		else
			hi = mid;
	}
	v->last = lo;
	return &v->stretches[lo];
}

static enum extent_kind kind_of(const struct stretch *s, uint32_t gte)
{
	if (gte == 0)
		return EXTENT_HOLE;
	if (gte == 1 && s->zeroed)
		return EXTENT_ZERO;
	return s->compressed ? EXTENT_PACKED : EXTENT_DATA;
}

/* What is alike from addr on in the window. */
static void window_extent(const struct window *w, uint64_t addr, struct extent *ret)
{
	const struct stretch *s = w->s;
	uint64_t i = (addr - w->begin) >> s->grain_shift, nr = div_up(w->end - w->begin, (uint64_t)1 << s->grain_shift);
	uint64_t in = (addr - w->begin) & (((uint64_t)1 << s->grain_shift) - 1), n = 1, step, next;
	uint32_t gte = window_gte(w, i);

	image_extent_init(ret, kind_of(s, gte), addr, 0);
	if (ret->kind == EXTENT_DATA) {
		ret->file = s->file;
		ret->file_offset = gte * VMDK_SECTOR + in;
		step = ((uint64_t)1 << s->grain_shift) / VMDK_SECTOR;
		for (next = gte + step; i + n < nr && window_gte(w, i + n) == next; n++)
			next += step;
	} else {
		while (i + n < nr && kind_of(s, window_gte(w, i + n)) == ret->kind)
			n++;
	}
	ret->len = min_u64((n << s->grain_shift) - in, w->end - addr);
}

/* Past the end of the file nothing is there to be read. */
static void flat_extent(const struct stretch *s, uint64_t addr, struct extent *ret)
{
	uint64_t at = s->offset + (addr - s->begin), left = s->file->size - min_u64(at, s->file->size);

	image_extent_init(ret, left ? EXTENT_DATA : EXTENT_ZERO, addr, s->end - addr);
	if (!left)
		return;
	ret->len = min_u64(ret->len, left);
	ret->file = s->file;
	ret->file_offset = at;
}

/* What is alike from addr on, up to the end of its grain table or stretch. */
static int extent_at(struct image *img, uint64_t addr, struct extent *ret, struct err *err)
{
	struct vmdk *v = vmdk_of(img);
	const struct stretch *s = find_stretch(v, addr);

	v->work++;
	if (s->kind == VMDK_ZERO)
		image_extent_init(ret, EXTENT_ZERO, addr, s->end - addr);
	else if (s->kind == VMDK_FLAT)
		flat_extent(s, addr, ret);
	else if (seek_window(v, s, addr, err) < 0)
		return -1;
	else if (v->w.absent)
		image_extent_init(ret, EXTENT_HOLE, addr, v->w.end - addr);
	else
		window_extent(&v->w, addr, ret);
	return 0;
}

static int next_vmdk_extent(struct image *img, uint64_t from, struct extent *ret, struct err *err)
{
	return image_merge_extents(img, from, extent_at, &vmdk_of(img)->work, WORK_MAX, ret, err);
}

/* ---- compressed grains ---- */

static int alloc_decoder(struct vmdk *v, struct err *err)
{
	if (!v->decoded)
		v->decoded = malloc(v->packed_max);
	if (!v->packed)
		v->packed = malloc(2 * v->packed_max);
	return v->decoded && v->packed ? 0 : err_set(err, ERR_MEMORY, "no memory to decompress a grain");
}

/* Reads the compressed grain at `offset`, which begins at byte `at` of its extent. */
static int read_grain(struct vmdk *v, const struct stretch *s, uint64_t offset, uint64_t at, size_t *ret_len,
		      struct err *err)
{
	struct vmdk_marker_disk m;
	uint64_t max = (uint64_t)2 << s->grain_shift, value;

	if (image_file_read(s->file, &m, sizeof(m), offset, err) < 0)
		return -1;
	*ret_len = le32_get(m.size);
	value = le64_get(m.value);
	if (*ret_len == 0 || *ret_len > max)
		return err_set(err, ERR_FORMAT, "its marker says that it has %zu bytes", *ret_len);
	if (value != at / VMDK_SECTOR)
		return err_set(err, ERR_FORMAT, "its marker says that it belongs to sector %llu, not %llu",
			       (unsigned long long)value, (unsigned long long)(at / VMDK_SECTOR));
	return image_file_read(s->file, v->packed, *ret_len, offset + sizeof(m), err);
}

/* Decodes the grain that begins at byte `at` of the extent.  The last may be stored without what is past the end. */
static int decode_grain(struct vmdk *v, const struct stretch *s, uint32_t gte, uint64_t at, struct err *err)
{
	uint64_t grain = (uint64_t)1 << s->grain_shift;
	size_t len;

	if (v->decoded_file == s->file && v->decoded_gte == gte)
		return 0;
	if (alloc_decoder(v, err) < 0)
		return -1;
	v->decoded_file = NULL;
	if (read_grain(v, s, gte * VMDK_SECTOR, at, &len, err) < 0)
		return -1;
	if (codec_zlib_decode(CODEC_ZLIB_HEADER, 15, v->packed, len, v->decoded, min_u64(grain, s->capacity - at),
			      err) < 0)
		return -1;
	v->decoded_file = s->file;
	v->decoded_gte = gte;
	return 0;
}

/* The len bytes at `offset`, which lie in one grain. */
static int read_from_grain(struct vmdk *v, const struct stretch *s, uint64_t offset, void *buf, size_t len,
			   struct err *err)
{
	uint64_t grain = (uint64_t)1 << s->grain_shift, at = round_down(offset - s->begin, grain);
	uint32_t gte;

	if (s->kind == VMDK_SPARSE && seek_window(v, s, offset, err) < 0)
		return -1;
	gte = s->kind != VMDK_SPARSE || v->w.absent ? 0 : window_gte(&v->w, (offset - v->w.begin) >> s->grain_shift);
	if (kind_of(s, gte) != EXTENT_PACKED)
		return err_set(err, ERR_USAGE, "no compressed grain at offset %llu", (unsigned long long)offset);
	if (decode_grain(v, s, gte, at, err) < 0)
		return err_add(err, "compressed grain at offset %llu", (unsigned long long)(s->begin + at));
	memcpy(buf, v->decoded + (offset - s->begin - at), len);
	return 0;
}

static int read_packed(struct image *img, uint64_t offset, void *buf, size_t len, struct err *err)
{
	struct vmdk *v = vmdk_of(img);
	uint8_t *p = buf;

	for (size_t n; len; p += n, offset += n, len -= n) {
		const struct stretch *s = find_stretch(v, offset);
		uint64_t grain = (uint64_t)1 << s->grain_shift, in = (offset - s->begin) & (grain - 1);

		n = (size_t)min_u64(len, min_u64(grain - in, s->end - offset));
		if (read_from_grain(v, s, offset, p, n, err) < 0)
			return -1;
	}
	return 0;
}

/* ---- opening sparse extents ---- */

/* A stream ends with its footer; of a last sector that the file does not have whole the rest is zeros. */
static int read_footer(const struct image_file *f, struct vmdk_header *h, struct err *err)
{
	struct vmdk_footer_disk d;
	uint64_t end = round_up(f->size, VMDK_SECTOR), at = end - sizeof(d);
	ssize_t n;

	if (end < 2 * sizeof(d))
		return err_set(err, ERR_FORMAT, "the file is too short for the footer that its header promises");
	n = image_file_read_some(f, &d, sizeof(d), at, err);
	if (n < 0)
		return -1;
	memset((uint8_t *)&d + n, 0, sizeof(d) - (size_t)n);
	return vmdk_footer_decode(&d, h, h, err);
}

static int read_header(const struct image_file *f, struct vmdk_header *ret, struct err *err)
{
	uint8_t p[512];

	if (f->size < sizeof(p))
		return err_set(err, ERR_FORMAT, "the file ends inside the header of a sparse extent");
	if (image_file_read(f, p, sizeof(p), 0, err) < 0 || vmdk_header_decode(p, ret, err) < 0)
		return -1;
	return ret->capacity && ret->gd_offset == VMDK_GD_AT_END ? read_footer(f, ret, err) : 0;
}

/* Whether the directory at s->gd_offset can be used. */
static int check_directory(struct vmdk *v, const struct stretch *s, uint64_t nr, struct err *err)
{
	uint64_t offset;

	if (s->gd_offset == 0)
		return err_set(err, ERR_FORMAT, "the extent has no grain directory");
	if (!range_within(s->gd_offset, nr * sizeof(le32), s->file->size))
		return err_set(err, ERR_FORMAT, "the grain directory ends past the end of the file");
	for (uint64_t i = 0; i < nr; i++)
		if (gt_offset(v, s, i, &offset, err) < 0)
			return -1;
	return 0;
}

static int choose_directory(struct vmdk *v, struct stretch *s, const struct vmdk_header *h, struct err *err)
{
	uint64_t nr = div_up(s->capacity, s->mapped);
	struct err broken = ERR_INIT;

	if (nr > VMDK_NR_GDES_MAX - v->nr_gdes)
		return err_set(err, ERR_UNSUPPORTED, "grain directories of more than %llu entries are not read",
			       (unsigned long long)VMDK_NR_GDES_MAX);
	v->nr_gdes += nr;
	s->gd_offset = h->gd_offset;
	if (check_directory(v, s, nr, &broken) == 0)
		return 0;
	s->gd_offset = h->rgd_offset;
	if (broken.kind == ERR_FORMAT && h->rgd_offset && check_directory(v, s, nr, NULL) == 0) {
		v->redundant_used = true;
		return 0;
	}
	return err_set(err, broken.kind, "%s", broken.text);
}

/* Where descriptor and header have different sizes only what both have is shown; but behind an extent that is smaller
 * than it should be others would be at two places, depending on whom one believes. */
static int fit_capacity(struct vmdk *v, struct stretch *s, const struct vmdk_header *h, bool last, struct err *err)
{
	uint64_t size = s->end - s->begin;

	if (h->capacity == 0)
		return err_set(err, ERR_FORMAT, "the extent has no capacity");
	if (h->capacity < size && !last)
		return err_set(err, ERR_FORMAT, "the extent has %llu bytes, but the descriptor says %llu",
			       (unsigned long long)h->capacity, (unsigned long long)size);
	if (h->capacity < size || h->capacity - size >= h->grain_size)
		v->other_capacity = true;
	s->end = s->begin + min_u64(size, h->capacity);
	return 0;
}

static int set_sparse(struct vmdk *v, struct stretch *s, const struct vmdk_header *h, bool last, struct err *err)
{
	struct image_info *info = &v->img.info;

	if (fit_capacity(v, s, h, last, err) < 0)
		return -1;
	if (h->overhead > s->file->size)
		return err_set(err, ERR_FORMAT, "the file was cut short: its tables take %llu bytes",
			       (unsigned long long)h->overhead);
	s->capacity = h->capacity;
	s->grain_shift = (unsigned)__builtin_ctzll(h->grain_size);
	s->nr_gtes = h->nr_gtes;
	s->mapped = h->nr_gtes * h->grain_size;
	s->compressed = h->compressed;
	s->zeroed = h->flags & VMDK_HAS_ZEROED;
	if (h->compressed)
		v->packed_max = max_u64(v->packed_max, h->grain_size);
	info->version = (unsigned)max_u64(info->version, h->version);
	info->cluster_size = info->cluster_size ? info->cluster_size : h->grain_size;
	info->compressed |= h->compressed;
	info->dirty |= h->unclean;
	return choose_directory(v, s, h, err);
}

/* ---- opening extents by name ---- */

/* A file of zeros and a device look the same through a descriptor, but a device is none of our business. */
static int check_regular(const struct image_file *f, struct err *err)
{
	struct stat st;

	if (file_stat(f->fd, &st) < 0)
		return err_errno(err, "cannot stat it");
	return S_ISREG(st.st_mode) ? 0 : err_set(err, ERR_REFUSED, "it is not a regular file");
}

static int open_flat(struct vmdk *v, struct stretch *s, const struct vmdk_extent *e, struct err *err)
{
	s->offset = e->offset;
	if (!range_within(e->offset, e->size, s->file->size))
		v->cut_short = true;
	return check_regular(s->file, err);
}

static int open_sparse(struct vmdk *v, struct stretch *s, bool again, bool last, struct err *err)
{
	struct vmdk_header h;

	if (again)
		return err_set(err, ERR_FORMAT, "the sparse extent is listed twice");
	if (check_regular(s->file, err) < 0 || read_header(s->file, &h, err) < 0)
		return -1;
	return set_sparse(v, s, &h, last, err);
}

static int open_extent(struct vmdk *v, struct stretch *s, const struct vmdk_extent *e, bool last,
		       const struct image_opener *opener, struct err *err)
{
	unsigned nr_before = v->img.nr_parts;
	int rc;

	s->file = image_open_part(&v->img, IMAGE_EXTENT, e->name, opener, err);
	if (!s->file)
		return -1;
	rc = e->kind == VMDK_FLAT ? open_flat(v, s, e, err)
				  : open_sparse(v, s, v->img.nr_parts == nr_before, last, err);
	return rc < 0 ? err_add(err, "extent '%s'", e->name) : 0;
}

static int open_extents(struct vmdk *v, const struct vmdk_descriptor *d, const struct image_opener *opener,
			struct err *err)
{
	uint64_t at = 0;
	size_t nr = 0;

	for (size_t i = 0; i < d->extents.nr; i++)
		if (d->extents.items[i].size)
			d->extents.items[nr++] = d->extents.items[i];
	v->stretches = calloc(nr ? nr : 1, sizeof(*v->stretches));
	if (!v->stretches)
		return err_set(err, ERR_MEMORY, "no memory for the extents of a VMDK");
	for (size_t i = 0; i < nr; i++) {
		const struct vmdk_extent *e = &d->extents.items[i];
		struct stretch *s = &v->stretches[v->nr_stretches++];

		*s = (struct stretch){ .kind = e->kind, .begin = at };
		if (!add_fits(at, e->size, &s->end))
			return err_set(err, ERR_FORMAT, "the extents are too large together");
		if (e->kind != VMDK_ZERO && open_extent(v, s, e, i + 1 == nr, opener, err) < 0)
			return -1;
		at = s->end;
	}
	v->img.size = at;
	return 0;
}

/* The file is the only extent, whatever name the descriptor in it has for it. */
static int open_monolithic(struct vmdk *v, const struct vmdk_descriptor *d, const struct vmdk_header *h,
			   struct err *err)
{
	struct stretch *s = calloc(1, sizeof(*s));

	v->stretches = s;
	if (!s)
		return err_set(err, ERR_MEMORY, "no memory for the extents of a VMDK");
	if (d->extents.nr != 1 || d->extents.items[0].kind != VMDK_SPARSE)
		return err_set(err, ERR_FORMAT, "the embedded descriptor does not list the one sparse extent it is in");
	v->nr_stretches = 1;
	*s = (struct stretch){ .kind = VMDK_SPARSE, .file = &v->img.file, .end = d->extents.items[0].size };
	if (set_sparse(v, s, h, true, err) < 0)
		return -1;
	v->img.size = s->end;
	return 0;
}

/* ---- what it says about itself ---- */

static void describe(struct vmdk *v, const struct vmdk_descriptor *d)
{
	struct image_info *info = &v->img.info;
	bool zeroed = false, has_parent = d->parent_cid[0] && strcmp(d->parent_cid, VMDK_NO_PARENT) != 0;
	char words[64];

	for (size_t i = 0; i < v->nr_stretches; i++)
		zeroed |= v->stretches[i].zeroed;
	snprintf(words, sizeof(words), "%zu extents", v->nr_stretches);
	image_info_add(info, v->nr_stretches > 1, words);
	snprintf(words, sizeof(words), "adapter %.32s", d->adapter ? d->adapter : "");
	image_info_add(info, d->adapter, words);
	image_info_add(info, zeroed, "zeroed grains");
	image_info_add(info, d->change_tracking, "change tracking");
	image_info_add(info, d->encrypted, "encrypted");
	image_info_add(info, info->dirty, "not closed properly");
	image_info_add(info, has_parent && !d->parent_name, "parent not named");
	image_info_add(info, v->redundant_used, "grain directory broken, the redundant one used");
	image_info_add(info, v->other_capacity, "an extent is not as large as the descriptor says");
	image_info_add(info, v->cut_short, "an extent was cut short, the rest reads as zeros");
}

static void set_info(struct vmdk *v, const struct vmdk_descriptor *d)
{
	struct image_info *info = &v->img.info;

	if (!info->version)
		info->version = d->version;
	snprintf(info->kind, sizeof(info->kind), "%s", d->create_type);
	memcpy(info->id, d->cid, sizeof(d->cid));
	if (d->parent_name) {
		snprintf(info->backing_name, sizeof(info->backing_name), "%s", d->parent_name);
		snprintf(info->backing_format, sizeof(info->backing_format), "vmdk");
		memcpy(info->backing_id, d->parent_cid, sizeof(d->parent_cid));
	}
	info->encrypted = d->encrypted;
	describe(v, d);
}

/* ---- opening ---- */

static int is_part(struct err *err)
{
	return err_set(err, ERR_PART, "it is an extent of a VMDK; its descriptor file says what disk it belongs to");
}

static int open_described(struct vmdk *v, char *text, size_t len, const struct vmdk_header *h,
			  const struct image_opener *opener, struct err *err)
{
	CLEANUP(vmdk_descriptor_release) struct vmdk_descriptor d = VMDK_DESCRIPTOR_INIT;
	int rc;

	if (h && strnlen(text, len) == 0) /* QEMU and others leave room for one */
		return is_part(err);
	if (vmdk_descriptor_parse(text, len, &d, err) < 0)
		return -1;
	if (!d.create_type)
		return err_set(err, ERR_FORMAT, "the descriptor has no createType");
	rc = h && h->capacity ? open_monolithic(v, &d, h, err) : open_extents(v, &d, opener, err);
	if (rc < 0)
		return -1;
	set_info(v, &d);
	return 0;
}

/* Opens what the descriptor in [offset, offset + size) of the file describes. */
static int open_descriptor(struct vmdk *v, uint64_t offset, uint64_t size, const struct vmdk_header *h,
			   const struct image_opener *opener, struct err *err)
{
	CLEANUP(free) char *text = NULL;
	ssize_t len;

	if (size > VMDK_DESCRIPTOR_MAX)
		return err_set(err, ERR_UNSUPPORTED, "descriptor of %llu bytes is too large", (unsigned long long)size);
	text = malloc(size + 1);
	if (!text)
		return err_set(err, ERR_MEMORY, "no memory for the descriptor of a VMDK");
	len = image_file_read_some(&v->img.file, text, size, offset, err);
	return len < 0 ? -1 : open_described(v, text, (size_t)len, h, opener, err);
}

static bool is_sparse(const uint8_t *p, size_t len)
{
	return len >= 8 && (memcmp(p, VMDK_MAGIC, 4) == 0 || memcmp(p, VMDK_COWD_MAGIC, 4) == 0 ||
			    memcmp(p, VMDK_SESPARSE_MAGIC, 8) == 0);
}

static int open_vmdk(struct image *img, const struct image_opener *opener, struct err *err)
{
	struct vmdk *v = vmdk_of(img);
	struct vmdk_header h;
	uint8_t p[8];
	ssize_t len = image_file_read_some(&img->file, p, sizeof(p), 0, err);

	if (len < 0)
		return -1;
	if (!is_sparse(p, (size_t)len)) {
		if (open_descriptor(v, 0, img->file.size, NULL, opener, err) < 0)
			return -1;
	} else {
		if (read_header(&img->file, &h, err) < 0)
			return -1;
		if (h.descriptor_offset == 0)
			return is_part(err);
		if (open_descriptor(v, h.descriptor_offset, h.descriptor_size, &h, opener, err) < 0)
			return -1;
	}
	img->span = img->size;
	img->layer = max_u64(round_up(img->size, IMAGE_LAYER_UNIT), IMAGE_LAYER_UNIT);
	return 0;
}

static void release_vmdk(struct image *img)
{
	struct vmdk *v = vmdk_of(img);

	free(v->stretches);
	free(v->decoded);
	free(v->packed);
}

static enum image_claim probe_vmdk(const struct image_look *look)
{
	return is_sparse(look->head, look->len) || vmdk_descriptor_probe(look->head, look->len) ? IMAGE_HEADER
												: IMAGE_NOT_MINE;
}

extern const struct image_format image_format_vmdk;
const struct image_format image_format_vmdk = {
	.name = "vmdk",
	.extensions = (const char *const[]){ "vmdk", NULL },
	.part_names = (const char *const[]){ "*-flat.vmdk", "*-f[0-9][0-9][0-9]*.vmdk", "*-rdm.vmdk", "*-rdmp.vmdk",
					     "*-ctk.vmdk", NULL },
	.instance = sizeof(struct vmdk),
	.probe = probe_vmdk,
	.open = open_vmdk,
	.next_extent = next_vmdk_extent,
	.read_packed = read_packed,
	.release = release_vmdk,
};
