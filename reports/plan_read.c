/* SPDX-License-Identifier: Apache-2.0 */
/* The mirror of plan_json.c.  File systems come first, then images, which name them, then steps, which name those; counts are
 * those of the arrays, which no file of TREE_FILE_MAX bytes can make large. */
#include "reports/json_tree.h"
#include "reports/plan_report.h"

#include <stdlib.h>
#include <string.h>

static void get_figures(struct tree_reader *r, const struct plan_figure *f, void *ret)
{
	for (; f->name; f++) {
		uint64_t *v = (void *)((char *)ret + f->offset);

		if (f->later && !tree_has(r, f->name))
			continue;
		*v = f->maybe ? tree_get_maybe(r, f->name) : tree_get_size(r, f->name);
	}
}

/* An array for as many items as the JSON array has; NULL for none. */
static void *items_new(struct tree_reader *r, size_t nr, size_t size)
{
	void *ret = nr ? calloc(nr, size) : NULL;

	if (nr && !ret)
		tree_wrong(r, NULL, ERR_MEMORY, "is too long: no memory");
	return ret;
}

static void get_fs(struct tree_reader *r, struct plan_fs *ret)
{
	ret->path = tree_get_text(r, "path", true);
	ret->type = tree_get_text(r, "type", true);
	ret->dev = tree_get_digits(r, "dev");
	get_figures(r, plan_fs_figures, ret);
	ret->why_not = tree_get_text(r, "why_not", true);
}

static void get_file_systems(struct tree_reader *r, struct plan *p)
{
	size_t nr = tree_enter_array(r, "file_systems");

	p->file_systems = items_new(r, nr, sizeof(*p->file_systems));
	for (; p->nr_file_systems < nr && !r->failed; p->nr_file_systems++) {
		tree_enter_item(r, p->nr_file_systems);
		get_fs(r, &p->file_systems[p->nr_file_systems]);
		tree_leave(r);
	}
	tree_leave(r);
}

static struct spool_identity get_identity(struct tree_reader *r)
{
	struct spool_identity id;

	tree_enter_object(r, "identity");
	id = (struct spool_identity){
		.dev = tree_get_digits(r, "dev"),
		.ino = tree_get_digits(r, "ino"),
		.size = tree_get_digits(r, "size"),
		.mtime = tree_get_signed_digits(r, "mtime"),
		.ctime = tree_get_signed_digits(r, "ctime"),
	};
	tree_leave(r);
	return id;
}

static void get_image(struct tree_reader *r, const struct plan *p, struct plan_image *ret)
{
	ret->path = tree_get_text(r, "path", false);
	if (ret->path && !*ret->path)
		tree_wrong(r, "path", ERR_FORMAT, "is empty");
	if (ret->path && p->nr_images && strcmp(ret[-1].path, ret->path) > 0)
		tree_wrong(r, "path", ERR_FORMAT, "is not in order: images are sorted by path");
	ret->id = (int64_t)tree_get_size(r, "id");
	ret->format = tree_get_text(r, "format", true);
	ret->identity = get_identity(r);
	ret->fs = tree_get_index(r, "file_system", p->nr_file_systems);
	get_figures(r, plan_image_figures, ret);
	ret->why_not = tree_get_text(r, "why_not", true);
}

static void get_images(struct tree_reader *r, struct plan *p)
{
	size_t nr = tree_enter_array(r, "images");

	p->images = items_new(r, nr, sizeof(*p->images));
	for (; p->nr_images < nr && !r->failed; p->nr_images++) {
		tree_enter_item(r, p->nr_images);
		get_image(r, p, &p->images[p->nr_images]);
		tree_leave(r);
	}
	tree_leave(r);
}

static void get_step(struct tree_reader *r, const struct plan *p, struct plan_step *ret)
{
	ret->image = tree_get_index(r, "image", p->nr_images);
	ret->method = (enum plan_method)tree_get_word(r, "method", plan_method_names, PLAN_NR_METHODS);
	ret->later = tree_get_bool(r, "later");
	ret->state = (enum plan_state)tree_get_word(r, "state", plan_state_names, PLAN_NR_STATES);
	ret->why = tree_get_text(r, "why", true);
	ret->note = tree_has(r, "note") ? tree_get_text(r, "note", true) : NULL;
	get_figures(r, plan_step_figures, ret);
}

static void get_steps(struct tree_reader *r, struct plan *p)
{
	size_t nr = tree_enter_array(r, "steps");

	p->steps = items_new(r, nr, sizeof(*p->steps));
	for (; p->nr_steps < nr && !r->failed; p->nr_steps++) {
		tree_enter_item(r, p->nr_steps);
		get_step(r, p, &p->steps[p->nr_steps]);
		tree_leave(r);
	}
	tree_leave(r);
}

static void get_version(struct tree_reader *r)
{
	uint64_t version = tree_get_size(r, "dedupscan_plan");

	if (version > PLAN_JSON_VERSION)
		tree_wrong(r, "dedupscan_plan", ERR_UNSUPPORTED, "is %llu: a newer dedupscan made it, this one reads %d",
			   (unsigned long long)version, PLAN_JSON_VERSION);
	else if (version < 1)
		tree_wrong(r, "dedupscan_plan", ERR_FORMAT, "must be at least 1");
}

static void get_plan(struct tree_reader *r, struct plan *ret)
{
	get_version(r);
	ret->taken_at = tree_get_time(r, "taken_at");
	ret->complete = tree_get_bool(r, "complete");
	ret->applied = tree_get_bool(r, "applied");
	ret->keep_originals = (int64_t)tree_get_size(r, "keep_originals");
	get_figures(r, plan_figures, ret);
	ret->pool_in_use = tree_has(r, "pool_in_use") && tree_get_bool(r, "pool_in_use");
	ret->several_files = tree_has(r, "several_files") && tree_get_bool(r, "several_files");
	ret->unfolded = tree_has(r, "unfolded") && tree_get_bool(r, "unfolded");
	get_file_systems(r, ret);
	get_images(r, ret);
	get_steps(r, ret);
}

int plan_read(FILE *in, const char *name, struct plan *ret, struct err *err)
{
	CLEANUP(tree_reader_release) struct tree_reader r = { .root = NULL };
	CLEANUP(plan_release) struct plan p = { .images = NULL };

	if (tree_read(in, &r, err) < 0)
		return err_add(err, "plan '%s'", name);
	get_plan(&r, &p);
	if (r.failed)
		return err_add(err, "plan '%s'", name);
	*ret = p;
	p = (struct plan){ .images = NULL };
	return 0;
}
