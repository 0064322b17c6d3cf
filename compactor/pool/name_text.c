/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>

#include "compactor/pool/names.h"
#include "scanner/base/checked.h"
#include "scanner/base/crc32c.h"

/* Names as text.  Lines "key value", all keys there in this order, each line ended by one \n:
 *
 *	dedupscan-name 1
 *	kind version			or: member
 *	number 17
 *	made 1795000000			seconds since 1970
 *	label before%25upgrade		nothing behind the blank: none
 *	disk /srv/images/web1.qcow2	these eight lines for each disk
 *	size 10737418240		bytes
 *	root 9f86d081...		64 hex digits of a version that is folded in, else -
 *	view 3b0c...-...		an id, or -
 *	sealed -
 *	below -
 *	inode 0
 *	written 1795000000123456789	ns since 1970; this line only where it is noted
 *	length 327680			bytes; these two only where they are noted
 *	l1 89abcdef			CRC-32C, 8 hex digits
 *	expanded 5678			these three only of a member that was expanded
 *	born 1795000000123456789
 *	original 1234
 *	file /etc/libvirt/qemu/web1.xml	these two for each file
 *	bytes <domain>%0A...
 *	crc 01234567			CRC-32C of all before this line, 8 hex digits
 *
 * In paths, labels and bytes a byte that is no printable ASCII, and %, is written %XX, and no other byte is.  Numbers are decimal,
 * hex digits of ids and checksums small, those of %XX capitals.  So what can be read has one way to be written, and reading takes
 * no other.  A name with a line "length" or "expanded" is of version 3, another one with a line "written" of version 2, others are
 * of version 1. */

#define TITLE_ANY "dedupscan-name "
#define TITLE_LEN (sizeof(TITLE_ANY) - 1 + 2)
#define VERSION_MAX 3
#define CRC_LINE (4 + 8 + 1)

void name_release(struct name *n)
{
	for (size_t i = 0; i < n->files.nr; i++)
		free(n->files.items[i].bytes);
	vec_release(&n->files);
	vec_release(&n->disks);
}

bool name_is_settled(const struct name *n)
{
	for (size_t i = 0; i < n->disks.nr; i++)
		if (n->disks.items[i].inode)
			return false;
	return true;
}

const struct name_disk *name_find_disk(const struct name *n, const char *path)
{
	for (size_t i = 0; i < n->disks.nr; i++)
		if (strcmp(n->disks.items[i].path, path) == 0)
			return &n->disks.items[i];
	return NULL;
}

static int add_file(struct name *n, const struct name_file *f, struct err *err)
{
	if (vec_push(&n->files, *f) < 0)
		return err_set(err, ERR_MEMORY, "out of memory");
	n->files.items[n->files.nr - 1].bytes = malloc(f->len + 1);
	if (!n->files.items[n->files.nr - 1].bytes)
		return err_set(err, ERR_MEMORY, "out of memory");
	return 0;
}

int name_copy(const struct name *n, struct name *ret, struct err *err)
{
	CLEANUP(name_release) struct name copy = *n;

	memset(&copy.disks, 0, sizeof(copy.disks));
	memset(&copy.files, 0, sizeof(copy.files));
	for (size_t i = 0; i < n->disks.nr; i++)
		if (vec_push(&copy.disks, n->disks.items[i]) < 0)
			return err_set(err, ERR_MEMORY, "out of memory");
	for (size_t i = 0; i < n->files.nr; i++) {
		const struct name_file *f = &n->files.items[i];

		if (add_file(&copy, f, err) < 0)
			return -1;
		memcpy(copy.files.items[i].bytes, f->bytes, f->len);
	}
	*ret = copy;
	memset(&copy, 0, sizeof(copy));
	return 0;
}

/* ---- what every name is ---- */

static int bad(struct err *err, const char *what)
{
	return err_set(err, ERR_FORMAT, "no name of dedupscan: %s", what);
}

static bool is_null(const void *p, size_t len)
{
	static const uint8_t null[DIGEST_SIZE];

	return memcmp(p, null, len) == 0;
}

