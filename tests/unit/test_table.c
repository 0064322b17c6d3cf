/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/index_help.h"

#include <errno.h>
#include <malloc.h>

#include "scanner/index/checksum.h"
#include "scanner/index/table.h"
#include "scanner/index/table_format.h"

#define NAME "table"
#define ROOM (4 * TABLE_PAGE)
#define PLACE_MAX ((UINT64_C(1) << TABLE_PLACE_BITS) - 1)

/* ---- tables and what should be in them ---- */

/* One record per place, in order. */
struct model {
	struct record *r;
	size_t nr, room;
};

static void model_add(struct model *m, struct key key, uint64_t place)
{
	if (m->nr == m->room) {
		m->room = m->room * 2 + 100;
		m->r = realloc(m->r, m->room * sizeof(*m->r));
		assert_non_null(m->r);
	}
	m->r[m->nr++] = (struct record){ key, place };
}

/* Sorts it and drops what is there twice. */
static void model_sort(struct model *m)
{
	size_t nr = 0;

	qsort(m->r, m->nr, sizeof(*m->r), record_cmp);
	for (size_t i = 0; i < m->nr; i++) {
		if (!nr || record_cmp(&m->r[nr - 1], &m->r[i]) != 0)
			m->r[nr++] = m->r[i];
	}
	m->nr = nr;
}

static void model_release(struct model *m)
{
	free(m->r);
}
CLEANUP_DEFINE_RELEASE(struct model, model_release)

static size_t model_keys(const struct model *m)
{
	size_t nr = 0;

	for (size_t i = 0; i < m->nr; i++)
		nr += !i || key_cmp(m->r[i - 1].key, m->r[i].key) != 0;
	return nr;
}

static struct table_stats table_make(const struct model *m)
{
	struct table_writer *w = table_writer_new(scratch, NAME, NULL);
	struct table_stats stats = { 0 };

	assert_non_null(w);
	for (size_t i = 0; i < m->nr; i++)
		assert_int_equal(table_writer_add(w, m->r[i].key, m->r[i].value, NULL), 0);
	assert_int_equal(table_writer_finish(w, NULL, &stats, NULL), 0);
	assert_int_equal(stats.nr_keys, model_keys(m));
	assert_int_equal(stats.nr_places, m->nr);
	return stats;
}

/* Reads on from where the table stands: 0 when it gave m's records from *i on, to the end; 1 when others; -1 when it
 * failed. */
static int table_compare(struct table *t, const struct model *m, size_t i, struct err *err)
{
	struct key key;
	uint64_t place;
	int rc, more;

	while ((rc = table_next_key(t, &key, err)) > 0) {
		size_t first = i;

		while ((more = table_next_place(t, &place, err)) > 0) {
			if (i == m->nr || key_cmp(key, m->r[i].key) != 0 || place != m->r[i].value)
				return 1;
			i++;
		}
		if (more < 0)
			return -1;
		if (i == first || (i < m->nr && key_cmp(key, m->r[i].key) == 0))
			return 1;
	}
	return rc < 0 ? -1 : i != m->nr;
}

static void table_expect(const struct model *m)
{
	const size_t rooms[] = { TABLE_PAGE, 3 * TABLE_PAGE, 256 * KIB };

	for (size_t i = 0; i < ARRAY_SIZE(rooms); i++) {
		CLEANUP(table_close) struct table *t = table_open(scratch, NAME, rooms[i], NULL);
		struct key key;

		assert_non_null(t);
		assert_int_equal(table_stats(t).nr_places, m->nr);
		assert_int_equal(table_compare(t, m, 0, NULL), 0);
		assert_int_equal(table_next_key(t, &key, NULL), 0);
	}
}

