/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_OPENING_H
#define DEDUPSCAN_OPENING_H

#include <sys/stat.h>

#include "scanner/leash.h"
#include "scanner/roots.h"
#include "scanner/worker_message.h"

/* Names inside images: how the process that reads an image gets the files that it names from its parent, who opens
 * them by the rules in roots.h or refuses. */

/* ---- the reader's side ---- */

/* Makes *m the request. */
void opening_request(struct worker_message *m, enum image_role role, const char *name, const char *from_path);

/* What the parent's answer *m, which came with fd or -1, says: a descriptor to own and the path to it (PATH_MAX
 * bytes), or failure. */
int opening_result(const struct worker_message *m, int fd, const char *name, char *ret_path, struct err *err);

/* ---- the parent's side ---- */

struct opening {
	int fd; /* to be closed by whoever asked for the opening; -1 = refused */
	enum image_role role;
	char name[IMAGE_NAME_MAX], from[PATH_MAX]; /* as the reader says */
	char path[PATH_MAX];			   /* where it was found */
};

/* Answers the request *m of a reader whose image's file is `image`; *m is overwritten.  Fails when the reader has
 * asked for too many (ERR_REFUSED) or is gone. */
int opening_answer(int sock, struct worker_message *m, const struct roots *roots, const struct stat *image,
		   struct leash *leash, struct opening *ret, struct err *err);

#endif
