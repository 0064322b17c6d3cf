/* SPDX-License-Identifier: Apache-2.0 */
/* Expected outputs lie in tests/unit/report/, found below $SRCDIR or the current directory.  After a change that is
 * meant, UPDATE=1 writes them anew. */
#include "tests/unit/tree_help.h"

#include <jansson.h>
#include <locale.h>
#include <signal.h>
#include <sys/wait.h>

#include "reports/report.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/base/text.h"

#define CSV_COLUMNS 20

/* ---- tallies ---- */

static struct image_tally image(const char *path, uint64_t stored, uint64_t exclusive, uint64_t share)
{
	return (struct image_tally){
		.path = (char *)path,
		.format = (char *)"qcow2",
		.backing = (char *)"",
		.features = (char *)"",
		.virtual_size = 40 * GIB,
		.file_size = stored + MIB,
		.file_used = stored,
		.scanned_at = 1795227000,
		.stored = stored,
		.zero = 8 * MIB,
		.exclusive = exclusive,
		.shared = stored - exclusive - 8 * MIB,
		.share = share,
		.duplicate_between = 100 * MIB,
	};
}

static struct image_tally failed_image(const char *path, const char *error)
{
	return (struct image_tally){
		.path = (char *)path,
		.format = (char *)"vmdk",
		.backing = (char *)"",
		.features = (char *)"",
		.error = (char *)error,
		.error_kind = (char *)"format",
		.file_size = 70000,
		.file_used = 73728,
	};
}

static struct pool_tally pools[] = {
	{ (char *)"/srv/vm/.dedupscan-pool", 2, 3 * GIB },
	{ (char *)"/srv/vm/\x1b[2J", 1, 73728 },
};

/* Three images that were read and one that was not. */
static struct tally sample(struct image_tally images[4])
{
	images[0] = image("/srv/vm/db.qcow2", 3 * GIB, 2 * GIB, 2 * GIB + 300 * MIB);
	images[0].features = (char *)"lazy refcounts, zstd";
	images[0].nr_snapshots = 2;
	images[1] = failed_image("/srv/vm/old/broken.vmdk", "grain directory ends past the end of the file");
	images[2] = image("/srv/vm/web-01.qcow2", 5 * GIB, GIB, 3 * GIB);
	images[3] = image("/srv/vm/web-02.qcow2", 4 * GIB, 512 * MIB, 1 * GIB);
	images[3].backing = (char *)"../base.qcow2";
	images[3].warning = (char *)"its backing file '../base.qcow2' lies outside the roots";
	return (struct tally){
		.virtual_size = 120 * GIB,
		.stored = 12 * GIB,
		.nonzero = 11700 * MIB,
		.distinct = 5000 * MIB,
		.file_size = 12 * GIB + 3 * MIB,
		.file_used = 12 * GIB,
		.within_other = 700 * MIB,
		.between_same = 5500 * MIB,
		.between_other = 500 * MIB,
		.runs = {
			{ 4096, 90000, 6700 * MIB },
			{ 16384, 30000, 6400 * MIB },
			{ 65536, 9000, 6000 * MIB },
			{ 1048576, 0, 0 },
		},
		.histogram = { { 400000, 400000 }, { 870000, 2550000 }, [10] = { 10000, 45200 } },
		.fs_shared = (int64_t)(1700 * MIB),
		.index_bytes = 80 * MIB,
		.catalog_bytes = MIB,
		.nr_keys = 1280000,
		.nr_places = 9000,
		.peak_memory = 300 * MIB,
		.images = images,
		.nr_images = 4,
		.nr_failed = 1,
		.pools = pools,
		.nr_pools = ARRAY_SIZE(pools),
		.originals_used = 5 * MIB,
		.nr_not_images = 7,
		.complete = true,
		.taken_at = 1795227891,
	};
}

static struct tally empty(void)
{
	struct tally t = { .complete = true };

	for (unsigned i = 0; i < RUN_CLASSES; i++)
		t.runs[i].min_length = (uint64_t)4096 << (i < 3 ? 2 * i : 8);
	return t;
}

/* ---- reading what came out ---- */