/* `nr` keys of a kind, each with 1 to `places` places that are up to `far` apart. */
static void model_fill(struct model *m, size_t nr, struct key (*kind)(void), uint64_t places, uint64_t far)
{
	for (size_t i = 0; i < nr; i++) {
		struct key key = kind();
		uint64_t place = random_below(far);

		for (uint64_t left = 1 + random_below(places); left; left--) {
			model_add(m, key, place);
			place += 1 + random_below(far);
		}
	}
	model_sort(m);
}

static struct key key_of_one_word(void)
{
	return (struct key){ 77, random_u64() & KEY_LO_MASK };
}

static struct key key_dense(void)
{
	return (struct key){ 5, random_below(3000) << 24 };
}

static struct key key_low(void)
{
	return (struct key){ 0, random_below(1 << 20) << 24 };
}

/* A table of three pages, one of which goes on with places, one with room left at its end. */
static void model_small(struct model *m)
{
	model_fill(m, 200, random_key, 1, UINT64_C(1) << 32);
	for (uint64_t i = 0; i < 3000; i++)
		model_add(m, (struct key){ UINT64_C(1) << 63, 0 }, 1000 + 2 * i);
	model_sort(m);
}

/* ---- what is written is read ---- */

static void gives_back_what_was_added(void **state)
{
	struct key (*const kinds[])(void) = { random_key, key_of_one_word, key_dense, key_low };
	const uint64_t places[] = { 1, 2, 40, 3000 }, far[] = { 1, 300, UINT64_C(1) << 32, UINT64_C(1) << 49 };

	(void)state;
	for (size_t k = 0; k < 4; k++) {
		for (size_t p = 0; p < 4; p++) {
			for (size_t f = 0; f < 4; f++) {
				CLEANUP(model_release) struct model m = { 0 };

				model_fill(&m, 20000 / places[p] + 5, kinds[k], places[p], far[f]);
				table_make(&m);
				table_expect(&m);
			}
		}
	}
}

static void holds_an_empty_table(void **state)
{
	struct model m = { 0 };
	struct table *t;

	(void)state;
	table_make(&m);
	table_expect(&m);
	t = table_open(scratch, NAME, ROOM, NULL);
	assert_int_equal(table_find(t, (struct key){ 0, 0 }, NULL), 0);
	table_close(t);
}

static void holds_the_least_and_the_greatest_keys_and_places(void **state)
{
	const struct key keys[] = {
		{ 0, 0 }, { 0, 1 << 24 }, { UINT64_MAX, KEY_LO_MASK - (1 << 24) }, { UINT64_MAX, KEY_LO_MASK }
	};
	CLEANUP(model_release) struct model m = { 0 };

	(void)state;
	for (size_t i = 0; i < 4; i++) {
		model_add(&m, keys[i], 0);
		model_add(&m, keys[i], 1);
		model_add(&m, keys[i], PLACE_MAX);
	}
	table_make(&m);
	table_expect(&m);
}

/* Lists of every length around what a page holds, so that pages end in every way. */
static void ends_pages_anywhere(void **state)
{
	(void)state;
	for (uint64_t len = 3980; len < 4120; len++) {
		CLEANUP(model_release) struct model m = { 0 };

		for (uint64_t key = 1; key < 4; key++) {
			for (uint64_t i = 0; i < len; i++)
				model_add(&m, (struct key){ key, 0 }, i);
			model_add(&m, (struct key){ key, 1 << 24 }, PLACE_MAX);
		}
		table_make(&m);
		table_expect(&m);
	}
}

static void takes_at_most_16_bytes_for_a_random_key(void **state)
{
	CLEANUP(model_release) struct model m = { 0 };

	(void)state;
	for (unsigned i = 0; i < 1000000; i++)
		model_add(&m, random_key(), random_below(UINT64_C(1) << 32));
	model_sort(&m);
	assert_true((double)table_make(&m).bytes / 1e6 <= 16.3);
	m.nr = 0; /* a 256th part of 200 million */
	for (unsigned i = 0; i < 781250; i++) {
		struct key key = random_key();

		key.hi >>= 8;
		model_add(&m, key, random_below(UINT64_C(1) << 32));
	}
	model_sort(&m);
	assert_true((double)table_make(&m).bytes / 781250 <= 15.2);
}

