/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_FINGERPRINT_H
#define DEDUPSCAN_FINGERPRINT_H

#include <stdbool.h>
#include <stddef.h>

#include "scanner/base/block.h"

/* Fingerprints of 4 KiB blocks: XXH3-128, in the fastest build that the processor runs.
 *
 * The distribution's shared library has SSE2 only; built into units of our own for AVX2 and AVX-512 the same hash is two to six
 * times as fast on data in the cache.  All builds give the same values (https://github.com/Cyan4973/xxHash). */

struct fingerprint_isa {
	const char *name; /* "avx512", "avx2", "baseline" */

	/* Fingerprints of nr blocks at buf; all-zero blocks get the null fingerprint.  Returns how many are not zero. */
	size_t (*blocks)(const void *buf, size_t nr, struct fingerprint *ret);

	/* XXH3-128 of any bytes; never null. */
	struct fingerprint (*bytes)(const void *buf, size_t len);
};

/* The builds of this program, best first, NULL-terminated, and whether this processor runs one. */
extern const struct fingerprint_isa *const fingerprint_isas[];
bool fingerprint_isa_runs(const struct fingerprint_isa *isa);

/* The best that runs here. */
const struct fingerprint_isa *fingerprint_best(void);

static inline bool fingerprint_is_null(struct fingerprint f)
{
	return !(f.hi | f.lo);
}

#endif
