/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/repoint.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compactor/member.h"
#include "compactor/pool/clusters.h"
#include "compactor/pool/names.h"
#include "compactor/pool/view.h"
#include "compactor/seal.h"
#include "compactor/stubs.h"
#include "compactor/versions.h"
#include "scanner/base/file.h"
#include "scanner/image/qcow2_format.h"

/* How it works: from the bottom up, so that an image that is right stands on what is right: stubs, sealed overlays, images.  When
 * one of them tells where the pool was, all names are looked through, before it is changed: as long as anything is wrong, it says
 * what is to be done.  An image's path is mended before the image is, for the same reason.
 *
 * Names have the paths of a store that was moved, or copied, as a whole.  A disk that was at OLD/x, beside a pool at OLD/NAME, is
 * at NEW/x beside one at NEW/NAME if there is no directory OLD any more, or if an image of this pool is at NEW/x and none at
 * OLD/x.  Of images that were moved by themselves versions_adopt_as() finds out where they were. */

struct repointing {
	struct pool *p;
	const struct repoint_options *o;
	struct repointed *ret;
	VEC(char *) olds; /* where the pool was, as it was told so far */
	VEC(char *) known; /* paths of members, in order */
};

static int no_memory(struct err *err)
{
	return err_set(err, ERR_MEMORY, "no memory to point images at a pool");
}

/* Only what concerns all of them ends it. */
static int left(struct repointing *r, const char *path, const struct err *why, struct err *err)
{
	if (why->kind == ERR_MEMORY || why->kind == ERR_CANCELED || why->kind == ERR_FULL) {
		if (err)
			*err = *why;
		return -1;
	}
	r->ret->nr_left++;
	r->o->problem(r->o->ctx, path, why);
	return 0;
}

static int stopped(const struct repointing *r, struct err *err)
{
	return r->o->stopper && stopper_says(r->o->stopper) ? err_set(err, ERR_CANCELED, "stopped; run it again to go on") : 0;
}

/* ---- what a file says, and what it should say ---- */

struct saying {
	char pool[PATH_MAX];	  /* where it has the pool */
	bool right;
	struct standing standing; /* by ids; the backing is what it should say */
};

static int find_view_in(struct pool *p, const uint8_t id[POOL_ID_SIZE], const struct slice *is, struct view *ret, struct err *err)
{
	uint32_t slot = clusters_slot_at(p->clusters, id, is->offset);
	uint8_t header[BLOCK_SIZE];
	struct view v;

	if (!slot)
		return 0;
	if (clusters_read_slot(p->clusters, slot, header, err) < 0)
		return -1;
	if (view_decode(header, slot, &v, NULL) < 0 || is->size != v.slice_size)
		return 0;
	return view_find(p, v.id, ret, err);
}

/* By its stub, or by itself. */
static int look_at_view(struct pool *p, const struct slice *is, const uint8_t id[POOL_ID_SIZE], bool stub, struct saying *s,
			struct err *err)
{
	struct view v;
	int rc = stub ? view_find(p, id, &v, err) : find_view_in(p, id, is, &v, err);

	if (rc <= 0)
		return rc;
	memcpy(s->standing.view, v.id, POOL_ID_SIZE);
	return view_backing(p, &v, &s->standing.backing, err) < 0 ? -1 : 1;
}