static void is_as_narrow_as_each_page_allows(void **state)
{
	CLEANUP(model_release) struct model m = { 0 };

	(void)state;
	model_add(&m, (struct key){ 1, 0 }, PLACE_MAX);
	for (uint64_t i = 0; i < 100000; i++)
		model_add(&m, (struct key){ 2, i << 24 }, 7);
	assert_true(table_make(&m).bytes < 110000);
	table_expect(&m);
}

/* ---- hot keys ---- */

static uint64_t hot_place(uint64_t i)
{
	return 5000 + i + i / 100;
}

static struct table_stats make_hot(uint64_t nr)
{
	struct table_writer *w = table_writer_new(scratch, NAME, NULL);
	struct table_stats stats;
	size_t before = mallinfo2().uordblks + mallinfo2().hblkhd;

	for (uint64_t i = 0; i < nr; i++)
		assert_int_equal(table_writer_add(w, (struct key){ 9, 0 }, hot_place(i), NULL), 0);
	assert_int_equal(table_writer_add(w, (struct key){ 10, 0 }, 1, NULL), 0);
	assert_in_range(mallinfo2().uordblks + mallinfo2().hblkhd, 0, before + 64 * KIB);
	assert_int_equal(table_writer_finish(w, NULL, &stats, NULL), 0);
	return stats;
}

static void streams_millions_of_places_in_constant_memory(void **state)
{
	const uint64_t nr = 5000000;
	struct table_stats stats = make_hot(nr);
	struct table *t = table_open(scratch, NAME, ROOM, NULL);
	size_t before = mallinfo2().uordblks + mallinfo2().hblkhd;
	struct key key;
	uint64_t place;

	(void)state;
	assert_true(stats.bytes < nr + nr / 50);
	assert_int_equal(table_next_key(t, &key, NULL), 1);
	for (unsigned round = 0; round < 2; round++) {
		for (uint64_t i = 0; i < nr; i++) {
			assert_int_equal(table_next_place(t, &place, NULL), 1);
			assert_int_equal(place, hot_place(i));
		}
		assert_int_equal(table_next_place(t, &place, NULL), 0);
		assert_int_equal(table_next_place(t, &place, NULL), 0);
		assert_int_equal(table_rewind_places(t, NULL), 0);
	}
	assert_int_equal(table_next_key(t, &key, NULL), 1);
	assert_int_equal(key.hi, 10);
	assert_in_range(mallinfo2().uordblks + mallinfo2().hblkhd, 0, before + 64 * KIB);
	table_close(t);
}

static void skips_places_not_taken(void **state)
{
	CLEANUP(model_release) struct model m = { 0 };
	struct table *t;
	struct key key;
	uint64_t place;
	size_t i = 0;

	(void)state;
	model_fill(&m, 300, random_key, 6000, 1000);
	table_make(&m);
	t = table_open(scratch, NAME, ROOM, NULL);
	while (table_next_key(t, &key, NULL) > 0) {
		uint64_t take = random_below(3) ? random_below(3) : random_below(6000);

		while (i && i < m.nr && key_cmp(m.r[i].key, m.r[i - 1].key) == 0)
			i++;
		assert_int_equal(key_cmp(key, m.r[i].key), 0);
		for (size_t at = i; take && table_next_place(t, &place, NULL) > 0; take--)
			assert_int_equal(place, m.r[at++].value);
		i++;
	}
	while (i < m.nr && key_cmp(m.r[i].key, m.r[i - 1].key) == 0)
		i++;
	assert_int_equal(i, m.nr);
	table_close(t);
}

