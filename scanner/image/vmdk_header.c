/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "scanner/base/checked.h"
#include "scanner/image/vmdk_format.h"

/* The header of a sparse extent and the footer of a stream.
 *
 * Fields are checked by themselves here; that tables lie inside the file is checked by the reader. */

static int check_magic(const uint8_t *p, struct err *err)
{
	if (memcmp(p, VMDK_MAGIC, 4) == 0)
		return 0;
	if (memcmp(p, VMDK_COWD_MAGIC, 4) == 0)
		return err_set(err, ERR_UNSUPPORTED, "COWD extents (vmfsSparse) are not read");
	if (memcmp(p, VMDK_SESPARSE_MAGIC, 8) == 0)
		return err_set(err, ERR_UNSUPPORTED, "seSparse extents are not read");
	return err_set(err, ERR_FORMAT, "no header of a sparse VMDK extent found");
}

/* A number of sectors, which becomes bytes. */
static int decode_sectors(uint64_t sectors, const char *what, uint64_t *ret, struct err *err)
{
	if (sectors > VMDK_SECTORS_MAX)
		return err_set(err, ERR_FORMAT, "%s of %llu sectors is past the largest file offset", what,
			       (unsigned long long)sectors);
	*ret = sectors * VMDK_SECTOR;
	return 0;
}

static int decode_places(const struct vmdk_header_disk *d, struct vmdk_header *h, struct err *err)
{
	if (decode_sectors(le64_get(d->capacity), "capacity", &h->capacity, err) < 0 ||
	    decode_sectors(le64_get(d->descriptor_offset), "descriptor offset", &h->descriptor_offset, err) < 0 ||
	    decode_sectors(le64_get(d->descriptor_size), "descriptor size", &h->descriptor_size, err) < 0 ||
	    decode_sectors(le64_get(d->overhead), "overhead", &h->overhead, err) < 0)
		return -1;
	if (h->flags & VMDK_HAS_REDUNDANT &&
	    decode_sectors(le64_get(d->rgd_offset), "redundant grain directory offset", &h->rgd_offset, err) < 0)
		return -1;
	h->gd_offset = VMDK_GD_AT_END;
	return le64_get(d->gd_offset) == VMDK_GD_AT_END
		       ? 0
		       : decode_sectors(le64_get(d->gd_offset), "grain directory offset", &h->gd_offset, err);
}

static int check_flags(const struct vmdk_header *h, unsigned compression, struct err *err)
{
	uint32_t unknown = h->flags & VMDK_FLAGS_NEEDED & ~VMDK_FLAGS_KNOWN;

	if (h->version < 1 || h->version > 3)
		return err_set(err, ERR_UNSUPPORTED, "sparse VMDK extents of version %u are not known", h->version);
	if (unknown)
		return err_set(err, ERR_UNSUPPORTED, "the extent uses flag bit %d, which is not known",
			       __builtin_ctz(unknown));
	if (compression > 1)
		return err_set(err, ERR_UNSUPPORTED, "compression type %u is not known", compression);
	if ((compression != 0) != ((h->flags & VMDK_COMPRESSED) != 0))
		return err_set(err, ERR_FORMAT, "compression type %u contradicts the flags 0x%x", compression,
			       h->flags);
	if (compression && !(h->flags & VMDK_MARKERS))
		return err_set(err, ERR_UNSUPPORTED, "compressed grains without markers are not read");
	return 0;
}

static int check_grains(const struct vmdk_header *h, struct err *err)
{
	if (!is_pow2(h->grain_size) || h->grain_size < VMDK_SECTOR || h->grain_size > VMDK_GRAIN_MAX)
		return err_set(err, ERR_FORMAT, "grain size %llu is not a power of two from 512 bytes to 1 GiB",
			       (unsigned long long)h->grain_size);
	if (h->compressed && h->grain_size > VMDK_PACKED_GRAIN_MAX)
		return err_set(err, ERR_UNSUPPORTED, "compressed grains of %llu bytes are not read",
			       (unsigned long long)h->grain_size);
	if (h->nr_gtes == 0 || h->nr_gtes > VMDK_NR_GTES_MAX)
		return err_set(err, ERR_FORMAT, "grain tables of %u entries are not from 1 to %u", h->nr_gtes,
			       VMDK_NR_GTES_MAX);
	return 0;
}

int vmdk_header_decode(const uint8_t p[512], struct vmdk_header *ret, struct err *err)
{
	const struct vmdk_header_disk *d = (const void *)p;
	unsigned compression;
	struct vmdk_header h;

	if (check_magic(p, err) < 0)
		return -1;
	h = (struct vmdk_header){
		.version = le32_get(d->version),
		.flags = le32_get(d->flags),
		.nr_gtes = le32_get(d->nr_gtes),
		.unclean = d->unclean,
	};
	compression = le16_get(d->compression);
	h.compressed = compression;
	if ((h.flags & VMDK_HAS_NEWLINES) && memcmp(d->newlines, VMDK_NEWLINES, 4) != 0)
		return err_set(err, ERR_FORMAT, "line ends in the header were changed: it was transferred as text");
	if (check_flags(&h, compression, err) < 0 || decode_places(d, &h, err) < 0)
		return -1;
	if (decode_sectors(le64_get(d->grain_size), "grain size", &h.grain_size, err) < 0 ||
	    (h.capacity && check_grains(&h, err) < 0))
		return -1;
	*ret = h;
	return 0;
}

static int check_marker(const struct vmdk_metadata_marker_disk *m, enum vmdk_marker type, const char *what,
			struct err *err)
{
	if (le32_get(m->marker.size) != 0 || le32_get(m->type) != type)
		return err_set(err, ERR_FORMAT, "the stream does not end with a footer: no %s marker", what);
	return 0;
}

static int check_same(uint64_t header, uint64_t footer, const char *what, struct err *err)
{
	if (header == footer)
		return 0;
	return err_set(err, ERR_FORMAT, "header and footer contradict each other: %s %llu and %llu", what,
		       (unsigned long long)header, (unsigned long long)footer);
}

int vmdk_footer_decode(const struct vmdk_footer_disk *d, const struct vmdk_header *header, struct vmdk_header *ret,
		       struct err *err)
{
	struct vmdk_header f;

	if (check_marker(&d->marker, VMDK_MARKER_FOOTER, "footer", err) < 0 ||
	    check_marker(&d->end, VMDK_MARKER_END, "end-of-stream", err) < 0)
		return -1;
	if (vmdk_header_decode((const void *)&d->header, &f, err) < 0)
		return err_add(err, "footer");
	if (check_same(header->version, f.version, "version", err) < 0 ||
	    check_same(header->flags, f.flags, "flags", err) < 0 ||
	    check_same(header->capacity, f.capacity, "capacity", err) < 0 ||
	    check_same(header->grain_size, f.grain_size, "grain size", err) < 0 ||
	    check_same(header->nr_gtes, f.nr_gtes, "grain table size", err) < 0 ||
	    check_same(header->descriptor_offset, f.descriptor_offset, "descriptor offset", err) < 0 ||
	    check_same(header->descriptor_size, f.descriptor_size, "descriptor size", err) < 0)
		return -1;
	if (f.gd_offset == VMDK_GD_AT_END)
		return err_set(err, ERR_FORMAT, "the footer does not say where the grain directory is");
	*ret = f;
	return 0;
}
