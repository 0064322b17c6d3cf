/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_VERIFY_PARTS_H
#define DEDUPSCAN_VERIFY_PARTS_H

#include "scanner/errand.h"
#include "scanner/verify.h"

/* What the parts of verifying share: verify.c finds and tells, verify_catalog.c compares with the catalog, verify_record.c with
 * recorded digests.  Nobody else includes this. */

/* Other files that were opened for an image, and what they were then. */
struct verify_files {
	VEC(struct catalog_part) list;
};

struct verify {
	const struct verify_options *o;
	struct verify_totals *ret;
	VEC(struct found) found; /* in order of path, each once */
	struct verify_image image; /* the one at hand */
	uint64_t file_used, bytes_done, bytes_total, images_done; /* for progress; bytes of image files */
};

/* Waits for the window, then finds all files. */
int verify_begin(struct verify *v, const struct verify_options *o, struct verify_totals *ret, struct err *err);
void verify_end(struct verify *v);

/* The next image is at hand, and what there is to say of it. */
void verify_take(struct verify *v, const char *path, uint64_t file_used);
void verify_say(struct verify *v, enum verify_outcome outcome, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
int verify_tell(struct verify *v, struct err *err);

/* `part` of `whole` of the image at hand is done. */
void verify_progress(struct verify *v, uint64_t part, uint64_t whole);

/* Opens a found file; its identity as it is now.  -1 with the outcome said when it cannot be had. */
int verify_open(struct verify *v, const struct found *f, struct spool_identity *ret);

/* Of what nothing is known: is it an image at all?  Else it is counted as none.  1, 0, or -1 for a failure of ours. */
int verify_is_image(struct verify *v, const struct found *f, struct err *err);

int verify_files_add(struct verify_files *l, const struct opening *o, struct err *err);
void verify_files_release(struct verify_files *l);
/* Is the image in fd still what it was, and are they? */
bool verify_unchanged(const struct verify *v, const struct verify_files *l, int fd, const struct spool_identity *was);

/* Is there something at the path, and the file unless that is NULL?  Also where no walk would find it. */
bool verify_is_at(const char *path, const struct spool_identity *file);

#endif
