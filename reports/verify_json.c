/* SPDX-License-Identifier: Apache-2.0 */
/* Images that were verified, for programs: one JSON object. */
#include "reports/json_tree.h"
#include "reports/verify_report.h"

static struct json_t *runs(const struct verify_image *i, bool *bad)
{
	struct json_t *array = tree_array();

	for (size_t n = 0; n < i->runs.nr; n++) {
		struct json_t *obj = tree_object();

		tree_size(obj, "snapshot", i->runs.items[n].layer, bad);
		tree_size(obj, "offset", i->runs.items[n].offset, bad);
		tree_size(obj, "length", i->runs.items[n].len, bad);
		tree_append(array, obj, bad);
	}
	return array;
}

struct json_t *verify_json_new(struct err *err)
{
	struct json_t *doc = tree_object();
	bool bad = false;

	tree_int(doc, "dedupscan_verify", 1, &bad);
	tree_set(doc, "images", tree_array(), &bad);
	if (!bad)
		return doc;
	tree_free(doc);
	return err_null(err, ERR_MEMORY, "no memory for the report");
}

int verify_json_add(struct json_t *doc, const struct verify_image *i, struct err *err)
{
	struct json_t *obj = tree_object();
	char digest[DIGEST_TEXT_ROOM];
	bool bad = false;

	tree_text(obj, "path", i->path, &bad);
	tree_text(obj, "outcome", verify_outcome_names[i->outcome], &bad);
	tree_text(obj, "why", i->why[0] ? i->why : NULL, &bad);
	tree_maybe(obj, "virtual_size", i->size, i->size, &bad);
	tree_text(obj, "digest", i->has_digest ? digest_text(i->digest, digest) : NULL, &bad);
	tree_size(obj, "bytes_read", i->read, &bad);
	tree_size(obj, "bytes_differ", i->differs, &bad);
	tree_size(obj, "nr_runs", i->nr_runs, &bad);
	tree_set(obj, "runs", runs(i, &bad), &bad);
	tree_append(tree_member(doc, "images"), obj, &bad);
	return bad ? err_set(err, ERR_MEMORY, "no memory for the report") : 0;
}

int verify_json_end(struct json_t *doc, const struct verify_totals *t, struct err *err)
{
	struct json_t *obj = tree_object();
	bool bad = false;

	for (int i = 0; i < VERIFY_NR_OUTCOMES; i++)
		tree_size(obj, verify_outcome_names[i], t->nr[i], &bad);
	tree_size(obj, "not_images", t->nr_not_images, &bad);
	tree_size(obj, "bytes_read", t->bytes_read, &bad);
	tree_set(doc, "totals", obj, &bad);
	return bad ? err_set(err, ERR_MEMORY, "no memory for the report") : 0;
}
