#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# --format holds for this scan: what was read in another way is read again, both ways.
. tests/lib.sh

require_tool qemu-img
mkdir "$TMP/store"
qemu-img create -q -f qcow2 "$TMP/store/a.qcow2" 64M
echo "not a disk" >"$TMP/store/README"

formats()
{
	"$DEDUPSCAN" report --no-idle --csv --catalog "$TMP/catalog" "$@" "$TMP/store" | tr -d '\r' | sed 1d |
		grep -oE '(README|a.qcow2).*(raw|qcow2)|(raw|qcow2).*(README|a.qcow2)' | grep -oE '^(raw|qcow2)|(raw|qcow2)$' | sort
}

assert_eq qcow2 "$(formats)" "as found out"
assert_eq $'raw\nraw' "$(formats --format raw)" "as told"
assert_eq qcow2 "$(formats)" "as found out again"
