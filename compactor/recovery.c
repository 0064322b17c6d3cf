/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/exchange.h"
#include "compactor/replace.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "scanner/base/file.h"

/* How it works: each replacement that the journal knows is taken by itself, by the table at the top of exchange.c;
 * what one of them runs into is told and holds up no other.  So do those go on that a running compaction left for later:
 * what it does at step 9 is what recovery would do after a kill.  What lies in the workshop and is not in the journal is
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
			       "the original lies at '" WORKSHOP_NAME "/%s', though the journal does not say that it was moved; "
			       "see what is at the path and put the right one there",
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

/* *x is made here; afterwards nothing of it is open. */
static int take_further(struct workshop *w, const struct journal_entry *e, struct exchange *x, enum exchange_outcome *ret,
			struct err *why)
{
	struct err lost = ERR_INIT;
	int rc;

	*x = (struct exchange)EXCHANGE_INIT;
	x->workshop = w;
	x->entry = *e;
	x->dirfd = workshop_open_dir(w, e->path, &x->name, &lost);
	if (x->dirfd < 0 && lost.errnum != ENOENT && lost.errnum != ENOTDIR) {
		*why = lost;
		return -1;
	}
	rc = exchange_recover(x, w->settle_ns, ret, why);
	exchange_release(x, true);
	return rc;
}

static int recover_exchange(struct recovering *r, const struct journal_entry *e, struct err *err)
{
	enum exchange_outcome outcome = EXCHANGE_UNCLEAR;
	struct err why = ERR_INIT;
	struct exchange x;
	int rc = take_further(r->w, e, &x, &outcome, &why);

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

/* ---- what was left for later ---- */

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static uint64_t due_in(const struct workshop *w, const struct unsettled *u)
{
	uint64_t due = u->since + w->settle_ns, now = now_ns();

	return due > now ? due - now : 0;
}

bool replace_due(const struct workshop *w)
{
	return w->unsettled.nr && due_in(w, &w->unsettled.items[0]) == 0;
}

static void settle_one(struct workshop *w, uint64_t number, struct err *ret_why)
{
	const struct journal_entry *known = journal_find(&w->journal, number);
	CLEANUP(free) char *path = known ? strdup(known->path) : NULL;
	enum exchange_outcome outcome = EXCHANGE_UNCLEAR;
	struct journal_entry e;
	struct exchange x;

	if (!path) {
		err_set(ret_why, ERR_MEMORY, "no memory to settle it; run dedupscan recover");
		return;
	}
	e = *known;
	e.path = path;
	if (take_further(w, &e, &x, &outcome, ret_why) == 0 && outcome != EXCHANGE_FINISHED && !ret_why->kind)
		err_set(ret_why, ERR_STALE, "somebody moved it while it was replaced");
}

void replace_settle(struct workshop *w, enum replace_settle how, replace_settled *settled, void *ctx)
{
	bool all = how == REPLACE_SETTLE_ALL;

	if (all && w->unsettled.nr)
		exchange_wait(due_in(w, &w->unsettled.items[w->unsettled.nr - 1]));
	while (all ? w->unsettled.nr != 0 : replace_due(w)) {
		uint64_t number = w->unsettled.items[0].number;
		struct err why = ERR_INIT;

		memmove(w->unsettled.items, w->unsettled.items + 1, --w->unsettled.nr * sizeof(*w->unsettled.items));
		settle_one(w, number, &why);
		settled(ctx, number, &why);
		if (!all)
			return;
	}
}
