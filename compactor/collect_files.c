/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/collect_parts.h"
#include "compactor/evacuate.h"
#include "compactor/hold.h"
#include "compactor/pool/gather.h"
#include "compactor/pool/growth.h"

/* Cluster files of which little lives.  What lives in one that is evacuated then is what somebody uses, and the views that no name
 * keeps: these stay, and the file with them. */

static bool has_view(const struct collecting *c, uint32_t file)
{
	for (size_t i = 0; i < c->views.nr; i++)
		if (c->views.items[i].stub.fate != REMOVED && collect_view_is_in(&c->views.items[i], file))
			return true;
	return false;
}

/* What was written to it is mostly dead, and it has grown so far that this matters: the space of what is dead comes back as holes,
 * but nothing else brings offsets back. */
static bool is_worth_evacuating(const struct collecting *c, const struct cluster_span *s, uint64_t lives)
{
	uint64_t size = s->end - s->begin, most = c->p->file_size ? c->p->file_size : cluster_file_max(s->file);
	bool grows = s->number == clusters_growing(c->p->clusters).number;

	return c->o->evacuate && lives * 100 <= size * c->o->evacuate && (!grows || size >= most / 2);
}

/* Where nobody can tell who has an old stub open, a view is not written anew. */
static bool can_move_views(const struct collecting *c)
{
	char fs[32];

	return c->o->assume_idle || !hold_fs_is_shared(c->p->dirs[POOL_TOP], fs);
}

static bool is_to_move(const struct collected_view *v, uint32_t file)
{
	return !v->replaced && v->stub.named && !v->stub.used && collect_view_is_in(v, file);
}

/* What is left may be there for those who use it only. */
static bool has_something_to_move(const struct collecting *c, const struct swept *w)
{
	for (size_t i = 0; i < c->views.nr; i++)
		if (is_to_move(&c->views.items[i], w->number))
			return true;
	return w->leaves > 0;
}

static int tell_moved(void *ctx, uint64_t done, uint64_t total, struct err *err)
{
	const struct collecting *c = ctx;

	collect_tell(c, "moving", done, total);
	return collect_stopped(c, err);
}

/* Views that no name keeps stay with whoever uses them, and the file stays with them.  So do those of which a segment cannot be
 * read, or is too much for the disk: nothing was written of these.  Whatever fails later ends it all: what is on the disk then is
 * not known. */
static int move_views(struct collecting *c, uint32_t file, struct err *err)
{
	for (size_t i = 0; i < c->views.nr; i++) {
		const struct collected_view *v = &c->views.items[i];
		char kept[VIEW_KEPT_STUB_ROOM];
		struct err why = ERR_INIT;
		struct view made;

		if (!is_to_move(v, file))
			continue;
		if (collect_stopped(c, err) < 0)
			return -1;
		if (gather(c->p, v->view.root, v->view.disk_size, v->view.cluster_bits, &why) < 0) {
			if (why.kind != ERR_FORMAT && why.kind != ERR_FULL)
				return err_set(err, why.kind, "%s", why.text);
			*(why.kind == ERR_FULL ? &c->ret->nr_files_no_space : &c->ret->nr_not_moved) += 1;
			continue;
		}
		if (view_write_as(c->p, &v->view, view_kept_stub(&v->view, kept), &made, err) < 0)
			return -1;
	}
	return 0;
}

static int evacuate(struct collecting *c, const struct cluster_span *s, uint64_t lives, struct err *err)
{
	struct evacuation e = { .p = c->p, .file = s->number, .lives = lives, .check = tell_moved, .ctx = c };
	struct err why = ERR_INIT;
	uint64_t damaged = 0;

	if (growth_check_space(c->p, lives, &why) < 0) {
		c->ret->nr_files_no_space += why.kind == ERR_FULL;
		return why.kind == ERR_FULL ? 0 : err_set(err, why.kind, "%s", why.text);
	}
	if (c->o->dry_run) {
		c->ret->nr_files_evacuated++;
		c->ret->moved += lives;
		return 0;
	}
	if (evacuate_segments(&e, &c->ret->moved, &damaged, err) < 0)
		return -1;
	c->ret->nr_files_evacuated += !damaged;
	c->ret->nr_not_moved += damaged;
	return damaged ? 0 : move_views(c, s->number, err);
}

/* Nothing lives in it, or leads there, and it does not grow. */
static bool is_dead(const struct collecting *c, const struct swept *w)
{
	return w->number != clusters_growing(c->p->clusters).number && !w->lives && !w->leaves && !has_view(c, w->number);
}

static int remove_dead(struct collecting *c, struct err *err)
{
	for (size_t i = 0; i < c->swept.nr; i++) {
		if (!is_dead(c, &c->swept.items[i]))
			continue;
		c->ret->nr_files_removed++;
		if (!c->o->dry_run && clusters_remove(c->p->clusters, c->swept.items[i].number, err) < 0)
			return -1;
	}
	return 0;
}

/* The last one first: when it is evacuated another one begins, into which the others are. */
int collect_files(struct collecting *c, struct err *err)
{
	if (remove_dead(c, err) < 0)
		return -1;
	for (size_t i = c->swept.nr; i-- > 0;) {
		const struct swept *w = &c->swept.items[i];
		struct cluster_span s;

		if (!is_dead(c, w) && clusters_of_address(c->p->clusters, (uint64_t)w->number << POOL_FILE_BITS, &s) &&
		    is_worth_evacuating(c, &s, w->lives) && can_move_views(c) && has_something_to_move(c, w) &&
		    evacuate(c, &s, w->lives, err) < 0)
			return -1;
	}
	return 0;
}
