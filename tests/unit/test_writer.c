/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/image_help.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>

#include "compactor/writer_vmdk_parts.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/image/qcow2_format.h"
#include "scanner/image/vhd_format.h"

static const struct kind {
	const char *format, *kind;
	uint64_t cluster_size;
} kinds[] = {
	{ "raw", NULL, 0 },	    { "qcow2", "3", 0 },   { "qcow2", "2", 512 },	  { "qcow2", NULL, 2 << 20 },
	{ "qcow2", "zlib", 0 },	    { "qcow2", "zlib", 512 }, { "qcow2", "zstd", 0 },	  { "qcow2", "zstd", 2 << 20 },
	{ "vmdk", NULL, 0 },	    { "vmdk", NULL, 8192 }, { "vmdk", "monolithicSparse", 1 << 20 },
	{ "vmdk", "streamOptimized", 0 }, { "vmdk", "streamOptimized", 8192 }, { "vmdk", "monolithicFlat", 0 },
	{ "vmdk", "twoGbMaxExtentSparse", 0 }, { "vmdk", "twoGbMaxExtentFlat", 0 },
	{ "vhd", "dynamic", 0 },    { "vhd", NULL, 4096 },  { "vhd", NULL, 16 << 20 },	  { "vhd", "fixed", 0 },
	{ "vhdx", "dynamic", 0 },   { "vhdx", NULL, 1 << 20 }, { "vhdx", "fixed", 0 },
};

static uint64_t seed = 1;

static uint64_t any(uint64_t below)
{
	seed = seed * 6364136223846793005u + 1442695040888963407u;
	return (seed >> 20) % below;
}

/* ---- the other files of an image ---- */

static struct {
	char name[300];
	int fd;
} parts[64];
static size_t nr_parts;

static int create_part(void *ctx, const char *name, struct err *err)
{
	(void)ctx;
	(void)err;
	assert_true(nr_parts < ARRAY_SIZE(parts));
	if (nr_parts) { /* who writes to that one by its number now writes to another file */
		int old = parts[nr_parts - 1].fd;

		parts[nr_parts - 1].fd = fcntl(old, F_DUPFD, 100);
		close(old);
	}
	snprintf(parts[nr_parts].name, sizeof(parts[0].name), "%s", name);
	return parts[nr_parts++].fd = file_of("", 0);
}

static int open_part(void *ctx, enum image_role role, const char *name, const char *from_path, char *ret_path, struct err *err)
{
	(void)ctx;
	(void)from_path;
	assert_int_equal(role, IMAGE_EXTENT);
	snprintf(ret_path, PATH_MAX, "/%s", name);
	for (size_t i = 0; i < nr_parts; i++)
		if (strcmp(parts[i].name, name) == 0)
			return dup(parts[i].fd);
	return err_set(err, ERR_IO, "there is no '%s'", name);
}

static const struct image_opener opener = { .open = open_part };

static void forget_parts(void)
{
	while (nr_parts)
		close(parts[--nr_parts].fd);
}

static bool is_packed(const struct kind *k)
{
	return k->kind && (k->kind[0] == 'z' || strcmp(k->kind, "streamOptimized") == 0);
}

/* ---- writing ---- */

static struct writer *begin(const struct kind *k, int fd, uint64_t size, struct err *err)
{
	struct writer_options o = { .cluster_size = k->cluster_size, .kind = k->kind, .create = create_part };

	forget_parts();
	return writer_new(writer_format_by_name(k->format), fd, "disk", size, &o, err);
}

static struct writer *must_begin(const struct kind *k, int fd, uint64_t size)
{
	struct err err = ERR_INIT;
	struct writer *w = begin(k, fd, size, &err);

	if (!w)
		fail_msg("%s of %llu bytes: %s", k->format, (unsigned long long)size, err.text);
	return w;
}

static void must_put(struct writer *w, uint64_t at, const void *p, size_t len)
{
	struct err err = ERR_INIT;

	if (writer_put(w, at, p, len, &err) < 0)
		fail_msg("%s: %s", w->format->name, err.text);
}

static void must_end(struct writer *w)
{
	struct err err = ERR_INIT;

	if (writer_end(w, &err) < 0)
		fail_msg("%s: %s", w->format->name, err.text);
	writer_free(w);
}

