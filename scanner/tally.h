/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_TALLY_H
#define DEDUPSCAN_TALLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "scanner/base/err.h"
#include "scanner/base/schedule.h"

/* What a report says: the index counted, for a selection of images.
 *
 * Blocks are 4 KiB of the stored view; the last one of a disk is padded with zeros and counts whole.  All figures are bytes
 * unless named nr_.  Images have a rank: by depth in their backing chains, then by path, compared as bytes.  The blocks of one
 * content ("a group") are ordered by (rank, address); the first is the original, each other one a duplicate.  A duplicate is
 * *within* when an earlier block of the group lies in the same image, else *between*; it is *same-offset* when an earlier
 * block of the group lies at the same guest offset, else *other-offset*. */

struct image_tally {
	/* from the catalog */
	int64_t id;
	char *path;
	char *format;	   /* "qcow2"; "" when it could not be told */
	char *backing;	   /* as written in the image, "" = none */
	char *features;	   /* for people: "lazy refcounts, zstd", "" = nothing to say */
	char *error;	   /* why it could not be read; then the figures below are 0 (NULL = it was read) */
	char *error_kind;  /* "format", "io", ... (NULL) */
	char *warning;	   /* read, but: e.g. its backing file lies outside the roots (NULL) */
	unsigned nr_snapshots;
	uint64_t file_size;  /* length of the file */
	uint64_t file_used;  /* disk space that the file takes (st_blocks) */
	int64_t scanned_at;  /* seconds since 1970 */

	/* from the index */
	uint64_t virtual_size;
	uint64_t stored;    /* blocks that the file holds data for (of any layer) */
	uint64_t zero;	    /* of which all zero */
	uint64_t exclusive; /* distinct contents that no other image has: freed if it alone is deleted */
	uint64_t shared;    /* blocks whose content another image has too */
	uint64_t share;	    /* proportional: each group's 4096 bytes divided evenly among its blocks; rounded */
	uint64_t duplicate_within;  /* duplicates in this image, by the definitions above */
	uint64_t duplicate_between;
};

/* Duplicates that consist of runs of at least min_length: consecutive blocks of an image whose originals are consecutive
 * blocks of an image too. */
struct run_tally {
	uint64_t min_length; /* 4096, 16384, 65536, 1048576 */
	uint64_t nr_runs, saved;
};

#define RUN_CLASSES 4
#define HISTOGRAM_BUCKETS 48

/* Contents that occur [2^i, 2^(i+1)) times. */
struct histogram_bucket {
	uint64_t nr_distinct, nr_blocks;
};

/* A pool (dedupscan-pool(5)): what images that stand on it show of it is stored there, and in no figure but these. */
struct pool_tally {
	char *path;
	uint64_t nr_images; /* that stand on it */
	uint64_t file_used; /* disk space of its files */
};

struct tally {
	/* the funnel */
	uint64_t virtual_size, stored, nonzero, distinct;
	uint64_t file_size, file_used;

	uint64_t within_same, within_other, between_same, between_other; /* sum: nonzero - distinct */
	struct run_tally runs[RUN_CLASSES];
	struct histogram_bucket histogram[HISTOGRAM_BUCKETS];

	/* The file system's own sharing (reflinks): bytes of extents of these files that lie on disk blocks which an earlier one
	 * of these files, or an earlier extent, already uses.  -1 = the file systems cannot say. */
	int64_t fs_shared;

	/* what the catalog costs */
	uint64_t index_bytes, catalog_bytes;
	uint64_t nr_keys, nr_places;
	uint64_t peak_memory; /* of all processes of this run together, 0 = not measured */

	struct image_tally *images; /* in order of path */
	size_t nr_images;	    /* all of them, failed ones included */
	size_t nr_failed;
	struct pool_tally *pools; /* in order of path */
	size_t nr_pools;
	uint64_t originals_used; /* disk space of originals that a compaction keeps for a while, in the images' directories */
	uint64_t nr_not_images;	    /* files met that are no disk images */
	bool complete;		    /* false: a scan was stopped, some images are missing or old */
	int64_t taken_at;	    /* seconds since 1970 */
};

struct catalog;
struct roots;

struct tally_options {
	uint64_t memory; /* bytes that this process may take */
	unsigned nr_threads;
	struct stopper *stopper;
};

/* Counts the index for the images beneath the roots and writes their duplicate summary (scanner/index/summary.h) into the
 * catalog.  Fills what comes from catalog and index; *ret is zeroed first. */
int tally_run(struct catalog *c, const struct roots *roots, const struct tally_options *o, struct tally *ret,
	      struct err *err);

void tally_release(struct tally *t);

#endif
