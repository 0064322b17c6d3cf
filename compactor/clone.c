/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/clone.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <stdio.h>

#include "compactor/pool/clusters.h"
#include "compactor/pool/qcow2_writer.h"
#include "compactor/versions_parts.h"
#include "scanner/base/checked.h"
#include "scanner/base/crc32c.h"
#include "scanner/base/file.h"

/* How it works.  Member n of the pool, which is to be a clone, is written as sealed/<n>-<check>.new; so a name and its file know
 * each other.  (The check is of path and time: were the name never published, another may have that number by now.)
 *
 *	1. all overlays are written, and all names, as promises (names_promise())
 *	2. all is synced, with both directories, in one round; by one sync of the file system when they are many
 *	3. names are read back from the disk, and kept; overlays are moved to their paths, where nothing may be
 *	4. members that were at these paths, and are gone, are forgotten when the clones stand on the same
 *
 * That is one round of syncs: what 2. has made durable says all that 3. does, so whoever finds it half done, or taken back by a
 * power cut, does it once more.  It must go forward then: the clone was at its path, and may have been written to.
 *
 * Crash safety, tested in tests/crash/test_versions.c.  The name is a promise or kept already:
 *
 *	name <n>   sealed/<n>-...  at the path       decision
 *	---------  --------------  ----------------  --------------------------------------------------------
 *	none       there           anything          it was never synced: the overlay goes
 *	not whole  -               -                 the same: the name goes
 *	there      not whole       anything          the same, for names and overlays are synced together: name and overlay go
 *	there      whole           nothing           it is moved there
 *	there      whole           something else    the name goes, then the overlay (if it holds something, to the quarantine)
 *	promise    none            stands as noted   the name is kept
 *	promise    none            anything else     the overlay was never synced: the name goes
 *	kept       none            anything          done, but for 4.: somebody may have moved the clone
 *
 * An overlay is whole when its header is one and its tables are as they are made; or when it is longer, for then somebody has
 * written to it.  (What changes a header alone, as a resize does, leaves the tables.) */

#define NEW_ROOM 48
#define CLUSTER_BITS 16
#define CLUSTER_SIZE ((size_t)1 << CLUSTER_BITS)
#define MANY 16 /* from here on one sync of everything costs less */

struct clone {
	char path[PATH_MAX], base[NAME_MAX + 1];
	int dirfd; /* the last one opened is shared by those that follow in it */
	uint64_t number; /* 0 = it has none yet */
	int name_fd, fd;
	bool kept, there;
};

struct cloning {
	struct pool *pool;
	const struct clone_options *o;
	struct standing standing;
	struct overlay_options overlay;
	struct stat like; /* the image's owner and mode */
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

