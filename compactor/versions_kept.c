/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/versions_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <time.h>

#include "compactor/pool/qcow2_writer.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"

/* Which versions there are, and which are to go. */

#define BLOCK 512

static bool is_version(const struct name *n)
{
	return n->kind == NAME_VERSION && *n->label && name_is_settled(n);
}

/* ---- listing ---- */

struct listing {
	struct pool *pool;
	const char *path;
	int (*call)(void *ctx, const struct version_row *row, struct err *err);
	void *ctx;
};

/* Disk space of the member's file; false = none is there. */
static bool look_at_member(struct pool *p, const char *path, uint64_t *ret)
{
	char base[NAME_MAX + 1];
	int dirfd = member_open_dir(p, path, base, NULL);
	struct stat st;
	bool there = dirfd >= 0 && file_ops->fstatat(dirfd, base, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode);

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

static int list_name(void *ctx, const struct name *n, struct err *err)
{
	const struct listing *l = ctx;
	int rc = 0;

	if (n->kind != NAME_MEMBER && !is_version(n))
		return 0;
	for (size_t i = 0; rc == 0 && i < n->disks.nr; i++) {
		struct version_row row = { .name = n, .disk = &n->disks.items[i] };

		if (l->path && strcmp(row.disk->path, l->path) != 0)
			continue;
		if (n->kind == NAME_MEMBER)
			row.there = look_at_member(l->pool, row.disk->path, &row.own_bytes);
		else
			row.own_bytes = sealed_bytes(l->pool, row.disk);
		rc = l->call(l->ctx, &row, err);
	}
	return rc;
}

int versions_list(struct pool *p, const char *path, int (*call)(void *ctx, const struct version_row *row, struct err *err),
		  void *ctx, struct err *err)
{
	return names_each(p, list_name, &(struct listing){ p, path, call, ctx }, err);
}

/* ---- images that came and went ---- */

/* A qcow2 image without any backing file: it was expanded, say.  One that is damaged may be a member. */
static bool stands_alone(int dirfd, const char *base)
{
	int fd = file_open(dirfd, base, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, NULL);
	struct qcow2_header_disk d;
	struct slice s;
	uint64_t size;
	bool alone;

	if (fd < 0)
		return false;
	alone = overlay_backing(fd, &s, &size, NULL) == 0 && file_read(fd, &d, sizeof(d), 0, NULL) == 0 &&
		be64_get(d.backing_file_offset) == 0 && be32_get(d.backing_file_size) == 0;
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

static int tell_of(struct pool *p, uint64_t number, int (*call)(void *ctx, const struct name *n, struct err *err), void *ctx,
		   struct err *err)
{
	CLEANUP(name_release) struct name n = { .number = 0 };
	int rc = member_find_number(p, number, &n, err);

	return rc > 0 ? call(ctx, &n, err) : rc;
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

int versions_adopt(struct pool *p, const char *path, struct err *err)
{
	CLEANUP(name_release) struct name n = { .kind = NAME_MEMBER };
	CLEANUP(name_release) struct name old = { .number = 0 };
	struct name_disk d = { .size = 0 };
	struct standing standing;
	int rc;

	if (path[0] != '/' || strlen(path) >= sizeof(d.path))
		return err_set(err, ERR_USAGE, "'%s' is no absolute path", path);
	strcpy(d.path, path);
	rc = names_find_member(p, path, &old, err);
	if (rc)
		return rc < 0 ? -1 : 0;
	rc = member_look(p, path, &standing, err);
	if (rc <= 0)
		return rc;
	if (member_describe(p, &standing, &d, err) < 0)
		return -1;
	if (vec_push(&n.disks, d) < 0)
		return err_set(err, ERR_MEMORY, "out of memory");
	return names_publish(p, &n, true, err) < 0 ? -1 : 1;
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

int versions_tidy(struct pool *p, struct err *err)
{
	struct tidying t = { .pool = p, .changed = true };
	int rc = 0;

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
static const char *kept_by(struct rule *rules, size_t nr, const struct name *n, unsigned *last)
{
	time_t made = (time_t)n->made;
	const char *by = NULL;
	struct tm tm = { .tm_mday = 1 };

	localtime_r(&made, &tm);
	if (*last) {
		--*last;
		by = "last";
	}
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
	VEC(struct name) names;
};

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

int versions_prune(struct pool *p, const struct prune_options *o,
		   int (*tell)(void *ctx, const struct name *n, const char *kept_by, struct err *err), void *ctx, struct err *err)
{
	CLEANUP(pruning_release) struct pruning l = { .path = o->path };
	struct rule rules[] = {
		{ "daily", "%Y-%m-%d", o->keep_daily, "" },
		{ "weekly", "%G-%V", o->keep_weekly, "" },
		{ "monthly", "%Y-%m", o->keep_monthly, "" },
		{ "yearly", "%Y", o->keep_yearly, "" },
	};
	unsigned last = o->keep_last;

	if (!o->keep_last && !o->keep_daily && !o->keep_weekly && !o->keep_monthly && !o->keep_yearly)
		return err_set(err, ERR_USAGE, "nothing says what to keep; --keep-last, --keep-daily and the like do");
	if (names_each(p, add_version, &l, err) < 0)
		return -1;
	for (size_t i = l.names.nr; i-- > 0;) {
		struct name *n = &l.names.items[i];
		const char *by = kept_by(rules, ARRAY_SIZE(rules), n, &last);
		int rc = tell(ctx, n, by, err);

		if (rc)
			return rc;
		if (o->apply && !by && drop(p, n, err) < 0)
			return -1;
	}
	return o->apply ? versions_tidy(p, err) : 0;
}
