/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/index_help.h"

#include "scanner/index/join.h"

#define MOST 300
#define ROOM TABLE_PAGE

/* ---- sources, and all their records as one sorted array ---- */

struct sources {
	struct table *tables[MOST];
	size_t nr;
	struct sorter *requests;
	struct record *r;
	size_t nr_records;
};

/* A key that several sources share, or one of all. */
static struct key some_key(void)
{
	return random_below(2) ? (struct key){ random_below(100) << 57, 0 } : random_key();
}

/* `nr` records of source number `source`, whose places are greater than those of the sources before. */
static struct record *make_records(struct sources *s, size_t source, size_t nr)
{
	struct record *r;

	s->r = realloc(s->r, (s->nr_records + nr + 1) * sizeof(*r));
	assert_non_null(s->r);
	r = s->r + s->nr_records;
	for (size_t i = 0; i < nr; i++)
		r[i] = (struct record){ some_key(), source * 1000000 + i };
	s->nr_records += nr;
	return r;
}

static void put_requests(struct sorter *sorter, const struct record *r, size_t nr)
{
	size_t room;

	for (size_t done = 0; done < nr; done += room) {
		struct record *to = sorter_room(sorter, nr - done, &room, NULL);

		memcpy(to, r + done, room * sizeof(*r));
		sorter_commit(sorter, room);
	}
	assert_int_equal(sorter_finish(sorter, NULL), 0);
}

static void add_table_of(struct sources *s, struct record *r, size_t nr)
{
	struct table_writer *w;
	char name[32];

	snprintf(name, sizeof(name), "table-%zu", s->nr);
	w = table_writer_new(scratch, name, NULL);
	qsort(r, nr, sizeof(*r), record_cmp);
	for (size_t i = 0; i < nr; i++)
		assert_int_equal(table_writer_add(w, r[i].key, r[i].value, NULL), 0);
	assert_int_equal(table_writer_finish(w, NULL, NULL, NULL), 0);
	s->tables[s->nr] = table_open(scratch, name, ROOM, NULL);
	assert_non_null(s->tables[s->nr++]);
}

static void add_table(struct sources *s, size_t nr)
{
	add_table_of(s, make_records(s, s->nr, nr), nr);
}

static void add_requests(struct sources *s, size_t nr)
{
	const struct record *r = make_records(s, s->nr, nr);

	s->requests = sorter_new(64 * KIB, scratch, NULL);
	put_requests(s->requests, r, nr);
}

static void sources_release(struct sources *s)
{
	for (size_t i = 0; i < s->nr; i++)
		table_close(s->tables[i]);
	sorter_free(s->requests);
	free(s->r);
}
CLEANUP_DEFINE_RELEASE(struct sources, sources_release)

static struct join *sources_join(struct sources *s)
{
	struct join *j = join_new(s->tables, s->nr, s->requests, NULL);

	assert_non_null(j);
	if (s->nr_records)
		qsort(s->r, s->nr_records, sizeof(*s->r), record_cmp);
	return j;
}

static size_t after_key(const struct sources *s, size_t i)
{
	size_t first = i;

	while (i < s->nr_records && key_cmp(s->r[i].key, s->r[first].key) == 0)
		i++;
	return i;
}

/* Takes at most `most` places of the current key, whose records begin at i, and returns how many there were. */
static size_t expect_places(struct join *j, const struct sources *s, size_t i, size_t most)
{
	uint64_t place;
	size_t nr = 0;

	for (; nr < most && join_next_place(j, &place, NULL) > 0; nr++)
		assert_int_equal(place, s->r[i + nr].value);
	return nr;
}

static void expect_all_of(struct sources *s, struct join *j)
{
	struct key key;
	size_t i = 0;

	for (; i < s->nr_records; i = after_key(s, i)) {
		assert_int_equal(join_next_key(j, &key, NULL), 1);
		assert_int_equal(key_cmp(key, s->r[i].key), 0);
		assert_int_equal(expect_places(j, s, i, SIZE_MAX), after_key(s, i) - i);
		assert_int_equal(expect_places(j, s, i, SIZE_MAX), 0);
	}
	assert_int_equal(join_next_key(j, &key, NULL), 0);
	assert_int_equal(join_next_key(j, &key, NULL), 0);
}

static void expect_all(struct sources *s)
{
	CLEANUP(join_free) struct join *j = sources_join(s);

	expect_all_of(s, j);
}

/* Requests that are put into the sorter a few keys at a time. */
struct pieces {
	struct sorter *sorter;
	struct record *r;
	size_t nr, at, size;
	bool empty; /* every other piece is */
};

static int next_piece(void *ctx, struct err *err)
{
	struct pieces *p = ctx;
	size_t first = p->at;

	(void)err;
	if (p->at == p->nr)
		return 0;
	p->empty = !p->empty;
	while (!p->empty && p->at < p->nr &&
	       (p->at - first < p->size || key_cmp(p->r[p->at].key, p->r[p->at - 1].key) == 0))
		p->at++;
	sorter_reset(p->sorter);
	put_requests(p->sorter, p->r + first, p->at - first);
	return 1;
}

/* ---- tests ---- */

static void joins_requests_that_come_in_pieces(void **state)
{
	(void)state;
	for (unsigned nr_tables = 0; nr_tables < 4; nr_tables++) {
		for (size_t size = 1; size < 10000; size *= 3) {
			CLEANUP(sources_release) struct sources s = { 0 };
			CLEANUP(join_free) struct join *j = NULL;
			struct pieces p = { .nr = 3000, .size = size };

			for (unsigned i = 0; i < nr_tables; i++)
				add_table(&s, 1000);
			add_requests(&s, 0);
			p.sorter = s.requests;
			p.r = malloc(p.nr * sizeof(*p.r));
			memcpy(p.r, make_records(&s, s.nr, p.nr), p.nr * sizeof(*p.r));
			qsort(p.r, p.nr, sizeof(*p.r), record_cmp);
			j = sources_join(&s);
			join_set_more(j, next_piece, &p);
			expect_all_of(&s, j);
			free(p.r);
		}
	}
}

