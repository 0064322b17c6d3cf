/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/exchange.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <time.h>

#include "scanner/base/file.h"

/* Crash safety.  What holds at every instant, with the tests that break it in brackets; "crash" is
 * tests/crash/test_replace.c.
 *
 *  X1. The image's path names the original or the new file, whole, never nothing: places are changed by one
 *      RENAME_EXCHANGE [test_replace: an_image_is_always_there; crash].
 *  X2. Before the journal says SWAP the new file, its name and its attributes are synced, and it was proven by
 *      reading it from the disk [crash].
 *  X3. Before the places change the journal says so (SWAP, BACK), synced; before it says SWAPPED or DONE both
 *      directories are synced [crash].
 *  X4. No file that was at the path is removed before it was held, closed by all others, a settling time later, and
 *      unchanged [test_replace: an_opener_at_any_step_loses_nothing; crash].  Any number may be SWAPPED meanwhile: each
 *      settles by itself, as recovery does it, and what came over one of them holds up no other [test_replace:
 *      several_settle_together, one_that_was_opened_goes_back_and_others_stand; crash: several at once].
 *  X5. Who is where is looked up by inode number, never guessed from the journal [test_workshop:
 *      recovery_from_every_state; crash].
 *  X6. Whoever opens the path gets a file whose writes are at the path in the end: both files are held while places
 *      change, and a hold that breaks turns the exchange round before it is let go [test_replace:
 *      who_waits_and_who_comes_next_get_the_same_file, who_opens_the_new_file_keeps_it_at_the_path].
 *  X7. The journal says REMOVED of what is gone from the disk [crash: power cuts after kills].
 *  X8. When both files were touched nothing is removed and nothing moved [test_workshop:
 *      both_changed_is_left_to_the_user].
 *
 * What survives an exchange: inode number, size and mtime everywhere; ctime on XFS, but not on ext4 and btrfs, where
 * both files get the time of the exchange.  So after SWAP only the first three tell whether a file was touched; when
 * both say no and ctime is not what it was either, the file whose ctime is later belongs to the path: were it written
 * to, and its mtime put back, it was that one.  SWAPPED has the ctimes of after the exchange (both files are synced
 * for that), and tells all.
 *
 *	journal   at the path  in the workshop        decision
 *	-------   -----------  ---------------------  --------------------------------------------------------------
 *	BEGIN     original     a file, or none        remove it
 *	SWAP(PED) original     new, untouched         UNDONE, remove it
 *	SWAP(PED) original     new, touched           unclear
 *	SWAP(PED) new          original, untouched    DONE
 *	SWAP(PED) new          original, touched,     exchange again, settle; UNDONE
 *	          untouched
 *	SWAP(PED) new, touched original, touched      unclear
 *	SWAP(PED) either       nothing                REMOVED
 *	SWAP(PED) another, or  original or new        unclear: the user moved the image
 *	          nothing
 *	DONE      anything     original               to the trash; removed when its time is over
 *	BACK(ED)  new          original, untouched    DONE
 *	BACK(ED)  original     new, untouched         UNDONE, remove it
 *	BACK(ED)  original,    new, touched           exchange again, settle; DONE
 *	          untouched
 *	BACK(ED)  otherwise                           as SWAP(PED)
 *	UNDONE    anything     new                    remove it
 *
 * "Touched": changed, or somebody has it open (or nobody can tell). */

enum touch { UNTOUCHED, CTIME_ONLY, TOUCHED };

#define TICK_MAX 20000000 /* ns; of the clock by which file systems stamp, 10 ms at most */

void exchange_wait(uint64_t ns)
{
	struct timespec left = { .tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000) };

	while (ns && nanosleep(&left, &left) < 0 && errno == EINTR)
		;
}

static void let_go(struct exchange *x)
{
	hold_release(&x->leaving.hold);
	hold_release(&x->arriving.hold);
}

static void close_file(struct exchange_file *f)
{
	hold_release(&f->hold);
	if (f->fd >= 0)
		file_ops->close(f->fd);
	f->fd = -1;
}

