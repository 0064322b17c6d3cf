/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/catalog_help.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "scanner/leash.h"
#include "scanner/scan_parts.h"

/* The parent's side of reading, with readers in the hands of their image: of two images the first has such a one.  It
 * costs that image, at most; the second is read, and the first too as soon as an honest process reads it. */

#define IMAGE_SIZE (4 * MIB)

/* What the evil one has at hand. */
struct evil {
	int sock;
	struct worker_shared *shared;
	struct worker_message m; /* its job; and for what it says */
	struct spool_pending *pending;
};

static void (*evil_deed)(struct evil *e);
static _Atomic unsigned *nr_starts; /* of workers, in all processes; flags behind it */
static struct scan_result result;
static struct stopper stopper;

static void say(struct evil *e, uint32_t kind)
{
	e->m.kind = kind;
	worker_send(e->sock, &e->m, -1, NULL);
}

static void say_frame(struct evil *e, uint32_t slot)
{
	e->m.slot = slot;
	say(e, WORKER_FRAME);
}

static void say_image(struct evil *e, uint64_t span, uint64_t layer, const char *format)
{
	e->m.image = (struct worker_image){
		.virtual_size = IMAGE_SIZE, .span = span, .layer = layer, .file_size = IMAGE_SIZE
	};
	snprintf(e->m.image.format, sizeof(e->m.image.format), "%s", format);
	say(e, WORKER_IMAGE);
}

static void good_image(struct evil *e)
{
	say_image(e, IMAGE_SIZE, IMAGE_SIZE, "raw");
}

static void make_frame(struct evil *e, unsigned slot, uint64_t first, unsigned nr)
{
	e->pending->nr_segments = nr;
	for (unsigned i = 0; i < nr; i++)
		e->pending->segments[i] = (struct spool_segment){ .segment = le64_from(first + i),
								  .stored = le16_from(SEGMENT_BLOCKS),
								  .zero = le16_from(SEGMENT_BLOCKS) };
	e->shared->slots[slot].len =
		(uint32_t)spool_frame_make(e->pending, (first + nr) * SEGMENT_SIZE, e->shared->slots[slot].frame);
}

/* The first worker is the evil one; those after it are honest. */
static int evil_run(int sock, void *shared, void *arg)
{
	struct evil *e = calloc(1, sizeof(*e));
	int fd;

	if (atomic_fetch_add(nr_starts, 1))
		return worker_run(sock, shared, arg);
	e->sock = sock;
	e->shared = shared;
	e->pending = calloc(1, sizeof(*e->pending));
	if (proc_recv(sock, &e->m, sizeof(e->m), &fd, NULL) <= 0 || e->m.kind != WORKER_JOB)
		return 1;
	evil_deed(e);
	while (proc_recv(sock, &e->m, sizeof(e->m), &fd, NULL) > 0 && e->m.kind != WORKER_JOB) /* until it is ended */
		;
	return 1;
}

/* ---- around a scan ---- */

static char problems[4096];

static void note_problem(void *ctx, const char *path, const struct err *why)
{
	size_t len = strlen(problems);

	(void)ctx;
	snprintf(problems + len, sizeof(problems) - len, "%s: %s\n", strrchr(path, '/') + 1, why->text);
}

static void no_progress(void *ctx, const struct scan_progress *p)
{
	(void)ctx;
	(void)p;
}

static int make(void **state)
{
	static char data[IMAGE_SIZE];

	if (catalog_make(state) < 0)
		return -1;
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (char)(i / 4096 + i / 1048576);
	nr_starts = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	tree_dir("store");
	tree_write("store/1.raw", data, sizeof(data));
	tree_write("store/2.raw", data, sizeof(data));
	scan_worker_run = evil_run;
	problems[0] = '\0';
	stopper = (struct stopper){ 0 };
	alarm(100);
	return nr_starts != MAP_FAILED ? 0 : -1;
}

static int unmake(void **state)
{
	alarm(0);
	scan_worker_run = worker_run;
	leash_clock = leash_clock_real;
	munmap((void *)nr_starts, 4096);
	return catalog_remove(state);
}

#define evil_test(f) cmocka_unit_test_setup_teardown(f, make, unmake)

static unsigned nr_descriptors(void)
{
	unsigned nr = 0;

	for (int fd = 0; fd < 1024; fd++)
		nr += fcntl(fd, F_GETFD) >= 0;
	return nr;
}

