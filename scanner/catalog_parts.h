/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_CATALOG_PARTS_H
#define DEDUPSCAN_CATALOG_PARTS_H

#include "scanner/base/lock_file.h"
#include "scanner/catalog.h"
#include "scanner/sql.h"

/* What the parts of the catalog share: catalog.c opens it, catalog_images.c, catalog_files.c and catalog_index.c hold what its
 * tables do.  Nobody else includes this. */

struct catalog {
	char *dir;
	int dirfd, index_dirfd, spool_dirfd;
	struct lock_file lock;
	struct sql *db;
	struct syncer *remover;
};

/* Five columns from i on: dev, ino, size, mtime, ctime. */
struct spool_identity catalog_take_identity(struct sql_query *q, int i);

/* Of a query for rows of temp.found. */
int catalog_each_found_by(struct sql_query *q, int (*call)(void *ctx, const struct found *f, struct err *err), void *ctx,
			  struct err *err);

#endif
