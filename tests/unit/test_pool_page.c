/* SPDX-License-Identifier: Apache-2.0 */
/* The examples of dedupscan-pool(5) are decoded by our readers and made again by our writers.  After a change that is meant,
 * UPDATE=1 writes them anew into the page, whose words must follow. */
#include "tests/unit/page_help.h"
#include "tests/unit/tree_help.h"

#include "compactor/pool/clusters.h"
#include "compactor/pool/import.h"
#include "compactor/pool/names.h"
#include "compactor/pool/node_record.h"
#include "compactor/pool/tree.h"
#include "compactor/pool/view.h"
#include "scanner/chunk/digest.h"

#define PAGE "dedupscan-pool.5"

static const uint8_t uuid[POOL_ID_SIZE] = { 0x9c, 0x5b, 0x94, 0xb1, 0x35, 0xad, 0x49, 0xbb,
					    0xb1, 0x18, 0x8e, 0x8f, 0xc2, 0x4a, 0xbf, 0x80 };
static const uint8_t view_id[POOL_ID_SIZE] = { 0x7d, 0x44, 0x48, 0x40, 0x9d, 0xc0, 0x41, 0xd1,
					       0xb2, 0x45, 0x5f, 0xfd, 0xce, 0x74, 0xfa, 0xd2 };

/* ---- a pool with one disk of 4 MiB: 64 KiB of data in it, twice, and 8 KiB ---- */

#define DISK_SIZE (2 * SEGMENT_SIZE)

static struct pool *pool;
static int dirfd = -1;
static uint8_t root[DIGEST_SIZE];
static struct view view;

static void put_block(uint8_t *segment, size_t block, uint8_t byte)
{
	memset(segment + block * BLOCK_SIZE, byte, BLOCK_SIZE);
}

static void fill_segment(unsigned number, uint8_t *ret)
{
	memset(ret, 0, SEGMENT_SIZE);
	for (size_t i = 0; i < 2 && number == 0; i++)
		put_block(ret, i, (uint8_t)('a' + i));
	for (size_t i = 0; i < 16; i++)
		put_block(ret, (number == 0 ? 256 : 2) + i, (uint8_t)('A' + i));
}

static void import(void)
{
	const struct import_options o = { .unit_bits = 12, .min_run = 16 * KIB };
	CLEANUP(import_free) struct import *i = import_new(pool, DISK_SIZE, &o, NULL, 0, NULL);
	CLEANUP(free) uint8_t *segment = malloc(SEGMENT_SIZE);
	struct import_stats stats;

	assert_non_null(i);
	assert_non_null(segment);
	for (unsigned s = 0; s < 2; s++) {
		fill_segment(s, segment);
		assert_int_equal(import_segment(i, s, segment, NULL), 0);
	}
	assert_int_equal(import_end(i, root, &stats, NULL), 0);
	assert_int_equal(stats.stored, 18 * BLOCK_SIZE);
	assert_int_equal(pool_sync(pool, NULL), 0);
}

static int make(void **state)
{
	struct view as = { .disk_size = DISK_SIZE, .cluster_bits = 12 };

	if (tree_make(state) < 0 || digest_prepare(NULL) < 0)
		return -1;
	dirfd = open(tree, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(pool_create(dirfd, "pool", NULL), 0);
	assert_int_equal(pool_open(dirfd, "pool", in_tree("pool"), true, &pool, NULL), 0);
	import();
	memcpy(as.id, view_id, sizeof(view_id));
	memcpy(as.root, root, sizeof(root));
	assert_int_equal(view_write_as(pool, &as, NULL, &view, NULL), 0);
	return 0;
}

static int unmake(void **state)
{
	pool_close(pool);
	close(dirfd);
	return tree_remove(state);
}

static struct page_bytes read_at(const char *name, off_t at, size_t len)
{
	struct page_bytes b = { 0 };
	int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC);
	ssize_t n = pread(fd, b.data, len, at);

	assert_true(fd >= 0 && n > 0);
	close(fd);
	b.len = (size_t)n;
	return b;
}

