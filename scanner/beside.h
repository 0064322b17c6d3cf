/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_BESIDE_H
#define DEDUPSCAN_BESIDE_H

#include "scanner/roots.h"
#include "scanner/tally.h"

/* What images take beside their files: the pools that they stand on, and originals that a compaction keeps for a while.  Only the
 * disk space of files is looked at. */

/* Fills t->pools and t->originals_used for t->images, which are in order of path. */
int beside_tally(const struct roots *roots, struct tally *t, struct err *err);

#endif
