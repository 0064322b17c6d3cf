#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# A plan changes nothing, can be kept, and says what can be had of which image by which method.
. tests/lib.sh
. tests/cli/lib_compact.sh

require_tool qemu-img python3
make_xfs 500M
mib=$((1024 * 1024))
random_file "$STORE/a.raw" 8M
copy "$STORE/a.raw" "$STORE/b.raw"
mkdir "$STORE/sub"
copy "$STORE/a.raw" "$STORE/sub/c.raw"
qemu-img convert -O qcow2 "$STORE/a.raw" "$STORE/d.qcow2"
sync

# Nothing is changed, not even what stat() tells of blocks and of the last change of the inode.
everything()
{
	look
	(cd "$STORE" && find . -printf '%p %C@ %b\n' | LC_ALL=C sort)
}
before=$(everything) used_before=$(used)
compact --json "$STORE"
assert_status 0
assert_eq "$before" "$(everything)" "after a plan"
assert_within $((used_before - 65536)) $((used_before + 65536)) "$(used)" "space in use after a plan"
assert_eq $((24 * mib)) "$(figure 'p["saving"]')" "saving"
assert_eq 3 "$(figure 'len(p["steps"])')" "steps"
assert_eq "['reflink']" "$(figure 'sorted({s["method"] for s in p["steps"]})')" "methods"
assert_eq False "$(figure 'p["applied"]')" "applied"
compact "$STORE"
assert_status 0
assert_has "$output" "24.0 MiB of it can be saved in 3 steps"
assert_has "$output" "no image was changed"

# Fewer images.
compact --json --only 'b.*' "$STORE"
assert_eq "$STORE/b.raw" "$(figure '",".join(p["images"][s["image"]]["path"] for s in p["steps"])')" "--only"
compact --json --only "$STORE/sub/*" "$STORE"
assert_eq "$STORE/sub/c.raw" "$(figure '",".join(p["images"][s["image"]]["path"] for s in p["steps"])')" "--only with a path"
compact --json --exclude '*.raw' "$STORE"
assert_eq "0 1" "$(figure 'len(p["steps"]), len(p["images"])' | tr -d '(,)')" "--exclude"

# Other methods, longer runs: nothing is left.
compact --json --method holes "$STORE"
assert_eq 0 "$(figure 'len(p["steps"])')" "--method holes"
compact --json --min-run 16M "$STORE"
assert_eq 0 "$(figure 'p["saving"]')" "--min-run 16M"
assert_eq $((24 * mib)) "$(figure 'sum(i["short_runs"] for i in p["images"])')" "short runs"

# What cannot be meant.
for wrong in "--method nothing" "--min-run 5000" "--min-run 2G" "--sharers 1" "--keep-originals never" "--no-such-option"; do
	# shellcheck disable=SC2086 # two words
	compact $wrong "$STORE"
	assert_status 2 "$wrong"
done
compact
assert_status 2 "no path"
compact --plan "$TMP/nothing" "$STORE"
[ "$status" -ne 0 ] || fail "a plan that is not there was read"
echo '{ "no": "plan" }' >"$TMP/no.plan"
compact --apply --plan "$TMP/no.plan" "$STORE"
[ "$status" -ne 0 ] || fail "what is no plan was carried out"
assert_eq "$before" "$(everything)" "after all this"

# A plan that was kept: what changed since is left alone, what came since too.
compact --plan-out "$TMP/a.plan" "$STORE"
assert_status 0
assert_eq "$before" "$(everything)" "after --plan-out"
copy "$STORE/a.raw" "$STORE/new.raw"
touch "$STORE/b.raw"
before=$(look) used_before=$(used)
compact --apply --json --plan "$TMP/a.plan" "$STORE"
assert_eq 2 "$(figure 'len(p["steps"])')" "steps of the plan that are left"
assert_has "$(figure '[i["why_not"] for i in p["images"] if "b.raw" in i["path"]]')" "since the plan was made"
assert_eq "$before" "$(look)" "after --plan"
assert_within $((15 * mib)) $((17 * mib)) $((used_before - $(used))) "given back by the plan"

# An image that cannot be read is told of, and the others are compacted.
printf 'QFI\xfb\0\0\0\3 no more' >"$STORE/bad.qcow2"
compact --apply "$STORE"
assert_status 1
assert_has "$output" "bad.qcow2"
assert_within $((30 * mib)) $((33 * mib)) $((used_before - $(used))) "given back by all"

# It alone is nothing to stumble over.
mkdir "$STORE/alone"
cp "$STORE/bad.qcow2" "$STORE/alone/"
compact --apply "$STORE/alone"
assert_status 1
mkdir "$STORE/empty"
compact --apply "$STORE/empty"
assert_status 0
