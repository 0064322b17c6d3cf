/* SPDX-License-Identifier: Apache-2.0 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "scanner/base/checked.h"
#include "scanner/base/crc32c.h"
#include "scanner/image/utf16.h"
#include "scanner/image/vhdx_format.h"

/* What leads to the blocks of a VHDX image:
 *
 *	header -> region table -> BAT
 *	 |		       -> metadata table -> items: parameters, sizes, parent locator
 *	 -> log
 *
 * Structures are checked by themselves and against each other here; the reader gets their bytes, through the log. */

/* ---- GUIDs ---- */

const struct vhdx_guid vhdx_guid_bat = VHDX_GUID(0x2dc27766u, 0xf623, 0x4200, 0x9d64, 0x115e9bfd4a08);
const struct vhdx_guid vhdx_guid_metadata = VHDX_GUID(0x8b7ca206u, 0x4790, 0x4b9a, 0xb8fe, 0x575f050f886e);
const struct vhdx_guid vhdx_guid_locator = VHDX_GUID(0xb04aefb7u, 0xd19e, 0x4a81, 0xb789, 0x25b8e9445913);

const struct vhdx_guid vhdx_guid_items[VHDX_NR_ITEMS] = {
	[VHDX_PARAMETERS] = VHDX_GUID(0xcaa16737u, 0xfa36, 0x4d43, 0xb3b6, 0x33f0aa44e76b),
	[VHDX_DISK_SIZE] = VHDX_GUID(0x2fa54224u, 0xcd1b, 0x4876, 0xb211, 0x5dbed83bf4b8),
	[VHDX_DISK_ID] = VHDX_GUID(0xbeca12abu, 0xb2e6, 0x4523, 0x93ef, 0xc309e000c746),
	[VHDX_LOGICAL_SECTOR] = VHDX_GUID(0x8141bf1du, 0xa96f, 0x4709, 0xba47, 0xf233a8faab5f),
	[VHDX_PHYSICAL_SECTOR] = VHDX_GUID(0xcda348c7u, 0x445d, 0x4471, 0x9cc9, 0xe9885251c556),
	[VHDX_PARENT_LOCATOR] = VHDX_GUID(0xa8d35f2du, 0xb30b, 0x454d, 0xabf7, 0xd3d84834ab0c),
};

static const struct {
	const char *name;
	uint32_t length; /* it has at least */
} items[VHDX_NR_ITEMS] = {
	[VHDX_PARAMETERS] = { "file parameters", sizeof(struct vhdx_parameters_disk) },
	[VHDX_DISK_SIZE] = { "virtual disk size", sizeof(le64) },
	[VHDX_DISK_ID] = { "virtual disk ID", sizeof(struct vhdx_guid) },
	[VHDX_LOGICAL_SECTOR] = { "logical sector size", sizeof(le32) },
	[VHDX_PHYSICAL_SECTOR] = { "physical sector size", sizeof(le32) },
	[VHDX_PARENT_LOCATOR] = { "parent locator", sizeof(struct vhdx_locator_disk) },
};

bool vhdx_guid_equal(const struct vhdx_guid *a, const struct vhdx_guid *b)
{
	return memcmp(a, b, sizeof(*a)) == 0;
}

uint32_t vhdx_checksum(const uint8_t *p, size_t len)
{
	static const uint8_t zero[4];

	return crc32c(crc32c(crc32c(0, p, 4), zero, 4), p + 8, len - 8);
}

/* ---- headers ---- */

static bool header_valid(const struct vhdx_header_disk *d)
{
	return memcmp(d->signature, VHDX_HEADER_SIGNATURE, 4) == 0 &&
	       le32_get(d->checksum) == vhdx_checksum((const void *)d, sizeof(*d));
}

/* Two with the same number are fine where they say the same: Disk2vhd writes such. */
static const struct vhdx_header_disk *current_header(const struct vhdx_header_disk *a, const struct vhdx_header_disk *b,
						     struct err *err)
{
	uint64_t first = le64_get(a->sequence), second = le64_get(b->sequence);

