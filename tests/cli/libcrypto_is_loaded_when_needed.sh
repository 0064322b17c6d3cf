#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Loading libcrypto takes longer than a clone: what makes no digests does without it, and what needs it says so when it is gone.
. tests/lib.sh
. tests/cli/lib_store.sh
require_tool qemu-img python3

capture "$DEDUPSCAN" verify --record "$TMP/digests" "$TMP/none"
grep -q 'built without libcrypto' <<<"$output" && skip "needs libcrypto"

random_file "$TMP/a.raw" 8M
for i in 1 2; do
	qemu-img convert -O qcow2 "$TMP/a.raw" "$STORE/$i.qcow2"
done
"$DEDUPSCAN" compact --no-idle --catalog "$CATALOG" --method pool --apply "$STORE" >/dev/null

# loaded ARGUMENT...: what of libcrypto the loader told of
loaded()
{
	LD_DEBUG=files "$DEDUPSCAN" "$@" 2>&1 | grep -o 'calling init:.*libcrypto.*' || true
}

assert_eq "" "$(loaded clone "$STORE/1.qcow2" "$STORE/clone.qcow2")" "clone"
assert_eq "" "$(loaded snapshot monday "$STORE/1.qcow2")" "snapshot"
assert_eq "" "$(loaded rollback --discard "$STORE/1.qcow2@monday")" "rollback"
library=$(loaded restore "$STORE/2.qcow2" "$TMP/restored.raw" --format raw)
assert_has "$library" 'libcrypto' # the control

require_root
require_tool unshare
unshare -m true 2>/dev/null || skip "no mount namespaces here"
library=$(readlink -f "${library#calling init: }")
: >"$TMP/nothing"

# without STATUS ARGUMENT...: while there is nothing in libcrypto's file
without()
{
	local wanted=$1
	shift
	# shellcheck disable=SC2016 # for the inner shell
	capture unshare -m sh -c 'mount --bind "$1" "$2" && shift 2 && exec "$@"' sh "$TMP/nothing" "$library" "$DEDUPSCAN" "$@"
	assert_status "$wanted" "$*"
}

without 3 restore "$STORE/2.qcow2" "$TMP/again.raw" --format raw
assert_has "$output" 'libcrypto, which makes digests, cannot be used: .*too short'
[ ! -e "$TMP/again.raw" ] || fail "a restored file without proof"
without 3 pool check "$STORE"
without 3 pool collect "$STORE"
without 0 clone "$STORE/2.qcow2" "$STORE/other.qcow2"
"$DEDUPSCAN" pool check "$STORE" >/dev/null || fail "the pool is damaged"
