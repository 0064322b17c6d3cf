/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "scanner/base/checked.h"
#include "scanner/image/codec_zlib.h"
#include "scanner/image/codec_zstd.h"
#include "scanner/image/image.h"
#include "scanner/image/qcow2_format.h"

/* The qcow2 reader.
 *
 *	stored view	|  layer 0: the disk now  |  layer 1: snapshot 1  |  layer 2: snapshot 2  | ...
 *			0			  layer			  2 * layer
 *
 * A layer is as long as the largest disk with its VM state, of the image now or any snapshot; VM state lies behind
 * the disk.
 *
 * Tables are never held whole.  A walk looks through a *window*: one piece (up to 64 KiB) of one L2 table of one
 * layer, or, where the table is absent, the space that it would map.  When a window of a snapshot is loaded, what an
 * earlier layer holds at the same place in the same host cluster is struck out, once, by reading the pieces of the
 * earlier layers' tables; an L2 table that an earlier layer uses at the same place is absent.  L1 tables are read
 * through a small cache.
 *
 * An L2 entry becomes a *mapping*, in which a cluster has 1 or, with extended L2, 32 subclusters, each with two
 * bits: bit n subcluster n has data, bit 32+n it reads as zeros.
 *
 * Left out on purpose: refcounts are not read, for they do not say where data is; nor is anything decrypted. */

#define PIECE ((uint64_t)64 << 10)   /* of an L2 table */
#define L1_PIECE ((uint64_t)4 << 10) /* of an L1 or snapshot table, in the cache */
#define NR_L1_PIECES 256
#define ENTRIES_MAX (PIECE / 8)
#define WORK_MAX (1u << 16) /* tables looked at in one next_extent() before it is content with what it has */

struct layer {
	uint64_t l1_offset;
	uint32_t l1_size;
};

struct mapping {
	uint64_t host;	 /* offset of the host cluster; a packed one: its descriptor */
	uint64_t bitmap; /* see above */
	bool packed;
};

struct window {
	uint64_t begin, end; /* stored addresses that it covers; empty = nothing loaded */
	bool absent;	     /* no L2 table, or one that an earlier layer has */
	uint8_t *entries;
	uint64_t *struck; /* per entry: bits of the mapping that an earlier layer holds; NULL without snapshots */
	uint8_t *other;	  /* a piece of an earlier layer's table; NULL without snapshots */
};

struct qcow2 {
	struct image img;
	struct qcow2_header h;
	uint64_t cluster_size;
	unsigned entry_size; /* bytes of an L2 entry */
	unsigned l2_shift;   /* an L2 table maps 1 << l2_shift bytes */
	unsigned nr_subclusters;
	unsigned subcluster_bits;
	const struct image_file *data_file; /* where data lies: the image's own file or an external one */

	struct layer *layers;
	unsigned nr_layers;

	uint8_t *l1_pieces;
	uint64_t l1_tags[NR_L1_PIECES]; /* offset of the piece in a slot, plus 1 */

	struct window w;
	unsigned work;

	uint64_t decoded_key; /* descriptor of the compressed cluster in `decoded`; 0 = none */
	uint8_t *decoded, *packed;
	struct codec_zstd *zstd;
};

static struct qcow2 *qcow2_of(struct image *img)
{
	return (struct qcow2 *)img;
}

/* ---- tables ---- */

/* Reads from an L1 or snapshot table, through the cache.  The range lies within the file. */
static int read_table(struct qcow2 *q, uint64_t offset, void *ret, size_t len, struct err *err)
{
	for (uint8_t *p = ret; len;) {
		uint64_t base = round_down(offset, L1_PIECE);
		unsigned slot = (unsigned)(base / L1_PIECE % NR_L1_PIECES);
		uint8_t *piece = q->l1_pieces + slot * L1_PIECE;
		size_t n = (size_t)min_u64(len, base + L1_PIECE - offset);
		size_t have = (size_t)min_u64(L1_PIECE, q->img.file.size - base);

		if (q->l1_tags[slot] != base + 1) {
			q->l1_tags[slot] = 0;
			if (image_file_read(&q->img.file, piece, have, base, err) < 0)
				return -1;
			q->l1_tags[slot] = base + 1;
		}
		memcpy(p, piece + (offset - base), n);
		p += n;
		offset += n;
		len -= n;
	}
	return 0;
}

