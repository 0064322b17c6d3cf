/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compactor/pool/qcow2_writer.h"
#include "compactor/pool/view.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"

/* An overlay is the image that its user knows: an ordinary qcow2 of version 3, empty, with the L1 table for all of its disk.
 *
 *	| header, backing file | refcount table | refcount block | ... | L1 table |	clusters of 64 KiB
 *
 * All but the beginnings of the first three is a hole, so it takes 12 KiB.  With extended L2 entries a cluster has 32 parts of
 * 2 KiB, each of which shows the backing file until it is written to: 8 MiB of small writes all over the disk take 8.5 MB instead
 * of 120.  (libvirt looks for the backing file's name in the first 32 KiB only.)
 *
 * Another backing file's name is written into the header's cluster, which two writes do.  What holds at every instant [broken by
 * tests/crash/test_repoint_cuts.c]:
 *
 *  O1. The header names the old file or the new one, and the bytes of that name are on the disk: the new name is written in
 *      sectors that have neither header nor extensions nor the old name, synced, and read back from the disk, before the header
 *      leads to it.
 *  O2. What leads to it, offset and length, is 12 bytes of the first sector, written by one call, and a sector is written whole
 *      or not at all. */

#define CLUSTER_BITS 16
#define CLUSTER_SIZE ((uint64_t)1 << CLUSTER_BITS)
#define REFCOUNT_ORDER 4 /* 16 bits */
#define SECTOR 512u
#define NAME_END_MAX ((size_t)32 << 10)

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

static int write_header(int fd, const struct qcow2_header *h, const uint8_t *beside, const char *backing, struct err *err)
{
	uint8_t p[BLOCK_SIZE] = { 0 };
	size_t at = h->header_length;

	qcow2_header_encode(h, p);
	at += qcow2_extension_encode(p + at, QCOW2_EXT_BACKING_FORMAT, "qcow2", 5);
	at += qcow2_feature_names_encode(p + at);
	if (beside)
		at += qcow2_extension_encode(p + at, POOL_EXT_FRESH, beside, POOL_ID_SIZE);
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
	char name[QCOW2_NAME_MAX + 1];

	if (disk_size > INT64_MAX || l1_bytes > QCOW2_L1_BYTES_MAX)
		return err_set(err, ERR_UNSUPPORTED, "a disk of %llu GiB is too large for an overlay",
			       (unsigned long long)(disk_size / GIB));
	if (slice_format(backing, name, sizeof(name), err) < 0 || write_header(fd, &h, o->beside, name, err) < 0)
		return -1;
	return write_refcounts(fd, &h, err);
}

/* ---- reading ---- */

/* What the file has of its first cluster, to be freed, and its size. */
static uint8_t *read_cluster(int fd, size_t *ret_size, size_t *ret_len, struct err *err)
{
	struct qcow2_header_disk d;
	CLEANUP(free) uint8_t *cluster = NULL;
	ssize_t len = file_read_some(fd, &d, sizeof(d), 0, err);
	unsigned bits = QCOW2_CLUSTER_BITS_MIN;

	if (len < 0)
		return NULL;
	if (len == sizeof(d) && be32_get(d.cluster_bits) <= QCOW2_CLUSTER_BITS_MAX)
		bits = (unsigned)max_u64(be32_get(d.cluster_bits), bits); /* what is wrong with it, decoding says */
	*ret_size = (size_t)1 << bits;
	cluster = calloc(1, *ret_size);
	if (!cluster)
		return err_null(err, ERR_MEMORY, "no memory for a qcow2 header");
	len = file_read_some(fd, cluster, *ret_size, 0, err);
	*ret_len = len < 0 ? 0 : (size_t)len;
	return len < 0 ? NULL : STEAL(cluster);
}

