/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "scanner/catalog_parts.h"

/*
 * SQLite holds what is small and must change together; bulk data lies in files of our own that rows name.  A file is written
 * and synced before the row that names it is committed, and removed only after the row that named it is gone.
 */

#define CATALOG_VERSION 2

static const char schema[] =
	"CREATE TABLE IF NOT EXISTS numbers (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;"
	"CREATE TABLE IF NOT EXISTS stores (root TEXT PRIMARY KEY, added_at INTEGER NOT NULL) WITHOUT ROWID;"
	"CREATE TABLE IF NOT EXISTS images ("
	" id INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT NOT NULL UNIQUE,"
	" dev INTEGER, ino INTEGER, size INTEGER, mtime INTEGER, ctime INTEGER, racy INTEGER NOT NULL DEFAULT 1, told "
	"INTEGER NOT NULL DEFAULT 0,"
	" parts BLOB,"
	" base INTEGER NOT NULL DEFAULT 0, format TEXT, backing TEXT, backing_path TEXT, features TEXT, warning TEXT,"
	" error_kind TEXT, error TEXT,"
	" virtual_size INTEGER, span INTEGER, layer INTEGER, cluster_size INTEGER, file_used INTEGER,"
	" nr_stored INTEGER, nr_zero INTEGER, nr_snapshots INTEGER,"
	" part_of INTEGER NOT NULL DEFAULT 0, scanned_at INTEGER);"
	"CREATE INDEX IF NOT EXISTS images_by_file ON images (dev, ino);"
	"CREATE INDEX IF NOT EXISTS images_by_owner ON images (part_of) WHERE part_of <> 0;"
	"CREATE TABLE IF NOT EXISTS parts ("
	" image INTEGER, seq INTEGER, path TEXT NOT NULL, dev INTEGER, ino INTEGER, size INTEGER, mtime INTEGER,"
	" ctime INTEGER, PRIMARY KEY (image, seq)) WITHOUT ROWID;"
	"CREATE INDEX IF NOT EXISTS parts_by_file ON parts (dev, ino);"
	"CREATE TABLE IF NOT EXISTS segments ("
	" image INTEGER, segment INTEGER, generation INTEGER NOT NULL, digest BLOB NOT NULL,"
	" stored INTEGER NOT NULL, zero INTEGER NOT NULL, base INTEGER NOT NULL,"
	" PRIMARY KEY (image, segment)) WITHOUT ROWID;"
	"CREATE TABLE IF NOT EXISTS partitions (bits INTEGER, prefix INTEGER, PRIMARY KEY (bits, prefix)) WITHOUT "
	"ROWID;"
	"CREATE TABLE IF NOT EXISTS tables ("
	" bits INTEGER, prefix INTEGER, seq INTEGER, name TEXT NOT NULL,"
	" nr_keys INTEGER NOT NULL, nr_places INTEGER NOT NULL, bytes INTEGER NOT NULL,"
	" PRIMARY KEY (bits, prefix, seq)) WITHOUT ROWID;"
	"CREATE UNIQUE INDEX IF NOT EXISTS tables_by_name ON tables (name);"
	"CREATE TABLE IF NOT EXISTS merge_inputs (image INTEGER PRIMARY KEY, shift INTEGER NOT NULL);"
	"CREATE TABLE IF NOT EXISTS scans ("
	" id INTEGER PRIMARY KEY, started INTEGER, ended INTEGER, result TEXT,"
	" nr_images INTEGER, nr_read INTEGER, nr_failed INTEGER, bytes_read INTEGER,"
	" virtual_size INTEGER, stored INTEGER, nonzero INTEGER, distinct_size INTEGER);"
	"INSERT OR IGNORE INTO numbers VALUES ('compact_rate', 0);"
	"INSERT OR IGNORE INTO partitions SELECT 0, 0 WHERE NOT EXISTS (SELECT 1 FROM partitions);"
	"CREATE TEMP TABLE found ("
	" path TEXT PRIMARY KEY, dev INTEGER, ino INTEGER, size INTEGER, mtime INTEGER, ctime INTEGER,"
	" file_used INTEGER, named INTEGER, block_device INTEGER) WITHOUT ROWID;"
	"CREATE UNIQUE INDEX temp.found_by_file ON found (dev, ino);";

/* ---- opening ---- */

int catalog_default_dir(char *ret, size_t room, struct err *err)
{
	const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
	int n;

	if (geteuid() == 0)
		n = snprintf(ret, room, "/var/lib/dedupscan");
	else if (state && state[0] == '/')
		n = snprintf(ret, room, "%s/dedupscan", state);
	else if (home && home[0] == '/')
		n = snprintf(ret, room, "%s/.local/state/dedupscan", home);
	else
		return err_set(err, ERR_USAGE,
			       "there is no home directory for the catalog; give one with --catalog DIR");
	return (size_t)n < room ? 0 : err_set(err, ERR_USAGE, "the catalog's path is too long");
}

