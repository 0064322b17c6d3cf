/* SPDX-License-Identifier: Apache-2.0 */
#include "compactor/room.h"

#include "scanner/base/checked.h"
#include "scanner/base/file.h"
#include "scanner/base/units.h"

#define LEFT (64 * MIB)
#define LOOK_EVERY (16 * MIB)

static int free_space(int fd, uint64_t *ret, struct err *err)
{
	struct statfs st;

	if (file_ops->fstatfs(fd, &st) < 0)
		return err_errno(err, "cannot ask for free space");
	*ret = (uint64_t)st.f_bavail * (uint64_t)st.f_bsize;
	return 0;
}

int room_check(int fd, uint64_t bytes, struct err *err)
{
	char needed[UNITS_SIZE_ROOM], there[UNITS_SIZE_ROOM];
	uint64_t free = 0;

	if (free_space(fd, &free, err) < 0)
		return -1;
	if (free >= bytes && free - bytes >= LEFT)
		return 0;
	return err_set(err, ERR_FULL, "to write it takes %s of free space, and there are %s",
		       units_size(bytes + LEFT, needed, sizeof(needed)), units_size(free, there, sizeof(there)));
}

int room_keep(int fd, uint64_t written, uint64_t *since, struct err *err)
{
	char left[UNITS_SIZE_ROOM], there[UNITS_SIZE_ROOM];
	uint64_t free = 0;

	*since += written;
	if (*since < LOOK_EVERY)
		return 0;
	*since = 0;
	if (free_space(fd, &free, err) < 0)
		return -1;
	if (free >= LEFT)
		return 0;
	return err_set(err, ERR_FULL, "%s of free space are to stay, and only %s are there", units_size(LEFT, left, sizeof(left)),
		       units_size(free, there, sizeof(there)));
}
