/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_JSON_TREE_H
#define DEDUPSCAN_JSON_TREE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "reports/json_text.h"
#include "scanner/base/cleanup.h"

/* JSON as all commands print it: exact integers, times like 2026-11-21T02:24:51Z, everything in ASCII (all else is
 * \uNNNN), so that looking at it in a terminal is safe.
 *
 * JSON holds no bytes that are not UTF-8: such a text is given in its escaped form (scanner/base/text.h), and a
 * second member NAME_bytes has it in hex.
 *
 * A tree is built without looking at each step: *bad gathers what failed, which can only be memory.  Values that are
 * put into a tree belong to it; NULL is one that failed. */

struct json_t;

struct json_t *tree_object(void);
struct json_t *tree_array(void);
void tree_free(struct json_t *tree); /* takes NULL */
CLEANUP_DEFINE(struct json_t *, tree_free)

void tree_set(struct json_t *obj, const char *key, struct json_t *value, bool *bad);
void tree_append(struct json_t *array, struct json_t *value, bool *bad);

/* The member that was set before; it stays the object's. */
struct json_t *tree_member(struct json_t *obj, const char *key);

void tree_size(struct json_t *obj, const char *key, uint64_t v, bool *bad);
void tree_int(struct json_t *obj, const char *key, int64_t v, bool *bad);
void tree_bool(struct json_t *obj, const char *key, bool v, bool *bad);
/* null when it is not known */
void tree_maybe(struct json_t *obj, const char *key, bool known, uint64_t v, bool *bad);
/* null for 0, never */
void tree_time(struct json_t *obj, const char *key, int64_t seconds, bool *bad);
/* null for NULL */
void tree_text(struct json_t *obj, const char *key, const char *s, bool *bad);

/* Text of digits, for numbers that many a program that reads JSON would not keep exact. */
void tree_digits(struct json_t *obj, const char *key, uint64_t v, bool *bad);
void tree_signed_digits(struct json_t *obj, const char *key, int64_t v, bool *bad);

/* 0, or -1 when it could not be written. */
int tree_print(FILE *out, const struct json_t *tree);

/* ---- reading back ----
 *
 * A reader stands at an object or an array and goes down and up.  It too is used without looking at each step: after the first
 * thing that is wrong all calls give 0, false or NULL, and r->failed is set; the error then names the member and its line.
 * Nothing is converted: what is missing, of another type or out of range is wrong.  Members that nobody asks for are not. */

#define TREE_FILE_MAX ((uint64_t)256 << 20)
#define TREE_DEPTH_MAX 16u
#define TREE_VALUES_MAX ((size_t)16 << 20)

struct tree_reader {
	struct json_t *root;
	char *text;
	size_t len;
	unsigned depth;
	struct json_t *at[TREE_DEPTH_MAX + 1];
	struct json_step steps[TREE_DEPTH_MAX + 1]; /* steps[n] leads from at[n] on; the last is free for a member */
	bool failed;
	struct err *err;
};

/* Reads all of `in`, one object.  It may be anybody's: what is too large or too deep, has a key twice or a NUL in a text
 * is refused.  `err` gets what goes wrong later, too.  On failure there is nothing to release. */
int tree_read(FILE *in, struct tree_reader *ret, struct err *err);
void tree_reader_release(struct tree_reader *r);
CLEANUP_DEFINE_RELEASE(struct tree_reader, tree_reader_release)

/* Each needs its tree_leave(), also when it fails. */
void tree_enter_object(struct tree_reader *r, const char *key);
size_t tree_enter_array(struct tree_reader *r, const char *key); /* how many items it has */
void tree_enter_item(struct tree_reader *r, size_t index);	   /* which is an object */
void tree_leave(struct tree_reader *r);

/* For members that came later. */
bool tree_has(const struct tree_reader *r, const char *key);

uint64_t tree_get_size(struct tree_reader *r, const char *key); /* 0 to 2^63 - 1 */
/* 0 for null */
uint64_t tree_get_maybe(struct tree_reader *r, const char *key);
/* less than `limit` */
size_t tree_get_index(struct tree_reader *r, const char *key, size_t limit);
bool tree_get_bool(struct tree_reader *r, const char *key);
int64_t tree_get_time(struct tree_reader *r, const char *key);
uint64_t tree_get_digits(struct tree_reader *r, const char *key);
int64_t tree_get_signed_digits(struct tree_reader *r, const char *key);
/* The index of a text among `names`. */
size_t tree_get_word(struct tree_reader *r, const char *key, const char *const *names, size_t nr);
/* The exact bytes, on the heap.  NULL for null, which is wrong unless `maybe`.  NAME_bytes must say the same as NAME: nobody
 * is shown one path and has another changed. */
char *tree_get_text(struct tree_reader *r, const char *key, bool maybe);

/* Something is wrong with the member `key` of where the reader stands, with where it stands when that is NULL: "must be ...". */
void tree_wrong(struct tree_reader *r, const char *key, enum err_kind kind, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

#endif
