/* SPDX-License-Identifier: Apache-2.0 */
/* One JSON object, its members named as in scanner/plan.h; dedupscan-compact(1) describes it.  Steps name their image, and images
 * their file system, by index.
 *
 * Version 1 may gain members; when one changes its meaning or goes, the version does too. */
#include "reports/json_tree.h"
#include "reports/plan_report.h"

#define FIGURE(type, member, ...) { #member, offsetof(struct type, member), __VA_ARGS__ }

const struct plan_figure plan_figures[] = {
	FIGURE(plan, min_run), FIGURE(plan, saving), FIGURE(plan, saving_later), FIGURE(plan, work), FIGURE(plan, rate, true),
	FIGURE(plan, nr_seconds), FIGURE(plan, peak_memory, true), FIGURE(plan, nr_folded, false, true),
	FIGURE(plan, folded, false, true),
	{ NULL },
};

const struct plan_figure plan_fs_figures[] = {
	FIGURE(plan_fs, size), FIGURE(plan_fs, free), FIGURE(plan_fs, free_before, true), FIGURE(plan_fs, free_after, true),
	FIGURE(plan_fs, saving), { NULL },
};

const struct plan_figure plan_image_figures[] = {
	FIGURE(plan_image, size), FIGURE(plan_image, used), FIGURE(plan_image, stored), FIGURE(plan_image, duplicate),
	FIGURE(plan_image, shared), FIGURE(plan_image, misaligned), FIGURE(plan_image, short_runs), FIGURE(plan_image, pinned),
	FIGURE(plan_image, zero), FIGURE(plan_image, saving), FIGURE(plan_image, nr_extents), { NULL },
};

const struct plan_figure plan_step_figures[] = {
	FIGURE(plan_step, saving), FIGURE(plan_step, work), FIGURE(plan_step, space), FIGURE(plan_step, nr_runs),
	FIGURE(plan_step, worked), FIGURE(plan_step, shared), FIGURE(plan_step, nr_differed), { NULL },
};

static void set_figures(struct json_t *obj, const struct plan_figure *f, const void *of, bool *bad)
{
	for (; f->name; f++) {
		const uint64_t *v = (const void *)((const char *)of + f->offset);

		tree_maybe(obj, f->name, *v || !f->maybe, *v, bad);
	}
}

static struct json_t *file_systems(const struct plan *p, bool *bad)
{
	struct json_t *array = tree_array();

	for (size_t i = 0; i < p->nr_file_systems && !*bad; i++) {
		const struct plan_fs *fs = &p->file_systems[i];
		struct json_t *obj = tree_object();

		tree_text(obj, "path", fs->path, bad);
		tree_text(obj, "type", fs->type, bad);
		tree_digits(obj, "dev", fs->dev, bad);
		set_figures(obj, plan_fs_figures, fs, bad);
		tree_text(obj, "why_not", fs->why_not, bad);
		tree_append(array, obj, bad);
	}
	return array;
}

static struct json_t *identity(const struct spool_identity *id, bool *bad)
{
	struct json_t *obj = tree_object();

	tree_digits(obj, "dev", id->dev, bad);
	tree_digits(obj, "ino", id->ino, bad);
	tree_digits(obj, "size", id->size, bad);
	tree_signed_digits(obj, "mtime", id->mtime, bad);
	tree_signed_digits(obj, "ctime", id->ctime, bad);
	return obj;
}

static struct json_t *images(const struct plan *p, bool *bad)
{
	struct json_t *array = tree_array();

	for (size_t i = 0; i < p->nr_images && !*bad; i++) {
		const struct plan_image *img = &p->images[i];
		struct json_t *obj = tree_object();

		tree_text(obj, "path", img->path, bad);
		tree_int(obj, "id", img->id, bad);
		tree_text(obj, "format", img->format, bad);
		tree_set(obj, "identity", identity(&img->identity, bad), bad);
		tree_size(obj, "file_system", img->fs, bad);
		set_figures(obj, plan_image_figures, img, bad);
		tree_text(obj, "why_not", img->why_not, bad);
		tree_append(array, obj, bad);
	}
	return array;
}

static struct json_t *steps(const struct plan *p, bool *bad)
{
	struct json_t *array = tree_array();

	for (size_t i = 0; i < p->nr_steps && !*bad; i++) {
		const struct plan_step *s = &p->steps[i];
		struct json_t *obj = tree_object();

		tree_size(obj, "image", s->image, bad);
		tree_text(obj, "method", plan_method_names[s->method], bad);
		tree_bool(obj, "later", s->later, bad);
		tree_text(obj, "state", plan_state_names[s->state], bad);
		tree_text(obj, "why", s->why, bad);
		tree_text(obj, "note", s->note, bad);
		set_figures(obj, plan_step_figures, s, bad);
		tree_append(array, obj, bad);
	}
	return array;
}

int plan_write_json(FILE *out, const struct plan *p, struct err *err)
{
	CLEANUP(tree_free) struct json_t *root = tree_object();
	bool bad = false;

	tree_int(root, "dedupscan_plan", PLAN_JSON_VERSION, &bad);
	tree_time(root, "taken_at", p->taken_at, &bad);
	tree_bool(root, "complete", p->complete, &bad);
	tree_bool(root, "applied", p->applied, &bad);
	tree_int(root, "keep_originals", p->keep_originals, &bad);
	set_figures(root, plan_figures, p, &bad);
	tree_bool(root, "pool_in_use", p->pool_in_use, &bad);
	tree_bool(root, "several_files", p->several_files, &bad);
	tree_bool(root, "unfolded", p->unfolded, &bad);
	tree_set(root, "file_systems", file_systems(p, &bad), &bad);
	tree_set(root, "images", images(p, &bad), &bad);
	tree_set(root, "steps", steps(p, &bad), &bad);
	if (bad || tree_print(out, root) < 0)
		return err_set(err, ERR_MEMORY, "no memory for the plan");
	return 0;
}

static int write_json(void *ctx, FILE *out, struct err *err)
{
	return plan_write_json(out, ctx, err);
}

int plan_write_file(const char *path, const struct plan *p, struct err *err)
{
	if (report_publish(path, write_json, (void *)p, err) < 0)
		return path ? err_add(err, "cannot write the plan '%s'", path) : err_add(err, "cannot write the plan");
	return 0;
}
