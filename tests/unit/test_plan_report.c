/* SPDX-License-Identifier: Apache-2.0 */
/* Expected outputs lie in tests/unit/plan_report/, found below $SRCDIR or the current directory.  After a change that is
 * meant, UPDATE=1 writes them anew. */
#include "tests/unit/tree_help.h"

#include <locale.h>

#include "reports/json_tree.h"
#include "reports/plan_report.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/base/text.h"
#include "tests/unit/plan_help.h"

/* ---- a plan ---- */

struct sample {
	struct plan plan;
	struct plan_fs fs[2];
	struct plan_image images[6];
	struct plan_step steps[4];
};

static struct plan_image image(const char *path, const char *format, uint64_t used, uint64_t duplicate, uint64_t saving)
{
	return (struct plan_image){
		.id = 7,
		.path = (char *)path,
		.format = (char *)format,
		.identity = { 0xfd02, UINT64_MAX - 5, used + MIB, 1795227000123456789, -1 },
		.size = used + MIB,
		.used = used,
		.stored = used - MIB,
		.duplicate = duplicate,
		.shared = 64 * MIB,
		.zero = 20 * MIB,
		.saving = saving,
		.nr_extents = 321,
	};
}

/* Nothing in it is on the heap. */
static struct plan *sample(struct sample *s)
{
	memset(s, 0, sizeof(*s));
	s->fs[0] = (struct plan_fs){ (char *)"/srv/vm", (char *)"xfs", 0xfd02, 100 * GIB, 5 * GIB, 0, 0, 9 * GIB, NULL };
	s->fs[1] = (struct plan_fs){ (char *)"/old", (char *)"ext4", 0xfd03, 50 * GIB, GIB, 0, 0, 0,
				     (char *)"it cannot share extents" };
	s->images[0] = image("/old/mail.raw", "raw", 8 * GIB, 2 * GIB, 0);
	s->images[0].fs = 1;
	s->images[1] = image("/srv/vm/db.vhd", "vhd", 6 * GIB, 4 * GIB, 4 * GIB);
	s->images[1].misaligned = 5 * GIB;
	s->images[2] = image("/srv/vm/live.qcow2", "qcow2", 3 * GIB, GIB, 0);
	s->images[2].why_not = (char *)"it is in use by pid 4711 (qemu-system-x86)";
	s->images[3] = image("/srv/vm/web-01.qcow2", "qcow2", 5 * GIB, 300 * MIB, 0);
	s->images[4] = image("/srv/vm/web-02.qcow2", "qcow2", 5 * GIB, 5 * GIB, 4800 * MIB);
	s->images[4].short_runs = 120 * MIB;
	s->images[4].pinned = 80 * MIB;
	s->images[5] = image("/srv/vm/web-03.raw", "raw", 2 * GIB, 300 * MIB, 320 * MIB);
	s->steps[0] = (struct plan_step){ .image = 4, .saving = 4800 * MIB, .work = 5 * GIB, .nr_runs = 900 };
	s->steps[1] = (struct plan_step){ .image = 5, .method = PLAN_HOLES, .saving = 320 * MIB, .work = 400 * MIB, .nr_runs = 30 };
	s->steps[2] = (struct plan_step){ .image = 1, .method = PLAN_RELAYOUT, .work = 6 * GIB, .space = 6 * GIB, .later = true };
	s->steps[3] = (struct plan_step){ .image = 1, .saving = 4 * GIB, .work = 4 * GIB, .later = true, .nr_runs = 700 };
	s->plan = (struct plan){
		.images = s->images, .nr_images = 6, .steps = s->steps, .nr_steps = 4, .file_systems = s->fs, .nr_file_systems = 2,
		.min_run = 16 * KIB, .keep_originals = 7 * 86400, .saving = 9216 * MIB, .saving_later = 4 * GIB, .rate = 100 * MIB,
		.work = 15 * GIB + 400 * MIB, .taken_at = 1795227891, .complete = true,
	};
	return &s->plan;
}

/* The same when it was carried out: one step was stopped, one did not find its image alone. */
static struct plan *applied_sample(struct sample *s)
{
	struct plan *p = sample(s);

	p->applied = true;
	p->nr_seconds = 4321;
	p->peak_memory = 90 * MIB;
	s->fs[0].free_before = 5 * GIB;
	s->fs[0].free_after = 5 * GIB - 334 * MIB;
	s->steps[0].state = PLAN_DONE;
	s->steps[0].worked = 5 * GIB;
	s->steps[0].shared = 4790 * MIB;
	s->steps[0].nr_differed = 3;
	s->steps[1].state = PLAN_SKIPPED;
	s->steps[1].why = (char *)"it is in use by pid 4712 (qemu-system-x86)";
	s->steps[2].state = PLAN_DONE;
	s->steps[2].worked = 6 * GIB;
	s->steps[3].state = PLAN_PARTLY;
	s->steps[3].worked = GIB;
	s->steps[3].shared = 1020 * MIB;
	return p;
}

