/* SPDX-License-Identifier: Apache-2.0 */
#include "reports/json_tree.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "reports/report.h"
#include "scanner/base/checked.h"
#include "scanner/base/text.h"

struct json_t *tree_object(void)
{
	return json_object();
}

struct json_t *tree_array(void)
{
	return json_array();
}

void tree_free(struct json_t *tree)
{
	json_decref(tree);
}

/* Jansson's setters take NULL values and say so with -1. */
void tree_set(struct json_t *obj, const char *key, struct json_t *value, bool *bad)
{
	if (json_object_set_new(obj, key, value) < 0)
		*bad = true;
}

void tree_append(struct json_t *array, struct json_t *value, bool *bad)
{
	if (json_array_append_new(array, value) < 0)
		*bad = true;
}

struct json_t *tree_member(struct json_t *obj, const char *key)
{
	return json_object_get(obj, key);
}

void tree_size(struct json_t *obj, const char *key, uint64_t v, bool *bad)
{
	tree_set(obj, key, json_integer((json_int_t)min_u64(v, INT64_MAX)), bad);
}

void tree_int(struct json_t *obj, const char *key, int64_t v, bool *bad)
{
	tree_set(obj, key, json_integer(v), bad);
}

void tree_bool(struct json_t *obj, const char *key, bool v, bool *bad)
{
	tree_set(obj, key, json_boolean(v), bad);
}

void tree_maybe(struct json_t *obj, const char *key, bool known, uint64_t v, bool *bad)
{
	tree_set(obj, key, known ? json_integer((json_int_t)min_u64(v, INT64_MAX)) : json_null(), bad);
}

void tree_time(struct json_t *obj, const char *key, int64_t seconds, bool *bad)
{
	char when[REPORT_TIME_SIZE];

	report_time(seconds, when);
	tree_set(obj, key, *when ? json_string(when) : json_null(), bad);
}

static json_t *hex_string(const char *s)
{
	size_t len = strlen(s);
	CLEANUP(free) char *hex = malloc(2 * len + 1);

	if (!hex)
		return NULL;
	for (size_t i = 0; i < len; i++)
		snprintf(hex + 2 * i, 3, "%02x", (unsigned)(unsigned char)s[i]);
	return json_stringn(hex, 2 * len);
}

void tree_text(struct json_t *obj, const char *key, const char *s, bool *bad)
{
	CLEANUP(free) char *safe = NULL;
	char key_bytes[64];

	if (!s || text_is_utf8(s)) {
		tree_set(obj, key, s ? json_string(s) : json_null(), bad);
		return;
	}
	safe = text_escape_new(s, true);
	snprintf(key_bytes, sizeof(key_bytes), "%s_bytes", key);
	tree_set(obj, key, safe ? json_string(safe) : NULL, bad);
	tree_set(obj, key_bytes, hex_string(s), bad);
}

int tree_print(FILE *out, const struct json_t *tree)
{
	return json_dumpf(tree, out, JSON_INDENT(2) | JSON_ENSURE_ASCII) < 0 || fputc('\n', out) == EOF ? -1 : 0;
}
