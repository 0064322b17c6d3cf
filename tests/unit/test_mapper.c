/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include "compactor/mapper.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/base/proc.h"
#include "scanner/base/vec.h"
#include "tests/unit/image_help.h"

/* Images made by qemu-img, whose blocks have to lie where the mapper says; and processes that lie. */

static struct roots roots;
static struct jail jail;
static struct stopper stopper;
static struct mapped_image found;
static struct err why;
static VEC(struct mapped) stretches;
static VEC(char *) parts;
static enum err_kind refuses; /* what the next stretch is met with */

static int make(void **state)
{
	roots = (struct roots){ 0 };
	stopper = (struct stopper){ 0 };
	refuses = ERR_NONE;
	alarm(100);
	if (jail_plan(&jail, JAIL_BEST, NULL) < 0 || tree_make(state) < 0)
		return -1;
	return roots_add(&roots, tree, false, NULL);
}

static int unmake(void **state)
{
	alarm(0);
	mapper_process = mapper_worker;
	for (size_t i = 0; i < parts.nr; i++)
		free(parts.items[i]);
	vec_release(&parts);
	vec_release(&stretches);
	roots_release(&roots);
	return tree_remove(state);
}

#define mapper_test(f) cmocka_unit_test_setup_teardown(f, make, unmake)

static int take(void *ctx, const struct mapped *m, struct err *err)
{
	(void)ctx;
	assert_int_equal(vec_push(&stretches, *m), 0);
	return refuses ? err_set(err, refuses, "as told") : 0;
}

static int take_part(void *ctx, const char *path, int fd, struct err *err)
{
	(void)ctx;
	(void)err;
	assert_true(fcntl(fd, F_GETFD) >= 0);
	assert_int_equal(vec_push(&parts, strdup(path)), 0);
	return 0;
}

static int map_with(const char *name, struct err *err)
{
	struct mapper m = { .roots = &roots, .jail = &jail, .stopper = &stopper, .mapped = take, .part = take_part };
	int fd = open(in_tree(name), O_RDONLY | O_CLOEXEC), rc;

	assert_true(fd >= 0);
	stretches.nr = 0;
	*err = why = ERR_INIT;
	rc = mapper_run(&m, fd, in_tree(name), &found, &why, err);
	close(fd);
	return rc;
}

static void map(const char *name)
{
	struct err err;
	int rc = map_with(name, &err);

	if (rc != 1)
		fail_msg("%d %s%s", rc, why.text, err.text);
}

/* ---- real images ---- */

#define DISK (9 * MIB)

static uint8_t disk[DISK];

/* Data, holes and zeros in turn, no two blocks alike. */
static void make_disk(void)
{
	int fd = open(in_tree("disk.raw"), O_WRONLY | O_CREAT | O_TRUNC, 0600);

	memset(disk, 0, sizeof(disk));
	for (size_t at = 0; at < DISK; at += 4096)
		if (at / (320 * KIB) % 3 != 1)
			for (size_t k = 0; k < 4096; k += 8)
				memcpy(disk + at + k, &(uint64_t){ at + k + 1 }, 8);
	for (size_t at = 0; at < DISK; at += 320 * KIB)
		if (at / (320 * KIB) % 3 != 1)
			assert_int_equal(pwrite(fd, disk + at, min_u64(320 * KIB, DISK - at), (off_t)at),
					 min_u64(320 * KIB, DISK - at));
	assert_int_equal(ftruncate(fd, DISK), 0);
	close(fd);
}

static bool shell(const char *format, const char *name)
{
	char command[3 * PATH_MAX];

	snprintf(command, sizeof(command), format, tree, name);
	return system(command) == 0;
}

