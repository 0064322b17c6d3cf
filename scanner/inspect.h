/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_INSPECT_H
#define DEDUPSCAN_INSPECT_H

#include <limits.h>
#include <stdint.h>

#include "scanner/base/jail.h"
#include "scanner/base/schedule.h"
#include "scanner/image/image.h"
#include "scanner/roots.h"

/* What one image is: its format, its files, its backing chain, where its data lies.
 *
 * A process of its own opens the image and walks its extents, and reads nothing of the data.  It fills a struct
 * inspection in memory that it shares with its parent, who takes none of it on trust: texts end where they should,
 * counts are within their lists, numbers mean what it pleases.  Texts are bytes as they stand in the image. */

#define INSPECT_PARTS_MAX 1024
#define INSPECT_SNAPSHOTS_MAX 1024
#define INSPECT_BITMAPS_MAX 1024
#define INSPECT_PROBLEMS_MAX 8

/* Alignments that are counted: 512 << 0 to 512 << 11, 1 MiB. */
#define INSPECT_ALIGNMENTS 12
#define INSPECT_ALIGNMENT(i) ((uint64_t)512 << (i))

/* Kinds of extents of the stored view. */
enum inspect_extent {
	INSPECT_DATA,
	INSPECT_PACKED,	      /* compressed */
	INSPECT_ZERO,	      /* reads as zeros, takes no space */
	INSPECT_PREALLOCATED, /* reads as zeros, but a place in the file is reserved for it */
	INSPECT_HOLE,	      /* not in this image */
	INSPECT_NR_EXTENTS,
};
extern const char *const inspect_extent_names[INSPECT_NR_EXTENTS]; /* "data", "compressed", ... */

struct inspect_count {
	uint64_t nr, bytes; /* neighbours that are alike and contiguous in the file are one */
};

struct inspect_part {
	char path[PATH_MAX];
	uint64_t file_size, file_used;
};

/* A member of the backing chain; the first is the image's backing file. */
struct inspect_member {
	char path[PATH_MAX]; /* where it was found; of one that could not be opened, how its overlay calls it */
	char format[32], kind[32];
	char id[64];
	uint32_t version;
	uint32_t format_stated; /* its overlay, or its overlay's format, says which format it has */
	uint64_t virtual_size, file_size, file_used;
	char error[496]; /* why it could not be opened, "" = it was; there is none after it then */
};

/* What is wrong with an image.  All but INSPECT_UNREAD leave what the image itself holds readable. */
enum inspect_problem_kind {
	INSPECT_UNREAD,	 /* it could not be opened, or not be walked to its end */
	INSPECT_DOUBT,	 /* its format is not certain */
	INSPECT_CHAIN,	 /* there is no guest view: a backing file is missing */
	INSPECT_DIRTY,	 /* it was not closed properly */
	INSPECT_CORRUPT, /* somebody marked it so */
	INSPECT_EXTRAS,	 /* snapshots or bitmaps cannot be listed */
	INSPECT_GUEST,	 /* what is inside could not be looked at */
	INSPECT_NR_PROBLEMS,
};
extern const char *const inspect_problem_names[INSPECT_NR_PROBLEMS]; /* "unread", "doubt", ... */

struct inspect_problem {
	uint32_t kind;
	uint32_t err_kind; /* enum err_kind */
	char text[496];
};

struct inspection {
	char path[PATH_MAX];
	char format[32], kind[32]; /* "" = not known */
	uint32_t version;
	uint32_t certainty; /* enum image_certainty */
	uint32_t opened;    /* else nothing but problems follows */
	uint64_t virtual_size;
	uint64_t file_size, file_used; /* of its own file */
	uint64_t parts_size, parts_used;
	uint64_t cluster_size;
	char id[64], backing_id[64];
	char backing_name[IMAGE_NAME_MAX], backing_format[32];
	char features[256];
	uint32_t encrypted, compressed, dirty, corrupt;

	/* the stored view */
	uint64_t span;	 /* bytes of its address space ... */
	uint64_t walked; /* ... of which these were looked at */
	struct inspect_count extents[INSPECT_NR_EXTENTS];

	/* Of the bytes of INSPECT_DATA: those whose offsets in the file and on the disk are congruent modulo
	 * INSPECT_ALIGNMENT(i), and those in whole blocks of 4 KiB of the disk that are blocks of the file too: only these
	 * do file systems share. */
	uint64_t aligned[INSPECT_ALIGNMENTS];
	uint64_t aligned_blocks;

	/* How many there are, and those that found room. */
	uint32_t nr_parts, nr_members, nr_snapshots, nr_bitmaps, nr_problems;
	uint32_t parts_listed, snapshots_listed, bitmaps_listed;
	struct inspect_problem problems[INSPECT_PROBLEMS_MAX];
	struct inspect_member members[IMAGE_CHAIN_MAX];
	struct inspect_part parts[INSPECT_PARTS_MAX];
	struct image_snapshot snapshots[INSPECT_SNAPSHOTS_MAX];
	struct image_bitmap bitmaps[INSPECT_BITMAPS_MAX];
};

struct inspect_options {
	const struct roots *roots; /* where backing files and parts may be opened */
	const char *format;	   /* NULL = find out */
	const struct jail *jail;   /* NULL = none */
	struct stopper *stopper;
	int (*run)(int sock, void *shared, void *arg); /* what looks; NULL = inspect_run(), tests put a liar there */
};

/* Inspects the image that a root names.  What is wrong with the image is found in *ret (which is large: several MiB);
 * a failure is ours, or ERR_CANCELED. */
int inspect_image(const struct root *image, const struct inspect_options *o, struct inspection *ret, struct err *err);

/* True when something kept the image from being read. */
bool inspect_failed(const struct inspection *i);

/* ---- for the process that looks ---- */

/* Its main function, for proc_start(): the conversation is that of scanner/worker.h from JOB to DONE or FAILED, but
 * without digests, IMAGE and frames; the shared memory is a struct inspection. */
int inspect_run(int sock, void *shared, void *arg);

void inspect_add_problem(struct inspection *i, enum inspect_problem_kind kind, const struct err *why);

#endif
