/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/pair.h"

#include <stdatomic.h>

/* What the process shares. */
struct pair_shared {
	_Atomic uint64_t done, total;
};

/* Its check. */
static int note(void *ctx, uint64_t done, uint64_t total, struct err *err)
{
	struct pair_shared *s = ctx;

	(void)err;
	atomic_store_explicit(&s->total, total, memory_order_relaxed);
	atomic_store_explicit(&s->done, done, memory_order_relaxed);
	return 0;
}

static int run(int sock, void *shared, void *arg)
{
	const struct pair *p = arg;
	struct err why = ERR_INIT;
	struct errand_side side;

	if (errand_begin(&side, sock, true) < 0)
		return 1;
	return errand_end(&side, p->work(&side, p->arg, note, shared, &why) < 0 ? &why : NULL);
}

static int tick(void *ctx, void *shared, struct err *err)
{
	const struct pair *p = ctx;
	struct pair_shared *s = shared;
	uint64_t done = atomic_load_explicit(&s->done, memory_order_relaxed),
		 total = atomic_load_explicit(&s->total, memory_order_relaxed);

	return p->check ? p->check(p->check_ctx, done, total, err) : 0;
}

/* What was compared may have been made of much less. */
static uint64_t delivered(void *ctx, void *shared)
{
	struct pair_shared *s = shared;

	(void)ctx;
	return atomic_load_explicit(&s->done, memory_order_relaxed);
}

int pair_run(const struct pair *p, int old_fd, int new_fd, const char *path, struct err *err)
{
	struct jail own = p->jail ? *p->jail : (struct jail){ .mode = JAIL_OFF };
	struct errand e = {
		.roots = p->roots, .format = p->format, .jail = p->jail ? &own : NULL, .run = run, .arg = (void *)p,
		.shared_len = sizeof(struct pair_shared), .reads_backing = p->reads_backing, .second_fd = new_fd, .tick = tick,
		.delivered = delivered, .ctx = (void *)p,
	};
	struct err why = ERR_INIT;
	int rc;

	own.writes = p->writes;
	own.writable = !p->writes;
	rc = errand_run(&e, old_fd, path, &why, err);
	if (rc == 0)
		return err_set(err, why.kind, "%s", why.text);
	return rc < 0 ? -1 : 0;
}
