/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_POOL_CHECK_H
#define DEDUPSCAN_POOL_CHECK_H

#include <limits.h>

#include "compactor/pool/pool.h"
#include "scanner/base/schedule.h"

/* Is a pool whole?  Structure always: superblocks, whether cluster files are there and as long as maps lead, slots, the tables of
 * every view against its tree, stubs, nodes reached from names and views (each proven by its digest), names, whether the index has
 * all keys.  With `read_data` every distinct segment that is kept is read and proven. */

enum pool_part {
	POOL_CLUSTER_FILE, POOL_SUPERBLOCK, POOL_SLOT, POOL_TABLES, POOL_STUB, POOL_NODE, POOL_DATA, POOL_NAME_FILE, POOL_FINDER,
	POOL_SEALED_FILE, POOL_DIRECTORY, POOL_NR_PARTS
};
extern const char *const pool_part_names[POOL_NR_PARTS]; /* "cluster file", "superblock", ... */

/* From what the pool itself has.  Where more than one thing is damaged that could each be made from the other, only a repair, or its
 * dry run, which read the data, know. */
enum repairable { REPAIR_CANNOT, REPAIR_MAY, REPAIR_CAN };

struct pool_damage {
	enum pool_part part;
	char path[PATH_MAX];   /* of the image that it hits, or IMAGE@VERSION; "" = none, or all */
	uint64_t offset, len;  /* of its disk, bytes; len 0 = does not apply */
	struct err what;
	enum repairable repairable;
	uint8_t digest[DIGEST_SIZE]; /* POOL_DATA: of the segment */
};

struct pool_check_options {
	bool read_data;
	double percent; /* of the data, above 0; with less than 100 it is another share each time, see below */
	struct stopper *stopper;
	int (*damage)(void *ctx, const struct pool_damage *d, struct err *err);
	void (*progress)(void *ctx, const char *stage, uint64_t done, uint64_t total); /* may be NULL */
	void *ctx;
};

struct pool_checked {
	uint64_t nr_names, nr_views, nr_nodes, nr_segments; /* looked at */
	uint64_t bytes_read, nr_damages;
};

/* 0 also when there is damage, which is told.  The pool may be open for reading only.
 *
 * Shares of the data follow on each other: as many checks as make 100 percent read all that was there all the time.  How far they
 * are is in the pool's file `checked`, which is written when one has come to its end. */
int pool_check(struct pool *p, const struct pool_check_options *o, struct pool_checked *ret, struct err *err);

/* Repair: rebuilds what can be rebuilt from what is whole, writes anew, moves what it replaces into quarantine/, removes nothing
 * that guests may have open.
 *
 *	nodes		from the tables and data of a view of the same root
 *	slots, tables	a view is written anew from its tree, under its old id
 *	stubs		from the headers
 *	data		from another map of the segment, or a view that has it elsewhere (compactor/pool/heal.h)
 *	superblocks	one from the other
 *	index		keys of blocks, from the clusters (compactor/pool/reindex.h)
 *
 * Damaged data also heals when an image that has it is imported again (compactor/pool/import.h); repair then writes views anew that
 * still led to the old bytes.  Names and sealed overlays are not made up. */
struct pool_repair_options {
	bool dry_run;
	bool read_data; /* all: else damage of data is not looked for */
	bool assume_idle; /* where there are no leases nobody has a stub open */
	struct stopper *stopper;
	int (*tell)(void *ctx, const struct pool_damage *d, bool repaired, struct err *err); /* one of each damage */
	void (*progress)(void *ctx, const char *stage, uint64_t done, uint64_t total); /* may be NULL */
	void *ctx;
};
int pool_repair(struct pool *p, const struct pool_repair_options *o, uint64_t *ret_repaired, uint64_t *ret_left, struct err *err);

#endif
