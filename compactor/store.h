/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_STORE_H
#define DEDUPSCAN_STORE_H

#include "compactor/rangemap.h"
#include "scanner/base/jail.h"
#include "scanner/base/schedule.h"
#include "scanner/base/vec.h"
#include "scanner/plan.h"
#include "scanner/roots.h"

/* The store as compaction sees it: file systems, the files on them, the images in the files, and where every block lies, from the
 * image through the file to the disk.
 *
 * Images have ranks: of blocks with the same content the one in the image of the lowest rank is the original, which all others
 * share.  First come images that cannot be changed but can be shared with, then those that share most of what they have already,
 * the others by depth in their backing chain and by path, last those that have to be rewritten before anything can share with
 * them. */

/* Files of which all can share with each other: those without copy-on-write (chattr +C) are a world of their own. */
struct store_fs {
	uint64_t id[2];	    /* of the file system */
	bool nocow;
	int64_t type;	    /* f_type of statfs(2) */
	uint64_t block;	    /* bytes; what is shared are multiples of it */
	bool dedupes;	    /* FIDEDUPERANGE is there */
	bool whole_extents; /* sharing parts of an extent frees nothing: btrfs */
};

struct store_file {
	char *path;
	bool joined;	/* path is as an image names it: symbolic links are not followed */
	struct spool_identity identity; /* when it was looked at */
	uint64_t size, used;
	size_t image;
	uint64_t shared; /* bytes that the disk shares already, as FIEMAP tells */
};

struct store_image {
	int64_t id;
	char *path, *backing_path, *format;
	uint64_t layer;	 /* blocks */
	uint64_t cluster_size; /* bytes; 0 = it has none */
	unsigned depth;
	bool settled;	 /* most of it is shared already */
	size_t fs;	 /* in file_systems */
	size_t first_file, nr_files; /* its own first */
	bool fixed;	 /* nothing is done with it, but others may share with it */
	bool out;	 /* takes no part: it could not be looked at, or nothing can be shared there */
	bool relayout;	 /* to be rewritten first: then all its blocks can be shared */
	bool planned;	 /* and so it will be: there is a step */
	bool no_disk;	 /* its guest's disk has no bytes */
	bool full;	 /* all of its guest's disk is stored: its space was reserved */
	bool packed;	 /* some of its data is compressed */
	bool mixed;	 /* some of its blocks cannot be shared as they lie */
	bool certain;	 /* of its format: what a rewrite needs */
	bool encrypted;
	bool pooled;	 /* it stands on a pool */
	bool vm_state;	 /* an internal snapshot holds the state of a machine */
	uint32_t nr_snapshots, nr_bitmaps;
	uint32_t rank;
	uint32_t copy_of; /* STORE_NO_COPY, or the image that its file is a copy of, byte by byte, as it seems */
	uint64_t gives;	 /* bytes that others could share with it */
	uint64_t whole;	 /* bytes of extents that are duplicates as a whole and nobody else's */
	struct spool_identity identity;
};

#define STORE_MISALIGNED 1u
#define STORE_NO_COPY UINT32_MAX
#define STORE_OPEN 16 /* files open at once: limits of 64 descriptors are met */

struct store {
	struct catalog *c;
	const struct roots *roots;
	const char *format;
	const struct jail *jail;
	struct stopper *stopper;
	VEC(struct store_fs) file_systems;
	VEC(struct store_file) files;
	VEC(struct store_image) images; /* by path; the plan's have the same numbers */
	VEC(uint32_t) ranks;		/* rank -> image */
	struct rangemap *blocks; /* image: address -> offset, tag: the file; flags: STORE_MISALIGNED */
	struct rangemap *disk;	 /* file: offset -> disk, flags: FIEMAP's */
	struct plan *plan;
	void (*problem)(void *ctx, const char *path, const struct err *why);
	void *ctx;
	struct {
		size_t file;
		int fd; /* -1 = none */
		uint64_t used; /* a clock */
	} open[STORE_OPEN];
	uint64_t clock;
};

struct store_options {
	bool relayout; /* images that need it may be rewritten ... */
	bool assume_idle; /* ... also where nobody can tell who uses them */
	bool (*wanted)(void *ctx, const char *path); /* others are only shared with; NULL = all */
	void *wanted_ctx;
	void (*progress)(void *ctx, uint64_t done, uint64_t total); /* images; may be NULL */
	void (*problem)(void *ctx, const char *path, const struct err *why); /* an image could not be looked at; may be NULL */
	void *ctx;
};

/* Looks at everything beneath s->roots that the catalog knows; fills the plan's images and file systems.  s comes zeroed but for
 * the first five members. */
int store_look(struct store *s, const struct store_options *o, struct plan *plan, struct err *err);
void store_release(struct store *s);

/* An open descriptor of a file, which stays the store's; at most STORE_OPEN are open, and the two asked for last.  Fails when it is
 * another file by now. */
int store_open(struct store *s, size_t file, struct err *err);
/* Closes all that are open. */
void store_close_files(struct store *s);

/* Looks again where an image's blocks lie, after one of its files was rewritten.  On failure what is known of it may be wrong;
 * whoever makes moves has the bytes compared anyway. */
int store_look_again(struct store *s, size_t file, struct err *err);
/* Looks again where a file lies on the disk. */
int store_map_disk(struct store *s, size_t file, struct err *err);

/* Where the block at `address` of an image can be shared, and how far: 1 with *ret cut to what begins at `address`, or 0. */
int store_find(struct store *s, size_t image, uint64_t address, struct range *ret, struct err *err);

#endif
