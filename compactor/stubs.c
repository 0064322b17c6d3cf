/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/stubs.h"

#include "compactor/hold.h"
#include "compactor/pool/immutable.h"

struct setting {
	struct pool *p;
	const struct stubs_options *o;
	struct stubs_set *ret;
};

/* Whether anybody has the old one open is looked at when nobody can open it any more.  One that stays all the same goes with a
 * collection. */
int stubs_write(struct pool *p, const struct view *v, const struct slice_reading *reading, bool assume_idle, struct err *err)
{
	char name[POOL_FILE_NAME_ROOM], kept[VIEW_KEPT_STUB_ROOM];

	if (assume_idle && !hold_may_be_open(p->dirs[POOL_VIEWS], pool_id_file_name(v->id, name), true))
		return view_write_stub_to_read(p, v, reading, NULL, err);
	if (view_free_kept_stub(p, v, kept, err) < 0 || view_write_stub_to_read(p, v, reading, kept, err) < 0)
		return -1;
	if (!hold_may_be_open(p->dirs[POOL_QUARANTINE], kept, false))
		immutable_unlink(p, POOL_QUARANTINE, kept, NULL);
	return 0;
}

static int set_view(struct setting *s, const struct view *v, struct err *err)
{
	struct slice_reading is, wanted;

	if (view_check_stub(s->p, v, POOL_VIEWS, err) < 0 || view_stub_reading(s->p, v, &is, err) < 0)
		return -1;
	wanted = stub_as_wished(is, &s->o->wish);
	if (slice_same_reading(&is, &wanted)) {
		s->ret->nr_right++;
		return 0;
	}
	if (!s->o->dry_run && stubs_write(s->p, v, &wanted, s->o->assume_idle, err) < 0)
		return -1;
	s->ret->nr_set++;
	return 0;
}

static int set_stub(struct setting *s, const uint8_t id[POOL_ID_SIZE], struct err *err)
{
	struct view v;
	int rc = view_find(s->p, id, &v, err);

	if (rc == 0)
		return err_set(err, ERR_FORMAT, "its view is missing");
	return rc < 0 ? -1 : set_view(s, &v, err);
}

static bool concerns_all(const struct err *why)
{
	return why->kind == ERR_MEMORY || why->kind == ERR_CANCELED || why->kind == ERR_FULL;
}

int stubs_set(struct pool *p, const struct stubs_options *o, struct stubs_set *ret, struct err *err)
{
	CLEANUP(pool_ids_release) struct pool_ids ids = { .items = VEC_INIT };
	struct setting s = { p, o, ret };

	if ((o->dry_run ? stub_check_wish(p, &o->wish, err) : stub_tell(p, &o->wish, err)) < 0 ||
	    pool_ids_of_files(p->dirs[POOL_VIEWS], &ids, err) < 0)
		return -1;
	for (size_t i = 0; i < ids.items.nr; i++) {
		const uint8_t *id = ids.items.items[i].bytes;
		char name[POOL_FILE_NAME_ROOM];
		struct err why = ERR_INIT;

		if (o->stopper && stopper_says(o->stopper))
			return err_set(err, ERR_CANCELED, "stopped; run it again to go on");
		if (set_stub(&s, id, &why) == 0)
			continue;
		if (concerns_all(&why))
			return err_set(err, why.kind, "%s", why.text);
		ret->nr_left++;
		o->problem(o->ctx, pool_id_file_name(id, name), &why);
	}
	return 0;
}
