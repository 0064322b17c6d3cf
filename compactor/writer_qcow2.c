/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "compactor/writer.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/image/qcow2_format.h"

/*
 *	| header | L1 table | L2 | data ... | L2 | data ... | refcount table | refcount blocks |
 *
 * Each L2 table stands before the data that it leads to.  Since clusters come in order, it is complete when the next one begins,
 * and only that one is held in memory.  The file has no gaps between clusters: in the end all have a refcount of one. */

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
};

static const char *const qcow2_kinds[] = { "3", "2", NULL };
enum { VERSION_3, VERSION_2 };

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
}

/* An entry of either table; the file is not larger than a refcount table can tell. */
static int add_cluster(struct writer *w, be64 *entry, struct err *err)
{
	uint64_t per_block = w->cluster_size / REFCOUNT_SIZE, clusters = w->file_end / w->cluster_size;

	if (clusters / per_block + 2 >= QCOW2_REFTABLE_BYTES_MAX / sizeof(be64))
		return err_set(err, ERR_UNSUPPORTED, "clusters of %llu bytes are too small for a qcow2 image with so much data",
			       (unsigned long long)w->cluster_size);
	*entry = be64_from(w->file_end | QCOW2_COPIED);
	w->file_end += w->cluster_size;
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
	return writer_write_table(&q->w, q->l2, (size_t)q->w.cluster_size, offset_in(q->l1[q->table]), err);
}

static int begin_l2(struct qcow2_writer *q, uint64_t table, struct err *err)
{
	if (write_l2(q, err) < 0 || add_cluster(&q->w, &q->l1[table], err) < 0)
		return -1;
	memset(q->l2, 0, (size_t)q->w.cluster_size);
	q->table = table;
	return 0;
}

static int qcow2_place(struct writer *w, uint64_t offset, uint64_t *ret_at, uint64_t *ret_len, struct err *err)
{
	struct qcow2_writer *q = qcow2_of(w);
	uint64_t cluster = offset >> q->cluster_bits, inside = offset & (w->cluster_size - 1), table = cluster >> q->l2_bits;
	be64 *entry = &q->l2[cluster & ((1u << q->l2_bits) - 1)];

	if (table != q->table && begin_l2(q, table, err) < 0)
		return -1;
	if (be64_get(*entry) == 0 && add_cluster(w, entry, err) < 0)
		return -1;
	*ret_at = offset_in(*entry) + inside;
	*ret_len = w->cluster_size - inside;
	return 0;
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

static int write_refcounts(struct qcow2_writer *q, struct err *err)
{
	struct writer *w = &q->w;
	uint64_t used = w->file_end / w->cluster_size, per_block = w->cluster_size / REFCOUNT_SIZE, blocks, left, at;
	CLEANUP(free) be16 *counts = malloc((size_t)w->cluster_size);

	if (!counts)
		return err_set(err, ERR_MEMORY, "no memory for a refcount block");
	for (uint64_t i = 0; i < per_block; i++)
		counts[i] = be16_from(1);
	size_refcounts(w, used, &blocks, &q->refcount_clusters);
	q->refcount_offset = w->file_end;
	at = w->file_end + q->refcount_clusters * w->cluster_size;
	w->file_end = at + blocks * w->cluster_size;
	if (write_refcount_table(q, blocks, at, err) < 0)
		return -1;
	for (left = w->file_end / w->cluster_size; left; left -= min_u64(left, per_block), at += w->cluster_size)
		if (file_write(w->fd, counts, (size_t)min_u64(left, per_block) * REFCOUNT_SIZE, at, err) < 0)
			return -1;
	return 0;
}

/* ---- ending ---- */

/* Behind it lie zeros: the end of the extensions. */
static int write_header(const struct qcow2_writer *q, struct err *err)
{
	bool old = q->w.kind == VERSION_2;
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
		.header_length = be32_from(QCOW2_V3_LENGTH),
	};

	return file_write(q->w.fd, &h, old ? QCOW2_V2_LENGTH : QCOW2_V3_LENGTH, 0, err);
}

static int qcow2_end(struct writer *w, struct err *err)
{
	struct qcow2_writer *q = qcow2_of(w);

	if (write_l2(q, err) < 0 || writer_write_table(w, q->l1, q->nr_l1 * sizeof(*q->l1), w->cluster_size, err) < 0)
		return -1;
	return write_refcounts(q, err) < 0 ? -1 : write_header(q, err);
}

const struct writer_format writer_qcow2 = {
	.name = "qcow2",
	.kinds = qcow2_kinds,
	.instance = sizeof(struct qcow2_writer),
	.unit = 512,
	.size_max = INT64_MAX - 511,
	.cluster_min = (uint64_t)1 << QCOW2_CLUSTER_BITS_MIN,
	.cluster_max = (uint64_t)1 << QCOW2_CLUSTER_BITS_MAX,
	.begin = qcow2_begin,
	.place = qcow2_place,
	.end = qcow2_end,
	.release = qcow2_release,
};
