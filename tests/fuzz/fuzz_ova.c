/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/image/tar_format.h"
#include "tests/fuzz/walk_help.h"

/* The bytes of an OVA, opened and walked in both views.  Wherever a block has the magic of a tar header, its checksum is
 * put right, unless the first byte of the checksum is '!'. */

static void put_right(struct tar_header_disk *d)
{
	const uint8_t *p = (const void *)d;
	unsigned sum = 0;
	char octal[8] = "";

	if (memcmp(d->magic, "ustar", 5) != 0 || d->checksum[0] == '!')
		return;
	memset(d->checksum, ' ', sizeof(d->checksum));
	for (size_t i = 0; i < sizeof(*d); i++)
		sum += p[i];
	snprintf(octal, sizeof(octal), "%06o", sum);
	memcpy(d->checksum, octal, sizeof(octal));
}

static void look(const uint8_t *data, size_t size)
{
	struct image_look l = { .head = data, .len = min_u64(size, IMAGE_HEAD), .size = size };

	if (size >= 512)
		l.tail = data + size - 512;
	for (size_t i = 0; image_formats[i]; i++)
		image_formats[i]->probe(&l);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size + 1);

	must(copy != NULL);
	memcpy(copy, data, size);
	for (size_t at = 0; range_within(at, sizeof(struct tar_header_disk), size); at += TAR_BLOCK)
		put_right((void *)(copy + at));
	look(copy, size);
	walk_image(copy, size, "ova");
	free(copy);
	return 0;
}