void exchange_release(struct exchange *x, bool own_dir)
{
	close_file(&x->leaving);
	close_file(&x->arriving);
	if (own_dir && x->dirfd >= 0)
		file_ops->close(x->dirfd);
	x->dirfd = -1;
}

/* ---- the two places ---- */

static int identify(struct exchange_file *f, struct err *err)
{
	struct stat st;

	if (file_ops->fstat(f->fd, &st) < 0)
		return err_errno(err, "cannot stat it");
	f->known = spool_identity_of(&st);
	return 0;
}

/* The inode at the path; 0 = none. */
static int at_path(const struct exchange *x, uint64_t *ret_ino, struct err *err)
{
	struct stat st;
	int rc = workshop_look(x->dirfd, x->name, &st, err);

	*ret_ino = rc > 0 && S_ISREG(st.st_mode) ? st.st_ino : 0;
	return rc < 0 ? -1 : 0;
}

static int change_places(struct exchange *x, struct err *err)
{
	char name[WORKSHOP_NAME_ROOM];
	struct err why = ERR_INIT;

	store_name(x->store, x->entry.number, name);
	if (file_rename_to(x->dirfd, x->name, store_dirfd(x->workshop, x->store), name, RENAME_EXCHANGE, &why) == 0)
		return 0;
	if (why.errnum == EINVAL || why.errnum == ENOSYS || why.errnum == EOPNOTSUPP || why.errnum == EXDEV)
		why.kind = ERR_UNSUPPORTED;
	if (err)
		*err = why;
	return -1;
}

static int sync_places(const struct exchange *x, struct err *err)
{
	if (file_sync_dir(x->dirfd, err) < 0)
		return -1;
	return file_sync_dir(store_dirfd(x->workshop, x->store), err);
}

/* With their ctimes, which is why it is no fdatasync(2). */
static int sync_files(const struct exchange *x, struct err *err)
{
	if (file_ops->fsync(x->leaving.fd) < 0 || file_ops->fsync(x->arriving.fd) < 0)
		return err_errno(err, "cannot sync the files that changed places");
	return 0;
}

/* ---- who touched what ---- */

/* Takes the hold, too, if it can be had. */
static enum touch look_at(struct exchange *x, struct exchange_file *f, bool at_image)
{
	struct hold_options o = { .assume_idle = x->entry.assume_idle };
	struct spool_identity known = f->known;
	char name[WORKSHOP_NAME_ROOM];

	store_name(x->store, x->entry.number, name);
	if (f->fd < 0 || hold_take(&f->hold, f->fd, at_image ? x->dirfd : store_dirfd(x->workshop, x->store),
				   at_image ? x->name : name, &o, NULL) < 0)
		return TOUCHED;
	if (identify(f, NULL) < 0 || !workshop_same(&f->known, &known))
		return TOUCHED;
	return f->known.ctime == known.ctime ? UNTOUCHED : CTIME_ONLY;
}

static enum exchange_outcome later_ctime_wins(const struct exchange *x)
{
	return x->leaving.known.ctime > x->arriving.known.ctime ? EXCHANGE_ROLLED_BACK : EXCHANGE_FINISHED;
}

/* What is right when `arriving` is at the path.  `exact`: what is known of both is from after the exchange. */
static enum exchange_outcome decide(const struct exchange *x, enum touch leaving, enum touch arriving, bool exact)
{
	if (leaving == UNTOUCHED)
		return EXCHANGE_FINISHED;
	if (arriving == UNTOUCHED && (exact || leaving == TOUCHED))
		return EXCHANGE_ROLLED_BACK;
	if (leaving != TOUCHED && arriving != TOUCHED)
		return later_ctime_wins(x);
	if (!exact && leaving == CTIME_ONLY)
		return EXCHANGE_FINISHED;
	if (!exact && arriving == CTIME_ONLY)
		return EXCHANGE_ROLLED_BACK;
	return EXCHANGE_UNCLEAR;
}

static enum exchange_outcome unclear(const struct exchange *x, struct err *err)
{
	char name[WORKSHOP_NAME_ROOM];

