/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/versions_parts.h"

#include <errno.h>
#include <fcntl.h>

#include "compactor/pool/qcow2_writer.h"
#include "compactor/replace.h"
#include "compactor/sparse_copy.h"
#include "scanner/base/file.h"
#include "scanner/image/qcow2_format.h"

#define CHANGED ".changed"

/* What was sealed is folded into the pool in three steps, each whole by itself: its content is imported (by the caller), the
 * versions that have it are noted with its root, and the overlays that stand on it are made to stand on a view of that root.
 * Until the last one has done so the sealed overlay stays where it is. */

/* ---- what waits ---- */

/* What it stands on, as a root: 1, 0 = that waits itself, -1. */
static int find_base(struct pool *p, const struct name_disk *d, struct sealed_disk *ret, struct err *err)
{
	struct name_disk layer;
	struct view v;
	int rc;

	if (name_id_is_null(d->below)) {
		rc = view_find(p, d->view, &v, err);
		if (rc <= 0)
			return rc < 0 ? -1 : 1;
		memcpy(ret->base_root, v.root, DIGEST_SIZE);
		ret->base_size = v.disk_size;
	} else {
		rc = layer_find(p, d->below, &layer, err);
		if (rc <= 0 || !layer.folded)
			return rc < 0 ? -1 : 0;
		memcpy(ret->base_root, layer.root, DIGEST_SIZE);
		ret->base_size = layer.size;
	}
	ret->has_base = true;
	return 1;
}

struct waiting {
	struct pool *pool;
	struct pool_ids *done;
	int (*call)(void *ctx, const struct sealed_disk *d, int fd, struct err *err);
	void (*left)(void *ctx, const struct sealed_disk *d, const struct err *why);
	void *ctx;
	bool any; /* was called for: others may stand on it */
};

static bool was_called(const struct pool_ids *done, const uint8_t id[POOL_ID_SIZE])
{
	for (size_t i = 0; i < done->items.nr; i++)
		if (pool_id_same(done->items.items[i].bytes, id))
			return true;
	return false;
}

/* For the call; -1: why not. */
static int open_whole(struct pool *p, const struct name_disk *d, struct err *err)
{
	struct err why = ERR_INIT;
	int fd = sealed_open(p, d->sealed, &why);

	if (fd >= 0 && seal_check(fd, d, &why) == 0)
		return fd;
	if (fd >= 0)
		file_ops->close(fd);
	if (why.kind == ERR_FORMAT || why.errnum == ENOENT)
		return err_set(err, ERR_FORMAT,
			       "what was sealed of it is damaged, and stays sealed: %s; put it back from a backup, or delete the "
			       "version",
			       why.text);
	return err_set(err, why.kind, "%s", why.text);
}

static int call_for(struct waiting *w, const struct name_disk *d, const struct sealed_disk *found, struct err *err)
{
	struct err why = ERR_INIT;
	int fd;

	if (pool_ids_add(w->done, d->sealed, err) < 0)
		return -1;
	w->any = true;
	fd = open_whole(w->pool, d, &why);
	if (fd >= 0)
		return w->call(w->ctx, found, fd, err);
	if (why.kind != ERR_BUSY && why.kind != ERR_FORMAT)
		return err_set(err, why.kind, "image '%s': %s", d->path, why.text);
	if (w->left)
		w->left(w->ctx, found, &why);
	return 0;
}

static bool row_waits(void *ctx, const struct name_row *row)
{
	(void)ctx;
	return !(row->flags & (NAME_ROW_MEMBER | NAME_ROW_PENDING | NAME_ROW_FOLDED)) && !name_id_is_null(row->sealed);
}

/* Those of a name whose base is known by now. */
static int call_for_disks(void *ctx, const struct name *n, struct err *err)
{
	struct waiting *w = ctx;
	int rc = 0;

	for (size_t j = 0; rc == 0 && n->kind == NAME_VERSION && name_is_settled(n) && j < n->disks.nr; j++) {
		const struct name_disk *d = &n->disks.items[j];
		struct sealed_disk found = { .size = d->size };

		if (d->folded || was_called(w->done, d->sealed))
			continue;
		memcpy(found.id, d->sealed, POOL_ID_SIZE);
		memcpy(found.path, d->path, sizeof(d->path));
		rc = find_base(w->pool, d, &found, err);
		if (rc > 0)
			rc = call_for(w, d, &found, err);
	}
	return rc;
}

