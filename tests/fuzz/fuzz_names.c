/* SPDX-License-Identifier: Apache-2.0 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "scanner/base/crc32c.h"
#include "tests/unit/name_help.h"

/* Row F13.
 *
 * The input is a name file; without a right checksum it is given one.  What is read as one must be written as the very same
 * bytes; then the input is the numbers of which a name is made, which must come back. */

static void must(int what)
{
	if (!what)
		abort();
}

static void must_be_written_so(const struct name *n, const char *text, size_t len)
{
	char *again;
	size_t again_len;

	must(name_encode(n, &again, &again_len, NULL) == 0);
	must(again_len == len && memcmp(again, text, len) == 0);
	free(again);
}

static void read_one(const char *text, size_t len)
{
	struct err err = ERR_INIT;
	struct name n;

	if (name_decode(text, len, &n, &err) < 0) {
		must(err.kind == ERR_FORMAT || err.kind == ERR_UNSUPPORTED);
		return;
	}
	must_be_written_so(&n, text, len);
	name_release(&n);
}

static uint64_t next_byte(struct name_source *s)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < 2 && s->left; i++, s->left--)
		v = v << 29 ^ *s->bytes++;
	return v;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct name_source source = { .next = next_byte, .bytes = data, .left = size };
	char *text = malloc(size + 16), *written;
	size_t len;
	struct name n;

	must(text != NULL);
	memcpy(text, data, size);
	read_one(text, size);
	snprintf(text + size, 16, "crc %08x\n", crc32c(0, data, size));
	read_one(text, size + 13);
	free(text);

	must(any_name(&source, &n) == 0);
	must(name_encode(&n, &written, &len, NULL) == 0);
	read_one(written, len);
	free(written);
	name_release(&n);
	return 0;
}
