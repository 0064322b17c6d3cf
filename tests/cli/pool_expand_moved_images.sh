#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Images that were renamed or moved and are expanded then: the pool forgets them, and their versions are where they are.
. tests/lib.sh
. tests/cli/lib_store.sh
require_tool qemu-img qemu-io

# listed: what the pool has, less times and sizes
listed()
{
	"$DEDUPSCAN" list "$STORE" | tail -n +2 | sed "s,.* $STORE/,," | sort
}

# expand [OPTION]... IMAGE
expand()
{
	capture "$DEDUPSCAN" expand "$@"
	assert_status 0 "expand $*"
	assert_has_not "$(qemu-img info "${@: -1}")" backing
}

# says IMAGE NUMBER: what the image of that number said
says()
{
	qemu-img compare -q -f raw -F qcow2 "$TMP/$2.raw" "$STORE/$1" || fail "$1 does not say what $2.qcow2 said"
}

for i in 1 2 3 4; do
	qemu-img create -q -f qcow2 "$STORE/$i.qcow2" 8M
	qemu-io -f qcow2 -c "write -q -P 1 0 3M" -c "write -q -P $((i + 10)) 5M 64k" "$STORE/$i.qcow2" >/dev/null
	qemu-img convert -O raw "$STORE/$i.qcow2" "$TMP/$i.raw"
done
"$DEDUPSCAN" compact --no-idle --catalog "$CATALOG" --method pool --apply --keep-originals 0 "$STORE" >/dev/null
"$DEDUPSCAN" snapshot v1 "$STORE/1.qcow2" >/dev/null
mkdir "$STORE/new"

mv "$STORE/1.qcow2" "$STORE/renamed.qcow2"
expand --keep-originals 0 "$STORE/renamed.qcow2"
says renamed.qcow2 1
assert_eq "$(printf '%s\n' 2.qcow2 3.qcow2 4.qcow2 "renamed.qcow2@v1")" "$(listed)" "after a renamed one was expanded"

mv "$STORE/2.qcow2" "$STORE/new/2.qcow2"
expand --keep-originals 0 "$STORE/new/2.qcow2"
says new/2.qcow2 2
assert_eq "$(printf '%s\n' 3.qcow2 4.qcow2 "renamed.qcow2@v1")" "$(listed)" "after a moved one was expanded"

# An original that is kept needs its view: it is known where it would go back to.
mv "$STORE/3.qcow2" "$STORE/new/three.qcow2"
expand "$STORE/new/three.qcow2"
assert_eq "$(printf '%s\n' 4.qcow2 new/three.qcow2 "renamed.qcow2@v1")" "$(listed)" "when its original is kept"
"$DEDUPSCAN" pool collect --drop-missing "$STORE" >/dev/null
"$DEDUPSCAN" pool collect --drop-missing "$STORE" >/dev/null
"$DEDUPSCAN" recover --undo "$STORE" >/dev/null
says new/three.qcow2 3

# A copy is not the one that it was copied from.
cp "$STORE/4.qcow2" "$STORE/copy.qcow2"
expand --keep-originals 0 "$STORE/copy.qcow2"
says copy.qcow2 4
says 4.qcow2 4
assert_has "$(listed)" '^4.qcow2$'
assert_has_not "$(listed)" copy
