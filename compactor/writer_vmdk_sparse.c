/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "compactor/writer_vmdk_parts.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"

/*
 *	| header | [descriptor] | grain directory and tables, the redundant ones | the same again | grain | grain | ...
 *
 * Both directories say where all tables are, also of those without a grain, which are holes of the file.  Since grains come in
 * order, a table is complete when the next one begins, and only that one is held in memory. */

#define GT_SIZE (VMDK_NR_GTES * sizeof(le32))

void vmdk_sparse_begin(struct vmdk_sparse *s, int fd, uint64_t capacity, uint64_t grain_size, bool embedded)
{
	uint64_t at = VMDK_SECTOR + (embedded ? VMDK_EMBEDDED_SIZE : 0);

	*s = (struct vmdk_sparse){
		.fd = fd, .capacity = capacity, .grain_size = grain_size, .embedded = embedded, .table = VMDK_NO_TABLE,
		.nr_tables = div_up(capacity, grain_size * VMDK_NR_GTES),
	};
	for (int i = 0; i < VMDK_NR_COPIES; i++) {
		s->directory[i] = at;
		s->tables[i] = at + round_up(s->nr_tables * sizeof(le32), VMDK_SECTOR);
		at = s->tables[i] + s->nr_tables * GT_SIZE;
	}
	s->overhead = s->end = round_up(at, grain_size);
}

/* What is in memory goes to where it belongs. */
static int write_grain_table(struct vmdk_sparse *s, struct err *err)
{
	for (int i = 0; s->table != VMDK_NO_TABLE && i < VMDK_NR_COPIES; i++)
		if (file_write(s->fd, s->gtes, GT_SIZE, s->tables[i] + s->table * GT_SIZE, err) < 0)
			return -1;
	return 0;
}

static int add_grain(struct vmdk_sparse *s, le32 *gte, struct err *err)
{
	uint64_t sector = s->end / VMDK_SECTOR;

	if (sector > UINT32_MAX)
		return err_set(err, ERR_UNSUPPORTED, "the file would be larger than a VMDK image can be");
	*gte = le32_from((uint32_t)sector);
	s->end += s->grain_size;
	return 0;
}

int vmdk_sparse_place(struct vmdk_sparse *s, uint64_t offset, struct writer_place *ret, struct err *err)
{
	uint64_t grain = offset / s->grain_size, inside = offset % s->grain_size;
	le32 *gte = &s->gtes[grain % VMDK_NR_GTES];

	if (grain / VMDK_NR_GTES != s->table) {
		if (write_grain_table(s, err) < 0)
			return -1;
		memset(s->gtes, 0, sizeof(s->gtes));
		s->table = grain / VMDK_NR_GTES;
	}
	if (le32_get(*gte) == 0 && add_grain(s, gte, err) < 0)
		return -1;
	ret->fd = s->fd;
	ret->at = le32_get(*gte) * VMDK_SECTOR + inside;
	ret->len = s->grain_size - inside;
	return 0;
}

static int write_directories(struct vmdk_sparse *s, struct err *err)
{
	CLEANUP(free) le32 *gdes = calloc((size_t)s->nr_tables, sizeof(*gdes));

	if (!gdes)
		return err_set(err, ERR_MEMORY, "no memory for a grain directory");
	for (int i = 0; i < VMDK_NR_COPIES; i++) {
		for (uint64_t t = 0; t < s->nr_tables; t++)
			gdes[t] = le32_from((uint32_t)((s->tables[i] + t * GT_SIZE) / VMDK_SECTOR));
		if (file_write(s->fd, gdes, (size_t)s->nr_tables * sizeof(*gdes), s->directory[i], err) < 0)
			return -1;
	}
	return 0;
}

int vmdk_sparse_end(struct vmdk_sparse *s, struct err *err)
{
	struct vmdk_header_disk h = {
		.magic = VMDK_MAGIC,
		.version = le32_from(1),
		.flags = le32_from(VMDK_HAS_NEWLINES | VMDK_HAS_REDUNDANT),
		.capacity = le64_from(s->capacity / VMDK_SECTOR),
		.grain_size = le64_from(s->grain_size / VMDK_SECTOR),
		.descriptor_offset = le64_from(s->embedded ? 1 : 0),
		.descriptor_size = le64_from(s->embedded ? VMDK_EMBEDDED_SIZE / VMDK_SECTOR : 0),
		.nr_gtes = le32_from(VMDK_NR_GTES),
		.rgd_offset = le64_from(s->directory[VMDK_REDUNDANT] / VMDK_SECTOR),
		.gd_offset = le64_from(s->directory[VMDK_MAIN] / VMDK_SECTOR),
		.overhead = le64_from(s->overhead / VMDK_SECTOR),
		.newlines = VMDK_NEWLINES,
	};

	if (write_grain_table(s, err) < 0 || write_directories(s, err) < 0)
		return -1;
	return file_write(s->fd, &h, sizeof(h), 0, err);
}
