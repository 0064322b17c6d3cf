/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_GUID_H
#define DEDUPSCAN_GUID_H

#include <stdbool.h>
#include <stdint.h>

#define GUID_TEXT 37 /* bytes of its text with the NUL */

/* "2dc27766-f623-4200-9d64-115e9bfd4a08".  In most formats the first three groups are little-endian numbers. */
void guid_text(const uint8_t guid[16], bool little, char ret[GUID_TEXT]);

/* The same where zeros stand for none, which is "". */
void guid_text_or_none(const uint8_t guid[16], bool little, char ret[GUID_TEXT]);

#endif
