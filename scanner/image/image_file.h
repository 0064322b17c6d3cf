/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_IMAGE_FILE_H
#define DEDUPSCAN_IMAGE_FILE_H

#include "scanner/image/image.h"

/* Between image.c and image_file.c: the files that images lie in. */

/* Fills in what belongs to the descriptor f->fd. */
int image_file_look(struct image_file *f, struct err *err);
bool image_file_same(const struct image_file *a, const struct image_file *b);

/* Closes a part; takes NULL. */
void image_part_free(struct image_file *f);
CLEANUP_DEFINE(struct image_file *, image_part_free)

#endif
