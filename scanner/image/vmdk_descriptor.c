/* SPDX-License-Identifier: Apache-2.0 */
#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "scanner/base/checked.h"
#include "scanner/image/image.h"
#include "scanner/image/vmdk_format.h"

/* The descriptor of a VMDK: text in lines, of three kinds.
 *
 *	# Disk DescriptorFile				a comment
 *	createType="twoGbMaxExtentSparse"		a key and a value, in quotes or not
 *	RW 4192256 SPARSE "disk-s001.vmdk"		an extent: access, sectors, kind, file, offset in it
 *
 * Keys and words are taken in any case of letters.  Lines end in LF or CR LF; a zero byte ends the text.  Unknown keys
 * and lines are passed over, as VMware and QEMU do; a key that matters must not come twice.
 *
 * File names are bytes: `encoding` is not looked at.  The format knows no escapes, so control bytes are refused, which
 * also keeps names on one line. */

/* ---- words ---- */

static bool is_blank(char c)
{
	return c == ' ' || c == '\t';
}

static char *skip_blanks(char *p)
{
	while (is_blank(*p))
		p++;
	return p;
}

/* Cuts off what is blank at the end, CR included. */
static void cut_blanks(char *p)
{
	size_t len = strlen(p);

	while (len && (is_blank(p[len - 1]) || p[len - 1] == '\r'))
		len--;
	p[len] = '\0';
}

/* The word at *p, terminated; *p moves behind it. */
static char *take_word(char **p)
{
	char *word = skip_blanks(*p), *end = word;

	while (*end && !is_blank(*end))
		end++;
	*p = end;
	if (*end)
		*(*p)++ = '\0';
	return word;
}

static bool parse_number(const char *p, uint64_t *ret)
{
	uint64_t v = 0;

	if (!*p)
		return false;
	for (; *p; p++)
		if (*p < '0' || *p > '9' || !mul_fits(v, 10, &v) || !add_fits(v, (uint64_t)(*p - '0'), &v))
			return false;
	*ret = v;
	return true;
}

static int check_name(const char *name, const char *what, struct err *err)
{
	size_t len = strlen(name);

	if (len == 0)
		return err_set(err, ERR_FORMAT, "the %s has no name", what);
	if (len >= IMAGE_NAME_MAX)
		return err_set(err, ERR_FORMAT, "the name of the %s is longer than %d bytes", what, IMAGE_NAME_MAX - 1);
	if (strchr(name, '\t'))
		return err_set(err, ERR_FORMAT, "the name of the %s has a control byte (0x09) in it", what);
	return 0;
}

/* ---- kinds of disks ---- */

/* Why a disk or an extent is not read; NULL = it is. */
static const char device[] = "it is a device of the host, which is not read", cowd[] = "COWD extents are not read",
		  sesparse[] = "seSparse extents are not read";

static const struct disk_kind {
	const char *name, *unread, *alias;
} disk_kinds[] = {
	{ "monolithicSparse" },
	{ "monolithicFlat" },
	{ "twoGbMaxExtentSparse", NULL, "2GbMaxExtentSparse" },
	{ "twoGbMaxExtentFlat", NULL, "2GbMaxExtentFlat" },
	{ "streamOptimized" },
	{ "vmfs" },
	{ "vmfsPreallocated" },
	{ "vmfsEagerZeroedThick" },
	{ "vmfsThin" },
	{ "custom" },
	{ "vmfsSparse", cowd },
	{ "seSparse", sesparse },
	{ "fullDevice", device },
	{ "partitionedDevice", device },
	{ "vmfsRaw", device },
	{ "vmfsRawDeviceMap", device, "vmfsRDM" },
	{ "vmfsPassthroughRawDeviceMap", device, "vmfsRDMP" },
};

static const struct extent_word {
	const char *name, *unread;
	enum vmdk_extent_kind kind;
} extent_words[] = {
	{ "FLAT", NULL, VMDK_FLAT }, { "VMFS", NULL, VMDK_FLAT }, { "SPARSE", NULL, VMDK_SPARSE },
	{ "ZERO", NULL, VMDK_ZERO }, { "VMFSSPARSE", cowd },	  { "SESPARSE", sesparse },
	{ "VMFSRDM", device },	     { "VMFSRAW", device },
};

static int set_create_type(const char *value, struct vmdk_descriptor *d, struct err *err)
{
	for (size_t i = 0; i < ARRAY_SIZE(disk_kinds); i++) {
		const struct disk_kind *k = &disk_kinds[i];

		if (strcasecmp(value, k->name) != 0 && (!k->alias || strcasecmp(value, k->alias) != 0))
			continue;
		if (k->unread)
			return err_set(err, ERR_UNSUPPORTED, "disk of type '%s': %s", k->name, k->unread);
		d->create_type = k->name;
		return 0;
	}
	return err_set(err, ERR_UNSUPPORTED, "disks of type '%.64s' are not known", value);
}

