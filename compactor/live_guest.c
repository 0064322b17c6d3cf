/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/live_guest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "compactor/exchange.h"
#include "compactor/sparse_copy.h"
#include "compactor/versions_parts.h"
#include "compactor/virsh.h"
#include "scanner/base/file.h"
#include "scanner/image/qcow2_format.h"

/* How it works.  A is the image, S its name in sealed/, F the fresh overlay, and T a file aside:
 *
 *	step                                           at the path  sealed/<id>  the guest's chain
 *	---------------------------------------------  -----------  -----------  -----------------
 *	0  a version is published, not settled         A            -            A
 *	1  virsh snapshot: T stands on the path        A            -            T -> A
 *	2  F is written, under the name it stands on   A            F            T -> A
 *	3  they change places                          F            A            T -> A
 *	4  virsh blockcopy of T into F                 F            A            F -> A
 *	5  T is removed, the version is settled
 *
 * QEMU opens a file anew, by the name that it knows, when it is to be read only, or to be written to again.  That is why the
 * exchange comes after the snapshot (which has it open A once more), and why the guest goes back to the path by a copy: that
 * has QEMU and libvirt open F and A by the names that they have then.  What is copied is what the guest wrote in the moments
 * between.
 *
 * What holds at every instant, and after any death of dedupscan, QEMU, libvirtd or the host:
 *
 *  L1. Whatever T stands on by its path holds what A held at step 1: A itself, or F, which has of T's data what T has itself.
 *      So a machine starts from T whenever libvirt's configuration says T.
 *  L2. libvirt's word is what counts: while any machine or configuration names T, T is the image.  When they name the path,
 *      and that is A, there was no snapshot; when it is F, the guest is home.  Without libvirt's word nothing is decided.
 *  L3. A version is settled after all its guests are home.
 *
 * A recovery goes on with step 2, 3 or 4, live.  Where QEMU was started from T since then, it has F open already, and T is
 * committed into F.  Where the machine is off a copy of T that stands on S takes the place of the image; then the
 * configuration is changed, then T is removed. */

#define CLOSING_TRIES 100
#define CLOSING_NS 50000000u
/* On each other: they are folded in while the machine runs, and it lets go of them when it is off. */
#define SEALED_MAX 8

/* One disk that has a file aside. */
struct guest {
	struct pool *pool;
	const struct name_disk *disk;
	int dirfd;
	char base[NAME_MAX + 1], aside[NAME_MAX + 1], aside_path[PATH_MAX];
};

static void seam_cleanup(int *fd)
{
	if (*fd >= 0)
		file_ops->close(*fd);
}

static void guest_release(struct guest *g)
{
	if (g->dirfd >= 0)
		file_ops->close(g->dirfd);
	g->dirfd = -1;
}
CLEANUP_DEFINE_RELEASE(struct guest, guest_release)

static int guest_init(struct pool *p, const struct name_disk *d, struct guest *g, struct err *err)
{
	char name[POOL_FILE_NAME_ROOM];
	const char *slash = strrchr(d->path, '/');

	*g = (struct guest){ .pool = p, .disk = d, .dirfd = -1 };
	pool_id_file_name(d->sealed, name);
	if (snprintf(g->aside, sizeof(g->aside), "%s.live-%s", slash + 1, name) >= (int)sizeof(g->aside) ||
	    snprintf(g->aside_path, sizeof(g->aside_path), "%.*s%s", (int)(slash + 1 - d->path), d->path, g->aside) >=
		    (int)sizeof(g->aside_path))
		return err_set(err, ERR_UNSUPPORTED, "image '%s': its name is too long for another one beside it",
			       d->path);
	g->dirfd = member_open_dir(p, d->path, g->base, err);
	return g->dirfd < 0 ? -1 : 0;
}

/* 1 = there is such a file. */
static int is_there(int dirfd, const char *name, struct stat *ret, struct err *err)
{
	if (file_ops->fstatat(dirfd, name, ret, AT_SYMLINK_NOFOLLOW) == 0)
		return 1;
	return errno == ENOENT ? 0 : err_errno(err, "cannot look at '%s'", name);
}

/* ---- which machine ---- */

