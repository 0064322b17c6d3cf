/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "scanner/base/checked.h"
#include "scanner/catalog_parts.h"
#include "scanner/chunk/fingerprint.h"

/* Images, what a walk found, and segments. */

/* ---- images ---- */

#define IMAGE_COLUMNS                                                                                                  \
	"id, path, dev, ino, size, mtime, ctime, racy, told, parts, part_of, scanned_at, nr_snapshots, base,"	       \
	" format, backing, backing_path, features, warning, error_kind, error,"                                        \
	" virtual_size, span, layer, cluster_size, file_used, nr_stored, nr_zero"

void catalog_image_release(struct catalog_image *i)
{
	char **texts[] = { &i->path,	 &i->format,  &i->backing,    &i->backing_path,
			   &i->features, &i->warning, &i->error_kind, &i->error };

	for (size_t n = 0; n < ARRAY_SIZE(texts); n++)
		free(*texts[n]);
	*i = (struct catalog_image){ 0 };
}

/* Copies a text column; NULL stays NULL.  False when memory is out. */
static bool take_text(struct sql_query *q, int i, char **ret)
{
	const char *text = sql_text(q, i);

	*ret = text ? strdup(text) : NULL;
	return !text || *ret;
}

static struct fingerprint take_digest(struct sql_query *q, int i)
{
	size_t len;
	const uint8_t *p = sql_bytes(q, i, &len);

	return p && len == 16 ? (struct fingerprint){ .hi = le64_load(p), .lo = le64_load(p + 8) } :
				(struct fingerprint){ 0 };
}

static int take_image(struct sql_query *q, struct catalog_image *ret, struct err *err)
{
	catalog_image_release(ret);
	*ret = (struct catalog_image){
		.id = sql_int(q, 0),
		.identity = catalog_take_identity(q, 2),
		.racy = sql_int(q, 7),
		.told = sql_int(q, 8),
		.parts = take_digest(q, 9),
		.part_of = sql_int(q, 10),
		.scanned_at = sql_int(q, 11),
		.nr_snapshots = (unsigned)sql_int(q, 12),
		.base = (uint64_t)sql_int(q, 13),
		.virtual_size = (uint64_t)sql_int(q, 21),
		.span = (uint64_t)sql_int(q, 22),
		.layer = (uint64_t)sql_int(q, 23),
		.cluster_size = (uint64_t)sql_int(q, 24),
		.file_used = (uint64_t)sql_int(q, 25),
		.nr_stored = (uint64_t)sql_int(q, 26),
		.nr_zero = (uint64_t)sql_int(q, 27),
	};
	if (take_text(q, 1, &ret->path) && take_text(q, 14, &ret->format) && take_text(q, 15, &ret->backing) &&
	    take_text(q, 16, &ret->backing_path) && take_text(q, 17, &ret->features) &&
	    take_text(q, 18, &ret->warning) && take_text(q, 19, &ret->error_kind) && take_text(q, 20, &ret->error))
		return 0;
	return err_set(err, ERR_MEMORY, "no memory for an image's row");
}

static int one_image(struct sql_query *q, struct catalog_image *ret, struct err *err)
{
	int rc = sql_step(q, err);

	if (rc > 0) {
		rc = take_image(q, ret, err) < 0 ? -1 : 1;
		sql_end(q);
	}
	return rc;
}

int catalog_image_by_path(struct catalog *c, const char *path, struct catalog_image *ret, struct err *err)
{
	return one_image(sql_query(c->db, err, "SELECT " IMAGE_COLUMNS " FROM images WHERE path = ?", "s", path), ret,
			 err);
}

int catalog_image_by_id(struct catalog *c, int64_t id, struct catalog_image *ret, struct err *err)
{
	return one_image(sql_query(c->db, err, "SELECT " IMAGE_COLUMNS " FROM images WHERE id = ?", "i", id), ret, err);
}

int catalog_image_add(struct catalog *c, const char *path, int64_t *ret, struct err *err)
{
	if (sql_run(sql_query(c->db, err, "INSERT INTO images (path) VALUES (?)", "s", path), err) < 0)
		return -1;
	*ret = sql_last_id(c->db);
	return 0;
}

static int remove_segments(struct catalog *c, int64_t id, struct err *err)
{
	return sql_run(sql_query(c->db, err, "DELETE FROM segments WHERE image = ?", "i", id), err);
}

