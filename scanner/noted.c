/* SPDX-License-Identifier: Apache-2.0 */
#include "scanner/noted.h"

#include <errno.h>
#include <string.h>

#include "scanner/base/file.h"

/* Whoever restores a raw disk into such a file, in place, leaves the attribute: so the first bytes have to agree. */

static const char qcow2[] = "qcow2", magic[] = "QFI\xfb";

const char *noted_format(int fd)
{
	char said[sizeof(qcow2)], head[sizeof(magic) - 1];
	ssize_t len = file_ops->fgetxattr(fd, NOTED_FORMAT, said, sizeof(said));

	if (len != (ssize_t)strlen(qcow2) || memcmp(said, qcow2, strlen(qcow2)) != 0)
		return NULL;
	if (file_read_some(fd, head, sizeof(head), 0, NULL) != (ssize_t)sizeof(head) || memcmp(head, magic, sizeof(head)) != 0)
		return NULL;
	return qcow2;
}

bool noted_at_all(int fd)
{
	return file_ops->fgetxattr(fd, NOTED_FORMAT, NULL, 0) >= 0;
}

int noted_set_qcow2(int fd, struct err *err)
{
	if (file_ops->fsetxattr(fd, NOTED_FORMAT, qcow2, strlen(qcow2), 0) == 0)
		return 0;
	if (errno == EOPNOTSUPP)
		return err_set(err, ERR_UNSUPPORTED,
			       "it is named as a raw disk, and its file system has no extended attributes to note that it is "
			       "a qcow2 image then; rename it first");
	return err_errno(err, "cannot set the attribute '%s'", NOTED_FORMAT);
}
