/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/collect_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "compactor/hold.h"
#include "compactor/pool/immutable.h"
#include "compactor/pool/names.h"
#include "compactor/pool/nodes.h"
#include "compactor/standing.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/index/judymap.h"

/* How it works: what lives is a set of records in the file of nodes (Judy1 of their offsets) and marks on clusters, of as much of
 * the cluster files at a time as memory allows.  Trees are entered where they are not marked yet, so that what many versions share
 * is walked once.  Clusters live that a tree has, and those that the tables of a view have: after a segment was healed or its node
 * written again these may be others, and guests read what the tables say.
 *
 * All is read and marked before anything is moved, so that what is missing shows.
 *
 * States of a view that no name keeps, by where its stub is:
 *
 *	views/ and in use	lives: a guest runs on an overlay that the pool does not know
 *	views/			its stub goes to trash/: it is dying
 *	trash/, now		dying
 *	trash/, from before	in use: back to views/.  Else the stub goes, then the slot is buried
 *	nowhere			its stub was never published: the slot is buried
 *
 * A view of which a name is found again comes back from trash/.  Views that live or are dying keep their trees and tables.  Of
 * views with the same id the last one counts; of one that was written anew, the old slot stays as long as somebody has its old stub
 * open, or its file, where that does not grow; or the stub in its place is still the old one: then whoever wrote it anew died
 * before he was done, and that is finished.  Sealed overlays die in the same two steps; what one stands on lives as long as a name
 * keeps it or somebody uses it. */

int collect_no_memory(struct err *err)
{
	return err_set(err, ERR_MEMORY, "no memory to collect a pool");
}

int collect_stopped(const struct collecting *c, struct err *err)
{
	return c->o->stopper && stopper_says(c->o->stopper) ? err_set(err, ERR_CANCELED, "stopped; run it again to go on") : 0;
}

void collect_tell(const struct collecting *c, const char *stage, uint64_t done, uint64_t total)
{
	if (c->o->progress)
		c->o->progress(c->o->ctx, stage, done, total);
}

/* ---- views ---- */

static int take_slot(void *ctx, uint32_t slot, const uint8_t header[BLOCK_SIZE], struct err *err)
{
	struct collecting *c = ctx;
	struct collected_view v = { .replaced = false };

	if (view_decode(header, slot, &v.view, err) < 0)
		return err_add(err, "nothing is removed");
	memcpy(v.stub.id, v.view.id, POOL_ID_SIZE);
	return vec_push(&c->views, v) < 0 ? collect_no_memory(err) : 0;
}

static int by_id(const void *a, const void *b)
{
	const struct view *x = &((const struct collected_view *)a)->view, *y = &((const struct collected_view *)b)->view;
	int rc = memcmp(x->id, y->id, POOL_ID_SIZE);

	return rc ? rc : x->generation < y->generation ? -1 : x->generation > y->generation;
}

static int take_views(struct collecting *c, struct err *err)
{
	if (clusters_each_slot(c->p->clusters, take_slot, c, err) < 0)
		return -1;
	if (c->views.nr)
		qsort(c->views.items, c->views.nr, sizeof(*c->views.items), by_id);
	for (size_t i = 1; i < c->views.nr; i++)
		if (memcmp(c->views.items[i - 1].view.id, c->views.items[i].view.id, POOL_ID_SIZE) == 0)
			c->views.items[i - 1].replaced = true;
	return 0;
}

/* The last of its id, or NULL. */
static struct collected_view *find_view(const struct collecting *c, const uint8_t id[POOL_ID_SIZE])
{
	size_t from = 0, to = c->views.nr;

	while (from < to) {
		size_t middle = from + (to - from) / 2;

		if (memcmp(c->views.items[middle].view.id, id, POOL_ID_SIZE) <= 0)
			from = middle + 1;
		else
			to = middle;
	}
	return from && memcmp(c->views.items[from - 1].view.id, id, POOL_ID_SIZE) == 0 ? &c->views.items[from - 1] : NULL;
}

