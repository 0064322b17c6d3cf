/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_PAIR_H
#define DEDUPSCAN_PAIR_H

#include "compactor/proof.h"
#include "scanner/errand.h"

/* An errand on two files at once: an image, and the file that is to replace it.  Both may be open for writing, as whoever replaces
 * an image has to have them. */
struct pair {
	const char *format; /* of the image; NULL = find out */
	const struct roots *roots;
	const struct jail *jail; /* NULL = none */
	uint64_t writes;	 /* as in jail.h: how much the process may write to the second file; 0 = none */
	bool reads_backing;	 /* as in errand.h */
	proof_check *check;	 /* called ten times a second; NULL = none */
	void *check_ctx;

	/* What the process does: the image's descriptor is s->fd, the other one s->second_fd.  What it tells its check goes to
	 * the one above. */
	int (*work)(struct errand_side *s, const void *arg, proof_check *check, void *check_ctx, struct err *err);
	const void *arg;
};

/* What goes wrong in the process, its death too, is a failure like any other. */
int pair_run(const struct pair *p, int old_fd, int new_fd, const char *path, struct err *err);

#endif
