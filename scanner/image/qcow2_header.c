/* SPDX-License-Identifier: Apache-2.0 */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "scanner/base/checked.h"
#include "scanner/image/qcow2_format.h"

/* The header of a qcow2 image and the extensions behind it:
 *
 *	| header | extension | extension | end | ... backing file name ... |	one cluster
 *
 * Fields are checked by themselves here; that tables lie inside the file is checked by the reader.  Unknown
 * extensions are skipped, as the specification says. */

/* For messages: a name out of the file, made printable. */
static void copy_printable(char *ret, size_t room, const char *name, size_t len)
{
	size_t i = 0;

	for (; i < len && i + 1 < room && name[i]; i++)
		ret[i] = name[i] >= 0x20 && name[i] < 0x7f ? name[i] : '?';
	ret[i] = '\0';
}

static int decode_string(const uint8_t *p, size_t len, const char *what, char *ret, size_t room, struct err *err)
{
	if (len >= room)
		return err_set(err, ERR_FORMAT, "%s of %zu bytes is too long", what, len);
	if (memchr(p, '\0', len))
		return err_set(err, ERR_FORMAT, "%s has a zero byte in it", what);
	memcpy(ret, p, len);
	ret[len] = '\0';
	return 0;
}

static int decode_version3(const struct qcow2_header_disk *d, size_t len, struct qcow2_header *h, struct err *err)
{
	if (len < QCOW2_V3_LENGTH)
		return err_set(err, ERR_FORMAT, "the file ends inside the qcow2 header");
	h->incompatible = be64_get(d->incompatible_features);
	h->compatible = be64_get(d->compatible_features);
	h->autoclear = be64_get(d->autoclear_features);
	h->refcount_order = be32_get(d->refcount_order);
	h->header_length = be32_get(d->header_length);
	if (h->header_length < QCOW2_V3_LENGTH || h->header_length % 8 != 0)
		return err_set(err, ERR_FORMAT, "header length %u is not a multiple of 8 from 104 up",
			       h->header_length);
	if (h->header_length > (uint64_t)1 << h->cluster_bits || h->header_length > len)
		return err_set(err, ERR_FORMAT, "header length %u is more than the first cluster", h->header_length);
	if (h->refcount_order > 6)
		return err_set(err, ERR_FORMAT, "refcounts of 2^%u bits are wider than 64 bits", h->refcount_order);
	if (h->header_length > offsetof(struct qcow2_header_disk, compression_type))
		h->compression = d->compression_type;
	return 0;
}

static int decode_fields(const struct qcow2_header_disk *d, size_t len, struct qcow2_header *h, struct err *err)
{
	*h = (struct qcow2_header){
		.version = be32_get(d->version),
		.cluster_bits = be32_get(d->cluster_bits),
		.size = be64_get(d->size),
		.crypt_method = be32_get(d->crypt_method),
		.l1_size = be32_get(d->l1_size),
		.l1_offset = be64_get(d->l1_table_offset),
		.refcount_offset = be64_get(d->refcount_table_offset),
		.refcount_clusters = be32_get(d->refcount_table_clusters),
		.refcount_order = 4,
		.nr_snapshots = be32_get(d->nb_snapshots),
		.snapshots_offset = be64_get(d->snapshots_offset),
		.header_length = QCOW2_V2_LENGTH,
	};
	if (h->version != 2 && h->version != 3)
		return err_set(err, ERR_UNSUPPORTED, "qcow2 version %u is not known", h->version);
	if (h->cluster_bits < QCOW2_CLUSTER_BITS_MIN || h->cluster_bits > QCOW2_CLUSTER_BITS_MAX)
		return err_set(err, ERR_FORMAT, "cluster size 2^%u is not from 512 bytes to 2 MiB", h->cluster_bits);
	return h->version == 3 ? decode_version3(d, len, h, err) : 0;
}

/* ---- extensions ---- */

static int decode_bitmaps(const uint8_t *p, size_t len, struct qcow2_header *h, struct err *err)
{
	const struct qcow2_bitmaps_disk *d = (const void *)p;

	if (len != sizeof(*d))
		return err_set(err, ERR_FORMAT, "bitmaps extension has %zu bytes, not 24", len);
	h->nr_bitmaps = be32_get(d->nb_bitmaps);
	h->bitmaps_size = be64_get(d->bitmap_directory_size);
	h->bitmaps_offset = be64_get(d->bitmap_directory_offset);
	if (h->nr_bitmaps == 0 || h->nr_bitmaps > QCOW2_BITMAPS_MAX)
		return err_set(err, ERR_FORMAT, "bitmaps extension counts %u bitmaps", h->nr_bitmaps);
	return 0;
}

static int decode_crypto(const uint8_t *p, size_t len, struct qcow2_header *h, struct err *err)
{
	const struct qcow2_crypto_disk *d = (const void *)p;

	if (len != sizeof(*d))
		return err_set(err, ERR_FORMAT, "encryption header pointer has %zu bytes, not 16", len);
	h->crypto_offset = be64_get(d->offset);
	h->crypto_length = be64_get(d->length);
	return 0;
}

