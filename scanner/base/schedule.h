/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_SCHEDULE_H
#define DEDUPSCAN_SCHEDULE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "scanner/base/err.h"

/* When to work: a daily window, a length of time, a time of day to end at.  The wall clock decides about windows and nothing
 * else; lengths of time are counted on the boot-time clock, which no one sets and which goes on during suspension. */

struct schedule {
	bool has_window;
	unsigned window_from, window_to; /* minutes since midnight, local time; may pass midnight */
	uint64_t end;			 /* CLOCK_BOOTTIME in ns; 0 = none */
};

/* "01:00-05:00" */
int schedule_set_window(struct schedule *s, const char *text, struct err *err);
/* Ends `seconds` from now.  With several ends the earliest holds. */
void schedule_set_for(struct schedule *s, uint64_t seconds);
/* Ends when the local time is next "05:00". */
int schedule_set_until(struct schedule *s, const char *text, struct err *err);

enum schedule_state { SCHEDULE_WORK, SCHEDULE_WAIT, SCHEDULE_OVER };

/* WAIT: the window has not opened yet.  `worked`: whether work has begun; a window that closes then is over. */
enum schedule_state schedule_now(const struct schedule *s, bool worked);

/* What long work asks now and then: has the user stopped it, or is its time over? */
struct stopper {
	_Atomic uint32_t flag; /* set by the user's signal */
	struct schedule schedule;
};

bool stopper_says(struct stopper *s);

/* The pure part of it: is the minute of the day inside the window? */
bool schedule_window_holds(const struct schedule *s, unsigned minute);

#endif