static int check_disk(const struct name *n, const struct name_disk *d, struct err *err)
{
	if (d->path[0] != '/')
		return bad(err, "a path that is not absolute");
	if (d->size == 0 || d->size > INT64_MAX)
		return bad(err, "a disk of an impossible size");
	if (n->kind == NAME_MEMBER && (d->inode || !is_null(d->sealed, POOL_ID_SIZE)))
		return bad(err, "a member with what only versions have");
	if (n->kind == NAME_VERSION && d->expanded.inode)
		return bad(err, "a version with what only members have");
	if (!d->expanded.inode != !d->expanded.born || !d->expanded.inode != !d->expanded.original)
		return bad(err, "a file in the place of another that is none");
	if (n->kind == NAME_MEMBER && is_null(d->view, POOL_ID_SIZE))
		return bad(err, "a member without a view");
	if (!d->folded && !is_null(d->root, DIGEST_SIZE))
		return bad(err, "a root of what is not folded in");
	if (n->kind == NAME_VERSION && !d->folded && is_null(d->sealed, POOL_ID_SIZE))
		return bad(err, "a version of nothing");
	if ((d->written || d->length) && is_null(d->sealed, POOL_ID_SIZE))
		return bad(err, "a time or a length of what was not sealed");
	if (d->length > INT64_MAX || (d->l1 && !d->length))
		return bad(err, "an impossible length");
	if (d->inode && (d->folded || is_null(d->sealed, POOL_ID_SIZE)))
		return bad(err, "a disk that is being sealed, and is not");
	return 0;
}

static int check(const struct name *n, struct err *err)
{
	if (n->kind != NAME_MEMBER && n->kind != NAME_VERSION)
		return bad(err, "neither a member nor a version");
	if (n->made < 0)
		return bad(err, "a time that is none");
	if (n->disks.nr == 0 || n->disks.nr > NAME_DISKS_MAX || n->files.nr > NAME_FILES_MAX)
		return bad(err, "no disks, or too many disks or files");
	if (n->kind == NAME_MEMBER && (n->disks.nr != 1 || n->files.nr || *n->label))
		return bad(err, "a member with what only versions have");
	for (size_t i = 0; i < n->disks.nr; i++)
		if (check_disk(n, &n->disks.items[i], err) < 0)
			return -1;
	for (size_t i = 0; i < n->files.nr; i++)
		if (n->files.items[i].path[0] != '/')
			return bad(err, "a path that is not absolute");
	return 0;
}

/* ---- writing ---- */

static bool is_plain(uint8_t c)
{
	return c >= 0x20 && c < 0x7f && c != '%';
}

static void write_escaped(FILE *f, const char *key, const void *bytes, size_t len)
{
	const uint8_t *p = bytes;

	fprintf(f, "%s ", key);
	for (size_t i = 0; i < len; i++)
		if (is_plain(p[i]))
			putc(p[i], f);
		else
			fprintf(f, "%%%02X", p[i]);
	putc('\n', f);
}

static void write_id(FILE *f, const char *key, const uint8_t id[POOL_ID_SIZE])
{
	char text[POOL_ID_TEXT_ROOM];

	fprintf(f, "%s %s\n", key, is_null(id, POOL_ID_SIZE) ? "-" : pool_id_text(id, text));
}

static void write_disk(FILE *f, const struct name_disk *d)
{
	char root[DIGEST_TEXT_ROOM];

	write_escaped(f, "disk", d->path, strlen(d->path));
	fprintf(f, "size %" PRIu64 "\nroot %s\n", d->size, d->folded ? digest_text(d->root, root) : "-");
	write_id(f, "view", d->view);
	write_id(f, "sealed", d->sealed);
	write_id(f, "below", d->below);
	fprintf(f, "inode %" PRIu64 "\n", d->inode);
	if (d->written)
		fprintf(f, "written %" PRIu64 "\n", d->written);
	if (d->length)
		fprintf(f, "length %" PRIu64 "\nl1 %08" PRIx32 "\n", d->length, d->l1);
	if (d->expanded.inode)
		fprintf(f, "expanded %" PRIu64 "\nborn %" PRIu64 "\noriginal %" PRIu64 "\n", d->expanded.inode, d->expanded.born,
			d->expanded.original);
}

static unsigned version_of(const struct name *n)
{
	unsigned version = 1;

	for (size_t i = 0; i < n->disks.nr; i++) {
		const struct name_disk *d = &n->disks.items[i];
		unsigned its = d->length || d->expanded.inode ? 3 : d->written ? 2 : 1;

		version = its > version ? its : version;
	}
	return version;
}

