/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "compactor/writer.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"

/* writertool [-k KIND] [-c CLUSTER] [-s SIZE] [-p PIECE] [-z] FORMAT RAW NEW: a raw image becomes one of another format, for tests;
 * there may be old files where the new ones come.
 *
 * -s: the disk is larger than the raw image; -p: as many bytes are put at once, whole sectors; -z: holes of the raw image are put,
 * too. */

struct job {
	struct writer_options how;
	uint64_t size; /* 0 = that of the raw image */
	size_t piece;
	bool zeros;
	const struct writer_format *format;
	const char *from, *to;
	int part; /* another file of the image, or -1 */
};

/* Beside the image. */
static int create_part(void *ctx, const char *name, struct err *err)
{
	struct job *job = ctx;
	const char *slash = strrchr(job->to, '/');
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%.*s%s", slash ? (int)(slash + 1 - job->to) : 0, job->to, name);
	if (job->part >= 0)
		close(job->part);
	return job->part = file_open(AT_FDCWD, path, O_RDWR | O_CREAT | O_TRUNC, 0600, err);
}

static int put_stretch(struct writer *w, int from, uint64_t at, uint64_t end, uint8_t *buf, size_t piece, struct err *err)
{
	size_t n, whole;

	for (; at < end; at += n) {
		n = (size_t)min_u64(end - at, piece);
		whole = (size_t)round_up(n, WRITER_SECTOR);
		memset(buf + n, 0, whole - n);
		if (file_read(from, buf, n, at, err) < 0 || writer_put(w, at, buf, whole, err) < 0)
			return -1;
	}
	return 0;
}

static int put_all(struct writer *w, const struct job *job, int from, uint64_t size, struct err *err)
{
	CLEANUP(free) uint8_t *buf = aligned_alloc(4096, (size_t)round_up(job->piece, 4096));
	uint64_t begin, end;
	int rc = 0;

	if (!buf)
		return err_set(err, ERR_MEMORY, "no memory");
	if (job->zeros)
		return put_stretch(w, from, 0, size, buf, job->piece, err);
	for (uint64_t at = 0; at < size && (rc = file_next_data(from, at, size, &begin, &end, err)) > 0; at = end) {
		begin = max_u64(round_down(begin, WRITER_SECTOR), at);
		end = min_u64(round_up(end, WRITER_SECTOR), size);
		if (put_stretch(w, from, begin, end, buf, job->piece, err) < 0)
			return -1;
	}
	return rc < 0 ? -1 : 0;
}

static int run(struct job *job, struct err *err)
{
	CLEANUP(close_fd) int from = file_open(AT_FDCWD, job->from, O_RDONLY, 0, err), to = -1;
	CLEANUP(writer_free) struct writer *w = NULL;
	const char *slash = strrchr(job->to, '/');
	struct stat st;

	if (from < 0 || (to = file_open(AT_FDCWD, job->to, O_WRONLY | O_CREAT | O_TRUNC, 0600, err)) < 0)
		return -1;
	if (file_stat(from, &st) < 0)
		return err_errno(err, "cannot look at it");
	job->how.create = create_part;
	job->how.ctx = job;
	w = writer_new(job->format, to, slash ? slash + 1 : job->to, job->size ? job->size : (uint64_t)st.st_size, &job->how, err);
	if (!w || put_all(w, job, from, (uint64_t)st.st_size, err) < 0)
		return -1;
	return writer_end(w, err);
}

int main(int argc, char **argv)
{
	struct job job = { .piece = 4 << 20, .part = -1 };
	struct err err = ERR_INIT;
	int c;

	while ((c = getopt(argc, argv, "k:c:s:p:z")) != -1) {
		if (c == 'k')
			job.how.kind = optarg;
		else if (c == 'c')
			job.how.cluster_size = strtoull(optarg, NULL, 10);
		else if (c == 's')
			job.size = strtoull(optarg, NULL, 10);
		else if (c == 'p')
			job.piece = strtoull(optarg, NULL, 10);
		else if (c == 'z')
			job.zeros = true;
		else
			return 2;
	}
	if (argc - optind != 3 || !(job.format = writer_format_by_name(argv[optind]))) {
		fprintf(stderr, "usage: writertool [-k KIND] [-c CLUSTER] [-s SIZE] [-p PIECE] [-z] FORMAT RAW NEW\n");
		return 2;
	}
	job.from = argv[optind + 1];
	job.to = argv[optind + 2];
	if (run(&job, &err) == 0)
		return 0;
	fprintf(stderr, "writertool: %s: %s: %s\n", job.to, err_kind_name(err.kind), err.text);
	return 1;
}
