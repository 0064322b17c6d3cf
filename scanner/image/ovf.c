/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/image/ovf.h"

#include <stdlib.h>
#include <string.h>

#include "scanner/base/checked.h"

/* Goes from one tag to the next; text between tags, comments and the rest are skipped.  Prefixes of names are cut off:
 * which namespace they stand for does not matter.  A document type declaration could give names another meaning and is
 * refused. */

struct scan {
	char *begin, *at; /* a NUL ends the text, and is in it nowhere else */
	struct ovf *ovf;
	struct err *err;
};

struct attribute {
	const char *name; /* of one that is wanted; NULL ends a list */
	char *value;	  /* NULL = it is not there */
};

/* ---- values ---- */

static size_t utf8(unsigned c, char *ret)
{
	static const unsigned char lead[] = { 0, 0, 0xc0, 0xe0, 0xf0 };
	size_t len = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;

	for (size_t i = len; i-- > 1; c >>= 6)
		ret[i] = (char)(0x80 | (c & 0x3f));
	ret[0] = (char)(len == 1 ? c : lead[len] | c);
	return len;
}

/* The character that "&...;" at p stands for, and behind it in *end; 0 = none that is known. */
static unsigned entity(const char *p, const char **end)
{
	static const struct {
		const char *text;
		unsigned c;
	} known[] = { { "&amp;", '&' }, { "&lt;", '<' }, { "&gt;", '>' }, { "&quot;", '"' }, { "&apos;", '\'' } };
	bool hex = p[1] == '#' && p[2] == 'x';
	char *stop;
	unsigned long c;

	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (strncmp(p, known[i].text, strlen(known[i].text)) == 0) {
			*end = p + strlen(known[i].text);
			return known[i].c;
		}
	if (p[1] != '#')
		return 0;
	c = strtoul(p + 2 + hex, &stop, hex ? 16 : 10);
	if (*stop != ';' || c > 0x10ffff)
		return 0;
	*end = stop + 1;
	return (unsigned)c;
}

/* In place: no entity is shorter than what it stands for. */
static void decode_entities(char *value)
{
	char *to = value;

	for (const char *p = value; *p;) {
		const char *end;
		unsigned c = *p == '&' ? entity(p, &end) : 0;

		if (c) {
			to += utf8(c, to);
			p = end;
		} else {
			*to++ = *p++;
		}
	}
	*to = '\0';
}

/* ---- tags ---- */

static bool is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static int broken(struct scan *s)
{
	return err_set(s->err, ERR_FORMAT, "it is no well-formed XML at byte %zu", (size_t)(s->at - s->begin));
}

static void skip_spaces(struct scan *s)
{
	while (is_space(*s->at))
		s->at++;
}

/* The name at s->at without its prefix. */
static size_t take_name(struct scan *s, const char **ret)
{
	size_t len = strcspn(s->at, " \t\r\n/>=<\"'");
	const char *colon = memrchr(s->at, ':', len);

	*ret = colon ? colon + 1 : s->at;
	s->at += len;
	return (size_t)(s->at - *ret);
}

static bool is_name(const char *p, size_t len, const char *name)
{
	return len == strlen(name) && memcmp(p, name, len) == 0;
}

/* Of two that differ in their prefixes only, the first counts. */
static int take_attribute(struct scan *s, struct attribute *wanted)
{
	const char *name;
	size_t len = take_name(s, &name);
	char *value, *end;

	skip_spaces(s);
	if (!len || *s->at != '=')
		return broken(s);
	s->at++;
	skip_spaces(s);
	if (*s->at != '"' && *s->at != '\'')
		return broken(s);
	value = s->at + 1;
	end = strchr(value, *s->at);
	if (!end)
		return broken(s);
	for (; wanted->name; wanted++)
		if (!wanted->value && is_name(name, len, wanted->name)) {
			*end = '\0';
			decode_entities(value);
			wanted->value = value;
		}
	s->at = end + 1;
	return 0;
}

static int take_attributes(struct scan *s, struct attribute *wanted)
{
	for (skip_spaces(s); *s->at != '>'; skip_spaces(s)) {
		if (s->at[0] == '/' && s->at[1] == '>')
			s->at++;
		else if (take_attribute(s, wanted) < 0)
			return -1;
	}
	s->at++;
	return 0;
}

static const char *said(const char *value)
{
	return value ? value : "";
}

static int take_file(struct scan *s)
{
	struct attribute a[] = {
		{ "id", NULL }, { "href", NULL }, { "compression", NULL }, { "chunkSize", NULL }, { NULL, NULL }
	};

	if (take_attributes(s, a) < 0)
		return -1;
	if (s->ovf->files.nr >= OVF_FILES_MAX)
		return err_set(s->err, ERR_UNSUPPORTED, "it lists more than %d files", OVF_FILES_MAX);
	if (vec_push(&s->ovf->files, (struct ovf_file){ .id = said(a[0].value),
							.href = said(a[1].value),
							.compression = said(a[2].value),
							.chunked = a[3].value != NULL }) < 0)
		return err_set(s->err, ERR_MEMORY, "no memory for its files");
	return 0;
}

static int take_disk(struct scan *s)
{
	struct attribute a[] = { { "fileRef", NULL }, { NULL, NULL } };

	if (take_attributes(s, a) < 0)
		return -1;
	if (s->ovf->disks.nr >= OVF_DISKS_MAX)
		return err_set(s->err, ERR_UNSUPPORTED, "it lists more than %d disks", OVF_DISKS_MAX);
	if (vec_push(&s->ovf->disks, (struct ovf_disk){ .file = said(a[0].value) }) < 0)
		return err_set(s->err, ERR_MEMORY, "no memory for its disks");
	return 0;
}

static int skip_past(struct scan *s, const char *end)
{
	char *p = strstr(s->at, end);

	if (!p)
		return broken(s);
	s->at = p + strlen(end);
	return 0;
}

/* What begins with the '<' at s->at. */
static int take_markup(struct scan *s)
{
	static const struct {
		const char *begin, *end;
	} skipped[] = { { "<!--", "-->" }, { "<![CDATA[", "]]>" }, { "<?", "?>" }, { "</", ">" } };
	struct attribute none = { NULL, NULL };
	const char *name;
	size_t len;

	for (size_t i = 0; i < ARRAY_SIZE(skipped); i++)
		if (strncmp(s->at, skipped[i].begin, strlen(skipped[i].begin)) == 0)
			return skip_past(s, skipped[i].end);
	if (s->at[1] == '!')
		return err_set(s->err, ERR_UNSUPPORTED, "it has a document type declaration");
	s->at++;
	len = take_name(s, &name);
	if (is_name(name, len, "File"))
		return take_file(s);
	if (is_name(name, len, "Disk"))
		return take_disk(s);
	return len ? take_attributes(s, &none) : broken(s);
}

int ovf_parse(char *text, size_t len, struct ovf *ret, struct err *err)
{
	struct ovf ovf = { .files = VEC_INIT, .disks = VEC_INIT };
	struct scan s = { .begin = text, .at = text, .ovf = &ovf, .err = err };

	if (memchr(text, '\0', len))
		return err_set(err, ERR_UNSUPPORTED, "it is not written in UTF-8: it has a zero byte");
	while ((s.at = strchr(s.at, '<')))
		if (take_markup(&s) < 0) {
			ovf_release(&ovf);
			return -1;
		}
	*ret = ovf;
	return 0;
}

void ovf_release(struct ovf *ovf)
{
	vec_release(&ovf->files);
	vec_release(&ovf->disks);
}
