/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "scanner/base/checked.h"
#include "scanner/base/proc.h"
#include "tests/unit/sanitized.h"

/* ---- what the children do ---- */

/* Sends back what it gets, and with a descriptor also the first bytes of that file. */
static int echo(int sock, void *shared, void *arg)
{
	char msg[PROC_MESSAGE_MAX];
	ssize_t n;
	int fd;

	(void)arg;
	while ((n = proc_recv(sock, msg, sizeof(msg), &fd, NULL)) > 0) {
		if (fd >= 0) {
			n = pread(fd, msg, sizeof(msg), 0);
			close(fd);
		}
		memcpy(shared, "been here", 10);
		if (proc_send(sock, msg, (size_t)n, -1, NULL) < 0)
			return 1;
	}
	return n < 0 ? 2 : 5;
}

static int crash(int sock, void *shared, void *arg)
{
	(void)sock;
	(void)shared;
	signal(*(int *)arg, SIG_DFL);
	raise(*(int *)arg);
	return 0;
}

/* Its open descriptors as text in the shared memory. */
static int list_descriptors(int sock, void *shared, void *arg)
{
	char *at = shared;

	(void)arg;
	for (int fd = 0; fd < 1024; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			at += sprintf(at, "%d ", fd);
	return proc_send(sock, "x", 1, -1, NULL) < 0;
}

static int signals_ignored(int sock, void *shared, void *arg)
{
	(void)shared;
	(void)arg;
	raise(SIGINT);
	raise(SIGTERM);
	raise(SIGHUP);
	raise(SIGUSR1);
	return proc_send(sock, "alive", 5, -1, NULL) < 0;
}

/* How many pieces of shared memory it can see. */
static int count_shared(int sock, void *shared, void *arg)
{
	FILE *f = fopen("/proc/self/maps", "re");
	char line[512];

	(void)arg;
	while (f && fgets(line, sizeof(line), f))
		*(int *)shared += strstr(line, " rw-s ") != NULL;
	return proc_send(sock, "x", 1, -1, NULL) < 0;
}

/* Hears nothing, not even that its parent is gone. */
static int deaf(int sock, void *shared, void *arg)
{
	(void)sock;
	(void)shared;
	(void)arg;
	sleep(60);
	return 0;
}

/* ---- tests ---- */

static void start(struct proc *p, int (*run)(int, void *, void *), void *arg)
{
	struct err err = ERR_INIT;

	alarm(30);
	if (proc_start(p, 65536, NULL, run, arg, &err) < 0)
		fail_msg("%s", err.text);
}

static void assert_no_children(void)
{
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
	alarm(0);
}

static unsigned nr_descriptors(void)
{
	unsigned nr = 0;

	for (int fd = 0; fd < 1024; fd++)
		nr += fcntl(fd, F_GETFD) >= 0;
	return nr;
}

static void messages_go_both_ways_in_their_length(void **state)
{
	char msg[PROC_MESSAGE_MAX], got[PROC_MESSAGE_MAX], how[64];
	struct proc p;
	int fd;

	(void)state;
	start(&p, echo, NULL);
	memset(msg, 'm', sizeof(msg));
	for (size_t len = 1; len <= sizeof(msg); len = len < 8192 ? len * 2 : len + 4096) {
		assert_int_equal(proc_send(p.sock, msg, len, -1, NULL), 0);
		assert_int_equal(proc_recv(p.sock, got, sizeof(got), &fd, NULL), len);
		assert_memory_equal(got, msg, len);
		assert_int_equal(fd, -1);
	}
	assert_string_equal(p.shared, "been here");
	proc_end(&p, 0, how, sizeof(how));
	assert_string_equal(how, "exit status 5");
	assert_int_equal(p.pid, 0);
	proc_end(&p, 1, how, sizeof(how));
	assert_no_children();
}

static void a_descriptor_is_handed_over(void **state)
{
	char got[64] = "";
	struct proc p;
	int fd;

	(void)state;
	tree_write("f", "of this file", 12);
	start(&p, echo, NULL);
	fd = open(in_tree("f"), O_RDONLY);
	assert_int_equal(proc_send(p.sock, "here", 4, fd, NULL), 0);
	close(fd);
	assert_int_equal(proc_recv(p.sock, got, sizeof(got), &fd, NULL), 12);
	assert_string_equal(got, "of this file");
	proc_end(&p, 0, NULL, 0);
	assert_no_children();
}

static void a_message_longer_than_the_room_is_an_error_and_leaks_nothing(void **state)
{
	struct err err = ERR_INIT;
	unsigned before = nr_descriptors();
	char small[4];
	int pair[2], fd = -1;

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
	assert_int_equal(proc_send(pair[0], "too long", 8, pair[0], NULL), 0);
	assert_int_equal(proc_recv(pair[1], small, sizeof(small), &fd, &err), -1);
	assert_int_equal(err.kind, ERR_FORMAT);
	assert_int_equal(fd, -1);
	assert_int_equal(nr_descriptors(), before + 2);
	close(pair[0]);
	close(pair[1]);
}

/* A message with more descriptors than were agreed on, or with one and no bytes: none stays open unseen. */
static void send_two(int sock, size_t len, unsigned nr)
{
	union {
		char bytes[CMSG_SPACE(2 * sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec iov = { .iov_base = (char[]){ "x" }, .iov_len = len };
	struct msghdr header = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes,
				 .msg_controllen = CMSG_SPACE(nr * sizeof(int)) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&header);
	int fds[2] = { sock, sock };

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(nr * sizeof(int));
	memcpy(CMSG_DATA(c), fds, nr * sizeof(int));
	assert_int_equal(sendmsg(sock, &header, 0), len);
}

static void descriptors_nobody_asked_for_do_not_stay_open(void **state)
{
	unsigned before = nr_descriptors();
	int pair[2], fd;
	char buf[4];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
	send_two(pair[0], 1, 2);
	assert_int_equal(proc_recv(pair[1], buf, sizeof(buf), &fd, NULL), 1);
	assert_int_equal(nr_descriptors(), before + 2 + (fd >= 0));
	close(fd);
	send_two(pair[0], 0, 1);
	assert_int_equal(proc_recv(pair[1], buf, sizeof(buf), &fd, NULL), 0);
	assert_int_equal(nr_descriptors(), before + 2);
	close(pair[0]);
	close(pair[1]);
}

static void who_is_gone_shows_when_sent_to_and_when_listened_to(void **state)
{
	struct err err = ERR_INIT;
	int pair[2], fd;
	char buf[4];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
	close(pair[0]);
	assert_int_equal(proc_send(pair[1], "x", 1, -1, &err), -1);
	assert_int_equal(err.kind, ERR_STALE);
	assert_int_equal(proc_recv(pair[1], buf, sizeof(buf), &fd, NULL), 0);
	close(pair[1]);
}

static void the_death_of_a_child_is_told_with_its_signal(void **state)
{
	int signals[] = { SIGKILL, SIGSEGV, SIGABRT };
	char got[4], how[64], wanted[64];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(signals); i++) {
		struct proc p;
		int fd;

		start(&p, crash, &signals[i]);
		assert_int_equal(proc_recv(p.sock, got, sizeof(got), &fd, NULL), 0);
		proc_end(&p, 0, how, sizeof(how));
		snprintf(wanted, sizeof(wanted), "killed by signal %d (%s)", signals[i], strsignal(signals[i]));
		if (!SANITIZED)
			assert_string_equal(how, wanted);
	}
	assert_no_children();
}

static void a_child_holds_standard_descriptors_and_its_socket_only(void **state)
{
	int extra[40], fd;
	struct proc p;
	char got[4];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(extra); i++)
		extra[i] = open("/dev/null", O_RDONLY);
	start(&p, list_descriptors, NULL);
	assert_int_equal(proc_recv(p.sock, got, sizeof(got), &fd, NULL), 1);
	assert_string_equal(p.shared, "0 1 2 3 ");
	proc_end(&p, 0, NULL, 0);
	for (size_t i = 0; i < ARRAY_SIZE(extra); i++)
		close(extra[i]);
	assert_no_children();
}

static void a_child_shares_memory_with_its_parent_only(void **state)
{
	struct proc p[3];
	char got[4];
	int fd;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(p); i++)
		start(&p[i], count_shared, NULL);
	for (size_t i = 0; i < ARRAY_SIZE(p); i++) {
		assert_int_equal(proc_recv(p[i].sock, got, sizeof(got), &fd, NULL), 1);
		assert_int_equal(*(int *)p[i].shared, 1);
		proc_end(&p[i], 0, NULL, 0);
	}
	assert_no_children();
}

