/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/standing.h"

#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <string.h>

#include "compactor/pool/clusters.h"
#include "scanner/base/file.h"

static int add(struct standing_ids *ids, const uint8_t id[POOL_ID_SIZE], bool sealed, uint32_t slot, struct err *err)
{
	struct standing_id s = { .sealed = sealed, .slot = slot };

	memcpy(s.bytes, id, POOL_ID_SIZE);
	return vec_push(&ids->list, s) < 0 ? err_set(err, ERR_MEMORY, "no memory for what stands on a pool") : 0;
}

/* What an open file stands on, if that may be a pool, by whatever path it names it: it may have been moved. */
static int add_backing(const struct pool *p, int fd, struct standing_ids *ret, struct err *err)
{
	uint8_t id[POOL_ID_SIZE];
	struct slice s;
	uint32_t slot;
	uint64_t size;
	size_t len;

	if (overlay_names(fd, &s, &size, NULL) <= 0)
		return 0;
	switch (pool_file_parse(s.path, id, &len)) {
	case POOL_TOP:
		slot = clusters_slot_at(p->clusters, id, s.offset);
		return slot ? add(ret, (uint8_t[POOL_ID_SIZE]){ 0 }, false, slot, err) : 0;
	case POOL_VIEWS:
		return add(ret, id, false, 0, err);
	case POOL_SEALED:
		return add(ret, id, true, 0, err);
	default:
		return 0;
	}
}

/* One that went meanwhile stands on nothing. */
static int look_at(const struct pool *p, const char *name, int flags, struct standing_ids *ret, struct err *err)
{
	int fd = file_open(AT_FDCWD, name, O_RDONLY | O_NONBLOCK | flags, 0, err), rc;

	if (fd < 0 && errno == ENOENT) {
		if (err)
			*err = (struct err)ERR_INIT;
		return 0;
	}
	if (fd < 0)
		return -1;
	rc = add_backing(p, fd, ret, err);
	file_close(fd, name, NULL);
	return rc;
}

static int walk(const struct pool *p, FTS *fts, struct standing_ids *ret, struct err *err)
{
	FTSENT *e;

	while ((errno = 0, e = fts_read(fts))) {
		if (e->fts_info == FTS_D && strcmp(e->fts_path, p->path) == 0)
			fts_set(fts, e, FTS_SKIP);
		if (e->fts_info == FTS_DNR || e->fts_info == FTS_ERR || e->fts_info == FTS_NS) {
			errno = e->fts_errno;
			if (errno == ENOENT) /* it went meanwhile */
				continue;
			return err_errno(err, "cannot look at '%s', where something may stand on the pool", e->fts_path);
		}
		if (e->fts_info == FTS_F && S_ISREG(e->fts_statp->st_mode) && look_at(p, e->fts_accpath, O_NOFOLLOW, ret, err) < 0)
			return -1;
	}
	return errno ? err_errno(err, "cannot look through a directory") : 0;
}

int standing_find(const struct pool *p, const char *dir, struct standing_ids *ret, struct err *err)
{
	char *const paths[] = { (char *)dir, NULL };
	FTS *fts = fts_open(paths, FTS_PHYSICAL | FTS_XDEV | FTS_NOCHDIR, NULL);
	int rc;

	if (!fts)
		return err_errno(err, "cannot look through '%s'", dir);
	rc = walk(p, fts, ret, err);
	fts_close(fts);
	return rc;
}

int standing_look(const struct pool *p, const char *path, struct standing_ids *ret, struct err *err)
{
	struct stat st;

	if (file_ops->fstatat(AT_FDCWD, path, &st, 0) < 0)
		return errno == ENOENT || errno == ENOTDIR || errno == ELOOP ? 0 : err_errno(err, "cannot look at '%s'", path);
	return S_ISREG(st.st_mode) ? look_at(p, path, 0, ret, err) : 0;
}