int versions_each_sealed(struct pool *p, struct pool_ids *done,
			 int (*call)(void *ctx, const struct sealed_disk *d, int fd, struct err *err),
			 void (*left)(void *ctx, const struct sealed_disk *d, const struct err *why), void *ctx, struct err *err)
{
	struct waiting w = { .pool = p, .done = done, .call = call, .left = left, .ctx = ctx };
	int rc;

	do {
		w.any = false;
		rc = names_each_row(p, row_waits, call_for_disks, &w, err);
	} while (rc == 0 && w.any);
	return rc;
}

struct noting {
	struct pool *pool;
	const uint8_t *sealed, *root;
	const struct view *view;
};

/* It is not what it was called. */
static void call_changed(struct name *n)
{
	size_t len = strlen(n->label), most = sizeof(n->label) - sizeof(CHANGED);

	if (len)
		strcpy(n->label + (len < most ? len : most), CHANGED);
}

static int note_folded(void *ctx, const struct name *n, struct err *err)
{
	static const uint8_t none[POOL_ID_SIZE];
	CLEANUP(name_release) struct name copy = { .number = 0 };
	const struct noting *x = ctx;
	bool changed = false;

	if (n->kind != NAME_VERSION)
		return 0;
	if (name_copy(n, &copy, err) < 0)
		return -1;
	for (size_t i = 0; i < copy.disks.nr; i++) {
		struct name_disk *d = &copy.disks.items[i];

		if (d->folded || !pool_id_same(d->sealed, x->sealed))
			continue;
		if (seal_was_written(x->pool, d))
			call_changed(&copy);
		seal_forget(d);
		d->folded = changed = true;
		memcpy(d->root, x->root, DIGEST_SIZE);
		memcpy(d->view, x->view ? x->view->id : none, POOL_ID_SIZE);
	}
	return changed ? names_replace(x->pool, n->number, &copy, err) : 0;
}

static bool row_has_it(void *ctx, const struct name_row *row)
{
	const struct noting *x = ctx;

	return !(row->flags & NAME_ROW_MEMBER) && pool_id_same(row->sealed, x->sealed);
}

int versions_fold(struct pool *p, const uint8_t sealed[POOL_ID_SIZE], const uint8_t root[DIGEST_SIZE], const struct view *view,
		  struct err *err)
{
	return names_each_row(p, row_has_it, note_folded, &(struct noting){ p, sealed, root, view }, err);
}

static int add_standing(void *ctx, const struct name *n, struct err *err)
{
	const struct name_disk *d = &n->disks.items[0];

	return n->kind == NAME_MEMBER && !name_id_is_null(d->below) ? path_list_add(ctx, n->number, d->path, err) : 0;
}

/* 1 = it stands on what is folded in.  Not one that is gone, or whose path has another by now. */
static int is_to_repoint(struct pool *p, const struct path_of *x, struct err *err)
{
	CLEANUP(name_release) struct name newest = { .number = 0 };
	struct name_disk layer;
	struct standing s;
	int rc = member_look(p, x->path, &s, err);

	if (rc > 0)
		rc = names_find_member(p, x->path, &newest, err);
	if (rc <= 0 || newest.number != x->number || !pool_id_same(s.below, newest.disks.items[0].below))
		return rc < 0 ? -1 : 0;
	rc = layer_find(p, s.below, &layer, err);
	return rc > 0 ? layer.folded : rc;
}

int versions_each_to_repoint(struct pool *p, int (*call)(void *ctx, const char *path, struct err *err), void *ctx, struct err *err)
{
	CLEANUP(path_list_release) struct path_list l = { .items = VEC_INIT };
	int rc = names_each(p, add_standing, &l, err);

	for (size_t i = 0; rc == 0 && i < l.items.nr; i++) {
		rc = is_to_repoint(p, &l.items.items[i], err);
		if (rc > 0)
			rc = call(ctx, l.items.items[i].path, err);
	}
	return rc;
}

/* ---- another backing file ---- */

struct repointing {
	struct pool *pool;
	struct name_disk layer; /* what it stands on */
	struct standing target;
};

