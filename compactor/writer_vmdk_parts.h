/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_WRITER_VMDK_PARTS_H
#define DEDUPSCAN_WRITER_VMDK_PARTS_H

#include "compactor/writer.h"
#include "scanner/image/vmdk_format.h"

/* Between writer_vmdk.c, writer_vmdk_sparse.c and writer_vmdk_stream.c. */

#define VMDK_NR_GTES 512 /* VMware knows no other number */
#define VMDK_GRAIN_DEFAULT ((uint64_t)64 << 10)
#define VMDK_GRAIN_MIN (2 * WRITER_ALIGN) /* VMware: more than 8 sectors */
#define VMDK_EMBEDDED_SIZE (20 * VMDK_SECTOR) /* of a descriptor inside an extent */
#define VMDK_SPARSE_MAX ((uint64_t)2 << 40)   /* of a disk in sparse extents, and of a file with one: 2^32 sectors */

/* ---- descriptors ---- */

enum vmdk_adapter { VMDK_IDE, VMDK_LSILOGIC };

/* The format knows no escapes. */
int vmdk_check_name(const char *name, struct err *err);
/* Of a disk in one extent, in the very file: writes it to its second sector. */
int vmdk_embed_descriptor(struct writer *w, enum vmdk_adapter adapter, struct err *err);

/* ---- a sparse extent, while it is written ---- */

enum { VMDK_REDUNDANT, VMDK_MAIN, VMDK_NR_COPIES };

struct vmdk_sparse {
	int fd;
	uint64_t capacity, grain_size; /* bytes */
	bool embedded;		       /* it has the descriptor in it */
	uint64_t nr_tables, table;     /* the one that gtes are of, or VMDK_NO_TABLE */
	uint64_t directory[VMDK_NR_COPIES], tables[VMDK_NR_COPIES], overhead; /* offsets in the file */
	uint64_t end; /* where the next grain goes; in the end, the size of the file */
	le32 gtes[VMDK_NR_GTES];
};
#define VMDK_NO_TABLE UINT64_MAX

void vmdk_sparse_begin(struct vmdk_sparse *s, int fd, uint64_t capacity, uint64_t grain_size, bool embedded);
/* `offset` in the extent. */
int vmdk_sparse_place(struct vmdk_sparse *s, uint64_t offset, struct writer_place *ret, struct err *err);
int vmdk_sparse_end(struct vmdk_sparse *s, struct err *err);

#endif
