/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_TESTS_SIM_H
#define DEDUPSCAN_TESTS_SIM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

/* A file system in memory that stands behind the file seam (scanner/base/file.h), with all that can go wrong.
 *
 *	struct sim *s = sim_new(NULL);
 *	sim_use(s);				every file_*() and file_ops->...() now works on it
 *	... file_write_atomic(sim_root(s), ...) ...
 *	sim_states(s, NULL, look, ctx);		every state that a power cut could have left
 *	sim_use(NULL);
 *	sim_free(s);
 *
 * Files are sparse, directories nest, leases, locks, holes, shared blocks, extended attributes and inode flags are
 * those of Linux; test_sim.c holds it against the kernel.  Left out: symbolic links, linkat(), permissions (the
 * caller is root).
 *
 * Everything is deterministic; there are no threads.  Out of memory aborts: this is for tests only. */

struct sim;

/* Zeros are XFS with 4 GiB. */
struct sim_options {
	uint64_t nr_blocks;  /* of 4 KiB */
	uint64_t granule_ns; /* of time stamps; 0 = every change has its own */
	unsigned long fs_type;
	bool no_reflink, no_exchange, no_leases, no_tmpfile;
	bool fresh_inode_numbers; /* else the number of a removed file is given to the next */
};

struct sim *sim_new(const struct sim_options *o);
/* A copy of the files as programs see them, all of it on the disk, nothing open. */
struct sim *sim_clone(const struct sim *s);
void sim_free(struct sim *s);

/* Points file_ops at it; NULL: back at the operating system. */
void sim_use(struct sim *s);
/* A descriptor of "/", which is always open.  Absolute names and AT_FDCWD begin there, too. */
int sim_root(const struct sim *s);

/* What was done so far is on the disk, and the log and all counts begin anew.  What is open stays open. */
void sim_settle(struct sim *s);

/* ---- another process ---- */

/* Between sim_outside(s, true) and (s, false) calls are those of other processes: neither counted nor failed, and
 * what they open outlives a kill.  Setups and checks are outside, too.  Returns what it was before. */
bool sim_outside(struct sim *s, bool outside);

/* Another process opens `path`.  Where a lease forbids it, it waits until that is let go, and gets the file that the
 * name meant when it came.  `granted` is called (outside) once it has the file, and closes fd or leaves it
 * open.  Returns the descriptor, -1 if it waits, -2 with errno if it fails. */
int sim_visit(struct sim *s, const char *path, int flags, void (*granted)(void *ctx, struct sim *s, int fd), void *ctx);
/* The same by a process that finds the file now and opens it before call `at` only, when its name may mean
 * another.  Calls `granted` then. */
int sim_visit_late(struct sim *s, const char *path, unsigned at, int flags,
		   void (*granted)(void *ctx, struct sim *s, int fd), void *ctx);
/* Who has found a file opens it now. */
void sim_hurry(struct sim *s);
/* How many wait for a lease. */
unsigned sim_nr_waiting(const struct sim *s);
/* /proc/sys/fs/lease-break-time is over: who waits gets what he waits for. */
void sim_break_leases(struct sim *s);

/* ---- at the n-th call ---- */

/* Kinds of calls, in the order of struct file_ops. */
enum sim_call {
	SIM_OPEN, SIM_OPEN2, SIM_CLOSE, SIM_READ, SIM_WRITE, SIM_FDATASYNC, SIM_FSYNC, SIM_TRUNCATE, SIM_RENAME,
	SIM_UNLINK, SIM_MKDIR, SIM_STAT, SIM_STATAT, SIM_STATFS, SIM_SEEK, SIM_ALLOCATE, SIM_ADVISE, SIM_IOCTL, SIM_FCNTL,
	SIM_CHOWN, SIM_CHMOD, SIM_TIMES, SIM_LIST, SIM_LISTXATTR, SIM_GETXATTR, SIM_SETXATTR, SIM_SYNCFS,
	SIM_NR_CALLS
};
const char *sim_call_name(enum sim_call c);

/* Calls so far, and how many of them changed something or synced (for kills). */
unsigned sim_nr_calls(const struct sim *s);
unsigned sim_nr_changes(const struct sim *s);
/* The kind of the n-th call, from 1, and whether it changes something or syncs. */
enum sim_call sim_call_kind(const struct sim *s, unsigned n);
bool sim_call_changes(const struct sim *s, unsigned n);
/* Whether it let go of a lease. */
bool sim_call_lets_go(const struct sim *s, unsigned n);

/* Calls `f`, outside, before the n-th call from now (after it). */
void sim_before(struct sim *s, unsigned n, void (*f)(void *ctx, struct sim *s), void *ctx);
void sim_after(struct sim *s, unsigned n, void (*f)(void *ctx, struct sim *s), void *ctx);

