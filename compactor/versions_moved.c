/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/versions_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "scanner/base/file.h"

/* Images that were moved: the pool knows them, and their versions, by the path that they had.
 *
 * Versions get their new path before the member does.  So whoever is stopped between finds the member gone, and the same image to
 * be it, once more. */

/* ---- other paths ---- */

struct renaming {
	struct pool *pool;
	enum name_kind kind;
	const char *(*renamed)(void *ctx, const char *path);
	void *ctx;
};

static int rename_disks(void *ctx, const struct name *n, struct err *err)
{
	CLEANUP(name_release) struct name copy = { .number = 0 };
	const struct renaming *r = ctx;
	bool changed = false;

	if (n->kind != r->kind)
		return 0;
	if (name_copy(n, &copy, err) < 0)
		return -1;
	for (size_t i = 0; i < copy.disks.nr; i++) {
		const char *path = r->renamed(r->ctx, n->disks.items[i].path);

		if (!path || strlen(path) >= sizeof(copy.disks.items[i].path))
			continue;
		strcpy(copy.disks.items[i].path, path);
		changed = true;
	}
	return changed ? names_replace(r->pool, n->number, &copy, err) : 0;
}

int versions_rename(struct pool *p, const char *(*renamed)(void *ctx, const char *path), void *ctx, struct err *err)
{
	struct renaming r = { .pool = p, .kind = NAME_VERSION, .renamed = renamed, .ctx = ctx };

	if (names_each(p, rename_disks, &r, err) < 0)
		return -1;
	r.kind = NAME_MEMBER;
	return names_each(p, rename_disks, &r, err);
}

/* ---- who was moved ---- */

struct search {
	const struct standing *standing;
	struct path_list *found;
};

static bool stands_so(const struct name_disk *d, const struct standing *s)
{
	return pool_id_same(d->below, s->below) && (!name_id_is_null(s->below) || pool_id_same(d->view, s->view));
}

static int find_standing(void *ctx, const struct name *n, struct err *err)
{
	struct search *s = ctx;

	if (n->kind != NAME_MEMBER || !stands_so(&n->disks.items[0], s->standing))
		return 0;
	return path_list_add(s->found, n->number, n->disks.items[0].path, err);
}

/* 1, 0, -1 = nobody can tell.  Members have paths without links: what is behind one is not there. */
static int nothing_is_at(struct pool *p, const char *path, struct err *err)
{
	char base[NAME_MAX + 1];
	struct err why = ERR_INIT;
	int dirfd = member_open_dir(p, path, base, &why), rc;
	struct stat st;

	if (dirfd < 0 && (why.errnum == ENOENT || why.errnum == ENOTDIR || why.errnum == ELOOP))
		return 1;
	if (dirfd < 0)
		return why.kind != ERR_IO && why.kind != ERR_MEMORY ? 0 : err_set(err, why.kind, "'%s': %s", path, why.text);
	rc = file_ops->fstatat(dirfd, base, &st, AT_SYMLINK_NOFOLLOW) == 0 ? 0 :
	     errno == ENOENT ? 1 : err_errno(err, "cannot look at '%s'", path);
	file_ops->close(dirfd);
	return rc;
}

/* An image, by its member, which has the versions of its path with numbers between those of the members before and after it. */
struct former {
	const char *path;
	uint64_t member, after, before;
};

/* Rows have the path as a hash. */
static int find_neighbours(struct pool *p, struct former *f, struct err *err)
{
	const struct name_row *rows, *own = NULL;
	size_t nr;

	f->after = 0;
	f->before = UINT64_MAX;
	if (names_rows(p, &rows, &nr, err) < 0)
		return -1;
	for (size_t i = 0; i < nr; i++)
		if (rows[i].number == f->member)
			own = &rows[i];
	for (size_t i = 0; own && i < nr; i++) {
		if (!rows[i].number || !(rows[i].flags & NAME_ROW_MEMBER) || rows[i].path != own->path)
			continue;
		if (rows[i].number < f->member && rows[i].number > f->after)
			f->after = rows[i].number;
		if (rows[i].number > f->member && rows[i].number < f->before)
			f->before = rows[i].number;
	}
	return 0;
}

/* Of several the one that has the same name in another directory: 1, 0 = it is not clear which, or there is none (ret->path is
 * NULL), -1.  `replaced`: those at whose paths others are members by now; else those at whose paths nothing is. */
static int choose(struct pool *p, const struct path_list *l, const char *path, bool replaced, struct former *ret, struct err *err)
{
	unsigned nr_gone = 0, nr_same = 0;

	ret->path = NULL;
	for (size_t i = 0; i < l->items.nr; i++) {
		struct former f = { .path = l->items.items[i].path, .member = l->items.items[i].number };
		bool same = strcmp(file_last_part(f.path), file_last_part(path)) == 0;
		int rc = find_neighbours(p, &f, err);

		if (rc == 0 && (f.before != UINT64_MAX) == replaced)
			rc = replaced ? 1 : nothing_is_at(p, f.path, err);
		if (rc < 0)
			return -1;
		if (rc == 0 || (nr_same && !same))
			continue;
		nr_gone++;
		nr_same += same;
		*ret = f;
	}
	return nr_same == 1 || (!nr_same && nr_gone == 1);
}

