/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "scanner/base/checked.h"
#include "scanner/image/tar_format.h"

/* Reads no more than headers, and takes what other programs write: sizes with blanks or without an end, checksums of
 * signed bytes, archives that end without zeros.  It is strict where two readers could differ on where a member
 * begins. */

/* ---- numbers ---- */

/* Octal digits, blanks before and a blank or NUL behind, or none. */
static bool octal(const char *p, size_t len, uint64_t *ret)
{
	uint64_t v = 0;
	size_t i = 0;

	while (i < len && p[i] == ' ')
		i++;
	for (; i < len && p[i] >= '0' && p[i] <= '7'; i++) {
		if (v >> 61)
			return false;
		v = v << 3 | (unsigned)(p[i] - '0');
	}
	*ret = v;
	return i == len || p[i] == ' ' || p[i] == '\0';
}

static bool number(const char *p, size_t len, uint64_t *ret)
{
	uint64_t v = 0;

	if (!((uint8_t)p[0] & 0x80))
		return octal(p, len, ret);
	for (size_t i = 0; i < len; i++) {
		if (v >> 56)
			return false;
		v = v << 8 | (i ? (uint8_t)p[i] : (uint8_t)p[i] & 0x7f);
	}
	*ret = v;
	return true;
}

static bool decimal(const char *p, size_t len, uint64_t *ret)
{
	uint64_t v = 0;

	for (size_t i = 0; i < len; i++)
		if (p[i] < '0' || p[i] > '9' || !mul_fits(v, 10, &v) || !add_fits(v, (unsigned)(p[i] - '0'), &v))
			return false;
	*ret = v;
	return len > 0;
}

/* ---- one header ---- */

/* Some programs of old added signed bytes. */
static bool checksum_matches(const struct tar_header_disk *d)
{
	const uint8_t *p = (const void *)d;
	size_t begin = offsetof(struct tar_header_disk, checksum), end = begin + sizeof(d->checksum);
	int64_t sum = 0, signed_sum = 0;
	uint64_t stored;

	for (size_t i = 0; i < sizeof(*d); i++) {
		bool own = i >= begin && i < end;

		sum += own ? ' ' : p[i];
		signed_sum += own ? ' ' : (int8_t)p[i];
	}
	return octal(d->checksum, sizeof(d->checksum), &stored) &&
	       ((int64_t)stored == sum || (int64_t)stored == signed_sum);
}

bool tar_looks_like(const uint8_t *head, size_t len)
{
	const struct tar_header_disk *d = (const void *)head;

	return len >= sizeof(*d) && (memcmp(d->magic, "ustar", 5) == 0 || checksum_matches(d));
}

static void copy_name(char *ret, size_t room, const char *p, size_t len)
{
	len = min_u64(strnlen(p, len), room - 1);
	memcpy(ret, p, len);
	ret[len] = '\0';
}

static void header_name(const struct tar_header_disk *d, char ret[IMAGE_NAME_MAX])
{
	size_t len = 0;

	if (memcmp(d->magic, "ustar", 6) == 0 && d->prefix[0]) {
		copy_name(ret, IMAGE_NAME_MAX, d->prefix, sizeof(d->prefix));
		len = strlen(ret);
		ret[len++] = '/';
	}
	copy_name(ret + len, IMAGE_NAME_MAX - len, d->name, sizeof(d->name));
}

/* ---- what says more of a member ---- */

static int take_name(struct tar_extension *ext, const char *p, size_t len, struct err *err)
{
	if (len >= sizeof(ext->name))
		return err_set(err, ERR_FORMAT, "a member's name of %zu bytes is too long", len);
	copy_name(ext->name, sizeof(ext->name), p, len);
	return 0;
}

static bool is_key(const char *record, size_t len, const char *key)
{
	return len == strlen(key) && memcmp(record, key, len) == 0;
}

static int take_record(struct tar_extension *ext, const char *key, size_t key_len, const char *value, size_t len,
		       struct err *err)
{
	if (is_key(key, key_len, "path") || is_key(key, key_len, "GNU.sparse.name"))
		return take_name(ext, value, len, err);
	if (key_len > 11 && memcmp(key, "GNU.sparse.", 11) == 0)
		ext->sparse = true;
	if (is_key(key, key_len, "SCHILY.realsize"))
		ext->sparse = true;
	if (!is_key(key, key_len, "size") || len == 0)
		return 0;
	ext->has_size = true;
	if (!decimal(value, len, &ext->size))
		return err_set(err, ERR_FORMAT, "a pax header states no number as a size");
	return 0;
}

/* Records of "LENGTH KEY=VALUE\n", where LENGTH counts the whole record. */
static int take_records(struct tar_extension *ext, const char *p, size_t left, struct err *err)
{
	while (left) {
		const char *blank = memchr(p, ' ', left), *equals;
		uint64_t len;
		size_t head;

		head = blank ? (size_t)(blank - p) + 1 : 0;
		if (!blank || !decimal(p, head - 1, &len) || len <= head || len > left || p[len - 1] != '\n')
			return err_set(err, ERR_FORMAT, "a pax header has a record of a wrong length");
		equals = memchr(p + head, '=', len - head);
		if (!equals)
			return err_set(err, ERR_FORMAT, "a pax header has a record without a value");
		if (take_record(ext, p + head, (size_t)(equals - p) - head, equals + 1,
				(size_t)(p + len - 1 - (equals + 1)), err) < 0)
			return -1;
		p += len;
		left -= len;
	}
	return 0;
}

