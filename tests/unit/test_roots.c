/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include <linux/openat2.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#undef BLOCK_SIZE
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "scanner/base/checked.h"
#include "scanner/image/slice.h"
#include "scanner/roots.h"

static struct roots roots;
static unsigned nr_opened; /* everything that is opened for more than a look */
static char opened[64][NAME_MAX + 1];

/* ---- what is opened ---- */

static struct file_ops watching;
static void (*before_open)(const char *name, int flags);

static void note_open(const char *name, int flags)
{
	if (before_open)
		before_open(name, flags);
	if (!(flags & (O_PATH | O_DIRECTORY)) && nr_opened < ARRAY_SIZE(opened))
		snprintf(opened[nr_opened++], sizeof(opened[0]), "%s", name);
}

static int watching_openat(int dirfd, const char *name, int flags, mode_t mode)
{
	note_open(name, flags);
	return file_ops_os.openat(dirfd, name, flags, mode);
}

static int watching_openat2(int dirfd, const char *name, int flags, uint64_t resolve)
{
	note_open(name, flags);
	return file_ops_os.openat2(dirfd, name, flags, resolve);
}

static int make(void **state)
{
	roots = (struct roots){ 0 };
	nr_opened = 0;
	before_open = NULL;
	watching = file_ops_os;
	watching.openat = watching_openat;
	watching.openat2 = watching_openat2;
	file_ops = &watching;
	return tree_make(state);
}

static int unmake(void **state)
{
	file_ops = &file_ops_os;
	roots_release(&roots);
	return tree_remove(state);
}

#define roots_test(f) cmocka_unit_test_setup_teardown(f, make, unmake)

/* ---- a walk, as lines of text in order ---- */

struct seen {
	char *lines[256];
	size_t nr;
	unsigned nr_listing, stop_after;
};

static struct seen seen;

static void see(const char *kind, const char *path)
{
	char line[PATH_MAX + 64];

	snprintf(line, sizeof(line), "%s %s", kind, strcmp(path, tree) == 0 ? "." : path + strlen(tree) + 1);
	assert_true(seen.nr < ARRAY_SIZE(seen.lines));
	seen.lines[seen.nr++] = strdup(line);
}

static int see_file(void *ctx, const struct found *f, struct err *err)
{
	(void)ctx;
	(void)err;
	see(f->named ? "named" : "file", f->path);
	return 0;
}

static void see_problem(void *ctx, const char *path, const struct err *why, bool listing)
{
	char kind[sizeof(why->text)];

	(void)ctx;
	seen.nr_listing += listing;
	snprintf(kind, sizeof(kind), "%s", why->text);
	see(kind, path);
}

static bool see_stop(void *ctx)
{
	(void)ctx;
	return seen.stop_after && seen.nr >= seen.stop_after;
}

static int line_cmp(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static int walk(void)
{
	struct roots_visitor v = { see_file, see_problem, see_stop, NULL };
	int rc = 0;

	for (size_t i = 0; i < roots.list.nr && rc == 0; i++)
		if (roots.list.items[i].walked)
			rc = roots_walk(&roots, &roots.list.items[i], &v, NULL);
	return rc;
}

static bool walk_sees(const char *wanted)
{
	char all[16384] = "";

	seen = (struct seen){ 0 };
	if (walk() < 0)
		return false;
	qsort(seen.lines, seen.nr, sizeof(seen.lines[0]), line_cmp);
	for (size_t i = 0; i < seen.nr; i++) {
		strcat(strcat(all, seen.lines[i]), "\n");
		free(seen.lines[i]);
	}
	if (strcmp(all, wanted) != 0)
		fprintf(stderr, "wanted:\n%sgot:\n%s", wanted, all);
	return strcmp(all, wanted) == 0;
}

static void assert_walk_sees(const char *wanted)
{
	assert_true(walk_sees(wanted));
}

static void add(const char *path)
{
	assert_int_equal(roots_add(&roots, path, true, NULL), 0);
}

/* ---- walking ---- */

static void finds_files_in_all_depths(void **state)
{
	(void)state;
	tree_file("a");
	tree_dir("d");
	tree_file("d/b");
	tree_dir("d/e");
	tree_file("d/e/.c");
	tree_dir("empty");
	add(tree);
	assert_walk_sees("file a\nfile d/b\nfile d/e/.c\n");
	assert_int_equal(nr_opened, 0);
}

static void leaves_out_what_is_excluded_by_name_or_by_path(void **state)
{
	(void)state;
	tree_file("a.iso");
	tree_file("a.img");
	tree_dir("skip");
	tree_file("skip/b.img");
	tree_dir("d");
	tree_file("d/c.iso");
	tree_file("d/x.img");
	tree_file("x.img");
	add(tree);
	assert_int_equal(roots_exclude(&roots, "*.iso", NULL), 0);
	assert_int_equal(roots_exclude(&roots, "skip", NULL), 0);
	assert_int_equal(roots_exclude(&roots, in_tree("d/x*"), NULL), 0);
	assert_walk_sees("file a.img\nfile x.img\n");
}

static void follows_no_symbolic_link(void **state)
{
	(void)state;
	tree_dir("in");
	tree_dir("out");
	tree_file("out/secret");
	tree_file("in/a");
	assert_int_equal(symlink("../out", in_tree("in/dir")), 0);
	assert_int_equal(symlink("../out/secret", in_tree("in/link")), 0);
	assert_int_equal(symlink("nowhere", in_tree("in/dangling")), 0);
	assert_int_equal(symlink(".", in_tree("in/loop")), 0);
	add(in_tree("in"));
	assert_walk_sees("file in/a\n");
}

static void a_root_that_is_a_symbolic_link_is_followed(void **state)
{
	(void)state;
	tree_dir("d");
	tree_file("d/a");
	assert_int_equal(symlink("d", in_tree("link")), 0);
	assert_int_equal(symlink("d/a", in_tree("file")), 0);
	add(in_tree("link"));
	add(in_tree("file"));
	assert_walk_sees("file d/a\nnamed d/a\n");
}

static void make_socket(const char *name)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int s = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%.100s", in_tree(name));
	assert_int_equal(bind(s, (struct sockaddr *)&a, sizeof(a)), 0);
	close(s);
}