static uint64_t space(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

/* ---- what is written is read ---- */

static void fill(uint8_t *p, size_t len)
{
	memset(p, (int)(1 + any(255)), len);
	for (size_t i = 0; i < len && len % 3 == 0; i++) /* what cannot be compressed */
		p[i] = (uint8_t)(1 + any(255));
}

/* Sectors of data, of zeros, and such as are not put. */
static void put_at_random(struct writer *w, uint8_t *model, size_t size)
{
	for (size_t at = 0, n; at < size; at += n) {
		n = min_u64((1 + any(any(2) ? 8 : 2000)) * WRITER_SECTOR, size - at);
		if (any(3) == 0)
			fill(model + at, n);
		if (model[at] || any(2))
			must_put(w, at, model + at, n);
	}
}

static void expect_bytes(int fd, const char *format, const uint8_t *model, size_t size)
{
	CLEANUP(image_close) struct image *img = must_open(fd, format, &opener);
	struct err err = ERR_INIT;
	struct extent ext;
	uint8_t *buf = malloc(size);

	assert_non_null(buf);
	assert_int_equal(img->size, size);
	for (uint64_t at = 0; at < size; at += ext.len) {
		if (image_next_guest_extent(img, at, &ext, &err) < 0 || image_read_extent(&ext, at, buf + at, ext.len, &err) < 0)
			fail_msg("%s at %llu: %s", format, (unsigned long long)at, err.text);
	}
	assert_memory_equal(buf, model, size);
	free(buf);
}

static void what_is_written_is_read_in_all_formats(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		for (int turn = 0; turn < 6; turn++) {
			size_t size = (1 + any(turn % 2 ? 12000 : 40)) * WRITER_SECTOR;
			uint8_t *model = calloc(1, size);
			int fd = file_of("", 0);
			struct writer *w = must_begin(&kinds[i], fd, size);

			assert_non_null(model);
			put_at_random(w, model, size);
			must_end(w);
			expect_bytes(fd, kinds[i].format, model, size);
			free(model);
		}
	}
}

static void the_last_byte_of_a_raw_disk_may_be_anywhere(void **state)
{
	static const struct kind raw = { "raw", NULL, 0 };
	uint8_t bytes[1024];
	int fd = file_of("", 0);
	struct writer *w = must_begin(&raw, fd, 1000);

	(void)state;
	memset(bytes, 'x', sizeof(bytes));
	must_put(w, 0, bytes, 512);
	must_put(w, 512, bytes, 512);
	must_end(w);
	assert_int_equal(lseek(fd, 0, SEEK_END), 1000);
	expect_bytes(fd, "raw", bytes, 1000);
}

static void other_disks_are_rounded_up_to_a_sector(void **state)
{
	(void)state;
	for (size_t i = 1; i < ARRAY_SIZE(kinds); i++) {
		struct writer *w = must_begin(&kinds[i], -1, 1000);

		assert_int_equal(w->size, 1024);
		writer_free(w);
	}
}

static void disks_of_no_bytes(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		bool can = strcmp(kinds[i].format, "raw") == 0 || strcmp(kinds[i].format, "qcow2") == 0;
		int fd = file_of("", 0);
		struct image *img;

		if (can) {
			must_end(must_begin(&kinds[i], fd, 0));
			img = must_open(fd, kinds[i].format, NULL);
			assert_int_equal(img->size, 0);
			image_close(img);
		} else {
			assert_null(begin(&kinds[i], fd, 0, NULL));
			close(fd);
		}
	}
}

/* ---- space ---- */

static void zeros_take_no_space(void **state)
{
	static uint8_t zeros[1 << 20];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		int put = file_of("", 0), not_put = file_of("", 0);
		struct writer *w = must_begin(&kinds[i], put, 64 * MIB);

		for (uint64_t at = 0; at < 64 * MIB; at += sizeof(zeros))
			must_put(w, at, zeros, sizeof(zeros));
		must_end(w);
		must_end(must_begin(&kinds[i], not_put, 64 * MIB));
		assert_int_equal(space(put), space(not_put));
		assert_true(space(put) <= 400 * KIB);
		close(put);
		close(not_put);
	}
}

