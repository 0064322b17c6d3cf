/* SPDX-License-Identifier: Apache-2.0 */

/* The front door: the table of commands.  What they take and say is in reports/commands/. */

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "reports/commands/commands.h"
#include "reports/commands/terminal.h"
#include "scanner/base/checked.h"
#include "scanner/base/jail.h"
#include "scanner/chunk/fingerprint.h"
#include "scanner/guests.h"
#include "scanner/image/image.h"

#define VERSION "0.1"

static const struct {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *what;
} commands[] = {
	{ "report", run_report, "scan images and report what is stored twice" },
	{ "scan", run_scan, "scan images into the catalog" },
	{ "compact", run_compact, "store what is stored twice once" },
	{ "recover", run_recover, "finish or undo what a compaction left" },
	{ "info", run_info, "tell what images are" },
	{ "verify", run_verify, "tell whether images are what they were" },
	{ "clone", run_clone, "copy an image of a pool without copying data" },
	{ "snapshot", run_snapshot, "keep images of a pool as they are" },
	{ "rollback", run_rollback, "make an image what it was" },
	{ "list", run_list, "list images and versions of a pool" },
	{ "diff", run_diff, "tell in what two disks of a pool differ" },
	{ "delete", run_delete, "forget a version" },
	{ "prune", run_prune, "forget versions by rules" },
	{ "restore", run_restore, "write a disk of a pool as an image of any format" },
	{ "expand", run_expand, "make images independent of their pool again" },
	{ "repoint", run_repoint, "tell images where their pool is after it was moved" },
	{ "pool", run_pool, "look after a pool" },
};

static int help(void)
{
	printf("usage: dedupscan COMMAND [OPTION]... PATH...\n\n");
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		printf("  %-10s %s\n", commands[i].name, commands[i].what);
	printf("\n'dedupscan COMMAND --help' tells its options; dedupscan(1) tells the rest.\n");
	return term_printed(EXIT_DONE);
}

static int version(void)
{
	char sandbox[128], program[PATH_MAX];
	struct jail jail;

	jail_plan(&jail, JAIL_BEST, NULL);
	printf("dedupscan " VERSION "\nformats:");
	for (const struct image_format *const *f = image_formats; *f; f++)
		printf(" %s", (*f)->name);
	printf("\nfingerprints: XXH3-128, %s\n", fingerprint_best()->name);
	printf("sandbox: %s\n", jail_describe(&jail, sandbox, sizeof(sandbox)));
	printf("guest: %s\n", guest_program(program) ? "yes" : "no");
	return term_printed(EXIT_DONE);
}

/* Were one of the standard descriptors closed, a file of ours would get its number, and what is printed would go there.
 * Now to print there fails, as it should: it is open the wrong way around. */
static void open_standard(void)
{
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0 && errno == EBADF)
			(void)!open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
}

int main(int argc, char **argv)
{
	struct err err = ERR_INIT;
	char name[256];

	if (getauxval(AT_SECURE)) {
		err_set(&err, ERR_REFUSED, "it must not be installed setuid or setgid");
		return term_fail(&err);
	}
	open_standard();
	term_begin();
	if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0)
		return help();
	if (strcmp(argv[1], "--version") == 0)
		return version();
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
		if (strcmp(argv[1], commands[i].name) != 0)
			continue;
		argv[1] = (char *)"dedupscan"; /* not the command: getopt_long() begins its messages with it */
		return commands[i].run(argc - 1, argv + 1);
	}
	err_set(&err, ERR_USAGE, "there is no command '%s'", term_safe(argv[1], name, sizeof(name)));
	return term_cannot_begin(&err);
}
