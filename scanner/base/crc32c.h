/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_CRC32C_H
#define DEDUPSCAN_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* CRC-32C (Castagnoli, RFC 3720 appendix B.4), the checksum of VHDX.
 *
 * `crc` is 0 for the first piece and the last result for those that follow. */
uint32_t crc32c(uint32_t crc, const void *p, size_t len);

/* The same without the processor's instruction, for tests. */
uint32_t crc32c_baseline(uint32_t crc, const void *p, size_t len);

#endif
