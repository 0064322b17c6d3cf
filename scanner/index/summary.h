/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_SUMMARY_H
#define DEDUPSCAN_SUMMARY_H

#include "scanner/base/file.h"
#include "scanner/index/index.h"

/* The duplicate summary: for every image, in order of address, the runs of its blocks that are duplicates, and where the
 * originals lie.  It is for other programs: in this one only tests read it.  dedupscan-catalog(5) shows the bytes. */

struct summary_run {
	int64_t image;	       /* catalog id */
	uint64_t block;	       /* first block of the run in the image's stored address space */
	uint64_t len;	       /* blocks */
	int64_t origin_image;
	uint64_t origin_block; /* the originals are origin_block .. origin_block + len - 1 */
};

struct summary_writer;

/* Begins `<name>.tmp` in dirfd; published as `name` by summary_commit(). */
struct summary_writer *summary_new(int dirfd, const char *name, struct err *err);
/* Runs of one image come together and ascend by block. */
int summary_add(struct summary_writer *w, const struct summary_run *run, struct err *err);
int summary_commit(struct summary_writer *w, struct err *err); /* frees the writer, also on failure */
void summary_free(struct summary_writer *w);		       /* and drops the file */
CLEANUP_DEFINE(struct summary_writer *, summary_free)

struct summary;

struct summary *summary_open(int dirfd, const char *name, struct err *err);
/* The next run: 1, 0 at the end, -1 on damage. */
int summary_next(struct summary *s, struct summary_run *ret, struct err *err);
void summary_close(struct summary *s);
CLEANUP_DEFINE(struct summary *, summary_close)

#endif
