/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/base/units.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char letters[] = "KMGTPE";

/* What may follow the number: "", "B", "K", "KB", "KiB". */
static int unit_shift(const char *s)
{
	const char *letter;

	if (!*s || strcasecmp(s, "B") == 0)
		return 0;
	letter = strchr(letters, toupper((unsigned char)*s));
	if (!letter)
		return -1;
	s++;
	if (!*s || strcasecmp(s, "B") == 0 || strcasecmp(s, "iB") == 0)
		return 10 * (int)(letter - letters + 1);
	return -1;
}

int units_parse_size(const char *s, uint64_t *ret, struct err *err)
{
	char *end;
	int shift;
	long double v;

	errno = 0;
	v = isdigit((unsigned char)*s) ? strtold(s, &end) : 0;
	shift = isdigit((unsigned char)*s) && !errno && strspn(s, "0123456789.") == (size_t)(end - s) ? unit_shift(end) : -1;
	if (shift < 0)
		return err_set(err, ERR_USAGE, "'%s' is not a size; write 4096, 35M or 1.5G", s);
	v = v * (long double)((uint64_t)1 << shift) + 0.5L;
	if (v >= 0x1p63L)
		return err_set(err, ERR_USAGE, "'%s' is too large", s);
	*ret = (uint64_t)v;
	return 0;
}

int units_parse_duration(const char *s, uint64_t *ret, struct err *err)
{
	const char *p = s;
	uint64_t sum = 0;

	while (isdigit((unsigned char)*p)) {
		char *end;
		unsigned long long n = strtoull(p, &end, 10);
		unsigned unit = *end == 'd' ? 86400 : *end == 'h' ? 3600 : *end == 'm' ? 60 : *end == 's' || !*end ? 1 : 0;

		if (!unit || n > 1000000000)
			break;
		sum += n * unit;
		p = *end ? end + 1 : end;
	}
	if (*p || !sum)
		return err_set(err, ERR_USAGE, "'%s' is not a duration; write 90s, 30m or 2h", s);
	*ret = sum;
	return 0;
}

int units_parse_clock(const char *s, unsigned *ret, struct err *err)
{
	unsigned h, m;
	int n = 0;

	if (strspn(s, "0123456789:") != strlen(s) || strlen(s) > 5 || sscanf(s, "%2u:%2u%n", &h, &m, &n) != 2 || s[n] || h > 23 ||
	    m > 59)
		return err_set(err, ERR_USAGE, "'%s' is not a time of day; write 01:00 or 23:30", s);
	*ret = h * 60 + m;
	return 0;
}

char *units_size(uint64_t bytes, char *buf, size_t room)
{
	double v = (double)bytes;
	int unit = -1;

	while (v >= 1023.5 && unit + 1 < (int)strlen(letters)) {
		v /= 1024;
		unit++;
	}
	if (unit < 0)
		snprintf(buf, room, "%llu B", (unsigned long long)bytes);
	else
		snprintf(buf, room, "%.*f %ciB", v < 99.95 ? 1 : 0, v, letters[unit]);
	return buf;
}

char *units_time(uint64_t s, char *buf, size_t room)
{
	unsigned long long h = s / 3600;

	if (h)
		snprintf(buf, room, "%llu:%02llu:%02llu", h, (unsigned long long)s / 60 % 60, (unsigned long long)s % 60);
	else
		snprintf(buf, room, "%llu:%02llu", (unsigned long long)s / 60, (unsigned long long)s % 60);
	return buf;
}
