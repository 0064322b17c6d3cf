#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# An image that was expanded is one of the pool as long as its original is kept, and not a collection longer; whenever expand is
# killed.  One that went back, and was moved, stays one.
. tests/lib.sh
. tests/cli/lib_store.sh
require_tool qemu-img qemu-io strace
[ "$(stat -c %W "$STORE")" != 0 ] || skip "the file system does not tell when files were made"

POOL=$STORE/.dedupscan-pool
FORGOTTEN="'$STORE/1.qcow2' was expanded, and what it was is not kept any more"

# fresh: two images in a pool
fresh()
{
	remove_trees "$STORE" "$CATALOG"
	mkdir -p "$STORE"
	for i in 1 2; do
		qemu-img create -q -f qcow2 "$STORE/$i.qcow2" 8M
		qemu-io -f qcow2 -c "write -q -P 1 0 3M" -c "write -q -P $((i + 10)) 5M 64k" "$STORE/$i.qcow2" >/dev/null
		qemu-img convert -O raw "$STORE/$i.qcow2" "$TMP/$i.raw"
	done
	"$DEDUPSCAN" compact --no-idle --catalog "$CATALOG" --method pool --apply --keep-originals 0 "$@" "$STORE" >/dev/null
}

expand()
{
	"$DEDUPSCAN" expand "$@" "$STORE/1.qcow2"
	assert_has_not "$(qemu-img info "$STORE/1.qcow2")" backing
}

collect()
{
	capture "$DEDUPSCAN" pool collect "$@"
	assert_status 0 "collect $*"
}

# members: images of the pool
members()
{
	"$DEDUPSCAN" list "$@" | tail -n +2 | sed 's,.*/,,' | sort | paste -sd ' '
}

# says IMAGE: what 1.qcow2 said
says()
{
	qemu-img compare -q -f raw -F qcow2 "$TMP/1.raw" "$STORE/$1" || fail "$1 says something else"
}

# is_forgotten: once, and what it stood on goes
is_forgotten()
{
	collect "$STORE"
	assert_has "$output" "^$FORGOTTEN$"
	assert_eq "2.qcow2" "$(members "$STORE")" "what is left"
	collect "$STORE"
	assert_has_not "$output" "expanded"
	assert_eq 1 "$(find "$POOL/views" "$POOL/trash" -type f | wc -l)" "views that are left"
	"$DEDUPSCAN" pool check "$STORE" >/dev/null
	says 1.qcow2
}

# is_one: collections do not forget it
is_one()
{
	collect "$STORE"
	assert_has_not "$output" "expanded"
	collect --drop-missing "$STORE"
	assert_has_not "$output" "1.qcow2'"
	assert_eq "1.qcow2 2.qcow2" "$(members "$STORE")" "members"
}

fresh
expand
is_one
"$DEDUPSCAN" recover --undo "$STORE" >/dev/null
is_one
says 1.qcow2

# The trash is emptied.
expand
"$DEDUPSCAN" recover --purge "$STORE" >/dev/null
collect --dry-run "$STORE"
assert_has "$output" "^$FORGOTTEN$"
assert_eq "1.qcow2 2.qcow2" "$(members "$STORE")" "after nothing was done"
is_forgotten

# Somebody removes what is in it, or all of it.
for what in .dedupscan/trash/* .dedupscan; do
	fresh
	expand
	# shellcheck disable=SC2086
	(cd "$STORE" && rm -r $what)
	is_forgotten
done

# It went back, and was moved; another image is at its path, with the inode number of the one that was there, if it can be had.
fresh
expand
ino=$(stat -c %i "$STORE/1.qcow2")
"$DEDUPSCAN" recover --undo "$STORE" >/dev/null
mv "$STORE/1.qcow2" "$TMP/moved.qcow2"
for ((i = 0; i < 100; i++)); do
	qemu-img create -q -f qcow2 "$STORE/1.qcow2" 8M
	[ "$(stat -c %i "$STORE/1.qcow2")" != "$ino" ] || break
	mv "$STORE/1.qcow2" "$TMP/other$i"
done
collect "$STORE"
collect "$STORE"
mv "$TMP/moved.qcow2" "$STORE/1.qcow2"
assert_eq "1.qcow2 2.qcow2" "$(members "$STORE")" "one that went back and was moved"
says 1.qcow2

# Another overlay was put in its place, and is expanded.
fresh
"$DEDUPSCAN" snapshot v1 "$STORE/1.qcow2" >/dev/null
mv "$STORE/1.qcow2" "$STORE/moved.qcow2"
cp "$STORE/2.qcow2" "$STORE/1.qcow2"
expand --keep-originals 0
collect "$STORE"
rm "$STORE/1.qcow2"
"$DEDUPSCAN" snapshot v2 "$STORE/moved.qcow2" >/dev/null
assert_eq "2.qcow2 moved.qcow2 moved.qcow2@v1 moved.qcow2@v2" "$(members "$STORE")" "when a copy of another one was expanded at its path"

# The pool is elsewhere, and nobody looks where the original is.
mkdir "$TMP/far"
fresh --pool "$TMP/far/pool"
expand --pool "$TMP/far/pool"
for i in 1 2; do
	collect --drop-missing --pool "$TMP/far/pool"
	assert_has_not "$output" "1.qcow2'"
done
"$DEDUPSCAN" recover --undo --pool "$TMP/far/pool" "$STORE" >/dev/null
says 1.qcow2
expand --pool "$TMP/far/pool" --keep-originals 1s
sleep 1.1
collect --pool "$TMP/far/pool"
assert_has_not "$output" "1.qcow2'"
"$DEDUPSCAN" recover "$STORE" >/dev/null
collect --pool "$TMP/far/pool"
assert_has "$output" "^$FORGOTTEN$"
cp --remove-destination "$STORE/1.qcow2" "$STORE/2.qcow2"
collect --drop-missing --pool "$TMP/far/pool"
assert_has "$output" "^'$STORE/2.qcow2' is another image by now$"
remove_trees "$TMP/far"

# Killed before and after it notes what it does, before and after the files change places, and before the original and the name go;
# then run again, if it is to be.
for at in 0:renameat:1 0:fsync:3 0:fsync:4 0:unlinkat:7 7d:fsync:4; do
	fresh
	call=${at#*:}
	capture strace -f -o /dev/null -e trace="${call%:*}" -e inject="${call%:*}:signal=KILL:when=${call#*:}" \
		"$DEDUPSCAN" expand --keep-originals "${at%%:*}" "$STORE/1.qcow2"
	assert_status 137 "killed at $at"
	"$DEDUPSCAN" recover "$STORE" >/dev/null
	says 1.qcow2
	if qemu-img info "$STORE/1.qcow2" | grep -q "^backing"; then
		is_one
		expand
	fi
	"$DEDUPSCAN" recover --purge "$STORE" >/dev/null
	is_forgotten
done
