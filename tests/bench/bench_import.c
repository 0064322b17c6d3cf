/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

#include "compactor/pool/clusters.h"
#include "compactor/pool/feed.h"
#include "compactor/pool/immutable.h"
#include "compactor/pool/import.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/base/memory.h"
#include "scanner/roots.h"

/* Importing raw images from the page cache into a new pool, without the sync at the end:
 *
 *	bench_import [DIRECTORY [MIB [RUNS]]]
 *
 * The files go to DIRECTORY ($TMPDIR or /var/tmp without one) and are removed.  Beside each other, in turns: what SHA-256 alone
 * takes for the same bytes, and what plain writes take, which together are the limit for data that is new; and cp.  Importing takes
 * two processes, the reader in its jail and the importer: what a core does is told by the processor time of both.  Of several runs
 * the one that took least of that counts. */

#define POOL "bench.pool"
#define GAP 16 /* blocks: of so many one is new in "independent" */

enum kind { NEW, AGAIN, CHANGED, SHIFTED, INDEPENDENT, SHA, SHA_TWO, WRITES, CP, NR_KINDS };

static const char *const kinds[] = {
	"new", "again", "one block a segment", "shifted", "independent", "SHA-256", "SHA-256, two at once", "plain writes", "cp",
};
static const double goals[NR_KINDS] = { [NEW] = 1, [AGAIN] = 1.8 }; /* GB/s a core */

struct cost {
	double wall, cpu, writing, reader; /* seconds; of the importer, of that in pwrite(2), of its child */
	uint64_t stored;
};

