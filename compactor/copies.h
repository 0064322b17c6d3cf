/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_COPIES_H
#define DEDUPSCAN_COPIES_H

#include "compactor/store.h"

/* Copies of whole files.  What an image holds compressed, or at odd offsets, lies in no block of the file system that others could
 * share; but a copy of the file has it at the very same place.  Images that say the same, in files of the same length and format,
 * most likely are such copies.
 *
 * Sets copy_of of each copy to the image of the lowest rank that it is one of. */
int copies_find(struct store *s, struct err *err);

#endif
