/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/member.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>

#include "compactor/seal.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/image/qcow2_format.h"

#define LAYERS_MAX 100
#define LOOK_ROOM ((size_t)64 << 10)

/* ---- what an overlay says ---- */

/* 1 = all of it is zeros. */
static int is_zero(int fd, uint64_t offset, uint64_t len, struct err *err)
{
	CLEANUP(free) uint8_t *buf = malloc(LOOK_ROOM);

	if (!buf)
		return err_set(err, ERR_MEMORY, "out of memory");
	while (len) {
		size_t n = (size_t)min_u64(len, LOOK_ROOM);

		if (file_read(fd, buf, n, offset, err) < 0)
			return -1;
		if (buf[0] || memcmp(buf, buf + 1, n - 1) != 0)
			return 0;
		offset += n;
		len -= n;
	}
	return 1;
}

static int is_empty(int fd, const struct qcow2_header *h, struct err *err)
{
	if (h->nr_snapshots)
		return 0;
	return is_zero(fd, h->l1_offset, (uint64_t)h->l1_size * 8, err);
}

int overlay_is_empty(int fd, struct err *err)
{
	struct qcow2_header h;

	return overlay_header(fd, &h, err) < 0 ? -1 : is_empty(fd, &h, err);
}

static int check_features(const struct qcow2_header *h, struct err *err)
{
	if (h->crypt_method != QCOW2_CRYPT_NONE)
		return err_set(err, ERR_UNSUPPORTED, "it is encrypted");
	if (h->incompatible & QCOW2_DATA_FILE)
		return err_set(err, ERR_UNSUPPORTED, "its data lies in another file");
	if (h->incompatible & QCOW2_CORRUPT)
		return err_set(err, ERR_UNSUPPORTED, "it is marked as corrupt");
	if (h->incompatible & ~QCOW2_INCOMPATIBLE_KNOWN)
		return err_set(err, ERR_UNSUPPORTED, "it has features that are not known here");
	return 0;
}

int overlay_look(int fd, struct overlay_facts *ret, struct err *err)
{
	struct overlay_facts f = { .size = 0 };
	struct qcow2_header h;
	int rc;

	if (overlay_header(fd, &h, err) < 0 || check_features(&h, err) < 0)
		return -1;
	if (strcmp(h.backing_format, "qcow2") != 0 || !slice_parse(h.backing_name, &f.backing))
		return err_set(err, ERR_REFUSED, "it does not stand on a pool");
	rc = is_empty(fd, &h, err);
	if (rc < 0)
		return -1;
	f.empty = rc;
	f.size = h.size;
	f.nr_snapshots = h.nr_snapshots;
	f.nr_bitmaps = h.nr_bitmaps;
	f.options.compat = !(h.incompatible & QCOW2_EXTENDED_L2);
	*ret = f;
	return 0;
}

int overlay_check_plain(const struct overlay_facts *f, struct err *err)
{
	if (f->nr_snapshots)
		return err_set(err, ERR_UNSUPPORTED,
			       "it has internal snapshots, which would be lost; delete them first (qemu-img snapshot -d)");
	return 0;
}

/* ---- sealed overlays as backing files ---- */

int sealed_backing(const struct pool *p, const uint8_t id[POOL_ID_SIZE], struct slice *ret, struct err *err)
{
	/* The whole file: who opened it before it was sealed may make it longer, and what he writes must be seen. */
	struct slice s = { .read_only = true };
	char name[POOL_FILE_NAME_ROOM], text[QCOW2_NAME_MAX + 1];

	if (snprintf(s.path, sizeof(s.path), "%s/sealed/%s", p->path, pool_id_file_name(id, name)) >= (int)sizeof(s.path))
		return err_set(err, ERR_UNSUPPORTED, "the path of the pool is too long for a backing file's name");
	if (slice_format(&s, text, sizeof(text), err) < 0)
		return -1;
	*ret = s;
	return 0;
}