static void of_a_cluster_only_what_is_not_zeros_takes_space(void **state)
{
	static uint8_t bytes[1 << 20];

	(void)state;
	for (size_t at = 0; at < sizeof(bytes); at += 2 * 4096)
		bytes[at] = 'x';
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		int fd = file_of("", 0);
		struct writer *w = must_begin(&kinds[i], fd, 64 * MIB);

		must_put(w, 8 * MIB, bytes, sizeof(bytes));
		must_end(w);
		if (kinds[i].cluster_size != 512 && kinds[i].cluster_size != 4096)
			assert_true(space(fd) <= sizeof(bytes) / 2 + 300 * KIB);
		close(fd);
	}
}

static void blocks_of_the_disk_are_blocks_of_the_file(void **state)
{
	static uint8_t bytes[1 << 20];

	(void)state;
	memset(bytes, 'x', sizeof(bytes));
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		struct err err = ERR_INIT;
		struct extent ext;
		struct image *img;
		int fd = file_of("", 0);
		struct writer *w = must_begin(&kinds[i], fd, 64 * MIB);

		if (kinds[i].cluster_size == 512 || is_packed(&kinds[i])) {
			writer_free(w);
			close(fd);
			continue;
		}
		for (uint64_t at = 3 * MIB; at < 60 * MIB; at += 5 * MIB)
			must_put(w, at, bytes, sizeof(bytes));
		must_end(w);
		img = must_open(fd, kinds[i].format, &opener);
		for (uint64_t at = 3 * MIB; at < 60 * MIB; at += 5 * MIB) {
			assert_int_equal(image_next_extent(img, at, &ext, &err), 0);
			assert_int_equal(ext.kind, EXTENT_DATA);
			assert_int_equal(ext.file_offset % WRITER_ALIGN, 0);
		}
		image_close(img);
	}
}

/* ---- giants ---- */

static void the_last_sector_of_the_largest_disks(void **state)
{
	static const struct {
		struct kind kind;
		uint64_t size;
	} giants[] = {
		{ { "raw", NULL, 0 }, (uint64_t)3 << 50 }, { { "qcow2", NULL, 0 }, (uint64_t)2 << 50 },
		{ { "qcow2", NULL, 2 << 20 }, (uint64_t)3 << 50 },	   { { "vmdk", NULL, 0 }, 2 * TIB },
		{ { "vhd", NULL, 0 }, 2040 * GIB },			   { { "vhdx", NULL, 0 }, 64 * TIB },
		{ { "vhd", "fixed", 0 }, 2040 * GIB },			   { { "qcow2", "zlib", 0 }, (uint64_t)2 << 50 },
		{ { "vmdk", "streamOptimized", 0 }, 2 * TIB },		   { { "vmdk", "monolithicFlat", 0 }, 62 * TIB },
		{ { "vmdk", "twoGbMaxExtentSparse", 0 }, 100 * GIB },	   { { "vmdk", "twoGbMaxExtentFlat", 0 }, 100 * GIB },
	};
	uint8_t sector[512];

	(void)state;
	memset(sector, 'x', sizeof(sector));
	for (size_t i = 0; i < ARRAY_SIZE(giants); i++) {
		struct err err = ERR_INIT;
		struct extent ext;
		struct image *img;
		int fd = file_of("", 0);
		struct writer *w = must_begin(&giants[i].kind, fd, giants[i].size);

		must_put(w, 0, sector, sizeof(sector));
		must_put(w, giants[i].size - 512, sector, sizeof(sector));
		must_end(w);
		assert_true(space(fd) <= 21 * MIB);
		img = must_open(fd, giants[i].kind.format, &opener);
		assert_int_equal(img->size, giants[i].size);
		assert_int_equal(image_next_extent(img, img->size - 512, &ext, &err), 0);
		assert_int_equal(image_read_extent(&ext, img->size - 512, sector, 512, &err), 0);
		assert_int_equal(sector[511], 'x');
		image_close(img);
	}
}

