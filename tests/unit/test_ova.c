/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/image/qcow2_format.h"
#include "scanner/image/vdi_format.h"
#include "tests/unit/tar_help.h"

/* The OVA reader, with archives made here: a descriptor, and small disks of several formats. */

#define CLUSTER 4096
#define NR_CLUSTERS 12
#define QCOW2_LEN (NR_CLUSTERS * CLUSTER)
#define VDI_BLOCK ((size_t)64 << 10)
#define VDI_LEN (4096 + VDI_BLOCK)

/* ---- disks ---- */

/* 1 MiB: cluster 0 is filled with `byte`; cluster 1, compressed, with byte + 1; a snapshot has cluster 2, of byte + 2. */
static void make_qcow2(uint8_t p[QCOW2_LEN], uint8_t byte, bool snapshot)
{
	memset(p, 0, QCOW2_LEN);
	memcpy(p, QCOW2_MAGIC, 4);
	be32_store(p + 4, 3);
	be32_store(p + 20, 12);
	be64_store(p + 24, MIB);
	be32_store(p + 36, 1);
	be64_store(p + 40, 2 * CLUSTER);
	be64_store(p + 48, CLUSTER);
	be32_store(p + 56, 1);
	be32_store(p + 96, 4);
	be32_store(p + 100, 104);
	be64_store(p + 2 * CLUSTER, 3 * CLUSTER);
	be64_store(p + 3 * CLUSTER, 8 * CLUSTER);
	be64_store(p + 3 * CLUSTER + 8, QCOW2_COMPRESSED | (uint64_t)8 << 58 | 9 * CLUSTER);
	memset(p + 8 * CLUSTER, byte, CLUSTER);
	memcpy(p + 9 * CLUSTER, "\1\0\x10\xff\xef", 5); /* a deflate block that is stored: 4096 bytes */
	memset(p + 9 * CLUSTER + 5, byte + 1, CLUSTER);
	memset(p + 11 * CLUSTER, byte + 2, CLUSTER);
	if (!snapshot)
		return;
	be32_store(p + 60, 1);
	be64_store(p + 64, 4 * CLUSTER);
	be64_store(p + 4 * CLUSTER, 5 * CLUSTER);
	be32_store(p + 4 * CLUSTER + 8, 1);
	be64_store(p + 5 * CLUSTER, 6 * CLUSTER);
	be64_store(p + 6 * CLUSTER + 16, 11 * CLUSTER);
}

/* 40 blocks of 64 KiB; block 2 is filled with `byte`, block 3 is zeros. */
static void make_vdi(uint8_t p[VDI_LEN], uint8_t byte)
{
	memset(p, 0, 4096);
	*(struct vdi_header_disk *)p = (struct vdi_header_disk){
		.signature = le32_from(VDI_SIGNATURE),
		.version = le32_from(VDI_VERSION_1_1),
		.header_size = le32_from(400),
		.type = le32_from(VDI_DYNAMIC),
		.map_offset = le32_from(512),
		.data_offset = le32_from(4096),
		.size = le64_from(40 * VDI_BLOCK),
		.block_size = le32_from(VDI_BLOCK),
		.nr_blocks = le32_from(40),
	};
	memset(p + 512, 0xff, 40 * 4);
	le32_store(p + 520, 0);
	le32_store(p + 524, VDI_ZERO);
	memset(p + 4096, byte, VDI_BLOCK);
}

static struct disks {
	uint8_t qcow2[QCOW2_LEN], layered[QCOW2_LEN], vdi[VDI_LEN], raw[8192];
} disks;

static int make_disks(void **state)
{
	(void)state;
	make_qcow2(disks.qcow2, 0x10, false);
	make_qcow2(disks.layered, 0x20, true);
	make_vdi(disks.vdi, 0x30);
	memset(disks.raw, 0x40, sizeof(disks.raw));
	return 0;
}

/* ---- archives ---- */

/* Adds a descriptor of these files, all of them disks; `more` stands in the last File. */
static void add_descriptor(struct archive *a, const char *const *files, const char *more)
{
	char text[8192] = "<Envelope><References>", *p = text + strlen(text);

	for (unsigned i = 0; files[i]; i++)
		p += sprintf(p, "<File ovf:id='file%u' ovf:href='%s' %s/>", i, files[i], files[i + 1] ? "" : more);
	p += sprintf(p, "</References><DiskSection>");
	for (unsigned i = 0; files[i]; i++)
		p += sprintf(p, "<Disk ovf:diskId='d%u' ovf:fileRef='file%u'/>", i, i);
	sprintf(p, "</DiskSection></Envelope>");
	add_file(a, "a.ovf", text, strlen(text));
}
#define FILES(...) ((const char *const[]){ __VA_ARGS__, NULL })

