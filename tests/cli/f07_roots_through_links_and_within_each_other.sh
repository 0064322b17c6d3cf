#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# F7: PATHs that are links, that lie within each other, or within the workshop of another: every image is rewritten at most once,
# where it lies, in one workshop, which is found again.
. tests/lib.sh
. tests/cli/lib_compact.sh

make_btrfs 400M
mkdir "$TMP/else"

begin_anew()
{
	rm -rf "${STORE:?}"/* "$STORE/.dedupscan" "$CATALOG"
	mkdir -p "$STORE/sub/deep"
	random_file "$STORE/a.raw" 1M
	for name in b sub/deep/d; do copy "$STORE/a.raw" "$STORE/$name.raw"; done
	sync
	before=$(images)
}

images()
{
	(cd "$STORE" && find . -name '*.raw' -printf '%p %y %s %T@ %m %u %n\n' -exec cksum {} + | LC_ALL=C sort)
}

# rewritten NR: of images whose originals are kept, in whatever workshop
rewritten()
{
	assert_eq "$1" "$(find "$STORE" -path '*/.dedupscan/trash/*' | wc -l)" "originals kept"
	assert_eq "$before" "$(images)" "images"
}

# undone PATH...: by the very PATHs
undone()
{
	capture "$DEDUPSCAN" recover --undo "$@"
	assert_status 0
	rewritten 0
}

# through links
begin_anew
ln -s "$STORE" "$TMP/else/link"
ln -s link "$TMP/else/link-of-link"
compact --apply "$TMP/else/link-of-link"
assert_status 0
assert_has "$output" "2 of 2 steps done"
rewritten 2
assert_eq "$STORE/.dedupscan" "$(find "$TMP/else/" "$STORE" -name .dedupscan)" "workshops"
[ -L "$TMP/else/link-of-link" ] || fail "the link was replaced"
undone "$TMP/else/link"
begin_anew
ln -s "$STORE/sub/deep/d.raw" "$TMP/else/image.raw"
ln -s "$STORE/a.raw" "$TMP/else/a.raw"
compact --apply "$TMP/else/a.raw" "$TMP/else/image.raw"
assert_status 0
rewritten 1
[ -L "$TMP/else/image.raw" ] || fail "the link was replaced"
assert_eq "" "$(find "$TMP/else/" -name .dedupscan)" "workshops where links lie"

# one by two ways, one within the other, in any order
for paths in "$STORE $TMP/else/link" "$STORE $STORE/sub" "$STORE/sub/../sub/deep $STORE $STORE/sub/deep/d.raw"; do
	begin_anew
	# shellcheck disable=SC2086 # several words
	compact --apply $paths
	assert_status 0 "$paths"
	assert_has "$output" "^3 images .* in 2 steps"
	assert_has "$output" "2 of 2 steps done"
	rewritten 2
	# shellcheck disable=SC2086
	undone $paths
	# shellcheck disable=SC2086
	compact --apply --keep-originals 0 $paths # and again, where workshops are there already
	assert_status 0 "again: $paths"
	rewritten 0
done

# within a workshop: refused
begin_anew
compact --apply "$STORE"
rewritten 2
for path in "$STORE/.dedupscan/trash/1" "$STORE/.dedupscan"; do
	compact --apply "$path"
	assert_status 2
	assert_has "$output" "files of dedupscan's own"
	assert_eq "$before" "$(images)" "images after $path"
done
nr=$(find "$STORE/.dedupscan" -type f -size +1000k -exec cmp -s "$STORE/a.raw" {} \; -print | wc -l)
[ "$nr" -ge 2 ] || fail "only $nr originals are left"