/* The offset of the L2 table that maps the index-th part of a layer; 0 = none. */
static int l2_offset(struct qcow2 *q, const struct layer *layer, uint64_t index, uint64_t *ret, struct err *err)
{
	be64 entry;
	uint64_t offset;

	*ret = 0;
	q->work++;
	if (index >= layer->l1_size)
		return 0;
	if (read_table(q, layer->l1_offset + index * 8, &entry, sizeof(entry), err) < 0)
		return -1;
	offset = be64_get(entry) & QCOW2_OFFSET_MASK;
	if (offset % q->cluster_size != 0)
		return err_set(err, ERR_FORMAT, "L2 table at offset %llu is not cluster aligned",
			       (unsigned long long)offset);
	if (offset && !range_within(offset, q->cluster_size, q->img.file.size))
		return err_set(err, ERR_FORMAT, "L2 table at offset %llu ends past the end of the file",
			       (unsigned long long)offset);
	*ret = offset;
	return 0;
}

static int check_data_file_entry(const struct mapping *m, uint64_t guest, struct err *err)
{
	if (m->packed)
		return err_set(err, ERR_FORMAT, "compressed cluster at guest offset %llu of an image with a data file",
			       (unsigned long long)guest);
	if ((m->host || (uint32_t)m->bitmap) && m->host != guest)
		return err_set(err, ERR_FORMAT,
			       "cluster at guest offset %llu is at offset %llu of the data file, not the same",
			       (unsigned long long)guest, (unsigned long long)m->host);
	return 0;
}

static int decode_bitmap(const struct qcow2 *q, const uint8_t *p, uint64_t entry, struct mapping *m, struct err *err)
{
	bool allocated = m->host || (q->data_file != &q->img.file && (entry & QCOW2_COPIED));

	if (q->nr_subclusters == 1) {
		m->bitmap = entry & QCOW2_ZERO ? (uint64_t)1 << 32 : allocated;
		if ((entry & QCOW2_ZERO) && q->h.version < 3)
			return err_set(err, ERR_FORMAT, "zero cluster in a version 2 image");
		return 0;
	}
	m->bitmap = be64_load(p + 8);
	if ((m->bitmap >> 32) & m->bitmap)
		return err_set(err, ERR_FORMAT, "subclusters that both have data and read as zeros");
	if (!allocated && (uint32_t)m->bitmap)
		return err_set(err, ERR_FORMAT, "subclusters that have data without a host cluster");
	return 0;
}

/* The L2 entry at p, which maps the cluster at `guest`. */
static int decode_entry(const struct qcow2 *q, const uint8_t *p, uint64_t guest, struct mapping *ret, struct err *err)
{
	uint64_t entry = be64_load(p);
	struct mapping m = { .host = entry & QCOW2_OFFSET_MASK };

	if (entry & QCOW2_COMPRESSED) {
		m = (struct mapping){ .host = entry & ~QCOW2_COPIED, .bitmap = UINT32_MAX, .packed = true };
	} else {
		if (m.host % q->cluster_size != 0)
			return err_set(err, ERR_FORMAT, "cluster at guest offset %llu: host offset %llu is not aligned",
				       (unsigned long long)guest, (unsigned long long)m.host);
		if (decode_bitmap(q, p, entry, &m, err) < 0)
			return err_add(err, "cluster at guest offset %llu", (unsigned long long)guest);
	}
	if (q->data_file != &q->img.file && check_data_file_entry(&m, guest, err) < 0)
		return -1;
	*ret = m;
	return 0;
}

/* ---- the window ---- */

/* Strikes out of the window what the same piece of another L2 table, in w->other, holds. */
static int strike_piece(struct qcow2 *q, size_t nr, uint64_t guest, struct err *err)
{
	struct mapping mine, theirs;

	for (size_t i = 0; i < nr; i++, guest += q->cluster_size) {
		size_t at = i * q->entry_size;
		uint64_t a = be64_load(q->w.entries + at), b = be64_load(q->w.other + at);

		if ((a ^ b) & ~QCOW2_COPIED & ~QCOW2_ZERO)
			continue;
		if (decode_entry(q, q->w.entries + at, guest, &mine, err) < 0 ||
		    decode_entry(q, q->w.other + at, guest, &theirs, err) < 0)
			return -1;
		q->w.struck[i] |= mine.bitmap & theirs.bitmap;
	}
	return 0;
}

