/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/index/join.h"

#include <assert.h>
#include <stdlib.h>

/* A heap of the sources by key.  Those that stand on the current key are at its top; they are also listed in
 * order of age, as the group whose places are given out.  Moving on takes each to its next key and lets it sink.
 *
 * A single table and requests alone have neither heap nor group: their own calls do. */

struct source {
	struct table *table; /* NULL: the requests */
	struct key key;
};

struct join {
	struct table *only;
	struct sorter *requests;
	bool only_requests;
	const struct record *next, *end; /* of the requests' batch */
	int (*more)(void *ctx, struct err *err);
	void *ctx;

	struct source *sources;
	size_t nr_sources;
	size_t *heap, nr_heap;
	size_t *group, nr_group, at;
	bool started, any;
	struct key key;
	uint64_t place; /* the last one, when `any` */
};

struct join *join_new(struct table *const *tables, size_t nr, struct sorter *requests, struct err *err)
{
	CLEANUP(join_free) struct join *j = calloc(1, sizeof(*j));

	if (!j)
		return err_null(err, ERR_MEMORY, "out of memory");
	if (nr == 1 && !requests) {
		j->only = tables[0];
		return STEAL(j);
	}
	j->requests = requests;
	j->only_requests = requests && nr == 0;
	j->nr_sources = nr + (requests != NULL);
	j->sources = calloc(j->nr_sources + 1, sizeof(*j->sources));
	j->heap = calloc(j->nr_sources + 1, sizeof(*j->heap));
	j->group = calloc(j->nr_sources + 1, sizeof(*j->group));
	if (!j->sources || !j->heap || !j->group)
		return err_null(err, ERR_MEMORY, "out of memory");
	for (size_t i = 0; i < nr; i++)
		j->sources[i].table = tables[i];
	return STEAL(j);
}

void join_set_more(struct join *j, int (*more)(void *ctx, struct err *err), void *ctx)
{
	j->more = more;
	j->ctx = ctx;
}

static int requests_take(struct join *j, struct err *err)
{
	const struct record *batch;
	ssize_t nr;

	while ((nr = sorter_next(j->requests, &batch, err)) == 0) {
		int rc = j->more ? j->more(j->ctx, err) : 0;

		if (rc <= 0)
			return rc;
	}
	if (nr < 0)
		return -1;
	j->next = batch;
	j->end = batch + nr;
	return 1;
}

/* The requests' next record is at j->next: 1, or 0 at the end. */
static inline int requests_fill(struct join *j, struct err *err)
{
	return j->next < j->end ? 1 : requests_take(j, err);
}

/* Moves the requests to the next key: past what is left of the current one. */
static int requests_next_key(struct join *j, struct key *ret, struct err *err)
{
	int rc;

	while ((rc = requests_fill(j, err)) > 0 && j->started && key_cmp(j->next->key, j->key) == 0)
		j->next++;
	if (rc > 0)
		*ret = j->next->key;
	return rc;
}

static int requests_next_place(struct join *j, uint64_t *ret, struct err *err)
{
	int rc = requests_fill(j, err);

	if (rc > 0 && key_cmp(j->next->key, j->key) != 0)
		return 0;
	if (rc > 0)
		*ret = j->next++->value;
	return rc;
}

static inline bool source_before(const struct join *j, size_t a, size_t b)
{
	return key_cmp(j->sources[a].key, j->sources[b].key) < 0;
}

/* Puts `source` where it belongs in the heap below the free place i. */
static void heap_sink(struct join *j, size_t i, size_t source)
{
	for (size_t child; child = 2 * i, child <= j->nr_heap; i = child) {
		if (child < j->nr_heap && source_before(j, j->heap[child + 1], j->heap[child]))
			child++;
		if (!source_before(j, j->heap[child], source))
			break;
		j->heap[i] = j->heap[child];
	}
	j->heap[i] = source;
}

