/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include <string.h>

#include "scanner/base/crc32c.h"
#include "scanner/base/file.h"
#include "tests/unit/name_help.h"

/* Names of a pool: their text, and the directory they lie in. */

static struct pool pool;
static struct file_ops ops;

static void open_names(void)
{
	names_forget(&pool);
	pool = (struct pool){ .path = tree, .writing = true };
	if (mkdir(in_tree("names"), 0700) < 0)
		assert_int_equal(errno, EEXIST);
	pool.dirs[POOL_NAMES] = open(in_tree("names"), O_RDONLY | O_DIRECTORY);
	assert_true(pool.dirs[POOL_NAMES] >= 0);
}

/* As another process would. */
static void open_again(void)
{
	names_forget(&pool);
	close(pool.dirs[POOL_NAMES]);
	open_names();
}

static struct name member(const char *path)
{
	struct name n = { .kind = NAME_MEMBER };
	struct name_disk d = { .size = 1 << 30, .view = { 7, 7 } };

	snprintf(d.path, sizeof(d.path), "%s", path);
	assert_int_equal(vec_push(&n.disks, d), 0);
	return n;
}

static struct name version(const char *label, const char *path)
{
	struct name n = member(path);

	n.kind = NAME_VERSION;
	n.disks.items[0].folded = true;
	memset(n.disks.items[0].root, 0xab, DIGEST_SIZE);
	snprintf(n.label, sizeof(n.label), "%s", label);
	return n;
}

static uint64_t publish(struct name n)
{
	struct err err = ERR_INIT;

	if (names_publish(&pool, &n, true, &err) < 0)
		fail_msg("%s", err.text);
	name_release(&n);
	return n.number;
}

static int add_to_text(void *ctx, const struct name *n, struct err *err)
{
	char *text = ctx;

	(void)err;
	sprintf(text + strlen(text), "%d%s%s ", (int)n->number, n->kind == NAME_MEMBER ? "m" : "v", n->label);
	return 0;
}

static const char *all(void)
{
	static char text[4096];
	struct err err = ERR_INIT;

	*text = '\0';
	if (names_each(&pool, add_to_text, text, &err) < 0)
		snprintf(text, sizeof(text), "%s", err.text);
	return text;
}

/* ---- the text ---- */

static uint64_t next_random(struct name_source *s)
{
	s->state = s->state * UINT64_C(6364136223846793005) + 1442695040888963407u;
	return s->state >> 20;
}

