/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/crash/sim.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#include "tests/crash/sim_parts.h"

/* The life of a simulator and the calls of the seam.
 *
 * Each call is do_NAME(), which knows nothing of counts, faults and kills, within CALLED(), which does: enter()
 * counts, runs what is to run before it, and says whether it may begin; leave() runs what is to run after
 * it.  Whatever changes files becomes an op, which sim_do() applies and logs. */

static struct sim *now; /* what file_ops works on */
static const struct file_ops sim_ops;

static int fail(int e)
{
	errno = e;
	return -1;
}

/* ---- life ---- */

struct sim *sim_new(const struct sim_options *o)
{
	struct sim *s = sim_alloc(sizeof(*s));

	if (o)
		s->o = *o;
	if (!s->o.nr_blocks)
		s->o.nr_blocks = 1 << 20;
	s->clock = INT64_C(1700000000000000000);
	state_init(&s->live);
	state_copy(&s->base, &s->live);
	sim_new_fd(s, ROOT_NODE, O_RDONLY | O_DIRECTORY);
	s->fds.items[0]->outside = true;
	return s;
}

struct sim *sim_of(const struct sim *like, const struct state *st)
{
	struct sim *s = sim_alloc(sizeof(*s));

	s->o = like->o;
	s->clock = like->clock;
	state_copy(&s->live, st);
	state_mount(&s->live);
	state_copy(&s->base, &s->live);
	sim_new_fd(s, ROOT_NODE, O_RDONLY | O_DIRECTORY);
	s->fds.items[0]->outside = true;
	return s;
}

struct sim *sim_clone(const struct sim *s)
{
	return sim_of(s, &s->live);
}

static void drop_log(struct sim *s)
{
	for (size_t i = 0; i < s->log.nr; i++)
		op_release(&s->log.items[i]);
	s->log.nr = 0;
}

void sim_free(struct sim *s)
{
	if (!s)
		return;
	if (now == s)
		sim_use(NULL);
	drop_log(s);
	vec_release(&s->log);
	for (size_t i = 0; i < s->fds.nr; i++)
		if (s->fds.items[i] && --s->fds.items[i]->refs == 0)
			free(s->fds.items[i]);
	vec_release(&s->fds);
	vec_release(&s->locks);
	vec_release(&s->visitors);
	vec_release(&s->hooks);
	vec_release(&s->calls);
	vec_release(&s->touched);
	state_release(&s->live);
	state_release(&s->base);
	free(s);
}

void sim_use(struct sim *s)
{
	now = s;
	file_ops = s ? &sim_ops : &file_ops_os;
}

int sim_root(const struct sim *s)
{
	(void)s;
	return FIRST_FD;
}

static void count_anew(struct sim *s)
{
	s->calls.nr = 0;
	s->nr_changes = s->kill_at = 0;
	s->killed = false;
	memset(s->nr_of, 0, sizeof(s->nr_of));
	memset(&s->fault, 0, sizeof(s->fault));
	memset(s->fault_of, 0, sizeof(s->fault_of));
	s->hooks.nr = 0;
}

void sim_settle(struct sim *s)
{
	drop_log(s);
	state_release(&s->base);
	state_copy(&s->base, &s->live);
	count_anew(s);
	s->nr_self_waits = 0;
	s->touched.nr = 0;
}

bool sim_outside(struct sim *s, bool outside)
{
	bool was = s->outside;

	s->outside = outside;
	return was;
}

unsigned sim_do(struct sim *s, struct op op)
{
	op.now = s->clock += 1000;
	if (s->o.granule_ns)
		op.now -= op.now % (int64_t)s->o.granule_ns;
	op.call = s->outside ? 0 : (unsigned)s->calls.nr;
	op.lost = s->fault_hit && s->hit.how == SIM_LIE;
	state_apply(&s->live, &op, HOW_ALL, 0);
	if (s->fault_hit && s->hit.how == SIM_FLIP && op.kind == OP_WRITE) {
		op.data[op.len / 2] ^= 0x10;
		op.flipped = true;
	}
	if (vec_push(&s->log, op) < 0)
		abort();
	return (unsigned)s->log.nr - 1;
}

/* What the disk would give: everything again, but for what never got there. */
void sim_reread(struct sim *s, unsigned node)
{
	struct state st;
	struct node *n;
	bool differs = false;

	for (size_t i = 0; i < s->log.nr; i++)
		differs |= s->log.items[i].node == node && (s->log.items[i].lost || s->log.items[i].flipped);
	if (!differs)
		return;
	state_copy(&st, &s->base);
	for (size_t i = 0; i < s->log.nr; i++)
		if (!s->log.items[i].lost)
			state_apply(&st, &s->log.items[i], HOW_ALL, 0);
	n = node_get(&st, node);
	if (n) {
		struct node *old = node_get(&s->live, node);
		unsigned nlink = old->nlink;

		n->refs++;
		node_drop(&s->live, node);
		s->live.nodes.items[node] = n;
		s->live.used += n->pages.nr;
		node_change(&s->live, node)->nlink = nlink;
	}
	state_release(&st);
}

void sim_drop_caches(struct sim *s)
{
	bool differs = false;

	for (size_t i = 0; i < s->log.nr; i++)
		differs |= s->log.items[i].lost || s->log.items[i].flipped;
	if (!differs)
		return;
	for (unsigned i = 0; i < s->live.nodes.nr; i++)
		if (node_get(&s->live, i) && S_ISREG(node_get(&s->live, i)->a.mode))
			sim_reread(s, i);
}

bool sim_has_space(const struct sim *s, uint64_t pages)
{
	return s->live.used + pages <= s->o.nr_blocks;
}

/* ---- descriptors ---- */

struct opened *sim_opened(const struct sim *s, int fd)
{
	struct opened *o = fd >= FIRST_FD && (size_t)(fd - FIRST_FD) < s->fds.nr ? s->fds.items[fd - FIRST_FD] : NULL;

	if (!o)
		errno = EBADF;
	return o;
}

