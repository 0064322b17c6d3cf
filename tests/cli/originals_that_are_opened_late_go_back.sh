#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Somebody has an original open after its image was replaced, as who looked the path up just before: when all settle, that
# image goes back and is told as skipped, the other stands, and the catalog knows which file is where.  Row A11.
. tests/lib.sh
. tests/cli/lib_compact.sh

require_tool qemu-img python3
make_xfs 500M

random_file "$STORE/a.raw" 16M
for name in b c; do qemu-img convert -O vpc -o subformat=dynamic "$STORE/a.raw" "$STORE/$name.vhd"; done
sleep 0.3
inode=$(stat -c %i "$STORE/b.vhd")

open_late "$STORE/.dedupscan" "$inode" "$TMP/opened" &
opener=$!

compact --apply --keep-originals 0 --plan-out "$TMP/plan" "$STORE"
assert_status 1
kill "$opener"
assert_has "$output" "b.vhd': somebody opened the image while it was replaced; all is as it was"
output=$(cat "$TMP/plan")
[ -e "$TMP/opened" ] || fail "nobody opened the original"
assert_eq "$inode" "$(stat -c %i "$STORE/b.vhd")" "the inode at the path"
assert_eq "['skipped'] ['done']" "$(figure '*[sorted({s["state"] for s in p["steps"] if name in p["images"][s["image"]]["path"]})
	for name in ("b.vhd", "c.vhd")]')"
assert_eq "" "$(find "$STORE/.dedupscan" -name '*.new')" "left in the workshop"
qemu-img compare -q -f vpc -F raw "$STORE/b.vhd" "$STORE/a.raw" ||
	qemu-img compare -f vpc -F vpc "$STORE/b.vhd" "$STORE/c.vhd" || fail "b.vhd says something else"

compact --apply --keep-originals 0 "$STORE"
assert_status 0
[ "$inode" != "$(stat -c %i "$STORE/b.vhd")" ] || fail "it was not replaced the second time"
