/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/versions_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <time.h>

#include "scanner/base/checked.h"
#include "scanner/base/file.h"

/* How it works: seal.c moves overlays, names.c publishes; seal.c's head has the states of both.  Here is what a version is made
 * of, and the order: all images are open and held before anything is written, so that a set is as of one moment. */

/* ---- sets and lists ---- */

int pool_ids_add(struct pool_ids *s, const uint8_t id[POOL_ID_SIZE], struct err *err)
{
	struct pool_id x;

	memcpy(x.bytes, id, POOL_ID_SIZE);
	return vec_push(&s->items, x) < 0 ? err_set(err, ERR_MEMORY, "out of memory") : 0;
}

static int compare_ids(const void *a, const void *b)
{
	return memcmp(a, b, POOL_ID_SIZE);
}

void pool_ids_sort(struct pool_ids *s)
{
	if (s->items.nr)
		qsort(s->items.items, s->items.nr, POOL_ID_SIZE, compare_ids);
}

bool pool_ids_has(const struct pool_ids *s, const uint8_t id[POOL_ID_SIZE])
{
	return s->items.nr && bsearch(id, s->items.items, s->items.nr, POOL_ID_SIZE, compare_ids);
}

void pool_ids_release(struct pool_ids *s)
{
	vec_release(&s->items);
}

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

static int check_depth(struct pool *p, const struct member *m, unsigned most, struct err *err)
{
	unsigned depth;

	if (layer_depth(p, m->standing.below, &depth, err) < 0)
		return -1;
	if (depth < (most ? most : 1))
		return 0;
	return err_set(
		err, ERR_REFUSED,
		"image '%s': what its last version sealed waits to be folded into the pool; dedupscan compact --apply does that",
		member_disk(m)->path);
}

static int add_pending(struct name *n, const struct seal *s, struct err *err)
{
	const struct member *m = s->member;
	struct name_disk d = { .size = m->facts.size, .inode = m->st.st_ino };

	snprintf(d.path, sizeof(d.path), "%s", member_disk(m)->path);
	memcpy(d.view, m->standing.view, POOL_ID_SIZE);
	memcpy(d.below, m->standing.below, POOL_ID_SIZE);
	memcpy(d.sealed, s->id, POOL_ID_SIZE);
	return vec_push(&n->disks, d) < 0 ? err_set(err, ERR_MEMORY, "out of memory") : 0;
}

static int write_all(struct pool *p, struct name *n, struct seal *seals, size_t nr, const struct versions_how *how, struct err *err)
{
	for (size_t i = 0; i < nr; i++) {
		if (!seals[i].target && check_depth(p, seals[i].member, how->sealed_max, err) < 0)
			return -1;
		if (seal_write(p, &seals[i], &how->hold, err) < 0 || add_pending(n, &seals[i], err) < 0)
			return -1;
	}
	return names_publish(p, n, true, err);
}

static int exchange(struct pool *p, const struct name *n, struct seal *seals, size_t nr, enum seal_end end,
		    const struct versions_how *how, struct err *err)
{
	int rc = seal_exchange(p, seals, nr, how->settle_ns, err);
	bool sealed;

	if (rc < 0 && end == SEAL_DISCARD)
		end = SEAL_AS_FOUND; /* what somebody had open is kept */
	else if (rc < 0 && !seals[0].target)
		end = SEAL_FAILED;
	if (seal_note(p, n->number, end, &sealed, rc == 0 ? err : NULL) < 0)
		return -1;
	return rc == 0 && !sealed ? err_set(err, ERR_STALE, "what was sealed is not in the pool any more") : rc;
}

int versions_seal(struct pool *p, struct name *n, struct member *const *members, size_t nr, const struct standing *target,
		  enum seal_end end, const struct versions_how *how, struct err *err)
{
	struct seal *seals = calloc(nr, sizeof(*seals));
	int rc;

	if (!seals)
		return err_set(err, ERR_MEMORY, "out of memory");
	for (size_t i = 0; i < nr; i++) {
		seals[i] = (struct seal)SEAL_INIT;
		seals[i].member = members[i];
		seals[i].target = target;
		seals[i].touch = target != NULL;
	}
	rc = write_all(p, n, seals, nr, how, err);
	if (rc == 0)
		rc = exchange(p, n, seals, nr, end, how, err);
	for (size_t i = 0; i < nr; i++)
		seal_release(p, &seals[i]);
	free(seals);
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

static int check_new(struct pool *p, const struct snapshot_options *o, struct err *err)
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

static int add_files(const struct snapshot_options *o, struct name *n, struct err *err)
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
	if (check_new(p, o, err) < 0 || open_set(p, o, &s, err) < 0 || add_files(o, &s.name, err) < 0 ||
	    sort_out(p, &s, changed, &nr_changed, err) < 0)
		return -1;
	snprintf(s.name.label, sizeof(s.name.label), "%s", o->label);
	if ((nr_changed ? versions_seal(p, &s.name, changed, nr_changed, NULL, SEAL_AS_FOUND, &o->how, err)
			: names_publish(p, &s.name, true, err)) < 0)
		return -1;
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
	if (layer_stand_on(p, &target, m.facts.options.host_cache, &standing, err) < 0 || kept_label(p, o, n.label, err) < 0 ||
	    versions_seal(p, &n, &one, 1, &standing, o->discard ? SEAL_DISCARD : SEAL_AS_FOUND, &o->how, err) < 0)
		return -1;
	if (!o->discard)
		memcpy(ret_kept, n.label, sizeof(n.label));
	return 0;
}

/* ---- recovery ---- */

/* What one look at all names finds to do. */
struct to_do {
	struct path_list pending;  /* the paths say nothing */
	struct path_list standing; /* members on sealed overlays */
	bool any_layer;
};

static int find_work(void *ctx, const struct name *n, struct err *err)
{
	struct to_do *w = ctx;
	const struct name_disk *d = &n->disks.items[0];

	if (n->kind == NAME_MEMBER)
		return name_id_is_null(d->below) ? 0 : path_list_add(&w->standing, n->number, d->path, err);
	w->any_layer |= !*n->label;
	for (size_t i = 0; i < n->disks.nr; i++)
		w->any_layer |= n->disks.items[i].folded && !name_id_is_null(n->disks.items[i].sealed);
	return name_is_settled(n) ? 0 : path_list_add(&w->pending, n->number, "", err);
}

/* Of a repointing that died between the exchange and the note (versions_fold.c). */
static int note_repointed(struct pool *p, const struct path_list *l, struct err *err)
{
	for (size_t i = 0; i < l->items.nr; i++)
		if (member_note(p, l->items.items[i].path, NULL, err) < 0)
			return -1;
	return 0;
}

static int recover(struct pool *p, struct to_do *w, struct err *err)
{
	bool sealed;

	if (names_drop(p, err) < 0 || names_each(p, find_work, w, err) < 0)
		return -1;
	for (size_t i = 0; i < w->pending.items.nr; i++)
		if (seal_note(p, w->pending.items.items[i].number, SEAL_AS_FOUND, &sealed, err) < 0)
			return -1;
	if (seal_sweep(p, err) < 0 || clone_recover(p, err) < 0)
		return -1;
	if (!w->any_layer && w->pending.items.nr == 0)
		return 0;
	return note_repointed(p, &w->standing, err) < 0 ? -1 : versions_tidy(p, err);
}

int versions_recover(struct pool *p, struct err *err)
{
	struct to_do w = { .any_layer = false };
	int rc = recover(p, &w, err);

	path_list_release(&w.pending);
	path_list_release(&w.standing);
	return rc;
}
