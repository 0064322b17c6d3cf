#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# D5: somebody writes to an image between plan and apply, and puts its times back: what he wrote stays, whatever the method.
. tests/lib.sh
. tests/cli/lib_compact.sh

require_tool qemu-img python3
make_xfs 500M

# begin_anew: a plan is kept of sharing b.raw in place and laying c.vhd out anew
begin_anew()
{
	rm -rf "${STORE:?}"/* "$STORE/.dedupscan" "$CATALOG"
	random_file "$STORE/a.raw" 8M
	copy "$STORE/a.raw" "$STORE/b.raw"
	qemu-img convert -f raw -O vpc -o subformat=dynamic,force_size=on "$STORE/a.raw" "$STORE/c.vhd"
	sync
	compact --plan-out "$TMP/plan" "$STORE"
	assert_status 0
	cp "$STORE/b.raw" "$STORE/c.vhd" "$TMP/"
}

# assert_bytes: what is at the paths is what was last written there
assert_bytes()
{
	cmp "$TMP/b.raw" "$STORE/b.raw" || fail "$1: b.raw"
	qemu-img compare -f vpc -F vpc "$TMP/c.vhd" "$STORE/c.vhd" >/dev/null || fail "$1: c.vhd"
}

# states: of the steps, "b.raw skipped" and so on
states()
{
	figure '"\n".join(sorted(p["images"][s["image"]]["path"].rsplit("/", 1)[1] + " " + s["state"] for s in p["steps"]))'
}

begin_anew # the control: nobody writes
compact --apply --json --plan "$TMP/plan" --keep-originals 0 "$STORE"
assert_status 0
assert_bytes "nobody wrote"
assert_has "$(states)" "b.raw done"
assert_has "$(states)" "c.vhd done"

# the same size, the same times, other bytes
begin_anew
for name in b.raw c.vhd; do
	touch -r "$STORE/$name" "$TMP/times"
	mtime=$(stat -c %.9Y "$STORE/$name")
	for file in "$STORE/$name" "$TMP/$name"; do
		dd of="$file" bs=1 seek=3000000 conv=notrunc status=none <<<"written by another"
	done
	touch -r "$TMP/times" "$STORE/$name"
	assert_eq "$mtime" "$(stat -c %.9Y "$STORE/$name")" "the time that was to be put back"
done
before=$(look)
compact --apply --json --plan "$TMP/plan" --keep-originals 0 "$STORE"
assert_bytes "with the plan"
assert_eq "$before" "$(look)" "with the plan"
assert_has_not "$(states)" "done"
assert_eq 2 "$(figure 'sum("since the plan was made" in (i["why_not"] or "") for i in p["images"])')" "images that are told of"

# without a scan, by what the catalog knows of them
compact --no-scan --apply --keep-originals 0 "$STORE"
assert_bytes "with an old catalog"
compact --apply --keep-originals 0 "$STORE"
assert_status 0
assert_bytes "after another scan"
