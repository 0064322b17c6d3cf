/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "compactor/pool/qcow2_writer.h"
#include "compactor/pool/view.h"
#include "scanner/base/checked.h"
#include "scanner/base/crc32c.h"

/* Row F13.
 *
 * The bytes of a header slot.  They are tried as they are, and once more as a header would have them whose numbers they are:
 * constants and checksum put right, so that what lies behind these is reached. */

#define VIEW_AT (QCOW2_V3_LENGTH + sizeof(struct qcow2_extension_disk))

static void must(int what)
{
	if (!what)
		abort();
}

static void try_header(const uint8_t header[BLOCK_SIZE])
{
	struct qcow2_header h;
	struct err err = ERR_INIT;
	struct view v;
	uint8_t *cluster;

	if (view_decode(header, 7, &v, &err) < 0) {
		must(err.kind == ERR_FORMAT && strncmp(err.text, "header in slot 7: ", 18) == 0);
		return;
	}
	must(v.slot == 7 && v.slice_size <= POOL_FILE_MAX);
	cluster = calloc(1, (size_t)1 << v.cluster_bits); /* to every reader it is a qcow2 image */
	must(cluster != NULL);
	memcpy(cluster, header, BLOCK_SIZE);
	must(qcow2_header_decode(cluster, (size_t)1 << v.cluster_bits, &h, NULL) == 0);
	must(h.size >= v.disk_size && h.cluster_bits == v.cluster_bits && !h.backing_name[0] && h.nr_snapshots == 0);
	must(range_within(h.l1_offset, (uint64_t)h.l1_size * 8, v.slice_size));
	must(h.size == (uint64_t)h.l1_size << (2 * h.cluster_bits - 3));
	free(cluster);
}

static void put_right(uint8_t p[BLOCK_SIZE])
{
	struct qcow2_header_disk *d = (void *)p;
	struct pool_view_disk *whose = (void *)(p + VIEW_AT);
	unsigned bits = 12 + p[23] % 3 * 2;
	uint64_t unit = (uint64_t)1 << (2 * bits - 3), nr = max_u64(div_up(le64_get(whose->disk_size), unit), 1);
	struct qcow2_header h = {
		.cluster_bits = bits,
		.size = nr * unit,
		.l1_size = (uint32_t)nr,
		.l1_offset = be64_get(d->l1_table_offset),
		.refcount_offset = be64_get(d->refcount_table_offset),
		.refcount_clusters = 1,
		.autoclear = QCOW2_LOCKED,
		.header_length = QCOW2_V3_LENGTH,
	};
	struct qcow2_extension_disk e = { be32_from(POOL_EXT_VIEW), be32_from((1u << bits) - (uint32_t)VIEW_AT - 8) };

	qcow2_header_encode(&h, p);
	memcpy(p + QCOW2_V3_LENGTH, &e, sizeof(e));
	memset(whose->padding, 0, sizeof(whose->padding));
	memset(whose + 1, 0, BLOCK_SIZE - VIEW_AT - sizeof(*whose));
	whose->crc = le32_from(crc32c(crc32c(0, p, QCOW2_V3_LENGTH), whose, offsetof(struct pool_view_disk, crc)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t header[BLOCK_SIZE] = { 0 };

	memcpy(header, data, min_u64(size, BLOCK_SIZE));
	try_header(header);
	put_right(header);
	try_header(header);
	return 0;
}
