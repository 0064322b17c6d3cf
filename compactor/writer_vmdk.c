/* SPDX-License-Identifier: Apache-2.0 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compactor/writer.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/base/text.h"
#include "scanner/image/vmdk_format.h"

/* A disk in one sparse extent, monolithicSparse:
 *
 *	| header | descriptor | grain directory and tables, the redundant ones | the same again | grain | grain | ...
 *
 * Both directories say where all tables are, also of those without a grain, which are holes of the file.  Since grains come in
 * order, a table is complete when the next one begins, and only that one is held in memory. */

#define NR_GTES 512
#define GT_SIZE (NR_GTES * sizeof(le32))
#define GRAIN_DEFAULT ((uint64_t)64 << 10)
#define DESCRIPTOR_SECTORS 20
#define NO_TABLE UINT64_MAX
#define DISK_MAX ((uint64_t)2 << 40)

enum { REDUNDANT, MAIN, NR_COPIES };

struct vmdk_writer {
	struct writer w;
	uint64_t nr_tables, table; /* the one that gtes are of, or NO_TABLE */
	uint64_t directory[NR_COPIES], tables[NR_COPIES], overhead; /* offsets in the file */
	le32 gtes[NR_GTES];
	char descriptor[DESCRIPTOR_SECTORS * VMDK_SECTOR];
};

static const char *const vmdk_kinds[] = { "monolithicSparse", NULL };

static struct vmdk_writer *vmdk_of(struct writer *w)
{
	return (struct vmdk_writer *)w;
}

/* ---- descriptor ---- */

/* The format knows no escapes. */
static int check_name(const char *name, struct err *err)
{
	for (const char *p = name; *p; p++)
		if (*p == '"' || iscntrl((unsigned char)*p))
			return err_set(err, ERR_UNSUPPORTED,
				       "a VMDK image cannot have a name with a quote or a control byte in it");
	return 0;
}

/* The geometry is what QEMU and others give an IDE disk. */
static int make_descriptor(struct vmdk_writer *v, struct err *err)
{
	const uint64_t heads = 16, sectors = 63;
	uint64_t size = v->w.size / VMDK_SECTOR;
	uint8_t guid[16];
	uint32_t cid;

	if (check_name(v->w.name, err) < 0 || writer_make_guid(guid, false, err) < 0)
		return -1;
	cid = le32_load(guid) & ~1u; /* never that of no parent */
	snprintf(v->descriptor, sizeof(v->descriptor),
		 VMDK_DESCRIPTOR_MAGIC "\n"
		 "version=1\n"
		 "%s"
		 "CID=%08x\n"
		 "parentCID=" VMDK_NO_PARENT "\n"
		 "createType=\"%s\"\n"
		 "\n"
		 "# Extent description\n"
		 "RW %llu SPARSE \"%s\"\n"
		 "\n"
		 "# The Disk Data Base\n"
		 "#DDB\n"
		 "\n"
		 "ddb.virtualHWVersion = \"4\"\n"
		 "ddb.geometry.cylinders = \"%llu\"\n"
		 "ddb.geometry.heads = \"%llu\"\n"
		 "ddb.geometry.sectors = \"%llu\"\n"
		 "ddb.adapterType = \"ide\"\n",
		 text_is_utf8(v->w.name) ? "encoding=\"UTF-8\"\n" : "", cid, vmdk_kinds[v->w.kind],
		 (unsigned long long)size, v->w.name, (unsigned long long)(size / heads / sectors), (unsigned long long)heads,
		 (unsigned long long)sectors);
	return 0;
}

/* ---- grains ---- */

static int vmdk_begin(struct writer *w, struct err *err)
{
	struct vmdk_writer *v = vmdk_of(w);
	uint64_t at = VMDK_SECTOR + sizeof(v->descriptor);

	if (!w->cluster_size)
		w->cluster_size = GRAIN_DEFAULT;
	v->nr_tables = div_up(w->size, w->cluster_size * NR_GTES);
	v->table = NO_TABLE;
	for (int i = 0; i < NR_COPIES; i++) {
		v->directory[i] = at;
		v->tables[i] = at + round_up(v->nr_tables * sizeof(le32), VMDK_SECTOR);
		at = v->tables[i] + v->nr_tables * GT_SIZE;
	}
	v->overhead = w->file_end = round_up(at, w->cluster_size);
	return make_descriptor(v, err);
}

