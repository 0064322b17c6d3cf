/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_VARINT_H
#define DEDUPSCAN_VARINT_H

#include <stddef.h>
#include <stdint.h>

/* Little-endian base-128 numbers (LEB128): seven bits a byte, low bits first, the high bit says that more follow. */

#define VARINT_MAX 10 /* bytes that the largest uint64_t takes */

/* Writes v at p (VARINT_MAX bytes of room) and returns the byte after it. */
static inline uint8_t *varint_put(uint8_t *p, uint64_t v)
{
	while (v >= 0x80) {
		*p++ = (uint8_t)v | 0x80;
		v >>= 7;
	}
	*p++ = (uint8_t)v;
	return p;
}

/* Reads a number from [p, end).  Returns the byte after it, or NULL when it is cut short or too large. */
static inline const uint8_t *varint_get(const uint8_t *p, const uint8_t *end, uint64_t *ret)
{
	uint64_t v = 0;

	for (unsigned shift = 0; p < end && shift < 64; shift += 7) {
		uint8_t b = *p++;

		if (shift == 63 && b > 1)
			return NULL;
		v |= (uint64_t)(b & 0x7f) << shift;
		if (!(b & 0x80)) {
			*ret = v;
			return p;
		}
	}
	return NULL;
}

static inline size_t varint_len(uint64_t v)
{
	size_t n = 1;

	for (; v >= 0x80; v >>= 7)
		n++;
	return n;
}

#endif
