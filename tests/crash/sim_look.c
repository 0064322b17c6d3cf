/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/crash/sim_parts.h"

/* Looking at a simulator from outside, by path; nothing is counted or changed. */

static const struct node *at_path(const struct sim *s, const char *path)
{
	unsigned nr = state_find(&s->live, path);

	return nr ? node_get(&s->live, nr) : NULL;
}

uint8_t *sim_content(const struct sim *s, const char *path, uint64_t *ret_len)
{
	const struct node *n = at_path(s, path);
	uint8_t *p;

	if (!n)
		return NULL;
	p = sim_alloc(n->size + 1);
	node_read(n, p, n->size, 0);
	*ret_len = n->size;
	return p;
}

int sim_stat(const struct sim *s, const char *path, struct stat *ret)
{
	const struct node *n = at_path(s, path);

	if (!n)
		return -1;
	node_stat(n, ret);
	return 0;
}

/* ---- digests ---- */

static uint64_t mix(uint64_t h, const void *p, size_t len)
{
	const uint8_t *b = p;

	for (; len >= 8; b += 8, len -= 8) {
		uint64_t w;

		memcpy(&w, b, 8);
		h = (h ^ w) * UINT64_C(0x9E3779B97F4A7C15);
		h ^= h >> 29;
	}
	while (len--)
		h = (h ^ *b++) * UINT64_C(0x100000001b3);
	return h ^ h >> 32;
}

static uint64_t mix_number(uint64_t h, uint64_t n)
{
	return mix(h, &n, sizeof(n));
}

static uint64_t attributes_of(const struct node *n)
{
	uint64_t h = mix_number(1, n->a.mode), x = 0;

	h = mix_number(mix_number(h, n->a.uid), n->a.gid);
	h = mix_number(mix_number(h, n->a.flags), n->a.x.fsx_projid);
	h = mix_number(mix_number(h, n->a.x.fsx_xflags), n->a.x.fsx_extsize);
	if (S_ISREG(n->a.mode))
		h = mix_number(h, (uint64_t)n->a.mtime);
	for (size_t i = 0; i < n->xattrs.nr; i++) /* in any order */
		x += mix(mix(7, n->xattrs.items[i].name, strlen(n->xattrs.items[i].name)), n->xattrs.items[i].value,
			 n->xattrs.items[i].len);
	return mix_number(h, x) | 1;
}

uint64_t sim_attributes(const struct sim *s, const char *path)
{
	const struct node *n = at_path(s, path);

	return n ? attributes_of(n) : 0;
}

static uint64_t content_of(const struct node *n)
{
	static const uint8_t zeros[PAGE];
	uint64_t h = mix_number(3, n->size);

	for (size_t i = 0; i < n->pages.nr; i++) {
		const struct entry *e = &n->pages.items[i];

		if (e->page && memcmp(e->page->data, zeros, PAGE) != 0)
			h = mix(mix_number(h, e->index), e->page->data, PAGE);
	}
	return h;
}

static uint64_t digest_of(const struct sim *s, const struct node *n)
{
	uint64_t h = attributes_of(n);

	if (!S_ISDIR(n->a.mode))
		return mix_number(h, content_of(n));
	for (size_t i = 0; i < n->names.nr; i++) {
		h = mix(h, n->names.items[i].name, strlen(n->names.items[i].name) + 1);
		h = mix_number(h, digest_of(s, node_get(&s->live, n->names.items[i].node)));
	}
	return h;
}

uint64_t sim_digest(const struct sim *s)
{
	return digest_of(s, node_get(&s->live, ROOT_NODE));
}

/* ---- walking ---- */

static int walk(const struct sim *s, unsigned nr, const char *path,
		int (*call)(void *ctx, const char *path, const struct stat *st), void *ctx)
{
	const struct node *n = node_get(&s->live, nr);
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < n->names.nr; i++) {
		const struct node *child = node_get(&s->live, n->names.items[i].node);
		char sub[4096];
		struct stat st;

		snprintf(sub, sizeof(sub), "%s/%s", path, n->names.items[i].name);
		node_stat(child, &st);
		rc = call(ctx, sub, &st);
		if (rc == 0 && S_ISDIR(child->a.mode))
			rc = walk(s, n->names.items[i].node, sub, call, ctx);
	}
	return rc;
}

int sim_each_path(const struct sim *s, int (*call)(void *ctx, const char *path, const struct stat *st), void *ctx)
{
	return walk(s, ROOT_NODE, "", call, ctx);
}

