/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "compactor/writer_vmdk_parts.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"

/* A disk as it is shipped, streamOptimized: compressed, and written from the beginning to the end.
 *
 *	| header | descriptor |   64 KiB: m grain | m grain | ... | m table | m grain | ... | m table | m directory | m footer | m |
 *
 * m is a marker, which says what follows, and the last one that nothing does.  A table stands behind its grains, and is not there
 * without any.  The footer is the header again, which does not know where the directory is.  ESXi takes version 3 only. */

#define VERSION 3
#define OVERHEAD ((uint64_t)64 << 10)
#define GRAIN_MAX ((uint64_t)64 << 10) /* VMware's, too */
#define GT_SIZE (VMDK_NR_GTES * sizeof(le32))
#define SECTOR_MAX (UINT32_MAX - 1024) /* a table and a grain may begin here, the one behind the other */

struct vmdk_stream {
	struct writer w;
	uint64_t nr_tables, table; /* the one that gtes are of, or VMDK_NO_TABLE */
	le32 *gdes;
	le32 gtes[VMDK_NR_GTES];
	uint8_t *sectors; /* a marker and what follows it, in whole ones */
};

static struct vmdk_stream *stream_of(struct writer *w)
{
	return (struct vmdk_stream *)w;
}

static int stream_begin(struct writer *w, struct err *err)
{
	struct vmdk_stream *s = stream_of(w);

	if (!w->cluster_size)
		w->cluster_size = VMDK_GRAIN_DEFAULT;
	s->nr_tables = div_up(w->size, w->cluster_size * VMDK_NR_GTES);
	s->table = VMDK_NO_TABLE;
	s->gdes = calloc((size_t)s->nr_tables, sizeof(*s->gdes));
	s->sectors = malloc((size_t)(2 * w->cluster_size));
	if (!s->gdes || !s->sectors)
		return err_set(err, ERR_MEMORY, "no memory for a grain directory of %llu entries",
			       (unsigned long long)s->nr_tables);
	w->file_end = OVERHEAD;
	return vmdk_check_name(w->name, err);
}

static void stream_release(struct writer *w)
{
	free(stream_of(w)->gdes);
	free(stream_of(w)->sectors);
}

/* ---- pieces of the stream ---- */

static int check_room(const struct writer *w, struct err *err)
{
	if (w->file_end / VMDK_SECTOR > SECTOR_MAX)
		return err_set(err, ERR_UNSUPPORTED, "the file would be larger than a VMDK image can be");
	return 0;
}

static uint32_t next_sector(const struct writer *w)
{
	return (uint32_t)(w->file_end / VMDK_SECTOR);
}

static int append(struct writer *w, const void *p, size_t len, struct err *err)
{
	w->file_end += len;
	return file_write(w->fd, p, len, w->file_end - len, err);
}

static struct vmdk_metadata_marker_disk marker_of(enum vmdk_marker type, uint64_t size)
{
	return (struct vmdk_metadata_marker_disk){ .marker.value = le64_from(size / VMDK_SECTOR), .type = le32_from(type) };
}

/* A marker and a table, in whole sectors; *ret is where that is. */
static int append_table(struct writer *w, enum vmdk_marker type, const le32 *table, size_t size, uint32_t *ret, struct err *err)
{
	struct vmdk_metadata_marker_disk m = marker_of(type, round_up(size, VMDK_SECTOR));

	if (append(w, &m, sizeof(m), err) < 0)
		return -1;
	*ret = next_sector(w);
	if (append(w, table, size, err) < 0)
		return -1;
	w->file_end = round_up(w->file_end, VMDK_SECTOR);
	return 0;
}

static int end_table(struct vmdk_stream *s, struct err *err)
{
	uint32_t sector = 0;

	if (s->table == VMDK_NO_TABLE)
		return 0;
	if (append_table(&s->w, VMDK_MARKER_GT, s->gtes, GT_SIZE, &sector, err) < 0)
		return -1;
	s->gdes[s->table] = le32_from(sector);
	memset(s->gtes, 0, sizeof(s->gtes));
	return 0;
}

static int stream_add(struct writer *w, uint64_t offset, const void *packed, size_t len, struct err *err)
{
	struct vmdk_marker_disk m = { .value = le64_from(offset / VMDK_SECTOR), .size = le32_from((uint32_t)len) };
	size_t size = (size_t)round_up(sizeof(m) + len, VMDK_SECTOR);
	uint64_t grain = offset / w->cluster_size;
	struct vmdk_stream *s = stream_of(w);

	if (check_room(w, err) < 0 || (grain / VMDK_NR_GTES != s->table && end_table(s, err) < 0))
		return -1;
	s->table = grain / VMDK_NR_GTES;
	s->gtes[grain % VMDK_NR_GTES] = le32_from(next_sector(w));
	memcpy(s->sectors, &m, sizeof(m));
	memcpy(s->sectors + sizeof(m), packed, len);
	memset(s->sectors + sizeof(m) + len, 0, size - sizeof(m) - len);
	return append(w, s->sectors, size, err);
}

/* ---- ending ---- */

static struct vmdk_header_disk header_of(const struct writer *w, uint64_t gd_offset)
{
	return (struct vmdk_header_disk){
		.magic = VMDK_MAGIC,
		.version = le32_from(VERSION),
		.flags = le32_from(VMDK_HAS_NEWLINES | VMDK_COMPRESSED | VMDK_MARKERS),
		.capacity = le64_from(w->size / VMDK_SECTOR),
		.grain_size = le64_from(w->cluster_size / VMDK_SECTOR),
		.descriptor_offset = le64_from(1),
		.descriptor_size = le64_from(VMDK_EMBEDDED_SIZE / VMDK_SECTOR),
		.nr_gtes = le32_from(VMDK_NR_GTES),
		.gd_offset = le64_from(gd_offset),
		.overhead = le64_from(OVERHEAD / VMDK_SECTOR),
		.newlines = VMDK_NEWLINES,
		.compression = le16_from(1),
	};
}

static int stream_end(struct writer *w, struct err *err)
{
	struct vmdk_header_disk header = header_of(w, VMDK_GD_AT_END);
	struct vmdk_stream *s = stream_of(w);
	struct vmdk_footer_disk footer;
	uint32_t sector = 0;

	if (end_table(s, err) < 0 ||
	    append_table(w, VMDK_MARKER_GD, s->gdes, (size_t)s->nr_tables * sizeof(*s->gdes), &sector, err) < 0)
		return -1;
	footer = (struct vmdk_footer_disk){
		.marker = marker_of(VMDK_MARKER_FOOTER, sizeof(footer.header)),
		.header = header_of(w, sector),
		.end = marker_of(VMDK_MARKER_END, 0),
	};
	if (append(w, &footer, sizeof(footer), err) < 0 || vmdk_embed_descriptor(w, VMDK_LSILOGIC, err) < 0)
		return -1;
	return file_write(w->fd, &header, sizeof(header), 0, err);
}

const struct writer_format writer_vmdk_stream = {
	.name = "vmdk",
	.kind = "streamOptimized",
	.instance = sizeof(struct vmdk_stream),
	.unit = VMDK_SECTOR,
	.size_min = 1,
	.size_max = VMDK_SPARSE_MAX,
	.cluster_min = VMDK_GRAIN_MIN,
	.cluster_max = GRAIN_MAX,
	.begin = stream_begin,
	.method = PACK_ZLIB,
	.add = stream_add,
	.end = stream_end,
	.release = stream_release,
};
