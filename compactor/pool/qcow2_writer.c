/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/pool/qcow2_writer.h"

#include <string.h>

#include "scanner/base/checked.h"

void qcow2_header_encode(const struct qcow2_header *h, void *ret)
{
	struct qcow2_header_disk d = {
		.magic = { 'Q', 'F', 'I', 0xfb },
		.version = be32_from(3),
		.cluster_bits = be32_from(h->cluster_bits),
		.size = be64_from(h->size),
		.l1_size = be32_from(h->l1_size),
		.l1_table_offset = be64_from(h->l1_offset),
		.refcount_table_offset = be64_from(h->refcount_offset),
		.refcount_table_clusters = be32_from(h->refcount_clusters),
		.incompatible_features = be64_from(h->incompatible),
		.compatible_features = be64_from(h->compatible),
		.autoclear_features = be64_from(h->autoclear),
		.refcount_order = be32_from(h->refcount_order),
		.header_length = be32_from(h->header_length),
	};

	memcpy(ret, &d, h->header_length);
}

size_t qcow2_extension_bytes(size_t len)
{
	return sizeof(struct qcow2_extension_disk) + round_up(len, 8);
}

size_t qcow2_extension_encode(uint8_t *p, uint32_t type, const void *data, size_t len)
{
	struct qcow2_extension_disk d = { .type = be32_from(type), .length = be32_from((uint32_t)len) };

	memset(p, 0, qcow2_extension_bytes(len));
	memcpy(p, &d, sizeof(d));
	if (len)
		memcpy(p + sizeof(d), data, len);
	return qcow2_extension_bytes(len);
}

void qcow2_backing_encode(uint8_t *p, size_t at, const char *name)
{
	struct qcow2_header_disk *d = (void *)p;

	memcpy(p + at, name, strlen(name));
	d->backing_file_offset = be64_from(at);
	d->backing_file_size = be32_from((uint32_t)strlen(name));
}

size_t qcow2_feature_names_encode(uint8_t *p)
{
	static const struct qcow2_feature_name_disk names[] = {
		{ 0, 0, "dirty bit" },		 { 0, 1, "corrupt bit" },    { 0, 2, "external data file" },
		{ 0, 3, "compression type" },	 { 0, 4, "extended L2 entries" }, { 1, 0, "lazy refcounts" },
		{ 2, 0, "bitmaps" },		 { 2, 1, "raw external data" },
	};
	static_assert(sizeof(names) + sizeof(struct qcow2_extension_disk) == QCOW2_FEATURE_NAMES_BYTES, "feature names");

	return qcow2_extension_encode(p, QCOW2_EXT_FEATURE_NAMES, names, sizeof(names));
}

uint64_t qcow2_l1_bytes(uint64_t size, unsigned cluster_bits, bool extended_l2)
{
	return div_up(size, (uint64_t)1 << (2 * cluster_bits - (extended_l2 ? 4 : 3))) * 8;
}
