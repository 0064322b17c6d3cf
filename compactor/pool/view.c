/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/pool/view.h"

#include <string.h>

#include "compactor/pool/gather.h"
#include "compactor/pool/growth.h"
#include "compactor/pool/tree.h"
#include "compactor/pool/view_parts.h"
#include "scanner/base/checked.h"
#include "scanner/base/crc32c.h"
#include "scanner/base/file.h"
#include "scanner/base/vec.h"
#include "scanner/index/judymap.h"

/* A view lies in three places of one cluster file:
 *
 *	| slot: header |   ...  clusters  ...  | L2 | L2 | ... | L1 | refcount table |
 *	^ offset 0 of the view			 ^ appended as they are made	     ^ its end, at the time
 *
 * Headers are made from what the view is, by one function; one that was read is good if the same comes out again.
 *
 * Why nothing in it can be changed, by anybody who opens it in whatever way (the file's mode aside):
 *
 *   - whoever has it as backing file and commits into it meets no entry marked COPIED, so each written, zeroed or discarded cluster
 *     needs a new one, which the refcounts do not give (QCOW2_NO_REFCOUNTS);
 *   - the virtual size is that of a full L1 table, so one more byte needs a new table;
 *   - whoever opens it to write to it has to clear QCOW2_LOCKED first, for which the header is too full. */

#define EXTENSION_AT ((size_t)QCOW2_V3_LENGTH)
#define VIEW_AT (EXTENSION_AT + sizeof(struct qcow2_extension_disk))

/* Where the tables are, from the slot on. */
struct layout {
	uint64_t l1_offset;
	uint64_t refcount_offset; /* of a table of one cluster */
};

/* What view_find() looks through. */
struct views {
	VEC(struct view) list;
	uint64_t generation; /* the highest */
	uint32_t nr_damaged, damaged; /* slots with a header that is none of ours; the first */
	struct judyset proven;	      /* hashes of segments, and where they are */
};

/* ---- headers ---- */

static bool are_cluster_bits(unsigned bits)
{
	return bits >= POOL_UNIT_BITS_MIN && bits <= POOL_UNIT_BITS_MAX && bits % 2 == 0;
}

static uint64_t cluster_size(const struct view *v)
{
	return (uint64_t)1 << v->cluster_bits;
}

/* Bytes that one entry of the L1 table maps. */
static uint64_t l1_unit(const struct view *v)
{
	return (uint64_t)1 << (2 * v->cluster_bits - 3);
}

static uint64_t virtual_size(const struct view *v)
{
	return max_u64(div_up(v->disk_size, l1_unit(v)), 1) * l1_unit(v);
}

void view_extension(const struct view *v, const uint8_t header[QCOW2_V3_LENGTH], struct pool_view_disk *ret)
{
	*ret = (struct pool_view_disk){
		.disk_size = le64_from(v->disk_size),
		.slice_size = le64_from(v->slice_size),
		.generation = le64_from(v->generation),
	};
	memcpy(ret->id, v->id, sizeof(ret->id));
	memcpy(ret->root, v->root, sizeof(ret->root));
	ret->crc = le32_from(crc32c(crc32c(0, header, QCOW2_V3_LENGTH), ret, offsetof(struct pool_view_disk, crc)));
}

/* The extension goes on, as zeros, to the end of the cluster but for the mark of the end: the header is locked. */
static void encode(const struct view *v, const struct layout *l, uint8_t ret[BLOCK_SIZE])
{
	struct qcow2_header h = {
		.cluster_bits = v->cluster_bits,
		.size = virtual_size(v),
		.l1_size = (uint32_t)(virtual_size(v) / l1_unit(v)),
		.l1_offset = l->l1_offset,
		.refcount_offset = l->refcount_offset,
		.refcount_clusters = 1,
		.autoclear = QCOW2_LOCKED,
		.header_length = QCOW2_V3_LENGTH,
	};
	struct qcow2_extension_disk extension = {
		.type = be32_from(POOL_EXT_VIEW),
		.length = be32_from((uint32_t)(cluster_size(v) - VIEW_AT - sizeof(extension))),
	};
	struct pool_view_disk whose;

	memset(ret, 0, BLOCK_SIZE);
	qcow2_header_encode(&h, ret);
	view_extension(v, ret, &whose);
	memcpy(ret + EXTENSION_AT, &extension, sizeof(extension));
	memcpy(ret + VIEW_AT, &whose, sizeof(whose));
}

