/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_UNITS_H
#define DEDUPSCAN_UNITS_H

#include <stddef.h>
#include <stdint.h>

#include "scanner/base/err.h"

/* Words for quantities, as users write and read them. */

/* "4096", "35M", "1.5G", "10MiB", "2TB": binary units, K M G T P, any case; to bytes. */
int units_parse_size(const char *s, uint64_t *ret, struct err *err);

/* "90", "90s", "30m", "2h", "1h30m", "1d": to seconds; at least 1. */
int units_parse_duration(const char *s, uint64_t *ret, struct err *err);

/* "01:00" to minutes since midnight, 0..1439. */
int units_parse_clock(const char *s, unsigned *ret, struct err *err);

/* "12.3 GiB", "512 B": at most four significant digits; returns buf. */
char *units_size(uint64_t bytes, char *buf, size_t room);
#define UNITS_SIZE_ROOM 24

/* "2:05:09", "3:07": returns buf. */
char *units_time(uint64_t seconds, char *buf, size_t room);
#define UNITS_TIME_ROOM 32

#endif
