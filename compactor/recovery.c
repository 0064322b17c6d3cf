/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/exchange.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "scanner/base/file.h"

/* How it works: each replacement that the journal knows is taken by itself, by the table at the top of exchange.c;
 * what one of them runs into is told and holds up no other.  What lies in the workshop and is not in the journal is
 * nobody's to remove, except for the names that files of ours have for a moment. */

struct recovering {
	struct workshop *w;
	void (*tell)(void *ctx, const char *path, const struct err *what);
	void *ctx;
	struct recovery *sum;
};

static void tell(struct recovering *r, const char *path, const struct err *what)
{
	r->sum->nr_unclear++;
	if (r->tell)
		r->tell(r->ctx, path, what);
}

/* ---- one replacement ---- */

/* Nothing but <n>.new was made, if that. */
static int recover_begun(struct recovering *r, const struct journal_entry *e, struct err *err)
{
	char name[WORKSHOP_NAME_ROOM];
	struct stat st;
	int rc;

	store_name(STORE_NEW, e->number, name);
	rc = workshop_look(r->w->dirfd, name, &st, err);
	if (rc > 0 && st.st_ino == e->original.ino)
		return err_set(err, ERR_STALE,
			       "the original lies at '" WORKSHOP_NAME "/%s', though the journal does not say that it was moved; see "
			       "what is at the path and put the right one there",
			       name);
	if (rc < 0 || (rc > 0 && file_unlink(r->w->dirfd, name, err) < 0))
		return -1;
	r->sum->nr_undone += rc > 0;
	return workshop_note(r->w, e, JOURNAL_REMOVED, err);
}

static int recover_ended(struct recovering *r, const struct journal_entry *e, struct err *err)
{
	bool original = e->state == JOURNAL_DONE;
	uint64_t removed = 0, kept = 0, number = e->number;

	if (workshop_dispose(r->w, number, false, &removed, &kept, err) < 0)
		return -1;
	if (original && journal_find(&r->w->journal, number)) {
		r->sum->nr_kept++;
		r->sum->bytes_kept += kept;
	} else if (original) {
		r->sum->nr_removed++;
		r->sum->bytes_removed += removed;
	}
	return 0;
}

static void count_outcome(struct recovering *r, const struct exchange *x, enum exchange_outcome outcome)
{
	const struct journal_entry *e = journal_find(&r->w->journal, x->entry.number);
	bool stands = (outcome == EXCHANGE_FINISHED) != x->back; /* the new file is at the path */

	if (outcome == EXCHANGE_UNCLEAR)
		return;
	r->sum->nr_finished += stands;
	r->sum->nr_undone += !stands;
	r->sum->nr_kept += stands && e;
	if (stands && e)
		r->sum->bytes_kept += e->original.size;
}

static int recover_exchange(struct recovering *r, const struct journal_entry *e, struct err *err)
{
	struct exchange x = EXCHANGE_INIT;
	enum exchange_outcome outcome = EXCHANGE_UNCLEAR;
	struct err why = ERR_INIT;
	int rc;

	x.workshop = r->w;
	x.entry = *e;
	x.dirfd = workshop_open_dir(r->w, e->path, &x.name, &why);
	if (x.dirfd < 0 && why.errnum != ENOENT && why.errnum != ENOTDIR) {
		if (err)
			*err = why;
		return -1;
	}
	why = ERR_INIT;
	rc = exchange_recover(&x, r->w->settle_ns, &outcome, &why);
	exchange_release(&x, true);
	if (rc < 0 || (outcome == EXCHANGE_UNCLEAR && why.kind)) {
		if (err)
			*err = why;
		return -1;
	}
	count_outcome(r, &x, outcome);
	return 0;
}

static int recover_one(struct recovering *r, const struct journal_entry *e, struct err *err)
{
	switch (e->state) {
	case JOURNAL_BEGIN:
		return recover_begun(r, e, err);
	case JOURNAL_DONE:
	case JOURNAL_UNDONE:
		return recover_ended(r, e, err);
	default:
		return recover_exchange(r, e, err);
	}
}

