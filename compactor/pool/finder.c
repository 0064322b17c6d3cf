/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/pool/finder.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "compactor/pool/finder_filter.h"
#include "compactor/pool/pool_format.h"
#include "scanner/base/bytes.h"
#include "scanner/base/checked.h"
#include "scanner/base/crc32c.h"
#include "scanner/base/file.h"
#include "scanner/base/vec.h"
#include "scanner/index/sorter.h"
#include "scanner/index/table.h"

/*	index/finder	   which tables there are, oldest first, how far they cover the nodes' file, how far those nodes lead, and
 *			   which blocks they lack
 *	index/<n>.table	   sorted keys, each with one number
 *	index/<n>.filter   tells which keys are not in it
 *
 * All kinds share one space of keys.  A key that was looked for and is in no table is the usual case: the filters tell it without
 * reading.
 *
 * What is pending lies in a hash table (with a seed: keys come from guests), which is sorted and written when it is full.  A new
 * table is merged with the newest ones until each table has at least RATIO times what is in all newer ones together, and until
 * they are few enough.  Only neighbours are merged, so that of two numbers of a key the newer one stays the newer one.
 *
 * Order of writing: tables and filters, their directory, then `finder` by rename, then what it does not name any more goes.  A
 * table is in use before it is announced; what a dead process did not announce is removed by the next.
 *
 * A damaged table is noticed when it is read.  The numbers that it had may be those of nodes, so going on without it is no way:
 * `finder` is removed, everything fails from then on, and whoever opens next sees that it is not whole and has it built anew. */

#define RATIO 3
#define TABLES_MAX 6
#define TABLES_ROOM 64 /* so many in a manifest are believed */
#define ROOM_MIN 1024
#define MERGE_ROOM ((size_t)64 * TABLE_PAGE)
#define MANIFEST "finder"
#define MANIFEST_MAGIC "ddsfind\n"
#define MANIFEST_VERSION 3 /* 1 had other keys, 2 no `reach` and `tail` */
#define NUMBER_MASK (((uint64_t)1 << 62) - 1)
#define NAME_ROOM 40

struct manifest_disk {
	uint8_t magic[8];
	le32 version;
	le32 nr; /* of tables, which follow; behind them the CRC-32C of all before it (le32) */
	uint8_t uuid[16];
	le64 covered;
	le64 next; /* number of the next table */
	le64 lacks_begin, lacks_end;
	le64 reach;
	le32 tail;
	uint8_t zero[4];
};
_Static_assert(sizeof(struct manifest_disk) == 80, "layout");
#define MANIFEST_2_SIZE offsetof(struct manifest_disk, reach)

struct manifest_table_disk {
	le64 number, nr_keys, bytes;
};
#define MANIFEST_MAX (sizeof(struct manifest_disk) + TABLES_ROOM * sizeof(struct manifest_table_disk) + sizeof(le32))

struct sorted {
	uint64_t number;
	struct table *table;
	struct filter *filter;
	struct table_stats stats;
	int sync_fd;	/* open since before it was written, until it is synced; else -1 */
	bool announced; /* the manifest may name it */
};

struct finder {
	int dirfd;
	bool writing;
	uint8_t uuid[16];
	uint64_t covered, next;
	uint64_t lacks_begin, lacks_end, reach;
	uint32_t tail;
	bool changed; /* the manifest is not what it says on disk */
	bool damaged; /* the manifest was, or a table that it names */
	struct err failed;

	/* What is pending: a value is a number + 1, 0 = free. */
	struct record *slots;
	size_t nr, room, room_max;
	uint64_t seed[2];

	VEC(struct sorted) tables; /* oldest first */
	VEC(uint64_t) doomed;	   /* tables that the manifest may still name */
	uint64_t filters_room;	   /* bytes for all filters */
};

static char *table_name(uint64_t number, char buf[NAME_ROOM])
{
	snprintf(buf, NAME_ROOM, "%" PRIu64 ".table", number);
	return buf;
}

static char *filter_name(uint64_t number, char buf[NAME_ROOM])
{
	snprintf(buf, NAME_ROOM, "%" PRIu64 ".filter", number);
	return buf;
}

/* Keys of a table are 104 bits, and what it takes for one depends on how far the next one is:
 *
 *	blocks	| zeros: 40 | 60 bits of the fingerprint | tag: 4 |
 *	others	| 100 bits		      | tag: 4 |
 *
 * Blocks are most of it, and for them 60 bits do: in the largest pool one block of 300 million is taken for another one, which
 * costs a comparison.  A node that another one hides is as good as lost: its key is not to be met by trying, nor by a block's. */