static int check_layout(const struct view *v, const struct layout *l, struct err *err)
{
	uint64_t l1_bytes = round_up(virtual_size(v) / l1_unit(v) * 8, cluster_size(v));

	if (!range_within(slot_offset(v->slot), v->slice_size, POOL_FILE_MAX) || v->slice_size < POOL_SLOT_SIZE ||
	    v->slice_size % cluster_size(v) != 0)
		return err_set(err, ERR_FORMAT, "a slice of %llu bytes is impossible", (unsigned long long)v->slice_size);
	if (!range_within(l->l1_offset, l1_bytes, v->slice_size) ||
	    !range_within(l->refcount_offset, cluster_size(v), v->slice_size) || l->l1_offset % cluster_size(v) != 0 ||
	    l->refcount_offset % cluster_size(v) != 0)
		return err_set(err, ERR_FORMAT, "the tables leave the slice");
	return 0;
}

static int decode(const uint8_t header[BLOCK_SIZE], uint32_t slot, struct view *ret, struct layout *ret_layout, struct err *err)
{
	const struct qcow2_header_disk *d = (const void *)header;
	const struct pool_view_disk *whose = (const void *)(header + VIEW_AT);
	struct layout l = {
		.l1_offset = be64_get(d->l1_table_offset),
		.refcount_offset = be64_get(d->refcount_table_offset),
	};
	struct view v = {
		.disk_size = le64_get(whose->disk_size),
		.generation = le64_get(whose->generation),
		.slot = slot,
		.slice_size = le64_get(whose->slice_size),
		.cluster_bits = be32_get(d->cluster_bits),
	};
	uint8_t again[BLOCK_SIZE];

	memcpy(v.id, whose->id, sizeof(v.id));
	memcpy(v.root, whose->root, sizeof(v.root));
	if (!are_cluster_bits(v.cluster_bits))
		return err_set(err, ERR_FORMAT, "clusters of 2^%u bytes are impossible", v.cluster_bits);
	if (v.disk_size > QCOW2_L1_BYTES_MAX / 8 * l1_unit(&v))
		return err_set(err, ERR_FORMAT, "a disk of %llu bytes is impossible", (unsigned long long)v.disk_size);
	if (check_layout(&v, &l, err) < 0)
		return -1;
	encode(&v, &l, again);
	if (memcmp(header, again, BLOCK_SIZE) != 0)
		return err_set(err, ERR_FORMAT, "the header is damaged or was changed");
	*ret = v;
	*ret_layout = l;
	return 0;
}

int view_decode(const uint8_t header[BLOCK_SIZE], uint32_t slot, struct view *ret, struct err *err)
{
	struct layout l;

	return decode(header, slot, ret, &l, err) < 0 ? err_add(err, "header in slot %u", slot) : 0;
}

/* ---- finding ---- */

static int remember(void *ctx, uint32_t slot, const uint8_t header[BLOCK_SIZE], struct err *err)
{
	struct views *views = ctx;
	struct view v;

	if (view_decode(header, slot, &v, NULL) < 0) {
		if (views->nr_damaged++ == 0)
			views->damaged = slot;
		return 0;
	}
	views->generation = max_u64(views->generation, v.generation);
	return vec_push(&views->list, v) < 0 ? err_set(err, ERR_MEMORY, "no memory for the views of a pool") : 0;
}