static int place_fd(struct sim *s, struct opened *o)
{
	size_t i;

	for (i = 0; i < s->fds.nr; i++)
		if (!s->fds.items[i]) {
			s->fds.items[i] = o;
			return FIRST_FD + (int)i;
		}
	if (vec_push(&s->fds, o) < 0)
		abort();
	return FIRST_FD + (int)i;
}

int sim_new_fd(struct sim *s, unsigned node, int flags)
{
	struct opened *o = sim_alloc(sizeof(*o));

	*o = (struct opened){ .refs = 1, .node = node, .flags = flags, .outside = s->outside, .lease = F_UNLCK,
			      .breaking = F_UNLCK };
	while (s->touched.nr <= node)
		if (vec_push(&s->touched, false) < 0)
			abort();
	if (!s->outside && !(flags & O_PATH))
		s->touched.items[node] = true;
	return place_fd(s, o);
}

void sim_forget(struct sim *s, unsigned node)
{
	const struct node *n = node_get(&s->live, node);

	if (!n || n->nlink)
		return;
	for (size_t i = 0; i < s->fds.nr; i++)
		if (s->fds.items[i] && s->fds.items[i]->node == node)
			return;
	for (size_t i = 0; i < s->visitors.nr; i++)
		if (s->visitors.items[i].node == node)
			return;
	node_drop(&s->live, node);
}

static int close_fd(struct sim *s, int fd)
{
	struct opened *o = sim_opened(s, fd);
	bool leased;
	unsigned node;

	if (!o)
		return -1;
	s->fds.items[fd - FIRST_FD] = NULL;
	if (--o->refs)
		return 0;
	node = o->node;
	leased = o->lease != F_UNLCK;
	sim_locks_drop(s, o);
	free(o);
	if (leased)
		sim_wake(s, node);
	sim_forget(s, node);
	return 0;
}

void sim_restart(struct sim *s)
{
	for (size_t i = 0; i < s->fds.nr; i++)
		if (s->fds.items[i] && !s->fds.items[i]->outside)
			close_fd(s, FIRST_FD + (int)i);
	count_anew(s);
}

unsigned sim_nr_open(const struct sim *s)
{
	unsigned nr = 0;

	for (size_t i = 0; i < s->fds.nr; i++)
		nr += s->fds.items[i] && !s->fds.items[i]->outside;
	return nr;
}

unsigned sim_nr_self_waits(const struct sim *s)
{
	return s->nr_self_waits;
}

bool sim_was_opened(const struct sim *s, const char *path)
{
	unsigned n = state_find(&s->live, path);

	return n && n < s->touched.nr && s->touched.items[n];
}

/* ---- counting, faults, kills ---- */

static const char *const call_names[SIM_NR_CALLS] = {
	"openat", "openat2", "close", "pread", "pwrite", "fdatasync", "fsync", "ftruncate", "renameat2", "unlinkat",
	"mkdirat", "fstat", "fstatat", "fstatfs", "lseek", "fallocate", "fadvise", "ioctl", "fcntl", "fchown",
	"fchmod", "futimens", "list", "flistxattr", "fgetxattr", "fsetxattr", "syncfs",
};

const char *sim_call_name(enum sim_call c)
{
	return call_names[c];
}

unsigned sim_nr_calls(const struct sim *s)
{
	return (unsigned)s->calls.nr;
}

unsigned sim_nr_changes(const struct sim *s)
{
	return s->nr_changes;
}

enum sim_call sim_call_kind(const struct sim *s, unsigned n)
{
	return s->calls.items[n - 1] & CALL_KIND;
}

bool sim_call_changes(const struct sim *s, unsigned n)
{
	return s->calls.items[n - 1] & CALL_CHANGES;
}

bool sim_call_lets_go(const struct sim *s, unsigned n)
{
	return s->calls.items[n - 1] & CALL_LETS_GO;
}

static void add_hook(struct sim *s, unsigned n, bool after, void (*f)(void *ctx, struct sim *s), void *ctx)
{
	struct hook h = { .at = (unsigned)s->calls.nr + n, .after = after, .f = f, .ctx = ctx };

	if (vec_push(&s->hooks, h) < 0)
		abort();
}

void sim_before(struct sim *s, unsigned n, void (*f)(void *ctx, struct sim *s), void *ctx)
{
	add_hook(s, n, false, f, ctx);
}

void sim_after(struct sim *s, unsigned n, void (*f)(void *ctx, struct sim *s), void *ctx)
{
	add_hook(s, n, true, f, ctx);
}

void sim_set_fault(struct sim *s, struct sim_fault f)
{
	s->fault = f;
}

void sim_set_fault_of(struct sim *s, enum sim_call kind, struct sim_fault f)
{
	s->fault_of[kind] = f;
}

void sim_kill_at(struct sim *s, unsigned n)
{
	s->kill_at = n;
}

bool sim_killed(const struct sim *s)
{
	return s->killed;
}

static void run_hooks(struct sim *s, bool after)
{
	for (size_t i = 0; i < s->hooks.nr; i++) {
		struct hook h = s->hooks.items[i];

		if (h.at == s->calls.nr && h.after == after) {
			bool was = sim_outside(s, true);
			int e = errno;

			h.f(h.ctx, s);
			errno = e;
			sim_outside(s, was);
		}
	}
}

static bool hits(const struct sim *s, const struct sim_fault *f, unsigned n, enum sim_call kind)
{
	if (f == &s->fault && f->for_good && n > f->at)
		return f->at && (s->calls.items[f->at - 1] & CALL_KIND) == (int)kind;
	return f->at && (n == f->at || (f->for_good && n > f->at));
}