static int source_advance(struct join *j, size_t i, struct err *err)
{
	struct source *s = &j->sources[i];

	return s->table ? table_next_key(s->table, &s->key, err) : requests_next_key(j, &s->key, err);
}

static int heap_make(struct join *j, struct err *err)
{
	for (size_t i = 0; i < j->nr_sources; i++) {
		int rc = source_advance(j, i, err);

		if (rc < 0)
			return -1;
		if (rc > 0)
			j->heap[++j->nr_heap] = i;
	}
	for (size_t i = j->nr_heap / 2; i; i--)
		heap_sink(j, i, j->heap[i]);
	j->started = true;
	return 0;
}

static inline bool on_key(const struct join *j, size_t i)
{
	return i <= j->nr_heap && key_cmp(j->sources[j->heap[i]].key, j->key) == 0;
}

/* Moves all sources past the current key. */
static int advance(struct join *j, struct err *err)
{
	if (!j->started)
		return heap_make(j, err);
	while (on_key(j, 1)) {
		int rc = source_advance(j, j->heap[1], err);

		if (rc < 0)
			return -1;
		if (rc > 0) {
			heap_sink(j, 1, j->heap[1]);
		} else {
			j->nr_heap--;
			heap_sink(j, 1, j->heap[j->nr_heap + 1]);
		}
	}
	return 0;
}

/* Lists the sources in the heap from i on down that stand on the key. */
static void group_add(struct join *j, size_t i)
{
	size_t at = j->nr_group++;

	for (; at && j->group[at - 1] > j->heap[i]; at--)
		j->group[at] = j->group[at - 1];
	j->group[at] = j->heap[i];
	if (on_key(j, 2 * i))
		group_add(j, 2 * i);
	if (on_key(j, 2 * i + 1))
		group_add(j, 2 * i + 1);
}

static int only_requests_next_key(struct join *j, struct key *ret, struct err *err)
{
	int rc = requests_next_key(j, &j->key, err);

	j->started = true;
	*ret = j->key;
	return rc;
}

int join_next_key(struct join *j, struct key *ret, struct err *err)
{
	if (j->only)
		return table_next_key(j->only, ret, err);
	j->any = false;
	if (j->only_requests)
		return only_requests_next_key(j, ret, err);
	if (advance(j, err) < 0)
		return -1;
	j->nr_group = j->at = 0;
	if (!j->nr_heap)
		return 0;
	*ret = j->key = j->sources[j->heap[1]].key;
	group_add(j, 1);
	return 1;
}

static int source_next_place(struct join *j, uint64_t *ret, struct err *err)
{
	struct table *t = j->sources[j->group[j->at]].table;

	return t ? table_next_place(t, ret, err) : requests_next_place(j, ret, err);
}

int join_next_place(struct join *j, uint64_t *ret, struct err *err)
{
	uint64_t place;
	int rc = 0;

	if (j->only)
		return table_next_place(j->only, ret, err);
	if (j->only_requests)
		rc = requests_next_place(j, &place, err);
	while (j->at < j->nr_group && (rc = source_next_place(j, &place, err)) == 0)
		j->at++;
	if (rc <= 0)
		return rc;
	if (j->any && place <= j->place)
		return err_set(err, ERR_FORMAT, "place %llu is in the index twice, or a newer source has older places",
			       (unsigned long long)place);
	j->any = true;
	*ret = j->place = place;
	return 1;
}

int join_rewind_places(struct join *j, struct err *err)
{
	assert(!j->requests);
	if (j->only)
		return table_rewind_places(j->only, err);
	for (size_t i = 0; i < j->nr_group; i++) {
		if (table_rewind_places(j->sources[j->group[i]].table, err) < 0)
			return -1;
	}
	j->at = 0;
	j->any = false;
	return 0;
}

void join_free(struct join *j)
{
	if (!j)
		return;
	free(j->sources);
	free(j->heap);
	free(j->group);
	free(j);
}
