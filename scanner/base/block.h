/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_BLOCK_H
#define DEDUPSCAN_BLOCK_H

#include <linux/fs.h>
#include <stdint.h>

/* The units of everything: a block is 4 KiB of an image's address space at a 4 KiB boundary, a segment 2 MiB. */

#undef BLOCK_SIZE /* <linux/fs.h> has one, which would win where it is included later */
#define BLOCK_SIZE 4096u
#define SEGMENT_BLOCKS 512u
#define SEGMENT_SIZE ((uint64_t)BLOCK_SIZE * SEGMENT_BLOCKS)

/* XXH3-128 of a block.  A hint, not an identity: whoever writes a guest disk can forge it.  All zero bits stand for a block
 * of zeros. */
struct fingerprint {
	uint64_t hi, lo;
};

#endif
