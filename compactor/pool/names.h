/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_NAMES_H
#define DEDUPSCAN_NAMES_H

#include <limits.h>
#include <string.h>

#include "compactor/pool/pool.h"
#include "scanner/base/vec.h"

/* What a pool keeps: names, each a small file in names/, published by rename.  What no name reaches is garbage.
 *
 * There are two kinds.  A *member* is an image at its path now: an overlay on a view.  A *version* is a set of disks as they
 * were at one moment (all disks of a VM), with small files beside them, such as its libvirt XML; its disks lie in the pool (a
 * root) or wait in sealed overlays to be folded in.  Names are numbered in one ascending sequence, never twice; no clock decides
 * anything. */

enum name_kind { NAME_MEMBER = 1, NAME_VERSION };

/* What took an overlay's place when it was expanded, noted before that; while something else is at the path it means nothing. */
struct name_expanded {
	uint64_t inode, born; /* of that file: its inode number, and when it was made, ns since 1970 (struct file_birth) */
	uint64_t original;    /* inode number of the overlay */
};

struct name_disk {
	char path[PATH_MAX]; /* of the image, absolute */
	uint64_t size;	     /* of the disk, bytes */
	bool folded;	     /* version: root says what it holds; else the overlay sealed/<sealed>.qcow2 does.  Member: root is its
			      * view's */
	uint8_t root[DIGEST_SIZE];
	uint8_t view[POOL_ID_SIZE]; /* at the bottom of its chain; of a folded version: a view of the root.  Null = there is none */
	uint8_t sealed[POOL_ID_SIZE]; /* version: the overlay that was sealed for it, which may still be there when it is folded, as
				       * others stand on it; null = none */
	uint8_t below[POOL_ID_SIZE];  /* the sealed overlay that the member's, or the version's sealed one, stands on; null =
				       * none */
	uint64_t inode; /* of the image while it is being sealed (compactor/seal.h), when the version is none yet; 0 = it is
			 * settled */
	uint64_t written; /* when the sealed overlay was last written to before it was sealed, ns since 1970; 0 = that is not
			   * noted */
	uint64_t length; /* of its file, bytes; 0 = that is not noted, nor is l1 */
	uint32_t l1;	 /* a checksum of its L1 table and of what leads there (seal_notes.h) */
	struct name_expanded expanded; /* member; inode 0 = it was not */
};

struct name_file {
	char path[PATH_MAX];
	uint32_t len; /* at most 1 MiB */
	uint8_t *bytes;
};

struct name {
	enum name_kind kind;
	uint64_t number;	/* 0 = not published yet */
	char label[256];	/* version: what the user calls it; member: "" */
	int64_t made;		/* seconds since 1970, for people and retention */
	VEC(struct name_disk) disks; /* member: one */
	VEC(struct name_file) files;
};
void name_release(struct name *n);
CLEANUP_DEFINE_RELEASE(struct name, name_release)

#define NAME_DISKS_MAX 256
#define NAME_FILES_MAX 256
#define NAME_FILE_MAX (1u << 20)

/* Gives it the next number and publishes it: written beside, synced, read back, renamed; and the directory synced, unless `sync` is
 * false: then that is up to the caller. */
int names_publish(struct pool *p, struct name *n, bool sync, struct err *err);
/* Publishes n in the place of number `old`, atomically: the new file replaces the old one, n has its number. */
int names_replace(struct pool *p, uint64_t old, struct name *n, struct err *err);
int names_remove(struct pool *p, uint64_t number, struct err *err);

/* For who has other things to sync at the same time: a promise is a name that is written, and appears later.
 *
 *	names_promise()		gives it the next number and writes it; *ret_fd is to be synced, and the directory
 *	names_reread()		once that was done: what the disk has is what was written; closes the descriptor
 *	names_keep()		now it is a name: a rename, which nobody needs to sync
 *
 * A promise outlives the process and power cuts, when it is synced; versions_recover() decides about it.  names_break() takes one
 * back. */
int names_promise(struct pool *p, struct name *n, int *ret_fd, struct err *err);
/* The same for what is to take the place of the name that has n's number; that is no promise: it is gone with the process. */
int names_rewrite(struct pool *p, const struct name *n, int *ret_fd, struct err *err);
int names_reread(struct pool *p, int fd, uint64_t number, struct err *err); /* fd -1: a promise, whose descriptor was closed */
int names_keep(struct pool *p, const struct name *n, struct err *err);
int names_put_rewritten(struct pool *p, const struct name *n, struct err *err);
int names_break(struct pool *p, uint64_t number, struct err *err);
/* Removes what names_rewrite() wrote, also other processes that died. */
int names_drop(struct pool *p, struct err *err);
/* Promises that are neither kept nor broken, synced now, for who gave them may have died before he did; n is NULL for one that is
 * not whole: it never was. */
