/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_SEAL_NOTES_H
#define DEDUPSCAN_SEAL_NOTES_H

#include <sys/stat.h>

#include "compactor/pool/names.h"

/* What a version notes of the overlay that was sealed for it, by which that is known until it is folded in: when it was last
 * written to, how long its file is, and a checksum of what leads to its L2 tables.  Of these, and of the data, nothing is noted:
 * all would have to be read. */

/* When a file was last written to, as it is noted; and whether what was sealed for a disk was since then, as far as that is
 * noted. */
uint64_t seal_time_of(const struct stat *st);
bool seal_was_written(const struct pool *p, const struct name_disk *d);

/* Notes in *d what the overlay is that is open as `fd`, to which nobody writes; *st is its fstat(2).  When it cannot be read only
 * the time is noted. */
int seal_describe(int fd, const struct stat *st, struct name_disk *d, struct err *err);
/* There is nothing sealed any more that the notes are about. */
void seal_forget(struct name_disk *d);

/* Whether the sealed overlay that is open as `fd` is whole: 0, ERR_FORMAT says why not.  One that somebody wrote to, or of which
 * too little is noted to tell, is what it is, unless it is shorter than it was, or its tables cannot be found. */
int seal_check(int fd, const struct name_disk *d, struct err *err);
/* The same in the pool.  Of one that this process may not read only the length is looked at. */
int seal_check_in(const struct pool *p, const struct name_disk *d, struct err *err);

#endif
