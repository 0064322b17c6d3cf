/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_CATALOG_H
#define DEDUPSCAN_CATALOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "scanner/base/cleanup.h"
#include "scanner/base/err.h"
#include "scanner/index/spool.h"
#include "scanner/index/table.h"

/* The catalog: what scans have found out, in a directory of its own.
 *
 *	catalog.db   SQLite: roots, images, segments, partitions of the index, scans
 *	index/       tables of the index
 *	spool/       requests of a scan in progress
 *	summary      duplicates in image order (summary.h)
 *	lock         held by the process that uses the catalog
 *
 * dedupscan-catalog(5) describes it all.  Changes that belong together are made between catalog_begin() and
 * catalog_commit(); after a kill at any point the catalog is as the last commit left it. */

struct catalog;

/* The default directory: $XDG_STATE_HOME/dedupscan, ~/.local/state/dedupscan, or /var/lib/dedupscan for root. */
int catalog_default_dir(char *ret, size_t room, struct err *err);

/* Opens the catalog in `dir`, made if it is missing and `create`, and locks it; ERR_BUSY when another process has it. */
struct catalog *catalog_open(const char *dir, bool create, struct err *err);
void catalog_close(struct catalog *c);
CLEANUP_DEFINE(struct catalog *, catalog_close)

int catalog_dirfd(const struct catalog *c);
int catalog_index_dirfd(const struct catalog *c);
int catalog_spool_dirfd(const struct catalog *c);
/* Removes a large file of one of these without waiting until its blocks are free. */
int catalog_remove_file(struct catalog *c, int dirfd, const char *name, struct err *err);
/* Device and inode of the directory, so that a walk can leave it out. */
struct spool_identity catalog_identity(const struct catalog *c);

int catalog_begin(struct catalog *c, struct err *err);
int catalog_commit(struct catalog *c, struct err *err);
void catalog_rollback(struct catalog *c);

/* Numbers kept by name; a missing one is 0. */
int catalog_number(struct catalog *c, const char *name, uint64_t *ret, struct err *err);
int catalog_set_number(struct catalog *c, const char *name, uint64_t value, struct err *err);

/* ---- images ---- */

struct catalog_image {
	int64_t id;
	char *path;
	struct spool_identity identity;
	struct fingerprint parts; /* as in struct spool_image */
	bool racy, told;	  /* as in struct spool_image */
	uint64_t base; /* grows by one whenever its segments change */
	char *format, *backing, *backing_path, *features, *warning;
	char *error_kind, *error; /* NULL = it was read */
	uint64_t virtual_size, span, layer, cluster_size, file_used;
	uint64_t nr_stored, nr_zero; /* blocks */
	unsigned nr_snapshots;
	int64_t part_of; /* the image whose data file or extent it is, 0 = none */
	int64_t scanned_at;
};

void catalog_image_release(struct catalog_image *i);
CLEANUP_DEFINE_RELEASE(struct catalog_image, catalog_image_release)

/* 1 = found, 0 = not there.  *ret must be zeroed or a former result. */
int catalog_image_by_path(struct catalog *c, const char *path, struct catalog_image *ret, struct err *err);
int catalog_image_by_id(struct catalog *c, int64_t id, struct catalog_image *ret, struct err *err);

/* Makes a row without content; returns its id in *ret. */
int catalog_image_add(struct catalog *c, const char *path, int64_t *ret, struct err *err);
int catalog_image_remove(struct catalog *c, int64_t id, struct err *err);
/* Records why it could not be read; what was known of its content is dropped. */
int catalog_image_failed(struct catalog *c, int64_t id, const struct spool_image *i, const char *format,
			 const struct err *why, struct err *err);
int catalog_image_set_used(struct catalog *c, int64_t id, uint64_t file_used, struct err *err);

/* It was replaced by another file with the same content. */
int catalog_image_set_identity(struct catalog *c, int64_t id, const struct spool_identity *identity, struct err *err);

/* All images in order of path; calls until it returns non-zero. */
int catalog_each_image(struct catalog *c, int (*call)(void *ctx, const struct catalog_image *i, struct err *err), void *ctx,
		       struct err *err);

/* ---- the other files that images lie in ---- */

struct catalog_part {
	struct spool_identity identity;
	char *path;
};

/* What changes when any of the files does, or their number or order; null for none. */
struct fingerprint catalog_parts_digest(const struct catalog_part *parts, size_t nr);

/* Replaces what is known of an image's parts.  They are the image's when their digest is the one of its row or spool file. */
int catalog_set_parts(struct catalog *c, int64_t image, const struct catalog_part *parts, size_t nr, struct err *err);
int catalog_has_parts(struct catalog *c, int64_t image, bool *ret, struct err *err);
/* In order; calls until it returns non-zero, which is returned. */
int catalog_each_part(struct catalog *c, int64_t image, int (*call)(void *ctx, const struct catalog_part *p, struct err *err),
		      void *ctx, struct err *err);
/* All parts that are not images of their own too, each file once. */
int catalog_each_part_once(struct catalog *c, int (*call)(void *ctx, const struct catalog_part *p, struct err *err),
			   void *ctx, struct err *err);
/* Is it a part of an image? */
int catalog_is_part(struct catalog *c, const struct spool_identity *file, bool *ret, struct err *err);

/* Parts belong to their image: found as images of their own as well, they would count twice. */
int catalog_claim_parts(struct catalog *c, struct err *err);

/* ---- what a walk found ---- */

struct found {
	char *path;
	struct spool_identity identity;
	uint64_t file_used;
	bool named;	  /* given by name, not met in a directory */
	bool block_device;
};

