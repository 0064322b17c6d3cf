/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/versions_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <time.h>

#include "compactor/workshop.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/image/image.h"
#include "scanner/noted.h"

/* Which versions there are, and which are to go. */

#define BLOCK 512

static bool is_version(const struct name *n)
{
	return n->kind == NAME_VERSION && *n->label && name_is_settled(n);
}

static int no_member(const struct pool *p, const char *path, struct err *err)
{
	return err_set(err, ERR_USAGE, "'%s' is no image of the pool '%s'", path, p->path);
}

/* ---- listing ---- */

struct listing {
	struct pool *pool;
	const char *path, *now; /* where the pool knows the image; where it is, when that is another path */
	struct path_list replaced; /* members whose path another one has by now */
	int (*call)(void *ctx, const struct version_row *row, struct err *err);
	int (*damaged)(void *ctx, uint64_t number, const struct err *why, struct err *err);
	void *ctx;
	unsigned nr_listed, nr_damaged;
};

/* Disk space of the member's file; false = none is there. */
static bool look_at_member(struct pool *p, const char *path, uint64_t *ret)
{
	char base[NAME_MAX + 1];
	struct err why = ERR_INIT;
	int dirfd = member_open_dir(p, path, base, &why);
	struct stat st;
	bool elsewhere = why.kind == ERR_UNSUPPORTED; /* on another file system than the pool */
	bool there = (dirfd >= 0 || elsewhere) &&
		     file_ops->fstatat(elsewhere ? AT_FDCWD : dirfd, elsewhere ? path : base, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
		     S_ISREG(st.st_mode);

	if (dirfd >= 0)
		file_ops->close(dirfd);
	*ret = there ? (uint64_t)st.st_blocks * BLOCK : 0;
	return there;
}

static uint64_t sealed_bytes(struct pool *p, const struct name_disk *d)
{
	char name[POOL_FILE_NAME_ROOM];
	struct stat st;

	if (d->folded || file_ops->fstatat(p->dirs[POOL_SEALED], pool_id_file_name(d->sealed, name), &st, AT_SYMLINK_NOFOLLOW) < 0)
		return 0;
	return (uint64_t)st.st_blocks * BLOCK;
}

static int add_replaced(void *ctx, const struct name *newer, const struct name *n, struct err *err)
{
	(void)newer;
	return path_list_add(ctx, n->number, "", err);
}

static bool is_replaced(const struct listing *l, uint64_t number)
{
	for (size_t i = 0; i < l->replaced.items.nr; i++)
		if (l->replaced.items.items[i].number == number)
			return true;
	return false;
}

static int list_disk(struct listing *l, const struct name *n, const struct name_disk *d, struct err *err)
{
	struct version_row row = { .name = n, .disk = d };
	struct name_disk moved;

	if (l->now) {
		moved = *d;
		snprintf(moved.path, sizeof(moved.path), "%s", l->now);
		row.disk = &moved;
	}
	if (n->kind == NAME_MEMBER)
		row.there = !is_replaced(l, n->number) && look_at_member(l->pool, row.disk->path, &row.own_bytes);
	else
		row.own_bytes = sealed_bytes(l->pool, d);
	row.changed = n->kind == NAME_VERSION && seal_was_written(l->pool, d);
	l->nr_listed++;
	return l->call(l->ctx, &row, err);
}

static int list_name(void *ctx, const struct name *n, struct err *err)
{
	struct listing *l = ctx;
	int rc = 0;

	if (n->kind != NAME_MEMBER && !is_version(n))
		return 0;
	for (size_t i = 0; rc == 0 && i < n->disks.nr; i++)
		if (!l->path || strcmp(n->disks.items[i].path, l->path) == 0)
			rc = list_disk(l, n, &n->disks.items[i], err);
	return rc;
}

static int list_damaged(void *ctx, uint64_t number, const struct err *why, struct err *err)
{
	struct listing *l = ctx;

	l->nr_damaged++;
	return l->damaged(l->ctx, number, why, err);
}

static int find_moved(struct listing *l, char was[PATH_MAX], struct err *err)
{
	int rc = l->path ? versions_moved_from(l->pool, l->path, was, err) : 0;

	if (rc > 0) {
		l->now = l->path;
		l->path = was;
	}
	return rc < 0 ? -1 : versions_each_replaced(l->pool, add_replaced, &l->replaced, err);
}

/* Where names are damaged it cannot be told what has moved. */
int versions_list(struct pool *p, const char *path, int (*call)(void *ctx, const struct version_row *row, struct err *err),
		  int (*damaged)(void *ctx, uint64_t number, const struct err *why, struct err *err), void *ctx, struct err *err)
{
	struct listing l = { .pool = p, .path = path, .call = call, .damaged = damaged, .ctx = ctx };
	struct err why = ERR_INIT;
	char was[PATH_MAX];
	bool known = find_moved(&l, was, &why) == 0;
	int rc = known || damaged ? names_each_or(p, list_name, damaged ? list_damaged : NULL, &l, err) : 0;

	if (rc == 0 && !known && !l.nr_damaged)
		rc = err_set(err, why.kind, "%s", why.text);
	if (rc == 0 && path && !l.nr_listed && !l.nr_damaged)
		rc = no_member(p, path, err);
	path_list_release(&l.replaced);
	return rc;
}

/* ---- images that are gone ---- */

/* A qcow2 image without any backing file: it was expanded, say. */
static bool has_no_backing(int fd)
{
	struct qcow2_header_disk d;
	struct slice s;
	uint64_t size;

	return overlay_backing(fd, &s, &size, NULL) == 0 && file_read(fd, &d, sizeof(d), 0, NULL) == 0 &&
	       be64_get(d.backing_file_offset) == 0 && be32_get(d.backing_file_size) == 0;
}

/* An image of another format, by its name and what is in it, where no overlay was put: the original was put back, say. */
static bool is_of_other_format(int fd, const char *path)
{
	struct image_file f = { .fd = fd, .path = (char *)(uintptr_t)path };
	struct image_choice c;

	return !noted_at_all(fd) && image_file_size(fd, &f.size, NULL) == 0 && image_choose(&f, &c, NULL) == 0 &&
	       c.certainty == IMAGE_AGREED && strcmp(c.format->name, "qcow2") != 0;
}

/* What is damaged may be a member. */
static bool stands_alone(int dirfd, const char *base)
{
	int fd = file_open(dirfd, base, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, NULL);
	bool alone;

	if (fd < 0)
		return false;
	alone = has_no_backing(fd) || is_of_other_format(fd, base);
	file_ops->close(fd);
	return alone;
}

/* For certain: its directory can be looked into, or is gone itself; or what is there stands on no pool any more. */
static bool is_gone(struct pool *p, const char *path)
{
	char base[NAME_MAX + 1];
	struct err why = ERR_INIT;
	int dirfd = member_open_dir(p, path, base, &why);
	struct stat st;
	bool gone;

	if (dirfd < 0)
		return why.errnum == ENOENT;
	gone = file_ops->fstatat(dirfd, base, &st, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT;
	gone = gone || stands_alone(dirfd, base);
	file_ops->close(dirfd);
	return gone;
}

static int add_member(void *ctx, const struct name *n, struct err *err)
{
	return n->kind == NAME_MEMBER ? path_list_add(ctx, n->number, n->disks.items[0].path, err) : 0;
}

/* By path, the newest first. */
static int compare_paths(const void *a, const void *b)
{
	const struct path_of *x = a, *y = b;
	int rc = strcmp(x->path, y->path);

	return rc ? rc : x->number > y->number ? -1 : x->number < y->number;
}

/* Who expands works in the image's own directory. */
static bool is_kept(const struct name_disk *d, int dirfd)
{
	return d->expanded.inode && workshop_has(dirfd, d->expanded.original, NULL) != 0;
}

static bool keeps_original(struct pool *p, const struct name_disk *d)
{
	char base[NAME_MAX + 1];
	CLEANUP(close_fd) int dirfd = member_open_any_dir(p, d->path, base, NULL);

	return dirfd >= 0 && is_kept(d, dirfd);
}

static int tell_of(struct pool *p, uint64_t number, int (*call)(void *ctx, const struct name *n, struct err *err), void *ctx,
		   struct err *err)
{
	CLEANUP(name_release) struct name n = { .number = 0 };
	int rc = member_find_number(p, number, &n, err);

	if (rc <= 0)
		return rc;
	return keeps_original(p, &n.disks.items[0]) ? 0 : call(ctx, &n, err);
}

int versions_each_gone(struct pool *p, int (*call)(void *ctx, const struct name *n, struct err *err), void *ctx, struct err *err)
{
	CLEANUP(path_list_release) struct path_list l = { .items = VEC_INIT };
	int rc = names_each(p, add_member, &l, err);

	if (rc == 0 && l.items.nr)
		qsort(l.items.items, l.items.nr, sizeof(*l.items.items), compare_paths);
	for (size_t i = 0; rc == 0 && i < l.items.nr; i++) {
		const struct path_of *x = &l.items.items[i];

		if ((i && strcmp(x[-1].path, x->path) == 0) || is_gone(p, x->path))
			rc = tell_of(p, x->number, call, ctx, err);
	}
	return rc;
}

/* ---- images that were expanded ---- */

/* Else the original went back, and may have been moved then. */
static bool is_in_place(const struct name_disk *d, int dirfd, const char *base)
{
	struct file_birth is;

	return file_birth(dirfd, base, &is) && is.ino == d->expanded.inode && is.born == d->expanded.born &&
	       stands_alone(dirfd, base);
}

/* The workshop is looked at first: what was not there any more went back before, or is gone. */
static bool is_expanded(struct pool *p, const struct name_disk *d)
{
	char base[NAME_MAX + 1];
	CLEANUP(close_fd) int dirfd = member_open_any_dir(p, d->path, base, NULL);

	return dirfd >= 0 && !is_kept(d, dirfd) && is_in_place(d, dirfd, base);
}

static int add_expanded(void *ctx, const struct name *n, struct err *err)
{
	return n->kind == NAME_MEMBER && n->disks.items[0].expanded.inode ? path_list_add(ctx, n->number, "", err) : 0;
}

int versions_each_expanded(struct pool *p, int (*call)(void *ctx, const struct name *n, struct err *err), void *ctx,
			   struct err *err)
{
	CLEANUP(path_list_release) struct path_list l = { .items = VEC_INIT };
	int rc = names_each(p, add_expanded, &l, err);

	for (size_t i = 0; rc == 0 && i < l.items.nr; i++) {
		CLEANUP(name_release) struct name n = { .number = 0 };

		rc = member_find_number(p, l.items.items[i].number, &n, err);
		if (rc > 0)
			rc = is_expanded(p, &n.disks.items[0]) ? call(ctx, &n, err) : 0;
	}
	return rc;
}

/* ---- tidying ---- */

struct tidying {
	struct pool *pool;
	struct pool_ids stood_on; /* sealed overlays on which others stand */
	bool changed;
};

static int find_stood_on(void *ctx, const struct name *n, struct err *err)
{
	struct tidying *t = ctx;

	for (size_t i = 0; i < n->disks.nr; i++) {
		const struct name_disk *d = &n->disks.items[i];

		if (!name_id_is_null(d->below) && (n->kind == NAME_MEMBER || !name_id_is_null(d->sealed)) &&
		    pool_ids_add(&t->stood_on, d->below, err) < 0)
			return -1;
	}
	return 0;
}

/* Forgets in n what is not needed; true = something was. */
static bool tidy_disks(const struct tidying *t, struct name *n)
{
	size_t nr = 0, nr_before = n->disks.nr;
	bool changed = false;

	for (size_t i = 0; i < n->disks.nr; i++) {
		struct name_disk *d = &n->disks.items[i];
		bool needed = !name_id_is_null(d->sealed) && pool_ids_has(&t->stood_on, d->sealed);

		if (d->folded && !name_id_is_null(d->sealed) && !needed) {
			memset(d->sealed, 0, POOL_ID_SIZE);
			memset(d->below, 0, POOL_ID_SIZE);
			seal_forget(d);
			changed = true;
		}
		if (*n->label || needed)
			n->disks.items[nr++] = *d;
	}
	n->disks.nr = nr;
	return changed || nr != nr_before;
}

static int tidy_name(void *ctx, const struct name *n, struct err *err)
{
	CLEANUP(name_release) struct name copy = { .number = 0 };
	struct tidying *t = ctx;

	if (n->kind != NAME_VERSION || !name_is_settled(n))
		return 0;
	if (name_copy(n, &copy, err) < 0)
		return -1;
	if (!tidy_disks(t, &copy))
		return 0;
	t->changed = true;
	return copy.disks.nr ? names_replace(t->pool, n->number, &copy, err) : names_remove(t->pool, n->number, err);
}

/* Whether there is anything that tidy_disks() would forget, as far as the rows of names tell. */
static int needs_tidying(struct pool *p, struct err *err)
{
	struct pool_ids stood_on = { .items = VEC_INIT };
	const struct name_row *rows;
	size_t nr;
	int rc = names_rows(p, &rows, &nr, err);

	for (size_t i = 0; rc == 0 && i < nr; i++)
		if (rows[i].number && !name_id_is_null(rows[i].below) &&
		    (rows[i].flags & NAME_ROW_MEMBER || !name_id_is_null(rows[i].sealed)))
			rc = pool_ids_add(&stood_on, rows[i].below, err);
	pool_ids_sort(&stood_on);
	for (size_t i = 0; rc == 0 && i < nr; i++) {
		bool sealed = !name_id_is_null(rows[i].sealed);

		if (!rows[i].number || rows[i].flags & (NAME_ROW_MEMBER | NAME_ROW_PENDING) ||
		    (sealed && pool_ids_has(&stood_on, rows[i].sealed)))
			continue;
		rc = !rows[i].label || (sealed && rows[i].flags & NAME_ROW_FOLDED);
	}
	pool_ids_release(&stood_on);
	return rc;
}

int versions_tidy(struct pool *p, struct err *err)
{
	struct tidying t = { .pool = p, .changed = true };
	int rc = needs_tidying(p, err);

	if (rc <= 0)
		return rc;
	rc = 0;

	/* What goes may have stood on others. */
	while (rc == 0 && t.changed) {
		t.changed = false;
		rc = names_each(p, find_stood_on, &t, err);
		pool_ids_sort(&t.stood_on);
		if (rc == 0)
			rc = names_each(p, tidy_name, &t, err);
		pool_ids_release(&t.stood_on);
	}
	return rc;
}

/* ---- deleting ---- */

/* Without its label: what nobody stands on goes then. */
static int drop(struct pool *p, struct name *n, struct err *err)
{
	*n->label = '\0';
	return names_replace(p, n->number, n, err);
}

int versions_delete(struct pool *p, const char *path, const char *label, struct err *err)
{
	CLEANUP(name_release) struct name n = { .number = 0 };
	int rc = *label ? names_find_version(p, path, label, &n, err) : 0;

	if (rc == 0)
		return err_set(err, ERR_USAGE, "there is no version '%s' of '%s'", label, path);
	if (rc < 0 || drop(p, &n, err) < 0)
		return -1;
	return versions_tidy(p, err);
}

/* ---- pruning ---- */

struct rule {
	const char *name, *period; /* strftime(3) */
	unsigned left;
	char last[32];
};

/* The rule that keeps it.  All of them are asked, as each counts its periods. */
static const char *kept_by(struct rule *rules, size_t nr, const struct name *n)
{
	time_t made = (time_t)n->made;
	const char *by = NULL;
	struct tm tm = { .tm_mday = 1 };

	localtime_r(&made, &tm);
	for (size_t i = 0; i < nr; i++) {
		struct rule *r = &rules[i];
		char period[32];

		strftime(period, sizeof(period), r->period, &tm);
		if (r->left == 0 || strcmp(period, r->last) == 0)
			continue;
		memcpy(r->last, period, sizeof(period));
		r->left--;
		by = by ? by : r->name;
	}
	return by;
}

struct pruning {
	const char *path;
	VEC(struct name) names; /* in order of number */
};

struct kept {
	const struct name *name;
	const char *by;
};

/* The newest first; the clock may have been wrong when one was made, or it was a snapshot within the image before. */
static int compare_made(const void *a, const void *b)
{
	const struct name *x = (*(struct kept *const *)a)->name, *y = (*(struct kept *const *)b)->name;

	if (x->made != y->made)
		return x->made > y->made ? -1 : 1;
	return x->number > y->number ? -1 : x->number < y->number;
}

static int add_version(void *ctx, const struct name *n, struct err *err)
{
	struct pruning *l = ctx;
	struct name copy;

	if (!is_version(n) || !name_find_disk(n, l->path))
		return 0;
	if (name_copy(n, &copy, err) < 0)
		return -1;
	if (vec_push(&l->names, copy) == 0)
		return 0;
	name_release(&copy);
	return err_set(err, ERR_MEMORY, "out of memory");
}

static void pruning_release(struct pruning *l)
{
	for (size_t i = 0; i < l->names.nr; i++)
		name_release(&l->names.items[i]);
	vec_release(&l->names);
}
CLEANUP_DEFINE_RELEASE(struct pruning, pruning_release)

/* The newest first. */
static void ask_rules(struct kept *const *order, size_t nr, const struct prune_options *o)
{
	struct rule rules[] = {
		{ "daily", "%Y-%m-%d", o->keep_daily, "" },
		{ "weekly", "%G-%V", o->keep_weekly, "" },
		{ "monthly", "%Y-%m", o->keep_monthly, "" },
		{ "yearly", "%Y", o->keep_yearly, "" },
	};

	for (size_t i = 0; i < nr; i++) {
		const char *by = kept_by(rules, ARRAY_SIZE(rules), order[i]->name);

		if (!order[i]->by)
			order[i]->by = by;
	}
}

/* Which rule keeps each, in order of number, to be freed; NULL = no memory.  Where a clock was wrong it is not clear which is the
 * newest: what one order or the other keeps stays. */
static struct kept *find_kept(const struct pruning *l, const struct prune_options *o)
{
	size_t nr = l->names.nr;
	CLEANUP(free) struct kept **order = calloc(nr + 1, sizeof(struct kept *));
	struct kept *kept = order ? calloc(nr + 1, sizeof(*kept)) : NULL;

	if (!kept)
		return NULL;
	for (size_t i = 0; i < nr; i++) {
		kept[i] = (struct kept){ &l->names.items[i], i + o->keep_last >= nr ? "last" : NULL };
		order[nr - 1 - i] = &kept[i];
	}
	ask_rules(order, nr, o);
	if (nr)
		qsort(order, nr, sizeof(struct kept *), compare_made);
	ask_rules(order, nr, o);
	return kept;
}

static int check_member(struct pool *p, const char *path, struct err *err)
{
	CLEANUP(name_release) struct name n = { .number = 0 };
	int rc = names_find_member(p, path, &n, err);

	return rc == 0 ? no_member(p, path, err) : rc < 0 ? -1 : 0;
}

int versions_prune(struct pool *p, const struct prune_options *o,
		   int (*tell)(void *ctx, const struct name *n, const char *kept_by, struct err *err), void *ctx, struct err *err)
{
	CLEANUP(pruning_release) struct pruning l = { .path = o->path };
	CLEANUP(free) struct kept *kept = NULL;

	if (!o->keep_last && !o->keep_daily && !o->keep_weekly && !o->keep_monthly && !o->keep_yearly)
		return err_set(err, ERR_USAGE, "nothing says what to keep; --keep-last, --keep-daily and the like do");
	if (names_each(p, add_version, &l, err) < 0 || (!l.names.nr && check_member(p, o->path, err) < 0))
		return -1;
	kept = find_kept(&l, o);
	if (!kept)
		return err_set(err, ERR_MEMORY, "out of memory");
	for (size_t i = l.names.nr; i-- > 0;) {
		struct name *n = &l.names.items[i];
		int rc = tell(ctx, n, kept[i].by, err);

		if (rc)
			return rc;
		if (o->apply && !kept[i].by && drop(p, n, err) < 0)
			return -1;
	}
	return o->apply ? versions_tidy(p, err) : 0;
}