void view_forget(struct pool *p)
{
	if (!p->views)
		return;
	vec_release(&p->views->list);
	judyset_release(&p->views->proven);
	free(p->views);
	p->views = NULL;
}

static struct views *look(struct pool *p, struct err *err)
{
	if (p->views)
		return p->views;
	p->views = calloc(1, sizeof(*p->views));
	if (!p->views)
		return err_null(err, ERR_MEMORY, "no memory for the views of a pool");
	if (clusters_each_slot(p->clusters, remember, p->views, err) == 0)
		return p->views;
	view_forget(p);
	return NULL;
}

int view_find(struct pool *p, const uint8_t id[POOL_ID_SIZE], struct view *ret, struct err *err)
{
	const struct views *views = look(p, err);
	char text[POOL_ID_TEXT_ROOM];

	if (!views)
		return -1;
	for (size_t i = views->list.nr; i-- > 0;)
		if (memcmp(views->list.items[i].id, id, POOL_ID_SIZE) == 0) {
			*ret = views->list.items[i];
			return 1;
		}
	if (views->nr_damaged)
		return err_set(err, ERR_FORMAT, "view %s is not there, but the header in slot %u is damaged; dedupscan pool repair",
			       pool_id_text(id, text), views->damaged);
	return 0;
}

int view_find_root(struct pool *p, const uint8_t root[DIGEST_SIZE], uint64_t disk_size, unsigned cluster_bits, struct view *ret,
		   struct err *err)
{
	const struct views *views = look(p, err);

	if (!views)
		return -1;
	for (size_t i = views->list.nr; i-- > 0;) {
		const struct view *v = &views->list.items[i];

		if (memcmp(v->root, root, DIGEST_SIZE) == 0 && v->disk_size == disk_size && v->cluster_bits == cluster_bits &&
		    stub_is_there(p, v)) {
			*ret = *v;
			return 1;
		}
	}
	return 0;
}

/* ---- writing ---- */

static int append(struct pool *p, const struct view *v, const void *buf, size_t len, uint64_t *ret, struct err *err)
{
	uint64_t at;

	if (clusters_append(p->clusters, buf, len, cluster_size(v), &at, err) < 0)
		return -1;
	*ret = at - slot_address(v->slot);
	return 0;
}

static int append_l2_tables(struct pool *p, const struct view *v, be64 *l1, struct err *err)
{
	CLEANUP(view_tables_free) struct view_tables *t =
		view_tables_new(p, v->root, v->disk_size, v->cluster_bits, v->slot, err);
	const be64 *entries;
	uint64_t index, at;
	int rc;

	if (!t)
		return -1;
	while ((rc = view_tables_next(t, &index, &entries, err)) > 0) {
		if (append(p, v, entries, (size_t)cluster_size(v), &at, err) < 0)
			return -1;
		l1[index] = be64_from(at);
	}
	return rc;
}

static int append_refcounts(struct pool *p, const struct view *v, struct layout *l, struct err *err)
{
	CLEANUP(free) be64 *table = malloc((size_t)cluster_size(v));

	if (!table)
		return err_set(err, ERR_MEMORY, "no memory for the refcount table of a view");
	for (size_t i = 0; i < cluster_size(v) / 8; i++)
		table[i] = be64_from(QCOW2_NO_REFCOUNTS);
	return append(p, v, table, (size_t)cluster_size(v), &l->refcount_offset, err);
}

static int append_tables(struct pool *p, struct view *v, struct layout *l, struct err *err)
{
	size_t l1_bytes = (size_t)round_up(virtual_size(v) / l1_unit(v) * 8, cluster_size(v));
	CLEANUP(free) be64 *l1 = calloc(1, l1_bytes);

	if (!l1)
		return err_set(err, ERR_MEMORY, "no memory for the L1 table of a view");
	if (append_l2_tables(p, v, l1, err) < 0 || append(p, v, l1, l1_bytes, &l->l1_offset, err) < 0 ||
	    append_refcounts(p, v, l, err) < 0)
		return -1;
	v->slice_size = clusters_end(p->clusters) - slot_address(v->slot);
	return 0;
}