static bool enter(struct sim *s, enum sim_call kind, bool changes)
{
	s->fault_hit = false;
	if (s->outside)
		return true;
	if (vec_push(&s->calls, (uint8_t)(kind | (changes ? CALL_CHANGES : 0))) < 0)
		abort();
	if (s->killed)
		return errno = EIO, false;
	run_hooks(s, false);
	sim_late_visits(s, (unsigned)s->calls.nr);
	s->nr_of[kind]++;
	s->nr_changes += changes;
	if (changes && s->nr_changes == s->kill_at) {
		s->killed = true;
		return errno = EIO, false;
	}
	if (hits(s, &s->fault, (unsigned)s->calls.nr, kind)) {
		s->fault_hit = true;
		s->hit = s->fault;
	} else if (hits(s, &s->fault_of[kind], s->nr_of[kind], kind)) {
		s->fault_hit = true;
		s->hit = s->fault_of[kind];
	}
	if (s->fault_hit && s->hit.how == SIM_FAIL && kind != SIM_FSYNC && kind != SIM_FDATASYNC && kind != SIM_SYNCFS &&
	    kind != SIM_CLOSE)
		return errno = s->hit.errnum, false;
	return true;
}

static void leave(struct sim *s)
{
	s->fault_hit = false;
	if (!s->outside && !s->killed)
		run_hooks(s, true);
}

#define CALLED(kind, changes, call)                                                                                    \
	__extension__({                                                                                                \
		__typeof__(call) rc_ = -1;                                                                             \
		if (enter(now, kind, changes))                                                                         \
			rc_ = (call);                                                                                  \
		leave(now);                                                                                            \
		rc_;                                                                                                   \
	})

static bool is_hit(const struct sim *s, enum sim_how how)
{
	return s->fault_hit && s->hit.how == how;
}

static size_t shortened(const struct sim *s, size_t len)
{
	return is_hit(s, SIM_SHORT) && len > 1 ? len / 2 : len;
}

/* ---- paths ---- */

struct place {
	unsigned dir;
	char name[256]; /* "" for the directory itself */
	unsigned node;	/* 0 = there is none */
};

static int step(const struct sim *s, struct place *p, const char *part, size_t len, unsigned top)
{
	const struct node *dir = node_get(&s->live, p->node);

	if (!p->node)
		return fail(ENOENT);
	if (!S_ISDIR(dir->a.mode))
		return fail(ENOTDIR);
	if (len > 255)
		return fail(ENAMETOOLONG);
	if (!dir->nlink)
		return fail(ENOENT);
	p->dir = p->node;
	snprintf(p->name, sizeof(p->name), "%.*s", (int)len, part);
	if (strcmp(p->name, ".") == 0)
		return 0;
	if (strcmp(p->name, "..") == 0) {
		if (top && p->node == top)
			return fail(EXDEV);
		p->node = dir->parent;
		return 0;
	}
	p->node = node_find_name(dir, p->name);
	return 0;
}

static int find(const struct sim *s, int dirfd, const char *path, bool beneath, struct place *ret)
{
	const struct opened *o;
	unsigned top;

	*ret = (struct place){ .node = ROOT_NODE };
	if (!*path)
		return fail(ENOENT);
	if (*path == '/' && beneath)
		return fail(EXDEV);
	if (*path != '/' && dirfd != AT_FDCWD) {
		o = sim_opened(s, dirfd);
		if (!o)
			return -1;
		ret->node = o->node;
	}
	top = beneath ? ret->node : 0;
	while (*path) {
		size_t len = strcspn(path, "/");

		if (len && step(s, ret, path, len, top) < 0)
			return -1;
		path += len + (path[len] == '/');
	}
	return 0;
}

