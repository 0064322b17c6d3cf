/* SPDX-License-Identifier: Apache-2.0 */
/* timeout: 600 */
#include "tests/unit/tree_help.h"

#include <fcntl.h>

#include "compactor/live_guest.h"
#include "compactor/pool/qcow2_writer.h"
#include "compactor/pool/seal_notes.h"
#include "compactor/virsh.h"
#include "scanner/base/file.h"
#include "scanner/image/qcow2_format.h"
#include "tests/crash/bare_pool.h"
#include "tests/crash/crash.h"

/* Versions of a machine that runs, through kills, errors and power cuts: L1 to L3 at the top of live_guest.c.
 *
 * libvirt is this file: the functions of virsh.h, whose work is that of another process.  Its configuration is a file,
 * /v/config, in which a disk's line is what its machine starts from; what the guest writes is synced before libvirt says that
 * it is done. */

#define DATA (4 * 65536)
#define LEN 600
#define WROTE 100 /* bytes, after the snapshot */
#define UUID "11111111-2222-3333-4444-555555555555"

enum state { RUNS, OFF, STARTED };
enum how {
	RIGHT,
	REMOVES_ASIDE, /* somebody tidies up before the recovery */
	FORGETS,       /* a libvirt that forgets where the machine is */
};

struct work {
	enum state later; /* when it is recovered; after a power cut no machine runs */
	enum how how;
	bool errors; /* what could not be read then is not noted */
};

static struct {
	struct sim *s;
	bool running, below[2]; /* QEMU was started from the file aside, when the fresh overlay was at the path */
} virt;

static const char *const targets[] = { "vda", "vdb" }, *const homes[] = { "/d/img", "/d/other" };

/* ---- files of the guest's ---- */

/* And closes it. */
static void write_as_guest(int fd, char c, size_t len)
{
	guest_writes(fd, c, DATA, len);
	assert_int_equal(file_ops->fsync(fd), 0);
	file_ops->close(fd);
}

/* An overlay by the plain name of what it stands on. */
static void make_aside(const char *path, const char *below)
{
	struct slice backing = { .size = 512, .read_only = true };
	const struct overlay_options o = { .compat = true };
	int fd = file_open(sim_root(virt.s), path + 1, O_RDWR | O_CREAT | O_EXCL, 0600, NULL);
	struct qcow2_header_disk d;
	uint8_t p[65536];

	strcpy(backing.path, below);
	assert_int_equal(overlay_write(fd, DISK_SIZE, &backing, &o, NULL), 0);
	assert_int_equal(file_read(fd, p, sizeof(p), 0, NULL), 0);
	memcpy(&d, p, sizeof(d));
	qcow2_backing_encode(p, be64_get(d.backing_file_offset), below);
	assert_int_equal(file_write(fd, p, sizeof(p), 0, NULL), 0);
	write_as_guest(fd, 'g', WROTE);
	fd = file_open(sim_root(virt.s), "d", O_RDONLY | O_DIRECTORY, 0, NULL);
	assert_int_equal(file_sync_dir(fd, NULL), 0);
	file_ops->close(fd);
}

/* ---- libvirt ---- */

/* Returns whether the guest wrote something after the snapshot. */
static bool read_config(char ret[2][PATH_ROOM])
{
	uint64_t len;
	char *text = (char *)sim_content(virt.s, "/v/config", &len), wrote[8];

	assert_non_null(text);
	assert_int_equal(sscanf(text, "%127s %127s %7s", ret[0], ret[1], wrote), 3);
	free(text);
	return strcmp(wrote, "wrote") == 0;
}

static void write_config(const char *const paths[2], bool wrote)
{
	char text[280];
	int fd = file_open(sim_root(virt.s), "v", O_RDONLY | O_DIRECTORY, 0, NULL), len;

	len = snprintf(text, sizeof(text), "%s %s %s\n", paths[0], paths[1], wrote ? "wrote" : "-");
	while (len < 256)
		text[len++] = ' ';
	text[len] = '\0';
	assert_int_equal(file_write_atomic(fd, "config", text, (size_t)len + 1, 0600, NULL), 0);
	file_ops->close(fd);
}

