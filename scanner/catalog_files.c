/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "scanner/catalog_parts.h"
#include "scanner/chunk/fingerprint.h"

/* The other files that images lie in: external data files, extents.
 *
 * Rows are written when an image has been opened, its own row and its spool file at other moments; what ties them together is the
 * digest of the files' identities that both bear.  Rows that a kill left behind have another digest, and say nothing. */

struct fingerprint catalog_parts_digest(const struct catalog_part *parts, size_t nr)
{
	struct spool_identity *all = nr ? calloc(nr, sizeof(*all)) : NULL;
	struct fingerprint f = { 0 };

	if (!nr)
		return f;
	if (!all) /* no digest is like it: what it stands for counts as changed */
		return (struct fingerprint){ .hi = UINT64_MAX, .lo = UINT64_MAX };
	for (size_t i = 0; i < nr; i++)
		all[i] = parts[i].identity;
	f = fingerprint_best()->bytes(all, nr * sizeof(*all));
	free(all);
	return f;
}

int catalog_set_parts(struct catalog *c, int64_t image, const struct catalog_part *parts, size_t nr, struct err *err)
{
	if (sql_run(sql_query(c->db, err, "DELETE FROM parts WHERE image = ?", "i", image), err) < 0)
		return -1;
	for (size_t i = 0; i < nr; i++) {
		const struct spool_identity *f = &parts[i].identity;

		if (sql_run(sql_query(c->db, err, "INSERT INTO parts VALUES (?, ?, ?, ?, ?, ?, ?, ?)", "iisiiiii",
				      image, (int64_t)i, parts[i].path, (int64_t)f->dev, (int64_t)f->ino,
				      (int64_t)f->size, f->mtime, f->ctime),
			    err) < 0)
			return -1;
	}
	return 0;
}

static int each_part(struct sql_query *q, int (*call)(void *, const struct catalog_part *, struct err *), void *ctx,
		     struct err *err)
{
	int rc;

	while ((rc = sql_step(q, err)) > 0) {
		struct catalog_part p = { .path = strdup(sql_text(q, 0)), .identity = catalog_take_identity(q, 1) };

		rc = p.path ? call(ctx, &p, err) : err_set(err, ERR_MEMORY, "no memory for a path");
		free(p.path);
		if (rc != 0)
			break;
	}
	sql_end(q);
	return rc;
}

int catalog_each_part(struct catalog *c, int64_t image, int (*call)(void *, const struct catalog_part *, struct err *),
		      void *ctx, struct err *err)
{
	return each_part(sql_query(c->db, err,
				   "SELECT path, dev, ino, size, mtime, ctime FROM parts WHERE image = ? ORDER BY seq",
				   "i", image),
			 call, ctx, err);
}

int catalog_each_part_once(struct catalog *c, int (*call)(void *, const struct catalog_part *, struct err *), void *ctx,
			   struct err *err)
{
	return each_part(sql_query(c->db, err,
				   "SELECT path, dev, ino, size, mtime, ctime FROM parts p WHERE NOT EXISTS"
				   " (SELECT 1 FROM images i WHERE i.dev = p.dev AND i.ino = p.ino AND i.part_of = 0)"
				   " GROUP BY dev, ino",
				   ""),
			 call, ctx, err);
}

static int any_row(struct sql_query *q, bool *ret, struct err *err)
{
	int rc = sql_step(q, err);

	if (rc > 0)
		sql_end(q);
	*ret = rc > 0;
	return rc < 0 ? -1 : 0;
}

int catalog_has_parts(struct catalog *c, int64_t image, bool *ret, struct err *err)
{
	return any_row(sql_query(c->db, err, "SELECT 1 FROM parts WHERE image = ? LIMIT 1", "i", image), ret, err);
}

int catalog_is_part(struct catalog *c, const struct spool_identity *file, bool *ret, struct err *err)
{
	return any_row(sql_query(c->db, err, "SELECT 1 FROM parts WHERE dev = ? AND ino = ? LIMIT 1", "ii",
				 (int64_t)file->dev, (int64_t)file->ino),
		       ret, err);
}

/* A file with a format of its own is no part, whoever names it, and two files that name each other are each an image.  Who was part
 * of an image and is no more has to be read again. */
#define OWNER                                                                                                          \
	"(SELECT p.image FROM parts p JOIN images o ON o.id = p.image WHERE p.ino = images.ino AND p.dev = images.dev" \
	" AND p.image <> images.id AND coalesce(images.format, 'raw') IN ('raw', '') AND NOT EXISTS"                   \
	" (SELECT 1 FROM parts b WHERE b.image = images.id AND b.ino = o.ino AND b.dev = o.dev) LIMIT 1)"

int catalog_each_released(struct catalog *c, int (*call)(void *, const struct found *, struct err *), void *ctx,
			  struct err *err)
{
	return catalog_each_found_by(sql_query(c->db, err,
					       "SELECT f.* FROM temp.found f JOIN images ON images.path = f.path"
					       " WHERE images.part_of <> 0 AND " OWNER " IS NULL ORDER BY f.path",
					       ""),
				     call, ctx, err);
}

int catalog_release_part(struct catalog *c, const char *path, struct err *err)
{
	return sql_run(sql_query(c->db, err, "UPDATE images SET part_of = 0, scanned_at = NULL WHERE path = ?", "s",
				 path),
		       err);
}

int catalog_claim_parts(struct catalog *c, struct err *err)
{
	return sql_execute(c->db,
			   "UPDATE images SET scanned_at = NULL WHERE part_of <> 0 AND " OWNER " IS NULL;"
			   "UPDATE images SET part_of = coalesce(" OWNER ", 0)",
			   err);
}