static struct key key_of(enum finder_kind kind, unsigned unit_bits, uint64_t hi, uint64_t lo)
{
	unsigned tag = kind << 2 | (unit_bits ? unit_bits / 2 - 5 : 0);

	assert(kind < FINDER_NR_KINDS && (!unit_bits || (unit_bits >= 12 && unit_bits <= 16 && unit_bits % 2 == 0)));
	if (kind == FINDER_BLOCK)
		return (struct key){ hi >> 40, (hi >> 4 << 4 | tag) << 24 };
	return (struct key){ hi, lo >> 28 << 28 | (uint64_t)tag << 24 };
}

/* Offsets of blocks count from where clusters begin, which makes them shorter. */
static uint64_t short_number(enum finder_kind kind, uint64_t number)
{
	return kind == FINDER_BLOCK ? (number - POOL_DATA_BEGIN / BLOCK_SIZE) & NUMBER_MASK : number;
}

static uint64_t long_number(enum finder_kind kind, uint64_t number)
{
	return kind == FINDER_BLOCK ? (number + POOL_DATA_BEGIN / BLOCK_SIZE) & NUMBER_MASK : number;
}

/* ---- failing ---- */

static int failed_before(const struct finder *f, struct err *err)
{
	if (err)
		*err = f->failed;
	return -1;
}

/* For errors after which what is in memory is not what it should be. */
static int failed_now(struct finder *f, struct err *err)
{
	static const struct err unknown = { .kind = ERR_IO, .text = "the pool's index failed before" };

	f->failed = err && err->kind != ERR_NONE ? *err : unknown;
	return -1;
}

/* A table could not be read. */
static int spoil(struct finder *f, struct err *why, struct err *err)
{
	struct err told = *why;

	if (why->kind == ERR_MEMORY || !f->writing)
		err_add(&told, "index of the pool");
	else if (file_unlink(f->dirfd, MANIFEST, NULL) < 0)
		err_set(&told, why->kind, "index of the pool: %s; remove it, then it is built anew", why->text);
	else
		err_set(&told, why->kind, "index of the pool: %s; it is built anew when the pool is opened again", why->text);
	*why = told;
	if (why->kind != ERR_MEMORY)
		failed_now(f, why);
	if (err)
		*err = *why;
	return -1;
}

/* ---- tables ---- */

static void sorted_release(struct sorted *s)
{
	table_close(s->table);
	filter_free(s->filter);
	if (s->sync_fd >= 0)
		file_ops->close(s->sync_fd);
	*s = (struct sorted){ .sync_fd = -1 };
}

static int remove_table(const struct finder *f, uint64_t number, struct err *err)
{
	char name[NAME_ROOM];

	if (file_unlink(f->dirfd, filter_name(number, name), err) < 0)
		return -1;
	return file_unlink(f->dirfd, table_name(number, name), err);
}

static uint64_t filters_left(const struct finder *f)
{
	uint64_t used = 0;

	for (size_t i = 0; i < f->tables.nr; i++)
		used += filter_bytes(f->tables.items[i].filter);
	return f->filters_room - min_u64(used, f->filters_room);
}

/* 1 and *ret, 0, -1. */
static int sorted_find(struct finder *f, struct sorted *s, struct key key, uint64_t *ret, struct err *err)
{
	struct err why = ERR_INIT;
	int rc;

	if (s->filter && !filter_has(s->filter, key))
		return 0;
	rc = table_find(s->table, key, &why);
	if (rc > 0)
		rc = table_next_place(s->table, ret, &why);
	return rc < 0 ? spoil(f, &why, err) : rc;
}

static int tables_find(struct finder *f, struct key key, uint64_t *ret, struct err *err)
{
	int rc = 0;

	for (size_t i = f->tables.nr; i-- > 0 && rc == 0;)
		rc = sorted_find(f, &f->tables.items[i], key, ret, err);
	return rc;
}

/* ---- writing one ---- */

struct build {
	struct table_writer *writer;
	struct sorted s;
};

static void build_release(struct build *b)
{
	table_writer_free(b->writer);
	sorted_release(&b->s);
}
CLEANUP_DEFINE_RELEASE(struct build, build_release)

