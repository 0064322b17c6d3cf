/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/index/sorter.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "scanner/base/checked.h"

/* One mapping of `memory` bytes serves the whole life of a sorter:
 *
 *	input:	| records ->			| scratch, of the same size	|
 *	merge:	| batch | struct run[] | struct node[] | buffer of run 0 | buffer of run 1 | ...
 *
 * When the records' half is full it is sorted and written as a run.  All runs but the last are equally long, so that
 * where they lie needs no list.  A merge pass with too many runs for buffers of BUFFER_MIN first merges groups of
 * neighbours into longer runs; the file then has two regions that take turns:
 *
 *	| run 0 | run 1 | run 2 | ... | run n	| runs 0..k | runs k+1..	|
 *	0					region bytes
 *
 * Sorting is a radix sort from the most significant digit on.  Each level finds the bits in which its records
 * differ and starts there, so leading bits that all share cost nothing and a bucket of one hot key is done at once. */

#define SMALL 24 /* so few records are sorted by insertion */
#define BUCKET 4 /* digits are as wide as to leave about so many records in a bucket */
#define DIGIT_MIN 6
#define DIGIT_MAX 10

#define MEMORY_MIN (64 * KIB)
#define BUFFER_MIN ((size_t)4096)
#define BATCH_MIN ((size_t)4096)
#define BATCH_MAX ((size_t)256 << 10)

__extension__ typedef unsigned __int128 u128;

static inline u128 key_bits(struct key k)
{
	return (u128)k.hi << 64 | k.lo;
}

/* ---- sorting in memory ---- */

/* Sorts `from` into `to`, which may be the same place. */
static void insertion_sort(struct record *to, const struct record *from, size_t nr)
{
	for (size_t i = 0; i < nr; i++) {
		struct record r = from[i];
		size_t j = i;

		for (; j && key_bits(to[j - 1].key) > key_bits(r.key); j--)
			to[j] = to[j - 1];
		to[j] = r;
	}
}

/* The number of bits from the highest one in which the keys differ on down; 0 when all are equal. */
static unsigned differing_bits(const struct record *r, size_t nr)
{
	uint64_t hi = 0, lo = 0;

	for (size_t i = 1; i < nr; i++) {
		hi |= r[i].key.hi ^ r[0].key.hi;
		lo |= r[i].key.lo ^ r[0].key.lo;
	}
	if (hi)
		return 128 - (unsigned)__builtin_clzll(hi);
	return lo ? 64 - (unsigned)__builtin_clzll(lo) : 0;
}

static unsigned digit_width(size_t nr)
{
	unsigned bits = 64 - (unsigned)__builtin_clzll(nr / BUCKET), levels = (unsigned)div_up(bits, DIGIT_MAX);

	bits = (unsigned)div_up(bits, levels);
	return bits < DIGIT_MIN ? DIGIT_MIN : bits;
}

/* A digit is `width` bits of one of the key's words. */
struct digit {
	bool hi;
	unsigned shift, width;
};

static inline size_t digit_of(struct digit d, struct key k)
{
	return (d.hi ? k.hi : k.lo) >> d.shift & (((size_t)1 << d.width) - 1);
}

/* The digit that ends above bit `top`. */
static struct digit digit_below(unsigned top, size_t nr)
{
	bool hi = top > 64;
	unsigned width = digit_width(nr), bits = hi ? top - 64 : top;

	return (struct digit){ hi, bits > width ? bits - width : 0, width };
}

/* Moves the records from `from` to `to` by their digit; ret_start[] tells where in `to` each of the buckets begins. */
static inline void scatter(struct record *to, const struct record *from, size_t nr, struct digit d, size_t *ret_start)
{
	size_t buckets = (size_t)1 << d.width, next[1 << DIGIT_MAX];

	memset(next, 0, buckets * sizeof(*next));
	for (size_t i = 0; i < nr; i++)
		next[digit_of(d, from[i].key)]++;
	ret_start[0] = 0;
	for (size_t i = 0; i < buckets; i++) {
		ret_start[i + 1] = ret_start[i] + next[i];
		next[i] = ret_start[i];
	}
	for (size_t i = 0; i < nr; i++)
		to[next[digit_of(d, from[i].key)]++] = from[i];
}

