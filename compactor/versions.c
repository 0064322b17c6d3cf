/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/versions_parts.h"

#include <fcntl.h>
#include <stdio.h>
#include <time.h>

#include "scanner/base/checked.h"
#include "scanner/base/file.h"

/* How it works: seal.c moves overlays, names.c publishes; seal.c's head has the states of both.  Here is what a version is made
 * of, and the order: all images are open and held before anything is written, so that a set is as of one moment. */

/* ---- lists ---- */

int path_list_add(struct path_list *l, uint64_t number, const char *path, struct err *err)
{
	struct path_of x = { number, strdup(path) };

	if (x.path && vec_push(&l->items, x) == 0)
		return 0;
	free(x.path);
	return err_set(err, ERR_MEMORY, "out of memory");
}

void path_list_release(struct path_list *l)
{
	for (size_t i = 0; i < l->items.nr; i++)
		free(l->items.items[i].path);
	vec_release(&l->items);
}

/* ---- sealing ---- */

int versions_check_depth(struct pool *p, const struct member *m, unsigned most, struct err *err)
{
	unsigned depth;

	if (layer_depth(p, m->standing.below, &depth, err) < 0)
		return -1;
	if (depth < (most ? most : 1))
		return 0;
	if (most > 1)
		return err_set(err, ERR_REFUSED,
			       "image '%s': %u versions were made of it while its machine ran; shut that down and run "
			       "dedupscan compact --apply before the next one",
			       member_disk(m)->path, depth);
	return err_set(err, ERR_REFUSED,
		       "image '%s': what its last version sealed waits to be folded into the pool; dedupscan compact --apply does "
		       "that",
		       member_disk(m)->path);
}

int versions_add_pending(struct name *n, const struct member *m, const uint8_t sealed[POOL_ID_SIZE], struct err *err)
{
	struct name_disk d = { .size = m->facts.size, .inode = m->st.st_ino };

	snprintf(d.path, sizeof(d.path), "%s", member_disk(m)->path);
	memcpy(d.view, m->standing.view, POOL_ID_SIZE);
	memcpy(d.below, m->standing.below, POOL_ID_SIZE);
	memcpy(d.sealed, sealed, POOL_ID_SIZE);
	return vec_push(&n->disks, d) < 0 ? err_set(err, ERR_MEMORY, "out of memory") : 0;
}

/* Sealing goes in two rounds of syncs.  In the first is all that is written: the fresh overlays, the version as it is pending, and,
 * under other names, how it and its members are to be noted at the end.  In the second is what changes places, and what was sealed.
 * That ends well when the second is done: a recovery of what is pending comes to the same, so the renames by which names become
 * what they are to be need no sync. */
struct sealing {
	struct pool *pool;
	struct name *name; /* pending */
	struct seal *seals;
	size_t nr;
	enum seal_end end;
	const struct versions_how *how;

	struct name *notes; /* the settled version, and the nr members behind it */
	int *fds;	    /* of the pending version, and of those; -1 */
	bool promised, kept;
};

static int sealing_init(struct sealing *x, struct err *err)
{
	x->notes = calloc(x->nr + 1, sizeof(*x->notes));
	x->fds = malloc((x->nr + 2) * sizeof(*x->fds));
	if (!x->notes || !x->fds)
		return err_set(err, ERR_MEMORY, "out of memory");
	for (size_t i = 0; i < x->nr + 2; i++)
		x->fds[i] = -1;
	return 0;
}

static void sealing_release(struct sealing *x)
{
	for (size_t i = 0; x->fds && i < x->nr + 2; i++)
		if (x->fds[i] >= 0)
			file_ops->close(x->fds[i]);
	for (size_t i = 0; x->notes && i < x->nr + 1; i++)
		name_release(&x->notes[i]);
	free(x->notes);
	free(x->fds);
}
CLEANUP_DEFINE_RELEASE(struct sealing, sealing_release)

static int begin_all(struct sealing *x, struct err *err)
{
	for (size_t i = 0; i < x->nr; i++) {
		const struct member *m = x->seals[i].member;

		if (!x->seals[i].target && versions_check_depth(x->pool, m, x->how->sealed_max, err) < 0)
			return -1;
		if (seal_begin(x->pool, &x->seals[i], err) < 0 || versions_add_pending(x->name, m, x->seals[i].id, err) < 0)
			return -1;
		if (seal_describe(m->fd, &m->st, &x->name->disks.items[x->name->disks.nr - 1], err) < 0)
			return err_add(err, "image '%s'", member_disk(m)->path);
	}
	return 0;
}

