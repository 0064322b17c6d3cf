/* SPDX-License-Identifier: Apache-2.0 */
/* The hexdumps of dedupscan-catalog(5), found below $SRCDIR or the current directory, are decoded by our readers and made
 * again by our writers.  After a change that is meant, UPDATE=1 writes them anew into the page, whose words must follow. */
#include "tests/unit/index_help.h"

#include "scanner/chunk/fingerprint.h"
#include "scanner/index/spool.h"
#include "scanner/index/summary.h"
#include "scanner/index/table.h"

#define ROW 16

static const char *page_path(void)
{
	static char path[4096];
	const char *root = getenv("SRCDIR");

	snprintf(path, sizeof(path), "%s/contrib/man/dedupscan-catalog.5", root ? root : ".");
	return path;
}

struct bytes {
	size_t len;
	uint8_t data[32768];
};

/* ---- the page ---- */

/* One row as the page has it: "0010  00 01 02 ...  ...". */
static void print_row(FILE *f, const struct bytes *b, size_t at)
{
	size_t nr = min_u64(b->len - at, ROW);

	fprintf(f, "%04zx ", at);
	for (size_t i = 0; i < ROW; i++) {
		if (i < nr)
			fprintf(f, " %02x", b->data[at + i]);
		else
			fprintf(f, "   ");
	}
	fprintf(f, "  ");
	for (size_t i = 0; i < nr; i++) {
		uint8_t c = b->data[at + i];

		fputc((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '/' ? c : '.', f);
	}
	fputc('\n', f);
}

/* As hexdump(1) does: '*' stands for rows like the one before, and the length comes last. */
static void print_dump(FILE *f, const struct bytes *b)
{
	bool starred = false;

	for (size_t at = 0; at < b->len; at += ROW) {
		bool same = at && at + ROW <= b->len && memcmp(b->data + at, b->data + at - ROW, ROW) == 0;

		if (!same)
			print_row(f, b, at);
		else if (!starred)
			fputs("*\n", f);
		starred = same;
	}
	fprintf(f, "%04zx\n", b->len);
}

/* The lines between .Bd and .Ed that follow the comment which names the dump; NULL = there is no such comment. */
static const char *find_dump(const char *page, const char *name, const char **ret_end)
{
	char mark[80];
	const char *at;

	snprintf(mark, sizeof(mark), "\n.\\\" hexdump: %s\n.Bd ", name);
	at = strstr(page, mark);
	if (!at)
		return NULL;
	at = strchr(at + strlen(mark), '\n') + 1;
	*ret_end = strstr(at, ".Ed\n");
	return *ret_end ? at : NULL;
}

static char *slurp_page(void)
{
	FILE *f = fopen(page_path(), "r");
	char *page = calloc(1, 1 << 20);

	assert_non_null(f);
	assert_non_null(page);
	assert_true(fread(page, 1, (1 << 20) - 1, f) > 0);
	fclose(f);
	return page;
}

static void fill_to(struct bytes *b, size_t at)
{
	assert_true(b->len >= ROW && at <= sizeof(b->data));
	for (; b->len + ROW <= at; b->len += ROW)
		memcpy(b->data + b->len, b->data + b->len - ROW, ROW);
	assert_int_equal(b->len, at);
}

static void parse_row(struct bytes *b, const char *line)
{
	char *p;

	if (line[0] == '*')
		return;
	if (strtoul(line, &p, 16) != b->len)
		fill_to(b, strtoul(line, NULL, 16));
	for (size_t i = 0; i < ROW && p[0] == ' ' && (i == 0 || p[1] != ' '); i++)
		b->data[b->len++] = (uint8_t)strtoul(p + (i == 0), &p, 16);
}

static struct bytes read_dump(const char *name)
{
	struct bytes b = { 0 };
	char *page = slurp_page();
	const char *end, *at = find_dump(page, name, &end);

	if (!at)
		fail_msg("%s has no hexdump '%s'", page_path(), name);
	for (; at < end; at = strchr(at, '\n') + 1)
		parse_row(&b, at);
	free(page);
	return b;
}

static void update_dump(const char *name, const struct bytes *b)
{
	char *page = slurp_page();
	const char *end, *at = find_dump(page, name, &end);
	FILE *f = fopen(page_path(), "w");

	assert_non_null(f);
	assert_non_null(at);
	fwrite(page, 1, (size_t)(at - page), f);
	print_dump(f, b);
	fputs(end, f);
	fclose(f);
	free(page);
}

/* ---- files ---- */

static struct bytes read_file(const char *name)
{
	struct bytes b;
	int fd = openat(scratch, name, O_RDONLY | O_CLOEXEC);
	ssize_t n = read(fd, b.data, sizeof(b.data));

	assert_true(n > 0);
	close(fd);
	b.len = (size_t)n;
	return b;
}

static void write_file(const char *name, const struct bytes *b)
{
	int fd = openat(scratch, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_int_equal(write(fd, b->data, b->len), b->len);
	close(fd);
}

static void assert_dump_is(const char *name, const char *file)
{
	struct bytes made = read_file(file), shown;

	if (getenv("UPDATE"))
		update_dump(name, &made);
	shown = read_dump(name);
	assert_int_equal(shown.len, made.len);
	assert_memory_equal(shown.data, made.data, made.len);
}

static void file_of_dump(const char *name, const char *file)
{
	struct bytes b = read_dump(name);

	write_file(file, &b);
}

/* ---- the table ---- */

static const struct table_entry {
	struct key key;
	size_t nr;
	uint64_t places[3];
} entries[] = {
	{ { 0x0011223344556677, 0x8899aabbcc000000 }, 1, { 5 } },
	{ { 0x0011223344556677, 0x8899aabccc000000 }, 3, { 0x20c, 0x210, 0x1000 } },
	{ { 0x0011223344556677, 0x8899aabd4d000000 }, 1, { 7 } },
};

static void the_page_shows_what_the_table_writer_writes(void **state)
{
	struct table_writer *w = table_writer_new(scratch, "0-0-0", NULL);

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(entries); i++)
		for (size_t k = 0; k < entries[i].nr; k++)
			assert_int_equal(table_writer_add(w, entries[i].key, entries[i].places[k], NULL), 0);
	assert_int_equal(table_writer_finish(w, NULL, NULL, NULL), 0);
	assert_dump_is("table", "0-0-0");
}

static void the_table_of_the_page_holds_what_the_page_says(void **state)
{
	struct table *t;
	uint64_t place;
	struct key key;

	(void)state;
	file_of_dump("table", "0-0-0");
	t = table_open(scratch, "0-0-0", TABLE_PAGE, NULL);
	assert_non_null(t);
	assert_int_equal(table_stats(t).nr_keys, 3);
	assert_int_equal(table_stats(t).nr_places, 5);
	for (size_t i = 0; i < ARRAY_SIZE(entries); i++) {
		assert_int_equal(table_next_key(t, &key, NULL), 1);
		assert_int_equal(key_cmp(key, entries[i].key), 0);
		for (size_t k = 0; k < entries[i].nr; k++) {
			assert_int_equal(table_next_place(t, &place, NULL), 1);
			assert_int_equal(place, entries[i].places[k]);
		}
		assert_int_equal(table_next_place(t, &place, NULL), 0);
	}
	assert_int_equal(table_next_key(t, &key, NULL), 0);
	assert_int_equal(table_find(t, entries[1].key, NULL), 1);
	table_close(t);
}

/* ---- the spool file ---- */

static struct spool_image sample_image(void)
{
	const char *texts[SPOOL_NR_TEXTS] = { "/srv/vm/web.raw", "raw", "", "", "", "" };
	struct spool_image image = {
		.identity = { 65025, 131077, 10 * MIB, 1795227000500000000, 1795227000500000000 },
		.base = 3,
		.virtual_size = 10 * MIB,
		.span = 10 * MIB,
		.layer = 10 * MIB,
		.file_used = 2 * MIB + 8192,
	};

	spool_set_texts(&image, texts);
	return image;
}

static struct fingerprint fingerprint_of(char c)
{
	uint8_t block[BLOCK_SIZE];
	struct fingerprint f;

	memset(block, c, sizeof(block));
	fingerprint_best()->blocks(block, 1, &f);
	return f;
}

/* Segment 0 has a block of 'a', one of zeros and one of 'b'; segment 4 is as the catalog knows it. */
static size_t sample_frame(uint8_t *ret)
{
	struct spool_pending *p = calloc(1, sizeof(*p));
	struct fingerprint fingerprints[SEGMENT_BLOCKS] = { fingerprint_of('a'), { 0, 0 }, fingerprint_of('b') };
	struct fingerprint digest = fingerprint_best()->bytes(fingerprints, sizeof(fingerprints));
	size_t len;

	assert_non_null(p);
	p->segments[0] = (struct spool_segment){ .segment = le64_from(0), .stored = le16_from(3), .zero = le16_from(1) };
	le64_store(p->segments[0].digest, digest.hi);
	le64_store(p->segments[0].digest + 8, digest.lo);
	p->segments[1] = (struct spool_segment){ .segment = le64_from(4), .stored = le16_from(512),
						 .flags = le16_from(SPOOL_SAME) };
	memset(p->segments[1].digest, 0xd4, sizeof(p->segments[1].digest));
	p->nr_segments = 2;
	for (unsigned i = 0; i <= 2; i += 2) {
		p->requests[p->nr_requests].f = fingerprints[i];
		p->requests[p->nr_requests++].block = i;
	}
	p->bytes_read = 3 * BLOCK_SIZE + SEGMENT_SIZE;
	len = spool_frame_make(p, 10 * MIB, ret);
	free(p);
	return len;
}

static void the_page_shows_what_the_spool_writer_writes(void **state)
{
	struct spool_image image = sample_image();
	uint8_t *frame = malloc(SPOOL_FRAME_MAX);
	struct spool_writer w;

	(void)state;
	assert_int_equal(spool_create(&w, scratch, "7", &image, NULL), 0);
	assert_int_equal(spool_append(&w, frame, sample_frame(frame), NULL), 0);
	assert_int_equal(spool_commit(&w, scratch, "7", &image, NULL), 0);
	spool_writer_release(&w);
	assert_dump_is("spool", "7.req");
	free(frame);
}

static void assert_image_is_the_sample(const struct spool_image *image)
{
	struct spool_image sample = sample_image();

	assert_true(spool_identity_equal(&image->identity, &sample.identity));
	assert_int_equal(image->parts.hi | image->parts.lo, 0);
	assert_int_equal(image->base, 3);
	assert_int_equal(image->span, 10 * MIB);
	assert_int_equal(image->file_used, 2 * MIB + 8192);
	assert_int_equal(image->racy, 0);
	assert_string_equal(spool_text(image, SPOOL_PATH), "/srv/vm/web.raw");
	assert_string_equal(spool_text(image, SPOOL_FORMAT), "raw");
	assert_string_equal(spool_text(image, SPOOL_WARNING), "");
}

static void assert_request(const struct record *r, char c, uint64_t place)
{
	struct fingerprint f = fingerprint_of(c);

	assert_int_equal(r->key.hi, f.hi);
	assert_int_equal(r->key.lo, f.lo & KEY_LO_MASK);
	assert_int_equal(r->value, place);
}

static void the_spool_file_of_the_page_holds_what_the_page_says(void **state)
{
	struct spool_segment segments[SPOOL_FRAME_SEGMENTS];
	struct sorter *sorter = sorter_new(64 * KIB, scratch, NULL);
	const struct record *r;
	struct spool *s;

	(void)state;
	file_of_dump("spool", "7.req");
	s = spool_open(scratch, "7", true, NULL);
	assert_non_null(s);
	assert_image_is_the_sample(s->image);
	assert_int_equal(s->nr_frames, 1);
	assert_int_equal(s->totals.nr_stored, 515);
	assert_int_equal(s->totals.nr_zero, 1);
	assert_int_equal(spool_segments(s, 0, segments, NULL), 2);
	assert_int_equal(le64_get(segments[1].segment), 4);
	assert_int_equal(le16_get(segments[1].flags), SPOOL_SAME);
	assert_int_equal(spool_requests(s, 0, 255, 512000, sorter, NULL), 0);
	assert_int_equal(sorter_finish(sorter, NULL), 0);
	assert_int_equal(sorter_next(sorter, &r, NULL), 2);
	assert_request(&r[0], 'a', 512000);
	assert_request(&r[1], 'b', 512002);
	sorter_free(sorter);
	spool_close(s);
}

/* ---- the summary ---- */

static const struct summary_run runs[] = {
	{ 2, 0, 16, 1, 0 },
	{ 2, 20, 4, 1, 20 },
	{ 2, 512, 300, 2, 0 },
	{ 3, 7, 1, 1, 3 },
};

static void the_page_shows_what_the_summary_writer_writes(void **state)
{
	struct summary_writer *w = summary_new(scratch, "summary", NULL);

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(runs); i++)
		assert_int_equal(summary_add(w, &runs[i], NULL), 0);
	assert_int_equal(summary_commit(w, NULL), 0);
	assert_dump_is("summary", "summary");
}

