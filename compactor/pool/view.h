/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_VIEW_H
#define DEDUPSCAN_VIEW_H

#include <limits.h>

#include "compactor/pool/nodes.h"
#include "compactor/pool/pool.h"
#include "scanner/image/slice.h"

/* Views, stubs and overlays: how a version in a pool becomes an image that every QEMU opens.
 *
 *	overlay (the user's path, writable)  ->  views/<id>.qcow2, the stub (empty)  ->  the view: a slice of the cluster file
 *
 * The view is a complete qcow2 of version 3 whose L1 and L2 tables point at clusters of the pool, seen through an offset and a
 * size.  It is written once, from a tree, and never changed.  In stub and view no entry is marked COPIED and the refcounts cannot
 * be read, so whoever commits into them gets no room for a single cluster, and nothing in them changes.  Their virtual sizes are
 * rounded up to a full L1 table, so that no commit can make them grow in place either.  Opening one of them for writing fails. */

struct view {
	uint8_t id[POOL_ID_SIZE];
	uint8_t root[DIGEST_SIZE];
	uint64_t disk_size;
	uint64_t generation;
	uint32_t slot;
	uint64_t slice_size;
	unsigned cluster_bits;
};

/* Writes tables and header of a view of a tree with a new id, then its stub; all of it is durable in the right order.  cluster_bits
 * is at most the unit of all the tree's leaves, and such that the L1 table has at most 32 MiB (ERR_UNSUPPORTED says which cluster
 * size would do). */
int view_write(struct pool *p, const uint8_t root[DIGEST_SIZE], uint64_t disk_size, unsigned cluster_bits, struct view *ret,
	       struct err *err);

/* Decodes the header in a slot and checks all of it. */
int view_decode(const uint8_t header[BLOCK_SIZE], uint32_t slot, struct view *ret, struct err *err);
/* By id (the newest of them), or of a tree, whose stub is in its place: 1, 0, -1.  Reads the slots once and remembers. */
int view_find(struct pool *p, const uint8_t id[POOL_ID_SIZE], struct view *ret, struct err *err);
int view_find_root(struct pool *p, const uint8_t root[DIGEST_SIZE], uint64_t disk_size, unsigned cluster_bits, struct view *ret,
		   struct err *err);

/* Forgets what it remembers: slots were buried, or the pool is closed. */
void view_forget(struct pool *p);

/* Where the view's tables lie in the cluster file: each L2 table, the L1 table, the refcount table.  ERR_FORMAT where they cannot
 * lie so. */
int view_each_table(struct pool *p, const struct view *v, int (*call)(void *ctx, uint64_t offset, uint64_t len, struct err *err),
		    void *ctx, struct err *err);

/* The maps that its tables have, as leaves without digest and hint; the places may be anything within the slice.  Segments
 * ascend. */
int view_each_map(struct pool *p, const struct view *v, int (*call)(void *ctx, uint64_t segment, struct leaf *map, struct err *err),
		  void *ctx, struct err *err);

/* Reads all that its tables lead to, as QEMU does, and proves it: 0, ERR_FORMAT when the bytes are not those of its root.  On the
 * way `call` (may be NULL) gets each segment's map, with its digest, and its bytes.  The stopper may be NULL. */
int view_read(struct pool *p, const struct view *v, struct stopper *stopper,
	      int (*call)(void *ctx, uint64_t segment, struct leaf *map, const void *bytes, struct err *err), void *ctx,
	      struct err *err);

/* Compares the tables with the tree's maps: 0, or ERR_FORMAT saying where they differ.  In a pool of several cluster files a map
 * may lead elsewhere by now: then what the view has instead is read and proven; or it only lies where it may. */
int view_check(struct pool *p, const struct view *v, struct err *err);
int view_check_layout(struct pool *p, const struct view *v, struct err *err);
/* The same, of what the disk has: before its stub takes the place of another one. */
int view_prove(struct pool *p, const struct view *v, struct err *err);

/* Whether the stub of a view is what view_write_stub() would write, in views/ or trash/: 0, or ERR_FORMAT, ERR_STALE and others. */
int view_check_stub(const struct pool *p, const struct view *v, enum pool_dir dir, struct err *err);
/* Whether the stub of a view, in views/ or trash/, leads to this one of its id, as far as can be told: one that is missing leads to
 * none, and so does one that is damaged. */
bool view_stub_leads_to(const struct pool *p, const struct view *v);
/* Whether a stub is whole, but names the pool by another path, and which: the pool was moved or copied.  (What view_check_stub()
 * calls ERR_STALE.) */
