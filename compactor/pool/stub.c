/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "compactor/pool/clusters.h"
#include "compactor/pool/immutable.h"
#include "compactor/pool/view_parts.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"

/* A stub stands between overlays and a view, so that there is one small file for each view on which locks and leases tell whether
 * it is in use, and so that the view itself is never an overlay's backing file.
 *
 *	| header, name of the view | refcount table | L1 table, all zeros |	clusters of 4 or 16 KiB
 *
 * Overlays name it as a slice of exactly its size.  Nothing can be written into it for the reasons that hold for a view (view.c),
 * not even by its plain file name; `qemu-img check` of a stub complains of its refcounts.
 *
 * The L1 table is a hole: it takes 8 or 24 KiB of disk. */

#define STUB_MODE 0444
#define TMP_NAME_ROOM (POOL_FILE_NAME_ROOM + 8)
#define PATH_ROOM sizeof(((struct slice *)0)->path)

/* Clusters of 4 KiB make small stubs, with L1 tables of 4 MiB at most (every process that opens one holds that in memory). */
#define SMALL_CLUSTER_BITS 12
#define LARGE_CLUSTER_BITS 14
#define SMALL_DISK_MAX TIB

#define KEPT_ROOM 80
#define NR_HEAD_CLUSTERS 2 /* header, refcount table */

struct geometry {
	unsigned cluster_bits;
	uint64_t cluster_size;
	uint64_t l1_size; /* entries */
	uint64_t size;	  /* of the disk it shows: the L1 table has no entry to spare */
	uint64_t file_size;
};

static struct geometry geometry_of(uint64_t disk_size)
{
	struct geometry g = { .cluster_bits = disk_size <= SMALL_DISK_MAX ? SMALL_CLUSTER_BITS : LARGE_CLUSTER_BITS };

	g.cluster_size = (uint64_t)1 << g.cluster_bits;
	g.l1_size = max_u64(qcow2_l1_bytes(disk_size, g.cluster_bits, false) / 8, 1);
	g.size = g.l1_size << (2 * g.cluster_bits - 3);
	g.file_size = NR_HEAD_CLUSTERS * g.cluster_size + round_up(g.l1_size * 8, g.cluster_size);
	return g;
}

/* ---- names ---- */

/* Whether its files have paths that fit into a slice. */
static int check_path(const struct pool *p, struct err *err)
{
	if (strlen(p->path) + strlen("/views/") + POOL_FILE_NAME_ROOM <= PATH_ROOM)
		return 0;
	return err_set(err, ERR_UNSUPPORTED,
		       "the path '%.80s...' of the pool is too long to be in the backing file's name of an image",
		       p->path);
}

static void view_slice(const struct pool *p, const struct cluster_file *f, const struct slice_reading *reading, uint64_t offset,
		       uint64_t size, struct slice *ret)
{
	char name[POOL_FILE_NAME_ROOM];

	*ret = (struct slice){ .offset = offset, .size = size, .reading = *reading, .read_only = true };
	snprintf(ret->path, sizeof(ret->path), "%s/%s", p->path, pool_id_file_name(cluster_file_id(f)->uuid, name));
}

static void stub_slice(const struct pool *p, const struct view *v, const struct slice_reading *reading, struct slice *ret)
{
	struct cluster_span s = { 0 };

	clusters_of_slot(p->clusters, v->slot, &s);
	view_slice(p, s.file, reading, slot_offset(v->slot), v->slice_size, ret);
}

static void overlay_slice(const struct pool *p, const struct view *v, struct slice *ret)
{
	char name[POOL_FILE_NAME_ROOM];

	*ret = (struct slice){ .size = geometry_of(v->disk_size).file_size, .read_only = true };
	snprintf(ret->path, sizeof(ret->path), "%s/views/%s", p->path, pool_id_file_name(v->id, name));
}

static int check_name(const struct slice *s, struct err *err)
{
	char name[QCOW2_NAME_MAX + 1];

	return slice_format(s, name, sizeof(name), err);
}

