/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_COLLECT_H
#define DEDUPSCAN_COLLECT_H

#include "compactor/pool/pool.h"
#include "scanner/base/schedule.h"

/* Collection: space that no name reaches comes back.
 *
 *	mark	all names, and all overlays beneath `dirs`, whether a name knows them or not (compactor/standing.h): the roots,
 *		views and sealed overlays that they need; every view whose stub is in use or that is not dying yet; from these the
 *		nodes, tables and clusters that live
 *	views	one that no name keeps: its stub goes from views/ to trash/ (it is dying; who opens an overlay on it fails loudly).
 *		One that is dying since an earlier collection, still kept by no name and in use by nobody: its stub goes, its slot
 *		is buried
 *	nodes	the file of nodes is written anew without dead ones and takes the place of the old one: from here on no import can
 *		find a leaf whose clusters go
 *	sweep	dead clusters become holes in the cluster file: those in a row of 64 KiB and more, and all in a stretch of 1 MiB of
 *		which at most half lives
 *	files	one of which little lives is evacuated: its segments are stored again in the file that grows, its views are written
 *		anew there, and the next collection finds nothing alive in it.  One in which nothing lives goes, unless it grows
 *
 * Each step is durable before the next begins.  Anything missing or unreadable ends it before anything is removed (ERR_FORMAT,
 * saying what).  Running guests and readers need not stop; imports wait (the pool is open for writing).  No clock decides
 * anything. */

#define COLLECT_EVACUATE 25
#define COLLECT_MEMORY_MIN POOL_MEMORY /* its index alone takes that */

struct collect_options {
	bool dry_run;	 /* only say what would come back */
	uint64_t memory; /* bytes that this process may take: marks are kept in partitions of the cluster file */
	uint64_t min_run; /* bytes: shorter dead runs stay between what lives; 0 = 64 KiB */
	unsigned evacuate; /* a file is evacuated when at most so many percent of what was written to it live; 0 = never.  The one
			    * that grows only when it has grown to half of what it may */
	bool assume_idle; /* where no file system tells who has a stub open (NFS, CIFS, FUSE), nobody has; else all stubs live
			   * there */
	const char *const *dirs; /* all that stands on the pool beneath these keeps what it stands on, whatever the names say */
	size_t nr_dirs;
	struct stopper *stopper;
	void (*progress)(void *ctx, const char *stage, uint64_t done, uint64_t total); /* may be NULL */
	void *ctx;
};

struct collected {
	uint64_t nr_names, nr_views, nr_sealed; /* that live */
	uint64_t nr_dying;     /* views that no name keeps any more, from now or from before; the next collection removes them */
	uint64_t nr_removed;   /* views that went now */
	uint64_t live, dead;   /* bytes of clusters and tables */
	uint64_t tables;       /* of the live ones */
	uint64_t freed;	       /* bytes that were made holes, or would be */
	uint64_t small;	       /* dead bytes that stay, in runs too short */
	uint64_t nodes_before, nodes_after; /* bytes of the file of nodes */
	uint64_t nr_files_removed;  /* that nothing lived in any more */
	uint64_t nr_files_evacuated; /* now, or would be; the next collection removes those that nobody uses */
	uint64_t moved;		    /* bytes of clusters that were stored again for that, or live in what would be */
	uint64_t nr_not_moved;	    /* segments of these that cannot be read, and stay, with all views of their file */
	uint64_t nr_files_no_space; /* that stay as the file system lacks the space to store again what lives */
};

int pool_collect(struct pool *p, const struct collect_options *o, struct collected *ret, struct err *err);

#endif
