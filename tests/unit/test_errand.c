/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include "scanner/base/checked.h"
#include "scanner/base/proc.h"
#include "scanner/errand.h"
#include "scanner/leash.h"
#include "tests/unit/image_help.h"

/* Processes that do as they should, that lie, and that die; and a parent that is told. */

#define SHARED 8192

static struct roots roots;
static struct jail jail;
static struct stopper stopper;
static struct err why, err;

static struct {
	unsigned nr_messages, nr_opened, nr_ticks, nr_done;
	uint32_t kind;
	char path[PATH_MAX];
	enum err_kind fails; /* what the next call fails with */
} seen;

static int make(void **state)
{
	roots = (struct roots){ 0 };
	stopper = (struct stopper){ 0 };
	memset(&seen, 0, sizeof(seen));
	why = err = ERR_INIT;
	alarm(60); /* who waits for ever is ended */
	if (jail_plan(&jail, JAIL_BEST, NULL) < 0 || tree_make(state) < 0)
		return -1;
	tree_file("disk.raw");
	tree_file("second");
	return roots_add(&roots, tree, false, NULL);
}

static int unmake(void **state)
{
	alarm(0);
	leash_clock = leash_clock_real;
	roots_release(&roots);
	return tree_remove(state);
}

#define errand_test(f) cmocka_unit_test_setup_teardown(f, make, unmake)

/* ---- the parent ---- */

static int fails(struct err *e)
{
	return seen.fails ? err_set(e, seen.fails, "as told") : 0;
}

static int message(void *ctx, struct worker_message *m, int sock, void *shared, struct err *e)
{
	(void)ctx;
	(void)shared;
	seen.nr_messages++;
	seen.kind = m->kind;
	*m = (struct worker_message){ .kind = WORKER_FREE };
	worker_send(sock, m, -1, NULL);
	return fails(e);
}

static int opened(void *ctx, const struct opening *o, struct err *e)
{
	struct stat st;

	(void)ctx;
	seen.nr_opened++;
	assert_int_equal(fstat(o->fd, &st), 0);
	snprintf(seen.path, sizeof(seen.path), "%s", o->path);
	return fails(e);
}

static int tick(void *ctx, void *shared, struct err *e)
{
	(void)ctx;
	(void)shared;
	seen.nr_ticks++;
	return seen.nr_ticks > 1 ? fails(e) : 0;
}

static int done(void *ctx, void *shared, struct err *e)
{
	(void)ctx;
	(void)shared;
	seen.nr_done++;
	return fails(e);
}

static unsigned nr_descriptors(void)
{
	unsigned nr = 0;

	for (int fd = 0; fd < 256; fd++)
		nr += fcntl(fd, F_GETFD) >= 0;
	return nr;
}

static int run_with(struct errand e)
{
	unsigned before = nr_descriptors();
	int fd = open(in_tree("disk.raw"), O_RDONLY | O_CLOEXEC), rc;

	e.roots = &roots;
	e.jail = &jail;
	e.shared_len = SHARED;
	e.stopper = &stopper;
	rc = errand_run(&e, fd, in_tree("disk.raw"), &why, &err);
	close(fd);
	assert_int_equal(nr_descriptors(), before);
	return rc;
}

static int run(int (*process)(int sock, void *shared, void *arg))
{
	return run_with((struct errand){
		.run = process, .second_fd = -1, .message = message, .opened = opened, .tick = tick, .done = done,
	});
}

/* ---- an honest one ---- */

static int reads_it(int sock, void *shared, void *arg)
{
	struct errand_side s;
	struct err e = ERR_INIT;
	struct image *img;

	(void)arg;
	if (errand_begin(&s, sock, false) < 0)
		return 1;
	img = errand_open_image(&s, &e);
	if (img)
		image_read_guest(img, 0, shared, 8, &e);
	image_close(img);
	return errand_end(&s, e.kind ? &e : NULL);
}

static int check_text(void *ctx, void *shared, struct err *e)
{
	(void)ctx;
	(void)e;
	assert_memory_equal(shared, "disk.raw", 8);
	seen.nr_done++;
	return 0;
}

static void a_process_reads_an_image(void **state)
{
	(void)state;
	assert_int_equal(run_with((struct errand){ .run = reads_it, .format = "raw", .second_fd = -1, .done = check_text }), 1);
	assert_int_equal(seen.nr_done, 1);
}

static int reads_the_second(int sock, void *shared, void *arg)
{
	struct errand_side s;

	(void)shared;
	(void)arg;
	if (errand_begin(&s, sock, true) < 0 || pread(s.second_fd, s.m->path, 6, 0) != 6 || memcmp(s.m->path, "second", 6) != 0)
		return 1;
	return errand_end(&s, NULL);
}

