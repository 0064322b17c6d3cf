/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>

#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/verify_parts.h"

/*
 * Recorded digests: made, and compared with.  The file is one for people and for sha256sum's friends:
 *
 *	# dedupscan digests 1: ...
 *	60ee...29  5242880  /srv/vm/web.qcow2
 *	\60ee...29  5242880  /srv/vm/odd\nname.raw
 *
 * As sha256sum does, a line whose path has a backslash, a newline or a carriage return begins with a backslash, and these are
 * \\, \n and \r in it.  dedupscan-verify(1) describes it.
 */

#define MAGIC "# dedupscan digests "
#define HEADER MAGIC "1: SHA-256 tree of what the guest sees, size of the disk, path; see dedupscan-verify(1)\n"
#define FILE_MAX (GIB)

struct entry {
	char *path;
	uint64_t size;
	uint8_t digest[DIGEST_SIZE];
	bool met;
};

struct digest_verify {
	struct verify v;
	VEC(struct entry) entries; /* to compare with, in order of path */
	FILE *out;		   /* to be recorded; NULL = compare */
	struct verify_files files;
};

/* ---- lines ---- */

static void write_line(FILE *out, const struct verify_image *i)
{
	char text[DIGEST_TEXT_ROOM];

	fprintf(out, "%s%s  %" PRIu64 "  ", strpbrk(i->path, "\\\n\r") ? "\\" : "", digest_text(i->digest, text), i->size);
	for (const char *p = i->path; *p; p++) {
		if (*p == '\\' || *p == '\n' || *p == '\r')
			fprintf(out, "\\%c", *p == '\n' ? 'n' : *p == '\r' ? 'r' : '\\');
		else
			fputc(*p, out);
	}
	fputc('\n', out);
}

/* In place.  False when there is another escape than those above. */
static bool unescape(char *s)
{
	char *to = s;

	for (; *s; s++) {
		if (*s != '\\')
			*to++ = *s;
		else if (*++s == '\\' || *s == 'n' || *s == 'r')
			*to++ = *s == 'n' ? '\n' : *s == 'r' ? '\r' : '\\';
		else
			return false;
	}
	*to = '\0';
	return true;
}

/* A line without its end; its path stays in the line. */
static bool parse_line(char *line, struct entry *ret)
{
	bool escaped = *line == '\\';
	char *end;

	line += escaped;
	if (!digest_parse(line, ret->digest) || strncmp(line + 2 * DIGEST_SIZE, "  ", 2) != 0)
		return false;
	line += 2 * DIGEST_SIZE + 2;
	if (*line < '0' || *line > '9')
		return false;
	errno = 0;
	ret->size = strtoull(line, &end, 10);
	if (errno || strncmp(end, "  /", 3) != 0)
		return false;
	ret->path = end + 2;
	return !escaped || unescape(ret->path);
}

static int add_line(struct digest_verify *w, char *line, size_t len, struct err *err)
{
	struct entry e = { 0 };

	if (!len || line[0] == '#')
		return 0;
	if (strlen(line) != len || !parse_line(line, &e))
		return err_set(err, ERR_FORMAT, "it is not a digest, a size and a path");
	e.path = strdup(e.path);
	if (e.path && vec_push(&w->entries, e) == 0)
		return 0;
	free(e.path);
	return err_set(err, ERR_MEMORY, "no memory for recorded digests");
}

static int add_lines(struct digest_verify *w, char *text, size_t len, struct err *err)
{
	char *end = text + len;
	unsigned nr = 1;

	if (len < strlen(MAGIC) || memcmp(text, MAGIC, strlen(MAGIC)) != 0)
		return err_set(err, ERR_FORMAT, "it is no file of recorded digests; --record makes one");
	if (strncmp(text + strlen(MAGIC), "1:", 2) != 0)
		return err_set(err, ERR_UNSUPPORTED, "it was written by a newer dedupscan");
	for (char *line = text; line < end; nr++) {
		char *stop = memchr(line, '\n', (size_t)(end - line));

		if (!stop)
			return err_set(err, ERR_FORMAT, "line %u is cut off", nr);
		*stop = '\0';
		if (add_line(w, line, (size_t)(stop - line), err) < 0)
			return err_add(err, "line %u", nr);
		line = stop + 1;
	}
	return 0;
}

/* ---- the file ---- */

static int by_entry_path(const void *a, const void *b)
{
	const struct entry *x = a, *y = b;

	return strcmp(x->path, y->path);
}

static int sort_entries(struct digest_verify *w, struct err *err)
{
	if (w->entries.nr)
		qsort(w->entries.items, w->entries.nr, sizeof(*w->entries.items), by_entry_path);
	for (size_t i = 1; i < w->entries.nr; i++)
		if (strcmp(w->entries.items[i - 1].path, w->entries.items[i].path) == 0)
			return err_set(err, ERR_FORMAT, "'%s' is in it twice", w->entries.items[i].path);
	return 0;
}

