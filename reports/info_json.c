/* SPDX-License-Identifier: Apache-2.0 */
/* Version 1 may gain members; when one changes its meaning or goes, the version does too. */
#include "reports/info.h"

#include "reports/json_tree.h"

/* "" is told as null. */
static void set_word(struct json_t *obj, const char *key, const char *s, bool *bad)
{
	tree_text(obj, key, *s ? s : NULL, bad);
}

static struct json_t *extents(const struct inspection *i, bool *bad)
{
	struct json_t *obj = tree_object();

	for (unsigned n = 0; n < INSPECT_NR_EXTENTS; n++) {
		struct json_t *count = tree_object();

		tree_size(count, "number", i->extents[n].nr, bad);
		tree_size(count, "bytes", i->extents[n].bytes, bad);
		tree_set(obj, inspect_extent_names[n], count, bad);
	}
	return obj;
}

static struct json_t *alignment(const struct inspection *i, bool *bad)
{
	struct json_t *obj = tree_object(), *list = tree_array();
	bool any = i->extents[INSPECT_DATA].bytes;

	for (unsigned n = 0; n < INSPECT_ALIGNMENTS; n++) {
		struct json_t *count = tree_object();

		tree_size(count, "alignment", INSPECT_ALIGNMENT(n), bad);
		tree_size(count, "bytes", i->aligned[n], bad);
		tree_append(list, count, bad);
	}
	tree_maybe(obj, "all", any, info_alignment(i, 100), bad);
	tree_maybe(obj, "most", any, info_alignment(i, 90), bad);
	tree_size(obj, "blocks", i->aligned_blocks, bad);
	tree_set(obj, "bytes_aligned", list, bad);
	return obj;
}

static struct json_t *members(const struct inspection *i, bool *bad)
{
	struct json_t *list = tree_array();

	for (uint32_t n = 0; n < i->nr_members; n++) {
		const struct inspect_member *m = &i->members[n];
		struct json_t *obj = tree_object();
		bool known = !m->error[0];

		tree_text(obj, "path", m->path, bad);
		set_word(obj, "format", m->format, bad);
		set_word(obj, "kind", m->kind, bad);
		set_word(obj, "id", m->id, bad);
		tree_maybe(obj, "virtual_size", known, m->virtual_size, bad);
		tree_maybe(obj, "file_size", known, m->file_size, bad);
		tree_maybe(obj, "file_used", known, m->file_used, bad);
		set_word(obj, "error", m->error, bad);
		tree_append(list, obj, bad);
	}
	return list;
}

static struct json_t *parts(const struct inspection *i, bool *bad)
{
	struct json_t *list = tree_array();

	for (uint32_t n = 0; n < i->parts_listed; n++) {
		struct json_t *obj = tree_object();

		tree_text(obj, "path", i->parts[n].path, bad);
		tree_size(obj, "file_size", i->parts[n].file_size, bad);
		tree_size(obj, "file_used", i->parts[n].file_used, bad);
		tree_append(list, obj, bad);
	}
	return list;
}

static struct json_t *snapshots(const struct inspection *i, bool *bad)
{
	struct json_t *list = tree_array();

	for (uint32_t n = 0; n < i->snapshots_listed; n++) {
		const struct image_snapshot *s = &i->snapshots[n];
		struct json_t *obj = tree_object();

		tree_text(obj, "id", s->id, bad);
		tree_text(obj, "name", s->name, bad);
		tree_time(obj, "date", s->date, bad);
		tree_size(obj, "vm_state_size", s->vm_state_size, bad);
		tree_size(obj, "disk_size", s->disk_size, bad);
		tree_append(list, obj, bad);
	}
	return list;
}

static struct json_t *bitmaps(const struct inspection *i, bool *bad)
{
	struct json_t *list = tree_array();

	for (uint32_t n = 0; n < i->bitmaps_listed; n++) {
		const struct image_bitmap *b = &i->bitmaps[n];
		struct json_t *obj = tree_object();

		tree_text(obj, "name", b->name, bad);
		tree_size(obj, "granularity", b->granularity, bad);
		tree_bool(obj, "automatic", b->automatic, bad);
		tree_bool(obj, "inconsistent", b->inconsistent, bad);
		tree_append(list, obj, bad);
	}
	return list;
}

static struct json_t *problems(const struct inspection *i, bool *bad)
{
	struct json_t *list = tree_array();

	for (uint32_t n = 0; n < i->nr_problems; n++) {
		struct json_t *obj = tree_object();

		tree_text(obj, "kind", inspect_problem_names[i->problems[n].kind], bad);
		tree_text(obj, "error_kind", err_kind_name(i->problems[n].err_kind), bad);
		tree_text(obj, "text", i->problems[n].text, bad);
		tree_append(list, obj, bad);
	}
	return list;
}

/* ---- the guest ---- */

static void set_number(struct json_t *obj, const char *key, uint64_t v, bool *bad)
{
	tree_maybe(obj, key, v != GUEST_UNKNOWN, v, bad);
}

static struct json_t *systems(const struct guest *g, bool *bad)
{
	struct json_t *list = tree_array();

	for (size_t n = 0; n < g->systems.nr; n++) {
		const struct guest_system *s = &g->systems.items[n];
		struct json_t *obj = tree_object();

		tree_text(obj, "root", s->root, bad);
		set_word(obj, "type", s->type, bad);
		set_word(obj, "distro", s->distro, bad);
		set_word(obj, "product", s->product, bad);
		set_word(obj, "version", s->version, bad);
		set_word(obj, "arch", s->arch, bad);
		set_word(obj, "hostname", s->hostname, bad);
		tree_append(list, obj, bad);
	}
	return list;
}