static char *render(const char *style, const struct tally *t, const struct report_options *o)
{
	const struct report_options defaults = { .utf8 = true };
	char *text = NULL;
	size_t len = 0;
	FILE *mem = open_memstream(&text, &len);
	struct err err = ERR_INIT;

	assert_non_null(report_style_by_name(style));
	assert_int_equal(report_style_by_name(style)->write(mem, t, o ? o : &defaults, &err), 0);
	fclose(mem);
	assert_int_equal(strlen(text), len);
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

	snprintf(path, sizeof(path), "%s/tests/unit/report/%s", root ? root : ".", file);
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

static void expect_lines(char *text, const char *const *lines)
{
	for (; *lines; lines++) {
		if (!strstr(text, *lines))
			fail_msg("'%s' is missing in:\n%s", *lines, text);
	}
	free(text);
}

#define EXPECT(text, ...) expect_lines((text), (const char *const[]){ __VA_ARGS__, NULL })

static void expect_one_line_each(const char *text, const char *line_end)
{
	assert_true(text_is_utf8(text));
	for (const char *p = text; *p; p++) {
		if (strncmp(p, line_end, strlen(line_end)) == 0)
			p += strlen(line_end) - 1;
		else
			assert_true((unsigned char)*p >= 0x20 && *p != 0x7f);
	}
}

static unsigned count(const char *text, const char *what)
{
	unsigned n = 0;

	while ((text = strstr(text, what))) {
		n++;
		text += strlen(what);
	}
	return n;
}

/* Parses one field of RFC 4180 into `field`; returns what follows its separator and sets *last at the end of a record. */
static const char *csv_field(const char *p, char field[4096], bool *last)
{
	size_t n = 0;
	bool quoted = *p == '"';

	p += quoted;
	for (;; p++) {
		assert_int_not_equal(*p, '\0');
		if (quoted && p[0] == '"' && p[1] == '"')
			p++;
		else if (quoted ? *p == '"' : *p == ',' || *p == '\r')
			break;
		assert_true(n < 4095);
		field[n++] = *p;
	}
	field[n] = '\0';
	p += quoted;
	*last = *p == '\r';
	if (!*last)
		assert_int_equal(*p, ',');
	else
		assert_int_equal(p[1], '\n');
	return p + (*last ? 2 : 1);
}

/* Checks the shape of a CSV and returns its number of records; `cells` gets the first cells of records 1 and on. */
static unsigned csv_parse(const char *text, unsigned columns, char cells[][4096], unsigned room)
{
	unsigned records = 0;

	while (*text) {
		bool last = false;
		unsigned n;

		for (n = 0; !last; n++) {
			char field[4096];

			text = csv_field(text, field, &last);
			assert_null(strchr("=+-@", field[0] ? field[0] : 'x'));
			if (n == 0 && records > 0 && records <= room)
				strcpy(cells[records - 1], field);
		}
		assert_int_equal(n, columns);
		records++;
	}
	return records;
}

static const char *const hostile[] = {
	"/v/new\nline",
	"/v/cr\r\nlf",
	"/v/\033[2J\033]0;title\007",
	"/v/quote\"quote\"\"",
	"/v/a,b;c\td",
	"=cmd|' /C calc'!A0",
	"+1",
	"-1",
	"@SUM(A1)",
	"\t=1",
	"\r=1",
	"'=1",
	" =1",
	"/v/\xff\xfe\x80",
	"/v/\xc3",
	"/v/%n%s%x%999999d",
	"/v/\u202egnp.exe",
	"/v/\xc2\x9b[31m",
	"/v/\u2028x",
	"/v/\\x0a",
	"/v/\x7f",
	"/v/;=1+1",
	"\uff1d1",
	"",
	"/v/\xed\xa0\x80",
};

#define NR_HOSTILE ARRAY_SIZE(hostile)

/* Hostile texts in every place that takes one; `names` gives the paths. */
static struct tally hostile_tally(struct image_tally *images, const char *const *names)
{
	struct tally t = empty();

	for (size_t i = 0; i < NR_HOSTILE; i++) {
		images[i] = image(names[i], GIB, MIB, MIB);
		images[i].format = images[i].backing = images[i].features = images[i].warning = (char *)names[i];
		if (i % 2)
			images[i].error = images[i].error_kind = (char *)names[i];
		t.nr_failed += i % 2;
	}
	t.images = images;
	t.nr_images = NR_HOSTILE;
	return t;
}

/* ---- golden outputs ---- */

#define GOLDEN(test, file, style, ...)                                                                                 \
	static void test(void **state)                                                                                 \
	{                                                                                                              \
		struct image_tally images[4];                                                                          \
		struct tally t = sample(images);                                                                       \
                                                                                                                       \
		(void)state;                                                                                           \
		expect_golden(file, render(style, &t, &(struct report_options){ __VA_ARGS__ }));                       \
	}

GOLDEN(table_looks_as_expected, "table.txt", "table", .utf8 = true)
GOLDEN(table_fits_80_columns, "table_80.txt", "table", .utf8 = true, .width = 80)
GOLDEN(table_shows_exact_bytes, "table_bytes.txt", "table", .utf8 = true, .exact = true)
GOLDEN(csv_looks_as_expected, "images.csv", "csv", .utf8 = true)
GOLDEN(csv_totals_look_as_expected, "totals.csv", "csv-totals", .utf8 = true)
GOLDEN(csv_histogram_looks_as_expected, "histogram.csv", "csv-histogram", .utf8 = true)
GOLDEN(json_looks_as_expected, "report.json", "json", .utf8 = true)
GOLDEN(html_looks_as_expected, "report.html", "html", .utf8 = true)

static void no_line_of_a_narrow_table_is_longer_than_the_terminal(void **state)
{
	struct image_tally images[4];
	struct tally t = sample(images);
	char *text;

	(void)state;
	t.nr_images = 3;
	images[1] = image("/srv/vm/a.qcow2", GIB, MIB, MIB);
	t.nr_failed = 0;
	text = render("table", &t, &(struct report_options){ .width = 80 });
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
		assert_true(strlen(line) <= 80);
	free(text);
}

static void no_line_of_the_table_ends_in_blanks(void **state)
{
	struct image_tally images[4];
	struct tally t = sample(images);
	char *text = render("table", &t, NULL);

	(void)state;
	assert_null(strstr(text, " \n"));
	free(text);
}

static void machine_styles_ignore_how_the_table_is_shown(void **state)
{
	static const char *const styles[] = { "csv", "csv-totals", "csv-histogram", "json" };
	const struct report_options o = { .sort = REPORT_SORT_SHARE, .top = 1, .width = 40, .exact = true };
	struct image_tally images[4];
	struct tally t = sample(images);

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(styles); i++) {
		char *a = render(styles[i], &t, NULL), *b = render(styles[i], &t, &o);

		assert_string_equal(a, b);
		free(a);
		free(b);
	}
}

