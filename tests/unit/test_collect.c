/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/pool_help.h"

#include "compactor/collect.h"
#include "compactor/member.h"
#include "compactor/pool_status.h"
#include "tests/unit/image_help.h"

/* Collections: what lives stays byte for byte, what is dead goes, and what nobody can be sure of stays, too. */

#define SYSTEM 1 /* of numbers: what both disks have */
#define TABLES (4 * BLOCK_SIZE) /* of a view of two segments */

static struct disk first = { .size = 2 * SEGMENT_SIZE, .pieces = { { 0, 256 * KIB, SYSTEM }, { SEGMENT_SIZE, 512 * KIB, 2 } } };
static struct disk second = { .size = 2 * SEGMENT_SIZE + 512,
			      .pieces = { { 0, 256 * KIB, SYSTEM }, { SEGMENT_SIZE, 384 * KIB, 3 } } };
static struct collected got;

static int collect_with(const struct collect_options *o, struct err *err)
{
	return pool_collect(pool, o, &got, err);
}

static void collect(void)
{
	const struct collect_options o = { .memory = 64 * MIB };
	struct err err = ERR_INIT;

	if (collect_with(&o, &err) < 0)
		fail_msg("%s", err.text);
}

static struct collected would(void)
{
	const struct collect_options o = { .memory = 64 * MIB, .dry_run = true };
	struct err err = ERR_INIT;

	if (collect_with(&o, &err) < 0)
		fail_msg("%s", err.text);
	return got;
}

