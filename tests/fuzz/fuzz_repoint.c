/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/pool/view.h"
#include "scanner/image/qcow2_format.h"
#include "tests/fuzz/walk_help.h"

/* The bytes of an overlay, before which one says how long the name of another backing file is.  When it is given that, it names
 * it, and no byte is another one but that name, which covers nothing that the header had, and the 12 bytes that lead there; else
 * none is. */

static struct slice backing_of(uint8_t len)
{
	struct slice s = { .offset = 65536, .size = MIB, .read_only = true };

	memset(s.path, 'p', 1 + 3u * len);
	s.path[0] = '/';
	return s;
}

static uint64_t name_at(const uint8_t *p, uint64_t *ret_len)
{
	const struct qcow2_header_disk *d = (const void *)p;

	*ret_len = be32_get(d->backing_file_size);
	return be64_get(d->backing_file_offset);
}

static void compare(const uint8_t *before, const uint8_t *after, size_t size)
{
	uint64_t old_len, len, old = name_at(before, &old_len), at = name_at(after, &len);

	must(at + len <= old || at >= old + old_len);
	for (size_t i = 0; i < size; i++)
		must(before[i] == after[i] || (i >= 8 && i < 20) || (i >= at && i < at + len));
}

static void must_name(int fd, const struct slice *s)
{
	struct slice is;
	uint64_t size;

	must(overlay_names(fd, &is, &size, NULL) >= 0); /* it may have another backing format */
	if (overlay_backing(fd, &is, &size, NULL) > 0)
		must(strcmp(is.path, s->path) == 0 && is.offset == s->offset && is.size == s->size && is.read_only);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct err err = ERR_INIT;
	struct slice s;
	uint8_t *after;
	int fd, rc;

	if (!size)
		return 0;
	s = backing_of(data[0]);
	data++;
	size--;
	fd = file_of(data, size);
	after = malloc(size + 1);
	rc = overlay_repoint(fd, &s, &err);
	must(after && pread(fd, after, size, 0) == (ssize_t)size);
	if (rc == 0) {
		compare(data, after, size);
		must_name(fd, &s);
	} else {
		must((err.kind == ERR_FORMAT || err.kind == ERR_UNSUPPORTED || err.kind == ERR_STALE) && err.text[0]);
		must(memcmp(data, after, size) == 0);
	}
	free(after);
	close(fd);
	return 0;
}