static char *encode(const struct name *n)
{
	struct err err = ERR_INIT;
	char *text = NULL;
	size_t len;

	if (name_encode(n, &text, &len, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(strlen(text), len);
	return text;
}

static void what_is_written_comes_back(void **state)
{
	struct name_source s = { .next = next_random, .state = 1 };

	(void)state;
	for (unsigned i = 0; i < 500; i++) {
		struct name n, back, copy;
		struct err err = ERR_INIT;
		char *text, *again;

		assert_int_equal(any_name(&s, &n), 0);
		text = encode(&n);
		if (name_decode(text, strlen(text), &back, &err) < 0)
			fail_msg("%s: %s", err.text, text);
		assert_int_equal(name_copy(&back, &copy, NULL), 0);
		again = encode(&copy);
		assert_string_equal(text, again);
		free(text);
		free(again);
		name_release(&n);
		name_release(&back);
		name_release(&copy);
	}
}

static void the_text_is_as_documented(void **state)
{
	struct name n = version("50%\n", "/srv/a b\xc3\xa9.qcow2");
	struct name_file f = { .path = "/x.xml", .len = 4, .bytes = (uint8_t *)strdup("<a\n>") };
	char *text;

	(void)state;
	n.number = 17;
	n.made = 1795000000;
	assert_int_equal(vec_push(&n.files, f), 0);
	text = encode(&n);
	assert_memory_equal(text,
			    "dedupscan-name 1\nkind version\nnumber 17\nmade 1795000000\nlabel 50%25%0A\n"
			    "disk /srv/a b%C3%A9.qcow2\nsize 1073741824\n"
			    "root abababababababababababababababababababababababababababababababab\n"
			    "view 07070000-0000-0000-0000-000000000000\nsealed -\nbelow -\ninode 0\nfile /x.xml\n"
			    "bytes <a%0A>\ncrc ",
			    strlen(text) - 9);
	free(text);
	name_release(&n);
}

static int decode_with_crc(const char *text, struct err *err)
{
	char whole[4096];
	struct name n;
	int rc;

	snprintf(whole, sizeof(whole), "%scrc %08x\n", text, crc32c(0, text, strlen(text)));
	rc = name_decode(whole, strlen(whole), &n, err);
	if (rc == 0)
		name_release(&n);
	return rc;
}

#define HEAD "dedupscan-name 1\nkind member\nnumber 1\nmade 1\nlabel \n"
#define ID "3b0c0f62-9d7e-4c1a-8f00-5a5a5a5a5a5a"
#define REST "view " ID "\nsealed -\nbelow -\ninode 0\n"

static void other_ways_to_write_it_are_refused(void **state)
{
	static const char *const texts[] = {
		"dedupscan-name 1\n",
		HEAD,
		HEAD "disk a\nsize 1\nroot -\n" REST,
		HEAD "disk /%61\nsize 1\nroot -\n" REST,
		HEAD "disk /%c3\nsize 1\nroot -\n" REST,
		HEAD "disk /\xc3\nsize 1\nroot -\n" REST,
		HEAD "disk /%00\nsize 1\nroot -\n" REST,
		HEAD "disk /%0\nsize 1\nroot -\n" REST,
		HEAD "disk /a\nsize 0\nroot -\n" REST,
		HEAD "disk /a\nsize 01\nroot -\n" REST,
		HEAD "disk /a\nsize 1 \nroot -\n" REST,
		HEAD "disk /a\nsize 18446744073709551616\nroot -\n" REST,
		HEAD "disk /a\nsize 9223372036854775808\nroot -\n" REST,
		HEAD "disk /a\nsize 1\nroot 00\n" REST,
		HEAD "disk /a\nsize 1\nroot -\nview -\nsealed -\nbelow -\ninode 0\n",
		HEAD "disk /a\nsize 1\nroot -\nview 3B0C0f62-9d7e-4c1a-8f00-5a5a5a5a5a5a\nsealed -\nbelow -\ninode 0\n",
		HEAD "disk /a\nsize 1\nroot -\nview 00000000-0000-0000-0000-000000000000\nsealed -\nbelow -\ninode 0\n",
		HEAD "disk /a\nsize 1\nroot -\nview " ID "\nsealed " ID "\nbelow -\ninode 0\n",
		HEAD "disk /a\nsize 1\nroot -\n" REST "file /a\nbytes \n",
		HEAD "disk /a\nsize 1\nroot -\n" REST "disk /b\nsize 1\nroot -\n" REST,
		HEAD "disk /a\nsize 1\nroot -\n" REST "\n",
		HEAD "disk /a\nroot -\nsize 1\n" REST,
	};
	struct err err = ERR_INIT;

	(void)state;
	assert_int_equal(decode_with_crc(HEAD "disk /a\nsize 1\nroot -\n" REST, &err), 0);
	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
		err = ERR_INIT;
		if (decode_with_crc(texts[i], &err) == 0)
			fail_msg("taken: %s", texts[i]);
		assert_int_equal(err.kind, ERR_FORMAT);
	}
}

/* Version 2 is what has that line, and nothing else. */
static void when_it_was_written_is_told(void **state)
{
	static const char head[] = "kind version\nnumber 1\nmade 1\nlabel v\ndisk /a\nsize 1\nroot -\nview -\nsealed " ID
				   "\nbelow -\ninode 0\n";
	struct err err = ERR_INIT;
	struct name n = version("v", "/a");
	char text[1024], *encoded;

	(void)state;
	snprintf(text, sizeof(text), "dedupscan-name 2\n%swritten 1795000000123456789\n", head);
	assert_int_equal(decode_with_crc(text, &err), 0);
	text[15] = '1';
	assert_int_equal(decode_with_crc(text, &err), -1);
	snprintf(text, sizeof(text), "dedupscan-name 2\n%s", head);
	assert_int_equal(decode_with_crc(text, &err), -1);
	text[15] = '1';
	assert_int_equal(decode_with_crc(text, &err), 0);
	snprintf(text, sizeof(text), "dedupscan-name 2\n%swritten 0\n", head);
	assert_int_equal(decode_with_crc(text, &err), -1);
	n.number = 1;
	n.disks.items[0].sealed[0] = 1;
	n.disks.items[0].written = 77;
	encoded = encode(&n);
	assert_memory_equal(encoded, "dedupscan-name 2\n", 17);
	assert_non_null(strstr(encoded, "\ninode 0\nwritten 77\ncrc "));
	free(encoded);
	name_release(&n);
}

/* Version 3 is what has these lines, and nothing else. */
static void that_it_was_expanded_is_told(void **state)
{
	static const char head[] = "kind member\nnumber 1\nmade 1\nlabel \ndisk /a\nsize 1\nroot -\n" REST;
	static const char *const bad[] = {
		"expanded 0\nborn 2\noriginal 3\n", "expanded 1\nborn 0\noriginal 3\n", "expanded 1\nborn 2\noriginal 0\n",
		"expanded 1\nborn 2\n", "expanded 1\n", "born 2\noriginal 3\n", "expanded 1\noriginal 3\nborn 2\n",
	};
	struct err err = ERR_INIT;
	struct name n = member("/a");
	char text[1024], *encoded;

	(void)state;
	snprintf(text, sizeof(text), "dedupscan-name 3\n%sexpanded 1\nborn 2\noriginal 3\n", head);
	assert_int_equal(decode_with_crc(text, &err), 0);
	for (text[15] = '1'; text[15] < '3'; text[15]++)
		assert_int_equal(decode_with_crc(text, &err), -1);
	snprintf(text, sizeof(text), "dedupscan-name 3\n%s", head);
	assert_int_equal(decode_with_crc(text, &err), -1);
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		snprintf(text, sizeof(text), "dedupscan-name 3\n%s%s", head, bad[i]);
		if (decode_with_crc(text, &err) == 0)
			fail_msg("taken: %s", bad[i]);
	}
	n.number = 1;
	n.disks.items[0].expanded = (struct name_expanded){ 77, 78, 79 };
	encoded = encode(&n);
	assert_memory_equal(encoded, "dedupscan-name 3\n", 17);
	assert_non_null(strstr(encoded, "\ninode 0\nexpanded 77\nborn 78\noriginal 79\ncrc "));
	free(encoded);
	n.kind = NAME_VERSION;
	n.disks.items[0].folded = true;
	assert_int_equal(name_encode(&n, &encoded, &(size_t){ 0 }, &err), -1);
	name_release(&n);
}

