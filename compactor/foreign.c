/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/foreign.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "scanner/base/cleanup.h"

static bool lies_in(const char *path, const char *dir)
{
	size_t len = strlen(dir);

	while (len > 1 && dir[len - 1] == '/')
		len--;
	return len && strncmp(path, dir, len) == 0 && (path[len] == '/' || len == 1);
}

/* Every volume of oVirt has its description beside it. */
static bool is_ovirt(const char *path)
{
	char meta[PATH_MAX];
	struct stat st;

	if (strstr(path, "/rhev/data-center/"))
		return true;
	return snprintf(meta, sizeof(meta), "%s.meta", path) < (int)sizeof(meta) && strstr(path, "/images/") &&
	       stat(meta, &st) == 0;
}

/* Sections begin in the first column, "dir: local"; what belongs to them is indented, "path /var/lib/vz". */
static bool in_volume_chain_storage(const char *path, const char *storages)
{
	FILE *f = fopen(storages, "re");
	CLEANUP(free) char *line = NULL;
	char dir[PATH_MAX] = "";
	bool chains = false, found = false;
	size_t room = 0;

	while (f && !found && getline(&line, &room, f) > 0) {
		char word[64], value[PATH_MAX];

		if (line[0] != ' ' && line[0] != '\t') {
			found = chains && lies_in(path, dir);
			chains = false;
			dir[0] = '\0';
		} else if (sscanf(line, " %63s %4095s", word, value) == 2) {
			if (strcmp(word, "path") == 0)
				snprintf(dir, sizeof(dir), "%s", value);
			chains |= strcmp(word, "snapshot-as-volume-chain") == 0 && strcmp(value, "1") == 0;
		}
	}
	if (f)
		fclose(f);
	return found || (chains && lies_in(path, dir));
}

const char *foreign_keeper(const char *path, const char *storages)
{
	if (strstr(path, "/nova/instances/"))
		return "OpenStack's nova looks after it, and would take the pool for a base of its own";
	if (is_ovirt(path))
		return "oVirt looks after it, and takes names of backing files for its own volumes";
	if (in_volume_chain_storage(path, storages))
		return "it lies in a storage of Proxmox VE with snapshot-as-volume-chain, which needs plain names of backing files";
	return NULL;
}
