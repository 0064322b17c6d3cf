#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Stores that are not as usual: images that got another size, that are disks without bytes, that are gone when originals are put back;
# and a pool that lies among the images under a name of its own.
. tests/lib.sh
. tests/cli/lib_store.sh
require_tool qemu-img qemu-io

make_image() # NAME
{
	qemu-img create -q -f qcow2 "$STORE/$1" 8M
	qemu-io -f qcow2 -c "write -q -P 1 0 3M" -c "write -q -P 2 5M 64k" "$STORE/$1" >/dev/null
}

# run STATUS ARGUMENT...: output in $output
run()
{
	capture "$DEDUPSCAN" "${@:2}"
	assert_status "$1" "${*:2}"
}

compact()
{
	run "$1" compact --no-idle --catalog "$CATALOG" --method pool --apply "${@:2}" "$STORE"
}

# ---- another size: the tree that the pool has is not of that disk ----

make_image a.qcow2
compact 0 --keep-originals 0
run 0 snapshot v1 "$STORE/a.qcow2"
qemu-img resize -q -f qcow2 "$STORE/a.qcow2" 1G
for arguments in "restore $STORE/a.qcow2 $TMP/a.raw" "diff $STORE/a.qcow2@v1 $STORE/a.qcow2"; do
	# shellcheck disable=SC2086 # several words
	run 3 $arguments
	assert_has "$output" "a.qcow2' has another size now; dedupscan snapshot makes a version of it"
done
run 0 snapshot v2 "$STORE/a.qcow2"
compact 0
run 0 restore "$STORE/a.qcow2" "$TMP/a.raw"
qemu-img compare -q -f qcow2 -F raw "$STORE/a.qcow2" "$TMP/a.raw" || fail "what was restored differs"

# ---- disks without bytes ----

qemu-img create -q -f qcow2 "$STORE/none.qcow2" 0
: >"$STORE/none.raw"
compact 0 --to-qcow2
for name in none.qcow2 none.raw; do
	assert_has "$output" "$name: its disk has no bytes$"
done
rm "$STORE"/none.*

# ---- originals that cannot be put back keep none of the others from it, and are told ----

for i in 1 2 3 4; do make_image "$i.qcow2"; done
cp "$STORE/1.qcow2" "$TMP/original"
compact 0
mv "$STORE/2.qcow2" "$STORE/moved.qcow2"
qemu-io -f qcow2 -c "write -q -P 7 0 64k" "$STORE/3.qcow2" >/dev/null
run 1 recover --undo "$STORE"
assert_has "$output" ", 2 put back;"
assert_has "$output" "2 originals stay, one of them: '[23].qcow2': "
cmp "$TMP/original" "$STORE/1.qcow2" || fail "not put back"
cmp "$TMP/original" "$STORE/4.qcow2" || fail "not put back"

# ---- a pool of another name is a pool all the same ----

mkdir "$TMP/two"
STORE=$TMP/two
make_image a.qcow2
compact 0 --pool "$STORE/own" --keep-originals 0
make_image b.qcow2
compact 0 --pool "$STORE/own" --keep-originals 0
assert_has "$output" "^1 of 1 step done"
assert_has_not "$output" "own/"
compact 0 --pool "$STORE/own" --to-qcow2 --format raw
assert_has_not "$output" "own/"

# ---- whatever the umask, and whoever a file belongs to ----

mkdir "$TMP/three"
STORE=$TMP/three
make_image a.qcow2
(
	umask 077
	compact 0 --immutable never --keep-originals 0
)
for stub in "$STORE"/.dedupscan-pool/views/*; do
	assert_eq 444 "$(stat -c %a "$stub")" "mode of a stub"
done
run 0 pool status "$STORE"
assert_has_not "$output" "^owners"
if [ "$(id -u)" -eq 0 ]; then
	chown 12345 "$STORE"/.dedupscan-pool/*.qcow2 "$stub" # as libvirt does
	run 0 pool status "$STORE"
	assert_has "$output" "^owners *2  of these belong to another user"
	run 0 pool check "$STORE"
	run 0 clone "$STORE/a.qcow2" "$STORE/b.qcow2"
fi

# ---- a pool that is moved while a view of it dies, whose image comes back ----

mkdir "$TMP/four"
STORE=$TMP/four
make_image a.qcow2
make_image b.qcow2
qemu-io -f qcow2 -c "write -q -P 5 1M 64k" "$STORE/b.qcow2" >/dev/null
cp "$STORE/b.qcow2" "$TMP/b.qcow2"
compact 0 --keep-originals 0
mv "$STORE/b.qcow2" "$TMP/away.qcow2"
run 0 pool collect --drop-missing "$STORE"
mv "$STORE" "$TMP/five"
STORE=$TMP/five
run 0 repoint "$STORE"
run 0 pool check "$STORE"
mv "$TMP/away.qcow2" "$STORE/b.qcow2"
run 0 repoint "$STORE/b.qcow2"
run 0 pool collect "$STORE"
qemu-img compare -q -f qcow2 -F qcow2 "$STORE/b.qcow2" "$TMP/b.qcow2" || fail "b.qcow2 came back with other bytes"
run 0 pool check "$STORE"

# ---- a pool on another file system than its images, which are there ----

if [ "$(id -u)" -eq 0 ] && mkdir "$TMP/mounted" && mount -t tmpfs -o size=256m tmpfs "$TMP/mounted" 2>/dev/null; then
	trap 'umount "$TMP/mounted"' EXIT
	STORE=$TMP/mounted
	make_image a.qcow2
	compact 0 --pool "$TMP/pool" --keep-originals 0
	run 0 list --pool "$TMP/pool"
	assert_has "$output" "/mounted/a.qcow2$"

	# ---- and one whose file system is read-only is whole all the same ----
	mkdir "$STORE/other"
	STORE=$STORE/other
	make_image a.qcow2
	compact 0 --pool "$STORE/.dedupscan-pool" --keep-originals 0
	mount -o remount,ro "$TMP/mounted"
	run 0 pool check "$STORE"
	run 0 pool collect --dry-run "$STORE"
	run 3 pool collect "$STORE"
	assert_has "$output" "Read-only file system"
	assert_has_not "$output" "no whole pool"
fi
