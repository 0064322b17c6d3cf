#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Originals that stand on a pool which was moved since: recover --undo has them say where it is, whenever it is killed; and leaves
# them where they are as long as the pool cannot be read there.
. tests/lib.sh
. tests/cli/lib_store.sh
require_tool qemu-img qemu-io strace

MOVED=$TMP/moved

# make_store: images in a pool, of which one was expanded, and its overlay kept; then all of it moves
make_store()
{
	"$DEDUPSCAN" compact --no-idle --catalog "$CATALOG" --method pool --apply --keep-originals 0 "$STORE" >/dev/null
	qemu-io -f qcow2 -c "write -q -P 9 1M 64k" "$STORE/1.qcow2" >/dev/null
	qemu-img convert -O raw "$STORE/1.qcow2" "$TMP/1.raw"
	touch -d 2001-02-03T04:05:06.789 "$STORE/1.qcow2"
	"$DEDUPSCAN" expand "$STORE/1.qcow2" >/dev/null
	mv "$STORE" "$MOVED"
}

# undo STATUS [OPTION]...
undo()
{
	capture "$DEDUPSCAN" recover --undo "${@:2}" "$MOVED"
	assert_status "$1" "undo ${*:2}"
}

# is_back: the original, which stands on the pool
is_back()
{
	assert_has "$(qemu-img info "$1/1.qcow2")" "backing file: json:.*$2"
	qemu-img compare -q -f raw -F qcow2 "$TMP/1.raw" "$1/1.qcow2" || fail "$1/1.qcow2 has other bytes"
	assert_eq "2001-02-03 04:05:06.789000000" "$(stat -c %y "$1/1.qcow2" | cut -d' ' -f1,2)" "its time"
}

# is_expanded: nothing has changed
is_expanded()
{
	assert_has_not "$(qemu-img info "$MOVED/1.qcow2")" "backing"
	qemu-img compare -q -f raw -F qcow2 "$TMP/1.raw" "$MOVED/1.qcow2" || fail "1.qcow2 has other bytes"
}

# fresh: a store that was moved
fresh()
{
	chattr -R -f -i "$MOVED" || true
	rm -rf "$MOVED" "$CATALOG"
	mkdir -p "$STORE"
	for i in 1 2; do
		qemu-img create -q -f qcow2 "$STORE/$i.qcow2" 8M
		qemu-io -f qcow2 -c "write -q -P 1 0 3M" -c "write -q -P $((i + 10)) 5M 64k" "$STORE/$i.qcow2" >/dev/null
	done
	make_store
}

fresh
undo 1
assert_has "$output" "its original stands on '.*', which is not there any more, and the pool '.*' was moved; dedupscan repoint comes first; the image stays"
is_expanded
"$DEDUPSCAN" repoint "$MOVED" >/dev/null
undo 0
is_back "$MOVED" "$MOVED/.dedupscan-pool/views/"

# The pool is somewhere else.
fresh
mv "$MOVED/.dedupscan-pool" "$TMP/pool"
"$DEDUPSCAN" repoint --pool "$TMP/pool" "$MOVED" >/dev/null
undo 1
assert_has "$output" "is not there any more, and .*; the image stays as it is"
is_expanded
undo 0 --pool "$TMP/pool"
is_back "$MOVED" "$TMP/pool/views/"
"$DEDUPSCAN" pool check --pool "$TMP/pool" >/dev/null
chattr -R -f -i "$TMP/pool" || true
rm -rf "$TMP/pool"

# Killed at each call by which it changes the original, and what the journal says of it; then run again.
for at in pwrite64:1 pwrite64:2 pwrite64:3 utimensat:1 pwrite64:4; do
	fresh
	"$DEDUPSCAN" repoint "$MOVED" >/dev/null
	capture strace -f -o /dev/null -e trace="${at%:*}" -e inject="${at%:*}:signal=KILL:when=${at#*:}" "$DEDUPSCAN" recover --undo "$MOVED"
	[ "$status" -eq 137 ] || fail "it was not killed at $at: $status"
	undo 0
	is_back "$MOVED" "$MOVED/.dedupscan-pool/views/"
done
