/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_STANDING_H
#define DEDUPSCAN_STANDING_H

#include "compactor/pool/view.h"
#include "scanner/base/vec.h"

/* Who stands on a pool, whatever its names say: overlays that were copied, moved or restored from a backup, originals that wait
 * in the trash of a workshop.  What overlays of other pools stand on is among it, which no pool here has. */

struct standing_id {
	uint8_t bytes[POOL_ID_SIZE];
	bool sealed;   /* a sealed overlay; else a view */
	uint32_t slot; /* of a view that somebody stands on without its stub (a block job cut that out); else 0 */
};

struct standing_ids {
	VEC(struct standing_id) list; /* of those that overlays name, each any number of times */
};

/* Adds what all files at and beneath `dir` stand on, on its file system and but for the pool itself.  A directory or file that
 * cannot be looked at is an error. */
int standing_find(const struct pool *p, const char *dir, struct standing_ids *ret, struct err *err);
/* The same of one file, also behind a symbolic link; where none is, it stands on nothing. */
int standing_look(const struct pool *p, const char *path, struct standing_ids *ret, struct err *err);

#endif
