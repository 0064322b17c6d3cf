/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include <time.h>

#include "compactor/member.h"
#include "compactor/versions_parts.h"

/* Lists, deletions and pruning: names alone, without data. */

static struct pool pool;
static struct err err;

static int make(void **state)
{
	static const char *const dirs[] = { "names", "sealed", "quarantine" };
	static const enum pool_dir which[] = { POOL_NAMES, POOL_SEALED, POOL_QUARANTINE };

	setenv("TZ", "UTC", 1);
	tzset();
	err = ERR_INIT;
	if (tree_make(state) < 0)
		return -1;
	pool = (struct pool){ .path = (char *)"/pool", .writing = true };
	for (size_t i = 0; i < 3; i++) {
		mkdir(in_tree(dirs[i]), 0700);
		pool.dirs[which[i]] = open(in_tree(dirs[i]), O_RDONLY | O_DIRECTORY);
	}
	return 0;
}

static int unmake(void **state)
{
	names_forget(&pool);
	close(pool.dirs[POOL_NAMES]);
	close(pool.dirs[POOL_SEALED]);
	close(pool.dirs[POOL_QUARANTINE]);
	return tree_remove(state);
}

#define kept_test(f) cmocka_unit_test_setup_teardown(f, make, unmake)

/* ---- names ---- */

/* sealed, below: one byte of an id, 0 = none. */
static uint64_t add(enum name_kind kind, const char *label, const char *paths, int64_t made, uint8_t sealed, uint8_t below,
		    bool folded)
{
	struct name n = { .kind = kind, .made = made };
	char copy[256], *p = copy;

	snprintf(n.label, sizeof(n.label), "%s", label);
	snprintf(copy, sizeof(copy), "%s", paths);
	for (char *path; (path = strsep(&p, " "));) {
		struct name_disk d = { .size = 1 << 20, .folded = folded, .view = { 9 }, .sealed = { sealed }, .below = { below } };

		snprintf(d.path, sizeof(d.path), "%s", path);
		assert_int_equal(vec_push(&n.disks, d), 0);
	}
	if (names_publish(&pool, &n, true, &err) < 0)
		fail_msg("%s", err.text);
	name_release(&n);
	return n.number;
}

static uint64_t version(const char *label, const char *paths, int64_t made)
{
	return add(NAME_VERSION, label, paths, made, 0, 0, true);
}

static int64_t at(const char *text)
{
	struct tm tm = { .tm_isdst = -1 };

	assert_non_null(strptime(text, "%Y-%m-%d %H:%M", &tm));
	return timegm(&tm);
}

static int add_to_text(void *ctx, const struct name *n, struct err *e)
{
	char *text = ctx;

	(void)e;
	sprintf(text + strlen(text), "%s%s%s",
		n->kind == NAME_MEMBER ? "member"
		: *n->label	       ? n->label
				       : "(none)",
		name_id_is_null(n->disks.items[0].sealed) ? "" : "+", n->disks.items[0].folded ? " " : "~ ");
	return 0;
}

static const char *all(void)
{
	static char text[4096];

	*text = '\0';
	assert_int_equal(names_each(&pool, add_to_text, text, NULL), 0);
	return text;
}

/* ---- pruning ---- */

static int add_kept(void *ctx, const struct name *n, const char *by, struct err *e)
{
	char *text = ctx;

	(void)e;
	sprintf(text + strlen(text), "%s:%s ", n->label, by ? by : "-");
	return 0;
}

static const char *prune(struct prune_options o)
{
	static char text[4096];

	*text = '\0';
	o.path = "/a";
	if (versions_prune(&pool, &o, add_kept, text, &err) < 0)
		snprintf(text, sizeof(text), "%s", err.text);
	return text;
}

