/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/workshop_help.h"

#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <time.h>

#define assert_fails(j, kind_, words)                                                                                  \
	do {                                                                                                           \
		struct err err_ = ERR_INIT;                                                                            \
		assert_int_equal(replace(j, &err_), -1);                                                               \
		if (err_.kind != (kind_) || !strstr(err_.text, words))                                                 \
			fail_msg("%s: %s", err_kind_name(err_.kind), err_.text);                                       \
	} while (0)

static void assert_untouched(const struct spool_identity *before, const char *name, const char *text)
{
	struct spool_identity now = identity_of(name);

	assert_true(spool_identity_equal(&now, before));
	assert_string_equal(text_of(name), text);
	assert_workshop_is_empty();
}

/* ---- it works ---- */

static void an_image_is_replaced_and_its_original_kept(void **state)
{
	struct workshop *w = open_shop();
	struct spool_identity before, now, after;
	struct job_of_test j;

	(void)state;
	tree_dir("sub");
	put("sub/image", "some text");
	before = identity_of("sub/image");
	prepare(&j, w, "sub/image");
	j.r.ctx = &j.work;
	assert_int_equal(replace_image(&j.r, &after, NULL), 0);
	close(j.r.dirfd);
	now = identity_of("sub/image");
	assert_true(spool_identity_equal(&now, &after));
	assert_int_not_equal(now.ino, before.ino);
	assert_int_equal(now.mtime, before.mtime);
	assert_string_equal(text_of("sub/image"), "SOME TEXT");
	assert_string_equal(text_of(".dedupscan/trash/1"), "some text");
	assert_int_equal(identity_of(".dedupscan/trash/1").ino, before.ino);
	assert_int_equal(files_in(".dedupscan"), 3);
	assert_int_equal(j.work.nr_made, 1);
	assert_int_equal(j.work.nr_proven, 1);
	assert_int_equal(w->journal.live.items[0].state, JOURNAL_DONE);
	assert_true(w->journal.live.items[0].keep_until >= workshop_clock() + DAY - 60);
	workshop_close(w);
}

static void with_nothing_to_keep_the_original_goes(void **state)
{
	struct workshop *w = open_shop();
	struct job_of_test j;

	(void)state;
	put("image", "text");
	prepare(&j, w, "image");
	j.r.keep = 0;
	assert_int_equal(replace(&j, NULL), 0);
	assert_string_equal(text_of("image"), "TEXT");
	assert_workshop_is_empty();
	assert_int_equal(w->journal.live.nr, 0);
	workshop_close(w);
}

/* ---- what is refused ---- */

static void d8_hard_links_are_refused(void **state)
{
	struct workshop *w = open_shop();
	struct spool_identity before;
	struct job_of_test j;

	(void)state;
	put("image", "text");
	assert_int_equal(link(in_tree("image"), in_tree("second")), 0);
	before = identity_of("image");
	prepare(&j, w, "image");
	assert_fails(&j, ERR_REFUSED, "2 names");
	assert_untouched(&before, "image", "text");
	workshop_close(w);
}

static int link_it(struct work *k)
{
	(void)k;
	return link(in_tree("image"), in_tree("second"));
}

static void d8_a_hard_link_made_meanwhile_is_noticed(void **state)
{
	struct workshop *w = open_shop();
	struct job_of_test j;

	(void)state;
	put("image", "text");
	prepare(&j, w, "image");
	j.work.in_prove = link_it;
	assert_fails(&j, ERR_STALE, "changed meanwhile");
	assert_string_equal(text_of("image"), "text");
	assert_workshop_is_empty();
	workshop_close(w);
}

/* F2, F3 */
static void f2_only_regular_files_are_replaced(void **state)
{
	struct workshop *w = open_shop();
	struct job_of_test j;

	(void)state;
	put("file", "text");
	assert_int_equal(symlink("file", in_tree("link")), 0);
	assert_int_equal(mkfifo(in_tree("fifo"), 0600), 0);
	tree_dir("dir");
	prepare(&j, w, "link");
	assert_fails(&j, ERR_REFUSED, "symbolic link");
	prepare(&j, w, "fifo");
	assert_fails(&j, ERR_REFUSED, "not a regular file");
	prepare(&j, w, "dir");
	assert_fails(&j, ERR_REFUSED, "not a regular file");
	prepare(&j, w, "file");
	unlink(in_tree("file"));
	assert_fails(&j, ERR_STALE, "not there");
	assert_workshop_is_empty();
	workshop_close(w);
}

