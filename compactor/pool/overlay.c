/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "compactor/pool/qcow2_writer.h"
#include "compactor/pool/view.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"

/* An overlay is the image that its user knows: an ordinary qcow2 of version 3, empty, with the L1 table for all of its disk.
 *
 *	| header, backing file | refcount table | refcount block | ... | L1 table |	clusters of 64 KiB
 *
 * All but the beginnings of the first three is a hole, so it takes 12 KiB.  With extended L2 entries a cluster has 32 parts of 2 KiB,
 * each of which shows the backing file until it is written to: 8 MiB of small writes all over the disk take 8.5 MB instead of 120.
 * (libvirt looks for the backing file's name in the first 32 KiB only.) */

#define CLUSTER_BITS 16
#define CLUSTER_SIZE ((uint64_t)1 << CLUSTER_BITS)
#define REFCOUNT_ORDER 4 /* 16 bits */
#define REFCOUNTS_PER_BLOCK (CLUSTER_SIZE / 2)

/* ---- writing ---- */

/* All is in the first refcount block: that covers 2 GiB, and an L1 table has 32 MiB at most. */
static int write_refcounts(int fd, const struct qcow2_header *h, struct err *err)
{
	uint64_t nr = h->l1_offset / CLUSTER_SIZE + div_up((uint64_t)h->l1_size * 8, CLUSTER_SIZE);
	be64 block = be64_from(h->refcount_offset + CLUSTER_SIZE);
	CLEANUP(free) be16 *counts = malloc(nr * sizeof(*counts));

	if (!counts)
		return err_set(err, ERR_MEMORY, "no memory for the refcounts of an image");
	for (uint64_t i = 0; i < nr; i++)
		counts[i] = be16_from(1);
	if (file_write(fd, &block, sizeof(block), h->refcount_offset, err) < 0 ||
	    file_write(fd, counts, nr * sizeof(*counts), be64_get(block), err) < 0)
		return -1;
	return file_truncate(fd, nr * CLUSTER_SIZE, err);
}

static int write_header(int fd, const struct qcow2_header *h, const char *backing, struct err *err)
{
	uint8_t p[BLOCK_SIZE] = { 0 };
	size_t at = h->header_length;

	qcow2_header_encode(h, p);
	at += qcow2_extension_encode(p + at, QCOW2_EXT_BACKING_FORMAT, "qcow2", 5);
	at += qcow2_feature_names_encode(p + at);
	at += qcow2_extension_encode(p + at, QCOW2_EXT_END, NULL, 0);
	qcow2_backing_encode(p, at, backing);
	return file_write(fd, p, at + strlen(backing), 0, err);
}

int overlay_write(int fd, uint64_t disk_size, const struct slice *backing, const struct overlay_options *o, struct err *err)
{
	uint64_t size = round_up(disk_size, 512), l1_bytes = qcow2_l1_bytes(size, CLUSTER_BITS, !o->compat);
	struct qcow2_header h = {
		.cluster_bits = CLUSTER_BITS,
		.size = size,
		.l1_size = (uint32_t)(l1_bytes / 8),
		.l1_offset = 3 * CLUSTER_SIZE,
		.refcount_offset = CLUSTER_SIZE,
		.refcount_clusters = 1,
		.refcount_order = REFCOUNT_ORDER,
		.header_length = sizeof(struct qcow2_header_disk),
		.incompatible = o->compat ? 0 : QCOW2_EXTENDED_L2,
	};
	struct slice s = *backing;
	char name[QCOW2_NAME_MAX + 1];

	s.host_cache |= o->host_cache;
	if (disk_size > INT64_MAX || l1_bytes > QCOW2_L1_BYTES_MAX)
		return err_set(err, ERR_UNSUPPORTED, "a disk of %llu GiB is too large for an overlay",
			       (unsigned long long)(disk_size / GIB));
	if (slice_format(&s, name, sizeof(name), err) < 0 || write_header(fd, &h, name, err) < 0)
		return -1;
	return write_refcounts(fd, &h, err);
}

/* ---- reading ---- */

static int read_header(int fd, struct qcow2_header *ret, struct err *err)
{
	struct qcow2_header_disk d;
	CLEANUP(free) uint8_t *cluster = NULL;
	ssize_t len = file_read_some(fd, &d, sizeof(d), 0, err);
	unsigned bits = QCOW2_CLUSTER_BITS_MIN;

	if (len < 0)
		return -1;
	if (len == sizeof(d) && be32_get(d.cluster_bits) <= QCOW2_CLUSTER_BITS_MAX)
		bits = (unsigned)max_u64(be32_get(d.cluster_bits), bits); /* what is wrong with it, decoding says */
	cluster = malloc((size_t)1 << bits);
	if (!cluster)
		return err_set(err, ERR_MEMORY, "no memory for a qcow2 header");
	len = file_read_some(fd, cluster, (size_t)1 << bits, 0, err);
	return len < 0 ? -1 : qcow2_header_decode(cluster, (size_t)len, ret, err);
}

int overlay_backing(int fd, struct slice *ret, uint64_t *ret_disk_size, struct err *err)
{
	struct qcow2_header h;

	if (read_header(fd, &h, err) < 0)
		return -1;
	*ret_disk_size = round_down(h.size, 512);
	return strcmp(h.backing_format, "qcow2") == 0 ? slice_parse(h.backing_name, ret) : 0;
}
