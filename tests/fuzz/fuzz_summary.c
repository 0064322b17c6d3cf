/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "scanner/base/bytes.h"
#include "scanner/base/checked.h"
#include "scanner/index/checksum.h"
#include "scanner/index/summary.h"

/* The pages of a summary behind a good header.  They are tried as they are; cut into pages with right checksums; and what
 * comes out must be possible, in order, and come out the same when it is written anew. */

#define HEADER 16
#define RUNS_MAX 4096

static void must(int what)
{
	if (!what)
		abort();
}

static int write_memory(const uint8_t *p, size_t len)
{
	int fd = memfd_create("summary", MFD_CLOEXEC);

	must(fd >= 0);
	must(write(fd, p, len) == (ssize_t)len);
	return fd;
}

/* Returns how many runs there were. */
static size_t read_file(int fd, struct summary_run *ret)
{
	char name[32];
	struct summary *s;
	struct summary_run run;
	size_t nr = 0;
	int rc = 0;

	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	s = summary_open(AT_FDCWD, name, NULL);
	while (s && (rc = summary_next(s, &run, NULL)) > 0) {
		must(run.image > 0 && run.origin_image > 0 && run.len && run.block + run.len <= (uint64_t)1 << 40);
		must(run.origin_block + run.len <= (uint64_t)1 << 40);
		if (nr < RUNS_MAX)
			ret[nr++] = run;
	}
	if (s)
		must(summary_next(s, &run, NULL) == rc); /* it stays at its end, or failed */
	summary_close(s);
	return nr;
}

static void write_again(const struct summary_run *runs, size_t nr)
{
	static struct summary_run again[RUNS_MAX];
	struct summary_writer *w;
	char path[] = "/dev/shm/fuzz_summary-XXXXXX";
	int dir, fd;

	must(mkdtemp(path) != NULL);
	dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	must(dir >= 0 && (w = summary_new(dir, "s", NULL)) != NULL);
	for (size_t i = 0; i < nr; i++)
		must(summary_add(w, &runs[i], NULL) == 0);
	must(summary_commit(w, NULL) == 0);
	fd = openat(dir, "s", O_RDONLY | O_CLOEXEC);
	must(read_file(fd, again) == nr && memcmp(runs, again, nr * sizeof(*runs)) == 0);
	close(fd);
	must(unlinkat(dir, "s", 0) == 0);
	close(dir);
	rmdir(path);
}

static void try_bytes(const uint8_t *p, size_t len)
{
	static struct summary_run runs[RUNS_MAX];
	int fd = write_memory(p, len);
	size_t nr = read_file(fd, runs), ordered = 0;

	/* Across pages nothing forbids disorder, which the writer does not take. */
	while (ordered < nr && (!ordered || runs[ordered].image != runs[ordered - 1].image ||
				runs[ordered].block >= runs[ordered - 1].block + runs[ordered - 1].len))
		ordered++;
	if (ordered)
		write_again(runs, ordered);
	close(fd);
}

/* The first byte of each page says how long it is. */
static size_t fix(const uint8_t *data, size_t size, uint8_t *ret)
{
	size_t at = HEADER;

	for (uint32_t page = 0; size; page++) {
		uint32_t len = (uint32_t)min_u64(data[0] ? data[0] : 256, size);

		le32_store(ret + at, len);
		memcpy(ret + at + 8, data, len);
		le32_store(ret + at + 4, checksum32(data, len, page));
		at += 8 + len;
		data += len;
		size -= len;
		if (!size) { /* the end */
			le32_store(ret + at, 0);
			le32_store(ret + at + 4, checksum32("", 0, page + 1));
			at += 8;
		}
	}
	return at;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *p = malloc(HEADER + 16 + 10 * size);

	must(p != NULL);
	memcpy(p, "DDSUMRY\n\1\0\0\0\0\0\0\0", HEADER);
	memcpy(p + HEADER, data, size);
	try_bytes(p, HEADER + size);
	try_bytes(p, fix(data, size, p));
	free(p);
	return 0;
}
