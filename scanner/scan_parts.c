/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/scan_parts.h"

#include <string.h>

void scan_tell_progress(struct scan *s, const char *stage, uint64_t done, uint64_t total)
{
	struct scan_progress p = { .stage = stage,
				   .done = done,
				   .total = total,
				   .nr_images_done = s->images_done,
				   .nr_images = s->images_total };

	p.bytes = strcmp(stage, "reading") == 0;
	if (s->o->watch)
		s->o->watch->progress(s->o->watch->ctx, &p);
}

void scan_tell_problem(struct scan *s, const char *path, const struct err *why)
{
	if (s->o->watch)
		s->o->watch->problem(s->o->watch->ctx, path, why);
}

void scan_resolve_backing(const char *name, const char *image, char ret[PATH_MAX])
{
	ret[0] = '\0';
	if (name && name[0] && roots_resolve_named(IMAGE_BACKING, name, image, ret, NULL) < 0)
		ret[0] = '\0';
}

bool scan_told_the_same(const struct scan *s, bool told, const char *format)
{
	if (told != (s->o->format != NULL))
		return false;
	return !told || (format && strcmp(format, s->o->format) == 0);
}