/* libvirt is beyond reach of a process that was killed. */
static int refuse(struct err *err)
{
	return sim_killed(virt.s) ? err_set(err, ERR_UNSUPPORTED, "libvirt does not answer") : 0;
}

void virsh_disks_release(struct virsh_disks *l)
{
	vec_release(&l->items);
}

int virsh_disks(bool running, struct virsh_disks *ret, struct err *err)
{
	char paths[2][PATH_ROOM];

	if (refuse(err) < 0)
		return -1;
	*ret = (struct virsh_disks){ .items = VEC_INIT };
	read_config(paths);
	for (size_t i = 0; i < 2 && (!running || virt.running); i++) {
		struct virsh_disk d = { .uuid = UUID };

		strcpy(d.target, targets[i]);
		strcpy(d.source, paths[i]);
		assert_int_equal(vec_push(&ret->items, d), 0);
	}
	return 0;
}

int virsh_snapshot(const char *uuid, const struct virsh_aside *asides, size_t nr, bool quiesce, struct err *err)
{
	const char *paths[2];
	bool was;

	(void)quiesce;
	if (refuse(err) < 0)
		return -1;
	assert_string_equal(uuid, UUID);
	assert_int_equal(nr, 2);
	was = sim_outside(virt.s, true);
	for (size_t i = 0; i < nr; i++) {
		assert_string_equal(asides[i].target, targets[i]);
		make_aside(asides[i].path, homes[i]);
		paths[i] = asides[i].path;
	}
	write_config(paths, true);
	sim_outside(virt.s, was);
	return 0;
}

static size_t number_of(const char *target)
{
	return strcmp(target, targets[0]) ? 1 : 0;
}

/* What the file aside has goes to the path. */
static int go_home(const char *target, const char *path, struct err *err)
{
	size_t nr = number_of(target);
	char now[2][PATH_ROOM];
	const char *paths[2] = { now[0], now[1] };
	bool was;
	int fd;

	if (refuse(err) < 0)
		return -1;
	was = sim_outside(virt.s, true);
	read_config(now);
	assert_string_equal(path, homes[nr]);
	fd = file_open(sim_root(virt.s), path + 1, O_RDWR, 0, NULL);
	write_as_guest(fd, 'g', WROTE);
	paths[nr] = path;
	write_config(paths, true);
	sim_outside(virt.s, was);
	return 0;
}

int virsh_copy(const char *uuid, const char *target, const char *path, struct err *err)
{
	(void)uuid;
	assert_false(virt.below[number_of(target)]);
	return go_home(target, path, err);
}

int virsh_commit(const char *uuid, const char *target, const char *top, const char *below, struct err *err)
{
	(void)uuid;
	(void)top;
	assert_true(virt.below[number_of(target)]);
	assert_string_equal(below, homes[number_of(target)]);
	return go_home(target, homes[number_of(target)], err);
}

int virsh_mentions(const char *uuid, const char *text, struct err *err)
{
	char now[2][PATH_ROOM];

	(void)uuid;
	if (refuse(err) < 0)
		return -1;
	read_config(now);
	for (size_t i = 0; i < 2; i++)
		if (strstr(now[i], strrchr(text, '/') + 1))
			return virt.below[i];
	return 0;
}

void virsh_abort(const char *uuid, const char *target)
{
	(void)uuid;
	(void)target;
}

int virsh_is_saved(const char *uuid, struct err *err)
{
	(void)uuid;
	return refuse(err);
}

int virsh_rename(const char *uuid, const char *from, const char *to, struct err *err)
{
	char now[2][PATH_ROOM];
	const char *paths[2] = { now[0], now[1] };
	bool was;

	(void)uuid;
	if (refuse(err) < 0)
		return -1;
	was = sim_outside(virt.s, true);
	read_config(now);
	for (size_t i = 0; i < 2; i++)
		if (strcmp(now[i], from) == 0)
			paths[i] = to;
	write_config(paths, true);
	sim_outside(virt.s, was);
	return 0;
}

/* ---- a pool without clusters ---- */