static int scan(enum jail_mode mode, struct err *err)
{
	static const struct scan_watch watch = { no_progress, note_problem, NULL };
	struct roots roots = { 0 };
	struct scan_options o = { .roots = &roots, .memory = 64 * MIB, .stopper = &stopper, .watch = &watch };
	struct scan_workers *workers;
	struct jail jail;
	int rc;

	assert_int_equal(jail_plan(&jail, mode, err), 0);
	assert_int_equal(roots_add(&roots, in_tree("store"), true, err), 0);
	workers = scan_workers_new(1, &jail, err);
	assert_non_null(workers);
	rc = scan_run(catalog, workers, &o, &result, err);
	scan_workers_free(workers);
	roots_release(&roots);
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* no child is left */
	return rc;
}

static void scan_with(void (*deed)(struct evil *e), enum jail_mode mode)
{
	struct err err = ERR_INIT;

	evil_deed = deed;
	problems[0] = '\0';
	if (scan(mode, &err) < 0)
		fail_msg("%s", err.text);
}

static void assert_read(const char *name, bool whole)
{
	CLEANUP(catalog_image_release) struct catalog_image image = { 0 };

	assert_int_equal(catalog_image_by_path(catalog, in_tree(name), &image, NULL), 1);
	assert_int_equal(image.error == NULL && image.nr_stored == IMAGE_SIZE / BLOCK_SIZE && image.scanned_at, whole);
}

/* As if there had been no scan. */
static void begin_anew(void)
{
	catalog_close(catalog);
	assert_int_equal(nftw(in_tree("catalog"), tree_remove_one, 64, FTW_DEPTH | FTW_PHYS), 0);
	catalog = catalog_open(in_tree("catalog"), true, NULL);
	assert_non_null(catalog);
	atomic_store(nr_starts, 0);
}

/* Files that a scan has removed are closed in the background. */
static void assert_descriptors(unsigned nr)
{
	for (unsigned i = 0; i < 500 && nr_descriptors() > nr; i++)
		nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
	assert_int_equal(nr_descriptors(), nr);
}

/* The first image fails with these words, the second is read; the next scan, by honest readers, reads the first. */
static void assert_costs_its_image(void (*deed)(struct evil *e), const char *words)
{
	unsigned before;

	begin_anew();
	before = nr_descriptors();
	scan_with(deed, JAIL_BEST);
	if (!strstr(problems, words))
		fail_msg("not '%s': %s (%u read, %u failed, %u starts)", words, problems, (unsigned)result.nr_read,
			 (unsigned)result.nr_failed, atomic_load(nr_starts));
	assert_memory_equal(problems, "1.raw: ", 7);
	assert_int_equal(result.nr_failed, 1);
	assert_read("store/1.raw", false);
	assert_read("store/2.raw", true);
	assert_int_equal(atomic_load(nr_starts), 2);
	assert_descriptors(before);
	scan_with(deed, JAIL_BEST);
	assert_string_equal(problems, "");
	assert_read("store/1.raw", true);
}

/* ---- what it tells of the image ---- */

static void two_images(struct evil *e)
{
	good_image(e);
	make_frame(e, 0, 1, 1);
	say_frame(e, 0);
	say_image(e, MIB, 2 * MIB, "raw"); /* in which that frame cannot be */
}

static void the_same_image_twice(struct evil *e)
{
	good_image(e);
	good_image(e);
}

static void endless_span(struct evil *e)
{
	say_image(e, UINT64_MAX, IMAGE_SIZE, "raw");
}

static void no_layer(struct evil *e)
{
	say_image(e, IMAGE_SIZE, 0, "raw");
}

static void crooked_layer(struct evil *e)
{
	say_image(e, IMAGE_SIZE, IMAGE_SIZE + 1, "raw");
}

static void unknown_format(struct evil *e)
{
	say_image(e, IMAGE_SIZE, IMAGE_SIZE, "no such");
}

static void absurd_size(struct evil *e)
{
	e->m.image = (struct worker_image){
		.virtual_size = 1ull << 63, .span = IMAGE_SIZE, .layer = IMAGE_SIZE, .format = "raw"
	};
	say(e, WORKER_IMAGE);
}

static void an_image_that_cannot_be_is_not_believed(void **state)
{
	void (*deeds[])(struct evil *) = { two_images,	  the_same_image_twice, endless_span, no_layer,
					   crooked_layer, unknown_format,	absurd_size };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(deeds); i++)
		assert_costs_its_image(deeds[i], "it told of an image that cannot be");
}