static const struct report_options usual = { .utf8 = true };

static char *table(const struct plan *p, struct report_options o)
{
	char *text = plan_table(p, &o);

	assert_non_null(text);
	return text;
}

static char *slurp(const char *path)
{
	char *text = calloc(1, 1 << 16);
	FILE *f = fopen(path, "r");

	if (f) {
		assert_true(fread(text, 1, (1 << 16) - 1, f) < (1 << 16) - 1);
		fclose(f);
	}
	return text;
}

static void expect_golden(const char *file, char *text)
{
	const char *root = getenv("SRCDIR");
	char path[4096], *want;

	assert_non_null(text);
	snprintf(path, sizeof(path), "%s/tests/unit/plan_report/%s", root ? root : ".", file);
	if (getenv("UPDATE")) {
		FILE *f = fopen(path, "w");

		fputs(text, f);
		fclose(f);
	}
	want = slurp(path);
	assert_string_equal(text, want);
	free(want);
	free(text);
}

static void expect_has(char *text, const char *what)
{
	if (!strstr(text, what))
		fail_msg("'%s' is missing in:\n%s", what, text);
	free(text);
}

static void expect_has_not(char *text, const char *what)
{
	if (strstr(text, what))
		fail_msg("'%s' is in:\n%s", what, text);
	free(text);
}

/* ---- how it looks ---- */

static void a_plan_looks_as_expected(void **state)
{
	struct sample s;

	(void)state;
	expect_golden("plan.txt", table(sample(&s), usual));
}

static void what_came_of_it_looks_as_expected(void **state)
{
	struct sample s;

	(void)state;
	expect_golden("applied.txt", table(applied_sample(&s), usual));
}

static void exact_bytes_are_shown(void **state)
{
	struct sample s;

	(void)state;
	expect_golden("plan_bytes.txt", table(sample(&s), (struct report_options){ .utf8 = true, .exact = true }));
}

static void json_looks_as_expected(void **state)
{
	struct sample s;

	(void)state;
	expect_golden("plan.json", plan_json(sample(&s)));
}

static void expect_no_line_longer_than(char *text, size_t width)
{
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
		if (strlen(line) > width)
			fail_msg("%zu columns: %s", strlen(line), line);
	}
	free(text);
}

static void a_narrow_terminal_is_kept_to(void **state)
{
	struct sample s;
	struct plan *p = sample(&s);

	(void)state;
	s.fs[1].why_not = s.images[2].why_not = NULL;
	expect_no_line_longer_than(table(p, (struct report_options){ .width = 80 }), 80);
	p = applied_sample(&s);
	s.fs[1].why_not = s.images[2].why_not = s.steps[1].why = NULL;
	expect_no_line_longer_than(table(p, (struct report_options){ .width = 80 }), 80);
	expect_has(table(p, (struct report_options){ .width = 70 }), " 4.7G ");
	expect_has(table(p, (struct report_options){ .width = 200 }), " 4.7 GiB ");
}

static void no_line_ends_in_blanks(void **state)
{
	struct sample s;

	(void)state;
	expect_has_not(table(sample(&s), usual), " \n");
	expect_has_not(table(applied_sample(&s), usual), " \n");
}

static void hostile_texts_break_no_line_and_no_terminal(void **state)
{
	char evil[] = "/v/\n\033[2J\u202e\xff%n", want[] = "/v/\\x0a\\x1b[2J\\u202e\\xff%n";
	struct sample s;
	struct plan *p = applied_sample(&s);
	char *text, *again;
	size_t nr = 0;

	(void)state;
	s.fs[0].path = s.fs[0].type = s.fs[1].why_not = s.images[2].path = s.images[2].format = s.images[2].why_not = evil;
	s.images[1].path = s.images[1].format = s.steps[1].why = evil;
	text = table(p, usual);
	assert_true(text_is_utf8(text));
	for (const char *c = text; *c; c++)
		assert_true(*c == '\n' || (unsigned char)*c >= 0x20);
	assert_null(strstr(text, "\u202e"));
	for (again = text; (again = strstr(again, want)); again++)
		nr++;
	/* 2 of file systems; 2 of steps and 1 reason; the image left alone and its reason; 1 of what is not saved */
	assert_int_equal(nr, 8);
	free(text);
}

