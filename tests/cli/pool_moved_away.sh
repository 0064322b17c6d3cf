#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# An image is moved away, and another one takes its path and has versions, too, before the pool hears of the move: each has its
# own ones then.
. tests/lib.sh
. tests/cli/lib_store.sh
require_tool qemu-img qemu-io

compact()
{
	capture "$DEDUPSCAN" compact --no-idle --catalog "$CATALOG" --method pool --apply --keep-originals 0 "$STORE"
	assert_status 0
}

# ours VERB ARGUMENT...: must succeed
ours()
{
	capture "$DEDUPSCAN" "$@"
	assert_status 0 "$*"
}

# put PATTERN IMAGE: a guest writes
put()
{
	qemu-io -f qcow2 -c "write -q -P $1 1M 64k" "$2"
}

# has PATTERN IMAGE: a guest reads
has()
{
	qemu-io -r -f qcow2 -c "read -q -P $1 1M 64k" "$2" | grep -q failed && fail "$2 does not say $1"
	return 0
}

listed()
{
	"$DEDUPSCAN" list "$STORE" | sed -E "1d; s,.* $STORE/,,; s, \(sealed\),," | sort | xargs
}

random_file "$TMP/disk.raw" 4M
for n in a b; do qemu-img convert -f raw -O qcow2 "$TMP/disk.raw" "$STORE/$n.qcow2"; done
settle
compact
for folded in no yes; do
	put 1 "$STORE/a.qcow2"
	ours snapshot v1 "$STORE/a.qcow2"
	now=1
	[ "$folded" = no ] || { put 2 "$STORE/a.qcow2"; now=2; }
	mv "$STORE/a.qcow2" "$STORE/c.qcow2"
	ours clone "$STORE/b.qcow2" "$STORE/a.qcow2"
	put 3 "$STORE/a.qcow2"
	ours snapshot v2 "$STORE/a.qcow2"
	[ "$folded" = no ] || compact
	ours snapshot v3 "$STORE/c.qcow2"
	assert_eq "a.qcow2 a.qcow2@v2 b.qcow2 c.qcow2 c.qcow2@v1 c.qcow2@v3" "$(listed)" "who has which versions (folded: $folded)"
	has "$now" "$STORE/c.qcow2"
	has 3 "$STORE/a.qcow2"
	ours rollback --discard "$STORE/c.qcow2@v1"
	has 1 "$STORE/c.qcow2"
	ours rollback --discard "$STORE/a.qcow2@v2"
	has 3 "$STORE/a.qcow2"
	capture "$DEDUPSCAN" rollback "$STORE/a.qcow2@v1"
	assert_status 2 "a version of an image that is elsewhere"
	ours pool check --read-data "$STORE"

	# The same again, from a new image.
	for v in a.qcow2@v2 c.qcow2@v1 c.qcow2@v3; do ours delete "$STORE/$v"; done
	rm "$STORE/a.qcow2" "$STORE/c.qcow2"
	for _ in 1 2 3; do ours pool collect --drop-missing "$STORE"; done
	ours clone "$STORE/b.qcow2" "$STORE/a.qcow2"
done
