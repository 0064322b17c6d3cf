/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/expand.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>

#include "compactor/guest_proof.h"
#include "compactor/member.h"
#include "compactor/pool/bitmaps.h"
#include "compactor/pool/feed.h"
#include "compactor/pool/names.h"
#include "compactor/pool/tree.h"
#include "compactor/pool/view.h"
#include "compactor/replace.h"
#include "compactor/room.h"
#include "compactor/standing.h"
#include "compactor/versions.h"
#include "compactor/writer.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"

struct expanding {
	struct pool *p;
	const struct expand_options *o;
	struct name *member; /* NULL = it is none */
	struct spool_identity as;
	const char *path;
	struct bitmaps bitmaps; /* the overlay's */
	struct writer *writer;
	int new_fd;
	proof_check *check;
	void *check_ctx;
	uint64_t used;	/* disk space of the overlay */
	uint64_t space; /* what the new file takes, about */
	uint64_t since; /* room_keep()'s */
};

/* ---- the new file ---- */

static int take_size(void *ctx, uint64_t size, struct err *err)
{
	struct expanding *x = ctx;

	x->writer = writer_new(writer_format_by_name("qcow2"), x->new_fd, x->path, size, &(struct writer_options){ 0 }, err);
	return x->writer ? 0 : -1;
}

static int take_segment(void *ctx, uint64_t segment, const void *bytes, struct err *err)
{
	struct expanding *x = ctx;
	uint64_t at = segment * SEGMENT_SIZE, end = x->writer->size;

	if (room_keep(x->new_fd, SEGMENT_SIZE, &x->since, err) < 0)
		return -1;
	return writer_put(x->writer, at, bytes, min_u64(SEGMENT_SIZE, end - at), err);
}

static int take_progress(void *ctx, uint64_t address, uint64_t size, struct err *err)
{
	struct expanding *x = ctx;

	if (x->o->progress)
		x->o->progress(x->o->ctx, address, size);
	return x->check(x->check_ctx, address, size, err);
}

static int make(void *ctx, int old_fd, int new_fd, proof_check *check, void *check_ctx, struct err *err)
{
	struct expanding *x = ctx;
	struct feed f = {
		.roots = x->o->roots, .jail = x->o->jail, .stopper = x->o->stopper, .format = "qcow2", .writable = true,
		.size = take_size, .segment = take_segment, .progress = take_progress, .ctx = x,
	};
	struct err note = ERR_INIT;
	int rc;

	x->new_fd = new_fd;
	x->check = check;
	x->check_ctx = check_ctx;
	if (bitmaps_read(old_fd, &x->bitmaps, err) < 0)
		return -1;
	if (x->o->problem && bitmaps_left_behind(&x->bitmaps, &note))
		x->o->problem(x->o->ctx, x->path, &note);
	rc = feed_run(&f, old_fd, x->path, err);
	if (rc == 0)
		rc = writer_end(x->writer, err);
	writer_free(STEAL(x->writer));
	return rc < 0 ? -1 : bitmaps_append(&x->bitmaps, new_fd, check, check_ctx, err);
}

/* Before it takes the place of the overlay: so there is no time at which it has, and nobody knows what became of that. */
static int note(struct expanding *x, int new_fd, struct err *err)
{
	struct file_birth is;

	if (!x->member || !file_birth(new_fd, "", &is))
		return 0;
	x->member->disks.items[0].expanded = (struct name_expanded){ is.ino, is.born, x->as.ino };
	return names_replace(x->p, x->member->number, x->member, err);
}

static int prove(void *ctx, int old_fd, int new_fd, proof_check *check, void *check_ctx, struct err *err)
{
	struct expanding *x = ctx;

	if (bitmaps_prove(&x->bitmaps, new_fd, check, check_ctx, err) < 0)
		return -1;
	if (proof_same_guest(old_fd, "qcow2", new_fd, "qcow2", x->path, x->o->roots, x->o->jail, check, check_ctx, err) < 0)
		return -1;
	return note(x, new_fd, err);
}

/* ---- what the pool has of it ---- */

/* What QEMU would read of the view below it.  An image that left with what is damaged could not be told from a whole one. */
static int prove_below(struct pool *p, const struct view *view, struct stopper *stopper, struct err *err)
{
	struct err why = ERR_INIT;

	if (view_read(p, view, stopper, NULL, NULL, &why) == 0)
		return 0;
	if (why.kind == ERR_CANCELED || why.kind == ERR_MEMORY)
		return err_set(err, why.kind, "%s", why.text);
	return err_set(err, ERR_FORMAT,
		       "what the pool has of it is damaged (%s): dedupscan pool check --read-data says where, pool repair may heal "
		       "it; qemu-img convert takes it as it is",
		       why.text);
}

/* ---- room ---- */

static int count_segment(void *ctx, uint64_t segment, struct leaf *map, struct err *err)
{
	(void)segment;
	(void)err;
	*(uint64_t *)ctx += leaf_bytes(map);
	return 0;
}

/* How much of it the overlay hides is not known: the larger of both counts here, and meanwhile room_keep() watches.  Where tables
 * are damaged the proof says it better. */
