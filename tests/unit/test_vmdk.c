/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <zlib.h>

#include "tests/unit/image_help.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/image/vmdk_format.h"

/* The VMDK reader, with images made here sector by sector.  A sparse extent:
 *
 *	sector	0 header, 1-4 descriptor, 8 grain directory, 12-15 grain table, 16 redundant directory, 20-23 its table,
 *		32 and on: grains of 4 KiB, of which the n-th is filled with n + 1
 *
 * A table maps 2 MiB. */

#define NR_GRAINS 16
#define GRAIN ((uint64_t)4096)
#define GRAIN_AT(n) (32 + 8 * (n))
#define GD 8
#define GT 12
#define RGD 16
#define RGT 20

struct sparse {
	uint8_t *p;
	size_t len;
};

static struct vmdk_header_disk *header_of(struct sparse *s)
{
	return (void *)s->p;
}

static void set_entry(struct sparse *s, unsigned sector, unsigned i, uint32_t entry)
{
	le32_store(s->p + sector * VMDK_SECTOR + 4 * i, entry);
}

/* An extent of so many sectors without a descriptor, whose first 16 grains can be mapped. */
static struct sparse sparse_new(uint64_t sectors)
{
	struct sparse s = { .len = (32 + 8 * NR_GRAINS) * VMDK_SECTOR };
	struct vmdk_header_disk *h;

	s.p = calloc(1, s.len);
	assert_non_null(s.p);
	h = header_of(&s);
	memcpy(h->magic, VMDK_MAGIC, 4);
	h->version = le32_from(1);
	h->flags = le32_from(VMDK_HAS_NEWLINES | VMDK_HAS_REDUNDANT);
	h->capacity = le64_from(sectors);
	h->grain_size = le64_from(8);
	h->nr_gtes = le32_from(512);
	h->rgd_offset = le64_from(RGD);
	h->gd_offset = le64_from(GD);
	h->overhead = le64_from(32);
	memcpy(h->newlines, VMDK_NEWLINES, 4);
	set_entry(&s, GD, 0, GT);
	set_entry(&s, RGD, 0, RGT);
	for (unsigned i = 0; i < NR_GRAINS; i++)
		memset(s.p + GRAIN_AT(i) * VMDK_SECTOR, (int)i + 1, GRAIN);
	return s;
}

static void describe(struct sparse *s, const char *text)
{
	header_of(s)->descriptor_offset = le64_from(1);
	header_of(s)->descriptor_size = le64_from(4);
	memset(s->p + VMDK_SECTOR, 0, 4 * VMDK_SECTOR);
	memcpy(s->p + VMDK_SECTOR, text, strlen(text));
}

/* A disk of 1 MiB in one file. */
#define MONOLITHIC                                                                                                     \
	"# Disk DescriptorFile\nversion=1\nCID=0000abcd\nparentCID=ffffffff\ncreateType=\"monolithicSparse\"\n"        \
	"RW 2048 SPARSE \"x.vmdk\"\nddb.adapterType = \"ide\"\n"

static struct sparse plain_disk(void)
{
	struct sparse s = sparse_new(2048);

	describe(&s, MONOLITHIC);
	return s;
}

static struct sparse with_gte(struct sparse s, unsigned i, uint32_t entry)
{
	set_entry(&s, GT, i, entry);
	return s;
}

static struct sparse with32(struct sparse s, size_t at, uint32_t v)
{
	le32_store(s.p + at, v);
	return s;
}

static struct sparse with64(struct sparse s, size_t at, uint64_t v)
{
	le64_store(s.p + at, v);
	return s;
}

static struct sparse with16(struct sparse s, size_t at, uint16_t v)
{
	le16_store(s.p + at, v);
	return s;
}

#define AT(field) offsetof(struct vmdk_header_disk, field)

/* ---- files beside the image ---- */

#define NR_FILES 8

struct beside {
	const char *names[NR_FILES];
	int fds[NR_FILES];
	enum image_role role; /* of the last one opened */
};

static void put_beside(struct beside *b, const char *name, int fd)
{
	size_t i = 0;

	while (b->names[i])
		i++;
	assert_true(i < NR_FILES - 1);
	b->names[i] = name;
	b->fds[i] = fd;
}

static void put_sparse(struct beside *b, const char *name, struct sparse s)
{
	put_beside(b, name, file_of(s.p, s.len));
	free(s.p);
}

/* A file of so many sectors, each filled with its number from `first` on. */
static void put_flat(struct beside *b, const char *name, size_t sectors, uint8_t first)
{
	uint8_t *p = malloc(sectors * VMDK_SECTOR);

	assert_non_null(p);
	for (size_t i = 0; i < sectors; i++)
		memset(p + i * VMDK_SECTOR, (int)(first + i), VMDK_SECTOR);
	put_beside(b, name, file_of(p, sectors * VMDK_SECTOR));
	free(p);
}

static int open_beside(void *ctx, enum image_role role, const char *name, const char *from, char *ret_path,
		       struct err *err)
{
	struct beside *b = ctx;

	(void)from;
	b->role = role;
	for (size_t i = 0; b->names[i]; i++) {
		if (strcmp(b->names[i], name) != 0)
			continue;
		snprintf(ret_path, PATH_MAX, "%s", name);
		return fcntl(b->fds[i], F_DUPFD_CLOEXEC, 0);
	}
	errno = ENOENT;
	return err_errno(err, "cannot open it");
}

static void close_beside(struct beside *b)
{
	for (size_t i = 0; b->names[i]; i++)
		close(b->fds[i]);
}

static struct image_opener opener_of(struct beside *b)
{
	return (struct image_opener){ .open = open_beside, .ctx = b };
}

/* ---- opening ---- */

static struct image *opened(struct sparse s)
{
	struct image *img = must_open(file_of(s.p, s.len), "vmdk", NULL);

	free(s.p);
	return img;
}

static void expect_not_opened(int fd, const struct image_opener *opener, enum err_kind kind, const char *text)
{
	struct err err = ERR_INIT;

	if (image_open(fd, "test.vmdk", image_format_by_name("vmdk"), opener, NULL, &err))
		fail_msg("opened; wanted '%s'", text);
	expect_error(&err, kind, text);
}

static void expect_refused(struct sparse s, enum err_kind kind, const char *text)
{
	expect_not_opened(file_of(s.p, s.len), NULL, kind, text);
	free(s.p);
}

#define TEXT "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"custom\"\n"

static struct image *opened_text(const char *text, struct beside *b)
{
	struct image_opener opener = opener_of(b);

	return must_open(file_of(text, strlen(text)), "vmdk", &opener);
}

static void expect_text_refused(const char *text, struct beside *b, enum err_kind kind, const char *said)
{
	struct image_opener opener = opener_of(b);

	expect_not_opened(file_of(text, strlen(text)), &opener, kind, said);
}

static void expect_unreadable(struct image *img, uint64_t at, const char *text)
{
	struct err err = ERR_INIT;
	uint8_t byte;

	assert_int_equal(image_read_guest(img, at, &byte, 1, &err), -1);
	expect_error(&err, ERR_FORMAT, text);
}

static void expect_features(const struct image *img, const char *text, bool there)
{
	if (!strstr(img->info.features, text) == there)
		fail_msg("features: %s", img->info.features);
}

/* ---- grains ---- */

