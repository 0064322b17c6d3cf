/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "scanner/index/checksum.h"
#include "scanner/index/table.h"
#include "scanner/index/table_format.h"

/* The bytes of a table.  They are tried as they are, and once more with a trailer that fits them and right
 * checksums, so that what lies behind these is reached.  Whatever is read must be in order. */

static void must(int what)
{
	if (!what)
		abort();
}

static void sum_up(uint8_t *p, size_t len, uint64_t seed)
{
	le32_store(p, checksum32(p + sizeof(le32), len - sizeof(le32), seed));
}

static void fix_trailer(uint8_t *p, uint64_t nr_pages, uint64_t nr_directory)
{
	struct table_trailer *d = (struct table_trailer *)p;

	memcpy(d->magic, TABLE_MAGIC, sizeof(d->magic));
	d->version = le32_from(TABLE_VERSION);
	d->page_size = le32_from(TABLE_PAGE);
	d->nr_pages = le64_from(nr_pages);
	d->nr_directory = le64_from(nr_directory);
	d->checksum = le32_from(checksum32(d, offsetof(struct table_trailer, checksum), TABLE_VERSION));
}

/* Returns the new length, 0 if the bytes are too few. */
static size_t fix(uint8_t *p, size_t len)
{
	uint64_t nr_pages, nr;
	size_t at;

	if (len < sizeof(struct table_trailer))
		return 0;
	nr_pages = (len - sizeof(struct table_trailer)) / TABLE_PAGE;
	for (uint64_t i = 0; i < nr_pages; i++)
		sum_up(p + i * TABLE_PAGE, TABLE_PAGE, i);
	at = nr_pages * TABLE_PAGE;
	nr = (len - sizeof(struct table_trailer) - at) / sizeof(struct table_directory_entry);
	nr = min_u64(nr, nr_pages);
	while (nr && at + directory_bytes(nr) + sizeof(struct table_trailer) > len)
		nr--;
	if (nr)
		sum_up(p + at, directory_bytes(nr), nr_pages);
	fix_trailer(p + at + directory_bytes(nr), nr_pages, nr);
	return at + directory_bytes(nr) + sizeof(struct table_trailer);
}

static void read_places(struct table *t)
{
	uint64_t place, again, last = 0, first = 0;
	int rc;

	for (uint64_t i = 0; (rc = table_next_place(t, &place, NULL)) > 0; i++) {
		must(place >> TABLE_PLACE_BITS == 0 && (!i || place > last));
		last = place;
		if (!i)
			first = place;
	}
	if (rc == 0) {
		must(table_rewind_places(t, NULL) == 0);
		must(table_next_place(t, &again, NULL) == 1 && again == first);
	}
}

static void read_table(struct table *t)
{
	struct key key, last = { 0, 0 };

	for (uint64_t i = 0; table_next_key(t, &key, NULL) > 0; i++) {
		must(!i || key_cmp(key, last) > 0);
		must(!(key.lo & ~KEY_LO_MASK));
		if (i % 3)
			read_places(t);
		last = key;
	}
}

static void find_in_table(struct table *t, const uint8_t *data, size_t size)
{
	for (size_t at = 11; at + KEY_BYTES <= size && at < 20 * TABLE_PAGE; at += TABLE_PAGE) {
		struct key key = { be64_load(data + at), 0 }, next;
		uint64_t place;

		memcpy(&key.lo, data + at + 8, 5);
		key.lo = be64_load(&key.lo);
		if (table_find(t, key, NULL) > 0)
			must(table_next_place(t, &place, NULL) != 0);
		table_next_key(t, &next, NULL);
	}
}

static void try_bytes(const uint8_t *data, size_t size)
{
	int fd = memfd_create("table", MFD_CLOEXEC);
	struct table *t;
	char name[32];

	must(fd >= 0);
	for (size_t done = 0; done < size;) {
		ssize_t n = write(fd, data + done, size - done);

		must(n > 0);
		done += (size_t)n;
	}
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	t = table_open(AT_FDCWD, name, 2 * TABLE_PAGE, NULL);
	if (t)
		read_table(t);
	table_close(t);
	t = table_open(AT_FDCWD, name, TABLE_PAGE, NULL);
	if (t)
		find_in_table(t, data, size);
	table_close(t);
	close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *p = malloc(size + 1);

	must(p != NULL);
	memcpy(p, data, size);
	try_bytes(p, size);
	size = fix(p, size);
	if (size)
		try_bytes(p, size);
	free(p);
	return 0;
}