static void set_up(void *ctx, struct sim *s)
{
	const struct overlay_options o = { .compat = true };
	struct err err = ERR_INIT;
	struct pool p;

	(void)ctx;
	virt.s = s;
	make_pool(s);
	assert_int_equal(file_mkdir(sim_root(s), "d", 0711, NULL), 0);
	assert_int_equal(file_mkdir(sim_root(s), "v", 0711, NULL), 0);
	assert_int_equal(open_pool(s, &p, &err), 0);
	write_as_guest(make_member(s, &p, homes[0], &o), 'd', LEN);
	write_as_guest(make_member(s, &p, homes[1], &o), 'o', LEN);
	write_config(homes, false);
	close_pool(&p);
}

/* ---- the work ---- */

static int run(void *ctx, struct sim *s, struct err *err)
{
	struct snapshot_options o = { .label = "new", .paths = homes, .nr_paths = 2, .how.now = 1 };
	struct snapshot_made made;
	struct pool p;
	int rc;

	(void)ctx;
	virt.s = s;
	virt.running = true;
	virt.below[0] = virt.below[1] = false;
	rc = open_pool(s, &p, err);
	if (rc < 0)
		return -1;
	rc = versions_recover(&p, err);
	if (rc == 0)
		rc = live_snapshot(&p, &o, false, &made, err);
	close_pool(&p);
	return rc;
}

static int remove_asides(void *ctx, const char *path, const struct stat *st)
{
	(void)st;
	if (strstr(path, ".live-"))
		file_unlink(sim_root(ctx), path + 1, NULL);
	return 0;
}

static int recover(void *ctx, struct sim *s, struct err *err)
{
	const struct work *k = ctx;
	char next[PATH_ROOM], now[2][PATH_ROOM];
	struct pool p;
	int rc;

	virt.s = s;
	virt.running = k->later != OFF;
	for (size_t i = 0; i < 2; i++)
		virt.below[i] = k->later == STARTED && next_in_chain(s, homes[i], next, NULL) > 0;
	if (k->how == REMOVES_ASIDE)
		sim_each_path(s, remove_asides, s);
	if (k->how == FORGETS) {
		bool wrote = read_config(now);

		write_config(homes, wrote);
	}
	rc = open_pool(s, &p, err);
	if (rc < 0)
		return -1;
	rc = versions_recover(&p, err);
	close_pool(&p);
	return rc;
}

/* ---- what must be there ---- */

struct checking {
	const struct work *k;
	struct sim *s;
	struct pool *pool;
	unsigned nr_versions;
};

static int check_text(struct sim *s, const char *path, char begin, char want, struct err *err)
{
	char text[LEN];

	if (guest_reads(s, path, DATA, text, LEN, err) < 0)
		return -1;
	for (size_t i = 0; i < LEN; i++)
		if (text[i] != (i < WROTE ? begin : want))
			return err_set(err, ERR_FORMAT, "'%s' says '%c' at %zu", path, text[i], i);
	return 0;
}

static int check_name(void *ctx, const struct name *n, struct err *err)
{
	struct checking *c = ctx;
	char path[PATH_ROOM];
	struct stat st;

	for (size_t i = 0; n->kind == NAME_VERSION && i < n->disks.nr; i++) {
		const struct name_disk *d = &n->disks.items[i];
		char want = strcmp(d->path, homes[0]) ? 'o' : 'd';

		path_of_sealed(d->sealed, path);
		if (d->inode)
			return err_set(err, ERR_FORMAT, "'%s' is pending still", d->path);
		if (sim_stat(c->s, path, &st) < 0 || st.st_mode & 0222)
			return err_set(err, ERR_FORMAT, "sealed '%s' is not there, or may be written to", path);
		if (!d->written || (!d->length && !c->k->errors) || seal_was_written(c->pool, d) ||
		    seal_check_in(c->pool, d, err) < 0)
			return err_add(err, "sealed '%s' is not as noted", path);
		if (check_text(c->s, path, want, want, err) < 0)
			return -1;
	}
	if (n->kind == NAME_VERSION && n->disks.nr != 2)
		return err_set(err, ERR_FORMAT, "a version has %zu disks", n->disks.nr);
	c->nr_versions += n->kind == NAME_VERSION && strcmp(n->label, "new") == 0;
	return 0;
}