static void shows_data_zeroed_grains_and_holes(void **state)
{
	struct sparse s = with32(plain_disk(), AT(flags), VMDK_HAS_ZEROED);
	struct image *img;

	(void)state;
	set_entry(&s, GT, 1, GRAIN_AT(2));
	set_entry(&s, GT, 2, 1);
	img = opened(s);
	assert_int_equal(img->size, MIB);
	assert_int_equal(img->span, MIB);
	assert_int_equal(img->layer, 2 * MIB);
	assert_int_equal(img->info.cluster_size, 4096);
	expect_extent(img, 0, 4096, EXTENT_HOLE);
	expect_extent(img, 4096, 4096, EXTENT_DATA);
	expect_extent(img, 5000, 3192, EXTENT_DATA);
	expect_extent(img, 8192, 4096, EXTENT_ZERO);
	expect_extent(img, 12288, MIB - 12288, EXTENT_HOLE);
	expect_guest_bytes(img, 0, 4096, 0);
	expect_guest_bytes(img, 4096, 4096, 3);
	expect_guest_bytes(img, 8192, 8192, 0);
	expect_features(img, "zeroed grains", true);
	image_close(img);
}

static void an_entry_of_1_is_a_grain_where_no_flag_says_otherwise(void **state)
{
	struct image *img = opened(with_gte(plain_disk(), 0, 1));

	(void)state;
	expect_extent(img, 0, 4096, EXTENT_DATA);
	expect_guest_bytes(img, 0, 1, '#');
	expect_features(img, "zeroed grains", false);
	image_close(img);
}

static void joins_grains_that_follow_each_other_in_the_file_only(void **state)
{
	struct sparse s = plain_disk();
	struct image *img;

	(void)state;
	set_entry(&s, GT, 0, GRAIN_AT(2));
	set_entry(&s, GT, 1, GRAIN_AT(3));
	set_entry(&s, GT, 2, GRAIN_AT(5));
	set_entry(&s, GT, 3, GRAIN_AT(4));
	img = opened(s);
	expect_extent(img, 0, 8192, EXTENT_DATA);
	expect_extent(img, 8192, 4096, EXTENT_DATA);
	expect_extent(img, 12288, 4096, EXTENT_DATA);
	expect_extent(img, 100, 8092, EXTENT_DATA);
	expect_guest_bytes(img, 4096, 4096, 4);
	expect_guest_bytes(img, 8192, 4096, 6);
	expect_guest_bytes(img, 12288, 4096, 5);
	image_close(img);
}

static void joins_what_is_alike_over_tables(void **state)
{
	struct sparse s = sparse_new(8192);
	struct image *img;

	(void)state;
	describe(&s, "createType=\"monolithicSparse\"\nRW 8192 SPARSE \"x\"\n");
	set_entry(&s, GD, 1, RGT); /* any second table */
	set_entry(&s, GT, 511, GRAIN_AT(0));
	set_entry(&s, RGT, 0, GRAIN_AT(1));
	img = opened(s);
	assert_int_equal(img->size, 4 * MIB);
	expect_extent(img, 0, 2 * MIB - GRAIN, EXTENT_HOLE);
	expect_extent(img, 2 * MIB - GRAIN, 2 * GRAIN, EXTENT_DATA);
	expect_extent(img, 2 * MIB + GRAIN, 2 * MIB - GRAIN, EXTENT_HOLE);
	image_close(img);
}

static void a_table_that_is_not_there_has_nothing_of_the_one_before_it(void **state)
{
	struct sparse s = sparse_new(8192);
	struct image *img;

	(void)state;
	describe(&s, "createType=\"monolithicSparse\"\nRW 8192 SPARSE \"x\"\n");
	set_entry(&s, GT, 0, GRAIN_AT(0));
	img = opened(s);
	expect_extent(img, 0, GRAIN, EXTENT_DATA);
	expect_extent(img, 2 * MIB, 2 * MIB, EXTENT_HOLE);
	image_close(img);
}

static void the_disk_may_end_inside_a_grain(void **state)
{
	struct sparse s = sparse_new(17);
	struct image *img;

	(void)state;
	describe(&s, "createType=\"monolithicSparse\"\nRW 17 SPARSE \"x\"\n");
	set_entry(&s, GT, 2, GRAIN_AT(1));
	set_entry(&s, GT, 3, GRAIN_AT(2)); /* past the end: no entry of the table */
	img = opened(s);
	assert_int_equal(img->size, 17 * 512);
	expect_extent(img, 8192, 512, EXTENT_DATA);
	expect_guest_bytes(img, 8192, 512, 2);
	image_close(img);
}

static void a_grain_past_the_end_of_the_file_reads_as_zeros(void **state)
{
	struct sparse s = with_gte(with_gte(plain_disk(), 0, 1 << 30), 1, GRAIN_AT(NR_GRAINS - 1));
	struct image *img;

	(void)state;
	s.len -= 4000; /* the last grain is cut */
	img = opened(s);
	expect_guest_bytes(img, 0, 4096, 0);
	expect_guest_bytes(img, 4096, 96, NR_GRAINS);
	expect_guest_bytes(img, 4096 + 96, 4000, 0);
	image_close(img);
}

static void a_table_that_is_not_there_is_passed_at_once(void **state)
{
	struct sparse s = sparse_new(GIB / 512);
	struct image *img;

	(void)state;
	describe(&s, "createType=\"monolithicSparse\"\nRW 2097152 SPARSE \"x\"\n");
	memset(s.p + GD * VMDK_SECTOR, 0, VMDK_SECTOR * 4);
	img = opened(s);
	expect_extent(img, 0, GIB, EXTENT_HOLE);
	image_close(img);
}

static void tables_of_any_size_are_read(void **state)
{
	static const uint32_t sizes[] = { 1, 3, 100, 512, 4096 };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct sparse s = sparse_new(24);
		struct image *img;

		describe(&s, "createType=\"monolithicSparse\"\nRW 24 SPARSE \"x\"\n");
		header_of(&s)->nr_gtes = le32_from(sizes[i]);
		for (unsigned g = 0; g < 3; g++) {
			set_entry(&s, GD, g, GT + g);
			set_entry(&s, GT + g / sizes[i], g % sizes[i], GRAIN_AT(2 * g));
		}
		img = opened(s);
		for (unsigned g = 0; g < 3; g++)
			expect_guest_bytes(img, g * GRAIN, GRAIN, (uint8_t)(2 * g + 1));
		image_close(img);
	}
}

static void a_disk_of_no_size_is_empty(void **state)
{
	struct sparse s = sparse_new(0);
	struct image *img;

	(void)state;
	describe(&s, "createType=\"monolithicSparse\"\nRW 0 SPARSE \"x\"\n");
	img = opened(s);
	assert_int_equal(img->size, 0);
	image_close(img);
	img = must_open(file_of(TEXT, strlen(TEXT)), "vmdk", NULL);
	assert_int_equal(img->size, 0);
	image_close(img);
}

/* ---- directories ---- */

static struct sparse with_redundant(void)
{
	struct sparse s = with_gte(plain_disk(), 0, GRAIN_AT(0));

	set_entry(&s, RGT, 0, GRAIN_AT(1));
	return s;
}

static void the_redundant_directory_is_for_when_the_first_is_broken(void **state)
{
	struct image *img = opened(with_redundant());

	(void)state;
	expect_guest_bytes(img, 0, 4096, 1);
	expect_features(img, "redundant", false);
	image_close(img);
	img = opened(with32(with_redundant(), GD * VMDK_SECTOR, 0x7fffffff));
	expect_guest_bytes(img, 0, 4096, 2);
	expect_features(img, "grain directory broken, the redundant one used", true);
	image_close(img);
	img = opened(with64(with_redundant(), AT(gd_offset), 1 << 20));
	expect_guest_bytes(img, 0, 4096, 2);
	image_close(img);
	img = opened(with64(with_redundant(), AT(gd_offset), 0));
	expect_guest_bytes(img, 0, 4096, 2);
	image_close(img);
}