static struct archive with_descriptor(const char *const *files)
{
	struct archive a = archive_new();

	add_descriptor(&a, files, "");
	return a;
}

static struct image *opened(struct archive *a)
{
	struct image *img;

	a->len += 1024;
	img = must_open(file_of(a->p, a->len), NULL, NULL);
	free(a->p);
	assert_string_equal(img->format->name, "ova");
	return img;
}

static void expect_refused(struct archive *a, enum err_kind kind, const char *text)
{
	struct err err = ERR_INIT;
	struct image *img =
		image_open(file_of(a->p, a->len), "test.ova", image_format_by_name("ova"), NULL, NULL, &err);

	free(a->p);
	if (img)
		fail_msg("opened; wanted '%s'", text);
	expect_error(&err, kind, text);
}

static void expect_bytes(struct image *img, uint64_t at, size_t len, uint8_t byte)
{
	struct err err = ERR_INIT;
	struct extent ext;
	uint8_t *buf = malloc(len);

	assert_non_null(buf);
	assert_int_equal(image_next_extent(img, at, &ext, &err), 0);
	if (image_read_extent(&ext, at, buf, len, &err) < 0)
		fail_msg("not read: %s", err.text);
	for (size_t i = 0; i < len; i++)
		assert_int_equal(buf[i], byte);
	free(buf);
}

/* ---- tests ---- */

static void each_disk_is_a_layer(void **state)
{
	struct archive a = with_descriptor(FILES("a.qcow2", "b.vdi", "c.img"));
	uint64_t layer = 4 * MIB; /* of the VDI */
	struct image *img;

	(void)state;
	add_file(&a, "a.qcow2", disks.qcow2, QCOW2_LEN);
	add_file(&a, "b.vdi", disks.vdi, VDI_LEN);
	add_file(&a, "c.img", disks.raw, sizeof(disks.raw));
	img = opened(&a);
	assert_int_equal(img->layer, layer);
	assert_int_equal(img->span, 3 * layer);
	assert_int_equal(img->size, MIB);
	assert_int_equal(img->info.total_size, MIB + 40 * VDI_BLOCK + 8192);
	expect_bytes(img, 0, CLUSTER, 0x10);
	expect_extent(img, CLUSTER, CLUSTER, EXTENT_PACKED);
	expect_bytes(img, CLUSTER, CLUSTER, 0x11);
	expect_extent(img, 2 * CLUSTER, MIB - 2 * CLUSTER, EXTENT_HOLE);
	expect_extent(img, MIB, 3 * MIB, EXTENT_HOLE); /* the disk is smaller than the layer */
	expect_extent(img, layer, 2 * VDI_BLOCK, EXTENT_HOLE);
	expect_bytes(img, layer + 2 * VDI_BLOCK, VDI_BLOCK, 0x30);
	expect_extent(img, layer + 3 * VDI_BLOCK, VDI_BLOCK, EXTENT_ZERO);
	expect_extent(img, layer + 4 * VDI_BLOCK, 36 * VDI_BLOCK, EXTENT_HOLE);
	expect_bytes(img, 2 * layer, 8192, 0x40);
	expect_extent(img, 2 * layer + 8192, layer - 8192, EXTENT_HOLE);
	image_close(img);
}

static void data_lie_in_the_archive(void **state)
{
	struct archive a = with_descriptor(FILES("c.img"));
	struct err err = ERR_INIT;
	struct extent ext;
	struct image *img;
	uint64_t at = a.len + 512;

	(void)state;
	add_file(&a, "c.img", disks.raw, sizeof(disks.raw));
	img = opened(&a);
	assert_int_equal(image_next_extent(img, 512, &ext, &err), 0);
	assert_int_equal(ext.kind, EXTENT_DATA);
	assert_int_equal(ext.len, 8192 - 512);
	assert_int_equal(ext.file_offset, at + 512);
	assert_int_equal(ext.file->fd, img->file.fd);
	assert_ptr_equal(ext.owner, img);
	image_close(img);
}