static bool is_dots(const char *name)
{
	return !*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

static bool is_dir(const struct sim *s, unsigned node)
{
	return S_ISDIR(node_get(&s->live, node)->a.mode);
}

static bool is_fixed(const struct sim *s, unsigned node)
{
	return node_get(&s->live, node)->a.flags & (FS_IMMUTABLE_FL | FS_APPEND_FL);
}

/* ---- opening ---- */

static uint64_t free_ino(const struct sim *s)
{
	uint64_t ino = 128;

	if (s->o.fresh_inode_numbers)
		return 128 + s->live.nodes.nr;
	for (bool used = true; used;) {
		used = false;
		ino++;
		for (size_t i = 0; i < s->live.nodes.nr; i++)
			used |= s->live.nodes.items[i] && s->live.nodes.items[i]->ino == ino;
	}
	return ino;
}

/* In `dir`, or with name NULL merely on behalf of it. */
static unsigned create(struct sim *s, unsigned dir, const char *name, mode_t mode)
{
	const struct node *parent = node_get(&s->live, dir);
	struct op op = { .kind = OP_CREATE, .dir = name ? dir : 0, .name = sim_strdup(name),
			 .offset = free_ino(s) };

	op.node = (unsigned)s->live.nodes.nr;
	op.a = (struct attributes){ .mode = mode, .atime = s->clock + 1000, .mtime = s->clock + 1000 };
	if (parent->a.mode & S_ISGID) {
		op.a.gid = parent->a.gid;
		op.a.mode |= S_ISDIR(mode) ? S_ISGID : 0;
	}
	sim_do(s, op);
	return op.node;
}

static int open_existing(struct sim *s, unsigned node, int flags)
{
	bool writes = (flags & O_ACCMODE) != O_RDONLY;

	if (flags & O_PATH)
		return flags & O_DIRECTORY && !is_dir(s, node) ? fail(ENOTDIR) : sim_new_fd(s, node, flags);
	if (flags & O_DIRECTORY && !is_dir(s, node))
		return fail(ENOTDIR);
	if (is_dir(s, node) && (writes || flags & (O_CREAT | O_TRUNC)))
		return fail(EISDIR);
	if (is_fixed(s, node) && (writes || flags & O_TRUNC))
		return fail(EPERM);
	if (sim_lease_conflict(s, node, flags)) {
		if (flags & O_NONBLOCK)
			return fail(EAGAIN);
		s->nr_self_waits += !s->outside;
		sim_lease_drop(s, node);
	}
	if (flags & O_TRUNC)
		sim_do(s, (struct op){ .kind = OP_TRUNCATE, .node = node });
	return sim_new_fd(s, node, flags);
}

static int open_place(struct sim *s, struct place *p, int flags, mode_t mode)
{
	unsigned node;

	if ((flags & O_TMPFILE) == O_TMPFILE) {
		if (!p->node)
			return fail(ENOENT);
		if (!is_dir(s, p->node))
			return fail(ENOTDIR);
		return s->o.no_tmpfile ? fail(EOPNOTSUPP)
				       : sim_new_fd(s, create(s, p->node, NULL, S_IFREG | (mode & 07777)), flags);
	}
	if (p->node && (flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL) && !(flags & O_PATH))
		return fail(EEXIST);
	if (p->node)
		return open_existing(s, p->node, flags);
	if (!(flags & O_CREAT) || flags & O_PATH)
		return fail(ENOENT);
	if (!sim_has_space(s, 1))
		return fail(ENOSPC);
	node = create(s, p->dir, p->name, S_IFREG | (mode & 07777));
	return sim_new_fd(s, node, flags);
}

static int do_openat(struct sim *s, int dirfd, const char *path, int flags, mode_t mode, bool beneath)
{
	struct place p;

	if ((flags & O_TMPFILE) == O_TMPFILE ? (flags & O_ACCMODE) == O_RDONLY
					     : (flags & (O_CREAT | O_DIRECTORY)) == (O_CREAT | O_DIRECTORY))
		return fail(EINVAL);
	return find(s, dirfd, path, beneath, &p) < 0 ? -1 : open_place(s, &p, flags, mode);
}

static bool makes_files(int flags)
{
	return !(flags & O_PATH) && (flags & (O_CREAT | O_TRUNC) || (flags & O_TMPFILE) == O_TMPFILE);
}

static int sim_openat(int dirfd, const char *name, int flags, mode_t mode)
{
	return CALLED(SIM_OPEN, makes_files(flags), do_openat(now, dirfd, name, flags, mode, false));
}

static int sim_openat2(int dirfd, const char *name, int flags, uint64_t resolve)
{
	return CALLED(SIM_OPEN2, makes_files(flags),
		      do_openat(now, dirfd, name, flags, 0, resolve & RESOLVE_BENEATH));
}

static int do_close(struct sim *s, int fd)
{
	int rc = fd == FIRST_FD ? 0 : close_fd(s, fd);

	return rc == 0 && is_hit(s, SIM_FAIL) ? fail(s->hit.errnum) : rc;
}

static int sim_close(int fd)
{
	return CALLED(SIM_CLOSE, false, do_close(now, fd));
}

int sim_visit(struct sim *s, const char *path, int flags, void (*granted)(void *ctx, struct sim *s, int fd), void *ctx)
{
	bool was = sim_outside(s, true);
	unsigned node = state_find(&s->live, path);
	int fd = -1;

	if (!node) {
		sim_outside(s, was);
		errno = ENOENT;
		return -2;
	}
	if (sim_lease_conflict(s, node, flags)) {
		if (vec_push(&s->visitors, (struct visitor){ 0, node, flags, granted, ctx }) < 0)
			abort();
	} else {
		fd = open_existing(s, node, flags);
		if (fd < 0)
			fd = -2;
		else if (granted)
			granted(ctx, s, fd);
	}
	sim_outside(s, was);
	return fd;
}

int sim_visit_late(struct sim *s, const char *path, unsigned at, int flags,
		   void (*granted)(void *ctx, struct sim *s, int fd), void *ctx)
{
	unsigned node = state_find(&s->live, path);

	if (!node)
		return fail(ENOENT);
	if (vec_push(&s->visitors, (struct visitor){ at, node, flags, granted, ctx }) < 0)
		abort();
	return 0;
}

/* ---- reading and writing ---- */

static ssize_t do_pread(struct sim *s, int fd, uint8_t *buf, size_t len, off_t offset)
{
	const struct opened *o = sim_opened(s, fd);
	const struct node *n = o ? node_get(&s->live, o->node) : NULL;

	if (!o)
		return -1;
	if (offset < 0)
		return fail(EINVAL);
	if (!opened_reads(o))
		return fail(EBADF);
	if (S_ISDIR(n->a.mode))
		return fail(EISDIR);
	if ((uint64_t)offset >= n->size)
		return 0;
	if (len > n->size - (uint64_t)offset)
		len = n->size - (uint64_t)offset;
	len = shortened(s, len);
	node_read(n, buf, len, (uint64_t)offset);
	if (len && is_hit(s, SIM_FLIP))
		buf[len / 2] ^= 0x10;
	return (ssize_t)len;
}

static ssize_t sim_pread(int fd, void *buf, size_t len, off_t offset)
{
	return CALLED(SIM_READ, false, do_pread(now, fd, buf, len, offset));
}

static bool page_is_there(const struct node *n, uint64_t index)
{
	size_t at = node_find_page(n, index);

	return at < n->pages.nr && n->pages.items[at].index == index && !n->pages.items[at].shared;
}

/* How much of [offset, offset + len) can get pages. */
static uint64_t fitting(const struct sim *s, const struct node *n, uint64_t offset, uint64_t len)
{
	uint64_t need = 0;

	if (sim_has_space(s, len / PAGE + 2))
		return len;
	for (uint64_t i = offset / PAGE; i * PAGE < offset + len; i++) {
		need += !page_is_there(n, i);
		if (!sim_has_space(s, need))
			return i * PAGE > offset ? i * PAGE - offset : 0;
	}
	return len;
}

static ssize_t do_pwrite(struct sim *s, int fd, const uint8_t *buf, size_t len, off_t offset)
{
	const struct opened *o = sim_opened(s, fd);
	struct op op = { .kind = OP_WRITE, .offset = (uint64_t)offset };

	if (!o)
		return -1;
	if (offset < 0)
		return fail(EINVAL);
	if (!opened_writes(o))
		return fail(EBADF);
	if (!len)
		return 0;
	if (len > INT64_MAX - (uint64_t)offset)
		return fail(EFBIG);
	if (node_get(&s->live, o->node)->a.flags & FS_IMMUTABLE_FL) /* so does ext4 */
		return fail(EPERM);
	op.node = o->node;
	op.len = fitting(s, node_get(&s->live, o->node), (uint64_t)offset, shortened(s, len));
	if (!op.len)
		return fail(ENOSPC);
	op.data = memcpy(sim_alloc(op.len), buf, op.len);
	sim_do(s, op);
	return (ssize_t)op.len;
}

static ssize_t sim_pwrite(int fd, const void *buf, size_t len, off_t offset)
{
	return CALLED(SIM_WRITE, true, do_pwrite(now, fd, buf, len, offset));
}

static void sync_node(struct sim *s, unsigned node, bool datasync)
{
	struct op op = { .kind = OP_SYNC, .datasync = datasync, .node = node };

	op.failed = is_hit(s, SIM_FAIL) && s->hit.errnum != EINTR;
	op.lied = is_hit(s, SIM_LIE) || (is_hit(s, SIM_FAIL) && !op.failed);
	for (size_t i = s->log.nr; op.failed && i-- > 0;) {
		struct op *p = &s->log.items[i];

		if (p->kind == OP_SYNC && p->node == op.node && !p->lied)
			break;
		if (op_data(p) && p->node == op.node)
			p->lost = true;
	}
	sim_do(s, op);
}

static int do_sync(struct sim *s, int fd, bool datasync)
{
	const struct opened *o = sim_opened(s, fd);

	if (!o)
		return -1;
	if (o->flags & O_PATH)
		return fail(EBADF);
	sync_node(s, o->node, datasync);
	return is_hit(s, SIM_FAIL) ? fail(s->hit.errnum) : 0;
}

/* File after file: power may fail in the middle. */
static int do_syncfs(struct sim *s, int fd)
{
	if (!sim_opened(s, fd))
		return -1;
	for (unsigned n = ROOT_NODE; n < s->live.nodes.nr; n++)
		if (node_get(&s->live, n))
			sync_node(s, n, false);
	return is_hit(s, SIM_FAIL) ? fail(s->hit.errnum) : 0;
}

static int sim_syncfs(int fd)
{
	return CALLED(SIM_SYNCFS, true, do_syncfs(now, fd));
}

static int sim_fdatasync(int fd)
{
	return CALLED(SIM_FDATASYNC, true, do_sync(now, fd, true));
}

static int sim_fsync(int fd)
{
	return CALLED(SIM_FSYNC, true, do_sync(now, fd, false));
}

/* A descriptor to write through, whose file may be changed. */
static struct opened *writable(struct sim *s, int fd, int e)
{
	struct opened *o = sim_opened(s, fd);

	if (!o)
		return NULL;
	if (o->flags & O_PATH)
		return errno = EBADF, NULL;
	if (!opened_writes(o))
		return errno = e, NULL;
	if (is_fixed(s, o->node))
		return errno = EPERM, NULL;
	return o;
}

static int do_ftruncate(struct sim *s, int fd, off_t size)
{
	struct opened *o;

	if (size < 0)
		return fail(EINVAL);
	o = writable(s, fd, EINVAL);
	if (!o)
		return -1;
	sim_do(s, (struct op){ .kind = OP_TRUNCATE, .node = o->node, .len = (uint64_t)size });
	return 0;
}

static int sim_ftruncate(int fd, off_t size)
{
	return CALLED(SIM_TRUNCATE, true, do_ftruncate(now, fd, size));
}

static int do_fallocate(struct sim *s, int fd, int mode, off_t offset, off_t len)
{
	struct opened *o = sim_opened(s, fd);
	struct op op = { .offset = (uint64_t)offset, .len = (uint64_t)len };

	if (!o || o->flags & O_PATH)
		return fail(EBADF);
	if (offset < 0 || len <= 0)
		return fail(EINVAL);
	if (mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE) || mode == FALLOC_FL_PUNCH_HOLE)
		return fail(EOPNOTSUPP);
	o = writable(s, fd, EBADF);
	if (!o)
		return -1;
	if (len > INT64_MAX - offset)
		return fail(EFBIG);
	op.node = o->node;
	op.kind = mode & FALLOC_FL_PUNCH_HOLE ? OP_PUNCH : OP_ALLOCATE;
	op.keep_size = mode & FALLOC_FL_KEEP_SIZE;
	if (op.kind == OP_ALLOCATE && !sim_has_space(s, op.len / PAGE) &&
	    fitting(s, node_get(&s->live, o->node), op.offset, op.len) < op.len)
		return fail(ENOSPC);
	sim_do(s, op);
	return 0;
}

