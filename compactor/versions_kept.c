/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/versions_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <time.h>

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

int versions_list(struct pool *p, const char *path, int (*call)(void *ctx, const struct version_row *row, struct err *err), void *ctx,
		  struct err *err)
{
	return names_each(p, list_name, &(struct listing){ p, path, call, ctx }, err);
}

/* ---- images that came and went ---- */

/* For certain: its directory can be looked into, or is gone itself. */
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
	file_ops->close(dirfd);
	return gone;
}

static bool is_newest(const struct name_list *l, size_t at)
{
	for (size_t i = at + 1; i < l->names.nr; i++)
		if (l->names.items[i].kind == NAME_MEMBER && strcmp(l->names.items[i].disks.items[0].path, l->names.items[at].disks.items[0].path) == 0)
			return false;
	return true;
}

int versions_each_gone(struct pool *p, int (*call)(void *ctx, const struct name *n, struct err *err), void *ctx, struct err *err)
{
	CLEANUP(name_list_release) struct name_list l = { .names = VEC_INIT };
	int rc = name_list_read(p, &l, err);

	for (size_t i = 0; rc == 0 && i < l.names.nr; i++)
		if (l.names.items[i].kind == NAME_MEMBER && (!is_newest(&l, i) || is_gone(p, l.names.items[i].disks.items[0].path)))
			rc = call(ctx, &l.names.items[i], err);
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

/* Somebody stands on it. */
static bool is_stood_on(const struct name_list *l, const uint8_t sealed[POOL_ID_SIZE])
{
	for (size_t i = 0; i < l->names.nr; i++)
		for (size_t j = 0; j < l->names.items[i].disks.nr; j++) {
			const struct name_disk *d = &l->names.items[i].disks.items[j];

			if (pool_id_same(d->below, sealed) && (l->names.items[i].kind == NAME_MEMBER || !name_id_is_null(d->sealed)))
				return true;
		}
	return false;
}

/* Forgets in n what is not needed; true = something was. */
static bool tidy_disks(const struct name_list *l, struct name *n)
{
	size_t nr = 0, nr_before = n->disks.nr;
	bool changed = false;

	for (size_t i = 0; i < n->disks.nr; i++) {
		struct name_disk *d = &n->disks.items[i];

		if (d->folded && !name_id_is_null(d->sealed) && !is_stood_on(l, d->sealed)) {
			memset(d->sealed, 0, POOL_ID_SIZE);
			memset(d->below, 0, POOL_ID_SIZE);
			changed = true;
		}
		if (*n->label || (!name_id_is_null(d->sealed) && is_stood_on(l, d->sealed)))
			n->disks.items[nr++] = *d;
	}
	n->disks.nr = nr;
	return changed || nr != nr_before;
}

static int tidy_once(struct pool *p, struct name_list *l, bool *ret_changed, struct err *err)
{
	*ret_changed = false;
	for (size_t i = 0; i < l->names.nr; i++) {
		struct name *n = &l->names.items[i];

		if (n->kind != NAME_VERSION || n->disks.nr == 0 || !name_is_settled(n) || !tidy_disks(l, n))
			continue;
		*ret_changed = true;
		if ((n->disks.nr ? names_replace(p, n->number, n, err) : names_remove(p, n->number, err)) < 0)
			return -1;
	}
	return 0;
}

int versions_tidy(struct pool *p, struct err *err)
{
	CLEANUP(name_list_release) struct name_list l = { .names = VEC_INIT };
	bool changed = true;

	if (name_list_read(p, &l, err) < 0)
		return -1;
	while (changed)
		if (tidy_once(p, &l, &changed, err) < 0)
			return -1;
	return 0;
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

int versions_prune(struct pool *p, const struct prune_options *o, int (*tell)(void *ctx, const struct name *n, const char *kept_by, struct err *err),
		   void *ctx, struct err *err)
{
	CLEANUP(name_list_release) struct name_list l = { .names = VEC_INIT };
	struct rule rules[] = {
		{ "daily", "%Y-%m-%d", o->keep_daily, "" },	{ "weekly", "%G-%V", o->keep_weekly, "" },
		{ "monthly", "%Y-%m", o->keep_monthly, "" }, { "yearly", "%Y", o->keep_yearly, "" },
	};
	unsigned last = o->keep_last;

	if (!o->keep_last && !o->keep_daily && !o->keep_weekly && !o->keep_monthly && !o->keep_yearly)
		return err_set(err, ERR_USAGE, "nothing says what to keep; --keep-last, --keep-daily and the like do");
	if (name_list_read(p, &l, err) < 0)
		return -1;
	for (size_t i = l.names.nr; i-- > 0;) {
		struct name *n = &l.names.items[i];
		const char *by;

		if (!is_version(n) || !name_find_disk(n, o->path))
			continue;
		by = kept_by(rules, ARRAY_SIZE(rules), n, &last);
		if (tell(ctx, n, by, err) < 0 || (o->apply && !by && drop(p, n, err) < 0))
			return -1;
	}
	return o->apply ? versions_tidy(p, err) : 0;
}