static int strike_earlier(struct qcow2 *q, unsigned layer, uint64_t index, uint64_t piece, size_t nr, struct err *err)
{
	uint64_t guest = (index << q->l2_shift) + piece / q->entry_size * q->cluster_size;
	uint64_t l2, last = 0;

	memset(q->w.struck, 0, nr * sizeof(*q->w.struck));
	for (unsigned i = layer; i-- > 0; last = l2) {
		if (l2_offset(q, &q->layers[i], index, &l2, err) < 0)
			return -1;
		if (l2 == 0 || l2 == last)
			continue;
		if (image_file_read(&q->img.file, q->w.other, nr * q->entry_size, l2 + piece, err) < 0)
			return -1;
		q->work += 1 + (unsigned)(nr / 512);
		if (strike_piece(q, nr, guest, err) < 0)
			return -1;
	}
	return 0;
}

/* Whether an earlier layer uses the same L2 table at the same place. */
static int shared_l2(struct qcow2 *q, unsigned layer, uint64_t index, uint64_t l2, bool *ret, struct err *err)
{
	uint64_t earlier;

	*ret = false;
	for (unsigned i = layer; l2 && !*ret && i-- > 0;) {
		if (l2_offset(q, &q->layers[i], index, &earlier, err) < 0)
			return -1;
		*ret = earlier == l2;
	}
	return 0;
}

/* Loads the piece of the L2 table at l2 that maps layer offset `guest`. */
static int load_piece(struct qcow2 *q, unsigned layer, uint64_t guest, uint64_t l2, struct err *err)
{
	uint64_t index = guest >> q->l2_shift;
	uint64_t entry = (guest - (index << q->l2_shift)) >> q->h.cluster_bits;
	uint64_t piece = round_down(entry * q->entry_size, PIECE);
	size_t len = (size_t)min_u64(q->cluster_size, PIECE), nr = len / q->entry_size;
	uint64_t begin = (index << q->l2_shift) + piece / q->entry_size * q->cluster_size;

	q->work++;
	if (image_file_read(&q->img.file, q->w.entries, len, l2 + piece, err) < 0)
		return -1;
	if (layer && strike_earlier(q, layer, index, piece, nr, err) < 0)
		return -1;
	q->w.begin = layer * q->img.layer + begin;
	q->w.end = q->w.begin + nr * q->cluster_size;
	return 0;
}

static int load_window(struct qcow2 *q, uint64_t addr, struct err *err)
{
	unsigned layer = (unsigned)(addr / q->img.layer);
	uint64_t guest = addr % q->img.layer, index = guest >> q->l2_shift, l2;
	bool shared;

	q->w.begin = q->w.end = 0;
	if (l2_offset(q, &q->layers[layer], index, &l2, err) < 0 || shared_l2(q, layer, index, l2, &shared, err) < 0)
		return -1;
	q->w.absent = l2 == 0 || shared;
	if (!q->w.absent && load_piece(q, layer, guest, l2, err) < 0)
		return -1;
	if (q->w.absent) {
		q->w.begin = layer * q->img.layer + (index << q->l2_shift);
		q->w.end = q->w.begin + ((uint64_t)1 << q->l2_shift);
	}
	q->w.end = min_u64(q->w.end, (layer + 1) * q->img.layer);
	return 0;
}

static int seek_window(struct qcow2 *q, uint64_t addr, struct err *err)
{
	return addr >= q->w.begin && addr < q->w.end ? 0 : load_window(q, addr, err);
}

/* The mapping of the cluster at `addr`, which a window that is not absent covers. */
static int window_mapping(struct qcow2 *q, uint64_t addr, struct mapping *ret, struct err *err)
{
	size_t i = (size_t)((addr - q->w.begin) >> q->h.cluster_bits);
	uint64_t guest = round_down(addr % q->img.layer, q->cluster_size);

	if (decode_entry(q, q->w.entries + i * q->entry_size, guest, ret, err) < 0)
		return -1;
	if (addr >= q->img.layer)
		ret->bitmap &= ~q->w.struck[i];
	return 0;
}

/* ---- extents ---- */

