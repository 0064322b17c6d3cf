/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/pool/name_rows.h"

#include <errno.h>
#include <fcntl.h>

#include "scanner/base/checked.h"
#include "scanner/base/crc32c.h"
#include "scanner/base/file.h"

/* How it works: index/names is a head and the rows, as they are in memory: whoever reads it runs on the same host.  It is believed
 * when all of this holds:
 *
 *  - it is complete: who changes names/ marks it as spoilt before, and as whole when he has brought it up to date and left nothing
 *    that is to become a name.  Who dies between leaves it spoilt
 *  - it was written since this host was booted, so that no power cut has torn it or took back what it says
 *  - names/ is the same directory and has the same times: it is no copy, and nobody has moved a file there
 *
 * Rows only say where to look: a name that is found by one is read.
 *
 * The head also has the times of sealed/, when it was swept, and all that was changed since is as a sweep leaves it: then one that
 * came to another end would have to change sealed/, or names/. */

#define FILE_NAME "names"
#define MAGIC UINT64_C(0x32736d6e73646464)
#define ROWS_MAX ((uint64_t)64 << 20) /* bytes; more is not saved */
#define BOOT_ID_LEN 36

struct head {
	uint64_t magic;
	uint32_t whole, crc; /* crc: of the rest of the head, then of the rows */
	uint64_t nr, next;
	uint64_t dir_device, dir_inode;
	uint64_t dir_ctime, dir_mtime; /* ns since 1970 */
	uint64_t sealed_ctime, sealed_mtime, sealed_inode; /* 0 = it is to be swept */
	char boot[BOOT_ID_LEN + 4];
};

static uint64_t ns_of(const struct timespec *t)
{
	return (uint64_t)t->tv_sec * 1000000000u + (uint64_t)t->tv_nsec;
}

/* false = nobody can tell. */
static bool read_boot_id(char ret[BOOT_ID_LEN])
{
	int fd = file_open(AT_FDCWD, "/proc/sys/kernel/random/boot_id", O_RDONLY, 0, NULL);
	bool known;

	if (fd < 0)
		return false;
	known = file_read_some(fd, ret, BOOT_ID_LEN, 0, NULL) == BOOT_ID_LEN;
	file_ops->close(fd);
	return known;
}

static bool make_head(const struct stat *dir, uint64_t nr, uint64_t next, struct head *ret)
{
	struct head h = {
		.magic = MAGIC, .whole = 1, .nr = nr, .next = next, .dir_device = dir->st_dev, .dir_inode = dir->st_ino,
		.dir_ctime = ns_of(&dir->st_ctim), .dir_mtime = ns_of(&dir->st_mtim),
	};

	if (!read_boot_id(h.boot))
		return false;
	*ret = h;
	return true;
}

static uint32_t sum_up(const struct head *h, const struct name_row *rows)
{
	uint32_t crc = crc32c(0, &h->nr, sizeof(*h) - offsetof(struct head, nr));

	return h->nr ? crc32c(crc, rows, (size_t)h->nr * sizeof(*rows)) : crc;
}

/* ---- the file ---- */

static int open_file(const struct pool *p, int flags)
{
	return file_open(p->dirs[POOL_INDEX], FILE_NAME, flags | O_NOFOLLOW | O_NONBLOCK, 0600, NULL);
}

static bool read_rows(int fd, const struct head *h, struct name_rows *ret)
{
	struct name_row *rows = malloc((size_t)(h->nr ? h->nr : 1) * sizeof(*rows));

	if (!rows)
		return false;
	if (file_read(fd, rows, (size_t)h->nr * sizeof(*rows), sizeof(*h), NULL) < 0 || sum_up(h, rows) != h->crc) {
		free(rows);
		return false;
	}
	vec_release(&ret->list);
	ret->list.items = rows;
	ret->list.nr = ret->list.room = (size_t)h->nr;
	return true;
}

static bool is_believed(const struct pool *p, const struct head *h, struct stat *ret_dir)
{
	struct head now;

	if (file_ops->fstat(p->dirs[POOL_NAMES], ret_dir) < 0 || !make_head(ret_dir, h->nr, h->next, &now))
		return false;
	now.crc = h->crc;
	now.sealed_ctime = h->sealed_ctime;
	now.sealed_mtime = h->sealed_mtime;
	now.sealed_inode = h->sealed_inode;
	return h->nr <= ROWS_MAX / sizeof(struct name_row) && memcmp(h, &now, sizeof(now)) == 0;
}

/* ---- what a sweep would find ---- */

static bool stat_sealed(const struct pool *p, struct head *h)
{
	struct stat st;

	if (file_ops->fstat(p->dirs[POOL_SEALED], &st) < 0)
		return false;
	h->sealed_ctime = ns_of(&st.st_ctim);
	h->sealed_mtime = ns_of(&st.st_mtim);
	h->sealed_inode = st.st_ino;
	return true;
}