int stub_check_reading(const struct pool *p, const struct slice_reading *reading, struct err *err)
{
	struct slice s;

	if (check_path(p, err) < 0)
		return -1;
	view_slice(p, clusters_growing(p->clusters).file, reading, (POOL_NR_SLOTS - 1) * POOL_SLOT_SIZE, POOL_FILE_MAX, &s);
	return check_name(&s, err);
}

int stub_check(const struct pool *p, const struct view *v, struct err *err)
{
	struct view largest = *v;
	struct slice s;

	if (qcow2_l1_bytes(v->disk_size, LARGE_CLUSTER_BITS, false) > QCOW2_L1_BYTES_MAX)
		return err_set(err, ERR_UNSUPPORTED, "a disk of %llu GiB is too large for a view",
			       (unsigned long long)(v->disk_size / GIB));
	largest.slice_size = POOL_FILE_MAX;
	stub_slice(p, &largest, &p->reading, &s);
	if (check_path(p, err) < 0 || check_name(&s, err) < 0)
		return -1;
	overlay_slice(p, v, &s);
	return check_name(&s, err);
}

int view_backing(const struct pool *p, const struct view *v, struct slice *ret, struct err *err)
{
	struct slice s;

	overlay_slice(p, v, &s);
	if (check_path(p, err) < 0 || check_name(&s, err) < 0)
		return -1;
	*ret = s;
	return 0;
}

bool view_of_backing(const struct pool *p, const struct slice *s, uint8_t ret_id[POOL_ID_SIZE])
{
	size_t len = strlen(p->path);
	char name[POOL_FILE_NAME_ROOM];
	uint8_t id[POOL_ID_SIZE];
	const char *rest;

	if (strncmp(s->path, p->path, len) != 0 || strncmp(s->path + len, "/views/", 7) != 0)
		return false;
	rest = s->path + len + 7;
	snprintf(name, sizeof(name), "%.*s", POOL_ID_TEXT_ROOM - 1, rest);
	if (!pool_id_parse(name, id) || strcmp(pool_id_file_name(id, name), rest) != 0)
		return false;
	memcpy(ret_id, id, sizeof(id));
	return true;
}

/* ---- writing ---- */

/* The first cluster: as full as it has to be to be locked (qcow2_writer.h). */
static int encode_header(const struct pool *p, const struct view *v, const struct slice_reading *reading, const struct geometry *g,
			 uint8_t *ret, struct err *err)
{
	struct qcow2_header h = {
		.cluster_bits = g->cluster_bits,
		.size = g->size,
		.l1_size = (uint32_t)g->l1_size,
		.l1_offset = NR_HEAD_CLUSTERS * g->cluster_size,
		.refcount_offset = g->cluster_size,
		.refcount_clusters = 1,
		.autoclear = QCOW2_LOCKED,
		.header_length = QCOW2_V3_LENGTH,
	};
	struct qcow2_extension_disk rest = { .type = be32_from(POOL_EXT_STUB) };
	size_t at = QCOW2_V3_LENGTH, end;
	char name[QCOW2_NAME_MAX + 1];
	struct pool_view_disk whose;
	struct slice s;

	stub_slice(p, v, reading, &s);
	if (slice_format(&s, name, sizeof(name), err) < 0)
		return -1;
	end = round_down(g->cluster_size - strlen(name), 8);
	qcow2_header_encode(&h, ret);
	qcow2_backing_encode(ret, end, name);
	at += qcow2_extension_encode(ret + at, QCOW2_EXT_BACKING_FORMAT, "qcow2", 5);
	rest.length = be32_from((uint32_t)(end - at - 2 * sizeof(rest)));
	view_extension(v, ret, &whose);
	memcpy(ret + at, &rest, sizeof(rest));
	memcpy(ret + at + sizeof(rest), &whose, sizeof(whose));
	return 0;
}

