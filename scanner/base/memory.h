/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_MEMORY_H
#define DEDUPSCAN_MEMORY_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* How much memory processes hold, from /proc. */

/* A value of /proc/PID/status such as "VmRSS" or "VmHWM", in bytes; 0 when it cannot be had. */
uint64_t memory_of(pid_t pid, const char *name);

/* Bytes that this process may still take of `limit`, some being kept for what small things come; never less than
 * MEMORY_LEFT_MIN.  To be asked when all else that is large is in place. */
#define MEMORY_LEFT_MIN ((size_t)4 << 20)
size_t memory_left(uint64_t limit);

/* Bytes that programs could get without anything being swapped out: MemAvailable of /proc/meminfo; 0 when it cannot be had. */
uint64_t memory_available(void);

#endif
