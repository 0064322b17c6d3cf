#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# A scan of many new images needs no more open files than one of a few.
. tests/lib.sh

mkdir "$TMP/store"
for i in $(seq 60); do
	head -c 1M /dev/urandom >"$TMP/store/$i.raw"
done
ulimit -n 48
capture "$DEDUPSCAN" scan --no-idle --catalog "$TMP/catalog" "$TMP/store"
printf '%s\n' "$output"
assert_eq 0 "$status"
assert_has "$output" '^60.0 MiB not zero, 60.0 MiB of it distinct'
