/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include <linux/falloc.h>
#include <signal.h>

#include "compactor/relayout.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/base/proc.h"
#include "scanner/image/vdi_format.h"
#include "scanner/image/vhd_format.h"
#include "scanner/roots.h"
#include "tests/unit/image_help.h"
#include "tests/unit/sanitized.h"

#define BLOCK (64 * KIB)
#define NR_BLOCKS 5
#define TABLE 1536
#define FIRST 4608 /* of the blocks of the file */
#define STRIDE (512 + BLOCK)

static struct roots roots;
static struct jail jail;

static int make(void **state)
{
	roots = (struct roots){ 0 };
	if (jail_plan(&jail, JAIL_BEST, NULL) < 0 || tree_make(state) < 0)
		return -1;
	return roots_add(&roots, tree, false, NULL);
}

static int unmake(void **state)
{
	roots_release(&roots);
	return tree_remove(state);
}

#define relayout_test(f) cmocka_unit_test_setup_teardown(f, make, unmake)

/* ---- a VHD image by hand: blocks 3, 0 and 4 of the disk, in this order ---- */

static uint8_t vhd[FIRST + 3 * STRIDE + 512];
static const uint32_t order[] = { 3, 0, 4 };

static void seal(uint8_t *p, size_t len, size_t at)
{
	be32_store(p + at, vhd_checksum(p, len, at));
}

static void put_footer(uint8_t *p, enum vhd_type type)
{
	struct vhd_footer_disk f = {
		.cookie = "conectix", .features = be32_from(2), .version = be32_from(0x10000), .header_offset = be64_from(512),
		.creator = "win ", .current_size = be64_from(NR_BLOCKS * BLOCK), .type = be32_from(type),
		.original_size = be64_from(NR_BLOCKS * BLOCK),
	};

	memset(f.id, 'i', sizeof(f.id));
	memcpy(p, &f, sizeof(f));
	seal(p, sizeof(f), offsetof(struct vhd_footer_disk, checksum));
}

static void put_header(uint32_t block_size)
{
	struct vhd_header_disk h = {
		.cookie = "cxsparse", .table_offset = be64_from(TABLE), .version = be32_from(0x10000),
		.table_entries = be32_from(NR_BLOCKS * (uint32_t)(BLOCK / block_size)), .block_size = be32_from(block_size),
	};

	memset(&h.data_offset, 0xff, sizeof(h.data_offset));
	memcpy(vhd + 512, &h, sizeof(h));
	seal(vhd + 512, sizeof(h), offsetof(struct vhd_header_disk, checksum));
}

static void set_entry(uint32_t block, uint64_t offset)
{
	be32_store(vhd + TABLE + 4 * block, (uint32_t)(offset / 512));
}

/* The second half of each block is zeros. */
static void make_vhd(void)
{
	memset(vhd, 0, sizeof(vhd));
	put_footer(vhd, VHD_DYNAMIC);
	put_footer(vhd + sizeof(vhd) - 512, VHD_DYNAMIC);
	put_header(BLOCK);
	memset(vhd + TABLE, 0xff, 2048);
	memcpy(vhd + 4000, "somebody's", 10);
	for (uint32_t i = 0; i < 3; i++) {
		uint8_t *p = vhd + FIRST + i * STRIDE;

		set_entry(order[i], FIRST + i * STRIDE);
		memset(p, 0xf0 + (int)i, 512);
		memset(p + 512, 'A' + (int)i, BLOCK / 2);
	}
}

static int relayout(int old, int copy, const char *format, struct err *err)
{
	struct image *img = must_open(fcntl(old, F_DUPFD_CLOEXEC, 0), format, NULL);
	int rc = relayout_write(img, copy, NULL, NULL, err);

	image_close(img);
	return rc;
}

