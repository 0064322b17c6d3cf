/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>

#include "tests/crash/sim_parts.h"

/* Shared blocks, inode flags, maps of extents: by the rules of XFS. */

static int fail(int e)
{
	errno = e;
	return -1;
}

/* generic_remap_checks() of Linux: which part of *len can be shared; 0 and *len, or -1. */
static int may_share(const struct node *a, uint64_t a_at, const struct node *b, uint64_t b_at, uint64_t *len,
		     bool dedupe)
{
	uint64_t nr = *len, whole;

	if (b->a.flags & FS_IMMUTABLE_FL)
		return fail(EPERM);
	if (!nr && (dedupe || a_at == a->size))
		return 0;
	if (a_at > a->size)
		return fail(EINVAL);
	nr = *len = nr ? nr : a->size - a_at;
	if ((a->a.flags ^ b->a.flags) & FS_NOCOW_FL || a_at % PAGE || b_at % PAGE || a_at == a->size)
		return fail(EINVAL);
	if (dedupe && (nr > a->size - a_at || b_at >= b->size || nr > b->size - b_at))
		return fail(EINVAL);
	nr = nr > a->size - a_at ? a->size - a_at : nr;
	if (a_at + nr != a->size || (dedupe && b_at + nr != b->size))
		nr -= nr % PAGE;
	whole = (nr + PAGE - 1) / PAGE * PAGE;
	if (a == b && a_at < b_at + whole && b_at < a_at + whole)
		return fail(EINVAL);
	if (!dedupe && (*len != nr || (nr % PAGE && b_at + nr < b->size)))
		return fail(EINVAL);
	*len = nr;
	return 0;
}

/* Marks the source's pages as shared, which is no change that a program sees. */
static void mark_shared(struct sim *s, struct op *op, unsigned from, uint64_t from_at)
{
	struct node *n = node_change(&s->live, from);

	for (size_t at = node_find_page(n, from_at / PAGE);
	     at < n->pages.nr && n->pages.items[at].index * PAGE < from_at + op->len; at++) {
		struct entry *e = &n->pages.items[at];

		if (!e->page)
			continue;
		s->live.used -= !e->shared;
		e->shared = true;
		e->page->refs++;
		if (vec_push(&op->pages, (struct entry){ e->index - from_at / PAGE, e->page, true }) < 0)
			abort();
	}
}

static void share(struct sim *s, unsigned from, uint64_t from_at, unsigned to, uint64_t to_at, uint64_t len,
		  bool dedupe)
{
	struct op op = { .kind = OP_CLONE, .node = to, .offset = to_at, .len = len };
	struct attributes old = node_get(&s->live, to)->a;
	int64_t ctime = node_get(&s->live, to)->ctime;
	struct node *n;

	mark_shared(s, &op, from, from_at);
	sim_do(s, op);
	n = node_change(&s->live, to);
	if (dedupe) {
		n->a.mtime = old.mtime;
		n->ctime = ctime;
	}
}

static int clone_range(struct sim *s, struct opened *to, const struct file_clone_range *r)
{
	struct opened *from = sim_opened(s, (int)r->src_fd);
	const struct node *a, *b = node_get(&s->live, to->node);
	uint64_t len = r->src_length;

	if (!from || from->flags & O_PATH)
		return fail(EBADF);
	a = node_get(&s->live, from->node);
	if (S_ISDIR(a->a.mode) || S_ISDIR(b->a.mode))
		return fail(EISDIR);
	if (!opened_reads(from) || !opened_writes(to))
		return fail(EBADF);
	if (s->o.no_reflink)
		return fail(EOPNOTSUPP);
	if (may_share(a, r->src_offset, b, r->dest_offset, &len, false) < 0)
		return -1;
	if (len)
		share(s, from->node, r->src_offset, to->node, r->dest_offset, len, false);
	return 0;
}

static bool same_bytes(const struct sim *s, unsigned a, uint64_t a_at, unsigned b, uint64_t b_at, uint64_t len)
{
	uint8_t x[PAGE], y[PAGE];

	for (uint64_t done = 0; done < len; done += PAGE) {
		uint64_t part = len - done < PAGE ? len - done : PAGE;

		node_read(node_get(&s->live, a), x, part, a_at + done);
		node_read(node_get(&s->live, b), y, part, b_at + done);
		if (memcmp(x, y, part) != 0)
			return false;
	}
	return true;
}

/* 0, or an errno, or -1: they differ. */
static int dedupe_one(struct sim *s, struct opened *from, const struct file_dedupe_range *r,
		      struct file_dedupe_range_info *i)
{
	struct opened *to = sim_opened(s, (int)i->dest_fd);
	const struct node *a = node_get(&s->live, from->node), *b = to ? node_get(&s->live, to->node) : NULL;
	uint64_t len = r->src_length;

	if (!to || to->flags & O_PATH)
		return EBADF;
	if (S_ISDIR(b->a.mode))
		return EISDIR;
	if (may_share(a, r->src_offset, b, i->dest_offset, &len, true) < 0)
		return errno;
	if (!same_bytes(s, from->node, r->src_offset, to->node, i->dest_offset, len))
		return -1;
	if (len)
		share(s, from->node, r->src_offset, to->node, i->dest_offset, len, true);
	return 0;
}

