/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/pair.h"

static int run(int sock, void *shared, void *arg)
{
	const struct pair *p = arg;
	struct err why = ERR_INIT;
	struct errand_side side;

	(void)shared;
	if (errand_begin(&side, sock, true) < 0)
		return 1;
	return errand_end(&side, p->work(&side, p->arg, &why) < 0 ? &why : NULL);
}

static int tick(void *ctx, void *shared, struct err *err)
{
	const struct pair *p = ctx;

	(void)shared;
	return p->check ? p->check(p->check_ctx, err) : 0;
}

int pair_run(const struct pair *p, int old_fd, int new_fd, const char *path, struct err *err)
{
	struct jail own = p->jail ? *p->jail : (struct jail){ .mode = JAIL_OFF };
	struct errand e = {
		.roots = p->roots, .format = p->format, .jail = p->jail ? &own : NULL, .run = run, .arg = (void *)p,
		.reads_backing = p->reads_backing, .second_fd = new_fd, .tick = tick, .ctx = (void *)p,
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