static void a_file_does_not_grow_past_what_its_format_can_say(void **state)
{
	static const struct {
		struct kind kind;
		uint64_t end;
	} full[] = {
		{ { "qcow2", NULL, 512 }, 128 * GIB }, { { "qcow2", "zlib", 512 }, 128 * GIB }, { { "qcow2", "zstd", 0 }, 2 * TIB },
		{ { "vmdk", "streamOptimized", 0 }, 2 * TIB }, { { "vhd", NULL, 0 }, 2 * TIB },
	};
	uint8_t sector[512] = "x";

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(full); i++) {
		struct err err = ERR_INIT;
		int fd = file_of("", 0);
		struct writer *w = must_begin(&full[i].kind, fd, 100 * GIB);

		w->file_end = full[i].end;
		assert_true(writer_put(w, 0, sector, 512, &err) < 0 || writer_end(w, &err) < 0);
		assert_int_equal(err.kind, ERR_UNSUPPORTED);
		writer_free(w);
		close(fd);
	}
}

static void a_sparse_extent_does_not_grow_past_what_its_tables_can_say(void **state)
{
	struct writer_place place;
	struct vmdk_sparse s;
	struct err err = ERR_INIT;

	(void)state;
	vmdk_sparse_begin(&s, -1, 100 * GIB, 64 * KIB, false);
	s.end = 2 * TIB - 64 * KIB;
	assert_int_equal(vmdk_sparse_place(&s, 0, &place, &err), 0);
	assert_int_equal(place.at, 2 * TIB - 64 * KIB);
	assert_int_equal(vmdk_sparse_place(&s, 64 * KIB, &place, &err), -1);
	expect_error(&err, ERR_UNSUPPORTED, "larger than a VMDK image can be");
}

/* ---- what is refused ---- */

static void refuses_what_a_format_cannot_have(void **state)
{
	static const struct {
		struct kind kind;
		uint64_t size;
		const char *text;
	} refused[] = {
		{ { "raw", NULL, 4096 }, 512, "no clusters" },
		{ { "raw", "thick", 0 }, 512, "of kind 'thick'" },
		{ { "raw", NULL, 0 }, (uint64_t)1 << 63, "cannot have a disk" },
		{ { "qcow2", "4", 0 }, 512, "of kind '4'" },
		{ { "qcow2", NULL, 256 }, 512, "256 bytes are no cluster" },
		{ { "qcow2", NULL, 3072 }, 512, "3072 bytes are no cluster" },
		{ { "qcow2", NULL, 4 << 20 }, 512, "are no cluster" },
		{ { "qcow2", NULL, 512 }, 128 * GIB + 512, "are too small" },
		{ { "vmdk", NULL, 0 }, 0, "cannot have a disk of 0 bytes; raw and qcow2 can" },
		{ { "vmdk", "monolithicFlat", 0 }, 62 * TIB + 512, "cannot have a disk" },
		{ { "vmdk", "monolithicFlat", 64 << 10 }, 512, "of kind monolithicFlat have no clusters" },
		{ { "vmdk", "twoGbMaxExtentFlat", 0 }, 2 * TIB + 512, "cannot have a disk" },
		{ { "vmdk", "twoGbMaxExtentSparse", 2 << 20 }, 512, "are no cluster" },
		{ { "vmdk", NULL, 0 }, 2 * TIB + 512, "cannot have a disk" },
		{ { "vmdk", "streamOptimized", 0 }, 2 * TIB + 512, "cannot have a disk" },
		{ { "vmdk", "streamOptimized", 128 << 10 }, 512, "are no cluster" },
		{ { "vmdk", "vmfs", 0 }, 512, "of kind 'vmfs'" },
		{ { "vmdk", NULL, 4096 }, 512, "are no cluster" },
		{ { "vhd", NULL, 0 }, 0, "cannot have a disk" },
		{ { "vhd", NULL, 0 }, 2040 * GIB + 1, "cannot have a disk" },
		{ { "vhd", "fixed", 2 << 20 }, 512, "of kind fixed have no clusters" },
		{ { "vhd", NULL, 4096 }, 2040 * GIB, "are too small" },
		{ { "vhdx", NULL, 0 }, 0, "cannot have a disk" },
		{ { "vhdx", NULL, 0 }, 64 * TIB + 512, "cannot have a disk" },
		{ { "vhdx", NULL, 512 << 20 }, 512, "are no cluster" },
		{ { "vhdx", NULL, 1 << 20 }, 64 * TIB, "are too small" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(refused); i++) {
		struct err err = ERR_INIT;

		assert_null(begin(&refused[i].kind, -1, refused[i].size, &err));
		expect_error(&err, strstr(refused[i].text, "cannot have") || strstr(refused[i].text, "too small") ? ERR_UNSUPPORTED
													  : ERR_USAGE,
			     refused[i].text);
	}
	assert_null(writer_format_by_name("vdi"));
}

static void refuses_several_files_where_none_can_be_created(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	assert_null(writer_new(&writer_vmdk_flat, -1, "disk.vmdk", 512, NULL, &err));
	expect_error(&err, ERR_UNSUPPORTED, "of kind 'monolithicFlat' are several files");
}

static void refuses_vmdk_names_that_a_descriptor_cannot_quote(void **state)
{
	static const char *const names[] = { "a\"b.vmdk", "a\nb.vmdk" };
	struct writer_options o = { .create = create_part };
	struct err err = ERR_INIT;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		for (const struct writer_format *const *f = writer_formats; *f; f++)
			if (strcmp((*f)->name, "vmdk") == 0)
				assert_null(writer_new(*f, -1, names[i], 512, &o, &err));
	expect_error(&err, ERR_UNSUPPORTED, "a quote or a control byte");
}

/* ---- VMDK ---- */

static void extents_are_named_after_the_image(void **state)
{
	static const struct {
		const struct writer_format *format;
		const char *name, *extent;
	} wanted[] = {
		{ &writer_vmdk_flat, "a.b.vmdk", "a.b-flat.vmdk" },	{ &writer_vmdk_flat, "a.VMDK", "a-flat.vmdk" },
		{ &writer_vmdk_flat, "a.img", "a.img-flat.vmdk" },	{ &writer_vmdk_flat, "a", "a-flat.vmdk" },
		{ &writer_vmdk_split, "a.vmdk", "a-s001.vmdk" },	{ &writer_vmdk_split_flat, "a.vmdk", "a-f001.vmdk" },
	};
	struct writer_options o = { .create = create_part };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(wanted); i++) {
		int fd = file_of("", 0);
		struct writer *w = writer_new(wanted[i].format, fd, wanted[i].name, 4096, &o, NULL);

		forget_parts();
		assert_non_null(w);
		must_end(w);
		assert_int_equal(nr_parts, 1);
		assert_string_equal(parts[0].name, wanted[i].extent);
		close(fd);
	}
}

