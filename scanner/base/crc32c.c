/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/base/crc32c.h"

#include <pthread.h>

#include "scanner/base/bytes.h"
#include "scanner/base/cpu.h"

/* Eight bytes a step: with the instruction of SSE4.2, or with eight tables, of which table k moves the remainder of a
 * byte k bytes on ("slicing by 8", Kounavis and Berry 2005). */

#define POLYNOMIAL 0x82f63b78u /* 0x1edc6f41, bits reversed */

static uint32_t tables[8][256];
static pthread_once_t tables_made = PTHREAD_ONCE_INIT;

static void make_tables(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t crc = i;

		for (unsigned bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? POLYNOMIAL : 0);
		tables[0][i] = crc;
	}
	for (unsigned k = 1; k < 8; k++)
		for (unsigned i = 0; i < 256; i++)
			tables[k][i] = tables[k - 1][i] >> 8 ^ tables[0][tables[k - 1][i] & 0xff];
}

uint32_t crc32c_baseline(uint32_t crc, const void *p, size_t len)
{
	const uint8_t *s = p;

	pthread_once(&tables_made, make_tables);
	crc = ~crc;
	for (; len >= 8; s += 8, len -= 8) {
		uint64_t v = le64_load(s) ^ crc;

		crc = 0;
		for (unsigned k = 0; k < 8; k++)
			crc ^= tables[7 - k][v >> 8 * k & 0xff];
	}
	for (; len; s++, len--)
		crc = crc >> 8 ^ tables[0][(crc ^ *s) & 0xff];
	return ~crc;
}

#ifdef __x86_64__

__attribute__((target("sse4.2"))) static uint32_t crc32c_sse42(uint32_t crc, const void *p, size_t len)
{
	const uint8_t *s = p;
	uint64_t v = ~crc;

	for (; len >= 8; s += 8, len -= 8)
		v = __builtin_ia32_crc32di(v, le64_load(s));
	for (; len; s++, len--)
		v = __builtin_ia32_crc32qi((uint32_t)v, *s);
	return ~(uint32_t)v;
}

uint32_t crc32c(uint32_t crc, const void *p, size_t len)
{
	return CPU_HAS(SSE4_2) ? crc32c_sse42(crc, p, len) : crc32c_baseline(crc, p, len);
}

#else

uint32_t crc32c(uint32_t crc, const void *p, size_t len)
{
	return crc32c_baseline(crc, p, len);
}

#endif