/* Sorts `from`; the result is left in `to` when `move`, else in `from`, and the other one is scratch. */
static void radix_sort(struct record *from, struct record *to, size_t nr, bool move)
{
	size_t start[(1 << DIGIT_MAX) + 1];
	struct digit d;
	unsigned top;

	if (nr <= SMALL) {
		insertion_sort(move ? to : from, from, nr);
		return;
	}
	top = differing_bits(from, nr);
	if (!top) {
		if (move)
			memcpy(to, from, nr * sizeof(*to));
		return;
	}
	d = digit_below(top, nr);
	if (d.hi)
		scatter(to, from, nr, (struct digit){ true, d.shift, d.width }, start);
	else
		scatter(to, from, nr, (struct digit){ false, d.shift, d.width }, start);
	for (size_t i = 0; i < (size_t)1 << d.width; i++) {
		size_t at = start[i], len = start[i + 1] - at;

		if (len <= SMALL)
			insertion_sort(move ? to + at : from + at, to + at, len);
		else
			radix_sort(to + at, from + at, len, !move);
	}
}

void record_sort(struct record *r, struct record *scratch, size_t nr)
{
	radix_sort(r, scratch, nr, false);
}

/* ---- merging runs ---- */

struct run {
	struct record *buf, *next, *end;
	uint64_t offset, stop; /* what has not been read yet */
};

/* A run in the tree of losers: its next key.  Equal keys go by rank, and so earlier runs first; the rank of a run
 * that has ended is its number + nr_runs and its key is the greatest, so it loses against everything that has not. */
struct node {
	struct key key;
	uint64_t rank;
};

struct merge {
	int fd;
	struct run *runs;
	struct node *losers; /* [1, nr_runs); the parent of [i] is [i / 2] */
	struct node winner;
	size_t nr_runs, buffer; /* records in a read buffer */
	struct record *batch;
	size_t batch_room;
};

static inline bool node_before(const struct node *a, const struct node *b)
{
	u128 x = key_bits(a->key), y = key_bits(b->key);

	return x != y ? x < y : a->rank < b->rank;
}

static int run_refill(const struct merge *m, struct run *r, struct err *err)
{
	size_t len = min_u64(m->buffer * sizeof(*r->buf), r->stop - r->offset);

	if (file_read(m->fd, r->buf, len, r->offset, err) < 0)
		return err_add(err, "temporary file of a sort");
	r->offset += len;
	r->next = r->buf;
	r->end = r->buf + len / sizeof(*r->buf);
	return 0;
}

static int run_head(const struct merge *m, size_t i, struct node *ret, struct err *err)
{
	struct run *r = &m->runs[i];

	if (r->next == r->end && r->offset < r->stop && run_refill(m, r, err) < 0)
		return -1;
	if (r->next < r->end)
		*ret = (struct node){ r->next->key, i };
	else
		*ret = (struct node){ { UINT64_MAX, UINT64_MAX }, i + m->nr_runs };
	return 0;
}

/* Plays the games of the subtree at `at`: losers stay, the winner is returned. */
static int tree_build(struct merge *m, size_t at, struct node *ret, struct err *err)
{
	struct node a, b;
	bool first;

	if (at >= m->nr_runs)
		return run_head(m, at - m->nr_runs, ret, err);
	if (tree_build(m, 2 * at, &a, err) < 0 || tree_build(m, 2 * at + 1, &b, err) < 0)
		return -1;
	first = node_before(&a, &b);
	m->losers[at] = first ? b : a;
	*ret = first ? a : b;
	return 0;
}

static int merge_start(struct merge *m, uint64_t offset, uint64_t run_size, uint64_t stop, struct err *err)
{
	for (size_t i = 0; i < m->nr_runs; i++) {
		struct run *r = &m->runs[i];

		r->offset = offset + i * run_size;
		r->stop = min_u64(r->offset + run_size, stop);
		r->next = r->end = r->buf;
	}
	return tree_build(m, 1, &m->winner, err);
}

