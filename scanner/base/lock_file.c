/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/base/lock_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <time.h>
#include <unistd.h>

#include "scanner/base/file.h"

int lock_file_take(struct lock_file *l, int dirfd, const char *name, int flags, mode_t mode, struct err *err)
{
	struct flock whole = { .l_type = (flags & O_ACCMODE) == O_RDONLY ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET };

	l->fd = file_open(dirfd, name, flags, mode, err);
	if (l->fd < 0)
		return -1;
	if (file_ops->fcntl(l->fd, F_OFD_SETLK, &whole) == 0)
		return 1;
	return errno == EAGAIN || errno == EACCES ? 0 : err_errno(err, "cannot lock it");
}

void lock_file_release(struct lock_file *l)
{
	if (l->ears >= 0)
		close(l->ears);
	if (l->fd >= 0)
		file_ops->close(l->fd);
	l->fd = l->ears = -1;
}

void lock_file_listen(struct lock_file *l)
{
	char path[32];

	if (l->fd < 0 || l->ears >= 0)
		return;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", l->fd);
	l->ears = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (l->ears < 0 || inotify_add_watch(l->ears, path, IN_OPEN) >= 0)
		return;
	close(l->ears);
	l->ears = -1;
}

bool lock_file_was_tried(struct lock_file *l)
{
	char events[4096];
	bool any = false;

	while (l->ears >= 0 && read(l->ears, events, sizeof(events)) > 0)
		any = true;
	return any;
}

/* What fcntl(2) says then. */
int lock_file_held(struct err *err)
{
	if (err)
		err->errnum = EAGAIN;
	return -1;
}

bool lock_file_is_held(const struct err *err)
{
	return err->kind == ERR_BUSY && err->errnum == EAGAIN;
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

uint64_t lock_file_patience(int64_t seconds)
{
	return now_ns() + (uint64_t)seconds * 1000000000;
}

bool lock_file_try_again(struct err *err, uint64_t until, struct stopper *s)
{
	if (!lock_file_is_held(err) || now_ns() >= until)
		return false;
	*err = (struct err)ERR_INIT;
	if (stopper_says(s)) {
		err_set(err, ERR_CANCELED, "stopped while another dedupscan was at work");
		return false;
	}
	nanosleep(&(struct timespec){ .tv_nsec = LOCK_FILE_TRY_NS }, NULL);
	return true;
}
