/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/image/slice.h"

#include <stdio.h>
#include <string.h>

#include "scanner/base/checked.h"
#include "scanner/base/err.h"
#include "scanner/base/text.h"

/* JSON of one shape only:
 *
 *	{"l2-cache-size": N,
 *	 "file": {"driver": "raw", "read-only": B, "offset": N, "size": N,		both of these, or none
 *		  "file": {"driver": "file", "filename": T, "aio": A, "cache": {"direct": B}}}}
 *
 * A is "threads" or "io_uring".  An object is a list of keys that may stand in it, each at most once, and a function that reads
 * the value of one. */

#define PREFIX "json:"
#define NAME_MAX_BYTES 1023 /* of a backing file name in qcow2 */

bool slice_same_reading(const struct slice_reading *a, const struct slice_reading *b)
{
	return a->l2 == b->l2 && a->host == b->host && a->io_uring == b->io_uring;
}

/* ---- writing ---- */

/* Appends what stands for one byte; false when there is no room. */
static bool put_byte(char *ret, size_t room, size_t *at, unsigned char c)
{
	char escaped[8] = { (char)c };
	size_t len;

	if (c == '"' || c == '\\')
		snprintf(escaped, sizeof(escaped), "\\%c", c);
	else if (c < 0x20)
		snprintf(escaped, sizeof(escaped), "\\u%04x", c);
	len = strlen(escaped);
	if (len >= room - *at)
		return false;
	memcpy(ret + *at, escaped, len + 1);
	*at += len;
	return true;
}

static int too_long(const struct slice *s, struct err *err)
{
	return err_set(err, ERR_UNSUPPORTED, "the path '%.80s%s' is too long to be the backing file of an image", s->path,
		       strlen(s->path) > 80 ? "..." : "");
}

int slice_format(const struct slice *s, char *ret, size_t room, struct err *err)
{
	char name[NAME_MAX_BYTES + 1], where[64] = "", cache[64] = "", end[64];
	size_t at;

	if (s->size)
		snprintf(where, sizeof(where), "\"offset\":%llu,\"size\":%llu,", (unsigned long long)s->offset,
			 (unsigned long long)s->size);
	if (s->reading.l2)
		snprintf(cache, sizeof(cache), "\"l2-cache-size\":%llu,", (unsigned long long)s->reading.l2);
	snprintf(end, sizeof(end), "\"%s%s}}}",
		 s->reading.io_uring ? ",\"aio\":\"io_uring\"" : s->reading.host ? ",\"aio\":\"threads\"" : "",
		 s->reading.host ? ",\"cache\":{\"direct\":false}" : "");
	at = (size_t)snprintf(name, sizeof(name),
			      PREFIX "{%s\"file\":{\"driver\":\"raw\",%s%s\"file\":{\"driver\":\"file\",\"filename\":\"", cache,
			      s->read_only ? "\"read-only\":true," : "", where);
	if (s->path[0] != '/')
		return err_set(err, ERR_USAGE, "the path '%s' of a backing file is not absolute", s->path);
	if (!text_is_utf8(s->path))
		return err_set(err, ERR_UNSUPPORTED,
			       "the path '%s' is not UTF-8, which the backing file of an image must be", s->path);
	for (const char *p = s->path; *p; p++)
		if (!put_byte(name, sizeof(name), &at, (unsigned char)*p))
			return too_long(s, err);
	if (strlen(end) >= sizeof(name) - at)
		return too_long(s, err);
	memcpy(name + at, end, strlen(end) + 1);
	if (strlen(name) >= room)
		return too_long(s, err);
	memcpy(ret, name, strlen(name) + 1);
	return 0;
}

/* ---- reading ---- */

struct reader {
	const char *p;
	struct slice s;
	bool has_offset;
};

static bool take(struct reader *r, char c)
{
	r->p += strspn(r->p, " \t\n\r");
	if (*r->p != c)
		return false;
	r->p++;
	return true;
}

static bool take_hex(struct reader *r, unsigned *ret)
{
	*ret = 0;
	for (unsigned i = 0; i < 4; i++, r->p++) {
		char c = *r->p;
		unsigned digit = c >= '0' && c <= '9'	? (unsigned)(c - '0')
				 : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a' + 10)
				 : c >= 'A' && c <= 'F' ? (unsigned)(c - 'A' + 10)
							: 16;

		if (digit == 16)
			return false;
		*ret = *ret << 4 | digit;
	}
	return true;
}

/* A character behind "\u": one unit of UTF-16, or two that belong together. */
static bool take_unicode(struct reader *r, char ret[5])
{
	unsigned c, low;
	int len = 0;

	if (!take_hex(r, &c) || c == 0 || (c >= 0xdc00 && c < 0xe000))
		return false;
	if (c >= 0xd800 && c < 0xdc00) {
		if (*r->p++ != '\\' || *r->p++ != 'u' || !take_hex(r, &low) || low < 0xdc00 || low >= 0xe000)
			return false;
		c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
	}
	if (c < 0x80) {
		ret[len++] = (char)c;
	} else {
		unsigned more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;

		ret[len++] = (char)((0xff00 >> (more + 1)) | (c >> (6 * more)));
		while (more--)
			ret[len++] = (char)(0x80 | (c >> (6 * more) & 0x3f));
	}
	ret[len] = '\0';
	return true;
}

