/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include <linux/fs.h>
#include <time.h>

#include "scanner/base/file.h"
#include "tests/crash/crash.h"

/* The driver of crash tests, on two small workflows: file_write_atomic(), and an image that is exchanged for another
 * file that says the same.  Both must pass, and each mistake that is seeded must be caught. */

#define OLD_LEN 9000
#define NEW_LEN 13000

/* What a workflow does wrong. */
enum mistake {
	RIGHT,
	NO_DATASYNC,
	NO_DIR_SYNC,
	RENAME_FIRST,
	NO_RECOVERY,
	IN_PLACE,
	IGNORES_SYNC,
	REPEATS_SYNC,
	LEAKS,
	OPENS_OTHERS,
	WAITS_FOR_ITSELF,
	RECOVERS_OVER_AND_OVER,
	NO_READ_BACK,
	NO_DROPPED_CACHE,
	NO_ATTRIBUTES,
	ATTRIBUTES_BY_DATASYNC,
	OTHER_CONTENT,
	SILENT,
	BELIEVES_ITS_EYES,
	NO_LEASE,
	LETS_GO_AND_FORGETS,
};

struct work {
	enum mistake mistake;
	bool durable; /* what was done must be there, not only old or new */
};

static int open_dir(struct sim *s, const char *name, struct err *err)
{
	return file_open(sim_root(s), name, O_RDONLY | O_DIRECTORY, 0, err);
}

static void close_file(int *fd)
{
	if (*fd >= 0)
		file_ops->close(*fd);
}
#define FILE_FD __attribute__((cleanup(close_file), unused)) int

static void fill(uint8_t *p, size_t len, uint8_t with)
{
	for (size_t i = 0; i < len; i++)
		p[i] = (uint8_t)(with + i / 512);
}

static void write_file(int dirfd, const char *name, uint8_t with, size_t len)
{
	static uint8_t buf[NEW_LEN];
	FILE_FD fd = file_open(dirfd, name, O_RDWR | O_CREAT, 0640, NULL);

	fill(buf, len, with);
	assert_int_equal(file_write(fd, buf, len, 0, NULL), 0);
	assert_int_equal(file_ops->fsetxattr(fd, "user.owner", "me", 2, 0), 0);
}

static void set_up(void *ctx, struct sim *s)
{
	int dirfd;

	(void)ctx;
	assert_int_equal(file_mkdir(sim_root(s), "d", 0700, NULL), 0);
	assert_int_equal(file_mkdir(sim_root(s), "shop", 0700, NULL), 0);
	dirfd = open_dir(s, "d", NULL);
	write_file(dirfd, "f", 'o', OLD_LEN);
	write_file(dirfd, "img", 'i', OLD_LEN);
	write_file(sim_root(s), "canary", 'c', 100);
	file_ops->close(dirfd);
}

/* ---- a file is written atomically ---- */

static int write_in_place(int dirfd, const uint8_t *buf, struct err *err)
{
	FILE_FD fd = file_open(dirfd, "f", O_RDWR, 0, err);

	if (fd < 0 || file_write(fd, buf, 5000, 0, err) < 0 ||
	    file_write(fd, buf + 5000, NEW_LEN - 5000, 5000, err) < 0)
		return -1;
	return file_sync(fd, "f", err);
}

static int sync_carelessly(enum mistake m, int fd, struct err *err)
{
	if (m == IGNORES_SYNC) {
		file_sync(fd, "f", NULL);
		return 0;
	}
	return file_ops->fdatasync(fd) < 0 ? file_sync(fd, "f", err) : 0;
}

static int write_carelessly(enum mistake m, int dirfd, const uint8_t *buf, struct err *err)
{
	FILE_FD fd = file_open(dirfd, "f.tmp", O_RDWR | O_CREAT | O_TRUNC, 0600, err);

	if (fd < 0 || file_write(fd, buf, NEW_LEN, 0, err) < 0 || sync_carelessly(m, fd, err) < 0 ||
	    file_rename(dirfd, "f.tmp", "f", err) < 0)
		return -1;
	return file_sync_dir(dirfd, err);
}

static int wait_for_itself(int dirfd)
{
	FILE_FD fd = file_open(dirfd, "f", O_RDWR, 0, NULL);
	FILE_FD again = -1;

	if (fd >= 0 && file_ops->fcntl(fd, F_SETLEASE, (void *)F_WRLCK) == 0)
		again = file_open(dirfd, "f", O_RDWR, 0, NULL);
	return 0;
}

