/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/image/guid.h"

#include <stdio.h>
#include <string.h>

/* RFC 4122, section 3. */

void guid_text(const uint8_t guid[16], bool little, char ret[GUID_TEXT])
{
	static const uint8_t little_order[] = { 3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15 };
	char *p = ret;

	for (int i = 0; i < 16; i++)
		p += sprintf(p, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x",
			     guid[little ? little_order[i] : i]);
}

void guid_text_or_none(const uint8_t guid[16], bool little, char ret[GUID_TEXT])
{
	static const uint8_t none[16];

	guid_text(guid, little, ret);
	if (memcmp(guid, none, sizeof(none)) == 0)
		*ret = '\0';
}
