/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/sql.h"

#include <sqlite3.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define QUERIES_MAX 64

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
	return err_set(err, kind_of(sqlite3_errcode(db->db)), "%s: %s", db->what, sqlite3_errmsg(db->db));
}

/* Temporary files lie beside the database and not where the environment says: they tell what it tells. */
static bool keep_beside(const char *path)
{
	const char *slash = strrchr(path, '/');

	sqlite3_free(sqlite3_temp_directory);
	sqlite3_temp_directory = slash ? sqlite3_mprintf("%.*s", (int)(slash - path), path) : sqlite3_mprintf(".");
	return sqlite3_temp_directory != NULL;
}

struct sql *sql_open(const char *path, const char *what, struct err *err)
{
	CLEANUP(sql_close) struct sql *db = calloc(1, sizeof(*db));

	if (!db || !(db->what = strdup(what)) || !keep_beside(path))
		return err_null(err, ERR_MEMORY, "no memory for a database");
	if (sqlite3_open_v2(path, &db->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL) != SQLITE_OK) {
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
		sqlite3_finalize(db->queries[i].statement);
	sqlite3_close(db->db);
	free(db->what);
	free(db);
}

int sql_execute(struct sql *db, const char *statements, struct err *err)
{
	return sqlite3_exec(db->db, statements, NULL, NULL, NULL) == SQLITE_OK ? 0 : failed(db, err);
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
	if (sqlite3_prepare_v3(db->db, text, -1, SQLITE_PREPARE_PERSISTENT, &q->statement, NULL) != SQLITE_OK) {
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
			sqlite3_bind_int64(q->statement, i, va_arg(ap, int64_t));
			break;
		case 's':
			sqlite3_bind_text(q->statement, i, va_arg(ap, const char *), -1, SQLITE_TRANSIENT);
			break;
		case 'b':
			bytes = va_arg(ap, const void *);
			sqlite3_bind_blob(q->statement, i, bytes, va_arg(ap, int), SQLITE_TRANSIENT);
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
	sqlite3_reset(q->statement);
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
	rc = sqlite3_step(q->statement);
	if (rc == SQLITE_ROW)
		return 1;
	if (rc != SQLITE_DONE)
		failed(q->db, err);
	sqlite3_reset(q->statement);
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
		sqlite3_reset(q->statement);
}

int64_t sql_int(struct sql_query *q, int column)
{
	return sqlite3_column_int64(q->statement, column);
}

const char *sql_text(struct sql_query *q, int column)
{
	return (const char *)sqlite3_column_text(q->statement, column);
}

const void *sql_bytes(struct sql_query *q, int column, size_t *ret_len)
{
	const void *p = sqlite3_column_blob(q->statement, column);

	*ret_len = (size_t)sqlite3_column_bytes(q->statement, column);
	return p;
}

int64_t sql_last_id(struct sql *db)
{
	return sqlite3_last_insert_rowid(db->db);
}

int64_t sql_changes(struct sql *db)
{
	return sqlite3_changes(db->db);
}

bool sql_in_transaction(struct sql *db)
{
	return !sqlite3_get_autocommit(db->db);
}

void sql_checkpoint(struct sql *db)
{
	sqlite3_wal_checkpoint_v2(db->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
}
