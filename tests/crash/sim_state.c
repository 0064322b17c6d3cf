/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/crash/sim_parts.h"

/* Nodes, pages and what changes do to them.  state_apply() is the only place where files change, whether a program is
 * running or a power cut is made up: it must take changes whose predecessors are missing. */

static uint64_t next_place;

void *sim_alloc(size_t len)
{
	void *p = calloc(1, len ? len : 1);

	if (!p)
		abort();
	return p;
}

char *sim_strdup(const char *s)
{
	return s ? memcpy(sim_alloc(strlen(s) + 1), s, strlen(s) + 1) : NULL;
}

#define push(v, ...)                                                                                                   \
	do {                                                                                                           \
		if (vec_push(v, __VA_ARGS__) < 0)                                                                      \
			abort();                                                                                       \
	} while (0)

#define insert(v, at, ...)                                                                                             \
	do {                                                                                                           \
		__typeof__(*(v)->items) new_ = __VA_ARGS__;                                                            \
		push(v, new_);                                                                                         \
		memmove((v)->items + (at) + 1, (v)->items + (at), ((v)->nr - 1 - (at)) * sizeof(*(v)->items));         \
		(v)->items[at] = new_;                                                                                 \
	} while (0)

#define take_out(v, at)                                                                                                \
	do {                                                                                                           \
		(v)->nr--;                                                                                             \
		memmove((v)->items + (at), (v)->items + (at) + 1, ((v)->nr - (at)) * sizeof(*(v)->items));             \
	} while (0)

/* ---- pages ---- */

static struct page *page_new(void)
{
	struct page *p = malloc(sizeof(*p));

	if (!p)
		abort();
	memset(p->data, 0, PAGE);
	p->refs = 1;
	p->id = ++next_place;
	return p;
}

static void page_put(struct page *p)
{
	if (p && --p->refs == 0)
		free(p);
}