static int check_size(const struct view *v, struct err *err)
{
	unsigned bits = v->cluster_bits;

	if (!are_cluster_bits(bits))
		return err_set(err, ERR_USAGE, "a view cannot have clusters of 2^%u bytes", bits);
	while (bits <= POOL_UNIT_BITS_MAX && qcow2_l1_bytes(v->disk_size, bits, false) > QCOW2_L1_BYTES_MAX)
		bits += 2;
	if (bits == v->cluster_bits)
		return 0;
	if (bits > POOL_UNIT_BITS_MAX)
		return err_set(err, ERR_UNSUPPORTED, "a disk of %llu GiB is too large for a view",
			       (unsigned long long)(v->disk_size / GIB));
	return err_set(err, ERR_UNSUPPORTED, "a disk of %llu GiB is too large for clusters of %llu KiB; %u KiB would do",
		       (unsigned long long)(v->disk_size / GIB), (unsigned long long)(cluster_size(v) / KIB), 1u << bits >> 10);
}

static int publish(struct pool *p, const struct view *v, const struct layout *l, struct err *err)
{
	uint8_t header[BLOCK_SIZE];

	encode(v, l, header);
	return clusters_publish(p->clusters, v->slot, header, err);
}

static int prepare(struct pool *p, struct view *v, struct err *err)
{
	const struct views *views = look(p, err);

	if (!views || clusters_next_slot(p->clusters, &v->slot, err) < 0)
		return -1;
	v->generation = max_u64(views->generation + 1, v->slot); /* the highest one may have been buried */
	return stub_check(p, v, err);
}

int view_write(struct pool *p, const uint8_t root[DIGEST_SIZE], uint64_t disk_size, unsigned cluster_bits, struct view *ret,
	       struct err *err)
{
	struct view v = { .disk_size = disk_size, .cluster_bits = cluster_bits };

	memcpy(v.root, root, sizeof(v.root));
	return pool_new_id(v.id, err) < 0 ? -1 : view_write_as(p, &v, NULL, ret, err);
}

/* One that is not what it should be was never there. */
static int prove_new(struct pool *p, const struct view *v, struct err *err)
{
	if (view_prove(p, v, err) == 0)
		return 0;
	if (clusters_bury(p->clusters, v->slot, NULL) == 0)
		clusters_sync(p->clusters, NULL);
	return -1;
}

int view_write_as(struct pool *p, const struct view *old, const char *kept_stub, struct view *ret, struct err *err)
{
	struct view v = *old;
	struct layout l = { 0 };

	if (check_size(&v, err) < 0 || growth_for_view(p, 0, v.disk_size, err) < 0 ||
	    gather(p, v.root, v.disk_size, v.cluster_bits, err) < 0 || prepare(p, &v, err) < 0)
		return -1;
	if (pool_sync(p, err) < 0 || append_tables(p, &v, &l, err) < 0 || clusters_sync(p->clusters, err) < 0)
		return -1;
	if (publish(p, &v, &l, err) < 0 || (kept_stub && prove_new(p, &v, err) < 0) || view_write_stub(p, &v, kept_stub, err) < 0)
		return -1;
	p->views->generation = v.generation;
	if (vec_push(&p->views->list, v) < 0)
		return err_set(err, ERR_MEMORY, "no memory for the views of a pool");
	*ret = v;
	return 0;
}

/* ---- reading ---- */

struct checking {
	struct pool *pool;
	const struct view *v;
	struct layout l;
	be64 *table; /* 1 << cluster_bits bytes */
	bool prove;  /* by its bytes, what the tree has elsewhere */
};

static int read_at(const struct checking *c, uint64_t at, void *ret, size_t len, struct err *err)
{
	return clusters_read(c->pool->clusters, ret, len, slot_address(c->v->slot) + at, err);
}

