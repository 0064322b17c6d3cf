/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/base/progress.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "scanner/base/units.h"

#define MEASURE_NS 500000000ull

__attribute__((format(printf, 3, 4))) static void add(char *buf, size_t room, const char *fmt, ...)
{
	size_t len = strlen(buf);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(buf + len, room - len, fmt, ap);
	va_end(ap);
}

static double per_second(const struct progress *p, const struct progress_state *s, uint64_t now)
{
	uint64_t ns = now - p->began;

	return ns >= MEASURE_NS && s->done > p->began_at ? (double)(s->done - p->began_at) * 1e9 / (double)ns : 0;
}

char *progress_line(struct progress *p, const struct progress_state *s, uint64_t now, char *buf, size_t room)
{
	char a[UNITS_SIZE_ROOM], b[UNITS_SIZE_ROOM], left[UNITS_TIME_ROOM];
	uint64_t done = s->done < s->total ? s->done : s->total;
	double rate;

	if (p->stage != s->stage)
		*p = (struct progress){ s->stage, now, s->done };
	snprintf(buf, room, "%s", s->stage);
	if (!s->total)
		return buf;
	if (s->bytes)
		add(buf, room, " %s of %s", units_size(done, a, sizeof(a)), units_size(s->total, b, sizeof(b)));
	add(buf, room, " (%u %%)", (unsigned)((double)done * 100 / (double)s->total));
	rate = per_second(p, s, now);
	if (rate > 0 && s->bytes)
		add(buf, room, ", %s/s", units_size((uint64_t)rate, a, sizeof(a)));
	if (rate > 0)
		add(buf, room, ", %s left", units_time((uint64_t)((double)(s->total - done) / rate), left, sizeof(left)));
	if (s->nr)
		add(buf, room, ", %llu of %llu %s", (unsigned long long)s->nr_done, (unsigned long long)s->nr, s->things);
	return buf;
}