static void assert_page_has(const char *mark, const struct page_bytes *made, bool dump)
{
	struct page_bytes shown;

	if (getenv("UPDATE"))
		page_update(PAGE, mark, made, dump);
	shown = dump ? page_read_dump(PAGE, mark) : page_read_text(PAGE, mark);
	assert_int_equal(shown.len, made->len);
	assert_memory_equal(shown.data, made->data, made->len);
}

/* ---- the superblock ---- */

static void the_page_shows_the_superblock_that_is_written(void **state)
{
	struct page_bytes made;

	(void)state;
	assert_int_equal(cluster_file_create(dirfd, "clusters", uuid, NULL), 0);
	made = read_at("clusters", 0, sizeof(struct pool_superblock_disk));
	assert_page_has("hexdump: superblock", &made, true);
	made = read_at("clusters", POOL_COPY_AT, sizeof(struct pool_superblock_disk));
	assert_page_has("hexdump: superblock", &made, true);
}

static bool superblock_is_read(const struct page_bytes *b)
{
	uint8_t room[POOL_SUPERBLOCK_ROOM] = { 0 };
	struct cluster_file_id got;

	assert_int_equal(b->len, sizeof(struct pool_superblock_disk));
	memcpy(room, b->data, b->len);
	return superblock_decode(room, true, &got, NULL) == 0 && memcmp(got.uuid, uuid, POOL_ID_SIZE) == 0;
}

static const struct cluster_file_id further = {
	.uuid = { 0x51, 0x0e, 0x35, 0xc2, 0x17, 0x7d, 0x4e, 0x6b, 0x8a, 0x9f, 0x04, 0xd8, 0xee, 0x60, 0x2b, 0x13 },
	.pool = { 0x9c, 0x5b, 0x94, 0xb1, 0x35, 0xad, 0x49, 0xbb, 0xb1, 0x18, 0x8e, 0x8f, 0xc2, 0x4a, 0xbf, 0x80 },
	.number = 1,
};

static void the_page_shows_the_superblock_of_a_further_file(void **state)
{
	const struct stat like = { .st_mode = 0444, .st_uid = geteuid(), .st_gid = getegid() };
	struct page_bytes made;

	(void)state;
	assert_int_equal(cluster_file_create_further(dirfd, "further", &further, &like, NULL), 0);
	made = read_at("further", 0, POOL_SUPERBLOCK_ROOM);
	assert_page_has("hexdump: further superblock", &made, true);
	made = read_at("further", POOL_COPY_AT, POOL_SUPERBLOCK_ROOM);
	assert_page_has("hexdump: further superblock", &made, true);
}

static bool further_superblock_is_read(const struct page_bytes *b)
{
	struct cluster_file_id got;

	assert_int_equal(b->len, POOL_SUPERBLOCK_ROOM);
	return superblock_decode(b->data, true, &got, NULL) == 0 && memcmp(&got, &further, sizeof(got)) == 0;
}

static void the_superblock_of_the_page_says_what_the_page_says(void **state)
{
	struct page_bytes b = page_read_dump(PAGE, "hexdump: superblock");
	const struct pool_superblock_disk *d = (const void *)b.data;

	(void)state;
	assert_true(superblock_is_read(&b));
	assert_int_equal(le64_get(d->slot_size), 0x10000);
	assert_int_equal(le64_get(d->nr_slots), 0x100000);
	assert_int_equal(le64_get(d->data_begin), 0x1000000000);
}

/* ---- the header of a view ---- */

static void the_page_shows_the_header_that_is_written(void **state)
{
	struct page_bytes made = { .len = BLOCK_SIZE };

	(void)state;
	assert_int_equal(clusters_read_slot(pool->clusters, 1, made.data, NULL), 0);
	assert_page_has("hexdump: view", &made, true);
}

static bool header_is_read(const struct page_bytes *b)
{
	struct view v;

	assert_int_equal(b->len, BLOCK_SIZE);
	return view_decode(b->data, 1, &v, NULL) == 0;
}

