/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "scanner/base/checked.h"
#include "scanner/base/crc32c.h"
#include "scanner/base/vec.h"
#include "scanner/image/vhdx_format.h"

/* The replay of a VHDX log, in memory.
 *
 *	log	|   | e7 | e8 | e9 |   | e5' |	e6' |	one ring; e5' and e6' are of an older sequence
 *		      tail	head
 *
 * Each entry names the sequence number that the next one must have, which lies right behind it.  So valid entries form
 * chains, and a chain's last entry, the head, names its tail: the oldest entry to replay.  The active sequence is the
 * one from tail to head whose head has the greatest number.
 *
 * Three steps: (1) all sectors are looked at for entries, and those that are valid are noted; (2) each is told where
 * its chain ends, and the best head is taken; (3) the descriptors from tail to head are noted, and painted from the
 * newest to the oldest, so that what is left of each is what the file would hold.
 *
 * Bounds: valid entries do not share sectors, but for remains of older ones, so the sectors that are summed up are not
 * many more than the log has; and a log with more than NR_UPDATES_MAX descriptors is not replayed. */

#define PIECE ((uint64_t)64 << 10) /* of the log, read at a time */
#define PIECE_SECTORS (PIECE / VHDX_LOG_SECTOR)
#define NR_UPDATES_MAX ((size_t)1 << 18)

struct entry {
	uint32_t sector, nr_sectors;
	uint32_t tail; /* the sector of the entry to begin with, when this is the head */
	size_t end;    /* index of the last entry of its chain; NO_ENTRY = not known yet */
	uint64_t sequence;
};
#define NO_ENTRY SIZE_MAX

struct search {
	const struct image_file *f;
	const struct vhdx_header *h;
	uint32_t nr_sectors;
	uint64_t work;		   /* sectors that may still be looked at */
	uint8_t *piece;		   /* of the log ... */
	uint64_t loaded;	   /* ... from this sector on; not a multiple of PIECE_SECTORS = none */
	VEC(struct entry) entries; /* those that are valid, in order of their sectors */
	VEC(struct vhdx_update) updates;
};

/* The sector at `index`, counted from the log's beginning and around; good until the next call. */
static const uint8_t *log_sector(struct search *s, uint64_t index, struct err *err)
{
	uint64_t sector = index % s->nr_sectors, base = round_down(sector, PIECE_SECTORS);

	if (s->loaded != base) {
		s->loaded = 1;
		if (image_file_read(s->f, s->piece, PIECE, s->h->log_range.begin + base * VHDX_LOG_SECTOR, err) < 0)
			return NULL;
		s->loaded = base;
	}
	return s->piece + (sector - base) * VHDX_LOG_SECTOR;
}

/* ---- entries ---- */

static uint32_t nr_descriptor_sectors(uint32_t nr_descriptors)
{
	return (uint32_t)div_up((uint64_t)nr_descriptors + VHDX_LOG_DESCRIPTORS - VHDX_LOG_DESCRIPTORS_FIRST,
				VHDX_LOG_DESCRIPTORS);
}

static bool header_valid(const struct search *s, const struct vhdx_log_entry_disk *d)
{
	uint32_t length = le32_get(d->length), tail = le32_get(d->tail);

	return memcmp(d->signature, VHDX_LOG_ENTRY_SIGNATURE, 4) == 0 && vhdx_guid_equal(&d->log, &s->h->log) &&
	       le64_get(d->sequence) != 0 && length != 0 && length % VHDX_LOG_SECTOR == 0 &&
	       length / VHDX_LOG_SECTOR <= s->nr_sectors && tail % VHDX_LOG_SECTOR == 0 &&
	       tail / VHDX_LOG_SECTOR < s->nr_sectors &&
	       nr_descriptor_sectors(le32_get(d->nr_descriptors)) <= length / VHDX_LOG_SECTOR;
}

static bool is_data(const struct vhdx_log_descriptor_disk *d)
{
	return memcmp(d->signature, VHDX_LOG_DESC_SIGNATURE, 4) == 0;
}

static uint64_t descriptor_length(const struct vhdx_log_descriptor_disk *d)
{
	return is_data(d) ? VHDX_LOG_SECTOR : le64_get(d->zero_length);
}