static int make_parents(const char *dir, struct err *err)
{
	char path[PATH_MAX];

	if (strlen(dir) >= sizeof(path))
		return err_set(err, ERR_USAGE, "the catalog's path is too long");
	strcpy(path, dir);
	for (char *p = path + 1; *p; p++) {
		if (*p != '/')
			continue;
		*p = '\0';
		if (file_mkdir(AT_FDCWD, path, 0755, err) < 0)
			return -1;
		*p = '/';
	}
	return file_mkdir(AT_FDCWD, path, 0700, err);
}

static int open_subdir(struct catalog *c, const char *name, int *ret, struct err *err)
{
	if (file_mkdir(c->dirfd, name, 0700, err) < 0)
		return -1;
	*ret = file_open(c->dirfd, name, O_RDONLY | O_DIRECTORY, 0, err);
	return *ret < 0 ? -1 : 0;
}

static int lock(struct catalog *c, struct err *err)
{
	int rc = lock_file_take(&c->lock, c->dirfd, "lock", O_RDWR | O_CREAT, 0600, err);

	if (rc < 0)
		return err_add(err, "catalog '%s'", c->dir);
	return rc ? 0 : err_set(err, ERR_BUSY, "catalog '%s' is in use by another dedupscan; wait for it to end", c->dir);
}

/* Before anything is written: what another version of the program made is left as it is. */
static int refuse_other_versions(struct catalog *c, struct err *err)
{
	/* A new catalog has no such table; one that is damaged is told of later. */
	struct sql_query *q = sql_query(c->db, NULL, "SELECT value FROM numbers WHERE name = 'version'", "");
	int64_t version = q && sql_step(q, NULL) > 0 ? sql_int(q, 0) : 0;

	sql_end(q);
	if (version > CATALOG_VERSION)
		return err_set(err, ERR_UNSUPPORTED, "catalog '%s' was written by a newer dedupscan", c->dir);
	if (version && version < CATALOG_VERSION)
		return err_set(
			err, ERR_UNSUPPORTED,
			"catalog '%s' was written by an older dedupscan; remove it, and the next scan makes it anew",
			c->dir);
	return 0;
}

static int open_database(struct catalog *c, struct err *err)
{
	char path[PATH_MAX], what[PATH_MAX + 16];
	uint64_t version;
	int fd;

	/* SQLite would make it readable for everybody. */
	fd = file_open(c->dirfd, "catalog.db", O_RDWR | O_CREAT, 0600, err);
	if (fd < 0 || file_close(fd, "catalog.db", err) < 0)
		return -1;
	snprintf(path, sizeof(path), "%s/catalog.db", c->dir);
	snprintf(what, sizeof(what), "catalog '%s'", c->dir);
	c->db = sql_open(path, what, err);
	if (!c->db || refuse_other_versions(c, err) < 0)
		return -1;
	if (sql_execute(
		    c->db,
		    "PRAGMA page_size=4096; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-1024;"
		    "PRAGMA wal_autocheckpoint=1000; PRAGMA temp_store=FILE;",
		    err) < 0 ||
	    sql_execute(c->db, "BEGIN", err) < 0 || sql_execute(c->db, schema, err) < 0 ||
	    sql_execute(c->db, "COMMIT", err) < 0 || catalog_number(c, "version", &version, err) < 0)
		return -1;
	return version ? 0 : catalog_set_number(c, "version", CATALOG_VERSION, err);
}

struct catalog *catalog_open(const char *dir, bool create, struct err *err)
{
	CLEANUP(catalog_close) struct catalog *c = calloc(1, sizeof(*c));

	if (!c || !(c->dir = strdup(dir)))
		return err_null(err, ERR_MEMORY, "no memory for a catalog");
	c->dirfd = c->index_dirfd = c->spool_dirfd = -1;
	c->lock = (struct lock_file)LOCK_FILE_INIT;
	c->remover = syncer_new(1, err);
	if (!c->remover || (create && make_parents(dir, err) < 0))
		return NULL;
	c->dirfd = file_open(AT_FDCWD, dir, O_RDONLY | O_DIRECTORY, 0, err);
	if (c->dirfd < 0) {
		err_add(err, "no catalog in '%s'", dir);
		if (!create && err && err->errnum == ENOENT)
			err->kind = ERR_USAGE;
		return NULL;
	}
	if (!create && faccessat(c->dirfd, "catalog.db", F_OK, 0) < 0) {
		err_named(err, "no catalog in '%s'", dir);
		return NULL;
	}
	if (lock(c, err) < 0 || open_subdir(c, "index", &c->index_dirfd, err) < 0 ||
	    open_subdir(c, "spool", &c->spool_dirfd, err) < 0 || open_database(c, err) < 0)
		return NULL;
	return STEAL(c);
}

