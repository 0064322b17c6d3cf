/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_PAGE_HELP_H
#define DEDUPSCAN_PAGE_HELP_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "scanner/base/checked.h"

/* Examples in a page of the manual, found below $SRCDIR or the current directory: the lines between .Bd and .Ed that follow a
 * comment `.\" hexdump: NAME` or `.\" text: NAME`.  With UPDATE=1 they are written anew. */

#define PAGE_ROOM ((size_t)1 << 18)
#define PAGE_ROW ((size_t)16)

struct page_bytes {
	size_t len;
	uint8_t data[32768];
};

static inline const char *page_path(const char *page)
{
	static char path[4096];
	const char *root = getenv("SRCDIR");

	snprintf(path, sizeof(path), "%s/contrib/man/%s", root ? root : ".", page);
	return path;
}

/* The page, to be freed, and where in it an example begins and ends. */
static inline char *page_find(const char *page, const char *mark, char **ret_at, char **ret_end)
{
	FILE *f = fopen(page_path(page), "r");
	char *text = calloc(1, PAGE_ROOM), line[80];

	assert_non_null(f);
	assert_non_null(text);
	assert_true(fread(text, 1, PAGE_ROOM - 1, f) > 0);
	fclose(f);
	snprintf(line, sizeof(line), "\n.\\\" %s\n.Bd ", mark);
	*ret_at = strstr(text, line);
	if (!*ret_at)
		fail_msg("%s has no '%s'", page_path(page), mark);
	*ret_at = strchr(*ret_at + strlen(line), '\n') + 1;
	*ret_end = strstr(*ret_at, ".Ed\n");
	assert_non_null(*ret_end);
	return text;
}

/* ---- hexdumps, as hexdump(1) has them: '*' stands for rows like the one before, and the length comes last ---- */

static inline void page_row(FILE *f, const struct page_bytes *b, size_t at)
{
	size_t nr = min_u64(b->len - at, PAGE_ROW);

	fprintf(f, "%04zx ", at);
	for (size_t i = 0; i < PAGE_ROW; i++)
		i < nr ? fprintf(f, " %02x", b->data[at + i]) : fprintf(f, "   ");
	fprintf(f, "  ");
	for (size_t i = 0; i < nr; i++) {
		uint8_t c = b->data[at + i];

		fputc((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '/' ? c : '.', f);
	}
	fputc('\n', f);
}

static inline void page_dump(FILE *f, const struct page_bytes *b)
{
	bool starred = false;

	for (size_t at = 0; at < b->len; at += PAGE_ROW) {
		bool same = at && at + PAGE_ROW <= b->len && memcmp(b->data + at, b->data + at - PAGE_ROW, PAGE_ROW) == 0;

		if (!same)
			page_row(f, b, at);
		else if (!starred)
			fputs("*\n", f);
		starred = same;
	}
	fprintf(f, "%04zx\n", b->len);
}

static inline void page_parse_row(struct page_bytes *b, const char *line)
{
	size_t at;
	char *p;

	if (line[0] == '*')
		return;
	at = strtoul(line, &p, 16);
	assert_true(at >= b->len && at <= sizeof(b->data) - PAGE_ROW && (at == b->len || b->len >= PAGE_ROW));
	for (; b->len < at; b->len++)
		b->data[b->len] = b->data[b->len - PAGE_ROW];
	for (size_t i = 0; i < PAGE_ROW && p[0] == ' ' && (i == 0 || p[1] != ' '); i++)
		b->data[b->len++] = (uint8_t)strtoul(p + (i == 0), &p, 16);
}

static inline struct page_bytes page_read_dump(const char *page, const char *mark)
{
	struct page_bytes b = { 0 };
	char *at, *end, *text = page_find(page, mark, &at, &end);

	for (; at < end; at = strchr(at, '\n') + 1)
		page_parse_row(&b, at);
	free(text);
	return b;
}

/* ---- texts ---- */

static inline struct page_bytes page_read_text(const char *page, const char *mark)
{
	struct page_bytes b = { 0 };
	char *at, *end, *text = page_find(page, mark, &at, &end);

	b.len = (size_t)(end - at);
	assert_true(b.len <= sizeof(b.data));
	memcpy(b.data, at, b.len);
	free(text);
	return b;
}

/* ---- */

static inline void page_update(const char *page, const char *mark, const struct page_bytes *b, bool dump)
{
	char *at, *end, *text = page_find(page, mark, &at, &end);
	FILE *f = fopen(page_path(page), "w");

	assert_non_null(f);
	fwrite(text, 1, (size_t)(at - text), f);
	if (dump)
		page_dump(f, b);
	else
		fwrite(b->data, 1, b->len, f);
	fputs(end, f);
	fclose(f);
	free(text);
}

#endif
