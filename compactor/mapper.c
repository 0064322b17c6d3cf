/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/mapper.h"

#include <string.h>

#include "scanner/base/block.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/base/vec.h"

/* The parent's side.  What the process says is copied out of its reach and checked: stretches are blocks, ascend, and lie in
 * files that were opened for this image. */

int (*mapper_process)(int sock, void *shared, void *arg) = mapper_worker;

struct known {
	uint64_t dev, ino, size;
};

struct mapping {
	const struct mapper *m;
	VEC(struct known) files; /* its own first */
	size_t file;   /* where the last stretch lies */
	uint64_t held; /* bytes on disk, of all files */
	uint64_t next; /* address from which on a stretch may begin */
	uint64_t nr;   /* stretches */
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
	g->held += st.st_blocks ? (uint64_t)st.st_blocks * 512 : (uint64_t)st.st_size; /* some file systems count no blocks */
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

static bool lies_in(const struct known *f, const struct mapped *m)
{
	return f->dev == m->dev && f->ino == m->ino;
}

/* Most stretches lie where the one before does: an image may have thousands of files. */
static bool find_file(struct mapping *g, const struct mapped *m)
{
	if (lies_in(&g->files.items[g->file], m))
		return true;
	for (size_t i = 0; i < g->files.nr; i++) {
		if (lies_in(&g->files.items[i], m)) {
			g->file = i;
			return true;
		}
	}
	return false;
}

static bool can_be(struct mapping *g, const struct mapped *m)
{
	if (m->address < g->next || !m->len || (m->address | m->len) % BLOCK_SIZE)
		return false;
	if (m->address > IMAGE_SPAN_MAX || m->len > IMAGE_SPAN_MAX || m->offset > INT64_MAX - m->len)
		return false;
	return find_file(g, m);
}

static int check_number(struct mapping *g, struct err *err)
{
	if (++g->nr <= MAPPER_SPARE || (g->nr - MAPPER_SPARE) / MAPPER_TIMES <= g->held / BLOCK_SIZE)
		return 0;
	return err_set(err, ERR_REFUSED, "its tables make %llu stretches of a file of %llu KiB: the same data many times over",
		       (unsigned long long)g->nr, (unsigned long long)(g->held / KIB));
}

/* What lies past the end of its file reads as zeros, and nothing can share with it. */
static int take(struct mapping *g, struct mapped *m, struct err *err)
{
	uint64_t size;

	if (!can_be(g, m))
		return err_set(err, ERR_REFUSED, "the process that read the image said what cannot be");
	g->next = m->address + m->len;
	size = g->files.items[g->file].size;
	m->len = m->offset < size ? min_u64(m->len, round_down(size - m->offset, BLOCK_SIZE)) : 0;
	if (!m->len)
		return 0;
	return check_number(g, err) < 0 ? -1 : g->m->mapped(g->m->ctx, m, err);
}

static int take_frame(void *ctx, struct worker_message *msg, int sock, void *shared, struct err *err)
{
	struct mapping *g = ctx;
	const struct mapper_shared *s = shared;
	uint32_t nr = *(const volatile uint32_t *)&s->nr;

	if (msg->kind != WORKER_FRAME || nr > MAPPER_AT_ONCE)
		return err_set(err, ERR_REFUSED, "the process that read the image said what cannot be");
	memcpy(g->copy, s->items, nr * sizeof(g->copy[0]));
	for (uint32_t i = 0; i < nr; i++)
		if (take(g, &g->copy[i], err) < 0)
			return -1;
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
	return 0;
}

int mapper_run(const struct mapper *m, int fd, const char *path, struct mapped_image *ret, struct err *why, struct err *err)
{
	CLEANUP(free) struct mapping *g = calloc(1, sizeof(*g));
	struct errand e = {
		.roots = m->roots, .format = m->format, .jail = m->jail, .stopper = m->stopper, .run = mapper_process,
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