/* Such a disk has no layers: its addresses end with it. */
static void a_single_disk_spans_its_size(void **state)
{
	struct archive a = with_descriptor(FILES("c.img"));
	struct image *img;

	(void)state;
	add_file(&a, "c.img", disks.raw, sizeof(disks.raw));
	img = opened(&a);
	assert_int_equal(img->size, 8192);
	assert_int_equal(img->span, 8192);
	assert_int_equal(img->layer, 2 * MIB);
	image_close(img);
}

static void the_guest_view_is_the_first_disk(void **state)
{
	struct archive a = with_descriptor(FILES("b.vdi", "a.qcow2"));
	struct image *img;

	(void)state;
	add_file(&a, "a.qcow2", disks.qcow2, QCOW2_LEN);
	add_file(&a, "b.vdi", disks.vdi, VDI_LEN);
	img = opened(&a);
	assert_int_equal(img->size, 40 * VDI_BLOCK); /* the descriptor's first, not the archive's */
	expect_guest_bytes(img, 0, 2 * VDI_BLOCK, 0);
	expect_guest_bytes(img, 2 * VDI_BLOCK, VDI_BLOCK, 0x30);
	expect_guest_bytes(img, 3 * VDI_BLOCK, 37 * VDI_BLOCK, 0);
	image_close(img);
}

static void snapshots_of_a_disk_are_layers_too(void **state)
{
	struct archive a = with_descriptor(FILES("a.vdi", "b.qcow2", "c.img"));
	uint64_t layer = 4 * MIB, inner = 2 * MIB;
	struct image *img;

	(void)state;
	add_file(&a, "a.vdi", disks.vdi, VDI_LEN);
	add_file(&a, "b.qcow2", disks.layered, QCOW2_LEN);
	add_file(&a, "c.img", disks.raw, sizeof(disks.raw));
	img = opened(&a);
	assert_int_equal(img->span, 4 * layer);
	assert_int_equal(img->info.nr_snapshots, 1);
	expect_bytes(img, layer, CLUSTER, 0x20);
	expect_bytes(img, layer + CLUSTER, CLUSTER, 0x21);
	expect_extent(img, layer + inner, layer - inner, EXTENT_HOLE); /* not the snapshot */
	expect_extent(img, 2 * layer, 2 * CLUSTER, EXTENT_HOLE);
	expect_bytes(img, 2 * layer + 2 * CLUSTER, CLUSTER, 0x22);
	expect_bytes(img, 3 * layer, 8192, 0x40);
	image_close(img);
}

static void extents_outlive_the_disk_that_told_them(void **state)
{
	struct archive a = with_descriptor(FILES("a.img", "b.qcow2"));
	struct err err = ERR_INIT;
	struct extent first, second, packed;
	struct image *img;
	uint8_t bytes[512];

	(void)state;
	add_file(&a, "a.img", disks.raw, sizeof(disks.raw));
	add_file(&a, "b.qcow2", disks.qcow2, QCOW2_LEN);
	img = opened(&a);
	assert_int_equal(image_next_extent(img, 2 * MIB, &second, &err), 0);
	assert_int_equal(image_next_extent(img, 2 * MIB + CLUSTER, &packed, &err), 0);
	assert_int_equal(image_next_extent(img, 0, &first, &err), 0);
	assert_int_equal(image_read_extent(&second, 2 * MIB + 8, bytes, sizeof(bytes), &err), 0);
	assert_int_equal(bytes[511], 0x10);
	assert_int_equal(image_read_extent(&packed, 2 * MIB + CLUSTER + 8, bytes, sizeof(bytes), &err), 0);
	assert_int_equal(bytes[511], 0x11);
	assert_int_equal(image_read_extent(&first, 8, bytes, sizeof(bytes), &err), 0);
	assert_int_equal(bytes[511], 0x40);
	image_close(img);
}

