#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Two collections take nothing that an image needs, whatever became of its path; and who may read a pool stays as it was decided.
. tests/lib.sh
. tests/cli/lib_store.sh
require_tool qemu-img qemu-io

POOL=$STORE/.dedupscan-pool

make_image() # NAME PATTERN
{
	qemu-img create -q -f qcow2 "$STORE/$1" 8M
	qemu-io -f qcow2 -c "write -q -P 1 0 3M" -c "write -q -P $2 5M 64k" "$STORE/$1" >/dev/null
	qemu-img convert -O raw "$STORE/$1" "$TMP/$1.raw"
}

# fresh MODE [OPTION]...: three images in a pool
fresh()
{
	remove_trees "$STORE" "$CATALOG"
	mkdir -p "$STORE"
	for i in 1 2 3; do
		make_image "$i.qcow2" "$((i + 10))"
		chmod "$1" "$STORE/$i.qcow2"
	done
	"$DEDUPSCAN" compact --no-idle --catalog "$CATALOG" --method pool --apply --keep-originals 0 "${@:2}" "$STORE" >/dev/null
}

collect()
{
	"$DEDUPSCAN" pool collect "$@" "$STORE" >/dev/null
	"$DEDUPSCAN" pool collect "$@" "$STORE" >/dev/null
}

# says IMAGE NUMBER: what the image of that number said
says()
{
	qemu-img compare -q -f raw -F qcow2 "$TMP/$2.qcow2.raw" "$STORE/$1" || fail "$1 does not say what $2.qcow2 said"
}

fresh 644
mv "$STORE/1.qcow2" "$STORE/moved.qcow2"
cp "$STORE/2.qcow2" "$STORE/copy.qcow2"
"$DEDUPSCAN" expand --keep-originals 0 "$STORE/2.qcow2"
collect --drop-missing
says moved.qcow2 1
says copy.qcow2 2
says 2.qcow2 2
says 3.qcow2 3

fresh 644
"$DEDUPSCAN" expand --keep-originals 7d "$STORE/1.qcow2"
collect
"$DEDUPSCAN" recover --undo "$STORE" >/dev/null
says 1.qcow2 1

# Its stub was cut out: it stands on the view itself.
fresh 644
view=$(qemu-img info --output=json "$STORE/1.qcow2" | sed -n 's/.*"backing-filename": "\(.*\)",$/\1/p' | sed 's/\\"/"/g')
stub=$(sed -n 's/.*"filename":"\([^"]*\)".*/\1/p' <<<"$view")
view=$(qemu-img info --output=json "$stub" | sed -n 's/.*"backing-filename": "\(.*\)",$/\1/p' | sed 's/\\"/"/g' | head -1)
qemu-img rebase -u -F qcow2 -b "$view" "$STORE/1.qcow2"
mv "$STORE/1.qcow2" "$STORE/moved.qcow2"
collect --drop-missing
says moved.qcow2 1

# The pool is elsewhere: a directory that is named is looked through, too.
mkdir "$TMP/other"
fresh 644 --pool "$TMP/other/pool"
mv "$STORE/1.qcow2" "$STORE/moved.qcow2"
"$DEDUPSCAN" pool collect --drop-missing --pool "$TMP/other/pool" "$STORE" >/dev/null
"$DEDUPSCAN" pool collect --drop-missing --pool "$TMP/other/pool" "$STORE" >/dev/null
says moved.qcow2 1
remove_trees "$TMP/other"

