/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_TESTS_TAR_HELP_H
#define DEDUPSCAN_TESTS_TAR_HELP_H

#include "tests/unit/image_help.h"
#include "scanner/base/checked.h"
#include "scanner/image/tar_format.h"

/* For tests of archives: makes them header by header. */

struct archive {
	uint8_t *p; /* with room for more */
	size_t len;
};

#define ARCHIVE_MAX ((size_t)8 << 20)

static inline struct archive archive_new(void)
{
	struct archive a = { .p = calloc(1, ARCHIVE_MAX) };

	assert_non_null(a.p);
	return a;
}

static inline void set_checksum(struct tar_header_disk *d)
{
	const uint8_t *p = (const void *)d;
	unsigned sum = 0;

	memset(d->checksum, ' ', sizeof(d->checksum));
	for (size_t i = 0; i < sizeof(*d); i++)
		sum += p[i];
	snprintf(d->checksum, sizeof(d->checksum), "%06o", sum);
}

/* A header and the data behind it; returns the header, for changes: set_checksum() again. */
static inline struct tar_header_disk *add_entry(struct archive *a, char type, const char *name, const void *data,
						size_t len)
{
	struct tar_header_disk *d = (void *)(a->p + a->len);

	assert_true(a->len + 512 + round_up(len, 512) <= ARCHIVE_MAX);
	memcpy(d->name, name, min_u64(strlen(name), sizeof(d->name)));
	snprintf(d->mode, sizeof(d->mode), "%07o", 0644u);
	snprintf(d->size, sizeof(d->size), "%011llo", (unsigned long long)len);
	snprintf(d->mtime, sizeof(d->mtime), "%011o", 0u);
	d->type = type;
	memcpy(d->magic, "ustar\0", 6);
	memcpy(d->version, "00", 2);
	set_checksum(d);
	if (len)
		memcpy(a->p + a->len + 512, data, len);
	a->len += 512 + round_up(len, 512);
	return d;
}

static inline struct tar_header_disk *add_file(struct archive *a, const char *name, const void *data, size_t len)
{
	return add_entry(a, '0', name, data, len);
}

/* One record of a pax header, with its length before it. */
static inline void add_pax(struct archive *a, char type, const char *key, const char *value)
{
	char record[5000];
	int len = (int)(strlen(key) + strlen(value) + 3), all = len + 1;

	while (snprintf(NULL, 0, "%d", all) + len != all)
		all++;
	snprintf(record, sizeof(record), "%d %s=%s\n", all, key, value);
	add_entry(a, type, "././@PaxHeader", record, (size_t)all);
}

#endif