static void without_utf8_it_is_ascii(void **state)
{
	struct sample s;
	struct plan *p = sample(&s);
	char *text;

	(void)state;
	s.images[4].path = (char *)"/srv/vm/\u00dcbung";
	text = table(p, (struct report_options){ .utf8 = false });
	for (const char *c = text; *c; c++)
		assert_true((unsigned char)*c < 0x7f);
	expect_has(text, "/srv/vm/\\u00dcbung\n");
}

/* ---- what is said ---- */

static void nothing_to_do_is_said(void **state)
{
	struct plan none = { .complete = true };
	struct sample s;
	struct plan *p = sample(&s);

	(void)state;
	expect_has(table(&none, usual), "No disk images found.\n");
	p->nr_steps = 0;
	p->saving = p->saving_later = p->work = 0;
	expect_has(table(p, usual), "; nothing is left to save.\n");
	expect_has_not(table(p, usual), "--apply");
}

static void an_incomplete_scan_is_told(void **state)
{
	struct sample s;
	struct plan *p = sample(&s);

	(void)state;
	expect_has_not(table(p, usual), "INCOMPLETE");
	p->complete = false;
	expect_has(table(p, usual), "INCOMPLETE: a scan was stopped");
}

static void what_a_step_makes_of_an_image_is_told_unless_it_was_not_done(void **state)
{
	struct sample s;
	struct plan *p = sample(&s);

	(void)state;
	expect_has_not(table(p, usual), "NOTE");
	s.steps[1].note = (char *)"it becomes something else";
	expect_has(table(p, usual), "STEP  NOTE");
	expect_has(table(p, usual), "  /srv/vm/web-03.raw: it becomes something else\n");
	p = applied_sample(&s);
	s.steps[1].note = (char *)"it becomes something else"; /* and was skipped */
	expect_has_not(table(p, usual), "NOTE");
	s.steps[1].state = PLAN_DONE;
	expect_has(table(p, usual), "it becomes something else\n");
}

static void what_was_folded_into_the_pool_is_told(void **state)
{
	struct sample s;
	struct plan *p = applied_sample(&s);

	(void)state;
	expect_has_not(table(p, usual), "pool");
	p->nr_folded = 1;
	expect_has(table(p, usual), "1 sealed overlay entered the pool, which stored 0 B of it.\n");
	p->nr_folded = 2;
	p->folded = 3 * MIB;
	expect_has(table(p, usual), "2 sealed overlays entered the pool, which stored 3.0 MiB of them.\n");
	p->pool_in_use = true;
	expect_has(table(p, usual), "The pool was in use");
	expect_has_not(table(p, usual), "stays sealed");
	p->unfolded = true;
	expect_has(table(p, usual), "Some of what versions sealed was NOT folded into the pool, and stays sealed.\n");
}

static void that_less_comes_back_is_told(void **state)
{
	struct sample s;
	struct plan *p = sample(&s);

	(void)state;
	expect_has_not(table(p, usual), "LESS");
	p->several_files = true;
	expect_has(table(p, usual), "\nLESS comes back: the pool begins another cluster file meanwhile");
}

static void an_unknown_rate_tells_no_time(void **state)
{
	struct sample s;
	struct plan *p = sample(&s);

	(void)state;
	expect_has(table(p, usual), "compared or copied, in about 2 min.");
	p->rate = 0;
	expect_has(table(p, usual), "compared or copied.\n");
}

/* 4800 and 320 MiB are free again when the 6 GiB are needed. */
static void space_is_what_is_needed_beyond_what_was_saved_by_then(void **state)
{
	struct sample s;
	struct plan *p = sample(&s);
	struct plan_step first;

	(void)state;
	expect_has(table(p, usual), "\nAt most 1.0 GiB of free space are needed");
	first = s.steps[2];
	s.steps[2] = s.steps[0];
	s.steps[0] = first;
	expect_has(table(p, usual), "\nAt most 6.0 GiB of free space are needed");
	expect_has(table(p, usual), "More free space is NEEDED than there is");
	s.fs[0].free = 6 * GIB;
	expect_has_not(table(p, usual), "More free space is NEEDED");
}

static void originals_keep_the_space_of_later_steps(void **state)
{
	struct sample s;
	struct plan *p = sample(&s);

	(void)state;
	s.steps[0] = s.steps[2];
	s.steps[1] = s.steps[2];
	p->nr_steps = 2;
	expect_has(table(p, usual), "\nAt most 12.0 GiB of free space are needed");
	s.steps[0].later = s.steps[1].later = false;
	expect_has(table(p, usual), "\nAt most 6.0 GiB of free space are needed");
}