static void goes_back_to_the_first_place_from_anywhere(void **state)
{
	CLEANUP(model_release) struct model m = { 0 };
	struct key key;
	uint64_t place;
	struct table *t;

	(void)state;
	model_fill(&m, 50, random_key, 20000, 200);
	table_make(&m);
	t = table_open(scratch, NAME, TABLE_PAGE, NULL);
	for (size_t i = 0; table_next_key(t, &key, NULL) > 0;) {
		for (unsigned round = 0; round < 3; round++) {
			uint64_t take = random_below(20000);

			for (size_t at = i; take && table_next_place(t, &place, NULL) > 0; take--)
				assert_int_equal(place, m.r[at++].value);
			assert_int_equal(table_rewind_places(t, NULL), 0);
		}
		while (table_next_place(t, &place, NULL) > 0)
			assert_int_equal(place, m.r[i++].value);
	}
	table_close(t);
}

/* ---- look-ups ---- */

static void expect_found(struct table *t, const struct model *m, size_t i)
{
	uint64_t place;

	assert_int_equal(table_find(t, m->r[i].key, NULL), 1);
	assert_int_equal(table_next_place(t, &place, NULL), 1);
	assert_int_equal(place, m->r[i].value);
	while (table_next_place(t, &place, NULL) > 0)
		assert_int_equal(place, m->r[++i].value);
	assert_int_equal(table_compare(t, m, i + 1, NULL), 0);
}

/* Every 16th key and its neighbours, which are not there. */
static void expect_finds(const struct model *m)
{
	CLEANUP(table_close) struct table *t = table_open(scratch, NAME, ROOM, NULL);
	u128 last = ~(u128)0;

	for (size_t i = 0; i < m->nr; i++) {
		u128 n = key_number(m->r[i].key);
		bool first = n != last;

		last = n;
		if (!first || random_below(16))
			continue;
		expect_found(t, m, i);
		if (n && (!i || key_number(m->r[i - 1].key) != n - 1))
			assert_int_equal(table_find(t, number_key(n - 1), NULL), 0);
	}
}

/* In order, one in so many, some twice, their neighbours too; places are taken or not. */
static void expect_ascending_finds(const struct model *m, uint64_t one_in)
{
	CLEANUP(table_close) struct table *t = table_open(scratch, NAME, ROOM, NULL);
	uint64_t place;

	for (size_t i = 0, next; i < m->nr; i = next) {
		u128 n = key_number(m->r[i].key);

		for (next = i; next < m->nr && key_number(m->r[next].key) == n; next++)
			;
		if (random_below(one_in))
			continue;
		if (n && random_below(2) && (!i || key_number(m->r[i - 1].key) != n - 1))
			assert_int_equal(table_find(t, number_key(n - 1), NULL), 0);
		for (unsigned again = 0; again < 1 + random_below(2); again++) {
			assert_int_equal(table_find(t, m->r[i].key, NULL), 1);
			for (size_t k = i; k < next && random_below(8); k++) {
				assert_int_equal(table_next_place(t, &place, NULL), 1);
				assert_int_equal(place, m->r[k].value);
			}
		}
	}
}

static void finds_keys_in_order(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		CLEANUP(model_release) struct model m = { 0 };

		model_fill(&m, i ? 300 : 3000, random_key, i ? 2000 : 2, 1000000);
		table_make(&m);
		for (uint64_t one_in = 1; one_in < 300; one_in *= 4)
			expect_ascending_finds(&m, one_in);
	}
}

static void finds_every_key_and_no_other(void **state)
{
	CLEANUP(model_release) struct model m = { 0 };

	(void)state;
	model_fill(&m, 3000, random_key, 2, 1000000);
	table_make(&m);
	expect_finds(&m);
}

static void finds_keys_behind_long_lists(void **state)
{
	CLEANUP(model_release) struct model m = { 0 };

	(void)state;
	model_fill(&m, 60, random_key, 9000, 100);
	model_fill(&m, 600, random_key, 1, 100);
	table_make(&m);
	expect_finds(&m);
}

