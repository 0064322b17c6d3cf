/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/tree_help.h"

#include <stdlib.h>
#include <unistd.h>

#include "compactor/foreign.h"

static char file[] = "/tmp/foreign.XXXXXX";

static void write_storages(const char *text)
{
	FILE *f = fopen(file, "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static void plain_directories_are_nobodys(void **state)
{
	(void)state;
	assert_null(foreign_keeper("/srv/vm/web.qcow2", "/nonexistent"));
	assert_null(foreign_keeper("/srv/images/web.qcow2", "/nonexistent"));
}

static void openstack_and_ovirt_are_seen(void **state)
{
	(void)state;
	assert_non_null(foreign_keeper("/var/lib/nova/instances/0b8e/disk", "/nonexistent"));
	assert_non_null(foreign_keeper("/rhev/data-center/mnt/x/images/y/z", "/nonexistent"));
}

static void storages_with_volume_chains_are_seen(void **state)
{
	(void)state;
	write_storages("dir: local\n\tpath /var/lib/vz\n\tcontent images\n\ndir: chained\n\tpath /mnt/chained/\n"
		       "\tsnapshot-as-volume-chain 1\n\ndir: last\n\tsnapshot-as-volume-chain 0\n\tpath /mnt/last\n");
	assert_null(foreign_keeper("/var/lib/vz/images/100/disk.qcow2", file));
	assert_non_null(foreign_keeper("/mnt/chained/images/100/disk.qcow2", file));
	assert_null(foreign_keeper("/mnt/chained-not/images/100/disk.qcow2", file));
	assert_null(foreign_keeper("/mnt/last/images/100/disk.qcow2", file));
	write_storages("dir: only\n\tsnapshot-as-volume-chain 1\n\tpath /mnt/only");
	assert_non_null(foreign_keeper("/mnt/only/disk.qcow2", file));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(plain_directories_are_nobodys),
		cmocka_unit_test(openstack_and_ovirt_are_seen),
		cmocka_unit_test(storages_with_volume_chains_are_seen),
	};
	int fd = mkstemp(file), rc;

	if (fd < 0)
		return 1;
	close(fd);
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	unlink(file);
	return rc;
}
