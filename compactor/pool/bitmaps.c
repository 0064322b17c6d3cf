/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/pool/bitmaps.h"

#include <stdlib.h>
#include <string.h>

#include "compactor/pool/qcow2_writer.h"
#include "compactor/pool/view.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"

/* Behind the clusters that the new file has already:
 *
 *	| bits | bits | table | bits | table | directory | refcount blocks |	clusters of 64 KiB
 *
 * Cluster sizes differ, so bits are read in pieces as large as the new file's clusters, from however many of the old one.  A piece
 * of zeros is an entry of 0, one of nothing but ones an entry of 1; of others what is not zeros is written, the rest are holes.
 *
 * Last of all the header gets the extension, and the bit that says that it is right: nobody knows the new file before that. */

#define BITS_PER_BYTE 8u
#define KNOWN_FLAGS (QCOW2_BITMAP_IN_USE | QCOW2_BITMAP_AUTO | QCOW2_BITMAP_EXTRA_COMPATIBLE)
#define TYPE_DIRTY_TRACKING 1
/* As QEMU has them. */
#define GRANULARITY_BITS_MIN 9
#define GRANULARITY_BITS_MAX 31
#define TABLE_BITS_MAX ((uint64_t)512 << 20) /* bytes of bits that one table leads to */
#define ALL_ONES ((uint64_t)1)
#define RESERVED (~(QCOW2_OFFSET_MASK | ALL_ONES))

#define PIECE BITMAPS_PIECE
#define SECTOR 512u
#define WRITE_BLOCK 4096u
#define SHOWN(m) (int)min_u64((m)->name_len, 80), (m)->name /* for %.*s */

static int no_memory(struct err *err)
{
	return err_set(err, ERR_MEMORY, "no memory for persistent bitmaps");
}

static int add_name(struct err *err, const struct bitmap *m)
{
	return err_add(err, "bitmap '%.*s'", SHOWN(m));
}

static bool is_in_use(const struct bitmap *m)
{
	return m->flags & QCOW2_BITMAP_IN_USE;
}

/* Bytes that have bits. */
static uint64_t bytes_of(const struct bitmap *m)
{
	return div_up(m->nr_bits, BITS_PER_BYTE);
}

/* Bytes of its entry in a directory. */
static uint64_t entry_bytes(const struct bitmap *m)
{
	return round_up(sizeof(struct qcow2_bitmap_disk) + (uint64_t)m->extra_len + m->name_len, 8);
}

static uint64_t count_bits(uint64_t size, unsigned granularity_bits)
{
	return div_up(size, (uint64_t)1 << granularity_bits);
}

/* ---- reading ---- */

static int decode_table(const struct bitmaps *b, const struct qcow2_bitmap_disk *d, struct bitmap *m, struct err *err)
{
	uint64_t cluster = (uint64_t)1 << b->cluster_bits, bytes;

	m->table_offset = be64_get(d->bitmap_table_offset);
	m->table_size = be32_get(d->bitmap_table_size);
	bytes = (uint64_t)m->table_size << b->cluster_bits;
	if (m->table_size == 0 || m->table_offset == 0 || m->table_offset % cluster != 0 ||
	    !range_within(m->table_offset, (uint64_t)m->table_size * sizeof(be64), b->file_size))
		return err_set(err, ERR_FORMAT, "its table of %u entries cannot lie at offset %llu", m->table_size,
			       (unsigned long long)m->table_offset);
	if (bytes > TABLE_BITS_MAX)
		return err_set(err, ERR_FORMAT, "its table of %u entries is too large", m->table_size);
	m->nr_bits = is_in_use(m) ? bytes * BITS_PER_BYTE : count_bits(b->size, m->granularity_bits);
	if (div_up(bytes_of(m), cluster) != m->table_size)
		return err_set(err, ERR_FORMAT, "its table has %u entries, and the disk needs %llu", m->table_size,
			       (unsigned long long)div_up(bytes_of(m), cluster));
	return 0;
}

static int check_kind(const struct bitmap *m, unsigned type, struct err *err)
{
	if (type != TYPE_DIRTY_TRACKING)
		return err_set(err, ERR_UNSUPPORTED, "type %u is not known", type);
	if (m->flags & ~KNOWN_FLAGS)
		return err_set(err, ERR_UNSUPPORTED, "flags 0x%x are not known", m->flags & ~KNOWN_FLAGS);
	if (m->granularity_bits < GRANULARITY_BITS_MIN || m->granularity_bits > GRANULARITY_BITS_MAX)
		return err_set(err, ERR_UNSUPPORTED, "its granularity 2^%u is not from 512 bytes to 2 GiB", m->granularity_bits);
	return 0;
}

