#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# A report without a scan says when images have not been read yet, even after other directories were scanned to the end.
. tests/lib.sh

mkdir "$TMP/a" "$TMP/b"
head -c 20M /dev/urandom >"$TMP/a/1.raw"
head -c 1M /dev/urandom >"$TMP/b/2.raw"

complete()
{
	"$DEDUPSCAN" report --no-scan --no-idle --csv-totals --catalog "$TMP/catalog" "$1" | tr -d '\r' | grep '^complete,'
}

capture "$DEDUPSCAN" scan --no-idle --limit 1M --for 1s --catalog "$TMP/catalog" "$TMP/a"
assert_eq 75 "$status"
capture "$DEDUPSCAN" scan --no-idle --catalog "$TMP/catalog" "$TMP/b"
assert_eq 0 "$status"
assert_eq complete,false "$(complete "$TMP/a")" "the directory that was not scanned to its end"
assert_eq complete,true "$(complete "$TMP/b")" "the other one"