	if (!header_valid(a) && !header_valid(b))
		return err_null(err, ERR_FORMAT, "neither of the two VHDX headers is valid");
	if (!header_valid(a))
		return b;
	if (!header_valid(b))
		return a;
	if (first == second && memcmp(a, b, sizeof(*a)) != 0)
		return err_null(err, ERR_FORMAT, "both VHDX headers have sequence number %llu, but differ",
				(unsigned long long)first);
	return first >= second ? a : b;
}

int vhdx_header_decode(const uint8_t *first, const uint8_t *second, struct vhdx_header *ret, struct err *err)
{
	static const struct vhdx_guid none;
	const struct vhdx_header_disk *d = current_header((const void *)first, (const void *)second, err);
	uint64_t offset, length, end;

	if (!d)
		return -1;
	if (le16_get(d->version) != 1)
		return err_set(err, ERR_UNSUPPORTED, "VHDX header version %u is not known", le16_get(d->version));
	if (le16_get(d->log_version) != 0 && !vhdx_guid_equal(&d->log, &none))
		return err_set(err, ERR_UNSUPPORTED, "VHDX log version %u is not known", le16_get(d->log_version));
	offset = le64_get(d->log_offset);
	length = le32_get(d->log_length);
	if (offset % VHDX_UNIT != 0 || length % VHDX_UNIT != 0)
		return err_set(err, ERR_FORMAT, "the log at offset %llu, of %llu bytes, is not in whole MiB",
			       (unsigned long long)offset, (unsigned long long)length);
	if (!add_fits(offset, length, &end) || end > INT64_MAX)
		return err_set(err, ERR_FORMAT, "the log lies past the largest file offset");
	*ret = (struct vhdx_header){
		.sequence = le64_get(d->sequence),
		.data_write = d->data_write,
		.log = d->log,
		.log_range = { offset, end },
	};
	return 0;
}

/* ---- regions ---- */

bool vhdx_regions_valid(const uint8_t *p)
{
	const struct vhdx_regions_disk *d = (const void *)p;

	return memcmp(d->signature, VHDX_REGIONS_SIGNATURE, 4) == 0 &&
	       le32_get(d->checksum) == vhdx_checksum(p, VHDX_TABLE_SIZE) &&
	       le32_get(d->nr_entries) <= VHDX_ENTRIES_MAX;
}

/* Where a known region goes. */
static struct vhdx_range *known_region(struct vhdx_regions *regions, const struct vhdx_guid *guid)
{
	if (vhdx_guid_equal(guid, &vhdx_guid_bat))
		return &regions->bat;
	if (vhdx_guid_equal(guid, &vhdx_guid_metadata))
		return &regions->metadata;
	return NULL;
}

static int decode_region(const struct vhdx_region_disk *d, struct vhdx_regions *ret, struct err *err)
{
	uint64_t offset = le64_get(d->offset), length = le32_get(d->length), end;
	struct vhdx_range *known = known_region(ret, &d->guid);
	char guid[GUID_TEXT];

	guid_text(d->guid.b, true, guid);
	if (!known && (le32_get(d->flags) & VHDX_REQUIRED))
		return err_set(err, ERR_UNSUPPORTED, "the image needs region '%s', which is not known", guid);
	if (offset % VHDX_UNIT != 0 || length % VHDX_UNIT != 0 || length == 0)
		return err_set(err, ERR_FORMAT, "region '%s' at offset %llu, of %llu bytes, is not in whole MiB", guid,
			       (unsigned long long)offset, (unsigned long long)length);
	if (!add_fits(offset, length, &end) || end > INT64_MAX)
		return err_set(err, ERR_FORMAT, "region '%s' lies past the largest file offset", guid);
	if (known && known->end)
		return err_set(err, ERR_FORMAT, "region '%s' is there twice", guid);
	ret->all[ret->nr] = (struct vhdx_range){ offset, end };
	if (known)
		*known = ret->all[ret->nr];
	ret->nr++;
	return 0;
}

static int by_begin(const void *a, const void *b)
{
	const struct vhdx_range *x = a, *y = b;

	return x->begin < y->begin ? -1 : x->begin > y->begin;
}

