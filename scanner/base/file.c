/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#define AGAIN_MAX 100
#define TMP_ROOM 40
#define EXTENTS_AT_ONCE 64

static int os_openat(int dirfd, const char *name, int flags, mode_t mode)
{
	return openat(dirfd, name, flags, mode);
}

static int os_openat2(int dirfd, const char *name, int flags, uint64_t resolve)
{
	struct open_how how = { .flags = (unsigned)flags, .resolve = resolve };

	return (int)syscall(SYS_openat2, dirfd, name, &how, sizeof(how));
}

static int os_renameat2(int from_dirfd, const char *from, int to_dirfd, const char *to, unsigned flags)
{
	return flags ? renameat2(from_dirfd, from, to_dirfd, to, flags) : renameat(from_dirfd, from, to_dirfd, to);
}

static int os_ioctl(int fd, unsigned long request, void *arg)
{
	return ioctl(fd, request, arg);
}

static int os_fcntl(int fd, int cmd, void *arg)
{
	return fcntl(fd, cmd, arg);
}

static void *os_list_begin(int fd)
{
	return fdopendir(fd);
}

static const char *os_list_next(void *list)
{
	struct dirent *e;

	errno = 0;
	e = readdir(list);
	return e ? e->d_name : NULL;
}

static int os_list_end(void *list)
{
	return closedir(list);
}

const struct file_ops file_ops_os = {
	.openat = os_openat,
	.openat2 = os_openat2,
	.close = close,
	.pread = pread,
	.pwrite = pwrite,
	.fdatasync = fdatasync,
	.fsync = fsync,
	.ftruncate = ftruncate,
	.renameat2 = os_renameat2,
	.unlinkat = unlinkat,
	.mkdirat = mkdirat,
	.fstat = file_stat,
	.fstatat = fstatat,
	.fstatfs = fstatfs,
	.lseek = lseek,
	.fallocate = fallocate,
	.fadvise = posix_fadvise,
	.ioctl = os_ioctl,
	.fcntl = os_fcntl,
	.fchown = fchown,
	.fchmod = fchmod,
	.futimens = futimens,
	.list_begin = os_list_begin,
	.list_next = os_list_next,
	.list_end = os_list_end,
	.flistxattr = flistxattr,
	.fgetxattr = fgetxattr,
	.fsetxattr = fsetxattr,
	.syncfs = syncfs,
};

const struct file_ops *file_ops = &file_ops_os;

