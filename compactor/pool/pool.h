/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_POOL_H
#define DEDUPSCAN_POOL_H

#include <stdbool.h>

#include "compactor/pool/pool_id.h"
#include "scanner/base/cleanup.h"
#include "scanner/base/lock_file.h"
#include "scanner/image/slice.h"

/* A pool: the directory that holds shared data (compactor/pool/pool_format.h shows what is in it).
 *
 * One process at a time changes a pool, any number read it. */

#define POOL_NAME ".dedupscan-pool" /* in the directory whose images it serves, unless the user says another */

enum pool_dir { POOL_TOP, POOL_VIEWS, POOL_SEALED, POOL_TREES, POOL_NAMES, POOL_INDEX, POOL_TRASH, POOL_QUARANTINE, POOL_NR_DIRS };

struct pool {
	char *path; /* absolute, without symbolic links: overlays name it */
	int dirs[POOL_NR_DIRS];
	struct lock_file lock;
	bool writing;
	uint8_t uuid[POOL_ID_SIZE];
	struct clusters *clusters;
	struct nodes *nodes;
	struct finder *finder; /* NULL unless writing */
	size_t memory;	       /* of the finder */
	struct views *views;   /* what view_find() remembers, NULL = nothing */
	struct slice_reading reading; /* of new stubs (view.h); only when writing */
	bool end_is_known;	  /* the file that grows was not cut (growth.c) */
	uint64_t file_size;	  /* bytes of clusters after which another cluster file begins (growth.h), 0 = none */
	uint64_t nr_damaged;   /* records of nodes that were passed over */
	bool nodes_missing;    /* POOL_TO_REPAIR: their file is not there */
	unsigned dirs_missing; /* POOL_TO_REPAIR: directories that were not there, bit by bit; they are, now */
	uint64_t next_name;    /* names.c; 0 = not looked up yet */
	struct name_rows *rows; /* what names are found by, NULL = not looked up yet */
	unsigned immutable;	/* enum pool_immutable (compactor/pool/immutable.h); only when writing */
	struct stopper *stopper; /* the caller's: ends what takes long in between; may be NULL */
	bool restless;		/* all stubs are looked at when it is closed: some may lack their flag */
};

/* Makes a new pool at dirfd/name (mode 0711; nothing may be there but an empty directory), which is complete or not there at
 * all. */
int pool_create(int dirfd, const char *name, struct err *err);

/* Opens the pool at dirfd/name; `path` is where that is, absolute and resolved.  ERR_BUSY while another process changes it (or, for
 * writing, uses it at all); ERR_UNSUPPORTED for one of a newer version (reading where its flags allow); ERR_REFUSED where others
 * than its owner can write to the directory or it is not this user's; ERR_FORMAT when it is no whole pool; *ret NULL when nothing
 * is there, which is no error. */
int pool_open(int dirfd, const char *name, const char *path, bool writing, struct pool **ret, struct err *err);
enum pool_access {
	POOL_TO_READ,
	POOL_TO_WRITE,
	POOL_TO_REPAIR, /* and write; without a file of nodes it has none, and what is put goes nowhere until pool_new_nodes(); all
			 * directories but names/ are made where they are missing */
};
/* The same, with so many bytes of memory for the finder, which is the only large thing. */
int pool_open_with(int dirfd, const char *name, const char *path, enum pool_access access, size_t memory, struct pool **ret,
		   struct err *err);
#define POOL_MEMORY ((size_t)32 << 20)
#define POOL_MEMORY_MIN ((size_t)8 << 20)
const char *pool_dir_name(enum pool_dir i);
void pool_close(struct pool *p);
CLEANUP_DEFINE(struct pool *, pool_close)

/* Makes the file of nodes that is missing, empty; its name is durable. */
int pool_new_nodes(struct pool *p, struct err *err);

/* Syncs clusters, then nodes, then what the finder has: after this everything imported so far is durable.  Without it nothing may
 * be published. */
int pool_sync(struct pool *p, struct err *err);

/* Says which pool it was, unless the text begins with that.  Returns -1. */
int pool_err(const struct pool *p, struct err *err);

/* What file of a pool, of whichever and wherever it is, a path would be: a stub (POOL_VIEWS), a sealed overlay, or a cluster file
 * (POOL_TOP), and its id; POOL_NR_DIRS = none.  Ids are random: who has one has that file, or a copy of it.  *ret_len is how much
 * of the path is the pool's. */
enum pool_dir pool_file_parse(const char *path, uint8_t ret_id[POOL_ID_SIZE], size_t *ret_len);

#endif