/* What the guest wrote is there exactly when there was a snapshot. */
static int check(void *ctx, struct sim *s, struct crash_moment m, struct err *err)
{
	struct checking c = { .k = ctx, .s = s };
	char paths[2][PATH_ROOM];
	struct pool p;
	bool wrote;
	int rc;

	virt.s = s;
	if (open_pool(s, &p, err) < 0)
		return -1;
	c.pool = &p;
	rc = m.lied ? 0 : names_each(&p, check_name, &c, err);
	close_pool(&p);
	if (rc < 0)
		return -1;
	wrote = read_config(paths);
	for (size_t i = 0; i < 2; i++) {
		char want = i ? 'o' : 'd';

		if (strcmp(paths[i], homes[i]) != 0)
			return err_set(err, ERR_FORMAT, "the machine has '%s'", paths[i]);
		if (!m.lied && check_text(s, paths[i], wrote ? 'g' : want, want, err) < 0)
			return -1;
	}
	if (!m.lied && wrote != (c.nr_versions == 1))
		return err_set(err, ERR_FORMAT, "the guest wrote after a snapshot, and there are %u versions",
			       c.nr_versions);
	if (m.done && !m.lied && !c.nr_versions)
		return err_set(err, ERR_FORMAT, "done, and there is no version");
	if (m.untouched && c.nr_versions)
		return err_set(err, ERR_FORMAT, "untouched, and there is a version");
	return 0;
}

/* Nothing aside. */
static bool belongs(void *ctx, const char *path, const struct stat *st)
{
	(void)ctx;
	if (S_ISDIR(st->st_mode) || strncmp(path, POOL "/", 3) == 0 || strncmp(path, "/v/", 3) == 0)
		return true;
	return strcmp(path, homes[0]) == 0 || strcmp(path, homes[1]) == 0;
}

static struct crash_workflow workflow(const char *name, struct work *k)
{
	return (struct crash_workflow){
		.name = name,
		.setup = set_up,
		.run = run,
		.recover = recover,
		.check = check,
		.ctx = k,
		.view = NULL,
		.belongs = belongs,
		.nested = getenv("LONG") ? 5 : 97,
		.cut_again = !CRASH_THOROUGH ? 0 : k->later == RUNS ? 1 : 7,
		.cuts.pairs_max = getenv("LONG") ? 2000 : 20,
	};
}

static void kills_while_the_machine_runs_on_pass(void **state)
{
	struct work k = { .later = RUNS };
	struct crash_workflow w = workflow("running", &k);

	(void)state;
	assert_survives(crash_try_kills, &w);
	k.errors = true;
	if (CRASH_THOROUGH)
		assert_survives(crash_try_errors, &w);
}

static void kills_after_which_it_was_started_again_pass(void **state)
{
	struct work k = { .later = STARTED };
	struct crash_workflow w = workflow("started again", &k);

	(void)state;
	assert_survives(crash_try_kills, &w);
}

static void kills_and_cuts_after_which_it_is_off_pass(void **state)
{
	struct work k = { .later = OFF };
	struct crash_workflow w = workflow("off", &k);

	(void)state;
	assert_survives(crash_try_kills, &w);
	if (CRASH_THOROUGH)
		assert_survives(crash_try_cuts, &w);
}

static void who_forgets_the_guest_is_caught(void **state)
{
	(void)state;
	for (enum how how = REMOVES_ASIDE; how <= FORGETS; how++) {
		struct work k = { .later = OFF, .how = how };
		struct crash_workflow w = workflow("forgotten", &k);
		struct crash_report r;

		assert_int_equal(crash_try_kills(&w, &r), -1);
		crash_report_release(&r);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(kills_while_the_machine_runs_on_pass),
		cmocka_unit_test(kills_after_which_it_was_started_again_pass),
		cmocka_unit_test(kills_and_cuts_after_which_it_is_off_pass),
		cmocka_unit_test(who_forgets_the_guest_is_caught),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