/* G2 */
static void finds_keys_where_pages_begin_with_the_same_64_bits(void **state)
{
	CLEANUP(model_release) struct model m = { 0 };

	(void)state;
	model_fill(&m, 300, key_low, 1, 1000);
	model_fill(&m, 3000, key_of_one_word, 2, 1000000);
	model_fill(&m, 300, random_key, 1, 1000);
	table_make(&m);
	expect_finds(&m);
}

static void finds_nothing_outside(void **state)
{
	CLEANUP(model_release) struct model m = { 0 };
	struct table *t;

	(void)state;
	model_fill(&m, 1000, key_of_one_word, 1, 1000);
	table_make(&m);
	t = table_open(scratch, NAME, ROOM, NULL);
	assert_int_equal(table_find(t, (struct key){ 0, 0 }, NULL), 0);
	assert_int_equal(table_find(t, (struct key){ 76, KEY_LO_MASK }, NULL), 0);
	assert_int_equal(table_find(t, (struct key){ 78, 0 }, NULL), 0);
	assert_int_equal(table_find(t, (struct key){ UINT64_MAX, KEY_LO_MASK }, NULL), 0);
	table_close(t);
}

/* ---- damage ---- */

static void *file_load(size_t *ret_len)
{
	int fd = openat(scratch, NAME, O_RDONLY | O_CLOEXEC);
	off_t len = lseek(fd, 0, SEEK_END);
	void *p = malloc((size_t)len + 1);

	assert_int_equal(pread(fd, p, (size_t)len, 0), len);
	close(fd);
	*ret_len = (size_t)len;
	return p;
}