/* The winner's run goes on: its next record climbs from its leaf. */
static inline int merge_replay(struct merge *m, struct err *err)
{
	size_t i = m->winner.rank;
	struct node n;

	if (run_head(m, i, &n, err) < 0)
		return -1;
	for (i = (i + m->nr_runs) / 2; i; i /= 2) {
		if (node_before(&m->losers[i], &n)) {
			struct node t = m->losers[i];

			m->losers[i] = n;
			n = t;
		}
	}
	m->winner = n;
	return 0;
}

/* Fills the batch; returns how many records, 0 at the end, -1 on error. */
static ssize_t merge_next(struct merge *m, struct err *err)
{
	size_t nr = 0;

	while (nr < m->batch_room && m->winner.rank < m->nr_runs) {
		m->batch[nr++] = *m->runs[m->winner.rank].next++;
		if (merge_replay(m, err) < 0)
			return -1;
	}
	return (ssize_t)nr;
}

/* ---- the sorter ---- */

struct sorter {
	int dirfd, fd;
	uint8_t *memory;
	size_t size;

	struct record *records;
	size_t nr, room;

	uint64_t run_size, region; /* bytes of a run and of all runs, */
	uint64_t offset;	   /* which begin here */
	uint64_t spilled;
	struct merge merge;
	bool finished, taken;
};

struct sorter *sorter_new(size_t memory, int dirfd, struct err *err)
{
	CLEANUP(sorter_free) struct sorter *s = calloc(1, sizeof(*s));