static int keep_view(struct collecting *c, const uint8_t id[POOL_ID_SIZE], const char *who, struct err *err)
{
	struct collected_view *v = name_id_is_null(id) ? NULL : find_view(c, id);
	char text[POOL_ID_TEXT_ROOM];

	if (v)
		v->stub.named = true;
	else if (!name_id_is_null(id))
		return err_set(err, ERR_FORMAT, "view %s, which '%s' needs, is missing; nothing is removed", pool_id_text(id, text),
			       who);
	return 0;
}

/* ---- names ---- */

static int want_sealed(struct collecting *c, const uint8_t id[POOL_ID_SIZE], bool must, struct err *err)
{
	struct wanted w = { .must = must };

	if (name_id_is_null(id))
		return 0;
	memcpy(w.id, id, POOL_ID_SIZE);
	return vec_push(&c->wanted, w) < 0 ? collect_no_memory(err) : 0;
}

/* What is being sealed may not be there yet, and what is folded in, no more. */
static int take_name(void *ctx, const struct name *n, struct err *err)
{
	struct collecting *c = ctx;

	for (size_t i = 0; i < n->disks.nr; i++) {
		const struct name_disk *d = &n->disks.items[i];

		if (keep_view(c, d->view, d->path, err) < 0 || want_sealed(c, d->sealed, !d->folded && !d->inode, err) < 0 ||
		    want_sealed(c, d->below, true, err) < 0)
			return -1;
	}
	c->ret->nr_names++;
	return 0;
}

/* ---- who stands on it whatever the names say ---- */

static struct collected_view *view_in_slot(const struct collecting *c, uint32_t slot)
{
	for (size_t i = 0; i < c->views.nr; i++)
		if (c->views.items[i].view.slot == slot)
			return &c->views.items[i];
	return NULL;
}

/* What an overlay stands on that is not there is lost to it already. */
static int keep_standing(struct collecting *c, const struct standing_ids *ids, struct err *err)
{
	for (size_t i = 0; i < ids->list.nr; i++) {
		const struct standing_id *s = &ids->list.items[i];
		struct collected_view *v = s->sealed ? NULL : s->slot ? view_in_slot(c, s->slot) : find_view(c, s->bytes);

		if (s->sealed && want_sealed(c, s->bytes, false, err) < 0)
			return -1;
		if (v && s->slot) /* it stays in this very slot */
			v->stub.used = true;
		else if (v)
			v->stub.named = true;
	}
	return 0;
}

struct member_search {
	const struct pool *p;
	struct standing_ids *ids;
};

/* Another overlay may have its path by now: one from a backup, say, or a clone. */
static int look_at_member(void *ctx, const struct name *n, struct err *err)
{
	const struct member_search *s = ctx;

	return n->kind == NAME_MEMBER ? standing_look(s->p, n->disks.items[0].path, s->ids, err) : 0;
}

static int look_for_standing(struct collecting *c, struct err *err)
{
	struct standing_ids ids = { 0 };
	int rc = names_each(c->p, look_at_member, &(struct member_search){ c->p, &ids }, err);

	for (size_t i = 0; rc == 0 && i < c->o->nr_dirs; i++)
		rc = standing_find(c->p, c->o->dirs[i], &ids, err);
	if (rc == 0)
		rc = keep_standing(c, &ids, err);
	vec_release(&ids.list);
	return rc;
}

/* ---- stubs and sealed overlays: where they are ---- */

static int look(int dirfd, const char *name, bool *ret, struct err *err)
{
	struct stat st;

	*ret = file_ops->fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
	return *ret || errno == ENOENT ? 0 : err_errno(err, "cannot look at '%s'", name);
}