/* How many subclusters from `first` on are alike. */
static unsigned count_alike(uint64_t bitmap, unsigned first, unsigned nr)
{
	uint32_t data = (uint32_t)bitmap >> first, zero = (uint32_t)(bitmap >> 32) >> first;
	uint32_t changes = (data & 1 ? ~data : data) | (zero & 1 ? ~zero : zero);
	unsigned n = changes ? (unsigned)__builtin_ctz(changes) : 32;

	return n < nr - first ? n : nr - first;
}

static void mapping_extent(const struct qcow2 *q, const struct mapping *m, uint64_t addr, struct extent *ret)
{
	uint64_t in = addr & (q->cluster_size - 1);
	unsigned sub = m->packed ? 0 : (unsigned)(in >> q->subcluster_bits);
	unsigned nr = m->packed ? q->nr_subclusters : count_alike(m->bitmap, sub, q->nr_subclusters);

	*ret = (struct extent){ .offset = addr };
	ret->len = ((uint64_t)(sub + nr) << q->subcluster_bits) - in;
	if (m->bitmap >> 32 >> sub & 1) {
		ret->kind = EXTENT_ZERO;
		ret->preallocated = m->host != 0;
	} else if (!(m->bitmap >> sub & 1)) {
		ret->kind = EXTENT_HOLE;
	} else if (m->packed) {
		ret->kind = EXTENT_PACKED;
	} else {
		ret->kind = EXTENT_DATA;
		ret->file = q->data_file;
		ret->file_offset = m->host + in;
	}
}

/* What is alike from addr on, up to the end of its cluster or absent table. */
static int extent_at(struct image *img, uint64_t addr, struct extent *ret, struct err *err)
{
	struct qcow2 *q = qcow2_of(img);
	struct mapping m;

	if (seek_window(q, addr, err) < 0)
		return -1;
	if (q->w.absent) {
		*ret = (struct extent){ .offset = addr, .len = q->w.end - addr, .kind = EXTENT_HOLE };
		return 0;
	}
	if (window_mapping(q, addr, &m, err) < 0)
		return -1;
	mapping_extent(q, &m, addr, ret);
	return 0;
}

static int next_qcow2_extent(struct image *img, uint64_t from, struct extent *ret, struct err *err)
{
	return image_merge_extents(img, from, extent_at, &qcow2_of(img)->work, WORK_MAX, ret, err);
}

/* ---- compressed clusters ---- */

static int alloc_decoder(struct qcow2 *q, struct err *err)
{
	if (!q->decoded)
		q->decoded = malloc(q->cluster_size);
	if (!q->packed)
		q->packed = malloc(2 * q->cluster_size);
	if (!q->decoded || !q->packed)
		return err_set(err, ERR_MEMORY, "no memory to decompress a cluster");
	if (q->h.compression == QCOW2_ZSTD && !q->zstd)
		q->zstd = codec_zstd_new(err);
	return q->h.compression == QCOW2_ZSTD && !q->zstd ? -1 : 0;
}

/* Reads the compressed bytes; a last sector that the file does not have whole reads as zeros. */
static int read_compressed(struct qcow2 *q, uint64_t offset, size_t len, struct err *err)
{
	ssize_t n = image_file_read_some(&q->img.file, q->packed, len, offset, err);

	if (n < 0)
		return -1;
	if ((size_t)n < len && offset + (size_t)n < q->img.file.size)
		return err_set(err, ERR_STALE, "the file was cut to %llu bytes while it was read",
			       (unsigned long long)(offset + (size_t)n));
	memset(q->packed + n, 0, len - (size_t)n);
	return 0;
}

static int decode_cluster(struct qcow2 *q, uint64_t descriptor, struct err *err)
{
	unsigned bits = 70 - q->h.cluster_bits;
	uint64_t offset = descriptor & (((uint64_t)1 << bits) - 1);
	uint64_t sectors = (descriptor & ~QCOW2_COMPRESSED) >> bits;
	size_t len = (size_t)((sectors + 1) * 512 - offset % 512);

	if (q->decoded_key == descriptor)
		return 0;
	if (alloc_decoder(q, err) < 0)
		return -1;
	q->decoded_key = 0;
	if (offset >= q->img.file.size)
		return err_set(err, ERR_FORMAT, "it lies at offset %llu, past the end of the file",
			       (unsigned long long)offset);
	if (read_compressed(q, offset, len, err) < 0)
		return -1;
	if (q->h.compression == QCOW2_ZSTD) {
		if (codec_zstd_decode(q->zstd, q->packed, len, q->decoded, q->cluster_size, err) < 0)
			return -1;
	} else if (codec_zlib_decode(CODEC_ZLIB_RAW, 12, q->packed, len, q->decoded, q->cluster_size, err) < 0) {
		return -1;
	}
	q->decoded_key = descriptor;
	return 0;
}