static void broken_directories_are_refused(void **state)
{
	struct sparse both = with32(with_redundant(), GD * VMDK_SECTOR, 0x7fffffff);

	(void)state;
	set_entry(&both, RGD, 0, 0x7ffffffe);
	expect_refused(both, ERR_FORMAT, "grain table at offset 1099511627264 ends past the end of the file");
	expect_refused(with32(with32(with_redundant(), AT(flags), 0), GD * VMDK_SECTOR, 0x7fffffff), ERR_FORMAT,
		       "grain table at offset");
	expect_refused(with64(with32(plain_disk(), AT(flags), 0), AT(gd_offset), 160), ERR_FORMAT,
		       "the grain directory ends past the end of the file");
	expect_refused(with64(with32(plain_disk(), AT(flags), 0), AT(gd_offset), 0), ERR_FORMAT,
		       "has no grain directory");
	expect_refused(with64(plain_disk(), AT(rgd_offset), UINT64_MAX), ERR_FORMAT,
		       "redundant grain directory offset of 18446744073709551615 sectors");
}

static void a_table_may_end_with_the_file_but_not_past_it(void **state)
{
	struct sparse s = plain_disk();
	struct image *img;

	(void)state;
	header_of(&s)->flags = le32_from(0);
	memset(s.p + s.len - VMDK_SECTOR * 2, 0, VMDK_SECTOR * 2);
	set_entry(&s, GD, 0, (uint32_t)(s.len / VMDK_SECTOR) - 2); /* 256 entries: two sectors */
	img = opened(s);
	expect_extent(img, 0, MIB, EXTENT_HOLE);
	image_close(img);
	s = with32(plain_disk(), AT(flags), 0);
	set_entry(&s, GD, 0, (uint32_t)(s.len / VMDK_SECTOR) - 1);
	expect_refused(s, ERR_FORMAT, "ends past the end of the file");
}

/* ---- the header ---- */

static void headers_that_break_the_rules_are_refused(void **state)
{
	(void)state;
	expect_refused(with32(plain_disk(), AT(newlines), 0x0a0a200a), ERR_FORMAT, "transferred as text");
	expect_refused(with16(plain_disk(), AT(compression), 1), ERR_FORMAT, "compression type 1 contradicts");
	expect_refused(with32(plain_disk(), AT(flags), VMDK_COMPRESSED | VMDK_MARKERS), ERR_FORMAT,
		       "compression type 0 contradicts");
	expect_refused(with64(plain_disk(), AT(grain_size), 0), ERR_FORMAT, "grain size 0 is not");
	expect_refused(with64(plain_disk(), AT(grain_size), 24), ERR_FORMAT, "grain size 12288 is not");
	expect_refused(with64(plain_disk(), AT(grain_size), 1 << 22), ERR_FORMAT, "grain size 2147483648 is not");
	expect_refused(with64(plain_disk(), AT(grain_size), UINT64_MAX), ERR_FORMAT, "grain size of");
	expect_refused(with32(plain_disk(), AT(nr_gtes), 0), ERR_FORMAT, "grain tables of 0 entries");
	expect_refused(with32(plain_disk(), AT(nr_gtes), 4097), ERR_FORMAT, "grain tables of 4097 entries");
	expect_refused(with64(plain_disk(), AT(capacity), (uint64_t)1 << 55), ERR_FORMAT, "capacity of");
	expect_refused(with64(plain_disk(), AT(overhead), 161), ERR_FORMAT, "was cut short: its tables take 82432");
	expect_refused(with64(plain_disk(), AT(overhead), UINT64_MAX), ERR_FORMAT, "overhead of");
	expect_refused(with64(plain_disk(), AT(descriptor_offset), UINT64_MAX), ERR_FORMAT, "descriptor offset of");
	expect_refused(with64(plain_disk(), AT(descriptor_size), UINT64_MAX), ERR_FORMAT, "descriptor size of");
	expect_not_opened(file_of(VMDK_MAGIC "\1\0\0\0", 8), NULL, ERR_FORMAT, "ends inside the header");
}

static void a_file_may_end_with_its_tables(void **state)
{
	struct sparse s = plain_disk();

	(void)state;
	image_close(opened(with64(s, AT(overhead), s.len / VMDK_SECTOR)));
}

static void what_is_not_known_is_named(void **state)
{
	(void)state;
	expect_refused(with32(plain_disk(), AT(version), 0), ERR_UNSUPPORTED, "version 0 are not known");
	expect_refused(with32(plain_disk(), AT(version), 4), ERR_UNSUPPORTED, "version 4 are not known");
	for (unsigned bit = 18; bit < 32; bit++) {
		char text[64];

		snprintf(text, sizeof(text), "uses flag bit %u, which", bit);
		expect_refused(with32(plain_disk(), AT(flags), 1u << bit), ERR_UNSUPPORTED, text);
	}
	expect_refused(with16(plain_disk(), AT(compression), 2), ERR_UNSUPPORTED, "compression type 2");
	expect_refused(with16(with32(plain_disk(), AT(flags), VMDK_COMPRESSED), AT(compression), 1), ERR_UNSUPPORTED,
		       "without markers");
	expect_refused(
		with64(with16(with32(plain_disk(), AT(flags), VMDK_COMPRESSED | VMDK_MARKERS), AT(compression), 1),
		       AT(grain_size), 8192),
		ERR_UNSUPPORTED, "compressed grains of 4194304 bytes");
	expect_refused(with64(plain_disk(), AT(descriptor_size), 4097), ERR_UNSUPPORTED, "descriptor of 2097664 bytes");
	expect_refused(with64(with32(plain_disk(), AT(nr_gtes), 1), AT(capacity), (uint64_t)1 << 40), ERR_UNSUPPORTED,
		       "more than 8388608 entries");
	expect_refused(with32(plain_disk(), 0, 0x44574f43), ERR_UNSUPPORTED, "COWD extents (vmfsSparse) are not read");
	expect_refused(with64(plain_disk(), 0, 0xcafebabe), ERR_UNSUPPORTED, "seSparse extents are not read");
}

static void flags_that_readers_need_not_know_are_passed_over(void **state)
{
	struct image *img = opened(with32(with_gte(plain_disk(), 0, GRAIN_AT(0)), AT(flags), 0xfff8));

	(void)state;
	expect_guest_bytes(img, 0, 4096, 1);
	image_close(img);
	image_close(opened(with32(with32(plain_disk(), AT(newlines), 0), AT(flags), 0)));
	img = opened(with32(plain_disk(), AT(version), 3));
	assert_int_equal(img->info.version, 3);
	image_close(img);
}

static void an_extent_without_a_descriptor_is_a_part(void **state)
{
	struct sparse s = sparse_new(2048);

	(void)state;
	describe(&s, ""); /* room for one */
	expect_refused(s, ERR_PART, "it is an extent of a VMDK");
	expect_refused(sparse_new(2048), ERR_PART,
		       "it is an extent of a VMDK; its descriptor file says what disk it belongs to");
}

/* ---- descriptors ---- */

static void tells_what_it_knows_of_an_image(void **state)
{
	struct sparse s = plain_disk();
	struct image *img;

	(void)state;
	header_of(&s)->unclean = 1;
	header_of(&s)->version = le32_from(2);
	describe(&s, "CID=7\nparentCID=0000BEEF\ncreateType=\"MONOLITHICSPARSE\"\nparentFileNameHint=\"p/base.vmdk\"\n"
		     "RW 2048 SPARSE \"x\"\nchangeTrackPath=\"c\"\nddb.adapterType = \"buslogic\"\n");
	img = opened(s);
	assert_int_equal(img->info.version, 2);
	assert_string_equal(img->info.kind, "monolithicSparse");
	assert_string_equal(img->info.id, "00000007");
	assert_string_equal(img->info.backing_id, "0000beef");
	assert_string_equal(img->info.backing_name, "p/base.vmdk");
	assert_string_equal(img->info.backing_format, "vmdk");
	assert_true(img->info.dirty);
	assert_false(img->info.compressed);
	assert_string_equal(img->info.features, "adapter buslogic, change tracking, not closed properly");
	image_close(img);
}

