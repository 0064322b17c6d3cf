/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/clone.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdio.h>

#include "compactor/versions_parts.h"
#include "scanner/base/crc32c.h"
#include "scanner/base/file.h"

/* How it works.  Member n of the pool, which is to be a clone, is written as sealed/<n>-<check>.new; so a name and its file know
 * each other.  (The check is of path and time: were the name never published, another may have that number by now.)
 *
 *	1. all overlays are written, and all names, which wait (names_publish() without sync)
 *	2. all is synced, by one sync of the file system when they are many; the names are published: from here on a
 *	   collection knows of the clones
 *	3. the overlays are moved to their paths, where nothing may be; directories synced
 *
 * Crash safety, tested in tests/crash/test_versions.c:
 *
 *	name <n>   sealed/<n>-...  at the path    decision
 *	--------   --------------  -------------  ---------------------------------------------
 *	none       there           nothing        the overlay goes
 *	there      there           anything       no clone came to be: the name goes, then the overlay
 *	there      none            the clone      done
 *
 * A name goes only while its overlay still lies here, so never that of a clone which somebody has moved. */

#define NEW_ROOM 48
#define MANY 16 /* from here on one sync of everything costs less */

struct clone {
	char path[PATH_MAX], base[NAME_MAX + 1];
	int dirfd; /* the last one opened is shared by those that follow in it */
	uint64_t number;
	bool there;
};

struct cloning {
	struct pool *pool;
	const struct clone_options *o;
	struct standing standing;
	struct overlay_options overlay;
	struct stat like; /* the image's owner and mode */
	bool tried;	  /* names may be published */
	struct clone *clones;
	size_t nr;
	VEC(int) dirs;
};

/* ---- paths ---- */

static int too_long(struct err *err)
{
	return err_set(err, ERR_USAGE, "the path of a clone would be too long");
}

/* Where the %d is: its length and *ret_width, 0 = it is no %d. */
static size_t parse_directive(const char *s, unsigned *ret_width)
{
	size_t n = 1;

	*ret_width = 0;
	if (s[1] == '0')
		for (n = 2; s[n] >= '0' && s[n] <= '9' && n < 4; n++)
			*ret_width = *ret_width * 10 + (unsigned)(s[n] - '0');
	return s[n] == 'd' ? n + 1 : 0;
}

static int copy_pattern(const char *base, unsigned i, char *to, size_t room, bool *ret_any, struct err *err)
{
	size_t len = 0;

	*ret_any = false;
	for (const char *s = base; *s && len + 1 < room;) {
		unsigned width;
		size_t n = *s == '%' ? parse_directive(s, &width) : 0;

		if (*s != '%' || s[1] == '%') {
			to[len++] = *s;
			s += *s == '%' ? 2 : 1;
			continue;
		}
		if (n == 0 || *ret_any)
			return err_set(err, ERR_USAGE, "'%s': a name of clones has one %%d, or one like %%03d, and %%%% for %%",
				       base);
		*ret_any = true;
		len += (size_t)snprintf(to + len, room - len, "%0*u", (int)width, i);
		s += n;
	}
	if (len + 1 >= room)
		return too_long(err);
	to[len] = '\0';
	return 0;
}

int clone_path(const char *pattern, unsigned i, char ret[PATH_MAX], struct err *err)
{
	const char *base = strrchr(pattern, '/') ? strrchr(pattern, '/') + 1 : pattern, *dot;
	size_t len = (size_t)(base - pattern);
	char name[NAME_MAX + 1], ext[NAME_MAX + 1] = "";
	bool any;

	if (len >= PATH_MAX || copy_pattern(base, i, name, sizeof(name), &any, err) < 0)
		return len >= PATH_MAX ? too_long(err) : -1;
	memcpy(ret, pattern, len);
	if (any)
		return snprintf(ret + len, PATH_MAX - len, "%s", name) >= (int)(PATH_MAX - len) ? too_long(err) : 0;
	dot = strrchr(name, '.');
	if (dot && dot != name)
		snprintf(ext, sizeof(ext), "%s", dot);
	name[strlen(name) - strlen(ext)] = '\0';
	return snprintf(ret + len, PATH_MAX - len, "%s-%u%s", name, i, ext) >= (int)(PATH_MAX - len) ? too_long(err) : 0;
}