static void what_was_given_back_is_compared_with_what_was_done(void **state)
{
	struct sample s;
	struct plan *p = applied_sample(&s);

	(void)state;
	/* 4800 MiB and a quarter of 4 GiB were predicted; 334 MiB less are free, but 6 GiB - 64 MiB are in the trash */
	expect_has(table(p, usual), "xfs            5.7 GiB    -334 MiB   5.9 GiB        98.7 %  /srv/vm\n");
	s.fs[0].free_after = 6 * GIB;
	expect_has(table(p, usual), "xfs            5.7 GiB     1.0 GiB   5.9 GiB       122.0 %  /srv/vm\n");
	p->keep_originals = 0;
	s.fs[0].free_after = 5 * GIB + 5800 * MIB;
	expect_has(table(p, usual), "xfs            5.7 GiB     5.7 GiB       0 B        99.6 %  /srv/vm\n");
}

static void what_to_do_next_is_told(void **state)
{
	const char *end = "\nPLANNED  2026-11-21T02:24:51Z\n";
	struct sample s;
	struct plan *p = sample(&s);
	char *text;

	(void)state;
	expect_has(table(p, usual), "With --apply it is carried out");
	p = applied_sample(&s);
	expect_has_not(table(p, usual), "With --apply");
	expect_has(table(p, usual), "goes on with what is left");
	expect_has(table(p, usual), "recover --undo PATH");
	for (size_t i = 0; i < p->nr_steps; i++)
		s.steps[i].state = PLAN_DONE;
	expect_has_not(table(p, usual), "goes on with what is left");
	p->keep_originals = 0;
	expect_has_not(table(p, usual), "recover");
	expect_has_not(table(p, usual), "\n\n\n");
	text = table(p, usual);
	assert_string_equal(text + strlen(text) - strlen(end), end); /* and nothing is told */
	free(text);
}

static void the_largest_numbers_do_not_wrap(void **state)
{
	struct sample s;
	struct plan *p = sample(&s);

	(void)state;
	for (size_t i = 0; i < p->nr_steps; i++)
		s.steps[i].space = s.steps[i].saving = UINT64_MAX;
	for (size_t i = 0; i < p->nr_images; i++)
		s.images[i].used = s.images[i].misaligned = (uint64_t)1 << 63;
	p->saving_later = UINT64_MAX; /* more than all */
	expect_has(table(p, usual), "take 16.0 EiB of disk space");
	expect_has(table(p, usual), "\n0 B at once, 9.0 GiB when");
}

/* ---- reading back ---- */

static void expect_round_trip(const struct plan *p)
{
	char *text = plan_json(p), *again;
	struct plan back = { .images = NULL };
	struct err err = ERR_INIT;

	assert_non_null(text);
	if (plan_parse(text, strlen(text), &back, &err) < 0)
		fail_msg("%s\n%s", err.text, text);
	again = plan_json(&back);
	assert_string_equal(again, text);
	plan_release(&back);
	free(text);
	free(again);
}

static void what_is_read_is_what_was_written(void **state)
{
	const char *rounds = getenv("LONG");
	struct sample s;

	(void)state;
	expect_round_trip(sample(&s));
	expect_round_trip(applied_sample(&s));
	for (uint64_t i = 0; i < (rounds && *rounds ? 50000 : 500); i++) {
		struct plan_source source = { .next = plan_random, .state = i };
		struct plan p = plan_any(&source);

		expect_round_trip(&p);
		plan_release(&p);
	}
}

static void every_member_comes_back(void **state)
{
	struct sample s;
	struct plan *p = applied_sample(&s), back;
	char *text = plan_json(p);
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(plan_parse(text, strlen(text), &back, &err), 0);
	free(text);
	assert_int_equal(back.taken_at, 1795227891);
	assert_int_equal(back.keep_originals, 7 * 86400);
	assert_true(back.complete && back.applied);
	assert_int_equal(back.saving_later, 4 * GIB);
	assert_int_equal(back.nr_images, 6);
	assert_int_equal(back.nr_steps, 4);
	assert_int_equal(back.images[1].misaligned, 5 * GIB);
	assert_true(spool_identity_equal(&back.images[2].identity, &s.images[2].identity));
	assert_string_equal(back.images[2].why_not, s.images[2].why_not);
	assert_int_equal(back.images[0].fs, 1);
	assert_int_equal(back.steps[2].method, PLAN_RELAYOUT);
	assert_int_equal(back.steps[3].state, PLAN_PARTLY);
	assert_true(back.steps[3].later);
	assert_int_equal(back.steps[3].image, 1);
	assert_int_equal(back.steps[0].nr_differed, 3);
	assert_int_equal(back.file_systems[1].dev, 0xfd03);
	assert_int_equal(back.file_systems[0].free_after, 5 * GIB - 334 * MIB);
	plan_release(&back);
}