static int write_new(void *ctx, struct sim *s, struct err *err)
{
	const struct work *w = ctx;
	FILE_FD dirfd = open_dir(s, "d", err);
	FILE_FD canary = w->mistake == OPENS_OTHERS ? file_open(sim_root(s), "canary", O_RDONLY, 0, NULL) : -1;
	uint8_t buf[NEW_LEN];

	if (dirfd < 0)
		return -1;
	if (w->mistake == LEAKS)
		file_ops->openat(dirfd, "img", O_RDONLY, 0);
	if (w->mistake == WAITS_FOR_ITSELF)
		wait_for_itself(dirfd);
	fill(buf, sizeof(buf), 'n');
	if (w->mistake == IN_PLACE)
		return write_in_place(dirfd, buf, err);
	if (w->mistake == IGNORES_SYNC || w->mistake == REPEATS_SYNC)
		return write_carelessly(w->mistake, dirfd, buf, err);
	return file_write_atomic(dirfd, "f", buf, sizeof(buf), 0640, w->mistake == SILENT ? NULL : err);
}

struct removal {
	int dirfd;
	enum mistake mistake;
};

static int remove_tmp(void *ctx, const char *name, struct err *err)
{
	const struct removal *r = ctx;
	size_t len = strlen(name);

	if (r->mistake == RECOVERS_OVER_AND_OVER && strcmp(name, "f") == 0)
		file_write_atomic(r->dirfd, "img", name, 1, 0640, NULL);
	return len > 4 && strcmp(name + len - 4, ".tmp") == 0 ? file_unlink(r->dirfd, name, err) : 0;
}

static int remove_tmps(void *ctx, struct sim *s, struct err *err)
{
	const struct work *w = ctx;
	FILE_FD dirfd = open_dir(s, "d", err);
	struct removal r = { .dirfd = dirfd, .mistake = w->mistake };

	if (dirfd < 0 || w->mistake == NO_RECOVERY)
		return dirfd < 0 ? -1 : 0;
	return file_each_name(dirfd, remove_tmp, &r, err);
}

static bool says(struct sim *s, const char *path, uint8_t with, size_t len)
{
	uint8_t wanted[NEW_LEN];
	uint64_t is_len = 0;
	uint8_t *p = sim_content(s, path, &is_len);
	bool same;

	fill(wanted, len, with);
	same = p && is_len == len && memcmp(p, wanted, len) == 0;
	free(p);
	return same;
}

static int check_f(void *ctx, struct sim *s, struct crash_moment m, struct err *err)
{
	const struct work *w = ctx;
	bool old = says(s, "/d/f", 'o', OLD_LEN), new = says(s, "/d/f", 'n', NEW_LEN);

	if (!old && !new && !m.lied) /* it does not read back what it wrote */
		return err_set(err, ERR_FORMAT, "f is neither old nor new");
	if (m.done && w->durable && !new)
		return err_set(err, ERR_FORMAT, "f is not new, after all was done");
	if (m.untouched && !old)
		return err_set(err, ERR_FORMAT, "f is not old, before anything was done");
	return 0;
}

static bool belongs(void *ctx, const char *path, const struct stat *st)
{
	static const char *const paths[] = { "/canary", "/d", "/d/f", "/d/img", "/shop" };

	(void)ctx;
	(void)st;
	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++)
		if (strcmp(path, paths[i]) == 0)
			return true;
	return false;
}

static const char *const image[] = { "/d/img", NULL };

static struct crash_workflow write_workflow(struct work *w)
{
	return (struct crash_workflow){ .name = "write", .setup = set_up, .run = write_new, .recover = remove_tmps,
					.check = check_f, .ctx = w, .images = image, .belongs = belongs, .root = "/d",
					.cut_again = 3 };
}

static void lose_datasync(void *ctx, struct sim *s)
{
	const struct work *w = ctx;

	if (w->mistake == NO_DATASYNC)
		sim_set_fault_of(s, SIM_FDATASYNC, (struct sim_fault){ .at = 1, .how = SIM_LIE });
	if (w->mistake == NO_DIR_SYNC)
		sim_set_fault_of(s, SIM_FSYNC, (struct sim_fault){ .at = 1, .how = SIM_LIE });
}

static void rename_first(void *ctx, struct sim *s)
{
	(void)ctx;
	sim_log_move(s, sim_log_find(s, "rename", 0), sim_log_find(s, "write", 0));
}