static void the_last_of_each_period_is_kept(void **state)
{
	(void)state;
	version("1", "/a", at("2026-10-31 23:00"));
	version("2", "/a", at("2026-11-01 23:00")); /* a Sunday */
	version("3", "/a", at("2026-11-02 01:00"));
	version("4", "/a", at("2026-11-02 23:59"));
	version("other", "/b", at("2026-11-03 00:00"));
	version("5", "/a /b", at("2026-11-03 00:01"));
	version("6", "/a", at("2026-11-21 10:00"));
	version("7", "/a", at("2026-11-21 11:00"));
	assert_string_equal(prune((struct prune_options){ .keep_daily = 3 }), "7:daily 6:- 5:daily 4:daily 3:- 2:- 1:- ");
	assert_string_equal(prune((struct prune_options){ .keep_weekly = 9 }), "7:weekly 6:- 5:weekly 4:- 3:- 2:weekly 1:- ");
	assert_string_equal(prune((struct prune_options){ .keep_monthly = 2 }), "7:monthly 6:- 5:- 4:- 3:- 2:- 1:monthly ");
	assert_string_equal(prune((struct prune_options){ .keep_yearly = 2 }), "7:yearly 6:- 5:- 4:- 3:- 2:- 1:- ");
	assert_string_equal(prune((struct prune_options){ .keep_last = 2, .keep_daily = 2 }),
			    "7:last 6:last 5:daily 4:- 3:- 2:- 1:- ");
	assert_string_equal(all(), "1 2 3 4 other 5 6 7 ");
	prune((struct prune_options){ .keep_last = 1, .keep_weekly = 2, .apply = true });
	assert_string_equal(all(), "other 5 7 ");
}

static void nothing_to_keep_is_refused(void **state)
{
	(void)state;
	version("1", "/a", 1);
	assert_non_null(strstr(prune((struct prune_options){ .apply = true }), "nothing says what to keep"));
	assert_string_equal(all(), "1 ");
}

/* The clock was wrong: numbers order versions, and the newest is kept all the same. */
static void clocks_do_not_order_versions(void **state)
{
	(void)state;
	version("1", "/a", at("2030-01-01 00:00"));
	version("2", "/a", at("2026-11-02 00:00"));
	assert_string_equal(prune((struct prune_options){ .keep_last = 1 }), "2:last 1:- ");
	assert_string_equal(prune((struct prune_options){ .keep_daily = 1 }), "2:daily 1:daily ");
}

/* An internal snapshot that was older than versions of the image, say: its day is not one of the last two, and 3 is the last of its
 * own. */
static void days_are_told_by_dates(void **state)
{
	(void)state;
	version("1", "/a", at("2026-11-20 00:00"));
	version("2", "/a", at("2026-11-21 08:00"));
	version("3", "/a", at("2026-11-21 09:00"));
	version("4", "/a", at("2026-11-02 00:00"));
	version("5", "/a", at("2026-11-22 09:00"));
	assert_string_equal(prune((struct prune_options){ .keep_daily = 2 }), "5:daily 4:daily 3:daily 2:- 1:- ");
	assert_string_equal(prune((struct prune_options){ .keep_daily = 3 }), "5:daily 4:daily 3:daily 2:- 1:daily ");
}

/* ---- deleting ---- */

static void a_version_is_deleted_with_all_its_disks(void **state)
{
	(void)state;
	version("v", "/a /b", 1);
	version("v", "/c", 2);
	assert_int_equal(versions_delete(&pool, "/b", "v", &err), 0);
	assert_string_equal(all(), "v ");
	assert_int_equal(versions_delete(&pool, "/a", "v", &err), -1);
	assert_int_equal(err.kind, ERR_USAGE);
	assert_int_equal(versions_delete(&pool, "/c", "", &err), -1);
	assert_string_equal(all(), "v ");
}

static void what_others_stand_on_stays_without_its_label(void **state)
{
	(void)state;
	add(NAME_VERSION, "one", "/a", 1, 1, 0, false);
	add(NAME_VERSION, "two", "/a", 2, 2, 1, false);
	add(NAME_MEMBER, "", "/a", 3, 0, 2, false);
	assert_int_equal(versions_delete(&pool, "/a", "one", &err), 0);
	assert_string_equal(all(), "(none)+~ two+~ member~ ");
	assert_int_equal(versions_delete(&pool, "/a", "two", &err), 0);
	assert_string_equal(all(), "(none)+~ (none)+~ member~ ");
	assert_int_equal(names_remove(&pool, 3, NULL), 0);
	assert_int_equal(versions_tidy(&pool, &err), 0);
	assert_string_equal(all(), "");
}

static void what_is_folded_in_is_forgotten_once_nobody_stands_on_it(void **state)
{
	static const uint8_t id[POOL_ID_SIZE] = { 1 }, root[DIGEST_SIZE] = { 5 };

	(void)state;
	add(NAME_VERSION, "one", "/a", 1, 1, 0, false);
	add(NAME_MEMBER, "", "/a", 2, 0, 1, false);
	assert_int_equal(versions_fold(&pool, id, root, NULL, &err), 0);
	assert_string_equal(all(), "one+ member~ ");
	assert_int_equal(names_remove(&pool, 2, NULL), 0);
	assert_int_equal(versions_tidy(&pool, &err), 0);
	assert_string_equal(all(), "one ");
}

