#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# An external data file belongs to its image, in whichever order the two are met, and is an image of its own again when
# its image is gone.
. tests/lib.sh

require_tool qemu-img qemu-io
store=$TMP/store
mkdir "$store"

report()
{
	"$DEDUPSCAN" report --no-idle --csv-totals --catalog "$TMP/catalog" "$store" | tr -d '\r' | grep -E '^(nr_images|nonzero),'
}

for data in a.data z.data; do
	rm -rf "$TMP/catalog" "$store"/*
	qemu-img create -q -f qcow2 -o "data_file=$store/$data" "$store/m.qcow2" 8M
	qemu-io -c 'write -P 7 0 3M' "$store/m.qcow2" >/dev/null
	wanted="nr_images,1
nonzero,3145728"
	assert_eq "$wanted" "$(report)" "the first scan, with $data"
	assert_eq "$wanted" "$(report)" "the second scan, with $data"
	rm "$store/m.qcow2"
	assert_eq "$wanted" "$(report)" "the data file alone, $data"
done