/* ---- extents ---- */

static bool is_access(const char *word, size_t len)
{
	return (len == 2 && strncasecmp(word, "RW", len) == 0) || (len == 6 && strncasecmp(word, "RDONLY", len) == 0) ||
	       (len == 8 && strncasecmp(word, "NOACCESS", len) == 0);
}

static int parse_kind(const char *word, struct vmdk_extent *e, struct err *err)
{
	for (size_t i = 0; i < ARRAY_SIZE(extent_words); i++) {
		const struct extent_word *w = &extent_words[i];

		if (strcasecmp(word, w->name) != 0)
			continue;
		if (w->unread)
			return err_set(err, ERR_UNSUPPORTED, "extent of type '%s': %s", w->name, w->unread);
		e->kind = w->kind;
		return 0;
	}
	return err_set(err, ERR_UNSUPPORTED, "extents of type '%.64s' are not known", word);
}

/* "name" and what is behind it: the offset. */
static int parse_file(char *p, struct vmdk_extent *e, struct err *err)
{
	char *end;

	p = skip_blanks(p);
	end = *p == '"' ? strchr(p + 1, '"') : NULL;
	if (!end)
		return err_set(err, ERR_FORMAT, "the file of an extent has no name in quotes");
	*end = '\0';
	e->name = p + 1;
	if (check_name(e->name, image_role_names[IMAGE_EXTENT], err) < 0)
		return -1;
	p = skip_blanks(end + 1);
	if (*p && !parse_number(take_word(&p), &e->offset))
		return err_set(err, ERR_FORMAT, "extent '%s': its offset is not a number", e->name);
	if (*skip_blanks(p))
		return err_set(err, ERR_FORMAT, "extent '%s': there is more behind its offset", e->name);
	if (e->offset && e->kind != VMDK_FLAT)
		return err_set(err, ERR_FORMAT, "extent '%s' has an offset, but is not flat", e->name);
	if (e->offset > VMDK_SECTORS_MAX - e->size / VMDK_SECTOR)
		return err_set(err, ERR_FORMAT, "extent '%s' is past the largest file offset", e->name);
	e->offset *= VMDK_SECTOR;
	return 0;
}

static int parse_extent(char *p, struct vmdk_extent *e, struct err *err)
{
	bool no_access = strcasecmp(take_word(&p), "NOACCESS") == 0;
	uint64_t sectors;

	if (!parse_number(take_word(&p), &sectors))
		return err_set(err, ERR_FORMAT, "the size of an extent is not a number");
	if (sectors > VMDK_SECTORS_MAX)
		return err_set(err, ERR_FORMAT, "extent of %llu sectors is too large", (unsigned long long)sectors);
	e->size = sectors * VMDK_SECTOR;
	if (parse_kind(take_word(&p), e, err) < 0)
		return -1;
	if (e->kind == VMDK_ZERO)
		return 0;
	if (no_access)
		return err_set(err, ERR_UNSUPPORTED, "an extent may not be accessed (NOACCESS)");
	return parse_file(p, e, err);
}

static int add_extent(char *line, struct vmdk_descriptor *d, struct err *err)
{
	struct vmdk_extent e = { .name = NULL };

	if (d->extents.nr >= VMDK_NR_EXTENTS_MAX)
		return err_set(err, ERR_UNSUPPORTED, "the disk has more than %d extents", VMDK_NR_EXTENTS_MAX);
	if (parse_extent(line, &e, err) < 0)
		return -1;
	return vec_push(&d->extents, e) < 0 ? err_set(err, ERR_MEMORY, "no memory for the extents of a VMDK") : 0;
}

/* ---- keys ---- */

/* A content identifier: up to 8 hex digits, which become 8. */
static int set_cid(const char *value, const char *key, char ret[9], struct err *err)
{
	size_t len = strlen(value);

	if (*ret)
		return err_set(err, ERR_FORMAT, "%s is said twice", key);
	if (len == 0 || len > 8 || value[strspn(value, "0123456789abcdefABCDEF")])
		return err_set(err, ERR_FORMAT, "%s is not a number of 8 hex digits", key);
	memset(ret, '0', 8);
	for (size_t i = 0; i < len; i++)
		ret[8 - len + i] = (char)tolower((unsigned char)value[i]);
	ret[8] = '\0';
	return 0;
}