/* ---- hostile names ---- */

static void hostile_names_break_no_line_and_no_terminal(void **state)
{
	const char *benign[NR_HOSTILE];
	struct image_tally images[NR_HOSTILE];
	struct tally t = hostile_tally(images, hostile);
	char *text = render("table", &t, NULL), *tame;

	(void)state;
	expect_one_line_each(text, "\n");
	assert_null(strstr(text, "\u202e"));
	assert_null(strstr(text, "\xc2\x9b"));
	assert_null(strstr(text, "\u2028"));
	assert_non_null(strstr(text, "/v/%n%s%x%999999d"));
	for (size_t i = 0; i < NR_HOSTILE; i++)
		benign[i] = "name";
	t = hostile_tally(images, benign);
	tame = render("table", &t, NULL);
	assert_int_equal(count(text, "\n"), count(tame, "\n"));
	free(text);
	free(tame);
}

static void hostile_names_are_no_markup(void **state)
{
	static const char *const markup[] = { "<script>alert(1)</script>", "</table>", "\" onload=\"x", "'&lt;&amp;", "]]>", "<!--" };
	const char *evil[NR_HOSTILE], *benign[NR_HOSTILE];
	struct image_tally images[NR_HOSTILE];
	struct tally t;
	char *text, *tame;

	(void)state;
	for (size_t i = 0; i < NR_HOSTILE; i++) {
		evil[i] = i < ARRAY_SIZE(markup) ? markup[i] : hostile[i];
		benign[i] = "name";
	}
	t = hostile_tally(images, evil);
	text = render("html", &t, NULL);
	t = hostile_tally(images, benign);
	tame = render("html", &t, NULL);
	expect_one_line_each(text, "\n");
	for (const char *c = "<>\"'\n"; *c; c++) {
		char what[] = { *c, '\0' };

		assert_int_equal(count(text, what), count(tame, what));
	}
	EXPECT(text, "&lt;script&gt;alert(1)&lt;/script&gt;", "&quot; onload=&quot;x", "&#39;&amp;lt;&amp;amp;");
	free(tame);
}