size_t node_find_page(const struct node *n, uint64_t index)
{
	size_t low = 0, high = n->pages.nr;

	while (low < high) {
		size_t mid = (low + high) / 2;

		if (n->pages.items[mid].index < index)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static struct entry *page_at(const struct node *n, uint64_t index)
{
	size_t at = node_find_page(n, index);

	return at < n->pages.nr && n->pages.items[at].index == index ? &n->pages.items[at] : NULL;
}

static void drop_page(struct state *st, struct node *n, size_t at)
{
	st->used -= !n->pages.items[at].shared;
	page_put(n->pages.items[at].page);
	take_out(&n->pages, at);
}

static struct entry *make_page(struct state *st, struct node *n, uint64_t index)
{
	size_t at = node_find_page(n, index);

	if (at == n->pages.nr || n->pages.items[at].index != index) {
		insert(&n->pages, at, (struct entry){ .index = index });
		st->used++;
	}
	return &n->pages.items[at];
}

/* A page to be written to. */
static uint8_t *change_page(struct state *st, struct node *n, uint64_t index)
{
	struct entry *e = make_page(st, n, index);

	if (!e->page) {
		e->page = page_new();
	} else if (e->page->refs > 1) {
		struct page *p = page_new();

		memcpy(p->data, e->page->data, PAGE);
		if (!e->shared)
			p->id = e->page->id;
		e->page->refs--;
		e->page = p;
	}
	st->used += e->shared;
	e->shared = false;
	return e->page->data;
}

void node_read(const struct node *n, uint8_t *buf, uint64_t len, uint64_t offset)
{
	while (len) {
		uint64_t in = offset % PAGE, part = len < PAGE - in ? len : PAGE - in;
		const struct entry *e = page_at(n, offset / PAGE);

		if (e && e->page)
			memcpy(buf, e->page->data + in, part);
		else
			memset(buf, 0, part);
		buf += part;
		offset += part;
		len -= part;
	}
}

static void put_bytes(struct state *st, struct node *n, const uint8_t *data, uint64_t len, uint64_t offset)
{
	while (len) {
		uint64_t in = offset % PAGE, part = len < PAGE - in ? len : PAGE - in;
		uint8_t *p = change_page(st, n, offset / PAGE);

		if (data)
			memcpy(p + in, data, part);
		else
			memset(p + in, 0, part);
		data = data ? data + part : NULL;
		offset += part;
		len -= part;
	}
}

/* Zeroes that part of a page, if it is there. */
static void zero_in_page(struct state *st, struct node *n, uint64_t begin, uint64_t end)
{
	const struct entry *e = page_at(n, begin / PAGE);

	if (begin < end && e && e->page)
		put_bytes(st, n, NULL, end - begin, begin);
}

static void punch(struct state *st, struct node *n, uint64_t begin, uint64_t end)
{
	uint64_t first = (begin + PAGE - 1) / PAGE, last = end / PAGE;

	if (first > last) {
		zero_in_page(st, n, begin, end);
		return;
	}
	zero_in_page(st, n, begin, first * PAGE);
	zero_in_page(st, n, last * PAGE, end);
	for (size_t at = node_find_page(n, first); at < n->pages.nr && n->pages.items[at].index < last;)
		drop_page(st, n, at);
}

static void set_size(struct state *st, struct node *n, uint64_t size)
{
	if (size <= n->size) {
		uint64_t end = (size + PAGE - 1) / PAGE;

		while (n->pages.nr && n->pages.items[n->pages.nr - 1].index >= end)
			drop_page(st, n, n->pages.nr - 1);
		zero_in_page(st, n, size, end * PAGE);
	}
	n->size = size;
}

/* ---- nodes ---- */

static void node_put(struct node *n)
{
	if (!n || --n->refs)
		return;
	for (size_t i = 0; i < n->pages.nr; i++)
		page_put(n->pages.items[i].page);
	for (size_t i = 0; i < n->names.nr; i++)
		free(n->names.items[i].name);
	for (size_t i = 0; i < n->xattrs.nr; i++) {
		free(n->xattrs.items[i].name);
		free(n->xattrs.items[i].value);
	}
	vec_release(&n->pages);
	vec_release(&n->names);
	vec_release(&n->xattrs);
	free(n);
}

static uint8_t *copy_bytes(const uint8_t *p, size_t len)
{
	return memcpy(sim_alloc(len), p, len);
}

static struct node *node_copy(const struct node *from)
{
	struct node *n = sim_alloc(sizeof(*n));

	*n = *from;
	n->refs = 1;
	memset(&n->pages, 0, sizeof(n->pages));
	memset(&n->names, 0, sizeof(n->names));
	memset(&n->xattrs, 0, sizeof(n->xattrs));
	if (from->pages.nr) {
		n->pages.items = malloc(from->pages.nr * sizeof(*n->pages.items));
		if (!n->pages.items)
			abort();
		memcpy(n->pages.items, from->pages.items, from->pages.nr * sizeof(*n->pages.items));
		n->pages.nr = n->pages.room = from->pages.nr;
	}
	for (size_t i = 0; i < n->pages.nr; i++)
		if (n->pages.items[i].page)
			n->pages.items[i].page->refs++;
	for (size_t i = 0; i < from->names.nr; i++)
		push(&n->names, (struct name){ sim_strdup(from->names.items[i].name), from->names.items[i].node });
	for (size_t i = 0; i < from->xattrs.nr; i++) {
		const struct xattr *x = &from->xattrs.items[i];

		push(&n->xattrs, (struct xattr){ sim_strdup(x->name), copy_bytes(x->value, x->len), x->len });
	}
	return n;
}

struct node *node_get(const struct state *st, unsigned nr)
{
	return nr < st->nodes.nr ? st->nodes.items[nr] : NULL;
}

struct node *node_change(struct state *st, unsigned nr)
{
	struct node *n = node_get(st, nr);

	if (n && n->refs > 1) {
		n->refs--;
		n = st->nodes.items[nr] = node_copy(n);
	}
	return n;
}

void node_drop(struct state *st, unsigned nr)
{
	struct node *n = node_get(st, nr);

	if (!n)
		return;
	for (size_t i = 0; i < n->pages.nr; i++)
		st->used -= !n->pages.items[i].shared;
	node_put(n);
	st->nodes.items[nr] = NULL;
}

static void node_add(struct state *st, unsigned nr, struct node *n)
{
	while (st->nodes.nr <= nr)
		push(&st->nodes, NULL);
	node_drop(st, nr);
	st->nodes.items[nr] = n;
}

void state_init(struct state *st)
{
	struct node *root = sim_alloc(sizeof(*root));

	*st = (struct state){ 0 };
	*root = (struct node){ .refs = 1, .ino = 128, .nlink = 2, .a.mode = S_IFDIR | 0755, .parent = ROOT_NODE };
	node_add(st, ROOT_NODE, root);
}

void state_copy(struct state *to, const struct state *from)
{
	*to = (struct state){ .used = from->used };
	if (from->nodes.nr) {
		to->nodes.items = malloc(from->nodes.nr * sizeof(*to->nodes.items));
		if (!to->nodes.items)
			abort();
		memcpy(to->nodes.items, from->nodes.items, from->nodes.nr * sizeof(*to->nodes.items));
		to->nodes.nr = to->nodes.room = from->nodes.nr;
	}
	for (size_t i = 0; i < to->nodes.nr; i++)
		if (to->nodes.items[i])
			to->nodes.items[i]->refs++;
}

void state_release(struct state *st)
{
	for (size_t i = 0; i < st->nodes.nr; i++)
		node_put(st->nodes.items[i]);
	vec_release(&st->nodes);
}

static void mark(const struct state *st, unsigned nr, uint8_t *marks)
{
	const struct node *n = node_get(st, nr);

	if (!n || marks[nr])
		return;
	marks[nr] = 1;
	for (size_t i = 0; i < n->names.nr; i++)
		mark(st, n->names.items[i].node, marks);
}

void state_mount(struct state *st)
{
	uint8_t *marks = sim_alloc(st->nodes.nr);

	mark(st, ROOT_NODE, marks);
	for (unsigned i = 0; i < st->nodes.nr; i++)
		if (!marks[i])
			node_drop(st, i);
	free(marks);
}

/* ---- names ---- */

static size_t name_place(const struct node *dir, const char *name, bool *ret_there)
{
	size_t at = 0;

	while (at < dir->names.nr && strcmp(dir->names.items[at].name, name) < 0)
		at++;
	*ret_there = at < dir->names.nr && strcmp(dir->names.items[at].name, name) == 0;
	return at;
}

unsigned node_find_name(const struct node *dir, const char *name)
{
	bool there;
	size_t at = name_place(dir, name, &there);

	return there ? dir->names.items[at].node : 0;
}

/* A name of the node comes or goes. */
static void count_link(struct state *st, unsigned nr, struct node *dir, int by, int64_t now)
{
	struct node *n = node_change(st, nr);

	if (!n)
		return;
	n->ctime = now;
	if (S_ISDIR(n->a.mode)) {
		n->nlink = (unsigned)((int)n->nlink + 2 * by);
		dir->nlink = (unsigned)((int)dir->nlink + by);
	} else {
		n->nlink = (unsigned)((int)n->nlink + by);
	}
}

static void remove_name(struct state *st, unsigned dir_nr, const char *name, unsigned node, int64_t now)
{
	struct node *dir = node_change(st, dir_nr);
	bool there;
	size_t at = dir ? name_place(dir, name, &there) : 0;

	if (!dir || !there || (node && dir->names.items[at].node != node))
		return;
	count_link(st, dir->names.items[at].node, dir, -1, now);
	free(dir->names.items[at].name);
	take_out(&dir->names, at);
	dir->a.mtime = dir->ctime = now;
}

static void set_name(struct state *st, unsigned dir_nr, const char *name, unsigned node, int64_t now)
{
	struct node *dir, *n = node_get(st, node);
	bool there;
	size_t at;

	if (!n || !node_get(st, dir_nr))
		return;
	remove_name(st, dir_nr, name, 0, now);
	dir = node_change(st, dir_nr);
	at = name_place(dir, name, &there);
	insert(&dir->names, at, (struct name){ sim_strdup(name), node });
	count_link(st, node, dir, 1, now);
	if (S_ISDIR(n->a.mode))
		node_change(st, node)->parent = dir_nr;
	dir->a.mtime = dir->ctime = now;
}

unsigned state_find(const struct state *st, const char *path)
{
	unsigned at = ROOT_NODE;

	while (at && *path) {
		const char *end = strchrnul(path, '/');
		const struct node *n = node_get(st, at);
		char part[256];

		snprintf(part, sizeof(part), "%.*s", (int)(end - path), path);
		if (*part)
			at = n ? node_find_name(n, part) : 0;
		path = *end ? end + 1 : end;
	}
	return at;
}

/* ---- attributes ---- */

struct xattr *node_find_xattr(const struct node *n, const char *name)
{
	for (size_t i = 0; i < n->xattrs.nr; i++)
		if (strcmp(n->xattrs.items[i].name, name) == 0)
			return &n->xattrs.items[i];
	return NULL;
}

static void set_xattr(struct node *n, const char *name, const uint8_t *value, size_t len)
{
	struct xattr *x = node_find_xattr(n, name);

	if (!x) {
		push(&n->xattrs, (struct xattr){ .name = sim_strdup(name) });
		x = &n->xattrs.items[n->xattrs.nr - 1];
	}
	free(x->value);
	x->value = copy_bytes(value, len);
	x->len = len;
}

static void set_attributes(struct node *n, unsigned what, const struct attributes *a)
{
	if (what & ATTR_MODE)
		n->a.mode = a->mode;
	if (what & ATTR_OWNER) {
		n->a.uid = a->uid;
		n->a.gid = a->gid;
	}
	if (what & ATTR_ATIME)
		n->a.atime = a->atime;
	if (what & ATTR_MTIME)
		n->a.mtime = a->mtime;
	if (what & ATTR_FLAGS) {
		n->a.flags = a->flags;
		n->a.x = a->x;
	}
}

static struct timespec to_timespec(int64_t ns)
{
	return (struct timespec){ .tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000 };
}

void node_stat(const struct node *n, struct stat *ret)
{
	*ret = (struct stat){
		.st_dev = 0x5100,
		.st_ino = n->ino,
		.st_nlink = n->nlink,
		.st_mode = n->a.mode,
		.st_uid = n->a.uid,
		.st_gid = n->a.gid,
		.st_size = (off_t)n->size,
		.st_blksize = (blksize_t)PAGE,
		.st_blocks = (blkcnt_t)(n->pages.nr * PAGE / 512),
		.st_atim = to_timespec(n->a.atime),
		.st_mtim = to_timespec(n->a.mtime),
		.st_ctim = to_timespec(n->ctime),
	};
}

/* ---- changes ---- */

static void apply_write(struct state *st, struct node *n, const struct op *op, enum how how, uint64_t cut)
{
	uint64_t begin = how == HOW_LAST ? cut : 0, end = how == HOW_FIRST ? cut : op->len;
	uint8_t *garbage = NULL;

	if (how == HOW_GARBAGE)
		garbage = memset(sim_alloc(op->len), 0xa5, op->len);
	if (how != HOW_SIZE)
		put_bytes(st, n, garbage ? garbage : op->data + begin, end - begin, op->offset + begin);
	if (op->offset + end > n->size)
		n->size = op->offset + end;
	free(garbage);
}

static void apply_allocate(struct state *st, struct node *n, const struct op *op)
{
	for (uint64_t i = op->offset / PAGE; i * PAGE < op->offset + op->len; i++)
		make_page(st, n, i);
	if (!op->keep_size && op->offset + op->len > n->size)
		n->size = op->offset + op->len;
}

static void apply_clone(struct state *st, struct node *n, const struct op *op)
{
	uint64_t first = op->offset / PAGE;

	punch(st, n, op->offset, (op->offset + op->len + PAGE - 1) / PAGE * PAGE);
	for (size_t i = 0; i < op->pages.nr; i++) {
		struct entry *e = make_page(st, n, first + op->pages.items[i].index);

		page_put(e->page);
		e->page = op->pages.items[i].page;
		if (e->page)
			e->page->refs++;
		st->used -= !e->shared;
		e->shared = true;
	}
	if (op->offset + op->len > n->size)
		n->size = op->offset + op->len;
}

static void apply_create(struct state *st, const struct op *op)
{
	struct node *n = sim_alloc(sizeof(*n));

	*n = (struct node){ .refs = 1, .ino = op->offset, .a = op->a, .ctime = op->now, .parent = op->dir };
	node_add(st, op->node, n);
	if (op->dir)
		set_name(st, op->dir, op->name, op->node, op->now);
}

static void apply_rename(struct state *st, const struct op *op, enum how how)
{
	bool both = op->kind == OP_EXCHANGE;

	if (how != HOW_NEW)
		remove_name(st, op->dir, op->name, op->node, op->now);
	if (how != HOW_OLD && both)
		remove_name(st, op->dir2, op->name2, op->node2, op->now);
	if (how != HOW_OLD)
		set_name(st, op->dir2, op->name2, op->node, op->now);
	if (how != HOW_NEW && both)
		set_name(st, op->dir, op->name, op->node2, op->now);
}

static void apply_names(struct state *st, const struct op *op, enum how how)
{
	if (op->kind == OP_CREATE)
		apply_create(st, op);
	else if (op->kind == OP_UNLINK)
		remove_name(st, op->dir, op->name, op->node, op->now);
	else
		apply_rename(st, op, how);
}

void state_apply(struct state *st, const struct op *op, enum how how, uint64_t cut)
{
	struct node *n;

	if (op->kind == OP_SYNC)
		return;
	if (op->kind <= OP_UNLINK) {
		apply_names(st, op, how);
		return;
	}
	n = node_change(st, op->node);
	if (!n)
		return;
	n->ctime = op->now;
	if (op->kind < OP_ATTR)
		n->a.mtime = op->now;
	if (op->kind == OP_WRITE)
		apply_write(st, n, op, how, cut);
	else if (op->kind == OP_TRUNCATE)
		set_size(st, n, op->len);
	else if (op->kind == OP_PUNCH)
		punch(st, n, op->offset, op->offset + op->len);
	else if (op->kind == OP_ALLOCATE)
		apply_allocate(st, n, op);
	else if (op->kind == OP_CLONE)
		apply_clone(st, n, op);
	else if (op->kind == OP_ATTR)
		set_attributes(n, op->what, &op->a);
	else
		set_xattr(n, op->name, op->data, op->len);
}

void op_release(struct op *op)
{
	free(op->name);
	free(op->name2);
	free(op->data);
	for (size_t i = 0; i < op->pages.nr; i++)
		page_put(op->pages.items[i].page);
	vec_release(&op->pages);
}