static void a_child_that_does_not_listen_does_not_hold_its_parent_up(void **state)
{
	char msg[PROC_MESSAGE_MAX] = "";
	struct err err = ERR_INIT;
	unsigned nr = 0;
	struct proc p;

	(void)state;
	start(&p, deaf, NULL);
	while (proc_send(p.sock, msg, sizeof(msg), -1, &err) == 0)
		nr++;
	assert_int_equal(err.kind, ERR_BUSY);
	assert_in_range(nr, 2, 1000);
	proc_end(&p, 1, NULL, 0);
	assert_no_children();
}

static void a_child_leaves_signals_to_its_parent(void **state)
{
	struct proc p;
	char got[8];
	int fd;

	(void)state;
	start(&p, signals_ignored, NULL);
	assert_int_equal(proc_recv(p.sock, got, sizeof(got), &fd, NULL), 5);
	proc_end(&p, 0, NULL, 0);
	assert_no_children();
}

static void many_children_leave_no_zombie_and_no_descriptor(void **state)
{
	unsigned before = nr_descriptors();

	(void)state;
	for (unsigned i = 0; i < 20; i++) {
		struct proc p;

		start(&p, echo, NULL);
		proc_end(&p, i % 2, NULL, 0);
	}
	assert_no_children();
	assert_int_equal(nr_descriptors(), before);
}