static void file_store(const void *p, size_t len)
{
	int fd = openat(scratch, NAME, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_int_equal(write(fd, p, len), len);
	close(fd);
}

/* Looks up some keys: -1 when the table failed, 1 when it lied. */
static int find_some(struct table *t, const struct model *m, struct err *err)
{
	uint64_t place;

	for (size_t i = 0; i < 80; i += 20) {
		int rc = table_find(t, m->r[i].key, err);

		if (rc < 0)
			return -1;
		if (rc == 0 || table_next_place(t, &place, err) < 0 || place != m->r[i].value)
			return 1;
	}
	return 0;
}

/* Reads it all and looks up some: it must be right, or fail with one of these kinds; returns whether it failed. */
static bool damage_noticed(const struct model *m, enum err_kind kind, enum err_kind or_kind)
{
	CLEANUP(table_close) struct table *t = NULL, *u = NULL;
	struct err err = ERR_INIT;
	int rc;

	t = table_open(scratch, NAME, ROOM, &err);
	u = t ? table_open(scratch, NAME, ROOM, &err) : NULL;
	rc = u ? table_compare(t, m, 0, &err) : -1;
	if (rc == 0)
		rc = find_some(u, m, &err);
	assert_true(rc <= 0);
	if (rc < 0) {
		assert_true(err.kind == kind || err.kind == or_kind);
		assert_non_null(strstr(err.text, "'" NAME "'"));
	}
	return rc < 0;
}

static void refuses_one_flipped_bit(void **state)
{
	CLEANUP(model_release) struct model m = { 0 };
	size_t len;
	uint8_t *p;
	int fd;

	(void)state;
	model_small(&m);
	table_make(&m);
	assert_false(damage_noticed(&m, ERR_FORMAT, ERR_FORMAT));
	p = file_load(&len);
	fd = openat(scratch, NAME, O_WRONLY | O_CLOEXEC);
	for (size_t bit = 0; bit < 8 * len; bit++) {
		uint8_t b = p[bit / 8] ^ (uint8_t)(1 << bit % 8);

		assert_int_equal(pwrite(fd, &b, 1, (off_t)(bit / 8)), 1);
		assert_true(damage_noticed(&m, ERR_FORMAT, ERR_UNSUPPORTED));
		assert_int_equal(pwrite(fd, &p[bit / 8], 1, (off_t)(bit / 8)), 1);
	}
	close(fd);
	free(p);
}

static void refuses_every_other_length(void **state)
{
	CLEANUP(model_release) struct model m = { 0 };
	uint8_t *p;
	size_t len;

	(void)state;
	model_small(&m);
	table_make(&m);
	p = file_load(&len);
	p = realloc(p, len + 1);
	p[len] = 0;
	for (size_t cut = 0; cut <= len + 1; cut++) {
		struct err err = ERR_INIT;

		if (cut == len)
			continue;
		file_store(p, cut);
		assert_null(table_open(scratch, NAME, ROOM, &err));
		assert_int_equal(err.kind, ERR_FORMAT);
	}
	free(p);
}

static void refuses_pages_out_of_place(void **state)
{
	CLEANUP(model_release) struct model m = { 0 };
	size_t len;
	uint8_t *p;

	(void)state;
	model_fill(&m, 2000, random_key, 1, 1000);
	table_make(&m);
	p = file_load(&len);
	memmove(p + TABLE_PAGE, p + 2 * TABLE_PAGE, TABLE_PAGE);
	file_store(p, len);
	free(p);
	assert_true(damage_noticed(&m, ERR_FORMAT, ERR_FORMAT));
}

static void refuses_newer_versions(void **state)
{
	CLEANUP(model_release) struct model m = { 0 };
	struct err err = ERR_INIT;
	struct table_trailer *d;
	size_t len;
	uint8_t *p;

	(void)state;
	model_small(&m);
	table_make(&m);
	p = file_load(&len);
	d = (struct table_trailer *)(p + len - sizeof(*d));
	d->version = le32_from(TABLE_VERSION + 1);
	file_store(p, len);
	free(p);
	assert_null(table_open(scratch, NAME, ROOM, &err));
	assert_int_equal(err.kind, ERR_UNSUPPORTED);
	assert_non_null(strstr(err.text, "newer dedupscan"));
}

static void names_the_file_and_the_page(void **state)
{
	CLEANUP(model_release) struct model m = { 0 };
	CLEANUP(table_close) struct table *t = NULL;
	struct err err = ERR_INIT;
	uint8_t *p;
	size_t len;

	(void)state;
	model_fill(&m, 2000, random_key, 1, 1000);
	table_make(&m);
	p = file_load(&len);
	p[3 * TABLE_PAGE + 99] ^= 1;
	file_store(p, len);
	free(p);
	t = table_open(scratch, NAME, ROOM, &err);
	assert_int_equal(table_compare(t, &m, 0, &err), -1);
	assert_string_equal(err.text, "table 'table' is damaged: page 3: the checksum does not match");
}

static void stays_failed_after_an_error(void **state)
{
	CLEANUP(model_release) struct model m = { 0 };
	CLEANUP(table_close) struct table *t = NULL;
	struct err err = ERR_INIT;
	struct key key;
	uint64_t place;
	uint8_t *p;
	size_t len;

	(void)state;
	model_fill(&m, 2000, random_key, 1, 1000);
	table_make(&m);
	p = file_load(&len);
	p[2 * TABLE_PAGE + 99] ^= 1;
	file_store(p, len);
	free(p);
	t = table_open(scratch, NAME, ROOM, &err);
	assert_int_equal(table_compare(t, &m, 0, &err), -1);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(table_next_key(t, &key, NULL), -1);
		assert_int_equal(table_next_place(t, &place, NULL), -1);
		assert_int_equal(table_rewind_places(t, NULL), -1);
	}
}