static int read_packed(struct image *img, uint64_t offset, void *buf, size_t len, struct err *err)
{
	struct qcow2 *q = qcow2_of(img);
	struct mapping m;

	for (uint8_t *p = buf; len;) {
		uint64_t in = offset & (q->cluster_size - 1);
		size_t n = (size_t)min_u64(len, q->cluster_size - in);

		if (seek_window(q, offset, err) < 0)
			return -1;
		if (q->w.absent || window_mapping(q, offset, &m, err) < 0 || !m.packed)
			return err_set(err, ERR_USAGE, "no compressed cluster at offset %llu",
				       (unsigned long long)offset);
		if (decode_cluster(q, m.host, err) < 0)
			return err_add(err, "compressed cluster at offset %llu", (unsigned long long)offset);
		memcpy(p, q->decoded + in, n);
		p += n;
		offset += n;
		len -= n;
	}
	return 0;
}

/* ---- snapshots ---- */

static int check_l1(const struct qcow2 *q, const struct layer *layer, struct err *err)
{
	uint64_t bytes = (uint64_t)layer->l1_size * 8;

	if (bytes > QCOW2_L1_BYTES_MAX)
		return err_set(err, ERR_FORMAT, "L1 table of %llu bytes is too large", (unsigned long long)bytes);
	if (layer->l1_offset % q->cluster_size != 0)
		return err_set(err, ERR_FORMAT, "L1 table at offset %llu is not cluster aligned",
			       (unsigned long long)layer->l1_offset);
	if (bytes && !range_within(layer->l1_offset, bytes, q->img.file.size))
		return err_set(err, ERR_FORMAT, "L1 table ends past the end of the file");
	return 0;
}

/* How far the addresses of a layer reach: the disk, or the VM state behind it. */
static uint64_t layer_end(const struct qcow2 *q, const struct layer *layer, uint64_t disk_size, uint64_t vm_state_size)
{
	uint64_t mapped = (uint64_t)layer->l1_size << q->l2_shift, end = min_u64(disk_size, mapped);

	if (!vm_state_size || disk_size >= mapped)
		return end;
	end = round_up(disk_size, (uint64_t)1 << q->l2_shift);
	return vm_state_size < mapped - end ? end + vm_state_size : mapped;
}

/* An entry of the snapshot table, without its strings. */
struct snapshot_entry {
	struct qcow2_snapshot_disk d;
	uint64_t vm_state_size, disk_size;
	uint64_t strings, end; /* offsets: of id and name, and behind it all */
};

static int read_snapshot_entry(struct qcow2 *q, uint64_t at, struct snapshot_entry *ret, struct err *err)
{
	struct snapshot_entry e = { .disk_size = q->h.size };
	struct qcow2_snapshot_extra_disk extra;
	uint64_t size = q->img.file.size, len;
	uint32_t extra_size;

	if (!range_within(at, sizeof(e.d), size))
		return err_set(err, ERR_FORMAT, "the snapshot table ends past the end of the file");
	if (read_table(q, at, &e.d, sizeof(e.d), err) < 0)
		return -1;
	extra_size = be32_get(e.d.extra_size);
	len = sizeof(e.d) + (uint64_t)extra_size + be16_get(e.d.id_size) + be16_get(e.d.name_size);
	if (extra_size > QCOW2_SNAPSHOT_EXTRA_MAX)
		return err_set(err, ERR_FORMAT, "extra data of %u bytes is too large", extra_size);
	if (!range_within(at, len, size))
		return err_set(err, ERR_FORMAT, "the snapshot table ends past the end of the file");
	if (read_table(q, at + sizeof(e.d), &extra, min_u64(extra_size, sizeof(extra)), err) < 0)
		return -1;
	e.vm_state_size = extra_size >= 8 ? be64_get(extra.vm_state_size) : be32_get(e.d.vm_state_size);
	if (extra_size >= 16)
		e.disk_size = be64_get(extra.disk_size);
	e.strings = at + sizeof(e.d) + extra_size;
	e.end = at + round_up(len, 8);
	*ret = e;
	return 0;
}