static void texts_without_an_end(struct evil *e)
{
	e->m.image = (struct worker_image){
		.virtual_size = IMAGE_SIZE, .span = IMAGE_SIZE, .layer = IMAGE_SIZE, .format = "raw"
	};
	memset(e->m.image.backing, '\x1b', sizeof(e->m.image.backing));
	memset(e->m.image.features, 0xff, sizeof(e->m.image.features));
	memset(e->m.image.warning, '%', sizeof(e->m.image.warning));
	say(e, WORKER_IMAGE);
	say(e, WORKER_DONE);
}

static void texts_end_all_the_same(void **state)
{
	CLEANUP(catalog_image_release) struct catalog_image image = { 0 };

	(void)state;
	scan_with(texts_without_an_end, JAIL_BEST);
	assert_int_equal(catalog_image_by_path(catalog, in_tree("store/1.raw"), &image, NULL), 1);
	assert_int_equal(strlen(image.backing), IMAGE_NAME_MAX - 1);
	assert_int_equal(strlen(image.features), 255);
	assert_int_equal(strlen(image.warning), 511);
}

/* ---- frames ---- */

static void frame_without_image(struct evil *e)
{
	make_frame(e, 0, 0, 1);
	say_frame(e, 0);
}

static void frame_of_no_slot(struct evil *e)
{
	good_image(e);
	say_frame(e, 0x40000000);
}

static void frame_too_long(struct evil *e)
{
	good_image(e);
	make_frame(e, 0, 0, 1);
	e->shared->slots[0].len = UINT32_MAX;
	say_frame(e, 0);
}

static void frame_of_nothing(struct evil *e)
{
	good_image(e);
	e->shared->slots[1].len = 0;
	say_frame(e, 1);
}

static void frame_of_noise(struct evil *e)
{
	good_image(e);
	make_frame(e, 0, 0, 1);
	memset(e->shared->slots[0].frame, 0xa5, 1000);
	say_frame(e, 0);
}

static void frames_that_cannot_be_are_not_taken(void **state)
{
	void (*deeds[])(struct evil *) = { frame_without_image, frame_of_no_slot, frame_too_long, frame_of_nothing,
					   frame_of_noise };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(deeds); i++)
		assert_costs_its_image(deeds[i], "it handed over what cannot be");
}

static void frame_behind_the_end(struct evil *e)
{
	good_image(e);
	make_frame(e, 0, 1, 2);
	say_frame(e, 0);
}

static void frames_backwards(struct evil *e)
{
	good_image(e);
	make_frame(e, 0, 1, 1);
	say_frame(e, 0);
	make_frame(e, 1, 0, 1);
	say_frame(e, 1);
}

static void frame_with_a_wrong_sum(struct evil *e)
{
	good_image(e);
	make_frame(e, 0, 0, 1);
	e->shared->slots[0].frame[sizeof(struct spool_frame) + 8] ^= 1;
	say_frame(e, 0);
}

static void frames_without_end(struct evil *e)
{
	good_image(e);
	for (unsigned i = 0; i < 10; i++) {
		make_frame(e, i % 2, 0, 0);
		say_frame(e, i % 2);
	}
}

static void frames_are_those_of_the_image(void **state)
{
	(void)state;
	assert_costs_its_image(frame_behind_the_end, "it told of places that cannot be");
	assert_costs_its_image(frames_backwards, "it told of places that cannot be");
	assert_costs_its_image(frame_with_a_wrong_sum, "it handed over what is damaged");
	assert_costs_its_image(frames_without_end, "it went on after its end");
}

enum { FLAG_STARTS, FLAG_WRITING, FLAG_CHANGED };

static void frame_that_changes(struct evil *e)
{
	good_image(e);
	make_frame(e, 0, 0, 1);
	say_frame(e, 0);
	while (!atomic_load(&nr_starts[FLAG_WRITING]))
		;
	memset(e->shared->slots[0].frame, 0xff, 1000);
	atomic_store(&nr_starts[FLAG_CHANGED], 1);
	say(e, WORKER_DONE);
}

static bool changed_under_our_eyes;

/* The moment after a frame was found good: it is about to be written. */
static ssize_t pwrite_and_look(int fd, const void *buf, size_t len, off_t offset)
{
	static uint8_t before[SPOOL_FRAME_MAX];

	if (len > 1000 && memcmp(buf, "DDSF", 4) == 0 && !atomic_load(&nr_starts[FLAG_WRITING])) {
		memcpy(before, buf, len);
		atomic_store(&nr_starts[FLAG_WRITING], 1);
		while (!atomic_load(&nr_starts[FLAG_CHANGED]))
			usleep(100);
		changed_under_our_eyes = memcmp(before, buf, len) != 0;
	}
	return pwrite(fd, buf, len, offset);
}

