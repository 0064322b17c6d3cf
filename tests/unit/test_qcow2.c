/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <limits.h>

#include "tests/unit/image_help.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/image/qcow2_format.h"

/* The qcow2 reader, with images made here byte by byte:
 *
 *	cluster	0 header, 1 refcount table, 2 L1, 3 L2, 4 snapshot table, 5 L1 of the snapshot, 6 its L2, 8 and on: data
 *
 * Clusters are 4 KiB (16 KiB with extended L2), so that an L2 table maps 2 MiB (16 MiB).  Every byte of the n-th
 * cluster from 8 on is n. */

#define NR_CLUSTERS 24

struct disk {
	uint8_t *p;
	size_t len;
	uint64_t cluster;
};

static struct disk disk_new(unsigned version, unsigned bits)
{
	struct disk d = { .cluster = (uint64_t)1 << bits, .len = NR_CLUSTERS << bits };

	d.p = calloc(1, d.len);
	assert_non_null(d.p);
	memcpy(d.p, QCOW2_MAGIC, 4);
	be32_store(d.p + 4, version);
	be32_store(d.p + 20, bits);
	be64_store(d.p + 24, MIB);
	be32_store(d.p + 36, 1);
	be64_store(d.p + 40, 2 * d.cluster);
	be64_store(d.p + 48, d.cluster);
	be32_store(d.p + 56, 1);
	if (version >= 3) {
		be32_store(d.p + 96, 4);
		be32_store(d.p + 100, 104);
	}
	be64_store(d.p + 2 * d.cluster, QCOW2_COPIED | 3 * d.cluster);
	for (unsigned i = 8; i < NR_CLUSTERS; i++)
		memset(d.p + i * d.cluster, (int)i, d.cluster);
	return d;
}

static struct disk plain_disk(void)
{
	return disk_new(3, 12);
}

static struct disk extended_disk(void)
{
	struct disk d = disk_new(3, 14);

	be64_store(d.p + 72, QCOW2_EXTENDED_L2);
	return d;
}

static void set_l2(struct disk *d, unsigned table, unsigned i, uint64_t entry)
{
	be64_store(d->p + table * d->cluster + i * 8, entry);
}

static void set_extended(struct disk *d, unsigned i, uint64_t entry, uint64_t bitmap)
{
	set_l2(d, 3, 2 * i, entry);
	set_l2(d, 3, 2 * i + 1, bitmap);
}

/* One snapshot whose L2 table is cluster `l2`, with so much VM state. */
static void add_snapshot(struct disk *d, unsigned l2, uint64_t vm_state)
{
	uint8_t *s = d->p + 4 * d->cluster;

	be32_store(d->p + 60, 1);
	be64_store(d->p + 64, 4 * d->cluster);
	be64_store(s, 5 * d->cluster);
	be32_store(s + 8, 2);
	be32_store(s + 36, 16);
	be64_store(s + 40, vm_state);
	be64_store(s + 48, MIB);
	be64_store(d->p + 5 * d->cluster, l2 * d->cluster);
}

static struct image *opened(struct disk *d, const struct image_opener *opener)
{
	struct image *img = must_open(file_of(d->p, d->len), "qcow2", opener);

	free(d->p);
	return img;
}

static void expect_refused_by(struct disk *d, const struct image_opener *opener, enum err_kind kind, const char *text)
{
	struct err err = ERR_INIT;
	struct image *img = image_open(file_of(d->p, d->len), "test.img", image_format_by_name("qcow2"), opener, NULL, &err);

	free(d->p);
	if (img)
		fail_msg("opened; wanted '%s'", text);
	expect_error(&err, kind, text);
}

static void expect_refused(struct disk d, const char *text)
{
	expect_refused_by(&d, NULL, ERR_FORMAT, text);
}

static void expect_unsupported(struct disk d, const char *text)
{
	expect_refused_by(&d, NULL, ERR_UNSUPPORTED, text);
}

/* The image opens, but what is at `at` cannot be told. */
static void expect_broken_at(struct disk d, uint64_t at, const char *text)
{
	struct image *img = opened(&d, NULL);
	struct err err = ERR_INIT;
	struct extent ext;

	assert_int_equal(image_next_extent(img, at, &ext, &err), -1);
	expect_error(&err, ERR_FORMAT, text);
	image_close(img);
}

static struct disk with32(struct disk d, size_t at, uint32_t v)
{
	be32_store(d.p + at, v);
	return d;
}

static struct disk with64(struct disk d, size_t at, uint64_t v)
{
	be64_store(d.p + at, v);
	return d;
}

static struct disk with_l2(struct disk d, unsigned i, uint64_t entry)
{
	set_l2(&d, 3, i, entry);
	return d;
}

/* ---- what is there ---- */

static void shows_data_zeros_and_holes(void **state)
{
	struct disk d = plain_disk();
	struct image *img;
	struct err err;
	struct extent ext;

	(void)state;
	set_l2(&d, 3, 1, QCOW2_COPIED | 9 * d.cluster);
	set_l2(&d, 3, 2, QCOW2_ZERO);
	set_l2(&d, 3, 3, QCOW2_ZERO | 10 * d.cluster);
	img = opened(&d, NULL);
	assert_int_equal(img->size, MIB);
	assert_int_equal(img->span, MIB);
	assert_int_equal(img->layer, 2 * MIB);
	expect_extent(img, 0, 4096, EXTENT_HOLE);
	expect_extent(img, 4096, 4096, EXTENT_DATA);
	expect_extent(img, 8192, 4096, EXTENT_ZERO);
	assert_int_equal(image_next_extent(img, 12288, &ext, &err), 0);
	assert_true(ext.preallocated);
	expect_extent(img, 16384, MIB - 16384, EXTENT_HOLE);
	expect_guest_bytes(img, 4096, 4096, 9);
	expect_guest_bytes(img, 8192, 8192, 0);
	image_close(img);
}