static void assert_passes(const struct crash_workflow *w)
{
	struct crash_report r = assert_survives(crash_try, w);

	assert_true(w->visit ? r.nr_visits > 4 * r.nr_calls : r.nr_visits == 0);
	assert_true(r.nr_kills == r.nr_changes && r.nr_nested && r.nr_cuts && r.nr_cuts_after_errors &&
		    r.nr_cuts_again && r.nr_cuts_after_kills);
	assert_true(r.nr_errors > r.nr_calls);
}

static void an_atomic_write_passes(void **state)
{
	struct work work = { .durable = true };
	struct crash_workflow w = write_workflow(&work);

	(void)state;
	w.cuts.every_point = true;
	w.cuts.weak_renames = true;
	assert_passes(&w);
}

static void a_write_that_is_not_synced_is_caught(void **state)
{
	struct work work = { .mistake = NO_DATASYNC };
	struct crash_workflow w = write_workflow(&work);

	(void)state;
	w.mistake = lose_datasync;
	assert_caught(crash_try_cuts, &w, "c: f is neither old nor new");
}

static void without_a_sync_of_the_directory_it_is_old_or_new(void **state)
{
	struct work work = { .mistake = NO_DIR_SYNC };
	struct crash_workflow w = write_workflow(&work);

	(void)state;
	w.mistake = lose_datasync;
	assert_survives(crash_try_cuts, &w);
	work.durable = true;
	assert_caught(crash_try_cuts, &w, "c: f is not new, after all was done");
}

static void a_rename_before_the_write_is_caught(void **state)
{
	struct work work = { .mistake = RENAME_FIRST };
	struct crash_workflow w = write_workflow(&work);

	(void)state;
	w.mistake_in_log = rename_first;
	assert_caught(crash_try_cuts, &w, "c: f is neither old nor new");
}

static void a_write_in_place_is_caught_by_a_kill(void **state)
{
	struct work work = { .mistake = IN_PLACE };
	struct crash_workflow w = write_workflow(&work);

	(void)state;
	assert_caught(crash_try_kills, &w, "c: f is neither old nor new");
	assert_caught(crash_try_errors, &w, "c: f is neither old nor new");
}

static void a_sync_error_that_is_ignored_or_tried_again_is_caught(void **state)
{
	struct work work = { .mistake = IGNORES_SYNC };
	struct crash_workflow w = write_workflow(&work);

	(void)state;
	assert_caught(crash_try_errors, &w, "c: f is neither old nor new");
	work.mistake = REPEATS_SYNC;
	assert_caught(crash_try_errors, &w, "c: f is neither old nor new");
}

static void what_is_left_behind_is_caught(void **state)
{
	struct work work = { .mistake = NO_RECOVERY };
	struct crash_workflow w = write_workflow(&work);

	(void)state;
	assert_caught(crash_try_kills, &w, "was left behind");
}

static void a_careless_process_is_caught(void **state)
{
	struct work work = { .mistake = LEAKS };
	struct crash_workflow w = write_workflow(&work);

	(void)state;
	assert_caught(crash_try, &w, "e: the work left 1 descriptors open");
	work.mistake = OPENS_OTHERS;
	assert_caught(crash_try, &w, "e: '/canary' was opened by the work");
	work.mistake = WAITS_FOR_ITSELF;
	assert_caught(crash_try, &w, "e: the work waited for a lease of its own");
	work.mistake = SILENT;
	assert_caught(crash_try_errors, &w, "it failed without a reason");
}

static void a_recovery_that_does_harm_is_caught(void **state)
{
	struct work work = { .mistake = RECOVERS_OVER_AND_OVER };
	struct crash_workflow w = write_workflow(&work);

	(void)state;
	assert_caught(crash_try, &w, "b: image '/d/img' says something else than it did");
	w.images = NULL;
	assert_caught(crash_try, &w, "d: another recovery changed something");
	w.calls_max = 2;
	assert_caught(crash_try, &w, "a: the recovery took");
}

/* ---- an image is exchanged for another file that says the same ---- */

