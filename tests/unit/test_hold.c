/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/statfs.h>
#include <sys/wait.h>

#include "compactor/hold.h"
#include "scanner/base/file.h"

/* Rows of failures that are tried here: B14 (file systems without leases or locks), D1, D2 (who has a file open, and
 * how), D3 (who opens it while it is held), D6 (file systems of several hosts), D9 (two of us).  Guests are tried by
 * tests/interop/images_in_use_are_refused.py. */

#define TEXT "the image, as it was"

static const struct hold_options careful = { .assume_idle = false }, trusting = { .assume_idle = true };

/* ---- a file system that answers otherwise ---- */

static struct {
	long f_type;	    /* 0 = the true one */
	int lease_errno, lock_errno, statfs_errno;
	off_t locks_till;   /* below it locks are granted all the same */
	const char *xattrs; /* names, each with its NUL */
	size_t xattrs_len;
	char done[64];	    /* 'l' locks, 'L' lease taken; 'u', 'U' let go */
} fake;

static int fake_fstatfs(int fd, struct statfs *st)
{
	int rc = fstatfs(fd, st);

	if (fake.f_type)
		st->f_type = fake.f_type;
	errno = fake.statfs_errno;
	return fake.statfs_errno ? -1 : rc;
}

static int fake_fcntl(int fd, int cmd, void *arg)
{
	bool lease = cmd == F_SETLEASE, lock = cmd == F_OFD_SETLK;
	bool let_go = (lease && (intptr_t)arg == F_UNLCK) || (lock && ((struct flock *)arg)->l_type == F_UNLCK);
	int e = let_go ? 0 : lease ? fake.lease_errno : lock ? fake.lock_errno : 0;

	if (lock && ((struct flock *)arg)->l_start < fake.locks_till)
		e = 0;
	if ((lease || lock) && strlen(fake.done) < sizeof(fake.done) - 1)
		strcat(fake.done, lease ? let_go ? "U" : "L" : let_go ? "u" : "l");
	errno = e;
	return e ? -1 : file_ops_os.fcntl(fd, cmd, arg);
}

static ssize_t fake_flistxattr(int fd, char *list, size_t room)
{
	if (!fake.xattrs)
		return file_ops_os.flistxattr(fd, list, room);
	if (room)
		memcpy(list, fake.xattrs, fake.xattrs_len);
	return (ssize_t)fake.xattrs_len;
}

static struct file_ops fake_ops;

static int make(void **state)
{
	memset(&fake, 0, sizeof(fake));
	fake_ops = file_ops_os;
	fake_ops.fstatfs = fake_fstatfs;
	fake_ops.fcntl = fake_fcntl;
	fake_ops.flistxattr = fake_flistxattr;
	file_ops = &fake_ops;
	alarm(100); /* who waits for ever is ended */
	return tree_make(state);
}

static int clear(void **state)
{
	alarm(0);
	file_ops = &file_ops_os;
	return tree_remove(state);
}

/* ---- an image, and somebody else ---- */