bool sealed_of_backing(const struct pool *p, const struct slice *s, uint8_t ret_id[POOL_ID_SIZE])
{
	size_t len = strlen(p->path);
	char id_text[POOL_ID_TEXT_ROOM], name[POOL_FILE_NAME_ROOM];
	uint8_t id[POOL_ID_SIZE];
	const char *rest = s->path + len + 8;

	if (s->offset || strncmp(s->path, p->path, len) != 0 || strncmp(s->path + len, "/sealed/", 8) != 0)
		return false;
	snprintf(id_text, sizeof(id_text), "%s", rest);
	if (!pool_id_parse(id_text, id) || strcmp(pool_id_file_name(id, name), rest) != 0)
		return false;
	memcpy(ret_id, id, POOL_ID_SIZE);
	return true;
}

/* ---- opening ---- */

int member_open_any_dir(const struct pool *p, const char *path, char *ret_base, struct err *err)
{
	const char *slash = strrchr(path, '/');
	CLEANUP(free) char *dir = slash ? strndup(path, (size_t)(slash - path)) : NULL;
	int top, fd;

	if (path[0] != '/' || !slash[1] || strlen(slash + 1) > NAME_MAX)
		return err_set(err, ERR_USAGE, "'%s' is no absolute path of a file", path);
	if (strncmp(path, p->path, strlen(p->path)) == 0 && path[strlen(p->path)] == '/')
		return err_set(err, ERR_USAGE, "'%s' lies in the pool itself", path);
	if (!dir)
		return err_set(err, ERR_MEMORY, "out of memory");
	top = file_open(AT_FDCWD, "/", O_RDONLY | O_DIRECTORY, 0, err);
	if (top < 0)
		return -1;
	fd = file_open_beneath(top, *dir ? dir + 1 : ".", O_RDONLY | O_DIRECTORY, RESOLVE_NO_SYMLINKS, err);
	file_ops->close(top);
	if (fd >= 0)
		snprintf(ret_base, NAME_MAX + 1, "%s", slash + 1);
	return fd;
}

int member_open_dir(const struct pool *p, const char *path, char *ret_base, struct err *err)
{
	int fd = member_open_any_dir(p, path, ret_base, err);
	struct stat ours, theirs;

	if (fd < 0)
		return -1;
	if (file_ops->fstat(fd, &ours) < 0 || file_ops->fstat(p->dirs[POOL_SEALED], &theirs) < 0)
		err_errno(err, "cannot stat its directory");
	else if (ours.st_dev == theirs.st_dev)
		return fd;
	else
		err_set(err, ERR_UNSUPPORTED, "'%s' lies on another file system than the pool '%s'", path, p->path);
	file_ops->close(fd);
	return -1;
}

/* Never waits, and leaves no trace in the time of access where that is allowed. */
static int open_file(int dirfd, const char *name, int mode, struct err *err)
{
	int flags = mode | O_NOFOLLOW | O_NONBLOCK;
	struct err why = ERR_INIT;
	int fd = file_open_beneath(dirfd, name, flags | O_NOATIME, RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV, &why);

	if (fd < 0 && why.errnum == EPERM)
		fd = file_open_beneath(dirfd, name, flags, RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV, &why);
	if (fd < 0 && (why.errnum == ELOOP || why.errnum == ENXIO || why.errnum == EXDEV))
		return err_set(err, ERR_REFUSED, "not a regular file, or a mount lies on it");
	if (fd < 0 && err)
		*err = why;
	return fd;
}

