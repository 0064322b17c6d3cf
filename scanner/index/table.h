/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_TABLE_H
#define DEDUPSCAN_TABLE_H

#include "scanner/base/syncer.h"
#include "scanner/index/index.h"

/* Tables: immutable sorted files of the index.
 *
 * Layout: 4 KiB pages, then the directory (the first key.hi of every page in which a key begins), then a trailer.  A
 * page holds entries: the distance from the key before and the first place, as wide as this page needs them, then
 * the other places, each as its distance from the one before.  A list of places that does not fit goes on in the
 * next page, and every page can be read without those before it.  Every page, the directory and the trailer carry a
 * checksum.  table_format.h shows the bytes. */

#define TABLE_PAGE 4096u

/* ---- writing ---- */

struct table_writer;

/* Creates dirfd/name. */
struct table_writer *table_writer_new(int dirfd, const char *name, struct err *err);

/* Adds one place, less than 2^62.  Keys must not descend, places of one key must ascend: both are asserted. */
int table_writer_add(struct table_writer *w, struct key key, uint64_t place, struct err *err);

struct table_stats {
	uint64_t nr_keys, nr_places, bytes;
};

/* Finishes the file (directory, trailer) and frees the writer, also on failure.  The syncer makes it durable; NULL = nobody
 * does. */
int table_writer_finish(struct table_writer *w, struct syncer *syncer, struct table_stats *ret, struct err *err);

/* Frees without finishing; the caller removes the file.  Takes NULL. */
void table_writer_free(struct table_writer *w);
CLEANUP_DEFINE(struct table_writer *, table_writer_free)

/* ---- reading ---- */

struct table;

/* Opens dirfd/name and checks the trailer.  Keeps one buffer of `room` bytes (a multiple of TABLE_PAGE). */
struct table *table_open(int dirfd, const char *name, size_t room, struct err *err);
void table_close(struct table *t);
CLEANUP_DEFINE(struct table *, table_close)
struct table_stats table_stats(const struct table *t);

/* A table stands on one key at a time: who wants two cursors opens it twice.  After an error every call fails. */

/* Moves to the next key; returns 1 with *ret set, 0 at the end, -1 on damage.  Skips places not taken. */
int table_next_key(struct table *t, struct key *ret, struct err *err);

/* The next place of the current key; returns 1, 0 after the last, -1 on damage. */
int table_next_place(struct table *t, uint64_t *ret, struct err *err);

/* Goes back to the first place of the current key, so that a list too long for memory can be walked again. */
int table_rewind_places(struct table *t, struct err *err);

/* Single look-up through the directory: a Judy array from the first key of each page to the page, loaded at the
 * first call (about 0.1 byte of memory per key).  Returns 1 and stands on the key as after table_next_key(), or 0,
 * standing nowhere in particular, or -1.  Keys that ascend are found fastest. */
int table_find(struct table *t, struct key key, struct err *err);

#endif
