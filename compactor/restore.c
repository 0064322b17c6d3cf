/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/restore.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compactor/pool/tree.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"

static int write_disk(struct pool *p, const uint8_t root[DIGEST_SIZE], uint64_t size, struct writer *w, const struct restore_options *o, struct err *err)
{
	CLEANUP(free) uint8_t *buf = aligned_alloc(BLOCK_SIZE, SEGMENT_SIZE);
	CLEANUP(tree_walk_free) struct tree_walk *walk = tree_walk_new(p->nodes, root, size, err);
	uint64_t segment, next = 0, end = w->size;
	uint8_t digest[DIGEST_SIZE];
	int rc;

	if (!buf)
		return err_set(err, ERR_MEMORY, "no memory to restore an image");
	if (!walk)
		return -1;
	while ((rc = tree_walk_next(walk, next, &segment, digest, err)) > 0) {
		uint64_t at = segment * SEGMENT_SIZE;

		if (o->stopper && stopper_says(o->stopper))
			return err_set(err, ERR_CANCELED, "stopped");
		if (at >= end)
			return err_set(err, ERR_FORMAT, "its tree goes on behind the end of the disk");
		if (tree_read_segment(p->nodes, p->clusters, digest, buf, err) < 0 ||
		    writer_put(w, at, buf, min_u64(SEGMENT_SIZE, end - at), err) < 0)
			return -1;
		next = segment + 1;
		if (o->progress)
			o->progress(o->ctx, min_u64(next * SEGMENT_SIZE, size), size);
	}
	return rc < 0 ? -1 : writer_end(w, err);
}

static int write_file(struct pool *p, const uint8_t root[DIGEST_SIZE], uint64_t size, int fd, const char *name, const struct restore_options *o,
		      struct err *err)
{
	CLEANUP(writer_free) struct writer *w = writer_new(o->format, fd, name, size, &o->how, err);

	if (!w || write_disk(p, root, size, w, o, err) < 0)
		return -1;
	return file_sync(fd, name, err);
}

int restore_disk(struct pool *p, const uint8_t root[DIGEST_SIZE], uint64_t size, int dirfd, const char *name, const struct restore_options *o,
		 struct err *err)
{
	char temporary[NAME_MAX + 1];
	struct stat st;
	int fd, rc;

	if (file_ops->fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
		return err_set(err, ERR_REFUSED, "'%s' is there already", name);
	if (snprintf(temporary, sizeof(temporary), ".%s.part", name) >= (int)sizeof(temporary))
		return err_set(err, ERR_USAGE, "the name '%s' is too long", name);
	fd = file_open(dirfd, temporary, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0600, err);
	if (fd < 0)
		return -1;
	rc = write_file(p, root, size, fd, name, o, err);
	if (file_close(fd, name, rc == 0 ? err : NULL) < 0)
		rc = -1;
	if (rc == 0)
		rc = file_rename_to(dirfd, temporary, dirfd, name, RENAME_NOREPLACE, err);
	if (rc < 0) {
		file_unlink(dirfd, temporary, NULL);
		return -1;
	}
	return file_sync_dir(dirfd, err);
}
