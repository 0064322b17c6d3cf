#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Who writes an image out of a pool leaves some space to others: what does not fit is refused before it is begun, and the message
# says what it takes and what there is.
. tests/lib.sh
. tests/cli/lib_pool.sh
require_tool qemu-img qemu-io mount fallocate
require_root

mount -t tmpfs -o size=200m tmpfs "$STORE" 2>/dev/null || skip "cannot mount"
trap 'umount "$STORE"' EXIT

random_file "$TMP/a.raw" 24M
for name in a b; do
	qemu-img convert -f raw -O qcow2 "$TMP/a.raw" "$STORE/$name.qcow2"
done
compact
assert_status 0

# leave MIB: free
leave()
{
	rm -f "$STORE/filler"
	fallocate -l $(($(stat -f -c '%a * %S' "$STORE") - $1 * 1024 * 1024)) "$STORE/filler"
}

leave 84
free=$(stat -f -c %a "$STORE")
capture "$DEDUPSCAN" expand --keep-originals 0 "$STORE/a.qcow2"
assert_status 1
assert_has "$output" "a.qcow2': to write it takes 88.[0-9] MiB of free space, and there are 84.0 MiB$"
capture "$DEDUPSCAN" restore "$STORE/a.qcow2" "$STORE/new.qcow2"
assert_status 3
assert_has "$output" "to write it takes 88.[0-9] MiB of free space, and there are 84.0 MiB$"
assert_eq "$free" "$(stat -f -c %a "$STORE")" "free space"
capture "$DEDUPSCAN" restore "$STORE/a.qcow2" "$TMP/new.qcow2"
assert_status 0

# What is written to the overlay counts, too.
qemu-io -f qcow2 -c 'write -q -P 3 0 16M' "$STORE/a.qcow2"
leave 110
(
	ulimit -f 8192
	capture "$DEDUPSCAN" expand --keep-originals 0 "$STORE/a.qcow2"
	assert_status 1
	assert_has "$output" "the new file did not fit: up to 2[0-9]{7} bytes must be free, by quota and file size limit, too: .*File too large"
)
capture "$DEDUPSCAN" expand --keep-originals 0 "$STORE/a.qcow2"
assert_status 0
assert_has_not "$(qemu-img info "$STORE/a.qcow2")" "backing"
