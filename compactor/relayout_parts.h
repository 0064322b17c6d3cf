/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_RELAYOUT_PARTS_H
#define DEDUPSCAN_RELAYOUT_PARTS_H

#include "compactor/sparse_copy.h"
#include "scanner/image/image.h"

/* Between relayout.c and relayout_*.c: one of these for each format. */

#define RELAYOUT_UNIT 4096 /* what file systems share in */

/* Writes the image in `old` to c->to, with `c` ready to copy from old's descriptor.  *ret_size is the length that the new file
 * is to have. */
typedef int relayout_format(const struct image_file *old, struct sparse_copy *c, uint64_t *ret_size, struct err *err);

relayout_format relayout_vhd, relayout_vdi;

#endif
