/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "compactor/mapper.h"
#include "scanner/base/block.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/base/proc.h"
#include "scanner/image/slice.h"

/* The process that walks an image.  Stretches are gathered in the shared memory; when that is full the parent is told and
 * waited for. */

struct walk {
	struct errand_side side;
	struct mapper_shared *shared;
	struct mapped run; /* being gathered; no length: nothing */
};

static int flush(struct walk *w, struct err *err)
{
	ssize_t n;
	int fd = -1;

	if (!w->shared->nr)
		return 0;
	*w->side.m = (struct worker_message){ .kind = WORKER_FRAME };
	if (worker_send(w->side.sock, w->side.m, -1, err) < 0)
		return -1;
	n = proc_recv(w->side.sock, w->side.m, sizeof(*w->side.m), &fd, err);
	if (n <= 0 || w->side.m->kind != WORKER_FREE)
		return n < 0 ? -1 : err_set(err, ERR_STALE, "the parent is gone");
	w->shared->nr = 0;
	return 0;
}

static int end_run(struct walk *w, struct err *err)
{
	if (!w->run.len)
		return 0;
	w->shared->items[w->shared->nr++] = w->run;
	w->run.len = 0;
	return w->shared->nr == MAPPER_AT_ONCE ? flush(w, err) : 0;
}

static int add(struct walk *w, const struct mapped *m, struct err *err)
{
	struct mapped *r = &w->run;

	if (r->len && r->address + r->len == m->address && r->offset + r->len == m->offset && r->dev == m->dev &&
	    r->ino == m->ino) {
		r->len += m->len;
		return 0;
	}
	if (end_run(w, err) < 0)
		return -1;
	*r = *m;
	return 0;
}

/* Whole blocks of data only. */
static int take_extent(struct walk *w, const struct extent *e, struct err *err)
{
	uint64_t begin = round_up(e->offset, BLOCK_SIZE), end = round_down(e->offset + e->len, BLOCK_SIZE);
	struct mapped m;

	if (e->kind == EXTENT_HOLE || e->kind == EXTENT_ZERO)
		return 0;
	if (e->kind == EXTENT_PACKED) {
		w->shared->image.packed += e->len;
		return 0;
	}
	if ((e->file_offset - e->offset) % BLOCK_SIZE)
		w->shared->image.misaligned += e->len;
	if (begin >= end)
		return 0;
	m = (struct mapped){
		.address = begin, .len = end - begin, .offset = e->file_offset + (begin - e->offset),
		.dev = e->file->dev, .ino = e->file->ino,
	};
	return add(w, &m, err);
}

/* What cannot be told counts as yes. */
static bool has_vm_state(struct image *img)
{
	struct image_snapshot s;
	uint64_t at = 0;

	for (unsigned n = 0; n < img->info.nr_snapshots; n++)
		if (!img->format->next_snapshot || img->format->next_snapshot(img, &at, &s, NULL) < 0 || s.vm_state_size)
			return true;
	return false;
}

static void take_info(struct mapped_image *i, struct image *img, const struct image_choice *choice)
{
	i->size = img->size;
	i->span = img->span;
	i->cluster_size = img->info.cluster_size;
	i->encrypted = img->info.encrypted;
	i->dirty = img->info.dirty;
	i->corrupt = img->info.corrupt;
	i->has_backing = img->info.backing_name[0] || img->info.backing_id[0];
	i->nr_snapshots = img->info.nr_snapshots;
	i->nr_bitmaps = img->info.nr_bitmaps;
	i->vm_state = has_vm_state(img);
	i->pooled = slice_parse(img->info.backing_name, &(struct slice){ 0 }) == 1;
	i->certainty = choice->certainty;
	snprintf(i->format, sizeof(i->format), "%s", img->format->name);
	snprintf(i->kind, sizeof(i->kind), "%s", img->info.kind);
}

static int walk(struct walk *w, struct err *err)
{
	struct image_choice choice = { .certainty = IMAGE_TOLD };
	struct errand_side *s = &w->side;
	CLEANUP(image_close) struct image *img = image_open(STEAL_FD(s->fd), s->job.path,
							    image_format_by_name(s->job.format), &s->opener, &choice, err);
	struct extent e;

	if (!img)
		return -1;
	if (s->job.format[0])
		choice.certainty = IMAGE_TOLD;
	take_info(&w->shared->image, img, &choice);
	for (uint64_t at = 0; at < img->span; at = e.offset + e.len)
		if (image_next_extent(img, at, &e, err) < 0 || take_extent(w, &e, err) < 0)
			return -1;
	return end_run(w, err) < 0 ? -1 : flush(w, err);
}

int mapper_worker(int sock, void *shared, void *arg)
{
	struct walk w = { .shared = shared };
	struct err err = ERR_INIT;

	(void)arg;
	if (errand_begin(&w.side, sock, false) < 0)
		return 1;
	return errand_end(&w.side, walk(&w, &err) < 0 ? &err : NULL);
}
