/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_FILE_H
#define DEDUPSCAN_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/types.h>

#include "scanner/base/cleanup.h"
#include "scanner/base/err.h"

/* The file seam: every open, read, write, sync, rename and unlink of ours passes here.
 *
 * The calls below loop over short transfers and EINTR and report with the file's name.  Underneath lies one table of
 * system calls, which tests replace by a file system that fails, loses, tears and reorders.
 *
 * An fsync error is final for that file: whoever gets one throws the file away. */

struct file_ops {
	int (*openat)(int dirfd, const char *name, int flags, mode_t mode);
	int (*openat2)(int dirfd, const char *name, int flags, uint64_t resolve);
	int (*close)(int fd);
	ssize_t (*pread)(int fd, void *buf, size_t len, off_t offset);
	ssize_t (*pwrite)(int fd, const void *buf, size_t len, off_t offset);
	int (*fdatasync)(int fd);
	int (*fsync)(int fd);
	int (*ftruncate)(int fd, off_t size);
	int (*renameat2)(int from_dirfd, const char *from, int to_dirfd, const char *to, unsigned flags);
	int (*unlinkat)(int dirfd, const char *name, int flags);
	int (*mkdirat)(int dirfd, const char *name, mode_t mode);
	int (*fstat)(int fd, struct stat *st);
	int (*fstatat)(int dirfd, const char *name, struct stat *st, int flags);
	int (*fstatfs)(int fd, struct statfs *st);
	off_t (*lseek)(int fd, off_t offset, int whence); /* SEEK_DATA, SEEK_HOLE */
	int (*fallocate)(int fd, int mode, off_t offset, off_t len);
	int (*fadvise)(int fd, off_t offset, off_t len, int advice); /* returns an errno, like posix_fadvise(3) */
	int (*ioctl)(int fd, unsigned long request, void *arg);	     /* FICLONERANGE, FIDEDUPERANGE, FIEMAP, inode flags */
	int (*fcntl)(int fd, int cmd, void *arg); /* leases (arg is the number) and OFD locks */
	int (*fchown)(int fd, uid_t uid, gid_t gid);
	int (*fchmod)(int fd, mode_t mode);
	int (*futimens)(int fd, const struct timespec times[2]);
	/* fdopendir(3), whose result takes over the descriptor; the next name or NULL, and then errno is 0 at the end;
	 * closedir(3) */
	void *(*list_begin)(int fd);
	const char *(*list_next)(void *list);
	int (*list_end)(void *list);
	ssize_t (*flistxattr)(int fd, char *list, size_t room);
	ssize_t (*fgetxattr)(int fd, const char *name, void *value, size_t room);
	int (*fsetxattr)(int fd, const char *name, const void *value, size_t len, int flags);
	int (*syncfs)(int fd);
};

/* The table in use; tests point it elsewhere and back to &file_ops_os. */
extern const struct file_ops *file_ops;
extern const struct file_ops file_ops_os;

/* What is behind the last '/' of a path: all of it where there is none. */
const char *file_last_part(const char *path);

/* O_CLOEXEC and O_NOCTTY are added.  Returns a descriptor or -1. */
int file_open(int dirfd, const char *name, int flags, mode_t mode, struct err *err);
/* Opens an existing file beneath dirfd by openat2(2), with the RESOLVE_ flags given besides RESOLVE_BENEATH and
 * RESOLVE_NO_MAGICLINKS. */
int file_open_beneath(int dirfd, const char *name, int flags, uint64_t resolve, struct err *err);
int file_close(int fd, const char *name, struct err *err);

/* fstat(2), and by that very system call: others do more than that, and are not had in a jail. */
int file_stat(int fd, struct stat *ret);

/* What no other file of its file system has, had or will have: an inode number is given out again. */
struct file_birth {
	uint64_t ino;
	uint64_t born; /* ns since 1970 */
};
/* Of a file in a directory, not followed; name "" = of the descriptor itself.  False where that cannot be told. */
bool file_birth(int fd, const char *name, struct file_birth *ret);

/* Exactly len bytes at offset.  Meeting the end of the file first is ERR_STALE: the caller knew the size. */
int file_read(int fd, void *buf, size_t len, uint64_t offset, struct err *err);

