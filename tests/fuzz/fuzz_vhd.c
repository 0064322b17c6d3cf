/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/image/vhd_format.h"
#include "tests/fuzz/walk_help.h"

/* The bytes of a VHD image, opened and walked in both views.  Checksums are put right first: of the footer's copy, the
 * header that it points to and of a footer at the end; an input that begins with '!' is left as it is.  The parent of a
 * differencing disk is the image itself, made a dynamic disk. */

static void seal(uint8_t *p, size_t len, size_t at)
{
	be32_store(p + at, vhd_checksum(p, len, at));
}

static void seal_footer(uint8_t p[VHD_FOOTER_SIZE])
{
	seal(p, VHD_FOOTER_SIZE, offsetof(struct vhd_footer_disk, checksum));
}

static void seal_header(uint8_t *image, size_t size, const uint8_t *footer)
{
	uint64_t at = be64_get(((const struct vhd_footer_disk *)footer)->header_offset);

	if (range_within(at, VHD_HEADER_SIZE, size))
		seal(image + at, VHD_HEADER_SIZE, offsetof(struct vhd_header_disk, checksum));
}

static void seal_image(uint8_t *image, size_t size)
{
	uint8_t footer[VHD_FOOTER_SIZE];
	size_t len;

	if (size < VHD_FOOTER_SIZE || image[0] == '!')
		return;
	len = vhd_footer_find(image + size - VHD_FOOTER_SIZE, footer);
	if (len) {
		seal_header(image, size, footer);
		seal_footer(footer);
		memcpy(image + size - len, footer, len);
	}
	if (memcmp(image, VHD_FOOTER_COOKIE, 8) == 0) {
		seal_header(image, size, image);
		seal_footer(image);
	}
}

struct input {
	const uint8_t *image;
	size_t size;
};

static void make_dynamic(uint8_t *footer)
{
	struct vhd_footer_disk *d = (void *)footer;

	if (be32_get(d->type) == VHD_DIFFERENCING)
		d->type = be32_from(VHD_DYNAMIC);
}

static int open_parent(void *ctx, enum image_role role, const char *name, const char *from, char *ret_path,
		       struct err *err)
{
	struct input *input = ctx;
	uint8_t *copy = malloc(input->size);
	int fd;

	(void)err;
	must(copy && role == IMAGE_BACKING && *name && strlen(name) < IMAGE_NAME_MAX && *from);
	must(input->size >= VHD_FOOTER_SIZE + VHD_HEADER_SIZE);
	memcpy(copy, input->image, input->size);
	make_dynamic(copy);
	if (memcmp(copy + input->size - VHD_FOOTER_SIZE, VHD_FOOTER_COOKIE, 8) == 0)
		make_dynamic(copy + input->size - VHD_FOOTER_SIZE);
	seal_image(copy, input->size);
	strcpy(ret_path, "parent.vhd");
	fd = file_of(copy, input->size);
	free(copy);
	return fd;
}

static void try_image(struct input *input)
{
	struct image_opener opener = { .open = open_parent, .ctx = input };
	struct err err = ERR_INIT;
	struct image *img = image_open(file_of(input->image, input->size), "input.vhd", image_format_by_name("vhd"),
				       &opener, NULL, &err);

	if (!img) {
		must(err.kind != ERR_NONE && err.text[0]);
		return;
	}
	walk_view(img, false);
	if (image_open_chain(img, &opener, &err) == 0)
		walk_view(img, true);
	image_close(img);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *image = malloc(size + 1);
	struct input input = { .image = image, .size = size };

	must(image != NULL);
	memcpy(image, data, size);
	seal_image(image, size);
	try_image(&input);
	free(image);
	return 0;
}
