/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_VERSIONS_PARTS_H
#define DEDUPSCAN_VERSIONS_PARTS_H

#include "compactor/seal.h"
#include "compactor/versions.h"

/* What versions*.c and clone.c share.  Nobody else includes this. */

/* Seals the overlays of members, adds them to the disks of *n, and publishes that.  `target`: what the fresh overlays stand on, NULL = on
 * what is sealed.  ERR_REFUSED: more would stand on each other than how->sealed_max. */
int versions_seal(struct pool *p, struct name *n, struct member *const *members, size_t nr, const struct standing *target,
		  enum seal_end end, const struct versions_how *how, struct err *err);

/* Nothing was written since: the disk, as it is noted of what the member stands on; 1, 0 = something was, -1. */
int versions_unchanged(struct pool *p, const struct member *m, struct name_disk *ret, struct err *err);

/* Finishes clones (clone.c). */
int clone_recover(struct pool *p, struct err *err);

/* All names, in memory. */
struct name_list {
	VEC(struct name) names;
};
int name_list_read(struct pool *p, struct name_list *ret, struct err *err);
void name_list_release(struct name_list *l);
CLEANUP_DEFINE_RELEASE(struct name_list, name_list_release)

static inline bool pool_id_same(const uint8_t a[POOL_ID_SIZE], const uint8_t b[POOL_ID_SIZE])
{
	return memcmp(a, b, POOL_ID_SIZE) == 0;
}

#endif