static void paths_come_back_byte_by_byte(void **state)
{
	static const char *const paths[] = { "/\xff/\x01\n", "/a\xed\xa0\x80", "/v/\\xff", "/\u00dc" };
	struct sample s;
	struct plan *p = sample(&s), back;

	(void)state;
	p->nr_images = 1;
	p->nr_steps = 0;
	for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
		char *text;

		s.images[0].path = (char *)paths[i];
		text = plan_json(p);
		assert_int_equal(plan_parse(text, strlen(text), &back, NULL), 0);
		assert_string_equal(back.images[0].path, paths[i]);
		plan_release(&back);
		free(text);
	}
}

/* Reads a good plan in which the first `from` is `to`. */
static struct err read_changed(const char *from, const char *to)
{
	struct sample s;
	char *text = plan_json(applied_sample(&s)), *at = strstr(text, from), *changed;
	struct plan back = { .min_run = 77 };
	struct err err = ERR_INIT;

	if (!at)
		fail_msg("there is no %s in:\n%s", from, text);
	assert_true(asprintf(&changed, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from)) > 0);
	if (plan_parse(changed, strlen(changed), &back, &err) == 0)
		plan_release(&back);
	else
		assert_int_equal(back.min_run, 77); /* as it was */
	free(text);
	free(changed);
	return err;
}

static void expect_refused(const char *from, const char *to, enum err_kind kind, const char *message)
{
	struct err err = read_changed(from, to);

	if (err.kind != kind || !strstr(err.text, message) || strncmp(err.text, "plan 'p.json': ", 15) != 0)
		fail_msg("'%s' for '%s' gives %s: %s", to, from, err_kind_name(err.kind), err.text);
}

static void what_is_wrong_is_named_with_its_line(void **state)
{
	(void)state;
	assert_int_equal(read_changed("\"saving\"", "\"saving\"").kind, ERR_NONE);
	expect_refused("\"min_run\": 16384", "\"min_run\": \"16384\"", ERR_FORMAT, "line 7: 'min_run' must be an integer");
	expect_refused("\"min_run\": 16384", "\"min_run\": 16384.0", ERR_FORMAT, "'min_run' must be an integer");
	expect_refused("\"min_run\": 16384", "\"min_run\": -1", ERR_FORMAT, "line 7: 'min_run' must not be negative");
	expect_refused("\"min_run\": 16384", "\"min_run\": null", ERR_FORMAT, "'min_run' must be an integer");
	expect_refused("\"min_run\": 16384", "\"min_run\": 9223372036854775808", ERR_FORMAT, "line 7: too big integer");
	expect_refused("\"min_run\"", "\"max_run\"", ERR_FORMAT, "line 1: 'min_run' is missing");
	expect_refused("\"keep_originals\": 604800", "\"keep_originals\": -7", ERR_FORMAT, "line 6: 'keep_originals' must not be");
	expect_refused("\"complete\": true", "\"complete\": 1", ERR_FORMAT, "line 4: 'complete' must be true or false");
	expect_refused("\"later\": false", "\"later\": null", ERR_FORMAT, "'steps[0].later' must be true or false");
	expect_refused("\"reflink\"", "\"shred\"", ERR_UNSUPPORTED, "'steps[0].method' is 'shred', which is not known");
	expect_refused("\"skipped\"", "\"Skipped\"", ERR_UNSUPPORTED, "'steps[1].state' is 'Skipped'");
	expect_refused("\"file_systems\": [", "\"file_systems\": 3, \"x\": [", ERR_FORMAT, "'file_systems' must be an array");
	expect_refused("\"identity\": {", "\"identity\": 3, \"x\": {", ERR_FORMAT, "'images[0].identity' must be an object");
	expect_refused("\"images\": [", "\"images\": [ 3,", ERR_FORMAT, "'images[0]' must be an object");
	expect_refused("\"path\": \"/srv/vm/db.vhd\"", "\"path\": null", ERR_FORMAT, "'images[1].path' must be a string");
	expect_refused("\"path\": \"/srv/vm/db.vhd\"", "\"path\": \"\"", ERR_FORMAT, "'images[1].path' is empty");
	expect_refused("\"/srv/vm/db.vhd\"", "\"/srv/vm/z\"", ERR_FORMAT, "'images[2].path' is not in order");
}

