#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# E6: an image that calls another image a part of itself does not make that one vanish from the report.
. tests/lib.sh
. tests/cli/lib_store.sh
require_tool qemu-img

random_file "$TMP/disk" 2M
qemu-img convert -O qcow2 "$TMP/disk" "$STORE/victim.qcow2"
size=$(stat -c %s "$STORE/victim.qcow2")
printf '# Disk DescriptorFile\ncreateType="custom"\nRW %d FLAT "victim.qcow2" 0\n' $((size / 512)) >"$STORE/thief.vmdk"
for _ in 1 2; do
	report --csv="$TMP/csv" "$STORE"
	assert_has "$(cat "$TMP/csv")" 'victim\.qcow2.,.qcow2'
done
