#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# What compaction reads comes from the disk once, for the kernel compares what is in the page cache still; and when all is
# done the cache is as it was found.
. tests/lib.sh
. tests/cli/lib_compact.sh

require_tool fincore qemu-img
make_xfs 400M
mib=$((1024 * 1024))

# resident FILE: bytes of it in the page cache
resident()
{
	fincore -nb -o RES "$STORE/$1"
}

# read_so_far: bytes that were read from the disk beneath the store
read_so_far()
{
	local device
	device=$(findmnt -no SOURCE "$STORE")
	awk '{ print $3 * 512 }' "/sys/block/${device#/dev/}/stat"
}

# cold: nothing is in the cache but the beginning of one image
cold()
{
	umount "$STORE"
	mount -o loop "$TMP/fs" "$STORE"
	dd if="$STORE/a.raw" of=/dev/null bs=1M count=2 iflag=fullblock status=none
}

random_file "$STORE/a.raw" 32M
copy "$STORE/a.raw" "$STORE/b.raw"
copy "$STORE/a.raw" "$STORE/c.raw"
qemu-img convert -O vpc -o subformat=dynamic "$STORE/a.raw" "$STORE/d.vhd"
sleep 0.3
cold
cached=$(resident a.raw)
assert_within $((2 * mib)) $((6 * mib)) "$cached" "cached before"

compact "$STORE"
assert_status 0
assert_within $((cached - mib)) $((cached + mib)) "$(resident a.raw)" "cached after a plan"
assert_within 0 $((2 * mib)) "$(resident b.raw)" "cached after a plan"

rm -rf "$CATALOG"
cold
cached=$(resident a.raw) before=$(read_so_far)
compact --apply --keep-originals 0 "$STORE"
assert_status 0
# the VHD is read for its copy, and that is read back
assert_within $((120 * mib)) $((190 * mib)) $(($(read_so_far) - before)) "read from the disk"
assert_within $((cached - mib)) $((cached + mib)) "$(resident a.raw)" "cached after compaction"
for name in b.raw c.raw d.vhd; do assert_within 0 $((2 * mib)) "$(resident $name)" "cached of $name after compaction"; done