static int build_begin(struct finder *f, struct build *b, uint64_t nr_keys, struct err *err)
{
	char name[NAME_ROOM];

	*b = (struct build){ .s = { .number = f->next, .sync_fd = -1 } };
	if (vec_reserve(&f->tables) < 0) /* so that it finds its place */
		return err_set(err, ERR_MEMORY, "out of memory");
	f->next++;
	b->writer = table_writer_new(f->dirfd, table_name(b->s.number, name), err);
	if (!b->writer)
		return -1;
	b->s.sync_fd = file_open(f->dirfd, name, O_RDONLY | O_NOFOLLOW, 0, err);
	if (b->s.sync_fd < 0)
		return -1;
	b->s.filter = filter_new(nr_keys, filters_left(f));
	return 0;
}

static int build_add(struct build *b, struct key key, uint64_t number, struct err *err)
{
	if (b->s.filter)
		filter_add(b->s.filter, key);
	return table_writer_add(b->writer, key, number, err);
}

/* Hands it over to the finder, as its newest table. */
static int build_end(struct finder *f, struct build *b, struct err *err)
{
	char name[NAME_ROOM];

	if (table_writer_finish(STEAL(b->writer), NULL, &b->s.stats, err) < 0)
		return -1;
	if (b->s.filter && filter_write(b->s.filter, f->dirfd, filter_name(b->s.number, name), err) < 0)
		return -1;
	b->s.table = table_open(f->dirfd, table_name(b->s.number, name), TABLE_PAGE, err);
	if (!b->s.table)
		return -1;
	f->tables.items[f->tables.nr++] = b->s;
	b->s = (struct sorted){ .sync_fd = -1 };
	f->changed = true;
	return 0;
}

/* ---- merging ---- */

struct cursor {
	struct table *table;
	struct key key;
	bool ended;
};

struct merge {
	struct cursor *cursors; /* oldest first */
	size_t nr;
};

static void merge_release(struct merge *m)
{
	for (size_t i = 0; i < m->nr; i++)
		table_close(m->cursors[i].table);
	free(m->cursors);
}
CLEANUP_DEFINE_RELEASE(struct merge, merge_release)

static int cursor_next(struct cursor *c, struct err *err)
{
	int rc = table_next_key(c->table, &c->key, err);

	c->ended = rc == 0;
	return rc < 0 ? -1 : 0;
}

static int merge_open(struct finder *f, size_t first, struct merge *m, struct err *err)
{
	m->cursors = calloc(f->tables.nr - first, sizeof(*m->cursors));
	if (!m->cursors)
		return err_set(err, ERR_MEMORY, "out of memory");
	for (size_t i = first; i < f->tables.nr; i++) {
		struct cursor *c = &m->cursors[m->nr];
		char name[NAME_ROOM];

		c->table = table_open(f->dirfd, table_name(f->tables.items[i].number, name), MERGE_ROOM, err);
		if (!c->table)
			return -1;
		m->nr++;
		if (cursor_next(c, err) < 0)
			return -1;
	}
	return 0;
}

/* The least key; of equal ones the newest, which is the last. */
static struct cursor *merge_least(struct merge *m)
{
	struct cursor *least = NULL;

	for (size_t i = 0; i < m->nr; i++) {
		struct cursor *c = &m->cursors[i];

		if (!c->ended && (!least || key_cmp(c->key, least->key) <= 0))
			least = c;
	}
	return least;
}

/* 1 and the next key with its number, 0 at the end, -1. */
static int merge_next(struct merge *m, struct key *ret_key, uint64_t *ret_number, struct err *err)
{
	struct cursor *least = merge_least(m);
	struct key key;

	if (!least)
		return 0;
	key = least->key;
	if (table_next_place(least->table, ret_number, err) < 0)
		return -1;
	for (size_t i = 0; i < m->nr; i++) {
		struct cursor *c = &m->cursors[i];

		if (!c->ended && key_cmp(c->key, key) == 0 && cursor_next(c, err) < 0)
			return -1;
	}
	*ret_key = key;
	return 1;
}

/* The tables from `first` on become one. */
static int merge_into(struct finder *f, size_t first, struct build *b, struct err *err)
{
	CLEANUP(merge_release) struct merge m = { 0 };
	struct err why = ERR_INIT;
	uint64_t number;
	struct key key;
	int rc = merge_open(f, first, &m, &why);

	while (rc == 0 && (rc = merge_next(&m, &key, &number, &why)) > 0)
		rc = build_add(b, key, number, err) < 0 ? -2 : 0;
	return rc == -1 ? spoil(f, &why, err) : rc;
}