/* What a member is to be noted with. */
static int describe_fresh(struct pool *p, const struct seal *s, struct name *ret, struct err *err)
{
	const struct member *m = s->member;
	struct standing standing = { .size = m->facts.size };

	if (s->target)
		standing = *s->target;
	else
		memcpy(standing.below, s->id, POOL_ID_SIZE);
	if (!s->target)
		memcpy(standing.view, m->standing.view, POOL_ID_SIZE);
	standing.size = round_up(standing.size, 512);
	if (name_copy(&m->name, ret, err) < 0)
		return -1;
	return member_describe(p, &standing, &ret->disks.items[0], err);
}

static int write_notes(struct sealing *x, struct err *err)
{
	if (name_copy(x->name, &x->notes[0], err) < 0)
		return -1;
	for (size_t i = 0; i < x->notes[0].disks.nr; i++)
		x->notes[0].disks.items[i].inode = 0;
	for (size_t i = 0; i < x->nr; i++)
		if (describe_fresh(x->pool, &x->seals[i], &x->notes[i + 1], err) < 0)
			return -1;
	for (size_t i = 0; i < x->nr + 1; i++)
		if (names_rewrite(x->pool, &x->notes[i], &x->fds[i + 1], err) < 0)
			return -1;
	return 0;
}

static int sync_written(struct sealing *x, struct err *err)
{
	CLEANUP(to_sync_release) struct to_sync sync = { .list = VEC_INIT };

	for (size_t i = 0; i < x->nr; i++)
		if (to_sync_add(&sync, x->seals[i].fresh_fd, true, err) < 0)
			return -1;
	for (size_t i = 0; i < x->nr + 2; i++)
		if (x->fds[i] >= 0 && to_sync_add(&sync, x->fds[i], true, err) < 0)
			return -1;
	if (to_sync_add(&sync, x->pool->dirs[POOL_SEALED], false, err) < 0 ||
	    to_sync_add(&sync, x->pool->dirs[POOL_NAMES], false, err) < 0)
		return -1;
	return sync_all(&sync, err);
}

static int reread_all(struct sealing *x, struct err *err)
{
	for (size_t i = 0; i < x->nr; i++)
		if (seal_prove(x->pool, &x->seals[i], &x->how->hold, err) < 0)
			return -1;
	for (size_t i = 0; i < x->nr + 2; i++) {
		int fd = x->fds[i];

		x->fds[i] = -1;
		if (fd >= 0 && names_reread(x->pool, fd, i ? x->notes[i - 1].number : x->name->number, err) < 0)
			return -1;
	}
	return 0;
}

/* The first round.  The version is promised then, and nothing of the images has changed. */
static int write_all(struct sealing *x, struct err *err)
{
	if (begin_all(x, err) < 0 || names_promise(x->pool, x->name, &x->fds[0], err) < 0)
		return -1;
	x->promised = true;
	if ((x->end != SEAL_DISCARD && write_notes(x, err) < 0) || sync_written(x, err) < 0 || reread_all(x, err) < 0 ||
	    names_keep(x->pool, x->name, err) < 0)
		return -1;
	x->kept = true;
	return 0;
}

/* Members first: a version that is still pending is noted again, with them. */
static int put_notes(struct sealing *x, struct err *err)
{
	for (size_t i = x->nr + 1; i-- > 0;)
		if (names_put_rewritten(x->pool, &x->notes[i], err) < 0)
			return -1;
	return 0;
}

/* Who discards waits, as what a latecomer wrote would be lost. */
static int change_and_note(struct sealing *x, struct err *err)
{
	enum seal_end end = x->end;
	int rc = seal_exchange(x->pool, x->seals, x->nr, end == SEAL_DISCARD ? x->how->settle_ns : 0, err);
	bool sealed;

	if (rc == 0 && end != SEAL_DISCARD)
		return put_notes(x, err);
	if (rc < 0 && end == SEAL_DISCARD)
		end = SEAL_AS_FOUND; /* what somebody had open is kept */
	else if (rc < 0 && !x->seals[0].target)
		end = SEAL_FAILED;
	names_drop(x->pool, NULL);
	if (seal_note(x->pool, x->name->number, end, &sealed, rc == 0 ? err : NULL) < 0)
		return -1;
	return rc == 0 && !sealed ? err_set(err, ERR_STALE, "what was sealed is not in the pool any more") : rc;
}