/* 1 = somebody has it open, or that cannot be told; 0, -1. */
static int in_use(const struct collecting *c, enum pool_dir dir, const char *name, struct err *err)
{
	struct err why = ERR_INIT;
	int fd = file_open(c->p->dirs[dir], name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, &why), rc;
	char fs[32];

	if (fd < 0 && why.errnum == EAGAIN)
		return 1;
	if (fd < 0)
		return err_set(err, why.kind, "%s", why.text);
	rc = (!c->o->assume_idle && hold_fs_is_shared(fd, fs)) || hold_look(fd, c->p->dirs[dir], name, NULL) < 0;
	file_close(fd, name, NULL);
	return rc;
}

static int use_of(const struct collecting *c, enum pool_dir dir, const char *name, bool there, bool *used, struct err *err)
{
	int rc = there && !*used ? in_use(c, dir, name, err) : 0;

	*used |= rc > 0;
	return rc < 0 ? -1 : 0;
}

/* `m->used` may be set before. */
static int decide(const struct collecting *c, enum pool_dir home, struct mortal *m, struct err *err)
{
	char name[POOL_FILE_NAME_ROOM];

	pool_id_file_name(m->id, name);
	if (look(c->p->dirs[home], name, &m->at_home, err) < 0 || look(c->p->dirs[POOL_TRASH], name, &m->in_trash, err) < 0)
		return -1;
	if (m->named && !m->at_home && !m->in_trash)
		return err_set(err, ERR_FORMAT, "'%s' is missing, and needed; nothing is removed", name);
	if (!m->named && (use_of(c, home, name, m->at_home, &m->used, err) < 0 ||
			  use_of(c, POOL_TRASH, name, m->in_trash, &m->used, err) < 0))
		return -1;
	m->fate = m->named || m->used ? LIVES : m->at_home ? DYING : REMOVED;
	return 0;
}

/* The stub of its id is in its place, or dying, and does not lead to the view that replaced it. */
static bool is_not_replaced_yet(const struct collecting *c, const struct collected_view *v)
{
	const struct collected_view *last = find_view(c, v->view.id);
	char name[POOL_FILE_NAME_ROOM];
	struct stat st;

	pool_id_file_name(v->view.id, name);
	return !view_stub_leads_to(c->p, &last->view) &&
	       (file_ops->fstatat(c->p->dirs[POOL_VIEWS], name, &st, AT_SYMLINK_NOFOLLOW) == 0 ||
		file_ops->fstatat(c->p->dirs[POOL_TRASH], name, &st, AT_SYMLINK_NOFOLLOW) == 0);
}

/* Guests may have been told to open the view itself, as libvirt does that knows the chain: in a file that does not grow there are
 * only such, and those who have an old stub open. */
static bool file_in_use(const struct collecting *c, const struct view *v)
{
	char name[POOL_FILE_NAME_ROOM], fs[32];
	struct cluster_span s;
	int fd;

	if (!clusters_of_slot(c->p->clusters, v->slot, &s) || s.number == clusters_growing(c->p->clusters).number)
		return false;
	fd = cluster_file_fd(s.file);
	pool_id_file_name(cluster_file_id(s.file)->uuid, name);
	return (!c->o->assume_idle && hold_fs_is_shared(fd, fs)) || hold_look(fd, c->p->dirs[POOL_TOP], name, NULL) < 0;
}

/* The view that a stub in quarantine/ leads to, whatever its name is: it may have led to an older one than who kept it knew. */
static struct collected_view *view_of_kept(const struct collecting *c, const char *name)
{
	int fd = file_open(c->p->dirs[POOL_QUARANTINE], name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, NULL);
	uint8_t id[POOL_ID_SIZE];
	uint32_t slot = 0;
	struct slice s;
	uint64_t size;
	size_t len;

	if (fd < 0)
		return NULL;
	if (overlay_names(fd, &s, &size, NULL) > 0 && pool_file_parse(s.path, id, &len) == POOL_TOP)
		slot = clusters_slot_at(c->p->clusters, id, s.offset);
	file_close(fd, name, NULL);
	return slot ? view_in_slot(c, slot) : NULL;
}

/* And the one that it is named for: KEPT, KEPT.1 ... */
static struct collected_view *view_of_kept_name(const struct collecting *c, const char *name)
{
	char kept[VIEW_KEPT_STUB_ROOM];

