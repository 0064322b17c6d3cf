/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_VERIFY_H
#define DEDUPSCAN_VERIFY_H

#include "scanner/base/jail.h"
#include "scanner/base/schedule.h"
#include "scanner/base/vec.h"
#include "scanner/catalog.h"
#include "scanner/chunk/digest.h"
#include "scanner/roots.h"
#include "scanner/scan.h"

/* Are images what they were?  Each image at and beneath the roots is read in full, by a process in a jail, and compared with what
 * is known of it: the fingerprints that the last scan left in the catalog, or digests that were recorded in a file.  Neither the
 * catalog's rows nor any image is changed. */

enum verify_outcome {
	VERIFY_OK,	/* the very bytes */
	VERIFY_DIFFERS, /* other bytes; for the catalog: though by its time stamps it did not change, so it is damaged */
	VERIFY_CHANGED, /* other bytes, and it was changed since, or while it was read */
	VERIFY_UNKNOWN, /* nothing is known of it that it could be compared with */
	VERIFY_MISSING, /* something is, but it is not there */
	VERIFY_UNREAD,	/* it cannot be read */
	VERIFY_NR_OUTCOMES,
};

extern const char *const verify_outcome_names[VERIFY_NR_OUTCOMES]; /* "ok", ... */

/* Bytes of an image in whole segments of 2 MiB of which some differ. */
struct verify_run {
	uint64_t layer;	 /* 0 = the disk, k = what its k-th internal snapshot keeps besides (scanner/image/image.h) */
	uint64_t offset; /* on the disk */
	uint64_t len;
};

#define VERIFY_RUNS_MAX 65536u

struct verify_image {
	const char *path;
	enum verify_outcome outcome;
	char why[512];	   /* for people; "" = nothing to say */
	uint64_t size;	   /* virtual; 0 = not known */
	uint64_t read;	   /* bytes that were read of it */
	uint64_t differs;  /* bytes in all runs */
	uint64_t nr_runs;  /* of which the first VERIFY_RUNS_MAX are in `runs` */
	VEC(struct verify_run) runs;
	bool has_digest;
	uint8_t digest[DIGEST_SIZE];
};

struct verify_totals {
	uint64_t nr[VERIFY_NR_OUTCOMES];
	uint64_t nr_not_images;
	uint64_t bytes_read;
};

/* False when there is anything to tell but that all is well. */
bool verify_all_well(const struct verify_totals *t);

struct verify_options {
	const struct roots *roots;
	const char *format;   /* NULL = as the scan took it, or as probed */
	const struct jail *jail;
	struct stopper *stopper;
	uint64_t limit;	      /* bytes a second, 0 = none */
	bool keep_cache;      /* leave the page cache as it was found */
	const struct scan_watch *watch; /* its problems are about what is no image */
	/* Each image once it is done, in order of path, those that are missing last. */
	int (*tell)(void *ctx, const struct verify_image *i, struct err *err);
	void *ctx;
	/* What reads, in place of worker_run() and verify_worker_run(); NULL but in tests. */
	int (*run)(int sock, void *shared, void *arg);
};

/* Compares the stored view of each image with the catalog. ERR_CANCELED when it was stopped: what was told is true. */
int verify_catalog(struct catalog *c, const struct verify_options *o, struct verify_totals *ret, struct err *err);

/* Recorded digests: a text file with a line for each image: its digest (scanner/chunk/digest.h), the size of its disk, its path; of
 * the guest view, through all backing files.  dedupscan-verify(1) describes it. */

/* Makes the file anew; what is there already must be such a file or empty.  Nothing is written when it fails. */
int verify_record(const char *file, const struct verify_options *o, struct verify_totals *ret, struct err *err);
/* Compares with it.  Images of the file that are not beneath the roots are not concerned. */
int verify_check(const char *file, const struct verify_options *o, struct verify_totals *ret, struct err *err);

/* ---- for the process that computes digests ---- */

struct verify_shared {
	_Atomic uint64_t size;	     /* of the disk */
	_Atomic uint64_t bytes_read; /* of image data */
	_Atomic uint64_t address;    /* where on the disk it is */
	uint8_t digest[DIGEST_SIZE]; /* when DONE */
};

/* Its main function: the conversation of scanner/errand.h, the shared memory is a struct verify_shared, which the process writes;
 * arg points to how many bytes a second it may read, 0 = no limit. */
int verify_worker_run(int sock, void *shared, void *arg);

#endif