/* The bytes of an image are what it says plus its first byte, all of them. */
static int view(void *ctx, struct sim *s, const char *path, uint64_t *ret, struct err *err)
{
	uint64_t len = 0, h = 1;
	uint8_t *p = sim_content(s, path, &len);

	(void)ctx;
	if (!p || len < 2) {
		free(p);
		return err_set(err, ERR_FORMAT, "it is too short");
	}
	for (uint64_t i = 1; i < len; i++)
		h = (h ^ (uint8_t)(p[i] - p[0])) * UINT64_C(0x100000001b3);
	free(p);
	*ret = h;
	return 0;
}

static int make_other(enum mistake m, int old, int new, struct err *err)
{
	uint8_t buf[OLD_LEN], by = m == OTHER_CONTENT ? 1 : 0;

	if (file_read(old, buf, sizeof(buf), 0, err) < 0)
		return -1;
	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)(buf[i] + 3 + (i > 7000 ? by : 0));
	return file_write(new, buf, sizeof(buf), 0, err);
}

static int copy_attributes(enum mistake m, int old, int new, struct err *err)
{
	char value[16];
	struct stat st;
	ssize_t n;

	if (m == NO_ATTRIBUTES)
		return 0;
	n = file_ops->fgetxattr(old, "user.owner", value, sizeof(value));
	if (n < 0 || file_ops->fstat(old, &st) < 0 || file_ops->fsetxattr(new, "user.owner", value, (size_t)n, 0) < 0 ||
	    file_ops->fchmod(new, st.st_mode & 07777) < 0 ||
	    file_ops->futimens(new, (struct timespec[2]){ st.st_atim, st.st_mtim }) < 0)
		return err_errno(err, "cannot copy attributes");
	return 0;
}

static int save(enum mistake m, int fd, struct err *err)
{
	if (m == ATTRIBUTES_BY_DATASYNC)
		return file_sync(fd, "new", err);
	return file_ops->fsync(fd) < 0 ? err_errno(err, "cannot sync") : 0;
}

static int compare(enum mistake m, int old, int new, struct err *err)
{
	uint8_t a[OLD_LEN], b[OLD_LEN];

	if (m == NO_READ_BACK)
		return 0;
	if ((m != NO_DROPPED_CACHE && file_drop_cache(new, err) < 0) || file_read(old, a, sizeof(a), 0, err) < 0 ||
	    file_read(new, b, sizeof(b), 0, err) < 0)
		return -1;
	for (size_t i = 0; i < sizeof(a); i++)
		if ((uint8_t)(a[i] - a[0]) != (uint8_t)(b[i] - b[0]))
			return m == OTHER_CONTENT ? 0
						  : err_set(err, ERR_FORMAT, "read back other bytes than were written");
	return 0;
}

static bool is_whole(const struct work *w, int fd)
{
	return w->mistake == NO_LEASE || file_ops->fcntl(fd, F_GETLEASE, NULL) == F_WRLCK;
}

static int exchange_names(int dirfd, int workfd, struct err *err)
{
	if (file_rename_to(workfd, "1.new", dirfd, "img", RENAME_EXCHANGE, err) < 0 || file_sync_dir(dirfd, err) < 0)
		return -1;
	return file_sync_dir(workfd, err);
}

/* Whoever waited for the lease has the old file now: nobody may have it open, nor have changed it. */
static bool is_settled(const struct work *w, int old, const struct stat *before)
{
	struct stat st;

	if (w->mistake == NO_LEASE || w->mistake == LETS_GO_AND_FORGETS)
		return true;
	file_ops->fcntl(old, F_SETLEASE, (void *)F_UNLCK);
	return file_ops->fcntl(old, F_SETLEASE, (void *)F_WRLCK) == 0 && file_ops->fstat(old, &st) == 0 &&
	       st.st_mtim.tv_sec == before->st_mtim.tv_sec && st.st_mtim.tv_nsec == before->st_mtim.tv_nsec;
}

static int swap_names(struct work *w, int dirfd, int workfd, int old, const struct stat *before, struct err *err)
{
	struct err first = ERR_INIT;

	if (w->mistake != NO_LEASE && !is_whole(w, old))
		return err_set(err, ERR_BUSY, "somebody wants the image");
	if (exchange_names(dirfd, workfd, err) < 0)
		return -1;
	if (is_whole(w, old) && is_settled(w, old, before))
		return 0;
	err_set(&first, ERR_BUSY, "somebody wanted the image");
	if (exchange_names(dirfd, workfd, err) == 0 && err)
		*err = first;
	return -1;
}

