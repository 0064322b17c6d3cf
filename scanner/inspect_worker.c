/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/errand.h"
#include "scanner/inspect.h"

/* The process that looks at one image.  It runs in a jail: files come from its parent, what it finds goes into the
 * memory that they share.
 *
 * Extents are gathered into runs, because readers end them where it suits them:
 *
 *	extents	|####|####|....|####|		run	|#########|....|####|
 */

struct look {
	struct errand_side side;
	struct inspection *i;
	struct extent run; /* what is being gathered; no length: nothing */
};

void inspect_add_problem(struct inspection *i, enum inspect_problem_kind kind, const struct err *why)
{
	struct inspect_problem *p = &i->problems[i->nr_problems];

	if (i->nr_problems == INSPECT_PROBLEMS_MAX)
		return;
	i->nr_problems++;
	p->kind = kind;
	p->err_kind = why->kind;
	memcpy(p->text, why->text, sizeof(p->text));
}

static void add_problem(struct look *l, enum inspect_problem_kind kind, const char *text)
{
	struct err why = ERR_INIT;

	err_set(&why, ERR_FORMAT, "%s", text);
	inspect_add_problem(l->i, kind, &why);
}

/* ---- extents ---- */

static enum inspect_extent kind_of(const struct extent *e)
{
	switch (e->kind) {
	case EXTENT_DATA:
		return INSPECT_DATA;
	case EXTENT_PACKED:
		return INSPECT_PACKED;
	case EXTENT_ZERO:
		return e->preallocated ? INSPECT_PREALLOCATED : INSPECT_ZERO;
	case EXTENT_HOLE:
		break;
	}
	return INSPECT_HOLE;
}

static void count_alignment(struct inspection *i, uint64_t offset, uint64_t file_offset, uint64_t len)
{
	uint64_t shift = file_offset - offset; /* modulo 2^64, which any alignment divides */
	uint64_t first = round_up(offset, 4 * KIB), end = round_down(offset + len, 4 * KIB);

	for (unsigned n = 0; n < INSPECT_ALIGNMENTS; n++)
		if (shift % INSPECT_ALIGNMENT(n) == 0)
			i->aligned[n] += len;
	if (shift % (4 * KIB) == 0 && end > first)
		i->aligned_blocks += end - first;
}

static void end_run(struct look *l, const struct image *img)
{
	struct inspect_count *c = &l->i->extents[kind_of(&l->run)];

	if (!l->run.len)
		return;
	c->nr++;
	c->bytes += l->run.len;
	if (l->run.kind == EXTENT_DATA)
		count_alignment(l->i, l->run.offset % img->layer, l->run.file_offset, l->run.len);
	l->run.len = 0;
}

static bool goes_on(const struct extent *run, const struct extent *next)
{
	if (!run->len || kind_of(run) != kind_of(next))
		return false;
	return run->kind != EXTENT_DATA ||
	       (run->file == next->file && run->file_offset + run->len == next->file_offset);
}

static void walk(struct look *l, struct image *img)
{
	struct err err = ERR_INIT;
	struct extent ext;
	uint64_t at = 0;

	for (; at < img->span; at = ext.offset + ext.len) {
		if (image_next_extent(img, at, &ext, &err) < 0) {
			err_add(&err, "from offset %llu on", (unsigned long long)at);
			inspect_add_problem(l->i, INSPECT_UNREAD, &err);
			break;
		}
		if (at % img->layer == 0 || !goes_on(&l->run, &ext)) {
			end_run(l, img);
			l->run = ext;
		} else {
			l->run.len += ext.len;
		}
	}
	end_run(l, img);
	l->i->walked = at;
}

/* ---- what it says of itself ---- */