	store_name(x->store, x->entry.number, name);
	err_set(err, ERR_STALE,
		"both files are kept, the one at the path and '" WORKSHOP_NAME "/%s%s': somebody opened or changed the one while "
		"they changed places; see which of them is right, put it at the path, remove the other and run dedupscan recover",
		x->store == STORE_TRASH ? "trash/" : "", name);
	return EXCHANGE_UNCLEAR;
}

/* ---- turning round ---- */

/* After `leaving` came back to the path: may the other file go?  It was at the path, if only for a moment. */
static enum exchange_outcome settle_returned(struct exchange *x, uint64_t settle_ns, struct err *err)
{
	if (identify(&x->arriving, NULL) < 0)
		return unclear(x, err);
	let_go(x);
	exchange_wait(settle_ns);
	if (look_at(x, &x->arriving, false) != UNTOUCHED)
		return unclear(x, err);
	return EXCHANGE_ROLLED_BACK;
}

/* `leaving` is at the path again, and whoever opened it waits still: an undo that is tried again has to know it, by the ctime that
 * the exchanges gave it. */
static void know_again(struct exchange *x)
{
	struct exchange_file now = { .fd = x->leaving.fd };

	if (x->back && file_ops->fsync(now.fd) == 0 && identify(&now, NULL) == 0 && workshop_same(&now.known, &x->entry.replacement))
		x->entry.replacement = now.known;
}

/* The hold of `leaving` broke, or something failed: back, while whoever waits is still waiting.  `err` has the
 * reason, and keeps it but for EXCHANGE_UNCLEAR. */
static enum exchange_outcome take_back(struct exchange *x, uint64_t settle_ns, struct err *err)
{
	struct err why = ERR_INIT;
	uint64_t ino;

	if (at_path(x, &ino, &why) < 0)
		return unclear(x, err);
	if (ino == x->leaving.known.ino)
		return EXCHANGE_ROLLED_BACK;
	if (ino != x->arriving.known.ino || change_places(x, &why) < 0 || sync_places(x, &why) < 0)
		return unclear(x, err);
	know_again(x);
	return settle_returned(x, settle_ns, err);
}

/* That places may change: the ctimes of SWAPPED or BACKED will say nothing any more. */
static int note_intent(struct exchange *x, struct err *err)
{
	enum journal_state intent = x->back ? JOURNAL_BACK : JOURNAL_SWAP;

	if (x->entry.state == intent)
		return 0;
	x->entry.state = intent;
	return journal_append(&x->workshop->journal, &x->entry, err);
}

/* As take_back(), but nothing broke yet: `arriving` is held, and when somebody waits for that it stays where it is. */
static enum exchange_outcome roll_back(struct exchange *x, uint64_t settle_ns, struct err *err)
{
	if (note_intent(x, NULL) < 0 || change_places(x, NULL) < 0)
		return unclear(x, err);
	if (hold_whole(&x->arriving.hold, NULL) < 0) {
		change_places(x, NULL);
		sync_places(x, NULL);
		return unclear(x, err);
	}
	if (sync_places(x, NULL) < 0)
		return unclear(x, err);
	return settle_returned(x, settle_ns, err);
}

/* `arriving` is at the path, and nothing is held.  `err` is set for all but EXCHANGE_FINISHED. */
static enum exchange_outcome settle(struct exchange *x, bool exact, uint64_t settle_ns, struct err *err)
{
	enum touch leaving = look_at(x, &x->leaving, false), arriving = look_at(x, &x->arriving, true);

	switch (decide(x, leaving, arriving, exact)) {
	case EXCHANGE_FINISHED:
		return EXCHANGE_FINISHED;
	case EXCHANGE_ROLLED_BACK:
		err_set(err, ERR_BUSY, "somebody opened the image while it was replaced; all is as it was");
		return roll_back(x, settle_ns, err);
	default:
		return unclear(x, err);
	}
}

/* ---- the end ---- */

static enum journal_state state_after(const struct exchange *x, enum exchange_outcome outcome)
{
	return (outcome == EXCHANGE_FINISHED) != x->back ? JOURNAL_DONE : JOURNAL_UNDONE;
}