static void forget_tables(struct finder *f, size_t first, size_t nr)
{
	for (size_t i = first; i < first + nr; i++) {
		struct sorted *s = &f->tables.items[i];
		uint64_t number = s->number;
		bool announced = s->announced;

		sorted_release(s);
		/* What stays behind is removed when the pool is opened again. */
		if (announced)
			(void)vec_push(&f->doomed, number);
		else
			remove_table(f, number, NULL);
	}
	f->tables.nr -= nr;
	memmove(f->tables.items + first, f->tables.items + first + nr, (f->tables.nr - first) * sizeof(*f->tables.items));
}

static int merge_from(struct finder *f, size_t first, struct err *err)
{
	CLEANUP(build_release) struct build b = { .s.sync_fd = -1 };
	size_t nr = f->tables.nr - first;
	uint64_t nr_keys = 0;

	for (size_t i = first; i < f->tables.nr; i++) {
		nr_keys += f->tables.items[i].stats.nr_keys;
		filter_free(STEAL(f->tables.items[i].filter)); /* it needs their room */
	}
	if (build_begin(f, &b, nr_keys, err) < 0 || merge_into(f, first, &b, err) < 0 || build_end(f, &b, err) < 0)
		return -1;
	forget_tables(f, first, nr);
	return 0;
}

/* The first of the newest tables that should become one; the last one = nothing is to be done. */
static size_t merge_first(const struct finder *f)
{
	size_t first = f->tables.nr - 1;
	uint64_t sum = f->tables.items[first].stats.nr_keys;

	while (first && (first >= TABLES_MAX || f->tables.items[first - 1].stats.nr_keys < RATIO * sum))
		sum += f->tables.items[--first].stats.nr_keys;
	return first;
}

/* ---- what is pending ---- */

__extension__ typedef unsigned __int128 u128;

/* The slot of a key, or the free one where it belongs. */
static struct record *slot_of(const struct finder *f, struct key key)
{
	u128 m = (u128)(key.hi ^ f->seed[0]) * ((key.lo ^ f->seed[1]) | 1);
	size_t at = (size_t)((u128)((uint64_t)m ^ (uint64_t)(m >> 64)) * f->room >> 64);

	while (f->slots[at].value && key_cmp(f->slots[at].key, key) != 0)
		at = at + 1 == f->room ? 0 : at + 1;
	return &f->slots[at];
}

static int grow(struct finder *f, struct err *err)
{
	size_t old_room = f->room, room = f->room ? min_u64(f->room * 2, f->room_max) : min_u64(ROOM_MIN, f->room_max);
	struct record *old = f->slots, *slots = calloc(room, sizeof(*slots));

	if (!slots)
		return err_set(err, ERR_MEMORY, "out of memory: %zu entries of the pool's index", room);
	f->slots = slots;
	f->room = room;
	for (size_t i = 0; i < old_room; i++)
		if (old[i].value)
			*slot_of(f, old[i].key) = old[i];
	free(old);
	return 0;
}

/* Moves all that is pending to the front, in order of key. */
static int sort_pending(struct finder *f, struct err *err)
{
	struct record *scratch = malloc((f->nr + 1) * sizeof(*scratch));
	size_t nr = 0;

	if (!scratch)
		return err_set(err, ERR_MEMORY, "out of memory: sorting %zu entries of the pool's index", f->nr);
	for (size_t i = 0; i < f->room; i++)
		if (f->slots[i].value)
			f->slots[nr++] = f->slots[i];
	record_sort(f->slots, scratch, nr);
	free(scratch);
	return 0;
}

static int write_sorted(struct finder *f, struct err *err)
{
	CLEANUP(build_release) struct build b = { .s.sync_fd = -1 };

	if (build_begin(f, &b, f->nr, err) < 0)
		return -1;
	for (size_t i = 0; i < f->nr; i++)
		if (build_add(&b, f->slots[i].key, f->slots[i].value - 1, err) < 0)
			return -1;
	return build_end(f, &b, err);
}

/* Writes what is pending, if anything, and merges. */
static int write_pending(struct finder *f, struct err *err)
{
	struct err why = ERR_INIT;
	size_t first;
	int rc;

	if (!f->nr)
		return 0;
	if (sort_pending(f, err) < 0)
		return -1;
	rc = write_sorted(f, &why);
	if (rc == 0) {
		memset(f->slots, 0, f->room * sizeof(*f->slots));
		f->nr = 0;
		first = merge_first(f);
		if (first + 1 < f->tables.nr)
			rc = merge_from(f, first, &why);
	}
	if (rc == 0)
		return 0;
	if (f->failed.kind == ERR_NONE)
		failed_now(f, &why);
	return failed_before(f, err);
}