	for (size_t i = 0; i < c->views.nr; i++) {
		size_t len = strlen(view_kept_stub(&c->views.items[i].view, kept));

		if (strncmp(name, kept, len) == 0 && (!name[len] || name[len] == '.'))
			return &c->views.items[i];
	}
	return NULL;
}

/* The old stub of a view that was written anew, and that somebody may have open. */
static int look_at_kept(void *ctx, const char *name, struct err *err)
{
	struct collecting *c = ctx;
	struct collected_view *leads = view_of_kept(c, name), *named = view_of_kept_name(c, name);
	bool used = false;

	if ((leads || named) && use_of(c, POOL_QUARANTINE, name, true, &used, err) < 0)
		return -1;
	if (leads)
		leads->stub.used |= used;
	if (named)
		named->stub.used |= used;
	return 0;
}

static int decide_view(const struct collecting *c, struct collected_view *v, struct err *err)
{
	if (v->replaced)
		v->stub.used |= is_not_replaced_yet(c, v) || file_in_use(c, &v->view);
	v->stub.fate = v->stub.used ? LIVES : REMOVED;
	return v->replaced ? 0 : decide(c, POOL_VIEWS, &v->stub, err);
}

/* A stub of which no slot knows the view: whoever has it open needs what nobody finds. */
static int look_at_stub(void *ctx, const char *name, struct err *err)
{
	const struct collecting *c = ctx;
	uint8_t id[POOL_ID_SIZE];
	int rc;

	if (!pool_id_parse_file_name(name, id) || find_view(c, id))
		return 0;
	rc = in_use(c, POOL_VIEWS, name, err);
	return rc > 0 ? err_set(err, ERR_FORMAT, "stub '%s' is in use, and its view is missing; nothing is removed", name) : rc;
}

static int decide_views(struct collecting *c, struct err *err)
{
	if (file_each_name(c->p->dirs[POOL_QUARANTINE], look_at_kept, c, err) < 0)
		return -1;
	for (size_t i = 0; i < c->views.nr; i++)
		if (decide_view(c, &c->views.items[i], err) < 0)
			return -1;
	return file_each_name(c->p->dirs[POOL_VIEWS], look_at_stub, c, err);
}

/* ---- sealed overlays ---- */

static struct mortal *find_overlay(const struct collecting *c, const uint8_t id[POOL_ID_SIZE])
{
	for (size_t i = 0; i < c->overlays.nr; i++)
		if (memcmp(c->overlays.items[i].id, id, POOL_ID_SIZE) == 0)
			return &c->overlays.items[i];
	return NULL;
}

static int list_overlay(void *ctx, const char *name, struct err *err)
{
	struct collecting *c = ctx;
	struct mortal m = { .named = false };

	if (!pool_id_parse_file_name(name, m.id) || find_view(c, m.id) || find_overlay(c, m.id))
		return 0;
	return vec_push(&c->overlays, m) < 0 ? collect_no_memory(err) : 0;
}

/* In trash/ are stubs, too, some of views in a file that is away. */
static int list_dying_overlay(void *ctx, const char *name, struct err *err)
{
	const struct collecting *c = ctx;
	int fd = file_open(c->p->dirs[POOL_TRASH], name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, NULL);
	uint8_t id[POOL_ID_SIZE];
	bool stub = false;
	struct slice s;
	uint64_t size;
	size_t len;

	if (fd >= 0) {
		stub = overlay_names(fd, &s, &size, NULL) > 0 && pool_file_parse(s.path, id, &len) == POOL_TOP;
		file_close(fd, name, NULL);
	}
	return stub ? 0 : list_overlay(ctx, name, err);
}

static int keep_wanted(struct collecting *c, struct err *err)
{
	char name[POOL_FILE_NAME_ROOM];

	for (size_t i = 0; i < c->wanted.nr; i++) {
		struct mortal *m = find_overlay(c, c->wanted.items[i].id);

		if (m)
			m->named = true;
		else if (c->wanted.items[i].must)
			return err_set(err, ERR_FORMAT, "sealed overlay '%s' is missing, and needed; nothing is removed",
				       pool_id_file_name(c->wanted.items[i].id, name));
	}
	return 0;
}

