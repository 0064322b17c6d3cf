/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/store_help.h"

#include <fcntl.h>
#include <linux/fs.h>

#include "compactor/reflink.h"
#include "scanner/base/file.h"
#include "scanner/roots.h"

/* Row G3 of failures: what the kernel answers when it is asked to share blocks: that they differ, that less was shared, that
 * the file ends before, that it does not do such things; row G5: kernels that are not asked.  Files are real; the kernel is
 * one that does as it is told, and notes which blocks it shared. */

#define IMAGES 4
#define BLOCKS 12288
#define BIG (40 * MIB / BLOCK_SIZE)

static uint64_t contents[IMAGES][BLOCKS];
static size_t nr_blocks[IMAGES];
static uint64_t disk_of[IMAGES]; /* where the image lies */
static struct roots roots;
static struct store store;
static struct plan plan;
static struct plan_image plan_images[IMAGES];
static struct stopper never;
static struct moves *moves;
static struct reflink reflink;

/* ---- the kernel ---- */

static struct {
	unsigned nr_calls, nr_eintr;
	uint64_t longest;
	int fails, status; /* errno of every call, or in the status */
	uint64_t reports;  /* bytes that it says it shared; 0 = as asked */
	ino_t ino[IMAGES];
	uint64_t nr_read; /* bytes of images, by us */
	bool fetched[IMAGES][BLOCKS]; /* into the cache */
	struct {
		uint8_t image; /* + 1 */
		uint32_t block;
	} shared[IMAGES][BLOCKS];
} kernel;

static int image_of(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	for (int i = 0; i < IMAGES; i++)
		if (kernel.ino[i] == st.st_ino)
			return i;
	fail_msg("a file that is none of the images");
	return 0;
}

static bool alike(int a, uint64_t a_at, int b, uint64_t b_at, uint64_t len)
{
	static uint8_t x[MIB], y[MIB];

	for (uint64_t n; len; a_at += n, b_at += n, len -= n) {
		n = min_u64(len, MIB);
		assert_int_equal(pread(a, x, n, (off_t)a_at), n);
		assert_int_equal(pread(b, y, n, (off_t)b_at), n);
		if (memcmp(x, y, n) != 0)
			return false;
	}
	return true;
}

/* As fadvise(2) does it: of a long stretch only the beginning. */
static int fake_fadvise(int fd, off_t at, off_t len, int advice)
{
	int image = image_of(fd);

	assert_int_equal(advice, POSIX_FADV_WILLNEED);
	for (off_t n = 0; n < len && n < 128 * 1024; n += BLOCK_SIZE)
		kernel.fetched[image][(at + n) / BLOCK_SIZE] = true;
	return 0;
}

static int answer(int fd, const struct file_dedupe_range *r)
{
	const struct file_dedupe_range_info *info = &r->info[0];
	int to = image_of((int)info->dest_fd), from = image_of(fd);
	struct stat a, b;

	for (uint64_t n = 0; n < r->src_length / BLOCK_SIZE; n++)
		if (!kernel.fetched[to][info->dest_offset / BLOCK_SIZE + n] ||
		    !kernel.fetched[from][r->src_offset / BLOCK_SIZE + n])
			fail_msg("block %d of what is compared was not read ahead", (int)n);

	fstat(fd, &a);
	fstat((int)info->dest_fd, &b);
	if (r->src_offset + r->src_length > (uint64_t)a.st_size ||
	    info->dest_offset + r->src_length > (uint64_t)b.st_size)
		return -EINVAL;
	if (!alike(fd, r->src_offset, (int)info->dest_fd, info->dest_offset, r->src_length))
		return FILE_DEDUPE_RANGE_DIFFERS;
	for (uint64_t n = 0; n < r->src_length / BLOCK_SIZE; n++) {
		kernel.shared[to][info->dest_offset / BLOCK_SIZE + n].image = (uint8_t)(from + 1);
		kernel.shared[to][info->dest_offset / BLOCK_SIZE + n].block = (uint32_t)(r->src_offset / BLOCK_SIZE + n);
	}
	return FILE_DEDUPE_RANGE_SAME;
}