static int decode_extension(uint32_t type, const uint8_t *p, size_t len, struct qcow2_header *h, struct err *err)
{
	switch (type) {
	case QCOW2_EXT_BACKING_FORMAT:
		return decode_string(p, len, "backing format name", h->backing_format, sizeof(h->backing_format), err);
	case QCOW2_EXT_DATA_FILE:
		return decode_string(p, len, "data file name", h->data_file, sizeof(h->data_file), err);
	case QCOW2_EXT_BITMAPS:
		return decode_bitmaps(p, len, h, err);
	case QCOW2_EXT_CRYPTO:
		return decode_crypto(p, len, h, err);
	}
	return 0;
}

/* The extension at *at, which then moves behind it; 1 = there is one, 0 = the end, -1 = broken. */
static int next_extension(const uint8_t *p, size_t end, size_t *at, struct qcow2_extension_disk *ret, struct err *err)
{
	size_t len;

	if (end < sizeof(*ret) || *at > end - sizeof(*ret))
		return 0;
	memcpy(ret, p + *at, sizeof(*ret));
	len = be32_get(ret->length);
	if (be32_get(ret->type) == QCOW2_EXT_END)
		return 0;
	*at += sizeof(*ret);
	if (len > end - *at)
		return err_set(err, ERR_FORMAT, "header extension 0x%08x of %zu bytes leaves the extension area",
			       be32_get(ret->type), len);
	*at += round_up(len, 8);
	return 1;
}

static int decode_extensions(const uint8_t *p, size_t end, struct qcow2_header *h, struct err *err)
{
	struct qcow2_extension_disk ext;
	size_t at = h->header_length;
	int more;

	for (size_t data = at + sizeof(ext); (more = next_extension(p, end, &at, &ext, err)) > 0;
	     data = at + sizeof(ext))
		if (decode_extension(be32_get(ext.type), p + data, be32_get(ext.length), h, err) < 0)
			return -1;
	return more;
}

/* ---- features ---- */

/* The name that the image itself gives a feature it needs; "" = none. */
static void name_feature(const uint8_t *p, size_t end, const struct qcow2_header *h, unsigned bit, char *ret,
			 size_t room)
{
	struct qcow2_extension_disk ext;
	size_t at = h->header_length;

	*ret = '\0';
	for (size_t data = at + sizeof(ext); next_extension(p, end, &at, &ext, NULL) > 0; data = at + sizeof(ext)) {
		const struct qcow2_feature_name_disk *f = (const void *)(p + data);
		size_t nr = be32_get(ext.length) / sizeof(*f);

		if (be32_get(ext.type) != QCOW2_EXT_FEATURE_NAMES)
			continue;
		for (; nr; nr--, f++)
			if (f->type == 0 && f->bit == bit)
				copy_printable(ret, room, f->name, sizeof(f->name));
	}
}

static int check_known(const uint8_t *p, size_t end, const struct qcow2_header *h, struct err *err)
{
	uint64_t unknown = h->incompatible & ~QCOW2_INCOMPATIBLE_KNOWN;
	char name[64];
	unsigned bit;

	if (!unknown)
		return 0;
	bit = (unsigned)__builtin_ctzll(unknown);
	name_feature(p, end, h, bit, name, sizeof(name));
	if (*name)
		return err_set(err, ERR_UNSUPPORTED,
			       "the image uses feature '%s' (incompatible bit %u), which is not known", name, bit);
	return err_set(err, ERR_UNSUPPORTED, "the image uses incompatible feature bit %u, which is not known", bit);
}

static int check_features(const struct qcow2_header *h, struct err *err)
{
	bool other = h->incompatible & QCOW2_COMPRESSION;

	if (h->compression > QCOW2_ZSTD)
		return err_set(err, ERR_UNSUPPORTED, "compression type %u is not known", h->compression);
	if (other != (h->compression != QCOW2_ZLIB))
		return err_set(err, ERR_FORMAT, "compression type %u contradicts the compression feature bit",
			       h->compression);
	if ((h->incompatible & QCOW2_EXTENDED_L2) && h->cluster_bits < QCOW2_EXTENDED_CLUSTER_BITS_MIN)
		return err_set(err, ERR_FORMAT, "clusters of 2^%u bytes are too small for extended L2 entries",
			       h->cluster_bits);
	if (h->crypt_method > QCOW2_CRYPT_LUKS)
		return err_set(err, ERR_UNSUPPORTED, "encryption method %u is not known", h->crypt_method);
	if ((h->incompatible & QCOW2_DATA_FILE) && h->nr_snapshots)
		return err_set(err, ERR_FORMAT, "an image with an external data file has internal snapshots");
	return 0;
}

/* ---- tables ---- */

