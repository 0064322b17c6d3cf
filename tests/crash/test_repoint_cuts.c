/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include <stdlib.h>

#include "compactor/hold.h"
#include "compactor/pool/view.h"
#include "scanner/base/file.h"
#include "scanner/image/qcow2_format.h"
#include "tests/crash/crash.h"

/* Another backing file's name, written in place: at every instant the overlay names one of those that it was to name, whole, and
 * all else of it is as it was (row A4).  The invariants O1 and O2 at the top of compactor/pool/overlay.c. */

#define SIZE ((uint64_t)64 << 20)
#define DATA (4 * 65536)
#define LEN 5000
#define NR_NAMES 4

struct work {
	unsigned nr_done; /* names that were written */
};

/* Of 200 and 900 bytes, so that the larger ones lie in three sectors. */
static void name_of(unsigned i, struct slice *ret)
{
	size_t len = i % 2 ? 900 : 100;

	*ret = (struct slice){ .size = 24576, .read_only = true };
	memset(ret->path, 'a' + (int)i, len);
	ret->path[0] = '/';
	ret->path[len] = '\0';
	snprintf(ret->path + len / 2, sizeof(ret->path) - len / 2,
		 "/.dedupscan-pool/views/00000000-0000-4000-8000-00000000000%u.qcow2", i);
}

static bool same_name(const struct slice *a, const struct slice *b)
{
	return strcmp(a->path, b->path) == 0 && a->size == b->size && a->offset == b->offset && a->read_only == b->read_only;
}

/* ---- the work ---- */

static void write_as_guest(int fd, char c, size_t at, size_t len)
{
	char text[LEN];

	memset(text, c, len);
	assert_int_equal(file_ops->pwrite(fd, text, len, DATA + (off_t)at), (ssize_t)len);
}

static void set_up(void *ctx, struct sim *s)
{
	struct overlay_options o = { .compat = false };
	struct err err = ERR_INIT;
	struct slice backing;
	int fd;

	(void)ctx;
	assert_int_equal(file_mkdir(sim_root(s), "d", 0755, NULL), 0);
	fd = file_open(sim_root(s), "d/img", O_RDWR | O_CREAT, 0640, &err);
	name_of(0, &backing);
	if (overlay_write(fd, SIZE, &backing, &o, &err) < 0)
		fail_msg("%s", err.text);
	write_as_guest(fd, 'd', 0, LEN);
	file_ops->close(fd);
}

static int repoint_it(struct work *w, int fd, struct err *err)
{
	for (unsigned i = 1; i < NR_NAMES; i++) {
		struct slice backing;

		name_of(i, &backing);
		if (overlay_repoint(fd, &backing, err) < 0)
			return -1;
		w->nr_done = i;
	}
	return 0;
}

static int run(void *ctx, struct sim *s, struct err *err)
{
	const struct hold_options o = { .assume_idle = false };
	int dirfd = file_open(sim_root(s), "d", O_RDONLY | O_DIRECTORY, 0, err), fd, rc;
	struct hold hold = HOLD_INIT;
	struct work *w = ctx;

	w->nr_done = 0;
	if (dirfd < 0)
		return -1;
	fd = file_open(dirfd, "img", O_RDWR | O_NONBLOCK, 0, err);
	rc = fd < 0 ? -1 : hold_take(&hold, fd, dirfd, "img", &o, err);
	if (rc == 0)
		rc = repoint_it(w, fd, err);
	hold_release(&hold);
	if (fd >= 0)
		file_ops->close(fd);
	file_ops->close(dirfd);
	return rc;
}

/* ---- what must be there ---- */

static int check_name(int fd, struct crash_moment m, struct err *err)
{
	struct slice is, one;
	uint64_t size;
	int rc = overlay_backing(fd, &is, &size, err);

	if (rc < 0)
		return -1;
	for (unsigned i = 0; rc > 0 && i < NR_NAMES; i++) {
		name_of(i, &one);
		if (!same_name(&is, &one))
			continue;
		if (m.done && !m.lied && i != NR_NAMES - 1)
			return err_set(err, ERR_FORMAT, "done, and it has name %u", i);
		if (m.untouched && i)
			return err_set(err, ERR_FORMAT, "untouched, and it has name %u", i);
		return size == SIZE ? 0 : err_set(err, ERR_FORMAT, "it has another size");
	}
	return err_set(err, ERR_FORMAT, "it names nothing that it ever should");
}