/* Version 3 is what has these lines, with or without that of version 2. */
static void what_was_sealed_is_told(void **state)
{
	static const char head[] = "kind version\nnumber 1\nmade 1\nlabel v\ndisk /a\nsize 1\nroot -\nview -\nsealed " ID
				   "\nbelow -\ninode 0\n";
	static const char *const good[] = { "length 1\nl1 00000000\n", "written 5\nlength 327680\nl1 89abcdef\n" };
	static const char *const bad[] = {
		"", "written 5\n", "length 0\nl1 00000000\n", "length 1\n", "l1 00000001\n", "length 1\nl1 0000000\n",
		"length 1\nl1 000000000\n", "length 1\nl1 89ABCDEF\n", "length 1\nl1 0000000g\n", "l1 00000001\nlength 1\n",
		"length 1\nl1 00000001\nwritten 5\n", "length 9223372036854775808\nl1 00000001\n",
	};
	struct err err = ERR_INIT;
	struct name n = version("v", "/a");
	char text[1024], *encoded;

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
		snprintf(text, sizeof(text), "dedupscan-name 3\n%s%s", head, good[i]);
		assert_int_equal(decode_with_crc(text, &err), 0);
		text[15] = '2';
		assert_int_equal(decode_with_crc(text, &err), -1);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		snprintf(text, sizeof(text), "dedupscan-name 3\n%s%s", head, bad[i]);
		if (decode_with_crc(text, &err) == 0)
			fail_msg("taken: %s", text);
	}
	n.number = 1;
	n.disks.items[0].length = 77;
	n.disks.items[0].l1 = 0xab;
	assert_int_equal(name_encode(&n, &encoded, &(size_t){ 0 }, &err), -1); /* of nothing that is sealed */
	n.disks.items[0].sealed[0] = 1;
	encoded = encode(&n);
	assert_memory_equal(encoded, "dedupscan-name 3\n", 17);
	assert_non_null(strstr(encoded, "\ninode 0\nlength 77\nl1 000000ab\ncrc "));
	free(encoded);
	name_release(&n);
}

static void a_newer_one_is_told(void **state)
{
	static const char *const texts[] = {
		"dedupscan-name 4\nanything\n", "dedupscan-name 0\nanything\n", "dedupscan-name 10\nanything\n",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
		struct err err = ERR_INIT;

		assert_int_equal(decode_with_crc(texts[i], &err), -1);
		assert_int_equal(err.kind, ERR_UNSUPPORTED);
	}
}

static void every_flipped_bit_and_every_cut_is_seen(void **state)
{
	struct name n = version("v", "/a"), got;
	char *text = encode(&n);
	size_t len = strlen(text);

	(void)state;
	for (size_t i = 0; i < len * 8; i++) {
		text[i / 8] ^= (char)(1 << i % 8);
		assert_int_equal(name_decode(text, len, &got, NULL), -1);
		text[i / 8] ^= (char)(1 << i % 8);
	}
	for (size_t i = 0; i < len; i++) {
		char *cut = malloc(i + 1);

		memcpy(cut, text, i);
		assert_int_equal(name_decode(cut, i, &got, NULL), -1);
		free(cut);
	}
	assert_int_equal(name_decode(text, len, &got, NULL), 0);
	name_release(&got);
	free(text);
	name_release(&n);
}

