/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>

#include "compactor/compact_parts.h"
#include "scanner/base/file.h"

#define SETTLE_NS 1000000000ull

static bool is_used(struct compaction *c, size_t image)
{
	const struct store_image *i = &c->store.images.items[image];
	const char *name;
	struct err why = ERR_INIT;
	CLEANUP(close_fd) int dirfd = roots_open_dir_of(c->o.roots, i->path, &name, &why);
	int fd = dirfd < 0 ? -1 : store_open(&c->store, i->first_file, &why);

	if (fd >= 0 && hold_look(fd, dirfd, name, &why) == 0)
		return false;
	if (c->o.assume_idle && why.kind == ERR_UNSUPPORTED)
		return false;
	compact_leave(c, image, why.text);
	return true;
}

bool rewrite_allowed(struct compaction *c, size_t image)
{
	const struct store_image *i = &c->store.images.items[image];

	if (i->nr_files != 1) {
		compact_leave(c, image, "it lies in several files, which are not rewritten");
		return false;
	}
	if (!i->certain) {
		compact_leave(c, image, "its format is not certain, or it was not closed properly: it is not rewritten; --format NAME "
					"says what it is");
		return false;
	}
	return !is_used(c, image);
}

int rewrite_open(struct compaction *c, size_t image, int *ret_dirfd, const char **ret_name, struct err *err)
{
	const struct store_image *i = &c->store.images.items[image];
	const char *name;
	CLEANUP(close_fd) int dirfd = roots_open_dir_of(c->o.roots, i->path, &name, err);
	struct stat st;
	int fd;

	if (dirfd < 0)
		return -1;
	store_close_files(&c->store);
	fd = file_open_beneath(dirfd, name, O_RDWR | O_NONBLOCK | O_NOFOLLOW, RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV, err);
	if (fd < 0)
		return -1;
	if (file_ops->fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_ino != i->identity.ino ||
	    st.st_dev != i->identity.dev) {
		file_close(fd, i->path, NULL);
		return err_set(err, ERR_STALE, "it is another file by now");
	}
	*ret_dirfd = STEAL_FD(dirfd);
	*ret_name = name;
	return fd;
}

static struct workshop *workshop_of(struct compaction *c, const char *path, const char **ret_name, struct err *err)
{
	const struct root *root = roots_find(c->o.roots, path, ret_name);
	size_t n;

	if (!root)
		return err_null(err, ERR_REFUSED, "'%s' lies outside the directories given", path);
	n = (size_t)(root - c->o.roots->list.items);
	if (!c->workshops[n] && workshop_open(root->dirfd, root->path, true, &c->workshops[n], err) < 0)
		return NULL;
	return c->workshops[n];
}

static int now_known(struct compaction *c, size_t image, const struct spool_identity *identity, struct err *err)
{
	if (catalog_image_set_identity(c->catalog, c->store.images.items[image].id, identity, err) < 0)
		return -1;
	return store_look_again(&c->store, image, err);
}

int rewrite_image(struct compaction *c,
		  int (*make)(void *, int, int, int (*)(void *, struct err *), void *, struct err *),
		  int (*prove)(void *, int, int, int (*)(void *, struct err *), void *, struct err *), struct err *err)
{
	size_t image = c->step->image;
	const struct store_image *i = &c->store.images.items[image];
	const char *name, *relative;
	struct spool_identity identity;
	struct replacing r = {
		.expected = i->identity, .hold = { .assume_idle = c->o.assume_idle }, .keep = c->o.keep_originals,
		.settle_ns = SETTLE_NS, .stopper = c->o.stopper, .make = make, .prove = prove, .ctx = c,
	};
	CLEANUP(close_fd) int dirfd = roots_open_dir_of(c->o.roots, i->path, &name, err);

	r.workshop = dirfd < 0 ? NULL : workshop_of(c, i->path, &relative, err);
	if (!r.workshop)
		return -1;
	store_close_files(&c->store);
	r.dirfd = dirfd;
	r.name = name;
	r.path = relative;
	if (replace_image(&r, &identity, err) < 0)
		return -1;
	return now_known(c, image, &identity, err);
}
