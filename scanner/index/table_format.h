/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_TABLE_FORMAT_H
#define DEDUPSCAN_TABLE_FORMAT_H

#include "scanner/base/bytes.h"
#include "scanner/base/checked.h"
#include "scanner/index/table.h"

/* The bytes of a table, for its writer and its reader.  All numbers are little-endian, but for the key.
 *
 *	file:	| page 0 | page 1 | ... | directory | trailer |
 *	page:	| header | places that go on | entry, places | entry, places | ... | zeros |
 *
 * A key is a number of 104 bits, an entry its distance from the key before (the page's base key for the first one)
 * together with the key's first place:
 *
 *	bit 0		1 when more places follow
 *	place_bits	the first place
 *	gap_bits	the distance
 *
 * Both widths are the page's: what its widest entry needs; an entry ends at a whole byte.  More places follow the entry
 * as varints of (distance from the place before) * 2 + (1 when another follows).
 *
 * A page without places that go on has its first key for a base, and so a first distance of 0; else the base is the key
 * they belong to, and their first varint holds the place itself.  So every page can be read without those before it.
 *
 * 200 million random keys are 76.4 bits apart in the mean and 80 at most within a page: with 28 to 32 bits of place, an
 * entry has 14 or 15 bytes, where the key alone has 13. */

#define TABLE_MAGIC "dedupTBL"
#define TABLE_VERSION 1

#define KEY_BITS (8 * KEY_BYTES)
#define TABLE_PLACE_BITS 62 /* so many at most */
#define TABLE_OVERRUN 32    /* encoding and decoding touch so many bytes after an entry */

struct table_page_header {
	le32 checksum;		 /* of the rest of the page; the seed is the page's number */
	le16 used;		 /* bytes, header included */
	le16 entries;		 /* where the first entry is: after the header, unless places go on */
	uint8_t gap_bits;	 /* at most 104 */
	uint8_t place_bits;	 /* at most 62 */
	uint8_t reserved;	 /* 0 */
	uint8_t base[KEY_BYTES]; /* big-endian */
};
_Static_assert(sizeof(struct table_page_header) == 24, "layout");

/* The directory: every page in which a key begins, with the first such key.  It is cut into blocks of at most
 * TABLE_DIRECTORY_BLOCK entries, each behind a checksum (le32) of them; the seed goes on counting after the pages. */
struct table_directory_entry {
	le64 hi;
	le32 page;
};
#define TABLE_DIRECTORY_BLOCK ((TABLE_PAGE - sizeof(le32)) / sizeof(struct table_directory_entry))
_Static_assert(sizeof(struct table_directory_entry) == 12, "layout");

struct table_trailer {
	char magic[8];
	le32 version;
	le32 page_size;
	le64 nr_pages, nr_directory;
	le64 nr_keys, nr_places;
	le64 reserved;	/* 0 */
	le32 reserved2; /* 0 */
	le32 checksum;	/* of the rest of the trailer; the seed is TABLE_VERSION */
};
_Static_assert(sizeof(struct table_trailer) == 64, "layout");

__extension__ typedef unsigned __int128 u128;

static inline u128 key_number(struct key k)
{
	return ((u128)k.hi << 64 | k.lo) >> (128 - KEY_BITS);
}

static inline struct key number_key(u128 n)
{
	n <<= 128 - KEY_BITS;
	return (struct key){ (uint64_t)(n >> 64), (uint64_t)n };
}

static inline u128 le128_load(const uint8_t *p)
{
	return (u128)le64_load(p + 8) << 64 | le64_load(p);
}

static inline void le128_store(uint8_t *p, u128 v)
{
	le64_store(p, (uint64_t)v);
	le64_store(p + 8, (uint64_t)(v >> 64));
}

static inline unsigned bit_length(u128 v)
{
	uint64_t hi = (uint64_t)(v >> 64), lo = (uint64_t)v;

	if (hi)
		return 128 - (unsigned)__builtin_clzll(hi);
	return lo ? 64 - (unsigned)__builtin_clzll(lo) : 0;
}

static inline size_t entry_bytes(unsigned gap_bits, unsigned place_bits)
{
	return (1 + place_bits + gap_bits + 7) / 8;
}

static inline uint64_t directory_bytes(uint64_t nr)
{
	return nr * sizeof(struct table_directory_entry) + div_up(nr, TABLE_DIRECTORY_BLOCK) * sizeof(le32);
}

#endif
