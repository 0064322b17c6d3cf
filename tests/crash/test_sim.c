/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include <linux/fiemap.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/ioctl.h>

#include "scanner/base/file.h"
#include "tests/crash/sim.h"

/* The simulated file system: against the kernel, call by call; then what it adds: faults, other processes, kills,
 * power cuts. */

/* ---- the same calls on the kernel ---- */

#define NR_FDS 5
#define FIRST 1000 /* descriptors of a sim are never mistaken for real ones */

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

enum {
	DO_OPEN,
	DO_CLOSE,
	DO_WRITE,
	DO_READ,
	DO_TRUNCATE,
	DO_ALLOCATE,
	DO_SEEK,
	DO_RENAME,
	DO_UNLINK,
	DO_MKDIR,
	DO_STAT,
	DO_STATAT,
	DO_LIST,
	DO_CHMOD,
	DO_CHOWN,
	DO_TIMES,
	DO_SETX,
	DO_GETX,
	DO_LISTX,
	DO_LEASE,
	DO_GETLEASE,
	DO_LOCK,
	DO_GETLOCK,
	DO_CLONE,
	DO_DEDUPE,
	DO_DUP,
	DO_SYNC,
	NR_DO
};
static const char *const step_names[NR_DO] = { "open",	 "close",  "write",    "read",	"truncate", "allocate",
					       "seek",	 "rename", "unlink",   "mkdir", "stat",	    "statat",
					       "list",	 "chmod",  "chown",    "times", "setx",	    "getx",
					       "listx",	 "lease",  "getlease", "lock",	"getlock",  "clone",
					       "dedupe", "dup",	   "sync" };

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
	static const int extras[] = {
		0,	 0,	      O_CREAT, O_CREAT,	 O_CREAT, O_CREAT | O_EXCL, O_CREAT | O_TRUNC,
		O_TRUNC, O_DIRECTORY, O_PATH,  O_TMPFILE
	};
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
		return file_ops->fchown(fd, t->value % 7 ? t->value % 7 : (uid_t)-1,
					t->flags % 7 ? t->flags % 7 : (gid_t)-1);
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
	static const char *const names[] = { "a",     "b",     "c",	 "d",	"e/a", "e/b", "e",   "f",   "f/g",
					     "f/g/a", "f/g/b", "e/../a", "a/b", "./c", "..x", "e/.", "no/a" };
	static const uint64_t offsets[] = {
		0, 0, 4096, 8192, 12288, 1, 511, 4095, 5000, 20480, 40000, 65536, UINT64_C(1) << 33
	};
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
	print_error("step %u: %s fd %u, %u, '%s' '%s' flags %u value %u, %llu+%llu\n", i, step_names[t->kind], t->fd,
		    t->fd2, t->name, t->name2, t->flags, t->value, (unsigned long long)t->offset,
		    (unsigned long long)t->len);
	print_error("kernel %lld (%s) %llx, sim %lld (%s) %llx\n", (long long)a.rc, strerror(a.e),
		    (unsigned long long)a.seen, (long long)b.rc, strerror(b.e), (unsigned long long)b.seen);
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

/* ---- for the rest: /d with a file "f" of three pages, on the disk ---- */

static struct sim *sim;
static int dir = -1;

static void put(const char *name, const void *data, size_t len, uint64_t offset)
{
	int fd = file_open(dir, name, O_RDWR | O_CREAT, 0600, NULL);

	assert_true(fd >= FIRST);
	assert_int_equal(file_write(fd, data, len, offset, NULL), 0);
	assert_int_equal(file_close(fd, name, NULL), 0);
}

static int make_sim(void **state)
{
	static char old[12288];

	(void)state;
	memset(old, 'o', sizeof(old));
	sim = sim_new(NULL);
	sim_use(sim);
	sim_outside(sim, true);
	file_mkdir(sim_root(sim), "d", 0700, NULL);
	dir = file_open(sim_root(sim), "d", O_RDONLY | O_DIRECTORY, 0, NULL);
	put("f", old, sizeof(old), 0);
	sim_outside(sim, false);
	sim_settle(sim);
	return dir < 0;
}

static int drop_sim(void **state)
{
	(void)state;
	sim_free(sim);
	assert_ptr_equal(file_ops, &file_ops_os);
	return 0;
}

static int open_f(int flags)
{
	int fd = file_open(dir, "f", flags, 0600, NULL);

	assert_true(fd >= FIRST);
	return fd;
}

static char byte_of(const struct sim *s, const char *path, uint64_t at)
{
	uint64_t len = 0;
	uint8_t *p = sim_content(s, path, &len);
	char c = p && at < len ? (char)p[at] : '-';

	free(p);
	return c;
}

