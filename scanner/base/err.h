/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_ERR_H
#define DEDUPSCAN_ERR_H

/* Errors: one line to fail, one place to speak.
 *
 * A function that can fail returns 0 or -1 (or a pointer or NULL) and takes `struct err *err` last: a plain struct on
 * the caller's stack.  Nothing is allocated and nothing is global.  The lowest function that knows what happened calls
 * err_set() or err_errno(); callers put context in front with err_add(); only the front door prints.
 *
 * `err` may be NULL where the caller does not care. */

enum err_kind {
	ERR_NONE,
	ERR_IO,		 /* the operating system said no; errnum says how */
	ERR_FORMAT,	 /* bytes that break their format's rules */
	ERR_UNSUPPORTED, /* valid, but nothing here reads it */
	ERR_AMBIGUOUS,	 /* bytes that can be taken for several things */
	ERR_PART,	 /* a part of something larger, nothing of its own */
	ERR_REFUSED,	 /* could be done, but must not: a name that leads outside the roots, say */
	ERR_BUSY,	 /* somebody else has it; try later */
	ERR_MEMORY,	 /* an allocation failed or the limit is too small */
	ERR_FULL,	 /* no space left, quota or file size limit reached */
	ERR_STALE,	 /* it changed while we looked */
	ERR_CANCELED,	 /* we were asked to stop */
	ERR_USAGE,	 /* the user's words are off */
};

struct err {
	enum err_kind kind;
	int errnum; /* errno of the failed call, or 0 */
	char text[496];
};

#define ERR_INIT ((struct err){ .kind = ERR_NONE })

/* Records a failure and returns -1, so that `return err_set(err, ...)` is the whole of failing. */
int err_set(struct err *err, enum err_kind kind, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* The same from errno: picks the kind (ENOSPC, EDQUOT, EFBIG: ERR_FULL; ENOMEM: ERR_MEMORY; EAGAIN, EBUSY, ETXTBSY: ERR_BUSY;
 * else ERR_IO) and appends ": No such file or directory" or its like. */
int err_errno(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The same where the user named it: that it is not there is ERR_USAGE. */
int err_named(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Puts "context: " in front of the text on the way up.  Returns -1. */
int err_add(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* For functions that return pointers: `return err_null(err, ERR_FORMAT, "...")`. */
#define err_null(...) (err_set(__VA_ARGS__), NULL)

/* "io", "format", ...: how a kind is called in the catalog and in JSON. */
const char *err_kind_name(enum err_kind kind);

#endif