const char *file_last_part(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

int file_open(int dirfd, const char *name, int flags, mode_t mode, struct err *err)
{
	int fd;

	do
		fd = file_ops->openat(dirfd, name, flags | O_CLOEXEC | O_NOCTTY, mode);
	while (fd < 0 && errno == EINTR);
	if (fd < 0)
		return err_errno(err, "cannot open '%s'", name);
	return fd;
}

int file_open_beneath(int dirfd, const char *name, int flags, uint64_t resolve, struct err *err)
{
	int fd, tries = 0;

	if (!(flags & O_PATH))
		flags |= O_NOCTTY;
	/* EAGAIN: something moved while the kernel looked, so that it could not be sure; or a lease on the file, which may
	 * last. */
	do
		fd = file_ops->openat2(dirfd, name, flags | O_CLOEXEC,
				       resolve | RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS);
	while (fd < 0 && (errno == EINTR || (errno == EAGAIN && ++tries < AGAIN_MAX)));
	if (fd < 0)
		return err_errno(err, "cannot open '%s'", name);
	return fd;
}

int file_close(int fd, const char *name, struct err *err)
{
	/* After EINTR the descriptor is gone on Linux: never close twice. */
	if (file_ops->close(fd) < 0 && errno != EINTR)
		return err_errno(err, "cannot close '%s'", name);
	return 0;
}

int file_stat(int fd, struct stat *ret)
{
#ifdef __LP64__ /* where the kernel's struct is the library's */
	return (int)syscall(SYS_fstat, fd, ret);
#else
	return fstat(fd, ret);
#endif
}

bool file_birth(int fd, const char *name, struct file_birth *ret)
{
	int flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | (*name ? 0 : AT_EMPTY_PATH);
	struct statx x;

	if (statx(fd, name, flags, STATX_INO | STATX_BTIME, &x) < 0 || !(x.stx_mask & STATX_BTIME) || x.stx_btime.tv_sec <= 0)
		return false;
	*ret = (struct file_birth){ x.stx_ino, (uint64_t)x.stx_btime.tv_sec * 1000000000u + x.stx_btime.tv_nsec };
	return true;
}

ssize_t file_read_some(int fd, void *buf, size_t len, uint64_t offset, struct err *err)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = file_ops->pread(fd, (char *)buf + done, len - done, (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_errno(err, "cannot read %zu bytes at offset %llu", len - done,
					 (unsigned long long)(offset + done));
		if (n == 0)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

int file_read(int fd, void *buf, size_t len, uint64_t offset, struct err *err)
{
	ssize_t n = file_read_some(fd, buf, len, offset, err);

	if (n < 0)
		return -1;
	if ((size_t)n < len)
		return err_set(err, ERR_STALE,
			       "the file ends at offset %llu, inside the %zu bytes wanted at offset %llu",
			       (unsigned long long)(offset + (size_t)n), len, (unsigned long long)offset);
	return 0;
}

int file_write(int fd, const void *buf, size_t len, uint64_t offset, struct err *err)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = file_ops->pwrite(fd, (const char *)buf + done, len - done, (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n == 0)
			errno = ENOSPC;
		if (n <= 0)
			return err_errno(err, "cannot write %zu bytes at offset %llu", len - done,
					 (unsigned long long)(offset + done));
		done += (size_t)n;
	}
	return 0;
}

int file_sync(int fd, const char *name, struct err *err)
{
	if (file_ops->fdatasync(fd) < 0)
		return err_errno(err, "cannot sync '%s'", name);
	return 0;
}

int file_sync_dir(int dirfd, struct err *err)
{
	if (file_ops->fsync(dirfd) < 0)
		return err_errno(err, "cannot sync a directory");
	return 0;
}

int file_sync_fs(int fd, struct err *err)
{
	if (file_ops->syncfs(fd) < 0)
		return err_errno(err, "cannot sync the file system");
	return 0;
}

int file_truncate(int fd, uint64_t size, struct err *err)
{
	if (file_ops->ftruncate(fd, (off_t)size) < 0)
		return err_errno(err, "cannot set the file size to %llu", (unsigned long long)size);
	return 0;
}

int file_rename(int dirfd, const char *from, const char *to, struct err *err)
{
	return file_rename_to(dirfd, from, dirfd, to, 0, err);
}

int file_rename_to(int from_dirfd, const char *from, int to_dirfd, const char *to, unsigned flags, struct err *err)
{
	if (file_ops->renameat2(from_dirfd, from, to_dirfd, to, flags) < 0)
		return err_errno(err, "cannot %s '%s' %s '%s'", flags & RENAME_EXCHANGE ? "exchange" : "rename", from,
				 flags & RENAME_EXCHANGE ? "and" : "to", to);
	return 0;
}

int file_unlink(int dirfd, const char *name, struct err *err)
{
	if (file_ops->unlinkat(dirfd, name, 0) < 0 && errno != ENOENT)
		return err_errno(err, "cannot remove '%s'", name);
	return 0;
}

int file_mkdir(int dirfd, const char *name, mode_t mode, struct err *err)
{
	if (file_ops->mkdirat(dirfd, name, mode) < 0 && errno != EEXIST)
		return err_errno(err, "cannot make the directory '%s'", name);
	return 0;
}

int file_punch(int fd, uint64_t offset, uint64_t len, struct err *err)
{
	int rc;

	do
		rc = file_ops->fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len);
	while (rc < 0 && errno == EINTR);
	if (rc < 0)
		return err_errno(err, "cannot punch a hole of %llu bytes at offset %llu", (unsigned long long)len,
				 (unsigned long long)offset);
	return 0;
}

int file_drop_cache(int fd, struct err *err)
{
	errno = file_ops->fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	return errno ? err_errno(err, "cannot drop a file from the page cache") : 0;
}

int file_next_data(int fd, uint64_t from, uint64_t size, uint64_t *ret_begin, uint64_t *ret_end, struct err *err)
{
	off_t begin, end;

	if (from >= size)
		return 0;
	begin = file_ops->lseek(fd, (off_t)from, SEEK_DATA);
	if (begin < 0 && errno == ENXIO)
		return 0;
	if (begin < 0 && errno != EINVAL && errno != EOPNOTSUPP)
		return err_errno(err, "cannot look for data at offset %llu", (unsigned long long)from);
	end = begin < 0 ? -1 : file_ops->lseek(fd, begin, SEEK_HOLE);
	*ret_begin = begin < 0 ? from : (uint64_t)begin;
	*ret_end = end < 0 || (uint64_t)end > size ? size : (uint64_t)end;
	return *ret_begin < size;
}

/* True when all extents of the answer were never written; *at goes behind them, to `end` when no more follow. */
static bool all_unwritten(const struct fiemap *map, uint64_t end, uint64_t *at)
{
	const struct fiemap_extent *e = map->fm_extents;

	if (!map->fm_mapped_extents)
		*at = end;
	for (uint32_t i = 0; i < map->fm_mapped_extents; i++) {
		if (!(e[i].fe_flags & FIEMAP_EXTENT_UNWRITTEN) || e[i].fe_logical + e[i].fe_length <= *at)
			return false;
		*at = e[i].fe_flags & FIEMAP_EXTENT_LAST ? end : e[i].fe_logical + e[i].fe_length;
	}
	return true;
}

bool file_is_unmapped(int fd, uint64_t begin, uint64_t end)
{
	union {
		struct fiemap map;
		uint8_t room[sizeof(struct fiemap) + EXTENTS_AT_ONCE * sizeof(struct fiemap_extent)];
	} answer;

	while (begin < end) {
		answer.map = (struct fiemap){
			.fm_start = begin, .fm_length = end - begin, .fm_flags = FIEMAP_FLAG_SYNC,
			.fm_extent_count = EXTENTS_AT_ONCE
		};
		if (file_ops->ioctl(fd, FS_IOC_FIEMAP, &answer) < 0 || !all_unwritten(&answer.map, end, &begin))
			return false;
	}
	return true;
}

int file_dedupe(int from, uint64_t from_offset, uint64_t len, int to, uint64_t to_offset, uint64_t *ret_len)
{
	union {
		struct file_dedupe_range r;
		uint8_t room[sizeof(struct file_dedupe_range) + sizeof(struct file_dedupe_range_info)];
	} d = { .room = { 0 } };
	struct file_dedupe_range_info *info = d.r.info;
	int rc;

	d.r.src_offset = from_offset;
	d.r.src_length = len;
	d.r.dest_count = 1;
	info->dest_fd = to;
	info->dest_offset = to_offset;
	do
		rc = file_ops->ioctl(from, FIDEDUPERANGE, &d);
	while (rc < 0 && errno == EINTR);
	if (rc == 0 && info->status < 0) { /* so it tells what went wrong with the second file */
		errno = -info->status;
		rc = -1;
	}
	if (rc < 0)
		return -1;
	if (ret_len)
		*ret_len = info->bytes_deduped;
	return info->status == FILE_DEDUPE_RANGE_SAME;
}

int file_clone(int from, uint64_t from_offset, uint64_t len, int to, uint64_t to_offset, struct err *err)
{
	struct file_clone_range r = {
		.src_fd = from, .src_offset = from_offset, .src_length = len, .dest_offset = to_offset
	};

	if (file_ops->ioctl(to, FICLONERANGE, &r) < 0)
		return err_errno(err, "cannot share %llu bytes at offset %llu", (unsigned long long)len,
				 (unsigned long long)to_offset);
	return 0;
}

int file_each_name(int dirfd, int (*call)(void *ctx, const char *name, struct err *err), void *ctx, struct err *err)
{
	int fd = file_open(dirfd, ".", O_RDONLY | O_DIRECTORY, 0, err); /* its own position */
	void *list = fd < 0 ? NULL : file_ops->list_begin(fd);
	const char *name;
	int rc = 0;

	if (fd < 0)
		return -1;
	if (!list) {
		err_errno(err, "cannot list a directory");
		file_ops->close(fd);
		return -1;
	}
	while (rc == 0 && (name = file_ops->list_next(list)))
		if (strcmp(name, ".") != 0 && strcmp(name, "..") != 0)
			rc = call(ctx, name, err);
	if (rc == 0 && errno)
		rc = err_errno(err, "cannot list a directory");
	file_ops->list_end(list);
	return rc;
}

int file_writer_open(struct file_writer *w, int dirfd, const char *name, size_t room, struct err *err)
{
	*w = (struct file_writer){ .fd = -1, .room = room };
	snprintf(w->name, sizeof(w->name), "%s", name);
	w->buf = malloc(room);
	if (!w->buf)
		return err_set(err, ERR_MEMORY, "no memory for a write buffer of %zu bytes", room);
	w->fd = file_open(dirfd, name, O_RDWR | O_CREAT | O_TRUNC, 0600, err);
	if (w->fd < 0) {
		file_writer_release(w);
		return -1;
	}
	return 0;
}

int file_writer_flush(struct file_writer *w, struct err *err)
{
	if (w->used && file_write(w->fd, w->buf, w->used, w->offset - w->used, err) < 0)
		return err_add(err, "'%s'", w->name);
	w->used = 0;
	return 0;
}

int file_writer_append(struct file_writer *w, const void *buf, size_t len, struct err *err)
{
	if (len > w->room - w->used && file_writer_flush(w, err) < 0)
		return -1;
	if (len > w->room) {
		if (file_write(w->fd, buf, len, w->offset, err) < 0)
			return err_add(err, "'%s'", w->name);
	} else {
		memcpy(w->buf + w->used, buf, len);
		w->used += len;
	}
	w->offset += len;
	return 0;
}

int file_writer_close(struct file_writer *w, int sync, struct err *err)
{
	int rc = file_writer_flush(w, err);
	int fd = w->fd;

	if (rc == 0 && sync)
		rc = file_sync(fd, w->name, err);
	w->fd = -1;
	if (rc == 0)
		rc = file_close(fd, w->name, err);
	else
		file_ops->close(fd);
	file_writer_release(w);
	return rc;
}

int file_writer_detach(struct file_writer *w, struct err *err)
{
	int fd = file_writer_flush(w, err) < 0 ? -1 : STEAL_FD(w->fd);

	file_writer_release(w);
	return fd;
}

void file_writer_release(struct file_writer *w)
{
	if (!w->buf)
		return;
	if (w->fd >= 0)
		file_ops->close(w->fd);
	free(w->buf);
	w->buf = NULL;
	w->fd = -1;
	w->used = 0;
}

/* A new file under a name that nobody can foresee; it need not resemble the one to come, which may be as long as names get. */
static int open_temporary(int dirfd, mode_t mode, char ret_name[TMP_ROOM], struct err *err)
{
	uint64_t random = 0;

	for (int tries = 0;; tries++) {
		int fd;

		if (getrandom(&random, sizeof(random), GRND_NONBLOCK) < 0)
			random += (uint64_t)getpid() << 32 | 1;
		snprintf(ret_name, TMP_ROOM, ".dedupscan-%016llx.tmp", (unsigned long long)random);
		fd = file_ops->openat(dirfd, ret_name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY,
				      mode);
		if (fd >= 0)
			return fd;
		if (errno != EINTR && (errno != EEXIST || tries > 100))
			return err_errno(err, "cannot create a file beside it");
	}
}

int file_write_atomic(int dirfd, const char *name, const void *buf, size_t len, mode_t mode, struct err *err)
{
	char tmp[TMP_ROOM];
	int fd, rc;

	fd = open_temporary(dirfd, mode, tmp, err);
	if (fd < 0)
		return err_add(err, "'%s'", name);
	rc = file_write(fd, buf, len, 0, err);
	if (rc == 0)
		rc = file_sync(fd, tmp, err);
	if (file_close(fd, tmp, rc == 0 ? err : NULL) < 0)
		rc = -1;
	if (rc == 0)
		rc = file_rename(dirfd, tmp, name, err);
	if (rc == 0)
		return file_sync_dir(dirfd, err);
	file_unlink(dirfd, tmp, NULL);
	return err_add(err, "'%s'", name);
}