/* What an overlay that lives stands on, by its own words, wherever the pool was then: 1 = another one lives by that now, 0, -1. */
static int keep_below(struct collecting *c, const struct mortal *m, struct err *err)
{
	char name[POOL_FILE_NAME_ROOM];
	uint8_t id[POOL_ID_SIZE];
	struct mortal *below;
	enum pool_dir dir;
	struct slice s;
	uint64_t size;
	size_t len;
	int fd = file_open(c->p->dirs[m->at_home ? POOL_SEALED : POOL_TRASH], pool_id_file_name(m->id, name),
			   O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, err), rc;

	if (fd < 0)
		return -1;
	rc = overlay_names(fd, &s, &size, err);
	file_close(fd, name, NULL);
	if (rc < 0)
		return err_add(err, "sealed overlay '%s'; nothing is removed", name);
	dir = rc ? pool_file_parse(s.path, id, &len) : POOL_NR_DIRS;
	if (dir == POOL_VIEWS)
		return keep_view(c, id, name, err);
	below = dir == POOL_SEALED ? find_overlay(c, id) : NULL;
	if (!below || below->named)
		return 0;
	below->named = true;
	return decide(c, POOL_SEALED, below, err) < 0 ? -1 : 1;
}

static int decide_overlays(struct collecting *c, struct err *err)
{
	bool more = true;

	if (file_each_name(c->p->dirs[POOL_SEALED], list_overlay, c, err) < 0 ||
	    file_each_name(c->p->dirs[POOL_TRASH], list_dying_overlay, c, err) < 0 || keep_wanted(c, err) < 0)
		return -1;
	for (size_t i = 0; i < c->overlays.nr; i++)
		if (decide(c, POOL_SEALED, &c->overlays.items[i], err) < 0)
			return -1;
	while (more) {
		more = false;
		for (size_t i = 0; i < c->overlays.nr; i++) {
			int rc = c->overlays.items[i].fate == LIVES ? keep_below(c, &c->overlays.items[i], err) : 0;

			if (rc < 0)
				return -1;
			more |= rc > 0;
		}
	}
	return 0;
}

/* ---- moving them ---- */

static int move(struct collecting *c, enum pool_dir from, enum pool_dir to, const char *name, struct err *err)
{
	c->moved = true;
	return immutable_rename(c->p, from, name, to, name, RENAME_NOREPLACE, err);
}

/* One in trash/ beside the one that counts is left over from a repair. */
static int move_mortal(struct collecting *c, enum pool_dir home, struct mortal *m, struct err *err)
{
	char name[POOL_FILE_NAME_ROOM];
	int rc;

	pool_id_file_name(m->id, name);
	if (m->at_home && m->in_trash) {
		rc = in_use(c, POOL_TRASH, name, err);
		if (rc < 0 || (rc == 0 && immutable_unlink(c->p, POOL_TRASH, name, err) < 0))
			return -1;
		m->fate = rc ? LIVES : m->fate;
	}
	if (m->fate == LIVES)
		return m->at_home || !m->in_trash ? 0 : move(c, POOL_TRASH, home, name, err);
	if (m->fate == REMOVED)
		return 0;
	rc = in_use(c, home, name, err); /* by now */
	m->fate = rc > 0 ? LIVES : DYING;
	return rc < 0 ? -1 : rc > 0 ? 0 : move(c, home, POOL_TRASH, name, err);
}

/* Whoever wrote a view anew may have died before its stub led there. */
static int finish_replacing(struct collecting *c, const struct collected_view *v, struct err *err)
{
	char kept[VIEW_KEPT_STUB_ROOM];

	if (!v->replaced || view_check_stub(c->p, &v->view, POOL_VIEWS, NULL) < 0 ||
	    view_prove(c->p, &find_view(c, v->view.id)->view, NULL) < 0)
		return 0;
	return view_write_stub(c->p, &find_view(c, v->view.id)->view, view_kept_stub(&v->view, kept), err);
}

