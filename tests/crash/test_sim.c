/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include <linux/fiemap.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/ioctl.h>

#include "scanner/base/file.h"
#include "tests/crash/sim.h"

/* The simulated file system: against the kernel, call by call; then what it adds: faults, other processes, kills, power cuts. */

/* ---- the same calls on the kernel ---- */

#define NR_FDS 5

struct world {
	int dirfd;
	int fds[NR_FDS];
	uint64_t inos[NR_FDS];
};

/* One call with its arguments, chosen once and made in both worlds. */
struct step {
	unsigned kind, fd, fd2, flags, value;
	const char *name, *name2;
	uint64_t offset, len;
};

struct outcome {
	int64_t rc;
	int e;
	uint64_t seen; /* a digest of all it gave */
};

enum { DO_OPEN, DO_CLOSE, DO_WRITE, DO_READ, DO_TRUNCATE, DO_ALLOCATE, DO_SEEK, DO_RENAME, DO_UNLINK, DO_MKDIR, DO_STAT,
       DO_STATAT, DO_LIST, DO_CHMOD, DO_CHOWN, DO_TIMES, DO_SETX, DO_GETX, DO_LISTX, DO_LEASE, DO_GETLEASE, DO_LOCK, DO_GETLOCK,
       DO_CLONE, DO_DEDUPE, DO_DUP, DO_SYNC, NR_DO };
static const char *const step_names[NR_DO] = { "open", "close", "write", "read", "truncate", "allocate", "seek", "rename",
	"unlink", "mkdir", "stat", "statat", "list", "chmod", "chown", "times", "setx", "getx", "listx", "lease", "getlease",
	"lock", "getlock", "clone", "dedupe", "dup", "sync" };

static uint64_t digest(uint64_t h, const void *p, size_t len)
{
	for (const uint8_t *b = p; len--; b++)
		h = (h ^ *b) * UINT64_C(0x100000001b3);
	return h;
}

static uint64_t random_state = 1;

static unsigned below(unsigned n)
{
	random_state = random_state * UINT64_C(6364136223846793005) + 1442695040888963407;
	return (unsigned)((random_state >> 33) % n);
}

/* Which of the open files it is: numbers differ, but they must mean the same. */
static uint64_t which(const struct world *w, uint64_t ino)
{
	uint64_t mask = 0;

	for (unsigned i = 0; i < NR_FDS; i++)
		mask |= (uint64_t)(w->fds[i] >= 0 && w->inos[i] == ino) << i;
	return mask;
}

static uint64_t stat_seen(const struct world *w, const struct stat *st)
{
	bool is_file = S_ISREG(st->st_mode);
	uint64_t v[8] = { st->st_mode, st->st_uid, st->st_gid, st->st_nlink, is_file ? (uint64_t)st->st_size : 0,
			  which(w, st->st_ino), 0, is_file && !st->st_size ? 0 : 1 };

	if (is_file && st->st_mtim.tv_sec < 1000000000) /* set by us */
		v[6] = (uint64_t)st->st_mtim.tv_sec + (uint64_t)st->st_mtim.tv_nsec;
	return digest(1, v, sizeof(v));
}

static int open_step(struct world *w, const struct step *t)
{
	static const int modes[] = { O_RDONLY, O_RDWR, O_WRONLY };
	static const int extras[] = { 0, 0, O_CREAT, O_CREAT, O_CREAT, O_CREAT | O_EXCL, O_CREAT | O_TRUNC, O_TRUNC, O_DIRECTORY,
				      O_PATH, O_TMPFILE };
	int flags = modes[t->value % 3] | extras[t->flags % 11] | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW, fd;
	struct stat st;

	if ((flags & O_TRUNC) && (flags & O_ACCMODE) == O_RDONLY)
		flags |= O_RDWR;
	fd = file_ops->openat(w->dirfd, t->name, flags, 0640);
	if (fd < 0)
		return -1;
	if (w->fds[t->fd] >= 0)
		file_ops->close(w->fds[t->fd]);
	w->fds[t->fd] = fd;
	file_ops->fstat(fd, &st);
	w->inos[t->fd] = st.st_ino;
	return 0;
}