static int look_at_sealed(struct pool *p, const uint8_t id[POOL_ID_SIZE], struct saying *s, struct err *err)
{
	char name[POOL_FILE_NAME_ROOM];
	struct name_disk layer;
	struct stat st;
	int rc;

	if (file_ops->fstatat(p->dirs[POOL_SEALED], pool_id_file_name(id, name), &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : err_errno(err, "cannot look at 'sealed/%s'", name);
	rc = layer_find(p, id, &layer, err);
	if (rc < 0 || sealed_backing(p, id, &s->standing.backing, err) < 0)
		return -1;
	memcpy(s->standing.below, id, POOL_ID_SIZE);
	if (rc > 0)
		memcpy(s->standing.view, layer.view, POOL_ID_SIZE);
	return 1;
}

/* 1, 0 = it stands on nothing that this pool has; -1. */
static int look(struct pool *p, int fd, struct saying *ret, struct err *err)
{
	struct saying s = { .right = false };
	const struct slice *want = &s.standing.backing;
	struct cluster_span file;
	uint8_t id[POOL_ID_SIZE];
	enum pool_dir dir;
	struct slice is;
	size_t len = 0;
	int rc = overlay_names(fd, &is, &s.standing.size, err);

	if (rc <= 0)
		return rc;
	dir = pool_file_parse(is.path, id, &len);
	snprintf(s.pool, sizeof(s.pool), "%.*s", (int)len, is.path);
	if (dir == POOL_NR_DIRS || (dir == POOL_TOP && !clusters_of_id(p->clusters, id, &file)))
		return 0;
	rc = dir == POOL_SEALED ? look_at_sealed(p, id, &s, err) : look_at_view(p, &is, id, dir == POOL_VIEWS, &s, err);
	if (rc <= 0)
		return rc;
	if (dir != POOL_TOP && is.size && (is.offset != want->offset || (want->size && is.size != want->size)))
		return err_set(err, ERR_FORMAT, "its backing file is said to have %llu bytes, where the pool's has %llu",
			       (unsigned long long)is.size, (unsigned long long)want->size);
	s.right = is.read_only && strcmp(is.path, want->path) == 0;
	*ret = s;
	return 1;
}

static bool is_qcow2(int fd)
{
	uint8_t magic[4];

	return file_read_some(fd, magic, sizeof(magic), 0, NULL) == sizeof(magic) && memcmp(magic, QCOW2_MAGIC, sizeof(magic)) == 0;
}

/* What is at a path, without links: 1, 0 = no image of this pool, or nothing; -1. */
static int look_at_path(struct pool *p, const char *path, struct saying *ret, struct err *err)
{
	struct err why = ERR_INIT;
	int top = file_open(AT_FDCWD, "/", O_RDONLY | O_DIRECTORY, 0, err), fd, rc;

	if (top < 0)
		return -1;
	fd = file_open_beneath(top, path + 1, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, RESOLVE_NO_SYMLINKS, &why);
	file_ops->close(top);
	if (fd < 0)
		return 0;
	rc = is_qcow2(fd) ? look(p, fd, ret, err) : 0;
	file_ops->close(fd);
	return rc;
}

int repoint_check(struct pool *p, const char *path, struct err *err)
{
	struct saying s;

	if (look_at_path(p, path, &s, NULL) <= 0 || strcmp(s.pool, p->path) == 0)
		return 0;
	return err_set(err, ERR_REFUSED, "image '%s' names its pool by another path, '%s'; dedupscan repoint mends that", path,
		       s.pool);
}

/* ---- names, after a store was moved ---- */

struct moving {
	struct pool *p;
	char from[PATH_MAX], to[PATH_MAX]; /* the directories beside the pool */
	bool gone;			   /* there is none at `from` any more */
	char path[PATH_MAX];
};

static bool dir_is_gone(const char *path)
{
	struct err why = ERR_INIT;
	int top = file_open(AT_FDCWD, "/", O_RDONLY | O_DIRECTORY, 0, &why);
	int fd = top < 0 ? -1 : file_open_beneath(top, path[1] ? path + 1 : ".", O_RDONLY | O_DIRECTORY, RESOLVE_NO_SYMLINKS, &why);

	if (top >= 0)
		file_ops->close(top);
	if (fd >= 0)
		file_ops->close(fd);
	return fd < 0 && (why.errnum == ENOENT || why.errnum == ENOTDIR || why.errnum == ELOOP);
}

/* There may be links to where it is now: then the names are wrong all the same. */
static const char *new_path(void *ctx, const char *path)
{
	struct moving *m = ctx;
	size_t len = strlen(m->from);
	struct saying s;
	bool moved;

	if (strncmp(path, m->from, len) != 0 || path[len] != '/' ||
	    snprintf(m->path, sizeof(m->path), "%s%s", m->to, path + len) >= (int)sizeof(m->path))
		return NULL;
	moved = m->gone || (look_at_path(m->p, m->path, &s, NULL) > 0 &&
			    (look_at_path(m->p, path, &s, NULL) <= 0 || strcmp(s.pool, m->p->path) != 0));
	return moved ? m->path : NULL;
}

/* False = names cannot tell what was beside it. */
static bool moved_from(struct pool *p, const char *old, struct moving *ret)
{
	ret->p = p;
	if (old[0] != '/' || strcmp(file_last_part(old), file_last_part(p->path)) != 0)
		return false;
	snprintf(ret->from, sizeof(ret->from), "%.*s", (int)(file_last_part(old) - old - 1), old);
	snprintf(ret->to, sizeof(ret->to), "%.*s", (int)(file_last_part(p->path) - p->path - 1), p->path);
	ret->gone = dir_is_gone(*ret->from ? ret->from : "/");
	return true;
}

static int move_names(struct repointing *r, const char *old, struct err *err)
{
	struct moving m;

	return moved_from(r->p, old, &m) ? versions_rename(r->p, new_path, &m, err) : 0;
}

/* As names would have it after all moves that are known of. */
static void follow_moves(const struct repointing *r, const char *path, char ret[PATH_MAX])
{
	struct moving m;
	const char *to;

	snprintf(ret, PATH_MAX, "%s", path);
	for (size_t i = 0; i < r->olds.nr; i++)
		if (moved_from(r->p, r->olds.items[i], &m) && (to = new_path(&m, ret)))
			snprintf(ret, PATH_MAX, "%s", to);
}

static void forget_known(struct repointing *r)
{
	for (size_t i = 0; i < r->known.nr; i++)
		free(r->known.items[i]);
	vec_release(&r->known);
}

/* A file says that the pool was there. */
static int pool_was(struct repointing *r, const char *old, struct err *err)
{
	char *copy;

	if (strcmp(old, r->p->path) == 0)
		return 0;
	for (size_t i = 0; i < r->olds.nr; i++)
		if (strcmp(r->olds.items[i], old) == 0)
			return 0;
	copy = strdup(old);
	if (!copy || vec_push(&r->olds, copy) < 0) {
		free(copy);
		return no_memory(err);
	}
	forget_known(r);
	return r->o->dry_run ? 0 : move_names(r, old, err);
}

/* ---- stubs ---- */

static int write_stub(struct repointing *r, const struct view *v, const char *old, struct err *err)
{
	struct slice_reading reading;

	if (pool_was(r, old, err) < 0)
		return -1;
	r->ret->nr_stubs++;
	if (r->o->dry_run)
		return 0;
	return view_stub_reading(r->p, v, &reading, err) < 0 ? -1 :
	       stubs_write(r->p, v, &reading, r->o->hold.assume_idle, err);
}

static int repoint_stub(struct repointing *r, const uint8_t id[POOL_ID_SIZE], struct err *err)
{
	char name[POOL_FILE_NAME_ROOM], old[PATH_MAX];
	struct err why = ERR_INIT;
	struct view v;
	int rc = view_find(r->p, id, &v, &why);

	if (rc < 0)
		return left(r, pool_id_file_name(id, name), &why, err);
	if (rc == 0 || view_check_stub(r->p, &v, POOL_VIEWS, &why) == 0)
		return 0;
	if (view_stub_elsewhere(r->p, &v, old))
		return write_stub(r, &v, old, err);
	return left(r, pool_id_file_name(id, name), &why, err);
}

static int repoint_stubs(struct repointing *r, struct err *err)
{
	CLEANUP(pool_ids_release) struct pool_ids l = { .items = VEC_INIT };

	if (pool_ids_of_files(r->p->dirs[POOL_VIEWS], &l, err) < 0)
		return -1;
	for (size_t i = 0; i < l.items.nr; i++)
		if (stopped(r, err) < 0 || repoint_stub(r, l.items.items[i].bytes, err) < 0)
			return -1;
	return 0;
}

int repoint_old_path(struct pool *p, char ret[PATH_MAX], struct err *err)
{
	CLEANUP(pool_ids_release) struct pool_ids l = { .items = VEC_INIT };
	struct err damage = ERR_INIT;

	if (pool_ids_of_files(p->dirs[POOL_VIEWS], &l, err) < 0)
		return -1;
	for (size_t i = 0; i < l.items.nr; i++) {
		struct view v;
		int rc = view_find(p, l.items.items[i].bytes, &v, &damage);

		if (rc > 0 && view_stub_elsewhere(p, &v, ret))
			return 1;
		if (rc < 0 && damage.kind != ERR_FORMAT)
			break;
	}
	return damage.kind ? err_set(err, damage.kind, "%s", damage.text) : 0;
}

int repoint_file(struct pool *p, int fd, struct err *err)
{
	char old[PATH_MAX];
	struct saying s;
	int rc = repoint_old_path(p, old, err);

	if (rc)
		return rc < 0 ? -1 : err_set(err, ERR_REFUSED, "the pool '%s' was moved; dedupscan repoint comes first", p->path);
	rc = look(p, fd, &s, err);
	if (rc <= 0)
		return rc < 0 ? -1 : err_set(err, ERR_REFUSED, "the pool '%s' has nothing that it stands on", p->path);
	return s.right ? 0 : overlay_repoint(fd, &s.standing.backing, err);
}

/* ---- overlays ---- */

static int open_for_writing(int dirfd, const char *name, struct err *err)
{
	return file_open_beneath(dirfd, name, O_RDWR | O_NOFOLLOW | O_NONBLOCK, RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV, err);
}

/* A sealed overlay's mode lets nobody write, which its owner has to take back for a moment. */
static int open_read_only(int dirfd, const char *name, struct err *err)
{
	int look = file_open_beneath(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV, err),
	    fd;
	struct stat st;

	if (look < 0)
		return -1;
	if (file_ops->fstat(look, &st) < 0 || file_ops->fchmod(look, (st.st_mode & 07777) | 0200) < 0) {
		err_errno(err, "cannot change it");
		file_ops->close(look);
		return -1;
	}
	fd = open_for_writing(dirfd, name, err);
	if (file_ops->fchmod(look, st.st_mode & 07777) < 0 && fd >= 0) {
		err_errno(err, "cannot make it read-only again");
		file_ops->close(STEAL_FD(fd));
	}
	file_ops->close(look);
	return fd;
}

static int open_held(struct repointing *r, int dirfd, const char *name, struct hold *h, struct err *err)
{
	struct err why = ERR_INIT;
	int fd = open_for_writing(dirfd, name, &why);
	struct stat st;

	if (fd < 0 && why.errnum == EACCES && dirfd == r->p->dirs[POOL_SEALED])
		fd = open_read_only(dirfd, name, &why);
	if (fd < 0 && why.errnum == EAGAIN)
		return err_set(err, ERR_BUSY, "somebody else is changing it");
	if (fd < 0)
		return err_set(err, why.kind, "%s", why.text);
	if (file_ops->fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && hold_take(h, fd, dirfd, name, &r->o->hold, err) == 0)
		return fd;
	file_ops->close(fd);
	return -1;
}

/* 1 = it is held, and to be changed; 0 = it is right by now; -1.  It is looked at again: it was not held before. */
static int open_to_change(struct repointing *r, int dirfd, const char *name, struct hold *h, int *ret_fd, struct slice *ret,
			  struct err *err)
{
	struct saying s;
	int rc;

	*ret_fd = open_held(r, dirfd, name, h, err);
	rc = *ret_fd < 0 ? -1 : look(r->p, *ret_fd, &s, err);
	if (rc == 0)
		return err_set(err, ERR_STALE, "it was changed meanwhile");
	if (rc < 0 || s.right)
		return rc < 0 ? -1 : 0;
	*ret = s.standing.backing;
	return hold_whole(h, err) < 0 ? -1 : 1;
}

static int change_image(struct repointing *r, const char *path, struct err *err)
{
	const char *name;
	CLEANUP(close_fd) int dirfd = roots_open_dir_of(r->o->roots, path, &name, err);
	CLEANUP(close_fd) int fd = -1;
	CLEANUP(hold_release) struct hold hold = HOLD_INIT;
	struct slice backing;
	int rc = dirfd < 0 ? -1 : open_to_change(r, dirfd, name, &hold, &fd, &backing, err);

	return rc > 0 ? overlay_repoint(fd, &backing, err) : rc;
}

/* 1 = versions note when it was written to, and it was not since. */
static int is_as_noted(struct pool *p, const uint8_t id[POOL_ID_SIZE], struct err *err)
{
	struct name_disk layer;
	int rc = layer_find(p, id, &layer, err);

	return rc > 0 ? layer.written && !layer.folded && !seal_was_written(p, &layer) : rc;
}

/* Were it stopped between, nobody would know any more whether somebody else wrote to it. */
static int change_noted(struct pool *p, const uint8_t id[POOL_ID_SIZE], int fd, const struct slice *backing, struct err *err)
{
	struct stat st;
	int rc;

	if (versions_note_written(p, id, 0, err) < 0)
		return -1;
	rc = overlay_repoint(fd, backing, err);
	if (file_ops->fstat(fd, &st) < 0)
		return rc < 0 ? -1 : err_errno(err, "cannot look at it");
	return versions_note_written(p, id, seal_time_of(&st), rc < 0 ? NULL : err) < 0 ? -1 : rc;
}

static int change_sealed(struct repointing *r, const uint8_t id[POOL_ID_SIZE], struct err *err)
{
	char name[POOL_FILE_NAME_ROOM];
	CLEANUP(close_fd) int fd = -1;
	CLEANUP(hold_release) struct hold hold = HOLD_INIT;
	struct slice backing;
	int rc = open_to_change(r, r->p->dirs[POOL_SEALED], pool_id_file_name(id, name), &hold, &fd, &backing, err);

	if (rc <= 0)
		return rc;
	rc = is_as_noted(r->p, id, err);
	if (rc < 0)
		return -1;
	return rc ? change_noted(r->p, id, fd, &backing, err) : overlay_repoint(fd, &backing, err);
}

static int repoint_one_sealed(struct repointing *r, const uint8_t id[POOL_ID_SIZE], struct err *err)
{
	char name[POOL_FILE_NAME_ROOM];
	int fd = file_open(r->p->dirs[POOL_SEALED], pool_id_file_name(id, name), O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, err), rc;
	struct saying s;

	if (fd < 0)
		return -1;
	rc = look(r->p, fd, &s, err);
	file_ops->close(fd);
	if (rc <= 0)
		return rc < 0 ? -1 : err_set(err, ERR_FORMAT, "it stands on nothing that the pool has");
	if (s.right)
		return 0;
	if (pool_was(r, s.pool, err) < 0 || (!r->o->dry_run && change_sealed(r, id, err) < 0))
		return -1;
	r->ret->nr_sealed++;
	return 0;
}

static int repoint_sealed(struct repointing *r, struct err *err)
{
	CLEANUP(pool_ids_release) struct pool_ids l = { .items = VEC_INIT };

	if (pool_ids_of_files(r->p->dirs[POOL_SEALED], &l, err) < 0)
		return -1;
	for (size_t i = 0; i < l.items.nr; i++) {
		char name[POOL_FILE_NAME_ROOM];
		struct err why = ERR_INIT;

		pool_id_file_name(l.items.items[i].bytes, name);
		if (stopped(r, err) < 0 || (repoint_one_sealed(r, l.items.items[i].bytes, &why) < 0 && left(r, name, &why, err) < 0))
			return -1;
	}
	return 0;
}

/* ---- images ---- */

static int compare_paths(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static void sort_known(struct repointing *r)
{
	if (r->known.nr)
		qsort(r->known.items, r->known.nr, sizeof(*r->known.items), compare_paths);
}

static int add_path(struct repointing *r, const char *path, struct err *err)
{
	char *copy = strdup(path);

	if (copy && vec_push(&r->known, copy) == 0)
		return 0;
	free(copy);
	return no_memory(err);
}

static int add_known(void *ctx, const struct name *n, struct err *err)
{
	struct repointing *r = ctx;
	char path[PATH_MAX];

	if (n->kind != NAME_MEMBER)
		return 0;
	if (!r->o->dry_run)
		return add_path(r, n->disks.items[0].path, err);
	follow_moves(r, n->disks.items[0].path, path);
	return add_path(r, path, err);
}

/* 1 = the pool has a member at this path. */
static int is_known(struct repointing *r, const char *path, struct err *err)
{
	if (!r->known.nr) {
		if (names_each(r->p, add_known, r, err) < 0)
			return -1;
		sort_known(r);
	}
	return r->known.nr && bsearch(&path, r->known.items, r->known.nr, sizeof(*r->known.items), compare_paths);
}

/* Only on the pool's file system can it be a member. */
static bool may_be_member(const struct pool *p, const char *path)
{
	char base[NAME_MAX + 1];
	int dirfd = member_open_dir(p, path, base, NULL);

	if (dirfd >= 0)
		file_ops->close(dirfd);
	return dirfd >= 0;
}

static int note(struct repointing *r, const char *path, const struct saying *s, char ret_was[PATH_MAX], struct err *err)
{
	*ret_was = '\0';
	r->ret->nr_noted++;
	if (r->o->dry_run)
		return versions_was_at(r->p, path, &s->standing, ret_was, err) < 0 ? -1 : 0;
	if (versions_adopt_as(r->p, path, &s->standing, ret_was, err) < 0 || add_path(r, path, err) < 0)
		return -1;
	sort_known(r);
	return 0;
}

static int repoint_image(struct repointing *r, const char *path, const struct saying *s, struct err *err)
{
	char was[PATH_MAX];
	bool noted = false;
	int rc;

	if (pool_was(r, s->pool, err) < 0)
		return -1;
	rc = is_known(r, path, err);
	if (rc == 0 && may_be_member(r->p, path)) {
		noted = true;
		rc = note(r, path, s, was, err);
	}
	if (rc < 0 || (!s->right && !r->o->dry_run && change_image(r, path, err) < 0))
		return -1;
	r->ret->nr_images += !s->right;
	if (!s->right || noted)
		r->o->told(r->o->ctx, path, s->right ? NULL : s->pool, noted ? was : NULL);
	return 0;
}

/* ---- walking ---- */

static int look_at_found(struct repointing *r, const struct found *f, struct err *err)
{
	int fd = roots_open_found(r->o->roots, f, err), rc;
	struct saying s;

	if (fd < 0)
		return -1;
	rc = is_qcow2(fd) ? look(r->p, fd, &s, err) : 0;
	file_ops->close(fd);
	if (rc == 0 && f->named)
		return err_set(err, ERR_REFUSED, "it stands on nothing that the pool '%s' has", r->p->path);
	return rc > 0 ? repoint_image(r, f->path, &s, err) : rc;
}

/* Also of others, which may be called anything. */
static bool is_of_pool(const char *path)
{
	uint8_t id[POOL_ID_SIZE];
	size_t len;
	enum pool_dir dir = pool_file_parse(path, id, &len);

	return dir == POOL_VIEWS || dir == POOL_SEALED;
}

static int visit(void *ctx, const struct found *f, struct err *err)
{
	struct repointing *r = ctx;
	struct err why = ERR_INIT;

	if (stopped(r, err) < 0)
		return -1;
	if (f->block_device || is_of_pool(f->path) || look_at_found(r, f, &why) == 0)
		return 0;
	return left(r, f->path, &why, err);
}

static void missed(void *ctx, const char *path, const struct err *why, bool listing)
{
	struct repointing *r = ctx;

	if (listing)
		left(r, path, why, NULL);
}

static bool stop(void *ctx)
{
	const struct repointing *r = ctx;

	return r->o->stopper && stopper_says(r->o->stopper);
}

static int repoint_images(struct repointing *r, struct err *err)
{
	struct roots_visitor v = { .file = visit, .problem = missed, .stop = stop, .ctx = r };

	for (size_t i = 0; i < r->o->roots->list.nr; i++)
		if (r->o->roots->list.items[i].walked && roots_walk(r->o->roots, &r->o->roots->list.items[i], &v, err) < 0)
			return -1;
	return 0;
}

int pool_repoint(struct pool *p, const struct repoint_options *o, struct repointed *ret, struct err *err)
{
	struct repointing r = { .p = p, .o = o, .ret = ret };
	int rc;

	*ret = (struct repointed){ 0 };
	p->restless |= !o->dry_run;
	rc = repoint_stubs(&r, err) < 0 || repoint_sealed(&r, err) < 0 || repoint_images(&r, err) < 0 ? -1 : 0;
	for (size_t i = 0; i < r.olds.nr; i++)
		free(r.olds.items[i]);
	vec_release(&r.olds);
	forget_known(&r);
	return rc < 0 ? pool_err(p, err) : 0;
}