int vhdx_regions_decode(const uint8_t *p, const struct vhdx_header *h, struct vhdx_regions *ret, struct err *err)
{
	const struct vhdx_regions_disk *d = (const void *)p;
	const struct vhdx_region_disk *entries = (const void *)(d + 1);

	ret->bat = ret->metadata = (struct vhdx_range){ 0, 0 };
	ret->nr = 0;
	ret->all[ret->nr++] = (struct vhdx_range){ 0, VHDX_UNIT };
	if (h->log_range.begin < h->log_range.end)
		ret->all[ret->nr++] = h->log_range;
	for (unsigned i = 0; i < le32_get(d->nr_entries); i++)
		if (decode_region(&entries[i], ret, err) < 0)
			return -1;
	if (!ret->bat.end || !ret->metadata.end)
		return err_set(err, ERR_FORMAT, "the image has no %s region", ret->bat.end ? "metadata" : "BAT");
	qsort(ret->all, ret->nr, sizeof(*ret->all), by_begin);
	for (unsigned i = 1; i < ret->nr; i++)
		if (ret->all[i].begin < ret->all[i - 1].end)
			return err_set(err, ERR_FORMAT, "header, log or regions overlap at offset %llu",
				       (unsigned long long)ret->all[i].begin);
	return 0;
}

bool vhdx_regions_spare(const struct vhdx_regions *regions, uint64_t begin, uint64_t end)
{
	unsigned first = 0, nr = regions->nr;

	/* the first region that ends behind `begin` */
	while (nr) {
		unsigned half = nr / 2;

		if (regions->all[first + half].end <= begin) {
			first += half + 1;
			nr -= half + 1;
		} else {
			nr = half;
		}
	}
	return first == regions->nr || end <= regions->all[first].begin;
}

/* ---- metadata ---- */

static int decode_item(const struct vhdx_item_disk *d, uint64_t size, struct vhdx_item ret[VHDX_NR_ITEMS],
		       struct err *err)
{
	uint32_t offset = le32_get(d->offset), length = le32_get(d->length), flags = le32_get(d->flags);
	char guid[GUID_TEXT];
	unsigned i = 0;

	/* users may number their items as they like: the GUID of a known one means nothing there */
	while (i < VHDX_NR_ITEMS && ((flags & VHDX_ITEM_USER) || !vhdx_guid_equal(&d->guid, &vhdx_guid_items[i])))
		i++;
	if (i == VHDX_NR_ITEMS) {
		guid_text(d->guid.b, true, guid);
		if (flags & VHDX_ITEM_REQUIRED)
			return err_set(err, ERR_UNSUPPORTED, "the image needs metadata item '%s', which is not known",
				       guid);
		return 0;
	}
	if (ret[i].length)
		return err_set(err, ERR_FORMAT, "metadata item '%s' is there twice", items[i].name);
	if (length < items[i].length || length > VHDX_ITEM_MAX)
		return err_set(err, ERR_FORMAT, "metadata item '%s' has %u bytes", items[i].name, length);
	if (offset < VHDX_TABLE_SIZE || !range_within(offset, length, size))
		return err_set(err, ERR_FORMAT, "metadata item '%s' at offset %u, of %u bytes, leaves its region",
			       items[i].name, offset, length);
	ret[i] = (struct vhdx_item){ offset, length };
	return 0;
}

