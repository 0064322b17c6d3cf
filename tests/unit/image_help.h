/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_TESTS_IMAGE_HELP_H
#define DEDUPSCAN_TESTS_IMAGE_HELP_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "scanner/base/file.h"
#include "scanner/image/image.h"

/* For tests of disk images: bytes become a file without a name, and an image of it. */

static inline int file_of(const void *bytes, size_t len)
{
	int fd = memfd_create("image", MFD_CLOEXEC);

	assert_true(fd >= 0);
	if (len)
		assert_int_equal(pwrite(fd, bytes, len, 0), len);
	return fd;
}

static inline struct image *must_open(int fd, const char *format, const struct image_opener *opener)
{
	struct err err = ERR_INIT;
	struct image *img = image_open(fd, "test.img", format ? image_format_by_name(format) : NULL, opener, NULL, &err);

	if (!img)
		fail_msg("not opened: %s", err.text);
	return img;
}

static inline void expect_error(const struct err *err, enum err_kind kind, const char *text)
{
	if (err->kind != kind || !strstr(err->text, text))
		fail_msg("wanted %s '%s', got %s '%s'", err_kind_name(kind), text, err_kind_name(err->kind), err->text);
}

static inline void expect_extent(struct image *img, uint64_t from, uint64_t len, enum extent_kind kind)
{
	struct err err = ERR_INIT;
	struct extent ext;

	if (image_next_extent(img, from, &ext, &err) < 0)
		fail_msg("no extent at %llu: %s", (unsigned long long)from, err.text);
	assert_int_equal(ext.offset, from);
	assert_int_equal(ext.kind, kind);
	assert_int_equal(ext.len, len);
}

/* In the image's own file. */
static inline void expect_data(struct image *img, uint64_t from, uint64_t len, uint64_t file_offset)
{
	struct err err = ERR_INIT;
	struct extent ext;

	expect_extent(img, from, len, EXTENT_DATA);
	assert_int_equal(image_next_extent(img, from, &ext, &err), 0);
	assert_int_equal(ext.file_offset, file_offset);
	assert_ptr_equal(ext.file, &img->file);
}

static inline void expect_guest_bytes(struct image *img, uint64_t at, size_t len, uint8_t byte)
{
	struct err err = ERR_INIT;
	uint8_t *buf = malloc(len);

	assert_non_null(buf);
	if (image_read_guest(img, at, buf, len, &err) < 0)
		fail_msg("not read: %s", err.text);
	for (size_t i = 0; i < len; i++)
		assert_int_equal(buf[i], byte);
	free(buf);
}

/* ---- damage ---- */

/* Walks all of an image and reads a byte of each extent.  Returns -1 at what is broken. */
static inline int walk_image(struct image *img, struct err *err)
{
	struct extent ext;
	uint8_t byte;

	for (uint64_t at = 0; at < img->span; at += ext.len)
		if (image_next_extent(img, at, &ext, err) < 0 || image_read_extent(&ext, at, &byte, 1, err) < 0)
			return -1;
	return 0;
}

/* These bytes are an image, of whatever format, that can be read, or it is told why not. */
static inline void try_damaged(const void *bytes, size_t len)
{
	struct err err = ERR_INIT;
	struct image *img = image_open(file_of(bytes, len), "test.img", NULL, NULL, NULL, &err);

	if (img && walk_image(img, &err) == 0)
		assert_int_equal(err.kind, ERR_NONE);
	else if (err.kind == ERR_NONE || !err.text[0])
		fail_msg("failed without a message");
	image_close(img);
}

static int reads_left;

static inline ssize_t failing_pread(int fd, void *buf, size_t len, off_t offset)
{
	if (reads_left-- > 0)
		return pread(fd, buf, len, offset);
	errno = EIO;
	return -1;
}

/* Opens and reads all with so many reads that work; returns whether that went well. */
static inline bool try_reads(const void *bytes, size_t len, int nr)
{
	struct file_ops ops = file_ops_os;
	struct err err = ERR_INIT;
	struct image *img;
	bool well;

	ops.pread = failing_pread;
	reads_left = nr;
	file_ops = &ops;
	img = image_open(file_of(bytes, len), "test.img", NULL, NULL, NULL, &err);
	well = img && walk_image(img, &err) == 0;
	file_ops = &file_ops_os;
	image_close(img);
	if (!well)
		expect_error(&err, ERR_IO, "Input/output error");
	return well;
}

#endif
