/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/pool/seal_notes.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>

#include "compactor/pool/view.h"
#include "scanner/base/checked.h"
#include "scanner/base/crc32c.h"
#include "scanner/base/file.h"
#include "scanner/image/qcow2_format.h"

/* The checksum is of some fields of the header, and of the L1 table behind them.  What the backing file is called, and where in the
 * header, is not in it: that is written anew when a pool was moved (overlay_repoint()), and changes nothing else, nor the
 * length. */

#define PIECE ((size_t)64 << 10)

/* ---- when it was written to ---- */

uint64_t seal_time_of(const struct stat *st)
{
	return (uint64_t)st->st_mtim.tv_sec * 1000000000u + (uint64_t)st->st_mtim.tv_nsec;
}

/* A copy may have whole seconds only. */
static bool was_written(const struct stat *st, const struct name_disk *d)
{
	uint64_t now = seal_time_of(st);

	return now != d->written && now != d->written / 1000000000u * 1000000000u;
}

bool seal_was_written(const struct pool *p, const struct name_disk *d)
{
	char name[POOL_FILE_NAME_ROOM];
	struct stat st;

	return d->written &&
	       file_ops->fstatat(p->dirs[POOL_SEALED], pool_id_file_name(d->sealed, name), &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	       was_written(&st, d);
}

/* ---- what leads to its tables ---- */

struct shape {
	be32 version, cluster_bits;
	be64 size;
	be32 l1_size;
	be64 l1_offset, incompatible;
};
static_assert(sizeof(struct shape) == 36, "fields of a header");

struct tables {
	uint32_t sum;
	uint64_t end; /* of the last L2 table; UINT64_MAX = one lies where none can */
};

static uint32_t sum_of_shape(const struct qcow2_header *h)
{
	struct shape s = {
		.version = be32_from(h->version),
		.cluster_bits = be32_from(h->cluster_bits),
		.size = be64_from(h->size),
		.l1_size = be32_from(h->l1_size),
		.l1_offset = be64_from(h->l1_offset),
		.incompatible = be64_from(h->incompatible),
	};

	return crc32c(0, &s, sizeof(s));
}

static void take_entries(const struct qcow2_header *h, const be64 *entries, size_t nr, struct tables *t)
{
	uint64_t size = (uint64_t)1 << h->cluster_bits;

	for (size_t i = 0; i < nr; i++) {
		uint64_t offset = be64_get(entries[i]) & QCOW2_OFFSET_MASK;

		if (offset)
			t->end = max_u64(t->end, offset % size ? UINT64_MAX : offset + size);
	}
	t->sum = crc32c(t->sum, entries, nr * sizeof(*entries));
}

static int read_tables(int fd, struct tables *ret, struct err *err)
{
	CLEANUP(free) be64 *entries = malloc(PIECE);
	struct tables t = { .end = 0 };
	struct qcow2_header h;

	if (!entries)
		return err_set(err, ERR_MEMORY, "no memory for an L1 table");
	if (overlay_header(fd, &h, err) < 0)
		return -1;
	t.sum = sum_of_shape(&h);
	for (uint64_t at = 0, bytes = (uint64_t)h.l1_size * 8; at < bytes; at += PIECE) {
		size_t n = (size_t)min_u64(bytes - at, PIECE);

		if (file_read(fd, entries, n, h.l1_offset + at, err) < 0)
			return err_add(err, "L1 table");
		take_entries(&h, entries, n / 8, &t);
	}
	*ret = t;
	return 0;
}

/* ---- notes ---- */

int seal_describe(int fd, const struct stat *st, struct name_disk *d, struct err *err)
{
	struct tables t;

	seal_forget(d);
	d->written = seal_time_of(st);
	if (read_tables(fd, &t, err) < 0)
		return -1;
	d->length = (uint64_t)st->st_size;
	d->l1 = t.sum;
	return 0;
}

void seal_forget(struct name_disk *d)
{
	d->written = d->length = 0;
	d->l1 = 0;
}

/* `same`: nobody wrote to it, as is noted. */
static int check_length(const struct stat *st, const struct name_disk *d, bool same, struct err *err)
{
	uint64_t length = (uint64_t)st->st_size;

	if (same ? length == d->length : length >= d->length)
		return 0;
	return err_set(err, ERR_FORMAT, "its file has %llu bytes, and had %llu when it was sealed", (unsigned long long)length,
		       (unsigned long long)d->length);
}

static bool is_same(const struct stat *st, const struct name_disk *d)
{
	return d->length && d->written && !was_written(st, d);
}

/* What is read is judged by what fstat() says after that: a file that somebody writes to has its new time and length before it has
 * what leads there. */
int seal_check(int fd, const struct name_disk *d, struct err *err)
{
	struct err why = ERR_INIT;
	struct tables t;
	struct stat st;
	int rc = read_tables(fd, &t, &why);
	bool same;

	if (file_ops->fstat(fd, &st) < 0)
		return err_errno(err, "cannot stat it");
	same = is_same(&st, d);
	if (check_length(&st, d, same, err) < 0)
		return -1;
	if (rc < 0)
		return err_set(err, why.kind == ERR_MEMORY ? ERR_MEMORY : ERR_FORMAT, "what leads to its data cannot be read: %s",
			       why.text);
	if (t.end > (uint64_t)st.st_size)
		return err_set(err, ERR_FORMAT, "its L1 table leads behind the end of its file, or between clusters");
	if (same && t.sum != d->l1)
		return err_set(err, ERR_FORMAT, "its header or its L1 table is not what it was when it was sealed");
	return 0;
}

static int check_unread(const struct pool *p, const char *name, const struct name_disk *d, struct err *err)
{
	struct stat st;

	if (file_ops->fstatat(p->dirs[POOL_SEALED], name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return err_errno(err, "cannot look at it");
	return check_length(&st, d, is_same(&st, d), err);
}

int seal_check_in(const struct pool *p, const struct name_disk *d, struct err *err)
{
	char name[POOL_FILE_NAME_ROOM];
	struct err why = ERR_INIT;
	int fd = file_open_beneath(p->dirs[POOL_SEALED], pool_id_file_name(d->sealed, name), O_RDONLY | O_NOFOLLOW | O_NONBLOCK,
				   RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV, &why), rc;

	if (fd < 0 && why.errnum == ENOENT)
		return err_set(err, ERR_FORMAT, "'%s' is missing", name);
	if (fd >= 0) {
		rc = seal_check(fd, d, err);
		file_ops->close(fd);
	} else if (why.errnum == EACCES || why.errnum == EPERM || why.errnum == EAGAIN) {
		rc = check_unread(p, name, d, err);
	} else {
		rc = err_set(err, why.kind, "%s", why.text);
	}
	return rc < 0 ? err_add(err, "'%s'", name) : 0;
}
