#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# A backing file's data file is the backing file's; a data file that is replaced, or that changes while a scan is stopped, shows
# as it is now.
. tests/lib.sh

require_tool qemu-img qemu-io
store=$TMP/store
mkdir "$store"

totals()
{
	"$DEDUPSCAN" report --no-idle --csv-totals --catalog "$TMP/catalog" "$@" "$store" | tr -d '\r' |
		grep -E '^(nr_images|nonzero|distinct),' | tr '\n' ' '
}

write()
{
	qemu-io -c "$2" "$store/$1" >/dev/null
}

qemu-img create -q -f qcow2 -o "data_file=$store/base.data" "$store/base.qcow2" 8M
qemu-img create -q -f qcow2 -o "data_file=$store/over.data" -b base.qcow2 -F qcow2 "$store/over.qcow2"
write base.qcow2 'write -P 7 0 4M'
write over.qcow2 'write -P 8 0 2M'
wanted="nr_images,2 nonzero,6291456 distinct,8192 "
assert_eq "$wanted" "$(totals)" "two images with a data file each"

# The overlay's data file replaced by another file of other content.
head -c 8M /dev/urandom >"$store/new"
mv "$store/new" "$store/over.data"
assert_eq "nr_images,2 nonzero,6291456 distinct,2101248 " "$(totals)" "a replaced data file"

# A scan stopped half-way, the data zeroed meanwhile.
rm -rf "$TMP/catalog" "$store"/*
qemu-img create -q -f qcow2 -o "data_file=$store/m.data,data_file_raw=on" "$store/m.qcow2" 16M
write m.qcow2 'write -P 9 0 16M'
capture "$DEDUPSCAN" scan --no-idle --limit 4M --for 2s --jobs 1 --catalog "$TMP/catalog" "$store/m.qcow2" "$store"
assert_eq 75 "$status"
write m.qcow2 'write -P 0 0 16M'
assert_eq "nr_images,1 nonzero,0 distinct,0 " "$(totals)" "data that changed while the scan was stopped"
