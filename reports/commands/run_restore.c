/* SPDX-License-Identifier: Apache-2.0 */
#include "reports/commands/commands.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "compactor/pool_diff.h"
#include "compactor/restore.h"
#include "reports/commands/pool_job.h"
#include "reports/commands/terminal.h"
#include "scanner/base/file.h"

static const char restore_help[] =
	"usage: dedupscan restore [OPTION]... IMAGE[@VERSION] FILE\n"
	"\n"
	"Writes a disk of a pool to FILE, which must not be there, as an image of any format.\n"
	"\n"
	"  --format NAME         raw, qcow2, vmdk, vhd or vhdx (by FILE's name; raw without one)\n"
	"  --kind KIND           of it (the first is what there is without this option):\n"
	"                        vmdk: monolithicSparse, monolithicFlat, streamOptimized,\n"
	"                              twoGbMaxExtentSparse, twoGbMaxExtentFlat\n"
	"                        vhd, vhdx: dynamic, fixed\n"
	"                        qcow2: 3, 2 (its version); zlib, zstd (3, compressed)\n"
	"  --cluster-size SIZE   of its clusters, grains or blocks\n"
	"  --pool DIR            where the pool is, if the image cannot tell\n"
	"  --wait TIME           how long to wait while another dedupscan changes the pool (10s)\n"
	"\n"
	"Exit status: 0 done; 2 usage; 3 failed; 4 in use; 75 stopped.\n";

static const struct writer_format *format_of(const struct pool_job *j, const char *file, struct err *err)
{
	const char *dot = strrchr(file_last_part(file), '.'), *name = j->format ? j->format : dot ? dot + 1 : "raw";
	const struct writer_format *f = writer_format_by_name(strcmp(name, "img") == 0 ? "raw" : name);

	return f ? f : err_null(err, ERR_USAGE, "there is no format '%s' to write; --format takes raw, qcow2, vmdk, vhd and vhdx",
				name);
}

static void tell_removed(void *ctx, const char *name)
{
	char text[4 * PATH_MAX];

	(void)ctx;
	term_clear();
	fprintf(stderr, "dedupscan: removed '%s', which a restore left that was killed\n", term_safe(name, text, sizeof(text)));
}

static int act_restore(struct pool_job *j, struct err *err)
{
	const char *label, *path = pool_job_version(j, j->words[0], &label, err);
	struct restore_options o = {
		.how = { .cluster_size = j->cluster_size, .kind = j->kind }, .stopper = &term_stopper, .progress = term_stage,
		.removed = tell_removed,
	};
	CLEANUP(pool_close) struct pool *p = NULL;
	CLEANUP(close_fd) int dirfd = -1;
	char to[PATH_MAX];
	struct pool_disk disk;

	if (!path || pool_job_new_path(j->words[1], to, err) < 0 || !(o.format = format_of(j, to, err)))
		return -1;
	if (pool_job_open_of(j, path, false, &p, err) < 0 || pool_disk_find(p, path, label, &disk, err) < 0)
		return -1;
	*strrchr(to, '/') = '\0';
	dirfd = file_open(AT_FDCWD, to[0] ? to : "/", O_RDONLY | O_DIRECTORY, 0, err);
	if (dirfd < 0)
		return -1;
	return restore_disk(p, disk.root, disk.size, dirfd, file_last_part(j->words[1]), &o, err) < 0 ? -1 : EXIT_DONE;
}

int run_restore(int argc, char **argv)
{
	static const struct option options[] = {
		{ "format", required_argument, NULL, OPT_FORMAT },
		{ "kind", required_argument, NULL, OPT_KIND },
		{ "cluster-size", required_argument, NULL, OPT_CLUSTER_SIZE },
		POOL_OPTIONS,
		{ 0 },
	};

	return pool_job_run(argc, argv, &(struct pool_verb){ restore_help, options, 2, 2, act_restore });
}