int vhdx_items_decode(const uint8_t *p, uint64_t size, struct vhdx_item ret[VHDX_NR_ITEMS], struct err *err)
{
	const struct vhdx_metadata_disk *d = (const void *)p;
	const struct vhdx_item_disk *entries = (const void *)(d + 1);
	unsigned nr = le16_get(d->nr_entries), nr_user = 0;

	if (memcmp(d->signature, VHDX_METADATA_SIGNATURE, sizeof(d->signature)) != 0)
		return err_set(err, ERR_FORMAT, "no VHDX metadata table found");
	if (nr > VHDX_ENTRIES_MAX)
		return err_set(err, ERR_FORMAT, "the metadata table counts %u entries", nr);
	memset(ret, 0, VHDX_NR_ITEMS * sizeof(*ret));
	for (unsigned i = 0; i < nr; i++) {
		nr_user += le32_get(entries[i].flags) & VHDX_ITEM_USER;
		if (decode_item(&entries[i], size, ret, err) < 0)
			return -1;
	}
	if (nr_user > VHDX_USER_ITEMS_MAX)
		return err_set(err, ERR_FORMAT, "the metadata table has %u items of users", nr_user);
	for (unsigned i = 0; i < VHDX_PARENT_LOCATOR; i++)
		if (!ret[i].length)
			return err_set(err, ERR_FORMAT, "metadata item '%s' is missing", items[i].name);
	return 0;
}

static bool known_sector(uint32_t size)
{
	return size == 512 || size == 4096;
}

int vhdx_disk_decode(const struct vhdx_parameters_disk *parameters, le64 size, le32 logical, le32 physical,
		     struct vhdx_disk *ret, struct err *err)
{
	uint32_t flags = le32_get(parameters->flags);
	struct vhdx_disk disk = {
		.size = le64_get(size),
		.block_size = le32_get(parameters->block_size),
		.logical_sector = le32_get(logical),
		.physical_sector = le32_get(physical),
		.has_parent = flags & VHDX_HAS_PARENT,
		.fixed = flags & VHDX_LEAVE_BLOCKS_ALLOCATED,
	};

	if (!is_pow2(disk.block_size) || disk.block_size < VHDX_BLOCK_SIZE_MIN || disk.block_size > VHDX_BLOCK_SIZE_MAX)
		return err_set(err, ERR_FORMAT, "block size %u is not a power of two from 1 MiB to 256 MiB",
			       disk.block_size);
	if (!known_sector(disk.logical_sector) || !known_sector(disk.physical_sector))
		return err_set(err, ERR_FORMAT, "sectors of %u bytes, physically of %u, are not of 512 or 4096 bytes",
			       disk.logical_sector, disk.physical_sector);
	if (disk.size > VHDX_DISK_SIZE_MAX || disk.size % disk.logical_sector != 0)
		return err_set(err, ERR_FORMAT, "disk size %llu is not a whole number of sectors up to 64 TiB",
			       (unsigned long long)disk.size);
	*ret = disk;
	return 0;
}

/* ---- the parent locator ---- */

struct utf16 {
	const uint8_t *p;
	size_t len; /* in bytes */
};

static bool key_is(struct utf16 key, const char *name)
{
	if (key.len != 2 * strlen(name))
		return false;
	for (size_t i = 0; name[i]; i++)
		if (le16_load(key.p + 2 * i) != (uint8_t)name[i])
			return false;
	return true;
}

static int to_utf8(struct utf16 text, const char *what, char *ret, size_t room, struct err *err)
{
	ssize_t whole = utf16_to_utf8(text.p, text.len, true, ret, room);

	if (whole < 0)
		return err_set(err, ERR_FORMAT, "parent locator: '%s' is not UTF-16 text", what);
	if ((size_t)whole >= room)
		return err_set(err, ERR_FORMAT, "parent locator: '%s' of %zu bytes is too long", what, text.len);
	return 0;
}

enum key { PARENT_LINKAGE, PARENT_LINKAGE2, RELATIVE_PATH, VOLUME_PATH, ABSOLUTE_WIN32_PATH, NR_KEYS };
static const char *const keys[NR_KEYS] = { "parent_linkage", "parent_linkage2", "relative_path", "volume_path",
					   "absolute_win32_path" };

static int decode_pair(const uint8_t *p, size_t len, const struct vhdx_pair_disk *d, struct utf16 ret[NR_KEYS],
		       struct err *err)
{
	uint32_t key_at = le32_get(d->key_offset), value_at = le32_get(d->value_offset);
	struct utf16 key = { .len = le16_get(d->key_length) }, value = { .len = le16_get(d->value_length) };