static void the_header_of_the_page_says_what_the_page_says(void **state)
{
	struct page_bytes b = page_read_dump(PAGE, "hexdump: view");
	struct view v;

	(void)state;
	assert_int_equal(view_decode(b.data, 1, &v, NULL), 0);
	assert_memory_equal(v.id, view_id, sizeof(view_id));
	assert_memory_equal(v.root, root, sizeof(root));
	assert_int_equal(v.disk_size, 0x400000);
	assert_int_equal(v.generation, 1);
	assert_int_equal(v.cluster_bits, 12);
	assert_int_equal(v.slice_size, 0x1000006000);
}

/* ---- nodes ---- */

static void the_page_shows_the_nodes_that_are_written(void **state)
{
	char name[64] = "pool/trees/";
	struct page_bytes made;

	(void)state;
	pool_id_text(pool->uuid, name + strlen(name));
	made = read_at(strcat(name, ".nodes"), 0, sizeof(made.data));
	assert_page_has("hexdump: nodes", &made, true);
}

static size_t record_at(const struct page_bytes *b, size_t at)
{
	return node_record_check(b->data + at, b->len - at);
}

static bool nodes_are_read(const struct page_bytes *b)
{
	CLEANUP(free) struct leaf *leaf = malloc(sizeof(*leaf));
	struct inner inner;
	size_t at = 0, len;

	assert_non_null(leaf);
	for (unsigned i = 0; i < 2; i++, at += len) {
		len = record_at(b, at);
		if (!len || node_record_leaf(b->data + at, leaf, NULL) < 0)
			return false;
	}
	len = record_at(b, at);
	return len && at + len == b->len && node_record_inner(b->data + at, &inner, NULL) == 0;
}

static void assert_run(const struct run *r, uint32_t first, uint32_t nr, uint64_t place)
{
	assert_int_equal(r->first, first);
	assert_int_equal(r->nr, nr);
	assert_int_equal(r->place, place);
}

static void the_nodes_of_the_page_say_what_the_page_says(void **state)
{
	struct page_bytes b = page_read_dump(PAGE, "hexdump: nodes");
	CLEANUP(free) struct leaf *leaves = calloc(2, sizeof(*leaves));
	struct inner inner;
	size_t at;

	(void)state;
	assert_non_null(leaves);
	assert_true(nodes_are_read(&b));
	at = record_at(&b, 0);
	assert_int_equal(node_record_leaf(b.data, &leaves[0], NULL), 0);
	assert_int_equal(node_record_leaf(b.data + at, &leaves[1], NULL), 0);
	at += record_at(&b, at);
	assert_int_equal(node_record_inner(b.data + at, &inner, NULL), 0);
	assert_int_equal(leaves[0].nr_runs, 2);
	assert_run(&leaves[0].runs[0], 0, 2, 0x1000000);
	assert_run(&leaves[0].runs[1], 256, 16, 0x1000002);
	assert_int_equal(leaves[1].nr_runs, 1);
	assert_run(&leaves[1].runs[0], 2, 16, 0x1000002);
	assert_memory_equal(inner.digest, root, sizeof(root));
	assert_memory_equal(inner.children[0], leaves[0].digest, DIGEST_SIZE);
	assert_memory_equal(inner.children[1], leaves[1].digest, DIGEST_SIZE);
	assert_true(digest_is_null(inner.children[2]));
}

static void the_leaves_of_the_page_are_digests_of_their_segments(void **state)
{
	struct page_bytes b = page_read_dump(PAGE, "hexdump: nodes");
	CLEANUP(free) uint8_t *segment = malloc(SEGMENT_SIZE);
	uint8_t digest[DIGEST_SIZE];
	size_t at = 0;

	(void)state;
	assert_non_null(segment);
	for (unsigned i = 0; i < 2; i++, at += record_at(&b, at)) {
		fill_segment(i, segment);
		digest_bytes(segment, SEGMENT_SIZE, digest);
		assert_memory_equal(node_record_id(b.data + at).digest, digest, DIGEST_SIZE);
	}
}

