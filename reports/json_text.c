/* SPDX-License-Identifier: Apache-2.0 */
/* A walk over the text that knows strings and brackets, and no more.  It stays within the text whatever that is. */
#include "reports/json_text.h"

#include <string.h>

/* Behind the string that begins at p. */
static const char *skip_string(const char *p, const char *end)
{
	for (p++; p < end && *p != '"'; p++) {
		if (*p == '\\')
			p++;
	}
	return p < end ? p + 1 : end;
}

static size_t count_lines(const char *p, const char *end)
{
	size_t nr = 1;

	for (; (p = memchr(p, '\n', (size_t)(end - p))); p++)
		nr++;
	return nr;
}

int json_text_check(const char *text, size_t len, size_t depth, size_t values, struct err *err)
{
	const char *end = text + len;
	size_t nr = 1, open = 0;

	for (const char *p = text; p < end;) {
		if (*p == '"') {
			p = skip_string(p, end);
			continue;
		}
		if (*p == '[' || *p == '{')
			open++;
		else if ((*p == ']' || *p == '}') && open)
			open--;
		if (open > depth)
			return err_set(err, ERR_FORMAT, "line %zu: it is nested more than %zu deep", count_lines(text, p), depth);
		nr += *p == '[' || *p == '{' || *p == ',';
		if (nr > values)
			return err_set(err, ERR_FORMAT, "line %zu: it has more than %zu values", count_lines(text, p), values);
		p++;
	}
	return 0;
}

static const char *skip_blanks(const char *p, const char *end)
{
	while (p < end && strchr(" \t\r\n", *p) && *p)
		p++;
	return p;
}

/* Behind the value at p, and the blanks after it. */
static const char *skip_value(const char *p, const char *end)
{
	size_t open = 0;

	while (p < end) {
		if (*p == '"') {
			p = skip_string(p, end);
		} else if (strchr("[{", *p) && *p) {
			open++;
			p++;
		} else if (open && strchr("]}", *p) && *p) {
			open--;
			p++;
		} else if (!open && strchr(",]} \t\r\n", *p)) {
			break;
		} else {
			p++;
			continue;
		}
		if (!open)
			break;
	}
	return skip_blanks(p, end);
}

/* The item of the array at p, NULL when there is none. */
static const char *find_item(const char *p, const char *end, size_t index)
{
	if (p == end || *p != '[')
		return NULL;
	p = skip_blanks(p + 1, end);
	for (size_t i = 0; i < index; i++) {
		p = skip_value(p, end);
		if (p == end || *p != ',')
			return NULL;
		p = skip_blanks(p + 1, end);
	}
	return p < end && *p != ']' ? p : NULL;
}

/* The value of the member of the object at p, NULL when there is none. */
static const char *find_member(const char *p, const char *end, const char *key)
{
	size_t len = strlen(key);

	if (p == end || *p != '{')
		return NULL;
	for (p = skip_blanks(p + 1, end); p < end && *p == '"'; p = skip_blanks(p + 1, end)) {
		const char *name = p + 1;

		p = skip_string(p, end);
		if ((size_t)(p - name) == len + 1 && memcmp(name, key, len) == 0) {
			p = skip_blanks(p, end);
			return p < end ? skip_blanks(p + 1, end) : NULL;
		}
		p = skip_blanks(p, end);
		p = p < end ? skip_value(skip_blanks(p + 1, end), end) : end;
		if (p == end || *p != ',')
			return NULL;
	}
	return NULL;
}

size_t json_text_line(const char *text, size_t len, const struct json_step *steps, size_t nr_steps)
{
	const char *end = text + len, *p = skip_blanks(text, end), *next;

	for (size_t i = 0; i < nr_steps; i++) {
		next = steps[i].key ? find_member(p, end, steps[i].key) : find_item(p, end, steps[i].index);
		if (!next)
			break;
		p = next;
	}
	return count_lines(text, p);
}
