/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "scanner/scan_parts.h"

/* The other files that an image lies in (extents, external data files), as a scan sees them: what they were when the image was
 * opened, whether they still are, and which files are parts of an image that nobody has. */

bool scan_files_have(const struct scan_files *l, const struct spool_identity *identity)
{
	for (size_t i = 0; i < l->list.nr; i++)
		if (spool_identity_equal(&l->list.items[i].identity, identity))
			return true;
	return false;
}

bool scan_open_for_writing(int fd)
{
	if (fcntl(fd, F_SETLEASE, F_RDLCK) == 0) {
		fcntl(fd, F_SETLEASE, F_UNLCK);
		return false;
	}
	return errno == EAGAIN;
}

int scan_files_add(struct scan_files *l, const struct spool_identity *identity, const char *path, struct err *err)
{
	struct catalog_part p = { .identity = *identity, .path = strdup(path) };

	if (p.path && vec_push(&l->list, p) == 0)
		return 0;
	free(p.path);
	return err_set(err, ERR_MEMORY, "no memory for the files of an image");
}

void scan_files_release(struct scan_files *l)
{
	for (size_t i = 0; i < l->list.nr; i++)
		free(l->list.items[i].path);
	vec_release(&l->list);
}

struct fingerprint scan_files_digest(const struct scan_files *l)
{
	return catalog_parts_digest(l->list.items, l->list.nr);
}

/* Is it still what it was, and nobody's to write? */
static bool is_unchanged(const struct scan *s, const struct catalog_part *p)
{
	CLEANUP(close_fd) int fd = roots_open_joined(s->o->roots, p->path, NULL);
	struct spool_identity now;
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return false;
	now = spool_identity_of(&st);
	return spool_identity_equal(&now, &p->identity) && !scan_open_for_writing(fd);
}

bool scan_files_unchanged(const struct scan *s, const struct scan_files *l)
{
	for (size_t i = 0; i < l->list.nr; i++)
		if (!is_unchanged(s, &l->list.items[i]))
			return false;
	return true;
}

static int take_known(void *ctx, const struct catalog_part *p, struct err *err)
{
	return scan_files_add(ctx, &p->identity, p->path, err);
}

bool scan_files_as_known(const struct scan *s, int64_t image, struct fingerprint digest)
{
	struct scan_files known = { 0 };
	struct fingerprint f;
	bool same = false;

	if (fingerprint_is_null(digest))
		return true;
	if (catalog_each_part(s->c, image, take_known, &known, NULL) == 0) {
		f = scan_files_digest(&known);
		same = f.hi == digest.hi && f.lo == digest.lo && scan_files_unchanged(s, &known);
	}
	scan_files_release(&known);
	return same;
}

/* Files that can only be parts of an image, and that no image has: what they hold is in no figure. */
int scan_tell_strays(struct scan *s, struct err *err)
{
	struct err why = ERR_INIT;
	bool known;

	err_set(&why, ERR_PART,
		"it is a part of an image whose descriptor was not found or does not name it; --format raw reads it");
	for (size_t i = 0; i < s->strays.list.nr; i++) {
		const struct catalog_part *p = &s->strays.list.items[i];

		if (catalog_is_part(s->c, &p->identity, &known, err) < 0)
			return -1;
		if (known)
			continue;
		s->ret->nr_failed++;
		scan_tell_problem(s, p->path, &why);
	}
	return 0;
}