static bool is_there(const struct sim *s, const char *path)
{
	struct stat st;

	return sim_stat(s, path, &st) == 0;
}

#define sim_test(f) cmocka_unit_test_setup_teardown(f, make_sim, drop_sim)

/* ---- faults ---- */

static void a_failing_call_does_nothing(void **state)
{
	int fd = open_f(O_RDWR);

	(void)state;
	sim_set_fault_of(sim, SIM_WRITE, (struct sim_fault){ .at = 2, .errnum = ENOSPC });
	assert_int_equal(file_ops->pwrite(fd, "a", 1, 0), 1);
	assert_int_equal(file_ops->pwrite(fd, "b", 1, 1), -1);
	assert_int_equal(errno, ENOSPC);
	assert_int_equal(file_ops->pwrite(fd, "c", 1, 2), 1);
	assert_int_equal(byte_of(sim, "/d/f", 0), 'a');
	assert_int_equal(byte_of(sim, "/d/f", 1), 'o');
	assert_int_equal(byte_of(sim, "/d/f", 2), 'c');
	sim_set_fault_of(sim, SIM_WRITE, (struct sim_fault){ .at = 4, .errnum = EIO, .for_good = true });
	assert_int_equal(file_ops->pwrite(fd, "b", 1, 1), -1);
	assert_int_equal(file_ops->pwrite(fd, "b", 1, 1), -1);
	assert_int_equal(sim_call_kind(sim, sim_nr_calls(sim)), SIM_WRITE);
	sim_set_fault(sim, (struct sim_fault){ .at = sim_nr_calls(sim) + 1, .errnum = EACCES });
	assert_int_equal(file_ops->unlinkat(dir, "f", 0), -1);
	assert_int_equal(errno, EACCES);
	assert_true(is_there(sim, "/d/f"));
}

static void short_transfers_move_half(void **state)
{
	char buf[8] = "";
	int fd = open_f(O_RDWR);

	(void)state;
	sim_set_fault_of(sim, SIM_WRITE, (struct sim_fault){ .at = 1, .how = SIM_SHORT });
	sim_set_fault_of(sim, SIM_READ, (struct sim_fault){ .at = 1, .how = SIM_SHORT });
	assert_int_equal(file_ops->pwrite(fd, "abcdef", 6, 0), 3);
	assert_int_equal(file_ops->pread(fd, buf, 6, 0), 3);
	assert_string_equal(buf, "abc");
	assert_int_equal(file_ops->pread(fd, buf, 6, 0), 6);
	assert_string_equal(buf, "abcooo");
}

static void a_lie_is_seen_once_the_cache_is_dropped(void **state)
{
	int fd = open_f(O_RDWR);

	(void)state;
	sim_set_fault_of(sim, SIM_WRITE, (struct sim_fault){ .at = 1, .how = SIM_LIE });
	assert_int_equal(file_write(fd, "abcd", 4, 0, NULL), 0);
	assert_int_equal(file_write(fd, "wxyz", 4, 100, NULL), 0);
	assert_int_equal(file_sync(fd, "f", NULL), 0);
	assert_int_equal(byte_of(sim, "/d/f", 0), 'a');
	assert_int_equal(file_drop_cache(fd, NULL), 0);
	assert_int_equal(byte_of(sim, "/d/f", 0), 'o');
	assert_int_equal(byte_of(sim, "/d/f", 100), 'w');
}

static void a_bit_is_wrong_once_the_cache_is_dropped(void **state)
{
	char buf[4];
	int fd = open_f(O_RDWR);

	(void)state;
	sim_set_fault_of(sim, SIM_WRITE, (struct sim_fault){ .at = 1, .how = SIM_FLIP });
	sim_set_fault_of(sim, SIM_READ, (struct sim_fault){ .at = 2, .how = SIM_FLIP });
	assert_int_equal(file_write(fd, "abcd", 4, 0, NULL), 0);
	assert_int_equal(file_read(fd, buf, 4, 0, NULL), 0);
	assert_memory_equal(buf, "abcd", 4);
	assert_int_equal(file_read(fd, buf, 4, 0, NULL), 0);
	assert_memory_equal(buf, "absd", 4);
	assert_int_equal(file_drop_cache(fd, NULL), 0);
	assert_int_equal(file_read(fd, buf, 4, 0, NULL), 0);
	assert_memory_equal(buf, "absd", 4);
}

static int never_new(void *ctx, struct sim *s, const struct sim_cut *cut)
{
	(void)ctx;
	(void)cut;
	return byte_of(s, "/d/f", 0) == 'n';
}