static int dedupe_range(struct sim *s, struct opened *from, struct file_dedupe_range *r)
{
	const struct node *n = node_get(&s->live, from->node);

	if (!opened_reads(from) || r->reserved1 || r->reserved2)
		return fail(EINVAL);
	if (S_ISDIR(n->a.mode))
		return fail(EISDIR);
	if (s->o.no_reflink)
		return fail(EOPNOTSUPP);
	if (r->src_offset + r->src_length > n->size)
		return fail(EINVAL);
	for (unsigned i = 0; i < r->dest_count; i++) {
		int e = dedupe_one(s, from, r, &r->info[i]);

		r->info[i].status = e < 0 ? FILE_DEDUPE_RANGE_DIFFERS : -e;
		r->info[i].bytes_deduped = e ? 0 : r->src_length; /* more than is shared, sometimes: so does Linux */
	}
	return 0;
}

static void set_flags(struct sim *s, struct opened *o, uint32_t flags, const struct fsxattr *x)
{
	struct op op = { .kind = OP_ATTR, .node = o->node, .what = ATTR_FLAGS };

	op.a = node_get(&s->live, o->node)->a;
	op.a.flags = flags;
	if (x)
		op.a.x = *x;
	sim_do(s, op);
}

static const struct { uint32_t flag, xflag; } flag_pairs[] = {
	{ FS_IMMUTABLE_FL, FS_XFLAG_IMMUTABLE }, { FS_APPEND_FL, FS_XFLAG_APPEND }, { FS_SYNC_FL, FS_XFLAG_SYNC },
	{ FS_NOATIME_FL, FS_XFLAG_NOATIME }, { FS_NODUMP_FL, FS_XFLAG_NODUMP },
};

static void get_fsxattr(const struct node *n, struct fsxattr *x)
{
	*x = n->a.x;
	for (size_t i = 0; i < sizeof(flag_pairs) / sizeof(flag_pairs[0]); i++) {
		x->fsx_xflags &= ~flag_pairs[i].xflag;
		x->fsx_xflags |= n->a.flags & flag_pairs[i].flag ? flag_pairs[i].xflag : 0;
	}
	x->fsx_nextents = (uint32_t)n->pages.nr;
}

static void set_fsxattr(struct sim *s, struct opened *o, const struct fsxattr *x)
{
	uint32_t flags = node_get(&s->live, o->node)->a.flags;

	for (size_t i = 0; i < sizeof(flag_pairs) / sizeof(flag_pairs[0]); i++) {
		flags &= ~flag_pairs[i].flag;
		flags |= x->fsx_xflags & flag_pairs[i].xflag ? flag_pairs[i].flag : 0;
	}
	set_flags(s, o, flags, x);
}

static uint32_t extent_flags(const struct entry *e)
{
	return e->page ? e->shared ? FIEMAP_EXTENT_SHARED : 0 : FIEMAP_EXTENT_UNWRITTEN;
}

static bool continues(const struct fiemap_extent *x, const struct entry *e)
{
	return x->fe_logical + x->fe_length == e->index * PAGE && x->fe_flags == extent_flags(e) &&
	       (!e->page || x->fe_physical + x->fe_length == e->page->id * PAGE);
}

static int fiemap(const struct sim *s, const struct opened *o, struct fiemap *f)
{
	const struct node *n = node_get(&s->live, o->node);
	uint64_t end = f->fm_length > UINT64_MAX - f->fm_start ? UINT64_MAX : f->fm_start + f->fm_length;
	struct fiemap_extent last = { 0 };
	size_t at = node_find_page(n, f->fm_start / PAGE);
	unsigned nr = 0;

	for (; at < n->pages.nr && n->pages.items[at].index * PAGE < end; at++) {
		const struct entry *e = &n->pages.items[at];

		if (nr && continues(&last, e)) {
			last.fe_length += PAGE;
		} else {
			if (f->fm_extent_count && nr == f->fm_extent_count)
				break;
			last = (struct fiemap_extent){ .fe_logical = e->index * PAGE, .fe_length = PAGE,
						       .fe_physical = e->page ? e->page->id * PAGE : 0,
						       .fe_flags = extent_flags(e) };
			nr++;
		}
		if (f->fm_extent_count)
			f->fm_extents[nr - 1] = last;
	}
	f->fm_mapped_extents = nr;
	if (nr && f->fm_extent_count && at == n->pages.nr)
		f->fm_extents[nr - 1].fe_flags |= FIEMAP_EXTENT_LAST;
	return 0;
}

int sim_do_ioctl(struct sim *s, struct opened *o, unsigned long request, void *arg)
{
	const struct node *n = node_get(&s->live, o->node);

	switch (request) {
	case FICLONERANGE:
		return clone_range(s, o, arg);
	case FICLONE:
		return clone_range(s, o, &(struct file_clone_range){ .src_fd = (int)(intptr_t)arg });
	case FIDEDUPERANGE:
		return dedupe_range(s, o, arg);
	case FS_IOC_GETFLAGS:
		*(int *)arg = (int)n->a.flags;
		return 0;
	case FS_IOC_SETFLAGS:
		set_flags(s, o, (uint32_t)*(int *)arg, NULL);
		return 0;
	case FS_IOC_FSGETXATTR:
		get_fsxattr(n, arg);
		return 0;
	case FS_IOC_FSSETXATTR:
		set_fsxattr(s, o, arg);
		return 0;
	case FS_IOC_FIEMAP:
		return fiemap(s, o, arg);
	}
	return fail(ENOTTY);
}