/* Most lie in the directory of the one before. */
static int open_dir(struct cloning *c, size_t i, struct err *err)
{
	struct clone *x = &c->clones[i];
	size_t len = (size_t)(strrchr(x->path, '/') + 1 - x->path);

	if (i && strncmp(c->clones[i - 1].path, x->path, len) == 0 && !strchr(c->clones[i - 1].path + len, '/')) {
		x->dirfd = c->clones[i - 1].dirfd;
		if (strlen(x->path + len) > NAME_MAX)
			return too_long(err);
		strcpy(x->base, x->path + len);
		return 0;
	}
	x->dirfd = member_open_dir(c->pool, x->path, x->base, err);
	if (x->dirfd < 0 || vec_push(&c->dirs, x->dirfd) == 0)
		return x->dirfd < 0 ? -1 : 0;
	file_ops->close(x->dirfd);
	return err_set(err, ERR_MEMORY, "out of memory");
}

static int check_nothing_there(const struct clone *x, struct err *err)
{
	struct stat st;

	if (file_ops->fstatat(x->dirfd, x->base, &st, AT_SYMLINK_NOFOLLOW) == 0)
		return err_set(err, ERR_USAGE, "'%s' is there already", x->path);
	return errno == ENOENT ? 0 : err_errno(err, "cannot look at '%s'", x->path);
}

static int list_clones(struct cloning *c, struct err *err)
{
	const struct clone_options *o = c->o;

	if (o->count > CLONE_COUNT_MAX)
		return err_set(err, ERR_USAGE, "at most %d clones at once", CLONE_COUNT_MAX);
	c->nr = o->count ? o->count : 1;
	c->clones = calloc(c->nr, sizeof(*c->clones));
	if (!c->clones)
		return err_set(err, ERR_MEMORY, "out of memory");
	if (o->new_path[0] != '/' || strlen(o->new_path) >= PATH_MAX)
		return err_set(err, ERR_USAGE, "'%s' is no absolute path", o->new_path);
	for (size_t i = 0; i < c->nr; i++) {
		struct clone *x = &c->clones[i];

		if (!o->count)
			strcpy(x->path, o->new_path);
		else if (clone_path(o->new_path, (unsigned)i + 1, x->path, err) < 0)
			return -1;
		if (open_dir(c, i, err) < 0 || check_nothing_there(x, err) < 0)
			return -1;
	}
	return 0;
}

/* ---- what they stand on ---- */

static int stand_on_version(struct cloning *c, struct err *err)
{
	CLEANUP(name_release) struct name n = { .number = 0 };
	const struct clone_options *o = c->o;
	int rc = names_find_version(c->pool, o->path, o->label, &n, err), dirfd;
	char base[NAME_MAX + 1];

	if (rc <= 0)
		return rc < 0 ? -1 : err_set(err, ERR_USAGE, "there is no version '%s' of '%s'", o->label, o->path);
	c->overlay = o->overlay;
	c->like = (struct stat){ .st_uid = geteuid(), .st_gid = getegid(), .st_mode = 0600 };
	dirfd = member_open_dir(c->pool, o->path, base, NULL);
	if (dirfd >= 0) { /* the image itself may be gone */
		file_ops->fstatat(dirfd, base, &c->like, AT_SYMLINK_NOFOLLOW);
		file_ops->close(dirfd);
	}
	return layer_stand_on(c->pool, name_find_disk(&n, o->path), o->overlay.host_cache, &c->standing, err);
}

/* What the image was until now becomes a version without a label. */
static int seal_image(struct cloning *c, struct member *m, struct err *err)
{
	CLEANUP(name_release) struct name n = { .kind = NAME_VERSION, .made = c->o->how.now };
	struct name_disk sealed;

	if (versions_seal(c->pool, &n, &m, 1, NULL, SEAL_AS_FOUND, &c->o->how, err) < 0)
		return -1;
	sealed = n.disks.items[0];
	return layer_stand_on(c->pool, &sealed, c->overlay.host_cache, &c->standing, err);
}