static int make_room(struct finder *f, struct err *err)
{
	if (f->nr < f->room / 4 * 3)
		return 0;
	return f->room < f->room_max ? grow(f, err) : write_pending(f, err);
}

/* ---- the map ---- */

int finder_add(struct finder *f, enum finder_kind kind, unsigned unit_bits, uint64_t hi, uint64_t lo, uint64_t number, bool over,
	       struct err *err)
{
	struct key key = key_of(kind, unit_bits, hi, lo);
	struct record *slot;
	uint64_t old;
	int rc;

	assert(f->writing && number <= NUMBER_MASK);
	if (f->failed.kind != ERR_NONE)
		return failed_before(f, err);
	if (make_room(f, err) < 0)
		return -1;
	slot = slot_of(f, key);
	if (slot->value && !over)
		return 1;
	if (!over) {
		rc = tables_find(f, key, &old, err);
		if (rc != 0)
			return rc;
	}
	f->nr += !slot->value;
	*slot = (struct record){ key, short_number(kind, number) + 1 };
	return 0;
}

int finder_get(struct finder *f, enum finder_kind kind, unsigned unit_bits, uint64_t hi, uint64_t lo, uint64_t *ret,
	       struct err *err)
{
	struct key key = key_of(kind, unit_bits, hi, lo);
	const struct record *slot;
	uint64_t number;
	int rc;

	if (f->failed.kind != ERR_NONE)
		return failed_before(f, err);
	slot = f->nr ? slot_of(f, key) : NULL;
	if (slot && slot->value) {
		number = slot->value - 1;
	} else {
		rc = tables_find(f, key, &number, err);
		if (rc <= 0)
			return rc;
	}
	*ret = long_number(kind, number);
	return 1;
}

uint64_t finder_covered(const struct finder *f)
{
	return f->covered;
}

uint64_t finder_reach(const struct finder *f)
{
	return f->reach;
}

void finder_set_reach(struct finder *f, uint64_t reach)
{
	f->reach = reach;
}

uint32_t finder_tail(const struct finder *f)
{
	return f->tail;
}

void finder_set_tail(struct finder *f, uint32_t tail)
{
	f->tail = tail;
}

void finder_lacks(const struct finder *f, uint64_t *ret_begin, uint64_t *ret_end)
{
	*ret_begin = f->lacks_begin;
	*ret_end = f->lacks_end;
}

void finder_set_lacks(struct finder *f, uint64_t begin, uint64_t end)
{
	f->lacks_begin = begin < end ? begin : 0;
	f->lacks_end = begin < end ? end : 0;
	f->changed = true;
}

uint64_t finder_bytes(const struct finder *f)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < f->tables.nr; i++)
		bytes += f->tables.items[i].stats.bytes + filter_bytes(f->tables.items[i].filter);
	return bytes;
}

/* ---- announcing ---- */

static size_t manifest_encode(const struct finder *f, uint8_t ret[MANIFEST_MAX])
{
	struct manifest_disk d = {
		.version = le32_from(MANIFEST_VERSION),
		.nr = le32_from((uint32_t)f->tables.nr),
		.covered = le64_from(f->covered),
		.next = le64_from(f->next),
		.lacks_begin = le64_from(f->lacks_begin),
		.lacks_end = le64_from(f->lacks_end),
		.reach = le64_from(f->reach),
		.tail = le32_from(f->tail),
	};
	size_t len = sizeof(d);

	memcpy(d.magic, MANIFEST_MAGIC, sizeof(d.magic));
	memcpy(d.uuid, f->uuid, sizeof(d.uuid));
	memcpy(ret, &d, sizeof(d));
	for (size_t i = 0; i < f->tables.nr; i++, len += sizeof(struct manifest_table_disk)) {
		const struct sorted *s = &f->tables.items[i];
		struct manifest_table_disk t = { le64_from(s->number), le64_from(s->stats.nr_keys), le64_from(s->stats.bytes) };

		memcpy(ret + len, &t, sizeof(t));
	}
	le32_store(ret + len, crc32c(0, ret, len));
	return len + sizeof(le32);
}

static int sync_tables(struct finder *f, struct err *err)
{
	for (size_t i = 0; i < f->tables.nr; i++) {
		struct sorted *s = &f->tables.items[i];
		char name[NAME_ROOM];

		if (s->sync_fd >= 0 && file_sync(s->sync_fd, table_name(s->number, name), err) < 0)
			return -1;
	}
	return file_sync_dir(f->dirfd, err);
}