static void long_files_are_refused(void **state)
{
	struct name n = version("v", "/a");
	struct name_file f = { .path = "/x", .len = NAME_FILE_MAX + 1, .bytes = calloc(1, NAME_FILE_MAX + 1) };
	struct err err = ERR_INIT;
	char *text;
	size_t len;

	(void)state;
	assert_int_equal(vec_push(&n.files, f), 0);
	assert_int_equal(name_encode(&n, &text, &len, &err), -1);
	assert_int_equal(err.kind, ERR_UNSUPPORTED);
	n.files.items[0].len--;
	text = encode(&n);
	free(text);
	name_release(&n);
}

/* ---- the directory ---- */

static void names_are_numbered_and_found(void **state)
{
	struct name n;

	(void)state;
	open_names();
	assert_int_equal(publish(member("/a")), 1);
	assert_int_equal(publish(version("one", "/a")), 2);
	assert_int_equal(publish(version("one", "/b")), 3);
	assert_int_equal(publish(version("one", "/a")), 4);
	assert_string_equal(all(), "1m 2vone 3vone 4vone ");
	assert_int_equal(names_find_member(&pool, "/a", &n, NULL), 1);
	assert_int_equal(n.number, 1);
	name_release(&n);
	assert_int_equal(names_find_version(&pool, "/a", "one", &n, NULL), 1);
	assert_int_equal(n.number, 4);
	name_release(&n);
	assert_int_equal(names_find_version(&pool, NULL, "one", &n, NULL), 1);
	name_release(&n);
	assert_int_equal(names_find_version(&pool, "/c", "one", &n, NULL), 0);
	assert_int_equal(names_find_member(&pool, "/b", &n, NULL), 0);
}

static void a_version_that_is_being_sealed_is_not_found(void **state)
{
	struct name n = version("now", "/a"), got;

	(void)state;
	open_names();
	n.disks.items[0].folded = false;
	memset(n.disks.items[0].root, 0, DIGEST_SIZE);
	n.disks.items[0].sealed[0] = 1;
	n.disks.items[0].inode = 12;
	publish(n);
	assert_int_equal(names_find_version(&pool, "/a", "now", &got, NULL), 0);
	assert_string_equal(all(), "1vnow ");
}

static void no_number_is_given_twice(void **state)
{
	(void)state;
	open_names();
	publish(member("/a"));
	publish(member("/b"));
	assert_int_equal(names_remove(&pool, 2, NULL), 0);
	assert_string_equal(all(), "1m ");
	open_again();
	assert_string_equal(all(), "1m ");
	assert_int_equal(publish(member("/c")), 3);
	assert_int_equal(names_remove(&pool, 1, NULL), 0);
	assert_int_equal(names_remove(&pool, 3, NULL), 0);
	open_again();
	assert_string_equal(all(), "");
	assert_int_equal(publish(member("/d")), 4);
	open_again();
	publish(member("/e"));
	assert_int_equal(access(in_tree("names/2.gone"), F_OK), -1);
	assert_int_equal(access(in_tree("names/3.gone"), F_OK), -1);
}

static void a_replaced_name_keeps_its_number(void **state)
{
	struct name n = version("new", "/a");

	(void)state;
	open_names();
	publish(version("old", "/a"));
	publish(version("other", "/a"));
	assert_int_equal(names_replace(&pool, 1, &n, NULL), 0);
	assert_int_equal(n.number, 1);
	assert_string_equal(all(), "1vnew 2vother ");
	name_release(&n);
}

/* ---- promises ---- */

static int add_promise(void *ctx, uint64_t number, const struct name *n, struct err *err)
{
	char *text = ctx;

	(void)err;
	sprintf(text + strlen(text), "%d%s ", (int)number, n ? "" : "?");
	return 0;
}

static const char *promises(void)
{
	static char text[256];

	*text = '\0';
	assert_int_equal(names_each_promise(&pool, add_promise, text, NULL), 0);
	return text;
}

static void a_promise_is_no_name_until_it_is_kept(void **state)
{
	struct name n = member("/a"), got;
	int fd;

	(void)state;
	open_names();
	assert_int_equal(names_promise(&pool, &n, &fd, NULL), 0);
	assert_int_equal(n.number, 1);
	assert_string_equal(all(), "");
	assert_string_equal(promises(), "1 ");
	assert_int_equal(names_find_member(&pool, "/a", &got, NULL), 0);
	assert_int_equal(names_reread(&pool, fd, 1, NULL), 0);
	assert_int_equal(names_reread(&pool, -1, 1, NULL), 0);
	assert_int_equal(names_keep(&pool, &n, NULL), 0);
	assert_string_equal(all(), "1m ");
	assert_string_equal(promises(), "");
	assert_int_equal(names_find_member(&pool, "/a", &got, NULL), 1);
	name_release(&got);
	name_release(&n);
}

