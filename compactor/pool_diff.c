/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/pool_diff.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>

#include "compactor/member.h"
#include "compactor/pool/tree.h"
#include "compactor/versions.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"

/* ---- what is meant ---- */

/* By which path the pool knows the image that is at `path` now. */
static int known_as(struct pool *p, const char *path, char ret[PATH_MAX], struct err *err)
{
	int rc = versions_moved_from(p, path, ret, err);

	if (rc == 0)
		snprintf(ret, PATH_MAX, "%s", path);
	return rc < 0 ? -1 : 0;
}

/* What an overlay says itself that it stands on, whatever is noted of it: a clone may have been put in its place, or an older copy. */
static int look_below(struct pool *p, const char *path, struct name_disk *ret, struct err *err)
{
	struct standing s;
	struct view v;
	int rc = member_look(p, path, &s, err);

	if (rc > 0 && !name_id_is_null(s.below)) {
		rc = layer_find(p, s.below, ret, err);
	} else if (rc > 0) {
		rc = view_find(p, s.view, &v, err);
		if (rc > 0) {
			ret->folded = true;
			ret->size = v.disk_size;
			memcpy(ret->root, v.root, DIGEST_SIZE);
		}
	}
	return rc ? rc : err_set(err, ERR_STALE, "the pool '%s' does not have what '%s' stands on", p->path, path);
}

/* An image to which nothing was written is what it stands on.  It is only looked at, so it may be open. */
static int look_at_image(struct pool *p, const char *path, const char *known, struct name_disk *ret, struct err *err)
{
	CLEANUP(name_release) struct name n = { .number = 0 };
	int rc = names_find_member(p, known, &n, err), dirfd, fd;
	char base[NAME_MAX + 1];
	struct overlay_facts f;

	if (rc <= 0)
		return rc < 0 ? -1 : err_set(err, ERR_USAGE, "'%s' is no image of the pool '%s'", path, p->path);
	*ret = n.disks.items[0];
	dirfd = member_open_dir(p, path, base, err);
	if (dirfd < 0)
		return -1;
	fd = file_open_beneath(dirfd, base, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV, err);
	file_ops->close(dirfd);
	rc = fd < 0 ? -1 : overlay_look(fd, &f, err);
	if (fd >= 0)
		file_ops->close(fd);
	if (rc < 0)
		return err_add(err, "image '%s'", path);
	if (!f.empty)
		return err_set(err, ERR_REFUSED,
			       "'%s' was written to; dedupscan snapshot makes a version of it, which can be compared", path);
	rc = look_below(p, path, ret, err);
	if (rc > 0 && round_up(ret->size, 512) != round_up(f.size, 512))
		return err_set(err, ERR_REFUSED,
			       "'%s' has another size now; dedupscan snapshot makes a version of it, which can be compared", path);
	return rc < 0 ? -1 : 0;
}

static int find_version(struct pool *p, const char *path, const char *known, const char *label, struct name_disk *ret,
			struct err *err)
{
	CLEANUP(name_release) struct name n = { .number = 0 };
	int rc = names_find_version(p, known, label, &n, err);

	if (rc <= 0)
		return rc < 0 ? -1 : err_set(err, ERR_USAGE, "there is no version '%s' of '%s'", label, path);
	*ret = *name_find_disk(&n, known);
	return 0;
}

int pool_disk_find(struct pool *p, const char *path, const char *label, struct pool_disk *ret, struct err *err)
{
	char known[PATH_MAX];
	struct name_disk d;

	if (known_as(p, path, known, err) < 0 ||
	    (label ? find_version(p, path, known, label, &d, err) : look_at_image(p, path, known, &d, err)) < 0)
		return -1;
	if (!d.folded)
		return err_set(err, ERR_REFUSED, "'%s%s%s' waits to be folded into the pool; dedupscan compact --apply does that",
			       path, label ? "@" : "", label ? label : "");
	memcpy(ret->root, d.root, DIGEST_SIZE);
	ret->size = d.size;
	return 0;
}

/* ---- comparing ---- */

struct comparing {
	struct pool *pool;
	uint64_t size; /* of the longer one */
	int (*call)(void *ctx, uint64_t offset, uint64_t len, struct err *err);
	void *ctx;
	uint64_t begin, end; /* of the range that may go on */
	struct pool_diff_sum sum;
	uint8_t *a, *b;
};

static int tell(struct comparing *c, struct err *err)
{
	uint64_t end = min_u64(c->end, c->size), begin = c->begin;

	c->begin = c->end;
	if (begin >= end)
		return 0;
	c->sum.nr_ranges++;
	c->sum.bytes += end - begin;
	return c->call(c->ctx, begin, end - begin, err);
}

static int compare_segment(void *ctx, uint64_t segment, const uint8_t in_a[DIGEST_SIZE], const uint8_t in_b[DIGEST_SIZE],
			   struct err *err)
{
	struct comparing *c = ctx;

	if (tree_read_segment(c->pool->nodes, c->pool->clusters, in_a, c->a, err) < 0 ||
	    tree_read_segment(c->pool->nodes, c->pool->clusters, in_b, c->b, err) < 0)
		return -1;
	c->sum.nr_segments++;
	for (uint64_t i = 0; i < SEGMENT_SIZE; i += BLOCK_SIZE) {
		uint64_t offset = segment * SEGMENT_SIZE + i;
		int rc;

		if (memcmp(c->a + i, c->b + i, BLOCK_SIZE) == 0)
			continue;
		rc = offset != c->end ? tell(c, err) : 0;
		if (rc)
			return rc;
		if (offset != c->end)
			c->begin = offset;
		c->end = offset + BLOCK_SIZE;
	}
	return 0;
}

int pool_diff(struct pool *p, const struct pool_disk *a, const struct pool_disk *b,
	      int (*call)(void *ctx, uint64_t offset, uint64_t len, struct err *err), void *ctx, struct pool_diff_sum *ret,
	      struct err *err)
{
	CLEANUP(free) uint8_t *buf = malloc(2 * SEGMENT_SIZE);
	struct comparing c = { .pool = p, .size = max_u64(a->size, b->size), .call = call, .ctx = ctx, .a = buf };
	int rc;

	if (!buf)
		return err_set(err, ERR_MEMORY, "out of memory");
	c.b = buf + SEGMENT_SIZE;
	rc = tree_diff(p->nodes, a->root, a->size, b->root, b->size, compare_segment, &c, err);
	if (rc == 0)
		rc = tell(&c, err);
	*ret = c.sum;
	return rc;
}