static void tells_of_fifos_and_sockets_and_opens_none(void **state)
{
	(void)state;
	tree_dir("d");
	assert_int_equal(mkfifo(in_tree("d/fifo"), 0600), 0);
	make_socket("d/socket");
	add(in_tree("d"));
	assert_walk_sees("it is a FIFO, not an image file d/fifo\nit is a socket, not an image file d/socket\n");
	assert_int_equal(nr_opened, 0);
	assert_int_equal(seen.nr_listing, 0);
}

static void a_fifo_that_is_named_is_told_and_not_opened(void **state)
{
	(void)state;
	assert_int_equal(mkfifo(in_tree("fifo"), 0600), 0);
	alarm(10);
	add(in_tree("fifo"));
	assert_walk_sees("it is a FIFO, not an image file fifo\n");
	alarm(0);
	assert_int_equal(nr_opened, 0);
}

static void the_catalog_is_left_out(void **state)
{
	struct stat st;

	(void)state;
	tree_file("a");
	tree_dir("catalog");
	tree_file("catalog/b");
	assert_int_equal(stat(in_tree("catalog"), &st), 0);
	roots.leave_out = spool_identity_of(&st);
	add(tree);
	assert_walk_sees("file a\n");
	add(in_tree("catalog"));
	assert_walk_sees("file a\n");
}