static void a_promise_outlives_the_process_and_keeps_its_number(void **state)
{
	struct name n = member("/a");
	int fd;

	(void)state;
	open_names();
	assert_int_equal(names_promise(&pool, &n, &fd, NULL), 0);
	close(fd);
	open_again();
	assert_int_equal(names_drop(&pool, NULL), 0);
	assert_string_equal(promises(), "1 ");
	assert_int_equal(publish(member("/b")), 2);
	assert_int_equal(names_break(&pool, 1, NULL), 0);
	assert_string_equal(promises(), "");
	assert_int_equal(names_break(&pool, 1, NULL), 0);
	assert_string_equal(all(), "2m ");
	name_release(&n);
}

static void a_promise_that_is_not_whole_is_told(void **state)
{
	struct name n = member("/a");
	int fd;

	(void)state;
	open_names();
	assert_int_equal(names_promise(&pool, &n, &fd, NULL), 0);
	assert_int_equal(ftruncate(fd, 40), 0);
	assert_string_equal(promises(), "1? ");
	assert_int_equal(names_reread(&pool, fd, 1, NULL), -1);
	assert_int_equal(truncate(in_tree("names/1.made"), 0), 0);
	assert_string_equal(promises(), "1? ");
	name_release(&n);
}

static void what_is_rewritten_is_gone_with_the_process(void **state)
{
	struct name n = version("old", "/a");
	int fd;

	(void)state;
	open_names();
	assert_int_equal(names_publish(&pool, &n, true, NULL), 0);
	strcpy(n.label, "new");
	assert_int_equal(names_rewrite(&pool, &n, &fd, NULL), 0);
	assert_int_equal(names_reread(&pool, fd, 1, NULL), 0);
	assert_string_equal(all(), "1vold ");
	open_again();
	assert_int_equal(names_drop(&pool, NULL), 0);
	assert_int_equal(access(in_tree("names/1.new"), F_OK), -1);
	assert_int_equal(names_rewrite(&pool, &n, &fd, NULL), 0);
	close(fd);
	assert_int_equal(names_put_rewritten(&pool, &n, NULL), 0);
	assert_string_equal(all(), "1vnew ");
	name_release(&n);
}

/* ---- rows ---- */

static unsigned nr_opened;

static int count_opens(int dirfd, const char *name, int flags, mode_t mode)
{
	nr_opened += dirfd == pool.dirs[POOL_NAMES] && *name >= '0' && *name <= '9';
	return file_ops_os.openat(dirfd, name, flags, mode);
}

static void open_with_index(void)
{
	open_names();
	if (mkdir(in_tree("index"), 0700) < 0)
		assert_int_equal(errno, EEXIST);
	pool.dirs[POOL_INDEX] = open(in_tree("index"), O_RDONLY | O_DIRECTORY);
	assert_true(pool.dirs[POOL_INDEX] >= 0);
	ops = file_ops_os;
	ops.openat = count_opens;
	file_ops = &ops;
	nr_opened = 0;
}

static void close_with_index(void)
{
	names_forget(&pool);
	close(pool.dirs[POOL_NAMES]);
	close(pool.dirs[POOL_INDEX]);
	file_ops = &file_ops_os;
}

/* How many names are read to find one of NR, by the next process. */
#define NR 50
static unsigned names_read_to_find(const char *path, int found)
{
	struct name n;
	unsigned nr;

	open_with_index();
	assert_int_equal(names_find_member(&pool, path, &n, NULL), found);
	if (found)
		name_release(&n);
	nr = nr_opened;
	close_with_index();
	return nr;
}

static void make_many(void)
{
	struct name n = member("/other");
	struct name got;
	char path[16];

	open_with_index();
	assert_int_equal(names_find_member(&pool, "/other", &got, NULL), 0);
	for (unsigned i = 1; i <= NR; i++) {
		snprintf(path, sizeof(path), "/%u", i);
		strcpy(n.disks.items[0].path, path);
		assert_int_equal(names_publish(&pool, &n, true, NULL), 0);
	}
	name_release(&n);
	close_with_index();
}