static void names_are_pure_ascii_where_utf8_is_not_understood(void **state)
{
	struct image_tally images[NR_HOSTILE];
	struct tally t = hostile_tally(images, hostile);
	char *text = render("table", &t, &(struct report_options){ .utf8 = false });

	(void)state;
	for (const char *p = text; *p; p++)
		assert_true((unsigned char)*p < 0x7f);
	free(text);
}

static void utf8_in_another_locale_is_escaped_rather_than_waited_for(void **state)
{
	struct image_tally images[NR_HOSTILE];
	struct tally t = hostile_tally(images, hostile);
	char *text;

	(void)state;
	images[0].path = (char *)"/v/\u00dcbung";
	setlocale(LC_CTYPE, "C");
	alarm(10);
	text = render("table", &t, &(struct report_options){ .utf8 = true });
	alarm(0);
	setlocale(LC_CTYPE, "C.UTF-8");
	EXPECT(text, "/v/\\u00dcbung\n");
}

static void hostile_names_break_no_csv_record_and_run_no_formula(void **state)
{
	static char cells[NR_HOSTILE][4096];
	struct image_tally images[NR_HOSTILE];
	struct tally t = hostile_tally(images, hostile);
	char *text = render("csv", &t, NULL);

	(void)state;
	expect_one_line_each(text, "\r\n");
	assert_null(strchr(text, ';'));
	assert_int_equal(csv_parse(text, CSV_COLUMNS, cells, NR_HOSTILE), NR_HOSTILE + 1);
	assert_string_equal(cells[0], "/v/new\\x0aline");
	assert_string_equal(cells[3], "/v/quote\"quote\"\"");
	assert_string_equal(cells[4], "/v/a,b\\x3bc\\x09d");
	assert_string_equal(cells[5], "'=cmd|' /C calc'!A0");
	assert_string_equal(cells[7], "'-1");
	assert_string_equal(cells[11], "''=1");
	assert_string_equal(cells[12], "' =1");
	assert_string_equal(cells[22], "'\uff1d1");
	free(text);
}

static void unhex(const char *hex, char *out)
{
	unsigned c;

	for (; *hex; hex += 2) {
		assert_int_equal(sscanf(hex, "%2x", &c), 1);
		*out++ = (char)c;
	}
	*out = '\0';
}

static void every_name_can_be_had_back_from_json(void **state)
{
	struct image_tally images[NR_HOSTILE];
	struct tally t = hostile_tally(images, hostile);
	char *text = render("json", &t, NULL);
	json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, NULL);

	(void)state;
	assert_non_null(root);
	for (size_t i = 0; i < NR_HOSTILE; i++) {
		json_t *img = json_array_get(json_object_get(root, "images"), i);
		const char *bytes = json_string_value(json_object_get(img, "path_bytes"));
		char path[256];

		snprintf(path, sizeof(path), "%s", json_string_value(json_object_get(img, "path")));
		assert_int_equal(!bytes, text_is_utf8(hostile[i]));
		if (bytes)
			unhex(bytes, path);
		assert_string_equal(path, hostile[i]);
		assert_non_null(json_object_get(img, "warning"));
	}
	json_decref(root);
	free(text);
}

static void json_is_ascii_so_that_a_terminal_can_show_it(void **state)
{
	struct image_tally images[NR_HOSTILE];
	struct tally t = hostile_tally(images, hostile);
	char *text = render("json", &t, NULL);

	(void)state;
	for (const char *p = text; *p; p++)
		assert_true(*p == '\n' || ((unsigned char)*p >= 0x20 && (unsigned char)*p <= 0x7f));
	free(text);
}

static void a_very_long_name_is_shown_whole(void **state)
{
	struct image_tally images[4];
	struct tally t = sample(images);
	char name[4096];
	char *text;

	(void)state;
	memset(name, 'x', sizeof(name) - 1);
	name[0] = '/';
	name[sizeof(name) - 1] = '\0';
	images[0].path = name;
	images[0].warning = name;
	text = render("table", &t, &(struct report_options){ .width = 80 });
	assert_int_equal(count(text, name), 3);
	free(text);
}

/* ---- unusual numbers ---- */