static int sim_fallocate(int fd, int mode, off_t offset, off_t len)
{
	return CALLED(SIM_ALLOCATE, true, do_fallocate(now, fd, mode, offset, len));
}

static off_t seek_hole(const struct node *n, uint64_t offset)
{
	uint64_t index = offset / PAGE;

	for (size_t at = node_find_page(n, index); at < n->pages.nr; at++, index++)
		if (n->pages.items[at].index != index || !n->pages.items[at].page)
			break;
	if (index * PAGE >= n->size)
		return (off_t)n->size;
	return (off_t)(index * PAGE > offset ? index * PAGE : offset);
}

static off_t seek_data(const struct node *n, uint64_t offset)
{
	size_t at = node_find_page(n, offset / PAGE);
	uint64_t found;

	while (at < n->pages.nr && !n->pages.items[at].page)
		at++;
	if (at == n->pages.nr || n->pages.items[at].index * PAGE >= n->size)
		return fail(ENXIO);
	found = n->pages.items[at].index * PAGE;
	return (off_t)(found > offset ? found : offset);
}

static off_t do_lseek(struct sim *s, int fd, off_t offset, int whence)
{
	struct opened *o = sim_opened(s, fd);
	const struct node *n = o ? node_get(&s->live, o->node) : NULL;

	if (!o)
		return -1;
	if (o->flags & O_PATH)
		return fail(EBADF);
	if (whence == SEEK_DATA || whence == SEEK_HOLE) {
		if (offset < 0 || (uint64_t)offset >= n->size)
			return fail(ENXIO);
		offset = whence == SEEK_DATA ? seek_data(n, (uint64_t)offset) : seek_hole(n, (uint64_t)offset);
		return offset < 0 ? -1 : (o->offset = offset);
	}
	offset += whence == SEEK_CUR ? o->offset : whence == SEEK_END ? (off_t)n->size : 0;
	return offset < 0 ? fail(EINVAL) : (o->offset = offset);
}