static bool descriptor_valid(const struct vhdx_log_descriptor_disk *d, uint64_t sequence)
{
	uint64_t offset = le64_get(d->file_offset), length = descriptor_length(d);

	return (is_data(d) || memcmp(d->signature, VHDX_LOG_ZERO_SIGNATURE, 4) == 0) &&
	       le64_get(d->sequence) == sequence && offset % VHDX_LOG_SECTOR == 0 && length % VHDX_LOG_SECTOR == 0 &&
	       range_within(offset, length, INT64_MAX);
}

static bool data_valid(const struct vhdx_log_data_disk *d, uint64_t sequence)
{
	return memcmp(d->signature, VHDX_LOG_DATA_SIGNATURE, 4) == 0 && le32_get(d->sequence_high) == sequence >> 32 &&
	       le32_get(d->sequence_low) == (uint32_t)sequence;
}

/* The descriptors in the index-th sector of an entry that has `nr` in all. */
static const struct vhdx_log_descriptor_disk *descriptors_in(const uint8_t *sector, uint32_t index, uint32_t nr,
							     uint32_t *ret_nr)
{
	uint32_t before = index == 0 ? 0 : index * VHDX_LOG_DESCRIPTORS - 2;
	uint32_t room = index == 0 ? VHDX_LOG_DESCRIPTORS_FIRST : VHDX_LOG_DESCRIPTORS;

	*ret_nr = (uint32_t)min_u64(room, nr - before);
	return (const void *)(sector + (index == 0 ? sizeof(struct vhdx_log_entry_disk) : 0));
}

/* Whether all sectors of the entry at `at`, whose header is `h`, are as they were written; 1 yes, 0 no, -1 error. */
static int entry_valid(struct search *s, uint32_t at, const struct vhdx_log_entry_disk *h, struct err *err)
{
	uint32_t nr_descriptors = le32_get(h->nr_descriptors), first_data = nr_descriptor_sectors(nr_descriptors);
	uint32_t nr_sectors = le32_get(h->length) / VHDX_LOG_SECTOR, nr_data = 0, nr, crc = 0;

	for (uint32_t i = 0; i < nr_sectors; i++) {
		const uint8_t *sector = log_sector(s, (uint64_t)at + i, err);
		const struct vhdx_log_descriptor_disk *d;

		if (!sector)
			return -1;
		if (s->work-- == 0)
			return err_set(err, ERR_FORMAT, "the log's entries lie upon each other");
		if (i < first_data) {
			d = descriptors_in(sector, i, nr_descriptors, &nr);
			for (; nr; nr--, d++) {
				if (!descriptor_valid(d, le64_get(h->sequence)))
					return 0;
				nr_data += is_data(d);
			}
		} else if (i < (uint64_t)first_data + nr_data) {
			if (!data_valid((const void *)sector, le64_get(h->sequence)))
				return 0;
		}
		crc = i == 0 ? vhdx_checksum(sector, VHDX_LOG_SECTOR) : crc32c(crc, sector, VHDX_LOG_SECTOR);
	}
	return nr_sectors - first_data >= nr_data && crc == le32_get(h->checksum);
}

static int find_entries(struct search *s, struct err *err)
{
	for (uint32_t i = 0; i < s->nr_sectors; i++) {
		const uint8_t *sector = log_sector(s, i, err);
		struct vhdx_log_entry_disk h;
		int valid;

		if (!sector)
			return -1;
		memcpy(&h, sector, sizeof(h));
		if (!header_valid(s, &h))
			continue;
		valid = entry_valid(s, i, &h, err);
		if (valid < 0)
			return -1;
		if (valid && vec_push(&s->entries, (struct entry){ .sector = i,
								   .nr_sectors = le32_get(h.length) / VHDX_LOG_SECTOR,
								   .tail = le32_get(h.tail) / VHDX_LOG_SECTOR,
								   .end = NO_ENTRY,
								   .sequence = le64_get(h.sequence) }) < 0)
			return err_set(err, ERR_MEMORY, "no memory for the entries of a VHDX log");
	}
	return 0;
}

/* ---- the active sequence ---- */