static int fake_ioctl(int fd, unsigned long request, void *arg)
{
	struct file_dedupe_range *r = arg;

	assert_int_equal(request, FIDEDUPERANGE);
	assert_int_equal(r->dest_count, 1);
	assert_int_equal((r->src_offset | r->src_length | r->info[0].dest_offset) % BLOCK_SIZE, 0);
	assert_true(r->src_length);
	if (kernel.nr_eintr && kernel.nr_eintr--) {
		errno = EINTR;
		return -1;
	}
	kernel.nr_calls++;
	kernel.longest = max_u64(kernel.longest, r->src_length);
	errno = kernel.fails;
	if (kernel.fails)
		return -1;
	r->info[0].status = kernel.status ? -kernel.status : answer(fd, r);
	r->info[0].bytes_deduped = kernel.reports ? kernel.reports : r->src_length;
	return 0;
}

static ssize_t counting_pread(int fd, void *buf, size_t len, off_t at)
{
	ssize_t n = pread(fd, buf, len, at);
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	for (int i = 0; i < IMAGES && n > 0; i++)
		if (kernel.ino[i] == st.st_ino)
			kernel.nr_read += (uint64_t)n;
	return n;
}

/* ---- the store ---- */

static struct file_ops ops;

static int make(void **state)
{
	memset(contents, 0, sizeof(contents));
	memset(&kernel, 0, sizeof(kernel));
	memset(nr_blocks, 0, sizeof(nr_blocks));
	memset(&store, 0, sizeof(store));
	roots = (struct roots){ 0 };
	for (unsigned i = 0; i < IMAGES; i++)
		disk_of[i] = ((uint64_t)i + 1) << 40;
	ops = file_ops_os;
	ops.ioctl = fake_ioctl;
	ops.pread = counting_pread;
	ops.fadvise = fake_fadvise;
	if (catalog_make(state) < 0)
		return -1;
	return roots_add(&roots, tree, false, NULL);
}

static int unmake(void **state)
{
	file_ops = &file_ops_os;
	reflink_release(&reflink);
	moves_free(moves);
	moves = NULL;
	store_release(&store);
	roots_release(&roots);
	return catalog_remove(state);
}

#define reflink_test(f) cmocka_unit_test_setup_teardown(f, make, unmake)

static void fill(unsigned i, size_t from, size_t nr, uint64_t content)
{
	for (size_t b = 0; b < nr; b++)
		contents[i][from + b] = content + b;
	nr_blocks[i] = max_u64(nr_blocks[i], from + nr);
}

static const char *name_of(unsigned i)
{
	static char names[IMAGES][16];

	snprintf(names[i], sizeof(names[i]), "%u.raw", i);
	return in_tree(names[i]);
}

static void write_block(unsigned i, size_t block, uint64_t content)
{
	uint64_t bytes[BLOCK_SIZE / 8];
	int fd = open(name_of(i), O_WRONLY | O_CREAT, 0600);

	for (size_t k = 0; k < BLOCK_SIZE / 8; k++)
		bytes[k] = content;
	assert_int_equal(pwrite(fd, bytes, BLOCK_SIZE, (off_t)(block * BLOCK_SIZE)), BLOCK_SIZE);
	close(fd);
}

static void write_file(unsigned i)
{
	uint64_t *bytes = malloc(nr_blocks[i] * BLOCK_SIZE + 1);
	int fd = open(name_of(i), O_WRONLY | O_CREAT | O_TRUNC, 0600);

	for (size_t k = 0; k < nr_blocks[i] * BLOCK_SIZE / 8; k++)
		bytes[k] = contents[i][k * 8 / BLOCK_SIZE];
	assert_int_equal(write(fd, bytes, nr_blocks[i] * BLOCK_SIZE), nr_blocks[i] * BLOCK_SIZE);
	free(bytes);
	close(fd);
}