static int too_short(struct err *err)
{
	return err_set(err, ERR_FORMAT, "the bitmap directory is too short");
}

/* The entry at *at, which then moves behind it. */
static int decode_entry(const struct bitmaps *b, uint64_t size, uint64_t *at, struct bitmap *ret, struct err *err)
{
	struct qcow2_bitmap_disk d;
	struct bitmap m;

	if (!range_within(*at, sizeof(d), size))
		return too_short(err);
	memcpy(&d, b->directory + *at, sizeof(d));
	m = (struct bitmap){
		.extra_len = be32_get(d.extra_data_size), .name_len = be16_get(d.name_size), .flags = be32_get(d.flags),
		.granularity_bits = d.granularity_bits,
	};
	if (!range_within(*at, entry_bytes(&m), size))
		return too_short(err);
	m.extra = b->directory + *at + sizeof(d);
	m.name = (const char *)m.extra + m.extra_len;
	if (m.name_len == 0 || m.name_len > QCOW2_NAME_MAX)
		return err_set(err, ERR_FORMAT, "a bitmap's name has %u bytes", m.name_len);
	if (check_kind(&m, d.type, err) < 0 || decode_table(b, &d, &m, err) < 0)
		return add_name(err, &m);
	*at += entry_bytes(&m);
	*ret = m;
	return 0;
}

static bool has_name(const struct bitmaps *b, const struct bitmap *m)
{
	for (size_t i = 0; i < b->list.nr; i++)
		if (b->list.items[i].name_len == m->name_len && memcmp(b->list.items[i].name, m->name, m->name_len) == 0)
			return true;
	return false;
}

static int decode_directory(struct bitmaps *b, uint32_t nr, uint64_t size, struct err *err)
{
	uint64_t at = 0, bytes = 0;
	struct bitmap m;

	for (uint32_t i = 0; i < nr; i++) {
		if (decode_entry(b, size, &at, &m, err) < 0)
			return -1;
		if (has_name(b, &m))
			return err_set(err, ERR_FORMAT, "two bitmaps have the name '%.*s'", SHOWN(&m));
		bytes += bytes_of(&m);
		if (bytes > BITMAPS_BITS_MOST)
			return err_set(err, ERR_UNSUPPORTED, "its persistent bitmaps have more than 1 GiB of bits");
		if (vec_push(&b->list, m) < 0)
			return no_memory(err);
	}
	return at == size ? 0 : err_set(err, ERR_FORMAT, "the bitmap directory is too long");
}

/* ---- tables ---- */

static int check_entry(struct bitmaps *b, uint64_t entry, struct err *err)
{
	uint64_t cluster = (uint64_t)1 << b->cluster_bits, offset = entry & QCOW2_OFFSET_MASK;

	if ((entry & RESERVED) || (offset && (entry & ALL_ONES)) || offset % cluster != 0 ||
	    (offset && !range_within(offset, cluster, b->file_size)))
		return err_set(err, ERR_FORMAT, "an entry 0x%llx of its table leads nowhere", (unsigned long long)entry);
	b->stored += offset ? cluster : 0;
	return 0;
}

static int read_entries(const struct bitmaps *b, const struct bitmap *m, uint64_t first, be64 *ret, size_t nr, struct err *err)
{
	return file_read(b->fd, ret, nr * sizeof(*ret), m->table_offset + first * sizeof(*ret), err);
}

/* Behind the last bit there are only zeros, where it is stored. */
static int check_tail(const struct bitmaps *b, const struct bitmap *m, uint64_t last_entry, struct err *err)
{
	uint64_t cluster = (uint64_t)1 << b->cluster_bits, from = m->nr_bits / BITS_PER_BYTE % cluster;
	unsigned used = m->nr_bits % BITS_PER_BYTE;
	CLEANUP(free) uint8_t *p = malloc(cluster);

	if (!(last_entry & QCOW2_OFFSET_MASK) || m->nr_bits % (cluster * BITS_PER_BYTE) == 0)
		return 0;
	if (!p)
		return no_memory(err);
	if (file_read(b->fd, p, cluster - from, (last_entry & QCOW2_OFFSET_MASK) + from, err) < 0)
		return -1;
	p[0] &= (uint8_t)(0xff << used);
	for (uint64_t i = 0; i < cluster - from; i++)
		if (p[i])
			return err_set(err, ERR_FORMAT, "it has bits behind the end of the disk");
	return 0;
}

