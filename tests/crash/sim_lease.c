/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>

#include "tests/crash/sim_parts.h"

/* Leases, locks of open files, and other processes that wait, by the rules of fs/locks.c in Linux.
 *
 * An open that a lease forbids asks for it back ("breaking") and waits; one that waits counts as having the file
 * open.  Of a write lease a reader leaves a read lease. */

static unsigned nr_openers(const struct sim *s, unsigned node, const struct opened *but, bool writers)
{
	unsigned nr = 0;

	for (size_t i = 0; i < s->fds.nr; i++) {
		const struct opened *o = s->fds.items[i];

		nr += o && o != but && o->node == node && !(o->flags & O_PATH) && (!writers || opened_writes(o));
	}
	for (size_t i = 0; i < s->visitors.nr; i++) {
		int mode = s->visitors.items[i].flags & O_ACCMODE;

		nr += s->visitors.items[i].node == node && !s->visitors.items[i].at && (!writers || mode != O_RDONLY);
	}
	return nr;
}

static bool others_hold(const struct sim *s, const struct opened *o, int type)
{
	for (size_t i = 0; i < s->fds.nr; i++) {
		const struct opened *p = s->fds.items[i];

		if (p && p != o && p->node == o->node && p->lease != F_UNLCK &&
		    (type == F_WRLCK || p->lease == F_WRLCK || p->breaking == F_UNLCK))
			return true;
	}
	return false;
}

int sim_lease_take(struct sim *s, struct opened *o, int type)
{
	int was;

	if ((type != F_RDLCK && type != F_WRLCK && type != F_UNLCK) || !S_ISREG(node_get(&s->live, o->node)->a.mode))
		return errno = EINVAL, -1;
	if (type == F_UNLCK && o->lease == F_UNLCK)
		return errno = EAGAIN, -1;
	if (type == F_UNLCK) {
		o->lease = o->breaking = F_UNLCK;
		sim_wake(s, o->node);
		return 0;
	}
	if (type == F_RDLCK ? nr_openers(s, o->node, NULL, true) : nr_openers(s, o->node, o, false))
		return errno = EAGAIN, -1;
	if (others_hold(s, o, type))
		return errno = EAGAIN, -1;
	was = o->lease;
	if (o->lease == F_UNLCK || o->breaking == o->lease || (type == F_RDLCK && o->breaking == F_RDLCK))
		o->breaking = type;
	o->lease = type;
	if (was == F_WRLCK && type == F_RDLCK)
		sim_wake(s, o->node);
	return 0;
}

int sim_lease_get(const struct opened *o)
{
	return o->breaking;
}

static bool forbids(const struct opened *o, int flags)
{
	return o->lease == F_WRLCK || (o->lease == F_RDLCK && (flags & O_ACCMODE) != O_RDONLY);
}

static bool is_forbidden(const struct sim *s, unsigned node, int flags)
{
	for (size_t i = 0; i < s->fds.nr; i++) {
		const struct opened *o = s->fds.items[i];

		if (o && o->node == node && forbids(o, flags))
			return true;
	}
	return false;
}

bool sim_lease_conflict(struct sim *s, unsigned node, int flags)
{
	int wanted = (flags & O_ACCMODE) == O_RDONLY ? F_RDLCK : F_UNLCK;

	for (size_t i = 0; i < s->fds.nr; i++) {
		struct opened *o = s->fds.items[i];

		if (o && o->node == node && forbids(o, flags) && o->breaking != F_UNLCK)
			o->breaking = wanted;
	}
	return is_forbidden(s, node, flags);
}

void sim_lease_drop(struct sim *s, unsigned node)
{
	for (size_t i = 0; i < s->fds.nr; i++) {
		struct opened *o = s->fds.items[i];

		if (o && o->node == node)
			o->lease = o->breaking;
	}
	sim_wake(s, node);
}

unsigned sim_nr_waiting(const struct sim *s)
{
	unsigned nr = 0;

	for (size_t i = 0; i < s->visitors.nr; i++)
		nr += !s->visitors.items[i].at;
	return nr;
}

void sim_break_leases(struct sim *s)
{
	for (unsigned i = 0; i < s->live.nodes.nr; i++)
		sim_lease_drop(s, i);
}

static void lets_go(struct sim *s)
{
	if (!s->outside && s->calls.nr)
		s->calls.items[s->calls.nr - 1] |= CALL_LETS_GO;
}