/* All that a header leads to lies before the end of the backing file's name, and that in the first len bytes. */
static bool is_whole(const uint8_t *p, size_t len)
{
	const struct qcow2_header_disk *d = (const void *)p;
	uint64_t name = be64_get(d->backing_file_offset), room = min_u64(len, (uint64_t)1 << (be32_get(d->cluster_bits) & 31));

	return len >= sizeof(*d) && be32_get(d->version) == 3 && name && range_within(name, be32_get(d->backing_file_size), room) &&
	       be32_get(d->header_length) <= name;
}

int overlay_header(int fd, struct qcow2_header *ret, struct err *err)
{
	size_t size, len;
	uint8_t head[BLOCK_SIZE];
	CLEANUP(free) uint8_t *cluster = NULL;
	ssize_t n = file_read_some(fd, head, sizeof(head), 0, err);

	if (n < 0)
		return -1;
	if (is_whole(head, (size_t)n))
		return qcow2_header_decode(head, (size_t)n, ret, err);
	cluster = read_cluster(fd, &size, &len, err);
	return cluster ? qcow2_header_decode(cluster, len, ret, err) : -1;
}

int overlay_backing(int fd, struct slice *ret, uint64_t *ret_disk_size, struct err *err)
{
	struct qcow2_header h;

	if (overlay_header(fd, &h, err) < 0)
		return -1;
	*ret_disk_size = round_down(h.size, 512);
	return strcmp(h.backing_format, "qcow2") == 0 ? slice_parse(h.backing_name, ret) : 0;
}

int overlay_names(int fd, struct slice *ret, uint64_t *ret_disk_size, struct err *err)
{
	struct qcow2_header h;

	if (overlay_header(fd, &h, err) < 0)
		return -1;
	*ret_disk_size = round_down(h.size, 512);
	if (strcmp(h.backing_format, "qcow2") != 0)
		return 0;
	if (slice_parse(h.backing_name, ret))
		return 1;
	*ret = (struct slice){ .size = 0 };
	return h.backing_name[0] == '/' && snprintf(ret->path, sizeof(ret->path), "%s", h.backing_name) < (int)sizeof(ret->path);
}

/* ---- another backing file ---- */

/* The extension of a type, NULL = there is none; what it holds lies within the cluster. */
static const struct qcow2_extension_disk *find_extension(const uint8_t *p, size_t size, uint32_t type)
{
	const struct qcow2_header_disk *d = (const void *)p;
	size_t at = be32_get(d->version) < 3 ? QCOW2_V2_LENGTH : be32_get(d->header_length);

	while (at + sizeof(struct qcow2_extension_disk) <= size) {
		const struct qcow2_extension_disk *x = (const void *)(p + at);

		if (be32_get(x->type) == QCOW2_EXT_END || qcow2_extension_bytes(be32_get(x->length)) > size - at)
			return NULL;
		if (be32_get(x->type) == type)
			return x;
		at += qcow2_extension_bytes(be32_get(x->length));
	}
	return NULL;
}

bool overlay_was_beside(int fd, const uint8_t id[POOL_ID_SIZE])
{
	size_t size, len;
	CLEANUP(free) uint8_t *cluster = read_cluster(fd, &size, &len, NULL);
	const struct qcow2_extension_disk *x;
	struct qcow2_header h;

	if (!cluster || qcow2_header_decode(cluster, len, &h, NULL) < 0)
		return false;
	x = find_extension(cluster, size, POOL_EXT_FRESH);
	return x && be32_get(x->length) == POOL_ID_SIZE && memcmp(x + 1, id, POOL_ID_SIZE) == 0;
}

/* 0 = they have no end: then what comes behind them would be one more. */
static size_t end_of_extensions(const uint8_t *p, size_t size)
{
	const struct qcow2_header_disk *d = (const void *)p;
	size_t at = be32_get(d->version) < 3 ? QCOW2_V2_LENGTH : be32_get(d->header_length);

	while (at + sizeof(struct qcow2_extension_disk) <= size) {
		const struct qcow2_extension_disk *x = (const void *)(p + at);

		if (be32_get(x->type) == QCOW2_EXT_END)
			return at + sizeof(*x);
		if (qcow2_extension_bytes(be32_get(x->length)) > size - at)
			break;
		at += qcow2_extension_bytes(be32_get(x->length));
	}
	return 0;
}