static void joins_clusters_that_follow_each_other_in_the_file_only(void **state)
{
	struct disk d = plain_disk();
	struct image *img;

	(void)state;
	set_l2(&d, 3, 0, 9 * d.cluster);
	set_l2(&d, 3, 1, 10 * d.cluster);
	set_l2(&d, 3, 2, 12 * d.cluster);
	set_l2(&d, 3, 3, 11 * d.cluster);
	img = opened(&d, NULL);
	expect_extent(img, 0, 8192, EXTENT_DATA);
	expect_extent(img, 8192, 4096, EXTENT_DATA);
	expect_extent(img, 12288, 4096, EXTENT_DATA);
	expect_extent(img, 100, 8092, EXTENT_DATA);
	image_close(img);
}

static void a_size_that_is_not_whole_sectors_is_rounded_down_as_qemu_does(void **state)
{
	struct disk d = with64(plain_disk(), 24, 5000);
	struct image *img = opened(&d, NULL);

	(void)state;
	assert_int_equal(img->size, 4608);
	assert_int_equal(img->span, 4608);
	expect_extent(img, 0, 4608, EXTENT_HOLE);
	image_close(img);
}

static void a_cluster_past_the_end_of_the_file_reads_as_zeros(void **state)
{
	struct disk d = with_l2(plain_disk(), 0, 100 * 4096);
	struct image *img;

	(void)state;
	set_l2(&d, 3, 1, 23 * d.cluster);
	d.len -= 4000; /* the last cluster is cut */
	img = opened(&d, NULL);
	expect_guest_bytes(img, 0, 4096, 0);
	expect_guest_bytes(img, 4096, 96, 23);
	expect_guest_bytes(img, 4096 + 96, 4000, 0);
	image_close(img);
}

static void a_file_that_shrinks_is_told(void **state)
{
	struct disk d = with_l2(plain_disk(), 0, 23 * 4096);
	int fd = file_of(d.p, d.len);
	struct image *img = must_open(fd, "qcow2", NULL);
	struct err err = ERR_INIT;
	uint8_t buf[4096];

	(void)state;
	assert_int_equal(ftruncate(fd, 23 * 4096 + 100), 0);
	assert_int_equal(image_read_guest(img, 0, buf, sizeof(buf), &err), -1);
	expect_error(&err, ERR_STALE, "was cut");
	image_close(img);
	free(d.p);
}

static void an_l2_table_that_is_not_there_is_passed_at_once(void **state)
{
	struct disk d = with64(plain_disk(), 24, 512 * MIB);
	struct image *img;

	(void)state;
	be32_store(d.p + 36, 256);
	img = opened(&d, NULL);
	expect_extent(img, 0, 512 * MIB, EXTENT_HOLE);
	image_close(img);
}

static void tells_what_it_knows_of_an_image(void **state)
{
	struct disk d = with64(with64(plain_disk(), 72, QCOW2_DIRTY | QCOW2_CORRUPT), 80, QCOW2_LAZY_REFCOUNTS);
	struct image *img;

	(void)state;
	be32_store(d.p + 104, QCOW2_EXT_BITMAPS);
	be32_store(d.p + 108, 24);
	be32_store(d.p + 112, 3);
	be32_store(d.p + 136, QCOW2_EXT_BACKING_FORMAT);
	be32_store(d.p + 140, 3);
	memcpy(d.p + 144, "raw", 3);
	be64_store(d.p + 8, 200);
	be32_store(d.p + 16, 8);
	memcpy(d.p + 200, "base.img", 8);
	img = opened(&d, NULL);
	assert_true(img->info.dirty && img->info.corrupt && !img->info.encrypted);
	assert_int_equal(img->info.nr_bitmaps, 3);
	assert_int_equal(img->info.cluster_size, 4096);
	assert_string_equal(img->info.backing_name, "base.img");
	assert_string_equal(img->info.backing_format, "raw");
	assert_string_equal(img->info.features, "lazy refcounts, bitmaps, dirty, marked corrupt");
	image_close(img);
}

/* ---- extended L2 ---- */

static void shows_subclusters(void **state)
{
	struct disk d = extended_disk();
	struct image *img;

	(void)state;
	set_extended(&d, 0, 9 * d.cluster, 0x80000003u | (uint64_t)0x0c << 32);
	set_extended(&d, 1, 0, (uint64_t)UINT32_MAX << 32);
	img = opened(&d, NULL);
	expect_extent(img, 0, 1024, EXTENT_DATA);
	expect_extent(img, 512, 512, EXTENT_DATA);
	expect_extent(img, 1024, 1024, EXTENT_ZERO);
	expect_extent(img, 2048, 27 * 512, EXTENT_HOLE);
	expect_extent(img, 31 * 512, 512, EXTENT_DATA);
	expect_extent(img, 16384, 16384, EXTENT_ZERO);
	expect_guest_bytes(img, 31 * 512, 512, 9);
	image_close(img);
}