static void the_summary_of_the_page_holds_what_the_page_says(void **state)
{
	struct summary_run run;
	struct summary *s;

	(void)state;
	file_of_dump("summary", "summary");
	s = summary_open(scratch, "summary", NULL);
	assert_non_null(s);
	for (size_t i = 0; i < ARRAY_SIZE(runs); i++) {
		assert_int_equal(summary_next(s, &run, NULL), 1);
		assert_memory_equal(&run, &runs[i], sizeof(run));
	}
	assert_int_equal(summary_next(s, &run, NULL), 0);
	summary_close(s);
}

/* ---- controls ---- */

static bool table_is_read(void)
{
	struct table *t = table_open(scratch, "0-0-0", TABLE_PAGE, NULL);
	uint64_t place;
	struct key key;
	int rc = t ? 1 : -1;

	while (rc > 0)
		while ((rc = table_next_key(t, &key, NULL)) > 0)
			while (rc > 0)
				rc = table_next_place(t, &place, NULL) < 0 ? -1 : rc - 1;
	if (rc == 0)
		rc = table_find(t, entries[0].key, NULL) - 1;
	table_close(t);
	return rc == 0;
}

static bool spool_is_read(void)
{
	struct spool *s = spool_open(scratch, "7", true, NULL);

	spool_close(s);
	return s;
}