static int check(void *ctx, struct sim *s, struct crash_moment m, struct err *err)
{
	int fd = file_open(sim_root(s), "d/img", O_RDONLY, 0, err), rc;

	(void)ctx;
	if (fd < 0)
		return -1;
	rc = check_name(fd, m, err);
	file_ops->close(fd);
	return rc;
}

/* All but the backing file's name and where that lies: the header, extensions, tables and data. */
static int view(void *ctx, struct sim *s, const char *path, uint64_t *ret, struct err *err)
{
	uint64_t len, h = 1, from_name;
	uint8_t *p = sim_content(s, path, &len);
	const struct qcow2_header_disk *d = (const void *)p;

	(void)ctx;
	if (!p || len < DATA + LEN) {
		free(p);
		return err_set(err, ERR_FORMAT, "'%s' is not there, or cut", path);
	}
	from_name = sizeof(*d) + 16 + 392 + 8; /* see overlay.c: backing format, feature names, end */
	for (uint64_t i = 0; i < len; i++)
		if (!(i >= 8 && i < 20) && !(i >= from_name && i < 65536))
			h = (h ^ p[i]) * UINT64_C(0x100000001b3);
	free(p);
	*ret = h;
	return 0;
}

static void visit(void *ctx, struct sim *s, int fd)
{
	(void)ctx;
	(void)s;
	write_as_guest(fd, '#', 7, 1);
}

static const char *const images[] = { "/d/img", NULL };

static struct crash_workflow workflow(struct work *w)
{
	return (struct crash_workflow){
		.name = "another backing file",
		.setup = set_up,
		.run = run,
		.check = check,
		.ctx = w,
		.images = images,
		.other_times = true,
		.view = view,
		.visit = visit,
		.cuts = { .every_point = true, .whole_sectors = true },
	};
}

static void an_overlay_names_one_file_or_the_other(void **state)
{
	struct work work = { 0 };
	struct crash_workflow w = workflow(&work);
	struct crash_report r = assert_survives(crash_try, &w);

	(void)state;
	assert_true(r.nr_kills >= 4 * (NR_NAMES - 1) && r.nr_cuts >= 20 && r.nr_errors > 20 && r.nr_visits > 20);
}

/* ---- mistakes ---- */

/* The header leads to the name before that is synced. */
static void swap_writes(void *ctx, struct sim *s)
{
	unsigned header = sim_log_find(s, "write /d/img 8+12", 0), sync = sim_log_find(s, "datasync /d/img", 0);

	(void)ctx;
	assert_true(header != UINT_MAX && sync < header);
	sim_log_move(s, header, sync);
}

static void a_name_that_is_not_synced_is_caught(void **state)
{
	struct work work = { 0 };
	struct crash_workflow w = workflow(&work);

	(void)state;
	w.mistake_in_log = swap_writes;
	assert_caught(crash_try_cuts, &w, "c: ");
}

/* Written over the old name, and not beside it. */
static int run_in_place(void *ctx, struct sim *s, struct err *err)
{
	int fd = file_open(sim_root(s), "d/img", O_RDWR, 0, err);
	struct qcow2_header_disk d;
	char text[QCOW2_NAME_MAX + 1];
	struct slice backing;
	be32 len;
	int rc;

	(void)ctx;
	name_of(NR_NAMES - 1, &backing);
	if (fd < 0 || slice_format(&backing, text, sizeof(text), err) < 0 || file_read(fd, &d, sizeof(d), 0, err) < 0)
		return -1;
	len = be32_from((uint32_t)strlen(text));
	rc = file_write(fd, text, strlen(text), be64_get(d.backing_file_offset), err) < 0 || file_write(fd, &len, 4, 16, err) < 0 ||
	     file_sync(fd, "img", err) < 0 ? -1 : 0;
	file_ops->close(fd);
	return rc;
}

static void a_name_that_is_written_over_the_old_one_is_caught(void **state)
{
	struct work work = { 0 };
	struct crash_workflow w = workflow(&work);

	(void)state;
	w.run = run_in_place;
	w.visit = NULL;
	assert_caught(crash_try_cuts, &w, "c: ");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_overlay_names_one_file_or_the_other),
		cmocka_unit_test(a_name_that_is_not_synced_is_caught),
		cmocka_unit_test(a_name_that_is_written_over_the_old_one_is_caught),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
