/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/base/memory.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SMALL_THINGS ((uint64_t)3 << 20)

/* A line "NAME:  123 kB", in bytes. */
static uint64_t value_in(const char *path, const char *name)
{
	unsigned long long kib = 0;
	FILE *f = fopen(path, "re");
	char line[256];

	while (f && fgets(line, sizeof(line), f))
		if (strncmp(line, name, strlen(name)) == 0)
			sscanf(line + strlen(name), ": %llu", &kib);
	if (f)
		fclose(f);
	return (uint64_t)kib << 10;
}

uint64_t memory_of(pid_t pid, const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%ld/status", (long)pid);
	return value_in(path, name);
}

uint64_t memory_available(void)
{
	return value_in("/proc/meminfo", "MemAvailable");
}

size_t memory_left(uint64_t limit)
{
	uint64_t used = memory_of(getpid(), "VmRSS") + SMALL_THINGS;

	return limit > used + MEMORY_LEFT_MIN ? (size_t)(limit - used) : MEMORY_LEFT_MIN;
}
