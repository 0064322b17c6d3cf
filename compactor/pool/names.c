/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/pool/names.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>

#include "compactor/pool/name_rows.h"
#include "scanner/base/file.h"

/* How it works: name n is the file names/<n>, written as <n>.new and renamed.  (name_text.c has what is in it.)
 *
 *	<n>		published
 *	<n>.new		written, and not published: of this process, or left by one that died
 *	<n>.made	a promise: written, and published unless something says that it must not be.  One that is not whole was
 *			never synced
 *	<n>.gone	was removed while it was the newest, so that its number is not given out again
 *
 * The first call that writes looks at the directory once: it finds the next number and removes what died.  Anything else in the
 * directory is an error: a name that somebody renamed, say, must not look like one that was removed.
 *
 * A promise becomes a name by a rename that nobody syncs: power cut, it is a promise again, and versions_recover() says what
 * becomes of it. */

#define FILE_ROOM 32
#define BYTES_MAX ((uint64_t)64 << 20)

enum part { PART_NAME, PART_NEW, PART_MADE, PART_GONE, PART_TEMPORARY };

static const char *const endings[] = { "", ".new", ".made", ".gone" };

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

/* ---- rows ---- */

/* The directory was changed, by us. */
static int note_time(struct pool *p, struct err *err)
{
	return p->rows ? name_rows_note_time(p, p->rows, err) : 0;
}

static void note_beside(struct pool *p, int more)
{
	if (p->rows)
		p->rows->nr_beside += (unsigned)more;
}

bool names_are_tidy(const struct pool *p)
{
	return p->rows && p->rows->loaded && !p->rows->nr_beside && name_rows_are_current(p, p->rows);
}

void names_will_change(struct pool *p)
{
	if (p->rows && p->rows->spoilt)
		return;
	name_rows_spoil(p);
	if (p->rows) {
		p->rows->spoilt = true;
		p->rows->saved = false;
	}
}

bool names_need_no_sweep(const struct pool *p)
{
	return names_are_tidy(p) && p->rows->swept;
}

void names_swept(struct pool *p, bool all)
{
	if (!p->rows)
		return;
	p->rows->saved = p->rows->saved && (all || !p->rows->swept);
	p->rows->swept = all;
	p->rows->changes = (struct name_changes){ .other = false };
}

bool names_replace_none(const struct pool *p)
{
	return p->rows && p->rows->swept && name_rows_replace_none(p->rows);
}

void names_left_nothing(struct pool *p)
{
	if (p->rows)
		p->rows->ended = true;
}

/* The next number is known after it, and nothing waits that died. */
static int prepare(struct pool *p, struct err *err)
{
	uint64_t newest;

	if (p->next_name)
		return 0;
	names_will_change(p);
	if (names_are_tidy(p)) {
		p->next_name = p->rows->next;
		return 0;
	}
	if (remove_part(p, PART_NEW, 0, &newest, err) < 0 || remove_part(p, PART_GONE, newest, &newest, err) < 0)
		return -1;
	p->next_name = newest + 1;
	if (p->rows)
		p->rows->next = p->next_name;
	return note_time(p, err);
}

