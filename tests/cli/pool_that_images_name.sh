#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# A pool is found through the images that stand on it, wherever they are: by the commands that name one, and by those that go through
# a directory above it.  It is not, where somebody else could have told which.
. tests/lib.sh
. tests/cli/lib_store.sh
require_tool qemu-img

# run STATUS ARGUMENT...: output in $output
run()
{
	capture "$DEDUPSCAN" "${@:2}"
	assert_status "$1" "${*:2}"
}

make_image() # PATH
{
	random_file "$TMP/data" 3M
	qemu-img convert -f raw -O qcow2 "$TMP/data" "$1"
}

# disk_space DIR: bytes that its files take
disk_space()
{
	find "$1" -type f -printf '%b\n' | awk '{ sum += $1 * 512 } END { printf "%.0f\n", sum }'
}

mkdir "$STORE/inner" "$STORE/outer" "$TMP/far"
make_image "$STORE/inner/a.qcow2"
make_image "$STORE/outer/plain.qcow2"
run 0 verify --record "$TMP/digests" "$STORE/inner/a.qcow2"
run 0 compact --no-idle --catalog "$CATALOG" --method pool --apply "$STORE/inner"
pool=$STORE/inner/.dedupscan-pool

# ---- a directory above it ----

report --csv-totals --output "$TMP/totals" "$STORE"
assert_status 0 "report above a pool"
assert_has "$(tr -d '\r' <"$TMP/totals")" "^nr_pooled,1$"
assert_has "$(tr -d '\r' <"$TMP/totals")" "^pools_file_used,$(disk_space "$pool")$"
originals=$(disk_space "$STORE/inner/.dedupscan/trash")
[ "$originals" -gt $((3 << 20)) ] || fail "originals take $originals"
assert_has "$(tr -d '\r' <"$TMP/totals")" "^originals_file_used,$originals$"
report "$STORE/inner"
assert_has "$output" "^1 image without data of its own\.$"
assert_has "$output" "^1 of them stands on a pool, which takes .* more: $pool$"
assert_has "$output" "^Originals that a compaction keeps take 3\.[0-9] MiB more\.$"
run 0 recover --purge "$STORE/inner"
report "$STORE/inner"
assert_has_not "$output" "^Originals"
run 1 verify --check "$TMP/digests" "$STORE" # one is unknown
assert_has "$output" "1 ok, 1 unknown"

# ---- commands that name an image ----

run 0 clone "$STORE/inner/a.qcow2" "$TMP/far/b.qcow2"
run 0 clone "$TMP/far/b.qcow2" "$STORE/outer/c.qcow2"
run 0 snapshot v1 "$STORE/outer/c.qcow2"
run 0 list "$STORE/outer/c.qcow2"
assert_has "$output" "c.qcow2@v1"
run 0 diff "$STORE/outer/c.qcow2@v1" "$STORE/inner/a.qcow2"
run 0 rollback "$STORE/outer/c.qcow2@v1"
run 0 restore "$STORE/outer/c.qcow2" "$TMP/c.raw"
qemu-img compare -q -f qcow2 -F raw "$STORE/inner/a.qcow2" "$TMP/c.raw" || fail "what was restored differs"
run 0 delete "$STORE/outer/c.qcow2@v1"
run 0 expand "$STORE/outer/c.qcow2"
qemu-img info "$STORE/outer/c.qcow2" | grep -q "^backing file" && fail "what was expanded has a backing file"
run 2 clone "$STORE/outer/plain.qcow2" "$STORE/outer/d.qcow2"
assert_has "$output" "plain.qcow2' names no pool, and no directory above holds one"

# ---- the one above, where that is another or has what is named, too ----

make_image "$STORE/other.qcow2"
run 0 compact --no-idle --catalog "$CATALOG" --method pool --apply --keep-originals 0 "$STORE/other.qcow2"
run 0 clone "$TMP/far/b.qcow2" "$STORE/outer/e.qcow2"
run 0 clone "$STORE/outer/e.qcow2" "$STORE/outer/f.qcow2"
run 0 list "$STORE"
assert_has_not "$output" "outer"
run 0 list --pool "$pool"
for name in "$TMP/far/b" "$STORE/outer/e" "$STORE/outer/f"; do assert_has "$output" "$name.qcow2$"; done
cp -a "$STORE/inner" "$TMP/copy"
run 3 clone "$TMP/copy/a.qcow2" "$TMP/copy/g.qcow2"
assert_has "$output" "a.qcow2' names its pool by another path, '$pool'; dedupscan repoint mends that"

# ---- one that no directory above holds, and that is given later ----

# warned: images of which the catalog has a warning
warned()
{
	sqlite3 "$TMP/catalog2/catalog.db" "SELECT path FROM images WHERE warning <> '' ORDER BY path" | sed 's,.*/,,'
}

mkdir "$TMP/overlays"
cp "$TMP/far/b.qcow2" "$TMP/overlays/on-pool.qcow2"
qemu-img create -q -u -f qcow2 -b on-pool.qcow2 -F qcow2 "$TMP/overlays/above.qcow2" 3M
settle
for i in 1 2; do
	capture "$DEDUPSCAN" scan --no-idle --catalog "$TMP/catalog2" "$TMP/overlays"
	assert_has "$output" "/on-pool.qcow2': .*there is no pool at '$pool', or none that was given"
	assert_eq "$(printf 'above.qcow2\non-pool.qcow2')" "$(warned)" "images without their pool"
	assert_has "$output" "^2 images: $((4 - 2 * i)) read, $((2 * i - 2)) unchanged"
done
run 0 compact --no-idle --catalog "$TMP/catalog2" --pool "$pool" "$TMP/overlays"
assert_eq "" "$(warned)" "warnings when their pool was given"

# ---- one whose stub is missing ----

stub=$(qemu-img info "$STORE/inner/a.qcow2" | sed -n 's/^backing file: .*"filename":"\([^"]*\)".*/\1/p')
lift "$stub"
mv "$stub" "$TMP/stub"
run 0 list "$STORE/inner/a.qcow2"
run 0 list "$TMP/far/b.qcow2"
mv "$TMP/stub" "$stub"

# ---- one that others could have made ----

chmod g+w "$pool"
run 2 clone "$TMP/far/b.qcow2" "$TMP/far/h.qcow2"
assert_has "$output" "b.qcow2' names no pool"
run 1 verify --check "$TMP/digests" "$STORE"
assert_has "$output" "others than the owner of pool '$pool' can write to it"
chmod g-w "$pool"
if [ "$(id -u)" = 0 ]; then
	chown 4321 "$pool"
	run 2 clone "$TMP/far/b.qcow2" "$TMP/far/h.qcow2"
	assert_has "$output" "b.qcow2' names no pool"
fi
