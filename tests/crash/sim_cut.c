/* SPDX-License-Identifier: Apache-2.0 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/crash/sim_parts.h"

/* What a power cut can leave.
 *
 * A first pass over the log finds for every change the sync that saved it.  When power fails after `at` entries,
 * what was saved by then is there; the others are pending, and each state is a choice of them.  All before the first
 * pending change is kept as a state of its own that moves along, so that a state costs the changes since then only. */

#define DROPPED 0xff
#define PAIRS 500

struct choice {
	uint8_t how; /* enum how, or DROPPED */
	uint64_t cut;
};

struct cutter {
	const struct sim *s;
	const struct sim_cuts *o;
	int (*call)(void *ctx, struct sim *state, const struct sim_cut *cut);
	void *ctx;
	unsigned nr;			  /* entries of the log */
	unsigned *durable;		  /* by entry: the sync that saved it */
	VEC(unsigned) *needs;		  /* by entry: changes of names that it rests on */
	unsigned at;			  /* where power fails */
	VEC(unsigned) pending;
	struct choice *choices;		  /* by entry */
	struct state solid;		  /* all before `first` */
	unsigned first;
	VEC(uint64_t) seen;		  /* open hash table of states, 0 = empty */
	size_t nr_seen;
	uint64_t nr_states;
	int rc;
};

/* ---- what saves what ---- */

static bool saves(const struct cutter *c, const struct op *sync, const struct op *op)
{
	if (op->kind == OP_SYNC || op->lost)
		return false;
	if (op_data(op))
		return op->node == sync->node;
	if (!op_names(op))
		return op->node == sync->node && !sync->datasync;
	if (c->o->sync_keeps_name && op->kind <= OP_RENAME && op->node == sync->node)
		return true;
	return op->dir == sync->node || op->dir2 == sync->node || (!op->dir && op->node == sync->node);
}

static void save(struct cutter *c, unsigned i, unsigned by)
{
	if (c->durable[i] <= by)
		return;
	c->durable[i] = by;
	for (size_t k = 0; k < c->needs[i].nr; k++)
		save(c, c->needs[i].items[k], by);
}

static void find_durable(struct cutter *c)
{
	for (unsigned i = 0; i < c->nr; i++)
		c->durable[i] = UINT_MAX;
	for (unsigned i = 0; i < c->nr; i++) {
		const struct op *sync = &c->s->log.items[i];

		if (sync->kind != OP_SYNC || sync->failed || sync->lied)
			continue;
		for (unsigned k = 0; k < i; k++)
			if (saves(c, sync, &c->s->log.items[k]))
				save(c, k, i);
	}
}

static bool same_name(unsigned dir, const char *name, const struct op *op)
{
	return dir && name && ((op->dir == dir && op->name && strcmp(op->name, name) == 0) ||
			       (op->dir2 == dir && op->name2 && strcmp(op->name2, name) == 0));
}

static bool touches(const struct op *op, unsigned node)
{
	return node && (op->node == node || op->node2 == node);
}

static uint64_t ino_of(const struct sim *s, unsigned node)
{
	const struct node *n = node_get(&s->base, node);

	if (n)
		return n->ino;
	for (size_t i = 0; i < s->log.nr; i++)
		if (s->log.items[i].kind == OP_CREATE && s->log.items[i].node == node)
			return s->log.items[i].offset;
	return 0;
}

/* An inode number is given again only once it is free. */
static bool frees(const struct sim *s, const struct op *op, uint64_t ino)
{
	unsigned gone = op->kind == OP_UNLINK ? op->node : op->kind == OP_RENAME ? op->node2 : 0;

	return gone && ino_of(s, gone) == ino;
}

static void find_needs(struct cutter *c)
{
	for (unsigned i = 0; i < c->nr; i++) {
		const struct op *op = &c->s->log.items[i];

		for (unsigned k = 0; op_names(op) && k < i; k++) {
			const struct op *e = &c->s->log.items[k];

			if (op_names(e) && (same_name(op->dir, op->name, e) || same_name(op->dir2, op->name2, e) ||
					    touches(e, op->node) || touches(e, op->node2) ||
					    (op->kind == OP_CREATE && frees(c->s, e, op->offset))) &&
			    vec_push(&c->needs[i], k) < 0)
				abort();
		}
	}
}

/* ---- one state ---- */

static uint64_t hash_of(const struct cutter *c)
{
	uint64_t h = c->at == c->nr ? 0x51 : 0x17;

	for (unsigned i = 0; i < c->at; i++) {
		uint64_t x =
			((uint64_t)(i + 1) << 8 | c->choices[i].how) * UINT64_C(0x9E3779B97F4A7C15) + c->choices[i].cut;

		if (c->choices[i].how == DROPPED || c->s->log.items[i].kind == OP_SYNC)
			continue;
		x = (x ^ x >> 31) * UINT64_C(0xBF58476D1CE4E5B9);
		h += x ^ x >> 29;
	}
	return h ? h : 1;
}