static void write_all(FILE *f, const struct name *n)
{
	fprintf(f, TITLE_ANY "%u\nkind %s\nnumber %" PRIu64 "\nmade %" PRId64 "\n", version_of(n),
		n->kind == NAME_MEMBER ? "member" : "version", n->number, n->made);
	write_escaped(f, "label", n->label, strlen(n->label));
	for (size_t i = 0; i < n->disks.nr; i++)
		write_disk(f, &n->disks.items[i]);
	for (size_t i = 0; i < n->files.nr; i++) {
		write_escaped(f, "file", n->files.items[i].path, strlen(n->files.items[i].path));
		write_escaped(f, "bytes", n->files.items[i].bytes, n->files.items[i].len);
	}
}

int name_encode(const struct name *n, char **ret, size_t *ret_len, struct err *err)
{
	CLEANUP(free) char *text = NULL;
	size_t len = 0;
	FILE *f;
	bool failed;

	if (check(n, err) < 0)
		return -1;
	for (size_t i = 0; i < n->files.nr; i++)
		if (n->files.items[i].len > NAME_FILE_MAX)
			return err_set(err, ERR_UNSUPPORTED, "'%s' is longer than 1 MiB", n->files.items[i].path);
	f = open_memstream(&text, &len);
	if (!f)
		return err_set(err, ERR_MEMORY, "out of memory");
	write_all(f, n);
	failed = fflush(f) != 0;
	if (!failed)
		fprintf(f, "crc %08" PRIx32 "\n", crc32c(0, text, len));
	if (fclose(f) != 0 || failed)
		return err_set(err, ERR_MEMORY, "out of memory");
	*ret = STEAL(text);
	*ret_len = len;
	return 0;
}

/* ---- reading ---- */

struct reader {
	const char *p, *end; /* what is not read yet */
	struct err *err;
};

/* The value of the next line, which must have that key; *ret_len is its length. */
static const char *line(struct reader *r, const char *key, size_t *ret_len)
{
	size_t key_len = strlen(key);
	const char *newline = r->p < r->end ? memchr(r->p, '\n', (size_t)(r->end - r->p)) : NULL, *value;

	if (!newline || (size_t)(newline - r->p) < key_len + 1 || memcmp(r->p, key, key_len) != 0 || r->p[key_len] != ' ') {
		err_set(r->err, ERR_FORMAT, "no name of dedupscan: a line '%s' was expected", key);
		return NULL;
	}
	value = r->p + key_len + 1;
	*ret_len = (size_t)(newline - value);
	r->p = newline + 1;
	return value;
}

static bool comes(const struct reader *r, const char *key)
{
	size_t len = strlen(key);

	return (size_t)(r->end - r->p) > len && memcmp(r->p, key, len) == 0 && r->p[len] == ' ';
}

static int read_number(struct reader *r, const char *key, uint64_t *ret)
{
	size_t len = 0;
	const char *s = line(r, key, &len);
	uint64_t v = 0;

	if (!s)
		return -1;
	if (len == 0 || (*s == '0' && len > 1))
		return bad(r->err, "a number that is none");
	for (size_t i = 0; i < len; i++) {
		if (s[i] < '0' || s[i] > '9' || __builtin_mul_overflow(v, 10, &v) ||
		    __builtin_add_overflow(v, (uint64_t)(s[i] - '0'), &v))
			return bad(r->err, "a number that is none");
	}
	*ret = v;
	return 0;
}

static int hex_value(char c, bool capitals)
{
	char ten = capitals ? 'A' : 'a';

	return c >= '0' && c <= '9' ? c - '0' : c >= ten && c < ten + 6 ? c - ten + 10 : -1;
}

/* One byte of an escaped text; how many characters it took, 0 = it is not as it is written. */
static size_t unescape(const char *s, size_t len, uint8_t *ret)
{
	int hi, lo;

	if (*s != '%') {
		*ret = (uint8_t)*s;
		return is_plain(*ret);
	}
	hi = len < 3 ? -1 : hex_value(s[1], true);
	lo = len < 3 ? -1 : hex_value(s[2], true);
	if (hi < 0 || lo < 0)
		return 0;
	*ret = (uint8_t)(hi << 4 | lo);
	return is_plain(*ret) ? 0 : 3;
}

