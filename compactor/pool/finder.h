/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_FINDER_H
#define DEDUPSCAN_FINDER_H

#include <stdbool.h>

#include "scanner/base/cleanup.h"
#include "scanner/base/err.h"
#include "scanner/base/schedule.h"
#include "scanner/index/index.h"

/* Finds in a pool by content: which clusters may hold a block, where the node of a digest is, which leaf may be a segment's.
 *
 * A map from keys to numbers on disk: a few sorted tables (scanner/index/table.h, each with its Judy directory), of which each
 * holds what was added in one go and which are merged as their number grows, and what was added since in memory.  Answers are
 * hints: whoever asks compares bytes, or checks digest and checksum of the node.  Losing it costs space or time, never data; it can
 * be rebuilt from nodes and clusters.
 *
 * Blocks are those of one cluster file, the one that grows, as nobody else's are shared; nodes are all.
 *
 * Memory: half of `memory` is for what is pending; when that is full a table is written.  The other half is for filters, which tell
 * without reading that a key is not there. */

struct finder;

/* What is looked for; kinds do not see each other. */
enum finder_kind {
	FINDER_BLOCK,	/* fingerprint of a unit of clusters -> its offset in that file / 4096 */
	FINDER_NODE,	/* digest of a node -> offset of its record / 8 */
	FINDER_SEGMENT, /* fingerprint of a segment -> offset of the record of its leaf / 8 */
	FINDER_NR_KINDS
};

/* Opens the tables in dirfd, of the cluster file `uuid`.  A missing, damaged or half-written table is left out (and removed when
 * writing): *ret_whole says whether all there should be is there. */
struct finder *finder_open(int dirfd, const uint8_t uuid[16], size_t memory, bool writing, bool *ret_whole, struct err *err);
void finder_close(struct finder *f); /* what is pending is lost */
CLEANUP_DEFINE(struct finder *, finder_close)

/* Up to this offset of the nodes' file all nodes were added and are durable in the tables; who opens adds the rest again. */
uint64_t finder_covered(const struct finder *f);
/* The offset in its cluster file behind all that these nodes lead to, UINT64_MAX = that is not known.  What is set is durable with the
 * next finder_sync() that covers more. */
uint64_t finder_reach(const struct finder *f);
void finder_set_reach(struct finder *f, uint64_t reach);
/* A checksum of the last bytes of the nodes' file that it covers, by which that is told from another one; 0 = not known.  The same
 * holds for it. */
uint32_t finder_tail(const struct finder *f);
void finder_set_tail(struct finder *f, uint32_t tail);

/* `unit_bits` keeps units of different sizes apart (12, 14, 16; 0 for inner nodes); hi and lo are a fingerprint, or the
 * first 16 bytes of a digest as two little-endian numbers.  Of a block's fingerprint the first 60 bits count, else 100.  0, or -1;
 * a key that is there already keeps its number, and that is 1, unless `over`. */
int finder_add(struct finder *f, enum finder_kind kind, unsigned unit_bits, uint64_t hi, uint64_t lo, uint64_t number, bool over,
	       struct err *err);
/* 1 and *ret, 0, or -1. */
int finder_get(struct finder *f, enum finder_kind kind, unsigned unit_bits, uint64_t hi, uint64_t lo, uint64_t *ret,
	       struct err *err);

/* Writes what is pending as a table and makes it durable; `covered` as above.  Merges tables when there are many. */
int finder_sync(struct finder *f, uint64_t covered, struct err *err);

/* Blocks in [*ret_begin, *ret_end) of the cluster file may have no keys here, since tables were lost (compactor/pool/reindex.h
 * makes them anew); where there is no list of tables that is all up to UINT64_MAX.  Empty = all have.  What is set is durable with
 * finder_sync(). */
void finder_lacks(const struct finder *f, uint64_t *ret_begin, uint64_t *ret_end);
void finder_set_lacks(struct finder *f, uint64_t begin, uint64_t end);

/* Reads all tables through, and the filters that it would use: 1, 0 = one is not as it was written, or the list of them was not
 * when it was opened, as *ret_why says, -1.  That there is none, or one of another cluster file, is no damage: a process that died
 * leaves that. */
int finder_prove(const struct finder *f, struct stopper *stopper, struct err *ret_why, struct err *err);

/* Forgets everything, on disk too: before it is built anew. */
int finder_clear(struct finder *f, struct err *err);
/* The same, and from now on it is of another cluster file, in which no block lacks a key. */
int finder_begin(struct finder *f, const uint8_t uuid[16], struct err *err);
/* What it should have was not added: nothing of it becomes durable, and whoever opens it builds it anew. */
void finder_give_up(struct finder *f, const struct err *why);

uint64_t finder_bytes(const struct finder *f); /* on disk */

#endif
