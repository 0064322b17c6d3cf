/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>
#include <strings.h>

#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/image/utf16.h"
#include "scanner/image/vhd_format.h"

/* Footer, header and parent locators of a VHD image. */

uint32_t vhd_checksum(const uint8_t *p, size_t len, size_t at)
{
	uint32_t sum = 0;

	for (size_t i = 0; i < len; i++)
		if (i < at || i >= at + 4)
			sum += p[i];
	return ~sum;
}

/* Minor versions are compatible by the specification. */
static int check_version(uint32_t version, const char *what, struct err *err)
{
	if (version >> 16 != 1)
		return err_set(err, ERR_UNSUPPORTED, "version %u.%u of the VHD %s is not known", version >> 16,
			       version & 0xffff, what);
	return 0;
}

/* ---- footer ---- */

size_t vhd_footer_find(const uint8_t tail[VHD_FOOTER_SIZE], uint8_t ret[VHD_FOOTER_SIZE])
{
	for (size_t skip = 0; skip < 2; skip++) {
		if (memcmp(tail + skip, VHD_FOOTER_COOKIE, 8) != 0)
			continue;
		memset(ret, 0, VHD_FOOTER_SIZE);
		memcpy(ret, tail + skip, VHD_FOOTER_SIZE - skip);
		return VHD_FOOTER_SIZE - skip;
	}
	return 0;
}

/* Virtual PC shows its guests the geometry, which rounds the size down; these programs show the size. */
static bool sized_exactly(const uint8_t creator[4])
{
	static const char known[][5] = {
		"qem2",	  /* QEMU with force_size */
		"win ",	  /* Hyper-V, Windows */
		"d2v ",	  /* Disk2vhd */
		"tap\0",  /* XenServer */
		"CTXS",	  /* XenConvert */
		"wa\0\0", /* Azure */
	};

	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (memcmp(creator, known[i], 4) == 0)
			return true;
	return false;
}

static uint64_t guest_size(const struct vhd_footer_disk *d)
{
	uint64_t geometry = (uint64_t)be16_get(d->cylinders) * d->heads * d->sectors;

	if (geometry == 0 || geometry == VHD_GEOMETRY_MAX || sized_exactly(d->creator))
		return round_down(be64_get(d->current_size), VHD_SECTOR);
	return geometry * VHD_SECTOR;
}

int vhd_footer_decode(const uint8_t p[VHD_FOOTER_SIZE], struct vhd_footer *ret, struct err *err)
{
	const struct vhd_footer_disk *d = (const void *)p;
	uint32_t type = be32_get(d->type);

	if (memcmp(d->cookie, VHD_FOOTER_COOKIE, 8) != 0)
		return err_set(err, ERR_FORMAT, "no VHD footer found");
	if (be32_get(d->checksum) != vhd_checksum(p, VHD_FOOTER_SIZE, offsetof(struct vhd_footer_disk, checksum)))
		return err_set(err, ERR_FORMAT, "the checksum of the VHD footer does not match");
	if (check_version(be32_get(d->version), "format", err) < 0)
		return -1;
	if (type < VHD_FIXED || type > VHD_DIFFERENCING)
		return err_set(err, ERR_UNSUPPORTED, "VHD disk type %u is not known", type);
	if (be64_get(d->current_size) > INT64_MAX)
		return err_set(err, ERR_FORMAT, "a disk of %llu bytes is too large",
			       (unsigned long long)be64_get(d->current_size));
	*ret = (struct vhd_footer){
		.type = type,
		.features = be32_get(d->features),
		.header_offset = type == VHD_FIXED ? 0 : be64_get(d->header_offset),
		.size = guest_size(d),
		.current_size = round_down(be64_get(d->current_size), VHD_SECTOR),
		.saved_state = d->saved_state,
	};
	memcpy(ret->id, d->id, sizeof(ret->id));
	return 0;
}

/* ---- header ---- */