static struct json_t *devices(const struct guest *g, bool *bad)
{
	struct json_t *list = tree_array();

	for (size_t n = 0; n < g->devices.nr; n++) {
		struct json_t *obj = tree_object();

		tree_text(obj, "name", g->devices.items[n].name, bad);
		set_word(obj, "table", g->devices.items[n].table, bad);
		set_number(obj, "size", g->devices.items[n].size, bad);
		tree_append(list, obj, bad);
	}
	return list;
}

static struct json_t *partitions(const struct guest *g, bool *bad)
{
	struct json_t *list = tree_array();

	for (size_t n = 0; n < g->partitions.nr; n++) {
		const struct guest_partition *p = &g->partitions.items[n];
		struct json_t *obj = tree_object();

		tree_text(obj, "device", p->device, bad);
		set_number(obj, "number", p->number, bad);
		set_number(obj, "start", p->start, bad);
		set_number(obj, "size", p->size, bad);
		set_word(obj, "type", p->type, bad);
		set_word(obj, "name", p->name, bad);
		tree_append(list, obj, bad);
	}
	return list;
}

static struct json_t *file_systems(const struct guest *g, bool *bad)
{
	struct json_t *list = tree_array();

	for (size_t n = 0; n < g->file_systems.nr; n++) {
		const struct guest_file_system *f = &g->file_systems.items[n];
		struct json_t *obj = tree_object();

		tree_text(obj, "device", f->device, bad);
		set_word(obj, "type", f->type, bad);
		set_word(obj, "label", f->label, bad);
		set_word(obj, "uuid", f->uuid, bad);
		set_number(obj, "size", f->size, bad);
		set_number(obj, "used", f->used, bad);
		set_number(obj, "available", f->available, bad);
		tree_append(list, obj, bad);
	}
	return list;
}

static struct json_t *volumes(const struct guest *g, bool *bad)
{
	struct json_t *list = tree_array();

	for (size_t n = 0; n < g->volumes.nr; n++) {
		struct json_t *obj = tree_object();

		tree_text(obj, "name", g->volumes.items[n].name, bad);
		set_number(obj, "size", g->volumes.items[n].size, bad);
		tree_append(list, obj, bad);
	}
	return list;
}

static struct json_t *inside(const struct guest *g, bool *bad)
{
	struct json_t *obj = tree_object();

	tree_set(obj, "systems", systems(g, bad), bad);
	tree_set(obj, "devices", devices(g, bad), bad);
	tree_set(obj, "partitions", partitions(g, bad), bad);
	tree_set(obj, "volumes", volumes(g, bad), bad);
	tree_set(obj, "filesystems", file_systems(g, bad), bad);
	return obj;
}

/* ---- all of it ---- */

/* What is known of an image that could be opened only. */
static void set_opened(struct json_t *obj, const struct inspection *i, bool *bad)
{
	tree_size(obj, "version", i->version, bad);
	set_word(obj, "kind", i->kind, bad);
	tree_size(obj, "virtual_size", i->virtual_size, bad);
	tree_size(obj, "file_size", i->file_size, bad);
	tree_size(obj, "file_used", i->file_used, bad);
	tree_size(obj, "parts_size", i->parts_size, bad);
	tree_size(obj, "parts_used", i->parts_used, bad);
	tree_maybe(obj, "cluster_size", i->cluster_size, i->cluster_size, bad);
	set_word(obj, "id", i->id, bad);
	set_word(obj, "backing", i->backing_name, bad);
	set_word(obj, "backing_format", i->backing_format, bad);
	set_word(obj, "backing_id", i->backing_id, bad);
	tree_text(obj, "features", i->features, bad);
	tree_bool(obj, "encrypted", i->encrypted, bad);
	tree_bool(obj, "dirty", i->dirty, bad);
	tree_bool(obj, "corrupt", i->corrupt, bad);
	tree_size(obj, "stored_span", i->span, bad);
	tree_size(obj, "walked", i->walked, bad);
	tree_set(obj, "extents", extents(i, bad), bad);
	tree_set(obj, "alignment", alignment(i, bad), bad);
	tree_set(obj, "chain", members(i, bad), bad);
	tree_size(obj, "nr_parts", i->nr_parts, bad);
	tree_set(obj, "parts", parts(i, bad), bad);
	tree_size(obj, "nr_snapshots", i->nr_snapshots, bad);
	tree_set(obj, "snapshots", snapshots(i, bad), bad);
	tree_size(obj, "nr_bitmaps", i->nr_bitmaps, bad);
	tree_set(obj, "bitmaps", bitmaps(i, bad), bad);
}

struct json_t *info_json_new(struct err *err)
{
	struct json_t *doc = tree_object();
	bool bad = false;

	tree_int(doc, "dedupscan_info", 1, &bad);
	tree_set(doc, "images", tree_array(), &bad);
	if (!bad)
		return doc;
	tree_free(doc);
	return err_null(err, ERR_MEMORY, "no memory for the report");
}

int info_json_add(struct json_t *doc, const struct inspection *i, const struct guest *guest, struct err *err)
{
	struct json_t *obj = tree_object();
	bool bad = false;

	tree_text(obj, "path", i->path, &bad);
	set_word(obj, "format", i->format, &bad);
	tree_text(obj, "certainty", i->format[0] ? info_certainty(i) : NULL, &bad);
	tree_bool(obj, "readable", !inspect_failed(i), &bad);
	tree_set(obj, "problems", problems(i, &bad), &bad);
	if (i->opened)
		set_opened(obj, i, &bad);
	if (guest)
		tree_set(obj, "guest", inside(guest, &bad), &bad);
	tree_append(tree_member(doc, "images"), obj, &bad);
	return bad ? err_set(err, ERR_MEMORY, "no memory for the report") : 0;
}
