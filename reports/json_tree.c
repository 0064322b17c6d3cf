/* SPDX-License-Identifier: Apache-2.0 */
/* Jansson's values do not know where they stood.  So a reader keeps the text, and remembers the way down to where it is, by which
 * the line is found once it is needed. */
#include "reports/json_tree.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

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

void tree_digits(struct json_t *obj, const char *key, uint64_t v, bool *bad)
{
	char digits[24];

	snprintf(digits, sizeof(digits), "%" PRIu64, v);
	tree_set(obj, key, json_string(digits), bad);
}

void tree_signed_digits(struct json_t *obj, const char *key, int64_t v, bool *bad)
{
	char digits[24];

	snprintf(digits, sizeof(digits), "%" PRId64, v);
	tree_set(obj, key, json_string(digits), bad);
}

int tree_print(FILE *out, const struct json_t *tree)
{
	return json_dumpf(tree, out, JSON_INDENT(2) | JSON_ENSURE_ASCII) < 0 || fputc('\n', out) == EOF ? -1 : 0;
}

/* ---- reading ---- */

/* All of `in`, on the heap. */
static char *slurp(FILE *in, size_t *ret_len, struct err *err)
{
	CLEANUP(free) char *text = NULL;
	size_t len = 0, room = 64 * KIB;
	struct stat st;

	if (fileno(in) >= 0 && fstat(fileno(in), &st) == 0 && S_ISREG(st.st_mode))
		room = min_u64((uint64_t)st.st_size, TREE_FILE_MAX) + 2;
	for (;;) {
		char *more = realloc(text, room);

		if (!more)
			return err_null(err, ERR_MEMORY, "no memory to read it");
		text = more;
		len += fread(text + len, 1, room - len, in);
		if (ferror(in)) {
			err_errno(err, "cannot read it");
			return NULL;
		}
		if (len > TREE_FILE_MAX)
			return err_null(err, ERR_FORMAT, "it is larger than 256 MiB");
		if (len < room)
			break;
		room = min_u64(2 * room, TREE_FILE_MAX + 2);
	}
	*ret_len = len;
	return STEAL(text);
}

static struct json_t *parse(const char *text, size_t len, struct err *err)
{
	json_error_t error;
	json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &error);

	if (root)
		return root;
	if (json_error_code(&error) == json_error_out_of_memory)
		return err_null(err, ERR_MEMORY, "no memory to read it");
	return err_null(err, ERR_FORMAT, "line %d: %s", error.line, error.text);
}

int tree_read(FILE *in, struct tree_reader *ret, struct err *err)
{
	CLEANUP(free) char *text = NULL;
	CLEANUP(tree_free) struct json_t *root = NULL;
	size_t len = 0;

	text = slurp(in, &len, err);
	if (!text || json_text_check(text, len, TREE_DEPTH_MAX, TREE_VALUES_MAX, err) < 0)
		return -1;
	root = parse(text, len, err);
	if (!root)
		return -1;
	if (!json_is_object(root))
		return err_set(err, ERR_FORMAT, "it is no JSON object");
	*ret = (struct tree_reader){ .root = root, .text = STEAL(text), .len = len, .at = { root }, .err = err };
	root = NULL;
	return 0;
}

void tree_reader_release(struct tree_reader *r)
{
	tree_free(r->root);
	free(r->text);
	*r = (struct tree_reader){ .failed = true };
}

/* "images[3].path" */
static void tell_way(const struct json_step *steps, size_t nr, char *ret, size_t room)
{
	size_t len = 0;

	ret[0] = '\0';
	for (size_t i = 0; i < nr && len < room; i++) {
		if (steps[i].key)
			len += (size_t)snprintf(ret + len, room - len, "%s%s", i ? "." : "", steps[i].key);
		else
			len += (size_t)snprintf(ret + len, room - len, "[%zu]", steps[i].index);
	}
}