static void a_member_ends_where_the_header_says(void **state)
{
	struct archive a = with_descriptor(FILES("a.vdi", "c.img"));
	struct image *img;

	(void)state;
	add_file(&a, "a.vdi", disks.vdi, VDI_LEN - 1000); /* the last block is cut: zeros, not the next header */
	add_file(&a, "c.img", disks.raw, 700);
	memset(a.p + a.len - 324, 0xee, 324); /* padding */
	img = opened(&a);
	expect_guest_bytes(img, 2 * VDI_BLOCK, VDI_BLOCK - 1000, 0x30);
	expect_guest_bytes(img, 3 * VDI_BLOCK - 1000, 1000, 0);
	assert_int_equal(img->info.total_size, 40 * VDI_BLOCK + 700);
	expect_bytes(img, img->layer, 700, 0x40);
	expect_extent(img, img->layer + 700, img->layer - 700, EXTENT_HOLE);
	image_close(img);
}

static void tells_what_it_holds(void **state)
{
	struct archive a = with_descriptor(FILES("a.qcow2", "b.vdi"));
	struct image *img;

	(void)state;
	add_file(&a, "a.mf", "SHA1(a.ovf)= 0", 14);
	add_file(&a, "a.qcow2", disks.qcow2, QCOW2_LEN);
	add_file(&a, "b.vdi", disks.vdi, VDI_LEN);
	img = opened(&a);
	assert_string_equal(img->info.kind, "2 disks");
	assert_string_equal(img->info.features, "manifest not compared, a.qcow2 (qcow2), b.vdi (vdi)");
	assert_int_equal(img->info.cluster_size, CLUSTER);
	assert_true(img->info.compressed);
	image_close(img);
}

static void long_lists_of_disks_are_cut(void **state)
{
	struct archive a = archive_new();
	struct image *img;
	char name[100];
	size_t len;

	(void)state;
	add_file(&a, "a.ovf", "<Envelope/>", 11);
	for (unsigned i = 0; i < 30; i++) {
		snprintf(name, sizeof(name), "disk-with-a-name-%u.vdi", i);
		add_file(&a, name, disks.vdi, VDI_LEN);
	}
	img = opened(&a);
	len = strlen(img->info.features);
	assert_string_equal(img->info.kind, "30 disks");
	assert_true(len > 220 && len < sizeof(img->info.features));
	assert_string_equal(img->info.features + len - 5, ", ...");
	assert_null(strstr(img->info.features, "..., ..."));
	image_close(img);
}

static void a_disk_that_is_not_listed_is_found(void **state)
{
	struct archive a = with_descriptor(FILES("c.img"));
	struct image *img;

	(void)state;
	add_file(&a, "b.vdi", disks.vdi, VDI_LEN);
	add_file(&a, "c.img", disks.raw, sizeof(disks.raw));
	add_file(&a, "d.iso", disks.raw, sizeof(disks.raw)); /* nothing says that this is a disk */
	img = opened(&a);
	assert_string_equal(img->info.features, "c.img (raw), b.vdi (vdi)");
	image_close(img);
}

static void a_file_of_two_disks_is_read_once(void **state)
{
	struct archive a = with_descriptor(FILES("c.img", "c.img"));
	struct image *img;

	(void)state;
	add_file(&a, "c.img", disks.raw, sizeof(disks.raw));
	img = opened(&a);
	assert_string_equal(img->info.kind, "1 disk");
	assert_int_equal(img->info.total_size, 8192);
	image_close(img);
}

static void a_disk_without_a_file_is_nothing(void **state)
{
	struct archive a = archive_new();
	struct image *img;
	const char *text = "<Envelope><Disk ovf:capacity='5'/></Envelope>";

	(void)state;
	add_file(&a, "a.ovf", text, strlen(text));
	img = opened(&a);
	assert_string_equal(img->info.kind, "0 disks");
	assert_int_equal(img->size, 0);
	assert_int_equal(img->span, 0);
	image_close(img);
}

static void a_disk_of_no_bytes_is_a_layer(void **state)
{
	struct archive a = with_descriptor(FILES("a.img", "c.img"));
	struct image *img;

	(void)state;
	add_file(&a, "a.img", "", 0);
	add_file(&a, "c.img", disks.raw, sizeof(disks.raw));
	img = opened(&a);
	assert_int_equal(img->size, 0);
	expect_extent(img, 0, 2 * MIB, EXTENT_HOLE);
	expect_bytes(img, 2 * MIB, 8192, 0x40);
	image_close(img);
}

static void names_are_found_in_all_spellings(void **state)
{
	static const char *const hrefs[] = { "./folder/a disk.vdi", "folder/a%20disk.vdi", "folder/a disk.vdi" };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(hrefs); i++) {
		struct archive a = with_descriptor(FILES(hrefs[i]));

		add_file(&a, "./folder/a disk.vdi", disks.vdi, VDI_LEN);
		image_close(opened(&a));
	}
}

