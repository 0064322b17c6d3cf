/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/pool/pool.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "compactor/pool/clusters.h"
#include "compactor/pool/finder.h"
#include "compactor/pool/growth.h"
#include "compactor/pool/immutable.h"
#include "compactor/pool/names.h"
#include "compactor/pool/nodes.h"
#include "compactor/pool/view.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"

/* A new pool is made whole under another name and gets its own by one rename, which takes the place of an empty directory and of
 * nothing else.  What a power cut leaves under the other name is removed by the next attempt.
 *
 * Whoever may write to a pool's directories can put anything at our names, so nobody but the owner may; QEMU of other users
 * passes through to what it needs (0711, and files of mode 0444).  The pool's own name may lie in a directory of an enemy's, who
 * can move it away, but not make one that passes. */

#define DIR_MODE 0711
#define HIDDEN_MODE 0700
#define NODES_ROOM (POOL_ID_TEXT_ROOM + 8)

static const struct {
	const char *name;
	mode_t mode;
} dirs[POOL_NR_DIRS] = {
	[POOL_TOP] = { ".", DIR_MODE },		[POOL_VIEWS] = { "views", DIR_MODE },
	[POOL_SEALED] = { "sealed", DIR_MODE }, [POOL_TREES] = { "trees", HIDDEN_MODE },
	[POOL_NAMES] = { "names", HIDDEN_MODE }, [POOL_INDEX] = { "index", HIDDEN_MODE },
	[POOL_TRASH] = { "trash", HIDDEN_MODE }, [POOL_QUARANTINE] = { "quarantine", HIDDEN_MODE },
};

/* ---- names ---- */

enum pool_dir pool_file_parse(const char *path, uint8_t ret_id[POOL_ID_SIZE], size_t *ret_len)
{
	static const enum pool_dir known[] = { POOL_VIEWS, POOL_SEALED };
	const char *slash = strrchr(path, '/');
	uint8_t id[POOL_ID_SIZE];

	if (!slash || !pool_id_parse_file_name(slash + 1, id))
		return POOL_NR_DIRS;
	memcpy(ret_id, id, sizeof(id));
	*ret_len = (size_t)(slash - path);
	for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++) {
		size_t len = strlen(dirs[known[i]].name);

		if (*ret_len <= len || path[*ret_len - len - 1] != '/' || strncmp(slash - len, dirs[known[i]].name, len) != 0)
			continue;
		*ret_len -= len + 1;
		return known[i];
	}
	return POOL_TOP;
}

static char *nodes_name(const uint8_t id[POOL_ID_SIZE], char buf[NODES_ROOM])
{
	return strcat(pool_id_text(id, buf), ".nodes");
}

/* ---- creating ---- */

/* A new directory, open. */
static int make_dir(int dirfd, const char *name, mode_t mode, struct err *err)
{
	int fd;

	if (file_ops->mkdirat(dirfd, name, mode) < 0)
		return err_errno(err, "cannot make the directory '%s'", name);
	fd = file_open(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, err);
	if (fd >= 0 && file_ops->fchmod(fd, mode) < 0) { /* whatever the umask is */
		err_errno(err, "cannot set the mode of '%s'", name);
		file_ops->close(fd);
		return -1;
	}
	return fd;
}

static int make_file(int dirfd, const char *name, struct err *err)
{
	int fd = file_open(dirfd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0600, err), rc;

	if (fd < 0)
		return -1;
	rc = file_sync(fd, name, err);
	return file_close(fd, name, rc == 0 ? err : NULL) < 0 ? -1 : rc;
}

static int sync_and_close(int fd, struct err *err)
{
	int rc = file_sync_dir(fd, err);

	file_ops->close(fd);
	return rc;
}

/* Of a pool that holds nothing it lacks nothing. */
static int make_index(int fd, const uint8_t uuid[POOL_ID_SIZE], struct err *err)
{
	bool whole;
	CLEANUP(finder_close) struct finder *f = finder_open(fd, uuid, 0, true, &whole, err);

	if (!f)
		return -1;
	finder_set_lacks(f, 0, 0);
	return finder_sync(f, 0, err);
}

static int fill_new(int top, const uint8_t uuid[POOL_ID_SIZE], struct err *err)
{
	char name[POOL_FILE_NAME_ROOM], nodes[NODES_ROOM];

	if (cluster_file_create(top, pool_id_file_name(uuid, name), uuid, err) < 0 || make_file(top, "lock", err) < 0)
		return -1;
	for (enum pool_dir i = POOL_TOP + 1; i < POOL_NR_DIRS; i++) {
		int fd = make_dir(top, dirs[i].name, dirs[i].mode, err), rc;

		if (fd < 0)
			return -1;
		rc = i == POOL_TREES ? make_file(fd, nodes_name(uuid, nodes), err) :
		     i == POOL_INDEX ? make_index(fd, uuid, err) : 0;
		if (sync_and_close(fd, rc == 0 ? err : NULL) < 0 || rc < 0)
			return -1;
	}
	return 0;
}

