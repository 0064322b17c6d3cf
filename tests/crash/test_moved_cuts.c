/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include "compactor/clone.h"
#include "compactor/member.h"
#include "compactor/versions.h"
#include "scanner/base/file.h"
#include "tests/crash/bare_pool.h"
#include "tests/crash/crash.h"

/* Members under kills, errors and power cuts: one whose image was moved, with its versions; and one that is gone, and in whose
 * place a clone is put (row A4).  Each image is a member once, and no version is lost. */

#define SIZE ((uint64_t)1 << 20)

enum job { MOVE, CLONE_AGAIN };

struct work {
	enum job job;
	bool member_first; /* a mistake */
};

static const uint8_t sealed_id[POOL_ID_SIZE] = { 4, 5, 6 };

/* ---- a pool of names ---- */

static void add(struct pool *p, enum name_kind kind, const char *label, const char *path)
{
	struct name n = { .kind = kind };
	struct name_disk d = { .size = SIZE };
	struct err err = ERR_INIT;

	snprintf(n.label, sizeof(n.label), "%s", label);
	snprintf(d.path, sizeof(d.path), "%s", path);
	memcpy(d.view, view_id, POOL_ID_SIZE);
	memcpy(kind == NAME_MEMBER ? d.below : d.sealed, sealed_id, POOL_ID_SIZE);
	assert_int_equal(vec_push(&n.disks, d), 0);
	if (names_publish(p, &n, true, &err) < 0)
		fail_msg("%s", err.text);
	name_release(&n);
}

static void make_file(struct sim *s, const char *name)
{
	int fd = file_open(sim_root(s), name, O_RDWR | O_CREAT, 0444, NULL);

	const struct slice backing = { .path = POOL "/views/none.qcow2", .size = SIZE, .read_only = true };

	assert_int_equal(overlay_write(fd, SIZE, &backing, &(struct overlay_options){ 0 }, NULL), 0);
	file_ops->close(fd);
}

static void set_up(void *ctx, struct sim *s)
{
	const struct work *k = ctx;
	char name[64], file[POOL_FILE_NAME_ROOM];
	struct pool p;

	make_pool(s);
	assert_int_equal(file_mkdir(sim_root(s), "d", 0755, NULL), 0);
	snprintf(name, sizeof(name), "p/sealed/%s", pool_id_file_name(sealed_id, file));
	make_file(s, name);
	if (k->job == MOVE)
		make_file(s, "d/new");
	assert_int_equal(open_pool(s, &p, NULL), 0);
	add(&p, NAME_MEMBER, "", "/d/old");
	add(&p, NAME_VERSION, "v1", "/d/old");
	add(&p, NAME_VERSION, "v2", "/d/old");
	close_pool(&p);
}

/* ---- the work ---- */

static int move(struct pool *p, struct err *err)
{
	struct standing standing = { .size = SIZE };
	CLEANUP(name_release) struct name known = { .number = 0 };
	char was[PATH_MAX];
	int rc = names_find_member(p, "/d/new", &known, err);

	memcpy(standing.below, sealed_id, POOL_ID_SIZE);
	memcpy(standing.view, view_id, POOL_ID_SIZE);
	return rc ? (rc < 0 ? -1 : 0) : versions_adopt_as(p, "/d/new", &standing, was, err);
}

static int clone_again(struct pool *p, struct err *err)
{
	struct clone_options o = { .path = "/d/old", .label = "v1", .new_path = "/d/old", .how.now = 1 };
	struct clones made;

	return clone_image(p, &o, &made, err);
}

static int rename_member(void *ctx, const struct name *n, struct err *err)
{
	struct name copy;
	int rc;

	if (n->kind != NAME_MEMBER)
		return 0;
	assert_int_equal(name_copy(n, &copy, err), 0);
	strcpy(copy.disks.items[0].path, "/d/new");
	rc = names_replace(ctx, n->number, &copy, err);
	name_release(&copy);
	return rc;
}

static int command(const struct work *k, struct sim *s, bool again, struct err *err)
{
	struct pool p;
	int rc = open_pool(s, &p, err);

	if (rc < 0)
		return -1;
	rc = versions_recover(&p, err);
	if (rc == 0 && k->member_first && !again)
		rc = names_each(&p, rename_member, &p, err);
	if (rc == 0 && k->job == MOVE)
		rc = move(&p, err);
	else if (rc == 0 && !again)
		rc = clone_again(&p, err);
	close_pool(&p);
	return rc;
}

static int run(void *ctx, struct sim *s, struct err *err)
{
	return command(ctx, s, false, err);
}

/* The next command: it does again what was not done, or does not care. */
static int recover(void *ctx, struct sim *s, struct err *err)
{
	return command(ctx, s, true, err);
}

/* ---- what must be there ---- */

struct counted {
	unsigned nr_members, nr_new, nr_versions, nr_new_versions;
};

static int count(void *ctx, const struct name *n, struct err *err)
{
	bool is_new = strcmp(n->disks.items[0].path, "/d/new") == 0;
	struct counted *c = ctx;

	(void)err;
	if (n->kind == NAME_MEMBER) {
		c->nr_members++;
		c->nr_new += is_new;
	} else {
		c->nr_versions++;
		c->nr_new_versions += is_new;
	}
	return 0;
}

static int check(void *ctx, struct sim *s, struct crash_moment m, struct err *err)
{
	const struct work *k = ctx;
	struct counted c = { 0 };
	struct stat st;
	struct pool p;
	int rc;

	if (m.lied)
		return 0;
	if (open_pool(s, &p, err) < 0)
		return -1;
	rc = names_each(&p, count, &c, err);
	close_pool(&p);
	if (rc < 0)
		return -1;
	if (c.nr_members != 1 || c.nr_versions != 2)
		return err_set(err, ERR_FORMAT, "there are %u members and %u versions", c.nr_members, c.nr_versions);
	if (k->job == MOVE && (c.nr_new != 1 || c.nr_new_versions != 2))
		return err_set(err, ERR_FORMAT, "%u members and %u versions have the new path", c.nr_new, c.nr_new_versions);
	if (k->job == CLONE_AGAIN && m.done && sim_stat(s, "/d/old", &st) < 0)
		return err_set(err, ERR_FORMAT, "done, and there is no clone");
	return 0;
}

static struct crash_workflow workflow(const char *name, struct work *k)
{
	return (struct crash_workflow){
		.name = name, .setup = set_up, .run = run, .recover = recover, .check = check, .ctx = k, .nested = 29,
		.cut_again = 7,
		.cuts.pairs_max = 20,
	};
}

static void assert_passes(const char *name, enum job job)
{
	struct work k = { .job = job };
	struct crash_workflow w = workflow(name, &k);
	struct crash_report r = assert_survives(crash_try, &w);

	assert_true(r.nr_kills > 5 && r.nr_errors > 20);
}

static void versions_follow_an_image_that_was_moved(void **state)
{
	(void)state;
	assert_passes("move", MOVE);
}

static void a_clone_takes_the_place_of_a_member_that_is_gone(void **state)
{
	(void)state;
	assert_passes("clone again", CLONE_AGAIN);
}

/* Who would know that its versions were to follow? */
static void a_member_that_goes_first_is_caught(void **state)
{
	struct work k = { .job = MOVE, .member_first = true };
	struct crash_workflow w = workflow("member first", &k);

	(void)state;
	assert_caught(crash_try_kills, &w, "versions have the new path");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(versions_follow_an_image_that_was_moved),
		cmocka_unit_test(a_clone_takes_the_place_of_a_member_that_is_gone),
		cmocka_unit_test(a_member_that_goes_first_is_caught),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