static void a_failed_sync_loses_the_data_for_good(void **state)
{
	uint64_t nr;
	int fd = open_f(O_RDWR);

	(void)state;
	sim_set_fault_of(sim, SIM_FDATASYNC, (struct sim_fault){ .at = 1, .errnum = EIO });
	assert_int_equal(file_write(fd, "new", 3, 0, NULL), 0);
	assert_int_equal(file_sync(fd, "f", NULL), -1);
	assert_int_equal(file_sync(fd, "f", NULL), 0);
	assert_int_equal(byte_of(sim, "/d/f", 0), 'n');
	assert_int_equal(sim_states(sim, NULL, never_new, NULL, &nr), 0);
	assert_true(nr > 0);
	assert_int_equal(file_drop_cache(fd, NULL), 0);
	assert_int_equal(byte_of(sim, "/d/f", 0), 'o');
	assert_int_equal(file_write(fd, "new", 3, 0, NULL), 0);
	assert_int_equal(sim_states(sim, NULL, never_new, NULL, NULL), 1);
}

static void a_full_disk_takes_what_fits(void **state)
{
	struct sim_options o = { .nr_blocks = 4 };
	struct sim *s = sim_new(&o);
	static char buf[20480];
	struct statfs st;
	int fd;

	(void)state;
	sim_use(s);
	fd = file_open(sim_root(s), "x", O_RDWR | O_CREAT, 0600, NULL);
	assert_int_equal(file_ops->pwrite(fd, buf, sizeof(buf), 100), 16284);
	assert_int_equal(file_ops->pwrite(fd, buf, 1, 20000), -1);
	assert_int_equal(errno, ENOSPC);
	assert_int_equal(file_ops->pwrite(fd, buf, 100, 0), 100);
	assert_int_equal(file_ops->fallocate(fd, 0, 16384, 4096), -1);
	assert_int_equal(file_ops->fstatfs(fd, &st), 0);
	assert_int_equal(st.f_bavail, 0);
	assert_int_equal(file_punch(fd, 0, 8192, NULL), 0);
	assert_int_equal(file_ops->fstatfs(fd, &st), 0);
	assert_int_equal(st.f_bavail, 2);
	sim_free(s);
	sim_use(sim);
}

/* ---- another process ---- */

struct other {
	int fd;
	unsigned nr_granted;
};

static void write_late(void *ctx, struct sim *s, int fd)
{
	struct other *o = ctx;

	(void)s;
	o->fd = fd;
	o->nr_granted++;
	assert_int_equal(file_write(fd, "late", 4, 0, NULL), 0);
}

static void who_waits_for_a_lease_gets_the_old_file(void **state)
{
	struct other o = { .fd = -1 };
	int fd = open_f(O_RDWR);

	(void)state;
	put("new", "new", 3, 0);
	assert_int_equal(file_ops->fcntl(fd, F_SETLEASE, (void *)F_WRLCK), 0);
	assert_int_equal(file_ops->fcntl(fd, F_GETLEASE, NULL), F_WRLCK);
	assert_int_equal(sim_visit(sim, "/d/f", O_RDWR, write_late, &o), -1);
	assert_int_equal(file_ops->fcntl(fd, F_GETLEASE, NULL), F_UNLCK);
	assert_int_equal(file_rename_to(dir, "f", dir, "new", RENAME_EXCHANGE, NULL), 0);
	assert_int_equal(o.nr_granted, 0);
	assert_int_equal(file_ops->fcntl(fd, F_SETLEASE, (void *)F_UNLCK), 0);
	assert_int_equal(o.nr_granted, 1);
	assert_int_equal(byte_of(sim, "/d/new", 0), 'l');
	assert_int_equal(byte_of(sim, "/d/f", 0), 'n');
	assert_int_equal(file_ops->fcntl(fd, F_SETLEASE, (void *)F_WRLCK), -1);
	assert_int_equal(errno, EAGAIN);
	sim_outside(sim, true);
	assert_int_equal(file_close(o.fd, "f", NULL), 0);
	sim_outside(sim, false);
	assert_int_equal(file_ops->fcntl(fd, F_SETLEASE, (void *)F_WRLCK), 0);
}