/* ---- listing ---- */

static int add_row(void *ctx, const struct version_row *row, struct err *e)
{
	char *text = ctx;

	(void)e;
	sprintf(text + strlen(text), "%s%s%s ", row->name->label, row->disk->path + strlen(row->disk->path) - 2,
		row->there ? "!" : "");
	return 0;
}

static void lists_leave_out_what_has_no_label(void **state)
{
	char text[4096] = "", path[PATH_MAX + 8];

	(void)state;
	snprintf(path, sizeof(path), "%s/a", tree);
	tree_file("a");
	add(NAME_MEMBER, "", path, 1, 0, 0, false);
	add(NAME_MEMBER, "", "/x/b", 1, 0, 0, false);
	add(NAME_VERSION, "", "/x/b", 1, 1, 0, false);
	add(NAME_VERSION, "v", "/x/b /x/c", 1, 2, 0, false);
	assert_int_equal(versions_list(&pool, NULL, add_row, NULL, text, &err), 0);
	assert_string_equal(text, "/a! /b v/b v/c ");
	*text = '\0';
	assert_int_equal(versions_list(&pool, "/x/c", add_row, NULL, text, &err), 0);
	assert_string_equal(text, "v/c ");
}

static int add_gone(void *ctx, const struct name *n, struct err *e)
{
	char *text = ctx;

	(void)e;
	sprintf(text + strlen(text), "%d ", (int)n->number);
	return 0;
}

static void members_are_gone_only_for_certain(void **state)
{
	char text[4096] = "", a[PATH_MAX + 8], b[PATH_MAX + 8];

	(void)state;
	snprintf(a, sizeof(a), "%s/a", tree);
	snprintf(b, sizeof(b), "%s/b", tree);
	tree_file("a");
	add(NAME_MEMBER, "", a, 1, 0, 0, false);
	add(NAME_MEMBER, "", b, 1, 0, 0, false);
	add(NAME_MEMBER, "", a, 1, 0, 0, false);
	assert_int_equal(symlink("a", in_tree("link")), 0);
	snprintf(b, sizeof(b), "%s/link/x", tree);
	add(NAME_MEMBER, "", b, 1, 0, 0, false);
	assert_int_equal(versions_each_gone(&pool, add_gone, text, &err), 0);
	assert_string_equal(text, "1 2 ");
}

/* ---- how many on each other ---- */

/* Whether one more can be made of an image that stands on this sealed overlay (one byte of its id; 0 = on a view). */
static int check_depth(uint8_t below, unsigned most)
{
	struct name_disk d = { .path = "/d/img" };
	struct member m = { .standing = { .below = { below } } };
	int rc;

	assert_int_equal(vec_push(&m.name.disks, d), 0);
	err = (struct err)ERR_INIT;
	rc = versions_check_depth(&pool, &m, most, &err);
	name_release(&m.name);
	return rc;
}

static void at_the_most_it_says_what_to_do(void **state)
{
	char label[8];

	(void)state;
	for (uint8_t i = 1; i <= 8; i++) {
		snprintf(label, sizeof(label), "v%u", i);
		assert_int_equal(check_depth(i - 1, 8), 0);
		add(NAME_VERSION, label, "/d/img", 1000 + i, i, i - 1, i < 4); /* some are folded in, but still stood on */
	}
	assert_int_equal(check_depth(8, 8), -1);
	assert_int_equal(err.kind, ERR_REFUSED);
	assert_non_null(strstr(err.text, "'/d/img': 8 versions were made of it while its machine ran; "
					 "shut that down and run dedupscan compact"));
	assert_int_equal(check_depth(1, 0), -1);
	assert_int_equal(err.kind, ERR_REFUSED);
	assert_non_null(strstr(err.text, "waits to be folded into the pool; dedupscan compact --apply does that"));
	assert_int_equal(check_depth(0, 8), 0); /* the machine was off, and it stands on a view again */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		kept_test(the_last_of_each_period_is_kept),
		kept_test(nothing_to_keep_is_refused),
		kept_test(clocks_do_not_order_versions),
		kept_test(days_are_told_by_dates),
		kept_test(a_version_is_deleted_with_all_its_disks),
		kept_test(what_others_stand_on_stays_without_its_label),
		kept_test(what_is_folded_in_is_forgotten_once_nobody_stands_on_it),
		kept_test(lists_leave_out_what_has_no_label),
		kept_test(members_are_gone_only_for_certain),
		kept_test(at_the_most_it_says_what_to_do),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