static void one_of_many_is_found_without_reading_all(void **state)
{
	struct name n = member("/new");

	(void)state;
	make_many();
	assert_int_equal(names_read_to_find("/7", 1), 1);
	assert_int_equal(names_read_to_find("/none", 0), 0);
	open_with_index();
	strcpy(n.disks.items[0].path, "/renamed");
	assert_int_equal(names_replace(&pool, 9, &n, NULL), 0);
	assert_int_equal(names_remove(&pool, 8, NULL), 0);
	close_with_index();
	assert_true(names_read_to_find("/renamed", 1) >= NR - 1); /* it did not look for any before it wrote */
	open_with_index();
	assert_int_equal(names_find_member(&pool, "/9", NULL, NULL), 0);
	assert_int_equal(names_remove(&pool, 7, NULL), 0);
	close_with_index();
	assert_int_equal(names_read_to_find("/renamed", 1), 1);
	assert_int_equal(names_read_to_find("/7", 0), 0);
	assert_int_equal(names_read_to_find("/8", 0), 0);
	assert_int_equal(names_read_to_find("/50", 1), 1);
	name_release(&n);
}

static void rows_of_who_died_are_not_believed(void **state)
{
	struct name n = member("/late"), got;

	(void)state;
	make_many();
	open_with_index();
	assert_int_equal(names_find_member(&pool, "/1", &got, NULL), 1);
	name_release(&got);
	assert_int_equal(names_publish(&pool, &n, true, NULL), 0);
	pool.writing = false; /* it dies: nothing is saved */
	close_with_index();
	assert_int_equal(names_read_to_find("/late", 1), NR + 2);
	name_release(&n);
}

static void rows_of_another_directory_or_boot_are_not_believed(void **state)
{
	struct stat st;
	int fd;

	(void)state;
	make_many();
	assert_int_equal(names_read_to_find("/1", 1), 1);
	assert_int_equal(rename(in_tree("names/1"), in_tree("moved")), 0);
	assert_int_equal(names_read_to_find("/1", 0), NR - 1);
	assert_int_equal(rename(in_tree("moved"), in_tree("names/1")), 0);
	assert_int_equal(names_read_to_find("/1", 1), NR + 1);
	open_with_index();
	assert_int_equal(names_find_member(&pool, "/none", NULL, NULL), 0);
	assert_int_equal(names_drop(&pool, NULL), 0);
	close_with_index();
	assert_int_equal(names_read_to_find("/1", 1), 1);
	fd = open(in_tree("index/names"), O_RDWR);
	assert_int_equal(fstat(fd, &st), 0);
	for (off_t at = 0; at < st.st_size; at += 13) {
		char c, d;

		assert_int_equal(pread(fd, &c, 1, at), 1);
		d = c ^ 4;
		assert_int_equal(pwrite(fd, &d, 1, at), 1);
		assert_int_equal(names_read_to_find("/1", 1), NR + 1);
		assert_int_equal(pwrite(fd, &c, 1, at), 1);
	}
	close(fd);
}

static void promises_are_not_forgotten_over_rows(void **state)
{
	struct name n = member("/a"), got;
	int fd;

	(void)state;
	make_many();
	open_with_index();
	assert_int_equal(names_find_member(&pool, "/1", &got, NULL), 1);
	name_release(&got);
	assert_true(names_are_tidy(&pool));
	assert_int_equal(names_promise(&pool, &n, &fd, NULL), 0);
	close(fd);
	close_with_index();
	open_with_index();
	assert_int_equal(names_find_member(&pool, "/1", &got, NULL), 1);
	name_release(&got);
	assert_false(names_are_tidy(&pool));
	assert_string_equal(promises(), "51 ");
	close_with_index();
	name_release(&n);
}

/* ---- sweeping ---- */

static const uint8_t first_id[POOL_ID_SIZE] = { 1, 1 }, second_id[POOL_ID_SIZE] = { 2, 2 };

static void open_with_sealed(void)
{
	const struct name_row *rows;
	size_t nr;

	open_with_index();
	if (mkdir(in_tree("sealed"), 0700) < 0)
		assert_int_equal(errno, EEXIST);
	pool.dirs[POOL_SEALED] = open(in_tree("sealed"), O_RDONLY | O_DIRECTORY);
	assert_true(pool.dirs[POOL_SEALED] >= 0);
	assert_int_equal(names_rows(&pool, &rows, &nr, NULL), 0);
}

static void close_with_sealed(bool left_nothing)
{
	if (left_nothing)
		names_left_nothing(&pool);
	names_forget(&pool);
	close(pool.dirs[POOL_SEALED]);
	close_with_index();
}

/* Asked by the next process, who ends well, too, and sweeps if he has to. */
static bool needs_no_sweep(void)
{
	bool swept;

	open_with_sealed();
	swept = names_need_no_sweep(&pool);
	if (!swept) {
		assert_int_equal(names_drop(&pool, NULL), 0);
		names_swept(&pool, true);
	}
	close_with_sealed(true);
	return swept;
}