static off_t sim_lseek(int fd, off_t offset, int whence)
{
	return CALLED(SIM_SEEK, false, do_lseek(now, fd, offset, whence));
}

static int do_fadvise(struct sim *s, int fd, int advice)
{
	const struct opened *o = sim_opened(s, fd);

	if (!o || o->flags & O_PATH)
		return EBADF;
	if (advice == POSIX_FADV_DONTNEED)
		sim_reread(s, o->node);
	return 0;
}

static int sim_fadvise(int fd, off_t offset, off_t len, int advice)
{
	int rc = CALLED(SIM_ADVISE, false, do_fadvise(now, fd, advice));

	(void)offset;
	(void)len;
	return rc < 0 ? errno : rc;
}

/* ---- names ---- */

static bool is_below(const struct sim *s, unsigned node, unsigned top)
{
	while (node != top && node != ROOT_NODE)
		node = node_get(&s->live, node)->parent;
	return node == top;
}

static int may_rename(const struct sim *s, const struct place *from, const struct place *to, unsigned flags)
{
	bool exchange = flags & RENAME_EXCHANGE;

	if (is_dots(from->name))
		return fail(EBUSY);
	if (is_dots(to->name))
		return fail(flags & RENAME_NOREPLACE ? EEXIST : EBUSY);
	if (!from->node)
		return fail(ENOENT);
	if (to->node && flags & RENAME_NOREPLACE)
		return fail(EEXIST);
	if (!to->node && exchange)
		return fail(ENOENT);
	if (is_dir(s, from->node) && is_below(s, to->dir, from->node))
		return fail(EINVAL);
	if (to->node && is_dir(s, to->node) && is_below(s, from->dir, to->node))
		return fail(exchange ? EINVAL : ENOTEMPTY);
	if (to->node == from->node)
		return 0;
	if (is_fixed(s, from->node) || (to->node && is_fixed(s, to->node)))
		return fail(EPERM);
	if (exchange || !to->node)
		return 0;
	if (is_dir(s, from->node) != is_dir(s, to->node))
		return fail(is_dir(s, from->node) ? ENOTDIR : EISDIR);
	return node_get(&s->live, to->node)->names.nr ? fail(ENOTEMPTY) : 0;
}

static int do_rename(struct sim *s, int from_dirfd, const char *from, int to_dirfd, const char *to, unsigned flags)
{
	struct place a, b;
	struct op op = { .kind = flags & RENAME_EXCHANGE ? OP_EXCHANGE : OP_RENAME };

	if (flags & ~(unsigned)(RENAME_NOREPLACE | RENAME_EXCHANGE) || flags == (RENAME_NOREPLACE | RENAME_EXCHANGE) ||
	    (s->o.no_exchange && flags))
		return fail(EINVAL);
	if (find(s, from_dirfd, from, false, &a) < 0 || find(s, to_dirfd, to, false, &b) < 0 ||
	    may_rename(s, &a, &b, flags) < 0)
		return -1;
	if (a.node == b.node)
		return 0;
	op.dir = a.dir;
	op.dir2 = b.dir;
	op.node = a.node;
	op.node2 = b.node;
	op.name = sim_strdup(a.name);
	op.name2 = sim_strdup(b.name);
	sim_do(s, op);
	if (b.node)
		sim_forget(s, b.node);
	return 0;
}

static int sim_renameat2(int from_dirfd, const char *from, int to_dirfd, const char *to, unsigned flags)
{
	return CALLED(SIM_RENAME, true, do_rename(now, from_dirfd, from, to_dirfd, to, flags));
}

static int may_unlink(const struct sim *s, const struct place *p, int flags)
{
	if (flags & ~AT_REMOVEDIR)
		return fail(EINVAL);
	if (is_dots(p->name))
		return fail(!(flags & AT_REMOVEDIR) ? EISDIR : strcmp(p->name, ".") == 0 ? EINVAL : ENOTEMPTY);
	if (!p->node)
		return fail(ENOENT);
	if (is_fixed(s, p->node))
		return fail(EPERM);
	if (!(flags & AT_REMOVEDIR))
		return is_dir(s, p->node) ? fail(EISDIR) : 0;
	if (!is_dir(s, p->node))
		return fail(ENOTDIR);
	return node_get(&s->live, p->node)->names.nr ? fail(ENOTEMPTY) : 0;
}

static int do_unlink(struct sim *s, int dirfd, const char *name, int flags)
{
	struct place p;
	struct op op = { .kind = OP_UNLINK };

	if (find(s, dirfd, name, false, &p) < 0 || may_unlink(s, &p, flags) < 0)
		return -1;
	op.dir = p.dir;
	op.node = p.node;
	op.name = sim_strdup(p.name);
	sim_do(s, op);
	sim_forget(s, p.node);
	return 0;
}

static int sim_unlinkat(int dirfd, const char *name, int flags)
{
	return CALLED(SIM_UNLINK, true, do_unlink(now, dirfd, name, flags));
}

static int do_mkdir(struct sim *s, int dirfd, const char *name, mode_t mode)
{
	struct place p;

	if (find(s, dirfd, name, false, &p) < 0)
		return -1;
	if (p.node)
		return fail(EEXIST);
	create(s, p.dir, p.name, S_IFDIR | (mode & 07777));
	return 0;
}

static int sim_mkdirat(int dirfd, const char *name, mode_t mode)
{
	return CALLED(SIM_MKDIR, true, do_mkdir(now, dirfd, name, mode));
}

struct list {
	struct sim *s;
	int fd;
	size_t nr, at;
	char names[][256];
};