static void joins_nothing(void **state)
{
	CLEANUP(sources_release) struct sources s = { 0 };

	(void)state;
	expect_all(&s);
}

static void joins_a_single_table(void **state)
{
	CLEANUP(sources_release) struct sources s = { 0 };

	(void)state;
	add_table(&s, 5000);
	expect_all(&s);
}

static void joins_requests_alone(void **state)
{
	const size_t sizes[] = { 0, 1, 500, 10000 };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		CLEANUP(sources_release) struct sources s = { 0 };

		add_requests(&s, sizes[i]);
		expect_all(&s);
	}
}

static void joins_tables_oldest_first(void **state)
{
	(void)state;
	for (size_t nr = 2; nr < 12; nr++) {
		CLEANUP(sources_release) struct sources s = { 0 };

		for (size_t i = 0; i < nr; i++)
			add_table(&s, random_below(4) * 1000);
		expect_all(&s);
	}
}

static void joins_tables_and_requests(void **state)
{
	(void)state;
	for (size_t nr = 1; nr < 6; nr++) {
		CLEANUP(sources_release) struct sources s = { 0 };

		for (size_t i = 0; i < nr; i++)
			add_table(&s, random_below(4) * 1000);
		add_requests(&s, 5000);
		expect_all(&s);
	}
}

static void joins_hundreds_of_tables(void **state)
{
	CLEANUP(sources_release) struct sources s = { 0 };

	(void)state;
	for (size_t i = 0; i < MOST; i++)
		add_table(&s, 50);
	expect_all(&s);
}

static void skips_places_not_taken(void **state)
{
	CLEANUP(sources_release) struct sources s = { 0 };
	struct join *j;
	struct key key;
	size_t i = 0;

	(void)state;
	for (unsigned k = 0; k < 4; k++)
		add_table(&s, 3000);
	add_requests(&s, 5000);
	j = sources_join(&s);
	for (; i < s.nr_records; i = after_key(&s, i)) {
		assert_int_equal(join_next_key(j, &key, NULL), 1);
		assert_int_equal(key_cmp(key, s.r[i].key), 0);
		expect_places(j, &s, i, random_below(40));
	}
	assert_int_equal(join_next_key(j, &key, NULL), 0);
	join_free(j);
}

static void goes_back_to_the_first_place(void **state)
{
	(void)state;
	for (unsigned nr = 1; nr < 5; nr++) {
		CLEANUP(sources_release) struct sources s = { 0 };
		struct join *j;
		struct key key;

		for (unsigned k = 0; k < nr; k++)
			add_table(&s, 3000);
		j = sources_join(&s);
		for (size_t i = 0; i < s.nr_records; i = after_key(&s, i)) {
			assert_int_equal(join_next_key(j, &key, NULL), 1);
			for (unsigned round = 0; round < 3; round++) {
				expect_places(j, &s, i, random_below(60));
				assert_int_equal(join_rewind_places(j, NULL), 0);
			}
			assert_int_equal(expect_places(j, &s, i, SIZE_MAX), after_key(&s, i) - i);
		}
		join_free(j);
	}
}

static void refuses_places_that_go_back(void **state)
{
	const uint64_t places[][2] = { { 5, 5 }, { 5, 4 } };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		CLEANUP(sources_release) struct sources s = { 0 };
		struct record a = { { 7, 0 }, places[i][0] }, b = { { 7, 0 }, places[i][1] };
		struct err err = ERR_INIT;
		struct join *j;
		struct key key;
		uint64_t place;

		add_table_of(&s, &a, 1);
		add_table_of(&s, &b, 1);
		j = sources_join(&s);
		assert_int_equal(join_next_key(j, &key, &err), 1);
		assert_int_equal(join_next_place(j, &place, &err), 1);
		assert_int_equal(join_next_place(j, &place, &err), -1);
		assert_int_equal(err.kind, ERR_FORMAT);
		join_free(j);
	}
}

static void passes_damage_on(void **state)
{
	CLEANUP(sources_release) struct sources s = { 0 };
	struct err err = ERR_INIT;
	struct join *j;
	struct key key;
	int fd, rc;

	(void)state;
	for (unsigned k = 0; k < 3; k++)
		add_table(&s, 3000);
	fd = openat(scratch, "table-1", O_WRONLY | O_CLOEXEC);
	assert_int_equal(pwrite(fd, "damage", 6, 5 * TABLE_PAGE), 6);
	close(fd);
	j = sources_join(&s);
	while ((rc = join_next_key(j, &key, &err)) > 0)
		;
	assert_int_equal(rc, -1);
	assert_int_equal(err.kind, ERR_FORMAT);
	assert_non_null(strstr(err.text, "'table-1'"));
	join_free(j);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		index_test(joins_nothing),
		index_test(joins_requests_that_come_in_pieces),
		index_test(joins_a_single_table),
		index_test(joins_requests_alone),
		index_test(joins_tables_oldest_first),
		index_test(joins_tables_and_requests),
		index_test(joins_hundreds_of_tables),
		index_test(skips_places_not_taken),
		index_test(goes_back_to_the_first_place),
		index_test(refuses_places_that_go_back),
		index_test(passes_damage_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