static uint64_t on_disk(void)
{
	struct stat st;

	assert_int_equal(fsync(cluster_file_fd(clusters_growing(pool->clusters).file)), 0);
	assert_int_equal(fstat(cluster_file_fd(clusters_growing(pool->clusters).file), &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

/* Where a segment's first run lies. */
static uint64_t place_of(const struct disk *d, uint64_t segment)
{
	CLEANUP(free) uint8_t *p = malloc(SEGMENT_SIZE);
	uint8_t digest[DIGEST_SIZE];
	struct leaf leaf;

	render(d, segment, p);
	digest_bytes(p, SEGMENT_SIZE, digest);
	assert_int_equal(nodes_find_leaf(pool->nodes, digest, POOL_UNIT_BITS_MIN, &leaf, NULL), 1);
	return leaf.runs[0].place << leaf.unit_bits;
}

static bool is_hole(uint64_t at, uint64_t len)
{
	uint64_t begin, end;
	struct err err = ERR_INIT;
	int rc = file_next_data(cluster_file_fd(clusters_growing(pool->clusters).file), at, at + len, &begin, &end, &err);

	assert_true(rc >= 0);
	return rc == 0;
}

/* ---- what stays, and what goes ---- */

static void what_is_kept_stays_and_what_is_dead_becomes_holes(void **state)
{
	struct view v;
	uint64_t number, dead, system, before;

	(void)state;
	import(&first);
	import(&second);
	v = view_of(&first);
	member_of("a", &first, &v);
	number = version_of("b", &second);
	collect();
	assert_int_equal(got.freed, 0);
	assert_int_equal(got.nr_names, 2);
	assert_int_equal(got.nr_views, 1);
	dead = place_of(&second, 1);
	system = place_of(&second, 0);
	forget(number);
	before = on_disk();
	collect();
	assert_int_equal(got.freed, 384 * KIB);
	assert_true(on_disk() <= before - 384 * KIB + BLOCK_SIZE); /* the hole may cost the file system a block of extents */
	assert_true(is_hole(dead, 384 * KIB));
	assert_false(is_hole(system, 256 * KIB));
	assert_true(got.nodes_after < got.nodes_before);
	expect_disk(&first);
	expect_view(&v);
	again();
	expect_disk(&first);
	expect_view(&v);
	assert_int_equal(compare_disk(&second, true, NULL), -1);
	collect();
	assert_int_equal(got.freed, 0);
	assert_int_equal(got.nodes_before, got.nodes_after);
}

static void versions_without_views_stay(void **state)
{
	(void)state;
	import(&first);
	version_of("a", &first);
	for (int i = 0; i < 3; i++) {
		collect();
		assert_int_equal(got.freed + got.small, 0);
		expect_disk(&first);
		again();
	}
	expect_disk(&first);
}

/* The root of each is a delta of the one before. */
static void versions_stay_whose_nodes_are_deltas(void **state)
{
	static struct disk versions[6];
	uint64_t names[6];

	(void)state;
	for (unsigned i = 0; i < 6; i++) {
		versions[i] = (struct disk){ .size = 3 * SEGMENT_SIZE,
					     .pieces = { { 0, 64 * KIB, 10 + i / 2 },
							 { SEGMENT_SIZE, 64 * KIB, 20 + (i + 1) / 2 },
							 { 2 * SEGMENT_SIZE, 64 * KIB, 30 } } };
		import_on(&versions[i], i ? &versions[i - 1] : NULL);
	}
	for (unsigned i = 6; i-- > 0;) /* a base is met as such before it is met as a version */
		names[i] = version_of("a", &versions[i]);
	collect();
	assert_int_equal(got.freed, 0);
	assert_int_equal(got.nodes_before, got.nodes_after);
	for (unsigned i = 0; i < 6; i++)
		expect_disk(&versions[i]);
	for (unsigned left = 6; left > 1; left--) {
		unsigned first_left = 6 - left + 1;

		forget(names[first_left - 1]); /* others stand on it */
		for (int k = 0; k < 2; k++) {
			collect();
			assert_int_equal(got.freed, k ? 0 : 64 * KIB); /* its leaf is no base */
			for (unsigned i = first_left; i < 6; i++)
				expect_disk(&versions[i]);
			again();
		}
		assert_int_equal(got.nodes_before, got.nodes_after); /* what is only a base is not dead */
	}
}

static void an_empty_pool_is_collected_too(void **state)
{
	(void)state;
	collect();
	assert_int_equal(got.live, 0);
	assert_int_equal(got.dead, 0);
	import(&first);
	collect();
	assert_int_equal(got.freed, 768 * KIB);
	assert_int_equal(got.nodes_after, 0);
}

static void short_runs_stay(void **state)
{
	struct disk small = { .size = SEGMENT_SIZE, .pieces = { { 0, 60 * KIB, 9 } } };
	const struct collect_options o = { .memory = MIB, .min_run = 16 * KIB };

	(void)state;
	import(&small);
	import(&first);
	version_of("a", &first);
	collect();
	assert_int_equal(got.freed, 0);
	assert_int_equal(got.small, 60 * KIB);
	assert_int_equal(got.dead, 60 * KIB);
	assert_int_equal(collect_with(&o, NULL), 0);
	assert_int_equal(got.freed, 60 * KIB);
	assert_int_equal(got.small, 0);
	expect_disk(&first);
}

/* ---- views die in two steps ---- */

static void views_die_in_two_steps(void **state)
{
	struct view v;
	uint32_t slot;
	uint64_t number;

	(void)state;
	import(&first);
	v = view_of(&first);
	number = member_of("a", &first, &v);
	forget(number);
	collect();
	assert_int_equal(got.nr_dying, 1);
	assert_int_equal(got.freed, 0);
	assert_true(is_in(POOL_TRASH, v.id) && !is_in(POOL_VIEWS, v.id));
	expect_disk(&first);
	again();
	assert_int_equal(view_check(pool, &v, NULL), 0);
	collect();
	assert_int_equal(got.nr_dying, 0);
	assert_int_equal(got.nr_removed, 1);
	assert_int_equal(got.freed, 768 * KIB + TABLES);
	assert_false(is_in(POOL_TRASH, v.id) || is_in(POOL_VIEWS, v.id));
	assert_int_equal(view_find(pool, v.id, &v, NULL), 0);
	assert_int_equal(clusters_next_slot(pool->clusters, &slot, NULL), 0);
	assert_int_equal(slot, 2);
	again();
	assert_int_equal(clusters_next_slot(pool->clusters, &slot, NULL), 0);
	assert_int_equal(slot, 2);
}

static void a_dying_view_that_is_named_again_comes_back(void **state)
{
	struct view v;

	(void)state;
	import(&first);
	v = view_of(&first);
	collect();
	assert_true(is_in(POOL_TRASH, v.id));
	member_of("a", &first, &v);
	collect();
	assert_int_equal(got.nr_views, 1);
	expect_view(&v);
	expect_disk(&first);
	collect();
	expect_view(&v);
}

/* A new member may not be given a view whose stub is not in its place. */
static void a_dying_view_is_given_to_nobody(void **state)
{
	struct view v, found;

	(void)state;
	import(&first);
	v = view_of(&first);
	assert_int_equal(view_find_root(pool, first.root, first.size, 12, &found, NULL), 1);
	collect();
	assert_int_equal(view_find_root(pool, first.root, first.size, 12, &found, NULL), 0);
	again();
	assert_int_equal(view_find_root(pool, first.root, first.size, 12, &found, NULL), 0);
	(void)v;
}

static void a_stub_in_use_keeps_its_view(void **state)
{
	struct view v;
	int fd;

	(void)state;
	import(&first);
	v = view_of(&first);
	fd = open_file_in(POOL_VIEWS, v.id);
	for (int i = 0; i < 3; i++) {
		collect();
		assert_int_equal(got.freed + got.nr_dying + got.nr_removed, 0);
		expect_view(&v);
		expect_disk(&first);
	}
	close(fd);
	collect();
	assert_int_equal(got.nr_dying, 1);
	fd = open_file_in(POOL_TRASH, v.id); /* it was opened just before */
	collect();
	assert_int_equal(got.freed, 0);
	expect_view(&v);
	close(fd);
	collect();
	collect();
	assert_int_equal(got.freed, 768 * KIB + TABLES);
}

static void a_stub_in_both_places_is_no_trouble(void **state)
{
	struct view v;
	int fd;

	(void)state;
	import(&first);
	v = view_of(&first);
	collect();
	assert_int_equal(view_write_stub(pool, &v, NULL, NULL), 0);
	fd = open_file_in(POOL_TRASH, v.id);
	collect();
	expect_view(&v);
	close(fd);
	collect();
	assert_true(is_in(POOL_TRASH, v.id) && !is_in(POOL_VIEWS, v.id));
	collect();
	assert_int_equal(got.freed, 768 * KIB + TABLES);
}

static void a_view_that_was_never_published_goes_at_once(void **state)
{
	char name[POOL_FILE_NAME_ROOM];
	struct view v;

	(void)state;
	import(&first);
	v = view_of(&first);
	assert_int_equal(unlinkat(pool->dirs[POOL_VIEWS], pool_id_file_name(v.id, name), 0), 0);
	collect();
	assert_int_equal(got.nr_removed, 1);
	assert_int_equal(got.freed, 768 * KIB + TABLES);
}

static int no_holes(int fd, int mode, off_t offset, off_t len)
{
	(void)fd;
	(void)mode;
	(void)offset;
	(void)len;
	errno = EOPNOTSUPP;
	return -1;
}

/* Nothing can be given back there, which is said; views and nodes go, and what lives stays. */
static void file_systems_without_holes_free_nothing(void **state)
{
	const struct collect_options o = { .memory = MIB };
	struct file_ops without = file_ops_os;
	struct err err = ERR_INIT;
	uint32_t slot;

	(void)state;
	without.fallocate = no_holes;
	import(&first);
	import(&second);
	version_of("a", &first);
	view_of(&second);
	view_of(&second);
	file_ops = &without;
	collect();
	assert_int_equal(got.nr_dying, 2);
	assert_int_equal(collect_with(&o, &err), -1);
	assert_non_null(strstr(err.text, "punch"));
	file_ops = &file_ops_os;
	again();
	collect();
	assert_int_equal(got.nr_removed, 0);
	assert_true(got.freed > 0);
	assert_int_equal(clusters_next_slot(pool->clusters, &slot, NULL), 0);
	assert_int_equal(slot, 3);
	expect_disk(&first);
}

static void slots_are_never_given_out_twice(void **state)
{
	uint32_t used = 0;

	(void)state;
	import(&first);
	for (int round = 0; round < 6; round++) {
		struct view v = view_of(&first), other = round % 2 ? view_of(&first) : v;

		assert_true(v.slot > used);
		used = max_u64(other.slot, v.slot);
		import(&first);
		collect();
		if (round % 3 == 0)
			again();
		collect();
		import(&first);
	}
}

/* Of a view that was written again under its id both slots are there: the old one counts for nobody but who has its stub open. */
static void a_replaced_view_lives_while_its_old_stub_is_in_use(void **state)
{
	struct view v, made;
	char kept[VIEW_KEPT_STUB_ROOM];
	int fd;

	(void)state;
	import(&first);
	v = view_of(&first);
	member_of("a", &first, &v);
	fd = open_file_in(POOL_VIEWS, v.id);
	assert_int_equal(view_write_as(pool, &v, view_kept_stub(&v, kept), &made, NULL), 0);
	for (int i = 0; i < 2; i++) {
		collect();
		assert_int_equal(got.nr_dying + got.nr_removed + got.freed + got.small, 0);
		expect_view(&made);
		assert_int_equal(view_check(pool, &v, NULL), 0);
	}
	close(fd);
	collect();
	assert_int_equal(got.nr_removed, 1);
	expect_view(&made);
	assert_true(got.small > 0);
	collect();
	expect_view(&made);
	expect_disk(&first);
}

/* Of a view that stays, too, as when it is only to be read otherwise; but not what a collection cannot tell. */
static void an_old_stub_goes_when_nobody_has_it_open(void **state)
{
	const struct slice_reading tables = { .l2 = 1 << 20 };
	char kept[VIEW_KEPT_STUB_ROOM];
	struct view v;
	struct stat st;
	int fd;

	(void)state;
	import(&first);
	v = view_of(&first);
	member_of("a", &first, &v);
	fd = open_file_in(POOL_VIEWS, v.id);
	assert_int_equal(view_write_stub_to_read(pool, &v, &tables, view_kept_stub(&v, kept), NULL), 0);
	assert_int_equal(view_write_stub_to_read(pool, &v, &tables, kept, NULL), 0); /* slot-N.stub.1: nobody has that one */
	close(openat(pool->dirs[POOL_QUARANTINE], "slot-1.stub.2", O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
	collect();
	assert_int_equal(fstatat(pool->dirs[POOL_QUARANTINE], kept, &st, 0), 0);
	assert_int_equal(fstatat(pool->dirs[POOL_QUARANTINE], "slot-1.stub.1", &st, 0), -1);
	close(fd);
	collect();
	assert_int_equal(fstatat(pool->dirs[POOL_QUARANTINE], kept, &st, 0), -1);
	assert_int_equal(fstatat(pool->dirs[POOL_QUARANTINE], "slot-1.stub.2", &st, 0), 0);
	expect_view(&v);
}

/* ---- sealed overlays ---- */

static void write_overlay(enum pool_dir dir, const uint8_t id[POOL_ID_SIZE], const struct slice *backing, uint64_t size)
{
	const struct overlay_options o = { 0 };
	char name[POOL_FILE_NAME_ROOM];
	int fd = openat(pool->dirs[dir], pool_id_file_name(id, name), O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(overlay_write(fd, size, backing, &o, NULL), 0);
	close(fd);
}

static void seal_on_view(const uint8_t id[POOL_ID_SIZE], const struct view *v)
{
	struct slice s;

	assert_int_equal(view_backing(pool, v, &s, NULL), 0);
	write_overlay(POOL_SEALED, id, &s, v->disk_size);
}

static void seal_on_sealed(const uint8_t id[POOL_ID_SIZE], const uint8_t below[POOL_ID_SIZE], uint64_t size)
{
	struct slice s;

	assert_int_equal(sealed_backing(pool, below, &s, NULL), 0);
	write_overlay(POOL_SEALED, id, &s, size);
}

static uint64_t name_sealed(const struct view *v, const uint8_t sealed[POOL_ID_SIZE], bool folded, uint64_t inode)
{
	CLEANUP(name_release) struct name n = { .kind = NAME_VERSION, .label = "l" };
	struct name_disk *d = calloc(1, sizeof(*d));
	struct err err = ERR_INIT;

	d->size = v->disk_size;
	d->folded = folded;
	d->inode = inode;
	strcpy(d->path, "/images/s");
	if (folded)
		memcpy(d->root, v->root, DIGEST_SIZE);
	memcpy(d->view, v->id, POOL_ID_SIZE);
	memcpy(d->sealed, sealed, POOL_ID_SIZE);
	assert_int_equal(vec_push(&n.disks, *d), 0);
	free(d);
	if (names_publish(pool, &n, true, &err) < 0)
		fail_msg("%s", err.text);
	return n.number;
}

static const uint8_t ids[3][POOL_ID_SIZE] = { { 0xa }, { 0xb }, { 0xc } };

static void sealed_overlays_die_in_two_steps(void **state)
{
	struct view v;
	uint64_t number;
	int fd;

	(void)state;
	import(&first);
	v = view_of(&first);
	seal_on_view(ids[0], &v);
	seal_on_view(ids[1], &v);
	fd = open_file_in(POOL_SEALED, ids[1]);
	number = name_sealed(&v, ids[0], false, 0);
	for (int i = 0; i < 2; i++) {
		collect();
		assert_int_equal(got.nr_sealed, 2);
		assert_true(is_in(POOL_SEALED, ids[0]) && is_in(POOL_SEALED, ids[1]));
	}
	close(fd);
	collect();
	assert_true(is_in(POOL_SEALED, ids[0]) && is_in(POOL_TRASH, ids[1]));
	fd = open_file_in(POOL_TRASH, ids[1]);
	collect();
	assert_true(is_in(POOL_SEALED, ids[1]));
	close(fd);
	forget(number);
	collect();
	assert_true(is_in(POOL_TRASH, ids[0]) && is_in(POOL_TRASH, ids[1]));
	expect_view((assert_int_equal(view_write_stub(pool, &v, NULL, NULL), 0), &v));
	name_sealed(&v, ids[0], false, 0);
	collect();
	assert_true(is_in(POOL_SEALED, ids[0]) && !is_in(POOL_TRASH, ids[1]) && !is_in(POOL_SEALED, ids[1]));
	expect_disk(&first);
}

/* Whatever the names say: an overlay that lives needs what it stands on. */
static void what_a_sealed_overlay_stands_on_lives_with_it(void **state)
{
	struct view v, other;

	(void)state;
	import(&first);
	import(&second);
	v = view_of(&first);
	other = view_of(&second);
	seal_on_view(ids[0], &v);
	seal_on_sealed(ids[1], ids[0], first.size);
	seal_on_sealed(ids[2], ids[1], first.size);
	name_sealed(&other, ids[2], false, 0);
	for (int i = 0; i < 3; i++)
		collect();
	expect_view(&v);
	expect_view(&other);
	assert_true(is_in(POOL_SEALED, ids[0]) && is_in(POOL_SEALED, ids[1]) && is_in(POOL_SEALED, ids[2]));
}

static void refuse(const char *words)
{
	const struct collect_options o = { .memory = 64 * MIB };
	uint64_t before = on_disk(), nodes = nodes_bytes(pool->nodes);
	struct err err = ERR_INIT;

	assert_int_equal(collect_with(&o, &err), -1);
	expect_error(&err, ERR_FORMAT, words);
	assert_int_equal(on_disk(), before);
	assert_int_equal(nodes_bytes(pool->nodes), nodes);
}

static void a_missing_sealed_overlay_stops_it(void **state)
{
	struct view v, dead;
	char name[POOL_FILE_NAME_ROOM];
	uint64_t number;

	(void)state;
	import(&first);
	import(&second);
	v = view_of(&first);
	dead = view_of(&second);
	seal_on_view(ids[0], &v);
	number = name_sealed(&v, ids[0], false, 0);
	assert_int_equal(renameat(pool->dirs[POOL_SEALED], pool_id_file_name(ids[0], name), pool_dirfd, "away"), 0);
	refuse("is missing, and needed; nothing is removed");
	expect_view(&dead);
	forget(number);
	name_sealed(&v, ids[0], true, 0); /* it is folded in: its file need not be there */
	collect();
	forget(number + 1);
	name_sealed(&v, ids[0], false, 7); /* it is not sealed yet */
	collect();
}

static void a_sealed_overlay_that_cannot_be_read_stops_it(void **state)
{
	struct view v;
	int fd;
	char name[POOL_FILE_NAME_ROOM];

	(void)state;
	import(&first);
	v = view_of(&first);
	seal_on_view(ids[0], &v);
	name_sealed(&v, ids[0], false, 0);
	fd = openat(pool->dirs[POOL_SEALED], pool_id_file_name(ids[0], name), O_WRONLY | O_TRUNC | O_CLOEXEC);
	assert_int_equal(write(fd, "rubbish", 7), 7);
	close(fd);
	refuse("nothing is removed");
}

/* ---- what is missing or damaged (C4, C9, H3) ---- */

static int by_hand(void)
{
	char name[POOL_FILE_NAME_ROOM], path[100];
	int fd;

	snprintf(path, sizeof(path), "pool/%s", pool_id_file_name(pool->uuid, name));
	fd = openat(pool_dirfd, path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static void flip(int fd, uint64_t at)
{
	uint8_t byte;

	assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
	byte ^= 0x10;
	assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
}

/* Two views, one kept, one about to go; clusters that nobody has. */
static struct view something(uint64_t *ret_number)
{
	struct disk dead = { .size = SEGMENT_SIZE, .pieces = { { 0, 256 * KIB, 77 } } };
	struct view v;

	import(&first);
	import(&second);
	import(&dead);
	v = view_of(&first);
	*ret_number = member_of("a", &first, &v);
	version_of("b", &second);
	view_of(&dead);
	return v;
}

static void a_missing_view_stops_it(void **state)
{
	uint64_t number;
	struct view v = something(&number);

	(void)state;
	assert_int_equal(clusters_bury(pool->clusters, v.slot, NULL), 0);
	refuse("is missing; nothing is removed");
}

static void a_damaged_header_stops_it(void **state)
{
	uint64_t number;
	struct view v = something(&number);
	int fd = by_hand();

	(void)state;
	flip(fd, v.slot * POOL_SLOT_SIZE + 30);
	close(fd);
	refuse("the header is damaged");
}

static void a_missing_stub_stops_it(void **state)
{
	char name[POOL_FILE_NAME_ROOM];
	uint64_t number;
	struct view v = something(&number);

	(void)state;
	assert_int_equal(unlinkat(pool->dirs[POOL_VIEWS], pool_id_file_name(v.id, name), 0), 0);
	refuse("is missing, and needed; nothing is removed");
}

static void damaged_tables_stop_it(void **state)
{
	uint64_t number;
	struct view v = something(&number);
	uint64_t end = v.slice_size + v.slot * POOL_SLOT_SIZE, l1 = end - 2 * BLOCK_SIZE, l2 = l1 - 2 * BLOCK_SIZE;
	static const char *words[] = { "of its L1 table is damaged", "an entry of L2 table 0 is damaged" };
	int fd = by_hand();

	(void)state;
	flip(fd, l1 + 6);
	refuse(words[0]);
	flip(fd, l1 + 6);
	flip(fd, l1 + 8 + 5);
	refuse(words[0]);
	flip(fd, l1 + 8 + 5);
	flip(fd, l2 + 1);
	refuse(words[1]);
	flip(fd, l2 + 1);
	collect();
	close(fd);
}

static void a_damaged_node_stops_it(void **state)
{
	char name[100], text[POOL_ID_TEXT_ROOM];
	uint64_t number, size;
	struct stat st;
	int fd, refused = 0;

	(void)state;
	something(&number);
	snprintf(name, sizeof(name), "pool/trees/%s.nodes", pool_id_text(pool->uuid, text));
	fd = openat(pool_dirfd, name, O_RDWR | O_CLOEXEC);
	assert_int_equal(fstat(fd, &st), 0);
	size = (uint64_t)st.st_size;
	for (uint64_t at = 40; at < size; at += 64) {
		struct err err = ERR_INIT;
		const struct collect_options o = { .memory = MIB, .dry_run = true };

		flip(fd, at);
		again();
		if (collect_with(&o, &err) < 0) {
			assert_int_equal(err.kind, ERR_FORMAT);
			assert_non_null(strstr(err.text, "missing or damaged; nothing is removed"));
			refused++;
		}
		flip(fd, at);
	}
	assert_true(refused >= 6);
	close(fd);
	again();
	collect();
	expect_disk(&first);
	expect_disk(&second);
}

/* Also where views that nobody needs have the same tree, and are looked at as well. */
static void a_damaged_node_of_a_view_stops_it(void **state)
{
	const uint8_t id[POOL_ID_SIZE] = { 1 };
	char name[100], text[POOL_ID_TEXT_ROOM];
	struct inner root;
	struct view v;
	uint64_t at;
	int fd;

	(void)state;
	import(&first);
	for (int i = 0; i < 15; i++)
		view_of(&first);
	v = view_of(&first);
	name_sealed(&v, id, false, 7);
	assert_int_equal(nodes_get_inner(pool->nodes, first.root, 1, &root, NULL), 0);
	assert_int_equal(nodes_locate(pool->nodes, root.children[0], 0, POOL_UNIT_BITS_MIN, &at, NULL), 1);
	snprintf(name, sizeof(name), "pool/trees/%s.nodes", pool_id_text(pool->uuid, text));
	fd = openat(pool_dirfd, name, O_RDWR | O_CLOEXEC);
	flip(fd, at + 20);
	close(fd);
	again();
	refuse("missing or damaged; nothing is removed");
}

static void an_unreadable_name_stops_it(void **state)
{
	uint64_t number;
	struct view v = something(&number);
	char name[40];
	int fd;

	(void)state;
	snprintf(name, sizeof(name), "%llu", (unsigned long long)number);
	fd = openat(pool->dirs[POOL_NAMES], name, O_RDWR | O_CLOEXEC);
	flip(fd, 9);
	refuse("name");
	flip(fd, 9);
	close(fd);
	fd = openat(pool->dirs[POOL_NAMES], "stranger", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	close(fd);
	refuse("stranger");
	expect_view(&v);
}

/* Data behind the end: somebody cut the file. */
static void a_cluster_file_that_was_cut_stops_it(void **state)
{
	uint64_t number, at;
	int fd = by_hand();

	(void)state;
	something(&number);
	at = place_of(&second, 1);
	close_pool();
	assert_int_equal(ftruncate(fd, (off_t)at + 4096), 0);
	close(fd);
	open_pool();
	refuse("");
}

/* A view that no name needs may be damaged: it goes all the same. */
static void what_no_name_needs_may_be_damaged(void **state)
{
	struct disk dead = { .size = SEGMENT_SIZE, .pieces = { { 0, 256 * KIB, 77 } } };
	char name[100], text[POOL_ID_TEXT_ROOM];
	struct view v;
	uint64_t from;
	int fd;

	(void)state;
	import(&first);
	version_of("a", &first);
	from = round_up(nodes_bytes(pool->nodes), BLOCK_SIZE);
	import(&dead);
	v = view_of(&dead);
	snprintf(name, sizeof(name), "pool/trees/%s.nodes", pool_id_text(pool->uuid, text));
	fd = openat(pool_dirfd, name, O_RDWR | O_CLOEXEC);
	flip(fd, from + 20);
	close(fd);
	again();
	collect();
	assert_int_equal(got.freed, 0);
	assert_true(is_in(POOL_TRASH, v.id));
	collect();
	assert_int_equal(got.freed, 256 * KIB + TABLES - BLOCK_SIZE);
	expect_disk(&first);
}

/* ---- tables say what guests read ---- */

/* After healing, tables lead to the old clusters, of which all but a bit is right. */
static void clusters_that_only_tables_have_stay(void **state)
{
	static uint8_t before[128 * KIB], after[128 * KIB];
	int fd = by_hand();
	struct view v;
	uint64_t old;

	(void)state;
	import(&first);
	v = view_of(&first);
	member_of("a", &first, &v);
	old = place_of(&first, 1);
	for (unsigned i = 0; i < sizeof(before) / BLOCK_SIZE; i++)
		flip(fd, old + i * BLOCK_SIZE + 5);
	import(&first);
	expect_disk(&first);
	assert_int_not_equal(place_of(&first, 1), old);
	assert_int_equal(pread(fd, before, sizeof(before), (off_t)old), sizeof(before));
	collect();
	assert_int_equal(got.freed, 0);
	assert_int_equal(pread(fd, after, sizeof(after), (off_t)old), sizeof(after));
	assert_memory_equal(before, after, sizeof(before));
	close(fd);
}

/* ---- dry runs, partitions ---- */

static void a_dry_run_changes_nothing_and_says_the_same(void **state)
{
	uint64_t number, before;
	struct collected said;
	struct stat was, is;

	(void)state;
	something(&number);
	forget(number);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(fstat(cluster_file_fd(clusters_growing(pool->clusters).file), &was), 0);
		before = on_disk();
		said = would();
		assert_int_equal(on_disk(), before);
		assert_int_equal(fstat(cluster_file_fd(clusters_growing(pool->clusters).file), &is), 0);
		assert_int_equal(was.st_mtim.tv_nsec, is.st_mtim.tv_nsec);
		assert_memory_equal((would(), &got), &said, sizeof(said));
		collect();
		assert_int_equal(got.freed, said.freed);
		assert_int_equal(got.live, said.live);
		assert_int_equal(got.dead, said.dead);
		assert_int_equal(got.nr_dying, said.nr_dying);
		assert_int_equal(got.nr_removed, said.nr_removed);
	}
	expect_disk(&second);
}

/* The smallest bitmap is of 32 GiB: the file is made long, and some of it lies behind that. */
static void parts_come_to_the_same_as_the_whole(void **state)
{
	const struct collect_options small = { .memory = 1, .dry_run = true }, all = { .memory = 64 * MIB, .dry_run = true };
	struct disk third = { .size = SEGMENT_SIZE, .pieces = { { 0, 256 * KIB, 50 } } };
	struct disk dead = { .size = SEGMENT_SIZE, .pieces = { { 0, 256 * KIB, 51 } } };
	struct collected one;
	uint64_t number;
	struct view v;
	int fd = by_hand();

	(void)state;
	something(&number);
	forget(number);
	for (int i = 1; i < 4; i++) {
		close_pool();
		assert_int_equal(ftruncate(fd, (off_t)(POOL_DATA_BEGIN + (uint64_t)i * 33 * GIB)), 0);
		open_pool();
		third.pieces[0].number += i;
		dead.pieces[0].number += i * 100;
		import(&dead);
		import(&third);
		v = view_of(&third);
		member_of("c", &third, &v);
	}
	close(fd);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(collect_with(&all, NULL), 0);
		one = got;
		assert_true(one.freed > 0 || i > 0);
		assert_int_equal(collect_with(&small, NULL), 0);
		assert_memory_equal(&got, &one, sizeof(one));
		assert_int_equal(collect_with(&(struct collect_options){ .memory = 1 }, NULL), 0);
		assert_int_equal(got.freed, one.freed);
		assert_int_equal(got.live, one.live);
	}
	expect_view(&v);
	expect_disk(&third);
	expect_disk(&second);
}

/* ---- afterwards ---- */

/* What was freed is not shared again; what was dead and stayed may be. */
static void imports_go_on_after_a_collection(void **state)
{
	struct import_stats stats;
	uint64_t number;

	(void)state;
	import(&second);
	import(&first);
	number = version_of("a", &first);
	collect();
	forget(number);
	for (int i = 0; i < 3; i++) {
		collect();
		stats = import(&first);
		assert_int_equal(stats.stored, i == 0 ? 768 * KIB : 0);
		assert_int_equal(stats.shared_runs + stats.shared_segments, i == 0 ? 0 : 768 * KIB);
		expect_disk(&first);
		if (i == 0)
			version_of("again", &first);
		again();
	}
	stats = import(&second);
	assert_int_equal(stats.shared_runs + stats.shared_segments, 256 * KIB);
	expect_disk(&second);
}

static void the_status_adds_up(void **state)
{
	struct pool_status s;
	uint64_t number;

	(void)state;
	for (int i = 0; i < 30; i++) {
		struct disk zeros = { .size = SEGMENT_SIZE };

		view_of(&zeros);
	}
	something(&number);
	assert_int_equal(pool_status(pool, &s, NULL), 0);
	assert_int_equal(s.logical, 768 * KIB + 640 * KIB);
	assert_int_equal(s.distinct, (256 + 512 + 384 + 256) * KIB); /* a view has the last */
	assert_int_equal(s.nr_views, 32);
	close_pool();
	open_pool_for(false);
	assert_int_equal(pool_status(pool, &s, NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		pool_test(what_is_kept_stays_and_what_is_dead_becomes_holes),
		pool_test(versions_without_views_stay),
		pool_test(versions_stay_whose_nodes_are_deltas),
		pool_test(an_empty_pool_is_collected_too),
		pool_test(short_runs_stay),
		pool_test(views_die_in_two_steps),
		pool_test(a_dying_view_that_is_named_again_comes_back),
		pool_test(a_dying_view_is_given_to_nobody),
		pool_test(a_stub_in_use_keeps_its_view),
		pool_test(a_stub_in_both_places_is_no_trouble),
		pool_test(a_view_that_was_never_published_goes_at_once),
		pool_test(file_systems_without_holes_free_nothing),
		pool_test(slots_are_never_given_out_twice),
		pool_test(a_replaced_view_lives_while_its_old_stub_is_in_use),
		pool_test(an_old_stub_goes_when_nobody_has_it_open),
		pool_test(sealed_overlays_die_in_two_steps),
		pool_test(what_a_sealed_overlay_stands_on_lives_with_it),
		pool_test(a_missing_sealed_overlay_stops_it),
		pool_test(a_sealed_overlay_that_cannot_be_read_stops_it),
		pool_test(a_missing_view_stops_it),
		pool_test(a_damaged_header_stops_it),
		pool_test(a_missing_stub_stops_it),
		pool_test(damaged_tables_stop_it),
		pool_test(a_damaged_node_stops_it),
		pool_test(a_damaged_node_of_a_view_stops_it),
		pool_test(an_unreadable_name_stops_it),
		pool_test(a_cluster_file_that_was_cut_stops_it),
		pool_test(what_no_name_needs_may_be_damaged),
		pool_test(clusters_that_only_tables_have_stay),
		pool_test(a_dry_run_changes_nothing_and_says_the_same),
		pool_test(parts_come_to_the_same_as_the_whole),
		pool_test(imports_go_on_after_a_collection),
		pool_test(the_status_adds_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