void tree_wrong(struct tree_reader *r, const char *key, enum err_kind kind, const char *fmt, ...)
{
	size_t nr = r->depth + (key != NULL), line;
	char way[160], what[240];
	va_list ap;

	if (r->failed)
		return;
	r->failed = true;
	if (key)
		r->steps[r->depth] = (struct json_step){ .key = key };
	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	tell_way(r->steps, nr, way, sizeof(way));
	line = json_text_line(r->text, r->len, r->steps, nr);
	err_set(r->err, kind, "line %zu: '%s' %s", line, way, what);
}

/* Goes down to `value`, which may be NULL if something was wrong. */
static void enter(struct tree_reader *r, struct json_step step, struct json_t *value)
{
	r->steps[r->depth++] = step;
	r->at[r->depth] = value;
}

static struct json_t *get(struct tree_reader *r, const char *key)
{
	struct json_t *value = r->failed ? NULL : json_object_get(r->at[r->depth], key);

	if (!value)
		tree_wrong(r, key, ERR_FORMAT, "is missing");
	return value;
}

void tree_enter_object(struct tree_reader *r, const char *key)
{
	struct json_t *value = get(r, key);

	if (value && !json_is_object(value))
		tree_wrong(r, key, ERR_FORMAT, "must be an object");
	enter(r, (struct json_step){ .key = key }, value);
}

size_t tree_enter_array(struct tree_reader *r, const char *key)
{
	struct json_t *value = get(r, key);

	if (value && !json_is_array(value))
		tree_wrong(r, key, ERR_FORMAT, "must be an array");
	enter(r, (struct json_step){ .key = key }, value);
	return r->failed ? 0 : json_array_size(value);
}

void tree_enter_item(struct tree_reader *r, size_t index)
{
	struct json_t *value = r->failed ? NULL : json_array_get(r->at[r->depth], index);

	enter(r, (struct json_step){ .index = index }, value);
	if (!json_is_object(value))
		tree_wrong(r, NULL, ERR_FORMAT, "must be an object");
}

void tree_leave(struct tree_reader *r)
{
	r->depth--;
}

static uint64_t size_of(struct tree_reader *r, const char *key, const struct json_t *value)
{
	if (value && !json_is_integer(value))
		tree_wrong(r, key, ERR_FORMAT, "must be an integer");
	else if (value && json_integer_value(value) < 0)
		tree_wrong(r, key, ERR_FORMAT, "must not be negative");
	return r->failed ? 0 : (uint64_t)json_integer_value(value);
}

uint64_t tree_get_size(struct tree_reader *r, const char *key)
{
	return size_of(r, key, get(r, key));
}

bool tree_has(const struct tree_reader *r, const char *key)
{
	return !r->failed && json_object_get(r->at[r->depth], key);
}

uint64_t tree_get_maybe(struct tree_reader *r, const char *key)
{
	struct json_t *value = get(r, key);

	return json_is_null(value) ? 0 : size_of(r, key, value);
}

size_t tree_get_index(struct tree_reader *r, const char *key, size_t limit)
{
	uint64_t v = tree_get_size(r, key);

	if (v >= limit)
		tree_wrong(r, key, ERR_FORMAT, "is out of range: there are %zu of them", limit);
	return r->failed ? 0 : (size_t)v;
}

bool tree_get_bool(struct tree_reader *r, const char *key)
{
	struct json_t *value = get(r, key);

	if (value && !json_is_boolean(value))
		tree_wrong(r, key, ERR_FORMAT, "must be true or false");
	return json_is_true(value);
}

/* "" when it is no string; then something was wrong. */
static const char *string(struct tree_reader *r, const char *key)
{
	struct json_t *value = get(r, key);

	if (value && !json_is_string(value))
		tree_wrong(r, key, ERR_FORMAT, "must be a string");
	return r->failed ? "" : json_string_value(value);
}

int64_t tree_get_time(struct tree_reader *r, const char *key)
{
	const char *s = json_is_null(get(r, key)) ? NULL : string(r, key), *end;
	char again[REPORT_TIME_SIZE];
	struct tm tm = { 0 };
	int64_t when;

	if (!s || r->failed)
		return 0;
	end = strptime(s, "%Y-%m-%dT%H:%M:%SZ", &tm);
	when = end && !*end ? timegm(&tm) : 0;
	report_time(when, again); /* "" for 0 */
	if (!*s || strcmp(s, again) != 0)
		tree_wrong(r, key, ERR_FORMAT, "must be a time like 2026-11-21T02:24:51Z");
	return r->failed ? 0 : when;
}