static int load(struct digest_verify *w, const char *file, struct err *err)
{
	CLEANUP(close_fd) int fd = file_open(AT_FDCWD, file, O_RDONLY, 0, err);
	CLEANUP(free) char *text = NULL;
	struct stat st;

	if (fd < 0) {
		if (err && err->errnum == ENOENT)
			err->kind = ERR_USAGE;
		return -1;
	}
	if (file_stat(fd, &st) < 0)
		return err_errno(err, "cannot look at '%s'", file);
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size > FILE_MAX)
		return err_set(err, ERR_FORMAT, "'%s' is no file of recorded digests", file);
	text = malloc((size_t)st.st_size + 1);
	if (!text)
		return err_set(err, ERR_MEMORY, "no memory for recorded digests");
	text[st.st_size] = '\0';
	if (file_read(fd, text, (size_t)st.st_size, 0, err) < 0 || add_lines(w, text, (size_t)st.st_size, err) < 0 ||
	    sort_entries(w, err) < 0)
		return err_add(err, "'%s'", file);
	return 0;
}

/* What is there must be what --record makes, or nothing: a slip of the user's must not cost an image. */
static int may_replace(const char *file, struct err *err)
{
	CLEANUP(close_fd) int fd = -1;
	char head[sizeof(MAGIC) - 1];
	ssize_t n;

	if (!verify_is_at(file, NULL))
		return 0;
	fd = file_open(AT_FDCWD, file, O_RDONLY | O_NONBLOCK | O_NOFOLLOW, 0, err);
	if (fd < 0)
		return -1;
	n = file_read_some(fd, head, sizeof(head), 0, err);
	if (n < 0)
		return err_add(err, "'%s'", file);
	if (n == 0 || ((size_t)n == sizeof(head) && memcmp(head, MAGIC, sizeof(head)) == 0))
		return 0;
	return err_set(err, ERR_REFUSED, "'%s' is there and no file of recorded digests; it is left as it is", file);
}

static int store(const char *file, const char *text, size_t len, struct err *err)
{
	CLEANUP(free) char *dir_of = strdup(file);
	CLEANUP(free) char *name_of = strdup(file);
	CLEANUP(close_fd) int dirfd = -1;

	if (!dir_of || !name_of)
		return err_set(err, ERR_MEMORY, "no memory for a path");
	dirfd = file_open(AT_FDCWD, dirname(dir_of), O_RDONLY | O_DIRECTORY, 0, err);
	if (dirfd < 0)
		return -1;
	return file_write_atomic(dirfd, basename(name_of), text, len, 0644, err);
}

/* ---- one image ---- */

static int take_file(void *ctx, const struct opening *o, struct err *err)
{
	struct digest_verify *w = ctx;

	return verify_files_add(&w->files, o, err);
}

static int show(void *ctx, void *shared, struct err *err)
{
	struct digest_verify *w = ctx;
	struct verify_shared *s = shared;

	(void)err;
	w->v.image.read = atomic_load(&s->bytes_read);
	verify_progress(&w->v, atomic_load(&s->address), atomic_load(&s->size));
	return 0;
}

/* SHA-256 takes some processors several times as long as all else that is done with a byte. */
static uint64_t delivered(void *ctx, void *shared)
{
	const struct verify_shared *s = shared;
	uint64_t read = atomic_load(&s->bytes_read);

	(void)ctx;
	return read < UINT64_MAX / 4 ? 4 * read : UINT64_MAX;
}

/* Once: what is looked at is not what can still change. */
static int take_digest(void *ctx, void *shared, struct err *err)
{
	struct digest_verify *w = ctx;
	struct verify_shared *s = shared;

	(void)err;
	w->v.image.size = atomic_load(&s->size);
	w->v.image.read = atomic_load(&s->bytes_read);
	memcpy(w->v.image.digest, s->digest, DIGEST_SIZE);
	w->v.image.has_digest = true;
	return 0;
}

static int read_image(struct digest_verify *w, const struct found *f, int fd, struct err *why, struct err *err)
{
	const struct verify_options *o = w->v.o;
	uint64_t limit = o->limit;
	struct errand e = {
		.roots = o->roots, .format = o->format, .jail = o->jail, .stopper = o->stopper,
		.run = o->run ? o->run : verify_worker_run, .arg = &limit, .shared_len = sizeof(struct verify_shared),
		.second_fd = -1, .keep_cache = o->keep_cache, .reads_backing = true, .opened = take_file, .tick = show,
		.delivered = delivered, .done = take_digest, .ctx = w,
	};

	return errand_run(&e, fd, f->path, why, err);
}