static int open_inode(uint64_t ino)
{
	struct stat st;
	int fd = -1;

	for (size_t i = 0; i <= parts.nr && fd < 0; i++) {
		fd = open(i < parts.nr ? parts.items[i] : in_tree("image"), O_RDONLY | O_CLOEXEC);
		if (fd >= 0 && (fstat(fd, &st) < 0 || st.st_ino != ino)) {
			close(fd);
			fd = -1;
		}
	}
	assert_true(fd >= 0);
	return fd;
}

/* Every block that is not zero lies where it is said to lie. */
static void expect_disk(void)
{
	uint8_t *seen = calloc(1, DISK / 4096), block[4096];

	for (size_t i = 0; i < stretches.nr; i++) {
		const struct mapped *m = &stretches.items[i];
		int fd = open_inode(m->ino);

		for (uint64_t at = 0; at < m->len && m->address + at < DISK; at += 4096) {
			assert_int_equal(pread(fd, block, 4096, (off_t)(m->offset + at)), 4096);
			assert_memory_equal(block, disk + m->address + at, 4096);
			seen[(m->address + at) / 4096] = 1;
		}
		close(fd);
	}
	for (size_t b = 0; b < DISK / 4096; b++)
		if (b / 80 % 3 != 1)
			assert_int_equal(seen[b], 1);
	free(seen);
}

/* The image is called "image", so that it is probed. */
static void convert(const char *options)
{
	make_disk();
	if (!shell("command -v qemu-img >/dev/null", "")) {
		printf("needs qemu-img\n");
		skip();
	}
	assert_true(shell("cd %s && qemu-img convert -f raw -O %s disk.raw image", options));
	map("image");
}

static void raw_images_lie_where_they_lie(void **state)
{
	(void)state;
	make_disk();
	assert_int_equal(rename(in_tree("disk.raw"), in_tree("image")), 0);
	map("image");
	expect_disk();
	assert_int_equal(found.misaligned, 0);
	assert_int_equal(found.size, DISK);
	assert_string_equal(found.format, "raw");
	for (size_t i = 0; i < stretches.nr; i++)
		assert_int_equal(stretches.items[i].address, stretches.items[i].offset);
}

/* More than are handed over at once. */
static void many_stretches_come_piece_by_piece(void **state)
{
	enum { NR = MAPPER_AT_ONCE + 1000 };
	int fd = open(in_tree("many.raw"), O_WRONLY | O_CREAT, 0600);

	(void)state;
	for (unsigned i = 0; i < NR; i++)
		assert_int_equal(pwrite(fd, "data", 4, (off_t)i * 128 * 1024), 4);
	assert_int_equal(ftruncate(fd, (off_t)NR * 128 * 1024), 0);
	close(fd);
	map("many.raw");
	assert_int_equal(stretches.nr, NR);
	for (unsigned i = 0; i < NR; i++)
		assert_int_equal(stretches.items[i].address, i * 128 * KIB);
}

static void qcow2_images_of_all_cluster_sizes(void **state)
{
	static const char *const sizes[] = { "qcow2 -o cluster_size=4k", "qcow2", "qcow2 -o cluster_size=2M" };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		convert(sizes[i]);
		expect_disk();
		assert_string_equal(found.format, "qcow2");
		assert_int_equal(found.misaligned, 0);
	}
}

static void clusters_smaller_than_a_block_are_told_of(void **state)
{
	uint64_t mapped = 0;

	(void)state;
	convert("qcow2 -o cluster_size=512");
	for (size_t i = 0; i < stretches.nr; i++)
		mapped += stretches.items[i].len;
	assert_true(mapped % 4096 == 0 && mapped <= DISK);
}

static void compressed_clusters_are_told_of_and_not_mapped(void **state)
{
	(void)state;
	convert("qcow2 -c");
	assert_true(found.packed > 0);
	assert_int_equal(stretches.nr, 0);
}

static void data_files_are_parts(void **state)
{
	(void)state;
	convert("qcow2 -o data_file=data,data_file_raw=on");
	assert_int_equal(parts.nr, 1);
	assert_string_equal(parts.items[0], in_tree("data"));
	expect_disk();
}