static void nothing_found_is_said_and_divides_by_nothing(void **state)
{
	struct tally t = empty();

	(void)state;
	for (size_t i = 0; report_styles[i]; i++) {
		char *text = render(report_styles[i]->name, &t, NULL);

		assert_null(strstr(text, "nan"));
		assert_null(strstr(text, "inf"));
		free(text);
	}
	EXPECT(render("table", &t, NULL), "No disk images found.\n");
}

static void images_without_data_divide_by_nothing(void **state)
{
	struct image_tally img = image("/a", 0, 0, 0);
	struct tally t = empty();
	char *text;

	(void)state;
	t.images = &img;
	t.nr_images = 1;
	text = render("table", &t, NULL);
	assert_null(strstr(text, "nan"));
	assert_null(strstr(text, "inf"));
	EXPECT(text, "1 image without any data.\n", "dedup = -\n");
}

static void only_failed_images_leave_nothing_but_problems(void **state)
{
	struct image_tally img = failed_image("/a", "it is broken");
	struct tally t = empty();
	char *text;

	(void)state;
	t.images = &img;
	t.nr_images = t.nr_failed = 1;
	text = render("table", &t, NULL);
	assert_null(strstr(text, "DUPLICATES"));
	EXPECT(text, "No image could be read.\n", "\nPROBLEMS\nfailed   /a: it is broken\n");
}

static void no_duplicates_is_said(void **state)
{
	struct image_tally images[4];
	struct tally t = sample(images);

	(void)state;
	t.distinct = t.nonzero;
	t.within_other = t.between_same = t.between_other = 0;
	EXPECT(render("table", &t, NULL), "3 images with 11.4 GiB of data, no duplicates: nothing to save.\n");
}

static void a_file_system_that_cannot_say_is_not_taken_for_one_that_shares_nothing(void **state)
{
	struct image_tally images[4];
	struct tally t = sample(images);

	(void)state;
	t.fs_shared = -1;
	EXPECT(render("table", &t, NULL), "less what the file system shares already (it cannot say).\n",
	       " cannot say\n");
	EXPECT(render("json", &t, NULL), "\"fs_shared\": null", "\"left_to_save\": null");
	EXPECT(render("csv-totals", &t, NULL), "\r\nfs_shared,\r\nleft_to_save,\r\n");
}

static void sharing_more_than_the_duplicates_leaves_zero_not_less(void **state)
{
	struct image_tally images[4];
	struct tally t = sample(images);

	(void)state;
	t.fs_shared = (int64_t)TIB;
	EXPECT(render("table", &t, NULL), "nothing is left to save.\n");
	EXPECT(render("json", &t, NULL), "\"left_to_save\": 0");
}

static void huge_numbers_stay_exact_or_readable(void **state)
{
	struct image_tally img = image("/a", 0, 0, 0);
	struct tally t = empty();

	(void)state;
	t.images = &img;
	t.nr_images = 1;
	t.virtual_size = t.stored = t.nonzero = (uint64_t)1 << 60;
	t.distinct = (uint64_t)1 << 59;
	t.histogram[47] = (struct histogram_bucket){ 1, (uint64_t)1 << 47 };
	EXPECT(render("table", &t, NULL), "virtual   1.0 EiB ", "distinct  512 PiB ", "\n      128T ");
	EXPECT(render("json", &t, NULL), "1152921504606846976");
	EXPECT(render("csv-totals", &t, NULL), "stored,1152921504606846976\r\n");
	EXPECT(render("csv-histogram", &t, NULL), "\r\n140737488355328,1,4096,140737488355328,576460752303423488\r\n");
}

static void sizes_round_up_into_the_next_unit(void **state)
{
	struct image_tally img = image("/a", 0, 0, 0);
	struct tally t = empty();

	(void)state;
	t.images = &img;
	t.nr_images = 1;
	t.virtual_size = TIB - 1;
	t.stored = 1023;
	t.nonzero = 1024 * 1024 - 52 * 1024;
	t.distinct = 10 * GIB - 1;
	EXPECT(render("table", &t, NULL), "virtual    1.0 TiB ", "stored      1023 B ", "not zero   972 KiB ",
	       "distinct  10.0 GiB ");
}

static void times_outside_of_all_calendars_are_left_out(void **state)
{
	char when[REPORT_TIME_SIZE];

	(void)state;
	report_time(1, when);
	assert_string_equal(when, "1970-01-01T00:00:01Z");
	report_time(0, when);
	assert_string_equal(when, "");
	report_time(INT64_MAX, when);
	assert_string_equal(when, "");
}