static int check_room(struct expanding *x, struct pool *p, const struct view *view, struct err *err)
{
	const char *name;
	CLEANUP(close_fd) int dirfd = roots_open_dir_of(x->o->roots, x->path, &name, err);
	uint64_t below = 0;

	if (dirfd < 0)
		return -1;
	if (view)
		view_each_map(p, view, count_segment, &below, NULL);
	x->space = max_u64(below, x->used);
	return room_check(dirfd, x->space, err);
}

/* ---- the image ---- */

/* Only an overlay is expanded; who it is is looked at before anybody is kept out. */
static int look(struct expanding *x, struct err *err)
{
	CLEANUP(close_fd) int fd = roots_open_again(x->o->roots, x->path, err);
	struct overlay_facts facts;
	struct stat st;

	if (fd < 0)
		return -1;
	if (overlay_look(fd, &facts, err) < 0)
		return err && err->kind == ERR_REFUSED ? err_set(err, ERR_UNSUPPORTED, "it stands on no pool") : -1;
	if (overlay_check_plain(&facts, err) < 0)
		return -1;
	if (file_ops->fstat(fd, &st) < 0)
		return err_errno(err, "cannot look at it");
	if (st.st_nlink != 1)
		return err_set(err, ERR_REFUSED, "it has %u names (hard links), of which only one would be replaced",
			       (unsigned)st.st_nlink);
	x->as = spool_identity_of(&st);
	x->used = (uint64_t)st.st_blocks * 512;
	return 0;
}

static int replace(struct expanding *x, struct err *err)
{
	const char *name, *relative;
	const struct root *root = roots_find(x->o->roots, x->path, &relative);
	CLEANUP(free) char *top = root ? strdup(root->path) : NULL;
	CLEANUP(close_fd) int dirfd = roots_open_dir_of(x->o->roots, x->path, &name, err);
	CLEANUP(workshop_close) struct workshop *w = NULL;
	struct replacing r = {
		.dirfd = dirfd, .name = name, .path = relative, .expected = x->as, .hold = { .assume_idle = x->o->assume_idle },
		.keep = x->o->keep_originals, .settle_ns = SETTLE_NS, .stopper = x->o->stopper,
		.make = make, .prove = prove, .ctx = x, .space = x->space,
	};
	int rc;

	if (dirfd < 0 || !root)
		return -1;
	if (!top)
		return err_set(err, ERR_MEMORY, "no memory for a path");
	if (workshop_open(root->dirfd, root->file ? dirname(top) : top, true, &w, err) < 0)
		return -1;
	r.workshop = w;
	rc = replace_image(&r, NULL, err);
	bitmaps_release(&x->bitmaps);
	return rc;
}

/* The member at its path may be another overlay, which was moved elsewhere: this one came from a backup, say, or is a copy. */
static int is_it(struct pool *p, const char *path, const struct name *member, struct err *err)
{
	const struct name_disk *d = &member->disks.items[0];
	const struct standing_id *s;
	struct standing_ids ids = { 0 };
	struct view view;
	int rc = standing_look(p, path, &ids, err);

	s = ids.list.items;
	if (ids.list.nr && s->slot) /* a block job cut the stub out */
		rc = name_id_is_null(d->below) && view_find(p, d->view, &view, NULL) > 0 && view.slot == s->slot;
	else if (ids.list.nr)
		rc = s->sealed ? pool_id_same(s->bytes, d->below) :
				 name_id_is_null(d->below) && pool_id_same(s->bytes, d->view);
	vec_release(&ids.list);
	return rc;
}

/* The member that it is: 1, 0 = none.  One that was moved is known at its new path from then on. */
static int find_member(struct pool *p, const char *path, struct name *ret, struct err *err)
{
	int rc = names_find_member(p, path, ret, err);

	if (rc == 0 && versions_adopt(p, path, err) < 0)
		return -1;
	if (rc == 0)
		rc = names_find_member(p, path, ret, err);
	return rc > 0 ? is_it(p, path, ret, err) : rc;
}

/* The view that it stands on: 1, 0 = the pool has none. */
static int find_below(struct pool *p, const struct name *member, struct view *ret, struct err *err)
{
	const struct name_disk *d = &member->disks.items[0];

	return name_id_is_null(d->view) ? 0 : view_find(p, d->view, ret, err);
}

int expand_image(struct pool *p, const struct expand_options *o, const char *path, struct err *err)
{
	struct expanding x = { .p = p, .o = o, .path = path, .bitmaps = BITMAPS_INIT };
	CLEANUP(name_release) struct name member = { 0 };
	struct view view;
	int rc, has_view;

	if (look(&x, err) < 0)
		return -1;
	rc = find_member(p, path, &member, err);
	x.member = rc > 0 ? &member : NULL;
	has_view = rc > 0 ? find_below(p, &member, &view, err) : rc;
	if (has_view < 0 || check_room(&x, p, has_view ? &view : NULL, err) < 0 ||
	    (has_view && prove_below(p, &view, o->stopper, err) < 0) || replace(&x, err) < 0)
		return -1;
	/* An original that is kept may go back: it needs its view, until versions_each_expanded() finds that it is gone. */
	return rc && !o->keep_originals ? names_remove(p, member.number, err) : 0;
}