void catalog_close(struct catalog *c)
{
	if (!c)
		return;
	syncer_free(c->remover);
	sql_close(c->db);
	if (c->index_dirfd >= 0)
		close(c->index_dirfd);
	if (c->spool_dirfd >= 0)
		close(c->spool_dirfd);
	if (c->dirfd >= 0)
		close(c->dirfd);
	lock_file_release(&c->lock); /* last */
	free(c->dir);
	free(c);
}

int catalog_dirfd(const struct catalog *c)
{
	return c->dirfd;
}

int catalog_index_dirfd(const struct catalog *c)
{
	return c->index_dirfd;
}

int catalog_spool_dirfd(const struct catalog *c)
{
	return c->spool_dirfd;
}

int catalog_remove_file(struct catalog *c, int dirfd, const char *name, struct err *err)
{
	CLEANUP(close_fd) int fd = file_open(dirfd, name, O_RDONLY | O_NONBLOCK | O_NOFOLLOW, 0, NULL);

	if (file_unlink(dirfd, name, err) < 0)
		return -1;
	if (fd >= 0)
		syncer_add_removed(c->remover, STEAL_FD(fd));
	return 0;
}

struct spool_identity catalog_identity(const struct catalog *c)
{
	struct stat st;

	return fstat(c->dirfd, &st) == 0 ? spool_identity_of(&st) : (struct spool_identity){ 0 };
}

int catalog_begin(struct catalog *c, struct err *err)
{
	return sql_execute(c->db, "BEGIN IMMEDIATE", err);
}

int catalog_commit(struct catalog *c, struct err *err)
{
	if (sql_execute(c->db, "COMMIT", err) == 0)
		return 0;
	catalog_rollback(c);
	return -1;
}

void catalog_rollback(struct catalog *c)
{
	if (sql_in_transaction(c->db))
		sql_execute(c->db, "ROLLBACK", NULL);
}

int catalog_number(struct catalog *c, const char *name, uint64_t *ret, struct err *err)
{
	struct sql_query *q = sql_query(c->db, err, "SELECT value FROM numbers WHERE name = ?", "s", name);
	int rc = sql_step(q, err);

	if (rc < 0)
		return -1;
	*ret = rc ? (uint64_t)sql_int(q, 0) : 0;
	sql_end(q);
	return 0;
}

int catalog_set_number(struct catalog *c, const char *name, uint64_t value, struct err *err)
{
	return sql_run(
		sql_query(c->db, err, "INSERT OR REPLACE INTO numbers VALUES (?, ?)", "si", name, (int64_t)value), err);
}

/* ---- history ---- */

int catalog_add_root(struct catalog *c, const char *path, struct err *err)
{
	return sql_run(sql_query(c->db, err, "INSERT OR IGNORE INTO stores VALUES (?, ?)", "si", path,
				 (int64_t)time(NULL)),
		       err);
}

int catalog_add_scan(struct catalog *c, const struct catalog_scan *s, struct err *err)
{
	return sql_run(sql_query(c->db, err, "INSERT INTO scans VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
				 "iisiiiiiiii", s->started, s->ended, s->result, (int64_t)s->nr_images,
				 (int64_t)s->nr_read, (int64_t)s->nr_failed, (int64_t)s->bytes_read,
				 (int64_t)s->virtual_size, (int64_t)s->stored, (int64_t)s->nonzero,
				 (int64_t)s->distinct),
		       err);
}

struct sizes {
	int dirfd;
	uint64_t sum;
};

static int add_size(void *ctx, const char *name, struct err *err)
{
	struct sizes *s = ctx;
	struct stat st;

	(void)err;
	if (fstatat(s->dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode))
		s->sum += (uint64_t)st.st_size;
	return 0;
}

static int sizes_in(int dirfd, uint64_t *sum, struct err *err)
{
	struct sizes s = { dirfd, 0 };
	int rc = file_each_name(dirfd, add_size, &s, err);

	*sum += s.sum;
	return rc;
}

int catalog_disk_use(struct catalog *c, uint64_t *ret_index, uint64_t *ret_all, struct err *err)
{
	uint64_t index = 0, all = 0;

	sql_checkpoint(c->db);
	if (sizes_in(c->index_dirfd, &index, err) < 0 || sizes_in(c->dirfd, &all, err) < 0 ||
	    sizes_in(c->spool_dirfd, &all, err) < 0)
		return -1;
	*ret_index = index;
	*ret_all = all + index;
	return 0;
}

struct spool_identity catalog_take_identity(struct sql_query *q, int i)
{
	return (struct spool_identity){ (uint64_t)sql_int(q, i), (uint64_t)sql_int(q, i + 1),
					(uint64_t)sql_int(q, i + 2), sql_int(q, i + 3), sql_int(q, i + 4) };
}