/* The child of a child that is killed: it goes with its parent. */
static void a_child_dies_with_its_parent(void **state)
{
	int ready[2];
	pid_t middle, child = 0;

	(void)state;
	assert_int_equal(pipe(ready), 0);
	middle = fork();
	if (middle == 0) {
		struct proc p;

		if (proc_start(&p, 4096, NULL, deaf, NULL, NULL) < 0 || write(ready[1], &p.pid, sizeof(p.pid)) < 0)
			_exit(1);
		pause();
	}
	assert_int_equal(read(ready[0], &child, sizeof(child)), sizeof(child));
	assert_int_equal(kill(child, 0), 0);
	kill(middle, SIGKILL);
	waitpid(middle, NULL, 0);
	close(ready[1]);
	/* the child's copy of the pipe closed when it began: what is left to see is that its number goes */
	for (unsigned i = 0; i < 500 && kill(child, 0) == 0; i++) {
		char path[64], line[512] = "";
		FILE *f;

		snprintf(path, sizeof(path), "/proc/%d/stat", (int)child);
		f = fopen(path, "r");
		if (!f || !fgets(line, sizeof(line), f) || strstr(line, ") Z "))
			i = 1000; /* gone, or left to an init that does not reap */
		if (f)
			fclose(f);
		if (i == 499)
			fail_msg("it lives on");
		usleep(10000);
	}
	close(ready[0]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		tree_test(messages_go_both_ways_in_their_length),
		tree_test(a_descriptor_is_handed_over),
		tree_test(a_message_longer_than_the_room_is_an_error_and_leaks_nothing),
		tree_test(descriptors_nobody_asked_for_do_not_stay_open),
		tree_test(who_is_gone_shows_when_sent_to_and_when_listened_to),
		tree_test(the_death_of_a_child_is_told_with_its_signal),
		tree_test(a_child_holds_standard_descriptors_and_its_socket_only),
		tree_test(a_child_shares_memory_with_its_parent_only),
		tree_test(a_child_that_does_not_listen_does_not_hold_its_parent_up),
		tree_test(a_child_leaves_signals_to_its_parent),
		tree_test(many_children_leave_no_zombie_and_no_descriptor),
		tree_test(a_child_dies_with_its_parent),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