/* Up to len bytes; less only at the end of the file.  Returns the number of bytes, or -1. */
ssize_t file_read_some(int fd, void *buf, size_t len, uint64_t offset, struct err *err);

int file_write(int fd, const void *buf, size_t len, uint64_t offset, struct err *err);

int file_sync(int fd, const char *name, struct err *err);
int file_sync_dir(int dirfd, struct err *err);
/* Everything on the file system of fd, names included: cheaper than hundreds of syncs of files, and says nothing of which
 * failed. */
int file_sync_fs(int fd, struct err *err);
int file_truncate(int fd, uint64_t size, struct err *err);
int file_rename(int dirfd, const char *from, const char *to, struct err *err);

/* From one directory to another of the same file system.  `flags` are RENAME_NOREPLACE and RENAME_EXCHANGE. */
int file_rename_to(int from_dirfd, const char *from, int to_dirfd, const char *to, unsigned flags, struct err *err);

/* Removing what is not there is no error. */
int file_unlink(int dirfd, const char *name, struct err *err);
/* A directory that is there already is no error. */
int file_mkdir(int dirfd, const char *name, mode_t mode, struct err *err);

/* Makes [offset, offset + len) a hole; the size stays. */
int file_punch(int fd, uint64_t offset, uint64_t len, struct err *err);
/* Drops what the page cache has of the file, after a sync: what is read next comes from the disk. */
int file_drop_cache(int fd, struct err *err);
/* The next stretch of data at or after `from`: 1 and [*ret_begin, *ret_end), 0 = there is only a hole up to `size`, -1.  Where
 * the file system knows no holes everything is data. */
int file_next_data(int fd, uint64_t from, uint64_t size, uint64_t *ret_begin, uint64_t *ret_end, struct err *err);
/* Whether [begin, end) of a file reads as zeros for certain: after what is in memory was written, the map of its extents, by
 * which reads go, has no block there that was ever written (FIEMAP).  False where the file system has no such map. */
bool file_is_unmapped(int fd, uint64_t begin, uint64_t end);
/* Has [offset, offset + len) of `to` share the disk blocks of `from`: FICLONERANGE. */
int file_clone(int from, uint64_t from_offset, uint64_t len, int to, uint64_t to_offset, struct err *err);

/* Has the kernel compare [to_offset, to_offset + len) of `to` with the bytes of `from`, and share the blocks of `from` if they are
 * equal: FIDEDUPERANGE.  1 = equal, 0 = they differ, -1 with errno set.  *ret_len, unless NULL, is how many bytes that was about;
 * that they are shared now is not proven by it. */
int file_dedupe(int from, uint64_t from_offset, uint64_t len, int to, uint64_t to_offset, uint64_t *ret_len);

/* Calls for every name in a directory but "." and "..", until a call returns other than 0; that is returned then. */
int file_each_name(int dirfd, int (*call)(void *ctx, const char *name, struct err *err), void *ctx, struct err *err);

/* A buffered, append-only writer of one new file. */
struct file_writer {
	int fd;
	char name[64];
	uint64_t offset; /* bytes appended so far, buffered ones included */
	size_t used, room;
	uint8_t *buf;
};

/* Creates dirfd/name (an old one is truncated) with a buffer of `room` bytes. */
int file_writer_open(struct file_writer *w, int dirfd, const char *name, size_t room, struct err *err);
int file_writer_append(struct file_writer *w, const void *buf, size_t len, struct err *err);
int file_writer_flush(struct file_writer *w, struct err *err);
/* Flushes, syncs when asked, closes. */
int file_writer_close(struct file_writer *w, int sync, struct err *err);
/* Flushes and hands out the descriptor instead of closing it; -1 on failure, when it is closed. */
int file_writer_detach(struct file_writer *w, struct err *err);
/* Closes without flushing; takes a closed or zeroed writer. */
void file_writer_release(struct file_writer *w);
CLEANUP_DEFINE_RELEASE(struct file_writer, file_writer_release)

/* Writes a whole small file atomically: temporary name beside it, sync, rename, directory sync. */
int file_write_atomic(int dirfd, const char *name, const void *buf, size_t len, mode_t mode, struct err *err);

#endif
