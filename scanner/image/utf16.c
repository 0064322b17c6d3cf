/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/image/utf16.h"

#include <string.h>

#include "scanner/base/bytes.h"

/* Unicode 15, table 3-5 (UTF-16) and table 3-6 (UTF-8). */

static uint32_t unit_at(const uint8_t *p, bool little)
{
	return little ? le16_load(p) : be16_load(p);
}

/* The character at *p, which then moves behind it; 0 = none. */
static uint32_t next_char(const uint8_t **p, const uint8_t *end, bool little)
{
	uint32_t c, low;

	if (end - *p < 2)
		return 0;
	c = unit_at(*p, little);
	*p += 2;
	if (c < 0xd800 || c >= 0xe000)
		return c;
	if (c >= 0xdc00 || end - *p < 2)
		return 0;
	low = unit_at(*p, little);
	*p += 2;
	return low >= 0xdc00 && low < 0xe000 ? 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00) : 0;
}

static size_t put_utf8(uint32_t c, char ret[4])
{
	static const uint8_t lead[] = { 0, 0xc0, 0xe0, 0xf0 };
	size_t nr = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;

	for (size_t i = nr; i-- > 1; c >>= 6)
		ret[i] = (char)(0x80 | (c & 0x3f));
	ret[0] = (char)(lead[nr - 1] | c);
	return nr;
}

ssize_t utf16_to_utf8(const uint8_t *p, size_t len, bool little, char *ret, size_t room)
{
	const uint8_t *end = p + len;
	size_t whole = 0;
	char bytes[4];

	*ret = '\0';
	while (p < end) {
		uint32_t c = next_char(&p, end, little);
		size_t nr = put_utf8(c, bytes);

		if (c == 0)
			return -1;
		if (whole + nr < room) {
			memcpy(ret + whole, bytes, nr);
			ret[whole + nr] = '\0';
		}
		whole += nr;
	}
	return (ssize_t)whole;
}
