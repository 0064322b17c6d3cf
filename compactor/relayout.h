/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_RELAYOUT_H
#define DEDUPSCAN_RELAYOUT_H

#include "compactor/proof.h"

/* Re-layout: VHD (dynamic) and VDI images whose data lies at offsets that no file system can share are written anew, each
 * block's data on a 4 KiB boundary.  Format, ids, time stamps and everything guests or hypervisors look at stay.
 *
 * VHD: a block's 512-byte bitmap ends where its data begins, at a multiple of 4096; what is between is a gap of zeros.
 * VDI: the header's offset of the data (u32 offData) moves to a multiple of 1 MiB.
 *
 * Blocks keep their order in the file; blocks that are not allocated stay so; 4 KiB of zeros become a hole in the file
 * (their place stays).  Source: Microsoft's Virtual Hard Disk Image Format Specification; VDICore.h of VirtualBox.
 *
 * What is not plain is not touched, with ERR_UNSUPPORTED: a broken footer or copy of it, blocks of less than 4 KiB, blocks that
 * overlap or lie over tables, tables behind data, bytes between blocks that belong to none. */

/* Does it apply?  `format` is a name of image_formats; `kind` is info.kind. */
bool relayout_applies(const char *format, const char *kind);

/* How long the new file becomes, at most; what the old one's holes and zeros are takes no space in it.  `block_size` is
 * info.cluster_size; 0 = not known. */
uint64_t relayout_size(const char *format, uint64_t file_size, uint64_t block_size);

/* Writes the new file, which is empty, in a process in a jail that may write to it and to nothing else.  `check` is called ten
 * times a second; NULL = none. */
int relayout_make(int old_fd, int new_fd, const char *path, const char *format, const struct roots *roots,
		  const struct jail *jail, proof_check *check, void *check_ctx, struct err *err);

/* What that process does. */
int relayout_write(struct image *old, int new_fd, proof_check *check, void *check_ctx, struct err *err);

#endif
