/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_CATALOG_HELP_H
#define DEDUPSCAN_CATALOG_HELP_H

#include "tests/unit/tree_help.h"

#include <stdbool.h>

#include "scanner/base/checked.h"
#include "scanner/catalog.h"

/* A catalog in the tree of a test, and images put into it as a scan would: by spool files. */

static struct catalog *catalog;

static inline void catalog_reopen(void)
{
	struct err err = ERR_INIT;

	catalog_close(catalog);
	catalog = catalog_open(in_tree("catalog"), true, &err);
	if (!catalog)
		fail_msg("%s", err.text);
}

static inline int catalog_make(void **state)
{
	if (tree_make(state) < 0)
		return -1;
	catalog = catalog_open(in_tree("catalog"), true, NULL);
	return catalog ? 0 : -1;
}

static inline int catalog_remove(void **state)
{
	catalog_close(catalog);
	catalog = NULL;
	return tree_remove(state);
}

#define catalog_test(f) cmocka_unit_test_setup_teardown(f, catalog_make, catalog_remove)

static inline int64_t image_add(const char *path)
{
	int64_t id = 0;

	assert_int_equal(catalog_image_add(catalog, path, &id, NULL), 0);
	assert_true(id > 0);
	return id;
}

/* One block of an image being spooled: content 0 is zeros, others are told apart by their number. */
static inline struct fingerprint content_of(uint64_t content)
{
	return content ? (struct fingerprint){ content * 0x9e3779b97f4a7c15, content << 24 } : (struct fingerprint){ 0, 0 };
}

/* The first byte tells the first content; the last eight are FNV-1a of all. */
static inline void digest_contents(const uint64_t *contents, size_t nr, uint8_t ret[16])
{
	le64 all;
	uint64_t hash = 0xcbf29ce484222325;

	for (size_t i = 0; i < nr; i++)
		hash = (hash ^ contents[i]) * 0x100000001b3;
	all = le64_from(hash);
	memset(ret, (int)(contents[0] + 1), 8);
	memcpy(ret + 8, &all, sizeof(all));
}

/* Spools an image whose block i holds contents[i]; segments whose `same` is set count as unchanged. */
static inline void spool_image(int64_t id, uint64_t base, const uint64_t *contents, size_t nr, const bool *same)
{
	static const char *const texts[SPOOL_NR_TEXTS] = { "", "raw", "", "", "", "" };
	struct spool_image image = {
		.identity = { 1, (uint64_t)id, nr * BLOCK_SIZE, 5, 6 }, .base = base, .layer = nr * BLOCK_SIZE,
	};
	struct spool_pending *p = calloc(1, sizeof(*p));
	uint8_t *frame = malloc(SPOOL_FRAME_MAX);
	struct spool_writer w;
	char name[32];

	image.virtual_size = image.span = nr * BLOCK_SIZE;
	spool_set_texts(&image, texts);
	snprintf(name, sizeof(name), "%lld", (long long)id);
	assert_int_equal(spool_create(&w, catalog_spool_dirfd(catalog), name, &image, NULL), 0);
	for (size_t s = 0; s * SEGMENT_BLOCKS < nr; s++) {
		size_t end = min_u64(nr, (s + 1) * SEGMENT_BLOCKS), len, zero = 0;
		struct spool_segment *segment = &p->segments[p->nr_segments++];
		bool is_same = same && same[s];

		for (size_t i = s * SEGMENT_BLOCKS; i < end; i++) {
			zero += contents[i] == 0;
			if (is_same || contents[i] == 0)
				continue;
			p->requests[p->nr_requests].f = content_of(contents[i]);
			p->requests[p->nr_requests++].block = i;
		}
		*segment = (struct spool_segment){ .segment = le64_from(s), .zero = le16_from((uint16_t)zero),
						   .stored = le16_from((uint16_t)(end - s * SEGMENT_BLOCKS)),
						   .flags = le16_from(is_same ? SPOOL_SAME : 0) };
		digest_contents(contents + s * SEGMENT_BLOCKS, end - s * SEGMENT_BLOCKS, segment->digest);
		len = spool_frame_make(p, end * BLOCK_SIZE, frame);
		assert_int_equal(spool_frame_check(frame, len, NULL), 0);
		assert_int_equal(spool_append(&w, frame, len, NULL), 0);
	}
	assert_int_equal(spool_commit(&w, catalog_spool_dirfd(catalog), name, &image, NULL), 0);
	spool_writer_release(&w);
	free(p);
	free(frame);
}

#endif