static void a_frame_that_changes_after_it_was_looked_at_does_no_harm(void **state)
{
	struct file_ops ops = file_ops_os;

	(void)state;
	ops.pwrite = pwrite_and_look;
	file_ops = &ops;
	changed_under_our_eyes = false;
	scan_with(frame_that_changes, JAIL_BEST);
	file_ops = &file_ops_os;
	assert_int_equal(atomic_load(&nr_starts[FLAG_CHANGED]), 1);
	assert_false(changed_under_our_eyes);
}

/* ---- the conversation ---- */

static void no_image(struct evil *e)
{
	say(e, WORKER_DONE);
}

static void done_is_not_said_without_an_image(void **state)
{
	(void)state;
	scan_with(no_image, JAIL_BEST);
	assert_non_null(strstr(problems, "1.raw: the reader said nothing about the image"));
	assert_read("store/1.raw", false);
}

/* What is said too much is the next image's, or nobody's: no image is read half and called whole. */
static void done_twice(struct evil *e)
{
	good_image(e);
	say(e, WORKER_DONE);
	say(e, WORKER_DONE);
}

static void frame_after_done(struct evil *e)
{
	good_image(e);
	say(e, WORKER_DONE);
	make_frame(e, 0, 0, 1);
	say_frame(e, 0);
}

static void what_is_said_after_the_end_belongs_to_no_image(void **state)
{
	void (*deeds[])(struct evil *) = { done_twice, frame_after_done };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(deeds); i++) {
		begin_anew();
		scan_with(deeds[i], JAIL_BEST);
		assert_int_equal(result.nr_read + result.nr_failed, 2);
		assert_true(atomic_load(nr_starts) == 2 || result.nr_failed == 1);
		scan_with(deeds[i], JAIL_BEST);
		assert_read("store/2.raw", true);
	}
}

static void stopped_unasked(struct evil *e)
{
	good_image(e);
	say(e, WORKER_STOPPED);
}

static void a_reader_does_not_stop_unasked(void **state)
{
	(void)state;
	assert_costs_its_image(stopped_unasked, "it stopped unasked");
}

static void one_byte(struct evil *e)
{
	proc_send(e->sock, "\x07", 1, -1, NULL);
}

static void half_an_image(struct evil *e)
{
	uint32_t kind = WORKER_IMAGE;

	proc_send(e->sock, &kind, sizeof(kind), -1, NULL);
}

static void half_an_open(struct evil *e)
{
	e->m.kind = WORKER_OPEN;
	proc_send(e->sock, &e->m, 100, -1, NULL);
}

static void what_the_parent_says(struct evil *e)
{
	say(e, WORKER_JOB);
}

static void no_such_kind(struct evil *e)
{
	say(e, 0xffffffff);
}

static void messages_out_of_turn_and_cut_short_are_not_listened_to(void **state)
{
	void (*deeds[])(struct evil *) = { one_byte, half_an_image, half_an_open, what_the_parent_says, no_such_kind };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(deeds); i++)
		assert_costs_its_image(deeds[i], "it spoke out of turn");
}

static void an_unknown_error(struct evil *e)
{
	memset(&e->m.err, 'x', sizeof(e->m.err));
	e->m.err.kind = 0x7fffffff;
	say(e, WORKER_FAILED);
}

static void an_error_of_no_kind_has_words(void **state)
{
	(void)state;
	scan_with(an_unknown_error, JAIL_BEST);
	assert_memory_equal(problems, "1.raw: xxxx", 11);
	assert_int_equal(strcspn(problems, "\n"), 7 + sizeof(((struct err *)NULL)->text) - 1);
	assert_read("store/1.raw", false);
}

static void with_descriptors(struct evil *e)
{
	e->m.image = (struct worker_image){
		.virtual_size = IMAGE_SIZE, .span = IMAGE_SIZE, .layer = IMAGE_SIZE, .format = "raw"
	};
	e->m.kind = WORKER_IMAGE;
	worker_send(e->sock, &e->m, e->sock, NULL);
	e->m.kind = 99;
	worker_send(e->sock, &e->m, e->sock, NULL);
}

static void descriptors_that_come_along_are_closed(void **state)
{
	(void)state;
	assert_costs_its_image(with_descriptors, "it spoke out of turn"); /* which counts them */
}

/* ---- opening files ---- */