/* ---- maps ---- */

struct mapping {
	struct leaf leaf;
	uint64_t segment; /* of the leaf, UINT64_MAX = none */
	int (*call)(void *ctx, uint64_t segment, struct leaf *map, struct err *err);
	void *ctx;
};

static int end_leaf(struct mapping *m, struct err *err)
{
	int rc = m->segment == UINT64_MAX || !m->leaf.nr_runs ? 0 : m->call(m->ctx, m->segment, &m->leaf, err);

	m->segment = UINT64_MAX;
	m->leaf.nr_runs = 0;
	return rc;
}

/* The cluster that holds unit `nr` of the disk. */
static int add_unit(struct mapping *m, uint64_t nr, uint64_t place, struct err *err)
{
	uint64_t units = SEGMENT_SIZE >> m->leaf.unit_bits, segment = nr / units;
	struct run *last;
	int rc = 0;

	if (segment != m->segment)
		rc = end_leaf(m, err);
	m->segment = segment;
	last = m->leaf.nr_runs ? &m->leaf.runs[m->leaf.nr_runs - 1] : NULL;
	if (last && last->first + last->nr == nr % units && last->place + last->nr == place)
		last->nr++;
	else
		m->leaf.runs[m->leaf.nr_runs++] = (struct run){ (uint32_t)(nr % units), 1, place };
	return rc;
}

static int add_table(const struct checking *c, struct mapping *m, uint64_t index, uint64_t at, struct err *err)
{
	uint64_t nr = cluster_size(c->v) / 8, origin = slot_address(c->v->slot);

	if (at % cluster_size(c->v) || !range_within(at, cluster_size(c->v), c->v->slice_size))
		return err_set(err, ERR_FORMAT, "L2 table %llu is not in the slice", (unsigned long long)index);
	if (read_at(c, at, c->table, nr * 8, err) < 0)
		return -1;
	for (uint64_t i = 0; i < nr; i++) {
		uint64_t entry = be64_get(c->table[i]);
		int rc;

		if (!entry)
			continue;
		if (entry % cluster_size(c->v) || !range_within(entry, cluster_size(c->v), c->v->slice_size) ||
		    slot_offset(c->v->slot) + entry < POOL_DATA_BEGIN)
			return err_set(err, ERR_FORMAT, "an entry of L2 table %llu is damaged", (unsigned long long)index);
		rc = add_unit(m, index * nr + i, (origin + entry) >> c->v->cluster_bits, err);
		if (rc)
			return rc;
	}
	return 0;
}

static int each_map(struct checking *c, struct mapping *m, struct err *err)
{
	uint64_t nr = virtual_size(c->v) / l1_unit(c->v);
	CLEANUP(free) be64 *l1 = malloc((size_t)nr * 8);
	CLEANUP(free) be64 *table = malloc((size_t)cluster_size(c->v));
	int rc = 0;

	if (!l1 || !table)
		return err_set(err, ERR_MEMORY, "no memory for the tables of a view");
	c->table = table;
	if (read_at(c, c->l.l1_offset, l1, (size_t)nr * 8, err) < 0)
		return -1;
	for (uint64_t i = 0; rc == 0 && i < nr; i++)
		if (be64_get(l1[i]))
			rc = add_table(c, m, i, be64_get(l1[i]), err);
	return rc ? rc : end_leaf(m, err);
}

int view_each_map(struct pool *p, const struct view *v, int (*call)(void *ctx, uint64_t segment, struct leaf *map, struct err *err),
		  void *ctx, struct err *err)
{
	CLEANUP(free) struct mapping *m = calloc(1, sizeof(*m));
	struct checking c = { .pool = p };
	uint8_t header[BLOCK_SIZE];
	struct view got;

	c.v = &got;
	if (!m)
		return err_set(err, ERR_MEMORY, "no memory for the tables of a view");
	if (clusters_read_slot(p->clusters, v->slot, header, err) < 0 || decode(header, v->slot, &got, &c.l, err) < 0)
		return -1;
	m->segment = UINT64_MAX;
	m->leaf.unit_bits = got.cluster_bits;
	m->call = call;
	m->ctx = ctx;
	return each_map(&c, m, err);
}

