/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_FS_SHARED_H
#define DEDUPSCAN_FS_SHARED_H

#include <stddef.h>

#include "scanner/roots.h"
#include "scanner/tally.h"

/* Measures what the file systems share already among the images of a tally (reflinks), by FIEMAP, into t->fs_shared: the
 * bytes of all shared extents less the disk space they take.  -1 when no file system could say.  Images that cannot be
 * opened are left out: the figure never claims too much.  At most about `memory` bytes are used; with more extents
 * the files are looked at again, one stretch of the disk at a time. */
int fs_shared_measure(struct catalog *c, const struct roots *roots, struct tally *t, size_t memory, struct stopper *stopper,
		      struct err *err);

#endif