/* The entry at a sector of the ring, or NO_ENTRY. */
static size_t entry_at(const struct search *s, uint64_t sector)
{
	size_t first = 0, nr = s->entries.nr;

	sector %= s->nr_sectors;
	while (nr) {
		size_t half = nr / 2;

		if (s->entries.items[first + half].sector < sector) {
			first += half + 1;
			nr -= half + 1;
		} else {
			nr = half;
		}
	}
	return first < s->entries.nr && s->entries.items[first].sector == sector ? first : NO_ENTRY;
}

/* The entry that goes on where the i-th ends, or NO_ENTRY.  Numbers grow along a chain, so it has an end. */
static size_t entry_after(const struct search *s, size_t i)
{
	const struct entry *e = &s->entries.items[i];
	size_t next = entry_at(s, (uint64_t)e->sector + e->nr_sectors);

	return next != NO_ENTRY && s->entries.items[next].sequence == e->sequence + 1 ? next : NO_ENTRY;
}

static void find_ends(struct search *s)
{
	for (size_t i = 0; i < s->entries.nr; i++) {
		size_t end = i, next;

		while (s->entries.items[end].end == NO_ENTRY && (next = entry_after(s, end)) != NO_ENTRY)
			end = next;
		if (s->entries.items[end].end != NO_ENTRY)
			end = s->entries.items[end].end;
		for (size_t at = i; s->entries.items[at].end == NO_ENTRY; at = next) {
			s->entries.items[at].end = end;
			next = at == end ? end : entry_after(s, at);
		}
	}
}

/* The head with the greatest number whose tail is in its own chain. */
static size_t find_head(const struct search *s)
{
	size_t head = NO_ENTRY;

	for (size_t i = 0; i < s->entries.nr; i++) {
		const struct entry *e = &s->entries.items[i];
		size_t tail = entry_at(s, e->tail);

		if (tail != NO_ENTRY && s->entries.items[tail].end == i &&
		    (head == NO_ENTRY || e->sequence > s->entries.items[head].sequence))
			head = i;
	}
	return head;
}

/* ---- what it writes ---- */

static int note_update(struct search *s, const struct vhdx_log_descriptor_disk *d, uint64_t *data, struct err *err)
{
	struct vhdx_update u = { .begin = le64_get(d->file_offset), .sector = VHDX_LOG_ZEROS };

	u.end = u.begin + descriptor_length(d);
	if (is_data(d)) {
		u.sector = (uint32_t)((*data)++ % s->nr_sectors);
		memcpy(u.leading, d->leading, sizeof(u.leading));
		memcpy(u.trailing, d->trailing, sizeof(u.trailing));
	}
	if (s->updates.nr == NR_UPDATES_MAX)
		return err_set(err, ERR_UNSUPPORTED, "the log has more than %zu updates to replay", NR_UPDATES_MAX);
	if (vec_push(&s->updates, u) < 0)
		return err_set(err, ERR_MEMORY, "no memory for the updates of a VHDX log");
	return 0;
}

static int note_entry(struct search *s, const struct entry *e, struct err *err)
{
	const uint8_t *sector = log_sector(s, e->sector, err);
	uint32_t nr_descriptors, first_data, nr;
	uint64_t data;

	if (!sector)
		return -1;
	nr_descriptors = le32_get(((const struct vhdx_log_entry_disk *)sector)->nr_descriptors);
	first_data = nr_descriptor_sectors(nr_descriptors);
	if (first_data > e->nr_sectors)
		return err_set(err, ERR_STALE, "the log changed while it was read");
	data = (uint64_t)e->sector + first_data;
	for (uint32_t i = 0; i < first_data; i++) {
		const struct vhdx_log_descriptor_disk *d;

		sector = log_sector(s, (uint64_t)e->sector + i, err);
		if (!sector)
			return -1;
		d = descriptors_in(sector, i, nr_descriptors, &nr);
		for (; nr; nr--, d++)
			if (!descriptor_valid(d, e->sequence))
				return err_set(err, ERR_STALE, "the log changed while it was read");
			else if (note_update(s, d, &data, err) < 0)
				return -1;
	}
	return 0;
}

