/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/relayout.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "compactor/pair.h"
#include "compactor/relayout_parts.h"
#include "scanner/base/checked.h"
#include "scanner/base/file.h"

/* The image's own bytes say where things are, so they are looked at in a jail.  The new file is the descriptor JAIL_WRITTEN
 * there, the only one that system calls can write to; the original, which may be open for writing too, is out of reach. */

static const struct method {
	const char *format, *kinds[3];
	relayout_format *write;
} methods[] = {
	{ "vhd", { "dynamic" }, relayout_vhd },
	{ "vdi", { "dynamic", "fixed" }, relayout_vdi },
};

static const struct method *find_method(const char *format, const char *kind)
{
	for (size_t i = 0; i < ARRAY_SIZE(methods); i++)
		for (size_t k = 0; methods[i].kinds[k]; k++)
			if (strcmp(format, methods[i].format) == 0 && strcmp(kind, methods[i].kinds[k]) == 0)
				return &methods[i];
	return NULL;
}

bool relayout_applies(const char *format, const char *kind)
{
	return find_method(format, kind) != NULL;
}

/* A block grows by less than a unit, and so does what is before the first one. */
uint64_t relayout_size(const char *format, uint64_t file_size, uint64_t block_size)
{
	if (strcmp(format, "vdi") == 0)
		return file_size + MIB;
	return file_size + (file_size / max_u64(block_size, RELAYOUT_UNIT) + 2) * RELAYOUT_UNIT;
}

/* ---- the process ---- */

int relayout_write(struct image *old, int new_fd, proof_check *check, void *check_ctx, struct err *err)
{
	const struct method *m = find_method(old->format->name, old->info.kind);
	CLEANUP(free) uint8_t *buf = malloc(SPARSE_PIECE);
	struct sparse_copy c = {
		.from = old->file.fd, .to = new_fd, .drop_zeros = true, .buf = buf, .size = old->file.size, .check = check,
		.check_ctx = check_ctx,
	};
	uint64_t size;

	if (!m)
		return err_set(err, ERR_UNSUPPORTED, "the data of a %s image of kind '%s' is not moved", old->format->name,
			       old->info.kind);
	if (!buf)
		return err_set(err, ERR_MEMORY, "no memory to copy an image");
	if (m->write(&old->file, &c, &size, err) < 0)
		return -1;
	return file_truncate(new_fd, size, err);
}

static int write_file(struct errand_side *s, const void *arg, proof_check *check, void *check_ctx, struct err *err)
{
	CLEANUP(image_close) struct image *old = errand_open_image(s, err);
	int fd;

	(void)arg;
	if (!old)
		return -1;
	fd = file_ops->fcntl(s->second_fd, F_DUPFD_CLOEXEC, (void *)(intptr_t)JAIL_WRITTEN);
	if (fd != JAIL_WRITTEN)
		return err_set(err, ERR_IO, "a worker has too many files");
	return relayout_write(old, fd, check, check_ctx, err);
}

/* ---- its parent ---- */

int relayout_make(int old_fd, int new_fd, const char *path, const char *format, const struct roots *roots,
		  const struct jail *jail, proof_check *check, void *check_ctx, struct err *err)
{
	struct pair p = {
		.format = format, .roots = roots, .jail = jail, .check = check, .check_ctx = check_ctx, .work = write_file,
	};
	uint64_t size;

	if (!image_format_by_name(format))
		return err_set(err, ERR_USAGE, "'%s' is no format of images", format);
	if (image_file_size(old_fd, &size, err) < 0)
		return -1;
	p.writes = relayout_size(format, size, 0);
	return pair_run(&p, old_fd, new_fd, path, err);
}