void sim_wake(struct sim *s, unsigned node)
{
	lets_go(s);
	for (size_t i = 0; i < s->visitors.nr;) {
		struct visitor v = s->visitors.items[i];
		bool was;
		int fd;

		if (v.at || v.node != node || is_forbidden(s, node, v.flags)) {
			i++;
			continue;
		}
		s->visitors.items[i] = s->visitors.items[--s->visitors.nr];
		was = sim_outside(s, true);
		fd = sim_new_fd(s, node, v.flags);
		if (v.granted)
			v.granted(v.ctx, s, fd);
		sim_outside(s, was);
		i = 0;
	}
}

void sim_late_visits(struct sim *s, unsigned at)
{
	for (size_t i = 0; i < s->visitors.nr; i++) {
		struct visitor v = s->visitors.items[i];

		if (!v.at || v.at != at)
			continue;
		s->visitors.items[i].at = 0;
		if (!sim_lease_conflict(s, v.node, v.flags)) {
			bool was = sim_outside(s, true);

			sim_wake(s, v.node);
			sim_outside(s, was);
			i = (size_t)-1;
		}
	}
}

void sim_hurry(struct sim *s)
{
	for (size_t i = 0; i < s->visitors.nr; i++)
		if (s->visitors.items[i].at)
			s->visitors.items[i].at = UINT_MAX;
	sim_late_visits(s, UINT_MAX);
}

/* ---- locks ---- */

static int range_of(const struct flock *l, struct lock *ret)
{
	if (l->l_pid || l->l_whence != SEEK_SET || l->l_start < 0)
		return errno = EINVAL, -1;
	ret->type = l->l_type;
	ret->begin = l->l_len < 0 ? l->l_start + l->l_len : l->l_start;
	ret->last = l->l_len == 0 ? INT64_MAX : l->l_len < 0 ? l->l_start - 1 : l->l_start + l->l_len - 1;
	return ret->begin < 0 ? (errno = EINVAL, -1) : 0;
}

static const struct lock *in_the_way(const struct sim *s, const struct opened *o, const struct lock *l)
{
	const struct lock *first = NULL;

	for (size_t i = 0; i < s->locks.nr; i++) {
		const struct lock *k = &s->locks.items[i];

		if (k->o != o && k->o->node == o->node && k->begin <= l->last && l->begin <= k->last &&
		    (k->type == F_WRLCK || l->type == F_WRLCK) && (!first || k->begin < first->begin))
			first = k;
	}
	return first;
}

static void cut_out(struct sim *s, const struct lock *l)
{
	for (size_t i = 0; i < s->locks.nr;) {
		struct lock k = s->locks.items[i];

		if (k.o != l->o || k.last < l->begin || l->last < k.begin) {
			i++;
			continue;
		}
		s->locks.items[i] = s->locks.items[--s->locks.nr];
		if (k.begin < l->begin && vec_push(&s->locks, (struct lock){ k.o, k.type, k.begin, l->begin - 1 }) < 0)
			abort();
		if (k.last > l->last && vec_push(&s->locks, (struct lock){ k.o, k.type, l->last + 1, k.last }) < 0)
			abort();
		i = 0;
	}
}

int sim_lock_set(struct sim *s, struct opened *o, const struct flock *l)
{
	struct lock k = { .o = o };

	if (range_of(l, &k) < 0)
		return -1;
	if ((k.type == F_WRLCK && !opened_writes(o)) || (k.type == F_RDLCK && !opened_reads(o)))
		return errno = EBADF, -1;
	if (k.type != F_UNLCK && in_the_way(s, o, &k))
		return errno = EAGAIN, -1;
	cut_out(s, &k);
	if (k.type != F_UNLCK && vec_push(&s->locks, k) < 0)
		abort();
	return 0;
}

int sim_lock_get(struct sim *s, struct opened *o, struct flock *l)
{
	struct lock k = { .o = o };
	const struct lock *found;

	if (range_of(l, &k) < 0)
		return -1;
	found = in_the_way(s, o, &k);
	if (!found) {
		l->l_type = F_UNLCK;
		return 0;
	}
	*l = (struct flock){ .l_type = (short)found->type, .l_whence = SEEK_SET, .l_start = found->begin,
			     .l_len = found->last == INT64_MAX ? 0 : found->last - found->begin + 1, .l_pid = -1 };
	return 0;
}

void sim_locks_drop(struct sim *s, const struct opened *o)
{
	for (size_t i = 0; i < s->locks.nr;)
		if (s->locks.items[i].o == o)
			s->locks.items[i] = s->locks.items[--s->locks.nr];
		else
			i++;
}