/* By name, or by what is there. */
static const struct virsh_disk *disk_at(const struct virsh_disks *l, const char *path)
{
	struct stat a, b;
	bool there = file_ops->fstatat(AT_FDCWD, path, &a, 0) == 0;

	for (size_t i = 0; i < l->items.nr; i++) {
		const char *source = l->items.items[i].source;

		if (strcmp(source, path) == 0 || (there && file_ops->fstatat(AT_FDCWD, source, &b, 0) == 0 &&
						  a.st_dev == b.st_dev && a.st_ino == b.st_ino))
			return &l->items.items[i];
	}
	return NULL;
}

struct machines {
	struct virsh_disks running, configured;
};

static void machines_release(struct machines *m)
{
	virsh_disks_release(&m->running);
	virsh_disks_release(&m->configured);
}
CLEANUP_DEFINE_RELEASE(struct machines, machines_release)

static int machines_ask(struct machines *ret, struct err *err)
{
	machines_release(ret);
	return virsh_disks(true, &ret->running, err) < 0 || virsh_disks(false, &ret->configured, err) < 0 ? -1 : 0;
}

/* ---- the file aside ---- */

static int remove_aside(struct guest *g, bool keep, struct err *err)
{
	struct hold_options o = { .assume_idle = true };
	CLEANUP(seam) int fd = file_open(g->dirfd, g->aside, O_RDWR | O_NOFOLLOW | O_NONBLOCK, 0, err);
	CLEANUP(hold_release) struct hold hold = HOLD_INIT;
	struct err why = ERR_INIT;
	int rc = -1;

	/* QEMU closes it a moment after it said that it is done with it. */
	for (unsigned i = 0; fd >= 0 && rc < 0 && i < CLOSING_TRIES && (i == 0 || why.kind == ERR_BUSY); i++) {
		if (i)
			exchange_wait(CLOSING_NS);
		rc = hold_take(&hold, fd, g->dirfd, g->aside, &o, &why);
	}
	if (fd >= 0 && rc < 0)
		err_set(err, why.kind, "%s", why.text);
	if (rc < 0 || hold_whole(&hold, err) < 0)
		return err_add(err, "file '%s'", g->aside_path);
	if (keep ? file_rename_to(g->dirfd, g->aside, g->pool->dirs[POOL_QUARANTINE], g->aside, 0, err) < 0
		 : file_unlink(g->dirfd, g->aside, err) < 0)
		return -1;
	return file_sync_dir(g->dirfd, err);
}

/* ---- steps 2 and 3 ---- */

static int seal_one(struct guest *g, bool running, struct err *err)
{
	struct hold_options o = { .assume_idle = false };
	CLEANUP(member_release) struct member m = MEMBER_INIT;
	CLEANUP(seam) int aside = file_open(g->dirfd, g->aside, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, err);
	struct seal s = SEAL_INIT;
	int rc;

	if (aside < 0)
		return -1;
	s.member = &m;
	s.live = true;
	s.aside_fd = aside;
	memcpy(s.id, g->disk->sealed, POOL_ID_SIZE);
	if ((running ? member_open_beside(g->pool, g->disk->path, &m, err)
		     : member_open(g->pool, g->disk->path, &o, &m, err)) < 0)
		return -1;
	if (m.st.st_ino != g->disk->inode)
		return err_set(err, ERR_STALE, "image '%s': another file has its name by now", g->disk->path);
	rc = seal_write(g->pool, &s, &o, err);
	if (rc == 0)
		rc = running ? seal_exchange_live(g->pool, &s, err) : seal_exchange(g->pool, &s, 1, 0, err);
	seal_release(g->pool, &s);
	return rc;
}

/* What lies at sealed/<id> is the old overlay afterwards, and stays that. */
static int seal_if_not(struct guest *g, bool running, struct err *err)
{
	int rc = seal_was_done(g->pool, g->disk, err);

	if (rc <= 0)
		return rc < 0 ? -1 : seal_one(g, running, err);
	return file_sync_dir(g->dirfd, err) < 0 ? -1 : file_sync_dir(g->pool->dirs[POOL_SEALED], err);
}

/* ---- home, while it runs ---- */

/* 1 = QEMU was started from T since the exchange: then it has F open, and A as what F stands on.  One that was not knows A by
 * the name that F has now, and must not be told to write to it. */
static int is_below(struct guest *g, const struct virsh_disk *at, struct err *err)
{
	char name[POOL_FILE_NAME_ROOM], sealed[POOL_FILE_NAME_ROOM + 8];

	snprintf(sealed, sizeof(sealed), "/sealed/%s", pool_id_file_name(g->disk->sealed, name));
	return virsh_mentions(at->uuid, sealed, err);
}