static int stand_on_image(struct cloning *c, bool *ret_sealed, struct err *err)
{
	CLEANUP(member_release) struct member m = MEMBER_INIT;
	struct name_disk d;
	int rc;

	if (member_open(c->pool, c->o->path, &c->o->how.hold, &m, err) < 0)
		return -1;
	c->like = m.st;
	c->overlay = m.facts.options;
	rc = versions_unchanged(c->pool, &m, &d, err);
	if (rc < 0)
		return -1;
	*ret_sealed = rc == 0;
	if (rc == 0)
		return seal_image(c, &m, err);
	return layer_stand_on(c->pool, &d, c->overlay.host_cache, &c->standing, err) < 0 ? -1 : hold_whole(&m.hold, err);
}

/* ---- writing ---- */

static char *new_name(uint64_t number, const char *path, int64_t made, char ret[NEW_ROOM])
{
	uint8_t time[8];

	for (unsigned i = 0; i < 8; i++)
		time[i] = (uint8_t)((uint64_t)made >> 8 * i);
	snprintf(ret, NEW_ROOM, "%" PRIu64 "-%08x.new", number, crc32c(crc32c(0, time, sizeof(time)), path, strlen(path)));
	return ret;
}

static char *file_of(const struct cloning *c, const struct clone *x, char ret[NEW_ROOM])
{
	return new_name(x->number, x->path, c->o->how.now, ret);
}

static int write_name(struct cloning *c, struct clone *x, struct err *err)
{
	CLEANUP(name_release) struct name n = { .kind = NAME_MEMBER, .made = c->o->how.now };
	struct name_disk d = { .size = 0 };

	strcpy(d.path, x->path);
	if (member_describe(c->pool, &c->standing, &d, err) < 0)
		return -1;
	if (vec_push(&n.disks, d) < 0)
		return err_set(err, ERR_MEMORY, "out of memory");
	if (names_publish(c->pool, &n, false, err) < 0)
		return -1;
	x->number = n.number;
	return 0;
}

static int set_owner(const struct cloning *c, int fd, struct err *err)
{
	struct stat st;

	if (file_ops->fstat(fd, &st) < 0)
		return err_errno(err, "cannot stat it");
	if ((st.st_uid != c->like.st_uid || st.st_gid != c->like.st_gid) &&
	    file_ops->fchown(fd, c->like.st_uid, c->like.st_gid) < 0)
		return err_errno(err, "cannot give it to user %u and group %u", c->like.st_uid, c->like.st_gid);
	return file_ops->fchmod(fd, (c->like.st_mode & 0777) | 0600) < 0 ? err_errno(err, "cannot set its mode") : 0;
}

static int write_overlay(struct cloning *c, const struct clone *x, struct err *err)
{
	char name[NEW_ROOM];
	int fd = file_open(c->pool->dirs[POOL_SEALED], file_of(c, x, name), O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600, err), rc;

	if (fd < 0)
		return -1;
	rc = overlay_write(fd, c->standing.size, &c->standing.backing, &c->overlay, err);
	if (rc == 0)
		rc = set_owner(c, fd, err);
	if (rc == 0 && c->nr < MANY && file_ops->fsync(fd) < 0) /* with owner and mode, so no fdatasync(2) */
		rc = err_errno(err, "cannot sync it");
	return file_close(fd, name, rc == 0 ? err : NULL) < 0 ? -1 : rc;
}

static int write_all(struct cloning *c, struct err *err)
{
	for (size_t i = 0; i < c->nr; i++)
		if (write_name(c, &c->clones[i], err) < 0 || write_overlay(c, &c->clones[i], err) < 0)
			return err_add(err, "clone '%s'", c->clones[i].path);
	return c->nr < MANY ? file_sync_dir(c->pool->dirs[POOL_SEALED], err) : 0;
}

/* ---- appearing ---- */

static int move(struct cloning *c, struct clone *x, struct err *err)
{
	struct err why = ERR_INIT;
	char name[NEW_ROOM];

	x->there = file_rename_to(c->pool->dirs[POOL_SEALED], file_of(c, x, name), x->dirfd, x->base, RENAME_NOREPLACE, &why) == 0;
	if (x->there)
		return 0;
	if (why.errnum == EEXIST)
		return err_set(err, ERR_USAGE, "'%s' is there already", x->path);
	if (why.errnum == EXDEV)
		return err_set(err, ERR_UNSUPPORTED, "the directory of '%s' and the pool '%s' do not take each other's files",
			       x->path, c->pool->path);
	if (err)
		*err = why;
	return -1;
}

