/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/cache_loan.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/base/vec.h"

/* How it works: of each file it is kept which stretches of it were in the cache, as mincore(2) tells; all between them is what
 * came in later.  What cannot be told, or takes too many stretches, counts as having been there: it is left alone. */

#define PAGE 4096u
#define WINDOW ((uint64_t)64 << 20)
#define STRETCHES_MAX 4096u /* of one file */

struct stretch {
	uint64_t begin, end;
};

struct borrower {
	dev_t dev;
	ino_t ino;
	bool all; /* of it stays */
	VEC(struct stretch) there;
};

struct cache_loan {
	uint64_t room;
	VEC(struct borrower) files;
};

struct cache_loan *cache_loan_new(uint64_t room, struct err *err)
{
	struct cache_loan *l = calloc(1, sizeof(*l));

	if (!l)
		return err_null(err, ERR_MEMORY, "no memory to borrow a cache");
	l->room = room;
	return l;
}

void cache_loan_free(struct cache_loan *l)
{
	if (!l)
		return;
	for (size_t i = 0; i < l->files.nr; i++)
		vec_release(&l->files.items[i].there);
	vec_release(&l->files);
	free(l);
}

static struct borrower *find(struct cache_loan *l, const struct stat *st)
{
	for (size_t i = 0; i < l->files.nr; i++)
		if (l->files.items[i].ino == st->st_ino && l->files.items[i].dev == st->st_dev)
			return &l->files.items[i];
	return NULL;
}

/* ---- what is there ---- */

static int add(struct borrower *b, uint64_t begin, uint64_t end)
{
	if (b->there.nr && b->there.items[b->there.nr - 1].end == begin) {
		b->there.items[b->there.nr - 1].end = end;
		return 0;
	}
	return b->there.nr < STRETCHES_MAX ? vec_push(&b->there, ((struct stretch){ begin, end })) : -1;
}

/* Of at most a window. */
static int look(struct borrower *b, int fd, uint64_t begin, uint64_t end)
{
	unsigned char vec[WINDOW / PAGE];
	void *map = mmap(NULL, end - begin, PROT_READ, MAP_SHARED, fd, (off_t)begin);
	int rc;

	if (map == MAP_FAILED)
		return -1;
	rc = mincore(map, end - begin, vec);
	munmap(map, end - begin);
	for (uint64_t i = 0; rc == 0 && i < div_up(end - begin, PAGE); i++)
		if (vec[i] & 1)
			rc = add(b, begin + i * PAGE, begin + (i + 1) * PAGE);
	return rc;
}

static int look_at_all(struct borrower *b, int fd, uint64_t size)
{
	uint64_t begin = 0, end = 0;
	int rc;

	while ((rc = file_next_data(fd, end, size, &begin, &end, NULL)) > 0)
		for (begin = begin / PAGE * PAGE; begin < end; begin += min_u64(end - begin, WINDOW))
			if (look(b, fd, begin, begin + min_u64(end - begin, WINDOW)) < 0)
				return -1;
	return rc;
}

uint64_t cache_loan_take(struct cache_loan *l, int fd, uint64_t wanted)
{
	struct borrower b = { .all = false };
	struct stat st;

	if (!l || file_stat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return 0;
	wanted = min_u64(wanted, l->room);
	if (!find(l, &st)) {
		b.dev = st.st_dev;
		b.ino = st.st_ino;
		b.all = look_at_all(&b, fd, (uint64_t)st.st_size) < 0;
		if (vec_push(&l->files, b) < 0) {
			vec_release(&b.there);
			return 0;
		}
	}
	l->room -= wanted;
	return wanted;
}

/* ---- what came in ---- */

static void drop(int fd, uint64_t begin, uint64_t end)
{
	if (begin < end)
		file_ops->fadvise(fd, (off_t)begin, (off_t)(end - begin), POSIX_FADV_DONTNEED);
}

void cache_loan_return(struct cache_loan *l, int fd)
{
	const struct borrower *b;
	uint64_t at = 0;
	struct stat st;

	if (!l || file_stat(fd, &st) < 0 || !(b = find(l, &st)) || b->all)
		return;
	for (size_t i = 0; i < b->there.nr; at = b->there.items[i++].end)
		drop(fd, at, b->there.items[i].begin);
	drop(fd, at, div_up((uint64_t)st.st_size, PAGE) * PAGE);
}