/* Three extents, the last one of 6 MiB, and data over the end of each. */
static void what_is_put_goes_over_the_ends_of_extents(void **state)
{
	static const char *const split[] = { "twoGbMaxExtentSparse", "twoGbMaxExtentFlat" };
	const uint64_t part = 2047 * MIB, size = 2 * part + 6 * MIB;
	static uint8_t bytes[4 << 20];

	(void)state;
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(1 + i / 512 % 255);
	for (size_t i = 0; i < ARRAY_SIZE(split); i++) {
		struct kind kind = { "vmdk", split[i], 0 };
		int fd = file_of("", 0);
		struct writer *w = must_begin(&kind, fd, size);
		uint8_t *got = malloc(sizeof(bytes));
		struct err err = ERR_INIT;
		struct image *img;

		must_put(w, part - MIB, bytes, sizeof(bytes));
		must_put(w, 2 * part - 3 * MIB, bytes, sizeof(bytes));
		must_end(w);
		assert_int_equal(nr_parts, 3);
		img = must_open(fd, "vmdk", &opener);
		assert_int_equal(img->size, size);
		assert_non_null(got);
		assert_int_equal(image_read_guest(img, part - MIB, got, sizeof(bytes), &err), 0);
		assert_memory_equal(got, bytes, sizeof(bytes));
		assert_int_equal(image_read_guest(img, 2 * part - 3 * MIB, got, sizeof(bytes), &err), 0);
		assert_memory_equal(got, bytes, sizeof(bytes));
		expect_guest_bytes(img, part + 3 * MIB, MIB, 0);
		expect_guest_bytes(img, size - MIB, MIB, 0);
		image_close(img);
		close(fd);
		free(got);
	}
}