static void f5_set_uid_is_refused(void **state)
{
	struct workshop *w = open_shop();
	struct spool_identity before;
	struct job_of_test j;

	(void)state;
	put("image", "text");
	for (mode_t mode = 02755; mode <= 06755; mode += 02000) {
		chmod(in_tree("image"), mode);
		before = identity_of("image");
		prepare(&j, w, "image");
		assert_fails(&j, ERR_REFUSED, "set-uid");
		assert_untouched(&before, "image", "text");
	}
	workshop_close(w);
}

static void set_inode_flags(const char *name, int flags)
{
	int fd = open(in_tree(name), O_RDONLY);

	if (ioctl(fd, FS_IOC_SETFLAGS, &flags) < 0) {
		close(fd);
		print_message("no immutable files here: %s\n", strerror(errno));
		skip();
	}
	close(fd);
}

static void f5_immutable_and_append_only_are_refused(void **state)
{
	static const int flags[] = { FS_IMMUTABLE_FL, FS_APPEND_FL };
	struct workshop *w = open_shop();
	struct job_of_test j;

	(void)state;
	put("image", "text");
	for (size_t i = 0; i < 2; i++) {
		set_inode_flags("image", flags[i]);
		prepare(&j, w, "image");
		assert_fails(&j, ERR_REFUSED, "immutable or append-only");
		set_inode_flags("image", 0);
	}
	assert_string_equal(text_of("image"), "text");
	assert_workshop_is_empty();
	workshop_close(w);
}

static void f6_mounts_are_refused(void **state)
{
	struct workshop *w = open_shop();
	struct job_of_test j;

	(void)state;
	put("image", "text");
	put("other", "more");
	prepare(&j, w, "image");
	if (mount(in_tree("other"), in_tree("image"), NULL, MS_BIND, NULL) < 0) {
		close(j.r.dirfd);
		workshop_close(w);
		print_message("no mounts here: %s\n", strerror(errno));
		skip();
	}
	assert_fails(&j, ERR_REFUSED, "mount lies on it");
	umount(in_tree("image"));
	assert_string_equal(text_of("image"), "text");
	assert_string_equal(text_of("other"), "more");
	assert_workshop_is_empty();
	workshop_close(w);
}

/* B13 */
static void b13_another_file_system_is_told_before_anything_is_made(void **state)
{
	struct workshop *w = open_shop();
	struct job_of_test j;

	(void)state;
	tree_dir("sub");
	if (mount("none", in_tree("sub"), "tmpfs", 0, NULL) < 0) {
		workshop_close(w);
		print_message("no mounts here: %s\n", strerror(errno));
		skip();
	}
	put("sub/image", "text");
	prepare(&j, w, "sub/image");
	assert_fails(&j, ERR_UNSUPPORTED, "another file system");
	assert_int_equal(j.work.nr_made, 0);
	umount(in_tree("sub"));
	assert_workshop_is_empty();
	workshop_close(w);
}

static void a_path_that_leads_elsewhere_is_refused(void **state)
{
	struct workshop *w = open_shop();
	struct job_of_test j;

	(void)state;
	tree_dir("a");
	tree_dir("b");
	put("a/image", "text");
	prepare(&j, w, "a/image");
	j.r.path = "b/image";
	assert_fails(&j, ERR_STALE, "moved");
	prepare(&j, w, "a/image");
	j.r.path = "a/other";
	assert_fails(&j, ERR_STALE, "moved");
	assert_workshop_is_empty();
	workshop_close(w);
}

/* ---- what changes meanwhile ---- */

static void d4_changed_since_the_plan(void **state)
{
	struct workshop *w = open_shop();
	struct job_of_test j;

	(void)state;
	put("image", "text");
	prepare(&j, w, "image");
	j.r.expected.ctime--;
	assert_fails(&j, ERR_STALE, "changed");
	assert_int_equal(j.work.nr_made, 0);
	assert_workshop_is_empty();
	workshop_close(w);
}

static int chmod_it(struct work *k)
{
	(void)k;
	usleep(10000);
	return chmod(in_tree("image"), 0640);
}

static int rename_it(struct work *k)
{
	(void)k;
	rename(in_tree("image"), in_tree("moved"));
	put("image", "new file");
	return 0;
}

