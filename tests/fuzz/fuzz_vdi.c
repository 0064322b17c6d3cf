/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/image/vdi_format.h"
#include "tests/fuzz/walk_help.h"

/* The bytes of a VDI image, opened and walked in both views.  The signature and the version are put right, so that the
 * search does not end at the door; the first byte tells whether. */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vdi_header_disk *d;
	uint8_t *copy = malloc(size + 1);

	must(copy != NULL);
	memcpy(copy, data, size);
	d = (void *)copy;
	if (size >= sizeof(*d) && data[0] != '!') {
		d->signature = le32_from(VDI_SIGNATURE);
		d->version = le32_from(VDI_VERSION_1_1);
	}
	walk_image(copy, size, "vdi");
	free(copy);
	return 0;
}
