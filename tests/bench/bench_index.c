/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "scanner/base/checked.h"
#include "scanner/index/join.h"

/* The index alone, at full size:
 *
 *	bench_index [DIRECTORY [FINGERPRINTS [MEMORY in MiB [TABLES]]]]
 *
 * The files go to DIRECTORY ($TMPDIR or /var/tmp without one) and are removed.  Fingerprints are made up unit by
 * unit (256 units by their first 8 bits), sorted, written to a table each, and at last all tables are read through
 * joins of TABLES of them (then of the same unit, which is cut into as many).  MEMORY is for everything: the sorter
 * gets what the program, the buffers and the libraries leave. */

#define UNITS 256
#define READ_ROOM (256 * KIB)
#define OVERHEAD (5 * MIB)

struct bench {
	int dirfd;
	uint64_t nr, memory;
	unsigned tables; /* per unit */
	struct sorter *sorter;
	struct table_stats total;
	double fill, sort, write, read;
	uint64_t sum;
};

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint64_t splitmix(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

static uint64_t peak_memory(void)
{
	CLEANUP(free) char *line = NULL;
	unsigned long long kib = 0;
	size_t room = 0;
	FILE *f = fopen("/proc/self/status", "r");

	while (f && getline(&line, &room, f) > 0 && sscanf(line, "VmHWM: %llu", &kib) != 1)
		;
	if (f)
		fclose(f);
	return kib * KIB;
}

static void table_name(unsigned unit, unsigned part, char ret[32])
{
	snprintf(ret, 32, "bench-%03u-%03u.table", unit, part);
}

static int fill(struct bench *b, unsigned unit, unsigned part, struct err *err)
{
	uint64_t left = b->nr / UNITS / b->tables, state = (uint64_t)(unit * b->tables + part) << 40;
	size_t room;

	while (left) {
		struct record *r = sorter_room(b->sorter, left, &room, err);

		if (!r)
			return -1;
		for (size_t i = 0; i < room; i++) {
			r[i].key.hi = (uint64_t)unit << 56 | splitmix(&state) >> 8;
			r[i].key.lo = splitmix(&state) & KEY_LO_MASK;
			r[i].value = (uint32_t)r[i].key.hi;
		}
		sorter_commit(b->sorter, room);
		left -= room;
	}
	return 0;
}

static int write_table(struct bench *b, const char *name, struct err *err)
{
	CLEANUP(table_writer_free) struct table_writer *w = table_writer_new(b->dirfd, name, err);
	struct table_stats stats;
	const struct record *r;
	ssize_t nr;

	if (!w)
		return -1;
	while ((nr = sorter_next(b->sorter, &r, err)) > 0) {
		for (ssize_t i = 0; i < nr; i++) {
			if (table_writer_add(w, r[i].key, r[i].value, err) < 0)
				return -1;
			b->sum += r[i].key.lo ^ r[i].key.hi ^ r[i].value;
		}
	}
	if (nr < 0 || table_writer_finish(STEAL(w), NULL, &stats, err) < 0)
		return -1;
	b->total.nr_keys += stats.nr_keys;
	b->total.nr_places += stats.nr_places;
	b->total.bytes += stats.bytes;
	return 0;
}

static int make_table(struct bench *b, unsigned unit, unsigned part, struct err *err)
{
	double t0 = now(), t1, t2;
	char name[32];

	table_name(unit, part, name);
	if (fill(b, unit, part, err) < 0)
		return -1;
	t1 = now();
	if (sorter_finish(b->sorter, err) < 0)
		return -1;
	t2 = now();
	if (write_table(b, name, err) < 0)
		return -1;
	sorter_reset(b->sorter);
	b->fill += t1 - t0;
	b->sort += t2 - t1;
	b->write += now() - t2;
	return 0;
}

static int read_join(struct bench *b, struct join *j, struct err *err)
{
	struct key k;
	uint64_t place;
	int rc, more;

	while ((rc = join_next_key(j, &k, err)) > 0) {
		while ((more = join_next_place(j, &place, err)) > 0)
			b->sum -= k.lo ^ k.hi ^ place;
		if (more < 0)
			return -1;
	}
	return rc;
}

static int read_unit(struct bench *b, unsigned unit, struct err *err)
{
	struct table *tables[1000] = { NULL };
	struct join *j = NULL;
	double start = now();
	char name[32];
	int rc = 0;

	for (unsigned i = 0; i < b->tables && rc == 0; i++) {
		table_name(unit, i, name);
		tables[i] = table_open(b->dirfd, name, READ_ROOM, err);
		rc = tables[i] ? 0 : -1;
	}
	if (rc == 0)
		j = join_new(tables, b->tables, NULL, err);
	rc = j ? read_join(b, j, err) : -1;
	join_free(j);
	for (unsigned i = 0; i < b->tables; i++)
		table_close(tables[i]);
	b->read += now() - start;
	return rc;
}

static int run(struct bench *b, struct err *err)
{
	b->sorter = sorter_new(b->memory - OVERHEAD, b->dirfd, err);
	if (!b->sorter)
		return -1;
	for (unsigned u = 0; u < UNITS; u++) {
		for (unsigned i = 0; i < b->tables; i++) {
			if (make_table(b, u, i, err) < 0)
				return -1;
		}
	}
	for (unsigned u = 0; u < UNITS; u++) {
		if (read_unit(b, u, err) < 0)
			return -1;
	}
	return b->sum ? err_set(err, ERR_FORMAT, "what was read is not what was written") : 0;
}

static void report(const struct bench *b)
{
	double m = (double)b->total.nr_places / 1e6;

	printf("%.1f M fingerprints in %u tables\n", m, UNITS * b->tables);
	printf("make up  %7.1f M/s  %5.1f ns each\n", m / b->fill, b->fill / m * 1e3);
	printf("sort     %7.1f M/s  %5.1f ns each, %.1f bytes each spilled\n", m / b->sort, b->sort / m * 1e3,
	       (double)sorter_spilled(b->sorter) / m * 1e-6);
	printf("write    %7.1f M/s  %5.1f ns each\n", m / b->write, b->write / m * 1e3);
	printf("read     %7.1f M/s  %5.1f ns each\n", m / b->read, b->read / m * 1e3);
	printf("on disk  %7.2f bytes each\n", (double)b->total.bytes / m * 1e-6);
	printf("memory   %7.1f MiB at the most, of %.1f\n", (double)peak_memory() / MIB, (double)b->memory / MIB);
}

static void remove_tables(const struct bench *b)
{
	char name[32];

	for (unsigned u = 0; u < UNITS; u++) {
		for (unsigned i = 0; i < b->tables; i++) {
			table_name(u, i, name);
			file_unlink(b->dirfd, name, NULL);
		}
	}
}

int main(int argc, char **argv)
{
	struct err err = ERR_INIT;
	struct bench b = { .nr = 200000000, .memory = 35 * MIB, .tables = 1, .dirfd = -1 };
	const char *dir = argc > 1 ? argv[1] : getenv("TMPDIR");
	int rc;

	b.dirfd = open(dir ? dir : "/var/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (argc > 2)
		b.nr = strtoull(argv[2], NULL, 0);
	if (argc > 3)
		b.memory = strtoull(argv[3], NULL, 0) * MIB;
	if (argc > 4)
		b.tables = (unsigned)strtoul(argv[4], NULL, 0);
	if (b.dirfd < 0 || !b.tables || b.tables > 1000 || b.nr / UNITS < b.tables || b.memory < OVERHEAD + MIB) {
		fprintf(stderr, "usage: bench_index [DIRECTORY [FINGERPRINTS [MEMORY in MiB [TABLES per unit]]]]\n");
		return 2;
	}
	rc = run(&b, &err);
	if (rc < 0)
		fprintf(stderr, "bench_index: %s\n", err.text);
	else
		report(&b);
	remove_tables(&b);
	sorter_free(b.sorter);
	close(b.dirfd);
	return rc < 0;
}
