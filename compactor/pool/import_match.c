/* SPDX-License-Identifier: Apache-2.0 */
#include <assert.h>
#include <string.h>

#include "compactor/pool/import_parts.h"
#include "scanner/base/checked.h"

/*
 * A segment unit by unit.  Zeros are left out beforehand, in the clusters as well as here: what follows is about the row of units
 * that are not zeros, and a run may go on behind zeros.
 *
 *	row	| done ... | not decided ...        look | ...
 *
 * Only every min_run-th unit is looked up.  That finds as much as looking up each one: a run of min_run units has one that is
 * looked up, and all stored units are in the finder.  Hence when the unit `look` is not there, no run covers it: everything up to
 * it is stored, and can be found at once.  When it is there it is an anchor, extended both ways.  If that gives less than min_run,
 * what was found may be the wrong one of several places, and the next units are looked up too.
 *
 * Before the finder is asked, the place is tried where the unit would lie if this disk only differed a little from what is there.
 */

#define GUESSES 8 /* so many units behind a run are tried before the finder is asked */

static const uint8_t *unit_at(const struct import *i, unsigned at)
{
	return i->at->bytes + (size_t)i->at->units[at] * i->unit;
}

/* ---- clusters ---- */

static uint64_t data_end(const struct import *i)
{
	return i->late.nr ? i->late.place + (uint64_t)i->late.nr * i->unit : clusters_end(i->pool->clusters);
}

/* Reads up to len bytes at a place: as many as can be had, 0 = not even the first unit, which is counted. */
static size_t read_clusters(struct import *i, uint64_t place, size_t len)
{
	struct clusters *f = i->pool->clusters;

	if (i->late.nr && place >= i->late.place) {
		memcpy(i->piece, unit_at(i, i->late.first) + (place - i->late.place), len);
		return len;
	}
	if (i->late.nr)
		len = min_u64(len, i->late.place - place);
	if (clusters_read(f, i->piece, len, place, NULL) == 0)
		return len;
	if (len > i->unit && clusters_read(f, i->piece, i->unit, place, NULL) == 0)
		return i->unit;
	i->stats.damaged++;
	return 0;
}

static bool same_run(struct import *i, const uint8_t *bytes, uint64_t len, uint64_t place)
{
	for (size_t n; len; bytes += n, place += n, len -= n) {
		n = read_clusters(i, place, (size_t)min_u64(len, IMPORT_PIECE));
		if (!n || memcmp(bytes, i->piece, n) != 0)
			return false;
	}
	return true;
}

static bool all_zero(const uint8_t *p, size_t len)
{
	return !len || (!p[0] && memcmp(p, p + 1, len - 1) == 0);
}

bool import_same_bytes(struct import *i, const struct leaf *leaf)
{
	size_t at = 0, begin, len;

	for (unsigned r = 0; r < leaf->nr_runs; r++, at = begin + len) {
		begin = (size_t)leaf->runs[r].first << leaf->unit_bits;
		len = (size_t)leaf->runs[r].nr << leaf->unit_bits;
		if (!all_zero(i->at->bytes + at, begin - at) ||
		    !same_run(i, i->at->bytes + begin, len, leaf->runs[r].place << leaf->unit_bits))
			return false;
	}
	return all_zero(i->at->bytes + at, SEGMENT_SIZE - at);
}

/* ---- matches ---- */

/* How many units from `at` on, at most max, are as the clusters from `place` on. */
static unsigned same_forwards(struct import *i, unsigned at, uint64_t place, unsigned max)
{
	uint64_t end = data_end(i);
	size_t step = i->unit * i->min_run, got;
	unsigned nr = 0;

	max = place < end ? (unsigned)min_u64(max, (end - place) / i->unit) : 0;
	for (; nr < max; step *= 2) {
		got = min_u64(min_u64(step, IMPORT_PIECE), (uint64_t)(max - nr) * i->unit);
		got = read_clusters(i, place + (uint64_t)nr * i->unit, got);
		if (!got)
			return nr;
		for (size_t k = 0; k < got; k += i->unit, nr++)
			if (memcmp(unit_at(i, at + nr), i->piece + k, i->unit) != 0)
				return nr;
	}
	return nr;
}

