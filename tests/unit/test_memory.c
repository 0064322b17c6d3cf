/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "scanner/base/memory.h"

#define MIB ((size_t)1 << 20)

static void what_is_taken_is_not_left(void **state)
{
	size_t before = memory_left(4096 * MIB), after;
	void *p = mmap(NULL, 64 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)state;
	assert_ptr_not_equal(p, MAP_FAILED);
	memset(p, 1, 64 * MIB);
	after = memory_left(4096 * MIB);
	munmap(p, 64 * MIB);
	assert_in_range(before - after, 60 * MIB, 80 * MIB);
}

static void a_limit_that_is_used_up_leaves_the_least(void **state)
{
	(void)state;
	assert_int_equal(memory_left(0), MEMORY_LEFT_MIN);
}

static void a_process_that_is_not_there_holds_nothing(void **state)
{
	(void)state;
	assert_int_equal(memory_of(-1, "VmRSS"), 0);
	assert_in_range(memory_of(getpid(), "VmHWM"), 64 * 1024, 4096 * MIB);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_taken_is_not_left),
		cmocka_unit_test(a_limit_that_is_used_up_leaves_the_least),
		cmocka_unit_test(a_process_that_is_not_there_holds_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