struct bench {
	int dirfd;
	const char *dir;
	uint64_t size;
	unsigned nr_runs;
	struct roots roots;
	struct jail jail;
	struct pool *pool;
	struct import *import;
	struct cost costs[NR_KINDS]; /* the least */
	uint64_t memory; /* at the most, while importing */
};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double cpu(int who)
{
	struct rusage u;

	getrusage(who, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

static double writing;

static ssize_t timed_pwrite(int fd, const void *buf, size_t len, off_t offset)
{
	struct timespec a, b;
	ssize_t n;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
	n = file_ops_os.pwrite(fd, buf, len, offset);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
	writing += (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) * 1e-9;
	return n;
}

/* ---- images ---- */

static void fill_block(uint8_t *p, uint64_t number)
{
	for (size_t i = 0; i < BLOCK_SIZE; i += 8) {
		number = number * 6364136223846793005u + 1442695040888963407u;
		le64_store(p + i, number ^ number >> 29);
	}
}

/* The number of the content of a block. */
static uint64_t content(enum kind k, uint64_t block)
{
	const uint64_t other = (uint64_t)1 << 40;

	if (k == CHANGED && block % SEGMENT_BLOCKS == 100)
		return other + block;
	if (k == SHIFTED)
		return block < 5 ? other + block : block - 5;
	if (k == INDEPENDENT)
		return block % GAP == 0 ? 2 * other + block : block - block / GAP - 1 + 3;
	return block;
}

static int make_image(struct bench *b, enum kind k, struct err *err)
{
	CLEANUP(free) uint8_t *buf = malloc(SEGMENT_SIZE);
	int fd = file_open(b->dirfd, kinds[k], O_RDWR | O_CREAT | O_TRUNC, 0600, err), rc = 0;

	if (fd < 0 || !buf)
		return -1;
	for (uint64_t at = 0; rc == 0 && at < b->size; at += SEGMENT_SIZE) {
		for (uint64_t i = 0; i < SEGMENT_BLOCKS; i++)
			fill_block(buf + i * BLOCK_SIZE, 1 + content(k, at / BLOCK_SIZE + i));
		rc = file_write(fd, buf, SEGMENT_SIZE, at, err);
	}
	if (rc == 0)
		rc = file_sync(fd, kinds[k], err);
	file_close(fd, kinds[k], NULL);
	return rc;
}

/* ---- what is measured ---- */

static int take_size(void *ctx, uint64_t size, struct err *err)
{
	const struct import_options o = { .unit_bits = 12, .min_run = 16 * KIB };
	struct bench *b = ctx;

	b->import = import_new(b->pool, size, &o, NULL, 0, err);
	return b->import ? 0 : -1;
}

static int take_segment(void *ctx, uint64_t segment, const void *bytes, struct err *err)
{
	struct bench *b = ctx;

	return import_segment(b->import, segment, bytes, err);
}

static int import_image(struct bench *b, enum kind k, uint64_t *ret_stored, struct err *err)
{
	struct feed f = {
		.roots = &b->roots, .jail = &b->jail, .format = "raw", .size = take_size, .segment = take_segment, .ctx = b,
	};
	int fd = file_open(b->dirfd, kinds[k], O_RDONLY, 0, err), rc;
	struct import_stats stats = { 0 };
	uint8_t root[DIGEST_SIZE];

	if (fd < 0)
		return -1;
	rc = feed_run(&f, fd, kinds[k], err);
	if (rc == 0)
		rc = import_end(b->import, root, &stats, err);
	import_free(STEAL(b->import));
	file_close(fd, kinds[k], NULL);
	*ret_stored = stats.stored;
	return rc;
}

static int digest_alone(struct bench *b, bool two, struct err *err)
{
	CLEANUP(free) uint8_t *buf = malloc(2 * SEGMENT_SIZE);
	uint8_t digest[DIGEST_SIZE];

	if (!buf || digest_prepare(err) < 0)
		return -1;
	memset(buf, 1, 2 * SEGMENT_SIZE);
	for (uint64_t at = 0; at < b->size; at += SEGMENT_SIZE)
		if (!two)
			digest_bytes(buf, SEGMENT_SIZE, digest);
		else if (at / SEGMENT_SIZE % 2)
			digest_two(buf, buf + SEGMENT_SIZE, SEGMENT_SIZE, digest, digest);
	return 0;
}

static int write_plainly(struct bench *b, struct err *err)
{
	CLEANUP(free) uint8_t *buf = malloc(MIB);
	int fd = file_open(b->dirfd, "copy", O_RDWR | O_CREAT | O_TRUNC, 0600, err), rc = 0;

	if (fd < 0 || !buf)
		return -1;
	memset(buf, 1, MIB);
	for (uint64_t at = 0; rc == 0 && at < b->size; at += MIB)
		rc = file_write(fd, buf, MIB, at, err);
	file_close(fd, "copy", NULL);
	return rc;
}

static int run_program(const char *const *args, struct err *err)
{
	int status = -1;
	pid_t pid = fork();

	if (pid == 0) {
		execvp(args[0], (char *const *)(uintptr_t)args);
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0 || status != 0)
		return err_set(err, ERR_IO, "%s: status %d", args[0], status);
	return 0;
}

static int copy(struct bench *b, struct err *err)
{
	char from[4096], to[4096];
	const char *const args[] = { "cp", "--reflink=never", from, to, NULL };

	snprintf(from, sizeof(from), "%s/%s", b->dir, kinds[NEW]);
	snprintf(to, sizeof(to), "%s/copy", b->dir);
	return run_program(args, err);
}

static int do_it(struct bench *b, enum kind k, uint64_t *ret_stored, struct err *err)
{
	switch (k) {
	case SHA:
	case SHA_TWO:
		return digest_alone(b, k == SHA_TWO, err);
	case WRITES:
		return write_plainly(b, err);
	case CP:
		return copy(b, err);
	default:
		return import_image(b, k == AGAIN ? NEW : k, ret_stored, err);
	}
}

static int measure(struct bench *b, enum kind k, struct err *err)
{
	double wall = now(), self = cpu(RUSAGE_SELF), child = cpu(RUSAGE_CHILDREN);
	struct cost c = { 0 }, *least = &b->costs[k];
	int rc;

	writing = 0;
	rc = do_it(b, k, &c.stored, err);
	c.writing = writing;
	c.wall = now() - wall;
	c.cpu = cpu(RUSAGE_SELF) - self;
	c.reader = cpu(RUSAGE_CHILDREN) - child;
	if (!least->wall || c.cpu + c.reader < least->cpu + least->reader)
		*least = c;
	return rc;
}

/* ---- around ---- */

static int remove_all(struct bench *b, struct err *err)
{
	char path[4096];
	const char *const args[] = { "rm", "-rf", path, NULL };

	snprintf(path, sizeof(path), "%s/" POOL, b->dir);
	pool_close(STEAL(b->pool));
	return file_unlink(b->dirfd, "copy", err) < 0 ? -1 : run_program(args, err);
}

static int round_of_all(struct bench *b, struct err *err)
{
	CLEANUP(free) char *real = realpath(b->dir, NULL);
	char path[4096];

	snprintf(path, sizeof(path), "%s/" POOL, real);
	if (remove_all(b, err) < 0 || pool_create(b->dirfd, POOL, err) < 0 ||
	    pool_open(b->dirfd, POOL, path, true, &b->pool, err) < 0 || immutable_tell(b->pool, POOL_IMMUTABLE_NEVER, err) < 0)
		return -1;
	for (enum kind k = 0; k < NR_KINDS; k++) {
		if (measure(b, k, err) < 0)
			return err_add(err, "%s", kinds[k]);
		if (!b->memory && k == INDEPENDENT)
			b->memory = memory_of(getpid(), "VmHWM");
		/* so that it is not written back while others are measured */
		if ((k == NEW || k >= WRITES) &&
		    (clusters_sync(b->pool->clusters, err) < 0 || file_unlink(b->dirfd, "copy", err) < 0))
			return -1;
	}
	return 0;
}

static double both(const struct cost *c)
{
	return c->cpu + c->reader;
}

static void report(const struct bench *b)
{
	double kib = (double)b->size / KIB, gb = (double)b->size * 1e-9;
	const struct cost *c = b->costs;

	printf("%-22s %6s %12s %5s %11s %11s %8s %9s %8s\n", "", "GB/s", "GB/s a core", "goal", "CPU ns/KiB", "importer's",
	       "writing", "reader's", "stored");
	for (enum kind k = 0; k < NR_KINDS; k++) {
		char goal[16] = "";

		if (goals[k] > 0)
			snprintf(goal, sizeof(goal), "%.1f", goals[k]);
		printf("%-22s %6.2f %12.2f %5s %11.0f %11.0f %8.0f %9.0f %7.2f%%\n", kinds[k], gb / c[k].wall, gb / both(&c[k]),
		       goal, both(&c[k]) / kib * 1e9, c[k].cpu / kib * 1e9, c[k].writing / kib * 1e9, c[k].reader / kib * 1e9,
		       (double)c[k].stored / (double)b->size * 100);
	}
	printf("\"new\" is %.2f times as fast by processor time as SHA-256%s and plain writes alone.\n",
	       (both(&c[SHA_TWO]) + both(&c[WRITES])) / both(&c[NEW]), digest_two_at_once ? ", two at once," : "");
	printf("memory %.1f MiB at the most, with the finder's and the pool's buffers\n",
	       (double)b->memory / MIB);
}

static int run(struct bench *b, struct err *err)
{
	if (jail_plan(&b->jail, JAIL_BEST, err) < 0 || roots_add(&b->roots, b->dir, false, err) < 0)
		return -1;
	for (enum kind k = 0; k < SHA; k++)
		if (k != AGAIN && make_image(b, k, err) < 0)
			return -1;
	for (unsigned i = 0; i < b->nr_runs; i++)
		if (round_of_all(b, err) < 0)
			return -1;
	return 0;
}

int main(int argc, char **argv)
{
	struct err err = ERR_INIT;
	struct file_ops ops = file_ops_os;
	struct bench b = { .dir = argc > 1 ? argv[1] : getenv("TMPDIR"), .size = GIB, .nr_runs = 3 };
	int rc;

	ops.pwrite = timed_pwrite;
	file_ops = &ops;
	b.dir = b.dir ? b.dir : "/var/tmp";
	b.dirfd = open(b.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (argc > 2)
		b.size = round_up(strtoull(argv[2], NULL, 0) * MIB, SEGMENT_SIZE);
	if (argc > 3)
		b.nr_runs = (unsigned)strtoul(argv[3], NULL, 0);
	if (b.dirfd < 0 || !b.size || !b.nr_runs) {
		fprintf(stderr, "usage: bench_import [DIRECTORY [MIB [RUNS]]]\n");
		return 2;
	}
	rc = run(&b, &err);
	if (rc < 0)
		fprintf(stderr, "bench_import: %s\n", err.text);
	else
		report(&b);
	remove_all(&b, NULL);
	for (enum kind k = 0; k < NR_KINDS; k++)
		file_unlink(b.dirfd, kinds[k], NULL);
	roots_release(&b.roots);
	close(b.dirfd);
	return rc < 0;
}
