/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/catalog.h"

#include <errno.h>
#include <fcntl.h>
#include <dirent.h>
#include <limits.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "scanner/base/checked.h"
#include "scanner/worker.h"

/*
 * SQLite holds what is small and must change together; bulk data lies in files of our own that rows name.  A file is written
 * and synced before the row that names it is committed, and removed only after the row that named it is gone.
 */

#define CATALOG_VERSION 1u
#define STATEMENTS_MAX 64

struct catalog {
	char *dir;
	int dirfd, index_dirfd, spool_dirfd, lock_fd;
	sqlite3 *db;
	struct {
		const char *sql;
		sqlite3_stmt *stmt;
	} statements[STATEMENTS_MAX];
};

static const char schema[] =
	"CREATE TABLE IF NOT EXISTS numbers (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;"
	"CREATE TABLE IF NOT EXISTS stores (root TEXT PRIMARY KEY, added_at INTEGER NOT NULL) WITHOUT ROWID;"
	"CREATE TABLE IF NOT EXISTS images ("
	" id INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT NOT NULL UNIQUE,"
	" dev INTEGER, ino INTEGER, size INTEGER, mtime INTEGER, ctime INTEGER, racy INTEGER NOT NULL DEFAULT 1,"
	" data_dev INTEGER, data_ino INTEGER, data_size INTEGER, data_mtime INTEGER, data_ctime INTEGER,"
	" base INTEGER NOT NULL DEFAULT 0, format TEXT, backing TEXT, backing_path TEXT, features TEXT, warning TEXT,"
	" error_kind TEXT, error TEXT,"
	" virtual_size INTEGER, span INTEGER, layer INTEGER, cluster_size INTEGER, file_used INTEGER,"
	" nr_stored INTEGER, nr_zero INTEGER, nr_snapshots INTEGER,"
	" part_of INTEGER NOT NULL DEFAULT 0, scanned_at INTEGER);"
	"CREATE INDEX IF NOT EXISTS images_by_file ON images (dev, ino);"
	"CREATE TABLE IF NOT EXISTS segments ("
	" image INTEGER, segment INTEGER, generation INTEGER NOT NULL, digest BLOB NOT NULL,"
	" stored INTEGER NOT NULL, zero INTEGER NOT NULL, base INTEGER NOT NULL,"
	" PRIMARY KEY (image, segment)) WITHOUT ROWID;"
	"CREATE TABLE IF NOT EXISTS partitions (bits INTEGER, prefix INTEGER, PRIMARY KEY (bits, prefix)) WITHOUT ROWID;"
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
	"INSERT OR IGNORE INTO partitions SELECT 0, 0 WHERE NOT EXISTS (SELECT 1 FROM partitions);"
	"CREATE TEMP TABLE found ("
	" path TEXT PRIMARY KEY, dev INTEGER, ino INTEGER, size INTEGER, mtime INTEGER, ctime INTEGER,"
	" file_used INTEGER, named INTEGER, block_device INTEGER) WITHOUT ROWID;"
	"CREATE UNIQUE INDEX temp.found_by_file ON found (dev, ino);";

/* ---- statements ---- */

static int sql_failed(struct catalog *c, struct err *err)
{
	int code = sqlite3_errcode(c->db);
	enum err_kind kind = code == SQLITE_FULL  ? ERR_FULL
			     : code == SQLITE_BUSY ? ERR_BUSY
			     : code == SQLITE_CORRUPT || code == SQLITE_NOTADB ? ERR_FORMAT
									       : ERR_IO;

	return err_set(err, kind, "catalog '%s': %s", c->dir, sqlite3_errmsg(c->db));
}

/* The statement of a literal, prepared once and bound by `types`: i int64_t, s string or NULL, b bytes and length. */
static sqlite3_stmt *query(struct catalog *c, struct err *err, const char *sql, const char *types, ...)
{
	sqlite3_stmt *s = NULL;
	va_list ap;
	size_t n;

	for (n = 0; n < STATEMENTS_MAX && c->statements[n].sql && c->statements[n].sql != sql; n++)
		;
	if (n == STATEMENTS_MAX)
		return err_null(err, ERR_MEMORY, "too many statements");
	if (!c->statements[n].sql) {
		if (sqlite3_prepare_v3(c->db, sql, -1, SQLITE_PREPARE_PERSISTENT, &c->statements[n].stmt, NULL) != SQLITE_OK) {
			sql_failed(c, err);
			return NULL;
		}
		c->statements[n].sql = sql;
	}
	s = c->statements[n].stmt;
	sqlite3_reset(s);
	va_start(ap, types);
	for (int i = 1; types[i - 1]; i++) {
		const void *p;

		switch (types[i - 1]) {
		case 'i':
			sqlite3_bind_int64(s, i, va_arg(ap, int64_t));
			break;
		case 's':
			sqlite3_bind_text(s, i, va_arg(ap, const char *), -1, SQLITE_TRANSIENT);
			break;
		case 'b':
			p = va_arg(ap, const void *);
			sqlite3_bind_blob(s, i, p, va_arg(ap, int), SQLITE_TRANSIENT);
			break;
		}
	}
	va_end(ap);
	return s;
}