static int publish(struct finder *f, struct err *err)
{
	uint8_t bytes[MANIFEST_MAX];
	size_t len = manifest_encode(f, bytes);

	if (sync_tables(f, err) < 0)
		return -1;
	for (size_t i = 0; i < f->tables.nr; i++) {
		struct sorted *s = &f->tables.items[i];

		if (s->sync_fd >= 0)
			file_ops->close(STEAL_FD(s->sync_fd));
		s->announced = true;
	}
	if (file_write_atomic(f->dirfd, MANIFEST, bytes, len, 0600, err) < 0)
		return -1;
	f->changed = false;
	return 0;
}

int finder_sync(struct finder *f, uint64_t covered, struct err *err)
{
	assert(f->writing);
	if (f->failed.kind != ERR_NONE)
		return failed_before(f, err);
	if (write_pending(f, err) < 0)
		return -1;
	f->changed = f->changed || covered != f->covered;
	f->covered = covered;
	if (!f->changed)
		return 0;
	if (publish(f, err) < 0) {
		err_add(err, "index of the pool");
		return failed_now(f, err);
	}
	for (; f->doomed.nr; f->doomed.nr--)
		remove_table(f, f->doomed.items[f->doomed.nr - 1], NULL);
	return 0;
}

/* ---- opening ---- */

static size_t manifest_head(const uint8_t *p)
{
	const struct manifest_disk *d = (const void *)p;

	return le32_get(d->version) == 2 ? MANIFEST_2_SIZE : sizeof(*d);
}

/* It is as it was written. */
static bool manifest_is_sound(const uint8_t *p, size_t len)
{
	const struct manifest_disk *d = (const void *)p;

	if (len < MANIFEST_2_SIZE + sizeof(le32) || memcmp(d->magic, MANIFEST_MAGIC, sizeof(d->magic)) != 0)
		return false;
	if ((le32_get(d->version) != 2 && le32_get(d->version) != MANIFEST_VERSION) || le32_get(d->nr) > TABLES_ROOM ||
	    len != manifest_head(p) + le32_get(d->nr) * sizeof(struct manifest_table_disk) + sizeof(le32))
		return false;
	return le32_load(p + len - sizeof(le32)) == crc32c(0, p, len - sizeof(le32));
}

static bool manifest_is_of_another(const struct finder *f, const uint8_t *p)
{
	const struct manifest_disk *d = (const void *)p;

	return memcmp(d->uuid, f->uuid, sizeof(f->uuid)) != 0;
}

/* Of a sound one. */
static bool manifest_decode(struct finder *f, const uint8_t *p, struct table_stats *ret_stats)
{
	const struct manifest_disk *d = (const void *)p;
	const size_t head = manifest_head(p);
	const struct manifest_table_disk *t = (const void *)(p + head);
	uint64_t last = 0;

	for (uint32_t i = 0; i < le32_get(d->nr); i++) {
		struct sorted s = { .number = le64_get(t[i].number), .sync_fd = -1, .announced = true };

		if (s.number <= last || s.number >= le64_get(d->next) || vec_push(&f->tables, s) < 0)
			return false;
		last = s.number;
		ret_stats[i] = (struct table_stats){ .nr_keys = le64_get(t[i].nr_keys), .bytes = le64_get(t[i].bytes) };
	}
	f->covered = le64_get(d->covered);
	f->next = max_u64(le64_get(d->next), 1);
	f->lacks_begin = le64_get(d->lacks_begin);
	f->lacks_end = le64_get(d->lacks_end);
	f->reach = head == sizeof(*d) ? le64_get(d->reach) : UINT64_MAX;
	f->tail = head == sizeof(*d) ? le32_get(d->tail) : 0;
	return true;
}

/* Whether it is our own trouble, and says nothing about the file. */
static bool is_ours(const struct err *why)
{
	return why->kind == ERR_MEMORY || why->errnum == EMFILE || why->errnum == ENFILE;
}