static const char *in_sealed(const uint8_t id[POOL_ID_SIZE])
{
	char name[POOL_FILE_NAME_ROOM], path[POOL_FILE_NAME_ROOM + 8];

	snprintf(path, sizeof(path), "sealed/%s", pool_id_file_name(id, name));
	return in_tree(path);
}

static void make_sealed(const uint8_t id[POOL_ID_SIZE])
{
	int fd = open(in_sealed(id), O_CREAT | O_RDWR, 0600);

	assert_true(fd >= 0);
	close(fd);
}

static struct name of_sealed(const char *label, const uint8_t id[POOL_ID_SIZE])
{
	struct name n = version(label, "/a");

	n.disks.items[0].folded = false;
	memset(n.disks.items[0].root, 0, DIGEST_SIZE);
	memcpy(n.disks.items[0].sealed, id, POOL_ID_SIZE);
	return n;
}

static void open_and_publish(struct name n)
{
	open_with_sealed();
	assert_true(names_need_no_sweep(&pool));
	publish(n);
}

static void who_leaves_nothing_spares_the_next_a_sweep(void **state)
{
	struct name n = member("/a");

	(void)state;
	assert_false(needs_no_sweep()); /* nobody was there */
	assert_true(needs_no_sweep());
	open_and_publish(member("/a"));
	close_with_sealed(true);
	assert_true(needs_no_sweep());

	/* a snapshot, and another */
	make_sealed(first_id);
	assert_false(needs_no_sweep()); /* somebody put it there */
	open_and_publish(of_sealed("v", first_id));
	memcpy(n.disks.items[0].below, first_id, POOL_ID_SIZE);
	assert_int_equal(names_replace(&pool, 1, &n, NULL), 0);
	close_with_sealed(true);
	assert_true(needs_no_sweep());
	make_sealed(second_id);
	assert_false(needs_no_sweep());
	open_and_publish(of_sealed("w", second_id));
	memcpy(n.disks.items[0].below, second_id, POOL_ID_SIZE);
	assert_int_equal(names_replace(&pool, 1, &n, NULL), 0);
	close_with_sealed(true);
	assert_true(needs_no_sweep());
	name_release(&n);
}

static void who_may_have_left_something_does_not(void **state)
{
	struct name n = of_sealed("", first_id), m = member("/a");

	(void)state;
	assert_false(needs_no_sweep());
	make_sealed(first_id);
	assert_false(needs_no_sweep());
	open_and_publish(of_sealed("v", first_id));
	close_with_sealed(false); /* he does not say so */
	assert_false(needs_no_sweep());
	open_with_sealed();
	assert_true(names_need_no_sweep(&pool));
	names_will_change(&pool);
	pool.writing = false; /* he dies before he changed a name */
	close_with_sealed(true);
	assert_false(needs_no_sweep());
	open_and_publish(member("/a"));
	names_distrust(&pool); /* he failed */
	close_with_sealed(true);
	assert_false(needs_no_sweep());
	open_with_sealed();
	assert_true(names_need_no_sweep(&pool));
	names_swept(&pool, false); /* somebody had it open */
	close_with_sealed(true);
	assert_false(needs_no_sweep());

	/* the member comes to stand on it, the version loses its name, the member leaves it */
	open_with_sealed();
	assert_true(names_need_no_sweep(&pool));
	memcpy(m.disks.items[0].below, first_id, POOL_ID_SIZE);
	assert_int_equal(names_replace(&pool, 2, &m, NULL), 0);
	close_with_sealed(true);
	assert_true(needs_no_sweep());
	open_with_sealed();
	assert_true(names_need_no_sweep(&pool));
	assert_int_equal(names_replace(&pool, 1, &n, NULL), 0);
	close_with_sealed(true);
	assert_false(needs_no_sweep());
	open_with_sealed();
	assert_true(names_need_no_sweep(&pool));
	memset(m.disks.items[0].below, 0, POOL_ID_SIZE);
	assert_int_equal(names_replace(&pool, 2, &m, NULL), 0);
	close_with_sealed(true);
	assert_false(needs_no_sweep());

	/* the version goes, its file does not */
	open_with_sealed();
	assert_true(names_need_no_sweep(&pool));
	assert_int_equal(names_remove(&pool, 1, NULL), 0);
	close_with_sealed(true);
	assert_false(needs_no_sweep());
	name_release(&n);
	name_release(&m);
}

