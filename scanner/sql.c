/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/sql.h"

#include <sqlite3.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "scanner/base/late.h"

#define QUERIES_MAX 64

#define CALLS(X)													\
	X(sqlite3_temp_directory) X(sqlite3_errcode) X(sqlite3_errmsg) X(sqlite3_free) X(sqlite3_mprintf)		\
	X(sqlite3_open_v2) X(sqlite3_finalize) X(sqlite3_close) X(sqlite3_exec) X(sqlite3_prepare_v3)			\
	X(sqlite3_bind_int64) X(sqlite3_bind_text) X(sqlite3_bind_blob) X(sqlite3_reset) X(sqlite3_step)		\
	X(sqlite3_column_int64) X(sqlite3_column_text) X(sqlite3_column_blob) X(sqlite3_column_bytes)			\
	X(sqlite3_last_insert_rowid) X(sqlite3_changes) X(sqlite3_get_autocommit) X(sqlite3_wal_checkpoint_v2)
LATE_LIBRARY("libsqlite3.so.0", "libsqlite3, which keeps catalogs,", "libsqlite3-0", CALLS);

struct sql_query {
	struct sql *db;
	const char *text;
	sqlite3_stmt *statement;
};

struct sql {
	sqlite3 *db;
	char *what;
	struct sql_query queries[QUERIES_MAX];
};

static enum err_kind kind_of(int code)
{
	switch (code) {
	case SQLITE_FULL:
		return ERR_FULL;
	case SQLITE_BUSY:
		return ERR_BUSY;
	case SQLITE_NOMEM:
		return ERR_MEMORY;
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
		return ERR_FORMAT;
	default:
		return ERR_IO;
	}
}

static int failed(struct sql *db, struct err *err)
{
	return err_set(err, kind_of(lib.sqlite3_errcode(db->db)), "%s: %s", db->what, lib.sqlite3_errmsg(db->db));
}

/* Temporary files lie beside the database and not where the environment says: they tell what it tells. */
static bool keep_beside(const char *path)
{
	const char *slash = strrchr(path, '/');

	lib.sqlite3_free(*lib.sqlite3_temp_directory);
	*lib.sqlite3_temp_directory = slash ? lib.sqlite3_mprintf("%.*s", (int)(slash - path), path) : lib.sqlite3_mprintf(".");
	return *lib.sqlite3_temp_directory != NULL;
}

struct sql *sql_open(const char *path, const char *what, struct err *err)
{
	CLEANUP(sql_close) struct sql *db = NULL;

	if (late_load(&library, err) < 0)
		return NULL;
	db = calloc(1, sizeof(*db));
	if (!db || !(db->what = strdup(what)) || !keep_beside(path))
		return err_null(err, ERR_MEMORY, "no memory for a database");
	if (lib.sqlite3_open_v2(path, &db->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL) != SQLITE_OK) {
		failed(db, err);
		return NULL;
	}
	return STEAL(db);
}

void sql_close(struct sql *db)
{
	if (!db)
		return;
	for (size_t i = 0; i < QUERIES_MAX && db->queries[i].text; i++)
		lib.sqlite3_finalize(db->queries[i].statement);
	lib.sqlite3_close(db->db);
	free(db->what);
	free(db);
}

int sql_execute(struct sql *db, const char *statements, struct err *err)
{
	return lib.sqlite3_exec(db->db, statements, NULL, NULL, NULL) == SQLITE_OK ? 0 : failed(db, err);
}

/* A literal is known again by its address. */
static struct sql_query *prepare(struct sql *db, const char *text, struct err *err)
{
	struct sql_query *q = db->queries;

	while (q < db->queries + QUERIES_MAX && q->text && q->text != text)
		q++;
	if (q == db->queries + QUERIES_MAX)
		return err_null(err, ERR_MEMORY, "%s: too many statements", db->what);
	if (q->text)
		return q;
	if (lib.sqlite3_prepare_v3(db->db, text, -1, SQLITE_PREPARE_PERSISTENT, &q->statement, NULL) != SQLITE_OK) {
		failed(db, err);
		return NULL;
	}
	q->db = db;
	q->text = text;
	return q;
}

static void bind(struct sql_query *q, const char *types, va_list ap)
{
	const void *bytes;

	for (int i = 1; types[i - 1]; i++) {
		switch (types[i - 1]) {
		case 'i':
			lib.sqlite3_bind_int64(q->statement, i, va_arg(ap, int64_t));
			break;
		case 's':
			lib.sqlite3_bind_text(q->statement, i, va_arg(ap, const char *), -1, SQLITE_TRANSIENT);
			break;
		case 'b':
			bytes = va_arg(ap, const void *);
			lib.sqlite3_bind_blob(q->statement, i, bytes, va_arg(ap, int), SQLITE_TRANSIENT);
			break;
		}
	}
}

struct sql_query *sql_query(struct sql *db, struct err *err, const char *text, const char *types, ...)
{
	struct sql_query *q = prepare(db, text, err);
	va_list ap;

	if (!q)
		return NULL;
	lib.sqlite3_reset(q->statement);
	va_start(ap, types);
	bind(q, types, ap);
	va_end(ap);
	return q;
}

int sql_step(struct sql_query *q, struct err *err)
{
	int rc;

	if (!q)
		return -1;
	rc = lib.sqlite3_step(q->statement);
	if (rc == SQLITE_ROW)
		return 1;
	if (rc != SQLITE_DONE)
		failed(q->db, err);
	lib.sqlite3_reset(q->statement);
	return rc == SQLITE_DONE ? 0 : -1;
}

int sql_run(struct sql_query *q, struct err *err)
{
	int rc = sql_step(q, err);

	sql_end(q);
	return rc < 0 ? -1 : 0;
}

void sql_end(struct sql_query *q)
{
	if (q)
		lib.sqlite3_reset(q->statement);
}

int64_t sql_int(struct sql_query *q, int column)
{
	return lib.sqlite3_column_int64(q->statement, column);
}

const char *sql_text(struct sql_query *q, int column)
{
	return (const char *)lib.sqlite3_column_text(q->statement, column);
}

const void *sql_bytes(struct sql_query *q, int column, size_t *ret_len)
{
	const void *p = lib.sqlite3_column_blob(q->statement, column);

	*ret_len = (size_t)lib.sqlite3_column_bytes(q->statement, column);
	return p;
}

int64_t sql_last_id(struct sql *db)
{
	return lib.sqlite3_last_insert_rowid(db->db);
}

int64_t sql_changes(struct sql *db)
{
	return lib.sqlite3_changes(db->db);
}

bool sql_in_transaction(struct sql *db)
{
	return !lib.sqlite3_get_autocommit(db->db);
}

void sql_checkpoint(struct sql *db)
{
	lib.sqlite3_wal_checkpoint_v2(db->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
}