/* A version of the disk whose second segment is as the first. */
static void the_page_shows_the_delta_that_is_written(void **state)
{
	CLEANUP(tree_maker_free) struct tree_maker *m = tree_maker_new(pool->nodes, DISK_SIZE, root, DISK_SIZE, NULL);
	struct page_bytes b = page_read_dump(PAGE, "hexdump: nodes"), made;
	const uint8_t *digest = node_record_id(b.data).digest;
	char name[64] = "pool/trees/";
	uint8_t later[DIGEST_SIZE];

	(void)state;
	assert_non_null(m);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(tree_maker_add(m, i, digest, NULL), 0);
	assert_int_equal(tree_maker_end(m, later, NULL), 0);
	assert_int_equal(pool_sync(pool, NULL), 0);
	pool_id_text(pool->uuid, name + strlen(name));
	made = read_at(strcat(name, ".nodes"), 4096, sizeof(made.data));
	assert_page_has("hexdump: delta", &made, true);
}

static bool delta_is_read(const struct page_bytes *b)
{
	struct node_delta d;

	return record_at(b, 0) == b->len && node_record_is_delta(b->data) && node_record_delta(b->data, &d, NULL) == 0;
}

static void the_delta_of_the_page_says_what_the_page_says(void **state)
{
	struct page_bytes b = page_read_dump(PAGE, "hexdump: delta"), nodes = page_read_dump(PAGE, "hexdump: nodes");
	struct node_delta d;

	(void)state;
	assert_true(delta_is_read(&b));
	assert_int_equal(node_record_delta(b.data, &d, NULL), 0);
	assert_int_equal(d.nr, 1);
	assert_int_equal(d.which[0], 1);
	assert_int_equal(d.which - b.data, 0x2c);
	assert_memory_equal(d.digests, node_record_id(nodes.data).digest, DIGEST_SIZE);
	assert_memory_equal(d.base.digest, root, DIGEST_SIZE / 2);
}

/* ---- names ---- */

static const uint8_t xml[] = "<domain>\n\t<name>web</name>\n</domain>\n";

static struct name sample_name(void)
{
	struct name n = { .kind = NAME_VERSION, .number = 17, .label = "before 100%", .made = 1795248000 };
	struct name_disk d = { .path = "/srv/vm/web.qcow2", .size = DISK_SIZE, .folded = true };
	struct name_file f = { .path = "/etc/libvirt/qemu/web.xml", .len = sizeof(xml) - 1 };

	memcpy(d.root, root, sizeof(root));
	memcpy(d.view, view_id, sizeof(view_id));
	f.bytes = malloc(f.len);
	assert_non_null(f.bytes);
	memcpy(f.bytes, xml, f.len);
	assert_int_equal(vec_push(&n.disks, d), 0);
	assert_int_equal(vec_push(&n.files, f), 0);
	return n;
}

static void the_page_shows_the_name_that_is_written(void **state)
{
	CLEANUP(name_release) struct name n = sample_name();
	CLEANUP(free) char *text = NULL;
	struct page_bytes made = { 0 };

	(void)state;
	assert_int_equal(name_encode(&n, &text, &made.len, NULL), 0);
	assert_true(made.len <= sizeof(made.data));
	memcpy(made.data, text, made.len);
	assert_page_has("text: name", &made, false);
}

static bool name_is_read(const struct page_bytes *b)
{
	CLEANUP(name_release) struct name n = { .number = 0 };

	return name_decode((const char *)b->data, b->len, &n, NULL) == 0;
}

