#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# E1, E2, E6: a catalog beneath its own store is left out; that holds for names in images, too.  Were its database opened and
# closed, the locks on it would be lost.
. tests/lib.sh
. tests/cli/lib_store.sh
require_tool qemu-img

CATALOG=$STORE/deep/catalog
mkdir "$STORE/deep"
random_file "$STORE/good.raw" 1M
scan "$STORE"
assert_status 0
for file in catalog.db lock summary; do
	printf '# Disk DescriptorFile\ncreateType="custom"\nRW 1 FLAT "deep/catalog/%s" 0\n' $file >"$STORE/$file.vmdk"
done
qemu-img create -q -f qcow2 "$STORE/backed.qcow2" 1M
qemu-img rebase -u -b deep/catalog/catalog.db -F raw "$STORE/backed.qcow2"
ln -s deep/catalog "$STORE/link"
printf '# Disk DescriptorFile\ncreateType="custom"\nRW 1 FLAT "link/catalog.db" 0\n' >"$STORE/link.vmdk"
printf '# Disk DescriptorFile\ncreateType="custom"\nRW 1 FLAT "good.raw" 0\n' >"$STORE/good.vmdk" # the control
scan "$STORE"
assert_status 1
for file in catalog.db.vmdk lock.vmdk summary.vmdk link.vmdk backed.qcow2; do
	assert_has "$output" "/$file': .*catalog"
done
assert_has_not "$output" "good.vmdk'"
