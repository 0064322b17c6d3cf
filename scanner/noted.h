/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_NOTED_H
#define DEDUPSCAN_NOTED_H

#include <stdbool.h>

#include "scanner/base/err.h"

/* What an image was made, whatever its name says: one that is named as a raw disk is read as one (scanner/image/image_choice.c), as
 * its guest owns every byte of it; but when dedupscan puts a qcow2 image in its place, that is noted as an extended attribute of
 * the file, which no guest can set.  It goes where the file goes, and leaves with it. */

#define NOTED_FORMAT "user.dedupscan.format"

/* "qcow2" when that is noted and the file begins so, too; else NULL.  It counts unless the user told a format. */
const char *noted_format(int fd);

/* Something is, whatever it is and whatever the file holds. */
bool noted_at_all(int fd);

/* Notes that a file, open for writing, is a qcow2 image.  ERR_UNSUPPORTED where there are no such attributes. */
int noted_set_qcow2(int fd, struct err *err);

#endif
