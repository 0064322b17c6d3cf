#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# What lies in sealed/ and no name knows goes, as soon as nobody has it; who left nothing spares the next one to look there.
. tests/lib.sh
. tests/cli/lib_pool.sh
require_tool qemu-img qemu-io strace

random_file "$TMP/a.raw" 4M
for i in 1 2; do
	qemu-img convert -O qcow2 "$TMP/a.raw" "$STORE/$i.qcow2"
done
compact
assert_status 0
SEALED=$POOL/sealed
LEFT=$SEALED/00000000-0000-4000-8000-000000000001.qcow2

# looks ARGUMENT...: how often that command reads sealed/
looks()
{
	strace -y -o "$TMP/trace" -e trace=getdents64 "$DEDUPSCAN" "$@" >/dev/null || fail "$*"
	grep -c 'dedupscan-pool/sealed>' "$TMP/trace" || true
}

# another NAME: a clone that was written to
another()
{
	"$DEDUPSCAN" clone "$STORE/1.qcow2" "$STORE/$1.qcow2" >/dev/null
	qemu-io -f qcow2 -c "write -q 0 64k" "$STORE/$1.qcow2"
}

# snapshot NAME: how often one of another image does
snapshot()
{
	another "$1"
	looks snapshot v "$STORE/$1.qcow2"
}

assert_has "$(looks clone "$STORE/1.qcow2" "$STORE/first.qcow2")" '^[1-9]' # the control
assert_eq 0 "$(looks clone "$STORE/1.qcow2" "$STORE/second.qcow2")" "clone"
for name in a b; do
	assert_eq 0 "$(snapshot $name)" "snapshot"
done
qemu-io -f qcow2 -c "write -q 0 64k" "$STORE/a.qcow2"
assert_eq 0 "$(looks rollback "$STORE/a.qcow2@v")" "rollback"
qemu-io -f qcow2 -c "write -q 0 64k" "$STORE/b.qcow2"
assert_eq 0 "$(looks rollback --discard "$STORE/b.qcow2@v")" "rollback --discard"
assert_eq 0 "$(looks clone "$STORE/2.qcow2" "$STORE/c.qcow2")" "another clone"

# a fresh overlay of one who died, which somebody has open
cp "$STORE/c.qcow2" "$LEFT"
exec 9<>"$LEFT"
for name in d e; do
	another "$name"
	assert_has "$(looks snapshot v "$STORE/$name.qcow2")" '^[1-9]'
	[ -e "$LEFT" ] || fail "what somebody has open is gone"
done
exec 9>&-
assert_has "$(looks clone "$STORE/1.qcow2" "$STORE/f.qcow2")" '^[1-9]'
[ ! -e "$LEFT" ] || fail "a leftover is still there"
assert_eq 0 "$(snapshot g)" "after it went"

# a version that was deleted leaves what was sealed for it
qemu-io -f qcow2 -c "write -q 0 64k" "$STORE/g.qcow2"
"$DEDUPSCAN" rollback "$STORE/g.qcow2@v" --discard >/dev/null
"$DEDUPSCAN" delete "$STORE/d.qcow2@v" >/dev/null
assert_has "$(looks clone "$STORE/1.qcow2" "$STORE/h.qcow2")" '^[1-9]'
assert_eq 0 "$(looks clone "$STORE/1.qcow2" "$STORE/i.qcow2")" "what was sealed and waits for a collection"

# and one that was folded in
compact
assert_status 0
looks clone "$STORE/1.qcow2" "$STORE/j.qcow2" >/dev/null
[ "$(find "$SEALED" -name '*.qcow2' | wc -l)" -gt 2 ] || fail "nothing is left in sealed/"
assert_eq 0 "$(looks clone "$STORE/1.qcow2" "$STORE/k.qcow2")" "what was folded in and waits for a collection"
"$DEDUPSCAN" pool check "$STORE" >/dev/null || fail "the pool is damaged"
