/* SPDX-License-Identifier: Apache-2.0 */
#include "reports/commands/scan_job.h"

#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "reports/commands/terminal.h"
#include "scanner/base/checked.h"
#include "scanner/base/units.h"

static uint64_t own_peak_memory(void)
{
	struct rusage r;

	return getrusage(RUSAGE_SELF, &r) == 0 ? (uint64_t)r.ru_maxrss * KIB : 0;
}

static int start_workers(struct scan_job *j, struct err *err)
{
	struct jail jail;

	if (settings_plan_jail(j->s.sandbox, &jail, err) < 0)
		return -1;
	j->workers = scan_workers_new(j->s.jobs, &jail, err);
	return j->workers ? 0 : -1;
}

int scan_job_open(struct scan_job *j, struct err *err)
{
	j->s.scan.watch = &term_watch;
	if (j->s.idle)
		settings_be_idle();
	if (!j->s.no_scan && start_workers(j, err) < 0)
		return -1;
	j->catalog = catalog_open(j->s.catalog, !j->s.no_scan, err);
	if (!j->catalog)
		return -1;
	j->s.roots.leave_out = catalog_identity(j->catalog);
	return 0;
}

static int tally(struct scan_job *j, struct err *err)
{
	struct tally_options o = { .memory = j->s.scan.memory, .nr_threads = j->s.jobs, .stopper = &term_stopper };

	if (tally_run(j->catalog, &j->s.roots, &o, &j->tally, err) < 0)
		return -1;
	j->tally.nr_not_images = j->result.nr_not_images;
	j->tally.peak_memory = max_u64(own_peak_memory(), j->result.reading_memory);
	return 0;
}

static int add_history(struct scan_job *j, const char *result, struct err *err)
{
	struct catalog_scan scan = {
		.started = j->result.started,
		.ended = time(NULL),
		.result = result,
		.nr_images = j->result.nr_images,
		.nr_read = j->result.nr_read,
		.nr_failed = j->result.nr_failed,
		.bytes_read = j->result.bytes_read,
		.virtual_size = j->tally.virtual_size,
		.stored = j->tally.stored,
		.nonzero = j->tally.nonzero,
		.distinct = j->tally.distinct,
	};

	return catalog_add_scan(j->catalog, &scan, err);
}

int scan_job_scan(struct scan_job *j, struct err *err)
{
	if (j->s.no_scan)
		return scan_finish_merge(j->catalog, &j->s.scan, j->s.jobs, err);
	if (scan_run(j->catalog, j->workers, &j->s.scan, &j->result, err) == 0)
		return 0;
	if (err->kind == ERR_CANCELED)
		add_history(j, "stopped", NULL);
	return -1;
}

int scan_job_run(struct scan_job *j, struct err *err)
{
	if (scan_job_open(j, err) < 0)
		return -1;
	if (j->s.no_scan)
		term_stopper.schedule = (struct schedule){ 0 }; /* it reads no image: nothing to spare anybody */
	if (scan_job_scan(j, err) < 0 || tally(j, err) < 0)
		return -1;
	return j->s.no_scan ? 0 : add_history(j, "complete", err);
}

void scan_job_release(struct scan_job *j)
{
	scan_workers_free(j->workers);
	catalog_close(j->catalog);
	roots_release(&j->s.roots);
	tally_release(&j->tally);
	term_clear();
}

int scan_job_status(const struct scan_job *j)
{
	return j->result.nr_failed || j->tally.nr_failed ? EXIT_SKIPS : EXIT_DONE;
}