static void what_older_programs_did_not_know_may_be_missing(void **state)
{
	(void)state;
	assert_int_equal(read_changed("\"nr_folded\"", "\"x\"").kind, ERR_NONE);
	assert_int_equal(read_changed("\"pool_in_use\"", "\"x\"").kind, ERR_NONE);
	assert_int_equal(read_changed("\"unfolded\"", "\"x\"").kind, ERR_NONE);
	assert_int_equal(read_changed("\"note\"", "\"x\"").kind, ERR_NONE);
	expect_refused("\"nr_folded\": 0", "\"nr_folded\": null", ERR_FORMAT, "'nr_folded' must be an integer");
	expect_refused("\"pool_in_use\": false", "\"pool_in_use\": 0", ERR_FORMAT, "'pool_in_use' must be true or false");
	assert_int_equal(read_changed("\"several_files\"", "\"x\"").kind, ERR_NONE);
	expect_refused("\"several_files\": false", "\"several_files\": 0", ERR_FORMAT, "'several_files' must be true or false");
	expect_refused("\"unfolded\": false", "\"unfolded\": 0", ERR_FORMAT, "'unfolded' must be true or false");
	expect_refused("\"note\": null", "\"note\": 1", ERR_FORMAT, "'steps[0].note' must be a string");
}

static void indices_lead_nowhere_else(void **state)
{
	(void)state;
	expect_refused("\"image\": 4", "\"image\": 6", ERR_FORMAT, "'steps[0].image' is out of range: there are 6 of them");
	expect_refused("\"image\": 4", "\"image\": -1", ERR_FORMAT, "'steps[0].image' must not be negative");
	expect_refused("\"file_system\": 1", "\"file_system\": 2", ERR_FORMAT, "'images[0].file_system' is out of range");
	assert_int_equal(read_changed("\"image\": 4", "\"image\": 5").kind, ERR_NONE);
}

static void identities_are_digits(void **state)
{
	static const char *const wrong[] = { "18446744073709551616", "", "-1", "+1", " 1", "1 ", "01", "0x1", "1e3" };
	static const char *const wrong_signed[] = { "9223372036854775808", "-", "-0", "--1", "-9223372036854775809" };
	char to[64];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		snprintf(to, sizeof(to), "\"dev\": \"%s\"", wrong[i]);
		expect_refused("\"dev\": \"64770\"", to, ERR_FORMAT, "'file_systems[0].dev' must be a string of digits");
	}
	for (size_t i = 0; i < ARRAY_SIZE(wrong_signed); i++) {
		snprintf(to, sizeof(to), "\"ctime\": \"%s\"", wrong_signed[i]);
		expect_refused("\"ctime\": \"-1\"", to, ERR_FORMAT, "'images[0].identity.ctime' must be a string of digits");
	}
	expect_refused("\"dev\": \"64770\"", "\"dev\": 64770", ERR_FORMAT, "'file_systems[0].dev' must be a string");
	assert_int_equal(read_changed("\"dev\": \"64770\"", "\"dev\": \"18446744073709551615\"").kind, ERR_NONE);
	assert_int_equal(read_changed("\"ctime\": \"-1\"", "\"ctime\": \"-9223372036854775808\"").kind, ERR_NONE);
}

static void times_are_times(void **state)
{
	static const char *const wrong[] = { "\"2026-11-21\"", "\"2026-11-21T02:24:51\"", "\"2026-11-21T02:24:51Z \"",
					     "\"2026-02-31T02:24:51Z\"", "\"\"", "1795227891", "\" 2026-11-21T02:24:51Z\"" };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
		expect_refused("\"2026-11-21T02:24:51Z\"", wrong[i], ERR_FORMAT, "line 3: 'taken_at' must be a ");
	assert_int_equal(read_changed("\"2026-11-21T02:24:51Z\"", "null").kind, ERR_NONE);
}

static void another_version_is_told(void **state)
{
	(void)state;
	expect_refused("\"dedupscan_plan\": 1", "\"dedupscan_plan\": 2", ERR_UNSUPPORTED, "a newer dedupscan made it");
	expect_refused("\"dedupscan_plan\": 1", "\"dedupscan_plan\": 0", ERR_FORMAT, "must be at least 1");
	expect_refused("\"dedupscan_plan\"", "\"dedupscan_report\"", ERR_FORMAT, "'dedupscan_plan' is missing");
	/* members may be added */
	assert_int_equal(read_changed("\"min_run\"", "\"new\": [ { \"x\": 1 } ], \"min_run\"").kind, ERR_NONE);
}