/* *l has the paths. */
static int find_former(struct pool *p, const char *path, const struct standing *standing, bool replaced_too, struct path_list *l,
		       struct former *ret, struct err *err)
{
	struct search s = { .standing = standing, .found = l };
	int rc = names_each(p, find_standing, &s, err);

	if (rc == 0)
		rc = choose(p, l, path, false, ret, err);
	return rc == 0 && !ret->path && replaced_too ? choose(p, l, path, true, ret, err) : rc;
}

int versions_was_at(struct pool *p, const char *path, const struct standing *standing, char ret[PATH_MAX], struct err *err)
{
	CLEANUP(path_list_release) struct path_list l = { .items = VEC_INIT };
	struct former was;
	int rc = find_former(p, path, standing, true, &l, &was, err);

	if (rc > 0)
		snprintf(ret, PATH_MAX, "%s", was.path);
	return rc;
}

/* Its path tells readers which versions are its: not where others are now. */
int versions_moved_from(struct pool *p, const char *path, char ret[PATH_MAX], struct err *err)
{
	CLEANUP(path_list_release) struct path_list l = { .items = VEC_INIT };
	CLEANUP(name_release) struct name known = { .number = 0 };
	struct former was;
	struct standing standing;
	int rc = names_find_member(p, path, &known, err);

	if (rc)
		return rc < 0 ? -1 : 0;
	rc = member_look(p, path, &standing, err);
	if (rc > 0)
		rc = find_former(p, path, &standing, false, &l, &was, err);
	if (rc > 0)
		snprintf(ret, PATH_MAX, "%s", was.path);
	return rc;
}

/* ---- noting them ---- */

static int publish_new(struct pool *p, const char *path, const struct standing *standing, struct err *err)
{
	CLEANUP(name_release) struct name n = { .kind = NAME_MEMBER };
	struct name_disk d = { .size = 0 };

	strcpy(d.path, path);
	if (member_describe(p, standing, &d, err) < 0)
		return -1;
	if (vec_push(&n.disks, d) < 0)
		return err_set(err, ERR_MEMORY, "out of memory");
	return names_publish(p, &n, true, err);
}

struct move {
	struct pool *pool;
	const struct former *was;
	const char *to;
	enum name_kind kind;
};

static int move_disks(void *ctx, const struct name *n, struct err *err)
{
	CLEANUP(name_release) struct name copy = { .number = 0 };
	const struct move *m = ctx;
	bool its = n->kind == NAME_MEMBER ? n->number == m->was->member :
					    n->number > m->was->after && n->number < m->was->before;
	bool changed = false;

	if (n->kind != m->kind || !its)
		return 0;
	if (name_copy(n, &copy, err) < 0)
		return -1;
	for (size_t i = 0; i < copy.disks.nr; i++) {
		if (strcmp(copy.disks.items[i].path, m->was->path) != 0)
			continue;
		strcpy(copy.disks.items[i].path, m->to);
		changed = true;
	}
	return changed ? names_replace(m->pool, n->number, &copy, err) : 0;
}

int versions_adopt_as(struct pool *p, const char *path, const struct standing *standing, char ret_was[PATH_MAX], struct err *err)
{
	CLEANUP(path_list_release) struct path_list l = { .items = VEC_INIT };
	struct former was = { .path = "" };
	struct move m = { .pool = p, .was = &was, .to = path, .kind = NAME_VERSION };
	int rc;

	*ret_was = '\0';
	if (path[0] != '/' || strlen(path) >= PATH_MAX)
		return err_set(err, ERR_USAGE, "'%s' is no absolute path", path);
	rc = find_former(p, path, standing, true, &l, &was, err);
	if (rc <= 0)
		return rc < 0 ? -1 : publish_new(p, path, standing, err);
	snprintf(ret_was, PATH_MAX, "%s", was.path);
	if (names_each(p, move_disks, &m, err) < 0)
		return -1;
	m.kind = NAME_MEMBER;
	return names_each(p, move_disks, &m, err);
}

int versions_check_names(struct pool *p, const char *path, struct err *err)
{
	CLEANUP(name_release) struct name known = { .number = 0 };
	struct standing standing;
	struct stat st;
	int rc = names_find_member(p, path, &known, err);

	if (rc)
		return rc < 0 ? -1 : 0;
	rc = member_look(p, path, &standing, err);
	if (rc <= 0 || file_ops->fstatat(AT_FDCWD, path, &st, AT_SYMLINK_NOFOLLOW) < 0 || st.st_nlink == 1)
		return rc < 0 ? -1 : 0;
	return err_set(err, ERR_REFUSED, "image '%s': it has %u names (hard links), of which only one would be changed", path,
		       (unsigned)st.st_nlink);
}

