/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_PROC_H
#define DEDUPSCAN_PROC_H

#include <stddef.h>
#include <sys/types.h>

#include "scanner/base/err.h"
#include "scanner/base/jail.h"

/* Worker processes: children that hold nothing but a socket, a piece of memory shared with their parent, and what
 * descriptors they are handed; in a jail, if they are given one.
 *
 * Messages are datagrams of at most PROC_MESSAGE_MAX bytes over a SOCK_SEQPACKET pair, each with or without a
 * descriptor; bulk data goes through the shared memory.  A child dies with its parent. */

#define PROC_MESSAGE_MAX 16384
#define PROC_HOW_ROOM 128

struct proc {
	pid_t pid; /* 0 = not running */
	int sock;
	void *shared;
	size_t shared_len;
	_Atomic uint32_t *forbidden; /* behind it: what the jail ended it for, see jail_enter() */
};

/* Starts a child that runs run(sock, shared, arg) and exits with its result.  In the child every other descriptor but
 * stderr is closed, and SIGINT, SIGTERM and SIGHUP are left to the parent.  With a `jail` the child is in it when
 * this returns, and run() is in it from the beginning; it is an error if it could not enter. */
int proc_start(struct proc *p, size_t shared_len, const struct jail *jail,
	       int (*run)(int sock, void *shared, void *arg), void *arg, struct err *err);

/* Sends one message; fd -1 = none.  ERR_STALE when the other side is gone; ERR_BUSY when a child has not listened for
 * a second and all buffers are full. */
int proc_send(int sock, const void *msg, size_t len, int fd, struct err *err);

/* Receives one message of at most `room` bytes and with *ret_fd a descriptor to own, or -1.  Returns its length, 0 when
 * the other side is gone, -1 on error. */
ssize_t proc_recv(int sock, void *msg, size_t room, int *ret_fd, struct err *err);

/* Waits for the end of the child (killing it first when `kill_it`), frees what belonged to it and says in ret_how,
 * unless NULL, how it ended: "killed by signal 9 (Killed)", "stopped by the sandbox: system call 59, execve", "exit
 * status 3".  A process that is not running is fine. */
void proc_end(struct proc *p, int kill_it, char *ret_how, size_t room);

#endif