/* 1 = a row, 0 = no more, -1 = failed. */
static int step(struct catalog *c, sqlite3_stmt *s, struct err *err)
{
	int rc;

	if (!s)
		return -1;
	rc = sqlite3_step(s);
	if (rc == SQLITE_ROW)
		return 1;
	if (rc != SQLITE_DONE)
		sql_failed(c, err);
	sqlite3_reset(s);
	return rc == SQLITE_DONE ? 0 : -1;
}

static int done(struct catalog *c, sqlite3_stmt *s, struct err *err)
{
	return step(c, s, err) < 0 ? -1 : 0;
}

static int64_t column(sqlite3_stmt *s, int i)
{
	return sqlite3_column_int64(s, i);
}

static const char *column_text(sqlite3_stmt *s, int i)
{
	return (const char *)sqlite3_column_text(s, i);
}

static int execute(struct catalog *c, const char *sql, struct err *err)
{
	return sqlite3_exec(c->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : sql_failed(c, err);
}

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
		return err_set(err, ERR_USAGE, "there is no home directory for the catalog; give one with --catalog DIR");
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

/* The kernel drops the lock with its holder: no stale lock can be left. */
static int lock(struct catalog *c, struct err *err)
{
	struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	c->lock_fd = file_open(c->dirfd, "lock", O_RDWR | O_CREAT, 0600, err);
	if (c->lock_fd < 0)
		return -1;
	if (fcntl(c->lock_fd, F_OFD_SETLK, &l) == 0)
		return 0;
	if (errno == EAGAIN || errno == EACCES)
		return err_set(err, ERR_BUSY, "catalog '%s' is in use by another dedupscan; wait for it to end", c->dir);
	return err_errno(err, "cannot lock catalog '%s'", c->dir);
}

/* Before anything is written: what a newer program made is left as it is. */
static int refuse_newer(struct catalog *c, struct err *err)
{
	sqlite3_stmt *s = NULL;
	int64_t version = 0;

	if (sqlite3_prepare_v2(c->db, "SELECT value FROM numbers WHERE name = 'version'", -1, &s, NULL) == SQLITE_OK &&
	    sqlite3_step(s) == SQLITE_ROW)
		version = sqlite3_column_int64(s, 0);
	sqlite3_finalize(s); /* a new catalog has no such table; one that is damaged is told of later */
	return version > (int64_t)CATALOG_VERSION ?
		       err_set(err, ERR_UNSUPPORTED, "catalog '%s' was written by a newer dedupscan", c->dir) :
		       0;
}

static int open_database(struct catalog *c, struct err *err)
{
	char path[PATH_MAX];
	uint64_t version;

	snprintf(path, sizeof(path), "%s/catalog.db", c->dir);
	if (sqlite3_open_v2(path, &c->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL) != SQLITE_OK)
		return sql_failed(c, err);
	if (refuse_newer(c, err) < 0)
		return -1;
	if (execute(c, "PRAGMA page_size=4096; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-1024;"
		       "PRAGMA wal_autocheckpoint=1000; PRAGMA temp_store=FILE;", err) < 0 ||
	    execute(c, schema, err) < 0 || catalog_number(c, "version", &version, err) < 0)
		return -1;
	return version ? 0 : catalog_set_number(c, "version", CATALOG_VERSION, err);
}

struct catalog *catalog_open(const char *dir, bool create, struct err *err)
{
	CLEANUP(catalog_close) struct catalog *c = calloc(1, sizeof(*c));

	if (!c || !(c->dir = strdup(dir)))
		return err_null(err, ERR_MEMORY, "no memory for a catalog");
	c->dirfd = c->index_dirfd = c->spool_dirfd = c->lock_fd = -1;
	if (create && make_parents(dir, err) < 0)
		return NULL;
	c->dirfd = file_open(AT_FDCWD, dir, O_RDONLY | O_DIRECTORY, 0, err);
	if (c->dirfd < 0) {
		err_add(err, "no catalog in '%s'", dir);
		return NULL;
	}
	if (!create && faccessat(c->dirfd, "catalog.db", F_OK, 0) < 0) {
		err_errno(err, "no catalog in '%s'", dir);
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
	for (size_t i = 0; i < STATEMENTS_MAX && c->statements[i].sql; i++)
		sqlite3_finalize(c->statements[i].stmt);
	sqlite3_close(c->db);
	if (c->index_dirfd >= 0)
		close(c->index_dirfd);
	if (c->spool_dirfd >= 0)
		close(c->spool_dirfd);
	if (c->lock_fd >= 0)
		close(c->lock_fd);
	if (c->dirfd >= 0)
		close(c->dirfd);
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

const char *catalog_dir(const struct catalog *c)
{
	return c->dir;
}

struct spool_identity catalog_identity(const struct catalog *c)
{
	struct stat st;

	return fstat(c->dirfd, &st) == 0 ? spool_identity_of(&st) : (struct spool_identity){ 0 };
}

int catalog_begin(struct catalog *c, struct err *err)
{
	return execute(c, "BEGIN IMMEDIATE", err);
}

int catalog_commit(struct catalog *c, struct err *err)
{
	if (execute(c, "COMMIT", err) == 0)
		return 0;
	catalog_rollback(c);
	return -1;
}

void catalog_rollback(struct catalog *c)
{
	if (!sqlite3_get_autocommit(c->db))
		sqlite3_exec(c->db, "ROLLBACK", NULL, NULL, NULL);
}

int catalog_number(struct catalog *c, const char *name, uint64_t *ret, struct err *err)
{
	sqlite3_stmt *s = query(c, err, "SELECT value FROM numbers WHERE name = ?", "s", name);
	int rc = step(c, s, err);

	if (rc < 0)
		return -1;
	*ret = rc ? (uint64_t)column(s, 0) : 0;
	sqlite3_reset(s);
	return 0;
}

int catalog_set_number(struct catalog *c, const char *name, uint64_t value, struct err *err)
{
	return done(c, query(c, err, "INSERT OR REPLACE INTO numbers VALUES (?, ?)", "si", name, (int64_t)value), err);
}

/* ---- images ---- */

#define IMAGE_COLUMNS                                                                                                  \
	"id, path, dev, ino, size, mtime, ctime, racy, data_dev, data_ino, data_size, data_mtime, data_ctime, base,"   \
	" format, backing, backing_path, features, warning, error_kind, error,"                                        \
	" virtual_size, span, layer, cluster_size, file_used, nr_stored, nr_zero, nr_snapshots, part_of, scanned_at"

void catalog_image_release(struct catalog_image *i)
{
	char **texts[] = { &i->path, &i->format, &i->backing, &i->backing_path, &i->features, &i->warning, &i->error_kind,
			   &i->error };

	for (size_t n = 0; n < ARRAY_SIZE(texts); n++)
		free(*texts[n]);
	*i = (struct catalog_image){ 0 };
}

/* Copies a text column; NULL stays NULL.  False when memory is out. */
static bool take_text(sqlite3_stmt *s, int i, char **ret)
{
	const char *text = column_text(s, i);

	*ret = text ? strdup(text) : NULL;
	return !text || *ret;
}

static struct spool_identity take_identity(sqlite3_stmt *s, int i)
{
	return (struct spool_identity){ (uint64_t)column(s, i), (uint64_t)column(s, i + 1), (uint64_t)column(s, i + 2),
					column(s, i + 3), column(s, i + 4) };
}

static int take_image(sqlite3_stmt *s, struct catalog_image *ret, struct err *err)
{
	catalog_image_release(ret);
	*ret = (struct catalog_image){
		.id = column(s, 0),
		.identity = take_identity(s, 2),
		.racy = column(s, 7),
		.data_file = take_identity(s, 8),
		.base = (uint64_t)column(s, 13),
		.virtual_size = (uint64_t)column(s, 21),
		.span = (uint64_t)column(s, 22),
		.layer = (uint64_t)column(s, 23),
		.cluster_size = (uint64_t)column(s, 24),
		.file_used = (uint64_t)column(s, 25),
		.nr_stored = (uint64_t)column(s, 26),
		.nr_zero = (uint64_t)column(s, 27),
		.nr_snapshots = (unsigned)column(s, 28),
		.part_of = column(s, 29),
		.scanned_at = column(s, 30),
	};
	if (take_text(s, 1, &ret->path) && take_text(s, 14, &ret->format) && take_text(s, 15, &ret->backing) &&
	    take_text(s, 16, &ret->backing_path) && take_text(s, 17, &ret->features) && take_text(s, 18, &ret->warning) &&
	    take_text(s, 19, &ret->error_kind) && take_text(s, 20, &ret->error))
		return 0;
	return err_set(err, ERR_MEMORY, "no memory for an image's row");
}

static int one_image(struct catalog *c, sqlite3_stmt *s, struct catalog_image *ret, struct err *err)
{
	int rc = step(c, s, err);

	if (rc > 0) {
		rc = take_image(s, ret, err) < 0 ? -1 : 1;
		sqlite3_reset(s);
	}
	return rc;
}

int catalog_image_by_path(struct catalog *c, const char *path, struct catalog_image *ret, struct err *err)
{
	return one_image(c, query(c, err, "SELECT " IMAGE_COLUMNS " FROM images WHERE path = ?", "s", path), ret, err);
}

int catalog_image_by_id(struct catalog *c, int64_t id, struct catalog_image *ret, struct err *err)
{
	return one_image(c, query(c, err, "SELECT " IMAGE_COLUMNS " FROM images WHERE id = ?", "i", id), ret, err);
}

int catalog_image_add(struct catalog *c, const char *path, int64_t *ret, struct err *err)
{
	if (done(c, query(c, err, "INSERT INTO images (path) VALUES (?)", "s", path), err) < 0)
		return -1;
	*ret = sqlite3_last_insert_rowid(c->db);
	return 0;
}

int catalog_image_rename(struct catalog *c, int64_t id, const char *path, struct err *err)
{
	return done(c, query(c, err, "UPDATE images SET path = ? WHERE id = ?", "si", path, id), err);
}

static int remove_segments(struct catalog *c, int64_t id, struct err *err)
{
	return done(c, query(c, err, "DELETE FROM segments WHERE image = ?", "i", id), err);
}

int catalog_image_remove(struct catalog *c, int64_t id, struct err *err)
{
	if (remove_segments(c, id, err) < 0 ||
	    done(c, query(c, err, "UPDATE images SET part_of = 0 WHERE part_of = ?", "i", id), err) < 0)
		return -1;
	return done(c, query(c, err, "DELETE FROM images WHERE id = ?", "i", id), err);
}

int catalog_image_failed(struct catalog *c, int64_t id, const struct spool_identity *identity, bool racy,
			 const char *format, const struct err *why, struct err *err)
{
	sqlite3_stmt *s;

	if (remove_segments(c, id, err) < 0)
		return -1;
	s = query(c, err,
		  "UPDATE images SET dev = ?, ino = ?, size = ?, mtime = ?, ctime = ?, racy = ?, base = base + 1, format = ?,"
		  " backing = NULL, backing_path = NULL, features = NULL, warning = NULL, error_kind = ?, error = ?,"
		  " virtual_size = 0, nr_stored = 0, nr_zero = 0, nr_snapshots = 0, scanned_at = ? WHERE id = ?",
		  "iiiiiisssii", (int64_t)identity->dev, (int64_t)identity->ino, (int64_t)identity->size, identity->mtime,
		  identity->ctime, (int64_t)racy, format, err_kind_name(why->kind), why->text, (int64_t)time(NULL), id);
	return done(c, s, err);
}

int catalog_image_set_used(struct catalog *c, int64_t id, uint64_t file_used, struct err *err)
{
	return done(c, query(c, err, "UPDATE images SET file_used = ? WHERE id = ?", "ii", (int64_t)file_used, id), err);
}

int catalog_each_image(struct catalog *c, int (*call)(void *, const struct catalog_image *, struct err *), void *ctx,
		       struct err *err)
{
	sqlite3_stmt *s = query(c, err, "SELECT " IMAGE_COLUMNS " FROM images ORDER BY path", "");
	CLEANUP(catalog_image_release) struct catalog_image image = { 0 };
	int rc;

	while ((rc = step(c, s, err)) > 0) {
		if (take_image(s, &image, err) < 0 || (rc = call(ctx, &image, err)) != 0) {
			sqlite3_reset(s);
			return rc > 0 ? -1 : rc;
		}
	}
	return rc;
}

/* ---- found ---- */

int catalog_found_clear(struct catalog *c, struct err *err)
{
	return execute(c, "DELETE FROM temp.found", err);
}

int catalog_found_add(struct catalog *c, const struct found *f, struct err *err)
{
	sqlite3_stmt *s = query(c, err, "INSERT OR IGNORE INTO temp.found VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", "siiiiiiii",
				f->path, (int64_t)f->identity.dev, (int64_t)f->identity.ino, (int64_t)f->identity.size,
				f->identity.mtime, f->identity.ctime, (int64_t)f->file_used, (int64_t)f->named,
				(int64_t)f->block_device);

	if (done(c, s, err) < 0)
		return -1;
	return sqlite3_changes(c->db) > 0;
}

int catalog_each_found(struct catalog *c, int (*call)(void *, const struct found *, struct err *), void *ctx, struct err *err)
{
	sqlite3_stmt *s = query(c, err, "SELECT * FROM temp.found ORDER BY path", "");
	int rc;

	while ((rc = step(c, s, err)) > 0) {
		struct found f = { .path = strdup(column_text(s, 0)), .identity = take_identity(s, 1),
				   .file_used = (uint64_t)column(s, 6), .named = column(s, 7), .block_device = column(s, 8) };

		rc = f.path ? call(ctx, &f, err) : err_set(err, ERR_MEMORY, "no memory for a path");
		free(f.path);
		if (rc != 0)
			break;
	}
	if (s)
		sqlite3_reset(s);
	return rc;
}

/* The found file with the inode of a vanished image whose own name no image has yet. */
static int rename_if_moved(struct catalog *c, int64_t id, struct err *err)
{
	sqlite3_stmt *s = query(c, err,
				"SELECT f.path FROM temp.found f, images i WHERE i.id = ? AND f.dev = i.dev AND f.ino = i.ino"
				" AND NOT EXISTS (SELECT 1 FROM images o WHERE o.path = f.path)",
				"i", id);
	char *path;
	int rc = step(c, s, err);

	if (rc <= 0)
		return rc;
	path = strdup(column_text(s, 0));
	sqlite3_reset(s);
	rc = path ? catalog_image_rename(c, id, path, err) : err_set(err, ERR_MEMORY, "no memory for a path");
	free(path);
	return rc < 0 ? -1 : 1;
}

int catalog_settle_missing(struct catalog *c, const char *root, bool remove, uint64_t *nr_renamed, uint64_t *nr_removed,
			   struct err *err)
{
	const char *sql = "SELECT id FROM images WHERE id > ? AND (path = ?2 OR substr(path, 1, length(?2) + 1) = ?2 || '/'"
			  " OR ?2 = '/') AND path NOT IN (SELECT path FROM temp.found) ORDER BY id LIMIT 1";
	int64_t id = 0;
	int rc;

	for (;;) {
		sqlite3_stmt *s = query(c, err, sql, "is", id, root);

		rc = step(c, s, err);
		if (rc <= 0)
			return rc;
		id = column(s, 0);
		sqlite3_reset(s);
		rc = rename_if_moved(c, id, err);
		if (rc < 0)
			return -1;
		*nr_renamed += (uint64_t)rc;
		if (rc == 0 && remove) {
			if (catalog_image_remove(c, id, err) < 0)
				return -1;
			(*nr_removed)++;
		}
	}
}

/* ---- segments ---- */

ssize_t catalog_write_digests(struct catalog *c, int64_t image, int fd, struct err *err)
{
	sqlite3_stmt *s = query(c, err, "SELECT segment, digest FROM segments WHERE image = ? ORDER BY segment", "i", image);
	struct worker_digest buf[512];
	size_t nr = 0, total = 0;
	int rc;

	while ((rc = step(c, s, err)) > 0) {
		buf[nr].segment = (uint64_t)column(s, 0);
		if (sqlite3_column_bytes(s, 1) != sizeof(buf[nr].digest)) {
			sqlite3_reset(s);
			return err_set(err, ERR_FORMAT, "catalog '%s': a segment's digest is damaged", c->dir);
		}
		memcpy(buf[nr++].digest, sqlite3_column_blob(s, 1), sizeof(buf[0].digest));
		if (nr == ARRAY_SIZE(buf)) {
			if (file_write(fd, buf, sizeof(buf), total * sizeof(buf[0]), err) < 0)
				goto failed;
			total += nr;
			nr = 0;
		}
	}
	if (rc < 0 || file_write(fd, buf, nr * sizeof(buf[0]), total * sizeof(buf[0]), err) < 0)
		return -1;
	return (ssize_t)(total + nr);
failed:
	sqlite3_reset(s);
	return -1;
}

int catalog_count_runs(struct catalog *c, int64_t image, uint64_t *ret, struct err *err)
{
	sqlite3_stmt *s = query(c, err,
				"SELECT count(*) FROM (SELECT generation, lag(generation) OVER (ORDER BY segment) AS before"
				" FROM segments WHERE image = ?) WHERE before IS NOT generation", "i", image);

	if (step(c, s, err) < 0)
		return -1;
	*ret = (uint64_t)column(s, 0);
	sqlite3_reset(s);
	return 0;
}

static int take_segment(struct catalog *c, int64_t image, const struct spool_segment *g, uint64_t generation, uint64_t base,
			struct err *err)
{
	int64_t segment = (int64_t)le64_get(g->segment), stored = le16_get(g->stored), zero = le16_get(g->zero);
	sqlite3_stmt *s;

	if (le16_get(g->flags) & SPOOL_SAME)
		s = query(c, err, "UPDATE segments SET stored = ?, zero = ?, base = ? WHERE image = ? AND segment = ?", "iiiii",
			  stored, zero, (int64_t)base, image, segment);
	else
		s = query(c, err, "INSERT OR REPLACE INTO segments VALUES (?, ?, ?, ?, ?, ?, ?)", "iiibiii", image, segment,
			  (int64_t)generation, g->digest, 16, stored, zero, (int64_t)base);
	return done(c, s, err);
}

static int take_segments(struct catalog *c, int64_t image, struct spool *sp, uint64_t generation, uint64_t base,
			 struct err *err)
{
	CLEANUP(free) struct spool_segment *g = malloc(SPOOL_FRAME_SEGMENTS * sizeof(*g));

	if (!g)
		return err_set(err, ERR_MEMORY, "no memory for segments");
	for (size_t i = 0; i < sp->nr_frames; i++) {
		ssize_t nr = spool_segments(sp, i, g, err);

		if (nr < 0)
			return -1;
		for (ssize_t k = 0; k < nr; k++)
			if (take_segment(c, image, &g[k], generation, base, err) < 0)
				return -1;
	}
	/* A segment that vanished keeps a row: were it gone, a run of its generation would seem to go on across it.  Not so behind
	 * the end: nothing follows there, and ids that far on are the next image's. */
	if (done(c, query(c, err, "DELETE FROM segments WHERE image = ? AND base <> ? AND segment >= ?", "iii", image, (int64_t)base,
			  (int64_t)div_up(sp->image.span, SEGMENT_SIZE)), err) < 0)
		return -1;
	return done(c, query(c, err,
			     "UPDATE segments SET generation = ?, digest = zeroblob(16), stored = 0, zero = 0, base = ?2"
			     " WHERE image = ? AND base <> ?2", "iii", (int64_t)generation, (int64_t)base, image), err);
}

static int update_image(struct catalog *c, int64_t id, const struct spool *sp, struct err *err)
{
	const struct spool_image *i = &sp->image;
	sqlite3_stmt *s;

	s = query(c, err,
		  "UPDATE images SET dev = ?, ino = ?, size = ?, mtime = ?, ctime = ?, racy = ?,"
		  " data_dev = ?, data_ino = ?, data_size = ?, data_mtime = ?, data_ctime = ?, base = ?,"
		  " format = ?, backing = ?, backing_path = ?, features = ?, warning = NULLIF(?, ''), error_kind = NULL, error = NULL,"
		  " virtual_size = ?, span = ?, layer = ?, cluster_size = ?, file_used = ?,"
		  " nr_stored = ?, nr_zero = ?, nr_snapshots = ?, scanned_at = ? WHERE id = ?",
		  "iiiiiiiiiiiisssssiiiiiiiiii", (int64_t)i->identity.dev, (int64_t)i->identity.ino, (int64_t)i->identity.size,
		  i->identity.mtime, i->identity.ctime, (int64_t)i->racy, (int64_t)i->data_file.dev, (int64_t)i->data_file.ino,
		  (int64_t)i->data_file.size, i->data_file.mtime, i->data_file.ctime, (int64_t)(i->base + 1),
		  spool_text(i, SPOOL_FORMAT), spool_text(i, SPOOL_BACKING),
		  spool_text(i, SPOOL_BACKING_PATH), spool_text(i, SPOOL_FEATURES),
		  spool_text(i, SPOOL_WARNING), (int64_t)i->virtual_size, (int64_t)i->span, (int64_t)i->layer,
		  (int64_t)i->cluster_size, (int64_t)i->file_used, (int64_t)sp->totals.nr_stored, (int64_t)sp->totals.nr_zero,
		  (int64_t)i->nr_snapshots, (int64_t)time(NULL), id);
	return done(c, s, err);
}

/* A data file belongs to its image: as an image of its own it would count twice. */
static int claim_data_file(struct catalog *c, int64_t id, const struct spool_identity *data, struct err *err)
{
	if (done(c, query(c, err, "UPDATE images SET part_of = 0 WHERE part_of = ?", "i", id), err) < 0)
		return -1;
	if (!data->ino)
		return 0;
	return done(c, query(c, err, "UPDATE images SET part_of = ? WHERE dev = ? AND ino = ? AND id <> ?", "iiii", id,
			     (int64_t)data->dev, (int64_t)data->ino, id), err);
}

int catalog_take_spool(struct catalog *c, int64_t image, struct spool *s, uint64_t generation, struct err *err)
{
	if (take_segments(c, image, s, generation, s->image.base + 1, err) < 0 || update_image(c, image, s, err) < 0)
		return -1;
	return claim_data_file(c, image, &s->image.data_file, err);
}

int catalog_each_run(struct catalog *c, int (*call)(void *, const struct segment_run *, struct err *), void *ctx,
		     struct err *err)
{
	sqlite3_stmt *s = query(c, err,
				"SELECT image, segment, generation FROM segments ORDER BY image, segment", "");
	struct segment_run run = { .image = -1 };
	int rc;

	while ((rc = step(c, s, err)) > 0) {
		int64_t image = column(s, 0);
		uint64_t segment = (uint64_t)column(s, 1), generation = (uint64_t)column(s, 2);

		if (image == run.image && generation == run.generation) {
			run.last = segment;
			continue;
		}
		if (run.image >= 0 && call(ctx, &run, err) < 0) {
			sqlite3_reset(s);
			return -1;
		}
		run = (struct segment_run){ image, generation, segment, segment };
	}
	if (rc == 0 && run.image >= 0)
		rc = call(ctx, &run, err);
	return rc;
}

int catalog_live_blocks(struct catalog *c, uint64_t *ret, struct err *err)
{
	sqlite3_stmt *s = query(c, err, "SELECT total(nr_stored - nr_zero) FROM images", "");

	if (step(c, s, err) < 0)
		return -1;
	*ret = (uint64_t)column(s, 0);
	sqlite3_reset(s);
	return 0;
}

/* ---- index ---- */

int catalog_each_partition(struct catalog *c, int (*call)(void *, const struct partition *, struct err *), void *ctx,
			   struct err *err)
{
	sqlite3_stmt *s = query(c, err,
				"SELECT p.bits, p.prefix, count(t.seq), total(t.nr_places) FROM partitions p"
				" LEFT JOIN tables t ON t.bits = p.bits AND t.prefix = p.prefix"
				" GROUP BY p.bits, p.prefix ORDER BY p.prefix << (32 - p.bits)", "");
	int rc;

	while ((rc = step(c, s, err)) > 0) {
		struct partition p = { (unsigned)column(s, 0), (uint32_t)column(s, 1), (unsigned)column(s, 2),
				       (uint64_t)column(s, 3) };

		if (call(ctx, &p, err) < 0) {
			sqlite3_reset(s);
			return -1;
		}
	}
	return rc;
}

int catalog_tables(struct catalog *c, unsigned bits, uint32_t prefix, struct index_table ret[PARTITION_TABLES],
		   struct err *err)
{
	sqlite3_stmt *s = query(c, err,
				"SELECT name, nr_keys, nr_places, bytes FROM tables WHERE bits = ? AND prefix = ? ORDER BY seq",
				"ii", (int64_t)bits, (int64_t)prefix);
	int nr = 0, rc;

	while ((rc = step(c, s, err)) > 0) {
		if (nr == PARTITION_TABLES) {
			sqlite3_reset(s);
			return err_set(err, ERR_FORMAT, "catalog '%s': a partition has too many tables", c->dir);
		}
		snprintf(ret[nr].name, sizeof(ret[nr].name), "%s", column_text(s, 0));
		ret[nr++].stats = (struct table_stats){ (uint64_t)column(s, 1), (uint64_t)column(s, 2), (uint64_t)column(s, 3) };
	}
	return rc < 0 ? -1 : nr;
}

int catalog_knows_table(struct catalog *c, const char *name, bool *ret, struct err *err)
{
	sqlite3_stmt *s = query(c, err, "SELECT 1 FROM tables WHERE name = ?", "s", name);
	int rc = step(c, s, err);

	if (rc < 0)
		return -1;
	*ret = rc;
	sqlite3_reset(s);
	return 0;
}

#define BENEATH " WHERE bits >= ?1 AND prefix >> (bits - ?1) = ?2"

int catalog_drop_partitions(struct catalog *c, unsigned bits, uint32_t prefix, struct err *err)
{
	if (done(c, query(c, err, "DELETE FROM tables" BENEATH, "ii", (int64_t)bits, (int64_t)prefix), err) < 0)
		return -1;
	return done(c, query(c, err, "DELETE FROM partitions" BENEATH, "ii", (int64_t)bits, (int64_t)prefix), err);
}

int catalog_add_partition(struct catalog *c, unsigned bits, uint32_t prefix, struct err *err)
{
	return done(c, query(c, err, "INSERT OR IGNORE INTO partitions VALUES (?, ?)", "ii", (int64_t)bits, (int64_t)prefix),
		    err);
}

int catalog_add_table(struct catalog *c, unsigned bits, uint32_t prefix, const struct index_table *t, struct err *err)
{
	sqlite3_stmt *s = query(c, err,
				"INSERT INTO tables SELECT ?1, ?2, 1 + coalesce(max(seq), -1), ?3, ?4, ?5, ?6 FROM tables"
				" WHERE bits = ?1 AND prefix = ?2", "iisiii", (int64_t)bits, (int64_t)prefix, t->name,
				(int64_t)t->stats.nr_keys, (int64_t)t->stats.nr_places, (int64_t)t->stats.bytes);

	return done(c, s, err);
}

int catalog_add_merge_input(struct catalog *c, int64_t image, uint64_t shift, struct err *err)
{
	return done(c, query(c, err, "INSERT OR REPLACE INTO merge_inputs VALUES (?, ?)", "ii", image, (int64_t)shift), err);
}

int catalog_each_merge_input(struct catalog *c, int (*call)(void *, int64_t, uint64_t, struct err *), void *ctx,
			     struct err *err)
{
	sqlite3_stmt *s = query(c, err, "SELECT image, shift FROM merge_inputs ORDER BY shift", "");
	int rc;

	while ((rc = step(c, s, err)) > 0) {
		if (call(ctx, column(s, 0), (uint64_t)column(s, 1), err) < 0) {
			sqlite3_reset(s);
			return -1;
		}
	}
	return rc;
}

int catalog_clear_merge_inputs(struct catalog *c, struct err *err)
{
	return done(c, query(c, err, "DELETE FROM merge_inputs", ""), err);
}

/* ---- history ---- */

int catalog_add_root(struct catalog *c, const char *path, struct err *err)
{
	return done(c, query(c, err, "INSERT OR IGNORE INTO stores VALUES (?, ?)", "si", path, (int64_t)time(NULL)), err);
}

int catalog_add_scan(struct catalog *c, const struct catalog_scan *s, struct err *err)
{
	return done(c, query(c, err, "INSERT INTO scans VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", "iisiiiiiiii", s->started,
			     s->ended, s->result, (int64_t)s->nr_images, (int64_t)s->nr_read, (int64_t)s->nr_failed,
			     (int64_t)s->bytes_read, (int64_t)s->virtual_size, (int64_t)s->stored, (int64_t)s->nonzero,
			     (int64_t)s->distinct), err);
}

static int sizes_in(int dirfd, uint64_t *sum, struct err *err)
{
	int fd = file_open(dirfd, ".", O_RDONLY | O_DIRECTORY, 0, err);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;
	struct stat st;

	if (!d)
		return fd < 0 ? -1 : err_errno(err, "cannot list a directory of the catalog");
	while ((e = readdir(d)))
		if (fstatat(dirfd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode))
			*sum += (uint64_t)st.st_size;
	closedir(d);
	return 0;
}

int catalog_disk_use(struct catalog *c, uint64_t *ret_index, uint64_t *ret_all, struct err *err)
{
	uint64_t index = 0, all = 0;

	sqlite3_wal_checkpoint_v2(c->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
	if (sizes_in(c->index_dirfd, &index, err) < 0 || sizes_in(c->dirfd, &all, err) < 0 ||
	    sizes_in(c->spool_dirfd, &all, err) < 0)
		return -1;
	*ret_index = index;
	*ret_all = all + index;
	return 0;
}
