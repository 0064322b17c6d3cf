/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/pool/cluster_marks.h"

#include <stdlib.h>
#include <string.h>

#include "scanner/base/checked.h"

static size_t room(const struct cluster_marks *m)
{
	return (m->end - m->begin) / BLOCK_SIZE / 8 + 1;
}

int cluster_marks_init(struct cluster_marks *m, uint64_t from, uint64_t end, uint64_t memory, struct err *err)
{
	uint64_t bytes = round_down(max_u64(memory, CLUSTER_MARKS_MIN), CLUSTER_MARKS_ALIGN / BLOCK_SIZE / 8);

	*m = (struct cluster_marks){ .size = round_up(end, BLOCK_SIZE), .part = bytes * 8 * BLOCK_SIZE };
	m->begin = min_u64(round_down(from, CLUSTER_MARKS_ALIGN), m->size);
	m->end = min_u64(m->begin + m->part, m->size);
	m->bits = calloc(room(m), 1);
	return m->bits ? 0 : err_set(err, ERR_MEMORY, "no memory for marks on a pool's clusters");
}

void cluster_marks_release(struct cluster_marks *m)
{
	free(m->bits);
	m->bits = NULL;
}

/* No part is longer than the first one. */
bool cluster_marks_next(struct cluster_marks *m)
{
	m->begin = m->end;
	m->end = min_u64(m->begin + m->part, m->size);
	cluster_marks_clear(m);
	return m->begin < m->size;
}

void cluster_marks_clear(struct cluster_marks *m)
{
	memset(m->bits, 0, room(m));
}

void cluster_marks_add(struct cluster_marks *m, uint64_t offset, uint64_t len)
{
	uint64_t from = max_u64(offset, m->begin), to = min_u64(offset + len, m->end);

	for (uint64_t at = from; at < to; at += BLOCK_SIZE) {
		uint64_t bit = (at - m->begin) / BLOCK_SIZE;

		m->bits[bit / 8] |= (uint8_t)(1u << bit % 8);
	}
}

void cluster_marks_add_leaf(struct cluster_marks *m, const struct leaf *leaf)
{
	for (unsigned i = 0; i < leaf->nr_runs; i++)
		cluster_marks_add(m, leaf->runs[i].place << leaf->unit_bits, (uint64_t)leaf->runs[i].nr << leaf->unit_bits);
}

uint64_t cluster_marks_count(const struct cluster_marks *m, uint64_t from, uint64_t to)
{
	uint64_t nr = 0;

	for (uint64_t at = from; at < to; at += 8 * BLOCK_SIZE)
		nr += (unsigned)__builtin_popcount(m->bits[(at - m->begin) / BLOCK_SIZE / 8]);
	return nr * BLOCK_SIZE;
}
