/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include "compactor/proof.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/base/jail.h"
#include "scanner/image/vdi_format.h"
#include "scanner/roots.h"
#include "tests/unit/image_help.h"

/* ---- bytes ---- */

static uint8_t bytes[3 * MIB + 700];

static int make_bytes(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i % 251);
	return 0;
}

static int same_bytes(int old, int copy, proof_check *check, void *ctx, struct err *err)
{
	int rc = proof_same_bytes(old, copy, check, ctx, err);

	close(old);
	close(copy);
	return rc;
}

static void equal_bytes_are_the_same(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	for (size_t len = 0; len <= sizeof(bytes); len += sizeof(bytes) / 3)
		assert_int_equal(same_bytes(file_of(bytes, len), file_of(bytes, len), NULL, NULL, &err), 0);
}

/* B6 */
static void one_bit_is_found_wherever_it_is(void **state)
{
	static const size_t places[] = { 0, 4095, MIB - 1, MIB, 2 * MIB + 77, sizeof(bytes) - 1 };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		int old = file_of(bytes, sizeof(bytes));
		struct err err = ERR_INIT;
		char text[64];

		bytes[places[i]] ^= 1;
		assert_int_equal(same_bytes(old, file_of(bytes, sizeof(bytes)), NULL, NULL, &err), -1);
		snprintf(text, sizeof(text), "differs from the original at offset %zu", places[i]);
		expect_error(&err, ERR_IO, text);
		bytes[places[i]] ^= 1;
	}
}

/* B8 */
static void files_of_other_lengths_differ(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(same_bytes(file_of(bytes, 5000), file_of(bytes, 5001), NULL, NULL, &err), -1);
	expect_error(&err, ERR_IO, "has 5001 bytes, the original 5000");
	assert_int_equal(same_bytes(file_of(bytes, 5000), file_of(bytes, 4999), NULL, NULL, &err), -1);
}

/* What the file system says of holes is not asked. */
static off_t no_lseek(int fd, off_t offset, int whence)
{
	(void)fd;
	(void)offset;
	(void)whence;
	fail_msg("asked for holes");
	return -1;
}

static void a_hole_is_zeros_and_is_read(void **state)
{
	struct file_ops ops = file_ops_os;
	int old = file_of(bytes, 0), copy = file_of(bytes, 0);
	struct err err = ERR_INIT;

	(void)state;
	ops.lseek = no_lseek;
	file_ops = &ops;
	memset(bytes, 0, sizeof(bytes));
	assert_int_equal(ftruncate(old, sizeof(bytes)), 0);
	assert_int_equal(pwrite(copy, bytes, sizeof(bytes), 0), sizeof(bytes));
	assert_int_equal(proof_same_bytes(old, copy, NULL, NULL, &err), 0);
	assert_int_equal(pwrite(copy, "x", 1, 2 * MIB), 1);
	assert_int_equal(same_bytes(old, copy, NULL, NULL, &err), -1);
	file_ops = &file_ops_os;
}

static int count_down(void *ctx, uint64_t done, uint64_t total, struct err *err)
{
	int *left = ctx;

	(void)done;
	(void)total;
	return (*left)-- ? 0 : err_set(err, ERR_CANCELED, "stopped");
}

static void comparing_stops_when_it_is_told_to(void **state)
{
	struct err err = ERR_INIT;
	int left = 100;

	(void)state;
	assert_int_equal(same_bytes(file_of(bytes, sizeof(bytes)), file_of(bytes, sizeof(bytes)), count_down, &left, &err), 0);
	assert_int_equal(left, 96); /* once for each MiB */
	left = 2;
	assert_int_equal(same_bytes(file_of(bytes, sizeof(bytes)), file_of(bytes, sizeof(bytes)), count_down, &left, &err), -1);
	expect_error(&err, ERR_CANCELED, "stopped");
}

static ssize_t pread_eio(int fd, void *buf, size_t len, off_t offset)
{
	if (offset < (off_t)MIB)
		return pread(fd, buf, len, offset);
	errno = EIO;
	return -1;
}

/* B7 */
static void what_cannot_be_read_is_not_the_same(void **state)
{
	struct file_ops ops = file_ops_os;
	struct err err = ERR_INIT;

	(void)state;
	ops.pread = pread_eio;
	file_ops = &ops;
	assert_int_equal(same_bytes(file_of(bytes, 2 * MIB), file_of(bytes, 2 * MIB), NULL, NULL, &err), -1);
	file_ops = &file_ops_os;
	expect_error(&err, ERR_IO, "the original: cannot read");
}

