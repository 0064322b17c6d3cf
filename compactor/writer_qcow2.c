/* SPDX-License-Identifier: Apache-2.0 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "compactor/writer.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/base/vec.h"
#include "scanner/image/qcow2_format.h"

/*
 *	| header | L1 table | L2 | data ... | L2 | data ... | refcount table | refcount blocks |
 *
 * Each L2 table stands before the data that it leads to.  Since clusters come in order, it is complete when the next one begins,
 * and only that one is held in memory.  The file has no gaps between clusters: in the end all have a refcount of one, but for those
 * with compressed data:
 *
 *	| L2 | pppppqq|qqqrrrrss|ssst....| L2 | ...	refcounts 3, 3, 2 of the host clusters between the tables
 *
 * These lie one behind the other, to the byte, and a host cluster is counted by each that has a part in it. */

#define CLUSTER_DEFAULT ((uint64_t)64 << 10)
#define REFCOUNT_ORDER 4
#define REFCOUNT_SIZE sizeof(be16)
#define NO_TABLE UINT64_MAX

struct qcow2_writer {
	struct writer w;
	unsigned cluster_bits, l2_bits; /* an L2 table has 1 << l2_bits entries */
	be64 *l1, *l2;
	size_t nr_l1;
	uint64_t table; /* the one that is in l2, or NO_TABLE */
	uint64_t refcount_offset, refcount_clusters;

	uint64_t packed_at, packed_left; /* where the next compressed bytes go, and room there */
	VEC(uint16_t) packed_counts;	 /* by host cluster: compressed ones in it; 0 = it holds something else */
};

static struct qcow2_writer *qcow2_of(struct writer *w)
{
	return (struct qcow2_writer *)w;
}

/* ---- clusters ---- */

static int qcow2_begin(struct writer *w, struct err *err)
{
	struct qcow2_writer *q = qcow2_of(w);
	uint64_t nr_l1;

	if (!w->cluster_size)
		w->cluster_size = CLUSTER_DEFAULT;
	q->cluster_bits = (unsigned)__builtin_ctzll(w->cluster_size);
	q->l2_bits = q->cluster_bits - 3;
	q->table = NO_TABLE;
	nr_l1 = max_u64(div_up(w->size, w->cluster_size << q->l2_bits), 1);
	if (nr_l1 * sizeof(*q->l1) > QCOW2_L1_BYTES_MAX)
		return err_set(err, ERR_UNSUPPORTED, "clusters of %llu bytes are too small for a qcow2 image of this size",
			       (unsigned long long)w->cluster_size);
	q->nr_l1 = (size_t)nr_l1;
	q->l1 = calloc(q->nr_l1, sizeof(*q->l1));
	q->l2 = malloc((size_t)w->cluster_size);
	if (!q->l1 || !q->l2)
		return err_set(err, ERR_MEMORY, "no memory for an L1 table of %zu entries", q->nr_l1);
	w->file_end = w->cluster_size + round_up(q->nr_l1 * sizeof(*q->l1), w->cluster_size);
	return 0;
}

static void qcow2_release(struct writer *w)
{
	free(qcow2_of(w)->l1);
	free(qcow2_of(w)->l2);
	vec_release(&qcow2_of(w)->packed_counts);
}

/* One more cluster at the file's end, which is not larger than a refcount table can tell. */
static int add_cluster(struct writer *w, struct err *err)
{
	uint64_t per_block = w->cluster_size / REFCOUNT_SIZE, clusters = w->file_end / w->cluster_size;

	if (clusters / per_block + 2 >= QCOW2_REFTABLE_BYTES_MAX / sizeof(be64))
		return err_set(err, ERR_UNSUPPORTED, "clusters of %llu bytes are too small for a qcow2 image with so much data",
			       (unsigned long long)w->cluster_size);
	w->file_end += w->cluster_size;
	return 0;
}

/* Of either table. */
static int set_entry(struct writer *w, be64 *entry, struct err *err)
{
	uint64_t at = w->file_end;

	if (add_cluster(w, err) < 0)
		return -1;
	*entry = be64_from(at | QCOW2_COPIED);
	return 0;
}

static uint64_t offset_in(be64 entry)
{
	return be64_get(entry) & QCOW2_OFFSET_MASK;
}

static int write_l2(struct qcow2_writer *q, struct err *err)
{
	if (q->table == NO_TABLE)
		return 0;
	return writer_write_table(q->w.fd, q->l2, (size_t)q->w.cluster_size, offset_in(q->l1[q->table]), err);
}