static int note_sizes(struct search *s, const struct entry *head, struct vhdx_log *log, struct err *err)
{
	const struct vhdx_log_entry_disk *h = (const void *)log_sector(s, head->sector, err);
	uint64_t flushed;

	if (!h)
		return -1;
	flushed = le64_get(h->flushed_file_offset);
	if (s->f->size < flushed)
		return err_set(err, ERR_FORMAT, "the file was cut: it has %llu bytes, of %llu that its log tells of",
			       (unsigned long long)s->f->size, (unsigned long long)flushed);
	log->file_size = max_u64(log->file_size, le64_get(h->last_file_offset));
	for (size_t i = 0; i < s->updates.nr; i++)
		log->file_size = max_u64(log->file_size, s->updates.items[i].end);
	return 0;
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* Offsets at which what is written changes, sorted, each once; returns how many. */
static size_t list_borders(const struct search *s, uint64_t *ret)
{
	size_t nr = 0, kept = 0;

	for (size_t i = 0; i < s->updates.nr; i++) {
		ret[nr++] = s->updates.items[i].begin;
		ret[nr++] = s->updates.items[i].end;
	}
	qsort(ret, nr, sizeof(*ret), by_value);
	for (size_t i = 0; i < nr; i++)
		if (i == 0 || ret[i] != ret[kept - 1])
			ret[kept++] = ret[i];
	return kept;
}

static size_t find_border(const uint64_t *borders, size_t nr, uint64_t offset)
{
	size_t first = 0;

	while (nr > 1) {
		size_t half = nr / 2;

		if (borders[first + half] <= offset)
			first += half;
		nr -= half;
	}
	return first;
}

/* The first stretch from i on that is not painted; paths are made short on the way. */
static size_t bare_stretch(uint32_t *next, size_t i)
{
	while (next[i] != i) {
		next[i] = next[next[i]];
		i = next[i];
	}
	return i;
}

/* Appends what `u` says of [begin, end); zeros that go on are one update. */
static void append_update(struct vhdx_log *log, const struct vhdx_update *u, uint64_t begin, uint64_t end)
{
	struct vhdx_update *last = log->nr_updates ? &log->updates[log->nr_updates - 1] : NULL;

	if (last && last->end == begin && last->sector == VHDX_LOG_ZEROS && u->sector == VHDX_LOG_ZEROS) {
		last->end = end;
		return;
	}
	log->updates[log->nr_updates] = *u;
	log->updates[log->nr_updates].begin = begin;
	log->updates[log->nr_updates].end = end;
	log->nr_updates++;
}

/* Resolves the updates, noted from the oldest to the newest, to ranges without overlaps.  Between two borders lies a
 * stretch; one that data are written to is as long as their sector. */
static int resolve_updates(const struct search *s, struct vhdx_log *log, struct err *err)
{
	size_t nr = 2 * s->updates.nr;
	CLEANUP(free) uint64_t *borders = calloc(nr + 1, sizeof(*borders));
	CLEANUP(free) uint32_t *painter = calloc(nr + 1, sizeof(*painter)), *next = calloc(nr + 1, sizeof(*next));

	log->updates = calloc(nr + 1, sizeof(*log->updates));
	if (!borders || !painter || !next || !log->updates)
		return err_set(err, ERR_MEMORY, "no memory for the updates of a VHDX log");
	nr = list_borders(s, borders);
	for (size_t i = 0; i <= nr; i++)
		next[i] = (uint32_t)i;
	for (size_t k = s->updates.nr; k-- > 0;) {
		const struct vhdx_update *u = &s->updates.items[k];
		size_t i = bare_stretch(next, find_border(borders, nr, u->begin));

		for (; borders[i] < u->end; i = bare_stretch(next, i)) {
			painter[i] = (uint32_t)k + 1;
			next[i] = (uint32_t)i + 1;
		}
	}
	for (size_t i = 0; i + 1 < nr; i++)
		if (painter[i])
			append_update(log, &s->updates.items[painter[i] - 1], borders[i], borders[i + 1]);
	return 0;
}

/* ---- all of it ---- */

static int replay(struct search *s, struct vhdx_log *log, struct err *err)
{
	size_t head;

	if (find_entries(s, err) < 0)
		return -1;
	find_ends(s);
	head = find_head(s);
	if (head == NO_ENTRY)
		return err_set(err, ERR_FORMAT,
			       "the log must be replayed, but has no valid sequence of entries; let Hyper-V or "
			       "'qemu-img check -r all' repair the image first");
	for (size_t i = entry_at(s, s->entries.items[head].tail); i != NO_ENTRY; i = entry_after(s, i)) {
		if (note_entry(s, &s->entries.items[i], err) < 0)
			return -1;
		log->nr_entries++;
	}
	if (note_sizes(s, &s->entries.items[head], log, err) < 0)
		return -1;
	return resolve_updates(s, log, err);
}

int vhdx_log_replay(const struct image_file *f, const struct vhdx_header *h, struct vhdx_log *ret, struct err *err)
{
	static const struct vhdx_guid none;
	struct search s = { .f = f, .h = h, .loaded = 1 };
	uint64_t length = h->log_range.end - h->log_range.begin;
	int rc;

	*ret = (struct vhdx_log){ .offset = h->log_range.begin, .file_size = f->size };
	if (vhdx_guid_equal(&h->log, &none))
		return 0;
	if (!range_within(h->log_range.begin, length, f->size))
		return err_set(err, ERR_FORMAT, "the log ends past the end of the file");
	s.nr_sectors = (uint32_t)(length / VHDX_LOG_SECTOR);
	s.work = 2 * (uint64_t)s.nr_sectors + 4096;
	s.piece = malloc(PIECE);
	rc = s.piece ? replay(&s, ret, err) : err_set(err, ERR_MEMORY, "no memory to read a VHDX log");
	free(s.piece);
	vec_release(&s.entries);
	vec_release(&s.updates);
	return rc;
}

void vhdx_log_release(struct vhdx_log *log)
{
	free(log->updates);
	log->updates = NULL;
	log->nr_updates = 0;
}

/* ---- reading through it ---- */

const struct vhdx_update *vhdx_log_find(const struct vhdx_log *log, uint64_t offset)
{
	size_t first = 0, nr = log->nr_updates;

	while (nr) {
		size_t half = nr / 2;

		if (log->updates[first + half].end <= offset) {
			first += half + 1;
			nr -= half + 1;
		} else {
			nr = half;
		}
	}
	return first < log->nr_updates ? &log->updates[first] : NULL;
}

/* Reads what the file itself has; what the log appends to it is zeros. */
static int read_file(const struct image_file *f, uint8_t *p, size_t len, uint64_t offset, struct err *err)
{
	size_t have = offset < f->size ? (size_t)min_u64(len, f->size - offset) : 0;

	memset(p + have, 0, len - have);
	return have ? image_file_read(f, p, have, offset, err) : 0;
}

/* Reads from the sector that `u` writes. */
static int read_update(const struct image_file *f, const struct vhdx_log *log, const struct vhdx_update *u, uint8_t *p,
		       size_t len, size_t at, struct err *err)
{
	struct vhdx_log_data_disk d;
	uint8_t *sector = (uint8_t *)&d;

	if (u->sector == VHDX_LOG_ZEROS) {
		memset(p, 0, len);
		return 0;
	}
	if (image_file_read(f, sector, VHDX_LOG_SECTOR, log->offset + (uint64_t)u->sector * VHDX_LOG_SECTOR, err) < 0)
		return -1;
	memcpy(sector, u->leading, sizeof(u->leading));
	memcpy(sector + VHDX_LOG_SECTOR - sizeof(u->trailing), u->trailing, sizeof(u->trailing));
	memcpy(p, sector + at, len);
	return 0;
}

int vhdx_log_read(const struct image_file *f, const struct vhdx_log *log, void *buf, size_t len, uint64_t offset,
		  struct err *err)
{
	if (!range_within(offset, len, log->file_size))
		return err_set(err, ERR_FORMAT, "offset %llu is past the end of the file", (unsigned long long)offset);
	for (uint8_t *p = buf; len;) {
		const struct vhdx_update *u = vhdx_log_find(log, offset);
		bool inside = u && u->begin <= offset;
		size_t n = (size_t)(u ? min_u64(len, (inside ? u->end : u->begin) - offset) : len);

		if (inside ? read_update(f, log, u, p, n, (size_t)(offset - u->begin), err) < 0
			   : read_file(f, p, n, offset, err) < 0)
			return -1;
		p += n;
		offset += n;
		len -= n;
	}
	return 0;
}
