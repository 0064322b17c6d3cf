/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_POOL_STATUS_H
#define DEDUPSCAN_POOL_STATUS_H

#include "compactor/pool/immutable.h"

/* What a pool takes, for people: bytes. */
struct pool_status {
	uint64_t nr_members, nr_versions, nr_views, nr_sealed, nr_folded;
	uint64_t logical;   /* of all disks that names keep, not counting zeros */
	uint64_t distinct;  /* clusters of data that they reach */
	uint64_t tables, nodes, finder, stubs, names, sealed; /* metadata, and what waits to be folded in */
	uint64_t folded;    /* in overlays that were folded in, and on which something may stand yet */
	uint64_t unreached; /* that a collection would free */
	uint64_t nr_files, file_size, on_disk; /* of the cluster files */
	uint64_t room, nr_slots_left; /* that the one that grows can; views that it can still take */
	struct immutable_state immutable;
	uint64_t nr_given_away; /* cluster file and stubs that do not belong to the pool's owner: libvirt gives them to its
				 * guests' user */
};
int pool_status(struct pool *p, struct pool_status *ret, struct err *err);

#endif
