/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_JUDYMAP_H
#define DEDUPSCAN_JUDYMAP_H

#include <stdbool.h>
#include <stdint.h>

#include "scanner/base/cleanup.h"

/* Sparse maps and sets of integers: JudyL and Judy1 behind functions that report errors (the library's macros print and
 * exit).  A zeroed struct is an empty map.  Source: the Judy(3) manual pages. */

struct judymap {
	void *root;
};

/* The value slot of `key`, made (as 0) if missing; NULL when memory is out.  Valid until the next insertion or removal. */
uint64_t *judymap_put(struct judymap *m, uint64_t key);

/* The value slot of `key`, or NULL. */
uint64_t *judymap_get(const struct judymap *m, uint64_t key);

/* The greatest key <= *key: its slot with *key set to it, or NULL. */
uint64_t *judymap_last(const struct judymap *m, uint64_t *key);

void judymap_release(struct judymap *m);
CLEANUP_DEFINE_RELEASE(struct judymap, judymap_release)

struct judyset {
	void *root;
};

/* 1 if added, 0 if it was there, -1 when memory is out. */
int judyset_add(struct judyset *s, uint64_t key);
bool judyset_has(const struct judyset *s, uint64_t key);
uint64_t judyset_count(const struct judyset *s);
/* The least key >= *key: true with *key set to it. */
bool judyset_first(const struct judyset *s, uint64_t *key);
void judyset_release(struct judyset *s);
CLEANUP_DEFINE_RELEASE(struct judyset, judyset_release)

#endif