int catalog_found_clear(struct catalog *c, struct err *err);
/* 1 = added; 0 = the same file was found before under another name, or the same name again. */
int catalog_found_add(struct catalog *c, const struct found *f, struct err *err);

/* Walks what was found in order of path; path is valid during the call. */
int catalog_each_found(struct catalog *c, int (*call)(void *ctx, const struct found *f, struct err *err), void *ctx,
		       struct err *err);
/* Found files that were parts of an image and are no longer: each has to be released, and read by itself. */
int catalog_each_released(struct catalog *c, int (*call)(void *ctx, const struct found *f, struct err *err), void *ctx,
			  struct err *err);
int catalog_release_part(struct catalog *c, const char *path, struct err *err);

/* Images at or beneath `root` that were not found: those whose file now has another name are renamed, the others removed (`remove`
 * says whether to).  Counts are added. */
int catalog_settle_missing(struct catalog *c, const char *root, bool remove, uint64_t *nr_renamed, uint64_t *nr_removed,
			   struct err *err);

/* ---- segments ---- */

/* Writes the digests of an image's segments as struct spool_digest to an open file.  Returns how many, or -1. */
ssize_t catalog_write_digests(struct catalog *c, int64_t image, int fd, struct err *err);

/* What changes when any segment of the image does: images with equal digests say the same. */
int catalog_content_digest(struct catalog *c, int64_t image, struct fingerprint *ret, struct err *err);

/* Into how many runs the segments of an image have fallen. */
int catalog_count_runs(struct catalog *c, int64_t image, uint64_t *ret, struct err *err);

/* How many segments of the guest's disk, the first `layer` bytes, hold something that is not zero. */
int catalog_count_live_segments(struct catalog *c, int64_t image, uint64_t layer, uint64_t *ret, struct err *err);

/* All segments with their digests (scanner/index/spool.h) and how many blocks are stored and how many of these are zero; calls
 * until it returns non-zero, which is returned. */
int catalog_each_segment(struct catalog *c, int64_t image,
			 int (*call)(void *ctx, uint64_t segment, const uint8_t digest[16], unsigned stored, unsigned zero,
				     struct err *err),
			 void *ctx, struct err *err);

/* Segments in which blocks of zeros are stored, so many of their stored blocks; calls until it returns non-zero, which is
 * returned. */
int catalog_each_zero_segment(struct catalog *c, int64_t image,
			      int (*call)(void *ctx, uint64_t segment, unsigned stored, unsigned zero, struct err *err),
			      void *ctx, struct err *err);

/* Takes over what a spool file says: the row of the image and its segments; changed segments get the generation.  In a
 * transaction. */
int catalog_take_spool(struct catalog *c, int64_t image, struct spool *s, uint64_t generation, struct err *err);

/* Runs of segments with one generation: ids [generation + first, generation + last] are places of this image's segments
 * [first, last].  In order of (image, segment). */
struct segment_run {
	int64_t image;
	uint64_t generation, first, last;
};
int catalog_each_run(struct catalog *c, int (*call)(void *ctx, const struct segment_run *r, struct err *err), void *ctx,
		     struct err *err);

/* Blocks of all images that are in the index: stored and not zero. */
int catalog_live_blocks(struct catalog *c, uint64_t *ret, struct err *err);

/* ---- the index ---- */

struct index_table {
	char name[48];
	struct table_stats stats;
};

#define PARTITION_TABLES 6 /* a base and five deltas */

/* The keys that begin with the `bits` bits of `prefix`. */
struct partition {
	unsigned bits;
	uint32_t prefix;
	unsigned nr_tables;
	uint64_t nr_places;
};

/* All partitions in order of key: together they cover every key once. */
int catalog_each_partition(struct catalog *c, int (*call)(void *ctx, const struct partition *p, struct err *err), void *ctx,
			   struct err *err);
/* The tables of a partition, base first.  Returns how many, or -1. */
int catalog_tables(struct catalog *c, unsigned bits, uint32_t prefix, struct index_table ret[PARTITION_TABLES],
		   struct err *err);
/* Is this a table of the index? */
int catalog_knows_table(struct catalog *c, const char *name, bool *ret, struct err *err);

/* Removes the rows of the partitions at and beneath (bits, prefix) and of their tables. */
int catalog_drop_partitions(struct catalog *c, unsigned bits, uint32_t prefix, struct err *err);
/* Makes sure that there is such a partition. */
int catalog_add_partition(struct catalog *c, unsigned bits, uint32_t prefix, struct err *err);
/* Adds a table to a partition, newest last. */
int catalog_add_table(struct catalog *c, unsigned bits, uint32_t prefix, const struct index_table *t, struct err *err);

/* Spool files that a merge takes in: name is the image's id, shift what its blocks are moved by. */
int catalog_add_merge_input(struct catalog *c, int64_t image, uint64_t shift, struct err *err);
int catalog_each_merge_input(struct catalog *c, int (*call)(void *ctx, int64_t image, uint64_t shift, struct err *err),
			     void *ctx, struct err *err);
int catalog_clear_merge_inputs(struct catalog *c, struct err *err);

/* ---- history ---- */

struct catalog_scan {
	int64_t started, ended; /* seconds since 1970 */
	const char *result;	/* "complete", "stopped", "failed" */
	uint64_t nr_images, nr_read, nr_failed, bytes_read;
	uint64_t virtual_size, stored, nonzero, distinct;
};

int catalog_add_root(struct catalog *c, const char *path, struct err *err);
int catalog_add_scan(struct catalog *c, const struct catalog_scan *s, struct err *err);

/* Bytes of the catalog's files, index and database. */
int catalog_disk_use(struct catalog *c, uint64_t *ret_index, uint64_t *ret_all, struct err *err);

#endif
