/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/writer.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "compactor/sparse_copy.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"

/* The common head: what is the same for all formats.
 *
 *	put	|dddd0000dddddddd|		d data, 0 zeros, in blocks of 4 KiB of the disk
 *	runs	|dddd    dddddddd|		zeros are skipped, whatever the format
 *	place	 ^       ^   ^			asked for the first byte of each cluster of a run
 *	write	 ^       ^------^		once for clusters that lie one behind the other in the file, too
 *
 * A format says where clusters go and writes its tables; guest bytes are written here alone.  Where clusters are compressed they
 * are gathered whole first, and a format gets those that became smaller; the others take the way above. */

const struct writer_format *const writer_formats[] = {
	&writer_raw,	   &writer_qcow2,	     &writer_qcow2_old,	  &writer_qcow2_zlib, &writer_qcow2_zstd,
	&writer_vmdk,	   &writer_vmdk_flat,	     &writer_vmdk_stream, &writer_vmdk_split, &writer_vmdk_split_flat,
	&writer_vhd,	   &writer_vhd_fixed,	     &writer_vhdx,	  &writer_vhdx_fixed, NULL,
};

const struct writer_format *writer_format_by_name(const char *name)
{
	for (const struct writer_format *const *f = writer_formats; *f; f++)
		if (strcmp((*f)->name, name) == 0)
			return *f;
	return NULL;
}

/* ---- options ---- */

static const struct writer_format *choose_kind(const struct writer_format *format, const char *kind, struct err *err)
{
	if (!kind)
		return format;
	for (const struct writer_format *const *f = writer_formats; *f; f++)
		if (strcmp((*f)->name, format->name) == 0 && (*f)->kind && strcmp((*f)->kind, kind) == 0)
			return *f;
	return err_null(err, ERR_USAGE, "%s images of kind '%s' are not written", format->name, kind);
}

static int choose_cluster_size(struct writer *w, uint64_t size, struct err *err)
{
	const struct writer_format *f = w->format;

	if (size && !f->cluster_max)
		return err_set(err, ERR_USAGE, "%s images%s%s have no clusters or blocks", f->name,
			       f->kind ? " of kind " : "", f->kind ? f->kind : "");
	if (size && (!is_pow2(size) || size < f->cluster_min || size > f->cluster_max))
		return err_set(err, ERR_USAGE,
			       "%llu bytes are no cluster or block of such a %s image: a power of two from %llu to %llu is",
			       (unsigned long long)size, f->name, (unsigned long long)f->cluster_min,
			       (unsigned long long)f->cluster_max);
	w->cluster_size = size;
	return 0;
}

static int choose_size(struct writer *w, uint64_t size, struct err *err)
{
	const struct writer_format *f = w->format;

	if (size == 0 && f->size_min)
		return err_set(err, ERR_UNSUPPORTED, "a %s image cannot have a disk of 0 bytes; raw and qcow2 can", f->name);
	if (size < f->size_min || size > f->size_max)
		return err_set(err, ERR_UNSUPPORTED, "such a %s image cannot have a disk of %llu bytes: %llu are possible", f->name,
			       (unsigned long long)size, (unsigned long long)f->size_max);
	w->size = round_up(size, f->unit);
	return 0;
}

/* ---- runs and clusters ---- */

/* The next run of blocks that are not all zeros: *ret_skip bytes before it, and its length, 0 = there is none.  Blocks end at
 * multiples of `unit`, a power of two. */
static size_t next_run(const uint8_t *p, size_t len, uint64_t at, uint64_t unit, size_t *ret_skip)
{
	size_t end = 0, n;

	*ret_skip = 0;
	while (end < len) {
		n = (size_t)min_u64(unit - (at + end) % unit, len - end);
		if (!sparse_is_zero(p + end, n))
			end += n;
		else if (end == *ret_skip)
			end = *ret_skip += n;
		else
			break;
	}
	return end - *ret_skip;
}

/* Writes a run, all clusters that lie one behind the other in the file at once. */
static int write_run(struct writer *w, const uint8_t *p, size_t len, uint64_t offset, struct err *err)
{
	struct writer_place begin = { .fd = -1 }, next; /* the begin.len bytes before p go to `begin` */

	for (size_t n; len; p += n, offset += n, len -= n) {
		next = (struct writer_place){ .fd = w->fd };
		if (w->format->place(w, offset, &next, err) < 0)
			return -1;
		n = (size_t)min_u64(next.len, len);
		next.len = n;
		if (begin.fd == next.fd && begin.at + begin.len == next.at) {
			begin.len += n;
			continue;
		}
		if (begin.len && file_write(begin.fd, p - begin.len, begin.len, begin.at, err) < 0)
			return -1;
		begin = next;
	}
	return file_write(begin.fd, p - begin.len, begin.len, begin.at, err);
}