static void give_up(struct sealing *x)
{
	names_distrust(x->pool);
	if (x->kept)
		return;
	names_drop(x->pool, NULL);
	if (x->promised)
		names_break(x->pool, x->name->number, NULL);
}

int versions_seal(struct pool *p, struct name *n, struct member *const *members, size_t nr, const struct standing *target,
		  enum seal_end end, const struct versions_how *how, struct err *err)
{
	CLEANUP(free) struct seal *seals = calloc(nr, sizeof(*seals));
	CLEANUP(sealing_release) struct sealing x = {
		.pool = p, .name = n, .seals = seals, .nr = nr, .end = end, .how = how,
	};
	int rc;

	if (!seals || sealing_init(&x, err) < 0)
		return seals ? -1 : err_set(err, ERR_MEMORY, "out of memory");
	for (size_t i = 0; i < nr; i++) {
		seals[i] = (struct seal)SEAL_INIT;
		seals[i].member = members[i];
		seals[i].target = target;
		seals[i].touch = target != NULL;
	}
	rc = write_all(&x, err);
	if (rc == 0)
		rc = change_and_note(&x, err);
	if (rc < 0)
		give_up(&x);
	for (size_t i = 0; i < nr; i++)
		seal_release(p, &seals[i]);
	return rc;
}

static int describe_view(struct pool *p, const struct member *m, struct name_disk *ret, struct err *err)
{
	struct view v;
	int rc = view_find(p, m->standing.view, &v, err);

	if (rc < 0)
		return -1;
	if (rc == 0)
		return err_set(err, ERR_FORMAT, "the pool '%s' does not have the view that '%s' stands on", p->path,
			       member_disk(m)->path);
	ret->folded = true;
	ret->size = v.disk_size;
	memcpy(ret->root, v.root, DIGEST_SIZE);
	memcpy(ret->view, v.id, POOL_ID_SIZE);
	return 0;
}

static int describe_layer(struct pool *p, const struct member *m, struct name_disk *ret, struct err *err)
{
	struct name_disk layer;
	int rc = layer_find(p, m->standing.below, &layer, err);

	if (rc <= 0)
		return rc < 0 ? -1
			      : err_set(err, ERR_FORMAT, "no name of the pool '%s' knows what '%s' stands on", p->path,
					member_disk(m)->path);
	memcpy(layer.path, ret->path, sizeof(layer.path));
	if (layer.folded || seal_was_written(p, &layer)) /* then what it is now is what is meant */
		seal_forget(&layer);
	if (layer.folded) {
		memset(layer.sealed, 0, POOL_ID_SIZE);
		memset(layer.below, 0, POOL_ID_SIZE);
	}
	*ret = layer;
	return 0;
}

int versions_unchanged(struct pool *p, const struct member *m, struct name_disk *ret, struct err *err)
{
	struct name_disk d = { .size = 0 };

	if (!m->facts.empty)
		return 0;
	snprintf(d.path, sizeof(d.path), "%s", member_disk(m)->path);
	if ((name_id_is_null(m->standing.below) ? describe_view(p, m, &d, err) : describe_layer(p, m, &d, err)) < 0)
		return -1;
	if (round_up(d.size, 512) != round_up(m->facts.size, 512)) /* it was resized */
		return 0;
	*ret = d;
	return 1;
}

/* ---- snapshots ---- */

int versions_check_label(const char *label, struct err *err)
{
	size_t len = strlen(label);

	if (len == 0 || len > 255)
		return err_set(err, ERR_USAGE, "the name of a version has 1 to 255 bytes");
	if (*label == '-')
		return err_set(err, ERR_USAGE, "the name of a version does not begin with '-'");
	for (const unsigned char *c = (const void *)label; *c; c++)
		if (*c < 0x20 || *c == 0x7f || *c == '@' || *c == '/')
			return err_set(err, ERR_USAGE, "the name of a version has no '@', no '/' and no control characters");
	return 0;
}

struct set {
	struct member *members;
	size_t nr;
	struct name name;
};