static void stays_failed_after_a_damaged_directory(void **state)
{
	CLEANUP(model_release) struct model m = { 0 };
	CLEANUP(table_close) struct table *t = NULL;
	uint8_t *p;
	size_t len;

	(void)state;
	model_fill(&m, 2000, random_key, 1, 1000);
	table_make(&m);
	p = file_load(&len);
	p[len - sizeof(struct table_trailer) - 1] ^= 1;
	file_store(p, len);
	free(p);
	t = table_open(scratch, NAME, ROOM, NULL);
	assert_int_equal(table_find(t, m.r[0].key, NULL), -1);
	assert_int_equal(table_find(t, m.r[0].key, NULL), -1);
}

/* ---- pages that were written wrongly, under a right checksum ---- */

static int read_all(struct table *t, struct err *err)
{
	struct key key;
	uint64_t place;
	int rc, more = 0;

	while ((rc = table_next_key(t, &key, err)) > 0) {
		while ((more = table_next_place(t, &place, err)) > 0)
			;
		if (more < 0)
			return -1;
	}
	return rc;
}

static void store_summed_up(uint8_t *p, size_t len, uint64_t page)
{
	le32_store(p + page * TABLE_PAGE, checksum32(p + page * TABLE_PAGE + 4, TABLE_PAGE - 4, page));
	file_store(p, len);
}

/* Stores the small table with its byte at `offset` of `page` changed, and returns what the error says. */
static const char *fault_of(uint64_t page, size_t offset, uint8_t change)
{
	static struct err err;
	CLEANUP(model_release) struct model m = { 0 };
	CLEANUP(table_close) struct table *t = NULL;
	CLEANUP(free) uint8_t *p = NULL;
	size_t len;

	err = ERR_INIT;
	model_small(&m);
	table_make(&m);
	p = file_load(&len);
	p[page * TABLE_PAGE + offset] ^= change;
	store_summed_up(p, len, page);
	t = table_open(scratch, NAME, ROOM, &err);
	assert_int_equal(read_all(t, &err), -1);
	assert_int_equal(err.kind, ERR_FORMAT);
	return err.text;
}

#define assert_fault(page, offset, change, what) assert_non_null(strstr(fault_of(page, offset, change), what))

static void notices_wrong_headers(void **state)
{
	const size_t base = offsetof(struct table_page_header, base);

	(void)state;
	assert_fault(0, offsetof(struct table_page_header, used) + 1, 0x20, "its parts overlap");
	assert_fault(0, offsetof(struct table_page_header, entries), 0x10, "its parts overlap");
	assert_fault(0, offsetof(struct table_page_header, gap_bits), 0x80, "the header is not valid");
	assert_fault(0, offsetof(struct table_page_header, place_bits), 0x80, "the header is not valid");
	assert_fault(0, offsetof(struct table_page_header, reserved), 1, "the header is not valid");
	assert_fault(1, base, 1, "it does not go on with the places of the page before");
}

static void notices_lists_that_do_not_end_with_their_page(void **state)
{
	(void)state;
	assert_fault(1, offsetof(struct table_page_header, entries), 1, "places");
	assert_fault(1, sizeof(struct table_page_header), 1, "its places");
}

/* A table of one page with two keys and an entry of 8 bytes: the page is then changed. */
static void expect_fault_of_two(size_t offset, uint8_t value, const char *what)
{
	CLEANUP(model_release) struct model m = { 0 };
	CLEANUP(table_close) struct table *t = NULL;
	CLEANUP(free) uint8_t *p = NULL;
	struct err err = ERR_INIT;
	size_t len;

	model_add(&m, (struct key){ UINT64_MAX, KEY_LO_MASK - (1 << 24) }, 3);
	model_add(&m, (struct key){ UINT64_MAX, KEY_LO_MASK - (1 << 24) }, 4);
	model_add(&m, (struct key){ UINT64_MAX, KEY_LO_MASK }, 3);
	table_make(&m);
	p = file_load(&len);
	p[offset] = value;
	store_summed_up(p, len, 0);
	t = table_open(scratch, NAME, ROOM, &err);
	assert_int_equal(read_all(t, &err), -1);
	assert_non_null(strstr(err.text, what));
}