/* Where the backing file's name may lie: behind the extensions. */
static size_t end_of_extensions(const uint8_t *p, size_t len, uint32_t header_length, uint64_t backing_offset)
{
	size_t at = header_length;

	while (at + 8 <= len && (!backing_offset || at < backing_offset)) {
		const struct qcow2_extension_disk *x = (const void *)(p + at);
		uint64_t step = 8 + (((uint64_t)be32_get(x->length) + 7) & ~(uint64_t)7);

		if (be32_get(x->type) == QCOW2_EXT_END)
			return at + 8;
		if (step > len - at)
			break;
		at += step;
	}
	return at;
}

int versions_set_backing(int fd, const struct slice *backing, struct err *err)
{
	struct qcow2_header_disk d;
	char name[QCOW2_NAME_MAX + 1];
	CLEANUP(free) uint8_t *p = NULL;
	size_t size, at;

	if (slice_format(backing, name, sizeof(name), err) < 0 || file_read(fd, &d, sizeof(d), 0, err) < 0)
		return -1;
	size = (size_t)1 << (be32_get(d.cluster_bits) & 31); /* it was decoded before */
	p = malloc(size);
	if (!p)
		return err_set(err, ERR_MEMORY, "out of memory");
	if (file_read(fd, p, size, 0, err) < 0)
		return -1;
	at = end_of_extensions(p, size, be32_get(d.version) < 3 ? QCOW2_V2_LENGTH : be32_get(d.header_length),
			       be64_get(d.backing_file_offset));
	if (at + strlen(name) > size)
		return err_set(err, ERR_UNSUPPORTED, "its header has no room for another backing file's name");
	memset(p + at, 0, size - at);
	qcow2_backing_encode(p, at, name);
	return file_write(fd, p, size, 0, err);
}

static int make(void *ctx, int old_fd, int new_fd, proof_check *check, void *check_ctx, struct err *err)
{
	struct repointing *r = ctx;
	CLEANUP(free) uint8_t *buf = malloc(SPARSE_PIECE);
	struct sparse_copy c = { .from = old_fd, .to = new_fd, .buf = buf, .check = check, .check_ctx = check_ctx };
	struct overlay_facts facts;
	uint8_t below[POOL_ID_SIZE];
	struct stat st;

	if (!buf)
		return err_set(err, ERR_MEMORY, "out of memory");
	if (overlay_look(old_fd, &facts, err) < 0 || overlay_check_plain(&facts, err) < 0)
		return -1;
	if (!sealed_of_backing(r->pool, &facts.backing, below) || !pool_id_same(below, r->layer.sealed))
		return err_set(err, ERR_STALE, "it stands on something else than the pool '%s' has noted", r->pool->path);
	if (file_ops->fstat(old_fd, &st) < 0)
		return err_errno(err, "cannot stat it");
	if (layer_stand_on(r->pool, &r->layer, &r->target, err) < 0 ||
	    sparse_copy(&c, 0, 0, (uint64_t)st.st_size, err) < 0 || file_truncate(new_fd, (uint64_t)st.st_size, err) < 0)
		return -1;
	return versions_set_backing(new_fd, &r->target.backing, err);
}

/* What one file has as data from `from` on must be in the other one. */
static int compare_data(int a, int b, uint64_t from, uint64_t size, uint8_t *buf, proof_check *check,
			void *check_ctx, struct err *err)
{
	uint64_t begin, end;
	int rc;

	while ((rc = from < size ? file_next_data(a, from, size, &begin, &end, err) : 0) > 0) {
		for (; begin < end; begin += SPARSE_PIECE / 2) {
			size_t n = (size_t)(end - begin < SPARSE_PIECE / 2 ? end - begin : SPARSE_PIECE / 2);

			if (file_read(a, buf, n, begin, err) < 0 || file_read(b, buf + SPARSE_PIECE / 2, n, begin, err) < 0 ||
			    check(check_ctx, begin, size, err) < 0)
				return -1;
			if (memcmp(buf, buf + SPARSE_PIECE / 2, n) != 0)
				return err_set(err, ERR_FORMAT, "its copy differs");
		}
		from = end;
	}
	return rc;
}