/* An original that came back was at the path of an older replacement, too, as its new file: that goes on from how it is now. */
static void refresh_older(struct exchange *x)
{
	struct journal *j = &x->workshop->journal;

	for (size_t i = 0; i < j->live.nr; i++) {
		struct journal_entry e = j->live.items[i];

		if (e.state != JOURNAL_DONE || !workshop_same(&e.replacement, &x->entry.original))
			continue;
		e.replacement = x->arriving.known;
		journal_append(j, &e, NULL);
		return;
	}
}

/* Journals the outcome and cleans up.  Fails only where the journal does; the new file goes even then, for with the
 * original at its path nothing depends on the record. */
static int conclude(struct exchange *x, enum exchange_outcome outcome, struct err *err)
{
	struct workshop *w = x->workshop;
	int rc;

	if (outcome == EXCHANGE_UNCLEAR)
		return 0;
	if (!x->back && outcome == EXCHANGE_FINISHED)
		x->entry.keep_until = workshop_clock() + x->entry.keep;
	x->entry.state = state_after(x, outcome);
	if (x->back && outcome == EXCHANGE_FINISHED)
		refresh_older(x); /* first: who dies between the two does it again */
	rc = journal_append(&w->journal, &x->entry, err);
	if (rc < 0 && x->entry.state == JOURNAL_DONE)
		return -1;
	workshop_dispose(w, x->entry.number, false, NULL, NULL, NULL); /* what fails here recovery does */
	return rc;
}

/* ---- running ---- */

static void set_identities(struct exchange *x)
{
	x->entry.original = x->back ? x->arriving.known : x->leaving.known;
	x->entry.replacement = x->back ? x->leaving.known : x->arriving.known;
}

static int both_whole(const struct exchange *x, struct err *err)
{
	if (hold_whole(&x->leaving.hold, err) < 0)
		return -1;
	return hold_whole(&x->arriving.hold, err);
}

/* Steps 6 to 8.  Who waits for `arriving` once it is at the path waits for the right file. */
static int change_and_note(struct exchange *x, struct err *err)
{
	if (both_whole(x, err) < 0 || change_places(x, err) < 0 || hold_whole(&x->leaving.hold, err) < 0)
		return -1;
	if (sync_places(x, err) < 0 || sync_files(x, err) < 0)
		return -1;
	if (identify(&x->leaving, err) < 0 || identify(&x->arriving, err) < 0 || hold_whole(&x->leaving.hold, err) < 0)
		return -1;
	set_identities(x);
	x->entry.state = x->back ? JOURNAL_BACKED : JOURNAL_SWAPPED;
	if (journal_append(&x->workshop->journal, &x->entry, err) < 0)
		return -1;
	return hold_whole(&x->leaving.hold, err);
}

/* Until the clock of the file systems is past that: else a write could leave an mtime of this very tick as it is.  Times that are
 * not of now are none that a write would give. */
static void wait_until_past(int64_t mtime)
{
	struct timespec now;
	int64_t ahead;

	for (;;) {
		clock_gettime(CLOCK_REALTIME_COARSE, &now);
		ahead = mtime - ((int64_t)now.tv_sec * 1000000000 + now.tv_nsec);
		if (ahead < 0 || ahead > TICK_MAX)
			return;
		exchange_wait(1000000);
	}
}

int exchange_begin(struct exchange *x, struct err *err)
{
	if (identify(&x->leaving, err) < 0 || identify(&x->arriving, err) < 0)
		return -1;
	wait_until_past(x->leaving.known.mtime);
	wait_until_past(x->arriving.known.mtime);
	set_identities(x);
	return note_intent(x, err);
}

/* The image is settled either way: what the journal did not take recovery finds out again. */
static int end(struct exchange *x, enum exchange_outcome outcome, const struct err *why, struct err *err)
{
	conclude(x, outcome, NULL);
	let_go(x);
	if (outcome != EXCHANGE_FINISHED && err)
		*err = *why;
	return outcome == EXCHANGE_FINISHED ? 0 : -1;
}