static void l2_tables_larger_than_a_piece_are_read_to_their_end(void **state)
{
	struct disk d = disk_new(3, 17);
	uint64_t at = 5000 * d.cluster;
	struct image *img;

	(void)state;
	be64_store(d.p + 24, 8192 * d.cluster);
	be64_store(d.p + 72, QCOW2_EXTENDED_L2);
	set_extended(&d, 5000, 9 * d.cluster, 2);
	img = opened(&d, NULL);
	expect_extent(img, 0, at + 4096, EXTENT_HOLE);
	expect_extent(img, at + 4096, 4096, EXTENT_DATA);
	expect_extent(img, at + 8192, 8192 * (uint64_t)131072 - at - 8192, EXTENT_HOLE);
	expect_guest_bytes(img, at + 4096, 4096, 9);
	image_close(img);
}

static void refuses_subclusters_that_make_no_sense(void **state)
{
	struct disk both = extended_disk(), nowhere = extended_disk();

	(void)state;
	set_extended(&both, 0, 9 * both.cluster, 1 | (uint64_t)1 << 32);
	expect_broken_at(both, 0, "cluster at guest offset 0: subclusters that both have data and read as zeros");
	set_extended(&nowhere, 2, 0, 1);
	expect_broken_at(nowhere, 2 * 16384 + 600,
			 "cluster at guest offset 32768: subclusters that have data without a host");
}

static void refuses_extended_l2_in_small_clusters(void **state)
{
	(void)state;
	expect_refused(with64(disk_new(3, 13), 72, QCOW2_EXTENDED_L2), "too small for extended L2");
}

/* ---- compression ---- */

/* The descriptor of compressed data of len bytes at a file offset. */
static uint64_t packed_at(uint64_t offset, size_t len)
{
	uint64_t sectors = (offset + len - 1) / 512 - offset / 512;

	return QCOW2_COMPRESSED | sectors << (70 - 12) | offset;
}

/* A cluster of 'z' as a stored deflate block, at an odd place. */
static struct disk deflated_disk(void)
{
	struct disk d = plain_disk();
	static const uint8_t head[] = { 0x01, 0x00, 0x10, 0xff, 0xef };

	memcpy(d.p + 9 * d.cluster + 77, head, sizeof(head));
	memset(d.p + 9 * d.cluster + 77 + sizeof(head), 'z', 4096);
	set_l2(&d, 3, 2, packed_at(9 * d.cluster + 77, sizeof(head) + 4096));
	return d;
}

static void reads_deflated_clusters(void **state)
{
	struct disk d = deflated_disk();
	struct image *img = opened(&d, NULL);
	struct err err = ERR_INIT;
	struct extent ext;
	uint8_t buf[10] = "";

	(void)state;
	expect_extent(img, 8192, 4096, EXTENT_PACKED);
	expect_guest_bytes(img, 8192, 4096, 'z');
	expect_guest_bytes(img, 4096, 4096, 0);
	assert_int_equal(image_next_extent(img, 9000, &ext, &err), 0);
	assert_int_equal(image_read_extent(&ext, 9005, buf, 10, &err), 0);
	assert_memory_equal(buf, "zzzzzzzzzz", 10);
	image_close(img);
}

static void expect_unreadable(struct disk d, const char *text)
{
	struct image *img = opened(&d, NULL);
	struct err err = ERR_INIT;
	uint8_t buf[4096];

	assert_int_equal(image_read_guest(img, 8192, buf, sizeof(buf), &err), -1);
	expect_error(&err, ERR_FORMAT, text);
	image_close(img);
}

static void refuses_broken_deflate_data(void **state)
{
	struct disk broken = deflated_disk(), early = deflated_disk(), nowhere = deflated_disk();

	(void)state;
	broken.p[9 * 4096 + 79] ^= 1;
	expect_unreadable(broken, "compressed cluster at offset 8192: compressed data is broken");
	memcpy(early.p + 9 * 4096 + 77, "\x01\x01\x00\xfe\xff", 5);
	expect_unreadable(early, "ends early, 4095 bytes short");
	set_l2(&nowhere, 3, 2, packed_at(100 * 4096, 600));
	expect_unreadable(nowhere, "past the end of the file");
}

/* zstd frames: magic, header (single segment, size in two bytes less 256), one raw block */
static size_t put_frame(uint8_t *p, size_t len, uint8_t byte)
{
	static const uint8_t magic[] = { 0x28, 0xb5, 0x2f, 0xfd, 0x60 };

	memcpy(p, magic, sizeof(magic));
	le16_store(p + 5, (uint16_t)(len - 256));
	le32_store(p + 7, (uint32_t)len << 3 | 1);
	memset(p + 10, byte, len);
	return 10 + len;
}

static struct disk zstd_disk(void)
{
	struct disk d = with64(plain_disk(), 72, QCOW2_COMPRESSION);

	be32_store(d.p + 100, 112);
	d.p[104] = 1;
	set_l2(&d, 3, 2, packed_at(9 * d.cluster + 77, 5000));
	return d;
}

static void reads_zstd_clusters(void **state)
{
	struct disk d = zstd_disk();
	struct image *img;

	(void)state;
	put_frame(d.p + 9 * d.cluster + 77, 4096, 's');
	img = opened(&d, NULL);
	assert_string_equal(img->info.features, "zstd");
	expect_guest_bytes(img, 8192, 4096, 's');
	image_close(img);
}

static void reads_zstd_clusters_of_several_frames(void **state)
{
	struct disk d = zstd_disk();
	uint8_t *p = d.p + 9 * d.cluster + 77;
	struct image *img;

	(void)state;
	memcpy(p, "\x50\x2a\x4d\x18\x03\0\0\0abc", 11); /* a frame to be skipped */
	p += 11;
	p += put_frame(p, 1000, 'a');
	put_frame(p, 3096, 'b');
	img = opened(&d, NULL);
	expect_guest_bytes(img, 8192, 1000, 'a');
	expect_guest_bytes(img, 9192, 3096, 'b');
	image_close(img);
}