static void add_image(unsigned i)
{
	struct store_image im = { .layer = BLOCKS, .first_file = i, .nr_files = 1, .copy_of = STORE_NO_COPY, .out = !nr_blocks[i] };
	struct store_file f = { .path = strdup(name_of(i)), .size = nr_blocks[i] * BLOCK_SIZE, .image = i };
	struct range block = { 0, nr_blocks[i] * BLOCK_SIZE, 0, i, 0 }, disk = { 0, nr_blocks[i] * BLOCK_SIZE, disk_of[i], 0, 0 };
	struct stat st;

	write_file(i);
	assert_int_equal(stat(name_of(i), &st), 0);
	f.identity = spool_identity_of(&st);
	kernel.ino[i] = st.st_ino;
	im.id = image_add(name_of(i));
	if (nr_blocks[i])
		spool_image(im.id, 0, contents[i], nr_blocks[i], NULL);
	assert_int_equal(vec_push(&store.images, im), 0);
	assert_int_equal(vec_push(&store.files, f), 0);
	assert_int_equal(rangemap_begin(store.blocks, i, NULL), 0);
	assert_int_equal(rangemap_begin(store.disk, i, NULL), 0);
	if (block.len)
		assert_int_equal(rangemap_add(store.blocks, &block, NULL) | rangemap_add(store.disk, &disk, NULL), 0);
	assert_int_equal(vec_push(&store.ranks, i), 0);
	plan_images[i] = (struct plan_image){ .used = f.size };
}

static int note_work(void *ctx, uint64_t bytes, struct err *err)
{
	(void)ctx;
	(void)bytes;
	(void)err;
	return 0;
}

static void scan(uint64_t min_run)
{
	struct moves_options o = { .memory = 4 * MIB, .nr_threads = 1, .min_run = min_run };
	int dirfd = open(tree, O_RDONLY | O_DIRECTORY);
	struct err err = ERR_INIT;

	for (size_t i = 0; i < STORE_OPEN; i++)
		store.open[i].fd = -1;
	plan = (struct plan){ .images = plan_images, .nr_images = IMAGES };
	store.c = catalog;
	store.roots = &roots;
	store.plan = &plan;
	store.stopper = &never;
	store.blocks = rangemap_new(dirfd, NULL);
	store.disk = rangemap_new(dirfd, NULL);
	close(dirfd);
	assert_int_equal(vec_push(&store.file_systems, (struct store_fs){ .block = BLOCK_SIZE, .dedupes = true }), 0);
	for (unsigned i = 0; i < IMAGES; i++)
		add_image(i);
	index_merge();
	moves = moves_find(&store, &o, &err);
	if (!moves)
		fail_msg("%s", err.text);
	reflink = (struct reflink){
		.store = &store, .moves = moves, .min_run = min_run, .block = BLOCK_SIZE, .worked = note_work,
	};
}

static int share(unsigned image, struct err *err)
{
	int rc;

	*err = ERR_INIT;
	file_ops = &ops;
	rc = reflink_image(&reflink, image, err);
	file_ops = &file_ops_os;
	return rc;
}

static void must_share(unsigned image)
{
	struct err err;

	if (share(image, &err) < 0)
		fail_msg("%s", err.text);
}

static void expect_shared(unsigned image, size_t block, size_t nr, unsigned from, size_t at)
{
	for (size_t i = 0; i < nr; i++) {
		assert_int_equal(kernel.shared[image][block + i].image, from + 1);
		assert_int_equal(kernel.shared[image][block + i].block, at + i);
	}
}

static void expect_not_shared(unsigned image, size_t block, size_t nr)
{
	for (size_t i = 0; i < nr; i++)
		assert_int_equal(kernel.shared[image][block + i].image, 0);
}

/* ---- what is asked ---- */

static void alike_is_shared_in_calls_of_16_MiB(void **state)
{
	(void)state;
	fill(0, 0, BIG, 1000);
	fill(1, 7, BIG, 1000);
	scan(4 * BLOCK_SIZE);
	must_share(0);
	assert_int_equal(kernel.nr_calls, 0);
	must_share(1);
	expect_not_shared(1, 0, 7);
	expect_shared(1, 7, BIG, 0, 0);
	assert_int_equal(kernel.nr_calls, 3);
	assert_int_equal(kernel.longest, REFLINK_CALL);
	assert_int_equal(reflink.bytes_asked, BIG * BLOCK_SIZE);
	assert_int_equal(reflink.nr_calls, 3);
}

static void what_is_shared_already_is_not_asked_for(void **state)
{
	(void)state;
	fill(0, 0, 100, 1000);
	fill(1, 0, 100, 1000);
	disk_of[1] = disk_of[0];
	scan(4 * BLOCK_SIZE);
	must_share(1);
	assert_int_equal(kernel.nr_calls, 0);
}

