/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/base/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

/* Keeps stderr and `sock`, which becomes descriptor 3; 0 and 1 read and swallow nothing. */
static int drop_descriptors(int sock)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0)
		return -1;
	if (sock != JAIL_SOCKET && dup2(sock, JAIL_SOCKET) < 0)
		return -1;
	return (int)syscall(SYS_close_range, JAIL_SOCKET + 1u, ~0u, 0u);
}

/* Enters the jail and tells the parent how that went. */
static int enter(const struct jail *jail, _Atomic uint32_t *forbidden)
{
	struct err err = ERR_INIT, none = ERR_INIT;
	int rc = jail_enter(jail, forbidden, &err);

	return proc_send(JAIL_SOCKET, rc < 0 ? &err : &none, sizeof(err), -1, NULL) < 0 ? -1 : rc;
}

static void child(pid_t parent, int sock, const struct proc *p, const struct jail *jail,
		  int (*run)(int, void *, void *), void *arg)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	signal(SIGUSR1, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	if (drop_descriptors(sock) < 0)
		_exit(1);
	if (jail && enter(jail, p->forbidden) < 0)
		_exit(1);
	_exit(run(JAIL_SOCKET, p->shared, arg));
}

/* Waits until the child is in its jail. */
static int see_it_enter(struct proc *p, struct err *err)
{
	struct err said = ERR_INIT;
	char how[PROC_HOW_ROOM];
	int fd = -1;
	ssize_t n = proc_recv(p->sock, &said, sizeof(said), &fd, NULL);

	if (fd >= 0)
		close(fd);
	if (n == sizeof(said) && said.kind == ERR_NONE)
		return 0;
	proc_end(p, 1, how, sizeof(how));
	if (n != sizeof(said))
		return err_set(err, ERR_IO, "a worker process died before it began (%s)", how);
	said.text[sizeof(said.text) - 1] = '\0';
	return err_set(err, said.kind, "a worker process: %s", said.text);
}

int proc_start(struct proc *p, size_t shared_len, const struct jail *jail, int (*run)(int, void *, void *), void *arg,
	       struct err *err)
{
	const struct timeval patience = { .tv_sec = 1 };
	pid_t parent = getpid();
	int pair[2];

	shared_len = (shared_len + 63) / 64 * 64;
	*p = (struct proc){ .sock = -1 };
	if (jail && jail_prepare(jail, err) < 0)
		return -1;
	*p = (struct proc){ .sock = -1, .shared_len = shared_len + sizeof(*p->forbidden) };
	p->shared = mmap(NULL, p->shared_len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (p->shared == MAP_FAILED)
		return err_errno(err, "cannot share %zu bytes with a worker", shared_len);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		munmap(p->shared, p->shared_len);
		return err_errno(err, "cannot make a socket pair for a worker");
	}
	p->forbidden = (void *)((char *)p->shared + shared_len);
	p->pid = fork();
	if (p->pid == 0)
		child(parent, pair[1], p, jail, run, arg);
	close(pair[1]);
	if (p->pid < 0) {
		p->pid = 0;
		close(pair[0]);
		munmap(p->shared, p->shared_len);
		return err_errno(err, "cannot start a worker process");
	}
	setsockopt(pair[0], SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	madvise(p->shared, p->shared_len, MADV_DONTFORK); /* it is none of the next child's business */
	p->sock = pair[0];
	return jail ? see_it_enter(p, err) : 0;
}

int proc_send(int sock, const void *msg, size_t len, int fd, struct err *err)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec iov = { .iov_base = (void *)(uintptr_t)msg, .iov_len = len };
	struct msghdr header = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (fd >= 0) {
		struct cmsghdr *c;

		header.msg_control = control.bytes;
		header.msg_controllen = sizeof(control.bytes);
		c = CMSG_FIRSTHDR(&header);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(int));
	}
	while (sendmsg(sock, &header, MSG_NOSIGNAL) < 0) {
		if (errno == EPIPE || errno == ECONNRESET)
			return err_set(err, ERR_STALE, "the other process is gone");
		if (errno != EINTR)
			return err_errno(err, "cannot send to another process");
	}
	return 0;
}

/* The last descriptor that came along; others, which the room that the alignment leaves can hold, are closed. */
static int received_fd(struct msghdr *header)
{
	int fd = -1;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t at = 0; CMSG_LEN(at + sizeof(int)) <= c->cmsg_len; at += sizeof(int)) {
			if (fd >= 0)
				close(fd);
			memcpy(&fd, CMSG_DATA(c) + at, sizeof(int));
		}
	}
	return fd;
}

ssize_t proc_recv(int sock, void *msg, size_t room, int *ret_fd, struct err *err)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = { .iov_base = msg, .iov_len = room };
	struct msghdr header = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes),
	};
	ssize_t n;

	do
		n = recvmsg(sock, &header, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno == ECONNRESET)
		n = 0;
	if (n < 0)
		return err_errno(err, "cannot receive from another process");
	*ret_fd = received_fd(&header);
	if ((n == 0 || header.msg_flags & MSG_TRUNC) && *ret_fd >= 0) {
		close(*ret_fd);
		*ret_fd = -1;
	}
	if (header.msg_flags & MSG_TRUNC)
		return err_set(err, ERR_FORMAT, "a message of another process is too long");
	return n;
}

void proc_end(struct proc *p, int kill_it, char *ret_how, size_t room)
{
	char name[PROC_HOW_ROOM / 2];
	uint32_t call;
	int status = 0;

	if (!p->pid)
		return;
	if (kill_it)
		kill(p->pid, SIGKILL);
	close(p->sock);
	while (waitpid(p->pid, &status, 0) < 0 && errno == EINTR)
		;
	call = atomic_load(p->forbidden);
	if (ret_how && WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS)
		snprintf(ret_how, room, "stopped by the sandbox: %s",
			 call ? jail_call((int)(call - 1), name, sizeof(name)) : "a foreign system call");
	else if (ret_how && WIFSIGNALED(status))
		snprintf(ret_how, room, "killed by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
	else if (ret_how)
		snprintf(ret_how, room, "exit status %d", WEXITSTATUS(status));
	munmap(p->shared, p->shared_len);
	*p = (struct proc){ .sock = -1 };
}
