#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# D8: an image that has several names is shared in place, and stays one file; it is not rewritten, since only one name would get
# the new file.
. tests/lib.sh
. tests/cli/lib_compact.sh

require_tool python3
mib=$((1024 * 1024))

make_images()
{
	mkdir "$STORE/sub"
	random_file "$STORE/a.raw" 8M
	copy "$STORE/a.raw" "$STORE/b.raw"
	ln "$STORE/b.raw" "$STORE/sub/other-name.raw"
	sync
	before=$(look) used_before=$(used)
}

make_xfs 400M
make_images
compact --apply "$STORE"
assert_status 0
assert_eq "$before" "$(look)" "shared in place"
assert_eq 2 "$(stat -c %h "$STORE/b.raw")" "names"
[ "$STORE/b.raw" -ef "$STORE/sub/other-name.raw" ] || fail "they are two files now"
assert_within $((7 * mib)) $((9 * mib)) $((used_before - $(used))) "given back"
umount "$STORE"
trap - EXIT

make_btrfs 256M
make_images
compact --apply --keep-originals 0 "$STORE"
assert_status 1
assert_has "$output" "skipped.*it has 2 names \(hard links\), of which only one would be replaced"
assert_eq "$before" "$(look)" "left alone"
assert_eq "" "$(find "$STORE/.dedupscan" -name '*.new' -o -path '*/trash/*' 2>/dev/null)" "left in the workshop"
assert_within $((used_before - mib)) $((used_before + mib)) "$(used)" "space in use"
rm "$STORE/sub/other-name.raw" # the control
compact --apply --keep-originals 0 "$STORE"
assert_status 0
assert_within $((7 * mib)) $((9 * mib)) $((used_before - $(used))) "given back by a file of one name"