/* ---- checking ---- */

static int check_l2(const struct checking *c, uint64_t index, uint64_t at, const be64 *wanted, struct err *err)
{
	size_t nr = (size_t)cluster_size(c->v) / 8;

	if (at % cluster_size(c->v) != 0 || !range_within(at, cluster_size(c->v), c->v->slice_size))
		return err_set(err, ERR_FORMAT, "L2 table %llu is not in the slice", (unsigned long long)index);
	if (read_at(c, at, c->table, nr * 8, err) < 0)
		return -1;
	for (size_t i = 0; i < nr; i++)
		if (be64_get(c->table[i]) != be64_get(wanted[i]))
			return err_set(err, ERR_FORMAT, "it has another map than the tree at offset %llu of the disk",
				       (unsigned long long)(index * l1_unit(c->v) + i * cluster_size(c->v)));
	return 0;
}

/* Entries of the L1 table in [from, to) are empty. */
static int check_empty(const struct checking *c, const be64 *l1, uint64_t from, uint64_t to, struct err *err)
{
	for (; from < to; from++)
		if (be64_get(l1[from]))
			return err_set(err, ERR_FORMAT, "it has a map where the tree has none, at offset %llu of the disk",
				       (unsigned long long)(from * l1_unit(c->v)));
	return 0;
}

struct looking {
	const struct checking *c;
	const be64 *l1;
};

/* What the view has for a segment. */
static int read_entries(const struct looking *l, uint64_t segment, be64 *ret, struct err *err)
{
	const struct checking *c = l->c;
	uint64_t nr = SEGMENT_SIZE >> c->v->cluster_bits, per_table = cluster_size(c->v) / 8, unit = segment * nr;
	uint64_t table = be64_get(l->l1[unit / per_table]);

	if (table % cluster_size(c->v) || !range_within(table, cluster_size(c->v), c->v->slice_size))
		return err_set(err, ERR_FORMAT, "L2 table %llu is not in the slice", (unsigned long long)(unit / per_table));
	return read_at(c, table + unit % per_table * 8, ret, (size_t)nr * 8, err);
}

static int map_of_entries(const struct checking *c, uint64_t segment, const be64 *entries, struct leaf *ret, struct err *err)
{
	unsigned bits = c->v->cluster_bits;

	ret->unit_bits = bits;
	ret->nr_runs = 0;
	for (uint32_t i = 0; i < SEGMENT_SIZE >> bits; i++) {
		uint64_t at = be64_get(entries[i]);

		if (!at)
			continue;
		if (at % cluster_size(c->v) || !range_within(at, cluster_size(c->v), c->v->slice_size) ||
		    slot_offset(c->v->slot) + at < POOL_DATA_BEGIN)
			return err_set(err, ERR_FORMAT, "an entry is damaged at offset %llu of the disk",
				       (unsigned long long)(segment * SEGMENT_SIZE + i * cluster_size(c->v)));
		ret->runs[ret->nr_runs++] = (struct run){ i, 1, (slot_address(c->v->slot) + at) >> bits };
	}
	return 0;
}

/* What was proven once is not read again, however many views have it. */
static int prove(const struct checking *c, const struct leaf *map, uint64_t segment, const uint8_t digest[DIGEST_SIZE],
		 struct err *err)
{
	uint64_t key = le64_load(digest) ^ (uint64_t)crc32c(map->unit_bits, map->runs, map->nr_runs * sizeof(*map->runs)) << 16;
	CLEANUP(free) uint8_t *bytes = malloc(SEGMENT_SIZE);
	uint8_t is[DIGEST_SIZE];