int catalog_image_remove(struct catalog *c, int64_t id, struct err *err)
{
	if (remove_segments(c, id, err) < 0 || catalog_set_parts(c, id, NULL, 0, err) < 0 ||
	    sql_run(sql_query(c->db, err, "UPDATE images SET part_of = 0 WHERE part_of = ? AND part_of <> 0", "i", id), err) < 0)
		return -1;
	return sql_run(sql_query(c->db, err, "DELETE FROM images WHERE id = ?", "i", id), err);
}

int catalog_image_failed(struct catalog *c, int64_t id, const struct spool_image *i, const char *format,
			 const struct err *why, struct err *err)
{
	struct sql_query *q;

	if (remove_segments(c, id, err) < 0 || catalog_set_parts(c, id, NULL, 0, err) < 0)
		return -1;
	q = sql_query(
		c->db, err,
		"UPDATE images SET dev = ?, ino = ?, size = ?, mtime = ?, ctime = ?, racy = ?, told = ?,"
		" base = base + 1, parts = NULL, format = ?, backing = NULL, backing_path = NULL, features = NULL, warning = NULL,"
		" error_kind = ?, error = ?, virtual_size = 0, nr_stored = 0, nr_zero = 0, nr_snapshots = 0, scanned_at = ?"
		" WHERE id = ?",
		"iiiiiiisssii", (int64_t)i->identity.dev, (int64_t)i->identity.ino, (int64_t)i->identity.size,
		i->identity.mtime, i->identity.ctime, (int64_t)i->racy, (int64_t)i->told, format,
		err_kind_name(why->kind), why->text, (int64_t)time(NULL), id);
	return sql_run(q, err);
}

int catalog_image_set_used(struct catalog *c, int64_t id, uint64_t file_used, struct err *err)
{
	return sql_run(sql_query(c->db, err, "UPDATE images SET file_used = ? WHERE id = ?", "ii", (int64_t)file_used,
				 id),
		       err);
}

int catalog_image_set_identity(struct catalog *c, int64_t id, const struct spool_identity *i, struct err *err)
{
	return sql_run(sql_query(c->db, err,
				 "UPDATE images SET dev = ?, ino = ?, size = ?, mtime = ?, ctime = ? WHERE id = ?", "iiiiii",
				 (int64_t)i->dev, (int64_t)i->ino, (int64_t)i->size, i->mtime, i->ctime, id),
		       err);
}

int catalog_each_image(struct catalog *c, int (*call)(void *, const struct catalog_image *, struct err *), void *ctx,
		       struct err *err)
{
	struct sql_query *q = sql_query(c->db, err, "SELECT " IMAGE_COLUMNS " FROM images ORDER BY path", "");
	CLEANUP(catalog_image_release) struct catalog_image image = { 0 };
	int rc;

	while ((rc = sql_step(q, err)) > 0) {
		if (take_image(q, &image, err) < 0 || (rc = call(ctx, &image, err)) != 0) {
			sql_end(q);
			return rc > 0 ? -1 : rc;
		}
	}
	return rc;
}

/* ---- found ---- */

int catalog_found_clear(struct catalog *c, struct err *err)
{
	return sql_execute(c->db, "DELETE FROM temp.found", err);
}

int catalog_found_add(struct catalog *c, const struct found *f, struct err *err)
{
	struct sql_query *q =
		sql_query(c->db, err, "INSERT OR IGNORE INTO temp.found VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
			  "siiiiiiii", f->path, (int64_t)f->identity.dev, (int64_t)f->identity.ino,
			  (int64_t)f->identity.size, f->identity.mtime, f->identity.ctime, (int64_t)f->file_used,
			  (int64_t)f->named, (int64_t)f->block_device);

	if (sql_run(q, err) < 0)
		return -1;
	return sql_changes(c->db) > 0;
}

int catalog_each_found(struct catalog *c, int (*call)(void *, const struct found *, struct err *), void *ctx,
		       struct err *err)
{
	return catalog_each_found_by(sql_query(c->db, err, "SELECT * FROM temp.found ORDER BY path", ""), call, ctx, err);
}

int catalog_each_found_by(struct sql_query *q, int (*call)(void *, const struct found *, struct err *), void *ctx,
			  struct err *err)
{
	int rc;