/* Their clusters lie where they lay. */
static int same_bitmaps(int old_fd, int new_fd, struct err *err)
{
	struct qcow2_header a, b;

	if (overlay_header(old_fd, &a, err) < 0 || overlay_header(new_fd, &b, err) < 0)
		return -1;
	if (a.nr_bitmaps == b.nr_bitmaps && a.bitmaps_offset == b.bitmaps_offset && a.bitmaps_size == b.bitmaps_size &&
	    a.autoclear == b.autoclear)
		return 0;
	return err_set(err, ERR_FORMAT, "its copy has other persistent bitmaps");
}

static int prove(void *ctx, int old_fd, int new_fd, proof_check *check, void *check_ctx, struct err *err)
{
	struct repointing *r = ctx;
	CLEANUP(free) uint8_t *buf = malloc(SPARSE_PIECE);
	struct overlay_facts old, new;
	struct stat a, b;
	struct qcow2_header_disk d;
	uint64_t first;

	if (!buf)
		return err_set(err, ERR_MEMORY, "out of memory");
	if (overlay_look(old_fd, &old, err) < 0 || overlay_look(new_fd, &new, err) < 0 ||
	    same_bitmaps(old_fd, new_fd, err) < 0 || file_read(new_fd, &d, sizeof(d), 0, err) < 0)
		return -1;
	if (file_ops->fstat(old_fd, &a) < 0 || file_ops->fstat(new_fd, &b) < 0)
		return err_errno(err, "cannot stat it");
	if (a.st_size != b.st_size || old.size != new.size || old.empty != new.empty || old.options.compat != new.options.compat ||
	    strcmp(new.backing.path, r->target.backing.path) != 0 || new.backing.offset != r->target.backing.offset ||
	    new.backing.size != r->target.backing.size)
		return err_set(err, ERR_FORMAT, "its copy says something else");
	first = (uint64_t)1 << (be32_get(d.cluster_bits) & 31);
	if (compare_data(old_fd, new_fd, first, (uint64_t)a.st_size, buf, check, check_ctx, err) < 0)
		return -1;
	return compare_data(new_fd, old_fd, first, (uint64_t)a.st_size, buf, check, check_ctx, err);
}

static int find_layer_of(struct pool *p, const char *path, struct name_disk *ret, struct err *err)
{
	CLEANUP(name_release) struct name n = { .number = 0 };
	int rc = names_find_member(p, path, &n, err);

	if (rc == 0)
		return err_set(err, ERR_USAGE, "'%s' is no image of the pool '%s'", path, p->path);
	if (rc > 0)
		rc = name_id_is_null(n.disks.items[0].below) ? 0 : layer_find(p, n.disks.items[0].below, ret, err);
	if (rc < 0)
		return -1;
	return rc && ret->folded ? 0 : err_set(err, ERR_STALE, "'%s' stands on nothing that is folded in", path);
}

int versions_repoint(struct pool *p, struct workshop *w, const char *root_path, const char *path, const struct versions_how *how,
		     uint64_t *later, struct err *err)
{
	struct repointing job = { .pool = p };
	struct replacing r = {
		.workshop = w, .hold = how->hold, .settle_ns = how->settle_ns, .later = later, .make = make, .prove = prove,
		.ctx = &job,
	};
	size_t len = strlen(root_path);
	char base[NAME_MAX + 1];
	struct stat st;
	int rc = -1;

	if (strncmp(path, root_path, len) != 0 || path[len] != '/')
		return err_set(err, ERR_USAGE, "'%s' does not lie in '%s'", path, root_path);
	if (find_layer_of(p, path, &job.layer, err) < 0)
		return -1;
	r.dirfd = member_open_dir(p, path, base, err);
	if (r.dirfd < 0)
		return -1;
	r.name = base;
	r.path = path + len + 1;
	if (file_ops->fstatat(r.dirfd, base, &st, AT_SYMLINK_NOFOLLOW) < 0) {
		err_errno(err, "cannot look at '%s'", path);
	} else {
		r.expected = spool_identity_of(&st);
		rc = replace_image(&r, NULL, err);
	}
	file_ops->close(r.dirfd);
	return rc < 0 ? -1 : later && *later ? 0 : member_note(p, path, NULL, err);
}
