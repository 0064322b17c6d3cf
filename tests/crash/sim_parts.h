/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_TESTS_SIM_PARTS_H
#define DEDUPSCAN_TESTS_SIM_PARTS_H

#include <fcntl.h>
#include <linux/fs.h>

#include "scanner/base/file.h"
#include "scanner/base/vec.h"
#include "tests/crash/sim.h"

/* What the files of the simulator share.
 *
 * A state is an array of nodes (files and directories) by number; numbers are never used twice.  Nodes and pages are
 * shared between states by reference counts and copied when changed, so that a state costs an array of pointers. */

#define PAGE ((uint64_t)4096)
#define FIRST_FD 1000
#define ROOT_NODE 1

struct page {
	unsigned refs;
	uint64_t id; /* its place on the disk, in pages */
	uint8_t data[PAGE];
};

struct entry {
	uint64_t index;
	struct page *page; /* NULL: allocated, not written */
	bool shared;	   /* with other places by reflink */
};

struct name {
	char *name;
	unsigned node;
};

struct xattr {
	char *name;
	uint8_t *value;
	size_t len;
};

struct attributes {
	mode_t mode;
	uid_t uid;
	gid_t gid;
	int64_t atime, mtime; /* ns */
	uint32_t flags;
	struct fsxattr x;
};

struct node {
	unsigned refs;
	uint64_t ino;
	unsigned nlink;
	uint64_t size;
	int64_t ctime;
	struct attributes a;
	unsigned parent; /* of directories */
	VEC(struct entry) pages;
	VEC(struct name) names;
	VEC(struct xattr) xattrs;
};

struct state {
	VEC(struct node *) nodes;
	uint64_t used; /* pages that are not shared */
};

enum op_kind { OP_CREATE, OP_RENAME, OP_EXCHANGE, OP_UNLINK, OP_WRITE, OP_TRUNCATE, OP_PUNCH, OP_ALLOCATE, OP_CLONE,
	       OP_ATTR, OP_XATTR, OP_SYNC };
enum { ATTR_MODE = 1, ATTR_OWNER = 2, ATTR_ATIME = 4, ATTR_MTIME = 8, ATTR_FLAGS = 16 };

struct op {
	enum op_kind kind;
	unsigned node;		     /* what it is done to; of a rename: what gets the new name */
	unsigned node2;		     /* of an exchange: the other; of a rename: what loses its name, or 0 */
	unsigned dir, dir2;	     /* of the name, of the new name; 0: none (O_TMPFILE) */
	char *name, *name2;	     /* of an OP_XATTR: its name */
	uint64_t offset, len;	     /* of an OP_CREATE: offset is the inode number */
	bool keep_size;		     /* OP_ALLOCATE */
	uint8_t *data;		     /* OP_WRITE, OP_XATTR */
	VEC(struct entry) pages;     /* OP_CLONE; index counts from offset */
	unsigned what;		     /* OP_ATTR */
	struct attributes a;	     /* OP_CREATE, OP_ATTR */
	int64_t now;
	bool lost;		     /* never reaches the disk */
	bool flipped;		     /* reaches it with a wrong bit */
	bool datasync, failed, lied; /* OP_SYNC */
	unsigned call;		     /* the seam call that did it; 0: outside */

	unsigned durable; /* number of the entry that saved it, UINT_MAX: none */
};

/* How much of a change is on the disk. */
enum how {
	HOW_ALL,
	HOW_SIZE,    /* of a write: the size, not the data */
	HOW_GARBAGE, /* of a write: the size, and what was on the disk before */
	HOW_FIRST,   /* of a write: the bytes in front of `cut` */
	HOW_LAST,    /* of a write: the bytes from `cut` on */
	HOW_NEW,     /* of a rename: the new names only */
	HOW_OLD,     /* of a rename: the old names are gone, only */
};

void state_init(struct state *st);
void state_copy(struct state *to, const struct state *from);
void state_release(struct state *st);
struct node *node_get(const struct state *st, unsigned nr);	/* NULL: none */
struct node *node_change(struct state *st, unsigned nr);	/* to be changed */
void node_drop(struct state *st, unsigned nr);
/* Drops what has no name. */
void state_mount(struct state *st);
void state_apply(struct state *st, const struct op *op, enum how how, uint64_t cut);