	while ((rc = sql_step(q, err)) > 0) {
		struct found f = { .path = strdup(sql_text(q, 0)),
				   .identity = catalog_take_identity(q, 1),
				   .file_used = (uint64_t)sql_int(q, 6),
				   .named = sql_int(q, 7),
				   .block_device = sql_int(q, 8) };

		rc = f.path ? call(ctx, &f, err) : err_set(err, ERR_MEMORY, "no memory for a path");
		free(f.path);
		if (rc != 0)
			break;
	}
	sql_end(q);
	return rc;
}

/* The found file with the inode of a vanished image whose own name no image has yet. */
static int rename_if_moved(struct catalog *c, int64_t id, struct err *err)
{
	struct sql_query *q =
		sql_query(c->db, err,
			  "SELECT f.path FROM temp.found f, images i WHERE i.id = ? AND f.dev = i.dev AND f.ino = i.ino"
			  " AND NOT EXISTS (SELECT 1 FROM images o WHERE o.path = f.path)",
			  "i", id);
	char *path;
	int rc = sql_step(q, err);

	if (rc <= 0)
		return rc;
	path = strdup(sql_text(q, 0));
	sql_end(q);
	rc = path ? sql_run(sql_query(c->db, err, "UPDATE images SET path = ? WHERE id = ?", "si", path, id), err)
		  : err_set(err, ERR_MEMORY, "no memory for a path");
	free(path);
	return rc < 0 ? -1 : 1;
}

int catalog_settle_missing(struct catalog *c, const char *root, bool remove, uint64_t *nr_renamed, uint64_t *nr_removed,
			   struct err *err)
{
	const char *sql =
		"SELECT id FROM images WHERE id > ? AND (path = ?2 OR substr(path, 1, length(?2) + 1) = ?2 || '/'"
		" OR ?2 = '/') AND path NOT IN (SELECT path FROM temp.found) ORDER BY id LIMIT 1";
	int64_t id = 0;
	int rc;

	for (;;) {
		struct sql_query *q = sql_query(c->db, err, sql, "is", id, root);

		rc = sql_step(q, err);
		if (rc <= 0)
			return rc;
		id = sql_int(q, 0);
		sql_end(q);
		rc = rename_if_moved(c, id, err);
		if (rc < 0)
			return -1;
		*nr_renamed += (uint64_t)rc;
		if (rc == 0 && remove) {
			if (catalog_image_remove(c, id, err) < 0)
				return -1;
			(*nr_removed)++;
		}
	}
}

/* ---- segments ---- */

int catalog_content_digest(struct catalog *c, int64_t image, struct fingerprint *ret, struct err *err)
{
	struct sql_query *q = sql_query(
		c->db, err, "SELECT segment, digest FROM segments WHERE image = ? ORDER BY segment", "i", image);
	struct {
		struct fingerprint before;
		uint64_t segment;
		uint8_t digest[16];
	} link = { .segment = 0 };
	int rc;

	while ((rc = sql_step(q, err)) > 0) {
		size_t len;
		const void *digest = sql_bytes(q, 1, &len);

		link.segment = (uint64_t)sql_int(q, 0);
		memcpy(link.digest, digest, min_u64(len, sizeof(link.digest)));
		link.before = fingerprint_best()->bytes(&link, sizeof(link));
	}
	*ret = link.before;
	return rc;
}

ssize_t catalog_write_digests(struct catalog *c, int64_t image, int fd, struct err *err)
{
	struct sql_query *q = sql_query(
		c->db, err, "SELECT segment, digest FROM segments WHERE image = ? ORDER BY segment", "i", image);
	struct spool_digest buf[512];
	size_t nr = 0, total = 0, len;
	int rc;

	while ((rc = sql_step(q, err)) > 0) {
		buf[nr].segment = (uint64_t)sql_int(q, 0);
		const void *digest = sql_bytes(q, 1, &len);

		if (len != sizeof(buf[nr].digest)) {
			sql_end(q);
			return err_set(err, ERR_FORMAT, "catalog '%s': a segment's digest is damaged", c->dir);
		}
		memcpy(buf[nr++].digest, digest, sizeof(buf[0].digest));
		if (nr == ARRAY_SIZE(buf)) {
			if (file_write(fd, buf, sizeof(buf), total * sizeof(buf[0]), err) < 0)
				goto failed;
			total += nr;
			nr = 0;
		}
	}
	if (rc < 0 || file_write(fd, buf, nr * sizeof(buf[0]), total * sizeof(buf[0]), err) < 0)
		return -1;
	return (ssize_t)(total + nr);
failed:
	sql_end(q);
	return -1;
}