/* The pool may have been moved while it was in trash/, where repoint leaves it. */
static int mend_stub(struct collecting *c, const struct view *v, struct err *err)
{
	char kept[VIEW_KEPT_STUB_ROOM];
	struct err why = ERR_INIT;

	if (view_check_stub(c->p, v, POOL_VIEWS, &why) == 0 || why.kind != ERR_STALE)
		return 0;
	return view_write_stub(c->p, v, view_kept_stub(v, kept), err);
}

static int sync_moves(struct collecting *c, struct err *err)
{
	static const enum pool_dir dirs[] = { POOL_TRASH, POOL_VIEWS, POOL_SEALED };

	for (size_t i = 0; c->moved && i < ARRAY_SIZE(dirs); i++)
		if (file_sync_dir(c->p->dirs[dirs[i]], err) < 0)
			return -1;
	return 0;
}

static int move_all(struct collecting *c, struct err *err)
{
	for (size_t i = 0; i < c->views.nr; i++) {
		const struct collected_view *v = &c->views.items[i];
		bool comes_back = v->stub.fate == LIVES && !v->stub.at_home;

		if (!v->replaced && (move_mortal(c, POOL_VIEWS, &c->views.items[i].stub, err) < 0 ||
				     (comes_back && mend_stub(c, &v->view, err) < 0)))
			return -1;
	}
	for (size_t i = 0; i < c->overlays.nr; i++)
		if (move_mortal(c, POOL_SEALED, &c->overlays.items[i], err) < 0)
			return -1;
	for (size_t i = 0; i < c->views.nr; i++)
		if (finish_replacing(c, &c->views.items[i], err) < 0)
			return -1;
	return sync_moves(c, err);
}

static void count_all(struct collecting *c)
{
	for (size_t i = 0; i < c->views.nr; i++) {
		enum fate fate = c->views.items[i].stub.fate;

		c->ret->nr_views += fate == LIVES;
		c->ret->nr_dying += fate == DYING;
		c->ret->nr_removed += fate == REMOVED;
	}
	for (size_t i = 0; i < c->overlays.nr; i++)
		c->ret->nr_sealed += c->overlays.items[i].fate == LIVES;
}

/* ---- removing them ---- */

static int unlink_removed(struct collecting *c, const struct mortal *m, struct err *err)
{
	char name[POOL_FILE_NAME_ROOM];

	if (m->fate != REMOVED || !m->in_trash)
		return 0;
	return immutable_unlink(c->p, POOL_TRASH, pool_id_file_name(m->id, name), err);
}

static int remove_left_over(void *ctx, const char *name, struct err *err)
{
	const struct collecting *c = ctx;
	const char *dot = strrchr(name, '.');

	return *name == '.' && strcmp(dot, ".tmp") == 0 ? immutable_unlink(c->p, POOL_VIEWS, name, err) : 0;
}

/* Old stubs of a slot that goes lead nowhere, and nobody has them open.  Of one that stays they go as soon as nobody has; what is
 * damaged, which repair replaced, stays with it. */
static int unlink_kept(void *ctx, const char *name, struct err *err)
{
	const struct collecting *c = ctx;
	const struct collected_view *leads = view_of_kept(c, name), *named = view_of_kept_name(c, name);
	bool used = false;

	if (!named || (!leads && named->stub.fate != REMOVED))
		return 0;
	if (named->stub.fate != REMOVED || (leads && leads->stub.fate != REMOVED)) {
		if (use_of(c, POOL_QUARANTINE, name, true, &used, err) < 0)
			return -1;
		if (used)
			return 0;
	}
	return immutable_unlink(c->p, POOL_QUARANTINE, name, err);
}