static void a_member_in_the_place_of_another_is_swept(void **state)
{
	struct name other = member("/a");

	(void)state;
	assert_false(needs_no_sweep());
	open_and_publish(member("/a"));
	assert_true(names_replace_none(&pool));
	close_with_sealed(true);
	memcpy(other.disks.items[0].below, first_id, POOL_ID_SIZE);
	open_and_publish(other); /* what stands on something else is no matter */
	close_with_sealed(true);
	assert_true(needs_no_sweep());
	open_and_publish(member("/b"));
	publish(member("/a"));
	assert_false(names_replace_none(&pool));
	close_with_sealed(true);
	assert_false(needs_no_sweep());
}

/* ---- the rest ---- */

static void nothing_is_passed_over(void **state)
{
	(void)state;
	open_names();
	publish(member("/a"));
	publish(member("/b"));
	assert_int_equal(rename(in_tree("names/1"), in_tree("names/1.bak")), 0);
	assert_non_null(strstr(all(), "'1.bak' does not belong into the names of a pool"));
	assert_int_equal(rename(in_tree("names/1.bak"), in_tree("names/3")), 0);
	assert_non_null(strstr(all(), "'names/3' says that it is another"));
	assert_int_equal(rename(in_tree("names/3"), in_tree("names/1")), 0);
	assert_string_equal(all(), "1m 2m ");
	assert_int_equal(truncate(in_tree("names/1"), 50), 0);
	assert_non_null(strstr(all(), "'names/1': no name of dedupscan: "));
	assert_int_equal(unlink(in_tree("names/1")), 0);
	assert_int_equal(symlink("2", in_tree("names/1")), 0);
	assert_non_null(strstr(all(), "pool '"));
}

/* What is done must be on the disk before names_publish() returns, and a name whole before it appears. */
static char order[256];

static int watch_fdatasync(int fd)
{
	strcat(order, "sync ");
	return file_ops_os.fdatasync(fd);
}

static int watch_fsync(int fd)
{
	strcat(order, "dir ");
	return file_ops_os.fsync(fd);
}

static int watch_rename(int a, const char *from, int b, const char *to, unsigned flags)
{
	strcat(order, "rename ");
	return file_ops_os.renameat2(a, from, b, to, flags);
}

static void syncs_come_in_order(void **state)
{
	struct name n = member("/a");
	int fd;

	(void)state;
	open_names();
	ops = file_ops_os;
	ops.fdatasync = watch_fdatasync;
	ops.fsync = watch_fsync;
	ops.renameat2 = watch_rename;
	file_ops = &ops;
	*order = '\0';
	assert_int_equal(names_publish(&pool, &n, true, NULL), 0);
	assert_string_equal(order, "sync rename dir ");
	*order = '\0';
	assert_int_equal(names_publish(&pool, &n, false, NULL), 0);
	assert_string_equal(order, "sync rename ");
	*order = '\0';
	assert_int_equal(names_promise(&pool, &n, &fd, NULL), 0);
	assert_int_equal(names_reread(&pool, fd, n.number, NULL), 0);
	assert_int_equal(names_keep(&pool, &n, NULL), 0);
	assert_string_equal(order, "rename ");
	*order = '\0';
	assert_int_equal(names_remove(&pool, 1, NULL), 0);
	assert_int_equal(names_remove(&pool, 3, NULL), 0);
	assert_string_equal(order, "dir rename dir ");
	file_ops = &file_ops_os;
	name_release(&n);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_written_comes_back),
		cmocka_unit_test(the_text_is_as_documented),
		cmocka_unit_test(other_ways_to_write_it_are_refused),
		cmocka_unit_test(when_it_was_written_is_told),
		cmocka_unit_test(what_was_sealed_is_told),
		cmocka_unit_test(that_it_was_expanded_is_told),
		cmocka_unit_test(a_newer_one_is_told),
		cmocka_unit_test(every_flipped_bit_and_every_cut_is_seen),
		cmocka_unit_test(long_files_are_refused),
		tree_test(names_are_numbered_and_found),
		tree_test(a_version_that_is_being_sealed_is_not_found),
		tree_test(no_number_is_given_twice),
		tree_test(a_replaced_name_keeps_its_number),
		tree_test(a_promise_is_no_name_until_it_is_kept),
		tree_test(a_promise_outlives_the_process_and_keeps_its_number),
		tree_test(a_promise_that_is_not_whole_is_told),
		tree_test(what_is_rewritten_is_gone_with_the_process),
		tree_test(one_of_many_is_found_without_reading_all),
		tree_test(rows_of_who_died_are_not_believed),
		tree_test(rows_of_another_directory_or_boot_are_not_believed),
		tree_test(promises_are_not_forgotten_over_rows),
		tree_test(who_leaves_nothing_spares_the_next_a_sweep),
		tree_test(who_may_have_left_something_does_not),
		tree_test(a_member_in_the_place_of_another_is_swept),
		tree_test(nothing_is_passed_over),
		tree_test(syncs_come_in_order),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