int catalog_count_runs(struct catalog *c, int64_t image, uint64_t *ret, struct err *err)
{
	struct sql_query *q =
		sql_query(c->db, err,
			  "SELECT count(*) FROM (SELECT generation, lag(generation) OVER (ORDER BY segment) AS before"
			  " FROM segments WHERE image = ?) WHERE before IS NOT generation",
			  "i", image);

	if (sql_step(q, err) < 0)
		return -1;
	*ret = (uint64_t)sql_int(q, 0);
	sql_end(q);
	return 0;
}

static int take_segment(struct catalog *c, int64_t image, const struct spool_segment *g, uint64_t generation,
			uint64_t base, struct err *err)
{
	int64_t segment = (int64_t)le64_get(g->segment), stored = le16_get(g->stored), zero = le16_get(g->zero);
	struct sql_query *q;

	if (le16_get(g->flags) & SPOOL_SAME)
		q = sql_query(c->db, err,
			      "UPDATE segments SET stored = ?, zero = ?, base = ? WHERE image = ? AND segment = ?",
			      "iiiii", stored, zero, (int64_t)base, image, segment);
	else
		q = sql_query(c->db, err, "INSERT OR REPLACE INTO segments VALUES (?, ?, ?, ?, ?, ?, ?)", "iiibiii",
			      image, segment, (int64_t)generation, g->digest, 16, stored, zero, (int64_t)base);
	return sql_run(q, err);
}

static int take_segments(struct catalog *c, int64_t image, struct spool *sp, uint64_t generation, uint64_t base,
			 struct spool_totals *ret, struct err *err)
{
	CLEANUP(free) struct spool_segment *g = malloc(SPOOL_FRAME_SEGMENTS * sizeof(*g));

	if (!g)
		return err_set(err, ERR_MEMORY, "no memory for segments");
	for (size_t i = 0; i < sp->nr_frames; i++) {
		ssize_t nr = spool_segments(sp, i, g, err);

		if (nr < 0)
			return -1;
		for (ssize_t k = 0; k < nr; k++) {
			if (take_segment(c, image, &g[k], generation, base, err) < 0)
				return -1;
			ret->nr_stored += le16_get(g[k].stored);
			ret->nr_zero += le16_get(g[k].zero);
		}
	}
	/* A segment that vanished keeps a row: were it gone, a run of its generation would seem to go on across it.  Not so behind
	 * the end: nothing follows there, and ids that far on are the next image's. */
	if (sql_run(sql_query(c->db, err, "DELETE FROM segments WHERE image = ? AND base <> ? AND segment >= ?", "iii",
			      image, (int64_t)base, (int64_t)div_up(sp->image->span, SEGMENT_SIZE)),
		    err) < 0)
		return -1;
	return sql_run(
		sql_query(c->db, err,
			  "UPDATE segments SET generation = ?, digest = zeroblob(16), stored = 0, zero = 0, base = ?2"
			  " WHERE image = ? AND base <> ?2",
			  "iii", (int64_t)generation, (int64_t)base, image),
		err);
}

static int update_image(struct catalog *c, int64_t id, const struct spool *sp, const struct spool_totals *totals,
			struct err *err)
{
	const struct spool_image *i = sp->image;
	uint8_t parts[16];
	struct sql_query *q;

	le64_store(parts, i->parts.hi);
	le64_store(parts + 8, i->parts.lo);
	q = sql_query(c->db, err,
		      "UPDATE images SET dev = ?, ino = ?, size = ?, mtime = ?, ctime = ?, racy = ?, told = ?,"
		      " parts = ?, base = ?,"
		      " format = ?, backing = ?, backing_path = ?, features = ?, warning = NULLIF(?, ''),"
		      " error_kind = NULL, error = NULL,"
		      " virtual_size = ?, span = ?, layer = ?, cluster_size = ?, file_used = ?,"
		      " nr_stored = ?, nr_zero = ?, nr_snapshots = ?, scanned_at = ? WHERE id = ?",
		      "iiiiiiibisssssiiiiiiiiii", (int64_t)i->identity.dev, (int64_t)i->identity.ino,
		      (int64_t)i->identity.size, i->identity.mtime, i->identity.ctime, (int64_t)i->racy,
		      (int64_t)i->told, parts, (int)sizeof(parts), (int64_t)(i->base + 1), spool_text(i, SPOOL_FORMAT),
		      spool_text(i, SPOOL_BACKING), spool_text(i, SPOOL_BACKING_PATH), spool_text(i, SPOOL_FEATURES),
		      spool_text(i, SPOOL_WARNING), (int64_t)i->virtual_size, (int64_t)i->span, (int64_t)i->layer,
		      (int64_t)i->cluster_size, (int64_t)i->file_used, (int64_t)totals->nr_stored,
		      (int64_t)totals->nr_zero, (int64_t)i->nr_snapshots, (int64_t)time(NULL), id);
	return sql_run(q, err);
}