/* Up to `room` bytes; *ret_len is how many there are. */
static int read_escaped(struct reader *r, const char *key, void *ret, size_t room, size_t *ret_len)
{
	size_t len = 0, n = 0, step;
	const char *s = line(r, key, &len);
	uint8_t *to = ret;

	if (!s)
		return -1;
	for (; len; s += step, len -= step) {
		uint8_t c;

		step = unescape(s, len, &c);
		if (!step)
			return bad(r->err, "a byte that is not as it is written");
		if (n == room)
			return bad(r->err, "a text that is too long");
		to[n++] = c;
	}
	*ret_len = n;
	return 0;
}

static int read_text(struct reader *r, const char *key, char *ret, size_t room)
{
	size_t len = 0;

	if (read_escaped(r, key, ret, room - 1, &len) < 0)
		return -1;
	if (memchr(ret, '\0', len))
		return bad(r->err, "a NUL in a text");
	ret[len] = '\0';
	return 0;
}

static int read_id(struct reader *r, const char *key, uint8_t ret[POOL_ID_SIZE])
{
	size_t len = 0;
	const char *s = line(r, key, &len);
	char text[POOL_ID_TEXT_ROOM], again[POOL_ID_TEXT_ROOM];

	if (!s)
		return -1;
	if (len == 1 && *s == '-')
		return 0;
	if (len == POOL_ID_TEXT_ROOM - 1) {
		memcpy(text, s, len);
		text[len] = '\0';
		if (pool_id_parse(text, ret) && strcmp(pool_id_text(ret, again), text) == 0 && !is_null(ret, POOL_ID_SIZE))
			return 0;
	}
	return bad(r->err, "an id that is none");
}

static int read_root(struct reader *r, struct name_disk *d)
{
	size_t len = 0;
	const char *s = line(r, "root", &len);
	char again[DIGEST_TEXT_ROOM];

	if (!s)
		return -1;
	if (len == 1 && *s == '-')
		return 0;
	d->folded = true;
	if (len == DIGEST_TEXT_ROOM - 1 && digest_parse(s, d->root) && memcmp(digest_text(d->root, again), s, len) == 0)
		return 0;
	return bad(r->err, "a root that is none");
}

/* Of a line that is only there where there is such a number. */
static int read_stated(struct reader *r, const char *key, uint64_t *ret)
{
	if (read_number(r, key, ret) < 0)
		return -1;
	return *ret ? 0 : bad(r->err, "a number that is none");
}

static int read_sum(struct reader *r, const char *key, uint32_t *ret)
{
	size_t len = 0;
	const char *s = line(r, key, &len);
	uint32_t v = 0;

	if (!s)
		return -1;
	for (size_t i = 0; i < len && i < 8; i++) {
		int digit = hex_value(s[i], false);

		if (digit < 0)
			return bad(r->err, "a checksum that is none");
		v = v << 4 | (uint32_t)digit;
	}
	*ret = v;
	return len == 8 ? 0 : bad(r->err, "a checksum that is none");
}

/* What is noted of some. */
static int read_notes(struct reader *r, struct name_disk *d)
{
	if (comes(r, "written") && read_stated(r, "written", &d->written) < 0)
		return -1;
	if (comes(r, "length") && (read_stated(r, "length", &d->length) < 0 || read_sum(r, "l1", &d->l1) < 0))
		return -1;
	if (!comes(r, "expanded"))
		return 0;
	return read_stated(r, "expanded", &d->expanded.inode) < 0 || read_stated(r, "born", &d->expanded.born) < 0 ||
		       read_stated(r, "original", &d->expanded.original) < 0 ? -1 : 0;
}

static int read_disk(struct reader *r, struct name *n)
{
	struct name_disk *d;

	if (n->disks.nr == NAME_DISKS_MAX)
		return bad(r->err, "too many disks");
	if (vec_push(&n->disks, (struct name_disk){ .size = 0 }) < 0)
		return err_set(r->err, ERR_MEMORY, "out of memory");
	d = &n->disks.items[n->disks.nr - 1];
	if (read_text(r, "disk", d->path, sizeof(d->path)) < 0 || read_number(r, "size", &d->size) < 0 || read_root(r, d) < 0)
		return -1;
	if (read_id(r, "view", d->view) < 0 || read_id(r, "sealed", d->sealed) < 0 || read_id(r, "below", d->below) < 0)
		return -1;
	if (read_number(r, "inode", &d->inode) < 0)
		return -1;
	return read_notes(r, d);
}