static void grow_seen(struct cutter *c)
{
	size_t old_nr = c->seen.nr, nr = old_nr ? old_nr * 2 : 1024;
	uint64_t *old = c->seen.items;

	c->seen.items = sim_alloc(nr * sizeof(*c->seen.items));
	c->seen.nr = nr;
	for (size_t i = 0; i < old_nr; i++)
		if (old[i]) {
			size_t at = old[i] & (nr - 1);

			while (c->seen.items[at])
				at = (at + 1) & (nr - 1);
			c->seen.items[at] = old[i];
		}
	free(old);
}

static bool is_new(struct cutter *c, uint64_t h)
{
	size_t at;

	if (c->nr_seen * 2 >= c->seen.nr)
		grow_seen(c);
	for (at = h & (c->seen.nr - 1); c->seen.items[at]; at = (at + 1) & (c->seen.nr - 1))
		if (c->seen.items[at] == h)
			return false;
	c->seen.items[at] = h;
	c->nr_seen++;
	return true;
}

/* Whoever rests on a lost change is lost. */
static void lose_followers(struct cutter *c)
{
	for (size_t i = 0; i < c->pending.nr; i++) {
		unsigned d = c->pending.items[i];

		for (size_t k = 0; k < c->needs[d].nr; k++)
			if (c->choices[c->needs[d].items[k]].how == DROPPED)
				c->choices[d].how = DROPPED;
	}
}

static void keep(struct cutter *c, unsigned i)
{
	c->choices[i] = (struct choice){ .how = HOW_ALL };
	for (size_t k = 0; k < c->needs[i].nr; k++)
		if (c->choices[c->needs[i].items[k]].how == DROPPED && !c->s->log.items[c->needs[i].items[k]].lost)
			keep(c, c->needs[i].items[k]);
}

static void choose_all(struct cutter *c, uint8_t how)
{
	for (size_t i = 0; i < c->pending.nr; i++)
		c->choices[c->pending.items[i]] = (struct choice){ .how = how };
}

static void try_state(struct cutter *c, const char *kind, const char *what)
{
	struct sim_cut cut = { .at = c->at, .at_end = c->at == c->nr, .kind = kind };
	struct state st;
	struct sim *s;

	lose_followers(c);
	if (c->rc || c->at < c->o->from || !is_new(c, hash_of(c)))
		return;
	snprintf(cut.what, sizeof(cut.what), "%s", what);
	state_copy(&st, &c->solid);
	for (unsigned i = c->first; i < c->at; i++)
		if (c->choices[i].how != DROPPED)
			state_apply(&st, &c->s->log.items[i], c->choices[i].how, c->choices[i].cut);
	s = sim_of(c->s, &st);
	state_release(&st);
	c->nr_states++;
	c->rc = c->call(c->ctx, s, &cut);
	sim_free(s);
}

/* ---- which states ---- */

static void try_one(struct cutter *c, const char *kind, unsigned i, uint8_t how, uint64_t cut)
{
	char what[60];

	choose_all(c, HOW_ALL);
	c->choices[i] = (struct choice){ .how = how, .cut = cut };
	snprintf(what, sizeof(what), how == HOW_FIRST || how == HOW_LAST ? "%u at byte %llu of it" : "%u", i,
		 (unsigned long long)cut);
	try_state(c, kind, what);
}

static void try_torn(struct cutter *c, unsigned i, uint64_t unit)
{
	const struct op *op = &c->s->log.items[i];
	uint64_t first = unit - op->offset % unit, end = op->offset + op->len;
	uint64_t last = end / unit * unit == end ? end - unit : end / unit * unit;
	uint64_t cuts[3] = { first, 0, 0 };

	if (first >= op->len)
		return;
	cuts[1] = last - op->offset;
	cuts[2] = (op->offset + op->len / 2) / unit * unit - op->offset;
	for (unsigned k = 0; k < 3; k++)
		if (cuts[k] < op->len && cuts[k] > 0) {
			try_one(c, "torn, the first bytes are there", i, HOW_FIRST, cuts[k]);
			try_one(c, "torn, the last bytes are there", i, HOW_LAST, cuts[k]);
		}
}

static bool in_one_sector(const struct op *op)
{
	return op->offset / 512 == (op->offset + op->len - 1) / 512;
}

static void try_parts(struct cutter *c, unsigned i)
{
	const struct op *op = &c->s->log.items[i];

	if (op->kind == OP_WRITE) {
		try_one(c, "size without data", i, HOW_SIZE, 0);
		if (!c->o->whole_sectors || !in_one_sector(op))
			try_one(c, "size with garbage", i, HOW_GARBAGE, 0);
		try_torn(c, i, 512);
		try_torn(c, i, PAGE);
	}
	if (c->o->weak_renames && (op->kind == OP_RENAME || op->kind == OP_EXCHANGE)) {
		try_one(c, "the new name only", i, HOW_NEW, 0);
		try_one(c, "the old name gone only", i, HOW_OLD, 0);
	}
}