static void a_second_file_comes_along(void **state)
{
	int fd = open(in_tree("second"), O_RDONLY | O_CLOEXEC);

	(void)state;
	assert_int_equal(run_with((struct errand){ .run = reads_the_second, .second_fd = fd }), 1);
	close(fd);
}

/* ---- files that it asks for ---- */

static const char *asked;
static enum image_role asked_as;

static int asks(int sock, void *shared, void *arg)
{
	struct errand_side s;
	struct err e = ERR_INIT;
	char path[PATH_MAX];
	int fd;

	(void)shared;
	(void)arg;
	if (errand_begin(&s, sock, false) < 0)
		return 1;
	fd = s.opener.open(s.opener.ctx, asked_as, asked, s.job.path, path, &e);
	return errand_end(&s, fd < 0 ? &e : NULL);
}

static void files_that_it_names_are_opened_beneath_the_roots(void **state)
{
	(void)state;
	asked = "second";
	asked_as = IMAGE_EXTENT;
	assert_int_equal(run(asks), 1);
	assert_int_equal(seen.nr_opened, 1);
	assert_string_equal(seen.path, in_tree("second"));
	asked = "/etc/passwd";
	assert_int_equal(run(asks), 0);
	assert_int_equal(seen.nr_opened, 1);
	expect_error(&why, ERR_REFUSED, "/etc/passwd");
}

static int asks_for_ever(int sock, void *shared, void *arg)
{
	struct errand_side s;
	char path[PATH_MAX];

	(void)shared;
	(void)arg;
	if (errand_begin(&s, sock, false) < 0)
		return 1;
	for (;;) {
		struct err e = ERR_INIT;
		int fd = s.opener.open(s.opener.ctx, IMAGE_EXTENT, "nowhere", s.job.path, path, &e);

		if (fd >= 0 || e.kind == ERR_STALE)
			return 1;
	}
}

static void who_asks_for_ever_is_ended(void **state)
{
	(void)state;
	assert_int_equal(run(asks_for_ever), 0);
	expect_error(&why, ERR_REFUSED, "it names more than");
}

/* ---- ones that lie and die ---- */

static struct worker_message said;
static size_t said_len;

static int says(int sock, void *shared, void *arg)
{
	struct errand_side s;

	(void)shared;
	(void)arg;
	if (errand_begin(&s, sock, false) < 0)
		return 1;
	proc_send(sock, &said, said_len ? said_len : worker_message_len(said.kind), -1, NULL);
	while (proc_recv(sock, s.m, sizeof(*s.m), &s.fd, NULL) > 0)
		;
	return 0;
}

static void say(uint32_t kind)
{
	memset(&said, 0xff, sizeof(said));
	said.kind = kind;
	said_len = 0;
}

static void messages_go_to_whoever_knows_them(void **state)
{
	(void)state;
	say(WORKER_FRAME);
	seen.fails = ERR_FULL;
	assert_int_equal(run(says), -1);
	assert_int_equal(seen.nr_messages, 1);
	assert_int_equal(seen.kind, WORKER_FRAME);
	expect_error(&err, ERR_FULL, "as told");
}

static void what_nobody_knows_ends_it(void **state)
{
	(void)state;
	say(4711);
	assert_int_equal(run_with((struct errand){ .run = says, .second_fd = -1 }), 0);
	expect_error(&why, ERR_IO, "the process that read it died");
	say(WORKER_OPEN);
	said_len = 5; /* not all of it */
	why = ERR_INIT;
	assert_int_equal(run(says), 0);
	expect_error(&why, ERR_IO, "the process that read it died");
	assert_int_equal(seen.nr_opened, 0);
}

/* It has no say in what becomes of the run: that memory is out, or that somebody stopped it, is not taken from it. */
static void a_reason_is_a_text_and_a_harmless_kind(void **state)
{
	static const int kinds[] = { 0, ERR_CANCELED, ERR_MEMORY, ERR_USAGE, ERR_USAGE + 1, -1, INT32_MAX };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		say(WORKER_FAILED);
		said.err.kind = (enum err_kind)kinds[i];
		memset(said.err.text, 'x', sizeof(said.err.text));
		why = ERR_INIT;
		assert_int_equal(run(says), 0);
		assert_int_equal(why.kind, ERR_IO);
		assert_int_equal(strlen(why.text), sizeof(why.text) - 1);
	}
	say(WORKER_FAILED);
	said.err = (struct err){ .kind = ERR_FORMAT, .text = "no good" };
	assert_int_equal(run(says), 0);
	expect_error(&why, ERR_FORMAT, "no good");
	assert_int_equal(seen.nr_done, 0);
}