static int check_table(const struct qcow2_header *h, uint64_t offset, uint64_t bytes, uint64_t max, const char *what,
		       struct err *err)
{
	if (bytes > max)
		return err_set(err, ERR_FORMAT, "%s of %llu bytes is too large", what, (unsigned long long)bytes);
	if (offset % ((uint64_t)1 << h->cluster_bits) != 0)
		return err_set(err, ERR_FORMAT, "%s at offset %llu is not cluster aligned", what,
			       (unsigned long long)offset);
	if (!range_within(offset, bytes, INT64_MAX))
		return err_set(err, ERR_FORMAT, "%s at offset %llu is past the largest file offset", what,
			       (unsigned long long)offset);
	return 0;
}

static int check_tables(const struct qcow2_header *h, struct err *err)
{
	uint64_t refcounts = (uint64_t)h->refcount_clusters << h->cluster_bits;

	if (refcounts == 0)
		return err_set(err, ERR_FORMAT, "the image has no refcount table");
	if (h->nr_snapshots > QCOW2_SNAPSHOTS_MAX)
		return err_set(err, ERR_FORMAT, "%u snapshots are more than %u", h->nr_snapshots, QCOW2_SNAPSHOTS_MAX);
	if (check_table(h, h->refcount_offset, refcounts, QCOW2_REFTABLE_BYTES_MAX, "refcount table", err) < 0)
		return -1;
	if (check_table(h, h->snapshots_offset, (uint64_t)h->nr_snapshots * sizeof(struct qcow2_snapshot_disk),
			QCOW2_SNAPSHOT_TABLE_MAX, "snapshot table", err) < 0)
		return -1;
	return check_table(h, h->l1_offset, (uint64_t)h->l1_size * 8, QCOW2_L1_BYTES_MAX, "L1 table", err);
}

/* Where the extension area ends, and the backing file name behind it. */
static int decode_backing(const uint8_t *p, size_t len, struct qcow2_header *h, size_t *ret_end, struct err *err)
{
	const struct qcow2_header_disk *d = (const void *)p;
	uint64_t offset = be64_get(d->backing_file_offset);
	uint32_t size = be32_get(d->backing_file_size);

	*ret_end = min_u64(len, (uint64_t)1 << h->cluster_bits);
	if (offset == 0)
		return 0;
	if (size > QCOW2_NAME_MAX)
		return err_set(err, ERR_FORMAT, "backing file name of %u bytes is too long", size);
	if (!range_within(offset, size, *ret_end))
		return err_set(err, ERR_FORMAT, "backing file name at offset %llu leaves the first cluster",
			       (unsigned long long)offset);
	*ret_end = offset;
	return decode_string(p + offset, size, "backing file name", h->backing_name, sizeof(h->backing_name), err);
}

int qcow2_header_decode(const uint8_t *p, size_t len, struct qcow2_header *ret, struct err *err)
{
	struct qcow2_header h;
	size_t end;

	if (len < QCOW2_V2_LENGTH)
		return err_set(err, ERR_FORMAT, "the file ends inside the qcow2 header");
	if (memcmp(p, QCOW2_MAGIC, 4) != 0)
		return err_set(err, ERR_FORMAT, "no qcow2 header found");
	if (decode_fields((const void *)p, len, &h, err) < 0 || decode_backing(p, len, &h, &end, err) < 0)
		return -1;
	if (check_known(p, end, &h, err) < 0 || check_features(&h, err) < 0 || check_tables(&h, err) < 0)
		return -1;
	if (decode_extensions(p, end, &h, err) < 0)
		return -1;
	*ret = h;
	return 0;
}

static void add_word(char *ret, size_t len, bool there, const char *word)
{
	size_t used = strlen(ret);

	if (there)
		snprintf(ret + used, len - used, "%s%s", used ? ", " : "", word);
}

void qcow2_header_describe(const struct qcow2_header *h, char *ret, size_t len)
{
	*ret = '\0';
	add_word(ret, len, h->compatible & QCOW2_LAZY_REFCOUNTS, "lazy refcounts");
	add_word(ret, len, h->compression == QCOW2_ZSTD, "zstd");
	add_word(ret, len, h->incompatible & QCOW2_EXTENDED_L2, "extended L2");
	add_word(ret, len, h->incompatible & QCOW2_DATA_FILE, "external data file");
	add_word(ret, len, h->autoclear & QCOW2_DATA_FILE_RAW, "raw data file");
	add_word(ret, len, h->crypt_method == QCOW2_CRYPT_AES, "AES");
	add_word(ret, len, h->crypt_method == QCOW2_CRYPT_LUKS, "LUKS");
	add_word(ret, len, h->nr_bitmaps, "bitmaps");
	add_word(ret, len, h->incompatible & QCOW2_DIRTY, "dirty");
	add_word(ret, len, h->incompatible & QCOW2_CORRUPT, "marked corrupt");
}