static int read_file(struct reader *r, struct name *n)
{
	const char *newline = memchr(r->p, '\n', (size_t)(r->end - r->p));
	const char *next = newline ? memchr(newline + 1, '\n', (size_t)(r->end - newline - 1)) : NULL;
	struct name_file f = { .len = 0 };
	size_t room = next ? (size_t)(next - newline) : 0, len = 0;

	if (n->files.nr == NAME_FILES_MAX)
		return bad(r->err, "too many files");
	if (read_text(r, "file", f.path, sizeof(f.path)) < 0)
		return -1;
	f.len = (uint32_t)(room > NAME_FILE_MAX ? NAME_FILE_MAX : room);
	if (add_file(n, &f, r->err) < 0)
		return -1;
	if (read_escaped(r, "bytes", n->files.items[n->files.nr - 1].bytes, f.len, &len) < 0)
		return -1;
	n->files.items[n->files.nr - 1].len = (uint32_t)len;
	return 0;
}

static int read_kind(struct reader *r, enum name_kind *ret)
{
	size_t len = 0;
	const char *s = line(r, "kind", &len);

	if (!s)
		return -1;
	*ret = len == 6 && memcmp(s, "member", 6) == 0 ? NAME_MEMBER : len == 7 && memcmp(s, "version", 7) == 0 ? NAME_VERSION : 0;
	return *ret ? 0 : bad(r->err, "neither a member nor a version");
}

static int read_all(struct reader *r, struct name *n)
{
	uint64_t made = 0;

	if (read_kind(r, &n->kind) < 0 || read_number(r, "number", &n->number) < 0 || read_number(r, "made", &made) < 0 ||
	    read_text(r, "label", n->label, sizeof(n->label)) < 0)
		return -1;
	n->made = (int64_t)made; /* check() sees those that are too large */
	while (comes(r, "disk"))
		if (read_disk(r, n) < 0)
			return -1;
	while (comes(r, "file"))
		if (read_file(r, n) < 0)
			return -1;
	return r->p == r->end ? check(n, r->err) : bad(r->err, "a line that does not belong there");
}

/* 0 = none that is known. */
static unsigned version_said(const char *text, size_t len)
{
	char digit = len < TITLE_LEN || text[TITLE_LEN - 1] != '\n' ? '0' : text[TITLE_LEN - 2];

	return digit >= '1' && digit <= '0' + VERSION_MAX ? (unsigned)(digit - '0') : 0;
}

/* The checksum is looked at first: what was cut or damaged is told from what was never a name. */
static int check_ends(const char *text, size_t len, struct err *err)
{
	char crc[CRC_LINE + 1];

	if (len < strlen(TITLE_ANY) || memcmp(text, TITLE_ANY, strlen(TITLE_ANY)) != 0)
		return bad(err, "it begins otherwise");
	if (!version_said(text, len))
		return err_set(err, ERR_UNSUPPORTED, "written by a newer dedupscan");
	if (len < TITLE_LEN + CRC_LINE)
		return bad(err, "it is cut");
	snprintf(crc, sizeof(crc), "crc %08" PRIx32 "\n", crc32c(0, text, len - CRC_LINE));
	return memcmp(text + len - CRC_LINE, crc, CRC_LINE) == 0 ? 0 : bad(err, "its checksum does not match");
}

int name_decode(const char *text, size_t len, struct name *ret, struct err *err)
{
	CLEANUP(name_release) struct name n = { .number = 0 };
	struct reader r = { .p = text + TITLE_LEN, .end = text + len - CRC_LINE, .err = err };

	if (check_ends(text, len, err) < 0)
		return -1;
	if (read_all(&r, &n) < 0)
		return -1;
	if (version_of(&n) != version_said(text, len))
		return bad(err, "its version is not that of its lines");
	*ret = n;
	memset(&n, 0, sizeof(n));
	return 0;
}