static void a_percent_sign_may_be_meant(void **state)
{
	struct archive a = with_descriptor(FILES("100%25.img"));
	struct image *img;

	(void)state;
	add_file(&a, "100%.img", disks.raw, 512);
	add_file(&a, "100%25.img", disks.raw, 1024);
	img = opened(&a);
	assert_int_equal(img->size, 1024);
	image_close(img);
}

static void names_are_relative_to_the_descriptor(void **state)
{
	struct archive a = with_descriptor(FILES("c.img"));
	struct image *img;

	(void)state;
	strcpy(((struct tar_header_disk *)a.p)->name, "folder/a.ovf");
	set_checksum((void *)a.p);
	add_file(&a, "c.img", disks.raw, 512);
	add_file(&a, "folder/c.img", disks.raw, 1024);
	img = opened(&a);
	assert_int_equal(img->size, 1024);
	image_close(img);
}

static void disks_that_are_not_there_are_told(void **state)
{
	struct archive a = with_descriptor(FILES("c.img", "d.vmdk"));
	const char *text = "<Envelope><Disk ovf:fileRef='file7'/></Envelope>";

	(void)state;
	add_file(&a, "c.img", disks.raw, sizeof(disks.raw));
	expect_refused(&a, ERR_FORMAT, "disk 'd.vmdk' is listed in the descriptor, but not in the archive");

	a = archive_new();
	add_file(&a, "a.ovf", text, strlen(text));
	expect_refused(&a, ERR_FORMAT, "a disk is in file 'file7', which the descriptor does not list");
}

static void compressed_and_chunked_files_are_refused_by_name(void **state)
{
	struct archive a = archive_new();

	(void)state;
	add_descriptor(&a, FILES("a.vmdk.gz"), "ovf:compression='gzip'");
	add_file(&a, "a.vmdk.gz", disks.raw, 512);
	expect_refused(&a, ERR_UNSUPPORTED, "disk 'a.vmdk.gz' is compressed as a whole (gzip)");

	a = archive_new();
	add_descriptor(&a, FILES("a.vmdk"), "ovf:chunkSize='512'");
	add_file(&a, "a.vmdk.000000000", disks.raw, 512);
	add_file(&a, "a.vmdk.000000001", disks.raw, 100);
	expect_refused(&a, ERR_UNSUPPORTED, "disk 'a.vmdk' is split into chunks");
}

static void what_is_said_to_be_uncompressed_is_read(void **state)
{
	struct archive a = archive_new();

	(void)state;
	add_descriptor(&a, FILES("c.img"), "ovf:compression='identity'");
	add_file(&a, "c.img", disks.raw, 512);
	image_close(opened(&a));
}

static void two_members_of_one_name_are_refused(void **state)
{
	struct archive a = with_descriptor(FILES("c.img"));

	(void)state;
	add_file(&a, "c.img", disks.raw, 512);
	add_file(&a, "./c.img", disks.raw, 1024);
	expect_refused(&a, ERR_FORMAT, "the archive has two members 'c.img'");
}

static void an_archive_that_is_cut_is_refused(void **state)
{
	struct archive a = with_descriptor(FILES("c.img", "d.img"));

	(void)state;
	add_file(&a, "c.img", disks.raw, sizeof(disks.raw));
	a.len -= 512;
	expect_refused(&a, ERR_FORMAT, "the archive is cut short: 8192 bytes of 'c.img'");
}

