/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_ROOM_H
#define DEDUPSCAN_ROOM_H

#include <stdint.h>

#include "scanner/base/err.h"

/* Free space.  Who writes images leaves some for everybody else and for metadata: to write until a disk is full would trouble
 * guests. */

/* Before it is begun: ERR_FULL with both numbers when so many bytes do not fit where fd is, a file or a directory. */
int room_check(int fd, uint64_t bytes, struct err *err);

/* Meanwhile, for who cannot know how much it will be: to be called with what is written; `since` is 0 to begin with.  ERR_FULL when
 * too little is left. */
int room_keep(int fd, uint64_t written, uint64_t *since, struct err *err);

#endif