static void extents_are_parts(void **state)
{
	(void)state;
	make_disk();
	if (!shell("cd %s && qemu-img convert -f raw -O vmdk -o subformat=monolithicFlat disk.raw flat.vmdk %s 2>/dev/null", ""))
		skip();
	assert_int_equal(rename(in_tree("flat.vmdk"), in_tree("image")), 0);
	map("image");
	assert_int_equal(parts.nr, 1);
	expect_disk();
}

static void grains_and_blocks_are_mapped(void **state)
{
	static const char *const formats[] = { "vmdk", "vhdx", "vpc -o subformat=fixed,force_size=on" };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
		convert(formats[i]);
		expect_disk();
		assert_int_equal(found.misaligned, 0);
	}
}

static void what_no_file_system_can_share_is_told_of(void **state)
{
	(void)state;
	convert("vpc -o subformat=dynamic,force_size=on");
	expect_disk();
	assert_true(found.misaligned >= DISK / 2);
}

static void backing_files_are_no_parts(void **state)
{
	struct err err;

	(void)state;
	convert("qcow2");
	assert_true(shell("cd %s && qemu-img create -q -f qcow2 -F qcow2 -b image overlay %s", ""));
	assert_int_equal(map_with("overlay", &err), 1);
	assert_int_equal(parts.nr, 0);
	assert_int_equal(stretches.nr, 0);
	assert_true(found.has_backing);
}

static void what_cannot_be_read_is_told(void **state)
{
	struct err err;

	(void)state;
	tree_write("image", "QFI\xfb\0\0\0\3 and so on", 18);
	assert_int_equal(map_with("image", &err), 0);
	assert_true(why.kind == ERR_FORMAT && strstr(why.text, "qcow2"));
}

static void who_takes_it_may_fail(void **state)
{
	struct err err;

	(void)state;
	make_disk();
	refuses = ERR_FULL;
	assert_int_equal(map_with("disk.raw", &err), -1);
	expect_error(&err, ERR_FULL, "as told");
	refuses = ERR_NONE;
	stopper.flag = 1;
	assert_int_equal(map_with("disk.raw", &err), -1);
	assert_int_equal(err.kind, ERR_CANCELED);
}

/* ---- processes that lie ---- */

static struct mapped lies[8];
static uint32_t nr_lies, nr_said;
static unsigned nr_times;
static bool ours; /* stretches lie in the file of the image */

static int lie(int sock, void *shared, void *arg)
{
	struct mapper_shared *s = shared;
	struct errand_side side;
	struct stat st;

	(void)arg;
	if (errand_begin(&side, sock, false) < 0 || file_stat(side.fd, &st) < 0)
		return 1;
	for (unsigned n = 0; n < nr_times; n++) {
		for (uint32_t i = 0; i < MAPPER_AT_ONCE; i++) {
			s->items[i] = lies[i % nr_lies];
			s->items[i].address += (i / nr_lies + (uint64_t)n * MAPPER_AT_ONCE) * 16 * BLOCK_SIZE;
			if (ours) {
				s->items[i].dev = st.st_dev;
				s->items[i].ino = st.st_ino;
			}
		}
		s->nr = nr_said;
		*side.m = (struct worker_message){ .kind = WORKER_FRAME };
		if (worker_send(sock, side.m, -1, NULL) < 0 || proc_recv(sock, side.m, sizeof(*side.m), &side.fd, NULL) <= 0)
			return 1;
	}
	memset(&s->image, 0xff, sizeof(s->image));
	return errand_end(&side, NULL);
}

static int lies_told(size_t nr, const struct mapped *what)
{
	struct err err;
	int rc;

	make_disk();
	mapper_process = lie;
	memcpy(lies, what, nr * sizeof(*what));
	nr_lies = (uint32_t)nr;
	rc = map_with("disk.raw", &err);
	if (rc < 0)
		fail_msg("%s", err.text);
	return rc;
}