bool view_stub_elsewhere(const struct pool *p, const struct view *v, char ret[PATH_MAX]);

/* Writes the view of a tree anew, tables, header and stub, under an id that it had: that leads to the new one from then on, which
 * is read back first where there is a `kept_stub`.  Its
 * old slot stays, with all that it leads to: guests may have it open.  A collection removes it. */
int view_write_as(struct pool *p, const struct view *old, const char *kept_stub, struct view *ret, struct err *err);

/* Writes the stub of a view again (the pool was moved, or it was lost).  One that is there becomes quarantine/<kept_stub>, unless
 * that is NULL; there is a stub at every moment.  QEMU reads by it as by the one that is there, or, where there is none that can be
 * read, as the pool was told. */
int view_write_stub(struct pool *p, const struct view *v, const char *kept_stub, struct err *err);
/* The same, but that QEMU reads by it as `reading` says. */
int view_write_stub_to_read(struct pool *p, const struct view *v, const struct slice_reading *reading, const char *kept_stub,
			    struct err *err);
/* As the stub of a view has it. */
int view_stub_reading(const struct pool *p, const struct view *v, struct slice_reading *ret, struct err *err);

/* What somebody wants of how QEMU reads, of which only what is marked counts. */
struct stub_wish {
	struct slice_reading as;
	bool l2, host, aio;
};
struct slice_reading stub_as_wished(struct slice_reading now, const struct stub_wish *w);
/* What the pool was told for new stubs, and keeps; those that are there keep what they have.  ERR_REFUSED: io_uring, which programs
 * may not use on this machine; ERR_UNSUPPORTED: the pool's path is too long for stubs that say so. */
struct slice_reading stub_told(const struct pool *p);
int stub_check_wish(const struct pool *p, const struct stub_wish *w, struct err *err); /* whether it may be told */
int stub_check_machine(const struct stub_wish *w, struct err *err); /* the same, of any pool */
int stub_tell(struct pool *p, const struct stub_wish *w, struct err *err);
/* The name in quarantine/ for a stub that was replaced, which guests may have open. */
#define VIEW_KEPT_STUB_ROOM 32
char *view_kept_stub(const struct view *v, char ret[VIEW_KEPT_STUB_ROOM]);
/* The same, or what it becomes where that is taken. */
int view_free_kept_stub(const struct pool *p, const struct view *v, char ret[VIEW_KEPT_STUB_ROOM], struct err *err);

/* What an overlay has as backing name for this view, and the reverse: whether a slice names a stub of this pool, and which. */
int view_backing(const struct pool *p, const struct view *v, struct slice *ret, struct err *err);
bool view_of_backing(const struct pool *p, const struct slice *s, uint8_t ret_id[POOL_ID_SIZE]);

struct overlay_options {
	bool compat; /* plain qcow2 of version 3 with clusters of 64 KiB; else with extended L2 entries */
	const uint8_t *beside; /* the id of what it is written beside (POOL_EXT_FRESH), NULL = none */
};

/* Writes an empty overlay of `disk_size` bytes whose backing file is `backing`, into a new file open for writing: header,
 * refcounts, L1 table, sparse.  Not synced. */
int overlay_write(int fd, uint64_t disk_size, const struct slice *backing, const struct overlay_options *o, struct err *err);

/* Reads what an overlay has as its backing file: 1 and *ret when that is a slice, 0, or -1 (it is no qcow2, or damaged). */
int overlay_backing(int fd, struct slice *ret, uint64_t *ret_disk_size, struct err *err);
/* Whether it was written beside that id. */
bool overlay_was_beside(int fd, const uint8_t id[POOL_ID_SIZE]);
/* The same, but that a plain absolute name counts, too: as a slice of 0 bytes that is not read-only. */
int overlay_names(int fd, struct slice *ret, uint64_t *ret_disk_size, struct err *err);

/* Has an overlay say that another file is its backing file, in place; nothing else of it changes, and whatever happens meanwhile it
 * names the old one or the new one.  `fd` is open for writing, and nobody else has it open.  ERR_UNSUPPORTED: its header has no
 * room for both names, or something that is not known here. */
int overlay_repoint(int fd, const struct slice *backing, struct err *err);
/* The header of any qcow2 image (scanner/image/qcow2_format.h). */
struct qcow2_header;
int overlay_header(int fd, struct qcow2_header *ret, struct err *err);

#endif
