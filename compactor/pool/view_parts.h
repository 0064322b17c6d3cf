/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_VIEW_PARTS_H
#define DEDUPSCAN_VIEW_PARTS_H

#include "compactor/pool/qcow2_writer.h"
#include "compactor/pool/view.h"

/* Between view.c, view_table.c and stub.c. */

/* Fills in the extension that says whose a header is; its checksum covers that, too. */
void view_extension(const struct view *v, const uint8_t header[QCOW2_V3_LENGTH], struct pool_view_disk *ret);

/* ---- the L2 tables of a view, made from its tree (view_table.c) ---- */

struct view_tables;
struct view_tables *view_tables_new(struct pool *p, const uint8_t root[DIGEST_SIZE], uint64_t disk_size, unsigned cluster_bits,
				    uint32_t slot, struct err *err);
/* What is called for each segment, when its part of the table is made from a leaf in the view's file; `found` says that there is
 * one, else it was stored in another file since and the part is empty.  May put something else there.  NULL = there must be one. */
typedef int view_tables_look(void *ctx, uint64_t segment, const uint8_t digest[DIGEST_SIZE], bool found, be64 *entries,
			     struct err *err);
void view_tables_set_look(struct view_tables *t, view_tables_look *call, void *ctx);
/* The next one that is not empty: 1, its place in the L1 table and its 1 << cluster_bits bytes, valid until the next call; 0 at the
 * end; -1. */
int view_tables_next(struct view_tables *t, uint64_t *ret_index, const be64 **ret, struct err *err);
void view_tables_free(struct view_tables *t);
CLEANUP_DEFINE(struct view_tables *, view_tables_free)

/* ---- stubs ---- */

/* It is in views/: the view may be stood on. */
bool stub_is_there(const struct pool *p, const struct view *v);

/* Fails where a path is too long to be named by an overlay or a stub, or a disk too large for a stub, before anything is
 * written. */
int stub_check(const struct pool *p, const struct view *v, struct err *err);
/* The same, of stubs that have QEMU read so, whatever view they are of. */
int stub_check_reading(const struct pool *p, const struct slice_reading *reading, struct err *err);

#endif
