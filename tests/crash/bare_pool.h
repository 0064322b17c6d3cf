/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEDUPSCAN_BARE_POOL_H
#define DEDUPSCAN_BARE_POOL_H

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "compactor/member.h"
#include "compactor/pool/names.h"
#include "compactor/pool/view.h"
#include "scanner/base/file.h"
#include "tests/crash/sim.h"

/* A pool in a file system in memory: directories and names, but no clusters, nodes or index.
 *
 * Images stand on one view, directly or by way of sealed overlays.  There is no QEMU: what a guest reads is, of each byte, what the
 * first file of the chain has at that offset that is not 0. */

#define POOL "/p"

static const char *const dirs[POOL_NR_DIRS] = {
	[POOL_TOP] = ".",	[POOL_VIEWS] = "views", [POOL_SEALED] = "sealed", [POOL_TREES] = "trees",
	[POOL_NAMES] = "names", [POOL_INDEX] = "index", [POOL_TRASH] = "trash",	  [POOL_QUARANTINE] = "quarantine",
};

static inline void close_pool(struct pool *p)
{
	names_forget(p);
	for (unsigned i = 0; i < POOL_NR_DIRS; i++)
		if (p->dirs[i] >= 0)
			file_ops->close(p->dirs[i]);
}

static inline int open_pool(struct sim *s, struct pool *p, struct err *err)
{
	char name[64];
	int rc = 0;

	*p = (struct pool){ .path = (char *)POOL, .writing = true };
	for (unsigned i = 0; i < POOL_NR_DIRS; i++) {
		snprintf(name, sizeof(name), "p/%s", dirs[i]);
		p->dirs[i] = rc < 0 ? -1 : file_open(sim_root(s), name, O_RDONLY | O_DIRECTORY, 0, err);
		rc = p->dirs[i] < 0 ? -1 : rc;
	}
	if (rc < 0)
		close_pool(p);
	return rc;
}

/* Its directories, for setups. */
static inline void make_pool(struct sim *s)
{
	char name[64];

	assert_int_equal(file_mkdir(sim_root(s), "p", 0711, NULL), 0);
	for (unsigned i = 1; i < POOL_NR_DIRS; i++) {
		snprintf(name, sizeof(name), "p/%s", dirs[i]);
		assert_int_equal(file_mkdir(sim_root(s), name, 0700, NULL), 0);
	}
}

/* ---- images ---- */

#define DISK_SIZE ((uint64_t)64 << 20)
#define L1 (3 * 65536) /* of an overlay of such a disk */
#define PATH_ROOM 128

static const uint8_t view_id[POOL_ID_SIZE] = { 1, 2, 3 };

/* Makes an empty image on the view, which is a member; returns a descriptor of it, open for writing. */
static inline int make_member(struct sim *s, struct pool *p, const char *path, const struct overlay_options *o)
{
	struct view v = { .disk_size = DISK_SIZE, .slice_size = 1 << 20, .slot = 1 };
	struct name n = { .kind = NAME_MEMBER };
	struct name_disk d = { .size = DISK_SIZE };
	struct slice backing;
	struct err err = ERR_INIT;
	int fd = file_open(sim_root(s), path + 1, O_RDWR | O_CREAT, 0640, &err);

	memcpy(v.id, view_id, sizeof(v.id));
	memcpy(d.view, view_id, sizeof(d.view));
	strcpy(d.path, path);
	assert_int_equal(vec_push(&n.disks, d), 0);
	if (view_backing(p, &v, &backing, &err) < 0 || overlay_write(fd, DISK_SIZE, &backing, o, &err) < 0 ||
	    names_publish(p, &n, true, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(file_ops->fsetxattr(fd, "user.owner", "me", 2, 0), 0);
	assert_int_equal(file_ops->fchown(fd, 1000, 1001), 0);
	name_release(&n);
	return fd;
}

/* As a QEMU does that has the image open. */
static inline void guest_writes(int fd, char c, uint64_t at, size_t len)
{
	char *text = malloc(len);

	assert_non_null(text);
	memset(text, c, len);
	assert_int_equal(file_ops->pwrite(fd, "\x80\0\0\0\0\1\0\0", 8, L1), 8);
	assert_int_equal(file_ops->pwrite(fd, text, len, (off_t)at), (ssize_t)len);
	free(text);
}

static inline void path_of_sealed(const uint8_t id[POOL_ID_SIZE], char ret[PATH_ROOM])
{
	char name[POOL_FILE_NAME_ROOM];

	snprintf(ret, PATH_ROOM, POOL "/sealed/%s", pool_id_file_name(id, name));
}

/* What an image stands on: 1 and the path (`ret` may be `path`), 0 = the view, -1. */
static inline int next_in_chain(struct sim *s, const char *path, char ret[PATH_ROOM], struct err *err)
{
	struct pool p = { .path = (char *)POOL };
	uint8_t id[POOL_ID_SIZE];
	struct slice slice;
	uint64_t size;
	int fd = file_open(sim_root(s), path + 1, O_RDONLY, 0, err), rc;

	if (fd < 0)
		return -1;
	rc = overlay_backing(fd, &slice, &size, err);
	file_ops->close(fd);
	if (rc <= 0 || size != DISK_SIZE)
		return err_set(err, ERR_FORMAT, "'%s' is no overlay", path);
	if (view_of_backing(&p, &slice, id) && memcmp(id, view_id, sizeof(id)) == 0)
		return 0;
	if (!sealed_of_backing(&p, &slice, id))
		return err_set(err, ERR_FORMAT, "'%s' stands on '%s'", path, slice.path);
	path_of_sealed(id, ret);
	return 1;
}

/* `len` bytes from `at` on; what the guest never wrote is 0. */
static inline int guest_reads(struct sim *s, const char *path, uint64_t at, char *ret, size_t len, struct err *err)
{
	char name[PATH_ROOM];
	int more = 1;

	memset(ret, 0, len);
	snprintf(name, sizeof(name), "%s", path);
	for (unsigned depth = 0; more > 0; depth++) {
		uint64_t size;
		uint8_t *p = sim_content(s, name, &size);
		bool whole = p && size >= L1 && p[65536 + 5] == 2 && p[131072 + 1] == 1; /* QEMU wants the refcounts, too */

		for (size_t i = 0; whole && i < len && at + i < size; i++)
			if (!ret[i])
				ret[i] = (char)p[at + i];
		free(p);
		if (!whole || depth > 9)
			return err_set(err, ERR_FORMAT, "'%s' is no whole overlay, or a circle", name);
		more = next_in_chain(s, name, name, err);
	}
	return more;
}

#endif