static void what_it_says_is_taken_if_it_can_be(void **state)
{
	static const struct mapped can[] = { { 0, BLOCK_SIZE, 512, 0, 0 }, { 8 * BLOCK_SIZE, BLOCK_SIZE, 0, 0, 0 } };

	(void)state;
	ours = true;
	nr_said = 2;
	nr_times = 1;
	assert_int_equal(lies_told(2, can), 1);
	assert_int_equal(stretches.nr, 2);
	assert_int_equal(strlen(found.format), sizeof(found.format) - 1);
	assert_int_equal(strlen(found.kind), sizeof(found.kind) - 1);
}

static void expect_refused(size_t nr, const struct mapped *what)
{
	ours = true;
	nr_said = (uint32_t)nr;
	nr_times = 1;
	assert_int_equal(lies_told(nr, what), 0);
	expect_error(&why, ERR_REFUSED, "said what cannot be");
}

static void stretches_ascend(void **state)
{
	static const struct mapped cannot[][2] = {
		{ { 4096, 8192, 0, 0, 0 }, { 8192, 4096, 0, 0, 0 } },	 /* overlap */
		{ { 8192, 4096, 0, 0, 0 }, { 4096, 4096, 0, 0, 0 } },	 /* go back */
		{ { 4096, 4096, 0, 0, 0 }, { 4096, 4096, 4096, 0, 0 } }, /* twice */
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cannot); i++)
		expect_refused(2, cannot[i]);
}

static void what_cannot_be_is_refused(void **state)
{
	static const struct mapped cannot[] = {
		{ 0, 0, 0, 0, 0 },
		{ 512, 4096, 0, 0, 0 },
		{ 0, 4097, 0, 0, 0 },
		{ IMAGE_SPAN_MAX + 4096, 4096, 0, 0, 0 },
		{ UINT64_MAX - 4095, 4096, 0, 0, 0 },
		{ 0, UINT64_MAX - 4095, 0, 0, 0 },
		{ 0, IMAGE_SPAN_MAX + 4096, 0, 0, 0 },
		{ 0, 4096, INT64_MAX - 4095, 0, 0 },
		{ 0, 4096, UINT64_MAX, 0, 0 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cannot); i++)
		expect_refused(1, &cannot[i]);
}

/* Backing files may be opened, but their blocks are not the image's. */
static int lies_in_its_backing_file(int sock, void *shared, void *arg)
{
	struct mapper_shared *s = shared;
	struct errand_side side;
	struct err err = ERR_INIT;
	char path[PATH_MAX];
	struct stat st;
	int fd;

	(void)arg;
	if (errand_begin(&side, sock, false) < 0)
		return 1;
	fd = side.opener.open(side.opener.ctx, IMAGE_BACKING, "other", side.job.path, path, &err);
	if (fd < 0 || file_stat(fd, &st) < 0)
		return errand_end(&side, &err);
	s->nr = 1;
	s->items[0] = (struct mapped){ 0, 4096, 0, st.st_dev, st.st_ino };
	*side.m = (struct worker_message){ .kind = WORKER_FRAME };
	worker_send(sock, side.m, -1, NULL);
	return proc_recv(sock, side.m, sizeof(*side.m), &side.fd, NULL) <= 0 || errand_end(&side, NULL);
}

static void nothing_lies_in_a_backing_file(void **state)
{
	struct err err;

	(void)state;
	make_disk();
	tree_file("other");
	mapper_process = lies_in_its_backing_file;
	assert_int_equal(map_with("disk.raw", &err), 0);
	expect_error(&why, ERR_REFUSED, "said what cannot be");
}

