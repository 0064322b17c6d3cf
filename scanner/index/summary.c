/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/index/summary.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "scanner/base/bytes.h"
#include "scanner/base/varint.h"
#include "scanner/index/checksum.h"

/*
 *	header, 16 bytes | page | page | ...
 *
 * A page is {length of its content, checksum, content}.  Its content is runs, each four or five varints:
 *
 *	gap << 1 | other image      blocks since the end of the run before; 1 = another image than that run's
 *	[image]                     only with 1
 *	len
 *	origin image
 *	origin block, as a zigzag distance from the end of the run before's originals
 *
 * Every page begins as if the run before it were all zeros, so each decodes by itself.  An empty page is the end.
 */

#define SUMMARY_VERSION 1u
#define CONTENT_MAX 65536u
#define RUN_MAX (5 * VARINT_MAX)

struct summary_header {
	uint8_t magic[8]; /* "DDSUMRY\n" */
	le32 version, reserved;
};

struct page_header {
	le32 len, checksum;
};

static uint64_t zigzag(uint64_t to, uint64_t from)
{
	int64_t d = (int64_t)(to - from);

	return ((uint64_t)d << 1) ^ (uint64_t)(d >> 63);
}

static uint64_t unzigzag(uint64_t v, uint64_t from)
{
	return from + ((v >> 1) ^ -(v & 1));
}

struct summary_writer {
	int dirfd;
	char name[32], tmp[40];
	struct file_writer out;
	uint64_t page; /* number, the seed of its checksum */
	struct summary_run last;
	size_t used;
	uint8_t content[CONTENT_MAX];
};

struct summary_writer *summary_new(int dirfd, const char *name, struct err *err)
{
	CLEANUP(free) struct summary_writer *w = calloc(1, sizeof(*w));
	struct summary_header h = { .magic = "DDSUMRY", .version = le32_from(SUMMARY_VERSION) };

	if (!w)
		return err_null(err, ERR_MEMORY, "no memory for a summary");
	h.magic[7] = '\n';
	w->dirfd = dirfd;
	snprintf(w->name, sizeof(w->name), "%s", name);
	snprintf(w->tmp, sizeof(w->tmp), "%s.tmp", w->name);
	if (file_writer_open(&w->out, dirfd, w->tmp, 2 * CONTENT_MAX, err) < 0)
		return NULL;
	if (file_writer_append(&w->out, &h, sizeof(h), err) < 0) {
		file_writer_release(&w->out);
		return NULL;
	}
	return STEAL(w);
}

static int put_page(struct summary_writer *w, struct err *err)
{
	struct page_header h = { .len = le32_from((uint32_t)w->used),
				 .checksum = le32_from(checksum32(w->content, w->used, w->page++)) };

	if (file_writer_append(&w->out, &h, sizeof(h), err) < 0 || file_writer_append(&w->out, w->content, w->used, err) < 0)
		return -1;
	w->used = 0;
	w->last = (struct summary_run){ 0 };
	return 0;
}

int summary_add(struct summary_writer *w, const struct summary_run *run, struct err *err)
{
	bool other;
	uint8_t *p;

	if (w->used + RUN_MAX > CONTENT_MAX && put_page(w, err) < 0)
		return -1;
	other = run->image != w->last.image;
	p = w->content + w->used;
	p = varint_put(p, (run->block - (other ? 0 : w->last.block + w->last.len)) << 1 | other);
	if (other)
		p = varint_put(p, (uint64_t)run->image);
	p = varint_put(p, run->len);
	p = varint_put(p, (uint64_t)run->origin_image);
	p = varint_put(p, zigzag(run->origin_block, w->last.origin_block + w->last.len));
	w->used = (size_t)(p - w->content);
	w->last = *run;
	return 0;
}

int summary_commit(struct summary_writer *w, struct err *err)
{
	int rc = w->used ? put_page(w, err) : 0;

	if (rc == 0)
		rc = put_page(w, err); /* the empty one */
	if (rc == 0)
		rc = file_writer_close(&w->out, 1, err);
	if (rc == 0)
		rc = file_rename(w->dirfd, w->tmp, w->name, err);
	if (rc == 0)
		rc = file_sync_dir(w->dirfd, err);
	summary_free(w);
	return rc;
}