static void set_release(struct set *s)
{
	for (size_t i = 0; i < s->nr; i++)
		member_release(&s->members[i]);
	free(s->members);
	name_release(&s->name);
}
CLEANUP_DEFINE_RELEASE(struct set, set_release)

int versions_check_new(struct pool *p, const struct snapshot_options *o, struct err *err)
{
	if (versions_check_label(o->label, err) < 0)
		return -1;
	if (o->nr_paths == 0 || o->nr_paths > NAME_DISKS_MAX || o->nr_files > NAME_FILES_MAX)
		return err_set(err, ERR_USAGE, "a version has 1 to %d images and at most %d files", NAME_DISKS_MAX, NAME_FILES_MAX);
	for (size_t i = 0; i < o->nr_paths; i++) {
		CLEANUP(name_release) struct name old = { .number = 0 };
		int rc = names_find_version(p, o->paths[i], o->label, &old, err);

		if (rc)
			return rc < 0 ? -1 : err_set(err, ERR_USAGE, "there is a version '%s' of '%s'", o->label, o->paths[i]);
		for (size_t j = 0; j < i; j++)
			if (strcmp(o->paths[i], o->paths[j]) == 0)
				return err_set(err, ERR_USAGE, "image '%s' is named twice", o->paths[i]);
	}
	return 0;
}

static int read_small(const char *path, struct name_file *ret, struct err *err)
{
	int fd = file_open(AT_FDCWD, path, O_RDONLY | O_NONBLOCK, 0, err), rc = 0;
	ssize_t len = 0;
	struct stat st;

	if (fd < 0)
		return -1;
	ret->bytes = malloc(NAME_FILE_MAX + 1);
	if (!ret->bytes)
		rc = err_set(err, ERR_MEMORY, "out of memory");
	else if (file_ops->fstat(fd, &st) < 0)
		rc = err_errno(err, "cannot stat it");
	else if (!S_ISREG(st.st_mode) || st.st_size > (off_t)NAME_FILE_MAX)
		rc = err_set(err, ERR_REFUSED, "not a regular file of at most 1 MiB");
	if (rc == 0)
		len = file_read_some(fd, ret->bytes, NAME_FILE_MAX + 1, 0, err);
	if (len > (ssize_t)NAME_FILE_MAX)
		rc = err_set(err, ERR_STALE, "it grows");
	file_ops->close(fd);
	ret->len = len > 0 ? (uint32_t)len : 0;
	return len < 0 ? -1 : rc;
}

int versions_add_files(const struct snapshot_options *o, struct name *n, struct err *err)
{
	for (size_t i = 0; i < o->nr_files; i++) {
		struct name_file f = { .len = 0 };
		int rc;

		if (o->files[i][0] != '/' || strlen(o->files[i]) >= sizeof(f.path))
			return err_set(err, ERR_USAGE, "'%s' is no absolute path", o->files[i]);
		strcpy(f.path, o->files[i]);
		rc = read_small(f.path, &f, err);
		if (rc == 0 && vec_push(&n->files, f) < 0)
			rc = err_set(err, ERR_MEMORY, "out of memory");
		if (rc < 0) {
			free(f.bytes);
			return err_add(err, "file '%s'", o->files[i]);
		}
	}
	return 0;
}

static int open_set(struct pool *p, const struct snapshot_options *o, struct set *s, struct err *err)
{
	s->members = calloc(o->nr_paths, sizeof(*s->members));
	if (!s->members)
		return err_set(err, ERR_MEMORY, "out of memory");
	for (; s->nr < o->nr_paths; s->nr++)
		if (member_open(p, o->paths[s->nr], &o->how.hold, &s->members[s->nr], err) < 0)
			return -1;
	return 0;
}

/* The unchanged ones are noted at once; the others, in `ret`, have to be sealed. */
static int sort_out(struct pool *p, struct set *s, struct member **ret, size_t *ret_nr, struct err *err)
{
	*ret_nr = 0;
	for (size_t i = 0; i < s->nr; i++) {
		struct name_disk d;
		int rc = versions_unchanged(p, &s->members[i], &d, err);

		if (rc < 0)
			return -1;
		if (rc == 0)
			ret[(*ret_nr)++] = &s->members[i];
		else if (vec_push(&s->name.disks, d) < 0)
			return err_set(err, ERR_MEMORY, "out of memory");
	}
	return 0;
}

