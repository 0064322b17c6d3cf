/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/workshop_help.h"

#include "compactor/journal.h"

#define JOURNAL "journal"

static int tree_fd;

static struct journal open_journal(void)
{
	struct journal j = JOURNAL_INIT;
	struct err err = ERR_INIT;

	tree_fd = open_dir(".");
	if (journal_open(&j, tree_fd, &err) < 0)
		fail_msg("%s", err.text);
	return j;
}

static void close_journal(struct journal *j)
{
	journal_release(j);
	close(tree_fd);
}

static int try_open(struct err *err)
{
	struct journal j = JOURNAL_INIT;
	int fd = open_dir("."), rc = journal_open(&j, fd, err);

	if (rc == 0)
		journal_release(&j);
	close(fd);
	return rc;
}

static struct journal_entry entry(uint64_t number, enum journal_state state)
{
	return (struct journal_entry){ .number = number,
				       .state = state,
				       .keep = 604800,
				       .keep_until = state >= JOURNAL_DONE ? 1795852800 : 0,
				       .original = { 0xfe01, 0x20005, 0xa00000, 1795000000123456789, 1795000001123456789 },
				       .replacement = { 0xfe01, 0x20011, 0x500000, 1795000000123456789, 1795248000500000000 },
				       .path = (char *)"vm/web.qcow2" };
}

static void append(struct journal *j, uint64_t number, enum journal_state state)
{
	struct journal_entry e = entry(number, state);
	struct err err = ERR_INIT;

	if (journal_append(j, &e, &err) < 0)
		fail_msg("%s", err.text);
}

static size_t slurp(uint8_t *buf, size_t room)
{
	int fd = open(in_tree(JOURNAL), O_RDONLY);
	ssize_t n = read(fd, buf, room);

	assert_true(fd >= 0 && n > 0);
	close(fd);
	return (size_t)n;
}

static void spill(const uint8_t *buf, size_t len)
{
	unlink(in_tree(JOURNAL));
	tree_write(JOURNAL, buf, len);
}

/* ---- reading what was written ---- */

static void what_is_appended_is_read_again(void **state)
{
	struct journal j = open_journal();
	struct journal_entry e = entry(2, JOURNAL_SWAPPED);
	const struct journal_entry *got;

	(void)state;
	append(&j, 1, JOURNAL_BEGIN);
	append(&j, 2, JOURNAL_BEGIN);
	e.assume_idle = true;
	e.path = (char *)"another/path";
	assert_int_equal(journal_append(&j, &e, NULL), 0);
	append(&j, 1, JOURNAL_REMOVED);
	close_journal(&j);
	j = open_journal();
	assert_int_equal(j.live.nr, 1);
	assert_null(journal_find(&j, 1));
	got = journal_find(&j, 2);
	assert_non_null(got);
	assert_int_equal(got->state, JOURNAL_SWAPPED);
	assert_string_equal(got->path, "another/path");
	assert_true(got->assume_idle);
	assert_int_equal(got->keep, 604800);
	assert_true(spool_identity_equal(&got->original, &e.original));
	assert_true(spool_identity_equal(&got->replacement, &e.replacement));
	close_journal(&j);
}

static void numbers_are_never_used_twice(void **state)
{
	struct journal j = open_journal();

	(void)state;
	assert_int_equal(journal_new_number(&j), 1);
	append(&j, 1, JOURNAL_BEGIN);
	append(&j, 1, JOURNAL_REMOVED);
	close_journal(&j);
	j = open_journal();
	assert_int_equal(journal_new_number(&j), 2);
	append(&j, 2, JOURNAL_BEGIN);
	for (int i = 0; i < 1000; i++)
		append(&j, 2, JOURNAL_SWAP);
	append(&j, 2, JOURNAL_REMOVED);
	assert_int_equal(journal_shrink(&j, NULL), 0);
	assert_int_equal(j.end, 32);
	close_journal(&j);
	j = open_journal();
	assert_int_equal(journal_new_number(&j), 3);
	close_journal(&j);
}