# An overlay that was put back from a backup to its own path stands on what the pool has not noted of it; then a clone takes its place.
mkdir "$TMP/other"
fresh 644 --pool "$TMP/other/pool"
cp "$STORE/1.qcow2" "$TMP/backup"
for i in 1 2; do
	qemu-io -f qcow2 -c "write -q -P 9 0 64k" "$STORE/1.qcow2" >/dev/null
	"$DEDUPSCAN" snapshot --pool "$TMP/other/pool" v1 "$STORE/1.qcow2" >/dev/null
	"$DEDUPSCAN" compact --no-idle --catalog "$CATALOG" --method pool --apply --keep-originals 0 --pool "$TMP/other/pool" "$STORE" >/dev/null
	if [ $i -eq 2 ]; then
		"$DEDUPSCAN" clone --pool "$TMP/other/pool" "$STORE/2.qcow2" "$TMP/clone" >/dev/null
		mv "$TMP/clone" "$STORE/1.qcow2"
		rm "$STORE/2.qcow2"
	else
		cp "$TMP/backup" "$STORE/1.qcow2"
	fi
	"$DEDUPSCAN" delete --pool "$TMP/other/pool" "$STORE/1.qcow2@v1"
	"$DEDUPSCAN" pool collect --drop-missing --pool "$TMP/other/pool" >/dev/null
	"$DEDUPSCAN" pool collect --drop-missing --pool "$TMP/other/pool" >/dev/null
	says 1.qcow2 "$i"
	"$DEDUPSCAN" snapshot --pool "$TMP/other/pool" v2 "$STORE/1.qcow2" >/dev/null
	"$DEDUPSCAN" rollback --pool "$TMP/other/pool" "$STORE/1.qcow2@v2" >/dev/null
	"$DEDUPSCAN" delete --pool "$TMP/other/pool" "$STORE/1.qcow2@v2"
	says 1.qcow2 "$i"
done
remove_trees "$TMP/other"

# What a version sealed is folded in, and still there, for somebody stands on it who is in use: so does a copy of him, which nobody knows.
fresh 644
qemu-io -f qcow2 -c "write -q -P 9 0 64k" "$STORE/1.qcow2" >/dev/null
"$DEDUPSCAN" snapshot v1 "$STORE/1.qcow2" >/dev/null
"$DEDUPSCAN" clone "$STORE/1.qcow2" "$STORE/held.qcow2"
exec 9<"$STORE/held.qcow2"
capture "$DEDUPSCAN" compact --no-idle --catalog "$CATALOG" --apply "$STORE"
assert_has "$output" "held.qcow2': .*in use"
cp "$STORE/held.qcow2" "$STORE/copy.qcow2"
capture "$DEDUPSCAN" snapshot v2 "$STORE/copy.qcow2"
assert_eq "version 'v2': 0 disks sealed, 1 unchanged" "$output" "a version of the copy"
exec 9<&-
"$DEDUPSCAN" compact --no-idle --catalog "$CATALOG" --apply "$STORE" >/dev/null
collect
qemu-img compare -q -f qcow2 -F qcow2 "$STORE/1.qcow2" "$STORE/copy.qcow2" || fail "the copy differs"

# What really nobody needs goes.
fresh 644
mv "$STORE/1.qcow2" "$STORE/moved.qcow2"
collect --drop-missing
rm "$STORE/moved.qcow2"
collect --drop-missing
assert_eq 2 "$(find "$POOL/views" -type f | wc -l)" "views"

# Snapshots and bitmaps are not lost.
fresh 644
qemu-img snapshot -c before "$STORE/1.qcow2"
capture "$DEDUPSCAN" expand "$STORE/1.qcow2"
assert_eq 1 "$status" "expand of an image with a snapshot"
capture "$DEDUPSCAN" snapshot v1 "$STORE/1.qcow2"
assert_eq 3 "$status" "snapshot of an image with a snapshot"
qemu-img snapshot -l "$STORE/1.qcow2" | grep -q before || fail "its snapshot is gone"

fresh 600
collect
assert_eq 400 "$(stat -c %a "$POOL"/*.qcow2)" "the cluster file's mode"
qemu-io -f qcow2 -c "write -q -P 9 0 64k" "$STORE/1.qcow2" >/dev/null
"$DEDUPSCAN" snapshot v1 "$STORE/1.qcow2" >/dev/null
assert_eq 400 "$(stat -c %a "$POOL"/sealed/*.qcow2)" "the sealed overlay's mode"
assert_eq 400 "$(stat -c %a "$POOL"/*.qcow2)" "the cluster file's mode after a snapshot"