/* What is in memory goes to where it belongs. */
static int write_grain_table(struct vmdk_writer *v, struct err *err)
{
	for (int i = 0; v->table != NO_TABLE && i < NR_COPIES; i++)
		if (file_write(v->w.fd, v->gtes, GT_SIZE, v->tables[i] + v->table * GT_SIZE, err) < 0)
			return -1;
	return 0;
}

static int add_grain(struct vmdk_writer *v, le32 *gte, struct err *err)
{
	uint64_t sector = v->w.file_end / VMDK_SECTOR;

	if (sector > UINT32_MAX)
		return err_set(err, ERR_UNSUPPORTED, "the file would be larger than a VMDK image can be");
	*gte = le32_from((uint32_t)sector);
	v->w.file_end += v->w.cluster_size;
	return 0;
}

static int vmdk_place(struct writer *w, uint64_t offset, uint64_t *ret_at, uint64_t *ret_len, struct err *err)
{
	struct vmdk_writer *v = vmdk_of(w);
	uint64_t grain = offset / w->cluster_size, inside = offset % w->cluster_size;
	le32 *gte = &v->gtes[grain % NR_GTES];

	if (grain / NR_GTES != v->table) {
		if (write_grain_table(v, err) < 0)
			return -1;
		memset(v->gtes, 0, sizeof(v->gtes));
		v->table = grain / NR_GTES;
	}
	if (le32_get(*gte) == 0 && add_grain(v, gte, err) < 0)
		return -1;
	*ret_at = (uint64_t)le32_get(*gte) * VMDK_SECTOR + inside;
	*ret_len = w->cluster_size - inside;
	return 0;
}

/* ---- ending ---- */

static int write_directories(struct vmdk_writer *v, struct err *err)
{
	CLEANUP(free) le32 *gdes = calloc((size_t)v->nr_tables, sizeof(*gdes));

	if (!gdes)
		return err_set(err, ERR_MEMORY, "no memory for a grain directory");
	for (int i = 0; i < NR_COPIES; i++) {
		for (uint64_t t = 0; t < v->nr_tables; t++)
			gdes[t] = le32_from((uint32_t)((v->tables[i] + t * GT_SIZE) / VMDK_SECTOR));
		if (file_write(v->w.fd, gdes, (size_t)v->nr_tables * sizeof(*gdes), v->directory[i], err) < 0)
			return -1;
	}
	return 0;
}

static int vmdk_end(struct writer *w, struct err *err)
{
	struct vmdk_writer *v = vmdk_of(w);
	struct vmdk_header_disk h = {
		.magic = VMDK_MAGIC,
		.version = le32_from(1),
		.flags = le32_from(VMDK_HAS_NEWLINES | VMDK_HAS_REDUNDANT),
		.capacity = le64_from(w->size / VMDK_SECTOR),
		.grain_size = le64_from(w->cluster_size / VMDK_SECTOR),
		.descriptor_offset = le64_from(1),
		.descriptor_size = le64_from(DESCRIPTOR_SECTORS),
		.nr_gtes = le32_from(NR_GTES),
		.rgd_offset = le64_from(v->directory[REDUNDANT] / VMDK_SECTOR),
		.gd_offset = le64_from(v->directory[MAIN] / VMDK_SECTOR),
		.overhead = le64_from(v->overhead / VMDK_SECTOR),
		.newlines = VMDK_NEWLINES,
	};

	if (write_grain_table(v, err) < 0 || write_directories(v, err) < 0)
		return -1;
	if (file_write(w->fd, v->descriptor, sizeof(v->descriptor), VMDK_SECTOR, err) < 0)
		return -1;
	return file_write(w->fd, &h, sizeof(h), 0, err);
}

const struct writer_format writer_vmdk = {
	.name = "vmdk",
	.kinds = vmdk_kinds,
	.instance = sizeof(struct vmdk_writer),
	.unit = VMDK_SECTOR,
	.size_min = 1,
	.size_max = DISK_MAX,
	.cluster_min = 2 * WRITER_ALIGN, /* VMware: more than 8 sectors */
	.cluster_max = VMDK_PACKED_GRAIN_MAX,
	.begin = vmdk_begin,
	.place = vmdk_place,
	.end = vmdk_end,
};