static void a_reader_leaves_a_read_lease(void **state)
{
	struct other o = { .fd = -1 };
	int fd = open_f(O_RDWR);

	(void)state;
	assert_int_equal(file_ops->fcntl(fd, F_SETLEASE, (void *)F_WRLCK), 0);
	assert_int_equal(sim_visit(sim, "/d/f", O_RDONLY, NULL, &o), -1);
	assert_int_equal(file_ops->fcntl(fd, F_GETLEASE, NULL), F_RDLCK);
	sim_break_leases(sim);
	assert_int_equal(file_ops->fcntl(fd, F_GETLEASE, NULL), F_RDLCK);
	assert_int_equal(sim_visit(sim, "/d/nothing", O_RDONLY, NULL, NULL), -2);
}

static void a_process_that_waits_for_itself_is_counted(void **state)
{
	int fd = open_f(O_RDWR), again;

	(void)state;
	assert_int_equal(file_ops->fcntl(fd, F_SETLEASE, (void *)F_WRLCK), 0);
	again = file_ops->openat(dir, "f", O_RDWR | O_NONBLOCK, 0);
	assert_int_equal(again, -1);
	assert_int_equal(errno, EAGAIN);
	assert_int_equal(sim_nr_self_waits(sim), 0);
	again = open_f(O_RDONLY);
	assert_int_equal(sim_nr_self_waits(sim), 1);
	assert_int_equal(sim_nr_open(sim), 2);
	file_close(again, "f", NULL);
	assert_int_equal(sim_nr_open(sim), 1);
}

static void count_hook(void *ctx, struct sim *s)
{
	(void)s;
	put("made", "x", 1, 0);
	++*(unsigned *)ctx;
}

static void others_act_before_and_after_a_call(void **state)
{
	unsigned before = 0, after = 0;
	struct stat st;

	(void)state;
	sim_before(sim, 2, count_hook, &before);
	assert_int_equal(file_ops->fstatat(dir, "made", &st, 0), -1);
	assert_int_equal(file_ops->fstatat(dir, "made", &st, 0), 0);
	assert_int_equal(before, 1);
	assert_int_equal(file_unlink(dir, "made", NULL), 0);
	sim_after(sim, 1, count_hook, &after);
	assert_int_equal(file_ops->fstatat(dir, "made", &st, 0), -1);
	assert_int_equal(file_ops->fstatat(dir, "made", &st, 0), 0);
	assert_int_equal(after, 1);
	assert_int_equal(sim_nr_calls(sim), 5);
}

/* ---- kills ---- */

static void after_a_kill_nothing_is_done_and_nothing_is_held(void **state)
{
	struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1 };
	struct stat st;
	int fd = open_f(O_RDWR);

	(void)state;
	assert_int_equal(file_ops->fcntl(fd, F_OFD_SETLK, &l), 0);
	sim_kill_at(sim, 2);
	assert_int_equal(file_write(fd, "abc", 3, 0, NULL), 0);
	assert_int_equal(file_ops->fstat(fd, &st), 0);
	assert_int_equal(file_unlink(dir, "f", NULL), -1);
	assert_int_equal(errno, EIO);
	assert_int_equal(file_ops->fstat(fd, &st), -1);
	assert_true(sim_killed(sim));
	assert_int_equal(sim_nr_open(sim), 1);
	sim_restart(sim);
	assert_int_equal(sim_nr_open(sim), 0);
	fd = open_f(O_RDWR);
	l = (struct flock){ .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1 };
	assert_int_equal(file_ops->fcntl(fd, F_OFD_GETLK, &l), 0);
	assert_int_equal(l.l_type, F_UNLCK);
	assert_int_equal(byte_of(sim, "/d/f", 0), 'a');
	assert_true(sim_was_opened(sim, "/d/f"));
	assert_false(sim_was_opened(sim, "/d/nothing"));
	sim_settle(sim);
	assert_false(sim_was_opened(sim, "/d/f"));
}

/* ---- power cuts ---- */

/* Collects which of some conditions were seen, of all states and of those at the end. */
struct seen {
	unsigned (*look)(const struct sim *s);
	unsigned all, at_end, nr;
};

static int collect(void *ctx, struct sim *s, const struct sim_cut *cut)
{
	struct seen *seen = ctx;
	unsigned bit = 1u << seen->look(s);

	seen->nr++;
	seen->all |= bit;
	seen->at_end |= cut->at_end ? bit : 0;
	return 0;
}

static struct seen see(unsigned (*look)(const struct sim *s), const struct sim_cuts *o)
{
	struct seen seen = { .look = look };
	uint64_t nr;

	assert_int_equal(sim_states(sim, o, collect, &seen, &nr), 0);
	assert_int_equal(nr, seen.nr);
	return seen;
}

static unsigned look_names(const struct sim *s)
{
	return (unsigned)is_there(s, "/d/g") + 2 * (unsigned)is_there(s, "/d/h");
}