/* ---- the log as text ---- */

struct label {
	char text[200];
};

static void label_names(const struct state *st, unsigned nr, const char *path, struct label *labels)
{
	const struct node *n = node_get(st, nr);

	snprintf(labels[nr].text, sizeof(labels[nr].text), "%.199s", *path ? path : "/");
	for (size_t i = 0; i < n->names.nr; i++) {
		char sub[512];

		snprintf(sub, sizeof(sub), "%.199s/%.255s", path, n->names.items[i].name);
		label_names(st, n->names.items[i].node, sub, labels);
	}
}

/* How every node was called first. */
static struct label *label_all(const struct sim *s)
{
	unsigned nr = (unsigned)s->base.nodes.nr;
	struct label *labels;

	for (size_t i = 0; i < s->log.nr; i++)
		if (s->log.items[i].node >= nr)
			nr = s->log.items[i].node + 1;
	labels = sim_alloc(nr * sizeof(*labels));
	label_names(&s->base, ROOT_NODE, "", labels);
	for (size_t i = 0; i < s->log.nr; i++) {
		const struct op *op = &s->log.items[i];
		const char *dir = labels[op->dir].text;

		if (op->kind == OP_CREATE && op->dir)
			snprintf(labels[op->node].text, sizeof(labels->text), "%.100s/%.90s", dir[1] ? dir : "",
				 op->name);
		else if (op->kind == OP_CREATE)
			snprintf(labels[op->node].text, sizeof(labels->text), "(nameless %u)", op->node);
	}
	return labels;
}

static const char *const kind_names[] = { "create", "rename",	"exchange", "unlink",	  "write", "truncate",
					  "punch",  "allocate", "share",    "attributes", "xattr", "sync" };

static void describe(const struct op *op, const struct label *labels, char *ret, size_t room)
{
	const char *kind = op->kind == OP_CREATE && S_ISDIR(op->a.mode) ? "mkdir" :
			   op->kind == OP_SYNC && op->datasync ? "datasync" : kind_names[op->kind];
	const char *mark = op->lied ? " (a lie)" : op->failed ? " (failed)" : op->lost ? " (never reaches the disk)" :
			   op->flipped ? " (wrong on the disk)" : "";
	const char *dir = labels[op->dir].text, *dir2 = labels[op->dir2].text;

	if (op->kind == OP_RENAME || op->kind == OP_EXCHANGE)
		snprintf(ret, room, "%s %s/%s %s/%s%s", kind, dir[1] ? dir : "", op->name, dir2[1] ? dir2 : "",
			 op->name2, mark);
	else if (op->kind == OP_UNLINK)
		snprintf(ret, room, "%s %s/%s%s", kind, dir[1] ? dir : "", op->name, mark);
	else if (op_data(op))
		snprintf(ret, room, "%s %s %" PRIu64 "+%" PRIu64 "%s", kind, labels[op->node].text, op->offset, op->len,
			 mark);
	else
		snprintf(ret, room, "%s %s%s%s%s", kind, labels[op->node].text, op->kind == OP_XATTR ? " " : "",
			 op->kind == OP_XATTR ? op->name : "", mark);
}

char *sim_log(const struct sim *s)
{
	struct label *labels = label_all(s);
	char line[900], *text;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	if (!f)
		abort();
	for (size_t i = 0; i < s->log.nr; i++) {
		describe(&s->log.items[i], labels, line, sizeof(line));
		fprintf(f, "%4zu  call %3u  %s\n", i, s->log.items[i].call, line);
	}
	fclose(f);
	free(labels);
	return text;
}

unsigned sim_log_len(const struct sim *s)
{
	return (unsigned)s->log.nr;
}

unsigned sim_log_find(const struct sim *s, const char *what, unsigned n)
{
	struct label *labels = label_all(s);
	unsigned found = UINT32_MAX;

	for (unsigned i = 0; found == UINT32_MAX && i < s->log.nr; i++) {
		char line[900];

		describe(&s->log.items[i], labels, line, sizeof(line));
		if (strncmp(line, what, strlen(what)) == 0 && n-- == 0)
			found = i;
	}
	free(labels);
	return found;
}

void sim_log_move(struct sim *s, unsigned from, unsigned to)
{
	struct op op = s->log.items[from];

	if (from > to)
		memmove(&s->log.items[to + 1], &s->log.items[to], (from - to) * sizeof(op));
	else
		memmove(&s->log.items[from], &s->log.items[from + 1], (--to - from) * sizeof(op));
	s->log.items[to] = op;
}
