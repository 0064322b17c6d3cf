/* SPDX-License-Identifier: Apache-2.0 */
#include "reports/commands/commands.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#include "compactor/pool_home.h"
#include "reports/commands/settings.h"
#include "reports/commands/terminal.h"
#include "reports/info.h"
#include "reports/json_tree.h"

static const char info_help[] =
	"usage: dedupscan info [OPTION]... IMAGE...\n"
	"\n"
	"Tells what each IMAGE is: its format, sizes, backing chain, and where its data lies.\n"
	"Nothing of its data is read, and no catalog is needed.\n"
	"\n"
	"  --guest               look inside too: operating systems, partitions, file systems\n"
	"  --json                for programs\n"
	"  --bytes               exact bytes in the table\n"
	"  --format NAME         take every IMAGE for this format: raw, qcow2, ...\n"
	"  --allow-backing DIR   backing and data files may be opened beneath DIR too\n"
	"  --sandbox MODE        require (the default), best, or off: see dedupscan(1)\n"
	"\n"
	"Exit status: 0 done; 1 done, some images could not be read; 2 usage; 3 failed;\n"
	"75 stopped.\n";

/* Its settings are few, and it shares those that scan has too. */
struct info {
	struct settings s;
	struct inspect_options o;
	struct jail jail;
	struct inspection *found;
	struct json_t *json;
	bool guest, failed;
};

static int info_option(struct info *f, int opt, const char *arg, struct err *err)
{
	switch (opt) {
	case OPT_GUEST:
		f->guest = true;
		return 0;
	case OPT_STYLE:
		f->json = f->json ? f->json : info_json_new(err);
		return f->json ? 0 : -1;
	case OPT_BYTES:
		f->s.report.exact = true;
		return 0;
	default:
		return settings_option(&f->s, opt, arg, err);
	}
}

static int parse_info(struct info *f, int argc, char **argv, struct err *err)
{
	static const struct option options[] = {
		{ "guest", no_argument, NULL, OPT_GUEST },
		{ "json", no_argument, NULL, OPT_STYLE },
		{ "bytes", no_argument, NULL, OPT_BYTES },
		{ "format", required_argument, NULL, OPT_FORMAT },
		{ "allow-backing", required_argument, NULL, OPT_ALLOW_BACKING },
		{ "sandbox", required_argument, NULL, OPT_SANDBOX },
		{ "help", no_argument, NULL, OPT_HELP },
		{ 0 },
	};
	int opt;

	settings_init_to_report(&f->s);
	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1)
		if (info_option(f, opt, optarg, err) < 0)
			return -1;
	if (optind == argc && !f->s.help)
		return err_set(err, ERR_USAGE, "no IMAGE is given");
	for (int i = optind; i < argc && !f->s.help; i++)
		if (settings_add_image(&f->s.roots, argv[i], err) < 0)
			return -1;
	return pool_home_register(&f->s.roots, NULL, err);
}

/* 1 = there is something to tell, 0 = what kept it is one of the image's problems now. */
static int look_inside(struct info *f, struct guest *ret, struct err *err)
{
	if (!f->guest || guest_look(f->found, &term_stopper, ret, err) == 0)
		return f->guest;
	if (err->kind == ERR_CANCELED)
		return -1;
	inspect_add_problem(f->found, INSPECT_GUEST, err);
	f->failed = true;
	return 0;
}

static int tell_image(struct info *f, const struct root *image, bool first, struct err *err)
{
	struct guest guest = { .text = NULL };
	int rc = inspect_image(image, &f->o, f->found, err), inside;

	if (rc < 0)
		return -1;
	f->failed = f->failed || inspect_failed(f->found);
	inside = look_inside(f, &guest, err);
	if (inside >= 0 && !f->json && !first)
		putchar('\n');
	if (inside < 0)
		rc = -1;
	else if (f->json)
		rc = info_json_add(f->json, f->found, inside ? &guest : NULL, err);
	else
		rc = info_write_table(stdout, f->found, inside ? &guest : NULL, &f->s.report, err);
	guest_release(&guest);
	return rc;
}

static int info(struct info *f, struct err *err)
{
	char program[PATH_MAX];
	bool first = true;

	f->found = malloc(sizeof(*f->found));
	if (!f->found)
		return err_set(err, ERR_MEMORY, "no memory to inspect an image");
	if (f->guest && !guest_program(program))
		return err_set(err, ERR_UNSUPPORTED, "--guest needs dedupscan-guest, which is built where libguestfs is found");
	if (settings_plan_jail(f->s.sandbox, &f->jail, err) < 0)
		return -1;
	f->o = (struct inspect_options){
		.roots = &f->s.roots, .format = f->s.scan.format, .jail = &f->jail, .stopper = &term_stopper
	};
	for (size_t i = 0; i < f->s.roots.list.nr; i++) {
		if (!f->s.roots.list.items[i].walked)
			continue;
		if (tell_image(f, &f->s.roots.list.items[i], first, err) < 0)
			return -1;
		first = false;
	}
	if (f->json)
		tree_print(stdout, f->json); /* term_printed() looks whether that went well */
	return f->failed ? EXIT_SKIPS : EXIT_DONE;
}

int run_info(int argc, char **argv)
{
	struct info f = { .json = NULL };
	struct err err = ERR_INIT;
	int status;

	if (parse_info(&f, argc, argv, &err) < 0) {
		status = term_cannot_begin(&err);
	} else if (f.s.help) {
		fputs(info_help, stdout);
		status = term_printed(EXIT_DONE);
	} else {
		status = info(&f, &err);
		status = term_printed(status < 0 ? term_fail(&err) : status);
	}
	roots_release(&f.s.roots);
	tree_free(f.json);
	free(f.found);
	return status;
}