static void ask_for(struct evil *e, const char *name)
{
	memset(&e->m.open, 0, sizeof(e->m.open));
	e->m.open.role = 0xffffff;
	snprintf(e->m.open.name, sizeof(e->m.open.name), "%s", name);
	snprintf(e->m.open.from, sizeof(e->m.open.from), "/x");
	say(e, WORKER_OPEN);
}

static void ask_for_ever(struct evil *e)
{
	int fd;

	for (;;) {
		ask_for(e, "no such file");
		if (proc_recv(e->sock, &e->m, sizeof(e->m), &fd, NULL) <= 0)
			return;
	}
}

static void ask_and_not_listen(struct evil *e)
{
	for (unsigned i = 0; i < 1000; i++)
		ask_for(e, "no such file");
}

static void ask_for_noise(struct evil *e)
{
	int fd;

	memset(&e->m.open, 'A', sizeof(e->m.open));
	say(e, WORKER_OPEN);
	if (proc_recv(e->sock, &e->m, sizeof(e->m), &fd, NULL) > 0 && e->m.kind == WORKER_REFUSED)
		say(e, 98);
}

static void asking_has_an_end(void **state)
{
	(void)state;
	assert_costs_its_image(ask_for_ever, "it names more than 16384 files");
	assert_costs_its_image(ask_and_not_listen, "it does not listen");
	assert_costs_its_image(ask_for_noise, "it spoke out of turn");
}

/* ---- time ---- */

static void spin(struct evil *e)
{
	(void)e;
	for (;;)
		;
}

static uint64_t fast_clock(pid_t pid)
{
	return 100 * leash_clock_real(pid);
}

static void a_reader_that_spins_is_ended(void **state)
{
	(void)state;
	leash_clock = fast_clock;
	scan_with(spin, JAIL_BEST);
	assert_non_null(strstr(problems, " s of CPU for 4 MiB of file: it was stopped as hostile or broken"));
	assert_memory_equal(problems, "1.raw: reading it took ", 23);
	assert_read("store/1.raw", false);
	assert_read("store/2.raw", true);
}

static void wait_for_ever(struct evil *e)
{
	good_image(e);
	for (;;)
		pause();
}

static void *stop_soon(void *arg)
{
	(void)arg;
	usleep(300000);
	atomic_store(&stopper.flag, 1);
	return NULL;
}

/* timeout: 60 */
static void a_reader_that_does_not_stop_is_not_waited_for(void **state)
{
	struct err err = ERR_INIT;
	pthread_t thread;

	(void)state;
	evil_deed = wait_for_ever;
	assert_int_equal(pthread_create(&thread, NULL, stop_soon, NULL), 0);
	assert_int_equal(scan(JAIL_OFF, &err), -1);
	assert_int_equal(err.kind, ERR_CANCELED);
	pthread_join(thread, NULL);
	stopper.flag = 0;
	scan_with(wait_for_ever, JAIL_BEST); /* nothing of it was recorded */
	assert_read("store/1.raw", true);
	assert_read("store/2.raw", true);
}

/* ---- the jail ---- */

static void open_a_file(struct evil *e)
{
	(void)e;
	(void)!open("/etc/passwd", O_RDONLY | O_PATH);
	(void)!execl("/bin/true", "true", NULL); /* the first one is let through to sanitizers, to fail */
}

static void a_reader_that_leaves_its_jail_costs_its_image(void **state)
{
	struct jail jail;

	(void)state;
	if (jail_plan(&jail, JAIL_REQUIRE, NULL) < 0) {
		printf("the kernel has no sandbox\n");
		skip();
	}
	assert_costs_its_image(open_a_file, "the process that read it died (stopped by the sandbox: system call ");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		evil_test(an_image_that_cannot_be_is_not_believed),
		evil_test(texts_end_all_the_same),
		evil_test(frames_that_cannot_be_are_not_taken),
		evil_test(frames_are_those_of_the_image),
		evil_test(a_frame_that_changes_after_it_was_looked_at_does_no_harm),
		evil_test(done_is_not_said_without_an_image),
		evil_test(what_is_said_after_the_end_belongs_to_no_image),
		evil_test(a_reader_does_not_stop_unasked),
		evil_test(messages_out_of_turn_and_cut_short_are_not_listened_to),
		evil_test(an_error_of_no_kind_has_words),
		evil_test(descriptors_that_come_along_are_closed),
		evil_test(asking_has_an_end),
		evil_test(a_reader_that_spins_is_ended),
		evil_test(a_reader_that_does_not_stop_is_not_waited_for),
		evil_test(a_reader_that_leaves_its_jail_costs_its_image),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