static int put_runs(struct writer *w, uint64_t offset, const uint8_t *p, size_t len, struct err *err)
{
	uint64_t unit = w->cluster_size ? min_u64(w->cluster_size, WRITER_ALIGN) : WRITER_ALIGN;
	size_t run, skip;

	while ((run = next_run(p, len, offset, unit, &skip)) > 0) {
		if (write_run(w, p + skip, run, offset + skip, err) < 0)
			return -1;
		p += skip + run;
		len -= skip + run;
		offset += skip + run;
	}
	return 0;
}

/* A file is complete when the next one begins. */
static int put_plain(struct writer *w, uint64_t offset, const uint8_t *p, size_t len, struct err *err)
{
	for (size_t n; len; p += n, offset += n, len -= n) {
		n = w->part_size ? (size_t)min_u64(len, w->part_size - offset % w->part_size) : len;
		if (put_runs(w, offset, p, n, err) < 0)
			return -1;
	}
	return 0;
}

static int take_cluster(void *ctx, uint64_t offset, const void *cluster, const void *packed, size_t len, struct err *err)
{
	struct writer *w = ctx;

	if (len)
		return w->format->add(w, offset, packed, len, err);
	assert(w->format->place);
	return put_plain(w, offset, cluster, (size_t)min_u64(w->cluster_size, w->size - offset), err);
}

/* ---- the writer ---- */

/* Without place() there must be room for what cannot be compressed. */
static int begin_packing(struct writer *w, struct err *err)
{
	size_t size = (size_t)w->cluster_size;
	struct packer_options o = {
		.method = w->format->method, .name = w->name, .cluster_size = size,
		.room = w->format->place ? size - 1 : size + size / 16 + 64, .take = take_cluster, .ctx = w,
	};

	w->packer = packer_new(&o, err);
	return w->packer ? 0 : -1;
}

struct writer *writer_new(const struct writer_format *format, int fd, const char *name, uint64_t size,
			  const struct writer_options *o, struct err *err)
{
	CLEANUP(writer_free) struct writer *w = NULL;

	format = choose_kind(format, o ? o->kind : NULL, err);
	if (!format)
		return NULL;
	w = calloc(1, format->instance);
	if (!w)
		return err_null(err, ERR_MEMORY, "no memory for a writer of %s images", format->name);
	w->format = format;
	w->fd = fd;
	w->create = o ? o->create : NULL;
	w->ctx = o ? o->ctx : NULL;
	snprintf(w->name, sizeof(w->name), "%s", name);
	if (choose_size(w, size, err) < 0 || choose_cluster_size(w, o ? o->cluster_size : 0, err) < 0)
		return NULL;
	if (format->begin(w, err) < 0 || (format->method && begin_packing(w, err) < 0))
		return NULL;
	return STEAL(w);
}

void writer_free(struct writer *w)
{
	if (!w)
		return;
	if (w->format->release)
		w->format->release(w);
	packer_free(w->packer);
	free(w);
}

int writer_put(struct writer *w, uint64_t offset, const void *buf, size_t len, struct err *err)
{
	assert(offset % WRITER_SECTOR == 0 && len % WRITER_SECTOR == 0 && offset >= w->next);
	assert(range_within(offset, len, round_up(w->size, WRITER_SECTOR)));
	w->next = offset + len;
	len = (size_t)min_u64(len, w->size - min_u64(offset, w->size));
	return w->packer ? packer_put(w->packer, offset, buf, len, err) : put_plain(w, offset, buf, len, err);
}

int writer_end(struct writer *w, struct err *err)
{
	if (w->packer && packer_flush(w->packer, err) < 0)
		return -1;
	if (w->format->end(w, err) < 0)
		return -1;
	return file_truncate(w->fd, w->file_end, err);
}

/* ---- for the formats ---- */

int writer_write_table(int fd, const void *table, size_t len, uint64_t at, struct err *err)
{
	const uint8_t *p = table;
	size_t run, skip;

	while ((run = next_run(p, len, at, WRITER_ALIGN, &skip)) > 0) {
		if (file_write(fd, p + skip, run, at + skip, err) < 0)
			return -1;
		p += skip + run;
		len -= skip + run;
		at += skip + run;
	}
	return 0;
}

/* Version 4 of RFC 9562. */
int writer_make_guid(uint8_t ret[16], bool little, struct err *err)
{
	uint8_t *version = &ret[little ? 7 : 6];

	if (getrandom(ret, 16, 0) != 16)
		return err_errno(err, "no random bytes can be had");
	*version = (*version & 0x0f) | 0x40;
	ret[8] = (ret[8] & 0x3f) | 0x80;
	return 0;
}