/* 1, 0 = there is none, or it is not right (*ret_whole), -1. */
static int manifest_read(struct finder *f, struct table_stats *ret_stats, bool *ret_whole, struct err *err)
{
	uint8_t bytes[MANIFEST_MAX + 1];
	struct err why = ERR_INIT;
	int fd = file_open(f->dirfd, MANIFEST, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, &why);
	ssize_t len;

	if (fd < 0 && why.errnum == ENOENT)
		return 0;
	if (fd < 0 && is_ours(&why))
		return err_set(err, why.kind, "%s", why.text);
	len = fd < 0 ? -1 : file_read_some(fd, bytes, sizeof(bytes), 0, NULL);
	if (fd >= 0)
		file_ops->close(fd);
	*ret_whole = false;
	f->damaged = len < 0 || !manifest_is_sound(bytes, (size_t)len);
	if (f->damaged || manifest_is_of_another(f, bytes))
		return 0;
	*ret_whole = manifest_decode(f, bytes, ret_stats);
	if (*ret_whole)
		return 1;
	f->damaged = true;
	f->tables.nr = 0;
	return 0;
}

/* Opens a table that the manifest names: 1, 0 = it is not what that says, -1. */
static int open_sorted(struct finder *f, struct sorted *s, struct table_stats should, struct err *err)
{
	struct err why = ERR_INIT;
	char name[NAME_ROOM];

	s->table = table_open(f->dirfd, table_name(s->number, name), TABLE_PAGE, &why);
	if (!s->table)
		return is_ours(&why) ? err_set(err, why.kind, "%s", why.text) : 0;
	s->stats = table_stats(s->table);
	if (s->stats.nr_keys != should.nr_keys || s->stats.bytes != should.bytes)
		return 0;
	s->filter = filter_load(f->dirfd, filter_name(s->number, name), filters_left(f));
	return 1;
}

struct cleaning {
	struct finder *f;
	bool others; /* there are tables that nobody announced */
	bool synced;
};

static bool is_known(const struct finder *f, uint64_t number)
{
	for (size_t i = 0; i < f->tables.nr; i++)
		if (f->tables.items[i].number == number)
			return true;
	return false;
}

static int clean(void *ctx, const char *name, struct err *err)
{
	const char *dot = strrchr(name, '.');
	char again[NAME_ROOM];
	struct cleaning *c = ctx;
	uint64_t number = strtoull(name, NULL, 10);
	bool table = strcmp(name, table_name(number, again)) == 0, filter = strcmp(name, filter_name(number, again)) == 0;

	if (!dot || !(table || filter || strcmp(dot, ".tmp") == 0))
		return 0;
	if ((table || filter) && is_known(c->f, number))
		return 0;
	c->others |= table;
	if (!c->f->writing)
		return 0;
	/* The manifest that does not name it may have been renamed by a process that died before it was durable. */
	if (!c->synced && file_sync_dir(c->f->dirfd, err) < 0)
		return -1;
	c->synced = true;
	return file_unlink(c->f->dirfd, name, err);
}

static void forget_coverage(struct finder *f)
{
	f->covered = f->lacks_begin = f->reach = f->tail = 0;
	f->lacks_end = UINT64_MAX;
}

static int open_tables(struct finder *f, bool *ret_whole, struct err *err)
{
	struct table_stats stats[TABLES_ROOM];
	struct cleaning c = { .f = f };
	int rc = manifest_read(f, stats, ret_whole, err), opened = 0;
	size_t nr = 0;

	for (size_t i = 0; i < f->tables.nr && opened >= 0; i++) {
		struct sorted s = f->tables.items[i];

		opened = open_sorted(f, &s, stats[i], err);
		if (opened > 0) {
			f->tables.items[nr++] = s;
			continue;
		}
		sorted_release(&s);
		f->damaged = true;
		*ret_whole = false;
	}
	f->tables.nr = nr;
	if (rc < 0 || opened < 0)
		return -1;
	if (file_each_name(f->dirfd, clean, &c, err) < 0)
		return -1;
	if (rc == 0 && c.others)
		*ret_whole = false;
	if (!*ret_whole)
		forget_coverage(f);
	return 0;
}

struct finder *finder_open(int dirfd, const uint8_t uuid[16], size_t memory, bool writing, bool *ret_whole, struct err *err)
{
	CLEANUP(finder_close) struct finder *f = calloc(1, sizeof(*f));
	bool whole = true;

	if (!f)
		return err_null(err, ERR_MEMORY, "out of memory");
	f->dirfd = dirfd;
	f->writing = writing;
	f->next = 1;
	f->lacks_end = UINT64_MAX;
	f->filters_room = memory / 2;
	/* Twice: when it grows, or for sorting. */
	f->room_max = max_u64(memory / 4 / sizeof(struct record), ROOM_MIN);
	memcpy(f->uuid, uuid, sizeof(f->uuid));
	if (getrandom(f->seed, sizeof(f->seed), GRND_NONBLOCK) < 0)
		f->seed[0] = (uintptr_t)f;
	if (grow(f, err) < 0 || open_tables(f, &whole, err) < 0) {
		err_add(err, "index of the pool");
		return NULL;
	}
	*ret_whole = whole;
	return STEAL(f);
}