/* Nobody reads one path in a plan and has another changed. */
static void two_forms_of_a_text_must_agree(void **state)
{
	const char *path = "\"path\": \"/old/mail.raw\"";

	(void)state;
	assert_int_equal(read_changed(path, "\"path\": \"/old/\\\\xff\", \"path_bytes\": \"2f6f6c642fff\"").kind, ERR_NONE);
	expect_refused(path, "\"path\": \"/old/\\\\xfe\", \"path_bytes\": \"2f6f6c642fff\"", ERR_FORMAT,
		       "'images[0].path_bytes' does not say the same");
	expect_refused(path, "\"path\": \"/old/a\", \"path_bytes\": \"2f6f6c642f61\"", ERR_FORMAT, "does not say the same");
	expect_refused(path, "\"path\": \"/old/a\", \"path_bytes\": \"2f6f6c642f6\"", ERR_FORMAT, "must be bytes in hex");
	expect_refused(path, "\"path\": \"/old/\\\\xff\", \"path_bytes\": \"2F6f6c642fff\"", ERR_FORMAT, "must be bytes in hex");
	expect_refused(path, "\"path\": \"/old/\\\\xff\", \"path_bytes\": \"2f6f6c642fff00\"", ERR_FORMAT, "none of them 00");
	expect_refused(path, "\"path\": \"/old/\\\\xff\", \"path_bytes\": null", ERR_FORMAT,
		       "'images[0].path_bytes' must be a string");
}

static void what_json_forbids_or_hides_is_refused(void **state)
{
	const char *path = "\"path\": \"/old/mail.raw\"";

	(void)state;
	expect_refused(path, "\"path\": \"/old/\\u0000mail.raw\"", ERR_FORMAT, "line ");
	expect_refused(path, "\"path\": \"/a\", \"path\": \"/old/mail.raw\"", ERR_FORMAT, "duplicate");
	expect_refused(path, "\"path\": \"/old/\xff\"", ERR_FORMAT, "line ");
	expect_refused("\"complete\": true,", "\"complete\": true, // hm\n", ERR_FORMAT, "line 4: ");
	expect_refused("{\n", "[ 1 ] {\n", ERR_FORMAT, "line 1: ");
}

static void expect_text_refused(const char *text, size_t len, const char *message)
{
	struct err err = ERR_INIT;
	struct plan p;

	assert_int_equal(plan_parse(text, len, &p, &err), -1);
	if (err.kind != ERR_FORMAT || !strstr(err.text, message))
		fail_msg("%s: %s", err_kind_name(err.kind), err.text);
}

static void what_is_no_plan_is_refused(void **state)
{
	char *deep = malloc(1 << 20);

	(void)state;
	expect_text_refused("", 0, "line 1: ");
	expect_text_refused("3", 1, "line 1: ");
	expect_text_refused("[]", 2, "it is no JSON object");
	expect_text_refused("{}", 2, "line 1: 'dedupscan_plan' is missing");
	expect_text_refused("{}\0", 3, "line 1: ");
	expect_text_refused("{\"dedupscan_plan\": \"[[[[[[[[[[[[[[[[[[[[[[[\"}", 45, "must be an integer");
	memset(deep, '[', 1 << 20);
	memcpy(deep, "\n\n", 2);
	expect_text_refused(deep, 1 << 20, "line 3: it is nested more than 16 deep");
	free(deep);
}

/* "{\"a\":[0,0,0,..." without end, or blanks */
struct endless {
	bool blanks;
	uint64_t at;
};

static ssize_t read_endless(void *cookie, char *buf, size_t size)
{
	struct endless *e = cookie;

	memset(buf, ' ', size);
	for (size_t i = 0; i < size && !e->blanks; i++, e->at++)
		buf[i] = e->at < 5 ? "{\"a\":["[e->at] : e->at == 5 ? '[' : "0,"[e->at % 2];
	if (!e->blanks && e->at >= 64 * MIB)
		return 0;
	return (ssize_t)size;
}

static void expect_endless_refused(bool blanks, const char *message)
{
	struct endless e = { .blanks = blanks };
	FILE *in = fopencookie(&e, "r", (cookie_io_functions_t){ .read = read_endless });
	struct err err = ERR_INIT;
	struct plan p;

	assert_int_equal(plan_read(in, "p.json", &p, &err), -1);
	assert_int_equal(err.kind, ERR_FORMAT);
	if (!strstr(err.text, message))
		fail_msg("%s", err.text);
	fclose(in);
}

static void what_is_too_large_costs_no_more_than_that(void **state)
{
	(void)state;
	expect_endless_refused(true, "it is larger than 256 MiB");
	expect_endless_refused(false, "it has more than 16777216 values");
}

static ssize_t read_nothing(void *cookie, char *buf, size_t size)
{
	(void)cookie;
	(void)buf;
	(void)size;
	errno = EIO;
	return -1;
}

static void a_failure_to_read_is_no_empty_plan(void **state)
{
	FILE *in = fopencookie(NULL, "r", (cookie_io_functions_t){ .read = read_nothing });
	struct err err = ERR_INIT;
	struct plan p;

	(void)state;
	assert_int_equal(plan_read(in, "p.json", &p, &err), -1);
	assert_int_equal(err.kind, ERR_IO);
	assert_int_equal(err.errnum, EIO);
	fclose(in);
}

