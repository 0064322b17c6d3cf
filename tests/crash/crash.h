/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_TESTS_CRASH_H
#define DEDUPSCAN_TESTS_CRASH_H

#include <stdbool.h>
#include <stdint.h>

#include "scanner/base/err.h"
#include "tests/crash/sim.h"
#include "tests/unit/sanitized.h"

/* Drives a piece of work through all that can go wrong under it, and judges what is left.
 *
 * The work is done once undisturbed, and is then
 *  - killed before each of its changes, and the recovery from that killed before each of its own, and the recovery
 *    from that; and power is cut during or after the recovery from a kill, which may have taken for saved what was
 *    not
 *  - given every error at every call, a lie or a wrong bit at every write, and half of every transfer
 *  - joined before each of its calls by another process that opens the first image: reads, or writes and closes, or
 *    writes and writes again when the work is done; one that opens what it found then only when the lease is let go,
 *    too.  What it wrote must be in the image at its path.  (If there is visit().)
 *  - cut from power at every entry of the log (see sim_states()), undisturbed and with each sync failing
 * After each of these recover() runs, and this must hold:
 *  a) it succeeds, within calls_max calls
 *  b) each image is there, says what it said (view()), and has the attributes it had
 *  c) check() is content
 *  d) another recover() changes nothing
 *  e) nothing is there that does not belong(), nothing outside `root` was opened, no descriptor is left open, and the
 *     process did not wait for a lease of its own
 *
 * A negative control leaves a step out or changes the order: `mistake` below, or sim_log_move(). */

struct crash_moment {
	bool done;	/* run() had returned 0 before the disturbance: what it did must be there */
	bool untouched; /* nothing was changed at all: what it does must not be there */
	bool lied;	/* the disk said "written" and was wrong; the images must be well all the same */
};

struct crash_workflow {
	const char *name;
	/* All are called with file_ops on the sim.  setup() makes the files; what it made is on the disk then. */
	void (*setup)(void *ctx, struct sim *s);
	int (*run)(void *ctx, struct sim *s, struct err *err);
	int (*recover)(void *ctx, struct sim *s, struct err *err);	/* NULL = there is nothing to do */
	int (*check)(void *ctx, struct sim *s, struct crash_moment m, struct err *err);	/* may be NULL */
	void *ctx;

	const char *const *images; /* absolute paths, ended by NULL; may be NULL */
	/* What an image says, as a digest; NULL = its bytes. */
	int (*view)(void *ctx, struct sim *s, const char *path, uint64_t *ret, struct err *err);
	/* Another process has the first image open for writing and writes.  The same at every time. */
	void (*visit)(void *ctx, struct sim *s, int fd);
	/* Whether something may be there after a recovery; NULL = anything. */
	bool (*belongs)(void *ctx, const char *path, const struct stat *st);
	const char *root; /* NULL = everything may be opened */
	bool other_times; /* the images' times change, and with them their attributes, which are not looked at */

	struct sim_options options;
	struct sim_cuts cuts;
	/* Called with every sim before run(), to seed mistakes: sim_set_fault_of(..SIM_LIE..), sim_before(); may be
	 * NULL. */
	void (*mistake)(void *ctx, struct sim *s);
	/* Called with the sim after the undisturbed run, before its states are taken: sim_log_move(); may be NULL. */
	void (*mistake_in_log)(void *ctx, struct sim *s);
	unsigned calls_max; /* of one recovery; 0 = 100000 */
	bool flip_reads;    /* also a wrong bit at every read, once: it must not get into what is kept */
	unsigned nested;    /* each so many-th kill of a recovery is gone into one deeper; 0 = all */
	/* The recovery of each so many-th kill and power cut is cut from power, too; 0 = none. */
	unsigned cut_again;
};

/* Sanitizers look at memory, for which kills are enough; the states of disks are seen without them. */
#define CRASH_THOROUGH (!SANITIZED)

struct crash_report {
	uint64_t nr_kills, nr_nested, nr_errors, nr_visits, nr_cuts;
	uint64_t nr_cuts_after_errors, nr_cuts_again, nr_cuts_after_kills;
	uint64_t nr_calls, nr_changes; /* of the undisturbed run */
	char *text; /* of the first violation: what was done, and the log; NULL: none */
};

/* Everything.  0, or -1 with the first violation in ret->text. */
int crash_try(const struct crash_workflow *w, struct crash_report *ret);
/* One of them. */
int crash_try_kills(const struct crash_workflow *w, struct crash_report *ret);
int crash_try_errors(const struct crash_workflow *w, struct crash_report *ret);
int crash_try_visits(const struct crash_workflow *w, struct crash_report *ret);
int crash_try_cuts(const struct crash_workflow *w, struct crash_report *ret);
void crash_report_release(struct crash_report *r);

/* ---- for tests by cmocka ---- */

typedef int crash_trial(const struct crash_workflow *w, struct crash_report *ret); /* crash_try() or one of the others */

/* Fails with the first violation; else tells what was tried, and returns how much that was. */
struct crash_report assert_survives(crash_trial *try, const struct crash_workflow *w);
/* Fails unless there is a violation, and is told in these words: a mistake that must be caught. */
void assert_caught(crash_trial *try, const struct crash_workflow *w, const char *words);

#endif
