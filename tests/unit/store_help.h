/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_STORE_HELP_H
#define DEDUPSCAN_STORE_HELP_H

#include "tests/unit/catalog_help.h"

#include "scanner/merge.h"

/* For tests of what works on the index: images whose blocks have contents, told apart by numbers, are taken into it. */

static uint64_t random_state = 1;

static inline uint64_t random_below(uint64_t n)
{
	random_state = random_state * 6364136223846793005u + 1442695040888963407u;
	return (random_state >> 33) % n;
}

static inline void index_merge(void)
{
	static struct stopper never;
	struct merge_options o = { .memory = 8 * MIB, .nr_threads = 2, .stopper = &never };
	struct err err = ERR_INIT;

	if (merge_prepare(catalog, NULL, &never, 2, &err) < 0 || merge_run(catalog, &o, &err) < 0)
		fail_msg("%s", err.text);
}

/* Contents as stores have them: stretches that are like a stretch of an image before, or of this one, with some blocks of their
 * own in between, and zeros. */
static inline void random_contents(uint64_t *const *before, size_t nr_before, uint64_t *ret, size_t nr)
{
	static uint64_t next;

	for (size_t i = 0; i < nr;) {
		const uint64_t *from = nr_before && random_below(5) ? before[random_below(nr_before)] : ret;
		size_t len = 1 + random_below(random_below(3) ? 40 : 8), at = random_below(3) ? i : random_below(nr);

		for (size_t k = 0; k < len && i < nr; k++, i++)
			ret[i] = from != ret && at + k < nr && random_below(12) ? from[at + k] :
				 from == ret && at + k < i && random_below(4)	? ret[at + k] :
				 random_below(8)				? 1000 + next++ :
										  0;
	}
}

#endif
