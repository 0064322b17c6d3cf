/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "scanner/chunk/fingerprint.h"

/* What a scan cannot do without, and nothing else: reads files 256 KiB at a time into one buffer and fingerprints each block.
 * The limit that bench_scan measures against:
 *
 *	plain_loop FILE... */

#define PIECE ((size_t)256 * 1024)

int main(int argc, char **argv)
{
	const struct fingerprint_isa *isa = fingerprint_best();
	uint8_t *buf = aligned_alloc(BLOCK_SIZE, PIECE);
	uint64_t sum = 0;

	for (int i = 1; buf && i < argc; i++) {
		int fd = open(argv[i], O_RDONLY | O_CLOEXEC);
		ssize_t n;

		for (off_t at = 0; fd >= 0 && (n = pread(fd, buf, PIECE, at)) > 0; at += n)
			for (ssize_t k = 0; k + BLOCK_SIZE <= n; k += BLOCK_SIZE)
				sum ^= isa->bytes(buf + k, BLOCK_SIZE).hi;
		if (fd < 0 || n < 0) {
			perror(argv[i]);
			return 1;
		}
		close(fd);
	}
	printf("%s %016llx\n", isa->name, (unsigned long long)sum);
	return !buf;
}