/* Decodes the snapshot table entry at *at, which then moves behind it. */
static int read_snapshot(struct qcow2 *q, uint64_t *at, struct layer *ret, uint64_t *ret_end, struct err *err)
{
	struct snapshot_entry e;

	if (read_snapshot_entry(q, *at, &e, err) < 0)
		return -1;
	*ret = (struct layer){ .l1_offset = be64_get(e.d.l1_table_offset), .l1_size = be32_get(e.d.l1_size) };
	if (check_l1(q, ret, err) < 0)
		return -1;
	*ret_end = layer_end(q, ret, e.disk_size, e.vm_state_size);
	*at = e.end;
	return 0;
}

/* Fills the layers; *ret is where the one that reaches farthest ends. */
static int read_layers(struct qcow2 *q, uint64_t *ret, struct err *err)
{
	uint64_t at = q->h.snapshots_offset, end = 0, farthest = q->h.size;

	q->nr_layers = 1 + q->h.nr_snapshots;
	q->layers = calloc(q->nr_layers, sizeof(*q->layers));
	if (!q->layers)
		return err_set(err, ERR_MEMORY, "no memory for %u snapshots", q->h.nr_snapshots);
	q->layers[0] = (struct layer){ .l1_offset = q->h.l1_offset, .l1_size = q->h.l1_size };
	if (check_l1(q, &q->layers[0], err) < 0)
		return -1;
	if (div_up(q->h.size, (uint64_t)1 << q->l2_shift) > q->h.l1_size)
		return err_set(err, ERR_FORMAT, "the L1 table is too small for a disk of %llu bytes",
			       (unsigned long long)q->h.size);
	for (unsigned i = 1; i < q->nr_layers; i++) {
		if (read_snapshot(q, &at, &q->layers[i], &end, err) < 0)
			return err_add(err, "snapshot %u", i);
		if (at - q->h.snapshots_offset > QCOW2_SNAPSHOT_TABLE_MAX)
			return err_set(err, ERR_FORMAT, "the snapshot table is too large");
		farthest = max_u64(farthest, end);
	}
	*ret = farthest;
	return 0;
}

/* No L1 table maps more than 2^61 bytes, so nothing wraps here; image_open() refuses what is too large. */
static void set_span(struct qcow2 *q, uint64_t farthest)
{
	struct image *img = &q->img;

	img->size = round_down(q->h.size, 512); /* as QEMU does */
	img->layer = max_u64(round_up(farthest, IMAGE_LAYER_UNIT), IMAGE_LAYER_UNIT);
	img->span = q->nr_layers == 1 ? img->size : img->layer;
	if (q->nr_layers > 1 && !mul_fits(img->layer, q->nr_layers, &img->span))
		img->span = UINT64_MAX;
}

/* ---- what else there is ---- */

/* Reads a string of len bytes, cut to what there is room for; zero bytes end it. */
static int read_name(struct qcow2 *q, uint64_t offset, size_t len, char *ret, size_t room, struct err *err)
{
	len = (size_t)min_u64(len, room - 1);
	ret[len] = '\0';
	return image_file_read(&q->img.file, ret, len, offset, err);
}

static int next_snapshot(struct image *img, uint64_t *at, struct image_snapshot *ret, struct err *err)
{
	struct qcow2 *q = qcow2_of(img);
	uint64_t offset = *at ? *at : q->h.snapshots_offset;
	struct snapshot_entry e;
	size_t id_size;

	if (read_snapshot_entry(q, offset, &e, err) < 0)
		return -1;
	id_size = be16_get(e.d.id_size);
	if (read_name(q, e.strings, id_size, ret->id, sizeof(ret->id), err) < 0 ||
	    read_name(q, e.strings + id_size, be16_get(e.d.name_size), ret->name, sizeof(ret->name), err) < 0)
		return -1;
	ret->date = be32_get(e.d.date_seconds);
	ret->vm_state_size = e.vm_state_size;
	ret->disk_size = e.disk_size;
	*at = e.end;
	return 0;
}

