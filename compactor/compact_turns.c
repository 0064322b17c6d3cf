/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "compactor/compact_parts.h"
#include "compactor/pool/growth.h"
#include "compactor/pool/view.h"
#include "compactor/pool_home.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/base/memory.h"

/* A compaction holds the workshops of its roots, and the pool, against other processes.  It may run for hours, and most others want
 * to be in there for a moment: so between two steps it lets those in who try.  Whatever they change it finds as it finds what
 * changed since the plan was made. */

static void nap(unsigned tries)
{
	nanosleep(&(struct timespec){ .tv_nsec = (long)tries * LOCK_FILE_TRY_NS }, NULL);
}

/* ---- workshops ---- */

/* The first root that lies in the same directory: a workshop that was opened twice would find itself locked. */
static int first_of_directory(const struct roots *roots, size_t root, size_t *ret, struct err *err)
{
	struct stat st, of;

	if (file_ops->fstat(roots->list.items[root].dirfd, &st) < 0)
		return err_errno(err, "cannot look at '%s'", roots->list.items[root].path);
	for (*ret = 0; *ret < root; ++*ret)
		if (roots->list.items[*ret].walked && file_ops->fstat(roots->list.items[*ret].dirfd, &of) == 0 &&
		    of.st_dev == st.st_dev && of.st_ino == st.st_ino)
			break;
	return 0;
}

/* What an earlier run left in the middle comes first. */
static int open_recovered(struct compaction *c, size_t root, const char *dir, bool create, struct err *err)
{
	CLEANUP(workshop_close) struct workshop *w = NULL;
	const struct scan_watch *watch = c->o.watch;
	struct recovery done;

	if (workshop_open(c->o.roots->list.items[root].dirfd, dir, create, &w, err) < 0)
		return -1;
	if (!w)
		return 0;
	if (workshop_recover(w, watch ? watch->problem : NULL, watch ? watch->ctx : NULL, &done, err) < 0)
		return -1;
	lock_file_listen(workshop_lock(w));
	c->workshops[root] = STEAL(w);
	return 0;
}

int compact_workshop(struct compaction *c, size_t root, bool create, struct workshop **ret, struct err *err)
{
	const struct root *r = &c->o.roots->list.items[root];
	size_t n, len = strlen(r->path) - (r->file ? strlen(r->file) + 1 : 0);
	CLEANUP(free) char *dir = strndup(r->path, max_u64(len, 1));

	if (!dir)
		return err_set(err, ERR_MEMORY, "no memory for a path");
	if (first_of_directory(c->o.roots, root, &n, err) < 0)
		return -1;
	if (!c->workshops[n] && open_recovered(c, n, dir, create, err) < 0)
		return -1;
	*ret = c->workshops[n];
	return 0;
}

static int open_workshops(struct compaction *c, struct err *err)
{
	const struct roots *roots = c->o.roots;

	for (size_t i = 0; i < roots->list.nr; i++) {
		struct workshop *w;

		if (roots->list.items[i].walked && compact_workshop(c, i, false, &w, err) < 0)
			return -1;
	}
	return 0;
}

/* ---- the pool ---- */

/* Half of what is left: the process that reads images takes some, too. */
static size_t finder_memory(const struct compaction *c)
{
	return memory_left(c->o.memory) / 2;
}

static int tell_pool(struct compaction *c, struct err *err)
{
	if (stub_tell(c->pool, &c->o.stubs, err) < 0 ||
	    (c->o.tell_file_size && growth_tell(c->pool, c->o.file_size, err) < 0))
		return -1;
	return c->o.tell_immutable ? immutable_tell(c->pool, c->o.immutable, err) : 0;
}

int compact_open_pool(struct compaction *c, bool create, struct err *err)
{
	if (c->pool)
		return 0;
	if (pool_home_open(c->o.roots, c->o.pool, POOL_TO_WRITE, create, finder_memory(c), &c->pool, err) < 0)
		return -1;
	if (!c->pool)
		return 0;
	c->pool->stopper = c->o.stopper;
	lock_file_listen(&c->pool->lock);
	return tell_pool(c, err);
}

/* ---- turns ---- */

bool turn_try_again(struct compaction *c, uint64_t until, struct err *err)
{
	if (c->o.watch && lock_file_is_held(err))
		c->o.watch->progress(c->o.watch->ctx, &(struct scan_progress){ .stage = "waiting for another dedupscan" });
	return lock_file_try_again(err, until, c->o.stopper);
}

void turn_end(struct compaction *c)
{
	for (size_t i = 0; c->workshops && i < c->o.roots->list.nr; i++) {
		workshop_close(c->workshops[i]);
		c->workshops[i] = NULL;
	}
	pool_close(c->pool);
	c->pool = NULL;
}

/* Who waits holds nothing: others would wait for him. */
static int take(struct compaction *c, bool with_pool, uint64_t until, struct err *err)
{
	struct err why = ERR_INIT;
	int rc;

	do {
		rc = open_workshops(c, &why) < 0 || (with_pool && compact_open_pool(c, false, &why) < 0) ? -1 : 0;
		if (rc < 0)
			turn_end(c);
	} while (rc < 0 && turn_try_again(c, until, &why));
	if (rc < 0 && err)
		*err = why;
	return rc;
}

int turn_begin(struct compaction *c, uint64_t until, struct err *err)
{
	c->workshops = calloc(c->o.roots->list.nr + 1, sizeof(*c->workshops));
	return c->workshops ? take(c, false, until, err) : err_set(err, ERR_MEMORY, "no memory for workshops");
}

static bool was_tried(struct compaction *c)
{
	bool any = c->pool && lock_file_was_tried(&c->pool->lock);

	for (size_t i = 0; i < c->o.roots->list.nr; i++)
		if (c->workshops[i] && lock_file_was_tried(workshop_lock(c->workshops[i])))
			any = true;
	return any;
}

/* Not one who came by and did not wait. */
bool turn_is_wanted(void *compaction)
{
	struct compaction *c = compaction;

	if (!was_tried(c))
		return false;
	nap(3);
	return was_tried(c);
}

int turn_give(struct compaction *c, struct err *err)
{
	bool with_pool = c->pool;

	rewrite_settle_all(c);
	if (c->replaced.nr)
		return 0;
	store_close_files(&c->store);
	turn_end(c);
	nap(5);
	return take(c, with_pool, UINT64_MAX, err);
}
