/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_VEC_H
#define DEDUPSCAN_VEC_H

#include <stdint.h>
#include <stdlib.h>

/* A growing array of any type:
 *
 *	VEC(struct thing) things = VEC_INIT;
 *	if (vec_push(&things, thing) < 0) -> out of memory
 *	for (size_t i = 0; i < things.nr; i++) use(things.items[i]);
 *	vec_release(&things);
 */

#define VEC(type)                                                                                                      \
	struct {                                                                                                       \
		type *items;                                                                                           \
		size_t nr, room;                                                                                       \
	}

#define VEC_INIT                                                                                                       \
	{                                                                                                              \
		NULL, 0, 0                                                                                             \
	}

/* Makes room for one more; 0, or -1 when memory is out. */
#define vec_reserve(v)                                                                                                 \
	((v)->nr < (v)->room ? 0 : vec_grow_((void **)&(v)->items, &(v)->room, sizeof(*(v)->items)))

#define vec_push(v, ...) (vec_reserve(v) < 0 ? -1 : ((v)->items[(v)->nr++] = (__VA_ARGS__), 0))

#define vec_release(v)                                                                                                 \
	do {                                                                                                           \
		free((v)->items);                                                                                      \
		(v)->items = NULL;                                                                                     \
		(v)->nr = (v)->room = 0;                                                                               \
	} while (0)

static inline int vec_grow_(void **items, size_t *room, size_t size)
{
	size_t more = *room ? *room + *room / 2 + 1 : 16;
	void *p = reallocarray(*items, more, size);

	if (!p)
		return -1;
	*items = p;
	*room = more;
	return 0;
}

#endif
