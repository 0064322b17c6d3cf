#!/bin/bash
# E14: disks of 64 TiB with next to nothing in them cost next to nothing.
. tests/lib.sh
. tests/cli/lib_store.sh
require_tool qemu-img qemu-io

qemu-img create -q -f qcow2 -o cluster_size=2M "$STORE/big.qcow2" 64T
qemu-io -c 'write -P 7 0 64k' -c 'write -P 7 63T 64k' -c 'write -P 8 32T 4k' "$STORE/big.qcow2" >/dev/null
if truncate -s 15T "$STORE/big.raw" 2>/dev/null; then # as much as ext4 takes
	printf 'end' | dd of="$STORE/big.raw" bs=1 seek=$((14 << 40)) conv=notrunc status=none
fi
began=$(date +%s)
report --memory 40M --jobs 1 --json="$TMP/report.json" "$STORE"
assert_status 0
[ $(($(date +%s) - began)) -lt 20 ] || fail "it took $(($(date +%s) - began)) s"
[ "$(figure cost.peak_memory)" -lt $((40 << 20)) ] || fail "too much memory"
scan --memory 40M "$STORE"
assert_status 0
assert_has "$output" ' 0 B read|unchanged'
[ "$(du -sk "$CATALOG" | cut -f1)" -lt 2048 ] || fail "the catalog is large: $(du -sh "$CATALOG")"
assert_tidy
