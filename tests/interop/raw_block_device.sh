#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# A block device is a raw image of its size; a qcow2 image may lie on one, too.
. tests/lib.sh
require_root
require_tool losetup qemu-img qemu-io cmp

imgtool=$BUILD/tests/interop/imgtool
loop=

cleanup()
{
	[ -z "$loop" ] || losetup -d "$loop"
}
trap cleanup EXIT

attach()
{
	cleanup
	loop=
	loop=$(losetup -f --show "$1" 2>/dev/null) || skip "no loop device can be had"
}

head -c 3000320 /dev/urandom >"$TMP/disk"
attach "$TMP/disk"
assert_has "$("$imgtool" info "$loop")" '^size 3000320$'
"$imgtool" cat "$loop" | cmp - "$TMP/disk" || fail "the bytes of a block device differ"
printf 'x' | dd of="$loop" bs=1 seek=1000000 conv=notrunc status=none
"$imgtool" cat "$loop" | cmp -s - <(head -c 3000320 /dev/zero) && fail "the comparison finds nothing"

truncate -s 8M "$TMP/on-device"
attach "$TMP/on-device"
qemu-img create -q -f qcow2 "$loop" 4M
qemu-io -f qcow2 -c 'write -P 7 1M 300k' "$loop" >"$TMP/log"
qemu-img convert -f qcow2 -O raw "$loop" "$TMP/wanted"
"$imgtool" cat "$loop" | cmp - "$TMP/wanted" || fail "the bytes of a qcow2 image on a block device differ"
