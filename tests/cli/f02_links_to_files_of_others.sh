#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# F2, E2: links in a store lead nowhere; a file of another user becomes no part of an image, by whatever name.
. tests/lib.sh
. tests/cli/lib_store.sh

mkdir "$TMP/outside"
random_file "$TMP/outside/secret.raw" 1M
random_file "$STORE/own.raw" 1M
ln -s "$TMP/outside/secret.raw" "$STORE/link.raw"
ln -s "$STORE/link.raw" "$STORE/link-of-link.raw"
ln -s own.raw "$STORE/inside.raw"
ln -s /proc/self/exe "$STORE/exe.raw"
ln -s nowhere "$STORE/dangling.raw"
ln -s loop.raw "$STORE/loop.raw"
scan "$STORE"
assert_status 0
assert_has "$output" '^1 images: 1 read'

# descriptor NAME FILE: a disk that lies in FILE
descriptor()
{
	printf '# Disk DescriptorFile\ncreateType="custom"\nRW 2048 FLAT "%s" 0\n' "$2" >"$STORE/$1.vmdk"
}
descriptor out link.raw
descriptor twice link-of-link.raw
descriptor loop loop.raw
descriptor in inside.raw
scan "$STORE"
assert_status 1
assert_has "$output" "out.vmdk': .*outside/secret.raw' lies outside"
assert_has "$output" "twice.vmdk': .*outside/secret.raw' lies outside"
assert_has "$output" "loop.vmdk': .*Too many levels of symbolic links"
assert_has_not "$output" "/in.vmdk'"

require_root
rm -r "$STORE" "$CATALOG"
mkdir "$STORE"
random_file "$STORE/theirs.raw" 1M
chown 12346 "$STORE/theirs.raw"
ln "$STORE/theirs.raw" "$STORE/hard.raw"
ln -s theirs.raw "$STORE/soft.raw"
for name in theirs hard soft; do
	descriptor $name $name.raw
	chown 12345 "$STORE/$name.vmdk"
done
scan "$STORE"
assert_status 1
assert_eq 3 "$(grep -c 'belongs to user 12346, the image to user 12345' <<<"$output")" "refused extents"
chown 12345 "$STORE/theirs.raw" # the control
scan "$STORE"
assert_status 0