void finder_close(struct finder *f)
{
	if (!f)
		return;
	for (size_t i = 0; i < f->tables.nr; i++)
		sorted_release(&f->tables.items[i]);
	vec_release(&f->tables);
	vec_release(&f->doomed);
	free(f->slots);
	free(f);
}

/* ---- proving ---- */

#define KEYS_EACH_STOP (1u << 16)

static int prove_table(const struct finder *f, const struct sorted *s, struct stopper *stopper, struct err *err)
{
	char name[NAME_ROOM];
	CLEANUP(table_close) struct table *t = table_open(f->dirfd, table_name(s->number, name), MERGE_ROOM, err);
	uint64_t nr = 0, place;
	struct key key;
	int rc = t ? 0 : -1;

	while (rc == 0 && (rc = table_next_key(t, &key, err)) > 0) {
		if (nr++ % KEYS_EACH_STOP == 0 && stopper && stopper_says(stopper))
			return err_set(err, ERR_CANCELED, "stopped");
		while ((rc = table_next_place(t, &place, err)) > 0)
			;
	}
	if (rc < 0 || table_find(t, (struct key){ 0, 0 }, err) < 0) /* the directory, too */
		return -1;
	return nr == s->stats.nr_keys ? 0 : err_set(err, ERR_FORMAT, "table '%s' has not as many keys as it says", name);
}

/* One that was loaded is whole. */
static int prove_filter(const struct finder *f, const struct sorted *s, struct err *err)
{
	CLEANUP(filter_free) struct filter *loaded = NULL;
	char name[NAME_ROOM];
	struct stat st;

	if (s->filter)
		return 0;
	if (file_ops->fstatat(f->dirfd, filter_name(s->number, name), &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : err_errno(err, "cannot look at '%s'", name);
	if ((uint64_t)st.st_size > f->filters_room)
		return 0;
	loaded = filter_load(f->dirfd, name, f->filters_room);
	return loaded ? 0 : err_set(err, ERR_FORMAT, "filter '%s' is damaged", name);
}

static int prove_all(const struct finder *f, struct stopper *stopper, struct err *err)
{
	if (f->damaged)
		return err_set(err, ERR_FORMAT, "the list of its tables is damaged, or one of them is missing");
	for (size_t i = 0; i < f->tables.nr; i++)
		if (prove_table(f, &f->tables.items[i], stopper, err) < 0 || prove_filter(f, &f->tables.items[i], err) < 0)
			return -1;
	return 0;
}

int finder_prove(const struct finder *f, struct stopper *stopper, struct err *ret_why, struct err *err)
{
	struct err why = ERR_INIT;

	if (prove_all(f, stopper, &why) == 0)
		return 1;
	err_add(&why, "index of the pool");
	if (why.kind == ERR_CANCELED || is_ours(&why)) {
		if (err)
			*err = why;
		return -1;
	}
	*ret_why = why;
	return 0;
}

int finder_clear(struct finder *f, struct err *err)
{
	struct cleaning c = { .f = f };

	assert(f->writing);
	if (file_unlink(f->dirfd, MANIFEST, err) < 0 || file_sync_dir(f->dirfd, err) < 0)
		return err_add(err, "index of the pool");
	for (size_t i = 0; i < f->tables.nr; i++)
		sorted_release(&f->tables.items[i]);
	f->tables.nr = f->doomed.nr = 0;
	memset(f->slots, 0, f->room * sizeof(*f->slots));
	f->nr = 0;
	forget_coverage(f);
	f->changed = true;
	f->failed = ERR_INIT;
	return file_each_name(f->dirfd, clean, &c, err) < 0 ? err_add(err, "index of the pool") : 0;
}

int finder_begin(struct finder *f, const uint8_t uuid[16], struct err *err)
{
	if (finder_clear(f, err) < 0)
		return -1;
	memcpy(f->uuid, uuid, sizeof(f->uuid));
	finder_set_lacks(f, 0, 0);
	return 0;
}

void finder_give_up(struct finder *f, const struct err *why)
{
	struct err told = *why;

	failed_now(f, &told);
}