static void refuses_zstd_data_of_more_or_less_than_a_cluster(void **state)
{
	struct disk more = zstd_disk(), less = zstd_disk();

	(void)state;
	put_frame(more.p + 9 * more.cluster + 77, 4097, 's');
	expect_unreadable(more, "compressed data is broken");
	put_frame(less.p + 9 * less.cluster + 77, 4095, 's');
	expect_unreadable(less, "compressed data is broken");
}

static void refuses_a_compression_type_that_contradicts_its_feature_bit(void **state)
{
	struct disk bit = with64(plain_disk(), 72, QCOW2_COMPRESSION), type = plain_disk(), unknown = zstd_disk();

	(void)state;
	expect_refused(bit, "contradicts the compression feature bit");
	be32_store(type.p + 100, 112);
	type.p[104] = 1;
	expect_refused(type, "contradicts the compression feature bit");
	unknown.p[104] = 2;
	expect_unsupported(unknown, "compression type 2 is not known");
}

/* ---- snapshots ---- */

static void snapshots_are_layers_of_what_is_not_yet_there(void **state)
{
	struct disk d = plain_disk();
	struct image *img;

	(void)state;
	set_l2(&d, 3, 0, 8 * d.cluster);
	set_l2(&d, 3, 1, 9 * d.cluster);
	set_l2(&d, 3, 2, QCOW2_ZERO);
	set_l2(&d, 6, 0, 8 * d.cluster);  /* the same */
	set_l2(&d, 6, 1, 10 * d.cluster); /* another */
	set_l2(&d, 6, 2, QCOW2_ZERO);
	set_l2(&d, 6, 3, 9 * d.cluster); /* the same at another place is another */
	add_snapshot(&d, 6, 0);
	img = opened(&d, NULL);
	assert_int_equal(img->info.nr_snapshots, 1);
	assert_int_equal(img->layer, 2 * MIB);
	assert_int_equal(img->span, 4 * MIB);
	expect_extent(img, 12288, 2 * MIB - 12288, EXTENT_HOLE); /* up to the layer's end */
	expect_extent(img, 2 * MIB, 4096, EXTENT_HOLE);
	expect_extent(img, 2 * MIB + 4096, 4096, EXTENT_DATA);
	expect_extent(img, 2 * MIB + 8192, 4096, EXTENT_HOLE);
	expect_extent(img, 2 * MIB + 12288, 4096, EXTENT_DATA);
	expect_extent(img, 2 * MIB + 16384, 2 * MIB - 16384, EXTENT_HOLE);
	image_close(img);
}

static void what_any_earlier_layer_holds_is_not_stored_again(void **state)
{
	struct disk d = plain_disk();
	uint8_t *s = d.p + 4 * d.cluster;
	struct image *img;

	(void)state;
	add_snapshot(&d, 6, 0);
	be32_store(d.p + 60, 3);
	for (unsigned i = 1; i < 3; i++) {
		memcpy(s + i * 56, s, 56);
		be64_store(s + i * 56, (5 + 8 * i) * d.cluster); /* L1 tables 13 and 21 */
		memset(d.p + (5 + 8 * i) * d.cluster, 0, d.cluster);
		be64_store(d.p + (5 + 8 * i) * d.cluster, (6 + 8 * i) * d.cluster); /* L2 tables 14 and 22 */
		memset(d.p + (6 + 8 * i) * d.cluster, 0, d.cluster);
		set_l2(&d, 6 + 8 * i, 0, 9 * d.cluster);
		set_l2(&d, 6 + 8 * i, i, (9 + i) * d.cluster);
	}
	set_l2(&d, 3, 0, 8 * d.cluster);
	set_l2(&d, 6, 0, 9 * d.cluster);
	img = opened(&d, NULL);
	assert_int_equal(img->span, 8 * MIB);
	expect_extent(img, 2 * MIB, 4096, EXTENT_DATA);
	expect_extent(img, 4 * MIB, 4096, EXTENT_HOLE);
	expect_extent(img, 4 * MIB + 4096, 4096, EXTENT_DATA);
	expect_extent(img, 6 * MIB, 8192, EXTENT_HOLE);
	expect_extent(img, 6 * MIB + 8192, 4096, EXTENT_DATA);
	image_close(img);
}

static void data_under_a_later_zero_flag_belongs_to_the_snapshot(void **state)
{
	struct disk d = plain_disk();
	struct image *img;

	(void)state;
	set_l2(&d, 3, 0, QCOW2_ZERO | 8 * d.cluster);
	set_l2(&d, 6, 0, 8 * d.cluster);
	add_snapshot(&d, 6, 0);
	img = opened(&d, NULL);
	expect_extent(img, 0, 4096, EXTENT_ZERO);
	expect_extent(img, 2 * MIB, 4096, EXTENT_DATA);
	image_close(img);
}

static void a_snapshot_with_the_same_l2_table_is_a_hole(void **state)
{
	struct disk d = with_l2(plain_disk(), 0, 8 * 4096);
	struct image *img;

	(void)state;
	add_snapshot(&d, 3, 0);
	img = opened(&d, NULL);
	expect_extent(img, 0, 4096, EXTENT_DATA);
	expect_extent(img, 2 * MIB, 2 * MIB, EXTENT_HOLE);
	image_close(img);
}