/* ---- all of them ---- */

static bool any_exchange(const struct journal *j)
{
	for (size_t i = 0; i < j->live.nr; i++)
		if (j->live.items[i].state != JOURNAL_BEGIN && j->live.items[i].state != JOURNAL_DONE &&
		    j->live.items[i].state != JOURNAL_UNDONE)
			return true;
	return false;
}

/* The list shrinks while it is walked, so by number. */
static const struct journal_entry *after(const struct journal *j, uint64_t number)
{
	for (size_t i = 0; i < j->live.nr; i++)
		if (j->live.items[i].number > number)
			return &j->live.items[i];
	return NULL;
}

static int recover_all(struct recovering *r, struct err *err)
{
	struct journal *j = &r->w->journal;
	const struct journal_entry *next;
	uint64_t number = 0;

	if (any_exchange(j))
		exchange_wait(r->w->settle_ns);
	while ((next = after(j, number))) {
		CLEANUP(free) char *path = strdup(next->path);
		struct journal_entry e = *next;
		struct err why = ERR_INIT;

		if (!path)
			return err_set(err, ERR_MEMORY, "out of memory");
		e.path = path;
		number = e.number;
		if (recover_one(r, &e, &why) == 0)
			continue;
		if (j->broken) {
			if (err)
				*err = why;
			return -1;
		}
		tell(r, path, &why);
	}
	return 0;
}

/* ---- what is not in the journal ---- */

struct strays {
	struct recovering *r;
	enum store store;
};

static bool is_ours_for_a_moment(const char *name)
{
	return strcmp(name, "probe-a") == 0 || strcmp(name, "probe-b") == 0 || strcmp(name, "journal.tmp") == 0;
}

static bool is_known(const struct strays *s, const char *name)
{
	char expected[WORKSHOP_NAME_ROOM];
	uint64_t number = strtoull(name, NULL, 10);

	if (s->store == STORE_NEW && (strcmp(name, "lock") == 0 || strcmp(name, "journal") == 0 || strcmp(name, "trash") == 0))
		return true;
	store_name(s->store, number, expected);
	return strcmp(name, expected) == 0 && journal_find(&s->r->w->journal, number);
}

static int look_at_name(void *ctx, const char *name, struct err *err)
{
	struct strays *s = ctx;
	struct err what = ERR_INIT;
	char path[NAME_MAX + 32];

	if (is_known(s, name))
		return 0;
	if (s->store == STORE_NEW && is_ours_for_a_moment(name))
		return file_unlink(s->r->w->dirfd, name, err);
	snprintf(path, sizeof(path), "%s/%s%s", WORKSHOP_NAME, s->store == STORE_TRASH ? "trash/" : "", name);
	err_set(&what, ERR_STALE, "the journal does not know this file; it is kept: see what it is, then remove it");
	tell(s->r, path, &what);
	return 0;
}

static int recover_strays(struct recovering *r, struct err *err)
{
	for (enum store s = STORE_NEW; s <= STORE_TRASH; s++) {
		struct strays strays = { .r = r, .store = s };

		if (file_each_name(store_dirfd(r->w, s), look_at_name, &strays, err) < 0)
			return -1;
	}
	return 0;
}

int workshop_recover(struct workshop *w, void (*tell_user)(void *ctx, const char *path, const struct err *what), void *ctx,
		     struct recovery *ret, struct err *err)
{
	struct recovery sum = { 0 };
	struct recovering r = { .w = w, .tell = tell_user, .ctx = ctx, .sum = &sum };

	if (recover_all(&r, err) < 0 || recover_strays(&r, err) < 0)
		return err_add(err, "'%s/" WORKSHOP_NAME "'", w->path);
	journal_shrink(&w->journal, NULL); /* next time, then */
	*ret = sum;
	return 0;
}