/* D4, D14 */
static void d14_changes_of_mode_or_name_are_noticed(void **state)
{
	struct workshop *w = open_shop();
	struct job_of_test j;
	struct stat st;

	(void)state;
	put("image", "text");
	prepare(&j, w, "image");
	j.work.in_make = chmod_it;
	assert_fails(&j, ERR_STALE, "changed meanwhile");
	assert_int_equal(stat(in_tree("image"), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0640);
	prepare(&j, w, "image");
	j.work.in_prove = rename_it;
	assert_fails(&j, ERR_STALE, "");
	assert_string_equal(text_of("image"), "new file");
	assert_string_equal(text_of("moved"), "text");
	assert_workshop_is_empty();
	workshop_close(w);
}

static int fail_it(struct work *k)
{
	(void)k;
	return -1;
}

static void a_failure_leaves_no_trace(void **state)
{
	struct workshop *w = open_shop();
	struct spool_identity before;
	struct job_of_test j;

	(void)state;
	put("image", "text");
	before = identity_of("image");
	prepare(&j, w, "image");
	j.work.in_make = fail_it;
	assert_fails(&j, ERR_FORMAT, "image 'image': it does not work");
	assert_untouched(&before, "image", "text");
	prepare(&j, w, "image");
	j.work.in_prove = fail_it;
	assert_fails(&j, ERR_FORMAT, "image 'image': it is not the same");
	assert_untouched(&before, "image", "text");
	assert_int_equal(w->journal.live.nr, 0);
	workshop_close(w);
}

static void a_stop_is_heard_while_it_is_made(void **state)
{
	struct workshop *w = open_shop();
	struct stopper stopper = { .flag = 1 };
	struct spool_identity before;
	struct job_of_test j;

	(void)state;
	put("image", "text");
	before = identity_of("image");
	prepare(&j, w, "image");
	j.r.stopper = &stopper;
	j.work.waits_for_check = true;
	assert_fails(&j, ERR_CANCELED, "stopped");
	assert_untouched(&before, "image", "text");
	workshop_close(w);
}

static void an_open_end_must_be_closed_first(void **state)
{
	struct workshop *w = open_shop();
	struct job_of_test j;
	struct journal_entry e = { .number = 1, .state = JOURNAL_SWAP, .path = (char *)"image" };

	(void)state;
	put("image", "text");
	assert_int_equal(journal_append(&w->journal, &e, NULL), 0);
	prepare(&j, w, "image");
	assert_fails(&j, ERR_STALE, "run dedupscan recover");
	workshop_close(w);
}

/* ---- who has it open ---- */

static void d2_an_image_in_use_is_left_alone(void **state)
{
	static const int flags[] = { O_RDONLY, O_WRONLY, O_RDWR };
	struct workshop *w = open_shop();
	struct spool_identity before;
	struct job_of_test j;

	(void)state;
	put("image", "text");
	before = identity_of("image");
	for (size_t i = 0; i < 3; i++) {
		int fd = open(in_tree("image"), flags[i]);

		prepare(&j, w, "image");
		assert_fails(&j, ERR_BUSY, "in use by");
		close(fd);
		assert_untouched(&before, "image", "text");
	}
	workshop_close(w);
}

/* A child opens the image, writes a '#' at its beginning, stays for a moment, and goes. */
static pid_t visit(void)
{
	pid_t child = fork();

	if (child == 0) {
		int fd = open(in_tree("image"), O_RDWR);

		_exit(fd >= 0 && pwrite(fd, "#", 1, 0) == 1 && close(fd) == 0 ? 0 : 1);
	}
	return child;
}

/* Until it is gone or waits for a lease. */
static bool has_come(pid_t child)
{
	char path[64], what[64] = "";
	siginfo_t info = { 0 };
	FILE *f;

	if (waitid(P_PID, (id_t)child, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == child)
		return true;
	snprintf(path, sizeof(path), "/proc/%d/wchan", (int)child);
	f = fopen(path, "r");
	if (f && !fgets(what, sizeof(what), f))
		*what = '\0';
	if (f)
		fclose(f);
	return strstr(what, "break_lease");
}

static pid_t visitor;

static void send_visitor(void)
{
	visitor = visit();
	for (unsigned i = 0; i < 20000 && !has_come(visitor); i++)
		usleep(100);
}

static int visit_it(struct work *k)
{
	(void)k;
	send_visitor();
	return 0;
}

static void d3_an_opener_stops_it_at_once(void **state)
{
	struct workshop *w = open_shop();
	struct job_of_test j;
	int status;

	(void)state;
	put("image", "text");
	prepare(&j, w, "image");
	j.work.in_make = visit_it;
	j.work.waits_for_check = true;
	assert_fails(&j, ERR_BUSY, "somebody opens the image");
	waitpid(visitor, &status, 0);
	assert_int_equal(status, 0);
	assert_string_equal(text_of("image"), "#ext");
	assert_workshop_is_empty();
	workshop_close(w);
}

/* ---- at the n-th call ---- */

static unsigned calls, visit_at;

static void step(void)
{
	if (++calls == visit_at)
		send_visitor();
}

#define WRAP(type, name, params, args)                                                                                 \
	static type step_##name params                                                                                 \
	{                                                                                                              \
		step();                                                                                                \
		return file_ops_os.name args;                                                                          \
	}

WRAP(int, openat, (int d, const char *n, int f, mode_t m), (d, n, f, m))
WRAP(int, openat2, (int d, const char *n, int f, uint64_t r), (d, n, f, r))
WRAP(int, close, (int fd), (fd))
WRAP(ssize_t, pread, (int fd, void *b, size_t l, off_t o), (fd, b, l, o))
WRAP(ssize_t, pwrite, (int fd, const void *b, size_t l, off_t o), (fd, b, l, o))
WRAP(int, fdatasync, (int fd), (fd))
WRAP(int, fsync, (int fd), (fd))
WRAP(int, renameat2, (int a, const char *b, int c, const char *d, unsigned f), (a, b, c, d, f))
WRAP(int, unlinkat, (int d, const char *n, int f), (d, n, f))
WRAP(int, fstat, (int fd, struct stat *st), (fd, st))
WRAP(int, fstatat, (int d, const char *n, struct stat *st, int f), (d, n, st, f))
WRAP(int, ioctl, (int fd, unsigned long r, void *a), (fd, r, a))
WRAP(int, fcntl, (int fd, int c, void *a), (fd, c, a))

static struct file_ops stepping(void)
{
	struct file_ops ops = file_ops_os;

	ops.openat = step_openat, ops.openat2 = step_openat2, ops.close = step_close, ops.pread = step_pread;
	ops.pwrite = step_pwrite, ops.fdatasync = step_fdatasync, ops.fsync = step_fsync, ops.renameat2 = step_renameat2;
	ops.unlinkat = step_unlinkat, ops.fstat = step_fstat, ops.fstatat = step_fstatat, ops.ioctl = step_ioctl;
	ops.fcntl = step_fcntl;
	return ops;
}

/* Someone who opens the image before the n-th call, and writes, finds what he wrote at the path afterwards.  Returns
 * the number of calls. */
static unsigned replace_with_visitor(unsigned at, bool undo)
{
	struct file_ops ops = stepping();
	struct workshop *w = open_shop();
	struct recovery sum;
	struct job_of_test j;
	struct err err = ERR_INIT;
	uint64_t nr;
	int status = 0, rc;
	char *text;

	put("image", "text");
	if (undo)
		replace_well(w, "image");
	prepare(&j, w, "image");
	calls = 0;
	visit_at = at;
	visitor = 0;
	file_ops = &ops;
	rc = undo ? workshop_undo(w, NULL, &nr, &err) : replace(&j, &err);
	file_ops = &file_ops_os;
	if (undo)
		close(j.r.dirfd);
	if (visitor)
		waitpid(visitor, &status, 0);
	text = text_of("image");
	if (status || (visitor && *text != '#'))
		fail_msg("call %u: the image is '%s', the visitor's status %d, %d: %s", at, text, status, rc, err.text);
	if (rc < 0 && err.kind != ERR_BUSY && err.kind != ERR_STALE)
		fail_msg("call %u: %s", at, err.text);
	if (rc < 0 && strcmp(text + 1, undo ? "EXT" : "ext") != 0 && !strstr(err.text, "both files are kept"))
		fail_msg("call %u: it failed, and the image is '%s'", at, text);
	assert_int_equal(workshop_recover(w, NULL, NULL, &sum, NULL), 0);
	if (sum.nr_unclear && !(rc < 0 && strstr(err.text, "both files are kept")))
		fail_msg("call %u: unclear, and nobody said so: %s", at, err.text);
	assert_string_equal(text_of("image"), text);
	if (undo && rc < 0 && visitor && workshop_undo(w, NULL, &nr, NULL) == 0 && *text_of("image") != '#')
		fail_msg("call %u: what was written is lost when it is tried again", at);
	workshop_close(w);
	unlink(in_tree(".dedupscan/journal"));
	for (unsigned n = 1; n <= 3; n++) {
		char name[64];

		snprintf(name, sizeof(name), ".dedupscan/trash/%u", n);
		unlink(in_tree(name));
		snprintf(name, sizeof(name), ".dedupscan/%u.new", n);
		unlink(in_tree(name));
	}
	return calls;
}

static void require_wchan(void)
{
	if (geteuid() == 0 && access("/proc/self/wchan", R_OK) == 0)
		return;
	print_message("only root sees what a process waits for\n");
	skip();
}

/* D3, X4, X6 */
static void an_opener_at_any_step_loses_nothing(void **state)
{
	unsigned stride = getenv("LONG") ? 1 : 3;

	(void)state;
	require_wchan();
	for (int undo = 0; undo < 2; undo++) {
		unsigned nr = replace_with_visitor(0, undo);

		assert_true(nr > 50);
		for (unsigned at = 1; at <= nr; at += stride)
			replace_with_visitor(at, undo);
	}
}

/* ---- an opener who was on his way: he had looked the path up before the exchange, and asks for the lease after it
 * ---- */

static struct {
	const char *path, *text; /* where what he opened is then */
	bool too; /* another opens the file that came */
	bool stays;
	int fd;
} late;

static int late_fcntl(int fd, int cmd, void *arg)
{
	int rc = file_ops_os.fcntl(fd, cmd, arg);

	if (cmd != F_SETLEASE || (intptr_t)arg != F_UNLCK || late.fd >= 0 || strcmp(text_of(late.path), late.text) != 0)
		return rc;
	late.fd = open(in_tree(late.path), O_RDWR | O_NONBLOCK);
	if (late.fd < 0) /* the other lease goes first */
		return rc;
	usleep(10000);
	assert_int_equal(pwrite(late.fd, "#", 1, 0), 1);
	if (late.too)
		tree_write("image", "!", 1);
	if (!late.stays)
		close(late.fd);
	return rc;
}

static int replace_with_late(struct workshop *w, struct err *err)
{
	struct file_ops ops = file_ops_os;
	struct job_of_test j;
	int rc;

	put("image", "text");
	prepare(&j, w, "image");
	ops.fcntl = late_fcntl;
	late.path = ".dedupscan/1.new";
	late.text = "text";
	late.fd = -1;
	file_ops = &ops;
	rc = replace(&j, err);
	file_ops = &file_ops_os;
	assert_true(late.fd >= 0);
	return rc;
}

/* It cannot be tried again: what he wrote would be lost. */
static void a_late_opener_ends_an_undo(void **state)
{
	struct file_ops ops = file_ops_os;
	struct workshop *w = open_shop();
	struct err err = ERR_INIT;
	uint64_t nr;

	(void)state;
	put("image", "text");
	replace_well(w, "image");
	ops.fcntl = late_fcntl;
	late.path = ".dedupscan/trash/1";
	late.text = "TEXT";
	late.too = late.stays = false;
	late.fd = -1;
	file_ops = &ops;
	assert_int_equal(workshop_undo(w, NULL, &nr, &err), -1);
	file_ops = &file_ops_os;
	assert_true(late.fd >= 0);
	assert_int_equal(err.kind, ERR_BUSY);
	assert_string_equal(text_of("image"), "#EXT");
	err = (struct err)ERR_INIT;
	assert_int_equal(workshop_undo(w, NULL, &nr, &err), -1);
	assert_int_equal(err.kind, ERR_STALE);
	assert_string_equal(text_of("image"), "#EXT");
	assert_string_equal(text_of(".dedupscan/trash/1"), "text");
	workshop_close(w);
	unlink(in_tree(".dedupscan/journal"));
	unlink(in_tree(".dedupscan/trash/1"));
}

static void a_late_opener_gets_the_original_back_to_the_path(void **state)
{
	(void)state;
	for (int stays = 0; stays < 2; stays++) {
		struct workshop *w = open_shop();
		struct err err = ERR_INIT;

		late.stays = stays;
		late.too = false;
		assert_int_equal(replace_with_late(w, &err), -1);
		assert_int_equal(err.kind, ERR_BUSY);
		assert_non_null(strstr(err.text, "all is as it was"));
		assert_string_equal(text_of("image"), "#ext");
		assert_workshop_is_empty();
		assert_int_equal(w->journal.live.nr, 0);
		workshop_close(w);
		unlink(in_tree(".dedupscan/journal"));
		if (stays)
			close(late.fd);
	}
}

static void with_two_late_openers_both_files_are_kept(void **state)
{
	struct workshop *w = open_shop();
	struct err err = ERR_INIT;
	struct recovery sum;

	(void)state;
	late.stays = false;
	late.too = true;
	assert_int_equal(replace_with_late(w, &err), -1);
	assert_int_equal(err.kind, ERR_STALE);
	assert_non_null(strstr(err.text, "both files are kept"));
	assert_string_equal(text_of("image"), "!EXT");
	assert_string_equal(text_of(".dedupscan/1.new"), "#ext");
	assert_int_equal(workshop_recover(w, NULL, NULL, &sum, NULL), 0);
	assert_int_equal(sum.nr_unclear, 1);
	assert_string_equal(text_of("image"), "!EXT");
	assert_string_equal(text_of(".dedupscan/1.new"), "#ext");
	workshop_close(w);
}

/* The exchange is being turned round when somebody opens the path: he waits for the new file, so that stays there. */
static int turned_renameat2(int a, const char *b, int c, const char *d, unsigned f)
{
	if (f & RENAME_EXCHANGE && strcmp(b, "image") == 0 && ++calls == 2)
		send_visitor();
	return file_ops_os.renameat2(a, b, c, d, f);
}

static void who_opens_the_new_file_keeps_it_at_the_path(void **state)
{
	struct file_ops ops = file_ops_os;
	struct workshop *w;
	struct err err = ERR_INIT;
	struct job_of_test j;
	int status;

	(void)state;
	require_wchan();
	w = open_shop();
	put("image", "text");
	prepare(&j, w, "image");
	ops.fcntl = late_fcntl;
	ops.renameat2 = turned_renameat2;
	late.fd = -1;
	late.too = late.stays = false;
	calls = 0;
	file_ops = &ops;
	assert_int_equal(replace(&j, &err), -1);
	file_ops = &file_ops_os;
	assert_true(calls == 3 && late.fd >= 0);
	waitpid(visitor, &status, 0);
	assert_int_equal(status, 0);
	assert_int_equal(err.kind, ERR_STALE);
	assert_string_equal(text_of("image"), "#EXT");
	assert_string_equal(text_of(".dedupscan/1.new"), "#ext");
	workshop_close(w);
}

/* X6: one waits for the original when the places change, another comes as soon as it is let go.  Both get the same
 * file, because places changed again before. */
static int both_renameat2(int a, const char *b, int c, const char *d, unsigned f)
{
	if (f & RENAME_EXCHANGE && strcmp(b, "image") == 0 && !visitor)
		send_visitor();
	return file_ops_os.renameat2(a, b, c, d, f);
}

static int both_fcntl(int fd, int cmd, void *arg)
{
	int rc = file_ops_os.fcntl(fd, cmd, arg);

	if (cmd != F_SETLEASE || (intptr_t)arg != F_UNLCK || late.fd >= 0 || !visitor)
		return rc;
	late.fd = open(in_tree("image"), O_RDWR | O_NONBLOCK);
	if (late.fd >= 0)
		assert_int_equal(pwrite(late.fd, "!", 1, 3), 1);
	return rc;
}

static void who_waits_and_who_comes_next_get_the_same_file(void **state)
{
	struct file_ops ops = file_ops_os;
	struct workshop *w;
	struct err err = ERR_INIT;
	struct job_of_test j;
	int status, rc;

	(void)state;
	require_wchan();
	w = open_shop();
	put("image", "text");
	prepare(&j, w, "image");
	ops.renameat2 = both_renameat2;
	ops.fcntl = both_fcntl;
	late.fd = -1;
	visitor = 0;
	file_ops = &ops;
	rc = replace(&j, &err);
	file_ops = &file_ops_os;
	assert_int_equal(rc, -1);
	assert_true(visitor && late.fd >= 0);
	waitpid(visitor, &status, 0);
	assert_int_equal(status, 0);
	close(late.fd);
	assert_int_equal(err.kind, ERR_BUSY);
	assert_string_equal(text_of("image"), "#ex!");
	assert_workshop_is_empty();
	workshop_close(w);
}

/* X4: another comes between the exchange and its end, and waits for the new file, which then goes back: what he
 * writes is kept. */
static pid_t second_visitor;

static int between_renameat2(int a, const char *b, int c, const char *d, unsigned f)
{
	bool first = f & RENAME_EXCHANGE && strcmp(b, "image") == 0 && !visitor;
	pid_t waits;
	int rc;

	if (first)
		send_visitor();
	rc = file_ops_os.renameat2(a, b, c, d, f);
	if (first) {
		waits = visitor;
		send_visitor();
		second_visitor = visitor;
		visitor = waits;
	}
	return rc;
}

static void what_is_written_to_the_new_file_meanwhile_is_kept(void **state)
{
	struct file_ops ops = file_ops_os;
	struct workshop *w;
	struct err err = ERR_INIT;
	struct job_of_test j;
	int status, rc;

	(void)state;
	require_wchan();
	w = open_shop();
	put("image", "text");
	prepare(&j, w, "image");
	ops.renameat2 = between_renameat2;
	visitor = second_visitor = 0;
	file_ops = &ops;
	rc = replace(&j, &err);
	file_ops = &file_ops_os;
	assert_int_equal(rc, -1);
	waitpid(visitor, &status, 0);
	assert_int_equal(status, 0);
	waitpid(second_visitor, &status, 0);
	assert_int_equal(status, 0);
	assert_int_equal(err.kind, ERR_STALE);
	assert_string_equal(text_of("image"), "#ext");
	assert_string_equal(text_of(".dedupscan/1.new"), "#EXT");
	workshop_close(w);
}

/* X1: at every call the path names a file that is whole. */
static const char *const whole[] = { "text", "TEXT" };

static void look(void)
{
	const char *text = text_of("image");

	if (strcmp(text, whole[0]) != 0 && strcmp(text, whole[1]) != 0)
		fail_msg("the image is '%s'", text);
}

static int look_renameat2(int a, const char *b, int c, const char *d, unsigned f)
{
	int rc = file_ops_os.renameat2(a, b, c, d, f);

	if (f & RENAME_EXCHANGE) {
		struct stat st;

		calls++;
		assert_int_equal(fstatat(a, b, &st, AT_SYMLINK_NOFOLLOW), 0);
	}
	return rc;
}

static int look_fsync(int fd)
{
	struct stat st;

	assert_int_equal(lstat(in_tree("image"), &st), 0);
	assert_int_equal(st.st_size, 4);
	return file_ops_os.fsync(fd);
}

static void an_image_is_always_there(void **state)
{
	struct file_ops ops = file_ops_os;
	struct workshop *w = open_shop();
	struct job_of_test j;

	(void)state;
	put("image", "text");
	prepare(&j, w, "image");
	ops.renameat2 = look_renameat2;
	ops.fsync = look_fsync;
	calls = 0;
	file_ops = &ops;
	assert_int_equal(replace(&j, NULL), 0);
	file_ops = &file_ops_os;
	assert_int_equal(calls, 2); /* the probe, and the one */
	look();
	workshop_close(w);
}

/* B14 */
static int no_exchange(int a, const char *b, int c, const char *d, unsigned f)
{
	if (f & RENAME_EXCHANGE) {
		errno = EINVAL;
		return -1;
	}
	return file_ops_os.renameat2(a, b, c, d, f);
}

static void b14_without_exchange_nothing_is_begun(void **state)
{
	struct file_ops ops = file_ops_os;
	struct workshop *w = open_shop();
	struct spool_identity before;
	struct job_of_test j;

	(void)state;
	put("image", "text");
	before = identity_of("image");
	prepare(&j, w, "image");
	ops.renameat2 = no_exchange;
	file_ops = &ops;
	assert_fails(&j, ERR_UNSUPPORTED, "cannot exchange two files");
	file_ops = &file_ops_os;
	assert_int_equal(j.work.nr_made, 0);
	assert_untouched(&before, "image", "text");
	workshop_close(w);
}

/* ---- several at once ---- */

struct outcomes {
	unsigned nr;
	struct {
		uint64_t number;
		enum err_kind kind;
	} items[8];
};

static void hear_outcome(void *ctx, uint64_t number, const struct err *why)
{
	struct outcomes *o = ctx;

	o->items[o->nr].number = number;
	o->items[o->nr++].kind = why->kind;
}

static void replace_later(struct workshop *w, const char *path, uint64_t expected)
{
	struct err err = ERR_INIT;
	struct job_of_test j;
	uint64_t number = 0;

	put(path, "text");
	prepare(&j, w, path);
	j.r.later = &number;
	if (replace(&j, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(number, expected);
	assert_int_equal(journal_find(&w->journal, number)->state, JOURNAL_SWAPPED);
	assert_string_equal(text_of(path), "TEXT");
}

static uint64_t clock_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void several_settle_together(void **state)
{
	static const char *const names[] = { "a", "b", "c" };
	struct workshop *w = open_shop();
	struct outcomes heard = { 0 };
	uint64_t began;

	(void)state;
	workshop_set_settle(w, 2000000000);
	began = clock_ms();
	for (uint64_t i = 0; i < 3; i++)
		replace_later(w, names[i], i + 1);
	assert_false(replace_due(w));
	replace_settle(w, REPLACE_SETTLE_FIRST, hear_outcome, &heard);
	assert_int_equal(heard.nr, 0);
	assert_string_equal(text_of(".dedupscan/2.new"), "text");
	replace_settle(w, REPLACE_SETTLE_ALL, hear_outcome, &heard);
	assert_in_range(clock_ms() - began, 2000, 5000); /* one wait */
	assert_int_equal(heard.nr, 3);
	for (uint64_t i = 0; i < 3; i++) {
		assert_int_equal(heard.items[i].number, i + 1);
		assert_int_equal(heard.items[i].kind, ERR_NONE);
		assert_int_equal(journal_find(&w->journal, i + 1)->state, JOURNAL_DONE);
	}
	assert_int_equal(files_in(".dedupscan"), 3);
	assert_int_equal(files_in(".dedupscan/trash"), 3);
	replace_settle(w, REPLACE_SETTLE_ALL, hear_outcome, &heard);
	assert_int_equal(heard.nr, 3);
	workshop_close(w);
}

static void the_first_settles_while_others_wait(void **state)
{
	struct workshop *w = open_shop();
	struct outcomes heard = { 0 };
	struct job_of_test j;

	(void)state;
	replace_later(w, "a", 1);
	replace_later(w, "b", 2);
	assert_true(replace_due(w));
	replace_settle(w, REPLACE_SETTLE_FIRST, hear_outcome, &heard);
	assert_int_equal(heard.nr, 1);
	assert_int_equal(journal_find(&w->journal, 1)->state, JOURNAL_DONE);
	assert_int_equal(journal_find(&w->journal, 2)->state, JOURNAL_SWAPPED);
	prepare(&j, w, "b");
	assert_fails(&j, ERR_STALE, "it was being replaced before");
	replace_settle(w, REPLACE_SETTLE_FIRST, hear_outcome, &heard);
	assert_int_equal(journal_find(&w->journal, 2)->state, JOURNAL_DONE);
	assert_false(replace_due(w));
	workshop_close(w);
}

static void one_that_was_opened_goes_back_and_others_stand(void **state)
{
	static const enum err_kind expected[] = { ERR_NONE, ERR_BUSY, ERR_NONE, ERR_STALE };
	struct workshop *w = open_shop();
	struct outcomes heard = { 0 };
	int old, new;

	(void)state;
	replace_later(w, "a", 1);
	replace_later(w, "b", 2);
	replace_later(w, "c", 3);
	replace_later(w, "d", 4);
	old = open(in_tree(".dedupscan/2.new"), O_RDWR); /* who had looked the path up before */
	assert_int_equal(pwrite(old, "#", 1, 0), 1);
	new = open(in_tree("c"), O_RDWR);
	assert_int_equal(pwrite(new, "#", 1, 0), 1);
	tree_write("d", "!", 1);
	tree_write(".dedupscan/4.new", "?", 1);
	replace_settle(w, REPLACE_SETTLE_ALL, hear_outcome, &heard);
	close(old);
	close(new);
	assert_int_equal(heard.nr, 4);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(heard.items[i].kind, expected[i]);
	assert_string_equal(text_of("a"), "TEXT");
	assert_string_equal(text_of("b"), "#ext");
	assert_string_equal(text_of("c"), "#EXT");
	assert_string_equal(text_of("d"), "!EXT");
	assert_string_equal(text_of(".dedupscan/4.new"), "?ext");
	assert_string_equal(text_of(".dedupscan/trash/1"), "text");
	assert_string_equal(text_of(".dedupscan/2.new"), "(none)");
	assert_int_equal(files_in(".dedupscan"), 4);
	assert_int_equal(files_in(".dedupscan/trash"), 2);
	workshop_close(w);
}

static void what_never_settled_recovery_finishes(void **state)
{
	struct workshop *w = open_shop();
	struct recovery sum;

	(void)state;
	replace_later(w, "a", 1);
	replace_later(w, "b", 2);
	workshop_close(w);
	w = open_shop();
	assert_int_equal(workshop_recover(w, NULL, NULL, &sum, NULL), 0);
	assert_int_equal(sum.nr_finished, 2);
	assert_int_equal(files_in(".dedupscan/trash"), 2);
	workshop_close(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		shop_test(an_image_is_replaced_and_its_original_kept),
		tree_test(an_image_is_replaced_and_its_original_kept),
		shop_test(with_nothing_to_keep_the_original_goes),
		shop_test(d8_hard_links_are_refused),
		tree_test(d8_a_hard_link_made_meanwhile_is_noticed),
		shop_test(f2_only_regular_files_are_replaced),
		shop_test(f5_set_uid_is_refused),
		tree_test(f5_immutable_and_append_only_are_refused),
		shop_test(f6_mounts_are_refused),
		shop_test(b13_another_file_system_is_told_before_anything_is_made),
		shop_test(a_path_that_leads_elsewhere_is_refused),
		shop_test(d4_changed_since_the_plan),
		shop_test(d14_changes_of_mode_or_name_are_noticed),
		shop_test(a_failure_leaves_no_trace),
		shop_test(a_stop_is_heard_while_it_is_made),
		shop_test(an_open_end_must_be_closed_first),
		shop_test(d2_an_image_in_use_is_left_alone),
		shop_test(d3_an_opener_stops_it_at_once),
		shop_test(an_opener_at_any_step_loses_nothing),
		shop_test(a_late_opener_gets_the_original_back_to_the_path),
		shop_test(with_two_late_openers_both_files_are_kept),
		shop_test(who_waits_and_who_comes_next_get_the_same_file),
		shop_test(what_is_written_to_the_new_file_meanwhile_is_kept),
		shop_test(who_opens_the_new_file_keeps_it_at_the_path),
		shop_test(an_image_is_always_there),
		shop_test(b14_without_exchange_nothing_is_begun),
		shop_test(several_settle_together),
		shop_test(the_first_settles_while_others_wait),
		shop_test(one_that_was_opened_goes_back_and_others_stand),
		shop_test(what_never_settled_recovery_finishes),
		shop_test(a_late_opener_ends_an_undo),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
