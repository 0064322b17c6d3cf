/* SPDX-License-Identifier: Apache-2.0 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "scanner/base/text.h"
#include "scanner/image/slice.h"

/* The input is a backing name.  What is read as a slice is possible and comes out the same when it is written and read again;
 * then the input is a path, of which the name must come back. */

static void must(int what)
{
	if (!what)
		abort();
}

static void must_come_back(const struct slice *s)
{
	char name[1024];
	struct slice again;

	if (slice_format(s, name, sizeof(name), NULL) < 0)
		return;
	must(slice_parse(name, &again) == 1);
	must(again.offset == s->offset && again.size == s->size && again.read_only == s->read_only &&
	     slice_same_reading(&again.reading, &s->reading) && strcmp(again.path, s->path) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *name = malloc(size + 1);
	struct slice s = { .offset = size };

	must(name != NULL);
	memcpy(name, data, size);
	name[size] = '\0';
	if (slice_parse(name, &s)) {
		must(s.path[0] == '/' && text_is_utf8(s.path) && memchr(s.path, 0, sizeof(s.path)) != NULL);
		must(s.offset <= INT64_MAX && s.size <= INT64_MAX - s.offset && s.reading.l2 <= SLICE_L2_CACHE_MAX);
		must_come_back(&s);
	}
	s = (struct slice){
		.offset = size, .size = 1, .read_only = size % 2, .reading = { size % 5, size % 3 == 0, size % 7 == 0 }, .path = "/"
	};
	strncat(s.path, name, sizeof(s.path) - 2);
	must_come_back(&s);
	free(name);
	return 0;
}
