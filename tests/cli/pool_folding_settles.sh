#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# A11: after a folding images stand on views.  Somebody has one of the overlays open that were replaced, as who looked the path up
# just before: that image stays on what is sealed, is told, and the pool knows it so; the others stand.  They settle together.
. tests/lib.sh
. tests/cli/lib_pool.sh
require_tool qemu-img qemu-io python3 strace

NR=12

# stands IMAGE: on what
stands()
{
	qemu-img info -U "$1" | grep -oE "\.dedupscan-pool/(views|sealed)/" | head -n 1
}

random_file "$TMP/disk.raw" 4M
for n in a b; do qemu-img convert -f raw -O qcow2 "$TMP/disk.raw" "$STORE/$n.qcow2"; done
settle
compact
assert_status 0
"$DEDUPSCAN" clone --count "$NR" "$STORE/a.qcow2" "$STORE/clone-%02d.qcow2"
cp "$TMP/disk.raw" "$TMP/now.raw"
qemu-io -f raw -c "write -q -P 77 1M 64k" "$TMP/now.raw"
for image in "$STORE"/*.qcow2; do qemu-io -f qcow2 -c "write -q -P 77 1M 64k" "$image"; done
"$DEDUPSCAN" snapshot v1 "$STORE"/*.qcow2 >/dev/null
for image in "$STORE"/*.qcow2; do assert_eq ".dedupscan-pool/sealed/" "$(stands "$image")" "$image"; done

# ---- somebody is late ----

inode=$(stat -c %i "$STORE/b.qcow2")
open_late "$STORE/.dedupscan" "$inode" "$TMP/opened" &
opener=$!
capture strace -f -qq -e trace=clock_nanosleep,nanosleep -o "$TMP/naps" "$DEDUPSCAN" compact --no-idle --catalog "$CATALOG" \
	--method pool --apply --keep-originals 0 "$STORE"
assert_has "$output" "b.qcow2': somebody opened the image while it was replaced; all is as it was"
[ -e "$TMP/opened" ] || fail "nobody opened the original"
assert_eq "$inode" "$(stat -c %i "$STORE/b.qcow2")" "the inode at the path"
for image in "$STORE"/*.qcow2; do
	wanted=views
	[ "$image" != "$STORE/b.qcow2" ] || wanted=sealed
	assert_eq ".dedupscan-pool/$wanted/" "$(stands "$image")" "$image"
	qemu-img compare -q -U -f qcow2 -F raw "$image" "$TMP/now.raw" || fail "$image says something else"
done
assert_eq "" "$(find "$STORE/.dedupscan" -name '*.new')" "left in the workshop"

# ---- and gone ----

kill "$opener"
wait "$opener" 2>/dev/null || true
capture "$DEDUPSCAN" pool collect "$STORE"
assert_status 0
capture "$DEDUPSCAN" pool collect "$STORE"
compact
assert_status 0
for image in "$STORE"/*.qcow2; do
	assert_eq ".dedupscan-pool/views/" "$(stands "$image")" "$image"
	qemu-img compare -q -f qcow2 -F raw "$image" "$TMP/now.raw" || fail "$image says something else"
done
for _ in 1 2 3; do
	capture "$DEDUPSCAN" pool collect "$STORE"
	assert_status 0
done
assert_eq "" "$(ls "$POOL/sealed")" "sealed overlays that nobody needs"
capture "$DEDUPSCAN" pool check --read-data "$STORE"
assert_status 0
for image in "$STORE"/*.qcow2; do qemu-img compare -q -f qcow2 -F raw "$image" "$TMP/now.raw" || fail "$image differs"; done

# ---- a second is waited for once, not for each ----

# Naps of more than a quarter of a second, of all that sleeps between two looks.
python3 - "$TMP/naps" "$NR" <<'END'
import re, sys
naps = [int(s) + int(ns) / 1e9 for s, ns in re.findall(r"tv_sec=(\d+), tv_nsec=(\d+)\}", open(sys.argv[1], encoding="ascii").read())]
long = [n for n in naps if n > 0.25]
if len(long) > int(sys.argv[2]) // 2:
    sys.exit(f"{len(long)} images settled one after the other: {long}")
END
