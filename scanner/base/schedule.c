/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/base/schedule.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "scanner/base/units.h"

#define SECONDS_MAX ((uint64_t)1 << 32) /* for ever, and no overflow */

static uint64_t boottime_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static unsigned second_of_day(void)
{
	time_t now = time(NULL);
	struct tm tm;

	localtime_r(&now, &tm);
	return (unsigned)(tm.tm_hour * 3600 + tm.tm_min * 60 + tm.tm_sec);
}

int schedule_set_window(struct schedule *s, const char *text, struct err *err)
{
	const char *dash = strchr(text, '-');
	char from[8];

	if (!dash || (size_t)(dash - text) >= sizeof(from))
		return err_set(err, ERR_USAGE, "'%s' is not a window; write 01:00-05:00", text);
	snprintf(from, sizeof(from), "%.*s", (int)(dash - text), text);
	if (units_parse_clock(from, &s->window_from, err) < 0 || units_parse_clock(dash + 1, &s->window_to, err) < 0)
		return -1;
	if (s->window_from == s->window_to)
		return err_set(err, ERR_USAGE, "the window '%s' is empty", text);
	s->has_window = true;
	return 0;
}

void schedule_set_for(struct schedule *s, uint64_t seconds)
{
	uint64_t end = boottime_ns() + (seconds < SECONDS_MAX ? seconds : SECONDS_MAX) * 1000000000;

	if (!s->end || end < s->end)
		s->end = end;
}

int schedule_set_until(struct schedule *s, const char *text, struct err *err)
{
	unsigned minute, now = second_of_day();

	if (units_parse_clock(text, &minute, err) < 0)
		return -1;
	schedule_set_for(s, (minute * 60 + 86400 - now - 1) % 86400 + 1);
	return 0;
}

bool schedule_window_holds(const struct schedule *s, unsigned minute)
{
	if (s->window_from < s->window_to)
		return minute >= s->window_from && minute < s->window_to;
	return minute >= s->window_from || minute < s->window_to;
}

enum schedule_state schedule_now(const struct schedule *s, bool worked)
{
	if (s->end && boottime_ns() >= s->end)
		return SCHEDULE_OVER;
	if (!s->has_window || schedule_window_holds(s, second_of_day() / 60))
		return SCHEDULE_WORK;
	return worked ? SCHEDULE_OVER : SCHEDULE_WAIT;
}

bool stopper_says(struct stopper *s)
{
	return atomic_load_explicit(&s->flag, memory_order_relaxed) || schedule_now(&s->schedule, true) == SCHEDULE_OVER;
}