/* A power cut may have taken back the pool's name, and left its files immutable. */
static int remove_file(void *ctx, const char *name, struct err *err)
{
	return immutable_unlink_closed(*(int *)ctx, name, err);
}

static int remove_dir(int dirfd, const char *name, int (*remove_one)(void *ctx, const char *name, struct err *err), struct err *err)
{
	int fd = file_open(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, err);
	struct stat st;
	int rc;

	if (fd < 0)
		return -1;
	if (file_ops->fstat(fd, &st) < 0)
		rc = err_errno(err, "cannot stat '%s'", name);
	else if (st.st_uid != geteuid())
		rc = err_set(err, ERR_REFUSED, "'%s' belongs to user %u; it is in the way", name, st.st_uid);
	else
		rc = file_each_name(fd, remove_one, &fd, err);
	file_ops->close(fd);
	if (rc == 0 && file_ops->unlinkat(dirfd, name, AT_REMOVEDIR) < 0)
		return err_errno(err, "cannot remove '%s'", name);
	return rc;
}

static int remove_any(void *ctx, const char *name, struct err *err)
{
	struct stat st;

	if (file_ops->fstatat(*(int *)ctx, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return err_errno(err, "cannot look at '%s'", name);
	return S_ISDIR(st.st_mode) ? remove_dir(*(int *)ctx, name, remove_file, err) : remove_file(ctx, name, err);
}

/* What an attempt that was cut short left. */
static int remove_unfinished(int dirfd, const char *name, struct err *err)
{
	struct stat st;

	if (file_ops->fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : err_errno(err, "cannot look at '%s'", name);
	return remove_dir(dirfd, name, remove_any, err);
}

static int create_as(int dirfd, const char *tmp, const char *name, const uint8_t uuid[POOL_ID_SIZE], struct err *err)
{
	int top = make_dir(dirfd, tmp, DIR_MODE, err), rc;

	if (top < 0)
		return -1;
	rc = fill_new(top, uuid, err);
	if (sync_and_close(top, rc == 0 ? err : NULL) < 0 || rc < 0)
		return -1;
	if (file_ops->renameat2(dirfd, tmp, dirfd, name, 0) == 0)
		return 0;
	if (errno == ENOTEMPTY || errno == EEXIST || errno == ENOTDIR)
		return err_set(err, ERR_REFUSED, "something is there already");
	return err_errno(err, "cannot give it its name");
}

int pool_create(int dirfd, const char *name, struct err *err)
{
	CLEANUP(free) char *tmp = NULL;
	uint8_t uuid[POOL_ID_SIZE];

	signal(SIGXFSZ, SIG_IGN); /* a file size limit is an error, EFBIG, and no death */
	if (asprintf(&tmp, "%s.new", name) < 0) {
		tmp = NULL;
		return err_set(err, ERR_MEMORY, "out of memory");
	}
	if (remove_unfinished(dirfd, tmp, err) < 0 || pool_new_id(uuid, err) < 0)
		return err_add(err, "cannot make the pool '%s'", name);
	if (create_as(dirfd, tmp, name, uuid, err) < 0) {
		remove_unfinished(dirfd, tmp, NULL);
		return err_add(err, "cannot make the pool '%s'", name);
	}
	return file_sync_dir(dirfd, err);
}

/* ---- opening ---- */

static int check_ours(const struct pool *p, enum pool_dir i, dev_t *dev, struct err *err)
{
	const char *name = dirs[i].name;
	struct stat st;

	if (file_ops->fstat(p->dirs[i], &st) < 0)
		return err_errno(err, "cannot stat '%s'", name);
	if (st.st_uid != geteuid())
		return err_set(err, ERR_REFUSED, "'%s' belongs to user %u, not to who runs this; run as that user", name,
			       st.st_uid);
	if (st.st_mode & 022)
		return err_set(err, ERR_REFUSED,
			       "others than its owner can write to '%s' (mode %04o); see what is in it, then chmod %o", name,
			       st.st_mode & 07777, dirs[i].mode);
	if (i == POOL_TOP)
		*dev = st.st_dev;
	if (st.st_dev != *dev)
		return err_set(err, ERR_REFUSED, "'%s' is a file system of its own; it must be a plain directory", name);
	return 0;
}

/* All but names: without these a collection would take all for garbage. */
static bool may_be_made(enum pool_dir i)
{
	return i != POOL_TOP && i != POOL_NAMES;
}

/* What was in trees/ and sealed/ no repair makes of the rest, or not all of it. */
static const char *advice_on(enum pool_dir i)
{
	return !may_be_made(i) ? "; put it back from a backup" :
	       i == POOL_TREES || i == POOL_SEALED ? "; put it back from a backup, or, where none has it, dedupscan pool repair "
	       "makes it again" : "; dedupscan pool repair makes it again";
}

static int not_whole(enum pool_dir i, const struct err *why, struct err *err)
{
	const char *advice = why->errnum == ENOENT ? advice_on(i) : "";

	return err_set(err,
		       why->errnum == ENOENT ? ERR_FORMAT :
		       why->errnum == ELOOP || why->errnum == ENOTDIR ? ERR_REFUSED : why->kind,
		       "it is no whole pool: %s%s", why->text, advice);
}

static int open_dirs(struct pool *p, enum pool_access access, struct err *err)
{
	dev_t dev = 0;

	for (enum pool_dir i = POOL_TOP; i < POOL_NR_DIRS; i++) {
		struct err why = ERR_INIT;

		if (i != POOL_TOP)
			p->dirs[i] = file_open_beneath(p->dirs[POOL_TOP], dirs[i].name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW,
						       RESOLVE_NO_SYMLINKS, &why);
		if (p->dirs[i] >= 0) {
			if (check_ours(p, i, &dev, err) < 0)
				return -1;
		} else if (why.errnum == ENOENT && access == POOL_TO_REPAIR && may_be_made(i)) {
			p->dirs_missing |= 1u << i;
		} else {
			return not_whole(i, &why, err);
		}
	}
	return 0;
}

/* Backups like to leave empty directories out.  That this is a pool is known by now. */
static int make_missing_dirs(struct pool *p, struct err *err)
{
	for (enum pool_dir i = 0; i < POOL_NR_DIRS; i++) {
		if (!(p->dirs_missing & 1u << i))
			continue;
		p->dirs[i] = make_dir(p->dirs[POOL_TOP], dirs[i].name, dirs[i].mode, err);
		if (p->dirs[i] < 0 || file_sync_dir(p->dirs[POOL_TOP], err) < 0)
			return -1;
	}
	return 0;
}

const char *pool_dir_name(enum pool_dir i)
{
	return dirs[i].name;
}

static int lock(struct pool *p, struct err *err)
{
	int flags = (p->writing ? O_RDWR : O_RDONLY) | O_NOFOLLOW | O_NONBLOCK;
	struct err why = ERR_INIT;
	int rc = lock_file_take(&p->lock, p->dirs[POOL_TOP], "lock", flags, 0, &why);

	if (rc < 0 && why.errnum != ENOENT && why.errnum != ELOOP)
		return err_set(err, why.kind, "%s", why.text);
	if (rc < 0)
		return err_set(err, why.errnum == ENOENT ? ERR_FORMAT : ERR_REFUSED, "it is no whole pool: %s", why.text);
	if (rc)
		return 0;
	err_set(err, ERR_BUSY, "another dedupscan %s it; wait for it", p->writing ? "uses" : "changes");
	return lock_file_held(err);
}

static int open_clusters(struct pool *p, struct err *err)
{
	p->clusters = clusters_open(p->dirs[POOL_TOP], p->writing, err);
	if (!p->clusters)
		return -1;
	memcpy(p->uuid, clusters_pool(p->clusters), sizeof(p->uuid));
	return 0;
}

/* What the finder has lost of nodes is added again by nodes_open(), so it must be empty then.  Blocks that come from now on have
 * keys. */
static int open_finder(struct pool *p, struct err *err)
{
	struct cluster_span grows = clusters_growing(p->clusters);
	uint64_t begin, end;
	bool whole;

	p->finder = finder_open(p->dirs[POOL_INDEX], cluster_file_id(grows.file)->uuid, p->memory, true, &whole, err);
	if (!p->finder || (!whole && finder_clear(p->finder, err) < 0))
		return -1;
	finder_lacks(p->finder, &begin, &end);
	if (end > cluster_offset(grows.end))
		finder_set_lacks(p->finder, max_u64(begin, POOL_DATA_BEGIN), cluster_offset(grows.end));
	return 0;
}

static int sync_clusters(void *ctx, struct err *err)
{
	return clusters_sync(ctx, err);
}

static int open_nodes_as(struct pool *p, const char *name, struct err *err)
{
	p->nodes = nodes_open(p->dirs[POOL_TREES], name, p->clusters, p->finder, p->writing, &p->nr_damaged, err);
	if (!p->nodes)
		return -1;
	if (p->writing)
		nodes_set_before_write(p->nodes, sync_clusters, p->clusters);
	return 0;
}

static int open_nodes(struct pool *p, enum pool_access access, struct err *err)
{
	char name[NODES_ROOM];
	struct stat st;

	if (file_ops->fstatat(p->dirs[POOL_TREES], nodes_name(p->uuid, name), &st, AT_SYMLINK_NOFOLLOW) == 0)
		return open_nodes_as(p, name, err);
	if (errno != ENOENT)
		return err_errno(err, "cannot look at 'trees/%s'", name);
	p->nodes_missing = true;
	if (access == POOL_TO_REPAIR)
		return open_nodes_as(p, NULL, err);
	/* A new one would hide that all is lost. */
	return err_set(err, ERR_FORMAT,
		       "it is no whole pool: 'trees/%s' is missing; put it back from a backup, or dedupscan pool repair "
		       "rebuilds of it what views have", name);
}

int pool_new_nodes(struct pool *p, struct err *err)
{
	char name[NODES_ROOM];

	if (make_file(p->dirs[POOL_TREES], nodes_name(p->uuid, name), err) < 0 || file_sync_dir(p->dirs[POOL_TREES], err) < 0)
		return -1;
	nodes_close(p->nodes);
	p->nodes = NULL;
	p->nodes_missing = false;
	return open_nodes_as(p, name, err);
}

static struct pool *pool_new(const char *path, bool writing, struct err *err)
{
	struct pool *p = calloc(1, sizeof(*p));

	if (!p)
		return err_null(err, ERR_MEMORY, "out of memory");
	for (enum pool_dir i = POOL_TOP; i < POOL_NR_DIRS; i++)
		p->dirs[i] = -1;
	p->lock = (struct lock_file)LOCK_FILE_INIT;
	p->writing = writing;
	p->path = strdup(path);
	if (p->path)
		return p;
	pool_close(p);
	return err_null(err, ERR_MEMORY, "out of memory");
}

int pool_open(int dirfd, const char *name, const char *path, bool writing, struct pool **ret, struct err *err)
{
	return pool_open_with(dirfd, name, path, writing ? POOL_TO_WRITE : POOL_TO_READ, POOL_MEMORY, ret, err);
}

int pool_open_with(int dirfd, const char *name, const char *path, enum pool_access access, size_t memory, struct pool **ret,
		   struct err *err)
{
	bool writing = access != POOL_TO_READ;
	CLEANUP(pool_close) struct pool *p = pool_new(path, writing, err);
	struct err why = ERR_INIT;

	if (!p)
		return -1;
	p->memory = memory > POOL_MEMORY_MIN ? memory : POOL_MEMORY_MIN;
	signal(SIGXFSZ, SIG_IGN);
	p->dirs[POOL_TOP] = file_open_beneath(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, RESOLVE_NO_SYMLINKS, &why);
	if (p->dirs[POOL_TOP] < 0 && why.errnum == ENOENT) {
		*ret = NULL;
		return 0;
	}
	if (p->dirs[POOL_TOP] < 0)
		return err_set(err, why.errnum == ELOOP || why.errnum == ENOTDIR ? ERR_REFUSED : why.kind, "pool '%s': %s", path,
			       why.text);
	if (open_dirs(p, access, err) < 0 || lock(p, err) < 0 || open_clusters(p, err) < 0 || make_missing_dirs(p, err) < 0 ||
	    (writing && open_finder(p, err) < 0) || open_nodes(p, access, err) < 0)
		return err_add(err, "pool '%s'", path);
	if (writing) {
		p->immutable = immutable_told(p);
		p->reading = stub_told(p);
	}
	p->file_size = growth_told(p);
	*ret = STEAL(p);
	return 0;
}

void pool_close(struct pool *p)
{
	if (!p)
		return;
	view_forget(p);
	names_forget(p);
	if (p->writing && p->nodes) /* it was opened, whole */
		immutable_rest(p);
	nodes_close(p->nodes);
	finder_close(p->finder);
	clusters_close(p->clusters);
	for (enum pool_dir i = POOL_TOP; i < POOL_NR_DIRS; i++)
		if (p->dirs[i] >= 0)
			file_ops->close(p->dirs[i]);
	lock_file_release(&p->lock); /* last */
	free(p->path);
	free(p);
}

int pool_sync(struct pool *p, struct err *err)
{
	uint64_t end;

	finder_set_reach(p->finder, max_u64(finder_reach(p->finder), nodes_reach(p->nodes)));
	if (clusters_sync(p->clusters, err) < 0 || nodes_sync(p->nodes, &end, err) < 0 || finder_sync(p->finder, end, err) < 0)
		return pool_err(p, err);
	return 0;
}

int pool_err(const struct pool *p, struct err *err)
{
	char context[PATH_MAX + 16];

	snprintf(context, sizeof(context), "pool '%s': ", p->path);
	return err && strncmp(err->text, context, strlen(context)) == 0 ? -1 : err_add(err, "pool '%s'", p->path);
}
