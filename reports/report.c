/* SPDX-License-Identifier: Apache-2.0 */
/* A report is made in memory first and then moved to where it goes.  So the styles need not check each fprintf(), and
 * running out of memory half way leaves neither half a report nor a damaged old one. */
#include "reports/report.h"

#include <errno.h>
#include <fcntl.h>
#include <langinfo.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "scanner/base/checked.h"
#include "scanner/base/cleanup.h"
#include "scanner/base/file.h"

const struct report_style *const report_styles[] = {
	&report_table, &report_csv, &report_csv_totals, &report_csv_histogram, &report_json, &report_html, NULL,
};

const struct report_style *report_style_by_name(const char *name)
{
	for (size_t i = 0; report_styles[i]; i++) {
		if (strcmp(report_styles[i]->name, name) == 0)
			return report_styles[i];
	}
	return NULL;
}

int report_sort_by_name(const char *name, enum report_sort *ret, struct err *err)
{
	static const char *const names[] = {
		[REPORT_SORT_STORED] = "stored",
		[REPORT_SORT_EXCLUSIVE] = "exclusive",
		[REPORT_SORT_SHARE] = "share",
		[REPORT_SORT_PATH] = "path",
	};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (strcmp(names[i], name) == 0) {
			*ret = (enum report_sort)i;
			return 0;
		}
	}
	return err_set(err, ERR_USAGE, "cannot sort by '%s'; choose stored, exclusive, share or path", name);
}

static unsigned terminal_width(void)
{
	const char *columns = getenv("COLUMNS");
	struct winsize ws;
	unsigned long n = columns ? strtoul(columns, NULL, 10) : 0;

	if (!isatty(STDOUT_FILENO))
		return 0;
	if (n > 0 && n < 10000)
		return (unsigned)n;
	return ioctl(STDOUT_FILENO, TIOCGWINSZ, &ws) == 0 && ws.ws_col ? ws.ws_col : 80;
}

void report_options_detect(struct report_options *o)
{
	setlocale(LC_CTYPE, "");
	o->utf8 = strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
	o->width = terminal_width();
}

uint64_t report_duplicates(const struct tally *t)
{
	return t->nonzero - min_u64(t->distinct, t->nonzero);
}

bool report_left_to_save(const struct tally *t, uint64_t *ret)
{
	uint64_t duplicates = report_duplicates(t);

	if (t->fs_shared < 0)
		return false;
	*ret = duplicates - min_u64(duplicates, (uint64_t)t->fs_shared);
	return true;
}

void report_time(int64_t seconds, char ret[REPORT_TIME_SIZE])
{
	time_t when = (time_t)seconds;
	struct tm tm;

	ret[0] = '\0';
	if (seconds && gmtime_r(&when, &tm))
		strftime(ret, REPORT_TIME_SIZE, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

static int stream_failed(const char *name, struct err *err)
{
	if (errno != EPIPE)
		return err_errno(err, "cannot write to %s", name);
	err_set(err, ERR_CANCELED, "the reader of %s has gone away", name);
	if (err)
		err->errnum = EPIPE;
	return -1;
}

static int write_stdout(const char *text, size_t len, struct err *err)
{
	if (fwrite(text, 1, len, stdout) != len || fflush(stdout) != 0)
		return stream_failed("standard output", err);
	return 0;
}

/* For pipes and terminals, which have no offsets: file_write() would not do. */
static int write_in_place(const char *path, const char *text, size_t len, struct err *err)
{
	CLEANUP(close_fd) int fd = file_open(AT_FDCWD, path, O_WRONLY, 0, err);

	if (fd < 0)
		return -1;
	while (len > 0) {
		ssize_t n = write(fd, text, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return stream_failed(path, err);
		text += n;
		len -= (size_t)n;
	}
	return 0;
}

/* `path` names a regular file, or nothing yet; replaces it. */
static int write_atomic(char *path, mode_t mode, const char *text, size_t len, struct err *err)
{
	char *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path;
	CLEANUP(close_fd) int dirfd = -1;

	if (!*name)
		return err_set(err, ERR_USAGE, "it names a directory");
	if (slash)
		*slash = '\0';
	dirfd = file_open(AT_FDCWD, !slash ? "." : *path ? path : "/", O_RDONLY | O_DIRECTORY, 0, err);
	if (dirfd < 0)
		return -1;
	return file_write_atomic(dirfd, name, text, len, mode, err);
}

static int write_path(const char *path, const char *text, size_t len, struct err *err)
{
	CLEANUP(free) char *real = NULL;
	struct stat st, link;
	bool exists = stat(path, &st) == 0;

	if (!exists && errno != ENOENT)
		return err_errno(err, "cannot look at it");
	if (exists && S_ISDIR(st.st_mode))
		return err_set(err, ERR_USAGE, "it is a directory");
	if (exists && S_ISBLK(st.st_mode))
		return err_set(err, ERR_REFUSED, "it is a block device");
	if (exists && !S_ISREG(st.st_mode))
		return write_in_place(path, text, len, err);

	real = lstat(path, &link) == 0 && S_ISLNK(link.st_mode) ? realpath(path, NULL) : strdup(path);
	if (!real)
		return err_errno(err, "cannot follow the link");
	return write_atomic(real, exists ? st.st_mode & 0666 : 0666, text, len, err);
}

/* Makes the text in memory. */
static int render(int (*make)(void *ctx, FILE *out, struct err *err), void *ctx, char **ret, size_t *ret_len, struct err *err)
{
	FILE *mem = open_memstream(ret, ret_len);
	int rc, bad;

	if (!mem)
		return err_errno(err, "cannot hold it in memory");
	rc = make(ctx, mem, err);
	bad = ferror(mem);
	if (fclose(mem) != 0 || bad)
		return err_set(err, ERR_MEMORY, "no memory for it");
	return rc;
}

int report_publish(const char *output, int (*make)(void *ctx, FILE *out, struct err *err), void *ctx, struct err *err)
{
	CLEANUP(free) char *text = NULL;
	size_t len = 0;

	if (render(make, ctx, &text, &len, err) < 0)
		return -1;
	return output ? write_path(output, text, len, err) : write_stdout(text, len, err);
}

struct styled {
	const struct report_style *style;
	const struct tally *tally;
	struct report_options options;
};

static int write_styled(void *ctx, FILE *out, struct err *err)
{
	const struct styled *s = ctx;

	return s->style->write(out, s->tally, &s->options, err);
}

int report_write(const struct report_style *style, const struct tally *t, const struct report_options *o,
		 const char *output, struct err *err)
{
	struct styled s = { style, t, *o };

	if (output)
		s.options.width = 0;
	if (report_publish(output, write_styled, &s, err) < 0)
		return output ? err_add(err, "cannot write the report '%s'", output) : err_add(err, "cannot write the report");
	return 0;
}
