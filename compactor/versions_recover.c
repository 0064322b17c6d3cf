/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/live_guest.h"
#include "compactor/versions_parts.h"
#include "scanner/base/file.h"

/* How it works: what is to be done is told by the rows of names (pool/names.h), most often that there is nothing.
 *
 *	promises	become names; that of a clone if there is one (clone.c)
 *	pending		versions become what they came to (seal.c)
 *	leftovers	in sealed/ go, or appear as clones
 *	members		get noted what they stand on, as a note may be older than that
 *	tidying		what nobody needs is forgotten
 *
 * Whoever ends well and leaves nothing says so in index/names (names_are_tidy()); then there are no promises, and all notes are
 * right.  If he says, too, that he left nothing to sweep, all is done. */

struct recovering {
	struct pool *pool;
	struct path_list pending;
};

static void recovering_release(struct recovering *r)
{
	path_list_release(&r->pending);
}
CLEANUP_DEFINE_RELEASE(struct recovering, recovering_release)

/* ---- promises ---- */

static int decide_promise(void *ctx, uint64_t number, const struct name *n, struct err *err)
{
	struct pool *p = ctx;

	if (n && n->kind == NAME_VERSION)
		return names_keep(p, n, err);
	return n ? clone_decide(p, n, err) : names_break(p, number, err);
}

static int decide_promises(struct pool *p, struct err *err)
{
	if (names_drop(p, err) < 0 || names_each_promise(p, decide_promise, p, err) < 0)
		return -1;
	return file_sync_dir(p->dirs[POOL_NAMES], err);
}

/* ---- versions that are pending ---- */

static int find_pending(struct recovering *r, struct err *err)
{
	const struct name_row *rows;
	size_t nr;

	if (names_rows(r->pool, &rows, &nr, err) < 0)
		return -1;
	for (size_t i = 0; i < nr; i++) {
		size_t found = r->pending.items.nr;

		if (!(rows[i].flags & NAME_ROW_PENDING) || (found && r->pending.items.items[found - 1].number == rows[i].number))
			continue;
		if (path_list_add(&r->pending, rows[i].number, "", err) < 0)
			return -1;
	}
	return 0;
}

static int settle_pending(struct pool *p, uint64_t number, struct err *err)
{
	CLEANUP(name_release) struct name n = { .number = 0 };
	int rc = member_find_number(p, number, &n, err);
	bool sealed;

	if (rc <= 0 || name_is_settled(&n))
		return rc < 0 ? -1 : 0;
	return live_recover(p, &n, err) < 0 ? -1 : seal_note(p, number, SEAL_AS_FOUND, &sealed, err);
}

static int settle_all(struct recovering *r, struct err *err)
{
	if (find_pending(r, err) < 0)
		return -1;
	for (size_t i = 0; i < r->pending.items.nr; i++)
		if (settle_pending(r->pool, r->pending.items.items[i].number, err) < 0)
			return -1;
	return 0;
}

/* ---- what members stand on ---- */

static int compare_hashes(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

struct hashes {
	VEC(uint64_t) items;
};

static void hashes_release(struct hashes *h)
{
	vec_release(&h->items);
}
CLEANUP_DEFINE_RELEASE(struct hashes, hashes_release)

/* Hashes of paths, as the rows have them. */
static int find_sealed_paths(const struct name_row *rows, size_t nr, struct hashes *ret, struct err *err)
{
	for (size_t i = 0; i < nr; i++)
		if (rows[i].number && !(rows[i].flags & NAME_ROW_MEMBER) && !name_id_is_null(rows[i].sealed) &&
		    vec_push(&ret->items, rows[i].path) < 0)
			return err_set(err, ERR_MEMORY, "out of memory");
	if (ret->items.nr)
		qsort(ret->items.items, ret->items.nr, sizeof(uint64_t), compare_hashes);
	return 0;
}

static bool has_hash(const struct hashes *h, uint64_t x)
{
	return h->items.nr && bsearch(&x, h->items.items, h->items.nr, sizeof(x), compare_hashes);
}

static int add_noted(struct pool *p, struct path_list *l, uint64_t number, struct err *err)
{
	CLEANUP(name_release) struct name n = { .number = 0 };
	int rc = member_find_number(p, number, &n, err);

	return rc > 0 ? path_list_add(l, number, n.disks.items[0].path, err) : rc;
}

/* Members that were sealed, or stand on what was: what they stand on may not be noted yet. */
static int find_to_note(struct pool *p, struct path_list *ret, struct err *err)
{
	CLEANUP(hashes_release) struct hashes sealed = { .items = VEC_INIT };
	VEC(uint64_t) numbers = VEC_INIT;
	const struct name_row *rows;
	size_t nr;
	int rc = names_rows(p, &rows, &nr, err) < 0 ? -1 : find_sealed_paths(rows, nr, &sealed, err);

	for (size_t i = 0; rc == 0 && i < nr; i++)
		if (rows[i].flags & NAME_ROW_MEMBER && (!name_id_is_null(rows[i].below) || has_hash(&sealed, rows[i].path)) &&
		    vec_push(&numbers, rows[i].number) < 0)
			rc = err_set(err, ERR_MEMORY, "out of memory");
	for (size_t i = 0; rc == 0 && i < numbers.nr; i++)
		rc = add_noted(p, ret, numbers.items[i], err);
	vec_release(&numbers);
	return rc;
}

static int note_members(struct pool *p, struct err *err)
{
	CLEANUP(path_list_release) struct path_list l = { .items = VEC_INIT };

	if (find_to_note(p, &l, err) < 0)
		return -1;
	for (size_t i = 0; i < l.items.nr; i++)
		if (member_note(p, l.items.items[i].path, NULL, err) < 0)
			return -1;
	return 0;
}

/* ---- all of it ---- */

static int sweep(struct recovering *r, bool tidy, struct err *err)
{
	struct pool *p = r->pool;
	bool all;

	if (clone_recover(p, err) < 0 || versions_drop_replaced(p, err) < 0 || seal_sweep(p, &all, err) < 0)
		return -1;
	names_swept(p, all);
	if ((!tidy || r->pending.items.nr) && note_members(p, err) < 0)
		return -1;
	return versions_tidy(p, err);
}

static int recover(struct recovering *r, struct err *err)
{
	struct pool *p = r->pool;
	const struct name_row *rows;
	bool tidy, swept;
	size_t nr;

	if (names_rows(p, &rows, &nr, err) < 0)
		return -1;
	tidy = names_are_tidy(p);
	swept = names_need_no_sweep(p);
	if ((!tidy && decide_promises(p, err) < 0) || settle_all(r, err) < 0)
		return -1;
	return swept && r->pending.items.nr == 0 ? 0 : sweep(r, tidy, err);
}

int versions_recover(struct pool *p, struct err *err)
{
	CLEANUP(recovering_release) struct recovering r = { .pool = p };

	return recover(&r, err);
}
