/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/compact_parts.h"

#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "compactor/reflink.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"

/*
 * The plan:	look at the store (store.h), find what can be shared (moves.h), make steps of it, the best first.
 * Applying it:	one step after the other.  A step that cannot be done is told of and left out; what is stopped in the
 *		middle needs no repair, for a later plan finds what is left.
 *
 * Images that are rewritten come last, in the order of their ranks: what shares with them must find them rewritten.
 */

/* In the order in which they are done with one image. */
static const struct method *const methods[] = {
	&method_pool, &method_relayout, &method_rebuild, &method_holes, &method_reflink,
};

static int no_memory(struct err *err)
{
	return err_set(err, ERR_MEMORY, "no memory for a plan");
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static uint64_t peak_memory(void)
{
	struct rusage u;

	return getrusage(RUSAGE_SELF, &u) == 0 ? (uint64_t)u.ru_maxrss * KIB : 0;
}

static void tell(struct compaction *c, const char *stage, uint64_t done, uint64_t total, bool bytes)
{
	struct scan_progress p = { .stage = stage, .done = done, .total = total, .bytes = bytes };

	if (c->o.watch)
		c->o.watch->progress(c->o.watch->ctx, &p);
}

/* ---- the plan ---- */

static int add_step(struct compaction *c, const struct plan_step *step, struct err *err)
{
	struct plan *p = c->plan;
	struct plan_step *more = reallocarray(p->steps, p->nr_steps + 1, sizeof(*more));

	if (!more)
		return no_memory(err);
	p->steps = more;
	p->steps[p->nr_steps++] = *step;
	return 0;
}

void compact_leave(struct compaction *c, size_t image, const char *why)
{
	struct plan_image *p = &c->plan->images[image];

	if (!p->why_not && why)
		p->why_not = strdup(why);
}

/* One that enters the pool is an overlay then: nothing else is left to do with it. */
static int plan_image(struct compaction *c, size_t image, struct err *err)
{
	const struct store_image *i = &c->store.images.items[image];
	uint64_t saving = 0;
	bool enters = false;

	for (size_t m = 0; m < ARRAY_SIZE(methods) && !i->out && !i->fixed && !enters; m++) {
		struct plan_step s = { .image = image, .method = methods[m]->id };
		int rc = c->o.methods[s.method] ? methods[m]->plan(c, &s, err) : 0;

		if (rc < 0 || (rc > 0 && add_step(c, &s, err) < 0)) {
			free(s.note);
			return -1;
		}
		enters = rc > 0 && s.method == PLAN_POOL;
		saving += rc > 0 ? s.saving : 0;
	}
	c->plan->images[image].saving = saving;
	return 0;
}

/* Steps that write a new file, and those that need it. */
static bool rewrites(const struct compaction *c, const struct plan_step *s)
{
	return s->method == PLAN_REBUILD || s->method == PLAN_POOL || c->store.images.items[s->image].relayout;
}

static double worth(const struct plan_step *s)
{
	return (double)s->saving / (double)max_u64(s->work, 1);
}

static int compare_steps(const void *a, const void *b, void *ctx)
{
	const struct compaction *c = ctx;
	const struct plan_step *x = a, *y = b;
	uint32_t x_rank = c->store.images.items[x->image].rank, y_rank = c->store.images.items[y->image].rank;

	if (rewrites(c, x) != rewrites(c, y))
		return rewrites(c, x) ? 1 : -1;
	if (!rewrites(c, x) && worth(x) != worth(y))
		return worth(x) > worth(y) ? -1 : 1;
	if (x_rank != y_rank)
		return x_rank < y_rank ? -1 : 1;
	return x->method == PLAN_RELAYOUT ? -1 : y->method == PLAN_RELAYOUT; /* at most one more follows */
}

static void add_up(struct compaction *c)
{
	struct plan *p = c->plan;

	p->saving = p->saving_later = p->work = 0;
	for (size_t i = 0; i < p->nr_file_systems; i++)
		p->file_systems[i].saving = 0;
	for (size_t i = 0; i < p->nr_steps; i++) {
		const struct plan_step *s = &p->steps[i];

		p->saving += s->saving;
		p->saving_later += s->later ? s->saving : 0;
		p->work += s->work;
		p->file_systems[p->images[s->image].fs].saving += s->saving;
	}
	compact_pool_count_files(c);
}

static int plan_steps(struct compaction *c, struct err *err)
{
	struct plan *p = c->plan;

	for (size_t i = 0; i < p->nr_images; i++)
		if (plan_image(c, i, err) < 0)
			return -1;
	if (p->nr_steps)
		qsort_r(p->steps, p->nr_steps, sizeof(*p->steps), compare_steps, c);
	add_up(c);
	return 0;
}

static void look_problem(void *ctx, const char *path, const struct err *why)
{
	const struct compaction *c = ctx;

	if (c->o.watch)
		c->o.watch->problem(c->o.watch->ctx, path, why);
}

static void look_progress(void *ctx, uint64_t done, uint64_t total)
{
	tell(ctx, "looking", done, total, false);
}

static void refuse_bad_kernels(struct compaction *c)
{
	struct utsname u;

	if (uname(&u) < 0)
		return;
	for (size_t i = 0; i < c->plan->nr_file_systems; i++) {
		struct plan_fs *fs = &c->plan->file_systems[i];
		const char *fault = reflink_kernel_fault(u.release, fs->type);

		if (fault[0] && !fs->why_not)
			fs->why_not = strdup(fault);
		if (fault[0])
			c->store.file_systems.items[i].dedupes = false;
	}
}

/* Who only plans lets others work meanwhile, and what they are in the middle of is none of his business. */
static int finish_what_was_left(struct compaction *c, struct err *err)
{
	struct err why = ERR_INIT;

	if (c->o.apply)
		return turn_begin(c, lock_file_patience(c->o.wait), err);
	if (turn_begin(c, 0, &why) < 0 && why.kind != ERR_BUSY)
		return err_set(err, why.kind, "%s", why.text);
	turn_end(c);
	return 0;
}

static int make_plan(struct compaction *c, struct catalog *catalog, struct err *err)
{
	struct store_options look = {
		.relayout = c->o.methods[PLAN_RELAYOUT], .assume_idle = c->o.assume_idle, .wanted = c->o.wanted,
		.wanted_ctx = c->o.ctx, .progress = look_progress, .problem = look_problem, .ctx = c,
	};
	struct moves_options find = {
		.memory = c->o.memory, .nr_threads = c->o.nr_threads, .min_run = c->o.min_run, .sharers = c->o.sharers,
	};

	if (finish_what_was_left(c, err) < 0)
		return -1;
	c->catalog = catalog;
	c->store.c = catalog;
	c->store.roots = c->o.roots;
	c->store.format = c->o.format;
	c->store.jail = c->o.jail;
	c->store.stopper = c->o.stopper;
	if (store_look(&c->store, &look, c->plan, err) < 0)
		return -1;
	refuse_bad_kernels(c);
	tell(c, "comparing fingerprints", 0, 0, false);
	c->moves = moves_find(&c->store, &find, err);
	if (!c->moves || compact_pool_prepare(c, err) < 0 || plan_steps(c, err) < 0)
		return -1;
	c->plan->peak_memory = peak_memory();
	return catalog_number(catalog, "compact_rate", &c->plan->rate, err);
}

struct compaction *compact_plan(struct catalog *catalog, const struct compact_options *o, struct plan *ret, struct err *err)
{
	CLEANUP(compact_free) struct compaction *c = calloc(1, sizeof(*c));

	*ret = (struct plan){
		.complete = true, .min_run = o->min_run, .keep_originals = o->keep_originals, .taken_at = time(NULL),
	};
	if (!c) {
		no_memory(err);
		return NULL;
	}
	c->o = *o;
	c->plan = ret;
	return make_plan(c, catalog, err) < 0 ? NULL : STEAL(c);
}

void compact_free(struct compaction *c)
{
	if (!c)
		return;
	turn_end(c);
	free(c->workshops);
	vec_release(&c->replaced);
	free(c->costs);
	moves_free(c->moves);
	store_release(&c->store);
	free(c);
}

/* ---- carrying it out ---- */

/* Sleeps while the work is ahead of the limit, a little at a time so that it can be stopped. */
static int keep_pace(struct compaction *c, struct err *err)
{
	for (;;) {
		uint64_t due = c->o.limit ? (uint64_t)((double)c->done * 1e9 / (double)c->o.limit) : 0;
		uint64_t spent = now_ns() - c->began;

		if (stopper_says(c->o.stopper))
			return err_set(err, ERR_CANCELED, "stopped; run it again to go on");
		if (due <= spent)
			return 0;
		nanosleep(&(struct timespec){ .tv_nsec = (long)min_u64(due - spent, 50000000) }, NULL);
	}
}

void compact_count(struct compaction *c, uint64_t bytes)
{
	c->done += bytes;
	c->step->worked += bytes;
	tell(c, plan_method_names[c->step->method], c->done, c->total, true);
}

int compact_worked(void *ctx, uint64_t bytes, struct err *err)
{
	compact_count(ctx, bytes);
	return keep_pace(ctx, err);
}

uint64_t compact_shared(const struct compaction *c, size_t image)
{
	const struct store_image *i = &c->store.images.items[image];
	uint64_t sum = 0;

	for (size_t n = 0; n < i->nr_files; n++)
		sum += c->store.files.items[i->first_file + n].shared;
	return sum;
}

void compact_measure(struct compaction *c, uint64_t before)
{
	const struct store_image *i = &c->store.images.items[c->step->image];
	struct err err = ERR_INIT;
	uint64_t now;
	int rc = 0;

	for (size_t n = 0; rc == 0 && n < i->nr_files; n++)
		rc = store_map_disk(&c->store, i->first_file + n, &err);
	if (rangemap_end(c->store.disk, &err) < 0 || rc < 0)
		return;
	now = compact_shared(c, c->step->image);
	c->step->shared = now - min_u64(before, now);
}

static int do_step(struct compaction *c, struct err *err)
{
	for (size_t m = 0; m < ARRAY_SIZE(methods); m++)
		if (methods[m]->id == c->step->method)
			return methods[m]->apply(c, err);
	return err_set(err, ERR_UNSUPPORTED, "there is no such method");
}

static enum plan_state state_after(const struct err *why)
{
	switch (why->kind) {
	case ERR_CANCELED:
		return PLAN_PARTLY;
	case ERR_FULL:
	case ERR_BUSY:
	case ERR_STALE:
	case ERR_REFUSED:
	case ERR_UNSUPPORTED:
		return PLAN_SKIPPED;
	default:
		return PLAN_FAILED;
	}
}

static void tell_problem(struct compaction *c, const struct plan_step *step, const struct err *why)
{
	if (c->o.watch)
		c->o.watch->problem(c->o.watch->ctx, c->plan->images[step->image].path, why);
}

/* What was done with the image after that is lost with it. */
void compact_undone(struct compaction *c, struct plan_step *step, const struct err *why)
{
	size_t image = step->image;

	tell_problem(c, step, why);
	for (; step < c->plan->steps + c->plan->nr_steps; step++) {
		if (step->image != image || (step->state != PLAN_DONE && step->state != PLAN_PARTLY))
			continue;
		free(step->why);
		step->why = strdup(why->text);
		step->state = state_after(why);
		step->shared = 0;
	}
}

/* 1 = done or not to be done, 0 = there is no room for it now, -1 when all has to stop. */
static int carry_out(struct compaction *c, struct err *err)
{
	enum plan_state before = c->step->state;
	struct err why = ERR_INIT;

	free(STEAL(c->step->why));
	c->step->state = PLAN_DONE; /* unless compact_undone() comes between */
	if (keep_pace(c, &why) == 0 && do_step(c, &why) == 0)
		return 1;
	c->step->state = c->step->worked || why.kind != ERR_CANCELED ? state_after(&why) : before;
	free(STEAL(c->step->why));
	if (why.kind == ERR_CANCELED || why.kind == ERR_MEMORY) {
		if (err)
			*err = why;
		return -1;
	}
	c->step->why = strdup(why.text);
	if (why.kind == ERR_FULL)
		return 0;
	tell_problem(c, c->step, &why);
	return 1;
}

/* What was removed comes back a little later on some file systems (XFS): until it has stayed the same for a while.  f_bfree and not
 * f_bavail, from which btrfs takes what it sets aside for metadata meanwhile: a quarter of a GiB, then and when. */
static int free_space(int fd, struct statfs *ret)
{
	uint64_t before = 0;

	if (syncfs(fd) < 0)
		return -1;
	for (unsigned same = 0, tries = 0; same < 3 && tries < 40; tries++) {
		if (file_ops->fstatfs(fd, ret) < 0)
			return -1;
		same = ret->f_bfree == before ? same + 1 : 0;
		before = ret->f_bfree;
		nanosleep(&(struct timespec){ .tv_nsec = 25000000 }, NULL);
	}
	return 0;
}

/* Free space of all file systems, when what was done has reached the disk. */
static int measure_space(struct compaction *c, bool after, struct err *err)
{
	CLEANUP(free) bool *known = calloc(c->plan->nr_file_systems + 1, sizeof(*known));

	if (!known)
		return no_memory(err);
	for (size_t i = 0; i < c->store.images.nr; i++) {
		const struct store_image *im = &c->store.images.items[i];
		struct plan_fs *fs = &c->plan->file_systems[im->fs];
		struct statfs st;
		int fd = !im->nr_files || known[im->fs] ? -1 : store_open(&c->store, im->first_file, NULL);

		if (fd < 0 || free_space(fd, &st) < 0)
			continue;
		known[im->fs] = true;
		*(after ? &fs->free_after : &fs->free_before) = max_u64((uint64_t)st.f_bfree * (uint64_t)st.f_bsize, 1);
	}
	return 0;
}

/* One round over what is left; counts what was done, and what there was no room for. */
static int apply_round(struct compaction *c, size_t *ret_done, size_t *ret_full, struct err *err)
{
	struct plan *p = c->plan;

	*ret_done = *ret_full = 0;
	for (size_t i = 0; i < p->nr_steps; i++) {
		bool again = p->steps[i].state == PLAN_SKIPPED;
		int rc;

		if (p->steps[i].state != PLAN_PENDING && !(again && p->steps[i].full))
			continue;
		c->step = &p->steps[i];
		c->step->worked = 0;
		rc = turn_is_wanted(c) && turn_give(c, err) < 0 ? -1 : carry_out(c, err);
		if (rc < 0)
			return -1;
		c->step->full = rc == 0;
		*ret_done += c->step->state == PLAN_DONE;
		*ret_full += c->step->full;
	}
	return 0;
}

/* What there was no room for is tried again as long as others make room. */
static int apply(struct compaction *c, struct err *err)
{
	size_t nr_done, nr_full;

	do {
		int rc = apply_round(c, &nr_done, &nr_full, err);

		rewrite_settle_all(c); /* which makes room */
		if (rc < 0)
			return -1;
	} while (nr_done && nr_full);
	for (size_t i = 0; i < c->plan->nr_steps; i++) {
		struct err why = ERR_INIT;

		c->step = &c->plan->steps[i];
		if (!c->step->full)
			continue;
		err_set(&why, ERR_FULL, "%s", c->step->why ? c->step->why : "");
		tell_problem(c, c->step, &why);
	}
	return 0;
}

static void remember_rate(struct compaction *c)
{
	uint64_t ns = now_ns() - c->began;

	if (c->done >= 256 * MIB && ns >= 100000000)
		catalog_set_number(c->catalog, "compact_rate", (uint64_t)((double)c->done * 1e9 / (double)ns), NULL);
}

/* What applying reads stays in the cache until all is done: the kernel compares what was just read. */
static void each_file_in_cache(struct compaction *c, void (*call)(struct cache_loan *l, int fd))
{
	for (size_t i = 0; c->o.loan && i < c->store.files.nr; i++) {
		int fd = c->store.images.items[c->store.files.items[i].image].out ? -1 : store_open(&c->store, i, NULL);

		if (fd >= 0)
			call(c->o.loan, fd);
	}
}

static void borrow_cache(struct cache_loan *l, int fd)
{
	cache_loan_take(l, fd, 0);
}

int compact_apply(struct compaction *c, struct err *err)
{
	int rc;

	c->began = now_ns();
	c->total = c->plan->work;
	c->plan->applied = true;
	if (measure_space(c, false, err) < 0)
		return -1;
	each_file_in_cache(c, borrow_cache);
	rc = compact_fold(c, err) < 0 ? -1 : apply(c, err);
	remember_rate(c);
	if (measure_space(c, true, rc == 0 ? err : NULL) < 0)
		rc = -1;
	each_file_in_cache(c, cache_loan_return);
	c->plan->nr_seconds = (now_ns() - c->began) / 1000000000;
	c->plan->peak_memory = peak_memory();
	return rc;
}

/* ---- a plan made before ---- */

/* The image's number in the plan, or SIZE_MAX. */
static size_t image_of(const struct plan *p, const char *path)
{
	size_t low = 0, high = p->nr_images;

	while (low < high) {
		size_t mid = low + (high - low) / 2;
		int order = strcmp(p->images[mid].path, path);

		if (order == 0)
			return mid;
		if (order < 0)
			low = mid + 1;
		else
			high = mid;
	}
	return SIZE_MAX;
}

int compact_restrict(struct compaction *c, const struct plan *told, struct err *err)
{
	CLEANUP(free) unsigned *methods_of = calloc(told->nr_images + 1, sizeof(*methods_of));
	struct plan *p = c->plan;
	size_t nr = 0;

	if (!methods_of)
		return no_memory(err);
	if (told->min_run != p->min_run)
		return err_set(err, ERR_USAGE, "that plan was made for other runs than this one");
	for (size_t i = 0; i < told->nr_steps; i++)
		methods_of[told->steps[i].image] |= 1u << told->steps[i].method;
	for (size_t i = 0; i < p->nr_steps; i++) {
		struct plan_image *mine = &p->images[p->steps[i].image];
		size_t n = image_of(told, mine->path);
		bool same = n != SIZE_MAX && spool_identity_equal(&told->images[n].identity, &mine->identity);

		if (same && methods_of[n] & 1u << p->steps[i].method) {
			p->steps[nr++] = p->steps[i];
			continue;
		}
		mine->saving -= p->steps[i].saving;
		free(p->steps[i].note);
		if (!same)
			compact_leave(c, p->steps[i].image,
				      n == SIZE_MAX ? "the plan does not know it" : "it changed since the plan was made");
	}
	p->nr_steps = nr;
	add_up(c);
	return 0;
}