static void a_stopped_scan_is_told_at_the_top(void **state)
{
	struct image_tally images[4];
	struct tally t = sample(images);
	char *text;

	(void)state;
	t.complete = false;
	text = render("table", &t, NULL);
	assert_true(strstr(text, "INCOMPLETE: ") < strstr(text, "SPACE"));
	EXPECT(text, "INCOMPLETE: ");
	EXPECT(render("json", &t, NULL), "\"complete\": false");
	EXPECT(render("csv-totals", &t, NULL), "complete,false\r\n");
}

static void failed_images_have_no_figures_rather_than_zeros(void **state)
{
	struct image_tally images[4];
	struct tally t = sample(images);

	(void)state;
	EXPECT(render("csv", &t, NULL), ",70000,73728,,,,,,,,\r\n");
	EXPECT(render("json", &t, NULL), "\"stored\": null");
}

/* ---- options ---- */

static void expect_order(enum report_sort sort, const char *first, const char *second, const char *third)
{
	struct image_tally images[4];
	struct tally t = sample(images);
	char *text = render("table", &t, &(struct report_options){ .sort = sort });
	const char *body = strstr(text, "IMAGES");

	assert_non_null(strstr(body, first));
	assert_true(strstr(body, first) < strstr(body, second));
	assert_true(strstr(body, second) < strstr(body, third));
	free(text);
}

static void images_come_in_the_order_asked_for(void **state)
{
	(void)state;
	expect_order(REPORT_SORT_PATH, "db", "web-01", "web-02");
	expect_order(REPORT_SORT_STORED, "web-01", "web-02", "db");
	expect_order(REPORT_SORT_EXCLUSIVE, "db", "web-01", "web-02");
	expect_order(REPORT_SORT_SHARE, "web-01", "db", "web-02");
}

static void equal_images_come_in_order_of_path(void **state)
{
	struct image_tally images[3] = { image("/c", GIB, 0, 0), image("/a", GIB, 0, 0), image("/b", GIB, 0, 0) };
	struct tally t = empty();

	(void)state;
	t.images = images;
	t.nr_images = 3;
	char *text = render("table", &t, NULL);
	assert_true(strstr(text, "/a\n") < strstr(text, "/b\n"));
	assert_true(strstr(text, "/b\n") < strstr(text, "/c\n"));
	EXPECT(text, "/a\n", "/b\n", "/c\n");
}

static void the_rest_is_counted_when_only_the_top_is_shown(void **state)
{
	struct image_tally images[4];
	struct tally t = sample(images);
	char *text = render("table", &t, &(struct report_options){ .top = 1 });

	(void)state;
	assert_null(strstr(text, "db.qcow2"));
	EXPECT(text, "  /srv/vm/web-01.qcow2\nand 2 more images\n");
}

static void directories_that_differ_are_shown_whole(void **state)
{
	struct image_tally images[2] = { image("/srv/a", GIB, 0, 0), image("/sr/a", GIB, 0, 0) };
	struct tally t = empty();

	(void)state;
	t.images = images;
	t.nr_images = 2;
	EXPECT(render("table", &t, NULL), "  /srv/a\n", "  /sr/a\n", "IMAGES by STORED\n");
}

static void unknown_names_are_refused(void **state)
{
	enum report_sort sort = REPORT_SORT_SHARE;
	struct err err = ERR_INIT;

	(void)state;
	assert_null(report_style_by_name("xml"));
	assert_int_equal(report_sort_by_name("size", &sort, &err), -1);
	assert_int_equal(err.kind, ERR_USAGE);
	assert_int_equal(sort, REPORT_SORT_SHARE);
	assert_int_equal(report_sort_by_name("path", &sort, &err), 0);
	assert_int_equal(sort, REPORT_SORT_PATH);
}

/* ---- where it goes ---- */

static int write_to(const char *path, struct err *err)
{
	struct image_tally images[4];
	struct tally t = sample(images);
	const struct report_options o = { .utf8 = true };

	*err = ERR_INIT;
	return report_write(&report_csv_totals, &t, &o, path, err);
}

