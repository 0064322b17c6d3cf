#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Disks of terabytes with a few MiB in them enter a pool, are restored and leave it again in a time that follows their data.
. tests/lib.sh
. tests/cli/lib_store.sh
require_tool qemu-img qemu-io python3

TIB=$((1 << 40))
python3 - "$STORE" <<'END' || skip "this file system has no maps of extents, so holes are read"
import fcntl, os, struct, sys
with open(sys.argv[1] + "/probe", "wb") as f:
    fcntl.ioctl(f, 0xC020660B, bytearray(struct.pack("QQIIII", 0, 4096, 1, 0, 0, 0)))
END
rm "$STORE/probe"

# give_it_data IMAGE FORMAT SIZE [TIMES]: 3 MiB, so many times, up to the end
give_it_data()
{
	local size=$3 times=${4:-4} writes=() i
	for ((i = 1; i <= times; i++)); do
		# shellcheck disable=SC2017 # as it is meant
		writes+=(-c "write -q -s $TMP/data $((size / times * i / 65536 * 65536 - (3 << 20))) 3M")
	done
	qemu-io -f "$2" "${writes[@]}" "$1" >/dev/null
}

# in_time SECONDS COMMAND...
in_time()
{
	local began=$SECONDS limit=$1
	shift
	capture "$@"
	assert_status 0 "$*"
	echo "$((SECONDS - began)) s: ${*:2:3}"
	[ $((SECONDS - began)) -le "$limit" ] || fail "it took $((SECONDS - began)) s: $*"
}

# says IMAGE SIZE
says()
{
	qemu-img compare -q -f raw -F qcow2 "$TMP/$2.raw" "$1" || fail "$1 has other bytes"
}

compact=("$DEDUPSCAN" compact --no-idle --catalog "$CATALOG" --method pool --to-qcow2 --apply --keep-originals 0)

random_file "$TMP/data" 3M
sizes=()
for size in $((100 << 30)) $TIB $((8 * TIB)); do
	truncate -s "$size" "$STORE/$size.raw" 2>/dev/null || continue # as much as the file system takes
	# shellcheck disable=SC2017 # as it is meant
	give_it_data "$STORE/$size.raw" raw "$size" $((4 + size / TIB * 4)) # its tables in the pool grow with it
	cp --sparse=always "$STORE/$size.raw" "$TMP/$size.raw"
	sizes+=("$size")
done
qemu-img create -q -f qcow2 -o preallocation=metadata "$STORE/thick.qcow2" 1T
give_it_data "$STORE/thick.qcow2" qcow2 $TIB 8
qemu-img create -q -f vhdx -o subformat=fixed "$STORE/thick.vhdx" 1T
give_it_data "$STORE/thick.vhdx" vhdx $TIB 8
settle

in_time 60 "${compact[@]}" "$STORE"
assert_has_not "$output" "(skipped|failed)"
for size in "${sizes[@]}"; do
	says "$STORE/$size.raw" "$size"
done
says "$STORE/thick.qcow2" $TIB
says "$STORE/thick.vhdx" $TIB

in_time 60 "$DEDUPSCAN" expand --keep-originals 0 "$STORE/thick.qcow2"
says "$STORE/thick.qcow2" $TIB
in_time 60 "$DEDUPSCAN" restore "$STORE/thick.vhdx" "$TMP/restored.raw"
qemu-img compare -q -f raw -F raw "$TMP/$TIB.raw" "$TMP/restored.raw" || fail "what was restored has other bytes"