/* Where O1 lets a name of len bytes lie. */
static int find_place(const uint8_t *p, size_t size, size_t len, size_t *ret, struct err *err)
{
	const struct qcow2_header_disk *d = (const void *)p;
	uint64_t old = be64_get(d->backing_file_offset), old_end = old + be32_get(d->backing_file_size);
	size_t end = end_of_extensions(p, size), at = round_up(end, SECTOR);

	if (at + len > round_down(old, SECTOR))
		at = max_u64(at, round_up(old_end, SECTOR));
	if (!end || end > old || at + len > min_u64(size, NAME_END_MAX))
		return err_set(err, ERR_UNSUPPORTED,
			       "its header has no room for another backing file's name; qemu-img rebase -u can name it");
	*ret = at;
	return 0;
}

/* Who does not know a feature cannot know what depends on the header, either. */
static int check_features(const struct qcow2_header *h, struct err *err)
{
	if (h->incompatible & QCOW2_CORRUPT)
		return err_set(err, ERR_UNSUPPORTED, "it is marked as corrupt");
	if (h->incompatible & ~QCOW2_INCOMPATIBLE_KNOWN || h->autoclear & ~(QCOW2_BITMAPS_VALID | QCOW2_DATA_FILE_RAW))
		return err_set(err, ERR_UNSUPPORTED, "it has features that are not known here");
	return h->backing_name[0] ? 0 : err_set(err, ERR_UNSUPPORTED, "it has no backing file");
}

static int check_bytes(int fd, const void *wanted, size_t len, uint64_t at, struct err *err)
{
	uint8_t got[QCOW2_NAME_MAX];

	if (file_drop_cache(fd, err) < 0 || file_read(fd, got, len, at, err) < 0)
		return -1;
	return memcmp(got, wanted, len) == 0 ? 0 : err_set(err, ERR_IO, "its header reads back otherwise than it was written");
}

static int write_bytes(int fd, const void *p, size_t len, uint64_t at, struct err *err)
{
	if (file_write(fd, p, len, at, err) < 0 || file_sync(fd, "image", err) < 0)
		return -1;
	return check_bytes(fd, p, len, at, err);
}

/* What the header has as offset and length of the name.  One that reads back otherwise is put back: nothing is lost by that. */
struct place {
	be64 offset;
	be32 size;
};
static_assert(sizeof(struct place) == 12, "backing_file_offset and backing_file_size");
#define PLACE offsetof(struct qcow2_header_disk, backing_file_offset)

static int change_place(int fd, const struct place *from, const struct place *to, struct err *err)
{
	if (write_bytes(fd, to, sizeof(*to), PLACE, err) == 0)
		return 0;
	write_bytes(fd, from, sizeof(*from), PLACE, NULL);
	return -1;
}

int overlay_repoint(int fd, const struct slice *backing, struct err *err)
{
	char name[QCOW2_NAME_MAX + 1];
	size_t size, len, at = 0;
	CLEANUP(free) uint8_t *cluster = read_cluster(fd, &size, &len, err);
	struct place from, to;
	struct qcow2_header h;

	if (!cluster || qcow2_header_decode(cluster, len, &h, err) < 0 || check_features(&h, err) < 0 ||
	    slice_format(backing, name, sizeof(name), err) < 0 || find_place(cluster, size, strlen(name), &at, err) < 0)
		return -1;
	memcpy(&from, cluster + PLACE, sizeof(from));
	to.offset = be64_from(at);
	to.size = be32_from((uint32_t)strlen(name));
	return write_bytes(fd, name, strlen(name), at, err) < 0 ? -1 : change_place(fd, &from, &to, err);
}
