#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# D15: whatever moment of a rewriting a snapshot shows, on btrfs or of a disk whose XFS is frozen, each image in it is whole, the
# old file or the new one; recovery finds its way in it too.
. tests/lib.sh
. tests/cli/lib_compact.sh

require_tool qemu-img xfs_freeze
NR=2

# make_images FOLDER
make_images()
{
	mkdir -p "$1"
	random_file "$1/a.raw" 4M
	for ((i = 1; i <= NR; i++)); do
		if [ "$(stat -f -c %T "$STORE")" = btrfs ]; then
			copy "$1/a.raw" "$1/$i.raw"
		else
			qemu-img convert -f raw -O vpc -o subformat=dynamic,force_size=on "$1/a.raw" "$1/$i.vhd"
		fi
	done
	cp "$1/a.raw" "$TMP/wanted"
	ls "$1" >"$TMP/names"
	sync
	compact "$1"
}

# assert_whole FOLDER WHAT
assert_whole()
{
	local name
	assert_eq "$(cat "$TMP/names")" "$(ls "$1")" "names in $2"
	while read -r name; do
		qemu-img compare -U -f "$(if [[ $name = *.vhd ]]; then echo vpc; else echo raw; fi)" -F raw "$1/$name" "$TMP/wanted" \
			>/dev/null || fail "$2: $name has other bytes"
	done <"$TMP/names"
}

# inodes FOLDER: which says what was replaced by then
inodes()
{
	(cd "$1" && stat -c '%n %i' -- *)
}

# begin FOLDER: compacts it slowly, and returns when it has begun: what snapshots hold already would be left alone
begin()
{
	first=$(inodes "$1")
	nr_taken=0 nr_between=0
	"$DEDUPSCAN" compact --no-idle --no-scan --apply --keep-originals 0 --limit 10M --catalog "$CATALOG" "$1" >"$TMP/out" 2>&1 &
	pid=$!
	until grep -q "[0-9]\\.\(raw\|vhd\)" "$1/.dedupscan/journal" 2>/dev/null; do
		kill -0 $pid || fail "it ended before it began: $(cat "$TMP/out")"
		sleep 0.01
	done
}

# end FOLDER: of the compaction; snapshots were taken in the middle, and of images of which some were replaced
end()
{
	status=0
	wait $pid || status=$?
	output=$(cat "$TMP/out")
	assert_status 0
	assert_whole "$1" "the end"
	[ "$(inodes "$1")" != "$first" ] || fail "nothing was rewritten, so that this shows nothing"
	[ "$nr_taken" -ge 3 ] || fail "only $nr_taken snapshots were taken"
	[ "$nr_between" -gt 0 ] || fail "no snapshot shows some images replaced and some not, or one that is being replaced"
}

# count FOLDER: a snapshot of which it is a part
count()
{
	nr_taken=$((nr_taken + 1))
	if [ -s "$1/.dedupscan/journal" ] && [ "$(inodes "$1")" != "$last" ]; then nr_between=$((nr_between + 1)); fi
}

# recovered FOLDER WHAT: as after a power cut at that moment
recovered()
{
	capture "$DEDUPSCAN" recover "$1"
	assert_status 0 "$2"
	assert_whole "$1" "$2, recovered"
	assert_eq "" "$(find "$1/" -name '*.new' -o -path '*/trash/*')" "left in $2"
}

make_btrfs 400M
btrfs -q subvolume create "$STORE/images"
make_images "$STORE/images"
begin "$STORE/images"
while kill -0 $pid 2>/dev/null && [ "$nr_taken" -lt 8 ]; do
	btrfs -q subvolume snapshot "$STORE/images" "$STORE/$((nr_taken++))"
	sleep 0.25
done
n=$nr_taken nr_taken=0 last=$(inodes "$STORE/images")
for ((s = 0; s < n; s++)); do
	count "$STORE/$s"
	assert_whole "$STORE/$s" "snapshot $s"
	recovered "$STORE/$s" "snapshot $s"
done
end "$STORE/images"

# the control: a snapshot of an image that is being written to in place is not whole
truncate -s 1M "$STORE/0/a.raw"
(assert_whole "$STORE/0" "control") >/dev/null 2>&1 && fail "damage in a snapshot is not noticed"
umount "$STORE"
rm -r "$CATALOG" "$TMP/fs"
trap - EXIT

make_xfs 320M
make_images "$STORE/images"
begin "$STORE/images"
while kill -0 $pid 2>/dev/null && [ "$nr_taken" -lt 8 ]; do
	xfs_freeze -f "$STORE"
	cp --sparse=always "$TMP/fs" "$TMP/fs.$((nr_taken++))"
	xfs_freeze -u "$STORE"
	sleep 0.25
done
n=$nr_taken nr_taken=0 last=$(inodes "$STORE/images")
mkdir "$TMP/copy"
for ((s = 0; s < n; s++)); do
	mount -o loop,nouuid "$TMP/fs.$s" "$TMP/copy"
	trap 'umount "$TMP/copy" "$STORE"' EXIT
	count "$TMP/copy/images"
	assert_whole "$TMP/copy/images" "copy $s of a frozen disk"
	recovered "$TMP/copy/images" "copy $s of a frozen disk"
	umount "$TMP/copy"
	trap 'umount "$STORE"' EXIT
	rm "$TMP/fs.$s"
done
end "$STORE/images"
