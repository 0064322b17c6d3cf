/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/opening.h"

#include <stdio.h>
#include <string.h>

#include "scanner/base/file.h"

void opening_request(struct worker_message *m, enum image_role role, const char *name, const char *from_path)
{
	*m = (struct worker_message){ .kind = WORKER_OPEN };
	m->open.role = role;
	snprintf(m->open.name, sizeof(m->open.name), "%s", name);
	snprintf(m->open.from, sizeof(m->open.from), "%s", from_path);
}

int opening_result(const struct worker_message *m, int fd, const char *name, char *ret_path, struct err *err)
{
	if (m->kind == WORKER_REFUSED) {
		if (err)
			*err = m->err;
		return -1;
	}
	if (m->kind != WORKER_FILE || fd < 0)
		return err_set(err, ERR_IO, "the parent gave no file for '%s'", name);
	memcpy(ret_path, m->path, PATH_MAX);
	return fd;
}

/* What the reader says is bytes: texts may have no end, numbers no meaning. */
static void take_request(const struct worker_message *m, struct opening *ret)
{
	ret->fd = -1;
	ret->role = m->open.role < IMAGE_NR_ROLES ? (enum image_role)m->open.role : IMAGE_BACKING;
	snprintf(ret->name, sizeof(ret->name), "%.*s", (int)sizeof(m->open.name) - 1, m->open.name);
	snprintf(ret->from, sizeof(ret->from), "%.*s", (int)sizeof(m->open.from) - 1, m->open.from);
	ret->path[0] = '\0';
}

int opening_answer(int sock, struct worker_message *m, const struct roots *roots, const struct stat *image,
		   struct leash *leash, struct opening *ret, struct err *err)
{
	struct err why = ERR_INIT;

	take_request(m, ret);
	if (leash_take_open(leash, err) < 0)
		return -1;
	ret->fd = roots_open_named(roots, ret->role, ret->name, ret->from, image, ret->path, &why);
	*m = (struct worker_message){ .kind = ret->fd >= 0 ? WORKER_FILE : WORKER_REFUSED };
	if (ret->fd >= 0) {
		if (ret->role != IMAGE_BACKING) /* of which no data is read */
			leash_add_file(leash, ret->fd);
		memcpy(m->path, ret->path, sizeof(m->path));
	} else {
		m->err = why;
	}
	if (worker_send(sock, m, ret->fd, err) == 0)
		return 0;
	if (ret->fd >= 0)
		file_close(ret->fd, ret->path, NULL);
	ret->fd = -1;
	return -1;
}