static void the_name_of_the_page_says_what_the_page_says(void **state)
{
	struct page_bytes b = page_read_text(PAGE, "text: name");
	CLEANUP(name_release) struct name n = { .number = 0 };

	(void)state;
	assert_int_equal(name_decode((const char *)b.data, b.len, &n, NULL), 0);
	assert_int_equal(n.kind, NAME_VERSION);
	assert_int_equal(n.number, 17);
	assert_int_equal(n.made, 1795248000);
	assert_string_equal(n.label, "before 100%");
	assert_int_equal(n.disks.nr, 1);
	assert_memory_equal(n.disks.items[0].root, root, sizeof(root));
	assert_int_equal(n.files.nr, 1);
	assert_int_equal(n.files.items[0].len, sizeof(xml) - 1);
	assert_memory_equal(n.files.items[0].bytes, xml, sizeof(xml) - 1);
}

/* ---- controls ---- */

/* Every byte counts, but for padding: turning it over is noticed. */
static void assert_no_byte_can_change(const char *what, struct page_bytes b, bool (*is_read)(const struct page_bytes *),
				      bool (*counts)(const struct page_bytes *, size_t))
{
	assert_true(is_read(&b));
	for (size_t i = 0; i < b.len; i++) {
		if (counts && !counts(&b, i))
			continue;
		b.data[i] ^= 0xff;
		if (is_read(&b))
			fail_msg("a flipped byte at 0x%zx of the %s passes", i, what);
		b.data[i] ^= 0xff;
	}
}

static bool is_no_padding_of_a_superblock(const struct page_bytes *b, size_t at)
{
	(void)b;
	return at < offsetof(struct pool_superblock_disk, padding);
}

static bool is_no_padding_of_a_record(const struct page_bytes *b, size_t at)
{
	const struct pool_node_disk *d;
	size_t begin = 0;

	while (begin + record_at(b, begin) <= at)
		begin += record_at(b, begin);
	d = (const void *)(b->data + begin);
	return at < begin + sizeof(*d) + le32_get(d->len);
}

static bool is_no_padding_of_a_delta(const struct page_bytes *b, size_t at)
{
	(void)b;
	return at < sizeof(struct pool_delta_disk) + 1 + DIGEST_SIZE;
}

static void no_byte_of_the_examples_can_change(void **state)
{
	(void)state;
	assert_no_byte_can_change("superblock", page_read_dump(PAGE, "hexdump: superblock"), superblock_is_read,
				  is_no_padding_of_a_superblock);
	assert_no_byte_can_change("further superblock", page_read_dump(PAGE, "hexdump: further superblock"),
				  further_superblock_is_read, NULL);
	assert_no_byte_can_change("header", page_read_dump(PAGE, "hexdump: view"), header_is_read, NULL);
	assert_no_byte_can_change("nodes", page_read_dump(PAGE, "hexdump: nodes"), nodes_are_read, is_no_padding_of_a_record);
	assert_no_byte_can_change("delta", page_read_dump(PAGE, "hexdump: delta"), delta_is_read, is_no_padding_of_a_delta);
	assert_no_byte_can_change("name", page_read_text(PAGE, "text: name"), name_is_read, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_page_shows_the_superblock_that_is_written),
		cmocka_unit_test(the_superblock_of_the_page_says_what_the_page_says),
		cmocka_unit_test(the_page_shows_the_superblock_of_a_further_file),
		cmocka_unit_test(the_page_shows_the_header_that_is_written),
		cmocka_unit_test(the_header_of_the_page_says_what_the_page_says),
		cmocka_unit_test(the_page_shows_the_nodes_that_are_written),
		cmocka_unit_test(the_nodes_of_the_page_say_what_the_page_says),
		cmocka_unit_test(the_leaves_of_the_page_are_digests_of_their_segments),
		cmocka_unit_test(the_page_shows_the_delta_that_is_written),
		cmocka_unit_test(the_delta_of_the_page_says_what_the_page_says),
		cmocka_unit_test(the_page_shows_the_name_that_is_written),
		cmocka_unit_test(the_name_of_the_page_says_what_the_page_says),
		cmocka_unit_test(no_byte_of_the_examples_can_change),
	};

	return cmocka_run_group_tests(tests, make, unmake);
}