static int show_snapshot(struct image *img, unsigned nr, struct image_snapshot *ret, struct err *err)
{
	struct qcow2 *q = qcow2_of(img);
	uint64_t at = 0;

	for (unsigned i = 1; i <= nr; i++)
		if (next_snapshot(img, &at, ret, err) < 0)
			return err_add(err, "snapshot %u", i);
	if (ret->disk_size > IMAGE_SPAN_MAX)
		return err_set(err, ERR_UNSUPPORTED, "snapshot %u spans 4 PiB or more", nr);
	q->layers[0] = q->layers[nr];
	q->nr_layers = 1;
	q->h.size = ret->disk_size;
	q->w.begin = q->w.end = 0;
	set_span(q, ret->disk_size);
	return 0;
}

static int next_bitmap(struct image *img, uint64_t *at, struct image_bitmap *ret, struct err *err)
{
	struct qcow2 *q = qcow2_of(img);
	uint64_t offset = *at ? *at : q->h.bitmaps_offset, end, len;
	struct qcow2_bitmap_disk d;

	if (q->h.bitmaps_size > QCOW2_BITMAP_DIRECTORY_MAX)
		return err_set(err, ERR_FORMAT, "the bitmap directory of %llu bytes is too large",
			       (unsigned long long)q->h.bitmaps_size);
	if (!range_within(q->h.bitmaps_offset, q->h.bitmaps_size, q->img.file.size))
		return err_set(err, ERR_FORMAT, "the bitmap directory ends past the end of the file");
	end = q->h.bitmaps_offset + q->h.bitmaps_size;
	if (!range_within(offset, sizeof(d), end))
		return err_set(err, ERR_FORMAT, "the bitmap directory is too short");
	if (image_file_read(&q->img.file, &d, sizeof(d), offset, err) < 0)
		return -1;
	len = sizeof(d) + (uint64_t)be32_get(d.extra_data_size) + be16_get(d.name_size);
	if (!range_within(offset, len, end))
		return err_set(err, ERR_FORMAT, "the bitmap directory is too short");
	if (d.granularity_bits > 63)
		return err_set(err, ERR_FORMAT, "a bitmap has granularity 2^%u", d.granularity_bits);
	if (read_name(q, offset + len - be16_get(d.name_size), be16_get(d.name_size), ret->name, sizeof(ret->name),
		      err) < 0)
		return -1;
	ret->granularity = (uint64_t)1 << d.granularity_bits;
	ret->automatic = (be32_get(d.flags) & QCOW2_BITMAP_AUTO) != 0;
	ret->inconsistent = (be32_get(d.flags) & QCOW2_BITMAP_IN_USE) || !(q->h.autoclear & QCOW2_BITMAPS_VALID);
	*at = offset + round_up(len, 8);
	return 0;
}

/* ---- opening ---- */

static int read_header(struct qcow2 *q, struct err *err)
{
	struct qcow2_header_disk d;
	CLEANUP(free) uint8_t *cluster = NULL;
	ssize_t len = image_file_read_some(&q->img.file, &d, sizeof(d), 0, err);
	unsigned bits;

	if (len < 0)
		return -1;
	if (len < QCOW2_V2_LENGTH)
		return err_set(err, ERR_FORMAT, "the file ends inside the qcow2 header");
	bits = be32_get(d.cluster_bits);
	if (bits < QCOW2_CLUSTER_BITS_MIN || bits > QCOW2_CLUSTER_BITS_MAX)
		bits = QCOW2_CLUSTER_BITS_MIN; /* decoding says what is wrong */
	cluster = malloc((size_t)1 << bits);
	if (!cluster)
		return err_set(err, ERR_MEMORY, "no memory for the qcow2 header");
	len = image_file_read_some(&q->img.file, cluster, (size_t)1 << bits, 0, err);
	return len < 0 ? -1 : qcow2_header_decode(cluster, (size_t)len, &q->h, err);
}

