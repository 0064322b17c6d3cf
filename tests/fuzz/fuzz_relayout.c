/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/proof.h"
#include "compactor/relayout.h"
#include "scanner/image/vdi_format.h"
#include "scanner/image/vhd_format.h"
#include "tests/fuzz/walk_help.h"

/* The bytes of a VHD or VDI image, rewritten.  Checksums of a VHD image are put right first; an input that begins with '!' is left
 * as it is.  What is written must be an image that says the same, all of its data on boundaries, and no longer than was
 * foretold. */

#define UNIT 4096

static void seal(uint8_t *image, size_t size, uint64_t at, size_t len, size_t field)
{
	if (range_within(at, len, size))
		be32_store(image + at + field, vhd_checksum(image + at, len, field));
}

static void seal_footer(uint8_t *image, size_t size, uint64_t at)
{
	const struct vhd_footer_disk *f = (const void *)(image + at);

	seal(image, size, be64_get(f->header_offset), VHD_HEADER_SIZE, offsetof(struct vhd_header_disk, checksum));
	seal(image, size, at, VHD_FOOTER_SIZE, offsetof(struct vhd_footer_disk, checksum));
}

static void seal_image(uint8_t *image, size_t size)
{
	if (size < VHD_FOOTER_SIZE || image[0] == '!')
		return;
	if (memcmp(image + size - VHD_FOOTER_SIZE, VHD_FOOTER_COOKIE, 8) == 0)
		seal_footer(image, size, size - VHD_FOOTER_SIZE);
	if (memcmp(image, VHD_FOOTER_COOKIE, 8) == 0)
		seal_footer(image, size, 0);
}

static bool is_vdi(const uint8_t *data, size_t size)
{
	return size > VDI_SIGNATURE_OFFSET + 4 && le32_load(data + VDI_SIGNATURE_OFFSET) == VDI_SIGNATURE;
}

static struct image *open_image(int fd, const char *format, struct err *err)
{
	return image_open(fd, "input", image_format_by_name(format), NULL, NULL, err);
}

static void must_be_aligned(struct image *img)
{
	struct extent ext;

	for (uint64_t at = 0; at < img->span; at += ext.len) {
		must(image_next_extent(img, at, &ext, NULL) == 0);
		must(ext.kind != EXTENT_DATA || (ext.file_offset - ext.offset) % UNIT == 0);
	}
}

/* The same blocks of the same files may be told to be there more than once (VDI), and then a comparison has no end. */
static bool compared(struct image *old, struct image *copy)
{
	struct err err = ERR_INIT;

	if (old->span > 64 * MIB)
		return false;
	if (proof_compare(old, copy, NULL, NULL, &err) < 0)
		must(err.kind == ERR_REFUSED || err.kind == ERR_FORMAT);
	return err.kind == ERR_NONE;
}

static void try_image(int fd, const char *format)
{
	struct err err = ERR_INIT;
	struct image *old = open_image(fd, format, &err), *copy;
	int new_fd = file_of(NULL, 0);

	if (!old || relayout_write(old, new_fd, NULL, NULL, &err) < 0) {
		must(err.kind != ERR_NONE && err.text[0]);
		image_close(old);
		close(new_fd);
		return;
	}
	copy = open_image(new_fd, format, &err);
	must(copy != NULL);
	must(copy->file.size <= relayout_size(format, old->file.size, old->info.cluster_size));
	if (compared(old, copy))
		must_be_aligned(copy);
	image_close(old);
	image_close(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *image = malloc(size + 1);

	must(image != NULL);
	memcpy(image, data, size);
	if (is_vdi(image, size)) {
		try_image(file_of(image, size), "vdi");
	} else {
		seal_image(image, size);
		try_image(file_of(image, size), "vhd");
	}
	free(image);
	return 0;
}
