/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_PROGRESS_H
#define DEDUPSCAN_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* How long work has gone on and how long it will: made into a line, printed by others. */

struct progress {
	const char *stage;     /* a literal; a new one begins the measuring anew */
	uint64_t began, began_at; /* ns, and what was done then */
};

struct progress_state {
	const char *stage;
	uint64_t done, total; /* total 0 = not known */
	bool bytes;	      /* they are bytes, and may be shown */
	uint64_t nr_done, nr; /* of things, "images"; nr 0 = not counted */
	const char *things;
};

/* Writes "reading 12.3 GiB of 40.0 GiB (31 %), 812 MiB/s, 0:34 left, 3 of 10 images"; now is a monotonic clock in ns.
 * Rate and time left come from this stage alone and not before half a second of it.  Returns buf. */
char *progress_line(struct progress *p, const struct progress_state *s, uint64_t now, char *buf, size_t room);

#endif
