/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/mapper.h"

#include <string.h>

#include "scanner/base/block.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/base/vec.h"

/* The parent's side.  What the process says is copied out of its reach and checked: stretches are blocks, ascend, and lie in
 * files that were opened for this image. */

struct known {
	uint64_t dev, ino, size;
};

struct mapping {
	const struct mapper *m;
	VEC(struct known) files; /* its own first */
	uint64_t next; /* address from which on a stretch may begin */
	struct mapped_image *ret;
	struct mapped copy[MAPPER_AT_ONCE];
};

static int add_file(struct mapping *g, int fd, struct err *err)
{
	struct stat st;

	if (file_stat(fd, &st) < 0)
		return err_errno(err, "cannot look at a file");
	if (vec_push(&g->files, (struct known){ st.st_dev, st.st_ino, (uint64_t)st.st_size }) < 0)
		return err_set(err, ERR_MEMORY, "no memory for a list of files");
	return 0;
}

static int opened(void *ctx, const struct opening *o, struct err *err)
{
	struct mapping *g = ctx;

	if (o->role == IMAGE_BACKING)
		return 0;
	if (add_file(g, o->fd, err) < 0)
		return -1;
	return g->m->part(g->m->ctx, o->path, o->fd, err);
}

static bool can_be(const struct mapping *g, const struct mapped *m)
{
	if (m->address < g->next || !m->len || (m->address | m->len) % BLOCK_SIZE)
		return false;
	if (m->address > IMAGE_SPAN_MAX || m->len > IMAGE_SPAN_MAX || m->offset > INT64_MAX - m->len)
		return false;
	for (size_t i = 0; i < g->files.nr; i++)
		if (g->files.items[i].dev == m->dev && g->files.items[i].ino == m->ino)
			return true;
	return false;
}

static int take_frame(void *ctx, struct worker_message *msg, int sock, void *shared, struct err *err)
{
	struct mapping *g = ctx;
	const struct mapper_shared *s = shared;
	uint32_t nr = *(const volatile uint32_t *)&s->nr;

	if (msg->kind != WORKER_FRAME || nr > MAPPER_AT_ONCE)
		return err_set(err, ERR_REFUSED, "the process that read the image said what cannot be");
	memcpy(g->copy, s->items, nr * sizeof(g->copy[0]));
	for (uint32_t i = 0; i < nr; i++) {
		if (!can_be(g, &g->copy[i]))
			return err_set(err, ERR_REFUSED, "the process that read the image said what cannot be");
		g->next = g->copy[i].address + g->copy[i].len;
		if (g->m->mapped(g->m->ctx, &g->copy[i], err) < 0)
			return -1;
	}
	*msg = (struct worker_message){ .kind = WORKER_FREE };
	worker_send(sock, msg, -1, NULL); /* one that is gone shows in the next poll */
	return 0;
}

#define END_TEXT(text) ((text)[sizeof(text) - 1] = '\0')

static int take_image(void *ctx, void *shared, struct err *err)
{
	struct mapping *g = ctx;
	const struct mapper_shared *s = shared;

	(void)err;
	*g->ret = s->image;
	END_TEXT(g->ret->format);
	END_TEXT(g->ret->kind);
	END_TEXT(g->ret->doubt);
	return 0;
}

int mapper_run(const struct mapper *m, int fd, const char *path, struct mapped_image *ret, struct err *why, struct err *err)
{
	CLEANUP(free) struct mapping *g = calloc(1, sizeof(*g));
	struct errand e = {
		.roots = m->roots, .format = m->format, .jail = m->jail, .stopper = m->stopper, .run = mapper_worker,
		.shared_len = sizeof(struct mapper_shared), .second_fd = -1,
		.message = take_frame, .opened = opened, .done = take_image, .ctx = g,
	};
	struct err bad = ERR_INIT;
	int rc;

	if (!g)
		return err_set(err, ERR_MEMORY, "no memory to look at an image");
	g->m = m;
	g->ret = ret;
	rc = add_file(g, fd, err);
	if (rc == 0)
		rc = errand_run(&e, fd, path, why, &bad);
	vec_release(&g->files);
	if (rc < 0 && bad.kind == ERR_REFUSED) { /* the image's fault, or its process's */
		*why = bad;
		return 0;
	}
	if (rc < 0 && bad.kind && err)
		*err = bad;
	return rc;
}