/* The names have changed: *n is there now, or (NULL) number is not.  What is remembered is no more than that. */
static int note(struct pool *p, uint64_t number, const struct name *n, struct err *err)
{
	if (p->rows) {
		name_rows_remove(p->rows, number);
		p->rows->next = p->next_name;
	}
	if (n && p->rows && name_rows_add(p->rows, n, err) < 0)
		return -1;
	return note_time(p, err);
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
static int check_written(int fd, uint64_t number, struct err *err)
{
	CLEANUP(name_release) struct name n = { .number = 0 };
	CLEANUP(free) char *text = NULL;
	size_t len = 0;

	if (file_drop_cache(fd, err) < 0 || read_bytes(fd, &text, &len, err) < 0)
		return -1;
	if (name_decode(text, len, &n, NULL) == 0 && n.number == number)
		return 0;
	return err_set(err, ERR_IO, "name %" PRIu64 " reads back otherwise than it was written", number);
}

static int remove_beside(struct pool *p, uint64_t number, enum part part, struct err *err)
{
	char file[FILE_ROOM];

	if (file_unlink(p->dirs[POOL_NAMES], file_name(number, part, file), err) < 0)
		return -1;
	note_beside(p, -1);
	return note_time(p, err);
}

/* Beside; its descriptor, or -1. */
static int write_file(struct pool *p, const struct name *n, enum part part, struct err *err)
{
	CLEANUP(free) char *text = NULL;
	size_t len = 0;
	char file[FILE_ROOM];
	int fd;

	if (name_encode(n, &text, &len, err) < 0)
		return -1;
	fd = file_open(p->dirs[POOL_NAMES], file_name(n->number, part, file), O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600, err);
	if (fd < 0)
		return -1;
	note_beside(p, 1);
	if (file_write(fd, text, len, 0, err) == 0 && note_time(p, err) == 0)
		return fd;
	file_ops->close(fd);
	remove_beside(p, n->number, part, NULL);
	return -1;
}

static int publish(struct pool *p, const struct name *n, enum part part, struct err *err)
{
	char from[FILE_ROOM], to[FILE_ROOM];

	if (file_rename(p->dirs[POOL_NAMES], file_name(n->number, part, from), file_name(n->number, PART_NAME, to), err) < 0)
		return -1;
	note_beside(p, -1);
	return note(p, n->number, n, err);
}

static int write_and_sync(struct pool *p, const struct name *n, struct err *err)
{
	char file[FILE_ROOM];
	int fd = write_file(p, n, PART_NEW, err), rc;

	if (fd < 0)
		return -1;
	file_name(n->number, PART_NEW, file);
	rc = file_sync(fd, file, err);
	if (rc == 0)
		rc = check_written(fd, n->number, err);
	return file_close(fd, file, rc == 0 ? err : NULL) < 0 ? -1 : rc;
}

static int write_and_publish(struct pool *p, const struct name *n, bool sync, struct err *err)
{
	if (write_and_sync(p, n, err) == 0 && publish(p, n, PART_NEW, err) == 0)
		return sync ? file_sync_dir(p->dirs[POOL_NAMES], err) : 0;
	remove_beside(p, n->number, PART_NEW, NULL);
	return -1;
}

static int in_names(const struct pool *p, struct err *err)
{
	return err_add(err, "names of pool '%s'", p->path);
}

int names_publish(struct pool *p, struct name *n, bool sync, struct err *err)
{
	uint64_t before = n->number;

	if (prepare(p, err) < 0)
		return in_names(p, err);
	n->number = p->next_name++; /* also if this fails: it may be published all the same */
	if (write_and_publish(p, n, sync, err) == 0)
		return 0;
	n->number = before;
	return in_names(p, err);
}

int names_replace(struct pool *p, uint64_t old, struct name *n, struct err *err)
{
	uint64_t before = n->number;

	n->number = old;
	if (prepare(p, err) == 0 && write_and_publish(p, n, true, err) == 0)
		return 0;
	n->number = before;
	return in_names(p, err);
}

/* The newest one leaves its number. */
int names_remove(struct pool *p, uint64_t number, struct err *err)
{
	int dirfd = p->dirs[POOL_NAMES], rc;
	char file[FILE_ROOM], gone[FILE_ROOM];

	if (prepare(p, err) < 0)
		return in_names(p, err);
	file_name(number, PART_NAME, file);
	if (number + 1 == p->next_name)
		rc = file_rename(dirfd, file, file_name(number, PART_GONE, gone), err);
	else
		rc = file_unlink(dirfd, file, err);
	if (rc < 0 || note(p, number, NULL, err) < 0 || file_sync_dir(dirfd, err) < 0)
		return in_names(p, err);
	return 0;
}

/* ---- promises ---- */

int names_promise(struct pool *p, struct name *n, int *ret_fd, struct err *err)
{
	uint64_t before = n->number;
	int fd = -1;

	if (prepare(p, err) == 0) {
		n->number = p->next_name;
		fd = write_file(p, n, PART_MADE, err);
	}
	if (fd < 0) {
		n->number = before;
		return in_names(p, err);
	}
	p->next_name++;
	*ret_fd = fd;
	return 0;
}

int names_rewrite(struct pool *p, const struct name *n, int *ret_fd, struct err *err)
{
	int fd = prepare(p, err) < 0 ? -1 : write_file(p, n, PART_NEW, err);

	if (fd < 0)
		return in_names(p, err);
	*ret_fd = fd;
	return 0;
}

int names_reread(struct pool *p, int fd, uint64_t number, struct err *err)
{
	char file[FILE_ROOM];
	int rc;

	if (fd < 0)
		fd = file_open(p->dirs[POOL_NAMES], file_name(number, PART_MADE, file), O_RDONLY | O_NOFOLLOW, 0, err);
	if (fd < 0)
		return in_names(p, err);
	rc = check_written(fd, number, err);
	if (file_close(fd, "a name", rc == 0 ? err : NULL) < 0 || rc < 0)
		return in_names(p, err);
	return 0;
}

int names_keep(struct pool *p, const struct name *n, struct err *err)
{
	return publish(p, n, PART_MADE, err) < 0 ? in_names(p, err) : 0;
}

int names_put_rewritten(struct pool *p, const struct name *n, struct err *err)
{
	return publish(p, n, PART_NEW, err) < 0 ? in_names(p, err) : 0;
}

int names_break(struct pool *p, uint64_t number, struct err *err)
{
	return prepare(p, err) < 0 || remove_beside(p, number, PART_MADE, err) < 0 ? in_names(p, err) : 0;
}

int names_drop(struct pool *p, struct err *err)
{
	uint64_t newest;

	if (!p->next_name)
		return prepare(p, err);
	return remove_part(p, PART_NEW, 0, &newest, err) < 0 ? -1 : note_time(p, err);
}

/* ---- reading ---- */

static int sync_promise(struct pool *p, uint64_t number, struct err *err)
{
	char file[FILE_ROOM];
	int fd = file_open(p->dirs[POOL_NAMES], file_name(number, PART_MADE, file), O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, err), rc;

	if (fd < 0)
		return -1;
	rc = file_sync(fd, file, err);
	return file_close(fd, file, rc == 0 ? err : NULL) < 0 ? -1 : rc;
}

static int read_part(struct pool *p, uint64_t number, enum part part, struct name *ret, struct err *err)
{
	CLEANUP(free) char *text = NULL;
	char file[FILE_ROOM];
	size_t len = 0;
	int fd = file_open(p->dirs[POOL_NAMES], file_name(number, part, file), O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, err), rc;

	if (fd < 0)
		return -1;
	rc = read_bytes(fd, &text, &len, err);
	file_ops->close(fd);
	if (rc == 0)
		rc = name_decode(text, len, ret, err);
	if (rc < 0)
		return err_add(err, "'names/%s'", file);
	if (ret->number == number)
		return 0;
	name_release(ret);
	return err_set(err, ERR_FORMAT, "'names/%s' says that it is another", file);
}

static int read_name(struct pool *p, uint64_t number, struct name *ret, struct err *err)
{
	return read_part(p, number, PART_NAME, ret, err);
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
		return pool_err(p, err);
	for (size_t i = 0; rc == 0 && i < l.numbers.nr; i++) {
		struct err why = ERR_INIT;
		struct name n;

		if (read_name(p, l.numbers.items[i], &n, &why) == 0) {
			rc = call(ctx, &n, err);
			name_release(&n);
			continue;
		}
		if (!damaged)
			return err_set(err, why.kind, "pool '%s': %s; dedupscan pool repair tells what to do", p->path, why.text);
		rc = damaged(ctx, l.numbers.items[i], &why, err);
	}
	return rc;
}

int names_each_promise(struct pool *p, int (*call)(void *ctx, uint64_t number, const struct name *n, struct err *err), void *ctx,
		       struct err *err)
{
	CLEANUP(listing_release) struct listing l = { .part = PART_MADE };
	int rc = list(p, PART_MADE, &l, err);

	for (size_t i = 0; rc == 0 && i < l.numbers.nr; i++) {
		CLEANUP(name_release) struct name n = { .number = 0 };
		struct err why = ERR_INIT;
		bool whole;

		if (sync_promise(p, l.numbers.items[i], err) < 0)
			return in_names(p, err);
		whole = read_part(p, l.numbers.items[i], PART_MADE, &n, &why) == 0;
		if (!whole && why.kind != ERR_FORMAT)
			return err_set(err, why.kind, "pool '%s': %s", p->path, why.text);
		rc = call(ctx, l.numbers.items[i], whole ? &n : NULL, err);
	}
	return rc;
}

/* ---- finding ---- */

static int add_rows(void *ctx, const struct name *n, struct err *err)
{
	return name_rows_add(ctx, n, err);
}

/* From the file if that is to be believed, else from all names, once. */
static int make_rows(struct pool *p, struct err *err)
{
	struct name_rows *r = calloc(1, sizeof(*r));

	if (!r)
		return err_set(err, ERR_MEMORY, "no memory for the names of a pool");
	p->rows = r;
	r->unsure = p->next_name != 0;
	if (name_rows_load(p, r) || (name_rows_note_time(p, r, err) == 0 && names_each(p, add_rows, r, err) == 0))
		return 0;
	vec_release(&r->list);
	free(STEAL(p->rows));
	return -1;
}

int names_rows(struct pool *p, const struct name_row **ret, size_t *ret_nr, struct err *err)
{
	if (p->rows && !name_rows_are_current(p, p->rows)) {
		vec_release(&p->rows->list);
		free(STEAL(p->rows));
	}
	if (!p->rows && make_rows(p, err) < 0)
		return -1;
	*ret = p->rows->list.items;
	*ret_nr = p->rows->list.nr;
	return 0;
}

void names_distrust(struct pool *p)
{
	name_rows_spoil(p);
	if (p->rows) {
		p->rows->unsure = true;
		p->rows->loaded = false;
	}
}

void names_forget(struct pool *p)
{
	if (!p->rows)
		return;
	if (p->writing && name_rows_are_current(p, p->rows))
		name_rows_save(p, p->rows);
	vec_release(&p->rows->list);
	free(STEAL(p->rows));
	p->next_name = 0;
}

struct search {
	enum name_kind kind;
	const char *path, *label;
	const uint8_t *sealed;
	uint64_t path_hash, label_hash;
};

static bool row_may_be(const struct name_row *r, const struct search *s)
{
	if (!r->number || (s->kind == NAME_MEMBER) != !!(r->flags & NAME_ROW_MEMBER))
		return false;
	if (s->sealed)
		return memcmp(r->sealed, s->sealed, POOL_ID_SIZE) == 0;
	return !(r->flags & NAME_ROW_PENDING) && (!s->path || r->path == s->path_hash) && (!s->label || r->label == s->label_hash);
}

static bool is_it(const struct name *n, const struct search *s)
{
	if (n->kind != s->kind)
		return false;
	for (size_t i = 0; s->sealed && i < n->disks.nr; i++)
		if (memcmp(n->disks.items[i].sealed, s->sealed, POOL_ID_SIZE) == 0)
			return true;
	return !s->sealed && name_is_settled(n) && (!s->path || name_find_disk(n, s->path)) &&
	       (!s->label || strcmp(n->label, s->label) == 0);
}

/* The next candidate behind (in front of, if `newest`) number `from`; 0 = there is none. */
static uint64_t next_candidate(const struct name_row *rows, size_t nr, const struct search *s, uint64_t from, bool newest)
{
	uint64_t found = 0;

	for (size_t i = 0; i < nr; i++) {
		uint64_t x = rows[i].number;

		if ((newest ? x < from && x > found : x > from && (!found || x < found)) && row_may_be(&rows[i], s))
			found = x;
	}
	return found;
}

static int find(struct pool *p, struct search *s, bool newest, struct name *ret, struct err *err)
{
	const struct name_row *rows;
	uint64_t at = newest ? UINT64_MAX : 0;
	size_t nr;

	if (names_rows(p, &rows, &nr, err) < 0)
		return -1;
	s->path_hash = s->path ? name_row_hash(s->path) : 0;
	s->label_hash = s->label && *s->label ? (uint32_t)name_row_hash(s->label) | 1 : 0;
	while ((at = next_candidate(rows, nr, s, at, newest)) != 0) {
		struct name n;

		if (read_name(p, at, &n, err) < 0)
			return pool_err(p, err);
		if (is_it(&n, s)) {
			*ret = n;
			return 1;
		}
		name_release(&n);
	}
	return 0;
}

int names_find_member(struct pool *p, const char *path, struct name *ret, struct err *err)
{
	return find(p, &(struct search){ .kind = NAME_MEMBER, .path = path }, true, ret, err);
}

int names_find_version(struct pool *p, const char *path, const char *label, struct name *ret, struct err *err)
{
	return find(p, &(struct search){ .kind = NAME_VERSION, .path = path, .label = label }, true, ret, err);
}

int names_find_sealed(struct pool *p, const uint8_t sealed[POOL_ID_SIZE], struct name *ret, struct err *err)
{
	return find(p, &(struct search){ .kind = NAME_VERSION, .sealed = sealed }, false, ret, err);
}

struct numbers {
	VEC(uint64_t) list;
};

static int compare_numbers(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

/* Rows change with names. */
static int note_numbers(struct pool *p, bool (*may)(void *ctx, const struct name_row *row), void *ctx, struct numbers *ret,
			struct err *err)
{
	const struct name_row *rows;
	size_t nr;

	if (names_rows(p, &rows, &nr, err) < 0)
		return -1;
	for (size_t i = 0; i < nr; i++)
		if (rows[i].number && may(ctx, &rows[i]) && vec_push(&ret->list, rows[i].number) < 0)
			return err_set(err, ERR_MEMORY, "out of memory");
	if (ret->list.nr)
		qsort(ret->list.items, ret->list.nr, sizeof(*ret->list.items), compare_numbers);
	return 0;
}

int names_each_row(struct pool *p, bool (*may)(void *ctx, const struct name_row *row),
		   int (*call)(void *ctx, const struct name *n, struct err *err), void *ctx, struct err *err)
{
	struct numbers of = { .list = VEC_INIT };
	int rc = note_numbers(p, may, ctx, &of, err);

	for (size_t i = 0; rc == 0 && i < of.list.nr; i++) {
		CLEANUP(name_release) struct name n = { .number = 0 };

		if (i && of.list.items[i] == of.list.items[i - 1])
			continue;
		rc = names_find_number(p, of.list.items[i], &n, err);
		if (rc > 0)
			rc = call(ctx, &n, err);
	}
	vec_release(&of.list);
	return rc;
}

int names_find_number(struct pool *p, uint64_t number, struct name *ret, struct err *err)
{
	struct err why = ERR_INIT;

	if (read_name(p, number, ret, &why) == 0)
		return 1;
	if (why.errnum == ENOENT)
		return 0;
	return err_set(err, why.kind, "pool '%s': %s", p->path, why.text);
}
