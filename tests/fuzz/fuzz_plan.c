/* SPDX-License-Identifier: Apache-2.0 */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/plan_help.h"

/* The input is a plan file.  What is read as one must be possible, and come out the same when it is written and read again;
 * then the input is the numbers of which a plan is made, which must come back. */

static void must(int what)
{
	if (!what)
		abort();
}

static void must_be_possible(const struct plan *p)
{
	must(p->keep_originals >= 0);
	for (size_t i = 0; i < p->nr_images; i++) {
		must(p->images[i].path && *p->images[i].path && p->images[i].fs < p->nr_file_systems && p->images[i].id >= 0);
		must(i == 0 || strcmp(p->images[i - 1].path, p->images[i].path) <= 0);
	}
	for (size_t i = 0; i < p->nr_steps; i++) {
		must(p->steps[i].image < p->nr_images);
		must((unsigned)p->steps[i].method < PLAN_NR_METHODS && (unsigned)p->steps[i].state < PLAN_NR_STATES);
	}
}

static void must_show(const struct plan *p, struct report_options o)
{
	char *text = plan_table(p, &o);

	must(text != NULL);
	for (const unsigned char *c = (const void *)text; *c; c++)
		must(*c == '\n' || (*c >= 0x20 && *c < 0x7f));
	free(text);
}

static void must_come_back(const struct plan *p)
{
	char *text = plan_json(p), *again;
	struct plan back;

	must(text != NULL);
	must(plan_parse(text, strlen(text), &back, NULL) == 0);
	again = plan_json(&back);
	must(again && strcmp(text, again) == 0);
	must_be_possible(&back);
	plan_release(&back);
	free(text);
	free(again);
}

static uint64_t next_byte(struct plan_source *s)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < 3 && s->left; i++, s->left--)
		v = v << 29 ^ *s->bytes++;
	return v;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct plan_source source = { .next = next_byte, .bytes = data, .left = size };
	struct err err = ERR_INIT;
	struct plan p;

	if (plan_parse((const char *)data, size, &p, &err) == 0) {
		must_be_possible(&p);
		must_come_back(&p);
		must_show(&p, (struct report_options){ .width = size % 200 });
		must_show(&p, (struct report_options){ .exact = true });
		plan_release(&p);
	} else {
		must(err.kind == ERR_FORMAT || err.kind == ERR_UNSUPPORTED);
		must(strncmp(err.text, "plan 'p.json': ", 15) == 0);
	}
	p = plan_any(&source);
	must_come_back(&p);
	must_show(&p, (struct report_options){ .width = 80 });
	plan_release(&p);
	return 0;
}
