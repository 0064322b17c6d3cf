#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# What the file system shares already stands on a line of its own and is no saving any more.
. tests/lib.sh

require_root
require_tool mkfs.xfs losetup mount
truncate -s 400M "$TMP/fs"
mkfs.xfs -q -m reflink=1 "$TMP/fs"
mkdir "$TMP/mnt"
mount -o loop "$TMP/fs" "$TMP/mnt" 2>/dev/null || skip "cannot mount a loop device here"
trap 'umount "$TMP/mnt"' EXIT

head -c 20M /dev/urandom >"$TMP/mnt/a.raw"
cp --reflink=always "$TMP/mnt/a.raw" "$TMP/mnt/b.raw"
cp --reflink=never "$TMP/mnt/a.raw" "$TMP/mnt/c.raw"
sync

value()
{
	"$DEDUPSCAN" report --no-idle --csv-totals --catalog "$TMP/catalog" "$TMP/mnt" | tr -d '\r' | grep "^$1," | cut -d, -f2
}

mib=$((1024 * 1024))
assert_eq $((20 * mib)) "$(value fs_shared)" "shared by the file system"
assert_eq $((20 * mib)) "$(value left_to_save)" "left to save"

# Half of b written anew is shared no more, and no duplicate either.
dd if=/dev/urandom of="$TMP/mnt/b.raw" bs=1M count=10 conv=notrunc status=none
sync
assert_eq $((10 * mib)) "$(value fs_shared)" "shared by the file system after a write"
assert_eq $((20 * mib)) "$(value left_to_save)" "left to save after a write"