static void tells_which_directory_cannot_be_listed(void **state)
{
	pid_t pid;
	int status;

	(void)state;
	tree_file("a");
	tree_dir("locked");
	assert_int_equal(chmod(in_tree("locked"), 0), 0);
	assert_int_equal(chmod(tree, 0755), 0);
	add(tree); /* from here on by descriptor: what lies above the tree may be closed to others */
	pid = fork();
	if (pid == 0) { /* root may list everything */
		if (geteuid() == 0 && setuid(65534) < 0)
			_exit(1);
		if (!walk_sees("cannot open 'locked': Permission denied locked\nfile a\n"))
			_exit(2);
		_exit(seen.nr_listing == 1 ? 0 : 3);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void stops_when_asked(void **state)
{
	struct roots_visitor v = { see_file, see_problem, see_stop, NULL };
	struct err err = ERR_INIT;

	(void)state;
	tree_file("a");
	tree_file("b");
	tree_file("c");
	add(tree);
	seen = (struct seen){ .stop_after = 2 };
	assert_int_equal(roots_walk(&roots, &roots.list.items[0], &v, &err), -1);
	assert_int_equal(err.kind, ERR_CANCELED);
	assert_int_equal(seen.nr, 2);
	free(seen.lines[0]);
	free(seen.lines[1]);
}

static void very_deep_directories_are_told_not_followed(void **state)
{
	int fd = open(tree, O_RDONLY | O_DIRECTORY);

	(void)state;
	add(tree);
	for (int i = 0; i < 300; i++) {
		int next;

		assert_int_equal(mkdirat(fd, "d", 0700), 0);
		next = openat(fd, "d", O_RDONLY | O_DIRECTORY);
		close(fd);
		fd = next;
	}
	close(fd);
	seen = (struct seen){ 0 };
	assert_int_equal(walk(), 0);
	assert_int_equal(seen.nr, 1);
	assert_int_equal(seen.nr_listing, 1);
	assert_non_null(strstr(seen.lines[0], "nested more than"));
	free(seen.lines[0]);
}

static void names_of_any_bytes_are_files_like_others(void **state)
{
	char longest[256] = "";

	(void)state;
	memset(longest, 'n', 255);
	tree_file("a\nb");
	tree_file("\033[31m");
	tree_file("\xff\xfe");
	tree_file("-rf");
	tree_file(longest);
	add(tree);
	seen = (struct seen){ 0 };
	assert_int_equal(walk(), 0);
	assert_int_equal(seen.nr, 5);
	while (seen.nr)
		free(seen.lines[--seen.nr]);
}

/* In a mount namespace of a child: a mount beneath the root is another file system even when it is the same one. */
static void mounts_are_not_entered(void **state)
{
	pid_t pid;
	int status;

	(void)state;
	tree_dir("root");
	tree_dir("root/bind");
	tree_dir("root/other");
	tree_file("root/a");
	tree_dir("elsewhere");
	tree_file("elsewhere/secret");
	pid = fork();
	if (pid == 0) {
		if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", "none", MS_REC | MS_PRIVATE, NULL) < 0 ||
		    mount(in_tree("elsewhere"), in_tree("root/bind"), "none", MS_BIND, NULL) < 0 ||
		    mount("none", in_tree("root/other"), "tmpfs", 0, NULL) < 0 || mkdir(in_tree("root/other/b"), 0700) < 0 ||
		    mknod(in_tree("root/other/c"), S_IFREG | 0600, 0) < 0)
			_exit(77);
		if (roots_add(&roots, in_tree("root"), true, NULL) < 0 || !walk_sees("file root/a\n"))
			_exit(2);
		_exit(seen.nr_listing ? 3 : 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
		printf("needs root and mount namespaces\n");
		skip();
	}
	assert_int_equal(status, 0);
}

static void swap_directory(const char *name, int flags)
{
	if (strcmp(name, "victim") != 0 || !(flags & O_DIRECTORY))
		return;
	before_open = NULL;
	assert_int_equal(rename(in_tree("root/victim"), in_tree("root/old")), 0);
	assert_int_equal(symlink(in_tree("elsewhere"), in_tree("root/victim")), 0);
}

static void a_directory_swapped_for_a_link_while_walked_leads_nowhere(void **state)
{
	(void)state;
	tree_dir("root");
	tree_dir("root/victim");
	tree_dir("elsewhere");
	tree_file("elsewhere/secret");
	add(in_tree("root"));
	before_open = swap_directory;
	seen = (struct seen){ 0 };
	assert_int_equal(walk(), 0);
	assert_null(before_open);
	for (size_t i = 0; i < seen.nr; i++) {
		assert_null(strstr(seen.lines[i], "secret"));
		free(seen.lines[i]);
	}
}

static void remove_directory(const char *name, int flags)
{
	if (strcmp(name, "victim") == 0 && flags & O_DIRECTORY)
		rmdir(in_tree("root/victim"));
}

static void a_directory_that_vanishes_while_walked_is_no_problem(void **state)
{
	(void)state;
	tree_dir("root");
	tree_dir("root/victim");
	add(in_tree("root"));
	before_open = remove_directory;
	assert_walk_sees("");
}

/* ---- what was found ---- */

static struct found found_of(const char *name)
{
	struct stat st;

	assert_int_equal(lstat(in_tree(name), &st), 0);
	return (struct found){ .path = (char *)(uintptr_t)in_tree(name), .identity = spool_identity_of(&st), .named = true,
			       .block_device = S_ISBLK(st.st_mode) };
}

static void assert_opens(const struct found *f, const char *content)
{
	char buf[64] = "";
	int fd = roots_open_found(&roots, f, NULL);

	assert_true(fd >= 0);
	assert_true(read(fd, buf, sizeof(buf) - 1) >= 0);
	close(fd);
	assert_string_equal(buf, content);
}

static void opens_what_was_found(void **state)
{
	struct found f;

	(void)state;
	tree_dir("d");
	tree_file("d/a");
	add(tree);
	f = found_of("d/a");
	assert_opens(&f, "d/a");
}

static void opens_a_named_file_and_nothing_beside_it(void **state)
{
	struct err err = ERR_INIT;
	struct found f;

	(void)state;
	tree_file("a");
	tree_file("ab");
	add(in_tree("a"));
	f = found_of("a");
	assert_opens(&f, "a");
	f = found_of("ab");
	assert_int_equal(roots_open_found(&roots, &f, &err), -1);
	assert_int_equal(err.kind, ERR_REFUSED);
}

static void a_found_file_that_was_replaced_is_stale(void **state)
{
	struct err err = ERR_INIT;
	struct found f;

	(void)state;
	tree_file("a");
	tree_file("b");
	add(tree);
	f = found_of("a");
	assert_int_equal(rename(in_tree("b"), in_tree("a")), 0);
	assert_int_equal(roots_open_found(&roots, &f, &err), -1);
	assert_int_equal(err.kind, ERR_STALE);
}

static void a_found_file_that_became_something_else_is_not_opened(void **state)
{
	struct err err = ERR_INIT;
	struct found f;

	(void)state;
	tree_file("a");
	tree_file("b");
	tree_file("c");
	add(tree);
	f = found_of("a");
	assert_int_equal(unlink(in_tree("a")), 0);
	assert_int_equal(mkfifo(in_tree("a"), 0600), 0);
	alarm(10);
	assert_int_equal(roots_open_found(&roots, &f, &err), -1);
	assert_int_equal(err.kind, ERR_REFUSED);
	f = found_of("b");
	assert_int_equal(unlink(in_tree("b")), 0);
	assert_int_equal(symlink("c", in_tree("b")), 0);
	assert_int_equal(roots_open_found(&roots, &f, &err), -1);
	alarm(0);
	assert_int_equal(nr_opened, 0);
}

static void swap_for_fifo(const char *name, int flags)
{
	if (strcmp(name, "a") != 0 || flags & O_PATH)
		return;
	unlink(in_tree("a"));
	mkfifo(in_tree("a"), 0600);
}

static void a_file_swapped_for_a_fifo_between_look_and_open_does_not_hang(void **state)
{
	struct err err = ERR_INIT;
	struct found f;

	(void)state;
	tree_file("a");
	add(tree);
	f = found_of("a");
	before_open = swap_for_fifo;
	alarm(10);
	assert_int_equal(roots_open_found(&roots, &f, &err), -1);
	alarm(0);
	assert_int_equal(err.kind, ERR_STALE);
}

/* A server that lends files to its clients holds a lease; whoever opens waits, or is told to come back. */
static void a_file_that_somebody_holds_a_lease_on_is_busy(void **state)
{
	struct err err = ERR_INIT;
	struct found f;
	int ready[2], status;
	char c;
	pid_t pid;

	(void)state;
	tree_file("a");
	add(tree);
	f = found_of("a");
	assert_int_equal(pipe(ready), 0);
	pid = fork();
	if (pid == 0) {
		int fd = open(in_tree("a"), O_RDWR);

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		signal(SIGIO, SIG_IGN);
		c = fcntl(fd, F_SETLEASE, F_WRLCK) == 0;
		if (write(ready[1], &c, 1) == 1)
			pause();
		_exit(0);
	}
	assert_int_equal(read(ready[0], &c, 1), 1);
	close(ready[0]);
	close(ready[1]);
	alarm(10);
	if (c)
		assert_int_equal(roots_open_found(&roots, &f, &err), -1);
	alarm(0);
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	if (!c) {
		printf("no leases here\n");
		skip();
	}
	assert_int_equal(err.kind, ERR_BUSY);
}

/* ---- what images name ---- */

static int open_named(const char *name, const char *from, char *path, struct err *err)
{
	*err = ERR_INIT;
	return roots_open_named(&roots, IMAGE_BACKING, name, in_tree(from), &(struct stat){ 0 }, path, err);
}

static void assert_named(const char *name, const char *from, const char *wanted)
{
	char path[PATH_MAX] = "", content[128] = "";
	struct err err;
	int fd = open_named(name, from, path, &err);

	if (fd < 0)
		fail_msg("'%s': %s", name, err.text);
	assert_true(read(fd, content, sizeof(content) - 1) >= 0);
	close(fd);
	assert_string_equal(content, wanted);
	assert_string_equal(path, in_tree(wanted));
}

static void assert_not_named(const char *name, const char *from, enum err_kind kind)
{
	char path[PATH_MAX];
	struct err err;

	nr_opened = 0;
	assert_int_equal(open_named(name, from, path, &err), -1);
	if (err.kind != kind)
		fail_msg("'%s' gave %s: %s", name, err_kind_name(err.kind), err.text);
	assert_int_equal(nr_opened, 0);
}

static void backing_files_are_found_from_the_image_or_by_absolute_name(void **state)
{
	(void)state;
	tree_dir("store");
	tree_dir("store/d");
	tree_file("store/base");
	tree_file("store/d/top");
	tree_file("store/d/a:b");
	add(in_tree("store"));
	assert_named("../base", "store/d/top", "store/base");
	assert_named("top", "store/d/other", "store/d/top");
	assert_named("./d/../base", "store/x", "store/base");
	assert_named(in_tree("store/base"), "store/d/top", "store/base");
	assert_named("file:../base", "store/d/top", "store/base");
	assert_named("./a:b", "store/d/top", "store/d/a:b");
}

static void backing_files_outside_the_roots_are_refused(void **state)
{
	(void)state;
	tree_dir("store");
	tree_dir("store2");
	tree_file("store2/secret");
	tree_file("secret");
	tree_file("store/top");
	assert_int_equal(symlink("../secret", in_tree("store/link")), 0);
	assert_int_equal(symlink("..", in_tree("store/up")), 0);
	add(in_tree("store"));
	assert_not_named("../secret", "store/top", ERR_REFUSED);
	assert_not_named("../store2/secret", "store/top", ERR_REFUSED);
	assert_not_named(in_tree("secret"), "store/top", ERR_REFUSED);
	assert_not_named("link", "store/top", ERR_REFUSED);
	assert_not_named("up/secret", "store/top", ERR_REFUSED);
	assert_not_named("/etc/passwd", "store/top", ERR_REFUSED);
	assert_not_named("/proc/self/fd/0", "store/top", ERR_REFUSED);
	assert_not_named("/proc/self/root/etc/passwd", "store/top", ERR_REFUSED);
}

static void backing_files_may_lie_where_the_user_allows_it(void **state)
{
	(void)state;
	tree_dir("store");
	tree_dir("bases");
	tree_file("bases/base");
	tree_file("store/top");
	add(in_tree("store"));
	assert_int_equal(roots_add(&roots, in_tree("bases"), false, NULL), 0);
	assert_named("../bases/base", "store/top", "bases/base");
	assert_walk_sees("file store/top\n");
	assert_false(roots_cover(&roots, in_tree("bases/base")));
	assert_true(roots_cover(&roots, in_tree("store/top")));
}

static void names_with_a_protocol_are_refused(void **state)
{
	static const char *const names[] = {
		"json:{\"driver\":\"file\"}", "nbd:localhost:10809", "nbd://x/", "http://x/y", "ssh://x/y", "fd:3",
		"fat:rw:/", "file:nbd:x", "rbd:pool/image", "blkdebug::a", "host_device:/dev/sda", "a:b",
	};

	(void)state;
	tree_file("top");
	tree_file("a:b");
	add(tree);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		assert_not_named(names[i], "top", ERR_REFUSED);
	assert_not_named("", "top", ERR_REFUSED);
	assert_not_named("file:", "top", ERR_REFUSED);
}

static void what_is_no_regular_file_is_no_backing_file(void **state)
{
	(void)state;
	tree_file("top");
	tree_dir("d");
	assert_int_equal(mkfifo(in_tree("fifo"), 0600), 0);
	make_socket("socket");
	add(tree);
	alarm(10);
	assert_not_named("fifo", "top", ERR_REFUSED);
	assert_not_named("socket", "top", ERR_REFUSED);
	assert_not_named("d", "top", ERR_REFUSED);
	assert_not_named(".", "top", ERR_REFUSED);
	alarm(0);
}

static void devices_are_no_backing_files_even_beneath_a_root(void **state)
{
	(void)state;
	assert_int_equal(roots_add(&roots, "/dev", false, NULL), 0);
	tree_file("top");
	assert_not_named("/dev/null", "top", ERR_REFUSED);
	assert_not_named("/dev/zero", "top", ERR_REFUSED);
}

static void a_missing_backing_file_is_told_with_its_name(void **state)
{
	char path[PATH_MAX];
	struct err err;

	(void)state;
	tree_file("top");
	add(tree);
	assert_int_equal(open_named("missing", "top", path, &err), -1);
	assert_int_equal(err.kind, ERR_IO);
	assert_int_equal(err.errnum, ENOENT);
	assert_non_null(strstr(err.text, "missing"));
}

static void names_too_long_are_told(void **state)
{
	static char name[PATH_MAX * 2];
	char path[PATH_MAX];
	struct err err;

	(void)state;
	tree_file("top");
	add(tree);
	for (size_t len = 200; len < sizeof(name); len += 331) {
		memset(name, 'x', len);
		name[len] = '\0';
		assert_int_equal(open_named(name, "top", path, &err), -1);
	}
}

static void swap_parent(const char *name, int flags)
{
	(void)name;
	(void)flags;
	before_open = NULL;
	assert_int_equal(rename(in_tree("store/d"), in_tree("store/old")), 0);
	assert_int_equal(symlink("../elsewhere", in_tree("store/d")), 0);
}

static void a_parent_swapped_for_a_link_leads_nowhere(void **state)
{
	char path[PATH_MAX];
	struct err err;

	(void)state;
	tree_dir("store");
	tree_dir("store/d");
	tree_file("store/d/base");
	tree_dir("elsewhere");
	tree_file("elsewhere/base");
	add(in_tree("store"));
	before_open = swap_parent;
	assert_int_equal(open_named("d/base", "store/top", path, &err), -1);
	assert_null(before_open);
	assert_int_equal(nr_opened, 0);
}

/* A process that swaps a directory and a link as fast as it can: whatever is opened is not the secret. */
static void a_racing_replacement_never_leads_outside(void **state)
{
	unsigned nr_good = 0;
	pid_t pid;
	int status;

	(void)state;
	tree_dir("store");
	tree_dir("store/d");
	tree_write("store/d/base", "good", 4);
	tree_dir("elsewhere");
	tree_write("elsewhere/base", "secret", 6);
	assert_int_equal(symlink("../elsewhere", in_tree("store/l")), 0);
	add(in_tree("store"));
	pid = fork();
	if (pid == 0) {
		char d[PATH_MAX], l[PATH_MAX];

		snprintf(d, sizeof(d), "%s", in_tree("store/d"));
		snprintf(l, sizeof(l), "%s", in_tree("store/l"));
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			renameat2(AT_FDCWD, d, AT_FDCWD, l, RENAME_EXCHANGE);
	}
	for (unsigned i = 0; i < 3000; i++) {
		char path[PATH_MAX], content[16] = "";
		struct err err;
		int fd;

		fd = open_named("d/base", "store/top", path, &err);
		if (fd < 0)
			continue;
		assert_true(read(fd, content, sizeof(content) - 1) > 0);
		close(fd);
		nr_opened = 0;
		if (strcmp(content, "good") != 0) {
			kill(pid, SIGKILL);
			fail_msg("the secret was opened");
		}
		nr_good++;
	}
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	assert_true(nr_good > 0);
}

/* ---- pools ---- */

#define STUB "0123abcd-0123-4abc-8def-0123456789ab.qcow2"

/* The name that an overlay has for a file of a pool. */
static const char *slice_name(const char *file)
{
	static char name[1024];
	struct slice s = { .size = 4096, .read_only = true };

	snprintf(s.path, sizeof(s.path), "%s", in_tree(file));
	assert_int_equal(slice_format(&s, name, sizeof(name), NULL), 0);
	return name;
}

static void make_pool(void)
{
	tree_dir("store");
	tree_dir("store/.dedupscan-pool");
	tree_dir("store/.dedupscan-pool/views");
	tree_dir("store/.dedupscan-pool/index");
	tree_file("store/.dedupscan-pool/" STUB);
	tree_file("store/.dedupscan-pool/views/" STUB);
	tree_file("store/.dedupscan-pool/index/" STUB);
	tree_file("store/.dedupscan-pool/lock");
	tree_file("store/" STUB);
	tree_file("store/top");
	add(in_tree("store"));
}

static void pools_are_not_walked(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	make_pool();
	assert_walk_sees("file store/" STUB "\nfile store/top\n");
	assert_int_equal(roots_add(&roots, in_tree("store/.dedupscan-pool"), true, &err), -1);
	assert_int_equal(err.kind, ERR_USAGE);
}

static void slices_of_a_pool_are_opened_when_it_was_given(void **state)
{
	struct err err = ERR_INIT;
	char path[PATH_MAX];

	(void)state;
	make_pool();
	assert_not_named(slice_name("store/.dedupscan-pool/views/" STUB), "store/top", ERR_REFUSED);
	assert_int_equal(open_named(slice_name("store/.dedupscan-pool/views/" STUB), "store/top", path, &err), -1);
	assert_non_null(strstr(err.text, "or none that was given"));
	assert_int_equal(roots_add_pool(&roots, in_tree("store/.dedupscan-pool"), NULL), 0);
	assert_int_equal(roots_add_pool(&roots, in_tree("store/.dedupscan-pool"), NULL), 0);
	assert_named(slice_name("store/.dedupscan-pool/views/" STUB), "store/top", "store/.dedupscan-pool/views/" STUB);
	assert_named(slice_name("store/.dedupscan-pool/" STUB), "elsewhere/top", "store/.dedupscan-pool/" STUB);
}

/* All that a pool is known by. */
static void complete_pool(void)
{
	static const char *const more[] = { "trees", "names", "sealed", "trash", "quarantine" };
	char path[64];

	for (size_t i = 0; i < ARRAY_SIZE(more); i++) {
		snprintf(path, sizeof(path), "store/.dedupscan-pool/%s", more[i]);
		tree_dir(path);
	}
}

static void a_pool_beneath_a_root_needs_not_be_given(void **state)
{
	(void)state;
	make_pool();
	complete_pool();
	assert_true(roots_have_pool(&roots, in_tree("store/.dedupscan-pool")));
	assert_named(slice_name("store/.dedupscan-pool/views/" STUB), "store/top", "store/.dedupscan-pool/views/" STUB);
	assert_named(slice_name("store/.dedupscan-pool/" STUB), "store/top", "store/.dedupscan-pool/" STUB);
	assert_not_named(slice_name("store/.dedupscan-pool/lock"), "store/top", ERR_REFUSED);
	assert_not_named(slice_name("store/.dedupscan-pool/index/" STUB), "store/top", ERR_REFUSED);
	assert_not_named(slice_name("store/" STUB), "store/top", ERR_REFUSED);
	assert_int_equal(chmod(in_tree("store/.dedupscan-pool"), 0775), 0);
	assert_not_named(slice_name("store/.dedupscan-pool/views/" STUB), "store/top", ERR_REFUSED);
	assert_int_equal(chmod(in_tree("store/.dedupscan-pool"), 0755), 0);
	assert_int_equal(rename(in_tree("store/.dedupscan-pool"), in_tree("moved")), 0);
	assert_int_equal(symlink("../moved", in_tree("store/.dedupscan-pool")), 0);
	assert_false(roots_have_pool(&roots, in_tree("store/.dedupscan-pool")));
	assert_not_named(slice_name("store/.dedupscan-pool/views/" STUB), "store/top", ERR_REFUSED);
	assert_not_named(slice_name("moved/views/" STUB), "store/top", ERR_REFUSED);
}

static void a_pool_may_be_called_as_a_part_of_one(void **state)
{
	(void)state;
	tree_dir("store");
	tree_dir("views");
	tree_dir("views/views");
	tree_file("store/top");
	tree_file("views/" STUB);
	tree_file("views/views/" STUB);
	add(in_tree("store"));
	assert_int_equal(roots_add_pool(&roots, in_tree("views"), NULL), 0);
	assert_named(slice_name("views/" STUB), "store/top", "views/" STUB);
	assert_named(slice_name("views/views/" STUB), "store/top", "views/views/" STUB);
}

/* The stub, for an image of this user. */
static bool opens_for(uid_t uid, struct err *err)
{
	char path[PATH_MAX];
	int fd;

	*err = ERR_INIT;
	fd = roots_open_named(&roots, IMAGE_BACKING, slice_name("store/.dedupscan-pool/views/" STUB), in_tree("store/top"),
			      &(struct stat){ .st_uid = uid }, path, err);
	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

static void one_of_another_user_has_to_be_given(void **state)
{
	struct err err;

	(void)state;
	if (geteuid() != 0) {
		puts("only root can give files away");
		skip();
	}
	make_pool();
	complete_pool();
	assert_true(opens_for(1000, &err));
	assert_int_equal(chown(in_tree("store/.dedupscan-pool"), 1001, 1001), 0);
	assert_false(opens_for(1000, &err));
	assert_int_equal(err.kind, ERR_REFUSED);
	assert_non_null(strstr(err.text, "belongs to user 1001, the image to user 1000"));
	assert_true(opens_for(1001, &err));
	assert_int_equal(roots_add_pool(&roots, in_tree("store/.dedupscan-pool"), NULL), 0);
	assert_true(opens_for(1000, &err));
}

static void slices_of_other_files_are_refused(void **state)
{
	(void)state;
	make_pool();
	assert_int_equal(roots_add_pool(&roots, in_tree("store/.dedupscan-pool"), NULL), 0);
	assert_not_named(slice_name("store/top"), "store/top", ERR_REFUSED);
	assert_not_named(slice_name("store/" STUB), "store/top", ERR_REFUSED);
	assert_not_named(slice_name("store/.dedupscan-pool/lock"), "store/top", ERR_REFUSED);
	assert_not_named(slice_name("store/.dedupscan-pool/index/" STUB), "store/top", ERR_REFUSED);
	assert_not_named(slice_name("store/.dedupscan-pool/views/../../" STUB), "store/top", ERR_REFUSED);
	assert_not_named(slice_name("store/.dedupscan-pool-not/views/" STUB), "store/top", ERR_REFUSED);
	assert_not_named("json:{\"driver\":\"raw\"}", "store/top", ERR_REFUSED);
}

static void what_is_no_regular_file_is_no_file_of_a_pool(void **state)
{
	(void)state;
	make_pool();
	assert_int_equal(roots_add_pool(&roots, in_tree("store/.dedupscan-pool"), NULL), 0);
	assert_int_equal(unlink(in_tree("store/.dedupscan-pool/views/" STUB)), 0);
	assert_int_equal(symlink(in_tree("store/top"), in_tree("store/.dedupscan-pool/views/" STUB)), 0);
	assert_not_named(slice_name("store/.dedupscan-pool/views/" STUB), "store/top", ERR_REFUSED);
	assert_int_equal(unlink(in_tree("store/.dedupscan-pool/" STUB)), 0);
	assert_int_equal(mkfifo(in_tree("store/.dedupscan-pool/" STUB), 0600), 0);
	assert_not_named(slice_name("store/.dedupscan-pool/" STUB), "store/top", ERR_REFUSED);
}

static void a_pool_that_others_can_write_to_is_refused(void **state)
{
	struct err err = ERR_INIT;

	(void)state;
	make_pool();
	assert_int_equal(chmod(in_tree("store/.dedupscan-pool"), 0777), 0);
	assert_int_equal(roots_add_pool(&roots, in_tree("store/.dedupscan-pool"), &err), -1);
	assert_int_equal(err.kind, ERR_REFUSED);
	assert_int_equal(symlink(".dedupscan-pool", in_tree("store/link")), 0);
	assert_int_equal(roots_add_pool(&roots, in_tree("store/link"), &err), -1);
	assert_int_equal(roots_add_pool(&roots, in_tree("store/none"), &err), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		roots_test(finds_files_in_all_depths),
		roots_test(leaves_out_what_is_excluded_by_name_or_by_path),
		roots_test(follows_no_symbolic_link),
		roots_test(a_root_that_is_a_symbolic_link_is_followed),
		roots_test(tells_of_fifos_and_sockets_and_opens_none),
		roots_test(a_fifo_that_is_named_is_told_and_not_opened),
		roots_test(the_catalog_is_left_out),
		roots_test(tells_which_directory_cannot_be_listed),
		roots_test(stops_when_asked),
		roots_test(very_deep_directories_are_told_not_followed),
		roots_test(names_of_any_bytes_are_files_like_others),
		roots_test(mounts_are_not_entered),
		roots_test(a_directory_swapped_for_a_link_while_walked_leads_nowhere),
		roots_test(a_directory_that_vanishes_while_walked_is_no_problem),
		roots_test(opens_what_was_found),
		roots_test(opens_a_named_file_and_nothing_beside_it),
		roots_test(a_found_file_that_was_replaced_is_stale),
		roots_test(a_found_file_that_became_something_else_is_not_opened),
		roots_test(a_file_swapped_for_a_fifo_between_look_and_open_does_not_hang),
		roots_test(a_file_that_somebody_holds_a_lease_on_is_busy),
		roots_test(backing_files_are_found_from_the_image_or_by_absolute_name),
		roots_test(backing_files_outside_the_roots_are_refused),
		roots_test(backing_files_may_lie_where_the_user_allows_it),
		roots_test(names_with_a_protocol_are_refused),
		roots_test(what_is_no_regular_file_is_no_backing_file),
		roots_test(devices_are_no_backing_files_even_beneath_a_root),
		roots_test(a_missing_backing_file_is_told_with_its_name),
		roots_test(names_too_long_are_told),
		roots_test(a_parent_swapped_for_a_link_leads_nowhere),
		roots_test(a_racing_replacement_never_leads_outside),
		roots_test(pools_are_not_walked),
		roots_test(slices_of_a_pool_are_opened_when_it_was_given),
		roots_test(a_pool_beneath_a_root_needs_not_be_given),
		roots_test(one_of_another_user_has_to_be_given),
		roots_test(a_pool_may_be_called_as_a_part_of_one),
		roots_test(slices_of_other_files_are_refused),
		roots_test(what_is_no_regular_file_is_no_file_of_a_pool),
		roots_test(a_pool_that_others_can_write_to_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