static void a_disk_without_a_parent_names_none(void **state)
{
	struct sparse s = plain_disk();
	struct image *img = opened(plain_disk());

	(void)state;
	assert_string_equal(img->info.backing_name, "");
	assert_string_equal(img->info.backing_id, "");
	expect_features(img, "parent", false);
	image_close(img);
	describe(&s, "CID=7\nparentCID=00000001\ncreateType=\"monolithicSparse\"\nRW 2048 SPARSE \"x\"\n");
	img = opened(s);
	assert_string_equal(img->info.backing_name, "");
	expect_features(img, "parent not named", true);
	image_close(img);
}

static void encrypted_disks_have_no_guest_view(void **state)
{
	struct sparse s = plain_disk();
	struct err err = ERR_INIT;
	struct image *img;
	uint8_t byte;

	(void)state;
	describe(&s, "createType=\"monolithicSparse\"\nRW 2048 SPARSE \"x\"\nencryptionKeys=\"vmware:key/x\"\n");
	img = opened(s);
	assert_true(img->info.encrypted);
	assert_int_equal(image_read_guest(img, 0, &byte, 1, &err), -1);
	expect_error(&err, ERR_UNSUPPORTED, "is encrypted");
	image_close(img);
}

static void an_embedded_descriptor_lists_one_sparse_extent(void **state)
{
	static const char *const lines[] = { "", "RW 2048 FLAT \"x\" 0\n", "RW 2048 ZERO\n",
					     "RW 2048 SPARSE \"x\"\nRW 2048 SPARSE \"y\"\n" };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
		struct sparse s = sparse_new(2048);
		char text[200];

		snprintf(text, sizeof(text), "createType=\"monolithicSparse\"\n%s", lines[i]);
		describe(&s, text);
		expect_refused(s, ERR_FORMAT, "does not list the one sparse extent it is in");
	}
}

static void a_descriptor_must_say_what_disk_it_is(void **state)
{
	struct sparse s = plain_disk();
	struct beside b = { .names = { NULL } };

	(void)state;
	describe(&s, "RW 2048 SPARSE \"x\"\n");
	expect_refused(s, ERR_FORMAT, "the descriptor has no createType");
	s = plain_disk();
	header_of(&s)->descriptor_size = le64_from(0);
	expect_refused(s, ERR_PART, "it is an extent of a VMDK");
	expect_text_refused("# Disk DescriptorFile\n", &b, ERR_FORMAT, "the descriptor has no createType");
	s = plain_disk();
	describe(&s, "createType=\"fullDevice\"\nRW 2048 SPARSE \"x\"\n");
	expect_refused(s, ERR_UNSUPPORTED, "line 1 of the descriptor: disk of type 'fullDevice'");
}

static void a_descriptor_that_is_too_large_is_not_read(void **state)
{
	int fd = file_of(TEXT, strlen(TEXT));
	struct image *img;

	(void)state;
	assert_int_equal(ftruncate(fd, VMDK_DESCRIPTOR_MAX), 0);
	img = must_open(fd, "vmdk", NULL);
	image_close(img);
	fd = file_of(TEXT, strlen(TEXT));
	assert_int_equal(ftruncate(fd, VMDK_DESCRIPTOR_MAX + 1), 0);
	expect_not_opened(fd, NULL, ERR_UNSUPPORTED, "descriptor of 2097153 bytes is too large");
}

static void expect_header_and_descriptor(uint64_t header, uint64_t said, uint64_t size, bool told)
{
	struct sparse s = sparse_new(header);
	struct image *img;
	char text[100];

	snprintf(text, sizeof(text), "createType=\"monolithicSparse\"\nRW %llu SPARSE \"x\"\n",
		 (unsigned long long)said);
	describe(&s, text);
	img = opened(s);
	assert_int_equal(img->size, size * VMDK_SECTOR);
	expect_features(img, "not as large as the descriptor says", told);
	image_close(img);
}

static void of_header_and_descriptor_the_smaller_size_counts(void **state)
{
	(void)state;
	expect_header_and_descriptor(2048, 2048, 2048, false);
	expect_header_and_descriptor(2048, 2041, 2041, false); /* rounded up to grains */
	expect_header_and_descriptor(2048, 2040, 2040, true);
	expect_header_and_descriptor(2040, 2048, 2040, true);
	expect_header_and_descriptor(2040, (uint64_t)1 << 50, 2040, true);
}

/* ---- disks of several files ---- */

static void puts_extents_one_behind_the_other(void **state)
{
	struct beside b = { .names = { NULL } };
	struct sparse s = with_gte(sparse_new(16), 1, GRAIN_AT(4));
	struct image *img;

	(void)state;
	put_sparse(&b, "a-s001.vmdk", s);
	put_flat(&b, "b-flat.vmdk", 10, 50);
	img = opened_text(TEXT "RW 16 SPARSE \"a-s001.vmdk\"\nRW 4 FLAT \"b-flat.vmdk\" 3\nRW 0 FLAT \"not there\" 0\n"
			       "RW 100 ZERO\nRDONLY 1 VMFS \"b-flat.vmdk\"\n",
			  &b);
	assert_int_equal(b.role, IMAGE_EXTENT);
	assert_int_equal(img->size, 121 * 512);
	assert_int_equal(img->nr_parts, 2);
	expect_extent(img, 0, 4096, EXTENT_HOLE);
	expect_extent(img, 4096, 4096, EXTENT_DATA);
	expect_extent(img, 8192, 2048, EXTENT_DATA);
	expect_extent(img, 8192 + 2048, 51200, EXTENT_ZERO);
	expect_extent(img, 8192 + 2048 + 51200, 512, EXTENT_DATA);
	expect_guest_bytes(img, 4096, 4096, 5);
	expect_guest_bytes(img, 8192, 512, 53);
	expect_guest_bytes(img, 8192 + 3 * 512, 512, 56);
	expect_guest_bytes(img, 8192 + 2048, 51200, 0);
	expect_guest_bytes(img, 8192 + 2048 + 51200, 512, 50);
	expect_features(img, "4 extents", true);
	expect_features(img, "cut short", false);
	expect_features(img, "not as large", false);
	image_close(img);
	close_beside(&b);
}

static void each_sparse_extent_has_its_own_tables(void **state)
{
	struct beside b = { .names = { NULL } };
	struct sparse s = with_gte(sparse_new(4096), 1, GRAIN_AT(4)), t = sparse_new(8192);
	struct image *img;

	(void)state;
	set_entry(&t, GD, 0, RGT);
	set_entry(&t, RGT, 1, GRAIN_AT(7));
	put_sparse(&b, "s", s);
	put_sparse(&b, "t", t);
	img = opened_text(TEXT "RW 4096 SPARSE \"s\"\nRW 8192 SPARSE \"t\"\n", &b);
	expect_extent(img, 2 * MIB, GRAIN, EXTENT_HOLE);
	expect_guest_bytes(img, 2 * MIB + GRAIN, GRAIN, 8);
	expect_guest_bytes(img, GRAIN, GRAIN, 5);
	expect_extent(img, 2 * MIB + 2 * GRAIN, 4 * MIB - 2 * GRAIN, EXTENT_HOLE);
	image_close(img);
	close_beside(&b);
}

static void an_extent_may_end_inside_a_grain(void **state)
{
	struct beside b = { .names = { NULL } };
	struct image *img;

	(void)state;
	put_sparse(&b, "s", with_gte(sparse_new(16), 1, GRAIN_AT(4)));
	img = opened_text(TEXT "RW 10 SPARSE \"s\"\nRW 4194304 ZERO\n", &b);
	expect_extent(img, GRAIN, 1024, EXTENT_DATA);
	expect_extent(img, GRAIN + 1024, GIB, EXTENT_ZERO);
	expect_guest_bytes(img, GRAIN + 1024, GRAIN, 0);
	expect_features(img, "not as large", false);
	image_close(img);
	close_beside(&b);
}

