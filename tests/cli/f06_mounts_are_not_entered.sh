#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# F6: what is mounted beneath a root belongs to it no more, whoever asks: a walk, or a name in an image.
. tests/lib.sh
. tests/cli/lib_store.sh
require_root
require_tool unshare
unshare -m true 2>/dev/null || skip "needs leave to mount"

mkdir -p "$TMP/outside/deep" "$STORE/folder" "$STORE/proc" "$STORE/good"
random_file "$TMP/outside/secret.raw" 1M
random_file "$STORE/good/good.raw" 1M
touch "$STORE/file.raw"
for name in folder/secret.raw file.raw good/good.raw; do
	printf '# Disk DescriptorFile\ncreateType="custom"\nRW 2048 FLAT "../%s" 0\n' "$name" >"$STORE/good/$(basename "$name").vmdk"
done
cat >"$TMP/scan" <<'END'
set -eu
mount --bind "$TMP/outside" "$STORE/folder"
mount --bind "$TMP/outside/secret.raw" "$STORE/file.raw"
mount -t proc proc "$STORE/proc" 2>/dev/null || mount --bind /proc "$STORE/proc"
exec "$DEDUPSCAN" scan --no-idle --catalog "$CATALOG" "$@"
END
export STORE CATALOG

capture unshare -m sh "$TMP/scan" "$STORE"
assert_status 1
assert_has "$output" "secret.raw.vmdk': .*folder/secret.raw"
assert_has "$output" "file.raw.vmdk': .*file.raw"
assert_has_not "$output" 'good.raw.vmdk|/proc/'
assert_eq "" "$(sqlite3 "$CATALOG/catalog.db" "SELECT path FROM images WHERE path LIKE '%/folder/%' OR path LIKE '%/proc/%'")"
assert_eq "0" "$(sqlite3 "$CATALOG/catalog.db" "SELECT count(*) FROM images WHERE path LIKE '%/file.raw' AND nr_stored > 0")"

# what is named itself is what the user wants, mounted or not
for named in folder file.raw; do
	rm -r "$CATALOG"
	capture unshare -m sh "$TMP/scan" "$STORE/$named"
	assert_status 0 "$named"
	assert_has "$output" '^1 images: 1 read'
done
rm -r "$CATALOG"
capture unshare -m sh "$TMP/scan" "$STORE" "$STORE/folder"
assert_has_not "$output" "secret.raw.vmdk'"