static int check_table(struct bitmaps *b, const struct bitmap *m, struct err *err)
{
	be64 entries[WRITE_BLOCK / sizeof(be64)];
	uint64_t entry = 0;
	size_t nr;

	for (uint64_t at = 0; at < m->table_size; at += nr) {
		nr = (size_t)min_u64(m->table_size - at, ARRAY_SIZE(entries));
		if (read_entries(b, m, at, entries, nr, err) < 0)
			return -1;
		for (size_t i = 0; i < nr; i++) {
			entry = be64_get(entries[i]);
			if (check_entry(b, entry, err) < 0)
				return -1;
		}
	}
	return is_in_use(m) ? 0 : check_tail(b, m, entry, err);
}

/* ---- opening ---- */

static int check_directory(const struct bitmaps *b, const struct qcow2_header *h, struct err *err)
{
	if (h->nr_bitmaps > BITMAPS_MOST || h->bitmaps_size > BITMAPS_DIRECTORY_MOST)
		return err_set(err, ERR_UNSUPPORTED, "%u persistent bitmaps in %llu bytes of names are more than can be carried",
			       h->nr_bitmaps, (unsigned long long)h->bitmaps_size);
	if (h->bitmaps_offset == 0 || h->bitmaps_offset % ((uint64_t)1 << b->cluster_bits) != 0 ||
	    !range_within(h->bitmaps_offset, h->bitmaps_size, b->file_size))
		return err_set(err, ERR_FORMAT, "the bitmap directory of %llu bytes cannot lie at offset %llu",
			       (unsigned long long)h->bitmaps_size, (unsigned long long)h->bitmaps_offset);
	return 0;
}

static int read_directory(struct bitmaps *b, const struct qcow2_header *h, struct err *err)
{
	if (check_directory(b, h, err) < 0)
		return -1;
	b->directory = malloc(h->bitmaps_size + 1);
	if (!b->directory)
		return no_memory(err);
	if (file_read(b->fd, b->directory, h->bitmaps_size, h->bitmaps_offset, err) < 0 ||
	    decode_directory(b, h->nr_bitmaps, h->bitmaps_size, err) < 0)
		return -1;
	for (size_t i = 0; i < b->list.nr; i++)
		if (check_table(b, &b->list.items[i], err) < 0)
			return add_name(err, &b->list.items[i]);
	return 0;
}

int bitmaps_read(int fd, struct bitmaps *ret, struct err *err)
{
	CLEANUP(bitmaps_release) struct bitmaps b = BITMAPS_INIT;
	struct qcow2_header h;
	struct stat st;

	if (overlay_header(fd, &h, err) < 0)
		return -1;
	if (file_ops->fstat(fd, &st) < 0)
		return err_errno(err, "cannot look at it");
	b.fd = fd;
	b.cluster_bits = h.cluster_bits;
	b.size = round_down(h.size, SECTOR);
	b.file_size = (uint64_t)st.st_size;
	if (h.nr_bitmaps && !(h.autoclear & QCOW2_BITMAPS_VALID))
		b.nr_invalid = h.nr_bitmaps;
	else if (h.nr_bitmaps && read_directory(&b, &h, err) < 0)
		return -1;
	*ret = b;
	b = (struct bitmaps)BITMAPS_INIT;
	return 0;
}

void bitmaps_release(struct bitmaps *b)
{
	free(b->directory);
	vec_release(&b->list);
	*b = (struct bitmaps)BITMAPS_INIT;
}

bool bitmaps_left_behind(const struct bitmaps *b, struct err *ret)
{
	if (!b->nr_invalid)
		return false;
	err_set(ret, ERR_STALE,
		"its persistent bitmaps, %u of them, are left behind: a program that knows none has written to it since",
		b->nr_invalid);
	return true;
}

/* ---- bits ---- */

/* How many clusters of the file, which are not smaller than 512 bytes, a piece of bits may lie in. */
#define ENTRIES_MAX (PIECE >> QCOW2_CLUSTER_BITS_MIN)