static void joins_flat_extents_that_follow_each_other_in_a_file(void **state)
{
	struct beside b = { .names = { NULL } };
	struct image *img;

	(void)state;
	put_flat(&b, "a", 16, 1);
	put_flat(&b, "b", 16, 1);
	img = opened_text(TEXT "RW 4 FLAT \"a\" 0\nRW 4 FLAT \"a\" 4\nRW 4 FLAT \"b\" 8\nRW 4 FLAT \"b\" 4\n", &b);
	expect_extent(img, 0, 8 * 512, EXTENT_DATA);
	expect_extent(img, 8 * 512, 4 * 512, EXTENT_DATA);
	expect_extent(img, 12 * 512, 4 * 512, EXTENT_DATA);
	image_close(img);
	close_beside(&b);
}

static void a_flat_file_that_is_too_short_reads_as_zeros_past_its_end(void **state)
{
	struct beside b = { .names = { NULL } };
	struct image *img;
	uint8_t half[300];

	(void)state;
	memset(half, 9, sizeof(half));
	put_flat(&b, "a", 4, 1);
	put_beside(&b, "half", file_of(half, sizeof(half)));
	img = opened_text(TEXT "RW 8 FLAT \"a\" 2\nRW 4 FLAT \"a\" 100\nRW 1 FLAT \"half\" 0\n", &b);
	expect_extent(img, 0, 1024, EXTENT_DATA);
	expect_extent(img, 1024, 10 * 512, EXTENT_ZERO);
	expect_guest_bytes(img, 512, 512, 4);
	expect_guest_bytes(img, 12 * 512, 300, 9);
	expect_guest_bytes(img, 12 * 512 + 300, 212, 0);
	expect_features(img, "an extent was cut short, the rest reads as zeros", true);
	image_close(img);
	close_beside(&b);
}

static void extents_that_cannot_be_had_are_named(void **state)
{
	struct beside b = { .names = { NULL } };

	(void)state;
	put_flat(&b, "a", 4, 1);
	put_sparse(&b, "s", sparse_new(8));
	put_sparse(&b, "cowd", with32(sparse_new(8), 0, 0x44574f43));
	put_sparse(&b, "empty", sparse_new(0));
	expect_text_refused(TEXT "RW 8 FLAT \"c\" 0\n", &b, ERR_IO, "extent 'c': cannot open it");
	expect_text_refused(TEXT "RW 8 SPARSE \"s\"\nRW 8 SPARSE \"s\"\n", &b, ERR_FORMAT,
			    "extent 's': the sparse extent is listed twice");
	expect_text_refused(TEXT "RW 8 SPARSE \"a\"\n", &b, ERR_FORMAT,
			    "extent 'a': no header of a sparse VMDK extent found");
	expect_text_refused(TEXT "RW 8 SPARSE \"cowd\"\n", &b, ERR_UNSUPPORTED, "extent 'cowd': COWD extents");
	expect_text_refused(TEXT "RW 8 SPARSE \"empty\"\n", &b, ERR_FORMAT,
			    "extent 'empty': the extent has no capacity");
	expect_text_refused(TEXT "RW 9007199254740992 ZERO\nRW 18014398509481983 ZERO\nRW 18014398509481983 ZERO\n", &b,
			    ERR_FORMAT, "the extents are too large together");
	close_beside(&b);
}

static void names_are_not_followed_without_an_opener(void **state)
{
	static const char text[] = TEXT "RW 8 FLAT \"a\" 0\n";

	(void)state;
	expect_not_opened(file_of(text, strlen(text)), NULL, ERR_REFUSED, "names inside the image are not followed");
}

static void the_descriptor_is_no_extent_of_itself(void **state)
{
	const char *text = TEXT "RW 8 FLAT \"me\" 0\n";
	int fd = file_of(text, strlen(text));
	struct beside b = { .names = { "me" }, .fds = { fd } };
	struct image_opener opener = opener_of(&b);

	(void)state;
	expect_not_opened(fcntl(fd, F_DUPFD_CLOEXEC, 0), &opener, ERR_FORMAT, "extent 'me': it is the image itself");
	close_beside(&b);
}