static void *do_list(struct sim *s, int fd)
{
	const struct opened *o = sim_opened(s, fd);
	const struct node *n = o ? node_get(&s->live, o->node) : NULL;
	struct list *l;

	if (!o)
		return NULL;
	if (!S_ISDIR(n->a.mode))
		return errno = ENOTDIR, NULL;
	l = sim_alloc(sizeof(*l) + (n->names.nr + 2) * sizeof(l->names[0]));
	*l = (struct list){ .s = s, .fd = fd, .nr = n->names.nr + 2 };
	strcpy(l->names[0], ".");
	strcpy(l->names[1], "..");
	for (size_t i = 0; i < n->names.nr; i++)
		memcpy(l->names[i + 2], n->names.items[i].name, strlen(n->names.items[i].name) + 1);
	return l;
}

static void *sim_list_begin(int fd)
{
	void *l = enter(now, SIM_LIST, false) ? do_list(now, fd) : NULL;

	leave(now);
	return l;
}

static const char *sim_list_next(void *list)
{
	struct list *l = list;

	errno = 0;
	if (l->at == 2 && !enter(now, SIM_LIST, false))
		return leave(now), NULL;
	return l->at < l->nr ? l->names[l->at++] : NULL;
}

static int sim_list_end(void *list)
{
	struct list *l = list;
	int fd = l->fd;

	free(l);
	return sim_close(fd);
}

/* ---- attributes ---- */

static int do_fstat(struct sim *s, int fd, struct stat *st)
{
	const struct opened *o = sim_opened(s, fd);

	if (!o)
		return -1;
	node_stat(node_get(&s->live, o->node), st);
	return 0;
}

static int sim_fstat(int fd, struct stat *st)
{
	return CALLED(SIM_STAT, false, do_fstat(now, fd, st));
}

static int do_fstatat(struct sim *s, int dirfd, const char *name, struct stat *st, int flags)
{
	struct place p;

	if (!*name && flags & AT_EMPTY_PATH)
		return do_fstat(s, dirfd, st);
	if (find(s, dirfd, name, false, &p) < 0)
		return -1;
	if (!p.node)
		return fail(ENOENT);
	node_stat(node_get(&s->live, p.node), st);
	return 0;
}

static int sim_fstatat(int dirfd, const char *name, struct stat *st, int flags)
{
	return CALLED(SIM_STATAT, false, do_fstatat(now, dirfd, name, st, flags));
}

static int do_fstatfs(struct sim *s, int fd, struct statfs *st)
{
	uint64_t left = s->o.nr_blocks - s->live.used;

	if (!sim_opened(s, fd))
		return -1;
	*st = (struct statfs){ .f_type = (__fsword_t)(s->o.fs_type ? s->o.fs_type : XFS_SUPER_MAGIC),
			       .f_bsize = (__fsword_t)PAGE, .f_frsize = (__fsword_t)PAGE, .f_blocks = s->o.nr_blocks,
			       .f_bfree = left, .f_bavail = left, .f_files = 1 << 20, .f_ffree = 1 << 20,
			       .f_namelen = 255 };
	return 0;
}

static int sim_fstatfs(int fd, struct statfs *st)
{
	return CALLED(SIM_STATFS, false, do_fstatfs(now, fd, st));
}

static int change_attributes(struct sim *s, int fd, struct op op)
{
	const struct opened *o = sim_opened(s, fd);

	if (!o)
		return -1;
	if (o->flags & O_PATH)
		return fail(EBADF);
	if (is_fixed(s, o->node))
		return fail(EPERM);
	op.node = o->node;
	op.kind = OP_ATTR;
	sim_do(s, op);
	return 0;
}

static int do_fchown(struct sim *s, int fd, uid_t uid, gid_t gid)
{
	const struct opened *o = sim_opened(s, fd);
	struct op op = { .what = ATTR_OWNER | ATTR_MODE };

	if (!o)
		return -1;
	op.a = node_get(&s->live, o->node)->a;
	if (uid != (uid_t)-1)
		op.a.uid = uid;
	if (gid != (gid_t)-1)
		op.a.gid = gid;
	if (!S_ISDIR(op.a.mode))
		op.a.mode &= ~(mode_t)(S_ISUID | (op.a.mode & S_IXGRP ? S_ISGID : 0));
	return change_attributes(s, fd, op);
}

static int sim_fchown(int fd, uid_t uid, gid_t gid)
{
	return CALLED(SIM_CHOWN, true, do_fchown(now, fd, uid, gid));
}

static int do_fchmod(struct sim *s, int fd, mode_t mode)
{
	const struct opened *o = sim_opened(s, fd);
	struct op op = { .what = ATTR_MODE };

	if (!o)
		return -1;
	op.a.mode = (node_get(&s->live, o->node)->a.mode & S_IFMT) | (mode & 07777);
	return change_attributes(s, fd, op);
}

static int sim_fchmod(int fd, mode_t mode)
{
	return CALLED(SIM_CHMOD, true, do_fchmod(now, fd, mode));
}

static int64_t to_ns(const struct sim *s, const struct timespec *t)
{
	return t->tv_nsec == UTIME_NOW ? s->clock + 1000 : t->tv_sec * 1000000000 + t->tv_nsec;
}

static int do_futimens(struct sim *s, int fd, const struct timespec times[2])
{
	static const struct timespec both_now[2] = { { .tv_nsec = UTIME_NOW }, { .tv_nsec = UTIME_NOW } };
	struct op op = { 0 };

	if (!times)
		times = both_now;
	op.what = (times[0].tv_nsec == UTIME_OMIT ? 0 : ATTR_ATIME) | (times[1].tv_nsec == UTIME_OMIT ? 0 : ATTR_MTIME);
	op.a.atime = to_ns(s, &times[0]);
	op.a.mtime = to_ns(s, &times[1]);
	return op.what ? change_attributes(s, fd, op) : 0;
}

static int sim_futimens(int fd, const struct timespec times[2])
{
	return CALLED(SIM_TIMES, true, do_futimens(now, fd, times));
}

static const struct node *with_xattrs(const struct sim *s, int fd)
{
	const struct opened *o = sim_opened(s, fd);

	if (o && o->flags & O_PATH)
		errno = EBADF;
	return o && !(o->flags & O_PATH) ? node_get(&s->live, o->node) : NULL;
}

