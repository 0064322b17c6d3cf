/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/pool/feed.h"

#include <fcntl.h>
#include <string.h>

#include "scanner/base/checked.h"
#include "scanner/base/file.h"

/* The parent's side.
 *
 * A segment is copied before anybody looks at it: what is hashed, compared and stored must be the same bytes, and a process that
 * has gone over to the image can change those that it shares at any time. */

int (*feed_process)(int sock, void *shared, void *arg) = feed_worker;

struct feeding {
	const struct feed *f;
	bool sized;
	uint64_t size, next; /* of the disk, 0 before it is said; the least segment that may come */
	uint8_t *copy;
};

static bool all_zero(const uint8_t *p, size_t len)
{
	return !p[0] && memcmp(p, p + 1, len - 1) == 0;
}

static int lies(struct err *err)
{
	return err_set(err, ERR_FORMAT, "the process that read it was stopped: it told of what cannot be");
}

/* Its names are texts that end somewhere, whatever they say. */
static void take_snapshot(const struct feeding *g, const struct feed_shared *s)
{
	struct image_snapshot *ret = g->f->ret_snapshot;

	if (!g->f->snapshot || !ret)
		return;
	*ret = s->snapshot;
	ret->id[sizeof(ret->id) - 1] = '\0';
	ret->name[sizeof(ret->name) - 1] = '\0';
}

static int take_size(struct feeding *g, uint64_t size, const struct feed_shared *s, struct err *err)
{
	if (g->sized || size > IMAGE_SPAN_MAX)
		return lies(err);
	take_snapshot(g, s);
	g->sized = true;
	g->size = size;
	return g->f->size(g->f->ctx, size, err);
}

static int progress(struct feeding *g, uint64_t address, struct err *err)
{
	if (!g->f->progress || !g->sized)
		return 0;
	return g->f->progress(g->f->ctx, min_u64(address, g->size), g->size, err);
}

static int give_segment(struct feeding *g, uint64_t segment, struct sectors own, struct err *err)
{
	if (g->f->own)
		return g->f->own(g->f->ctx, segment, g->copy, &own, err);
	return all_zero(g->copy, SEGMENT_SIZE) ? 0 : g->f->segment(g->f->ctx, segment, g->copy, err);
}

static int take_segment(struct feeding *g, const struct feed_shared *s, uint32_t slot, struct err *err)
{
	uint64_t segment, inside;

	if (slot >= FEED_SLOTS)
		return lies(err);
	segment = atomic_load(&s->segments[slot]);
	if (segment < g->next || segment >= div_up(g->size, SEGMENT_SIZE))
		return lies(err);
	g->next = segment + 1;
	inside = min_u64(g->size - segment * SEGMENT_SIZE, SEGMENT_SIZE);
	memcpy(g->copy, s->bytes[slot], inside);
	memset(g->copy + inside, 0, SEGMENT_SIZE - inside);
	if (give_segment(g, segment, s->own[slot], err) < 0)
		return -1;
	return progress(g, g->next * SEGMENT_SIZE, err);
}

static int message(void *ctx, struct worker_message *m, int sock, void *shared, struct err *err)
{
	struct feeding *g = ctx;
	uint32_t slot = m->slot;

	if (m->kind == WORKER_IMAGE)
		return take_size(g, m->image.virtual_size, shared, err);
	if (m->kind != WORKER_FRAME)
		return lies(err);
	if (take_segment(g, shared, slot, err) < 0)
		return -1;
	*m = (struct worker_message){ .kind = WORKER_FREE, .slot = slot };
	worker_send(sock, m, -1, NULL); /* that it is gone is found by whoever waits for its next word */
	return 0;
}

static int tick(void *ctx, void *shared, struct err *err)
{
	struct feed_shared *s = shared;

	return progress(ctx, atomic_load(&s->address), err);
}

static uint64_t delivered(void *ctx, void *shared)
{
	struct feed_shared *s = shared;

	(void)ctx;
	return atomic_load(&s->bytes_read);
}

static int done(void *ctx, void *shared, struct err *err)
{
	struct feeding *g = ctx;

	(void)shared;
	return g->sized ? progress(g, g->size, err) : lies(err);
}

/* Whoever replaces an image has it open for writing, and then nothing may be mapped shared, not even to see what the cache has. */
static bool is_writable(int fd)
{
	int flags = file_ops->fcntl(fd, F_GETFL, NULL);

	return flags < 0 || (flags & O_ACCMODE) != O_RDONLY;
}

int feed_run(const struct feed *f, int fd, const char *path, struct err *err)
{
	CLEANUP(free) uint8_t *copy = aligned_alloc(BLOCK_SIZE, SEGMENT_SIZE);
	struct feeding g = { .f = f, .copy = copy };
	struct jail own = f->jail ? *f->jail : (struct jail){ .mode = JAIL_OFF };
	struct feed_told told = { .own = f->own != NULL, .snapshot = f->snapshot };
	struct errand e = {
		.roots = f->roots, .format = f->format, .jail = f->jail ? &own : NULL, .stopper = f->stopper,
		.run = feed_process, .arg = &told, .shared_len = sizeof(struct feed_shared), .second_fd = -1,
		.reads_backing = !f->own, .message = message, .tick = tick, .delivered = delivered, .done = done, .ctx = &g,
	};
	struct err why = ERR_INIT;
	int rc;

	if (!copy)
		return err_set(err, ERR_MEMORY, "no memory for a segment");
	own.writable |= is_writable(fd);
	e.keep_cache = f->keep_cache && !own.writable;
	rc = errand_run(&e, fd, path, &why, err);
	if (rc == 0)
		return err_set(err, why.kind, "%s", why.text);
	return rc < 0 ? -1 : 0;
}