static void put_file(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static void expect_file(const char *path, const char *start)
{
	char *text = slurp(path);

	assert_int_equal(strncmp(text, start, strlen(start)), 0);
	free(text);
}

static void a_file_is_written(void **state)
{
	struct err err;

	(void)state;
	assert_int_equal(write_to(in_tree("new"), &err), 0);
	expect_file(in_tree("new"), "key,value\r\n");
}

static void a_private_file_stays_private(void **state)
{
	struct err err;
	struct stat st;

	(void)state;
	put_file(in_tree("private"), "old");
	chmod(in_tree("private"), 0600);
	assert_int_equal(write_to(in_tree("private"), &err), 0);
	assert_int_equal(stat(in_tree("private"), &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	expect_file(in_tree("private"), "key,value\r\n");
}

static void a_symbolic_link_is_followed(void **state)
{
	struct err err;
	struct stat st;

	(void)state;
	put_file(in_tree("target"), "old");
	assert_int_equal(symlink("target", in_tree("link")), 0);
	assert_int_equal(write_to(in_tree("link"), &err), 0);
	assert_int_equal(lstat(in_tree("link"), &st), 0);
	assert_true(S_ISLNK(st.st_mode));
	expect_file(in_tree("target"), "key,value\r\n");
}

static void a_directory_is_refused(void **state)
{
	struct err err;

	(void)state;
	assert_int_equal(write_to(tree, &err), -1);
	assert_int_equal(err.kind, ERR_USAGE);
	assert_int_equal(write_to(in_tree("none/"), &err), -1);
	assert_int_equal(err.kind, ERR_USAGE);
}

static int no_sync(int fd)
{
	(void)fd;
	errno = EIO;
	return -1;
}

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

static ssize_t no_room(int fd, const void *buf, size_t len, off_t offset)
{
	(void)fd;
	(void)buf;
	(void)len;
	(void)offset;
	errno = ENOSPC;
	return -1;
}

static void a_pipe_is_written_not_replaced(void **state)
{
	char text[16] = "";
	struct stat st;
	struct err err;
	int fd;

	(void)state;
	assert_int_equal(mkfifo(in_tree("pipe"), 0600), 0);
	fd = open(in_tree("pipe"), O_RDONLY | O_NONBLOCK);
	assert_int_equal(write_to(in_tree("pipe"), &err), 0);
	assert_int_equal(read(fd, text, 9), 9);
	assert_string_equal(text, "key,value");
	assert_int_equal(stat(in_tree("pipe"), &st), 0);
	assert_true(S_ISFIFO(st.st_mode));
	close(fd);
}

/* Run as root, a mistake here would replace the device for everybody: hence no rename. */
static void a_full_device_is_an_error(void **state)
{
	struct file_ops ops = file_ops_os;
	struct err err;
	int rc;

	(void)state;
	ops.renameat2 = no_rename;
	file_ops = &ops;
	rc = write_to("/dev/full", &err);
	file_ops = &file_ops_os;
	assert_int_equal(rc, -1);
	assert_int_equal(err.kind, ERR_FULL);
	assert_non_null(strstr(err.text, "/dev/full"));
}

static void the_old_file_stays_when_the_new_one_fails(void **state)
{
	struct file_ops bad[3] = { file_ops_os, file_ops_os, file_ops_os };
	char command[PATH_MAX + 64];
	struct err err;

	(void)state;
	bad[0].pwrite = no_room;
	bad[1].fdatasync = no_sync;
	bad[2].renameat2 = no_rename;
	put_file(in_tree("kept"), "old");
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		file_ops = &bad[i];
		assert_int_equal(write_to(in_tree("kept"), &err), -1);
		file_ops = &file_ops_os;
		assert_int_equal(err.kind, i ? ERR_IO : ERR_FULL);
		expect_file(in_tree("kept"), "old");
	}
	snprintf(command, sizeof(command), "test -z \"$(ls %s | grep tmp)\"", tree);
	assert_int_equal(system(command), 0);
}

/* Writes to stdout, which is `fd`, in a child; returns the error's kind, or 100 + it when errnum is EPIPE. */
static int write_to_stdout(int fd)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		struct err err;
		int rc;

		signal(SIGPIPE, SIG_IGN);
		dup2(fd, STDOUT_FILENO);
		if (fd < 0)
			close(STDOUT_FILENO);
		rc = write_to(NULL, &err);
		_exit(rc == 0 ? 0 : (int)err.kind + (err.errnum == EPIPE ? 100 : 0));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void stdout_gets_it_too(void **state)
{
	int fd = open(in_tree("stdout"), O_WRONLY | O_CREAT, 0600);

	(void)state;
	assert_int_equal(write_to_stdout(fd), 0);
	expect_file(in_tree("stdout"), "key,value\r\n");
	close(fd);
}

static void a_full_disk_behind_stdout_is_an_error(void **state)
{
	int fd = open("/dev/full", O_WRONLY);

	(void)state;
	assert_int_equal(write_to_stdout(fd), ERR_FULL);
	close(fd);
}

static void a_closed_stdout_is_an_error(void **state)
{
	(void)state;
	assert_int_equal(write_to_stdout(-1), ERR_IO);
}

static void a_reader_that_went_away_has_its_own_kind(void **state)
{
	int fds[2];

	(void)state;
	assert_int_equal(pipe(fds), 0);
	close(fds[0]);
	assert_int_equal(write_to_stdout(fds[1]), 100 + ERR_CANCELED);
	close(fds[1]);
}

static int make_dir(void **state)
{
	setlocale(LC_CTYPE, "C.UTF-8");
	return tree_make(state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(table_looks_as_expected),
		cmocka_unit_test(table_fits_80_columns),
		cmocka_unit_test(table_shows_exact_bytes),
		cmocka_unit_test(csv_looks_as_expected),
		cmocka_unit_test(csv_totals_look_as_expected),
		cmocka_unit_test(csv_histogram_looks_as_expected),
		cmocka_unit_test(json_looks_as_expected),
		cmocka_unit_test(html_looks_as_expected),
		cmocka_unit_test(no_line_of_a_narrow_table_is_longer_than_the_terminal),
		cmocka_unit_test(no_line_of_the_table_ends_in_blanks),
		cmocka_unit_test(machine_styles_ignore_how_the_table_is_shown),
		cmocka_unit_test(hostile_names_break_no_line_and_no_terminal),
		cmocka_unit_test(hostile_names_are_no_markup),
		cmocka_unit_test(names_are_pure_ascii_where_utf8_is_not_understood),
		cmocka_unit_test(utf8_in_another_locale_is_escaped_rather_than_waited_for),
		cmocka_unit_test(hostile_names_break_no_csv_record_and_run_no_formula),
		cmocka_unit_test(every_name_can_be_had_back_from_json),
		cmocka_unit_test(json_is_ascii_so_that_a_terminal_can_show_it),
		cmocka_unit_test(a_very_long_name_is_shown_whole),
		cmocka_unit_test(nothing_found_is_said_and_divides_by_nothing),
		cmocka_unit_test(images_without_data_divide_by_nothing),
		cmocka_unit_test(only_failed_images_leave_nothing_but_problems),
		cmocka_unit_test(no_duplicates_is_said),
		cmocka_unit_test(a_file_system_that_cannot_say_is_not_taken_for_one_that_shares_nothing),
		cmocka_unit_test(sharing_more_than_the_duplicates_leaves_zero_not_less),
		cmocka_unit_test(huge_numbers_stay_exact_or_readable),
		cmocka_unit_test(sizes_round_up_into_the_next_unit),
		cmocka_unit_test(times_outside_of_all_calendars_are_left_out),
		cmocka_unit_test(a_stopped_scan_is_told_at_the_top),
		cmocka_unit_test(failed_images_have_no_figures_rather_than_zeros),
		cmocka_unit_test(images_come_in_the_order_asked_for),
		cmocka_unit_test(equal_images_come_in_order_of_path),
		cmocka_unit_test(the_rest_is_counted_when_only_the_top_is_shown),
		cmocka_unit_test(directories_that_differ_are_shown_whole),
		cmocka_unit_test(unknown_names_are_refused),
		cmocka_unit_test(a_file_is_written),
		cmocka_unit_test(a_private_file_stays_private),
		cmocka_unit_test(a_symbolic_link_is_followed),
		cmocka_unit_test(a_directory_is_refused),
		cmocka_unit_test(a_pipe_is_written_not_replaced),
		cmocka_unit_test(a_full_device_is_an_error),
		cmocka_unit_test(the_old_file_stays_when_the_new_one_fails),
		cmocka_unit_test(stdout_gets_it_too),
		cmocka_unit_test(a_full_disk_behind_stdout_is_an_error),
		cmocka_unit_test(a_closed_stdout_is_an_error),
		cmocka_unit_test(a_reader_that_went_away_has_its_own_kind),
	};

	return cmocka_run_group_tests(tests, make_dir, tree_remove);
}