/* Stubs, then slots: both are gone for good before nodes and clusters go that they lead to. */
static int remove_dead(struct collecting *c, struct err *err)
{
	for (size_t i = 0; i < c->views.nr; i++)
		if (!c->views.items[i].replaced && unlink_removed(c, &c->views.items[i].stub, err) < 0)
			return -1;
	for (size_t i = 0; i < c->overlays.nr; i++)
		if (unlink_removed(c, &c->overlays.items[i], err) < 0)
			return -1;
	if (file_each_name(c->p->dirs[POOL_QUARANTINE], unlink_kept, c, err) < 0 ||
	    file_each_name(c->p->dirs[POOL_VIEWS], remove_left_over, c, err) < 0 || file_sync_dir(c->p->dirs[POOL_TRASH], err) < 0)
		return -1;
	view_forget(c->p);
	for (size_t i = 0; i < c->views.nr; i++)
		if (c->views.items[i].stub.fate == REMOVED &&
		    clusters_bury(c->p->clusters, c->views.items[i].view.slot, err) < 0)
			return -1;
	return clusters_sync(c->p->clusters, err);
}

/* ---- what lives: nodes ---- */

static int missing(const uint8_t digest[DIGEST_SIZE], unsigned level, struct err *err)
{
	char text[DIGEST_TEXT_ROOM];

	return err_set(err, ERR_FORMAT, "node %s of level %u is missing or damaged; nothing is removed", digest_text(digest, text),
		       level);
}

/* 1 = it was not marked before. */
static int mark_record(struct collecting *c, uint64_t offset, struct err *err)
{
	int rc = judyset_add(&c->live, offset / 8);

	return rc < 0 ? collect_no_memory(err) : rc;
}

/* In whatever units its maps are: views may use any of them. */
static int mark_leaf(struct collecting *c, const uint8_t digest[DIGEST_SIZE], struct err *err)
{
	bool any = false;

	for (unsigned bits = POOL_UNIT_BITS_MIN; bits <= POOL_UNIT_BITS_MAX; bits += 2) {
		uint64_t at;
		int rc = nodes_locate(c->p->nodes, digest, 0, bits, &at, err);

		if (rc < 0 || (rc > 0 && mark_record(c, at, err) < 0))
			return -1;
		any |= rc > 0;
	}
	return any ? 0 : missing(digest, 0, err);
}

/* They are no part of the tree, and must not pass for nodes of which all was marked that is below. */
static int mark_bases(struct collecting *c, uint64_t offset, struct err *err)
{
	int rc, added = 1;

	while (added > 0 && (rc = nodes_locate_base(c->p->nodes, offset, &offset, err)) != 0) {
		if (rc < 0)
			return -1;
		added = judyset_add(&c->bases, offset / 8);
	}
	return added < 0 ? collect_no_memory(err) : 0;
}

static int keep_bases(struct collecting *c, struct err *err)
{
	for (uint64_t at = 0; judyset_first(&c->bases, &at); at++)
		if (judyset_add(&c->live, at) < 0)
			return collect_no_memory(err);
	judyset_release(&c->bases);
	return 0;
}

static int mark_tree(struct collecting *c, const uint8_t digest[DIGEST_SIZE], unsigned level, struct err *err)
{
	static const uint8_t null[DIGEST_SIZE];
	struct inner *node;
	uint64_t at;
	int rc;

	if (memcmp(digest, null, DIGEST_SIZE) == 0)
		return 0;
	if (level == 0)
		return mark_leaf(c, digest, err);
	rc = nodes_locate(c->p->nodes, digest, level, 0, &at, err);
	if (rc <= 0)
		return rc < 0 ? -1 : missing(digest, level, err);
	rc = mark_record(c, at, err);
	if (rc <= 0)
		return rc;
	if (mark_bases(c, at, err) < 0)
		return -1;
	node = malloc(sizeof(*node));
	if (!node)
		return collect_no_memory(err);
	rc = collect_stopped(c, err) < 0 ? -1 : nodes_get_inner(c->p->nodes, digest, level, node, err);
	for (unsigned i = 0; rc == 0 && i < DIGEST_FANOUT; i++)
		rc = mark_tree(c, node->children[i], level - 1, err);
	free(node);
	return rc;
}