static bool take_escape(struct reader *r, char ret[5])
{
	static const char names[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
	const char *at = *r->p ? strchr(names, *r->p) : NULL;

	if (*r->p == 'u') {
		r->p++;
		return take_unicode(r, ret);
	}
	if (!at)
		return false;
	r->p++;
	ret[0] = meant[at - names];
	ret[1] = '\0';
	return true;
}

static bool take_text(struct reader *r, char *ret, size_t room)
{
	size_t at = 0;

	if (!take(r, '"'))
		return false;
	while (*r->p != '"') {
		char c[5] = { *r->p, '\0' };

		if ((unsigned char)*r->p++ < 0x20 || (c[0] == '\\' && !take_escape(r, c)))
			return false;
		if (strlen(c) >= room - at)
			return false;
		memcpy(ret + at, c, strlen(c));
		at += strlen(c);
	}
	r->p++;
	ret[at] = '\0';
	return text_is_utf8(ret);
}

static bool take_this(struct reader *r, const char *text)
{
	char got[16];

	return take_text(r, got, sizeof(got)) && strcmp(got, text) == 0;
}

static bool take_number(struct reader *r, uint64_t *ret)
{
	uint64_t v = 0;
	size_t len;

	r->p += strspn(r->p, " \t\n\r");
	len = strspn(r->p, "0123456789");
	if (len == 0 || (len > 1 && *r->p == '0'))
		return false;
	for (; len; len--, r->p++)
		if (!mul_fits(v, 10, &v) || !add_fits(v, (uint64_t)(*r->p - '0'), &v) || v > INT64_MAX)
			return false;
	*ret = v;
	return true;
}

static bool take_bool(struct reader *r, bool *ret)
{
	r->p += strspn(r->p, " \t\n\r");
	*ret = strncmp(r->p, "true", 4) == 0;
	if (!*ret && strncmp(r->p, "false", 5) != 0)
		return false;
	r->p += *ret ? 4 : 5;
	return true;
}

/* Keys that are needed stand first among those of an object. */
struct shape {
	const char *keys[6];
	unsigned nr_needed;
	bool (*value)(struct reader *r, unsigned key);
};

static bool take_object(struct reader *r, const struct shape *shape)
{
	unsigned seen = 0, needed = (1u << shape->nr_needed) - 1;
	char key[16];

	if (!take(r, '{'))
		return false;
	do {
		unsigned i = 0;

		if (!take_text(r, key, sizeof(key)) || !take(r, ':'))
			return false;
		while (shape->keys[i] && strcmp(shape->keys[i], key) != 0)
			i++;
		if (!shape->keys[i] || seen & 1u << i || !shape->value(r, i))
			return false;
		seen |= 1u << i;
	} while (take(r, ','));
	return take(r, '}') && (seen & needed) == needed;
}

static bool take_direct(struct reader *r, unsigned key)
{
	bool direct;

	(void)key;
	if (!take_bool(r, &direct))
		return false;
	r->s.reading.host = !direct;
	return true;
}

static bool take_aio(struct reader *r)
{
	char aio[16];

	if (!take_text(r, aio, sizeof(aio)))
		return false;
	r->s.reading.io_uring = strcmp(aio, "io_uring") == 0;
	return r->s.reading.io_uring || strcmp(aio, "threads") == 0;
}

static bool take_file(struct reader *r, unsigned key)
{
	static const struct shape cache = { { "direct" }, 1, take_direct };

	switch (key) {
	case 0:
		return take_this(r, "file");
	case 1:
		return take_text(r, r->s.path, sizeof(r->s.path)) && r->s.path[0] == '/';
	case 2:
		return take_object(r, &cache);
	default:
		return take_aio(r);
	}
}

static bool take_raw(struct reader *r, unsigned key)
{
	static const struct shape file = { { "driver", "filename", "cache", "aio" }, 2, take_file };

	switch (key) {
	case 0:
		return take_this(r, "raw");
	case 1:
		return take_object(r, &file);
	case 2:
		r->has_offset = true;
		return take_number(r, &r->s.offset);
	case 3:
		return take_number(r, &r->s.size) && r->s.size;
	default:
		return take_bool(r, &r->s.read_only);
	}
}

static bool take_top(struct reader *r, unsigned key)
{
	static const struct shape raw = { { "driver", "file", "offset", "size", "read-only" }, 2, take_raw };

	if (key == 0)
		return take_object(r, &raw);
	return take_number(r, &r->s.reading.l2) && r->s.reading.l2 && r->s.reading.l2 <= SLICE_L2_CACHE_MAX;
}

int slice_parse(const char *name, struct slice *ret)
{
	static const struct shape top = { { "file", "l2-cache-size" }, 1, take_top };
	struct reader r = { .p = name + sizeof(PREFIX) - 1 };

	if (strncmp(name, PREFIX, sizeof(PREFIX) - 1) != 0 || !take_object(&r, &top) || take(&r, '\0') != true)
		return 0;
	if (r.has_offset != (r.s.size != 0) || !range_within(r.s.offset, r.s.size, INT64_MAX))
		return 0;
	*ret = r.s;
	return 1;
}
