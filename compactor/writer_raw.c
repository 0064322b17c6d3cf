/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/writer.h"

/* A raw image: the disk itself, of any size. */

static int raw_begin(struct writer *w, struct err *err)
{
	(void)err;
	w->file_end = w->size;
	return 0;
}

static int raw_place(struct writer *w, uint64_t offset, struct writer_place *ret, struct err *err)
{
	(void)err;
	ret->at = offset;
	ret->len = w->size - offset;
	return 0;
}

static int raw_end(struct writer *w, struct err *err)
{
	(void)w, (void)err;
	return 0;
}

const struct writer_format writer_raw = {
	.name = "raw",
	.instance = sizeof(struct writer),
	.unit = 1,
	.size_max = INT64_MAX,
	.begin = raw_begin,
	.place = raw_place,
	.end = raw_end,
};
