/* SPDX-License-Identifier: Apache-2.0 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "compactor/writer_vmdk_parts.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/base/text.h"

/* A disk in extents:
 *
 *	monolithicSparse	disk.vmdk: a sparse extent with the descriptor in it
 *	monolithicFlat		disk.vmdk: the descriptor	disk-flat.vmdk: the disk
 *	twoGbMaxExtentSparse	disk.vmdk: the descriptor	disk-s001.vmdk, ...: a sparse extent for each 2047 MiB
 *	twoGbMaxExtentFlat	disk.vmdk: the descriptor	disk-f001.vmdk, ...: 2047 MiB of the disk each
 *
 * An extent is complete when the next one begins; there are all of them, whatever they hold, for not every program takes ranges
 * of zeros for extents.  The adapter is what is usual with the products that use the kind. */

#define SPLIT ((uint64_t)2047 << 20) /* what others split disks at */
#define FLAT_MAX ((uint64_t)62 << 40) /* VMware's limit */
#define NONE SIZE_MAX

struct vmdk_extents {
	struct writer w;
	size_t nr, current; /* current: the one that is being written, or NONE */
	uint64_t current_size;
	int fd; /* its */
	struct vmdk_sparse sparse;
};

static struct vmdk_extents *extents_of(struct writer *w)
{
	return (struct vmdk_extents *)w;
}

/* ---- descriptor ---- */

int vmdk_check_name(const char *name, struct err *err)
{
	for (const char *p = name; *p; p++)
		if (*p == '"' || iscntrl((unsigned char)*p))
			return err_set(err, ERR_UNSUPPORTED,
				       "a VMDK image cannot have a name with a quote or a control byte in it");
	return 0;
}

static void print_descriptor(FILE *out, const struct writer *w, enum vmdk_adapter adapter, const char *extents,
			     const uint8_t guid[16])
{
	const unsigned heads = adapter == VMDK_IDE ? 16 : 255, sectors = 63; /* as QEMU and others have it */
	const uint64_t cylinders = max_u64(w->size / VMDK_SECTOR / heads / sectors, 1);
	uint32_t cid = le32_load(guid) & ~3u; /* neither that of no parent, nor VMware's of a new disk */

	fprintf(out,
		VMDK_DESCRIPTOR_MAGIC "\n"
		"version=1\n"
		"%s"
		"CID=%08x\n"
		"parentCID=" VMDK_NO_PARENT "\n"
		"createType=\"%s\"\n"
		"\n"
		"# Extent description\n"
		"%s"
		"\n"
		"# The Disk Data Base\n"
		"#DDB\n"
		"\n"
		"ddb.virtualHWVersion = \"4\"\n"
		"ddb.geometry.cylinders = \"%llu\"\n"
		"ddb.geometry.heads = \"%u\"\n"
		"ddb.geometry.sectors = \"%u\"\n"
		"ddb.adapterType = \"%s\"\n"
		"ddb.toolsVersion = \"2147483647\"\n", /* in the guest: who knows */
		text_is_utf8(w->name) ? "encoding=\"UTF-8\"\n" : "", cid, w->format->kind, extents,
		(unsigned long long)cylinders, heads, sectors, adapter == VMDK_IDE ? "ide" : "lsilogic");
}

/* The text for the disk of `w`, on the heap; the caller says the extents, in whole lines. */
static char *descriptor_new(const struct writer *w, enum vmdk_adapter adapter, const char *extents, struct err *err)
{
	uint8_t guid[16];
	char *text = NULL;
	size_t len;
	FILE *out;

	if (writer_make_guid(guid, false, err) < 0)
		return NULL;
	out = open_memstream(&text, &len);
	if (out)
		print_descriptor(out, w, adapter, extents, guid);
	if (out && fclose(out) == 0)
		return text;
	free(text);
	return err_null(err, ERR_MEMORY, "no memory for a descriptor");
}

int vmdk_embed_descriptor(struct writer *w, enum vmdk_adapter adapter, struct err *err)
{
	CLEANUP(free) char *text = NULL;
	char line[sizeof(w->name) + 64];

	snprintf(line, sizeof(line), "RW %llu SPARSE \"%s\"\n", (unsigned long long)(w->size / VMDK_SECTOR), w->name);
	text = descriptor_new(w, adapter, line, err);
	return text ? file_write(w->fd, text, strlen(text), VMDK_SECTOR, err) : -1;
}

/* ---- extents in files of their own ---- */

static bool is_flat(const struct vmdk_extents *v)
{
	return v->w.format == &writer_vmdk_flat || v->w.format == &writer_vmdk_split_flat;
}

static uint64_t size_of_extent(const struct vmdk_extents *v, size_t i)
{
	return min_u64(v->w.part_size, v->w.size - i * v->w.part_size);
}

#define NAME_ROOM (sizeof(((struct writer *)NULL)->name) + 32)

/* disk.vmdk: disk-s001.vmdk */
static void name_extent(const struct vmdk_extents *v, size_t i, char ret[NAME_ROOM])
{
	const char *name = v->w.name, *dot = strrchr(name, '.');
	int len = dot && strcasecmp(dot, ".vmdk") == 0 ? (int)(dot - name) : (int)strlen(name);

	if (v->w.format == &writer_vmdk_flat)
		snprintf(ret, NAME_ROOM, "%.*s-flat.vmdk", len, name);
	else
		snprintf(ret, NAME_ROOM, "%.*s-%c%03zu.vmdk", len, name, is_flat(v) ? 'f' : 's', i + 1);
}

static int end_extent(struct vmdk_extents *v, struct err *err)
{
	if (v->current == NONE)
		return 0;
	if (is_flat(v))
		return file_truncate(v->fd, v->current_size, err);
	return vmdk_sparse_end(&v->sparse, err) < 0 ? -1 : file_truncate(v->fd, v->sparse.end, err);
}