static int begin_l2(struct qcow2_writer *q, uint64_t table, struct err *err)
{
	if (write_l2(q, err) < 0 || set_entry(&q->w, &q->l1[table], err) < 0)
		return -1;
	memset(q->l2, 0, (size_t)q->w.cluster_size);
	q->table = table;
	return 0;
}

/* The entry of the cluster at `offset`, in the table at hand. */
static int find_entry(struct qcow2_writer *q, uint64_t offset, be64 **ret, struct err *err)
{
	uint64_t cluster = offset >> q->cluster_bits, table = cluster >> q->l2_bits;

	if (table != q->table && begin_l2(q, table, err) < 0)
		return -1;
	*ret = &q->l2[cluster & ((1u << q->l2_bits) - 1)];
	return 0;
}

static int qcow2_place(struct writer *w, uint64_t offset, struct writer_place *ret, struct err *err)
{
	uint64_t inside = offset & (w->cluster_size - 1);
	be64 *entry;

	if (find_entry(qcow2_of(w), offset, &entry, err) < 0)
		return -1;
	if (be64_get(*entry) == 0 && set_entry(w, entry, err) < 0)
		return -1;
	ret->at = offset_in(*entry) + inside;
	ret->len = w->cluster_size - inside;
	return 0;
}

/* ---- compressed clusters ---- */

/* Room for len bytes, at most a cluster, behind those that are there, or in clusters of their own. */
static int make_room(struct qcow2_writer *q, size_t len, struct err *err)
{
	struct writer *w = &q->w;

	if (len <= q->packed_left)
		return 0;
	if (q->packed_at + q->packed_left != w->file_end) {
		q->packed_at = w->file_end;
		q->packed_left = 0;
	}
	q->packed_left += w->cluster_size;
	return add_cluster(w, err);
}

static int count_packed(struct qcow2_writer *q, uint64_t at, size_t len, struct err *err)
{
	uint64_t last = (at + len - 1) >> q->cluster_bits;

	if (last * sizeof(uint16_t) >= WRITER_TABLE_MAX)
		return err_set(err, ERR_UNSUPPORTED,
			       "clusters of %llu bytes are too small for a qcow2 image with so much compressed data",
			       (unsigned long long)q->w.cluster_size);
	while (q->packed_counts.nr <= last)
		if (vec_push(&q->packed_counts, 0) < 0)
			return err_set(err, ERR_MEMORY, "no memory for the refcounts of %zu clusters", q->packed_counts.nr);
	for (uint64_t i = at >> q->cluster_bits; i <= last; i++)
		q->packed_counts.items[i]++;
	return 0;
}

static int qcow2_add(struct writer *w, uint64_t offset, const void *packed, size_t len, struct err *err)
{
	struct qcow2_writer *q = qcow2_of(w);
	uint64_t at, more;
	be64 *entry;

	assert(len < w->cluster_size);
	if (find_entry(q, offset, &entry, err) < 0 || make_room(q, len, err) < 0)
		return -1;
	at = q->packed_at;
	more = (at + len - 1) / WRITER_SECTOR - at / WRITER_SECTOR; /* sectors */
	*entry = be64_from(at | more << (70 - q->cluster_bits) | QCOW2_COMPRESSED);
	q->packed_at += len;
	q->packed_left -= len;
	return count_packed(q, at, len, err) < 0 ? -1 : file_write(w->fd, packed, len, at, err);
}

/* ---- refcounts ---- */

/* How many clusters the refcounts of `used` clusters need, their own included. */
static void size_refcounts(const struct writer *w, uint64_t used, uint64_t *ret_blocks, uint64_t *ret_table)
{
	uint64_t blocks = 0, table = 0, all;

	do {
		all = used + blocks + table;
		blocks = div_up(all, w->cluster_size / REFCOUNT_SIZE);
		table = div_up(blocks * sizeof(be64), w->cluster_size);
	} while (all != used + blocks + table);
	*ret_blocks = blocks;
	*ret_table = table;
}

static int write_refcount_table(struct qcow2_writer *q, uint64_t nr_blocks, uint64_t first_block, struct err *err)
{
	CLEANUP(free) be64 *table = calloc((size_t)nr_blocks, sizeof(*table));

	if (!table)
		return err_set(err, ERR_MEMORY, "no memory for a refcount table of %llu entries", (unsigned long long)nr_blocks);
	for (uint64_t i = 0; i < nr_blocks; i++)
		table[i] = be64_from(first_block + i * q->w.cluster_size);
	return file_write(q->w.fd, table, (size_t)nr_blocks * sizeof(*table), q->refcount_offset, err);
}

