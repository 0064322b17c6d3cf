/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>

#include "compactor/compact_parts.h"
#include "compactor/room.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"


static bool is_idle(struct compaction *c, size_t image, size_t file)
{
	const char *name;
	struct err why = ERR_INIT;
	CLEANUP(close_fd) int dirfd = roots_open_dir_of(c->o.roots, c->store.files.items[file].path, &name, &why);
	int fd = dirfd < 0 ? -1 : store_open(&c->store, file, &why);

	if (fd >= 0 && hold_look(fd, dirfd, name, &why) == 0)
		return true;
	if (c->o.assume_idle && why.kind == ERR_UNSUPPORTED)
		return true;
	compact_leave(c, image, why.text);
	return false;
}

bool rewrite_idle(struct compaction *c, size_t image)
{
	const struct store_image *i = &c->store.images.items[image];

	for (size_t n = 0; n < i->nr_files; n++)
		if (!is_idle(c, image, i->first_file + n))
			return false;
	return true;
}

int rewrite_open(struct compaction *c, size_t file, int *ret_dirfd, const char **ret_name, struct err *err)
{
	const struct store_file *f = &c->store.files.items[file];
	const char *name;
	CLEANUP(close_fd) int dirfd = roots_open_dir_of(c->o.roots, f->path, &name, err);
	struct stat st;
	int fd;

	if (dirfd < 0)
		return -1;
	store_close_files(&c->store);
	fd = file_open_beneath(dirfd, name, O_RDWR | O_NONBLOCK | O_NOFOLLOW, RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV, err);
	if (fd < 0)
		return -1;
	if (file_ops->fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_ino != f->identity.ino ||
	    st.st_dev != f->identity.dev) {
		file_close(fd, f->path, NULL);
		return err_set(err, ERR_STALE, "it is another file by now");
	}
	*ret_dirfd = STEAL_FD(dirfd);
	*ret_name = name;
	return fd;
}

static struct workshop *workshop_of(struct compaction *c, const char *path, const char **ret_name, struct err *err)
{
	const struct root *root = roots_find(c->o.roots, path, ret_name);
	struct workshop *w;

	if (!root)
		return err_null(err, ERR_REFUSED, "'%s' lies outside the directories given", path);
	return compact_workshop(c, (size_t)(root - c->o.roots->list.items), true, &w, err) < 0 ? NULL : w;
}

/* The catalog need not have it read again, if it knew what the new file is proven to say; an overlay says something else. */
static int now_known(struct compaction *c, size_t file, const struct spool_identity *identity, struct err *err)
{
	const struct store_file *f = &c->store.files.items[file];
	struct store_image *i = &c->store.images.items[f->image];

	if (c->step->method != PLAN_POOL && file == i->first_file && spool_identity_equal(&i->identity, &f->identity)) {
		if (catalog_image_set_identity(c->catalog, i->id, identity, err) < 0)
			return -1;
		i->identity = *identity;
	}
	return store_look_again(&c->store, file, err);
}

/* There was no room, and it may be tried again: names that were exchanged and exchanged back have left a trace. */
static void look_for_another_try(struct compaction *c, size_t file)
{
	struct store_file *f = &c->store.files.items[file];
	int fd = store_open(&c->store, file, NULL);
	struct spool_identity now;
	struct stat st;

	if (fd < 0 || file_ops->fstat(fd, &st) < 0)
		return;
	now = spool_identity_of(&st);
	if (now.size == f->identity.size && now.mtime == f->identity.mtime)
		f->identity.ctime = now.ctime;
}

/* ---- settling ---- */

struct settling {
	struct compaction *c;
	struct workshop *workshop;
};

/* Whatever is at the path now: what the catalog knew is the original, and what it has become the next scan finds out. */
static void know_original(struct compaction *c, const struct replaced *r)
{
	const struct store_file *f = &c->store.files.items[r->file];
	struct store_image *i = &c->store.images.items[f->image];

	if (r->file == i->first_file) {
		catalog_image_set_identity(c->catalog, i->id, &r->scanned, NULL);
		i->identity = r->scanned;
	}
	store_look_again(&c->store, r->file, NULL);
	if (f->identity.ino != r->ino)
		i->relayout = r->relayout;
	store_close_files(&c->store);
}

static void settled(void *ctx, uint64_t number, const struct err *why)
{
	const struct settling *s = ctx;
	struct compaction *c = s->c;
	struct replaced r;
	size_t n = 0;

	while (n < c->replaced.nr && (c->replaced.items[n].number != number || c->replaced.items[n].workshop != s->workshop))
		n++;
	if (n == c->replaced.nr)
		return;
	r = c->replaced.items[n];
	c->replaced.items[n] = c->replaced.items[--c->replaced.nr];
	if (!why->kind)
		return;
	know_original(c, &r);
	compact_undone(c, &c->plan->steps[r.step], why);
}

static void settle(struct compaction *c, enum replace_settle how)
{
	for (size_t i = 0; i < c->o.roots->list.nr && c->replaced.nr; i++) {
		struct settling s = { c, c->workshops[i] };

		if (!s.workshop || (how == REPLACE_SETTLE_FIRST && !replace_due(s.workshop)))
			continue;
		store_close_files(&c->store);
		replace_settle(s.workshop, how, settled, &s);
	}
}

void rewrite_settle(struct compaction *c)
{
	settle(c, REPLACE_SETTLE_FIRST);
}

void rewrite_settle_all(struct compaction *c)
{
	settle(c, REPLACE_SETTLE_ALL);
}

static bool is_unsettled(const struct compaction *c, size_t file)
{
	for (size_t i = 0; i < c->replaced.nr; i++)
		if (c->replaced.items[i].file == file)
			return true;
	return false;
}

