#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# A VMDK in several files is one image: its extents are no images of their own, what changes one of them changes the image, and
# unchanged it costs a look at each file.
. tests/lib.sh

require_tool qemu-img qemu-io
store=$TMP/store
mkdir "$store"

scan()
{
	"$DEDUPSCAN" scan --no-idle --catalog "$TMP/catalog" "$@" 2>&1
}

totals()
{
	"$DEDUPSCAN" report --no-idle --csv-totals --catalog "$TMP/catalog" "$@" 2>"$TMP/err" | tr -d '\r' |
		grep -E '^(nr_images|nonzero),' | tr '\n' ' '
}

# Time stamps of this very moment would count as fresh.
settle()
{
	find "$store" -type f -exec touch -c -d '1 hour ago' {} +
	sleep 0.2
}

write_to()
{
	qemu-io -f raw -c "$2" "$1" >/dev/null
}

for kind in monolithicFlat twoGbMaxExtentFlat twoGbMaxExtentSparse; do
	rm -rf "$TMP/catalog" "${store:?}"/*
	qemu-img create -q -f vmdk -o "subformat=$kind" "$store/m.vmdk" 3G
	qemu-io -c 'write -P 7 0 3M' -c 'write -P 8 2500M 1M' "$store/m.vmdk" >/dev/null
	settle
	assert_eq "nr_images,1 nonzero,4194304 " "$(totals "$store")" "the first scan, $kind"
	assert_has "$(scan "$store")" '0 read, 1 unchanged'
	assert_eq "nr_images,1 nonzero,4194304 " "$(totals "$store/m.vmdk")" "$kind, named"

	# One of the extents changes.
	last=$(find "$store" -name 'm-*.vmdk' | sort | tail -n 1)
	if [[ $kind == *Flat ]]; then
		write_to "$last" 'write -P 9 16M 1M'
		settle
		assert_eq "nr_images,1 nonzero,5242880 " "$(totals "$store")" "a changed extent, $kind"
		assert_has "$(scan "$store")" '0 read, 1 unchanged'
	fi

	# One is being written to, as by a running machine: it may change at any moment.
	exec 7>>"$last"
	assert_has "$(scan "$store")" '1 read, 0 unchanged'
	exec 7>&-
	assert_has "$(scan "$store")" '1 read, 0 unchanged'

	# One is gone, and comes back.
	mv "$last" "$TMP/away"
	out=$(scan "$store") && fail "a lost extent is a failure"
	assert_has "$out" "m.vmdk': extent '"
	mv "$TMP/away" "$last"
	assert_eq "nr_images,1 " "$(totals "$store" | cut -d' ' -f1) " "an extent that is back, $kind"
done

# Without the descriptor the extents are nobody's: that is told, for they are in no figure.
rm -rf "$TMP/catalog" "${store:?}"/*
qemu-img create -q -f vmdk -o subformat=monolithicFlat "$store/m.vmdk" 8M
write_to "$store/m-flat.vmdk" 'write -P 7 0 3M'
rm "$store/m.vmdk"
out=$(scan "$store") && fail "a stray extent is a failure"
assert_has "$out" "m-flat.vmdk': it is a part of an image whose descriptor was not found"
assert_eq "nr_images,1 nonzero,3145728 " "$(totals --format raw "$store/m-flat.vmdk")" "read as raw"

# E2: nobody makes another user's file a part of an image of his.
rm -rf "$TMP/catalog" "${store:?}"/*
qemu-img create -q -f vmdk -o subformat=monolithicFlat "$store/m.vmdk" 8M
if [ "$(id -u)" -eq 0 ]; then
	chown 12345 "$store/m.vmdk"
	chown 12346 "$store/m-flat.vmdk"
	out=$(scan "$store") && fail "another user's extent is a failure"
	assert_has "$out" "belongs to user 12346, the image to user 12345"
	chown 12345 "$store/m-flat.vmdk"
	scan "$store" >/dev/null || fail "the own extent is refused"
fi