/* All up to this one. */
static int begin_extents(struct vmdk_extents *v, size_t last, struct err *err)
{
	char name[NAME_ROOM];

	while (v->current == NONE || v->current < last) {
		if (end_extent(v, err) < 0)
			return -1;
		v->current = v->current == NONE ? 0 : v->current + 1;
		v->current_size = size_of_extent(v, v->current);
		name_extent(v, v->current, name);
		v->fd = v->w.create(v->w.ctx, name, err);
		if (v->fd < 0)
			return -1;
		if (!is_flat(v))
			vmdk_sparse_begin(&v->sparse, v->fd, v->current_size, v->w.cluster_size, false);
	}
	return 0;
}

static int extents_begin(struct writer *w, uint64_t size, struct err *err)
{
	struct vmdk_extents *v = extents_of(w);

	if (!w->create)
		return err_set(err, ERR_UNSUPPORTED, "vmdk images of kind '%s' are several files", w->format->kind);
	if (!w->cluster_size)
		w->cluster_size = w->format->cluster_max ? VMDK_GRAIN_DEFAULT : 0;
	w->part_size = size;
	v->nr = (size_t)div_up(w->size, size);
	v->current = NONE;
	return vmdk_check_name(w->name, err);
}

static int flat_begin(struct writer *w, struct err *err)
{
	return extents_begin(w, w->size, err);
}

static int split_begin(struct writer *w, struct err *err)
{
	return extents_begin(w, SPLIT, err);
}

static int extents_place(struct writer *w, uint64_t offset, struct writer_place *ret, struct err *err)
{
	struct vmdk_extents *v = extents_of(w);
	uint64_t inside = offset % w->part_size;

	if (begin_extents(v, (size_t)(offset / w->part_size), err) < 0)
		return -1;
	ret->fd = v->fd;
	ret->at = inside;
	ret->len = v->current_size;
	if (!is_flat(v) && vmdk_sparse_place(&v->sparse, inside, ret, err) < 0)
		return -1;
	ret->len = min_u64(ret->len, v->current_size - inside);
	return 0;
}

static int print_extents(const struct vmdk_extents *v, char **ret, struct err *err)
{
	char name[NAME_ROOM];
	size_t len;
	FILE *out = open_memstream(ret, &len);

	for (size_t i = 0; out && i < v->nr; i++) {
		name_extent(v, i, name);
		fprintf(out, "RW %llu %s \"%s\"%s\n", (unsigned long long)(size_of_extent(v, i) / VMDK_SECTOR),
			is_flat(v) ? "FLAT" : "SPARSE", name, is_flat(v) ? " 0" : "");
	}
	return out && fclose(out) == 0 ? 0 : err_set(err, ERR_MEMORY, "no memory for a descriptor");
}

static int extents_end(struct writer *w, struct err *err)
{
	CLEANUP(free) char *lines = NULL, *text = NULL;
	struct vmdk_extents *v = extents_of(w);
	bool esxi = w->format == &writer_vmdk_flat;

	if (begin_extents(v, v->nr - 1, err) < 0 || end_extent(v, err) < 0 || print_extents(v, &lines, err) < 0)
		return -1;
	text = descriptor_new(w, esxi ? VMDK_LSILOGIC : VMDK_IDE, lines, err);
	if (!text)
		return -1;
	w->file_end = strlen(text);
	return file_write(w->fd, text, strlen(text), 0, err);
}

/* ---- all in one file ---- */

static int sparse_begin(struct writer *w, struct err *err)
{
	if (!w->cluster_size)
		w->cluster_size = VMDK_GRAIN_DEFAULT;
	vmdk_sparse_begin(&extents_of(w)->sparse, w->fd, w->size, w->cluster_size, true);
	return vmdk_check_name(w->name, err);
}

static int sparse_place(struct writer *w, uint64_t offset, struct writer_place *ret, struct err *err)
{
	return vmdk_sparse_place(&extents_of(w)->sparse, offset, ret, err);
}

static int sparse_end(struct writer *w, struct err *err)
{
	struct vmdk_sparse *s = &extents_of(w)->sparse;

	w->file_end = s->end;
	return vmdk_sparse_end(s, err) < 0 ? -1 : vmdk_embed_descriptor(w, VMDK_IDE, err);
}

#define VMDK_WRITER(sort, begin_, place_, end_)                                                                        \
	.name = "vmdk", .kind = sort, .instance = sizeof(struct vmdk_extents), .unit = VMDK_SECTOR, .size_min = 1,     \
	.begin = begin_, .place = place_, .end = end_

const struct writer_format writer_vmdk = {
	VMDK_WRITER("monolithicSparse", sparse_begin, sparse_place, sparse_end),
	.size_max = VMDK_SPARSE_MAX,
	.cluster_min = VMDK_GRAIN_MIN,
	.cluster_max = VMDK_PACKED_GRAIN_MAX,
};
const struct writer_format writer_vmdk_flat = {
	VMDK_WRITER("monolithicFlat", flat_begin, extents_place, extents_end),
	.size_max = FLAT_MAX,
};
const struct writer_format writer_vmdk_split = {
	VMDK_WRITER("twoGbMaxExtentSparse", split_begin, extents_place, extents_end),
	.size_max = VMDK_SPARSE_MAX,
	.cluster_min = VMDK_GRAIN_MIN,
	.cluster_max = (uint64_t)1 << 20, /* extents are whole grains */
};
const struct writer_format writer_vmdk_split_flat = {
	VMDK_WRITER("twoGbMaxExtentFlat", split_begin, extents_place, extents_end),
	.size_max = VMDK_SPARSE_MAX,
};