/* By what name the file aside knows the image. */
static int name_below(struct guest *g, int fd, char ret[QCOW2_NAME_MAX + 1], struct err *err)
{
	struct qcow2_header h;
	struct stat a, b;

	if (overlay_header(fd, &h, err) < 0)
		return -1;
	if (h.backing_name[0] != '/' || file_ops->fstatat(AT_FDCWD, h.backing_name, &a, 0) < 0 ||
	    file_ops->fstatat(g->dirfd, g->base, &b, AT_SYMLINK_NOFOLLOW) < 0 || a.st_dev != b.st_dev ||
	    a.st_ino != b.st_ino)
		return err_set(err, ERR_STALE, "it stands on '%s' instead", h.backing_name);
	strcpy(ret, h.backing_name);
	return 0;
}

static int commit(struct guest *g, const struct virsh_disk *at, struct err *err)
{
	CLEANUP(seam) int fd = file_open(g->dirfd, g->aside, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, err);
	char below[QCOW2_NAME_MAX + 1];

	if (fd < 0 || name_below(g, fd, below, err) < 0)
		return -1;
	return virsh_commit(at->uuid, at->target, at->source, below, err);
}

static int check_home(struct guest *g, struct err *err)
{
	CLEANUP(machines_release) struct machines now = { .running.items = VEC_INIT };

	if (machines_ask(&now, err) < 0)
		return -1;
	if (disk_at(&now.running, g->aside_path) || disk_at(&now.configured, g->aside_path))
		return err_set(err, ERR_STALE, "libvirt still has '%s'", g->aside_path);
	return 0;
}

static int bring_home(struct guest *g, const struct virsh_disk *at, struct err *err)
{
	int below;

	virsh_abort(at->uuid, at->target);
	if (seal_if_not(g, true, err) < 0)
		return -1;
	below = is_below(g, at, err);
	if (below < 0 || (below ? commit(g, at, err) : virsh_copy(at->uuid, at->target, g->disk->path, err)) < 0)
		return -1;
	return check_home(g, err) < 0 ? -1 : remove_aside(g, false, err);
}

/* ---- home, when it is off ---- */

static int copy_aside(struct guest *g, int from, int to, struct err *err)
{
	CLEANUP(free) uint8_t *buf = malloc(SPARSE_PIECE);
	struct sparse_copy c = { .from = from, .to = to, .buf = buf };
	struct name_disk sealed = *g->disk;
	struct standing standing;
	struct stat st;

	if (!buf)
		return err_set(err, ERR_MEMORY, "out of memory");
	if (file_ops->fstat(from, &st) < 0)
		return err_errno(err, "cannot stat it");
	if (layer_stand_on(g->pool, &sealed, &standing, err) < 0 ||
	    sparse_copy(&c, 0, 0, (uint64_t)st.st_size, err) < 0 || file_truncate(to, (uint64_t)st.st_size, err) < 0)
		return -1;
	return versions_set_backing(to, &standing.backing, err);
}

/* Both are held. */
static int replace_by_copy(struct guest *g, int from, int old, struct err *err)
{
	CLEANUP(attributes_release) struct attributes attributes = ATTRIBUTES_INIT;
	int sealed = g->pool->dirs[POOL_SEALED], rc;
	struct overlay_facts facts;
	char name[POOL_FILE_NAME_ROOM];
	uint8_t id[POOL_ID_SIZE];
	CLEANUP(seam) int to = -1;

	if (pool_new_id(id, err) < 0 || overlay_look(old, &facts, err) < 0 || attributes_read(old, &attributes, err) < 0)
		return -1;
	names_will_change(g->pool);
	to = file_open(sealed, pool_id_file_name(id, name), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0600, err);
	if (to < 0)
		return -1;
	rc = attributes_set_empty(&attributes, to, err) < 0 || copy_aside(g, from, to, err) < 0 ||
			     attributes_set(&attributes, to, err) < 0 || file_sync(to, name, err) < 0 ||
			     file_rename_to(sealed, name, g->dirfd, g->base, 0, err) < 0
		     ? -1
		     : 0;
	if (rc < 0)
		file_unlink(sealed, name, NULL);
	return rc < 0 || file_sync_dir(g->dirfd, err) < 0 ? -1 : file_sync_dir(sealed, err);
}

