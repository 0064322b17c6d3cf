/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/crash/crash.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "scanner/base/file.h"

/* Every trial begins with a copy of what setup() made, disturbs run() in one way, and ends in judge().  A trial is
 * cheap: the copy shares all pages, and nothing but the workflow itself takes time. */

#define IMAGES_MAX 16
#define CALLS_MAX 100000

struct image {
	uint64_t says, attributes;
};

struct trial {
	const struct crash_workflow *w;
	struct crash_report *ret;
	struct sim *start;
	struct image images[IMAGES_MAX];
	char how[400];		/* the disturbance, in words */
	const struct sim *told; /* whose log tells what was done */
	bool done;		/* run() has succeeded */
	bool disturbed;		/* before the log of these states began */
	bool written;		/* another process wrote to the first image, which shall say: */
	uint64_t written_says;
};

static void say(struct trial *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(struct trial *t, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(t->how, sizeof(t->how), fmt, ap);
	va_end(ap);
}

static void say_more(struct trial *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say_more(struct trial *t, const char *fmt, ...)
{
	size_t used = strlen(t->how);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(t->how + used, sizeof(t->how) - used, fmt, ap);
	va_end(ap);
}

static int violated(struct trial *t, const struct sim *s, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static int violated(struct trial *t, const struct sim *s, const char *fmt, ...)
{
	char *log = t->told ? sim_log(t->told) : strdup(""), *after = s && s != t->told ? sim_log(s) : strdup("");
	char what[600];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	if (!t->ret->text && asprintf(&t->ret->text, "%s: %s\n%s\n---- what was done ----\n%s%s%s", t->w->name, t->how,
				      what, log, *after ? "---- and after it ----\n" : "", after) < 0)
		abort();
	free(log);
	free(after);
	return -1;
}

/* ---- what must hold ---- */

static uint64_t digest_bytes(const uint8_t *p, uint64_t len)
{
	uint64_t h = len + 1;

	for (uint64_t i = 0; i < len; i++)
		h = (h ^ p[i]) * UINT64_C(0x100000001b3);
	return h;
}

static int look_at(const struct trial *t, struct sim *s, const char *path, struct image *ret, struct err *err)
{
	uint64_t len;
	uint8_t *p;

	ret->attributes = sim_attributes(s, path);
	if (!ret->attributes)
		return err_set(err, ERR_IO, "it is not there");
	if (t->w->view)
		return t->w->view(t->w->ctx, s, path, &ret->says, err);
	p = sim_content(s, path, &len);
	ret->says = digest_bytes(p, len);
	free(p);
	return 0;
}

static int judge_images(struct trial *t, struct sim *s)
{
	for (unsigned i = 0; t->w->images && t->w->images[i]; i++) {
		struct err err = ERR_INIT;
		struct image is;

		if (look_at(t, s, t->w->images[i], &is, &err) < 0)
			return violated(t, s, "b: image '%s': %s", t->w->images[i], err.text);
		if (t->written && i == 0) {
			if (is.says != t->written_says)
				return violated(t, s, "b: image '%s' says something else than another process wrote",
						t->w->images[i]);
			continue;
		}
		if (is.says != t->images[i].says)
			return violated(t, s, "b: image '%s' says something else than it did", t->w->images[i]);
		if (is.attributes != t->images[i].attributes && !t->w->other_times)
			return violated(t, s, "b: image '%s' has other attributes (owner, mode, time, flags, xattrs)",
					t->w->images[i]);
	}
	return 0;
}

struct stray {
	const struct trial *t;
	const struct sim *s;
	char path[256];
};

static int find_stray(void *ctx, const char *path, const struct stat *st)
{
	struct stray *x = ctx;

	if (x->t->w->belongs(x->t->w->ctx, path, st))
		return 0;
	snprintf(x->path, sizeof(x->path), "%.255s", path);
	return 1;
}

static int find_opened(void *ctx, const char *path, const struct stat *st)
{
	struct stray *x = ctx;
	const char *root = x->t->w->root;
	size_t len = strlen(root);
	bool inside = strncmp(path, root, len) == 0 && (!path[len] || path[len] == '/');

	if (inside || !S_ISREG(st->st_mode) || !sim_was_opened(x->s, path))
		return 0;
	snprintf(x->path, sizeof(x->path), "%.255s", path);
	return 1;
}

static int judge_strays(struct trial *t, const struct sim *s)
{
	struct stray x = { .t = t, .s = s };

	if (t->w->belongs && sim_each_path(s, find_stray, &x))
		return violated(t, s, "e: '%s' was left behind", x.path);
	return 0;
}

/* What a process did wrong that has ended of itself. */
static int judge_process(struct trial *t, const struct sim *s, const char *who)
{
	struct stray x = { .t = t, .s = s };

	if (t->w->root && sim_each_path(s, find_opened, &x))
		return violated(t, s, "e: '%s' was opened by %s, outside of the root", x.path, who);
	if (sim_nr_self_waits(s))
		return violated(t, s, "e: %s waited for a lease of its own", who);
	if (sim_nr_open(s))
		return violated(t, s, "e: %s left %u descriptors open", who, sim_nr_open(s));
	return 0;
}

static int recover(struct trial *t, struct sim *s)
{
	unsigned most = t->w->calls_max ? t->w->calls_max : CALLS_MAX;
	struct err err = ERR_INIT;

	if (!t->w->recover)
		return 0;
	if (t->w->recover(t->w->ctx, s, &err) < 0)
		return violated(t, s, "a: the recovery failed: %s", err.text);
	if (sim_nr_calls(s) > most)
		return violated(t, s, "a: the recovery took %u calls", sim_nr_calls(s));
	return judge_process(t, s, "the recovery");
}

static int judge(struct trial *t, struct sim *s, struct crash_moment m)
{
	struct err err = ERR_INIT;
	uint64_t digest;
	int rc;

	sim_restart(s);
	sim_drop_caches(s);
	if (recover(t, s) < 0)
		return -1;
	sim_restart(s);
	sim_outside(s, true);
	rc = judge_images(t, s);
	if (rc == 0 && t->w->check && t->w->check(t->w->ctx, s, m, &err) < 0)
		rc = violated(t, s, "c: %s", err.text);
	sim_outside(s, false);
	if (rc < 0 || judge_strays(t, s) < 0)
		return -1;
	digest = sim_digest(s);
	if (recover(t, s) < 0)
		return -1;
	if (sim_digest(s) != digest)
		return violated(t, s, "d: another recovery changed something");
	return 0;
}

/* ---- trials ---- */

static struct sim *begin(struct trial *t)
{
	struct sim *s = sim_clone(t->start);

	sim_use(s);
	if (t->w->mistake)
		t->w->mistake(t->w->ctx, s);
	t->told = s;
	return s;
}

static int run(struct trial *t, struct sim *s, struct err *err)
{
	*err = ERR_INIT;
	return t->w->run(t->w->ctx, s, err);
}

static int set_up(struct trial *t, const struct crash_workflow *w, struct crash_report *ret)
{
	bool was;

	*t = (struct trial){ .w = w, .ret = ret, .start = sim_new(&w->options) };
	say(t, "at the beginning");
	sim_use(t->start);
	was = sim_outside(t->start, true);
	w->setup(w->ctx, t->start);
	for (unsigned i = 0; w->images && w->images[i]; i++) {
		struct err err = ERR_INIT;

		if (i == IMAGES_MAX || look_at(t, t->start, w->images[i], &t->images[i], &err) < 0)
			return violated(t, t->start, "image '%s': %s", w->images[i], err.text);
	}
	sim_outside(t->start, was);
	sim_settle(t->start);
	return 0;
}

static void tear_down(struct trial *t)
{
	sim_use(NULL);
	sim_free(t->start);
}

/* Once, undisturbed; the calls it made are in *ret_calls. */
static int run_undisturbed(struct trial *t, struct sim **ret)
{
	struct sim *s = begin(t);
	struct err err;
	int rc;

	say(t, "undisturbed");
	*ret = s;
	t->done = run(t, s, &err) == 0;
	t->ret->nr_calls = sim_nr_calls(s);
	t->ret->nr_changes = sim_nr_changes(s);
	if (!t->done)
		return violated(t, s, "it failed: %s", err.text);
	rc = judge_process(t, s, "the work");
	return rc;
}

/* ---- kills ---- */

static int judge_state(void *ctx, struct sim *s, const struct sim_cut *cut)
{
	struct trial *t = ctx;
	char how[sizeof(t->how)];
	int rc;

	memcpy(how, t->how, sizeof(how));
	say_more(t, ", then power cut at entry %u, %s %s", cut->at, cut->kind, cut->what);
	sim_use(s);
	rc = judge(t, s, (struct crash_moment){ .done = t->done && cut->at_end,
						   .untouched = cut->at == 0 && !t->disturbed });
	memcpy(t->how, how, sizeof(how));
	return rc;
}

static int kill_recoveries(struct trial *t, const struct sim *killed, struct crash_moment m, unsigned depth)
{
	char how[sizeof(t->how)];
	int rc = 0;

	if (!t->w->recover || !depth)
		return 0;
	memcpy(how, t->how, sizeof(how));
	for (unsigned k = 1; rc == 0; k++) {
		struct sim *s = sim_clone(killed);
		struct err err = ERR_INIT;
		bool was_killed;

		sim_use(s);
		sim_kill_at(s, k);
		t->w->recover(t->w->ctx, s, &err);
		was_killed = sim_killed(s);
		sim_restart(s);
		say_more(t, ", the recovery before its change %u", k);
		if (was_killed && (t->w->nested < 2 || (t->ret->nr_nested + k) % t->w->nested == 0))
			rc = kill_recoveries(t, s, m, depth - 1);
		if (was_killed && rc == 0) {
			sim_use(s);
			t->ret->nr_nested++;
			rc = judge(t, s, m);
		}
		sim_free(s);
		memcpy(t->how, how, sizeof(how));
		if (!was_killed)
			break;
	}
	return rc;
}

/* The recovery was judged; what if power fails during or after it? */
static int cut_after_kill(struct trial *t, const struct sim *s, unsigned entries)
{
	struct sim_cuts cuts = t->w->cuts;
	uint64_t nr;
	int rc;

	cuts.from = entries;
	t->done = false;
	t->disturbed = true;
	say_more(t, " and recovered from entry %u on", entries);
	rc = sim_states(s, &cuts, judge_state, t, &nr);
	t->disturbed = false;
	t->ret->nr_cuts_after_kills += nr;
	return rc;
}

static int try_kill(struct trial *t, unsigned k)
{
	struct crash_moment m = { .untouched = k == 1 };
	struct sim *s = begin(t);
	unsigned entries;
	struct err err;
	int rc;

	say(t, "killed before change %u of %llu", k, (unsigned long long)t->ret->nr_changes);
	sim_kill_at(s, k);
	run(t, s, &err);
	sim_restart(s);
	entries = sim_log_len(s);
	rc = kill_recoveries(t, s, m, 2);
	sim_use(s);
	if (rc == 0)
		rc = judge(t, s, m);
	t->ret->nr_kills++;
	if (rc == 0 && t->w->recover && t->w->cut_again && k % t->w->cut_again == 0)
		rc = cut_after_kill(t, s, entries);
	sim_free(s);
	return rc;
}

/* ---- errors ---- */

static int try_fault(struct trial *t, enum sim_call kind, struct sim_fault f)
{
	static const char *const names[] = { "failing", "done half", "lying", "wrong by a bit" };
	struct sim *s = begin(t);
	struct err err;
	uint64_t nr;
	int rc;

	say(t, "call %u (%s) %s%s%s%s", f.at, sim_call_name(kind), names[f.how], f.errnum ? ": " : "",
	    f.errnum ? strerror(f.errnum) : "", f.for_good ? ", and all like it after it" : "");
	sim_set_fault(s, f);
	t->done = run(t, s, &err) == 0;
	say_more(t, ", upon which it %s%s", t->done ? "succeeded" : "failed: ", t->done ? "" : err.text);
	t->ret->nr_errors++;
	rc = judge_process(t, s, "the work");
	if (rc == 0 && !t->done && err.kind == ERR_NONE)
		rc = violated(t, s, "it failed without a reason");
	if (rc == 0 && (kind == SIM_FSYNC || kind == SIM_FDATASYNC || kind == SIM_SYNCFS) && f.errnum != EINTR) {
		rc = sim_states(s, &t->w->cuts, judge_state, t, &nr);
		t->ret->nr_cuts_after_errors += nr;
		sim_use(s);
	}
	if (rc == 0)
		rc = judge(t, s, (struct crash_moment){ .done = t->done && f.how < SIM_LIE, .lied = f.how >= SIM_LIE });
	sim_free(s);
	return rc;
}

static const int *errors_of(enum sim_call kind, bool changes)
{
	static const int plain[] = { EIO, 0 }, interrupted[] = { EIO, EINTR, 0 },
			 syncs[] = { EIO, ENOSPC, EDQUOT, EINTR, 0 };
	static const int writes[] = { EIO, ENOSPC, EDQUOT, EINTR, 0 }, spaces[] = { EIO, ENOSPC, EDQUOT, 0 };
	static const int opens[] = { EIO, EMFILE, EINTR, 0 }, creates[] = { EIO, ENOSPC, EDQUOT, EMFILE, EINTR, 0 };
	static const int ioctls[] = { EIO, ENOSPC, EOPNOTSUPP, 0 };

	switch (kind) {
	case SIM_OPEN:
	case SIM_OPEN2:
		return changes ? creates : opens;
	case SIM_WRITE:
	case SIM_ALLOCATE:
		return writes;
	case SIM_FSYNC:
	case SIM_FDATASYNC:
	case SIM_SYNCFS:
		return syncs;
	case SIM_READ:
	case SIM_CLOSE:
		return interrupted;
	case SIM_IOCTL:
		return ioctls;
	default:
		return changes ? spaces : plain;
	}
}

static int try_faults(struct trial *t, unsigned at, enum sim_call kind, bool changes)
{
	bool moves = kind == SIM_READ || kind == SIM_WRITE;

	for (const int *e = errors_of(kind, changes); *e; e++)
		if (try_fault(t, kind, (struct sim_fault){ .at = at, .errnum = *e }) < 0 ||
		    (*e != EINTR && changes &&
		     try_fault(t, kind, (struct sim_fault){ .at = at, .errnum = *e, .for_good = true }) < 0))
			return -1;
	if (moves && try_fault(t, kind, (struct sim_fault){ .at = at, .how = SIM_SHORT }) < 0)
		return -1;
	if (kind == SIM_WRITE && (try_fault(t, kind, (struct sim_fault){ .at = at, .how = SIM_LIE }) < 0 ||
				  try_fault(t, kind, (struct sim_fault){ .at = at, .how = SIM_FLIP }) < 0))
		return -1;
	if (kind == SIM_READ && t->w->flip_reads)
		return try_fault(t, kind, (struct sim_fault){ .at = at, .how = SIM_FLIP });
	return 0;
}

/* ---- another process ---- */

struct visit {
	struct trial *t;
	int flags;
	bool stays;
	unsigned opens; /* before that call; 0: at once */
	int fd;		/* -1: not open */
};

static void visit_granted(void *ctx, struct sim *s, int fd)
{
	struct visit *v = ctx;

	if (v->flags != O_RDONLY) {
		v->t->w->visit(v->t->w->ctx, s, fd);
		v->t->written = true;
	}
	if (v->stays)
		v->fd = fd;
	else
		file_ops->close(fd);
}

static void visit_begins(void *ctx, struct sim *s)
{
	struct visit *v = ctx;

	if (v->opens)
		sim_visit_late(s, v->t->w->images[0], v->opens, v->flags, visit_granted, v);
	else
		sim_visit(s, v->t->w->images[0], v->flags, visit_granted, v);
}

static void visit_ends(struct visit *v, struct sim *s)
{
	bool was = sim_outside(s, true);

	if (v->fd >= 0 && v->flags != O_RDONLY)
		v->t->w->visit(v->t->w->ctx, s, v->fd);
	if (v->fd >= 0)
		file_ops->close(v->fd);
	sim_outside(s, was);
}

static int try_visit(struct trial *t, unsigned at, unsigned opens, int flags, bool stays)
{
	struct visit v = { .t = t, .flags = flags, .stays = stays, .opens = opens, .fd = -1 };
	struct sim *s = begin(t);
	struct err err;
	int rc;

	say(t, "another process finds the image before call %u, opens it before call %u to %s%s", at,
	    opens ? opens : at, flags == O_RDONLY ? "read" : "write", stays ? ", and has it open to the end" : "");
	t->written = false;
	sim_before(s, at, visit_begins, &v);
	t->done = run(t, s, &err) == 0;
	say_more(t, ", upon which it %s%s", t->done ? "succeeded" : "failed: ", t->done ? "" : err.text);
	t->ret->nr_visits++;
	rc = judge_process(t, s, "the work");
	sim_hurry(s);
	if (rc == 0 && sim_nr_waiting(s))
		rc = violated(t, s, "e: the other process waits still");
	visit_ends(&v, s);
	if (rc == 0)
		rc = judge(t, s, (struct crash_moment){ .done = t->done });
	t->written = false;
	sim_free(s);
	return rc;
}

/* What the image says after a visit to it alone. */
static int expect_visit(struct trial *t)
{
	struct visit v = { .t = t, .flags = O_RDWR, .fd = -1 };
	struct sim *s = sim_clone(t->start);
	struct err err = ERR_INIT;
	struct image is = { 0 };
	int rc;

	sim_use(s);
	sim_outside(s, true);
	visit_begins(&v, s);
	rc = look_at(t, s, t->w->images[0], &is, &err);
	t->written = false;
	t->written_says = is.says;
	if (rc < 0)
		rc = violated(t, s, "image '%s' after a visit: %s", t->w->images[0], err.text);
	sim_free(s);
	return rc;
}

static int try_visits_at(struct trial *t, unsigned at, unsigned opens)
{
	if (try_visit(t, at, opens, O_RDONLY, false) < 0 || try_visit(t, at, opens, O_RDONLY, true) < 0 ||
	    try_visit(t, at, opens, O_RDWR, false) < 0 || try_visit(t, at, opens, O_RDWR, true) < 0)
		return -1;
	return 0;
}

/* Between finding a file and opening it others may be quicker, up to where the lease that is in the way is let go. */
static int try_visits(struct trial *t, const struct sim *undisturbed)
{
	unsigned nr = sim_nr_calls(undisturbed);

	if (!t->w->visit)
		return 0;
	if (expect_visit(t) < 0)
		return -1;
	for (unsigned n = 1; n <= nr; n++) {
		unsigned let_go = n + 1;

		while (let_go <= nr && !sim_call_lets_go(undisturbed, let_go))
			let_go++;
		if (try_visits_at(t, n, 0) < 0 || (let_go <= nr && try_visits_at(t, n, let_go) < 0))
			return -1;
	}
	return 0;
}

/* ---- power cuts ---- */

static int cut_recovery(struct trial *t, const struct sim *state)
{
	struct sim *s = sim_clone(state);
	const struct sim *told = t->told;
	struct err err = ERR_INIT;
	bool done = t->done;
	uint64_t nr;
	int rc;

	sim_use(s);
	t->done = false;
	t->disturbed = true;
	t->w->recover(t->w->ctx, s, &err);
	sim_restart(s);
	t->told = s;
	rc = sim_states(s, &t->w->cuts, judge_state, t, &nr);
	t->told = told;
	t->done = done;
	t->disturbed = false;
	t->ret->nr_cuts_again += nr;
	sim_free(s);
	return rc;
}

static int try_cut(void *ctx, struct sim *s, const struct sim_cut *cut)
{
	struct trial *t = ctx;
	unsigned again = t->w->recover ? t->w->cut_again : 0;

	t->ret->nr_cuts++;
	say(t, "power cut at entry %u%s, %s %s", cut->at, cut->at_end ? " (the end)" : "", cut->kind, cut->what);
	if (again && t->ret->nr_cuts % again == 0 && cut_recovery(t, s) < 0)
		return -1;
	sim_use(s);
	return judge(t, s, (struct crash_moment){ .done = t->done && cut->at_end, .untouched = cut->at == 0 });
}

/* ---- all of them ---- */

enum { KILLS = 1, ERRORS = 2, CUTS = 4, VISITS = 8 };

static int try_all(struct trial *t, struct sim *s, unsigned what)
{
	unsigned nr_calls = sim_nr_calls(s), nr_changes = sim_nr_changes(s);

	if (what & CUTS) {
		if (t->w->mistake_in_log)
			t->w->mistake_in_log(t->w->ctx, s);
		if (sim_states(s, &t->w->cuts, try_cut, t, NULL) < 0)
			return -1;
	}
	if (what & VISITS && try_visits(t, s) < 0)
		return -1;
	for (unsigned k = 1; what & KILLS && k <= nr_changes; k++)
		if (try_kill(t, k) < 0)
			return -1;
	for (unsigned n = 1; what & ERRORS && n <= nr_calls; n++)
		if (try_faults(t, n, sim_call_kind(s, n), sim_call_changes(s, n)) < 0)
			return -1;
	return 0;
}

static int try_some(const struct crash_workflow *w, struct crash_report *ret, unsigned what)
{
	struct sim *s = NULL, *after = NULL;
	struct trial t;
	int rc;

	*ret = (struct crash_report){ 0 };
	rc = set_up(&t, w, ret);
	if (rc == 0)
		rc = run_undisturbed(&t, &s);
	if (rc == 0) {
		after = sim_clone(s);
		sim_use(after);
		rc = judge(&t, after, (struct crash_moment){ .done = true });
	}
	if (rc == 0)
		rc = try_all(&t, s, what);
	sim_free(after);
	sim_free(s);
	tear_down(&t);
	return rc;
}

int crash_try(const struct crash_workflow *w, struct crash_report *ret)
{
	return try_some(w, ret, KILLS | ERRORS | CUTS | VISITS);
}

int crash_try_kills(const struct crash_workflow *w, struct crash_report *ret)
{
	return try_some(w, ret, KILLS);
}

int crash_try_errors(const struct crash_workflow *w, struct crash_report *ret)
{
	return try_some(w, ret, ERRORS);
}

int crash_try_visits(const struct crash_workflow *w, struct crash_report *ret)
{
	return try_some(w, ret, VISITS);
}

int crash_try_cuts(const struct crash_workflow *w, struct crash_report *ret)
{
	return try_some(w, ret, CUTS);
}

void crash_report_release(struct crash_report *r)
{
	free(r->text);
	r->text = NULL;
}

struct crash_report assert_survives(crash_trial *try, const struct crash_workflow *w)
{
	struct crash_report r;

	if (try(w, &r) < 0)
		fail_msg("%s: %s", w->name, r.text);
	print_message("%s: %llu calls, %llu changes; %llu kills and %llu in recoveries, %llu errors, %llu visits, %llu cuts, "
		      "%llu after errors, %llu and %llu in recoveries\n",
		      w->name, (unsigned long long)r.nr_calls, (unsigned long long)r.nr_changes, (unsigned long long)r.nr_kills,
		      (unsigned long long)r.nr_nested, (unsigned long long)r.nr_errors, (unsigned long long)r.nr_visits,
		      (unsigned long long)r.nr_cuts, (unsigned long long)r.nr_cuts_after_errors,
		      (unsigned long long)r.nr_cuts_again, (unsigned long long)r.nr_cuts_after_kills);
	return r;
}

void assert_caught(crash_trial *try, const struct crash_workflow *w, const char *words)
{
	struct crash_report r;

	if (try(w, &r) == 0)
		fail_msg("%s: not caught, '%s' was expected", w->name, words);
	if (!strstr(r.text, words))
		fail_msg("%s: '%s' was expected: %.900s", w->name, words, r.text);
	crash_report_release(&r);
}