static void vm_state_lies_behind_the_disk(void **state)
{
	struct disk d = with_l2(plain_disk(), 0, 8 * 4096);
	struct image *img;

	(void)state;
	add_snapshot(&d, 3, 10000);
	be64_store(d.p + 5 * d.cluster + 8, 6 * d.cluster);
	set_l2(&d, 6, 0, 9 * d.cluster);
	img = opened(&d, NULL);
	assert_int_equal(img->layer, 4 * MIB); /* 2 MiB are mapped by the first L1 entry, then 10000 bytes */
	expect_extent(img, 4 * MIB + 2 * MIB, 4096, EXTENT_DATA);
	image_close(img);
}

/* All of it, whatever the disk has of it now. */
static void a_snapshot_can_be_shown_as_the_disk(void **state)
{
	struct disk d = plain_disk();
	struct image_snapshot s;
	struct err err = ERR_INIT;
	struct image *img;

	(void)state;
	set_l2(&d, 3, 0, 8 * d.cluster);
	set_l2(&d, 3, 1, 9 * d.cluster);
	set_l2(&d, 6, 0, 8 * d.cluster);
	set_l2(&d, 6, 1, 10 * d.cluster);
	add_snapshot(&d, 6, 0);
	be64_store(d.p + 4 * d.cluster + 48, MIB + 8192 + 100); /* a larger disk */
	img = opened(&d, NULL);
	assert_int_equal(image_show_snapshot(img, 2, &s, &err), -1);
	expect_error(&err, ERR_USAGE, "no internal snapshot 2");
	assert_int_equal(image_show_snapshot(img, 0, &s, NULL), -1);
	assert_int_equal(image_show_snapshot(img, 1, &s, NULL), 0);
	assert_int_equal(s.disk_size, MIB + 8192 + 100);
	assert_int_equal(img->size, MIB + 8192);
	assert_int_equal(img->span, img->size);
	expect_guest_bytes(img, 0, 4096, 8);
	expect_guest_bytes(img, 4096, 4096, 10);
	expect_guest_bytes(img, 8192, MIB, 0);
	image_close(img);
}

static void a_snapshot_of_an_impossible_size_is_not_shown(void **state)
{
	struct disk d = plain_disk();
	struct image_snapshot s;
	struct err err = ERR_INIT;
	struct image *img;

	(void)state;
	add_snapshot(&d, 6, 0);
	be64_store(d.p + 4 * d.cluster + 48, UINT64_MAX);
	img = opened(&d, NULL);
	assert_int_equal(image_show_snapshot(img, 1, &s, &err), -1);
	expect_error(&err, ERR_UNSUPPORTED, "spans 4 PiB or more");
	image_close(img);
}

static void refuses_broken_snapshots(void **state)
{
	struct disk d = plain_disk();
	uint64_t s = 4 * d.cluster;

	(void)state;
	add_snapshot(&d, 6, 0);
	expect_refused(with64(d, s, 5 * 4096 + 512), "snapshot 1: L1 table at offset 20992 is not cluster aligned");
	d = plain_disk();
	add_snapshot(&d, 6, 0);
	expect_refused(with64(d, s, 24 * 4096), "snapshot 1: L1 table ends past the end of the file");
	d = plain_disk();
	add_snapshot(&d, 6, 0);
	expect_refused(with32(d, s + 8, UINT32_MAX), "snapshot 1: L1 table of 34359738360 bytes is too large");
	d = plain_disk();
	add_snapshot(&d, 6, 0);
	expect_refused(with32(d, s + 36, 2000), "snapshot 1: extra data of 2000 bytes is too large");
	d = plain_disk();
	add_snapshot(&d, 6, 0);
	expect_refused(with64(d, 64, 24 * 4096), "snapshot table ends past the end of the file");
	d = plain_disk();
	add_snapshot(&d, 6, 0);
	expect_refused(with64(d, 64, 4 * 4096 + 8), "snapshot table at offset 16392 is not cluster aligned");
	expect_refused(with32(plain_disk(), 60, 65537), "65537 snapshots are more than 65536");
}

static void layers_together_stay_below_four_pib(void **state)
{
	struct disk d = disk_new(3, 21);
	uint64_t huge = (uint64_t)5 << 49; /* five times 2^49 fit once below 2^52, not twice */

	(void)state;
	be64_store(d.p + 24, huge);
	be32_store(d.p + 36, (uint32_t)(huge >> 39));
	add_snapshot(&d, 6, 0);
	expect_unsupported(d, "span 4 PiB or more");
	d = disk_new(3, 21);
	be64_store(d.p + 24, (uint64_t)1 << 51);
	be32_store(d.p + 36, 1 << 12);
	add_snapshot(&d, 6, 0);
	be32_store(d.p + 60, (1 << 13) - 1); /* 2^64 bytes */
	for (size_t i = 1; i < (1 << 13) - 1; i++)
		memcpy(d.p + 4 * d.cluster + i * 56, d.p + 4 * d.cluster, 56);
	expect_unsupported(d, "span 4 PiB or more");
	d = disk_new(3, 21);
	be64_store(d.p + 24, (uint64_t)1 << 52);
	be32_store(d.p + 36, 1 << 13);
	expect_unsupported(d, "4 PiB or more");
}

/* ---- other files ---- */

struct data_file {
	int fd;
};

static int open_data(void *ctx, enum image_role role, const char *name, const char *from, char *ret_path,
		     struct err *err)
{
	struct data_file *f = ctx;

