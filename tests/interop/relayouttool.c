/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "compactor/relayout.h"
#include "scanner/base/file.h"
#include "scanner/base/jail.h"
#include "scanner/roots.h"

/* relayouttool relayout|same FORMAT OLD NEW: writes NEW, which is not there yet, or compares; in the jail, and with files open
 * for writing, as they are when an image is replaced.  Files that an image names must lie in its directory. */

static int run(char **argv, struct err *err)
{
	bool make = strcmp(argv[1], "relayout") == 0;
	int old = file_open(AT_FDCWD, argv[3], O_RDWR, 0, err), copy, rc;
	struct roots roots = { 0 };
	struct jail jail;
	char dir[4096];

	snprintf(dir, sizeof(dir), "%s", argv[3]);
	if (strrchr(dir, '/'))
		*strrchr(dir, '/') = '\0';
	else
		strcpy(dir, ".");
	if (old < 0 || jail_plan(&jail, JAIL_BEST, err) < 0 || roots_add(&roots, dir, false, err) < 0)
		return -1;
	copy = file_open(AT_FDCWD, argv[4], make ? O_RDWR | O_CREAT | O_EXCL : O_RDWR, 0600, err);
	if (copy < 0)
		return -1;
	rc = (make ? relayout_make : proof_same_image)(old, copy, argv[3], argv[2], &roots, &jail, NULL, NULL, err);
	file_close(copy, argv[4], NULL);
	file_close(old, argv[3], NULL);
	roots_release(&roots);
	return rc;
}

int main(int argc, char **argv)
{
	struct err err = ERR_INIT;

	if (argc != 5 || (strcmp(argv[1], "relayout") != 0 && strcmp(argv[1], "same") != 0)) {
		fprintf(stderr, "usage: relayouttool relayout|same FORMAT OLD NEW\n");
		return 2;
	}
	if (run(argv, &err) == 0)
		return 0;
	fprintf(stderr, "%s: %s\n", err_kind_name(err.kind), err.text);
	return 1;
}