/* 1 = the image at hand has its digest, 0 = it was said why not. */
static int digest_of(struct digest_verify *w, const struct found *f, struct err *err)
{
	struct spool_identity identity;
	struct err why = ERR_INIT;
	int fd = verify_open(&w->v, f, &identity), rc;

	if (fd < 0)
		return 0;
	w->files = (struct verify_files){ 0 };
	rc = read_image(w, f, fd, &why, err);
	if (rc == 0)
		verify_say(&w->v, VERIFY_UNREAD, "%s", why.text);
	if (rc > 0 && !verify_unchanged(&w->v, &w->files, fd, &identity)) {
		verify_say(&w->v, VERIFY_CHANGED, "it changed while it was read");
		rc = 0;
	}
	verify_files_release(&w->files);
	file_close(fd, f->path, NULL);
	return rc;
}

/* ---- all images ---- */

static void compare(struct digest_verify *w, const struct entry *e)
{
	struct verify_image *i = &w->v.image;

	if (i->size != e->size)
		verify_say(&w->v, VERIFY_DIFFERS, "its disk has %" PRIu64 " bytes, %" PRIu64 " were recorded", i->size, e->size);
	else if (memcmp(i->digest, e->digest, DIGEST_SIZE) != 0)
		verify_say(&w->v, VERIFY_DIFFERS, "another digest was recorded");
}

static int consider(struct digest_verify *w, const struct found *f, struct err *err)
{
	struct entry key = { .path = f->path };
	struct entry *e = w->entries.nr ? bsearch(&key, w->entries.items, w->entries.nr, sizeof(key), by_entry_path) : NULL;
	int rc;

	verify_take(&w->v, f->path, f->file_used);
	if (!e) {
		if (!w->out)
			verify_say(&w->v, VERIFY_UNKNOWN, "no digest of it was recorded");
		rc = verify_is_image(&w->v, f, err);
		if (rc <= 0 || !w->out)
			return rc <= 0 ? rc : verify_tell(&w->v, err);
	} else {
		e->met = true;
	}
	if (w->v.image.outcome != VERIFY_UNREAD) {
		rc = digest_of(w, f, err);
		if (rc < 0)
			return -1;
		if (rc > 0 && e)
			compare(w, e);
		if (rc > 0 && w->out)
			write_line(w->out, &w->v.image);
	}
	return verify_tell(&w->v, err);
}

static int tell_missing(struct digest_verify *w, struct err *err)
{
	for (size_t i = 0; i < w->entries.nr; i++) {
		const struct entry *e = &w->entries.items[i];

		if (e->met || !roots_cover(w->v.o->roots, e->path) || verify_is_at(e->path, NULL))
			continue;
		verify_take(&w->v, e->path, 0);
		verify_say(&w->v, VERIFY_MISSING, "it is gone");
		if (verify_tell(&w->v, err) < 0)
			return -1;
	}
	return 0;
}

static int digest_all(struct digest_verify *w, const struct verify_options *o, struct verify_totals *ret, struct err *err)
{
	if (verify_begin(&w->v, o, ret, err) < 0)
		return -1;
	for (size_t i = 0; i < w->v.found.nr; i++) {
		if (stopper_says(o->stopper))
			return err_set(err, ERR_CANCELED, "stopped");
		if (consider(w, &w->v.found.items[i], err) < 0)
			return -1;
		w->v.bytes_done += w->v.found.items[i].file_used;
		w->v.images_done++;
	}
	return tell_missing(w, err);
}

static void release(struct digest_verify *w)
{
	verify_end(&w->v);
	for (size_t i = 0; i < w->entries.nr; i++)
		free(w->entries.items[i].path);
	vec_release(&w->entries);
}

int verify_check(const char *file, const struct verify_options *o, struct verify_totals *ret, struct err *err)
{
	struct digest_verify w = { .out = NULL };
	int rc;

	*ret = (struct verify_totals){ 0 };
	rc = digest_prepare(err);
	if (rc == 0)
		rc = load(&w, file, err);
	if (rc == 0)
		rc = digest_all(&w, o, ret, err);
	release(&w);
	return rc;
}

int verify_record(const char *file, const struct verify_options *o, struct verify_totals *ret, struct err *err)
{
	struct digest_verify w = { .out = NULL };
	CLEANUP(free) char *text = NULL;
	size_t len = 0;
	int rc;

	*ret = (struct verify_totals){ 0 };
	if (digest_prepare(err) < 0 || may_replace(file, err) < 0)
		return -1;
	w.out = open_memstream(&text, &len);
	if (!w.out)
		return err_set(err, ERR_MEMORY, "no memory for digests");
	fputs(HEADER, w.out);
	rc = digest_all(&w, o, ret, err);
	if (fclose(w.out) != 0 && rc == 0)
		rc = err_set(err, ERR_MEMORY, "no memory for digests");
	release(&w);
	return rc < 0 ? -1 : store(file, text, len, err);
}