int vhd_header_decode(const uint8_t p[VHD_HEADER_SIZE], struct vhd_header *ret, struct err *err)
{
	const struct vhd_header_disk *d = (const void *)p;
	uint32_t block_size = be32_get(d->block_size);

	if (memcmp(d->cookie, VHD_HEADER_COOKIE, 8) != 0)
		return err_set(err, ERR_FORMAT, "no VHD dynamic disk header found");
	if (be32_get(d->checksum) != vhd_checksum(p, VHD_HEADER_SIZE, offsetof(struct vhd_header_disk, checksum)))
		return err_set(err, ERR_FORMAT, "the checksum of the VHD dynamic disk header does not match");
	if (check_version(be32_get(d->version), "dynamic disk header", err) < 0)
		return -1;
	if (!is_pow2(block_size) || block_size < VHD_SECTOR)
		return err_set(err, ERR_FORMAT, "block size %u is not a power of two from 512 up", block_size);
	*ret = (struct vhd_header){
		.table_offset = be64_get(d->table_offset),
		.nr_blocks = be32_get(d->table_entries),
		.block_size = block_size,
		.bitmap_size = (uint32_t)round_up(div_up(block_size / VHD_SECTOR, 8), VHD_SECTOR),
		.parent_time = be32_get(d->parent_time),
	};
	memcpy(ret->parent_id, d->parent_id, sizeof(ret->parent_id));
	memcpy(ret->parent_name, d->parent_name, sizeof(ret->parent_name));
	for (int i = 0; i < VHD_NR_LOCATORS; i++) {
		const struct vhd_locator_disk *l = &d->locators[i];
		uint64_t space = (uint64_t)be32_get(l->space) * VHD_SECTOR; /* bytes at most; 0 = not said */

		ret->locators[i] =
			(struct vhd_locator){ be32_get(l->platform), be32_get(l->length), be64_get(l->offset) };
		if (space && ret->locators[i].length > space)
			return err_set(err, ERR_FORMAT, "parent locator %d has %u bytes in room for %llu", i,
				       ret->locators[i].length, (unsigned long long)space);
	}
	return 0;
}

/* ---- the parent's name ---- */

/* Up to the first zero or the end; a byte order mark wins. */
static int put_utf16(const uint8_t *p, size_t len, bool little, char *ret, size_t room, struct err *err)
{
	size_t nr = 0;
	ssize_t whole;

	while (len - nr >= 2 && (p[nr] || p[nr + 1]))
		nr += 2;
	if (nr && ((p[0] == 0xff && p[1] == 0xfe) || (p[0] == 0xfe && p[1] == 0xff))) {
		little = p[0] == 0xff;
		p += 2;
		nr -= 2;
	}
	whole = utf16_to_utf8(p, nr, little, ret, room);
	if (whole < 0)
		return err_set(err, ERR_FORMAT, "the parent's name is not valid UTF-16");
	return (size_t)whole < room ? 0 : err_set(err, ERR_FORMAT, "the parent's name is too long");
}

static int hex_digit(uint8_t c)
{
	return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
}

/* file://HOST/PATH names /PATH; file://./PATH, as XenServer writes it, a path relative to the image. */
static int put_url(const uint8_t *p, size_t len, char *ret, size_t room, struct err *err)
{
	const uint8_t *end = p + strnlen((const char *)p, len);
	bool relative = end - p > 7 && p[7] == '.';
	size_t used = 0;

	if (end - p >= 7 && strncasecmp((const char *)p, "file://", 7) == 0) {
		p += 7;
		while (p < end && *p != '/' && !relative)
			p++;
	}
	for (; p < end; p++) {
		int c = *p, high, low;

		if (c == '%') {
			high = end - p > 2 ? hex_digit(p[1]) : -1;
			low = high < 0 ? -1 : hex_digit(p[2]);
			c = high * 16 + low;
			if (low < 0 || c == 0)
				return err_set(err, ERR_FORMAT, "the parent's name is not a valid URL");
			p += 2;
		}
		if (used + 1 >= room)
			return err_set(err, ERR_FORMAT, "the parent's name is too long");
		ret[used++] = (char)c;
	}
	ret[used] = '\0';
	return 0;
}

static void from_windows(char *name)
{
	bool drive = (name[0] | 32) >= 'a' && (name[0] | 32) <= 'z' && name[1] == ':';
	bool absolute = drive || name[0] == '\\';
	const char *base = drive ? name + 2 : name;

	for (char *p = name; *p; p++) {
		if (*p == '\\')
			*p = '/';
		if (*p == '/' && absolute)
			base = p + 1;
	}
	memmove(name, base, strlen(base) + 1);
}

static int check_file_name(const char *name, struct err *err)
{
	const char *base = file_last_part(name);

	if (!*base || strcmp(base, ".") == 0 || strcmp(base, "..") == 0)
		return err_set(err, ERR_FORMAT, "the parent's name '%s' is not that of a file", name);
	return 0;
}

int vhd_locator_path(uint32_t platform, const uint8_t *p, size_t len, char *ret, size_t room, struct err *err)
{
	if (platform == VHD_MACX)
		return put_url(p, len, ret, room, err) < 0 ? -1 : check_file_name(ret, err);
	if (put_utf16(p, len, true, ret, room, err) < 0)
		return -1;
	from_windows(ret);
	return check_file_name(ret, err);
}

int vhd_parent_name(const struct vhd_header *h, char *ret, size_t room, struct err *err)
{
	if (put_utf16(h->parent_name, sizeof(h->parent_name), false, ret, room, err) < 0)
		return -1;
	from_windows(ret);
	return check_file_name(ret, err);
}
