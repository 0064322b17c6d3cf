/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/pool/bitmaps.h"
#include "compactor/pool/view.h"
#include "tests/fuzz/walk_help.h"

/* The bytes of a qcow2 image.  The bitmaps that are read from it come into a fresh overlay, which must have the same then. */

#define BITS_MOST (4 * MIB) /* bytes, so that an input takes no time */

static void must_say(const struct err *err)
{
	must(err->kind == ERR_FORMAT || err->kind == ERR_UNSUPPORTED);
	must(err->text[0]);
}

static uint64_t bytes_of(const struct bitmaps *b)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < b->list.nr; i++)
		bytes += div_up(b->list.items[i].nr_bits, 8);
	return bytes;
}

static void carry(const struct bitmaps *b, uint64_t size)
{
	static const struct slice backing = { .path = "/pool/views/x.qcow2", .offset = 65536, .size = MIB, .read_only = true };
	const struct overlay_options o = { .compat = false };
	struct bitmaps copy = BITMAPS_INIT;
	struct err err = ERR_INIT;
	int fd = file_of(NULL, 0);

	if (overlay_write(fd, size, &backing, &o, &err) < 0 || bitmaps_append(b, fd, NULL, NULL, &err) < 0) {
		must_say(&err);
	} else {
		must(bitmaps_prove(b, fd, NULL, NULL, &err) == 0);
		must(bitmaps_read(fd, &copy, &err) == 0 && copy.list.nr == b->list.nr && !copy.nr_invalid);
		bitmaps_release(&copy);
	}
	close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct bitmaps b = BITMAPS_INIT;
	struct err err = ERR_INIT;
	struct qcow2_header h;
	int fd = file_of(data, size);

	if (bitmaps_read(fd, &b, &err) < 0) {
		must_say(&err);
	} else {
		must(overlay_header(fd, &h, NULL) == 0);
		must(b.list.nr <= BITMAPS_MOST && bytes_of(&b) <= BITMAPS_BITS_MOST);
		if (bytes_of(&b) <= BITS_MOST)
			carry(&b, h.size);
		bitmaps_release(&b);
	}
	close(fd);
	return 0;
}