/* ---- what a power cut leaves ---- */

/* A9 */
static void every_cut_leaves_the_records_before(void **state)
{
	struct journal j = open_journal();
	uint64_t ends[4];
	uint8_t buf[4096];
	size_t len;

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		ends[i] = j.end;
		append(&j, i + 1, JOURNAL_BEGIN);
	}
	close_journal(&j);
	len = slurp(buf, sizeof(buf));
	for (size_t cut = 32; cut < len; cut++) {
		size_t whole = 0;

		while (whole < 3 && ends[whole + 1] <= cut)
			whole++;
		spill(buf, cut);
		j = open_journal();
		assert_int_equal(j.live.nr, whole);
		append(&j, 9, JOURNAL_BEGIN); /* and it goes on from there */
		close_journal(&j);
		j = open_journal();
		assert_int_equal(j.live.nr, whole + 1);
		close_journal(&j);
	}
}

/* A9 */
static void a_torn_record_is_not_read(void **state)
{
	struct journal j = open_journal();
	uint8_t buf[4096], torn[4096];
	uint64_t begin;
	size_t len;

	(void)state;
	append(&j, 1, JOURNAL_BEGIN);
	begin = j.end;
	append(&j, 1, JOURNAL_SWAP);
	close_journal(&j);
	len = slurp(buf, sizeof(buf));
	for (size_t from = begin; from < len; from += 4)
		for (size_t to = from + 4; to <= len; to += 32) {
			memcpy(torn, buf, len);
			memset(torn + from, 0, to - from);
			if (memcmp(torn, buf, len) == 0)
				continue;
			spill(torn, len);
			j = open_journal();
			assert_int_equal(journal_find(&j, 1)->state, JOURNAL_BEGIN);
			assert_int_equal(j.end, begin);
			close_journal(&j);
		}
}

static void a_journal_is_there_whole_or_not_at_all(void **state)
{
	struct err err = ERR_INIT;
	uint8_t buf[64];
	struct journal j = open_journal();

	(void)state;
	close_journal(&j);
	assert_int_equal(slurp(buf, sizeof(buf)), 32);
	for (size_t len = 0; len < 32; len++) {
		spill(buf, len);
		assert_int_equal(try_open(&err), -1);
		assert_int_equal(err.kind, ERR_FORMAT);
	}
}

static void damage_before_the_end_is_told(void **state)
{
	struct journal j = open_journal();
	struct err err = ERR_INIT;
	uint8_t buf[4096];
	size_t len;
	uint64_t last;

	(void)state;
	append(&j, 1, JOURNAL_BEGIN);
	append(&j, 1, JOURNAL_SWAP);
	last = j.end;
	append(&j, 2, JOURNAL_BEGIN);
	close_journal(&j);
	len = slurp(buf, sizeof(buf));
	for (size_t i = 0; i < last; i++) {
		buf[i] ^= 0x40;
		spill(buf, len);
		if (try_open(&err) == 0)
			fail_msg("a flipped bit at %zu passes", i);
		buf[i] ^= 0x40;
	}
	spill(buf, len);
	assert_int_equal(try_open(&err), 0);
}

static void h1_a_newer_one_is_refused(void **state)
{
	struct journal j = open_journal();
	struct err err = ERR_INIT;
	uint8_t buf[64];
	size_t len;

	(void)state;
	close_journal(&j);
	len = slurp(buf, sizeof(buf));
	buf[8] = 2;
	spill(buf, len);
	assert_int_equal(try_open(&err), -1);
	assert_int_equal(err.kind, ERR_UNSUPPORTED);
	assert_non_null(strstr(err.text, "newer"));
}