void summary_free(struct summary_writer *w)
{
	if (!w)
		return;
	file_writer_release(&w->out);
	file_unlink(w->dirfd, w->tmp, NULL);
	free(w);
}

struct summary {
	int fd;
	uint64_t offset, page;
	bool ended;
	struct summary_run last;
	const uint8_t *at, *end;
	uint8_t content[CONTENT_MAX];
};

struct summary *summary_open(int dirfd, const char *name, struct err *err)
{
	CLEANUP(summary_close) struct summary *s = malloc(sizeof(*s));
	struct summary_header h;

	if (!s)
		return err_null(err, ERR_MEMORY, "no memory for a summary");
	s->offset = sizeof(h);
	s->page = 0;
	s->ended = false;
	s->at = s->end = s->content;
	s->last = (struct summary_run){ 0 };
	s->fd = file_open(dirfd, name, O_RDONLY, 0, err);
	if (s->fd < 0 || file_read(s->fd, &h, sizeof(h), 0, err) < 0)
		return NULL;
	if (memcmp(h.magic, "DDSUMRY\n", 8) != 0)
		return err_null(err, ERR_FORMAT, "'%s' is not a duplicate summary", name);
	if (le32_get(h.version) > SUMMARY_VERSION)
		return err_null(err, ERR_UNSUPPORTED, "'%s' was written by a newer dedupscan", name);
	return STEAL(s);
}

static int next_page(struct summary *s, struct err *err)
{
	struct page_header h;
	uint32_t len;

	if (file_read(s->fd, &h, sizeof(h), s->offset, err) < 0)
		return -1;
	len = le32_get(h.len);
	if (len > CONTENT_MAX)
		return err_set(err, ERR_FORMAT, "page %llu of the summary is damaged", (unsigned long long)s->page);
	if (file_read(s->fd, s->content, len, s->offset + sizeof(h), err) < 0)
		return -1;
	if (checksum32(s->content, len, s->page) != le32_get(h.checksum))
		return err_set(err, ERR_FORMAT, "page %llu of the summary is damaged", (unsigned long long)s->page);
	s->offset += sizeof(h) + len;
	s->page++;
	s->at = s->content;
	s->end = s->content + len;
	s->last = (struct summary_run){ 0 };
	s->ended = len == 0;
	return 0;
}

static const uint8_t *get_run(struct summary *s, struct summary_run *run)
{
	const uint8_t *p = s->at;
	uint64_t gap, image = (uint64_t)s->last.image, origin_image, distance;

	if (!(p = varint_get(p, s->end, &gap)))
		return NULL;
	if ((gap & 1) && !(p = varint_get(p, s->end, &image)))
		return NULL;
	if (!(p = varint_get(p, s->end, &run->len)) || !(p = varint_get(p, s->end, &origin_image)) ||
	    !(p = varint_get(p, s->end, &distance)))
		return NULL;
	run->image = (int64_t)image;
	run->block = (gap >> 1) + (gap & 1 ? 0 : s->last.block + s->last.len);
	run->origin_image = (int64_t)origin_image;
	run->origin_block = unzigzag(distance, s->last.origin_block + s->last.len);
	return p;
}

/* Block numbers have 40 bits (image.h). */
static bool run_is_possible(const struct summary_run *r, const struct summary_run *last)
{
	const uint64_t max = (uint64_t)1 << 40;

	return r->image > 0 && r->origin_image > 0 && r->len && r->len <= max && r->block <= max - r->len &&
	       r->origin_block <= max - r->len && (r->image != last->image || r->block >= last->block + last->len);
}

int summary_next(struct summary *s, struct summary_run *ret, struct err *err)
{
	struct summary_run run;
	const uint8_t *at;

	if (s->at == s->end && !s->ended && next_page(s, err) < 0)
		return -1;
	if (s->ended)
		return 0;
	at = get_run(s, &run);
	if (!at || !run_is_possible(&run, &s->last))
		return err_set(err, ERR_FORMAT, "page %llu of the summary is damaged", (unsigned long long)s->page - 1);
	s->at = at;
	s->last = *ret = run;
	return 1;
}

void summary_close(struct summary *s)
{
	if (!s)
		return;
	if (s->fd >= 0)
		file_close(s->fd, "summary", NULL);
	free(s);
}
