/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/pool/growth.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statfs.h>

#include "compactor/pool/clusters.h"
#include "compactor/pool/finder.h"
#include "compactor/pool/nodes.h"
#include "compactor/pool/view.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/base/units.h"
#include "scanner/index/judymap.h"

#define TOLD "file-size" /* in the pool */
#define NUMBER "file-number"
#define TOLD_ROOM 32

/* An image of which nobody knows how many bytes it takes may be as large as its disk, but few are.  One that finds no room in the
 * end finds a new file when it is tried again. */
#define ROOM_SHARE 8

/* The tables of a view are at most one byte in so many of its disk, and mostly less than half of that. */
#define TABLES_SHARE 256

#define SPARE 16 /* what is stored again may take one part in so many more: tables, nodes */

/* Each is open, in every process that uses the pool: more than so many there are only when they are full. */
#define TOLD_FILES_MAX 64

/* ---- what it was told ---- */

static int told_text(uint64_t size, char ret[TOLD_ROOM])
{
	return snprintf(ret, TOLD_ROOM, "%llu\n", (unsigned long long)size);
}

/* What cannot be read is nothing. */
static uint64_t read_number(const struct pool *p, const char *name)
{
	int fd = file_open(p->dirs[POOL_TOP], name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, NULL);
	char text[TOLD_ROOM] = "", again[TOLD_ROOM];
	uint64_t number;

	if (fd < 0)
		return 0;
	if (file_read_some(fd, text, sizeof(text) - 1, 0, NULL) < 0)
		text[0] = 0;
	file_ops->close(fd);
	number = strtoull(text, NULL, 10);
	told_text(number, again);
	return strcmp(text, again) == 0 ? number : 0;
}

uint64_t growth_told(const struct pool *p)
{
	return read_number(p, TOLD);
}

int growth_tell(struct pool *p, uint64_t file_size, struct err *err)
{
	char text[TOLD_ROOM];
	int len = told_text(file_size, text);

	if (p->file_size == file_size)
		return 0;
	if (file_write_atomic(p->dirs[POOL_TOP], TOLD, text, (size_t)len, 0600, err) < 0)
		return err_add(err, "the size of cluster files cannot be noted");
	p->file_size = file_size;
	return 0;
}

/* ---- a file that was cut ---- */

/* When maps or views lead behind the end of the file that grows, it was cut, or put back from an old backup.  Who appended to it
 * gave out offsets again, and they would lead to other bytes; who made it as long as it was would have guests read zeros of which
 * they cannot tell that they are wrong, while QEMU does not open a slice that leaves its file.  So it stays as it is, and another
 * one begins.
 *
 * How far nodes lead is noted in the index, and of those behind what it covers it is found as they are read.  Clusters are synced
 * before nodes and headers are written, so a crash makes no file look cut.
 *
 * A file of an older time may be long enough, and lack slots: then a stub is there whose view is in none.  Stubs are written last, so
 * a crash leaves no such stub, either. */

struct reaching {
	uint32_t number;
	uint64_t end; /* offset behind all that something leads to */
	struct judyset views;
	const struct pool *p;
	const struct cluster_file *file;
	bool cut; /* a stub leads to a slot that is not there */
};

/* An index of an earlier version does not say it. */
static int look_at_nodes(struct pool *p, struct reaching *r, struct err *err)
{
	if (finder_reach(p->finder) == UINT64_MAX) {
		if (nodes_find_reach(p->nodes, err) < 0)
			return -1;
		finder_set_reach(p->finder, nodes_reach(p->nodes));
	}
	r->end = max_u64(finder_reach(p->finder), nodes_reach(p->nodes));
	return 0;
}

static uint64_t key_of(const uint8_t id[POOL_ID_SIZE])
{
	return le64_load(id) ^ le64_load(id + 8);
}

static int look_at_view(void *ctx, uint32_t slot, const uint8_t header[BLOCK_SIZE], struct err *err)
{
	struct reaching *r = ctx;
	struct view v;

	if (view_decode(header, slot, &v, NULL) < 0)
		return 0;
	if (slot / POOL_NR_SLOTS == r->number)
		r->end = max_u64(r->end, slot_offset(slot) + v.slice_size);
	return judyset_add(&r->views, key_of(v.id)) < 0 ? err_set(err, ERR_MEMORY, "no memory for the views of a pool") : 0;
}

/* The slot that a stub leads to is one of the file that grows, behind all that were given out there. */
static bool leads_behind_slots(const struct reaching *r, const char *name)
{
	int fd = file_open(r->p->dirs[POOL_VIEWS], name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, NULL);
	uint32_t next = (uint32_t)POOL_NR_SLOTS - cluster_file_slots_left(r->file);
	uint8_t id[POOL_ID_SIZE];
	struct slice s;
	uint64_t size;
	size_t len;
	bool ret;

	if (fd < 0)
		return false;
	ret = overlay_names(fd, &s, &size, NULL) > 0 && pool_file_parse(s.path, id, &len) == POOL_TOP &&
	      memcmp(id, cluster_file_id(r->file)->uuid, POOL_ID_SIZE) == 0 && s.offset / POOL_SLOT_SIZE >= next;
	file_close(fd, name, NULL);
	return ret;
}

