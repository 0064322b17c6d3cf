/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_VERSIONS_PARTS_H
#define DEDUPSCAN_VERSIONS_PARTS_H

#include "compactor/seal.h"
#include "compactor/versions.h"

/* What versions*.c and clone.c share.  Nobody else includes this. */

/* Seals the overlays of members, adds them to the disks of *n, and publishes that.  `target`: what the fresh overlays stand on,
 * NULL = on what is sealed.  ERR_REFUSED: more would stand on each other than how->sealed_max. */
int versions_seal(struct pool *p, struct name *n, struct member *const *members, size_t nr, const struct standing *target,
		  enum seal_end end, const struct versions_how *how, struct err *err);

/* What versions_seal() does of it: checks that, and notes what is to become of a member as one disk of *n. */
int versions_check_depth(struct pool *p, const struct member *m, unsigned most, struct err *err);
int versions_add_pending(struct name *n, const struct member *m, const uint8_t sealed[POOL_ID_SIZE], struct err *err);

/* There is none of this label of one of them yet, and it may be one; the small files of *o are read into *n. */
int versions_check_new(struct pool *p, const struct snapshot_options *o, struct err *err);
int versions_add_files(const struct snapshot_options *o, struct name *n, struct err *err);

/* Writes into an overlay that nobody uses what it stands on. */
int versions_set_backing(int fd, const struct slice *backing, struct err *err);

/* Nothing was written since: the disk, as it is noted of what the member stands on; 1, 0 = something was, -1. */
int versions_unchanged(struct pool *p, const struct member *m, struct name_disk *ret, struct err *err);

/* What became of clones (clone.c): of one that was promised, and of those whose overlays still lie in the pool. */
int clone_decide(struct pool *p, const struct name *n, struct err *err);
int clone_recover(struct pool *p, struct err *err);

/* Paths of members. */
struct path_of {
	uint64_t number;
	char *path;
};
struct path_list {
	VEC(struct path_of) items;
};
int path_list_add(struct path_list *l, uint64_t number, const char *path, struct err *err);
void path_list_release(struct path_list *l);
CLEANUP_DEFINE_RELEASE(struct path_list, path_list_release)

/* Members at whose paths a newer one is: a clone was put in their place (versions_moved.c). */
typedef int versions_replaced(void *ctx, const struct name *newer, const struct name *n, struct err *err);
int versions_each_replaced(struct pool *p, versions_replaced *call, void *ctx, struct err *err);
/* Forgets those of them that stand on the same as the newer one. */
int versions_drop_replaced(struct pool *p, struct err *err);

#endif