static bool was_swept(const struct pool *p, const struct head *h)
{
	struct head now;

	return h->sealed_inode && stat_sealed(p, &now) && now.sealed_inode == h->sealed_inode &&
	       now.sealed_ctime == h->sealed_ctime && now.sealed_mtime == h->sealed_mtime;
}

/* Nobody needs a version that has no name and is not stood on, nor what was sealed for one that is folded. */
static bool is_kept_for_others(const struct name_row *r)
{
	bool sealed = !name_id_is_null(r->sealed);

	return !(r->flags & (NAME_ROW_MEMBER | NAME_ROW_PENDING)) && (!r->label || (sealed && r->flags & NAME_ROW_FOLDED));
}

/* What is known by another row is where it belongs, if nobody needs to stand on it. */
static bool is_left_over(const struct pool *p, const struct name_rows *r, const uint8_t id[POOL_ID_SIZE])
{
	bool known = false, stood_on = false, for_others = false;
	char name[POOL_FILE_NAME_ROOM];
	struct stat st;

	for (size_t i = 0; i < r->list.nr; i++) {
		const struct name_row *row = &r->list.items[i];
		bool below = row->number && pool_id_same(row->below, id), sealed = row->number && pool_id_same(row->sealed, id);

		known = known || below || sealed;
		stood_on = stood_on || (below && (row->flags & NAME_ROW_MEMBER || !name_id_is_null(row->sealed)));
		for_others = for_others || (sealed && is_kept_for_others(row));
	}
	if (known)
		return for_others && !stood_on;
	return file_ops->fstatat(p->dirs[POOL_SEALED], pool_id_file_name(id, name), &st, AT_SYMLINK_NOFOLLOW) == 0 ||
	       errno != ENOENT;
}

static bool is_twice(const struct name_rows *r, uint64_t path, const uint8_t below[POOL_ID_SIZE])
{
	unsigned nr = 0;

	for (size_t i = 0; i < r->list.nr; i++) {
		const struct name_row *row = &r->list.items[i];

		nr += row->number && row->flags & NAME_ROW_MEMBER && row->path == path && pool_id_same(row->below, below);
	}
	return nr > 1;
}

bool name_rows_replace_none(const struct name_rows *r)
{
	for (size_t i = 0; i < r->changes.nr_members; i++)
		if (is_twice(r, r->changes.members[i].path, r->changes.members[i].below))
			return false;
	return !r->changes.other;
}

static bool needs_no_sweep(const struct pool *p, const struct name_rows *r)
{
	if (!r->swept || !r->ended || !name_rows_replace_none(r))
		return false;
	for (size_t i = 0; i < r->changes.nr_lost; i++)
		if (is_left_over(p, r, r->changes.lost[i]))
			return false;
	return true;
}

static void note_lost(struct name_changes *c, const uint8_t id[POOL_ID_SIZE])
{
	if (name_id_is_null(id))
		return;
	if (c->nr_lost < NAME_ROWS_CHANGED)
		memcpy(c->lost[c->nr_lost++], id, POOL_ID_SIZE);
	else
		c->other = true;
}

static void note_new(struct name_changes *c, const struct name_row *row)
{
	c->other = c->other || is_kept_for_others(row);
	if (!(row->flags & NAME_ROW_MEMBER))
		return;
	if (c->nr_members == NAME_ROWS_CHANGED) {
		c->other = true;
		return;
	}
	c->members[c->nr_members].path = row->path;
	memcpy(c->members[c->nr_members++].below, row->below, POOL_ID_SIZE);
}

/* ---- loading and saving ---- */

bool name_rows_load(struct pool *p, struct name_rows *ret)
{
	struct head h;
	int fd = open_file(p, O_RDONLY);

	if (fd < 0)
		return false;
	ret->loaded = file_read(fd, &h, sizeof(h), 0, NULL) == 0 && is_believed(p, &h, &ret->dir) && read_rows(fd, &h, ret);
	ret->saved = ret->loaded;
	ret->swept = ret->loaded && was_swept(p, &h);
	ret->next = ret->loaded ? h.next : 0;
	for (size_t i = 0; i < ret->list.nr; i++)
		ret->highest = max_u64(ret->highest, ret->list.items[i].number);
	file_ops->close(fd);
	return ret->loaded;
}

void name_rows_spoil(struct pool *p)
{
	uint32_t no = 0;
	int fd = open_file(p, O_RDWR);

	if (fd < 0)
		return;
	/* What cannot be marked must go. */
	if (file_write(fd, &no, sizeof(no), offsetof(struct head, whole), NULL) < 0)
		file_unlink(p->dirs[POOL_INDEX], FILE_NAME, NULL);
	file_ops->close(fd);
}

/* Rows that went leave gaps, which are closed when they are many. */
static void close_gaps(struct name_rows *r)
{
	size_t nr = 0;

	for (size_t i = 0; i < r->list.nr; i++)
		nr += r->list.items[i].number != 0;
	if (nr >= r->list.nr / 2)
		return;
	nr = 0;
	for (size_t i = 0; i < r->list.nr; i++)
		if (r->list.items[i].number)
			r->list.items[nr++] = r->list.items[i];
	r->list.nr = nr;
	r->loaded = false;
}