enum sim_how {
	SIM_FAIL,  /* -1 and errnum, nothing done.  A failed sync loses what it should have saved, for good: the next
		    * succeeds, programs still see the data until the cache is dropped, and the disk never does. */
	SIM_SHORT, /* a read or write of half the bytes */
	SIM_LIE,   /* "done", but it never reaches the disk: a write (seen until the cache is dropped), a sync */
	SIM_FLIP,  /* a write of which one bit is wrong on the disk; a read of which one bit is wrong */
};
/* What happens to the n-th call, from 1.  `for_good`: and to all of its kind after it. */
struct sim_fault {
	unsigned at;
	enum sim_how how;
	int errnum;
	bool for_good;
};
void sim_set_fault(struct sim *s, struct sim_fault f);
/* The same for the n-th call of one kind. */
void sim_set_fault_of(struct sim *s, enum sim_call kind, struct sim_fault f);

/* The process is killed before its n-th change, from 1: from there every call fails with EIO and does nothing, until
 * the workflow has returned.  After it sim_restart(). */
void sim_kill_at(struct sim *s, unsigned n);
bool sim_killed(const struct sim *s);
/* The process is gone: closes what it had open (leases and locks go), takes back kills and faults, counts from 1. */
void sim_restart(struct sim *s);
/* Memory is dropped: what programs see from here on is what the disk would say if it were synced. */
void sim_drop_caches(struct sim *s);

/* Descriptors that the process has open, without sim_root(). */
unsigned sim_nr_open(const struct sim *s);
/* How often the process waited for a lease of its own: always a mistake. */
unsigned sim_nr_self_waits(const struct sim *s);
/* Whether the process ever opened what is at `path`, other than by O_PATH. */
bool sim_was_opened(const struct sim *s, const char *path);

/* ---- looking ---- */

/* The whole file, allocated; NULL if there is none. */
uint8_t *sim_content(const struct sim *s, const char *path, uint64_t *ret_len);
int sim_stat(const struct sim *s, const char *path, struct stat *ret);
/* A digest of owner, mode, time of change, inode flags and extended attributes; 0 if there is no such file. */
uint64_t sim_attributes(const struct sim *s, const char *path);
/* A digest of all names, contents and attributes, but no inode numbers and no ctime. */
uint64_t sim_digest(const struct sim *s);
/* Calls for everything but "/", parents first, in order, until a call returns other than 0, which it returns. */
int sim_each_path(const struct sim *s, int (*call)(void *ctx, const char *path, const struct stat *st), void *ctx);

/* ---- power cuts ---- */

/* The log has an entry for every change and every sync.  Data, size and allocation of a file are on the disk after
 * fsync or fdatasync of the file; owner, mode, times, flags and extended attributes after fsync; names after fsync
 * of the directory, or of one of both for a rename, which is one thing however many directories and names it
 * touches.  A sync of a new file does not save its name, and one of a directory saves no data.  What is not saved
 * may be on the disk or not, each on its own and in any order, except that a change of a name needs those before it
 * of the same name or file. */
struct sim_cuts {
	unsigned pairs_max;  /* pairs of lost changes tried for each sync; 0 = 500, UINT_MAX = all */
	bool every_point;    /* try all for every entry of the log, not only before syncs */
	bool weak_renames;   /* also renames of which one half is on the disk (no journalling file system does that) */
	bool whole_sectors;  /* what lies within a sector of 512 bytes is there or not, never something else */
	bool sync_keeps_name; /* a sync of a new file saves its name, too: as ext4, XFS and btrfs happen to do */
	unsigned from;	     /* the first entry of the log after which power fails */
};

struct sim_cut {
	unsigned at;	  /* power failed after so many entries of the log */
	bool at_end;	  /* which are all */
	const char *kind; /* "all kept", "one lost", "torn", ... */
	char what[160];	  /* which entries, in words */
};

/* Calls for every state that is possible, each a sim of its own that the call may use and change, but not free; what
 * looks the same is tried once.  Stops at the first other than 0 and returns it.  *ret_nr counts the states; may be
 * NULL. */
int sim_states(const struct sim *s, const struct sim_cuts *o,
	       int (*call)(void *ctx, struct sim *state, const struct sim_cut *cut), void *ctx, uint64_t *ret_nr);

/* The log as text, one entry a line. */
char *sim_log(const struct sim *s);
unsigned sim_log_len(const struct sim *s);
/* The number of the n-th entry, from 0, whose line begins with `what`; UINT_MAX: none. */
unsigned sim_log_find(const struct sim *s, const char *what, unsigned n);
/* Mistakes to be caught: entry `from` moves in front of entry `to`, as if the program had called in that order. */
void sim_log_move(struct sim *s, unsigned from, unsigned to);

#endif
