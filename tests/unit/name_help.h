/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_NAME_HELP_H
#define DEDUPSCAN_NAME_HELP_H

#include <stdio.h>

#include "compactor/pool/names.h"

/* Names of any content, of a source of numbers; for tests and fuzzing. */

struct name_source {
	uint64_t (*next)(struct name_source *s);
	const uint8_t *bytes;
	size_t left;
	uint64_t state;
};

static inline void any_text(struct name_source *s, char *ret, size_t room, bool path)
{
	size_t len = s->next(s) % (s->next(s) % 50 ? 30 : room - 1);

	len += path && !len;
	for (size_t i = 0; i < len; i++) {
		uint8_t c = (uint8_t)s->next(s);

		ret[i] = (char)(path && i == 0 ? '/' : c ? c : '%');
	}
	ret[len] = '\0';
}

static inline void any_id(struct name_source *s, uint8_t ret[POOL_ID_SIZE], bool must)
{
	if (!must && s->next(s) % 2)
		return;
	for (size_t i = 0; i < POOL_ID_SIZE; i++)
		ret[i] = (uint8_t)s->next(s);
	ret[0] |= 1;
}

static inline struct name_disk any_disk(struct name_source *s, enum name_kind kind)
{
	struct name_disk d = { .size = s->next(s) % INT64_MAX + 1 };

	any_text(s, d.path, sizeof(d.path), true);
	any_id(s, d.view, kind == NAME_MEMBER);
	any_id(s, d.below, false);
	d.folded = s->next(s) % 2;
	if (kind == NAME_VERSION)
		any_id(s, d.sealed, !d.folded);
	for (size_t i = 0; d.folded && i < DIGEST_SIZE; i++)
		d.root[i] = (uint8_t)s->next(s);
	if (kind == NAME_VERSION && !d.folded && s->next(s) % 4 == 0)
		d.inode = s->next(s);
	if (!name_id_is_null(d.sealed) && s->next(s) % 2)
		d.written = s->next(s);
	if (!name_id_is_null(d.sealed) && s->next(s) % 2)
		d.length = s->next(s) & INT64_MAX;
	if (d.length)
		d.l1 = (uint32_t)s->next(s);
	if (kind == NAME_MEMBER && s->next(s) % 2)
		d.expanded = (struct name_expanded){ s->next(s) | 1, s->next(s) | 1, s->next(s) | 1 };
	return d;
}

static inline int any_name(struct name_source *s, struct name *ret)
{
	struct name n = { .kind = s->next(s) % 2 ? NAME_MEMBER : NAME_VERSION, .number = s->next(s) };
	size_t nr_disks = n.kind == NAME_MEMBER ? 1 : 1 + s->next(s) % 3, nr_files = n.kind == NAME_MEMBER ? 0 : s->next(s) % 3;

	n.made = (int64_t)(s->next(s) & INT64_MAX);
	if (n.kind == NAME_VERSION)
		any_text(s, n.label, sizeof(n.label), false);
	for (size_t i = 0; i < nr_disks; i++)
		if (vec_push(&n.disks, any_disk(s, n.kind)) < 0)
			return -1;
	for (size_t i = 0; i < nr_files; i++) {
		struct name_file f = { .len = (uint32_t)(s->next(s) % 300) };

		any_text(s, f.path, sizeof(f.path), true);
		f.bytes = malloc(f.len + 1);
		if (!f.bytes || vec_push(&n.files, f) < 0)
			return -1;
		for (size_t j = 0; j < f.len; j++)
			f.bytes[j] = (uint8_t)s->next(s);
	}
	*ret = n;
	return 0;
}

#endif
