/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_NODES_HELP_H
#define DEDUPSCAN_NODES_HELP_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "compactor/pool/nodes.h"
#include "scanner/base/checked.h"

/* Nodes for tests: the same number gives the same node. */

static inline uint64_t mixed(uint64_t z)
{
	z = (z + 0x9e3779b97f4a7c15) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

static inline void digest_of(uint64_t number, uint8_t ret[DIGEST_SIZE])
{
	digest_bytes(&number, sizeof(number), ret);
}

/* At most nr_runs runs of any length, with and without zeros between them; `map` makes another map of the same segment. */
static inline struct leaf leaf_of(uint64_t number, unsigned unit_bits, unsigned nr_runs, uint64_t map)
{
	const uint64_t units = SEGMENT_SIZE >> unit_bits, begin = POOL_DATA_BEGIN >> unit_bits;
	struct leaf l = { .unit_bits = unit_bits, .hint = { number + 1, number } };
	uint64_t random = mixed(number ^ map << 48 ^ unit_bits), at = 0;

	digest_of(number, l.digest);
	while (l.nr_runs < nr_runs && at < units) {
		uint64_t room = units - at, first = at + (random % 3 ? 0 : random / 3 % room), nr;

		nr = 1 + (random >> 20) % div_up(units - first, nr_runs - l.nr_runs);
		l.runs[l.nr_runs++] =
			(struct run){ (uint32_t)first, (uint32_t)nr, begin + (random >> 24) % (POOL_FILE_MAX / 2 >> unit_bits) };
		at = first + nr;
		random = mixed(random);
	}
	return l;
}

/* With `nr` children here and there. */
static inline struct inner inner_of(uint64_t number, unsigned level, unsigned nr)
{
	struct inner i = { .level = level };

	for (unsigned k = 0; k < nr; k++)
		digest_of(mixed(number) + k, i.children[(mixed(number) + k * 5) % DIGEST_FANOUT]);
	digest_bytes(i.children, sizeof(i.children), i.digest);
	return i;
}

static inline bool same_leaf(const struct leaf *a, const struct leaf *b)
{
	if (memcmp(a->digest, b->digest, DIGEST_SIZE) != 0 || a->unit_bits != b->unit_bits || a->nr_runs != b->nr_runs)
		return false;
	for (unsigned i = 0; i < a->nr_runs; i++)
		if (a->runs[i].first != b->runs[i].first || a->runs[i].nr != b->runs[i].nr || a->runs[i].place != b->runs[i].place)
			return false;
	return a->hint.hi == b->hint.hi && a->hint.lo == b->hint.lo;
}

static inline bool same_inner(const struct inner *a, const struct inner *b)
{
	return memcmp(a->digest, b->digest, DIGEST_SIZE) == 0 && a->level == b->level &&
	       memcmp(a->children, b->children, sizeof(a->children)) == 0;
}

static inline bool has_leaf(struct nodes *n, const struct leaf *l)
{
	struct leaf got;

	return nodes_get_leaf(n, l->digest, l->unit_bits, &got, NULL) == 0 && same_leaf(&got, l);
}

static inline bool has_inner(struct nodes *n, const struct inner *i)
{
	struct inner got;

	return nodes_get_inner(n, i->digest, i->level, &got, NULL) == 0 && same_inner(&got, i);
}

static inline void put_leaf(struct nodes *n, struct leaf l)
{
	struct err err = ERR_INIT;

	if (nodes_put_leaf(n, &l, &err) < 0)
		fail_msg("%s", err.text);
}

static inline void put_inner(struct nodes *n, struct inner i)
{
	struct err err = ERR_INIT;

	if (nodes_put_inner(n, &i, NULL, &err) < 0)
		fail_msg("%s", err.text);
}

static inline void sync_nodes(struct nodes *n)
{
	struct err err = ERR_INIT;
	uint64_t end;

	if (nodes_sync(n, &end, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(end, nodes_bytes(n));
}

#endif
