/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_JSON_TREE_H
#define DEDUPSCAN_JSON_TREE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

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

/* 0, or -1 when it could not be written. */
int tree_print(FILE *out, const struct json_t *tree);

#endif
