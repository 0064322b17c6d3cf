/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_NAME_ROWS_H
#define DEDUPSCAN_NAME_ROWS_H

#include <sys/stat.h>

#include "compactor/pool/names.h"

/* The rows by which names are found (names.h), and the file index/names that has them from one process to the next.  Nobody but
 * names.c includes this. */

#define NAME_ROWS_CHANGED 32

/* What may have to be tidied up after the changes of this process; more than there is room for = all. */
struct name_changes {
	uint8_t lost[NAME_ROWS_CHANGED][POOL_ID_SIZE]; /* sealed overlays that a row knew which went */
	struct {
		uint64_t path;
		uint8_t below[POOL_ID_SIZE];
	} members[NAME_ROWS_CHANGED]; /* that came */
	size_t nr_lost, nr_members;
	bool other;
};

struct name_rows {
	VEC(struct name_row) list;
	struct stat dir;    /* names/, when they were as it is */
	uint64_t highest;   /* number of any row */
	uint64_t next;	    /* number of the next name; 0 = not known */
	unsigned nr_beside; /* files that are to become names */
	bool unsure;	    /* whether that is all */
	bool loaded, saved; /* the file has them; nothing was changed since */
	bool spoilt;	    /* the file is not to be believed now */
	bool swept, ended;  /* names_swept(), names_left_nothing() */
	struct name_changes changes; /* since */
	size_t changed[NAME_ROWS_CHANGED], nr_changed; /* rows that the file has otherwise; more than that = all of them */
};

/* Those that the file has, if it is of this boot and names/ was not changed since: true. */
bool name_rows_load(struct pool *p, struct name_rows *ret);
/* Before names/ is changed: the file is not to be believed until name_rows_save(), whatever comes. */
void name_rows_spoil(struct pool *p);
/* Not synced, for after a power cut they are made anew.  Failures are nobody's business but the next one's, who makes them anew. */
void name_rows_save(struct pool *p, struct name_rows *r);

/* names/ is as it was when the rows were made. */
bool name_rows_are_current(const struct pool *p, const struct name_rows *r);
/* names/ is as they say, now. */
int name_rows_note_time(const struct pool *p, struct name_rows *r, struct err *err);

/* No member among the changes is at the path of another that stands on the same. */
bool name_rows_replace_none(const struct name_rows *r);

int name_rows_add(struct name_rows *r, const struct name *n, struct err *err);
void name_rows_remove(struct name_rows *r, uint64_t number);
uint64_t name_row_hash(const char *text);

#endif
