/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/errand.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

#include "scanner/base/file.h"
#include "scanner/base/proc.h"
#include "scanner/image/codec_zstd.h"
#include "scanner/noted.h"

#define POLL_MS 100

/* ---- the parent's side ---- */

struct talk {
	const struct errand *e;
	struct stat st;
	struct proc proc;
	struct leash leash;
	struct err *why; /* why it was put out or failed */
	bool told;	 /* it has one */
	struct worker_message m;
};

static int send_job(struct talk *t, int fd, const char *path)
{
	const char *format = t->e->format ? t->e->format : noted_format(fd);

	t->m = (struct worker_message){ .kind = WORKER_JOB };
	t->m.job.named = !t->e->met;
	t->m.job.keep_cache = t->e->keep_cache;
	snprintf(t->m.job.format, sizeof(t->m.job.format), "%s", format ? format : "");
	snprintf(t->m.job.path, sizeof(t->m.job.path), "%s", path);
	if (worker_send(t->proc.sock, &t->m, fd, NULL) < 0)
		return -1;
	if (t->e->second_fd < 0)
		return 0;
	t->m = (struct worker_message){ .kind = WORKER_FILE };
	return worker_send(t->proc.sock, &t->m, t->e->second_fd, NULL);
}

/* 1 = go on, 0 = it is to be put out, -1 = ours to give up. */
static int may_go_on(struct talk *t, struct err *err)
{
	const struct errand *e = t->e;

	if (e->stopper && stopper_says(e->stopper))
		return err_set(err, ERR_CANCELED, "stopped");
	if (e->delivered)
		t->leash.delivered = e->delivered(e->ctx, t->proc.shared);
	if (leash_check(&t->leash, t->why) == 0)
		return 1;
	t->told = true;
	return 0;
}

/* The next message: 1 = it is there, 0 = there is none that makes sense, -1 = ours to give up. */
static int receive(struct talk *t, struct err *err)
{
	const struct errand *e = t->e;
	struct pollfd p = { .fd = t->proc.sock, .events = POLLIN };
	int fd = -1, rc;
	ssize_t n;

	do {
		int going;

		rc = poll(&p, 1, POLL_MS);
		if (rc < 0 && errno != EINTR)
			return err_errno(err, "cannot wait for a worker");
		if (rc <= 0 && e->tick && e->tick(e->ctx, t->proc.shared, err) < 0)
			return -1;
		if ((going = may_go_on(t, err)) <= 0) /* also one that never stops talking */
			return going;
	} while (rc <= 0);
	n = proc_recv(t->proc.sock, &t->m, sizeof(t->m), &fd, NULL);
	if (fd >= 0)
		file_close(fd, "a worker's file", NULL);
	return n >= (ssize_t)sizeof(t->m.kind) && (size_t)n >= worker_message_len(t->m.kind);
}

static int answer_open(struct talk *t, struct err *err)
{
	const struct errand *e = t->e;
	struct opening o;
	int rc = 0;

	if (opening_answer(t->proc.sock, &t->m, e->roots, &t->st, &t->leash, &o, t->why) < 0) {
		t->told = t->why->kind == ERR_REFUSED;
		return 0;
	}
	if (o.fd >= 0 && o.role == IMAGE_BACKING && e->reads_backing)
		leash_add_file(&t->leash, o.fd);
	if (o.fd >= 0 && e->opened)
		rc = e->opened(e->ctx, &o, err);
	if (o.fd >= 0)
		file_close(o.fd, o.path, NULL);
	return rc < 0 ? -1 : 1;
}

/* Why it failed is the image's matter: that its memory is out, or its word that somebody stopped it, is none of ours. */
static int failed(struct talk *t)
{
	enum err_kind kind = t->m.err.kind;

	t->m.err.text[sizeof(t->m.err.text) - 1] = '\0';
	if ((unsigned)kind >= ERR_USAGE || kind == ERR_NONE || kind == ERR_CANCELED || kind == ERR_MEMORY)
		t->m.err.kind = ERR_IO;
	*t->why = t->m.err;
	t->told = true;
	return 0;
}

/* 1 = it is done, 0 = the process is gone or was put out, -1 = ours to give up. */
static int converse(struct talk *t, struct err *err)
{
	const struct errand *e = t->e;
	int rc;

	while ((rc = receive(t, err)) > 0) {
		if (t->m.kind == WORKER_DONE)
			return e->done && e->done(e->ctx, t->proc.shared, err) < 0 ? -1 : 1;
		if (t->m.kind == WORKER_FAILED)
			return failed(t);
		if (t->m.kind == WORKER_OPEN)
			rc = answer_open(t, err);
		else if (e->message)
			rc = e->message(e->ctx, &t->m, t->proc.sock, t->proc.shared, err) < 0 ? -1 : 1;
		else
			rc = 0;
		if (rc <= 0)
			return rc;
	}
	return rc;
}

int errand_run(const struct errand *e, int fd, const char *path, struct err *why, struct err *err)
{
	struct talk t = { .e = e, .why = why };
	char how[PROC_HOW_ROOM];
	int rc;

	if (file_stat(fd, &t.st) < 0)
		return err_errno(err, "cannot look at '%s'", path);
	codec_zstd_prepare();
	if (proc_start(&t.proc, e->shared_len, e->jail, e->run, e->arg, err) < 0)
		return -1;
	leash_begin(&t.leash, t.proc.pid, 0);
	leash_add_file(&t.leash, fd);
	rc = send_job(&t, fd, path) < 0 ? 0 : converse(&t, err);
	proc_end(&t.proc, 1, how, sizeof(how));
	if (rc == 0 && !t.told)
		err_set(why, ERR_IO, "the process that read it died (%s)", how);
	return rc;
}

/* ---- the process's side ---- */

static int ask_for_file(void *ctx, enum image_role role, const char *name, const char *from_path, char *ret_path,
			struct err *err)
{
	struct errand_side *s = ctx;
	int fd = -1;
	ssize_t n;

	opening_request(s->m, role, name, from_path);
	if (worker_send(s->sock, s->m, -1, err) < 0)
		return -1;
	n = proc_recv(s->sock, s->m, sizeof(*s->m), &fd, err);
	if (n == 0)
		return err_set(err, ERR_STALE, "the parent is gone");
	return n < 0 ? -1 : opening_result(s->m, fd, name, ret_path, err);
}

int errand_begin(struct errand_side *s, int sock, bool second)
{
	*s = (struct errand_side){ .sock = sock, .m = malloc(sizeof(*s->m)), .fd = -1, .second_fd = -1 };
	s->opener = (struct image_opener){ .open = ask_for_file, .ctx = s };
	if (!s->m || proc_recv(sock, s->m, sizeof(*s->m), &s->fd, NULL) <= 0 || s->m->kind != WORKER_JOB || s->fd < 0)
		return -1;
	s->job = s->m->job;
	if (!second)
		return 0;
	if (proc_recv(sock, s->m, sizeof(*s->m), &s->second_fd, NULL) <= 0 || s->m->kind != WORKER_FILE)
		return -1;
	return s->second_fd < 0 ? -1 : 0;
}

struct image *errand_open_image(struct errand_side *s, struct err *err)
{
	return image_open(STEAL_FD(s->fd), s->job.path, image_format_by_name(s->job.format), &s->opener, NULL, err);
}

int errand_end(struct errand_side *s, const struct err *why)
{
	*s->m = (struct worker_message){ .kind = why ? WORKER_FAILED : WORKER_DONE };
	if (why)
		s->m->err = *why;
	return worker_send(s->sock, s->m, -1, NULL) < 0;
}
