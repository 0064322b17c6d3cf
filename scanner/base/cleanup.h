/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_CLEANUP_H
#define DEDUPSCAN_CLEANUP_H

#include <stdlib.h>
#include <unistd.h>

/* Scope cleanup.  `CLEANUP(free) char *p = ...;` frees p at the end of its scope; STEAL(p) hands it out on success.
 *
 * CLEANUP(f) needs f_cleanup(T *), made by CLEANUP_DEFINE(T, f) from a f(T) that takes NULL. */

#define CLEANUP(func) __attribute__((cleanup(func##_cleanup)))

#define CLEANUP_DEFINE(type, func)                                                                                     \
	static inline void func##_cleanup(type *p)                                                                     \
	{                                                                                                              \
		func(*p);                                                                                              \
	}

/* For structs one owns: `CLEANUP(x_release) struct x x = X_INIT;` with x_release(struct x *). */
#define CLEANUP_DEFINE_RELEASE(type, func)                                                                             \
	static inline void func##_cleanup(type *p)                                                                     \
	{                                                                                                              \
		func(p);                                                                                               \
	}

#define STEAL(p)                                                                                                       \
	__extension__({                                                                                                \
		__typeof__(p) stolen_ = (p);                                                                           \
		(p) = NULL;                                                                                            \
		stolen_;                                                                                               \
	})

#define STEAL_FD(fd)                                                                                                   \
	__extension__({                                                                                                \
		int stolen_ = (fd);                                                                                    \
		(fd) = -1;                                                                                             \
		stolen_;                                                                                               \
	})

static inline void free_cleanup(void *p)
{
	free(*(void **)p);
}

static inline void close_fd_cleanup(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

#endif
