/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_CHECKSUM_H
#define DEDUPSCAN_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/* The checksum of our own files: the low 32 bits of XXH3-64.  The seed is the position of what is summed up (the
 * number of a page, say), so that a block that was written to the wrong place is noticed too. */
uint32_t checksum32(const void *p, size_t len, uint64_t seed);

#endif
