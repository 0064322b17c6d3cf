/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_BYTES_H
#define DEDUPSCAN_BYTES_H

#include <stdint.h>
#include <string.h>

/* Byte-order types.  An on-disk struct is made of these byte arrays, so it has no padding and no alignment, and a
 * field that is used without its _get() does not compile. */

typedef struct { uint8_t b[2]; } be16, le16;
typedef struct { uint8_t b[4]; } be32, le32;
typedef struct { uint8_t b[8]; } be64, le64;

#define BYTES_DEFINE(bits, width)                                                                                      \
	static inline uint##bits##_t be##bits##_load(const void *p)                                                    \
	{                                                                                                              \
		uint##bits##_t v;                                                                                      \
		memcpy(&v, p, width);                                                                                  \
		return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? __builtin_bswap##bits(v) : v;                       \
	}                                                                                                              \
	static inline uint##bits##_t le##bits##_load(const void *p)                                                    \
	{                                                                                                              \
		uint##bits##_t v;                                                                                      \
		memcpy(&v, p, width);                                                                                  \
		return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? v : __builtin_bswap##bits(v);                       \
	}                                                                                                              \
	static inline void be##bits##_store(void *p, uint##bits##_t v)                                                 \
	{                                                                                                              \
		v = be##bits##_load(&v);                                                                               \
		memcpy(p, &v, width);                                                                                  \
	}                                                                                                              \
	static inline void le##bits##_store(void *p, uint##bits##_t v)                                                 \
	{                                                                                                              \
		v = le##bits##_load(&v);                                                                               \
		memcpy(p, &v, width);                                                                                  \
	}                                                                                                              \
	static inline uint##bits##_t be##bits##_get(be##bits v)                                                        \
	{                                                                                                              \
		return be##bits##_load(v.b);                                                                           \
	}                                                                                                              \
	static inline uint##bits##_t le##bits##_get(le##bits v)                                                        \
	{                                                                                                              \
		return le##bits##_load(v.b);                                                                           \
	}                                                                                                              \
	static inline be##bits be##bits##_from(uint##bits##_t v)                                                       \
	{                                                                                                              \
		be##bits r;                                                                                            \
		be##bits##_store(r.b, v);                                                                              \
		return r;                                                                                              \
	}                                                                                                              \
	static inline le##bits le##bits##_from(uint##bits##_t v)                                                       \
	{                                                                                                              \
		le##bits r;                                                                                            \
		le##bits##_store(r.b, v);                                                                              \
		return r;                                                                                              \
	}

BYTES_DEFINE(16, 2)
BYTES_DEFINE(32, 4)
BYTES_DEFINE(64, 8)

#undef BYTES_DEFINE

#endif
