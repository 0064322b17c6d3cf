/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_SQL_H
#define DEDUPSCAN_SQL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "scanner/base/cleanup.h"
#include "scanner/base/err.h"

/* An SQLite database and its statements, with errors as ours (https://www.sqlite.org/c3ref/intro.html).
 *
 *	struct sql_query *q = sql_query(db, err, "SELECT size FROM images WHERE id = ?", "i", id);
 *	while ((rc = sql_step(q, err)) > 0)
 *		use(sql_int(q, 0));
 */

struct sql;
struct sql_query;

/* Opens or makes the file at `path`.  Messages call it `what`. */
struct sql *sql_open(const char *path, const char *what, struct err *err);
void sql_close(struct sql *db);
CLEANUP_DEFINE(struct sql *, sql_close)

/* Statements without values, several if need be. */
int sql_execute(struct sql *db, const char *statements, struct err *err);

/* The statement in the string literal `text`, prepared once for the life of the database, with values bound by `types`: i an
 * int64_t, s a string or NULL, b bytes and their length as an int.  NULL on error, which sql_step() takes. */
struct sql_query *sql_query(struct sql *db, struct err *err, const char *text, const char *types, ...);

/* 1 = a row is at hand, 0 = there are no more, -1 = it failed.  After 0 and -1 the query has ended. */
int sql_step(struct sql_query *q, struct err *err);
/* Runs a statement that gives no rows. */
int sql_run(struct sql_query *q, struct err *err);
/* Ends a query before its last row.  Takes NULL. */
void sql_end(struct sql_query *q);

/* Columns of the row at hand; text and bytes are valid until the next step. */
int64_t sql_int(struct sql_query *q, int column);
const char *sql_text(struct sql_query *q, int column); /* NULL for NULL */
const void *sql_bytes(struct sql_query *q, int column, size_t *ret_len);

int64_t sql_last_id(struct sql *db);	 /* of the row inserted last */
int64_t sql_changes(struct sql *db);	 /* rows that the last statement changed */
bool sql_in_transaction(struct sql *db);
void sql_checkpoint(struct sql *db);	 /* empties the write-ahead log, if nobody reads from it */

#endif