int names_each_promise(struct pool *p, int (*call)(void *ctx, uint64_t number, const struct name *n, struct err *err), void *ctx,
		       struct err *err);

/* All names in order of number, until a call returns other than 0; that is returned then.  A file that cannot be read is an
 * error, and so is one that does not decode: nothing is passed over. */
int names_each(struct pool *p, int (*call)(void *ctx, const struct name *n, struct err *err), void *ctx, struct err *err);
/* The same, but that `damaged` gets those that cannot be read or decoded, and it goes on.  NULL = they are an error. */
int names_each_or(struct pool *p, int (*call)(void *ctx, const struct name *n, struct err *err),
		  int (*damaged)(void *ctx, uint64_t number, const struct err *why, struct err *err), void *ctx, struct err *err);
/* The member at a path (the newest one); the newest settled version with this label (of a set that has a disk at `path`, unless
 * NULL): 1, 0, -1. */
int names_find_member(struct pool *p, const char *path, struct name *ret, struct err *err);
int names_find_version(struct pool *p, const char *path, const char *label, struct name *ret, struct err *err);
/* The first version with a disk that this overlay was sealed for; the name of a number: 1, 0, -1. */
int names_find_sealed(struct pool *p, const uint8_t sealed[POOL_ID_SIZE], struct name *ret, struct err *err);
int names_find_number(struct pool *p, uint64_t number, struct name *ret, struct err *err);
/* As names_each(), of those that have a row which `may` be meant; only these are read. */
struct name_row;
int names_each_row(struct pool *p, bool (*may)(void *ctx, const struct name_row *row),
		   int (*call)(void *ctx, const struct name *n, struct err *err), void *ctx, struct err *err);

/* What names are found by: a row for each disk of each name, in no order.  Rows are remembered while the pool is open, and from one
 * process to the next in index/names, so that one of many names is found without reading all.  They say where to look; what is
 * told of a name is read from its own file. */
struct name_row {
	uint64_t number; /* 0 = none */
	uint64_t path;	 /* a hash of it */
	uint32_t label;	 /* as well; 0 = it has none */
	uint32_t flags;
	uint8_t sealed[POOL_ID_SIZE], below[POOL_ID_SIZE];
};
#define NAME_ROW_MEMBER 1
#define NAME_ROW_PENDING 2 /* one of its disks is being sealed */
#define NAME_ROW_FOLDED 4
/* Valid until a name is changed, or looked for. */
int names_rows(struct pool *p, const struct name_row **ret, size_t *ret_nr, struct err *err);
/* They were saved by one who left nothing to be finished: there are no promises. */
bool names_are_tidy(const struct pool *p);
/* Before sealed/ is changed for a name that is to come: whoever comes next has to look at everything, unless the rows are saved. */
void names_will_change(struct pool *p);
/* Sweeping: removing from sealed/ what no name knows, forgetting members and versions that nobody needs.  True = the last one left
 * nothing of that, and nobody was there since. */
bool names_need_no_sweep(const struct pool *p);
/* sealed/ was swept, and no member is replaced; what is changed from here on is looked at when the rows are saved.  `all`: nothing
 * was left, to somebody who had it open, say. */
void names_swept(struct pool *p, bool all);
/* Who swept, or needed not, ends well.  Else the next one sweeps. */
void names_left_nothing(struct pool *p);
/* No member came since then to the path of another that stands on the same sealed overlay, or on none, too. */
bool names_replace_none(const struct pool *p);
/* Somebody failed: whoever comes next has to look at everything. */
void names_distrust(struct pool *p);
/* Saves them for the next process, and forgets them. */
void names_forget(struct pool *p);

int name_copy(const struct name *n, struct name *ret, struct err *err);
bool name_is_settled(const struct name *n); /* no disk of it is being sealed */
const struct name_disk *name_find_disk(const struct name *n, const char *path); /* NULL = it has none there */
static inline bool name_id_is_null(const uint8_t id[POOL_ID_SIZE])
{
	static const uint8_t null[POOL_ID_SIZE];

	return memcmp(id, null, POOL_ID_SIZE) == 0;
}

static inline bool pool_id_same(const uint8_t a[POOL_ID_SIZE], const uint8_t b[POOL_ID_SIZE])
{
	return memcmp(a, b, POOL_ID_SIZE) == 0;
}

/* Encoding: text, for fuzzing and tests.  Returns bytes to free. */
int name_encode(const struct name *n, char **ret, size_t *ret_len, struct err *err);
int name_decode(const char *text, size_t len, struct name *ret, struct err *err);

#endif
