/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_INDEX_HELP_H
#define DEDUPSCAN_INDEX_HELP_H

#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "scanner/base/checked.h"
#include "scanner/index/sorter.h"

/* What the tests of the index share: random numbers that are the same each time, and a directory. */

static uint64_t random_state = 1;

static inline uint64_t random_u64(void)
{
	uint64_t z = random_state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

static inline uint64_t random_below(uint64_t n)
{
	return random_u64() % n;
}

static inline struct key random_key(void)
{
	return (struct key){ random_u64(), random_u64() & KEY_LO_MASK };
}

/* By key, then by value. */
static inline int record_cmp(const void *a, const void *b)
{
	const struct record *x = a, *y = b;
	int cmp = key_cmp(x->key, y->key);

	return cmp ? cmp : (x->value > y->value) - (x->value < y->value);
}

static char scratch_path[64];
static int scratch = -1;

static inline int scratch_make(void **state)
{
	(void)state;
	random_state = 1;
	snprintf(scratch_path, sizeof(scratch_path), "%.40s/index-XXXXXX",
		 getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
	if (!mkdtemp(scratch_path))
		return -1;
	scratch = open(scratch_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return scratch < 0;
}

/* Removes the files in the directory and returns how many there were. */
static inline unsigned scratch_empty(void)
{
	DIR *d = opendir(scratch_path);
	unsigned nr = 0;

	for (struct dirent *e; d && (e = readdir(d));) {
		if (e->d_name[0] == '.')
			continue;
		unlinkat(scratch, e->d_name, 0);
		nr++;
	}
	if (d)
		closedir(d);
	return nr;
}

static inline int scratch_remove(void **state)
{
	(void)state;
	file_ops = &file_ops_os;
	scratch_empty();
	close(scratch);
	return rmdir(scratch_path);
}

#define index_test(f) cmocka_unit_test_setup_teardown(f, scratch_make, scratch_remove)

#endif