int bitmaps_bits(const struct bitmaps *b, const struct bitmap *m, uint64_t at, uint8_t ret[PIECE], struct err *err)
{
	uint64_t cluster = (uint64_t)1 << b->cluster_bits, step = min_u64(cluster, PIECE);
	uint64_t bytes = bytes_of(m) > at ? min_u64(bytes_of(m) - at, PIECE) : 0;
	be64 entries[ENTRIES_MAX];

	memset(ret, 0, PIECE);
	if (bytes && read_entries(b, m, at >> b->cluster_bits, entries, div_up(bytes, step), err) < 0)
		return -1;
	for (uint64_t i = 0; i * step < bytes; i++) {
		uint64_t entry = be64_get(entries[i]), offset = entry & QCOW2_OFFSET_MASK;
		size_t len = (size_t)min_u64(step, bytes - i * step);

		if (!offset)
			memset(ret + i * step, entry & ALL_ONES ? 0xff : 0, len);
		else if (file_read(b->fd, ret + i * step, len, offset + at % cluster, err) < 0)
			return -1;
	}
	if (bytes && at + bytes == bytes_of(m) && m->nr_bits % BITS_PER_BYTE)
		ret[bytes - 1] &= (uint8_t)(0xff >> (BITS_PER_BYTE - m->nr_bits % BITS_PER_BYTE));
	return 0;
}

static bool is_all(const uint8_t *p, size_t len, uint8_t byte)
{
	return p[0] == byte && memcmp(p, p + 1, len - 1) == 0;
}

/* ---- appending ---- */

struct appending {
	const struct bitmaps *from;
	int fd;
	struct qcow2_header h;
	uint64_t cluster, first, end; /* bytes; what is new begins and ends there */
	bitmaps_check *check;
	void *check_ctx;
	uint8_t *piece;
};

static uint64_t take(struct appending *a, uint64_t len)
{
	uint64_t at = a->end;

	a->end += round_up(len, a->cluster);
	return at;
}

static int write_sparse(int fd, const uint8_t *p, size_t len, uint64_t at, struct err *err)
{
	size_t n;

	for (size_t i = 0; i < len; i += n) {
		n = (size_t)min_u64(len - i, WRITE_BLOCK);
		if (!is_all(p + i, n, 0) && file_write(fd, p + i, n, at + i, err) < 0)
			return -1;
	}
	return 0;
}

/* A cluster of bits: its entry. */
static int append_bits(struct appending *a, const struct bitmap *m, uint64_t at, be64 *ret, struct err *err)
{
	uint64_t where;

	if (a->check && a->check(a->check_ctx, 0, 0, err) < 0)
		return -1;
	if (bitmaps_bits(a->from, m, at, a->piece, err) < 0)
		return -1;
	*ret = be64_from(is_all(a->piece, PIECE, 0xff) ? ALL_ONES : 0);
	if (be64_get(*ret) || is_all(a->piece, PIECE, 0))
		return 0;
	where = take(a, PIECE);
	*ret = be64_from(where);
	return write_sparse(a->fd, a->piece, PIECE, where, err);
}

static int append_bitmap(struct appending *a, const struct bitmap *m, struct qcow2_bitmap_disk *ret, struct err *err)
{
	uint64_t nr = div_up(bytes_of(m), a->cluster), where;
	CLEANUP(free) be64 *table = calloc(nr, sizeof(*table));

	if (!table)
		return no_memory(err);
	for (uint64_t i = 0; i < nr; i++)
		if (append_bits(a, m, i * a->cluster, &table[i], err) < 0)
			return -1;
	where = take(a, nr * sizeof(*table));
	*ret = (struct qcow2_bitmap_disk){
		.bitmap_table_offset = be64_from(where),
		.bitmap_table_size = be32_from((uint32_t)nr),
		.flags = be32_from(m->flags),
		.type = TYPE_DIRTY_TRACKING,
		.granularity_bits = (uint8_t)m->granularity_bits,
		.name_size = be16_from(m->name_len),
		.extra_data_size = be32_from(m->extra_len),
	};
	return write_sparse(a->fd, (const uint8_t *)table, nr * sizeof(*table), where, err);
}

static uint64_t directory_bytes(const struct bitmaps *b)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < b->list.nr; i++)
		bytes += entry_bytes(&b->list.items[i]);
	return bytes;
}