/* ---- images: VDI by hand, of five blocks of 64 KiB, the map at 512, data at 4096 ---- */

#define BLOCK (64 * KIB)
#define NR 5

static uint8_t vdi[4096 + 3 * BLOCK];

static void set_map(uint32_t a, uint32_t b, uint32_t c, uint32_t d, uint32_t e)
{
	const uint32_t map[] = { a, b, c, d, e };

	for (size_t i = 0; i < NR; i++)
		le32_store(vdi + 512 + 4 * i, map[i]);
}

static void make_vdi(bool differencing)
{
	struct vdi_header_disk h = {
		.signature = le32_from(VDI_SIGNATURE), .version = le32_from(VDI_VERSION_1_1), .header_size = le32_from(400),
		.type = le32_from(differencing ? VDI_DIFFERENCING : VDI_DYNAMIC), .map_offset = le32_from(512),
		.data_offset = le32_from(4096), .size = le64_from(NR * BLOCK), .block_size = le32_from(BLOCK),
		.nr_blocks = le32_from(NR), .id = "id", .parent = "",
	};

	memset(vdi, 0, sizeof(vdi));
	if (differencing)
		memset(h.parent, 'p', sizeof(h.parent));
	memcpy(vdi, &h, sizeof(h));
	set_map(0, 1, VDI_FREE, VDI_ZERO, VDI_FREE);
	memset(vdi + 4096, 'a', BLOCK);
	memset(vdi + 4096 + BLOCK, 'b', BLOCK);
	/* block 2 of the file is zeros that are stored */
}

static struct image *vdi_now(void)
{
	return must_open(file_of(vdi, sizeof(vdi)), "vdi", NULL);
}

/* Both ways round. */
static void expect_same(struct image *old, bool same, const char *text)
{
	struct image *copy = vdi_now();
	struct err err = ERR_INIT;

	assert_int_equal(proof_compare(old, copy, NULL, NULL, &err), same ? 0 : -1);
	if (!same)
		expect_error(&err, ERR_IO, text);
	assert_int_equal(proof_compare(copy, old, NULL, NULL, NULL), same ? 0 : -1);
	image_close(copy);
}

static void images_are_compared_by_what_they_say(void **state)
{
	struct image *old;

	(void)state;
	make_vdi(false);
	old = vdi_now();
	expect_same(old, true, NULL);
	set_map(1, 0, VDI_FREE, VDI_ZERO, VDI_FREE);
	expect_same(old, false, "at offset 0");
	memset(vdi + 4096, 'b', BLOCK);
	memset(vdi + 4096 + BLOCK, 'a', BLOCK);
	expect_same(old, true, NULL); /* the same blocks elsewhere */
	vdi[4096 + BLOCK - 1] ^= 4;
	expect_same(old, false, "at offset 131071");
	image_close(old);
}

static void without_a_parent_zeros_are_zeros_however_they_are_kept(void **state)
{
	struct image *old;

	(void)state;
	make_vdi(false);
	old = vdi_now();
	set_map(0, 1, VDI_ZERO, VDI_FREE, 2);
	expect_same(old, true, NULL);
	vdi[4096 + 2 * BLOCK + 100] = 1;
	expect_same(old, false, "at offset 262244");
	image_close(old);
}

static void over_a_parent_a_hole_is_a_hole_only(void **state)
{
	struct image *old;

	(void)state;
	make_vdi(true);
	old = vdi_now();
	expect_same(old, true, NULL);
	set_map(0, 1, VDI_FREE, 2, VDI_FREE);
	expect_same(old, true, NULL); /* zeros stored and said */
	set_map(0, 1, VDI_ZERO, VDI_ZERO, VDI_FREE);
	expect_same(old, false, "shows through at offset 131072 in only one");
	set_map(0, 1, VDI_FREE, VDI_ZERO, 2);
	expect_same(old, false, "shows through at offset 262144 in only one");
	image_close(old);
}