static void half_of_it_shared_already(void **state)
{
	struct range r = { 0, 40 * BLOCK_SIZE, 0, 0, 0 };

	(void)state;
	fill(0, 0, 100, 1000);
	fill(1, 0, 100, 1000);
	scan(4 * BLOCK_SIZE);
	r.to = disk_of[0];
	assert_int_equal(rangemap_begin(store.disk, 1, NULL), 0);
	assert_int_equal(rangemap_add(store.disk, &r, NULL), 0);
	r = (struct range){ 40 * BLOCK_SIZE, 60 * BLOCK_SIZE, 12345 * BLOCK_SIZE, 0, 0 };
	assert_int_equal(rangemap_add(store.disk, &r, NULL), 0);
	must_share(1);
	expect_shared(1, 40, 60, 0, 40);
	assert_int_equal(reflink.bytes_asked, 60 * BLOCK_SIZE);
}

static void gaps_are_compared_before(void **state)
{
	(void)state;
	fill(0, 0, 60, 1000);
	fill(1, 0, 60, 1000);
	contents[0][30] = contents[1][30] = 0;	    /* alike, though no content */
	contents[0][40] = 7, contents[1][40] = 8;   /* not alike */
	contents[0][50] = 9, contents[1][50] = 0;
	scan(4 * BLOCK_SIZE);
	must_share(1);
	expect_shared(1, 0, 40, 0, 0);
	expect_not_shared(1, 40, 1);
	expect_shared(1, 41, 9, 0, 41);
	expect_not_shared(1, 50, 1);
	expect_shared(1, 51, 9, 0, 51);
	assert_int_equal(kernel.nr_calls, 3);
	assert_int_equal(reflink.nr_differed, 0);
	assert_int_equal(kernel.nr_read, 3 * 2 * BLOCK_SIZE); /* and nothing else is */
}

static void g03_what_changed_between_gaps_is_left(void **state)
{
	(void)state;
	fill(0, 0, 60, 1000);
	fill(1, 0, 60, 1000);
	contents[0][30] = contents[1][30] = 0;
	contents[0][50] = 9, contents[1][50] = 0;
	scan(4 * BLOCK_SIZE);
	write_block(1, 10, 99);
	must_share(1);
	expect_shared(1, 0, 10, 0, 0);
	expect_not_shared(1, 10, 1);
	expect_shared(1, 11, 39, 0, 11);
	expect_not_shared(1, 50, 1);
	expect_shared(1, 51, 9, 0, 51);
	assert_int_equal(reflink.nr_differed, 1);
}

/* ---- what the kernel says ---- */

static void g03_what_changed_is_left_and_the_rest_is_shared(void **state)
{
	(void)state;
	fill(0, 0, 6000, 1000);
	fill(1, 0, 6000, 1000);
	scan(4 * BLOCK_SIZE);
	write_block(1, 1000, 7);
	write_block(1, 1003, 7); /* what is between them is too short */
	write_block(0, 5000, 7);
	must_share(1);
	expect_shared(1, 0, 1000, 0, 0);
	expect_not_shared(1, 1000, 4);
	expect_shared(1, 1004, 5000 - 1004, 0, 1004);
	expect_not_shared(1, 5000, 1);
	expect_shared(1, 5001, 999, 0, 5001);
	assert_int_equal(reflink.nr_differed, 2); /* of two calls */
}

static void g03_all_of_it_changed(void **state)
{
	(void)state;
	fill(0, 0, 200, 1000);
	fill(1, 0, 200, 1000);
	scan(4 * BLOCK_SIZE);
	for (size_t b = 0; b < 200; b++)
		write_block(1, b, 7);
	must_share(1);
	expect_not_shared(1, 0, 200);
	assert_int_equal(kernel.nr_calls, 1);
}