static void errors_of_a_disk_name_it(void **state)
{
	struct archive a = with_descriptor(FILES("b.vdi"));
	size_t at = a.len;
	struct image *img;
	struct err err = ERR_INIT;
	struct extent ext;
	int fd;

	(void)state;
	le32_store(disks.vdi + 520, 1);
	add_file(&a, "b.vdi", disks.vdi, VDI_LEN);
	le32_store(disks.vdi + 520, 0);
	expect_refused(&a, ERR_FORMAT, "'b.vdi': block 2 of the disk is said to be block 1");

	a = with_descriptor(FILES("b.qcow2"));
	at = a.len + 512;
	add_file(&a, "b.qcow2", disks.qcow2, QCOW2_LEN);
	be64_store(a.p + at + 3 * CLUSTER, 8 * CLUSTER + 512);
	img = opened(&a);
	assert_int_equal(image_next_extent(img, 0, &ext, &err), -1);
	expect_error(&err, ERR_FORMAT, "'b.qcow2': cluster at guest offset 0");
	image_close(img);

	a = with_descriptor(FILES("b.vdi", "c.qcow2"));
	at = a.len + 512;
	add_file(&a, "b.vdi", disks.vdi, VDI_LEN);
	add_file(&a, "c.qcow2", disks.qcow2, QCOW2_LEN);
	fd = file_of(a.p, a.len);
	img = must_open(fd, NULL, NULL);
	assert_int_equal(pwrite(fd, "\0\0\1", 3, (off_t)(at + 368)), 3); /* now the VDI is of 64 KiB */
	assert_int_equal(image_next_extent(img, 0, &ext, &err), -1);
	expect_error(&err, ERR_STALE, "'b.vdi' was changed while it was read");
	image_close(img);
	free(a.p);
}

static int open_nothing(void *ctx, enum image_role role, const char *name, const char *from, char *ret_path,
			struct err *err)
{
	(void)role, (void)from, (void)ret_path;
	*(bool *)ctx = true;
	return err_set(err, ERR_REFUSED, "'%s' was asked for", name);
}

static void names_inside_disks_are_not_followed(void **state)
{
	struct archive a = with_descriptor(FILES("a.qcow2"));
	bool asked = false;
	struct image_opener opener = { .open = open_nothing, .ctx = &asked };
	struct err err = ERR_INIT;
	size_t at = a.len + 512;
	struct image *img;
	uint8_t byte;

	(void)state;
	add_file(&a, "a.qcow2", disks.qcow2, QCOW2_LEN);
	memcpy(a.p + at + 200, "/etc/passwd", 11);
	be64_store(a.p + at + 8, 200);
	be32_store(a.p + at + 16, 11);
	img = must_open(file_of(a.p, a.len), NULL, &opener);
	free(a.p);
	expect_bytes(img, 0, CLUSTER, 0x10);
	assert_int_equal(image_read_guest(img, 0, &byte, 1, &err), -1);
	assert_int_equal(image_open_chain(img, &opener, &err), -1);
	expect_error(&err, ERR_UNSUPPORTED,
		     "backing file '/etc/passwd' of 'test.img': the image does not say where that is");
	assert_false(asked);
	image_close(img);
}

static void an_archive_in_an_archive_is_not_read(void **state)
{
	struct archive inner = with_descriptor(FILES("c.img")), a = with_descriptor(FILES("inner.ova"));
	struct image *img;

	(void)state;
	add_file(&inner, "c.img", disks.raw, 512);
	add_file(&a, "inner.ova", inner.p, inner.len);
	expect_refused(&a, ERR_UNSUPPORTED, "'inner.ova': an archive in an archive is not read");

	a = archive_new(); /* not listed: it is not looked into */
	add_file(&a, "a.ovf", "<Envelope/>", 11);
	add_file(&a, "inner.ova", inner.p, inner.len);
	img = opened(&a);
	assert_string_equal(img->info.kind, "0 disks");
	image_close(img);
	free(inner.p);
}

static void members_and_disks_are_limited(void **state)
{
	struct archive a = archive_new();
	char name[32];

	(void)state;
	add_file(&a, "a.ovf", "<Envelope/>", 11);
	for (unsigned i = 0; i < 4095; i++)
		add_file(&a, "text", "x", 1);
	image_close(opened(&a));
	a = archive_new();
	add_file(&a, "a.ovf", "<Envelope/>", 11);
	for (unsigned i = 0; i < 4096; i++)
		add_file(&a, "text", "x", 1);
	expect_refused(&a, ERR_UNSUPPORTED, "the archive has more than 4096 members");

	a = archive_new();
	add_file(&a, "a.ovf", "<Envelope/>", 11);
	for (unsigned i = 0; i < 1025; i++) {
		snprintf(name, sizeof(name), "%u.vdi", i);
		add_file(&a, name, disks.vdi, 516);
	}
	expect_refused(&a, ERR_UNSUPPORTED, "the archive has more than 1024 disks");
}