void node_read(const struct node *n, uint8_t *buf, uint64_t len, uint64_t offset);
/* The first entry at or after a page index; its position may be nr. */
size_t node_find_page(const struct node *n, uint64_t index);
unsigned node_find_name(const struct node *dir, const char *name); /* the node; 0: none */
struct xattr *node_find_xattr(const struct node *n, const char *name);
/* The node at an absolute path; 0: none. */
unsigned state_find(const struct state *st, const char *path);
void node_stat(const struct node *n, struct stat *ret);

static inline bool op_names(const struct op *op)
{
	return op->kind <= OP_UNLINK;
}
static inline bool op_data(const struct op *op)
{
	return op->kind >= OP_WRITE && op->kind <= OP_CLONE;
}
void op_release(struct op *op);

void *sim_alloc(size_t len);
char *sim_strdup(const char *s);

/* ---- what is open ---- */

struct opened {
	unsigned refs;
	unsigned node;
	int flags;
	bool outside;
	int lease; /* F_UNLCK, F_RDLCK, F_WRLCK */
	int breaking; /* what it is to become, or the same */
	int64_t offset;
};

struct lock {
	const struct opened *o;
	int type;
	int64_t begin, last;
};

struct visitor {
	unsigned at; /* the call before which it opens the file; 0: it waits for a lease */
	unsigned node;
	int flags;
	void (*granted)(void *ctx, struct sim *s, int fd);
	void *ctx;
};

struct hook {
	unsigned at;
	bool after;
	void (*f)(void *ctx, struct sim *s);
	void *ctx;
};

struct sim {
	struct sim_options o;
	struct state base; /* on the disk when the log began */
	struct state live; /* what programs see */
	VEC(struct op) log;
	VEC(struct opened *) fds;
	VEC(struct lock) locks;
	VEC(struct visitor) visitors;
	VEC(struct hook) hooks;
	VEC(uint8_t) calls; /* kinds, with CALL_CHANGES and CALL_LETS_GO */
	VEC(bool) touched; /* nodes the process opened */
	unsigned nr_changes, kill_at, nr_self_waits;
	unsigned nr_of[SIM_NR_CALLS];
	bool killed, outside;
	struct sim_fault fault, fault_of[SIM_NR_CALLS];
	bool fault_hit; /* of the call under way */
	struct sim_fault hit;
	int64_t clock;
};

#define CALL_CHANGES 0x80
#define CALL_LETS_GO 0x40
#define CALL_KIND 0x3f

/* A sim with a copy of the files of a state. */
struct sim *sim_of(const struct sim *like, const struct state *st);
/* Does it and logs it; takes over what the op owns.  Returns its place in the log. */
unsigned sim_do(struct sim *s, struct op op);
struct opened *sim_opened(const struct sim *s, int fd); /* NULL and EBADF */
int sim_new_fd(struct sim *s, unsigned node, int flags);
void sim_forget(struct sim *s, unsigned node); /* drops a node that has neither names nor openers */
void sim_reread(struct sim *s, unsigned node);
bool sim_has_space(const struct sim *s, uint64_t pages);
static inline bool opened_writes(const struct opened *o)
{
	return (o->flags & O_ACCMODE) != O_RDONLY && !(o->flags & O_PATH);
}
static inline bool opened_reads(const struct opened *o)
{
	return (o->flags & O_ACCMODE) != O_WRONLY && !(o->flags & O_PATH);
}

/* sim_lease.c */
int sim_lease_take(struct sim *s, struct opened *o, int type);
int sim_lease_get(const struct opened *o);
/* Whether an open would wait; asks for the lease back. */
bool sim_lease_conflict(struct sim *s, unsigned node, int flags);
void sim_lease_drop(struct sim *s, unsigned node);
void sim_wake(struct sim *s, unsigned node);
void sim_late_visits(struct sim *s, unsigned at);
int sim_lock_set(struct sim *s, struct opened *o, const struct flock *l);
int sim_lock_get(struct sim *s, struct opened *o, struct flock *l);
void sim_locks_drop(struct sim *s, const struct opened *o);

/* sim_ioctl.c */
int sim_do_ioctl(struct sim *s, struct opened *o, unsigned long request, void *arg);

#endif
