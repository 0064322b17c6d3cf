/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_TESTS_IMAGE_HELP_H
#define DEDUPSCAN_TESTS_IMAGE_HELP_H

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

#endif