/* F13: who could write to it can still not lead out of the root. */
static void f13_paths_that_lead_out_are_refused(void **state)
{
	static const char *const bad[] = { "", "/etc/passwd", "..", "../x", "a/../b", "a/.." };
	static const char *const good[] = { "a", "..a", "a/..b/c", "a../b" };
	struct journal j = open_journal();
	struct journal_entry e = entry(1, JOURNAL_BEGIN);

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		e.path = (char *)bad[i];
		assert_int_equal(journal_append(&j, &e, NULL), -1);
	}
	assert_int_equal(j.end, 32);
	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
		e.path = (char *)good[i];
		assert_int_equal(journal_append(&j, &e, NULL), 0);
	}
	close_journal(&j);
}

/* ---- errors ---- */

static struct {
	int write, sync, truncate; /* an errno, each */
	size_t half;		   /* so much is written all the same */
	unsigned nr_syncs;
} faults;

static ssize_t bad_pwrite(int fd, const void *buf, size_t len, off_t offset)
{
	size_t half = faults.half;

	if (faults.write && !half) {
		errno = faults.write;
		return -1;
	}
	faults.half = 0;
	return pwrite(fd, buf, half && half < len ? half : len, offset);
}

static int bad_fdatasync(int fd)
{
	faults.nr_syncs++;
	errno = faults.sync;
	return faults.sync ? -1 : fdatasync(fd);
}

static int bad_ftruncate(int fd, off_t size)
{
	errno = faults.truncate;
	return faults.truncate ? -1 : ftruncate(fd, size);
}

static int append_with(struct journal *j, int write_error, size_t half, int sync_error, int truncate_error)
{
	struct file_ops ops = file_ops_os;
	struct journal_entry e = entry(1, JOURNAL_SWAP);
	int rc;

	faults.write = write_error, faults.half = half, faults.sync = sync_error, faults.truncate = truncate_error;
	ops.pwrite = bad_pwrite;
	ops.fdatasync = bad_fdatasync;
	ops.ftruncate = bad_ftruncate;
	file_ops = &ops;
	rc = journal_append(j, &e, NULL);
	file_ops = &file_ops_os;
	return rc;
}

/* B1 */
static void b1_a_failed_write_can_be_tried_again(void **state)
{
	struct journal j = open_journal();

	(void)state;
	append(&j, 1, JOURNAL_BEGIN);
	assert_int_equal(append_with(&j, ENOSPC, 60, 0, 0), -1);
	assert_int_equal(journal_find(&j, 1)->state, JOURNAL_BEGIN);
	assert_false(j.broken);
	append(&j, 1, JOURNAL_UNDONE);
	close_journal(&j);
	j = open_journal();
	assert_int_equal(journal_find(&j, 1)->state, JOURNAL_UNDONE);
	assert_int_equal(append_with(&j, ENOSPC, 60, 0, EIO), -1);
	assert_true(j.broken);
	close_journal(&j);
}

/* B3, B4 */
static void a_failed_sync_ends_it(void **state)
{
	struct journal j = open_journal();
	struct journal_entry e = entry(1, JOURNAL_SWAP);
	struct err err = ERR_INIT;
	uint64_t size;

	(void)state;
	append(&j, 1, JOURNAL_BEGIN);
	assert_int_equal(append_with(&j, 0, 0, EIO, 0), -1);
	assert_true(j.broken);
	assert_int_equal(journal_find(&j, 1)->state, JOURNAL_BEGIN);
	size = identity_of(JOURNAL).size;
	faults.nr_syncs = 0;
	assert_int_equal(append_with(&j, 0, 0, 0, 0), -1);
	assert_int_equal(faults.nr_syncs, 0);
	assert_int_equal(journal_append(&j, &e, &err), -1);
	assert_non_null(strstr(err.text, "could not be written before"));
	assert_int_equal(identity_of(JOURNAL).size, size);
	close_journal(&j);
}

static int syncs_at_opening(void)
{
	struct file_ops ops = file_ops_os;
	struct journal j;

	memset(&faults, 0, sizeof(faults));
	ops.fdatasync = bad_fdatasync;
	file_ops = &ops;
	j = open_journal();
	file_ops = &file_ops_os;
	close_journal(&j);
	return (int)faults.nr_syncs;
}