		x->name_fd = x->fd = -1;
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

/* Of an image that is gone: whoever can read the pool can read it, so that its own versions may enter that.  A pool may be of names
 * alone, in tests. */
static void like_the_pool(struct cloning *c)
{
	const struct clusters *clusters = c->pool->clusters;
	struct stat st;

	c->like = (struct stat){ .st_uid = geteuid(), .st_gid = getegid(), .st_mode = 0600 };
	if (!clusters || file_ops->fstat(cluster_file_fd(clusters_growing(clusters).file), &st) < 0)
		return;
	c->like.st_mode |= st.st_mode & 0444;
	if (!(st.st_mode & S_IROTH)) {
		c->like.st_uid = st.st_uid;
		c->like.st_gid = st.st_gid;
	}
}

static int stand_on_version(struct cloning *c, struct err *err)
{
	CLEANUP(name_release) struct name n = { .number = 0 };
	const struct clone_options *o = c->o;
	int rc = names_find_version(c->pool, o->path, o->label, &n, err), dirfd;
	char base[NAME_MAX + 1];

	if (rc <= 0)
		return rc < 0 ? -1 : err_set(err, ERR_USAGE, "there is no version '%s' of '%s'", o->label, o->path);
	c->overlay = o->overlay;
	if (layer_stand_on(c->pool, name_find_disk(&n, o->path), &c->standing, err) < 0)
		return -1;
	like_the_pool(c);
	dirfd = member_open_dir(c->pool, o->path, base, NULL);
	if (dirfd >= 0) { /* the image itself may be gone */
		file_ops->fstatat(dirfd, base, &c->like, AT_SYMLINK_NOFOLLOW);
		file_ops->close(dirfd);
	}
	return 0;
}

/* What the image was until now becomes a version without a label. */
static int seal_image(struct cloning *c, struct member *m, struct err *err)
{
	CLEANUP(name_release) struct name n = { .kind = NAME_VERSION, .made = c->o->how.now };
	struct name_disk sealed;

	if (versions_seal(c->pool, &n, &m, 1, NULL, SEAL_AS_FOUND, &c->o->how, err) < 0)
		return -1;
	sealed = n.disks.items[0];
	return layer_stand_on(c->pool, &sealed, &c->standing, err);
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
	return layer_stand_on(c->pool, &d, &c->standing, err) < 0 ? -1 : hold_whole(&m.hold, err);
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

static int make_name(struct cloning *c, const struct clone *x, struct name *ret, struct err *err)
{
	struct name_disk d = { .size = 0 };

	*ret = (struct name){ .kind = NAME_MEMBER, .number = x->number, .made = c->o->how.now };
	strcpy(d.path, x->path);
	if (member_describe(c->pool, &c->standing, &d, err) < 0)
		return -1;
	return vec_push(&ret->disks, d) < 0 ? err_set(err, ERR_MEMORY, "out of memory") : 0;
}

static int write_name(struct cloning *c, struct clone *x, struct err *err)
{
	CLEANUP(name_release) struct name n = { .number = 0 };

	if (make_name(c, x, &n, err) < 0 || names_promise(c->pool, &n, &x->name_fd, err) < 0)
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

static int write_overlay(struct cloning *c, struct clone *x, struct err *err)
{
	char name[NEW_ROOM];

	x->fd = file_open(c->pool->dirs[POOL_SEALED], file_of(c, x, name), O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600, err);
	if (x->fd < 0 || overlay_write(x->fd, c->standing.size, &c->standing.backing, &c->overlay, err) < 0)
		return -1;
	return set_owner(c, x->fd, err);
}

static int write_all(struct cloning *c, struct err *err)
{
	for (size_t i = 0; i < c->nr; i++) {
		struct clone *x = &c->clones[i];

		if (write_name(c, x, err) < 0 || write_overlay(c, x, err) < 0)
			return err_add(err, "clone '%s'", x->path);
		if (c->nr < MANY)
			continue;
		file_ops->close(STEAL_FD(x->fd));
		file_ops->close(STEAL_FD(x->name_fd));
	}
	return 0;
}

static int sync_written(struct cloning *c, struct err *err)
{
	CLEANUP(to_sync_release) struct to_sync sync = { .list = VEC_INIT };

	if (c->nr >= MANY)
		return file_sync_fs(c->pool->dirs[POOL_NAMES], err);
	for (size_t i = 0; i < c->nr; i++)
		if (to_sync_add(&sync, c->clones[i].fd, true, err) < 0 || to_sync_add(&sync, c->clones[i].name_fd, true, err) < 0)
			return -1;
	if (to_sync_add(&sync, c->pool->dirs[POOL_SEALED], false, err) < 0 ||
	    to_sync_add(&sync, c->pool->dirs[POOL_NAMES], false, err) < 0)
		return -1;
	return sync_all(&sync, err);
}

static int reread_all(struct cloning *c, struct err *err)
{
	for (size_t i = 0; i < c->nr; i++)
		if (names_reread(c->pool, STEAL_FD(c->clones[i].name_fd), c->clones[i].number, err) < 0)
			return -1;
	return 0;
}

static int keep_name(struct cloning *c, struct clone *x, struct err *err)
{
	CLEANUP(name_release) struct name n = { .number = 0 };

	x->kept = true;
	return make_name(c, x, &n, err) < 0 ? -1 : names_keep(c->pool, &n, err);
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

static int appear_all(struct cloning *c, struct err *err)
{
	for (size_t i = 0; i < c->nr; i++)
		if (keep_name(c, &c->clones[i], err) < 0 || move(c, &c->clones[i], err) < 0)
			return -1;
	return 0;
}

/* Names first: an overlay whose name is still there is left to a recovery. */
static void remove_rest(struct cloning *c)
{
	char name[NEW_ROOM];

	names_distrust(c->pool);
	for (size_t i = 0; i < c->nr; i++) {
		struct clone *x = &c->clones[i];

		if (!x->number || x->there)
			continue;
		if (names_break(c->pool, x->number, NULL) == 0 && (!x->kept || names_remove(c->pool, x->number, NULL) == 0))
			file_unlink(c->pool->dirs[POOL_SEALED], file_of(c, x, name), NULL);
	}
}

static int run(struct cloning *c, struct clones *ret, struct err *err)
{
	int rc;

	if (list_clones(c, err) < 0 || (c->o->label ? stand_on_version(c, err) : stand_on_image(c, &ret->sealed, err)) < 0)
		return -1;
	rc = write_all(c, err);
	if (rc == 0)
		rc = sync_written(c, err);
	if (rc == 0)
		rc = reread_all(c, err);
	if (rc == 0)
		rc = appear_all(c, err);
	if (rc < 0)
		remove_rest(c);
	for (size_t i = 0; i < c->nr; i++)
		ret->nr += c->clones[i].there;
	if (rc == 0)
		rc = versions_drop_replaced(c->pool, err);
	if (rc == 0)
		names_left_nothing(c->pool);
	return rc;
}

static void release(struct cloning *c)
{
	for (size_t i = 0; i < c->dirs.nr; i++)
		file_ops->close(c->dirs.items[i]);
	for (size_t i = 0; c->clones && i < c->nr; i++) {
		struct clone *x = &c->clones[i];

		if (x->fd >= 0)
			file_ops->close(x->fd);
		if (x->name_fd >= 0)
			file_ops->close(x->name_fd);
	}
	vec_release(&c->dirs);
	free(c->clones);
}

int clone_image(struct pool *p, const struct clone_options *o, struct clones *ret, struct err *err)
{
	struct cloning c = { .pool = p, .o = o };
	int rc;

	*ret = (struct clones){ .nr = 0 };
	rc = run(&c, ret, err);
	release(&c);
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

/* Cluster i behind the header, as overlay_write() makes it: refcount table, refcounts, and an L1 table of zeros. */
static void expect_cluster(uint64_t i, uint64_t nr, uint8_t ret[CLUSTER_SIZE])
{
	be64 block = be64_from(2 * CLUSTER_SIZE);
	be16 one = be16_from(1);

	memset(ret, 0, CLUSTER_SIZE);
	if (i == 1)
		memcpy(ret, &block, sizeof(block));
	for (uint64_t j = 0; i == 2 && j < nr; j++)
		memcpy(ret + j * sizeof(one), &one, sizeof(one));
}

static bool has_whole_tables(int fd, const struct qcow2_header *h, uint64_t file_size)
{
	uint64_t nr = 3 + div_up((uint64_t)h->l1_size * 8, CLUSTER_SIZE);
	CLEANUP(free) uint8_t *buf = malloc(2 * CLUSTER_SIZE);

	if (!buf || h->refcount_offset != CLUSTER_SIZE || h->l1_offset != 3 * CLUSTER_SIZE || file_size != nr * CLUSTER_SIZE)
		return false;
	for (uint64_t i = 1; i < nr; i++) {
		expect_cluster(i, nr, buf);
		if (file_read(fd, buf + CLUSTER_SIZE, CLUSTER_SIZE, i * CLUSTER_SIZE, NULL) < 0 ||
		    memcmp(buf, buf + CLUSTER_SIZE, CLUSTER_SIZE) != 0)
			return false;
	}
	return true;
}

/* 1, 0, -1.  What is longer than what is made has been written to, so it was whole.  It is on the disk then: who wrote it may have
 * died before he had synced it. */
static int is_whole(int fd, const struct name_disk *d, struct err *err)
{
	uint64_t l1_bytes = qcow2_l1_bytes(round_up(d->size, 512), CLUSTER_BITS, true);
	struct overlay_facts f;
	struct qcow2_header h;
	struct err why = ERR_INIT;
	struct stat st;

	if (file_ops->fsync(fd) < 0 || file_drop_cache(fd, err) < 0 || file_ops->fstat(fd, &st) < 0)
		return err_errno(err, "cannot sync it");
	if ((uint64_t)st.st_size > 3 * CLUSTER_SIZE + round_up(l1_bytes, CLUSTER_SIZE))
		return 1;
	if (overlay_look(fd, &f, &why) == 0 && overlay_header(fd, &h, &why) == 0)
		return has_whole_tables(fd, &h, (uint64_t)st.st_size);
	if (why.kind == ERR_FORMAT || why.kind == ERR_UNSUPPORTED || why.kind == ERR_REFUSED || why.kind == ERR_STALE)
		return 0;
	if (err)
		*err = why;
	return -1;
}

static int look_at_leftover(struct pool *p, const char *file, const struct name_disk *d, struct err *err)
{
	int fd = file_open(p->dirs[POOL_SEALED], file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, err), rc;

	if (fd < 0)
		return -1;
	rc = is_whole(fd, d, err);
	file_ops->close(fd);
	return rc;
}

/* 1 = it is at its path now; 0 = it cannot be, ever; -1. */
static int appear(struct pool *p, const char *file, const struct name_disk *d, struct err *err)
{
	struct err why = ERR_INIT;
	char base[NAME_MAX + 1];
	int dirfd = member_open_dir(p, d->path, base, &why), rc = -1;

	if (dirfd >= 0) {
		rc = file_rename_to(p->dirs[POOL_SEALED], file, dirfd, base, RENAME_NOREPLACE, &why);
		if (rc == 0)
			rc = file_sync_dir(dirfd, &why);
		file_ops->close(dirfd);
	}
	if (rc == 0)
		return 1;
	if (why.errnum == EEXIST || why.errnum == ENOENT || why.errnum == ENOTDIR || why.errnum == EXDEV ||
	    why.kind == ERR_UNSUPPORTED || why.kind == ERR_USAGE)
		return 0;
	if (err)
		*err = why;
	return -1;
}

/* Of a name that is kept. */
static int go_forward(struct pool *p, const char *file, const struct name *n, struct err *err)
{
	const struct name_disk *d = &n->disks.items[0];
	int whole = look_at_leftover(p, file, d, err), rc = whole;

	if (whole > 0)
		rc = appear(p, file, d, err);
	if (rc)
		return rc < 0 ? -1 : 0;
	if (names_remove(p, n->number, err) < 0)
		return -1;
	return whole ? sealed_dispose(p, file, err) : file_unlink(p->dirs[POOL_SEALED], file, err);
}

static int decide_leftover(struct pool *p, const struct leftover *x, struct err *err)
{
	CLEANUP(name_release) struct name n = { .number = 0 };
	char name[NEW_ROOM];
	int rc = member_find_number(p, x->number, &n, err);

	if (rc > 0 && n.kind == NAME_MEMBER && strcmp(new_name(n.number, n.disks.items[0].path, n.made, name), x->file) == 0)
		return go_forward(p, x->file, &n, err);
	return rc < 0 ? -1 : file_unlink(p->dirs[POOL_SEALED], x->file, err);
}

/* 1 = the clone came to its path, 0 = there is none, -1. */
static int is_at_path(struct pool *p, const struct name_disk *d, struct err *err)
{
	struct standing s;
	int rc = member_look(p, d->path, &s, err);

	return rc > 0 ? pool_id_same(s.below, d->below) && (!name_id_is_null(d->below) || pool_id_same(s.view, d->view)) : rc;
}

/* A name is kept when its overlay is durable where it is: who died may not have come to that. */
int clone_decide(struct pool *p, const struct name *n, struct err *err)
{
	const struct name_disk *d = &n->disks.items[0];
	char name[NEW_ROOM];
	struct stat st;
	int rc;

	new_name(n->number, d->path, n->made, name);
	if (file_ops->fstatat(p->dirs[POOL_SEALED], name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
		rc = look_at_leftover(p, name, d, err);
		if (rc > 0 && file_sync_dir(p->dirs[POOL_SEALED], err) < 0)
			return -1;
	} else if (errno == ENOENT) {
		rc = is_at_path(p, d, err);
	} else {
		return err_errno(err, "cannot look at '%s'", name);
	}
	if (rc < 0)
		return -1;
	return rc ? names_keep(p, n, err) : names_break(p, n->number, err);
}

int clone_recover(struct pool *p, struct err *err)
{
	struct leftovers l = { .items = VEC_INIT };
	int rc = file_each_name(p->dirs[POOL_SEALED], find_leftover, &l, err);

	for (size_t i = 0; rc == 0 && i < l.items.nr; i++)
		rc = decide_leftover(p, &l.items.items[i], err);
	if (rc == 0 && l.items.nr)
		rc = file_sync_dir(p->dirs[POOL_SEALED], err);
	vec_release(&l.items);
	return rc;
}