static int check_kind(int dirfd, const char *name, struct err *err)
{
	struct stat st;

	if (file_ops->fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return err_named(err, "cannot look at it");
	if (!S_ISREG(st.st_mode))
		return err_set(err, ERR_REFUSED, "not a regular file");
	if (st.st_nlink != 1)
		return err_set(err, ERR_REFUSED, "it has %u names (hard links), of which only one would be changed",
			       (unsigned)st.st_nlink);
	return 0;
}

static bool same_id(const uint8_t a[POOL_ID_SIZE], const uint8_t b[POOL_ID_SIZE])
{
	return memcmp(a, b, POOL_ID_SIZE) == 0;
}

/* What it stands on, as far as the overlay itself says: 1, 0 = not on this pool. */
static int read_standing(struct pool *p, const struct overlay_facts *f, struct standing *ret, struct err *err)
{
	struct name_disk layer;
	int rc;

	*ret = (struct standing){ .size = f->size, .backing = f->backing };
	ret->backing.read_only = true; /* libvirt drops that */
	if (view_of_backing(p, &f->backing, ret->view))
		return 1;
	if (!sealed_of_backing(p, &f->backing, ret->below))
		return 0;
	rc = layer_find(p, ret->below, &layer, err);
	if (rc > 0)
		memcpy(ret->view, layer.view, POOL_ID_SIZE);
	return rc;
}

/* Another overlay has its path by now: one from a backup, say, or a clone. */
static int note_other(struct pool *p, struct member *m, struct err *err)
{
	struct name_disk *d = &m->name.disks.items[0], before = *d;

	if (member_describe(p, &m->standing, d, err) < 0)
		return -1;
	if (name_id_is_null(d->below) && !d->folded) {
		*d = before;
		return err_set(err, ERR_STALE, "the pool '%s' does not have what it stands on", p->path);
	}
	return names_replace(p, m->name.number, &m->name, err);
}

static int check_standing(struct pool *p, struct member *m, struct err *err)
{
	const struct name_disk *d = member_disk(m);
	int rc = read_standing(p, &m->facts, &m->standing, err);

	if (rc < 0)
		return -1;
	if (rc == 0)
		return err_set(err, ERR_STALE, "it does not stand on the pool '%s' any more", p->path);
	if (!same_id(m->standing.below, d->below) || (name_id_is_null(d->below) && !same_id(m->standing.view, d->view)))
		rc = note_other(p, m, err);
	memcpy(m->standing.view, d->view, POOL_ID_SIZE);
	return rc < 0 ? -1 : 0;
}

/* Without `o` it is not held. */
static int open_all(struct pool *p, const char *path, const struct hold_options *o, struct member *m, struct err *err)
{
	m->dirfd = member_open_dir(p, path, m->base, err);
	if (m->dirfd < 0 || check_kind(m->dirfd, m->base, err) < 0)
		return -1;
	m->fd = open_file(m->dirfd, m->base, o ? O_RDWR : O_RDONLY, err);
	if (m->fd < 0 || (o && hold_take(&m->hold, m->fd, m->dirfd, m->base, o, err) < 0))
		return -1;
	if (file_ops->fstat(m->fd, &m->st) < 0)
		return err_errno(err, "cannot stat it");
	if (overlay_look(m->fd, &m->facts, err) < 0 || overlay_check_plain(&m->facts, err) < 0)
		return -1;
	return check_standing(p, m, err);
}

static int open_member(struct pool *p, const char *path, const struct hold_options *o, struct member *ret, struct err *err)
{
	struct member m = MEMBER_INIT;
	int rc = names_find_member(p, path, &m.name, err);

	if (rc < 0)
		return -1;
	if (rc == 0)
		return err_set(err, ERR_USAGE,
			       "'%s' is no image of the pool '%s'; dedupscan compact --apply brings images in, --pool DIR names another pool",
			       path, p->path);
	if (open_all(p, path, o, &m, err) < 0) {
		member_release(&m);
		return err_add(err, "image '%s'", path);
	}
	*ret = m;
	return 0;
}

int member_open(struct pool *p, const char *path, const struct hold_options *o, struct member *ret, struct err *err)
{
	return open_member(p, path, o, ret, err);
}

int member_open_beside(struct pool *p, const char *path, struct member *ret, struct err *err)
{
	return open_member(p, path, NULL, ret, err);
}

void member_release(struct member *m)
{
	hold_release(&m->hold);
	if (m->fd >= 0)
		file_ops->close(m->fd);
	if (m->dirfd >= 0)
		file_ops->close(m->dirfd);
	name_release(&m->name);
	*m = (struct member)MEMBER_INIT;
}

/* ---- noting it again ---- */

/* For certain there is no such overlay; else nobody could look. */
static bool is_none(const struct err *why)
{
	if (why->kind != ERR_IO && why->kind != ERR_MEMORY && why->kind != ERR_BUSY && why->kind != ERR_STALE)
		return true;
	return why->errnum == ENOENT || why->errnum == ENOTDIR || why->errnum == ELOOP || why->errnum == EXDEV;
}

static int look_at_facts(struct pool *p, const char *path, struct overlay_facts *ret, struct err *err)
{
	char base[NAME_MAX + 1];
	int dirfd = member_open_dir(p, path, base, err), fd, rc;

	if (dirfd < 0)
		return -1;
	fd = file_open_beneath(dirfd, base, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV, err);
	file_ops->close(dirfd);
	if (fd < 0)
		return -1;
	rc = overlay_look(fd, ret, err);
	file_ops->close(fd);
	return rc;
}

int member_look(struct pool *p, const char *path, struct standing *ret, struct err *err)
{
	struct err why = ERR_INIT;
	struct overlay_facts f;

	if (look_at_facts(p, path, &f, &why) == 0)
		return read_standing(p, &f, ret, err);
	if (is_none(&why))
		return 0;
	if (err)
		*err = why;
	return err_add(err, "image '%s'", path);
}

static int look_at_sealed(struct pool *p, const uint8_t id[POOL_ID_SIZE], struct overlay_facts *ret, struct err *err)
{
	char name[POOL_FILE_NAME_ROOM];
	int fd = open_file(p->dirs[POOL_SEALED], pool_id_file_name(id, name), O_RDONLY, err), rc;

	rc = fd < 0 ? -1 : overlay_look(fd, ret, err);
	if (fd >= 0)
		file_ops->close(fd);
	return rc < 0 ? err_add(err, "sealed overlay '%s'", name) : 0;
}

/* The view below a sealed overlay, by what overlays say: a version that is folded in does not know it any more. */
static int find_bottom(struct pool *p, const uint8_t sealed[POOL_ID_SIZE], uint8_t ret_view[POOL_ID_SIZE], struct err *err)
{
	struct overlay_facts f;
	uint8_t id[POOL_ID_SIZE];

	memcpy(id, sealed, POOL_ID_SIZE);
	for (unsigned depth = 0; depth < LAYERS_MAX; depth++) {
		if (look_at_sealed(p, id, &f, err) < 0)
			return -1;
		if (view_of_backing(p, &f.backing, ret_view))
			return 0;
		if (!sealed_of_backing(p, &f.backing, id))
			break;
	}
	return err_set(err, ERR_STALE, "what is sealed below it does not stand on the pool '%s'", p->path);
}

int member_describe(struct pool *p, const struct standing *s, struct name_disk *d, struct err *err)
{
	uint8_t view[POOL_ID_SIZE];
	struct view v;
	int rc = name_id_is_null(s->below) ? view_find(p, s->view, &v, err) : 0;

	memcpy(view, s->view, POOL_ID_SIZE);
	if (rc < 0 || (!name_id_is_null(s->below) && name_id_is_null(s->view) && find_bottom(p, s->below, view, err) < 0))
		return -1;
	memcpy(d->view, view, POOL_ID_SIZE);
	memcpy(d->below, s->below, POOL_ID_SIZE);
	d->size = rc > 0 ? v.disk_size : s->size; /* that of the tree: the overlay may have another one */
	d->folded = rc > 0;
	memset(d->root, 0, DIGEST_SIZE);
	if (rc > 0)
		memcpy(d->root, v.root, DIGEST_SIZE);
	return 0;
}

static bool is_noted_so(const struct name_disk *d, const struct standing *s)
{
	return same_id(d->view, s->view) && same_id(d->below, s->below) && (d->folded || d->size == s->size);
}

int member_note(struct pool *p, const char *path, const uint8_t *assumed, struct err *err)
{
	CLEANUP(name_release) struct name n = { .number = 0 };
	struct name_disk *d;
	struct standing s;
	int seen = member_look(p, path, &s, err), rc;

	rc = seen < 0 ? -1 : names_find_member(p, path, &n, err);
	if (rc <= 0 || (!seen && !assumed))
		return rc < 0 ? -1 : 0;
	d = &n.disks.items[0];
	if (!seen) {
		s = (struct standing){ .size = d->size };
		memcpy(s.below, assumed, POOL_ID_SIZE);
	}
	if (!name_id_is_null(s.below) && (same_id(d->below, s.below) || (assumed && same_id(assumed, s.below))))
		memcpy(s.view, d->view, POOL_ID_SIZE); /* what was noted of the bottom is still right */
	if (is_noted_so(d, &s))
		return 0;
	return member_describe(p, &s, d, err) < 0 ? -1 : names_replace(p, n.number, &n, err);
}

int member_find_number(struct pool *p, uint64_t number, struct name *ret, struct err *err)
{
	return names_find_number(p, number, ret, err);
}

/* ---- layers ---- */

int layer_find(struct pool *p, const uint8_t sealed[POOL_ID_SIZE], struct name_disk *ret, struct err *err)
{
	CLEANUP(name_release) struct name n = { .number = 0 };
	int rc = names_find_sealed(p, sealed, &n, err);

	for (size_t i = 0; rc > 0 && i < n.disks.nr; i++)
		if (same_id(n.disks.items[i].sealed, sealed)) {
			*ret = n.disks.items[i];
			return 1;
		}
	return rc;
}

int layer_depth(struct pool *p, const uint8_t sealed[POOL_ID_SIZE], unsigned *ret, struct err *err)
{
	uint8_t id[POOL_ID_SIZE];
	unsigned depth = 0;

	memcpy(id, sealed, POOL_ID_SIZE);
	for (; !name_id_is_null(id) && depth < LAYERS_MAX; depth++) {
		struct name_disk layer;
		int rc = layer_find(p, id, &layer, err);

		if (rc < 0)
			return -1;
		if (rc == 0)
			return err_set(err, ERR_FORMAT, "no name of the pool '%s' knows a sealed overlay on which others stand",
				       p->path);
		memcpy(id, layer.below, POOL_ID_SIZE);
	}
	if (depth == LAYERS_MAX)
		return err_set(err, ERR_FORMAT, "sealed overlays of the pool '%s' stand on each other in a circle", p->path);
	*ret = depth;
	return 0;
}

static int stand_on_sealed(struct pool *p, const struct name_disk *d, struct standing *ret, struct err *err)
{
	char name[POOL_FILE_NAME_ROOM];
	struct stat st;

	if (file_ops->fstatat(p->dirs[POOL_SEALED], pool_id_file_name(d->sealed, name), &st, AT_SYMLINK_NOFOLLOW) < 0)
		return err_errno(err, "sealed overlay '%s'", name);
	if (seal_was_written(p, d))
		return err_set(err, ERR_STALE,
			       "somebody wrote to what was sealed of '%s' afterwards; the next dedupscan compact --apply makes it "
			       "another version, NAME.changed",
			       d->path);
	if (seal_check_in(p, d, err) < 0)
		return err_add(err, "what was sealed of '%s'", d->path);
	memcpy(ret->view, d->view, POOL_ID_SIZE);
	memcpy(ret->below, d->sealed, POOL_ID_SIZE);
	return sealed_backing(p, d->sealed, &ret->backing, err);
}

/* The largest clusters that do: those are the fewest to look up. */
static int find_view(struct pool *p, const struct name_disk *d, struct view *ret, struct err *err)
{
	struct err why = ERR_INIT;
	int rc = name_id_is_null(d->view) ? 0 : view_find(p, d->view, ret, err);

	for (unsigned bits = POOL_UNIT_BITS_MAX; rc == 0 && bits >= POOL_UNIT_BITS_MIN; bits -= 2)
		rc = view_find_root(p, d->root, d->size, bits, ret, err);
	for (unsigned bits = POOL_UNIT_BITS_MAX; rc == 0 && bits >= POOL_UNIT_BITS_MIN; bits -= 2) {
		why = ERR_INIT;
		rc = view_write(p, d->root, d->size, bits, ret, &why) == 0;
		if (rc == 0 && why.kind != ERR_UNSUPPORTED)
			break;
	}
	if (rc == 0 && err)
		*err = why;
	return rc == 0 ? -1 : rc;
}

int layer_stand_on(struct pool *p, const struct name_disk *d, struct standing *ret, struct err *err)
{
	struct standing s = { .size = d->size };
	struct view v;

	if (!d->folded && stand_on_sealed(p, d, &s, err) < 0)
		return -1;
	if (d->folded) {
		if (find_view(p, d, &v, err) < 0 || view_backing(p, &v, &s.backing, err) < 0)
			return -1;
		memcpy(s.view, v.id, POOL_ID_SIZE);
	}
	*ret = s;
	return 0;
}
