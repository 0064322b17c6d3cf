#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# B12: on btrfs, where free space is not what it seems, images are rebuilt or left as they were, and nothing is lost of the space.
. tests/lib.sh
. tests/cli/lib_compact.sh

mib=$((1024 * 1024))

# begin_anew FREE: a.raw, and b.raw that holds half of it too; so many MiB of the rest are left free
begin_anew()
{
	rm -rf "$CATALOG"
	if mountpoint -q "$STORE"; then umount "$STORE"; fi
	make_btrfs 256M
	random_file "$STORE/a.raw" 16M
	(head -c 8M "$STORE/a.raw" && head -c 8M /dev/urandom) | cat >"$STORE/b.raw"
	btrfs filesystem sync "$STORE"
	if [ "$1" = 0 ]; then # and none for metadata
		dd if=/dev/urandom of="$STORE/filler" bs=1M status=none 2>/dev/null || true
	else
		fallocate -l $(($(stat -f -c '%a * %S' "$STORE") - $1 * mib)) "$STORE/filler"
	fi
	btrfs filesystem sync "$STORE"
	before=$(look) used_before=$(used) ino=$(stat -c %i "$STORE/b.raw")
}

# names and inode numbers are what a rebuilding may change
images()
{
	cksum "$STORE/a.raw" "$STORE/b.raw"
	stat -c '%n %s %y %a %u %g' "$STORE/a.raw" "$STORE/b.raw"
}

refused=0 rebuilt=0
for free in 0 6 24 96; do
	begin_anew "$free"
	of_images=$(images)
	compact --apply --keep-originals 0 "$STORE"
	assert_eq "$of_images" "$(images)" "images, $free free"
	assert_eq "" "$(find "$STORE" -name '*.new' -o -path '*/trash/*')" "left, $free free"
	if [ "$(stat -c %i "$STORE/b.raw")" = "$ino" ]; then
		if [ "$status" -eq 1 ]; then
			assert_has "$output" "b\.raw.*(No space left|of free space)"
			refused=$((refused + 1))
		else # so full that it cannot even be tried whether files can share here
			assert_status 0 "it was not rebuilt, $free free"
			assert_has "$output" "a\.raw: btrfs cannot share"
		fi
		assert_eq "$before" "$(look)" "not rebuilt, $free free"
		assert_within 0 $((used_before + mib)) "$(used)" "space in use after nothing was done, $free free"
	else
		assert_status 0 "rebuilt, $free free"
		assert_within $((7 * mib)) $((9 * mib)) $((used_before - $(used))) "given back, $free free"
		rebuilt=$((rebuilt + 1))
	fi
done
# controls: both ends were seen
[ "$refused" -gt 0 ] || fail "it was never too full"
[ "$rebuilt" -gt 0 ] || fail "it was always too full"
