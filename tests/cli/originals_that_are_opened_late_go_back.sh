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

# Opens the file of this inode once it left its path and is held no more, and keeps it open.
python3 - "$STORE/.dedupscan" "$inode" "$TMP/opened" <<'END' &
import os, sys, time
folder, inode, opened = sys.argv[1], int(sys.argv[2]), sys.argv[3]
for _ in range(200000):
    try:
        found = [n for n in os.listdir(folder) if n.endswith(".new") and os.stat(os.path.join(folder, n)).st_ino == inode]
        with open("/proc/locks", encoding="ascii") as f:
            held = f":{inode} " in f.read()
        if found and not held:
            fd = os.open(os.path.join(folder, found[0]), os.O_RDWR)
            break
    except FileNotFoundError:
        pass
    time.sleep(0.0002)
open(opened, "w").close()
time.sleep(600)
END
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