/* Some block device that may be read; -1 = there is none. */
static int any_block_device(void)
{
	DIR *dir = opendir("/dev");
	struct dirent *e;
	struct stat st;
	int fd = -1;

	while (dir && fd < 0 && (e = readdir(dir)))
		if (fstatat(dirfd(dir), e->d_name, &st, 0) == 0 && S_ISBLK(st.st_mode))
			fd = openat(dirfd(dir), e->d_name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (dir)
		closedir(dir);
	return fd;
}

static void a_device_is_no_extent(void **state)
{
	struct beside b = { .names = { NULL } };
	int fd = any_block_device();

	(void)state;
	if (fd < 0) {
		print_message("no block device can be read\n");
		skip();
	}
	put_beside(&b, "disk", fd);
	expect_text_refused(TEXT "RW 8 FLAT \"disk\" 0\n", &b, ERR_REFUSED, "extent 'disk': it is not a regular file");
	expect_text_refused(TEXT "RW 8 SPARSE \"disk\"\n", &b, ERR_REFUSED, "extent 'disk': it is not a regular file");
	close_beside(&b);
}

static void an_extent_that_is_too_small_is_refused_but_as_the_last(void **state)
{
	struct beside b = { .names = { NULL } };
	struct image *img;

	(void)state;
	put_sparse(&b, "s", sparse_new(2040));
	put_sparse(&b, "t", with_gte(with_gte(sparse_new(4096), 255, GRAIN_AT(0)), 256, GRAIN_AT(1)));
	expect_text_refused(TEXT "RW 2048 SPARSE \"s\"\nRW 8 ZERO\n", &b, ERR_FORMAT,
			    "extent 's': the extent has 1044480 bytes, but the descriptor says 1048576");
	img = opened_text(TEXT "RW 8 ZERO\nRW 2048 SPARSE \"s\"\nRW 0 ZERO\n", &b);
	assert_int_equal(img->size, 2048 * 512);
	expect_features(img, "not as large as the descriptor says", true);
	image_close(img);
	img = opened_text(TEXT "RW 2048 SPARSE \"t\"\nRW 8 ZERO\n", &b);
	assert_int_equal(img->size, 2056 * 512);
	expect_extent(img, 0, 2040 * 512, EXTENT_HOLE);
	expect_extent(img, 2040 * 512, 4096, EXTENT_DATA);
	expect_extent(img, 2048 * 512, 4096, EXTENT_ZERO);
	expect_features(img, "not as large as the descriptor says", true);
	image_close(img);
	close_beside(&b);
}

static void directories_of_all_extents_are_bounded_together(void **state)
{
	struct beside b = { .names = { NULL } };
	struct sparse s = sparse_new((uint64_t)5 << 23);
	int fds[2];

	(void)state;
	header_of(&s)->grain_size = le64_from(1);
	header_of(&s)->nr_gtes = le32_from(8);
	header_of(&s)->gd_offset = le64_from(s.len / VMDK_SECTOR);
	for (int i = 0; i < 2; i++) {
		fds[i] = file_of(s.p, s.len);
		assert_int_equal(ftruncate(fds[i], (off_t)(s.len + 5 * 4 * MIB)), 0);
	}
	free(s.p);
	put_beside(&b, "s", fds[0]);
	put_beside(&b, "t", fds[1]);
	image_close(opened_text(TEXT "RW 41943040 SPARSE \"s\"\n", &b));
	expect_text_refused(TEXT "RW 41943040 SPARSE \"s\"\nRW 41943040 SPARSE \"t\"\n", &b, ERR_UNSUPPORTED,
			    "extent 't': grain directories of more than 8388608 entries are not read");
	close_beside(&b);
}

static void a_header_without_capacity_holds_a_descriptor_of_others(void **state)
{
	struct beside b = { .names = { NULL } };
	struct image_opener opener = opener_of(&b);
	struct sparse s = with64(sparse_new(0), AT(grain_size), 0);
	struct image *img;

	(void)state;
	put_flat(&b, "a", 8, 1);
	describe(&s, "createType=\"monolithicFlat\"\nRW 8 FLAT \"a\" 0\n");
	img = must_open(file_of(s.p, s.len), "vmdk", &opener);
	expect_guest_bytes(img, 512, 512, 2);
	image_close(img);
	free(s.p);
	close_beside(&b);
}

/* ---- parents ---- */

#define CHILD                                                                                                          \
	"CID=2\nparentCID=%s\ncreateType=\"monolithicSparse\"\nparentFileNameHint=\"base.vmdk\"\nRW 2048 SPARSE "      \
	"\"x\"\n"

static struct image *opened_child(struct beside *b, const char *cid)
{
	struct image_opener opener = opener_of(b);
	struct sparse s = with32(with_gte(with_gte(plain_disk(), 1, GRAIN_AT(6)), 2, 1), AT(flags), VMDK_HAS_ZEROED);
	struct image *img;
	char text[300];

	snprintf(text, sizeof(text), CHILD, cid);
	describe(&s, text);
	img = must_open(file_of(s.p, s.len), "vmdk", &opener);
	free(s.p);
	return img;
}

static void a_child_shows_its_parent_where_it_has_nothing(void **state)
{
	static const char base[] = "# Disk DescriptorFile\nCID=00001234\nparentCID=ffffffff\ncreateType=\"vmfs\"\n"
				   "RW 32 VMFS \"base-flat.vmdk\"\n";
	struct beside b = { .names = { NULL } };
	struct image_opener opener = opener_of(&b);
	struct err err = ERR_INIT;
	struct image *img;

	(void)state;
	put_beside(&b, "base.vmdk", file_of(base, strlen(base)));
	put_flat(&b, "base-flat.vmdk", 32, 100);
	img = opened_child(&b, "1234");
	assert_int_equal(image_open_chain(img, &opener, &err), 0);
	expect_guest_bytes(img, 0, 512, 100);
	expect_guest_bytes(img, 4096, 4096, 7);
	expect_guest_bytes(img, 8192, 4096, 0);
	expect_guest_bytes(img, 12288, 512, 124);
	expect_guest_bytes(img, 16384, MIB - 16384, 0);
	image_close(img);
	close_beside(&b);
}

static void a_parent_that_changed_is_refused(void **state)
{
	static const char base[] = "# Disk DescriptorFile\nCID=1235\ncreateType=\"custom\"\nRW 2048 ZERO\n";
	struct beside b = { .names = { NULL } };
	struct image_opener opener = opener_of(&b);
	struct err err = ERR_INIT;
	struct image *img;

	(void)state;
	put_beside(&b, "base.vmdk", file_of(base, strlen(base)));
	img = opened_child(&b, "1234");
	assert_int_equal(image_open_chain(img, &opener, &err), -1);
	expect_error(&err, ERR_STALE, "made on 00001234, but this is 00001235");
	image_close(img);
	img = opened_child(&b, "ffffffff");
	assert_int_equal(image_open_chain(img, &opener, &err), -1);
	expect_error(&err, ERR_STALE, "made on ffffffff");
	image_close(img);
	close_beside(&b);
}

/* ---- streams ---- */

/* A stream: header, descriptor, grains as they are added, tables, and a footer if the header leaves the directory to it. */
struct stream {
	uint8_t p[256 * 512];
	uint32_t gtes[512];
	size_t end; /* in sectors */
	uint64_t capacity;
};

static struct stream *stream_new(uint64_t capacity)
{
	struct stream *s = calloc(1, sizeof(*s));

	assert_non_null(s);
	s->end = 5;
	s->capacity = capacity;
	return s;
}

/* Appends compressed bytes with a marker. */
static void add_packed(struct stream *s, unsigned i, const void *bytes, size_t len, uint64_t sector, uint32_t said)
{
	uint8_t *p = s->p + s->end * VMDK_SECTOR;

	assert_true((s->end + 10) * VMDK_SECTOR + len < sizeof(s->p));
	s->gtes[i] = (uint32_t)s->end;
	le64_store(p, sector);
	le32_store(p + 8, said);
	memcpy(p + 12, bytes, len);
	s->end += div_up(12 + len, VMDK_SECTOR);
}

static size_t deflated(uint8_t byte, size_t len, uint8_t *ret, size_t room)
{
	uint8_t *plain = malloc(len);
	uLongf packed = room;

	assert_non_null(plain);
	memset(plain, byte, len);
	assert_int_equal(compress(ret, &packed, plain, len), Z_OK);
	free(plain);
	return packed;
}

static void add_grain(struct stream *s, unsigned i, uint8_t byte, size_t len)
{
	uint8_t packed[8192];
	size_t n = deflated(byte, len, packed, sizeof(packed));

	add_packed(s, i, packed, n, 8 * i, (uint32_t)n);
}

static void add_marker(struct stream *s, uint64_t value, uint32_t type)
{
	le64_store(s->p + s->end * VMDK_SECTOR, value);
	le32_store(s->p + s->end * VMDK_SECTOR + 12, type);
	s->end++;
}

static void put_header(struct stream *s, size_t sector, uint64_t gd)
{
	struct sparse header = sparse_new(s->capacity);
	struct vmdk_header_disk *h = header_of(&header);

	h->version = le32_from(3);
	h->flags = le32_from(VMDK_HAS_NEWLINES | VMDK_COMPRESSED | VMDK_MARKERS);
	h->compression = le16_from(1);
	h->descriptor_offset = le64_from(1);
	h->descriptor_size = le64_from(4);
	h->rgd_offset = le64_from(0);
	h->gd_offset = le64_from(gd);
	h->overhead = le64_from(5);
	memcpy(s->p + sector * VMDK_SECTOR, h, sizeof(*h));
	free(header.p);
}

#define FOOTER_AT(s) (((s)->end - 2) * VMDK_SECTOR)

static void finish(struct stream *s, bool footer)
{
	char text[200];
	size_t gt, gd;

	snprintf(text, sizeof(text), "CID=1\ncreateType=\"streamOptimized\"\nRW %llu SPARSE \"x\"\n",
		 (unsigned long long)s->capacity);
	memcpy(s->p + VMDK_SECTOR, text, strlen(text));
	add_marker(s, 4, VMDK_MARKER_GT);
	gt = s->end;
	for (size_t i = 0; i < 512; i++)
		le32_store(s->p + gt * VMDK_SECTOR + 4 * i, s->gtes[i]);
	s->end += 4;
	add_marker(s, 1, VMDK_MARKER_GD);
	gd = s->end++;
	le32_store(s->p + gd * VMDK_SECTOR, (uint32_t)gt);
	put_header(s, 0, footer ? VMDK_GD_AT_END : gd);
	if (footer) {
		add_marker(s, 1, VMDK_MARKER_FOOTER);
		put_header(s, s->end++, gd);
	}
	add_marker(s, 0, VMDK_MARKER_END);
	assert_true(s->end * VMDK_SECTOR <= sizeof(s->p));
}

static struct stream *plain_stream(bool footer)
{
	struct stream *s = stream_new(2048);

	add_grain(s, 3, 33, GRAIN);
	add_grain(s, 4, 44, GRAIN);
	finish(s, footer);
	return s;
}

static struct image *opened_stream(struct stream *s)
{
	struct image *img = must_open(file_of(s->p, s->end * VMDK_SECTOR), "vmdk", NULL);

	free(s);
	return img;
}

static void expect_stream_refused(struct stream *s, const char *text)
{
	expect_not_opened(file_of(s->p, s->end * VMDK_SECTOR), NULL, ERR_FORMAT, text);
	free(s);
}

static void reads_streams_with_and_without_a_footer(void **state)
{
	(void)state;
	for (int footer = 0; footer < 2; footer++) {
		struct image *img = opened_stream(plain_stream(footer));

		assert_string_equal(img->info.kind, "streamOptimized");
		assert_true(img->info.compressed);
		expect_extent(img, 0, 12288, EXTENT_HOLE);
		expect_extent(img, 12288, 8192, EXTENT_PACKED);
		expect_guest_bytes(img, 12288, 4096, 33);
		expect_guest_bytes(img, 16384, 4096, 44);
		expect_guest_bytes(img, 12289, 1, 33);
		expect_guest_bytes(img, 20480, MIB - 20480, 0);
		image_close(img);
	}
}

static void a_footer_may_end_in_a_sector_that_is_cut(void **state)
{
	struct stream *s = plain_stream(true);
	struct image *img = must_open(file_of(s->p, s->end * VMDK_SECTOR - 400), "vmdk", NULL);

	(void)state;
	expect_guest_bytes(img, 12288, 4096, 33);
	image_close(img);
	free(s);
}

static void a_footer_that_contradicts_the_header_is_refused(void **state)
{
	static const struct {
		size_t at;
		uint64_t value;
		const char *text;
	} cases[] = {
		{ AT(version), 2, "version 3 and 2" },
		{ AT(flags), VMDK_COMPRESSED | VMDK_MARKERS, "flags 196609 and 196608" },
		{ AT(capacity), 2040, "capacity 1048576 and 1044480" },
		{ AT(grain_size), 16, "grain size 4096 and 8192" },
		{ AT(nr_gtes), 256, "grain table size 512 and 256" },
		{ AT(descriptor_offset), 2, "descriptor offset 512 and 1024" },
		{ AT(descriptor_size), 3, "descriptor size 2048 and 1536" },
		{ AT(gd_offset), VMDK_GD_AT_END, "the footer does not say where the grain directory is" },
		{ 0, 0, "footer: no header of a sparse VMDK extent found" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct stream *s = plain_stream(true);

		if (cases[i].value > UINT32_MAX)
			le64_store(s->p + FOOTER_AT(s) + cases[i].at, cases[i].value);
		else
			le32_store(s->p + FOOTER_AT(s) + cases[i].at, (uint32_t)cases[i].value);
		expect_stream_refused(s, cases[i].text);
	}
}

static void a_footer_may_tell_better_where_tables_are(void **state)
{
	struct stream *s = plain_stream(true);
	struct vmdk_header_disk *h = (void *)(s->p + FOOTER_AT(s));
	struct image *img;

	(void)state;
	h->overhead = le64_from(1);
	h->unclean = 1;
	h->rgd_offset = le64_from(7);
	img = opened_stream(s);
	expect_guest_bytes(img, 12288, 4096, 33);
	image_close(img);
}

static void a_stream_that_does_not_end_as_it_should_is_refused(void **state)
{
	struct stream *s = plain_stream(true);

	(void)state;
	s->end--;
	expect_stream_refused(s, "no footer marker");
	s = plain_stream(true);
	le32_store(s->p + FOOTER_AT(s) - VMDK_SECTOR + 8, 1);
	expect_stream_refused(s, "no footer marker");
	s = plain_stream(true);
	le32_store(s->p + FOOTER_AT(s) + VMDK_SECTOR + 12, 3);
	expect_stream_refused(s, "no end-of-stream marker");
	s = plain_stream(true);
	s->end = 5;
	expect_stream_refused(s, "too short for the footer");
}

static void a_last_grain_may_be_stored_without_what_is_past_the_end(void **state)
{
	(void)state;
	for (int whole = 0; whole < 2; whole++) {
		struct stream *s = stream_new(17);
		struct image *img;

		add_grain(s, 2, 22, whole ? GRAIN : 512);
		finish(s, true);
		img = opened_stream(s);
		expect_extent(img, 8192, 512, EXTENT_PACKED);
		expect_guest_bytes(img, 8192, 512, 22);
		image_close(img);
	}
}

static void expect_broken_grain(const void *bytes, size_t len, uint64_t sector, uint32_t said, const char *text)
{
	struct stream *s = stream_new(2048);
	struct image *img;

	add_grain(s, 0, 11, GRAIN);
	add_packed(s, 1, bytes, len, sector, said);
	finish(s, true);
	img = opened_stream(s);
	expect_guest_bytes(img, 0, GRAIN, 11);
	expect_unreadable(img, 4096, text);
	expect_unreadable(img, 5000, text);
	expect_guest_bytes(img, 0, GRAIN, 11);
	image_close(img);
}

static void grains_that_are_broken_are_told(void **state)
{
	uint8_t packed[8192];
	size_t n = deflated(7, GRAIN, packed, sizeof(packed));

	(void)state;
	expect_broken_grain(packed, n, 9, (uint32_t)n,
			    "grain at offset 4096: its marker says that it belongs to sector 9, not 8");
	expect_broken_grain(packed, n, 8, 0, "its marker says that it has 0 bytes");
	expect_broken_grain(packed, n, 8, 8193, "its marker says that it has 8193 bytes");
	expect_broken_grain(packed, n, 8, (uint32_t)n - 8, "compressed data ends early");
	n = deflated(7, GRAIN - 1, packed, sizeof(packed));
	expect_broken_grain(packed, n, 8, (uint32_t)n, "compressed data ends early, 1 bytes short");
	packed[2] ^= 0xff;
	expect_broken_grain(packed, n, 8, (uint32_t)n, "compressed data is broken");
}

static void compressed_grains_may_be_larger(void **state)
{
	struct stream *s = stream_new(2048);
	struct image *img;
	uint8_t packed[8192];
	size_t n = deflated(9, 4 * GRAIN, packed, sizeof(packed));

	(void)state;
	add_packed(s, 1, packed, n, 32, (uint32_t)n);
	finish(s, false);
	le64_store(s->p + AT(grain_size), 32);
	img = opened_stream(s);
	expect_guest_bytes(img, 4 * GRAIN, 4 * GRAIN, 9);
	image_close(img);
}

static void a_grain_gives_its_size_whatever_its_stream_would_give(void **state)
{
	uint8_t packed[8192];
	size_t n = deflated(7, 1000 * GRAIN, packed, sizeof(packed));
	struct stream *s = stream_new(2048);
	struct image *img;

	(void)state;
	add_packed(s, 1, packed, n, 8, (uint32_t)n);
	finish(s, false);
	img = opened_stream(s);
	expect_extent(img, 4096, 4096, EXTENT_PACKED);
	expect_guest_bytes(img, 4096, 4096, 7);
	expect_guest_bytes(img, 8192, 4096, 0);
	image_close(img);
}

static void a_compressed_grain_must_lie_in_the_file(void **state)
{
	struct stream *s = stream_new(2048);
	struct image *img;

	(void)state;
	add_grain(s, 0, 1, GRAIN);
	s->gtes[1] = 1 << 30;
	finish(s, false);
	img = opened_stream(s);
	expect_unreadable(img, 4096, "end past the end of the file");
	image_close(img);
}

/* ---- which format ---- */

static void expect_choice(const void *bytes, size_t len, const char *path, enum image_certainty certainty)
{
	struct image_file f = { .fd = file_of(bytes, len), .path = (char *)(uintptr_t)path };
	struct err err = ERR_INIT;
	struct image_choice choice;

	f.size = len;
	if (image_choose(&f, &choice, &err) < 0)
		fail_msg("%s", err.text);
	assert_string_equal(choice.format->name, "vmdk");
	assert_int_equal(choice.certainty, certainty);
	close(f.fd);
}

static void is_chosen_by_its_header(void **state)
{
	struct sparse s = plain_disk();

	(void)state;
	expect_choice(s.p, s.len, "a.vmdk", IMAGE_AGREED);
	expect_choice(s.p, s.len, "a.img", IMAGE_GUESSED);
	expect_choice("COWD\1\0\0\0", 8, "a-delta.vmdk", IMAGE_AGREED);
	expect_choice("\xbe\xba\xfe\xca\0\0\0\0", 8, "a-sesparse.vmdk", IMAGE_AGREED);
	expect_choice(TEXT, strlen(TEXT), "A.VMDK", IMAGE_AGREED);
	free(s.p);
}

static void flat_files_are_parts_by_their_names(void **state)
{
	static const char *const names[] = { "a-flat.vmdk", "a-f001.vmdk", "a-f1000.vmdk",
					     "a-ctk.vmdk",  "a-rdm.vmdk",  "a-rdmp.vmdk" };
	uint8_t zeros[4096] = { 0 };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		struct image_file f = { .fd = file_of(zeros, sizeof(zeros)), .path = (char *)(uintptr_t)names[i] };
		struct err err = ERR_INIT;
		struct image_choice choice;

		f.size = sizeof(zeros);
		assert_int_equal(image_choose(&f, &choice, &err), -1);
		expect_error(&err, ERR_PART, "a part of a vmdk image");
		close(f.fd);
	}
}

/* ---- inside another file ---- */

/* A raw image with something in front of and behind a VMDK, which is opened inside it. */
static struct image *opened_inside(const void *bytes, size_t len, struct image **ret_outer, struct err *err)
{
	uint8_t *p = calloc(1, len + 5000);

	assert_non_null(p);
	memset(p + len + 1000, 0xee, 4000);
	memcpy(p + 1000, bytes, len);
	*ret_outer = must_open(file_of(p, len + 5000), "raw", NULL);
	free(p);
	return image_open_inside(*ret_outer, "disk.vmdk", 1000, len, err);
}

static void is_read_inside_another_file(void **state)
{
	struct stream *s = plain_stream(true);
	struct sparse d = with_gte(plain_disk(), 0, GRAIN_AT(NR_GRAINS - 1));
	struct err err = ERR_INIT;
	struct image *outer, *img = opened_inside(s->p, s->end * VMDK_SECTOR, &outer, &err);

	(void)state;
	if (!img)
		fail_msg("%s", err.text);
	expect_guest_bytes(img, 12288, 4096, 33);
	image_close(img);
	image_close(outer);
	d.len -= 1000; /* what is behind it is not part of its last grain */
	img = opened_inside(d.p, d.len, &outer, &err);
	if (!img)
		fail_msg("%s", err.text);
	expect_guest_bytes(img, 0, 3096, NR_GRAINS);
	expect_guest_bytes(img, 3096, 1000, 0);
	image_close(img);
	image_close(outer);
	free(d.p);
	free(s);
}

static void names_inside_another_file_are_refused(void **state)
{
	const char *text = TEXT "RW 8 FLAT \"a\" 0\n";
	struct err err = ERR_INIT;
	struct image *outer;

	(void)state;
	assert_null(opened_inside(text, strlen(text), &outer, &err));
	expect_error(&err, ERR_REFUSED, "extent 'a': names inside the image are not followed");
	image_close(outer);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(shows_data_zeroed_grains_and_holes),
		cmocka_unit_test(an_entry_of_1_is_a_grain_where_no_flag_says_otherwise),
		cmocka_unit_test(joins_grains_that_follow_each_other_in_the_file_only),
		cmocka_unit_test(joins_what_is_alike_over_tables),
		cmocka_unit_test(a_table_that_is_not_there_has_nothing_of_the_one_before_it),
		cmocka_unit_test(the_disk_may_end_inside_a_grain),
		cmocka_unit_test(a_grain_past_the_end_of_the_file_reads_as_zeros),
		cmocka_unit_test(a_table_that_is_not_there_is_passed_at_once),
		cmocka_unit_test(tables_of_any_size_are_read),
		cmocka_unit_test(a_disk_of_no_size_is_empty),
		cmocka_unit_test(the_redundant_directory_is_for_when_the_first_is_broken),
		cmocka_unit_test(broken_directories_are_refused),
		cmocka_unit_test(a_table_may_end_with_the_file_but_not_past_it),
		cmocka_unit_test(headers_that_break_the_rules_are_refused),
		cmocka_unit_test(a_file_may_end_with_its_tables),
		cmocka_unit_test(what_is_not_known_is_named),
		cmocka_unit_test(flags_that_readers_need_not_know_are_passed_over),
		cmocka_unit_test(an_extent_without_a_descriptor_is_a_part),
		cmocka_unit_test(tells_what_it_knows_of_an_image),
		cmocka_unit_test(a_disk_without_a_parent_names_none),
		cmocka_unit_test(encrypted_disks_have_no_guest_view),
		cmocka_unit_test(an_embedded_descriptor_lists_one_sparse_extent),
		cmocka_unit_test(a_descriptor_must_say_what_disk_it_is),
		cmocka_unit_test(a_descriptor_that_is_too_large_is_not_read),
		cmocka_unit_test(of_header_and_descriptor_the_smaller_size_counts),
		cmocka_unit_test(puts_extents_one_behind_the_other),
		cmocka_unit_test(each_sparse_extent_has_its_own_tables),
		cmocka_unit_test(an_extent_may_end_inside_a_grain),
		cmocka_unit_test(joins_flat_extents_that_follow_each_other_in_a_file),
		cmocka_unit_test(a_flat_file_that_is_too_short_reads_as_zeros_past_its_end),
		cmocka_unit_test(extents_that_cannot_be_had_are_named),
		cmocka_unit_test(names_are_not_followed_without_an_opener),
		cmocka_unit_test(the_descriptor_is_no_extent_of_itself),
		cmocka_unit_test(a_device_is_no_extent),
		cmocka_unit_test(an_extent_that_is_too_small_is_refused_but_as_the_last),
		cmocka_unit_test(directories_of_all_extents_are_bounded_together),
		cmocka_unit_test(a_header_without_capacity_holds_a_descriptor_of_others),
		cmocka_unit_test(a_child_shows_its_parent_where_it_has_nothing),
		cmocka_unit_test(a_parent_that_changed_is_refused),
		cmocka_unit_test(reads_streams_with_and_without_a_footer),
		cmocka_unit_test(a_footer_may_end_in_a_sector_that_is_cut),
		cmocka_unit_test(a_footer_that_contradicts_the_header_is_refused),
		cmocka_unit_test(a_footer_may_tell_better_where_tables_are),
		cmocka_unit_test(a_stream_that_does_not_end_as_it_should_is_refused),
		cmocka_unit_test(a_last_grain_may_be_stored_without_what_is_past_the_end),
		cmocka_unit_test(grains_that_are_broken_are_told),
		cmocka_unit_test(compressed_grains_may_be_larger),
		cmocka_unit_test(a_grain_gives_its_size_whatever_its_stream_would_give),
		cmocka_unit_test(a_compressed_grain_must_lie_in_the_file),
		cmocka_unit_test(is_chosen_by_its_header),
		cmocka_unit_test(flat_files_are_parts_by_their_names),
		cmocka_unit_test(is_read_inside_another_file),
		cmocka_unit_test(names_inside_another_file_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