	if (!bytes)
		return err_set(err, ERR_MEMORY, "no memory for a segment");
	if (judyset_has(&c->pool->views->proven, key))
		return 0;
	if (tree_read_leaf(c->pool->clusters, map, bytes, err) < 0)
		return -1;
	digest_bytes(bytes, SEGMENT_SIZE, is);
	if (memcmp(is, digest, DIGEST_SIZE) != 0)
		return err_set(err, ERR_FORMAT, "it has other data than the tree at offset %llu of the disk",
			       (unsigned long long)(segment * SEGMENT_SIZE));
	return judyset_add(&c->pool->views->proven, key) < 0 ? err_set(err, ERR_MEMORY, "no memory to check a view") : 0;
}

/* When the tree leads elsewhere by now, to another file, or to what was moved into this one later, the view's own clusters must
 * hold the same. */
static int look_at_segment(void *ctx, uint64_t segment, const uint8_t digest[DIGEST_SIZE], bool found, be64 *entries,
			   struct err *err)
{
	const struct looking *l = ctx;
	size_t len = (size_t)(SEGMENT_SIZE >> l->c->v->cluster_bits) * 8;
	CLEANUP(free) struct leaf *map = calloc(1, sizeof(*map));
	be64 is[SEGMENT_BLOCKS];

	if (!map)
		return err_set(err, ERR_MEMORY, "no memory for the map of a segment");
	if (read_entries(l, segment, is, err) < 0)
		return -1;
	if (found && memcmp(is, entries, len) == 0)
		return 0;
	if (map_of_entries(l->c, segment, is, map, err) < 0 ||
	    ((found || l->c->prove) && prove(l->c, map, segment, digest, err) < 0))
		return -1;
	memcpy(entries, is, len);
	return 0;
}

static int check_maps(const struct checking *c, const be64 *l1, uint64_t nr, struct err *err)
{
	const struct view *v = c->v;
	CLEANUP(view_tables_free) struct view_tables *t =
		view_tables_new(c->pool, v->root, v->disk_size, v->cluster_bits, v->slot, err);
	struct looking looking = { c, l1 };
	uint64_t index, done = 0;
	const be64 *wanted;
	int rc;

	if (!t)
		return -1;
	if (clusters_growing(c->pool->clusters).number) /* there were others, once */
		view_tables_set_look(t, look_at_segment, &looking);
	while ((rc = view_tables_next(t, &index, &wanted, err)) > 0) {
		if (check_empty(c, l1, done, index, err) < 0 || check_l2(c, index, be64_get(l1[index]), wanted, err) < 0)
			return -1;
		done = index + 1;
	}
	return rc < 0 ? -1 : check_empty(c, l1, done, nr, err);
}

static int check_refcounts(const struct checking *c, struct err *err)
{
	if (read_at(c, c->l.refcount_offset, c->table, (size_t)cluster_size(c->v), err) < 0)
		return -1;
	for (size_t i = 0; i < cluster_size(c->v) / 8; i++)
		if (be64_get(c->table[i]) != QCOW2_NO_REFCOUNTS)
			return err_set(err, ERR_FORMAT, "its refcount table is damaged");
	return 0;
}

static int check_tables(struct checking *c, struct err *err)
{
	uint64_t nr = virtual_size(c->v) / l1_unit(c->v);
	CLEANUP(free) be64 *l1 = malloc((size_t)nr * 8);
	CLEANUP(free) be64 *table = malloc((size_t)cluster_size(c->v));

	if (!l1 || !table)
		return err_set(err, ERR_MEMORY, "no memory for the tables of a view");
	c->table = table;
	if (read_at(c, c->l.l1_offset, l1, (size_t)nr * 8, err) < 0 || check_maps(c, l1, nr, err) < 0)
		return -1;
	return check_refcounts(c, err);
}