static int count_name(void *ctx, const char *name, struct err *err)
{
	(void)err;
	*(uint64_t *)ctx += digest(5, name, strlen(name)); /* in any order */
	return 0;
}

static void fill(uint8_t *buf, const struct step *t)
{
	for (uint64_t i = 0; i < t->len; i++)
		buf[i] = (uint8_t)(t->value + i / 4096);
}

static struct flock flock_of(const struct step *t)
{
	static const short types[] = { F_RDLCK, F_WRLCK, F_UNLCK };

	return (struct flock){ .l_type = types[t->value % 3], .l_whence = SEEK_SET, .l_start = (off_t)(t->offset % 300),
			       .l_len = (off_t)(t->len % 7) };
}

static int64_t listx(struct world *w, const struct step *t, uint64_t *seen)
{
	char buf[4096];
	ssize_t n = file_ops->flistxattr(w->fds[t->fd], buf, sizeof(buf)), len = 0;

	for (char *p = buf; n > 0 && p < buf + n; p += strlen(p) + 1)
		if (strncmp(p, "user.", 5) == 0) { /* the system adds its own */
			count_name(seen, p, NULL);
			len += (ssize_t)strlen(p) + 1;
		}
	return n < 0 ? n : len;
}

static int64_t dedupe(int from, int to, const struct step *t, uint64_t *seen)
{
	union {
		struct file_dedupe_range r;
		char room[sizeof(struct file_dedupe_range) + sizeof(struct file_dedupe_range_info)];
	} u = { .r = { .src_offset = t->offset, .src_length = t->len, .dest_count = 1 } };
	int rc;

	u.r.info[0].dest_fd = to;
	u.r.info[0].dest_offset = t->value % 5 * 4096;
	rc = file_ops->ioctl(from, FIDEDUPERANGE, &u.r);
	if (rc == 0)
		*seen = ((uint64_t)(uint32_t)u.r.info[0].status << 32) + u.r.info[0].bytes_deduped;
	return rc;
}

static int64_t do_fd_step(struct world *w, const struct step *t, uint64_t *seen)
{
	static uint8_t buf[1 << 17];
	static const int modes[] = { 0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE };
	static const int leases[] = { F_RDLCK, F_WRLCK, F_UNLCK };
	int fd = w->fds[t->fd];
	struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, { (time_t)t->len, (long)t->offset % 1000000 } };
	struct flock l = flock_of(t);
	struct file_clone_range clone = { .src_fd = w->fds[t->fd2], .src_offset = t->offset, .src_length = t->len,
					  .dest_offset = t->value % 5 * 4096 };
	struct stat st;
	int64_t rc;

	switch (t->kind) {
	case DO_CLOSE:
		w->fds[t->fd] = -1;
		return file_ops->close(fd);
	case DO_WRITE:
		fill(buf, t);
		return file_ops->pwrite(fd, buf, t->len, (off_t)t->offset);
	case DO_READ:
		rc = file_ops->pread(fd, buf, t->len, (off_t)t->offset);
		*seen = rc > 0 ? digest(1, buf, (size_t)rc) : 0;
		return rc;
	case DO_TRUNCATE:
		return file_ops->ftruncate(fd, (off_t)t->offset);
	case DO_ALLOCATE:
		return file_ops->fallocate(fd, modes[t->flags % 3], (off_t)t->offset, (off_t)t->len);
	case DO_SEEK: /* in directories every file system does as it likes */
		if (fd < 0 || (file_ops->fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)))
			return 0;
		return file_ops->lseek(fd, (off_t)t->offset, t->value % 2 ? SEEK_DATA : SEEK_HOLE);
	case DO_STAT:
		rc = file_ops->fstat(fd, &st);
		*seen = rc == 0 ? stat_seen(w, &st) : 0;
		return rc;
	case DO_CHMOD:
		return file_ops->fchmod(fd, t->value % 010000);
	case DO_CHOWN:
		return file_ops->fchown(fd, t->value % 7 ? t->value % 7 : (uid_t)-1, t->flags % 7 ? t->flags % 7 : (gid_t)-1);
	case DO_TIMES:
		return file_ops->futimens(fd, times);
	case DO_SETX:
		return file_ops->fsetxattr(fd, t->value % 2 ? "user.a" : "user.bb", step_names[t->value % NR_DO],
					   t->len % 3, (int)(t->flags % 3));
	case DO_GETX:
		rc = file_ops->fgetxattr(fd, t->value % 2 ? "user.a" : "user.bb", buf, t->len % 3);
		*seen = rc > 0 ? digest(1, buf, t->len % 3) : 0;
		return rc;
	case DO_LISTX:
		return listx(w, t, seen);
	case DO_LEASE:
		return file_ops->fcntl(fd, F_SETLEASE, (void *)(intptr_t)leases[t->value % 3]);
	case DO_GETLEASE:
		return file_ops->fcntl(fd, F_GETLEASE, NULL);
	case DO_LOCK:
		return file_ops->fcntl(fd, F_OFD_SETLK, &l);
	case DO_GETLOCK:
		l.l_type = t->value % 2 ? F_RDLCK : F_WRLCK;
		rc = file_ops->fcntl(fd, F_OFD_GETLK, &l);
		*seen = rc == 0 ? (uint64_t)l.l_type : 0;
		return rc;
	case DO_CLONE:
		return file_ops->ioctl(fd, FICLONERANGE, &clone);
	case DO_DEDUPE:
		return dedupe(w->fds[t->fd2], fd, t, seen);
	case DO_DUP:
		if (w->fds[t->fd2] >= 0 || fd < 0)
			return 0;
		w->fds[t->fd2] = file_ops->fcntl(fd, F_DUPFD_CLOEXEC, NULL);
		w->inos[t->fd2] = w->inos[t->fd];
		return w->fds[t->fd2] < 0 ? -1 : 0;
	}
	return t->value % 2 ? file_ops->fsync(fd) : file_ops->fdatasync(fd);
}