int versions_snapshot(struct pool *p, const struct snapshot_options *o, struct snapshot_made *ret, struct err *err)
{
	CLEANUP(set_release) struct set s = { .name = { .kind = NAME_VERSION, .made = o->how.now } };
	CLEANUP(free) struct member **changed = calloc(o->nr_paths + 1, sizeof(*changed));
	size_t nr_changed = 0;

	if (!changed)
		return err_set(err, ERR_MEMORY, "out of memory");
	if (versions_check_new(p, o, err) < 0 || open_set(p, o, &s, err) < 0 || versions_add_files(o, &s.name, err) < 0 ||
	    sort_out(p, &s, changed, &nr_changed, err) < 0)
		return -1;
	snprintf(s.name.label, sizeof(s.name.label), "%s", o->label);
	if ((nr_changed ? versions_seal(p, &s.name, changed, nr_changed, NULL, SEAL_AS_FOUND, &o->how, err)
			: names_publish(p, &s.name, true, err)) < 0)
		return -1;
	names_left_nothing(p);
	*ret = (struct snapshot_made){ .number = s.name.number, .nr_sealed = nr_changed, .nr_unchanged = s.nr - nr_changed };
	return 0;
}

/* ---- rolling back ---- */

/* before-rollback-20261121T010203Z, or with a number behind it. */
static int kept_label(struct pool *p, const struct rollback_options *o, char ret[256], struct err *err)
{
	time_t now = (time_t)o->how.now;
	struct tm tm;

	gmtime_r(&now, &tm);
	for (unsigned i = 1; i < 1000; i++) {
		CLEANUP(name_release) struct name old = { .number = 0 };
		size_t len = strftime(ret, 256, "before-rollback-%Y%m%dT%H%M%SZ", &tm);
		int rc;

		if (i > 1)
			snprintf(ret + len, 256 - len, "-%u", i);
		rc = names_find_version(p, o->path, ret, &old, err);
		if (rc <= 0)
			return rc;
	}
	return err_set(err, ERR_STALE, "there are too many versions like '%s'", ret);
}

static int find_target(struct pool *p, const struct rollback_options *o, struct name_disk *ret, struct err *err)
{
	CLEANUP(name_release) struct name n = { .number = 0 };
	int rc = names_find_version(p, o->path, o->label, &n, err);

	if (rc == 0)
		return err_set(err, ERR_USAGE, "there is no version '%s' of '%s'", o->label, o->path);
	if (rc > 0)
		*ret = *name_find_disk(&n, o->path);
	return rc < 0 ? -1 : 0;
}

/* 1 = the image is what the version says already. */
static int is_there_already(struct pool *p, const struct member *m, const struct name_disk *target, struct err *err)
{
	struct name_disk now;
	int rc = versions_unchanged(p, m, &now, err);

	if (rc <= 0 || now.folded != target->folded || round_up(now.size, 512) != round_up(target->size, 512))
		return rc < 0 ? -1 : 0;
	return now.folded ? memcmp(now.root, target->root, DIGEST_SIZE) == 0 : pool_id_same(now.sealed, target->sealed);
}

int versions_rollback(struct pool *p, const struct rollback_options *o, char ret_kept[256], struct err *err)
{
	CLEANUP(member_release) struct member m = MEMBER_INIT;
	CLEANUP(name_release) struct name n = { .kind = NAME_VERSION, .made = o->how.now };
	struct member *one = &m;
	struct name_disk target;
	struct standing standing;
	int rc;

	*ret_kept = '\0';
	if (find_target(p, o, &target, err) < 0 || member_open(p, o->path, &o->how.hold, &m, err) < 0)
		return -1;
	rc = is_there_already(p, &m, &target, err);
	if (rc)
		return rc < 0 ? -1 : 0;
	if (layer_stand_on(p, &target, &standing, err) < 0 || kept_label(p, o, n.label, err) < 0 ||
	    versions_seal(p, &n, &one, 1, &standing, o->discard ? SEAL_DISCARD : SEAL_AS_FOUND, &o->how, err) < 0)
		return -1;
	names_left_nothing(p);
	if (!o->discard)
		memcpy(ret_kept, n.label, sizeof(n.label));
	return 0;
}