	assert_int_equal(role, IMAGE_DATA_FILE);
	assert_string_equal(name, "data.raw");
	assert_string_equal(from, "test.img");
	snprintf(ret_path, PATH_MAX, "data.raw");
	return f->fd >= 0 ? f->fd : err_set(err, ERR_REFUSED, "not in the roots");
}

static struct disk data_file_disk(void)
{
	struct disk d = with64(plain_disk(), 72, QCOW2_DATA_FILE);

	be32_store(d.p + 104, QCOW2_EXT_DATA_FILE);
	be32_store(d.p + 108, 8);
	memcpy(d.p + 112, "data.raw", 8);
	set_l2(&d, 3, 0, QCOW2_COPIED);
	set_l2(&d, 3, 1, QCOW2_COPIED | 4096);
	return d;
}

static void reads_an_external_data_file(void **state)
{
	char bytes[5000];
	struct data_file f = { file_of(memset(bytes, 'd', sizeof(bytes)), sizeof(bytes)) };
	struct image_opener opener = { .open = open_data, .ctx = &f };
	struct disk d = data_file_disk();
	struct image *img = opened(&d, &opener);

	(void)state;
	assert_string_equal(img->parts[0]->path, "data.raw");
	assert_int_equal(img->parts[0]->size, 5000);
	expect_extent(img, 0, 8192, EXTENT_DATA);
	expect_guest_bytes(img, 0, 5000, 'd');
	expect_guest_bytes(img, 5000, 8192, 0);
	image_close(img);
}

static void refuses_clusters_that_are_elsewhere_in_the_data_file(void **state)
{
	struct data_file f = { file_of("", 0) };
	struct image_opener opener = { .open = open_data, .ctx = &f };
	struct disk d = data_file_disk();
	struct err err = ERR_INIT;
	struct image *img;
	struct extent ext;

	(void)state;
	set_l2(&d, 3, 2, QCOW2_COPIED | 4096);
	set_l2(&d, 3, 3, packed_at(4096, 100));
	img = opened(&d, &opener);
	assert_int_equal(image_next_extent(img, 8192, &ext, &err), -1);
	expect_error(&err, ERR_FORMAT, "cluster at guest offset 8192 is at offset 4096 of the data file");
	assert_int_equal(image_next_extent(img, 12288, &ext, &err), -1);
	expect_error(&err, ERR_FORMAT, "compressed cluster at guest offset 12288");
	image_close(img);
}

static void a_data_file_that_policy_refuses_is_named(void **state)
{
	struct data_file f = { -1 };
	struct image_opener opener = { .open = open_data, .ctx = &f };
	struct disk d = data_file_disk(), unnamed = data_file_disk(), snapshots = data_file_disk();

	(void)state;
	expect_refused_by(&d, &opener, ERR_REFUSED, "external data file 'data.raw': not in the roots");
	d = data_file_disk();
	expect_refused_by(&d, NULL, ERR_REFUSED, "external data file 'data.raw': names inside the image are not followed");
	be32_store(unnamed.p + 104, 1);
	expect_unsupported(unnamed, "in an external file that the image does not name");
	add_snapshot(&snapshots, 6, 0);
	expect_refused(snapshots, "external data file has internal snapshots");
}

static void an_encrypted_image_shows_its_stored_bytes_only(void **state)
{
	struct disk d = with32(with_l2(plain_disk(), 1, 9 * 4096), 32, QCOW2_CRYPT_LUKS);
	struct image *img = opened(&d, NULL);
	struct err err = ERR_INIT;
	struct extent ext;
	uint8_t byte;

	(void)state;
	assert_true(img->info.encrypted);
	assert_int_equal(image_next_extent(img, 4096, &ext, &err), 0);
	assert_int_equal(image_read_extent(&ext, 4096, &byte, 1, &err), 0);
	assert_int_equal(byte, 9);
	assert_int_equal(image_read_guest(img, 4096, &byte, 1, &err), -1);
	expect_error(&err, ERR_UNSUPPORTED, "'test.img' is encrypted");
	image_close(img);
	expect_unsupported(with32(plain_disk(), 32, 3), "encryption method 3 is not known");
}

/* ---- what is broken ---- */

static void refuses_a_header_cut_anywhere(void **state)
{
	(void)state;
	for (size_t len = 0; len < 104; len++) {
		struct disk d = plain_disk();

		d.len = len;
		expect_refused(d, len < 72 ? "the file ends inside the qcow2 header" : "ends");
	}
}

static void refuses_a_file_cut_anywhere_in_its_tables(void **state)
{
	(void)state;
	for (size_t len = 104; len < 2 * 4096 + 8; len += 8) {
		struct disk d = plain_disk();

		d.len = len;
		expect_refused(d, "L1 table ends past the end of the file");
	}
	for (size_t len = 3 * 4096; len < 4 * 4096; len += 256) {
		struct disk d = plain_disk();

		d.len = len;
		expect_broken_at(d, 0, "L2 table at offset 12288 ends past the end of the file");
	}
}

