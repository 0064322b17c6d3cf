/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_STORE_PARTS_H
#define DEDUPSCAN_STORE_PARTS_H

#include <string.h>

#include "compactor/store.h"

/* Between store.c, which looks at images, and store_files.c, which looks at files, where they lie on the disk, and the file systems
 * that they are on. */

static inline int store_no_memory(struct err *err)
{
	return err_set(err, ERR_MEMORY, "no memory to look at the store");
}

static inline int store_stopped(const struct store *s, struct err *err)
{
	return s->stopper && stopper_says(s->stopper) ? err_set(err, ERR_CANCELED, "stopped while the store was looked at") : 0;
}

static inline char *store_copy(const char *text)
{
	return strdup(text ? text : "");
}

/* Counts an open file as one more of an image's. */
int store_add_file(struct store *s, size_t image, const char *path, bool joined, int fd, struct err *err);

/* The number of the file system that an open file is on; one that is met first is added to the plan.  `nocow`: whether the file
 * is without copy-on-write. */
int store_find_fs(struct store *s, int fd, const char *path, bool nocow, size_t *ret, struct err *err);

#endif
