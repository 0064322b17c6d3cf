#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Images that come when the pool has most of what they hold: the plan knows that by blocks, and by runs of them.
. tests/lib.sh
. tests/cli/lib_store.sh
require_tool qemu-img python3

SIZE=$((64 << 20))
POOL=$STORE/.dedupscan-pool

# late NAME PYTHON: an image that is as the golden one but for the blocks b of which that is true
late()
{
	python3 - "$TMP/golden.raw" "$TMP/late.raw" "$2" <<'END'
import os, sys
disk, changed = bytearray(open(sys.argv[1], "rb").read()), eval("lambda b: " + sys.argv[3])
for b in range(len(disk) // 4096):
    if changed(b):
        disk[b * 4096 : b * 4096 + 4096] = os.urandom(4096)
open(sys.argv[2], "wb").write(disk)
END
	qemu-img convert -f raw -O qcow2 "$TMP/late.raw" "$STORE/$1.qcow2"
}

compact()
{
	capture "$DEDUPSCAN" compact --no-idle --catalog "$CATALOG" --method pool --keep-originals 0 "${options[@]}" "$@" "$STORE"
	assert_status 0 "compact $*"
}

# planned: bytes that the one step would save
planned()
{
	compact --json
	python3 -c 'import json, sys; p = json.load(sys.stdin); print(sum(s["saving"] for s in p["steps"]))' <<<"$output"
}

disk_space()
{
	sync -f "$STORE"
	du -sB1 "$STORE" | cut -f1
}

# near BYTES BYTES: to 3 % of an image
near()
{
	[ $((($1 - $2) * 100)) -le $((3 * SIZE)) ] || return 1
	[ $((($2 - $1) * 100)) -le $((3 * SIZE)) ]
}

# expect NAME PERCENT PYTHON: the plan says so, and so it is; of 0 it makes no step
expect()
{
	local before plan saved
	late "$1" "$3"
	settle
	plan=$(planned)
	before=$(disk_space)
	compact --apply
	saved=$((before - $(disk_space)))
	echo "$1: $((plan >> 10)) KiB planned, $((saved >> 10)) KiB saved"
	near "$plan" $(($2 * SIZE / 100)) || fail "$1: the plan says $plan bytes, not $2 %"
	near "$plan" "$saved" || fail "$1: the plan says $plan bytes, and $saved were saved"
	rm "$STORE/$1.qcow2"
}

options=()
random_file "$TMP/golden.raw" "$SIZE"
for name in golden clone; do
	qemu-img convert -f raw -O qcow2 "$TMP/golden.raw" "$STORE/$name.qcow2"
done
compact --apply
[ -d "$POOL" ] || fail "there is no pool"

expect a_block_of_each_segment 99 'b % 512 == 300'
expect half_of_it_in_long_runs 50 'b % 64 < 32'
expect half_of_it_in_short_runs 0 'b % 4 < 2'
expect another_one 0 'True'

# Two that are alike where the pool has nothing, too.
late twin 'b % 512 < 256'
cp "$STORE/twin.qcow2" "$STORE/second.qcow2"
settle
plan=$(planned)
near "$plan" $((SIZE * 3 / 2)) || fail "of twins $plan bytes are to be saved"

# Blocks that are all over a disk are short runs by themselves; a copy of the disk has nothing that is new for all that.
rm "$STORE/twin.qcow2" "$STORE/second.qcow2"
late often True
python3 - "$TMP/late.raw" <<'END'
import sys
with open(sys.argv[1], "r+b") as f:
    for at in range(0, 64 << 20, 8 * 4096):
        f.seek(at)
        f.write(b"often..." * 512)
END
for name in often copy; do
	qemu-img convert -f raw -O qcow2 "$TMP/late.raw" "$STORE/$name.qcow2"
done
settle
plan=$(planned)
before=$(disk_space)
compact --apply
saved=$((before - $(disk_space)))
echo "often: $((plan >> 10)) KiB planned, $((saved >> 10)) KiB saved"
near "$plan" "$SIZE" || fail "of a disk and its copy $plan bytes are to be saved"
near "$plan" "$saved" || fail "of a disk and its copy $plan bytes were to be saved, and $saved were"

# Whoever has no need to share by runs gets what the pool has of short ones.
rm "$STORE/often.qcow2" "$STORE/copy.qcow2"
options=(--min-run 4K)
expect half_of_it_in_short_runs 50 'b % 4 < 2'