static void refuses_header_fields_that_make_no_sense(void **state)
{
	(void)state;
	expect_refused(with32(plain_disk(), 0, 0x514649fa), "no qcow2 header");
	expect_unsupported(with32(plain_disk(), 4, 1), "qcow2 version 1 is not known");
	expect_unsupported(with32(plain_disk(), 4, 4), "qcow2 version 4 is not known");
	expect_refused(with32(plain_disk(), 20, 8), "cluster size 2^8");
	expect_refused(with32(plain_disk(), 20, 22), "cluster size 2^22");
	expect_refused(with32(plain_disk(), 20, UINT32_MAX), "cluster size");
	expect_refused(with32(plain_disk(), 100, 96), "header length 96");
	expect_refused(with32(plain_disk(), 100, 108), "header length 108");
	expect_refused(with32(plain_disk(), 100, 4104), "header length 4104 is more than the first cluster");
	expect_refused(with32(plain_disk(), 96, 7), "refcounts of 2^7 bits");
	expect_refused(with32(plain_disk(), 56, 0), "no refcount table");
	expect_refused(with32(plain_disk(), 56, UINT32_MAX), "refcount table of 17592186040320 bytes is too large");
	expect_refused(with64(plain_disk(), 48, 4097), "refcount table at offset 4097 is not cluster aligned");
	expect_refused(with64(plain_disk(), 48, (uint64_t)1 << 63),
		       "refcount table at offset 9223372036854775808 is past");
}

static void refuses_l1_tables_that_make_no_sense(void **state)
{
	(void)state;
	expect_refused(with32(plain_disk(), 36, 0), "L1 table is too small for a disk of 1048576 bytes");
	expect_refused(with64(plain_disk(), 24, UINT64_MAX), "L1 table is too small");
	expect_refused(with32(plain_disk(), 36, 4 * MIB + 1), "L1 table of 33554440 bytes is too large");
	expect_refused(with64(plain_disk(), 40, 2 * 4096 + 8), "L1 table at offset 8200 is not cluster aligned");
	expect_refused(with64(plain_disk(), 40, NR_CLUSTERS * 4096), "L1 table ends past the end of the file");
	expect_refused(with64(plain_disk(), 40, UINT64_MAX - 4095), "L1 table at offset 18446744073709547520 is past");
}

static void refuses_tables_and_clusters_that_point_nowhere(void **state)
{
	(void)state;
	expect_broken_at(with64(plain_disk(), 2 * 4096, 3 * 4096 + 512), 0,
			 "L2 table at offset 12800 is not cluster aligned");
	expect_broken_at(with64(plain_disk(), 2 * 4096, QCOW2_OFFSET_MASK & ~4095ull), 0,
			 "ends past the end of the file");
	expect_broken_at(with_l2(plain_disk(), 0, 9 * 4096 + 512), 5,
			 "cluster at guest offset 0: host offset 37376 is not aligned");
	expect_broken_at(with_l2(disk_new(2, 12), 1, QCOW2_ZERO), 4096, "zero cluster in a version 2 image");
}

static void what_is_broken_further_on_does_not_hide_what_is_before(void **state)
{
	struct disk d = with_l2(plain_disk(), 1, 9 * 4096 + 512);
	struct image *img;

	(void)state;
	set_l2(&d, 3, 0, 8 * d.cluster);
	img = opened(&d, NULL);
	expect_extent(img, 0, 4096, EXTENT_DATA);
	image_close(img);
}

static void names_every_unknown_feature_by_its_bit(void **state)
{
	(void)state;
	for (unsigned bit = 5; bit < 64; bit++) {
		char text[64];

		snprintf(text, sizeof(text), "incompatible feature bit %u,", bit);
		expect_unsupported(with64(plain_disk(), 72, (uint64_t)1 << bit), text);
	}
}

static void names_unknown_features_as_the_image_does(void **state)
{
	struct disk d = with64(plain_disk(), 72, (uint64_t)1 << 7);

	(void)state;
	be32_store(d.p + 104, QCOW2_EXT_FEATURE_NAMES);
	be32_store(d.p + 108, 96);
	memcpy(d.p + 112, "\0\7time \x1b[31m travel", 20);
	memcpy(d.p + 160, "\1\7wrong type", 12);
	expect_unsupported(d, "feature 'time ?[31m travel' (incompatible bit 7)");
}

static void unknown_extensions_and_compatible_features_are_ignored(void **state)
{
	struct disk d = with64(with64(plain_disk(), 80, UINT64_MAX), 88, ~(uint64_t)3);

	(void)state;
	be32_store(d.p + 104, 0x12345678);
	be32_store(d.p + 108, 5);
	be32_store(d.p + 120, QCOW2_EXT_BACKING_FORMAT);
	be32_store(d.p + 124, 5);
	memcpy(d.p + 128, "qcow2", 5);
	image_close(opened(&d, NULL));
}

static void the_backing_name_is_no_extension(void **state)
{
	struct disk d = with32(with64(plain_disk(), 8, 104), 16, 12);
	struct image *img;

	(void)state;
	memcpy(d.p + 104, "/base/a.img2", 12);
	img = opened(&d, NULL);
	assert_string_equal(img->info.backing_name, "/base/a.img2");
	image_close(img);
}

static struct disk with_extension(uint32_t type, uint32_t len)
{
	return with32(with32(plain_disk(), 104, type), 108, len);
}

static void refuses_extensions_that_make_no_sense(void **state)
{
	(void)state;
	expect_refused(with_extension(0x12345678, 4096 - 111), "header extension 0x12345678 of 3985 bytes leaves");
	expect_refused(with_extension(0x12345678, UINT32_MAX), "leaves the extension area");
	expect_refused(with_extension(QCOW2_EXT_BACKING_FORMAT, 32), "backing format name of 32 bytes is too long");
	expect_refused(with_extension(QCOW2_EXT_BACKING_FORMAT, 4), "backing format name has a zero byte in it");
	expect_refused(with_extension(QCOW2_EXT_DATA_FILE, 1024), "data file name of 1024 bytes is too long");
	expect_refused(with_extension(QCOW2_EXT_BITMAPS, 23), "bitmaps extension has 23 bytes");
	expect_refused(with_extension(QCOW2_EXT_BITMAPS, 24), "bitmaps extension counts 0 bitmaps");
	expect_refused(with_extension(QCOW2_EXT_CRYPTO, 8), "encryption header pointer has 8 bytes");
}