	if (memory < MEMORY_MIN)
		return err_null(err, ERR_MEMORY, "%zu bytes of memory are too few for sorting", memory);
	if (!s)
		return err_null(err, ERR_MEMORY, "out of memory");
	s->dirfd = dirfd;
	s->fd = -1;
	s->size = memory;
	s->memory = mmap(NULL, memory, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (s->memory == MAP_FAILED) {
		s->memory = NULL;
		return err_null(err, ERR_MEMORY, "out of memory: a sort buffer of %zu bytes", memory);
	}
	s->records = (struct record *)s->memory;
	s->room = memory / 2 / sizeof(struct record);
	return STEAL(s);
}

static int temporary_file(int dirfd, struct err *err)
{
	static atomic_uint counter;
	struct err why = ERR_INIT;
	char name[64];
	int fd, tries = 100;

	do {
		snprintf(name, sizeof(name), "sort-%d-%u.tmp", (int)getpid(), atomic_fetch_add(&counter, 1));
		fd = file_open(dirfd, name, O_RDWR | O_CREAT | O_EXCL, 0600, &why);
	} while (fd < 0 && why.errnum == EEXIST && --tries);
	if (fd < 0) {
		if (err)
			*err = why;
		return -1;
	}
	if (file_unlink(dirfd, name, err) < 0) {
		file_close(fd, name, NULL);
		return -1;
	}
	return fd;
}

static int sorter_write(struct sorter *s, const struct record *r, size_t nr, uint64_t offset, struct err *err)
{
	if (file_write(s->fd, r, nr * sizeof(*r), offset, err) < 0)
		return err_add(err, "temporary file of a sort");
	s->spilled += nr * sizeof(*r);
	return 0;
}

static int spill(struct sorter *s, struct err *err)
{
	if (s->fd < 0) {
		s->fd = temporary_file(s->dirfd, err);
		if (s->fd < 0)
			return -1;
	}
	record_sort(s->records, s->records + s->room, s->nr);
	if (sorter_write(s, s->records, s->nr, s->region, err) < 0)
		return -1;
	s->region += s->nr * sizeof(struct record);
	s->nr = 0;
	return 0;
}

struct record *sorter_room(struct sorter *s, size_t want, size_t *ret_room, struct err *err)
{
	assert(!s->finished && want);
	if (s->nr == s->room && spill(s, err) < 0)
		return NULL;
	*ret_room = min_u64(want, s->room - s->nr);
	return s->records + s->nr;
}

void sorter_commit(struct sorter *s, size_t nr)
{
	assert(nr <= s->room - s->nr);
	s->nr += nr;
}

/* Lays the memory out for merging nr_runs at once; returns false when the read buffers would be too small. */
static bool merge_layout(struct sorter *s, uint64_t nr_runs)
{
	size_t batch = min_u64(max_u64(s->size / 16, BATCH_MIN), BATCH_MAX) / sizeof(struct record);
	size_t left = s->size - batch * sizeof(struct record);
	size_t each = left / nr_runs, state = sizeof(struct run) + sizeof(struct node);
	struct merge *m = &s->merge;
	struct record *buf;

	if (each < BUFFER_MIN + state)
		return false;
	m->fd = s->fd;
	m->nr_runs = nr_runs;
	m->buffer = (each - state) / sizeof(struct record);
	m->batch = (struct record *)s->memory;
	m->batch_room = batch;
	m->runs = (struct run *)(m->batch + batch);
	m->losers = (struct node *)(m->runs + nr_runs);
	buf = (struct record *)(m->losers + nr_runs);
	for (size_t i = 0; i < nr_runs; i++)
		m->runs[i].buf = buf + i * m->buffer;
	return true;
}

/* Merges nr_runs runs from `offset` on into one at `to`. */
static int merge_group(struct sorter *s, uint64_t offset, uint64_t nr_runs, uint64_t to, struct err *err)
{
	uint64_t stop = s->offset + s->region;
	ssize_t nr;

	merge_layout(s, nr_runs);
	if (merge_start(&s->merge, offset, s->run_size, stop, err) < 0)
		return -1;
	for (; (nr = merge_next(&s->merge, err)) > 0; to += (size_t)nr * sizeof(struct record)) {
		if (sorter_write(s, s->merge.batch, (size_t)nr, to, err) < 0)
			return -1;
	}
	return (int)nr;
}

/* Merges every `fan` neighbouring runs into one, from the region of the file that holds them into the other one. */
static int merge_pass(struct sorter *s, uint64_t fan, struct err *err)
{
	uint64_t to = s->offset ? 0 : s->region;

	for (uint64_t done = 0; done < s->region; done += fan * s->run_size) {
		uint64_t nr = min_u64(fan, div_up(s->region - done, s->run_size));

		if (merge_group(s, s->offset + done, nr, to + done, err) < 0)
			return -1;
	}
	s->offset = to;
	s->run_size *= fan;
	return 0;
}

static uint64_t widest_fan(struct sorter *s, uint64_t nr_runs)
{
	while (!merge_layout(s, nr_runs))
		nr_runs = div_up(nr_runs, 2);
	return nr_runs;
}

int sorter_finish(struct sorter *s, struct err *err)
{
	uint64_t nr_runs, fan;

	assert(!s->finished);
	s->finished = true;
	if (!s->region) {
		record_sort(s->records, s->records + s->room, s->nr);
		return 0;
	}
	if (s->nr && spill(s, err) < 0)
		return -1;
	s->run_size = s->room * sizeof(struct record);
	while (nr_runs = div_up(s->region, s->run_size), fan = widest_fan(s, nr_runs), fan < nr_runs) {
		if (merge_pass(s, fan, err) < 0)
			return -1;
	}
	return merge_start(&s->merge, s->offset, s->run_size, s->offset + s->region, err);
}

ssize_t sorter_next(struct sorter *s, const struct record **ret, struct err *err)
{
	ssize_t nr;

	assert(s->finished);
	if (s->region) {
		nr = merge_next(&s->merge, err);
		*ret = s->merge.batch;
		return nr;
	}
	nr = s->taken ? 0 : (ssize_t)s->nr;
	s->taken = true;
	*ret = s->records;
	return nr;
}

void sorter_reset(struct sorter *s)
{
	if (s->fd >= 0)
		file_close(s->fd, "temporary file of a sort", NULL);
	s->fd = -1;
	s->nr = 0;
	s->region = s->offset = 0;
	s->finished = s->taken = false;
}

uint64_t sorter_spilled(const struct sorter *s)
{
	return s->spilled;
}

void sorter_free(struct sorter *s)
{
	if (!s)
		return;
	sorter_reset(s);
	if (s->memory)
		munmap(s->memory, s->size);
	free(s);
}
