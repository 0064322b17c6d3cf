/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_STUBS_H
#define DEDUPSCAN_STUBS_H

#include "compactor/pool/view.h"
#include "scanner/base/schedule.h"

/* How QEMU reads what is in a pool already: each stub says it (slice.h), and is written again to say something else.
 *
 * Guests may run: they keep the stub that they have open, which becomes quarantine/slot-N.stub until a collection finds that nobody
 * has.  There is a whole stub at every moment, and what is stopped halfway is done again. */

struct stubs_options {
	struct stub_wish wish; /* of stubs to come, too */
	bool dry_run;
	bool assume_idle; /* where no file system tells who has a stub open, nobody has */
	struct stopper *stopper;
	void (*problem)(void *ctx, const char *stub, const struct err *why); /* what was left as it is */
	void *ctx;
};

struct stubs_set {
	uint64_t nr_set, nr_right, nr_left;
};

/* The pool is open for writing, or dry_run.  ERR_REFUSED and ERR_UNSUPPORTED as stub_tell(), before anything is changed. */
int stubs_set(struct pool *p, const struct stubs_options *o, struct stubs_set *ret, struct err *err);

/* One of them, whatever it said; guests may start and stop meanwhile. */
int stubs_write(struct pool *p, const struct view *v, const struct slice_reading *reading, bool assume_idle, struct err *err);

#endif
