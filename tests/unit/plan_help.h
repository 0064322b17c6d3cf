/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_TESTS_PLAN_HELP_H
#define DEDUPSCAN_TESTS_PLAN_HELP_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "reports/plan_report.h"

/* Plans of any content, made from a stream of numbers, and their texts. */

struct plan_source {
	uint64_t (*next)(struct plan_source *s);
	uint64_t state;
	const uint8_t *bytes;
	size_t left;
};

static inline uint64_t plan_random(struct plan_source *s)
{
	s->state = s->state * 6364136223846793005u + 1442695040888963407u;
	return s->state >> 20 ^ s->state << 40;
}

/* Small, large or none, never more than JSON has integers for. */
static inline uint64_t plan_any_size(struct plan_source *s)
{
	uint64_t v = s->next(s);

	return (s->next(s) >> (v % 60)) & INT64_MAX;
}

static inline char *plan_any_text(struct plan_source *s)
{
	static const char *const texts[] = {
		"a", "/srv/vm/\u00dcbung.qcow2", "/v/\xff\xfe", "/v/\\x0a", "/v/\n\033[2J", "/v/\xed\xa0\x80", "%n%s",
		"\"\\u0041", "/v/\u202egnp.exe", " ", "/v/\xc3", "\x7f\x01",
	};

	return strdup(texts[s->next(s) % (sizeof(texts) / sizeof(*texts))]);
}

static inline char *plan_maybe_text(struct plan_source *s)
{
	return s->next(s) % 2 ? plan_any_text(s) : NULL;
}

static inline void plan_any_figures(struct plan_source *s, const struct plan_figure *f, void *ret)
{
	for (; f->name; f++) {
		uint64_t v = plan_any_size(s);

		memcpy((char *)ret + f->offset, &v, sizeof(v));
	}
}

static inline void plan_any_image(struct plan_source *s, size_t i, const struct plan *p, struct plan_image *ret)
{
	char path[256], *text = plan_any_text(s);

	plan_any_figures(s, plan_image_figures, ret);
	snprintf(path, sizeof(path), "/%06zu%s", i, text);
	free(text);
	ret->path = strdup(path);
	ret->id = (int64_t)plan_any_size(s);
	ret->format = plan_maybe_text(s);
	ret->identity = (struct spool_identity){ s->next(s), s->next(s), s->next(s), (int64_t)s->next(s), (int64_t)s->next(s) };
	ret->fs = s->next(s) % p->nr_file_systems;
	ret->why_not = plan_maybe_text(s);
}

static inline void plan_any_step(struct plan_source *s, const struct plan *p, struct plan_step *ret)
{
	plan_any_figures(s, plan_step_figures, ret);
	ret->image = s->next(s) % p->nr_images;
	ret->method = (enum plan_method)(s->next(s) % PLAN_NR_METHODS);
	ret->state = (enum plan_state)(s->next(s) % PLAN_NR_STATES);
	ret->later = s->next(s) % 2;
	ret->why = plan_maybe_text(s);
	ret->note = plan_maybe_text(s);
}

/* Has at least one of each kind when it has images. */
static inline struct plan plan_any(struct plan_source *s)
{
	struct plan p = {
		.nr_file_systems = 1 + s->next(s) % 3,
		.nr_images = s->next(s) % 8,
		.taken_at = (int64_t)(s->next(s) % 200000000000),
		.keep_originals = (int64_t)plan_any_size(s),
		.complete = s->next(s) % 2,
		.applied = s->next(s) % 2,
		.pool_in_use = s->next(s) % 2,
		.several_files = s->next(s) % 2,
		.unfolded = s->next(s) % 2,
	};

	plan_any_figures(s, plan_figures, &p);
	p.nr_steps = p.nr_images ? s->next(s) % 12 : 0;
	p.file_systems = calloc(p.nr_file_systems, sizeof(*p.file_systems));
	p.images = calloc(p.nr_images + 1, sizeof(*p.images));
	p.steps = calloc(p.nr_steps + 1, sizeof(*p.steps));
	for (size_t i = 0; i < p.nr_file_systems; i++) {
		struct plan_fs *fs = &p.file_systems[i];

		plan_any_figures(s, plan_fs_figures, fs);
		*fs = (struct plan_fs){ plan_maybe_text(s), plan_maybe_text(s), s->next(s), fs->size, fs->free,
					fs->free_before, fs->free_after, fs->saving, plan_maybe_text(s) };
	}
	for (size_t i = 0; i < p.nr_images; i++)
		plan_any_image(s, i, &p, &p.images[i]);
	for (size_t i = 0; i < p.nr_steps; i++)
		plan_any_step(s, &p, &p.steps[i]);
	return p;
}

/* The JSON of a plan; NULL when it could not be made. */
static inline char *plan_json(const struct plan *p)
{
	char *text = NULL;
	size_t len = 0;
	FILE *mem = open_memstream(&text, &len);
	int rc = mem ? plan_write_json(mem, p, NULL) : -1;

	if (mem && fclose(mem) == 0 && rc == 0)
		return text;
	free(text);
	return NULL;
}

static inline char *plan_table(const struct plan *p, const struct report_options *o)
{
	char *text = NULL;
	size_t len = 0;
	FILE *mem = open_memstream(&text, &len);
	int rc = mem ? plan_write_table(mem, p, o, NULL) : -1;

	if (mem && fclose(mem) == 0 && rc == 0)
		return text;
	free(text);
	return NULL;
}

static inline int plan_parse(const char *text, size_t len, struct plan *ret, struct err *err)
{
	FILE *in = fmemopen((void *)(len ? text : " "), len ? len : 1, "r");
	int rc;

	if (!in)
		abort();
	rc = plan_read(in, "p.json", ret, err);
	fclose(in);
	return rc;
}

#endif