static int set_version(const char *value, struct vmdk_descriptor *d, struct err *err)
{
	uint64_t v;

	if (!parse_number(value, &v) || v == 0 || v > 255)
		return err_set(err, ERR_FORMAT, "the version of the descriptor is not a number from 1 up");
	d->version = (unsigned)v;
	return 0;
}

static int set_key(const char *key, const char *value, struct vmdk_descriptor *d, struct err *err)
{
	if (strcasecmp(key, "version") == 0)
		return d->version ? err_set(err, ERR_FORMAT, "version is said twice") : set_version(value, d, err);
	if (strcasecmp(key, "CID") == 0)
		return set_cid(value, "CID", d->cid, err);
	if (strcasecmp(key, "parentCID") == 0)
		return set_cid(value, "parentCID", d->parent_cid, err);
	if (strcasecmp(key, "createType") == 0)
		return d->create_type ? err_set(err, ERR_FORMAT, "createType is said twice")
				      : set_create_type(value, d, err);
	if (strcasecmp(key, "parentFileNameHint") == 0) {
		if (d->parent_name)
			return err_set(err, ERR_FORMAT, "parentFileNameHint is said twice");
		d->parent_name = value;
		return check_name(value, "parent", err);
	}
	if (strcasecmp(key, "ddb.adapterType") == 0)
		d->adapter = value;
	if (strcasecmp(key, "changeTrackPath") == 0)
		d->change_tracking = true;
	if (strcasecmp(key, "encryptionKeys") == 0)
		d->encrypted = true;
	return 0;
}

/* key = "value" or key = value. */
static int parse_key(char *line, char *equals, struct vmdk_descriptor *d, struct err *err)
{
	char *value = skip_blanks(equals + 1), *end;

	*equals = '\0';
	cut_blanks(line);
	if (*value == '"') {
		end = strchr(++value, '"');
		if (!end)
			return err_set(err, ERR_FORMAT, "the value of '%.64s' has no end", line);
		*end = '\0';
	}
	return set_key(line, value, d, err);
}

/* ---- lines ---- */

/* QEMU takes other control bytes for blanks, and the name of a parent from any line, comments too.  What one program
 * would read and another pass over is refused, so that they agree on which files an image names. */
static int check_line(const char *line, struct err *err)
{
	const char *hint = strcasestr(line, "parentFileNameHint");

	for (const char *p = line; *p; p++)
		if (((unsigned char)*p < 0x20 && *p != '\t') || *p == 0x7f)
			return err_set(err, ERR_FORMAT, "it has a control byte (0x%02x) in it", (unsigned char)*p);
	if (hint && hint != line)
		return err_set(err, ERR_FORMAT, "parentFileNameHint stands where it is no key");
	return 0;
}

static int parse_line(char *line, struct vmdk_descriptor *d, struct err *err)
{
	char *equals;

	line = skip_blanks(line);
	cut_blanks(line);
	if (check_line(line, err) < 0)
		return -1;
	if (*line == '#' || !*line)
		return 0;
	if (is_access(line, strcspn(line, " \t")))
		return add_extent(line, d, err);
	equals = strchr(line, '=');
	return equals ? parse_key(line, equals, d, err) : 0;
}

int vmdk_descriptor_parse(char *text, size_t len, struct vmdk_descriptor *ret, struct err *err)
{
	unsigned nr = 1;

	*ret = VMDK_DESCRIPTOR_INIT;
	text[len] = '\0';
	if (strncmp(text, "\xef\xbb\xbf", 3) == 0)
		text += 3;
	for (char *line = text, *next; line; line = next, nr++) {
		next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		if (parse_line(line, ret, err) < 0)
			return err_add(err, "line %u of the descriptor", nr);
	}
	return 0;
}

void vmdk_descriptor_release(struct vmdk_descriptor *d)
{
	vec_release(&d->extents);
	*d = VMDK_DESCRIPTOR_INIT;
}

bool vmdk_descriptor_probe(const uint8_t *p, size_t len)
{
	const size_t magic = sizeof(VMDK_DESCRIPTOR_MAGIC) - 1;
	const char *at = (const char *)p, *end = at + len, *next;

	if (len >= 3 && memcmp(at, "\xef\xbb\xbf", 3) == 0)
		at += 3;
	for (; at < end; at = next) {
		while (at < end && is_blank(*at))
			at++;
		if ((size_t)(end - at) >= magic && strncasecmp(at, VMDK_DESCRIPTOR_MAGIC, magic) == 0)
			return true;
		if (at < end && *at != '#' && *at != '\r' && *at != '\n')
			return false;
		next = at < end ? memchr(at, '\n', (size_t)(end - at)) : NULL;
		next = next ? next + 1 : end;
	}
	return false;
}
