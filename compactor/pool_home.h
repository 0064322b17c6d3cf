/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_POOL_HOME_H
#define DEDUPSCAN_POOL_HOME_H

#include <sys/stat.h>

#include "compactor/pool/pool.h"
#include "scanner/roots.h"

/* Where the pool of a store is: in the directory of its first root, unless the user says. */

/* Opens it, at `told` or as .dedupscan-pool in the first walked root's directory, and has readers follow its backing names
 * (roots_add_pool()); `create` makes it when it is not there, else *ret is NULL, which is no error.  No root may lie in it.
 * `memory` as of pool_open_with(). */
int pool_home_open(struct roots *roots, const char *told, enum pool_access access, bool create, size_t memory, struct pool **ret,
		   struct err *err);

/* Opens the pool of the member at `path` (absolute): `told`; or the one that the image there names, unless the nearest in a parent
 * directory has what is named, too, as in a copy of a store; or that nearest one.  ERR_BUSY from the latter comes first: the image
 * is not opened then. */
int pool_home_of(struct roots *roots, const char *path, const char *told, enum pool_access access, struct pool **ret,
		 struct err *err);

/* Has readers follow backing names into the pools beside the roots and above them; `told` as before, may be NULL, and need not be
 * there yet.  What is beside and above and cannot be trusted is passed over: images that stand on it say so. */
int pool_home_register(struct roots *roots, const char *told, struct err *err);

/* Whoever can read the pool can read what any member holds: so a file may enter only if all of them can read it anyway
 * (ERR_REFUSED), unless `cross_owner`.  The first member sets who the readers are. */
int pool_home_admit(struct pool *p, const struct stat *member, bool cross_owner, struct err *err);

#endif