/* A table is for 4 MiB. */
static void tables_of_a_stream_are_of_their_own_grains(void **state)
{
	static const struct kind kind = { "vmdk", "streamOptimized", 8192 };
	static uint8_t bytes[1 << 20];
	int fd = file_of("", 0);
	struct writer *w = must_begin(&kind, fd, 16 * MIB);
	struct image *img;

	(void)state;
	memset(bytes, 'x', sizeof(bytes));
	must_put(w, 0, bytes, sizeof(bytes));
	must_put(w, 6 * MIB, bytes, sizeof(bytes));
	must_put(w, 15 * MIB, bytes, sizeof(bytes));
	must_end(w);
	img = must_open(fd, "vmdk", NULL);
	for (uint64_t at = 0; at < 16; at++)
		expect_guest_bytes(img, at * MIB, MIB, at == 0 || at == 6 || at == 15 ? 'x' : 0);
	image_close(img);
}

/* ---- qcow2 ---- */

static void nothing_is_compressed_that_does_not_become_smaller(void **state)
{
	static const struct kind packing[] = { { "qcow2", "zlib", 0 }, { "qcow2", "zstd", 0 } };
	static uint8_t noise[1 << 20];

	(void)state;
	for (size_t i = 0; i < sizeof(noise); i++)
		noise[i] = (uint8_t)(1 + any(255));
	for (size_t i = 0; i < ARRAY_SIZE(packing); i++) {
		int fd = file_of("", 0);
		struct writer *w = must_begin(&packing[i], fd, 64 * MIB);
		struct image *img;

		must_put(w, 0, noise, sizeof(noise));
		must_end(w);
		img = must_open(fd, "qcow2", NULL);
		expect_extent(img, 0, sizeof(noise), EXTENT_DATA);
		image_close(img);
	}
}

/* The clusters of 512 bytes in front of the refcounts are `used`; each block of refcounts is for 256. */
static void expect_refcounts(uint64_t used)
{
	static const struct kind kind = { "qcow2", NULL, 512 };
	struct qcow2_header_disk h;
	int fd = file_of("", 0);
	struct writer *w = must_begin(&kind, fd, 1 * GIB);
	uint64_t all, entry, offset;
	be64 block;
	be16 count;

	w->file_end = used * 512;
	must_end(w);
	all = (uint64_t)lseek(fd, 0, SEEK_END) / 512;
	assert_int_equal(pread(fd, &h, sizeof(h), 0), sizeof(h));
	assert_int_equal(be32_get(h.refcount_table_clusters), div_up(div_up(all, 256), 64));
	for (uint64_t i = 0; i < round_up(all, 256); i++) {
		entry = be64_get(h.refcount_table_offset) + i / 256 * sizeof(block);
		assert_int_equal(pread(fd, &block, sizeof(block), (off_t)entry), sizeof(block));
		offset = be64_get(block) + i % 256 * sizeof(count);
		assert_in_range(be64_get(block), used * 512, (all - 1) * 512);
		assert_int_equal(pread(fd, &count, sizeof(count), (off_t)offset), sizeof(count));
		assert_int_equal(be16_get(count), i < all);
	}
	close(fd);
}

static void refcounts_count_themselves(void **state)
{
	(void)state;
	for (uint64_t used = 750; used < 772; used++)
		expect_refcounts(used + 64 * 256);
	for (uint64_t used = 64 * 256 - 67; used < 64 * 256 + 2; used += used == 64 * 256 - 63 ? 60 : 1)
		expect_refcounts(used);
}

/* ---- VHD ---- */