/* A8 */
static void a_sync_of_a_new_file_does_not_save_its_name(void **state)
{
	int fd = file_open(dir, "g", O_RDWR | O_CREAT, 0600, NULL);
	struct sim_cuts kept = { .sync_keeps_name = true };

	(void)state;
	assert_int_equal(file_ops->fsync(fd), 0);
	assert_int_equal(see(look_names, NULL).at_end, 1 << 0 | 1 << 1);
	assert_int_equal(see(look_names, &kept).at_end, 1 << 1);
	assert_int_equal(file_sync_dir(dir, NULL), 0);
	assert_int_equal(see(look_names, NULL).at_end, 1 << 1);
	assert_int_equal(see(look_names, NULL).all, 1 << 0 | 1 << 1);
}

static void a_rename_is_one_thing_and_rests_on_the_file(void **state)
{
	struct sim_cuts weak = { .weak_renames = true };

	(void)state;
	put("g", "x", 1, 0);
	assert_int_equal(file_rename(dir, "g", "h", NULL), 0);
	assert_int_equal(see(look_names, NULL).all, 1 << 0 | 1 << 1 | 1 << 2);
	assert_int_equal(see(look_names, &weak).all, 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3);
	assert_int_equal(file_sync_dir(dir, NULL), 0);
	assert_int_equal(see(look_names, NULL).at_end, 1 << 2);
}

static unsigned look_moved(const struct sim *s)
{
	return (unsigned)is_there(s, "/d/f") + 2 * (unsigned)is_there(s, "/e/f");
}

static void a_sync_of_either_directory_saves_a_rename(void **state)
{
	int other;

	(void)state;
	assert_int_equal(file_mkdir(sim_root(sim), "e", 0700, NULL), 0);
	assert_int_equal(file_sync_dir(sim_root(sim), NULL), 0);
	other = file_open(sim_root(sim), "e", O_RDONLY | O_DIRECTORY, 0, NULL);
	assert_int_equal(file_rename_to(dir, "f", other, "f", 0, NULL), 0);
	assert_int_equal(see(look_moved, NULL).at_end, 1 << 1 | 1 << 2);
	assert_int_equal(file_sync_dir(other, NULL), 0);
	assert_int_equal(see(look_moved, NULL).at_end, 1 << 2);
	assert_int_equal(file_rename_to(other, "f", dir, "f", 0, NULL), 0);
	assert_int_equal(file_sync_dir(other, NULL), 0);
	assert_int_equal(see(look_moved, NULL).at_end, 1 << 1);
}

static unsigned look_exchanged(const struct sim *s)
{
	return (unsigned)(byte_of(s, "/d/f", 0) == 'n') + 2 * (unsigned)(byte_of(s, "/d/g", 0) == 'o');
}

static void an_exchange_is_one_thing(void **state)
{
	int fd;

	(void)state;
	put("g", "n", 1, 0);
	fd = file_open(dir, "g", O_RDWR, 0, NULL);
	assert_int_equal(file_sync(fd, "g", NULL), 0);
	assert_int_equal(file_sync_dir(dir, NULL), 0);
	assert_int_equal(file_rename_to(dir, "f", dir, "g", RENAME_EXCHANGE, NULL), 0);
	assert_int_equal(see(look_exchanged, NULL).all, 1 << 0 | 1 << 3);
}

static unsigned look_unlinked(const struct sim *s)
{
	return (unsigned)is_there(s, "/d/f") + 2 * (unsigned)(byte_of(s, "/d/g", 0) == 'n');
}

static void names_may_be_there_before_data(void **state)
{
	struct seen seen;

	(void)state;
	put("g", "n", 1, 0);
	assert_int_equal(file_unlink(dir, "f", NULL), 0);
	assert_int_equal(file_sync_dir(dir, NULL), 0);
	seen = see(look_unlinked, NULL);
	assert_int_equal(seen.at_end, 1 << 0 | 1 << 2); /* both gone */
	assert_int_equal(seen.all, 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3);
}

static unsigned look_attributes(const struct sim *s)
{
	struct stat st = { 0 };

	sim_stat(s, "/d/f", &st);
	return (unsigned)(st.st_mode & 1) + 2 * (unsigned)(byte_of(s, "/d/f", 0) == 'n') +
	       4 * (unsigned)(st.st_uid == 7);
}