static int swap_image(struct work *w, int dirfd, int workfd, int old, int new, struct err *err)
{
	struct stat st;

	if (w->mistake != NO_LEASE && file_ops->fcntl(old, F_SETLEASE, (void *)F_WRLCK) < 0)
		return err_errno(err, "no lease");
	if (file_ops->fstat(old, &st) < 0)
		return err_errno(err, "cannot look at the image");
	if (make_other(w->mistake, old, new, err) < 0 || copy_attributes(w->mistake, old, new, err) < 0 ||
	    save(w->mistake, new, err) < 0 || compare(w->mistake, old, new, err) < 0 ||
	    file_sync_dir(workfd, err) < 0 || swap_names(w, dirfd, workfd, old, &st, err) < 0)
		return -1;
	return 0;
}

static int exchange(void *ctx, struct sim *s, struct err *err)
{
	FILE_FD dirfd = open_dir(s, "d", err);
	FILE_FD workfd = open_dir(s, "shop", err);
	FILE_FD old = dirfd < 0 ? -1 : file_open(dirfd, "img", O_RDWR, 0, err);
	FILE_FD new = workfd < 0 ? -1 : file_open(workfd, "1.new", O_RDWR | O_CREAT | O_EXCL, 0600, err);
	int rc = old < 0 || new < 0 ? -1 : swap_image(ctx, dirfd, workfd, old, new, err);

	if (new >= 0 && file_unlink(workfd, "1.new", rc < 0 ? NULL : err) < 0)
		rc = -1;
	return rc;
}

static int clear_work(void *ctx, struct sim *s, struct err *err)
{
	FILE_FD workfd = open_dir(s, "shop", err);

	(void)ctx;
	if (workfd < 0 || file_sync_dir(workfd, err) < 0)
		return -1;
	return file_unlink(workfd, "1.new", err);
}

static void write_to_image(void *ctx, struct sim *s, int fd)
{
	uint8_t byte;

	(void)ctx;
	(void)s;
	assert_int_equal(file_read(fd, &byte, 1, 0, NULL), 0);
	byte = (uint8_t)(byte + 99); /* says 99 in every form of the image */
	assert_int_equal(file_write(fd, &byte, 1, 5000, NULL), 0);
}

static struct crash_workflow exchange_workflow(struct work *w)
{
	return (struct crash_workflow){ .name = "exchange",
					.setup = set_up,
					.run = exchange,
					.recover = clear_work,
					.ctx = w,
					.images = image,
					.view = view,
					.visit = write_to_image,
					.belongs = belongs,
					.cut_again = 3,
					.flip_reads = true };
}

static void an_exchange_passes(void **state)
{
	struct work work = { 0 };
	struct crash_workflow w = exchange_workflow(&work);

	(void)state;
	w.cuts.every_point = true;
	assert_passes(&w);
}

static void sync_last(void *ctx, struct sim *s)
{
	(void)ctx;
	sim_log_move(s, sim_log_find(s, "sync /shop/1.new", 0), sim_log_find(s, "unlink", 0));
}

static void an_exchange_before_the_sync_is_caught(void **state)
{
	struct work work = { 0 };
	struct crash_workflow w = exchange_workflow(&work);

	(void)state;
	w.mistake_in_log = sync_last;
	assert_caught(crash_try_cuts, &w, "b: image '/d/img'");
}

/* A10, B6 */
static void a_file_that_was_not_read_back_from_the_disk_is_caught(void **state)
{
	struct work work = { .mistake = NO_READ_BACK };
	struct crash_workflow w = exchange_workflow(&work);

	(void)state;
	assert_caught(crash_try_errors, &w, "b: image '/d/img'");
	work.mistake = NO_DROPPED_CACHE;
	assert_caught(crash_try_errors, &w, "b: image '/d/img'");
	work.mistake = OTHER_CONTENT;
	assert_caught(crash_try_kills, &w, "b: image '/d/img' says something else than it did");
}

static void attributes_that_were_not_copied_or_not_saved_are_caught(void **state)
{
	struct work work = { .mistake = NO_ATTRIBUTES };
	struct crash_workflow w = exchange_workflow(&work);

	(void)state;
	assert_caught(crash_try_kills, &w, "b: image '/d/img' has other attributes");
	work.mistake = ATTRIBUTES_BY_DATASYNC;
	assert_caught(crash_try_cuts, &w, "b: image '/d/img' has other attributes");
}

