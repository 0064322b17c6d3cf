/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_DIGEST_H
#define DEDUPSCAN_DIGEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "scanner/base/block.h"
#include "scanner/base/err.h"

/* Digests, SHA-256: what proves that bytes are the same ones, where a fingerprint is a hint.
 *
 * A disk has a tree of them.  A leaf is the digest of one segment of 2 MiB, of which what lies behind the end of the disk counts
 * as zeros; an inner node is the digest of its 128 children's digests, absent ones being null.  The digest of a segment of zeros
 * is null, and so is that of a node whose children all are.  The root stands for the disk:
 *
 *	root		  SHA-256 of 128 digests
 *	nodes		| SHA-256 of 128 digests | null | ...
 *	segments	| 2 MiB | 2 MiB | ...
 *
 * Its height is the least that has a leaf for each segment, so the root of a disk of one segment is its leaf.  What is zero costs
 * nothing, however long it is. */

#define DIGEST_SIZE 32
#define DIGEST_FANOUT 128u
#define DIGEST_LEVELS 7 /* enough for 2^64 bytes */

/* Loads libcrypto.  To be called before a jail is entered, and where there is a way to tell that it is not there: who wants a
 * digest without it dies.  Always fails in a program that was built without libcrypto. */
int digest_prepare(struct err *err);

void digest_bytes(const void *buf, size_t len, uint8_t ret[DIGEST_SIZE]);
/* Of two buffers of one length.  A processor's instructions for SHA-256 wait for each other most of the time; with two buffers at
 * hand they get half as much again done, or more. */
void digest_two(const void *a, const void *b, size_t len, uint8_t ret_a[DIGEST_SIZE], uint8_t ret_b[DIGEST_SIZE]);
/* How, where the processor has them; else NULL, and they are digested one after the other.  For tests and measurements. */
extern void (*digest_two_at_once)(const void *a, const void *b, size_t len, uint8_t ret_a[DIGEST_SIZE],
				  uint8_t ret_b[DIGEST_SIZE]);
bool digest_is_null(const uint8_t digest[DIGEST_SIZE]);

struct digest_tree {
	unsigned height;
	struct {
		bool any; /* a child that is not null */
		uint64_t number;
		uint8_t children[DIGEST_FANOUT][DIGEST_SIZE];
	} nodes[DIGEST_LEVELS];	/* the one at each level that is being filled; leaves are children of level 0 */
	uint8_t root[DIGEST_SIZE];

	/* May be set after digest_tree_begin(): called for each inner node when it is complete, children before parents.  Those of
	 * level 1 have segments as children. */
	void (*emit)(void *ctx, unsigned level, const uint8_t children[DIGEST_FANOUT][DIGEST_SIZE],
		     const uint8_t digest[DIGEST_SIZE]);
	void *ctx;
};

/* Of a disk of `size` bytes. */
unsigned digest_tree_height(uint64_t size);
void digest_tree_begin(struct digest_tree *t, uint64_t size);
/* The digest of a segment that is not all zeros.  Segments ascend; those left out are zeros. */
void digest_tree_add(struct digest_tree *t, uint64_t segment, const uint8_t digest[DIGEST_SIZE]);
void digest_tree_end(struct digest_tree *t, uint8_t ret[DIGEST_SIZE]);

#define DIGEST_TEXT_ROOM (2 * DIGEST_SIZE + 1)

/* In hex, as all the world prints it.  Returns buf. */
char *digest_text(const uint8_t digest[DIGEST_SIZE], char buf[DIGEST_TEXT_ROOM]);
/* Takes the 64 hex digits at the beginning of s; false when they are not there. */
bool digest_parse(const char *s, uint8_t ret[DIGEST_SIZE]);

#endif