static void set_geometry(struct qcow2 *q)
{
	bool extended = q->h.incompatible & QCOW2_EXTENDED_L2;

	q->cluster_size = (uint64_t)1 << q->h.cluster_bits;
	q->entry_size = extended ? 16 : 8;
	q->nr_subclusters = extended ? QCOW2_SUBCLUSTERS : 1;
	q->subcluster_bits = q->h.cluster_bits - (extended ? 5 : 0);
	q->l2_shift = 2 * q->h.cluster_bits - (extended ? 4 : 3);
}

static void set_info(struct qcow2 *q)
{
	struct image_info *info = &q->img.info;

	info->version = q->h.version;
	info->cluster_size = q->cluster_size;
	memcpy(info->backing_name, q->h.backing_name, sizeof(q->h.backing_name));
	memcpy(info->backing_format, q->h.backing_format, sizeof(q->h.backing_format));
	info->nr_snapshots = q->h.nr_snapshots;
	info->nr_bitmaps = q->h.nr_bitmaps;
	info->encrypted = q->h.crypt_method != QCOW2_CRYPT_NONE;
	info->compressed = !(q->h.incompatible & QCOW2_DATA_FILE);
	info->dirty = q->h.incompatible & QCOW2_DIRTY;
	info->corrupt = q->h.incompatible & QCOW2_CORRUPT;
	info->extended_l2 = q->h.incompatible & QCOW2_EXTENDED_L2;
	qcow2_header_describe(&q->h, info->features, sizeof(info->features));
}

static int open_data_file(struct qcow2 *q, const struct image_opener *opener, struct err *err)
{
	q->data_file = &q->img.file;
	if (!(q->h.incompatible & QCOW2_DATA_FILE))
		return 0;
	if (!q->h.data_file[0])
		return err_set(err, ERR_UNSUPPORTED, "the data is in an external file that the image does not name");
	q->data_file = image_open_part(&q->img, IMAGE_DATA_FILE, q->h.data_file, opener, err);
	return q->data_file ? 0 : -1;
}

static int alloc_window(struct qcow2 *q, struct err *err)
{
	bool layered = q->h.nr_snapshots;

	q->w.entries = malloc(PIECE);
	q->l1_pieces = malloc(NR_L1_PIECES * L1_PIECE);
	q->w.other = layered ? malloc(PIECE) : NULL;
	q->w.struck = layered ? calloc(ENTRIES_MAX, sizeof(*q->w.struck)) : NULL;
	if (!q->w.entries || !q->l1_pieces || (layered && (!q->w.other || !q->w.struck)))
		return err_set(err, ERR_MEMORY, "no memory for the tables of a qcow2 image");
	return 0;
}

static void release_qcow2(struct image *img)
{
	struct qcow2 *q = qcow2_of(img);

	codec_zstd_free(q->zstd);
	free(q->decoded);
	free(q->packed);
	free(q->w.entries);
	free(q->w.struck);
	free(q->w.other);
	free(q->l1_pieces);
	free(q->layers);
}

static int open_tables(struct qcow2 *q, struct err *err)
{
	uint64_t farthest = 0;

	set_geometry(q);
	set_info(q);
	if (alloc_window(q, err) < 0 || read_layers(q, &farthest, err) < 0)
		return -1;
	set_span(q, farthest);
	return 0;
}

static int open_qcow2(struct image *img, const struct image_opener *opener, struct err *err)
{
	struct qcow2 *q = qcow2_of(img);

	if (read_header(q, err) < 0 || open_tables(q, err) < 0 || open_data_file(q, opener, err) < 0)
		return -1;
	return 0;
}

static enum image_claim probe_qcow2(const struct image_look *look)
{
	const uint8_t *p = look->head;

	return look->len >= 8 && memcmp(p, QCOW2_MAGIC, 4) == 0 && be32_load(p + 4) >= 2 ? IMAGE_HEADER
											 : IMAGE_NOT_MINE;
}

extern const struct image_format image_format_qcow2;
const struct image_format image_format_qcow2 = {
	.name = "qcow2",
	.extensions = (const char *const[]){ "qcow2", "qcow", NULL },
	.instance = sizeof(struct qcow2),
	.probe = probe_qcow2,
	.open = open_qcow2,
	.next_extent = next_qcow2_extent,
	.read_packed = read_packed,
	.next_snapshot = next_snapshot,
	.show_snapshot = show_snapshot,
	.next_bitmap = next_bitmap,
	.release = release_qcow2,
};