/* Header and refcount table; to be freed. */
static uint8_t *encode_head(const struct pool *p, const struct view *v, const struct slice_reading *reading,
			    const struct geometry *g, struct err *err)
{
	CLEANUP(free) uint8_t *head = calloc(NR_HEAD_CLUSTERS, g->cluster_size);
	be64 *refcounts;

	if (!head)
		return err_null(err, ERR_MEMORY, "no memory for a stub");
	refcounts = (void *)(head + g->cluster_size);
	if (encode_header(p, v, reading, g, head, err) < 0)
		return NULL;
	for (size_t i = 0; i < g->cluster_size / 8; i++)
		refcounts[i] = be64_from(QCOW2_NO_REFCOUNTS);
	return STEAL(head);
}

/* A stub has its own; nothing where it cannot be read. */
static struct slice_reading reading_of(int fd)
{
	struct slice s = { 0 };
	uint64_t size;

	overlay_backing(fd, &s, &size, NULL);
	return s.reading;
}

/* All behind the head is zeros. */
static int check_rest(int fd, const struct geometry *g, struct err *err)
{
	uint8_t piece[BLOCK_SIZE];

	for (uint64_t at = NR_HEAD_CLUSTERS * g->cluster_size; at < g->file_size; at += sizeof(piece)) {
		if (file_read(fd, piece, sizeof(piece), at, err) < 0)
			return -1;
		if (piece[0] || memcmp(piece, piece + 1, sizeof(piece) - 1) != 0)
			return err_set(err, ERR_FORMAT, "its L1 table is not empty");
	}
	return 0;
}

static int compare_stub(int fd, const struct pool *p, const struct view *v, struct err *err)
{
	struct geometry g = geometry_of(v->disk_size);
	size_t len = (size_t)(NR_HEAD_CLUSTERS * g.cluster_size);
	struct slice_reading reading = reading_of(fd);
	CLEANUP(free) uint8_t *wanted = encode_head(p, v, &reading, &g, err);
	CLEANUP(free) uint8_t *head = malloc(len);
	struct stat st;

	if (!wanted)
		return -1;
	if (!head)
		return err_set(err, ERR_MEMORY, "no memory for a stub");
	if (file_ops->fstat(fd, &st) < 0)
		return err_errno(err, "cannot look at it");
	if ((uint64_t)st.st_size != g.file_size)
		return err_set(err, ERR_FORMAT, "it has %lld bytes instead of %llu", (long long)st.st_size,
			       (unsigned long long)g.file_size);
	if (file_read(fd, head, len, 0, err) < 0)
		return -1;
	if (memcmp(head, wanted, len) != 0)
		return err_set(err, ERR_FORMAT, "it is damaged, or of a pool at another path");
	return check_rest(fd, &g, err);
}

static int open_stub(const struct pool *p, const struct view *v, enum pool_dir dir, struct err *err)
{
	char name[POOL_FILE_NAME_ROOM];

	return file_open(p->dirs[dir], pool_id_file_name(v->id, name), O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, err);
}

/* It would be right if the pool were where it says. */
static bool is_elsewhere(int fd, const struct pool *p, const struct view *v, char ret[PATH_MAX])
{
	struct pool there = *p;
	struct slice s;
	uint64_t size;

	if (overlay_backing(fd, &s, &size, NULL) <= 0)
		return false;
	*strrchr(s.path, '/') = '\0';
	there.path = s.path;
	if (strcmp(s.path, p->path) == 0 || compare_stub(fd, &there, v, NULL) < 0)
		return false;
	snprintf(ret, PATH_MAX, "%s", s.path);
	return true;
}

bool view_stub_leads_to(const struct pool *p, const struct view *v)
{
	static const enum pool_dir dirs[] = { POOL_VIEWS, POOL_TRASH };

	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++) {
		struct err why = ERR_INIT;

		if (view_check_stub(p, v, dirs[i], &why) == 0 || why.kind == ERR_STALE)
			return true;
	}
	return false;
}

bool view_stub_elsewhere(const struct pool *p, const struct view *v, char ret[PATH_MAX])
{
	int fd = open_stub(p, v, POOL_VIEWS, NULL);
	bool elsewhere = fd >= 0 && is_elsewhere(fd, p, v, ret);

	if (fd >= 0)
		file_ops->close(fd);
	return elsewhere;
}