static int sync_dirs(struct cloning *c, struct err *err)
{
	for (size_t i = 0; i < c->dirs.nr; i++)
		if (file_sync_dir(c->dirs.items[i], err) < 0)
			return -1;
	return file_sync_dir(c->pool->dirs[POOL_SEALED], err);
}

static int move_all(struct cloning *c, struct err *err)
{
	for (size_t i = 0; i < c->nr; i++)
		if (move(c, &c->clones[i], err) < 0)
			return -1;
	return sync_dirs(c, err);
}

/* Names first: an overlay whose name is still there is left to a recovery. */
static void remove_rest(struct cloning *c)
{
	char name[NEW_ROOM];

	names_drop(c->pool, NULL);
	for (size_t i = 0; i < c->nr; i++) {
		struct clone *x = &c->clones[i];

		if (x->number && !x->there && (!c->tried || names_remove(c->pool, x->number, NULL) == 0))
			file_unlink(c->pool->dirs[POOL_SEALED], file_of(c, x, name), NULL);
	}
}

static int run(struct cloning *c, struct clones *ret, struct err *err)
{
	int rc;

	if (list_clones(c, err) < 0 || (c->o->label ? stand_on_version(c, err) : stand_on_image(c, &ret->sealed, err)) < 0)
		return -1;
	rc = write_all(c, err);
	c->tried = rc == 0;
	if (rc == 0)
		rc = names_sync(c->pool, c->nr >= MANY, err);
	if (rc == 0)
		rc = move_all(c, err);
	if (rc < 0)
		remove_rest(c);
	for (size_t i = 0; i < c->nr; i++)
		ret->nr += c->clones[i].there;
	return rc;
}

int clone_image(struct pool *p, const struct clone_options *o, struct clones *ret, struct err *err)
{
	struct cloning c = { .pool = p, .o = o };
	int rc;

	*ret = (struct clones){ .nr = 0 };
	rc = run(&c, ret, err);
	for (size_t i = 0; i < c.dirs.nr; i++)
		file_ops->close(c.dirs.items[i]);
	vec_release(&c.dirs);
	free(c.clones);
	return rc;
}

/* ---- recovery ---- */

struct leftover {
	uint64_t number;
	char file[NEW_ROOM];
};

struct leftovers {
	VEC(struct leftover) items;
};

static int find_leftover(void *ctx, const char *file, struct err *err)
{
	struct leftovers *l = ctx;
	size_t len = strlen(file);
	struct leftover x;

	if (len < 4 || len >= sizeof(x.file) || strcmp(file + len - 4, ".new") != 0 ||
	    sscanf(file, "%20" SCNu64 "-", &x.number) != 1)
		return 0;
	strcpy(x.file, file);
	return vec_push(&l->items, x) < 0 ? err_set(err, ERR_MEMORY, "out of memory") : 0;
}

static int remove_leftover(struct pool *p, const struct leftover *x, struct err *err)
{
	CLEANUP(name_release) struct name n = { .number = 0 };
	char name[NEW_ROOM];
	int rc = member_find_number(p, x->number, &n, err);

	if (rc > 0 && n.kind == NAME_MEMBER && strcmp(new_name(n.number, n.disks.items[0].path, n.made, name), x->file) == 0)
		rc = names_remove(p, x->number, err);
	return rc < 0 ? -1 : file_unlink(p->dirs[POOL_SEALED], x->file, err);
}

int clone_recover(struct pool *p, struct err *err)
{
	struct leftovers l = { .items = VEC_INIT };
	int rc = file_each_name(p->dirs[POOL_SEALED], find_leftover, &l, err);

	for (size_t i = 0; rc == 0 && i < l.items.nr; i++)
		rc = remove_leftover(p, &l.items.items[i], err);
	if (rc == 0 && l.items.nr)
		rc = file_sync_dir(p->dirs[POOL_SEALED], err);
	vec_release(&l.items);
	return rc;
}