static void what_others_write_meanwhile_is_not_lost(void **state)
{
	static const enum mistake mistakes[] = { NO_LEASE, LETS_GO_AND_FORGETS };
	struct work work = { 0 };
	struct crash_workflow w = exchange_workflow(&work);

	(void)state;
	for (size_t i = 0; i < sizeof(mistakes) / sizeof(mistakes[0]); i++) {
		work.mistake = mistakes[i];
		assert_caught(crash_try_visits, &w, "b: image '/d/img' says something else than another process wrote");
	}
}

/* ---- what is to be done is noted, and the note goes once it is done ---- */

static int work_by_note(void *ctx, struct sim *s, struct err *err)
{
	FILE_FD workfd = open_dir(s, "shop", err);

	if (workfd < 0 || file_write_atomic(workfd, "note", "f", 1, 0600, err) < 0)
		return -1;
	if (write_new(ctx, s, err) < 0)
		return -1;
	return file_unlink(workfd, "note", err);
}

static int finish_note(void *ctx, struct sim *s, struct err *err)
{
	const struct work *w = ctx;
	FILE_FD dirfd = open_dir(s, "d", err);
	FILE_FD workfd = open_dir(s, "shop", err);
	struct removal r = { .dirfd = workfd };

	if (dirfd < 0 || workfd < 0 || remove_tmps(ctx, s, err) < 0 || file_each_name(workfd, remove_tmp, &r, err) < 0)
		return -1;
	if (!says(s, "/d/f", 'n', NEW_LEN))
		return 0;
	if (w->mistake != BELIEVES_ITS_EYES && file_sync_dir(dirfd, err) < 0)
		return -1;
	return file_unlink(workfd, "note", err) < 0 ? -1 : file_sync_dir(workfd, err);
}

static int check_note(void *ctx, struct sim *s, struct crash_moment m, struct err *err)
{
	struct stat st;

	if (check_f(ctx, s, m, err) < 0)
		return -1;
	if (!m.lied && sim_stat(s, "/shop/note", &st) < 0 && !says(s, "/d/f", 'n', NEW_LEN))
		return err_set(err, ERR_FORMAT, "the note is gone and f is old");
	return 0;
}

static bool belongs_or_note(void *ctx, const char *path, const struct stat *st)
{
	return strcmp(path, "/shop/note") == 0 || belongs(ctx, path, st);
}

/* The note is there from the start: what is asked is only whether it goes too early. */
static void set_up_note(void *ctx, struct sim *s)
{
	int workfd;

	set_up(ctx, s);
	workfd = open_dir(s, "shop", NULL);
	assert_int_equal(file_write_atomic(workfd, "note", "f", 1, 0600, NULL), 0);
	file_ops->close(workfd);
}

static void a_recovery_that_takes_for_saved_what_it_sees_is_caught(void **state)
{
	struct work work = { .durable = true };
	struct crash_workflow w = { .name = "note", .setup = set_up_note, .run = work_by_note, .recover = finish_note,
				    .check = check_note, .ctx = &work, .images = image, .belongs = belongs_or_note,
				    .cut_again = 1 };

	(void)state;
	assert_passes(&w);
	work.mistake = BELIEVES_ITS_EYES;
	assert_caught(crash_try_kills, &w, "c: the note is gone and f is old");
	w.cut_again = 0;
	assert_survives(crash_try_kills, &w); /* kills alone do not show it */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_atomic_write_passes),
		cmocka_unit_test(a_write_that_is_not_synced_is_caught),
		cmocka_unit_test(without_a_sync_of_the_directory_it_is_old_or_new),
		cmocka_unit_test(a_rename_before_the_write_is_caught),
		cmocka_unit_test(a_write_in_place_is_caught_by_a_kill),
		cmocka_unit_test(a_sync_error_that_is_ignored_or_tried_again_is_caught),
		cmocka_unit_test(what_is_left_behind_is_caught),
		cmocka_unit_test(a_careless_process_is_caught),
		cmocka_unit_test(a_recovery_that_does_harm_is_caught),
		cmocka_unit_test(an_exchange_passes),
		cmocka_unit_test(an_exchange_before_the_sync_is_caught),
		cmocka_unit_test(a_file_that_was_not_read_back_from_the_disk_is_caught),
		cmocka_unit_test(attributes_that_were_not_copied_or_not_saved_are_caught),
		cmocka_unit_test(what_others_write_meanwhile_is_not_lost),
		cmocka_unit_test(a_recovery_that_takes_for_saved_what_it_sees_is_caught),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