/* gap_bits 1, place_bits 2: an entry is one byte, gap << 3 | place << 1 | more. */
static void notices_wrong_entries(void **state)
{
	const size_t at = sizeof(struct table_page_header);

	(void)state;
	expect_fault_of_two(at, 0x0f, "its keys do not ascend");     /* the first with a gap */
	expect_fault_of_two(at + 2, 0x06, "its keys do not ascend"); /* the second without */
	expect_fault_of_two(at - 1, 0xff, "its keys do not ascend"); /* past the last possible key */
	expect_fault_of_two(at + 1, 0x00, "its places do not ascend");
	expect_fault_of_two(at + 2, 0x0f, "it is the last one, but says that more places follow");
	expect_fault_of_two(offsetof(struct table_page_header, place_bits), 30, "an entry is cut off");
}

static ssize_t pread_bad(int fd, void *buf, size_t len, off_t offset)
{
	if (offset != 4 * TABLE_PAGE)
		return file_ops_os.pread(fd, buf, len, offset);
	errno = EIO;
	return -1;
}

static void tells_read_errors(void **state)
{
	CLEANUP(model_release) struct model m = { 0 };
	CLEANUP(table_close) struct table *t = NULL;
	struct file_ops ops = file_ops_os;
	struct err err = ERR_INIT;

	(void)state;
	model_fill(&m, 2000, random_key, 1, 1000);
	table_make(&m);
	t = table_open(scratch, NAME, ROOM, NULL);
	ops.pread = pread_bad;
	file_ops = &ops;
	assert_int_equal(table_compare(t, &m, 0, &err), -1);
	assert_int_equal(err.kind, ERR_IO);
	assert_non_null(strstr(err.text, "'" NAME "'"));
}

static ssize_t pwrite_full(int fd, const void *buf, size_t len, off_t offset)
{
	if (offset < 100000)
		return file_ops_os.pwrite(fd, buf, len, offset);
	errno = ENOSPC;
	return -1;
}

static void tells_write_errors(void **state)
{
	CLEANUP(table_writer_free) struct table_writer *w = table_writer_new(scratch, NAME, NULL);
	struct file_ops ops = file_ops_os;
	struct err err = ERR_INIT;
	uint64_t i = 0;

	(void)state;
	ops.pwrite = pwrite_full;
	file_ops = &ops;
	while (i < 1000000 && table_writer_add(w, (struct key){ i, 0 }, 0, &err) == 0)
		i++;
	assert_in_range(i, 1, 999999);
	assert_int_equal(err.kind, ERR_FULL);
	assert_int_equal(table_writer_finish(STEAL(w), NULL, NULL, &err), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		index_test(gives_back_what_was_added),
		index_test(holds_an_empty_table),
		index_test(holds_the_least_and_the_greatest_keys_and_places),
		index_test(ends_pages_anywhere),
		index_test(takes_at_most_16_bytes_for_a_random_key),
		index_test(is_as_narrow_as_each_page_allows),
		index_test(streams_millions_of_places_in_constant_memory),
		index_test(skips_places_not_taken),
		index_test(goes_back_to_the_first_place_from_anywhere),
		index_test(finds_every_key_and_no_other),
		index_test(finds_keys_in_order),
		index_test(finds_keys_behind_long_lists),
		index_test(finds_keys_where_pages_begin_with_the_same_64_bits),
		index_test(finds_nothing_outside),
		index_test(refuses_one_flipped_bit),
		index_test(refuses_every_other_length),
		index_test(refuses_pages_out_of_place),
		index_test(refuses_newer_versions),
		index_test(names_the_file_and_the_page),
		index_test(stays_failed_after_an_error),
		index_test(stays_failed_after_a_damaged_directory),
		index_test(notices_wrong_headers),
		index_test(notices_lists_that_do_not_end_with_their_page),
		index_test(notices_wrong_entries),
		index_test(tells_read_errors),
		index_test(tells_write_errors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