static int append_all(struct appending *a, struct qcow2_bitmaps_disk *ret, struct err *err)
{
	uint64_t bytes = directory_bytes(a->from), at = 0, where;
	CLEANUP(free) uint8_t *p = calloc(1, bytes);

	if (!p)
		return no_memory(err);
	for (size_t i = 0; i < a->from->list.nr; i++) {
		const struct bitmap *m = &a->from->list.items[i];
		struct qcow2_bitmap_disk d;

		if (append_bitmap(a, m, &d, err) < 0)
			return -1;
		memcpy(p + at, &d, sizeof(d));
		memcpy(p + at + sizeof(d), m->extra, (size_t)m->extra_len + m->name_len); /* the name lies behind */
		at += entry_bytes(m);
	}
	where = take(a, bytes);
	*ret = (struct qcow2_bitmaps_disk){
		.nb_bitmaps = be32_from((uint32_t)a->from->list.nr),
		.bitmap_directory_size = be64_from(bytes),
		.bitmap_directory_offset = be64_from(where),
	};
	return file_write(a->fd, p, bytes, where, err);
}

/* ---- refcounts ---- */

/* Where the refcount block is: made if there is none, and then it is one more cluster that has to be counted. */
static int find_block(struct appending *a, uint64_t block, uint64_t *ret, struct err *err)
{
	uint64_t at = a->h.refcount_offset + block * sizeof(be64);
	be64 entry;

	if (block >= (uint64_t)a->h.refcount_clusters * a->cluster / sizeof(be64))
		return err_set(err, ERR_UNSUPPORTED, "its refcount table has no room for persistent bitmaps");
	if (file_read(a->fd, &entry, sizeof(entry), at, err) < 0)
		return -1;
	*ret = be64_get(entry);
	if (*ret)
		return 0;
	*ret = take(a, a->cluster);
	entry = be64_from(*ret);
	return file_write(a->fd, &entry, sizeof(entry), at, err);
}

static int write_refcounts(struct appending *a, struct err *err)
{
	uint64_t per_block = a->cluster / sizeof(be16), first = a->first / a->cluster, where, last = 0;
	CLEANUP(free) be16 *ones = malloc(a->cluster);

	if (!ones)
		return no_memory(err);
	for (uint64_t i = 0; i < per_block; i++)
		ones[i] = be16_from(1);
	for (uint64_t block = first / per_block; block * per_block < a->end / a->cluster; last = block++)
		if (find_block(a, block, &where, err) < 0)
			return -1;
	for (uint64_t block = first / per_block; block <= last; block++) {
		uint64_t begin = max_u64(first, block * per_block), end = min_u64(a->end / a->cluster, (block + 1) * per_block);

		if (find_block(a, block, &where, err) < 0 ||
		    file_write(a->fd, ones, (end - begin) * sizeof(*ones), where + begin % per_block * sizeof(*ones), err) < 0)
			return -1;
	}
	return file_truncate(a->fd, a->end, err);
}

/* ---- the header ---- */

/* Where the mark of the extensions' end is. */
static size_t end_of_extensions(const uint8_t *p, size_t len, size_t at)
{
	while (at + sizeof(struct qcow2_extension_disk) <= len) {
		const struct qcow2_extension_disk *x = (const void *)(p + at);
		size_t step = qcow2_extension_bytes(be32_get(x->length));

		if (be32_get(x->type) == QCOW2_EXT_END || step > len - at)
			break;
		at += step;
	}
	return at;
}

static int write_header(struct appending *a, const struct qcow2_bitmaps_disk *d, struct err *err)
{
	CLEANUP(free) uint8_t *p = malloc(a->cluster);
	struct qcow2_header_disk *h = (void *)p;
	size_t at, name = strlen(a->h.backing_name);

	if (!p)
		return no_memory(err);
	if (file_read(a->fd, p, a->cluster, 0, err) < 0)
		return -1;
	at = end_of_extensions(p, a->cluster, a->h.header_length);
	if (at + qcow2_extension_bytes(sizeof(*d)) + qcow2_extension_bytes(0) + name > a->cluster)
		return err_set(err, ERR_UNSUPPORTED, "its header has no room for persistent bitmaps");
	memset(p + at, 0, a->cluster - at);
	at += qcow2_extension_encode(p + at, QCOW2_EXT_BITMAPS, d, sizeof(*d));
	at += qcow2_extension_encode(p + at, QCOW2_EXT_END, NULL, 0);
	if (name)
		qcow2_backing_encode(p, at, a->h.backing_name);
	h->autoclear_features = be64_from(a->h.autoclear | QCOW2_BITMAPS_VALID);
	return file_write(a->fd, p, at + name, 0, err);
}