static void try_only(struct cutter *c, unsigned i)
{
	char what[60];

	choose_all(c, DROPPED);
	keep(c, i);
	snprintf(what, sizeof(what), "%u", i);
	try_state(c, "one kept", what);
}

static void try_pairs(struct cutter *c)
{
	uint64_t nr = c->pending.nr, all = nr * (nr - 1) / 2, most = c->o->pairs_max ? c->o->pairs_max : PAIRS;
	uint64_t step = all > most ? (all + most - 1) / most : 1, count = 0;

	for (size_t i = 0; i < nr; i++)
		for (size_t k = i + 1; k < nr && !c->rc; k++) {
			char what[60];

			if (count++ % step)
				continue;
			choose_all(c, HOW_ALL);
			c->choices[c->pending.items[i]].how = c->choices[c->pending.items[k]].how = DROPPED;
			snprintf(what, sizeof(what), "%u and %u", c->pending.items[i], c->pending.items[k]);
			try_state(c, "two lost", what);
		}
}

/* All pending changes of a kind are there, and none of the others. */
static void try_sort(struct cutter *c, bool names)
{
	choose_all(c, HOW_ALL);
	for (size_t i = 0; i < c->pending.nr; i++)
		if (op_names(&c->s->log.items[c->pending.items[i]]) != names)
			c->choices[c->pending.items[i]].how = DROPPED;
	try_state(c, names ? "names without data" : "data without names", "");
}

static void try_sizes(struct cutter *c)
{
	choose_all(c, HOW_ALL);
	for (size_t i = 0; i < c->pending.nr; i++)
		if (c->s->log.items[c->pending.items[i]].kind == OP_WRITE)
			c->choices[c->pending.items[i]].how = HOW_SIZE;
	try_state(c, "sizes without data", "all");
}

static void try_point(struct cutter *c, bool thoroughly)
{
	choose_all(c, HOW_ALL);
	try_state(c, "all kept", "");
	choose_all(c, DROPPED);
	try_state(c, "all lost", "");
	try_sort(c, true);
	try_sort(c, false);
	try_sizes(c);
	if (c->pending.nr)
		try_only(c, c->pending.items[c->pending.nr - 1]);
	for (size_t i = 0; thoroughly && !c->rc && i < c->pending.nr; i++) {
		try_one(c, "one lost", c->pending.items[i], DROPPED, 0);
		try_only(c, c->pending.items[i]);
		try_parts(c, c->pending.items[i]);
	}
	if (thoroughly && c->pending.nr > 1)
		try_pairs(c);
}

/* Sets what is pending after `at` entries, and moves what is solid along. */
static void go_to(struct cutter *c, unsigned at)
{
	c->at = at;
	c->pending.nr = 0;
	for (unsigned i = 0; i < at; i++) {
		const struct op *op = &c->s->log.items[i];
		bool there = op->kind != OP_SYNC && !op->lost;

		c->choices[i] = (struct choice){ .how = there ? HOW_ALL : DROPPED };
		if (there && c->durable[i] >= at && vec_push(&c->pending, i) < 0)
			abort();
	}
	while (c->first < at && (!c->pending.nr || c->first < c->pending.items[0])) {
		if (c->choices[c->first].how == HOW_ALL)
			state_apply(&c->solid, &c->s->log.items[c->first], HOW_ALL, 0);
		c->first++;
	}
}

int sim_states(const struct sim *s, const struct sim_cuts *o,
	       int (*call)(void *ctx, struct sim *state, const struct sim_cut *cut), void *ctx, uint64_t *ret_nr)
{
	static const struct sim_cuts none;
	struct cutter c = { .s = s, .o = o ? o : &none, .call = call, .ctx = ctx, .nr = (unsigned)s->log.nr };

	c.durable = sim_alloc(c.nr * sizeof(*c.durable));
	c.needs = sim_alloc(c.nr * sizeof(*c.needs));
	c.choices = sim_alloc((c.nr + 1) * sizeof(*c.choices));
	state_copy(&c.solid, &s->base);
	find_needs(&c);
	find_durable(&c);
	for (unsigned at = 0; at <= c.nr && !c.rc; at++) {
		bool ends = at == c.nr || s->log.items[at].kind == OP_SYNC;

		go_to(&c, at);
		try_point(&c, ends || c.o->every_point);
	}
	if (ret_nr)
		*ret_nr = c.nr_states;
	for (unsigned i = 0; i < c.nr; i++)
		vec_release(&c.needs[i]);
	free(c.needs);
	free(c.durable);
	free(c.choices);
	vec_release(&c.pending);
	vec_release(&c.seen);
	state_release(&c.solid);
	return c.rc;
}
