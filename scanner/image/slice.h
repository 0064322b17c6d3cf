/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_SLICE_H
#define DEDUPSCAN_SLICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "scanner/base/err.h"

/* Backing names of ours: a qcow2 image that lies in bytes [offset, offset + size) of a file, in the words of QEMU's json: pseudo
 * protocol, without blanks (Proxmox drops names with blanks) and in the one order that libvirt's parser accepts:
 *
 *	json:{"file":{"driver":"raw","read-only":true,"offset":O,"size":S,"file":{"driver":"file","filename":"/abs/path"}}}
 *
 * "l2-cache-size":N may stand before "file" in the outer object, and "aio":"threads" or "aio":"io_uring", and
 * "cache":{"direct":false}, behind the path: libvirt passes over them.  libvirt writes such names back without "read-only".  A name
 * with neither "offset" nor "size" means the whole file, however long it is when it is opened. */

/* How QEMU is asked to read; all zeros = as it is told for the image on top. */
struct slice_reading {
	uint64_t l2; /* bytes of the image's L2 tables that each process may keep in memory */
	bool host;   /* the file goes through the page cache of the host, also for guests with cache=none (whose aio=native it could
		      * not be opened with) */
	bool io_uring; /* requests go to the kernel by io_uring, and not to threads: QEMU opens the image only where it has that */
};

bool slice_same_reading(const struct slice_reading *a, const struct slice_reading *b);

struct slice {
	uint64_t offset, size; /* bytes; size 0, and offset 0 = the whole file */
	struct slice_reading reading;
	bool read_only;	 /* the name says so */
	char path[1024]; /* absolute */
};

#define SLICE_L2_CACHE_MAX ((uint64_t)1 << 30)

/* The name, for an image of at most 1023 bytes of it: ERR_UNSUPPORTED when it would be longer, or where the path has bytes that
 * JSON cannot say (invalid UTF-8). */
int slice_format(const struct slice *s, char *ret, size_t room, struct err *err);

/* Reads a name: 1 = it is one of ours, 0 = it is something else (another json: name, a plain name).  Keys may stand in any order,
 * blanks between them are taken, nothing else is: no other key, no other driver, no escape but \" \\ \/ \b \f \n \r \t \uXXXX, no
 * path that is not absolute. */
int slice_parse(const char *name, struct slice *ret);

#endif