int catalog_take_spool(struct catalog *c, int64_t image, struct spool *s, uint64_t generation, struct err *err)
{
	struct spool_totals totals = { 0 };

	if (take_segments(c, image, s, generation, s->image->base + 1, &totals, err) < 0)
		return -1;
	return update_image(c, image, s, &totals, err);
}

int catalog_count_live_segments(struct catalog *c, int64_t image, uint64_t layer, uint64_t *ret, struct err *err)
{
	struct sql_query *q =
		sql_query(c->db, err, "SELECT count(*) FROM segments WHERE image = ? AND stored > zero AND segment < ?", "ii",
			  image, (int64_t)((layer + SEGMENT_SIZE - 1) / SEGMENT_SIZE));
	int rc = sql_step(q, err);

	if (rc <= 0)
		return -1;
	*ret = (uint64_t)sql_int(q, 0);
	sql_end(q);
	return 0;
}

int catalog_each_segment(struct catalog *c, int64_t image,
			 int (*call)(void *, uint64_t, const uint8_t *, unsigned, unsigned, struct err *), void *ctx,
			 struct err *err)
{
	const char *sql = "SELECT segment, digest, stored, zero FROM segments WHERE image = ? ORDER BY segment";
	struct sql_query *q = sql_query(c->db, err, sql, "i", image);
	int rc;

	while ((rc = sql_step(q, err)) > 0) {
		size_t len;
		const void *digest = sql_bytes(q, 1, &len);

		rc = digest && len == 16
			     ? call(ctx, (uint64_t)sql_int(q, 0), digest, (unsigned)sql_int(q, 2), (unsigned)sql_int(q, 3), err)
			     : 0;
		if (rc != 0) {
			sql_end(q);
			break;
		}
	}
	return rc;
}

int catalog_each_zero_segment(struct catalog *c, int64_t image,
			      int (*call)(void *, uint64_t, unsigned, unsigned, struct err *), void *ctx, struct err *err)
{
	struct sql_query *q = sql_query(
		c->db, err, "SELECT segment, stored, zero FROM segments WHERE image = ? AND zero > 0 ORDER BY segment", "i",
		image);
	int rc;

	while ((rc = sql_step(q, err)) > 0) {
		rc = call(ctx, (uint64_t)sql_int(q, 0), (unsigned)sql_int(q, 1), (unsigned)sql_int(q, 2), err);
		if (rc != 0) {
			sql_end(q);
			break;
		}
	}
	return rc;
}

int catalog_each_run(struct catalog *c, int (*call)(void *, const struct segment_run *, struct err *), void *ctx,
		     struct err *err)
{
	struct sql_query *q =
		sql_query(c->db, err, "SELECT image, segment, generation FROM segments ORDER BY image, segment", "");
	struct segment_run run = { .image = -1 };
	int rc;

	while ((rc = sql_step(q, err)) > 0) {
		int64_t image = sql_int(q, 0);
		uint64_t segment = (uint64_t)sql_int(q, 1), generation = (uint64_t)sql_int(q, 2);

		if (image == run.image && generation == run.generation) {
			run.last = segment;
			continue;
		}
		if (run.image >= 0 && call(ctx, &run, err) < 0) {
			sql_end(q);
			return -1;
		}
		run = (struct segment_run){ image, generation, segment, segment };
	}
	if (rc == 0 && run.image >= 0)
		rc = call(ctx, &run, err);
	return rc;
}

int catalog_live_blocks(struct catalog *c, uint64_t *ret, struct err *err)
{
	struct sql_query *q = sql_query(c->db, err, "SELECT total(nr_stored - nr_zero) FROM images", "");

	if (sql_step(q, err) < 0)
		return -1;
	*ret = (uint64_t)sql_int(q, 0);
	sql_end(q);
	return 0;
}