static void broken_descriptors_are_refused(void **state)
{
	struct archive a = archive_new();
	char *spaces = malloc((2u << 20) + 1);

	(void)state;
	assert_non_null(spaces);
	memset(spaces, ' ', (2u << 20) + 1);
	add_file(&a, "a.ovf", "<Envelope><File", 15);
	expect_refused(&a, ERR_FORMAT, "descriptor 'a.ovf': it is no well-formed XML at byte 15");
	a = archive_new();
	add_file(&a, "a.ovf", spaces, (2u << 20) + 1);
	expect_refused(&a, ERR_UNSUPPORTED, "descriptor 'a.ovf' of 2097153 bytes is too large");
	a = archive_new();
	add_file(&a, "a.ovf", spaces, 2u << 20);
	free(spaces);
	image_close(opened(&a));
	a = archive_new();
	add_file(&a, "a.txt", "x", 1);
	expect_refused(&a, ERR_FORMAT, "the archive has no OVF descriptor");
}

static void expect_format(struct archive *a, const char *name)
{
	struct image *img = must_open(file_of(a->p, a->len), NULL, NULL);

	assert_string_equal(img->format->name, name);
	image_close(img);
	free(a->p);
}

static void only_archives_that_begin_with_a_descriptor_are_claimed(void **state)
{
	struct archive a = archive_new();

	(void)state;
	add_file(&a, "a.txt", "x", 1);
	add_file(&a, "a.ovf", "<Envelope/>", 11);
	expect_format(&a, "raw");

	a = archive_new();
	add_entry(&a, '1', "a.ovf", "", 0); /* a link */
	add_file(&a, "b.ovf", "<Envelope/>", 11);
	expect_format(&a, "raw");

	a = archive_new();
	add_file(&a, ".ovf", "<Envelope/>", 11);
	expect_format(&a, "raw");

	a = archive_new();
	add_file(&a, "A.OVF", "<Envelope/>", 11);
	expect_format(&a, "ova");

	a = archive_new();
	add_entry(&a, '5', "./", "", 0);
	add_file(&a, "./a.ovf", "<Envelope/>", 11);
	expect_format(&a, "ova");

	a = archive_new();
	add_pax(&a, 'x', "path", "a.ovf");
	add_file(&a, "short", "<Envelope/>", 11);
	expect_format(&a, "ova");

	a = archive_new();
	add_pax(&a, 'x', "path", "a.txt");
	add_file(&a, "a.ovf", "<Envelope/>", 11);
	expect_format(&a, "raw");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_disk_is_a_layer),
		cmocka_unit_test(data_lie_in_the_archive),
		cmocka_unit_test(a_single_disk_spans_its_size),
		cmocka_unit_test(the_guest_view_is_the_first_disk),
		cmocka_unit_test(snapshots_of_a_disk_are_layers_too),
		cmocka_unit_test(extents_outlive_the_disk_that_told_them),
		cmocka_unit_test(a_member_ends_where_the_header_says),
		cmocka_unit_test(tells_what_it_holds),
		cmocka_unit_test(long_lists_of_disks_are_cut),
		cmocka_unit_test(a_disk_that_is_not_listed_is_found),
		cmocka_unit_test(a_file_of_two_disks_is_read_once),
		cmocka_unit_test(a_disk_without_a_file_is_nothing),
		cmocka_unit_test(a_disk_of_no_bytes_is_a_layer),
		cmocka_unit_test(names_are_found_in_all_spellings),
		cmocka_unit_test(a_percent_sign_may_be_meant),
		cmocka_unit_test(names_are_relative_to_the_descriptor),
		cmocka_unit_test(disks_that_are_not_there_are_told),
		cmocka_unit_test(compressed_and_chunked_files_are_refused_by_name),
		cmocka_unit_test(what_is_said_to_be_uncompressed_is_read),
		cmocka_unit_test(two_members_of_one_name_are_refused),
		cmocka_unit_test(an_archive_that_is_cut_is_refused),
		cmocka_unit_test(errors_of_a_disk_name_it),
		cmocka_unit_test(names_inside_disks_are_not_followed),
		cmocka_unit_test(an_archive_in_an_archive_is_not_read),
		cmocka_unit_test(members_and_disks_are_limited),
		cmocka_unit_test(broken_descriptors_are_refused),
		cmocka_unit_test(only_archives_that_begin_with_a_descriptor_are_claimed),
	};

	return cmocka_run_group_tests(tests, make_disks, NULL);
}
