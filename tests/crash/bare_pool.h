/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_BARE_POOL_H
#define DEDUPSCAN_BARE_POOL_H

#include <fcntl.h>
#include <stdio.h>

#include "compactor/pool/names.h"
#include "scanner/base/file.h"
#include "tests/crash/sim.h"

/* A pool in a file system in memory: directories and names, but no clusters, nodes or index. */

#define POOL "/p"

static const char *const dirs[POOL_NR_DIRS] = {
	[POOL_TOP] = ".",	[POOL_VIEWS] = "views", [POOL_SEALED] = "sealed", [POOL_TREES] = "trees",
	[POOL_NAMES] = "names", [POOL_INDEX] = "index", [POOL_TRASH] = "trash",	  [POOL_QUARANTINE] = "quarantine",
};

static inline void close_pool(struct pool *p)
{
	names_forget(p);
	for (unsigned i = 0; i < POOL_NR_DIRS; i++)
		if (p->dirs[i] >= 0)
			file_ops->close(p->dirs[i]);
}

static inline int open_pool(struct sim *s, struct pool *p, struct err *err)
{
	char name[64];
	int rc = 0;

	*p = (struct pool){ .path = (char *)POOL, .writing = true };
	for (unsigned i = 0; i < POOL_NR_DIRS; i++) {
		snprintf(name, sizeof(name), "p/%s", dirs[i]);
		p->dirs[i] = rc < 0 ? -1 : file_open(sim_root(s), name, O_RDONLY | O_DIRECTORY, 0, err);
		rc = p->dirs[i] < 0 ? -1 : rc;
	}
	if (rc < 0)
		close_pool(p);
	return rc;
}

#endif