int view_check_stub(const struct pool *p, const struct view *v, enum pool_dir dir, struct err *err)
{
	char name[POOL_FILE_NAME_ROOM], path[PATH_MAX];
	int fd = open_stub(p, v, dir, err), rc;

	if (fd < 0)
		return -1;
	rc = compare_stub(fd, p, v, err);
	if (rc < 0 && is_elsewhere(fd, p, v, path))
		rc = err_set(err, ERR_STALE, "it names the pool by another path, '%s'; dedupscan repoint mends that", path);
	file_ops->close(fd);
	return rc < 0 ? err_add(err, "stub '%s'", pool_id_file_name(v->id, name)) : 0;
}

int view_stub_reading(const struct pool *p, const struct view *v, struct slice_reading *ret, struct err *err)
{
	int fd = open_stub(p, v, POOL_VIEWS, err), rc;
	struct slice s = { 0 };
	uint64_t size;

	if (fd < 0)
		return -1;
	rc = overlay_backing(fd, &s, &size, err);
	file_ops->close(fd);
	if (rc == 0)
		err_set(err, ERR_FORMAT, "it names no view");
	if (rc <= 0)
		return -1;
	*ret = s.reading;
	return 0;
}

static int write_stub(int fd, const struct pool *p, const struct view *v, const struct slice_reading *reading, struct err *err)
{
	struct geometry g = geometry_of(v->disk_size);
	CLEANUP(free) uint8_t *head = encode_head(p, v, reading, &g, err);

	if (!head)
		return -1;
	if (file_write(fd, head, NR_HEAD_CLUSTERS * g.cluster_size, 0, err) < 0)
		return -1;
	return file_truncate(fd, g.file_size, err);
}

/* From the disk: it is to take the place of one that is good. */
static int read_back(int fd, const struct pool *p, const struct view *v, struct err *err)
{
	return file_drop_cache(fd, err) < 0 ? -1 : compare_stub(fd, p, v, err);
}

/* Open still. */
static int write_and_sync(struct pool *p, enum pool_dir dir, const char *name, const struct view *v,
			  const struct slice_reading *reading, struct err *err)
{
	int fd;

	if (immutable_unlink(p, dir, name, err) < 0) /* one that a crash left behind */
		return -1;
	fd = file_open(p->dirs[dir], name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, STUB_MODE, err);
	if (fd < 0)
		return -1;
	if (file_ops->fchmod(fd, STUB_MODE) < 0) /* whatever the umask */
		err_errno(err, "cannot set its mode");
	else if (write_stub(fd, p, v, reading, err) == 0 && file_sync(fd, name, err) == 0 &&
		 (dir == POOL_VIEWS || read_back(fd, p, v, err) == 0))
		return fd;
	file_ops->close(fd);
	return -1;
}

char *view_kept_stub(const struct view *v, char ret[VIEW_KEPT_STUB_ROOM])
{
	snprintf(ret, VIEW_KEPT_STUB_ROOM, "slot-%u.stub", v->slot);
	return ret;
}

bool stub_is_there(const struct pool *p, const struct view *v)
{
	char name[POOL_FILE_NAME_ROOM];
	struct stat st;

	return file_ops->fstatat(p->dirs[POOL_VIEWS], pool_id_file_name(v->id, name), &st, AT_SYMLINK_NOFOLLOW) == 0;
}

static bool cannot_exchange(const struct err *why)
{
	return why->errnum == EINVAL || why->errnum == ENOSYS || why->errnum == EOPNOTSUPP;
}

/* One that was kept under the name before may be open yet: the name, or with .1, .2 and so on. */
static int free_name(const struct pool *p, const char *kept, char ret[KEPT_ROOM], struct err *err)
{
	struct stat st;

	snprintf(ret, KEPT_ROOM, "%s", kept);
	for (unsigned i = 1; file_ops->fstatat(p->dirs[POOL_QUARANTINE], ret, &st, AT_SYMLINK_NOFOLLOW) == 0; i++)
		snprintf(ret, KEPT_ROOM, "%s.%u", kept, i);
	return errno == ENOENT ? 0 : err_errno(err, "cannot look into quarantine/");
}