static int64_t do_step(struct world *w, const struct step *t, uint64_t *seen)
{
	static const unsigned flags[] = { 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_EXCHANGE,
					  RENAME_EXCHANGE | RENAME_NOREPLACE };
	struct stat st;
	int64_t rc;
	int fd;

	switch (t->kind) {
	case DO_OPEN:
		return open_step(w, t);
	case DO_RENAME:
		return file_ops->renameat2(w->dirfd, t->name, w->dirfd, t->name2, flags[t->flags % 6]);
	case DO_UNLINK:
		return file_ops->unlinkat(w->dirfd, t->name, t->value % 3 ? 0 : AT_REMOVEDIR);
	case DO_MKDIR:
		return file_ops->mkdirat(w->dirfd, t->name, 0750);
	case DO_STATAT:
		rc = file_ops->fstatat(w->dirfd, t->name, &st, AT_SYMLINK_NOFOLLOW);
		*seen = rc == 0 ? stat_seen(w, &st) : 0;
		return rc;
	case DO_LIST:
		fd = file_ops->openat(w->dirfd, t->name, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
		if (fd < 0)
			return -1;
		rc = file_each_name(fd, count_name, seen, NULL);
		file_ops->close(fd);
		return rc;
	}
	return do_fd_step(w, t, seen);
}

static struct step choose_step(void)
{
	static const char *const names[] = { "a", "b", "c", "d", "e/a", "e/b", "e", "f", "f/g", "f/g/a", "f/g/b", "e/../a",
					     "a/b", "./c", "..x", "e/.", "no/a" };
	static const uint64_t offsets[] = { 0, 0, 4096, 8192, 12288, 1, 511, 4095, 5000, 20480, 40000, 65536, UINT64_C(1) << 33 };
	static const uint64_t lens[] = { 4096, 4096, 8192, 12288, 1, 100, 5000, 16384, 40000, 65536, 0 };
	unsigned nr_names = sizeof(names) / sizeof(names[0]);
	struct step t = { .kind = below(NR_DO), .fd = below(NR_FDS), .fd2 = below(NR_FDS), .flags = below(1000),
			  .value = below(100000), .name = names[below(nr_names)], .name2 = names[below(nr_names)],
			  .offset = offsets[below(13)], .len = lens[below(11)] };

	if (below(3) == 0) /* these make the rest worth while */
		t.kind = below(2) ? DO_OPEN : DO_WRITE;
	if (t.kind == DO_ALLOCATE && t.flags % 3 == 2) /* where a hole ends within the last page file systems differ */
		t.len = (t.len + 4095) / 4096 * 4096;
	if ((t.kind == DO_ALLOCATE && t.offset > 100000) || t.kind == DO_MKDIR)
		t.offset = 0;
	return t;
}

static struct outcome make_step(struct world *w, const struct step *t)
{
	struct outcome o = { 0 };

	errno = 0;
	o.rc = do_step(w, t, &o.seen);
	o.e = o.rc < 0 ? errno : 0;
	if (t->kind == DO_RENAME && o.e == EEXIST && !(t->flags % 6 == 2)) /* XFS, of a directory that is not empty */
		o.e = ENOTEMPTY;
	return o;
}

static bool has_reflink(int dirfd)
{
	int a = openat(dirfd, "x", O_RDWR | O_CREAT, 0600), b = openat(dirfd, "y", O_RDWR | O_CREAT, 0600);
	bool has = ioctl(a, FICLONE, b) == 0;

	close(a);
	close(b);
	unlinkat(dirfd, "x", 0);
	unlinkat(dirfd, "y", 0);
	return has;
}

/* What is allocated and not written counts as a hole or as data, as the page cache happens to be. */
static bool may_differ(struct world *sim, const struct step *t)
{
	union {
		struct fiemap f;
		char room[sizeof(struct fiemap) + 64 * sizeof(struct fiemap_extent)];
	} u = { .f = { .fm_length = UINT64_MAX, .fm_extent_count = 64 } };

	if (t->kind != DO_SEEK || file_ops->ioctl(sim->fds[t->fd], FS_IOC_FIEMAP, &u.f) < 0)
		return false;
	for (unsigned i = 0; i < u.f.fm_mapped_extents; i++)
		if (u.f.fm_extents[i].fe_flags & FIEMAP_EXTENT_UNWRITTEN)
			return true;
	return false;
}

static void print_step(unsigned i, const struct step *t, struct outcome a, struct outcome b)
{
	print_error("step %u: %s fd %u, %u, '%s' '%s' flags %u value %u, %llu+%llu\n", i, step_names[t->kind], t->fd, t->fd2,
		    t->name, t->name2, t->flags, t->value, (unsigned long long)t->offset, (unsigned long long)t->len);
	print_error("kernel %lld (%s) %llx, sim %lld (%s) %llx\n", (long long)a.rc, strerror(a.e), (unsigned long long)a.seen,
		    (long long)b.rc, strerror(b.e), (unsigned long long)b.seen);
}

static void the_kernel_answers_the_same(void **state)
{
	struct world real = { .dirfd = open(tree, O_RDONLY | O_DIRECTORY) }, made;
	struct sim_options o = { .no_reflink = !has_reflink(real.dirfd) };
	struct sim *s = sim_new(&o);
	unsigned steps = getenv("LONG") && *getenv("LONG") ? 200000 : 8000, nr_ok = 0;
	mode_t mask = umask(0);

	(void)state;
	if (geteuid() != 0) {
		printf("needs root, for leases and owners\n");
		umask(mask);
		skip();
	}
	signal(SIGIO, SIG_IGN);
	memset(real.fds, -1, sizeof(real.fds));
	made = real;
	made.dirfd = sim_root(s);
	for (unsigned i = 0; i < steps; i++) {
		struct step t = choose_step();
		struct outcome a, b;

		sim_use(NULL);
		a = make_step(&real, &t);
		sim_use(s);
		b = make_step(&made, &t);
		nr_ok += a.rc >= 0;
		if ((a.rc != b.rc || a.e != b.e || a.seen != b.seen) && !may_differ(&made, &t)) {
			print_step(i, &t, a, b);
			fail();
		}
	}
	assert_true(nr_ok > steps / 3);
	sim_free(s);
	for (unsigned i = 0; i < NR_FDS; i++)
		if (real.fds[i] >= 0)
			close(real.fds[i]);
	close(real.dirfd);
	umask(mask);
}

/* @MORE@ */

int main(void)
{
	const struct CMUnitTest tests[] = {
		tree_test(the_kernel_answers_the_same),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