/* Shortest form only: what is written anew is the same. */
static bool are_digits(const char *s)
{
	return *s && s[strspn(s, "0123456789")] == '\0' && (*s != '0' || !s[1]);
}

uint64_t tree_get_digits(struct tree_reader *r, const char *key)
{
	const char *s = string(r, key);
	uint64_t v;

	errno = 0;
	v = strtoull(s, NULL, 10);
	if (!are_digits(s) || errno)
		tree_wrong(r, key, ERR_FORMAT, "must be a string of digits, below 2^64");
	return r->failed ? 0 : v;
}

int64_t tree_get_signed_digits(struct tree_reader *r, const char *key)
{
	const char *s = string(r, key);
	int64_t v;

	errno = 0;
	v = strtoll(s, NULL, 10);
	if (!are_digits(s + (*s == '-')) || errno || strcmp(s, "-0") == 0)
		tree_wrong(r, key, ERR_FORMAT, "must be a string of digits, from -2^63 to 2^63 - 1");
	return r->failed ? 0 : v;
}

size_t tree_get_word(struct tree_reader *r, const char *key, const char *const *names, size_t nr)
{
	const char *s = string(r, key);

	for (size_t i = 0; i < nr; i++) {
		if (strcmp(names[i], s) == 0)
			return i;
	}
	tree_wrong(r, key, ERR_UNSUPPORTED, "is '%.40s', which is not known", s);
	return 0;
}

static int digit_of(char c)
{
	static const char digits[] = "0123456789abcdef";
	const char *p = c ? strchr(digits, c) : NULL;

	return p ? (int)(p - digits) : -1;
}

/* The bytes in hex; NULL when they are not, or hold a NUL, and when memory is out. */
static char *unhex(const char *hex, bool *bad)
{
	size_t len = strlen(hex) / 2;
	CLEANUP(free) char *ret = malloc(len + 1);

	*bad = !ret;
	if (!ret || strlen(hex) % 2)
		return NULL;
	for (size_t i = 0; i < len; i++) {
		int high = digit_of(hex[2 * i]), low = digit_of(hex[2 * i + 1]);

		if (high < 0 || low < 0 || !(high | low))
			return NULL;
		ret[i] = (char)(high << 4 | low);
	}
	ret[len] = '\0';
	return STEAL(ret);
}

/* The text whose bytes are in hex at `key_bytes`, and whose escaped form is `shown`. */
static char *exact_text(struct tree_reader *r, const char *key_bytes, const char *shown)
{
	CLEANUP(free) char *bytes = NULL, *safe = NULL;
	bool bad = false;

	bytes = unhex(string(r, key_bytes), &bad);
	safe = bytes ? text_escape_new(bytes, true) : NULL;
	if (bad || (bytes && !safe))
		tree_wrong(r, key_bytes, ERR_MEMORY, "is too long: no memory");
	else if (!bytes)
		tree_wrong(r, key_bytes, ERR_FORMAT, "must be bytes in hexadecimal, none of them 00");
	else if (text_is_utf8(bytes) || strcmp(safe, shown) != 0)
		tree_wrong(r, key_bytes, ERR_FORMAT, "does not say the same as the member without '_bytes'");
	return r->failed ? NULL : STEAL(bytes);
}

char *tree_get_text(struct tree_reader *r, const char *key, bool maybe)
{
	const char *s = maybe && json_is_null(get(r, key)) ? NULL : string(r, key);
	char key_bytes[64], *ret;

	snprintf(key_bytes, sizeof(key_bytes), "%s_bytes", key);
	if (r->failed)
		return NULL;
	if (s && json_object_get(r->at[r->depth], key_bytes))
		return exact_text(r, key_bytes, s);
	ret = s ? strdup(s) : NULL;
	if (s && !ret)
		tree_wrong(r, key, ERR_MEMORY, "is too long: no memory");
	return ret;
}