static void a_datasync_saves_data_and_no_attributes(void **state)
{
	int fd = open_f(O_RDWR);

	(void)state;
	assert_int_equal(file_ops->fchmod(fd, 0601), 0);
	assert_int_equal(file_ops->fchown(fd, 7, 7), 0);
	assert_int_equal(file_write(fd, "new", 3, 0, NULL), 0);
	assert_int_equal(file_ops->fdatasync(fd), 0);
	assert_int_equal(see(look_attributes, NULL).at_end & (1 << 0 | 1 << 1 | 1 << 4 | 1 << 5), 0);
	assert_int_equal(see(look_attributes, NULL).at_end & (1 << 2 | 1 << 7), 1 << 2 | 1 << 7);
	assert_int_equal(file_ops->fsync(fd), 0);
	assert_int_equal(see(look_attributes, NULL).at_end, 1 << 7);
}

static unsigned look_torn(const struct sim *s)
{
	static const unsigned at[] = { 300, 700, 3500, 4500 };
	unsigned seen = 0;

	for (unsigned i = 0; i < 4; i++)
		seen |= (unsigned)(byte_of(s, "/d/f", at[i]) == 'n') << i;
	return seen;
}

static void writes_are_torn_between_sectors_and_pages(void **state)
{
	char buf[6000];
	int fd = open_f(O_RDWR);

	(void)state;
	memset(buf, 'n', sizeof(buf));
	assert_int_equal(file_write(fd, buf, sizeof(buf), 200, NULL), 0);
	/* cut at 512, at 3072 and at 4096 */
	assert_int_equal(see(look_torn, NULL).all,
			 1 << 0 | 1 << 15 | 1 << 1 | 1 << 14 | 1 << 3 | 1 << 12 | 1 << 7 | 1 << 8);
	assert_int_equal(file_sync(fd, "f", NULL), 0);
	assert_int_equal(see(look_torn, NULL).at_end, 1 << 15);
}

static unsigned look_tail(const struct sim *s)
{
	char c = byte_of(s, "/d/f", 12288);

	return c == '-' ? 0 : c == 'n' ? 1 : c ? 3 : 2;
}

/* A9 */
static void a_size_may_be_there_without_the_data(void **state)
{
	int fd = open_f(O_RDWR);

	(void)state;
	assert_int_equal(file_write(fd, "new", 3, 12288, NULL), 0);
	assert_int_equal(see(look_tail, NULL).all, 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3);
	sim_set_fault_of(sim, SIM_FDATASYNC, (struct sim_fault){ .at = 1, .how = SIM_LIE });
	assert_int_equal(file_sync(fd, "f", NULL), 0);
	assert_int_equal(see(look_tail, NULL).at_end, 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3);
	assert_int_equal(file_sync(fd, "f", NULL), 0);
	assert_int_equal(see(look_tail, NULL).at_end, 1 << 1);
}

static unsigned look_writes(const struct sim *s)
{
	static const unsigned at[] = { 0, 4096, 8192, 1000 };
	unsigned seen = 0;

	for (unsigned i = 0; i < 4; i++)
		seen |= (unsigned)(byte_of(s, "/d/f", at[i]) == 'n') << i;
	return seen;
}

static void any_of_some_writes_may_be_lost(void **state)
{
	static const unsigned at[] = { 0, 4096, 8192, 1000 };
	struct sim_cuts few = { .pairs_max = 1 };
	int fd = open_f(O_RDWR);

	(void)state;
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(file_write(fd, "n", 1, at[i], NULL), 0);
	assert_int_equal(see(look_writes, NULL).at_end, 0xffff);
	assert_true(see(look_writes, &few).nr < see(look_writes, NULL).nr);
	sim_settle(sim);
	assert_int_equal(see(look_writes, NULL).all, 1 << 15);
}

static unsigned look_sorts(const struct sim *s)
{
	unsigned names = (unsigned)is_there(s, "/d/g") + is_there(s, "/d/h") + is_there(s, "/d/k");
	unsigned written = 0;

	for (unsigned i = 0; i < 4; i++)
		written += byte_of(s, "/d/f", i * 4096) == 'n';
	if (names == 3 && !written && byte_of(s, "/d/f", 12288) == '-') /* not even the size */
		return 1;
	return names == 0 && written == 4 ? 2 : 0;
}

static void all_names_may_be_there_and_no_data_and_the_other_way_round(void **state)
{
	int fd = open_f(O_RDWR);

	(void)state;
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(file_write(fd, "n", 1, i * 4096, NULL), 0);
	for (const char *name = "ghk"; *name; name++)
		put((char[2]){ *name }, "", 0, 0);
	assert_int_equal(see(look_sorts, NULL).at_end, 1 << 0 | 1 << 1 | 1 << 2);
}