static void refuses_backing_names_that_make_no_sense(void **state)
{
	(void)state;
	expect_refused(with32(with64(plain_disk(), 8, 200), 16, 1024), "backing file name of 1024 bytes is too long");
	expect_refused(with32(with64(plain_disk(), 8, 4000), 16, 97), "leaves the first cluster");
	expect_refused(with32(with64(plain_disk(), 8, UINT64_MAX), 16, 1), "leaves the first cluster");
	expect_refused(with32(with64(plain_disk(), 8, 200), 16, 4), "backing file name has a zero byte in it");
}

static void a_read_that_fails_is_told_and_never_taken_for_zeros(void **state)
{
	struct disk d = deflated_disk();
	int nr = 0;

	(void)state;
	set_l2(&d, 3, 1, 10 * d.cluster);
	set_l2(&d, 6, 1, 11 * d.cluster);
	add_snapshot(&d, 6, 5000);
	while (!try_reads(d.p, d.len, nr))
		nr++;
	assert_in_range(nr, 8, 40);
	free(d.p);
}

static void any_damaged_byte_of_the_metadata_is_survived(void **state)
{
	static const uint8_t flips[] = { 0x01, 0x10, 0x80, 0xff };
	struct disk d = deflated_disk();

	(void)state;
	set_l2(&d, 6, 1, 11 * d.cluster);
	add_snapshot(&d, 6, 5000);
	for (size_t at = 0; at < 7 * d.cluster; at += at < 160 || at % d.cluster < 64 ? 1 : 509) {
		for (size_t i = 0; i < sizeof(flips); i++) {
			d.p[at] ^= flips[i];
			try_damaged(d.p, d.len);
			d.p[at] ^= flips[i];
		}
	}
	free(d.p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(shows_data_zeros_and_holes),
		cmocka_unit_test(joins_clusters_that_follow_each_other_in_the_file_only),
		cmocka_unit_test(a_size_that_is_not_whole_sectors_is_rounded_down_as_qemu_does),
		cmocka_unit_test(a_cluster_past_the_end_of_the_file_reads_as_zeros),
		cmocka_unit_test(a_file_that_shrinks_is_told),
		cmocka_unit_test(an_l2_table_that_is_not_there_is_passed_at_once),
		cmocka_unit_test(tells_what_it_knows_of_an_image),
		cmocka_unit_test(shows_subclusters),
		cmocka_unit_test(l2_tables_larger_than_a_piece_are_read_to_their_end),
		cmocka_unit_test(refuses_subclusters_that_make_no_sense),
		cmocka_unit_test(refuses_extended_l2_in_small_clusters),
		cmocka_unit_test(reads_deflated_clusters),
		cmocka_unit_test(refuses_broken_deflate_data),
		cmocka_unit_test(reads_zstd_clusters),
		cmocka_unit_test(reads_zstd_clusters_of_several_frames),
		cmocka_unit_test(refuses_zstd_data_of_more_or_less_than_a_cluster),
		cmocka_unit_test(refuses_a_compression_type_that_contradicts_its_feature_bit),
		cmocka_unit_test(snapshots_are_layers_of_what_is_not_yet_there),
		cmocka_unit_test(what_any_earlier_layer_holds_is_not_stored_again),
		cmocka_unit_test(data_under_a_later_zero_flag_belongs_to_the_snapshot),
		cmocka_unit_test(a_snapshot_with_the_same_l2_table_is_a_hole),
		cmocka_unit_test(vm_state_lies_behind_the_disk),
		cmocka_unit_test(a_snapshot_can_be_shown_as_the_disk),
		cmocka_unit_test(a_snapshot_of_an_impossible_size_is_not_shown),
		cmocka_unit_test(refuses_broken_snapshots),
		cmocka_unit_test(layers_together_stay_below_four_pib),
		cmocka_unit_test(reads_an_external_data_file),
		cmocka_unit_test(refuses_clusters_that_are_elsewhere_in_the_data_file),
		cmocka_unit_test(a_data_file_that_policy_refuses_is_named),
		cmocka_unit_test(an_encrypted_image_shows_its_stored_bytes_only),
		cmocka_unit_test(refuses_a_header_cut_anywhere),
		cmocka_unit_test(refuses_a_file_cut_anywhere_in_its_tables),
		cmocka_unit_test(refuses_header_fields_that_make_no_sense),
		cmocka_unit_test(refuses_l1_tables_that_make_no_sense),
		cmocka_unit_test(refuses_tables_and_clusters_that_point_nowhere),
		cmocka_unit_test(what_is_broken_further_on_does_not_hide_what_is_before),
		cmocka_unit_test(names_every_unknown_feature_by_its_bit),
		cmocka_unit_test(names_unknown_features_as_the_image_does),
		cmocka_unit_test(unknown_extensions_and_compatible_features_are_ignored),
		cmocka_unit_test(the_backing_name_is_no_extension),
		cmocka_unit_test(refuses_extensions_that_make_no_sense),
		cmocka_unit_test(refuses_backing_names_that_make_no_sense),
		cmocka_unit_test(a_read_that_fails_is_told_and_never_taken_for_zeros),
		cmocka_unit_test(any_damaged_byte_of_the_metadata_is_survived),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
