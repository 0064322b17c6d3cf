/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/index_help.h"

#include "scanner/index/judymap.h"

/* Judy's allocator, in place of the library's own. */
static long mallocs_left = -1;

uintptr_t JudyMalloc(uintptr_t words);
void JudyFree(void *p, uintptr_t words);

uintptr_t JudyMalloc(uintptr_t words)
{
	if (!mallocs_left)
		return 0;
	if (mallocs_left > 0)
		mallocs_left--;
	return (uintptr_t)malloc(words * sizeof(uintptr_t));
}

void JudyFree(void *p, uintptr_t words)
{
	(void)words;
	free(p);
}

#define SPAN 5000

/* Keys of all sizes: i is less than SPAN, and greater i have greater keys. */
static uint64_t spread(uint64_t i)
{
	return i < SPAN / 2 ? i : UINT64_MAX - (SPAN - 1 - i) * (UINT64_C(1) << 40);
}

static void compare_with_array(const struct judymap *m, const uint64_t *model)
{
	for (uint64_t i = 0; i < SPAN; i++) {
		uint64_t *slot = judymap_get(m, spread(i));

		assert_int_equal(slot != NULL, model[i] != 0);
		if (slot)
			assert_int_equal(*slot, model[i]);
	}
}

static void compare_neighbours(const struct judymap *m, const uint64_t *model)
{
	for (uint64_t i = 0; i < SPAN; i++) {
		uint64_t key = spread(i), a = i, *slot = judymap_last(m, &key);

		while (a < SPAN && !model[a])
			a--; /* wraps below 0 */
		assert_int_equal(slot ? *slot : 0, a < SPAN ? model[a] : 0);
		assert_int_equal(key, a < SPAN ? spread(a) : spread(i));
	}
}

static void maps_what_an_array_maps(void **state)
{
	CLEANUP(judymap_release) struct judymap m = { 0 };
	static uint64_t model[SPAN];

	(void)state;
	memset(model, 0, sizeof(model));
	for (unsigned round = 0; round < 4; round++) {
		compare_with_array(&m, model);
		compare_neighbours(&m, model);
		for (unsigned i = 0; i < 300; i++) {
			uint64_t at = random_below(SPAN), *slot = judymap_put(&m, spread(at));

			assert_non_null(slot);
			assert_int_equal(*slot, model[at]);
			*slot = model[at] = random_u64() | 1;
		}
	}
}

static void holds_the_smallest_and_the_greatest_key(void **state)
{
	CLEANUP(judymap_release) struct judymap m = { 0 };
	uint64_t key = UINT64_MAX;

	(void)state;
	*judymap_put(&m, 0) = 10;
	*judymap_put(&m, UINT64_MAX) = 20;
	assert_int_equal(*judymap_last(&m, &key), 20);
	assert_int_equal(key, UINT64_MAX);
	key--;
	assert_int_equal(*judymap_last(&m, &key), 10);
	assert_int_equal(key, 0);
}

static void keeps_the_key_where_nothing_is_found(void **state)
{
	CLEANUP(judymap_release) struct judymap m = { 0 };
	uint64_t key = 7;

	(void)state;
	assert_null(judymap_last(&m, &key));
	judymap_put(&m, 8);
	assert_null(judymap_last(&m, &key));
	assert_int_equal(key, 7);
}

static void tells_when_memory_is_out(void **state)
{
	CLEANUP(judymap_release) struct judymap m = { 0 };
	CLEANUP(judyset_release) struct judyset s = { 0 };
	uint64_t done = 0;

	(void)state;
	mallocs_left = 20;
	while (done < 100000 && judymap_put(&m, done << 20))
		done++;
	assert_in_range(done, 1, 99999);
	assert_non_null(judymap_get(&m, 0));
	mallocs_left = 0;
	assert_int_equal(judyset_add(&s, 5), -1);
	mallocs_left = -1;
	assert_int_equal(judyset_add(&s, 5), 1);
}

static void holds_the_set_that_an_array_holds(void **state)
{
	CLEANUP(judyset_release) struct judyset s = { 0 };
	static bool model[SPAN];
	uint64_t nr = 0;

	(void)state;
	memset(model, 0, sizeof(model));
	for (unsigned i = 0; i < 2 * SPAN; i++) {
		uint64_t at = random_below(SPAN);

		assert_int_equal(judyset_add(&s, spread(at)), !model[at]);
		nr += !model[at];
		model[at] = true;
		assert_int_equal(judyset_count(&s), nr);
	}
	for (uint64_t i = 0; i < SPAN; i++)
		assert_int_equal(judyset_has(&s, spread(i)), model[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		index_test(maps_what_an_array_maps),
		index_test(holds_the_smallest_and_the_greatest_key),
		index_test(keeps_the_key_where_nothing_is_found),
		index_test(tells_when_memory_is_out),
		index_test(holds_the_set_that_an_array_holds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