/* J6: who was killed before the sync left it in memory only. */
static void the_last_record_is_synced_before_it_counts(void **state)
{
	struct journal j = open_journal();
	uint8_t buf[4096];
	size_t len;

	(void)state;
	close_journal(&j);
	assert_int_equal(syncs_at_opening(), 0);
	for (enum journal_state s = JOURNAL_BEGIN; s <= JOURNAL_REMOVED; s++) {
		j = open_journal();
		append(&j, 1, s);
		close_journal(&j);
		assert_int_equal(syncs_at_opening(), s != JOURNAL_REMOVED);
	}
	j = open_journal();
	append(&j, 2, JOURNAL_DONE); /* waits for its time */
	append(&j, 3, JOURNAL_BEGIN);
	append(&j, 4, JOURNAL_REMOVED);
	close_journal(&j);
	assert_int_equal(syncs_at_opening(), 1); /* 3 is under way */
	j = open_journal();
	append(&j, 3, JOURNAL_REMOVED);
	close_journal(&j);
	assert_int_equal(syncs_at_opening(), 0);
	j = open_journal();
	append_with(&j, ENOSPC, 0, 0, 0);
	assert_int_equal(faults.nr_syncs, 1); /* first */
	close_journal(&j);
	len = slurp(buf, sizeof(buf));
	memset(buf + len, 0, 60);
	spill(buf, len + 60); /* torn */
	assert_int_equal(syncs_at_opening(), 1);
	assert_int_equal(syncs_at_opening(), 0);
}

/* ---- shrinking ---- */

static void it_shrinks_when_it_has_grown_and_all_is_quiet(void **state)
{
	struct journal j = open_journal();
	uint64_t grown;

	(void)state;
	for (uint64_t n = 1; n <= 400; n++) {
		append(&j, n, JOURNAL_BEGIN);
		append(&j, n, n % 100 ? JOURNAL_REMOVED : JOURNAL_DONE);
	}
	append(&j, 401, JOURNAL_BEGIN);
	grown = j.end;
	assert_true(grown > 65536);
	assert_int_equal(journal_shrink(&j, NULL), 0);
	assert_int_equal(j.end, grown); /* 401 is under way */
	append(&j, 401, JOURNAL_REMOVED);
	assert_int_equal(journal_shrink(&j, NULL), 0);
	assert_true(j.end < 1000);
	append(&j, 402, JOURNAL_BEGIN);
	close_journal(&j);
	j = open_journal();
	assert_int_equal(j.live.nr, 5);
	assert_int_equal(journal_find(&j, 300)->keep_until, 1795852800);
	assert_int_equal(journal_find(&j, 402)->state, JOURNAL_BEGIN);
	close_journal(&j);
}

/* ---- the hexdump of dedupscan-workshop(5); UPDATE=1 writes it anew ---- */

#define ROW 16

static const char *page_path(void)
{
	static char path[4096];
	const char *root = getenv("SRCDIR");

	snprintf(path, sizeof(path), "%s/contrib/man/dedupscan-workshop.5", root ? root : ".");
	return path;
}

static char *slurp_page(char **ret_dump, char **ret_end)
{
	static char page[1 << 16];
	FILE *f = fopen(page_path(), "r");
	char *mark;

	assert_non_null(f);
	page[fread(page, 1, sizeof(page) - 1, f)] = '\0';
	fclose(f);
	mark = strstr(page, "\n.\\\" hexdump: journal\n.Bd ");
	assert_non_null(mark);
	*ret_dump = strchr(strstr(mark, ".Bd "), '\n') + 1;
	*ret_end = strstr(*ret_dump, ".Ed\n");
	assert_non_null(*ret_end);
	return page;
}