/* All tables were appended in one go: so an entry tells its neighbours', and the L1 table's place all of them. */
static int check_l1(const struct checking *c, const be64 *l1, uint64_t nr, struct err *err)
{
	uint64_t wanted = c->l.l1_offset;

	for (uint64_t i = nr; i-- > 0;) {
		if (!be64_get(l1[i]))
			continue;
		wanted -= cluster_size(c->v);
		if (be64_get(l1[i]) != wanted)
			return err_set(err, ERR_FORMAT, "entry %llu of its L1 table is damaged", (unsigned long long)i);
	}
	return 0;
}

static int each_l2(const struct checking *c, int (*call)(void *ctx, uint64_t offset, uint64_t len, struct err *err), void *ctx,
		   struct err *err)
{
	uint64_t nr = virtual_size(c->v) / l1_unit(c->v), origin = slot_address(c->v->slot);
	CLEANUP(free) be64 *l1 = malloc((size_t)nr * 8);
	int rc;

	if (!l1)
		return err_set(err, ERR_MEMORY, "no memory for the tables of a view");
	if (read_at(c, c->l.l1_offset, l1, (size_t)nr * 8, err) < 0 || check_l1(c, l1, nr, err) < 0)
		return -1;
	for (uint64_t i = 0; i < nr; i++) {
		uint64_t at = be64_get(l1[i]);

		if (!at)
			continue;
		if (at % cluster_size(c->v) || !range_within(at, cluster_size(c->v), c->v->slice_size))
			return err_set(err, ERR_FORMAT, "L2 table %llu is not in the slice", (unsigned long long)i);
		rc = call(ctx, origin + at, cluster_size(c->v), err);
		if (rc != 0)
			return rc;
	}
	rc = call(ctx, origin + c->l.l1_offset, round_up(nr * 8, cluster_size(c->v)), err);
	return rc ? rc : call(ctx, origin + c->l.refcount_offset, cluster_size(c->v), err);
}

int view_each_table(struct pool *p, const struct view *v, int (*call)(void *ctx, uint64_t offset, uint64_t len, struct err *err),
		    void *ctx, struct err *err)
{
	struct checking c = { .pool = p };
	char text[POOL_ID_TEXT_ROOM];
	uint8_t header[BLOCK_SIZE];
	struct view got;
	int rc;

	c.v = &got;
	rc = clusters_read_slot(p->clusters, v->slot, header, err) < 0 || decode(header, v->slot, &got, &c.l, err) < 0 ? -1 :
	     each_l2(&c, call, ctx, err);
	return rc < 0 ? err_add(err, "view %s", pool_id_text(v->id, text)) : rc;
}

static int check(struct pool *p, const struct view *v, bool prove_bytes, struct err *err)
{
	struct checking c = { .pool = p, .prove = prove_bytes };
	char text[POOL_ID_TEXT_ROOM];
	uint8_t header[BLOCK_SIZE];
	struct view got;

	c.v = &got;
	if (look(p, err) && clusters_read_slot(p->clusters, v->slot, header, err) == 0 &&
	    decode(header, v->slot, &got, &c.l, err) == 0 && check_tables(&c, err) == 0) {
		if (memcmp(got.id, v->id, sizeof(v->id)) == 0 && memcmp(got.root, v->root, sizeof(v->root)) == 0)
			return 0;
		err_set(err, ERR_FORMAT, "slot %u holds another one", v->slot);
	}
	return err_add(err, "view %s", pool_id_text(v->id, text));
}

int view_check(struct pool *p, const struct view *v, struct err *err)
{
	return check(p, v, true, err);
}

int view_check_layout(struct pool *p, const struct view *v, struct err *err)
{
	return check(p, v, false, err);
}

int view_prove(struct pool *p, const struct view *v, struct err *err)
{
	struct cluster_span s;

	if (clusters_of_slot(p->clusters, v->slot, &s) && file_drop_cache(cluster_file_fd(s.file), err) < 0)
		return -1;
	if (p->views)
		judyset_release(&p->views->proven);
	return view_check(p, v, err);
}