static int take(struct guest *g, const char *name, int *ret_fd, struct hold *ret, struct err *err)
{
	struct hold_options o = { .assume_idle = false };

	*ret_fd = file_open_beneath(g->dirfd, name, O_RDWR | O_NOFOLLOW | O_NONBLOCK, 0, err);
	if (*ret_fd < 0 || hold_take(ret, *ret_fd, g->dirfd, name, &o, err) < 0)
		return err_add(err, "file '%s'", name);
	return 0;
}

static int replace_image(struct guest *g, struct err *err)
{
	CLEANUP(seam) int aside = -1, image = -1;
	CLEANUP(hold_release) struct hold aside_hold = HOLD_INIT, image_hold = HOLD_INIT;
	char below[QCOW2_NAME_MAX + 1];

	if (take(g, g->aside, &aside, &aside_hold, err) < 0 || take(g, g->base, &image, &image_hold, err) < 0)
		return -1;
	return name_below(g, aside, below, err) < 0 ? -1 : replace_by_copy(g, aside, image, err);
}

static int put_home(struct guest *g, const struct virsh_disk *at, struct err *err)
{
	int rc = virsh_is_saved(at->uuid, err);

	if (rc > 0)
		return err_set(err, ERR_BUSY, "its machine was saved while it wrote to '%s'; start it", g->aside_path);
	if (rc < 0 || seal_if_not(g, false, err) < 0 || replace_image(g, err) < 0 ||
	    virsh_rename(at->uuid, at->source, g->disk->path, err) < 0)
		return -1;
	return remove_aside(g, false, err);
}

/* ---- recovery ---- */

/* No machine has it, and one has the image: there was no snapshot, or the guest is home.  What is in it, or may be, is kept
 * all the same. */
static int put_away(struct guest *g, const struct machines *m, struct err *err)
{
	struct err why = ERR_INIT;
	int fd, empty;

	if (!disk_at(&m->running, g->disk->path) && !disk_at(&m->configured, g->disk->path))
		return err_set(err, ERR_STALE,
			       "libvirt has no machine with either of them; remove the latter if it is not wanted");
	fd = file_open(g->dirfd, g->aside, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, err);
	if (fd < 0)
		return -1;
	empty = overlay_is_empty(fd, &why);
	file_ops->close(fd);
	if (empty < 0 && (why.kind == ERR_IO || why.kind == ERR_MEMORY))
		return err_set(err, why.kind, "%s", why.text);
	return remove_aside(g, empty != 1, err);
}

static int go_on(struct guest *g, const struct machines *m, struct err *err)
{
	const struct virsh_disk *running = disk_at(&m->running, g->aside_path),
				*configured = disk_at(&m->configured, g->aside_path);
	int rc = running      ? bring_home(g, running, err)
		 : configured ? put_home(g, configured, err)
			      : put_away(g, m, err);

	return rc < 0 ? err_add(err, "image '%s', whose guest writes to '%s' beside it", g->disk->path, g->aside) : 0;
}

/* There is no such directory any more, for certain. */
static bool is_none(const struct err *why)
{
	if (why->kind != ERR_IO && why->kind != ERR_MEMORY)
		return true;
	return why->errnum == ENOENT || why->errnum == ENOTDIR || why->errnum == ELOOP || why->errnum == EXDEV;
}

/* Libvirt is asked before the first one. */
static int recover_one(struct pool *p, const struct name_disk *d, struct machines *m, bool *asked, struct err *err)
{
	CLEANUP(guest_release) struct guest g = { .dirfd = -1 };
	struct err why = ERR_INIT;
	struct stat st;
	int rc;

	if (guest_init(p, d, &g, &why) < 0) {
		if (is_none(&why))
			return 0;
		if (err)
			*err = why;
		return -1;
	}
	rc = is_there(g.dirfd, g.aside, &st, err);
	if (rc <= 0)
		return rc;
	if (!*asked && machines_ask(m, err) < 0)
		return err_add(err, "image '%s', whose guest may write to '%s' beside it", d->path, g.aside);
	*asked = true;
	return go_on(&g, m, err);
}

int live_recover(struct pool *p, const struct name *n, struct err *err)
{
	CLEANUP(machines_release) struct machines m = { .running.items = VEC_INIT };
	bool asked = false;

	for (size_t i = 0; i < n->disks.nr; i++)
		if (n->disks.items[i].inode && recover_one(p, &n->disks.items[i], &m, &asked, err) < 0)
			return -1;
	return 0;
}

