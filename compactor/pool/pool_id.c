/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/pool/pool_id.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "scanner/base/file.h"

int pool_new_id(uint8_t ret[POOL_ID_SIZE], struct err *err)
{
	uint8_t id[POOL_ID_SIZE];

	if (getrandom(id, sizeof(id), 0) != sizeof(id))
		return err_errno(err, "cannot get random bytes for an id");
	id[6] = (id[6] & 0x0f) | 0x40;
	id[8] = (id[8] & 0x3f) | 0x80;
	memcpy(ret, id, sizeof(id));
	return 0;
}

char *pool_id_text(const uint8_t id[POOL_ID_SIZE], char buf[POOL_ID_TEXT_ROOM])
{
	static const char digits[] = "0123456789abcdef";
	char *p = buf;

	for (size_t i = 0; i < POOL_ID_SIZE; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*p++ = '-';
		*p++ = digits[id[i] >> 4];
		*p++ = digits[id[i] & 15];
	}
	*p = 0;
	return buf;
}

static int hex_value(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool pool_id_parse(const char *text, uint8_t ret[POOL_ID_SIZE])
{
	char again[POOL_ID_TEXT_ROOM];
	uint8_t id[POOL_ID_SIZE] = { 0 };
	const char *p = text;

	for (size_t i = 0; i < 2 * POOL_ID_SIZE; i++) {
		int v;

		p += *p == '-';
		v = hex_value(*p);
		if (v < 0)
			return false;
		id[i / 2] = (uint8_t)(id[i / 2] << 4 | v);
		p++;
	}
	if (strcmp(pool_id_text(id, again), text) != 0)
		return false;
	memcpy(ret, id, sizeof(id));
	return true;
}

char *pool_id_file_name(const uint8_t id[POOL_ID_SIZE], char buf[POOL_FILE_NAME_ROOM])
{
	return strcat(pool_id_text(id, buf), ".qcow2");
}

bool pool_id_parse_file_name(const char *name, uint8_t ret[POOL_ID_SIZE])
{
	char text[POOL_ID_TEXT_ROOM], same[POOL_FILE_NAME_ROOM];
	uint8_t id[POOL_ID_SIZE];

	snprintf(text, sizeof(text), "%s", name);
	if (!pool_id_parse(text, id) || strcmp(pool_id_file_name(id, same), name) != 0)
		return false;
	memcpy(ret, id, sizeof(id));
	return true;
}

/* ---- sets ---- */

int pool_ids_add(struct pool_ids *s, const uint8_t id[POOL_ID_SIZE], struct err *err)
{
	struct pool_id x;

	memcpy(x.bytes, id, POOL_ID_SIZE);
	return vec_push(&s->items, x) < 0 ? err_set(err, ERR_MEMORY, "no memory for ids") : 0;
}

static int compare_ids(const void *a, const void *b)
{
	return memcmp(a, b, POOL_ID_SIZE);
}

void pool_ids_sort(struct pool_ids *s)
{
	if (s->items.nr)
		qsort(s->items.items, s->items.nr, POOL_ID_SIZE, compare_ids);
}

bool pool_ids_has(const struct pool_ids *s, const uint8_t id[POOL_ID_SIZE])
{
	return s->items.nr && bsearch(id, s->items.items, s->items.nr, POOL_ID_SIZE, compare_ids);
}

void pool_ids_release(struct pool_ids *s)
{
	vec_release(&s->items);
}

static int add_file(void *ctx, const char *name, struct err *err)
{
	uint8_t id[POOL_ID_SIZE];

	return pool_id_parse_file_name(name, id) ? pool_ids_add(ctx, id, err) : 0;
}

int pool_ids_of_files(int dirfd, struct pool_ids *s, struct err *err)
{
	return file_each_name(dirfd, add_file, s, err);
}
