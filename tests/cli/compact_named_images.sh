#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Images that are named one by one, and a directory that is named twice, have one workshop.
. tests/lib.sh
. tests/cli/lib_compact.sh
require_tool qemu-img

make_xfs 900M
random_file "$TMP/r.raw" 8M
qemu-img convert -f raw -O vpc "$TMP/r.raw" "$STORE/a.vhd"
qemu-img convert -f raw -O vpc "$TMP/r.raw" "$STORE/b.vhd"
copy "$TMP/r.raw" "$STORE/c.raw"

compact --apply "$STORE/a.vhd" "$STORE/b.vhd" "$STORE/c.raw"
assert_status 0
assert_eq 2 "$(grep -c 'relayout *done' <<<"$output")" "images that were laid out anew"
compact "$STORE/a.vhd" "$STORE/b.vhd"
assert_status 0 "there is a workshop now"
compact --apply "$STORE" "$STORE/../store" "$STORE/a.vhd"
assert_status 0
run=$("$DEDUPSCAN" recover --undo "$STORE/b.vhd")
grep -q ' 1 put back' <<<"$run" || fail "$run"

capture "$DEDUPSCAN" recover --purge "$STORE/b.vhd"
assert_status 2 "the original of a.vhd would go as well"
assert_eq 1 "$(find "$STORE/.dedupscan/trash" -type f | wc -l)" "originals"