/* Every beginning of a plan is refused, and where a byte is changed nothing worse happens than that it is read. */
static void damaged_plans_do_no_harm(void **state)
{
	struct sample s;
	char *text = plan_json(applied_sample(&s));
	size_t len = strlen(text) - 1; /* without the line feed */
	struct plan p;

	(void)state;
	for (size_t n = 0; n < len; n += 7)
		assert_int_equal(plan_parse(text, n, &p, NULL), -1);
	for (size_t n = 0; n < len; n += 11) {
		char old = text[n];

		text[n] = (char)(old ^ (1 << n % 8));
		if (plan_parse(text, len, &p, NULL) == 0)
			plan_release(&p);
		text[n] = old;
	}
	assert_int_equal(plan_parse(text, len, &p, NULL), 0);
	plan_release(&p);
	free(text);
}

/* ---- files ---- */

static int no_rename(int from_dirfd, const char *from, int to_dirfd, const char *to, unsigned flags)
{
	(void)flags;
	(void)from_dirfd;
	(void)from;
	(void)to_dirfd;
	(void)to;
	errno = EIO;
	return -1;
}

static void a_file_appears_whole_or_not_at_all(void **state)
{
	struct file_ops ops = file_ops_os;
	struct sample s;
	struct plan *p = sample(&s), back;
	struct err err = ERR_INIT;
	const char *path = in_tree("plan.json");
	char *text;
	FILE *in;

	(void)state;
	assert_int_equal(plan_write_file(path, p, &err), 0);
	p->min_run = 77;
	ops.renameat2 = no_rename;
	file_ops = &ops;
	assert_int_equal(plan_write_file(path, p, &err), -1);
	file_ops = &file_ops_os;
	assert_int_equal(strncmp(err.text, "cannot write the plan '", 23), 0);
	in = fopen(path, "r");
	assert_int_equal(plan_read(in, path, &back, &err), 0);
	fclose(in);
	assert_int_equal(back.min_run, 16 * KIB);
	plan_release(&back);
	text = slurp(path);
	assert_true(text[0] == '{');
	free(text);
}

static int make_dir(void **state)
{
	setlocale(LC_CTYPE, "C.UTF-8");
	return tree_make(state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_plan_looks_as_expected),
		cmocka_unit_test(what_came_of_it_looks_as_expected),
		cmocka_unit_test(exact_bytes_are_shown),
		cmocka_unit_test(json_looks_as_expected),
		cmocka_unit_test(a_narrow_terminal_is_kept_to),
		cmocka_unit_test(no_line_ends_in_blanks),
		cmocka_unit_test(hostile_texts_break_no_line_and_no_terminal),
		cmocka_unit_test(without_utf8_it_is_ascii),
		cmocka_unit_test(nothing_to_do_is_said),
		cmocka_unit_test(an_incomplete_scan_is_told),
		cmocka_unit_test(what_a_step_makes_of_an_image_is_told_unless_it_was_not_done),
		cmocka_unit_test(what_was_folded_into_the_pool_is_told),
		cmocka_unit_test(that_less_comes_back_is_told),
		cmocka_unit_test(an_unknown_rate_tells_no_time),
		cmocka_unit_test(space_is_what_is_needed_beyond_what_was_saved_by_then),
		cmocka_unit_test(originals_keep_the_space_of_later_steps),
		cmocka_unit_test(what_was_given_back_is_compared_with_what_was_done),
		cmocka_unit_test(what_to_do_next_is_told),
		cmocka_unit_test(the_largest_numbers_do_not_wrap),
		cmocka_unit_test(what_is_read_is_what_was_written),
		cmocka_unit_test(every_member_comes_back),
		cmocka_unit_test(paths_come_back_byte_by_byte),
		cmocka_unit_test(what_is_wrong_is_named_with_its_line),
		cmocka_unit_test(what_older_programs_did_not_know_may_be_missing),
		cmocka_unit_test(indices_lead_nowhere_else),
		cmocka_unit_test(identities_are_digits),
		cmocka_unit_test(times_are_times),
		cmocka_unit_test(another_version_is_told),
		cmocka_unit_test(two_forms_of_a_text_must_agree),
		cmocka_unit_test(what_json_forbids_or_hides_is_refused),
		cmocka_unit_test(what_is_no_plan_is_refused),
		cmocka_unit_test(what_is_too_large_costs_no_more_than_that),
		cmocka_unit_test(a_failure_to_read_is_no_empty_plan),
		cmocka_unit_test(damaged_plans_do_no_harm),
		cmocka_unit_test(a_file_appears_whole_or_not_at_all),
	};

	return cmocka_run_group_tests(tests, make_dir, tree_remove);
}