static void geometries_of_vhd_disks(void **state)
{
	static const struct {
		uint64_t size;
		unsigned cylinders, heads, sectors;
	} wanted[] = {
		{ 512, 0, 4, 17 },	       { 40 * MIB, 963, 5, 17 },	 { 200 * MIB, 825, 16, 31 },
		{ 1 * GIB, 2080, 16, 63 },     { 127 * GIB, 65278, 16, 255 },	 { 2040 * GIB, 65535, 16, 255 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(wanted); i++) {
		struct vhd_footer_disk d;
		int fd = file_of("", 0);

		must_end(must_begin(&(struct kind){ "vhd", NULL, 0 }, fd, wanted[i].size));
		assert_int_equal(pread(fd, &d, sizeof(d), 0), sizeof(d));
		assert_int_equal(be64_get(d.current_size), wanted[i].size);
		assert_int_equal(d.sectors, wanted[i].sectors);
		assert_int_equal(d.heads, wanted[i].heads);
		assert_int_equal(be16_get(d.cylinders), wanted[i].cylinders);
		close(fd);
	}
}

/* ---- system calls ---- */

static struct file_ops counting;
static int nr_writes, fail_at;

static ssize_t counted_pwrite(int fd, const void *buf, size_t len, off_t offset)
{
	if (++nr_writes == fail_at) {
		errno = ENOSPC;
		return -1;
	}
	return file_ops_os.pwrite(fd, buf, len, offset);
}

static int count_writes(void **state)
{
	(void)state;
	counting = file_ops_os;
	counting.pwrite = counted_pwrite;
	nr_writes = fail_at = 0;
	file_ops = &counting;
	return 0;
}

static int count_no_more(void **state)
{
	(void)state;
	file_ops = &file_ops_os;
	return 0;
}

static void clusters_in_a_row_are_written_at_once(void **state)
{
	static uint8_t bytes[4 << 20];

	(void)state;
	memset(bytes, 'x', sizeof(bytes));
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		int fd = file_of("", 0);
		struct writer *w = must_begin(&kinds[i], fd, 64 * MIB);

		must_put(w, 32 * MIB, bytes, 512); /* the tables that come first */
		nr_writes = 0;
		must_put(w, 32 * MIB + 512, bytes, sizeof(bytes) - 512);
		if (strcmp(kinds[i].format, "vhd") != 0 && !is_packed(&kinds[i]) && kinds[i].cluster_size != 512 &&
		    kinds[i].cluster_size != 8192)
			assert_int_equal(nr_writes, 1);
		must_end(w);
		close(fd);
	}
}

/* Whether all went well. */
static bool write_some(const struct kind *k, struct err *err)
{
	static const uint8_t bytes[8192] = "x";
	int fd = file_of("", 0);
	struct writer *w = begin(k, fd, 1 * GIB, err);
	bool well = w && writer_put(w, 0, bytes, sizeof(bytes), err) == 0 &&
		    writer_put(w, 700 * MIB, bytes, sizeof(bytes), err) == 0 && writer_end(w, err) == 0;

	writer_free(w);
	close(fd);
	return well;
}

static void every_write_may_fail(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		struct err err = ERR_INIT;
		int all;

		nr_writes = fail_at = 0;
		assert_true(write_some(&kinds[i], &err));
		all = nr_writes;
		assert_true(all >= 2);
		for (int at = 1; at <= all; at++) {
			nr_writes = 0;
			fail_at = at;
			err = ERR_INIT;
			assert_false(write_some(&kinds[i], &err));
			assert_int_equal(err.kind, ERR_FULL);
		}
	}
}

#define counting_test(f) cmocka_unit_test_setup_teardown(f, count_writes, count_no_more)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_written_is_read_in_all_formats),
		cmocka_unit_test(the_last_byte_of_a_raw_disk_may_be_anywhere),
		cmocka_unit_test(other_disks_are_rounded_up_to_a_sector),
		cmocka_unit_test(disks_of_no_bytes),
		cmocka_unit_test(zeros_take_no_space),
		cmocka_unit_test(of_a_cluster_only_what_is_not_zeros_takes_space),
		cmocka_unit_test(blocks_of_the_disk_are_blocks_of_the_file),
		cmocka_unit_test(the_last_sector_of_the_largest_disks),
		cmocka_unit_test(a_file_does_not_grow_past_what_its_format_can_say),
		cmocka_unit_test(a_sparse_extent_does_not_grow_past_what_its_tables_can_say),
		cmocka_unit_test(refuses_what_a_format_cannot_have),
		cmocka_unit_test(refuses_several_files_where_none_can_be_created),
		cmocka_unit_test(refuses_vmdk_names_that_a_descriptor_cannot_quote),
		cmocka_unit_test(extents_are_named_after_the_image),
		cmocka_unit_test(what_is_put_goes_over_the_ends_of_extents),
		cmocka_unit_test(tables_of_a_stream_are_of_their_own_grains),
		cmocka_unit_test(nothing_is_compressed_that_does_not_become_smaller),
		cmocka_unit_test(refcounts_count_themselves),
		cmocka_unit_test(geometries_of_vhd_disks),
		counting_test(clusters_in_a_row_are_written_at_once),
		counting_test(every_write_may_fail),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
