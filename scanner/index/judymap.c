/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/index/judymap.h"

#include <Judy.h>

/* Judy arrays behind functions.
 *
 * Judy's macros (JLI, J1S, ...) print and exit(1) on an error, so the functions are called here and their answers
 * checked: a pointer is PPJERR, an integer is JERR.  The only errors that can happen are lack of memory and a
 * corrupted array; the second is our own mistake.  Everything but insertion neither allocates nor changes anything, and
 * for it an error means "not there". */

_Static_assert(sizeof(Word_t) == sizeof(uint64_t), "Judy's words are 64 bits");

static uint64_t *slot(PPvoid_t p)
{
	return p == PPJERR ? NULL : (uint64_t *)p;
}

uint64_t *judymap_put(struct judymap *m, uint64_t key)
{
	JError_t e;

	return slot(JudyLIns(&m->root, key, &e));
}

uint64_t *judymap_get(const struct judymap *m, uint64_t key)
{
	JError_t e;

	return slot(JudyLGet(m->root, key, &e));
}

uint64_t *judymap_last(const struct judymap *m, uint64_t *key)
{
	JError_t e;
	Word_t k = *key;
	uint64_t *ret = slot(JudyLLast(m->root, &k, &e));

	if (ret)
		*key = k;
	return ret;
}

void judymap_release(struct judymap *m)
{
	JError_t e;

	JudyLFreeArray(&m->root, &e);
}

int judyset_add(struct judyset *s, uint64_t key)
{
	JError_t e;
	int rc = Judy1Set(&s->root, key, &e);

	return rc == JERR ? -1 : rc;
}

bool judyset_has(const struct judyset *s, uint64_t key)
{
	JError_t e;

	return Judy1Test(s->root, key, &e) == 1;
}

uint64_t judyset_count(const struct judyset *s)
{
	JError_t e;

	return Judy1Count(s->root, 0, UINT64_MAX, &e);
}

bool judyset_first(const struct judyset *s, uint64_t *key)
{
	JError_t e;
	Word_t k = *key;

	if (Judy1First(s->root, &k, &e) != 1)
		return false;
	*key = k;
	return true;
}

void judyset_release(struct judyset *s)
{
	JError_t e;

	Judy1FreeArray(&s->root, &e);
}