/* How many units before `at`, at most max, are as the clusters before `place`. */
static unsigned same_backwards(struct import *i, unsigned at, uint64_t place, unsigned max)
{
	unsigned nr = 0;

	max = (unsigned)min_u64(max, (place - i->data_begin) / i->unit);
	while (nr < max && read_clusters(i, place - (uint64_t)(nr + 1) * i->unit, i->unit) &&
	       memcmp(unit_at(i, at - nr - 1), i->piece, i->unit) == 0)
		nr++;
	return nr;
}

/* ---- the map ---- */

/* The unit `at`, the next one that is decided, lies at `place`. */
static void put(struct import *i, unsigned at, uint64_t place)
{
	struct leaf *l = &i->leaf;
	struct run *last = l->nr_runs ? &l->runs[l->nr_runs - 1] : NULL;
	uint32_t unit = i->at->units[at];

	place >>= l->unit_bits;
	if (last && last->first + last->nr == unit && last->place + last->nr == place)
		last->nr++;
	else
		l->runs[l->nr_runs++] = (struct run){ .first = unit, .nr = 1, .place = place };
}

void import_shared_to(struct import *i, uint64_t end)
{
	i->follows = end;
	i->goes_on = true;
	i->guesses = GUESSES;
}

static void share(struct import *i, unsigned nr, uint64_t place)
{
	for (unsigned k = 0; k < nr; k++)
		put(i, i->done + k, place + (uint64_t)k * i->unit);
	i->done += nr;
	import_shared_to(i, place + (uint64_t)nr * i->unit);
	i->stats.shared_runs += (uint64_t)nr * i->unit;
}

/* What the index has of a place: it counts from where the file begins. */
static uint64_t number_of(uint64_t place)
{
	return cluster_offset(place) / BLOCK_SIZE;
}

static int stored(struct import *i, unsigned at, uint64_t place, struct err *err)
{
	bool over = i->heals || i->wrong[at];
	struct fingerprint f = i->at->prints[at];
	int rc = finder_add(i->pool->finder, FINDER_BLOCK, i->leaf.unit_bits, f.hi, f.lo, number_of(place), over, err);

	put(i, at, place);
	i->stats.stored += i->unit;
	i->stats.short_matches += rc > 0 ? i->unit : 0;
	return rc < 0 ? -1 : 0;
}

/* Appends what is late, in one go. */
static int append_late(struct import *i, struct err *err)
{
	uint64_t place;

	if (!i->late.nr)
		return 0;
	if (clusters_append(i->pool->clusters, unit_at(i, i->late.first), i->late.nr * i->unit, i->unit, &place, err) < 0)
		return -1;
	assert(place == i->late.place);
	i->late.nr = 0;
	return 0;
}

/* Stores the unit that is decided next.  Where it will lie is known: nobody else appends. */
static int store_unit(struct import *i, struct err *err)
{
	unsigned at = i->done;
	bool goes_on = i->late.nr && i->late.first + i->late.nr == at && i->at->units[at - 1] + 1 == i->at->units[at];

	if (!goes_on) {
		if (append_late(i, err) < 0)
			return -1;
		i->late.first = at;
		i->late.place = round_up(clusters_end(i->pool->clusters), i->unit);
	}
	if (stored(i, at, i->late.place + (uint64_t)i->late.nr * i->unit, err) < 0)
		return -1;
	i->late.nr++;
	i->done++;
	return 0;
}

static int store(struct import *i, unsigned end, struct err *err)
{
	i->follows += i->follows ? (uint64_t)(end - i->done) * i->unit : 0;
	i->goes_on &= i->done == end;
	while (i->done < end)
		if (store_unit(i, err) < 0)
			return -1;
	return 0;
}

/* ---- anchors ---- */

struct match {
	unsigned first, nr;
	uint64_t place;
};

/* What is as at `place`, where the unit `at` may lie, and around it. */
static bool extend(struct import *i, unsigned at, uint64_t place, struct match *ret)
{
	unsigned after = same_forwards(i, at, place, i->at->nr - at), before;

	if (!after)
		return false;
	before = same_backwards(i, at, place, at - i->done);
	*ret = (struct match){ at - before, before + after, place - (uint64_t)before * i->unit };
	return true;
}