static int image(void)
{
	int fd;

	tree_write("image", TEXT, strlen(TEXT));
	fd = open(in_tree("image"), O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static int tree_fd(void)
{
	int fd = open(tree, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static int take(struct hold *h, int fd, const struct hold_options *o, struct err *err)
{
	CLEANUP(close_fd) int dirfd = tree_fd();

	*err = ERR_INIT;
	return hold_take(h, fd, dirfd, "image", o, err);
}

static int look(int fd, struct err *err)
{
	CLEANUP(close_fd) int dirfd = tree_fd();

	*err = ERR_INIT;
	return hold_look(fd, dirfd, "image", err);
}

static void assert_err(const struct err *err, enum err_kind kind, const char *text)
{
	if (err->kind != kind || !strstr(err->text, text))
		fail_msg("wanted %s with '%s', got %s: %s", err_kind_name(kind), text, err_kind_name(err->kind), err->text);
}

/* Refused by both, and as it was before: nothing stays taken. */
static void assert_in_use(int fd, const struct hold_options *o, const char *text)
{
	struct hold h = HOLD_INIT;
	struct err err;

	assert_int_equal(take(&h, fd, o, &err), -1);
	assert_err(&err, ERR_BUSY, text);
	assert_int_equal(h.fd, -1);
	assert_int_equal(look(fd, &err), -1);
	assert_err(&err, ERR_BUSY, text);
	assert_int_equal(fcntl(fd, F_GETLEASE), F_UNLCK);
}

static void assert_idle(int fd, const struct hold_options *o)
{
	struct hold h = HOLD_INIT;
	struct err err;

	if (look(fd, &err) < 0 || take(&h, fd, o, &err) < 0)
		fail_msg("%s", err.text);
	hold_release(&h);
}

struct other {
	pid_t pid;
	int said; /* what it writes is read here */
	char name[32];
};

/* Another process that runs does(path) and then stays, with whatever that left open, until it is ended. */
static struct other other_start(void (*does)(int say))
{
	struct other o;
	int pair[2];

	assert_int_equal(pipe2(pair, O_CLOEXEC), 0);
	o.pid = fork();
	assert_true(o.pid >= 0);
	if (o.pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		alarm(60);
		for (int fd = 3; fd < 64; fd++)
			if (fd != pair[1])
				close(fd);
		does(pair[1]);
		if (write(pair[1], ".", 1) == 1)
			pause();
		_exit(0);
	}
	close(pair[1]);
	o.said = pair[0];
	snprintf(o.name, sizeof(o.name), "pid %d (", o.pid);
	return o;
}

static char other_says(const struct other *o)
{
	char c = '?';

	assert_int_equal(read(o->said, &c, 1), 1);
	return c;
}

static void other_end(const struct other *o)
{
	kill(o->pid, SIGKILL);
	assert_int_equal(waitpid(o->pid, NULL, 0), o->pid);
	close(o->said);
}

/* While somebody does so the image is in use, by him; before and after it is not. */
static void assert_in_use_while(void (*does)(int say))
{
	CLEANUP(close_fd) int fd = image();
	struct other o;

	assert_idle(fd, &careful);
	o = other_start(does);
	assert_int_equal(other_says(&o), '.');
	assert_in_use(fd, &careful, o.name);
	other_end(&o);
	assert_idle(fd, &careful);
}

static void opens_to_read(int say)
{
	(void)say;
	if (open(in_tree("image"), O_RDONLY) < 0)
		_exit(1);
}

static void opens_to_write(int say)
{
	(void)say;
	if (open(in_tree("image"), O_WRONLY) < 0)
		_exit(1);
}

static void maps(int flags, int protection)
{
	int fd = open(in_tree("image"), flags);

	if (mmap(NULL, 4096, protection, MAP_SHARED, fd, 0) == MAP_FAILED || close(fd) < 0)
		_exit(1);
}

static void maps_to_write(int say)
{
	(void)say;
	maps(O_RDWR, PROT_READ | PROT_WRITE);
}

static void maps_to_read(int say)
{
	(void)say;
	maps(O_RDONLY, PROT_READ);
}

static void d2_who_reads_is_named(void **state)
{
	(void)state;
	assert_in_use_while(opens_to_read);
}

static void d2_who_writes_without_locks_is_named(void **state)
{
	(void)state;
	assert_in_use_while(opens_to_write);
}

static void require_map_files(void)
{
	if (access("/proc/1/map_files", R_OK | X_OK) < 0) {
		print_message("needs root and /proc/PID/map_files\n");
		skip();
	}
}

static void d2_who_mapped_it_to_write_and_closed_it_is_named(void **state)
{
	(void)state;
	require_map_files();
	assert_in_use_while(maps_to_write);
}

static void d2_who_mapped_it_to_read_and_closed_it_is_named(void **state)
{
	(void)state;
	require_map_files();
	assert_in_use_while(maps_to_read);
}

static void d9_a_second_opening_of_ours_counts(void **state)
{
	CLEANUP(close_fd) int fd = image();
	int second = open(in_tree("image"), O_RDWR | O_CLOEXEC);
	char self[32];

	(void)state;
	snprintf(self, sizeof(self), "pid %d (", getpid());
	assert_in_use(fd, &careful, self);
	assert_in_use(second, &careful, self);
	close(second);
	assert_idle(fd, &careful);
}

static void duplicates_do_not_count(void **state)
{
	CLEANUP(close_fd) int fd = image();
	CLEANUP(close_fd) int second = dup(fd);
	char who[64];

	(void)state;
	assert_true(second >= 0);
	assert_idle(fd, &careful);
	assert_string_equal(hold_holder(fd, who, sizeof(who)), "");
}

static void three_are_named_and_that_there_are_more(void **state)
{
	CLEANUP(close_fd) int fd = image();
	struct other o[5];
	char who[200], small[12];
	int commas = 0;

	(void)state;
	for (int i = 0; i < 5; i++) {
		o[i] = other_start(opens_to_read);
		other_says(&o[i]);
	}
	hold_holder(fd, who, sizeof(who));
	for (const char *p = who; *p; p++)
		commas += *p == ',';
	assert_int_equal(commas, 2);
	assert_string_equal(who + strlen(who) - strlen(") and more"), ") and more");
	assert_true(strlen(hold_holder(fd, small, sizeof(small))) == sizeof(small) - 1);
	for (int i = 0; i < 5; i++)
		other_end(&o[i]);
}

static void opens_and_locks(int cmd, const char *name)
{
	struct flock l = { .l_type = F_RDLCK, .l_start = 201, .l_len = 1 };
	int fd = open(in_tree(name), O_RDONLY | O_CREAT, 0600);

	if (fd < 0 || fcntl(fd, cmd, &l) < 0)
		_exit(1);
}

static void locks_as_a_process(int say)
{
	(void)say;
	opens_and_locks(F_SETLK, "image");
}

static void locks_as_qemu(int say)
{
	(void)say;
	opens_and_locks(F_OFD_SETLK, "image");
}

static void locks_something_else(int say)
{
	opens_and_locks(F_SETLK, "other");
	opens_to_read(say);
}

/* What a user is told of a holder whose descriptors he may not see. */
static void told_to_nobody(void (*does)(int say), int fd, struct other *o, char *buf, size_t room)
{
	int pair[2];
	ssize_t len;
	pid_t child;

	*o = other_start(does);
	other_says(o);
	assert_int_equal(pipe2(pair, O_CLOEXEC), 0);
	child = fork();
	if (child == 0) {
		if (seteuid(65534) < 0 || !hold_holder(fd, buf, room) || write(pair[1], buf, strlen(buf)) < 0)
			_exit(1);
		_exit(0);
	}
	close(pair[1]);
	len = read(pair[0], buf, room - 1);
	assert_true(len >= 0);
	buf[len] = '\0';
	close(pair[0]);
	assert_int_equal(waitpid(child, NULL, 0), child);
	other_end(o);
}

static void d1_locks_tell_where_processes_do_not_show(void **state)
{
	CLEANUP(close_fd) int fd = image();
	struct other o;
	char who[200];

	(void)state;
	if (geteuid() != 0) {
		print_message("needs root\n");
		skip();
	}
	told_to_nobody(locks_as_a_process, fd, &o, who, sizeof(who));
	assert_memory_equal(who, o.name, strlen(o.name));
	told_to_nobody(locks_as_qemu, fd, &o, who, sizeof(who));
	assert_string_equal(who, "a QEMU that shows nothing but its locks");
	told_to_nobody(locks_something_else, fd, &o, who, sizeof(who));
	assert_string_equal(who, "");
}

/* ---- while it is held ---- */

static void what_is_held_is_held_by_lease_and_locks(void **state)
{
	CLEANUP(close_fd) int fd = image();
	CLEANUP(close_fd) int reader = -1;
	CLEANUP(hold_release) struct hold h = HOLD_INIT;
	struct flock l = { .l_type = F_RDLCK, .l_start = 100, .l_len = 1 };
	struct err err;

	(void)state;
	assert_int_equal(take(&h, fd, &careful, &err), 0);
	assert_true(h.lease && h.locks && h.fd == fd);
	assert_int_equal(fcntl(fd, F_GETLEASE), F_WRLCK);
	assert_int_equal(hold_whole(&h, &err), 0);
	assert_int_equal(look(fd, &err), 0);
	assert_int_equal(fcntl(fd, F_GETLEASE), F_WRLCK);

	fcntl(fd, F_SETLEASE, F_UNLCK); /* else the next would wait */
	reader = open(in_tree("image"), O_RDONLY | O_CLOEXEC);
	for (l.l_start = 99; l.l_start <= 204; l.l_start++) {
		bool ours = (l.l_start >= 100 && l.l_start < 104) || (l.l_start >= 200 && l.l_start < 204);

		assert_int_equal(fcntl(reader, F_OFD_SETLK, &l), ours ? -1 : 0);
	}
	hold_release(&h);
	assert_int_equal(h.fd, -1);
	l.l_start = 100, l.l_len = 104;
	assert_int_equal(fcntl(reader, F_OFD_SETLK, &l), 0);
	hold_release(&h);
}

static void locks_go_before_the_lease(void **state)
{
	CLEANUP(close_fd) int fd = image();
	struct hold h = HOLD_INIT;
	struct err err;

	(void)state;
	assert_int_equal(take(&h, fd, &careful, &err), 0);
	hold_release(&h);
	assert_string_equal(fake.done, "LlluuU");
}

static void a_duplicate_elsewhere_does_not_keep_the_lease(void **state)
{
	CLEANUP(close_fd) int fd = image();
	struct hold h = HOLD_INIT;
	pid_t child;
	struct err err;
	int second;

	(void)state;
	assert_int_equal(take(&h, fd, &careful, &err), 0);
	child = fork();
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		alarm(60);
		pause();
		_exit(0);
	}
	assert_int_equal(hold_whole(&h, &err), 0);
	hold_release(&h);
	second = open(in_tree("image"), O_RDWR | O_NONBLOCK | O_CLOEXEC);
	assert_true(second >= 0);
	close(second);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
}

static void tries_to_open(int say)
{
	int fd = open(in_tree("image"), O_RDONLY | O_NONBLOCK);

	if (fd >= 0 || errno != EAGAIN || write(say, "r", 1) != 1)
		_exit(1);
}

static void waits_to_read(int say)
{
	char buf[64] = "";
	int fd = open(in_tree("image"), O_RDONLY);

	if (read(fd, buf, sizeof(buf) - 1) < 0 || write(say, strcmp(buf, TEXT) == 0 ? "=" : "!", 1) != 1)
		_exit(1);
}

static void waits_to_write(int say)
{
	int fd = open(in_tree("image"), O_RDWR);

	if (pwrite(fd, "X", 1, 0) != 1 || write(say, "w", 1) != 1)
		_exit(1);
}

static void waits_to_truncate(int say)
{
	if (truncate(in_tree("image"), 3) < 0 || write(say, "t", 1) != 1)
		_exit(1);
}

/* The default for SIGIO and for real-time signals is the end of the process: that we are still there is part of the
 * test. */
static void d3_who_would_not_wait_is_refused_and_noticed(void **state)
{
	CLEANUP(close_fd) int fd = image();
	CLEANUP(hold_release) struct hold h = HOLD_INIT;
	struct other o;
	struct err err;

	(void)state;
	assert_int_equal(take(&h, fd, &careful, &err), 0);
	o = other_start(tries_to_open);
	assert_int_equal(other_says(&o), 'r');
	assert_int_equal(hold_whole(&h, &err), -1);
	assert_err(&err, ERR_BUSY, "somebody opens the image");
	other_end(&o);
	/* ... for good, though he went away. */
	assert_int_equal(hold_whole(&h, &err), -1);
	assert_int_equal(look(fd, &err), -1);
	assert_err(&err, ERR_BUSY, "in use");
	hold_release(&h);
	assert_idle(fd, &careful);
}

/* He waits until it is let go, and not longer; up to then the image is ours. */
static void opener_waits(void (*does)(int say), char says)
{
	CLEANUP(close_fd) int fd = image();
	CLEANUP(hold_release) struct hold h = HOLD_INIT;
	struct other o;
	struct pollfd p;
	char buf[64] = "";
	struct err err;

	assert_int_equal(take(&h, fd, &careful, &err), 0);
	o = other_start(does);
	while (hold_whole(&h, &err) == 0)
		usleep(1000);
	p = (struct pollfd){ .fd = o.said, .events = POLLIN };
	assert_int_equal(poll(&p, 1, 20), 0);
	assert_int_equal(pread(fd, buf, sizeof(buf), 0), strlen(TEXT));
	assert_string_equal(buf, TEXT);
	hold_release(&h);
	assert_int_equal(other_says(&o), says);
	other_end(&o);
	unlink(in_tree("image"));
}

static void d3_openers_wait_and_find_the_image_as_it_was(void **state)
{
	(void)state;
	opener_waits(waits_to_read, '=');
	opener_waits(waits_to_write, 'w');
	opener_waits(waits_to_truncate, 't');
}

static void opens_again_and_again(int say)
{
	(void)say;
	for (;;) {
		char buf[64] = "";
		int fd = open(in_tree("image"), O_RDONLY);

		if (read(fd, buf, sizeof(buf) - 1) < 0 || strcmp(buf, TEXT) != 0)
			_exit(1);
		close(fd);
		usleep(500); /* else there is hardly a moment in which nobody has it open */
	}
}

static void d3_an_opener_in_a_loop_always_finds_the_image_as_it_was(void **state)
{
	CLEANUP(close_fd) int fd = image();
	unsigned wanted = getenv("LONG") && *getenv("LONG") ? 1000 : 60, held = 0;
	struct other o = other_start(opens_again_and_again);
	struct err err;

	(void)state;
	while (held < wanted) {
		CLEANUP(hold_release) struct hold h = HOLD_INIT;

		if (take(&h, fd, &careful, &err) < 0) {
			assert_int_equal(err.kind, ERR_BUSY);
			continue;
		}
		held++;
		assert_int_equal(pwrite(fd, "???", 3, 0), 3);
		while (hold_whole(&h, &err) == 0)
			;
		assert_int_equal(pwrite(fd, TEXT, 3, 0), 3);
	}
	assert_int_equal(waitpid(o.pid, NULL, WNOHANG), 0);
	other_end(&o);
}

static void rename_and_unlink_do_not_break_it(void **state)
{
	CLEANUP(close_fd) int fd = image();
	CLEANUP(hold_release) struct hold h = HOLD_INIT;
	struct err err;

	(void)state;
	assert_int_equal(take(&h, fd, &careful, &err), 0);
	assert_int_equal(rename(in_tree("image"), in_tree("other name")), 0);
	assert_int_equal(hold_whole(&h, &err), 0);
	assert_int_equal(unlink(in_tree("other name")), 0);
	assert_int_equal(hold_whole(&h, &err), 0);
}

/* ---- looking ---- */

static void a_look_by_a_descriptor_for_reading_sees_readers_too(void **state)
{
	int writer = image();
	CLEANUP(close_fd) int fd = open(in_tree("image"), O_RDONLY | O_CLOEXEC);
	struct other o;
	struct err err;

	(void)state;
	assert_int_equal(look(fd, &err), -1);
	close(writer);
	assert_int_equal(look(fd, &err), 0);
	assert_int_equal(fcntl(fd, F_GETLEASE), F_UNLCK);
	o = other_start(opens_to_read);
	other_says(&o);
	assert_int_equal(look(fd, &err), -1);
	assert_err(&err, ERR_BUSY, o.name);
	other_end(&o);
	assert_int_equal(look(fd, &err), 0);
}

static void a_look_does_without_leases(void **state)
{
	CLEANUP(close_fd) int fd = image();
	static const int answers[] = { EACCES, EINVAL, EOPNOTSUPP };
	struct other o;
	struct err err;

	(void)state;
	for (size_t i = 0; i < sizeof(answers) / sizeof(*answers); i++) {
		fake.lease_errno = answers[i];
		assert_int_equal(look(fd, &err), 0);
		o = other_start(opens_to_read);
		other_says(&o);
		assert_int_equal(look(fd, &err), -1);
		assert_err(&err, ERR_BUSY, o.name);
		other_end(&o);
	}
}

/* ---- who cannot tell ---- */

static void d6_file_systems_of_several_hosts_are_refused(void **state)
{
	CLEANUP(close_fd) int fd = image();
	CLEANUP(hold_release) struct hold h = HOLD_INIT;
	static const struct {
		long type;
		const char *name;
	} shared[] = {
		{ 0x6969, "nfs" },     { (int)0xFF534D42, "cifs" }, { 0xFE534D42, "smb2" }, { 0x65735546, "fuse" },
		{ 0x01161970, "gfs2" }, { 0x7461636F, "ocfs2" },    { 0x00C36400, "ceph" }, { 0x01021997, "9p" },
		{ 0x0BD00BD0, "lustre" }, { 0x12345678, "unknown (0x12345678)" },
	};
	static const long local[] = { 0xEF53, 0x58465342, 0x9123683E, 0x01021994 };
	char type[32];
	struct err err;

	(void)state;
	for (size_t i = 0; i < sizeof(shared) / sizeof(*shared); i++) {
		fake.f_type = shared[i].type;
		assert_true(hold_fs_is_shared(fd, type));
		assert_string_equal(type, shared[i].name);
		assert_int_equal(take(&h, fd, &careful, &err), -1);
		assert_err(&err, ERR_UNSUPPORTED, type);
		assert_err(&err, ERR_UNSUPPORTED, "--assume-idle");
		assert_string_equal(fake.done, "");
		assert_int_equal(h.fd, -1);
	}
	for (size_t i = 0; i < sizeof(local) / sizeof(*local); i++) {
		fake.f_type = local[i];
		assert_false(hold_fs_is_shared(fd, type));
		assert_idle(fd, &careful);
	}
	fake.statfs_errno = EIO;
	assert_true(hold_fs_is_shared(fd, type));
	assert_string_equal(type, "unknown");
}

static void b14_without_leases_the_word_of_the_user_is_needed(void **state)
{
	static const int answers[] = { EINVAL, EOPNOTSUPP, ENOSYS, ENOLCK };
	CLEANUP(close_fd) int fd = image();
	struct hold h = HOLD_INIT;
	struct err err;

	(void)state;
	for (size_t i = 0; i < sizeof(answers) / sizeof(*answers); i++) {
		fake.lease_errno = answers[i];
		assert_int_equal(take(&h, fd, &careful, &err), -1);
		assert_err(&err, ERR_UNSUPPORTED, "--assume-idle");
		assert_int_equal(take(&h, fd, &trusting, &err), 0);
		assert_true(!h.lease && h.locks);
		assert_int_equal(hold_whole(&h, &err), 0);
		hold_release(&h);
	}
}

static void b14_neither_leases_nor_locks(void **state)
{
	CLEANUP(close_fd) int fd = image();
	struct hold h = HOLD_INIT;
	struct err err;

	(void)state;
	fake.f_type = 0x6969;
	fake.lease_errno = EINVAL;
	fake.lock_errno = ENOLCK;
	assert_int_equal(take(&h, fd, &trusting, &err), 0);
	assert_true(!h.lease && !h.locks);
	assert_int_equal(hold_whole(&h, &err), 0);
	hold_release(&h);

	/* Where there are leases it is an error, and the lease does not stay. */
	fake.lease_errno = 0;
	assert_int_equal(take(&h, fd, &trusting, &err), -1);
	assert_err(&err, ERR_IO, "cannot lock the bytes that QEMU locks");
	assert_int_equal(fcntl(fd, F_GETLEASE), F_UNLCK);
}

static void b14_a_server_that_promises_nothing_is_no_user(void **state)
{
	CLEANUP(close_fd) int fd = image();
	struct hold h = HOLD_INIT;
	struct err err;

	(void)state;
	fake.lease_errno = EAGAIN;
	assert_in_use(fd, &trusting, "in use by somebody whom the system does not name");
	fake.f_type = 0x6969;
	assert_int_equal(take(&h, fd, &trusting, &err), 0);
	assert_false(h.lease);
	hold_release(&h);
}

static void b14_what_is_seen_beats_the_word_of_the_user(void **state)
{
	CLEANUP(close_fd) int fd = image();
	struct other o = other_start(opens_to_read);

	(void)state;
	other_says(&o);
	fake.f_type = 0x6969;
	fake.lease_errno = EINVAL;
	assert_in_use(fd, &trusting, o.name);
	fake.f_type = 0;
	assert_in_use(fd, &trusting, o.name);
	other_end(&o);
	assert_idle(fd, &trusting);
}

static void d6_locks_of_other_hosts_beat_the_word_of_the_user(void **state)
{
	CLEANUP(close_fd) int fd = image();
	CLEANUP(hold_release) struct hold h = HOLD_INIT;
	struct err err;

	(void)state;
	fake.f_type = 0x6969;
	fake.lease_errno = EINVAL;
	fake.lock_errno = EAGAIN;
	assert_int_equal(take(&h, fd, &trusting, &err), -1);
	assert_err(&err, ERR_BUSY, "in use by somebody");
}

static void locks_that_are_had_in_part_do_not_stay(void **state)
{
	CLEANUP(close_fd) int fd = image();
	CLEANUP(close_fd) int second = -1;
	struct flock l = { .l_type = F_WRLCK, .l_start = 100, .l_len = 104 };
	struct hold h = HOLD_INIT;
	struct err err;

	(void)state;
	fake.lock_errno = EAGAIN;
	fake.locks_till = 200;
	assert_int_equal(take(&h, fd, &careful, &err), -1);
	assert_int_equal(err.kind, ERR_BUSY);
	assert_int_equal(fcntl(fd, F_GETLEASE), F_UNLCK);
	second = open(in_tree("image"), O_RDWR | O_CLOEXEC);
	assert_int_equal(fcntl(second, F_OFD_GETLK, &l), 0);
	assert_int_equal(l.l_type, F_UNLCK);
}

static void the_lease_of_a_file_of_others_is_refused(void **state)
{
	CLEANUP(close_fd) int fd = image();
	CLEANUP(close_fd) int dirfd = tree_fd();
	struct err err = ERR_INIT;
	pid_t child;
	int status;

	(void)state;
	if (geteuid() != 0) {
		print_message("needs root\n");
		skip();
	}
	child = fork();
	if (child == 0) {
		struct hold h = HOLD_INIT;

		if (seteuid(65534) < 0 || hold_take(&h, fd, dirfd, "image", &careful, &err) == 0)
			_exit(1);
		_exit(err.kind == ERR_REFUSED && strstr(err.text, "only its owner or root") ? 7 : 2);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 7);
	assert_idle(fd, &careful);
}

static void what_is_no_file_is_refused(void **state)
{
	CLEANUP(close_fd) int dirfd = -1;
	struct hold h = HOLD_INIT;
	struct err err;

	(void)state;
	dirfd = tree_fd();
	assert_int_equal(take(&h, dirfd, &trusting, &err), -1);
	assert_err(&err, ERR_REFUSED, "not a regular file");
	assert_int_equal(look(dirfd, &err), -1);
	assert_err(&err, ERR_REFUSED, "not a regular file");
}

/* ---- what others leave ---- */

static void libvirt_is_believed_where_no_lease_tells(void **state)
{
	static const char busy[] = "security.selinux\0trusted.libvirt.security.ref_dac";
	static const char idle[] = "security.selinux\0user.trusted.libvirt.security.\0trusted.libvirt.security";
	CLEANUP(close_fd) int fd = image();

	(void)state;
	fake.xattrs = busy;
	fake.xattrs_len = sizeof(busy);
	assert_idle(fd, &careful);
	fake.f_type = 0x00C36400;
	fake.lease_errno = EINVAL;
	assert_in_use(fd, &trusting, "libvirt");
	fake.xattrs = idle;
	fake.xattrs_len = sizeof(idle);
	assert_idle(fd, &trusting);
}

static int take_as(int fd, const char *name, struct err *err)
{
	CLEANUP(close_fd) int dirfd = tree_fd();
	CLEANUP(hold_release) struct hold h = HOLD_INIT;
	int rc;

	*err = ERR_INIT;
	rc = hold_take(&h, fd, dirfd, name, &careful, err);
	if (rc < 0)
		assert_int_equal(fcntl(fd, F_GETLEASE), F_UNLCK);
	assert_int_equal(hold_look(fd, dirfd, name, NULL), rc);
	return rc;
}

static void locks_of_vmware_beside_it_count(void **state)
{
	CLEANUP(close_fd) int fd = image();
	struct err err;

	(void)state;
	tree_dir("disk.vmdk.lck");
	tree_file("disk.vmdk.lck/what");
	assert_int_equal(take_as(fd, "disk.vmdk", &err), 0);
	tree_file("disk.vmdk.lck/M12345.lck");
	assert_int_equal(take_as(fd, "disk.vmdk", &err), -1);
	assert_err(&err, ERR_BUSY, "'disk.vmdk.lck'");
	assert_err(&err, ERR_BUSY, "remove that lock");
	assert_int_equal(take_as(fd, "disk-flat.vmdk", &err), -1);
	assert_err(&err, ERR_BUSY, "'disk.vmdk.lck'");
	assert_int_equal(take_as(fd, "disk-s001.vmdk", &err), -1);
	assert_int_equal(take_as(fd, "disk2.vmdk", &err), 0);
	tree_dir("disk.raw.lck");
	tree_file("disk.raw.lck/M12345.lck");
	assert_int_equal(take_as(fd, "disk-flat.raw", &err), 0);
	tree_file("other.vmdk.lck");
	assert_int_equal(take_as(fd, "other.vmdk", &err), 0);
	assert_int_equal(symlink("disk.vmdk.lck", in_tree("third.vmdk.lck")), 0);
	assert_int_equal(take_as(fd, "third.vmdk", &err), 0);
}

static void locks_of_vmware_over_nfs_count(void **state)
{
	CLEANUP(close_fd) int fd = image();
	char lock[40];
	struct stat st;
	struct err err;

	(void)state;
	assert_int_equal(fstat(fd, &st), 0);
	for (int swapped = 0; swapped < 2; swapped++) {
		uint64_t n = swapped ? __builtin_bswap64(st.st_ino) : st.st_ino;

		snprintf(lock, sizeof(lock), ".lck-%016llx", (unsigned long long)n);
		tree_file(lock);
		assert_int_equal(take_as(fd, "image", &err), -1);
		assert_err(&err, ERR_BUSY, lock);
		unlink(in_tree(lock));
	}
	assert_int_equal(take_as(fd, "image", &err), 0);
}

static int no_openat(int dirfd, const char *name, int flags, mode_t mode)
{
	(void)dirfd, (void)name, (void)flags, (void)mode;
	errno = EIO;
	return -1;
}

static void a_lock_that_cannot_be_looked_for_is_an_error(void **state)
{
	CLEANUP(close_fd) int fd = image();
	struct err err;

	(void)state;
	fake_ops.openat = no_openat;
	assert_int_equal(take_as(fd, "image", &err), -1);
	assert_int_equal(err.kind, ERR_IO);
}

#define hold_test(f) cmocka_unit_test_setup_teardown(f, make, clear)

int main(void)
{
	const struct CMUnitTest tests[] = {
		hold_test(d2_who_reads_is_named),
		hold_test(d2_who_writes_without_locks_is_named),
		hold_test(d2_who_mapped_it_to_write_and_closed_it_is_named),
		hold_test(d2_who_mapped_it_to_read_and_closed_it_is_named),
		hold_test(d9_a_second_opening_of_ours_counts),
		hold_test(duplicates_do_not_count),
		hold_test(three_are_named_and_that_there_are_more),
		hold_test(d1_locks_tell_where_processes_do_not_show),
		hold_test(what_is_held_is_held_by_lease_and_locks),
		hold_test(locks_go_before_the_lease),
		hold_test(a_duplicate_elsewhere_does_not_keep_the_lease),
		hold_test(d3_who_would_not_wait_is_refused_and_noticed),
		hold_test(d3_openers_wait_and_find_the_image_as_it_was),
		hold_test(d3_an_opener_in_a_loop_always_finds_the_image_as_it_was),
		hold_test(rename_and_unlink_do_not_break_it),
		hold_test(a_look_by_a_descriptor_for_reading_sees_readers_too),
		hold_test(a_look_does_without_leases),
		hold_test(d6_file_systems_of_several_hosts_are_refused),
		hold_test(b14_without_leases_the_word_of_the_user_is_needed),
		hold_test(b14_neither_leases_nor_locks),
		hold_test(b14_a_server_that_promises_nothing_is_no_user),
		hold_test(b14_what_is_seen_beats_the_word_of_the_user),
		hold_test(d6_locks_of_other_hosts_beat_the_word_of_the_user),
		hold_test(locks_that_are_had_in_part_do_not_stay),
		hold_test(the_lease_of_a_file_of_others_is_refused),
		hold_test(what_is_no_file_is_refused),
		hold_test(libvirt_is_believed_where_no_lease_tells),
		hold_test(locks_of_vmware_beside_it_count),
		hold_test(locks_of_vmware_over_nfs_count),
		hold_test(a_lock_that_cannot_be_looked_for_is_an_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