static void g03_files_that_got_shorter(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 3; i++)
		fill(i, 0, 200, 1000);
	scan(4 * BLOCK_SIZE);
	assert_int_equal(truncate(name_of(1), 100 * BLOCK_SIZE + 5), 0);
	must_share(1);
	expect_shared(1, 0, 100, 0, 0);
	expect_not_shared(1, 100, 100);
	assert_int_equal(truncate(name_of(0), 50 * BLOCK_SIZE), 0);
	must_share(2);
	expect_shared(2, 0, 50, 0, 0);
	expect_not_shared(2, 50, 150);
	assert_int_equal(truncate(name_of(2), 0), 0);
	kernel.nr_calls = 0;
	must_share(2);
	assert_int_equal(kernel.nr_calls, 1); /* not once more, for nothing is there to be compared */
}

static void g03_refusals_are_counted_and_harm_nobody(void **state)
{
	static const int refusals[] = { EINVAL, EXDEV, EOPNOTSUPP, EPERM, ETXTBSY, EROFS };
	struct err err;

	(void)state;
	fill(0, 0, BIG, 1000);
	fill(1, 0, BIG, 1000);
	scan(4 * BLOCK_SIZE);
	for (size_t i = 0; i < 2 * ARRAY_SIZE(refusals); i++) {
		int e = refusals[i / 2];

		memset(&kernel.fails, 0, sizeof(kernel.fails));
		kernel.fails = i % 2 ? e : 0;
		kernel.status = i % 2 ? 0 : e;
		reflink.nr_calls = reflink.nr_refused = 0;
		assert_int_equal(share(1, &err), 0);
		assert_true(reflink.nr_calls >= 3);
		assert_int_equal(reflink.nr_refused, reflink.nr_calls);
		assert_int_equal(reflink.refused_errno, e);
		expect_not_shared(1, 0, BIG);
	}
}

static void g03_a_disk_that_fails_ends_it(void **state)
{
	static const struct {
		int e;
		enum err_kind kind;
	} fails[] = { { EIO, ERR_IO }, { ENOSPC, ERR_FULL }, { EDQUOT, ERR_FULL }, { EUCLEAN, ERR_IO } };
	struct err err;

	(void)state;
	fill(0, 0, BIG, 1000);
	fill(1, 0, BIG, 1000);
	scan(4 * BLOCK_SIZE);
	for (size_t i = 0; i < 2 * ARRAY_SIZE(fails); i++) {
		kernel.nr_calls = 0;
		kernel.fails = i % 2 ? fails[i / 2].e : 0;
		kernel.status = i % 2 ? 0 : fails[i / 2].e;
		assert_int_equal(share(1, &err), -1);
		assert_int_equal(err.kind, fails[i / 2].kind);
		assert_non_null(strstr(err.text, "1.raw"));
		assert_int_equal(kernel.nr_calls, 1);
	}
}

static void g03_what_it_says_that_it_shared_is_not_believed(void **state)
{
	(void)state;
	fill(0, 0, 1000, 1000);
	fill(1, 0, 1000, 1000);
	scan(4 * BLOCK_SIZE);
	for (uint64_t says = 1; says < 4; says++) {
		kernel.reports = says == 1 ? 1 : says == 2 ? 4096 : UINT64_MAX;
		kernel.nr_calls = 0;
		must_share(1);
		assert_int_equal(kernel.nr_calls, 1);
	}
	expect_shared(1, 0, 1000, 0, 0);
}

static void a_signal_is_no_failure(void **state)
{
	(void)state;
	fill(0, 0, 100, 1000);
	fill(1, 0, 100, 1000);
	scan(4 * BLOCK_SIZE);
	kernel.nr_eintr = 3;
	must_share(1);
	expect_shared(1, 0, 100, 0, 0);
}

/* ---- files that are not there any more ---- */

static void an_original_that_is_gone_costs_what_it_has(void **state)
{
	(void)state;
	fill(0, 0, 100, 1000);
	fill(1, 0, 100, 5000);
	fill(2, 0, 100, 1000);
	fill(2, 100, 100, 5000);
	scan(4 * BLOCK_SIZE);
	assert_int_equal(rename(name_of(0), in_tree("was")), 0);
	must_share(2);
	expect_not_shared(2, 0, 100);
	expect_shared(2, 100, 100, 1, 0);
	assert_int_equal(reflink.nr_refused, 1);
	assert_true(reflink.refused_errno);
	write_file(0); /* another one of that name */
	must_share(2);
	expect_not_shared(2, 0, 100);
}

