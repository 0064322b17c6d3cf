/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "compactor/pool/finder.h"
#include "compactor/pool/finder_filter.h"
#include "scanner/base/bytes.h"
#include "scanner/base/crc32c.h"
#include "scanner/base/file.h"
#include "scanner/index/checksum.h"

/* Row F13.
 *
 * What is beside the tables of a finder: the list of them (first byte 0) and filters (1), as they are and with right
 * checksums.  Whatever they say, what is asked for is found or not, and what is added is found.  (fuzz_table.c has the tables.) */

#define MEMORY ((size_t)64 << 10)
#define NR 50u

static const uint8_t uuid[16] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 };

static void must(int what)
{
	if (!what)
		abort();
}

static void put(int dir, const char *name, const uint8_t *p, size_t len)
{
	int fd = openat(dir, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	must(fd >= 0 && write(fd, p, len) == (ssize_t)len);
	close(fd);
}

static int remove_one(void *ctx, const char *name, struct err *err)
{
	(void)err;
	return unlinkat(*(int *)ctx, name, 0);
}

/* Adds keys, each with its own number, as "1.table". */
static void make_table(int dir)
{
	bool whole;
	struct finder *f = finder_open(dir, uuid, MEMORY, true, &whole, NULL);

	must(f && whole);
	for (uint64_t i = 0; i < NR; i++)
		must(finder_add(f, FINDER_NODE, 12, i << 56 | i, i << 40, i, false, NULL) == 0);
	must(finder_sync(f, 7, NULL) == 0);
	finder_close(f);
}

static void use(int dir, bool writing)
{
	bool whole;
	uint64_t number;
	struct finder *f = finder_open(dir, uuid, MEMORY, writing, &whole, NULL);

	if (!f)
		return;
	must(whole || finder_covered(f) == 0);
	for (uint64_t i = 0; i < 2 * NR; i++)
		if (finder_get(f, FINDER_NODE, 12, i << 56 | i, i << 40, &number, NULL) > 0)
			must(number == i && i < NR);
	if (writing && !whole)
		must(finder_clear(f, NULL) == 0);
	if (writing && finder_add(f, FINDER_BLOCK, 16, 1, 2, 3, true, NULL) == 0 && finder_sync(f, 9, NULL) == 0)
		must(finder_get(f, FINDER_BLOCK, 16, 1, 2, &number, NULL) == 1 && number == 3);
	finder_close(f);
}

static void try_as(int dir, const char *name, const uint8_t *p, size_t len)
{
	make_table(dir);
	put(dir, name, p, len);
	use(dir, false);
	use(dir, true);
	use(dir, true);
	must(file_each_name(dir, remove_one, &dir, NULL) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char path[] = "/dev/shm/fuzz_finder-XXXXXX";
	bool filter = size && data[0] == 1;
	uint8_t *p;
	size_t len;
	int dir;

	if (!size || size > 1 << 16)
		return 0;
	len = size - 1;
	p = malloc(len + 1);
	must(p && mkdtemp(path));
	dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	must(dir >= 0);
	memcpy(p, data + 1, len);
	try_as(dir, filter ? "1.filter" : "finder", p, len);
	if (filter && len >= 24) /* its checksum is of what follows its head; the seed is its number of blocks */
		le32_store(p + 16, checksum32(p + 24, len - 24, le64_load(p + 8)));
	else if (!filter && len >= 4)
		le32_store(p + len - 4, crc32c(0, p, len - 4));
	/* A filter with a right checksum and wrong bits hides keys, as is its nature: it must not make them others. */
	try_as(dir, filter ? "1.filter" : "finder", p, len);
	free(p);
	close(dir);
	rmdir(path);
	return 0;
}