static int read_bytes(const struct tar_walk *w, void *buf, size_t len, uint64_t offset, struct err *err)
{
	if (w->file)
		return image_file_read(w->file, buf, len, offset, err);
	if (!range_within(offset, len, w->head_len))
		return err_set(err, ERR_FORMAT, "%zu bytes at offset %llu are not looked at", len,
			       (unsigned long long)offset);
	memcpy(buf, w->head + offset, len);
	return 0;
}

/* The data at w->at of a header of this type, which is for the next member, or for all of them. */
static int take_extension(struct tar_walk *w, char type, uint64_t size, struct err *err)
{
	CLEANUP(free) char *data = NULL;

	if (type == 'K') /* a long link name */
		return 0;
	if (size > TAR_EXTENSION_MAX)
		return err_set(err, ERR_FORMAT, "a header with %llu bytes of data is too large",
			       (unsigned long long)size);
	data = malloc(size + 1);
	if (!data)
		return err_set(err, ERR_MEMORY, "no memory for a header of the archive");
	if (read_bytes(w, data, size, w->at, err) < 0)
		return -1;
	if (type == 'L')
		return take_name(&w->local, data, strnlen(data, size), err);
	return take_records(type == 'g' ? &w->global : &w->local, data, size, err);
}

/* ---- the walk ---- */

/* The header at w->at, which then moves behind it.  1, 0 at the end of the archive. */
static int next_header(struct tar_walk *w, struct tar_header_disk *ret, uint64_t *ret_size, struct err *err)
{
	static const struct tar_header_disk zeros;

	if (w->at >= w->size)
		return 0;
	if (w->nr_headers++ >= TAR_HEADERS_MAX)
		return err_set(err, ERR_UNSUPPORTED, "the archive has more than %d headers", TAR_HEADERS_MAX);
	if (!range_within(w->at, sizeof(*ret), w->size))
		return err_set(err, ERR_FORMAT, "the archive ends inside the header at offset %llu",
			       (unsigned long long)w->at);
	if (read_bytes(w, ret, sizeof(*ret), w->at, err) < 0)
		return -1;
	if (memcmp(ret, &zeros, sizeof(zeros)) == 0)
		return 0;
	if (!checksum_matches(ret))
		return err_set(err, ERR_FORMAT, "the checksum of the header at offset %llu does not match",
			       (unsigned long long)w->at);
	if (!number(ret->size, sizeof(ret->size), ret_size))
		return err_set(err, ERR_FORMAT, "the header at offset %llu states no number as a size",
			       (unsigned long long)w->at);
	w->at += sizeof(*ret);
	return 1;
}

static bool says_more(char type)
{
	return type == 'x' || type == 'X' || type == 'g' || type == 'L' || type == 'K';
}

/* Moves w->at, which is where the data of a header begin, behind them. */
static int skip_data(struct tar_walk *w, uint64_t size, const char *name, struct err *err)
{
	if (!range_within(w->at, size, w->size))
		return err_set(err, ERR_FORMAT,
			       "the archive is cut short: %llu bytes of '%s' at offset %llu end past its end",
			       (unsigned long long)size, name, (unsigned long long)w->at);
	w->at = round_up(w->at + size, TAR_BLOCK);
	return 0;
}

static int take_member(struct tar_walk *w, const struct tar_header_disk *d, uint64_t size, struct tar_member *ret,
		       struct err *err)
{
	const struct tar_extension *ext[] = { &w->global, &w->local };
	struct tar_member m = { .offset = w->at, .size = size };
	bool sparse = d->type == 'S';

	header_name(d, m.name);
	for (size_t i = 0; i < ARRAY_SIZE(ext); i++) {
		if (ext[i]->name[0])
			memcpy(m.name, ext[i]->name, sizeof(m.name));
		if (ext[i]->has_size)
			m.size = ext[i]->size;
		sparse |= ext[i]->sparse;
	}
	if (sparse)
		return err_set(err, ERR_UNSUPPORTED, "member '%s' is stored as a sparse file, which is not read",
			       m.name);
	if (d->type == 'M')
		return err_set(err, ERR_UNSUPPORTED, "member '%s' goes on from another volume", m.name);
	m.regular = d->type == '0' || d->type == '\0' || d->type == '7';
	m.directory = d->type == '5';
	if (d->type >= '1' && d->type <= '6') /* links, devices, directories */
		m.size = 0;
	if (skip_data(w, m.size, m.name, err) < 0)
		return -1;
	memset(&w->local, 0, sizeof(w->local));
	*ret = m;
	return 1;
}

int tar_next(struct tar_walk *w, struct tar_member *ret, struct err *err)
{
	struct tar_header_disk d;
	uint64_t size = 0;
	int more;

	while ((more = next_header(w, &d, &size, err)) > 0) {
		if (!says_more(d.type))
			return take_member(w, &d, size, ret, err);
		if (take_extension(w, d.type, size, err) < 0)
			return err_add(err, "header at offset %llu", (unsigned long long)w->at - TAR_BLOCK);
		if (skip_data(w, size, "a header", err) < 0)
			return -1;
	}
	return more;
}