int exchange_change(struct exchange *x, uint64_t settle_ns, struct err *err)
{
	struct err why = ERR_INIT;
	bool changed = change_and_note(x, &why) == 0;

	if (!changed)
		return end(x, take_back(x, settle_ns, &why), &why, err);
	let_go(x);
	return 0;
}

int exchange_run(struct exchange *x, uint64_t settle_ns, struct err *err)
{
	struct err why = ERR_INIT;

	if (exchange_change(x, settle_ns, err) < 0)
		return -1;
	exchange_wait(settle_ns);
	return end(x, settle(x, true, settle_ns, &why), &why, err);
}

/* ---- recovering ---- */

/* 1 = opened or at least there, 0 = gone.  What cannot be opened is taken for in use. */
static int open_stored(struct exchange *x, struct exchange_file *f, struct err *err)
{
	char name[WORKSHOP_NAME_ROOM];
	int rc = workshop_find(x->workshop, x->entry.number, f->known.ino, &x->store, err);

	if (rc <= 0)
		return rc;
	store_name(x->store, x->entry.number, name);
	f->fd = workshop_open_file(store_dirfd(x->workshop, x->store), name, NULL);
	return 1;
}

/* `leaving` is at the path: nothing happened, or it was turned round. */
static int recover_at_home(struct exchange *x, enum exchange_outcome *ret, struct err *err)
{
	int rc = open_stored(x, &x->arriving, err);

	if (rc < 0 || sync_places(x, err) < 0)
		return -1;
	*ret = rc == 0 || look_at(x, &x->arriving, false) != TOUCHED ? EXCHANGE_ROLLED_BACK : unclear(x, err);
	return 0;
}

static int recover_away(struct exchange *x, uint64_t settle_ns, enum exchange_outcome *ret, struct err *err)
{
	int rc = open_stored(x, &x->leaving, err);

	if (rc < 0 || sync_places(x, err) < 0)
		return -1;
	x->arriving.fd = workshop_open_file(x->dirfd, x->name, NULL);
	*ret = rc == 0 ? EXCHANGE_FINISHED
		       : settle(x, x->entry.state == JOURNAL_SWAPPED || x->entry.state == JOURNAL_BACKED, settle_ns, err);
	return 0;
}

/* Neither is at the path. */
static int recover_moved(struct exchange *x, enum exchange_outcome *ret, struct err *err)
{
	enum store at;
	int rc = workshop_find(x->workshop, x->entry.number, x->leaving.known.ino, &at, err);

	if (rc == 0)
		rc = workshop_find(x->workshop, x->entry.number, x->arriving.known.ino, &at, err);
	if (rc < 0)
		return -1;
	if (rc == 0)
		return workshop_note(x->workshop, &x->entry, JOURNAL_REMOVED, err);
	*ret = EXCHANGE_UNCLEAR;
	err_set(err, ERR_STALE,
		"it was being replaced, and is not at its path any more; '" WORKSHOP_NAME "/%s%llu%s' is kept: put it there "
		"if it is missed, or remove it, and run dedupscan recover",
		at == STORE_TRASH ? "trash/" : "", (unsigned long long)x->entry.number, at == STORE_TRASH ? "" : ".new");
	return 0;
}

int exchange_recover(struct exchange *x, uint64_t settle_ns, enum exchange_outcome *ret, struct err *why)
{
	uint64_t ino = 0;
	int rc;

	x->back = x->entry.state == JOURNAL_BACK || x->entry.state == JOURNAL_BACKED;
	x->leaving.known = x->back ? x->entry.replacement : x->entry.original;
	x->arriving.known = x->back ? x->entry.original : x->entry.replacement;
	x->store = x->back ? STORE_TRASH : STORE_NEW;
	*ret = EXCHANGE_UNCLEAR;
	if (x->dirfd >= 0 && at_path(x, &ino, why) < 0)
		return -1;
	if (ino && ino == x->leaving.known.ino)
		rc = recover_at_home(x, ret, why);
	else if (ino && ino == x->arriving.known.ino)
		rc = recover_away(x, settle_ns, ret, why);
	else
		return recover_moved(x, ret, why);
	if (rc == 0)
		rc = conclude(x, *ret, why);
	let_go(x);
	return rc;
}
