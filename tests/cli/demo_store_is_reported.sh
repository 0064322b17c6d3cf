#!/bin/bash
# The report of the demo store: the damaged image is named, the rest is read, and a template packed again holds nothing new.
. tests/lib.sh
require_tool qemu-img qemu-io mke2fs debugfs sfdisk

contrib/make-demo-store "$TMP/store" --small
capture "$DEDUPSCAN" report --catalog "$TMP/catalog" "$TMP/store"
assert_eq 1 "$status" "exit status with a damaged image"
assert_has "$output" '^failed .*lab/interrupted-copy.qcow2: .*L1 table'
assert_has "$output" '^qcow2 .* 0 B .*templates/golden-compressed.qcow2$'
assert_eq 12 "$(grep -cE '^(raw|qcow2|vmdk|vhdx) ' <<<"$output")" "images read"

rm "$TMP/store/lab/interrupted-copy.qcow2"
capture "$DEDUPSCAN" report --catalog "$TMP/catalog" "$TMP/store"
assert_eq 0 "$status" "exit status without it"
assert_has_not "$output" 'interrupted-copy'
