/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/workshop_help.h"

#include <sys/resource.h>
#include <sys/wait.h>

/* ---- the directory ---- */

static int try_open(bool create, struct workshop **ret, struct err *err)
{
	int fd = open_dir("."), rc = workshop_open(fd, tree, create, ret, err);

	close(fd);
	return rc;
}

#define assert_refused(kind_, words)                                                                                   \
	do {                                                                                                           \
		struct workshop *w_ = NULL;                                                                            \
		struct err err_ = ERR_INIT;                                                                            \
		assert_int_equal(try_open(true, &w_, &err_), -1);                                                      \
		assert_null(w_);                                                                                       \
		assert_int_equal(err_.kind, kind_);                                                                    \
		assert_non_null(strstr(err_.text, words));                                                             \
	} while (0)

static void is_made_only_when_asked(void **state)
{
	struct workshop *w = NULL;
	struct stat st;

	(void)state;
	assert_int_equal(try_open(false, &w, NULL), 0);
	assert_null(w);
	assert_false(is_there(".dedupscan"));
	workshop_close(open_shop());
	assert_int_equal(stat(in_tree(".dedupscan"), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	assert_int_equal(try_open(false, &w, NULL), 0);
	assert_non_null(w);
	workshop_close(w);
}

/* F8 */
static void f8_is_refused_when_open_to_others(void **state)
{
	(void)state;
	workshop_close(open_shop());
	chmod(in_tree(".dedupscan"), 0750);
	assert_refused(ERR_REFUSED, "chmod 700");
	chmod(in_tree(".dedupscan"), 0700);
	chmod(in_tree(".dedupscan/trash"), 0701);
	assert_refused(ERR_REFUSED, "open to others");
	chmod(in_tree(".dedupscan/trash"), 0700);
	if (geteuid() == 0) {
		assert_int_equal(chown(in_tree(".dedupscan"), 1234, 0), 0);
		assert_refused(ERR_REFUSED, "belongs to user 1234");
	}
}

static void f1_a_link_in_its_place_is_refused(void **state)
{
	(void)state;
	tree_dir("elsewhere");
	assert_int_equal(symlink("elsewhere", in_tree(".dedupscan")), 0);
	assert_refused(ERR_REFUSED, ".dedupscan");
	assert_int_equal(files_in("elsewhere"), 0);
	unlink(in_tree(".dedupscan"));
	put(".dedupscan", "a file");
	assert_refused(ERR_REFUSED, ".dedupscan");
}

/* D9 */
static void d9_two_do_not_work_in_it_at_once(void **state)
{
	struct workshop *w = open_shop();
	int status;
	pid_t child;

	(void)state;
	assert_refused(ERR_BUSY, "another dedupscan");
	child = fork();
	if (child == 0) {
		struct workshop *mine = NULL;
		struct err err = ERR_INIT;

		_exit(try_open(true, &mine, &err) < 0 && err.kind == ERR_BUSY ? 0 : 1);
	}
	waitpid(child, &status, 0);
	assert_int_equal(status, 0);
	workshop_close(w);
	workshop_close(open_shop());
}

/* D10: the lock goes with its holder. */
static void d10_a_killed_holder_does_not_lock_it(void **state)
{
	int pipefd[2], status;
	char c;
	pid_t child;

	(void)state;
	assert_int_equal(pipe(pipefd), 0);
	child = fork();
	if (child == 0) {
		open_shop();
		if (write(pipefd[1], "x", 1) == 1)
			pause();
		_exit(1);
	}
	assert_int_equal(read(pipefd[0], &c, 1), 1);
	assert_refused(ERR_BUSY, "another dedupscan");
	kill(child, SIGKILL);
	waitpid(child, &status, 0);
	workshop_close(open_shop());
	close(pipefd[0]);
	close(pipefd[1]);
}

static void a_lost_journal_is_not_made_again_over_originals(void **state)
{
	(void)state;
	workshop_close(open_shop());
	unlink(in_tree(".dedupscan/journal"));
	put(".dedupscan/7.new", "original");
	assert_refused(ERR_FORMAT, "is gone");
	unlink(in_tree(".dedupscan/7.new"));
	put(".dedupscan/trash/7", "original");
	assert_refused(ERR_FORMAT, "is gone");
	assert_string_equal(text_of(".dedupscan/trash/7"), "original");
	unlink(in_tree(".dedupscan/trash/7"));
	workshop_close(open_shop());
}

static void b11_a_size_limit_is_an_error(void **state)
{
	pid_t child = fork();
	int status;

	(void)state;
	if (child == 0) {
		struct rlimit limit = { 100, 100 };
		struct err err = ERR_INIT;
		struct workshop *w = open_shop();
		struct job_of_test j;
		char text[1000];

		memset(text, 'a', sizeof(text));
		tree_write("image", text, sizeof(text));
		prepare(&j, w, "image");
		setrlimit(RLIMIT_FSIZE, &limit);
		_exit(replace(&j, &err) < 0 && err.kind == ERR_FULL && !is_there(".dedupscan/1.new") ? 0 : 1);
	}
	waitpid(child, &status, 0);
	assert_int_equal(status, 0);
}

/* ---- recovery ---- */

static char told[4096];

static void hear(void *ctx, const char *path, const struct err *what)
{
	(void)ctx;
	snprintf(told + strlen(told), sizeof(told) - strlen(told), "%s: %s\n", path, what->text);
}

static struct recovery recover(struct workshop *w)
{
	struct recovery sum;
	struct err err = ERR_INIT;

	*told = '\0';
	if (workshop_recover(w, hear, NULL, &sum, &err) < 0)
		fail_msg("%s", err.text);
	return sum;
}

enum touched { NOT, META, CHANGED, OPEN };

struct found {
	const char *name;
	enum journal_state state;
	char at_path, in_new, in_trash; /* 'o' original, 'n' new file, 'x' another, '-' nothing */
	enum touched original, replacement;
	bool over; /* the time that the original is kept */
	/* what is expected */
	char then_path, then_new, then_trash;
	char finished, undone, removed, kept, unclear;
};

#define ORIGINAL "original"
#define NEW_FILE "the new file"

static void place(const char *name, char what)
{
	if (what != '-')
		put(name, what == 'o' ? ORIGINAL : what == 'n' ? NEW_FILE : "another");
}

static char what_is(const char *name)
{
	const char *text = text_of(name);

	return !is_there(name)			       ? '-'
	       : strncmp(text, ORIGINAL, 8) == 0       ? 'o'
	       : strncmp(text, NEW_FILE, 12) == 0      ? 'n'
						       : 'x';
}

static const char *place_of(const struct found *f, char what)
{
	if (f->at_path == what)
		return "image";
	return f->in_new == what ? ".dedupscan/1.new" : f->in_trash == what ? ".dedupscan/trash/1" : NULL;
}

static struct spool_identity known_of(const struct found *f, char what)
{
	const char *name = place_of(f, what);

	return name ? identity_of(name) : (struct spool_identity){ .ino = what == 'o' ? 1 : 2, .size = 77, .mtime = 5, .ctime = 5 };
}

/* A descriptor to be closed, or -1. */
static int touch(const struct found *f, char what, enum touched how)
{
	const char *name = place_of(f, what);
	int fd = name && how != NOT ? open(in_tree(name), O_WRONLY | O_APPEND) : -1;

	usleep(how == META || how == CHANGED ? 10000 : 0); /* another time stamp */
	if (how == META)
		assert_int_equal(fchmod(fd, 0640), 0);
	if (how == CHANGED)
		assert_int_equal(write(fd, "!", 1), 1);
	if (fd >= 0 && how != OPEN)
		close(fd);
	return how == OPEN ? fd : -1;
}

static void write_journal(const struct found *f)
{
	struct journal j = JOURNAL_INIT;
	struct journal_entry e = { .number = 1,
				   .state = f->state,
				   .keep = DAY,
				   .keep_until = f->over ? 1 : (int64_t)1 << 40,
				   .original = known_of(f, 'o'),
				   .replacement = known_of(f, 'n'),
				   .path = (char *)"image" };
	int dirfd = open_dir(".dedupscan");

	if (f->state == JOURNAL_BEGIN)
		e.replacement = (struct spool_identity){ 0 };
	assert_int_equal(journal_open(&j, dirfd, NULL), 0);
	assert_int_equal(journal_append(&j, &e, NULL), 0);
	journal_release(&j);
	close(dirfd);
}

static void expect(const struct found *f, struct recovery sum, const char *when)
{
	if (what_is("image") != f->then_path || what_is(".dedupscan/1.new") != f->then_new ||
	    what_is(".dedupscan/trash/1") != f->then_trash)
		fail_msg("%s, %s: at the path %c, in the workshop %c, in the trash %c; told: %s", f->name, when,
			 what_is("image"), what_is(".dedupscan/1.new"), what_is(".dedupscan/trash/1"), told);
	if ((char)sum.nr_unclear != f->unclear || (sum.nr_unclear > 0) != (*told != '\0'))
		fail_msg("%s, %s: %d unclear, told: %s", f->name, when, (int)sum.nr_unclear, told);
}

static void recover_found(const struct found *f)
{
	struct recovery sum;
	struct workshop *w;
	int open_o, open_n;

	workshop_close(open_shop());
	unlink(in_tree("image"));
	place("image", f->at_path);
	place(".dedupscan/1.new", f->in_new);
	place(".dedupscan/trash/1", f->in_trash);
	write_journal(f);
	open_o = touch(f, 'o', f->original);
	open_n = touch(f, 'n', f->replacement);
	w = open_shop();
	sum = recover(w);
	expect(f, sum, "once");
	if (sum.nr_finished != (unsigned)f->finished || sum.nr_undone != (unsigned)f->undone ||
	    sum.nr_removed != (unsigned)f->removed || sum.nr_kept != (unsigned)f->kept)
		fail_msg("%s: %d finished, %d undone, %d removed, %d kept", f->name, (int)sum.nr_finished, (int)sum.nr_undone,
			 (int)sum.nr_removed, (int)sum.nr_kept);
	sum = recover(w);
	expect(f, sum, "twice");
	if (f->then_new == '-' && f->then_trash == '-' && w->journal.live.nr)
		fail_msg("%s: the journal still has it", f->name);
	workshop_close(w);
	if (open_o >= 0)
		close(open_o);
	if (open_n >= 0)
		close(open_n);
	unlink(in_tree(".dedupscan/1.new"));
	unlink(in_tree(".dedupscan/trash/1"));
	unlink(in_tree(".dedupscan/journal"));
}

/* A11: by the table at the top of exchange.c. */
static void recovery_from_every_state(void **state)
{
	static const struct found all[] = {
		{ "begun, not made", JOURNAL_BEGIN, 'o', '-', '-', NOT, NOT, false, 'o', '-', '-', 0, 0, 0, 0, 0 },
		{ "begun, half made", JOURNAL_BEGIN, 'o', 'n', '-', NOT, NOT, false, 'o', '-', '-', 0, 1, 0, 0, 0 },
		{ "begun, image in use", JOURNAL_BEGIN, 'o', 'n', '-', OPEN, NOT, false, 'o', '-', '-', 0, 1, 0, 0, 0 },
		{ "begun, but exchanged", JOURNAL_BEGIN, 'n', 'o', '-', NOT, NOT, false, 'n', 'o', '-', 0, 0, 0, 0, 1 },

		{ "swap, not yet", JOURNAL_SWAP, 'o', 'n', '-', NOT, NOT, false, 'o', '-', '-', 0, 1, 0, 0, 0 },
		{ "swap, not yet, in use", JOURNAL_SWAP, 'o', 'n', '-', OPEN, NOT, false, 'o', '-', '-', 0, 1, 0, 0, 0 },
		{ "swap, not yet, written", JOURNAL_SWAP, 'o', 'n', '-', CHANGED, NOT, false, 'o', '-', '-', 0, 1, 0, 0, 0 },
		{ "swap, new one written", JOURNAL_SWAP, 'o', 'n', '-', NOT, CHANGED, false, 'o', 'n', '-', 0, 0, 0, 0, 1 },
		{ "swap, new one gone", JOURNAL_SWAP, 'o', '-', '-', NOT, NOT, false, 'o', '-', '-', 0, 1, 0, 0, 0 },
		{ "swap, exchanged", JOURNAL_SWAP, 'n', 'o', '-', NOT, NOT, false, 'n', '-', 'o', 1, 0, 0, 1, 0 },
		{ "swap, original written", JOURNAL_SWAP, 'n', 'o', '-', CHANGED, NOT, false, 'o', '-', '-', 0, 1, 0, 0, 0 },
		{ "swap, original open", JOURNAL_SWAP, 'n', 'o', '-', OPEN, NOT, false, 'o', '-', '-', 0, 1, 0, 0, 0 },
		{ "swap, original chmodded", JOURNAL_SWAP, 'n', 'o', '-', META, NOT, false, 'o', '-', '-', 0, 1, 0, 0, 0 },
		{ "swap, new chmodded", JOURNAL_SWAP, 'n', 'o', '-', NOT, META, false, 'n', '-', 'o', 1, 0, 0, 1, 0 },
		{ "swap, new written", JOURNAL_SWAP, 'n', 'o', '-', NOT, CHANGED, false, 'n', '-', 'o', 1, 0, 0, 1, 0 },
		{ "swap, new in use", JOURNAL_SWAP, 'n', 'o', '-', NOT, OPEN, false, 'n', '-', 'o', 1, 0, 0, 1, 0 },
		{ "swap, both written", JOURNAL_SWAP, 'n', 'o', '-', CHANGED, CHANGED, false, 'n', 'o', '-', 0, 0, 0, 0, 1 },
		{ "swap, written, in use", JOURNAL_SWAP, 'n', 'o', '-', CHANGED, OPEN, false, 'n', 'o', '-', 0, 0, 0, 0, 1 },
		{ "swap, open, written", JOURNAL_SWAP, 'n', 'o', '-', OPEN, CHANGED, false, 'n', 'o', '-', 0, 0, 0, 0, 1 },
		{ "swap, original gone", JOURNAL_SWAP, 'n', '-', '-', NOT, NOT, false, 'n', '-', '-', 1, 0, 0, 0, 0 },
		{ "swap, image gone", JOURNAL_SWAP, '-', 'o', '-', NOT, NOT, false, '-', 'o', '-', 0, 0, 0, 0, 1 },
		{ "swap, image another", JOURNAL_SWAP, 'x', 'o', '-', NOT, NOT, false, 'x', 'o', '-', 0, 0, 0, 0, 1 },
		{ "swap, image another, new", JOURNAL_SWAP, 'x', 'n', '-', NOT, NOT, false, 'x', 'n', '-', 0, 0, 0, 0, 1 },
		{ "swap, all gone", JOURNAL_SWAP, 'x', '-', '-', NOT, NOT, false, 'x', '-', '-', 0, 0, 0, 0, 0 },

		{ "swapped", JOURNAL_SWAPPED, 'n', 'o', '-', NOT, NOT, false, 'n', '-', 'o', 1, 0, 0, 1, 0 },
		{ "swapped, original written", JOURNAL_SWAPPED, 'n', 'o', '-', CHANGED, NOT, false, 'o', '-', '-', 0, 1, 0, 0, 0 },
		{ "swapped, original open", JOURNAL_SWAPPED, 'n', 'o', '-', OPEN, NOT, false, 'o', '-', '-', 0, 1, 0, 0, 0 },
		{ "swapped, original chmodded", JOURNAL_SWAPPED, 'n', 'o', '-', META, NOT, false, 'o', '-', '-', 0, 1, 0, 0, 0 },
		{ "swapped, new in use", JOURNAL_SWAPPED, 'n', 'o', '-', NOT, OPEN, false, 'n', '-', 'o', 1, 0, 0, 1, 0 },
		{ "swapped, one written", JOURNAL_SWAPPED, 'n', 'o', '-', META, CHANGED, false, 'n', 'o', '-', 0, 0, 0, 0, 1 },
		{ "swapped, both written", JOURNAL_SWAPPED, 'n', 'o', '-', CHANGED, CHANGED, false, 'n', 'o', '-', 0, 0, 0, 0, 1 },
		{ "swapped, turned round", JOURNAL_SWAPPED, 'o', 'n', '-', NOT, NOT, false, 'o', '-', '-', 0, 1, 0, 0, 0 },

		{ "done", JOURNAL_DONE, 'n', 'o', '-', NOT, NOT, false, 'n', '-', 'o', 0, 0, 0, 1, 0 },
		{ "done, in the trash", JOURNAL_DONE, 'n', '-', 'o', NOT, NOT, false, 'n', '-', 'o', 0, 0, 0, 1, 0 },
		{ "done, over", JOURNAL_DONE, 'n', 'o', '-', NOT, NOT, true, 'n', '-', '-', 0, 0, 1, 0, 0 },
		{ "done, in the trash, over", JOURNAL_DONE, 'n', '-', 'o', NOT, NOT, true, 'n', '-', '-', 0, 0, 1, 0, 0 },
		{ "done, image written", JOURNAL_DONE, 'n', '-', 'o', NOT, CHANGED, true, 'n', '-', '-', 0, 0, 1, 0, 0 },
		{ "done, image gone", JOURNAL_DONE, '-', '-', 'o', NOT, NOT, false, '-', '-', 'o', 0, 0, 0, 1, 0 },
		{ "done, original changed", JOURNAL_DONE, 'n', '-', 'o', CHANGED, NOT, true, 'n', '-', 'o', 0, 0, 0, 0, 1 },
		{ "done, trash is another", JOURNAL_DONE, 'n', '-', 'x', NOT, NOT, true, 'n', '-', 'x', 0, 0, 0, 0, 1 },
		{ "done, exchanged by hand", JOURNAL_DONE, 'o', '-', 'n', NOT, NOT, true, 'o', '-', 'n', 0, 0, 0, 0, 1 },
		{ "done, original gone", JOURNAL_DONE, 'n', '-', '-', NOT, NOT, false, 'n', '-', '-', 0, 0, 1, 0, 0 },

		{ "back, not yet", JOURNAL_BACK, 'n', '-', 'o', NOT, NOT, false, 'n', '-', 'o', 1, 0, 0, 1, 0 },
		{ "back, not yet, from new", JOURNAL_BACK, 'n', 'o', '-', NOT, NOT, false, 'n', '-', 'o', 1, 0, 0, 1, 0 },
		{ "back, not yet, written", JOURNAL_BACK, 'n', '-', 'o', NOT, CHANGED, false, 'n', '-', 'o', 1, 0, 0, 1, 0 },
		{ "back, original written", JOURNAL_BACK, 'n', '-', 'o', CHANGED, NOT, false, 'n', '-', 'o', 0, 0, 0, 0, 1 },
		{ "back, exchanged", JOURNAL_BACK, 'o', '-', 'n', NOT, NOT, false, 'o', '-', '-', 0, 1, 0, 0, 0 },
		{ "back, original in use", JOURNAL_BACK, 'o', '-', 'n', OPEN, NOT, false, 'o', '-', '-', 0, 1, 0, 0, 0 },
		{ "back, new written", JOURNAL_BACK, 'o', '-', 'n', NOT, CHANGED, false, 'n', '-', 'o', 1, 0, 0, 1, 0 },
		{ "back, both written", JOURNAL_BACK, 'o', '-', 'n', CHANGED, CHANGED, false, 'o', '-', 'n', 0, 0, 0, 0, 1 },
		{ "backed", JOURNAL_BACKED, 'o', '-', 'n', NOT, NOT, false, 'o', '-', '-', 0, 1, 0, 0, 0 },
		{ "backed, new chmodded", JOURNAL_BACKED, 'o', '-', 'n', NOT, META, false, 'n', '-', 'o', 1, 0, 0, 1, 0 },
		{ "backed, new gone", JOURNAL_BACKED, 'o', '-', '-', NOT, NOT, false, 'o', '-', '-', 0, 1, 0, 0, 0 },

		{ "undone", JOURNAL_UNDONE, 'o', 'n', '-', NOT, NOT, false, 'o', '-', '-', 0, 0, 0, 0, 0 },
		{ "undone, in the trash", JOURNAL_UNDONE, 'o', '-', 'n', NOT, NOT, false, 'o', '-', '-', 0, 0, 0, 0, 0 },
		{ "undone, is the original", JOURNAL_UNDONE, 'n', 'o', '-', NOT, NOT, false, 'n', 'o', '-', 0, 0, 0, 0, 1 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		recover_found(&all[i]);
}

static void both_changed_is_left_to_the_user(void **state)
{
	static const struct found f = { "both", JOURNAL_SWAP, 'n', 'o', '-', CHANGED, CHANGED };
	struct workshop *w;

	(void)state;
	workshop_close(open_shop());
	place("image", 'n');
	place(".dedupscan/1.new", 'o');
	write_journal(&f);
	touch(&f, 'o', CHANGED);
	touch(&f, 'n', CHANGED);
	w = open_shop();
	assert_int_equal(recover(w).nr_unclear, 1);
	assert_non_null(strstr(told, "both files are kept"));
	assert_non_null(strstr(told, "'.dedupscan/1.new'"));
	assert_string_equal(text_of("image"), NEW_FILE "!");
	assert_string_equal(text_of(".dedupscan/1.new"), ORIGINAL "!");
	/* the advice works */
	unlink(in_tree(".dedupscan/1.new"));
	assert_int_equal(recover(w).nr_unclear, 0);
	assert_int_equal(w->journal.live.nr, 0);
	workshop_close(w);
}

static void one_that_is_stuck_holds_up_no_other(void **state)
{
	struct workshop *w;
	struct journal j = JOURNAL_INIT;
	struct journal_entry e = { .number = 1, .state = JOURNAL_SWAP, .path = (char *)"link/image" };
	int dirfd;

	(void)state;
	workshop_close(open_shop());
	put("image", "x");
	put(".dedupscan/1.new", "y");
	put(".dedupscan/2.new", "z");
	assert_int_equal(symlink(".", in_tree("link")), 0);
	dirfd = open_dir(".dedupscan");
	e.original = identity_of("image");
	e.replacement = identity_of(".dedupscan/1.new");
	assert_int_equal(journal_open(&j, dirfd, NULL), 0);
	assert_int_equal(journal_append(&j, &e, NULL), 0);
	e = (struct journal_entry){ .number = 2, .state = JOURNAL_BEGIN, .original = e.original, .path = (char *)"image" };
	assert_int_equal(journal_append(&j, &e, NULL), 0);
	journal_release(&j);
	close(dirfd);
	w = open_shop();
	assert_int_equal(recover(w).nr_unclear, 1); /* F1: a path is never followed through a link */
	assert_non_null(strstr(told, "link/image: "));
	assert_true(is_there(".dedupscan/1.new"));
	assert_false(is_there(".dedupscan/2.new"));
	workshop_close(w);
}

static void files_that_the_journal_does_not_know_are_kept(void **state)
{
	struct workshop *w = open_shop();

	(void)state;
	put(".dedupscan/9.new", "mine");
	put(".dedupscan/trash/9", "mine");
	put(".dedupscan/notes", "mine");
	put(".dedupscan/probe-a", "ours");
	put(".dedupscan/journal.tmp", "ours");
	assert_int_equal(recover(w).nr_unclear, 3);
	assert_non_null(strstr(told, ".dedupscan/trash/9: "));
	assert_true(is_there(".dedupscan/9.new") && is_there(".dedupscan/trash/9") && is_there(".dedupscan/notes"));
	assert_false(is_there(".dedupscan/probe-a") || is_there(".dedupscan/journal.tmp"));
	workshop_close(w);
}

/* ---- keeping, purging, undoing ---- */

static void originals_are_kept_until_they_are_purged(void **state)
{
	struct workshop *w = open_shop();
	struct recovery sum;
	uint64_t bytes = 7;

	(void)state;
	put("a", "first");
	put("b", "second");
	replace_well(w, "a");
	replace_well(w, "b");
	sum = recover(w);
	assert_int_equal(sum.nr_kept, 2);
	assert_true(sum.bytes_kept > 0);
	assert_string_equal(text_of(".dedupscan/trash/1"), "first");
	assert_string_equal(text_of(".dedupscan/trash/2"), "second");
	assert_int_equal(workshop_purge(w, &bytes, NULL), 0);
	assert_int_equal(bytes, sum.bytes_kept);
	assert_int_equal(workshop_purge(w, &bytes, NULL), 0);
	assert_int_equal(bytes, 0);
	assert_string_equal(text_of("a"), "FIRST");
	assert_string_equal(text_of("b"), "SECOND");
	assert_workshop_is_empty();
	workshop_close(w);
}

static void a_purge_removes_nothing_but_originals(void **state)
{
	struct workshop *w = open_shop();
	uint64_t bytes;

	(void)state;
	put("a", "first");
	replace_well(w, "a");
	put(".dedupscan/trash/1", "something that somebody put there");
	assert_int_equal(workshop_purge(w, &bytes, NULL), -1);
	assert_string_equal(text_of(".dedupscan/trash/1"), "something that somebody put there");
	workshop_close(w);
}

static void an_undo_puts_the_very_file_back(void **state)
{
	struct workshop *w = open_shop();
	struct spool_identity before, after;
	uint64_t nr;

	(void)state;
	tree_dir("sub");
	put("sub/image", "text");
	before = identity_of("sub/image");
	replace_well(w, "sub/image");
	assert_string_equal(text_of("sub/image"), "TEXT");
	assert_int_equal(workshop_undo(w, "image", &nr, NULL), 0); /* another path */
	assert_int_equal(nr, 0);
	workshop_close(w);
	w = open_shop();
	assert_int_equal(workshop_undo(w, "sub/image", &nr, NULL), 0);
	assert_int_equal(nr, 1);
	after = identity_of("sub/image");
	assert_int_equal(after.ino, before.ino);
	assert_int_equal(after.mtime, before.mtime);
	assert_string_equal(text_of("sub/image"), "text");
	assert_workshop_is_empty();
	assert_int_equal(w->journal.live.nr, 0);
	workshop_close(w);
}

static void an_image_replaced_twice_comes_back_to_its_first_original(void **state)
{
	struct workshop *w = open_shop();
	struct spool_identity before;
	struct err err = ERR_INIT;
	uint64_t nr;

	(void)state;
	put("image", "text");
	before = identity_of("image");
	replace_well(w, "image");
	replace_well(w, "image");
	if (workshop_undo(w, NULL, &nr, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(nr, 2);
	assert_int_equal(identity_of("image").ino, before.ino);
	assert_workshop_is_empty();
	workshop_close(w);
}

static int writes_to_live;

static ssize_t write_or_die(int fd, const void *buf, size_t len, off_t offset)
{
	if (writes_to_live-- == 0)
		_exit(0);
	return pwrite(fd, buf, len, offset);
}

/* In a process of its own, which dies at the n-th write. */
static void undo_and_die(int n)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		struct file_ops ops = file_ops_os;
		struct workshop *w = open_shop();
		uint64_t nr;

		writes_to_live = n;
		ops.pwrite = write_or_die;
		file_ops = &ops;
		workshop_undo(w, NULL, &nr, NULL);
		_exit(0);
	}
	assert_true(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
}

static void an_undo_of_two_that_was_killed_anywhere_comes_to_its_end(void **state)
{
	(void)state;
	for (int n = 0; n < 12; n++) {
		struct workshop *w = open_shop();
		struct spool_identity before;
		struct recovery sum;
		struct err err = ERR_INIT;
		uint64_t nr;

		put("image", "text");
		before = identity_of("image");
		replace_well(w, "image");
		replace_well(w, "image");
		workshop_close(w);
		undo_and_die(n);
		w = open_shop();
		if (workshop_recover(w, NULL, NULL, &sum, &err) < 0 || workshop_undo(w, NULL, &nr, &err) < 0)
			fail_msg("killed at write %d: %s", n, err.text);
		assert_int_equal(identity_of("image").ino, before.ino);
		assert_workshop_is_empty();
		workshop_close(w);
	}
}

static void an_undo_of_a_changed_image_is_refused(void **state)
{
	struct workshop *w = open_shop();
	struct err err = ERR_INIT;
	uint64_t nr;

	(void)state;
	put("image", "text");
	put("other", "more");
	replace_well(w, "image");
	replace_well(w, "other");
	usleep(10000);
	chmod(in_tree("image"), 0644);
	assert_int_equal(workshop_undo(w, NULL, &nr, &err), -1);
	assert_int_equal(nr, 1); /* the other */
	assert_int_equal(err.kind, ERR_STALE);
	assert_non_null(strstr(err.text, "'image': it has changed"));
	assert_string_equal(text_of("image"), "TEXT");
	assert_string_equal(text_of("other"), "more");
	assert_string_equal(text_of(".dedupscan/trash/1"), "text");
	assert_int_equal(recover(w).nr_unclear, 0);
	workshop_close(w);
}

static void an_undo_of_an_image_in_use_is_refused(void **state)
{
	struct workshop *w = open_shop();
	struct err err = ERR_INIT;
	uint64_t nr;
	int fd;

	(void)state;
	put("image", "text");
	replace_well(w, "image");
	fd = open(in_tree("image"), O_RDONLY);
	assert_int_equal(workshop_undo(w, NULL, &nr, &err), -1);
	assert_int_equal(err.kind, ERR_BUSY);
	close(fd);
	fd = open(in_tree(".dedupscan/trash/1"), O_RDONLY);
	assert_int_equal(workshop_undo(w, NULL, &nr, &err), -1);
	assert_int_equal(err.kind, ERR_BUSY);
	close(fd);
	assert_int_equal(workshop_undo(w, NULL, &nr, &err), 0);
	assert_string_equal(text_of("image"), "text");
	workshop_close(w);
}

static int nr_exchanges;

static int note_renameat2(int a, const char *b, int c, const char *d, unsigned flags)
{
	nr_exchanges += (flags & RENAME_EXCHANGE) != 0;
	return renameat2(a, b, c, d, flags);
}

/* When the files have changed places, and not when they have again. */
static int failing_fsync(int fd)
{
	return nr_exchanges % 2 ? (errno = EIO, -1) : fsync(fd);
}

static void an_undo_that_was_turned_round_can_be_tried_again(void **state)
{
	struct workshop *w = open_shop();
	struct file_ops ops = file_ops_os;
	struct err err = ERR_INIT;
	uint64_t nr;

	(void)state;
	put("image", "text");
	replace_well(w, "image");
	ops.renameat2 = note_renameat2;
	ops.fsync = failing_fsync;
	file_ops = &ops;
	for (int i = 0; i < 2; i++) {
		usleep(10000);
		assert_int_equal(workshop_undo(w, NULL, &nr, &err), -1);
		if (!strstr(err.text, strerror(EIO)))
			fail_msg("%s", err.text);
		assert_string_equal(text_of("image"), "TEXT");
	}
	file_ops = &file_ops_os;
	assert_int_equal(workshop_undo(w, NULL, &nr, NULL), 0);
	assert_string_equal(text_of("image"), "text");
	workshop_close(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		shop_test(is_made_only_when_asked),
		shop_test(f8_is_refused_when_open_to_others),
		shop_test(f1_a_link_in_its_place_is_refused),
		shop_test(d9_two_do_not_work_in_it_at_once),
		shop_test(d10_a_killed_holder_does_not_lock_it),
		shop_test(a_lost_journal_is_not_made_again_over_originals),
		shop_test(b11_a_size_limit_is_an_error),
		shop_test(recovery_from_every_state),
		shop_test(both_changed_is_left_to_the_user),
		shop_test(one_that_is_stuck_holds_up_no_other),
		shop_test(files_that_the_journal_does_not_know_are_kept),
		shop_test(originals_are_kept_until_they_are_purged),
		shop_test(a_purge_removes_nothing_but_originals),
		shop_test(an_undo_puts_the_very_file_back),
		shop_test(an_image_replaced_twice_comes_back_to_its_first_original),
		shop_test(an_undo_of_two_that_was_killed_anywhere_comes_to_its_end),
		shop_test(an_undo_of_a_changed_image_is_refused),
		shop_test(an_undo_of_an_image_in_use_is_refused),
		shop_test(an_undo_that_was_turned_round_can_be_tried_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
