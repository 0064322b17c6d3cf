/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_TAR_FORMAT_H
#define DEDUPSCAN_TAR_FORMAT_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "scanner/base/err.h"
#include "scanner/image/image.h"

/* tar archives: ustar and pax after POSIX.1-2017 (pax, "pax Interchange Format"), the GNU format after the manual of
 * GNU tar ("Tar Internals"), and the older tar that has no magic.
 *
 *	header | data, padded to 512 bytes | header | data | ... | zeros
 *
 * A member may have headers of its own before its header, with data that say more of it: records of pax, a long name of
 * GNU. */

#define TAR_BLOCK 512

struct tar_header_disk {
	char name[100];
	char mode[8], uid[8], gid[8];
	char size[12]; /* octal; GNU: a byte of 0x80, then big-endian */
	char mtime[12];
	char checksum[8]; /* octal: the sum of all bytes, with blanks in its own place */
	char type;
	char linkname[100];
	char magic[6]; /* "ustar\0", GNU: "ustar " */
	char version[2];
	char uname[32], gname[32];
	char devmajor[8], devminor[8];
	char prefix[155]; /* "ustar\0" only: goes before the name, with a slash */
	char pad[12];
};
static_assert(sizeof(struct tar_header_disk) == TAR_BLOCK, "tar header");

/* What headers before it say of a member. */
struct tar_extension {
	char name[IMAGE_NAME_MAX]; /* "" = nothing said */
	bool has_size, sparse;
	uint64_t size;
};

struct tar_member {
	char name[IMAGE_NAME_MAX];
	uint64_t offset, size; /* of its data */
	bool regular, directory;
};

/* Walks over the headers of a tar archive: set `size` and one of `file` and `head`, zero the rest. */
struct tar_walk {
	const struct image_file *file;
	const uint8_t *head; /* its first bytes ... */
	size_t head_len;
	uint64_t size; /* of the archive */
	uint64_t at;
	unsigned nr_headers;
	struct tar_extension global, local;
};

/* Headers of all kinds in one archive, and bytes of one that says more of a member. */
#define TAR_HEADERS_MAX 16384
#define TAR_EXTENSION_MAX ((uint64_t)256 << 10)

/* Whether it may be the first block of an archive: has the magic or a checksum that is right. */
bool tar_looks_like(const uint8_t *head, size_t len);

/* The next member: 1, 0 at the end, -1 when the archive is broken, or uses sparse files or several volumes.  The data
 * lie within the archive; what is no regular file has none. */
int tar_next(struct tar_walk *w, struct tar_member *ret, struct err *err);

#endif
