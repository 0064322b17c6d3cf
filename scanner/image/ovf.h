/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_OVF_H
#define DEDUPSCAN_OVF_H

#include <stdbool.h>
#include <stddef.h>

#include "scanner/base/err.h"
#include "scanner/base/vec.h"

/* What an OVF descriptor (DMTF DSP0243) says of the disks: the elements File and Disk and those attributes of them that
 * lead to a file, in whatever namespace.  No more XML is read than that, so a descriptor of a stranger can do no more
 * than name files. */

#define OVF_SIZE_MAX (2u << 20)
#define OVF_FILES_MAX 4096
#define OVF_DISKS_MAX 1024

struct ovf_file {
	const char *id, *href, *compression; /* "" = not said */
	bool chunked;
};

struct ovf_disk {
	const char *file; /* the id of a File; "" = an empty disk, which has none */
};

struct ovf {
	VEC(struct ovf_file) files;
	VEC(struct ovf_disk) disks;
};

/* Reads a descriptor of len bytes with a NUL behind them.  It is written over: the strings above lie in it. */
int ovf_parse(char *text, size_t len, struct ovf *ret, struct err *err);
void ovf_release(struct ovf *ovf);

#endif
