/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "scanner/catalog_parts.h"

/* Partitions of the index, their tables, and what is being merged into them. */

int catalog_each_partition(struct catalog *c, int (*call)(void *, const struct partition *, struct err *), void *ctx,
			   struct err *err)
{
	struct sql_query *q = sql_query(c->db, err,
					"SELECT p.bits, p.prefix, count(t.seq), total(t.nr_places) FROM partitions p"
					" LEFT JOIN tables t ON t.bits = p.bits AND t.prefix = p.prefix"
					" GROUP BY p.bits, p.prefix ORDER BY p.prefix << (32 - p.bits)",
					"");
	int rc;

	while ((rc = sql_step(q, err)) > 0) {
		struct partition p = { (unsigned)sql_int(q, 0), (uint32_t)sql_int(q, 1), (unsigned)sql_int(q, 2),
				       (uint64_t)sql_int(q, 3) };

		if (call(ctx, &p, err) < 0) {
			sql_end(q);
			return -1;
		}
	}
	return rc;
}

int catalog_tables(struct catalog *c, unsigned bits, uint32_t prefix, struct index_table ret[PARTITION_TABLES],
		   struct err *err)
{
	struct sql_query *q = sql_query(
		c->db, err,
		"SELECT name, nr_keys, nr_places, bytes FROM tables WHERE bits = ? AND prefix = ? ORDER BY seq", "ii",
		(int64_t)bits, (int64_t)prefix);
	int nr = 0, rc;

	while ((rc = sql_step(q, err)) > 0) {
		if (nr == PARTITION_TABLES) {
			sql_end(q);
			return err_set(err, ERR_FORMAT, "catalog '%s': a partition has too many tables", c->dir);
		}
		snprintf(ret[nr].name, sizeof(ret[nr].name), "%s", sql_text(q, 0));
		ret[nr++].stats = (struct table_stats){ (uint64_t)sql_int(q, 1), (uint64_t)sql_int(q, 2),
							(uint64_t)sql_int(q, 3) };
	}
	return rc < 0 ? -1 : nr;
}

int catalog_knows_table(struct catalog *c, const char *name, bool *ret, struct err *err)
{
	struct sql_query *q = sql_query(c->db, err, "SELECT 1 FROM tables WHERE name = ?", "s", name);
	int rc = sql_step(q, err);

	if (rc < 0)
		return -1;
	*ret = rc;
	sql_end(q);
	return 0;
}

#define BENEATH " WHERE bits >= ?1 AND prefix >> (bits - ?1) = ?2"

int catalog_drop_partitions(struct catalog *c, unsigned bits, uint32_t prefix, struct err *err)
{
	if (sql_run(sql_query(c->db, err, "DELETE FROM tables" BENEATH, "ii", (int64_t)bits, (int64_t)prefix), err) < 0)
		return -1;
	return sql_run(sql_query(c->db, err, "DELETE FROM partitions" BENEATH, "ii", (int64_t)bits, (int64_t)prefix),
		       err);
}

int catalog_add_partition(struct catalog *c, unsigned bits, uint32_t prefix, struct err *err)
{
	return sql_run(sql_query(c->db, err, "INSERT OR IGNORE INTO partitions VALUES (?, ?)", "ii", (int64_t)bits,
				 (int64_t)prefix),
		       err);
}

int catalog_add_table(struct catalog *c, unsigned bits, uint32_t prefix, const struct index_table *t, struct err *err)
{
	struct sql_query *q =
		sql_query(c->db, err,
			  "INSERT INTO tables SELECT ?1, ?2, 1 + coalesce(max(seq), -1), ?3, ?4, ?5, ?6 FROM tables"
			  " WHERE bits = ?1 AND prefix = ?2",
			  "iisiii", (int64_t)bits, (int64_t)prefix, t->name, (int64_t)t->stats.nr_keys,
			  (int64_t)t->stats.nr_places, (int64_t)t->stats.bytes);

	return sql_run(q, err);
}

int catalog_add_merge_input(struct catalog *c, int64_t image, uint64_t shift, struct err *err)
{
	return sql_run(sql_query(c->db, err, "INSERT OR REPLACE INTO merge_inputs VALUES (?, ?)", "ii", image,
				 (int64_t)shift),
		       err);
}

int catalog_each_merge_input(struct catalog *c, int (*call)(void *, int64_t, uint64_t, struct err *), void *ctx,
			     struct err *err)
{
	struct sql_query *q = sql_query(c->db, err, "SELECT image, shift FROM merge_inputs ORDER BY shift", "");
	int rc;

	while ((rc = sql_step(q, err)) > 0) {
		if (call(ctx, sql_int(q, 0), (uint64_t)sql_int(q, 1), err) < 0) {
			sql_end(q);
			return -1;
		}
	}
	return rc;
}

int catalog_clear_merge_inputs(struct catalog *c, struct err *err)
{
	return sql_run(sql_query(c->db, err, "DELETE FROM merge_inputs", ""), err);
}