int view_free_kept_stub(const struct pool *p, const struct view *v, char ret[VIEW_KEPT_STUB_ROOM], struct err *err)
{
	char kept[VIEW_KEPT_STUB_ROOM], name[KEPT_ROOM];

	if (free_name(p, view_kept_stub(v, kept), name, err) < 0)
		return -1;
	snprintf(ret, VIEW_KEPT_STUB_ROOM, "%.*s", VIEW_KEPT_STUB_ROOM - 1, name);
	return 0;
}

/* For a moment there is none. */
static int take_place_in_two_steps(struct pool *p, const char *tmp, const char *name, struct err *err)
{
	char kept[KEPT_ROOM];

	if (free_name(p, tmp, kept, err) < 0 || immutable_rename(p, POOL_VIEWS, name, POOL_QUARANTINE, kept, 0, err) < 0)
		return -1;
	if (immutable_rename(p, POOL_QUARANTINE, tmp, POOL_VIEWS, name, 0, err) == 0)
		return 0;
	immutable_rename(p, POOL_QUARANTINE, kept, POOL_VIEWS, name, 0, NULL);
	return -1;
}

/* From where it was written.  Two change places at once, so that the old one is never anywhere else than where a collection looks
 * for those that guests have open. */
static int take_place(struct pool *p, enum pool_dir from, const char *tmp, const char *name, struct err *err)
{
	struct err why = ERR_INIT;
	int rc;

	if (from == POOL_VIEWS)
		return immutable_rename(p, from, tmp, from, name, 0, err);
	rc = immutable_rename(p, from, tmp, POOL_VIEWS, name, RENAME_EXCHANGE, &why);
	if (rc < 0 && why.errnum == ENOENT) /* there is none */
		rc = immutable_rename(p, from, tmp, POOL_VIEWS, name, 0, err);
	else if (rc < 0 && cannot_exchange(&why))
		rc = take_place_in_two_steps(p, tmp, name, err);
	else if (rc < 0 && err)
		*err = why;
	return rc < 0 ? -1 : file_sync_dir(p->dirs[from], err);
}

/* Immutable from the moment on in which it has its name; what makes that durable is needed anyway. */
static int write_at_once(struct pool *p, enum pool_dir from, const char *tmp, const char *name, const struct view *v,
			 const struct slice_reading *reading, struct err *err)
{
	int fd = write_and_sync(p, from, tmp, v, reading, err), rc;

	if (fd < 0) {
		file_unlink(p->dirs[from], tmp, NULL);
		return -1;
	}
	rc = take_place(p, from, tmp, name, err);
	if (rc == 0)
		immutable_settle(p, fd);
	if (rc == 0)
		rc = file_sync_dir(p->dirs[POOL_VIEWS], err);
	return file_close(fd, name, rc == 0 ? err : NULL) < 0 ? -1 : rc;
}

int view_write_stub_to_read(struct pool *p, const struct view *v, const struct slice_reading *reading, const char *kept_stub,
			    struct err *err)
{
	char name[POOL_FILE_NAME_ROOM], tmp[TMP_NAME_ROOM], kept[KEPT_ROOM];

	snprintf(tmp, sizeof(tmp), ".%s.tmp", pool_id_file_name(v->id, name));
	if (kept_stub && free_name(p, kept_stub, kept, err) < 0)
		return -1;
	if (kept_stub ? write_at_once(p, POOL_QUARANTINE, kept, name, v, reading, err) == 0 :
			write_at_once(p, POOL_VIEWS, tmp, name, v, reading, err) == 0)
		return 0;
	if (!kept_stub)
		file_unlink(p->dirs[POOL_VIEWS], tmp, NULL);
	return err_add(err, "stub '%s'", name);
}

/* One that is written again keeps what it has, where that can be read. */
int view_write_stub(struct pool *p, const struct view *v, const char *kept_stub, struct err *err)
{
	struct slice_reading reading;

	if (view_stub_reading(p, v, &reading, NULL) < 0)
		reading = p->reading;
	return view_write_stub_to_read(p, v, &reading, kept_stub, err);
}