static bool summary_is_read(void)
{
	struct summary *s = summary_open(scratch, "summary", NULL);
	struct summary_run run;
	int rc = s ? 1 : -1;

	while (rc > 0)
		rc = summary_next(s, &run, NULL);
	summary_close(s);
	return rc == 0;
}

/* Every byte of the dump counts: turning it over is noticed. */
static void assert_no_byte_can_change(const char *name, const char *file, bool (*is_read)(void), size_t unused_from,
				      size_t unused_to)
{
	struct bytes b = read_dump(name);

	write_file(file, &b);
	assert_true(is_read());
	for (size_t i = 0; i < b.len; i++) {
		if (i >= unused_from && i < unused_to)
			continue;
		b.data[i] ^= 0xff;
		write_file(file, &b);
		if (is_read())
			fail_msg("a flipped byte at 0x%zx of the %s passes", i, name);
		b.data[i] ^= 0xff;
	}
}

static void no_byte_of_the_dumps_can_change(void **state)
{
	(void)state;
	assert_no_byte_can_change("table", "0-0-0", table_is_read, 0, 0);
	assert_no_byte_can_change("spool", "7.req", spool_is_read, 0, 0);
	assert_no_byte_can_change("summary", "summary", summary_is_read, 12, 16); /* reserved */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		index_test(the_page_shows_what_the_table_writer_writes),
		index_test(the_table_of_the_page_holds_what_the_page_says),
		index_test(the_page_shows_what_the_spool_writer_writes),
		index_test(the_spool_file_of_the_page_holds_what_the_page_says),
		index_test(the_page_shows_what_the_summary_writer_writes),
		index_test(the_summary_of_the_page_holds_what_the_page_says),
		index_test(no_byte_of_the_dumps_can_change),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