static void a_rename_that_was_saved_saves_what_it_rests_on(void **state)
{
	int other;

	(void)state;
	assert_int_equal(file_mkdir(sim_root(sim), "e", 0700, NULL), 0);
	assert_int_equal(file_sync_dir(sim_root(sim), NULL), 0);
	other = file_open(sim_root(sim), "e", O_RDONLY | O_DIRECTORY, 0, NULL);
	put("g", "x", 1, 0);
	assert_int_equal(file_rename_to(dir, "g", other, "f", 0, NULL), 0);
	assert_int_equal(file_sync_dir(other, NULL), 0);
	assert_int_equal(see(look_moved, NULL).at_end, 1 << 3);
}

static void an_inode_number_is_given_again_only_when_it_is_free(void **state)
{
	struct stat old, new;

	(void)state;
	assert_int_equal(sim_stat(sim, "/d/f", &old), 0);
	assert_int_equal(file_unlink(dir, "f", NULL), 0);
	put("g", "n", 1, 0);
	assert_int_equal(sim_stat(sim, "/d/g", &new), 0);
	assert_int_equal(old.st_ino, new.st_ino);
	assert_int_equal(see(look_unlinked, NULL).all & (1 << 3), 0);
}

static void the_log_tells_and_can_be_changed(void **state)
{
	int fd = open_f(O_RDWR);
	char *log;

	(void)state;
	assert_int_equal(file_write(fd, "n", 1, 0, NULL), 0);
	assert_int_equal(file_sync(fd, "f", NULL), 0);
	log = sim_log(sim);
	assert_non_null(strstr(log, "write /d/f 0+1\n"));
	free(log);
	assert_int_equal(sim_log_len(sim), 2);
	assert_int_equal(sim_log_find(sim, "datasync /d/f", 0), 1);
	assert_int_equal(sim_log_find(sim, "datasync /d/f", 1), UINT_MAX);
	assert_int_equal(see(look_writes, NULL).at_end, 1 << 1);
	sim_log_move(sim, 1, 0);
	assert_int_equal(see(look_writes, NULL).at_end, 1 << 0 | 1 << 1);
	sim_log_move(sim, 0, 2);
	assert_int_equal(see(look_writes, NULL).at_end, 1 << 1);
}

/* ---- shared blocks ---- */

static unsigned shared_pages(int fd)
{
	union {
		struct fiemap f;
		char room[sizeof(struct fiemap) + 8 * sizeof(struct fiemap_extent)];
	} u = { .f = { .fm_length = UINT64_MAX, .fm_extent_count = 8 } };
	unsigned nr = 0;

	assert_int_equal(file_ops->ioctl(fd, FS_IOC_FIEMAP, &u.f), 0);
	for (unsigned i = 0; i < u.f.fm_mapped_extents; i++)
		if (u.f.fm_extents[i].fe_flags & FIEMAP_EXTENT_SHARED)
			nr += (unsigned)(u.f.fm_extents[i].fe_length / 4096);
	return nr;
}

static void shared_blocks_are_copied_when_written(void **state)
{
	int fd = open_f(O_RDWR), g = file_open(dir, "g", O_RDWR | O_CREAT, 0600, NULL);
	struct statfs before, after;

	(void)state;
	file_ops->fstatfs(fd, &before);
	assert_int_equal(file_clone(fd, 0, 12288, g, 0, NULL), 0);
	assert_int_equal(shared_pages(g), 3);
	assert_int_equal(byte_of(sim, "/d/g", 12287), 'o');
	assert_int_equal(file_write(g, "n", 1, 4096, NULL), 0);
	assert_int_equal(byte_of(sim, "/d/g", 4096), 'n');
	assert_int_equal(byte_of(sim, "/d/f", 4096), 'o');
	assert_int_equal(shared_pages(g), 2);
	file_ops->fstatfs(fd, &after);
	assert_true(after.f_bfree >= before.f_bfree - 1);
}

static void only_equal_blocks_are_deduplicated(void **state)
{
	struct step t = { .len = 8192 };
	int fd = open_f(O_RDWR), g = file_open(dir, "g", O_RDWR | O_CREAT, 0600, NULL);
	static char old[8192];
	uint64_t seen = 0;

	(void)state;
	memset(old, 'o', sizeof(old));
	assert_int_equal(file_write(g, old, sizeof(old), 0, NULL), 0);
	assert_int_equal(dedupe(fd, g, &t, &seen), 0);
	assert_int_equal(seen, 8192);
	assert_int_equal(shared_pages(g), 2);
	assert_int_equal(file_write(g, "n", 1, 4096, NULL), 0);
	assert_int_equal(dedupe(fd, g, &t, &seen), 0);
	assert_int_equal(seen, (uint64_t)FILE_DEDUPE_RANGE_DIFFERS << 32);
	assert_int_equal(byte_of(sim, "/d/g", 4096), 'n');
}

