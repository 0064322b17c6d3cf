/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/pool/names.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>

#include "scanner/base/file.h"

/* How it works: name n is the file names/<n>, written as <n>.new and renamed.  (name_text.c has what is in it.)
 *
 *	<n>		published
 *	<n>.new		written, and not published: of this process, or left by one that died
 *	<n>.gone	was removed while it was the newest, so that its number is not given out again
 *
 * The first call that writes looks at the directory once: it finds the next number and removes what died.  Anything else in the
 * directory is an error: a name that somebody renamed, say, must not look like one that was removed. */

#define FILE_ROOM 32
#define BYTES_MAX ((uint64_t)64 << 20)

enum part { PART_NAME, PART_NEW, PART_GONE, PART_TEMPORARY };

static const char *const endings[] = { "", ".new", ".gone" };

static char *file_name(uint64_t number, enum part part, char ret[FILE_ROOM])
{
	snprintf(ret, FILE_ROOM, "%" PRIu64 "%s", number, endings[part]);
	return ret;
}

/* What a file in the directory is. */
static int parse(const char *file, enum part *ret_part, uint64_t *ret_number, struct err *err)
{
	char again[FILE_ROOM];
	uint64_t n = 0;

	*ret_part = PART_TEMPORARY;
	if (*file == '.')
		return 0;
	if (sscanf(file, "%20" SCNu64, &n) == 1 && n > 0)
		for (enum part p = PART_NAME; p <= PART_GONE; p++)
			if (strcmp(file_name(n, p, again), file) == 0) {
				*ret_part = p;
				*ret_number = n;
				return 0;
			}
	return err_set(err, ERR_FORMAT, "'%.100s' does not belong into the names of a pool", file);
}

/* ---- what is there ---- */

struct listing {
	enum part part;
	VEC(uint64_t) numbers; /* of that part */
	uint64_t newest;       /* of all parts that were published */
};

static void listing_release(struct listing *l)
{
	vec_release(&l->numbers);
}
CLEANUP_DEFINE_RELEASE(struct listing, listing_release)

static int list_one(void *ctx, const char *file, struct err *err)
{
	struct listing *l = ctx;
	enum part part;
	uint64_t number;

	if (parse(file, &part, &number, err) < 0)
		return -1;
	if (part == PART_TEMPORARY)
		return 0;
	if (part != PART_NEW && number > l->newest)
		l->newest = number;
	if (part == l->part && vec_push(&l->numbers, number) < 0)
		return err_set(err, ERR_MEMORY, "out of memory");
	return 0;
}