int versions_adopt(struct pool *p, const char *path, struct err *err)
{
	CLEANUP(name_release) struct name known = { .number = 0 };
	struct standing standing;
	char was[PATH_MAX];
	int rc = names_find_member(p, path, &known, err);

	if (rc)
		return rc < 0 ? -1 : 0;
	rc = member_look(p, path, &standing, err);
	if (rc <= 0)
		return rc;
	return versions_adopt_as(p, path, &standing, was, err) < 0 ? -1 : 1;
}

/* ---- when a sealed overlay was written to ---- */

struct noting_time {
	struct pool *pool;
	const uint8_t *sealed;
	uint64_t written;
};

static bool row_has_it(void *ctx, const struct name_row *row)
{
	const struct noting_time *x = ctx;

	return pool_id_same(row->sealed, x->sealed);
}

static int note_time(void *ctx, const struct name *n, struct err *err)
{
	CLEANUP(name_release) struct name copy = { .number = 0 };
	const struct noting_time *x = ctx;
	bool changed = false;

	if (name_copy(n, &copy, err) < 0)
		return -1;
	for (size_t i = 0; i < copy.disks.nr; i++) {
		struct name_disk *d = &copy.disks.items[i];

		if (d->folded || d->inode || d->written == x->written || !pool_id_same(d->sealed, x->sealed))
			continue;
		d->written = x->written;
		changed = true;
	}
	return changed ? names_replace(x->pool, n->number, &copy, err) : 0;
}

int versions_note_written(struct pool *p, const uint8_t sealed[POOL_ID_SIZE], uint64_t written, struct err *err)
{
	return names_each_row(p, row_has_it, note_time, &(struct noting_time){ p, sealed, written }, err);
}

/* ---- members whose place a clone took ---- */

struct pair {
	uint64_t path, number;
};

struct pairs {
	VEC(struct pair) items;
};

static void pairs_release(struct pairs *l)
{
	vec_release(&l->items);
}
CLEANUP_DEFINE_RELEASE(struct pairs, pairs_release)

/* By hash of the path, the newest first. */
static int compare_pairs(const void *a, const void *b)
{
	const struct pair *x = a, *y = b;

	if (x->path != y->path)
		return x->path < y->path ? -1 : 1;
	return x->number > y->number ? -1 : x->number < y->number;
}

static int find_members(struct pool *p, struct pairs *ret, struct err *err)
{
	const struct name_row *rows;
	size_t nr;

	if (names_rows(p, &rows, &nr, err) < 0)
		return -1;
	for (size_t i = 0; i < nr; i++) {
		struct pair x = { rows[i].path, rows[i].number };

		if (x.number && rows[i].flags & NAME_ROW_MEMBER && vec_push(&ret->items, x) < 0)
			return err_set(err, ERR_MEMORY, "out of memory");
	}
	if (ret->items.nr)
		qsort(ret->items.items, ret->items.nr, sizeof(*ret->items.items), compare_pairs);
	return 0;
}

static int call_for(struct pool *p, uint64_t newer, uint64_t number, versions_replaced *call, void *ctx, struct err *err)
{
	CLEANUP(name_release) struct name a = { .number = 0 }, b = { .number = 0 };
	int rc = names_find_number(p, newer, &a, err);

	if (rc > 0)
		rc = names_find_number(p, number, &b, err);
	if (rc <= 0 || strcmp(a.disks.items[0].path, b.disks.items[0].path) != 0)
		return rc < 0 ? -1 : 0;
	return call(ctx, &a, &b, err);
}

int versions_each_replaced(struct pool *p, versions_replaced *call, void *ctx, struct err *err)
{
	CLEANUP(pairs_release) struct pairs l = { .items = VEC_INIT };
	int rc = find_members(p, &l, err);

	for (size_t i = 1; rc == 0 && i < l.items.nr; i++)
		if (l.items.items[i - 1].path == l.items.items[i].path)
			rc = call_for(p, l.items.items[i - 1].number, l.items.items[i].number, call, ctx, err);
	return rc;
}

/* What the newer one does not keep may be what an image needs that was moved from there. */
static int drop_replaced(void *ctx, const struct name *newer, const struct name *n, struct err *err)
{
	const struct name_disk *a = &newer->disks.items[0], *b = &n->disks.items[0];

	return pool_id_same(a->view, b->view) && pool_id_same(a->below, b->below) ? names_remove(ctx, n->number, err) : 0;
}

int versions_drop_replaced(struct pool *p, struct err *err)
{
	return names_replace_none(p) ? 0 : versions_each_replaced(p, drop_replaced, p, err);
}