/* ---- replacing ---- */

struct rewriting {
	struct compaction *c;
	rewrite_call *make, *prove;
	proof_check *check;
	void *check_ctx;
	uint64_t part;	  /* of the step's work: what is at hand, bytes */
	uint64_t counted; /* of that */
};

static bool has_files_open(const struct store *s)
{
	for (size_t i = 0; i < STORE_OPEN; i++)
		if (s->open[i].used)
			return true;
	return false;
}

static void count_up_to(struct rewriting *r, uint64_t done, uint64_t total)
{
	uint64_t to = total ? (uint64_t)((double)r->part * ((double)min_u64(done, total) / (double)total)) : 0;

	if (to <= r->counted)
		return;
	compact_count(r->c, to - r->counted);
	r->counted = to;
}

/* Others settle meanwhile, one at a time: whoever opens this image waits. */
static int check_and_settle(void *ctx, uint64_t done, uint64_t total, struct err *err)
{
	struct rewriting *r = ctx;

	count_up_to(r, done, total);
	if (r->check(r->check_ctx, done, total, err) < 0)
		return -1;
	if (!has_files_open(&r->c->store))
		rewrite_settle(r->c);
	return 0;
}

/* Making is half of the work, and proving the other half. */
static void begin_part(struct rewriting *r, proof_check *check, void *check_ctx)
{
	r->check = check;
	r->check_ctx = check_ctx;
	r->part = r->c->step->work / 2 / r->c->store.images.items[r->c->step->image].nr_files;
	r->counted = 0;
}

static int make_new(void *ctx, int old_fd, int new_fd, proof_check *check, void *check_ctx, struct err *err)
{
	struct rewriting *r = ctx;
	int rc;

	begin_part(r, check, check_ctx);
	cache_loan_take(r->c->o.loan, new_fd, 0);
	rc = r->make(r->c, old_fd, new_fd, check_and_settle, r, err);
	if (rc == 0)
		count_up_to(r, 1, 1);
	return rc;
}

/* From now on the new file is read. */
static int prove_new(void *ctx, int old_fd, int new_fd, proof_check *check, void *check_ctx, struct err *err)
{
	struct rewriting *r = ctx;
	int rc;

	begin_part(r, check, check_ctx);
	store_close_files(&r->c->store);
	rc = r->prove(r->c, old_fd, new_fd, check_and_settle, r, err);
	if (rc == 0)
		count_up_to(r, 1, 1);
	cache_loan_return(r->c->o.loan, old_fd);
	return rc;
}

/* What has to settle may hold the room. */
static int make_room(struct compaction *c, int dirfd, struct err *err)
{
	if (!c->replaced.nr)
		return room_check(dirfd, c->step->space, err);
	if (room_check(dirfd, c->step->space, NULL) == 0)
		return 0;
	rewrite_settle_all(c);
	return room_check(dirfd, c->step->space, err);
}

/* Before anything is done with the new file: there is room to note that it has to settle. */
static int replace(struct compaction *c, size_t file, struct replacing *r, struct spool_identity *ret, struct err *err)
{
	const struct store_image *i = &c->store.images.items[c->store.files.items[file].image];
	struct replaced old = {
		.workshop = r->workshop, .step = (size_t)(c->step - c->plan->steps), .file = file, .scanned = i->identity,
		.relayout = i->relayout,
	};

	if (vec_reserve(&c->replaced) < 0)
		return err_set(err, ERR_MEMORY, "no memory to note that it is replaced");
	r->later = &old.number;
	if (replace_image(r, ret, err) < 0)
		return -1;
	old.ino = ret->ino;
	if (old.number)
		c->replaced.items[c->replaced.nr++] = old;
	return 0;
}

int rewrite_file(struct compaction *c, size_t file, rewrite_call *make, rewrite_call *prove, struct err *err)
{
	const char *name, *relative, *path = c->store.files.items[file].path;
	uint64_t worked = c->step->worked;
	struct spool_identity identity;
	struct replacing r = {
		.hold = { .assume_idle = c->o.assume_idle }, .keep = c->o.keep_originals,
		.settle_ns = SETTLE_NS, .stopper = c->o.stopper, .make = make_new, .prove = prove_new,
		.space = c->step->method == PLAN_POOL ? c->step->space : 0,
		.ctx = &(struct rewriting){ .c = c, .make = make, .prove = prove },
	};
	CLEANUP(close_fd) int dirfd = roots_open_dir_of(c->o.roots, path, &name, err);

	r.workshop = dirfd < 0 ? NULL : workshop_of(c, path, &relative, err);
	if (is_unsettled(c, file))
		rewrite_settle_all(c);
	rewrite_settle(c);
	if (c->step->state != PLAN_DONE)
		return err_set(err, ERR_STALE, "what was done with it before did not stand");
	if (!r.workshop || make_room(c, dirfd, err) < 0)
		return -1;
	store_close_files(&c->store);
	r.expected = c->store.files.items[file].identity;
	r.dirfd = dirfd;
	r.name = name;
	r.path = relative;
	if (replace(c, file, &r, &identity, err) < 0) {
		c->done -= c->step->worked - worked; /* nothing came of it */
		c->step->worked = worked;
		if (err && err->kind == ERR_FULL)
			look_for_another_try(c, file);
		return -1;
	}
	if (now_known(c, file, &identity, err) == 0)
		return 0;
	if (err && err->kind == ERR_FULL) /* not to be tried again */
		err->kind = ERR_IO;
	return err_add(err, "it was replaced, but could not be looked at again");
}