static uint16_t refcount_of(const struct qcow2_writer *q, uint64_t cluster)
{
	return cluster < q->packed_counts.nr && q->packed_counts.items[cluster] ? q->packed_counts.items[cluster] : 1;
}

static int write_refcounts(struct qcow2_writer *q, struct err *err)
{
	struct writer *w = &q->w;
	uint64_t used = w->file_end / w->cluster_size, per_block = w->cluster_size / REFCOUNT_SIZE, blocks, at, nr;
	CLEANUP(free) be16 *counts = malloc((size_t)w->cluster_size);

	if (!counts)
		return err_set(err, ERR_MEMORY, "no memory for a refcount block");
	size_refcounts(w, used, &blocks, &q->refcount_clusters);
	q->refcount_offset = w->file_end;
	at = w->file_end + q->refcount_clusters * w->cluster_size;
	w->file_end = at + blocks * w->cluster_size;
	if (write_refcount_table(q, blocks, at, err) < 0)
		return -1;
	used = w->file_end / w->cluster_size;
	for (uint64_t first = 0; first < used; first += nr, at += w->cluster_size) {
		nr = min_u64(used - first, per_block);
		for (uint64_t i = 0; i < nr; i++)
			counts[i] = be16_from(refcount_of(q, first + i));
		if (file_write(w->fd, counts, (size_t)nr * REFCOUNT_SIZE, at, err) < 0)
			return -1;
	}
	return 0;
}

/* ---- ending ---- */

/* Behind it lie zeros: the end of the extensions. */
static int write_header(const struct qcow2_writer *q, struct err *err)
{
	bool old = q->w.format == &writer_qcow2_old, zstd = q->w.format == &writer_qcow2_zstd;
	size_t len = old ? QCOW2_V2_LENGTH : zstd ? sizeof(struct qcow2_header_disk) : QCOW2_V3_LENGTH;
	struct qcow2_header_disk h = {
		.magic = QCOW2_MAGIC,
		.version = be32_from(old ? 2 : 3),
		.cluster_bits = be32_from(q->cluster_bits),
		.size = be64_from(q->w.size),
		.l1_size = be32_from((uint32_t)q->nr_l1),
		.l1_table_offset = be64_from(q->w.cluster_size),
		.refcount_table_offset = be64_from(q->refcount_offset),
		.refcount_table_clusters = be32_from((uint32_t)q->refcount_clusters),
		.refcount_order = be32_from(REFCOUNT_ORDER),
		.incompatible_features = be64_from(zstd ? QCOW2_COMPRESSION : 0),
		.header_length = be32_from((uint32_t)len),
		.compression_type = zstd ? QCOW2_ZSTD : QCOW2_ZLIB,
	};

	return file_write(q->w.fd, &h, len, 0, err);
}

static int qcow2_end(struct writer *w, struct err *err)
{
	struct qcow2_writer *q = qcow2_of(w);

	if (write_l2(q, err) < 0 || writer_write_table(w->fd, q->l1, q->nr_l1 * sizeof(*q->l1), w->cluster_size, err) < 0)
		return -1;
	return write_refcounts(q, err) < 0 ? -1 : write_header(q, err);
}

#define QCOW2_WRITER                                                                                                   \
	.name = "qcow2", .instance = sizeof(struct qcow2_writer), .unit = WRITER_SECTOR, .size_max = INT64_MAX - 511,  \
	.cluster_min = (uint64_t)1 << QCOW2_CLUSTER_BITS_MIN, .cluster_max = (uint64_t)1 << QCOW2_CLUSTER_BITS_MAX,    \
	.begin = qcow2_begin, .place = qcow2_place, .end = qcow2_end, .release = qcow2_release

const struct writer_format writer_qcow2 = { QCOW2_WRITER, .kind = "3" };
const struct writer_format writer_qcow2_old = { QCOW2_WRITER, .kind = "2" };
const struct writer_format writer_qcow2_zlib = { QCOW2_WRITER, .kind = "zlib", .method = PACK_DEFLATE, .add = qcow2_add };
const struct writer_format writer_qcow2_zstd = { QCOW2_WRITER, .kind = "zstd", .method = PACK_ZSTD, .add = qcow2_add };