static int write_rows(int fd, const struct name_rows *r, size_t from, size_t nr)
{
	const struct name_row *rows = r->list.items + from;

	return nr ? file_write(fd, rows, nr * sizeof(*rows), sizeof(struct head) + from * sizeof(*rows), NULL) : 0;
}

static int write_changed(int fd, const struct name_rows *r)
{
	if (!r->loaded || r->nr_changed > NAME_ROWS_CHANGED)
		return write_rows(fd, r, 0, r->list.nr);
	for (size_t i = 0; i < r->nr_changed; i++)
		if (write_rows(fd, r, r->changed[i], 1) < 0)
			return -1;
	return 0;
}

void name_rows_save(struct pool *p, struct name_rows *r)
{
	struct head h;
	int fd;

	if (r->saved || !r->next || r->unsure || r->nr_beside || r->list.nr > ROWS_MAX / sizeof(struct name_row))
		return;
	close_gaps(r);
	if (!make_head(&r->dir, r->list.nr, r->next, &h))
		return;
	fd = open_file(p, O_RDWR | O_CREAT);
	if (fd < 0)
		return;
	if (needs_no_sweep(p, r))
		stat_sealed(p, &h);
	h.crc = sum_up(&h, r->list.items);
	if (write_changed(fd, r) == 0 && file_write(fd, &h, sizeof(h), 0, NULL) == 0) {
		r->saved = r->loaded = true;
		r->spoilt = false;
		r->nr_changed = 0;
	}
	file_ops->close(fd);
}

/* ---- rows ---- */

static bool same_time(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

bool name_rows_are_current(const struct pool *p, const struct name_rows *r)
{
	struct stat st;

	return file_ops->fstat(p->dirs[POOL_NAMES], &st) == 0 && st.st_ino == r->dir.st_ino && st.st_dev == r->dir.st_dev &&
	       same_time(&st.st_ctim, &r->dir.st_ctim) && same_time(&st.st_mtim, &r->dir.st_mtim);
}

int name_rows_note_time(const struct pool *p, struct name_rows *r, struct err *err)
{
	return file_ops->fstat(p->dirs[POOL_NAMES], &r->dir) < 0 ? err_errno(err, "cannot stat the names") : 0;
}

/* FNV-1a: no more than a hint. */
uint64_t name_row_hash(const char *text)
{
	uint64_t h = UINT64_C(0xcbf29ce484222325);

	for (; *text; text++)
		h = (h ^ (uint8_t)*text) * UINT64_C(0x100000001b3);
	return h;
}

static void note_changed(struct name_rows *r, size_t i)
{
	r->saved = false;
	if (r->nr_changed < NAME_ROWS_CHANGED)
		r->changed[r->nr_changed] = i;
	if (r->nr_changed <= NAME_ROWS_CHANGED)
		r->nr_changed++;
}

/* In a gap, if there is one that was made just now: what is replaced stays where it was. */
static int add_row(struct name_rows *r, const struct name_row *row, struct err *err)
{
	for (size_t i = 0; i < r->nr_changed && i < NAME_ROWS_CHANGED; i++)
		if (r->list.items[r->changed[i]].number == 0) {
			r->list.items[r->changed[i]] = *row;
			return 0;
		}
	if (vec_push(&r->list, *row) < 0)
		return err_set(err, ERR_MEMORY, "no memory for the names of a pool");
	note_changed(r, r->list.nr - 1);
	return 0;
}

int name_rows_add(struct name_rows *r, const struct name *n, struct err *err)
{
	uint32_t flags = (n->kind == NAME_MEMBER ? NAME_ROW_MEMBER : 0) | (name_is_settled(n) ? 0 : NAME_ROW_PENDING);

	r->highest = max_u64(r->highest, n->number);
	for (size_t i = 0; i < n->disks.nr; i++) {
		const struct name_disk *d = &n->disks.items[i];
		struct name_row row = { .number = n->number, .path = name_row_hash(d->path) };

		row.label = *n->label ? (uint32_t)name_row_hash(n->label) | 1 : 0;
		row.flags = flags | (d->folded ? NAME_ROW_FOLDED : 0);
		memcpy(row.sealed, d->sealed, POOL_ID_SIZE);
		memcpy(row.below, d->below, POOL_ID_SIZE);
		note_new(&r->changes, &row);
		if (add_row(r, &row, err) < 0)
			return -1;
	}
	return 0;
}

void name_rows_remove(struct name_rows *r, uint64_t number)
{
	if (number > r->highest)
		return;
	for (size_t i = 0; i < r->list.nr; i++)
		if (r->list.items[i].number == number) {
			note_lost(&r->changes, r->list.items[i].sealed);
			note_lost(&r->changes, r->list.items[i].below);
			r->list.items[i] = (struct name_row){ .number = 0 };
			note_changed(r, i);
		}
}