static ssize_t do_flistxattr(struct sim *s, int fd, char *list, size_t room)
{
	const struct node *n = with_xattrs(s, fd);
	size_t len = 0;

	if (!n)
		return -1;
	for (size_t i = 0; i < n->xattrs.nr; i++)
		len += strlen(n->xattrs.items[i].name) + 1;
	if (!room)
		return (ssize_t)len;
	if (len > room)
		return fail(ERANGE);
	for (size_t i = 0; i < n->xattrs.nr; i++)
		list = stpcpy(list, n->xattrs.items[i].name) + 1;
	return (ssize_t)len;
}

static ssize_t sim_flistxattr(int fd, char *list, size_t room)
{
	return CALLED(SIM_LISTXATTR, false, do_flistxattr(now, fd, list, room));
}

static ssize_t do_fgetxattr(struct sim *s, int fd, const char *name, void *value, size_t room)
{
	const struct node *n = with_xattrs(s, fd);
	const struct xattr *x = n ? node_find_xattr(n, name) : NULL;

	if (!n)
		return -1;
	if (!x)
		return fail(ENODATA);
	if (!room)
		return (ssize_t)x->len;
	if (x->len > room)
		return fail(ERANGE);
	memcpy(value, x->value, x->len);
	return (ssize_t)x->len;
}

static ssize_t sim_fgetxattr(int fd, const char *name, void *value, size_t room)
{
	return CALLED(SIM_GETXATTR, false, do_fgetxattr(now, fd, name, value, room));
}

static int do_fsetxattr(struct sim *s, int fd, const char *name, const void *value, size_t len, int flags)
{
	const struct node *n = with_xattrs(s, fd);
	struct op op = { .kind = OP_XATTR, .len = len };
	bool there;

	if (!n)
		return -1;
	if (is_fixed(s, sim_opened(s, fd)->node))
		return fail(EPERM);
	there = node_find_xattr(n, name);
	if (there && flags & XATTR_CREATE)
		return fail(EEXIST);
	if (!there && flags & XATTR_REPLACE)
		return fail(ENODATA);
	op.node = sim_opened(s, fd)->node;
	op.name = sim_strdup(name);
	op.data = sim_alloc(len);
	if (len)
		memcpy(op.data, value, len);
	sim_do(s, op);
	return 0;
}

static int sim_fsetxattr(int fd, const char *name, const void *value, size_t len, int flags)
{
	return CALLED(SIM_SETXATTR, true, do_fsetxattr(now, fd, name, value, len, flags));
}

/* ---- fcntl, ioctl ---- */

static int duplicate(struct sim *s, struct opened *o)
{
	o->refs++;
	return place_fd(s, o);
}

static int do_fcntl(struct sim *s, int fd, int cmd, void *arg)
{
	struct opened *o = sim_opened(s, fd);

	if (!o)
		return -1;
	switch (cmd) {
	case F_GETFD:
		return FD_CLOEXEC;
	case F_GETFL:
		return o->flags & ~(O_CREAT | O_EXCL | O_TRUNC | O_NOCTTY | O_CLOEXEC);
	case F_SETFD:
	case F_SETFL:
		return 0;
	case F_DUPFD:
	case F_DUPFD_CLOEXEC:
		return duplicate(s, o);
	}
	if (o->flags & O_PATH)
		return fail(EBADF);
	switch (cmd) {
	case F_SETSIG:
	case F_SETOWN:
	case F_GETSIG:
	case F_GETOWN:
		return 0;
	case F_SETLEASE:
		return s->o.no_leases ? fail(EINVAL) : sim_lease_take(s, o, (int)(intptr_t)arg);
	case F_GETLEASE:
		return sim_lease_get(o);
	case F_OFD_SETLK:
	case F_OFD_SETLKW:
		return sim_lock_set(s, o, arg);
	case F_OFD_GETLK:
		return sim_lock_get(s, o, arg);
	}
	return fail(EINVAL);
}

static int sim_fcntl(int fd, int cmd, void *arg)
{
	return CALLED(SIM_FCNTL, false, do_fcntl(now, fd, cmd, arg));
}

static bool ioctl_changes(unsigned long request)
{
	return request == FICLONE || request == FICLONERANGE || request == FIDEDUPERANGE ||
	       request == FS_IOC_SETFLAGS || request == FS_IOC_FSSETXATTR;
}

static int do_ioctl(struct sim *s, int fd, unsigned long request, void *arg)
{
	struct opened *o = sim_opened(s, fd);

	if (!o)
		return -1;
	return o->flags & O_PATH ? fail(EBADF) : sim_do_ioctl(s, o, request, arg);
}

static int sim_ioctl(int fd, unsigned long request, void *arg)
{
	return CALLED(SIM_IOCTL, ioctl_changes(request), do_ioctl(now, fd, request, arg));
}

static const struct file_ops sim_ops = {
	.openat = sim_openat,
	.openat2 = sim_openat2,
	.close = sim_close,
	.pread = sim_pread,
	.pwrite = sim_pwrite,
	.fdatasync = sim_fdatasync,
	.fsync = sim_fsync,
	.ftruncate = sim_ftruncate,
	.renameat2 = sim_renameat2,
	.unlinkat = sim_unlinkat,
	.mkdirat = sim_mkdirat,
	.fstat = sim_fstat,
	.fstatat = sim_fstatat,
	.fstatfs = sim_fstatfs,
	.lseek = sim_lseek,
	.fallocate = sim_fallocate,
	.fadvise = sim_fadvise,
	.ioctl = sim_ioctl,
	.fcntl = sim_fcntl,
	.fchown = sim_fchown,
	.fchmod = sim_fchmod,
	.futimens = sim_futimens,
	.list_begin = sim_list_begin,
	.list_next = sim_list_next,
	.list_end = sim_list_end,
	.flistxattr = sim_flistxattr,
	.fgetxattr = sim_fgetxattr,
	.fsetxattr = sim_fsetxattr,
	.syncfs = sim_syncfs,
};