static void a_hole_may_begin_and_end_within_a_page(void **state)
{
	int fd = open_f(O_RDWR);

	(void)state;
	assert_int_equal(file_punch(fd, 100, 8900, NULL), 0);
	assert_int_equal(byte_of(sim, "/d/f", 99), 'o');
	assert_int_equal(byte_of(sim, "/d/f", 100), 0);
	assert_int_equal(byte_of(sim, "/d/f", 8999), 0);
	assert_int_equal(byte_of(sim, "/d/f", 9000), 'o');
	assert_int_equal(file_ops->lseek(fd, 0, SEEK_HOLE), 4096);
	assert_int_equal(file_ops->lseek(fd, 4096, SEEK_DATA), 8192);
}

static void flags_and_projects_are_kept(void **state)
{
	struct fsxattr x = { 0 };
	int fd = open_f(O_RDWR), flags = FS_IMMUTABLE_FL | FS_NOCOW_FL, got = 0;

	(void)state;
	assert_int_equal(file_ops->ioctl(fd, FS_IOC_FSGETXATTR, &x), 0);
	x.fsx_projid = 42;
	assert_int_equal(file_ops->ioctl(fd, FS_IOC_FSSETXATTR, &x), 0);
	assert_int_equal(file_ops->ioctl(fd, FS_IOC_SETFLAGS, &flags), 0);
	assert_int_equal(file_ops->ioctl(fd, FS_IOC_GETFLAGS, &got), 0);
	assert_int_equal(got, flags);
	assert_int_equal(file_ops->ioctl(fd, FS_IOC_FSGETXATTR, &x), 0);
	assert_int_equal(x.fsx_projid, 42);
	assert_true(x.fsx_xflags & FS_XFLAG_IMMUTABLE);
	assert_int_equal(file_unlink(dir, "f", NULL), -1);
	assert_int_equal(errno, EPERM);
	assert_int_equal(file_ops->openat(dir, "f", O_RDWR, 0), -1);
	assert_int_equal(file_ops->pwrite(fd, "x", 1, 0), -1);
	assert_int_equal(errno, EPERM);
	assert_int_equal(file_ops->renameat2(dir, "f", dir, "g", 0), -1);
	assert_int_equal(file_ops->fchmod(fd, 0600), -1);
	flags = FS_NOCOW_FL;
	assert_int_equal(file_ops->ioctl(fd, FS_IOC_SETFLAGS, &flags), 0);
	assert_int_equal(file_ops->pwrite(fd, "x", 1, 0), 1);
	assert_int_equal(file_unlink(dir, "f", NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		tree_test(the_kernel_answers_the_same),
		sim_test(a_failing_call_does_nothing),
		sim_test(short_transfers_move_half),
		sim_test(a_lie_is_seen_once_the_cache_is_dropped),
		sim_test(a_bit_is_wrong_once_the_cache_is_dropped),
		sim_test(a_failed_sync_loses_the_data_for_good),
		sim_test(a_full_disk_takes_what_fits),
		sim_test(who_waits_for_a_lease_gets_the_old_file),
		sim_test(a_reader_leaves_a_read_lease),
		sim_test(a_process_that_waits_for_itself_is_counted),
		sim_test(others_act_before_and_after_a_call),
		sim_test(after_a_kill_nothing_is_done_and_nothing_is_held),
		sim_test(a_sync_of_a_new_file_does_not_save_its_name),
		sim_test(a_rename_is_one_thing_and_rests_on_the_file),
		sim_test(a_sync_of_either_directory_saves_a_rename),
		sim_test(a_rename_that_was_saved_saves_what_it_rests_on),
		sim_test(an_exchange_is_one_thing),
		sim_test(names_may_be_there_before_data),
		sim_test(a_datasync_saves_data_and_no_attributes),
		sim_test(writes_are_torn_between_sectors_and_pages),
		sim_test(a_size_may_be_there_without_the_data),
		sim_test(any_of_some_writes_may_be_lost),
		sim_test(all_names_may_be_there_and_no_data_and_the_other_way_round),
		sim_test(an_inode_number_is_given_again_only_when_it_is_free),
		sim_test(the_log_tells_and_can_be_changed),
		sim_test(shared_blocks_are_copied_when_written),
		sim_test(only_equal_blocks_are_deduplicated),
		sim_test(a_hole_may_begin_and_end_within_a_page),
		sim_test(flags_and_projects_are_kept),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
