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
 * A format says where clusters go and writes its tables; guest bytes are written here alone. */

const struct writer_format *const writer_formats[] = { &writer_raw, &writer_qcow2, &writer_vmdk, &writer_vhd, &writer_vhdx, NULL };

const struct writer_format *writer_format_by_name(const char *name)
{
	for (const struct writer_format *const *f = writer_formats; *f; f++)
		if (strcmp((*f)->name, name) == 0)
			return *f;
	return NULL;
}

/* ---- options ---- */

static int choose_kind(struct writer *w, const char *kind, struct err *err)
{
	const char *const *kinds = w->format->kinds;

	if (!kind)
		return 0;
	for (w->kind = 0; kinds && kinds[w->kind]; w->kind++)
		if (strcmp(kinds[w->kind], kind) == 0)
			return 0;
	return err_set(err, ERR_UNSUPPORTED, "%s images of kind '%s' are not written", w->format->name, kind);
}

static int choose_cluster_size(struct writer *w, uint64_t size, struct err *err)
{
	const struct writer_format *f = w->format;

	if (size && !f->cluster_max)
		return err_set(err, ERR_UNSUPPORTED, "%s images have no clusters or blocks", f->name);
	if (size && (!is_pow2(size) || size < f->cluster_min || size > f->cluster_max))
		return err_set(err, ERR_UNSUPPORTED,
			       "%llu bytes are no cluster or block of a %s image: a power of two from %llu to %llu is",
			       (unsigned long long)size, f->name, (unsigned long long)f->cluster_min,
			       (unsigned long long)f->cluster_max);
	w->cluster_size = size;
	return 0;
}

static int choose_size(struct writer *w, uint64_t size, struct err *err)
{
	const struct writer_format *f = w->format;

	if (size < f->size_min || size > f->size_max)
		return err_set(err, ERR_UNSUPPORTED, "a %s image cannot have a disk of %llu bytes: %llu to %llu are possible",
			       f->name, (unsigned long long)size, (unsigned long long)f->size_min,
			       (unsigned long long)f->size_max);
	w->size = round_up(size, f->unit);
	return 0;
}

/* ---- the writer ---- */

struct writer *writer_new(const struct writer_format *format, int fd, const char *name, uint64_t size,
			  const struct writer_options *o, struct err *err)
{
	CLEANUP(writer_free) struct writer *w = calloc(1, format->instance);

	if (!w)
		return err_null(err, ERR_MEMORY, "no memory for a writer of %s images", format->name);
	w->format = format;
	w->fd = fd;
	snprintf(w->name, sizeof(w->name), "%s", name);
	if (choose_size(w, size, err) < 0 || choose_kind(w, o ? o->kind : NULL, err) < 0 ||
	    choose_cluster_size(w, o ? o->cluster_size : 0, err) < 0)
		return NULL;
	return format->begin(w, err) < 0 ? NULL : STEAL(w);
}

void writer_free(struct writer *w)
{
	if (!w)
		return;
	if (w->format->release)
		w->format->release(w);
	free(w);
}

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
	uint64_t begin = 0, at, n; /* the `gathered` bytes before p go to `begin` */
	size_t gathered = 0;

	while (len) {
		if (w->format->place(w, offset, &at, &n, err) < 0)
			return -1;
		if (gathered && at != begin + gathered) {
			if (file_write(w->fd, p - gathered, gathered, begin, err) < 0)
				return -1;
			gathered = 0;
		}
		if (!gathered)
			begin = at;
		n = min_u64(n, len);
		gathered += n;
		p += n;
		offset += n;
		len -= n;
	}
	return file_write(w->fd, p - gathered, gathered, begin, err);
}

int writer_put(struct writer *w, uint64_t offset, const void *buf, size_t len, struct err *err)
{
	uint64_t unit = w->cluster_size ? min_u64(w->cluster_size, WRITER_ALIGN) : WRITER_ALIGN;
	const uint8_t *p = buf;
	size_t run, skip;

	assert(offset % WRITER_SECTOR == 0 && len % WRITER_SECTOR == 0 && offset >= w->next);
	assert(range_within(offset, len, round_up(w->size, WRITER_SECTOR)));
	w->next = offset + len;
	len = (size_t)min_u64(len, w->size - min_u64(offset, w->size));
	while ((run = next_run(p, len, offset, unit, &skip)) > 0) {
		if (write_run(w, p + skip, run, offset + skip, err) < 0)
			return -1;
		p += skip + run;
		len -= skip + run;
		offset += skip + run;
	}
	return 0;
}

int writer_end(struct writer *w, struct err *err)
{
	if (w->format->end(w, err) < 0)
		return -1;
	return file_truncate(w->fd, w->file_end, err);
}

/* ---- for the formats ---- */

int writer_write_table(struct writer *w, const void *table, size_t len, uint64_t at, struct err *err)
{
	const uint8_t *p = table;
	size_t run, skip;

	while ((run = next_run(p, len, at, WRITER_ALIGN, &skip)) > 0) {
		if (file_write(w->fd, p + skip, run, at + skip, err) < 0)
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