static void files_that_were_never_opened_are_refused(void **state)
{
	struct mapped m = { 0, 4096, 0, 0, 0 };
	struct stat st;

	(void)state;
	tree_file("other");
	assert_int_equal(stat(in_tree("other"), &st), 0);
	ours = false;
	nr_said = nr_times = 1;
	assert_int_equal(lies_told(1, &m), 0);
	expect_error(&why, ERR_REFUSED, "said what cannot be");
	m.dev = st.st_dev;
	m.ino = st.st_ino;
	assert_int_equal(lies_told(1, &m), 0);
	expect_error(&why, ERR_REFUSED, "said what cannot be");
}

static void numbers_larger_than_the_room_are_refused(void **state)
{
	static const uint32_t numbers[] = { MAPPER_AT_ONCE + 1, UINT32_MAX };

	(void)state;
	ours = true;
	nr_times = 1;
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
		nr_said = numbers[i];
		assert_int_equal(lies_told(1, &(struct mapped){ 0, 4096, 0, 0, 0 }), 0);
		expect_error(&why, ERR_REFUSED, "said what cannot be");
	}
	nr_said = 0;
	assert_int_equal(lies_told(1, &(struct mapped){ 0, 4096, 0, 0, 0 }), 1);
	nr_said = MAPPER_AT_ONCE;
	assert_int_equal(lies_told(1, &(struct mapped){ 0, 4096, 0, 0, 0 }), 1);
	assert_int_equal(stretches.nr, MAPPER_AT_ONCE);
}

/* The same cluster in every entry of its tables, or a process that makes stretches up: nobody has room for them. */
static void more_stretches_than_there_can_be_are_refused(void **state)
{
	(void)state;
	ours = true;
	nr_said = MAPPER_AT_ONCE;
	nr_times = 1000;
	assert_int_equal(lies_told(1, &(struct mapped){ 0, 4096, 0, 0, 0 }), 0);
	expect_error(&why, ERR_REFUSED, "the same data many times over");
	assert_in_range(stretches.nr, MAPPER_SPARE, MAPPER_SPARE + (MAPPER_TIMES + 1) * DISK / BLOCK_SIZE);
}

/* It reads as zeros, and the kernel shares nothing there. */
static void what_lies_past_the_end_of_its_file_is_left_out(void **state)
{
	struct mapped m[] = { { 0, 8192, DISK - 4096, 0, 0 }, { 16384, 8192, DISK - 4096 - 512, 0, 0 }, { 32768, 4096, DISK, 0, 0 },
			      { 40960, 4096, DISK - 100, 0, 0 }, { 49152, 4096, 1ull << 60, 0, 0 } };

	(void)state;
	ours = true;
	nr_said = 5;
	nr_times = 1;
	assert_int_equal(lies_told(5, m), 1);
	assert_int_equal(stretches.nr, 2);
	assert_int_equal(stretches.items[0].len, 4096);
	assert_int_equal(stretches.items[1].len, 4096);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		mapper_test(raw_images_lie_where_they_lie),
		mapper_test(many_stretches_come_piece_by_piece),
		mapper_test(qcow2_images_of_all_cluster_sizes),
		mapper_test(clusters_smaller_than_a_block_are_told_of),
		mapper_test(compressed_clusters_are_told_of_and_not_mapped),
		mapper_test(data_files_are_parts),
		mapper_test(extents_are_parts),
		mapper_test(grains_and_blocks_are_mapped),
		mapper_test(what_no_file_system_can_share_is_told_of),
		mapper_test(backing_files_are_no_parts),
		mapper_test(what_cannot_be_read_is_told),
		mapper_test(who_takes_it_may_fail),
		mapper_test(what_it_says_is_taken_if_it_can_be),
		mapper_test(stretches_ascend),
		mapper_test(what_cannot_be_is_refused),
		mapper_test(nothing_lies_in_a_backing_file),
		mapper_test(files_that_were_never_opened_are_refused),
		mapper_test(numbers_larger_than_the_room_are_refused),
		mapper_test(more_stretches_than_there_can_be_are_refused),
		mapper_test(what_lies_past_the_end_of_its_file_is_left_out),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