static void an_image_that_is_another_by_now_is_left_alone(void **state)
{
	struct err err;

	(void)state;
	fill(0, 0, 100, 1000);
	fill(1, 0, 100, 1000);
	scan(4 * BLOCK_SIZE);
	assert_int_equal(rename(name_of(1), in_tree("was")), 0);
	write_file(1);
	assert_int_equal(share(1, &err), -1);
	assert_int_equal(err.kind, ERR_STALE);
	assert_int_equal(kernel.nr_calls, 0);
}

/* ---- stopping ---- */

static unsigned nr_worked, stops_after;
static uint64_t worked;

static int stop_after(void *ctx, uint64_t bytes, struct err *err)
{
	(void)ctx;
	worked += bytes;
	return ++nr_worked > stops_after ? err_set(err, ERR_CANCELED, "stopped") : 0;
}

static void stops_between_two_calls(void **state)
{
	struct err err;

	(void)state;
	fill(0, 0, BIG, 1000);
	fill(1, 0, BIG, 1000);
	scan(4 * BLOCK_SIZE);
	reflink.worked = stop_after;
	for (stops_after = 0; stops_after < 3; stops_after++) {
		kernel.nr_calls = nr_worked = 0;
		assert_int_equal(share(1, &err), -1);
		assert_int_equal(err.kind, ERR_CANCELED);
		assert_int_equal(kernel.nr_calls, stops_after + 1);
	}
	worked = 0;
	stops_after = 1000;
	must_share(1);
	assert_int_equal(worked, BIG * BLOCK_SIZE);
}

/* ---- odd places ---- */

/* Blocks of the file system that are larger than ours are shared whole or not at all. */
static void large_blocks_of_the_file_system(void **state)
{
	(void)state;
	fill(0, 0, 100, 1000);
	fill(1, 3, 90, 1003);
	fill(2, 3, 90, 1000); /* nowhere at the same place in a block */
	scan(4 * BLOCK_SIZE);
	reflink.block = 4 * BLOCK_SIZE;
	must_share(1);
	expect_not_shared(1, 0, 4);
	expect_shared(1, 4, 88, 0, 4);
	expect_not_shared(1, 92, 8);
	must_share(2);
	expect_not_shared(2, 0, 100);
}

static void g05_kernels_with_known_faults_are_not_asked(void **state)
{
	(void)state;
	assert_string_not_equal(reflink_kernel_fault("4.19.0-27-amd64", "xfs"), "");
	assert_string_not_equal(reflink_kernel_fault("3.10.0-1160.el7.x86_64", "btrfs"), "");
	assert_string_equal(reflink_kernel_fault("4.20.0", "xfs"), "");
	assert_string_equal(reflink_kernel_fault("5.4.0-150-generic", "xfs"), "");
	assert_string_not_equal(reflink_kernel_fault("5.4.0-150-generic", "btrfs"), "");
	assert_string_equal(reflink_kernel_fault("5.10.0", "btrfs"), "");
	assert_string_equal(reflink_kernel_fault("6.18.0", "btrfs"), "");
	assert_string_equal(reflink_kernel_fault("", "xfs"), "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		reflink_test(alike_is_shared_in_calls_of_16_MiB),
		reflink_test(what_is_shared_already_is_not_asked_for),
		reflink_test(half_of_it_shared_already),
		reflink_test(gaps_are_compared_before),
		reflink_test(g03_what_changed_between_gaps_is_left),
		reflink_test(g03_what_changed_is_left_and_the_rest_is_shared),
		reflink_test(g03_all_of_it_changed),
		reflink_test(g03_files_that_got_shorter),
		reflink_test(g03_refusals_are_counted_and_harm_nobody),
		reflink_test(g03_a_disk_that_fails_ends_it),
		reflink_test(g03_what_it_says_that_it_shared_is_not_believed),
		reflink_test(a_signal_is_no_failure),
		reflink_test(an_original_that_is_gone_costs_what_it_has),
		reflink_test(an_image_that_is_another_by_now_is_left_alone),
		reflink_test(stops_between_two_calls),
		reflink_test(large_blocks_of_the_file_system),
		reflink_test(g05_kernels_with_known_faults_are_not_asked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
