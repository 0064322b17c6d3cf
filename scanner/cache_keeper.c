/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/cache_keeper.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "scanner/base/checked.h"
#include "scanner/base/file.h"

#define PAGE 4096u
#define WINDOW_PAGES (CACHE_WINDOW / PAGE)

/* Which pages of a window are in the cache.  What cannot be told counts as resident: it is left alone. */
static void look(struct cache_window *w, int fd, uint64_t number)
{
	uint64_t offset = number * CACHE_WINDOW;
	unsigned char vec[WINDOW_PAGES];
	struct stat st;
	uint64_t len;
	void *map;

	*w = (struct cache_window){ .number = number, .known = true };
	memset(w->resident, 0xff, sizeof(w->resident));
	if (file_stat(fd, &st) < 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size <= offset)
		return;
	len = min_u64(CACHE_WINDOW, (uint64_t)st.st_size - offset);
	map = mmap(NULL, len, PROT_READ, MAP_SHARED, fd, (off_t)offset);
	if (map == MAP_FAILED)
		return;
	if (mincore(map, len, vec) == 0)
		for (uint64_t i = 0; i < div_up(len, PAGE); i++)
			if (!(vec[i] & 1))
				w->resident[i / 8] &= (uint8_t)~(1u << (i % 8));
	munmap(map, len);
}

static bool was_resident(const struct cache_window *w, uint64_t page)
{
	return w->resident[page / 8] >> (page % 8) & 1;
}

static void drop(const struct cache_window *w, int fd)
{
	uint64_t page = 0;

	if (!w->known)
		return;
	while (page < WINDOW_PAGES) {
		uint64_t from = page;

		while (page < WINDOW_PAGES && !was_resident(w, page))
			page++;
		if (page > from)
			posix_fadvise(fd, (off_t)(w->number * CACHE_WINDOW + from * PAGE), (off_t)((page - from) * PAGE),
				      POSIX_FADV_DONTNEED);
		while (page < WINDOW_PAGES && was_resident(w, page))
			page++;
	}
}

void cache_keeper_begin(struct cache_keeper *k, bool on)
{
	k->on = on;
	k->fd = -1;
	k->at.known = k->ahead.known = false;
}

static void move_to(struct cache_keeper *k, int fd, uint64_t number)
{
	if (fd != k->fd)
		cache_keeper_end(k);
	k->fd = fd;
	drop(&k->at, fd);
	if (k->ahead.known && k->ahead.number == number) {
		k->at = k->ahead;
	} else {
		drop(&k->ahead, fd);
		look(&k->at, fd, number);
	}
	look(&k->ahead, fd, number + 1);
}

void cache_keeper_before(struct cache_keeper *k, int fd, uint64_t offset, uint64_t len)
{
	uint64_t last = (offset + len - 1) / CACHE_WINDOW;

	if (!k->on)
		return;
	for (uint64_t number = offset / CACHE_WINDOW; number <= last; number++)
		if (fd != k->fd || !k->at.known || k->at.number != number)
			move_to(k, fd, number);
}

void cache_keeper_end(struct cache_keeper *k)
{
	if (k->fd >= 0) {
		drop(&k->at, k->fd);
		drop(&k->ahead, k->fd);
	}
	k->at.known = k->ahead.known = false;
	k->fd = -1;
}