static int check_target(const struct appending *a, struct err *err)
{
	const struct qcow2_header *h = &a->h;

	if (h->version < 3 || h->refcount_order != 4 || h->nr_bitmaps || a->cluster != PIECE)
		return err_set(err, ERR_UNSUPPORTED, "persistent bitmaps are not written to such an image");
	for (size_t i = 0; i < a->from->list.nr; i++) {
		const struct bitmap *m = &a->from->list.items[i];

		if (!is_in_use(m) && count_bits(round_down(h->size, SECTOR), m->granularity_bits) != m->nr_bits)
			return err_set(err, ERR_UNSUPPORTED, "its persistent bitmaps are of a disk of another size");
	}
	return 0;
}

int bitmaps_append(const struct bitmaps *b, int fd, bitmaps_check *check, void *check_ctx, struct err *err)
{
	CLEANUP(free) uint8_t *piece = malloc(PIECE);
	struct appending a = { .from = b, .fd = fd, .check = check, .check_ctx = check_ctx, .piece = piece };
	struct qcow2_bitmaps_disk d;
	struct stat st;

	if (b->list.nr == 0)
		return 0;
	if (!piece)
		return no_memory(err);
	if (overlay_header(fd, &a.h, err) < 0)
		return -1;
	a.cluster = (uint64_t)1 << a.h.cluster_bits;
	if (check_target(&a, err) < 0)
		return -1;
	if (file_ops->fstat(fd, &st) < 0)
		return err_errno(err, "cannot look at it");
	a.first = a.end = round_up((uint64_t)st.st_size, a.cluster);
	return append_all(&a, &d, err) < 0 || write_refcounts(&a, err) < 0 ? -1 : write_header(&a, &d, err);
}

/* ---- proving ---- */

static bool same_facts(const struct bitmap *x, const struct bitmap *y)
{
	return x->flags == y->flags && x->granularity_bits == y->granularity_bits && (is_in_use(x) || x->nr_bits == y->nr_bits) &&
	       x->extra_len == y->extra_len && x->name_len == y->name_len &&
	       memcmp(x->extra, y->extra, (size_t)x->extra_len + x->name_len) == 0;
}

struct proving {
	const struct bitmaps *old, *copy;
	bitmaps_check *check;
	void *check_ctx;
	uint8_t *buf; /* two pieces */
};

/* 1 = all their bits are the same.  The copy of one in use has zeros behind them. */
static int same_bits(struct proving *p, const struct bitmap *x, const struct bitmap *y, struct err *err)
{
	uint64_t bytes = max_u64(bytes_of(x), bytes_of(y));

	for (uint64_t at = 0; at < bytes; at += PIECE) {
		if (p->check && p->check(p->check_ctx, 0, 0, err) < 0)
			return -1;
		if (bitmaps_bits(p->old, x, at, p->buf, err) < 0 || bitmaps_bits(p->copy, y, at, p->buf + PIECE, err) < 0)
			return -1;
		if (memcmp(p->buf, p->buf + PIECE, PIECE) != 0)
			return 0;
	}
	return 1;
}

static int compare(struct proving *p, struct err *err)
{
	if (p->old->list.nr != p->copy->list.nr)
		return err_set(err, ERR_IO, "it has %zu persistent bitmaps, the original %zu", p->copy->list.nr, p->old->list.nr);
	for (size_t i = 0; i < p->old->list.nr; i++) {
		const struct bitmap *x = &p->old->list.items[i], *y = &p->copy->list.items[i];
		int rc = same_facts(x, y) ? same_bits(p, x, y, err) : 0;

		if (rc < 0)
			return add_name(err, x);
		if (rc == 0)
			return err_set(err, ERR_IO, "bitmap '%.*s' differs from the original's", SHOWN(x));
	}
	return 0;
}

int bitmaps_prove(const struct bitmaps *b, int fd, bitmaps_check *check, void *check_ctx, struct err *err)
{
	CLEANUP(bitmaps_release) struct bitmaps copy = BITMAPS_INIT;
	CLEANUP(free) uint8_t *buf = malloc(2 * PIECE);
	struct proving p = { b, &copy, check, check_ctx, buf };

	if (!buf)
		return no_memory(err);
	return bitmaps_read(fd, &copy, err) < 0 || compare(&p, err) < 0 ? err_add(err, "the new image") : 0;
}