	if (!range_within(key_at, key.len, len) || !range_within(value_at, value.len, len))
		return err_set(err, ERR_FORMAT, "parent locator: a key or value leaves the item of %zu bytes", len);
	key.p = p + key_at;
	value.p = p + value_at;
	for (unsigned i = 0; i < NR_KEYS; i++) {
		if (!key_is(key, keys[i]))
			continue;
		if (ret[i].len)
			return err_set(err, ERR_FORMAT, "parent locator: '%s' is there twice", keys[i]);
		if (value.len == 0 || value.len % 2 != 0)
			return err_set(err, ERR_FORMAT, "parent locator: '%s' has %zu bytes", keys[i], value.len);
		ret[i] = value;
	}
	return 0;
}

/* "{83ED0EC3-...}" becomes "83ed0ec3-...". */
static int decode_linkage(struct utf16 text, char ret[GUID_TEXT], struct err *err)
{
	static const char shape[] = "{xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx}";
	char braced[sizeof(shape)];

	if (to_utf8(text, keys[PARENT_LINKAGE], braced, sizeof(braced), err) < 0)
		return -1;
	for (size_t i = 0; i < sizeof(shape); i++)
		if (shape[i] == 'x' ? !isxdigit((unsigned char)braced[i]) : braced[i] != shape[i])
			return err_set(err, ERR_FORMAT, "parent locator: '%s' is not a GUID", keys[PARENT_LINKAGE]);
	for (size_t i = 0; i + 1 < GUID_TEXT; i++)
		ret[i] = (char)tolower((unsigned char)braced[i + 1]);
	ret[GUID_TEXT - 1] = '\0';
	return 0;
}

/* A path from this image's folder as it is; of a path on the machine that made it, only the last name. */
static int decode_path(const struct utf16 values[NR_KEYS], char ret[IMAGE_NAME_MAX], struct err *err)
{
	unsigned which = values[RELATIVE_PATH].len ? RELATIVE_PATH
			 : values[VOLUME_PATH].len ? VOLUME_PATH
						   : ABSOLUTE_WIN32_PATH;
	const char *slash;

	if (!values[which].len)
		return err_set(err, ERR_FORMAT, "parent locator: no path leads to the parent");
	if (to_utf8(values[which], keys[which], ret, IMAGE_NAME_MAX, err) < 0)
		return -1;
	for (char *c = ret; *c; c++)
		if (*c == '\\')
			*c = '/';
	slash = which == RELATIVE_PATH ? NULL : strrchr(ret, '/');
	if (slash)
		memmove(ret, slash + 1, strlen(slash + 1) + 1);
	if (!*ret)
		return err_set(err, ERR_FORMAT, "parent locator: '%s' names no file", keys[which]);
	return 0;
}

int vhdx_parent_decode(const uint8_t *p, size_t len, struct vhdx_parent *ret, struct err *err)
{
	const struct vhdx_locator_disk *d = (const void *)p;
	const struct vhdx_pair_disk *pairs = (const void *)(d + 1);
	struct utf16 values[NR_KEYS] = { 0 };
	char guid[GUID_TEXT];
	unsigned nr;

	if (len < sizeof(*d))
		return err_set(err, ERR_FORMAT, "parent locator: it has %zu bytes", len);
	nr = le16_get(d->nr_pairs);
	guid_text(d->type.b, true, guid);
	if (!vhdx_guid_equal(&d->type, &vhdx_guid_locator))
		return err_set(err, ERR_UNSUPPORTED, "the parent locator is of type '%s', which is not known", guid);
	if (nr * sizeof(*pairs) > len - sizeof(*d))
		return err_set(err, ERR_FORMAT, "parent locator: %u pairs do not fit into %zu bytes", nr, len);
	for (unsigned i = 0; i < nr; i++)
		if (decode_pair(p, len, &pairs[i], values, err) < 0)
			return -1;
	if (!values[PARENT_LINKAGE].len)
		return err_set(err, ERR_FORMAT, "parent locator: 'parent_linkage' is missing");
	return decode_linkage(values[PARENT_LINKAGE], ret->id, err) < 0 ? -1 : decode_path(values, ret->name, err);
}
