/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_TESTS_VHDX_HELP_H
#define DEDUPSCAN_TESTS_VHDX_HELP_H

#include "tests/unit/image_help.h"
#include "scanner/base/checked.h"
#include "scanner/base/crc32c.h"
#include "scanner/image/vhdx_format.h"

/* VHDX images made byte by byte, each thing in a MiB of its own:
 *
 *	0 headers and region tables, 1 log, 2 metadata, 3 BAT, 4 sector bitmap, 5 and on: data
 *
 * Blocks have 1 MiB, the disk 8 MiB.  Every byte of the n-th MiB from 5 on is n. */

#define LOG_AT (1 * MIB)
#define METADATA_AT (2 * MIB)
#define BAT_AT (3 * MIB)
#define BITMAP_AT (4 * MIB)
#define NR_MIB 12

/* where its items lie in the metadata region */
#define ITEM_AT(i) (64 * KIB + (uint64_t)(i)*64 * KIB)

struct disk {
	uint8_t *p;
	size_t len;
	bool unsummed; /* checksums are left as they are */
	size_t log_at; /* where in the log the next entry comes */
};

static inline void put_region(struct disk *d, unsigned i, const struct vhdx_guid *guid, uint64_t offset,
			      uint64_t length, uint32_t flags)
{
	struct vhdx_region_disk r = { *guid, le64_from(offset), le32_from((uint32_t)length), le32_from(flags) };

	memcpy(d->p + VHDX_REGIONS_1 + 16 + i * sizeof(r), &r, sizeof(r));
	memcpy(d->p + VHDX_REGIONS_2 + 16 + i * sizeof(r), &r, sizeof(r));
	le32_store(d->p + VHDX_REGIONS_1 + 8, i + 1);
	le32_store(d->p + VHDX_REGIONS_2 + 8, i + 1);
}

static inline void put_item(struct disk *d, unsigned i, const struct vhdx_guid *guid, uint64_t offset, uint32_t length,
			    uint32_t flags)
{
	struct vhdx_item_disk item = { *guid, le32_from((uint32_t)offset), le32_from(length), le32_from(flags),
				       le32_from(0) };

	memcpy(d->p + METADATA_AT + 32 + i * sizeof(item), &item, sizeof(item));
	le16_store(d->p + METADATA_AT + 10, (uint16_t)(i + 1));
}

static inline void put32(struct disk *d, uint64_t at, uint32_t v)
{
	le32_store(d->p + at, v);
}

static inline void put64(struct disk *d, uint64_t at, uint64_t v)
{
	le64_store(d->p + at, v);
}

static inline void set_bat(struct disk *d, unsigned i, uint64_t entry)
{
	put64(d, BAT_AT + 8 * i, entry);
}

/* The block that the n-th MiB of the file holds. */
static inline uint64_t in_mib(unsigned n)
{
	return n * MIB | VHDX_FULLY_PRESENT;
}

static inline void put_header(struct disk *d, uint64_t at, uint64_t sequence)
{
	struct vhdx_header_disk *h = (void *)(d->p + at);

	memcpy(h->signature, VHDX_HEADER_SIGNATURE, 4);
	h->sequence = le64_from(sequence);
	h->version = le16_from(1);
	h->log_length = le32_from(MIB);
	h->log_offset = le64_from(LOG_AT);
	for (uint8_t i = 0; i < 16; i++)
		h->data_write.b[i] = (uint8_t)(0xa0 + i);
}

static inline struct disk disk_new(void)
{
	static const uint32_t lengths[] = { 8, 8, 16, 4, 4 };
	struct disk d = { .len = NR_MIB * MIB };

	d.p = calloc(1, d.len);
	assert_non_null(d.p);
	memcpy(d.p, VHDX_SIGNATURE, 8);
	put_header(&d, VHDX_HEADER_1, 1);
	put_header(&d, VHDX_HEADER_2, 2);
	memcpy(d.p + VHDX_REGIONS_1, VHDX_REGIONS_SIGNATURE, 4);
	memcpy(d.p + VHDX_REGIONS_2, VHDX_REGIONS_SIGNATURE, 4);
	put_region(&d, 0, &vhdx_guid_metadata, METADATA_AT, MIB, VHDX_REQUIRED);
	put_region(&d, 1, &vhdx_guid_bat, BAT_AT, MIB, VHDX_REQUIRED);
	memcpy(d.p + METADATA_AT, VHDX_METADATA_SIGNATURE, 8);
	for (unsigned i = 0; i < 5; i++)
		put_item(&d, i, &vhdx_guid_items[i], ITEM_AT(i), lengths[i], VHDX_ITEM_REQUIRED);
	put32(&d, METADATA_AT + ITEM_AT(VHDX_PARAMETERS), MIB);
	put64(&d, METADATA_AT + ITEM_AT(VHDX_DISK_SIZE), 8 * MIB);
	put32(&d, METADATA_AT + ITEM_AT(VHDX_LOGICAL_SECTOR), 512);
	put32(&d, METADATA_AT + ITEM_AT(VHDX_PHYSICAL_SECTOR), 4096);
	for (unsigned i = 5; i < NR_MIB; i++)
		memset(d.p + i * MIB, (int)i, MIB);
	return d;
}

static inline void sum_up(uint8_t *p, size_t len)
{
	le32_store(p + 4, vhdx_checksum(p, len));
}

/* A file of it. */
static inline int disk_file(struct disk *d)
{
	int fd;

	if (!d->unsummed) {
		sum_up(d->p + VHDX_HEADER_1, VHDX_HEADER_SIZE);
		sum_up(d->p + VHDX_HEADER_2, VHDX_HEADER_SIZE);
		sum_up(d->p + VHDX_REGIONS_1, VHDX_TABLE_SIZE);
		sum_up(d->p + VHDX_REGIONS_2, VHDX_TABLE_SIZE);
	}
	fd = file_of(d->p, d->len);
	free(d->p);
	return fd;
}

static inline struct image *opened(struct disk d)
{
	return must_open(disk_file(&d), "vhdx", NULL);
}

static inline void expect_refused_as(struct disk d, enum err_kind kind, const char *text)
{
	struct err err = ERR_INIT;
	struct image *img = image_open(disk_file(&d), "test.vhdx", image_format_by_name("vhdx"), NULL, NULL, &err);

	if (img)
		fail_msg("opened; wanted '%s'", text);
	expect_error(&err, kind, text);
}

static inline void expect_refused(struct disk d, const char *text)
{
	expect_refused_as(d, ERR_FORMAT, text);
}

static inline void expect_unsupported(struct disk d, const char *text)
{
	expect_refused_as(d, ERR_UNSUPPORTED, text);
}

/* The image opens, but what is at `at` cannot be told. */
static inline void expect_broken_at(struct disk d, uint64_t at, const char *text)
{
	struct image *img = opened(d);
	struct err err = ERR_INIT;
	struct extent ext;

	if (image_next_extent(img, at, &ext, &err) == 0)
		fail_msg("an extent is told at %llu; wanted '%s'", (unsigned long long)at, text);
	expect_error(&err, ERR_FORMAT, text);
	image_close(img);
}

static inline struct disk with32(struct disk d, uint64_t at, uint32_t v)
{
	put32(&d, at, v);
	return d;
}

static inline struct disk with64(struct disk d, uint64_t at, uint64_t v)
{
	put64(&d, at, v);
	return d;
}

static inline struct disk with_bat(struct disk d, unsigned i, uint64_t entry)
{
	set_bat(&d, i, entry);
	return d;
}

#endif
