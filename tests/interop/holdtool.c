/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "compactor/hold.h"
#include "scanner/base/file.h"

/* holdtool [--assume-idle] [--no-leases] take|look FILE: what compactor/hold.h says of a file, for tests.
 *
 * "take" says "held", or why not, and as long as it holds the file answers each line of input: "whole?" by "whole" or
 * by what is wrong.  At the end of input it lets go and says so.  --no-leases: as if the file system had none. */

static struct file_ops ops;

static int fcntl_without_leases(int fd, int cmd, void *arg)
{
	if (cmd == F_SETLEASE) {
		errno = EINVAL;
		return -1;
	}
	return file_ops_os.fcntl(fd, cmd, arg);
}

static int say(int rc, const char *well, const struct err *err)
{
	if (rc < 0)
		printf("%s: %s\n", err_kind_name(err->kind), err->text);
	else
		puts(well);
	fflush(stdout);
	return rc < 0;
}

static int take(int fd, int dirfd, const char *name, const struct hold_options *o)
{
	CLEANUP(hold_release) struct hold h = HOLD_INIT;
	struct err err = ERR_INIT;
	char line[80];

	if (say(hold_take(&h, fd, dirfd, name, o, &err), "held", &err))
		return 1;
	while (fgets(line, sizeof(line), stdin))
		say(hold_whole(&h, &err), "whole", &err);
	hold_release(&h);
	return say(0, "let go", NULL);
}

int main(int argc, char **argv)
{
	struct hold_options o = { .assume_idle = false };
	struct err err = ERR_INIT;
	char folder[PATH_MAX], name[PATH_MAX];
	int i, fd, dirfd;

	ops = file_ops_os;
	for (i = 1; i < argc && argv[i][0] == '-'; i++) {
		o.assume_idle |= strcmp(argv[i], "--assume-idle") == 0;
		if (strcmp(argv[i], "--no-leases") == 0)
			ops.fcntl = fcntl_without_leases;
	}
	if (argc - i != 2)
		return 2;
	file_ops = &ops;
	snprintf(folder, sizeof(folder), "%s", argv[i + 1]);
	snprintf(name, sizeof(name), "%s", argv[i + 1]);
	dirfd = file_open(AT_FDCWD, dirname(folder), O_RDONLY | O_DIRECTORY, 0, &err);
	fd = dirfd < 0 ? -1 : file_open(dirfd, basename(name), (strcmp(argv[i], "take") ? O_RDONLY : O_RDWR) | O_NONBLOCK, 0,
					&err);
	if (say(fd < 0 ? -1 : 0, "open", &err))
		return 1;
	if (strcmp(argv[i], "take") == 0)
		return take(fd, dirfd, basename(name), &o);
	return say(hold_look(fd, dirfd, basename(name), &err), "idle", &err);
}
