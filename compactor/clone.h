/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_CLONE_H
#define DEDUPSCAN_CLONE_H

#include "compactor/versions.h"

/* Clones: new overlays on what an image is, or was.  Nothing of the disk is read or written, however large it is.
 *
 * An image that was written to since the version that it stands on is sealed first (seal.h), so that both stand on what it was. */

struct clone_options {
	struct versions_how how;
	const char *path;  /* of the image, absolute */
	const char *label; /* of its version; NULL = as it is now, when nobody may have it open */
	struct overlay_options overlay; /* of clones of versions; those of the image are as it is */
	const char *new_path; /* absolute; with `count` a pattern */
	unsigned count;	      /* 0 = one, at new_path itself */
};

#define CLONE_COUNT_MAX 100000

struct clones {
	uint64_t nr; /* that are at their paths, also on failure */
	bool sealed; /* the image was sealed for it */
};

/* Makes one clone or many.  Nothing may be at their paths (ERR_USAGE).  They belong to whom the image belongs, with its mode.
 * All are written and synced before the first appears; one that is not at its path when this fails leaves nothing. */
int clone_image(struct pool *p, const struct clone_options *o, struct clones *ret, struct err *err);

/* The path of the i-th clone, from 1: the only %d or %0Nd (N of one or two digits) in the name's last part is i, %% is %;
 * without %d it is put in front of the name's last ".ext", behind a '-'. */
int clone_path(const char *pattern, unsigned i, char ret[PATH_MAX], struct err *err);

#endif