static int dies(int sock, void *shared, void *arg)
{
	(void)sock;
	(void)shared;
	(void)arg;
	abort();
}

static int leaves(int sock, void *shared, void *arg)
{
	(void)sock;
	(void)shared;
	(void)arg;
	return 5;
}

static int opens_itself(int sock, void *shared, void *arg)
{
	(void)shared;
	(void)arg;
	return open("/etc/passwd", O_RDONLY) < 0 ? sock : 0;
}

static void who_dies_is_told_of(void **state)
{
	(void)state;
	assert_int_equal(run(dies), 0);
	expect_error(&why, ERR_IO, "died");
	why = ERR_INIT;
	assert_int_equal(run(leaves), 0);
	expect_error(&why, ERR_IO, "died");
	if (!jail.seccomp)
		return;
	why = ERR_INIT;
	assert_int_equal(run(opens_itself), 0);
	if (!strstr(why.text, "open")) /* with AddressSanitizer it fails, and goes on */
		expect_error(&why, ERR_IO, "exit status 3");
}

static int says_nothing(int sock, void *shared, void *arg)
{
	struct errand_side s;

	(void)shared;
	(void)arg;
	if (errand_begin(&s, sock, false) < 0)
		return 1;
	return proc_recv(sock, s.m, sizeof(*s.m), &s.fd, NULL) > 0;
}

static uint64_t nr_clock;

static uint64_t fast_clock(pid_t pid)
{
	(void)pid;
	return nr_clock++ ? 3600ull * 1000000000 : 0;
}

static void who_takes_too_long_is_ended(void **state)
{
	(void)state;
	nr_clock = 0;
	leash_clock = fast_clock;
	assert_int_equal(run(says_nothing), 0);
	expect_error(&why, ERR_REFUSED, "of CPU");
}

static int talks_for_ever(int sock, void *shared, void *arg)
{
	struct errand_side s;

	(void)shared;
	(void)arg;
	if (errand_begin(&s, sock, false) < 0)
		return 1;
	do {
		*s.m = (struct worker_message){ .kind = WORKER_FRAME };
		if (worker_send(sock, s.m, -1, NULL) < 0)
			return 1;
	} while (proc_recv(sock, s.m, sizeof(*s.m), &s.fd, NULL) > 0);
	return 0;
}

static int message_then_stop(void *ctx, struct worker_message *m, int sock, void *shared, struct err *e)
{
	if (seen.nr_messages == 20)
		stopper.flag = 1;
	return message(ctx, m, sock, shared, e);
}

static void who_talks_for_ever_can_be_stopped(void **state)
{
	(void)state;
	assert_int_equal(run_with((struct errand){ .run = talks_for_ever, .second_fd = -1, .message = message_then_stop }), -1);
	assert_int_equal(err.kind, ERR_CANCELED);
	assert_in_range(seen.nr_messages, 20, 22);
}

static void ticks_go_on_while_it_is_silent(void **state)
{
	(void)state;
	seen.fails = ERR_CANCELED;
	assert_int_equal(run(says_nothing), -1);
	assert_int_equal(seen.nr_ticks, 2);
	expect_error(&err, ERR_CANCELED, "as told");
}

static void failures_of_the_parent_are_its_own(void **state)
{
	(void)state;
	seen.fails = ERR_FULL;
	assert_int_equal(run_with((struct errand){ .run = reads_it, .second_fd = -1, .done = done }), -1);
	expect_error(&err, ERR_FULL, "as told");
	asked = "second";
	err = ERR_INIT;
	assert_int_equal(run_with((struct errand){ .run = asks, .second_fd = -1, .opened = opened }), -1);
	expect_error(&err, ERR_FULL, "as told");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		errand_test(a_process_reads_an_image),
		errand_test(a_second_file_comes_along),
		errand_test(files_that_it_names_are_opened_beneath_the_roots),
		errand_test(who_asks_for_ever_is_ended),
		errand_test(messages_go_to_whoever_knows_them),
		errand_test(what_nobody_knows_ends_it),
		errand_test(a_reason_is_a_text_and_a_harmless_kind),
		errand_test(who_dies_is_told_of),
		errand_test(who_takes_too_long_is_ended),
		errand_test(who_talks_for_ever_can_be_stopped),
		errand_test(ticks_go_on_while_it_is_silent),
		errand_test(failures_of_the_parent_are_its_own),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