static size_t read_dump(uint8_t *buf, size_t room)
{
	char *at, *end;
	size_t len = 0;

	slurp_page(&at, &end);
	for (; at < end; at = strchr(at, '\n') + 1) {
		char *p;
		unsigned long offset = strtoul(at, &p, 16);

		if (*at == '*')
			continue;
		assert_true(offset <= room - ROW);
		for (; len < offset; len++) /* rows left out are as the one before */
			buf[len] = buf[len - ROW];
		for (unsigned i = 0; i < ROW && p[0] == ' ' && (i == 0 || p[1] != ' '); i++)
			buf[len++] = (uint8_t)strtoul(p + (i == 0), &p, 16);
	}
	return len;
}

static void write_row(FILE *f, const uint8_t *buf, size_t at, size_t nr)
{
	fprintf(f, "%04zx ", at);
	for (size_t i = 0; i < ROW; i++)
		i < nr ? fprintf(f, " %02x", buf[at + i]) : fprintf(f, "   ");
	fprintf(f, "  ");
	for (size_t i = 0; i < nr; i++) {
		uint8_t c = buf[at + i];

		fputc((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '/' ? c : '.', f);
	}
	fputc('\n', f);
}

static void update_dump(const uint8_t *buf, size_t len)
{
	char *at, *end, *page = slurp_page(&at, &end);
	CLEANUP(free) char *rest = strdup(end);
	FILE *f = fopen(page_path(), "w");
	bool starred = false;

	fwrite(page, 1, (size_t)(at - page), f);
	for (size_t row = 0; row < len; row += ROW) {
		bool same = row && row + ROW <= len && memcmp(buf + row, buf + row - ROW, ROW) == 0;

		if (!same)
			write_row(f, buf, row, len - row < ROW ? len - row : ROW);
		else if (!starred)
			fputs("*\n", f);
		starred = same;
	}
	fprintf(f, "%04zx\n%s", len, rest);
	fclose(f);
}

static void the_page_shows_what_is_written(void **state)
{
	struct journal j = open_journal();
	uint8_t buf[4096], page[4096];
	size_t len;

	(void)state;
	struct journal_entry e = entry(1, JOURNAL_BEGIN);

	e.replacement = (struct spool_identity){ 0 };
	assert_int_equal(journal_append(&j, &e, NULL), 0);
	append(&j, 1, JOURNAL_DONE);
	close_journal(&j);
	len = slurp(buf, sizeof(buf));
	if (getenv("UPDATE"))
		update_dump(buf, len);
	assert_int_equal(read_dump(page, sizeof(page)), len);
	assert_memory_equal(page, buf, len);
}

static void the_journal_of_the_page_says_what_the_page_says(void **state)
{
	uint8_t page[4096];
	const struct journal_entry *e;
	struct journal_entry expected = entry(1, JOURNAL_DONE);
	struct journal j;

	(void)state;
	spill(page, read_dump(page, sizeof(page)));
	j = open_journal();
	assert_int_equal(j.live.nr, 1);
	e = &j.live.items[0];
	assert_int_equal(e->state, JOURNAL_DONE);
	assert_string_equal(e->path, "vm/web.qcow2");
	assert_int_equal(e->keep, 604800);
	assert_int_equal(e->keep_until, 1795852800);
	assert_true(spool_identity_equal(&e->original, &expected.original));
	assert_true(spool_identity_equal(&e->replacement, &expected.replacement));
	close_journal(&j);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		shop_test(what_is_appended_is_read_again),
		shop_test(numbers_are_never_used_twice),
		shop_test(every_cut_leaves_the_records_before),
		shop_test(a_torn_record_is_not_read),
		shop_test(a_journal_is_there_whole_or_not_at_all),
		shop_test(damage_before_the_end_is_told),
		shop_test(h1_a_newer_one_is_refused),
		shop_test(f13_paths_that_lead_out_are_refused),
		shop_test(b1_a_failed_write_can_be_tried_again),
		shop_test(a_failed_sync_ends_it),
		shop_test(the_last_record_is_synced_before_it_counts),
		shop_test(it_shrinks_when_it_has_grown_and_all_is_quiet),
		shop_test(the_page_shows_what_is_written),
		shop_test(the_journal_of_the_page_says_what_the_page_says),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
