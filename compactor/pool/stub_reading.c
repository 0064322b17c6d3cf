/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "compactor/pool/view_parts.h"
#include "scanner/base/file.h"

/* How QEMU is to read by new stubs: what the pool was told, in a file of it. */

#define TOLD "cache"
#define TOLD_ROOM 64

static int told_text(const struct slice_reading *r, char ret[TOLD_ROOM])
{
	return snprintf(ret, TOLD_ROOM, "l2 %llu\nhost %d\n%s", (unsigned long long)r->l2, r->host,
			r->io_uring ? "aio io_uring\n" : "");
}

/* What cannot be read is nothing: QEMU opens all the same. */
struct slice_reading stub_told(const struct pool *p)
{
	int fd = file_open(p->dirs[POOL_TOP], TOLD, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, NULL), host = 0;
	char text[TOLD_ROOM] = "", again[TOLD_ROOM], aio[16] = "";
	struct slice_reading r;
	unsigned long long l2 = 0;

	if (fd < 0)
		return (struct slice_reading){ 0 };
	if (file_read_some(fd, text, sizeof(text) - 1, 0, NULL) > 0)
		sscanf(text, "l2 %llu host %d aio %15s", &l2, &host, aio);
	file_ops->close(fd);
	r = (struct slice_reading){ .l2 = l2, .host = host == 1, .io_uring = strcmp(aio, "io_uring") == 0 };
	told_text(&r, again);
	return strcmp(text, again) == 0 && l2 <= SLICE_L2_CACHE_MAX ? r : (struct slice_reading){ 0 };
}

/* Also by those who are not root, as guests are. */
static int check_io_uring(struct err *err)
{
	char text[16] = "0";
	int fd = file_open(AT_FDCWD, "/proc/sys/kernel/io_uring_disabled", O_RDONLY, 0, NULL);

	if (fd >= 0) { /* Linux before 6.6 has none */
		file_read_some(fd, text, sizeof(text) - 1, 0, NULL);
		file_ops->close(fd);
	}
	if (text[0] == '0' && syscall(SYS_io_uring_setup, 0, NULL) < 0 && errno != ENOSYS && errno != EPERM)
		return 0;
	return err_set(err, ERR_REFUSED, "io_uring is not allowed on this machine (sysctl kernel.io_uring_disabled), so QEMU would "
		       "not open images that ask for it");
}

int stub_check_machine(const struct stub_wish *w, struct err *err)
{
	return w->aio && w->as.io_uring ? check_io_uring(err) : 0;
}

struct slice_reading stub_as_wished(struct slice_reading now, const struct stub_wish *w)
{
	return (struct slice_reading){
		.l2 = w->l2 ? w->as.l2 : now.l2,
		.host = w->host ? w->as.host : now.host,
		.io_uring = w->aio ? w->as.io_uring : now.io_uring,
	};
}

int stub_check_wish(const struct pool *p, const struct stub_wish *w, struct err *err)
{
	struct slice_reading told = stub_told(p), r = stub_as_wished(told, w);

	if (stub_check_machine(w, err) < 0)
		return -1;
	if (slice_same_reading(&r, &told) || stub_check_reading(p, &r, err) == 0)
		return 0;
	return err_add(err, "stubs cannot say how QEMU is to read");
}

int stub_tell(struct pool *p, const struct stub_wish *w, struct err *err)
{
	struct slice_reading r = stub_as_wished(p->reading, w);
	char text[TOLD_ROOM];
	int len = told_text(&r, text);

	if (stub_check_wish(p, w, err) < 0)
		return -1;
	if (slice_same_reading(&r, &p->reading))
		return 0;
	if (file_write_atomic(p->dirs[POOL_TOP], TOLD, text, (size_t)len, 0600, err) < 0)
		return err_add(err, "how QEMU is to read new stubs cannot be noted");
	p->reading = r;
	return 0;
}
