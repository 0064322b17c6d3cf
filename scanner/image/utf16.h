/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_UTF16_H
#define DEDUPSCAN_UTF16_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Writes len bytes of UTF-16 as UTF-8 to ret[room], always with a NUL.  Returns the length of the whole text: it was
 * cut, between two characters, when that is >= room.  -1: half a character, or one that no name may have, a zero. */
ssize_t utf16_to_utf8(const uint8_t *p, size_t len, bool little, char *ret, size_t room);

#endif