static uint64_t used_of(int fd)
{
	struct stat st;

	return file_stat(fd, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
}

static void take_info(struct inspection *i, const struct image *img)
{
	const struct image_info *info = &img->info;

	i->opened = 1;
	i->virtual_size = max_u64(img->size, info->total_size);
	i->span = img->span;
	i->file_size = img->file.size;
	i->file_used = used_of(img->file.fd);
	i->version = info->version;
	i->cluster_size = info->cluster_size;
	i->encrypted = info->encrypted;
	i->compressed = info->compressed;
	i->dirty = info->dirty;
	i->corrupt = info->corrupt;
	snprintf(i->kind, sizeof(i->kind), "%s", info->kind);
	snprintf(i->id, sizeof(i->id), "%s", info->id);
	snprintf(i->backing_id, sizeof(i->backing_id), "%s", info->backing_id);
	snprintf(i->backing_name, sizeof(i->backing_name), "%s", info->backing_name);
	snprintf(i->backing_format, sizeof(i->backing_format), "%s", info->backing_format);
	snprintf(i->features, sizeof(i->features), "%s", info->features);
}

static void take_parts(struct inspection *i, const struct image *img)
{
	i->nr_parts = img->nr_parts;
	for (unsigned n = 0; n < img->nr_parts; n++) {
		const struct image_file *f = img->parts[n];
		uint64_t used = used_of(f->fd);

		i->parts_size += f->size;
		i->parts_used += used;
		if (n == INSPECT_PARTS_MAX)
			continue;
		i->parts_listed++;
		i->parts[n].file_size = f->size;
		i->parts[n].file_used = used;
		snprintf(i->parts[n].path, sizeof(i->parts[n].path), "%s", f->path);
	}
}

static void take_snapshots(struct look *l, struct image *img)
{
	struct inspection *i = l->i;
	struct err err = ERR_INIT;
	uint64_t at = 0;

	i->nr_snapshots = img->info.nr_snapshots;
	while (img->format->next_snapshot && i->snapshots_listed < min_u64(i->nr_snapshots, INSPECT_SNAPSHOTS_MAX)) {
		if (img->format->next_snapshot(img, &at, &i->snapshots[i->snapshots_listed], &err) < 0) {
			err_add(&err, "snapshot %u", i->snapshots_listed + 1);
			inspect_add_problem(i, INSPECT_EXTRAS, &err);
			return;
		}
		i->snapshots_listed++;
	}
}

static void take_bitmaps(struct look *l, struct image *img)
{
	struct inspection *i = l->i;
	struct err err = ERR_INIT;
	uint64_t at = 0;

	i->nr_bitmaps = img->info.nr_bitmaps;
	while (img->format->next_bitmap && i->bitmaps_listed < min_u64(i->nr_bitmaps, INSPECT_BITMAPS_MAX)) {
		if (img->format->next_bitmap(img, &at, &i->bitmaps[i->bitmaps_listed], &err) < 0) {
			err_add(&err, "bitmap %u", i->bitmaps_listed + 1);
			inspect_add_problem(i, INSPECT_EXTRAS, &err);
			return;
		}
		i->bitmaps_listed++;
	}
}

/* ---- the chain ---- */

static struct inspect_member *add_member(struct inspection *i, const char *path)
{
	struct inspect_member *m = &i->members[i->nr_members++];

	snprintf(m->path, sizeof(m->path), "%s", path);
	return m;
}

static void take_member(struct inspection *i, const struct image *overlay, const struct image *img)
{
	struct inspect_member *m = add_member(i, img->file.path);

	m->version = img->info.version;
	m->format_stated = overlay->info.backing_format[0] != '\0';
	m->virtual_size = img->size;
	m->file_size = img->file.size;
	m->file_used = used_of(img->file.fd);
	snprintf(m->format, sizeof(m->format), "%s", img->format->name);
	snprintf(m->kind, sizeof(m->kind), "%s", img->info.kind);
	snprintf(m->id, sizeof(m->id), "%s", img->info.id);
	for (unsigned n = 0; n < img->nr_parts; n++) {
		m->file_size += img->parts[n]->size;
		m->file_used += used_of(img->parts[n]->fd);
	}
}

static void take_chain(struct look *l, struct image *img, const struct image_opener *opener)
{
	struct inspection *i = l->i;
	struct err err = ERR_INIT;
	int rc = image_open_chain(img, opener, &err);
	const struct image *last = img;

	for (; last->backing && i->nr_members < IMAGE_CHAIN_MAX; last = last->backing)
		take_member(i, last, last->backing);
	if (rc == 0)
		return;
	inspect_add_problem(i, INSPECT_CHAIN, &err);
	if (i->nr_members < IMAGE_CHAIN_MAX) {
		const char *name = last->info.backing_name;
		struct inspect_member *m = add_member(i, name[0] ? name : last->info.backing_id);

		memcpy(m->error, err.text, sizeof(m->error));
	}
}

/* ---- one image ---- */

static void take_doubts(struct look *l)
{
	struct inspection *i = l->i;

	if (i->dirty)
		add_problem(l, INSPECT_DIRTY, "the image was not closed properly, or is in use");
	if (i->corrupt)
		add_problem(l, INSPECT_CORRUPT, "the image is marked corrupt by whoever wrote it last");
}

static int choose(struct look *l, const struct worker_job *job, int fd, struct image_choice *ret, struct err *err)
{
	struct image_file file = { .fd = fd, .path = (char *)(uintptr_t)job->path };

	*ret = (struct image_choice){ .format = image_format_by_name(job->format), .certainty = IMAGE_TOLD };
	if (!ret->format && (image_file_size(fd, &file.size, err) < 0 || image_choose(&file, ret, err) < 0))
		return -1;
	snprintf(l->i->format, sizeof(l->i->format), "%s", ret->format->name);
	l->i->certainty = ret->certainty;
	if (ret->doubt[0])
		add_problem(l, INSPECT_DOUBT, ret->doubt);
	return 0;
}

static void look_at(struct look *l)
{
	const struct worker_job *job = &l->side.job;
	int fd = STEAL_FD(l->side.fd);
	CLEANUP(image_close) struct image *img = NULL;
	struct image_choice choice;
	struct err err = ERR_INIT;

	if (choose(l, job, fd, &choice, &err) < 0)
		file_close(fd, job->path, NULL);
	else
		img = image_open(fd, job->path, choice.format, &l->side.opener, NULL, &err);
	if (!img) {
		inspect_add_problem(l->i, INSPECT_UNREAD, &err);
		return;
	}
	take_info(l->i, img);
	take_doubts(l);
	take_parts(l->i, img);
	take_chain(l, img, &l->side.opener);
	take_snapshots(l, img);
	take_bitmaps(l, img);
	walk(l, img);
}

int inspect_run(int sock, void *shared, void *arg)
{
	struct look l = { .i = shared };

	(void)arg;
	if (errand_begin(&l.side, sock, false) < 0)
		return 1;
	look_at(&l);
	return errand_end(&l.side, NULL);
}