static int look_at_stub(void *ctx, const char *name, struct err *err)
{
	struct reaching *r = ctx;
	uint8_t id[POOL_ID_SIZE];

	(void)err;
	r->cut = r->cut || (pool_id_parse_file_name(name, id) && !judyset_has(&r->views, key_of(id)) && leads_behind_slots(r, name));
	return 0;
}

static int look_for_cut(struct pool *p, struct err *err)
{
	struct cluster_span s = clusters_growing(p->clusters);
	struct reaching r = { .number = s.number, .p = p, .file = s.file };
	int rc;

	if (p->end_is_known)
		return 0;
	rc = look_at_nodes(p, &r, err);
	if (rc == 0)
		rc = clusters_each_slot(p->clusters, look_at_view, &r, err);
	if (rc == 0)
		rc = file_each_name(p->dirs[POOL_VIEWS], look_at_stub, &r, err);
	judyset_release(&r.views);
	if (rc < 0)
		return -1;
	if (r.end > cluster_file_written(s.file) || r.cut)
		cluster_file_set_cut(s.file);
	p->end_is_known = true;
	return 0;
}

/* ---- beginning another one ---- */

/* Maps may lead to a file that was lost: no other one gets its number, which is noted before it begins. */
static int choose_number(struct pool *p, uint32_t *ret, struct err *err)
{
	uint64_t noted = read_number(p, NUMBER), next = max_u64(noted, clusters_growing(p->clusters).number) + 1;
	char text[TOLD_ROOM];
	int len = told_text(next, text);

	*ret = (uint32_t)min_u64(next, POOL_NR_FILES);
	return file_write_atomic(p->dirs[POOL_TOP], NUMBER, text, (size_t)len, 0600, err);
}

/* The index is of the file that grows: all it has of blocks goes.  Who dies in between leaves an index of another file, which the
 * next one makes anew. */
int growth_begin(struct pool *p, struct err *err)
{
	struct err why = ERR_INIT;
	uint32_t number;

	if (pool_sync(p, err) < 0)
		return -1;
	if (choose_number(p, &number, err) < 0 || clusters_add(p->clusters, number, err) < 0)
		return err_add(err, "pool '%s': another cluster file cannot begin", p->path);
	p->restless = true; /* it has no flag yet */
	p->end_is_known = true;
	if (finder_begin(p->finder, cluster_file_id(clusters_growing(p->clusters).file)->uuid, &why) == 0 &&
	    nodes_remember_all(p->nodes, &why) == 0)
		return pool_sync(p, err);
	finder_give_up(p->finder, &why);
	return err_set(err, why.kind, "pool '%s': %s", p->path, why.text);
}

static bool is_full(const struct cluster_span *s, uint64_t bytes)
{
	return cluster_file_room(s->file) < bytes || !cluster_file_slots_left(s->file);
}

/* As long as another one may follow only because it was told. */
static bool may_follow(const struct pool *p)
{
	return clusters_nr(p->clusters) < TOLD_FILES_MAX && clusters_growing(p->clusters).number < POOL_NR_FILES / 2;
}

uint64_t growth_room(const struct pool *p)
{
	struct cluster_span s = clusters_growing(p->clusters);
	uint64_t room = cluster_file_room(s.file);

	return p->file_size ? min_u64(room, p->file_size - min_u64(s.end - s.begin, p->file_size)) : room;
}

bool growth_is_due(const struct pool *p)
{
	return growth_room(p) == 0 && (may_follow(p) || cluster_file_room(clusters_growing(p->clusters).file) == 0);
}

int growth_for_image(struct pool *p, uint64_t bytes, struct err *err)
{
	struct cluster_span s = clusters_growing(p->clusters);

	if (look_for_cut(p, err) < 0)
		return -1;
	bytes = min_u64(bytes, cluster_file_max(s.file) / ROOM_SHARE);
	return is_full(&s, bytes) || growth_is_due(p) ? growth_begin(p, err) : 0;
}

int growth_for_view(struct pool *p, uint64_t bytes, uint64_t disk_size, struct err *err)
{
	struct cluster_span s = clusters_growing(p->clusters);

	if (look_for_cut(p, err) < 0)
		return -1;
	bytes += disk_size / TABLES_SHARE;
	if (bytes > cluster_file_max(s.file) - POOL_DATA_BEGIN)
		return err_set(err, ERR_FULL, "no cluster file can hold %llu GiB on this file system",
			       (unsigned long long)(bytes / GIB));
	return is_full(&s, bytes) ? growth_begin(p, err) : 0;
}

int growth_check_space(const struct pool *p, uint64_t bytes, struct err *err)
{
	char needed[UNITS_SIZE_ROOM], there[UNITS_SIZE_ROOM];
	uint64_t free, takes = bytes + bytes / SPARE;
	struct statfs fs;

	if (file_ops->fstatfs(p->dirs[POOL_TOP], &fs) < 0)
		return err_errno(err, "cannot ask for free space");
	free = (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize;
	if (free >= takes)
		return 0;
	return err_set(err, ERR_FULL, "that takes %s of free space, and there are %s", units_size(takes, needed, sizeof(needed)),
		       units_size(free, there, sizeof(there)));
}