/* ---- making one ---- */

/* A disk of the machine, now and when it starts again. */
static const struct virsh_disk *find_disk(const struct machines *m, const char *path, struct err *err)
{
	const struct virsh_disk *now = disk_at(&m->running, path), *then = disk_at(&m->configured, path);

	if (!now)
		return err_null(err, ERR_USAGE, "no machine of libvirt that runs has the image '%s'", path);
	if (!then || strcmp(now->uuid, then->uuid) != 0 || strcmp(now->target, then->target) != 0)
		return err_null(err, ERR_UNSUPPORTED,
				"image '%s': the machine that runs with it is not configured to start with it", path);
	return now;
}

static int add_disk(struct pool *p, const char *path, struct name *n, struct err *err)
{
	CLEANUP(member_release) struct member m = MEMBER_INIT;
	CLEANUP(guest_release) struct guest g = { .dirfd = -1 };
	uint8_t id[POOL_ID_SIZE];

	if (member_open_beside(p, path, &m, err) < 0)
		return -1;
	if (m.facts.nr_bitmaps)
		return err_set(err, ERR_UNSUPPORTED, "image '%s': it has persistent bitmaps, which would be lost",
			       path);
	if (versions_check_depth(p, &m, SEALED_MAX, err) < 0 || pool_new_id(id, err) < 0 ||
	    versions_add_pending(n, &m, id, err) < 0)
		return -1;
	return guest_init(p, &n->disks.items[n->disks.nr - 1], &g, err);
}

static int snapshot(struct pool *p, const struct name *n, const struct machines *m, bool quiesce, struct err *err)
{
	size_t nr = n->disks.nr, i;
	CLEANUP(free) struct virsh_aside *asides = calloc(nr, sizeof(*asides));
	CLEANUP(free) struct guest *guests = calloc(nr, sizeof(*guests));
	const char *uuid = NULL;

	if (!asides || !guests)
		return err_set(err, ERR_MEMORY, "out of memory");
	for (i = 0; i < nr; i++) {
		const struct virsh_disk *d = find_disk(m, n->disks.items[i].path, err);

		if (!d || guest_init(p, &n->disks.items[i], &guests[i], err) < 0)
			return -1;
		guest_release(&guests[i]);
		if (uuid && strcmp(uuid, d->uuid) != 0)
			return err_set(err, ERR_USAGE,
				       "the images are disks of several machines, of which each has its own moment");
		uuid = d->uuid;
		asides[i] = (struct virsh_aside){ d->target, guests[i].aside_path };
	}
	return virsh_snapshot(uuid, asides, nr, quiesce, err);
}

static int finish(struct pool *p, const struct name *n, struct err *err)
{
	bool sealed;

	if (live_recover(p, n, err) < 0)
		return err_add(err, "the version is not made yet; dedupscan recover goes on");
	if (seal_note(p, n->number, SEAL_AS_FOUND, &sealed, err) < 0)
		return -1;
	return sealed ? 0 : err_set(err, ERR_STALE, "what was sealed is not in the pool any more");
}

int live_snapshot(struct pool *p, const struct snapshot_options *o, bool quiesce, struct snapshot_made *ret,
		  struct err *err)
{
	CLEANUP(name_release) struct name n = { .kind = NAME_VERSION, .made = o->how.now };
	CLEANUP(machines_release) struct machines m = { .running.items = VEC_INIT };

	if (versions_check_new(p, o, err) < 0 || machines_ask(&m, err) < 0)
		return -1;
	for (size_t i = 0; i < o->nr_paths; i++)
		if (!find_disk(&m, o->paths[i], err) || add_disk(p, o->paths[i], &n, err) < 0)
			return -1;
	snprintf(n.label, sizeof(n.label), "%s", o->label);
	if (versions_add_files(o, &n, err) < 0 || names_publish(p, &n, true, err) < 0)
		return -1;
	if (snapshot(p, &n, &m, quiesce, err) < 0) {
		finish(p, &n, NULL);
		return -1;
	}
	if (finish(p, &n, err) < 0)
		return -1;
	*ret = (struct snapshot_made){ .number = n.number, .nr_sealed = n.disks.nr };
	return 0;
}
