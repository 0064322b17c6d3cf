/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/index/checksum.h"

#include <xxhash.h>

uint32_t checksum32(const void *p, size_t len, uint64_t seed)
{
	return (uint32_t)XXH3_64bits_withSeed(p, len, seed);
}
