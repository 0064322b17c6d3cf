/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/fs_shared.h"

#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "scanner/base/checked.h"

#define EXTENTS_AT_ONCE 256

/* A stretch of a disk that a file shares with some file. */
struct stretch {
	uint64_t from, to;
};

struct measure {
	struct catalog *c;
	const struct roots *roots;
	struct fiemap *map; /* with room for EXTENTS_AT_ONCE */
	uint64_t *devices;  /* of the images */
	struct stretch *items;
	size_t nr, room;
	uint64_t dev;	    /* the device at hand ... */
	uint64_t low, high; /* ... and the part of it that counts in this round */
	bool any_answer;
	uint64_t saved;
};

static int compare(const void *a, const void *b)
{
	const struct stretch *x = a, *y = b;

	if (x->from != y->from)
		return x->from < y->from ? -1 : 1;
	return x->to < y->to ? -1 : x->to > y->to;
}

/* Out of room: only the lower half of what is there stays in this round. */
static void halve(struct measure *m)
{
	qsort(m->items, m->nr, sizeof(*m->items), compare);
	m->high = m->items[m->nr / 2].from;
	if (m->high <= m->low)
		m->high = m->low + 1;
	for (size_t i = m->nr; i-- > 0;) {
		if (m->items[i].from >= m->high)
			m->nr = i;
		else if (m->items[i].to > m->high)
			m->items[i].to = m->high;
	}
}

static void add(struct measure *m, uint64_t from, uint64_t len)
{
	uint64_t to = from + len;

	if (m->nr == m->room)
		halve(m);
	from = max_u64(from, m->low);
	to = min_u64(to, m->high);
	if (from < to && m->nr < m->room)
		m->items[m->nr++] = (struct stretch){ from, to };
}

static void add_file(struct measure *m, int fd)
{
	uint64_t at = 0;

	for (;;) {
		*m->map = (struct fiemap){
			.fm_start = at,
			.fm_length = FIEMAP_MAX_OFFSET - at,
			.fm_extent_count = EXTENTS_AT_ONCE,
		};
		if (ioctl(fd, FS_IOC_FIEMAP, m->map) < 0)
			return;
		m->any_answer = true;
		if (m->map->fm_mapped_extents == 0)
			return;
		for (uint32_t i = 0; i < m->map->fm_mapped_extents; i++) {
			const struct fiemap_extent *e = &m->map->fm_extents[i];

			if ((e->fe_flags & FIEMAP_EXTENT_SHARED) && !(e->fe_flags & FIEMAP_EXTENT_UNKNOWN))
				add(m, e->fe_physical, e->fe_length);
			at = e->fe_logical + e->fe_length;
			if (e->fe_flags & FIEMAP_EXTENT_LAST)
				return;
		}
	}
}

/* Bytes of the stretches less the bytes they cover. */
static uint64_t overlap(struct measure *m)
{
	uint64_t sum = 0, covered = 0, end = 0;

	qsort(m->items, m->nr, sizeof(*m->items), compare);
	for (size_t i = 0; i < m->nr; i++) {
		uint64_t from = max_u64(m->items[i].from, end);

		sum += m->items[i].to - m->items[i].from;
		if (m->items[i].to > from)
			covered += m->items[i].to - from;
		end = max_u64(end, m->items[i].to);
	}
	return sum - covered;
}

static int open_image(const struct roots *roots, const struct image_tally *i)
{
	return i->error ? -1 : roots_open_again(roots, i->path, NULL);
}

/* The extents and data files of images; on the devices of images only. */
static int add_part(void *ctx, const struct catalog_part *p, struct err *err)
{
	struct measure *m = ctx;
	CLEANUP(close_fd) int fd = p->identity.dev == m->dev ? roots_open_joined(m->roots, p->path, err) : -1;
	struct stat st;

	if (fd >= 0 && fstat(fd, &st) == 0 && st.st_ino == p->identity.ino)
		add_file(m, fd);
	return 0;
}

/* One stretch of one device; returns where the next round has to go on. */
static uint64_t measure_round(struct measure *m, const struct tally *t, struct stopper *stopper)
{
	m->nr = 0;
	m->high = UINT64_MAX;
	for (size_t i = 0; i < t->nr_images && !stopper_says(stopper); i++) {
		CLEANUP(close_fd) int fd = m->devices[i] == m->dev ? open_image(m->roots, &t->images[i]) : -1;

		if (fd >= 0)
			add_file(m, fd);
	}
	catalog_each_part_once(m->c, add_part, m, NULL);
	m->saved += overlap(m);
	return m->high;
}

/* The devices that the images lie on; 0 = a file that cannot be opened. */
static void find_devices(const struct roots *roots, const struct tally *t, uint64_t *ret)
{
	for (size_t i = 0; i < t->nr_images; i++) {
		CLEANUP(close_fd) int fd = open_image(roots, &t->images[i]);
		struct stat st;

		ret[i] = fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) ? st.st_dev : 0;
	}
}

/* The smallest device number above `dev` that an image lies on. */
static bool next_device(const struct measure *m, const struct tally *t, uint64_t *dev)
{
	uint64_t best = UINT64_MAX;

	for (size_t i = 0; i < t->nr_images; i++)
		if (m->devices[i] > *dev)
			best = min_u64(best, m->devices[i]);
	*dev = best;
	return best != UINT64_MAX;
}

int fs_shared_measure(struct catalog *c, const struct roots *roots, struct tally *t, size_t memory,
		      struct stopper *stopper, struct err *err)
{
	struct measure m = { .c = c, .roots = roots, .room = max_u64(memory / sizeof(struct stretch), 1024) };

	m.room = min_u64(m.room, 256 * 1024);
	m.items = malloc(m.room * sizeof(*m.items));
	m.map = malloc(sizeof(*m.map) + EXTENTS_AT_ONCE * sizeof(struct fiemap_extent));
	m.devices = calloc(t->nr_images + 1, sizeof(*m.devices));
	if (!m.items || !m.map || !m.devices) {
		free(m.items);
		free(m.map);
		free(m.devices);
		return err_set(err, ERR_MEMORY, "no memory to look at shared extents");
	}
	find_devices(roots, t, m.devices);
	while (next_device(&m, t, &m.dev)) {
		m.low = 0;
		do {
			m.low = measure_round(&m, t, stopper);
		} while (m.low != UINT64_MAX && !stopper_says(stopper));
	}
	t->fs_shared = m.any_answer ? (int64_t)m.saved : -1;
	free(m.items);
	free(m.map);
	free(m.devices);
	return stopper_says(stopper) ? err_set(err, ERR_CANCELED, "stopped while shared extents were counted") : 0;
}
