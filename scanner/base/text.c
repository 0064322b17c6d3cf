/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/base/text.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scanner/base/checked.h"

#define PIECE_MAX 10 /* "\U000e0001" */

/* The character at s and how many bytes it takes; 0 when they are not UTF-8.  A NUL ends every sequence, so this never
 * reads beyond the string. */
static size_t utf8_decode(const unsigned char *s, uint32_t *ret)
{
	static const uint32_t smallest[] = { 0, 0, 0x80, 0x800, 0x10000 };
	size_t len = s[0] < 0x80 ? 1 : s[0] < 0xc0 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : s[0] < 0xf8 ? 4 : 0;
	uint32_t c = len < 2 ? s[0] : s[0] & (0x7fu >> len);

	for (size_t i = 1; i < len; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (s[i] & 0x3f);
	}
	if (len > 1 && (c < smallest[len] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff)))
		return 0;
	*ret = c;
	return len;
}

/* Characters that move, hide or reorder others. */
static bool is_unsafe(uint32_t c)
{
	static const struct {
		uint32_t first, last;
	} ranges[] = {
		{ 0x0000, 0x001f }, { 0x007f, 0x009f }, { 0x00ad, 0x00ad }, { 0x034f, 0x034f },	  { 0x061c, 0x061c },
		{ 0x115f, 0x1160 }, { 0x17b4, 0x17b5 }, { 0x180b, 0x180f }, { 0x200b, 0x200f },	  { 0x2028, 0x202e },
		{ 0x2060, 0x206f }, { 0x3164, 0x3164 }, { 0xfdd0, 0xfdef }, { 0xfe00, 0xfe0f },	  { 0xfeff, 0xfeff },
		{ 0xffa0, 0xffa0 }, { 0xfff0, 0xfffb }, { 0xfffe, 0xffff }, { 0x1d173, 0x1d17a }, { 0xe0000, 0xe0fff },
	};

	for (size_t i = 0; i < ARRAY_SIZE(ranges); i++) {
		if (c >= ranges[i].first && c <= ranges[i].last)
			return true;
	}
	return false;
}

/* One character or stray byte of s in its escaped form; returns the bytes it took. */
static size_t escape_one(const unsigned char *s, bool utf8, char piece[PIECE_MAX + 1])
{
	uint32_t c;
	size_t taken = utf8_decode(s, &c);

	if (taken == 0 || (taken == 1 && is_unsafe(c))) {
		snprintf(piece, PIECE_MAX + 1, "\\x%02x", (unsigned)s[0]);
		return 1;
	}
	if (c == '\\')
		strcpy(piece, "\\\\");
	else if (taken == 1 || (utf8 && !is_unsafe(c)))
		snprintf(piece, PIECE_MAX + 1, "%.*s", (int)taken, (const char *)s);
	else
		snprintf(piece, PIECE_MAX + 1, c > 0xffff ? "\\U%08x" : "\\u%04x", (unsigned)c);
	return taken;
}

bool text_is_utf8(const char *s)
{
	uint32_t c;

	while (*s) {
		size_t n = utf8_decode((const unsigned char *)s, &c);

		if (n == 0)
			return false;
		s += n;
	}
	return true;
}

size_t text_escape_terminal(const char *in, bool utf8, char *out, size_t len)
{
	size_t total = 0;
	bool room = len > 0;

	if (room)
		out[0] = '\0';
	while (*in) {
		char piece[PIECE_MAX + 1];
		size_t n;

		in += escape_one((const unsigned char *)in, utf8, piece);
		n = strlen(piece);
		room = room && n < len - total;
		if (room)
			memcpy(out + total, piece, n + 1);
		total += n;
	}
	return total;
}

char *text_escape_new(const char *in, bool utf8)
{
	size_t len = text_escape_terminal(in, utf8, NULL, 0);
	char *out = malloc(len + 1);

	if (out)
		text_escape_terminal(in, utf8, out, len + 1);
	return out;
}
