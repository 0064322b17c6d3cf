/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_WORKSHOP_HELP_H
#define DEDUPSCAN_WORKSHOP_HELP_H

#include "tests/unit/tree_help.h"

#include <dirent.h>

#include "compactor/replace.h"
#include "compactor/workshop_parts.h"
#include "scanner/base/file.h"

/* A root in `tree` with an image and a workshop.  In memory where there is a /dev/shm: hundreds of syncs cost nothing
 * there, and leases and exchanges are the kernel's all the same. */

#define DAY 86400

static inline int shop_setup(void **state)
{
	char made[] = "/dev/shm/tree-XXXXXX";

	if (mkdtemp(made) && realpath(made, tree))
		return 0;
	return tree_make(state);
}

#define shop_test(f) cmocka_unit_test_setup_teardown(f, shop_setup, tree_remove)

static inline void put(const char *name, const char *text)
{
	unlink(in_tree(name));
	tree_write(name, text, strlen(text));
}

static inline char *text_of(const char *name)
{
	static char texts[4][4096];
	static unsigned next;
	char *p = texts[next++ % 4];
	int fd = open(in_tree(name), O_RDONLY);
	ssize_t n = fd < 0 ? 0 : read(fd, p, sizeof(texts[0]) - 1);

	assert_true(n >= 0);
	p[n] = '\0';
	if (fd < 0)
		strcpy(p, "(none)");
	else
		close(fd);
	return p;
}

static inline struct spool_identity identity_of(const char *name)
{
	struct stat st;

	if (lstat(in_tree(name), &st) < 0)
		fail_msg("%s: %s", name, strerror(errno));
	return spool_identity_of(&st);
}

static inline bool is_there(const char *name)
{
	return access(in_tree(name), F_OK) == 0;
}

static inline int open_dir(const char *name)
{
	int fd = open(in_tree(name), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static inline struct workshop *open_shop(void)
{
	struct workshop *w = NULL;
	struct err err = ERR_INIT;
	int fd = open_dir(".");

	if (workshop_open(fd, tree, true, &w, &err) < 0)
		fail_msg("%s", err.text);
	close(fd);
	assert_non_null(w);
	workshop_set_settle(w, 0);
	return w;
}

/* ---- replacing: the new file says what the old one does, in capitals ---- */

struct work {
	int (*in_make)(struct work *k);  /* between the halves of making */
	int (*in_prove)(struct work *k); /* before proving */
	bool waits_for_check;            /* make() lasts until check() fails */
	unsigned nr_made, nr_proven;
};

static inline char upper(char c)
{
	return c >= 'a' && c <= 'z' ? (char)(c - 32) : c;
}

static inline int work_make(void *ctx, int old_fd, int new_fd, proof_check *check, void *check_ctx, struct err *err)
{
	struct work *k = ctx;
	char text[4096];
	ssize_t n = file_read_some(old_fd, text, sizeof(text), 0, err);

	if (n < 0)
		return -1;
	k->nr_made++;
	for (ssize_t i = 0; i < n; i++)
		text[i] = upper(text[i]);
	if (file_write(new_fd, text, (size_t)n / 2, 0, err) < 0)
		return -1;
	if (k->in_make && k->in_make(k) < 0)
		return err_set(err, ERR_FORMAT, "it does not work");
	for (unsigned i = 0; k->waits_for_check && i < 10000; i++) {
		if (check(check_ctx, 0, 0, err) < 0)
			return -1;
		usleep(1000);
	}
	if (file_write(new_fd, text + n / 2, (size_t)(n - n / 2), (uint64_t)n / 2, err) < 0)
		return -1;
	return check(check_ctx, 0, 0, err);
}

static inline int work_prove(void *ctx, int old_fd, int new_fd, proof_check *check, void *check_ctx,
			     struct err *err)
{
	struct work *k = ctx;
	char a[4096], b[4096];
	ssize_t n, m;

	if (k->in_prove && k->in_prove(k) < 0)
		return err_set(err, ERR_FORMAT, "it is not the same");
	k->nr_proven++;
	n = file_read_some(old_fd, a, sizeof(a), 0, err);
	m = file_read_some(new_fd, b, sizeof(b), 0, err);
	for (ssize_t i = 0; i < n && n == m; i++)
		if (upper(a[i]) != b[i])
			return err_set(err, ERR_FORMAT, "it differs");
	return n < 0 || n != m ? err_set(err, ERR_FORMAT, "it is shorter or longer") : check(check_ctx, 0, 0, err);
}

struct job_of_test {
	struct replacing r;
	struct work work;
	char dir[256];
};

static inline void prepare(struct job_of_test *j, struct workshop *w, const char *path)
{
	const char *slash = strrchr(path, '/');

	*j = (struct job_of_test){ .r = { .workshop = w, .path = path, .name = slash ? slash + 1 : path } };
	snprintf(j->dir, sizeof(j->dir), "%.*s", slash ? (int)(slash - path) : 1, slash ? path : ".");
	j->r.dirfd = open_dir(j->dir);
	j->r.expected = identity_of(path);
	j->r.keep = DAY;
	j->r.make = work_make;
	j->r.prove = work_prove;
}

static inline int replace(struct job_of_test *j, struct err *err)
{
	int rc;

	j->r.ctx = &j->work;
	rc = replace_image(&j->r, NULL, err);
	close(j->r.dirfd);
	return rc;
}

static inline void replace_well(struct workshop *w, const char *path)
{
	struct job_of_test j;
	struct err err = ERR_INIT;

	prepare(&j, w, path);
	if (replace(&j, &err) < 0)
		fail_msg("%s", err.text);
}

/* The image is the file that it was, and nothing else is left but what `left` says is in the workshop. */
static inline unsigned files_in(const char *name)
{
	int fd = open_dir(name);
	unsigned nr = 0;
	DIR *d = fdopendir(fd);

	assert_non_null(d);
	for (struct dirent *e; (e = readdir(d));)
		nr += e->d_name[0] != '.';
	closedir(d);
	return nr;
}

#define assert_workshop_is_empty()                                                                                     \
	do {                                                                                                           \
		assert_int_equal(files_in(".dedupscan"), 3);                                                           \
		assert_int_equal(files_in(".dedupscan/trash"), 0);                                                     \
	} while (0)

#endif