static int ascending(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static int list(struct pool *p, enum part part, struct listing *ret, struct err *err)
{
	*ret = (struct listing){ .part = part };
	if (file_each_name(p->dirs[POOL_NAMES], list_one, ret, err) < 0)
		return -1;
	if (ret->numbers.nr)
		qsort(ret->numbers.items, ret->numbers.nr, sizeof(*ret->numbers.items), ascending);
	return 0;
}

static int remove_part(struct pool *p, enum part part, uint64_t keep, uint64_t *ret_newest, struct err *err)
{
	CLEANUP(listing_release) struct listing l = { .part = part };
	char file[FILE_ROOM];

	if (list(p, part, &l, err) < 0)
		return -1;
	*ret_newest = l.newest;
	for (size_t i = 0; i < l.numbers.nr; i++)
		if (l.numbers.items[i] != keep &&
		    file_unlink(p->dirs[POOL_NAMES], file_name(l.numbers.items[i], part, file), err) < 0)
			return -1;
	return 0;
}

/* The next number is known after it, and nothing waits that died. */
static int prepare(struct pool *p, struct err *err)
{
	uint64_t newest;

	if (p->next_name)
		return 0;
	if (remove_part(p, PART_NEW, 0, &newest, err) < 0 || remove_part(p, PART_GONE, newest, &newest, err) < 0)
		return -1;
	p->next_name = newest + 1;
	return 0;
}

/* ---- writing ---- */

static int read_bytes(int fd, char **ret, size_t *ret_len, struct err *err)
{
	struct stat st;
	CLEANUP(free) char *text = NULL;

	if (file_ops->fstat(fd, &st) < 0)
		return err_errno(err, "cannot stat it");
	if (!S_ISREG(st.st_mode) || st.st_size < 0 || (uint64_t)st.st_size > BYTES_MAX)
		return err_set(err, ERR_FORMAT, "no name of dedupscan: no plain file, or longer than 64 MiB");
	text = malloc((size_t)st.st_size + 1);
	if (!text)
		return err_set(err, ERR_MEMORY, "out of memory");
	if (file_read(fd, text, (size_t)st.st_size, 0, err) < 0)
		return -1;
	*ret_len = (size_t)st.st_size;
	*ret = STEAL(text);
	return 0;
}

/* What replaces a name, or is to be one, is read from the disk before. */
static int check_written(int fd, const char *file, uint64_t number, struct err *err)
{
	CLEANUP(name_release) struct name n = { .number = 0 };
	CLEANUP(free) char *text = NULL;
	size_t len = 0;

	if (file_drop_cache(fd, err) < 0 || read_bytes(fd, &text, &len, err) < 0)
		return -1;
	if (name_decode(text, len, &n, NULL) == 0 && n.number == number)
		return 0;
	return err_set(err, ERR_IO, "'%s' reads back otherwise than it was written", file);
}

static int write_file(struct pool *p, const struct name *n, bool sync, struct err *err)
{
	CLEANUP(free) char *text = NULL;
	size_t len = 0;
	char file[FILE_ROOM];
	int fd, rc;

	if (name_encode(n, &text, &len, err) < 0)
		return -1;
	file_name(n->number, PART_NEW, file);
	fd = file_open(p->dirs[POOL_NAMES], file, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600, err);
	if (fd < 0)
		return -1;
	rc = file_write(fd, text, len, 0, err);
	if (rc == 0 && sync)
		rc = file_sync(fd, file, err);
	if (rc == 0 && sync)
		rc = check_written(fd, file, n->number, err);
	if (file_close(fd, file, rc == 0 ? err : NULL) < 0)
		rc = -1;
	if (rc < 0)
		file_unlink(p->dirs[POOL_NAMES], file, NULL);
	return rc;
}

static int publish(struct pool *p, uint64_t number, struct err *err)
{
	char from[FILE_ROOM], to[FILE_ROOM];

	return file_rename(p->dirs[POOL_NAMES], file_name(number, PART_NEW, from), file_name(number, PART_NAME, to), err);
}

static int write_and_publish(struct pool *p, const struct name *n, struct err *err)
{
	char file[FILE_ROOM];

	if (write_file(p, n, true, err) < 0)
		return -1;
	if (publish(p, n->number, err) == 0)
		return file_sync_dir(p->dirs[POOL_NAMES], err);
	file_unlink(p->dirs[POOL_NAMES], file_name(n->number, PART_NEW, file), NULL);
	return -1;
}

int names_publish(struct pool *p, struct name *n, bool sync, struct err *err)
{
	uint64_t before = n->number;

	if (prepare(p, err) < 0)
		return err_add(err, "names of pool '%s'", p->path);
	n->number = p->next_name;
	if ((sync ? write_and_publish(p, n, err) : write_file(p, n, false, err)) < 0) {
		if (sync) /* it may be published all the same */
			p->next_name++;
		n->number = before;
		return err_add(err, "names of pool '%s'", p->path);
	}
	p->next_name++;
	return 0;
}

static int check_new(struct pool *p, uint64_t number, bool sync, struct err *err)
{
	char file[FILE_ROOM];
	int fd = file_open(p->dirs[POOL_NAMES], file_name(number, PART_NEW, file), O_RDONLY | O_NOFOLLOW, 0, err), rc;

	if (fd < 0)
		return -1;
	rc = sync ? file_sync(fd, file, err) : 0;
	if (rc == 0)
		rc = check_written(fd, file, number, err);
	file_ops->close(fd);
	return rc;
}

static int sync_and_publish(struct pool *p, bool whole_fs, struct err *err)
{
	CLEANUP(listing_release) struct listing l = { .part = PART_NEW };

	if (prepare(p, err) < 0 || list(p, PART_NEW, &l, err) < 0 || (whole_fs && file_sync_fs(p->dirs[POOL_NAMES], err) < 0))
		return -1;
	for (size_t i = 0; i < l.numbers.nr; i++)
		if (check_new(p, l.numbers.items[i], !whole_fs, err) < 0)
			return -1;
	for (size_t i = 0; i < l.numbers.nr; i++)
		if (publish(p, l.numbers.items[i], err) < 0)
			return -1;
	return file_sync_dir(p->dirs[POOL_NAMES], err);
}

int names_sync(struct pool *p, bool whole_fs, struct err *err)
{
	return sync_and_publish(p, whole_fs, err) < 0 ? err_add(err, "names of pool '%s'", p->path) : 0;
}

int names_drop(struct pool *p, struct err *err)
{
	uint64_t newest;

	return remove_part(p, PART_NEW, 0, &newest, err);
}

int names_replace(struct pool *p, uint64_t old, struct name *n, struct err *err)
{
	uint64_t before = n->number;

	n->number = old;
	if (prepare(p, err) == 0 && write_and_publish(p, n, err) == 0)
		return 0;
	n->number = before;
	return err_add(err, "names of pool '%s'", p->path);
}

/* The newest one leaves its number. */
int names_remove(struct pool *p, uint64_t number, struct err *err)
{
	int dirfd = p->dirs[POOL_NAMES], rc;
	char file[FILE_ROOM], gone[FILE_ROOM];

	if (prepare(p, err) < 0)
		return err_add(err, "names of pool '%s'", p->path);
	file_name(number, PART_NAME, file);
	if (number + 1 == p->next_name)
		rc = file_rename(dirfd, file, file_name(number, PART_GONE, gone), err);
	else
		rc = file_unlink(dirfd, file, err);
	if (rc < 0 || file_sync_dir(dirfd, err) < 0)
		return err_add(err, "names of pool '%s'", p->path);
	return 0;
}

/* ---- reading ---- */

static int read_name(struct pool *p, uint64_t number, struct name *ret, struct err *err)
{
	CLEANUP(free) char *text = NULL;
	char file[FILE_ROOM];
	size_t len = 0;
	int fd = file_open(p->dirs[POOL_NAMES], file_name(number, PART_NAME, file), O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, err), rc;

	if (fd < 0)
		return -1;
	rc = read_bytes(fd, &text, &len, err);
	file_ops->close(fd);
	if (rc == 0)
		rc = name_decode(text, len, ret, err);
	if (rc < 0)
		return err_add(err, "name '%s'", file);
	if (ret->number == number)
		return 0;
	name_release(ret);
	return err_set(err, ERR_FORMAT, "name '%s' says that it is another", file);
}

int names_each(struct pool *p, int (*call)(void *ctx, const struct name *n, struct err *err), void *ctx, struct err *err)
{
	return names_each_or(p, call, NULL, ctx, err);
}

int names_each_or(struct pool *p, int (*call)(void *ctx, const struct name *n, struct err *err),
		  int (*damaged)(void *ctx, uint64_t number, const struct err *why, struct err *err), void *ctx, struct err *err)
{
	CLEANUP(listing_release) struct listing l = { .part = PART_NAME };
	int rc = list(p, PART_NAME, &l, err);

	if (rc < 0)
		return err_add(err, "pool '%s'", p->path);
	for (size_t i = 0; rc == 0 && i < l.numbers.nr; i++) {
		struct err why = ERR_INIT;
		struct name n;

		if (read_name(p, l.numbers.items[i], &n, &why) == 0) {
			rc = call(ctx, &n, err);
			name_release(&n);
			continue;
		}
		if (!damaged)
			return err_set(err, why.kind, "pool '%s': %s", p->path, why.text);
		rc = damaged(ctx, l.numbers.items[i], &why, err);
	}
	return rc;
}

/* ---- finding ---- */

struct search {
	enum name_kind kind;
	const char *path, *label;
	struct name *found;
	bool any;
};

static int look(void *ctx, const struct name *n, struct err *err)
{
	struct search *s = ctx;

	if (n->kind != s->kind || !name_is_settled(n) || (s->path && !name_find_disk(n, s->path)) ||
	    (s->label && strcmp(n->label, s->label) != 0))
		return 0;
	if (s->any)
		name_release(s->found);
	s->any = name_copy(n, s->found, err) == 0;
	return s->any ? 0 : -1;
}

static int find(struct pool *p, struct search *s, struct name *ret, struct err *err)
{
	struct name found;
	int rc;

	s->found = &found;
	rc = names_each(p, look, s, err);
	if (rc < 0 && s->any)
		name_release(&found);
	if (rc < 0)
		return -1;
	if (s->any)
		*ret = found;
	return s->any;
}

int names_find_member(struct pool *p, const char *path, struct name *ret, struct err *err)
{
	return find(p, &(struct search){ .kind = NAME_MEMBER, .path = path }, ret, err);
}

int names_find_version(struct pool *p, const char *path, const char *label, struct name *ret, struct err *err)
{
	return find(p, &(struct search){ .kind = NAME_VERSION, .path = path, .label = label }, ret, err);
}