/* What becomes of these bytes; *ret_size, how many. */
static uint8_t *relaid(const uint8_t *bytes, size_t len, const char *format, size_t *ret_size)
{
	int old = file_of(bytes, len), copy = file_of("", 0);
	struct err err = ERR_INIT;
	struct stat st;
	uint8_t *got;

	if (relayout(old, copy, format, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(fstat(copy, &st), 0);
	got = malloc((size_t)st.st_size + 1);
	assert_non_null(got);
	assert_int_equal(pread(copy, got, (size_t)st.st_size, 0), st.st_size);
	*ret_size = (size_t)st.st_size;
	close(old);
	close(copy);
	return got;
}

static void blocks_of_a_vhd_come_to_boundaries_in_their_order(void **state)
{
	size_t size, end = 0;
	uint8_t *got;

	(void)state;
	make_vhd();
	got = relaid(vhd, sizeof(vhd), "vhd", &size);
	assert_memory_equal(got, vhd, TABLE);
	assert_memory_equal(got + TABLE + 4 * NR_BLOCKS, vhd + TABLE + 4 * NR_BLOCKS, FIRST - TABLE - 4 * NR_BLOCKS);
	for (uint32_t i = 0; i < 3; i++) {
		uint64_t at = (uint64_t)be32_load(got + TABLE + 4 * order[i]) * 512;

		assert_int_equal((at + 512) % 4096, 0);
		assert_int_equal(at, i == 0 ? 8192 - 512 : end + 4096 - 512);
		assert_memory_equal(got + at, vhd + FIRST + i * STRIDE, STRIDE);
		end = at + STRIDE;
	}
	assert_int_equal(be32_load(got + TABLE + 4), VHD_NO_BLOCK);
	assert_int_equal(be32_load(got + TABLE + 8), VHD_NO_BLOCK);
	assert_memory_equal(got + end, vhd, 512);
	assert_int_equal(size, end + 512);
	assert_true(size <= relayout_size("vhd", sizeof(vhd), BLOCK));
	free(got);
}

static void zeros_become_holes(void **state)
{
	int old, copy = file_of("", 0);
	struct err err = ERR_INIT;
	struct stat st;

	(void)state;
	make_vhd();
	old = file_of(vhd, sizeof(vhd));
	assert_int_equal(relayout(old, copy, "vhd", &err), 0);
	assert_int_equal(fstat(copy, &st), 0);
	/* half of three blocks, three bitmaps, tables, footer: pages of 4 KiB */
	assert_in_range(st.st_blocks * 512, 3 * BLOCK / 2, 3 * BLOCK / 2 + 6 * 4096);
	close(old);
	close(copy);
}

static void what_is_aligned_comes_out_the_same(void **state)
{
	size_t size, again_size;
	uint8_t *got, *again;

	(void)state;
	make_vhd();
	got = relaid(vhd, sizeof(vhd), "vhd", &size);
	again = relaid(got, size, "vhd", &again_size);
	assert_int_equal(size, again_size);
	assert_memory_equal(got, again, size);
	free(got);
	free(again);
}

static void expect_refusal(const char *format, const void *bytes, size_t len, enum err_kind kind, const char *text)
{
	int old = file_of(bytes, len), copy = file_of("", 0);
	struct err err = ERR_INIT;

	assert_int_equal(relayout(old, copy, format, &err), -1);
	expect_error(&err, kind, text);
	close(old);
	close(copy);
}

static void expect_vhd_refusal(const char *text)
{
	expect_refusal("vhd", vhd, sizeof(vhd), ERR_UNSUPPORTED, text);
}

static void what_is_not_plain_is_refused(void **state)
{
	(void)state;
	make_vhd();
	set_entry(4, FIRST + STRIDE);
	expect_vhd_refusal("runs into the next one"); /* two blocks at one place */
	set_entry(4, FIRST + STRIDE + 512);
	expect_vhd_refusal("runs into the next one");
	set_entry(4, FIRST + 2 * STRIDE + 512);
	expect_vhd_refusal("or past the end");
	set_entry(4, (uint64_t)0xfffffffe * 512);
	expect_vhd_refusal("or past the end");
	make_vhd();
	set_entry(3, 1536);
	expect_vhd_refusal("not behind all tables");
	make_vhd();
	set_entry(0, VHD_NO_BLOCK * 512ull);
	expect_vhd_refusal("belong to no block");
	make_vhd();
	vhd[100] ^= 1;
	expect_vhd_refusal("footer or its copy is broken");
	make_vhd();
	vhd[sizeof(vhd) - 100] ^= 1;
	expect_vhd_refusal("footer or its copy is broken");
	make_vhd();
	put_header(2048);
	expect_vhd_refusal("blocks of 2048 bytes");
	make_vhd();
	be32_store(vhd + 512 + offsetof(struct vhd_header_disk, locators), VHD_W2KU);
	be32_store(vhd + 512 + offsetof(struct vhd_header_disk, locators) + 8, 10);
	be64_store(vhd + 512 + offsetof(struct vhd_header_disk, locators) + 16, FIRST + 100);
	seal(vhd + 512, VHD_HEADER_SIZE, offsetof(struct vhd_header_disk, checksum));
	expect_vhd_refusal("not behind all tables");
	make_vhd();
	put_footer(vhd + sizeof(vhd) - 512, VHD_FIXED);
	be64_store(vhd + sizeof(vhd) - 512 + offsetof(struct vhd_footer_disk, current_size), 512);
	seal(vhd + sizeof(vhd) - 512, 512, offsetof(struct vhd_footer_disk, checksum));
	vhd[0] = 0;
	expect_vhd_refusal("kind 'fixed'");
}

/* ---- VDI ---- */

static uint8_t vdi[1536 + 3 * BLOCK];

static void make_vdi(enum vdi_type type, uint32_t block_size, uint32_t extra)
{
	struct vdi_header_disk h = {
		.signature = le32_from(VDI_SIGNATURE), .version = le32_from(VDI_VERSION_1_1), .header_size = le32_from(400),
		.type = le32_from(type), .map_offset = le32_from(512), .data_offset = le32_from(1536), .size = le64_from(2 * BLOCK),
		.block_size = le32_from(block_size), .block_extra = le32_from(extra),
		.nr_blocks = le32_from((uint32_t)(2 * BLOCK / block_size)), .parent = "parent",
	};

	memset(vdi, 0, sizeof(vdi));
	memcpy(vdi, &h, sizeof(h));
	memset(vdi + 512, 0xff, 512);
	le32_store(vdi + 512, 1);
	le32_store(vdi + 516, 0);
	memset(vdi + 1200, 'g', 100); /* in the gap */
	memset(vdi + 1536, 'x', BLOCK);
	memset(vdi + 1536 + BLOCK, 'y', BLOCK / 2);
}

static void the_data_of_a_vdi_moves_as_a_whole(void **state)
{
	const size_t field = offsetof(struct vdi_header_disk, data_offset);

	(void)state;
	for (enum vdi_type type = VDI_DYNAMIC; type <= VDI_FIXED; type++) {
		size_t size;
		uint8_t *got;

		make_vdi(type, BLOCK, type == VDI_FIXED ? 4096 : 0);
		got = relaid(vdi, sizeof(vdi), "vdi", &size);
		assert_int_equal(size, MIB + sizeof(vdi) - 1536);
		assert_true(size <= relayout_size("vdi", sizeof(vdi), BLOCK));
		assert_int_equal(le32_load(got + field), MIB);
		assert_memory_equal(got, vdi, field);
		assert_memory_equal(got + field + 4, vdi + field + 4, 1536 - field - 4);
		assert_memory_equal(got + MIB, vdi + 1536, sizeof(vdi) - 1536);
		free(got);
	}
}

static void vdi_images_that_cannot_be_aligned_are_refused(void **state)
{
	(void)state;
	make_vdi(VDI_DYNAMIC, BLOCK, 512);
	expect_refusal("vdi", vdi, sizeof(vdi), ERR_UNSUPPORTED, "behind 512 extra ones");
	make_vdi(VDI_DYNAMIC, 1024, 0);
	expect_refusal("vdi", vdi, sizeof(vdi), ERR_UNSUPPORTED, "blocks of 1024 bytes");
	make_vdi(VDI_DIFFERENCING, BLOCK, 0);
	expect_refusal("vdi", vdi, sizeof(vdi), ERR_UNSUPPORTED, "kind 'differencing'");
}

static void it_applies_to_few(void **state)
{
	(void)state;
	assert_true(relayout_applies("vhd", "dynamic") && relayout_applies("vdi", "dynamic") && relayout_applies("vdi", "fixed"));
	assert_false(relayout_applies("vhd", "fixed") || relayout_applies("vhd", "differencing"));
	assert_false(relayout_applies("vdi", "differencing") || relayout_applies("raw", "") || relayout_applies("vhdx", "dynamic"));
}

/* ---- in a process ---- */

/* Both are open for writing, as they are when an image is replaced. */
static int make_in_jail(const void *bytes, size_t len, const char *format, proof_check *check, struct err *err)
{
	int old, copy, rc;

	tree_write("old", bytes, len);
	old = open(in_tree("old"), O_RDWR);
	copy = open(in_tree("new"), O_RDWR | O_CREAT | O_TRUNC, 0600);
	rc = relayout_make(old, copy, in_tree("old"), format, &roots, &jail, check, NULL, err);
	if (rc == 0)
		rc = proof_same_image(old, copy, in_tree("old"), format, &roots, &jail, NULL, NULL, err);
	close(old);
	close(copy);
	return rc;
}

static void it_is_done_in_a_jail(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	make_vhd();
	if (make_in_jail(vhd, sizeof(vhd), "vhd", NULL, &err) < 0)
		fail_msg("%s", err.text);
	make_vdi(VDI_DYNAMIC, BLOCK, 0);
	if (make_in_jail(vdi, sizeof(vdi), "vdi", NULL, &err) < 0)
		fail_msg("%s", err.text);
	vhd[512] = 'x';
	assert_int_equal(make_in_jail(vhd, sizeof(vhd), "vhd", NULL, &err), -1);
	expect_error(&err, ERR_FORMAT, "no VHD");
	assert_int_equal(make_in_jail(vhd, sizeof(vhd), "vhdd", NULL, &err), -1);
	expect_error(&err, ERR_USAGE, "'vhdd' is no format");
}

static int always_stop(void *ctx, uint64_t done, uint64_t total, struct err *err)
{
	(void)ctx;
	(void)done;
	(void)total;
	return err_set(err, ERR_CANCELED, "stopped");
}

#define LONG_SIZE ((uint64_t)1 << 31)

/* An image that takes much longer to compare than a tenth of a second: space is reserved for its blocks, which is read, as no
 * hole. */
static int long_image(void)
{
	struct vdi_header_disk h;
	int fd;

	make_vdi(VDI_FIXED, LONG_SIZE / 32, 0);
	memcpy(&h, vdi, sizeof(h));
	h.size = le64_from(LONG_SIZE);
	h.nr_blocks = le32_from(32);
	memcpy(vdi, &h, sizeof(h));
	for (uint32_t i = 0; i < 32; i++)
		le32_store(vdi + 512 + 4 * i, i);
	tree_write("old", vdi, 1536);
	fd = open(in_tree("old"), O_RDWR);
	assert_int_equal(fallocate(fd, 0, 0, (off_t)LONG_SIZE + 1536), 0);
	return fd;
}

static void it_stops_when_it_is_told_to(void **state)
{
	int old = long_image(), copy = open(in_tree("old"), O_RDWR);
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(proof_same_image(old, copy, "old", "vdi", &roots, &jail, always_stop, NULL, &err), -1);
	expect_error(&err, ERR_CANCELED, "stopped");
	close(old);
	close(copy);
}

/* Stops it when it has come further three times. */
static int stop_on_third(void *ctx, uint64_t done, uint64_t total, struct err *err)
{
	uint64_t *seen = ctx;

	if (done <= seen[0])
		return 0;
	assert_int_equal(total, LONG_SIZE);
	assert_true(done <= total);
	seen[0] = done;
	return ++seen[1] == 3 ? err_set(err, ERR_CANCELED, "stopped") : 0;
}

static void it_tells_how_far_it_is(void **state)
{
	int old = long_image(), copy = open(in_tree("old"), O_RDWR);
	struct err err = ERR_INIT;
	uint64_t seen[2] = { 0 };

	(void)state;
	assert_int_equal(proof_same_image(old, copy, "old", "vdi", &roots, &jail, stop_on_third, seen, &err), -1);
	expect_error(&err, ERR_CANCELED, "stopped");
	assert_int_equal(seen[1], 3);
	close(old);
	close(copy);
}

static int kill_child(void *ctx, uint64_t done, uint64_t total, struct err *err)
{
	FILE *f = fopen("/proc/thread-self/children", "r");
	int pid = 0;

	(void)done;
	(void)total;
	(void)err;
	if (!f || fscanf(f, "%d", &pid) != 1)
		fail_msg("no child");
	fclose(f);
	kill(pid, SIGKILL);
	++*(int *)ctx;
	return 0;
}

/* A15 */
static void a_process_that_is_killed_proves_nothing(void **state)
{
	int old = long_image(), copy = open(in_tree("old"), O_RDWR), nr = 0;
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(proof_same_image(old, copy, "old", "vdi", &roots, &jail, kill_child, &nr, &err), -1);
	expect_error(&err, ERR_IO, "died (killed by signal 9");
	assert_int_equal(nr, 1);
	close(old);
	close(copy);
}

static int nr_writes, failing_write;

static ssize_t fail_once(int fd, const void *buf, size_t len, off_t offset)
{
	if (++nr_writes != failing_write)
		return pwrite(fd, buf, len, offset);
	errno = ENOSPC;
	return -1;
}

/* B1 */
static void every_write_may_find_no_space(void **state)
{
	struct file_ops ops = file_ops_os;
	int rc = -1;

	(void)state;
	ops.pwrite = fail_once;
	make_vhd();
	for (failing_write = 1; rc < 0; failing_write++) {
		int old = file_of(vhd, sizeof(vhd)), copy = file_of("", 0);
		struct err err = ERR_INIT;

		nr_writes = 0;
		file_ops = &ops;
		rc = relayout(old, copy, "vhd", &err);
		file_ops = &file_ops_os;
		if (rc < 0)
			expect_error(&err, ERR_FULL, "cannot write");
		close(old);
		close(copy);
	}
	assert_int_equal(failing_write - 2, nr_writes);
	assert_true(nr_writes > 5);
}

/* ---- what the jail leaves to write to ---- */

enum attempt {
	WRITE_NEW, PUNCH_NEW, CUT_NEW, WRITE_FAR, /* these may */
	WRITE_OTHER, CUT_OTHER, PUNCH_OTHER, WRITE_COPY, CLOSE_NEW, MAP_SHARED_OTHER, MAP_VALIDATED_OTHER, MAP_TO_RUN, SYNC_NEW,
	NR_ATTEMPTS,
};

#define LIMIT ((uint64_t)1 << 20)
#define SURELY(condition)                                                                                              \
	do {                                                                                                           \
		if (!(condition))                                                                                      \
			return __LINE__ % 250 + 1;                                                                     \
	} while (0)

static int attempt(int sock, void *shared, void *arg)
{
	int fd = -1, copy;
	char c;

	(void)shared;
	SURELY(proc_recv(sock, &c, 1, &fd, NULL) == 1 && fd >= 0);
	SURELY(fcntl(fd, F_DUPFD_CLOEXEC, JAIL_WRITTEN) == JAIL_WRITTEN);
	switch (*(enum attempt *)arg) {
	case WRITE_NEW:
		SURELY(pwrite(JAIL_WRITTEN, "x", 1, 0) == 1);
		break;
	case PUNCH_NEW:
		SURELY(fallocate(JAIL_WRITTEN, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 1) == 0 || errno == EOPNOTSUPP);
		break;
	case CUT_NEW:
		SURELY(ftruncate(JAIL_WRITTEN, 1) == 0);
		break;
	case WRITE_FAR:
		if (SANITIZED) /* without that limit */
			break;
		SURELY(pwrite(JAIL_WRITTEN, "x", 1, LIMIT - 1) == 1);
		SURELY(pwrite(JAIL_WRITTEN, "x", 1, LIMIT) < 0 && errno == EFBIG);
		SURELY(ftruncate(JAIL_WRITTEN, LIMIT + 1) < 0 && errno == EFBIG);
		break;
	case WRITE_OTHER:
		pwrite(fd, "x", 1, 0);
		break;
	case CUT_OTHER:
		ftruncate(fd, 0);
		break;
	case PUNCH_OTHER:
		fallocate(fd, 0, 0, 4096);
		break;
	case WRITE_COPY:
		copy = fcntl(JAIL_WRITTEN, F_DUPFD_CLOEXEC, 0);
		pwrite(copy, "x", 1, 0);
		break;
	case CLOSE_NEW:
		close(JAIL_WRITTEN);
		break;
	case MAP_SHARED_OTHER:
		mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
		break;
	case MAP_VALIDATED_OTHER:
		mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED_VALIDATE, fd, 0);
		break;
	case MAP_TO_RUN:
		mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
		break;
	case SYNC_NEW:
		fsync(JAIL_WRITTEN);
		break;
	case NR_ATTEMPTS:
		break;
	}
	return 0;
}

static const char *end_of(const struct jail *j, enum attempt what)
{
	static char how[PROC_HOW_ROOM];
	struct err err = ERR_INIT;
	struct proc p;
	int fd;
	char c;

	tree_write("f", vdi, 8192);
	fd = open(in_tree("f"), O_RDWR);
	if (proc_start(&p, 64, j, attempt, &what, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(proc_send(p.sock, "f", 1, fd, &err), 0);
	close(fd);
	proc_recv(p.sock, &c, 1, &fd, NULL); /* until it hangs up */
	proc_end(&p, 0, how, sizeof(how));
	return how;
}

static void need_seccomp(void)
{
	if (!jail.seccomp) {
		printf("the kernel has no seccomp\n");
		skip();
	}
}

/* F14 */
static void only_one_descriptor_can_be_written_to(void **state)
{
	struct jail j = jail;

	(void)state;
	need_seccomp();
	j.writes = LIMIT;
	for (enum attempt i = 0; i < NR_ATTEMPTS; i++) {
		const char *how = end_of(&j, i);

		if (i < WRITE_OTHER ? strcmp(how, "exit status 0") != 0 : strncmp(how, "stopped by the sandbox: ", 24) != 0)
			fail_msg("attempt %d: %s", i, how);
		if (i >= WRITE_OTHER && i != SYNC_NEW && i != WRITE_FAR) {
			struct jail off = { .mode = JAIL_OFF };

			how = end_of(&off, i);
			if (strcmp(how, "exit status 0") != 0)
				fail_msg("attempt %d without a jail: %s", i, how);
		}
	}
}

static void a_jail_that_writes_nothing_does_not_map_either(void **state)
{
	struct jail j = jail;

	(void)state;
	need_seccomp();
	assert_string_equal(end_of(&j, MAP_SHARED_OTHER), "exit status 0"); /* as readers do, of files that they cannot write */
	j.writable = true;
	assert_memory_equal(end_of(&j, MAP_SHARED_OTHER), "stopped by the sandbox: ", 24);
	assert_memory_equal(end_of(&j, MAP_VALIDATED_OTHER), "stopped by the sandbox: ", 24);
	assert_memory_equal(end_of(&j, WRITE_NEW), "stopped by the sandbox: ", 24);
	assert_memory_equal(end_of(&j, CUT_NEW), "stopped by the sandbox: ", 24);
	assert_string_equal(end_of(&j, CLOSE_NEW), "exit status 0");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		relayout_test(blocks_of_a_vhd_come_to_boundaries_in_their_order),
		relayout_test(zeros_become_holes),
		relayout_test(what_is_aligned_comes_out_the_same),
		relayout_test(what_is_not_plain_is_refused),
		relayout_test(the_data_of_a_vdi_moves_as_a_whole),
		relayout_test(vdi_images_that_cannot_be_aligned_are_refused),
		relayout_test(it_applies_to_few),
		relayout_test(it_is_done_in_a_jail),
		relayout_test(it_stops_when_it_is_told_to),
		relayout_test(it_tells_how_far_it_is),
		relayout_test(a_process_that_is_killed_proves_nothing),
		relayout_test(every_write_may_find_no_space),
		relayout_test(only_one_descriptor_can_be_written_to),
		relayout_test(a_jail_that_writes_nothing_does_not_map_either),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