static void what_images_say_of_themselves_counts(void **state)
{
	struct image *old;

	(void)state;
	make_vdi(true);
	old = vdi_now();
	vdi[offsetof(struct vdi_header_disk, id)] = 'x';
	expect_same(old, false, "the id of the new image is");
	make_vdi(true);
	vdi[offsetof(struct vdi_header_disk, parent)] = 'x';
	expect_same(old, false, "id of the backing file");
	make_vdi(false);
	expect_same(old, false, "the kind of the new image is");
	make_vdi(true);
	le64_store(vdi + offsetof(struct vdi_header_disk, size), NR * BLOCK - 512);
	expect_same(old, false, "the size of the new image is");
	image_close(old);
}

/* A file system that shows a hole where there is data: what is there is compared all the same (test_guest_proof.c). */
static void holes_of_the_file_are_doubted(void **state)
{
	struct image *old, *copy;
	struct err err = ERR_INIT;

	(void)state;
	make_vdi(false);
	old = vdi_now();
	copy = vdi_now();
	assert_int_equal(proof_compare(old, copy, NULL, NULL, &err), 0);
	assert_true(old->doubts_holes && copy->doubts_holes);
	image_close(old);
	image_close(copy);
}

/* ---- in a process ---- */

static struct roots roots;
static struct jail jail;

static int make(void **state)
{
	roots = (struct roots){ 0 };
	make_vdi(false);
	if (jail_plan(&jail, JAIL_BEST, NULL) < 0 || tree_make(state) < 0)
		return -1;
	return roots_add(&roots, tree, false, NULL);
}

static int unmake(void **state)
{
	roots_release(&roots);
	return tree_remove(state);
}

#define proof_test(f) cmocka_unit_test_setup_teardown(f, make, unmake)

static int prove(int old, int copy, const char *format, struct err *err)
{
	int rc = proof_same_image(old, copy, in_tree("old"), format, &roots, &jail, NULL, NULL, err);

	close(old);
	close(copy);
	return rc;
}

static void it_is_done_in_a_process(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(prove(file_of(vdi, sizeof(vdi)), file_of(vdi, sizeof(vdi)), "vdi", &err), 0);
	int old = file_of(vdi, sizeof(vdi));
	vdi[5000] ^= 1;
	assert_int_equal(prove(old, file_of(vdi, sizeof(vdi)), "vdi", &err), -1);
	expect_error(&err, ERR_IO, "at offset 904");
	assert_int_equal(prove(file_of(vdi, sizeof(vdi)), file_of(vdi, 100), "vdi", &err), -1);
	expect_error(&err, ERR_FORMAT, "the new file: ");
	assert_int_equal(prove(file_of(vdi, 100), file_of(vdi, sizeof(vdi)), "vdi", &err), -1);
	expect_error(&err, ERR_FORMAT, "the original: ");
	assert_int_equal(prove(file_of(vdi, sizeof(vdi)), file_of(vdi, sizeof(vdi)), "", &err), -1);
	expect_error(&err, ERR_USAGE, "'' is no format");
}

/* A VMDK over an extent: both lead to the same file, beneath a root. */
static void files_that_they_name_are_opened_by_the_rules(void **state)
{
	static const char text[] = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n"
				   "RW 16 FLAT \"flat.vmdk\" 0\n";
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(prove(file_of(text, strlen(text)), file_of(text, strlen(text)), "vmdk", &err), -1);
	expect_error(&err, ERR_IO, "flat.vmdk");
	tree_write("flat.vmdk", vdi, 8192);
	if (prove(file_of(text, strlen(text)), file_of(text, strlen(text)), "vmdk", &err) < 0)
		fail_msg("%s", err.text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(equal_bytes_are_the_same, make_bytes),
		cmocka_unit_test_setup(one_bit_is_found_wherever_it_is, make_bytes),
		cmocka_unit_test_setup(files_of_other_lengths_differ, make_bytes),
		cmocka_unit_test_setup(a_hole_is_zeros_and_is_read, make_bytes),
		cmocka_unit_test_setup(comparing_stops_when_it_is_told_to, make_bytes),
		cmocka_unit_test_setup(what_cannot_be_read_is_not_the_same, make_bytes),
		cmocka_unit_test(images_are_compared_by_what_they_say),
		cmocka_unit_test(without_a_parent_zeros_are_zeros_however_they_are_kept),
		cmocka_unit_test(over_a_parent_a_hole_is_a_hole_only),
		cmocka_unit_test(what_images_say_of_themselves_counts),
		cmocka_unit_test(holes_of_the_file_are_doubted),
		proof_test(it_is_done_in_a_process),
		proof_test(files_that_they_name_are_opened_by_the_rules),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