static int mark_root(struct collecting *c, const uint8_t root[DIGEST_SIZE], uint64_t size, struct err *err)
{
	return mark_tree(c, root, digest_tree_height(size), err);
}

static int mark_name(void *ctx, const struct name *n, struct err *err)
{
	struct collecting *c = ctx;

	for (size_t i = 0; i < n->disks.nr; i++)
		if (n->disks.items[i].folded && mark_root(c, n->disks.items[i].root, n->disks.items[i].size, err) < 0)
			return err_add(err, "'%s'", n->disks.items[i].path);
	return 0;
}

/* Where no name needs a view, what of its tree is there does: its tables say which clusters. */
static int mark_view(struct collecting *c, const struct collected_view *v, struct err *err)
{
	struct err why = ERR_INIT;

	if (v->stub.fate == REMOVED || mark_root(c, v->view.root, v->view.disk_size, &why) == 0 ||
	    (!v->stub.named && why.kind == ERR_FORMAT))
		return 0;
	return err_set(err, why.kind, "%s", why.text);
}

static int mark_views(struct collecting *c, bool named, struct err *err)
{
	for (size_t i = 0; i < c->views.nr; i++)
		if (c->views.items[i].stub.named == named && mark_view(c, &c->views.items[i], err) < 0)
			return -1;
	return 0;
}

/* What is needed comes first: of a tree that may be damaged nodes are marked, and not all that is below. */
static int mark_nodes(struct collecting *c, struct err *err)
{
	collect_tell(c, "marking", 0, 0);
	judyset_release(&c->live);
	judyset_release(&c->bases);
	if (names_each(c->p, mark_name, c, err) < 0 || mark_views(c, true, err) < 0 || mark_views(c, false, err) < 0)
		return -1;
	return keep_bases(c, err);
}

bool collect_keeps_record(void *ctx, uint64_t offset)
{
	const struct collecting *c = ctx;

	return judyset_has(&c->live, offset / 8);
}

/* Offsets are new afterwards, so all is marked again. */
static int sweep_nodes(struct collecting *c, struct err *err)
{
	c->ret->nodes_before = c->ret->nodes_after = nodes_bytes(c->p->nodes);
	if (c->o->dry_run || (!c->nr_dead_nodes && !nodes_damaged(c->p->nodes)))
		return 0;
	if (nodes_keep(c->p->nodes, c->p->dirs[POOL_TREES], collect_keeps_record, c, judyset_count(&c->live), err) < 0)
		return -1;
	c->ret->nodes_after = nodes_bytes(c->p->nodes);
	return mark_nodes(c, err);
}

/* ---- the whole ---- */

static int collect(struct collecting *c, struct err *err)
{
	if (take_views(c, err) < 0 || names_each(c->p, take_name, c, err) < 0 || look_for_standing(c, err) < 0 ||
	    decide_overlays(c, err) < 0 || decide_views(c, err) < 0)
		return -1;
	if (mark_nodes(c, err) < 0 || collect_look_at_space(c, err) < 0)
		return -1;
	if (!c->o->dry_run && (move_all(c, err) < 0 || remove_dead(c, err) < 0))
		return -1;
	count_all(c);
	return sweep_nodes(c, err) < 0 || collect_space(c, err) < 0 ? -1 : collect_files(c, err);
}

int pool_collect(struct pool *p, const struct collect_options *o, struct collected *ret, struct err *err)
{
	struct collecting c = { .p = p, .o = o, .ret = ret };
	int rc;

	*ret = (struct collected){ 0 };
	p->restless |= !o->dry_run;
	rc = collect(&c, err);
	vec_release(&c.views);
	vec_release(&c.wanted);
	vec_release(&c.overlays);
	judyset_release(&c.live);
	judyset_release(&c.bases);
	collect_release_space(&c);
	return rc < 0 ? pool_err(p, err) : 0;
}