/* Where it would lie if only what was stored since the last run were other than there. */
static bool guess(struct import *i, unsigned at, struct match *ret)
{
	uint64_t place = i->follows + (uint64_t)(at - i->done) * i->unit;

	if (!i->follows || !i->guesses || !extend(i, at, place, ret) || ret->nr < i->min_run) {
		i->guesses -= i->guesses > 0;
		return false;
	}
	return true;
}

/* 1 and *ret, which may be short; 0 = the finder knows nothing of it; -1. */
static int find(struct import *i, unsigned at, struct match *ret, struct err *err)
{
	uint64_t number, place, damaged = i->stats.damaged;
	int rc = finder_get(i->pool->finder, FINDER_BLOCK, i->leaf.unit_bits, i->at->prints[at].hi, i->at->prints[at].lo, &number,
			    err);

	if (rc <= 0)
		return rc;
	*ret = (struct match){ at, 0, 0 };
	place = i->data_begin - POOL_DATA_BEGIN + number * BLOCK_SIZE;
	if (number <= POOL_FILE_MAX / BLOCK_SIZE && place % i->unit == 0 && place >= i->data_begin)
		extend(i, at, place, ret);
	i->wrong[at] = !ret->nr;
	if (!ret->nr && damaged == i->stats.damaged)
		i->stats.forged++;
	return 1;
}

/* Decides what it can say of the unit `at`; the next one to look at. */
static int look(struct import *i, unsigned at, unsigned *ret_next, struct err *err)
{
	struct match m;
	int rc = guess(i, at, &m) ? 1 : find(i, at, &m, err);

	if (rc < 0)
		return -1;
	if (rc && m.nr < i->min_run) {
		*ret_next = max_u64(m.first + m.nr, at + 1);
		return 0;
	}
	if (store(i, rc ? m.first : at + 1, err) < 0)
		return -1;
	if (rc)
		share(i, m.nr, m.place);
	*ret_next = i->done + i->min_run - 1;
	return 0;
}

/* ---- a segment ---- */

void import_prints(const void *bytes, size_t unit, unsigned nr, struct fingerprint *ret)
{
	const struct fingerprint_isa *isa = fingerprint_best();

	if (unit == BLOCK_SIZE)
		isa->blocks(bytes, nr, ret);
	for (unsigned u = 0; unit != BLOCK_SIZE && u < nr; u++) {
		const uint8_t *p = (const uint8_t *)bytes + u * unit;

		ret[u] = all_zero(p, unit) ? (struct fingerprint){ 0 } : isa->bytes(p, unit);
	}
}

void import_take_hint(struct import *i)
{
	struct segment *s = i->at;

	i->isa->blocks(s->bytes, SEGMENT_BLOCKS, s->prints);
	s->hint = i->isa->bytes(s->prints, sizeof(s->prints));
}

void import_take_units(struct import *i)
{
	unsigned nr = (unsigned)(SEGMENT_SIZE / i->unit);
	struct segment *s = i->at;

	if (i->unit != BLOCK_SIZE) /* else the hint is made of them */
		import_prints(s->bytes, i->unit, nr, s->prints);
	s->nr = 0;
	for (unsigned u = 0; u < nr; u++) {
		if (fingerprint_is_null(s->prints[u]))
			continue;
		s->prints[s->nr] = s->prints[u];
		s->units[s->nr++] = (uint16_t)u;
	}
	i->stats.zeros += (uint64_t)(nr - s->nr) * i->unit;
}

int import_match(struct import *i, struct err *err)
{
	unsigned at, nr;

	memset(i->wrong, false, sizeof(i->wrong));
	i->late.nr = 0;
	i->done = 0;
	/* What goes on where the last run ended is no run of its own, however short. */
	nr = i->goes_on ? same_forwards(i, 0, i->follows, i->at->nr) : 0;
	if (nr)
		share(i, nr, i->follows);
	for (at = i->done + i->min_run - 1; at < i->at->nr;)
		if (look(i, at, &at, err) < 0)
			return -1;
	return store(i, i->at->nr, err) < 0 ? -1 : append_late(i, err);
}
